"""APGD against ART's on its own ground, and against the paper written out one example at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from art.attacks.evasion import AutoProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from art.utils import random_sphere
from torch import Tensor, nn

from artplus.attacks import APGD
from artplus.attacks._ascent import checkpoints
from artplus.bridge.attacks import translate
from artplus.bridge.estimator import view
from artplus.errors import ConfigurationError
from artplus.functional import dlr, targeted_dlr
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.toys import wrong

N, SHAPE, CLASSES = 8, (2, 4, 4), 5
BOX = InputSpace(0.0, 1.0)


@pytest.fixture
def net() -> nn.Module:
    """Smooth and wavy enough that full steps overshoot and the step length has to halve."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(32, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    for parameter in net.parameters():
        parameter.data *= 4
    return net


@pytest.fixture
def batch(net) -> tuple[Tensor, Tensor]:
    """Inputs with the labels that the net gives them, so there is something to fool."""
    x = torch.rand(N, *SHAPE)
    return x, net(x).argmax(1)


def art_apgd(net: nn.Module, **options) -> AutoProjectedGradientDescent:
    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), SHAPE, CLASSES, clip_values=(0.0, 1.0)
    )
    return AutoProjectedGradientDescent(classifier, nb_random_init=1, verbose=False, **options)


@pytest.mark.parametrize("norm", [np.inf, 2])
@pytest.mark.parametrize("loss_type", [None, "cross_entropy", "difference_logits_ratio"])
def test_while_the_loss_rises_apgd_is_arts(net, batch, norm: float, loss_type) -> None:
    """Small steps raise the loss each time, so no step halves and ART's path is the same path.

    Checked on ART's own record of its best point and loss, from the start that ART draws.
    """
    x, y = batch
    eps, step = (0.2, 0.004) if norm == np.inf else (1.0, 0.02)
    art = art_apgd(net, norm=norm, eps=eps, eps_step=step, max_iter=10, loss_type=loss_type)
    np.random.seed(4)
    delta = random_sphere(N, 32, eps / 20, norm).reshape(x.shape)
    start = (x + torch.from_numpy(delta).float()).clamp(0, 1)
    native = translate(art)
    found = native(view(art.estimator).model, x, y, space=BOX, start=start)
    np.random.seed(4)
    art.eps = eps / 20  # ART has no argument for the start: the seed and a small ball make it
    patched = art.generate
    _widen_after_start(art, eps)
    np.random.seed(4)
    patched(x.numpy(), y=y.numpy())
    assert (np.diff(_losses(net, native, x, y, start), axis=0) > 0).all(), "the loss should rise"
    np.testing.assert_allclose(found, art.x_max, atol=2e-5)


def _widen_after_start(art: AutoProjectedGradientDescent, eps: float) -> None:
    """Let ART draw its start in the small ball and then attack in the large one."""
    original = art.estimator.loss_gradient

    def widening(x, y, **kwargs):
        art.eps = eps
        return original(x, y, **kwargs)

    art.estimator.loss_gradient = widening


def _losses(net, attack: APGD, x: Tensor, y: Tensor, start: Tensor) -> np.ndarray:
    """Loss of the best point after 1, 2, ... steps of the same run."""
    model, rows = LossModel(net), []
    for steps in range(1, attack.steps + 1):
        z = replace(attack, steps=steps)(model, x, y, space=BOX, start=start)
        logits = net(z)
        rows.append((dlr(logits, y) if attack.loss == "dlr" else model.loss(logits, y)).detach())
    return torch.stack(rows).numpy()


def paper_checkpoints(steps: int) -> list[int]:
    """w_0 = 0, w_j = ceil(p_j N) with p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - .03, .06)."""
    p = [0.0, 0.22]
    while p[-1] + max(p[-1] - p[-2] - 0.03, 0.06) < 1 - 1e-9:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    return [math.ceil(round(share * steps, 9)) for share in p]


def paper_apgd(loss, x, start, eps, steps, norm, rho=0.75, alpha=0.75) -> tuple[Tensor, list[int]]:
    """Algorithm 1 of the paper on one example; also where it halved its step."""

    def project(z):
        z = z.clamp(0, 1)
        if norm == np.inf:
            return torch.minimum(torch.maximum(z, x - eps), x + eps).clamp(0, 1)
        delta = z - x
        return x + delta * min(1.0, eps / max(float(delta.norm()), 1e-12))

    def f(z):
        z = z.clone().requires_grad_(True)
        value = loss(z)
        (slope,) = torch.autograd.grad(value, z)
        unit = slope.sign() if norm == np.inf else slope / slope.norm()
        return float(value.detach()), unit

    eta, z, before = 2 * eps, start, start
    value, unit = f(z)
    x_max, f_max, unit_max = z, value, unit
    w, rises, halved = paper_checkpoints(steps), 0, []
    eta_last, f_last = None, f_max  # at the first look there is no last one
    for k in range(steps):
        step = project(z + eta * unit)
        if k:
            step = project(z + alpha * (step - z) + (1 - alpha) * (z - before))
        before, z = z, step
        new, unit = f(z)
        rises += new > value
        value = new
        if value > f_max:
            x_max, f_max, unit_max = z, value, unit
        if k + 1 in w[1:]:
            j = len(w) - 1 - w[::-1].index(k + 1)
            condition_1 = rises <= rho * (w[j] - w[j - 1])
            condition_2 = eta_last == eta and f_last == f_max
            eta_last, f_last, rises = eta, f_max, 0
            if condition_1 or condition_2:
                eta, z, unit = eta / 2, x_max, unit_max
                halved.append(k + 1)
    return x_max, halved


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_apgd_is_the_papers_algorithm(net, batch, norm: float) -> None:
    """Fifty steps of 2 eps with halvings end where the paper's algorithm ends, per example."""
    x, y = batch
    net, x = net.double(), x.double()  # a sign that flips by rounding sends the paths apart
    eps = 0.1 if norm == np.inf else 0.5
    model = LossModel(net)
    start = (x + (torch.rand_like(x) * 2 - 1) * eps / 10).clamp(0, 1)
    # climbing an inner loss returns the point of largest value, as the algorithm does
    found = APGD(eps=eps, norm=norm, steps=50)(
        model, x, y, space=BOX, start=start,
        inner=lambda m, x, y: lambda z: m.loss(m(z), y),
    )  # fmt: skip
    looks = set()
    for i in range(N):
        expected, halved = paper_apgd(
            lambda z, i=i: model.loss(model(z[None]), y[i : i + 1])[0],
            x[i],
            start[i],
            eps,
            50,
            norm,
        )
        looks |= set(halved)
        torch.testing.assert_close(found[i], expected, atol=1e-6, rtol=0)
    assert len(looks) > 2, "steps were halved at several looks, else this shows little"


def test_checkpoints_are_the_papers() -> None:
    """The percentages in the code are the recursion of the paper, for any number of steps."""
    for steps in (1, 2, 7, 10, 50, 99, 100, 137):
        w = sorted(set(paper_checkpoints(steps)))
        assert checkpoints(steps) == {b: b - a for a, b in zip(w, w[1:], strict=False)}


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_apgd_is_as_strong_as_arts(net, batch, norm: float) -> None:
    """At the paper's step length the loss it finds is no smaller than ART's, on average."""
    x, y = batch
    eps = 0.08 if norm == np.inf else 0.35
    art = art_apgd(net, norm=norm, eps=eps, eps_step=2 * eps, max_iter=40)
    model = LossModel(net)
    theirs = torch.from_numpy(art.generate(x.numpy(), y=y.numpy()))
    ours = APGD(eps=eps, norm=norm, steps=40)(model, x, y, space=BOX)
    losses = [model.loss(net(z), y).mean().item() for z in (ours, theirs)]
    assert losses[0] > losses[1] - 0.02


@pytest.mark.parametrize(("norm", "dual"), [(np.inf, 1), (2, 2), (1, np.inf)])
def test_on_a_linear_model_apgd_finds_the_closed_form(norm: float, dual: float) -> None:
    """Two classes, no box: the largest loss is softplus(eps * |w|_dual - s (w.x + b))."""
    linear = nn.Linear(6, 2)
    model, x, y = LossModel(linear), torch.randn(10, 6), torch.randint(2, (10,))
    w, b = linear.weight[1] - linear.weight[0], linear.bias[1] - linear.bias[0]
    s = y * 2.0 - 1
    best = nn.functional.softplus(0.3 * torch.linalg.vector_norm(w, dual) - s * (x @ w + b))
    x_adv = APGD(eps=0.3, norm=norm, steps=60)(model, x, y)
    torch.testing.assert_close(model.loss(model(x_adv), y), best, atol=1e-4, rtol=0)


def test_targeted_dlr_finds_what_untargeted_losses_miss() -> None:
    """The mistake lies behind the second wrong class, whose gradient no untargeted loss follows.

    For class 0 the runner-up 1 rises gently and is clipped below it; class 2 is lower at x and
    steep, so only the run that aims at it fools the model. It needs the second of two targets.
    """

    class Trap(nn.Module):
        def forward(self, x):
            z = torch.zeros(len(x), 4) - 30 + 0.0 * x
            one = 9 + x[:, 0].clamp(-1, 0.5)
            two = 8 - 40 * x[:, 0] - 20 * x[:, 0].clamp(min=-0.05)
            return torch.stack([10 + 0 * x[:, 0], one, two * 0.2 + 6.4, z[:, 3]], 1)

    model, x = LossModel(Trap()), torch.zeros(1, 4) + 0.02
    y = torch.zeros(1, dtype=torch.long)
    options = {"eps": 0.4, "steps": 20, "random_start": False, "step_size": 0.05}

    def fooled(**more) -> bool:
        return bool(~model.task.correct(model(APGD(**options, **more)(model, x, y)), y))

    assert not fooled(loss="targeted_dlr", targets=1)
    assert fooled(loss="targeted_dlr", targets=2)
    assert not fooled(loss="margin")


def test_targeted_dlr_climbs_the_papers_ratio(net, batch) -> None:
    """With one target the value that rises is the targeted DLR to the likeliest wrong class."""
    x, y = batch
    logits = net(x)
    runner_up = logits.topk(2, dim=1).indices[:, 1]
    x_adv = APGD(eps=0.02, steps=20, loss="targeted_dlr", targets=1, random_start=False)(
        LossModel(net), x, y, space=BOX
    )
    before, after = targeted_dlr(logits, y, runner_up), targeted_dlr(net(x_adv), y, runner_up)
    assert (after > before).all()


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", None])
def test_targeted_runs_reach_their_class(net, batch, loss) -> None:
    """With ``targeted=True`` the target's loss falls and in a large ball the target is reached."""
    x, y = batch
    model, aim = LossModel(net), (y + 1) % CLASSES
    x_adv = APGD(eps=0.9, steps=40, loss=loss, targeted=True)(model, x, aim, space=BOX)
    assert (model.loss(net(x_adv), aim) < model.loss(net(x), aim)).all()
    # The ratio's own value may rise without reaching the target, so less is asked of it.
    share = 0.2 if loss == "dlr" else 0.7
    assert (net(x_adv).argmax(1) == aim).float().mean() > share


def test_a_fooling_point_beats_one_of_larger_loss() -> None:
    """A misclassified point is returned although one of larger loss, still right, was met after."""

    class Step(nn.Module):
        # At 0 class 1 wins by little; at 0.1 class 0 wins, with three rivals close behind.
        def forward(self, x):
            t = x[:, :1]
            return torch.cat([9 + 0 * t, 9.1 - 1.5 * t, *[5 + 39 * t] * 3], 1)

    model, x = LossModel(Step()), torch.zeros(1, 1)
    y = torch.zeros(1, dtype=torch.long)
    attack = APGD(eps=0.1, steps=1, step_size=0.1, random_start=False)
    x_adv = attack(model, x, y)
    largest = attack(model, x, y, inner=lambda m, x, y: lambda z: m.loss(m(z), y))
    assert wrong(model, model(x_adv), y) and not wrong(model, model(largest), y)
    assert model.loss(model(largest), y) > model.loss(model(x_adv), y)


def test_targeted_dlr_with_three_classes_climbs_cross_entropy_to_the_target() -> None:
    """The ratio needs four logits; with three the attack goes on with the target's own loss."""
    linear = nn.Linear(5, 3)
    model, x = LossModel(linear), torch.rand(6, 5)
    y = linear(x).argmax(1)
    x_adv = APGD(eps=1.0, steps=20, loss="targeted_dlr")(model, x, y)
    assert wrong(model, linear(x_adv), y).all()


@pytest.mark.parametrize(("loss", "classes"), [("dlr", 2), ("targeted_dlr", 2)])
def test_too_few_classes_are_refused(loss, classes: int) -> None:
    """The ratio is undefined below three classes, and the message says what to use."""
    model = LossModel(nn.Linear(3, classes))
    with pytest.raises(ConfigurationError, match="at least 3 classes.*loss='ce' or 'margin'"):
        APGD(eps=0.1, loss=loss)(model, torch.rand(2, 3), torch.tensor([0, 1]))


def test_a_loss_of_its_own_beside_an_inner_loss_is_refused() -> None:
    """Neither is dropped in silence."""
    model, inner = LossModel(nn.Linear(3, 4)), lambda m, x, y: lambda z: m.loss(m(z), y)
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    assert APGD(eps=0.1, loss="ce").climbs_own and not APGD(eps=0.1).climbs_own
    with pytest.raises(ConfigurationError, match="climbs 'ce', but an inner loss was given"):
        APGD(eps=0.1, loss="ce")(model, x, y, inner=inner)


def test_a_loss_that_is_one_mean_is_refused() -> None:
    """Without a loss per example there is no step length per example."""
    model = LossModel(nn.Linear(3, 4), task_for(lambda logits, y: logits.sum()))
    with pytest.raises(ConfigurationError, match="one mean for the batch"):
        APGD(eps=0.1)(model, torch.rand(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin", "targeted_dlr"])
def test_named_losses_need_classes(loss) -> None:
    """A regression has no logits to compare."""
    model = LossModel(nn.Linear(3, 1), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="defined on class logits"):
        APGD(eps=0.1, loss=loss)(model, torch.rand(2, 3), torch.rand(2, 1))


def test_on_a_regression_apgd_raises_the_models_own_loss() -> None:
    """A linear regression's squared error is largest where the closed form says."""
    linear = nn.Linear(4, 1)
    model, x, y = LossModel(linear, task_for(nn.MSELoss())), torch.randn(5, 4), torch.randn(5, 1)
    residual = (linear(x) - y).abs().squeeze(1)
    expected = (residual + 0.2 * linear.weight.abs().sum()) ** 2
    x_adv = APGD(eps=0.2, steps=40, restarts=3)(model, x, y)
    torch.testing.assert_close(model.loss(linear(x_adv), y), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "nll"}, "loss must be one of ce, dlr, margin, targeted_dlr"),
        ({"loss": "targeted_dlr", "targeted": True}, "chooses its targets itself"),
        ({"momentum": 0.0}, r"momentum must lie in \(0, 1\]"),
        ({"rho": 1.0}, "rho must be a number in"),
        ({"restarts": 2, "random_start": False}, "would repeat the same run"),
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"draws": 0}, "draws must be a whole number >= 1"),
        ({"step_size": -1.0}, "eps must be|>= 0"),
    ],
)
def test_wrong_settings_are_refused(options, match: str) -> None:
    """At construction, by name."""
    with pytest.raises(ConfigurationError, match=match):
        APGD(eps=0.1, **options)


def test_later_restarts_run_on_the_survivors_only(net, batch) -> None:
    """What is fooled is asked no more; the answer for it stays the first run's."""
    x, y = batch
    sizes: list[int] = []

    def counting(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return net(z)

    model = LossModel(net, forward=counting)
    one = APGD(eps=0.05, steps=4)(
        model, x, y, space=BOX, generator=torch.Generator().manual_seed(0)
    )
    fooled = wrong(model, net(one), y)
    assert 0 < fooled.sum() < N
    sizes.clear()
    two = APGD(eps=0.05, steps=4, restarts=2)(
        model, x, y, space=BOX, generator=torch.Generator().manual_seed(0)
    )
    assert sizes == [N] * 5 + [int((~fooled).sum())] * 5
    assert torch.equal(one[fooled], two[fooled])


@pytest.mark.parametrize("norm", [np.inf, 2, 1])
@pytest.mark.parametrize("loss", ["ce", "targeted_dlr"])
def test_leaving_fooled_examples_fools_the_same(net, norm: float, loss) -> None:
    """The others' paths do not depend on who is in the batch; whoever left comes back fooled."""
    x = torch.rand(40, *SHAPE, dtype=torch.float64)
    net = net.double()
    y, model = net(x).argmax(1), LossModel(net)
    eps = {np.inf: 0.04, 2: 0.2, 1: 0.5}[norm]
    start = (x + 0.01 * torch.randn_like(x)).clamp(0, 1)
    steps = 90 if norm == 1 else 25  # of which in L1 the last 40 % count
    attack = APGD(eps=eps, norm=norm, steps=steps, loss=loss, targets=1)
    whole, left = (
        a(model, x, y, space=BOX, start=start) for a in (attack, replace(attack, until_fooled=True))
    )
    fooled = wrong(model, net(whole), y)
    assert 5 < fooled.sum() < 35
    assert torch.equal(wrong(model, net(left), y), fooled)
    torch.testing.assert_close(left[~fooled], whole[~fooled], atol=1e-9, rtol=0)


def test_fooled_examples_leave_within_eight_steps(net) -> None:
    """The passes shrink; a run ends when all are gone, restarts and all; masks stay with theirs."""
    x = torch.rand(30, *SHAPE)
    y, sizes = net(x).argmax(1), []
    mask = (torch.rand(30, *SHAPE) < 0.8).float()
    space = InputSpace(0.0, 1.0, mask)

    def counting(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return net(z)

    model = LossModel(net, forward=counting)
    for eps in (0.06, 0.9):
        sizes.clear()
        attack = APGD(eps=eps, steps=30, restarts=2, loss="dlr", until_fooled=True)
        x_adv = attack(model, x, y, space=space)
        standing = int((net(x_adv).argmax(1) == y).sum())
        assert sizes[0] == 30 and sizes == sorted(sizes, reverse=True)
        assert torch.equal(x_adv * (1 - mask), x * (1 - mask))
        if eps == 0.06:
            assert 0 < standing < 20 and standing <= sizes[-1] < 30 and len(sizes) == 62
        else:
            assert standing == 0 and len(sizes) < 20
    sizes.clear()
    everything = APGD(eps=0.9, steps=30, until_fooled=True)
    everything(model, x, y, inner=lambda m, x, y: lambda z: m.loss(m(z), y))
    assert sizes == [30] * 31, "an inner loss fools nobody, so nobody leaves"


class Noisy(nn.Module):
    """A classifier that is random in evaluation mode: its input is multiplied by noise."""

    def __init__(self, net: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.net, self.generator = net, generator

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=self.generator, dtype=x.dtype)
        return self.net(x * (1 + noise))


def paper_expectation(net, x, y, start, eps, steps, draws, generator) -> Tensor:
    """Plain APGD on one example whose loss and gradient are means over draws of the noise."""

    def loss(z: Tensor) -> Tensor:
        total = torch.zeros((), dtype=z.dtype)
        for _ in range(draws):
            noise = torch.rand((1, *z.shape), generator=generator, dtype=z.dtype)
            total = total + nn.functional.cross_entropy(net(z[None] * (1 + noise)), y)
        return total / draws

    return paper_apgd(loss, x, start, eps, steps, np.inf)[0]


def test_draws_are_the_expectation_over_transformation(net) -> None:
    """Each look is the mean of so many passes with noise of their own, as the paper asks."""
    net = net.double()
    x = torch.rand(1, *SHAPE, dtype=torch.float64)
    y, start = net(x).argmax(1), (x + 0.01).clamp(0, 1)
    draw = torch.Generator()
    model = LossModel(Noisy(net, draw))
    for draws in (1, 5):
        draw.manual_seed(0)
        found = APGD(eps=0.1, steps=20, draws=draws)(
            model, x, y, space=BOX, start=start,
            inner=lambda m, x, y: lambda z: m.loss(m(z), y),
        )  # fmt: skip
        draw.manual_seed(0)
        expected = paper_expectation(net, x[0], y, start[0], 0.1, 20, draws, draw)
        torch.testing.assert_close(found[0], expected, atol=1e-9, rtol=0)


def test_the_mean_of_draws_climbs_what_single_draws_cannot() -> None:
    """Noise of either sign hides the slope of one pass; the mean of many finds the way."""

    class Signs(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sign = torch.where(torch.rand(len(x)) < 0.6, 1.0, -1.0)
            lead = 1.0 - (sign[:, None] * x).sum(1) * 0.5
            return torch.stack([lead, torch.zeros_like(lead), lead - 5], 1)

    model, x, y = LossModel(Signs()), torch.zeros(200, 3), torch.zeros(200, dtype=torch.long)
    moved = {
        draws: APGD(eps=1.0, steps=20, loss="ce", draws=draws, random_start=False)(model, x, y)
        for draws in (1, 40)
    }
    right = {draws: float((z.sum(1) > 2.5).double().mean()) for draws, z in moved.items()}
    assert right[40] > 0.8 and right[40] > right[1] + 0.1


def test_fooled_is_what_most_draws_say() -> None:
    """One mistake among many draws is luck of the draw: it neither ends a run nor is returned."""

    class Coin(nn.Module):
        def __init__(self, odds: float) -> None:
            super().__init__()
            self.odds, self.sizes = odds, []

        def forward(self, x: Tensor) -> Tensor:
            self.sizes.append(len(x))
            wrong = torch.rand(len(x)) < self.odds
            lead = torch.where(wrong, -1.0, 1.0) + 0.0 * x.sum(1)
            return torch.stack([lead, -lead, -lead - 1], 1)

    x, y = torch.rand(50, 4), torch.zeros(50, dtype=torch.long)
    for odds, left in ((0.1, 50), (0.9, 0)):
        coin = Coin(odds)
        APGD(eps=0.1, steps=9, loss="ce", draws=25, until_fooled=True)(LossModel(coin), x, y)
        assert coin.sizes[0] == 50 and coin.sizes[-1] >= left
        assert (len(coin.sizes) == 250) == (odds == 0.1)
