"""The count of passes: closed forms, every way into a model, and what cannot be counted."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus import modes
from artplus.attacks import APGD, FAB, PGD, Attack, Microbatched, Square, WorstOf, fgm
from artplus.model import LossModel
from artplus.passes import Passes, asking, counted, watching

N = 12


class Spied(torch.autograd.Function):
    """The identity, telling a list of every example that passes either way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seen: list[int]) -> Tensor:
        ctx.seen = seen
        seen[0] += len(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        ctx.seen[1] += len(slope)
        return slope, None


class Spy(nn.Module):
    """A first layer that counts by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [0, 0]

    def forward(self, x: Tensor) -> Tensor:
        return Spied.apply(x, self.seen)


def spied() -> tuple[nn.Sequential, list[int]]:
    torch.manual_seed(0)
    spy = Spy()
    return nn.Sequential(spy, nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), spy.seen


def data(net: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.rand(N, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(x).argmax(1)


def cost(attack: Attack) -> tuple[int, int]:
    """Passes of an attack on N examples, which the model's own count confirms."""
    net, seen = spied()
    x, y = data(net)
    seen[:] = [0, 0]
    with counted(LossModel(net)) as (model, passes):
        attack(model, x, y, generator=torch.Generator().manual_seed(0))
    assert passes.known and [passes.forwards, passes.backwards] == seen
    return passes.forwards, passes.backwards


@pytest.mark.parametrize(
    ("attack", "forwards", "backwards"),
    [
        (PGD(eps=0.01, steps=7), 7, 7),
        (PGD(eps=0.01, steps=5, restarts=3), 21, 15),
        (fgm(0.01), 1, 1),
        (APGD(eps=0.01, steps=9), 10, 10),
        (APGD(eps=0.01, steps=4, draws=3), 15, 15),
        (Microbatched(PGD(eps=0.01, steps=4), 5), 4, 4),
        (WorstOf([PGD(eps=0.01, steps=2), fgm(0.01)]), 7, 3),
    ],
)
def test_passes_of_an_attack_in_closed_form(attack: Attack, forwards: int, backwards: int) -> None:
    """One each way a step, two forward to judge a run by; slices change nothing."""
    assert cost(attack) == (forwards * N, backwards * N)


def test_a_black_box_takes_no_gradient() -> None:
    """Square asks at most as often as it may and never backward."""
    forwards, backwards = cost(Square(eps=0.01, queries=40))
    assert N < forwards <= 40 * N and backwards == 0


@pytest.mark.parametrize(
    "attack",
    [FAB(eps=0.5, steps=6), APGD(eps=0.9, steps=20, until_fooled=True), PGD(eps=0.9, patience=1),
     Square(eps=0.9, queries=30)],
    ids=["fab", "apgd", "friendly", "square"],
)  # fmt: skip
def test_examples_that_leave_cost_no_more(attack: Attack) -> None:
    """What the model counts is what is counted, where batches shrink on the way."""
    forwards, _ = cost(attack)
    assert forwards > 0


def test_ways_past_the_loss_model_count_too() -> None:
    """Somebody's attack may call the module itself, with a name for its input."""
    net, seen = spied()
    x, y = data(net)
    seen[:] = [0, 0]
    with counted(LossModel(net)) as (model, passes):
        z = x.clone().requires_grad_()
        torch.autograd.grad(model.module(z).sum() + model.module(input=z[:5]).sum(), z)
        nn.functional.cross_entropy(model(z), y).backward()
        model.pair(x, x.clone())
    assert seen == [passes.forwards, passes.backwards] == [4 * N + 5, 2 * N + 5]


def test_one_input_in_two_passes_counts_each() -> None:
    """A gradient through one of two passes of the same tensor is one pass back."""
    net, seen = spied()
    x, _ = data(net)
    with counted(LossModel(net)) as (model, passes):
        z = x.clone().requires_grad_()
        one, two = model(z), model(z)
        torch.autograd.grad(one.sum(), z)
        torch.autograd.grad(two[:, 0].sum(), z, retain_graph=True)
        torch.autograd.grad(two[:, 1].sum(), z)
    assert passes.backwards == seen[1] == 3 * N


def test_gradients_of_weights_alone_are_no_passes_to_the_input() -> None:
    """What is counted back is the input's gradient."""
    net, _ = spied()
    x, _ = data(net)
    with counted(LossModel(net)) as (model, passes):
        model(x).sum().backward()
    assert (passes.forwards, passes.backwards) == (N, 0)


def test_the_count_changes_no_example_and_leaves_no_hook() -> None:
    """The same bits as without it, in a faster convolution's gradient too."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)).eval()
    x, y = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    attack, model = PGD(eps=0.1, steps=3, random_start=False), LossModel(net)
    alone = attack(model, x, y)
    with counted(model) as (watched, passes):
        assert torch.equal(attack(watched, x, y), alone)
    assert (passes.forwards, passes.backwards) == (12, 12)
    assert not net._forward_hooks and not net._forward_pre_hooks


def test_a_pass_that_raises_leaves_the_count_sound() -> None:
    """A door that an error left open would swallow every later pass."""
    net, _ = spied()
    x, _ = data(net)
    with counted(LossModel(net)) as (model, passes):
        for call in (model, model.module):
            with pytest.raises(RuntimeError, match="shape"):
                call(torch.rand(N, 5))
        model(x)
        model.module(x)
    assert passes.forwards == 4 * N


@pytest.mark.parametrize(
    "ask",
    [
        lambda net, x: torch.func.vmap(net)(x),
        lambda net, x: torch.autograd.grad(
            net(z := x.clone().requires_grad_()), z, torch.eye(3)[:, None].expand(3, N, 3),
            is_grads_batched=True,
        ),
        lambda net, x: net([x]),
    ],
    ids=["vmap", "gradients in one go", "no tensor"],
)  # fmt: skip
def test_what_cannot_be_counted_is_not_known(ask: Any) -> None:
    """Where the number of examples does not show there is no number."""

    class Loose(nn.Linear):
        def forward(self, input: Any) -> Tensor:
            return super().forward(input[0] if isinstance(input, list) else input)

    net = Loose(6, 3)
    with counted(LossModel(net)) as (model, passes):
        ask(model.module, torch.rand(N, 6))
    assert not passes.known


def test_modules_that_hear_no_hooks() -> None:
    """Of a scripted module a pass through the view counts, and silence is not zero."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(6, 3))
    with counted(LossModel(scripted)) as (model, passes):
        model(torch.rand(N, 6))
    assert passes.known and passes.forwards == N
    with counted(LossModel(scripted)) as (model, passes):
        model.module(torch.rand(N, 6))
    assert not passes.known


def test_compiled_modules_count_as_they_are() -> None:
    """Compiled around: everything. Compiled in place: what goes through the view."""
    net, _ = spied()
    x, _ = data(net)
    around = torch.compile(net, backend="eager")
    around(x)
    with counted(LossModel(around)) as (model, passes):
        z = x.clone().requires_grad_()
        model(z).sum().backward()
        model.module(z).sum().backward()
    assert passes.known and (passes.forwards, passes.backwards) == (2 * N, 2 * N)
    net.compile(backend="eager")
    net(x)
    with counted(LossModel(net)) as (model, passes):
        PGD(eps=0.1, steps=3)(model, x, torch.zeros(N).long())
    assert passes.known and (passes.forwards, passes.backwards) == (3 * N, 3 * N)


def test_an_attack_on_nothing_costs_nothing() -> None:
    """Noise asks nobody, and zero is right."""
    net, _ = spied()
    with counted(LossModel(net)) as (_, passes):
        pass
    assert passes.known and passes.forwards == passes.backwards == 0


def test_adapters_are_silent_where_nobody_counts() -> None:
    """In training they change nothing, not even for a moment."""
    net, _ = spied()

    class Model:
        def predict(self, x: Any) -> Any:
            return x

    model = Model()
    with watching([net]), asking(model, {"predict": None}):
        assert not net._forward_hooks and not vars(model)


def test_adapters_that_see_nothing_know_nothing() -> None:
    """An adapter says where its passes go; if none came there they went another way."""
    net, _ = spied()
    for adapter in (watching([nn.Linear(1, 1)]), asking(nn.Linear(1, 1), {"predict": None})):
        with counted(LossModel(net)) as (_, passes), adapter:
            pass
        assert not passes.known


def test_methods_outside_torch_count_their_examples() -> None:
    """A call within a call is one, gradients are those that the call gives, attributes go back."""

    class Model:
        def predict(self, x: Any) -> Any:
            return x

        def slope(self, x: Any, label: Any = None) -> Any:
            return self.predict(x)

    model = Model()
    own = model.predict
    vars(model)["predict"] = own
    ways = {"predict": None, "slope": lambda x, label=None: 1 if label else 3, "missing": None}
    with counted(LossModel(nn.Identity())) as (_, passes), asking(model, ways):
        model.predict(np.zeros((5, 2)))
        model.slope(x=np.zeros((4, 2)))
        model.slope(np.zeros((2, 2)), label=1)
    assert (passes.forwards, passes.backwards) == (11, 14) and passes.known
    assert vars(model) == {"predict": own}


def test_a_view_inside_another_door_counts_nothing_more() -> None:
    """What answers outside torch may itself ask the model that is counted."""
    net, _ = spied()
    x, _ = data(net)

    class Model:
        def predict(self, x: Any) -> Any:
            return model(x)

    with counted(LossModel(net)) as (model, passes):
        outside = Model()
        with asking(outside, {"predict": None}):
            outside.predict(x)
    assert passes.forwards == N


def test_passes_in_crafting_are_counted_once() -> None:
    """The flags and the faster gradient that crafting sets are no other door."""
    net, _ = spied()
    x, _ = data(net)
    with counted(LossModel(net)) as (model, passes), modes.attack_mode(model.module):
        model(x)
    assert passes.forwards == N
    assert isinstance(passes, Passes)
