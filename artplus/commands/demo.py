"""``artplus demo``: a small CNN on real digits, trained as usual and hardened, both attacked."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

import artplus
from artplus import atomic
from artplus.attacks import PGD
from artplus.commands import files
from artplus.evaluation.report import Report
from artplus.reporting import compare, save
from artplus.seeding import seeded

Array = NDArray[Any]

EPS = 0.15
"""Each pixel may move by 15 % of the range from black to white."""

PLAIN_EPOCHS, HARD_EPOCHS = 20, 60
BATCH_SIZE = 64
LEARNING_RATE = 3e-3
OUTPUTS = ("report.html", "report.json", "before.json", "history.png", "weights.pt", "test.npz")


@dataclass(frozen=True)
class Digits:
    """Scikit-learn's 1,797 handwritten digits, split 60/20/20 with equal shares of each class.

    Attributes:
        x_train: ``(n, 1, 8, 8)`` float32 in [0, 1].
        y_train: ``(n,)`` int64.
        x_val: Held out while training: it picks the best epoch.
        y_val: Its labels.
        x_test: Touched by the evaluations alone.
        y_test: Its labels.
    """

    x_train: Array
    y_train: Array
    x_val: Array
    y_val: Array
    x_test: Array
    y_test: Array


def digits(seed: int = 0) -> Digits:
    """The data set, which comes with scikit-learn; ``seed`` decides the split."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    x_train, x_rest, y_train, y_rest = train_test_split(
        x, y.astype(np.int64), test_size=0.4, stratify=y, random_state=seed
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, stratify=y_rest, random_state=seed
    )
    return Digits(x_train, y_train, x_val, y_val, x_test, y_test)


def cnn() -> nn.Module:
    """A small CNN, ``(batch, 1, 8, 8)`` to logits ``(batch, 10)``."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def plain() -> artplus.Objective:
    """Training as usual, as an objective: the loss on clean inputs, no attack."""

    def terms(ctx: artplus.losses.Context) -> artplus.Terms:
        clean = ctx.model(ctx.x)
        return artplus.Terms(scaled=ctx.loss(clean), clean=clean)

    return artplus.Objective("plain", terms, attacked=False)


def demo(*, output_dir: Path, seed: int = 0, overwrite: bool = False) -> str:
    """Run the whole story in about a minute on two CPU cores; return what to print.

    Args:
        output_dir: Gets :data:`OUTPUTS`.
        seed: Of the split, the weights, the training and the attacks.
        overwrite: Replace files in ``output_dir``.

    Raises:
        ConfigurationError: if one of the outputs exists and ``overwrite`` is false, or
            ``output_dir`` cannot be written to.
        NotWritten: if a file could not be written at the end.
    """
    paths = files.outputs(output_dir, OUTPUTS, overwrite=overwrite)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on batches this small, threads wait for each other
    try:
        return _story(digits(seed), seed, *paths)
    finally:
        torch.set_num_threads(threads)


def _story(
    data: Digits,
    seed: int,
    page: Path,
    numbers: Path,
    numbers_before: Path,
    plot: Path,
    weights: Path,
    test: Path,
) -> str:
    _say(f"1/4  Training a small CNN on {len(data.x_train)} handwritten digits as usual")
    usual = _estimator(data, seed)
    artplus.fit(
        usual.model,
        (torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)),
        usual.optimizer,
        loss=plain(),
        epochs=PLAIN_EPOCHS,
        batch_size=BATCH_SIZE,
        seed=seed,
    )

    _say(f"2/4  Attacking it on {len(data.x_test)} test digits (L-infinity, eps {EPS})")
    before = _judge(usual, data, seed, "as usual")

    _say("3/4  Training the same network again, hardened by TRADES")
    hardened = _estimator(data, seed)
    trainer = artplus.AdversarialTrainerPlus(
        hardened,
        PGD(eps=EPS, steps=7),
        loss="trades",
        scheduler=lambda optimizer, steps: OneCycleLR(optimizer, LEARNING_RATE, steps),
        seed=seed,
    )
    history = trainer.fit(
        data.x_train,
        data.y_train,
        batch_size=BATCH_SIZE,
        nb_epochs=HARD_EPOCHS,
        validation_data=(data.x_val, data.y_val),
    )

    _say("4/4  Attacking it likewise")
    after = _judge(hardened, data, seed, "hardened")

    comparison = f"\n{compare(before, after)}"
    writers: dict[Path, Callable[[Path], object]] = {
        page: partial(save, after, before=before),
        numbers: after.save,
        numbers_before: before.save,
        plot: history.plot,
        weights: partial(files.save_weights, hardened.model),
        test: lambda path: atomic.write(path, partial(np.savez, x=data.x_test, y=data.y_test)),
    }
    failed = [path for path, write in writers.items() if not files.write(path, write)]
    if failed:
        raise files.NotWritten(comparison, failed)
    return "\n".join(
        [
            comparison,
            "",
            f"Pictures of attacked digits: {page}",
            f"Judge it harder:  artplus evaluate --model {__name__}:cnn --weights {weights} "
            f"--data {test} --eps {EPS} --attacks standard",
        ]
    )


def _estimator(data: Digits, seed: int) -> Any:
    """The network at its first weights, the same for one seed, as an ART classifier."""
    with seeded(seed):
        model = cnn()
    return artplus.wrap(
        model,
        data.x_train,
        data.y_train,
        optimizer=torch.optim.Adam(model.parameters(), lr=LEARNING_RATE),
        clip_values=(0.0, 1.0),
        verbose=False,
    )


def _judge(classifier: Any, data: Digits, seed: int, name: str) -> Report:
    return artplus.evaluate(
        classifier, data.x_test, data.y_test, attacks="demo", eps=EPS, seed=seed, name=name
    )


def _say(line: str) -> None:
    """Where we are, on standard error beside the progress bars."""
    sys.stderr.write(line + "\n")
