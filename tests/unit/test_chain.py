"""Chain: where the second attack begins, what the first keeps, and what does not go together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import APGD, PGD, Chain, Cycle, Relative, Square
from artplus.attacks.combine import each
from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.toys import wrong

SPACE = InputSpace(0.0, 1.0)


@dataclass(frozen=True)
class Shifted:
    """An attack that returns a fixed shift of the start and remembers how it was called."""

    shift: float
    calls: list[dict[str, Any]]
    eps: Any = 0.5
    norm: float = float("inf")

    def __call__(self, model, x: Tensor, y: Tensor, *, start=None, **rest: Any) -> Tensor:
        self.calls.append({"x": x, "y": y, "start": start, **rest})
        return (x if start is None else start) + self.shift

    def with_eps(self, scale: float) -> Shifted:
        return Shifted(self.shift * scale, self.calls, self.eps * scale, self.norm)


def ramp() -> LossModel:
    """Class 1 where the single feature is above a half."""
    linear = nn.Linear(1, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0], [1.0]]))
        linear.bias.copy_(torch.tensor([0.5, 0.0]))
    return LossModel(linear)


def test_the_second_begins_where_the_first_ended_on_what_it_did_not_fool() -> None:
    """What the first fooled stays as it is; mask, labels and start are those of the others."""
    x, y = torch.tensor([[0.4], [0.1], [0.2]]), torch.zeros(3, dtype=torch.long)
    first, then = Shifted(0.2, []), Shifted(0.01, [])
    mask = torch.tensor([[1.0], [1.0], [1.0]]) > 0
    x_adv = Chain(first, then)(ramp(), x, y, space=InputSpace(0.0, 1.0, mask))
    torch.testing.assert_close(x_adv, torch.tensor([[0.6], [0.31], [0.41]]))
    (call,) = then.calls
    torch.testing.assert_close(call["x"], x[1:])
    torch.testing.assert_close(call["start"], x[1:] + 0.2)
    assert len(call["y"]) == len(call["space"].mask) == 2


def test_the_second_rests_where_the_first_fooled_all() -> None:
    """There is nothing left to do."""
    then = Shifted(0.1, [])
    Chain(Shifted(0.4, []), then)(ramp(), torch.full((2, 1), 0.3), torch.zeros(2, dtype=torch.long))
    assert not then.calls


def test_restarts_begin_anew_on_what_still_stands() -> None:
    """Both attacks again on the rest, from the input; a start of the user's serves the first."""
    x, y = torch.tensor([[0.45], [0.1], [0.2]]), torch.zeros(3, dtype=torch.long)
    first, then = Shifted(0.1, []), Shifted(0.1, [])
    start = torch.tensor([[0.46], [0.2], [0.35]])
    x_adv = Chain(first, then, restarts=3)(ramp(), x, y, space=SPACE, start=start)
    torch.testing.assert_close(x_adv, torch.tensor([[0.56], [0.3], [0.55]]))
    assert [len(call["x"]) for call in first.calls] == [3, 1, 1]
    assert [len(call["x"]) for call in then.calls] == [2, 1, 1]
    assert [call["start"] is None for call in first.calls] == [False, True, True]
    model = LossModel(nn.Linear(1, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="no classes and so no mistakes"):
        Chain(first, then, restarts=2)(model, x, torch.zeros(3, 1))


def test_in_regression_and_with_a_radius_per_example_all_go_on() -> None:
    """There is no verdict in the one, and in the other the radius belongs to the batch."""
    x, then = torch.tensor([[0.4], [0.1]]), Shifted(0.1, [])
    model = LossModel(nn.Linear(1, 1), task_for(nn.MSELoss()))
    Chain(Shifted(0.2, []), then)(model, x, torch.zeros(2, 1))
    radii = torch.tensor([[0.5], [0.5]])
    Chain(Shifted(0.2, [], radii), Shifted(0.1, then.calls, radii))(ramp(), x, torch.tensor([0, 0]))
    assert [len(call["x"]) for call in then.calls] == [2, 2]


class Masked(nn.Module):
    """No gradient near 0 and a slope farther out: class 1 beyond 0.45."""

    def forward(self, x: Tensor) -> Tensor:
        far = torch.relu(x.sum(1) - 0.1) - 0.35
        return torch.stack([torch.zeros_like(far), far], 1)


def test_it_leads_out_of_a_region_without_gradients() -> None:
    """From the input there is nothing to follow, and Square reaches no corner that is far enough.

    One feature: Square's corners are 0 and 0.5 away, so with luck it fools at once; held back to
    0.2 by a first attack that goes only so far, gradients find the rest.
    """
    model = LossModel(Masked())
    x, y = torch.zeros(3, 1), torch.zeros(3, dtype=torch.long)
    blind = APGD(eps=0.5, steps=10, loss="margin", random_start=False)
    assert not ~model.task.correct(model(blind(model, x, y, space=SPACE)), y).any()
    led = Chain(Shifted(0.2, []), blind)(model, x, y, space=SPACE)
    assert wrong(model, model(led), y).all()


def test_scaling_and_changing_reach_both() -> None:
    """Radius and step lengths of both; a change goes to every single attack."""
    relay = Chain(Square(eps=0.1, queries=10), PGD(eps=0.1, step_size=0.02), restarts=3)
    half = relay.with_eps(0.5)
    assert half.restarts == 3
    assert (half.eps, half.first.eps, half.then.step_size) == (0.05, 0.05, 0.01)
    seen: list[str] = []

    def note(attack):
        seen.append(type(attack).__name__)
        return attack

    assert each(Cycle([relay]), note) == Cycle([relay])
    assert seen == ["Square", "PGD"]


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        (PGD(eps=0.1), PGD(eps=0.2), "same eps and norm"),
        (PGD(eps=0.1), PGD(eps=0.1, norm=2), "same eps and norm"),
        (PGD(eps=Relative(0.1)), PGD(eps=0.1), "same eps and norm"),
        (PGD(eps=0.1), PGD(eps=np.full(2, 0.1)), "same eps and norm"),
        (PGD(eps=0.1), PGD(eps=0.1, targeted=True), "cannot be both"),
        (PGD(eps=0.1), "pgd", "Translate an ART attack"),
    ],
)
def test_what_does_not_go_together_is_refused(first, then, words) -> None:
    """Before any work."""
    with pytest.raises(ConfigurationError, match=words):
        Chain(first, then)


def test_equal_radii_of_any_kind_go_together() -> None:
    """Numbers, relative ones, arrays and tensors."""
    for eps in (0.1, Relative(0.1), np.full(2, 0.1), torch.full((2,), 0.1)):
        assert Chain(PGD(eps=eps), PGD(eps=eps)).eps is eps


def test_what_the_first_fooled_stays_where_the_radius_is_an_array() -> None:
    """The second is run on the whole batch there, which is no reason to take its word for all."""
    x, y, radii = torch.tensor([[0.4], [0.1]]), torch.zeros(2, dtype=torch.long), np.full(1, 0.5)
    x_adv = Chain(Shifted(0.2, [], radii), Shifted(-0.3, [], radii))(ramp(), x, y)
    torch.testing.assert_close(x_adv, torch.tensor([[0.6], [0.0]]))
