"""How weights move: perturbed weights, replays, batches in parts, parts that fit into memory."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artplus import fit
from artplus.attacks import PGD, fgm
from artplus.errors import ConfigurationError, TrainingDivergedError
from artplus.losses import Objective, Terms, list_losses, make_loss
from artplus.model import LossModel
from artplus.tasks import Classification
from artplus.training import checkpoint, make_method
from artplus.training.callbacks import Callback, Checkpoint, EpsWarmup
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps import AWP, Free, RetryOnOOM, standard
from artplus.training.steps.retry_on_oom import ran_out
from tests.toys import arrays, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
LOSSES = ["at", "mix", "trades", "mart", "input_gradient"]


def nothing() -> None:
    """No callback looks at the gradients."""


def state_of(model, method, *, lr=0.1, micro_batch=None) -> State:
    """A run over ``(X, Y)`` that has not begun."""
    model.train()
    return State(
        model=LossModel(model, Classification(classes=3)),
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9),
        method=method,
        epochs=1,
        batches_per_epoch=None,
        generator=torch.Generator().manual_seed(0),
        micro_batch=micro_batch,
    )


def method_of(name, **options):
    """The loss with a short attack, if it needs one."""
    attack = PGD(eps=0.05, steps=2) if make_loss(name).attacked else None
    return make_method(name, attack=options.pop("attack", attack), **options)


def trained(model, **options):
    """A few steps of ``fit``."""
    settings = {"loss": "at", "eps": 0.04, "batch_size": 8, "epochs": 2, "seed": 1}
    settings["bounds"] = (0.0, 1.0)
    settings |= {"progress": False} | options
    if "attack" in options:
        del settings["eps"]
    fit(model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1), **settings)
    return model


# Adversarial weight perturbation


@pytest.mark.parametrize("name", LOSSES)
def test_awp_of_zero_is_the_ordinary_step_bit_for_bit(name):
    """Dropout masks, batch statistics and random streams included."""
    start = net(dropout=0.4)
    results = []
    for step in (standard, AWP(gamma=0.0), AWP(gamma=0.5, warmup=9)):
        torch.manual_seed(3)
        model = copy.deepcopy(start)
        state = state_of(model, method_of(name))
        for _ in range(3):
            step(state, Batch(X, Y), nothing)
        results.append((weights(model), torch.get_rng_state(), state.meter.read()))
    for other in results[1:]:
        assert same(results[0][0], other[0]) and torch.equal(results[0][1], other[1])
        assert results[0][2] == other[2]


def objective_by_hand(name, model, x, x_adv, y):
    """Cross-entropy at x', or TRADES with β = 6, as the papers have them."""
    if name == "at":
        return F.cross_entropy(model(x_adv), y)
    clean = model(x)
    kl = F.kl_div(F.log_softmax(model(x_adv), 1), F.softmax(clean, 1), reduction="batchmean")
    return F.cross_entropy(clean, y) + 6 * kl


@pytest.mark.parametrize("name", ["at", "trades"])
@pytest.mark.parametrize("gamma", [0.01, 0.3])
def test_awp_is_the_papers_with_a_copied_proxy_model(name, gamma):
    """A copy ascends by SGD; its way, as long as gamma times each layer, is added and taken off."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    attack = PGD(eps=0.05, steps=2, step_size=0.03)
    method = make_method(name, attack=attack)
    state = state_of(model, method)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        AWP(gamma)(state, Batch(X, Y), nothing)

        (x_adv,) = method.craft(LossModel(twin), X, Y, generator=generator)
        proxy = copy.deepcopy(twin)
        ascent = torch.optim.SGD(proxy.parameters(), lr=0.01)
        ascent.zero_grad()
        (-objective_by_hand(name, proxy, X, x_adv, Y)).backward()
        ascent.step()
        added = {}
        with torch.no_grad():
            for (key, own), moved in zip(twin.named_parameters(), proxy.parameters(), strict=True):
                if own.ndim > 1 and "weight" in key:
                    way = moved - own
                    added[key] = gamma * own.norm() / (way.norm() + 1e-20) * way
                    own.add_(added[key])
        optimizer.zero_grad()
        objective_by_hand(name, twin, X, x_adv, Y).backward()
        with torch.no_grad():
            for key, own in twin.named_parameters():
                own.sub_(added.get(key, 0.0))
        optimizer.step()
    for key, value in weights(twin).items():
        torch.testing.assert_close(weights(model)[key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["at", "trades"])
def test_awp_of_zero_around_free_is_free_bit_for_bit(name):
    """Weights, carried perturbation, dropout and the slope of the examples."""
    start = net(dropout=0.4)
    results = []
    for step in (Free(3), AWP(gamma=0.0, inner=Free(3)), AWP(gamma=0.5, warmup=9, inner=Free(3))):
        torch.manual_seed(3)
        state = state_of(copy.deepcopy(start), make_method(name, eps=0.1))
        for _ in range(2):
            step(state, Batch(X, Y), nothing)
        assert state.descend is None
        results.append((weights(state.model.module), state.memory["free"]))
    for found, delta in results[1:]:
        assert same(results[0][0], found) and torch.equal(results[0][1], delta)
    assert float(results[0][1].abs().sum()) > 0


def test_awp_around_free_is_the_two_papers_loops():
    """In every replay weights move aside, and weights and δ take their gradient there."""
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    eps, gamma, twin = 0.1, 0.3, copy.deepcopy(start)
    state = state_of(start, make_method("at", eps=eps, bounds=(0.0, 1.0)))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9)
    AWP(gamma, inner=Free(3))(state, Batch(X, Y), nothing)

    delta = torch.zeros_like(X)
    for _ in range(3):
        z = (X + delta).clamp(0, 1).requires_grad_()
        layers = [p for p in twin.parameters() if p.ndim > 1]
        slopes = torch.autograd.grad(F.cross_entropy(twin(z.detach()), Y), layers)
        ways = zip(layers, slopes, strict=True)
        added = [gamma * w.detach().norm() / g.norm() * g for w, g in ways]
        with torch.no_grad():
            [w.add_(v) for w, v in zip(layers, added, strict=True)]
        optimizer.zero_grad()
        F.cross_entropy(twin(z), Y).backward()
        with torch.no_grad():
            [w.sub_(v) for w, v in zip(layers, added, strict=True)]
            delta = (z + eps * z.grad.sign() - X).clamp(-eps, eps)
            delta = (X + delta).clamp(0, 1) - X
        optimizer.step()
    for key, value in weights(twin).items():
        torch.testing.assert_close(weights(start)[key], value, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(state.memory["free"], delta)


def test_awp_differs_from_the_ordinary_step():
    """The identities above are no accident of a perturbation that is never added."""
    start = net()
    plain, perturbed = (
        weights(trained(copy.deepcopy(start), step=step)) for step in (standard, AWP(0.3))
    )
    assert not same(plain, perturbed)


def test_statistics_follow_one_pass_with_awp():
    """BatchNorm counts the perturbed pass alone."""
    model = net()
    trained(model, step=AWP(0.1), epochs=1)
    assert int(model[1].num_batches_tracked) == 3


class Sick:
    """An objective that fails at one of its calls."""

    def __init__(self, at: int, error: Exception) -> None:
        self.calls, self.at, self.error = 0, at, error

    def __call__(self, ctx):
        model, x_adv, y = ctx.model, ctx.x_adv, ctx.y
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return Terms(scaled=model.loss(model(x_adv), y))


@pytest.mark.parametrize("at", [1, 2])
def test_weights_are_put_back_exactly_after_an_error(at):
    """In the first pass nothing is added yet, in the second all is."""
    model = net()
    before = weights(model)
    method = make_method(Objective("sick", Sick(at, ValueError("boom"))), eps=0.05)
    with pytest.raises(ValueError, match="boom"):
        AWP(0.3)(state_of(model, method), Batch(X, Y), nothing)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_frozen_layers_are_not_perturbed():
    """A layer that gets no gradient stays as it is; so do infinite slopes' layers."""
    model = net()
    model[0].requires_grad_(False)
    before = weights(model)
    state = state_of(model, method_of("at"))
    AWP(0.3)(state, Batch(X, Y), nothing)
    after = weights(model)
    assert torch.equal(before["0.weight"], after["0.weight"])
    assert not torch.equal(before["3.weight"], after["3.weight"])


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"gamma": "big"}, {"warmup": -1}])
def test_settings_of_awp_are_checked(options):
    """When it is made."""
    with pytest.raises(ConfigurationError, match="must be"):
        AWP(**options)


# Free


def test_free_of_one_replay_at_radius_zero_is_plain_training():
    """Bit for bit, as the ordinary step at eps = 0."""
    start = net(dropout=0.3)
    free, plain = (
        weights(trained(copy.deepcopy(start), step=step, attack=PGD(eps=0.0)))
        for step in (Free(1), standard)
    )
    assert same(free, plain)


@pytest.mark.parametrize("norm", [float("inf"), 2])
def test_free_is_the_papers_loop(norm):
    """Replays, the perturbation carried from batch to batch, weights and δ from one gradient."""
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    eps, m = (0.05, 3) if norm != 2 else (0.2, 3)
    ours, twin = copy.deepcopy(start), copy.deepcopy(start)
    batches = list(zip(X.split(9), Y.split(9), strict=True))  # the last one is short
    optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    attack = fgm(eps, norm=norm)
    fit(ours, batches, optimizer, loss="at", attack=attack, step=Free(m), epochs=2,
        callbacks=[EpsWarmup(0)], seed=0, progress=False)  # fmt: skip
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    carried = torch.zeros(9, 6)
    for _ in range(2):
        for x, y in batches:
            for _ in range(m):
                delta = carried[: len(x)].clone()
                x_adv = (x + delta).clamp(0, 1).requires_grad_(True)
                optimizer.zero_grad()
                F.cross_entropy(twin(x_adv), y).backward()
                if norm == 2:
                    unit = x_adv.grad / x_adv.grad.norm(dim=1, keepdim=True)
                    delta = (x_adv.detach() + eps * unit).clamp(0, 1) - x
                    delta = delta * (eps / delta.norm(dim=1, keepdim=True)).clamp(max=1)
                else:
                    delta = x_adv.detach() - x + eps * x_adv.grad.sign()
                    delta = (x + delta.clamp(-eps, eps)).clamp(0, 1) - x
                carried[: len(x)] = delta
                optimizer.step()
    for key, value in weights(twin).items():
        torch.testing.assert_close(weights(ours)[key], value, rtol=1e-4, atol=1e-5)


def test_free_moves_the_weights_once_a_replay_and_counts_a_batch_once():
    """Steps of the optimizer, gradients shown to callbacks, rows of the meter."""
    seen = []

    class Look(Callback):
        def on_gradients(self, state):
            seen.append(state.step)

    trained(net(), step=Free(4), callbacks=[Look()], epochs=1)
    assert seen == [0] * 4 + [1] * 4 + [2] * 4


def test_free_is_resumed_with_its_perturbation(tmp_path):
    """Whatever the step: what it carries is part of the checkpoint."""
    start = net(dropout=0.2)

    def once(*callbacks, resume=None):
        return weights(
            trained(copy.deepcopy(start), step=Free(2), callbacks=callbacks, resume=resume)
        )

    reference = once(Checkpoint(tmp_path, every_steps=1, keep=99))
    known = checkpoint.listed(tmp_path)
    assert len(known) == 6
    for path in known.values():
        assert same(once(resume=path), reference), path.name


@pytest.mark.parametrize(
    "options, match",
    [
        ({"step": Free(2), "loss": "input_gradient", "eps": None}, "needs a radius"),
        ({"step": Free(2), "loss": "mix", "lam": 0.0}, "nothing for Free to climb"),
    ],
)
def test_free_refuses_what_it_cannot_climb(options, match):
    """No radius, or terms without x'."""
    with pytest.raises(ConfigurationError, match=match):
        trained(net(), **options)


def test_replays_are_counted():
    """At least one."""
    with pytest.raises(ConfigurationError, match="replays must be"):
        Free(0)


# Parts


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "name",
    [n for n in list_losses() if not n.startswith("doctest") and not make_loss(n).task],
)
def test_parts_give_the_gradient_of_the_whole_batch(name, weighted):
    """To rounding, for every loss, with weights of classes and smoothed labels; unequal parts."""
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    options = {}
    if weighted:
        options = {"class_weight": torch.tensor([1.0, 4.0, 0.5]), "label_smoothing": 0.1}
    found = []
    for size in (None, 7, 2):
        model = copy.deepcopy(start)
        attack = PGD(eps=0.05, steps=2, random_start=False) if make_loss(name).attacked else None
        method = make_method(name, attack=attack, **options)
        state = state_of(model, method, lr=0.0, micro_batch=size)
        standard(state, Batch(X, Y), nothing)
        found.append(([p.grad for p in model.parameters()], state.meter.read()))
    for gradients, figures in found[1:]:
        for own, whole in zip(gradients, found[0][0], strict=True):
            torch.testing.assert_close(own, whole, rtol=1e-4, atol=1e-6)
        assert figures == pytest.approx(found[0][1], rel=1e-4)


def test_no_part_is_larger_than_asked_for_or_a_single_example():
    """What the network sees of a batch of 24, and of one of 5."""
    rows = []
    model = nn.Linear(6, 3)
    model.register_forward_hook(lambda _, args, __: rows.append(len(args[0])))
    method = make_method("at", attack=PGD(eps=0.1, steps=1, random_start=False))
    state = state_of(model, method, micro_batch=7)
    standard(state, Batch(X, Y), nothing)
    assert rows[:4] == [6, 6, 6, 6]  # the attack
    assert rows[4:8] == [6, 6, 6, 6]  # the weights
    rows.clear()
    state.micro_batch = 2
    standard(state, Batch(X[:5], Y[:5]), nothing)
    assert rows[3:5] == [3, 2]


# Parts that fit


class Tight:
    """Cross-entropy at x' on a device with room for ``room`` examples."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.error = room, error or torch.OutOfMemoryError("simulated")
        self.failed: list[int] = []

    def __call__(self, ctx):
        model, x, x_adv, y = ctx.model, ctx.x, ctx.x_adv, ctx.y
        predictions = model(x_adv)  # dropout has drawn, statistics have moved
        if len(x) > self.room:
            self.failed.append(len(x))
            raise self.error
        return Terms(scaled=model.loss(predictions, y), adversarial=predictions)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_run_that_ran_out_is_the_run_begun_with_smaller_parts(dropout):
    """Weights, buffers, random streams: the failed attempts leave no trace but a note."""
    start = net(dropout=dropout)
    results = []
    for size in (None, 3):
        model, tight = copy.deepcopy(start), Tight(3)
        torch.manual_seed(5)
        history = fit(
            model, (X, Y), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
            loss=Objective("tight", tight), eps=0.04, batch_size=12, epochs=2, bounds=(0.0, 1.0),
            micro_batch=size, progress=False,
        )  # fmt: skip
        results.append((weights(model), torch.get_rng_state()))
        assert tight.failed == ([] if size else [12, 6])
        assert len(history.notes) == (0 if size else 2)
        if size is None:
            assert "parts of 3 from there" in history.notes[1]
    assert same(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_attack_is_made_smaller_too():
    """Where memory runs out while examples are crafted."""
    rows = []

    def inner(model, x, y):
        if len(x) > 5:
            rows.append(len(x))
            raise torch.OutOfMemoryError("simulated")
        return lambda z: model.loss(model(z), y)

    objective = replace(make_loss("at"), inner=inner)
    state = state_of(net(), make_method(objective, eps=0.1))
    RetryOnOOM(standard)(state, Batch(X, Y), nothing)
    assert rows == [24, 12, 6] and state.micro_batch == 3


def test_what_cannot_be_halved_any_further_raises_the_error_itself():
    """Two examples that do not fit."""
    state = state_of(net(), make_method(Objective("tight", Tight(1)), eps=0.1))
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        RetryOnOOM(standard)(state, Batch(X, Y), nothing)
    assert state.micro_batch == 2


def test_an_error_after_the_weights_moved_is_raised():
    """Free moves them several times a batch, which cannot be taken back."""
    calls = []

    def terms(ctx):
        model, x, x_adv, y = ctx.model, ctx.x, ctx.x_adv, ctx.y
        calls.append(len(x))
        if len(calls) == 2:
            raise torch.OutOfMemoryError("simulated")
        return Terms(scaled=model.loss(model(x_adv), y))

    state = state_of(net(), make_method(Objective("own", terms), eps=0.1))
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        RetryOnOOM(Free(3))(state, Batch(X, Y), nothing)
    assert state.moves == 1 and state.micro_batch is None


def test_an_error_while_the_weights_move_is_raised():
    """An optimizer that fails on its way has moved some of them, where a repeat would go on."""

    class Greedy(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise torch.OutOfMemoryError("simulated")

    start = net()
    moved, reference = copy.deepcopy(start), copy.deepcopy(start)
    options = {"eps": 0.04, "batch_size": 24, "epochs": 1, "seed": 0, "progress": False}
    fit(reference, (X, Y), torch.optim.SGD(reference.parameters(), lr=0.1), **options)
    with pytest.raises(torch.OutOfMemoryError, match="simulated"):
        fit(moved, (X, Y), Greedy(moved.parameters(), lr=0.1), **options)
    assert same(weights(moved), weights(reference))


@pytest.mark.parametrize("error", [ValueError("wrong"), RuntimeError("shapes do not match")])
def test_other_errors_pass_untouched(error):
    """Only want of memory is met with smaller parts."""
    tight = Tight(3, error)
    state = state_of(net(), make_method(Objective("tight", tight), eps=0.1))
    with pytest.raises(type(error), match=str(error)) as caught:
        RetryOnOOM(standard)(state, Batch(X, Y), nothing)
    assert caught.value is error
    assert tight.failed == [24] and state.micro_batch is None


@pytest.mark.parametrize(
    "error, memory",
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("not enough memory: you tried to allocate 8 GB"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_about_memory_are_known(error, memory):
    """On a GPU by type, on a processor by what torch says."""
    assert ran_out(error) is memory


def test_a_loss_that_is_no_number_still_ends_the_run():
    """Smaller parts are no way around the guard."""

    def terms(ctx):
        model, x_adv, y = ctx.model, ctx.x_adv, ctx.y
        return Terms(scaled=model.loss(model(x_adv), y) * torch.nan)

    with pytest.raises(TrainingDivergedError, match="became nan"):
        trained(net(), loss=Objective("nan", terms), micro_batch=4)
