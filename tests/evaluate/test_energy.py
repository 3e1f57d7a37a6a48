"""The evaluation of an energy of pictures, on models whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from intermodal.data.corruptions import CORRUPTIONS
from intermodal.data.folder import FolderSource
from intermodal.data.processors import signed_pixels
from intermodal.evaluate.energy import PPCA, evaluate_pictures
from intermodal.evaluate.result import load, save
from intermodal.methods.contrastive.ebm import EBM, EBMConfig
from intermodal.nn.energy import ConvEnergyConfig
from intermodal.nn.langevin import LangevinConfig


def model() -> EBM:
    torch.manual_seed(0)
    config = EBMConfig(
        network=ConvEnergyConfig(image_size=16, channels=(4, 6)),
        sampler=LangevinConfig(steps=2, step_size=0.5, noise=0.01, bounds=(-1.0, 1.0)),
        buffer=16,
        generate_steps=4,
    )
    return EBM(config, {"image": signed_pixels(16, "crop")})


class Roughness(torch.nn.Module):
    """High where neighbours differ: real pictures here are plain squares."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return (x[..., 1:] - x[..., :-1]).square().sum((1, 2, 3)) + (x[..., 1:, :] - x[..., :-1, :]).square().sum(
            (1, 2, 3)
        )


@pytest.fixture
def plain(tmp_path):
    from PIL import Image

    folder = tmp_path / "plain"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.new("RGB", (16, 16), tuple(rng.integers(40, 216, 3).tolist())).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text("a square")
    return FolderSource(path=folder)


def test_a_known_energy_gets_the_figures_that_it_must(plain, progress, tmp_path):
    method = model()
    method.network = Roughness()
    method.sample = lambda start, generator, steps=None, watch=None: (watch and watch(4, start), start)[1]
    result = evaluate_pictures(method, plain, "test", progress, full=True)
    metrics = result.metrics
    assert metrics["auroc_gaussian_noise"] == metrics["auroc_salt_and_pepper"] == metrics["auroc_generated"] == 1.0
    for same in ("invert", "patch_shuffle", "pixel_shuffle", "blur"):  # of a plain square they leave a plain square
        assert metrics[f"auroc_{same}"] == pytest.approx(0.5, abs=0.26)
    assert metrics["auroc_corrupted"] == pytest.approx(np.mean([metrics[f"auroc_{name}"] for name in CORRUPTIONS]))
    assert metrics["paired_gaussian_noise"] == 1.0 and metrics["paired_invert"] == pytest.approx(0.5, abs=0.26)
    assert next(iter(metrics)) == "auroc_corrupted" and metrics["chance_auroc_corrupted"] == 0.5
    assert all(f"ppca_auroc_{name}" in metrics for name in CORRUPTIONS)
    assert result.headline is not None and "chance 0.5" in result.headline.sentence
    assert [type(p).__name__ for p in result.panels] == [
        "Gallery",
        "Gallery",
        "Bars",
        "Bars",
        "Lines",
        "Table",
        "Gallery",
    ]
    save(result, tmp_path / "saved")
    assert load(tmp_path / "saved").metrics == metrics


def test_it_repeats_and_leaves_the_model_alone(plain, progress):
    method = model()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    first, again = (evaluate_pictures(method, plain, "validation", progress, full=False).metrics for _ in range(2))
    assert first == again and "auroc_long" not in first
    assert all(torch.equal(before[k], v) for k, v in method.state_dict().items())


def test_ppca_is_the_gaussian_with_its_covariance():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(400, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    pictures = flat.view(400, 3, 2, 2)
    found = PPCA(pictures, directions=4)
    centred = (flat - flat.mean(0)).double()
    values, axes = torch.linalg.eigh(centred.T @ centred / 399)
    values = torch.cat([values[:8].mean().repeat(8), values[8:]])
    expected = (centred @ axes).square() / values
    np.testing.assert_allclose(found.energy(pictures), expected.sum(1).numpy() / 2, rtol=2e-3)


def test_ppca_of_one_picture_is_finite():
    assert np.isfinite(PPCA(torch.zeros(1, 3, 2, 2)).energy(torch.ones(2, 3, 2, 2))).all()
