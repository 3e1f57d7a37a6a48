"""Published processor files <-> ours: ``preprocessor_config.json`` and the tokenizer's files."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from intermodal.core.errors import CheckpointError
from intermodal.core.files import read_json
from intermodal.data.clip_tokenizer import is_clip_bpe, load_clip_tokenizer, read_tokenizer
from intermodal.data.processors import ImageProcessor, Interpolation, Resize, TextProcessor
from intermodal.data.tokenizers import EOS

TOKENIZER, VOCABULARY, MERGES, ADDED = "tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"
IMAGE_FILE, COMBINED_FILE = "preprocessor_config.json", "processor_config.json"

# Pillow's numbers, in which transformers states the filter.
FILTERS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def read_image_processor(
    folder: Path, size: tuple[int, int], defaults: Mapping[str, Any] | None = None
) -> ImageProcessor:
    """Read transformers' image processor.

    Args:
        folder: the published folder.
        size: height and width that the model takes.
        defaults: of a kind of models whose image processor squashes pictures to a square, where a size is one number: what
            it does where the file says nothing. None for those that fit the short side.

    Raises:
        CheckpointError: if the file is missing, does something that ours does not, or makes another size.
    """
    data = _image_settings(folder)
    if defaults is not None:
        data = {**defaults, **data}
        if isinstance(data.get("size"), int):
            data["size"] = {"height": data["size"], "width": data["size"]}
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not data.get(step, True):
            raise CheckpointError(f"{folder}: an image processor with {step}=false is not supported.")
    if abs(data.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
        raise CheckpointError(f"{folder}: rescale_factor must be 1/255, found {data['rescale_factor']}.")
    try:
        resize: Resize = "squash" if _is_box(data["size"]) else "crop"
        made = _box(data["crop_size"] if _crops(data) else data["size"])
        short = _box(data["size"])
        mean, std = data["image_mean"], data["image_std"]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"The image processor in {folder} lacks {error}.") from error
    too_small = any(s < m for s, m in zip(short, made, strict=True))
    if made != size or too_small or (resize == "crop" and (not _crops(data) or short != made)):
        raise CheckpointError(
            f"The image processor in {folder} resizes to {short} and makes {made} pixels, the model takes {size}."
        )
    resample = data.get("resample", 3 if resize == "crop" else 2)
    if resample not in FILTERS:
        raise CheckpointError(f"{folder}: resample={resample} is not supported; {FILTERS} are.")
    return ImageProcessor(
        size=size,
        mean=_triple(mean),
        std=_triple(std),
        resize=resize,
        interpolation=FILTERS[resample],
        squash_to=short if resize == "squash" and short != made else None,
    )


def read_open_clip_image_processor(data: Mapping[str, Any], size: tuple[int, int]) -> ImageProcessor:
    """Return the image processor of an ``open_clip_config.json``'s ``preprocess_cfg``.

    Raises:
        CheckpointError: if it pads pictures or names an unknown filter.
    """
    resize = {"shortest": "crop", "squash": "squash"}.get(data.get("resize_mode", "shortest"))
    interpolation = data.get("interpolation", "bicubic")
    if resize is None or interpolation not in ("bicubic", "bilinear"):
        raise CheckpointError(
            f"open_clip's resize_mode={data.get('resize_mode')!r} with interpolation={interpolation!r} "
            "is not "
            "supported: shortest and squash with bicubic or bilinear are."
        )
    default = ImageProcessor(size=size)
    return ImageProcessor(
        size=size,
        mean=_triple(data.get("mean", default.mean)),
        std=_triple(data.get("std", default.std)),
        resize="crop" if resize == "crop" else "squash",
        interpolation="bicubic" if interpolation == "bicubic" else "bilinear",
    )


def write_image_processor(processor: ImageProcessor, kind: str) -> dict[str, Any]:
    """Return the data of a ``preprocessor_config.json``.

    Args:
        processor: ours.
        kind: ``clip``, ``siglip``, ``vit`` or ``deit``, whose image processor's class is named.

    Raises:
        CheckpointError: if transformers' processor cannot do the same.
    """
    height, width = processor.size
    if processor.resize == "pad" or (processor.resize == "crop" and height != width):
        raise CheckpointError(
            f"transformers' image processor cannot do resize={processor.resize!r} to {processor.size}: "
            "train with "
            "'crop' on square pictures, or 'squash'."
        )
    box = {"height": height, "width": width}
    crop = processor.resize == "crop"
    name = "CLIPImageProcessor" if kind == "clip" or crop else "SiglipImageProcessor"
    scaled = {"shortest_edge": height} if crop else box
    if processor.squash_to is not None:
        crop, name = True, "DeiTImageProcessor"
        scaled = dict(zip(("height", "width"), processor.squash_to, strict=True))
    elif kind in ("vit", "deit") and not crop:
        name = "ViTImageProcessor"
    return {
        "image_processor_type": name,
        "do_resize": True,
        "size": scaled,
        "do_center_crop": crop,
        **({"crop_size": box} if crop else {}),
        "resample": next(n for n, name in FILTERS.items() if name == processor.interpolation),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(processor.mean),
        "image_std": list(processor.std),
        "do_convert_rgb": True,
    }


def read_text_processor(folder: Path, *, context_length: int, eos_id: int, pad_id: int) -> TextProcessor:
    """Read a published tokenizer.

    Args:
        folder: with ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` for CLIP's.
        context_length: the most tokens that the model takes.
        eos_id: the end token where the folder's tokenizer files do not name one.
        pad_id: the same for padding.

    Raises:
        CheckpointError: if a file is missing or damaged, or names a token that the vocabulary lacks.
    """
    if (folder / "tokenizer.json").exists():
        tokenizer = read_tokenizer(folder / "tokenizer.json")
    elif (folder / "spiece.model").exists():
        raise CheckpointError(
            f"{folder} holds its tokenizer as spiece.model only, which is not read; tokenizer.json is "
            "needed: most "
            "published folders have both."
        )
    else:
        tokenizer = load_clip_tokenizer(folder)
    settings = _tokenizer_settings(folder)
    named = {k: v for k in ("eos_token", "pad_token") if (v := _content(settings.get(k)))}
    if str(settings.get("tokenizer_class", "")).startswith("SiglipTokenizer"):
        _canonicalise(tokenizer, bool(settings.get("do_lower_case", True)))
    if is_clip_bpe(tokenizer):
        named.setdefault("eos_token", EOS)
    ids = {"eos_token": eos_id, "pad_token": pad_id}
    for name, token in named.items():
        found = tokenizer.token_to_id(token)
        if found is None:
            raise CheckpointError(f"The tokenizer in {folder} has no {token!r}, which its files name as {name}.")
        ids[name] = found
    for name, number in ids.items():
        if tokenizer.id_to_token(number) is None:
            raise CheckpointError(f"The tokenizer in {folder} has no id {number}, and its files name no {name}.")
    return TextProcessor(
        tokenizer,
        context_length=context_length,
        eos_id=ids["eos_token"],
        pad_id=ids["pad_token"],
        lower=False,  # a published tokenizer's own normaliser does it
    )


def write_text_processor(processor: TextProcessor, folder: Path, *, sees_padding: bool = False) -> None:
    """Write the tokenizer's three files as transformers reads them.

    Args:
        processor: ours.
        folder: where to write.
        sees_padding: the network's result depends on which token pads (SigLIP's does, CLIP's does not).

    Raises:
        CheckpointError: if it does and the padding is an ordinary token, which transformers would then treat
            as a special one wherever a text holds it.
    """
    tokenizer = lowering(processor)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {n for n, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if sees_padding and processor.pad_id not in special:
        raise CheckpointError(
            f"Texts are padded with id {processor.pad_id}, an ordinary token, which transformers cannot "
            "do: train with "
            "a tokenizer that has a special token for padding."
        )
    pad = processor.pad_id if processor.pad_id in special else processor.eos_id
    tokens = {"eos_token": tokenizer.id_to_token(processor.eos_id), "pad_token": tokenizer.id_to_token(pad)}
    settings = {
        "tokenizer_class": "CLIPTokenizer" if is_clip_bpe(tokenizer) else "PreTrainedTokenizerFast",
        "model_max_length": processor.context_length,
        **tokens,
    }
    for name, data in (("tokenizer_config.json", settings), ("special_tokens_map.json", tokens)):
        (folder / name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def lowering(processor: TextProcessor) -> Tokenizer:
    """Return a copy of a processor's tokenizer that lower-cases by itself, where the processor does."""
    tokenizer = Tokenizer.from_str(processor.tokenizer.to_str())
    if processor.lower:
        steps = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(), normalizers.Lowercase()]
        steps += [tokenizer.normalizer] if tokenizer.normalizer is not None else []
        tokenizer.normalizer = normalizers.Sequence(steps)
    return tokenizer


def refuse_larger(tokens: int, known: int, folder: Path) -> None:
    """Raise a CheckpointError if a tokenizer has more tokens than its model knows."""
    if tokens > known:
        raise CheckpointError(f"The tokenizer in {folder} has {tokens} tokens, the model only {known}.")


def read_byte_level(folder: Path) -> Tokenizer:
    """Return the tokenizer of ``tokenizer.json``, or the byte-level BPE of ``vocab.json`` and ``merges.txt``.

    Raises:
        CheckpointError: if neither is there, or a file is damaged.
    """
    if (folder / TOKENIZER).exists():
        return read_tokenizer(folder / TOKENIZER)
    if not ((folder / VOCABULARY).exists() and (folder / MERGES).exists()):
        raise CheckpointError(
            f"{folder} lacks {TOKENIZER}, and {VOCABULARY} with {MERGES}, one of which says what tokens spell. Add one, or "
            "load with processors={} to have the network alone."
        )
    try:
        tokenizer = Tokenizer(models.BPE.from_file(str(folder / VOCABULARY), str(folder / MERGES)))
    except Exception as error:  # the tokenizers package raises nothing narrower
        raise CheckpointError(f"The tokenizer in {folder} cannot be read ({error}).") from error
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = read_json(folder / ADDED, "added tokens") if (folder / ADDED).exists() else {}
    for token, _ in sorted(added.items(), key=lambda item: int(item[1])):
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    return tokenizer


def _image_settings(folder: Path) -> dict[str, Any]:
    if (folder / IMAGE_FILE).exists():
        return read_json(folder / IMAGE_FILE, "image processor")
    if (folder / COMBINED_FILE).exists():
        data = read_json(folder / COMBINED_FILE, "processor")
        if "image_processor" in data:
            return data["image_processor"]
    raise CheckpointError(
        f"{folder} lacks {IMAGE_FILE}, which says how pictures are prepared. Add the file, or load with "
        "processors={} to have the network alone."
    )


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        out |= read_json(folder / file, "tokenizer configuration") if (folder / file).exists() else {}
    return out


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, Mapping) else token


def _canonicalise(tokenizer: Tokenizer, lower: bool) -> None:
    """Prepend what SigLIP's tokenizer does by itself: lower case, no punctuation, single spaces."""
    punctuation = Regex("[" + "".join(f"\\x{ord(c):02x}" for c in string.punctuation) + "]")
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lower else []
    steps += [
        normalizers.Replace(punctuation, ""),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    steps += [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence(steps)


def _crops(data: Mapping[str, Any]) -> bool:
    return bool(data.get("do_center_crop", "crop_size" in data))


def _is_box(size: int | Mapping[str, int]) -> bool:
    return isinstance(size, Mapping) and "height" in size


def _box(size: int | Mapping[str, int]) -> tuple[int, int]:
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return (size["height"], size["width"]) if edge is None else (edge, edge)
    return size, size


def _triple(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
