"""Copies of the weights hold what training moves, and putting one back gives the whole model."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from artplus import fit
from artplus.errors import TrainingDivergedError
from artplus.training import checkpoint
from artplus.training.callbacks import EMA, Callback, Checkpoint, KeepBest, NonFinite, Validation
from artplus.training.frozen import BLOCK, checksum
from tests.toys import arrays, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
PER_EPOCH = 3


def adapted() -> nn.Sequential:
    """A frozen layer, batch statistics, and a small layer that trains."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
    net[0].requires_grad_(False)
    return net


TRAINED = {
    "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked",
    "3.weight", "3.bias",
}  # fmt: skip


def train(model: nn.Module, *callbacks: Callback, **options: object) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    settings = {"eps": 0.02, "epochs": 3, "batch_size": 8, "seed": 0, "progress": False}
    fit(model, (X, Y), optimizer, callbacks=callbacks, **settings | options)


class Scripted(Validation):
    """Validation accuracy as it is written here, epoch by epoch."""

    def __init__(self, *accuracies: float) -> None:
        super().__init__([], None)
        self._accuracies = accuracies

    def on_epoch_end(self, state):
        state.row["val_adversarial_accuracy"] = self._accuracies[state.epoch - 1]


class Remember(Callback):
    """All weights after each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []

    def on_step_end(self, state):
        self.weights.append(weights(state.model.module))


class Unfreeze(Callback):
    """The frozen layer trains from one step on."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, state):
        if state.step >= self._step:
            state.model.module[0].requires_grad_(True)


class Teacher(Callback):
    """Writes to a weight that asks for no gradient, as momentum encoders do."""

    def on_step_end(self, state):
        state.model.module[0].weight.data.mul_(0.9)


# What copies hold


def test_copies_hold_trained_weights_and_buffers_only(tmp_path):
    """The average, the best epoch, the guard and the checkpoint."""
    best, guard, averaged = KeepBest(), NonFinite(), []

    class Look(Callback):
        def on_step_end(self, state):
            averaged.append(set(state.averaged))

    train(adapted(), EMA(0.9), Scripted(0.1, 0.2, 0.3), best, guard, Look(), Checkpoint(tmp_path))
    saved = checkpoint.read(checkpoint.listed(tmp_path)[PER_EPOCH])
    assert set(saved["model"]) == TRAINED
    assert set(saved["state"]["averaged"]) == TRAINED
    assert set(saved["callbacks"]["KeepBest 1"]["weights"]) == TRAINED
    assert all(names == TRAINED for names in averaged)

    class Middle(Callback):
        def on_step_end(self, state):
            assert set(guard.state_dict()["sound"]) == TRAINED

    train(adapted(), guard, Middle())


def test_a_checkpoint_of_an_adapter_is_small(tmp_path):
    """Its size follows the trained weights, not the network."""
    model = nn.Sequential(nn.Linear(6, 20000), nn.Linear(20000, 6), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    train(model, EMA(0.9), Scripted(0.1), KeepBest(), Checkpoint(tmp_path), epochs=1)
    (path,) = checkpoint.listed(tmp_path).values()
    frozen = sum(p.numel() * 4 for p in model.parameters() if not p.requires_grad)
    assert path.stat().st_size < 0.1 * frozen


# What putting them back gives


@pytest.mark.parametrize("averages", [False, True])
def test_keep_best_gives_the_whole_model_of_an_epoch_before_unfreezing(averages):
    """The layer that was unfrozen afterwards gets its value from that time."""
    start, model, steps = adapted(), adapted(), Remember()
    train(model, Unfreeze(4), *[EMA(0.0)] * averages, steps, Scripted(0.9, 0.1, 0.2), KeepBest())
    assert not torch.equal(steps.weights[-1]["0.weight"], start[0].weight)
    assert torch.equal(model[0].weight, start[0].weight)
    if not averages:
        assert same(weights(model), steps.weights[PER_EPOCH - 1])


def test_keep_best_gives_the_whole_model_of_an_epoch_after_unfreezing():
    """The unfrozen layer is in the copy."""
    model, steps = adapted(), Remember()
    train(model, Unfreeze(4), steps, Scripted(0.1, 0.9, 0.2), KeepBest())
    assert same(weights(model), steps.weights[2 * PER_EPOCH - 1])
    assert not torch.equal(model[0].weight, adapted()[0].weight)


def test_what_is_frozen_again_stays_in_the_copies():
    """A layer trains in the first epoch only; its value is not that of the beginning."""

    class Freeze(Callback):
        def on_epoch_begin(self, state):
            state.model.module[3].requires_grad_(state.epoch == 0)

    model, steps = adapted(), Remember()
    train(model, Freeze(), steps, Scripted(0.1, 0.9, 0.2), KeepBest())
    assert same(weights(model), steps.weights[2 * PER_EPOCH - 1])
    assert not torch.equal(model[3].weight, adapted()[3].weight)


@pytest.mark.parametrize("averages", [False, True])
def test_weights_that_something_else_moves_are_in_the_copies(averages):
    """A frozen weight need not stand still: the best epoch's is put back."""
    model, steps = adapted(), Remember()
    train(model, *[EMA(0.0)] * averages, Teacher(), steps, Scripted(0.1, 0.9, 0.2), KeepBest())
    if not averages:
        assert same(weights(model), steps.weights[2 * PER_EPOCH - 1])
    torch.testing.assert_close(model[0].weight, adapted()[0].weight * 0.9 ** (2 * PER_EPOCH))


def test_the_average_counts_the_time_while_a_weight_was_frozen():
    """The recurrence over all weights, as if nothing had been left out."""
    start, model, steps = adapted(), adapted(), Remember()
    train(model, Unfreeze(4), EMA(0.9), steps)
    average = {name: p.detach().clone() for name, p in start.named_parameters()}
    for t, present in enumerate(steps.weights, start=1):
        decay = min(0.9, (1 + t) / (10 + t))
        for name, value in average.items():
            average[name] = decay * value + (1 - decay) * present[name]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), average[name])
    assert not torch.equal(model[0].weight, start[0].weight)


def test_validation_leaves_the_training_weights_as_they_were():
    """Averaged weights go in and training weights come back, the unfrozen ones too."""
    plain, validated = adapted(), adapted()
    one, other = Remember(), Remember()
    train(plain, Unfreeze(4), one)
    train(validated, Unfreeze(4), EMA(0.9), other, validation=(X, Y))
    assert all(same(a, b) for a, b in zip(one.weights, other.weights, strict=True))


def test_the_guard_puts_back_what_was_unfrozen_within_the_epoch():
    """NaN after the layer was unfrozen in the middle of the second epoch."""

    class Poison(Callback):
        def on_step_end(self, state):
            if state.step == 6:
                with torch.no_grad():
                    state.model.module[0].weight.fill_(torch.nan)

    model, steps = adapted(), Remember()
    with pytest.raises(TrainingDivergedError, match="weights from before this epoch"):
        train(model, Unfreeze(4), steps, Poison())
    assert same(weights(model), steps.weights[PER_EPOCH - 1])


def test_a_frozen_weight_that_is_no_number_is_not_the_training_s_fault():
    """The guard looks at what trains."""
    model = adapted()
    model.register_parameter("unused", nn.Parameter(torch.tensor(torch.nan), requires_grad=False))
    train(model, epochs=1)


# Checksums

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool,
          torch.complex64, torch.complex128)  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_checksum_is_of_the_bytes(dtype):
    """The same for a copy and for another layout in memory; another one after a small change."""
    weight = (torch.rand(3, 4, 5) * 100).to(dtype)
    value = checksum(weight)
    assert checksum(copy.deepcopy(weight)) == value
    assert checksum(weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)) == value
    changed = weight.clone()
    changed[1, 2, 3] = ~changed[1, 2, 3] if dtype == torch.bool else changed[1, 2, 3] + 1
    assert checksum(changed) != value
    assert checksum(torch.zeros(0, dtype=dtype)) == 0


@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=9), st.randoms())
def test_a_checksum_depends_on_the_order(numbers, random):
    """The same numbers at other places are other weights."""
    shuffled = list(numbers)
    random.shuffle(shuffled)
    one, other = (torch.tensor(v, dtype=torch.int32) for v in (numbers, shuffled))
    if numbers != shuffled:
        swapped = [i for i, (a, b) in enumerate(zip(numbers, shuffled, strict=True)) if a != b]
        if len(swapped) == 2:  # an exchange of two is always seen
            assert checksum(one) != checksum(other)
    else:
        assert checksum(one) == checksum(other)


def test_a_checksum_depends_on_the_order_of_blocks():
    one = torch.zeros(2 * BLOCK)
    one[0] = 1
    assert checksum(one) != checksum(one.roll(BLOCK))
