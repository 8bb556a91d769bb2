"""Text from sound, aligned by the loss: connectionist temporal classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.functional import GAPS
from artplus.tasks._base import Gap, Task, logits_of, register_task
from artplus.tasks.segmentation import masked_mean
from artplus.tree import Tree


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
    column of the inputs, by the model's own rule where it has one.

    Attributes:
        criterion: ``torch.nn.CTCLoss`` unless told otherwise; each loss is divided by the number of
            its labels, torch's ``mean``. ``CTC(blank=...)`` chooses the blank symbol.
        classes: Number of symbols, where known.
    """

    criterion: Criterion = Criterion(_Alignment(), over_classes=False, soft=False)
    blank: int = 0

    def __post_init__(self) -> None:
        function = self.criterion.function
        if isinstance(function, nn.CTCLoss):
            alignment = _Alignment(function.blank, function.zero_infinity)
        elif isinstance(function, _Alignment) and self.blank:
            alignment = replace(function, blank=self.blank)
        else:
            return
        own = Criterion(alignment, over_classes=False, soft=False)
        object.__setattr__(self, "criterion", own)

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
        """With the number of symbols."""
        if predictions["logits"].ndim != 3:
            raise UnsupportedEstimatorError(
                "a recogniser must give logits (batch, frames, symbols), got "
                f"{tuple(predictions['logits'].shape)}"
            )
        return replace(self, classes=predictions["logits"].shape[2])

    def check_targets(self, targets: Tensor) -> None:
        """Whole symbol numbers, none of them the blank."""
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim != 2:
            raise DataError(
                "labels of a recogniser must be symbol numbers (batch, labels), padded with -100"
            )
        if self.classes is not None and int(targets.max()) >= self.classes:
            raise DataError(
                f"labels must lie below {self.classes}, the model's symbols, got "
                f"{int(targets.max())}"
            )

    def answers(self, predictions: Tree) -> Tensor:
        """The likeliest symbol of each frame."""
        symbols: Tensor = predictions["logits"].argmax(-1)
        return symbols


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
    whole = mask.shape[-1] if mask is not None else int(lengths.max())
    scaled: Tensor = (lengths * frames + whole - 1).div(whole, rounding_mode="floor")
    return scaled.long().clamp(max=frames)


def _rule(module: nn.Module) -> Any:
    """Transformers' own rule from samples to frames, through wrappers."""
    for child in module.modules():
        rule = getattr(type(child), "_get_feat_extract_output_lengths", None)
        if rule is not None:
            return child._get_feat_extract_output_lengths
    return None
