"""Resuming a run that trains some of the weights: the others must be those of its beginning."""

from __future__ import annotations

import copy

import pytest
import torch

from artplus import fit
from artplus.errors import CheckpointError
from artplus.training import checkpoint
from artplus.training.callbacks import EMA, Checkpoint, KeepBest
from tests.toys import same, weights
from tests.training.test_frozen import PER_EPOCH, Scripted, Teacher, Unfreeze, X, Y, adapted

EPOCHS = 3


def run(*callbacks, model=None, resume=None, epochs=EPOCHS):
    """Weights, figures and flags after a run with averages and a choice among epochs."""
    model = adapted() if model is None else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = fit(
        model, (X, Y), optimizer, eps=0.05, epochs=epochs, batch_size=8, seed=0, progress=False,
        callbacks=[EMA(0.9), Scripted(0.2, 0.1, 0.3), KeepBest(), *callbacks], resume=resume,
    )  # fmt: skip
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    return weights(model), rows, [p.requires_grad for p in model.parameters()]


def alike(a, b):
    return same(a[0], b[0]) and a[1:] == b[1:]


EXTRAS = {
    "nothing": lambda: [],
    "unfreezing": lambda: [Unfreeze(4)],
    "unfreezing once": lambda: [Once(4)],
    "a teacher": lambda: [Teacher()],
}


class Once(Unfreeze):
    """Unfreezes in one step only: a run that is resumed later does not see it happen."""

    def on_step_begin(self, state):
        if state.step == self._step:
            state.model.module[0].requires_grad_(True)


@pytest.mark.parametrize("extra", EXTRAS)
def test_resumed_at_every_step_equals_the_uninterrupted_run(tmp_path, extra):
    """Bit for bit, with whatever changes frozen weights; saving changes nothing."""
    reference = run(*EXTRAS[extra]())
    saving = Checkpoint(tmp_path, every_steps=1, keep=99)
    assert alike(run(*EXTRAS[extra](), saving), reference)
    known = checkpoint.listed(tmp_path)
    assert list(known) == list(range(1, EPOCHS * PER_EPOCH + 1))
    for path in known.values():
        assert alike(run(*EXTRAS[extra](), resume=path), reference), path.name


def test_other_frozen_weights_are_refused(tmp_path):
    """The pretrained model was replaced by another one: named, before any step."""
    run(Checkpoint(tmp_path), epochs=2)
    model = adapted()
    with torch.no_grad():
        model[0].weight[3, 2] += 1e-6
    before = weights(model)
    with pytest.raises(CheckpointError, match=r"1 of the 2 frozen weights .* first is '0.weight'"):
        run(Checkpoint(tmp_path), model=model, resume=tmp_path, epochs=2)
    assert same(weights(model), before)


def test_the_model_in_hand_can_be_resumed(tmp_path):
    """In one session, after an interruption, with the layer unfrozen already."""

    class Stop(Unfreeze):
        watches = True

        def on_step_end(self, state):
            if state.step == 7:
                raise RuntimeError("stop")

        def on_step_begin(self, state):
            pass

    reference = run(Once(4))
    model = adapted()
    with pytest.raises(RuntimeError, match="stop"):
        run(Once(4), Stop(0), Checkpoint(tmp_path, every_steps=1, keep=99), model=model)
    assert alike(run(Once(4), model=model, resume=tmp_path), reference)


def test_a_checkpoint_without_one_of_the_weights_is_refused(tmp_path):
    """What it leaves out must be what it says was frozen."""
    run(Checkpoint(tmp_path), epochs=2)
    saved = checkpoint.read(checkpoint.listed(tmp_path)[PER_EPOCH])
    del saved["model"]["3.bias"]
    path = checkpoint.write(tmp_path, PER_EPOCH, saved)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit the run .*3\.bias"):
        run(resume=path, model=copy.deepcopy(adapted()), epochs=2)
