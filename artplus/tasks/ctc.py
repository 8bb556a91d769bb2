"""Text from sound, aligned by the loss: connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.functional import GAPS
from artplus.tasks._base import Gap, Metric, Task, logits_of, ratio, register_task
from artplus.tasks.segmentation import masked_mean
from artplus.tree import Tree, describe


@dataclass(frozen=True)
class _Alignment:
    r"""``-log p(labels)`` over the number of labels: torch's mean, one value an example."""

    blank: int = 0
    zero_infinity: bool = False

    def __call__(self, predictions: Any, targets: Tensor) -> Tensor:
        lengths = (targets >= 0).sum(1)
        losses = F.ctc_loss(
            predictions["logits"].float().log_softmax(-1).transpose(0, 1),
            targets.clamp_min(0),
            predictions["lengths"],
            lengths,
            blank=self.blank,
            reduction="none",
            zero_infinity=self.zero_infinity,
        )
        return losses / lengths.clamp_min(1)


@register_task("ctc")
@dataclass(frozen=True)
class CTC(Task):
    """Predictions are logits ``(batch, frames, symbols)`` with the number of valid frames.

    Targets are symbol numbers ``(batch, labels)``, padded with a negative number (-100 in
    Transformers). How many frames are valid follows from an ``attention_mask`` or ``lengths``
    column of the inputs ``(batch, steps, ...)``: by the model's own rule where it has one, else in
    proportion.

    References:
        .. [Graves06] Graves et al., "Connectionist temporal classification: labelling unsegmented
           sequence data with recurrent neural networks", ICML 2006.

    Attributes:
        criterion: ``torch.nn.CTCLoss`` by default; each loss is divided by the number of
            its labels, torch's ``mean``. A loss of your own is called with a mapping of ``logits``
            and ``lengths``, and the targets.
        classes: Number of symbols, where known.
        blank: Number of the blank symbol; that of a ``CTCLoss``, if one is given.
        zero_infinity: Whether an example with fewer frames than its labels need counts as zero;
            likewise.
    """

    criterion: Criterion = Criterion(_Alignment(), over_classes=False, soft=False)
    blank: int = 0
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        function = self.criterion.function
        if isinstance(function, nn.CTCLoss):
            object.__setattr__(self, "blank", function.blank)
            object.__setattr__(self, "zero_infinity", function.zero_infinity)
        elif not isinstance(function, _Alignment):
            return
        alignment = _Alignment(self.blank, self.zero_infinity)
        ready = Criterion(alignment, over_classes=False, soft=False)
        object.__setattr__(self, "criterion", ready)

    def predictions(self, outputs: Any, inputs: Tree, module: nn.Module) -> dict[str, Tensor]:
        """Logits and their valid lengths."""
        logits = logits_of(outputs)
        return {"logits": logits, "lengths": _frames(logits, inputs, module)}

    def weights(self, targets: Tensor) -> None:
        """Every example weighs alike."""
        return None

    def divergence(
        self, reference: Tree, predictions: Tree, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """The mean gap over the valid frames."""
        gaps = GAPS[of](reference["logits"].movedim(-1, 1), predictions["logits"].movedim(-1, 1))
        steps = torch.arange(gaps.shape[1], device=gaps.device)
        return masked_mean(gaps, steps < predictions["lengths"][:, None])

    def bind(self, predictions: Tree, targets: Tree) -> CTC:
        """With the number of symbols.

        Raises:
            UnsupportedEstimatorError: for predictions of another shape.
            DataError: if there are fewer frames than labels.
        """
        if predictions["logits"].ndim != 3:
            raise UnsupportedEstimatorError(
                "a recogniser must give logits (batch, frames, symbols), got "
                f"{tuple(predictions['logits'].shape)}"
            )
        frames, labels = predictions["lengths"], (targets >= 0).sum(1)
        short = (labels > frames).nonzero()
        if len(short) and not self.zero_infinity:
            k = int(short[0])
            raise DataError(
                f"example {k} has {int(labels[k])} labels but only {int(frames[k])} frames, so its "
                "loss is infinite. Leave such examples out, or count them as zero: "
                "criterion=CTCLoss(zero_infinity=True)."
            )
        return replace(self, classes=predictions["logits"].shape[2])

    def check_targets(self, targets: Tensor) -> None:
        """Whole symbol numbers, none of them the blank, with padding at the end."""
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 2:
            raise DataError(
                "labels of a recogniser must be symbol numbers (batch, labels), padded with -100"
            )
        if self.classes is not None and int(targets.max()) >= self.classes:
            raise DataError(
                f"labels must lie below {self.classes}, the model's symbols, got "
                f"{int(targets.max())}"
            )
        if bool((targets == self.blank).any()):
            raise DataError(
                f"labels hold {self.blank}, the blank symbol, which no label may be; pad them with "
                "-100, or say which symbol is the blank: task=CTC(blank=...)"
            )
        if bool(((targets[:, :-1] < 0) & (targets[:, 1:] >= 0)).any()):
            raise DataError("labels must be padded at their end, but some come after padding")

    def metrics(self) -> Mapping[str, Metric]:
        """Label error rate of the likeliest symbols [Graves06]_: edits over the labels."""
        return {"label_error_rate": Metric(self._edits, ratio, larger_is_better=False)}

    def answers(self, predictions: Tree) -> Tensor:
        """The likeliest symbol of each frame."""
        symbols: Tensor = predictions["logits"].argmax(-1)
        return symbols

    def _edits(self, predictions: Tree, targets: Tensor) -> Tensor:
        """Edits from the likeliest labels to the true ones, and the number of those."""
        rows = []
        for symbols, frames, labels in zip(
            self.answers(predictions).cpu(), predictions["lengths"].tolist(), targets.cpu(),
            strict=True,
        ):  # fmt: skip
            merged = symbols[:frames].unique_consecutive()
            truth = labels[labels >= 0].tolist()
            rows.append((_edit_distance(merged[merged != self.blank].tolist(), truth), len(truth)))
        return torch.tensor(rows, dtype=torch.float32)


def _edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that make ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _frames(logits: Tensor, inputs: Tree, module: nn.Module) -> Tensor:
    """Number of valid frames of each example."""
    batch, frames = logits.shape[:2]
    inputs = getattr(inputs, "inputs", inputs)
    columns = inputs if isinstance(inputs, Mapping) else {}
    mask, lengths = columns.get("attention_mask"), columns.get("lengths")
    if lengths is None and mask is not None:
        lengths = mask.sum(-1)
    if lengths is None:
        return torch.full((batch,), frames, device=logits.device, dtype=torch.long)
    rule = _rule(module)
    if rule is not None:
        by_rule: Tensor = rule(lengths).long().clamp(max=frames)
        return by_rule
    steps = _steps(columns) if mask is None else mask.shape[-1]
    scaled: Tensor = (lengths * frames + steps - 1).div(steps, rounding_mode="floor")
    return scaled.long().clamp(max=frames)


def _steps(columns: Mapping[str, Any]) -> int:
    """Length of the padded inputs, ``(batch, steps, ...)``."""
    for column in columns.values():
        if isinstance(column, Tensor) and column.ndim > 1:
            return column.shape[1]
    raise DataError(
        f"lengths= belongs to inputs (batch, steps, ...), but there are {describe(columns)}"
    )


def _rule(module: nn.Module) -> Any:
    """Transformers' own rule from samples to frames, through wrappers."""
    for child in module.modules():
        rule = getattr(type(child), "_get_feat_extract_output_lengths", None)
        if rule is not None:
            return child._get_feat_extract_output_lengths
    return None
