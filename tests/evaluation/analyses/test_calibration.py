"""Expected calibration error against the definition written out, and against known models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import Calibration
from artplus.evaluation.analyses.calibration import binning
from artplus.functional import probabilities
from artplus.model import LossModel
from artplus.tasks import Classification
from tests.evaluation.analyses.subjects import (
    curve,
    inside,
    labelled,
    linear,
    looked,
    section,
    table,
)


def written_out(confidence: list[float], correct: list[bool], bins: int) -> float:
    """The definition, bin by bin."""
    total = 0.0
    for k in range(bins):
        held = [
            (c, r)
            for c, r in zip(confidence, correct, strict=True)
            if k / bins < c <= (k + 1) / bins or (k == 0 and c == 0)
        ]
        if held:
            accuracy = sum(r for _, r in held) / len(held)
            mean = sum(c for c, _ in held) / len(held)
            total += len(held) / len(confidence) * abs(accuracy - mean)
    return total


@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 20),
)
def test_error_is_the_definition(data: list[tuple[float, bool]], bins: int) -> None:
    """Bins are half open, empty ones do not count, gaps are weighted by the share of examples."""
    confidence, correct = (list(values) for values in zip(*data, strict=True))
    found = binning(np.array(confidence), np.array(correct), bins)
    assert found.error == pytest.approx(written_out(confidence, correct, bins), abs=1e-9)
    assert found.error <= found.largest + 1e-12
    assert found.n.sum() == len(data)


def test_a_calibrated_sample_has_no_error() -> None:
    """Three of four right at confidence 0.75; all wrong at full confidence is the worst."""
    calm = binning(np.full(4, 0.75), np.array([1, 1, 1, 0], dtype=bool), 15)
    assert calm.error == pytest.approx(0.0)
    sure = binning(np.ones(4), np.zeros(4, dtype=bool), 15)
    assert sure.error == 1.0 == sure.largest


def test_the_section_says_what_the_model_says() -> None:
    """Confidence, accuracy and error are those of softmax on the examples, by hand."""
    net, x = linear(), inside(50)
    y = labelled(net, x, wrong=10)
    found = section(net, x, y, Calibration())
    p = net(x).softmax(1).amax(1).detach().double().numpy()
    right = (net(x).argmax(1) == y).numpy()
    (row, attacked) = table(found).rows
    assert row[:3] == ("clean", pytest.approx(0.8), pytest.approx(p.mean()))
    assert row[3] == pytest.approx(written_out(p.tolist(), right.tolist(), 15))
    assert dict(found.figures)["ece_clean"] == row[3]
    assert attacked[2] < row[2]  # pushed towards the boundary, a linear model is less sure
    line = curve(found, "clean", 1)
    assert sum(line.y) == pytest.approx(1.0)
    assert len(line.y) == 15


def test_under_attack_every_example_is_perturbed() -> None:
    """A strong attack turns what was right, and what was wrong is attacked too."""
    net, x = linear(), inside(40)
    y = labelled(net, x, wrong=4)
    found = section(net, x, y, Calibration(attack=PGD(eps=0.3, steps=10)))
    figures = dict(found.figures)
    assert figures["accuracy_attacked"] == 0.0
    assert figures["confidence_attacked"] > 0.5
    assert figures["ece_attacked"] == pytest.approx(figures["confidence_attacked"], abs=1e-6)


def test_probabilities_are_not_softened_twice() -> None:
    """A model that ends in a softmax keeps its confidence."""
    net, x = linear(), inside(30)
    y = labelled(net, x)
    soft = nn.Sequential(net, nn.Softmax(1))
    logits, rows = (section(m, x, y, Calibration()) for m in (net, soft))
    assert table(logits).rows[0] == pytest.approx(table(rows).rows[0])
    assert torch.equal(probabilities(torch.tensor([[0.25, 0.75]])), torch.tensor([[0.25, 0.75]]))
    assert float(probabilities(torch.tensor([[0.0, 2.0]]))[0, 1]) == pytest.approx(0.8808, abs=1e-4)


def test_before_stands_beside() -> None:
    """Two models, two lines each."""
    net, x = linear(), inside(30)
    found = section(net, x, labelled(net, x), Calibration(), before=LossModel(linear(seed=1)))
    rows = [(table(found, k).model, row[0]) for k in (0, 1) for row in table(found, k).rows]
    assert rows == [
        ("before", "clean"), ("before", "under attack"), ("", "clean"), ("", "under attack"),
    ]  # fmt: skip


def test_without_gradients_an_attack_must_be_given() -> None:
    """A model that only answers has no PGD."""
    net, x = linear(), inside(5)
    model = LossModel(nn.Identity(), Classification(classes=2), forward=lambda x: net(x).detach())
    with pytest.raises(ConfigurationError, match="calibration needs gradients"):
        looked(model, x, labelled(net, x), Calibration())
    with pytest.raises(ConfigurationError, match="bins"):
        Calibration(bins=0)
