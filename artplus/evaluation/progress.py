"""The bar of one attack: how much is done, the robust accuracy so far, the time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

from artplus import distributed
from artplus.evaluation import wording


class Shown(Protocol):
    """Told of each batch: its size, and how many fell to it that had stood (``None``: no idea)."""

    def __call__(self, done: int, fell: int | None) -> None:
        """Advance."""
        ...


@contextmanager
def bar(
    title: str, *, own: int, attacked: int, standing: int, n: int, shown: bool
) -> Iterator[Shown]:
    """Show a bar in the main process.

    Args:
        title: Before the bar.
        own: Examples that this process will run.
        attacked: Examples that all processes will run; the others are taken to fare alike.
        standing: Examples that stand before.
        n: All examples.
        shown: Whether to show it at all.
    """
    several = f" (process 1 of {distributed.world_size()})" if distributed.world_size() > 1 else ""
    fallen = 0
    with tqdm(
        total=own,
        desc=title + several,
        unit="ex",
        leave=False,
        disable=not (shown and distributed.is_main()),
    ) as line:

        def advance(done: int, fell: int | None) -> None:
            nonlocal fallen
            if fell is not None and not line.disable:
                fallen += fell
                share = (standing - fallen * attacked / own) / n
                line.set_postfix_str(f"robust so far {wording.percent(share)}", refresh=False)
            line.update(done)

        yield advance
