"""ART's DeepZ and IBP estimators: judged, attacked and bounded as the network they were made of."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool, FastGradientMethod
from art.estimators.certification.deep_z import PytorchDeepZ
from art.estimators.certification.interval import PyTorchIBPClassifier
from torch import Tensor, nn

import artplus
from artplus import AdversarialTrainerPlus
from artplus.bridge.estimator import view
from artplus.errors import UnsupportedEstimatorError
from artplus.evaluation.analyses.interval import exact_layers
from artplus.evaluation.data import EvaluationData
from artplus.interval_bounds import bounds
from tests.toys import classifier

pytestmark = pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
KINDS = pytest.mark.parametrize("kind", [PytorchDeepZ, PyTorchIBPClassifier])
N, SHAPE, EPS = 24, (2, 6, 6), 0.06


class Net(nn.Module):
    """What ART converts: children in the order of their calls, flattened between."""

    def __init__(self, *, convolves: bool = True) -> None:
        super().__init__()
        self.convolves = convolves
        if convolves:
            self.first: nn.Module = nn.Conv2d(2, 3, 3, stride=2, padding=1)
        else:
            self.first = nn.Linear(27, 27)
        self.act = nn.ReLU()
        self.last = nn.Linear(27, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.first(x)).flatten(1))


def converted(kind: Any, *, convolves: bool = True, **options: Any) -> tuple[Any, Any, Any, Any]:
    """The estimator, the same network in a plain one, and data that it mostly gets right."""
    torch.manual_seed(0)
    net = Net(convolves=convolves)
    shape = SHAPE if convolves else (27,)
    x = np.random.default_rng(0).random((N, *shape)).astype(np.float32)
    with torch.no_grad():
        net.last.bias -= net(torch.from_numpy(x)).mean(0)
        y = net(torch.from_numpy(x)).argmax(1).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = classifier(net, kind=kind, input_shape=shape, **options)
    return own, classifier(net, input_shape=shape, **options), x, y


@KINDS
@pytest.mark.parametrize("options", [{}, {"preprocessing": (0.3, 0.5)}], ids=["raw", "scaled"])
def test_predictions_are_the_estimators_for_points(kind: Any, options: Any) -> None:
    """In the mode that ART begins in its own predict fails; the view predicts in every mode."""
    own, plain, x, _ = converted(kind, **options)
    with pytest.raises((ValueError, AttributeError), match="abstract|astype"):
        own.predict(x)
    with torch.no_grad():
        found = view(own).model(torch.from_numpy(x)).numpy()
    assert own.model.forward_mode == "abstract"
    own.model.set_forward_mode("concrete")
    assert np.allclose(found, own.predict(x), atol=1e-6)
    assert np.allclose(found, plain.predict(x), atol=1e-6) and np.ptp(found) > 0.1


@KINDS
def test_it_is_judged_as_its_network(kind: Any) -> None:
    """By attacks of artplus and of ART, translated or run by it; the mode comes back."""
    own, plain, x, y = converted(kind)
    reports = []
    for estimator in (own, plain):
        attacks = {
            "pgd": "pgd",
            "translated": FastGradientMethod(estimator, eps=EPS),
            "by ART": FastGradientMethod(estimator, eps=EPS, eps_step=EPS / 4, minimal=True),
            "DeepFool": DeepFool(estimator, 5, epsilon=0.02, nb_grads=3, verbose=False),
        }
        reports.append(
            artplus.evaluate(estimator, x, y, attacks=attacks, eps=EPS, norm=2, progress=False)
        )
    for one, two in zip(*(report.attacks for report in reports), strict=True):
        assert one.broken is None and one.accuracy == two.accuracy
        assert (one.forwards, one.backwards) == (two.forwards, two.backwards)
    assert reports[0].robust_accuracy < reports[0].clean_accuracy == 1.0
    assert own.model.forward_mode == "abstract"
    if kind is PyTorchIBPClassifier:
        assert own.model.ops[0].dense_weights.requires_grad


@KINDS
def test_a_suite_with_checks_runs_on_it(kind: Any) -> None:
    """The attempt that used to end inside ART."""
    own, _, x, y = converted(kind)
    report = artplus.evaluate(own, x, y, eps=EPS, progress=False, analyses=["interval"])
    assert not report.broken and report.verdict is not None
    assert any("ART's certified" in note for note in report.sections[0].notes)
    figures = dict(report.sections[0].figures)
    assert figures["certified_accuracy"] <= report.robust_accuracy


@KINDS
def test_its_interval_bounds_are_those_of_the_plain_layers(kind: Any) -> None:
    """And, of the estimator that knows intervals, ART's own."""
    own, _, x, y = converted(kind)
    seen = view(own)
    inputs = torch.from_numpy(x)
    data = EvaluationData(seen.model, inputs, torch.from_numpy(y), seen.space, 8,
                          torch.device("cpu"),
                          3)  # fmt: skip
    low, high = (inputs - EPS).clamp(0, 1).double(), (inputs + EPS).clamp(0, 1).double()
    least, most = bounds(exact_layers(data), low, high)
    assert bool((least < most).all())
    if kind is PyTorchIBPClassifier:
        found = own.predict_intervals(np.stack([low, high], 1).astype(np.float32), is_interval=True)
        assert np.allclose(found[:, 0], least, atol=1e-5)
        assert np.allclose(found[:, 1], most, atol=1e-5)


@pytest.mark.parametrize(
    "kind, convolves", [(PytorchDeepZ, True), (PyTorchIBPClassifier, False)], ids=str
)
def test_what_shares_its_weights_can_be_hardened(kind: Any, convolves: bool) -> None:
    """The estimator predicts by what was trained."""
    own, _, x, y = converted(kind, convolves=convolves)
    own.model.set_forward_mode("concrete")
    before = own.predict(x)
    AdversarialTrainerPlus(own, eps=0.02, verbose=False).fit(x, y, nb_epochs=2, batch_size=8)
    after = own.predict(x)
    assert np.abs(after - before).max() > 1e-3
    with torch.no_grad():
        assert np.allclose(after, view(own).model(torch.from_numpy(x)).numpy(), atol=1e-6)


def test_interval_convolutions_cannot_be_hardened() -> None:
    """ART predicts by matrices made at construction; said before any step."""
    own, _, _, _ = converted(PyTorchIBPClassifier)
    with pytest.raises(UnsupportedEstimatorError, match="construct the certified estimator from"):
        AdversarialTrainerPlus(own, eps=0.02)


@KINDS
def test_a_layer_of_somebodys_own_is_refused(kind: Any) -> None:
    """ART lets its users build networks of certified layers; unknown ones are named."""
    own, _, x, y = converted(kind)
    own.model.ops.append(nn.Softplus())
    with pytest.raises(
        UnsupportedEstimatorError, match="Softplus is a certified layer that is not"
    ):
        artplus.evaluate(own, x, y, attacks=["pgd"], eps=EPS, progress=False)
