"""Sections as JSON and back: every block, values that JSON lacks, versions, damage."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import Report, Section
from artplus.evaluation.schema import decode, encode
from artplus.evaluation.section import (
    Curves,
    Gallery,
    Group,
    Matrix,
    Passage,
    Passages,
    Picture,
    Scatter,
    Series,
    Table,
)
from tests.evaluation.analyses.subjects import inside, labelled, linear, looked

BLOCKS = {
    "table": Table(
        columns=("a", "b", "c"),
        units=("text", "count", "number"),
        rows=(("inf", 1, math.inf), ("nan", None, 0.5), ("", -3, -math.inf)),
        caption="words",
    ),
    "curves": Curves(
        x_label="x",
        y_label="y",
        series=(
            Series(name="s", x=(0.0, 1.0), y=(0.5, None), low=(0.4, None), high=(0.6, None)),
            Series(name="t", x=(), y=()),
            Series(name="u", x=(0.0, math.inf), y=(-math.inf, 1.0)),
        ),
        x_unit="count",
        y_unit="number",
    ),
    "matrix": Matrix(
        row_label="r", column_label="c", rows=("a",), columns=("b", "c"), values=((0.25, None),),
        unit="number", span=(0.0, 2.0),
    ),
    "scatter": Scatter(
        x_label="x", y_label="y", groups=(Group(name="g", x=(1.0,), y=(2.0,), labels=("p",)),)
    ),
    "gallery": Gallery(
        rows=((Picture(title="t", image=np.full((2, 3), 0.1, np.float32), colours="heat"),),)
    ),
    "passages": Passages(
        passages=(Passage(title="t", tokens=("a", "b"), weights=(0.5, -1.0), text="w"),)
    ),
}  # fmt: skip


def made(*blocks: Any) -> Section:
    return Section(
        name="n", title="t", summary="s", blocks=blocks, figures=(("f", 0.1),), notes=("x",)
    )


@pytest.mark.parametrize("kind", sorted(BLOCKS))
def test_round_trip(kind: str) -> None:
    """Every block comes back as it was, through strict JSON text."""
    section = made(BLOCKS[kind])
    text = json.dumps(encode(section), allow_nan=False)
    back = decode(Section, json.loads(text))
    assert encode(back) == encode(section)
    if kind == "gallery":
        picture = back.blocks[0].rows[0][0]
        assert np.array_equal(picture.image, BLOCKS[kind].rows[0][0].image)
        assert picture.image.dtype == np.float32
    else:
        assert back == section


def test_numpy_numbers_are_written_as_numbers() -> None:
    """What an analysis took from an array is no obstacle."""
    block = Table(columns=("a",), units=("percent",), rows=((np.float64(0.5),), (np.inf,)))
    assert encode(made(block))["blocks"][0]["rows"] == [[0.5], [{"float": "inf"}]]


def test_a_report_keeps_its_sections(tmp_path: Any) -> None:
    """Through a file, and with the rest of the report untouched."""
    net, x = linear(), inside(20)
    report = looked(net, x, labelled(net, x, wrong=2), "per_class", "confusion")
    back = Report.from_json((report.save(tmp_path / "r.json")).read_text())
    assert back.sections == report.sections
    assert np.array_equal(back.predictions_worst, report.predictions_worst)
    assert np.array_equal(back.predictions_clean, report.predictions_clean)


def test_reports_of_before_still_load() -> None:
    """A report that was written without sections and predictions has none."""
    net, x = linear(), inside(10)
    data = looked(net, x, labelled(net, x)).to_dict()
    for name in ("sections", "predictions_clean", "predictions_worst"):
        del data[name]
    report = Report.from_dict(data)
    assert report.sections == () and report.predictions_worst is None


def test_worst_predictions_are_wrong_exactly_where_the_worst_case_is() -> None:
    """Prediction and label differ on every example that does not stand, on no other."""
    net, x = linear(), inside(40)
    y = labelled(net, x, wrong=4)
    for survivors in (False, True):
        report = looked(net, x, y, eps=0.04, only_survivors=survivors)
        assert np.array_equal(report.predictions_worst == y.numpy(), report.correct_robust)
        assert np.array_equal(report.predictions_clean, net(x).argmax(1).numpy())
        assert 0 < report.robust_accuracy < report.clean_accuracy
    assert torch.equal(y, y)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: d["blocks"][0].update(kind="hologram"), "unknown kind of block 'hologram'"),
        (lambda d: d.pop("title"), "damaged or incomplete: KeyError"),
        (lambda d: d["blocks"][0].update(columns=["a"]), "damaged or incomplete"),
        (lambda d: d.update(figures=3), "damaged or incomplete"),
    ],
)
def test_damage_is_told(spoil: Any, message: str) -> None:
    """An unknown block and missing parts are DataErrors that say which."""
    net, x = linear(), inside(10)
    data = looked(net, x, labelled(net, x)).to_dict()
    section = encode(made(BLOCKS["table"]))
    spoil(section)
    data["sections"] = [section]
    with pytest.raises(DataError, match=message):
        Report.from_dict(data)


def test_blocks_refuse_what_does_not_fit() -> None:
    """Lengths that differ are refused where the block is made."""
    with pytest.raises(ConfigurationError, match="one unit and one cell"):
        Table(columns=("a",), units=("text",), rows=(("x", "y"),))
    with pytest.raises(ConfigurationError, match="differ in length"):
        Series(name="s", x=(0.0,), y=())
    with pytest.raises(ConfigurationError, match="needs a value for each pair"):
        Matrix(row_label="", column_label="", rows=("a",), columns=("b",), values=())
    with pytest.raises(ConfigurationError, match="differ in length"):
        Group(name="g", x=(0.0,), y=(0.0,), labels=("a", "b"))
    with pytest.raises(ConfigurationError, match="must be .height, width."):
        Picture(title="t", image=np.zeros((2, 2, 4), np.float32))
    with pytest.raises(ConfigurationError, match="one weight per token"):
        Passage(title="t", tokens=("a",), weights=())
