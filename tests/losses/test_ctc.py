import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from intermodal.core.errors import DataError, TrainingError
from intermodal.losses.ctc import ctc_align, ctc_loss, ctc_occupations, frames_needed

HOWS = ("compiled", "torch")


def _batch(batch, frames, symbols, length, seed, scale=2.0, blank=0):
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, frames, symbols, generator=g, dtype=torch.float64)
    frames_B = torch.randint(0, frames + 1, (batch,), generator=g)
    lengths_B = torch.randint(0, length + 1, (batch,), generator=g)
    targets = torch.randint(0, symbols - 1, (batch, length), generator=g)
    targets = targets + (targets >= blank)
    return logits, frames_B, targets, lengths_B


def _both(logits, frames_B, targets, lengths_B, blank, how):
    """Return losses and gradients by us and by torch, which is the reference."""
    ours = logits.clone().requires_grad_()
    found = ctc_loss(ours, frames_B, targets, lengths_B, blank=blank, how=how)
    weights = torch.linspace(0.5, 2, len(logits), dtype=logits.dtype)
    (found.loss_B * weights).sum().backward()
    theirs = logits.clone().requires_grad_()
    logp = theirs.log_softmax(-1).transpose(0, 1)
    plain = functional.ctc_loss(logp, targets, frames_B, lengths_B, blank=blank, reduction="none", zero_infinity=True)
    (plain * weights).sum().backward()
    return found, ours.grad, plain.detach(), theirs.grad


@pytest.mark.parametrize("how", HOWS)
@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 5),
    frames=st.integers(1, 24),
    symbols=st.integers(2, 7),
    length=st.integers(1, 9),
    blank=st.integers(0, 6),
    scale=st.sampled_from([0.1, 2.0, 30.0]),
    seed=st.integers(0, 2**20),
)
def test_values_and_gradients_are_those_of_torch(how, batch, frames, symbols, length, blank, scale, seed):
    blank = min(blank, symbols - 1)
    logits, frames_B, targets, lengths_B = _batch(batch, frames, symbols, length, seed, scale, blank)
    found, ours, plain, theirs = _both(logits, frames_B, targets, lengths_B, blank, how)
    needed_B = frames_needed(targets, lengths_B)
    assert torch.equal(found.infinite_B, needed_B > frames_B)
    for b in range(batch):
        if frames_B[b] == 0:  # torch's gradient of nothing is not asked for
            assert found.loss_B[b] == 0
            assert ours[b].abs().max() == 0
            continue
        torch.testing.assert_close(found.loss_B[b], plain[b], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours[b], theirs[b], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(
    ("frames", "target"), [(1, []), (1, [1]), (4, [1, 1]), (5, [1, 2, 1]), (6, [2, 2, 2]), (5, [])]
)
def test_the_loss_is_the_sum_over_all_paths(how, frames, target):
    logits = torch.randn(1, frames, 3, generator=torch.Generator().manual_seed(frames), dtype=torch.float64)
    logp = logits.log_softmax(-1)[0]
    total = 0.0
    for path in itertools.product(range(3), repeat=frames):
        if [s for s, _ in itertools.groupby(path) if s] == target:
            total += math.exp(sum(float(logp[t, s]) for t, s in enumerate(path)))
    found = ctc_loss(logits, torch.tensor([frames]), torch.tensor([[*target, 1]]), torch.tensor([len(target)]), how=how)
    assert bool(found.infinite_B[0]) == (total == 0)
    if total:
        assert found.loss_B[0].item() == pytest.approx(-math.log(total), abs=1e-12)


@pytest.mark.parametrize("how", HOWS)
def test_the_gradient_is_that_of_the_loss(how):
    logits, _, targets, _ = _batch(3, 6, 4, 3, 1)
    frames_B, lengths_B = torch.tensor([6, 5, 4]), torch.tensor([3, 0, 2])
    assert torch.autograd.gradcheck(
        lambda x: ctc_loss(x, frames_B, targets, lengths_B, how=how).loss_B, logits.requires_grad_()
    )


@pytest.mark.parametrize("how", HOWS)
def test_too_few_frames_are_named_and_weigh_nothing(how):
    logits = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[1, 2, 3, 0, 0], [1, 1, 1, 0, 0], [1, 2, 1, 2, 1], [2, 2, 3, 3, 0]])
    found = ctc_loss(logits, torch.tensor([5, 4, 5, 5]), targets, torch.tensor([3, 3, 5, 4]), how=how)
    assert found.infinite() == [1, 3]
    assert found.loss_B.isfinite().all()
    found.mean().backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[[1, 3]].abs().max() == 0
    assert logits.grad[0].abs().max() > 0
    assert found.mean().item() == pytest.approx(found.loss_B[[0, 2]].mean().item())


@pytest.mark.parametrize("how", HOWS)
def test_extreme_scores_stay_finite(how):
    g = torch.Generator().manual_seed(0)
    logits = 3e4 * torch.randn(2, 40, 5, generator=g, dtype=torch.float64)
    logits[1, :, 2] = -math.inf  # a symbol that can never be
    targets = torch.tensor([[1, 2, 3, 3, 4], [1, 2, 3, 3, 4]])
    leaf = logits.requires_grad_()
    found = ctc_loss(leaf, torch.tensor([40, 40]), targets, torch.tensor([5, 5]), how=how)
    assert found.infinite() == [1]
    found.loss_B.sum().backward()
    assert leaf.grad[0].isfinite().all()
    assert leaf.grad[1].abs().max() == 0
    plain = functional.ctc_loss(
        logits[:1].detach().log_softmax(-1).transpose(0, 1), targets[:1], (40,), (5,), reduction="none"
    )
    assert found.loss_B[0].item() == pytest.approx(plain.item(), rel=1e-12)


@pytest.mark.parametrize("how", HOWS)
def test_a_long_text_of_improbable_symbols_does_not_vanish(how):
    """Two hundred symbols of probability 1e-6 each: far below what a float64 that is no logarithm can hold."""
    logits = torch.full((1, 600, 3), math.log(1e-6), dtype=torch.float64)
    logits[..., 0] = 0
    targets = torch.tensor([[1, 2] * 100])
    found, ours, plain, theirs = _both(logits, torch.tensor([600]), targets, torch.tensor([200]), 0, how)
    assert plain.item() > 1000
    torch.testing.assert_close(found.loss_B, plain)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("how", HOWS)
def test_padding_changes_nothing(how):
    logits, _, targets, _ = _batch(3, 12, 5, 4, 3)
    frames_B, lengths_B = torch.tensor([12, 7, 9]), torch.tensor([4, 2, 3])
    together = ctc_loss(logits, frames_B, targets, lengths_B, how=how).loss_B
    for b in range(3):
        t, u = int(frames_B[b]), int(lengths_B[b])
        alone = ctc_loss(
            logits[b : b + 1, :t], frames_B[b : b + 1], targets[b : b + 1, :u], lengths_B[b : b + 1], how=how
        )
        assert alone.loss_B[0].item() == together[b].item()


@pytest.mark.parametrize("threads", [1, 3])
def test_float32_bfloat16_and_threads(threads):
    logits, frames_B, targets, lengths_B = _batch(6, 60, 9, 12, 5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        exact = ctc_loss(logits, frames_B, targets, lengths_B).loss_B
        single = ctc_loss(logits.float(), frames_B, targets, lengths_B).loss_B
        half = logits.bfloat16().requires_grad_()
        rough = ctc_loss(half, frames_B, targets, lengths_B).loss_B
        rough.sum().backward()
    finally:
        torch.set_num_threads(before)
    assert single.dtype == rough.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(rough.double(), exact, rtol=0.02, atol=0.5)
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"targets": [[1, 0]]}, DataError, "0 is the blank"),
        ({"targets": [[1, 9]]}, DataError, "utterance 0 holds 9 at place 1"),
        ({"frames": [7]}, DataError, "utterance 0 has 7 frames"),
        ({"lengths": [3]}, DataError, "utterance 0 has 3 symbols"),
        ({"blank": 4}, ValueError, "blank is symbol 4"),
        ({"frames": [6, 6]}, ValueError, "needs"),
        ({"logits": math.nan}, TrainingError, "utterance 0 of the batch is not a number"),
        ({"logits": math.inf}, TrainingError, "utterance 0 of the batch is not a number"),
    ],
)
@pytest.mark.parametrize("how", HOWS)
def test_bad_input_is_named(how, change, error, words):
    logits = torch.zeros(1, 6, 4)
    logits[0, 3, 2] = change.get("logits", 0.0)
    with pytest.raises(error, match=words):
        ctc_loss(
            logits,
            torch.tensor(change.get("frames", [6])),
            torch.tensor(change.get("targets", [[1, 2]])),
            torch.tensor(change.get("lengths", [2])),
            blank=change.get("blank", 0),
            how=how,
        )


@pytest.mark.parametrize("how", HOWS)
def test_no_frames(how):
    found = ctc_loss(torch.zeros(2, 0, 3), torch.tensor([0, 0]), torch.ones(2, 1).long(), torch.tensor([0, 1]), how=how)
    assert found.loss_B.tolist() == [0, 0]
    assert found.infinite() == [1]


@settings(max_examples=40, deadline=None)
@given(frames=st.integers(1, 6), length=st.integers(0, 3), seed=st.integers(0, 2**20))
def test_occupations_and_best_path_are_those_of_all_paths(frames, length, seed):
    rng = np.random.default_rng(seed)
    logp = torch.from_numpy(rng.normal(size=(frames, 3)) * 2).log_softmax(-1).numpy()
    target = rng.integers(1, 3, length)
    paths = [p for p in itertools.product(range(2 * length + 1), repeat=frames) if _may(p, target)]
    labels = [0 if s % 2 == 0 else int(target[s // 2]) for s in range(2 * length + 1)]
    if not paths:
        with pytest.raises(DataError, match="frames"):
            ctc_align(logp, target)
        return
    scores = [sum(logp[t, labels[s]] for t, s in enumerate(p)) for p in paths]
    total = float(np.logaddexp.reduce(scores))
    expected = np.zeros((frames, 2 * length + 1))
    for path, score in zip(paths, scores, strict=True):
        expected[np.arange(frames), path] += math.exp(score - total)
    occupied, log_p = ctc_occupations(logp, target)
    np.testing.assert_allclose(occupied, expected, atol=1e-12)
    assert log_p == pytest.approx(total, abs=1e-12)
    path = ctc_align(logp, target)
    assert path.score == pytest.approx(max(scores), abs=1e-12)
    assert sum(logp[t, labels[s]] for t, s in enumerate(path.states_T)) == pytest.approx(path.score, abs=1e-12)
    assert _may(tuple(path.states_T), target)
    for u in range(length):
        assert (path.states_T[path.first_U[u] : path.last_U[u] + 1] == 2 * u + 1).all()
        assert (path.states_T == 2 * u + 1).sum() == path.last_U[u] - path.first_U[u] + 1


def _may(states, target):
    """Whether a sequence of lattice states is a path of the text, by the rules and not by the recursion."""
    last = 2 * len(target)
    if states[0] > 1 or states[-1] < last - 1:
        return False
    for a, b in itertools.pairwise(states):
        skips = b == a + 2 and b % 2 == 1 and target[b // 2] != target[a // 2]
        if not (b in {a, a + 1} or skips):
            return False
    return True


@pytest.mark.parametrize(
    ("logp", "target", "words"),
    [
        (np.zeros((3, 3)), [1, 1, 1], "needs 5 frames"),
        (np.zeros((0, 3)), [], "there are 0"),
        (np.zeros((3, 3)), [0], "is the blank"),
        (np.full((3, 3), np.nan), [1], "first at frame 0"),
        (np.array([[0.0, -np.inf]] * 3), [1], "probability zero"),
    ],
)
def test_what_cannot_be_aligned_is_said(logp, target, words):
    with pytest.raises(DataError, match=words):
        ctc_align(logp, np.array(target, np.int64))
