"""Patch tokens: the principal components of patches, an honest rate, votes and their maps, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from intermodal.core.errors import ConfigError, DataError
from intermodal.data.folder import FolderSource
from intermodal.data.processors import ImageProcessor, LabelProcessor, signed_pixels
from intermodal.evaluate.patches import against_components, cheapest_widths, extras
from intermodal.methods.image_tokenizers.patches import Patches, PatchesConfig, laplace_nats
from intermodal.nn.patches import PatchConfig, split
from intermodal.recipes import get_recipe

NAMES = ("cat", "dog", "owl")


def small(*, labels: bool = True, size: tuple[int, int] = (8, 12), **changes) -> Patches:
    torch.manual_seed(0)
    config = PatchesConfig(patches=PatchConfig(size=4, edge="pad"), width=10, hidden=16).replace(**changes)
    half = (0.5, 0.5, 0.5)
    processors = {"image": ImageProcessor(size=size, mean=half, std=half)}
    return Patches(config, {**processors, "label": LabelProcessor(names=NAMES)} if labels else processors)


def smooth(count: int, size: tuple[int, int] = (8, 12), seed: int = 0) -> torch.Tensor:
    """Return pictures whose patches have few strong directions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 3, 4, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


def images(count: int, size: tuple[int, int] = (8, 12)) -> list[Image.Image]:
    return signed_pixels(8, "crop").decode(smooth(count, size))


@pytest.mark.parametrize("size", [(8, 12), (9, 13), (5, 3)])
@pytest.mark.parametrize("stride", [None, 2, (1, 3)])
def test_with_all_numbers_kept_pictures_come_back_whole(size, stride):
    method = small(size=size, patches=PatchConfig(size=4, stride=stride, edge="pad"), width=48).double()
    image = smooth(3, size).double()
    assert method.to_latent(image).shape[1:] == method.latent_shape()
    torch.testing.assert_close(method.to_image(method.to_latent(image)), image, rtol=0, atol=1e-12)


def test_the_rows_are_orthonormal_whatever_the_weights():
    method = small().double()
    with torch.no_grad():
        method.weight.copy_(torch.randn(10, 48))
    matrix = method.matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-12)
    joined = torch.linalg.matrix_rank(torch.cat([matrix, method.weight]), tol=1e-8)
    assert int(joined) == 10, "they span what the weights span"


def test_the_descent_ends_at_the_principal_components_of_patches():
    image = smooth(200).double()
    method = small(labels=False, width=5).double()
    optimizer = torch.optim.LBFGS(method.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = method.loss({"image": image}).total
        total.backward()
        return total

    optimizer.step(closure)
    patches = split(image, method.config.patches).flatten(0, 1)
    values = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0))
    found = method.loss({"image": image}).total.item()
    assert found == pytest.approx(values[:-5].sum().item() / 48, rel=1e-4)
    judged = against_components(method, image, image)
    assert judged["error"] == pytest.approx(judged["pca_error"], rel=1e-4)


def test_what_whole_numbers_cost_is_a_probability_that_sums_to_one():
    count = torch.arange(-4000, 4001, dtype=torch.float64)
    for width in (0.05, 0.4, 1.0, 7.0, 300.0):
        nats = laplace_nats(count, torch.tensor(width, dtype=torch.float64))
        assert (-nats).exp().sum().item() == pytest.approx(1.0, abs=1e-5)
        inside = torch.distributions.Laplace(0.0, width)
        wanted = -torch.log(inside.cdf(torch.tensor(2.5)) - inside.cdf(torch.tensor(1.5)))
        if width > 0.3:  # where the difference of float32 distributions has digits
            assert nats[4002].item() == pytest.approx(wanted.item(), rel=1e-3)


def test_the_cheapest_widths_cost_no_more_than_others():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(4000, 3, generator=generator, dtype=torch.float64) - 0.5
    scale = torch.tensor([0.3, 2.0, 20.0], dtype=torch.float64)
    count = (-scale * uniform.sign() * torch.log1p(-2 * uniform.abs())).round()
    found = cheapest_widths(count)
    torch.testing.assert_close(found, scale, rtol=0.15, atol=0)


def test_the_rate_is_what_the_rounded_numbers_cost():
    method = small(step=0.5).double()
    image = smooth(4).double()
    latent = method.to_latent(image)
    assert torch.equal(latent / 0.5, (latent / 0.5).round())
    each = laplace_nats(latent / 0.5, method.log_width.exp()[:, None, None]) / math.log(2)
    torch.testing.assert_close(method.rate(image), each.flatten(1).sum(1))
    raw = small().rate(smooth(4))
    assert raw.tolist() == [32.0 * 10 * 6] * 4


def test_finer_steps_cost_more_bits_and_lose_less():
    found = []
    for step in (1.0, 0.25, 0.06):
        method = small(labels=False, step=step, width=48)
        optimizer = torch.optim.Adam(method.parameters(), 0.02)
        for _ in range(150):
            method.loss({"image": smooth(64)}).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            image = smooth(64, seed=1)
            back = method.to_image(method.to_latent(image))
            found.append((method.rate(image).mean().item(), (back - image).square().mean().item()))
    bits, errors = zip(*found, strict=True)
    assert bits[0] < bits[1] < bits[2]
    assert errors[0] > errors[1] > errors[2]


def test_a_picture_s_class_is_the_mean_of_its_patches_votes():
    method = small()
    shown = images(5)
    votes = method.votes(shown)
    assert votes.shape == (5, 2, 3, 3)
    chosen = method.classify(shown, NAMES)
    np.testing.assert_allclose(chosen, votes.mean((1, 2)).softmax(1).numpy(), rtol=1e-6)
    two = method.classify(shown, ["owl", "cat"])
    np.testing.assert_allclose(two, chosen[:, [2, 0]] / chosen[:, [2, 0]].sum(1, keepdims=True), rtol=1e-5)
    maps = method.class_maps(shown, "owl")
    assert maps.shape == (5, 2, 3) and maps.dtype == np.float32
    np.testing.assert_allclose(sum(method.class_maps(shown, n) for n in NAMES), np.ones((5, 2, 3)), rtol=1e-5)


def test_a_patch_votes_by_what_it_shows_alone():
    method = small().double()
    image = smooth(1).double()
    other = image.clone()
    other[:, :, 4:, 8:] = 0.3  # the last patch alone
    before, after = (method.head(method.tokens(x))[0] for x in (image, other))
    torch.testing.assert_close(before[:-1], after[:-1], rtol=0, atol=1e-12)
    assert not torch.allclose(before[-1], after[-1])


def test_the_head_leaves_linear_tokens_alone_and_teaches_a_stem():
    batch = {"image": smooth(6), "label": torch.arange(6) % 3}
    linear = small(classify=1.0)
    without = small(classify=0.0)
    for method in (linear, without):
        method.loss(batch).total.backward()
    torch.testing.assert_close(linear.weight.grad, without.weight.grad)
    stems = [small(stem=(4, 6), patches=PatchConfig(size=4, edge="pad"), classify=w) for w in (0.0, 1.0)]
    for method in stems:
        method.loss(batch).total.backward()
    first, second = (method.stem.layers[0].weight.grad for method in stems)
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("changes", [{}, {"step": 0.25}, {"stem": (4, 6)}, {"stride": 2}])
def test_every_choice_learns_saves_and_round_trips(changes, tmp_path):
    stride = changes.pop("stride", None)
    method = small(patches=PatchConfig(size=4, stride=stride, edge="pad"), size=(9, 13), **changes).train()
    batch = {"image": smooth(12, (9, 13)), "label": torch.arange(12) % 3}
    optimizer = torch.optim.Adam(method.parameters(), 5e-3)
    losses = []
    for _ in range(25):
        losses.append(method.loss(batch).total)
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0]
    method.save(tmp_path / "model")
    again, shown = Patches.load(tmp_path / "model"), images(3, (9, 13))
    latents = method.encode(shown)
    np.testing.assert_array_equal(again.encode(shown), latents)
    assert [i.size for i in again.decode(latents)] == [(13, 9)] * 3
    assert again.classes == NAMES
    assert again.bits(shown).shape == (3,)


def test_without_classes_nothing_votes_and_unknown_ones_are_named():
    method = small(labels=False)
    assert set(method.needs) == {"image"}
    with pytest.raises(DataError, match="without classes"):
        method.classify(images(1), ["cat"])
    with pytest.raises(DataError, match="at least one label"):
        small().classify(images(1), [])
    with pytest.raises(DataError, match=r"'cats' is not one.*cat"):
        small().classify(images(1), ["cats"])
    assert small().classify([], NAMES).shape == (0, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 0},
        {"width": 49},
        {"step": -1.0},
        {"stem": (4, 6), "step": 0.1},
        {"stem": (4,)},
        {"patches": PatchConfig(size=20)},
        {"patches": PatchConfig(size=5)},
        {"patches": PatchConfig(size=2, stride=3, edge="pad")},
    ],
)
def test_what_does_not_go_together_is_refused(changes):
    with pytest.raises(ConfigError):
        small(**changes)


def test_constant_pictures_and_one_pixel_are_taken():
    method = small(step=0.25)
    odd = [
        Image.new("RGB", (1, 1), "red"),
        Image.new("L", (50, 3), 7),
        Image.new("RGBA", (4, 4)),
        Image.new("CMYK", (9, 9)),
    ]
    assert len(method.decode(method.encode(odd))) == 4
    assert np.isfinite(method.bits(odd)).all()


def test_health_speaks_of_tokens_that_say_nothing():
    method = small(step=4.0)
    assert method.health() == []
    with torch.no_grad():
        method.log_width.fill_(-9.0)
    method.loss({"image": torch.full((4, 3, 8, 12), 0.1), "label": torch.zeros(4, dtype=torch.int64)})
    assert "model.step" in method.health()[0]


def test_a_folder_of_classes_is_judged_with_maps_and_one_without_is_not(tmp_path):
    generator = np.random.default_rng(0)
    for name, colour in (("blue", 2), ("red", 0)):
        (tmp_path / "classes" / name).mkdir(parents=True)
        (tmp_path / "bare").mkdir(exist_ok=True)
        for i in range(20):
            pixels = generator.integers(0, 60, (11, 13, 3), np.uint8)
            pixels[..., colour] += 150
            for place in (tmp_path / "classes" / name / f"{i}.png", tmp_path / "bare" / f"{name}{i}.png"):
                Image.fromarray(pixels).save(place)
    recipe = get_recipe("patches").on(FolderSource(path=tmp_path / "classes")).smoke()
    method = recipe.build()
    assert method.classes == ("blue", "red")
    optimizer = torch.optim.Adam(method.parameters(), 1e-2)
    train = recipe.source.open("train")
    batch = {
        "image": method.picture([train.sample(i)["image"] for i in range(len(train))]),
        "label": torch.tensor([NAMES_OF[label] for label in train.labels()]),
    }
    for _ in range(30):
        method.loss(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    metrics, panels = extras(method, recipe.source, "validation", lambda *_: None, full=True)
    assert metrics["top1"] == 1.0 and metrics["patch_top1"] > 0.9
    assert {"pixels_top1", "majority_top1", "chance_top1", "error", "pca_error", "pca_bits_per_pixel"} <= set(metrics)
    assert "Where the votes come from" in [p.title for p in panels]
    bare = get_recipe("patches").on(FolderSource(path=tmp_path / "bare")).smoke()
    method = bare.build()
    assert method.classes == ()
    metrics, panels = extras(method, bare.source, "validation", lambda *_: None, full=True)
    assert "top1" not in metrics and len(panels) == 1


NAMES_OF = {"blue": 0, "red": 1}
