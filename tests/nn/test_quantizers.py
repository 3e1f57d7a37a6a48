"""Quantizers: the paper's equations in float64, averages over ranks, dead codes, what they begin with, what they refuse."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch.nn import functional as F

from intermodal.core.errors import ConfigError, DataError
from intermodal.nn.quantizers import (
    FiniteScalarQuantizer,
    FiniteScalarQuantizerConfig,
    Quantizer,
    ResidualQuantizer,
    ResidualQuantizerConfig,
    VectorQuantizer,
    VectorQuantizerConfig,
    build_quantizer,
    straight_through,
)
from intermodal.nn.quantizers.vector import draw_rows
from processes import together

VECTOR = VectorQuantizerConfig(codes=9, dim=4, initial="random")
CONFIGS = {
    "ema": VECTOR,
    "loss": VECTOR.replace(update="loss"),
    "cosine": VECTOR.replace(cosine=True),
    "cosine, loss": VECTOR.replace(cosine=True, update="loss"),
    "residual": ResidualQuantizerConfig(level=VECTOR, levels=3),
    "scalar": FiniteScalarQuantizerConfig(levels=(5, 4, 3, 8)),
}


def built(config, seed=0) -> Quantizer:
    torch.manual_seed(seed)
    quantizer = build_quantizer(config)
    for module in quantizer.modules():
        if isinstance(module, VectorQuantizer):
            codes = torch.randn(module.codebook.shape)
            codes = F.normalize(codes, dim=1) if module.config.cosine else codes
            with torch.no_grad():
                module.codebook.copy_(codes)
            if module.config.update == "ema":
                module.sums.copy_(codes)
    return quantizer


def vectors(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(params=CONFIGS)
def quantizer(request) -> Quantizer:
    return built(CONFIGS[request.param])


@pytest.mark.parametrize("places", [(), (6,), (3, 5), (1, 1), (2, 3, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_shapes_types_and_the_way_back(quantizer, places, training):
    quantizer.train(training)
    found = quantizer(vectors(2, 4, *places))
    assert found.z.shape == (2, 4, *places) and found.codes.shape == (2, *places, *quantizer.code_shape)
    assert found.codes.dtype == torch.int64 and found.loss.shape == () and found.loss.dtype == torch.float32
    assert int(found.codes.min()) >= 0 and int(found.codes.max()) < quantizer.codebook_size
    quantizer.eval()
    again = quantizer(vectors(2, 4, *places))
    torch.testing.assert_close(quantizer.look_up(again.codes), again.z, rtol=0, atol=1e-6)
    assert all(part.shape == () and not part.requires_grad for part in found.parts.values())
    assert {"perplexity", "used", "commitment"} == set(found.parts)


def test_what_comes_out_is_a_code_to_the_last_bit_and_its_gradient_goes_straight_through(quantizer):
    z = vectors(2, 4, 3, 5).requires_grad_()
    found = quantizer.eval()(z)
    expected = quantizer.look_up(found.codes)
    assert torch.equal(found.z, expected)
    weight = vectors(2, 4, 3, 5, seed=8)
    got = torch.autograd.grad((found.z * weight).sum(), z)[0]
    if isinstance(quantizer, FiniteScalarQuantizer):
        width = torch.tensor(quantizer.config.levels).view(4, 1, 1) // 2
        want = torch.autograd.grad((quantizer.bound(z.movedim(1, -1)).movedim(-1, 1) / width * weight).sum(), z)[0]
    elif isinstance(quantizer, VectorQuantizer) and quantizer.config.cosine:
        want = torch.autograd.grad((F.normalize(z, dim=1) * weight).sum(), z)[0]
    else:
        want = weight
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert torch.equal(straight_through(z, expected), expected)


def test_equation_3():
    quantizer = built(VECTOR.replace(update="loss", commitment=0.3, codebook=1.2)).double()
    z = vectors(3, 4, 5).double().requires_grad_()
    found = quantizer(z)
    rows, book = z.movedim(1, -1).reshape(-1, 4), quantizer.codebook
    codes = (rows[:, None] - book).square().sum(2).argmin(1)
    chosen = book[codes]
    loss = 1.2 * (rows.detach() - chosen).square().mean() + 0.3 * (rows - chosen.detach()).square().mean()
    assert torch.equal(found.codes.flatten(), codes)
    assert float((found.loss - loss).detach().abs()) < 1e-14
    for name, tensor in (("z", z), ("codebook", book)):
        ours, exact = (torch.autograd.grad(value, tensor, retain_graph=True)[0] for value in (found.loss, loss))
        assert float((ours - exact).abs().max()) < 1e-14, name


def test_equations_6_to_8_over_many_steps():
    """N_i and m_i as sums over vectors one by one; with Laplace's smoothing of the counts, whose total it keeps."""
    quantizer = built(VECTOR.replace(decay=0.7, smoothing=1e-2)).double()
    count, total, book = torch.ones(9).double(), quantizer.codebook.clone(), quantizer.codebook.clone()
    for step in range(6):
        z = vectors(2, 4, 7, seed=step).double()
        quantizer(z)
        number, added = torch.zeros(9).double(), torch.zeros(9, 4).double()
        for row in z.movedim(1, -1).reshape(-1, 4):
            nearest = (row - book).square().sum(1).argmin()
            number[nearest] += 1
            added[nearest] += row
        count, total = 0.7 * count + 0.3 * number, 0.7 * total + 0.3 * added
        book = total / ((count + 1e-2) / (count.sum() + 9e-2) * count.sum())[:, None]
        torch.testing.assert_close(quantizer.counts, count, rtol=1e-12, atol=0)
        torch.testing.assert_close(quantizer.sums, total, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(quantizer.codebook, book, rtol=1e-10, atol=1e-14)


def test_without_training_nothing_changes(quantizer):
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(vectors(2, 4, 3, 3))
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_the_state_goes_on_with_the_same_bits(quantizer):
    """What is saved after three steps gives the same codebook after five."""
    config, saved = quantizer.config, None
    for step in range(5):
        if step == 3:
            saved = {name: value.clone() for name, value in quantizer.state_dict().items()}
        quantizer(vectors(2, 4, 3, 3, seed=step), seeded(step))
    again = build_quantizer(config)
    again.load_state_dict(saved)
    for step in (3, 4):
        again(vectors(2, 4, 3, 3, seed=step), seeded(step))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in quantizer.state_dict().items())


def test_cosine_takes_the_smallest_angle():
    quantizer = built(CONFIGS["cosine, loss"]).eval()
    z = vectors(50, 4) * 7
    angles = F.cosine_similarity(z[:, None], quantizer.codebook[None], dim=2)
    assert torch.equal(quantizer(z).codes, angles.argmax(1))
    torch.testing.assert_close(quantizer(z).z.norm(dim=1), torch.ones(50))
    loss = torch.stack([2 - 2 * a.max() for a in angles]).mean() / 4
    torch.testing.assert_close(quantizer(z).loss, 1.25 * loss)


def test_a_residual_quantizer_comes_nearer_with_each_level_and_decodes_from_the_first_few():
    level = VECTOR.replace(codes=32, initial="kmeans")
    quantizer = ResidualQuantizer(ResidualQuantizerConfig(level=level, levels=4))
    z = vectors(300, 4)
    quantizer(z, seeded())
    found = quantizer.eval()(z)
    errors = [float((quantizer.look_up(found.codes[:, :n]) - z).square().mean()) for n in (1, 2, 3, 4)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 8 * errors[3] > 0
    left = z
    for i, part in enumerate(quantizer.levels):
        codes = (left[:, None] - part.codebook).square().sum(2).argmin(1)
        assert (codes == found.codes[:, i]).float().mean() > 0.99
        left = left - part.codebook[found.codes[:, i]]
    for wrong in (found.codes[:, :0], torch.zeros(3, 5, dtype=torch.int64), torch.tensor(3)):
        with pytest.raises(DataError, match="Each place has 4 codes"):
            quantizer.look_up(wrong)


@pytest.mark.parametrize("levels", [(3,), (4,), (8, 5), (7, 6, 3)])
def test_every_code_of_a_finite_scalar_quantizer_is_reached_and_is_a_mixed_radix_number(levels):
    quantizer = FiniteScalarQuantizer(FiniteScalarQuantizerConfig(levels=levels))
    every = torch.arange(quantizer.codebook_size)
    z = quantizer.look_up(every)
    digits = []
    for value in range(quantizer.codebook_size):
        digits.append([])
        for n in levels:
            digits[-1].append(value % n)
            value //= n
    low = torch.tensor(levels) // 2
    torch.testing.assert_close(z * low, torch.tensor(digits) - low.float())
    assert float(z.min()) == -1 and float(z.max()) <= 1
    wide = torch.linspace(-6, 6, 4001)
    for i, n in enumerate(levels):
        line = torch.zeros(4001, len(levels))
        line[:, i] = wide
        assert len(quantizer(line).codes.unique()) == n
    centre = quantizer(torch.zeros(1, len(levels)))
    assert torch.equal(centre.z, torch.zeros(1, len(levels)))


def test_perplexity_and_used_share():
    quantizer = VectorQuantizer(VectorQuantizerConfig(codes=4, dim=1, initial="random")).eval()
    quantizer.codebook.copy_(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))
    cases = (([0, 0, 1, 1], 2, 0.5), ([2, 2, 2], 1, 0.25), ([0, 1, 2, 3], 4, 1), ([0, 0, 0, 1], 1.7548, 0.5))
    for values, perplexity, used in cases:
        parts = quantizer(torch.tensor(values).float()[:, None]).parts
        assert float(parts["perplexity"]) == pytest.approx(perplexity, abs=1e-4) and float(parts["used"]) == used


@pytest.mark.parametrize("update", ["ema", "loss"])
def test_it_begins_with_vectors_of_the_first_batch(update):
    config = VECTOR.replace(initial="data", update=update, decay=0.99, codes=6)
    quantizer = VectorQuantizer(config)
    z = vectors(20, 4)
    quantizer.eval()(z)
    assert not quantizer.started
    found = quantizer.train()(z, seeded(3))
    assert quantizer.started
    drawn = z[torch.randperm(20, generator=seeded(3))[:6]]
    distances = (z[:, None] - drawn).square().sum(2)
    assert torch.equal(found.codes, distances.argmin(1))
    state = quantizer.codebook.detach().clone()
    quantizer(vectors(20, 4, seed=2), seeded(4))
    assert float((quantizer.codebook - state).detach().abs().max()) < 0.1, "it begins once"


def test_kmeans_comes_to_rest_at_the_centres():
    centres = torch.tensor([[5.0, 0], [-5, 0], [0, 5], [0, -5]])
    z = (centres[:, None] + 0.1 * vectors(4, 50, 2)).reshape(-1, 2)
    quantizer = VectorQuantizer(VectorQuantizerConfig(codes=8, dim=2, initial="kmeans", update="loss"))
    found = quantizer(z, seeded(1))
    codebook = quantizer.codebook.detach()
    for code in found.codes.unique():
        torch.testing.assert_close(codebook[code], z[found.codes == code].mean(0), rtol=1e-4, atol=1e-4)
    assert float(found.parts["commitment"]) < 0.02


def test_a_dead_code_is_replaced_by_a_vector_of_the_batch_and_gets_time_to_live():
    config = VECTOR.replace(codes=5, decay=0.5, restart=0.2)
    quantizer = built(config)
    far = torch.full((4,), 100.0)
    quantizer.codebook[2], quantizer.sums[2] = far, far
    z, seen = vectors(40, 4), 0
    for step in range(8):
        before, counts = quantizer.codebook.clone(), quantizer.counts.clone()
        quantizer(z, seeded(step))
        if counts[2] >= 0.2 * counts.mean():
            assert float((quantizer.codebook[2] - before[2]).abs().max()) > 0 or seen
        else:
            seen += 1
            drawn = z[torch.randperm(40, generator=seeded(step))[0]]
            assert float((drawn - far).norm()) > 100 and float(quantizer.codebook[2].norm()) < 10
    assert seen == 1
    still = built(config.replace(restart=0.0))
    still.codebook[2], still.sums[2] = far, far
    for step in range(8):
        still(z, seeded(step))
    assert float(still.codebook[2].norm()) > 100


def test_a_codebook_that_descends_is_revived_before_the_codes_are_chosen():
    """Backward finds what forward had, also where cosine's gradient needs the codebook."""
    quantizer = built(VECTOR.replace(update="loss", cosine=True, restart=0.5, decay=0.1))
    with torch.no_grad():
        quantizer.codebook[1:] = -quantizer.codebook[0]
    z = quantizer.codebook[:1].detach() + 0.05 * vectors(30, 4)
    for step in range(3):
        found = quantizer(z, seeded(step))
        found.loss.backward()
    assert float(found.parts["used"]) > 0.5 and quantizer.codebook.grad.isfinite().all()  # of 9, 2 were apart


def test_a_codebook_larger_than_the_data_and_a_constant_map():
    config = VECTOR.replace(codes=50, initial="data", restart=0.1, decay=0.5)
    quantizer = VectorQuantizer(config)
    z = vectors(7, 4)
    for step in range(10):
        found = quantizer(z, seeded(step))
    assert len(found.codes.unique()) == 7 and float(found.parts["commitment"]) < 1e-6
    assert quantizer.codebook.isfinite().all()
    for each in CONFIGS.values():
        found = built(each)(torch.ones(2, 4, 3, 3))
        assert len(found.codes.flatten(0, 2).unique(dim=0)) == 1 and float(found.parts["perplexity"]) == 1
    kmeans = VectorQuantizer(config.replace(initial="kmeans"))
    kmeans(torch.ones(2, 4, 3, 3), seeded())
    assert kmeans.codebook.isfinite().all() and kmeans.counts.isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_stop_evaluation_and_leave_the_codebook_as_it_is(quantizer, value):
    z = vectors(2, 4, 3, 3)
    z[1, 2, 0, 0] = value
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    found = quantizer.train()(z)
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
    if not isinstance(quantizer, FiniteScalarQuantizer):
        assert not found.loss.isfinite(), "the training loop stops at such a loss"
    with pytest.raises(DataError, match="not finite"):
        quantizer.eval()(z)


@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (4,), (0, 4, 2), (2, 4, 0)])
def test_shapes_that_do_not_fit_are_refused(quantizer, shape):
    with pytest.raises(DataError, match=r"takes vectors of shape \(B, 4, ...\)"):
        quantizer(torch.zeros(shape))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VECTOR.replace(codes=0),
        lambda: VECTOR.replace(dim=0),
        lambda: VECTOR.replace(decay=1.0),
        lambda: VECTOR.replace(restart=1.0),
        lambda: VECTOR.replace(smoothing=0.0),
        lambda: VECTOR.replace(commitment=-1.0),
        lambda: ResidualQuantizerConfig(level=VECTOR, levels=0),
        lambda: ResidualQuantizerConfig(level=VECTOR.replace(cosine=True), levels=2),
        lambda: FiniteScalarQuantizerConfig(levels=()),
        lambda: FiniteScalarQuantizerConfig(levels=(5, 2)),
        lambda: FiniteScalarQuantizerConfig(levels=(64,) * 9),
    ],
)
def test_bad_configurations_are_refused(make):
    with pytest.raises(ConfigError, match="uantizer"):
        make()


def test_bfloat16_in_bfloat16_out_and_autocast_changes_no_code(quantizer):
    quantizer.eval()
    z = vectors(3, 4, 5, 5)
    half = quantizer(z.bfloat16())
    assert half.z.dtype == torch.bfloat16
    assert torch.equal(half.codes, quantizer(z.bfloat16().float()).codes)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(z).codes, quantizer(z).codes)
        inside = quantizer(z)
    assert torch.equal(inside.codes, quantizer(z).codes) and inside.z.dtype == torch.float32


def test_drawing_rows():
    z = vectors(10, 3)
    rows = draw_rows(z, 10, seeded(1))
    assert {tuple(r) for r in rows.tolist()} == {tuple(r) for r in z.tolist()}
    many = draw_rows(z, 25, seeded(1))
    counts = (many[:, None] == z).all(2).sum(0)
    assert int(counts.min()) >= 1 and int(counts.sum()) == 25
    assert torch.equal(draw_rows(z, 4, seeded(2)), draw_rows(z, 4, seeded(2)))


STEPS = 5
CODEBOOK = VectorQuantizerConfig(codes=8, dim=4, decay=0.6)
DISTRIBUTED = {
    "data, restart": CODEBOOK.replace(restart=0.6),
    "kmeans": CODEBOOK.replace(initial="kmeans"),
    "loss, cosine": CODEBOOK.replace(update="loss", cosine=True, restart=0.6),
    "residual": ResidualQuantizerConfig(level=CODEBOOK.replace(restart=0.6), levels=2),
}


def trained(config, part, steps=STEPS):
    quantizer = build_quantizer(config).double()
    for step in range(steps):
        quantizer(vectors(9, 4, seed=step).double()[part], seeded(step))
    return {name: value.detach() for name, value in quantizer.state_dict().items()}


def work(rank, world, folder):
    part = slice(0, 4) if rank == 0 else slice(4, 9)  # of different lengths
    found = {}
    for name, config in DISTRIBUTED.items():
        torch.manual_seed(0)
        found[name] = trained(config, part)
    quantizer = VectorQuantizer(DISTRIBUTED["kmeans"])
    z = vectors(5, 4)
    if rank == 1:
        z[0, 0] = float("nan")
    quantizer(z, seeded())
    found["not finite"] = {"started": quantizer.started}
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")
def test_two_processes_have_the_codebook_of_one(tmp_path):
    together(work, 2, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, config in DISTRIBUTED.items():
        torch.manual_seed(0)
        expected = trained(config, slice(0, 9))
        for key, value in expected.items():
            assert torch.equal(first[name][key], second[name][key]), (name, key)
            torch.testing.assert_close(first[name][key], value, rtol=1e-10, atol=1e-12, msg=f"{name}, {key}")
    assert not first["not finite"]["started"] and not second["not finite"]["started"], "one rank's NaN stops both"
