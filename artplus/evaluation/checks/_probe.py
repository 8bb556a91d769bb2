"""What the checks examine: a few examples, the evaluation's attacks, and attacks of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artplus import seeding
from artplus.attacks import APGD, FAB, Attack, Square
from artplus.attacks._base import Budget, Relative, look, scaled
from artplus.attacks._goal import LossName
from artplus.attacks._problem import make_problem
from artplus.errors import ConfigurationError
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.minimum_norm import MinimumNorm
from artplus.evaluation.named import Threat
from artplus.evaluation.report import Report
from artplus.evaluation.verify import verify_in
from artplus.functional import margin
from artplus.mapped import Rows
from artplus.model import LossModel
from artplus.spaces import Perturbed, Space
from artplus.tree import Tree, detach, leaves, size, take

SAMPLE = 64
"""Examples that the checks examine: enough to detect a share of 5 %, cheap beside an evaluation."""

STEPS = 50
QUERIES = 200


@dataclass(frozen=True, eq=False)
class Path:
    """The points that an attack tried before it returned one.

    Attributes:
        margins: ``(points, batch)`` how wrong the model is at each point: the largest wrong logit
            less the right one, positive for a mistake.
        missed: ``(batch,)`` booleans: the attack tried a mistake inside the rules and returned a
            point that is none.
    """

    margins: Tensor
    missed: Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """A sub-sample of an evaluation, and what the checks measure on it.

    Attributes:
        data: Model and at most :data:`SAMPLE` examples.
        report: Of the whole evaluation.
        attacks: That were evaluated, by name.
        eps: Radius of the first of them that worked.
        norm: Its norm.
        robust: ``(m,)`` booleans, which of the examples the evaluation counts as robust; ``None``
            in regression or if no attack worked.
        seed: Of every draw.
        surrogate: Another model for the same task, if there is one.
    """

    data: EvaluationData
    report: Report
    attacks: Mapping[str, Attack]
    eps: Budget
    norm: float
    robust: Tensor | None
    seed: int
    surrogate: LossModel | None = None

    def __len__(self) -> int:
        return self.data.n

    @property
    def classifies(self) -> bool:
        """Whether predictions are right or wrong by their logits over classes."""
        return self.data.classes is not None and self.data.classes > 1

    @property
    def right_or_wrong(self) -> bool:
        """Whether predictions are right or wrong at all."""
        return self.report.correct_clean is not None

    def over(self, function: Callable[[Tree, Tree, Space], Tensor], name: str) -> Tensor:
        """``function(x, y, space)`` of every batch, concatenated, on the CPU.

        Random draws follow from ``name``.
        """
        with seeding.seeded(seeding.derived(self.seed, f"check:{name}")):
            index = torch.arange(len(self))
            results = [function(x, y, space) for _, x, y, space in self.data.batches(index)]
        return torch.cat([result.detach().cpu() for result in results])

    def predictions(self, name: str) -> Tensor:
        """The model's predictions, one pass; of several tensors all numbers of each example.

        The losses where the model computes its losses itself.
        """

        def predict(x: Tree, y: Tree, space: Space) -> Tensor:
            if self.data.model.task.in_model:
                return self.data.score(x, y).losses[:, None]
            with torch.no_grad():
                predictions = self.data.model(x)
            if isinstance(predictions, Tensor):
                return predictions
            n = size(x)
            rows = [
                v.reshape(n, -1)
                for v in leaves(predictions)
                if isinstance(v, Tensor) and v.ndim and len(v) == n
            ]
            return torch.cat([v.float() for v in rows], 1) if rows else torch.zeros(n, 1)

        return self.over(predict, name)

    @cached_property
    def gradients(self) -> Tensor | None:
        """``(m,)`` L1 norms of the loss' gradients at the inputs; ``None`` if there is no graph."""
        try:
            return self.over(self._gradient, "gradients")
        except ConfigurationError:
            return None

    def _gradient(self, x: Tree, y: Tree, space: Space) -> Tensor:
        """Norm of the gradient of the model's own loss, which attacks climb by default."""
        model = self.data.model

        def judge(z: Tensor) -> tuple[Tensor, Tensor]:
            return model.loss(model(space.insert(x, z)), y), z

        return look(judge, space.lift(model, x))[2].flatten(1).abs().sum(1)

    def fooled_by(self, attack: Attack, name: str) -> Tensor:
        """``(m,)`` booleans: which examples ``attack`` fools inside the rules."""

        def attacked(x: Tree, y: Tree, space: Space) -> Tensor:
            x_adv = attack(self.data.model, x, y, space=space, generator=self._generator(name))
            return self.fooled(x, x_adv, y, space, attack)

        return self.over(attacked, name)

    def fooled(
        self,
        x: Tree,
        x_adv: Tree,
        y: Tree,
        space: Space,
        attack: Attack,
        predictions: Tree | None = None,
    ) -> Tensor:
        """``(batch,)`` booleans on the CPU: wrong at ``x_adv``, which is inside the rules.

        ``predictions`` are those for ``x_adv``, if they are known.
        """
        if predictions is None:
            with torch.no_grad():
                predictions = self.data.model(x_adv)
        wrong = self.data.wrong(predictions, y)
        if wrong is None:
            return torch.zeros(size(x), dtype=torch.bool)
        measured = verify_in(space, self.data.model, x, x_adv, eps=attack.eps, norm=attack.norm)
        return wrong.cpu() & ~(measured.outside_ball | measured.outside_space)

    @cached_property
    def white_box(self) -> Tensor:
        """``(m,)`` booleans: which examples 50 steps of :meth:`stronger` fool."""
        return self.fooled_by(self.stronger(), "white box")

    @cached_property
    def black_box(self) -> Tensor | None:
        """The same for 200 queries of Square; ``None`` where it is not defined."""
        if self.data.structured or not self.classifies:
            return None
        threat = Threat(1.0, self.norm, self.data.classes, tuple(self.data.x.shape[1:]))
        if not threat.squares:
            return None
        square = Square(eps=self.eps, norm=self.norm, queries=QUERIES)
        return self.fooled_by(square, "black box")

    @cached_property
    def noise(self) -> Tensor:
        """The same for 20 random points of the ball."""

        def drawn(x: Tree, y: Tree, space: Space) -> Tensor:
            attack, model = self.stronger(), self.data.model
            generator, fooled = self._generator("noise"), torch.zeros(size(x), dtype=torch.bool)
            problem = make_problem(
                model, x, y, eps=self.eps, norm=self.norm, space=space, generator=generator
            )
            for _ in range(20):
                point = problem.insert(problem.random_point())
                fooled |= self.fooled(x, point, y, space, attack)
            return fooled

        return self.over(drawn, "noise")

    def stronger(self, *, scale: float = 1.0, steps: int = STEPS) -> APGD:
        """Auto-PGD on the margin, which does not depend on the scale of the logits.

        On the model's own loss where predictions are not of one class.
        """
        loss: LossName | None = "margin" if self.classifies else None
        return APGD(eps=scaled(self.eps, scale), norm=self.norm, steps=steps, loss=loss)

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The path of each attack that worked and whose forward passes are steps of an ascent."""
        if self.gradients is None or not self.classifies:
            return {}
        working = {result.name for result in self.report.working}
        paths = {
            name: self._path(_one_run(attack), f"path of {name}")
            for name, attack in self.attacks.items()
            if name in working and _climbs(attack)
        }
        return {name: path for name, path in paths.items() if path is not None}

    def _path(self, attack: Attack, name: str) -> Path | None:
        """Run ``attack`` and record its forward passes; ``None`` if it makes none.

        Only passes over a whole batch are recorded: the examples in a part of one, such as a later
        restart on the survivors, are not known.
        """
        margins: list[Tensor] = []
        missed: list[Tensor] = []
        model = self.data.model

        def run(x: Tree, y: Tree, space: Space) -> Tensor:
            points: list[Tensor] = []
            fooled = torch.zeros(size(x), dtype=torch.bool)

            def forward(at: Tree) -> Any:
                nonlocal fooled
                outputs = model.outputs(at)
                if size(at) == size(x) and (isinstance(at, Perturbed) or not space.hidden):
                    logits = model.task.predictions(outputs, at, model.module).detach()
                    points.append(margin(logits, y).cpu())
                    fooled |= self.fooled(x, detach(at), y, space, attack, logits)
                return outputs

            recording = replace(model, forward=forward)
            x_adv = attack(recording, x, y, space=space, generator=self._generator(name))
            if points:  # an attack that calls a model of its own makes none here
                margins.append(torch.stack(points))
            missed.append(fooled & ~self.fooled(x, x_adv, y, space, attack))
            return fooled

        self.over(run, name)
        if len(margins) < len(missed):
            return None
        shortest = min(map(len, margins))
        return Path(torch.cat([batch[:shortest] for batch in margins], 1), torch.cat(missed))

    def _generator(self, name: str) -> torch.Generator:
        seed = seeding.derived(self.seed, f"check:{name}")
        return torch.Generator(self.data.device).manual_seed(seed)


def make_probe(
    data: EvaluationData,
    report: Report,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    surrogate: LossModel | None = None,
) -> Probe:
    """Draw the examples to examine from those that are right without an attack.

    Of a model that is always wrong it draws any, since its gradients can still be examined.
    """
    right = report.correct_clean
    pool = np.arange(report.n) if right is None or not right.any() else np.flatnonzero(right)
    draw = np.random.default_rng(seeding.derived(seed, "checks"))
    index = torch.from_numpy(np.sort(draw.permutation(pool)[:SAMPLE]))
    working = [result.name for result in report.working]
    first = attacks[working[0] if working else next(iter(attacks))]
    robust = report.correct_robust
    return Probe(
        data=replace(
            data,
            x=take(data.x, index),
            y=take(data.y, index),
            space=data.space.take(index, data.x),
        ),
        report=report,
        attacks=attacks,
        eps=_rows(first.eps, index, data.x),
        norm=first.norm,
        robust=None if robust is None else torch.from_numpy(robust)[index],
        seed=seed,
        surrogate=surrogate,
    )


def _climbs(attack: Attack) -> bool:
    """Whether an attack's forward passes are the steps of an ascent."""
    return hasattr(attack, "steps") and not isinstance(attack, (FAB, MinimumNorm))


def _one_run(attack: Attack) -> Attack:
    """Auto-PGD on whole batches only: no restarts, no targets, and fooled examples stay."""
    if not isinstance(attack, APGD):
        return attack
    return replace(attack, restarts=1, targets=1, until_fooled=False)


def _rows(eps: Budget, index: Tensor, x: Tree) -> Budget:
    """A radius per example for the examples ``index`` alone."""
    if isinstance(eps, (float, int, Relative)) or not isinstance(x, (Tensor, Rows)):
        return eps
    radius: Any = torch.as_tensor(eps)
    return radius[index] if radius.ndim == x.ndim and len(radius) == len(x) else eps
