"""The next token: language models."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.functional import GAPS, cross_entropy
from artplus.tasks._base import Gap, Metric, Task, ratio, register_task
from artplus.tasks.segmentation import masked_mean, summed_weights
from artplus.tree import Tree


@register_task("causal_lm")
@dataclass(frozen=True)
class CausalLM(Task):
    r"""Predictions are logits ``(batch, tokens, vocabulary)``; targets ids ``(batch, tokens)``.

    .. math:: l = -\frac{1}{|T|} \sum_{t \in T} \log p(y_{t+1} \mid x_{\le t})

    The logits at a position predict the label at the next one, as in Transformers: labels are the
    input ids, with -100 where they do not count (prompt, padding). An example's loss is the mean
    over its tokens, and it weighs by their number, so the batch's mean is over tokens.

    Attributes:
        criterion: Cross-entropy by default.
        classes: Size of the vocabulary, where known.
    """

    criterion: Criterion = as_criterion()

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean over the tokens that count, ``(batch,)``."""
        return self.criterion(next_logits(predictions), targets[:, 1:])

    def weights(self, targets: Tensor) -> Tensor:
        """Number of tokens that count, ``(batch,)``."""
        weights = summed_weights(self.criterion, targets[:, 1:])
        return self.counts(targets).sum(1).float() if weights is None else weights

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tensor, *, of: Gap = "kl"
    ) -> Tensor:
        """The mean gap over the tokens that count."""
        gaps = GAPS[of](next_logits(reference), next_logits(predictions))
        return masked_mean(gaps, self.counts(targets))

    def counts(self, targets: Tensor) -> Tensor:
        """Which predicted tokens count, ``(batch, tokens - 1)`` booleans."""
        ignored = self.criterion.ignore_index
        labels = targets[:, 1:]
        return torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored

    def bind(self, predictions: Tree, targets: Tree) -> CausalLM:
        """With the size of the vocabulary."""
        fits = (
            isinstance(predictions, Tensor)
            and predictions.ndim == 3
            and predictions.shape[:2] == targets.shape
        )
        if not fits:
            shape = tuple(predictions.shape) if isinstance(predictions, Tensor) else "no tensor"
            raise UnsupportedEstimatorError(
                "a language model must give logits (batch, tokens, vocabulary) for labels "
                f"(batch, tokens), got {shape} for {tuple(targets.shape)}"
            )
        return replace(self, classes=predictions.shape[2])

    def check_targets(self, targets: Tensor) -> None:
        """Whole token ids, at least one of which counts."""
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 2:
            raise DataError("labels of a language model must be token ids (batch, tokens)")
        if not bool(self.counts(targets).any()):
            raise DataError("no label counts: all are the ignored one (-100) after the first token")

    def metrics(self) -> Mapping[str, Metric]:
        """Perplexity, and the share of tokens that are right."""
        return {
            "perplexity": Metric(self._likelihood, _perplexity, larger_is_better=False),
            "token_accuracy": Metric(self._right, ratio),
        }

    def answers(self, predictions: Tensor) -> Tensor:
        """The likeliest token at each position."""
        return predictions.argmax(-1)

    def _likelihood(self, predictions: Tensor, targets: Tensor) -> Tensor:
        counts, labels = self.counts(targets), targets[:, 1:]
        surprise = cross_entropy(next_logits(predictions), torch.where(counts, labels, 0))
        return torch.stack([(surprise * counts).sum(1), counts.sum(1)], 1)

    def _right(self, predictions: Tensor, targets: Tensor) -> Tensor:
        counts = self.counts(targets)
        right = (next_logits(predictions).argmax(1) == targets[:, 1:]) & counts
        return torch.stack([right.sum(1), counts.sum(1)], 1).float()


def next_logits(predictions: Tensor) -> Tensor:
    """``(batch, vocabulary, tokens - 1)``: what predicts the labels from the second on.

    Of a model in half precision in float32, as Transformers take their loss: over a vocabulary a
    softmax needs it.
    """
    logits = predictions[:, :-1].movedim(-1, 1)
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _perplexity(rows: Tensor) -> float:
    return math.exp(min(ratio(rows), 700.0))
