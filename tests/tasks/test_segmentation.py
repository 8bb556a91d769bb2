"""A class for each pixel or token: torch's cross-entropy over those that count, and overlaps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks import make_task
from tests.tasks.twins import batch_mean, check_divergence, check_metrics, kl, labels, logits

N, C, H, W = 4, 3, 5, 6
WEIGHT = torch.tensor([0.2, 1.0, 3.0], dtype=torch.float64)

CRITERIA = {
    "plain": nn.CrossEntropyLoss(),
    "void": nn.CrossEntropyLoss(ignore_index=255),
    "weighted": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255),
    "smoothed": nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255, label_smoothing=0.1),
    "a class ignored": nn.CrossEntropyLoss(ignore_index=1),
}


def pixels(criterion: nn.CrossEntropyLoss, *places: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits ``(N, C, *places)`` and labels, the first of each example ignored, one all but."""
    y = labels(C, N, *places)
    if criterion.ignore_index != -100:
        y[:, 0] = criterion.ignore_index
        y[1].flatten()[1:] = criterion.ignore_index
    return logits(N, C, *places), y


@pytest.mark.parametrize("criterion", CRITERIA.values(), ids=CRITERIA.keys())
@pytest.mark.parametrize("places", [(H, W), (H,), (2, 3, 4)], ids=str)
def test_the_batch_mean_is_the_criterion(criterion, places):
    """Though examples have different numbers of pixels that count; in parts as well."""
    task = make_task("segmentation", criterion)
    p, y = pixels(criterion, *places)
    torch.testing.assert_close(batch_mean(task, p, y), criterion(p, y))
    weights = task.weights(y)
    if weights is not None:
        parts = [
            (task.loss(p[s], y[s]) * task.weights(y[s])).sum() for s in (slice(1), slice(1, N))
        ]
        torch.testing.assert_close(sum(parts) / weights.sum(), criterion(p, y))
        alone = [criterion(p[k : k + 1], y[k : k + 1]) for k in range(N) if weights[k] > 0]
        torch.testing.assert_close(task.loss(p, y)[weights > 0], torch.stack(alone))


def test_padding_to_another_length_changes_nothing():
    """Weights are numbers of tokens and not shares, so two processes' batches compare."""
    task, p, y = make_task("segmentation"), logits(N, H, C), labels(C, N, H)
    longer = torch.cat([y, torch.full((N, 3), -100)], 1)
    more = torch.cat([p, logits(N, 3, C, seed=2)], 1)
    assert task.weights(longer).tolist() == task.weights(y).tolist() == [H] * N
    torch.testing.assert_close(task.loss(more, longer), task.loss(p, y))


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
@pytest.mark.parametrize("last", [False, True])
def test_divergence(of, last):
    """The mean over pixels that count of the gap of two predictions."""
    task = make_task("segmentation", CRITERIA["void"])
    y = labels(C, N, H, W)
    y[:, :2] = 255
    p, q = logits(N, H, W, C), logits(N, H, W, C, seed=1)
    gaps = {
        "kl": kl(p, q),
        "probabilities": (p.softmax(-1) - q.softmax(-1)).square().sum(-1),
        "logits": (p - q).square().mean(-1),
    }[of]
    expected = torch.stack([gaps[k][y[k] != 255].mean() for k in range(N)])
    axis = (lambda t: t) if last else (lambda t: t.movedim(-1, 1))
    check_divergence(task, axis(p), axis(q), y, of)
    torch.testing.assert_close(task.divergence(axis(p), axis(q), y, of=of), expected)


def test_ignored_pixels_count_for_nothing():
    """Neither in loss, divergence nor metrics, and an example of nothing else is zero."""
    task = make_task("segmentation", CRITERIA["void"]).bind(logits(N, C, H, W), labels(C, N, H, W))
    p, q, y = logits(N, C, H, W), logits(N, C, H, W, seed=1), labels(C, N, H, W)
    y[:, 0], y[2] = 255, 255
    other = p.clone()
    other.movedim(1, -1)[y == 255] += torch.tensor([5.0, -3.0, 1.0], dtype=torch.float64)
    for function in (task.loss, lambda a, b: task.divergence(a, q, b)):
        torch.testing.assert_close(function(p, y), function(other, y))
        assert float(function(p, y)[2]) == 0
    assert check_metrics(task, p, y) == check_metrics(task, other, y)
    assert task.weights(y).tolist() == [(H - 1) * W, (H - 1) * W, 0, (H - 1) * W]


def test_metrics():
    """Overlap over union of each class that occurs, over all examples together."""
    truth = torch.tensor([[[0, 0, 1]], [[1, 255, 0]]])
    guess = torch.tensor([[[0, 1, 1]], [[1, 2, 1]]])
    p = nn.functional.one_hot(guess, 4).movedim(-1, 1).float()
    task = make_task("segmentation", CRITERIA["void"]).bind(p, truth)
    ious = [1 / 3, 2 / 4]  # class 2 was predicted where nothing counts, class 3 nowhere
    assert check_metrics(task, p, truth) == {
        "pixel_accuracy": pytest.approx(3 / 5),
        "miou": pytest.approx(sum(ious) / 2),
    }
    assert torch.equal(task.answers(p), guess)


def test_a_vocabulary_has_no_overlaps():
    """They would take two numbers a word of every example."""
    task = make_task("segmentation")
    assert list(task.bind(logits(2, 4, 1000), labels(9, 2, 4)).metrics()) == [
        "pixel_accuracy",
        "miou",
    ]
    assert list(task.bind(logits(2, 4, 1001), labels(9, 2, 4)).metrics()) == ["pixel_accuracy"]


def test_the_axis_of_the_classes_is_inferred_from_the_first_shapes():
    """Then it stays fixed, also for a batch with as many tokens as classes."""
    task, y = make_task("segmentation"), labels(C, N, C)
    last = task.bind(logits(N, H, C), labels(C, N, H))
    second = task.bind(logits(N, C, H), labels(C, N, H))
    assert (last.classes, last.classes_last) == (C, True)
    assert (second.classes, second.classes_last) == (C, False)
    p = logits(N, C, C)
    torch.testing.assert_close(last.loss(p, y), second.loss(p.transpose(1, 2), y))
    assert torch.equal(last.answers(p), p.argmax(2)) and torch.equal(second.answers(p), p.argmax(1))
    for function in (task.bind, task.loss):
        with pytest.raises(
            UnsupportedEstimatorError, match=r"task=Segmentation\(classes_last=True"
        ):
            function(p, y)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((N, C, H // 4 + 1, W // 4 + 1), r"lower resolution.*torch.nn.functional.interpolate"),
        ((N, C), "need logits with one more axis"),
        ((N + 1, C, H, W), "need logits with one more axis"),
    ],
)
def test_logits_that_do_not_fit_are_refused(shape, message):
    """With the remedy."""
    with pytest.raises(UnsupportedEstimatorError, match=message):
        make_task("segmentation").bind(logits(*shape), labels(C, N, H, W))
    with pytest.raises(UnsupportedEstimatorError, match="needs a tensor of logits, got dict"):
        make_task("segmentation").bind({"a": logits(*shape)}, labels(C, N, H, W))


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 1]), "whole class numbers"),
        (torch.rand(2, 3, 3), "whole class numbers"),
        (torch.tensor([[0, 3]]), r"must lie in 0..2, got values in \[0, 3\].*ignore_index"),
        (torch.tensor([[0, -1]]), r"got values in \[-1, 0\]"),
        (torch.tensor([[0, 255]]), r"got values in \[0, 255\]"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(targets, message):
    """Before any step; ignored ones may have any number."""
    task = make_task("segmentation").bind(logits(N, C, H), labels(C, N, H))
    with pytest.raises(DataError, match=message):
        task.check_targets(targets)
    task.check_targets(torch.tensor([[0, 2, -100]]))
    task.check_targets(torch.full((2, 3), -100))
