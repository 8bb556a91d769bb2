"""The report: intervals, text, and the way to plain values and back."""

from __future__ import annotations

import functools
import json
import math
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import AttackResult, Report, judge, wilson, wording
from artplus.model import LossModel
from artplus.tasks import task_for


def classifier_report(**options: Any) -> Report:
    model = LossModel(nn.Linear(6, 4))
    x = torch.rand(30, 6)
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    attacks = {"weak": PGD(eps=0.1, steps=1), "strong": PGD(eps=0.1, steps=5)}
    names = ["a", "b", "c", "d"]
    return judge(model, x, y, attacks, progress=False, class_names=names, **options)


def regression_report() -> Report:
    model = LossModel(nn.Linear(3, 1), task_for(nn.MSELoss()))
    x, y = torch.rand(12, 3), torch.rand(12)
    return judge(model, x, y, {"pgd": PGD(eps=0.1)}, progress=False)


def made(correct: dict[str, list[int] | None], clean: list[int], **options: Any) -> Report:
    """A report as if these attacks had left these examples correct; ``None`` is broken."""
    results = tuple(
        AttackResult(
            name=name,
            norm=math.inf,
            eps=0.1,
            attacked=len(clean),
            correct=None if robust is None else np.array(robust, dtype=bool),
            losses=None if robust is None else np.arange(len(clean), dtype=float),
            broken="raised ValueError: no" if robust is None else None,
            max_norm=0.1,
        )
        for name, robust in correct.items()
    )
    return Report(
        n=len(clean),
        attacks=results,
        losses_clean=np.zeros(len(clean)),
        correct_clean=np.array(clean, dtype=bool),
        eps=0.1,
        norm=math.inf,
        **options,
    )


@given(n=st.integers(1, 2000), share=st.floats(0, 1))
def test_wilson_is_the_closed_form(n: int, share: float) -> None:
    """The interval solves the quadratic of the score test."""
    hits, z = round(share * n), 1.959963984540054
    p = hits / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = wilson(hits, n)
    assert low == pytest.approx(max(0.0, centre - half), abs=1e-9)
    assert high == pytest.approx(min(1.0, centre + half), abs=1e-9)
    assert 0 <= low <= p <= high <= 1


def test_wilson_refuses_more_hits_than_examples() -> None:
    """Counts that cannot be are refused."""
    for hits, n, message in ((3, 2, "at most n"), (0, 0, "n must be"), (-1, 3, "hits must be")):
        with pytest.raises(ConfigurationError, match=message):
            wilson(hits, n)


@given(st.lists(st.lists(st.booleans(), min_size=8, max_size=8), min_size=1, max_size=4))
def test_robust_accuracy_is_at_most_every_accuracy(robust: list[list[bool]]) -> None:
    """The worst case is the and over attacks and the clean prediction."""
    clean = [True] * 6 + [False] * 2
    report = made({str(k): [int(v) for v in row] for k, row in enumerate(robust)}, clean)  # type: ignore[misc]
    expected = np.array([clean, *robust]).all(0)
    assert report.robust_accuracy == expected.mean()
    assert report.robust_accuracy <= min(
        [report.clean_accuracy, *(r.accuracy for r in report.attacks)]
    )
    assert report.robust_interval == wilson(int(expected.sum()), 8)


@pytest.mark.parametrize("make", [classifier_report, regression_report])
def test_json_round_trip_is_lossless(make: Any) -> None:
    """A report comes back from strict JSON with every value, array and property."""
    report = make()
    back = Report.from_json(report.to_json())
    assert back.to_dict() == report.to_dict()
    assert str(back) == str(report)
    assert back.robust_accuracy == report.robust_accuracy
    assert back.robust_loss == report.robust_loss
    assert np.array_equal(back.examples.x_adv, report.examples.x_adv)
    assert back.examples.y.dtype == report.examples.y.dtype or back.examples.y.dtype.kind == "f"
    assert back.examples.clean.shape == report.examples.clean.shape
    json.loads(report.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_json_round_trip_of_broken_and_mixed() -> None:
    """Broken attacks, no common ball, infinite losses and missing parts survive."""
    report = made({"a": None, "b": [1, 0]}, [1, 1])
    report = Report(**{**vars(report), "eps": None, "norm": None, "correct_clean": None,
                       "losses_clean": np.array([math.inf, 1.0])})  # fmt: skip
    back = Report.from_dict(json.loads(report.to_json()))
    assert back.to_dict() == report.to_dict()
    assert back.attacks[0].broken == "raised ValueError: no" and back.attacks[0].correct is None
    assert back.norm is None and back.attacks[1].norm == math.inf
    assert back.losses_clean[0] == math.inf and back.examples is None


def test_foreign_and_damaged_json_is_refused() -> None:
    """What is no report, of another version, or incomplete, says so."""
    data = classifier_report().to_dict()
    for spoiled, message in (
        ({}, "no artplus report"),
        ({**data, "version": 99}, "reads version 2 of artplus.report, got 99"),
        ({**data, "version": 1}, "reads version 2 of artplus.report, got 1"),
        ({k: v for k, v in data.items() if k != "attacks"}, "damaged or incomplete: KeyError"),
        ({**data, "n": 7}, "n is 7, but losses_clean holds 30"),
        (
            {**data, "examples": {**data["examples"], "x": {"shape": [1], "float32": "%"}}},
            "damaged",
        ),
    ):
        with pytest.raises(DataError, match=message):
            Report.from_dict(spoiled)
    for text, message in (("{", "must be JSON"), ("[1]", "JSON object, got list")):
        with pytest.raises(DataError, match=message):
            Report.from_json(text)


def test_new_keys_of_a_later_artplus_are_ignored() -> None:
    """A file with more in it than this version knows still reads."""
    data = classifier_report().to_dict() | {"indicators": [1, 2]}
    assert Report.from_dict(data).n == 30


def test_table_has_a_line_for_each_attack() -> None:
    """Clean, attacks in order, worst case; percentages, intervals and the ball."""
    report = made({"one": [1, 1, 1, 0], "two": [1, 0, 1, 1]}, [1, 1, 1, 1], notes=("a note",))
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "attack",
        "accuracy",
        "95%",
        "interval",
        "ball",
        "max",
        "norm",
        "time",
    ]
    assert lines[2].startswith("clean") and "100.0%" in lines[2]
    assert lines[3].startswith("one") and "75.0%" in lines[3] and "L∞ ≤ 0.1" in lines[3]
    assert lines[6].startswith("worst case") and "50.0%" in lines[6]
    assert "15.0–85.0%" in lines[6]
    assert lines[-1] == "· a note"
    assert "50.0% (95% interval 15.0–85.0%) stay right under each of 2 attacks" in report.summary


def test_table_says_why_an_attack_is_broken() -> None:
    """A broken attack has no number in its row, and its reason below."""
    text = str(made({"bad": None, "good": [1, 0]}, [1, 1]))
    row = next(line for line in text.splitlines() if line.startswith("bad"))
    assert "broken" in row and "%" not in row
    assert "! bad does not count: raised ValueError: no" in text


def test_regression_table_shows_losses() -> None:
    """Without right and wrong the columns are loss and RMSE, clean and in the worst case."""
    report = regression_report()
    lines = str(report).splitlines()
    assert lines[0].split()[:3] == ["attack", "loss", "rmse"]
    assert f"{report.clean_loss:.4g}" in lines[2]
    assert f"{report.robust_loss:.4g}" in str(report)
    assert "accuracy" not in str(report) and "mean loss over 12 examples" in report.summary
    assert report.clean_interval is None and report.attacks[0].interval is None


@pytest.mark.parametrize(
    ("eps", "text"),
    [(8 / 255, "8/255"), (0.3, "0.3"), (1 / 255, "1/255"), (0.2, "0.2"), (1.5, "1.5"),
     (3e-5, "3e-05"), (0.12345678, "0.1235"), (4.0, "4")],
)  # fmt: skip
def test_radius_reads_as_people_write_it(eps: float, text: str) -> None:
    """Multiples of 1/255 as such, unless a short decimal says the same."""
    assert wording.radius(eps) == text


def test_durations_and_missing_values() -> None:
    """Seconds, then minutes; a dash where nothing is known."""
    assert wording.duration(12.34) == "12.3 s" and wording.duration(125.4) == "2 min 05 s"
    assert wording.percent(None) == wording.number(None) == wording.interval(None) == "–"
    assert wording.norm_name(2.0) == "L2" and wording.plural(1, "attack") == "1 attack"


def test_report_is_frozen() -> None:
    """A verdict is not edited."""
    with pytest.raises(AttributeError):
        made({"a": [1]}, [1]).n = 3  # type: ignore[misc]


def test_report_records_how_to_repeat_it() -> None:
    """Seed, batch size, versions, date, and a hash that follows inputs and labels."""
    report = classifier_report(seed=7, batch_size=9)
    assert (report.seed, report.batch_size) == (7, 9)
    assert report.versions["torch"] == torch.__version__
    assert {"numpy", "python", "artplus", "adversarial-robustness-toolbox"} <= set(report.versions)
    assert report.date.endswith("+00:00")
    model = LossModel(nn.Linear(6, 4))
    x, y = torch.rand(5, 6), torch.tensor([0, 1, 2, 3, 0])
    one = {"pgd": PGD(eps=0.1)}

    def hashed(x: torch.Tensor, y: torch.Tensor) -> str:
        return judge(model, x, y, one, progress=False).data_hash

    first = hashed(x, y)
    assert first == hashed(x, y)
    assert first != hashed(x.flip(0), y) and first != hashed(x, y.flip(0))


def test_mixed_radii_are_recorded_exactly() -> None:
    """A radius comes back as the number that was given, not its float32 neighbour."""
    assert [result.eps for result in classifier_report().attacks] == [0.1, 0.1]
    assert classifier_report().eps == 0.1


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a nested object; of an array to the first alone."""
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list) and data:
        yield from places(data[0], (*path, 0))


HOSTILE = [None, True, 3, -1, 10**400, 0.5, "x", "nan", [], [[]], [None], ["x"], {}, {"kind": []}]


def test_a_spoiled_file_reads_or_is_refused() -> None:
    """Whatever stands in the place of a value, the answer is a report or a DataError."""
    report = classifier_report(analyses=["per_class", "confusion"])
    text, read, refused = report.to_json(), 0, 0
    for path in places(json.loads(text)):
        for value in HOSTILE:
            data = json.loads(text)
            *above, last = path
            functools.reduce(operator.getitem, above, data)[last] = value
            try:
                Report.from_dict(data)
                read += 1
            except DataError:
                refused += 1
    assert read > 100 and refused > 1000


def test_deep_and_endless_json_is_refused() -> None:
    """Neither nesting nor digits without end bring the reader down."""
    for text in ("[" * 100_000, '{"n": ' + "9" * 10_000 + "}", '{"a":' * 100_000):
        with pytest.raises(DataError, match="must be JSON"):
            Report.from_json(text)


def test_values_of_other_types_are_refused() -> None:
    """A number where there must be text, a fraction where a count, an unknown unit."""
    data = classifier_report(analyses=["per_class"]).to_dict()
    table = data["sections"][0]["blocks"][0]
    for spoiled in (
        {**data, "model": 3},
        {**data, "seed": 0.5},
        {**data, "n": True},
        {**data, "eps": "0.1"},
        {**data, "losses_clean": [[0.0]] * 30},
        {**data, "losses_clean": [None] * 30},
        {**data, "class_names": "abcd"},
        {**data, "sections": [{**data["sections"][0], "blocks": [{**table, "units": ["m"] * 6}]}]},
    ):
        with pytest.raises(DataError, match="damaged or incomplete: TypeError: expected"):
            Report.from_dict(spoiled)
