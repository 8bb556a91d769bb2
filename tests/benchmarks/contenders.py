"""Who races: artplus, loops written by hand, ART's trainer, loops around other attack libraries.

Each contender is made for a task, on a network of its own from the same weights, and gives a
function that trains one epoch on given arrays; only that function is timed. All take PGD with a
random start and the same steps, in evaluation mode, then one step of SGD on the attacked batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

import artplus
from artplus import AdversarialTrainerPlus, modes
from artplus.attacks import PGD
from artplus.training.engines import Engine
from artplus.training.numerics import PLAIN, Numerics

EPS, LR, BETA = 0.1, 0.01, 6.0
BARE, OURS, AUTO = "loop by hand", "artplus", "artplus, precision auto"
AUTHORS = "authors' step"

Epoch = Callable[[np.ndarray, np.ndarray], Any]


@dataclass(frozen=True)
class Task:
    """A network, what it is fed, and how it is trained.

    Attributes:
        net: Makes the network.
        shape: Of one input.
        classes: Number of outputs.
        batch: Examples a step of the weights.
        steps: Gradient steps of the attack; 0 is plain training.
    """

    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 10
    batch: int = 128
    steps: int = 10

    @property
    def length(self) -> float:
        """Of a step of the attack."""
        return 2.5 * EPS / max(1, self.steps)

    def made(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The network in train mode, from the same weights each time, and SGD."""
        torch.manual_seed(0)
        net = self.net().train()
        return net, torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9)

    def estimator(self) -> PyTorchClassifier:
        """The same for ART."""
        net, optimizer = self.made()
        return PyTorchClassifier(
            net,
            nn.CrossEntropyLoss(),
            input_shape=self.shape,
            nb_classes=self.classes,
            optimizer=optimizer,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    def data(self, batches: int) -> tuple[np.ndarray, np.ndarray]:
        """Random inputs: how long a batch takes does not depend on what it shows."""
        rng = np.random.default_rng(0)
        n = batches * self.batch
        # Off the box's edges, where the authors' TRADES clips its start later than ours.
        x = 0.1 + 0.8 * rng.random((n, *self.shape), dtype=np.float32)
        return x, rng.integers(0, self.classes, n)


def by_hand(task: Task, numerics: Numerics = PLAIN) -> Epoch:
    """What one writes by hand: gradients of the input alone, evaluation mode in the attack."""
    net, optimizer = task.made()
    loss = nn.CrossEntropyLoss()
    layout = torch.channels_last if numerics.channels_last else torch.contiguous_format
    if numerics.channels_last:
        net.to(memory_format=layout)
    called = torch.compile(net) if numerics.compile else net

    def predict(x: Tensor) -> Tensor:
        if numerics.precision == "fp32":
            return called(x)
        with torch.autocast("cpu", torch.bfloat16):
            return called(x).float()

    def craft(x: Tensor, y: Tensor) -> Tensor:
        net.eval()
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        # A compiled graph computes the gradient of every weight that asks for one.
        with modes.frozen(net) if numerics.compile else nullcontext():
            for _ in range(task.steps):
                x_adv.requires_grad_(True)
                (slope,) = torch.autograd.grad(loss(predict(x_adv), y), x_adv)
                x_adv = x_adv.detach() + task.length * slope.sign()
                x_adv = (x + (x_adv - x).clamp(-EPS, EPS)).clamp(0, 1)
        net.train()
        return x_adv

    def objective(x: Tensor, y: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=layout)
        return loss(predict(craft(x, y) if task.steps else x), y)

    return _loop(task, optimizer, objective)


def ours(task: Task) -> Epoch:
    """artplus with everything at its defaults but the progress bar."""
    attack = PGD(eps=EPS, step_size=task.length, steps=task.steps)
    trainer = AdversarialTrainerPlus(task.estimator(), attack, loss="at", verbose=False)
    return lambda x, y: trainer.fit(x, y, batch_size=task.batch, nb_epochs=1)


@dataclass
class Automatic:
    """artplus in the arithmetic that ``precision="auto"`` chooses in a trial on the first batch.

    The trial belongs to a training, not to an epoch, so it is run once and not timed.

    Attributes:
        task: What to train.
        found: The choice, once it has been made.
        note: The trial in words.
    """

    task: Task
    found: Numerics | None = None
    note: str = ""

    def __post_init__(self) -> None:
        self._net, self._optimizer = self.task.made()

    def __call__(self, x: np.ndarray, y: np.ndarray) -> Any:
        """One epoch."""
        if self.found is None:
            engine = Engine(precision="auto")
            self.note = self._fit(x[: self.task.batch], y[: self.task.batch], engine).notes[0]
            self.found = engine.numerics
        found = self.found
        engine = Engine(precision=found.precision, channels_last=found.channels_last)
        return self._fit(x, y, engine)

    def _fit(self, x: np.ndarray, y: np.ndarray, engine: Engine) -> Any:
        return artplus.fit(
            self._net,
            (torch.from_numpy(x), torch.from_numpy(y)),
            self._optimizer,
            loss="at",
            attack=PGD(eps=EPS, step_size=self.task.length, steps=self.task.steps),
            epochs=1,
            batch_size=self.task.batch,
            engine=engine,
            progress=False,
        )


def madry(task: Task) -> Epoch:
    """ART's Madry trainer."""
    trainer = AdversarialTrainerMadryPGD(
        task.estimator(),
        nb_epochs=1,
        batch_size=task.batch,
        eps=EPS,
        eps_step=task.length,
        max_iter=task.steps,
        num_random_init=1,
    )

    def epoch(x: np.ndarray, y: np.ndarray) -> None:
        with redirect_stderr(io.StringIO()):  # its progress bars
            trainer.fit(x, y)

    return epoch


def torchattacks_loop(task: Task) -> Epoch:
    """A loop by hand around torchattacks."""
    import torchattacks

    net, optimizer = task.made()
    attack = torchattacks.PGD(net, eps=EPS, alpha=task.length, steps=task.steps)
    return _loop(task, optimizer, lambda x, y: F.cross_entropy(net(attack(x, y)), y))


def foolbox_loop(task: Task) -> Epoch:
    """A loop by hand around Foolbox."""
    import foolbox

    net, optimizer = task.made()
    attack = foolbox.attacks.LinfPGD(abs_stepsize=task.length, steps=task.steps)

    def objective(x: Tensor, y: Tensor) -> Tensor:
        _, x_adv, _ = attack(foolbox.PyTorchModel(net.eval(), bounds=(0, 1)), x, y, epsilons=EPS)
        return F.cross_entropy(net.train()(x_adv), y)

    return _loop(task, optimizer, objective)


def trades_ours(task: Task) -> Epoch:
    """artplus, TRADES from the authors' start."""
    net, optimizer = task.made()
    attack = PGD(eps=EPS, step_size=task.length, steps=task.steps, random_start=False)
    return lambda x, y: artplus.fit(
        net,
        (torch.from_numpy(x), torch.from_numpy(y)),
        optimizer,
        loss="trades",
        lam=BETA,
        attack=attack,
        epochs=1,
        batch_size=task.batch,
        progress=False,
    )


def trades_by_hand(task: Task) -> Epoch:
    """TRADES step for step as its authors compute it; see :func:`official_trades`."""
    net, optimizer = task.made()
    return _loop(task, optimizer, partial(official_trades, net, steps=task.steps))


def official_trades(
    net: nn.Module, x: Tensor, y: Tensor, *, steps: int, generator: torch.Generator | None = None
) -> Tensor:
    """The authors' loss: the clean prediction anew in every step, and once more for the weights."""

    def divergence(z: Tensor) -> Tensor:
        return F.kl_div(net(z).log_softmax(1), net(x).softmax(1), reduction="sum")

    net.eval()
    x_adv = x + 0.001 * torch.randn(x.shape, generator=generator)
    for _ in range(steps):
        x_adv.requires_grad_(True)
        (slope,) = torch.autograd.grad(divergence(x_adv), x_adv)
        x_adv = x_adv.detach() + 2.5 * EPS / steps * slope.sign()
        x_adv = x_adv.maximum(x - EPS).minimum(x + EPS).clamp(0, 1)
    net.train()
    return F.cross_entropy(net(x), y) + BETA * divergence(x_adv) / len(x)


def _loop(
    task: Task,
    optimizer: torch.optim.Optimizer,
    objective: Callable[[Tensor, Tensor], Tensor],
) -> Epoch:
    """The loop that all by hand share."""

    def epoch(x: np.ndarray, y: np.ndarray) -> None:
        images, labels = torch.from_numpy(x), torch.from_numpy(y)
        for index in torch.randperm(len(images)).split(task.batch):
            value = objective(images[index], labels[index])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()

    return epoch


CONTENDERS: dict[str, Callable[[Task], Epoch]] = {
    BARE: by_hand,
    OURS: ours,
    "ART Madry": madry,
    "torchattacks": torchattacks_loop,
    "Foolbox": foolbox_loop,
}

ROOFLINE: dict[str, Numerics] = {
    "channels last": Numerics(channels_last=True),
    "bf16": Numerics(precision="bf16"),
    "compiled": Numerics(compile=True),
    "all three": Numerics(precision="bf16", channels_last=True, compile=True),
}

TRADES: dict[str, Callable[[Task], Epoch]] = {
    AUTHORS: trades_by_hand,
    OURS: trades_ours,
}


def missing() -> list[str]:
    """Contenders whose package cannot be imported."""
    absent = []
    for name in ("torchattacks", "Foolbox"):
        try:
            __import__(name.lower())
        except (ImportError, RuntimeError):  # torchvision beside another torch raises the latter
            absent.append(name)
    return absent
