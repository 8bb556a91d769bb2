"""Freed memory stays with the process inside, and goes back to the system afterwards."""

from __future__ import annotations

import platform
import sys

import pytest
import torch

from artplus import allocator

GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
MIB = 2**20


@pytest.fixture
def untuned(monkeypatch):
    """A process whose allocator nobody has chosen, whatever the developer's shell says."""
    for name in (*allocator._TUNED, "LD_PRELOAD", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    allocator._glibc.cache_clear()
    yield
    allocator._glibc.cache_clear()


def faults(times: int, mib: int = 48) -> int:
    """Pages that the kernel hands out while blocks are filled and freed."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(mib * MIB // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of this process in memory."""
    import resource

    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not GLIBC, reason="glibc's allocator")
def test_blocks_freed_inside_are_used_again_without_the_kernel(untuned):
    """Large blocks come from the kernel each time outside, and once inside."""
    outside = faults(10)
    with allocator.keeping():
        faults(1)
        inside = faults(10)
    assert inside < outside / 4
    # As before, but for blocks that what is left of the heap still serves.
    assert faults(10) > outside / 8


@pytest.mark.skipif(not GLIBC, reason="glibc's allocator")
def test_what_was_kept_is_given_back_at_the_end(untuned):
    """The process is no larger afterwards, though it was inside."""
    before = resident()
    with allocator.keeping():
        faults(1, mib=256)
        assert resident() > before + 200 * MIB
    assert resident() < before + 100 * MIB


class Library:
    """A C library that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> int:
        """As in ``malloc.h``."""
        self.told.append((parameter, value))
        return 1

    def malloc_trim(self, pad: int) -> int:
        """As in ``malloc.h``."""
        self.told.append((pad,))
        return 1


def test_nested_calls_set_once_and_put_back_once(monkeypatch):
    """The outermost call decides, also when an error ends it."""
    library = Library()
    monkeypatch.setattr(allocator, "_glibc", lambda: library)
    with pytest.raises(KeyError, match="end"), allocator.keeping():
        begun = list(library.told)
        with allocator.keeping():
            assert library.told == begun
        assert library.told == begun
        raise KeyError("end")
    assert begun == list(allocator._KEEP.items())
    assert library.told == [*begun, *allocator._USUAL.items(), (0,)]
    with allocator.keeping():
        assert library.told[-len(begun) :] == begun


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "100000"),
        ("LD_PRELOAD", "libjemalloc.so"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=4"),
    ],
)
def test_a_choice_of_the_users_is_left_alone(untuned, monkeypatch, name, value):
    """Variables of glibc and another allocator in front of it."""
    monkeypatch.setenv(name, value)
    assert allocator._glibc() is None
    with allocator.keeping():
        pass


def test_other_systems_are_left_alone(untuned, monkeypatch):
    """There is nothing to set without glibc."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert allocator._glibc() is None
