"""CLIP's tokenizer and picture preparation against transformers'."""

import json
import re
import string

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.data.clip_tokenizer import load_clip_tokenizer  # noqa: E402
from intermodal.data.processors import ImageProcessor, TextProcessor  # noqa: E402
from intermodal.data.tokenizers import train_bpe  # noqa: E402
from intermodal.hub.processors import (  # noqa: E402
    read_image_processor,
    read_text_processor,
    write_image_processor,
    write_text_processor,
)

MERGES = [("t", "h"), ("th", "e</w>"), ("c", "a"), ("ca", "t</w>"), ("1", "2"), ("o", "f</w>")]
TEXTS = ["The cat's  42!", "", "  of\tthe  ", "Ünïcödé 日本 🙂", "a<|endoftext|>b", "it's 12 we'll", "x" * 50]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """A small published folder: every byte, alone and at a word's end, and a few merges."""
    folder = tmp_path_factory.mktemp("tokenizer")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = letters + [x + "</w>" for x in letters] + ["".join(pair) for pair in MERGES]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({s: n for n, s in enumerate(symbols)}), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reference(vocabulary):
    return transformers.CLIPTokenizer.from_pretrained(vocabulary)


@pytest.fixture(scope="module")
def ours(vocabulary):
    return load_clip_tokenizer(vocabulary)


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_the_published_ones(text, ours, reference):
    """The same ids, and the same text back."""
    ids = reference(text)["input_ids"]
    assert ours.encode(text).ids == ids
    assert ours.decode(ids) == reference.decode(ids, skip_special_tokens=True)


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30))
def test_any_text_has_the_published_ids(text, ours, reference):
    """Whatever the text, the ids are those of transformers."""
    assert ours.encode(text).ids == reference(text)["input_ids"]


def test_tokenizer_json_is_the_same(ours, reference, tmp_path):
    """What transformers saves as tokenizer.json reads as the same tokenizer."""
    reference.save_pretrained(tmp_path)
    again = load_clip_tokenizer(tmp_path)
    assert [again.encode(t).ids for t in TEXTS] == [ours.encode(t).ids for t in TEXTS]
    assert [again.decode(ours.encode(t).ids) for t in TEXTS] == [ours.decode(ours.encode(t).ids) for t in TEXTS]


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(name, vocabulary, tmp_path):
    """Half a tokenizer is an error that names the other half."""
    for file in {"vocab.json", "merges.txt"} - {name}:
        (tmp_path / file).write_bytes((vocabulary / file).read_bytes())
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        load_clip_tokenizer(tmp_path)


@pytest.mark.parametrize("line", ["th", "th nosuchsymbol", "a b c"])
def test_a_damaged_merge_is_an_error(line, vocabulary, tmp_path):
    """A line that is no merge of known symbols is refused."""
    (tmp_path / "vocab.json").write_bytes((vocabulary / "vocab.json").read_bytes())
    (tmp_path / "merges.txt").write_text(f"#version: 0.2\n{line}\n")
    with pytest.raises(CheckpointError):
        load_clip_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", ["clip", "own"])
def test_transformers_reads_our_tokenizer(kind, vocabulary, tmp_path):
    """An exported tokenizer, published or trained here, gives transformers the ids that we use."""
    if kind == "clip":
        processor = read_text_processor(vocabulary, context_length=16, eos_id=0, pad_id=0)
    else:
        bpe = train_bpe(["the cat sat on the mat"] * 3, 270)
        eos = bpe.token_to_id("<|endoftext|>")
        processor = TextProcessor(bpe, context_length=16, eos_id=eos, pad_id=eos)
    write_text_processor(processor, tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        wanted = loaded(text, truncation=True)["input_ids"]
        assert processor.encode(text).tolist()[: len(wanted)] == wanted, text


@pytest.fixture(scope="module")
def siglip_text(tmp_path_factory):
    """A tokenizer of whole words, declared to be SigLIP's."""
    folder = tmp_path_factory.mktemp("siglip")
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = {"eos_token": {"content": "</s>"}, "pad_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer", **tokens}))
    return read_text_processor(folder, context_length=4, eos_id=7, pad_id=7)


@settings(max_examples=150, deadline=None)
@given(text=st.text(alphabet=st.characters(max_codepoint=0x24F), max_size=30))
def test_siglip_texts_are_made_canonical(text, siglip_text):
    """Lower case, no punctuation, single spaces, as SigLIP's published preparation has it."""
    wanted = text.lower().translate(str.maketrans("", "", string.punctuation))
    wanted = re.sub(r"\s+", " ", wanted).strip()
    # Python takes four of ASCII's control characters for spaces too.
    if not set(text) & set("\x1c\x1d\x1e\x1f"):
        assert siglip_text.tokenizer.normalizer.normalize_str(text) == wanted


def test_special_tokens_are_the_named_ones(siglip_text):
    """What the tokenizer's files name overrides the model's configuration, whose numbers are often wrong."""
    assert (siglip_text.eos_id, siglip_text.pad_id) == (1, 1)


def test_a_token_that_is_not_there_is_an_error(tmp_path):
    """Neither the files nor the model's configuration name an end token that exists."""
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(CheckpointError, match="no id 7"):
        read_text_processor(tmp_path, context_length=4, eos_id=7, pad_id=0)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<end>"}))
    with pytest.raises(CheckpointError, match="'<end>'"):
        read_text_processor(tmp_path, context_length=4, eos_id=0, pad_id=0)


SETTINGS = {
    "clip": (
        "clip",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    ),
    "old-clip": ("clip", {"size": 32, "crop_size": 32, "do_center_crop": True, "resample": 3}),
    "siglip": ("siglip", {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_pictures_are_prepared_alike(name, tmp_path):
    """Published settings give the same tensors, and so does what we write of them."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    kind, data = SETTINGS[name]
    cls = CLIPImageProcessorPil if kind == "clip" else SiglipImageProcessorPil
    data = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.25], **data}
    reference = cls(**data)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    ours = read_image_processor(tmp_path, (32, 32))
    written = cls(**write_image_processor(ours, kind))
    generator = np.random.default_rng(0)
    for size in ((32, 32), (32, 40), (70, 41), (33, 97), (20, 31)):
        picture = Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8))
        found = ours([picture])[0]
        for other in (reference, written):
            wanted = torch.from_numpy(np.asarray(other(picture)["pixel_values"][0]))
            assert float((found - wanted).abs().max()) < 1e-5, size


@pytest.mark.parametrize(
    "change",
    [{"do_normalize": False}, {"size": {"shortest_edge": 40}}, {"resample": 5}, {"rescale_factor": 1.0}],
    ids=str,
)
def test_settings_that_we_lack_are_refused(change, tmp_path):
    """An image processor that would prepare pictures in another way is an error, not an approximation."""
    data = {"image_mean": [0.4] * 3, "image_std": [0.2] * 3, **SETTINGS["clip"][1], **change}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError):
        read_image_processor(tmp_path, (32, 32))


def test_padding_cannot_be_exported():
    """transformers' processors cannot pad: exporting such a model says so."""
    with pytest.raises(CheckpointError, match="pad"):
        write_image_processor(ImageProcessor(size=(32, 32), resize="pad"), "clip")
