"""Races in turn: every contender runs once a round, so a machine that slows down slows all.

What is reported is the seconds of one batch, the median over the rounds with the quartiles, and the
speed against a reference that ran in the same round: one ratio a round, again median and quartiles.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from tests.benchmarks.contenders import Epoch, Task

ROUNDS = (3, 9)
"""Fewest and most rounds; between, the time allowed decides."""

BATCHES = 400
"""Most batches of a turn."""

ENOUGH, PATIENCE = 10, 15.0
"""Batches that every turn has, so that what a training does once counts little, unless they take
more than so many seconds."""


def race(task: Task, contenders: Mapping[str, Epoch], seconds: float) -> dict[str, list[float]]:
    """Seconds a batch, round after round, of contenders that share the task's data.

    Every contender warms up, which also tells how many batches make a turn of its fair share of
    ``seconds``, or of :data:`ENOUGH` batches. Then rounds follow until the time is used up.
    """
    turn = seconds / len(contenders) / (ROUNDS[1] - 1)
    begin = time.perf_counter()
    sized = {name: _batches(task, epoch, turn) for name, epoch in contenders.items()}
    found: dict[str, list[float]] = {name: [] for name in contenders}
    data = {n: task.data(n) for n in set(sized.values())}
    for done in range(ROUNDS[1]):
        if done >= ROUNDS[0] and time.perf_counter() - begin > seconds:
            break
        for name, epoch in contenders.items():
            n = sized[name]
            found[name].append(timed(epoch, *data[n]) / n)
    return found


def _batches(task: Task, epoch: Epoch, turn: float) -> int:
    """So many that they take about ``turn`` seconds."""
    n, took = 1, 0.0
    timed(epoch, *task.data(1))
    while n <= BATCHES // 4:
        took = timed(epoch, *task.data(n))
        if took > turn / 4:
            break
        n *= 4
    enough = max(1, min(ENOUGH, round(n * PATIENCE / took)))
    return max(enough, min(BATCHES, round(n * turn / took)))


def timed(epoch: Epoch, x: np.ndarray, y: np.ndarray) -> float:
    """Seconds of one epoch."""
    begin = time.perf_counter()
    epoch(x, y)
    return time.perf_counter() - begin


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def rows(found: dict[str, list[float]], reference: str) -> dict[str, dict[str, Any]]:
    """Seconds a batch and speed against the reference, for a table and a picture."""
    return {
        name: {
            "seconds": spread(seconds),
            "speed": spread([r / s for r, s in zip(found[reference], seconds, strict=True)]),
            "rounds": len(seconds),
        }
        for name, seconds in found.items()
    }


def machine() -> dict[str, Any]:
    """Where and under which load the figures were taken."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": list(os.getloadavg()),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if "model name" in line)
            return next(names, platform.machine())
    except OSError:  # no Linux
        return platform.processor() or platform.machine()
