"""Colours of the page, light and dark, with enough contrast to read every text."""

from __future__ import annotations

SERIES = 8
"""Number of colours of lines; further lines repeat them with another mark."""

LEVELS = 17
"""Steps between the palest and the fullest cell of a heat map."""

Palette = dict[str, str]

_LIGHT: Palette = {
    "paper": "#faf9f6", "card": "#ffffff", "ink": "#1d1f24", "soft": "#5a616b", "line": "#e4e2dc",
    "rule": "#8a8f98", "track": "#f0eee8", "clean": "#2a66c4", "attack": "#c9761c",
    "worst": "#bd3630", "good": "#217246", "warn": "#fdf1d8", "warn-ink": "#734600",
    "s0": "#2a66c4", "s1": "#c26410", "s2": "#2a8558", "s3": "#ad3a84", "s4": "#6a55c4",
    "s5": "#0f8490", "s6": "#86691b", "s7": "#5a616b",
    "raises": "#d9534b", "lowers": "#3f7fe0",
}  # fmt: skip
_DARK: Palette = {
    "paper": "#14161a", "card": "#1c1f25", "ink": "#e9eaec", "soft": "#a0a8b3", "line": "#30353e",
    "rule": "#727a86", "track": "#262a31", "clean": "#74a8f7", "attack": "#eba455",
    "worst": "#f37f77", "good": "#62c18d", "warn": "#352a14", "warn-ink": "#f2cd85",
    "s0": "#74a8f7", "s1": "#eba455", "s2": "#62c18d", "s3": "#e58ac4", "s4": "#a795f2",
    "s5": "#4fc3cf", "s6": "#d1b55a", "s7": "#a0a8b3",
    "raises": "#c8504a", "lowers": "#3f74c8",
}  # fmt: skip
_HEAT = {"light": ("#f4f2ec", "#1f4f9f"), "dark": ("#242932", "#a8caff")}
_INK, _PAPER = "#000000", "#ffffff"


def light() -> Palette:
    """CSS variables and their colours in the light theme, and on paper."""
    return {**_LIGHT, **_heat("light")}


def dark() -> Palette:
    """The same in the dark theme."""
    return {**_DARK, **_heat("dark")}


def blend(low: str, high: str, share: float) -> str:
    """The colour between ``low``, at 0, and ``high``, at 1.

    Example:
        >>> blend("#000000", "#ffffff", 0.5)
        '#808080'
    """
    ends = zip(_channels(low), _channels(high), strict=True)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in ends)


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2, from 1 to 21; text needs 4.5.

    Example:
        >>> contrast("#000000", "#ffffff")
        21.0
    """
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _heat(mode: str) -> Palette:
    """The colour of each level, and black or white for text on it, whichever has more contrast."""
    colours: Palette = {}
    for level in range(LEVELS):
        colour = blend(*_HEAT[mode], level / (LEVELS - 1))
        colours[f"h{level}"] = colour
        colours[f"on-h{level}"] = max((_INK, _PAPER), key=lambda text: contrast(text, colour))
    return colours


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (channel / 255 for channel in _channels(colour))
    ]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
