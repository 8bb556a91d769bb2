"""Identities that hold exactly: plain training at eps=0 and λ=0, a closed form, runs and doors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.attacks.evasion import ProjectedGradientDescent
from torch import nn

from artplus import AdversarialTrainerPlus, LossModel, fit, make_method
from artplus.attacks import PGD, Average
from artplus.losses import list_losses, make_loss
from artplus.seeding import derived
from artplus.tasks import task_for
from tests.toys import arrays, classifier, net, same, weights

SEED, EPOCHS = 5, 3
# Their fixed term is the plain loss at x.
PLAIN_AT_ZERO = [
    *("creat", "hinge", "input_gradient", "mix", "mse", "r3f", "smart", "trades", "vat"),
]


def fixed_batches(n: int = 26, size: int = 8):
    """The same batches in the same order, epoch after epoch."""
    x, y = (torch.from_numpy(v) for v in arrays(n))
    return list(zip(x.split(size), y.split(size), strict=True))


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=1e-3)


def plain_training(model: nn.Module, batches, *, epochs: int = EPOCHS) -> None:
    """The loop anybody would write, with a scheduler stepped per epoch."""
    optimizer = adam(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    torch.manual_seed(SEED)
    model.train()
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        scheduler.step()


def hardened(model: nn.Module, batches, **options) -> nn.Module:
    optimizer = adam(model)
    fit(
        model,
        batches,
        optimizer,
        epochs=EPOCHS,
        scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        seed=SEED,
        progress=False,
        **options,
    )
    return model


def test_at_with_eps_zero_is_plain_training_bit_for_bit():
    """PGD at radius 0 changes nothing: weights and buffers equal a hand-written plain loop's."""
    start = net(dropout=0.4)
    reference, ours = copy.deepcopy(start), copy.deepcopy(start)
    plain_training(reference, fixed_batches())
    hardened(ours, fixed_batches(), loss="at", attack=PGD(eps=0.0, random_start=True))
    assert same(weights(ours), weights(reference))
    assert not same(weights(ours), weights(start))


@pytest.mark.parametrize("name", PLAIN_AT_ZERO)
def test_two_pass_losses_at_lam_zero_are_plain_training_bit_for_bit(name):
    """At λ=0 the attacked pass leaves no trace, in weights, buffers or dropout's stream."""
    start = net(dropout=0.4)
    reference, ours = copy.deepcopy(start), copy.deepcopy(start)
    plain_training(reference, fixed_batches())
    attack = {} if name == "input_gradient" else {"eps": 0.04}
    hardened(ours, fixed_batches(), loss=name, lam=0.0, **attack)
    assert same(weights(ours), weights(reference))


def test_every_loss_with_a_clean_term_is_held_to_the_lam_zero_identity():
    """A built-in loss added later must join the list above, or be known to have another term."""
    known = {*PLAIN_AT_ZERO, "at", "mart", "logit_pairing"}
    ours = [n for n in list_losses() if not n.startswith("doctest")]
    assert {n for n in ours if not make_loss(n).task} == known


def test_averaged_attacks_at_lam_zero_are_plain_training_too():
    """Two attacks a batch still move batch statistics and dropout's stream once."""
    start = net(dropout=0.4)
    reference, ours = copy.deepcopy(start), copy.deepcopy(start)
    plain_training(reference, fixed_batches())
    both = Average([PGD(eps=0.04, steps=2), PGD(eps=0.04, norm=2, steps=2)])
    hardened(ours, fixed_batches(), loss="mix", lam=0.0, attack=both)
    assert same(weights(ours), weights(reference))


@pytest.mark.parametrize("name", PLAIN_AT_ZERO)
def test_lam_above_zero_is_not_plain_training(name):
    """The identity is no accident of an attack that does nothing."""
    start = net()
    reference, ours = copy.deepcopy(start), copy.deepcopy(start)
    plain_training(reference, fixed_batches())
    attack = {} if name == "input_gradient" else {"eps": 0.04}
    hardened(ours, fixed_batches(), loss=name, lam=1.0, **attack)
    assert not same(weights(ours), weights(reference))


@pytest.mark.parametrize("eps", [0.0, 0.03, 0.2])
def test_linear_model_has_the_closed_form(eps):
    r"""For s(w.x+b) under L∞ the worst case is softplus(-(s(w.x+b)) + eps*||w||_1), exactly."""
    torch.manual_seed(1)
    w, b = torch.randn(5, dtype=torch.float64), torch.randn((), dtype=torch.float64)
    x, y = torch.randn(9, 5, dtype=torch.float64), torch.randint(2, (9,))
    s = 2.0 * y - 1
    model = nn.Linear(5, 1).double()
    model.load_state_dict({"weight": w[None], "bias": b[None]})

    def logistic(z, y):
        return F.softplus(-(2.0 * y - 1) * z.squeeze(1))

    method = make_method("at", attack=PGD(eps=eps, steps=3, random_start=False))
    seen = LossModel(model, task_for(logistic))
    method.loss(seen, x, y).backward()

    free = w.clone().requires_grad_(True), b.clone().requires_grad_(True)
    margin = s * (x @ free[0] + free[1]) - eps * free[0].abs().sum()
    F.softplus(-margin).mean().backward()
    torch.testing.assert_close(model.weight.grad[0], free[0].grad, rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias.grad[0], free[1].grad, rtol=0, atol=1e-6)

    (x_adv,) = method.craft(seen, x, y)
    torch.testing.assert_close(x_adv, x - eps * s[:, None] * w.sign(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("source", ["translated", "generate"])
@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
def test_two_seeded_fits_are_identical(source):
    """Same seed, same weights and history, whatever the global generators were at."""
    x, y = arrays(30)
    start = net(dropout=0.3)

    def run(noise: int, seed: int = 3):
        np.random.seed(noise)
        torch.manual_seed(noise)
        estimator = classifier(copy.deepcopy(start))
        attack = ProjectedGradientDescent(
            estimator,
            eps=0.04,
            eps_step=0.02,
            max_iter=3,
            num_random_init=1,
            random_eps=source == "generate",  # drawn from numpy's generator, so not translated
            verbose=False,
        )
        trainer = AdversarialTrainerPlus(estimator, attack, seed=seed, verbose=False)
        history = trainer.fit(x, y, batch_size=10, nb_epochs=2)
        rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
        return weights(estimator.model), rows

    first, second, other = run(1), run(2), run(1, seed=4)
    assert same(first[0], second[0]) and first[1] == second[1]
    assert not same(first[0], other[0])


@pytest.mark.parametrize("name", ["at", "mix", "trades", "mart"])
def test_three_doors_give_the_same_weights(name):
    """The ART trainer, artplus.fit and an own loop with Method.loss move the weights alike."""
    batches = fixed_batches()
    start = net()
    attack = PGD(eps=0.04, steps=2)

    one = copy.deepcopy(start)
    estimator = classifier(one, optimizer=adam(one))
    AdversarialTrainerPlus(estimator, attack, loss=name, seed=SEED, verbose=False).fit(
        batches, nb_epochs=EPOCHS
    )

    two = copy.deepcopy(start)
    fit(
        two,
        batches,
        adam(two),
        loss=name,
        attack=attack,
        epochs=EPOCHS,
        seed=SEED,
        progress=False,
    )

    three = copy.deepcopy(start)
    optimizer = adam(three)
    method = make_method(name, attack=attack, space=estimator_space())
    generator = torch.Generator().manual_seed(derived(SEED, "attack"))
    torch.manual_seed(SEED)
    three.train()
    for _ in range(EPOCHS):
        for x, y in batches:
            optimizer.zero_grad()
            method.loss(three, x, y, generator=generator).backward()
            optimizer.step()

    assert same(weights(one), weights(two))
    assert same(weights(two), weights(three))


def estimator_space():
    from artplus.spaces import InputSpace

    return InputSpace(0.0, 1.0)


def test_the_order_of_a_shuffling_loader_is_not_moved_by_the_look_before_training():
    """Training on a seeded DataLoader sees the batches that a plain loop over it would see."""
    x, y = (torch.from_numpy(v) for v in arrays(20))
    data = torch.utils.data.TensorDataset(x, y)

    def loader():
        g = torch.Generator().manual_seed(9)
        return torch.utils.data.DataLoader(data, 6, shuffle=True, generator=g)

    start = net()
    reference, ours = copy.deepcopy(start), copy.deepcopy(start)
    plain_training(reference, loader())
    hardened(ours, loader(), loss="at", eps=0.0)
    assert same(weights(ours), weights(reference))


def test_validation_does_not_change_training():
    """Measuring on held-out arrays leaves the trained weights as they would be without."""
    start = net(dropout=0.3)
    results = []
    for held_out in (None, arrays(12, seed=1)):
        estimator = classifier(copy.deepcopy(start))
        AdversarialTrainerPlus(estimator, eps=0.04, seed=1, verbose=False).fit(
            *arrays(20), batch_size=8, nb_epochs=2, validation_data=held_out, keep_best=False
        )
        results.append(weights(estimator.model))
    assert same(*results)
