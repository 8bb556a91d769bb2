"""A task of your own, in four methods: directions in degrees, where 359 and 1 are neighbours."""

from typing import Any

import torch
from torch import Tensor, nn

import artplus
from artplus import Metric, Task


def off(a: Tensor, b: Tensor) -> Tensor:
    """Degrees between two directions, from 0 to 180."""
    return 180 - ((a - b) % 360 - 180).abs()


@artplus.register_task("directions")
class Directions(Task):
    """Predictions and targets are degrees ``(batch,)``; up to 15 degrees off is right."""

    def loss(self, predictions: Any, targets: Any) -> Tensor:
        return 1 - torch.deg2rad(predictions - targets).cos()

    def divergence(self, reference: Any, predictions: Any, targets: Any, **_: Any) -> Tensor:
        return 1 - torch.deg2rad(predictions - reference).cos()  # what TRADES keeps small

    def correct(self, predictions: Any, targets: Any) -> Tensor:
        return off(predictions, targets) <= 15

    def metrics(self) -> dict[str, Metric]:
        mean = Metric(lambda p, y: off(p, y)[:, None], lambda rows: float(rows.mean()), False)
        return {"degrees_off": mean}


class Compass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(144, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.rad2deg(torch.atan2(*self.layers(x).unbind(1))) % 360


torch.manual_seed(0)  # pictures of the blurred tip of a needle, at angle y
y = torch.rand(2000) * 360
radians, axis = torch.deg2rad(y)[:, None], torch.linspace(-1, 1, 12)
across, up = axis - 0.7 * radians.cos(), axis - 0.7 * radians.sin()
x = 0.8 * torch.exp(-4 * (across[:, None, :] ** 2 + up[:, :, None] ** 2))
x += 0.2 * torch.rand_like(x)
threat: dict[str, Any] = {"eps": 0.05, "bounds": (0, 1), "task": "directions", "progress": False}

for name, lam in {"plain": 0.0, "hardened": 2.0}.items():
    model = Compass()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    data = x[:1500], y[:1500]
    artplus.fit(model, data, optimizer, loss="trades", lam=lam, epochs=10, seed=0, **threat)
    report = artplus.evaluate(model, x[1500:], y[1500:], attacks="pgd", **threat)
    print(f"{name}: {report.robust_metrics['degrees_off']:.0f} degrees off\n{report}\n")
