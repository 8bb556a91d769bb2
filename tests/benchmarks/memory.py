"""Peak memory of training and evaluation from a memory map: 1,000,000 examples against 10,000.

    python -m tests.benchmarks.memory

Each size is trained on for an epoch and evaluated in a process of its own. What is compared is the
peak of the process's *anonymous* memory (RssAnon of /proc/self/status, sampled every millisecond):
what it holds of its own. The pages of the map that it has read count as file memory, which the
system gives up whenever anybody needs it; they would make the plain resident size grow up to the
size of the file without a byte being needed. The baseline is the process after a run on a few
examples, when everything is imported. What grows with the number of examples is what is kept per
example: its label, place in the order, loss, and how it fared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ConversionWarning

MB = 1 << 20
CLASSES, BLOCK = 3, 10_000


class Gauge:
    """Anonymous memory in bytes: at the beginning, and at its peak so far."""

    def __init__(self) -> None:
        self.start = self.peak = anonymous()

    @property
    def growth(self) -> int:
        """Peak over the beginning."""
        return self.peak - self.start


def anonymous() -> int:
    """What this process holds that is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell anonymous memory; it takes Linux 4.5 or later")


@contextmanager
def watched(every: float = 0.001) -> Iterator[Gauge]:
    """Follow the anonymous memory of what runs inside."""
    gauge, done = Gauge(), threading.Event()

    def follow() -> None:
        while not done.wait(every):
            gauge.peak = max(gauge.peak, anonymous())

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield gauge
    finally:
        done.set()
        thread.join()
        gauge.peak = max(gauge.peak, anonymous())


def write(folder: Path, n: int, features: int, dtype: str = "float32") -> None:
    """Uniform inputs and labels that their mean decides, written a block at a time."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.dtype(dtype), (n, features))
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.dtype("int64"), (n,))
    for start in range(0, n, BLOCK):
        rows = slice(start, start + BLOCK)
        x[rows] = rng.random(x[rows].shape, dtype=np.float32)
        y[rows] = (x[rows, :CLASSES]).argmax(1)


def work(x: Any, y: Any, batch_size: int) -> None:
    """An epoch of adversarial training, then an evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attack, common = PGD(eps=0.02, step_size=0.01, steps=2), {"batch_size": batch_size}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        artplus.fit(model, (x, y), optimizer, attack=attack, epochs=1, progress=False, **common)
        artplus.evaluate(
            model, x, y, attacks=attack, clip_values=(0.0, 1.0), progress=False, **common
        )


def child(folder: Path, batch_size: int) -> None:
    """Measure one size, and say so as JSON."""
    torch.set_num_threads(1)
    x, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")
    work(x[: 4 * batch_size], y[: 4 * batch_size], batch_size)
    with watched() as gauge:
        work(x, y, batch_size)
    print(json.dumps({"n": len(x), "baseline": gauge.start, "peak": gauge.peak}))


def measure(n: int, features: int, batch_size: int, dtype: str) -> dict[str, int]:
    """The measurement of ``n`` examples, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), n, features, dtype)
        command = [sys.executable, "-m", "tests.benchmarks.memory", "--child", folder]
        command += ["--batch-size", str(batch_size)]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, int] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure both sizes and print what they took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child, args.batch_size)
        return
    found = [
        measure(n, args.features, args.batch_size, args.dtype) for n in (args.small, args.large)
    ]
    width = args.features * np.dtype(args.dtype).itemsize
    for each in found:
        print(
            f"N={each['n']:>9,}: map {each['n'] * width / MB:7.1f} MB, baseline "
            f"{each['baseline'] / MB:6.1f} MB, peak {each['peak'] / MB:6.1f} MB, over baseline "
            f"{(each['peak'] - each['baseline']) / MB:6.1f} MB"
        )
    small, large = found
    more = (large["peak"] - small["peak"]) / (large["n"] - small["n"])
    print(f"ratio of peaks {large['peak'] / small['peak']:.3f}; {more:.0f} bytes per example more")


if __name__ == "__main__":
    main()
