"""A torch profile of a training says where the time goes, by name."""

from __future__ import annotations

import torch
from torch.profiler import ProfilerActivity, profile

from artplus import fit
from artplus.training.steps import AWP
from tests.toys import arrays, net

X, Y = (torch.from_numpy(v) for v in arrays(24))


def ranges(**options):
    """How often each range of ours came."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with profile(activities=[ProfilerActivity.CPU]) as trace:
        fit(model, (X, Y), optimizer, eps=0.02, epochs=2, batch_size=8, progress=False, **options)
    return {e.key: e.count for e in trace.key_averages() if e.key.startswith("artplus: ")}


def test_every_part_of_training_has_its_range():
    """Two epochs of three batches: data, attack, terms, backward, optimizer; one validation each.

    Data is asked for once more an epoch, when there is none left.
    """
    found = ranges(validation=(X, Y))
    assert found == {
        "artplus: data": 2 * 4,
        "artplus: attack": 6,
        "artplus: terms": 6,
        "artplus: backward": 6,
        "artplus: optimizer": 6,
        "artplus: validation": 2,
    }


def test_ranges_follow_what_is_done():
    """Parts and AWP's second pass are counted as such; without validation there is none."""
    parts = ranges(micro_batch=4)
    assert parts["artplus: terms"] == parts["artplus: backward"] == 12
    twice = ranges(step=AWP())
    assert twice["artplus: backward"] == 12 and twice["artplus: attack"] == 6
    assert "artplus: validation" not in twice
