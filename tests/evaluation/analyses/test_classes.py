"""Accuracy and confusions by class and group, against counts by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.evaluation import wilson
from artplus.evaluation.analyses import Confusion, PerClass
from artplus.evaluation.analyses.confusion import counts
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.evaluation.analyses.subjects import looked, matrix, section, table

# The model predicts the feature's whole part; the attack raises features by a little.
X = torch.tensor([0.1, 0.96, 0.97, 1.2, 1.97, 2.1, 2.98, 2.99])[:, None]
Y = torch.tensor([0, 0, 0, 1, 1, 2, 2, 1])
EPS = 0.05


@dataclass(frozen=True)
class Raise:
    """Adds its radius."""

    eps: float = EPS
    norm: float = float("inf")

    def __call__(self, model: Any, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        return x + self.eps

    def with_eps(self, scale: float) -> Raise:
        return self


class Whole(nn.Module):
    """Four classes; the logit of the feature's whole part is the largest."""

    def forward(self, x: Tensor) -> Tensor:
        return -(x - 0.5 - torch.arange(4.0)).abs()


def report(*analyses: Any, **options: Any) -> Any:
    return looked(
        LossModel(Whole()), X, Y, *analyses, attack=Raise(), space=InputSpace(), **options
    )


def test_rows_are_counts_by_hand() -> None:
    """Class by class, the least robust first: n, clean and robust shares with their intervals."""
    (found,) = report(PerClass(least=1)).sections
    rows = {row[0]: row for row in table(found).rows}
    # Class 0: 0.1 holds, 0.96 and 0.97 are raised to 1.0 and more. Class 1: 2.99 is wrong, 1.97
    # is turned. Class 2: 2.98 is turned.
    expected = {"0": (3, 3, 1), "1": (3, 2, 1), "2": (2, 2, 1)}
    for name, (n, clean, robust) in expected.items():
        assert rows[name][1] == n
        assert rows[name][2] == pytest.approx(clean / n)
        assert rows[name][4] == pytest.approx(robust / n)
        low, high = wilson(robust, n)
        assert rows[name][5] == f"{100 * low:.1f}–{100 * high:.1f}%"
    assert "3" not in rows
    assert [row[4] for row in table(found).rows] == sorted(row[4] for row in table(found).rows)
    figures = dict(found.figures)
    assert figures["worst_class_robust"] == pytest.approx(1 / 3)
    assert figures["class_gap"] == pytest.approx(1 / 2 - 1 / 3)


def test_small_classes_are_not_called_the_worst() -> None:
    """Below ``least`` examples chance decides: shown, not named."""
    (found,) = report(PerClass(least=3)).sections
    assert "least robust class is 1" in found.summary
    (silent,) = report(PerClass(least=4)).sections
    assert silent.summary == "" and not silent.figures


def test_groups_cross_classes() -> None:
    """A group's row is the mean over its examples, whatever their class."""
    groups = ["a", "a", "b", "b", "b", "a", "a", "a"]
    (found,) = report(PerClass(groups=groups, group="site", least=1)).sections
    rows = {row[0]: row for row in table(found, 1).rows}
    assert rows["a"][1:3] == (5, pytest.approx(4 / 5)) and rows["a"][4] == pytest.approx(2 / 5)
    assert rows["b"][1:3] == (3, 1.0) and rows["b"][4] == pytest.approx(1 / 3)
    assert dict(found.figures)["worst_site_robust"] == pytest.approx(1 / 3)
    with pytest.raises(ConfigurationError, match="one label per example, 8, got 2"):
        report(PerClass(groups=["a", "b"]))


def test_class_names_are_shown() -> None:
    """The user's names stand in rows, columns and sentences."""
    names = ["ant", "bee", "cow", "dog"]
    per_class, confusion = report(PerClass(least=1), Confusion(), class_names=names).sections
    assert {row[0] for row in table(per_class).rows} == {"ant", "bee", "cow"}
    assert matrix(confusion).rows == tuple(names)
    assert "ant" in confusion.summary


def test_confusions_by_hand() -> None:
    """Clean: one of class 1 is taken for 2. Attacked: two zeros become ones, and so on."""
    (found,) = report(Confusion()).sections
    clean, attacked = matrix(found, 0), matrix(found, 1)
    assert clean.values[1] == pytest.approx((0, 2 / 3, 1 / 3, 0))
    assert attacked.values[0] == pytest.approx((1 / 3, 2 / 3, 0, 0))
    assert attacked.values[1] == pytest.approx((0, 1 / 3, 2 / 3, 0))
    assert attacked.values[2] == pytest.approx((0, 0, 1 / 2, 1 / 2))
    assert attacked.values[3] == (None,) * 4
    assert table(found).rows[0] == ("0", "1", 2, pytest.approx(2 / 3))
    assert [row[2] for row in table(found).rows] == [2, 2, 1]


def test_rows_of_a_matrix_sum_to_one_and_agree_with_the_accuracies() -> None:
    """The diagonal is the accuracy of the class."""
    confusion, per_class = report(Confusion(), PerClass()).sections
    diagonal = {
        name: row[k]
        for k, (name, row) in enumerate(
            zip(matrix(confusion, 1).rows, matrix(confusion, 1).values, strict=True)
        )
    }
    for row in table(per_class).rows:
        assert diagonal[row[0]] == pytest.approx(row[4])


def test_many_classes_have_a_list_only() -> None:
    """A matrix that nobody could read is left out; the pairs stay."""
    (found,) = report(Confusion(largest=3, pairs=1)).sections
    assert len(found.blocks) == 1
    assert len(table(found).rows) == 1


def test_counting() -> None:
    """Every pair is counted once, repeated ones too."""
    found = counts(np.array([0, 0, 1]), np.array([1, 1, 0]), 2)
    assert found.tolist() == [[0, 2], [1, 0]]
    assert counts(np.array([0]), None, 2) is None


def test_nothing_confused() -> None:
    """A model that makes no mistake is said to make none."""
    model, x = LossModel(Whole()), torch.tensor([[0.5], [1.5]])
    found = section(model, x, torch.tensor([0, 1]), Confusion(), attack=Raise(eps=0.01),
                    space=InputSpace())  # fmt: skip
    assert found.summary == "Under attack no class is taken for another."
    assert not found.figures
