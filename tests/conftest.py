"""What every test may count on: registries as they were, tiny nets and batches, devices, data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import Tensor, nn

# Shared machines stall now and then: a slow example is no failure.
settings.register_profile(
    "artplus",
    deadline=None,
    max_examples=30,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("artplus")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

CLASSES = 4
SHAPES = {"mlp": (6,), "cnn": (2, 5, 5)}

TinyNet = Callable[..., nn.Sequential]
ToyBatch = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """As they were, whatever a test registers."""
    from artplus.losses._base import losses

    known = dict(losses._factories)
    yield
    if known:  # empty only before the first look-up, which fills it with the built-in names
        losses._factories.clear()
        losses._factories.update(known)


@pytest.fixture
def tiny_net() -> TinyNet:
    """``tiny_net(kind="mlp", batch_norm=False, dropout=0.0)``: a net of two weight layers."""

    def build(
        kind: str = "mlp",
        *,
        batch_norm: bool = False,
        dropout: float = 0.0,
        classes: int = CLASSES,
        smooth: bool = False,
    ) -> nn.Sequential:
        """``smooth`` takes Tanh for ReLU, for tests that differentiate twice."""
        norms = {"mlp": nn.BatchNorm1d, "cnn": nn.BatchNorm2d}
        first: nn.Module = nn.Linear(6, 8) if kind == "mlp" else nn.Conv2d(2, 3, 3)
        layers = [first]
        if batch_norm:
            layers.append(norms[kind](8 if kind == "mlp" else 3))
        layers.append(nn.Tanh() if smooth else nn.ReLU())
        if dropout:
            layers.append(nn.Dropout(dropout))
        layers += [nn.Flatten(), nn.Linear(8 if kind == "mlp" else 27, classes)]
        return nn.Sequential(*layers)

    return build


@pytest.fixture
def toy_batch() -> ToyBatch:
    """``toy_batch(kind="mlp", n=7)``: inputs in [0, 1] and class numbers for a ``tiny_net``."""

    def draw(kind: str = "mlp", n: int = 7, *, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
        return torch.rand(n, *SHAPES[kind]), torch.randint(classes, (n,))

    return draw


@pytest.fixture(
    params=[
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
            ],
        ),
    ]
)
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is; the GPU rows carry the marker ``cuda``."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The optional local data folder, or a skip: no test may need it to pass."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    folder = Path(os.environ.get("ARTPLUS_DATA", default))
    if not folder.is_dir():
        pytest.skip("no local data folder (set ARTPLUS_DATA)")
    return folder
