"""``artplus.evaluate``: ART estimators and attacks, torch modules, names, mere predictors."""

from __future__ import annotations

import importlib
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    ShadowAttack,
    SpatialTransformation,
    SquareAttack,
)
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from art.estimators.classification import (
    BlackBoxClassifier,
    BlackBoxClassifierNeuralNetwork,
    PyTorchClassifier,
    SklearnClassifier,
)
from art.estimators.regression.pytorch import PyTorchRegressor
from sklearn.linear_model import LogisticRegression
from torch import nn

from artplus import _checks, evaluate
from artplus.attacks import PGD, Cycle, fgm
from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from artplus.evaluation import judge
from artplus.evaluation.analyses import Smoothing, Transfer
from artplus.model import LossModel

pytestmark = pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
N = 24


@pytest.fixture
def classifier() -> PyTorchClassifier:
    """A small convolution on 6x6 images with normalisation in ART's preprocessing."""
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 4))
    return PyTorchClassifier(
        module,
        nn.CrossEntropyLoss(),
        input_shape=(1, 6, 6),
        nb_classes=4,
        clip_values=(0.0, 1.0),
        preprocessing=(0.4, 0.2),
    )


@pytest.fixture
def data(classifier: PyTorchClassifier) -> tuple[Any, Any]:
    x = np.random.rand(N, 1, 6, 6).astype(np.float32)
    y = classifier.predict(x).argmax(1)
    y[:2] = (y[:2] + 1) % 4
    return x, y


def quiet(*args: Any, **options: Any) -> Any:
    return evaluate(*args, progress=False, **options)


def test_art_attacks_are_scored_as_art_scores_them(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """FGM without a random start has one answer: ART's own accuracy on its own examples."""
    x, y = data
    attack = FastGradientMethod(classifier, eps=0.05)
    report = quiet(classifier, x, y, attacks=[attack])
    own = classifier.predict(attack.generate(x, y=y)).argmax(1) == y
    clean = classifier.predict(x).argmax(1) == y
    assert np.array_equal(report.correct_clean, clean)
    assert report.clean_accuracy == clean.mean() == 22 / 24
    assert np.array_equal(report.correct["FastGradientMethod"], own & clean)
    assert (report.eps, report.norm) == (0.05, math.inf)


def test_attacks_may_be_mixed_and_repeated(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """Names, ART objects and artplus attacks in one list; a second of a kind is numbered."""
    pgd = ProjectedGradientDescent(classifier, eps=0.1, eps_step=0.05, max_iter=3, verbose=False)
    report = quiet(classifier, *data, attacks=["fgsm", pgd, PGD(eps=0.1), PGD(eps=0.1)], eps=0.1)
    names = ["fgsm", "ProjectedGradientDescent", "PGD", "PGD (2)"]
    assert [result.name for result in report.attacks] == names
    assert all(result.broken is None for result in report.attacks)
    named = quiet(classifier, *data, attacks={"mine": "fgsm", "theirs": pgd}, eps=0.1)
    assert list(named.correct) == ["mine", "theirs"]
    assert np.array_equal(named.correct["mine"], report.correct["fgsm"])
    single = quiet(classifier, *data, attacks=fgm(0.1))
    assert np.array_equal(single.correct["PGD"], report.correct["fgsm"])
    assert np.array_equal(
        quiet(classifier, *data, attacks="fgsm", eps=0.1).correct["fgsm"], report.correct["fgsm"]
    )


def test_a_suite_may_stand_in_a_list(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """Its attacks, then the others, and the checks that a suite gets; a second PGD is numbered."""
    own = PGD(eps=0.1, steps=3)
    report = quiet(classifier, *data, attacks=["demo", own, "pgd"], eps=0.1)
    names = ["fgsm", "pgd", "apgd", "square", "PGD", "pgd (2)"]
    assert [result.name for result in report.attacks] == names
    assert report.verdict is not None
    assert quiet(classifier, *data, attacks=[own, "pgd"], eps=0.1).verdict is None
    alone = quiet(classifier, *data, attacks="demo", eps=0.1)
    for name in names[:4]:
        assert np.array_equal(report.correct[name], alone.correct[name])
    with pytest.raises(ConfigurationError, match="suite 'quick' needs eps="):
        quiet(classifier, *data, attacks=["quick", own])


def test_default_is_the_quick_suite_and_needs_eps(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """A radius is never guessed."""
    report = quiet(classifier, *data, eps=0.1)
    names = [result.name for result in report.attacks]
    assert names == ["apgd_ce", "apgd_t", "fab_t", "square_chain"]
    assert report.only_survivors
    assert report.robust_accuracy <= min(result.accuracy for result in report.attacks)
    for attacks in ("quick", ["fgsm"], [DeepFool(classifier, verbose=False)]):
        with pytest.raises(ConfigurationError, match="needs eps="):
            quiet(classifier, *data, attacks=attacks)


def test_standard_attacks_survivors_only_unless_told(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """As AutoAttack does: each attack has what the ones before left; other suites have all."""
    report = quiet(classifier, *data, attacks="standard", eps=0.02)
    assert report.only_survivors
    robust = int(report.correct_clean.sum())
    for result in report.attacks:
        assert result.broken is None and result.attacked == robust
        robust = int(result.correct.sum())
    assert [result.name for result in report.attacks] == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert 0 < robust == int(report.correct_robust.sum()) < int(report.correct_clean.sum())
    assert not quiet(classifier, *data, attacks="fgsm", eps=0.02).only_survivors
    assert quiet(classifier, *data, attacks="fgsm", eps=0.02, only_survivors=True).only_survivors


def test_minimum_norm_attacks_are_judged_within_eps(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """DeepFool has no radius: only perturbations within eps count, in the asked-for norm."""
    x, y = data
    # The published overshoot: with ART's 1e-6, rounding decides on which side an example ends.
    attack = DeepFool(classifier, max_iter=20, epsilon=0.02, verbose=False)
    x_adv = attack.generate(x, y=None)
    lengths = np.linalg.norm((x_adv - x).reshape(N, -1), axis=1)
    clean = classifier.predict(x).argmax(1) == y
    wrong = classifier.predict(x_adv).argmax(1) != y
    # Midway between two neighbouring lengths, so that rounding decides about no length.
    middle = np.sort(lengths[clean & wrong])
    middle = middle[len(middle) // 4 : -(len(middle) // 4)]
    widest = np.diff(middle).argmax()
    eps = float(middle[widest : widest + 2].mean())
    assert np.abs(lengths - eps).min() > 1e-4 * eps
    report = quiet(classifier, x, y, attacks=[attack], eps=eps, norm=2, batch_size=N)
    expected = clean & ~(wrong & (lengths <= eps))
    assert 0 < expected.sum() < clean.sum()
    np.testing.assert_array_equal(report.correct["DeepFool"], expected)
    assert report.attacks[0].broken is None and report.attacks[0].flags
    assert report.attacks[0].params["attack"] == "art DeepFool"
    assert report.attacks[0].params["max_iter"] == 20
    other = quiet(classifier, x, y, attacks=[attack], eps=0.1)
    assert any("makes L2 small but is judged by L∞" in note for note in other.notes)
    assert other.attacks[0].norm == math.inf and other.attacks[0].max_norm <= 0.1001


@pytest.mark.parametrize(
    "make",
    [
        lambda c: SpatialTransformation(c, max_rotation=60, num_rotations=3, verbose=False),
        lambda c: SaliencyMapMethod(c, theta=0.9, verbose=False),
        lambda c: ShadowAttack(c, nb_steps=3, learning_rate=20.0, batch_size=2, verbose=False),
        lambda c: type("Mine", (SpatialTransformation,), {})(
            c, max_rotation=60, num_rotations=3, verbose=False
        ),
    ],
)
def test_attacks_of_no_norm_are_not_taken_for_robustness(
    make: Any, classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """A rotation, few features, shadows: far outside eps, they say nothing of what is within."""
    x, y = data
    attack = make(classifier)
    report = quiet(classifier, x[2:8], y[2:8], attacks=[attack], eps=0.01)
    assert "never came within eps 0.01 in L∞" in (report.attacks[0].broken or "")
    assert report.robust_accuracy is None
    assert any("makes no norm small" in note for note in report.notes)


def test_a_minimiser_of_another_norm_is_not_taken_for_robustness(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """DeepFool in its own L2 may find nothing within eps; in L∞ that shows nothing."""
    attack = DeepFool(classifier, max_iter=20, verbose=False)
    own = quiet(classifier, *data, attacks=[attack], eps=1e-4, norm=2)
    other = quiet(classifier, *data, attacks=[attack], eps=1e-4)
    assert own.attacks[0].broken is None and own.robust_accuracy == own.clean_accuracy
    assert "in L∞, which it does not make small" in (other.attacks[0].broken or "")
    assert other.robust_accuracy is None


def test_decision_based_art_attack_runs_on_numpy_2(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """HopSkipJump works through the bridge, with its parameters on record."""
    x, y = data
    attack = HopSkipJump(classifier, max_iter=1, max_eval=20, init_eval=5, verbose=False)
    report = quiet(classifier, x[:6], y[:6], attacks=[attack], eps=2.0, norm=2)
    assert report.attacks[0].broken is None
    assert report.attacks[0].params["max_eval"] == 20


def test_art_square_in_l1_is_caught(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """ART's Square accepts norm 1 and returns its input: 100 % robust, were it believed."""
    attack = SquareAttack(classifier, norm=1, eps=1.0, max_iter=5, verbose=False)
    report = quiet(classifier, *data, attacks=[attack, PGD(eps=1.0, norm=1)])
    assert "unchanged" in report.attacks[0].broken
    assert report.robust_accuracy == report.attacks[1].accuracy


def test_targeted_art_attack_counts_any_mistake(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """Targets are drawn among the wrong classes, and the report repeats."""
    attack = FastGradientMethod(classifier, eps=0.2, targeted=True)
    first = quiet(classifier, *data, attacks=[attack], seed=3)
    again = quiet(classifier, *data, attacks=[attack], seed=3)
    assert first.attacks[0].broken is None
    assert first.attacks[0].accuracy < first.clean_accuracy
    assert np.array_equal(first.correct_robust, again.correct_robust)


def test_own_radius_is_kept_and_said(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """eps= does not change an attack object; the report says so, and that the balls differ."""
    report = quiet(classifier, *data, attacks=[PGD(eps=0.02), "fgsm"], eps=0.1)
    assert [result.eps for result in report.attacks] == [0.02, 0.1]
    assert any("PGD has a radius of its own" in note for note in report.notes)
    assert any("different balls" in note for note in report.notes)
    same = quiet(classifier, *data, attacks=[PGD(eps=0.1), "fgsm"], eps=0.1)
    assert same.notes == ()
    feature = np.full((1, 6, 6), 0.1, dtype=np.float32)
    mixed = quiet(classifier, *data, attacks=[PGD(eps=feature)], eps=np.ones(3))
    assert any("radius of its own" in note for note in mixed.notes)


def test_estimator_is_left_as_it_was(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """Train flags and gradients survive attacks that go through ART."""
    module = classifier.model.train()
    attacks = [DeepFool(classifier, max_iter=2, verbose=False), "fgsm"]
    quiet(classifier, *data, attacks=attacks, eps=0.1)
    assert all(child.training for child in module.modules())
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


def test_torch_module_and_estimator_agree(data: tuple[Any, Any]) -> None:
    """The same network gives the same report through ART and without it; labels in any form."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    x, _ = data
    y = module(torch.from_numpy(x)).argmax(1).numpy()
    art = PyTorchClassifier(
        module, nn.CrossEntropyLoss(), input_shape=(1, 6, 6), nb_classes=4, clip_values=(0, 1)
    )
    options: dict[str, Any] = {"attacks": ["pgd", "apgd_dlr"], "eps": 0.05}
    through = quiet(art, x, np.eye(4)[y], **options)
    plain = quiet(module, torch.from_numpy(x), torch.from_numpy(y), clip_values=(0, 1), **options)
    for name in ("pgd", "apgd_dlr"):
        assert np.array_equal(through.correct[name], plain.correct[name])
    assert through.data_hash == plain.data_hash


def test_regression_through_both_doors() -> None:
    """A PyTorchRegressor and its module with MSELoss report the same losses."""
    module = nn.Linear(5, 1)
    x, y = np.random.rand(30, 5).astype(np.float32), np.random.rand(30).astype(np.float32)
    art = PyTorchRegressor(module, nn.MSELoss(), input_shape=(5,), clip_values=(0, 1))
    first = quiet(art, x, y, eps=0.1)
    second = quiet(module, x, y, eps=0.1, criterion=nn.MSELoss(), clip_values=(0, 1))
    assert first.robust_accuracy is None
    errors = module(torch.from_numpy(x))[:, 0].detach().numpy() - y
    assert first.clean_loss == pytest.approx((errors**2).mean())
    assert second.robust_loss == pytest.approx(first.robust_loss, rel=1e-3)
    assert second.clean_loss == pytest.approx(first.clean_loss, rel=1e-5)
    assert first.robust_loss > first.clean_loss


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_is_a_classifier_of_two(shape: tuple[int, ...]) -> None:
    """The same net through ART, bare, and with its logit z as the two logits (0, z)."""
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    two = nn.Sequential(net, nn.ConstantPad1d((1, 0), 0.0))
    x = torch.rand(30, 5)
    y = (net(x)[:, 0] > net(x).median()).float()
    options: dict[str, Any] = {"attacks": ["pgd", "fab_t"], "eps": 0.1}
    box = {"clip_values": (0.0, 1.0)}
    loss = nn.BCEWithLogitsLoss()
    bare = quiet(net, x, y.reshape(shape), criterion=loss, **box, **options)
    art = PyTorchClassifier(net, loss, input_shape=(5,), nb_classes=2, clip_values=(0, 1))
    through = quiet(art, x.numpy(), y.numpy(), **options)
    pair = quiet(two, x, y.long(), **box, **options)
    assert 0 < bare.robust_accuracy <= bare.clean_accuracy < 1
    own = nn.functional.binary_cross_entropy_with_logits(net(x)[:, 0], y, reduction="none")
    assert np.allclose(bare.losses_clean, own.detach().numpy(), atol=1e-6)
    for other in (through, pair):
        assert np.array_equal(bare.correct_robust, other.correct_robust)
        assert np.allclose(bare.losses_robust, other.losses_robust, atol=1e-5)
    labels = (x[:, :3] > 0.5).float()
    several_net = nn.Linear(5, 3)
    several = quiet(several_net, x, labels, attacks=["pgd"], eps=0.1, criterion=loss, **box)
    # An example is right if all its labels are: there are no classes, but there is right and wrong.
    right = ((several_net(x) > 0) == (labels > 0.5)).all(1)
    assert several.clean_accuracy == pytest.approx(float(right.float().mean()))
    assert several.predictions_clean is None


def test_an_estimator_that_votes_over_noise_is_named() -> None:
    """What is judged is the model inside; its noise is what smoothing certifies."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x = np.random.rand(6, 1, 4, 4).astype(np.float32)
    y = net(torch.from_numpy(x)).argmax(1).numpy()
    options: dict[str, Any] = {"input_shape": (1, 4, 4), "nb_classes": 3, "clip_values": (0, 1)}
    votes = PyTorchRandomizedSmoothing(net, nn.CrossEntropyLoss(), scale=0.07, **options)
    smoothing = Smoothing(n=50, examples=3)
    report = quiet(votes, x, y, attacks=["fgsm"], eps=0.01, analyses=smoothing)
    assert "predicts by a vote over noise" in report.notes[0]
    assert dict(report.sections[0].figures)["sigma"] == pytest.approx(0.07)
    scaled = PyTorchRandomizedSmoothing(
        net, nn.CrossEntropyLoss(), scale=0.07, preprocessing=(0.5, 0.5), **options
    )
    report = quiet(scaled, x, y, attacks=["fgsm"], eps=0.01, analyses=smoothing)
    assert dict(report.sections[0].figures)["sigma"] == 0.25  # its noise is in other units


def test_transfer_takes_estimators(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """Another estimator is asked with its own preprocessing, as its module alone would not be."""
    other = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    shifted = PyTorchClassifier(
        other, nn.CrossEntropyLoss(), (1, 6, 6), 4, clip_values=(0, 1), preprocessing=(0.5, 0.1)
    )
    transfer = Transfer(models={"other": shifted}, attack=fgm(0.05))
    report = quiet(classifier, *data, attacks=["fgsm"], eps=0.05, analyses=["confusion", transfer])
    matrix = report.sections[1].blocks[0]
    own = (shifted.predict(data[0]).argmax(1) == data[1]).mean()
    assert matrix.values[0] == pytest.approx((report.clean_accuracy, own))
    with pytest.raises(UnsupportedEstimatorError, match="got str"):
        quiet(classifier, *data, eps=0.05, analyses=Transfer(models={"other": "net"}))


def test_mask_holds_features_fixed(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """With everything masked nothing can move, and no attack is credited for that."""
    free = quiet(classifier, *data, attacks=["pgd"], eps=0.2)
    half = np.ones((1, 6, 6))
    half[:, :3] = 0
    masked = quiet(classifier, *data, attacks=["pgd"], eps=0.2, mask=half)
    assert masked.attacks[0].clip_violations == 0
    assert masked.robust_accuracy >= free.robust_accuracy
    moved = masked.examples.x_adv != masked.examples.x
    assert not moved[:, :, :3].any() and moved[:, :, 3:].any()
    closed = quiet(classifier, *data, attacks=["pgd"], eps=0.2, mask=np.zeros((1, 6, 6)))
    assert closed.robust_accuracy is None


@pytest.fixture
def iris() -> tuple[Any, Any, Any]:
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x = x.astype(np.float32)[::3]
    y = y[::3]
    model = SklearnClassifier(LogisticRegression(max_iter=500).fit(x, y), clip_values=(0, 8))
    return model, x, y


def test_predict_only_estimators_are_judged_by_their_answers(iris: tuple[Any, Any, Any]) -> None:
    """ART attacks built on it and Square work on an estimator without a torch module."""
    model, x, y = iris
    attack = FastGradientMethod(model, eps=0.3)
    report = quiet(model, x, np.eye(3)[y], attacks=[attack])
    expected = model.predict(attack.generate(x, y=np.eye(3)[y])).argmax(1) == y
    clean = model.predict(x).argmax(1) == y
    assert np.array_equal(report.correct_robust, expected & clean)
    own = -np.log(model.predict(x)[np.arange(len(y)), y])
    assert np.allclose(report.losses_clean, own, atol=1e-4)
    assert report.attacks[0].params["attack"] == "art FastGradientMethod"
    box = BlackBoxClassifier(lambda v: model.predict(v), (4,), 3, clip_values=(0, 8))
    from artplus.attacks import Square

    seen = quiet(box, x, y, attacks=[Square(eps=0.3, queries=50)])
    assert seen.attacks[0].broken is None and seen.robust_accuracy < 1
    white = quiet(box, x, y, attacks=["pgd"], eps=0.3)
    assert "no gradient" in white.attacks[0].broken


def test_predict_only_estimators_that_answer_logits() -> None:
    """Answers that are no probabilities are taken as logits; without clip_values unbounded."""
    weights = np.random.randn(4, 3).astype(np.float32)
    box = BlackBoxClassifier(lambda v: v @ weights, (4,), 3)
    x = np.random.randn(20, 4).astype(np.float32)
    y = (x @ weights).argmax(1)
    from artplus.attacks import Square

    report = quiet(box, x, y, attacks=[Square(eps=0.5, queries=30)])
    logits = torch.from_numpy(x @ weights)
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none")
    assert np.allclose(report.losses_clean, loss.numpy(), atol=1e-5)


def test_predict_only_estimators_refuse_what_needs_a_module(iris: tuple[Any, Any, Any]) -> None:
    """A gradient suite, a mask, a stranger's attack and a regression are refused or flagged."""
    model, x, y = iris
    with pytest.raises(ConfigurationError, match="only predicts"):
        quiet(model, x, y, attacks="quick", eps=0.3)
    other = SklearnClassifier(LogisticRegression(max_iter=500).fit(x, y))
    stranger = quiet(model, x, y, attacks=[FastGradientMethod(other, eps=0.3)])
    assert "attacks another estimator" in stranger.attacks[0].broken
    masked = quiet(model, x, y, attacks=[FastGradientMethod(model, eps=0.3)], mask=np.ones(4))
    assert "mask" in masked.attacks[0].broken
    from art.estimators.regression.scikitlearn import ScikitlearnRegressor
    from sklearn.linear_model import LinearRegression

    regressor = ScikitlearnRegressor(LinearRegression().fit(x, y))
    with pytest.raises(UnsupportedEstimatorError, match="only ART classifiers"):
        quiet(regressor, x, y, attacks=["pgd"], eps=0.1)
    with pytest.raises(DataError, match="must have shape"):
        quiet(model, x[:, :2], y, attacks=[FastGradientMethod(model, eps=0.3)])


def test_what_cannot_be_judged_is_refused(
    classifier: PyTorchClassifier, data: tuple[Any, Any]
) -> None:
    """Each wrong argument has its own message, before any attack runs."""
    x, y = data
    module = classifier.model
    strange = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    other = PyTorchClassifier(strange, nn.CrossEntropyLoss(), (1, 6, 6), 4)
    fgsm = FastGradientMethod(classifier, eps=0.1)
    for target, options, message in (
        (
            classifier,
            {"criterion": nn.CrossEntropyLoss(), "eps": 0.1},
            "criterion= is for a torch.nn",
        ),
        (classifier, {"clip_values": (0, 1), "eps": 0.1}, "bounds= is for a torch.nn"),
        (classifier, {"attacks": [FastGradientMethod(other)]}, "attacks another model"),
        (classifier, {"attacks": [FastGradientMethod]}, "objects, got the class"),
        (classifier, {"attacks": [Cycle([PGD(eps=0.1)])]}, "is for training"),
        (classifier, {"attacks": [3]}, "must come from"),
        (classifier, {"attacks": "qick", "eps": 0.1}, "Did you mean 'quick'"),
        (classifier, {"attacks": ["pdg"], "eps": 0.1}, "Did you mean 'pgd'"),
        (classifier, {"attacks": [], "eps": 0.1}, "at least one"),
        (classifier, {"eps": 0.1, "norm": 3}, "norm must be"),
        (classifier, {"eps": -1}, "eps must be"),
        (module, {"attacks": [fgsm]}, "attacks an ART estimator"),
        (module, {"attacks": ["quick"]}, "suite 'quick' needs eps="),
        (module, {"eps": 0.1, "clip_values": (1, 0)}, r"must be \(low, high\)"),
    ):
        with pytest.raises((ConfigurationError, ValueError), match=message):
            quiet(target, x, y, **options)
    with pytest.raises(UnsupportedEstimatorError, match="got str"):
        quiet("model", x, y, eps=0.1)
    with pytest.raises(DataError, match="cannot take inputs of shape"):
        quiet(module, x[:, 0, 0], y, eps=0.1)
    with pytest.raises(DataError, match="y must be a numeric array, got dtype <U3"):
        quiet(module, x, np.array(["cat"] * N), eps=0.1)

    class Several(nn.Module):
        def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return module(z), z

    with pytest.raises(DataError, match="must return one tensor of predictions, got tuple"):
        quiet(Several(), x, y, eps=0.1)
    with pytest.raises(DataError, match="at least one example"):
        quiet(module, x[:0], y[:0], eps=0.1)


@pytest.mark.parametrize("attacks", ["quick", ["square"], [PGD(eps=0.1)]], ids=str)
def test_one_output_under_cross_entropy_is_refused(attacks: Any) -> None:
    """Its softmax is 1 whatever the input: said at once, at every door, whatever the labels."""
    x = np.random.default_rng(0).random((8, 4)).astype(np.float32)
    y = (x[:, 0] > 0.5).astype(int)
    module = nn.Linear(4, 1)
    estimator = PyTorchClassifier(module, nn.CrossEntropyLoss(), (4,), 2, clip_values=(0, 1))
    remedy = r"at least two classes, got \(1, 1\).*BCEWithLogitsLoss"
    for target, labels in ((module, y), (module, 0 * y), (module, y.astype(float)), (estimator, y)):
        with pytest.raises(UnsupportedEstimatorError, match=remedy):
            quiet(target, x, labels, attacks=attacks, eps=0.1)
    with pytest.raises(UnsupportedEstimatorError, match=remedy):
        judge(LossModel(module), x, 0 * y, {"pgd": PGD(eps=0.1)}, progress=False)
    clipped = {"criterion": nn.BCEWithLogitsLoss(), "clip_values": (0.0, 1.0)}
    assert quiet(module, x, y, attacks=attacks, eps=0.1, **clipped).clean_accuracy is not None


@pytest.mark.parametrize("kind", [BlackBoxClassifier, BlackBoxClassifierNeuralNetwork])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_black_box_must_answer_for_every_class(columns: int, kind: type) -> None:
    """ART copies one column to all classes and then all tie; here that is refused."""
    x, y = np.random.default_rng(0).random((8, 4)).astype(np.float32), np.arange(8) % 2
    box = kind(lambda z: z[:, :columns], (4,), 2, clip_values=(0, 1))
    with pytest.raises(UnsupportedEstimatorError, match=rf"\(batch, 2\), got \(1, {columns}\)"):
        quiet(box, x, y, attacks=["square"], eps=0.1)


def test_unknown_keywords_raise(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """A misspelt option is not swallowed."""
    with pytest.raises(TypeError, match="atacks"):
        evaluate(classifier, *data, atacks="quick")


def test_slow_path_is_said(classifier: PyTorchClassifier, data: tuple[Any, Any]) -> None:
    """An attack that runs through ART's generate warns that it is slow."""
    from artplus.errors import SlowPathWarning

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(SlowPathWarning, match="DeepFool"):
            quiet(classifier, *data, attacks=[DeepFool(classifier, verbose=False)], eps=0.1)


def test_inputs_are_scanned_once_and_hashed_once(
    classifier: PyTorchClassifier, data: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An estimator's as a module's; values that cannot be meant are still found."""
    x, y = data
    calls: list[str] = []
    judge_module = importlib.import_module("artplus.evaluation.judge")
    for module, name in ((_checks, "inputs"), (judge_module, "data_hash")):
        plain = getattr(module, name)

        def counted(*args: Any, called: str = name, plain: Any = plain, **options: Any) -> Any:
            calls.append(called)
            return plain(*args, **options)

        monkeypatch.setattr(module, name, counted)
    for model in (classifier, classifier.model):
        calls.clear()
        options = {} if model is classifier else {"bounds": (0.0, 1.0)}
        evaluate(model, x, y, eps=0.1, attacks=["fgm"], progress=False, **options)
        assert sorted(calls) == ["data_hash", "inputs"]
    for wrong, match in ((np.nan, "finite"), (7.0, "must lie in")):
        spoilt = np.array(x)
        spoilt[3, 0] = wrong
        with pytest.raises(DataError, match=match):
            evaluate(classifier, spoilt, y, eps=0.1, attacks=["fgm"], progress=False)
