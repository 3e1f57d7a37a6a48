"""DALL-E's discrete VAE in its two published layouts.

- transformers' ``FlavaImageCodebook``: ``config.json`` and ``model.safetensors``. It is DALL-E's encoder alone, so the model
  makes codes and does not decode.
- OpenAI's: a folder with ``encoder`` and ``decoder``, each the ``state_dict()`` of its network, as ``.safetensors`` or as
  ``.pkl``. The published ``.pkl`` files are whole modules, whose reading runs code; torch's restricted reader takes a plain
  dictionary of tensors alone, and where it refuses, the error says how a file is converted.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intermodal.core.checkpoint import read_tensors
from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.core.files import read_json
from intermodal.data.processors import ImageProcessor, Resize
from intermodal.hub.keymap import KeyMap, Rule, rename
from intermodal.hub.processors import FILTERS, IMAGE_FILE
from intermodal.methods.image_tokenizers.dvae import DVAEConfig, mapped_pixels
from intermodal.nn.dalle_coder import DalleCoderConfig

FLAVA = "flava_image_codebook"
NETWORKS = ("encoder", "decoder")
SUFFIXES = (".safetensors", ".pkl")
_MULTIPLES = (1, 2, 4, 8)
_STATE = ("temperature", "beta")
"""What our model keeps beside its weights; a published file has none of it."""
_UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError,
    OSError, struct.error, zipfile.BadZipFile,
)  # fmt: skip
"""What torch's restricted reader raises on files that hold something else, or are damaged."""
_FLAVA_SIZE, _OPENAI_SIZE = 112, 256


def is_openai(folder: Path) -> bool:
    """Return whether a folder looks like OpenAI's layout: it holds an encoder and a decoder."""
    return all(any((folder / f"{name}{suffix}").exists() for suffix in SUFFIXES) for name in NETWORKS)


def read_flava_config(data: Mapping[str, Any], where: Path | str) -> DVAEConfig:
    """Return our configuration of a FlavaImageCodebook's ``config.json``.

    ``num_groups`` does not change how many groups there are, which is always four, but what the blocks are multiplied by.

    Raises:
        CheckpointError: if a number is out of range.
    """
    blocks, groups = data.get("num_blocks_per_group", 2), data.get("num_groups", len(_MULTIPLES))
    try:
        coder = DalleCoderConfig(
            codes=data.get("vocab_size", 8192),
            channels=data.get("input_channels", 3),
            hidden=data.get("hidden_size", 256),
            blocks=blocks,
            gain=None if groups == len(_MULTIPLES) else 1 / (groups * blocks) ** 2,
        )
        return DVAEConfig(coder=coder, decoder=False)
    except (ConfigError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def read_flava_processor(folder: Path) -> ImageProcessor:
    """Return the processor of the codebook's pictures that a ``preprocessor_config.json`` states beside FLAVA's own.

    Where the folder has none, as the published folder of the codebook alone, it is the one that transformers fills in: 112 x
    112 pixels.

    Raises:
        CheckpointError: if the file does something that ours does not.
    """
    data = read_json(folder / IMAGE_FILE, "image processor") if (folder / IMAGE_FILE).exists() else {}
    own = {key.removeprefix("codebook_"): value for key, value in data.items() if key.startswith("codebook_")}
    for step in ("do_resize", "do_rescale", "do_normalize", "do_map_pixels"):
        if not own.get(step, True):
            raise CheckpointError(f"{folder}: an image processor with codebook_{step}=false is not supported.")
    if abs(own.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise CheckpointError(f"{folder}: codebook_rescale_factor must be 1/255, found {own['rescale_factor']}.")
    box = own.get("size", {"height": _FLAVA_SIZE, "width": _FLAVA_SIZE})
    crop = own.get("crop_size", box) if own.get("do_center_crop", True) else box
    if set(box) != {"height", "width"} or box != crop:
        raise CheckpointError(f"{folder}: pictures are fitted to one height and width, found {box} and then {crop}.")
    resample = own.get("resample", 1)
    if resample not in FILTERS:
        raise CheckpointError(f"{folder}: codebook_resample={resample} is not supported; {FILTERS} are.")
    mapped = mapped_pixels((box["height"], box["width"]), "squash").replace(interpolation=FILTERS[resample])
    means, stds = _triple(own.get("image_mean", 0.0)), _triple(own.get("image_std", 1.0))
    if len(means) != 3 or len(stds) != 3 or not all(stds):
        raise CheckpointError(f"{folder}: a mean and a deviation above 0 are needed for three channels.")
    # First (x - m) / s, then mapped to 0.1..0.9: one subtraction and one division again.
    return mapped.replace(
        mean=tuple(m + s * mapped.mean[0] for m, s in zip(means, stds, strict=True)),
        std=tuple(s * mapped.std[0] for s in stds),
    )


def read_openai(folder: Path) -> tuple[DVAEConfig, dict[str, Tensor]]:
    """Return our configuration, read off the shapes, and the tensors of both networks, named ``encoder.`` and ``decoder.``.

    Raises:
        CheckpointError: if a file is unreadable, holds more than tensors, or the two networks do not fit.
    """
    networks = {name: _read_state(folder, name) for name in NETWORKS}
    encoder, decoder = networks["encoder"], networks["decoder"]
    try:
        hidden, channels = encoder["blocks.input.w"].shape[:2]
        blocks = max(int(found[1]) for key in encoder if (found := re.search(r"block_(\d+)\.", key)))
        coder = DalleCoderConfig(
            codes=encoder["blocks.output.conv.w"].shape[0],
            channels=channels,
            hidden=hidden,
            blocks=blocks,
            decoder_hidden=decoder["blocks.input.w"].shape[0],
        )
    except (KeyError, ValueError, ConfigError) as error:
        raise CheckpointError(
            f"{folder} holds an encoder and a decoder that are not DALL-E's ({str(error).rstrip('.')})."
        ) from error
    return DVAEConfig(coder=coder), {f"{name}.{k}": t for name in NETWORKS for k, t in networks[name].items()}


def openai_processor() -> ImageProcessor:
    """Return the processor of the published model: the short side at 256 pixels, the centre cut out."""
    resize: Resize = "crop"
    return mapped_pixels(_OPENAI_SIZE, resize).replace(interpolation="lanczos")


def with_state(tensors: Mapping[str, Tensor], config: DVAEConfig) -> dict[str, Tensor]:
    """Return published tensors with what our model keeps of a training: the last temperature and weight."""
    dtype = next((t.dtype for t in tensors.values()), torch.float32)
    return {
        **tensors,
        "temperature": torch.tensor(config.temperature[1], dtype=dtype),
        "beta": torch.tensor(config.beta, dtype=dtype),
    }


def flava_map(config: DVAEConfig) -> KeyMap:
    """Return the key map of transformers' FlavaImageCodebook; :func:`with_state` fits a file to our state."""
    names = {"weight": "weight", "bias": "bias"}
    return KeyMap(*_rules(config.coder, "encoder", names, group=".group", path=".path"), *_state_rules())


def openai_map(config: DVAEConfig) -> KeyMap:
    """Return the key map of OpenAI's two networks, whose keys are joined with ``encoder.`` and ``decoder.`` before them."""
    names = {"w": "weight", "b": "bias"}
    networks = [rule for name in NETWORKS for rule in _rules(config.coder, name, names, before=f"{name}.")]
    return KeyMap(*networks, *_state_rules())


def _triple(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, (int, float)) else tuple(float(v) for v in value)


def _rules(
    coder: DalleCoderConfig, ours: str, names: Mapping[str, str], *, before: str = "", group: str = "", path: str = ""
) -> list[Rule]:
    """Return the rules of one network; groups, blocks and convolutions are counted from one there, from zero here.

    Args:
        coder: how many there are.
        ours: the network's name here.
        names: what weights and biases are called there, and here.
        before: what the published keys begin with.
        group: what stands there after a group's name.
        path: what stands there after the name of a block's residual path.
    """
    pairs = [("input", "stem"), ("output.conv", "head")]
    for g in range(len(coder.multiples)):
        for b in range(coder.blocks):
            theirs, own = f"group_{g + 1}{group}.block_{b + 1}", f"groups.{g}.{b}"
            pairs.append((f"{theirs}.id_path", f"{own}.identity"))
            pairs += [(f"{theirs}.res_path{path}.conv_{n + 1}", f"{own}.convs.{n}") for n in range(4)]
    return [
        rename(f"{before}blocks.{theirs}.{their_name}", f"{ours}.{own}.{own_name}")
        for theirs, own in pairs
        for their_name, own_name in names.items()
    ]


def _state_rules() -> list[Rule]:
    return [rename(name, name) for name in _STATE]


def _read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """Read one network's tensors, from safetensors where there are some."""
    path = folder / f"{name}.safetensors"
    if path.exists():
        return read_tensors(path)
    path = folder / f"{name}.pkl"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that torch did not write; they are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{path} holds more than a dictionary of tensors, or is damaged. The published file is a pickled module, and "
            "reading it runs whatever code is in it: it is refused. Where you trust it, read it once with the package that "
            f"wrote it, and write its state_dict() with safetensors as {name}.safetensors into this folder."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} holds no dictionary of tensors: the state_dict() of the {name} is needed.")
    return {str(k): t for k, t in state.items()}
