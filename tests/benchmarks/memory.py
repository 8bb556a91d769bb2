"""Peak memory of training and evaluation from a memory map: 10,000 to 1,000,000 examples.

    python -m tests.benchmarks.memory

Each size is trained on for an epoch, and evaluated, in a process of its own each. What is compared
is the peak of the process's *anonymous* memory (RssAnon of /proc/self/status, sampled every
millisecond): what it holds of its own. The pages of the map that it has read count as file memory,
which the system gives up whenever anybody needs it; they would make the plain resident size grow
up to the size of the file without a byte being needed. The baseline is the process after a run on
a few examples, when everything is imported. What grows with the number of examples is what is kept
per example: its label, place in the order, loss, and how it fared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
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
PARTS = ["evaluation", "training"]


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


def work(part: str, x: Any, y: Any, batch_size: int) -> None:
    """An epoch of adversarial training, or an evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(x.shape[1], 16), nn.ReLU(), nn.Linear(16, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    attack, common = PGD(eps=0.02, step_size=0.01, steps=2), {"batch_size": batch_size}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)
        if part == "training":
            artplus.fit(model, (x, y), optimizer, attack=attack, epochs=1, progress=False, **common)
            return
        artplus.evaluate(
            model, x, y, attacks=attack, clip_values=(0.0, 1.0), progress=False, **common
        )


def child(folder: Path, part: str, batch_size: int) -> None:
    """Measure one size, and say so as JSON."""
    torch.set_num_threads(1)
    x, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in "xy")
    work(part, x[: 4 * batch_size], y[: 4 * batch_size], batch_size)
    with watched() as gauge:
        begin = time.perf_counter()
        work(part, x, y, batch_size)
        seconds = time.perf_counter() - begin
    print(json.dumps({"baseline": gauge.start, "peak": gauge.peak, "seconds": seconds}))


def measure(folder: Path, part: str, batch_size: int) -> dict[str, float]:
    """The measurement of the examples in ``folder``, from a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", "--child", str(folder)]
    command += ["--part", part, "--batch-size", str(batch_size)]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure every size and print what each took."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--part", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        child(args.child, args.part[0], args.batch_size)
        return
    width = args.features * np.dtype(args.dtype).itemsize
    first: dict[str, dict[str, float]] = {}
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), n, args.features, args.dtype)
            for part in args.part:
                found = measure(Path(folder), part, args.batch_size)
                least = first.setdefault(part, {"n": n, **found})
                more = (found["peak"] - least["peak"]) / max(1, n - least["n"])
                ratio = found["peak"] / least["peak"]
                print(
                    f"{part:>10} N={n:>9,}: map {n * width / MB:7.1f} MB, baseline "
                    f"{found['baseline'] / MB:6.1f} MB, peak {found['peak'] / MB:6.1f} MB, "
                    f"{ratio:.3f} of the first, {more:.0f} bytes an example more; "
                    f"{found['seconds']:.0f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
