"""FAB against closed forms of linear models and against the paper written out, one at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import APGD, FAB, Relative
from artplus.attacks._hyperplane import crossing
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.geometry import geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.toys import wrong

NORMS = [math.inf, 2.0, 1.0]
N, D, CLASSES = 8, 10, 4
BOX = InputSpace(0.0, 1.0)
every_norm = pytest.mark.parametrize("norm", NORMS)


@pytest.fixture
def net() -> nn.Module:
    """Wavy, in double precision."""
    net = nn.Sequential(nn.Linear(D, 12), nn.Tanh(), nn.Linear(12, CLASSES)).double()
    for parameter in net.parameters():
        parameter.data *= 2
    return net


@pytest.fixture
def batch(net) -> tuple[Tensor, Tensor]:
    """Inputs with the labels that the net gives them."""
    x = torch.rand(N, D).double()
    return x, net(x).argmax(1)


def closed_form(linear: nn.Linear, x: Tensor, y: Tensor, norm: float, space: InputSpace) -> Tensor:
    """The least distance inside the box to the hyperplane of any other class."""
    logits, rows = linear(x).detach(), torch.arange(len(x))
    best = torch.full((len(x),), math.inf).double()
    for k in range(linear.out_features):
        w = (linear.weight[k] - linear.weight[y]).detach()
        gap = logits[rows, y] - logits[:, k]
        d = crossing(x, w, gap, space, norm)
        reached = ((w * d).sum(1) - gap).abs() < 1e-9
        distance = torch.linalg.vector_norm(d, norm, dim=1)
        best = torch.where(reached & (y != k), torch.minimum(best, distance), best)
    return best


@every_norm
@pytest.mark.parametrize("targets", [9, None])
@pytest.mark.parametrize("classes", [2, CLASSES])
def test_on_a_linear_model_the_nearest_mistake_is_found(norm, targets, classes: int) -> None:
    """As near as the closed form inside the box, never nearer, for two classes and for more.

    On the hyperplane to any class that class or another one wins, so the nearest mistake is on the
    nearest of the hyperplanes.
    """
    linear = nn.Linear(D, classes).double()
    x = torch.rand(N, D).double()
    y = linear(x).argmax(1)
    best = closed_form(linear, x, y, norm, BOX)
    attack = FAB(eps=0.3, norm=norm, targets=targets, steps=40)
    x_adv, distance = attack.minimum(LossModel(linear), x, y, space=BOX)
    finite = best < math.inf
    assert finite.sum() > N // 2
    assert (distance[finite] >= best[finite] * (1 - 1e-9)).all()
    torch.testing.assert_close(distance[finite], best[finite], rtol=0.01, atol=0)
    torch.testing.assert_close(torch.linalg.vector_norm(x_adv - x, norm, dim=1)[finite],
                               distance[finite])  # fmt: skip
    assert (linear(x_adv).argmax(1) != y)[finite].all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1


@every_norm
def test_without_bounds_it_is_the_distance_to_a_hyperplane(norm: float) -> None:
    """Two classes, no box: ``|f| / |w|_dual``, in single precision too."""
    linear, x = nn.Linear(D, 2), torch.randn(N, D)
    y = linear(x).argmax(1)
    w, f = linear.weight.diff(dim=0), linear(x).diff(dim=1).squeeze(1)
    dual = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}[norm]
    expected = f.abs() / torch.linalg.vector_norm(w, dual)
    _, distance = FAB(eps=0.3, norm=norm, steps=30).minimum(LossModel(linear), x, y)
    torch.testing.assert_close(distance, expected, rtol=0.01, atol=1e-6)


@every_norm
def test_fooled_are_those_whose_distance_is_within_the_radius(norm: float) -> None:
    """As an attack with a radius: inside the ball, and a mistake wherever there is one."""
    linear, x = nn.Linear(D, CLASSES).double(), torch.rand(40, D).double()
    y, model = linear(x).argmax(1), LossModel(linear)
    best = closed_form(linear, x, y, norm, BOX)
    eps = float(best.median()) * 1.05
    x_adv = FAB(eps=eps, norm=norm, steps=40)(model, x, y, space=BOX)
    length = torch.linalg.vector_norm(x_adv - x, norm, dim=1)
    assert (length <= eps * (1 + 1e-9)).all()
    fooled = wrong(model, linear(x_adv), y)
    assert fooled[best < eps / 1.01].all() and not fooled[best > eps].any()
    assert (margin(linear(x_adv), y) > margin(linear(x), y)).all(), "pulled back, not given up"


def paper_fab(f, x, y, target, norm, steps, *, alpha_max=0.1, eta=1.05, beta=0.9) -> Tensor | None:
    """Algorithm 1 of the paper towards one class, on one example."""
    best, least, z = None, math.inf, x
    for _ in range(steps):
        z = z.clone().requires_grad_(True)
        lead = f(z)[target] - f(z)[y]
        (w,) = torch.autograd.grad(lead, z)
        z, lead = z.detach(), lead.detach()
        b = w @ z - lead  # the hyperplane is <w, .> = b
        d = [crossing(p[None], w[None], (b - w @ p)[None], BOX, norm)[0] for p in (z, x)]
        near, far = (max(float(torch.linalg.vector_norm(v, norm)), 1e-8) for v in d)
        alpha = min(near / (near + far), alpha_max)
        z = ((1 - alpha) * (z + eta * d[0]) + alpha * (x + eta * d[1])).clamp(0, 1)
        if int(f(z).argmax()) != y:
            length = float(torch.linalg.vector_norm(z - x, norm))
            if length < least:
                best, least = z, length
            z = x + beta * (z - x)
    return best


@every_norm
def test_fab_is_the_papers_algorithm(net, batch, norm: float) -> None:
    """Without the last search each example ends where the written-out algorithm ends."""
    x, y = batch
    found, distance = FAB(eps=0.1, norm=norm, steps=25, targets=1, search=0).minimum(
        LossModel(net), x, y, space=BOX
    )
    aims = net(x).topk(2, dim=1).indices[:, 1]
    met = 0
    for i in range(N):
        expected = paper_fab(net, x[i], int(y[i]), int(aims[i]), norm, 25)
        assert (expected is None) == bool(torch.isinf(distance[i]))
        if expected is not None:
            met += 1
            torch.testing.assert_close(found[i], expected, atol=1e-8, rtol=0)
    assert met > N // 2


@every_norm
def test_more_targets_and_the_search_only_bring_it_nearer(net, batch, norm: float) -> None:
    """What is found first is replaced by what is nearer, example by example."""
    x, y = batch

    def distance(**options) -> Tensor:
        return FAB(eps=0.1, norm=norm, steps=15, **options).minimum(
            LossModel(net), x, y, space=BOX
        )[1]  # fmt: skip

    one, all_ = distance(targets=1), distance(targets=3)
    assert (all_ <= one).all() and (all_ < one).any()
    plain, searched = distance(targets=1, search=0), distance(targets=1, search=3)
    assert (searched <= plain).all() and (searched < plain).any()
    assert (searched[searched < math.inf] > 0).all()


def test_it_agrees_with_apgd_on_who_can_be_fooled(net, batch) -> None:
    """At radii around the distances found, a strong attack of another kind says the same."""
    x, y = batch
    model = LossModel(net)
    _, distance = FAB(eps=0.1, steps=60).minimum(model, x, y, space=BOX)
    for scale, verdict in ((1.05, True), (0.9, False)):
        eps = (distance * scale)[:, None]
        x_adv = APGD(eps=eps, steps=60, loss="margin", random_start=False)(model, x, y, space=BOX)
        share = wrong(model, net(x_adv), y).double().mean()
        assert share > 0.8 if verdict else share < 0.2


def test_what_is_wrong_already_is_at_distance_zero(net, batch) -> None:
    """Such inputs come back as they are."""
    x, y = batch
    y = torch.where(torch.arange(N) < 3, (y + 1) % CLASSES, y)
    attack = FAB(eps=0.5, steps=5)
    x_adv, distance = attack.minimum(LossModel(net), x, y, space=BOX)
    assert torch.equal(x_adv[:3], x[:3]) and (distance[:3] == 0).all() and (distance[3:] > 0).all()
    assert torch.equal(attack(LossModel(net), x, y, space=BOX)[:3], x[:3])


def test_no_mistake_anywhere_is_at_infinite_distance() -> None:
    """A model that never changes its mind has none, whatever the gradient says."""

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([10 + 0 * x[:, 0], x[:, 0].tanh()], 1)

    x, y = torch.rand(3, 4), torch.zeros(3, dtype=torch.long)
    attack = FAB(eps=0.1, steps=5)
    assert torch.isinf(attack.minimum(LossModel(Sure()), x, y, space=BOX)[1]).all()
    x_adv = attack(LossModel(Sure()), x, y, space=BOX)
    assert ((x_adv - x).abs().amax(1) <= 0.1 + 1e-6).all() and not torch.equal(x_adv, x)


def test_a_temperature_changes_nothing(net, batch) -> None:
    """Logits times a million give the same examples: nothing is masked by scale."""
    x, y = batch
    for targets in (9, None):
        found = [
            FAB(eps=0.1, steps=10, targets=targets)(
                LossModel(net, forward=lambda z, s=s: net(z) * s), x, y, space=BOX
            )
            for s in (1.0, 1e6)
        ]
        torch.testing.assert_close(*found, atol=1e-6, rtol=0)


def test_later_runs_are_on_the_standing_only(net, batch) -> None:
    """What has a mistake within eps is asked no more; the minimum is sought by every run."""
    x, y = batch
    sizes: list[int] = []

    def counting(z: Tensor) -> Tensor:
        sizes.append(len(z))
        return net(z)

    model = LossModel(net, forward=counting)
    _, distance = FAB(eps=0.1, steps=3, targets=1, search=0).minimum(model, x, y, space=BOX)
    assert sizes == [N] * 7
    eps = float(distance.median())
    left = int((distance > eps).sum())
    assert 0 < left < N
    sizes.clear()
    FAB(eps=eps, steps=3, targets=2, search=0)(model, x, y, space=BOX)
    # The clean pass, then two a step: who fell is gone after steps 1 and 2, and from the next run.
    assert sizes[:3] == [N] * 3 and sizes == sorted(sizes, reverse=True)
    assert sizes[6] <= sizes[2] and sizes[7:] and max(sizes[7:]) <= left < N
    sizes.clear()
    FAB(eps=eps, steps=3, targets=2, search=0).minimum(model, x, y, space=BOX)
    assert sizes == [N] * 13


@every_norm
@pytest.mark.parametrize("targets", [2, None])
def test_leaving_changes_no_other_examples_path(net, batch, norm: float, targets) -> None:
    """Those within the radius are what the minimum says; the rest end where they would have."""
    x, y = batch
    space = InputSpace(0.0, 1.0, (torch.rand(N, D) < 0.9).double())
    model, attack = LossModel(net), FAB(eps=1.0, norm=norm, steps=30, targets=targets, search=0)
    found, distance = attack.minimum(model, x, y, space=space)
    eps = float(distance.median()) * 1.001
    x_adv = replace(attack, eps=eps)(model, x, y, space=space)
    inside = distance <= eps
    assert 0 < inside.sum() < N
    assert torch.equal(wrong(model, net(x_adv), y), inside)
    far = (distance < math.inf) & ~inside
    pulled = geometry(norm).retraction(x, eps, space)(found)
    torch.testing.assert_close(x_adv[far], pulled[far], atol=1e-8, rtol=0)


@every_norm
def test_restarts_begin_at_random_points_half_a_radius_away(net, batch, norm: float) -> None:
    """The second run of a target starts there, the first at x."""
    x, y = batch
    asked: list[Tensor] = []

    def recording(z: Tensor) -> Tensor:
        if z.requires_grad:
            asked.append(z.detach())
        return net(z)

    options = {"norm": norm, "steps": 1, "targets": 2, "restarts": 2}
    FAB(eps=0.4, **options).minimum(LossModel(net, forward=recording), x, y)
    assert torch.equal(asked[0], x) and torch.equal(asked[2], x)
    for start in (asked[1], asked[3]):
        length = geometry(norm).length(start - x)
        torch.testing.assert_close(length, torch.full_like(length, 0.2))
    asked.clear()
    FAB(eps=0.4, **options).minimum(LossModel(net, forward=recording), x, y, start=x * 0.5)
    assert torch.equal(asked[0], x * 0.5) and torch.equal(asked[2], x)


def test_radii_by_feature_and_by_example(net, batch) -> None:
    """Per feature the distance is in units of it, zero keeps a feature; Relative is by example."""
    x, y = batch
    eps = torch.linspace(0, 0.2, D).double()
    attack = FAB(eps=eps, steps=20, restarts=2)
    x_adv, distance = attack.minimum(LossModel(net), x, y, space=BOX)
    assert torch.equal(x_adv[:, 0], x[:, 0])
    measured = ((x_adv - x).abs()[:, 1:] / eps[1:]).amax(1)
    met = distance < math.inf
    assert met.any()
    torch.testing.assert_close(distance[met], measured[met])
    x_adv = attack(LossModel(net), x, y, space=BOX)
    assert ((x_adv - x).abs() <= eps + 1e-12).all()
    whole = eps.expand(N, D) * torch.linspace(0.5, 2, N).double()[:, None]
    x_adv = FAB(eps=whole, steps=5, restarts=2)(LossModel(net), x, y, space=BOX)
    assert ((x_adv - x).abs() <= whole + 1e-12).all()
    x_adv = FAB(eps=Relative(0.1), norm=2, steps=5)(LossModel(net), x, y, space=BOX)
    assert ((x_adv - x).norm(dim=1) <= 0.1 * x.norm(dim=1) + 1e-9).all()


def test_soft_labels_are_their_likeliest_class(net, batch) -> None:
    """Rows of labels attack what class numbers attack."""
    x, y = batch
    rows = nn.functional.one_hot(y, CLASSES).double() * 0.9 + 0.025
    attack, model = FAB(eps=0.1, steps=5), LossModel(net)
    torch.testing.assert_close(attack(model, x, rows), attack(model, x, y))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"restarts": 0}, "restarts must be a whole number >= 1"),
        ({"targets": 0}, "targets must be a whole number >= 1"),
        ({"search": -1}, "search must be a whole number >= 0"),
        ({"alpha_max": 1.5}, r"alpha_max must lie in \[0, 1\]"),
        ({"eta": 0.9}, "eta must be >= 1"),
        ({"beta": 1.0}, r"beta must be a number in \[0, 1\)"),
    ],
)
def test_wrong_settings_are_refused(options, match: str) -> None:
    """At construction, by name."""
    with pytest.raises(ConfigurationError, match=match):
        FAB(eps=0.1, **options)


def test_what_it_cannot_attack_is_refused(net, batch) -> None:
    """No classes, or a loss to climb."""
    x, y = batch
    assert FAB(eps=0.1).climbs_own
    with pytest.raises(ConfigurationError, match="FAB follows the boundary .* and climbs no loss"):
        FAB(eps=0.1)(LossModel(net), x, y, inner=lambda m, x, y: lambda z: m.loss(m(z), y))
    model = LossModel(nn.Linear(D, 1).double(), task_for(nn.MSELoss()))
    with pytest.raises(ConfigurationError, match="FAB needs class logits"):
        FAB(eps=0.1)(model, x, torch.rand(N, 1).double())
