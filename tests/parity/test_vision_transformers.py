"""ViT, DeiT, Swin and Swin v2 against transformers: logits, tokens, maps, gradients, other sizes, and the way back."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

transformers = pytest.importorskip("transformers", reason="transformers, of the core group, is not installed")

from intermodal.core.errors import CheckpointError  # noqa: E402
from intermodal.hub import vision  # noqa: E402
from intermodal.hub.load import load  # noqa: E402
from intermodal.hub.save import export  # noqa: E402
from intermodal.methods.vision_language.swin import Swin  # noqa: E402
from intermodal.methods.vision_language.vit import ViT  # noqa: E402
from intermodal.nn.swin_attention import attention_maps  # noqa: E402

DTYPES = [torch.float32, torch.float64]


@dataclass
class Case:
    """One configuration, and the sizes of pictures beside its own that it is run at."""

    kind: str
    config: dict[str, Any] = field(default_factory=dict)
    sizes: tuple[tuple[int, int], ...] = ()
    classes: int = 12  # more than ten: LABEL_10 is sorted before LABEL_2

    def build(self) -> torch.nn.Module:
        made = {
            "vit": ("ViTConfig", "ViTForImageClassification"),
            "deit": ("DeiTConfig", "DeiTForImageClassificationWithTeacher"),
            "deit-plain": ("DeiTConfig", "DeiTForImageClassification"),
            "swin": ("SwinConfig", "SwinForImageClassification"),
            "swinv2": ("Swinv2Config", "Swinv2ForImageClassification"),
        }[self.kind]
        if self.kind.startswith("swin"):
            values = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4]}
            values |= {"window_size": 4, "drop_path_rate": 0.0}
        else:
            values = {"image_size": 30, "patch_size": 5, "hidden_size": 24, "intermediate_size": 40}
            values |= {"num_hidden_layers": 2, "num_attention_heads": 3}
        config = getattr(transformers, made[0])(**values | self.config, num_labels=self.classes)
        return getattr(transformers, made[1])(config)


CASES = {
    "vit": Case("vit", sizes=((40, 40), (20, 45), (33, 51))),
    "vit-deep-tanh": Case(
        "vit",
        {"num_hidden_layers": 3, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-3, "patch_size": 6},
        sizes=((12, 60),),
        classes=3,
    ),
    "vit-grey-remainder": Case(
        "vit", {"image_size": 29, "num_channels": 1, "hidden_size": 32, "num_attention_heads": 4}
    ),
    "deit": Case("deit", sizes=((40, 25), (60, 60))),
    "deit-one-head": Case("deit", {"num_attention_heads": 1, "hidden_act": "quick_gelu", "num_hidden_layers": 1}),
    "swin": Case("swin", sizes=((48, 48), (30, 44), (35, 63))),
    "swin-one-window-at-the-end": Case("swin", {"image_size": 16}, sizes=((16, 32), (24, 40))),
    "swin-three-stages": Case(
        "swin",
        {"image_size": 56, "window_size": 7, "depths": [1, 2, 3], "num_heads": [1, 2, 4], "mlp_ratio": 2.5},
        sizes=((64, 96),),
        classes=4,
    ),
    "swin-wide-window": Case("swin", {"window_size": 5, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3}),
    "swinv2": Case("swinv2", sizes=((48, 48), (30, 44), (35, 63))),
    "swinv2-small-maps": Case("swinv2", {"image_size": 16, "window_size": 8}, sizes=((32, 32), (40, 24))),
    "swinv2-pretrained": Case("swinv2", {"pretrained_window_sizes": [3, 2], "depths": [2, 3], "num_channels": 1}),
}


@pytest.fixture
def prepare(tmp_path, randomise):
    """Build a reference of random weights, save and load it as published; return both and pictures of each size."""

    def build(name, dtype=torch.float32):
        case = CASES[name]
        reference = case.build().to(dtype).eval()
        randomise(reference, seed=len(name))
        with torch.no_grad():
            for key, parameter in reference.named_parameters():
                if key.endswith("logit_scale"):  # about what it starts from: cosines times 10
                    parameter.copy_(torch.linspace(1.8, 2.8, parameter.numel(), dtype=dtype).view_as(parameter))
        reference.save_pretrained(tmp_path / "published")
        ours = load(tmp_path / "published", processors={})
        config, generator = reference.config, torch.Generator().manual_seed(7)
        sizes = [(config.image_size, config.image_size), *case.sizes]
        pictures = [torch.randn(3, config.num_channels, *size, generator=generator, dtype=dtype) for size in sizes]
        return reference, ours, pictures

    return build


def fresh(reference):
    """Return the reference as it was built: transformers' Swin remembers a window that it has once made smaller."""
    other = type(reference)(reference.config).to(next(reference.parameters()).dtype).eval()
    other.load_state_dict(reference.state_dict())
    return other


def classes_in_their_order(ours, count):
    """Return where transformers' classes LABEL_0, LABEL_1... are among ours."""
    return [ours.classes.index(f"LABEL_{i}") for i in range(count)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients_agree(name, dtype, prepare, agree, tmp_path):
    """Published weights give the same logits, tokens, loss and gradient of every parameter."""
    reference, ours, (image, *_) = prepare(name, dtype)
    order = classes_in_their_order(ours, reference.config.num_labels)
    theirs = fresh(reference)
    wanted = theirs(image)
    label = torch.arange(len(image)) % len(order)
    loss = torch.nn.functional.cross_entropy(wanted.logits, label)
    base = theirs.base_model(image).last_hidden_state.detach()
    loss.backward()
    logits = ours.class_logits(image)[:, order]
    tokens = ours.image(image)[1]
    if isinstance(ours, ViT):  # as in CLIP, its tower leaves patches without the final norm
        tokens = ours.image.post_norm(tokens)
    named = {"logits": logits.detach(), "tokens": tokens.detach()}
    agree(named, {"logits": wanted.logits.detach(), "tokens": base}, f"{name} outputs")
    ours_loss = torch.nn.functional.cross_entropy(logits, label)
    ours_loss.backward()
    agree({"loss": ours_loss.detach()}, {"loss": loss.detach()}, f"{name} loss")
    _, rows = vision.read_classes(reference.config.to_dict(), reference.state_dict())
    kind = reference.config.model_type
    keys = vision.vit_map(kind, ours.config, rows) if isinstance(ours, ViT) else vision.swin_map(kind, rows)
    found = keys.to_published({n: p.grad for n, p in ours.named_parameters()})
    saved = published_names(theirs, tmp_path / "gradients")
    agree(found, saved, f"{name} gradients")


def published_names(reference, folder):
    """Return the reference's gradients under the names by which it saves its parameters."""
    other = fresh(reference)
    with torch.no_grad():
        for parameter, wanted in zip(other.parameters(), reference.parameters(), strict=True):
            parameter.copy_(wanted.grad)
    other.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.sizes])
def test_other_sizes_and_rectangles_agree(name, dtype, prepare, agree):
    """At sizes that the model was not made for, with positions interpolated or maps filled up."""
    reference, ours, (_, *pictures) = prepare(name, dtype)
    order = classes_in_their_order(ours, reference.config.num_labels)
    for image in pictures:
        theirs = fresh(reference)
        wanted = theirs(image, interpolate_pos_encoding=True).logits
        found = ours.class_logits(image)[:, order]
        agree({"logits": found}, {"logits": wanted}, f"{name} at {tuple(image.shape[2:])}")


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["swin-three-stages", "swinv2-pretrained"])
def test_the_pyramid_of_maps_agrees(name, dtype, prepare, agree):
    """Dense features of every stage, before it is merged, as detectors take them."""
    reference, ours, (image, *_) = prepare(name, dtype)
    theirs = fresh(reference)
    encoder = theirs.base_model.encoder
    tokens, grid = theirs.base_model.embeddings(image)
    before = encoder(tokens, grid, output_hidden_states=True, output_hidden_states_before_downsampling=True)
    wanted = {str(i): t.permute(0, 2, 3, 1) for i, t in enumerate(before.reshaped_hidden_states[1:])}
    found = {str(i): t for i, t in enumerate(ours.image.maps(image))}
    agree(found, wanted, f"{name} maps")


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "deit"])
def test_attention_maps_agree(name, prepare, agree):
    """The weights of every block and head."""
    reference, ours, (image, *_) = prepare(name, torch.float64)
    reference.set_attn_implementation("eager")
    # transformers computes its softmax in float32 when asked for weights, whatever the type.
    wanted = torch.stack(reference(image.clone(), output_attentions=True).attentions, 1)
    found = ours.image.attention_maps(image)
    assert float((found - wanted).abs().max()) < 1e-6


@torch.no_grad()
@pytest.mark.parametrize("name", ["swin", "swin-three-stages", "swinv2"])
def test_windows_attention_agrees(name, prepare):
    """The weights of every window and head of each stage's last block, which is what transformers returns."""
    reference, ours, (image, *_) = prepare(name, torch.float64)
    reference = fresh(reference)
    reference.set_attn_implementation("eager")
    wanted = reference(image.clone(), output_attentions=True).attentions
    found = attention_maps(ours.image, image)
    for stage, theirs in enumerate(wanted):
        mine = [w for w in found if w.stage == stage][-1].weight_BNASS.flatten(0, 1)
        assert mine.shape == theirs.shape
        assert float((mine - theirs).abs().max()) < 1e-6  # its softmax is float32 here too


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit", "deit", "swin", "swin-three-stages", "swinv2"])
def test_exported_models_are_read_by_transformers(name, prepare, agree, tmp_path):
    """What we write, transformers loads without a missing key, and says the same, classes included."""
    reference, ours, (image, *_) = prepare(name)
    export(ours, tmp_path / "exported")
    again, info = type(reference).from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert list(again.config.id2label.values()) == list(ours.classes)
    agree({"logits": ours.class_logits(image)}, {"logits": again.eval()(image).logits}, f"{name} exported")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "processor"),
    [
        ("vit", {"type": "ViTImageProcessorPil", "size": {"height": 30, "width": 30}, "image_mean": [0.4, 0.5, 0.6]}),
        (
            "deit",
            {
                "type": "DeiTImageProcessorPil",
                "size": {"height": 37, "width": 36},
                "crop_size": {"height": 30, "width": 30},
            },
        ),
        ("swinv2", {"type": "ViTImageProcessorPil", "size": {"height": 32, "width": 32}, "resample": 3}),
    ],
)
@pytest.mark.parametrize("shape", [(50, 40), (29, 71)])
def test_preprocessing_agrees(name, processor, shape, prepare, tmp_path):
    """The published processor's pixels are ours, to the rounding of a byte, and the model takes them."""
    settings = dict(processor)
    theirs = getattr(transformers, settings.pop("type"))(**settings)
    prepare(name)
    theirs.save_pretrained(tmp_path / "published")
    ours = load(tmp_path / "published")
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    wanted = theirs(images=[image], return_tensors="pt")["pixel_values"]
    found = ours.processors["image"]([image])
    step = 1 / 255 / min(ours.processors["image"].std)
    assert float((found - wanted).abs().max()) <= 1.01 * step
    assert ours.classify([image], ours.classes[:3]).shape == (1, 3)


def test_deit_without_teacher_is_read_without_its_second_head(tmp_path, randomise, agree):
    """DeiTForImageClassification has a distillation token that takes part, and one head."""
    case = Case("deit-plain")
    reference = case.build().eval()
    randomise(reference, seed=3)
    reference.save_pretrained(tmp_path / "published")
    ours = load(tmp_path / "published", processors={})
    image = torch.randn(2, 3, 30, 30, generator=torch.Generator().manual_seed(1))
    order = classes_in_their_order(ours, case.classes)
    with torch.no_grad():
        agree({"logits": ours.class_logits(image)[:, order]}, {"logits": reference(image).logits}, "deit, one head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv_bias": False}, "qkv_bias"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings"),
        ({"hidden_act": "relu"}, "activation 'relu'"),
        ({"patch_size": [2, 4]}, "square"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_said(change, message):
    """A configuration that the network does not have is refused in words, not half-loaded."""
    data = transformers.SwinConfig().to_dict() | change
    with pytest.raises(CheckpointError, match=message):
        vision.read_swin(data)


def test_a_backbone_without_a_head_is_refused(tmp_path):
    """It says nothing about pictures."""
    config = CASES["swin"].build().config
    transformers.SwinModel(config).save_pretrained(tmp_path / "published")
    with pytest.raises(CheckpointError, match="without a classifier"):
        load(tmp_path / "published", processors={})


def test_classes_of_one_name_are_told_apart(tmp_path, prepare):
    """ImageNet has two cranes."""
    reference, _, _ = prepare("swin")
    data = reference.config.to_dict() | {"id2label": {i: ("crane" if i in (3, 7) else f"c{i}") for i in range(12)}}
    labels, order = vision.read_classes(data, reference.state_dict())
    assert {"crane (3)", "crane (7)"} <= set(labels.names)
    assert order[labels.names.index("crane (7)")] == 7


def test_every_published_kind_is_one_of_ours(prepare):
    """The two methods."""
    assert isinstance(prepare("deit")[1], ViT)
    assert isinstance(prepare("swinv2")[1], Swin)
