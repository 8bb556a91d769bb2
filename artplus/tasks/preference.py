"""Answers that are wanted and answers to be avoided: what hardens a language model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import DataError
from artplus.tasks._base import Gap, Metric, Task, ratio, register_task
from artplus.tasks.causal_lm import CausalLM, next_logits
from artplus.tree import Tree

Refusal = tuple[int, ...] | Callable[[Tensor], bool]

COLUMNS = ("labels", "chosen", "chosen_labels", "rejected")
"""Columns of the targets; :class:`~artplus.tasks.PreferenceCollator` makes them."""


@register_task("preference")
@dataclass(frozen=True)
class Preference(Task):
    r"""Predictions are logits ``(batch, tokens, vocabulary)``; targets two answers to each prompt.

    A row with a ``rejected`` answer is a prompt and that answer; the other rows, which measure
    utility, are a prompt and the answer wanted. :class:`~artplus.tasks.PreferenceCollator` makes
    inputs and targets. Targets are a mapping of

    - ``labels`` ``(batch, tokens)``: ids of the row's own answer, -100 for prompt and padding;
    - ``chosen`` and ``chosen_labels`` ``(batch, other tokens)``: ids of prompt and answer wanted,
      and its labels; -100 is padding;
    - ``rejected`` ``(batch,)`` booleans: which rows have an answer to be avoided.

    The loss says how bad a row is, so attacks climb it: the mean surprise of the tokens of a wanted
    answer, and *minus* that of one to be avoided. Its minimum is no aim of training, since it is
    unbounded; use ``loss="cat"``, ``"capo"``, ``"lat"`` or ``"rerouting"``.

    A row with a rejected answer is right if at least one of its tokens is not the likeliest after
    the tokens before it; a utility row, if each token of the wanted answer is. A row weighs by the
    tokens of its answer, as in ``causal_lm``.

    Attributes:
        criterion: Cross-entropy by default.
        classes: Size of the vocabulary, where known.
        refusal: Tokens with which a refusal begins, or a function of the greedy ids of an answer
            ``(tokens,)`` that says whether it is a refusal. Of these ids the first is what the
            model would answer; later ones follow the wanted answer. Without it, over-refusal counts
            utility rows whose wanted answer is not the greedy one.
    """

    criterion: Criterion = as_criterion()
    refusal: Refusal = ()

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean over the tokens of a row's own answer, negated if it is to be avoided."""
        losses = self.surprise(predictions, targets)
        return torch.where(targets["rejected"], -losses, losses)

    def weights(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Number of tokens of a row's own answer, ``(batch,)``."""
        return self._sequence.weights(targets["labels"])

    def correct(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Whether a row behaves as wanted, ``(batch,)``."""
        return _given(predictions, targets["labels"]) != targets["rejected"]

    def divergence(
        self,
        reference: Tensor,
        predictions: Tensor,
        targets: Mapping[str, Tensor],
        *,
        of: Gap = "kl",
    ) -> Tensor:
        """The mean gap over the tokens of a row's own answer."""
        return self._sequence.divergence(reference, predictions, targets["labels"], of=of)

    def bind(self, predictions: Tree, targets: Tree) -> Preference:
        """Itself, if the logits fit the labels."""
        _columns(targets)
        self._sequence.bind(predictions, targets["labels"])
        return self

    def check_targets(self, targets: Tree) -> None:
        """The four columns, with an answer in every row."""
        _columns(targets)
        for name in ("labels", "chosen_labels"):
            if not bool(((targets[name][:, 1:] != -100).any(1)).all()):
                raise DataError(f"a row has no answer: all its {name} are -100")

    def metrics(self) -> Mapping[str, Metric]:
        """Attack success, over-refusal, and on utility rows perplexity and right tokens."""
        tokens = self._sequence.metrics()
        utility = {
            name: Metric(_on_utility(tokens[name]), partial(_of_some, tokens[name].compute), better)
            for name, better in (("perplexity", False), ("token_accuracy", True))
        }
        return {
            "attack_success": Metric(_success, partial(_of_some, ratio), larger_is_better=False),
            "over_refusal": Metric(self._refused, partial(_of_some, ratio), larger_is_better=False),
            **utility,
        }

    def answers(self, predictions: Tensor) -> Tensor:
        """The likeliest token at each position."""
        return predictions.argmax(-1)

    def labels(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Those of the rows' own answers."""
        return targets["labels"]

    # What objectives ask

    def surprise(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy over the tokens of a row's own answer, ``(batch,)``."""
        return self._sequence.loss(predictions, targets["labels"])

    def likelihood_of_others(
        self, predictions: Tensor, targets: Mapping[str, Tensor], floor: float = -5.0
    ) -> Tensor:
        r"""Mean over an answer's tokens of :math:`\log (1 - p_t)`, ``(batch,)``, never positive.

        Tokens with :math:`\log p_t <` ``floor`` count as zero: they are unlikely enough.
        """
        logits, labels = next_logits(predictions), targets["labels"]
        counts = self._sequence.counts(labels)
        token = torch.where(counts, labels[:, 1:], 0)[:, None]
        whole = logits.logsumexp(1)
        log_p = logits.gather(1, token)[:, 0] - whole
        others = logits.scatter(1, token, -torch.inf).logsumexp(1) - whole
        return (others * (counts & (log_p >= floor))).sum(1) / counts.sum(1).clamp_min(1)

    def rejected_rows(self, targets: Mapping[str, Tensor]) -> Tensor:
        """Indices of the rows with an answer to be avoided; without any, of the first row.

        So every process makes the same number of passes; a row that is not counted has no weight.
        """
        rows = targets["rejected"].nonzero()[:, 0]
        return rows if len(rows) else rows.new_zeros(1)

    def chosen(self, targets: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs of prompt and answer wanted, and their targets."""
        ids = targets["chosen"]
        real = ids >= 0
        inputs = {"input_ids": ids.clamp_min(0), "attention_mask": real.long()}
        return inputs, {"labels": targets["chosen_labels"]}

    def _refused(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        labels, utility = targets["labels"], ~targets["rejected"]
        if not callable(self.refusal) and not self.refusal:
            refused = ~_given(predictions, labels)
        else:
            counts = self._sequence.counts(labels)
            greedy = predictions[:, :-1].argmax(-1)
            if callable(self.refusal):
                says = [self.refusal(row[kept]) for row, kept in zip(greedy, counts, strict=True)]
                refused = torch.tensor(says, dtype=torch.bool, device=labels.device)
            else:
                first = greedy.gather(1, counts.int().argmax(1, keepdim=True))[:, 0]
                refused = torch.isin(first, torch.tensor(self.refusal, device=labels.device))
        return torch.stack([refused & utility, utility], 1).float()

    @property
    def _sequence(self) -> CausalLM:
        return CausalLM(self.criterion)


def counted_rows(targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Which rows the fixed and the scaled term count: utility rows, and those to be avoided."""
    return ~targets["rejected"], targets["rejected"]


def _given(predictions: Tensor, labels: Tensor) -> Tensor:
    """Whether each token of an answer is the greedy one after the tokens before it."""
    right = predictions[:, :-1].argmax(-1) == labels[:, 1:]
    return (right | (labels[:, 1:] == -100)).all(1)


def _success(predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
    rejected = targets["rejected"]
    return torch.stack([_given(predictions, targets["labels"]) & rejected, rejected], 1).float()


def _on_utility(metric: Metric) -> Callable[[Tensor, Mapping[str, Tensor]], Tensor]:
    def statistics(predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        rows = metric.statistics(predictions, targets["labels"])
        return rows * ~targets["rejected"][:, None]

    return statistics


def _of_some(compute: Callable[[Tensor], float], rows: Tensor) -> float:
    """The figure; no number where no row counts: no attack has failed where none was tried."""
    return compute(rows) if float(rows[:, 1].sum()) > 0 else math.nan


def _columns(targets: Tree) -> None:
    if not isinstance(targets, Mapping) or any(name not in targets for name in COLUMNS):
        raise DataError(
            f"targets of task 'preference' are a mapping of {', '.join(COLUMNS)}; make batches "
            "by artplus.tasks.PreferenceCollator(tokenizer) from rows with prompt, chosen and, "
            "where there is an answer to be avoided, rejected"
        )
