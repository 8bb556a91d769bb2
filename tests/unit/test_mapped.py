"""A memory map read in parts gives what the whole array would, and copies."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from artplus import _checks, mapped
from artplus.errors import DataError
from artplus.mapped import Rows, as_inputs, as_tensor, chunks, is_mapped

DTYPES = ["<f4", ">f4", "<f8", "<f2", "<i4", "u1"]


def on_disk(folder, array):
    """The array as a read-only map."""
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_those_of_the_array_converted(tmp_path, dtype):
    """Slices and indices, in every dtype and byte order, to the bit."""
    array = (np.random.default_rng(0).random((9, 2, 3)) * 200).astype(dtype)
    rows = Rows(on_disk(tmp_path, array))
    whole = torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    index = torch.tensor([7, 0, 7])
    assert rows.dtype == whole.dtype and rows.shape == whole.shape and len(rows) == 9
    for part in (slice(None), slice(2, 5), index):
        assert torch.equal(rows[part], whole[part])
        assert torch.equal(rows.to(torch.float32)[part], whole.float()[part])


def test_what_is_taken_is_a_copy(tmp_path):
    """Work in place neither writes to a map nor crashes on a read-only one, nor does torch warn."""
    array = np.ones((4, 3), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = as_inputs(on_disk(tmp_path, array))
        rows[:2].zero_()
        as_tensor(on_disk(tmp_path, array)).zero_()
    writable = np.lib.format.open_memmap(tmp_path / "x.npy", "r+")
    Rows(writable)[:].zero_()
    assert np.array_equal(writable, array)


def test_views_of_maps_are_maps_and_other_arrays_are_not(tmp_path):
    """Slices, transposes and plain views count; copies, tensors and lists do not."""
    array = np.zeros((4, 3), np.float32)
    found = on_disk(tmp_path, array)
    for view in (found, found[1:], found.T, found[:, None], np.asarray(found)):
        assert is_mapped(view) and isinstance(as_inputs(view), Rows)
    for other in (array, found.copy(), found[[0, 2]], torch.zeros(3), [1.0], np.float32(1)):
        assert not is_mapped(other)
    assert not isinstance(as_inputs(array), Rows)


@pytest.mark.parametrize("size", [1, 7, 12, 1000])
def test_chunks_are_the_whole_in_order(monkeypatch, size):
    """Every example once, at least one at a time however large it is."""
    monkeypatch.setattr(mapped, "CHUNK", size)
    x = torch.rand(11, 4)
    found = list(chunks(x))
    assert torch.equal(torch.cat(found), x)
    assert all(part.numel() <= max(size, 4) for part in found)


def test_checks_in_chunks_say_what_checks_of_the_whole_do(monkeypatch, tmp_path):
    """Counts and ranges are over all chunks, the last one included."""
    x = np.full((9, 4), 0.5, np.float32)
    x[1, 0] = x[1, 3] = x[8, 3] = math.nan
    y = torch.full((9, 2), 0.5)
    y[8] = torch.tensor([-0.5, 1.5])
    for size in (4, 12, 10**6):
        monkeypatch.setattr(mapped, "CHUNK", size)
        with pytest.raises(DataError, match="2 of 9 examples hold NaN"):
            _checks.inputs(as_inputs(on_disk(tmp_path, x)))
        wide = np.full((9, 4), 0.5, np.float32)
        wide[0, 1], wide[8, 3] = -3, 7
        with pytest.raises(DataError, match=r"got values in \[-3, 7\]"):
            _checks.inputs(as_inputs(on_disk(tmp_path, wide)), low=0.0, high=1.0)
        _checks.inputs(as_inputs(on_disk(tmp_path, wide)), low=-3.0, high=torch.tensor([7.0] * 4))
        with pytest.raises(DataError, match="one-hot or soft labels"):
            _checks.class_labels(y, n=9, classes=2)
