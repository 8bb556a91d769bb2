"""Corruptions do what they are called, in the inputs' own units, at the published constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.evaluation.analyses import Corruptions
from artplus.evaluation.analyses import _corrupt as corrupt
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.evaluation.analyses.subjects import (
    BOX,
    curve,
    inside,
    labelled,
    linear,
    looked,
    section,
    table,
)

DRAW = torch.Generator


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


GREY = torch.full((1, 1, 200, 200), 0.5)


def test_gaussian_noise_has_its_deviation() -> None:
    """Mean zero, standard deviation as asked, cut at the range."""
    noisy = corrupt.gaussian_noise(GREY, 0.1, draw())
    assert float((noisy - GREY).mean()) == pytest.approx(0, abs=2e-3)
    assert float((noisy - GREY).std()) == pytest.approx(0.1, rel=0.02)
    assert float(corrupt.gaussian_noise(GREY, 10.0, draw()).max()) == 1.0


def test_shot_noise_is_poisson() -> None:
    """The variance of x counted in photons is x over their number, and black stays black."""
    noisy = corrupt.shot_noise(GREY, 100.0, draw())
    assert float(noisy.var()) == pytest.approx(0.5 / 100, rel=0.05)
    assert not corrupt.shot_noise(torch.zeros(1, 4), 5.0, draw()).any()


def test_impulse_noise_salts_and_peppers() -> None:
    """A share of values becomes 0 or 1 in equal parts; the rest is untouched."""
    noisy = corrupt.impulse_noise(GREY, 0.2, draw())
    assert float((noisy == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((noisy == 1).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}


def test_speckle_noise_scales_with_the_value() -> None:
    """Half the value, half the noise."""
    dark = corrupt.speckle_noise(GREY / 2, 0.2, draw()) - GREY / 2
    light = corrupt.speckle_noise(GREY, 0.2, draw()) - GREY
    assert torch.allclose(2 * dark, light, atol=1e-6)
    assert float(light.std()) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_blur_is_scipys(sigma: float) -> None:
    """The same as scipy's filter with the edge repeated, channel by channel."""
    x = torch.rand(2, 3, 30, 24)
    expected = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="nearest", truncate=4)
    found = corrupt.gaussian_blur(x, sigma, draw())
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_contrast_keeps_the_mean_and_shrinks_the_spread() -> None:
    """Each channel's deviations are multiplied."""
    x = 0.3 + 0.4 * torch.rand(2, 3, 8, 8)
    found = corrupt.contrast(x, 0.3, draw())
    assert torch.allclose(found.mean((2, 3)), x.mean((2, 3)), atol=1e-6)
    assert torch.allclose(found.std((2, 3)), 0.3 * x.std((2, 3)), atol=1e-6)


def test_brightness_is_the_value_of_hsv() -> None:
    """As matplotlib converts: hue and saturation stay, the value rises; black turns grey."""
    from matplotlib.colors import hsv_to_rgb, rgb_to_hsv

    x = torch.rand(2, 3, 5, 5)
    x[0, :, 0, 0] = 0
    hsv = rgb_to_hsv(x.numpy().transpose(0, 2, 3, 1))
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.2, 0, 1)
    expected = hsv_to_rgb(hsv).transpose(0, 3, 1, 2)
    assert np.allclose(corrupt.brightness(x, 0.2, draw()).numpy(), expected, atol=1e-5)
    grey = torch.rand(1, 1, 4, 4)
    assert torch.allclose(corrupt.brightness(grey, 0.2, draw()), (grey + 0.2).clamp(0, 1))


def test_pixelate_makes_blocks() -> None:
    """At half the size each block of four has one value: its mean."""
    x = torch.rand(1, 1, 8, 8)
    found = corrupt.pixelate(x, 0.5, draw())
    blocks = x.unfold(2, 2, 2).unfold(3, 2, 2).mean((4, 5))
    assert torch.allclose(found, blocks.repeat_interleave(2, 2).repeat_interleave(2, 3))


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_lossy_and_near(channels: int) -> None:
    """A smooth picture survives good quality, and less well a bad one."""
    pytest.importorskip("PIL")
    ramp = torch.linspace(0, 1, 16).expand(16, 16).repeat(2, channels, 1, 1).clone()
    good, bad = (corrupt.jpeg(ramp, quality, draw()) for quality in (90, 5))
    assert good.shape == ramp.shape
    assert float((good - ramp).abs().mean()) < 0.02 < float((bad - ramp).abs().mean())


@pytest.mark.parametrize("name", sorted(corrupt.CORRUPTIONS))
def test_every_kind_stays_in_range_and_hurts_more_with_severity(name: str) -> None:
    """In [0, 1], the shape kept, and severity 5 farther from the original than severity 1."""
    x = torch.rand(2, 3, 24, 24)
    kind = corrupt.CORRUPTIONS[name]
    for constants in (kind.small, kind.large):
        damaged = [kind.apply(x, constant, draw()) for constant in constants]
        assert all(d.shape == x.shape and d.min() >= 0 and d.max() <= 1 for d in damaged)
        assert (damaged[4] - x).square().mean() > (damaged[0] - x).square().mean()


def test_constants_follow_the_size() -> None:
    """CIFAR-10-C's for small images and for what is none, ImageNet-C's for large ones."""
    noise = corrupt.CORRUPTIONS["gaussian_noise"]
    assert noise.constants((3, 32, 32)) == noise.small == noise.constants((500,))
    assert noise.constants((3, 224, 224)) == noise.large


def test_kinds_by_shape() -> None:
    """Noise is for everything; blur and light need images; JPEG grey or colours."""
    assert corrupt.applicable((7,)) == [
        "gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"
    ]  # fmt: skip
    assert "gaussian_blur" in corrupt.applicable((2, 8, 8))
    assert "jpeg" not in corrupt.applicable((2, 8, 8))


class Threshold(nn.Module):
    """Right on 0 while the mean feature is below a third of the range, on 1 above."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: Tensor) -> Tensor:
        unit = (x - self.low) / (self.high - self.low)
        z = unit.flatten(1).mean(1) - 1 / 3
        return torch.stack([-z, z], 1)


def test_units_are_the_inputs_own() -> None:
    """The same pictures in 0-255 are corrupted alike: same accuracies to the last."""
    x = 0.25 + 0.1 * torch.rand(30, 1, 8, 8)
    y = torch.zeros(30, dtype=torch.long)
    kinds = ["brightness", "contrast", "impulse_noise"]
    unit = section(Threshold(0, 1), x, y, Corruptions(kinds=kinds), eps=0.01)
    bytes_ = section(Threshold(0, 255), 255 * x, y, Corruptions(kinds=kinds), eps=2.55,
                     space=InputSpace(0.0, 255.0))  # fmt: skip
    assert table(unit).rows == table(bytes_).rows
    line = curve(unit, "brightness")
    assert line.x == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    # The mean is about 0.3: plus 0.05 it is above a third.
    assert line.y[0] == 1.0 and line.y[-1] == 0.0


def test_means_and_errors_by_hand() -> None:
    """The mean error is over kinds and severities; against a model before, errors are ratios."""
    net, x = linear(), inside(50)
    y = labelled(net, x, wrong=5)
    other = linear(seed=1)
    found = section(net, x, y, Corruptions(severities=(1, 5)), before=LossModel(other))
    before, after = ({row[0]: row for row in table(found, k).rows} for k in (0, 1))
    errors = {k: 1 - np.mean(row[1:3]) for k, row in after.items()}
    assert [row[3] for row in after.values()] == pytest.approx([1 - e for e in errors.values()])
    figures = dict(found.figures)
    assert figures["mean_error"] == pytest.approx(np.mean(list(errors.values())))
    ratios = [errors[k] / (1 - np.mean(before[k][1:3])) for k in errors]
    assert figures["relative_corruption_error"] == pytest.approx(np.mean(ratios))


def test_masked_features_stay() -> None:
    """What must not change is not corrupted either."""
    x = torch.full((20, 4), 0.5)
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x[:, :2]

    space = InputSpace(0.0, 1.0, torch.tensor([0.0, 1.0, 1.0, 1.0]))
    section(Spy(), x, torch.zeros(20, dtype=torch.long), Corruptions(), space=space)
    assert all((batch[:, 0] == 0.5).all() for batch in seen)
    assert any((batch[:, 1] != 0.5).any() for batch in seen)


def test_refusals() -> None:
    """No range, unknown kinds, kinds that do not apply, severities that do not exist."""
    net, x = linear(), inside(5)
    y = labelled(net, x)
    with pytest.raises(ConfigurationError, match="needs the range of valid inputs"):
        looked(net, x, y, Corruptions(), space=InputSpace())
    with pytest.raises(ConfigurationError, match="kinds are gaussian_noise.*got fog"):
        Corruptions(kinds=["fog"])
    with pytest.raises(ConfigurationError, match="jpeg cannot be applied to inputs of shape .12,"):
        looked(net, x, y, Corruptions(kinds=["jpeg"]))
    for severities in ((0,), (6,), (2, 1), ()):
        with pytest.raises(ConfigurationError, match="severities must be"):
            Corruptions(severities=severities)
    assert BOX.width() == 1.0
