"""Whether one attack is better than another by more than chance."""

from __future__ import annotations

from torch import Tensor

LEVEL = 0.01
"""Level of the one-sided test: it takes seven examples if none goes the other way."""


def outdone(strong: Tensor, weak: Tensor) -> tuple[int, bool]:
    """How many examples only ``weak`` fooled, and whether that is more than chance.

    The sign test on the pairs that differ: if both attacks were equally good, each would fool as
    many examples alone as the other.

    Example:
        >>> import torch
        >>> none, all_of_them = torch.zeros(9, dtype=torch.bool), torch.ones(9, dtype=torch.bool)
        >>> outdone(none, all_of_them), outdone(all_of_them, none)
        ((9, True), (0, False))
    """
    only_weak, only_strong = int((weak & ~strong).sum()), int((strong & ~weak).sum())
    return only_weak, surprising(only_weak, only_strong)


def surprising(more: int, less: int) -> bool:
    """Whether so uneven a split has a probability below :data:`LEVEL` by chance."""
    from scipy.stats import binomtest

    if more + less == 0:
        return False
    p_value = binomtest(more, more + less, alternative="greater").pvalue
    return bool(p_value < LEVEL)
