"""When one attack did better than another by more than the draw of a few examples explains."""

from __future__ import annotations

from torch import Tensor

LEVEL = 0.01
"""Of the one-sided test: with no example the other way it takes seven."""


def outdone(strong: Tensor, weak: Tensor) -> tuple[int, bool]:
    """How many examples only ``weak`` felled, and whether that is more than chance.

    The sign test on the pairs that differ: if both were equally good, as many would fall to the
    one alone as to the other alone.

    Example:
        >>> import torch
        >>> none, all_of_them = torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)
        >>> outdone(none, all_of_them), outdone(all_of_them, none)
        ((9, True), (0, False))
    """
    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    return only_weak, surprising(only_weak, only_strong)


def surprising(more: int, less: int) -> bool:
    """Whether a split so uneven would come up in less than one of a hundred fair draws."""
    from scipy.stats import binomtest

    if more + less == 0:
        return False
    p_value = binomtest(more, more + less, alternative="greater").pvalue
    return bool(p_value < LEVEL)
