"""The energy-based model: the gradient of the likelihood, the buffer, a density recovered, what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.capabilities import capabilities_of
from intermodal.core.errors import ConfigError, DataError, TrainingError
from intermodal.data.densities import DensitySource, PointProcessor
from intermodal.data.folder import FolderSource
from intermodal.data.processors import ImageProcessor, signed_pixels
from intermodal.data.transforms import ImageAugment
from intermodal.evaluate.density import Grid, density
from intermodal.methods.contrastive.ebm import EBM, EBMConfig
from intermodal.nn.energy import ConvEnergyConfig, MLPEnergyConfig
from intermodal.nn.langevin import LangevinConfig
from intermodal.recipes import get_recipe
from intermodal.train.run import fit


def of_pictures(**changes) -> EBM:
    torch.manual_seed(0)
    config = EBMConfig(
        network=ConvEnergyConfig(image_size=8, channels=(4, 6)),
        sampler=LangevinConfig(steps=3, step_size=0.5, noise=0.01, clip=0.1, bounds=(-1.0, 1.0)),
        buffer=16,
        generate_steps=5,
    ).replace(**changes)
    return EBM(config, {"image": signed_pixels(8, "crop")})


def of_points(**changes) -> EBM:
    torch.manual_seed(0)
    config = EBMConfig(
        network=MLPEnergyConfig(width=8, depth=2), sampler=LangevinConfig(steps=3, step_size=0.01), buffer=32
    ).replace(**changes)
    return EBM(config, {"point": PointProcessor(dim=2)})


def batch_of(size: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "image": torch.rand(size, 3, 8, 8, generator=generator) * 2 - 1,
        "seed": torch.arange(size) + 1000 * seed,
    }


def test_the_step_goes_along_the_gradient_of_the_likelihood():
    """The loss's gradient is sigmoid(gap) (grad mean E(data) - grad mean E(samples)), plus the magnitude's."""
    method, batch = of_pictures(), batch_of()
    method.eval()
    start = {n: p for n, p in method.named_parameters()}
    losses = method.loss(batch)
    found = torch.autograd.grad(losses.total, list(start.values()))
    samples = None

    def remember(network, inputs):
        nonlocal samples
        samples = inputs[0].detach()

    handle = method.network.register_forward_pre_hook(remember)
    method.loss(batch)
    handle.remove()
    assert samples is not None and len(samples) == 12
    data, negatives = samples.chunk(2)
    gap = method.network(data).mean() - method.network(negatives).mean()
    expected = torch.autograd.grad(gap, list(start.values()), allow_unused=True)
    for name, got, want in zip(start, found, expected, strict=True):
        want = torch.zeros_like(got) if want is None else want
        torch.testing.assert_close(got, torch.sigmoid(gap.detach()) * want, rtol=1e-4, atol=1e-6, msg=name)


def test_the_magnitude_holds_the_energy_s_free_constant():
    loose, held = of_pictures().eval(), of_pictures(magnitude=0.5).eval()
    batch = batch_of()
    for method in (loose, held):
        method.loss(batch).total.backward()
    assert float(loose.network.head.bias.grad.abs()) < 1e-6
    assert float(held.network.head.bias.grad.abs()) > 1e-4


def test_the_buffer_moves_in_training_alone_and_only_where_it_was_used():
    method, batch = of_pictures(restart=0.0), batch_of()
    before = method.buffer.clone()
    method.eval()
    method.loss(batch)
    assert torch.equal(method.buffer, before)
    method.train()
    method.loss(batch)
    moved = (method.buffer != before).flatten(1).any(1)
    assert int(moved.sum()) == 6
    assert float(method.buffer.min()) >= -1 and float(method.buffer.max()) <= 1


def test_a_chain_is_begun_anew_with_the_stated_probability():
    frozen = {"sampler": LangevinConfig(steps=0, bounds=(-1.0, 1.0)), "buffer": 400}
    for restart, expected in ((0.0, 0), (1.0, 400), (0.25, 100)):
        method = of_pictures(restart=restart, **frozen).train()
        before = method.buffer.clone()
        method.loss(batch_of(400))
        changed = int((method.buffer != before).flatten(1).any(1).sum())
        assert abs(changed - expected) <= 4 * np.sqrt(400 * restart * (1 - restart)), restart


def test_chains_that_begin_at_data_are_blends_or_have_pixels_replaced(monkeypatch):
    method = of_pictures(from_data=1.0)
    monkeypatch.setattr(method, "noise", lambda count, generator: torch.zeros(count, 3, 8, 8))
    data = torch.where(batch_of(300)["image"] < 0, -0.5, 0.5)
    start = method._near_data(data, torch.Generator().manual_seed(0))
    kept = (start / data).flatten(2)  # of each pixel, what share of the picture is left
    assert float(kept.min()) >= 0 and float(kept.max()) <= 1.001
    replaced = ((kept == 0) | (kept == 1)).flatten(1).all(1)
    blended = (kept.flatten(1).std(1) < 1e-5) & ~replaced
    assert int((replaced | blended).sum()) == 300
    assert abs(int(replaced.sum()) - 150) < 4 * np.sqrt(75) + 2
    assert torch.equal(kept[replaced][:, 0], kept[replaced][:, 2]), "a pixel is replaced in all of its channels"
    assert float(kept[blended].mean()) == pytest.approx(0.5, abs=0.1)


def test_chains_that_begin_at_data_leave_those_of_the_buffer_waiting():
    for share, expected in ((0.0, 400), (1.0, 0), (0.5, 200)):
        method = of_pictures(from_data=share, restart=0.0, buffer=400).train()
        before = method.buffer.clone()
        method.loss(batch_of(400))
        changed = int((method.buffer != before).flatten(1).any(1).sum())
        assert abs(changed - expected) <= 4 * np.sqrt(400 * share * (1 - share)), share


def test_a_transition_moves_the_stated_share_of_chains_and_keeps_the_bounds():
    still = {"sampler": LangevinConfig(steps=0, bounds=(-1.0, 1.0)), "buffer": 400, "restart": 0.0}
    for share, expected in ((0.0, 0), (1.0, 400), (0.25, 100)):
        method = of_pictures(transition=ImageAugment(brightness=0.9), transition_share=share, **still).train()
        before = method.buffer.clone()
        method.loss(batch_of(400))
        changed = int(((method.buffer - before).abs() > 1e-3).flatten(1).any(1).sum())
        assert abs(changed - expected) <= 2 + 4 * np.sqrt(400 * share * (1 - share)), share  # a factor may be near 1
        assert float(method.buffer.abs().max()) <= 1


def test_same_batch_same_loss_other_seed_other_loss():
    method = of_pictures(data_noise=0.1).eval()
    with torch.no_grad():
        values = [
            method.loss(b).total.item() for b in (batch_of(), batch_of(), {**batch_of(), "seed": torch.arange(6)})
        ]
        other = method.loss({**batch_of(), "seed": torch.arange(6) + 7}).total.item()
    assert values[0] == values[1] == values[2] != other


def test_the_buffer_is_saved_and_loaded(tmp_path):
    method = of_pictures().train()
    method.loss(batch_of())
    method.save(tmp_path / "model")
    again = EBM.load(tmp_path / "model")
    assert torch.equal(again.buffer, method.buffer) and again.buffer.dtype == torch.float16


def test_health_tells_when_energies_drift_apart_or_explode():
    method = of_pictures()
    assert method.health() == []
    method.loss(batch_of())
    assert method.health() == []
    for seen, words in (
        ({"gap": 50.0}, "below the data's"),
        ({"gap": -50.0}, "above the data's"),
        ({"energy_data": 1e5}, "grown to 100000"),
        ({"gap": float("nan")}, ""),
    ):
        method._seen = {name: torch.tensor(value) for name, value in seen.items()}
        warnings = method.health()
        assert all(words in w for w in warnings) and (len(warnings) == 1) == bool(words)


def test_generate_gives_pictures_that_repeat_with_their_seed():
    method = of_pictures()
    first, again, other = (method.generate(3, seed=s, steps=4) for s in (1, 1, 2))
    assert all(isinstance(p, Image.Image) and p.size == (8, 8) and p.mode == "RGB" for p in first)
    assert [p.tobytes() for p in first] == [p.tobytes() for p in again] != [p.tobytes() for p in other]
    assert capabilities_of(method) == ("generate",) and method.generates == "image"


def test_generate_of_points_gives_numbers():
    method = of_points()
    found = method.generate(70, seed=0)
    assert method.generates == "point" and len(found) == 70 and all(len(p) == 2 for p in found)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"count": 0}, "at least 1"),
        ({"count": 1, "steps": 0}, "at least 1"),
        ({"count": 1, "prompt": "a cat"}, "'a cat'"),
    ],
)
def test_generate_refuses_what_it_cannot_do(arguments, words):
    with pytest.raises(DataError, match=words):
        of_pictures().generate(**arguments)


def test_energies_of_pictures_and_their_refusals():
    method = of_pictures().eval()
    pictures = [Image.new("RGB", (8, 8), c) for c in ("red", "white")]
    energies = method.energy(pictures)
    assert energies.shape == (2,) and energies.dtype == np.float32 and method.energy([]).shape == (0,)
    broken = torch.zeros(1, 3, 8, 8)
    broken[0, 0, 0, 0] = float("nan")
    with pytest.raises(DataError, match="not finite in the images"):
        method.energy(broken)


def test_a_batch_larger_than_the_buffer_and_a_batch_of_one():
    method = of_pictures().train()
    with pytest.raises(ConfigError, match="A batch of 20 needs as many chains, the buffer holds 16"):
        method.loss(batch_of(20))
    assert torch.isfinite(method.loss(batch_of(1)).total)


@pytest.mark.parametrize(
    "changes",
    [
        {"buffer": 0},
        {"restart": 1.5},
        {"data_noise": -1.0},
        {"jumps": 2},
        {"transition_share": 2.0},
        {"from_data": -0.1},
        {"transition": ImageAugment(views=2)},
        {"start": 0.0},
        {"sampler": LangevinConfig(steps=1)},
    ],
)
def test_bad_configurations_are_refused(changes):
    with pytest.raises(ConfigError, match="EBM"):
        of_pictures(**changes)


def test_pictures_that_are_not_numbers_stop_the_training_before_the_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(ImageProcessor, "prepare", lambda self, batch: batch.float() * float("nan"))
    with pytest.raises(TrainingError, match="loss is nan at step 0"):
        fit(get_recipe("ebm").smoke(), tmp_path / "run", quiet=True)


def test_it_trains_on_a_person_s_own_folder(pictures, tmp_path):
    recipe = get_recipe("ebm").smoke().on(FolderSource(path=pictures))
    run = fit(recipe.replace(train__batch_size=4), tmp_path / "run", quiet=True)
    metrics = run.evaluation().metrics
    assert {"auroc_corrupted", "auroc_generated", "chance_auroc_corrupted"} <= set(metrics)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        fit(recipe.on(FolderSource(path=tmp_path / "empty")), tmp_path / "none", quiet=True)
    with pytest.raises(DataError, match="ebm-2d from points"):
        recipe.on(DensitySource())


def kl(method: EBM, kind: str) -> float:
    grid = Grid(density(kind))
    return grid.figures(grid.values(lambda x: -method.network(x)))["kl"]


def test_it_recovers_a_density_of_the_plane():
    """Two seconds of training take the divergence far below that of the untrained model."""
    recipe = get_recipe("ebm-2d").replace(
        source=DensitySource(kind="gaussian"),
        model__network=MLPEnergyConfig(width=32, depth=2, prior=2.0),
        model__sampler__steps=5,
        model__jumps=4,
    )
    method = recipe.build().train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=4e-3, betas=(0.0, 0.999), weight_decay=0.0)
    points = torch.from_numpy(recipe.source.open("train").points)
    before = kl(copy.deepcopy(method), "gaussian")
    generator = torch.Generator().manual_seed(0)
    for step in range(200):
        chosen = torch.randint(len(points), (256,), generator=generator)
        losses = method.loss({"point": points[chosen], "seed": torch.tensor([step])})
        losses.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * (1 - step / 200)
    after = kl(method, "gaussian")
    assert after < 0.06 < before, (before, after)
