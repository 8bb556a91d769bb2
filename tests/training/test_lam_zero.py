"""λ = 0 trains without attacks: none is made, none is paid for, and the run is plain training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from artplus import fit
from artplus.attacks import PGD, Average
from artplus.errors import ConfigurationError
from artplus.losses import list_losses, make_loss
from artplus.training import make_method
from artplus.training.callbacks import Callback
from tests.toys import arrays, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
PER_EPOCH = 3
ATTACKED = [
    name
    for name in list_losses()
    if not name.startswith("doctest")
    and make_loss(name).attacked
    and make_loss(name).has_fixed_term
    and not make_loss(name).task
]


class Counting(PGD):
    """PGD that counts its calls, over all copies that callbacks make of it."""

    calls: list[float] = []

    def run(self, *args: Any, **options: Any) -> Any:
        self.calls.append(1.0)
        return super().run(*args, **options)


@pytest.fixture
def attack() -> Counting:
    Counting.calls.clear()
    return Counting(eps=0.05, steps=2)


def train(*callbacks: Callback, start: Any = None, **options: Any) -> dict[str, torch.Tensor]:
    model = copy.deepcopy(start) if start is not None else net(dropout=0.3)
    settings = {"epochs": 2, "batch_size": 8, "seed": 0, "progress": False}
    fit(model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), callbacks=callbacks,
        **settings | options)  # fmt: skip
    return weights(model)


@pytest.mark.parametrize("name", ATTACKED)
def test_no_attack_is_made(attack, name):
    """For each loss that has a term without λ."""
    train(loss=name, lam=0.0, attack=attack)
    assert attack.calls == []
    train(loss=name, lam=0.5, attack=attack)
    assert len(attack.calls) == 2 * PER_EPOCH


def test_none_of_several_attacks_is_made(attack):
    train(loss="mix", lam=0.0, attack=Average([attack, attack]))
    assert attack.calls == []


def test_a_loss_of_one_term_attacks_at_any_lam(attack):
    """λ = 0 is no plain training there: it multiplies everything."""
    train(loss="at", lam=0.0, attack=attack)
    assert len(attack.calls) == 2 * PER_EPOCH


def test_a_schedule_attacks_from_the_step_on_at_which_lam_leaves_zero(attack):
    """The first half of training costs what plain training costs."""
    per_step = []

    class Look(Callback):
        def on_step_end(self, state):
            per_step.append(len(attack.calls))

    train(Look(), loss="trades", lam=lambda progress: float(progress >= 0.5), attack=attack)
    assert per_step == [0, 0, 0, 1, 2, 3]


def test_the_random_streams_are_those_of_plain_training(attack):
    """The attack's random start draws nothing, and dropout draws what it draws without attacks."""
    start = net(dropout=0.3)
    plain = train(start=start, loss="input_gradient", lam=0.0)
    assert same(train(start=start, loss="mix", lam=0.0, attack=attack), plain)
    assert not same(train(start=start, loss="mix", lam=1.0, attack=attack), plain)


def test_the_message_that_promises_it_is_true(attack):
    """Who asks for no attacks by ``attack_share=0`` is told ``lam=0``, which makes none."""
    with pytest.raises(ConfigurationError, match="to train without attacks give lam=0"):
        make_method("trades", attack=attack, attack_share=0.0)
    train(loss="trades", attack=attack, lam=0.0)
    assert attack.calls == []
