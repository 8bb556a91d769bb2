"""What every native attack promises: inside ball and box, no trace in the model, repeatable."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from artplus.attacks import (
    APGD,
    FAB,
    FMN,
    PGD,
    Attack,
    Average,
    Chain,
    Combination,
    Cycle,
    Microbatched,
    Noise,
    PowerIteration,
    Relative,
    SMARTAttack,
    Square,
    WorstOf,
    bim,
    fgm,
    members,
    mim,
)
from artplus.errors import ConfigurationError
from artplus.geometry import geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.toys import wrong as misclassified

SHAPE, CLASSES, N = (2, 6, 6), 4, 6
BOX = InputSpace(0.0, 1.0)
RADII = {np.inf: 0.1, 2: 0.5, 1: 1.0}

Make = Callable[..., Attack]
ATTACKS: dict[str, tuple[Make, tuple[float, ...]]] = {
    "fgm": (lambda eps, norm: fgm(eps, norm=norm), (np.inf, 2, 1)),
    "fgm-random": (lambda eps, norm: fgm(eps, norm=norm, random_start=True), (np.inf, 2, 1)),
    "bim": (lambda eps, norm: bim(eps, norm=norm, steps=4), (np.inf, 2, 1)),
    "mim": (lambda eps, norm: mim(eps, norm=norm, steps=4), (np.inf, 2, 1)),
    "pgd": (lambda eps, norm: PGD(eps=eps, norm=norm, steps=4), (np.inf, 2, 1)),
    "pgd-restarts": (lambda eps, norm: PGD(eps=eps, norm=norm, steps=2, restarts=3), (np.inf, 2)),
    "pgd-targeted": (lambda eps, norm: PGD(eps=eps, norm=norm, steps=4, targeted=True), (np.inf,)),
    "apgd": (lambda eps, norm: APGD(eps=eps, norm=norm, steps=8), (np.inf, 2, 1)),
    "apgd-dlr": (lambda eps, norm: APGD(eps=eps, norm=norm, steps=8, loss="dlr"), (np.inf, 2)),
    "apgd-t": (
        lambda eps, norm: APGD(eps=eps, norm=norm, steps=4, loss="targeted_dlr"),
        (np.inf, 2, 1),
    ),
    "fab": (
        lambda eps, norm: FAB(eps=eps, norm=norm, steps=4, targets=None, restarts=2),
        (np.inf, 2, 1),
    ),
    "fab-t": (
        lambda eps, norm: FAB(eps=eps, norm=norm, steps=4, targets=2, restarts=2),
        (np.inf, 2, 1),
    ),
    "apgd-leaving": (
        lambda eps, norm: APGD(eps=eps, norm=norm, steps=20, loss="dlr", until_fooled=True),
        (np.inf, 2, 1),
    ),
    "apgd-draws": (
        lambda eps, norm: APGD(eps=eps, norm=norm, steps=4, loss="ce", draws=3),
        (np.inf, 2, 1),
    ),
    "fmn": (lambda eps, norm: FMN(eps=eps, norm=norm, steps=8), (np.inf, 2, 1)),
    "square": (lambda eps, norm: Square(eps=eps, norm=norm, queries=20), (np.inf, 2, 1)),
    "noise": (lambda eps, norm: Noise(eps=eps, norm=norm), (np.inf, 2, 1)),
    "noise-normal": (
        lambda eps, norm: Noise(eps=eps, norm=norm, distribution="normal"),
        (np.inf, 2, 1),
    ),
    "power-iteration": (
        lambda eps, norm: PowerIteration(eps=eps, norm=norm, steps=2),
        (np.inf, 2, 1),
    ),
    "smart": (
        lambda eps, norm: SMARTAttack(eps=eps, norm=norm, step_size=0.1, steps=3),
        (np.inf, 2, 1),
    ),
    "smart-mt-dnn": (
        lambda eps, norm: SMARTAttack(eps=eps, norm=norm, variant="mt-dnn"),
        (np.inf,),
    ),
    "worst": (
        lambda eps, norm: WorstOf([fgm(eps, norm=norm), PGD(eps=eps, norm=norm, steps=2)]),
        (np.inf, 2),
    ),
    "relay": (
        lambda eps, norm: Chain(
            Square(eps=eps, norm=norm, queries=10), APGD(eps=eps, norm=norm, steps=4, loss="margin")
        ),
        (np.inf, 2, 1),
    ),
    "sliced": (lambda eps, norm: Microbatched(PGD(eps=eps, norm=norm, steps=3), 4), (np.inf, 2)),
}
ROWS = [
    pytest.param(make, norm, id=f"{name}-{norm}")
    for name, (make, norms) in ATTACKS.items()
    for norm in norms
]
every_attack = pytest.mark.parametrize(("make", "norm"), ROWS)


@pytest.fixture
def net() -> nn.Module:
    """With batch norm, dropout and a frozen layer: what a careless attack would disturb."""
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )
    net(torch.rand(32, *SHAPE))  # statistics of its own
    net.train()
    net[1].eval()
    return net


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(N, *SHAPE), torch.randint(CLASSES, (N,))


def seed(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@every_attack
def test_examples_lie_in_ball_and_box(net, batch, make: Make, norm: float) -> None:
    """Shaped like x, detached, moved, at most eps away, inside the bounds."""
    x, y = batch
    attack = make(RADII[norm], norm)
    assert isinstance(attack, Attack)
    assert attack.norm == norm and attack.eps == RADII[norm]
    x_adv = attack(LossModel(net), x, y, space=BOX, generator=seed(0))
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and not x_adv.requires_grad
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    distance = geometry(norm).length(x_adv - x)
    assert (distance <= RADII[norm] * (1 + 1e-4)).all()
    assert (distance > 0).any()


@every_attack
def test_eps_zero_is_the_identity(net, batch, make: Make, norm: float) -> None:
    """No radius, no change: training with it is plain training."""
    x, y = batch
    x_adv = make(0.0, norm)(LossModel(net), x, y, space=BOX, generator=seed(0))
    torch.testing.assert_close(x_adv, x, atol=0, rtol=0)


@every_attack
def test_the_model_is_as_it_was(net, batch, make: Make, norm: float) -> None:
    """Flags, weights, buffers and parameter gradients are untouched; so are x and y."""
    x, y = batch
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    flags = [module.training for module in net.modules()]
    state, kept = copy.deepcopy(net.state_dict()), (x.clone(), y.clone())
    make(RADII[norm], norm)(LossModel(net), x, y, space=BOX, generator=seed(0))
    assert [module.training for module in net.modules()] == flags
    for name, value in net.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in net.parameters())
    assert all(p.requires_grad for p in net.parameters())
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])


@every_attack
def test_a_failing_model_gets_its_flags_back(net, batch, make: Make, norm: float) -> None:
    """An error inside the attack leaves no module in evaluation mode."""
    flags = [module.training for module in net.modules()]

    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("broken")

    attack = make(RADII[norm], norm)
    if isinstance(attack, Noise):
        pytest.skip("makes no pass through the model")
    with pytest.raises(RuntimeError, match="broken"):
        attack(LossModel(net, forward=broken), *batch, space=BOX)
    assert [module.training for module in net.modules()] == flags


@every_attack
def test_the_generator_decides_alone(net, batch, make: Make, norm: float) -> None:
    """The same generator state, the same examples; the global stream is neither read nor moved."""
    attack, before = make(RADII[norm], norm), torch.get_rng_state()
    first = attack(LossModel(net), *batch, space=BOX, generator=seed(3))
    torch.manual_seed(99)
    second = attack(LossModel(net), *batch, space=BOX, generator=seed(3))
    assert torch.equal(first, second)
    torch.set_rng_state(before)
    attack(LossModel(net), *batch, space=BOX, generator=seed(3))
    assert torch.equal(torch.get_rng_state(), before)


@every_attack
@pytest.mark.parametrize("per_example", [False, True])
def test_masked_features_never_move(net, batch, make: Make, norm, per_example: bool) -> None:
    """Zero in the mask keeps a feature, for one mask or one per example, restarts included."""
    x, y = batch
    mask = (torch.rand(N, *SHAPE) if per_example else torch.rand(SHAPE)) < 0.5
    space = InputSpace(0.0, 1.0, mask.float())
    x_adv = make(RADII[norm], norm)(LossModel(net), x, y, space=space, generator=seed(0))
    fixed = ~mask.expand_as(x)
    torch.testing.assert_close(x_adv[fixed], x[fixed], atol=1e-6, rtol=0)
    assert not torch.equal(x_adv, x)


@every_attack
def test_with_eps_scales_the_radius(net, batch, make: Make, norm: float) -> None:
    """A schedule's copy keeps to the smaller ball; the original is unchanged."""
    attack = make(RADII[norm], norm)
    half = attack.with_eps(0.5)
    assert type(half) is type(attack)
    assert half.eps == pytest.approx(RADII[norm] / 2) and attack.eps == RADII[norm]
    x, y = batch
    x_adv = half(LossModel(net), x, y, space=BOX, generator=seed(0))
    assert (geometry(norm).length(x_adv - x) <= RADII[norm] / 2 * (1 + 1e-4)).all()


@every_attack
def test_float64_stays_float64(net, batch, make: Make, norm: float) -> None:
    """The attack follows the dtype of its input."""
    x, y = batch
    x_adv = make(RADII[norm], norm)(LossModel(net.double()), x.double(), y, space=BOX)
    assert x_adv.dtype == torch.float64


RISING = {"apgd", "bim", "mim", "fgm", "square"}


@pytest.mark.parametrize("name", sorted(RISING))
def test_on_a_linear_model_no_attack_lowers_the_loss(name: str) -> None:
    """From x itself along a constant direction the loss of two classes never falls."""
    linear = nn.Linear(6, 2)
    model, x, y = LossModel(linear), torch.rand(9, 6), torch.randint(2, (9,))
    x_adv = ATTACKS[name][0](0.2, np.inf)(model, x, y, space=BOX)
    before, after = (model.loss(linear(z), y) for z in (x, x_adv))
    assert (after >= before - 1e-6).all() and after.mean() > before.mean()


@pytest.mark.parametrize(("norm", "dual"), [(np.inf, 1), (2, 2), (1, np.inf)])
@pytest.mark.parametrize("make", ["fgm", "bim", "mim"])
def test_on_a_linear_model_the_closed_form_is_attained(make: str, norm: float, dual) -> None:
    """Two classes, no box: loss = softplus(eps |w|_dual - s (w.x + b)), in every norm."""
    linear = nn.Linear(6, 2)
    model, x, y = LossModel(linear), torch.randn(9, 6), torch.randint(2, (9,))
    w, b = linear.weight[1] - linear.weight[0], linear.bias[1] - linear.bias[0]
    s = y * 2.0 - 1
    best = nn.functional.softplus(0.3 * torch.linalg.vector_norm(w, dual) - s * (x @ w + b))
    x_adv = ATTACKS[make][0](0.3, norm)(model, x, y)
    torch.testing.assert_close(model.loss(linear(x_adv), y), best, atol=1e-5, rtol=0)


@pytest.mark.parametrize("attack", [PGD(eps=0.3, norm=2, steps=20), APGD(eps=0.3, steps=20)])
def test_the_inner_loss_is_what_is_climbed(net, batch, attack: Attack) -> None:
    """Given an inner loss, its value rises, whatever becomes of the model's own."""
    x, y = batch
    asked: list[int] = []

    def inner(model: LossModel, x: Tensor, y: Tensor):
        asked.append(len(x))
        clean = model(x).detach()
        return lambda z: (model(z) - clean).square().sum(1)

    net.eval()
    model = LossModel(net)
    x_adv = attack(model, x, y, space=BOX, inner=inner)
    assert asked == [N], "what depends on x alone is computed once"
    own = attack(model, x, y, space=BOX)
    climb = inner(model, x, y)
    assert climb(x_adv).mean() > climb(own).mean()


@given(st.floats(0.0, 2.0), st.integers(0, 100))
def test_relative_radii_follow_each_input(fraction: float, number: int) -> None:
    """``Relative(c)`` allows each example c times its own norm."""
    x = torch.rand(4, 7, generator=seed(number)) * torch.tensor([[0.0], [0.1], [1.0], [10.0]])
    model, y = LossModel(nn.Linear(7, 3)), torch.tensor([0, 1, 2, 0])
    for attack in (
        PGD(eps=Relative(fraction), norm=2, steps=3),
        APGD(eps=Relative(fraction), steps=3, restarts=2),
    ):
        ball = geometry(attack.norm)
        x_adv = attack(model, x, y)
        assert (ball.length(x_adv - x) <= fraction * ball.length(x) * (1 + 1e-4) + 2e-6).all()


def test_a_start_is_where_the_first_run_begins(net, batch) -> None:
    """A step of length zero returns the given start, pulled back into the ball."""
    x, y = batch
    start = (x + 0.05).clamp(0, 1)
    for attack in (PGD(eps=0.1, step_size=0.0, steps=1), PGD(eps=0.02, step_size=0.0, steps=1)):
        x_adv = attack(LossModel(net), x, y, space=BOX, start=start)
        assert torch.equal(x_adv, torch.minimum(start, (x + attack.eps).clamp(0, 1)))


def test_a_model_without_gradient_is_refused() -> None:
    """Rounding inside the model leaves nothing to climb; the message names Square."""
    layer = nn.Linear(4, 3)
    model = LossModel(layer, forward=lambda x: layer(x).detach())
    with pytest.raises(ConfigurationError, match="no gradient with respect to the input.*Square"):
        PGD(eps=0.1)(model, torch.rand(2, 4), torch.tensor([0, 1]))


def test_a_gradient_that_is_not_a_number_counts_as_zero() -> None:
    """One bad feature stays put; the others of the same example are attacked all the same."""
    layer = nn.Linear(2, 3)

    def forward(x: Tensor) -> Tensor:
        return layer(torch.cat([(x[:, :1] * 0).sqrt() + x[:, :1], x[:, 1:]], 1))

    x, y = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    for norm in (np.inf, 2):
        x_adv = PGD(eps=0.1, norm=norm, steps=3, random_start=False)(
            LossModel(layer, forward=forward), x, y
        )
        assert torch.isfinite(x_adv).all() and x_adv[0, 1] != 0.5


@pytest.mark.parametrize(
    ("eps", "norm", "match"),
    [
        (-0.1, np.inf, "eps must be a finite number >= 0"),
        (float("nan"), np.inf, "eps must be a finite number"),
        (np.array([0.1, -0.1]), np.inf, "eps must be finite and >= 0 in every entry"),
        (0.1, 3, "norm must be numpy.inf"),
        ("large", np.inf, "eps must be a finite number"),
    ],
)
@pytest.mark.parametrize("make", [PGD, APGD, FAB, Square])
def test_impossible_radii_are_refused(make, eps, norm, match: str) -> None:
    """At construction, before any work."""
    with pytest.raises(ConfigurationError, match=match):
        make(eps=eps, norm=norm)


@pytest.mark.parametrize(
    ("eps", "norm", "match"),
    [
        (
            np.full((5, 2, 6, 6), 0.1),
            np.inf,
            "an entry for each of 5 examples, but a batch holds 6",
        ),
        (np.full((3, 1, 1), 0.1), np.inf, "does not broadcast over inputs"),
        (np.full((2, 6, 6), 0.1), 2, "eps per feature is defined for L-infinity only"),
    ],
)
def test_radii_that_do_not_fit_the_batch_are_refused(net, batch, eps, norm, match: str) -> None:
    """At the call, saying what would fit."""
    with pytest.raises(ConfigurationError, match=match):
        PGD(eps=eps, norm=norm)(LossModel(net), *batch, space=BOX)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"steps": 0}, "steps must be a whole number >= 1"),
        ({"restarts": 0}, "restarts must be a whole number >= 1"),
        ({"decay": -1.0}, "decay must be a finite number >= 0"),
        ({"step_size": -0.1}, "must be a finite number >= 0"),
        ({"restarts": 2, "random_start": False}, "would repeat the same run"),
    ],
)
def test_impossible_settings_of_pgd_are_refused(options, match: str) -> None:
    """At construction, by name."""
    with pytest.raises(ConfigurationError, match=match):
        PGD(eps=0.1, **options)


def test_restarts_work_outside_classification() -> None:
    """A regression keeps the restart of largest error, targeted or not."""
    model = LossModel(nn.Linear(4, 1), task_for(nn.MSELoss()))
    x, y = torch.randn(5, 4), torch.randn(5, 1)
    for targeted in (False, True):
        one, many = (
            PGD(eps=0.2, step_size=0.01, steps=1, restarts=n, targeted=targeted)(
                model, x, y, generator=seed(1)
            )
            for n in (1, 5)
        )
        losses = [model.loss(model(z), y) for z in (one, many)]
        gain = (losses[0] - losses[1]) if targeted else (losses[1] - losses[0])
        assert (gain >= 0).all() and gain.max() > 0


def test_slices_give_what_the_whole_batch_gives(net, batch) -> None:
    """From a given start, per slice its own mask and radius; the optional attributes carry over."""
    x, y = batch
    space = InputSpace(0.0, 1.0, (torch.rand(N, *SHAPE) < 0.7).float())
    whole = PGD(eps=0.1, steps=3, random_start=False, targeted=True)
    found = [
        attack(LossModel(net.double()), x.double(), y, space=space, start=x.double() + 0.01)
        for attack in (whole, Microbatched(whole, 4))
    ]
    torch.testing.assert_close(*found)
    assert Microbatched(whole, 4).targeted and not Microbatched(whole, 4).random_start
    assert Microbatched(Square(eps=0.1), 4).climbs_own and not Microbatched(whole, 4).climbs_own


class TestCombinations:
    """Cycle, Average and WorstOf."""

    def test_cycle_takes_turns_by_the_number_of_the_batch(self) -> None:
        """The same step, the same attack: a resumed run goes on where it stopped."""
        one, two, three = fgm(0.1), bim(0.1), mim(0.1)
        cycle = Cycle([one, two, three])
        assert [cycle.members(step) for step in range(4)] == [(one,), (two,), (three,), (one,)]
        assert cycle.with_eps(0.5).members(1) == (two.with_eps(0.5),)

    def test_average_gives_all(self) -> None:
        """Every attack, every step."""
        attacks = (fgm(0.1), PGD(eps=0.5, norm=2))
        assert Average(attacks).members(7) == attacks
        assert Average(attacks).with_eps(2.0).attacks[1].eps == 1.0

    def test_members_of_a_single_attack_are_itself(self) -> None:
        """Training asks any attack the same way."""
        attack, worst = fgm(0.1), WorstOf([fgm(0.1)])
        assert members(attack, 3) == (attack,) and members(worst, 3) == (worst,)
        assert isinstance(worst, Combination) and not isinstance(attack, Combination)

    def test_worst_of_keeps_the_worst_of_each_example(self, net, batch) -> None:
        """A mistake first, then the larger loss, example by example, over norms."""
        x, y = batch
        net.eval()
        model, pair = LossModel(net), (fgm(0.2), fgm(1.4, norm=2), fgm(0.05))
        runs = [attack(model, x, y, space=BOX) for attack in pair]
        worst = WorstOf(pair)(model, x, y, space=BOX)
        losses = torch.stack([model.loss(net(z), y) for z in runs])
        wrong = torch.stack([misclassified(model, net(z), y) for z in runs])
        best = torch.where(wrong, losses + 1e3, losses).argmax(0)
        assert torch.equal(worst, torch.stack(runs)[best, torch.arange(N)])
        assert len(best.unique()) > 1

    def test_worst_of_knows_who_climbs_a_loss_of_its_own(self) -> None:
        """One such member is enough to refuse an inner loss."""
        assert WorstOf([fgm(0.1), Square(eps=0.1)]).climbs_own
        assert not WorstOf([fgm(0.1)]).climbs_own

    @pytest.mark.parametrize("make", [Cycle, Average, WorstOf])
    def test_nothing_and_strangers_are_refused(self, make) -> None:
        """Empty lists and things that are no attacks."""
        with pytest.raises(ConfigurationError, match="needs at least one attack"):
            make([])
        with pytest.raises(ConfigurationError, match="combines attacks of artplus, got str"):
            make(["pgd"])

    def test_worst_of_refuses_targets(self) -> None:
        """``y`` cannot be true labels and targets at once."""
        with pytest.raises(ConfigurationError, match="PGD is targeted"):
            WorstOf([PGD(eps=0.1, targeted=True)])
