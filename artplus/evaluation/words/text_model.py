"""A model asked about texts: tokenised, batched by length, with gradients at the embedding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from artplus import modes
from artplus.errors import ConfigurationError
from artplus.functional import margin
from artplus.model import LossModel, device_of
from artplus.spaces import EmbeddingSpace
from artplus.spaces.hidden import Perturbed, attached
from artplus.tree import Tree

Encoding = dict[str, Tensor]
"""Columns of one text, each ``(length,)``; ids that a tokenizer returns alone are column ``""``."""

_MARKERS = ("Ġ", "▁")
"""How byte-level and SentencePiece vocabularies mark the start of a word."""


@dataclass(frozen=True)
class Gradient:
    """The margin of one text, differentiated at the output of the embedding.

    Attributes:
        ids: ``(length,)`` token ids.
        grads: ``(length, dimension)``.
    """

    ids: Tensor
    grads: Tensor


@dataclass(frozen=True, eq=False)
class TextModel:
    """A classifier of texts.

    Texts of one length in tokens form a batch, so nothing is padded and an answer does not depend
    on the other texts. What the tokenizer itself pads stays padded.

    Attributes:
        model: Of what the tokenizer returns: token ids, or a mapping with ``"input_ids"``.
        tokenizer: Hugging Face's, or a function from a text to ids or to such a mapping; a
            ``functools.partial`` of one sets its options.
        embeddings: Of which model, or which word vectors, neighbours are; ``None`` is this model.
        vocabulary: Whole words and their ids; ``None`` asks a Hugging Face tokenizer.
        batch_size: Texts at a time.
        layer: Name of the embedding in the module, as in
            :class:`~artplus.spaces.EmbeddingSpace`.
    """

    model: LossModel
    tokenizer: Callable[..., Any]
    embeddings: Any = None
    vocabulary: Mapping[str, int] | None = None
    batch_size: int = 64
    layer: str | None = None

    @cached_property
    def device(self) -> torch.device:
        """Where the model is."""
        return device_of(self.model.module)

    @cached_property
    def space(self) -> EmbeddingSpace:
        """The output of the embedding."""
        return EmbeddingSpace(layer=self.layer)

    @cached_property
    def embedding(self) -> nn.Module:
        """The embedding of the module."""
        (site,) = self.space.sites(self.model.module)
        return site

    @contextmanager
    def attacked(self) -> Iterator[None]:
        """Evaluation mode and frozen parameters inside; afterwards as before."""
        with ExitStack() as stack:
            stack.enter_context(modes.attack_mode(self.model.module))
            stack.enter_context(modes.frozen(self.model.module))
            yield

    def logits(self, texts: Sequence[str]) -> Tensor:
        """Logits ``(texts, classes)`` in float32 on the CPU; NaN for a text without a token."""
        rows: dict[int, Tensor] = {}
        with torch.no_grad():
            for index, inputs in self._batches(self.encode(texts)):
                predictions = self._scores(inputs)
                rows.update(zip(index, predictions.float().cpu(), strict=True))
        classes = len(next(iter(rows.values()))) if rows else 1
        unknown = torch.full((classes,), torch.nan)
        return torch.stack([rows.get(k, unknown) for k in range(len(texts))] or [unknown])[
            : len(texts)
        ]

    def margins(self, texts: Sequence[str], labels: Sequence[int]) -> Tensor:
        """Largest other logit less the true one, ``(texts,)``: positive where the model errs."""
        if not texts:
            return torch.zeros(0)
        return margin(self.logits(texts), torch.as_tensor(labels))

    def gradients(self, encodings: Sequence[Encoding], labels: Sequence[int]) -> list[Gradient]:
        """Of the margin at the output of the embedding, for each text."""
        grads: dict[int, Gradient] = {}
        true = torch.as_tensor(labels)
        with attached(self.model.module, self.space), torch.enable_grad():
            for index, inputs in self._batches(encodings):
                delta = self.space.lift(self.model, inputs).requires_grad_(True)
                logits = self._scores(Perturbed(inputs, delta, self.space))
                margins = margin(logits, true[index].to(logits.device))
                (found,) = torch.autograd.grad(margins.sum(), delta)
                for k, row in zip(index, found, strict=True):
                    grads[k] = Gradient(ids_of(encodings[k]), row)
        return [grads[k] for k in range(len(encodings))]

    def encode(self, texts: Sequence[str], *, offsets: bool = False) -> list[Encoding]:
        """The columns of each text, with ``"offset_mapping"`` if wanted and known."""
        if not texts:
            return []
        if not self._hugging_face:
            return [_columns(self.tokenizer(text)) for text in texts]
        options: dict[str, Any] = {}
        if getattr(self.base, "model_max_length", 1e30) < 1e6:
            options["truncation"] = True
        if offsets and getattr(self.base, "is_fast", False):
            options["return_offsets_mapping"] = True
        given = self.tokenizer.keywords if isinstance(self.tokenizer, partial) else {}
        columns = self.tokenizer(list(texts), **{**options, **given})
        return [
            {name: torch.as_tensor(values[k]) for name, values in columns.items()}
            for k in range(len(texts))
        ]

    @cached_property
    def whole_words(self) -> dict[int, str]:
        """Ids that are a word of letters by themselves, and the word.

        Raises:
            ConfigurationError: if neither a vocabulary is given nor the tokenizer has one.
        """
        known = self.vocabulary
        if known is None and callable(getattr(self.base, "get_vocab", None)):
            known = self.base.get_vocab()
        if known is None:
            raise ConfigurationError(
                "replacing words needs to know the model's words: give vocabulary={word: id}, or "
                "a tokenizer with get_vocab(), as those of transformers have"
            )
        special = set(getattr(self.base, "all_special_ids", ()))
        marker = next((m for m in _MARKERS if sum(t.startswith(m) for t in known) > 1), None)
        words = {}
        for token, number in known.items():
            if marker is not None:
                if not token.startswith(marker):
                    continue
                token = token[len(marker) :]
            whole = token.isalpha() and len(token) > 1 and (marker != "Ġ" or token.isascii())
            if whole and number not in special:
                words[int(number)] = token
        return words

    @cached_property
    def ids(self) -> dict[str, int]:
        """Whole words and their ids."""
        return {word: number for number, word in self.whole_words.items()}

    @cached_property
    def base(self) -> Any:
        """The tokenizer without options."""
        base: Any = self.tokenizer
        while isinstance(base, partial):
            base = base.func
        return base

    @property
    def _hugging_face(self) -> bool:
        return hasattr(self.base, "convert_ids_to_tokens")

    def _scores(self, batch: Tree) -> Tensor:
        """Logits ``(batch, classes)``."""
        scores = self.model(batch)
        if not isinstance(scores, Tensor) or scores.ndim != 2:
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
            raise ConfigurationError(
                f"attacks on texts need a classifier with logits (batch, classes), got {shape}"
            )
        return scores

    def _batches(self, encodings: Sequence[Encoding]) -> Iterator[tuple[list[int], Tree]]:
        lengths: dict[int, list[int]] = defaultdict(list)
        for k, encoding in enumerate(encodings):
            lengths[len(ids_of(encoding))].append(k)
        for length, places in lengths.items():
            if length == 0:
                continue
            for start in range(0, len(places), self.batch_size):
                index = places[start : start + self.batch_size]
                columns: dict[str, Tree] = {
                    name: torch.stack([encodings[k][name] for k in index]).to(self.device)
                    for name in encodings[index[0]]
                    if name != "offset_mapping"
                }
                yield index, columns.get("", columns)


def ids_of(encoding: Encoding) -> Tensor:
    """The token ids of a text, ``(length,)``."""
    return encoding["input_ids"] if "" not in encoding else encoding[""]


def _columns(encoded: Any) -> Encoding:
    """What a function made of one text, as columns."""
    if isinstance(encoded, Mapping):
        if "input_ids" not in encoded:
            raise ConfigurationError(
                "a tokenizer returns ids or a mapping with 'input_ids', got one with "
                f"{', '.join(map(str, encoded)) or 'nothing'}"
            )
        return {name: _flat(values) for name, values in encoded.items()}
    return {"": _flat(encoded)}


def _flat(values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    return tensor.reshape(-1) if tensor.numel() else torch.zeros(0, dtype=torch.long)
