"""LLaVA in transformers' published layout (``llava-hf``): a CLIP's tower, a projector of two layers, a Llama.

The names of tensors have changed twice; all three ways are read. Chats are framed as LLaVA 1.5's are
(:class:`~intermodal.data.chat.ChatFormat`); a template in the folder is not read, as it is a program.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from intermodal.core.errors import CheckpointError
from intermodal.data.chat import PICTURE, ChatProcessor
from intermodal.data.processors import Processor
from intermodal.hub import clip, llama
from intermodal.hub.keymap import KeyMap, rename
from intermodal.hub.language import read_text
from intermodal.hub.processors import read_image_processor, refuse_larger
from intermodal.hub.weights import build, read_weights
from intermodal.methods.captioning.language import LanguageConfig
from intermodal.methods.vision_language.llava import LLaVA, LLaVAConfig

KIND = "llava"
_TOWER = {
    **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    **{"image_size": 336, "patch_size": 14},
}
"""What transformers fills in where nothing is said of the tower."""


def read_config(data: Mapping[str, Any]) -> LLaVAConfig:
    """Return our configuration of a published ``config.json``'s data.

    Raises:
        CheckpointError: if it describes something that this network does not have.
    """
    vision, text = dict(data.get("vision_config") or _TOWER), dict(data.get("text_config") or {})
    for name, section, wanted in (("vision", vision, "clip_vision_model"), ("text", text, llama.KIND)):
        kind = section.get("model_type", wanted)
        if kind != wanted:
            raise CheckpointError(f"A LLaVA whose {name}_config is of the type {kind!r} is not supported; {wanted} is.")
    act = data.get("projector_hidden_act", "gelu")
    if act != "gelu":
        raise CheckpointError(f"A projector with the activation {act!r} is not supported; gelu is.")
    if data.get("tie_word_embeddings"):
        text["tie_word_embeddings"] = True
    layers = data.get("vision_feature_layer", -2)
    strategy = data.get("vision_feature_select_strategy", "default")
    if strategy not in ("default", "full"):
        raise CheckpointError(f"vision_feature_select_strategy must be default or full, found {strategy!r}.")
    return LLaVAConfig(
        tower=clip.read_tower(vision),
        language=LanguageConfig(network=llama.read_config(text)),
        image_id=data.get("image_token_index", data.get("image_token_id", 32000)),
        layers=(layers,) if isinstance(layers, int) else tuple(layers),
        whole=strategy == "full",
        bias=bool(data.get("multimodal_projector_bias", True)),
    )


def key_map(config: LLaVAConfig) -> KeyMap:
    """Return the key map of transformers' LlavaForConditionalGeneration, by :func:`current_names`."""
    language = llama.key_map(config.language.network, "language.network.", "language_model.model.", HEAD)
    keys = KeyMap(
        *clip.tower_rules("vision_tower", "tower"),
        *language.rules,
        rename("multi_modal_projector.linear_1.{p}", "projector.0.{p}"),
        rename("multi_modal_projector.linear_2.{p}", "projector.2.{p}"),
        ignored=("vision_tower.embeddings.position_ids",),
    )
    keys.ignored += language.ignored
    return keys


HEAD = "language_model.lm_head.weight"


def current_names(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """Return the tensors under one of the ways in which they have been named.

    Raises:
        CheckpointError: if two of them have one name then.
    """
    named: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix("model.")
        name = HEAD if name == "lm_head.weight" else name
        if name.startswith("vision_tower.vision_model."):
            name = name.replace("vision_model.", "", 1)
        if name.startswith("language_model.") and not name.startswith(("language_model.model.", HEAD)):
            name = name.replace("language_model.", "language_model.model.", 1)
        if name in named:
            raise CheckpointError(f"{folder} holds {name} under two names, of an old and a new layout.")
        named[name] = tensor
    return named


def read(folder: Path, data: Mapping[str, Any], processors: Mapping[str, Processor] | None) -> LLaVA:
    """Return the LLaVA of a published folder.

    Raises:
        CheckpointError: if a file is missing or damaged, or it says something that this network does not have.
    """
    config = read_config(data)
    tensors = current_names(read_weights(folder), folder)
    if processors is None:
        config, processors = _read_processors(folder, data, config)
    return build(lambda: LLaVA(config, processors), tensors, key_map(config), folder)


def _read_processors(
    folder: Path, data: Mapping[str, Any], config: LLaVAConfig
) -> tuple[LLaVAConfig, dict[str, Processor]]:
    network = config.language.network
    text, ends = read_text(folder, data.get("text_config") or {}, network.context_length)
    if text.tokenizer.token_to_id(PICTURE) != config.image_id:
        raise CheckpointError(f"The tokenizer in {folder} has no {PICTURE} with the id {config.image_id}.")
    refuse_larger(text.vocab_size, network.vocab_size, folder)
    chat = ChatProcessor.over(text, text.context_length, config.patches, config.image_id)
    image = read_image_processor(folder, config.tower.size)
    return config.replace(language__ends=ends), {"image": image, "chat": chat}
