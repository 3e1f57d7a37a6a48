"""The feature network: its composition, the shipped weights, and that what it sees is meaningful."""

import dataclasses
import hashlib
import io
import itertools
from importlib import resources

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from intermodal.core.errors import CheckpointError, ConfigError, DataError
from intermodal.data.emoji import EmojiSource
from intermodal.data.transforms import gaussian_blur
from intermodal.losses.perceptual import perceptual_distance
from intermodal.metrics.frechet import frechet_distance
from intermodal.metrics.knn import knn_scores
from intermodal.nn import features as module
from intermodal.nn.features import (
    NAME,
    SHA256,
    FeatureConfig,
    FeatureNetwork,
    StageConfig,
    features_v1,
    features_v1_metadata,
)


@pytest.fixture(scope="module")
def emoji():
    """Every thirtieth picture of the held-out concepts, ``(60, 3, 64, 64)`` in 0..1."""
    source = EmojiSource().open("test")
    arrays = [np.array(source.image(i)) for i in range(0, len(source), 30)]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def random_network():
    torch.manual_seed(0)
    return FeatureNetwork().requires_grad_(False).to(memory_format=torch.channels_last)


def test_is_the_composition_that_it_says():
    """Beside a plain Sequential with the same weights, outputs and gradients."""
    torch.manual_seed(0)
    config = FeatureConfig(
        stages=(
            StageConfig(channels=4, convs=2, kernel=5, stride=2, padding=2),
            StageConfig(channels=6, pool="max3"),
            StageConfig(channels=5, convs=2, pool="mean2"),
            StageConfig(channels=3, pool="max2"),
        ),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )
    network = FeatureNetwork(config).double()
    convs = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    parts = [
        nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(3, 2), convs[2], nn.ReLU()),
        nn.Sequential(nn.AvgPool2d(2), convs[3], nn.ReLU(), convs[4], nn.ReLU()),
        nn.Sequential(nn.MaxPool2d(2), convs[5], nn.ReLU()),
    ]
    image = torch.rand(2, 3, 61, 47, dtype=torch.float64, requires_grad=True)
    mean, std = (torch.tensor(c, dtype=torch.float64).view(3, 1, 1) for c in (config.mean, config.std))
    x, wanted = (image - mean) / std, []
    for part in parts:
        x = part(x)
        wanted.append(x)
    found = network(image)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-13, rtol=0)
    assert [tuple(m.shape[2:]) for m in found] == config.map_sizes(61, 47)
    gradients = [torch.autograd.grad(sum(m.sin().sum() for m in maps), image)[0] for maps in (found, wanted)]
    torch.testing.assert_close(*gradients, atol=1e-12, rtol=0)
    torch.testing.assert_close(network.pooled(image), wanted[-1].mean((2, 3)).float(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (64, 64), (96, 70)])
def test_takes_any_size(size):
    network = features_v1()
    maps = network(torch.rand(1, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == network.config.map_sizes(*size)
    assert [m.shape[1] for m in maps] == [16, 32, 64, 128, 128]
    assert network.pooled(torch.rand(3, 3, *size)).shape == (3, network.config.features)


def test_what_it_cannot_take_is_said_in_words():
    network = features_v1()
    assert network.config.smallest == 16
    for shape in ((1, 3, 1, 1), (1, 3, 15, 64)):
        with pytest.raises(DataError, match="at least 16 x 16"):
            network(torch.rand(*shape))
    for picture in (torch.rand(1, 1, 32, 32), torch.rand(3, 32, 32), torch.zeros(1, 3, 32, 32, dtype=torch.uint8)):
        with pytest.raises(DataError, match=r"\(B, 3, H, W\)"):
            network(picture)
    with pytest.raises(ConfigError, match="at least one"):
        FeatureConfig(stages=())
    with pytest.raises(ConfigError, match="at least one"):
        StageConfig(channels=0)


def test_the_shipped_file_is_the_one_that_is_named():
    file = resources.files("intermodal.nn") / "assets" / f"{NAME}.safetensors"
    assert len(file.read_bytes()) < 1_000_000
    with resources.as_file(file) as path:
        tensors = load_file(path)
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    assert digest.hexdigest() == SHA256
    metadata = features_v1_metadata()
    assert metadata["name"] == NAME and metadata["sha256"] == SHA256 and "emoji (train)" in metadata["data"]
    assert {"command", "steps", "cpu_minutes", "tasks", "torch", "licence"} <= metadata.keys()


def test_an_altered_file_is_refused(monkeypatch):
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(CheckpointError, match=SHA256):
        features_v1.__wrapped__()
    monkeypatch.setattr(module, "NAME", "features-v0")
    with pytest.raises(CheckpointError, match="missing"):
        features_v1.__wrapped__()


def test_is_read_once_frozen_and_fit_for_gradients_wherever_it_was_first_asked_for():
    assert features_v1() is features_v1()
    with torch.inference_mode():
        network = features_v1.__wrapped__()
    assert not any(p.requires_grad or p.is_inference() for p in network.parameters())
    assert not network.training and network.dtype == torch.float32
    x = torch.rand(1, 3, 32, 32, requires_grad=True)
    network.pooled(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def jpeg(image_BCHW, quality):
    out = []
    for picture in image_BCHW:
        file = io.BytesIO()
        array = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
        Image.fromarray(array).save(file, "JPEG", quality=quality)
        out.append(torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1).float() / 255)
    return torch.stack(out)


def blurred(image_BCHW, sigma):
    return gaussian_blur(image_BCHW, torch.full((len(image_BCHW),), sigma), 9)


def noisy(image_BCHW, deviation):
    noise = torch.randn(image_BCHW.shape, generator=torch.Generator().manual_seed(0))
    return (image_BCHW + deviation * noise).clamp(0, 1)


def shifted(image_BCHW, pixels):
    return F.pad(image_BCHW, (pixels, 0, 0, 0), mode="replicate")[..., : image_BCHW.shape[3]]


STRENGTHS = {
    blurred: (0.4, 0.7, 1.0, 1.5, 2.0, 3.0),
    noisy: (0.02, 0.05, 0.1, 0.2, 0.4),
    jpeg: (90, 70, 50, 30, 15, 5),
    shifted: (1, 2, 3, 5, 8),
}


@pytest.mark.parametrize("spoil", STRENGTHS, ids=lambda f: f.__name__)
def test_the_stronger_a_picture_is_spoilt_the_farther_it_is(emoji, spoil):
    """Of each picture two neighbouring strengths are in order, but for few; and on average all are."""
    spoilt = [spoil(emoji, strength) for strength in STRENGTHS[spoil]]
    distances = torch.stack([perceptual_distance(s, emoji) for s in spoilt])
    assert (distances.mean(1).diff() > 0).all()
    assert (distances.diff(dim=0) > 0).float().mean() > 0.9
    sets = [frechet_distance(features_v1().pooled(s), features_v1().pooled(emoji)) for s in spoilt]
    assert all(a < b for a, b in itertools.pairwise(sets))


def test_blur_is_farther_than_a_shift_of_the_same_error(emoji):
    """What pixel errors cannot tell: a picture that moved by one pixel is still sharp (Zhang et al. 2018, figure 1)."""
    moved = shifted(emoji, 1)
    error = (moved - emoji).square().mean((1, 2, 3))
    low, high = torch.full((len(emoji),), 0.2), torch.full((len(emoji),), 6.0)
    for _ in range(12):
        middle = (low + high) / 2
        soft = (gaussian_blur(emoji, middle, 18) - emoji).square().mean((1, 2, 3)) > error
        low, high = torch.where(soft, low, middle), torch.where(soft, middle, high)
    found = high < 5.9  # some cannot be blurred as far
    soft, moved, sharp = gaussian_blur(emoji, high, 18)[found], moved[found], emoji[found]
    assert len(sharp) > 40
    assert (perceptual_distance(soft, sharp) > perceptual_distance(moved, sharp)).float().mean() > 0.9


def test_neighbours_tell_more_by_it_than_by_random_weights():
    """Sub-groups of held-out concepts, on a part of the pictures; the handbook has the figures on all, and a probe's."""
    parts = {}
    for split, every in (("train", 8), ("test", 5)):
        source = EmojiSource().open(split)
        rows = range(0, len(source), every)
        image = torch.from_numpy(np.stack([np.array(source.image(i)) for i in rows])).permute(0, 3, 1, 2)
        parts[split] = image, [source.rows[i]["subgroup"] for i in rows]
    names = sorted({n for _, labels in parts.values() for n in labels})
    labels = {s: torch.tensor([names.index(n) for n in y]) for s, (_, y) in parts.items()}
    accuracy = {}
    for name, network in (("v1", features_v1()), ("random", random_network())):
        with torch.inference_mode():
            x = {s: torch.cat([network.pooled(c.float() / 255) for c in i.split(128)]) for s, (i, _) in parts.items()}
        unit = {s: F.normalize(v - x["train"].mean(0), dim=1) for s, v in x.items()}
        scores = knn_scores(unit["train"], labels["train"], unit["test"], classes=len(names), k=10, temperature=0.07)
        accuracy[name] = (scores.argmax(1) == labels["test"]).float().mean().item()
    assert accuracy["v1"] > 1.3 * accuracy["random"]


def test_the_configuration_is_data():
    config = FeatureConfig()
    assert FeatureConfig.from_dict(config.to_dict()) == config
    assert dataclasses.replace(config, mean=(0.0, 0.0, 0.0)) != config
    assert sum(p.numel() for p in FeatureNetwork().parameters()) == 441_104
