"""The trainer on ART estimators: several attacks, masks, data holders, recipes, tasks, models."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent, SquareAttack
from art.data_generators import NumpyDataGenerator, PyTorchDataGenerator
from art.defences.trainer import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from artplus import AdversarialTrainerPlus, list_trainers, make_trainer, register_trainer
from artplus.attacks import APGD, PGD, Average, WorstOf
from artplus.errors import ConfigurationError, SlowPathWarning
from artplus.losses import list_losses, make_loss, mix
from artplus.trainers import Recipe, trainers
from artplus.training.callbacks import Callback, EpsWarmup
from tests.toys import arrays, classifier, net, regressor, same, weights, wrong

X, Y = arrays()
ANY_TASK = [name for name in list_losses() if not make_loss(name).task]


def trainer(estimator, attacks=None, **options):
    if attacks is None and options.get("loss") != "input_gradient":
        options.setdefault("eps", 0.04)
    return AdversarialTrainerPlus(estimator, attacks, **{"seed": 0, "verbose": False} | options)


def fitted(start: nn.Module, data=(X, Y), *, fit_options=None, attacks=None, **options):
    """Weights after a fit from ``start``."""
    estimator = classifier(copy.deepcopy(start))
    made = attacks(estimator) if callable(attacks) else attacks
    trainer(estimator, made, **options).fit(
        *data, **{"nb_epochs": 2, "batch_size": 16} | (fit_options or {})
    )
    return weights(estimator.model)


def test_it_is_an_art_trainer():
    """isinstance, get_classifier and classifier work as ART's users expect."""
    estimator = classifier()
    ours = trainer(estimator)
    assert isinstance(ours, Trainer)
    assert ours.get_classifier() is estimator and ours.classifier is estimator


def test_hardening_helps():
    """Robust accuracy under another attack rises against plain training."""
    x, y = arrays(400)
    held_out = arrays(200, seed=1)
    accuracies = []
    for eps in (0.0, 0.12):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
        estimator = classifier(model, optimizer=torch.optim.Adam(model.parameters(), lr=0.02))
        trainer(estimator, loss="at", eps=eps).fit(x, y, nb_epochs=15, batch_size=50)
        attack = ProjectedGradientDescent(
            estimator, eps=0.12, eps_step=0.03, max_iter=10, verbose=False
        )
        x_adv = attack.generate(held_out[0], held_out[1])
        accuracies.append(float((estimator.predict(x_adv).argmax(1) == held_out[1]).mean()))
    assert accuracies[1] > accuracies[0] + 0.05


# Several attacks


def pair(estimator):
    return [
        FastGradientMethod(estimator, eps=0.04, batch_size=7),
        ProjectedGradientDescent(estimator, eps=0.2, eps_step=0.1, norm=2, max_iter=3),
    ]


def test_cycle_takes_one_attack_a_batch_in_turn():
    """ART's way with a list: the default, by the number of the batch."""
    ours = trainer(classifier(), [PGD(eps=0.02, steps=1), PGD(eps=0.03, steps=2)])
    view = ours._view.model
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    moved = []
    for step in range(4):
        (x_adv,) = ours.method.craft(view, x, y, step=step)
        moved.append(float((x_adv - x).abs().max()))
    assert moved == [pytest.approx(v, abs=1e-4) for v in (0.02, 0.03, 0.02, 0.03)]


def test_average_is_the_mean_of_the_terms():
    """With two attacks the loss is the mean of their two losses."""
    estimator = classifier(nn.Linear(6, 3))
    attacks = [PGD(eps=0.02, random_start=False), PGD(eps=0.3, norm=2, random_start=False)]
    x, y = torch.from_numpy(X), torch.from_numpy(Y)

    def loss(given):
        ours = trainer(estimator, given, combine="average", loss="mix", lam=2.0)
        return ours.method.loss(ours._view.model, x, y)

    torch.testing.assert_close(loss(attacks), (loss(attacks[0]) + loss(attacks[1])) / 2)
    assert float(loss(attacks[0])) != pytest.approx(float(loss(attacks[1])))


def test_worst_keeps_per_example_what_hurts_most():
    """Each example is that of one of the attacks, with the larger loss unless one errs."""
    estimator = classifier(nn.Linear(6, 3))
    attacks = [PGD(eps=0.05, random_start=False), PGD(eps=0.1, norm=2, random_start=False)]
    ours = trainer(estimator, attacks, combine="worst", loss="at")
    assert isinstance(ours.method.attack, WorstOf)
    view = ours._view.model
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    (worst,) = ours.method.craft(view, x, y)
    each = [attack(view, x, y, space=ours.method.space) for attack in attacks]
    own = torch.stack([view.loss(view(z), y) for z in each])
    errs = torch.stack([wrong(view, view(z), y) for z in each])
    best = torch.where(errs.any(0), torch.where(errs, own, -torch.inf), own).amax(0)
    torch.testing.assert_close(view.loss(view(worst), y), best)


@pytest.mark.parametrize("combine", ["cycle", "average", "worst"])
def test_lists_of_art_attacks_train_under_every_combination(combine):
    """ART attacks of two norms, translated, with one BatchNorm update a step."""
    model = net()
    estimator = classifier(model)
    ours = trainer(estimator, pair(estimator), combine=combine, loss="mix")
    history = ours.fit(X, Y, nb_epochs=2, batch_size=16, validation_data=arrays(9, seed=1))
    assert len(history) == 2 and int(model[1].num_batches_tracked) == 6


def test_a_combination_passes_as_it_is():
    """artplus.attacks.Average is taken, whatever combine says."""
    both = Average([PGD(eps=0.02), PGD(eps=0.03)])
    assert trainer(classifier(), both).method.attack is both


def test_a_start_off_x_also_for_combined_attacks():
    """Under TRADES a PGD that begins at x would not move: combined ones get noise as well."""
    start = nn.Linear(6, 3)
    attack = PGD(eps=0.05, random_start=False)
    ours = trainer(classifier(start), [attack, attack], combine="worst", loss="trades")
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    (x_adv,) = ours.method.craft(ours._view.model, x, y)
    assert float((x_adv - x).abs().amax(1).min()) > 0.01


def test_the_mask_is_kept_in_training_and_on_the_slow_path():
    """Masked features are equal in every adversarial example, for translated attacks."""
    mask = np.array([1, 0, 1, 0, 1, 1])
    ours = trainer(classifier(), mask=mask)
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    (x_adv,) = ours.method.craft(ours._view.model, x, y)
    changed = (x_adv != x).any(0)
    assert changed.tolist() == [True, False, True, False, True, True]
    ours.fit(X, Y, nb_epochs=1)


@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_an_attack_that_would_ignore_the_mask_is_refused():
    """Square has no mask, so it must not be given one."""
    x, y = arrays(8, (1, 8, 8))
    estimator = classifier(nn.Sequential(nn.Flatten(), net(64)), input_shape=(1, 8, 8))
    attack = SquareAttack(estimator, eps=0.04, max_iter=2, verbose=False)
    before = weights(estimator.model)
    ours = trainer(estimator, attack, loss="at", mask=np.ones((8, 8)))
    with pytest.raises(ConfigurationError, match="would ignore the mask"):
        ours.fit(x, y, nb_epochs=1)
    assert same(before, weights(estimator.model))


def test_an_attack_through_generate_says_that_it_is_slow_and_trains():
    """Square runs through ART's own code, on the present weights."""
    x, y = arrays(16, (1, 8, 8))
    estimator = classifier(nn.Sequential(nn.Flatten(), net(64)), input_shape=(1, 8, 8))
    attack = SquareAttack(estimator, eps=0.3, max_iter=2, verbose=False)
    with pytest.warns(SlowPathWarning, match="SquareAttack"):
        ours = trainer(estimator, attack, loss="at")
    history = ours.fit(x, y, nb_epochs=1, validation_data=(x, y))
    assert "val_adversarial_accuracy" in history.rows[0]


# Data in every form


def as_loader():
    return DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), 16)


HOLDERS = {
    "tuple": lambda: ((X, Y), None),
    "tensors": lambda: (torch.from_numpy(X), torch.from_numpy(Y)),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "data set": lambda: (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), None),
    "loader": lambda: (as_loader(), None),
    "batches": lambda: (list(as_loader()), None),
    "numpy generator": lambda: (NumpyDataGenerator(X, Y, 16), None),
    "torch generator": lambda: (PyTorchDataGenerator(as_loader(), len(X), 16), None),
}
SHUFFLED = {"tuple", "tensors", "lists", "data set"}


@pytest.mark.parametrize("case", HOLDERS)
@pytest.mark.filterwarnings("ignore::artplus.errors.ConversionWarning")
def test_every_holder_of_data_gives_every_example_once_an_epoch(case):
    """Arrays, sets, loaders and generators; the same order means the same weights."""
    seen = []

    class StepOutput(Callback):
        def on_step_end(self, state):
            seen.append(state.step)

    start = net()
    data = HOLDERS[case]()
    got = fitted(start, data, callbacks=[StepOutput()])
    assert len(seen) == 6
    if case not in SHUFFLED:
        reference = fitted(start, (list(as_loader()), None))
        assert same(got, reference)
    elif case != "tuple":
        assert same(got, fitted(start, ((X, Y), None)))


@pytest.mark.parametrize("labels", ["numbers", "one-hot"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_fit_generator_takes_labels_in_any_format(kind, labels):
    """ART's own fit_generator fails on integer labels; this one equals fit on the batches."""
    y = Y if labels == "numbers" else np.eye(3, dtype=np.float32)[Y]
    generator = (
        NumpyDataGenerator(X, y, 16)
        if kind == "numpy"
        else PyTorchDataGenerator(
            DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), 16), len(X), 16
        )
    )
    start = net()
    estimator = classifier(copy.deepcopy(start))
    history = trainer(estimator).fit_generator(
        generator, nb_epochs=2, validation_data=generator, keep_best=False
    )
    assert len(history["val_adversarial_accuracy"]) == 2
    if kind == "torch":
        assert same(weights(estimator.model), fitted(start, (list(as_loader()), None)))


def test_a_shuffling_generator_is_aligned_with_its_epochs():
    """The look before training takes no batch away: each epoch has every example once."""
    generator = NumpyDataGenerator(X, Y, 16, shuffle=True)
    seen = []

    class StepOutput(Callback):
        def on_epoch_begin(self, state):
            seen.append([])

    model = net()
    model.register_forward_pre_hook(
        lambda m, inputs: seen[-1].append(inputs[0]) if m.training and seen else None
    )
    trainer(classifier(model), loss="at", eps=0.0, callbacks=[StepOutput()]).fit_generator(
        generator, nb_epochs=2
    )
    for epoch in seen:
        rows = torch.cat(epoch)
        assert sorted(rows[:, 0].tolist()) == sorted(X[:, 0].tolist())


@pytest.mark.parametrize("form", ["tuple", "list", "batches", "two batches", "loader", "set"])
def test_validation_data_in_every_form(form):
    """The figures are the same, whatever holds the data."""
    x, y = arrays(16, seed=1)
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    held_out = {
        "tuple": (x, y),
        "list": [x, y],
        "batches": [tensors],
        "two batches": [tuple(t[:8] for t in tensors), tuple(t[8:] for t in tensors)],
        "loader": DataLoader(TensorDataset(*tensors), 16),
        "set": TensorDataset(*tensors),
    }[form]
    clean = [
        trainer(classifier(copy.deepcopy(start))).fit(
            X, Y, nb_epochs=2, batch_size=16, validation_data=data
        )["val_clean_accuracy"]
        for start in [net()]
        for data in ((x, y), held_out)
    ]
    assert clean[0] == clean[1]


# Labels and weights


def test_soft_labels_train_by_their_own_cross_entropy():
    """The first loss is that of the soft rows; equal rows of one-hot equal class numbers."""
    model = net()
    model.eval()
    soft = np.full((48, 3), 0.1, np.float32) + 0.7 * np.eye(3, dtype=np.float32)[Y]
    estimator = classifier(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.0))
    model.train()
    model[1].eval()
    history = trainer(estimator, loss="at", eps=0.0).fit(X, soft, nb_epochs=1)
    with torch.no_grad():
        expected = F.cross_entropy(model(torch.from_numpy(X)), torch.from_numpy(soft))
    assert history["loss"] == [pytest.approx(float(expected), rel=1e-5)]


@pytest.mark.parametrize("smoothing, weight", [(0.0, [1.0, 2.0, 0.5]), (0.2, None)])
def test_smoothing_and_class_weights_are_torchs_at_eps_zero(smoothing, weight):
    """Adversarial training at radius 0 equals plain training by torch's own weighted loss."""
    start = net()
    ours = fitted(
        start,
        loss="at",
        eps=0.0,
        label_smoothing=smoothing,
        class_weight=weight,
        fit_options={"batch_size": 48},
    )
    reference = copy.deepcopy(start).train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    loss = nn.CrossEntropyLoss(
        weight=None if weight is None else torch.tensor(weight), label_smoothing=smoothing
    )
    for _ in range(2):
        optimizer.zero_grad()
        loss(reference(torch.from_numpy(X)), torch.from_numpy(Y)).backward()
        optimizer.step()
    for name, value in weights(reference).items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ANY_TASK)
def test_smoothing_and_class_weights_compose_with_every_loss(name):
    """Each objective takes both, and they make a difference."""
    start = net()
    plain = fitted(start, loss=name)
    assert not same(plain, fitted(start, loss=name, class_weight=[1.0, 2.0, 3.0]))
    if name == "trades":
        assert not same(plain, fitted(start, loss=name, label_smoothing=0.2))


def test_a_custom_loss_that_reduces_by_itself():
    """It trains; what needs a weight per example is refused."""

    def mean_loss(predictions, y):
        return -(y * predictions.log_softmax(1)).sum(1).mean()

    start = net()
    a, b = copy.deepcopy(start), copy.deepcopy(start)
    trainer(classifier(a, loss=mean_loss), loss="mix").fit(X, Y, nb_epochs=1)
    trainer(classifier(b), loss="mix").fit(X, Y, nb_epochs=1)
    for name, value in weights(a).items():
        torch.testing.assert_close(weights(b)[name], value, rtol=1e-3, atol=1e-4)
    with pytest.raises(ConfigurationError, match="class_weight needs a loss per example"):
        trainer(classifier(a, loss=mean_loss), class_weight=[1, 2, 3]).fit(X, Y, nb_epochs=1)


# Registered trainers


CLASSIFYING = [
    name
    for name in list_trainers()
    if name != "fare" and not trainers.get(name).__module__.endswith(".text")
]
"""Those that need neither token ids nor features."""


@pytest.mark.parametrize("name", CLASSIFYING)
def test_every_registered_trainer_trains(name):
    """Each recipe, by name, with validation at a radius."""
    estimator = classifier()
    before = weights(estimator.model)
    made = make_trainer(name, estimator, eps=0.04, seed=0, verbose=False)
    history = made.fit(X, Y, nb_epochs=2, batch_size=16, validation_data=arrays(9, seed=1))
    assert not same(before, weights(estimator.model))
    assert "val_adversarial_accuracy" in history.rows[-1]


def test_recipes_take_their_own_arguments_and_the_trainers():
    """λ, steps and norm go to the recipe; λ of a recipe without one, and the rest, to us."""
    estimator = classifier()
    made = make_trainer("trades", estimator, eps=0.1, norm=2, lam=2.5, steps=4, verbose=False)
    attack = made.method.attack
    assert (attack.eps, attack.norm, attack.steps) == (0.1, 2, 4)
    assert attack.random_start is False and made.method.objective.lam == 2.5
    assert make_trainer("at", estimator, eps=0.1, lam=0.5).method.objective.lam == 0.5
    own = EpsWarmup(1)
    fast = make_trainer("fgsm_rs", estimator, eps=0.04, callbacks=[own])
    assert fast.method.attack.step_size == pytest.approx(0.05)
    assert [type(c) for c in fast._plan.callbacks] == [EpsWarmup, EpsWarmup]
    assert fast._plan.callbacks[-1] is own


def test_a_recipe_registered_from_outside_is_made_by_name():
    """The registry is open."""

    @register_trainer("two_steps")
    def two_steps(*, eps: float) -> Recipe:
        return Recipe(objective=mix(lam=3.0), attack=PGD(eps=eps, steps=2))

    try:
        assert "two_steps" in list_trainers()
        made = make_trainer("two_steps", classifier(), eps=0.02)
        assert made.method.attack == PGD(eps=0.02, steps=2)
        assert made.method.objective.lam == 3.0
    finally:
        del trainers._factories["two_steps"]


# λ


def test_lam_defaults_to_the_losss_own_and_may_be_scheduled():
    """None is the paper's; a schedule shows in the history."""
    assert trainer(classifier(), loss="trades").method.objective.lam == 6.0
    history = trainer(classifier(), loss="mix", lam=lambda progress: 4 * progress).fit(
        X, Y, nb_epochs=4, batch_size=16
    )
    assert history["lam"] == [0.0, 1.0, 2.0, 3.0]


# Regression


def test_regression_is_hardened():
    """The worst-case error of held-out targets falls below that of plain training."""
    rng = np.random.default_rng(0)
    x = rng.random((200, 6)).astype(np.float32)
    y = (np.sin(6 * x[:, 0]) + x[:, 1]).astype(np.float32)
    worst = []
    for lam in (0.0, 2.0):
        torch.manual_seed(1)
        estimator = regressor(lr=0.1)
        ours = trainer(estimator, PGD(eps=0.1, steps=3), lam=lam)
        assert (
            "clean_accuracy" not in ours.fit(x[:150], y[:150], nb_epochs=29, batch_size=25).rows[0]
        )
        row = ours.fit(
            x[:150], y[:150], nb_epochs=1, batch_size=25, validation_data=(x[150:], y[150:])
        ).rows[0]
        assert row["val_clean_loss"] < row["val_adversarial_loss"]
        worst.append(row["val_adversarial_loss"])
    assert worst[1] < worst[0]


@pytest.mark.parametrize("name", ["at", "mix", "input_gradient"])
def test_losses_that_compare_no_classes_train_a_regressor(name):
    """Also with an ART attack, whose labels are targets."""
    estimator = regressor()
    options = {} if not make_loss(name).attacked else {"eps": 0.02}
    history = trainer(estimator, loss=name, **options).fit(
        X, Y.astype(np.float32), nb_epochs=3, batch_size=16
    )
    assert history["loss"][-1] < history["loss"][0]


# Kinds of model


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(3, 8, num_layers=2, batch_first=True, dropout=0.2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


MODELS = {
    "lstm": (lambda: Recurrent(nn.LSTM), (5, 3)),
    "gru": (lambda: Recurrent(nn.GRU), (5, 3)),
    "transformer": (Transformer, (5, 3)),
    "norm and dropout": (lambda: net(dropout=0.3), (6,)),
}


@pytest.mark.parametrize("name", ANY_TASK)
@pytest.mark.parametrize("kind", MODELS)
def test_every_loss_trains_every_kind_of_model(kind, name):
    """Recurrent nets, a Transformer and a net with batch statistics: three lines, all losses."""
    make, shape = MODELS[kind]
    if kind == "transformer" and name == "input_gradient":
        # fused attention has no second derivative; the plain one does
        context = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    else:
        context = torch.enable_grad()
    model = make()
    flags = [m.training for m in model.modules()]
    estimator = classifier(model, input_shape=shape)
    before = weights(model)
    x, y = arrays(12, shape)
    with context:
        trainer(estimator, loss=name).fit(x, y, nb_epochs=1, batch_size=6)
    after = weights(model)
    assert not same(before, after)
    assert all(bool(torch.isfinite(v.float()).all()) for v in after.values())
    assert [m.training for m in model.modules()] == flags


def test_validation_attacks_otherwise_than_training():
    """APGD on the margin selects models trained by PGD, and PGD those trained by APGD."""
    from artplus.training.callbacks import validation_attack

    def attack(attacks, **options):
        ours = trainer(classifier(), attacks, **options)
        return validation_attack(ours._view.model, ours.method)

    chosen = attack(None, eps=0.03, norm=2)
    assert chosen == APGD(eps=0.03, norm=2, steps=20, loss="margin")
    assert attack(APGD(eps=0.03, steps=3)) == PGD(eps=0.03, steps=20)
