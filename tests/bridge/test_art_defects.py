"""The defects of ART 1.20's trainers, one by one: this trainer has none of them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import art.config
import numpy as np
import pytest
import torch
from art.attacks import EvasionAttack
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    FastGradientMethod,
    ProjectedGradientDescent,
    SaliencyMapMethod,
)
from art.data_generators import NumpyDataGenerator
from art.defences.trainer import AdversarialTrainerTRADESPyTorch
from art.estimators.classification.hugging_face import HuggingFaceClassifierPyTorch
from torch import nn
from torch.optim import lr_scheduler

from artplus import AdversarialTrainerPlus
from artplus.errors import ConfigurationError
from artplus.losses import list_losses, make_loss
from artplus.training.callbacks import EMA, Callback
from tests.toys import arrays, classifier, cnn, net, same, weights

IMAGES = {"input_shape": (1, 8, 8)}


def trainer(estimator, attacks=None, **options):
    if attacks is None:
        options.setdefault("eps", 0.04)
    options.setdefault("verbose", False)
    return AdversarialTrainerPlus(estimator, attacks, seed=0, **options)


def pgd(estimator, **options):
    settings = {"eps": 0.04, "eps_step": 0.02, "max_iter": 2, "verbose": False}
    return ProjectedGradientDescent(estimator, **settings | options)


class Forwards(nn.Module):
    """Records every batch size and mode that passes."""

    def __init__(self, features: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.inner = net(features, classes)
        self.seen: list[tuple[int, bool]] = []

    def forward(self, x):
        self.seen.append((len(x), self.training))
        return self.inner(x)


class Watch(Callback):
    """Calls a function at one kind of event."""

    def __init__(self, event: str, what) -> None:
        setattr(self, event, what)


# 1. FBF trains in evaluation mode, and overwrites the learning rate.


def test_1_batch_statistics_and_dropout_work_in_training():
    """Training is in train mode: statistics move, dropout drops, the learning rate is kept."""
    model = net(dropout=0.5)
    estimator = classifier(model)
    dropped = []
    model[3].register_forward_hook(lambda m, i, o: dropped.append((m.training, (o == 0).sum())))
    trainer(estimator).fit(*arrays(), nb_epochs=1)
    assert model[1].num_batches_tracked > 0
    assert not torch.equal(model[1].running_mean, torch.zeros(8))
    assert any(training for training, _ in dropped)
    assert [g["lr"] for g in estimator.optimizer.param_groups] == [0.1]


@pytest.mark.parametrize("when", ["attack", "validation"])
def test_1_batch_statistics_stand_still_outside_training(when, monkeypatch):
    """Neither the attack nor the validation moves a buffer or a flag."""
    from artplus.training.callbacks import Validation
    from artplus.training.method import Method

    owner, name = {"attack": (Method, "craft"), "validation": (Validation, "measure")}[when]
    original = getattr(owner, name)
    model = net(dropout=0.5)
    calls = []

    def watched(self, *args, **kwargs):
        before = weights(model)
        modes = [m.training for m in model.modules()]
        result = original(self, *args, **kwargs)
        calls.append(same(before, weights(model)))
        assert [m.training for m in model.modules()] == modes
        return result

    monkeypatch.setattr(owner, name, watched)
    trainer(classifier(model)).fit(
        *arrays(), nb_epochs=2, batch_size=16, validation_data=arrays(12, seed=1)
    )
    assert calls and all(calls)


# 2. TRADES and FBF crash on, or misjudge, nn.Sequential.


def test_2_art_trades_crashes_on_a_sequential_cnn():
    """The reason: ART compares labels with the first layer's activations."""
    x, y = arrays(16, (1, 8, 8))
    estimator = classifier(cnn(), **IMAGES)
    theirs = AdversarialTrainerTRADESPyTorch(estimator, pgd(estimator), beta=6.0)
    with pytest.raises(RuntimeError, match="must match"):
        theirs.fit(x, np.eye(3, dtype=np.float32)[y], nb_epochs=1, batch_size=16)


@pytest.mark.parametrize("name", sorted({"at", "trades", "mart"}))
def test_2_a_sequential_cnn_works_and_its_live_accuracy_is_of_the_logits(name):
    """With a learning rate of zero the live accuracies are those of the frozen model."""
    x, y = arrays(30, (1, 8, 8))
    model = cnn()
    model[1].eval()
    estimator = classifier(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0), **IMAGES)
    history = trainer(estimator, loss=name, eps=0.0).fit(x, y, nb_epochs=1)
    accuracy = float((estimator.predict(x).argmax(1) == y).mean())
    assert history["clean_accuracy"] == [pytest.approx(accuracy)]
    assert history["adversarial_accuracy"] == [pytest.approx(accuracy)]


# 3. TRADES and AWP reject every current scheduler.

SCHEDULERS = {
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, factor=0.5, total_iters=2),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=2),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda t: 0.9**t),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=3),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 2]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda t: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 4),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, mode="max"),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o), lr_scheduler.ExponentialLR(o, 0.9)], [1]
    ),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 1),
}
ABSTRACT = {"LRScheduler", "_LRScheduler"}


def stock() -> list[str]:
    return sorted(
        name
        for name, thing in vars(lr_scheduler).items()
        if isinstance(thing, type)
        and hasattr(thing, "step")
        and name not in ABSTRACT
        and issubclass(thing, (lr_scheduler.LRScheduler, lr_scheduler.ReduceLROnPlateau))
    )


@pytest.mark.parametrize("name", stock())
def test_3_every_stock_scheduler_is_stepped(name, monkeypatch):
    """Each class of torch.optim.lr_scheduler: per batch where made for it, else per epoch."""
    if name not in SCHEDULERS:
        pytest.skip(f"a scheduler newer than this test: {name}")
    estimator = classifier()
    scheduler = SCHEDULERS[name](estimator.optimizer)
    steps = []
    original = type(scheduler).step
    monkeypatch.setattr(
        type(scheduler), "step", lambda self, *a, **k: (steps.append(a), original(self, *a, **k))
    )
    history = trainer(estimator, scheduler=scheduler).fit(
        *arrays(24), batch_size=8, nb_epochs=3, validation_data=arrays(9, seed=1)
    )
    assert len(steps) == (9 if name in {"OneCycleLR", "CyclicLR"} else 3)
    if name == "ReduceLROnPlateau":
        assert [a for (a,) in steps] == history["val_adversarial_accuracy"]


# 4. A scheduler given to ART's AdversarialTrainer is stepped at every batch.


@pytest.mark.parametrize("interval, steps", [("auto", 2), ("epoch", 2), ("batch", 6)])
def test_4_a_scheduler_steps_when_asked(interval, steps):
    """StepLR steps per epoch unless told to step per batch: the rate shows which."""
    estimator = classifier()
    scheduler = lr_scheduler.StepLR(estimator.optimizer, 1, gamma=0.5)
    trainer(estimator, scheduler=scheduler, scheduler_interval=interval).fit(
        *arrays(24), batch_size=8, nb_epochs=2
    )
    assert scheduler.get_last_lr() == [pytest.approx(0.1 * 0.5**steps)]


def test_4_a_factory_is_given_the_number_of_steps_and_stepped_per_batch():
    """A scheduler that must know the length of training can be made when it is known."""
    estimator = classifier()
    seen = []

    def factory(optimizer, steps):
        seen.append((optimizer is estimator.optimizer, steps))
        return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    trainer(estimator, scheduler=factory).fit(*arrays(24), batch_size=8, nb_epochs=2)
    assert seen == [(True, 6)]
    assert estimator.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


# 5. Unknown keywords, and validation data, are swallowed.


@pytest.mark.parametrize("where", ["init", "fit", "fit_generator"])
def test_5_unknown_keywords_raise(where):
    """A misspelt argument is an error at every door."""
    estimator = classifier()
    with pytest.raises(TypeError, match="nb_epoch"):
        if where == "init":
            trainer(estimator, nb_epoch=3)
        elif where == "fit":
            trainer(estimator).fit(*arrays(), nb_epoch=3)
        else:
            trainer(estimator).fit_generator(NumpyDataGenerator(*arrays(), 8), nb_epoch=3)


def test_5_validation_data_is_used():
    """Every epoch has its clean and robust validation accuracy."""
    history = trainer(classifier()).fit(*arrays(), nb_epochs=2, validation_data=arrays(12, seed=1))
    assert len(history["val_clean_accuracy"]) == len(history["val_adversarial_accuracy"]) == 2


# 6. APGD with loss_type runs once, on the initial model.


def test_6_apgd_is_never_stale(monkeypatch):
    """Each batch is attacked on the weights of that moment, also by APGD with its own loss."""
    from artplus.training.method import Method

    estimator = classifier()
    attack = AutoProjectedGradientDescent(
        estimator,
        eps=0.1,
        eps_step=0.05,
        max_iter=3,
        nb_random_init=1,
        loss_type="cross_entropy",
        verbose=False,
    )
    assert attack.estimator is not estimator  # why ART's trainer takes it for a foreign model
    on_weights = []
    original = Method.craft

    def watched(self, model, x, y, **options):
        (x_adv,) = original(self, model, x, y, **options)
        on_weights.append(weights(model.module))
        assert not torch.equal(x_adv, x)
        return (x_adv,)

    monkeypatch.setattr(Method, "craft", watched)
    trainer(estimator, attack, loss="at").fit(*arrays(24), batch_size=8, nb_epochs=2)
    assert len(on_weights) == 6
    assert not any(same(a, b) for a, b in zip(on_weights, on_weights[1:], strict=False))


# 7. OAAT's averaged weights never move; the optimizer is replaced; clipping is fixed to (0, 1).


def test_7_averaged_weights_move_and_are_handed_out():
    """After training the model holds the average: neither the start nor the last weights."""
    model = net()
    start, last = weights(model), {}
    keep = Watch("on_step_end", lambda state: last.update(weights(model)))
    trainer(classifier(model), callbacks=[EMA(0.9), keep]).fit(*arrays(), nb_epochs=3)
    name = "0.weight"
    given = weights(model)[name]
    assert not torch.equal(given, start[name])
    assert not torch.equal(given, last[name])


def test_7_the_optimizer_and_its_settings_are_the_users():
    """The object is the same afterwards, its groups and state live on."""
    model = net()
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[3].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    estimator = classifier(model, optimizer=optimizer)
    trainer(estimator).fit(*arrays(), nb_epochs=1)
    assert estimator.optimizer is optimizer
    assert [g["lr"] for g in optimizer.param_groups] == [0.2, 0.05]
    assert all("momentum_buffer" in s for s in optimizer.state.values())


def test_7_adversarial_examples_stay_in_the_clip_values():
    """The estimator's own range is respected, per feature, whatever it is."""
    low, high = np.full(6, -2.0, np.float32), np.linspace(0, 3, 6, dtype=np.float32)
    x, y = arrays()
    x = low + x * (high - low)
    estimator = classifier(clip_values=(low, high))
    ours = trainer(estimator, eps=1.0)
    (x_adv,) = ours.method.craft(ours._view.model, torch.from_numpy(x), torch.from_numpy(y))
    assert bool((x_adv >= torch.from_numpy(low)).all())
    assert bool((x_adv <= torch.from_numpy(high)).all())
    assert float((x_adv - torch.from_numpy(x)).abs().max()) > 0.5


# 8. Validation is preprocessed twice.


@pytest.mark.parametrize("per_channel", [False, True])
def test_8_validation_is_preprocessed_once(per_channel):
    """The logged accuracy is that of the classifier's own predict, mean and std included."""
    mean, std = (np.float32([0.3, 0.5]), np.float32([0.2, 0.4])) if per_channel else (0.3, 0.35)
    x, y = arrays(60, (2, 4, 4))
    model = nn.Sequential(nn.Flatten(), net(32))
    estimator = classifier(model, input_shape=(2, 4, 4), preprocessing=(mean, std))
    held_out = arrays(40, (2, 4, 4), seed=1)
    seen = []
    history = trainer(
        estimator,
        callbacks=[
            Watch(
                "on_epoch_end",
                lambda state: seen.append(
                    float((estimator.predict(held_out[0]).argmax(1) == held_out[1]).mean())
                ),
            )
        ],
    ).fit(x, y, nb_epochs=3, batch_size=20, validation_data=held_out)
    assert history["val_clean_accuracy"] == [pytest.approx(v) for v in seen]


# 9. Two BatchNorm updates a step; evaluation mode afterwards; frozen layers thawed.


@pytest.mark.parametrize("name", [n for n in list_losses() if not make_loss(n).task])
def test_9_batch_statistics_move_once_a_step(name):
    """Two-pass losses count one batch, as plain training does."""
    model = net()
    options = {} if make_loss(name).attacked else {"eps": None}
    trainer(classifier(model), loss=name, **options).fit(*arrays(24), batch_size=8, nb_epochs=1)
    assert int(model[1].num_batches_tracked) == 3


def test_9_frozen_layers_stay_frozen():
    """A BatchNorm in eval mode and a layer without gradients come out as they went in."""
    model = net()
    model.train()
    model[1].eval()
    for p in model[0].parameters():
        p.requires_grad_(False)
    before = weights(model)
    trainer(classifier(model)).fit(*arrays(), nb_epochs=2)
    after = weights(model)
    assert all(torch.equal(before[k], after[k]) for k in before if k[0] == "0" or "running" in k)
    assert not torch.equal(before["3.weight"], after["3.weight"])
    assert [p.requires_grad for p in model[0].parameters()] == [False, False]


@pytest.mark.parametrize("training", [True, False])
def test_9_every_layer_has_the_mode_it_had(training):
    """Training restores each sub-module's own flag, whatever the model was in."""
    model = net(dropout=0.2)
    estimator = classifier(model)
    model.train(training)
    model[3].train(not training)
    flags = [m.training for m in model.modules()]
    trainer(estimator).fit(*arrays(), nb_epochs=1, validation_data=arrays(9, seed=1))
    assert [m.training for m in model.modules()] == flags


def test_9_a_model_left_in_evaluation_mode_by_predict_is_trained_in_train_mode():
    """ART's predict leaves the model in eval; batch statistics move all the same."""
    model = net()
    estimator = classifier(model)
    estimator.predict(arrays()[0])
    trainer(estimator).fit(*arrays(), nb_epochs=1)
    assert int(model[1].num_batches_tracked) > 0


# 10. FBF fails on integer labels.


@pytest.mark.parametrize("form", ["int64", "int32", "uint8", "column", "one_hot", "list", "float"])
def test_10_labels_in_any_format_train_alike(form):
    """Class numbers, columns and one-hot rows give the same weights."""
    x, y = arrays()
    forms = {
        "column": y[:, None],
        "one_hot": np.eye(3, dtype=np.float32)[y],
        "list": y.tolist(),
        "float": y.astype(np.float64),
    }
    results = []
    for labels in (y, forms.get(form, y.astype(form) if "int" in form else None)):
        torch.manual_seed(0)
        estimator = classifier(net())
        trainer(estimator).fit(x, labels, nb_epochs=1)
        results.append(weights(estimator.model))
    assert same(*results)


# 11. The attack runs on batches of 32 whatever the trainer's are; bars are printed.


@pytest.mark.parametrize("translated", [True, False])
@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_11_the_attack_runs_on_the_training_batch(translated):
    """ART's PGD(batch_size=32) in a trainer with 48: every forward pass has 48 examples."""
    model = Forwards()
    estimator = classifier(model)
    attack = pgd(estimator, batch_size=32, random_eps=not translated)
    ours = trainer(estimator, attack)
    model.seen.clear()
    ours.fit(*arrays(96), batch_size=48, nb_epochs=1)
    attacked = {n for n, training in model.seen if not training}
    assert attacked - {1, 32} == {48}  # 32 and 1: the look before training
    assert sum(n == 48 for n, _ in model.seen) >= 2 * 2
    assert attack.batch_size == 32


@pytest.mark.parametrize("verbose", [True, False])
def test_11_nothing_is_printed_to_stdout(verbose, capfd):
    """Progress goes to standard error, and only if wanted; the attack's own bars are silent."""
    estimator = classifier()
    trainer(estimator, pgd(estimator, verbose=True), verbose=verbose).fit(
        *arrays(), nb_epochs=1, validation_data=arrays(9, seed=1)
    )
    out, err = capfd.readouterr()
    assert out == ""
    assert ("clean" in err) == verbose and "PGD" not in err


# 12. AWP and OAAT skip the processor of Hugging Face classifiers.


class Outputs(nn.Module):
    """As a transformers model: an object that holds the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, x):
        return SimpleNamespace(logits=self.inner(x))


def test_12_the_processor_is_used_in_training_attack_and_validation():
    """Every pass sees processed inputs, with gradients through the processor."""
    seen = []

    def processor(x):
        seen.append(x.requires_grad)
        return (x - 0.5) * 4

    model = Outputs().eval()  # ART's constructor runs it on one example
    estimator = classifier(model, kind=HuggingFaceClassifierPyTorch, processor=processor)
    passed = []
    model.inner[0].register_forward_pre_hook(
        lambda m, inputs: passed.append(float(inputs[0].detach().min()))
    )
    ours = trainer(estimator)
    seen.clear()
    history = ours.fit(*arrays(), nb_epochs=2, batch_size=16, validation_data=arrays(20, seed=1))
    assert len(seen) == len(passed) > 6 * 11 and any(seen)
    assert all(v < -0.5 for v in passed)
    x, y = arrays(20, seed=1)
    accuracy = float((estimator.predict(x).argmax(1) == y).mean())
    kept = int(np.argmax(np.add(history["val_adversarial_accuracy"], [0, 1e-9])))
    assert history["val_clean_accuracy"][kept] == pytest.approx(accuracy)


# 13. Targeted attacks, attacks whose y is a target, attacks that return tuples; files; seeds.


@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
@pytest.mark.parametrize("kind", ["targeted", "saliency"])
def test_13_targets_are_random_wrong_classes(kind, monkeypatch):
    """Attacks towards a class get wrong classes to reach, all of them in turn, never the truth."""
    estimator = classifier()
    attack = (
        pgd(estimator, targeted=True)
        if kind == "targeted"
        else SaliencyMapMethod(estimator, theta=0.1, gamma=0.5, verbose=False)
    )
    ours = trainer(estimator, attack, loss="at")
    view = ours._view.model
    aimed = []
    original = type(ours.method.attack).__call__

    def watched(self, model, x, y, **options):
        aimed.append(y)
        return original(self, model, x, y, **options)

    monkeypatch.setattr(type(ours.method.attack), "__call__", watched)
    x, y = (torch.from_numpy(v) for v in arrays())
    ours.method.craft(view, x, y)
    assert not bool((aimed[0] == y).any())
    assert {int(v) for v in (aimed[0] - y) % 3} == {1, 2}
    ours.fit(*arrays(12), nb_epochs=1)


def test_13_a_targeted_attack_moves_towards_its_targets():
    """The loss of the target class falls, so the direction is right."""
    from artplus.attacks import PGD

    estimator = classifier()
    ours = trainer(estimator, pgd(estimator, targeted=True, eps=0.3, eps_step=0.1), loss="at")
    assert isinstance(ours.method.attack, PGD) and ours.method.attack.targeted
    model = ours._view.model
    model.module.eval()
    x, target = torch.from_numpy(arrays()[0]), torch.full((48,), 1)
    x_adv = ours.method.attack(model, x, target)
    assert model.loss(model(x_adv), target).mean() < model.loss(model(x), target).mean()


@pytest.mark.parametrize("name", ["trades", "mse", "hinge"])
def test_13_a_targeted_attack_is_refused_where_it_would_minimise_the_inner_loss(name):
    """Descending a divergence would make examples easier: an error, with the way out."""
    estimator = classifier()
    attack = pgd(estimator, targeted=True)
    with pytest.raises(ValueError, match="inner='attack'"):
        trainer(estimator, attack, loss=name)
    trainer(estimator, attack, loss=name, inner="attack").fit(*arrays(12), nb_epochs=1)


class ReturnsPair(EvasionAttack):
    """As ART's patch attacks: generate returns (patch, mask)."""

    _estimator_requirements = ()

    def generate(self, x, y=None, **kwargs):
        return np.ones(x.shape[1:], np.float32), np.ones(x.shape[1:], bool)


class Patches(ReturnsPair):
    def apply_patch(self, x, scale, **kwargs):
        patched = x.copy()
        patched[:, :2] = 1.0
        return patched


@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_13_what_returns_a_tuple_is_applied_or_refused():
    """A patch is put on the images; a bare tuple is an error, never taken for examples."""
    x, y = (torch.from_numpy(v) for v in arrays(8))
    estimator = classifier()
    ours = trainer(estimator, Patches(estimator=estimator), loss="at")
    (x_adv,) = ours.method.craft(ours._view.model, x, y)
    assert bool((x_adv[:, :2] == 1).all()) and torch.equal(x_adv[:, 2:], x[:, 2:])

    before = weights(estimator.model)
    with pytest.raises(ConfigurationError, match="returns 2 arrays instead of adversarial"):
        trainer(estimator, ReturnsPair(estimator=estimator), loss="at").fit(*arrays(), nb_epochs=1)
    assert same(before, weights(estimator.model))


@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_13_nothing_is_written(tmp_path, monkeypatch):
    """Neither the working folder nor ART's own data folder gets a file."""
    monkeypatch.chdir(tmp_path)
    library = tmp_path / "library"
    library.mkdir()
    monkeypatch.setattr(art.config, "ART_DATA_PATH", str(library))
    home = Path(os.path.expanduser("~/.art"))
    before = sorted(p for p in home.rglob("*"))
    estimator = classifier()
    attacks = [pgd(estimator), FastGradientMethod(estimator, eps=0.04, minimal=True)]
    trainer(estimator, attacks, callbacks=[EMA()]).fit(
        *arrays(), nb_epochs=2, validation_data=arrays(9, seed=1)
    )
    assert sorted(p for p in tmp_path.rglob("*")) == [library]
    assert sorted(p for p in home.rglob("*")) == before


def test_13_the_callers_random_streams_are_given_back():
    """A seeded fit leaves torch's, numpy's and Python's generators where they were."""
    import random

    def states():
        return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()

    estimator = classifier(net(dropout=0.3))
    before = states()
    trainer(estimator, pgd(estimator, num_random_init=1)).fit(*arrays(), nb_epochs=1)
    assert states() == before
