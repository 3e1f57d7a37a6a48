"""CLIP and SigLIP against transformers' CLIPModel and SiglipModel: outputs, gradients, and the way back."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from intermodal.data.processors import ImageProcessor, TextProcessor  # noqa: E402
from intermodal.data.tokenizers import EOS, train_bpe  # noqa: E402
from intermodal.hub import clip  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig  # noqa: E402
from intermodal.nn.text import TextConfig  # noqa: E402
from intermodal.nn.vit import ViTConfig  # noqa: E402

DTYPES = [torch.float32, torch.float64]
VOCAB = 60


@dataclass
class Case:
    """One configuration of both towers; what it leaves out is a small default."""

    kind: str = "clip"
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    dim: int = 20
    batch: int = 5
    length: int = 9  # of the texts given; the context may be longer

    def build(self) -> torch.nn.Module:
        vision = {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
        }
        vision |= {"image_size": 30, "patch_size": 5} | self.vision
        text = {"hidden_size": 16, "intermediate_size": 36, "num_hidden_layers": 2, "num_attention_heads": 2}
        text |= {"vocab_size": VOCAB, "max_position_embeddings": 9, "bos_token_id": 58, "eos_token_id": 59}
        text |= {"pad_token_id": 0} | self.text
        if self.kind == "clip":
            config = transformers.CLIPConfig(
                vision_config=vision | {"projection_dim": self.dim},
                text_config=text | {"projection_dim": self.dim},
                projection_dim=self.dim,
            )
            return transformers.CLIPModel(config)
        text["projection_size"] = vision["hidden_size"]
        return transformers.SiglipModel(transformers.SiglipConfig(vision_config=vision, text_config=text))


CASES = {
    "clip": Case(),
    "clip-deep-gelu": Case(
        vision={"image_size": 20, "patch_size": 4, "num_hidden_layers": 3, "hidden_act": "gelu"},
        text={"num_hidden_layers": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
    ),
    "clip-legacy-eos": Case(text={"eos_token_id": 2}, batch=3),
    "clip-inner-eos": Case(text={"eos_token_id": 17, "pad_token_id": 17}),
    "clip-short-texts": Case(text={"max_position_embeddings": 21}, length=7),
    "clip-remainder": Case(
        vision={
            "image_size": 29,
            "patch_size": 6,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "num_channels": 1,
        },
        text={"hidden_size": 12, "num_attention_heads": 1, "hidden_act": "gelu_pytorch_tanh"},
        dim=7,
    ),
    "siglip": Case("siglip"),
    "siglip-gelu": Case(
        "siglip",
        vision={"image_size": 20, "patch_size": 4, "num_hidden_layers": 1, "hidden_act": "gelu"},
        text={"num_hidden_layers": 3, "layer_norm_eps": 1e-4},
    ),
    "siglip-remainder": Case(
        "siglip",
        vision={"image_size": 29, "patch_size": 6, "hidden_size": 30},
        text={"hidden_size": 40},
        batch=2,
    ),
}


@pytest.fixture
def prepare(tmp_path, randomise, texts):
    """Build a reference of random weights, save and load it as published; return both and a batch."""

    def build(name, dtype=torch.float32):
        case = CASES[name]
        reference = case.build().to(dtype).eval()
        randomise(reference, seed=len(name))
        reference.save_pretrained(tmp_path / "published")
        ours = load(tmp_path / "published", processors={})
        vision, text = reference.config.vision_config, reference.config.text_config
        eos = 59 if text.eos_token_id == 2 else text.eos_token_id
        shape = (case.batch, vision.num_channels, vision.image_size, vision.image_size)
        image = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
        tokens = texts(case.batch, case.length, bos=58, eos=eos, pad=text.pad_token_id)
        return reference, ours, {"image": image, "text": tokens}

    return build


def outputs_of(reference, batch):
    """Run the reference; return its outputs and loss."""
    out = reference(pixel_values=batch["image"], input_ids=batch["text"], return_loss=True)
    named = {k: out[k] for k in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text")}
    return {k: v.detach() for k, v in named.items()}, out.loss


def ours_of(model, batch):
    """Run ours; return the outputs under transformers' names."""
    image, text = model.encode_image(batch["image"]), model.encode_text(batch["text"])
    logits = model.logits(image, text)
    named = {
        "image_embeds": image,
        "text_embeds": text,
        "logits_per_image": logits,
        "logits_per_text": logits.T,
    }
    return {k: v.detach() for k, v in named.items()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree(name, dtype, prepare, agree):
    """Published weights give the same vectors, logits, loss and gradient of every parameter."""
    reference, ours, batch = prepare(name, dtype)
    wanted, wanted_loss = outputs_of(reference, batch)
    agree(ours_of(ours, batch), wanted, f"{name} outputs")

    loss = ours.loss(batch).total
    agree({"loss": loss.detach()}, {"loss": wanted_loss.detach()}, f"{name} loss")
    wanted_loss.backward()
    loss.backward()
    gradients = {k: p.grad for k, p in ours.named_parameters()}
    published = clip.key_map(CASES[name].kind).to_published(gradients)
    agree(published, {k: p.grad for k, p in reference.named_parameters()}, f"{name} gradients")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_what_we_export_agrees_in_transformers(name, dtype, tmp_path, prepare, agree):
    """transformers loads our export with no key missing or left over, and computes what we compute."""
    reference, ours, batch = prepare(name, dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(1.1)
    export(ours, tmp_path / "export")
    loaded, info = type(reference).from_pretrained(tmp_path / "export", output_loading_info=True, dtype=dtype)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    wanted, _ = outputs_of(loaded.eval(), batch)
    agree(ours_of(ours, batch), wanted, f"{name} export")


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_every_stored_number_comes_back(name, tmp_path, prepare):
    """Load then export is the identity on the published tensors, to the bit."""
    from safetensors.torch import load_file

    _, ours, _ = prepare(name)
    export(ours, tmp_path / "export")
    before = load_file(tmp_path / "published" / "model.safetensors")
    after = load_file(tmp_path / "export" / "model.safetensors")
    assert sorted(before) == sorted(after)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_openai_published_folder_with_position_ids(tmp_path, prepare, agree):
    """The first published folders: stored position indices, the legacy end id and ``*_dict`` sections."""
    from safetensors.torch import load_file, save_file

    reference, _, batch = prepare("clip-legacy-eos")
    folder = tmp_path / "published"
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(9)[None]
    tensors["vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    for tower in ("text_config", "vision_config"):  # what counts is in the *_dict: the plain section is wrong
        config[f"{tower}_dict"] = dict(config[tower])
        config[tower]["num_hidden_layers"] = 11
    (folder / "config.json").write_text(json.dumps(config))
    again = type(reference).from_pretrained(folder).eval()
    wanted, _ = outputs_of(again, batch)
    agree(ours_of(load(folder, processors={}), batch), wanted, "old folder")


def test_raw_data_gives_the_same_vectors(tmp_path, agree):
    """Pictures and texts in, vectors out: transformers with our export agrees with ours."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    bpe = train_bpe(["a red square and a blue circle"] * 3, 280)
    eos = bpe.token_to_id(EOS)
    processors = {
        "image": ImageProcessor(size=(24, 24)),
        "text": TextProcessor(bpe, context_length=12, eos_id=eos, pad_id=eos),
    }
    small = {"width": 16, "depth": 2, "heads": 2}
    text = TextConfig(vocab_size=280, context_length=12, eos_id=eos, pad_id=eos, **small)
    config = CLIPConfig(image=ViTConfig(image_size=24, patch_size=8, **small), text=text, embed_dim=8)
    torch.manual_seed(0)
    ours = CLIP(config, processors).eval()
    export(ours, tmp_path / "export")

    folder = tmp_path / "export"
    reference = transformers.CLIPModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 256, (*s, 3), dtype=np.uint8)) for s in ((40, 31), (20, 24))]
    texts = ["A RED  circle", "a blue square, and a very long text about one square and one more circle"]
    wanted = reference(
        pixel_values=torch.stack(
            [torch.as_tensor(x) for x in CLIPImageProcessorPil.from_pretrained(folder)(pictures)["pixel_values"]]
        ),
        input_ids=tokenizer(texts, padding=True, truncation=True, return_tensors="pt")["input_ids"],
    )
    found = {k: torch.from_numpy(ours.embed(k, v)) for k, v in (("image", pictures), ("text", texts))}
    wanted = {"image": wanted.image_embeds.detach(), "text": wanted.text_embeds.detach()}
    agree(found, wanted, "raw data")


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_what_a_config_leaves_out_is_what_transformers_fills_in(kind):
    """Old config.json files state only what differs from the defaults, which are transformers'."""
    cls = {"clip": transformers.CLIPConfig, "siglip": transformers.SiglipConfig}[kind]
    assert clip.read_config({"model_type": kind}) == clip.read_config(cls().to_dict())
    short = {"vision_config": {"hidden_size": 48}, "text_config": {"num_hidden_layers": 3}}
    assert clip.read_config({"model_type": kind, **short}) == clip.read_config(cls(**short).to_dict())
    assert clip.read_config({"model_type": kind}).image.width == 768


def test_sharded_weights_agree(tmp_path, prepare, agree):
    """Weights in several files, as transformers cuts large models, give the same outputs."""
    reference, _, batch = prepare("clip")
    reference.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list(Path(tmp_path / "sharded").glob("*.safetensors"))) > 1
    wanted, _ = outputs_of(reference, batch)
    agree(ours_of(load(tmp_path / "sharded", processors={}), batch), wanted, "shards")


def test_half_precision_is_widened(tmp_path, prepare):
    """A float16 file gives float32 parameters of the same values."""
    reference, _, _ = prepare("clip")
    reference.half().save_pretrained(tmp_path / "half")
    ours = load(tmp_path / "half", processors={})
    assert all(p.dtype == torch.float32 for p in ours.parameters())
    assert torch.equal(ours.text_projection.weight, reference.text_projection.weight.float())
