"""What cannot work is refused before the first step, with a reason, and moves no weight."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.defences.preprocessor import GaussianAugmentation, JpegCompression, SpatialSmoothing
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from art.estimators.classification import BlackBoxClassifierNeuralNetwork, SklearnClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau, StepLR

from artplus import AdversarialTrainerPlus, fit, make_trainer
from artplus.errors import (
    ArtplusWarning,
    ConfigurationError,
    DataError,
    UnknownNameError,
    UnsupportedEstimatorError,
)
from artplus.training.callbacks import EarlyStopping, EpsWarmup, KeepBest
from tests.toys import arrays, classifier, cnn, net, regressor, same, weights

X, Y = arrays(24)


@contextmanager
def refused(module: nn.Module, error: type[Exception], match: str):
    """The block raises ``error`` and the module's weights, buffers and flags are as before."""
    before, flags = weights(module), [m.training for m in module.modules()]
    with pytest.raises(error, match=match):
        yield
    assert same(before, weights(module))
    assert [m.training for m in module.modules()] == flags


def train(estimator, x=X, y=Y, *, eps=0.04, attacks=None, fit_options=None, **options):
    trainer = AdversarialTrainerPlus(estimator, attacks, eps=eps, verbose=False, **options)
    return trainer.fit(x, y, nb_epochs=1, **(fit_options or {}))


def changed(values: np.ndarray, value: float, row: int = 20) -> np.ndarray:
    """``values`` with one entry replaced, beyond the examples that are tried first."""
    values = values.copy()
    values[row, 0] = value
    return values


BAD_X = {
    "no examples": (X[:0], DataError, "at least one example"),
    "wrong width": (X[:, :5], DataError, r"must have shape \(batch, 6\), got \(24, 5\)"),
    "one example": (X[0], DataError, "must have shape"),
    "object dtype": (X.astype(object), DataError, "numeric array, got dtype object"),
    "text": (X.astype(str), DataError, "numeric array, got dtype <U"),
    "bool": (X > 0.5, DataError, "real numbers, got torch.bool"),
    "complex": (X.astype(complex), DataError, "real numbers, got torch.complex128"),
    "ragged": ([[0.1, 0.2], [0.3]], DataError, "rectangular"),
    "NaN": (changed(X, np.nan), DataError, "1 of 24 examples hold NaN"),
    "infinite": (changed(X, np.inf), DataError, "1 of 24 examples hold NaN or infinity"),
    "bytes": (X * 255, DataError, r"clip_values \(0, 1\).*0-255"),
    "normalised": ((X - 0.5) / 0.2, DataError, r"Was it normalised"),
    "below": (changed(X, -0.1), DataError, r"must lie in clip_values"),
    "missing": (None, DataError, "numeric array"),
}


@pytest.mark.parametrize("case", BAD_X)
@pytest.mark.filterwarnings("ignore::artplus.errors.ConversionWarning")
def test_bad_inputs(case):
    """Inputs of a wrong shape, dtype, range or content are refused."""
    x, error, match = BAD_X[case]
    estimator = classifier()
    with refused(estimator.model, error, match):
        train(estimator, x)


def test_images_with_channels_last_or_without_channels():
    """The commonest wrong layouts get their remedy."""
    x, y = arrays(8, (1, 8, 8))
    estimator = classifier(cnn(), input_shape=(1, 8, 8))
    with refused(estimator.model, DataError, r"channels first, x.transpose\(0, 3, 1, 2\)"):
        train(estimator, x.transpose(0, 2, 3, 1), y)
    with refused(estimator.model, DataError, r"channel axis is missing: x\[:, None\]"):
        train(estimator, x[:, 0], y)


BAD_Y = {
    "missing": (None, DataError, "y is missing"),
    "too few": (Y[:-1], DataError, "24 inputs, 23 labels"),
    "too large": (np.where(np.arange(24) == 20, 3, Y), DataError, r"0..2, got values in \[0, 3\]"),
    "from one": (Y + 1, DataError, "start at 1"),
    "negative": (Y - 1, DataError, r"got values in \[-1"),
    "not whole": (Y + 0.5, DataError, "whole class numbers"),
    "NaN": (np.where(np.arange(24) == 20, np.nan, Y), DataError, "whole class numbers"),
    "bool": (Y > 0, DataError, "whole class numbers"),
    "text": (np.array(["a"] * 24), DataError, "y must be a numeric array, got dtype <U1"),
    "object": (Y.astype(object), DataError, "y must be a numeric array, got dtype object"),
    "one-hot of four": (np.eye(4)[Y], DataError, r"\(24, 3\), got \(24, 4\)"),
    "rows that sum to two": (2 * np.eye(3)[Y], DataError, "summing to 1"),
    "negative rows": (np.eye(3)[Y] * 3 - 2 / 3, DataError, "one-hot or soft"),
    "NaN rows": (np.eye(3)[Y] * np.nan, DataError, "one-hot or soft"),
    "images": (np.zeros((24, 2, 3)), DataError, "class numbers or"),
    "scalar": (1, DataError, "24 inputs, 1 labels"),
}


@pytest.mark.parametrize("case", BAD_Y)
def test_bad_labels(case):
    """Labels of a wrong count, kind, range or width are refused."""
    y, error, match = BAD_Y[case]
    estimator = classifier()
    with refused(estimator.model, error, match):
        train(estimator, X, y)


@pytest.mark.parametrize("y", [Y[:, None].astype(np.float32), np.eye(3, dtype=np.float32)[Y]])
def test_regression_targets_as_columns_or_rows(y):
    """Where ART would broadcast (n,) against (n, 1) silently, the remedy is named."""
    estimator = regressor()
    with refused(estimator.model, DataError, r"pass y.reshape\(-1\)"):
        train(estimator, X, y, loss="mix")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_regression_targets_that_are_no_numbers(bad):
    """One bad target, beyond the examples that are tried first, is found."""
    estimator = regressor()
    y = np.where(np.arange(24) == 20, bad, 1.0)
    with refused(estimator.model, DataError, "finite real numbers"):
        train(estimator, X, y)


@pytest.mark.parametrize("loss", ["mart", "hinge"])
def test_losses_over_classes_on_a_regressor(loss):
    """What compares class probabilities cannot train a regression."""
    estimator = regressor()
    with refused(estimator.model, ConfigurationError, "compares class probabilities"):
        train(estimator, X, Y.astype(np.float32), loss=loss)


# Estimators


class Overridden(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 2


class Halves(PreprocessorPyTorch):
    """Changes the number of examples while fitting."""

    def __init__(self):
        super().__init__(is_fitted=True, apply_fit=True, apply_predict=False)

    def forward(self, x, y=None):
        return torch.cat([x, x]), y


def with_softmax():
    return nn.Sequential(*net(), nn.Softmax(1))


def test_a_sequential_subclass_with_its_own_forward():
    """ART would train and attack another function than the user's."""
    model = Overridden(nn.Linear(6, 3))
    estimator = classifier(model)
    with refused(model, UnsupportedEstimatorError, "Derive the class from nn.Module"):
        train(estimator)


@pytest.mark.parametrize("kind", ["sklearn", "black box", "module", "nothing"])
def test_estimators_without_a_torch_module(kind):
    """Only what holds a torch module can be hardened; the message says which."""
    made = {
        "sklearn": lambda: SklearnClassifier(LogisticRegression().fit(X, Y)),
        "black box": lambda: BlackBoxClassifierNeuralNetwork(lambda x: x, (6,), 3),
        "module": net,
        "nothing": lambda: None,
    }[kind]()
    error = (UnsupportedEstimatorError, ValueError)
    with pytest.raises(error, match="holds a torch module|[Ee]stimator"):
        train(made)


@pytest.mark.parametrize("defence", ["jpeg", "smoothing", "augmentation"])
def test_preprocessing_outside_torch(defence):
    """A numpy defence passes no gradient: refused, not bypassed."""
    made = {
        "jpeg": lambda: JpegCompression(clip_values=(0, 1), channels_first=True),
        "smoothing": lambda: SpatialSmoothing(channels_first=True),
        "augmentation": lambda: GaussianAugmentation(augmentation=True),
    }[defence]()
    estimator = classifier(cnn(), input_shape=(1, 8, 8), preprocessing_defences=made)
    with refused(estimator.model, UnsupportedEstimatorError, "not written in torch"):
        train(estimator, *arrays(8, (1, 8, 8)))


def test_preprocessing_that_changes_the_number_of_examples():
    """Augmentation inside the estimator would pair inputs with wrong labels."""
    estimator = classifier(preprocessing_defences=Halves())
    with refused(estimator.model, UnsupportedEstimatorError, "turned 24 examples into 48"):
        train(estimator)


def test_no_optimizer():
    """An estimator made for prediction cannot train."""
    estimator = classifier(optimizer=None)
    with refused(estimator.model, ConfigurationError, "needs a torch optimizer, got NoneType"):
        train(estimator)


def test_optimizer_of_another_model():
    """A copied model leaves the optimizer behind."""
    other = net()
    estimator = classifier(optimizer=torch.optim.SGD(other.parameters(), lr=0.1))
    with refused(estimator.model, ConfigurationError, "none of this model's parameters"):
        train(estimator)


def test_optimizer_whose_parameters_are_all_frozen():
    """Also if it holds trainable parameters of somebody else."""
    model = net()
    for p in model.parameters():
        p.requires_grad_(False)
    parameters = [*model.parameters(), *net().parameters()]
    estimator = classifier(model, optimizer=torch.optim.SGD(parameters, lr=0.1))
    with refused(model, ConfigurationError, "is frozen"):
        train(estimator)


def test_an_optimizer_that_needs_a_closure():
    """LBFGS would need the adversarial examples to stand still while it searches."""
    model = net()
    estimator = classifier(model, optimizer=torch.optim.LBFGS(model.parameters()))
    with refused(model, ConfigurationError, "needs no closure"):
        train(estimator)


def test_weights_that_are_no_numbers():
    """A model that is broken already is said to be."""
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = torch.nan
    with refused(model, DataError, "NaN or infinite on the first examples"):
        train(classifier(model))


def test_a_softmax_at_the_end_is_warned_about():
    """Training goes on, since it may be meant, but not in silence."""
    estimator = classifier(with_softmax())
    with pytest.warns(ArtplusWarning, match="look like probabilities"):
        train(estimator)


def test_more_outputs_than_classes():
    """nb_classes and the model must agree."""
    estimator = classifier(net(classes=5))
    with refused(estimator.model, UnsupportedEstimatorError, "returns 5 logits"):
        train(estimator)


def test_one_output_under_cross_entropy():
    """One logit is for BCEWithLogitsLoss; the softmax of one output is always 1."""
    estimator = classifier(nn.Linear(6, 1), nb_classes=2)
    x, y = arrays(8, classes=2)
    with refused(estimator.model, UnsupportedEstimatorError, r"got \(8, 1\).*BCEWithLogitsLoss"):
        train(estimator, x, y)


@pytest.mark.parametrize("kind", ["tuple", "flat"])
def test_outputs_that_are_no_logits(kind):
    """A tuple, or one value per example, is no row of logits."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            z = self.inner(x)
            return (z, z) if kind == "tuple" else z[:, 0]

    model = Odd()
    with refused(model, UnsupportedEstimatorError, "must return"):
        train(classifier(model))


# Arguments

BAD_ARGUMENTS = {
    "unknown loss": ({"loss": "trade"}, UnknownNameError, "Did you mean 'trades'"),
    "loss of another type": ({"loss": nn.CrossEntropyLoss()}, ConfigurationError, "must be one of"),
    "unknown combine": ({"combine": "max"}, ConfigurationError, "cycle, average, worst"),
    "unknown inner": ({"inner": "own"}, ConfigurationError, "'objective' or 'attack'"),
    "negative eps": ({"eps": -0.1}, ConfigurationError, "eps must be a finite number >= 0"),
    "NaN eps": ({"eps": np.nan}, ConfigurationError, "eps must be a finite number >= 0"),
    "missing eps": ({"eps": None}, ConfigurationError, "needs an attack: give eps="),
    "text eps": ({"eps": "8/255"}, ConfigurationError, "eps"),
    "NaN lam": ({"lam": np.nan}, ConfigurationError, "lam must be a finite number >= 0"),
    "negative lam": ({"lam": -1}, ConfigurationError, "lam must be a finite number >= 0"),
    "norm three": ({"norm": 3}, ConfigurationError, "norm"),
    "norm as a word": ({"norm": "max"}, ConfigurationError, "norm must be numpy.inf, 2 or 1"),
    "smoothing of one": ({"label_smoothing": 1.0}, ConfigurationError, r"\[0, 1\)"),
    "mask of another shape": ({"mask": np.ones(5)}, ConfigurationError, "does not broadcast"),
    "weights for two classes": ({"class_weight": [1, 2]}, ConfigurationError, "3 finite numbers"),
    "negative weights": ({"class_weight": [1, -2, 1]}, ConfigurationError, "3 finite numbers"),
    "NaN weights": ({"class_weight": [1, np.nan, 1]}, ConfigurationError, "3 finite numbers"),
    "weights of zero": ({"class_weight": [0, 0, 0]}, ConfigurationError, "not all zero"),
    "callbacks": ({"callbacks": [print]}, ConfigurationError, "Callback objects"),
    "one callback": ({"callbacks": EpsWarmup(1)}, ConfigurationError, "must be a list"),
    "scheduler": ({"scheduler": 0.1}, ConfigurationError, "must be a torch learning-rate"),
    "scheduler class": ({"scheduler": StepLR}, ConfigurationError, "is the class StepLR"),
    "interval": (
        {"scheduler": lambda o, n: None, "scheduler_interval": "step"},
        ConfigurationError,
        "interval must be",
    ),
    "seed": ({"seed": -1}, ConfigurationError, "seed must be a whole number"),
    "seed of text": ({"seed": "a"}, ConfigurationError, "seed must be a whole number"),
    "no attacks": ({"attacks": []}, ConfigurationError, "empty list"),
    "attack class": ({"attacks": ProjectedGradientDescent}, ConfigurationError, "got the class"),
    "attack of text": ({"attacks": "pgd"}, ConfigurationError, "an attack must come from"),
    "eps without use": ({"loss": "input_gradient", "attacks": []}, ConfigurationError, "empty"),
    "selection blind": ({"callbacks": [KeepBest()]}, ConfigurationError, "no validation data"),
    "stopping blind": ({"callbacks": [EarlyStopping()]}, ConfigurationError, "no validation data"),
    "batch size": ({"fit_options": {"batch_size": 0}}, ConfigurationError, "batch_size must be"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments(case):
    """Names, numbers and combinations that cannot work."""
    options, error, match = BAD_ARGUMENTS[case]
    estimator = classifier()
    with refused(estimator.model, error, match):
        train(estimator, **options)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_bad_epochs(epochs):
    """Whole numbers from one on."""
    estimator = classifier()
    trainer = AdversarialTrainerPlus(estimator, eps=0.04, verbose=False)
    with refused(estimator.model, ConfigurationError, "epochs must be a whole number >= 1"):
        trainer.fit(X, Y, nb_epochs=epochs)


def pgd(estimator, **options):
    return ProjectedGradientDescent(
        estimator, **{"eps": 0.04, "eps_step": 0.02, "max_iter": 2, "verbose": False} | options
    )


def test_radius_and_norm_beside_an_attack_that_has_its_own():
    """Contradictions are refused, repetitions are not, and nothing is ignored."""
    estimator = classifier()
    with refused(estimator.model, ConfigurationError, "contradicts the attack's own radius 0.04"):
        train(estimator, attacks=pgd(estimator), eps=0.1)
    with refused(estimator.model, ConfigurationError, "norm=2 contradicts the attack's own norm"):
        train(estimator, attacks=pgd(estimator), eps=None, norm=2)
    train(estimator, attacks=pgd(estimator, norm=2), eps=0.04, norm=2)


def test_an_attack_beside_a_loss_that_needs_none():
    """It would be ignored."""
    estimator = classifier()
    with refused(estimator.model, ConfigurationError, "would be ignored; leave them out"):
        train(estimator, attacks=pgd(estimator), eps=None, loss="input_gradient")


def test_an_attack_on_another_model():
    """Examples against a stranger are not this model's worst."""
    estimator, other = classifier(), classifier()
    with refused(estimator.model, ConfigurationError, "attacks another model"):
        train(estimator, attacks=pgd(other), eps=None)


def test_an_attack_that_climbs_its_own_loss_beside_an_objective_with_one():
    """A mismatch needs the user's word."""
    from artplus.attacks import APGD

    estimator = classifier()
    attack = APGD(eps=0.04, loss="margin", steps=2)
    with refused(estimator.model, ConfigurationError, "accept the mismatch: inner='attack'"):
        train(estimator, attacks=attack, eps=None, loss="trades")
    train(estimator, attacks=attack, eps=None, loss="trades", inner="attack")


SCHEDULERS = {
    "another optimizer": (
        lambda o: StepLR(torch.optim.SGD(net().parameters(), lr=0.1), 1),
        "auto",
        "drives another optimizer",
    ),
    "too short": (lambda o: OneCycleLR(o, 0.1, total_steps=2), "auto", "2 of its 2 steps left"),
    "plateau per batch": (lambda o: ReduceLROnPlateau(o), "batch", "a figure of the epoch"),
}


@pytest.mark.parametrize("case", SCHEDULERS)
def test_schedulers_that_cannot_work(case):
    """Found before the first step, not in the middle of training."""
    make, interval, match = SCHEDULERS[case]
    estimator = classifier()
    with refused(estimator.model, ConfigurationError, match):
        train(
            estimator,
            scheduler=make(estimator.optimizer),
            scheduler_interval=interval,
            fit_options={"batch_size": 8},
        )


def test_a_cycle_that_was_used_up_by_an_earlier_fit():
    """A second fit is told that the schedule has ended, before any step."""
    estimator = classifier()
    scheduler = OneCycleLR(estimator.optimizer, 0.1, total_steps=4)
    train(estimator, scheduler=scheduler, fit_options={"batch_size": 8})
    with refused(estimator.model, ConfigurationError, "1 of its 4 steps left"):
        train(estimator, scheduler=scheduler, fit_options={"batch_size": 8})


def test_a_plateau_that_follows_validation_needs_some():
    """ReduceLROnPlateau(mode="max") without held-out data has nothing to follow."""
    estimator = classifier()
    scheduler = ReduceLROnPlateau(estimator.optimizer, mode="max")
    with refused(estimator.model, ConfigurationError, "give validation data"):
        train(estimator, scheduler=scheduler)


def test_a_warm_up_of_what_has_no_radius():
    """DeepFool goes as far as it must: no schedule can shorten it."""
    from art.attacks.evasion import DeepFool

    estimator = classifier()
    attack = DeepFool(estimator, max_iter=2, verbose=False)
    with (
        pytest.warns(ArtplusWarning, match="no translation"),
        refused(estimator.model, ConfigurationError, "no radius to scale"),
    ):
        train(estimator, attacks=attack, eps=None, loss="at", callbacks=[EpsWarmup(2)])


# Data holders


def pairs(n: int = 3):
    return [(torch.from_numpy(X[:8]), torch.from_numpy(Y[:8])) for _ in range(n)]


class Once:
    """Iterable, but the same iterator each time."""

    def __init__(self):
        self._it = iter(pairs())

    def __iter__(self):
        return self._it


HOLDERS = {
    "one-shot iterator": (lambda: iter(pairs()), "one-shot iterator"),
    "generator": (lambda: (p for p in pairs()), "one-shot iterator"),
    "empty list": (lambda: [], "gave no batch"),
    "dict batches": (lambda: [{"a": X, "b": Y}], "columns"),
    "bare batches": (lambda: [torch.from_numpy(X)], "must be a pair .x, y., .* got Tensor"),
    "number": (lambda: 3, "data must be"),
    "text": (lambda: "train.npz", "data must be"),
    "columns without labels": (lambda: {"x": X, "idx": Y}, "no column has a usual name of labels"),
    "bad batch": (lambda: [(X[:, :5], Y)], "must have shape"),
    "empty data set": (
        lambda: torch.utils.data.TensorDataset(torch.zeros(0, 6), torch.zeros(0).long()),
        "data set is empty",
    ),
    "array without labels": (lambda: X, "y is missing"),
}


@pytest.mark.parametrize("role", ["training", "validation"])
@pytest.mark.parametrize("case", HOLDERS)
def test_bad_holders_of_data(case, role):
    """Training and validation data alike: read once, empty, or not pairs."""
    make, match = HOLDERS[case]
    estimator = classifier()
    with refused(estimator.model, DataError, match):
        if role == "training":
            train(estimator, make(), None)
        else:
            train(estimator, fit_options={"validation_data": make()})


def test_data_that_can_be_read_only_once_ends_with_a_reason():
    """A second epoch without batches is an error, not a silent one."""
    estimator = classifier()
    trainer = AdversarialTrainerPlus(estimator, eps=0.04, verbose=False)
    with pytest.raises(DataError, match="no batch in epoch 2"):
        trainer.fit(Once(), nb_epochs=2)


def test_labels_beside_a_loader():
    """A loader yields its own."""
    estimator = classifier()
    loader = torch.utils.data.DataLoader(pairs()[0][0])
    with refused(estimator.model, DataError, "yields its own labels"):
        train(estimator, loader, Y)


def test_fit_generator_takes_art_generators_only():
    """A loader has its own door; a generator without a size has no epoch."""
    from art.data_generators import KerasDataGenerator

    estimator = classifier()
    trainer = AdversarialTrainerPlus(estimator, eps=0.04, verbose=False)
    with refused(estimator.model, DataError, "takes an ART DataGenerator, got list"):
        trainer.fit_generator(pairs())
    endless = KerasDataGenerator(iter(pairs()), size=None, batch_size=8)
    with refused(estimator.model, DataError, "has no size"):
        trainer.fit_generator(endless)


# Registered trainers


def test_unknown_trainers_and_arguments():
    """The known ones are listed."""
    estimator = classifier()
    with refused(estimator.model, UnknownNameError, "unknown trainer 'madry'"):
        make_trainer("madry", estimator, eps=0.1)
    with refused(estimator.model, ConfigurationError, "has no argument kappa; known: .*steps"):
        make_trainer("at", estimator, eps=0.1, kappa=1.0)
    with refused(estimator.model, ConfigurationError, "trainer 'trades': .*eps"):
        make_trainer("trades", estimator)
    with refused(estimator.model, ConfigurationError, "norm=2 contradicts"):
        make_trainer("fgsm_rs", estimator, eps=0.04, norm=2)


# Plain torch


class Summed(nn.CrossEntropyLoss):
    """A loss of one's own, whose sum cannot be undone."""

    def forward(self, input, target):
        return 2 * super().forward(input, target)


PLAIN = {
    "int inputs": (
        (torch.ones(8, 6).long(), torch.zeros(8).long()),
        {},
        DataError,
        "must be floats",
    ),
    "text": ((X.astype(str), Y), {}, DataError, "x must be a tensor or an array of numbers"),
    "wrong count": ((X, Y[:-1]), {}, DataError, "x has 24 examples, y has 23"),
    "late label": (
        (np.tile(X, (2, 1)), np.r_[Y, Y[:-1], 7]),
        {},
        DataError,
        r"must lie in 0..2, got values in \[0, 7\]",
    ),
    "NaN labels": ((X, Y * np.nan), {}, DataError, "y must be finite"),
    "range": ((X * 255, Y), {"bounds": (0.0, 1.0)}, DataError, "0-255"),
    "shape": ((X[:, :5], Y), {}, DataError, r"inputs of shape \(24, 5\): mat1 and mat2"),
    "module": ((X, Y), {"model": classifier}, ConfigurationError, "use AdversarialTrainerPlus"),
    "bounds": ((X, Y), {"bounds": (1.0, 0.0)}, ConfigurationError, "with low < high"),
    "eps and attack": ((X, Y), {"attack": "pgd"}, ConfigurationError, "not both"),
    "no optimizer": ((X, Y), {"optimizer": None}, ConfigurationError, "needs a torch optimizer"),
    "sum": ((X, Y), {"criterion": Summed(reduction="sum")}, ConfigurationError, "sum"),
}


@pytest.mark.parametrize("case", PLAIN)
def test_the_plain_door_refuses_alike(case):
    """artplus.fit checks before the first step too."""
    from artplus.attacks import PGD

    data, options, error, match = PLAIN[case]
    model = net()
    arguments = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "eps": 0.04,
        "epochs": 1,
        "progress": False,
    } | copy.copy(options)
    if arguments.get("attack"):
        arguments["attack"] = PGD(eps=0.04)
    if callable(options.get("model")):
        arguments["model"] = options["model"](model)
    with refused(model, error, match):
        fit(arguments.pop("model"), data, arguments.pop("optimizer"), **arguments)
