"""Randomized smoothing against the closed form of linear models, and its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binom, norm
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import Smoothing
from artplus.evaluation.analyses.smoothing import ABSTAIN, certify
from artplus.evaluation.data import EvaluationData
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.evaluation.analyses.subjects import (
    curve,
    distances,
    inside,
    labelled,
    linear,
    looked,
    section,
    table,
)


def data(net: nn.Module, x: Tensor, y: Tensor, batch_size: int = 5000) -> EvaluationData:
    model = LossModel(net)
    return EvaluationData(
        model, x, y, InputSpace(), batch_size, torch.device("cpu"), int(y.max()) + 1
    )


def test_a_linear_models_radius_tends_to_its_margin() -> None:
    """With many draws sigma times the quantile is the distance to the boundary, from below."""
    net, x = linear(), inside(12)
    y = labelled(net, x)
    far = distances(net, x, 2.0)
    found = certify(data(net, x, y), torch.arange(12), sigma=0.1, n0=200, n=100_000, alpha=0.001,
                    seed=0)  # fmt: skip
    right = far > 0.01
    assert (found.predictions[right] == y.numpy()[right]).all()
    assert (found.radii <= far).all()
    seen = right & (far < 0.25)  # farther away almost every draw is right, and the bound caps
    assert seen.sum() >= 5
    assert found.radii[seen] == pytest.approx(far[seen], rel=0.05, abs=2e-3)


class Coin(nn.Module):
    """Class 1 with probability 0.9 by the noise of the first feature."""

    def forward(self, x: Tensor) -> Tensor:
        hit = (x[:, 0] < norm.ppf(0.9)).float()
        return torch.stack([1 - hit, hit], 1)


def test_a_wrong_guess_is_not_certified() -> None:
    """The bound is of the class guessed from other draws: a bad guess abstains, and is no lie."""
    setting = data(Coin(), torch.zeros(60, 2), torch.ones(60, dtype=torch.long))
    found = certify(setting, torch.arange(60), sigma=1.0, n0=1, n=200, alpha=0.01, seed=0)
    assert set(found.predictions.tolist()) == {1, ABSTAIN}
    assert (found.radii[found.predictions == ABSTAIN] == 0).all()


def test_the_bound_is_clopper_and_pearsons() -> None:
    """The radius of k hits inverts the binomial tail: P(X >= k | p) = alpha at the bound."""

    x, y, n = torch.zeros(1, 2), torch.ones(1, dtype=torch.long), 500
    setting = data(Coin(), x, y)
    found = certify(setting, torch.arange(1), sigma=1.0, n0=50, n=n, alpha=0.01, seed=1)
    bound = norm.cdf(found.radii[0])
    tails = [binom.sf(k - 1, n, bound) for k in range(n + 1)]
    assert min(abs(tail - 0.01) for tail in tails) < 1e-9
    assert bound < 0.9


def test_all_hits_cap_the_radius_as_documented() -> None:
    """A constant model is certified to sigma times the quantile of alpha to the 1/n."""
    net = nn.Linear(3, 2)
    net.weight.data.zero_()
    net.bias.data = torch.tensor([1.0, 0.0])
    found = section(net, torch.rand(5, 3), torch.zeros(5, dtype=torch.long), Smoothing(sigma=2.0))
    cap = 2.0 * norm.ppf(0.001 ** (1 / 1000))
    assert dict(found.figures)["median_radius"] == pytest.approx(cap)
    assert cap == pytest.approx(2 * 2.46, abs=0.01)
    assert curve(found, "certified").y[0] == 1.0
    assert curve(found, "certified").y[-1] == 0.0


def test_it_abstains_on_the_boundary() -> None:
    """Where both classes are as likely nothing is said, and nothing counts as right."""
    net = linear()
    x = torch.full((10, 12), 0.5)  # the boundary runs through the middle
    found = section(net, x, torch.zeros(10, dtype=torch.long), Smoothing(n=200, sigma=0.1))
    figures = dict(found.figures)
    assert figures["abstained"] >= 0.9
    assert figures["certified_accuracy"] + figures["abstained"] <= 1
    assert ABSTAIN == -1


def test_shares_add_up_and_the_curve_falls() -> None:
    """Right, abstained and wrong are everybody; certified accuracy never rises with the radius."""
    net, x = linear(), inside(40)
    y = labelled(net, x, wrong=8)
    found = section(net, x, y, Smoothing(n=100, examples=20, sigma=0.05))
    shares = [row[1] for row in table(found).rows]
    assert sum(shares[1:]) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(0.8)  # every second of 40: four of twenty are wrong
    line = curve(found, "certified")
    assert list(line.y) == sorted(line.y, reverse=True)
    assert line.y[0] == dict(found.figures)["certified_accuracy"]


def test_batches_do_not_matter() -> None:
    """Draws split over batches are all counted."""
    net, x = linear(), inside(3)
    y = labelled(net, x)
    for size in (1, 7, 1000):
        found = certify(data(net, x, y, size), torch.arange(3), sigma=1e-6, n0=10, n=100,
                        alpha=0.001, seed=0)  # fmt: skip
        assert found.radii == pytest.approx(1e-6 * norm.ppf(0.001 ** (1 / 100)))


def test_sigma_follows_the_range_or_must_be_given() -> None:
    """A quarter of the range; of unbounded inputs nobody knows it."""
    net, x = linear(), inside(5)
    y = labelled(net, x)
    found = section(net, 8 * x, y, Smoothing(n=20, n0=5), space=InputSpace(0.0, 8.0))
    assert dict(found.figures)["sigma"] == 2.0
    with pytest.raises(ConfigurationError, match="needs sigma="):
        looked(net, x, y, "smoothing", space=InputSpace())
    for options in ({"sigma": 0.0}, {"alpha": 0.0}, {"alpha": 1.0}, {"n": 0}, {"radii": [-1.0]}):
        with pytest.raises(ConfigurationError):
            Smoothing(**options)
    assert np.isfinite(found.figures[1][1])
