"""GPT-2 and Llama as transformers publishes them: logits, gradients, greedy tokens, beams, tokenizers, and back again."""

from __future__ import annotations

import json

import pytest
import torch

transformers = pytest.importorskip("transformers")

from intermodal.core.errors import CheckpointError, DataError  # noqa: E402
from intermodal.decode import rules  # noqa: E402
from intermodal.decode.beam import beam_search  # noqa: E402
from intermodal.decode.generate import generate  # noqa: E402
from intermodal.decode.prompts import side_by_side  # noqa: E402
from intermodal.decode.sampling import Sampling, warp  # noqa: E402
from intermodal.decode.stepper import TransformerStepper  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from published_language import GPT2, LLAMA, PAD, TEXTS, WORDS, reference  # noqa: E402

CASES = [("gpt2", name) for name in GPT2] + [("llama", name) for name in LLAMA]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def pair(request, tmp_path_factory):
    """Return the reference, its tokenizer, and ours as loaded from what it saves."""
    theirs, tokenizer = reference(*request.param)
    folder = tmp_path_factory.mktemp("published")
    theirs.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return theirs, tokenizer, load(folder)


@pytest.fixture
def exact(monkeypatch):
    """Let transformers' Llama compute its norms and rotations in double, which it does in single precision always."""

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    def rotation(self, x, position_ids):
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float64) / self.config.head_dim
        said = self.config.rope_parameters
        speed = said["rope_theta"] ** -half
        if said["rope_type"] == "linear":
            speed = speed / said["factor"]
        if said["rope_type"] == "llama3":
            speed = self.inv_freq.double()  # as published: blended in single precision
        angle = position_ids[..., None].double() * speed
        both = torch.cat([angle, angle], -1)
        return both.cos().to(x.dtype), both.sin().to(x.dtype)

    from transformers.models.llama import modeling_llama

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", rotation)


def tokens(*shape, seed=0):
    return torch.randint(2, WORDS, shape, generator=torch.Generator().manual_seed(seed))


def close(found, wanted, bound):
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max() / wanted.abs().max()) < bound


@torch.no_grad()
def test_logits_are_theirs(pair):
    theirs, _, ours = pair
    read = tokens(3, 40)
    close(ours.network(read), theirs(read).logits, 1e-4)


@torch.no_grad()
@pytest.mark.parametrize("case", [c for c in CASES if c[1] != "3.1"], ids=lambda case: f"{case[0]}-{case[1]}")
def test_in_double_precision_they_are_theirs_to_the_last_digits(case, exact, tmp_path):
    theirs, _ = reference(*case)
    theirs.save_pretrained(tmp_path)
    ours, read = load(tmp_path, processors={}).double(), tokens(2, 40)
    close(ours.network(read), theirs.double()(read).logits, 1e-9)


def test_the_loss_and_its_gradients_are_theirs(pair):
    theirs, _, ours = pair
    batch = ours.prepare({"text": torch.stack([ours.text.encode(text) for text in TEXTS[:3]])})
    read, real = batch["text"], ours.text.real(batch["text"])
    total = ours.loss(batch).total
    total.backward()
    wanted = theirs(read, labels=read.masked_fill(~real, -100)).loss
    wanted.backward()
    assert total.item() == pytest.approx(wanted.item(), rel=1e-5)
    from intermodal.hub.language import write_config

    _, keys = write_config(ours)
    gradients = keys.to_published({name: p.grad for name, p in ours.named_parameters()})
    named = dict(theirs.named_parameters())
    assert set(named) <= set(gradients)
    for name, parameter in named.items():
        close(gradients[name], parameter.grad, 1e-3 if parameter.grad.abs().max() < 1e-4 else 1e-4)
    ours.zero_grad()
    theirs.zero_grad()


@torch.no_grad()
def test_a_padded_batch_of_unequal_prompts_is_theirs(pair):
    theirs, _, ours = pair
    prompts = [tokens(length, seed=length) for length in (9, 4, 1)]
    prompt, padding = side_by_side(prompts)
    mask = torch.arange(9) >= padding[:, None]
    wanted = theirs(prompt, attention_mask=mask.long(), position_ids=(mask.cumsum(1) - 1).clamp(min=0)).logits
    found = ours.network(prompt, padding_B=padding)
    close(found[mask], wanted[mask], 1e-4)
    made = theirs.generate(prompt, attention_mask=mask.long(), do_sample=False, max_new_tokens=20, pad_token_id=PAD)
    stepper = TransformerStepper(ours.network, padding_B=padding)
    found = generate(stepper, prompt, 20, end=ours.ends)
    for row in range(3):
        assert until(found[row], ours) == until(made[row, 9:], ours)


def until(row, ours):
    ids = row.tolist()
    return ids[: ids.index(ours.text.eos_id) + 1] if ours.text.eos_id in ids else ids


@torch.no_grad()
@pytest.mark.parametrize(("beams", "penalty"), [(2, 1.0), (4, 0.0), (3, -1.0), (5, 2.0)])
def test_beams_are_theirs_token_for_token(pair, beams, penalty):
    """All beams that are returned, with two ends, and the scores; prompts of different lengths."""
    theirs, _, ours = pair
    prompt, padding = side_by_side([tokens(6, seed=1), tokens(3, seed=2)])
    mask = (torch.arange(6) >= padding[:, None]).long()
    ends = [ours.text.eos_id, *range(40, 70)]
    wanted = theirs.generate(
        prompt,
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=beams,
        length_penalty=penalty,
        do_sample=False,
        max_new_tokens=14,
        eos_token_id=ends,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
    )
    stepper = TransformerStepper(ours.network, padding_B=padding)
    found = beam_search(stepper, prompt, 14, beams=beams, end=ends, length_penalty=penalty)
    flat = [beam for row in found for beam in row]
    assert len(flat) == 2 * beams
    assert penalty != 0 or min(len(beam.tokens) for beam in flat) < 14, "some end early"
    for beam, row, score in zip(flat, wanted.sequences[:, 6:], wanted.sequences_scores, strict=True):
        assert beam.tokens.tolist() == row[: len(beam.tokens)].tolist() and bool((row[len(beam.tokens) :] == PAD).all())
        assert beam.score == pytest.approx(float(score), rel=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    ("name", "theirs_said", "rule"),
    [
        ("repetition", {"repetition_penalty": 1.7}, lambda p, e: rules.penalised(1.7, p)),
        ("runs", {"no_repeat_ngram_size": 2}, lambda p, e: rules.without_repeated(2, p)),
        ("least", {"min_new_tokens": 9}, lambda p, e: rules.at_least(9, e)),
        ("banned", {"suppress_tokens": list(range(20, 150))}, lambda p, e: rules.banned(range(20, 150))),
    ],
)
def test_rules_are_theirs(pair, beams, name, theirs_said, rule):
    theirs, _, ours = pair
    prompt = tokens(2, 5, seed=4)
    ends = [ours.text.eos_id, *range(40, 60)]
    about = {"attention_mask": torch.ones_like(prompt), "do_sample": False, "max_new_tokens": 12, "pad_token_id": PAD}
    wanted = theirs.generate(prompt, num_beams=beams, eos_token_id=ends, **about, **theirs_said)[:, 5:]
    stepper, chosen = TransformerStepper(ours.network), rule(prompt, ends)
    if beams > 1:
        found = [row[0].tokens for row in beam_search(stepper, prompt, 12, beams=beams, end=ends, rule=chosen)]
    else:
        made = generate(stepper, prompt, 12, end=ends, rule=chosen)
        found = [row[: next((i + 1 for i, t in enumerate(row.tolist()) if t in ends), len(row))] for row in made]
    for row, tokens_N in zip(wanted, found, strict=True):
        assert tokens_N.tolist() == row[: len(tokens_N)].tolist() and bool((row[len(tokens_N) :] == PAD).all())


@torch.no_grad()
def test_stopping_early_is_theirs(pair):
    theirs, _, ours = pair
    prompt, ends = tokens(2, 5, seed=6), [ours.text.eos_id, *range(40, 120)]
    about = {"attention_mask": torch.ones_like(prompt), "max_new_tokens": 12, "pad_token_id": PAD, "do_sample": False}
    wanted = theirs.generate(prompt, num_beams=4, early_stopping=True, length_penalty=2.0, eos_token_id=ends, **about)
    found = beam_search(TransformerStepper(ours.network), prompt, 12, beams=4, end=ends, length_penalty=2.0, early=True)
    for row, beams in zip(wanted[:, 5:], found, strict=True):
        assert beams[0].tokens.tolist() == row[: len(beams[0].tokens)].tolist()


@torch.no_grad()
def test_the_distribution_that_is_drawn_from_is_theirs(pair):
    theirs, _, ours = pair
    logits = ours.network(tokens(4, 6))[:, -1]
    for sampling in (Sampling(temperature=0.7), Sampling(top_k=7), Sampling(top_p=0.6), Sampling(top_k=20, top_p=0.8)):
        settings = transformers.GenerationConfig(
            do_sample=True, temperature=sampling.temperature, top_k=sampling.top_k or 0, top_p=sampling.top_p or 1.0
        )
        wanted = theirs._get_logits_processor(settings)(None, logits.clone())
        assert torch.allclose(warp(logits, sampling).softmax(-1), wanted.softmax(-1), atol=1e-6)


def test_tokenizers_cut_alike(pair):
    _, tokenizer, ours = pair
    for text in [*TEXTS[:3], "unseen words: 東京 🙂", " two  spaces", ""]:
        found, wanted = ours.text.prompt(text), tokenizer(text).input_ids
        assert found == (wanted or [ours.text.eos_id])
        assert ours.text.encode(text)[: len(found) + 1].tolist() == [*found, tokenizer.eos_token_id]
        special = 0 if ours.text.bos_id is None else 1
        assert ours.text.tokenizer.decode(found[special:] if wanted else []) == text


def test_written_text_is_theirs_whole_and_in_pieces(pair):
    theirs, tokenizer, ours = pair
    for text in ("The old", "A red sq"):
        inputs = tokenizer(text, return_tensors="pt")
        made = theirs.generate(
            inputs.input_ids,
            attention_mask=inputs.attention_mask,
            do_sample=False,
            max_new_tokens=15,
            pad_token_id=PAD,
        )
        wanted = tokenizer.decode(made[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert ours.write([text], 15) == [wanted]
        pieces = list(ours.stream(text, 15))
        assert "".join(pieces) == wanted
    with pytest.raises(DataError, match="shorten the prompt"):
        ours.write(["far too long " * 40])


def test_back_to_the_published_layout(pair, tmp_path):
    theirs, tokenizer, ours = pair
    export(ours, tmp_path / "out")
    again = type(theirs).from_pretrained(tmp_path / "out").eval()
    read = tokens(2, 12)
    with torch.no_grad():
        assert torch.equal(again(read).logits, theirs(read).logits)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS[:3]:
        assert words(text).input_ids == tokenizer(text).input_ids
    assert words.eos_token_id == tokenizer.eos_token_id
    ours.save(tmp_path / "own")
    assert load(tmp_path / "own").write(["The"], 9) == ours.write(["The"], 9)
    assert load(tmp_path / "out").config == ours.config


def test_shards_and_old_names_are_read(tmp_path):
    theirs, _ = reference("llama", "grouped")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    read = tokens(2, 12)
    with torch.no_grad():
        close(load(tmp_path / "shards", processors={}).network(read), theirs(read).logits, 1e-4)
    settings = tmp_path / "shards" / "config.json"
    data = json.loads(settings.read_text())
    scaling = {"type": "linear", "factor": 2.0}
    settings.write_text(json.dumps({**data, "rope_parameters": None, "rope_theta": 55.0, "rope_scaling": scaling}))
    network = load(tmp_path / "shards", processors={}).config.network
    assert network.rotary.theta == 55.0 and network.rotary.factor == 2.0

    theirs, tokenizer = reference("gpt2", "small")
    theirs.transformer.save_pretrained(tmp_path / "bare")
    tokenizer.backend_tokenizer.model.save(str(tmp_path / "bare"))
    data = json.loads((tmp_path / "bare" / "config.json").read_text())
    (tmp_path / "bare" / "added_tokens.json").write_text(json.dumps({"<|endoftext|>": 0}))
    assert data["eos_token_id"] == 0
    ours = load(tmp_path / "bare")
    with torch.no_grad():
        close(ours.network(read), theirs(read).logits, 1e-4)
    assert ours.text.prompt(TEXTS[1]) == tokenizer(TEXTS[1]).input_ids and ours.ends == (0,)


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn"),
        ("gpt2", {"activation_function": "relu"}, "relu"),
        ("llama", {"hidden_act": "relu"}, "relu"),
        ("llama", {"attention_bias": True, "mlp_bias": False}, "biases"),
        ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "yarn"),
    ],
)
def test_what_we_have_not_is_refused(kind, changes, said, tmp_path):
    theirs, _ = reference(kind, "small" if kind == "gpt2" else "plain")
    theirs.save_pretrained(tmp_path)
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=said):
        load(tmp_path, processors={})


def test_what_has_no_published_layout_is_said(pair, tmp_path):
    from intermodal.methods.captioning.language import LanguageDecoder

    network = pair[2].config.network
    odd = network.replace(norm="rms" if network.norm == "layer" else "layer")
    with pytest.raises(CheckpointError, match="norm"):
        export(LanguageDecoder(pair[2].config.replace(network=odd), {}), tmp_path / "no")
