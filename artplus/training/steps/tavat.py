"""TAVAT: FreeLB with a perturbation of each word of the vocabulary (Li and Qiu, 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import Budget
from artplus.attacks._base import check_budget
from artplus.attacks._problem import Problem
from artplus.attacks.noise import draw
from artplus.errors import ConfigurationError
from artplus.geometry import L2, Eps, TokenL2, column
from artplus.spaces import EmbeddingSpace
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Gradients, measure, move
from artplus.training.steps._passes import averaged, ball
from artplus.training.steps.standard import standard

MEMORY = "tavat"
_TOKENS, _WHOLE = TokenL2(), L2()


@dataclass(frozen=True)
class TAVAT:
    r"""Ascend a perturbation of the sentence and one of each token, kept by word [LiQiu21]_.

    .. math:: \delta = \delta_\text{sentence} + \delta_\text{token}, \qquad
              \delta_\text{token}^{(0)} = T[\text{ids}] \, / \, \|T[\text{ids}]\|

    The gradient of the weights is averaged over K passes as in
    :class:`~artplus.training.steps.FreeLB`. The sentence's part takes steps of length α along the
    gradient of the sentence, each token's along its own; a token's part is then multiplied by its
    length relative to the longest of the sentence, and both parts are shortened together into the
    radius. At the end the tokens' parts are added to the rows of the table T, ``(vocabulary,
    dimension)``, which begins as :math:`U(-1, 1) \, m / \sqrt{H}`. The table is part of
    checkpoints, in float32: 94 MB for BERT. Each process keeps its own.

    Differs from the authors' code: (1) padding and special tokens have no part; (2) the start is
    shortened into the radius too; (3) a gradient of zero or one that is not finite moves nothing;
    (4) the K passes share their dropout masks, and their gradient is the mean, where theirs is the
    sum, K times as long.

    Args:
        steps: K, >= 1; 2 or 3 in the authors' commands.
        step_size: α, in the units of the radius; default a fifth of the radius. 0.02 to 0.1 in the
            commands, at radii from 0.14 to 0.5.
        start: m, in the units of the radius; default the radius. 0.1 to 0.2 in the commands.

    Raises:
        ConfigurationError: in training, for another space than an ``EmbeddingSpace`` per example,
            another norm than 2, an attack other than PGD, or inside ``AWP``.

    References:
        .. [LiQiu21] Li and Qiu, "TAVAT: token-aware virtual adversarial training for language
           understanding", AAAI 2021, https://arxiv.org/abs/2004.14543
    """

    steps: int = 2
    step_size: Budget | None = None
    start: Budget | None = None

    def __post_init__(self) -> None:
        _checks.count("steps", self.steps)
        for size in (self.step_size, self.start):
            if size is not None:
                check_budget(size, 2)

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One step; see :data:`~artplus.training.steps.Step`."""
        if not state.method.attacks(state.progress):
            standard(state, batch, gradients)
            return
        problem = ball(state, batch, "TAVAT")
        space = _space_of(problem)
        ids = space.ids(batch.x)
        step = problem.eps / 5 if self.step_size is None else problem.resolve(self.step_size)
        start = problem.eps if self.start is None else problem.resolve(self.start)
        table = self._table(state, space, problem, start)
        parts = _Parts(problem, draw(problem, start), table[ids], step)
        output = averaged(
            state, batch, problem, problem.z0 + parts.total, self.steps, parts.ascend, "TAVAT"
        )
        move(state, gradients)
        table.index_put_((ids,), parts.token, accumulate=True)
        measure(state, batch, output)

    @staticmethod
    def _table(state: State, space: EmbeddingSpace, problem: Problem, start: Eps) -> Tensor:
        """The table of the run; drawn when it is first needed."""
        if MEMORY not in state.memory:
            (site,) = space.sites(state.model.module)
            z = problem.z0
            weight = site.get_parameter("weight")
            noise = torch.rand(
                weight.shape,
                generator=state.generator,
                device=z.device,
                dtype=z.dtype,
            )
            state.memory[MEMORY] = (noise * 2 - 1) * (start / z.shape[-1] ** 0.5)
        return state.memory[MEMORY]


class _Parts:
    """The two parts of a batch's perturbation.

    Args:
        problem: Ball and region.
        sentence: First part of the sentences, ``(batch, tokens, dimension)``.
        token: Rows of the table.
        step: Length of a step.
    """

    def __init__(self, problem: Problem, sentence: Tensor, token: Tensor, step: Eps) -> None:
        self._problem, self._step = problem, step
        token = problem.region.restrict(token)
        self.sentence, self.token = sentence, token / _guard(token.norm())
        self._shorten()

    @property
    def total(self) -> Tensor:
        """Their sum."""
        return self.sentence + self.token

    def ascend(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Move both; see :data:`~artplus.training.steps._passes.Ascend`."""
        self.sentence = self.sentence + self._step * _WHOLE.steepest(gradient)
        token = self.token + self._step * _TOKENS.steepest(gradient)
        lengths = _TOKENS.row_lengths(token)
        self.token = token * (lengths / _guard(lengths.amax(1, keepdim=True)))
        self._shorten()
        return self._problem.z0 + self.total

    def _shorten(self) -> None:
        """Bring their sum into the radius."""
        length = column(_WHOLE.length(self.total), self.sentence)
        shorter = torch.clamp(self._problem.eps / _guard(length), max=1.0)
        self.sentence, self.token = self.sentence * shorter, self.token * shorter


def _guard(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _space_of(problem: Problem) -> EmbeddingSpace:
    space = problem.space
    if not isinstance(space, EmbeddingSpace) or space.per != "example":
        raise ConfigurationError(
            "TAVAT keeps a perturbation for each word, so it needs space=EmbeddingSpace() with one "
            f"radius a sentence, got {space!r}"
        )
    if problem.ball.order != 2:
        raise ConfigurationError("TAVAT measures in L2; give norm=2")
    return space
