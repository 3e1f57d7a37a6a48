"""LLaVA in transformers' published layout (``llava-hf``): a CLIP's tower, a projector of two layers, a Llama.

The names of tensors have changed twice; all three ways are read. Chats are framed by the folder's chat template, run in
a sandbox (:mod:`intermodal.data.chat_template`); where there is none, as LLaVA 1.5's are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from intermodal.core.chat import Turn
from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.chat import PICTURE, ChatFormat, ChatProcessor
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.hub import clip, llama
from intermodal.hub.keymap import KeyMap, rename
from intermodal.hub.language import GENERATION, SETTINGS, read_text, write_tokenizer
from intermodal.hub.processors import (
    COMBINED_FILE,
    IMAGE_FILE,
    read_image_processor,
    refuse_larger,
    write_image_processor,
)
from intermodal.hub.weights import build, read_weights
from intermodal.methods.captioning.language import LanguageConfig
from intermodal.methods.vision_language.llava import LLaVA, LLaVAConfig
from intermodal.nn.vit import ViTConfig

KIND = "llava"
TEMPLATE, LEGACY_TEMPLATE = "chat_template.jinja", "chat_template.json"
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


def write_config(model: LLaVA) -> dict[str, Any]:
    """Return the data of a ``config.json`` from which transformers builds the same LlavaForConditionalGeneration.

    Raises:
        CheckpointError: if it has no such architecture; it says why.
    """
    config = model.config
    if not isinstance(config.tower, ViTConfig):
        raise CheckpointError("transformers has no LLaVA that sees through a ResNet: one with a ViT can be exported.")
    if config.projector != "mlp":
        raise CheckpointError(
            "transformers' LLaVA has a projector of two layers: one with projector='mlp' can be exported."
        )
    text = llama.write_config(config.language.network) | _ids(model)
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": KIND,
        "image_token_index": config.image_id,
        "image_seq_length": config.patches,
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": config.bias,
        "vision_feature_layer": config.layers[0] if len(config.layers) == 1 else list(config.layers),
        "vision_feature_select_strategy": "full" if config.whole else "default",
        "tie_word_embeddings": text["tie_word_embeddings"],
        "vision_config": clip.write_tower(config.tower),
        "text_config": text,
    }


def _ids(model: LLaVA) -> dict[str, Any]:
    if "chat" not in model.processors:
        return {}
    chat, ends = model.chats, model.language.ends
    first = chat.eos_id if chat.bos_id is None else chat.bos_id
    return {
        "bos_token_id": first,
        "eos_token_id": ends[0] if len(ends) == 1 else list(ends),
        "pad_token_id": chat.pad_id,
    }


def write_processors(model: LLaVA, folder: Path) -> dict[str, dict[str, Any]]:
    """Write a model's tokenizer and chat template, and return the other files of its processors by their names.

    Raises:
        CheckpointError: if transformers would read a chat as other tokens than the model does.
    """
    config, chat, image = model.config, model.chats, model.processors["image"]
    assert isinstance(config.tower, ViTConfig) and isinstance(image, ImageProcessor)
    write_tokenizer(chat, folder)
    template = chat.form.template or write_template(chat.form)
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    again = ChatProcessor.over(
        read_text(folder, {}, chat.context_length)[0], chat.context_length, chat.patches, chat.image_id
    )
    again.form = ChatFormat(template=template)
    shown: Any = (None,)
    probe = [Turn("What is it?", "A cat", shown), Turn("And  this?", None, shown)]
    if again.chat(probe)[0] != chat.chat(probe)[0]:
        raise CheckpointError("transformers would cut chats into other tokens: this tokenizer has no published layout.")
    combined = {
        "processor_class": "LlavaProcessor",
        "patch_size": config.tower.patch_size,
        "vision_feature_select_strategy": "full" if config.whole else "default",
        "num_additional_image_tokens": 1,
        "image_token": PICTURE,
    }
    return {IMAGE_FILE: write_image_processor(image, "clip"), COMBINED_FILE: combined, GENERATION: _ids(model)}


def write_template(form: ChatFormat) -> str:
    """Return the chat template that frames a chat as ``form`` does."""
    system, before, picture, after, answer = map(
        _literal, (form.system, form.before, form.picture, form.after, form.answer)
    )
    return (
        "{% for message in messages %}{% if message['role'] == 'user' %}"
        f"{{% if loop.first %}}{system}{{% endif %}}{before}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}" + picture + "{% endif %}{% endfor %}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
        f"{after}{{% else %}}{answer}"
        "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"
    )


def _literal(text: str) -> str:
    return "{{ " + json.dumps(text) + " }}" if text else ""


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


def read_template(folder: Path) -> str | None:
    """Return the chat template of a published folder, from where transformers' processors look for it, in their order.

    Raises:
        CheckpointError: if a file is damaged.
    """
    said: list[Any] = []
    for name in (COMBINED_FILE, LEGACY_TEMPLATE):
        if (folder / name).is_file():
            said.append(read_json(folder / name, "chat template").get("chat_template"))
    if (folder / TEMPLATE).is_file():
        said.append((folder / TEMPLATE).read_text(encoding="utf-8"))
    if (folder / SETTINGS).is_file():
        said.append(read_json(folder / SETTINGS, "tokenizer configuration").get("chat_template"))
    for entry in said:
        several = {one.get("name"): one.get("template") for one in entry} if isinstance(entry, list) else entry
        found = several.get("default") if isinstance(several, Mapping) else several
        if isinstance(found, str):
            return found
    return None


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
    form = ChatFormat(template=read_template(folder))
    chat = ChatProcessor.over(text, text.context_length, config.patches, config.image_id, form)
    image = read_image_processor(folder, config.tower.size)
    return config.replace(language__ends=ends), {"image": image, "chat": chat}
