"""The examples without an attack: what every attack is held against."""

from __future__ import annotations

import math

import torch

from artplus import distributed, seeding
from artplus.errors import DataError
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.saved import Folder
from artplus.evaluation.score_table import ScoreTable


def clean_scores(data: EvaluationData, seed: int, folder: Folder | None = None) -> ScoreTable:
    """Scores of every example, each process its share of the batches; saved when all are there.

    Args:
        data: Model and data.
        seed: Of what a random model draws, batch by batch.
        folder: Where they are saved, or found.

    Raises:
        DataError: if not one loss is finite.
    """
    n, size = data.n, data.batch_size
    sheet, everything = ScoreTable(n, data.classes), torch.ones(n, dtype=torch.bool)
    saved = None if folder is None else folder.clean()
    if saved is not None:
        sheet.enter(everything, saved)
    else:
        batches = range(math.ceil(n / size))[distributed.share(math.ceil(n / size))]
        with seeding.seeded(seed):
            for number in batches:
                seeding.reseed(seeding.derived(seed, f"clean:{number}"))
                rows = slice(number * size, min(n, (number + 1) * size))
                _, x, y, _ = data.batch(torch.arange(rows.start, rows.stop))
                sheet.put(rows, data.score(x, y))
        _exchange(sheet, slice(batches.start * size, min(n, batches.stop * size)))
        if folder is not None:
            folder.save_clean(sheet.columns)
    if bool(torch.isinf(sheet.losses).all()):
        raise DataError(
            f"the loss on every one of {n} unattacked examples is infinite or not a "
            "number: are the weights sound, and the inputs in the range they were trained on?"
        )
    return sheet


def _exchange(sheet: ScoreTable, own: slice) -> None:
    """Give the other processes one's own rows, and take theirs."""
    if distributed.world_size() == 1:
        return
    for rows, columns in distributed.all_gather((own, sheet.rows(own))):
        which = torch.zeros(len(sheet), dtype=torch.bool)
        which[rows] = True
        sheet.enter(which, columns)
