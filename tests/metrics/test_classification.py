"""Accuracies and confusion counts against plain counting and torchmetrics."""

import math

import pytest
import torch

from intermodal.metrics.classification import (
    class_accuracy,
    confusion_counts,
    mean_class_accuracy,
    top_k_accuracy,
)


def sample(n=200, classes=7):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (n,), generator=generator)
    scores = torch.randn(n, classes, generator=generator)
    scores[torch.arange(n), labels] += 1
    return scores, labels


def test_counting():
    scores, labels = sample()
    order = scores.argsort(1, descending=True)
    for k in (1, 3, 5):
        expected = sum(int(label) in row[:k].tolist() for row, label in zip(order, labels, strict=True)) / len(labels)
        assert top_k_accuracy(scores, labels, (k,)) == {f"top{k}": pytest.approx(expected, abs=1e-12)}
    assert top_k_accuracy(scores, labels, (7, 100)) == {"top7": 1, "top100": 1}
    by_class = [(order[labels == c, 0] == c).double().mean() for c in range(7)]
    assert torch.allclose(class_accuracy(scores, labels), torch.stack(by_class), atol=1e-12)
    assert mean_class_accuracy(scores, labels) == pytest.approx(sum(by_class).item() / 7, abs=1e-12)


def test_agrees_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.classification")
    scores, labels = sample()
    for k in (1, 5):
        theirs = functional.multiclass_accuracy(scores, labels, 7, average="micro", top_k=k)
        assert top_k_accuracy(scores, labels)[f"top{k}"] == pytest.approx(theirs.item(), abs=1e-6)
    theirs = functional.multiclass_accuracy(scores, labels, 7, average="macro")
    assert mean_class_accuracy(scores, labels) == pytest.approx(theirs.item(), abs=1e-6)
    theirs = functional.multiclass_confusion_matrix(scores, labels, 7)
    assert torch.equal(confusion_counts(scores.argmax(1), labels, 7), theirs)


def test_constant_scores_reach_chance():
    labels = torch.tensor([0, 0, 0, 1, 2])
    scores = torch.full((5, 4), 0.25)
    assert top_k_accuracy(scores, labels, (1, 3)) == {"top1": 0.25, "top3": 0.75}
    assert mean_class_accuracy(scores, labels) == 0.25


def test_ties_are_shared():
    scores = torch.tensor([[2.0, 2.0, 1.0, 2.0], [3.0, 1.0, 1.0, 0.0]])
    labels = torch.tensor([1, 2])
    assert top_k_accuracy(scores, labels, (1, 2, 3)) == pytest.approx(
        {"top1": (1 / 3 + 0) / 2, "top2": (2 / 3 + 1 / 2) / 2, "top3": 1.0}
    )


def test_a_class_that_does_not_occur_is_left_out():
    scores = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0]])
    labels = torch.tensor([0, 1, 1])
    accuracy = class_accuracy(scores, labels)
    assert accuracy[:2].tolist() == [1, 0.5]
    assert math.isnan(accuracy[2])
    assert mean_class_accuracy(scores, labels) == 0.75


def test_confusion_rows_are_labels():
    counts = confusion_counts(torch.tensor([0, 2, 2, 1]), torch.tensor([0, 1, 1, 1]), 3)
    assert counts.tolist() == [[1, 0, 0], [0, 1, 2], [0, 0, 0]]
    assert counts.dtype == torch.int64


def test_wrong_input_is_named():
    scores, labels = sample()
    with pytest.raises(ValueError, match=r"found \[200, 7\] and \[199\]"):
        top_k_accuracy(scores, labels[1:])
    with pytest.raises(ValueError, match=r"from 0 to 6, found 0 to 7"):
        top_k_accuracy(scores, labels.index_fill(0, torch.tensor([3]), 7))
    with pytest.raises(ValueError, match=r"must be integers, found torch\.float32"):
        top_k_accuracy(scores, labels.float())
    with pytest.raises(ValueError, match="at least 1"):
        top_k_accuracy(scores, labels, (0,))
    with pytest.raises(ValueError, match=r"found \[2\] and \[3\]"):
        confusion_counts(torch.zeros(2).long(), torch.zeros(3).long(), 2)
    scores[5, 2] = math.nan
    with pytest.raises(ValueError, match="sample 5 contain NaN"):
        top_k_accuracy(scores, labels)
