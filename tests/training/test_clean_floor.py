"""λ as a controller: up while there is clean accuracy to spare, down while there is too little."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from artplus import fit
from artplus.errors import ConfigurationError
from artplus.losses import Objective, Terms, make_loss
from artplus.training.callbacks import Callback, Checkpoint, CleanFloor
from tests.toys import net

X, Y = torch.rand(32, 6, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3


class Told(Callback):
    """Clean accuracies known beforehand."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_epoch_end(self, state):
        state.row["val_clean_accuracy"] = self.values[state.epoch - 1]


def run(*callbacks, epochs: int = 4, resume=None, **options):
    torch.manual_seed(0)
    model = net()
    settings = {"loss": "trades", "eps": 0.02, "seed": 0, "progress": False} | options
    history = fit(
        model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), epochs=epochs, batch_size=8,
        callbacks=callbacks, resume=resume, **settings,
    )  # fmt: skip
    return model, history


def test_lam_follows_the_rule():
    """λ ← λ exp(g (a − floor)), each epoch trained with what the one before decided."""
    _, history = run(Told(0.9, 0.7, 0.8, 0.8), CleanFloor(0.8, gain=5.0))
    first = 6.0 * math.exp(5 * 0.1)
    assert history["lam"] == pytest.approx([6.0, first, 6.0, 6.0])


def test_lam_stays_in_its_range():
    _, history = run(Told(1.0, 1.0, 0.0, 0.0), CleanFloor(0.5, gain=50, least=1.0, greatest=7.0))
    assert history["lam"] == pytest.approx([6.0, 7.0, 7.0, 1.0])


def test_a_floor_out_of_reach_is_told():
    _, history = run(Told(0.1, 0.1, 0.1, 0.1), CleanFloor(0.9, gain=50))
    assert "stayed below the floor 90.0% even at λ = 0.01" in history.notes[-1]


def test_the_floor_at_what_is_measured_changes_nothing():
    """Then λ is what it was, to the last bit of the weights."""
    steered, _ = run(Told(0.5, 0.5, 0.5, 0.5), CleanFloor(0.5))
    plain, _ = run()
    for a, b in zip(steered.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


class Stop(Callback):
    watches = True

    def on_pause(self, state):
        if state.step == 6:
            raise KeyboardInterrupt


def test_a_resumed_run_goes_on_with_its_lam(tmp_path):
    values = Told(0.9, 0.7, 0.95, 0.8)
    through, whole = run(values, CleanFloor(0.8))
    with pytest.raises(KeyboardInterrupt):
        run(values, CleanFloor(0.8), Stop(), Checkpoint(tmp_path, every_steps=2))
    resumed, history = run(
        values, CleanFloor(0.8), Checkpoint(tmp_path, every_steps=2), resume=tmp_path
    )
    assert history["lam"] == whole["lam"]
    for a, b in zip(through.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "options, match",
    [
        ({"lam": 0.0}, "must begin as a number above 0"),
        ({"lam": lambda progress: 1.0}, "must begin as a number above 0"),
        ({"loss": "at"}, "'at' has no clean term"),
    ],
)
def test_what_cannot_be_steered_is_refused(options, match):
    with pytest.raises(ConfigurationError, match=match):
        run(CleanFloor(0.8), **options)


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigurationError, match="least=2 is above greatest=1"):
        CleanFloor(0.5, least=2, greatest=1)
    with pytest.raises(ConfigurationError, match="floor"):
        CleanFloor(1.5)


@pytest.mark.parametrize("name", ["at", "mine"])
def test_the_terms_decide_and_not_the_name(name):
    """A loss without a fixed term is refused, and one with a fixed term is taken, however named."""

    def terms(ctx):
        adversarial = ctx.model(ctx.x_adv)
        return Terms(scaled=ctx.loss(adversarial), adversarial=adversarial)

    with pytest.raises(ConfigurationError, match=f"'{name}' has no clean term"):
        run(CleanFloor(0.8), loss=Objective(name, terms, has_fixed_term=False))
    values = Told(0.9, 0.7, 0.95, 0.8)
    mix = replace(make_loss("mix"), name=name)
    assert run(values, CleanFloor(0.8), loss=mix)[1]["lam"][1] != 1.0
