"""MNIST at L-infinity 0.3: artplus against ART's own Madry trainer, epochs alike, worst case.

    python -m tests.benchmarks.mnist --data mnist.npz --output mnist.json

Trained weights are kept beside the output, so that a stopped run goes on where it was, and judging
alone can be repeated. Both train the same network from the same weights with the same PGD (7 steps
of 2.5 eps / 7, random start) for the same number of epochs. ART's trainer is run at several
learning rates and its best counts. Both are judged by the same attacks on the first 1,000 test
images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.defences.trainer import AdversarialTrainerMadryPGD
from art.estimators.classification import PyTorchClassifier
from torch import nn

import artplus
from artplus.attacks import APGD, PGD, Square
from tests.benchmarks.nets import mnist_net

EPS, STEPS = 0.3, 7


def estimator(lr: float) -> PyTorchClassifier:
    """The same initial network each time, under Adam."""
    torch.manual_seed(0)
    net = mnist_net()
    return PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        input_shape=(1, 28, 28),
        nb_classes=10,
        optimizer=torch.optim.Adam(net.parameters(), lr=lr),
        clip_values=(0.0, 1.0),
    )


def ours(x: np.ndarray, y: np.ndarray, epochs: int) -> PyTorchClassifier:
    """PGD training with the default warm-up of eps; a triangular learning rate."""
    classifier = estimator(5e-3)

    def triangle(optimizer: Any, steps: int) -> Any:
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 5e-3, total_steps=steps, anneal_strategy="linear", cycle_momentum=False
        )

    trainer = artplus.AdversarialTrainerPlus(
        classifier, PGD(eps=EPS, steps=STEPS), loss="at", scheduler=triangle, seed=0
    )
    trainer.fit(x, y, batch_size=128, nb_epochs=epochs)
    return classifier


def theirs(x: np.ndarray, y: np.ndarray, epochs: int, lr: float) -> PyTorchClassifier:
    """ART's Madry trainer with the same attack and a constant learning rate."""
    classifier = estimator(lr)
    np.random.seed(0)
    trainer = AdversarialTrainerMadryPGD(
        classifier,
        nb_epochs=epochs,
        batch_size=128,
        eps=EPS,
        eps_step=2.5 * EPS / STEPS,
        max_iter=STEPS,
        num_random_init=1,
    )
    trainer.fit(x, y)
    return classifier


def trained(
    name: str, train: Callable[[], PyTorchClassifier], options: argparse.Namespace
) -> tuple[PyTorchClassifier, dict[str, Any]]:
    """Train, or load what an earlier run trained, with the time it took."""
    folder = options.output.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name.replace(' ', '_').replace(',', '')}.pt"
    if file.exists():
        saved = torch.load(file, weights_only=True)
        classifier = estimator(1e-3)
        classifier.model.load_state_dict(saved["weights"])
        return classifier, saved["times"]
    wall, cpu = time.perf_counter(), time.process_time()
    classifier = train()
    times = {
        "wall_seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "threads": options.threads,
        "epochs": options.epochs,
    }
    torch.save({"weights": classifier.model.state_dict(), "times": times}, file)
    return classifier, times


def judged(classifier: PyTorchClassifier, x: np.ndarray, y: np.ndarray, n: int) -> dict[str, Any]:
    """Clean accuracy on the whole test set, worst case on its first ``n`` images."""
    attacks = {
        "APGD-CE (50)": APGD(eps=EPS, steps=50, loss="ce"),
        "APGD-T (50, 9 targets)": APGD(eps=EPS, steps=50, loss="targeted_dlr"),
        "Square (1,000)": Square(eps=EPS, queries=1000),
    }
    report = artplus.evaluate(
        classifier, x[:n], y[:n], attacks=attacks, eps=EPS, norm=np.inf, seed=0
    )
    clean = float((classifier.predict(x, batch_size=512).argmax(1) == y).mean())
    return {
        "clean": clean,
        "robust": report.robust_accuracy,
        "n": n,
        "attacks": {result.name: result.accuracy for result in report.attacks},
        "table": str(report),
    }


def main() -> None:
    """Run every part that the output file does not hold yet; print all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist.npz"))
    parser.add_argument("--output", type=Path, default=Path("mnist.json"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--rates", type=float, nargs="*", default=[1e-3, 3e-4, 1e-4])
    parser.add_argument("--train-only", action="store_true", help="judge later")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with np.load(options.data) as data:
        x, x_test = ((data[k] / 255).astype(np.float32)[:, None] for k in ("x_train", "x_test"))
        y, y_test = (data[k].astype(np.int64) for k in ("y_train", "y_test"))
    parts: dict[str, Callable[[], PyTorchClassifier]] = {
        "artplus": lambda: ours(x, y, options.epochs)
    }
    for rate in options.rates:
        parts[f"ART Madry, Adam {rate:g}"] = lambda r=rate: theirs(x, y, options.epochs, r)
    found: dict[str, Any] = {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for name, train in parts.items():
        classifier, times = trained(name, train, options)
        if not options.train_only:
            found[name] = times | judged(classifier, x_test, y_test, options.n)
            sys.stdout.write(f"\n{name}\n{found[name].pop('table')}\n")
    options.output.write_text(json.dumps(found, indent=2))
    for name, row in found.items():
        sys.stdout.write(
            f"{name:24} clean {row['clean']:.2%}  worst case {row['robust']:.2%} "
            f"(n={row['n']})  {row['cpu_seconds']:.0f} CPU-s, {row['wall_seconds']:.0f} s\n"
        )


if __name__ == "__main__":
    main()
