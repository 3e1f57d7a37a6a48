"""Vision transformers that tell classes, in transformers' published layout: ViT, DeiT, Swin and Swin v2.

``ViTForImageClassification`` and ``DeiTForImageClassificationWithTeacher`` (or ``DeiTForImageClassification``, whose
distillation token nobody reads) become the method ``vit``, ``SwinForImageClassification`` and
``Swinv2ForImageClassification`` the method ``swin``. Our classes are sorted by name; the heads' rows move with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.data.processors import LabelProcessor, Processor
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape
from intermodal.hub.processors import read_image_processor
from intermodal.hub.weights import build, read_weights
from intermodal.methods.base import Method
from intermodal.methods.vision_language.swin import Swin, SwinClassifierConfig
from intermodal.methods.vision_language.vit import ViT, ViTClassifierConfig
from intermodal.nn.swin import SwinConfig
from intermodal.nn.transformer import Activation
from intermodal.nn.vit import ViTConfig

KINDS = ("vit", "deit", "swin", "swinv2")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}
_HALF, _MEAN, _STD = (0.5, 0.5, 0.5), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIT_PICTURES: dict[str, Any] = {
    "size": 224,
    "resample": 2,
    "do_center_crop": False,
    "image_mean": _HALF,
    "image_std": _HALF,
}
DEIT_PICTURES: dict[str, Any] = {
    "size": 256,
    "crop_size": 224,
    "resample": 3,
    "do_center_crop": True,
    "image_mean": _HALF,
    "image_std": _HALF,
}


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    """Return the model of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that these networks do not have.
    """
    kind = data["model_type"]
    tensors = read_weights(folder)
    if not any(key.startswith(("classifier.", "cls_classifier.")) for key in tensors):
        raise CheckpointError(
            f"{folder} holds a {kind} without a classifier: it says nothing about pictures by itself."
        )
    labels, order = read_classes(data, tensors)
    config = read_vit(data, tensors) if kind in ("vit", "deit") else read_swin(data)
    if processors is None:
        pictures = DEIT_PICTURES if kind == "deit" else VIT_PICTURES
        processors = {"image": read_image_processor(folder, config.image.size, pictures)}
    with_labels = {**processors, "label": labels}
    if isinstance(config, ViTClassifierConfig):
        return build(lambda: ViT(config, with_labels), tensors, vit_map(kind, config, order), folder)
    return build(lambda: Swin(config, with_labels), tensors, swin_map(kind, order), folder)


def read_classes(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[LabelProcessor, list[int]]:
    """Return the classes, sorted, and for each the row that it has in the published head.

    A name that several classes have, as happens in ImageNet's list, is followed by the class's number.

    Raises:
        CheckpointError: if the configuration does not name each row of the head.
    """
    rows = next(t.shape[0] for k, t in tensors.items() if k.removeprefix("cls_") == "classifier.bias")
    named = data.get("id2label") or {}
    names = {int(number): str(name) for number, name in named.items()} or {i: f"LABEL_{i}" for i in range(rows)}
    if sorted(names) != list(range(rows)):
        raise CheckpointError(f"The configuration names {len(names)} classes (id2label), the head has {rows}.")
    counts = Counter(names.values())
    unique = [names[i] if counts[names[i]] == 1 else f"{names[i]} ({i})" for i in range(rows)]
    order = sorted(range(rows), key=unique.__getitem__)
    return LabelProcessor(names=tuple(unique[i] for i in order)), order


def read_vit(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ViTClassifierConfig:
    """Return the configuration of a ViT or DeiT; what it leaves out is what transformers fills in.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    return ViTClassifierConfig(image=read_tower(data), two_heads="distillation_classifier.bias" in tensors)


def read_tower(data: Mapping[str, Any]) -> ViTConfig:
    """Return the configuration of a ViT's or DeiT's tower.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    return ViTConfig(
        image_size=_size(data.get("image_size", 224)),
        patch_size=_square(data.get("patch_size", 16)),
        width=data.get("hidden_size", 768),
        depth=data.get("num_hidden_layers", 12),
        heads=data.get("num_attention_heads", 12),
        mlp_width=data.get("intermediate_size", 3072),
        channels=data.get("num_channels", 3),
        activation=_activation(data),
        norm_eps=float(data.get("layer_norm_eps", 1e-12)),
        pre_norm=False,
        patch_bias=True,
        distillation=data["model_type"] == "deit",
        qkv_bias=bool(data.get("qkv_bias", True)),
    )


def read_swin(data: Mapping[str, Any]) -> SwinClassifierConfig:
    """Return the configuration of a Swin or Swin v2; what it leaves out is what transformers fills in.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    for name, wanted in (("qkv_bias", True), ("use_absolute_embeddings", False)):
        if bool(data.get(name, wanted)) != wanted:
            raise CheckpointError(f"A Swin with {name}={data[name]!r} is not supported: {wanted!r} is.")
    size, patch = _size(data.get("image_size", 224)), _square(data.get("patch_size", 4))
    depths, window = tuple(data.get("depths", (2, 2, 6, 2))), int(data.get("window_size", 7))
    second = data["model_type"] == "swinv2"
    if second and not isinstance(size, int):
        raise CheckpointError(f"A Swin v2 made for pictures that are not square ({size}) is not supported.")
    sides = [window] * len(depths)
    if second:  # its windows are no larger than the maps of the pictures that it is made for
        assert isinstance(size, int)
        sides = [min(window, (size // patch) // 2**stage) for stage in range(len(depths))]
    pretrained = tuple(data.get("pretrained_window_sizes") or ())[: len(depths)]
    return SwinClassifierConfig(
        image=SwinConfig(
            image_size=size,
            patch_size=patch,
            width=data.get("embed_dim", 96),
            depths=depths,
            heads=tuple(data.get("num_heads", (3, 6, 12, 24))),
            window=tuple(sides),
            version=2 if second else 1,
            pretrained_windows=pretrained if second else (),
            mlp_ratio=float(data.get("mlp_ratio", 4.0)),
            channels=data.get("num_channels", 3),
            activation=_activation(data),
            norm_eps=float(data.get("layer_norm_eps", 1e-5)),
            drop_path=float(data.get("drop_path_rate", 0.1)),
        )
    )


def write_config(model: ViT | Swin) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same model.

    Raises:
        CheckpointError: if transformers has no such architecture; it says why.
    """
    classes = {
        "id2label": {str(i): name for i, name in enumerate(model.classes)},
        "label2id": {name: i for i, name in enumerate(model.classes)},
    }
    if isinstance(model, ViT):
        name = "ViTForImageClassification"
        if model.config.image.distillation:
            name = "DeiTForImageClassification" + ("WithTeacher" if model.config.distils else "")
        return {"architectures": [name], **write_tower(model.config.image), **classes}
    image = model.config.image
    if image.pool != "mean":
        raise CheckpointError(
            f"transformers' Swin reads the mean of all places: image.pool must be 'mean', not {image.pool!r}."
        )
    if image.merge != "concat":
        raise CheckpointError(f"transformers' Swin joins places by 'concat', not by {image.merge!r}.")
    sides = [image.window_of(stage) for stage in range(len(image.depths))]
    grid = image.size[0] // image.patch_size
    fits = image.size[0] == image.size[1] and image.size[0] % (image.patch_size * 2 ** (len(image.depths) - 1)) == 0
    wanted = [min(max(sides), grid >> stage) if image.version == 2 else max(sides) for stage in range(len(sides))]
    if not fits or sides != wanted:
        raise CheckpointError(
            f"transformers' Swin has windows of {wanted} places on such maps, this model of {sides}: train it with "
            "image.window no larger than its last map, on square pictures that halve evenly."
        )
    v2 = {"pretrained_window_sizes": list(image.pretrained_windows or (0,) * len(sides))} if image.version == 2 else {}
    return {
        "architectures": ["Swinv2ForImageClassification" if image.version == 2 else "SwinForImageClassification"],
        "model_type": kind_of(model),
        **classes,
        **_shared(image),
        "qkv_bias": True,
        "embed_dim": image.width,
        "depths": list(image.depths),
        "num_heads": list(image.heads),
        "window_size": max(sides),
        "mlp_ratio": image.mlp_ratio,
        "use_absolute_embeddings": False,
        "drop_path_rate": image.drop_path,
        **v2,
    }


def write_tower(image: ViTConfig) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds a ViT's or DeiT's tower.

    Raises:
        CheckpointError: if transformers has no such architecture; it says why.
    """
    lacking = [
        text
        for text, holds in {
            "image.pool='cls'": image.pool == "cls",
            "image.pre_norm=False": not image.pre_norm,
            "image.patch_bias=True": image.patch_bias,
            "a square picture": image.size[0] == image.size[1],
        }.items()
        if not holds
    ]
    if lacking:
        raise CheckpointError(f"transformers' ViT cannot hold this model: it needs {', '.join(lacking)}.")
    return {
        "model_type": "deit" if image.distillation else "vit",
        **_shared(image),
        "qkv_bias": image.qkv_bias,
        "hidden_size": image.width,
        "num_hidden_layers": image.depth,
        "num_attention_heads": image.heads,
        "intermediate_size": image.hidden,
    }


def _shared(image: ViTConfig | SwinConfig) -> dict[str, Any]:
    """Return what is stated of both kinds of towers."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    return {
        "image_size": image.image_size if isinstance(image.image_size, int) else list(image.image_size),
        "patch_size": image.patch_size,
        "num_channels": image.channels,
        "hidden_act": names[image.activation],
        "layer_norm_eps": image.norm_eps,
    }


def kind_of(model: ViT | Swin) -> str:
    """Return the ``model_type`` that transformers calls such a model."""
    if isinstance(model, ViT):
        return "deit" if model.config.image.distillation else "vit"
    return "swin" if model.config.image.version == 1 else "swinv2"


def key_map(model: ViT | Swin) -> KeyMap:
    """Return the key map of a model of ours, whose classes keep their order."""
    order = list(range(len(model.classes)))
    if isinstance(model, ViT):
        return vit_map(kind_of(model), model.config, order)
    return swin_map(kind_of(model), order)


def vit_map(kind: str, config: ViTClassifierConfig, order: Sequence[int]) -> KeyMap:
    """Return the key map of a ViT or DeiT; ``order`` names the published row of each of our classes."""
    rules = [
        *tower_rules(kind, config.image),
        *_rows("cls_classifier" if config.distils else "classifier", "head", order),
    ]
    if config.distils:
        rules += _rows("distillation_classifier", "distillation_head", order)
    return KeyMap(*rules)


def tower_rules(theirs: str, config: ViTConfig) -> list[Rule]:
    """Return the rules of a ViT's or DeiT's tower, whose published keys begin with ``theirs`` and a dot."""
    layer, block, width = f"{theirs}.encoder.layer.{{i}}", "image.transformer.blocks.{i}", config.width
    rules = [
        reshape(f"{theirs}.embeddings.cls_token", "image.class_token", (1, 1, width), (width,)),
        reshape(f"{theirs}.embeddings.position_embeddings", "image.position_embedding", (1, -1, width), (-1, width)),
        rename(f"{theirs}.embeddings.patch_embeddings.projection.{{p}}", "image.patch_embedding.{p}"),
        fuse(layer + ".attention.attention.{query,key,value}.{p}", block + ".attention.qkv.{p}"),
        rename(layer + ".attention.output.dense.{p}", block + ".attention.out.{p}"),
        rename(layer + ".layernorm_before.{p}", block + ".norm1.{p}"),
        rename(layer + ".layernorm_after.{p}", block + ".norm2.{p}"),
        rename(layer + ".intermediate.dense.{p}", block + ".mlp.fc1.{p}"),
        rename(layer + ".output.dense.{p}", block + ".mlp.fc2.{p}"),
        rename(f"{theirs}.layernorm.{{p}}", "image.post_norm.{p}"),
    ]
    if config.distillation:
        token = f"{theirs}.embeddings.distillation_token"
        rules.append(reshape(token, "image.distillation_token", (1, 1, width), (width,)))
    return rules


def swin_map(kind: str, order: Sequence[int]) -> KeyMap:
    """Return the key map of a Swin or Swin v2; ``order`` names the published row of each of our classes."""
    layer, block = f"{kind}.encoder.layers.{{s}}.blocks.{{i}}", "image.stages.{s}.{i}"
    theirs, ours = layer + ".attention.self", block + ".attention"
    if kind == "swin":
        attention = [
            fuse(theirs + ".{query,key,value}.{p}", ours + ".attention.qkv.{p}"),
            rename(theirs + ".relative_position_bias_table", ours + ".bias.table"),
        ]
    else:
        attention = [
            fuse(theirs + ".{query,key,value}.weight", ours + ".attention.qkv.weight"),
            fuse(theirs + ".{query,value}.bias", ours + ".attention.qkv.bias"),
            rename(theirs + ".logit_scale", ours + ".attention.positions.log_scale"),
            rename(theirs + ".continuous_position_bias_mlp.0.{p}", ours + ".bias.fc1.{p}"),
            rename(theirs + ".continuous_position_bias_mlp.2.{p}", ours + ".bias.fc2.{p}"),
        ]
    return KeyMap(
        rename(f"{kind}.embeddings.patch_embeddings.projection.{{p}}", "image.patch_embedding.{p}"),
        rename(f"{kind}.embeddings.norm.{{p}}", "image.patch_norm.{p}"),
        *attention,
        rename(layer + ".attention.output.dense.{p}", ours + ".attention.out.{p}"),
        rename(layer + ".layernorm_before.{p}", block + ".norm1.{p}"),
        rename(layer + ".layernorm_after.{p}", block + ".norm2.{p}"),
        rename(layer + ".intermediate.dense.{p}", block + ".mlp.fc1.{p}"),
        rename(layer + ".output.dense.{p}", block + ".mlp.fc2.{p}"),
        rename(f"{kind}.encoder.layers.{{s}}.downsample.norm.{{p}}", "image.mergings.{s}.norm.{p}"),
        rename(f"{kind}.encoder.layers.{{s}}.downsample.reduction.{{p}}", "image.mergings.{s}.reduction.{p}"),
        rename(f"{kind}.layernorm.{{p}}", "image.norm.{p}"),
        *_rows("classifier", "head", order),
        ignored=(theirs + ".relative_position_index", theirs + ".relative_coords_table", layer + ".attn_mask"),
    )


def _rows(theirs: str, ours: str, order: Sequence[int]) -> list[Rule]:
    there = torch.tensor(order)
    back = there.argsort()

    def moved(index: Tensor) -> Callable[[Sequence[Tensor]], list[Tensor]]:
        return lambda tensors: [tensors[0][index.to(tensors[0].device)]]

    return [Rule((f"{theirs}.{p}",), (f"{ours}.{p}",), moved(there), moved(back)) for p in ("weight", "bias")]


def _activation(data: Mapping[str, Any]) -> Activation:
    name = data.get("hidden_act", "gelu")
    if name not in ACTIVATIONS:
        raise CheckpointError(f"The activation {name!r} is not supported; {', '.join(ACTIVATIONS)} are.")
    return ACTIVATIONS[name]


def _size(size: int | list[int]) -> int | tuple[int, int]:
    return size if isinstance(size, int) else (int(size[0]), int(size[1]))


def _square(patch: int | list[int]) -> int:
    if isinstance(patch, int):
        return patch
    if patch[0] != patch[1]:
        raise CheckpointError(f"Patches must be square, found {patch}.")
    return int(patch[0])
