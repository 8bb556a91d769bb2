"""Which attacked examples a report shows."""

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
    for kind in ("fooled", "robust"):
        queues = [(outcome.result.name, list(getattr(outcome, kind))) for outcome in working]
        while len(chosen) < count and any(queue for _, queue in queues):
            for attack, queue in queues:
                while queue and queue[0].position in chosen:
                    queue.pop(0)
                if queue and len(chosen) < count:
                    example = queue.pop(0)
                    chosen[example.position] = example, attack
    if not chosen:
        return None
    kept = [chosen[position] for position in sorted(chosen)]
    index = torch.tensor([example.position for example, _ in kept])
    return Examples(
        index=index.numpy(),
        x=torch.stack([example.x for example, _ in kept]).float().numpy(),
        x_adv=torch.stack([example.x_adv for example, _ in kept]).float().numpy(),
        y=data.labels(index).numpy(),
        clean=_clean(data, clean, index).numpy(),
        adversarial=torch.stack([example.prediction for example, _ in kept]).numpy(),
        attack=tuple(name for _, name in kept),
    )


def _clean(data: EvaluationData, clean: ScoreTable, index: Tensor) -> Tensor:
    """Predictions without an attack; outputs of a regression are not kept and computed again."""
    if clean.predictions is not None:
        return clean.predictions[index].long()
    _, x, y, _ = data.batch(index)
    return data.score(x, y).predictions
