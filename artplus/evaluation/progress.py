"""The progress bar of one attack: how much is done, robust accuracy so far, time left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm

from artplus import distributed
from artplus.evaluation import wording


class Advance(Protocol):
    """Called after each batch with its size and the number of newly fooled examples."""

    def __call__(self, done: int, newly_fooled: int | None) -> None:
        """Advance the bar; ``None`` where nothing is right or wrong."""
        ...


@contextmanager
def bar(
    title: str, *, total: int, attacked: int, robust: int, n: int, shown: bool
) -> Iterator[Advance]:
    """Show a bar in the main process.

    Args:
        title: Before the bar.
        total: Examples that this process will run.
        attacked: Examples that all processes will run. Those of the other processes are assumed to
            be fooled at the same rate.
        robust: Examples that no attack has fooled before.
        n: All examples.
        shown: Whether to show the bar.
    """
    several = f" (process 1 of {distributed.world_size()})" if distributed.world_size() > 1 else ""
    fooled = 0
    with tqdm(
        total=total,
        desc=title + several,
        unit="ex",
        leave=False,
        disable=not (shown and distributed.is_main()),
    ) as line:

        def advance(done: int, newly_fooled: int | None) -> None:
            nonlocal fooled
            if newly_fooled is not None and not line.disable:
                fooled += newly_fooled
                share = (robust - fooled * attacked / total) / n
                line.set_postfix_str(f"robust so far {wording.percent(share)}", refresh=False)
            line.update(done)

        yield advance
