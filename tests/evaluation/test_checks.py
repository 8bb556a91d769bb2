"""Checks of an evaluation: planted defences are called out, honest models are left in peace."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from functools import cache, partial

import numpy as np
import pytest
import torch
from torch import nn

from artplus import evaluate
from artplus.attacks import APGD, PGD, Chain, Square
from artplus.attacks._base import look
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import Check, Report, Threat, judge, make_suite
from artplus.evaluation.checks import _run, strength
from artplus.evaluation.checks._base import overall
from artplus.evaluation.checks._compare import outdone, surprising
from artplus.evaluation.checks._probe import make_probe
from artplus.evaluation.checks.optimisation import unfinished
from artplus.evaluation.checks.outputs import fano, squeezed_logits
from artplus.evaluation.checks.stability import misleading_gradients
from artplus.evaluation.validation import make_data
from artplus.model import LossModel
from artplus.reporting import compare
from artplus.spaces import InputSpace
from artplus.tasks import task_for

from . import defences
from .defences import EPS, Around

BOX = InputSpace(0.0, 1.0)
HARD = PGD(eps=EPS, steps=4, step_size=0.04)


@cache
def net(kind="mlp", seed=0, hardened=False, **options):
    attack = HARD if hardened else None
    return defences.trained(getattr(defences, kind), seed=seed, attack=attack, **options)


def data(n=72):
    _, _, x, y = defences.digits()
    return x[:n], y[:n]


def judged(module, attacks=None, **options):
    """A report with checks; unless attacks are given, of the suite quick as evaluate runs it."""
    x, y = data()
    if attacks is None:
        options = {"only_survivors": True} | options
    attacks = attacks or make_suite("quick", Threat(EPS, torch.inf, 10, (1, 8, 8)))
    model = module if isinstance(module, LossModel) else LossModel(module)
    return judge(model, x, y, attacks, space=BOX, checks=True, progress=False, **options)


def result_of(report, name):
    return {check.name: check for check in report.checks}[name]


def asked(indicator, module):
    """What one check alone says."""
    x, y = data()
    model, attacks = LossModel(module), {"pgd": PGD(eps=EPS, steps=1)}
    report = judge(model, x, y, attacks, space=BOX, progress=False)
    evaluation_data = make_data(model, x, y, BOX, 128, torch.device("cpu"))
    return indicator(make_probe(evaluation_data, report, attacks, seed=0))


HONEST = [
    ("mlp", 0, {}),
    ("mlp", 1, {}),
    ("mlp", 2, {}),
    ("cnn", 0, {"epochs": 4}),
    ("mlp", 0, {"hardened": True}),
    ("mlp", 1, {"hardened": True}),
    ("cnn", 0, {"hardened": True, "epochs": 3}),
]


@pytest.mark.parametrize(("kind", "seed", "options"), HONEST)
def test_no_check_fails_on_honest_models(kind, seed, options):
    """Plain and adversarially trained networks are trusted, by every check that applies."""
    report = judged(net(kind, seed, **options))
    assert report.verdict == "trusted", [(f.name, f.figure) for f in report.reasons]
    names = {check.name for check in report.checks}
    assert len(names) == len(report.checks) == 16
    assert report.robust_accuracy < report.clean_accuracy


def base():
    return net("mlp")


DEFENCES = {
    "softmax temperature": (
        lambda: Around(base(), after=lambda z: 100 * z), "broken", {"unavailable gradients"},
    ),
    "softmax output": (
        lambda: Around(base(), after=lambda z: z.softmax(1)), "suspicious",
        {"probabilities as outputs"},
    ),
    "thermometer": (
        lambda: Around(base(), before=defences.thermometer), "broken", {"unavailable gradients"},
    ),
    "bit depth": (
        lambda: Around(base(), before=defences.rounded), "broken",
        {"unavailable gradients", "misleading gradients", "unconstrained attack",
         "Square against white box", "white box against black box and noise"},
    ),
    "noise": (
        lambda: Around(base(), before=defences.noisy), "suspicious",
        {"random outputs", "unstable predictions"},
    ),
    "resizing": (
        lambda: Around(base(), before=defences.resized), "suspicious", {"random outputs"},
    ),
    "zeroed gradients": (
        lambda: Around(base(), before=defences.Blocked.apply), "broken",
        {"unavailable gradients", "unconstrained attack", "Square against white box"},
    ),
    "k-WTA": (
        lambda: net("winners", epochs=4), "suspicious", {"misleading gradients"},
    ),
    "k-WTA, another seed": (
        lambda: net("winners", 1, epochs=4), "suspicious", {"misleading gradients"},
    ),
    "logit squeezing": (
        lambda: net("mlp", squeeze=1.0), "suspicious", {"squeezed logits"},
    ),
    "optimising at test time": (
        lambda: Purified(base()), "suspicious", {"test-time gradients"},
    ),
}  # fmt: skip


class Purified(nn.Module):
    """Steps away from its own decision before it decides."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.enable_grad():
            z = x.detach().requires_grad_(True)
            (slope,) = torch.autograd.grad(self.inner(z).logsumexp(1).sum(), z)
        return self.inner((x + 0.02 * slope.sign()).clamp(0, 1))


@pytest.mark.parametrize("name", DEFENCES)
def test_planted_defences_are_called_out(name):
    """Each defence that fooled naive evaluations fails a check, for its own reason."""
    make, verdict, reasons = DEFENCES[name]
    report = judged(make())
    assert report.verdict == verdict
    assert reasons <= {check.name for check in report.reasons}
    for check in report.reasons:
        assert check.explanation and check.remedy


WEAK = [("mlp", 0, 1e-3), ("mlp", 1, 1e-3), ("mlp", 0, 3e-4), ("cnn", 0, 1e-3), ("cnn", 1, 3e-4)]


@pytest.mark.parametrize(("kind", "seed", "lr"), WEAK)
def test_a_net_that_has_learnt_little_is_not_squeezed(kind, seed, lr):
    """It is unsure since it cannot tell: a loss near a guess's that its accuracy explains."""
    check = asked(squeezed_logits, net(kind, seed, epochs=1, lr=lr))
    assert check.verdict == "ok" and "its accuracy explains" in check.explanation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_temperature_squeezes_too(seed):
    """Logits of a good net divided by 100 hide what it knows, and by 1 they do not."""
    flat = Around(net("mlp", seed), after=lambda z: z / 100)
    assert asked(squeezed_logits, flat).verdict == "suspicious"
    assert asked(squeezed_logits, net("mlp", seed)).figure < 0.2


@pytest.mark.parametrize(("accuracy", "classes"), [(0.9, 10), (0.6, 3), (0.75, 2), (0.34, 3)])
def test_fano_is_the_least_loss_of_a_model_equally_sure_of_everything(accuracy, classes):
    """Against every confidence: the mean cross-entropy of right and wrong predictions."""
    sure = torch.linspace(1 / classes, 0.9999, 100_000, dtype=torch.float64)
    wrong = -((1 - sure) / (classes - 1)).log()
    losses = -accuracy * sure.log() + (1 - accuracy) * wrong
    least = float(losses.min()) / math.log(classes)
    assert fano(accuracy, classes) == pytest.approx(least, rel=1e-6)
    assert fano(1 / classes, classes) == fano(0.0, classes) == 1.0 and fano(1.0, classes) == 0.0


def test_a_gradient_where_nothing_changes_misleads():
    """Levels that tiny noise never leaves, with a gradient as if there were none: all of it."""

    def levels(z):
        return ((16 * z).round() / 16).detach() + (z - z.detach())

    model = net("mlp", 0)
    check = asked(misleading_gradients, Around(model, before=levels))
    assert check.verdict == "suspicious" and check.figure == math.inf
    assert "changes nothing, although the gradient predicts" in check.explanation

    def flat(z):
        return model(z).detach() + 0 * z.flatten(1).sum(1, keepdim=True)

    class Flat(nn.Module):
        def forward(self, z):
            return flat((16 * z).round() / 16)

    check = asked(misleading_gradients, Flat())  # neither changes nor predicts a change
    assert check.verdict == "ok" and check.figure == 0


def test_a_nearest_picture_with_a_gradient_passed_through_is_not_trusted():
    """Its prediction jumps from picture to picture, so tiny noise changes nothing at all.

    Only this check sees it, and rightly: Square and examples crafted on the model without the
    defence fool pictures that the attack along the gradient leaves robust.
    """
    model, radius = Around(base(), before=defences.nearest(100)), 0.15
    report = judged(model, {"apgd": APGD(eps=radius, loss="margin")})
    assert report.verdict == "suspicious"
    (reason,) = report.reasons
    assert reason.name == "misleading gradients" and reason.figure == math.inf

    x, y = data()
    truth = report.correct_robust.copy()
    for attack, attacked in (
        (Square(eps=radius, queries=500), model),
        (APGD(eps=radius, loss="margin"), base()),
    ):
        x_adv = attack(
            LossModel(attacked), x, y, space=BOX, generator=torch.Generator().manual_seed(0)
        )
        truth &= (model(x_adv).argmax(1) == y).numpy()
    assert truth.mean() < report.robust_accuracy - 0.05


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("hardened", [False, True], ids=["plain", "hardened"])
def test_a_network_in_half_precision_is_judged_as_in_single(dtype, hardened):
    """No attack is broken, the accuracies are those of the same weights, and all checks pass."""
    attacks = {"apgd": APGD(eps=EPS, loss="margin"), "square": Square(eps=EPS, queries=100)}
    whole = net("cnn", hardened=hardened, epochs=3)
    half = copy.deepcopy(whole).to(dtype)
    report, expected = judged(half, attacks), judged(whole, attacks)
    assert [result.broken for result in report.attacks] == [None, None]
    assert report.clean_accuracy == pytest.approx(expected.clean_accuracy, abs=0.03)
    assert report.robust_accuracy == pytest.approx(expected.robust_accuracy, abs=0.03)
    assert report.verdict == expected.verdict == "trusted", report.reasons
    assert report.losses_clean.dtype == np.float32
    assert {parameter.dtype for parameter in half.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_defence_in_half_precision_is_called_out(dtype):
    """Also where the noise that looks for it is wider."""
    model = copy.deepcopy(net("winners", epochs=4)).to(dtype)
    assert asked(misleading_gradients, model).verdict == "suspicious"


def test_a_model_that_is_never_right_is_not_trusted():
    """Robust accuracy 0 of 0 examples attacked says nothing; one right example is enough."""
    x, y = data(40)
    model, attacks = LossModel(base()), {"apgd": APGD(eps=EPS, loss="margin")}
    options = {"space": BOX, "checks": True, "progress": False}
    right = model(x).argmax(1)
    report = judge(model, x, (right + 1) % 10, attacks, **options)
    assert report.clean_accuracy == report.robust_accuracy == 0 and report.verdict == "broken"
    check = result_of(report, "right without an attack")
    assert check.figure == 0 and "0 of 40 examples" in check.explanation and check.remedy
    labels = (right + 1) % 10
    labels[0] = right[0]
    some = result_of(judge(model, x, labels, attacks, **options), "right without an attack")
    assert some.verdict == "ok" and some.figure == 1


def test_one_answer_to_everything_or_a_mask_is_not_blindness():
    """A right model that knows one answer, or may be changed in a corner only, may stand."""
    torch.manual_seed(0)
    x, constant = torch.rand(40, 4), nn.Linear(4, 3)
    with torch.no_grad():
        constant.bias[1] = 9.0
    attacks = {"apgd": APGD(eps=0.1, loss="margin")}
    options = {"space": BOX, "checks": True, "progress": False}
    report = judge(LossModel(constant), x, torch.ones(40).long(), attacks, **options)
    assert report.robust_accuracy == 1.0 and report.verdict == "trusted"
    assert "unconstrained attack" not in {check.name for check in report.checks}
    x, y = data()
    corner = torch.zeros(1, 8, 8)
    corner[:, 0, 0] = 1
    options["space"] = InputSpace(0.0, 1.0, corner)
    report = judge(LossModel(base()), x, y, {"apgd": APGD(eps=EPS, loss="margin")}, **options)
    assert report.robust_accuracy > 0.9
    assert "unconstrained attack" not in {check.name for check in report.checks}


def test_an_attack_that_is_too_short():
    """Few tiny steps leave much to be gained, and 50 steps of another attack say so."""
    report = judged(net(), {"pgd": PGD(eps=EPS, steps=12, step_size=0.002, random_start=False)})
    assert {"incomplete optimisation", "more steps"} <= {f.name for f in report.reasons}
    assert result_of(report, "more steps").figure > 0.2
    long = judged(net(), {"apgd": APGD(eps=EPS, steps=60, loss="margin")})
    assert long.verdict == "trusted"


@dataclasses.dataclass(frozen=True)
class Forgetful:
    """Looks where PGD ends, and returns next to nothing."""

    eps: float
    norm: float = torch.inf
    steps: int = 1

    def __call__(self, model, x, y, *, space=BOX, inner=None, start=None, generator=None):
        x_adv = PGD(eps=self.eps, steps=20)(model, x, y, space=space, generator=generator)
        model(x_adv)
        return (x + 1e-4).clamp(0, 1)

    def with_eps(self, scale):
        return dataclasses.replace(self, eps=self.eps * scale)


class Straying(Forgetful):
    """Looks only outside its ball, where mistakes do not count."""

    def __call__(self, model, x, y, **options):
        model((x + 0.9).clamp(0, 1))
        return (x + 1e-4).clamp(0, 1)


def test_silent_success():
    """Mistakes met and not returned are counted, if they were inside the rules."""
    report = judged(net(), {"forgetful": Forgetful(EPS)})
    check = result_of(report, "silent success")
    assert check.verdict == "suspicious" and check.figure >= 15
    assert result_of(judged(net(), {"straying": Straying(EPS)}), "silent success").figure == 0
    # Another attack that returns them makes up for it.
    both = judged(net(), {"forgetful": Forgetful(EPS), "apgd": APGD(eps=EPS, steps=40, loss="ce")})
    assert result_of(both, "silent success").figure <= 1


def test_unfinished_is_the_authors_criterion():
    """The running best, scaled to [0, 1], rose by more than 0.05 in the last 10 looks."""
    rise = torch.linspace(-3, 0, 40)
    flat = torch.cat([torch.linspace(-3, 0, 30), torch.zeros(10)])
    zigzag = torch.cat([torch.linspace(-3, 0, 29), torch.tensor([-3.0, 0.0] * 5), torch.zeros(1)])
    little = torch.cat([torch.linspace(-3, -0.12, 30), torch.linspace(-0.12, 0, 10)])
    margins = torch.stack([rise, flat, zigzag, little, torch.full((40,), -2.0)], 1)
    assert unfinished(margins).tolist() == [True, False, False, False, False]
    assert unfinished(torch.tensor([[-2.0], [-1.0]])).tolist() == [True]


def test_sign_test():
    """Seven to none is surprising, six to none is not; ties and losses never are."""
    assert surprising(7, 0) and not surprising(6, 0)
    assert not surprising(0, 0) and not surprising(0, 20) and not surprising(10, 6)
    strong, weak = torch.tensor([True] * 5 + [False] * 5), torch.tensor([False] * 5 + [True] * 5)
    assert outdone(strong, weak) == (5, False)


class Scripted:
    """A probe whose attacks fool given numbers of 40 examples, by radius."""

    right_or_wrong = True
    gradients = torch.ones(40)

    def __init__(self, half, one, two, four):
        self.fooled_at = {0.5: half, 2: two, 4: four}
        self.white_box = self._first(one)

    def __len__(self):
        return 40

    def stronger(self, *, scale, steps):
        return scale

    def fooled_by(self, scale, name):
        return self._first(self.fooled_at[scale])

    def _first(self, count):
        return torch.arange(40) < count


def test_a_curve_that_rises_is_suspicious():
    """Accuracy may not rise with the radius by more than chance."""
    assert strength.monotone_curve(Scripted(10, 20, 30, 40)).verdict == "ok"
    assert strength.monotone_curve(Scripted(10, 20, 17, 40)).verdict == "ok"
    check = strength.monotone_curve(Scripted(10, 20, 30, 5))
    assert check.verdict == "suspicious" and check.figure == 25 / 40
    assert "25.0% at 2 eps, 87.5% at 4 eps" in check.explanation


class Rivals:
    """A probe of 40 examples whose attacks fool given numbers of them."""

    right_or_wrong = True
    gradients = torch.ones(40)

    def __init__(self, white, noise, black):
        self.white_box, self.noise = torch.arange(40) < white, torch.arange(40) < noise
        self.black_box = None if black is None else torch.arange(40) < black

    def __len__(self):
        return 40


@pytest.mark.parametrize(
    ("noise", "black", "seen"),
    [
        (30, 0, "random noise fools 20 that a gradient attack does not"),
        (30, None, "random noise fools 20 that a gradient attack does not"),
        (0, 25, "Square without gradients fools 15 that a gradient attack does not"),
    ],
    ids=["noise", "noise where there is no Square", "Square"],
)
def test_noise_alone_and_square_alone_outdo_a_white_box(noise, black, seen):
    """Either makes the check fail, which names that one only, with the share it fools."""
    check = strength.white_box_strongest(Rivals(10, noise, black))
    assert check.verdict == "suspicious" and check.figure == (max(noise, black or 0) - 10) / 40
    assert check.explanation == f"Of 40 examples {seen}."


def test_what_outdoes_the_white_box_by_chance_or_not_at_all_is_fine():
    """Three more examples can be luck; both together are both named."""
    for noise, black in ((0, 0), (13, 0), (0, 13), (10, None)):
        check = strength.white_box_strongest(Rivals(10, noise, black))
        assert check.verdict == "ok" and check.figure == 0
    both = strength.white_box_strongest(Rivals(10, 20, 30))
    assert "noise fools 10 " in both.explanation and "gradients fools 20 " in both.explanation
    assert both.figure == 20 / 40


def test_transfer_beats_a_blind_white_box():
    """Attacks made on a stand-in that fool a model with blocked gradients fail the check."""
    blocked = Around(base(), before=defences.Blocked.apply)
    check = result_of(judged(blocked, surrogate=LossModel(base())), "transfer")
    assert check.verdict == "suspicious" and check.figure == 0  # they are the same function
    honest = result_of(judged(base(), surrogate=LossModel(net("mlp", 1))), "transfer")
    assert honest.verdict == "ok" and 0 < honest.figure < 1
    graphless = Around(base(), before=defences.thermometer)
    assert (
        result_of(judged(graphless, surrogate=LossModel(base())), "transfer").verdict
        == "suspicious"
    )
    with pytest.raises(ConfigurationError, match="serves the checks"):
        x, y = data()
        judge(LossModel(base()), x, y, {"pgd": PGD(eps=EPS)}, surrogate=LossModel(base()))


def test_square_after_survivors_is_judged_by_what_it_adds():
    """In a cumulative run, what Square fools beyond the rest is counted."""
    rounded = Around(base(), before=defences.rounded)
    attacks = {"apgd": APGD(eps=EPS, steps=5, loss="ce"), "square": Square(eps=EPS, queries=300)}
    report = judged(rounded, attacks, only_survivors=True)
    check = result_of(report, "Square against white box")
    apgd, square = (result.accuracy for result in report.attacks)
    assert check.verdict == "suspicious" and check.figure == pytest.approx(apgd - square)


@pytest.mark.parametrize("last", [False, True], ids=["last", "in the middle"])
@pytest.mark.parametrize("led", [False, True], ids=["alone", "leading"])
def test_square_is_counted_where_it_stands(last, led):
    """Alone or as the first of a relay; what falls after it is not its doing."""
    rounded = Around(base(), before=defences.rounded)
    square = Square(eps=EPS, queries=300)
    if led:
        square = Chain(square, PGD(eps=EPS, steps=1))
    attacks = {"apgd": APGD(eps=EPS, steps=5, loss="ce"), "square": square}
    if last:
        attacks["more"] = APGD(eps=EPS, steps=5, loss="dlr")
    report = judged(rounded, attacks, only_survivors=True)
    check = result_of(report, "Square against white box")
    before, after = (result.accuracy for result in report.attacks[:2])
    assert check.verdict == "suspicious" and check.figure == pytest.approx(before - after)
    only = judged(rounded, {"square": square}, only_survivors=True)
    assert "Square against white box" not in {each.name for each in only.checks}


def test_square_is_not_credited_with_the_mistakes_of_a_broken_attack():
    """They count against the model, so Square was never shown them."""

    @dataclasses.dataclass(frozen=True)
    class Straying(Forgetful):
        """Fools many inside its ball, and leaves it once."""

        def __call__(self, model, x, y, **options):
            x_adv = APGD(eps=self.eps, loss="margin")(model, x, y, **options)
            return torch.cat([x_adv[:1] + 1, x_adv[1:]])

    attacks = {"apgd": PGD(eps=EPS / 50, steps=1), "bad": Straying(4 * EPS)}
    report = judged(base(), {**attacks, "square": Square(eps=EPS, queries=2)}, only_survivors=True)
    assert report.attacks[1].fooled.sum() > 9 and report.attacks[2].attacked < 60
    check = result_of(report, "Square against white box")
    assert (check.verdict, check.figure) == ("ok", 0.0)


def test_broken_attacks_are_found():
    """Some that broke are suspicious; if none worked the evaluation is broken."""

    @dataclasses.dataclass(frozen=True)
    class Raising(Forgetful):
        def __call__(self, model, x, y, **options):
            raise RuntimeError("no")

    some = judged(base(), {"bad": Raising(EPS), "apgd": APGD(eps=EPS, loss="margin")})
    assert result_of(some, "attacks worked").verdict == some.verdict == "suspicious"
    none = judged(base(), {"bad": Raising(EPS)})
    assert result_of(none, "attacks worked").verdict == none.verdict == "broken"


@pytest.mark.parametrize("norm", [2, 1])
def test_other_norms(norm):
    """The checks apply in L2 and L1, and honest models pass."""
    eps = {2: 0.5, 1: 2.0}[norm]
    attacks = {"apgd": APGD(eps=eps, norm=norm, steps=60, loss="margin")}
    report = judged(net("mlp", 0, True), attacks)
    assert report.verdict == "trusted", [(f.name, f.figure) for f in report.reasons]


def test_regression_gets_the_checks_that_apply():
    """Without classes: broken attacks, gradients, randomness."""
    torch.manual_seed(0)
    model = LossModel(nn.Linear(4, 1), task_for(nn.MSELoss(reduction="none")))
    x, y = torch.rand(20, 4), torch.rand(20, 1)
    report = judge(model, x, y, {"pgd": PGD(eps=0.1)}, checks=True, progress=False)
    assert report.verdict == "trusted"
    assert [f.name for f in report.checks] == [
        "attacks worked", "unavailable gradients", "test-time gradients", "random outputs",
    ]  # fmt: skip


def test_checks_leave_no_trace():
    """Flags, gradients and random streams are as before; the same seed finds the same."""
    module = net("mlp", 3)
    module.train()
    grads = [p.grad.clone() for p in module.parameters()]
    state, kept = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = judged(module)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == kept).all()
    assert module.training and all(
        torch.equal(p.grad, grad) for p, grad in zip(module.parameters(), grads, strict=True)
    )
    assert judged(module).checks == first.checks
    module.eval()


def test_a_check_that_raises_is_a_finding(monkeypatch):
    """The report survives what a check stumbles over, and says so."""

    def stumbling(probe):
        raise RuntimeError("odd model")

    monkeypatch.setattr(_run, "CHECKS", (stumbling,))
    report = judged(base())
    (check,) = report.checks
    assert check.verdict == "suspicious" and check.figure is None
    assert check.name == "stumbling" and "RuntimeError: odd model" in check.explanation


def test_more_than_the_sample_and_per_example_radii():
    """Of many examples 64 are looked at; a radius or mask per example goes along."""
    x, y = data(96)
    eps = torch.full((96, 1, 1, 1), EPS)
    mask = torch.ones_like(x)
    mask[:, :, 0] = 0
    seen = []

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = base()

        def forward(self, z):
            seen.append(len(z))
            return self.net(z)

    report = judge(
        LossModel(Watching()), x, y, {"pgd": PGD(eps=eps, steps=40)},
        space=InputSpace(0.0, 1.0, mask), checks=True, progress=False,
    )  # fmt: skip
    assert 64 in seen and seen[-1] == 64
    assert not [f for f in report.checks if "could not be made" in f.explanation]


def test_suites_are_checked_unless_told_otherwise():
    """evaluate checks named suites by default, and any attacks or none when told."""
    x, y = data(24)
    run = partial(evaluate, base(), x, y, eps=EPS, clip_values=(0.0, 1.0), progress=False)
    assert run().verdict == "trusted" and run(checks=False).verdict is None
    assert run(attacks=["fgsm"]).checks == ()
    assert run(attacks=["fgsm"], checks=True).checks
    assert run(attacks="apgd").verdict is None
    with pytest.raises(ConfigurationError, match="checks must be True, False or 'auto', got 'on'"):
        run(checks="on")
    transferred = run(surrogate=net("mlp", 1))
    assert result_of(transferred, "transfer").verdict == "ok"


def test_overall_is_the_worst():
    """Nothing checked is no verdict; one failed check is enough."""
    ok, odd, bad = (Check(v, v, 0.0, "") for v in ("ok", "suspicious", "broken"))
    assert overall([]) is None and overall([ok]) == "trusted"
    assert overall([ok, odd]) == "suspicious" and overall([odd, bad, ok]) == "broken"
    with pytest.raises(ConfigurationError, match="one of ok, suspicious, broken, got 'fine'"):
        Check("x", "fine", 0.0, "")


@pytest.fixture
def suspicious():
    """A report with an ugly check."""
    report = judged(base())
    ugly = Check("<b>odd</b>", "suspicious", float("inf"), "saw | <script>", "look *twice*")
    return dataclasses.replace(report, checks=(*report.checks, ugly))


def test_checks_survive_json(suspicious):
    """Written and read they are the same; reports from before have none; damage is refused."""
    back = Report.from_json(suspicious.to_json())
    assert back.checks == suspicious.checks and back.verdict == "suspicious"
    written = json.loads(suspicious.to_json())
    assert written["summary"]["verdict"] == "suspicious"
    assert written["summary"]["summary"] == suspicious.summary
    old = {key: value for key, value in written.items() if key != "checks"}
    assert Report.from_dict(old).checks == () and Report.from_dict(old).verdict is None
    written["checks"][0]["verdict"] = "fine"
    with pytest.raises(DataError, match="damaged or incomplete.*'fine'"):
        Report.from_dict(written)


def test_verdict_in_every_form(suspicious, tmp_path):
    """Text, Markdown and the page say the verdict and its reasons, escaped."""
    assert "Suspicious: 1 of 17 checks failed" in " ".join(str(suspicious).split())
    assert "! <b>odd</b> (suspicious): saw | <script> look *twice*" in str(suspicious)
    markdown = suspicious.save(tmp_path / "r.md").read_text(encoding="utf-8")
    assert "but 1 of 17 checks" in markdown.split("**")[1]
    assert "Suspicious: 1 of 17 checks failed" in markdown
    assert r"**&lt;b&gt;odd&lt;/b&gt;** (suspicious): saw \| &lt;script&gt;" in markdown
    page = suspicious.save(tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.index('class="verdict"') < page.index('class="trust suspicious"')
    assert "&lt;b&gt;odd&lt;/b&gt;" in page and "<b>odd</b>" not in page
    assert "unavailable gradients" in page
    trusted = judged(base())
    assert "Trusted: 16 checks found no sign" in str(trusted)
    assert 'class="trust trusted"' in trusted.save(tmp_path / "t.html").read_text("utf-8")
    unchecked = dataclasses.replace(trusted, checks=())
    assert "rusted" not in str(unchecked)
    assert '<p class="trust' not in unchecked.save(tmp_path / "u.html").read_text("utf-8")
    assert compare(trusted, suspicious).notes == (
        "The evaluation after is suspicious: <b>odd</b>.",
    )


def test_a_graph_of_weights_alone_is_no_gradient():
    """Where the loss depends on weights but not on the input, the attack says what to do."""
    model = Around(base(), before=defences.thermometer)
    x, y = data(2)
    with pytest.raises(ConfigurationError, match="no gradient with respect to the input"):
        look(lambda z: (LossModel(model).loss(model(z), y), z), x)
