"""One seed for everything random, and the caller's generators as they were afterwards."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[int]:
    """Seed torch, numpy and ``random`` inside; give back their states afterwards.

    ART's attacks draw from numpy's global generator, dropout from torch's, so all are seeded. With
    ``None`` nothing is seeded or given back, and the yielded seed is drawn from torch's generator:
    ``torch.manual_seed`` by the caller is honoured.

    Yields:
        The seed in force, for generators of one's own.
    """
    if seed is None:
        yield int(torch.randint(2**31, ()))
        return
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        try:
            yield seed
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def derived(seed: int, name: str) -> int:
    """A seed for one named part of the work, the same whatever other parts there are.

    Example:
        >>> derived(0, "pgd") == derived(0, "pgd"), derived(0, "pgd") == derived(0, "square")
        (True, False)
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
