"""The box and mask of raw inputs."""

from __future__ import annotations

import pytest
import torch

from artplus.errors import ConfigurationError
from artplus.spaces import InputSpace


def test_restrict_zeroes_what_must_not_change():
    """A mask of any dtype, over one input or the whole batch; none restricts nothing."""
    direction = torch.ones(2, 3, dtype=torch.float64)
    assert InputSpace().restrict(direction) is direction
    got = InputSpace(mask=torch.tensor([True, False, True])).restrict(direction)
    assert got.tolist() == [[1, 0, 1], [1, 0, 1]] and got.dtype == torch.float64
    per_example = torch.tensor([[1, 0, 0], [0, 0, 1]])
    assert InputSpace(mask=per_example).restrict(direction).tolist() == per_example.tolist()


def test_on_brings_bounds_and_mask_beside_the_input():
    """Numbers stay or become numbers; tensors get the input's dtype; nothing to do is the same."""
    x = torch.rand(2, 3, dtype=torch.float64)
    plain = InputSpace(0.0, 1.0)
    assert plain.on(x) is plain and InputSpace().on(x) == InputSpace()
    single = InputSpace(torch.tensor(0.0), torch.tensor([[0.5]]), torch.tensor([True, False, True]))
    found = single.on(x)
    assert (found.low, found.high) == (0.0, 0.5) and found.mask.dtype == torch.float64
    mixed = InputSpace(0, torch.tensor([1.0, 2.0, 3.0])).on(x)
    assert mixed.low.dtype == mixed.high.dtype == torch.float64
    assert mixed.low == 0 and mixed.high.tolist() == [1, 2, 3]
    assert mixed.on(x).low is mixed.low
    half = InputSpace(high=torch.tensor([1.0, 2.0, 3.0])).on(x)
    assert half.low is None and half.high.dtype == torch.float64


def test_masked_is_the_same_box_with_another_mask():
    """The space itself is not changed."""
    space, mask = InputSpace(0.0, 1.0), torch.tensor([1.0, 0.0])
    other = space.masked(mask)
    assert (other.low, other.high) == (0.0, 1.0) and other.mask is mask and space.mask is None
    assert other.masked(mask) is other and other.masked(None) == space


def test_width_is_the_mean_range():
    """Of numbers, of tensors, of both; unbounded has none."""
    assert InputSpace(0.0, 1.0).width() == 1.0
    assert InputSpace(torch.tensor([0.0, -1.0]), 1.0).width() == 1.5
    assert InputSpace(-1.0, torch.tensor([1.0, 3.0])).width() == 3.0
    assert InputSpace(low=0.0).width() is None and InputSpace(high=0.0).width() is None


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1.0, 0.0),
        (float("nan"), 1.0),
        (0.0, float("nan")),
        (torch.tensor([0.0, 2.0]), 1.0),
        (0.0, torch.tensor([1.0, -1.0])),
        (None, float("nan")),
    ],
)
def test_an_empty_box_is_refused(low, high):
    """Clamping into swapped bounds would silently give a constant."""
    with pytest.raises(ConfigurationError, match="low must be <= high in every feature, got low="):
        InputSpace(low, high)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (None, -3.0), (2.0, None), (None, None)])
def test_half_open_and_degenerate_boxes_are_fine(low, high):
    """A bound may be missing, and a feature may have a single value."""
    InputSpace(low, high)
