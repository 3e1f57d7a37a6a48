"""The linear probe against scikit-learn on the same objective, and its edge cases."""

import numpy as np
import pytest
import torch

from intermodal.metrics import probe as module
from intermodal.metrics.probe import PENALTIES, fit_probe, objective_value


def clusters(n=600, d=20, classes=8, spread=0.6, seed=0):
    """Features of unequal scales and correlated dimensions, and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = rng.standard_normal((classes, d))
    x = (spread * centres[labels] + rng.standard_normal((n, d))) @ (rng.standard_normal((d, d)) * np.logspace(0, -2, d))
    return torch.from_numpy(x + 3), torch.from_numpy(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_reaches_the_minimum_that_scikit_learn_finds(dtype, l2):
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = clusters()
    probe = fit_probe(features, labels, classes=8, l2=l2, dtype=dtype)
    x = ((features - features.mean(0)) / features.std(0, correction=0)).numpy()
    reference = linear_model.LogisticRegression(C=1 / (l2 * len(x)), tol=1e-10, max_iter=10_000).fit(x, labels.numpy())
    weight, bias = torch.from_numpy(reference.coef_.T), torch.from_numpy(reference.intercept_)
    expected = float(objective_value(torch.from_numpy(x), labels, weight, bias, l2))
    assert probe.loss == pytest.approx(expected, abs=1e-4)
    ours = objective_value(torch.from_numpy(x), labels, probe.weight_DC.double(), probe.bias_C.double(), l2)
    assert float(ours) == pytest.approx(expected, abs=1e-4), "in the coordinates of the features, not of the descent"
    agree = probe(features).argmax(1).numpy() == reference.predict(x)
    assert agree.mean() > 0.99


def test_the_gradient_vanishes_at_the_fit():
    features, labels = clusters()
    probe = fit_probe(features, labels, classes=8, l2=1e-2, dtype=torch.float64)
    x = probe.standardised(features)
    weight, bias = probe.weight_DC.clone().requires_grad_(), probe.bias_C.clone().requires_grad_()
    objective_value(x, labels, weight, bias, 1e-2).backward()
    assert float(weight.grad.abs().max()) < 1e-4 and float(bias.grad.abs().max()) < 1e-4


def test_is_deterministic_and_ignores_the_scale_of_features():
    features, labels = clusters()
    one, two = (fit_probe(features, labels, classes=8) for _ in range(2))
    assert torch.equal(one.weight_DC, two.weight_DC) and one.l2 == two.l2
    scaled = fit_probe(features * 1000 - 5, labels, classes=8)
    assert scaled.l2 == one.l2
    torch.testing.assert_close(scaled(features * 1000 - 5), one(features), atol=2e-2, rtol=0)


def test_the_penalty_is_chosen_on_held_out_features_and_fits_the_noise():
    features, labels = clusters(n=160, d=120, spread=0.3)
    noisy = fit_probe(features, labels, classes=8)
    assert noisy.l2 >= 1e-2, "more dimensions than samples: a strong penalty"
    features, labels = clusters(n=3000, d=10, spread=2.0)
    assert fit_probe(features, labels, classes=8).l2 < noisy.l2


def test_samples_of_one_group_are_held_out_together():
    groups = torch.arange(90) // 3
    held = module._held_out(groups, True, 0)
    assert held.sum() == 18 and all(len(set(part.tolist())) == 1 for part in held.view(30, 3))
    labels = torch.tensor([0] * 50 + [1] * 10 + [2])
    held = module._held_out(labels, False, 0)
    assert [int(held[labels == c].sum()) for c in range(3)] == [10, 2, 0], "a class with one sample stays in the fit"
    # Labels drawn at random for each group of copies: held out apart, copies can be learnt by heart; together, they cannot.
    features = torch.randn(60, 90, generator=torch.Generator().manual_seed(0)).repeat_interleave(3, 0)
    labels = torch.randint(0, 2, (60,), generator=torch.Generator().manual_seed(1)).repeat_interleave(3)
    groups = torch.arange(180) // 3
    seen: dict[bool, float] = {}
    for grouped in (False, True):
        held = module._held_out(groups if grouped else labels, grouped, 0)
        probe = fit_probe(features[~held], labels[~held], classes=2, l2=1e-3)
        seen[grouped] = float((probe(features[held]).argmax(1) == labels[held]).double().mean())
    assert seen[False] > 0.95 and seen[True] < 0.8


def test_a_class_without_a_sample_is_never_the_answer():
    features, labels = clusters(classes=3)
    probe = fit_probe(features, labels * 2, classes=6)
    logits = probe(features)
    assert torch.isneginf(logits[:, [1, 3, 5]]).all() and set(logits.argmax(1).tolist()) <= {0, 2, 4}


def test_a_constant_feature_and_a_collapsed_encoder_are_defined():
    features, labels = clusters()
    constant = torch.cat([features, torch.full((len(features), 2), 0.1, dtype=torch.float64)], dim=1)
    one, two = fit_probe(features, labels, classes=8, l2=1e-2), fit_probe(constant, labels, classes=8, l2=1e-2)
    torch.testing.assert_close(one(features), two(constant), atol=5e-3, rtol=0)
    assert (two.weight_DC[-2:].abs() < 1e-5).all()
    collapsed = fit_probe(torch.full((30, 4), 0.37), torch.arange(30) % 3, classes=3)
    torch.testing.assert_close(collapsed(torch.full((5, 4), 0.37)).softmax(1), torch.full((5, 3), 1 / 3))


def test_bad_input():
    features, labels = clusters(n=40)
    broken = features.clone()
    broken[7, 3] = torch.inf
    for change, words in (
        ((broken, labels, 8, None), "row 7 is not finite"),
        ((features, torch.zeros(40, dtype=torch.int64), 8, None), "at least two classes; all 40 labels are 0"),
        ((features[:1], labels[:1], 8, None), "at least two classes"),
        ((features, labels, 2, None), "from 0 to 1"),
        ((features[:0], labels[:0], 8, None), "N and D at least 1"),
        ((features, labels, 8, 0.0), "penalty must be positive"),
    ):
        x, y, classes, l2 = change
        with pytest.raises(ValueError, match=words):
            fit_probe(x, y, classes=classes, l2=l2)
    with pytest.raises(ValueError, match="row 7"):
        fit_probe(features, labels, classes=8)(broken)


def test_two_samples_of_two_classes():
    probe = fit_probe(torch.tensor([[0.0, 1], [1, 0]]), torch.tensor([0, 1]), classes=2)
    assert probe(torch.tensor([[0.0, 1], [1, 0]])).argmax(1).tolist() == [0, 1]
    assert probe.l2 == PENALTIES[len(PENALTIES) // 2], "nothing to hold out"
