"""The judge: worst case per example, rules of the ball, broken attacks, restored models."""

from __future__ import annotations

import math
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from artplus.attacks import APGD, FAB, PGD, Relative, WorstOf
from artplus.errors import ConfigurationError, ConversionWarning, DataError
from artplus.evaluation import MinimumNorm, judge
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import Regression, task_for

BOX = InputSpace(0.0, 1.0)
N, EPS = 40, 0.1


@dataclass(frozen=True)
class Planted:
    """An attack that does what a test tells it to."""

    act: Callable[[Tensor], Any]
    eps: Any = EPS
    norm: float = math.inf
    targeted: bool = False

    def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Any:
        return self.act(x)

    def with_eps(self, scale: float) -> Planted:
        return self


def shifted(by: float) -> Planted:
    return Planted(lambda x: (x + by).clamp(0, 1))


@pytest.fixture
def net() -> LossModel:
    """Predicts every class somewhere in the box, and changes its mind within EPS."""
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4))
    with torch.no_grad():
        for layer in (module[0], module[2]):
            layer.weight.mul_(3)
        module[0].bias.copy_(-0.5 * module[0].weight.sum(1))
        module[2].bias.zero_()
    return LossModel(module)


@pytest.fixture
def data(net: LossModel) -> tuple[Tensor, Tensor]:
    """Examples of which the first five are wrong without an attack."""
    x = torch.rand(N, 6)
    y = net(x).argmax(1)
    y[:5] = (y[:5] + 1) % 4
    return x, y


def run(net: LossModel, data: tuple[Tensor, Tensor], **options: Any) -> Any:
    attacks = options.pop("attacks", {"pgd": PGD(eps=EPS)})
    return judge(net, *data, attacks, space=BOX, progress=False, **options)


def test_worst_case_is_the_per_example_and(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """An example counts as robust only if it is correct without and under every attack."""
    attacks = {"up": shifted(0.09), "down": shifted(-0.09), "pgd": PGD(eps=EPS, steps=2)}
    report = run(net, data, attacks=attacks)
    together = report.correct_clean.copy()
    for correct in report.correct.values():
        together &= correct
    assert np.array_equal(report.correct_robust, together)
    assert report.robust_accuracy == together.mean()
    assert report.robust_accuracy <= min(r.accuracy for r in report.attacks)
    assert report.clean_accuracy == 35 / 40


def test_accuracies_are_those_of_the_returned_examples(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """What is scored is what the attack returned, against the true labels, of all n examples."""
    report = run(net, data, attacks={"up": shifted(0.09)}, batch_size=7)
    x, y = data
    clean = net(x).argmax(1) == y
    expected = clean & (net((x + 0.09).clamp(0, 1)).argmax(1) == y)
    assert np.array_equal(report.correct["up"], expected.numpy())
    assert report.attacks[0].attacked == 35


def test_mistakes_out_of_range_are_no_mistakes(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """What leaves the valid range or moves a masked feature is put back before it is scored."""
    far = Planted(lambda x: x + 0.09)
    x = torch.where(data[0] > 0.92, 1.0, data[0])
    y = net(x).argmax(1)
    fooled = net(x + 0.09).argmax(1) != y
    legal = ((x + 0.09) <= 1).all(1)
    assert bool((fooled & ~legal).any()) and bool((fooled & legal).any())
    result = judge(net, x, y, {"far": far}, space=BOX, progress=False).attacks[0]
    assert result.broken is not None and result.clip_violations == int((~legal).sum())
    assert np.array_equal(result.fooled, (fooled & legal).numpy())
    held = InputSpace(0.0, 2.0, torch.tensor([0.0, 1, 1, 1, 1, 1]))
    result = judge(net, x, y, {"far": far}, space=held, progress=False).attacks[0]
    assert result.clip_violations == N and result.fooled is None


def test_what_an_attack_found_before_it_broke_counts(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """Batches before the one where it raised are scored, those after it have not been asked."""
    x = data[0]
    y, calls = net(x).argmax(1), []

    def act(part: Tensor) -> Tensor:
        calls.append(len(part))
        if len(calls) == 3:
            raise RuntimeError("no more")
        return (part + 0.3).clamp(0, 1)

    attacks = {"a": Planted(act, eps=0.3), "weak": PGD(eps=1e-6)}
    report = judge(net, x, y, attacks, space=BOX, batch_size=8, progress=False)
    fooled = (net((x + 0.3).clamp(0, 1)).argmax(1) != y).numpy()
    assert calls == [8, 8, 8] and fooled[:16].any() and fooled[16:].any()
    fooled[16:] = False
    result = report.attacks[0]
    assert result.broken == "raised RuntimeError: no more" and result.changed == 16
    assert np.array_equal(result.fooled, fooled)
    assert list(report.worst_attack) == ["a" if wrong else "" for wrong in fooled]
    assert np.array_equal(report.correct_robust, ~fooled)
    calls.clear()
    alone = {"a": attacks["a"]}
    nothing = judge(net, x, y, alone, space=BOX, batch_size=8, progress=False)
    assert np.array_equal(nothing.attacks[0].fooled, fooled)
    assert set(nothing.worst_attack) == {""} and nothing.predictions_worst is None


def test_the_ball_of_a_broken_attack_is_not_the_reports(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """Radius and norm are those of what counts, and nothing is said of different balls."""
    attacks = {"bad": Planted(lambda x: x.clone(), eps=0.3, norm=2.0), "pgd": PGD(eps=EPS)}
    report = run(net, data, attacks=attacks)
    assert report.attacks[0].broken is not None
    assert (report.eps, report.norm, report.notes) == (EPS, math.inf, ())


def test_a_broken_attack_hurts_nothing_in_regression() -> None:
    """There are no mistakes to verify, so neither losses nor the worst attack speak of it."""
    model = LossModel(nn.Linear(6, 1), task_for(nn.MSELoss()))
    x = torch.rand(12, 6)

    def act(part: Tensor) -> Tensor:
        moved = (part + 0.09).clamp(0, 1)
        moved[0] = 1 - part[0].round()
        return moved

    attacks = {"bad": Planted(act), "weak": PGD(eps=0.001, steps=2)}
    report = judge(model, x, model(x).detach(), attacks, space=BOX, progress=False)
    assert report.attacks[0].broken is not None
    assert set(report.worst_attack) <= {"", "weak"}
    assert report.robust_loss == report.attacks[1].metrics["loss"]


def test_worst_attack_names_what_fooled(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Wrong without an attack, held, or the fooling attack of the largest loss."""
    attacks = {"up": shifted(0.09), "down": shifted(-0.09), "pgd": PGD(eps=EPS)}
    report = run(net, data, attacks=attacks)
    losses = {r.name: r.losses for r in report.attacks}
    for i, name in enumerate(report.worst_attack):
        fooling = [a for a, correct in report.correct.items() if not correct[i]]
        if not report.correct_clean[i]:
            assert name == "clean"
        elif not fooling:
            assert name == ""
        else:
            assert name == max(fooling, key=lambda a: losses[a][i])
    assert {"", "clean"} < set(report.worst_attack)


BROKEN = {
    "unchanged": (lambda x: x.clone(), "returned all 35 inputs unchanged"),
    "outside the ball": (lambda x: (x + 0.2).clamp(0, 1), "left its ball on 35 of 35"),
    "outside the range": (lambda x: x + 0.09, "left the range of valid inputs"),
    "nan": (lambda x: x * torch.nan, "returned NaN or infinity in"),
    "shape": (lambda x: x[:, :2], r"returned shape \(16, 2\)"),
    "no tensor": (lambda x: None, "returned NoneType instead of a tensor"),
    "raises": (lambda x: x.no_such_thing(), "raised AttributeError"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_attack_is_flagged_and_never_counts(
    kind: str, net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """A broken attack has no accuracy, and the worst case is as if it were not there."""
    act, reason = BROKEN[kind]
    space = InputSpace(0.0, 1.0)
    good = {"pgd": PGD(eps=EPS)}
    report = judge(
        net, *data, {"bad": Planted(act), **good}, space=space, batch_size=16, progress=False
    )
    alone = judge(net, *data, good, space=space, batch_size=16, progress=False)
    bad = report.attacks[0]
    assert bad.broken is not None
    assert re.search(reason, bad.broken)
    assert bad.accuracy is None and bad.interval is None and bad.losses is None
    assert np.array_equal(report.correct_robust, alone.correct_robust)
    assert report.worst_attack == alone.worst_attack
    assert "Not counted, since broken: bad." in report.summary
    assert (report.eps, report.norm) == (EPS, math.inf)


def test_one_cheating_example_breaks_the_attack(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """One example out of the ball is enough, and the count says one."""

    def act(x: Tensor) -> Tensor:
        moved = (x + 0.05).clamp(0, 1)
        moved[0] = 1 - x[0].round()
        return moved

    bad = run(net, data, attacks={"bad": Planted(act)}, batch_size=100).attacks[0]
    assert bad.broken is not None and "on 1 of 35" in bad.broken
    assert (bad.eps_violations, bad.clip_violations) == (1, 0)


@pytest.mark.parametrize("only_survivors", [False, True])
def test_mistakes_inside_the_rules_count_whatever_found_them(
    net: LossModel, data: tuple[Tensor, Tensor], only_survivors: bool
) -> None:
    """Of a broken attack, the verified ones are evidence; the others and survival are not."""

    def act(x: Tensor) -> Tensor:
        moved = (x + 0.09).clamp(0, 1)
        moved[::2] = 1 - x[::2].round()  # far outside, and mistaken for it
        return moved

    options = {"batch_size": 100, "only_survivors": only_survivors}
    weak = {"pgd": PGD(eps=EPS, step_size=0.001, steps=1, random_start=False)}
    report = run(net, data, attacks={"bad": Planted(act), **weak}, **options)
    x, y = data
    clean = net(x).argmax(1) == y
    attacked = clean.nonzero().flatten()
    legal = torch.zeros(len(x), dtype=torch.bool)
    legal[attacked[1::2]] = True
    expected = legal & clean & (net((x + 0.09).clamp(0, 1)).argmax(1) != y)
    bad, pgd = report.attacks
    assert 0 < expected.sum() < legal.sum()
    assert bad.broken is not None and bad.accuracy is None
    assert bad.eps_violations == len(attacked[::2])
    assert np.array_equal(bad.fooled, expected.numpy()) and pgd.fooled is None
    assert f"{int(expected.sum())} mistakes" in bad.flags[0]
    assert pgd.attacked == int(clean.sum()) - int(expected.sum()) * only_survivors
    alone = run(net, data, attacks=weak, **options)
    assert np.array_equal(report.correct_robust, alone.correct_robust & ~bad.fooled)
    assert report.robust_accuracy < alone.robust_accuracy
    assert {report.worst_attack[i] for i in expected.nonzero().flatten()} <= {"bad", "pgd"}
    assert "bad" in report.worst_attack
    assert "mistakes all the same" in report.summary
    again = type(report).from_json(report.to_json())
    assert np.array_equal(again.correct_robust, report.correct_robust)


def test_no_working_attack_means_no_robust_accuracy(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """If everything broke nothing is known: not 100 %, not the clean accuracy."""
    report = run(net, data, attacks={"same": Planted(lambda x: x)})
    assert report.robust_accuracy is None
    assert report.robust_interval is None and report.robust_loss is None
    assert "nothing is known about robustness" in report.summary
    assert set(report.worst_attack) == {"", "clean"}
    assert report.examples is None


def test_unchanged_is_sound_where_nothing_may_move(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """With eps = 0 the attack must return its input, and robust equals clean accuracy."""
    report = run(net, data, attacks={"pgd": PGD(eps=0.0)})
    assert report.attacks[0].broken is None
    assert report.robust_accuracy == report.clean_accuracy


def test_nothing_right_leaves_nothing_to_attack(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """A model that is always wrong has robust accuracy 0 and no broken attack."""
    x, y = data
    report = run(net, (x, (net(x).argmax(1) + 1) % 4))
    assert report.attacks[0].broken is None and report.attacks[0].attacked == 0
    assert report.clean_accuracy == report.robust_accuracy == 0.0


@pytest.mark.parametrize(("norm", "dual"), [(math.inf, 1), (2.0, 2), (1.0, math.inf)])
def test_binary_linear_model_has_its_exact_robust_accuracy(norm: float, dual: float) -> None:
    """For two classes and w = w1 - w0, x falls iff its margin is below eps times the dual norm."""
    linear = nn.Linear(8, 2)
    x = torch.randn(200, 8)
    y = linear(x).argmax(1)
    with torch.no_grad():
        w = linear.weight[1] - linear.weight[0]
        margin = (linear(x)[:, 1] - linear(x)[:, 0]).abs()
    eps = float(margin.median() / w.norm(dual))
    exact = (margin > eps * w.norm(dual)).float().mean()
    report = judge(
        LossModel(linear),
        x,
        y,
        {"pgd": PGD(eps=eps, norm=norm, steps=20, random_start=False)},
        progress=False,
    )
    assert report.robust_accuracy == pytest.approx(float(exact), abs=0.011)
    assert report.attacks[0].max_norm == pytest.approx(eps, rel=1e-4)


def test_multiclass_linear_model_has_its_exact_robust_accuracy() -> None:
    """The worst target of a linear model is known: min over k of margin_k / |w_y - w_k|_1."""
    from artplus.attacks import APGD

    linear = nn.Linear(8, 4)
    x = torch.randn(200, 8)
    with torch.no_grad():
        z = linear(x)
        y = z.argmax(1)
        gaps = z.gather(1, y[:, None]) - z
        dual = (linear.weight[y][:, None] - linear.weight[None]).abs().sum(2)
        distance = torch.where(dual > 0, gaps / dual, torch.inf).amin(1)
    eps = float(distance.median()) + 1e-6
    attack = APGD(eps=eps, loss="targeted_dlr", steps=20, random_start=False)
    report = judge(LossModel(linear), x, y, {"apgd_t": attack}, progress=False)
    exact = float((distance > eps).float().mean())
    assert report.robust_accuracy == pytest.approx(exact, abs=0.011)


def test_linear_regression_has_its_exact_robust_loss() -> None:
    """The squared error of a linear model rises to (|error| + eps * |w|_1) ** 2."""
    linear = nn.Linear(5, 1)
    x, y = torch.randn(50, 5), torch.randn(50)
    with torch.no_grad():
        error = (linear(x)[:, 0] - y).abs()
        worst = (error + 0.1 * linear.weight.abs().sum()) ** 2
    model = LossModel(linear, task_for(nn.MSELoss()))
    attack = PGD(eps=0.1, steps=20, restarts=3)
    report = judge(model, x, y, {"pgd": attack}, progress=False)
    assert report.clean_accuracy is None and report.robust_accuracy is None
    assert report.correct_robust is None and report.correct == {}
    assert report.clean_loss == pytest.approx(float((error**2).mean()), rel=1e-5)
    assert report.robust_loss == pytest.approx(float(worst.mean()), rel=1e-4)
    assert report.clean_metrics["rmse"] == pytest.approx(float((error**2).mean().sqrt()), rel=1e-5)
    assert report.robust_metrics["rmse"] == pytest.approx(float(worst.mean().sqrt()), rel=1e-4)
    assert set(report.worst_attack) == {"pgd"}
    assert report.attacks[0].attacked == 50


def test_regression_worst_case_takes_each_example_at_its_largest_loss() -> None:
    """The worst case mixes attacks per example, and never falls below the clean loss."""
    model = LossModel(nn.Linear(3, 2), task_for(nn.MSELoss()))
    x, y = torch.rand(20, 3), torch.randn(20, 2)
    report = judge(
        model, x, y, {"up": shifted(0.09), "down": shifted(-0.09)}, space=BOX, progress=False
    )
    stacked = np.stack([report.losses_clean, *(r.losses for r in report.attacks)])
    assert np.array_equal(report.losses_robust, stacked.max(0))
    worst = stacked.max(0).mean(dtype=np.float64)
    assert report.robust_loss == worst == report.robust_metrics["loss"]
    names = np.array(["", "up", "down"])
    assert report.worst_attack == tuple(names[stacked.argmax(0)])


def test_only_survivors_finds_the_same_worst_case(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """Attacking only survivors changes the attacks' accuracies, not the worst case."""
    attacks = {
        "up": shifted(0.09),
        "bad": Planted(lambda x: 1 - x),
        "down": shifted(-0.09),
    }
    every = run(net, data, attacks=attacks)
    left = run(net, data, attacks=attacks, only_survivors=True)
    assert np.array_equal(every.correct_robust, left.correct_robust)
    assert left.attacks[1].broken is not None
    assert left.attacks[2].attacked == int(left.attacks[0].correct.sum()) < 35
    assert left.attacks[2].accuracy == left.robust_accuracy
    assert left.only_survivors and not every.only_survivors


def test_same_seed_same_report(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Everything but times and dates follows from the seed; other attacks do not matter."""
    pgd = PGD(eps=0.05, steps=1)

    def draw(attacks: dict[str, Any], seed: int) -> Any:
        torch.rand(3)  # the caller's stream must not matter
        return next(
            r for r in run(net, data, attacks=attacks, seed=seed).attacks if r.name == "pgd"
        )

    first = draw({"pgd": pgd}, 1)
    again = draw({"up": shifted(0.01), "pgd": pgd}, 1)
    other = draw({"pgd": pgd}, 2)
    both = run(net, data, attacks={"pgd": pgd, "more": pgd}, seed=1)
    assert not np.array_equal(both.attacks[0].losses, both.attacks[1].losses)
    assert np.array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses, other.losses)


def test_global_generators_are_seeded_for_attacks_and_given_back(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """An attack that draws from numpy, random and torch repeats, and the caller's draws go on."""
    seen: list[tuple[float, ...]] = []

    def act(x: Tensor) -> Tensor:
        seen.append((float(np.random.rand()), random.random(), float(torch.rand(()))))
        return (x + 0.01).clamp(0, 1)

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = float(torch.rand(())), float(np.random.rand()), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    for _ in range(2):
        run(net, data, attacks={"a": Planted(act)}, batch_size=100)
    assert seen[0] == seen[1]
    assert (float(torch.rand(())), float(np.random.rand()), random.random()) == expected


def test_model_is_left_as_it_was(data: tuple[Tensor, Tensor]) -> None:
    """Flags of every layer, gradients, weights and batch statistics come back unchanged."""
    module = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4))
    module.train()
    module[1].eval()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    kept, before = module[0].weight.grad, {k: v.clone() for k, v in module.state_dict().items()}
    modes = []

    def act(x: Tensor) -> Tensor:
        modes.append(any(m.training for m in module.modules()))
        module(x).sum().backward()  # as ART does
        return (x + 0.05).clamp(0, 1)

    report = run(LossModel(module), data, attacks={"a": Planted(act)})
    assert report.attacks[0].broken is None and modes == [False]
    assert [m.training for m in module] == [True, False, True, True]
    assert module[0].weight.grad is kept and bool((kept == 1).all())
    assert module[3].weight.grad is None
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


def test_model_is_left_as_it_was_by_an_interruption(data: tuple[Tensor, Tensor]) -> None:
    """Ctrl-C is not swallowed as a broken attack, and flags are restored."""

    def act(x: Tensor) -> Tensor:
        raise KeyboardInterrupt

    module = nn.Linear(6, 4).train()
    with pytest.raises(KeyboardInterrupt):
        run(LossModel(module), (data[0], module(data[0]).argmax(1)), attacks={"a": Planted(act)})
    assert module.training


def test_targeted_attack_gets_wrong_classes(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Targets are other classes than the true one, all of them occur, and any mistake counts."""
    given: list[tuple[Tensor, Tensor]] = []

    @dataclass(frozen=True)
    class Spy(Planted):
        def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Tensor:
            given.append((x, y))
            return (x + 0.09).clamp(0, 1)

    targeted = run(net, data, attacks={"a": Spy(lambda x: x, targeted=True)})
    plain = run(net, data, attacks={"a": shifted(0.09)})
    x, targets = given[0]
    assert bool((targets != net(x).argmax(1)).all())
    assert set(targets.tolist()) == {0, 1, 2, 3}
    assert np.array_equal(targeted.correct["a"], plain.correct["a"])


def test_targeted_attack_on_a_regression_is_broken() -> None:
    """Without classes there is no target."""
    model = LossModel(nn.Linear(6, 1), task_for(nn.MSELoss()))
    attack = Planted(lambda x: x, targeted=True)
    report = judge(model, torch.rand(4, 6), torch.rand(4), {"a": attack}, progress=False)
    assert report.attacks[0].broken is not None and "targeted" in report.attacks[0].broken


def test_minimum_norm_attack_counts_only_within_eps(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """What needs a longer perturbation is robust, and that is no violation."""

    def act(x: Tensor) -> Tensor:
        far = torch.arange(len(x)) % 2 == 0
        return torch.where(far[:, None], (x + 0.5).clamp(0, 1), (x + 0.09).clamp(0, 1))

    attack = MinimumNorm(Planted(act, eps=math.inf), eps=EPS)
    result = run(net, data, attacks={"min": attack}, batch_size=100).attacks[0]
    near = run(net, data, attacks={"near": shifted(0.09)}, batch_size=100).attacks[0]
    right = np.flatnonzero(net(data[0]).argmax(1).numpy() == data[1].numpy())
    assert result.broken is None and result.eps_violations == 0
    assert result.correct[right[::2]].all()
    assert np.array_equal(result.correct[right[1::2]], near.correct[right[1::2]])
    assert result.max_norm <= EPS * 1.0001
    assert result.flags == ("18 of 35 examples needed more than eps: not fooled",)


def test_an_attack_that_makes_no_norm_small_tells_only_of_what_is_near(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """Some examples within eps, some beyond: it counts, and the flag says of how few."""

    def act(x: Tensor) -> Tensor:
        far = torch.arange(len(x)) % 2 == 0
        return torch.where(far[:, None], (x + 0.5).clamp(0, 1), (x + 0.09).clamp(0, 1))

    attack = MinimumNorm(Planted(act, eps=math.inf), eps=EPS, minimises=False)
    result = run(net, data, attacks={"turn": attack}, batch_size=100).attacks[0]
    assert result.broken is None
    assert (
        "18 of 35 examples came back farther than eps, in a norm that it does not make"
        in (result.flags[0])
    )


def test_minimum_norm_attack_that_finds_nothing_near_is_not_broken(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """All examples needing more than eps is a result, unlike all coming back unchanged."""
    far = MinimumNorm(Planted(lambda x: 1 - x.round(), eps=math.inf), eps=0.01)
    report = run(net, data, attacks={"far": far})
    assert report.attacks[0].broken is None
    assert report.robust_accuracy == report.clean_accuracy
    stray = replace(far, minimises=False)
    report = run(net, data, attacks={"stray": stray, "near": shifted(0.01)})
    assert "never came within eps 0.01 in L∞, which it does not make small" in (
        report.attacks[0].broken or ""
    )
    assert report.robust_accuracy == report.attacks[1].accuracy
    alone = run(net, data, attacks={"stray": stray})
    assert alone.robust_accuracy is None, "nothing is known"
    same = run(net, data, attacks={"same": MinimumNorm(Planted(lambda x: x), eps=0.1)})
    assert same.attacks[0].broken is not None
    assert MinimumNorm(PGD(eps=1.0), eps=0.1).with_eps(0.5).eps == pytest.approx(0.05)


def test_unequal_balls_are_said(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """With different radii there is no common eps, and the report says what the worst case is."""
    report = run(net, data, attacks={"a": PGD(eps=0.1), "b": PGD(eps=0.3, norm=2)})
    assert report.eps is None and report.norm is None
    assert any("different balls (L∞ ≤ 0.1, L2 ≤ 0.3)" in note for note in report.notes)


@given(eps=st.floats(1e-4, 0.5), norm=st.sampled_from([math.inf, 2.0, 1.0]))
def test_projected_attacks_never_violate(eps: float, norm: float) -> None:
    """PGD's float32 rounding stays within the tolerance of the double-precision check."""
    model = LossModel(nn.Linear(6, 3))
    x = torch.rand(12, 6) * 255
    attack = PGD(eps=eps, norm=norm, steps=3)
    result = judge(
        model,
        x,
        model(x).argmax(1),
        {"pgd": attack},
        space=InputSpace(0.0, 255.0),
        progress=False,
    ).attacks[0]
    assert result.eps_violations == result.clip_violations == 0


def test_radius_per_feature_and_relative(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Every kind of radius is verified: a feature with radius 0 must not move."""
    radius = np.array([0, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=np.float32)
    good = run(net, data, attacks={"pgd": PGD(eps=radius)}).attacks[0]
    assert good.broken is None and good.eps == pytest.approx(0.1)
    bad = run(net, data, attacks={"a": Planted(lambda x: (x + 0.05).clamp(0, 1), eps=radius)})
    assert "left its ball" in bad.attacks[0].broken
    relative = run(net, data, attacks={"pgd": PGD(eps=Relative(0.1), norm=2)}).attacks[0]
    assert relative.broken is None
    assert relative.eps == pytest.approx(0.1 * float(data[0].norm(dim=1).max()), rel=1e-5)
    with pytest.raises(ConfigurationError, match="does not broadcast"):
        run(net, data, attacks={"pgd": PGD(eps=np.ones(5, dtype=np.float32))})


def test_mask_is_enforced(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """A change of a masked feature breaks an attack; PGD honours the mask, per example too."""
    space = InputSpace(0.0, 1.0, torch.tensor([0.0, 1, 1, 1, 1, 1]))
    attacks = {"pgd": PGD(eps=EPS), "cheat": shifted(0.05)}
    report = judge(net, *data, attacks, space=space, progress=False)
    assert report.attacks[0].broken is None
    assert "mask" in report.attacks[1].broken
    each = InputSpace(0.0, 1.0, torch.randint(0, 2, (N, 6)).float())
    report = judge(net, *data, attacks, space=each, batch_size=9, examples=N, progress=False)
    assert report.attacks[0].broken is None
    moved = report.examples.x_adv != report.examples.x
    assert moved.any() and not moved[each.mask[report.examples.index].numpy() == 0].any()
    wrong = InputSpace(0.0, 1.0, torch.ones(5))
    with pytest.raises(ConfigurationError, match="mask of shape"):
        judge(net, *data, attacks, space=wrong, progress=False)


def test_nan_prediction_counts_as_a_mistake(data: tuple[Tensor, Tensor]) -> None:
    """An attack that drives the model to NaN succeeds, with infinite loss."""

    class Log(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([(0.95 - x[:, 0]).sqrt() + 1, x[:, 0] * 0], 1)

    x = torch.full((6, 6), 0.9)
    model = LossModel(Log())
    report = judge(
        model, x, torch.zeros(6).long(), {"up": shifted(0.09)}, space=BOX, progress=False
    )
    assert report.clean_accuracy == 1.0 and report.robust_accuracy == 0.0
    assert report.robust_loss == math.inf
    assert report.from_json(report.to_json()).robust_loss == math.inf


def test_gallery_shows_different_examples_fooled_first(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """The kept examples are what the attacks returned, with the predictions made on them."""
    report = run(net, data, attacks={"pgd": PGD(eps=0.3), "up": shifted(0.09)}, examples=6)
    shown = report.examples
    assert len(shown) == 6 == len(set(shown.index.tolist()))
    assert (shown.clean == shown.y).all() and (shown.adversarial != shown.y).all()
    assert np.allclose(shown.x, data[0][shown.index])
    again = net(torch.from_numpy(shown.x_adv)).argmax(1).numpy()
    assert np.array_equal(again, shown.adversarial)
    assert run(net, data, examples=0).examples is None
    held = run(net, data, attacks={"pgd": PGD(eps=1e-6)}, examples=3).examples
    assert (held.adversarial == held.y).all() and len(held) == 3


def test_labels_in_any_form_and_a_task_with_its_own_mistakes(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """One-hot rows equal class numbers; a task of its own gives a regression an accuracy."""
    rows = nn.functional.one_hot(data[1], 4)
    numbers, onehot = run(net, data), run(net, (data[0], rows))
    assert np.array_equal(numbers.correct_robust, onehot.correct_robust)

    class Tolerant(Regression):
        def correct(self, predictions: Tensor, targets: Tensor) -> Tensor:
            return (predictions - targets).abs().flatten(1).amax(1) <= 0.05

    model = LossModel(nn.Linear(6, 1), Tolerant())
    x = torch.rand(20, 6)
    y = model(x).detach() + 0.01
    report = judge(model, x, y, {"pgd": PGD(eps=0.2)}, progress=False)
    assert report.clean_accuracy == 1.0 and report.robust_accuracy < 1.0
    assert "rmse" in report.robust_metrics


def test_reducing_loss_is_said() -> None:
    """A loss that returns only a mean makes the worst case one per batch: the report says so."""
    model = LossModel(nn.Linear(3, 1), task_for(lambda p, y: (p - y).square().mean()))
    report = judge(model, torch.rand(4, 3), torch.rand(4, 1), {"pgd": PGD(eps=0.1)}, progress=False)
    assert any("per batch" in note for note in report.notes)


def test_combined_attacks_are_on_record(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Settings of nested attacks are kept as text that JSON can hold."""
    report = run(net, data, attacks={"worst": WorstOf([PGD(eps=EPS), PGD(eps=EPS, steps=3)])})
    assert "steps=3" in report.attacks[0].params["attacks"]
    assert report.attacks[0].broken is None


def test_progress_bar_shows_robust_accuracy(
    net: LossModel, data: tuple[Tensor, Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar names the attack and the robust accuracy so far; off means silent."""
    judge(net, *data, {"pgd": PGD(eps=0.3)}, space=BOX, batch_size=8)
    shown = capsys.readouterr().err
    assert "[1/1] pgd" in shown
    run(net, data)
    assert capsys.readouterr() == ("", "")


BAD_INPUT: dict[str, tuple[Callable[[Tensor, Tensor], tuple[Any, Any]], str]] = {
    "empty": (lambda x, y: (x[:0], y[:0]), "at least one example"),
    "nan": (lambda x, y: (x.where(x < 2, x).index_fill(0, torch.tensor([0]), torch.nan), y),
            "1 of 40 examples hold NaN"),
    "range": (lambda x, y: (x * 255, y), "must lie in clip_values"),
    "bytes": (lambda x, y: ((x * 255).byte(), y), "x must be floats"),
    "count": (lambda x, y: (x, y[:-1]), "one label per input"),
    "scalar": (lambda x, y: (x, y[0]), "one label per input"),
    "float labels": (lambda x, y: (x, y + 0.5), "whole class numbers"),
    "label range": (lambda x, y: (x, y + 1), "must lie in 0..3"),
    "shape": (lambda x, y: (x[:, :4], y), r"cannot take an input of shape \(1, 4\)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_INPUT)
def test_bad_input_is_refused_before_any_attack(
    kind: str, net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """Data that cannot be meant raises, and no attack has run."""
    spoil, message = BAD_INPUT[kind]
    ran: list[int] = []

    def act(x: Tensor) -> Tensor:
        ran.append(1)
        return x

    with pytest.raises(DataError, match=message):
        run(net, spoil(*data), attacks={"spy": Planted(act)})
    assert not ran


def test_bad_options_are_refused(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """Options that cannot work raise a ConfigurationError that says why."""
    for options, message in (
        ({"attacks": {}}, "at least one entry"),
        ({"attacks": [PGD(eps=0.1)]}, "mapping"),
        ({"attacks": {"clean": PGD(eps=0.1)}}, "cannot be called"),
        ({"attacks": {"x": "pgd"}}, "must be an artplus attack"),
        ({"attacks": {"x": Planted(lambda x: x, eps=math.inf)}}, "has no radius"),
        ({"batch_size": 0}, "batch_size"),
        ({"examples": -1}, "examples"),
        ({"class_names": ["a"]}, "must hold 4 names"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run(net, data, **options)


def test_models_that_cannot_be_judged_are_refused() -> None:
    """Outputs that are no logits, regression targets with NaN, and a dead model."""
    x = torch.rand(3, 4)
    flat = LossModel(nn.Flatten(0))
    with pytest.raises(DataError, match=r"must predict \(batch, classes\)"):
        judge(flat, x, torch.zeros(3).long(), {"a": PGD(eps=0.1)}, progress=False)
    regression = LossModel(nn.Linear(4, 1), task_for(nn.MSELoss()))
    with pytest.raises(DataError, match="y must be finite"):
        judge(regression, x, torch.full((3,), torch.nan), {"a": PGD(eps=0.1)}, progress=False)
    with pytest.raises(DataError, match="targets have shape"):
        judge(regression, x, torch.rand(3, 5), {"a": PGD(eps=0.1)}, progress=False)
    dead = nn.Linear(4, 2)
    nn.init.constant_(dead.weight, torch.nan)
    with pytest.raises(DataError, match="infinite or not a number"):
        judge(LossModel(dead), x, torch.zeros(3).long(), {"a": PGD(eps=0.1)}, progress=False)


def test_double_precision_input_is_converted_and_said(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """NumPy's default float64 works, with a warning, and arrays are as good as tensors."""
    x, y = data[0].double().numpy(), data[1].numpy()
    with pytest.warns(ConversionWarning, match="x was converted"):
        report = judge(net, x, y, {"pgd": PGD(eps=EPS)}, space=BOX, progress=False)
    assert np.array_equal(report.correct_robust, run(net, data).correct_robust)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("norm", [np.inf, 2, 1])
def test_a_model_in_half_precision_is_attacked_in_single(
    data: tuple[Tensor, Tensor], dtype: torch.dtype, norm: float, tmp_path: Path
) -> None:
    """Every attack stays in its ball and works, and inputs in half precision are as good.

    The evaluation says of nothing that it was converted, and may be resumed.
    """
    torch.manual_seed(0)
    half = LossModel(nn.Sequential(nn.Flatten(), nn.Linear(data[0][0].numel(), 4)).to(dtype))
    x = data[0].to(dtype)
    y = half(x).argmax(1)
    eps = {np.inf: 0.05, 2: 0.3, 1: 1.0}[norm]
    attacks = {
        "pgd": PGD(eps=eps, norm=norm, steps=5),
        "apgd": APGD(eps=eps, norm=norm, steps=10, loss="ce"),
        "fab": FAB(eps=eps, norm=norm, steps=5),
    }
    options: dict[str, Any] = {"space": BOX, "progress": False, "surrogate": half, "checks": True}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConversionWarning)
        report = judge(half, x, y, attacks, before=half, checkpoint=tmp_path / "run", **options)
        again = judge(half, x.float(), y, attacks, checkpoint=tmp_path / "run", **options)
    assert [result.broken for result in report.attacks] == [None] * 3
    assert report.clean_accuracy == 1 and all(r.accuracy < 1 for r in report.attacks)
    assert np.array_equal(report.correct_robust, again.correct_robust)
    assert report.losses_clean.dtype == np.float32


def test_columns_in_half_precision() -> None:
    """Floats of a mapping are rounded as they enter, and regression targets are left whole."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x: Tensor, shift: Tensor) -> Tensor:
            assert x.dtype == torch.bfloat16 and shift.dtype == torch.int64
            return self.linear(x) + shift

    torch.manual_seed(0)
    inputs = {"x": torch.rand(6, 3), "shift": torch.ones(6, 1).long()}
    model = LossModel(Named().bfloat16(), task_for(nn.MSELoss()))
    targets = torch.full((6, 2), 1 / 3)
    report = judge(model, inputs, targets, {"pgd": PGD(eps=0.1)}, space=BOX, progress=False)
    assert report.attacks[0].broken is None and report.robust_loss > report.clean_loss
    predictions = model({"x": inputs["x"].bfloat16(), "shift": inputs["shift"]}).float()
    assert report.clean_loss == pytest.approx(
        float((predictions - targets).square().mean().detach())
    )


def test_device_is_recorded(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """The report names the device, also one that was given."""
    assert run(net, data).device == "cpu" == run(net, data, device="cpu").device


def test_loss_over_whole_labels_that_is_no_classification() -> None:
    """Binary cross-entropy on one output keeps its own labels: right or wrong, but no RMSE."""
    model = LossModel(nn.Linear(3, 1), task_for(nn.BCEWithLogitsLoss()))
    x, y = torch.rand(10, 3), torch.arange(10) % 2
    report = judge(model, x, y, {"pgd": PGD(eps=0.1)}, progress=False)
    own = nn.functional.binary_cross_entropy_with_logits(model(x)[:, 0], y.float())
    assert report.clean_loss == pytest.approx(float(own.detach()), rel=1e-5)
    assert report.robust_loss > report.clean_loss
    names = {"loss", "label_accuracy"}
    assert set(report.clean_metrics) == names == set(report.robust_metrics)
    right = (model(x)[:, 0] > 0) == (y == 1)
    assert report.clean_accuracy == pytest.approx(float(right.float().mean()))


def test_partly_unchanged_output_is_flagged(net: LossModel, data: tuple[Tensor, Tensor]) -> None:
    """An attack that gives up on some examples counts, with a word about how many."""

    def act(x: Tensor) -> Tensor:
        return torch.cat([x[:30], (x[30:] + 0.05).clamp(0, 1)])

    result = run(net, data, attacks={"a": Planted(act)}, batch_size=100).attacks[0]
    assert result.broken is None and result.changed == 5
    assert result.flags == ("30 of 35 examples came back unchanged",)


def test_any_object_with_the_protocol_is_an_attack(
    net: LossModel, data: tuple[Tensor, Tensor]
) -> None:
    """An attack need not be a dataclass; its type is on record."""

    class Own:
        eps, norm = EPS, math.inf

        def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Tensor:
            return (x + 0.09).clamp(0, 1)

        def with_eps(self, scale: float) -> Own:
            return self

    result = run(net, data, attacks={"own": Own()}).attacks[0]
    assert result.params == {"attack": "Own"} and result.broken is None
