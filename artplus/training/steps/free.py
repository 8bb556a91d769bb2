"""Free adversarial training: one backward pass updates both weights and perturbation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus import _checks
from artplus.attacks import Budget
from artplus.attacks._base import check_budget
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Crafted, Gradients, descend, measure, move
from artplus.training.steps._passes import ball, gradient_of


@dataclass(frozen=True)
class Free:
    r"""Replay every batch m times; each replay moves weights and perturbation [Shafahi19]_.

    .. math:: \delta \leftarrow \Pi_\epsilon \bigl( \delta
              + \alpha \, \arg\max_{\|d\|_p \le 1} \langle d, \nabla_\delta L \rangle \bigr),
              \qquad w \leftarrow w - \eta \, \nabla_w L

    Both gradients come from the same backward pass, so an epoch costs m plain ones and needs no
    attack. The perturbation is carried over from batch to batch, by position. Train for 1/m of the
    epochs, because the weights move m times a batch.

    The perturbation maximises the objective itself; only radius and norm of the method's attack are
    used.

    Differs from the authors' code: any norm and objective; the perturbation is carried over after
    clipping to the valid range. The model stays in train mode, as there.

    In an ``EmbeddingSpace`` this is FreeAT for text. Perturbations are carried over between batches
    of one padded length only, and never to padding or special tokens.

    Args:
        replays: m, >= 1: 8 on CIFAR-10, 4 on ImageNet [Shafahi19]_; 2 or 3 on text.
        step_size: Length of a step, in the units of the radius; default the radius [Shafahi19]_.

    Raises:
        ConfigurationError: in training, for an attack other than PGD.

    References:
        .. [Shafahi19] Shafahi et al., "Adversarial training for free!", NeurIPS 2019,
           https://arxiv.org/abs/1904.12843
    """

    replays: int = 8
    step_size: Budget | None = None

    def __post_init__(self) -> None:
        _checks.count("replays", self.replays)
        if self.step_size is not None:
            check_budget(self.step_size, torch.inf)

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One batch; see :data:`~artplus.training.steps.Step`."""
        problem = ball(state, batch, "Free")
        x, region, retract = problem.z0, problem.region, problem.retraction()
        length = problem.eps if self.step_size is None else problem.resolve(self.step_size)
        delta = self._carried(state, x)
        for replay in range(self.replays):
            z = retract(x + region.restrict(delta)).detach().requires_grad_(True)
            state.optimizer.zero_grad(set_to_none=True)
            output = descend(state, batch, Crafted((problem.insert(z),)))
            gradient = region.restrict(gradient_of(z, state, "Free"))
            with torch.no_grad():
                direction = problem.ball.steepest(gradient)
                delta = retract(z + length * direction) - x
            move(state, gradients)
            if replay == self.replays - 1:
                attacked = self.replays * output.attacked
                measure(state, batch, replace(output, attacked=attacked))
        state.memory["free"] = self._kept(state, delta)

    @staticmethod
    def _carried(state: State, z: Tensor) -> Tensor:
        """The perturbation of the previous batch; zero for positions without one."""
        delta, before = torch.zeros_like(z), state.memory.get("free")
        if before is not None and before.shape[1:] == z.shape[1:]:
            n = min(len(before), len(z))
            delta[:n] = before[:n]
        return delta

    @staticmethod
    def _kept(state: State, delta: Tensor) -> Tensor:
        """``delta`` padded by earlier ones to the longest batch so far, for the next batch."""
        before = state.memory.get("free")
        if before is None or before.shape[1:] != delta.shape[1:] or len(before) <= len(delta):
            return delta.detach().clone()
        before[: len(delta)] = delta
        return before
