"""Load any model: a checkpoint of ours, a run, a published folder, or a hub id."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from intermodal.core.checkpoint import MANIFEST, read_checkpoint
from intermodal.core.errors import CheckpointError, ConfigError, IntermodalError
from intermodal.core.files import read_json
from intermodal.core.registry import load_class
from intermodal.data.processors import Processor
from intermodal.hub import (
    autoencoder_kl,
    beit3,
    bert,
    clip,
    coca,
    dalle_dvae,
    ddpm,
    language,
    llava,
    open_clip,
    trocr,
    unet,
    vision,
    vqmodel,
    wav2vec2,
    whisper,
)
from intermodal.hub.ddpm import PIPELINE
from intermodal.hub.download import download, is_hub_id
from intermodal.hub.processors import (
    read_image_processor,
    read_open_clip_image_processor,
    read_text_processor,
)
from intermodal.hub.weights import CONFIG, DIFFUSERS, build, read_weights
from intermodal.hub.word2vec_format import read_word2vec
from intermodal.methods.base import Method
from intermodal.methods.captioning.coca import CoCa, CoCaConfig
from intermodal.methods.contrastive.bert import BERT
from intermodal.methods.contrastive.clip import CLIP, CLIPConfig
from intermodal.methods.image_tokenizers.dvae import DVAE
from intermodal.methods.image_tokenizers.vae import VAE
from intermodal.methods.image_tokenizers.vqgan import VQGAN

AConfig = TypeVar("AConfig", CLIPConfig, CoCaConfig)
WORD_VECTORS = (".bin", ".vec", ".w2v", ".txt")
"""How files in word2vec's text or binary format are called."""


def load(
    path_or_id: str | Path,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    processors: Mapping[str, Processor] | None = None,
) -> Method:
    """Load a model for use, on ``device`` and in evaluation mode.

    Args:
        path_or_id: a checkpoint folder of ours; a run folder, which holds one under ``model``; a folder in
            transformers', diffusers' or open_clip's layout; a file in word2vec's text or binary format; or a hub id
            ``owner/name`` of such a folder.
        device: where its parameters are put.
        revision: of a hub id, a branch, tag or commit.
        processors: use these instead of the folder's; an empty mapping gives the network alone, which takes
            tensors only.

    Returns:
        The method. Published half-precision weights are widened to float32; other types are kept.

    Raises:
        CheckpointError: if there is no such model, it is of an unknown kind, its weights are pickled only, a
            file is missing or cut short, or a key is missing, left over or of another shape.
    """
    path = Path(path_or_id)
    if not path.exists():
        if not is_hub_id(str(path_or_id)):
            raise CheckpointError(f"There is no model at {path_or_id}: no such folder, and no hub id (owner/name).")
        path = download(str(path_or_id), revision)
    if not path.is_dir():
        if path.suffix.lower() in WORD_VECTORS:
            return read_word2vec(path).to(device)
        raise CheckpointError(
            f"{path} is a file; a model is a folder: give the folder that holds it. (Word vectors in word2vec's format are "
            f"files that end in {', '.join(WORD_VECTORS)}.)"
        )
    for folder in (path, path / "model"):
        if (folder / MANIFEST).exists():
            checkpoint = read_checkpoint(folder)
            cls: type[Method] = load_class(checkpoint.method).class_for(checkpoint.config)
            model = cls.load(folder, device)
            if processors is not None:
                model.processors = dict(processors)
            return model
    try:
        return _load_published(path, device, processors)
    except (CheckpointError, ConfigError):
        raise
    except IntermodalError as error:
        raise CheckpointError(str(error)) from error


def _load_published(folder: Path, device: str | torch.device, processors: Mapping[str, Processor] | None) -> Method:
    data = read_json(folder / CONFIG, "configuration") if (folder / CONFIG).exists() else {}
    kind = data.get("model_type", data.get("_class_name")) if isinstance(data, dict) else None
    if kind in READERS:
        model = READERS[kind](folder, data, processors)
    elif (folder / open_clip.CONFIG).exists():
        model = _read_open_clip(folder, read_json(folder / open_clip.CONFIG, "configuration"), processors)
    elif dalle_dvae.is_openai(folder):
        model = _read_dalle_dvae(folder, processors)
    elif kind is None and beit3.is_beit3(folder):
        model = beit3.read(folder, {}, processors)
    elif (folder / PIPELINE).exists():
        model = ddpm.read(folder, processors)
    elif kind in unet.CLASSES:
        raise CheckpointError(
            f"{folder} holds a U-Net alone, which does not say on what noise it was trained: give the folder of the "
            f"pipeline (with {PIPELINE} and a scheduler, perhaps {folder.parent}), or read the network alone with "
            "intermodal.hub.unet.load_unet."
        )
    elif kind is not None:
        raise CheckpointError(
            f"{folder} holds a model of the type {kind!r}, which is not supported; {', '.join(READERS)} are."
        )
    else:
        raise CheckpointError(
            f"{folder} holds no model: neither {MANIFEST} (ours), nor {CONFIG} with a model_type "
            "(transformers) or _class_name (diffusers), nor "
            f"{open_clip.CONFIG} (open_clip), nor encoder.safetensors and decoder.safetensors (DALL-E), nor "
            f"{beit3.KIND}*.safetensors (BEiT-3)."
        )
    return model.to(device).eval()


def _read_clip(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    config = clip.read_config(data)
    if processors is None:
        image = read_image_processor(folder, _size(config))
        config, processors = _with_text(folder, config, image)
    keys = clip.key_map(data["model_type"])
    return build(lambda: CLIP(config, processors), read_weights(folder), keys, folder)


def _read_open_clip(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    if coca.is_coca(data):
        return _read_coca(folder, data, processors)
    config, keys = open_clip.read_config(data)
    if processors is None:
        image = read_open_clip_image_processor(data.get("preprocess_cfg") or {}, _size(config))
        config, processors = _with_text(folder, config, image)
    return build(lambda: CLIP(config, processors), read_weights(folder, open_clip.WEIGHTS), keys, folder)


def _read_coca(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    config, keys = coca.read_config(data)
    if processors is None:
        image = read_open_clip_image_processor(data.get("preprocess_cfg") or {}, config.image.size)
        config, processors = _with_text(folder, config, image)
    return build(lambda: CoCa(config, processors), read_weights(folder, open_clip.WEIGHTS), keys, folder)


def _read_bert(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    tensors = bert.current_names(read_weights(folder), folder)
    config = bert.config_of(data, tensors, folder)
    if processors is None:
        config, processors = bert.read_processors(folder, config)
    return build(lambda: BERT(config, processors), tensors, bert.key_map(), folder)


def _read_autoencoder_kl(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    config = autoencoder_kl.read_config(data, folder)
    tensors = autoencoder_kl.current_names(read_weights(folder, DIFFUSERS), folder)
    if processors is None:
        processors = {"image": autoencoder_kl.read_processor(data, config.network)}
    return build(lambda: VAE(config, processors), tensors, autoencoder_kl.key_map(), folder)


def _read_vqmodel(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    config = vqmodel.read_config(data, folder)
    tensors = autoencoder_kl.current_names(read_weights(folder, DIFFUSERS), folder)
    if processors is None:
        processors = {"image": autoencoder_kl.read_processor(data, config.network)}
    return build(lambda: VQGAN(config, processors), vqmodel.with_counts(tensors, folder), vqmodel.key_map(), folder)


def _read_flava_codebook(folder: Path, data: dict[str, Any], processors: Mapping[str, Processor] | None) -> Method:
    config = dalle_dvae.read_flava_config(data, folder)
    if processors is None:
        processors = {"image": dalle_dvae.read_flava_processor(folder)}
    tensors = dalle_dvae.with_state(read_weights(folder), config)
    return build(lambda: DVAE(config, processors), tensors, dalle_dvae.flava_map(config), folder)


def _read_dalle_dvae(folder: Path, processors: Mapping[str, Processor] | None) -> Method:
    config, tensors = dalle_dvae.read_openai(folder)
    if processors is None:
        processors = {"image": dalle_dvae.openai_processor()}
    tensors = dalle_dvae.with_state(tensors, config)
    return build(lambda: DVAE(config, processors), tensors, dalle_dvae.openai_map(config), folder)


def _with_text(folder: Path, config: AConfig, image: Processor) -> tuple[AConfig, dict[str, Processor]]:
    """Add the text processor, and let the configuration state the ids that it uses."""
    text = config.text
    processor = read_text_processor(folder, context_length=text.context_length, eos_id=text.eos_id, pad_id=text.pad_id)
    if processor.vocab_size > text.vocab_size:
        raise CheckpointError(
            f"The tokenizer in {folder} has {processor.vocab_size} ids, the model only {text.vocab_size}."
        )
    if text.pool == "eos" and processor.eos_id != text.eos_id:
        raise CheckpointError(
            f"The tokenizer in {folder} ends a text with id {processor.eos_id}, the model reads it at {text.eos_id}."
        )
    ids = text.replace(eos_id=processor.eos_id, pad_id=processor.pad_id)
    return config.replace(text=ids), {"image": image, "text": processor}


def _size(config: CLIPConfig) -> tuple[int, int]:
    return config.image.size


READERS: dict[str, Callable[[Path, dict[str, Any], Mapping[str, Processor] | None], Method]] = {
    "clip": _read_clip,
    "siglip": _read_clip,
    "bert": _read_bert,
    autoencoder_kl.CLASS: _read_autoencoder_kl,
    vqmodel.CLASS: _read_vqmodel,
    dalle_dvae.FLAVA: _read_flava_codebook,
    "wav2vec2": wav2vec2.read,
    "hubert": wav2vec2.read,
    whisper.KIND: whisper.read,
    llava.KIND: llava.read,
    **dict.fromkeys(language.KINDS, language.read),
    **dict.fromkeys(vision.KINDS, vision.read),
    trocr.KIND: trocr.read,
    beit3.KIND: beit3.read,
}
"""How a published folder is read, by the ``model_type`` (transformers) or ``_class_name`` (diffusers) in ``config.json``."""
