"""ART's attacks by name: each runs, in each norm it claims, as the object that it stands for."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings
from dataclasses import replace
from typing import Any

import art.attacks.evasion as evasion
import numpy as np
import pytest
import torch
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, PyTorchClassifier
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import nn

from artplus import evaluate
from artplus.bridge import by_name
from artplus.bridge.by_name import ART_NAMES, make_art_attack
from artplus.commands.listing import listing
from artplus.errors import ConfigurationError, UnknownNameError
from artplus.evaluation import Threat, list_attacks
from artplus.evaluation.named import attacks

pytestmark = pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")

SHAPE, CLASSES, N = (1, 6, 6), 3, 3
SHORT: dict[str, dict[str, Any]] = {
    "AutoAttack": {},
    "AutoConjugateGradient": {"max_iter": 3, "nb_random_init": 1},
    "BoundaryAttack": {"max_iter": 2, "init_size": 20, "num_trial": 3, "sample_size": 3},
    "BrendelBethgeAttack": {"steps": 2},
    "CarliniL2Method": {"max_iter": 4, "binary_search_steps": 2, "initial_const": 1.0},
    "CarliniLInfMethod": {"max_iter": 5, "largest_const": 0.05},
    "DeepFool": {"max_iter": 5},
    "ElasticNet": {"max_iter": 20, "binary_search_steps": 2, "initial_const": 10.0},
    "GeoDA": {"max_iter": 300, "sub_dim": 4},
    "HopSkipJump": {"max_iter": 1, "max_eval": 10, "init_eval": 5, "init_size": 20},
    "RescalingAutoConjugateGradient": {"max_iter": 3, "nb_random_init": 1},
    "SignOPTAttack": {"max_iter": 1, "query_limit": 300, "num_trial": 20, "k": 3},
    "SimBA": {"max_iter": 30},
    "SquareAttack": {"max_iter": 4},
    "UniversalPerturbation": {"max_iter": 1},
    "ZooAttack": {"max_iter": 3, "binary_search_steps": 1},
}
EVERY = [(name, norm) for name, entry in ART_NAMES.items() for norm in entry.kinds]


@pytest.fixture
def classifier() -> PyTorchClassifier:
    """Steep logits on small images, so that mistakes are near."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
    net[1].weight.data *= 5
    return PyTorchClassifier(net, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0))


@pytest.fixture
def data(classifier: PyTorchClassifier) -> tuple[Any, Any]:
    x = np.random.rand(N, *SHAPE).astype(np.float32)
    return x, classifier.predict(x).argmax(1)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same settings, but for budgets of a few steps."""
    for name, entry in list(ART_NAMES.items()):

        def settings(threat: Threat, entry: Any = entry) -> dict[str, Any]:
            return entry.settings(threat) | SHORT[entry.kinds[threat.norm]]

        monkeypatch.setitem(ART_NAMES, name, replace(entry, settings=settings))


def quiet(*args: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        for category in (UserWarning, RuntimeWarning):  # ART's own
            warnings.simplefilter("ignore", category)
        return evaluate(*args, progress=False, **options)


@pytest.mark.parametrize(("name", "norm"), EVERY)
def test_a_name_is_the_object_it_stands_for(
    name: str, norm: float, short: None, classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """In each norm it claims the name gives the report that the object gives, and runs through."""
    entry = ART_NAMES[name]
    if not hasattr(evasion, entry.kinds[norm]):
        pytest.skip("ART offers it only where numba is installed")
    options: dict[str, Any] = {"eps": 1.5 if norm < math.inf else 0.4, "norm": norm, "seed": 3}
    settings = entry.settings(Threat(options["eps"], norm, CLASSES, SHAPE))
    estimator = classifier
    if name == "simba":  # the object takes no logits
        net = nn.Sequential(classifier.model, nn.Softmax(1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            estimator = PyTorchClassifier(
                net, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0)
            )
    attack = getattr(evasion, entry.kinds[norm])(estimator, **settings)
    own = quiet(classifier, *data, attacks=[name], **options).attacks[0]
    given = quiet(estimator, *data, attacks={name: attack}, **options).attacks[0]
    assert "raised" not in (own.broken or "") and not own.eps_violations
    assert (own.broken, own.changed, own.flags) == (given.broken, given.changed, given.flags)
    assert own.max_norm == pytest.approx(given.max_norm, rel=1e-4)
    assert own.params["attack"] == f"art {entry.kinds[norm]}" == given.params["attack"]
    assert own.params.get("verbose", False) is False
    assert (own.norm, own.eps) == (norm, options["eps"])
    if name == "simba":
        assert own.params["variant"] == "dct"
    if own.correct is not None:
        assert np.array_equal(own.correct, given.correct)


def test_settings_fool(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """At their own settings the fast ones fool a model whose mistakes are near."""
    for name, norm in (("deepfool", 2), ("carlini", 2), ("acg", math.inf)):
        eps = 3.0 if norm == 2 else 0.5
        result = quiet(classifier, *data, attacks=[name], eps=eps, norm=norm).attacks[0]
        assert result.broken is None and result.accuracy < 0.5, name


def test_deepfool_by_name_crosses_a_linear_boundary(classifier: PyTorchClassifier) -> None:
    """The distance to a linear model's boundary is known: within 3 % of it nearly all fall."""
    x = np.full((20, *SHAPE), 0.5, np.float32)
    x += np.random.uniform(-0.1, 0.1, x.shape).astype(np.float32)
    logits = classifier.predict(x)
    y = logits.argmax(1)
    w = classifier.model[1].weight.detach().numpy()
    far = min(
        (logits[i, y[i]] - logits[i, k]) / np.linalg.norm(w[y[i]] - w[k])
        for i in range(20)
        for k in range(CLASSES)
        if k != y[i]
    )
    least = quiet(classifier, x, y, attacks=["deepfool"], eps=float(far) * 1.03, norm=2)
    none = quiet(classifier, x, y, attacks=["deepfool"], eps=float(far) * 0.97, norm=2)
    assert least.robust_accuracy < 1 == none.robust_accuracy


def test_fgm_is_fgsm(short: None, classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """ART's name for it, beside ART's attacks and suites in one list."""
    report = quiet(classifier, *data, attacks=["fgm", "fgsm", "hopskipjump"], eps=0.05)
    first, second, third = report.attacks
    assert np.array_equal(first.correct, second.correct) and first.params == second.params
    assert third.params["attack"] == "art HopSkipJump" and third.norm == math.inf
    assert report.verdict is None, "names alone are followed by no checks"


def test_a_norm_that_an_attack_lacks_is_refused(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """With what it is, what it knows and what to ask for."""
    message = r"'boundary' is ART's BoundaryAttack, which knows L2, not L∞; ask with norm=2"
    with pytest.raises(ConfigurationError, match=message):
        quiet(classifier, *data, attacks=["boundary"], eps=0.1)
    with pytest.raises(ConfigurationError, match="HopSkipJump, which knows L2 and L∞, not L1"):
        quiet(classifier, *data, attacks="hopskipjump", eps=0.1, norm=1)
    with pytest.raises(ConfigurationError, match=r"knows L∞, not L2; ask with norm=numpy\.inf"):
        quiet(classifier, *data, attacks="carlini_linf", eps=0.1, norm=2)


def test_what_a_name_needs_is_said(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """An ART estimator, a radius, classes, images, one number."""
    module, (x, y) = classifier.model, data
    with pytest.raises(ConfigurationError, match=r"is ART's .* evaluate artplus\.wrap\(model"):
        quiet(module, torch.from_numpy(x), torch.from_numpy(y), attacks=["hopskipjump"], eps=0.1)
    with pytest.raises(ConfigurationError, match="attack 'hopskipjump' needs eps="):
        quiet(classifier, *data, attacks=["hopskipjump"])
    regressor = PyTorchRegressor(nn.Linear(6, 1), nn.MSELoss(), (6,))
    with pytest.raises(ConfigurationError, match="attacks classifiers, and this is a regression"):
        quiet(regressor, np.zeros((2, 6)), np.zeros(2), attacks=["hopskipjump"], eps=0.1)
    with pytest.raises(ConfigurationError, match=r"takes images .*, the inputs are \(6,\)"):
        make_art_attack("simba", classifier, Threat(0.1, 2.0, 3, (6,)))
    with pytest.raises(ConfigurationError, match="take eps as one number, got ndarray"):
        make_art_attack("acg", classifier, Threat(np.ones(3), 2.0, 3, (6,)))


def test_a_class_that_art_lacks_names_what_is_missing(
    classifier: PyTorchClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ART leaves Brendel-Bethge out where numba is not installed."""
    monkeypatch.delattr(evasion, "BrendelBethgeAttack", raising=False)
    with pytest.raises(ConfigurationError, match="needs numba, .*pip install numba"):
        make_art_attack("brendel_bethge", classifier, Threat(0.1, 2.0, 3, SHAPE))


@pytest.mark.parametrize("ask", ["hopskipjumps", ["hopskipjumps"], {"mine": "hopskipjumps"}])
def test_unknown_names_are_answered_with_all_known(
    ask: Any, classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """The nearest over attacks, ART's attacks and suites, then each list."""
    with pytest.raises(UnknownNameError, match="Did you mean 'hopskipjump'") as error:
        quiet(classifier, *data, attacks=ask, eps=0.1)
    for name in (*list_attacks(), *ART_NAMES, "standard", "plus"):
        assert name in str(error.value)
    for near, name in (("AutoAttack", "art_autoattack"), ("standart", "standard"), ("pgdd", "pgd")):
        assert f"Did you mean '{name}'" in str(by_name.unknown(near))
    assert "Did you mean" not in str(by_name.unknown("zzz"))


def test_own_names_win(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """A registered attack keeps its name, whatever ART's is called."""
    assert not set(ART_NAMES) & set(list_attacks())
    attacks.register("deepfool")(lambda threat: attacks.get("fgsm")(threat))
    try:
        report = quiet(classifier, *data, attacks=["deepfool"], eps=0.05)
        assert report.attacks[0].params["attack"] == "PGD"
        assert "ART: DeepFool" not in listing(kind="attacks")
    finally:
        attacks._factories.pop("deepfool")


def test_a_black_box_is_attacked_by_name(short: None, data: tuple[Any, Any]) -> None:
    """An estimator that only predicts takes the names that need no more."""
    w = np.random.randn(36, CLASSES) * 3

    def predict(x: Any) -> Any:
        z = np.exp(x.reshape(len(x), -1) @ w)
        return z / z.sum(1, keepdims=True)

    box = BlackBoxClassifierNeuralNetwork(
        predict, SHAPE, CLASSES, clip_values=(0.0, 1.0), channels_first=True
    )
    x, y = data[0], predict(data[0]).argmax(1)
    report = quiet(box, x, y, attacks=["hopskipjump", "simba"], eps=3.0, norm=2)
    assert all(r.broken is None and r.accuracy < 1 for r in report.attacks)


def test_listed_as_arts_without_loading_it() -> None:
    """``artplus list attacks`` shows them and does not import ART."""
    shown = listing(kind="attacks")
    for name, entry in ART_NAMES.items():
        assert any(
            line.split() == [name, "ART:", *entry.about.split()] for line in shown.splitlines()
        )
    code = (
        "import sys; from artplus.commands.listing import listing; listing(); "
        "sys.exit('art' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
