"""The record of one attack run: draws of each batch, breaks, and the few examples kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.evaluation import attack_run, judge
from artplus.evaluation.data import Scores
from artplus.evaluation.progress_record import CHANGED, DONE, FORWARDS, ProgressRecord
from artplus.evaluation.verify import Measured
from artplus.model import LossModel
from artplus.passes import Passes

ROOM = 2


@dataclass(frozen=True)
class Drawing:
    """Notes what it could draw from in each batch, and moves its inputs a little."""

    eps: float = 0.1
    norm: float = math.inf
    targeted: bool = False
    draws: list[tuple[float, float, float, tuple[int, ...]]] = field(default_factory=list)

    def __call__(
        self, model: LossModel, x: Tensor, y: Tensor, *, generator: Any = None, **_: Any
    ) -> Tensor:
        first = float(torch.rand((), generator=generator))
        self.draws.append(
            (first, float(torch.rand(())), float(np.random.rand()), tuple(y.tolist()))
        )
        return x + 0.01

    def with_eps(self, scale: float) -> Drawing:
        return self


def draws(targeted: bool = False, **options: Any) -> list[tuple[Any, ...]]:
    """What an attack draws in each batch of four, on examples of one class."""
    attack = Drawing(targeted=targeted)
    model = LossModel(nn.Linear(4, 9))
    with torch.no_grad():
        model.module.bias[0] = 99.0
    x = torch.linspace(0, 1, 96).view(24, 4)
    attacks = {options.pop("name", "a"): attack}
    judge(model, x, torch.zeros(24).long(), attacks, batch_size=4, progress=False, **options)
    return attack.draws


def test_every_batch_of_an_attack_draws_anew() -> None:
    """Its generator, torch's and numpy's streams and its targets differ between any two batches."""
    for kind in zip(*draws(targeted=True), strict=True):
        assert len(kind) == len(set(kind)) == 6


def test_draws_follow_from_seed_name_and_number() -> None:
    """The same again; another seed or another name gives others in every batch."""
    first = draws()
    assert draws() == first
    for other in (draws(seed=1), draws(name="b")):
        for one, another in zip(first, other, strict=True):
            assert all(a != b for a, b in zip(one[:3], another[:3], strict=True))


def entered(*batches: int, wrong: Any = None) -> ProgressRecord:
    """A record of five batches of three, the last of two, of which some are done."""
    record = ProgressRecord(14, 3, 4, ROOM)
    for batch in batches:
        enter(record, batch, wrong=wrong)
    return record


def enter(record: ProgressRecord, batch: int, wrong: Any = None) -> None:
    size = record.size(batch)
    part = torch.arange(14)[record.rows(batch)]
    fooled = part % 2 == 0 if wrong is None else torch.tensor([wrong] * size)
    scores = Scores(losses=part.double(), wrong=fooled, predictions=part % 4)
    none = torch.zeros(size, dtype=torch.bool)
    measured = Measured(torch.ones(size).double(), none, none, ~none)
    x = part[:, None].float()
    cost = Passes(forwards=10 * size, backwards=size)
    record.add(batch, part, x, x + 0.5, scores, measured, beyond=batch, seconds=1.0, cost=cost)


def test_after_a_break_nothing_later_counts() -> None:
    """What other processes did beyond it is forgotten: counts, times, lengths, rows, examples."""
    record = entered(0, 1, 2, 3, 4)
    record.broken = 2, "raised"
    record.finish()
    alone = entered(0, 1)
    alone.broken = 2, "raised"
    alone.finish()
    assert record.count(DONE, CHANGED) == alone.count(DONE, CHANGED) == [2, 6]
    assert torch.equal(record.batches, alone.batches)
    assert record.seconds == alone.seconds == 2.0 and record.examples_done == 6
    assert record.passes == alone.passes == (60, 6)
    assert torch.equal(record.rows_done(), alone.rows_done())
    for kind in ("fooled", "robust"):
        assert [e.position for e in getattr(record, kind)] == [
            e.position for e in getattr(alone, kind)
        ]
    assert record.todo().tolist() == []


def test_passes_of_a_batch_unknown_are_unknown_of_all() -> None:
    """One batch that could not be counted, or was saved before there was a count."""
    assert entered(0, 1, 2, 3, 4).passes == (140, 14)
    record = entered(0, 1, 2)
    state = entered(3, 4).state()
    before = {**state, "batches": state["batches"][:, :FORWARDS]}
    record.merge([before])
    assert record.passes is None and record.seconds == 5.0 and record.examples_done == 14
    assert entered().passes == (0, 0)


def test_examples_after_a_break_are_not_shown() -> None:
    """Even where those before it have left room."""
    record = entered(wrong=True)
    enter(record, 0, wrong=False)
    enter(record, 3, wrong=True)
    record.broken = 1, "raised"
    record.finish()
    assert record.fooled == [] and [e.position for e in record.robust] == [0, 1]


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 3, 2, 1, 0), (2, 4, 0, 3, 1)])
def test_the_first_examples_are_kept_whatever_the_order(order: tuple[int, ...]) -> None:
    """As many as there is room for, the first by position, and what they were and became."""
    record = entered(*order)
    record.finish()
    assert [e.position for e in record.fooled] == [0, 2]
    assert [e.position for e in record.robust] == [1, 3]
    for kept in record.fooled + record.robust:
        assert float(kept.x) == kept.position and float(kept.x_adv) == kept.position + 0.5
        assert int(kept.prediction) == kept.position % 4 and kept.batch == kept.position // 3


def test_no_more_is_kept_than_there_is_room_for() -> None:
    """A long run keeps a handful of tensors: none of a later batch once earlier ones fill it."""
    record = entered(0, 1, 2, 3, 4, wrong=True)
    assert len(record.fooled) == ROOM and record.robust == []
    assert entered(0, wrong=False).robust[0].position == 0
    nothing = ProgressRecord(14, 3, 4, 0)
    enter(nothing, 0)
    assert nothing.fooled == nothing.robust == []


def test_merged_records_are_one() -> None:
    """Batches of several processes, some of them twice, in any order, give one record."""
    whole = entered(0, 1, 2, 3, 4)
    merged = entered(3)
    merged.merge([entered(4, 1).state(), entered(1, 0, 2).state()])
    for record in (whole, merged):
        record.finish()
    assert torch.equal(merged.batches, whole.batches)
    for name, column in whole.scores.columns.items():
        assert torch.equal(merged.scores.columns[name], column)
    assert [e.position for e in merged.fooled] == [e.position for e in whole.fooled]
    assert merged.examples_done == 14 and merged.mean_length == 1.0


def test_the_earliest_break_counts() -> None:
    """Of two processes that broke, the one that a single process would have come to first."""
    record = entered(0)
    record.broken = 3, "later"
    other = entered(1)
    other.broken = 2, "earlier"
    record.merge([other.state()])
    assert record.broken == (2, "earlier")


@pytest.mark.parametrize("only_survivors", [False, True])
def test_the_bar_ends_where_the_worst_case_so_far_is(
    only_survivors: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each attack: what was robust before, less what it fools of that, nothing twice."""
    remaining: list[int] = []

    @contextmanager
    def watched(title: str, *, robust: int, **_: Any) -> Iterator[Any]:
        remaining.append(robust)

        def advance(done: int, newly_fooled: int) -> None:
            remaining[-1] -= newly_fooled

        yield advance

    monkeypatch.setattr(attack_run, "bar", watched)
    torch.manual_seed(0)
    model, x = LossModel(nn.Linear(6, 4)), torch.rand(40, 6)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4
    attacks = {str(eps): PGD(eps=eps, steps=5) for eps in (0.1, 0.05, 0.07)}
    report = judge(model, x, y, attacks, batch_size=9, only_survivors=only_survivors)
    robust, expected = report.correct_clean, []
    for result in report.attacks:
        robust = robust & result.correct
        expected.append(int(robust.sum()))
    assert remaining == expected and 0 < expected[2] <= expected[0] < 36


def test_every_clean_batch_draws_anew() -> None:
    """A random model's noise without an attack differs between batches of the same inputs."""
    noisy = LossModel(nn.Linear(4, 3), forward=lambda z: torch.randn(len(z), 3))
    attacks = {"pgd": PGD(eps=0.1, steps=1, random_start=False)}
    labels = torch.zeros(12).long()
    report = judge(noisy, torch.zeros(12, 4), labels, attacks, batch_size=4, progress=False)
    assert len(set(report.losses_clean.tolist())) == 12
