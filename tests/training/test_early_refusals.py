"""What would fail or be silently wrong in the middle of a run is refused before its first step."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

import artplus
from artplus.attacks import PGD, Cycle, Relative
from artplus.errors import ArtplusError, ConfigurationError, DataError
from artplus.training.callbacks import EMA, Callback, Checkpoint, LearningRate
from tests.toys import arrays, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(33))


class Steps(Callback):
    """Counts the steps of a run."""

    def __init__(self) -> None:
        self.count = 0

    def on_step_end(self, state) -> None:
        self.count += 1


def fit(model=None, data=(X, Y), **options):
    model = net() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"loss": "at", "eps": 0.1, "epochs": 1, "bounds": (0, 1), **options}
    return artplus.fit(model, data, optimizer, progress=False, **options)


def last(y, value):
    y = y.clone()
    y[-1] = value
    return y


ROWS = nn.functional.one_hot(Y, 3).float()
LATER = {
    "a class beyond": (last(Y, 7), "must lie in 0..2"),
    "a negative class": (last(Y, -5), "must lie in 0..2"),
    "no label": (last(Y, -100), "without a label"),
    "a row that sums to two": (last(ROWS, torch.tensor([2.0, 0, 0])), "summing to 1"),
}


@pytest.mark.parametrize("what", LATER)
def test_every_batch_of_a_loader_is_checked(what):
    """Not the first alone."""
    y, match = LATER[what]
    steps = Steps()
    with pytest.raises(DataError, match=match):
        fit(data=DataLoader(TensorDataset(X[:32], y[-32:]), 8), callbacks=[steps])
    assert steps.count == 3


def early(match, error=ConfigurationError, model=None, **options):
    model = net() if model is None else model
    before, steps = weights(model), Steps()
    callbacks = [*options.pop("callbacks", []), steps]
    with pytest.raises(error, match=match):
        fit(copy.copy(model), callbacks=callbacks, **options)
    assert steps.count == 0 and same(before, weights(model))


def test_held_out_data_is_tried_before_training():
    early("cannot take validation inputs of shape", DataError, validation=(X[:, :5], Y))
    early("must lie in 0..2", DataError, validation=(X, Y + 5))
    loader = DataLoader(TensorDataset(X[:, :5], Y), 8)
    early("cannot take validation inputs of shape", DataError, validation=loader)


def test_inputs_of_a_wrong_shape_are_named():
    early(r"cannot take inputs of shape \(32, 5\)", DataError, data=(X[:, :5], Y))
    images = torch.rand(8, 6, 6, 3)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    early("transpose", DataError, model=model, data=(images, Y[:8]))


def test_schedulers_that_cannot_work():
    early("mode='max'", scheduler=lambda o, n: ReduceLROnPlateau(o, mode="max"))
    early("must return a torch learning-rate scheduler, got None", scheduler=lambda o, n: None)
    early("scheduler factory failed", scheduler=lambda o: StepLR(o, 1))


def test_what_would_be_done_twice():
    rate = LearningRate(lambda o, n: StepLR(o, 1))
    early("both step", scheduler=lambda o, n: StepLR(o, 1), callbacks=[rate])
    early("more than one EMA", callbacks=[EMA(), EMA()])


@pytest.mark.parametrize("form", ["arrays", "loader"])
def test_a_batch_of_one_under_batchnorm(form):
    data = (X[:1], Y[:1]) if form == "arrays" else DataLoader(TensorDataset(X, Y), 8)
    early("the last batch holds one example", DataError, data=data)
    plain = nn.Linear(6, 3)
    fit(plain, data)
    if form == "loader":
        fit(data=DataLoader(TensorDataset(X, Y), 8, drop_last=True))


def test_numpy_numbers_are_numbers():
    """As they come from a configuration or a grid."""
    start = net()
    results = []
    for integer in (int, np.int64):
        model = copy.deepcopy(start)
        fit(model, micro_batch=integer(4), seed=integer(3), batch_size=integer(8))
        results.append(weights(model))
    assert same(*results)


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.5, "a"])
def test_seeds_that_are_none_move_no_stream(seed):
    model = net()
    streams = torch.get_rng_state(), np.random.get_state()[1].copy()
    with pytest.raises(ArtplusError, match="seed must be"):
        fit(model, seed=seed)
    with pytest.raises(ArtplusError, match="seed must be"):
        artplus.evaluate(model, X, Y, attacks="pgd", eps=0.1, seed=seed, progress=False)
    assert torch.equal(streams[0], torch.get_rng_state())
    assert (streams[1] == np.random.get_state()[1]).all()


def test_a_second_run_in_another_thread_is_refused():
    """The generators are those of the process: each would change what the other draws."""
    alone = net()
    start = copy.deepcopy(alone)
    fit(alone, seed=0, epochs=2)
    errors = []

    class Second(Callback):
        def on_epoch_end(self, state) -> None:
            def other() -> None:
                try:
                    artplus.evaluate(net(), X, Y, attacks="pgd", eps=0.1, progress=False)
                except ConfigurationError as error:
                    errors.append(str(error))

            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    fit(start, seed=0, epochs=2, callbacks=[Second()])
    assert len(errors) == 2 and "in another thread" in errors[0]
    assert same(weights(start), weights(alone))


SILENT = {
    "only_survivors": ({"only_survivors": "no"}, "only_survivors must be True or False"),
    "mask": ({"mask": torch.full((6,), 0.5)}, "mask must hold 0 .* and 1"),
    "class names": ({"class_names": [1, 2, 3]}, "class_names must be strings"),
    "name": ({"name": 5}, "name must be a string"),
}


@pytest.mark.parametrize("option", SILENT)
def test_options_of_an_evaluation_that_mean_nothing(option):
    options, match = SILENT[option]
    with pytest.raises(ConfigurationError, match=match):
        artplus.evaluate(net(), X, Y, attacks="pgd", eps=0.1, bounds=(0, 1), progress=False,
                         **options)  # fmt: skip


def test_options_of_methods_and_attacks_that_mean_nothing():
    with pytest.raises(ConfigurationError, match="norm of an attack must be numpy.inf, 2 or 1"):
        PGD(eps=0.1, norm="inf")
    with pytest.raises(ConfigurationError, match="masked array"):
        PGD(eps=np.ma.masked_array([0.1] * 6, mask=[0, 1, 0, 0, 0, 0]))
    early("class_weight must hold numbers", class_weight="a")
    early("class_weight must be one number", class_weight=1.0)
    with pytest.raises(ConfigurationError, match="mean must be finite"):
        artplus.wrap(net(), X, Y, preprocessing=(float("nan"), 1.0))
    with pytest.raises(ConfigurationError, match="std must be finite"):
        artplus.wrap(net(), X, Y, preprocessing=(0.0, float("nan")))


SLIPS = {
    "one attack to Cycle": (lambda: Cycle(PGD(eps=0.1)), r"takes a list: Cycle\(\[attack"),
    "Checkpoint(5)": (lambda: Checkpoint(5), "folder must be a path, got 5"),
    "clip values the wrong way round": (
        lambda: artplus.wrap(net(), X, Y, clip_values=(1, 0)), "low < high"),
    "three clip values": (lambda: artplus.wrap(net(), X, Y, clip_values=(0, 1, 2)), "a pair"),
    "criterion": (lambda: artplus.wrap(net(), X, Y, criterion=5), "criterion must be a loss"),
    "space": (
        lambda: artplus.evaluate(net(), X, Y, attacks="pgd", eps=0.1, space="inf"),
        "space must be"),
    "checks": (
        lambda: artplus.evaluate(net(), X, Y, attacks="pgd", eps=0.1, checks=np.zeros(2)),
        "checks must be"),
}  # fmt: skip


@pytest.mark.parametrize("slip", SLIPS)
def test_likely_slips_have_a_clear_error(slip):
    call, match = SLIPS[slip]
    with pytest.raises(ConfigurationError, match=match):
        call()


def test_a_relative_radius_may_come_from_numpy():
    assert Relative(np.array(0.1)) == Relative(0.1)


def test_rows_of_booleans_are_labels():
    """As a comparison with the classes gives them."""
    start = net()
    models = copy.deepcopy(start), copy.deepcopy(start)
    for model, rows in zip(models, (ROWS, ROWS.bool()), strict=True):
        fit(model, data=(X, rows), seed=0)
    assert same(*map(weights, models))


def test_numpy_numbers_make_a_report_that_can_be_saved():
    numbers = {"seed": np.int64(3), "batch_size": np.int64(8), "examples": np.int64(2)}
    report = artplus.evaluate(net(), X, Y, attacks="pgd", eps=0.1, progress=False, **numbers)
    assert artplus.Report.from_json(report.to_json()).batch_size == 8
