"""Run one attack, measure what it returns, and count it only if it kept the rules."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from artplus import distributed, passes, seeding, tree
from artplus.attacks._base import Attack
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.minimum_norm import MinimumNorm
from artplus.evaluation.progress import Advance, bar
from artplus.evaluation.progress_record import (
    BEYOND,
    CHANGED,
    OUTSIDE_BALL,
    OUTSIDE_SPACE,
    Example,
    ProgressRecord,
)
from artplus.evaluation.result import AttackResult
from artplus.evaluation.saved import Part
from artplus.evaluation.score_table import METRIC, ScoreTable
from artplus.evaluation.settings import largest_radius_in, parameters
from artplus.evaluation.untouched import Guard
from artplus.evaluation.verify import verify_in
from artplus.evaluation.wording import norm_name, number
from artplus.functional import other_class
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tasks import Task
from artplus.tree import Tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AttackScores:
    """Scores of the attacked examples.

    Attributes:
        rows: ``(n,)`` booleans, the examples that the attack was run on before it ended or broke.
        columns: Their scores, as a :class:`ScoreTable` has them; empty if there are none.
    """

    rows: Tensor
    columns: dict[str, Tensor]


@dataclass(frozen=True)
class Outcome:
    """One attack run.

    Attributes:
        result: For the report.
        scores: For the worst case over all attacks.
        fooled: Examples that the attack fooled, at most as many as the report shows.
        robust: Examples that it did not fool, likewise.
    """

    result: AttackResult
    scores: AttackScores
    fooled: list[Example]
    robust: list[Example]


class _Broken(Exception):
    """The attack cannot go on; the message says why."""


def run_attack(
    data: EvaluationData,
    clean: ScoreTable,
    name: str,
    attack: Attack,
    *,
    skip: NDArray[np.bool_],
    already_fooled: NDArray[np.bool_],
    seed: int,
    examples: int,
    title: str = "",
    progress: bool = False,
    part: Part | None = None,
) -> Outcome:
    """Run one attack; each process runs its share of the batches, and all return the same.

    The attack is broken if it raises, returns something other than finite inputs of the right
    shape, returns every input unchanged although it may move them, or breaks the rules on even
    one example: an example that withstands it is then no evidence. An example that breaks the rules
    is replaced by its clean input and is not fooled. A mistake inside the rules is verified and
    counts, even of a broken attack.

    Args:
        data: Model and data.
        clean: Scores of all n examples without an attack.
        name: For the report. The draws of a batch follow from the name, ``seed`` and the batch's
            number, not from what ran before.
        attack: The attack.
        skip: ``(n,)`` booleans, which examples it is not run on; they count as wrong.
        already_fooled: ``(n,)`` booleans, which examples earlier attacks fooled; for the bar.
        seed: Of the whole evaluation.
        examples: How many examples to keep.
        title: Of the progress bar.
        progress: Whether to show one.
        part: Where the run is saved, and continued from.
    """
    attacked = torch.from_numpy(~skip)
    max_examples = examples if shows_examples(data) else 0
    record = ProgressRecord(int(attacked.sum()), data.batch_size, data.classes, max_examples)
    if part is None or not part.load(record):
        done_before, todo = record.done, record.todo()
        batches = todo[distributed.share(len(todo))].tolist()
        fooled_here = _newly_fooled(record, already_fooled[attacked.numpy()])
        with bar(
            title or name,
            total=sum(map(record.size, batches)),
            attacked=len(record.scores) - record.examples_done,
            robust=len(skip) - int(already_fooled.sum()) - fooled_here,
            n=len(skip),
            shown=progress,
        ) as advance:
            index = attacked.nonzero().flatten().int()
            guard = Guard(data.model.module)
            run = _Run(data, name, attack, index, already_fooled, seed, guard)
            run.batches(batches, record, part, advance)
        if distributed.world_size() > 1:
            record.merge(distributed.all_gather(record.state(exclude=done_before)))
        record.finish()
        if part is not None:
            part.finish(record)
    return _outcome(data, clean, name, attack, skip, record)


def shows_examples(data: EvaluationData) -> bool:
    """Whether examples are tensors of one shape with a prediction that a page can show."""
    plain = isinstance(data.space, InputSpace) and not isinstance(data.x, list)
    return plain and data.model.task.shown


def metrics(
    task: Task, losses: NDArray[Any], statistics: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Mean loss, and the task's metrics over all examples."""
    means = {"loss": float(losses.mean(dtype=np.float64))}
    for name, metric in task.metrics().items():
        if name in statistics:
            means[name] = metric.compute(torch.from_numpy(statistics[name]))
    return means


@dataclass(frozen=True)
class _Run:
    """The batches of one attack that this process runs.

    Attributes:
        data: Model and data.
        name: Of the attack.
        attack: The attack.
        index: ``(attacked,)`` positions of the examples that it is run on.
        already_fooled: ``(n,)`` booleans, which examples earlier attacks fooled.
        seed: Of the whole evaluation.
        guard: Puts back what the attack changes of the model.
    """

    data: EvaluationData
    name: str
    attack: Attack
    index: Tensor
    already_fooled: NDArray[np.bool_]
    seed: int
    guard: Guard

    def batches(
        self, numbers: Sequence[int], record: ProgressRecord, part: Part | None, advance: Advance
    ) -> None:
        """Run them one after the other; what is done is saved, also after an exception."""
        try:
            with seeding.seeded(self.seed):
                for batch in numbers:
                    self.batch(batch, record, advance)
                    if part is not None:
                        part.step(record)
        except _Broken as reason:
            record.broken = batch, str(reason)
        except BaseException:
            if part is not None:
                part.save(record)
            raise

    def batch(self, batch: int, record: ProgressRecord, advance: Advance) -> None:
        """Attack a batch, measure what comes back, and enter it."""
        begin = time.perf_counter()
        seed = seeding.derived(self.seed, f"{self.name}:{batch}")
        seeding.reseed(seed)
        positions, x, y, space = self.data.batch(self.index[record.rows(batch)].long())
        labels = y
        if getattr(self.attack, "targeted", False):
            labels = _target_classes(self.data, y, seed)
        generator = torch.Generator(self.data.device).manual_seed(seed)
        model = self.data.model
        z = space.lift(model, x)  # may run the model, which is no pass of the attack
        try:
            with passes.counted(model) as (counting, cost):
                x_adv = _craft(counting, self.attack, x, labels, space, generator)
        finally:
            changed = self.guard.put_back()
        if changed is not None:
            raise _Broken(f"changed {changed}, which was put back")
        z_adv = space.extract(x_adv)
        measured = verify_in(space, model, x, x_adv, eps=self.attack.eps, norm=self.attack.norm)
        beyond = 0
        if isinstance(self.attack, MinimumNorm):
            too_long = measured.outside_ball
            beyond = int(too_long.sum())
            z_adv = _restored(z, z_adv, too_long)
            measured = dataclasses.replace(
                measured,
                outside_ball=torch.zeros_like(too_long),
                lengths=torch.where(too_long, 0.0, measured.lengths),
            )
        z_adv = _restored(z, z_adv, measured.outside_ball | measured.outside_space)
        scores = self.data.score(space.insert(x, z_adv), y)
        seconds = time.perf_counter() - begin
        record.add(
            batch, positions, z, z_adv, scores, measured, beyond=beyond, seconds=seconds, cost=cost
        )
        newly_fooled = None
        if scores.wrong is not None:
            before = torch.from_numpy(self.already_fooled)[positions]
            newly_fooled = int((scores.wrong & ~before).sum())
        advance(len(positions), newly_fooled)


def _restored(z: Tensor, z_adv: Tensor, rows: Tensor) -> Tensor:
    """``z_adv`` with the clean inputs where ``rows`` is true."""
    return torch.where(rows.to(z.device).view(-1, *(1,) * (z.ndim - 1)), z, z_adv)


def _target_classes(data: EvaluationData, y: Tree, seed: int) -> Tree:
    """A wrong class for each example, uniformly drawn."""
    if data.classes is None or data.classes < 2:
        raise _Broken("is targeted, which needs a classifier of at least two classes")
    generator = torch.Generator().manual_seed(seeding.derived(seed, "aims"))
    return other_class(y, data.classes, generator)


def _craft(
    model: LossModel,
    attack: Attack,
    x: Tree,
    y: Tree,
    space: Space,
    generator: torch.Generator,
) -> Tree:
    """Call the attack on copies of inputs and targets, which it may overwrite.

    Raises:
        _Broken: if it raises, or returns anything but finite inputs of the right form.
    """
    try:
        x_adv = attack(model, tree.clone(x), tree.clone(y), space=space, generator=generator)
    except Exception as error:
        # A third party's attack may raise anything: it is reported as broken, and the attacks after
        # it still run. The traceback goes to the log.
        _log.info("attack %s raised", type(attack).__name__, exc_info=True)
        message = " ".join(str(error).split())[:300]
        raise _Broken(f"raised {type(error).__name__}: {message}") from error
    z = space.lift(model, x)
    try:
        z_adv: Any = space.extract(x_adv)
    except (DataError, ConfigurationError, KeyError) as error:
        raise _Broken(f"returned {type(x_adv).__name__} instead of {_form(x)}") from error
    if not isinstance(z_adv, Tensor):
        raise _Broken(f"returned {type(x_adv).__name__} instead of a tensor")
    if z_adv.shape != z.shape:
        raise _Broken(f"returned shape {tuple(z_adv.shape)} for inputs of shape {tuple(z.shape)}")
    not_finite = int((~torch.isfinite(z_adv)).reshape(len(z), -1).any(1).sum())
    if not_finite:
        raise _Broken(f"returned NaN or infinity in {not_finite} of {len(z)} examples of a batch")
    return x_adv.detach().to(x) if isinstance(x, Tensor) and isinstance(x_adv, Tensor) else x_adv


def _form(x: Tree) -> str:
    return "a tensor" if isinstance(x, Tensor) else "perturbed inputs"


def _newly_fooled(record: ProgressRecord, already_fooled: NDArray[np.bool_]) -> int:
    """How many examples that no earlier attack fooled are fooled in the batches that are done."""
    wrong = record.scores.wrong
    if wrong is None:
        return 0
    return int((wrong.numpy() & record.rows_done().numpy() & ~already_fooled).sum())


def _outcome(
    data: EvaluationData,
    clean: ScoreTable,
    name: str,
    attack: Attack,
    skip: NDArray[np.bool_],
    record: ProgressRecord,
) -> Outcome:
    eps = largest_radius_in(attack, data)
    broken = _why_broken(record, attack, eps) if record.broken is None else record.broken[1]
    done = record.rows_done()
    rows = ~skip
    rows[rows] = done.numpy()
    columns = record.scores.columns if bool(done.all()) else record.scores.rows(done)

    def filled(column: str, default: NDArray[Any]) -> NDArray[Any]:
        """The column over all examples: the default where the attack was not run."""
        values = default.copy()
        if column in columns:
            values[rows] = columns[column].numpy()
        return values

    losses = filled("losses", clean.losses.numpy())
    statistics = {
        metric: filled(f"{METRIC}{metric}", values.numpy())
        for metric, values in clean.statistics.items()
    }
    wrong = None if clean.wrong is None else filled("wrong", skip)
    fooled = None
    if broken and wrong is not None and bool((wrong & ~skip).any()):
        fooled = wrong & ~skip
    outside_ball, outside_space, changed = record.count(OUTSIDE_BALL, OUTSIDE_SPACE, CHANGED)
    forwards, backwards = record.passes or (None, None)
    result = AttackResult(
        name=name,
        norm=float(attack.norm),
        eps=eps,
        params=parameters(attack),
        attacked=len(record.scores),
        correct=None if broken or wrong is None else ~wrong,
        losses=None if broken else losses,
        metrics={} if broken else metrics(data.model.task, losses, statistics),
        changed=changed,
        max_norm=record.longest,
        mean_norm=record.mean_length,
        eps_violations=outside_ball,
        clip_violations=outside_space,
        seconds=record.seconds,
        forwards=forwards,
        backwards=backwards,
        flags=_flags(record, attack, fooled),
        broken=broken,
        fooled=fooled,
    )
    scores = AttackScores(torch.from_numpy(rows), columns)
    return Outcome(result, scores, record.fooled, record.robust)


def _why_broken(record: ProgressRecord, attack: Attack, eps: float) -> str | None:
    """Why a finished attack does not count, if it does not."""
    attacked = len(record.scores)
    outside_ball, outside_space, changed, beyond = record.count(
        OUTSIDE_BALL, OUTSIDE_SPACE, CHANGED, BEYOND
    )
    if outside_ball:
        return (
            f"left its ball on {outside_ball} of {attacked} examples "
            f"(largest norm {number(record.longest)}, eps {number(eps)})"
        )
    if outside_space:
        return (
            f"left the range of valid inputs, or changed what the mask holds, on "
            f"{outside_space} of {attacked} examples"
        )
    if attacked and eps > 0 and not changed:
        return f"returned all {attacked} inputs unchanged, so it shows nothing"
    if beyond and beyond == changed and _ignores_norm(attack):
        return (
            f"never came within eps {number(eps)} in {norm_name(float(attack.norm))}, which it "
            f"does not make small ({beyond} of {attacked} examples beyond), so it shows nothing"
        )
    return None


def _ignores_norm(attack: Attack) -> bool:
    """Whether it does not minimise the norm that it is judged by."""
    return isinstance(attack, MinimumNorm) and not attack.minimises


def _flags(
    record: ProgressRecord, attack: Attack, fooled: NDArray[np.bool_] | None
) -> tuple[str, ...]:
    flags, attacked = [], len(record.scores)
    changed, beyond = record.count(CHANGED, BEYOND)
    if fooled is not None:
        flags.append(
            f"{int(fooled.sum())} mistakes that it found inside the rules count against the model"
        )
    if beyond and _ignores_norm(attack):
        flags.append(
            f"{beyond} of {attacked} examples came back farther than eps, in a norm that it does "
            "not make small: it shows nothing of them, and they count as not fooled"
        )
    elif beyond:
        flags.append(f"{beyond} of {attacked} examples needed more than eps: not fooled")
    if changed and changed < attacked:
        flags.append(f"{attacked - changed} of {attacked} examples came back unchanged")
    return tuple(flags)
