"""One epoch of PGD training: artplus, a bare torch loop, ART's Madry trainer and others, in turn.

    python -m tests.benchmarks.speed --output speed.json

Every contender trains the same network on the same batches with PGD-10 and a random start. They run
one after the other, round after round in one process, so that a machine that slows down slows all;
each round gives one ratio to the bare loop, and the median counts. Peak memory is measured in a
process of its own each, over what the imports and the data had taken.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from artplus import AdversarialTrainerPlus
from artplus.attacks import PGD
from tests.benchmarks import nets

EPS, STEPS, BATCH = 0.1, 10, 128
STEP = 2.5 * EPS / STEPS


@dataclass(frozen=True)
class Task:
    """A network and the shape of what it is fed."""

    net: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batches: int


TASKS = {
    "mnist_net": Task(nets.mnist_net, (1, 28, 28), 10, 12),
    "cnn28": Task(nets.cnn28, (1, 28, 28), 10, 4),
    "preact_resnet": Task(nets.PreActResNet, (3, 32, 32), 10, 2),
    "digits_cnn": Task(nets.digits_cnn, (1, 8, 8), 10, 12),
    "tabular_mlp": Task(nets.tabular_mlp, (30,), 2, 40),
}


def estimator(task: Task) -> PyTorchClassifier:
    """The task's network under SGD, from the same weights each time."""
    torch.manual_seed(0)
    net = task.net()
    return PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        input_shape=task.shape,
        nb_classes=task.classes,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9),
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def bare(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> None:
    """What one writes by hand: gradients of the input alone, evaluation mode in the attack."""
    model, optimizer = classifier.model, classifier.optimizer
    loss = nn.CrossEntropyLoss()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    for index in torch.randperm(len(images)).split(BATCH):
        clean, target = images[index], labels[index]
        model.eval()
        x_adv = (clean + torch.empty_like(clean).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(STEPS):
            x_adv.requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(model(x_adv), target), x_adv)
            x_adv = x_adv.detach() + STEP * slope.sign()
            x_adv = (clean + (x_adv - clean).clamp(-EPS, EPS)).clamp(0, 1)
        model.train()
        optimizer.zero_grad()
        loss(model(x_adv), target).backward()
        optimizer.step()


def ours(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> None:
    """artplus with everything at its defaults but the progress bar."""
    attack = PGD(eps=EPS, step_size=STEP, steps=STEPS)
    trainer = AdversarialTrainerPlus(classifier, attack, loss="at", verbose=False)
    trainer.fit(x, y, batch_size=BATCH, nb_epochs=1)


def art(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> None:
    """ART's Madry trainer."""
    AdversarialTrainerMadryPGD(
        classifier,
        nb_epochs=1,
        batch_size=BATCH,
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=1,
    ).fit(x, y)


def with_torchattacks(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> None:
    """A loop around torchattacks."""
    import torchattacks

    attack = torchattacks.PGD(classifier.model, eps=EPS, alpha=STEP, steps=STEPS)
    _loop(classifier, x, y, lambda a, b: attack(a, b))


def with_foolbox(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray) -> None:
    """A loop around Foolbox."""
    import foolbox

    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)

    def craft(a: Tensor, b: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(classifier.model.eval(), bounds=(0, 1))
        return attack(model, a, b, epsilons=EPS)[1]

    _loop(classifier, x, y, craft)


def _loop(
    classifier: PyTorchClassifier,
    x: np.ndarray,
    y: np.ndarray,
    craft: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model, optimizer, loss = classifier.model, classifier.optimizer, nn.CrossEntropyLoss()
    images, labels = torch.from_numpy(x), torch.from_numpy(y)
    for index in torch.randperm(len(images)).split(BATCH):
        x_adv = craft(images[index], labels[index])
        model.train()
        optimizer.zero_grad()
        loss(model(x_adv), labels[index]).backward()
        optimizer.step()


CONTENDERS: dict[str, Callable[[PyTorchClassifier, np.ndarray, np.ndarray], None]] = {
    "bare loop": bare,
    "artplus": ours,
    "ART Madry": art,
    "torchattacks": with_torchattacks,
    "foolbox": with_foolbox,
}


def data(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Random inputs: how long a batch takes does not depend on what it shows."""
    rng = np.random.default_rng(0)
    n = task.batches * BATCH
    return rng.random((n, *task.shape), dtype=np.float32), rng.integers(0, task.classes, n)


def available() -> list[str]:
    """Contenders whose package is installed."""
    names = list(CONTENDERS)
    for package in ("torchattacks", "foolbox"):
        try:
            __import__(package)
        except (ImportError, RuntimeError):
            names.remove(package)
    return names


def race(task: Task, names: list[str], rounds: int) -> dict[str, list[float]]:
    """Seconds per epoch, contender by contender, round after round; a first round warms up."""
    x, y = data(task)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name in names:
            classifier = estimator(task)
            started = time.perf_counter()
            CONTENDERS[name](classifier, x, y)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def memory(task_name: str, contender: str, processes: int = 5) -> float:
    """Peak memory of one contender, MiB over the process before training: the median of several.

    One process differs from the next by a tenth and more, as the allocator happens to lay it out.
    """
    command = [sys.executable, "-m", "tests.benchmarks.speed", "--peak", task_name, contender]
    return statistics.median(
        float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(processes)
    )


def peak(task: Task, contender: str) -> float:
    """In a process of its own: what training adds to the peak. Linux only."""
    x, y = data(task)
    classifier = estimator(task)
    classifier.predict(x[:1])
    # The mark of getrusage outlives fork and exec, so it may be the parent's: ask for a new one.
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    CONTENDERS[contender](classifier, x, y)
    return (_high_water() - before) / 1024


def _high_water() -> int:
    """Peak resident memory since the mark was reset, KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1])


def main() -> None:
    """Race on every task and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=Path("speed.json"))
    parser.add_argument("--no-memory", action="store_true", help="race only")
    parser.add_argument("--peak", nargs=2, metavar=("TASK", "CONTENDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        sys.stdout.write(f"{peak(TASKS[options.peak[0]], options.peak[1]):.3f}\n")
        return
    torch.set_num_threads(options.threads)
    names = available()
    found: dict[str, Any] = {"threads": options.threads, "torch": torch.__version__, "tasks": {}}
    for task_name in options.tasks:
        seconds = race(TASKS[task_name], names, options.rounds)
        rows = {}
        for name in names:
            ratios = [b / s for b, s in zip(seconds["bare loop"], seconds[name], strict=True)]
            rows[name] = {
                "seconds": statistics.median(seconds[name]),
                "speed_of_bare_loop": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "peak_mib": 0.0 if options.no_memory else memory(task_name, name),
            }
        art_ratios = [a / s for a, s in zip(seconds["ART Madry"], seconds["artplus"], strict=True)]
        found["tasks"][task_name] = {
            "contenders": rows,
            "artplus_over_art": statistics.median(art_ratios),
        }
        sys.stdout.write(f"\n{task_name}: PGD-{STEPS}, batch {BATCH}, {options.threads} threads\n")
        for name, row in rows.items():
            low, high = row["ratio_range"]
            sys.stdout.write(
                f"  {name:14} {row['seconds']:7.3f} s  {row['speed_of_bare_loop']:.2f} of the bare "
                f"loop's speed ({low:.2f}-{high:.2f})  peak {row['peak_mib']:.0f} MiB\n"
            )
        sys.stdout.write(f"  artplus over ART: {statistics.median(art_ratios):.2f}\n")
    options.output.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
