"""What an attack on texts is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from artplus.evaluation.words.text_model import TextModel


@dataclass(frozen=True)
class Attempt:
    """What an attack made of one text.

    Attributes:
        text: The text that it found; the original one if it found none.
        queries: Texts that the model was asked about, gradients included.
    """

    text: str
    queries: int


@runtime_checkable
class TextAttack(Protocol):
    """Frozen settings that look for a text which the model gets wrong."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def run(
        self, model: TextModel, texts: Sequence[str], labels: Sequence[int], *, seed: int
    ) -> list[Attempt]:
        """An attempt for each text.

        Args:
            model: Predicts texts; in evaluation mode, its parameters frozen.
            texts: Those that the model gets right.
            labels: Their true classes.
            seed: Of every random draw.
        """
        ...
