"""One attack on trial: run, measured, scored, and believed only if it kept the rules."""

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

from artplus import distributed, passes, seeding
from artplus.attacks._base import Attack
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.minimum_norm import MinimumNorm
from artplus.evaluation.progress import Shown, bar
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
from artplus.evaluation.verify import verify_in
from artplus.evaluation.wording import norm_name, number
from artplus.functional import other_class
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tasks import Multilabel, Regression, Task
from artplus.tree import Tree

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What a trial hands to the judge.

    Attributes:
        result: For the report.
        fooled: Examples that it turned, at most as many as were asked for.
        held: Examples that it did not.
    """

    result: AttackResult
    fooled: list[Example]
    held: list[Example]


@dataclass(frozen=True)
class Fate:
    """How the attacked examples fared.

    Attributes:
        rows: ``(n,)`` booleans, the examples that the attack was run on before it ended or broke.
        columns: Their scores, as a :class:`ScoreTable` has them; empty if there are none.
    """

    rows: Tensor
    columns: dict[str, Tensor]


class _Broken(Exception):
    """The attack cannot go on; the message says why."""


def trial(
    data: EvaluationData,
    clean: ScoreTable,
    name: str,
    attack: Attack,
    *,
    skip: NDArray[np.bool_],
    fallen: NDArray[np.bool_],
    seed: int,
    exhibits: int,
    title: str = "",
    progress: bool = False,
    part: Part | None = None,
) -> tuple[Outcome, Fate]:
    """Run one attack, each process its share of the batches; all return the same.

    The attack is broken if it raises, returns something other than finite inputs of the right
    shape, returns every input unchanged although it may move them, or breaks the rules on even
    one example: then what withstands it is no evidence. An example that breaks the rules is put
    back to its input and is not fooled. A mistake found inside the rules is verified and counts,
    even of a broken attack.

    Args:
        data: Model and data.
        clean: Scores of all n examples without an attack.
        name: For the report; the draws of a batch follow from it, from ``seed`` and the batch's
            number, not from what ran before.
        attack: The attack.
        skip: ``(n,)`` booleans, which examples it is not run on; they count as wrong.
        fallen: ``(n,)`` booleans, which examples fell to the attacks before; for the bar.
        seed: Of the whole evaluation.
        exhibits: How many examples to keep.
        title: Of the progress bar.
        progress: Whether to show one.
        part: Where it is saved as it goes, and continued from.
    """
    targets = torch.from_numpy(~skip)
    room = exhibits if shows_examples(data) else 0
    record = ProgressRecord(int(targets.sum()), data.batch_size, data.classes, room)
    if part is None or not part.load(record):
        before, todo = record.done, record.todo()
        own = todo[distributed.share(len(todo))].tolist()
        struck = _struck(record, fallen[targets.numpy()])
        with bar(
            title or name,
            own=sum(map(record.size, own)),
            attacked=len(record.sheet) - record.examples,
            standing=len(fallen) - int(fallen.sum()) - struck,
            n=len(fallen),
            shown=progress,
        ) as shown:
            run = _Run(data, name, attack, targets.nonzero().flatten().int(), fallen, seed)
            run.through(own, record, part, shown)
        if distributed.world_size() > 1:
            record.absorb(distributed.all_gather(record.state(but=before)))
        record.settle()
        if part is not None:
            part.finish(record)
    return _outcome(data, clean, name, attack, skip, targets, record)


def shows_examples(data: EvaluationData) -> bool:
    """Whether examples are tensors of one shape with a prediction that a page can show."""
    task = data.model.task
    plain = task.over_classes or isinstance(task, (Regression, Multilabel))
    return plain and isinstance(data.space, InputSpace) and not isinstance(data.x, list)


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
    """One process's batches of one attack.

    Attributes:
        data: Model and data.
        name: Of the attack.
        attack: The attack.
        index: ``(attacked,)`` positions of the examples that it is run on.
        fallen: ``(n,)`` booleans, which examples fell before.
        seed: Of the whole evaluation.
    """

    data: EvaluationData
    name: str
    attack: Attack
    index: Tensor
    fallen: NDArray[np.bool_]
    seed: int

    def through(
        self, batches: Sequence[int], record: ProgressRecord, part: Part | None, shown: Shown
    ) -> None:
        """Run them one after the other, saving what is done however it ends."""
        try:
            with seeding.seeded(self.seed):
                for batch in batches:
                    self.one(batch, record, shown)
                    if part is not None:
                        part.step(record)
        except _Broken as reason:
            record.broken = batch, str(reason)
        except BaseException:
            if part is not None:
                part.save(record)
            raise

    def one(self, batch: int, record: ProgressRecord, shown: Shown) -> None:
        """Attack a batch, measure what comes back, and enter it."""
        begin = time.perf_counter()
        own = seeding.derived(self.seed, f"{self.name}:{batch}")
        seeding.reseed(own)
        part, x, y, space = self.data.batch(self.index[record.rows(batch)].long())
        label = _aims(self.data, y, own) if getattr(self.attack, "targeted", False) else y
        generator = torch.Generator(self.data.device).manual_seed(own)
        with passes.counted(self.data.model) as (model, cost):
            x_adv = _craft(model, self.attack, x, label, space, generator)
        bare = self.data.model
        found = verify_in(space, bare, x, x_adv, eps=self.attack.eps, norm=self.attack.norm)
        beyond = 0
        z, z_adv = space.lift(bare, x), space.extract(x_adv)
        if isinstance(self.attack, MinimumNorm):
            far = found.outside_ball
            beyond = int(far.sum())
            z_adv = _put_back(z, z_adv, far)
            found = dataclasses.replace(
                found,
                outside_ball=torch.zeros_like(far),
                lengths=torch.where(far, 0.0, found.lengths),
            )
        z_adv = _put_back(z, z_adv, found.outside_ball | found.outside_space)
        scores = self.data.score(space.insert(x, z_adv), y)
        seconds = time.perf_counter() - begin
        record.add(batch, part, z, z_adv, scores, found, beyond=beyond, seconds=seconds, cost=cost)
        stood = ~torch.from_numpy(self.fallen)[part]
        shown(len(part), None if scores.wrong is None else int((scores.wrong & stood).sum()))


def _put_back(x: Tensor, x_adv: Tensor, rows: Tensor) -> Tensor:
    """``x_adv`` with the inputs themselves where ``rows`` is true."""
    return torch.where(rows.to(x.device).view(-1, *(1,) * (x.ndim - 1)), x, x_adv)


def _aims(data: EvaluationData, y: Tree, seed: int) -> Tree:
    """For each example a class other than its own, uniformly drawn."""
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
    try:
        x_adv = attack(model, x, y, space=space, generator=generator)
    except Exception as error:
        # Whatever a third party's attack raises is a finding about that attack: it is reported
        # as broken, and the attacks after it still run. The traceback goes to the log.
        _log.info("attack %s raised", type(attack).__name__, exc_info=True)
        message = " ".join(str(error).split())[:300]
        raise _Broken(f"raised {type(error).__name__}: {message}") from error
    z = space.lift(model, x)
    try:
        z_adv = space.extract(x_adv)
    except (DataError, ConfigurationError, KeyError) as error:
        raise _Broken(f"returned {type(x_adv).__name__} instead of {_form(x)}") from error
    if not isinstance(z_adv, Tensor):
        raise _Broken(f"returned {type(x_adv).__name__} instead of a tensor")
    if z_adv.shape != z.shape:
        raise _Broken(f"returned shape {tuple(z_adv.shape)} for inputs of shape {tuple(z.shape)}")
    lost = int((~torch.isfinite(z_adv)).reshape(len(z), -1).any(1).sum())
    if lost:
        raise _Broken(f"returned NaN or infinity in {lost} of {len(z)} examples of a batch")
    return x_adv.detach().to(x) if isinstance(x, Tensor) and isinstance(x_adv, Tensor) else x_adv


def _form(x: Tree) -> str:
    return "a tensor" if isinstance(x, Tensor) else "perturbed inputs"


def _struck(record: ProgressRecord, fallen: NDArray[np.bool_]) -> int:
    """How many examples that stood before have fallen in the batches that are done."""
    wrong = record.sheet.wrong
    if wrong is None:
        return 0
    return int((wrong.numpy() & record.rows_done().numpy() & ~fallen).sum())


def _outcome(
    data: EvaluationData,
    clean: ScoreTable,
    name: str,
    attack: Attack,
    skip: NDArray[np.bool_],
    targets: Tensor,
    record: ProgressRecord,
) -> tuple[Outcome, Fate]:
    eps, attacked = largest_radius_in(attack, data), len(record.sheet)
    broken = _verdict(record, attack, eps) if record.broken is None else record.broken[1]
    rows, done = targets.clone(), record.rows_done()
    rows.numpy()[targets.numpy()] = done.numpy()
    columns = record.sheet.columns if bool(done.all()) else record.sheet.rows(done)

    def filled(column: str, otherwise: NDArray[Any]) -> NDArray[Any]:
        found = otherwise.copy()
        if column in columns:
            found[rows.numpy()] = columns[column].numpy()
        return found

    losses = filled("losses", clean.losses.numpy())
    statistics = {
        name: filled(f"{METRIC}{name}", values.numpy()) for name, values in clean.statistics.items()
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
        attacked=attacked,
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
    return Outcome(result, record.fooled, record.held), Fate(rows, columns)


def _verdict(record: ProgressRecord, attack: Attack, eps: float) -> str | None:
    """Why a finished attack does not count, if it does not."""
    attacked = len(record.sheet)
    outside_ball, outside_space, changed = record.count(OUTSIDE_BALL, OUTSIDE_SPACE, CHANGED)
    (beyond,) = record.count(BEYOND)
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
    if beyond and beyond == changed and _strays(attack):
        return (
            f"never came within eps {number(eps)} in {norm_name(float(attack.norm))}, which it "
            f"does not make small ({beyond} of {attacked} examples beyond), so it shows nothing"
        )
    return None


def _strays(attack: Attack) -> bool:
    """Whether it goes as far as it likes in the norm that it is judged by."""
    return isinstance(attack, MinimumNorm) and not attack.minimises


def _flags(
    record: ProgressRecord, attack: Attack, fooled: NDArray[np.bool_] | None
) -> tuple[str, ...]:
    flags, attacked = [], len(record.sheet)
    changed, beyond = record.count(CHANGED, BEYOND)
    if fooled is not None:
        flags.append(
            f"{int(fooled.sum())} mistakes that it found inside the rules count against the model"
        )
    if beyond and _strays(attack):
        flags.append(
            f"{beyond} of {attacked} examples came back farther than eps, in a norm that it does "
            "not make small: it shows nothing of them, and they count as not fooled"
        )
    elif beyond:
        flags.append(f"{beyond} of {attacked} examples needed more than eps: not fooled")
    still = attacked - changed
    if changed and still:
        flags.append(f"{still} of {attacked} examples came back unchanged")
    return tuple(flags)
