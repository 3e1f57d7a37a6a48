"""Calibration against torchmetrics, and cases that can be counted."""

import pytest
import torch

from intermodal.metrics.calibration import reliability


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_error_is_torchmetrics(bins):
    """The same expected calibration error, on random probabilities."""
    classification = pytest.importorskip("torchmetrics.functional.classification")
    generator = torch.Generator().manual_seed(bins)
    probability = torch.randn(500, 7, generator=generator).mul(2).softmax(1)
    label = torch.randint(7, (500,), generator=generator)
    wanted = classification.multiclass_calibration_error(probability, label, num_classes=7, n_bins=bins, norm="l1")
    assert reliability(probability, label, bins).error == pytest.approx(float(wanted), abs=1e-6)


def test_counted_by_hand():
    """Two sure and half right, two unsure and right."""
    probability = torch.tensor([[0.85, 0.15], [0.85, 0.15], [0.55, 0.45], [0.45, 0.55]])
    found = reliability(probability, torch.tensor([0, 1, 0, 1]), 10)
    assert found.count_M.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 2, 0]
    assert found.accuracy_M[[5, 8]].tolist() == [1.0, 0.5]
    assert found.confidence_M[[5, 8]].tolist() == pytest.approx([0.55, 0.85])
    assert found.error == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)
    assert found.accuracy_M[0].isnan()


def test_an_unknown_class_is_never_right():
    """A label of -1, sure or not."""
    found = reliability(torch.tensor([[1.0, 0.0]]), torch.tensor([-1]))
    assert found.error == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("probability", "label", "bins"),
    [
        (torch.ones(2, 2), torch.zeros(3), 5),
        (torch.zeros(0, 2), torch.zeros(0), 5),
        (torch.tensor([[2.0, -1.0]]), torch.zeros(1), 5),
        (torch.ones(1, 1), torch.zeros(1), 0),
    ],
)
def test_wrong_input_is_refused(probability, label, bins):
    """Shapes, emptiness, ranges."""
    with pytest.raises(ValueError):
        reliability(probability, label, bins)
