"""CoCa against open_clip: vectors, logits, losses, gradients, and greedy captions."""

import json
from typing import Any

import pytest
import torch

from intermodal.core.errors import CheckpointError
from intermodal.hub import coca as layout
from intermodal.hub.load import load
from intermodal.hub.open_clip import CONFIG, WEIGHTS
from intermodal.methods.captioning.coca import CoCaStepper

open_clip = pytest.importorskip("open_clip", reason="open_clip is installed in the vision environment only")
from open_clip.coca_model import CoCa as Reference  # noqa: E402
from open_clip.loss import CoCaLoss  # noqa: E402

pytestmark = pytest.mark.vision
DTYPES = [torch.float32, torch.float64]
VISION = {"image_size": 30, "patch_size": 5, "width": 24, "head_width": 8, "layers": 2, "attentional_pool": True}
VISION |= {"attn_pooler_queries": 7, "attn_pooler_heads": 2, "output_tokens": True}
TEXT = {
    "context_length": 9,
    "vocab_size": 60,
    "width": 16,
    "heads": 2,
    "layers": 2,
    "embed_cls": True,
    "output_tokens": True,
}
SECOND = {"context_length": 9, "vocab_size": 60, "width": 16, "heads": 4, "layers": 3, "attn_pooler_heads": 2}
CASES: dict[str, dict[str, Any]] = {
    "small": {},
    "one-width": {"vision_cfg": {**VISION, "width": 16}},
    "quick-odd": {
        "vision_cfg": {**VISION, "image_size": [26, 39], "patch_size": 6, "mlp_ratio": 1.7},
        "quick_gelu": True,
        "nonscalar_logit_scale": True,
    },
}


def config_of(name: str) -> dict[str, Any]:
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT, "multimodal_cfg": SECOND, **CASES[name]}
    return json.loads(json.dumps(config))


@pytest.fixture
def prepare(tmp_path, randomise, texts):
    """Build a reference of random weights, save and load it as published; return both and a batch."""
    from safetensors.torch import save_file

    def build(name, dtype=torch.float32):
        config = config_of(name)
        reference = Reference(**config_of(name)).to(dtype).eval()
        randomise(reference, seed=len(name))
        save_file({k: v.contiguous() for k, v in reference.state_dict().items()}, tmp_path / WEIGHTS)
        (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": config | {"custom_text": True}, "preprocess_cfg": {}}))
        ours = load(tmp_path, processors={})
        size = config["vision_cfg"]["image_size"]
        shape = (4, 3, *([size, size] if isinstance(size, int) else size))
        image = torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=dtype)
        return reference, ours, {"image": image, "text": texts(4, 9, bos=58, eos=59, pad=0)}

    return build


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_losses_and_gradients_agree(name, dtype, prepare, agree):
    """Published weights give the same vectors, logits, losses and gradient of every parameter."""
    reference, ours, batch = prepare(name, dtype)
    out = reference(batch["image"], batch["text"])
    image, read = ours.see(batch["image"])
    text, token = ours.read_text(batch["text"])
    logits = ours.decoder.head(ours.decoder(token[:, :-1], read))
    found = {"image": image, "text": text, "logits": logits}
    wanted = {"image": out["image_features"], "text": out["text_features"], "logits": out["logits"]}
    agree({k: v.detach() for k, v in found.items()}, {k: v.detach() for k, v in wanted.items()}, f"{name} outputs")

    contrastive, captioning = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)(
        out["image_features"], out["text_features"], out["logits"], out["labels"], out["logit_scale"]
    )
    losses = ours.loss(batch)
    agree(
        {"contrastive": losses.parts["contrastive"], "captioning": 2 * losses.parts["captioning"]},
        {"contrastive": contrastive.detach().squeeze(), "captioning": captioning.detach()},
        f"{name} losses",
    )
    (contrastive + captioning).sum().backward()
    losses.total.backward()
    _, keys = layout.read_config({"model_cfg": config_of(name)})
    published = keys.to_published({k: p.grad for k, p in ours.named_parameters()})
    gradients = {k: p.grad for k, p in reference.named_parameters()}
    agree({k: published[k] for k in gradients}, gradients, f"{name} gradients")


@pytest.mark.parametrize("name", CASES)
def test_greedy_captions_are_the_most_probable_tokens_of_the_reference(name, prepare):
    """Our cached decoding writes token for token what open_clip's network finds most probable, read anew each time."""
    reference, ours, batch = prepare(name, torch.float64)
    stepper = CoCaStepper(ours, ours.see(batch["image"])[1])
    tokens, state, read = torch.full((4, 1), 58), stepper.start(9), torch.full((4, 1), 58)
    with torch.no_grad():
        for _ in range(7):
            logits, state = stepper.step(state, read)
            wanted = reference(batch["image"], tokens, output_labels=False)["logits"][:, -1]
            assert float((logits - wanted).abs().max()) < 1e-9 * float(wanted.abs().max())
            read = wanted.argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, read], 1)


def test_what_is_not_supported_is_refused():
    for section, key, value, words in [
        ("vision_cfg", "attentional_pool", "parallel", "attentional_pool"),
        ("text_cfg", "embed_cls", False, "embed_cls"),
        ("multimodal_cfg", "width", 24, "one width"),
        ("multimodal_cfg", "mlp_ratio", 2, "mlp_ratio"),
        ("text_cfg", "qk_norm", True, "qk_norm=True"),
    ]:
        config = config_of("small")
        config[section][key] = value
        with pytest.raises(CheckpointError, match=words):
            layout.read_config({"model_cfg": config})
