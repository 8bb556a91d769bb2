"""Keras models follow the mode of their wrapper, by an imitation and, where installed, for real."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus import keras_modules, modes
from artplus.model import LossModel
from artplus.training.callbacks import EMA, Callback, KeepBest, Validation
from tests.toys import classifier


class Value:
    """A Keras variable: its value is a parameter, whether it trains or not."""

    def __init__(self, value: Tensor, trainable: bool = False) -> None:
        self.value = nn.Parameter(value, requires_grad=trainable)


class Layer(nn.Module):
    """What matters of ``keras.Layer``: the mode is an argument, and layers are no sub-modules."""

    __module__ = "keras.src.layers.layer"

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_non_trainable_variables"] = []
        self.__dict__["_seed_generators"] = []
        self.__dict__["_inner"] = []

    def _flatten_layers(self):
        return [self, *(layer for inner in self._inner for layer in inner._flatten_layers())]

    def __call__(self, *args, training=None, **options):
        return self.call(*args, training=bool(training), **options)


class BatchNormalization(Layer):
    __module__ = "keras.src.layers.normalization"

    def __init__(self) -> None:
        super().__init__()
        self.mean = Value(torch.zeros(6))
        self._non_trainable_variables.append(self.mean)

    def call(self, x, training):
        if training:
            with torch.no_grad():
                self.mean.value.copy_(0.9 * self.mean.value + 0.1 * x.mean(0))
        return x - (x.mean(0) if training else self.mean.value)


class Dropout(Layer):
    __module__ = "keras.src.layers.regularization"

    def __init__(self) -> None:
        super().__init__()
        generator = Value(torch.tensor([7, 0], dtype=torch.int32).float())
        generator.value = nn.Parameter(torch.tensor([7, 0], dtype=torch.int32), requires_grad=False)
        self._seed_generators.append(type("SeedGenerator", (), {"state": generator})())

    def call(self, x, training):
        if training:
            with torch.no_grad():
                self._seed_generators[0].state.value[1] += 1
        return nn.functional.dropout(x, 0.5, training)


class Users(Layer):
    """A model of the user's: its own module is elsewhere, its parents are Keras's."""

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["norm"], self.__dict__["dropout"] = BatchNormalization(), Dropout()
        self.__dict__["_inner"] = [self.norm, self.dropout]
        self.kernel = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
        self.mean = self.norm.mean.value
        self.seed = self.dropout._seed_generators[0].state.value

    def call(self, x, training):
        return self.dropout(self.norm(x, training=training), training=training) @ self.kernel


def test_a_keras_model_is_known_by_its_classes():
    """Also a user's own subclass; torch's modules are left as they are."""
    assert keras_modules.is_keras(Users()) and keras_modules.is_keras(Dropout())
    assert Users.__module__ == __name__
    net = nn.Linear(2, 2)
    assert not keras_modules.is_keras(net) and keras_modules.as_torch(net) is net


def test_the_wrapper_passes_its_mode_on():
    """Dropout and batch statistics are on in train mode and off in eval mode, as set by flags."""
    model, x = Users(), torch.rand(8, 6)
    net = keras_modules.as_torch(model)
    assert net.training
    assert not torch.equal(net(x), net(x))
    mean = model.mean.clone()
    assert float(mean.abs().sum()) > 0
    with modes.attack_mode(net):
        assert torch.equal(net(x), model(x, training=False))
    assert torch.equal(model.mean, mean) and net.training
    assert torch.equal(net(x, training=False), model(x))


def test_the_wrapper_begins_in_the_models_mode():
    assert not keras_modules.as_torch(Users().eval()).training


def test_the_weights_are_the_models_own():
    """Trained in place, saved under one prefix."""
    model = Users()
    net = keras_modules.as_torch(model)
    assert [id(p) for p in net.parameters()] == [id(p) for p in model.parameters()]
    assert set(net.state_dict()) == {f"module.{name}" for name in model.state_dict()}


def test_statistics_and_seeds_are_found_wherever_they_are():
    """In layers that are no sub-modules for torch, each once, in a torch module too."""
    model = Users()
    for module in (model, keras_modules.as_torch(model), nn.Sequential(model, nn.ReLU())):
        (statistic,), (seed,) = keras_modules.statistics(module), keras_modules.seeds(module)
        assert statistic is model.mean and seed is model.seed
    assert keras_modules.statistics(nn.BatchNorm1d(3)) == []


def test_frozen_statistics_stand_still_in_train_mode():
    """The pass normalises by its own batch and leaves no trace."""
    model, x = Users(), torch.rand(8, 6)
    net = keras_modules.as_torch(model)
    net(x)
    before = model.mean.clone()
    with modes.frozen_batchnorm_stats(net):
        net(x + 3)
    assert torch.equal(model.mean, before)
    net(x + 3)
    assert not torch.equal(model.mean, before)


class Scripted(Validation):
    def __init__(self, *accuracies):
        super().__init__([], None)
        self._accuracies = accuracies

    def on_epoch_end(self, state):
        state.row["val_adversarial_accuracy"] = self._accuracies[state.epoch - 1]


def test_a_fit_trains_with_batch_statistics_and_copies_them():
    """Averages are of the weights, not of seeds; the best epoch has its own statistics."""
    model, means = Users(), []
    start = copy.deepcopy(model.state_dict())

    class Look(Callback):
        def on_epoch_end(self, state):
            means.append(model.mean.clone())
            assert torch.equal(state.averaged["module.mean"], model.mean)

    data = torch.rand(16, 6), torch.randint(3, (16,))
    artplus.fit(
        model, data, torch.optim.SGD([model.kernel], lr=0.1), eps=0.05,
        epochs=3, batch_size=8, progress=False,
        callbacks=[EMA(0.9), Look(), Scripted(0.1, 0.9, 0.2), KeepBest()],
    )  # fmt: skip
    assert not torch.equal(model.kernel, start["kernel"])
    assert not torch.equal(means[1], means[2]) and torch.equal(model.mean, means[1])
    assert int(model.seed[1]) > 0


def test_two_passes_draw_the_same_dropout():
    """Keras draws from seeds of its own, which are wound back with torch's stream."""
    model, x = LossModel(keras_modules.as_torch(Users())), torch.rand(8, 6)
    clean, adversarial = model.pair(x, x.clone())
    assert torch.equal(clean, adversarial)
    assert not torch.equal(clean, model(x))
    assert int(model.module.module.seed[1]) == 2


def test_an_estimator_of_a_keras_model_trains_in_train_mode():
    """Through ART, made by wrap or by hand."""
    x, y = torch.rand(16, 6).numpy(), torch.randint(3, (16,)).numpy()
    by_hand, wrapped = Users(), Users()
    estimators = [
        classifier(by_hand, optimizer=torch.optim.SGD([by_hand.kernel], lr=0.1)),
        artplus.wrap(
            wrapped, x, y, optimizer=torch.optim.SGD([wrapped.kernel], lr=0.1), verbose=False
        ),
    ]
    for estimator, model in zip(estimators, (by_hand, wrapped), strict=True):
        trainer = artplus.AdversarialTrainerPlus(estimator, eps=0.05, verbose=False)
        trainer.fit(x, y, nb_epochs=1)
        assert float(model.mean.detach().abs().sum()) > 0 and int(model.seed[1]) > 0


def test_keras_itself():
    """The same with the real library, on its torch backend."""
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "torch":
        pytest.skip("Keras runs on another backend here")
    layers = keras.layers
    model = keras.Sequential([layers.Input((6,)), layers.Dense(8), layers.BatchNormalization(),
                              layers.Dropout(0.5), layers.Dense(3)])  # fmt: skip
    net, x = keras_modules.as_torch(model), torch.rand(8, 6)
    statistics = keras_modules.statistics(net)
    places = {id(p) for p in net.parameters()}
    assert len(statistics) == 2 and {id(s) for s in statistics} <= places
    assert {id(s) for s in keras_modules.seeds(net)} <= places
    before = [s.clone() for s in statistics]
    with modes.frozen_batchnorm_stats(net):
        assert not torch.equal(net(x), net(x))
    assert all(map(torch.equal, statistics, before))
    with modes.attack_mode(net):
        assert torch.equal(net(x), net(x))
    artplus.fit(net, (x, torch.randint(3, (8,))), torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.1), eps=0.05, epochs=1,
        callbacks=[EMA(0.9)], progress=False)  # fmt: skip
    assert not any(map(torch.equal, statistics, before))
