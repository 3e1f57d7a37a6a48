"""BERT against transformers' BertForPreTraining and its relatives: outputs, gradients, and the way back."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.nn import functional as F

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from safetensors.torch import load_file, save_file  # noqa: E402

from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.hub import bert  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.methods.contrastive.bert import IGNORED  # noqa: E402

DTYPES = [torch.float32, torch.float64]
TINY = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 16,
}


@dataclass
class Case:
    """One configuration; what it leaves out is a small default."""

    config: dict[str, Any] = field(default_factory=dict)
    kind: str = "BertForPreTraining"
    batch: int = 4
    length: int = 11

    def build(self) -> torch.nn.Module:
        return getattr(transformers, self.kind)(transformers.BertConfig(**(TINY | self.config)))


CASES = {
    "tiny": Case(),
    "full-length": Case({"num_attention_heads": 1, "max_position_embeddings": 9}, length=9),
    "tanh-gelu": Case({"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "num_hidden_layers": 3}, batch=2),
    "three-segments": Case({"type_vocab_size": 3, "hidden_size": 32, "num_attention_heads": 4, "pad_token_id": 7}),
    "one-block": Case({"num_hidden_layers": 1, "intermediate_size": 7}),
    "next-sentence": Case(kind="BertForNextSentencePrediction"),
    "masked-lm": Case(kind="BertForMaskedLM"),
    "encoder": Case(kind="BertModel", batch=1),
}


def make_batch(case, config):
    """Pairs of different lengths with segments and padding, hidden tokens, relations."""
    generator = torch.Generator().manual_seed(case.length)
    shape = (case.batch, case.length)
    tokens = torch.randint(8, config.vocab_size, shape, generator=generator)
    segments = torch.zeros(shape, dtype=torch.int64)
    for row in range(case.batch):
        used = case.length if row == 0 else int(torch.randint(3, case.length + 1, (1,), generator=generator))
        segments[row, used // 2 : used] = config.type_vocab_size - 1
        tokens[row, used:] = config.pad_token_id
    targets = torch.where(
        (torch.rand(shape, generator=generator) < 0.3) & (tokens != config.pad_token_id), tokens, IGNORED
    )
    targets[0, 1] = tokens[0, 1]
    relation = torch.randint(2, (case.batch,), generator=generator)
    return {"tokens": tokens, "segments": segments, "targets": targets, "relation": relation}


@pytest.fixture
def prepare(tmp_path, randomise):
    """Build a reference of random weights, save and load it as published; return both and a batch."""

    def build(case, dtype=torch.float32, own_weights=False):
        torch.manual_seed(case.length)
        reference = case.build().to(dtype).eval()
        if not own_weights:
            randomise(reference, seed=case.length)
        reference.save_pretrained(tmp_path / "published")
        ours = load(tmp_path / "published", processors={})
        return reference, ours, make_batch(case, reference.config)

    return build


def theirs_of(reference, batch):
    """Run the reference; return its outputs by what they are, and the mean losses summed."""
    base = getattr(reference, "bert", reference)
    mask = (batch["tokens"] != reference.config.pad_token_id).long()
    arguments = {"input_ids": batch["tokens"], "token_type_ids": batch["segments"], "attention_mask": mask}
    out = reference(**arguments, output_hidden_states=True)
    hidden = out.hidden_states[-1]
    named, loss = {"hidden": hidden}, 0.0
    if base.pooler is not None:
        named["pooled"] = base.pooler(hidden)
    if hasattr(reference, "cls"):
        tokens = getattr(out, "prediction_logits", out.logits if "Masked" in type(reference).__name__ else None)
        if tokens is not None:
            named["tokens"] = tokens
            loss = loss + F.cross_entropy(tokens.flatten(0, 1), batch["targets"].flatten())
        relation = getattr(out, "seq_relationship_logits", out.logits if "Next" in type(reference).__name__ else None)
        if relation is not None:
            named["relation"] = relation
            loss = loss + F.cross_entropy(relation, batch["relation"])
    return named, loss


def ours_of(model, batch):
    """Run ours; return the same outputs."""
    hidden = model.encoder(batch["tokens"], batch["segments"])
    named = {"hidden": hidden}
    if model.pooler is not None:
        named["pooled"] = model.pooler(hidden[:, 0])
    if model.mlm is not None:
        named["tokens"] = model.token_logits(hidden)
    if model.nsp is not None:
        named["relation"] = model.relation_logits(hidden)
    return {k: v.detach() for k, v in named.items()}


def detached(named):
    return {k: v.detach() for k, v in named.items()}


def check_gradients(reference, ours, batch, agree, name):
    wanted, loss = theirs_of(reference, batch)
    agree(ours_of(ours, batch), detached(wanted), f"{name} outputs")
    found = ours.pretraining_loss(batch["tokens"], batch["segments"], batch["targets"], batch["relation"]).total
    agree({"loss": found.detach().to(loss.dtype)}, {"loss": loss.detach()}, f"{name} loss")
    loss.backward()
    found.backward()
    gradients = {k: p.grad for k, p in ours.named_parameters() if p.grad is not None}
    unused = {k for k, p in ours.named_parameters() if p.grad is None}
    assert all(k.startswith("pooler") for k in unused), unused  # a pooler that no head reads
    published = bert.key_map().to_published(gradients)
    agree(published, {k: p.grad for k, p in reference.named_parameters() if p.grad is not None}, f"{name} gradients")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in CASES if n != "encoder"])
def test_outputs_and_gradients_agree(name, dtype, prepare, agree):
    """Published weights give the same vectors, logits and loss, and the gradient of every parameter."""
    check_gradients(*prepare(CASES[name], dtype), agree, name)


def test_the_base_configuration_agrees(prepare, agree):
    """BERT-base itself: 12 layers of width 768 and the full vocabulary, with the gradient of the pre-training loss."""
    base = {
        "vocab_size": 30522, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 512,
    }  # fmt: skip
    reference, ours, batch = prepare(Case(base, batch=2, length=13), own_weights=True)  # drawing 110 M others is slow
    check_gradients(reference, ours, batch, agree, "base")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_encoder_alone_agrees(dtype, prepare, agree):
    """A BertModel folder, whose names lack the first part, has no heads and computes the same."""
    reference, ours, batch = prepare(CASES["encoder"], dtype)
    assert not ours.config.mlm
    assert not ours.config.nsp
    agree(ours_of(ours, batch), detached(theirs_of(reference, batch)[0]), "encoder")


def test_labels_mean_what_transformers_says(prepare):
    """transformers' own loss, from its own labels: 0 for the next sentence, -100 for what is not predicted."""
    reference, ours, batch = prepare(CASES["tiny"])
    mask = (batch["tokens"] != 0).long()
    wanted = reference(
        input_ids=batch["tokens"], token_type_ids=batch["segments"], attention_mask=mask,
        labels=batch["targets"], next_sentence_label=batch["relation"],
    ).loss.detach()  # fmt: skip
    found = ours.pretraining_loss(batch["tokens"], batch["segments"], batch["targets"], batch["relation"])
    assert found.total.item() == pytest.approx(float(wanted), rel=1e-6)
    assert found.total.item() == pytest.approx(float(found.parts["mlm"] + found.parts["nsp"]), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["tiny", "tanh-gelu", "three-segments", "next-sentence", "masked-lm", "encoder"])
def test_what_we_export_agrees_in_transformers(name, dtype, tmp_path, prepare, agree):
    """transformers loads our export with no key missing or left over, and computes what we compute."""
    reference, ours, batch = prepare(CASES[name], dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    export(ours, tmp_path / "export")
    loaded, info = type(reference).from_pretrained(tmp_path / "export", output_loading_info=True, dtype=dtype)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    agree(ours_of(ours, batch), detached(theirs_of(loaded.eval(), batch)[0]), f"{name} export")


@pytest.mark.parametrize("name", ["tiny", "encoder"])
def test_every_stored_number_comes_back(name, tmp_path, prepare):
    """Load then export is the identity on the published tensors, to the bit."""
    _, ours, _ = prepare(CASES[name])
    export(ours, tmp_path / "export")
    before = load_file(tmp_path / "published" / "model.safetensors")
    after = load_file(tmp_path / "export" / "model.safetensors")
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[k], after[k]) for k in before)


def rewrite(folder, change):
    """Change a published folder's tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def test_the_first_published_names_agree(tmp_path, prepare, agree):
    """gamma and beta, stored position indices, and stored copies of the tied decoder and its bias."""
    reference, _, batch = prepare(CASES["tiny"])

    def age(tensors):
        old = {}
        for k, v in tensors.items():
            k = k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            old[k] = v
        old["bert.embeddings.position_ids"] = torch.arange(16)[None]
        old["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
        old["cls.predictions.decoder.bias"] = old.pop("cls.predictions.bias")
        return old

    rewrite(tmp_path / "published", age)
    ours = load(tmp_path / "published", processors={})
    agree(ours_of(ours, batch), detached(theirs_of(reference, batch)[0]), "first names")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: {k: v for k, v in t.items() if "layer.1.output.dense.bias" not in k},
            "layer.1.output.dense.bias",
        ),
        (lambda t: {**t, "bert.encoder.layer.2.output.dense.bias": torch.zeros(24)}, "layer.2"),
        (lambda t: {**t, "classifier.weight": torch.zeros(2, 24)}, "classifier.weight"),
        (lambda t: {**t, "bert.pooler.dense.bias": torch.zeros(5)}, r"pooler.dense.bias should be \[24\]"),
        (lambda t: {**t, "cls.predictions.decoder.weight": torch.zeros(60, 24)}, "not tied"),
    ],
)
def test_loading_is_strict(change, said, tmp_path, prepare):
    """A key that is missing, left over or of another shape, and an untied decoder, are named."""
    prepare(CASES["tiny"])
    rewrite(tmp_path / "published", change)
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / "published", processors={})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"is_decoder": True}, "decoder"),
        ({"hidden_act": "relu"}, "relu"),
        ({"position_embedding_type": "rotary"}, "rotary"),
    ],
)
def test_what_this_bert_has_not_is_refused(change, said, tmp_path, prepare):
    """A decoder, another activation or other positions are an error that names them."""
    prepare(CASES["tiny"])
    file = tmp_path / "published" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path / "published", processors={})


def test_what_a_config_leaves_out_is_what_transformers_fills_in():
    """Old config.json files state only what differs from the defaults, which are transformers'."""
    assert bert.read_config({}) == bert.read_config(transformers.BertConfig().to_dict())
    short = {"hidden_size": 48, "num_attention_heads": 4}
    assert bert.read_config(short) == bert.read_config(transformers.BertConfig(**short).to_dict())
