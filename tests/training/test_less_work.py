"""Less work for the same result: warm starts, early leaving, ramps of steps, shares of a batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from artplus import fit, make_method
from artplus.attacks import APGD, PGD, Average, Cycle, Microbatched, Square, WorstOf
from artplus.attacks.combine import each
from artplus.errors import ConfigurationError
from artplus.geometry import geometry
from artplus.losses import Objective, Terms, make_loss
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from artplus.training import checkpoint
from artplus.training.callbacks import (
    Augment,
    Callback,
    Checkpoint,
    EpsWarmup,
    PatienceRamp,
    StepsRamp,
    WarmStart,
)
from artplus.training.steps import Free
from tests.toys import arrays, net, same, weights
from tests.toys import wrong as misclassified

X, Y = (torch.from_numpy(v) for v in arrays(26))
BOX = InputSpace(0.0, 1.0)


def run(*callbacks, model=None, data=(X, Y), epochs=3, lr=0.1, **options):
    """A short training; returns the model and its history."""
    torch.manual_seed(0)
    model = net() if model is None else model
    settings = {"loss": "at", "batch_size": 8, "seed": 1, "progress": False}
    settings["bounds"] = (0.0, 1.0)
    if "attack" not in options:
        settings["eps"] = 0.04
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    history = fit(model, data, optimizer, callbacks=callbacks, epochs=epochs, **settings | options)
    return model, history


class StepOutput(Callback):
    """The attack in force at each step."""

    def __init__(self) -> None:
        self.attacks = []

    def on_step_end(self, state):
        self.attacks.append(state.method.attack)


# Patience


def trained(classes: int = 3) -> LossModel:
    """A net that is right on most of the data and fooled on some of it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, classes))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(X), Y).backward()
        optimizer.step()
    return LossModel(model.eval())


def one_by_one(model, x, y, *, eps, step, steps, tau, norm):
    """The authors' loop for a single example: stop at the first mistake after tau more."""
    ball, found = geometry(norm), []
    for own, label in zip(x.split(1), y.split(1), strict=True):
        z, left, retract = own, tau, ball.retraction(own, eps, BOX)
        for _ in range(steps):
            z = z.detach().requires_grad_(True)
            logits = model(z)
            if int(logits.argmax(1)) != int(label):
                if left == 0:
                    break
                left -= 1
            (slope,) = torch.autograd.grad(F.cross_entropy(logits, label), z)
            z = retract(z.detach() + step * ball.steepest(slope))
        found.append(z.detach())
    return torch.cat(found)


@pytest.mark.parametrize("norm", [float("inf"), 2])
@pytest.mark.parametrize("tau", [0, 1, 3])
def test_patience_is_the_authors_loop_example_by_example(tau, norm):
    """FAT's early-stopped PGD, whatever leaves the batch when."""
    model = trained()
    eps, step = (0.2, 0.03) if norm != 2 else (0.5, 0.08)
    attack = PGD(eps=eps, norm=norm, step_size=step, steps=12, random_start=False, patience=tau)
    expected = one_by_one(model, X, Y, eps=eps, step=step, steps=12, tau=tau, norm=norm)
    found = attack(model, X, Y, space=BOX)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    whole = PGD(eps=eps, norm=norm, step_size=step, steps=12, random_start=False)
    assert not torch.allclose(found, whole(model, X, Y, space=BOX))
    wrong = misclassified(model, model(found), Y)
    assert bool(wrong.any()) and not bool(wrong.all())


@pytest.mark.parametrize("decay", [None, 1.0])
@pytest.mark.parametrize("inner", [None, "trades", "mse"])
def test_endless_patience_is_pgd_bit_for_bit(inner, decay):
    """For inner losses of any kind, momentum and targets."""
    model = trained()
    inner = None if inner is None else make_loss(inner).inner
    for targeted in (False, True):
        results = [
            PGD(eps=0.1, steps=6, decay=decay, patience=patience, targeted=targeted)(
                model, X, Y, inner=inner, space=BOX, generator=torch.Generator().manual_seed(0)
            )
            for patience in (None, 6)
        ]
        assert torch.equal(*results)


def test_patience_of_zero_fools_whom_pgd_passes_over_on_its_way():
    """Whoever PGD fools at the end, and more: no step leads away from a mistake."""
    model = trained()
    options = {"eps": 0.15, "steps": 10, "step_size": 0.1, "random_start": False}
    wrong = [
        ~model.task.correct(model(PGD(**options, patience=p)(model, X, Y, space=BOX)), Y)
        for p in (None, 0)
    ]
    assert bool((wrong[1] | ~wrong[0]).all())


def test_a_patient_attack_passes_fewer_examples_through_the_network():
    """The work saved is real: rows seen by the first layer."""
    model = trained()
    rows = []
    model.module[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

    def cost(**options):
        rows.clear()
        PGD(eps=0.3, steps=10, **options)(model, X, Y, space=BOX)
        return sum(rows)

    assert cost() == 10 * len(X)
    assert cost(patience=0) < 0.7 * len(X) * 10


def test_patience_works_in_slices_with_masks_and_restarts():
    """As PGD itself does."""
    model = trained()
    mask = torch.ones(len(X), 6)
    mask[::2, :3] = 0
    space = InputSpace(0.0, 1.0, mask)
    attack = PGD(eps=0.2, steps=8, random_start=False, patience=1)
    whole = attack(model, X, Y, space=space)
    torch.testing.assert_close(Microbatched(attack, 5)(model, X, Y, space=space), whole)
    assert torch.equal(whole[::2, :3], X[::2, :3]) and not torch.equal(whole, X)
    again = PGD(eps=0.2, steps=8, restarts=3, patience=0)(model, X, Y, space=space)
    assert bool((again - X).abs().max() <= 0.2 + 1e-6)


def test_patience_needs_classes_and_a_look_at_x_adv():
    """What cannot be counted is refused."""
    regression = LossModel(nn.Linear(6, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="not over classes"):
        PGD(eps=0.1, patience=0)(regression, X, X[:, :1])
    with pytest.raises(ConfigurationError, match="patience must be"):
        PGD(eps=0.1, patience=-1)

    def elsewhere(model, x, y):
        return lambda z: model.loss(model(z * 0.5), y)

    with pytest.raises(ConfigurationError, match="must see the model's prediction"):
        PGD(eps=0.1, patience=0)(trained(), X, Y, inner=elsewhere)


# Warm start


def by_hand(model, x, y, epochs, *, reset, attack):
    """Accumulated perturbations with the same batches as Arrays would deal."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    order = torch.Generator().manual_seed(1)
    deltas = torch.zeros_like(x)
    seen = LossModel(model)
    model.train()
    for epoch in range(epochs):
        if reset is not None and epoch % reset == 0:
            deltas.zero_()
        positions = torch.randperm(len(x), generator=order)
        for index in positions.split(8):
            begin = (x[index] + deltas[index]).clamp(0, 1)
            x_adv = attack(seen, x[index], y[index], space=BOX, start=begin)
            deltas[index] = x_adv - x[index]
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv), y[index]).backward()
            optimizer.step()


@pytest.mark.parametrize("reset", [None, 1, 2])
def test_warm_start_accumulates_perturbations_by_position(reset):
    """A slow twin with a table of perturbations; resets forget them."""
    attack = PGD(eps=0.04, steps=1, step_size=0.01, random_start=False)
    start = net()
    ours, twin = copy.deepcopy(start), copy.deepcopy(start)
    run(WarmStart(reset, dtype=torch.float32), model=ours, attack=attack, epochs=5)
    by_hand(twin, X, Y, 5, reset=reset, attack=attack)
    for name, value in weights(twin).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-5, atol=1e-6)
    if reset is None:
        cold = copy.deepcopy(start)
        run(model=cold, attack=attack, epochs=5)
        assert not same(weights(cold), weights(ours))


def test_one_step_an_epoch_reaches_the_edge_of_the_ball():
    """Ten epochs of a tenth of the radius do what one step of a tenth cannot."""
    reach = {}

    class Look(Callback):
        def on_step_end(self, state):
            index, delta = state.starts._pending or (None, None)
            if delta is not None:
                reach[state.epoch] = float(delta.abs().max())

    attack = PGD(eps=0.04, steps=1, step_size=0.004, random_start=False)
    run(Look(), WarmStart(None), attack=attack, epochs=10, lr=0.0)
    assert reach[0] == pytest.approx(0.004, rel=0.01)
    assert reach[9] == pytest.approx(0.04, rel=0.01)


def test_starts_are_inside_the_radius_in_force_and_the_range():
    """Also where the radius shrank since, and after rounding to bfloat16."""
    starts = []

    class Watched(PGD):
        def __call__(self, model, x, y, *, start=None, **options):
            if start is not None:
                starts.append(float((start - x).abs().max()) / self.eps)
                assert float(start.min()) >= 0 and float(start.max()) <= 1
            return super().__call__(model, x, y, start=start, **options)

    class Shrink(Callback):
        def on_epoch_begin(self, state):
            from dataclasses import replace

            attack = state.method.attack.with_eps(0.3)
            state.method = replace(state.method, attack=attack)

    run(Shrink(), WarmStart(None), attack=Watched(eps=0.2, steps=2), epochs=3)
    assert len(starts) == 8 and max(starts) <= 1 + 1e-5
    starts.clear()
    run(EpsWarmup(2), WarmStart(None), attack=Watched(eps=0.2, steps=2), epochs=3)
    assert len(starts) == 8 and max(starts) <= 1 + 1e-5


@pytest.mark.parametrize("options", [{}, {"attack_share": 0.5}])
def test_a_warm_started_run_is_resumed_at_every_step(tmp_path, options):
    """Perturbations are part of the checkpoint."""
    attack = PGD(eps=0.04, steps=1)

    def once(*more, resume=None):
        return run(
            WarmStart(2), EpsWarmup(1), *more, attack=attack, resume=resume, epochs=4, **options
        )[0]

    reference = weights(once(Checkpoint(tmp_path, every_steps=1, keep=99)))
    known = checkpoint.listed(tmp_path)
    assert len(known) == 16
    for path in known.values():
        assert same(weights(once(resume=path)), reference), path.name


def test_a_step_repeated_for_want_of_memory_begins_where_it_began():
    """What the failed attempt found is not counted."""
    failed = []

    def terms(ctx):
        model, x, x_adv, y = ctx.model, ctx.x, ctx.x_adv, ctx.y
        if len(x) > 4:
            failed.append(len(x))
            raise torch.OutOfMemoryError("simulated")
        return Terms(scaled=model.loss(model(x_adv), y))

    attack = PGD(eps=0.04, steps=1, step_size=0.01, random_start=False)
    start = nn.Linear(6, 3)
    results = []
    for size in (None, 4):
        model = copy.deepcopy(start)
        run(WarmStart(None), model=model, attack=attack, loss=Objective("own", terms),
            micro_batch=size)  # fmt: skip
        results.append(weights(model))
    assert failed == [8]
    assert same(*results)


def test_warm_start_leaves_nothing_behind_and_serves_again():
    """The same object in two fits gives the same result in both."""
    callback = WarmStart(None)
    attack = PGD(eps=0.04, steps=1)
    start = net()
    models = [copy.deepcopy(start) for _ in range(2)]
    for model in models:
        run(callback, model=model, attack=attack)
        assert callback._deltas is None
    assert same(*map(weights, models))


@pytest.mark.parametrize(
    "callbacks, options, match",
    [
        ([WarmStart()], {"data": DataLoader(TensorDataset(X, Y), 8)}, "which example is which"),
        ([WarmStart()], {"attack": Cycle([PGD(eps=0.1), PGD(eps=0.2)])}, "gives it to PGD or APGD"),
        ([WarmStart()], {"attack": Square(eps=0.1, queries=5)}, "gives it to PGD or APGD"),
        ([WarmStart(), WarmStart()], {}, "more than one WarmStart"),
        ([WarmStart(), Augment(lambda x: x)], {}, "leave one of them out"),
        ([WarmStart()], {"step": Free(2)}, "WarmStart has no meaning here"),
        ([], {"step": Free(2), "attack_share": 0.5}, "attack_share has no meaning here"),
    ],
)
def test_warm_starts_that_cannot_work(callbacks, options, match):
    """Refused before the weights move."""
    start = net()
    model = copy.deepcopy(start)
    with pytest.raises(ConfigurationError, match=match):
        run(*callbacks, model=model, **options)
    assert same(weights(model), weights(start))


@pytest.mark.parametrize("options", [{"reset": 0}, {"dtype": torch.int8}])
def test_settings_of_a_warm_start_are_checked(options):
    """When it is made."""
    with pytest.raises(ConfigurationError, match="must be"):
        WarmStart(**options)


# Ramps


def test_steps_rise_evenly_to_the_attacks_own():
    """Every number of steps for the same number of batches, then the full attack's."""
    seen = StepOutput()
    _, history = run(StepsRamp(1, fraction=0.5), seen, attack=PGD(eps=0.01, steps=4), epochs=4)
    assert [attack.steps for attack in seen.attacks] == [1, 1, 2, 2, 3, 3, 4, 4] + [4] * 8
    assert [row["attack_steps"] for row in history] == [2, 4, 4, 4]
    assert all(attack.eps == 0.01 for attack in seen.attacks)
    by_epochs = StepOutput()
    run(StepsRamp(1, epochs=2), by_epochs, attack=PGD(eps=0.01, steps=4), epochs=4)
    assert by_epochs.attacks == seen.attacks


@pytest.mark.parametrize("first", ["ramp", "warmup"])
def test_a_ramp_of_steps_stands_beside_one_of_eps(first):
    """Neither undoes the other, in any order."""
    seen = StepOutput()
    both = [StepsRamp(1), EpsWarmup(fraction=1.0)]
    run(*(both if first == "ramp" else both[::-1]), seen, attack=PGD(eps=0.2, steps=6))
    assert [attack.steps for attack in seen.attacks] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert [attack.eps for attack in seen.attacks] == pytest.approx(
        [0.2 * (i + 1) / 12 for i in range(12)]
    )


def test_every_attack_of_a_combination_has_its_own_ramp():
    """Cycles, averages, the worst of several, slices."""
    seen = StepOutput()
    attack = Average([WorstOf([PGD(eps=0.01, steps=2), PGD(eps=0.01, steps=4)]),
                      Microbatched(APGD(eps=0.01, steps=6), 4)])  # fmt: skip
    run(StepsRamp(2), seen, attack=attack, epochs=1)
    found = [
        [one.attacks[0].steps, one.attacks[1].steps, other.attack.steps]
        for one, other in (attack.attacks for attack in seen.attacks)
    ]
    assert found == [[2, 2, 2], [2, 2, 3], [2, 3, 4], [2, 4, 5]]
    assert each(attack, lambda one: one) == attack


def test_the_attack_is_whole_again_after_training():
    """For those who go on with the method."""
    after = []

    class Last(Callback):
        def on_fit_end(self, state):
            after.append(state.method.attack)

    attack = PGD(eps=0.01, steps=4, patience=1)
    run(StepsRamp(1), PatienceRamp([0.5]), Last(), attack=attack, epochs=1)
    assert after == [attack]


def test_patience_rises_at_its_points():
    """Fractions of training, counted from the attack's own."""
    seen = StepOutput()
    _, history = run(
        PatienceRamp([0.25, 0.75]), seen, attack=PGD(eps=0.04, steps=3, patience=1), epochs=2
    )
    assert [attack.patience for attack in seen.attacks] == [1, 1, 2, 2, 2, 2, 3, 3]
    assert [row["attack_patience"] for row in history] == [2, 3]


def test_ramps_go_on_where_they_were(tmp_path):
    """A resumed run attacks with what the uninterrupted one did."""
    attack = PGD(eps=0.2, steps=5, patience=0)

    def once(*more, resume=None):
        return run(StepsRamp(1), PatienceRamp([0.5]), *more, attack=attack, resume=resume)[0]

    reference = weights(once(Checkpoint(tmp_path, every_steps=1, keep=99)))
    for path in checkpoint.listed(tmp_path).values():
        assert same(weights(once(resume=path)), reference), path.name


@pytest.mark.parametrize(
    "make, options, match",
    [
        (lambda: StepsRamp(0), {}, "first must be"),
        (lambda: StepsRamp(1, epochs=1, fraction=0.5), {}, "either epochs= or fraction="),
        (lambda: StepsRamp(1, epochs=0), {}, "epochs must be"),
        (lambda: StepsRamp(9), {"attack": PGD(eps=0.1, steps=4)}, "takes 4 only"),
        (lambda: StepsRamp(1), {"attack": Square(eps=0.1, queries=4)}, "changes the steps"),
        (
            lambda: StepsRamp(1),
            {"loss": "input_gradient", "eps": None},
            "no attack whose steps",
        ),
        (lambda: PatienceRamp(), {}, "changes the patience"),
        (lambda: PatienceRamp([0.5, 0.5]), {}, "rising fractions"),
        (lambda: PatienceRamp([1.5]), {}, "each of at must be"),
    ],
)
def test_ramps_that_cannot_work(make, options, match):
    """Refused when made, or before the first step."""
    with pytest.raises(ConfigurationError, match=match):
        run(make(), **options)


# A share of the batch


@pytest.mark.parametrize("name", ["at", "mix", "trades", "mart", "logit_pairing"])
def test_a_share_of_one_is_the_method_without_it(name):
    """Bit for bit, random draws too."""
    start = net(dropout=0.3)
    models = [copy.deepcopy(start) for _ in range(2)]
    run(model=models[0], loss=name)
    run(model=models[1], loss=name, attack_share=1.0)
    assert same(*map(weights, models))


@pytest.mark.parametrize("name", ["mix", "trades", "mse"])
def test_lam_multiplies_the_mean_over_the_attacked(name):
    """The fixed term is of the whole batch, the scaled one of the share."""
    model = net().eval()
    attack = PGD(eps=0.05, steps=3, random_start=False)
    if name != "mix":
        attack = PGD(eps=0.05, steps=1, step_size=0.02)  # their start off x is drawn
    half = make_method(name, lam=1.7, attack=attack, attack_share=0.5)
    whole = make_method(name, lam=1.7, attack=attack)
    seen = LossModel(model)
    g = torch.Generator().manual_seed(3)
    rows = half.chosen(X, Y, g)
    state = g.get_state()
    assert len(rows) == 13 == len(set(rows.tolist()))
    (some,) = half.craft(seen, X, Y, rows=rows, generator=g)
    g.set_state(state)
    (alone,) = whole.craft(seen, X[rows], Y[rows], generator=g)
    rest = torch.ones(len(X), dtype=torch.bool).index_fill_(0, rows, False)
    assert torch.equal(some[rest], X[rest]) and torch.equal(some[rows], alone)
    all_terms = whole.terms(seen, X, (X,), Y)
    terms = whole.terms(seen, X[rows], (alone,), Y[rows])
    expected = all_terms.fixed.mean() + 1.7 * terms.scaled.mean()
    g = torch.Generator().manual_seed(3)
    torch.testing.assert_close(half.loss(seen, X, Y, generator=g), expected)


def test_without_a_fixed_term_the_rest_counts_as_it_is():
    """at, half attacked: the mean over attacked and clean examples, as ART's ratio."""
    model = net().eval()
    method = make_method("at", attack=PGD(eps=0.1, steps=3, random_start=False), attack_share=0.25)
    g = torch.Generator().manual_seed(0)
    rows = method.chosen(X, Y, torch.Generator().manual_seed(0))
    loss = method.loss(model, X, Y, generator=g)
    (x_adv,) = method.craft(LossModel(model), X, Y, rows=rows)
    torch.testing.assert_close(loss, F.cross_entropy(model(x_adv), Y))
    assert len(rows) == 6


def test_only_the_share_is_attacked_and_counted(tmp_path):
    """Rows that pass the network in the attack; adversarial accuracy of the attacked alone."""
    rows = []

    class Watched(PGD):
        def __call__(self, model, x, y, **options):
            rows.append(len(x))
            return super().__call__(model, x, y, **options)

    model = trained().module
    _, history = run(
        model=model, attack=Watched(eps=0.4, steps=5), attack_share=0.5, lr=0.0, epochs=1
    )
    assert rows == [4, 4, 4, 1]
    figures = history.rows[0]
    assert figures["adversarial_accuracy"] < 0.5 < figures["clean_accuracy"]


@pytest.mark.parametrize("name", ["at", "mix", "trades"])
def test_a_share_in_parts_and_with_weights_is_the_whole(name):
    """Micro-batches, class weights and smoothing meet the same chosen examples."""
    start = nn.Linear(6, 3)
    results = []
    for size in (None, 3):
        model = copy.deepcopy(start)
        run(model=model, loss=name, attack_share=0.5, micro_batch=size,
            attack=PGD(eps=0.05, steps=2, random_start=False), label_smoothing=0.1,
            class_weight=torch.tensor([1.0, 2.0, 0.5]))  # fmt: skip
        results.append(weights(model))
    for key in results[0]:
        torch.testing.assert_close(results[0][key], results[1][key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan"), "half"])
def test_shares_that_are_none(share):
    """A number in (0, 1]."""
    with pytest.raises(ConfigurationError, match="attack_share must"):
        make_method("mix", eps=0.1, attack_share=share)


def test_a_share_of_no_attack_is_refused():
    """It would be ignored."""
    with pytest.raises(ConfigurationError, match="attack_share would be ignored"):
        make_method("input_gradient", attack_share=0.5)
