"""Callbacks against slow twins of what they promise, and the order in which they work."""

from __future__ import annotations

import copy
import io
import math
import sys
import warnings

import pytest
import torch
from torch import nn

from artplus import AdversarialTrainerPlus, fit
from artplus.attacks import PGD, Cycle, Relative
from artplus.errors import (
    ArtplusWarning,
    ConfigurationError,
    DataError,
    StuckAtChanceWarning,
    TrainingDivergedError,
)
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import Classification
from artplus.training import make_method
from artplus.training.callbacks import (
    EMA,
    Callback,
    EarlyStopping,
    EpsWarmup,
    GradientClipping,
    KeepBest,
    LearningRate,
    NonFinite,
    Progress,
    StuckAtChance,
    Validation,
    default_warmup,
)
from artplus.training.data import Arrays
from tests.toys import arrays, classifier, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))


class On(Callback):
    """Calls a function at one event."""

    def __init__(self, event: str, what) -> None:
        setattr(self, event, what)


class Figures(Callback):
    """Writes a column of the history from a list, as a validation would."""

    def __init__(self, values, name: str = "val_adversarial_accuracy") -> None:
        self.values, self.name = values, name

    def on_epoch_end(self, state):
        state.row[self.name] = self.values[state.epoch - 1]


class Scripted(Validation):
    """A validation whose figures are known beforehand."""

    def __init__(self, values) -> None:
        super().__init__([], None)
        self.values = values

    def on_epoch_end(self, state):
        state.row["val_adversarial_accuracy"] = self.values[state.epoch - 1]


def run(model, *callbacks, lr: float = 0.1, epochs: int = 3, data=(X, Y), **options):
    optimizer = options.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=lr)
    settings = {"loss": "at", "eps": 0.02, "batch_size": 8, "seed": 0, "progress": False}
    settings["bounds"] = (0.0, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StuckAtChanceWarning)
        return fit(model, data, optimizer, callbacks=callbacks, epochs=epochs, **settings | options)


# EMA


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9, 0.999])
def test_ema_is_the_recurrence_with_its_warm_up(decay):
    """w̄ <- d w̄ + (1-d) w with d = min(decay, (1+t)/(10+t)); buffers are the training ones."""
    model = net()
    twin = weights(model)
    last = {}

    def follow(state):
        d = min(decay, (1 + state.step) / (10 + state.step))
        for name, value in model.named_parameters():
            twin[name] = d * twin[name] + (1 - d) * value.detach()
        last.update(weights(model))

    run(model, EMA(decay), On("on_step_end", follow))
    after = weights(model)
    for name, value in model.named_parameters():
        torch.testing.assert_close(value.detach(), twin[name], rtol=1e-5, atol=1e-6)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(after[name], last[name])


def test_ema_is_what_validation_sees_and_training_does_not():
    """Validation runs on the average; training goes on from its own weights."""
    start = net()
    seen = {}

    class Look(Validation):
        def measure(self, model):
            seen[len(seen)] = weights(model.module)
            return {"val_adversarial_accuracy": 0.0}

    averages, training = {}, {}

    def record(state):
        averages[state.step] = state.weights()
        training[state.step] = weights(state.model.module)

    watch = On("on_step_end", record)
    model = copy.deepcopy(start)
    run(model, EMA(0.9), watch, Look([], None))
    assert all(same(seen[i], averages[3 * (i + 1)]) for i in range(3))
    alone = {}
    other = copy.deepcopy(start)
    run(other, On("on_step_end", lambda s: alone.update({s.step: weights(other)})))
    assert all(same(training[k], alone[k]) for k in alone)


def test_ema_survives_shared_weights_and_state_that_is_no_tensor():
    """Tied parameters stay tied, a module's extra state is carried along."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(6, 6, bias=False)
            self.b = nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight
            self.head = nn.Linear(6, 3)
            self.calls = 0

        def get_extra_state(self):
            return {"calls": self.calls}

        def set_extra_state(self, state):
            self.calls = state["calls"]

        def forward(self, x):
            self.calls += 1
            return self.head(self.b(self.a(x).tanh()))

    model = Tied()
    start = model.a.weight.detach().clone()
    run(model, EMA(0.9), validation=arrays(12, seed=1))
    assert model.a.weight is model.b.weight
    assert not torch.equal(model.a.weight, start) and model.calls > 9


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan"), "0.9"])
def test_ema_refuses_what_is_no_decay(decay):
    """In [0, 1)."""
    with pytest.raises(ConfigurationError, match="decay must be a number in"):
        EMA(decay)


# Warm-up


def radii(*callbacks, epochs: int, data=(X, Y), eps=0.2, **options):
    """The radius in force at every step, and the history."""
    found = []
    watch = On("on_step_end", lambda s: found.append(s.method.attack.eps))
    method = {"attack": PGD(eps=eps, steps=1, step_size=0.1), "eps": None}
    history = run(net(), *callbacks, watch, epochs=epochs, data=data, **method | options)
    return found, history


@pytest.mark.parametrize(
    "made, length", [(EpsWarmup(2), 6), (EpsWarmup(0.5), 1.5), (EpsWarmup(fraction=0.5), 6)]
)
def test_warm_up_is_linear_in_steps(made, length):
    """eps_t = eps min(1, (t+1)/T), exactly, and the history tells each epoch's last value."""
    found, history = radii(made, epochs=4)
    expected = [0.2 * min(1, (t + 1) / length) for t in range(12)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert history["eps_scale"] == pytest.approx([min(1, 3 * e / length) for e in range(1, 5)])


def test_warm_up_scales_the_step_and_is_over_in_the_end():
    """Radius and step length grow together; later fits start from the full radius again."""
    steps = []
    watch = On("on_step_end", lambda s: steps.append(s.method.attack.step_size))
    final = []
    end = On("on_fit_end", lambda s: final.append(s.method.attack.eps))
    warm = EpsWarmup(1)
    for _ in range(2):
        run(
            net(), warm, watch, end, epochs=2, eps=None, attack=PGD(eps=0.2, steps=1, step_size=0.1)
        )
    assert steps == pytest.approx(2 * [0.1 / 3, 0.2 / 3, 0.1, 0.1, 0.1, 0.1])
    assert final == [0.2, 0.2]


def test_warm_up_without_a_length_goes_by_epochs():
    """An iterable without a length ramps from epoch to epoch."""

    class Endless:
        def __iter__(self):
            return iter([(X[:8], Y[:8]), (X[8:16], Y[8:16])])

    found, _ = radii(EpsWarmup(2), epochs=3, data=Endless())
    assert found == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.2, 0.2])


def test_no_warm_up_is_full_from_the_start():
    """EpsWarmup(0) switches the default off."""
    found, _ = radii(EpsWarmup(0), epochs=2)
    assert found == [0.2] * 6


@pytest.mark.parametrize(
    "attack, space, expected",
    [
        (PGD(eps=0.05), InputSpace(0, 1), True),
        (PGD(eps=0.03), InputSpace(0, 1), False),
        (PGD(eps=8.0), InputSpace(0, 255), False),
        (PGD(eps=16.0), InputSpace(0, 255), True),
        (PGD(eps=0.5, norm=2), InputSpace(0, 1), True),
        (PGD(eps=torch.tensor([0.01, 0.3])), InputSpace(0, 1), True),
        (PGD(eps=Relative(0.1)), InputSpace(0, 1), False),
        (PGD(eps=0.3), InputSpace(), False),
        (Cycle([PGD(eps=0.3), PGD(eps=0.01)]), InputSpace(0, 1), True),
    ],
)
def test_warm_up_is_on_by_default_where_eps_is_large(attack, space, expected):
    """At least five percent of the range, where there is one."""
    method = make_method("at", attack=attack, space=space)
    assert (default_warmup(method) is not None) == expected


def test_the_default_warm_up_takes_the_first_quarter_and_yields_to_the_users():
    """MNIST's 0.3 would collapse at once without it."""
    found, _ = radii(epochs=4)
    assert found == pytest.approx([0.2 * min(1, (t + 1) / 3) for t in range(12)])


def test_warm_up_wants_one_length():
    """Epochs or a fraction, and neither negative."""
    for options in ({}, {"epochs": 1, "fraction": 0.1}):
        with pytest.raises(ConfigurationError, match="either epochs or fraction"):
            EpsWarmup(**options)
    with pytest.raises(ConfigurationError, match="epochs must be a finite number >= 0"):
        EpsWarmup(-1)


# Selection


@pytest.mark.parametrize("values, best", [([0.1, 0.5, 0.3, 0.2], 2), ([0.3, 0.1, 0.3, 0.2], 3)])
def test_keep_best_hands_out_the_best_epochs_weights(values, best):
    """Ties go to the later epoch, and the history says which it was."""
    model = net()
    kept = {}
    watch = On("on_epoch_end", lambda s: kept.update({s.epoch: weights(model)}))
    history = run(model, Scripted(values), watch, KeepBest(), epochs=4)
    assert same(weights(model), kept[best])
    assert f"epoch {best}: best val_adversarial_accuracy {max(values):.4f}" in history.notes[-1]


def test_keep_best_minimises_losses():
    """A column whose name ends in loss is better when smaller."""
    model = net()
    kept = {}
    watch = On("on_epoch_end", lambda s: kept.update({s.epoch: weights(model)}))
    figures = Figures([3.0, 1.0, 2.0], "val_loss")
    history = run(model, Scripted([0] * 3), figures, watch, KeepBest("val_loss"))
    assert same(weights(model), kept[2]) and "best val_loss 1.0000" in history.notes[-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_keep_best_gives_the_best_weights_back_after_an_error(error):
    """An interrupted training still leaves the best epoch's weights, and every flag restored."""
    model = net()
    model.eval()
    kept = {}
    watch = On("on_epoch_end", lambda s: kept.update({s.epoch: weights(model)}))

    def fail(state):
        if state.epoch == 3:
            raise error("enough")

    with pytest.raises(error, match="enough"):
        run(
            model,
            Scripted([0.1, 0.5, 0.2]),
            watch,
            KeepBest(),
            On("on_step_begin", fail),
            epochs=5,
        )
    assert same(weights(model), kept[2])
    assert not any(m.training for m in model.modules())


def test_keep_best_keeps_averaged_weights():
    """Of the best epoch it is the average that is handed out."""
    model = net()
    kept = {}
    watch = On("on_epoch_end", lambda s: kept.update({s.epoch: s.weights()}))
    run(model, EMA(0.9), Scripted([0.1, 0.5, 0.2]), watch)
    last = weights(model)
    assert same(last, kept[3])
    model = net()
    run(model, EMA(0.9), Scripted([0.1, 0.5, 0.2]), watch, KeepBest())
    assert same(weights(model), kept[2])


def test_validation_data_selects_by_default():
    """With validation the best epoch is kept, and the history says so."""
    history = run(net(), validation=arrays(12, seed=1))
    assert "kept the weights of epoch" in history.notes[-1]


def test_early_stopping_waits_and_stops():
    """After ``patience`` epochs without an improvement of more than ``min_delta``."""
    figures = [0.1, 0.5, 0.5, 0.505, 0.4, 0.9, 0.9, 0.9]
    history = run(net(), Scripted(figures), EarlyStopping(patience=3, min_delta=0.01), epochs=8)
    assert len(history) == 5
    assert "val_adversarial_accuracy has not improved for 3 epochs" in history.notes[-1]
    stopper = EarlyStopping(patience=2, monitor="loss")
    for _ in range(2):  # what it remembers ends with a fit
        assert len(run(net(), stopper, lr=1e-9, epochs=9)) < 9


def test_users_callbacks_see_the_validation_figures():
    """A logger at the end of an epoch finds them in the row."""
    rows = []
    run(
        net(),
        On("on_epoch_end", lambda s: rows.append(dict(s.row))),
        validation=arrays(12, seed=1),
    )
    assert all("val_adversarial_accuracy" in row and "loss" in row for row in rows)


# Gradients and rates


def test_gradient_clipping_bounds_the_global_norm():
    """The step of SGD is the gradient scaled to the bound, along the same direction."""
    start = net()
    grads = []

    def record(state):
        grads.append(torch.cat([p.grad.flatten() for p in state.model.module.parameters()]))

    free = On("on_gradients", record)
    run(copy.deepcopy(start), free, epochs=1, batch_size=24)
    clipped = On("on_gradients", record)
    model = copy.deepcopy(start)
    run(model, GradientClipping(0.01), clipped, epochs=1, batch_size=24)
    assert float(grads[0].norm()) > 0.01
    torch.testing.assert_close(grads[1], 0.01 * grads[0] / grads[0].norm(), rtol=1e-3, atol=1e-7)
    with pytest.raises(ConfigurationError, match="max_norm must be a finite number > 0"):
        GradientClipping(0)


def test_learning_rate_follows_a_loss_or_an_accuracy():
    """ReduceLROnPlateau(min) sees the training loss, (max) the robust validation accuracy."""
    for mode, column in (("min", "loss"), ("max", "val_adversarial_accuracy")):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode)
        seen = []
        scheduler.step = lambda value, seen=seen: seen.append(value)
        history = run(
            model, optimizer=optimizer, scheduler=scheduler, validation=arrays(12, seed=1)
        )
        assert seen == history[column]


def test_a_factory_may_make_a_plateau():
    """It is stepped per epoch all the same."""
    model = net()
    run(
        model,
        scheduler=lambda o, n: torch.optim.lr_scheduler.ReduceLROnPlateau(o, "min"),
        validation=arrays(12, seed=1),
    )


def test_a_factory_needs_a_length():
    """Where the loader has none, a ready scheduler is asked for."""

    class NoLength:
        def __iter__(self):
            return iter([(X, Y)])

    with pytest.raises(ConfigurationError, match="needs the number of steps"):
        run(net(), data=NoLength(), scheduler=lambda o, n: None)


def test_the_rate_of_each_epoch_is_in_the_history():
    """As it was at the beginning of the epoch."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    history = run(model, LearningRate(scheduler), optimizer=optimizer)
    assert history["lr"] == pytest.approx([0.4, 0.2, 0.1])


# Guards


class Explodes(Callback):
    """Ruins a weight after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, state):
        if state.step == self.step:
            with torch.no_grad():
                state.model.module[0].weight[0, 0] = torch.nan


@pytest.mark.parametrize("step", [4, 5, 6])
@pytest.mark.parametrize("averaged", [False, True])
def test_weights_from_before_the_ruined_epoch_are_put_back(step, averaged):
    """Also if the last step of an epoch is the one, which no loss shows any more."""
    model = net()
    kept = {}
    watch = On("on_epoch_end", lambda s: kept.update({s.epoch: s.weights()}))
    extra = [EMA(0.9)] if averaged else []
    with pytest.raises(TrainingDivergedError, match="in epoch 2, .*GradientClipping"):
        run(model, *extra, Explodes(step), watch, epochs=5)
    assert list(kept) == [1] and same(weights(model), kept[1])


def test_nan_in_the_first_epoch_is_not_selected():
    """KeepBest must not hold on to weights that are no numbers."""
    model = net()
    start = weights(model)
    with pytest.raises(TrainingDivergedError, match="in epoch 1"):
        run(model, Explodes(2), validation=arrays(12, seed=1))
    assert same(weights(model), start)


def test_a_diverging_loss_is_noticed_within_the_epoch():
    """The guard looks every sixteen steps, so a long epoch is not trained to its end."""
    model = net()
    data = [(X[:8], Y[:8])] * 200
    steps = []
    with pytest.raises(TrainingDivergedError, match="the training loss became nan"):
        run(model, Explodes(3), On("on_step_end", lambda s: steps.append(1)), data=data, epochs=1)
    assert len(steps) <= 32


def test_stuck_at_chance_warns_once_with_the_remedy():
    """A constant prediction, epoch after epoch, is told what usually helps."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.tensor([2.0, 0.0, 0.0]))

        def forward(self, x):
            return self.bias + 0 * x[:, :3]

    model = Constant()
    y = torch.arange(24) % 3
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.warns(StuckAtChanceWarning) as caught:
        history = fit(
            model,
            (X, y),
            optimizer,
            loss="mix",
            eps=0.02,
            epochs=12,
            batch_size=2,
            progress=False,
        )
    assert len(caught) == 1
    assert "EpsWarmup(epochs=...)" in str(caught[0].message) and "33.3%" in str(caught[0].message)
    assert str(caught[0].message) in history.notes


@pytest.mark.filterwarnings("error::artplus.errors.StuckAtChanceWarning")
def test_robust_accuracy_below_chance_is_no_guessing():
    """Only the clean accuracy tells, and it is measured in every epoch, however short."""
    model = nn.Linear(6, 3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    data = tuple(torch.from_numpy(v) for v in arrays(200))
    fit(model, data, optimizer, loss="at", eps=0.0, epochs=15, seed=0, progress=False)
    history = fit(
        model,
        data,
        torch.optim.SGD(model.parameters(), lr=1e-6),
        loss="at",
        eps=0.6,
        epochs=6,
        batch_size=60,
        seed=0,
        callbacks=[EpsWarmup(0)],
        progress=False,
    )
    assert max(history["adversarial_accuracy"]) < 0.3 < 0.6 < min(history["clean_accuracy"])
    assert len(history["clean_accuracy"]) == 6


def test_stuck_at_chance_waits_for_the_full_radius():
    """During the ramp, and in the first hundred steps, nothing is said."""
    guard = StuckAtChance(patience=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guard.on_epoch_end(_State(eps_scale=0.5))
        guard.on_epoch_end(_State(step=99))
    with pytest.warns(StuckAtChanceWarning, match="only guesses"):
        guard.on_epoch_end(_State(eps_scale=1.0))
    guard.on_epoch_end(_State())  # once
    with pytest.raises(ConfigurationError, match="patience must be"):
        StuckAtChance(patience=0)


class _State:
    """What the guard reads."""

    def __init__(self, step=100, **row):
        self.row = {"clean_accuracy": 0.3} | row
        self.step = step
        self.model = LossModel(nn.Linear(1, 1), Classification(classes=3))
        self.epoch = 1
        self.history = type("H", (), {"notes": []})()


# Progress


def test_progress_shows_figures_on_standard_error_and_closes(capfd):
    """Loss, clean and adversarial accuracy while training, validation after each epoch."""
    run(net(), progress=True, loss="mix", validation=arrays(12, seed=1), epochs=2)
    out, err = capfd.readouterr()
    assert out == ""
    for part in ("epoch 1/2", "epoch 2/2", "loss=", "clean=", "adv=", "val clean=", "val adv="):
        assert part in err
    assert "6/6" in err and err.endswith("\n")


def test_the_bar_is_closed_after_an_error(monkeypatch):
    """Whatever ends training, the line ends too."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    bars = []

    class Watched(Progress):
        def on_fit_begin(self, state):
            super().on_fit_begin(state)
            bars.append(self._bar)

    def fail(state):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run(net(), Watched(), On("on_step_end", fail))
    assert bars[0].disable or stream.getvalue().endswith("\n")


# The loop's own promises


def test_every_callback_ends_even_if_one_fails():
    """An error in one on_fit_end does not leave the averaged weights of another hanging."""
    model = net()
    ended = []

    def fail(state):
        ended.append("first")
        raise RuntimeError("at the end")

    with pytest.raises(RuntimeError, match="at the end"):
        run(
            model,
            On("on_fit_end", fail),
            On("on_fit_end", lambda s: ended.append("second")),
            epochs=1,
        )
    assert ended == ["first", "second"]


def test_events_come_in_order():
    """Begin, steps with their gradients, ends: the contract that callbacks rely on."""
    events = []

    class Log(Callback):
        pass

    for name in [n for n in vars(Callback) if n.startswith("on_")]:
        if name != "on_batch":
            setattr(Log, name, lambda self, state, name=name: events.append(name[3:]))

    def on_batch(self, state, batch):
        events.append("batch")
        return batch

    Log.on_batch = on_batch
    run(net(), Log(), epochs=1, batch_size=12)
    step = ["step_begin", "batch", "gradients", "step_end", "pause"]
    assert events == ["fit_begin", "epoch_begin", *step, *step, "epoch_end", "pause", "fit_end"]


def test_a_callback_can_stop_training():
    """After the epoch in which it gives a reason."""

    def stop(state):
        state.stop = "enough"

    assert len(run(net(), On("on_step_end", stop), epochs=9)) == 1


@pytest.mark.parametrize("every, measured", [(1, 5), (2, 3), (9, 1)])
def test_validation_every_so_often_and_always_at_the_end(every, measured):
    """Epochs in between have no figures; the last one always has."""
    held_out = Arrays(X, Y, 8, None, device=torch.device("cpu"))
    validation = Validation(held_out, PGD(eps=0.02, steps=2), every=every)
    history = run(net(), validation, epochs=5)
    assert len(history["val_clean_accuracy"]) == measured
    assert "val_clean_accuracy" in history.rows[-1]


def test_validation_is_the_accuracy_of_a_plain_loop():
    """Clean and robust figures equal a count over the examples, batches of any size."""
    model = net().eval()
    seen = LossModel(model, Classification(classes=3))
    attack = PGD(eps=0.2, steps=3, random_start=False)
    held_out = Arrays(X, Y, 7, None, device=torch.device("cpu"))
    found = Validation(held_out, attack, space=InputSpace(0, 1)).measure(seen)
    x_adv = attack(seen, X, Y, space=InputSpace(0, 1))
    with torch.no_grad():
        clean = (model(X).argmax(1) == Y).float().mean()
        robust = (model(x_adv).argmax(1) == Y).float().mean()
    assert found == {
        "val_clean_accuracy": pytest.approx(float(clean)),
        "val_adversarial_accuracy": pytest.approx(float(robust)),
    }
    with pytest.raises(DataError, match="no batch"):
        Validation([], attack).measure(seen)


def test_non_finite_alone_has_nothing_to_put_back():
    """Before the first epoch there is no copy, and the error is the same."""
    guard = NonFinite()
    state = type("S", (), {})()
    state.model = LossModel(net())
    state.meter = type("M", (), {"pool": staticmethod(lambda: {"loss": math.inf})})()
    state.optimizer = torch.optim.SGD(state.model.module.parameters(), lr=0.1)
    state.step, state.epoch = 16, 0
    with pytest.raises(TrainingDivergedError, match="became inf in epoch 1"):
        guard.on_step_end(state)


def test_a_monitor_that_never_appears_is_told():
    """A misspelt column must not silently hand out the last epoch."""
    with pytest.warns(ArtplusWarning, match="no column 'val_robust'"):
        run(net(), Scripted([0.1, 0.2, 0.3]), KeepBest("val_robust"))
    with pytest.warns(ArtplusWarning, match="no column 'val_robust'"):
        run(net(), Scripted([0.1, 0.2, 0.3]), EarlyStopping(monitor="val_robust"))


def test_an_unknown_interval_is_refused_also_without_a_scheduler():
    """By both doors: an option that does nothing hides a mistake."""
    model, match = net(), "scheduler_interval must be 'auto', 'batch' or 'epoch', got 'step'"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match=match):
        fit(model, (X, Y), optimizer, eps=0.1, scheduler_interval="step", progress=False)
    with pytest.raises(ConfigurationError, match=match):
        AdversarialTrainerPlus(classifier(), eps=0.1, scheduler_interval="step")
