"""Several yes-or-no labels: binary cross-entropy, and all labels right or none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks import make_task
from tests.tasks.twins import batch_mean, check_divergence, check_metrics, labels, logits

N, L = 24, 3
POSITIVE = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)

CRITERIA = {
    "usual": nn.BCEWithLogitsLoss(),
    "weighted": nn.BCEWithLogitsLoss(weight=POSITIVE),
    "positives": nn.BCEWithLogitsLoss(pos_weight=POSITIVE),
    "soft margin": nn.MultiLabelSoftMarginLoss(),
}


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
def test_the_batch_mean_is_the_criterion(criterion):
    """And an example's loss is the criterion of that example alone."""
    task, p, y = make_task("multilabel", criterion), logits(N, L), labels(2, N, L)
    torch.testing.assert_close(batch_mean(task, p, y), criterion(p, y.double()))
    alone = [criterion(p[k : k + 1], y[k : k + 1].double()) for k in range(N)]
    torch.testing.assert_close(task.loss(p, y), torch.stack(alone))


@pytest.mark.parametrize("number", [torch.long, torch.bool, torch.float32])
def test_an_example_is_right_if_every_label_is(number):
    """The margin is the least of the labels', so its sign says the same."""
    task, p, y = make_task("multilabel"), logits(N, L), labels(2, N, L)
    expected = [all((float(p[i, k]) > 0) == bool(y[i, k]) for k in range(L)) for i in range(N)]
    targets = y.to(number)
    assert task.correct(p, targets).tolist() == expected and 0 < sum(expected) < N
    assert torch.equal(task.margin(p, targets) > 0, task.correct(p, targets))
    least = [min(float(p[i, k]) * (2 * int(y[i, k]) - 1) for k in range(L)) for i in range(N)]
    assert task.margin(p, targets).tolist() == pytest.approx(least)


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
def test_divergence(of):
    """The mean over labels of the KL of two coins, or of squared gaps."""
    task, p, q, y = make_task("multilabel"), logits(N, L), logits(N, L, seed=1), labels(2, N, L)
    check_divergence(task, p, q, y, of)
    a, b = p.sigmoid(), q.sigmoid()
    coins = a * (a / b).log() + (1 - a) * ((1 - a) / (1 - b)).log()
    expected = {"kl": coins, "probabilities": (a - b).square(), "logits": (p - q).square()}[of]
    torch.testing.assert_close(task.divergence(p, q, y, of=of), expected.mean(1))


def test_a_certain_label_keeps_its_gradient():
    """In log space: no probability is rounded to zero or one."""
    p = torch.tensor([[200.0, -200.0]], requires_grad=True)
    value = make_task("multilabel").divergence(p, -p.detach(), torch.zeros(1, 2))
    value.sum().backward()
    assert float(value.detach()) == pytest.approx(200) and bool(p.grad.isfinite().all())


def test_metrics():
    """The share of single labels that are right."""
    p = torch.tensor([[1.0, -1.0, 2.0], [1.0, 1.0, -1.0]])
    y = torch.tensor([[1, 0, 0], [1, 1, 0]])
    assert check_metrics(make_task("multilabel"), p, y) == {"label_accuracy": pytest.approx(5 / 6)}


def test_one_label_an_example():
    """``(batch,)`` targets against ``(batch, 1)`` logits."""
    task, p, y = make_task("multilabel"), logits(N, 1), labels(2, N)
    assert task.bind(p, y).classes == 1
    assert torch.equal(task.correct(p, y), (p[:, 0] > 0) == y.bool())
    torch.testing.assert_close(batch_mean(task, p, y), nn.BCEWithLogitsLoss()(p[:, 0], y.double()))


def test_what_cannot_be_meant_is_refused():
    """Labels outside [0, 1]; predictions that are a map or no tensor."""
    task = make_task("multilabel")
    task.check_targets(torch.tensor([[0.0, 1.0, 0.5]]))
    with pytest.raises(DataError, match=r"must lie in \[0, 1\], got values in \[0, 2\]"):
        task.check_targets(torch.tensor([[0, 2, 1]]))
    with pytest.raises(DataError, match=r"must lie in \[0, 1\]"):
        task.check_targets(torch.tensor([[0.0, float("nan")]]))
    assert task.bind(logits(N, L), labels(2, N, L)).classes == L
    for wrong in (torch.rand(2, 3, 4), {"a": torch.rand(2, 3)}):
        with pytest.raises(UnsupportedEstimatorError, match=r"logits \(batch, labels\)"):
            task.bind(wrong, labels(2, 2, 3))
