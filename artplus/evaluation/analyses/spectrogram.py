"""Sounds before and under attack: spectrograms side by side, and how loud the perturbation is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.section import Gallery, Picture, Section, Table

FLOOR = 80.0
"""Decibels below the loudest cell that are still drawn."""

TIMES = 192
"""Columns of a picture, about; more for a long sound, since windows overlap by at least 3/4."""


@register_analysis("spectrogram")
@dataclass(frozen=True, kw_only=True)
class Spectrogram(BaseAnalysis):
    r"""Spectrograms of the report's attacked examples, with the perturbation on the same scale.

    Power of the short-time Fourier transform with a Hann window, in decibels below the loudest
    cell of the clean sound. Two figures say how loud the perturbation :math:`\delta` is:

    .. math:: \mathrm{SNR} = 10 \log_{10} \frac{\sum x^2}{\sum \delta^2}, \qquad
              \mathrm{dB}_x(\delta) = 20 \log_{10} \frac{\max |\delta|}{\max |x|}

    the second as in [Carlini18]_: the more negative, the quieter.

    Args:
        n: Number of examples shown, the first of the report's gallery.
        window: Samples per window.
        rate: Samples per second, for the labels; ``None`` counts samples.

    Raises:
        ConfigurationError: for inputs that are not waveforms, ``(n, length)`` or
            ``(n, 1, length)`` of at least one window.

    References:
        .. [Carlini18] Carlini and Wagner, "Audio adversarial examples: targeted attacks on
           speech-to-text", 2018, https://arxiv.org/abs/1801.01944
    """

    name = "spectrogram"
    title = "Sounds before and under attack"
    needs = ()

    n: int = 3
    window: int = field(default=256, metadata={"least": 4})
    rate: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rate is not None:
            _checks.positive("rate", self.rate)

    def check(self, setting: Setting) -> None:
        shape = tuple(setting.data.x.shape[1:])
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[0] != 1):
            raise ConfigurationError(
                f"spectrogram needs waveforms (n, length) or (n, 1, length), got inputs {shape}"
            )
        if shape[-1] < self.window:
            raise ConfigurationError(
                f"spectrogram needs at least one window of {self.window} samples, inputs have "
                f"{shape[-1]}; a shorter one: Spectrogram(window=...)"
            )

    def __call__(self, subject: Subject) -> Section:
        kept = subject.report.examples
        if kept is None:
            return self.section("The report keeps no attacked examples: evaluate(..., examples=8).")
        length = kept.x.shape[-1]
        rows, gallery = [], []
        for k in range(len(kept)):
            x = torch.from_numpy(np.array(kept.x[k], dtype=np.float64)).reshape(-1)
            delta = torch.from_numpy(np.array(kept.x_adv[k], dtype=np.float64)).reshape(-1) - x
            loud = snr(x, delta), relative_loudness(x, delta)
            rows.append((int(kept.index[k]), kept.attack[k], *loud))
            if k < self.n:
                gallery.append(self._row(f"Example {int(kept.index[k])}", x, delta, loud[0]))
        middle = float(np.median([row[2] for row in rows]))
        seconds = "" if self.rate is None else f", 0 to {length / self.rate:.3g} s"
        hertz = "" if self.rate is None else f", 0 to {self.rate / 2:,.0f} Hz"
        return self.section(
            f"The perturbation is {wording.cell(middle, 'number')} dB below the sound, the median "
            f"over {wording.plural(len(rows), 'attacked example')}.",
            (
                Gallery(
                    rows=tuple(gallery),
                    caption=f"Time from left to right{seconds}, frequency upwards{hertz}; down to "
                    f"{FLOOR:g} dB below the loudest.",
                ),
                Table(
                    columns=("example", "attack", "SNR, dB", "loudness of the change, dB"),
                    units=("count", "text", "number", "number"),
                    rows=tuple(rows),
                    caption="Of the report's attacked examples.",
                ),
            ),
            figures={"median_snr_db": middle},
            notes=(f"Hann window of {self.window} samples, a step of {hop(length, self.window)}.",),
        )

    def _row(self, title: str, x: Tensor, delta: Tensor, ratio: float) -> tuple[Picture, ...]:
        loudest = float(power(x, self.window).max())
        parts = (
            (f"{title}, clean", x, ""),
            ("attacked", x + delta, ""),
            ("the change alone", delta, f"SNR {wording.cell(ratio, 'number')} dB"),
        )
        return tuple(
            Picture(
                title=name,
                text=text,
                image=decibels(power(sound, self.window), loudest),
                colours="heat",
            )
            for name, sound, text in parts
        )


def power(x: Tensor, window: int) -> Tensor:
    """Power of each frequency and time, ``(frequencies, times)``; a unit sine peaks at 1."""
    shape = torch.hann_window(window, dtype=x.dtype)
    spectrum = torch.stft(
        x, window, hop_length=hop(len(x), window), window=shape, center=False, return_complex=True
    )
    return (spectrum.abs() * 2 / shape.sum()) ** 2


def hop(length: int, window: int) -> int:
    """Samples from one window to the next."""
    return min(max(1, (length - window) // TIMES), max(1, window // 4))


def decibels(values: Tensor, loudest: float) -> NDArray[np.float32]:
    """Power as a picture, low frequencies at the bottom: 0 at the floor, 1 at ``loudest``."""
    relative = values / loudest if loudest > 0 else torch.zeros_like(values)
    level = 10 * torch.log10(relative.clamp_min(10 ** (-FLOOR / 10)))
    picture: NDArray[np.float32] = (1 + level / FLOOR).clamp(0, 1).flip(0).float().numpy()
    return picture


def snr(x: Tensor, delta: Tensor) -> float:
    """Signal-to-noise ratio in decibels; infinite without a perturbation.

    Example:
        >>> snr(torch.ones(4), torch.full((4,), 0.1))
        20.0
    """
    return _ratio(float(x.double().square().sum()), float(delta.double().square().sum()), 10)


def relative_loudness(x: Tensor, delta: Tensor) -> float:
    """Largest value of the perturbation against that of the sound, in decibels."""
    return -_ratio(float(x.double().abs().max()), float(delta.double().abs().max()), 20)


def _ratio(above: float, below: float, factor: float) -> float:
    if below == 0:
        return float("inf")
    return round(factor * float(np.log10(above / below)), 6) if above > 0 else float("-inf")
