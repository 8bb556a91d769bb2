"""Labels aligned by the loss: torch's CTC mean, valid frames, edits."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks import CTC, make_task
from artplus.tasks.ctc import _edit_distance
from tests.tasks.twins import batch_mean, check_divergence, check_metrics, kl, labels, logits

N, T, S, L = 4, 8, 5, 3


def recognised(seed: int = 0) -> dict[str, Tensor]:
    """Predictions with different numbers of valid frames."""
    return {"logits": logits(N, T, S, seed=seed), "lengths": torch.tensor([8, 6, 7, 5])}


def words(blank: int = 0) -> Tensor:
    """Labels of different lengths, none of them the blank."""
    y = labels(S - 1, N, L)
    y = y + (y >= blank).long()
    y[1, 2:], y[3, 1:] = -100, -100
    return y


@pytest.mark.parametrize("blank", [0, 2])
@pytest.mark.parametrize("how", ["criterion", "option"])
def test_the_batch_mean_is_the_criterion(blank, how):
    """Torch's ``mean``: each loss over its number of labels; every example weighs alike."""
    criterion, p, y = nn.CTCLoss(blank=blank), recognised(), words(blank)
    task = make_task("ctc", criterion) if how == "criterion" else CTC(blank=blank)
    assert task.blank == blank and task.weights(y) is None

    def reference(rows: slice) -> Tensor:
        lengths = (y[rows] >= 0).sum(1)
        steps = p["logits"][rows].float().log_softmax(-1).transpose(0, 1)
        return criterion(steps, y[rows].clamp_min(0), p["lengths"][rows], lengths)

    torch.testing.assert_close(batch_mean(task, p, y), reference(slice(N)))
    alone = torch.stack([reference(slice(k, k + 1)) for k in range(N)])
    torch.testing.assert_close(task.loss(p, y), alone)


def test_the_loss_is_the_probability_of_all_alignments():
    """By listing every path of symbols that reads as the labels."""
    p, y = logits(1, 4, 3), torch.tensor([[2, 1]])
    steps = p[0].softmax(-1)
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        merged = [symbol for symbol, _ in itertools.groupby(path) if symbol != 0]
        if merged == [2, 1]:
            total += float(torch.stack([steps[t, s] for t, s in enumerate(path)]).prod())
    loss = CTC().loss({"logits": p, "lengths": torch.tensor([4])}, y)
    assert float(loss) == pytest.approx(-math.log(total) / 2, rel=1e-5)


@pytest.mark.parametrize("of", ["kl", "probabilities", "logits"])
def test_divergence(of):
    """The mean gap over the valid frames; the others count for nothing."""
    task, p, q, y = CTC(), recognised(), recognised(seed=1), words()
    check_divergence(task, p, q, y, of)
    a, b = p["logits"], q["logits"]
    gaps = {
        "kl": kl(a, b),
        "probabilities": (a.softmax(-1) - b.softmax(-1)).square().sum(-1),
        "logits": (a - b).square().mean(-1),
    }[of]
    expected = torch.stack([gaps[k, : int(p["lengths"][k])].mean() for k in range(N)])
    torch.testing.assert_close(task.divergence(p, q, y, of=of), expected)
    other = {**q, "logits": b.clone()}
    for k in range(N):
        other["logits"][k, int(p["lengths"][k]) :] += 5 * logits(S, seed=2)
    torch.testing.assert_close(task.divergence(p, other, y, of=of), expected)
    torch.testing.assert_close(task.loss(q, y), task.loss(other, y))


def test_metrics():
    """Edits over labels: symbols are merged, blanks dropped, invalid frames left out."""
    symbols = torch.tensor([[1, 1, 0, 1, 2], [0, 3, 3, 3, 1]])
    p = {"logits": nn.functional.one_hot(symbols, 4).float(), "lengths": torch.tensor([5, 4])}
    y = torch.tensor([[1, 2, -100], [3, 2, 2]])  # read as 1 1 2 and as 3
    assert check_metrics(CTC(), p, y) == {"label_error_rate": pytest.approx((1 + 2) / (2 + 3))}
    assert torch.equal(CTC().answers(p), symbols)


@pytest.mark.parametrize(
    ("a", "b", "edits"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("ab", "ba", 2)],
)
def test_edit_distance(a, b, edits):
    """Known pairs, both ways."""
    assert _edit_distance([*map(ord, a)], [*map(ord, b)]) == edits
    assert _edit_distance([*map(ord, b)], [*map(ord, a)]) == edits


class Halved(nn.Module):
    """Gives half as many frames as it gets steps."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


class Ruled(Halved):
    """One with a rule of its own, as Transformers' have."""

    def _get_feat_extract_output_lengths(self, lengths: Tensor) -> Tensor:
        return lengths - 1


LENGTHS = torch.tensor([10, 6, 3, 1])
MASK = (torch.arange(10) < LENGTHS[:, None]).long()


@pytest.mark.parametrize(
    ("inputs", "module", "frames"),
    [
        ({}, Halved(), [5, 5, 5, 5]),
        ({"lengths": LENGTHS}, Halved(), [5, 3, 2, 1]),
        ({"attention_mask": MASK}, Halved(), [5, 3, 2, 1]),
        ({"attention_mask": MASK}, Ruled(), [5, 5, 2, 0]),
        ({"lengths": LENGTHS}, nn.Sequential(Ruled()), [5, 5, 2, 0]),
    ],
    ids=["none", "lengths", "mask", "rule", "rule inside"],
)
def test_valid_frames_follow_from_the_inputs(inputs: Any, module: nn.Module, frames: list[int]):
    """In proportion, rounded up, or by the model's rule; parts of a batch as the whole."""
    x = {"x": torch.rand(4, 10, S), **inputs}
    task = CTC()

    def lengths(rows: slice) -> list[int]:
        part = {name: column[rows] for name, column in x.items()}
        return task.predictions(module(part["x"]), part, module)["lengths"].tolist()

    assert lengths(slice(4)) == frames
    assert lengths(slice(1, 3)) == frames[1:3]


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.rand(2, 3), "symbol numbers"),
        (torch.tensor([1, 2]), "symbol numbers"),
        (torch.tensor([[1, S]]), f"must lie below {S}"),
        (torch.tensor([[1, 0]]), r"hold 0, the blank symbol.*task=CTC\(blank=...\)"),
        (torch.tensor([[1, -100, 2]]), "some come after padding"),
    ],
)
def test_labels_that_cannot_be_meant_are_refused(targets, message):
    """Before any step."""
    task = CTC().bind(recognised(), words())
    with pytest.raises(DataError, match=message):
        task.check_targets(targets)
    task.check_targets(torch.tensor([[1, 2, -1, -100], [3, -100, -100, -1]]))


def test_more_labels_than_frames_are_refused():
    """Their loss is infinite; unless such examples are to count as zero."""
    p = {**recognised(), "lengths": torch.tensor([8, 1, 7, 5])}
    with pytest.raises(DataError, match=r"example 1 has 2 labels but only 1 frames.*zero_infinity"):
        CTC().bind(p, words())
    task = make_task("ctc", nn.CTCLoss(zero_infinity=True)).bind(p, words())
    assert task.zero_infinity and float(task.loss(p, words())[1]) == 0


def test_predictions_of_another_form_are_refused():
    """One vector for a whole recording."""
    with pytest.raises(
        UnsupportedEstimatorError, match=r"\(batch, frames, symbols\), got \(4, 5\)"
    ):
        CTC().bind({**recognised(), "logits": logits(N, S)}, words())
