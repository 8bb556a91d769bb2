"""Norm balls: what steepest, random and the way back in must satisfy, whatever the tensor."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from artplus.errors import ConfigurationError
from artplus.geometry import clip, geometry, rescale
from artplus.spaces import InputSpace

NORMS = [math.inf, 2.0, 1.0]
DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}
SHAPES = [(1,), (5,), (3, 4), (2, 3, 3)]

norms = st.sampled_from(NORMS)
shapes = st.sampled_from(SHAPES)
radii = st.floats(1e-3, 10.0)
seeds = st.integers(0, 10_000)


def draw(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((4, *shape), generator=generator) * scale


def lengths(delta: Tensor, norm: float) -> Tensor:
    return torch.linalg.vector_norm(delta.flatten(1), norm, dim=1)


@given(norms, shapes, seeds)
def test_length_is_the_norm_of_each_example(norm, shape, seed) -> None:
    """Lengths are torch's vector norms over everything but the batch axis."""
    delta = draw(shape, seed)
    torch.testing.assert_close(geometry(norm).length(delta), lengths(delta, norm))


@given(norms, shapes, seeds, st.sampled_from([1e-40, 1e-30, 1e-6, 1.0, 1e25]))
def test_steepest_has_unit_length_and_attains_the_dual_norm(norm, shape, seed, scale) -> None:
    """<g, d> = |g|_dual over |d| <= 1, for gradients as small and as large as floats go."""
    gradient = draw(shape, seed, scale)
    step = geometry(norm).steepest(gradient)
    torch.testing.assert_close(lengths(step, norm), torch.ones(4), atol=1e-4, rtol=0)
    gain = (gradient.double() * step.double()).flatten(1).sum(1)
    # Below 1e-37 floats are denormal and hold few digits.
    rtol = 1e-4 if scale > 1e-37 else 1e-2
    torch.testing.assert_close(gain, lengths(gradient.double(), DUAL[norm]), rtol=rtol, atol=0.0)


@pytest.mark.parametrize("norm", NORMS)
def test_steepest_of_a_zero_gradient_is_zero(norm: float) -> None:
    """Where nothing can be gained, nothing moves, and nothing is NaN."""
    assert torch.equal(geometry(norm).steepest(torch.zeros(2, 3)), torch.zeros(2, 3))


@given(norms, shapes, radii, seeds)
def test_random_lies_in_the_ball(norm, shape, eps, seed) -> None:
    """Every draw has at most length eps, and draws differ between examples."""
    generator = torch.Generator().manual_seed(seed)
    delta = geometry(norm).random(torch.zeros(50, *shape), eps, generator)
    assert (lengths(delta, norm) <= eps * (1 + 1e-5)).all()
    assert len(delta.flatten(1).unique(dim=0)) > 40


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("d", [1, 3])
def test_random_is_uniform_in_the_ball(norm: float, d: int) -> None:
    """In d dimensions (length / eps) ** d is uniform on [0, 1], and directions average out."""
    generator = torch.Generator().manual_seed(0)
    delta = geometry(norm).random(torch.zeros(8000, d), 0.7, generator)
    share = (lengths(delta, norm) / 0.7) ** d
    quantiles = torch.quantile(share, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    torch.testing.assert_close(
        quantiles, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]), atol=0.02, rtol=0
    )
    assert delta.mean(0).abs().max() < 0.02


@pytest.mark.parametrize("norm", NORMS)
def test_random_follows_its_generator(norm: float) -> None:
    """The same generator state gives the same draw; the global stream is not touched."""
    x = torch.zeros(3, 4)
    before = torch.get_rng_state()
    first, second = (
        geometry(norm).random(x, 1.0, torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


@given(norms, shapes, radii, seeds, st.booleans())
def test_the_way_back_ends_in_ball_and_box_and_stays(norm, shape, eps, seed, bounded) -> None:
    """Retraction lands in the ball and the box; what lies in both it leaves alone."""
    space = InputSpace(0.0, 1.0) if bounded else InputSpace()
    x = clip(draw(shape, seed) * 0.3 + 0.5, space)
    retract = geometry(norm).retraction(x, eps, space)
    z = retract(x + draw(shape, seed + 1, 3 * eps))
    assert (lengths(z - x, norm) <= eps * (1 + 1e-4) + 1e-6).all()
    if bounded:
        assert z.min() >= 0 and z.max() <= 1
    torch.testing.assert_close(retract(z), z, atol=1e-5 * max(1.0, eps), rtol=0)
    torch.testing.assert_close(retract(x), x, atol=1e-6, rtol=0)


@given(shapes, radii, seeds)
def test_in_l2_and_linf_the_way_back_is_the_nearest_point(shape, eps, seed) -> None:
    """Without a box no point of the ball is nearer than the retraction."""
    x, away = draw(shape, seed), draw(shape, seed + 1, 2 * eps)
    for norm in (2.0, math.inf):
        z = geometry(norm).retraction(x, eps, InputSpace())(x + away)
        nearest = lengths(x + away - z, 2)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(5):
            other = x + geometry(norm).random(x, eps, generator)
            assert (nearest <= lengths(x + away - other, 2) + 1e-4 * eps).all()


@given(norms, shapes, seeds)
def test_radius_zero_goes_back_to_x(norm, shape, seed) -> None:
    """In the ball of radius 0 there is x, exactly."""
    x = draw(shape, seed)
    assert torch.equal(geometry(norm).retraction(x, 0.0, InputSpace())(x + 1), x)


def test_radii_may_differ_by_feature_in_linf_and_by_example_everywhere() -> None:
    """Tensors of radii are broadcast over the perturbation."""
    x = torch.zeros(2, 3)
    per_feature = torch.tensor([0.1, 0.0, 0.5])
    z = geometry("inf").retraction(x, per_feature, InputSpace())(x + 1)
    assert torch.equal(z, per_feature.expand(2, 3))
    for norm in NORMS:
        per_example = torch.tensor([[0.5], [2.0]])
        z = geometry(norm).retraction(x, per_example, InputSpace())(x + 9)
        torch.testing.assert_close(lengths(z, norm), per_example.squeeze(1))


def test_rescale_shortens_only_what_is_longer() -> None:
    """Inside the ball rescaling is the identity; outside it keeps the direction."""
    delta = torch.tensor([[0.3, 0.4], [3.0, 4.0], [0.0, 0.0]])
    expected = torch.tensor([[0.3, 0.4], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(rescale(geometry(2), delta, 1.0), expected)


@pytest.mark.parametrize("norm", ["inf", math.inf, "2", 2, 1, 1.0])
def test_norms_by_number_or_word(norm) -> None:
    """``"inf"`` and numbers name the three geometries."""
    assert geometry(norm).order == float(norm)


@pytest.mark.parametrize("norm", [0, 3, "linf", None, math.nan])
def test_other_norms_are_refused(norm) -> None:
    """The message lists the known ones."""
    with pytest.raises(ConfigurationError, match=r"norm must be numpy.inf .* 2 or 1, got"):
        geometry(norm)


def test_clip_takes_bounds_per_feature_or_none() -> None:
    """Each bound may be missing, a number or a tensor over one input."""
    z = torch.tensor([[-2.0, 0.5, 3.0]])
    assert torch.equal(clip(z, InputSpace()), z)
    assert torch.equal(clip(z, InputSpace(low=0.0)), torch.tensor([[0.0, 0.5, 3.0]]))
    high = torch.tensor([1.0, 0.2, 2.0])
    assert torch.equal(clip(z, InputSpace(high=high)), torch.tensor([[-2.0, 0.2, 2.0]]))
