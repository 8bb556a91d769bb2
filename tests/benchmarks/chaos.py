"""Kill a run again and again, resume it each time, and compare with the run that was never killed.

    python -m tests.benchmarks.chaos --kills 20
    python -m tests.benchmarks.chaos --kills 20 --evaluation

The run is a process of its own that is sent SIGKILL: after a random time, or within the write of a
random checkpoint, where only a part of the bytes has gone out, or the rename has not happened yet.
It begins again with the same call, ``Resume(folder, or_start=True)``. At the end its weights, its
optimizer and its history are compared with the uninterrupted run's, bit for bit. ``--start spawn``
takes a fresh interpreter for each life, which is slower. With ``--evaluation`` the run is an
evaluation with a checkpoint folder, and what is compared is its report.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import artplus
from artplus import checkpoint_io
from artplus.attacks import APGD, PGD, Square
from artplus.training import Resume, checkpoint
from artplus.training.callbacks import EMA, Checkpoint, EarlyStopping
from tests.reports import told

EPOCHS, EXAMPLES, BATCH = 4, 200, 10
STEPS = EPOCHS * EXAMPLES // BATCH
PLACES = ("payload", "rename", "prune")


@dataclass(frozen=True)
class Outcome:
    """What came of it: how many kills there were, and whether the end was the same."""

    kills: int
    within_writes: int
    identical: bool


def chaos(folder: Path, *, kills: int, seed: int, start: str = "fork") -> Outcome:
    """Kill and resume in ``folder`` until ``kills`` are done, then let it end.

    Every other kill is within a write; the rest are at random moments.
    """
    rng = random.Random(seed)

    def draw(i: int) -> str:
        # A life leads on by some steps, so that all of them fit into one run.
        number = rng.randint(1, max(1, STEPS // (kills + 1)))
        kill = f"{rng.choice(PLACES)}:{number}"
        return f"moment:{number}:{rng.uniform(1e-4, 0.02):.4f}" if i % 2 else kill

    return _lives(folder, run, draw, kills, start)


def evaluation_chaos(folder: Path, *, kills: int, seed: int, start: str = "fork") -> Outcome:
    """The same of an evaluation, which has examples enough for so many lives."""
    rng = random.Random(seed)

    def draw(i: int) -> str:
        number = rng.randint(1, 3)
        kill = f"{rng.choice(PLACES[:2])}:{number}"
        return f"moment:{number}:{rng.uniform(1e-4, 0.006):.4f}" if i % 2 else kill

    work = functools.partial(judged, 100 + 40 * kills)
    return _lives(folder, work, draw, kills, start)


def _lives(
    folder: Path,
    work: Callable[[Path, Path, str], None],
    draw: Callable[[int], str],
    kills: int,
    start: str,
) -> Outcome:
    work(folder / "warm.pt", folder / "warm", "")  # what is imported late is there for every fork
    context: Any = multiprocessing.get_context(start)
    result, checkpoints = folder / "killed.pt", folder / "killed"

    def life(*arguments: Any) -> int | None:
        process = context.Process(target=work, args=arguments)
        process.start()
        process.join()
        return int(process.exitcode)

    if life(folder / "reference.pt", folder / "reference", ""):
        raise RuntimeError("the run that was to be left alone failed")
    within = 0
    for i in range(kills):
        kill = draw(i)
        ended = life(result, checkpoints, kill)
        if ended != -signal.SIGKILL:
            raise RuntimeError(f"the run was to be killed at {kill}, but ended with {ended}")
        within += not i % 2
    life(result, checkpoints, "")
    same = _equal(*(torch.load(p, weights_only=True) for p in (folder / "reference.pt", result)))
    litter = [path.name for path in checkpoints.glob(".*")]
    return Outcome(kills, within, same and not litter)


def run(result: Path, checkpoints: Path, kill: str) -> None:
    """One process: train a tiny net with all that has a state, and write down how it ended."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.rand(EXAMPLES, 6), torch.randint(3, (EXAMPLES,))
    _arm(kill)
    history = artplus.fit(
        model,
        (x, y),
        optimizer,
        loss="mix",
        eps=0.2,
        bounds=(0.0, 1.0),
        epochs=EPOCHS,
        batch_size=BATCH,
        validation=(x[:40], y[:40]),
        scheduler=lambda o, n: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=n),
        callbacks=[EMA(0.9), EarlyStopping(9), Checkpoint(checkpoints, every_steps=1, keep=2)],
        seed=0,
        progress=False,
        resume=Resume(checkpoints, or_start=True),
    )
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in history]
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "rows": rows}, result
    )


def judged(examples: int, result: Path, checkpoints: Path, kill: str) -> None:
    """One process: attack a tiny net in three ways, saving after every batch."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    x = torch.rand(examples, 6)
    y = model(x).argmax(1)
    _arm(kill)
    report = artplus.evaluate(
        model,
        x,
        y,
        attacks=[
            PGD(eps=0.1, steps=5),
            APGD(eps=0.1, steps=5, loss="dlr", targets=2),
            Square(eps=0.1, queries=20),
        ],
        clip_values=(0.0, 1.0),
        batch_size=10,
        checkpoint=checkpoints,
        checkpoint_every=0.0,
        progress=False,
    )
    torch.save(told(report), result)


def _arm(kill: str) -> None:
    """Arrange for this process to be killed, by the place and the number of the write."""
    if not kill:
        return
    place, number, *rest = kill.split(":")
    left = int(number)
    write, prune = checkpoint_io.write, checkpoint.prune

    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def watched(*args: Any) -> Path:
        nonlocal left
        left -= 1
        if left == 0 and place == "payload":
            plain_write, gone = checkpoint_io.Hashed.write, [0]

            def partial(self: Any, data: Any) -> int:
                gone[0] += 1
                if gone[0] == 20:
                    self._file.write(bytes(data)[: len(data) // 2])
                    self._file.flush()
                    die()
                return plain_write(self, data)

            checkpoint_io.Hashed.write = partial  # type: ignore[method-assign]
        if left == 0 and place == "rename":
            os.replace = die
        path = write(*args)
        if left == 0 and place == "moment":
            signal.signal(signal.SIGALRM, die)
            signal.setitimer(signal.ITIMER_REAL, max(1e-4, float(rest[0])))
        return path

    def pruned(*args: Any) -> None:
        if left == 0 and place == "prune":
            die()
        prune(*args)

    checkpoint_io.write, checkpoint.prune = watched, pruned


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    return bool(a == b)


def main() -> int:
    """Run it and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--start", choices=("fork", "spawn"), default="fork")
    parser.add_argument("--evaluation", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    try:
        found = (evaluation_chaos if arguments.evaluation else chaos)(
            folder, kills=arguments.kills, seed=arguments.seed, start=arguments.start
        )
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder)
    what = "report" if arguments.evaluation else "final weights, optimizer and history"
    print(
        f"{found.kills} kills, {found.within_writes} of them within a write: {what} "
        f"{'identical' if found.identical else 'DIFFERENT'}"
    )
    return 0 if found.identical else 1


if __name__ == "__main__":
    sys.exit(main())
