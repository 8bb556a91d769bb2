"""Training from a memory map holds no copy of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from artplus import fit
from artplus.attacks import PGD
from tests.benchmarks.memory import MB, watched


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_training_holds_a_fraction_of_the_map(tmp_path):
    """Peak memory stays below half of the map, which a copy of it, as a control, does not."""
    shape, path, attack = (8192, 8192), tmp_path / "x.npy", PGD(eps=0.02, step_size=0.01, steps=1)
    np.lib.format.open_memmap(path, "w+", np.dtype("f4"), shape).flush()  # zeros, a sparse file
    x, y = np.load(path, mmap_mode="r"), np.arange(8192) % 3
    model = torch.nn.Linear(8192, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    options = {"attack": attack, "epochs": 1, "batch_size": 32, "progress": False}
    fit(model, (x[:1024], y[:1024]), optimizer, **options)  # what is imported and kept once
    with watched(every=0.005) as gauge:
        fit(model, (x, y), optimizer, **options)
    with watched(every=0.005) as control:
        copy = np.array(x)
    assert control.growth > 0.8 * copy.nbytes
    assert gauge.growth < 128 * MB  # of 256; what else lives in this process moves it by 10 or 30
