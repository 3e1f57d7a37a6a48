"""CLIP against open_clip: ViT and ModifiedResNet towers, outputs and gradients."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from intermodal.core.errors import CheckpointError
from intermodal.hub import open_clip as layout
from intermodal.hub.load import load

open_clip = pytest.importorskip("open_clip", reason="open_clip is installed in the vision environment only")

pytestmark = pytest.mark.vision
DTYPES = [torch.float32, torch.float64]


@dataclass
class Case:
    """A ``model_cfg`` of open_clip, apart from small defaults."""

    vision: dict[str, Any]
    text: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        text = {"context_length": 9, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2, **self.text}
        return {"embed_dim": 20, "vision_cfg": self.vision, "text_cfg": text, **self.model}


VIT = {"image_size": 30, "patch_size": 5, "width": 24, "head_width": 8, "layers": 2}
RESNET = {"image_size": 64, "width": 8, "head_width": 16, "layers": [1, 2, 1, 1]}
CASES = {
    "vit": Case(VIT),
    "vit-quick": Case({**VIT, "mlp_ratio": 1.7, "layers": 3}, model={"quick_gelu": True, "embed_dim": 9}),
    "vit-odd": Case({**VIT, "image_size": [26, 39], "patch_size": 6, "no_ln_pre": True}, {"width": 24, "heads": 3}),
    "vit-custom-text": Case(
        {**VIT, "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}},
        {"pool_type": "eos", "eos_id": 59, "proj_bias": True, "norm_kwargs": {"eps": 1e-4}},
        {"custom_text": True, "nonscalar_logit_scale": True},
    ),
    "vit-sigmoid": Case(VIT, {"no_causal_mask": True, "pool_type": "last"}, {"init_logit_bias": -10}),
    "resnet": Case(RESNET),
    "resnet-quick": Case(
        {**RESNET, "image_size": 96, "width": 16, "head_width": 64, "layers": [2, 1, 1, 2]},
        model={"quick_gelu": True, "embed_dim": 7},
    ),
}


@pytest.fixture
def prepare(tmp_path, randomise, texts):
    """Build a reference of random weights, save and load it as published; return both and a batch."""
    from safetensors.torch import save_file

    def build(name, dtype=torch.float32):
        config = CASES[name].config()
        arguments = {k: v for k, v in config.items() if k != "custom_text"}
        cls = open_clip.model.CustomTextCLIP if config.get("custom_text") else open_clip.model.CLIP
        reference = cls(**json.loads(json.dumps(arguments))).to(dtype).eval()
        randomise(reference, seed=len(name))
        tensors = {k: v.contiguous() for k, v in reference.state_dict().items()}
        save_file(tensors, tmp_path / layout.WEIGHTS)
        (tmp_path / layout.CONFIG).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
        ours = load(tmp_path, processors={})
        size = config["vision_cfg"]["image_size"]
        shape = (4, 3, *([size, size] if isinstance(size, int) else size))
        image = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
        tokens = texts(4, 9, bos=58, eos=59, pad=0)
        return reference, ours, {"image": image, "text": tokens}

    return build


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree(name, dtype, prepare, agree):
    """Published weights give the same vectors, logits and gradient of every parameter."""
    reference, ours, batch = prepare(name, dtype)
    image, text = reference.encode_image(batch["image"], True), reference.encode_text(batch["text"], True)
    logits = reference.logit_scale.exp() * image @ text.T
    if reference.logit_bias is not None:
        logits = logits + reference.logit_bias
    our_image, our_text = ours.encode_image(batch["image"]), ours.encode_text(batch["text"])
    our_logits = ours.logits(our_image, our_text)
    wanted = {"image": image, "text": text, "logits": logits}
    found = {"image": our_image, "text": our_text, "logits": our_logits}
    agree(
        {k: v.detach() for k, v in found.items()},
        {k: v.detach() for k, v in wanted.items()},
        f"{name} outputs",
    )

    labels = torch.arange(4)
    if reference.logit_bias is None:
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    else:
        loss = -F.logsigmoid((2 * torch.eye(4, dtype=dtype) - 1) * logits).sum() / 4
    ours_loss = ours.loss(batch).total
    agree({"loss": ours_loss.detach()}, {"loss": loss.detach()}, f"{name} loss")
    loss.backward()
    ours_loss.backward()
    _, keys = layout.read_config({"model_cfg": CASES[name].config()})
    # Every key of the state takes part in the map: statistics, which have no gradient, are given one of zero.
    gradients = {k: torch.zeros_like(v) for k, v in ours.state_dict().items()}
    gradients |= {k: p.grad for k, p in ours.named_parameters()}
    wanted = {k: p.grad for k, p in reference.named_parameters()}
    published = keys.to_published(gradients)
    agree({k: published[k] for k in wanted}, wanted, f"{name} gradients")


def test_the_resnet_trains_alike(prepare, agree):
    """In training mode the batch statistics, and what they leave behind, are the same."""
    reference, ours, batch = prepare("resnet", torch.float64)
    wanted, found = reference.train().visual(batch["image"]), ours.train().image(batch["image"])[0]
    agree({"image": found.detach()}, {"image": wanted.detach()}, "resnet training")
    _, keys = layout.read_config({"model_cfg": CASES["resnet"].config()})
    published = keys.to_published(ours.state_dict())
    for name, value in reference.state_dict().items():
        assert torch.allclose(published[name], value, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("towers", ["vision", "text"])
def test_settings_that_are_not_read_are_known(towers):
    """Each default of open_clip's own configuration is accepted, so only what deviates is refused."""
    defaults = asdict(open_clip.model.CLIPVisionCfg() if towers == "vision" else open_clip.model.CLIPTextCfg())
    config = CASES["vit"].config()
    key = f"{towers}_cfg"
    config[key] = {**defaults, **config[key]}
    layout.read_config({"model_cfg": config})
    config[key]["qk_norm"] = True
    with pytest.raises(CheckpointError, match="qk_norm=True"):
        layout.read_config({"model_cfg": config})
