"""A run that is resumed, wherever it was broken off, is the run that was never interrupted."""

from __future__ import annotations

import copy
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from art.attacks.evasion import ProjectedGradientDescent
from art.data_generators import NumpyDataGenerator
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, TensorDataset

from artplus import AdversarialTrainerPlus, fit
from artplus.errors import ArtplusWarning, CheckpointError, ConfigurationError
from artplus.spaces import InputSpace
from artplus.training import Resume, checkpoint
from artplus.training.callbacks import (
    EMA,
    Callback,
    Checkpoint,
    EarlyStopping,
    GradientClipping,
    KeepBest,
    StuckAtChance,
    Validation,
)
from artplus.training.data import Arrays, Loaded, TensorPair
from tests.toys import arrays, classifier, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(26))
HELD_OUT = tuple(torch.from_numpy(v) for v in arrays(12, seed=1))
EPOCHS, PER_EPOCH = 3, 4


def one_cycle(optimizer, steps):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)


def plateau(optimizer, steps):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", patience=0)


def milestones(optimizer):
    return torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2], gamma=0.3)


class Result:
    """All that a run leaves behind, but the time it took."""

    def __init__(self, model, optimizer, history) -> None:
        self.weights = weights(model)
        self.rows = [{k: v for k, v in r.items() if k != "seconds"} for r in history.rows]
        self.notes = list(history.notes)
        self.optimizer = copy.deepcopy(optimizer.state_dict())

    def __eq__(self, other):
        return (
            same(self.weights, other.weights)
            and self.rows == other.rows
            and self.notes == other.notes
            and equal(self.optimizer, other.optimizer)
        )


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


START = net(dropout=0.3)


def everything(*more, data=(X, Y), resume=None, start=START, **options):
    """A fit with all that has a state; warm-up comes by itself at this radius."""
    model = copy.deepcopy(start)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = options.pop("scheduler", one_cycle)
    settings = {
        "loss": "trades", "eps": 0.2, "bounds": (0, 1), "epochs": EPOCHS, "batch_size": 8,
        "seed": 1, "validation": HELD_OUT, "progress": False,
    }  # fmt: skip
    callbacks = options.pop("callbacks", [EMA(0.9), EarlyStopping(2), GradientClipping(1.0)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        history = fit(
            model,
            data() if callable(data) else data,
            optimizer,
            scheduler=scheduler
            if scheduler in (None, one_cycle, plateau)
            else scheduler(optimizer),
            callbacks=[*callbacks, *more],
            resume=resume,
            **settings | options,
        )
    return Result(model, optimizer, history)


class Augmented(torch.utils.data.Dataset):
    """Noise on every example, from torch's, numpy's and Python's global generators."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        noise = torch.rand(6) + float(np.random.random()) + random.random()
        return (X[i] + 0.01 * noise).clamp(0, 1), Y[i]


def loader(generator=None, **options):
    own = None if generator is None else torch.Generator().manual_seed(generator)
    return DataLoader(TensorDataset(X, Y), 8, shuffle=True, generator=own, **options)


DATA = {
    "arrays": (X, Y),
    "data set": TensorDataset(X, Y),
    "list": list(zip(X.split(8), Y.split(8), strict=True)),
    "loader": loader,
    "seeded loader": lambda: loader(4),
    "augmented": lambda: DataLoader(Augmented(), 8, shuffle=True),
}


@pytest.mark.parametrize("kind", DATA)
def test_resumed_at_every_step_equals_the_uninterrupted_run(tmp_path, kind):
    """Weights, buffers, optimizer, history and notes, whatever the step; saving changes nothing."""
    reference = everything(data=DATA[kind])
    watched = everything(Checkpoint(tmp_path, every_steps=1, keep=99), data=DATA[kind])
    assert watched == reference
    known = checkpoint.listed(tmp_path)
    assert list(known) == list(range(1, EPOCHS * PER_EPOCH + 1))
    for path in known.values():
        assert everything(data=DATA[kind], resume=path) == reference, path.name


@pytest.mark.parametrize("scheduler", [milestones, plateau, None])
def test_every_kind_of_scheduler_goes_on(tmp_path, scheduler):
    """Per epoch, by the training loss, none: the rates that were to come do come."""
    reference = everything(Checkpoint(tmp_path, every_steps=1, keep=99), scheduler=scheduler)
    for path in list(checkpoint.listed(tmp_path).values())[1::4]:
        assert everything(scheduler=scheduler, resume=path) == reference, path.name


def test_workers_that_load_give_the_same_batches(tmp_path):
    """Worker processes are seeded as they were, so their noise comes again."""

    def data():
        return DataLoader(Augmented(), 8, shuffle=True, num_workers=1)

    reference = everything(Checkpoint(tmp_path, every_steps=1, keep=99), data=data, epochs=1)
    path = checkpoint.listed(tmp_path)[2]
    assert everything(data=data, epochs=1, resume=path) == reference


def test_a_sampler_that_was_told_its_epoch_is_told_again(tmp_path):
    """DistributedSampler orders by an epoch that a callback gave it before the interruption."""

    class Tell(Callback):
        def __init__(self, sampler):
            self._sampler = sampler

        def on_epoch_begin(self, state):
            self._sampler.set_epoch(state.epoch)

    def run(*more, **options):
        data = TensorDataset(X, Y)
        sampler = DistributedSampler(data, num_replicas=1, rank=0)
        return everything(
            Tell(sampler), *more, data=DataLoader(data, 8, sampler=sampler), **options
        )

    reference = run(Checkpoint(tmp_path, every_steps=1, keep=99))
    for step in (6, 8, 11):
        assert run(resume=checkpoint.listed(tmp_path)[step]) == reference


def test_early_stopping_stops_where_it_would_have(tmp_path):
    """Patience that ran before the interruption counts, and a stopped run stays stopped."""

    class Scripted(Validation):
        def __init__(self):
            super().__init__([], None)

        def on_epoch_end(self, state):
            state.row["val_adversarial_accuracy"] = [0.5, 0.7, 0.6, 0.6, 0.9][state.epoch - 1]

    def run(*more, **options):
        callbacks = [EMA(0.5), Scripted(), KeepBest(), EarlyStopping(2), *more]
        return everything(callbacks=callbacks, validation=None, epochs=5, **options)

    reference = run(Checkpoint(tmp_path, every_steps=1, keep=99))
    assert len(reference.rows) == 4 and "epoch 2" in reference.notes[-1]
    for path in checkpoint.listed(tmp_path).values():
        assert run(resume=path) == reference, path.name


def test_a_guard_remembers_what_it_warned_of(tmp_path):
    """A model that only guesses is warned about once, before or after the interruption."""

    class Stuck(Validation):
        def __init__(self):
            super().__init__([], None)

        def on_epoch_end(self, state):
            state.row["clean_accuracy"] = state.row["val_clean_accuracy"] = 0.1

    def run(*more, **options):
        callbacks = [Stuck(), *more]
        return everything(callbacks=callbacks, validation=None, epochs=5, eps=0.01, **options)

    reference = run(Checkpoint(tmp_path, keep=9))
    for path in checkpoint.listed(tmp_path).values():
        assert run(resume=path).notes == reference.notes
    told = StuckAtChance()
    told.load_state_dict({"epochs": 4, "warned": True})
    assert told.state_dict() == {"epochs": 4, "warned": True}


def test_weights_put_back_after_nan_are_those_of_the_epochs_begin(tmp_path):
    """Also where the epoch began before the interruption."""

    class Poison(Callback):
        on = False

        def on_step_end(self, state):
            if state.step == 7 and self.on:
                with torch.no_grad():
                    next(state.model.module.parameters()).fill_(torch.nan)

    def run(poison, *more, **options):
        model = copy.deepcopy(START)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, (X, Y), optimizer, eps=0.02, epochs=2, batch_size=8, seed=0, progress=False,
            callbacks=[poison, *more], **options)  # fmt: skip
        return weights(model)

    run(Poison(), Checkpoint(tmp_path, every_steps=1, keep=99))
    begin = checkpoint.read(checkpoint.listed(tmp_path)[4])["model"]
    model = copy.deepcopy(START)
    poison = Poison()
    poison.on = True
    with pytest.raises(Exception, match="weights from before this epoch were put back"):
        fit(model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), eps=0.02, epochs=2,
            batch_size=8, seed=0, progress=False, callbacks=[poison],
            resume=checkpoint.listed(tmp_path)[6])  # fmt: skip
    assert same(weights(model), begin)


def test_shuffled_validation_data_comes_in_the_order_it_would_have(tmp_path):
    """A loader's own generator is part of the run, that of the held-out data too."""

    class First(Validation):
        """A figure that the order alone decides."""

        def measure(self, model):
            first, *_ = self.data
            return {"val_adversarial_accuracy": float(first.x.sum())}

    def run(*more, **options):
        g = torch.Generator().manual_seed(3)
        loaded = DataLoader(TensorDataset(*HELD_OUT), 5, shuffle=True, generator=g)
        held_out = Loaded(loaded, TensorPair(InputSpace()), device=torch.device("cpu"))
        callbacks = [First(held_out, None), *more]
        return everything(callbacks=callbacks, validation=None, **options)

    reference = run(Checkpoint(tmp_path, every_steps=1, keep=99))
    assert len({row["val_adversarial_accuracy"] for row in reference.rows}) == EPOCHS
    for step in (3, 4, 6, 8):
        assert run(resume=checkpoint.listed(tmp_path)[step]) == reference, step


def test_parameters_beside_the_model_are_part_of_the_run(tmp_path):
    """A loss with parameters of its own, moved by the same optimizer."""

    def run(resume=None, *more):
        model = copy.deepcopy(START)
        heat = nn.Parameter(torch.ones(()))

        def loss(logits, y):
            return nn.functional.cross_entropy(logits * heat, y, reduction="none")

        optimizer = torch.optim.SGD([*model.parameters(), heat], lr=0.1)
        history = fit(model, (X, Y), optimizer, criterion=loss, eps=0.02, epochs=2, batch_size=8,
                      seed=0, progress=False, callbacks=more, resume=resume)  # fmt: skip
        return Result(model, optimizer, history), float(heat.detach())

    reference = run(None, Checkpoint(tmp_path, every_steps=1, keep=99))
    assert reference[1] != 1
    for path in checkpoint.listed(tmp_path).values():
        assert run(path) == reference


@pytest.mark.parametrize("seed", [3, None])
@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_art_attacks_through_generate_go_on(tmp_path, seed):
    """ART draws from numpy's global generator, with and without a seed of the trainer's."""

    class Draw(Callback):
        """What numpy's own stream gives, in the middle of it all."""

        def on_epoch_end(self, state):
            state.row["drawn"] = np.random.random()

    def run(resume=None, *more):
        estimator = classifier(copy.deepcopy(START))
        attack = ProjectedGradientDescent(
            estimator, eps=0.04, eps_step=0.02, max_iter=2, num_random_init=1, random_eps=True,
            verbose=False,
        )  # fmt: skip
        trainer = AdversarialTrainerPlus(
            estimator, attack, seed=seed, verbose=False, callbacks=[Draw(), *more]
        )
        history = trainer.fit(X.numpy(), Y.numpy(), batch_size=8, nb_epochs=2, resume=resume)
        return Result(estimator.model, estimator.optimizer, history)

    reference = run(None, Checkpoint(tmp_path, every_steps=1, keep=99))
    np.random.seed(99)  # wherever the next process happens to be
    torch.manual_seed(99)
    for path in list(checkpoint.listed(tmp_path).values())[::2]:
        assert run(path) == reference, path.name


def test_the_seconds_of_an_epoch_add_up(tmp_path, monkeypatch):
    """Time before the interruption counts, the time in between does not."""
    everything(Checkpoint(tmp_path, every_steps=1, keep=99), epochs=1)
    saved = checkpoint.read(checkpoint.listed(tmp_path)[2])
    saved["state"]["seconds"] = 1000.0
    path = checkpoint.write(tmp_path, 2, saved)
    model = copy.deepcopy(START)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        history = fit(model, (X, Y), optimizer, loss="trades", eps=0.2, bounds=(0, 1),
                      epochs=1, batch_size=8, seed=1, validation=HELD_OUT, scheduler=one_cycle,
                      callbacks=[EMA(0.9), EarlyStopping(2), GradientClipping(1.0)], resume=path,
                      progress=False)  # fmt: skip
    assert 1000 < history["seconds"][0] < 1100


def test_the_progress_bar_goes_on_where_it_was(tmp_path, capsys):
    """The bar of a resumed run begins at the step that was done."""
    everything(Checkpoint(tmp_path, every_steps=1, keep=99))
    everything(resume=checkpoint.listed(tmp_path)[7], progress=True)
    shown = capsys.readouterr().err
    assert "12/12" in shown and " 8/12" in shown and " 1/12" not in shown


# Iterables


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))

    def __len__(self):
        return len(X)


STREAMS = {
    "iterable data set": lambda: DataLoader(Stream(), 8),
    "custom": lambda: Custom(),
}


class Custom:
    def __iter__(self):
        return iter(DATA["list"])


def plain(*callbacks, data, resume=None):
    model = copy.deepcopy(START)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = fit(model, data(), optimizer, eps=0.02, epochs=3, seed=0, progress=False,
                  callbacks=callbacks, resume=resume)  # fmt: skip
    return Result(model, optimizer, history)


class Signal(Callback):
    """Sends this process a signal at one step or at an epoch's end."""

    def __init__(self, number, step, event="on_step_begin"):
        self._number, self._step = number, step
        setattr(self, event, self.send)

    def send(self, state):
        if state.step == self._step:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize("kind", STREAMS)
def test_iterables_resume_from_an_epochs_end_and_nowhere_else(tmp_path, kind):
    """In the middle it is refused, before training and at resumption; at the end it is exact."""
    data = STREAMS[kind]
    reference = plain(Checkpoint(tmp_path / "a"), data=data)
    for path in checkpoint.listed(tmp_path / "a").values():
        assert plain(data=data, resume=path) == reference
    with pytest.raises(ConfigurationError, match="every_steps saves in the middle of epochs"):
        plain(Checkpoint(tmp_path / "b", every_steps=1), data=data)
    saved = checkpoint.read(checkpoint.listed(tmp_path / "a")[4])
    saved["state"]["done"] = 2
    middle = checkpoint.write(tmp_path, 6, saved)
    with pytest.raises(CheckpointError, match="cannot be begun again where it was"):
        plain(data=data, resume=middle)


def test_an_art_generator_in_order_goes_on_from_an_epochs_end(tmp_path):
    """It begins its data anew in the next process, as an epoch does."""

    def go(*callbacks, resume=None):
        estimator = classifier(copy.deepcopy(START))
        generator = NumpyDataGenerator(X[:24].numpy(), Y[:24].numpy(), batch_size=8, shuffle=False)
        trainer = AdversarialTrainerPlus(
            estimator, eps=0.02, seed=0, verbose=False, callbacks=callbacks
        )
        history = trainer.fit_generator(generator, nb_epochs=3, resume=resume)
        return Result(estimator.model, estimator.optimizer, history)

    reference = go(Checkpoint(tmp_path))
    for path in checkpoint.listed(tmp_path).values():
        assert go(resume=path) == reference, path.name


def test_told_to_leave_in_the_middle_of_an_iterable_keeps_the_last_epoch(tmp_path):
    """It says so, and that checkpoint goes on to the same end."""
    data = STREAMS["custom"]
    reference = plain(Signal(0, 99), data=data)
    with pytest.warns(ArtplusWarning, match="the last checkpoint is that of the epoch before"):
        with pytest.raises(KeyboardInterrupt):
            plain(Signal(signal.SIGINT, 6), Checkpoint(tmp_path), data=data)
    assert list(checkpoint.listed(tmp_path)) == [4]
    assert plain(Signal(0, 99), data=data, resume=tmp_path) == reference


def test_data_that_ends_too_soon_is_refused(tmp_path):
    """A list of fewer batches than were done is other data."""
    batches = DATA["list"]
    plain(Checkpoint(tmp_path, every_steps=1, keep=99), data=lambda: batches)
    saved = checkpoint.read(checkpoint.listed(tmp_path)[3])
    saved["state"]["done"] = 9
    path = checkpoint.write(tmp_path, 3, saved)
    with pytest.raises(CheckpointError, match="after 9 batches .* ended after 4"):
        plain(data=lambda: batches, resume=path)


# Signals


@pytest.mark.parametrize(
    "number, raised", [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize("step, event", [(5, "on_step_begin"), (8, "on_epoch_end")])
def test_a_signal_saves_and_leaves(tmp_path, number, raised, step, event):
    """The step is finished, the training weights are saved, the best ones handed out, handlers
    are back, and the run goes on to the same end."""
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    model = copy.deepcopy(START)
    reference = everything(Signal(0, 99))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    training = {}

    class Watch(Callback):
        watches = True

        def on_pause(self, state):
            training[state.step] = weights(model), state.weights()

    with warnings.catch_warnings(), pytest.raises(raised) as stop:
        warnings.simplefilter("ignore", UserWarning)
        fit(model, (X, Y), optimizer, loss="trades", eps=0.2, bounds=(0, 1), epochs=EPOCHS,
            batch_size=8, seed=1, validation=HELD_OUT, progress=False, scheduler=one_cycle,
            callbacks=[EMA(0.9), EarlyStopping(2), GradientClipping(1.0),
                       Signal(number, step, event), Watch(), Checkpoint(tmp_path)])  # fmt: skip
    assert raised is KeyboardInterrupt or stop.value.code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    at = step + (event == "on_step_begin")
    newest = list(checkpoint.listed(tmp_path))[-1]
    assert newest == at
    saved = checkpoint.read(checkpoint.listed(tmp_path)[newest])
    assert same(saved["model"], training[at][0])
    best = saved["callbacks"]["KeepBest 1"]["weights"]
    assert same(weights(model), best) and not same(best, saved["model"])
    assert everything(Signal(0, 99), resume=tmp_path) == reference


@pytest.mark.parametrize("kind", ["OneCycleLR", "StepLR"])
def test_ctrl_c_and_the_same_call_again_in_one_session(tmp_path, kind):
    """As in a notebook: model, optimizer and scheduler are the objects that were interrupted."""

    def made():
        model = copy.deepcopy(START)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        if kind == "StepLR":
            return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 1)
        total = EPOCHS * PER_EPOCH
        return model, optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total)

    def go(model, optimizer, scheduler, *callbacks, resume=None):
        history = fit(model, (X, Y), optimizer, eps=0.02, epochs=EPOCHS, batch_size=8, seed=1,
                      progress=False, scheduler=scheduler, callbacks=callbacks,
                      resume=resume)  # fmt: skip
        return Result(model, optimizer, history)

    reference = go(*made(), Signal(0, 99))
    mine = made()
    with pytest.raises(KeyboardInterrupt):
        go(*mine, Signal(signal.SIGINT, 6), Checkpoint(tmp_path))
    assert go(*mine, Signal(0, 99), Checkpoint(tmp_path), resume=tmp_path) == reference


def test_a_second_signal_does_not_wait(tmp_path):
    """Who presses Ctrl-C twice leaves in the middle of the step."""

    class Twice(Callback):
        reached = False

        def on_step_begin(self, state):
            if state.step == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                self.reached = True

    twice = Twice()
    with pytest.raises(KeyboardInterrupt):
        everything(twice, Checkpoint(tmp_path))
    assert not twice.reached and not checkpoint.listed(tmp_path)


def test_handlers_are_back_after_any_end(tmp_path):
    """Whether the run ended by itself or by an error."""

    class Fail(Callback):
        def on_step_end(self, state):
            raise RuntimeError("on purpose")

    def handlers():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    before = handlers()
    everything(Checkpoint(tmp_path / "a"), epochs=1)
    assert handlers() == before
    with pytest.raises(RuntimeError, match="on purpose"):
        everything(Fail(), Checkpoint(tmp_path / "b"), epochs=1)
    assert handlers() == before


def test_a_signal_after_the_last_pause_is_not_lost(tmp_path):
    """Told to leave while callbacks end their work: they end it, then the run leaves."""

    class Late(Callback):
        def on_fit_end(self, state):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        everything(Late(), Checkpoint(tmp_path))
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) == before
    assert list(checkpoint.listed(tmp_path))[-1] == EPOCHS * PER_EPOCH


def test_ignored_signals_stay_ignored(tmp_path):
    """Under nohup and the like nobody is told to leave."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        result = everything(Signal(signal.SIGINT, 3), Checkpoint(tmp_path))
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(result.rows) == EPOCHS


def test_in_another_thread_there_are_no_handlers(tmp_path):
    """Python allows them in the main thread only; saving works all the same."""
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    class Look(Callback):
        def on_step_end(self, state):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=lambda: everything(Look(), Checkpoint(tmp_path)))
    thread.start()
    thread.join()
    assert set(seen) == {before} and len(checkpoint.listed(tmp_path)) == 3


# Kills


def test_sigkill_at_random_moments_changes_nothing(tmp_path):
    """Real kills, within checkpoint writes too; the last life ends as if never killed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.chaos", "--kills", "3", "--folder", str(tmp_path)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 kills, 2 of them within a write")
    assert "identical" in done.stdout and "DIFFERENT" not in done.stdout


def test_or_start_begins_where_there_is_nothing(tmp_path):
    """Only when asked: one command that may be repeated until the run is done."""
    reference = everything()
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        everything(resume=tmp_path)
    again = Resume(tmp_path, or_start=True)
    assert everything(Checkpoint(tmp_path), resume=again) == reference
    assert everything(Checkpoint(tmp_path), resume=again) == reference


def test_batches_passed_over_are_those_of_the_order():
    """Arrays pass over batches without touching them; the rest is what comes after."""

    def source():
        return Arrays(X, Y, 8, torch.Generator().manual_seed(2), device=torch.device("cpu"))

    for done in range(PER_EPOCH + 1):
        whole = list(source())
        rest = list(source().begin(done))
        assert len(rest) == PER_EPOCH - done
        assert all(torch.equal(a.x, b.x) for a, b in zip(whole[done:], rest, strict=True))
