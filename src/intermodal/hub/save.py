"""Write our models in published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from intermodal.core.checkpoint import WEIGHTS, write_tensors
from intermodal.core.errors import CheckpointError
from intermodal.core.files import atomic_folder
from intermodal.data.processors import ImageProcessor, TextProcessor
from intermodal.hub import clip
from intermodal.hub.load import CONFIG
from intermodal.hub.processors import IMAGE_FILE, write_image_processor, write_text_processor
from intermodal.methods.base import Method
from intermodal.methods.contrastive.clip import CLIP


def export(model: Method, path: str | Path, layout: Literal["transformers"] = "transformers") -> None:
    """Write a model so that another library loads it, in one step: the folder is there in full or not at all.

    Args:
        model: a CLIP whose architecture transformers' CLIPModel or SiglipModel has.
        path: the folder to write; one that is there is replaced.
        layout: ``transformers``: ``config.json``, ``model.safetensors``, and for the processors that the
            model has ``preprocessor_config.json``, ``tokenizer.json``, ``tokenizer_config.json`` and
            ``special_tokens_map.json``.

    Raises:
        CheckpointError: if the layout, the method or its architecture has no counterpart; it says why.
        IntermodalError: if the disk is full or writing is not permitted.
    """
    if layout != "transformers":
        raise CheckpointError(f"A model is exported in the layout 'transformers', not {layout!r}.")
    if not isinstance(model, CLIP):
        raise CheckpointError(f"The method {model.id!r} has no published layout to be exported in.")
    kind, _ = clip.model_type(model.config)
    config = clip.write_config(model.config)
    config["dtype"] = str(model.logit_scale.dtype).removeprefix("torch.")
    tensors = clip.key_map(kind).to_published({k: v.detach() for k, v in model.state_dict().items()})
    image, text = model.processors.get("image"), model.processors.get("text")
    pictures = write_image_processor(image, kind) if isinstance(image, ImageProcessor) else None
    with atomic_folder(path) as folder:
        write_tensors(folder / WEIGHTS, tensors, metadata={"format": "pt"})
        _write_json(folder / CONFIG, config)
        if pictures is not None:
            _write_json(folder / IMAGE_FILE, pictures)
        if isinstance(text, TextProcessor):
            write_text_processor(text, folder, sees_padding=kind == "siglip")


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
