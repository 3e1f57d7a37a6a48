"""Published LPIPS networks: VGG16's or AlexNet's convolutions and the fitted weights of their channels (Zhang et al. 2018).

They come in two layouts, both of the authors' package ``lpips`` (version 0.1): the whole module's state, whose keys are
``net.slice1.0.weight`` and ``lin0.model.1.weight``; or the weights of the channels alone, beside torchvision's file of the
network with its keys ``features.0.weight``. Both are published as pickles, which are refused here; :data:`CONVERT` is what
turns one into safetensors where it is trusted.

The package takes pictures in -1..1 and subtracts (-0.030, -0.088, -0.188) and divides by (0.458, 0.448, 0.450), its
``ScalingLayer``. For pictures in 0..1, which ours are, that is the mean (0.485, 0.456, 0.406) and standard deviation (0.229,
0.224, 0.225) of ImageNet's training pictures, with which both networks were trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from intermodal.core.checkpoint import PICKLES, read_tensors
from intermodal.core.errors import CheckpointError, ConfigError
from intermodal.hub.keymap import KeyMap, Rule, rename, reshape
from intermodal.losses.perceptual import PerceptualDistance
from intermodal.nn.features import FeatureConfig, FeatureNetwork, StageConfig

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The package's scaling layer, of pictures in -1..1."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The same of pictures in 0..1: ``(1 + SHIFT) / 2`` and ``SCALE / 2``."""
CONVERT = "safetensors.torch.save_file(torch.load(FILE, weights_only=True), NEW)"

VGG16 = FeatureConfig(
    stages=(
        StageConfig(channels=64, convs=2),
        StageConfig(channels=128, convs=2, pool="max2"),
        StageConfig(channels=256, convs=3, pool="max2"),
        StageConfig(channels=512, convs=3, pool="max2"),
        StageConfig(channels=512, convs=3, pool="max2"),
    ),
    mean=MEAN,
    std=STD,
)
"""VGG16 up to relu5_3 (Simonyan & Zisserman 2015, table 1, column D); the stages end at relu1_2, 2_2, 3_3, 4_3 and 5_3."""
ALEXNET = FeatureConfig(
    stages=(
        StageConfig(channels=64, kernel=11, stride=4, padding=2),
        StageConfig(channels=192, kernel=5, padding=2, pool="max3"),
        StageConfig(channels=384, pool="max3"),
        StageConfig(channels=256),
        StageConfig(channels=256),
    ),
    mean=MEAN,
    std=STD,
)
"""AlexNet in torchvision's form (Krizhevsky 2014, arXiv:1404.5997): its five convolutions, each a stage."""
PLACES = {
    "VGG16": ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)),
    "AlexNet": ((0,), (3,), (6,), (8,), (10,)),
}
"""Each stage's convolutions by their place N in torchvision's ``features.N``."""
CONFIGS = {"VGG16": VGG16, "AlexNet": ALEXNET}


def read_lpips(
    file: str | Path, backbone: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> PerceptualDistance:
    """Load a published LPIPS network, VGG16 or AlexNet, which is recognised by its first convolution.

    Args:
        file: safetensors of the whole module's state, or of the channels' weights alone.
        backbone: safetensors of torchvision's network, where ``file`` holds the channels' weights alone.
        device: where it is put.

    Returns:
        The distance, frozen, in evaluation mode, for pictures in 0..1 (the package's ``normalize=True``).

    Raises:
        CheckpointError: if a file is missing, a pickle, or of another network; or a key is missing, left over or of another
            shape.
    """
    files = [Path(f) for f in (file, backbone) if f is not None]
    tensors: dict[str, Tensor] = {}
    for path in files:
        if path.suffix.lower() in PICKLES:
            raise CheckpointError(
                f"{path} is a pickle, and reading a pickle runs whatever code is in it: it is refused. Where you trust it, "
                f"convert it: {CONVERT}."
            )
        found = read_tensors(path)
        if twice := sorted(tensors.keys() & found.keys()):
            raise CheckpointError(f"{files[0]} and {path} both hold {', '.join(twice[:8])}.")
        tensors |= found
    where = " and ".join(str(path) for path in files)
    name, sliced = _recognise(tensors, where)
    _check_scaling(tensors, where)
    for key in [k for k in tensors if k.startswith("lins.")]:  # the same tensors, which the module holds by two names
        tensors.setdefault(key.replace("lins.", "lin", 1), tensors[key])
    config = CONFIGS[name]
    with torch.device("meta"):
        network = FeatureNetwork(config)
    expected = {f"network.{k}": tuple(t.shape) for k, t in network.state_dict().items()}
    expected |= {f"weight{i}": (stage.channels,) for i, stage in enumerate(config.stages)}
    ours = key_map(name, sliced=sliced).load(tensors, expected, where)
    ours = {k: t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for k, t in ours.items()}
    weights = {k.removeprefix("network."): t for k, t in ours.items() if k.startswith("network.")}
    network.load_state_dict(weights, strict=True, assign=True)
    try:
        distance = PerceptualDistance(network, [ours[f"weight{i}"] for i in range(len(config.stages))])
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}") from error
    return distance.to(device).eval()


def key_map(name: str, *, sliced: bool) -> KeyMap:
    """Return the key map of a network, ``VGG16`` or ``AlexNet``.

    Args:
        name: of the network.
        sliced: whether its convolutions go by the package's names (``net.slice1.0``) or by torchvision's (``features.0``).
    """
    rules: list[Rule] = []
    for s, places in enumerate(PLACES[name]):
        rules += [
            rename(f"net.slice{s + 1}.{n}.{{p}}" if sliced else f"features.{n}.{{p}}", f"network.stages.{s}.{i}.{{p}}")
            for i, n in enumerate(places)
        ]
        channels = CONFIGS[name].stages[s].channels
        rules.append(reshape(f"lin{s}.model.1.weight", f"weight{s}", (1, channels, 1, 1), (channels,)))
    return KeyMap(*rules, ignored=("lins.{i}.model.1.weight", "scaling_layer.{p}", "classifier.{i}.{p}"))


def _recognise(tensors: Mapping[str, Tensor], where: str) -> tuple[str, bool]:
    """Say which network it is, and whether its keys are the package's."""
    if any(".squeeze." in key for key in tensors):
        raise CheckpointError(f"{where} holds SqueezeNet, which is not supported: VGG16 and AlexNet are.")
    for key, sliced in (("net.slice1.0.weight", True), ("features.0.weight", False)):
        if key in tensors:
            taps = tuple(tensors[key].shape[2:])
            for name, config in CONFIGS.items():
                if taps == (config.stages[0].kernel,) * 2:
                    return name, sliced
            raise CheckpointError(
                f"{where} begins with a convolution of {taps} taps: neither VGG16 (3 x 3) nor AlexNet (11 x 11)."
            )
    if "lin0.model.1.weight" in tensors:
        raise CheckpointError(
            f"{where} holds the weights of LPIPS's channels alone: give torchvision's file of the network as well "
            "(backbone=)."
        )
    raise CheckpointError(
        f"{where} holds no LPIPS network: there is neither net.slice1.0.weight (the package's state) nor features.0.weight "
        "(torchvision's)."
    )


def _check_scaling(tensors: Mapping[str, Tensor], where: str) -> None:
    for key, expected in (("scaling_layer.shift", SHIFT), ("scaling_layer.scale", SCALE)):
        found = tensors.get(key)
        if found is not None and not torch.allclose(
            found.flatten().double(), torch.tensor(expected).double(), atol=1e-3
        ):
            raise CheckpointError(f"{where} scales pictures otherwise than LPIPS: {key} is {found.flatten().tolist()}.")
