"""The batch mean of a per-example criterion is the original torch loss, in value and gradient."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus.criterion import criterion, mean
from artplus.errors import ConfigurationError, DataError

N, C = 6, 4
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0])
NUMBERS = torch.tensor([0, 1, 2, 3, 1, 0])
ROWS = torch.softmax(torch.randn(N, C, generator=torch.Generator().manual_seed(0)), 1)
MAP = torch.arange(N * 3 * 2).remainder(C).view(N, 3, 2)
FLOATS = torch.linspace(-1, 2, N)


def logits(*shape: int) -> torch.Tensor:
    return torch.randn(*(shape or (N, C)), requires_grad=True)


def scores(*shape: int) -> torch.Tensor:
    return torch.rand(*shape).clamp(0.05, 0.95).requires_grad_(True)


def holed(y: torch.Tensor, value: int) -> torch.Tensor:
    """``y`` with a few entries left out, unevenly over the batch."""
    y = y.clone()
    y.view(-1)[:: max(2, y.numel() // 5)] = value
    y[0].fill_(value)
    return y


class DoubledCrossEntropy(nn.CrossEntropyLoss):
    """A user's subclass that overrides ``forward`` and honours ``reduction``."""

    def forward(self, input, target):
        return 2 * super().forward(input, target)


class AveragedFocal(nn.CrossEntropyLoss):
    """A user's subclass that reduces by itself, whatever ``reduction`` says."""

    def forward(self, input, target):
        ce = F.cross_entropy(input, target, weight=self.weight, reduction="none")
        return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


class RenamedMSE(nn.MSELoss):
    """A subclass that changes nothing."""


CASES = {
    "cross-entropy": (nn.CrossEntropyLoss(), logits, NUMBERS),
    "cross-entropy, rows": (nn.CrossEntropyLoss(), logits, ROWS),
    "cross-entropy, smoothed": (nn.CrossEntropyLoss(label_smoothing=0.2), logits, NUMBERS),
    "cross-entropy, smoothed rows": (nn.CrossEntropyLoss(label_smoothing=0.2), logits, ROWS),
    "cross-entropy, weighted": (nn.CrossEntropyLoss(weight=WEIGHT), logits, NUMBERS),
    "cross-entropy, weighted and smoothed": (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.2),
        logits,
        NUMBERS,
    ),
    "cross-entropy, one class ignored": (nn.CrossEntropyLoss(ignore_index=1), logits, NUMBERS),
    "cross-entropy, weighted, one ignored, smoothed": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.1),
        logits,
        NUMBERS,
    ),
    "cross-entropy, map": (nn.CrossEntropyLoss(), lambda: logits(N, C, 3, 2), MAP),
    "cross-entropy, map, padded": (
        nn.CrossEntropyLoss(),
        lambda: logits(N, C, 3, 2),
        holed(MAP, -100),
    ),
    "cross-entropy, map, weighted, smoothed, void 255": (
        nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255, label_smoothing=0.1),
        lambda: logits(N, C, 3, 2),
        holed(MAP, 255),
    ),
    "nll": (nn.NLLLoss(), logits, NUMBERS),
    "nll, weighted": (nn.NLLLoss(weight=WEIGHT), logits, NUMBERS),
    "nll, one class ignored": (nn.NLLLoss(ignore_index=0), logits, NUMBERS),
    "nll, sequence, weighted, padded": (
        nn.NLLLoss(weight=WEIGHT),
        lambda: logits(N, C, 5),
        holed(torch.arange(N * 5).remainder(C).view(N, 5), -100),
    ),
    "multi-margin": (nn.MultiMarginLoss(), logits, NUMBERS),
    "multi-margin, weighted": (nn.MultiMarginLoss(weight=WEIGHT, p=2), logits, NUMBERS),
    "bce with logits, single": (nn.BCEWithLogitsLoss(), lambda: logits(N), (NUMBERS > 1).float()),
    "bce with logits, column": (
        nn.BCEWithLogitsLoss(),
        lambda: logits(N, 1),
        (NUMBERS > 1).float()[:, None],
    ),
    "bce with logits, many, pos_weight": (
        nn.BCEWithLogitsLoss(pos_weight=WEIGHT),
        lambda: logits(N, C),
        (ROWS > 0.25).float(),
    ),
    "bce": (nn.BCELoss(), lambda: scores(N), (NUMBERS > 1).float()),
    "bce, many, weighted": (nn.BCELoss(weight=WEIGHT), lambda: scores(N, C), ROWS),
    "mse": (nn.MSELoss(), lambda: logits(N), FLOATS),
    "mse, many outputs": (nn.MSELoss(), lambda: logits(N, C), ROWS),
    "mse, maps": (nn.MSELoss(), lambda: logits(N, 2, 3, 3), torch.ones(N, 2, 3, 3)),
    "mse, renamed": (RenamedMSE(), lambda: logits(N, C), ROWS),
    "l1": (nn.L1Loss(), lambda: logits(N), FLOATS),
    "huber": (nn.HuberLoss(delta=0.5), lambda: logits(N), FLOATS),
    "smooth l1": (nn.SmoothL1Loss(beta=0.3), lambda: logits(N, 3), FLOATS[:, None].expand(N, 3)),
    "poisson": (nn.PoissonNLLLoss(), lambda: logits(N), NUMBERS.float()),
    "soft margin": (nn.SoftMarginLoss(), lambda: logits(N), (NUMBERS > 1).float() * 2 - 1),
    "multi-label soft margin": (nn.MultiLabelSoftMarginLoss(), logits, (ROWS > 0.25).float()),
    "kl, mean": (nn.KLDivLoss(), logits, ROWS),
    "kl, batchmean": (nn.KLDivLoss(reduction="batchmean"), logits, ROWS),
    "subclass of cross-entropy": (DoubledCrossEntropy(), logits, NUMBERS),
    "subclass of cross-entropy, weighted": (DoubledCrossEntropy(weight=WEIGHT), logits, NUMBERS),
    "subclass that averages": (AveragedFocal(), logits, NUMBERS),
    "function that averages": (F.cross_entropy, logits, NUMBERS),
    "function per example": (
        lambda z, y: F.cross_entropy(z, y, reduction="none"),
        logits,
        NUMBERS,
    ),
}


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("case", CASES)
def test_mean_of_the_criterion_is_the_original_loss(case):
    """Weighted by its own weights, the batch mean is torch's, and so is its gradient."""
    loss, draw, y = CASES[case]
    predictions = draw()
    expected = loss(predictions, y).mean()
    (slope,) = torch.autograd.grad(expected, predictions)
    each = criterion(loss)
    losses = each(predictions, y)
    got = mean(losses, each.weights(y))
    assert losses.shape == (N,)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(torch.autograd.grad(got, predictions)[0], slope)


@pytest.mark.parametrize("case", [c for c in CASES if "averages" not in c and "subclass" not in c])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_each_example_has_its_own_loss(case):
    """An example's value is the original loss of a batch of it alone, or zero if all ignored."""
    loss, draw, y = CASES[case]
    predictions = draw()
    losses = criterion(loss)(predictions, y)
    for i in range(N):
        alone = torch.nan_to_num(loss(predictions[i : i + 1], y[i : i + 1]).mean())
        torch.testing.assert_close(losses[i], alone)


@pytest.mark.parametrize("case", CASES)
def test_the_original_loss_is_left_alone(case):
    """Neither its reduction nor its weights are touched."""
    loss, draw, y = CASES[case]
    reduction = getattr(loss, "reduction", None)
    weight = copy.deepcopy(getattr(loss, "weight", None))
    criterion(loss)(draw(), y)
    assert getattr(loss, "reduction", None) == reduction
    assert weight is None or torch.equal(loss.weight, weight)


def test_what_each_loss_allows():
    """Divergences need logits over classes; weights per example need a loss per example."""
    assert criterion().over_classes and criterion().soft and criterion().per_example
    nll = criterion(nn.NLLLoss())
    assert nll.over_classes and not nll.soft
    assert criterion(nn.MultiMarginLoss()).over_classes
    assert not criterion(nn.MSELoss()).over_classes
    assert not criterion(nn.BCEWithLogitsLoss()).over_classes
    focal = criterion(AveragedFocal(weight=WEIGHT))
    assert focal.over_classes and not focal.per_example
    assert not criterion(lambda z, y: z.mean()).per_example


def test_plain_losses_have_no_weights():
    """Where all examples weigh alike there is nothing to weigh, so the mean is the plain mean."""
    assert criterion().weights(NUMBERS) is None
    assert criterion().weights(ROWS) is None
    assert criterion(nn.MSELoss()).weights(FLOATS) is None


def test_weights_of_rows_are_expected_class_weights():
    """One-hot rows weigh as class numbers do; soft rows weigh their classes' mean."""
    each = criterion(nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=2))
    one_hot = F.one_hot(NUMBERS, C).float()
    torch.testing.assert_close(each.weights(one_hot), each.weights(NUMBERS))
    assert each.weights(NUMBERS).tolist() == [0.5, 2.0, 0.0, 3.0, 2.0, 0.5]
    torch.testing.assert_close(each.weights(ROWS), ROWS @ torch.tensor([0.5, 2.0, 0.0, 3.0]))
    unweighted = criterion(nn.CrossEntropyLoss(ignore_index=2))
    torch.testing.assert_close(unweighted.weights(ROWS), 1 - ROWS[:, 2])


def test_one_hot_rows_are_class_numbers_for_weighted_losses():
    """With class weights and smoothing, one-hot rows still mean what class numbers mean."""
    one_hot, z = F.one_hot(NUMBERS, C).float(), logits()
    for loss in (
        nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.3),
        nn.NLLLoss(weight=WEIGHT),
        nn.MultiMarginLoss(),
    ):
        each = criterion(loss)
        torch.testing.assert_close(each(z, one_hot), each(z, NUMBERS))
        torch.testing.assert_close(
            mean(each(z, one_hot), each.weights(one_hot)), loss(z, NUMBERS), msg=str(loss)
        )


def test_a_class_of_weight_zero_costs_nothing():
    """No division by zero: neither the loss nor its gradient is NaN."""
    each = criterion(nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1, 1, 1]), label_smoothing=0.1))
    z = logits()
    losses = each(z, NUMBERS)
    assert losses[NUMBERS == 0].tolist() == [0.0, 0.0]
    (slope,) = torch.autograd.grad(mean(losses, each.weights(NUMBERS)), z)
    assert bool(torch.isfinite(slope).all())


def test_rows_of_another_float_type_are_taken():
    """float32 rows against float64 logits, as labels often come."""
    z = logits().double()
    torch.testing.assert_close(criterion()(z, ROWS), criterion()(z, ROWS.double()))


@pytest.mark.parametrize(
    ("predictions", "y", "aligned"),
    [
        ((N, 1), NUMBERS.gt(1), NUMBERS.gt(1).float()[:, None]),
        ((N,), NUMBERS.gt(1)[:, None], NUMBERS.gt(1).float()),
        ((N, 1), F.one_hot(NUMBERS.gt(1).long(), 2), NUMBERS.gt(1).float()[:, None]),
        ((N,), F.one_hot(NUMBERS.gt(1).long(), 2), NUMBERS.gt(1).float()),
        ((N, 1), torch.stack([1 - FLOATS / 4, FLOATS / 4], 1), FLOATS[:, None] / 4),
        ((N, C), NUMBERS, F.one_hot(NUMBERS, C).float()),
        ((N, 2), NUMBERS.gt(1).long(), F.one_hot(NUMBERS.gt(1).long(), 2).float()),
    ],
)
def test_binary_labels_take_the_predictions_shape(predictions, y, aligned):
    """Class numbers, columns and rows of two classes all mean the same to a binary loss."""
    z = logits(*predictions)
    expected = F.binary_cross_entropy_with_logits(z, aligned)
    torch.testing.assert_close(mean(criterion(nn.BCEWithLogitsLoss())(z, y)), expected)


@pytest.mark.parametrize("kind", [nn.MSELoss, nn.L1Loss, nn.HuberLoss, nn.BCEWithLogitsLoss])
def test_a_column_against_a_vector_does_not_broadcast(kind):
    """(batch, 1) predictions and (batch,) targets give the loss of each pair, not of all pairs."""
    z, y = logits(N, 1), (NUMBERS > 1).float()
    torch.testing.assert_close(criterion(kind())(z, y), criterion(kind())(z.squeeze(1), y))
    torch.testing.assert_close(mean(criterion(kind())(z, y)), kind()(z.squeeze(1), y))


@pytest.mark.parametrize(
    ("predictions", "y"), [((N, 3), (N,)), ((N, 2), (N, 3)), ((4, 3), (3, 4)), ((N,), (N, 3))]
)
def test_targets_of_another_size_are_refused(predictions, y):
    """Nothing broadcasts: both shapes are named."""
    message = r"targets have shape \(.*\) but the model predicts \(.*\); both need the same"
    with pytest.raises(DataError, match=message):
        criterion(nn.MSELoss())(torch.zeros(predictions), torch.zeros(y))


REDUCED = [
    name for name, (loss, _, _) in CASES.items() if type(loss).__module__ == nn.MSELoss.__module__
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("case", REDUCED)
def test_any_reduction_of_torchs_losses_is_the_mean(case, reduction):
    """Per example, weights included; a divergence is summed over classes, as ``batchmean`` does."""
    loss, draw, y = CASES[case]
    predictions = draw()
    other = copy.copy(loss)
    other.reduction = reduction
    if isinstance(loss, nn.KLDivLoss):
        loss = nn.KLDivLoss(reduction="batchmean" if reduction == "sum" else "mean")
    expected, found = criterion(loss), criterion(other)
    assert (found.per_example, found.over_classes, found.soft) == (
        expected.per_example, expected.over_classes, expected.soft
    )  # fmt: skip
    assert torch.equal(found(predictions, y), expected(predictions, y))
    weights = expected.weights(y)
    assert (found.weights(y) is None) if weights is None else torch.equal(found.weights(y), weights)
    assert other.reduction == reduction


def test_a_sum_of_ones_own_is_refused():
    """A sum scales the step with the batch size, and how to undo it is unknown."""
    message = r"DoubledCrossEntropy\(reduction='sum'\) scales the step"
    with pytest.raises(ConfigurationError, match=message):
        criterion(DoubledCrossEntropy(reduction="sum"))


@pytest.mark.parametrize("loss", ["cross_entropy", 3, object()])
def test_no_loss_is_refused(loss):
    """What cannot be called is named."""
    with pytest.raises(ConfigurationError, match="loss must be a torch.nn loss or a callable"):
        criterion(loss)


def test_a_loss_with_weights_of_its_own_keeps_learning():
    """Its parameters are shared, not copied: an optimiser on the original moves the criterion."""

    class Scaled(nn.Module):
        reduction = "mean"

        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, z, y):
            values = self.scale * (z - y) ** 2
            return values if self.reduction == "none" else values.mean()

    loss = Scaled()
    each = criterion(loss)
    each(torch.ones(3), torch.zeros(3)).sum().backward()
    assert each.per_example and float(loss.scale.grad) == 3.0 and loss.reduction == "mean"


def test_a_function_with_a_reduction_attribute_is_not_edited():
    """A function cannot be copied, so it is called as it is."""

    def loss(z, y):
        return (z - y).abs().mean()

    loss.reduction = "mean"
    assert not criterion(loss).per_example and loss.reduction == "mean"


def test_a_scalar_is_every_examples_loss():
    """A loss that averages is spread over the batch, with the user's gradient."""
    z = logits()
    losses = criterion(F.cross_entropy)(z, NUMBERS)
    assert losses.shape == (N,) and len(set(losses.tolist())) == 1


@given(st.lists(st.floats(0.1, 5), min_size=2, max_size=8), st.floats(0.1, 10))
def test_weighted_mean_ignores_the_scale_of_weights(weights, scale):
    """Only the ratios of weights count, and equal weights are the plain mean."""
    losses = torch.arange(len(weights), dtype=torch.float64)
    w = torch.tensor(weights)
    torch.testing.assert_close(mean(losses, w), mean(losses, w * scale))
    torch.testing.assert_close(mean(losses, torch.full_like(w, scale)), losses.mean())
    by_hand = sum(a * b for a, b in zip(weights, losses.tolist(), strict=True)) / sum(weights)
    assert float(mean(losses, w)) == pytest.approx(by_hand, rel=1e-5)
