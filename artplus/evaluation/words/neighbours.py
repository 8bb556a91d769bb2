"""Words near a word in a fixed embedding."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.evaluation.words.text_model import TextModel
from artplus.model import LossModel
from artplus.spaces import EmbeddingSpace


class Neighbours:
    """The nearest whole words of a token, by cosine.

    Args:
        model: Whose words these are, and whose ``embeddings`` say what is near.
        candidates: At most so many.
        similarity: At least so near.
    """

    def __init__(self, model: TextModel, candidates: int, similarity: float) -> None:
        self.model, self.candidates, self.similarity = model, candidates, similarity
        self._near: dict[int, list[tuple[int, str]]] = {}

    def of(self, number: int, word: str) -> list[tuple[int, str]]:
        """Ids and words near token ``number``, the nearest first, spelt as ``word`` is.

        Example: of "Card" they are capitalised.
        """
        if number not in self._near:
            self._near[number] = self._nearest(number)
        spelt = [(other, _like(text, word)) for other, text in self._near[number]]
        return [(other, text) for other, text in spelt if text.lower() != word.lower()]

    def vectors(self, ids: Tensor) -> Tensor:
        """Embeddings of the judged model, ``(ids, dimension)``, as its embedding puts them out."""
        with torch.no_grad():
            rows: Tensor = self.model.embedding(ids.to(self.model.device))
        return rows.float()

    @cached_property
    def _ids(self) -> Tensor:
        return torch.tensor(sorted(self.model.whole_words), dtype=torch.long)

    @cached_property
    def _rows(self) -> Tensor:
        """Unit rows of the fixed embedding for each whole word; zeros for a word without one."""
        words = self.model.whole_words
        source = self.model.embeddings
        if isinstance(source, Mapping):
            rows = _rows_of_words(source, [words[k] for k in self._ids.tolist()])
        else:
            rows = _rows_of_ids(self.model if source is None else source, self._ids)
        return nn.functional.normalize(rows.float().cpu(), dim=1)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {number: k for k, number in enumerate(self._ids.tolist())}

    def _nearest(self, number: int) -> list[tuple[int, str]]:
        place = self._places.get(number)
        if place is None:
            return []
        cosines = self._rows @ self._rows[place]
        cosines[place] = -torch.inf
        values, order = cosines.topk(min(self.candidates, len(cosines)))
        near = self._ids[order[values >= self.similarity]].tolist()
        return [(other, self.model.whole_words[other]) for other in near]


def _rows_of_ids(source: Any, ids: Tensor) -> Tensor:
    """Rows of a matrix, or of the embedding of a model."""
    if isinstance(source, Tensor):
        if source.ndim != 2 or len(source) <= int(ids.max()):
            raise ConfigurationError(
                f"embeddings is a matrix with a row for each token id, up to {int(ids.max())}; got "
                f"shape {tuple(source.shape)}"
            )
        return source.detach()[ids.to(source.device)]
    if isinstance(source, TextModel):
        layer: nn.Module = source.embedding
    else:
        module = source.module if isinstance(source, LossModel) else source
        if not isinstance(module, nn.Module):
            raise ConfigurationError(
                "embeddings is a model, a matrix with a row for each token id, or a mapping from "
                f"words to vectors; got {type(source).__name__}"
            )
        (layer,) = EmbeddingSpace().sites(module)
    device = next((p.device for p in layer.parameters()), torch.device("cpu"))
    with torch.no_grad():
        rows: Tensor = layer(ids.to(device))
    return rows


def _rows_of_words(vectors: Mapping[str, Any], words: list[str]) -> Tensor:
    """A row for each word: its vector, or zeros if it has none."""
    known = {k: vectors[key] for k, word in enumerate(words)
             for key in (word.lower(), word) if key in vectors}  # fmt: skip
    if not known:
        raise ConfigurationError(
            "embeddings has a vector for none of the model's words; are its keys words?"
        )
    rows = {k: torch.as_tensor(vector, dtype=torch.float32) for k, vector in known.items()}
    zero = torch.zeros_like(next(iter(rows.values())))
    return torch.stack([rows.get(k, zero) for k in range(len(words))])


def _like(text: str, word: str) -> str:
    """A text in the case of a word."""
    if len(word) > 1 and word.isupper():
        return text.upper()
    return text.capitalize() if word[:1].isupper() else text
