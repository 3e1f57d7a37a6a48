"""Pipelines of pictures without texts in diffusers' published layout: DDPMPipeline and DDIMPipeline, to ours and back.

A folder holds ``model_index.json`` with ``_class_name``, a UNet2DModel in ``unet`` and ``scheduler_config.json`` in
``scheduler``. The first ones that were published have all files in the folder itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.errors import CheckpointError, ConfigError, IntermodalError
from intermodal.core.files import read_json
from intermodal.data.processors import ImageProcessor, Processor
from intermodal.hub import scheduler, unet
from intermodal.hub.weights import CONFIG, read_published
from intermodal.methods.image_generation.ddim import DDIM, DDIMConfig
from intermodal.methods.image_generation.ddpm import DDPM, DDPMConfig

PIPELINE = "model_index.json"
METHODS: dict[str, tuple[type[DDPM], type[DDPMConfig]]] = {
    "DDPMPipeline": (DDPM, DDPMConfig),
    "DDIMPipeline": (DDIM, DDIMConfig),
}
UNET = unet.CLASSES[0]


def read(folder: Path, processors: Mapping[str, Processor] | None = None) -> DDPM:
    """Return the model of a pipeline's folder: a DDPM or, of a DDIMPipeline, a DDIM.

    From the same seeds it draws the pictures that the pipeline draws from as many generators; where it does not is listed at
    :func:`~intermodal.hub.scheduler.read_config`. Trained further, it minimises the plain error.

    Args:
        folder: with ``model_index.json``.
        processors: use these; by default pictures have the U-Net's ``sample_size`` and values in -1..1.

    Raises:
        CheckpointError: if it is another pipeline, a file is missing or cut short, or an option is one that we do not have.
    """
    try:
        index = read_json(folder / PIPELINE, "index of the pipeline")
    except IntermodalError as error:
        raise CheckpointError(str(error)) from error
    name = index.get("_class_name") if isinstance(index, dict) else None
    if name not in METHODS:
        parts = [k for k, v in index.items() if isinstance(v, list)] if isinstance(index, dict) else []
        raise CheckpointError(
            f"{folder} holds a pipeline of several models ({name!r} of {', '.join(parts) or 'nothing'}); of pipelines "
            f"{' and '.join(METHODS)} are supported: give the folder of one of its models ({folder / 'vae'})."
        )
    cls, config_cls = METHODS[name]
    place = _part(folder, "unet")
    data = read_published(place, "a published U-Net")
    if data.get("_class_name") != UNET:
        raise CheckpointError(f"{place}: expected the configuration of {UNET}, found {data.get('_class_name')!r}.")
    like = "DDIMScheduler" if cls is DDIM else None
    process = scheduler.read_scheduler(_part(folder, "scheduler"), like)
    if processors is None:
        processors = {"image": read_processor(data, place)}
    network = unet.load_unet(place)
    learns = process.variance == "learned_range"
    try:
        config = config_cls(
            network=network.config,
            schedule=process.schedule,
            predicts=process.predicts,
            learns_variance=learns,
            variance="small" if process.variance == "learned_range" else process.variance,
            min_snr=None,
            drawing=process.drawing,
        )
        with torch.device("meta"):
            model = cls(config, processors)
    except ConfigError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    model.network = network
    return model


def read_processor(data: Mapping[str, Any], where: Path) -> ImageProcessor:
    """Return the processor of a UNet2DModel's pictures, of its ``sample_size``.

    Raises:
        CheckpointError: if it states none.
    """
    stated = data.get("sample_size")
    size = (stated, stated) if isinstance(stated, int) else stated
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(isinstance(n, int) and n > 0 for n in size):
        raise CheckpointError(f"{where}: sample_size={stated!r} is no size of pictures: a number of pixels, or two.")
    half = (0.5, 0.5, 0.5)
    return ImageProcessor(size=(size[0], size[1]), mean=half, std=half, resize="crop", interpolation="lanczos")


def write(model: DDPM) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """Return the files of the pipeline that draws as a model does: JSON data by their path, and the tensors of the U-Net.

    Of the settings of its drawing, the sampler, the spacing, and whether pictures are kept to their range go into the files;
    the number of steps, eta and the like are told to the pipeline when it is called. (DDPM of diffusers adds noise after the
    last of a part of the steps unless they are spaced ``leading``; we add none.)

    Raises:
        CheckpointError: if diffusers has no such pipeline; it says why.
    """
    config = model.config
    if type(model) not in [cls for cls, _ in METHODS.values()] or model.text is not None:
        raise CheckpointError(
            f"diffusers' pipelines of pictures cannot hold this model ({model.id!r}): they take no texts and no guidance."
        )
    variance = "learned_range" if config.learns_variance else config.variance
    process = scheduler.write_config(config.schedule, config.predicts, variance, config.drawing)
    name = {"ddpm": "DDPMPipeline", "ddim": "DDIMPipeline"}[config.drawing.sampler]
    if name == "DDIMPipeline" and config.learns_variance:
        raise CheckpointError("diffusers' DDIMPipeline cannot hold this model: its network may learn no variance.")
    size = model.picture.size if model.processors else (32, 32)
    network = {
        **unet.write_config(config.network),
        "sample_size": size[0] if size[0] == size[1] else list(size),
    }
    index = {
        "_class_name": name,
        "scheduler": ["diffusers", process["_class_name"]],
        "unet": ["diffusers", UNET],
    }
    weights = {k.removeprefix("network."): v.detach() for k, v in model.state_dict().items()}
    files = {PIPELINE: index, f"unet/{CONFIG}": network, f"scheduler/{scheduler.FILE}": process}
    return files, unet.key_map(config.network).to_published(weights)


def _part(folder: Path, name: str) -> Path:
    """Return where a part of a pipeline is: in a folder of its name, or with all others."""
    return folder / name if (folder / name).is_dir() else folder
