"""Two processes train with the same call in the same checkpoint folder at the same time.

    python -m tests.benchmarks.writers --pairs 20

One of them must run to its end, the other be refused with a reason or find the work done; every
file that is left must be sound, and a third run must be able to continue from it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

import artplus
from artplus.errors import ConfigurationError
from artplus.training import Resume, checkpoint
from artplus.training.callbacks import Checkpoint

Result = tuple[int, int, bool]
"""How many of a pair ran, how many were refused, and whether all files are sound."""


def train(folder: Path) -> None:
    """A run that begins, or continues what there is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3))
    data = torch.rand(400, 6), torch.randint(3, (400,))
    artplus.fit(
        model, data, torch.optim.SGD(model.parameters(), lr=0.1), loss="at", eps=0.02, epochs=3,
        batch_size=10, bounds=(0.0, 1.0), seed=0, progress=False,
        callbacks=[Checkpoint(folder, every_steps=1)], resume=Resume(folder, or_start=True),
    )  # fmt: skip


def _writer(folder: Path, start: Any) -> None:
    torch.set_num_threads(1)
    start.wait(60)
    try:
        train(folder)
    except ConfigurationError as error:
        sys.exit(3 if "being written to by" in str(error) else 4)


def writers(folder: Path, *, pairs: int) -> list[Result]:
    """One result for each pair of writers."""
    context = multiprocessing.get_context("spawn")
    results: list[Result] = []
    for k in range(pairs):
        place = folder / f"pair-{k}"
        start = context.Barrier(2)
        both = [context.Process(target=_writer, args=(place, start)) for _ in range(2)]
        for process in both:
            process.start()
        for process in both:
            process.join()
        codes = [process.exitcode for process in both]
        saved = checkpoint.listed(place)
        for path in saved.values():
            checkpoint.read(path)  # raises if it is damaged
        names = {path.name for path in place.iterdir()}
        sound = list(saved)[-1:] == [120] and names == {path.name for path in saved.values()}
        train(place)
        results.append((codes.count(0), codes.count(3), sound))
    return results


def main() -> int:
    """Print the results of all pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        results = writers(Path(folder), pairs=pairs)
    ran, refused, sound = (sum(column) for column in zip(*results, strict=True))
    sys.stdout.write(f"{pairs} pairs: {ran} ran, {refused} refused, {sound} folders sound\n")
    return 0 if sound == pairs else 1


if __name__ == "__main__":
    sys.exit(main())
