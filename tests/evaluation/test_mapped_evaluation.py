"""Evaluation from a memory map: the same report, with the same digest of the data."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import artplus
from artplus import mapped
from artplus.attacks import PGD, Relative
from artplus.errors import DataError
from artplus.evaluation import judge
from artplus.evaluation.provenance import data_hash
from artplus.model import LossModel
from tests.benchmarks.memory import watched, work, write
from tests.toys import arrays, classifier, net

VARIES = {"date", "attacks", "examples"}


def on_disk(folder, array, name="x"):
    """The array as a read-only map."""
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def same(one, two):
    """Whether two reports say the same of every example, dates and times aside."""
    for entry in dataclasses.fields(one):
        if entry.name not in VARIES:
            a, b = getattr(one, entry.name), getattr(two, entry.name)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, entry.name
    for a, b in zip(one.attacks, two.attacks, strict=True):
        assert np.array_equal(a.losses, b.losses) and a.max_norm == b.max_norm and a.eps == b.eps


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1"])
@pytest.mark.parametrize("kind", ["estimator", "module"])
def test_a_map_is_judged_as_the_array_is(tmp_path, monkeypatch, dtype, kind):
    """A suite with its checks, in every dtype that arrays may have, chunk by chunk."""
    monkeypatch.setattr(mapped, "CHUNK", 40)
    x, y = arrays(30)
    top = 255 if dtype == "u1" else 1
    x = (x * top).astype(dtype)
    model, options = net().eval(), {"eps": 0.03 * top, "batch_size": 8, "progress": False}
    if kind == "module":
        subject, options["clip_values"] = model, (0.0, float(top))
    else:
        subject = classifier(model, clip_values=(0.0, float(top)))
    found = x, on_disk(tmp_path, x)
    if (kind, dtype) == ("module", "u1"):
        for data in found:
            with pytest.raises(DataError, match="x must be floats.*uint8"):
                artplus.evaluate(subject, data, y, **options)
        return
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        reports = [artplus.evaluate(subject, data, y, **options) for data in found]
    same(*reports)
    assert len([w for w in said if "converted" in str(w.message)]) == 2 * (dtype != "f4")
    assert not any("writable" in str(w.message) for w in said)


@pytest.mark.parametrize("eps", [Relative(0.1), torch.full((30, 1), 0.02), torch.full((6,), 0.02)])
def test_radii_of_a_map_are_those_of_the_array(tmp_path, monkeypatch, eps):
    """Relative to the example, per example and per feature."""
    monkeypatch.setattr(mapped, "CHUNK", 40)
    x, y = arrays(30)
    model, attacks = LossModel(net().eval()), {"pgd": PGD(eps=eps, step_size=0.1)}
    options = {"batch_size": 30, "progress": False}
    maps = on_disk(tmp_path, x), on_disk(tmp_path, y, "y")
    same(judge(model, x, y, attacks, **options), judge(model, *maps, attacks, **options))


def test_the_digest_is_that_of_the_whole(monkeypatch):
    """Shape and bytes of float32 inputs, then of float64 labels, however many chunks there are."""
    x, y = torch.rand(9, 2, 3), torch.arange(9)
    digest = hashlib.sha256()
    for array in (x.numpy(), y.double().numpy()):
        digest.update(str(array.shape).encode() + array.tobytes())
    for size in (1, 13, 10**6):
        monkeypatch.setattr(mapped, "CHUNK", size)
        assert data_hash(x, y) == digest.hexdigest()[:16]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_an_example_takes_a_few_bytes(tmp_path):
    """Judging 300,000 examples of a map holds less than 100 bytes for each more than 50,000 do."""
    write(tmp_path, 300_000, 4)
    x, y = (np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")
    work("evaluation", x[:5000], y[:5000], 1000)
    peaks = []
    for n in (50_000, 300_000):
        with watched() as gauge:
            work("evaluation", x[:n], y[:n], 1000)
        peaks.append(gauge.growth)
    assert peaks[1] - peaks[0] < 100 * 250_000
