"""Numbers: any elementwise loss, squared gaps, nothing that is right or wrong."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artplus.errors import DataError
from artplus.tasks import make_task, task_for
from tests.tasks.twins import batch_mean, check_divergence, check_metrics, labels, logits

N = 7

CRITERIA = [
    nn.MSELoss(),
    nn.L1Loss(),
    nn.SmoothL1Loss(),
    nn.HuberLoss(delta=0.3),
    nn.PoissonNLLLoss(),
]


@pytest.mark.parametrize("criterion", CRITERIA, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_the_batch_mean_is_the_criterion(criterion, shape):
    """And an example's loss is the criterion of that example alone."""
    task, p = make_task("regression", criterion), logits(N, *shape)
    y = logits(N, *shape, seed=1).abs()
    torch.testing.assert_close(batch_mean(task, p, y), criterion(p, y))
    alone = [criterion(p[k : k + 1], y[k : k + 1]) for k in range(N)]
    torch.testing.assert_close(task.loss(p, y), torch.stack(alone))


def test_a_column_against_a_row_is_not_broadcast():
    """``(batch, 1)`` predictions against ``(batch,)`` targets: torch would compare all pairs."""
    task, p, y = make_task("regression"), logits(N, 1), logits(N, seed=1)
    torch.testing.assert_close(task.loss(p, y), (p[:, 0] - y).square())


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3)])
def test_divergence(of, shape):
    """The mean squared gap, whatever it is called."""
    task, p, q = make_task("regression"), logits(N, *shape), logits(N, *shape, seed=1)
    check_divergence(task, p, q, q, of)
    expected = (p - q).reshape(N, -1).square().mean(1)
    torch.testing.assert_close(task.divergence(p, q, q, of=of), expected)


def test_nothing_is_right_or_wrong():
    """So there is no accuracy and no margin, and answers are the numbers themselves."""
    task, p = make_task("regression"), logits(N, 1)
    assert task.correct(p, p) is None and task.margin(p, p) is None
    assert task.answers(p) is p and task.labels(p) is p


def test_metrics():
    """Root mean squared error over all examples, not the mean of their roots."""
    p, y = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    task = make_task("regression").bind(p, y)
    expected = ((0 + 4) / 2 + (9 + 0) / 2) / 2
    assert check_metrics(task, p, y) == {"rmse": pytest.approx(expected**0.5)}
    assert not task.metrics()["rmse"].larger_is_better


def test_targets_that_are_no_numbers_like_the_predictions_have_no_error():
    """A loss of one's own may compare anything with anything."""
    task = make_task("regression", lambda p, y: p[:, 0] * y)
    assert task.bind(logits(N, 3), labels(3, N)).metrics() == {}


def test_targets_that_are_not_finite_are_refused():
    """NaN would make every weight NaN."""
    with pytest.raises(DataError, match="y must be finite"):
        make_task("regression").check_targets(torch.tensor([1.0, float("nan")]))


def test_the_loss_tells_the_task():
    """Torch's losses of numbers, and any callable that nothing is known of."""
    for criterion in (*CRITERIA, nn.BCELoss(), lambda p, y: (p - y).abs().mean()):
        assert task_for(criterion).name == "regression"
