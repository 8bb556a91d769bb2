"""A few attacked examples, chosen to be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from artplus.evaluation.attack_run import Outcome
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.progress_record import Example
from artplus.evaluation.result import Examples
from artplus.evaluation.score_table import ScoreTable


def gallery(
    data: EvaluationData, clean: ScoreTable, working: Sequence[Outcome], count: int
) -> Examples | None:
    """Up to ``count`` different examples, taken from the attacks in turn; fooled ones first."""
    chosen: dict[int, tuple[Example, str]] = {}
    for shelf in ("fooled", "held"):
        queues = [(outcome.result.name, list(getattr(outcome, shelf))) for outcome in working]
        while len(chosen) < count and any(queue for _, queue in queues):
            for attack, queue in queues:
                while queue and queue[0].position in chosen:
                    queue.pop(0)
                if queue and len(chosen) < count:
                    exhibit = queue.pop(0)
                    chosen[exhibit.position] = exhibit, attack
    if not chosen:
        return None
    kept = [chosen[position] for position in sorted(chosen)]
    index = torch.tensor([exhibit.position for exhibit, _ in kept])
    return Examples(
        index=index.numpy(),
        x=torch.stack([exhibit.x for exhibit, _ in kept]).float().numpy(),
        x_adv=torch.stack([exhibit.x_adv for exhibit, _ in kept]).float().numpy(),
        y=data.labels(index).numpy(),
        clean=_clean(data, clean, index).numpy(),
        adversarial=torch.stack([exhibit.prediction for exhibit, _ in kept]).numpy(),
        attack=tuple(name for _, name in kept),
    )


def _clean(data: EvaluationData, clean: ScoreTable, index: Tensor) -> Tensor:
    """What the model says without an attack; outputs of a regression, not kept, are made again."""
    if clean.predictions is not None:
        return clean.predictions[index].long()
    _, x, y, _ = data.batch(index)
    return data.score(x, y).predictions
