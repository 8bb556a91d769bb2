"""Inputs that have been normalised: analyses answer in raw units, as for a model that does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.evaluation.analyses import Transfer

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)

ANALYSES = (
    "calibration", "corruptions", "embedding", "epsilon_curve", "loss_surface", "minimum_norm",
    "per_class", "saliency", "smoothing", "transfer", "vulnerable",
)  # fmt: skip


class Normalizing(nn.Module):
    """A model of raw inputs around one of normalised inputs."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(normalized(x))
        return logits


def normalized(x: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (x - mean) / std


def nets() -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).eval()
        for _ in range(3)
    ]


@pytest.mark.parametrize("name", ANALYSES)
def test_figures_are_those_of_a_model_that_normalises_itself(name: str) -> None:
    """Attacks, corruptions, noise and radii are in raw units, for every model that is compared."""
    net, before, other = nets()
    x = torch.rand(24, 3, 8, 8)
    with torch.no_grad():
        y = net(normalized(x)).argmax(1)
    reports = []
    for wrap, inputs, options in (
        (lambda net: net, normalized(x), {"normalization": (MEAN, STD)}),
        (Normalizing, x, {}),
    ):
        analysis: Any = Transfer(models={"other": wrap(other)}) if name == "transfer" else name
        report = artplus.evaluate(
            wrap(net), inputs, y, attacks=[PGD(eps=0.05, steps=5, random_start=False)],
            bounds=(0.0, 1.0), analyses=[analysis], before=wrap(before), progress=False, **options,
        )  # fmt: skip
        reports.append(report)
    (first,), (second,) = (report.sections for report in reports)
    assert "could not be answered" not in first.summary
    assert dict(first.figures) == pytest.approx(dict(second.figures), rel=1e-3, abs=1e-4)
    assert len(first.blocks) == len(second.blocks)
    assert np.array_equal(reports[0].correct_robust, reports[1].correct_robust)
