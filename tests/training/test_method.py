"""An objective with its attack, in the user's own loop: averages, weights, smoothing, λ."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from artplus import make_method
from artplus.attacks import APGD, PGD, Average, Cycle, WorstOf
from artplus.errors import ConfigurationError, UnknownNameError
from artplus.losses import Objective, Terms, list_losses, make_loss
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from artplus.training import Method
from tests.toys import arrays, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(30))


def fixed(eps: float) -> PGD:
    return PGD(eps=eps, steps=2, random_start=False)


def grads(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize(
    "name", [n for n in list_losses() if n != "input_gradient" and not make_loss(n).task]
)
def test_average_is_the_mean_of_the_single_losses(name):
    """Value and gradient of two attacks are the mean of each alone."""
    model = nn.Linear(6, 3)
    starts_off = make_loss(name).start_noise > 0
    attacks = [fixed(0.02), fixed(0.05)]
    if starts_off:  # their start off x is drawn, so the same generator for all
        attacks = [PGD(eps=e, steps=1, step_size=0.0) for e in (0.02, 0.05)]

    def loss(attack):
        g = torch.Generator().manual_seed(0)
        return make_method(name, attack=attack).loss(model, X, Y, generator=g)

    both, first = loss(Average(attacks)), loss(attacks[0])
    if starts_off:
        g = torch.Generator().manual_seed(0)
        torch.rand(X.shape, generator=g)  # what the first attack draws
        second = make_method(name, attack=attacks[1]).loss(model, X, Y, generator=g)
    else:
        second = loss(attacks[1])
    torch.testing.assert_close(both, (first + second) / 2)
    for a, b, c in zip(grads(model, both), grads(model, first), grads(model, second), strict=True):
        torch.testing.assert_close(a, (b + c) / 2)


def test_cycle_follows_the_step():
    """Method.loss(step=) picks the attack in turn."""
    model = nn.Linear(6, 3)
    attacks = [fixed(0.02), fixed(0.05)]
    cycle = make_method("at", attack=Cycle(attacks))
    for step in range(3):
        alone = make_method("at", attack=attacks[step % 2])
        torch.testing.assert_close(cycle.loss(model, X, Y, step=step), alone.loss(model, X, Y))


@pytest.mark.parametrize("rows", [False, True])
def test_class_weights_are_torchs_weighted_cross_entropy(rows):
    """At radius 0 the loss is F.cross_entropy(weight=), for numbers and one-hot rows."""
    model = nn.Linear(6, 3)
    weight = torch.tensor([1.0, 3.0, 0.25])
    y = F.one_hot(Y, 3).float() if rows else Y
    method = make_method("at", attack=fixed(0.0), class_weight=weight)
    torch.testing.assert_close(
        method.loss(model, X, y), F.cross_entropy(model(X), Y, weight=weight)
    )


def test_the_losss_own_weights_and_ignored_labels_count():
    """CrossEntropyLoss(weight, ignore_index) means what it means in torch, and twice multiplies."""
    model = nn.Linear(6, 3)
    weight, more = torch.tensor([1.0, 3.0, 0.25]), torch.tensor([2.0, 1.0, 1.0])
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=2)
    seen = LossModel(model, task_for(loss))
    at = make_method("at", attack=fixed(0.0))
    torch.testing.assert_close(at.loss(seen, X, Y), loss(model(X), Y))
    both = make_method("at", attack=fixed(0.0), class_weight=more)
    expected = nn.CrossEntropyLoss(weight=weight * more, ignore_index=2)(model(X), Y)
    torch.testing.assert_close(both.loss(seen, X, Y), expected)


def test_smoothing_is_torchs_label_smoothing():
    """At radius 0 the loss is F.cross_entropy(label_smoothing=); the attack sees true labels."""
    model = nn.Linear(6, 3)
    seen = []

    class Watched(PGD):
        def __call__(self, model, x, y, **options):
            seen.append(y)
            return super().__call__(model, x, y, **options)

    method = make_method("at", attack=Watched(eps=0.0, random_start=False), label_smoothing=0.3)
    torch.testing.assert_close(
        method.loss(model, X, Y), F.cross_entropy(model(X), Y, label_smoothing=0.3)
    )
    assert torch.equal(seen[0], Y)


def test_a_lam_schedule_follows_progress():
    """λ is the schedule's value at the fraction done, and must be a number >= 0."""
    model = nn.Linear(6, 3)
    method = make_method("mix", lam=lambda p: 4 * p, attack=fixed(0.02))
    for progress in (0.0, 0.25, 1.0):
        alone = make_method("mix", lam=4 * progress, attack=fixed(0.02))
        torch.testing.assert_close(
            method.loss(model, X, Y, progress=progress), alone.loss(model, X, Y)
        )
    bad = make_method("mix", lam=lambda p: -1.0, attack=fixed(0.02))
    with pytest.raises(ConfigurationError, match="lam schedule at progress 0.5"):
        bad.loss(model, X, Y, progress=0.5)


def test_crafting_leaves_no_trace():
    """No gradient, flag, buffer or dropout draw of the model is touched by the attack."""
    model = net(dropout=0.5).train()
    loss = F.cross_entropy(model(X), Y)
    loss.backward()
    kept = [p.grad.clone() for p in model.parameters()]
    before, stream = weights(model), torch.get_rng_state()
    g = torch.Generator().manual_seed(0)
    make_method("trades", eps=0.1).craft(LossModel(model), X, Y, generator=g)
    assert same(before, weights(model)) and torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(a, p.grad) for a, p in zip(kept, model.parameters(), strict=True))
    assert all(m.training for m in model.modules())


def test_slices_of_the_attack_give_the_same_loss():
    """Attacking a batch in slices changes the speed, not the examples."""
    model = net().eval()
    whole = make_method("trades", eps=0.05)
    sliced = copy.copy(whole)
    object.__setattr__(sliced, "slice_size", 8)
    values = [
        m.loss(model, X, Y, generator=torch.Generator().manual_seed(1)) for m in (whole, sliced)
    ]
    torch.testing.assert_close(*values)


def test_dropout_masks_are_shared_between_averaged_attacks():
    """Each attack meets the same thinned network, so their difference is the perturbation's."""
    model = net(dropout=0.5).train()
    attack = fixed(0.0)
    torch.manual_seed(3)
    both = make_method("mix", attack=Average([attack, attack])).loss(model, X, Y)
    torch.manual_seed(3)
    one = make_method("mix", attack=attack).loss(model, X, Y)
    torch.testing.assert_close(both, one)


def test_at_averages_batch_statistics_over_its_attacked_batches():
    """Where there is no clean pass, every attacked batch moves the statistics."""
    model = net().train()
    make_method("at", attack=Average([fixed(0.02), fixed(0.05)])).loss(model, X, Y)
    assert int(model[1].num_batches_tracked) == 2


def test_a_norm_beside_an_attack_may_be_its_own():
    """And a norm alone is that of the default attack."""
    attack = PGD(eps=0.1, norm=2)
    assert make_method("at", attack=attack, norm=2).attack == attack
    assert make_method("at", eps=0.1, norm=2).attack.norm == 2


@pytest.mark.parametrize(
    "options, error, match",
    [
        ({"loss": "trade"}, UnknownNameError, "Did you mean 'trades'"),
        ({"eps": 0.1, "attack": fixed(0.1)}, ConfigurationError, "not both"),
        ({}, ConfigurationError, "needs an attack"),
        ({"loss": "input_gradient", "eps": 0.1}, ConfigurationError, "would be ignored"),
        ({"eps": -1}, ConfigurationError, "eps must be"),
        ({"eps": 0.1, "label_smoothing": -0.1}, ConfigurationError, r"\[0, 1\)"),
        (
            {"loss": "trades", "attack": APGD(eps=0.1, loss="ce")},
            ConfigurationError,
            "climbs a loss of its own",
        ),
        (
            {"loss": "trades", "attack": Cycle([fixed(0.1), APGD(eps=0.1, loss="ce")])},
            ConfigurationError,
            "climbs a loss of its own",
        ),
        (
            {"loss": "trades", "attack": WorstOf([fixed(0.1), APGD(eps=0.1, loss="ce")])},
            ConfigurationError,
            "climbs a loss of its own",
        ),
        (
            {"loss": "mse", "attack": PGD(eps=0.1, targeted=True)},
            ConfigurationError,
            "is targeted and would minimise it",
        ),
        ({"attack": fixed(0.1), "norm": 2}, ConfigurationError, "norm=2 contradicts .* norm inf"),
        (
            {"attack": Cycle([PGD(eps=0.1, norm=2)]), "norm": 1},
            ConfigurationError,
            "norm=1 contradicts the attack's own norm 2",
        ),
        ({"loss": "input_gradient", "norm": 2}, ConfigurationError, "norm=2 would be ignored"),
        (
            {"attack": [fixed(0.1), fixed(0.2)]},
            ConfigurationError,
            r"got a list of 2; say how .* Cycle\(\[",
        ),
        ({"attack": ()}, ConfigurationError, "got a tuple of 0"),
        ({"attack": "pgd"}, ConfigurationError, "attacks, got str; translate"),
        ({"attack": 0.1, "loss": "trades"}, ConfigurationError, "got float"),
    ],
)
def test_methods_that_cannot_work(options, error, match):
    """Refused when they are made."""
    with pytest.raises(error, match=match):
        make_method(**{"loss": "mix"} | options)


def test_an_own_objective_needs_no_registration():
    """Objective and Terms are all there is to it."""

    def terms(ctx):
        model, x_adv, y = ctx.model, ctx.x_adv, ctx.y
        return Terms(scaled=model.loss(model(x_adv), y) ** 2)

    method = Method(objective=Objective("squared", terms), attack=fixed(0.0), space=InputSpace())
    model = nn.Linear(6, 3)
    torch.testing.assert_close(
        method.loss(model, X, Y), (F.cross_entropy(model(X), Y, reduction="none") ** 2).mean()
    )


def counting(fixed, scaled, lam=2.0):
    """An objective whose two terms count different examples."""

    def terms(ctx):
        clean, adversarial = ctx.pair()
        return Terms(fixed=ctx.loss(clean), scaled=ctx.loss(adversarial))

    return Objective("counting", terms, lam=lam, counts=lambda y: (fixed(y), scaled(y)))


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_each_term_is_the_mean_over_its_own_examples(share):
    """And only those of the scaled term are attacked."""
    torch.manual_seed(0)
    model, x, y = torch.nn.Linear(4, 3).double(), torch.rand(12, 4).double(), torch.arange(12) % 3
    objective = counting(lambda y: y == 0, lambda y: y == 1)
    attack = PGD(eps=0.3, steps=2, random_start=False)
    method = make_method(objective, attack=attack, bounds=(0, 1), attack_share=share)
    rows = method.chosen(x, y, torch.Generator().manual_seed(1))
    assert set(y[rows].tolist()) == {1} and len(rows) == 4 * share
    loss = method.loss(model, x, y, generator=torch.Generator().manual_seed(1))
    (x_adv,) = method.craft(LossModel(model), x[rows], y[rows])
    expected = F.cross_entropy(model(x)[y == 0], y[y == 0])
    expected = expected + 2 * F.cross_entropy(model(x_adv), y[rows])
    torch.testing.assert_close(loss, expected)


def test_a_term_that_counts_nothing_is_zero():
    """The gradient is that of the other term alone."""
    model, x, y = torch.nn.Linear(4, 3), torch.rand(6, 4), torch.zeros(6, dtype=torch.long)

    def terms(ctx):
        clean, adversarial = ctx.pair()
        return Terms(fixed=ctx.loss(clean), scaled=ctx.loss(adversarial))

    objective = Objective("none", terms, counts=lambda y: (None, y == 1))
    loss = make_method(objective, eps=0.1, bounds=(0, 1)).loss(model, x, y)
    plain = F.cross_entropy(model(x), y)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(
        torch.autograd.grad(loss, model.weight), torch.autograd.grad(plain, model.weight)
    )
