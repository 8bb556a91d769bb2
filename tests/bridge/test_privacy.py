"""Membership inference: chance for a model without memory, certainty for one with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.bridge.privacy import Guesses, Privacy, area
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import Report, Section
from artplus.evaluation.section import Table
from artplus.model import LossModel
from artplus.tasks import task_for
from tests.toys import arrays, classifier


class Memory(nn.Module):
    """Sure and right on what it has seen, undecided on everything else."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.seen, self.answers = x, nn.functional.one_hot(y, 3).float()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: Tensor) -> Tensor:
        near, which = torch.cdist(x, self.seen).min(1)
        known = (near < 1e-3).float()[:, None]
        return self.scale * known * self.answers[which] + 0 * x.sum(1, keepdim=True)


def pair() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    x, y = arrays(200)
    return (x[:100], y[:100]), (x[100:], y[100:])


def found(model: Any, analysis: Privacy, data: tuple[Any, Any], **options: Any) -> Section:
    report = artplus.evaluate(
        model, *data, attacks=["fgsm"], eps=0.01, analyses=[analysis], progress=False, **options
    )
    assert Report.from_json(report.to_json()).to_json() == report.to_json()
    return report.sections[0]


def test_a_model_that_remembers_is_found_out() -> None:
    """Members have a loss near 0, others that of a guess: every attack is right nearly always."""
    members, others = pair()
    model = Memory(*(torch.as_tensor(values) for values in members))
    section = found(model, Privacy(*members), others)
    figures = dict(section.figures)
    assert figures["auc_loss"] == 1.0 and figures["auc_loss_error"] == 0.0
    assert figures["best_advantage"] > 0.95
    assert figures["tpr_at_1_percent_fpr"] == 1.0
    rows = {row[0]: row[1] for row in section.blocks[0].rows}
    assert rows["learned"] > 0.95 and rows["loss threshold"] > 0.95
    # Undecided between equals it names the first class: a third of the others are right.
    right = (others[1] == 0).mean()
    assert rows["right or wrong"] == pytest.approx(1 - right / 2)


def test_a_model_that_saw_neither_is_at_chance() -> None:
    """One trained on nothing tells members from others no better than a coin."""
    members, others = pair()
    section = found(nn.Linear(6, 3), Privacy(*members), others)
    figures = dict(section.figures)
    assert abs(figures["auc_loss"] - 0.5) < 3 * figures["auc_loss_error"]
    assert figures["best_accuracy"] < 0.65


def test_the_gap_attack_is_the_generalisation_gap() -> None:
    """Taking what is right for a member gives half of one plus the gap of the accuracies."""
    (x, y), (x_test, y_test) = pair()
    net = nn.Linear(6, 3)
    ours = net(torch.as_tensor(x)).argmax(1).numpy()
    y = np.where(np.arange(100) < 80, ours, (ours + 1) % 3)  # 80 % right on members
    section = found(net, Privacy(x, y), (x_test, y_test))
    right = (net(torch.as_tensor(x_test)).argmax(1).numpy() == y_test).mean()
    rows = {row[0]: row for row in section.blocks[0].rows}
    assert rows["right or wrong"][1] == pytest.approx((0.8 + 1 - right) / 2)
    assert rows["right or wrong"][3] == pytest.approx(0.8 - right)


def test_area_is_the_share_of_ordered_pairs() -> None:
    """Every pair of a member and another, ties counting half."""
    rng = np.random.default_rng(0)
    members, others = rng.integers(0, 5, 30) * 1.0, rng.integers(1, 6, 40) * 1.0
    pairs = (members[:, None] < others) + 0.5 * (members[:, None] == others)
    assert area(members, others)[0] == pytest.approx(pairs.mean())
    assert area(others, members)[0] == pytest.approx(1 - pairs.mean())


def test_the_error_of_the_area_is_the_spread_of_the_area() -> None:
    """Hanley and McNeil's formula against areas of many samples of exponential losses."""
    rng = np.random.default_rng(0)
    drawn = [area(rng.exponential(1.0, 60), rng.exponential(2.0, 80)) for _ in range(400)]
    areas, errors = zip(*drawn, strict=True)
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.1)
    assert np.mean(areas) == pytest.approx(2 / 3, abs=0.01)


def test_guesses_by_hand() -> None:
    """Accuracy counts both sides alike; the advantage is the gap of the two rates."""
    guesses = Guesses(np.array([True, True, False, True]), np.array([True, False, False, False]))
    assert guesses.accuracy == pytest.approx((0.75 + 0.75) / 2)
    assert guesses.advantage == pytest.approx(0.5)
    assert guesses.interval[0] < 0.75 < guesses.interval[1]


def test_an_estimator_and_its_past() -> None:
    """Preprocessing is part of the model, and the model before has a table of its own."""
    members, others = pair()
    estimator = classifier(nn.Linear(6, 3), preprocessing=(0.5, 0.5))
    section = found(estimator, Privacy(*members), others, before=classifier(nn.Linear(6, 3)))
    tables = [block for block in section.blocks if isinstance(block, Table)]
    assert [table.model for table in tables] == ["before", ""]
    for table in tables:
        assert len(table.rows) == 3 and "learned" in {row[0] for row in table.rows}
    assert "before" in section.summary


def test_it_repeats() -> None:
    """The same seed draws the same members and grows the same forest."""
    members, others = pair()
    estimator = classifier()
    one, two = (found(estimator, Privacy(*members, n=60), others) for _ in range(2))
    assert one == two
    assert found(estimator, Privacy(*members, n=60), others, seed=1) != one


def test_refusals() -> None:
    """Data that do not fit, too few, regressions, and attackers that do not exist."""
    members, others = pair()
    with pytest.raises(DataError, match="x_train must have shape"):
        found(classifier(), Privacy(members[0][:, :5], members[1]), others)
    with pytest.raises(DataError, match="y_train must have one label per input"):
        found(classifier(), Privacy(members[0], members[1][:50]), others)
    with pytest.raises(DataError, match="x_train must lie in clip_values"):
        found(classifier(), Privacy(255 * members[0], members[1]), others)
    with pytest.raises(ConfigurationError, match="at least 20 members .* got 100 and 5"):
        found(classifier(), Privacy(*members), (others[0][:5], others[1][:5]))
    with pytest.raises(ConfigurationError, match="attack_model_type must be one of rf"):
        Privacy(*members, attack_model_type="oracle")
    model = LossModel(nn.Linear(6, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="privacy needs a classifier"):
        found(model, Privacy(*members), (others[0], others[1].astype(np.float32)))
