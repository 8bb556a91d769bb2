"""Attacks on texts, verified and scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus import seeding
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation.intervals import Interval, wilson
from artplus.evaluation.words._base import TextAttack
from artplus.evaluation.words.spelling import share_changed
from artplus.evaluation.words.substitution import WordSubstitution
from artplus.evaluation.words.text_model import TextModel, ids_of
from artplus.evaluation.words.typos import Typos
from artplus.model import LossModel, as_loss_model


@dataclass(frozen=True, eq=False)
class TextResult:
    """What one attack did to n texts.

    Attributes:
        name: Of the attack.
        attacked: ``(n,)`` booleans: the texts that the model gets right without an attack.
        correct: ``(n,)`` booleans: those that it still gets right.
        texts: What the attack found; the original text where it found nothing.
        predictions: ``(n,)`` predicted classes of these texts.
        changed: ``(n,)`` share of the words that differ from the original.
        queries: ``(n,)`` texts that the model was asked about.
    """

    name: str
    attacked: NDArray[np.bool_]
    correct: NDArray[np.bool_]
    texts: tuple[str, ...]
    predictions: NDArray[np.int64]
    changed: NDArray[np.float64]
    queries: NDArray[np.int64]

    @property
    def n(self) -> int:
        """Number of texts."""
        return len(self.correct)

    @property
    def accuracy(self) -> float:
        """Share of the texts that the model gets right under the attack."""
        return float(self.correct.mean())

    @property
    def interval(self) -> Interval:
        """95 % Wilson interval of the accuracy."""
        return wilson(int(self.correct.sum()), self.n)

    @property
    def broken(self) -> NDArray[np.bool_]:
        """``(n,)`` booleans: right without the attack, wrong under it."""
        broken: NDArray[np.bool_] = self.attacked & ~self.correct
        return broken

    @property
    def success(self) -> float | None:
        """Share of the attacked texts that the attack broke; ``None`` if there are none."""
        return _mean(self.broken, self.attacked)

    @property
    def mean_changed(self) -> float | None:
        """Mean share of words changed in the texts that it broke; ``None`` if there are none."""
        return _mean(self.changed, self.broken)

    @property
    def mean_queries(self) -> float | None:
        """Mean queries for an attacked text; ``None`` if there are none."""
        return _mean(self.queries, self.attacked)


@dataclass(frozen=True, eq=False)
class TextOutcome:
    """What attacks did to texts.

    Attributes:
        texts: The original ones.
        labels: ``(n,)`` true classes.
        clean: Without an attack.
        attacks: Each attack's result, by name.
        worst: The worst case of each text: wrong if any attack found a text that is; its queries
            are those of all attacks.
    """

    texts: tuple[str, ...]
    labels: NDArray[np.int64]
    clean: TextResult
    attacks: Mapping[str, TextResult]
    worst: TextResult

    @property
    def results(self) -> tuple[TextResult, ...]:
        """Without an attack, under each, and the worst case if there are several attacks."""
        worst = (self.worst,) if len(self.attacks) > 1 else ()
        return (self.clean, *self.attacks.values(), *worst)


def attack_texts(
    model: nn.Module | LossModel,
    tokenizer: Callable[..., Any],
    texts: Sequence[str],
    labels: Sequence[int] | NDArray[np.integer[Any]] | Tensor,
    *,
    attacks: Sequence[TextAttack] | None = None,
    embeddings: Any = None,
    vocabulary: Mapping[str, int] | None = None,
    layer: str | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> TextOutcome:
    """Accuracy of a text classifier without an attack, under each of some attacks, and at worst.

    Attacks change words, not embeddings: every text that counts as a mistake is tokenised and
    predicted once more. The model is judged in evaluation mode, and left as it was. What an attack
    finds for a text does not depend on the other texts.

    Args:
        model: A classifier of what the tokenizer returns, with logits ``(batch, classes)``: one of
            transformers', with or without LoRA, or any module of token ids.
        tokenizer: Hugging Face's, or a function from a text to ids or to a mapping with
            ``"input_ids"``. Options go by ``functools.partial(tokenizer, max_length=64,
            truncation=True)``; without any, texts are cut at the length that the model takes.
        texts: n of them.
        labels: Their true classes.
        attacks: Default: :class:`WordSubstitution` and :class:`Typos`.
        embeddings: What counts as near for :class:`WordSubstitution`: a model, whose embedding is
            taken, a matrix with a row for each token id, or ``{word: vector}``. Give the same, such
            as the model before hardening, for all models that are compared; default: ``model``.
        vocabulary: ``{word: id}`` of whole words, for a tokenizer without ``get_vocab()``; leave
            out its special tokens.
        layer: Name of the embedding in the module, if it holds several.
        batch_size: Texts at a time.
        seed: Of every random draw.

    Raises:
        ConfigurationError: for attacks of one name, a model that is no classifier, or, where an
            attack needs them, an unknown vocabulary or embedding.
        DataError: without texts, for labels of another number or outside the classes, or for a text
            of which the tokenizer makes no token.

    Example:
        >>> import torch
        >>> words = {"good": 1, "fine": 2, "poor": 3, "film": 4}
        >>> bag = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Flatten())
        >>> _ = bag[0].weight.data.copy_(torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0.]]))
        >>> outcome = attack_texts(bag, lambda text: [words[w] for w in text.split()], ["good"],
        ...                        [1], attacks=[WordSubstitution(similarity=0.0)],
        ...                        vocabulary=words)
        >>> outcome.clean.accuracy, outcome.worst.accuracy, outcome.worst.texts
        (1.0, 0.0, ('poor',))
    """
    chosen = tuple(attacks) if attacks is not None else (WordSubstitution(), Typos())
    names = [attack.name for attack in chosen]
    if len(set(names)) < len(names) or not names:
        raise ConfigurationError(f"attacks need names of their own, and at least one, got {names}")
    asked = TextModel(as_loss_model(model), tokenizer, embeddings, vocabulary, batch_size, layer)
    originals, y = _checked(asked, texts, labels)
    with seeding.seeded(seed), asked.attacked():
        clean = _clean(asked, originals, y)
        results = {
            attack.name: _attacked(asked, attack, originals, y, clean, seed) for attack in chosen
        }
    return TextOutcome(originals, y, clean, results, _worst(clean, list(results.values())))


def _checked(
    model: TextModel, texts: Sequence[str], labels: Any
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    if isinstance(texts, str):
        raise DataError("texts is a list of texts, got one: texts=[text]")
    originals = tuple(texts)
    classes = np.asarray(torch.as_tensor(labels).cpu())
    if not originals or classes.shape != (len(originals),) or classes.dtype.kind not in "iu":
        raise DataError(
            f"attacks need texts and a class number for each, got {len(originals)} texts and "
            f"labels of shape {classes.shape}, {classes.dtype}"
        )
    strange = next((k for k, text in enumerate(originals) if not isinstance(text, str)), None)
    if strange is not None:
        raise DataError(f"text {strange} is no text but {type(originals[strange]).__name__}")
    empty = [k for k, one in enumerate(model.encode(originals)) if not len(ids_of(one))]
    if empty:
        raise DataError(
            f"the tokenizer makes no token of text {empty[0]} ({originals[empty[0]]!r}); leave it "
            "out, or let the tokenizer add one"
        )
    return originals, classes.astype(np.int64)


def _clean(model: TextModel, texts: tuple[str, ...], y: NDArray[np.int64]) -> TextResult:
    scores = model.logits(texts)
    count = scores.shape[1]
    if y.min() < 0 or y.max() >= count:
        raise DataError(
            f"labels must be class numbers in 0..{count - 1}, got {y.min()} to {y.max()}"
        )
    predictions, correct = _judged(scores, y)
    return TextResult(
        name="no attack",
        attacked=correct,
        correct=correct,
        texts=texts,
        predictions=predictions,
        changed=np.zeros(len(texts)),
        queries=np.ones(len(texts), dtype=np.int64),
    )


def _attacked(
    model: TextModel,
    attack: TextAttack,
    texts: tuple[str, ...],
    y: NDArray[np.int64],
    clean: TextResult,
    seed: int,
) -> TextResult:
    """Attack what is right, and predict what the attack returns."""
    index = np.flatnonzero(clean.correct)
    after, queries = list(texts), np.zeros(len(texts), dtype=np.int64)
    answers, correct = clean.predictions.copy(), clean.correct.copy()
    if len(index):
        originals, classes = [texts[k] for k in index], y.take(index)
        attempts = attack.run(model, originals, classes.tolist(), seed=seed)
        queries[index] = [attempt.queries for attempt in attempts]
        tokenised = model.encode([attempt.text for attempt in attempts])
        results = [
            attempt.text if len(ids_of(encoding)) else original  # nothing to predict
            for attempt, encoding, original in zip(attempts, tokenised, originals, strict=True)
        ]
        judged, correct[index] = _judged(model.logits(results), classes)
        for k, result, predicted in zip(index, results, judged, strict=True):
            if not correct[k]:
                after[k], answers[k] = result, predicted
    changed = [share_changed(old, new) for old, new in zip(texts, after, strict=True)]
    return TextResult(
        name=attack.name,
        attacked=clean.correct,
        correct=correct,
        texts=tuple(after),
        predictions=answers,
        changed=np.asarray(changed),
        queries=queries,
    )


def _judged(scores: Tensor, y: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Predicted classes, and whether they are right; what is not a number is wrong."""
    answers: NDArray[np.int64] = scores.argmax(1).numpy()
    return answers, (answers == y) & ~torch.isnan(scores).any(1).numpy()


def _worst(clean: TextResult, results: list[TextResult]) -> TextResult:
    """For each text the result of the first attack that broke it."""
    texts, answers = list(clean.texts), clean.predictions.copy()
    correct, changed = clean.correct.copy(), clean.changed.copy()
    for result in results:
        for k in np.flatnonzero(result.broken & correct):
            texts[k], correct[k] = result.texts[k], False
            answers[k], changed[k] = result.predictions[k], result.changed[k]
    return TextResult(
        name="worst of all",
        attacked=clean.correct,
        correct=correct,
        texts=tuple(texts),
        predictions=answers,
        changed=changed,
        queries=np.sum([result.queries for result in results], axis=0),
    )


def _mean(values: NDArray[Any], rows: NDArray[np.bool_]) -> float | None:
    return float(values[rows].mean()) if rows.any() else None
