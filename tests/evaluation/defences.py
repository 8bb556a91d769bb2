"""Defences that fooled naive evaluations, planted in small networks on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.model import LossModel

EPS = 0.1


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1500 digits to train on and 128 to test with, ``(n, 1, 8, 8)`` in [0, 1]."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = torch.tensor(data.images[order] / 16, dtype=torch.float32)[:, None]
    y = torch.tensor(data.target[order])
    return x[:1500], y[:1500], x[1500:1628], y[1500:1628]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 16, 10),
    )  # fmt: skip


def trained(
    make: Callable[[], nn.Module],
    *,
    seed: int = 0,
    epochs: int = 8,
    attack: PGD | None = None,
    squeeze: float = 0.0,
    lr: float = 3e-3,
) -> nn.Module:
    """A network trained on the digits; against ``attack``, or with logits squeezed by noise."""
    torch.manual_seed(seed)
    net = make()
    x_train, y_train, _, _ = digits()
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for _ in range(epochs):
        for index in torch.randperm(len(x_train)).split(100):
            x, y = x_train[index], y_train[index]
            if attack is not None:
                x = attack(LossModel(net), x, y)
            if squeeze:
                x = x + 0.2 * torch.randn_like(x)
            logits = net(x)
            loss = F.cross_entropy(logits, y) + squeeze * logits.square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval()


class Around(nn.Module):
    """A network with something before it and something after it."""

    def __init__(
        self,
        net: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(self.before(x)))


class Blocked(torch.autograd.Function):
    """The identity forwards, nothing backwards."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, slope):
        return torch.zeros_like(slope)


class KWTA(nn.Module):
    """k winners take all (Xiao et al., 2020): all but the largest activations are zero."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, z: Tensor) -> Tensor:
        least = z.topk(max(1, int(self.share * z.shape[1])), dim=1).values[:, -1:]
        return z * (z >= least)


def winners() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 256), KWTA(0.08), nn.Linear(256, 256), KWTA(0.08),
        nn.Linear(256, 10),
    )  # fmt: skip


def thermometer(x: Tensor) -> Tensor:
    """8 levels, each a bit; no gradient passes a comparison."""
    return torch.stack([(x > level / 8).float() for level in range(8)]).mean(0)


def rounded(x: Tensor) -> Tensor:
    """3 bits; the gradient of rounding is zero."""
    return torch.round(x * 7) / 7


def noisy(x: Tensor) -> Tensor:
    return x + 0.15 * torch.randn_like(x)


def resized(x: Tensor) -> Tensor:
    """A random size, and back."""
    size = int(torch.randint(6, 11, ()))
    small = F.interpolate(x, size=(size, size), mode="bilinear", align_corners=False)
    return F.interpolate(small, size=x.shape[2:], mode="bilinear", align_corners=False)


def nearest(pictures: int) -> Callable[[Tensor], Tensor]:
    """The nearest of some training digits; backwards, as if the input had been left alone."""
    bank = digits()[0][:pictures]

    def replaced(x: Tensor) -> Tensor:
        distances = torch.cdist(x.detach().flatten(1), bank.flatten(1))
        return x + (bank[distances.argmin(1)] - x).detach()

    return replaced
