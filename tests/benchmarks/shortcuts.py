"""What training with less work saves, and what it costs in the worst case.

    python -m tests.benchmarks.shortcuts --output shortcuts.json

Each option trains the 166k-parameter network of Wong and Kolter from the same weights for the same
number of epochs, Adam and a triangular learning rate alike, and is judged by APGD-CE, APGD-T and
Square on the first ``--n`` test images; times are seconds of the processor, of this process alone.
MNIST is looked for in ``--data`` or ``$ARTPLUS_DATA``; without it the handwritten digits of
scikit-learn stand in. Every option is written to the output file at once: a stopped run goes on
where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import artplus
from artplus.attacks import APGD, PGD, Square
from artplus.training.callbacks import EpsWarmup, PatienceRamp, StepsRamp, WarmStart
from artplus.training.steps import AWP, Free
from tests.benchmarks.nets import digits_cnn, mnist_net

BATCH, RATE, STEPS = 128, 5e-3, 7
MOVES = 4
"""Steps of the weights on a batch by Free, which gets so many times fewer epochs."""


@dataclass(frozen=True)
class Task:
    """Data, a network for it, and a radius."""

    name: str
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    eps: float

    def net(self) -> nn.Module:
        """The same initial weights each time."""
        torch.manual_seed(0)
        return mnist_net() if self.name == "mnist" else digits_cnn()


def task(data: Path, examples: int) -> Task:
    """MNIST at 0.3, or digits at 0.15."""
    file = data / "mnist.npz"
    if file.exists():
        with np.load(file) as found:
            x, x_test = (
                (found[f"x_{part}"] / 255).astype(np.float32)[:, None] for part in ("train", "test")
            )
            y, y_test = (found[f"y_{part}"].astype(np.int64) for part in ("train", "test"))
        return Task("mnist", (x[:examples], y[:examples]), (x_test, y_test), 0.3)
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = (digits.images / 16).astype(np.float32)[:, None], digits.target.astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return Task("digits", (x[:1300][:examples], y[:1300][:examples]), (x[1300:], y[1300:]), 0.15)


@dataclass(frozen=True)
class Option:
    """How a training differs from the one with the whole attack."""

    attack: PGD
    settings: dict[str, Any] = field(default_factory=dict)
    callbacks: tuple[Any, ...] = ()
    shorter: int = 1


def options(eps: float) -> dict[str, Option]:
    """By name, the whole attack first. Callbacks serve several fits."""
    whole = PGD(eps=eps, steps=STEPS)
    one = PGD(eps=eps, steps=1, step_size=eps / 3, random_start=False)
    two = PGD(eps=eps, steps=2, step_size=eps / 3, random_start=False)
    random = PGD(eps=eps, steps=1, step_size=1.25 * eps)
    patient = PGD(eps=eps, steps=STEPS, patience=0)
    return {
        f"PGD-{STEPS}": Option(whole),
        "PGD-1, WarmStart": Option(one, callbacks=(WarmStart(None),)),
        f"PGD-{STEPS}, patience 0": Option(patient),
        f"PGD-{STEPS}, StepsRamp(1)": Option(whole, callbacks=(StepsRamp(1),)),
        f"PGD-{STEPS}, attack_share 0.5": Option(whole, {"attack_share": 0.5}),
        f"Free({MOVES})": Option(random, {"step": Free(MOVES)}, shorter=MOVES),
        "PGD-3": Option(PGD(eps=eps, steps=3)),
        "PGD-2, WarmStart": Option(two, callbacks=(WarmStart(None),)),
        f"PGD-{STEPS}, patience 0 to 2": Option(patient, callbacks=(PatienceRamp(),)),
        "PGD-1": Option(random),
        f"mix, PGD-{STEPS}": Option(whole, {"loss": "mix"}),
        f"mix, PGD-{STEPS}, attack_share 0.5": Option(whole, {"loss": "mix", "attack_share": 0.5}),
        f"PGD-{STEPS}, AWP (more work)": Option(whole, {"step": AWP()}),
    }


def triangle(optimizer: Any, steps: int) -> Any:
    """A learning rate that rises and falls once."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, anneal_strategy="linear", cycle_momentum=False
    )


def train(found: Task, option: Option, epochs: int, seed: int, n: int | None = None) -> nn.Module:
    """The network trained by the option, on the first ``n`` examples."""
    net, (x, y) = found.net(), found.train
    artplus.fit(
        net, (x[:n], y[:n]), torch.optim.Adam(net.parameters(), RATE), attack=option.attack,
        batch_size=BATCH, epochs=max(1, epochs // option.shorter), scheduler=triangle, seed=seed,
        callbacks=[EpsWarmup(fraction=0.25), *option.callbacks], progress=False,
        **{"loss": "at"} | option.settings,
    )  # fmt: skip
    return net


def measured(found: Task, option: Option, epochs: int, n: int, seed: int) -> dict[str, Any]:
    """Train and judge by one option."""
    train(found, option, 1, seed, n=2 * BATCH)  # what is only done once is not to be counted
    wall, cpu = time.perf_counter(), time.process_time()
    net = train(found, option, epochs, seed)
    times = {"cpu_seconds": time.process_time() - cpu, "seconds": time.perf_counter() - wall}
    x, y = found.test
    eps = found.eps
    classifier = artplus.wrap(net.eval(), x, y, clip_values=(0.0, 1.0), verbose=False)
    report = artplus.evaluate(
        classifier, x[:n], y[:n], eps=eps,
        attacks={
            "APGD-CE": APGD(eps=eps, steps=50, loss="ce", until_fooled=True),
            "APGD-T": APGD(eps=eps, steps=50, loss="targeted_dlr", until_fooled=True),
            "Square": Square(eps=eps, queries=1000),
        },
        norm=np.inf, seed=0, checks=False, progress=False,
    )  # fmt: skip
    low, high = report.robust_interval or (float("nan"), float("nan"))
    return times | {
        "clean": report.clean_accuracy,
        "robust": report.robust_accuracy,
        "interval": [low, high],
        "n": report.n,
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    first = next(iter(rows.values()))["cpu_seconds"]
    lines = ["| training | CPU-s | of the first | clean | worst case | 95 % |",
             "| --- | ---: | ---: | ---: | ---: | --- |"]  # fmt: skip
    for name, row in rows.items():
        low, high = row["interval"]
        lines.append(
            f"| {name} | {row['cpu_seconds']:.0f} | {row['cpu_seconds'] / first:.0%} "
            f"| {row['clean']:.1%} | {row['robust']:.1%} | {low:.1%} to {high:.1%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every option that the output file does not hold yet; print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(os.environ.get("ARTPLUS_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=default)
    parser.add_argument("--output", type=Path, default=Path("shortcuts.json"))
    parser.add_argument("--examples", type=int, default=60_000, help="of training")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--n", type=int, default=1000, help="test images to judge by")
    parser.add_argument("--only", nargs="*", help="names of options, or parts of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", artplus.errors.StuckAtChanceWarning)
    found = task(given.data, given.examples)
    settings = {
        "data": found.name, "examples": len(found.train[0]), "epochs": given.epochs, "n": given.n,
        "seed": given.seed, "threads": given.threads, "eps": found.eps,
    }  # fmt: skip
    held = json.loads(given.output.read_text()) if given.output.exists() else {}
    rows: dict[str, Any] = held.get("rows", {}) if held.get("settings") == settings else {}
    for name, option in options(found.eps).items():
        if name in rows or (given.only and not any(part in name for part in given.only)):
            continue
        rows[name] = measured(found, option, given.epochs, given.n, given.seed)
        given.output.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2))
        sys.stdout.write(f"{name}: {rows[name]}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{table(rows)}\n")


if __name__ == "__main__":
    main()
