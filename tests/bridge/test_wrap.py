"""From a torch model and a few samples to the right estimator, with the traps refused."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from art.estimators.classification import PyTorchClassifier
from art.estimators.classification.hugging_face import HuggingFaceClassifierPyTorch
from art.estimators.regression.pytorch import PyTorchRegressor
from torch import nn

from artplus import AdversarialTrainerPlus, wrap
from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from tests.benchmarks.memory import watched
from tests.toys import arrays, net, same, weights

X, Y = arrays(12)
ONE = nn.Linear(6, 1)


def quiet(model, x=X, y=None, **options):
    return wrap(model, x, y, verbose=False, **options)


@pytest.mark.parametrize("form", ["numbers", "one-hot", "column", "list", "tensor", "none"])
def test_several_outputs_make_a_classifier(form):
    """Shape, classes and loss are read off the model and the samples."""
    y = {
        "numbers": Y,
        "one-hot": np.eye(3)[Y],
        "column": Y[:, None],
        "list": Y.tolist(),
        "tensor": torch.from_numpy(Y),
        "none": None,
    }[form]
    estimator = quiet(net(), X, y, clip_values=(0, 1))
    assert type(estimator) is PyTorchClassifier
    assert (estimator.nb_classes, estimator.input_shape) == (3, (6,))
    assert type(estimator.loss) is nn.CrossEntropyLoss
    assert estimator.clip_values.tolist() == [0, 1]


@pytest.mark.parametrize("y", [Y / 3.7, None])
def test_one_output_and_real_targets_make_a_regression(y):
    """Float targets, or none at all, beside one output."""
    estimator = quiet(ONE, X, y)
    assert type(estimator) is PyTorchRegressor and type(estimator.loss) is nn.MSELoss


def test_a_regression_loss_decides():
    """Whole-number targets are targets if the loss says so."""
    assert type(quiet(ONE, X, Y.astype(np.float32), criterion=nn.HuberLoss())) is PyTorchRegressor


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_one_output_and_two_classes_make_a_binary_classifier(dtype):
    """Binary cross-entropy on the logit, ready to be hardened."""
    y = (Y > 0).astype(dtype)
    model = nn.Linear(6, 1)
    estimator = quiet(
        model,
        X,
        y,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        clip_values=(0, 1),
    )
    assert type(estimator.loss) is nn.BCEWithLogitsLoss and estimator.nb_classes == 2
    history = AdversarialTrainerPlus(estimator, loss="trades", eps=0.02, verbose=False).fit(
        X, y, nb_epochs=1
    )
    assert 0 <= history["clean_accuracy"][0] <= 1


def test_what_is_given_is_kept():
    """Model, optimizer, loss and modes are the user's own objects, untouched."""
    model = net()
    model[1].eval()
    before, flags = weights(model), [m.training for m in model.modules()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    estimator = quiet(model, X, Y, optimizer=optimizer, criterion=loss)
    assert estimator.model is model
    assert estimator.optimizer is optimizer and estimator.loss is loss
    assert same(before, weights(model))
    assert [m.training for m in model.modules()] == flags


@pytest.mark.parametrize("std", [(0.2, 0.4), [0.2, 0.4], np.array([0.2, 0.4])])
def test_channel_statistics_broadcast_over_images(std):
    """(mean, std) of one number per channel normalise channels-first images."""
    x, _ = arrays(5, (2, 4, 4))
    model = nn.Sequential(nn.Flatten(), net(32)).eval()
    estimator = quiet(model, x, preprocessing=((0.3, 0.5), std))
    ready = (x - np.float32([0.3, 0.5]).reshape(2, 1, 1)) / np.float32([0.2, 0.4]).reshape(2, 1, 1)
    with torch.no_grad():
        expected = model(torch.from_numpy(ready.astype(np.float32))).numpy()
    np.testing.assert_allclose(estimator.predict(x), expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def transformers_like(monkeypatch):
    """A model class that lives in a package called transformers."""
    module = ModuleType("transformers.toy")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, x):
            return SimpleNamespace(logits=self.inner(x))

    Model.__module__ = "transformers.toy"
    monkeypatch.setitem(sys.modules, "transformers.toy", module)
    return Model


def test_a_transformers_model_gets_its_estimator(transformers_like):
    """Its logits are used, and building the estimator moves no batch statistics."""
    model = transformers_like().train()
    before = weights(model)
    estimator = quiet(model, X, Y, clip_values=(0, 1))
    assert type(estimator) is HuggingFaceClassifierPyTorch and estimator.nb_classes == 3
    assert same(before, weights(model)) and model.training
    assert estimator.predict(X).shape == (12, 3)


# What it says


def test_it_says_once_what_it_inferred(capsys):
    """One line on standard error, none on standard output."""
    wrap(net(), X, Y)
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    for part in ("PyTorchClassifier", "3 classes", "(6,)", "unbounded", "CrossEntropyLoss", "cpu"):
        assert part in err


def test_quiet_is_logged_all_the_same(capsys, caplog):
    """verbose=False leaves standard error alone; the line is in the log."""
    with caplog.at_level("INFO", logger="artplus"):
        wrap(net(), X, Y, clip_values=(0, 1), verbose=False)
    assert capsys.readouterr().err == ""
    assert "inputs in (0, 1)" in caplog.text


# Traps


class Overridden(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + 1


class Tuple(nn.Module):
    def forward(self, x):
        return x, x


class Pooled(nn.Module):
    """Forgets the batch axis."""

    def forward(self, x):
        return x.mean(0)


TRAPS = {
    "no module": (lambda: len, {}, UnsupportedEstimatorError, "takes a torch.nn.Module"),
    "own forward": (
        lambda: Overridden(nn.Linear(6, 3)),
        {},
        UnsupportedEstimatorError,
        "overrides forward",
    ),
    "softmax": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.Softmax(1)),
        {},
        UnsupportedEstimatorError,
        "Leave out the softmax",
    ),
    "tuple": (Tuple, {}, UnsupportedEstimatorError, "one row per input .12., got tuple"),
    "no batch": (Pooled, {}, UnsupportedEstimatorError, r"one row per input \(12\), got \(6,\)"),
    "wrong width": (
        lambda: net(5),
        {},
        DataError,
        r"failed on inputs of shape \(12, 6\)",
    ),
    "one input": (net, {"x": X[0]}, DataError, r"one input alone is x\[None\]"),
    "no inputs": (net, {"x": X[:0]}, DataError, "must be a batch"),
    "text": (net, {"x": X.astype(str)}, DataError, "numeric array"),
    "complex": (net, {"x": X.astype(complex)}, DataError, "real numbers"),
    "NaN": (net, {"x": np.where(X > 0.5, np.nan, X)}, DataError, "NaN"),
    "range": (net, {"x": X * 255, "clip_values": (0, 1)}, DataError, "0-255"),
    "labels": (net, {"y": Y + 1}, DataError, "start at 1"),
    "count": (net, {"y": Y[:5]}, DataError, "12 inputs, 5 labels"),
    "real targets": (net, {"y": Y / 3.7}, DataError, "is it a classifier"),
    "classes of one output": (
        lambda: nn.Linear(6, 1),
        {"y": np.arange(12) % 4},
        DataError,
        r"0..1, got values in \[0, 3\]",
    ),
    "mean alone": (net, {"preprocessing": 0.5}, ConfigurationError, r"pair \(mean, std\)"),
    "std of zero": (
        net,
        {"preprocessing": (0.5, 0.0)},
        ConfigurationError,
        "std must be finite and > 0",
    ),
    "optimizer": (
        net,
        {"optimizer": torch.optim.SGD(ONE.parameters(), lr=0.1)},
        ConfigurationError,
        "none of this model's parameters",
    ),
    "maps": (
        lambda: nn.Conv1d(1, 3, 1),
        {"x": X[:, None]},
        UnsupportedEstimatorError,
        r"logits \(batch, classes\), got \(12, 3, 6\)",
    ),
}


@pytest.mark.parametrize("case", TRAPS)
def test_traps_are_refused(case):
    """What would not work, or would work as another function, says why."""
    make, options, error, match = TRAPS[case]
    with pytest.raises(error, match=match):
        quiet(make(), **{"x": X, "y": Y} | options)


def test_a_model_that_is_wrapped_can_be_hardened_at_once():
    """The shortest way from a torch model to a robust one."""
    model = net()
    estimator = quiet(
        model, X, Y, optimizer=torch.optim.Adam(model.parameters()), clip_values=(0, 1)
    )
    before = weights(model)
    AdversarialTrainerPlus(estimator, eps=0.02, verbose=False).fit(X, Y, nb_epochs=1)
    assert not same(before, weights(model))


def test_a_whole_data_set_in_a_map_is_looked_at_and_not_copied(tmp_path):
    """The model sees the first 64 examples, the check all, and memory holds neither."""
    shape, path = (60_000, 512), tmp_path / "x.npy"
    x = np.lib.format.open_memmap(path, "w+", np.dtype("f4"), shape)
    x.flush()  # zeros, a sparse file
    seen = []

    class Spy(nn.Linear):
        def forward(self, given):
            seen.append(len(given))
            return super().forward(given)

    y, model = np.arange(len(x)) % 3, Spy(512, 3)
    quiet(model, np.load(path, mmap_mode="r")[:100], y[:100], clip_values=(0, 1))
    with watched(every=0.005) as gauge:
        estimator = quiet(model, np.load(path, mmap_mode="r"), y, clip_values=(0, 1))
    assert estimator.input_shape == (512,) and max(seen) == 64
    assert gauge.growth < x.nbytes / 2
    x[-1, -1] = 2.0
    with pytest.raises(DataError, match=r"must lie in clip_values.*\[0, 2\]"):
        quiet(model, np.load(path, mmap_mode="r"), y, clip_values=(0, 1))
