"""What the checks look at: a few examples, the evaluation's attacks, and probes of their own."""

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
from artplus.tree import Tree, detach, leaves, size
from artplus.tree import take as take_rows

SAMPLE = 64
"""Examples that the checks look at: enough to see a share of 5 %, cheap beside any evaluation."""

STEPS = 50
QUERIES = 200


@dataclass(frozen=True, eq=False)
class Path:
    """What an attack tried on the way to what it returned.

    Attributes:
        margins: ``(looks, batch)`` how far each look at the model was from right: the largest
            wrong logit less the right one, positive for a mistake.
        missed: ``(batch,)`` booleans: a mistake inside the rules was met and not returned.
    """

    margins: Tensor
    missed: Tensor


@dataclass(frozen=True, eq=False)
class Probe:
    """A sub-sample to be looked at closely.

    Attributes:
        data: Model and at most :data:`SAMPLE` examples.
        report: Of the whole evaluation.
        attacks: That were evaluated, by name.
        eps: Radius of the first of them that worked.
        norm: Its norm.
        standing: ``(m,)`` booleans, which of the examples the evaluation counts as robust;
            ``None`` in regression or if no attack worked.
        seed: Of every draw.
        surrogate: Another model for the same task, if there is one.
    """

    data: EvaluationData
    report: Report
    attacks: Mapping[str, Attack]
    eps: Budget
    norm: float
    standing: Tensor | None
    seed: int
    surrogate: LossModel | None = None

    def __len__(self) -> int:
        return self.data.n

    @property
    def classifies(self) -> bool:
        """Whether predictions are right or wrong by their logits over classes."""
        return self.data.classes is not None and self.data.classes > 1

    def over(self, function: Callable[[Tree, Tree, Space], Tensor], name: str) -> Tensor:
        """``function(x, y, space)`` of every batch, joined, on the CPU; draws follow ``name``."""
        with seeding.seeded(seeding.derived(self.seed, f"check:{name}")):
            everything = torch.arange(len(self))
            parts = [function(x, y, space) for _, x, y, space in self.data.batches(everything)]
        return torch.cat([part.detach().cpu() for part in parts])

    def predictions(self, name: str) -> Tensor:
        """The model's predictions, one pass; of several tensors all numbers of each example."""

        def predict(x: Tree, y: Tree, space: Space) -> Tensor:
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
        """``(m, *input)`` gradients of the loss at the inputs; ``None`` if there is no graph."""
        try:
            return self.over(self.slope, "gradients")
        except ConfigurationError:
            return None

    def slope(self, x: Tree, y: Tree, space: Space) -> Tensor:
        """Gradient of the model's own loss at ``x``, which attacks climb by default."""
        model = self.data.model

        def judge(z: Tensor) -> tuple[Tensor, Tensor]:
            return model.loss(model(space.insert(x, z)), y), z

        return look(judge, space.lift(model, x))[2]

    def wrong_after(self, attack: Attack, name: str) -> Tensor:
        """``(m,)`` booleans: which examples ``attack`` turns by the rules."""

        def attacked(x: Tree, y: Tree, space: Space) -> Tensor:
            x_adv = attack(self.data.model, x, y, space=space, generator=self._generator(name))
            return self.judged(x, x_adv, y, space, attack)

        return self.over(attacked, name)

    def judged(self, x: Tree, x_adv: Tree, y: Tree, space: Space, attack: Attack) -> Tensor:
        """``(batch,)`` booleans: wrong at ``x_adv``, and inside the rules; on the CPU."""
        with torch.no_grad():
            return self._by_the_rules(self.data.model(x_adv), x, x_adv, y, space, attack)

    def _by_the_rules(
        self,
        predictions: Tree,
        x: Tree,
        x_adv: Tree,
        y: Tree,
        space: Space,
        attack: Attack,
    ) -> Tensor:
        """The same of predictions at hand."""
        wrong = self.data.wrong(predictions, y)
        if wrong is None:
            return torch.zeros(size(x), dtype=torch.bool)
        checked = verify_in(space, self.data.model, x, x_adv, eps=attack.eps, norm=attack.norm)
        return wrong.cpu() & ~(checked.outside_ball | checked.outside_space)

    @cached_property
    def white_box(self) -> Tensor:
        """``(m,)`` booleans: which examples fall to 50 steps of Auto-PGD on the margin."""
        return self.wrong_after(self.stronger(), "white box")

    @cached_property
    def black_box(self) -> Tensor | None:
        """The same for 200 queries of Square; ``None`` where it is not defined."""
        if self.data.structured or not self.classifies:
            return None
        threat = Threat(1.0, self.norm, self.data.classes, tuple(self.data.x.shape[1:]))
        if not threat.squares:
            return None
        square = Square(eps=self.eps, norm=self.norm, queries=QUERIES)
        return self.wrong_after(square, "black box")

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
                fooled |= self.judged(x, point, y, space, attack)
            return fooled

        return self.over(drawn, "noise")

    def stronger(self, *, scale: float = 1.0, steps: int = STEPS) -> APGD:
        """Auto-PGD on the margin, which no scale of the logits can blind."""
        return APGD(eps=scaled(self.eps, scale), norm=self.norm, steps=steps, loss="margin")

    @cached_property
    def paths(self) -> dict[str, Path]:
        """Of each attack that worked and whose looks at the model are the points of an ascent."""
        if self.gradients is None or not self.classifies:
            return {}
        working = {result.name for result in self.report.working}
        watched = {
            name: self._path(_one_run(attack), f"path of {name}")
            for name, attack in self.attacks.items()
            if name in working and _climbs(attack)
        }
        return {name: path for name, path in watched.items() if path is not None}

    def _path(self, attack: Attack, name: str) -> Path | None:
        """Run ``attack`` and watch what it shows the model; ``None`` if that is nothing.

        Only passes over a whole batch are seen: what an attack does with parts of one, such as a
        later restart on the survivors, cannot be told apart by example.
        """
        looks: list[Tensor] = []
        missed: list[Tensor] = []
        model = self.data.model

        def watch(x: Tree, y: Tree, space: Space) -> Tensor:
            seen: list[Tensor] = []
            met = torch.zeros(size(x), dtype=torch.bool)

            def forward(at: Tree) -> Any:
                nonlocal met
                outputs = model.outputs(at)
                if size(at) == size(x) and _comparable(at, space):
                    logits = model.task.predictions(outputs, at, model.module).detach()
                    seen.append(margin(logits, y).cpu())
                    met |= self._by_the_rules(logits, x, detach(at), y, space, attack)
                return outputs

            watched = replace(model, forward=forward)
            x_adv = attack(watched, x, y, space=space, generator=self._generator(name))
            if seen:  # an attack that runs on a model of its own shows nothing
                looks.append(torch.stack(seen))
            missed.append(met & ~self.judged(x, x_adv, y, space, attack))
            return met

        self.over(watch, name)
        if len(looks) < len(missed):
            return None
        shortest = min(len(part) for part in looks)
        return Path(torch.cat([part[:shortest] for part in looks], 1), torch.cat(missed))

    def _generator(self, name: str) -> torch.Generator:
        seed = seeding.derived(self.seed, f"check:{name}")
        return torch.Generator(self.data.device).manual_seed(seed)


def take(
    data: EvaluationData,
    report: Report,
    attacks: Mapping[str, Attack],
    *,
    seed: int,
    surrogate: LossModel | None = None,
) -> Probe:
    """Draw the examples to look at from those that are right without an attack.

    Of a model that is always wrong it takes any, since its gradients can still be looked at.
    """
    right = report.correct_clean
    pool = np.arange(report.n) if right is None or not right.any() else np.flatnonzero(right)
    draw = np.random.default_rng(seeding.derived(seed, "checks"))
    index = torch.from_numpy(np.sort(draw.permutation(pool)[:SAMPLE]))
    working = [result.name for result in report.working]
    first = attacks[working[0] if working else next(iter(attacks))]
    stood = report.correct_robust
    return Probe(
        data=replace(
            data,
            x=take_rows(data.x, index),
            y=take_rows(data.y, index),
            space=data.space.take(index, data.x),
        ),
        report=report,
        attacks=attacks,
        eps=_rows(first.eps, index, data.x),
        norm=first.norm,
        standing=None if stood is None else torch.from_numpy(stood)[index],
        seed=seed,
        surrogate=surrogate,
    )


def _comparable(at: Tree, space: Space) -> bool:
    """Whether inputs are in the space: clean ones have no hidden perturbation."""
    return isinstance(at, Perturbed) or not space.hidden


def _climbs(attack: Attack) -> bool:
    """Whether an attack's looks at the model are the steps of an ascent."""
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
