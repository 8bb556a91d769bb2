"""One label an example: torch's cross-entropy, margins and divergences by their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artplus.errors import ArtplusWarning, DataError, UnsupportedEstimatorError
from artplus.tasks import make_task
from tests.tasks.twins import batch_mean, check_divergence, kl, labels, logits

N, C = 6, 4
WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.5], dtype=torch.float64)

CRITERIA = {
    "plain": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2),
    "ignoring": nn.CrossEntropyLoss(ignore_index=2),
    "margin": nn.MultiMarginLoss(),
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
def test_the_batch_mean_is_the_criterion(criterion):
    """Class weights, smoothing and ignored labels included, whatever the split into parts."""
    task, p, y = make_task("classification", criterion), logits(N, C), labels(C, N)
    torch.testing.assert_close(batch_mean(task, p, y), criterion(p, y))
    weights = task.weights(y)
    if weights is not None:
        halves = sum(
            (task.loss(p[s], y[s]) * task.weights(y[s])).sum() for s in (slice(2), slice(2, N))
        )
        torch.testing.assert_close(halves / weights.sum(), criterion(p, y))


def test_the_loss_of_an_example_is_cross_entropy():
    """Of numbers and of soft rows, each example by itself."""
    task, p, y = make_task("classification"), logits(N, C), labels(C, N)
    rows = logits(N, C, seed=1).softmax(1)
    losses = [-p[i].log_softmax(0)[y[i]] for i in range(N)]
    torch.testing.assert_close(task.loss(p, y), torch.stack(losses))
    soft = [-(rows[i] * p[i].log_softmax(0)).sum() for i in range(N)]
    torch.testing.assert_close(task.loss(p, rows), torch.stack(soft))


@pytest.mark.parametrize("form", ["numbers", "rows"])
def test_margins_are_positive_where_the_answer_is_right(form):
    """The label's logit less the largest other one."""
    task, p, y = make_task("classification"), logits(N, C), labels(C, N)
    targets = y if form == "numbers" else F.one_hot(y, C).double()
    margin = task.margin(p, targets)
    for i in range(N):
        others = [float(p[i, k]) for k in range(C) if k != y[i]]
        assert float(margin[i]) == pytest.approx(float(p[i, y[i]]) - max(others))
    right = task.correct(p, targets)
    assert torch.equal(margin > 0, right) and 0 < int(right.sum()) < N
    assert torch.equal(task.answers(p), p.argmax(1)) and torch.equal(task.labels(targets), y)


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
def test_divergence(of):
    """KL of the softmax outputs, or squared gaps."""
    task, p, q, y = make_task("classification"), logits(N, C), logits(N, C, seed=1), labels(C, N)
    check_divergence(task, p, q, y, of)
    expected = {
        "kl": kl(p, q),
        "probabilities": (p.softmax(1) - q.softmax(1)).square().sum(1),
        "logits": (p - q).square().mean(1),
    }[of]
    torch.testing.assert_close(task.divergence(p, q, y, of=of), expected)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1, 4]), "y must lie in 0..3, got values in .0, 4."),
        (torch.tensor([0, -1, 2]), "got values in .-1, 2."),
        (torch.tensor([0.5, 1.0, 2.0]), "whole"),
        (torch.rand(3, 5), "4"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(targets, message):
    """Before any step."""
    task = make_task("classification").bind(logits(3, C), targets)
    with pytest.raises(DataError, match=message):
        task.check_targets(targets)


def test_soft_labels_need_a_loss_that_takes_them():
    """A margin loss has one label."""
    task = make_task("classification", nn.MultiMarginLoss()).bind(logits(2, 2), torch.zeros(2))
    with pytest.raises(DataError, match="soft labels need a loss that takes them"):
        task.check_targets(torch.tensor([[0.3, 0.7], [0.5, 0.5]]))


def test_predictions_that_are_no_logits_are_refused():
    """A single output, a map, or probabilities (which only make training slow: a warning)."""
    task = make_task("classification")
    assert task.bind(logits(N, C), labels(C, N)).classes == C
    for wrong in (torch.rand(5), torch.rand(5, 1), torch.rand(5, 3, 2), {"a": torch.rand(5)}):
        with pytest.raises(UnsupportedEstimatorError):
            task.bind(wrong, labels(2, 5))
    with pytest.warns(ArtplusWarning, match="look like probabilities"):
        task.bind(logits(N, C).softmax(1), labels(C, N))
