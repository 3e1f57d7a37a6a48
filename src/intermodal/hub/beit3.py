"""BEiT-3 in its published layout (Wang et al. 2023), as safetensors: the weights for retrieval and for captions.

Every layer is there twice, ``A`` for pictures and ``B`` for texts. The weights were published as pickles, without a
configuration: sizes are read from the tensors, and a head has 64 numbers, as in all published sizes, unless a
``config.json`` (``"model_type": "beit3"``, and torchscale's names) says otherwise. Heads for classification, questions
and NLVR2 are refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from intermodal.core.checkpoint import PICKLES, WEIGHTS
from intermodal.core.errors import CheckpointError
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename, reshape
from intermodal.hub.processors import read_text_processor
from intermodal.hub.weights import build, read_weights
from intermodal.methods.vision_language.experts import Experts, ExpertsMethodConfig, Head
from intermodal.nn.experts import RESERVED, ExpertsConfig

KIND = "beit3"
HEAD_WIDTH, TEXT_TOKENS = 64, 64
"""Numbers of an attention head in every published size, and the tokens to which texts are cut in its tasks."""
PAD, END, MASK = 1, 2, 64001
"""Ids of its tokenizer."""
HALF = (0.5, 0.5, 0.5)
_LAYER = "beit3.encoder.layers.{i}."
_FIXED = {"multiway": True, "subln": True, "normalize_output": True, "no_output_layer": True, "activation_fn": "gelu"}
_FIXED |= {"encoder_normalize_before": True, "no_scale_embedding": True, "layernorm_embedding": False, "in_chans": 3}
_FIXED |= {"rel_pos_buckets": 0, "max_rel_pos": 0, "xpos_rel_pos": False, "deepnorm": False, "moe_freq": 0}


def is_beit3(folder: Path) -> bool:
    """Say whether a folder without a configuration holds BEiT-3's weights, by their files' names (pickles too)."""
    kinds = {".safetensors", *PICKLES}
    return any(f.name.startswith(KIND) and f.suffix.lower() in kinds for f in folder.iterdir())


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> Experts:
    """Return the model of a folder with BEiT-3's weights.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that these networks do not have.
    """
    names = sorted(f.name for f in folder.glob(f"{KIND}*.safetensors"))
    tensors = read_weights(folder, WEIGHTS if (folder / WEIGHTS).exists() or not names else names[0])
    config = read_config(data, tensors, folder)
    if processors is None:
        size = config.network.image_size
        processors = {"image": ImageProcessor(size=(size, size), mean=HALF, std=HALF, resize="squash")}
        if (folder / "tokenizer.json").exists():
            most = min(TEXT_TOKENS, config.network.context_length)
            text = read_text_processor(folder, context_length=most, eos_id=END, pad_id=PAD)
            processors = {**processors, "text": text}
    made = dict(processors)
    return build(lambda: Experts(config, made), tensors, key_map(config), folder)


def read_config(data: Mapping[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> ExpertsMethodConfig:
    """Return our configuration of published tensors.

    Raises:
        CheckpointError: if a tensor that says a size is missing, or the configuration says what is not supported.
    """
    wrong = {k: data[k] for k, v in _FIXED.items() if data.get(k, v) != v}
    if wrong:
        said = ", ".join(f"{k}={v!r}" for k, v in wrong.items())
        raise CheckpointError(f"{folder}: {said} is not supported; BEiT-3's published models have none of it.")
    try:
        vocab_size, width = tensors["beit3.text_embed.weight"].shape
        patch = tensors["beit3.vision_embed.proj.weight"].shape[-1]
        hidden = len(tensors["beit3.encoder.layers.0.ffn.A.fc1.bias"])
        images, texts = (len(tensors[f"beit3.encoder.embed_positions.{m}.weight"]) for m in "AB")
    except KeyError as error:
        raise CheckpointError(f"{folder} holds no BEiT-3: the tensor {error} is missing.") from error
    heads = tuple(head for head, key in _HEADS.items() if key in tensors)
    network = ExpertsConfig(
        image_size=patch * math.isqrt(images - RESERVED - 1),
        patch_size=patch,
        vocab_size=vocab_size,
        context_length=texts - RESERVED,
        pad_id=PAD,
        eos_id=END,
        mask_id=data.get("mask_token_id", min(MASK, vocab_size - 1)),
        width=width,
        depth=1 + max(int(k.split(".")[3]) for k in tensors if k.startswith("beit3.encoder.layers.")),
        fusion_depth=0,
        heads=data.get("encoder_attention_heads", max(width // HEAD_WIDTH, 1)),
        mlp_width=hidden,
        norm_eps=data.get("layernorm_eps", 1e-5),
        layout="separate",
    )
    dim = len(tensors["vision_head.weight"]) if "contrast" in heads else width
    return ExpertsMethodConfig(network=network, heads=heads, embed_dim=dim, code_cells=1)


def key_map(config: ExpertsMethodConfig) -> KeyMap:
    """Return the key map of BEiT-3 with the heads that the configuration has."""
    one = (1, 1, config.network.width)
    rules: list[Rule] = [
        rename("beit3.text_embed.weight", "network.token_embedding.weight"),
        rename("beit3.vision_embed.proj.{p}", "network.patches.{p}"),
        reshape("beit3.vision_embed.cls_token", "network.class_token", one, (-1,)),
        reshape("beit3.vision_embed.mask_token", "network.mask_token", one, (-1,)),
        rename("beit3.encoder.embed_positions.A.weight", "network.image_position"),
        rename("beit3.encoder.embed_positions.B.weight", "network.text_position"),
    ]
    for letter, expert in (("A", "vision"), ("B", "language")):
        ours, attention = "network.blocks.{i}.", "network.blocks.{i}.attention."
        rules += [
            rename(f"beit3.encoder.layer_norm.{letter}." + "{p}", f"network.final_norm.{expert}." + "{p}"),
            rename(_LAYER + f"self_attn_layer_norm.{letter}." + "{p}", ours + f"before.{expert}." + "{p}"),
            fuse(_LAYER + "self_attn.{q,k,v}_proj." + letter + ".{p}", attention + f"qkv.{expert}." + "{p}"),
            rename(_LAYER + f"self_attn.inner_attn_ln.{letter}." + "{p}", attention + f"norms.{expert}." + "{p}"),
            rename(_LAYER + f"self_attn.out_proj.{letter}." + "{p}", attention + f"out.{expert}." + "{p}"),
            rename(_LAYER + f"final_layer_norm.{letter}." + "{p}", ours + f"norms.{expert}." + "{p}"),
            rename(_LAYER + f"ffn.{letter}.ffn_layernorm." + "{p}", ours + f"mlps.{expert}.norm." + "{p}"),
            *(rename(_LAYER + f"ffn.{letter}.{fc}." + "{p}", ours + f"mlps.{expert}.{fc}." + "{p}") for fc in _MLP),
        ]
    if "contrast" in config.heads:
        rules += [
            rename("vision_head.weight", "image_projection.weight"),
            rename("language_head.weight", "text_projection.weight"),
            rename("logit_scale", "logit_scale"),
        ]
    if "words" in config.heads:
        rules.append(rename("mlm_head.{p}", "word_head.{p}"))
    return KeyMap(*rules)


_MLP = ("fc1", "fc2")
_HEADS: dict[Head, str] = {"contrast": "vision_head.weight", "words": "mlm_head.weight"}
