"""The losses of the field against closed forms and torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from artplus import functional as f

seeds = st.integers(0, 10_000)


def batch(seed: int, classes: int = 5, n: int = 6, scale: float = 3.0):
    """Random float64 logits, other logits and labels."""
    g = torch.Generator().manual_seed(seed)
    z, w = scale * torch.randn(2, n, classes, generator=g, dtype=torch.float64)
    return z, w, torch.randint(classes, (n,), generator=g)


@given(seeds, st.integers(2, 7))
def test_kl_is_the_divergence_of_categoricals(seed, classes):
    """KL(p || q) as torch.distributions has it, zero at p = q, positive elsewhere."""
    z, w, _ = batch(seed, classes)
    expected = kl_divergence(Categorical(logits=z), Categorical(logits=w))
    torch.testing.assert_close(f.kl(z, w), expected)
    assert bool((f.kl(z, w) > 0).all())
    torch.testing.assert_close(f.kl(z, z), torch.zeros(6, dtype=torch.float64))


def test_kl_is_differentiated_in_both_arguments():
    """Both predictions learn: the gradient is that of finite differences on either side."""
    z, w, _ = batch(1)
    z.requires_grad_(True)
    w.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: f.kl(a, b).sum(), (z, w))


def test_kl_has_its_gradient_where_a_probability_underflows():
    """q puts e^-200 on p's class: the divergence is 200, its slope there -1, in float32."""
    p = torch.tensor([[200.0, 0.0]])
    q = torch.tensor([[0.0, 200.0]], requires_grad=True)
    value = f.kl(p, q)
    assert value.item() == pytest.approx(200.0)
    (slope,) = torch.autograd.grad(value.sum(), q)
    torch.testing.assert_close(slope, torch.tensor([[-1.0, 1.0]]))


@given(seeds)
def test_cross_entropy_is_minus_the_log_probability(seed):
    """Class numbers, one-hot rows and soft rows."""
    z, w, y = batch(seed)
    log_p = Categorical(logits=z).logits
    torch.testing.assert_close(f.cross_entropy(z, y), -log_p[torch.arange(6), y])
    rows = w.softmax(1)
    torch.testing.assert_close(f.cross_entropy(z, rows), -(rows * log_p).sum(1))


@given(seeds, st.integers(2, 7))
def test_margin_is_positive_exactly_where_the_model_errs(seed, classes):
    """Its sign is misclassification, its size the gap to the nearest other class."""
    z, _, y = batch(seed, classes)
    margins = f.margin(z, y)
    assert torch.equal(margins > 0, z.argmax(1) != y)
    for i in range(6):
        others = [z[i, k].item() for k in range(classes) if k != y[i]]
        assert margins[i].item() == pytest.approx(max(others) - z[i, y[i]].item())
    rows = torch.nn.functional.one_hot(y, classes).double()
    assert torch.equal(f.margin(z, rows), margins)


@given(seeds, st.floats(0.01, 100), st.floats(-50, 50))
def test_dlr_ignores_scale_and_shift_of_the_logits(seed, scale, shift):
    """Temperature and offset cannot mask it."""
    z, _, y = batch(seed)
    torch.testing.assert_close(f.dlr(scale * z + shift, y), f.dlr(z, y), rtol=1e-6, atol=1e-8)
    target = (y + 1) % 5
    torch.testing.assert_close(
        f.targeted_dlr(scale * z + shift, y, target),
        f.targeted_dlr(z, y, target),
        rtol=1e-6,
        atol=1e-8,
    )


def test_dlr_by_hand():
    """-(z_y - max other) / (z_1st - z_3rd), for a right and a wrong prediction."""
    z = torch.tensor([[4.0, 1.0, 3.0, 0.0], [4.0, 1.0, 3.0, 0.0]])
    torch.testing.assert_close(f.dlr(z, torch.tensor([0, 1])), torch.tensor([-1 / 3, 1.0]))


def test_targeted_dlr_by_hand():
    """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2)."""
    z = torch.tensor([[4.0, 1.0, 3.0, 0.0]])
    got = f.targeted_dlr(z, torch.tensor([0]), torch.tensor([3]))
    torch.testing.assert_close(got, torch.tensor([-4 / 3.5]))
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(f.targeted_dlr(z, rows, torch.tensor([3])), got)


@given(seeds)
def test_squared_gaps_by_hand(seed):
    """Sums of squares over classes; the probability gap lies in [0, 2]."""
    z, w, _ = batch(seed)
    torch.testing.assert_close(
        f.mean_squared_logit_gap(z, w), (z - w).norm(dim=1) ** 2 / z.shape[1]
    )
    p, q = Categorical(logits=z).probs, Categorical(logits=w).probs
    gap = f.squared_probability_gap(z, w)
    torch.testing.assert_close(gap, (p - q).norm(dim=1) ** 2)
    assert bool((gap <= 2).all())


def test_the_probability_gap_reaches_two():
    """Two certain, different predictions are as far apart as can be."""
    z = torch.tensor([[1e4, 0.0, 0.0]])
    assert f.squared_probability_gap(z, z.roll(1, 1)).item() == pytest.approx(2.0)


def pairs(name: str):
    """The loss as a function of two batches of logits."""
    y, target = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 3])
    return {
        "cross_entropy": lambda z, w: f.cross_entropy(z, y),
        "kl": f.kl,
        "margin": lambda z, w: f.margin(z, y),
        "dlr": lambda z, w: f.dlr(z, y),
        "targeted_dlr": lambda z, w: f.targeted_dlr(z, y, target),
        "squared_probability_gap": f.squared_probability_gap,
        "mean_squared_logit_gap": f.mean_squared_logit_gap,
    }[name]


@pytest.mark.parametrize(
    "name",
    [
        "cross_entropy",
        "kl",
        "margin",
        "dlr",
        "targeted_dlr",
        "squared_probability_gap",
        "mean_squared_logit_gap",
    ],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_no_nan_at_any_scale(name, scale):
    """From all-equal logits to extreme ones: finite values and gradients, (batch,) shaped."""
    z, w = (scale * torch.randn(2, 3, 5)).unbind()
    z.requires_grad_(True)
    values = pairs(name)(z, w)
    assert values.shape == (3,) and bool(torch.isfinite(values).all())
    (slope,) = torch.autograd.grad(values.sum(), z)
    assert bool(torch.isfinite(slope).all())


@given(seeds, st.floats(0, 0.99), st.integers(2, 7))
def test_smoothed_labels_are_distributions(seed, smoothing, classes):
    """Rows sum to one; the loss on them is the mix of the loss on the label and on the uniform."""
    z, _, y = batch(seed, classes)
    rows = f.smooth_labels(y, classes, smoothing)
    assert rows.shape == (6, classes) and rows.dtype == torch.float32
    torch.testing.assert_close(rows.sum(1), torch.ones(6))
    torch.testing.assert_close(
        f.cross_entropy(z, rows.double()),
        torch.nn.functional.cross_entropy(z, y, label_smoothing=smoothing, reduction="none"),
        rtol=1e-5,
        atol=1e-6,
    )


def test_smoothing_takes_rows_and_small_integers():
    """Rows are smoothed as they are; labels of any whole type are class numbers."""
    rows = torch.tensor([[0.5, 0.5, 0.0, 0.0]])
    expected = torch.tensor([[0.45, 0.45, 0.05, 0.05]])
    torch.testing.assert_close(f.smooth_labels(rows, 4, 0.2), expected)
    y = torch.tensor([2], dtype=torch.uint8)
    assert f.smooth_labels(y, 3, 0.0).tolist() == [[0.0, 0.0, 1.0]]


def test_class_index_of_numbers_and_rows():
    """Numbers stay, rows give their largest entry."""
    y = torch.tensor([2, 0])
    assert f.class_index(y) is y
    assert f.class_index(torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.4, 0.0]])).tolist() == [2, 0]


def test_cross_entropy_of_the_uniform_is_log_c():
    """A clueless model pays ln C."""
    got = f.cross_entropy(torch.zeros(1, 10), torch.tensor([3]))
    assert got.item() == pytest.approx(math.log(10))


def test_another_class_is_any_but_the_own():
    """Drawn uniformly from the classes beside the true one, the same for the same seed."""
    y = torch.arange(5).repeat(400)
    drawn = f.other_class(y, 5, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, f.other_class(y, 5, torch.Generator().manual_seed(0)))
    counts = torch.zeros(5, 5).index_put_((y, drawn), torch.ones(2000), accumulate=True)
    assert counts.diagonal().sum() == 0 and counts[~torch.eye(5, dtype=bool)].min() > 60
    rows = torch.nn.functional.one_hot(y, 5).float()
    assert torch.equal(drawn, f.other_class(rows, 5, torch.Generator().manual_seed(0)))


def test_probabilities_are_not_softened_twice():
    """Logits become their softmax; what sums to one and is not negative stays."""
    logits = torch.randn(6, 4)
    shares = logits.softmax(1)
    assert torch.equal(f.probabilities(logits), shares) and torch.equal(
        f.probabilities(shares), shares
    )
    assert f.are_probabilities(shares) and not f.are_probabilities(logits)
    assert not f.are_probabilities(torch.tensor([[1.5, -0.5]]))
