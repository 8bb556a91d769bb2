"""The scores of the examples without an attack, which every attack is compared with."""

from __future__ import annotations

import math

import torch

from artplus import distributed, seeding
from artplus.errors import DataError
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.saved import Folder
from artplus.evaluation.score_table import ScoreTable


def clean_scores(data: EvaluationData, seed: int, folder: Folder | None = None) -> ScoreTable:
    """Scores of every example; each process runs its share of the batches.

    Args:
        data: Model and data.
        seed: Of what a random model draws, batch by batch.
        folder: Where they are saved once they are complete, and read from.

    Raises:
        DataError: if not one loss is finite.
    """
    n, size = data.n, data.batch_size
    scores = ScoreTable(n, data.classes)
    saved = None if folder is None else folder.clean()
    if saved is not None:
        scores.fill(torch.ones(n, dtype=torch.bool), saved)
    else:
        batches = range(math.ceil(n / size))[distributed.share(math.ceil(n / size))]
        with seeding.seeded(seed):
            for number in batches:
                seeding.reseed(seeding.derived(seed, f"clean:{number}"))
                rows = slice(number * size, min(n, (number + 1) * size))
                _, x, y, _ = data.batch(torch.arange(rows.start, rows.stop))
                scores.put(rows, data.score(x, y))
        _exchange(scores, slice(batches.start * size, min(n, batches.stop * size)))
        if folder is not None:
            folder.save_clean(scores.columns)
    if bool(torch.isinf(scores.losses).all()):
        raise DataError(
            f"the loss on every one of {n} unattacked examples is infinite or not a "
            "number: are the weights sound, and the inputs in the range they were trained on?"
        )
    return scores


def _exchange(scores: ScoreTable, rows_here: slice) -> None:
    """Send the rows of this process to the others, and enter theirs."""
    if distributed.world_size() == 1:
        return
    for rows, columns in distributed.all_gather((rows_here, scores.rows(rows_here))):
        mask = torch.zeros(len(scores), dtype=torch.bool)
        mask[rows] = True
        scores.fill(mask, columns)
