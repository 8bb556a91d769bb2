"""Peak memory of a contender's training, in a fork of its own each; Linux only.

    python -m tests.benchmarks.peaks mnist_net "loop by hand" artplus

One process imports everything and draws the data, without computing anything, so that no thread is
lost in the forks. Each fork makes a network, warms up on one small batch, resets the process's
high-water mark and trains. What counts is how far the mark rises above that.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from tests.benchmarks.contenders import CONTENDERS
from tests.benchmarks.tasks import TASKS

BATCHES, REPEATS = 2, 3


def peaks(task: str, contenders: list[str], threads: int) -> dict[str, float]:
    """MiB over the warmed-up process, contender by contender: the median of some forks.

    One process differs from the next by a tenth and more, as the allocator happens to lay it out.
    """
    command = [sys.executable, "-m", "tests.benchmarks.peaks", task, *contenders]
    command += ["--threads", str(threads)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, float] = json.loads(told.splitlines()[-1])
    return found


def _forked(task: str, contender: str) -> float:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_measure, args=(task, contender, there))
    process.start()
    there.close()
    peak: float = here.recv()  # EOFError if the fork failed
    process.join()
    return peak


def _measure(task_name: str, contender: str, answer: Connection) -> None:
    task = TASKS[task_name]
    epoch = CONTENDERS[contender](task)
    x, y = task.data(BATCHES)
    epoch(x[:4], y[:4])
    Path("/proc/self/clear_refs").write_text("5")
    before = _high_water()
    epoch(x, y)
    answer.send((_high_water() - before) / 1024)


def _high_water() -> int:
    """Peak resident memory since the mark was reset, KiB."""
    status = Path("/proc/self/status").read_text()
    return int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1])


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=list(TASKS))
    parser.add_argument("contenders", nargs="+")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = {
        name: statistics.median(_forked(options.task, name) for _ in range(REPEATS))
        for name in options.contenders
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
