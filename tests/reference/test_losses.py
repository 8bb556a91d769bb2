"""Each objective against a slow twin written from its paper: one example at a time, in plain sums.

The twins use no function of artplus and no vectorised loss of torch: exponentials, logarithms
and sums over Python loops, in float64. Values and the gradients of all parameters must agree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from artplus.criterion import mean
from artplus.losses import Context, Objective, make_loss
from artplus.losses._base import losses
from artplus.model import LossModel
from artplus.tasks import task_for

Net = Callable[[Tensor], Tensor]


def probabilities(z: Tensor) -> list[Tensor]:
    """Softmax of one example's logits."""
    top = max(z.tolist())
    powers = [torch.exp(z_k - top) for z_k in z]
    total = sum(powers[1:], powers[0])
    return [power / total for power in powers]


def nll(z: Tensor, y: int) -> Tensor:
    """Cross-entropy of one example."""
    return -torch.log(probabilities(z)[y])


def divergence(z: Tensor, w: Tensor) -> Tensor:
    """KL(p || q), with p and q the softmax of ``z`` and ``w``."""
    pairs = zip(probabilities(z), probabilities(w), strict=True)
    parts = [p * (torch.log(p) - torch.log(q)) for p, q in pairs]
    return sum(parts[1:], parts[0])


def squares(a: list[Tensor] | Tensor, b: list[Tensor] | Tensor) -> Tensor:
    """Sum of squared differences."""
    parts = [(one - other) ** 2 for one, other in zip(a, b, strict=True)]
    return sum(parts[1:], parts[0])


def rival_logit(z: Tensor, y: int) -> Tensor:
    """The largest logit among the wrong classes."""
    return max((z[k] for k in range(len(z)) if k != y), key=Tensor.item)


def slow_at(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Madry et al. (2018): the loss at the worst case."""
    return lam * nll(net(x_adv), y)


def slow_mix(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Goodfellow et al. (2015), with weights 1 and λ for α and 1 - α."""
    return nll(net(x), y) + lam * nll(net(x_adv), y)


def slow_trades(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Zhang et al. (2019), with the divergence of their code."""
    return nll(net(x), y) + lam * divergence(net(x), net(x_adv))


def slow_mart(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Wang et al. (2020): boosted cross-entropy and the weighted divergence."""
    p, p_adv = probabilities(net(x)), probabilities(net(x_adv))
    rival = max((p_adv[k] for k in range(len(p_adv)) if k != y), key=Tensor.item)
    boosted = -torch.log(p_adv[y]) - torch.log(1 - rival)
    return boosted + lam * divergence(net(x), net(x_adv)) * (1 - p[y])


def slow_hinge(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Crammer and Singer's hinge at the attacked input, κ = 1."""
    z = net(x_adv)
    gap = 1.0 + rival_logit(z, y) - z[y]
    return nll(net(x), y) + lam * (gap if gap > 0 else 0.0 * gap)


def slow_mse(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Sriramanan et al. (2020): squared distance of the softmax outputs."""
    return nll(net(x), y) + lam * squares(probabilities(net(x)), probabilities(net(x_adv)))


def slow_logit_pairing(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Kannan et al. (2018), the pairing averaged over classes as in their code."""
    z, z_adv = net(x), net(x_adv)
    return (nll(z, y) + nll(z_adv, y)) / 2 + lam * squares(z, z_adv) / len(z)


def slow_input_gradient(net: Net, x: Tensor, x_adv: Tensor, y: int, lam: float) -> Tensor:
    """Ross and Doshi-Velez (2018), with the norm itself for its square."""
    x = x.clone().requires_grad_(True)
    loss = nll(net(x), y)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    parts = [g**2 for g in slope.flatten()]
    return loss + lam * torch.sqrt(sum(parts[1:], parts[0]))


TWINS = {
    "at": slow_at,
    "mix": slow_mix,
    "trades": slow_trades,
    "mart": slow_mart,
    "hinge": slow_hinge,
    "mse": slow_mse,
    "logit_pairing": slow_logit_pairing,
    "input_gradient": slow_input_gradient,
}

DEFAULTS = {
    "at": 1.0,
    "mix": 1.0,
    "trades": 6.0,
    "mart": 5.0,
    "hinge": 1.0,
    "mse": 10.0,
    "logit_pairing": 0.5,
    "input_gradient": 0.1,
}

ELSEWHERE = {
    "vat": "reference/test_text_methods.py::test_vat_is_the_papers",
    "smart": "reference/test_text_methods.py::test_smart_is_the_papers",
    "r3f": "reference/test_text_methods.py::test_r3f_is_the_papers",
    "creat": "reference/test_text_methods.py::"
    "test_creat_climbs_the_loss_and_turns_the_first_token_away",
    "cat": "reference/test_language_losses.py::test_cat_is_the_papers",
    "capo": "reference/test_language_losses.py::test_capo_is_ipo_with_the_adapters_off",
    "lat": "reference/test_language_losses.py::test_lat_is_the_papers",
    "rerouting": "reference/test_language_losses.py::test_rerouting_is_the_papers",
    "fare": "tasks/test_features.py::test_fare_is_the_authors_loss",
}
"""Objectives that need text, answers or features, and the tests that hold them to their twins."""


def gradients(loss: Tensor, net: nn.Module) -> Tensor:
    """The gradient of every parameter, end to end."""
    found = torch.autograd.grad(loss, list(net.parameters()))
    return torch.cat([g.flatten() for g in found])


def total(objective: Objective, net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor) -> Tensor:
    """The objective's scalar at the end of training."""
    return mean(objective.terms(Context(LossModel(net), x, x_adv, y)).total(objective.weight(1.0)))


@pytest.fixture(params=["mlp", "cnn"])
def problem(request, tiny_net, toy_batch):
    """A float64 net in evaluation mode, and clean and attacked inputs with all kinds of margin."""
    net = tiny_net(request.param, smooth=True).double().eval()
    x, y = toy_batch(request.param, n=9)
    x = x.double()
    with torch.no_grad():
        net[-1].weight *= 4  # confident, so that hinges open and close and weights differ
        y[:4] = net(x).argmax(1)[:4]
    return net, x, x + 0.3 * torch.randn_like(x), y


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("lam", [None, 0.7])
def test_value_and_gradients_are_the_papers(name, lam, problem):
    """The objective and the gradient of every parameter equal the slow twin's."""
    net, x, x_adv, y = problem
    objective = make_loss(name, lam=lam)
    weight = DEFAULTS[name] if lam is None else lam

    def one(v: Tensor) -> Tensor:
        return net(v[None])[0]

    parts = [
        TWINS[name](one, a, b, int(label), weight) for a, b, label in zip(x, x_adv, y, strict=True)
    ]
    expected = sum(parts[1:], parts[0]) / len(parts)
    got = total(objective, net, x, x_adv, y)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(got, net), gradients(expected, net), rtol=1e-8, atol=1e-10)


def test_the_hinge_opens_and_closes(problem):
    """The hinge problem holds examples on both sides, so its twin tests both."""
    net, x, x_adv, y = problem
    scaled = make_loss("hinge").terms(Context(LossModel(net), x, x_adv, y)).scaled
    assert bool((scaled == 0).any()) and bool((scaled > 0).any())


def test_every_builtin_objective_has_a_twin():
    """A new built-in objective needs its twin, here or in a test of its own."""
    builtin = {n for n in losses if losses.get(n).__module__.startswith("artplus.")}
    assert set(TWINS) == set(DEFAULTS)
    assert builtin == set(TWINS) | set(ELSEWHERE)
    for place in ELSEWHERE.values():
        file, name = place.split("::")
        source = (Path(__file__).parents[1] / file).read_text(encoding="utf-8")
        assert f"def {name}(" in source, place


@pytest.mark.parametrize("norm", [1, 2, math.inf])
@pytest.mark.parametrize("squared", [False, True])
def test_input_gradient_penalty_is_differentiated_correctly(norm, squared, tiny_net, toy_batch):
    """Double backpropagation equals finite differences in the weights, for every norm."""
    net = tiny_net(smooth=True).double()
    x, y = toy_batch(n=3)
    x = x.double()
    objective = make_loss("input_gradient", lam=1.3, norm=norm, squared=squared)
    names = [name for name, _ in net.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        weights = dict(zip(names, values, strict=True))
        model = LossModel(net, forward=lambda v: torch.func.functional_call(net, weights, (v,)))
        return mean(objective.terms(Context(model, x, x, y)).total(objective.weight(0.0)))

    values = [p.detach().clone().requires_grad_(True) for p in net.parameters()]
    assert torch.autograd.gradcheck(loss, values, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "size"),
    [
        (1, lambda g: sum(abs(v) for v in g)),
        (2, lambda g: math.sqrt(sum(v * v for v in g))),
        (math.inf, lambda g: max(abs(v) for v in g)),
    ],
)
def test_input_gradient_penalty_is_the_norm_of_finite_differences(norm, size, tiny_net, toy_batch):
    """The penalty is the norm of the loss's slope in the input, measured by small steps."""
    net = tiny_net(smooth=True).double()
    x, y = toy_batch(n=2)
    x = x.double()
    model, h = LossModel(net), 1e-6
    plain = make_loss("input_gradient", norm=norm).terms(Context(model, x, x, y)).scaled
    square = (
        make_loss("input_gradient", norm=norm, squared=True).terms(Context(model, x, x, y)).scaled
    )
    for i in range(len(x)):
        slope = []
        for k in range(x.shape[1]):
            step = torch.zeros_like(x)
            step[i, k] = h
            up, down = (model.loss(net(x + s), y)[i].item() for s in (step, -step))
            slope.append((up - down) / (2 * h))
        assert plain[i].item() == pytest.approx(size(slope), rel=1e-5)
        assert square[i].item() == pytest.approx(size(slope) ** 2, rel=1e-5)


def test_a_flat_model_has_no_penalty_and_a_finite_gradient(toy_batch):
    """Where the input gradient vanishes the norm has a kink: its gradient is zero, not NaN."""
    net = nn.Linear(6, 4)
    nn.init.zeros_(net.weight)
    x, y = toy_batch()
    terms = make_loss("input_gradient").terms(Context(LossModel(net), x, x, y))
    assert bool((terms.scaled == 0).all())
    mean(terms.total(1.0)).backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())


def test_linearised_worst_case_of_a_linear_model():
    """For a linear score the penalty at λ = ε is the exact rise of the score in the ball."""
    w = torch.tensor([[0.5, -2.0, 1.0]], dtype=torch.float64)
    model = LossModel(
        nn.Linear(3, 1, bias=False).double(),
        task_for(nn.L1Loss()),
        forward=lambda v: (v @ w.T + 10).squeeze(1),
    )
    x, y = torch.rand(2, 3, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    terms = make_loss("input_gradient", norm=1).terms(Context(model, x, x, y))
    worst = model.loss(model(x + 0.1 * w.sign()), y)
    torch.testing.assert_close(terms.total(0.1), worst)


@pytest.mark.parametrize("name", ["trades", "mse", "hinge"])
def test_the_attack_climbs_what_the_paper_says(name, problem):
    """TRADES and the squared gap climb their own gap, the hinge climbs the unclipped margin."""
    net, x, x_adv, y = problem
    values = make_loss(name).inner(LossModel(net), x, y)(x_adv)
    for i in range(len(x)):
        z, z_adv = net(x[i : i + 1])[0], net(x_adv[i : i + 1])[0]
        expected = {
            "trades": lambda z=z, w=z_adv: divergence(z, w),
            "mse": lambda z=z, w=z_adv: squares(probabilities(z), probabilities(w)),
            "hinge": lambda w=z_adv, k=int(y[i]): rival_logit(w, k) - w[k],
        }[name]()
        assert values[i].item() == pytest.approx(expected.item(), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("name", ["at", "mix", "mart", "logit_pairing"])
def test_the_other_attacks_climb_the_models_own_loss(name):
    """Objectives whose papers attack the training loss leave the inner loss to the model."""
    assert make_loss(name).inner is None
