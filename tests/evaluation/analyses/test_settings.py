"""Sections carry the settings they were asked under, so that two askings can be told apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from artplus.attacks import PGD
from artplus.errors import ArtplusWarning
from artplus.evaluation import judge
from artplus.evaluation.analyses import Confusion, PerClass
from artplus.evaluation.analyses._settings import LONGEST
from artplus.evaluation.section import Section
from artplus.model import LossModel
from artplus.spaces import InputSpace


@dataclass(frozen=True, kw_only=True, eq=False)
class Odd:
    """Settings of every kind."""

    n: int | None = None
    rate: float = 1.0
    attack: Any = None
    groups: Any = None
    mapping: Any = None
    tokenizer: Any = None

    def __call__(self, subject: Any) -> Section:
        return Section(name="odd", title="Odd", summary="Asked.")


def asked(*analyses: Any, seed: int = 0, eps: float = 0.05) -> list[dict[str, str]]:
    """The settings of each section of a small report."""
    model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(6, 4)
    report = judge(
        model, x, model(x).argmax(1), {"pgd": PGD(eps=eps, steps=2)}, space=InputSpace(0.0, 1.0),
        analyses=list(analyses), progress=False, seed=seed,
    )  # fmt: skip
    return [dict(section.settings) for section in report.sections]


def test_sections_know_their_settings() -> None:
    """Fields of the analysis by name, beside ball, seed and size of the report."""
    one, two = asked(Confusion(pairs=3), PerClass(least=2), seed=5)
    assert one == {
        "pairs": "3", "largest": "30", "ball of the report": "L∞ ≤ 0.05",
        "seed of the report": "5", "examples of the report": "6",
    }  # fmt: skip
    assert two["least"] == "2" and two["group"] == "group"


def test_values_are_short_and_told_apart() -> None:
    """Long ones by a digest; equal values give equal texts, others do not."""
    long = np.arange(500)
    ones = [
        Odd(groups=long), Odd(groups=long.tolist()), Odd(groups=torch.from_numpy(long)),
        Odd(groups=long + 1), Odd(attack=PGD(eps=0.1)), Odd(attack=PGD(eps=0.2)),
        Odd(mapping={"net": torch.nn.Linear(2, 2), "k": (1, 2)}), Odd(tokenizer=len), Odd(rate=1),
    ]  # fmt: skip
    found = asked(*ones)
    assert all(len(text) <= LONGEST for row in found for text in row.values())
    same = {row["groups"] for row in found[:3]}
    assert len({*same, found[3]["groups"]}) == len(same) + 1
    assert found[0]["groups"] == found[2]["groups"]
    assert "eps=0.1" in found[4]["attack"] and found[4]["attack"] != found[5]["attack"]
    assert found[6]["mapping"] == "net: Linear, k: 1, 2" and found[7]["tokenizer"] == "len"
    assert found[8]["rate"] == found[0]["rate"] == "1" and found[0]["n"] == "None"


def test_analyses_that_are_plain_functions_have_the_report_s() -> None:
    """What is no dataclass has no fields to tell."""

    def ask(subject: Any) -> Section:
        return Section(name="f", title="F", summary="Asked.")

    (only,) = asked(ask)
    assert set(only) == {"ball of the report", "seed of the report", "examples of the report"}


def test_tensors_of_every_kind_are_told() -> None:
    """What NumPy has no type for, what is sparse, and long ones, whose values are not written."""
    one, two, three, four = asked(
        Odd(groups=torch.tensor([0.5, 2.0], dtype=torch.bfloat16)),
        Odd(groups=torch.tensor([0.0, 1.0], requires_grad=True).to_sparse()),
        Odd(groups=torch.zeros(200, 300)),
        Odd(groups=np.array(["left", "right"])),
    )
    assert one["groups"] == "[0.5, 2.0]" and two["groups"] == "[0.0, 1.0]"
    assert three["groups"].startswith("(200, 300) float32 ")
    assert four["groups"] == "['left', 'right']"


def test_what_goes_wrong_around_an_analysis_costs_its_section_alone() -> None:
    """No section came back, or a field that cannot be read: the report stands."""

    @dataclass
    class Unset:
        n: int = field(init=False)

        def __call__(self, subject: Any) -> Section:
            return Section(name="unset", title="Unset", summary="Asked.")

    model, x = LossModel(torch.nn.Linear(4, 3)), torch.rand(6, 4)
    for analysis, reason in ((lambda subject: None, "returned NoneType"), (Unset(), "'n'")):
        with pytest.warns(ArtplusWarning, match=reason):
            report = judge(
                model, x, model(x).argmax(1), {"pgd": PGD(eps=0.1, steps=2)}, progress=False,
                analyses=[analysis],
            )  # fmt: skip
        assert "could not be answered" in report.sections[0].summary
