"""Where a method differs from its authors' code on purpose: what it does, and that it says so."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus import make_method
from artplus.attacks import PGD
from artplus.losses import trades
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.trainers.published import fgsm_rs_trainer
from artplus.training.data import Batch
from artplus.training.steps import AWP
from tests.toys import arrays
from tests.training.test_steps import nothing, state_of

X, Y = (torch.from_numpy(values) for values in arrays(16))


class Named(nn.Module):
    """A weight, and a matrix that is not called one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = (nn.Parameter(torch.randn(*shape)) for shape in ((3, 6), (1, 6)))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.table) @ self.weight.T


def test_awp_decays_the_original_weights_and_perturbs_every_matrix() -> None:
    """One step by hand; the authors' would decay w + v, and leave the table alone."""
    torch.manual_seed(0)
    model, lr, decay, gamma = Named(), 0.1, 0.5, 0.3
    state = state_of(model, make_method("at", attack=PGD(eps=0.0, steps=1, random_start=False)))
    state.optimizer.param_groups[0].update(lr=lr, weight_decay=decay, momentum=0.0)
    before = [p.detach().clone() for p in model.parameters()]
    twin = Named()
    twin.load_state_dict(model.state_dict())
    AWP(gamma)(state, Batch(X, Y), nothing)

    slopes = torch.autograd.grad(F.cross_entropy(twin(X), Y), list(twin.parameters()))
    with torch.no_grad():
        for p, slope in zip(twin.parameters(), slopes, strict=True):
            p.add_(gamma * p.norm() / slope.norm() * slope)
    moved = torch.autograd.grad(F.cross_entropy(twin(X), Y), list(twin.parameters()))
    for p, w, g in zip(model.parameters(), before, moved, strict=True):
        torch.testing.assert_close(p.detach(), w - lr * (g + decay * w))
    said = " ".join(str(AWP.__doc__).split())
    assert "weight decay is that of" in said and 'with "weight" in their name' in said


def test_trades_starts_inside_the_range() -> None:
    """At inputs on the bounds half of the noise would leave it."""
    points: list[Tensor] = []
    net = nn.Linear(6, 3)

    def forward(z: Tensor) -> Tensor:
        points.append(z.detach())
        return net(z)

    x = (X > 0.5).float()
    attack = PGD(eps=0.1, steps=1, random_start=False)
    method = make_method("trades", attack=attack, space=InputSpace(0.0, 1.0))
    method.craft(LossModel(net, forward=forward), x, Y)
    noisy = [z for z in points if not torch.equal(z, x) and (z - x).abs().max() < 0.01]
    assert noisy and all(bool(((z >= 0) & (z <= 1)).all()) for z in noisy)
    assert "noise at the start is clipped to the valid range" in " ".join(
        str(trades.__doc__).split()
    )


def test_fgsm_rs_crafts_in_evaluation_mode() -> None:
    """Also on a model in train mode, whose statistics then count each batch once."""
    modes: list[bool] = []

    class Recording(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            modes.append(self.training)
            return super().forward(x)

    model = Recording(6, 3).train()
    attack = fgsm_rs_trainer(eps=0.1).attack
    assert isinstance(attack, PGD)
    attack(LossModel(model), X, Y)
    assert modes and not any(modes) and model.training
    assert "the attack sees the model in evaluation mode" in " ".join(
        str(fgsm_rs_trainer.__doc__).split()
    )
