"""One seed for everything random; the caller's generators are restored afterwards."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from artplus.errors import ConfigurationError


@contextmanager
def seeded(seed: int | None) -> Iterator[int]:
    """Seed torch, numpy and ``random`` inside; restore their states afterwards.

    ART's attacks draw from numpy's global generator and dropout from torch's, so all are seeded.
    ``None`` seeds and restores nothing and yields a seed drawn from torch's generator, so that
    ``torch.manual_seed`` by the caller takes effect.

    Yields:
        The seed in force, for further generators.

    Raises:
        ConfigurationError: if another thread is inside: the generators are those of the process, so
            each would change what the other draws.
    """
    if not _threads.acquire(blocking=False):
        raise ConfigurationError(
            "another training or evaluation is at work in another thread of this process. Both "
            "draw from the same random generators, so neither could be repeated: run one after "
            "the other, or each in a process of its own"
        )
    try:
        if seed is None:
            yield int(torch.randint(2**31, ()))
            return
        with _forked(seed):
            yield seed
    finally:
        _threads.release()


_threads = threading.RLock()


@contextmanager
def _forked(seed: int) -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        reseed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def reseed(seed: int) -> None:
    """Seed torch, numpy and ``random``, inside :func:`seeded`, which restores their states."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def streams() -> dict[str, Any]:
    """The states of torch's, numpy's and Python's global generators, as tensors and plain data."""
    numpy = np.random.get_state(legacy=False)
    mt19937 = numpy["state"]
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [
            torch.from_numpy(mt19937["key"].astype(np.int64)),
            mt19937["pos"],
            numpy["has_gauss"],
            numpy["gauss"],
        ],
        "python": random.getstate(),
    }


def set_streams(states: dict[str, Any]) -> None:
    """Restore what :func:`streams` returned, for as many GPUs as there are then and now."""
    torch.set_rng_state(states["torch"])
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"], strict=False):
        torch.cuda.set_rng_state(state, device)
    key, *rest = states["numpy"]
    np.random.set_state(("MT19937", key.numpy().astype(np.uint32), *rest))
    version, internal, normal = states["python"]
    random.setstate((version, tuple(internal), normal))


def derived(seed: int, name: str) -> int:
    """A seed for a named part of the work, independent of other parts.

    Example:
        >>> derived(0, "pgd") == derived(0, "pgd"), derived(0, "pgd") == derived(0, "square")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
