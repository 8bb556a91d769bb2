"""Good arguments always pass, bad ones never do, and the message says what was wrong."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from artplus import _checks
from artplus.errors import ArtplusError, ConfigurationError, DataError

finite = st.floats(allow_nan=False, allow_infinity=False)
NOT_NUMBERS = [
    None,
    "1",
    b"1",
    True,
    False,
    [1.0],
    1j,
    object(),
    float("nan"),
    float("inf"),
    -float("inf"),
    10**400,
    torch.tensor([1.0, 2.0]),
    np.array([1.0, 2.0]),
]


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_nonnegative_takes_every_such_number(value):
    """Zero and up, whatever its type, as a float."""
    for kind in (float, np.float64, lambda v: torch.tensor(v, dtype=torch.float64)):
        got = _checks.nonnegative("lam", kind(value))
        assert type(got) is float and got == value
    assert _checks.nonnegative("lam", 3) == 3.0
    assert _checks.nonnegative("lam", Fraction(1, 2)) == 0.5


@given(st.floats(max_value=0, exclude_max=True))
def test_nonnegative_refuses_every_negative_number(value):
    """Minus infinity included, and the value is quoted."""
    with pytest.raises(ConfigurationError, match="lam must be a finite number >= 0, got -"):
        _checks.nonnegative("lam", value)


@given(finite)
def test_positive_is_nonnegative_without_zero(value):
    """Zero is the one number that tells them apart."""
    if value > 0:
        assert _checks.positive("eps", value) == value
    else:
        with pytest.raises(ConfigurationError, match="eps must be a finite number > 0, got"):
            _checks.positive("eps", value)


@given(finite)
def test_fraction_is_zero_to_below_one(value):
    """One itself is out: nothing would be left."""
    if 0 <= value < 1:
        assert _checks.fraction("decay", value) == value
    else:
        with pytest.raises(ConfigurationError, match=r"decay must be a number in \[0, 1\), got"):
            _checks.fraction("decay", value)


@pytest.mark.parametrize("check", [_checks.nonnegative, _checks.positive, _checks.fraction])
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda v: repr(v)[:20])
def test_what_is_no_finite_number_is_refused(check, value):
    """Text, booleans, arrays, NaN, infinities and overflowing integers."""
    with pytest.raises(ConfigurationError, match="^x must be a .*number.*, got "):
        check("x", value)


@given(st.integers(-5, 50), st.integers(0, 10))
def test_count_takes_whole_numbers_from_least(value, least):
    """Python's, NumPy's and torch's."""
    for kind in (int, np.int64, torch.tensor):
        if value >= least:
            got = _checks.count("steps", kind(value), least=least)
            assert type(got) is int and got == value
        else:
            with pytest.raises(ConfigurationError, match=f"steps must be .* >= {least}, got"):
                _checks.count("steps", kind(value), least=least)


@pytest.mark.parametrize(
    "value", [1.0, 2.5, "3", True, None, torch.tensor(2.5), np.array([1, 2]), float("nan")]
)
def test_count_refuses_what_is_not_whole(value):
    """A float is not a count, even where it has no fraction."""
    with pytest.raises(ConfigurationError, match="steps must be a whole number >= 1, got"):
        _checks.count("steps", value)


shapes = st.lists(st.integers(1, 4), min_size=0, max_size=3).map(tuple)


@given(st.integers(1, 5), shapes, st.floats(-10, 10), st.floats(0, 10))
def test_good_inputs_pass(n, shape, low, width):
    """Any shape and any range, filled to its edges, bounds as numbers, tensors or absent."""
    x = torch.linspace(0, 1, n * max(1, math.prod(shape))).view(n, *shape) * width + low
    high = float(x.max())
    _checks.inputs(x)
    _checks.inputs(x, shape=shape, low=low, high=high)
    _checks.inputs(x, low=torch.tensor(low))
    _checks.inputs(x, high=torch.full(shape, high))


def test_whole_number_inputs_pass():
    """Token ids and 8-bit images are inputs too."""
    _checks.inputs(torch.tensor([[0, 255]], dtype=torch.uint8), shape=(2,), low=0.0, high=255.0)


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 11))
def test_a_single_bad_value_is_found(value, where):
    """NaN and infinities anywhere, counted by example."""
    x = torch.zeros(3, 4)
    x.view(-1)[where] = value
    with pytest.raises(DataError, match="x must be finite, but 1 of 3 examples hold NaN"):
        _checks.inputs(x)
    with pytest.raises(DataError, match="x must be finite, but 1 of 12 examples"):
        _checks.inputs(x.flatten())


@given(st.integers(0, 11), st.booleans(), st.floats(0.01, 100))
def test_a_single_value_out_of_range_is_found(where, above, excess):
    """With both ranges and the likely causes in the message."""
    x = torch.full((3, 4), 0.5)
    x.view(-1)[where] = 1 + excess if above else -excess
    with pytest.raises(DataError, match=r"lie in clip_values \(0, 1\), got values in .*normalised"):
        _checks.inputs(x, low=0.0, high=1.0)


def test_one_sided_and_per_feature_ranges_are_named():
    """Absent bounds read ``unbounded``, per-feature bounds give their span."""
    x = torch.tensor([[5.0, -5.0]])
    with pytest.raises(DataError, match=r"clip_values \(unbounded, 1\)"):
        _checks.inputs(x, high=1.0)
    with pytest.raises(DataError, match=r"clip_values \(-1..0 per feature, unbounded\)"):
        _checks.inputs(x, low=torch.tensor([0.0, -1.0]))


@pytest.mark.parametrize("shape", [(), (0,), (0, 3)])
def test_no_examples_are_refused(shape):
    """A scalar or an empty batch."""
    with pytest.raises(DataError, match="images must hold at least one example, got shape"):
        _checks.inputs(torch.zeros(shape), name="images")


@pytest.mark.parametrize(
    ("got", "wanted", "hint"),
    [
        ((28, 28, 1), (1, 28, 28), r"axes look swapped: .* x.transpose\(0, 3, 1, 2\)"),
        ((28, 28), (1, 28, 28), r"channel axis is missing: x\[:, None\]"),
        ((784,), (1, 28, 28), "input_shape of the estimator and the data must agree"),
    ],
)
def test_a_wrong_shape_gets_its_remedy(got, wanted, hint):
    """Channels last and a missing channel axis are recognised."""
    with pytest.raises(DataError, match=rf"x must have shape \(batch, .*\), got .*{hint}"):
        _checks.inputs(torch.zeros(2, *got), shape=wanted)


@given(st.integers(1, 8), st.integers(2, 5), st.data())
def test_good_labels_pass(n, classes, data):
    """Class numbers of every whole type, one-hot rows and soft rows."""
    numbers = torch.tensor(data.draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)))
    for dtype in (torch.int64, torch.int32, torch.uint8):
        _checks.class_labels(numbers.to(dtype), n=n, classes=classes)
    _checks.class_labels(numbers, n=n, classes=None)
    rows = torch.nn.functional.one_hot(numbers, classes)
    _checks.class_labels(rows, n=n, classes=classes)
    _checks.class_labels(torch.softmax(rows.float(), 1), n=n, classes=classes)


@given(st.integers(2, 5), st.integers(-9, 9), st.integers(0, 3))
@example(classes=3, label=-1, where=0)
@example(classes=3, label=3, where=3)
def test_one_label_out_of_range_is_found(classes, label, where):
    """Negative ones always, too large ones where the number of classes is known."""
    assume(not 0 <= label < classes)
    y = torch.zeros(4, dtype=torch.int64)
    y[where] = label
    with pytest.raises(DataError, match=rf"y must lie in 0\.\.{classes - 1}, got .*start at 1"):
        _checks.class_labels(y, n=4, classes=classes)
    if label < 0:
        with pytest.raises(DataError, match="y must lie in 0, got values in"):
            _checks.class_labels(y, n=4, classes=None)
    else:
        _checks.class_labels(y, n=4, classes=None)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), "one label per input: 2 inputs, 3 labels"),
        (torch.zeros(0, dtype=torch.int64), r"at least one label, got shape \(0,\)"),
        (torch.tensor(1), r"at least one label, got shape \(\)"),
        (torch.tensor([0.0, 1.0]), "whole class numbers .*float32.*PyTorchRegressor"),
        (torch.tensor([True, False]), "whole class numbers .*torch.bool"),
        (torch.tensor([1j, 0]), "whole class numbers .*complex"),
        (torch.zeros(2, 4), r"must have shape \(2, 3\), got \(2, 4\)"),
        (torch.full((2, 3), 0.5), r"one-hot or soft labels .* row sums lie in \[1.5, 1.5\]"),
        (torch.tensor([[2.0, -1.0, 0.0]] * 2), "one-hot or soft labels"),
        (torch.full((2, 3), math.nan), "one-hot or soft labels"),
        (torch.zeros(2, 3, 4), r"\(2,\) class numbers or \(2, classes\) rows, got \(2, 3, 4\)"),
    ],
)
def test_bad_labels_are_refused_with_the_reason(y, message):
    """Count, type, shape and content, each with its own words."""
    with pytest.raises(DataError, match=message):
        _checks.class_labels(y, n=2, classes=3)


def test_errors_are_caught_by_family_or_by_builtin():
    """One base for all, and the builtin that fits each."""
    assert issubclass(ConfigurationError, ArtplusError) and issubclass(DataError, ArtplusError)
    with pytest.raises(ValueError, match="lam must be"):
        _checks.nonnegative("lam", -1)
