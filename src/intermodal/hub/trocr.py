"""TrOCR in transformers' published layout: a VisionEncoderDecoderModel of a ViT or DeiT and a TrOCRForCausalLM.

TrOCR base and large have a ViT whose queries, keys and values have no biases (BEiT's weights), RoBERTa's byte-level BPE,
and decoders of learnt positions or of sines; TrOCR small has a DeiT with a distillation token and a decoder of scaled
embeddings with a last matrix of its own. The encoder's pooler is not read by the decoder, and left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.processors import Processor
from intermodal.data.sentences import SentenceProcessor
from intermodal.hub import vision
from intermodal.hub.keymap import KeyMap, Rule, fuse, rename
from intermodal.hub.language import GENERATION, read_text
from intermodal.hub.processors import read_image_processor, refuse_larger
from intermodal.hub.weights import build, read_weights
from intermodal.methods.vision_language.trocr import TrOCR, TrOCRConfig
from intermodal.nn.reader import ReaderConfig
from intermodal.nn.transformer import Activation
from intermodal.nn.vit import ViTConfig

KIND = "vision-encoder-decoder"
ENCODERS, DECODER = ("vit", "deit"), "trocr"
ACTIVATIONS: dict[str, Activation] = {**vision.ACTIVATIONS, "relu": "relu"}
OFFSET = 2
"""Published learnt positions begin with two rows that no token has."""
HEAD, EMBEDDING = "decoder.output_projection.weight", "decoder.model.decoder.embed_tokens.weight"
POSITIONS = "decoder.model.decoder.embed_positions"


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> TrOCR:
    """Return the model of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that these networks do not have.
    """
    tensors = read_weights(folder)
    generation = read_json(folder / GENERATION, "generation settings") if (folder / GENERATION).exists() else {}
    config = read_config({**data, **{k: v for k, v in generation.items() if k == "decoder_start_token_id"}}, tensors)
    if processors is None:
        kind = data["encoder"]["model_type"]
        pictures = vision.DEIT_PICTURES if kind == "deit" else vision.VIT_PICTURES
        processors = {
            "image": read_image_processor(folder, _size(config), pictures),
            "text": _text(folder, data, config),
        }
    given = processors
    return build(lambda: TrOCR(config, given), tensors, key_map(config), folder)


def _size(config: TrOCRConfig) -> tuple[int, int]:
    size: tuple[int, int] = config.image.size  # type: ignore[union-attr]  # published encoders are ViTs
    return size


def _text(folder: Path, data: Mapping[str, Any], config: TrOCRConfig) -> SentenceProcessor:
    """Return the tokenizer, whose texts begin with the start token and end with the end token of the model."""
    found, _ = read_text(folder, data["decoder"], config.text.context_length)
    refuse_larger(found.vocab_size, config.text.vocab_size, folder)
    return SentenceProcessor(
        found.tokenizer,
        context_length=config.text.context_length,
        eos_id=config.eos_id,
        pad_id=config.text.pad_id,
        bos_id=config.start_id,
    )


def read_config(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrOCRConfig:
    """Return the configuration of a ``config.json``'s data; what it leaves out is what transformers fills in.

    Raises:
        CheckpointError: if it describes something that these networks do not have.
    """
    image, text = data.get("encoder") or {}, data.get("decoder") or {}
    kinds = (image.get("model_type"), text.get("model_type"))
    if kinds[0] not in ENCODERS or kinds[1] != DECODER:
        raise CheckpointError(
            f"A {KIND} of {kinds[0]!r} and {kinds[1]!r} is not supported: {' or '.join(ENCODERS)} with {DECODER!r} are "
            "(TrOCR)."
        )
    tower = vision.read_tower(image)
    width, context = text.get("d_model", 1024), text.get("cross_attention_hidden_size")
    project = context is None and tower.width != width
    activation = text.get("activation_function", "gelu")
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"The activation {activation!r} is not supported; {', '.join(ACTIVATIONS)} are.")
    tied = HEAD not in tensors
    if not tied and text.get("tie_word_embeddings", True):
        tied = EMBEDDING in tensors and torch.equal(tensors[HEAD], tensors[EMBEDDING])
    end = _one(data.get("eos_token_id"), _one(text.get("eos_token_id"), 2))
    return TrOCRConfig(
        image=tower,
        text=ReaderConfig(
            vocab_size=text.get("vocab_size", 50265),
            context_length=text.get("max_position_embeddings", 512),
            width=width,
            depth=text.get("decoder_layers", 12),
            heads=text.get("decoder_attention_heads", 16),
            context_dim=width if project or context is None else context,
            mlp_width=text.get("decoder_ffn_dim", 4096),
            activation=ACTIVATIONS[activation],
            positions="learnt" if text.get("use_learned_position_embeddings", True) else "sines",
            scaled=bool(text.get("scale_embedding", False)),
            embedding_norm=bool(text.get("layernorm_embedding", True)),
            tied=tied,
            pad_id=_one(text.get("pad_token_id"), 1),
            dropout=float(text.get("dropout", 0.1)),
            attention_dropout=float(text.get("attention_dropout", 0.0)),
        ),
        start_id=_one(data.get("decoder_start_token_id"), _one(text.get("decoder_start_token_id"), 2)),
        eos_id=end,
        project=project,
    )


def write_config(model: TrOCR) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same VisionEncoderDecoderModel.

    Raises:
        CheckpointError: if it has no such architecture; it says why.
    """
    config, text = model.config, model.config.text
    if not isinstance(config.image, ViTConfig) or config.ctc_weight:
        raise CheckpointError(
            "transformers has no encoder of lines and no CTC layer beside a decoder: a TrOCR of a ViT or DeiT and a decoder "
            "can be exported."
        )
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    special = {"eos_token_id": config.eos_id, "pad_token_id": text.pad_id, "decoder_start_token_id": config.start_id}
    return {
        "architectures": ["VisionEncoderDecoderModel"],
        "model_type": KIND,
        "is_encoder_decoder": True,
        "tie_word_embeddings": text.tied,
        **special,
        "encoder": vision.write_tower(config.image),
        "decoder": {
            "model_type": DECODER,
            "is_decoder": True,
            "add_cross_attention": True,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "d_model": text.width,
            "decoder_layers": text.depth,
            "decoder_attention_heads": text.heads,
            "decoder_ffn_dim": text.hidden,
            "cross_attention_hidden_size": None if config.project else text.context,
            "activation_function": names[text.activation],
            "use_learned_position_embeddings": text.positions == "learnt",
            "scale_embedding": text.scaled,
            "layernorm_embedding": text.embedding_norm,
            "tie_word_embeddings": text.tied,
            "dropout": text.dropout,
            "attention_dropout": text.attention_dropout,
            "bos_token_id": config.start_id,
            **special,
        },
    }


def write_generation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data of ``generation_config.json``: the special tokens and the most that is written."""
    names = ("decoder_start_token_id", "eos_token_id", "pad_token_id")
    most = config["decoder"]["max_position_embeddings"]
    return {
        **{name: config[name] for name in names},
        "bos_token_id": config["decoder_start_token_id"],
        "max_length": most,
    }


def write_tensors(model: TrOCR) -> dict[str, Tensor]:
    """Return the published tensors; the encoder's pooler, which nothing reads, is zeros."""
    tensors = key_map(model.config).to_published({k: v.detach() for k, v in model.state_dict().items()})
    width, like = model.config.image.width, tensors[EMBEDDING]
    return {
        **tensors,
        "encoder.pooler.dense.weight": like.new_zeros(width, width),
        "encoder.pooler.dense.bias": like.new_zeros(width),
    }


def _one(stated: Any, default: int) -> int:
    """Return the (first) token that is stated."""
    first = stated[0] if isinstance(stated, list) and stated else stated
    return default if first is None or isinstance(first, list) else int(first)


def key_map(config: TrOCRConfig) -> KeyMap:
    """Return the key map of a TrOCR with a ViT."""
    image, text = config.image, config.text
    theirs, layer, block = "decoder.model.decoder", "decoder.model.decoder.layers.{i}", "decoder.blocks.{i}"
    rules: list[Rule] = [
        *vision.tower_rules("encoder", image),  # type: ignore[arg-type]  # published encoders are ViTs
        rename(EMBEDDING, "decoder.token_embedding.weight"),
        fuse(layer + ".self_attn.{q,k,v}_proj.{p}", block + ".attention.qkv.{p}"),
        rename(layer + ".self_attn.out_proj.{p}", block + ".attention.out.{p}"),
        rename(layer + ".self_attn_layer_norm.{p}", block + ".norm1.{p}"),
        rename(layer + ".encoder_attn.q_proj.{p}", block + ".cross.q.{p}"),
        fuse(layer + ".encoder_attn.{k,v}_proj.{p}", block + ".cross.kv.{p}"),
        rename(layer + ".encoder_attn.out_proj.{p}", block + ".cross.out.{p}"),
        rename(layer + ".encoder_attn_layer_norm.{p}", block + ".cross_norm.{p}"),
        rename(layer + ".fc1.{p}", block + ".mlp.fc1.{p}"),
        rename(layer + ".fc2.{p}", block + ".mlp.fc2.{p}"),
        rename(layer + ".final_layer_norm.{p}", block + ".norm2.{p}"),
    ]
    if text.positions == "learnt":
        rules.append(_behind_offset(f"{POSITIONS}.weight", "decoder.position_embedding"))
    if text.embedding_norm:
        rules.append(rename(theirs + ".layernorm_embedding.{p}", "decoder.embedding_norm.{p}"))
    if not text.tied:
        rules.append(rename(HEAD, "decoder.head.weight"))
    if config.project:
        rules.append(rename("enc_to_dec_proj.{p}", "projection.{p}"))
    ignored = ["encoder.pooler.dense.{p}", f"{theirs}.version"]
    ignored += [f"{POSITIONS}._float_tensor"] if text.positions == "sines" else []
    return KeyMap(*rules, ignored=[*ignored, *([HEAD] if text.tied else [])])


def _behind_offset(theirs: str, ours: str) -> Rule:
    """Return the rule of positions whose first two published rows no token has: they are left out, and written as zeros."""
    return Rule(
        (theirs,),
        (ours,),
        lambda ts: [ts[0][OFFSET:]],
        lambda ts: [torch.cat([ts[0].new_zeros(OFFSET, ts[0].shape[1]), ts[0]])],
    )
