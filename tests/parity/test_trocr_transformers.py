"""TrOCR base and small against transformers: logits, loss, gradients, greedy and beam search, as published and loaded."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from intermodal.core.captioning import Captioning  # noqa: E402
from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.data.ocr import draw_line  # noqa: E402
from intermodal.decode.beam import beam_search  # noqa: E402
from intermodal.decode.generate import generate  # noqa: E402
from intermodal.hub import trocr  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from toy_reader import tiny  # noqa: E402

VOCABULARY, PAD, END = 61, 1, 2
DTYPES = [torch.float32, torch.float64]
VIT = {"image_size": 24, "patch_size": 6, "hidden_size": 24, "intermediate_size": 40}
VIT |= {"num_hidden_layers": 2, "num_attention_heads": 3}
TEXT = {"vocab_size": VOCABULARY, "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4}
TEXT |= {"decoder_ffn_dim": 48, "max_position_embeddings": 20}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "base-handwritten": ("vit", {"qkv_bias": False}, {"cross_attention_hidden_size": 24}),
    "base-printed": (
        "vit",
        {"qkv_bias": False},
        {
            "cross_attention_hidden_size": 24,
            "use_learned_position_embeddings": False,
            "layernorm_embedding": False,
            "scale_embedding": True,
            "activation_function": "relu",
        },
    ),
    "small": (
        "deit",
        {},
        {
            "activation_function": "relu",
            "scale_embedding": True,
            "cross_attention_hidden_size": 24,
            "tie_word_embeddings": False,
        },
    ),
    "projected": ("vit", {"num_channels": 1}, {"layernorm_embedding": False, "decoder_layers": 1}),
}


@pytest.fixture
def prepare(tmp_path, randomise):
    def build(name: str, dtype: torch.dtype = torch.float32):
        kind, image, text = CASES[name]
        encoder = (transformers.ViTConfig if kind == "vit" else transformers.DeiTConfig)(**VIT | image)
        decoder = transformers.TrOCRConfig(**TEXT | text)
        config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = END, PAD, END
        reference = transformers.VisionEncoderDecoderModel(config).to(dtype).eval()
        randomise(reference, seed=len(name))
        reference.generation_config.decoder_start_token_id = END
        reference.generation_config.pad_token_id = PAD
        reference.generation_config.eos_token_id = END
        reference.save_pretrained(tmp_path / "published")
        ours = load(tmp_path / "published", processors={})
        generator = torch.Generator().manual_seed(7)
        image = torch.randn(3, encoder.num_channels, 24, 24, generator=generator, dtype=dtype)
        tokens = torch.randint(3, VOCABULARY, (3, 9), generator=generator)
        tokens[:, 0] = END
        tokens[1, 5:], tokens[1, 4] = PAD, END
        tokens[0, -1] = tokens[2, -1] = END
        return reference, ours, image, tokens

    return build


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_agree(name, dtype, prepare, agree, tmp_path):
    """The loss is the mean over all tokens but the start, ends included; padding changes nothing."""
    reference, ours, image, tokens = prepare(name, dtype)
    assert ours.config.text.tied == (name != "small")
    labels = tokens[:, 1:].masked_fill(tokens[:, 1:] == PAD, -100)
    wanted = reference(pixel_values=image, decoder_input_ids=tokens[:, :-1], labels=labels)
    real = tokens[:, :-1] != PAD
    logits = ours.logits(image, tokens[:, :-1])
    agree({"logits": logits[real].detach()}, {"logits": wanted.logits[real].detach()}, f"{name} logits")
    ours.processors["text"] = FakeText()
    found = ours.loss({"image": image, "text": tokens}).total
    agree({"loss": found.detach()}, {"loss": wanted.loss.detach()}, f"{name} loss")
    found.backward()
    wanted.loss.backward()
    published = trocr.key_map(ours.config).to_published({n: p.grad for n, p in ours.named_parameters()})
    theirs = {n: p.grad for n, p in reference.named_parameters() if "pooler" not in n}
    with torch.no_grad():
        for key, parameter in reference.named_parameters():
            parameter.copy_(theirs[key]) if key in theirs else parameter.zero_()
    reference.save_pretrained(tmp_path / "gradients")
    saved = load_file(tmp_path / "gradients" / "model.safetensors")
    agree(published, {k: saved[k] for k in published}, f"{name} gradients")
    left = set(saved) - set(published)
    assert all("pooler" in k or k == trocr.HEAD for k in left), left


class FakeText(trocr.SentenceProcessor):
    """Knows the special tokens alone."""

    def __init__(self) -> None:
        self.eos_id, self.pad_id, self.bos_id = END, PAD, END


@pytest.mark.parametrize("name", CASES)
def test_greedy_and_beam_tokens_are_those_of_generate(name, prepare):
    reference, ours, image, _ = prepare(name)
    most = 12
    wanted = reference.generate(image, max_new_tokens=most, do_sample=False, num_beams=1)
    stepper, prompt = ours.begun(image)
    made = generate(stepper, prompt, most, end=END)
    for row, theirs in zip(made.tolist(), wanted[:, 1:].tolist(), strict=True):
        assert until_end(row) == until_end(theirs)
    for beams, penalty in ((3, 1.0), (4, 0.0), (2, 2.0)):
        wanted = reference.generate(
            image, max_new_tokens=most, do_sample=False, num_beams=beams, length_penalty=penalty, early_stopping=False
        )
        stepper, prompt = ours.begun(image)
        found = beam_search(stepper, prompt, most, beams=beams, end=END, length_penalty=penalty)
        for row, theirs in zip(found, wanted[:, 1:].tolist(), strict=True):
            assert until_end(row[0].tokens.tolist()) == until_end(theirs), (beams, penalty)


def until_end(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


def test_what_a_network_does_not_have_is_refused(prepare, tmp_path):
    _, ours, _, _ = prepare("small")
    data = {"encoder": {"model_type": "swin"}, "decoder": {"model_type": "trocr"}}
    with pytest.raises(CheckpointError, match="'swin' and 'trocr' is not supported"):
        trocr.read_config(data, {})
    file = tmp_path / "published" / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "enc_to_dec" not in k} | {"decoder.extra": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"decoder\.extra"):
        load(tmp_path / "published", processors={})
    assert ours.config.image.distillation


def test_the_encoders_pooler_is_the_only_thing_left_out(prepare, tmp_path):
    prepare("base-printed")
    saved = load_file(tmp_path / "published" / "model.safetensors")
    ours = load(tmp_path / "published", processors={})
    written = trocr.key_map(ours.config).to_published(ours.state_dict())
    assert {k for k in saved if k not in written and k != trocr.HEAD} == {
        "encoder.pooler.dense.bias",
        "encoder.pooler.dense.weight",
    }
    assert all(torch.equal(written[k], saved[k]) for k in written)


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_is_the_same_model_for_transformers_and_for_us(name, prepare, tmp_path):
    reference, ours, image, tokens = prepare(name)
    folder = tmp_path / "exported"
    export(ours, folder)
    kind = transformers.VisionEncoderDecoderModel
    again, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    if (
        ours.config.text.positions == "sines"
    ):  # from_pretrained leaves its sines without numbers, of its own folders too
        again.decoder.model.decoder.embed_positions = kind(again.config).decoder.model.decoder.embed_positions
    again = again.eval()
    given = {"pixel_values": image, "decoder_input_ids": tokens[:, :-1]}
    with torch.no_grad():
        assert torch.allclose(again(**given).logits, reference(**given).logits, atol=1e-6)
    said = [m.generate(image, max_new_tokens=8, do_sample=False, num_beams=3).tolist() for m in (again, reference)]
    assert said[0] == said[1]
    back = load(folder, processors={})
    assert back.config == ours.config
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in back.state_dict().items())


def test_a_reader_of_lines_has_no_published_layout(tmp_path):
    with pytest.raises(CheckpointError, match="no encoder of lines"):
        export(tiny(), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_published_folder_reads_a_picture_as_transformers_does(tmp_path, randomise):
    """With its tokenizer and image processor: the same text, without the frame of special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["TOTAL 12.50", "CASH 20.00", "naïve"], trainer)
    framing = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=framing)
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    size = tokenizer.get_vocab_size()
    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VIT, qkv_bias=False),
        transformers.TrOCRConfig(**TEXT | {"vocab_size": size, "cross_attention_hidden_size": 24}),
    )
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = END, PAD, END
    reference = transformers.VisionEncoderDecoderModel(config).eval()
    randomise(reference, seed=4)
    for name in ("decoder_start_token_id", "eos_token_id"):
        setattr(reference.generation_config, name, END)
    reference.generation_config.pad_token_id = PAD
    folder = tmp_path / "published"
    reference.save_pretrained(folder)
    theirs.save_pretrained(folder)
    stated = {"size": {"height": 24, "width": 24}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2}
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **stated})
    )
    ours = load(folder)
    pictures = [draw_line("TOTAL 12.50", np.random.default_rng(i)) for i in range(3)]
    wanted = reference.generate(ours.pictures(pictures), max_new_tokens=12, do_sample=False, num_beams=1)
    found = ours.read(pictures, Captioning(most=12), cut=False)
    said = [text.strip() for text in theirs.batch_decode(wanted, skip_special_tokens=True)]
    assert [page[0].text for page in found] == said and any(said)
    assert ours.text.encode("CASH").tolist()[:1] == [END]
    kept = ours.text.encode("CASH naïve 合").tolist()
    assert theirs.decode(kept[1 : kept.index(END, 1)]) == "CASH naïve 合"  # a byte-level tokenizer lacks no script
    ours.save(tmp_path / "ours")
    again = load(tmp_path / "ours").read(pictures, Captioning(most=12), cut=False)
    assert [page[0].text for page in again] == said
    export(ours, tmp_path / "exported")
    again = load(tmp_path / "exported").read(pictures, Captioning(most=12), cut=False)
    assert [page[0].text for page in again] == said
    spoken = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert spoken("CASH").input_ids == [*theirs("CASH", add_special_tokens=False).input_ids, END]
    assert [t.strip() for t in spoken.batch_decode(wanted, skip_special_tokens=True)] == said
    seen = transformers.AutoImageProcessor.from_pretrained(tmp_path / "exported")
    pixels = seen([p.convert("RGB") for p in pictures], return_tensors="pt").pixel_values
    assert pixels.shape == (3, 3, 24, 24)
