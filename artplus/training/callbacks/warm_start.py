"""Start each example's attack where its attack of the last epoch ended."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from artplus import _checks, distributed
from artplus.attacks import APGD, PGD
from artplus.attacks._base import column
from artplus.errors import ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.tree import Tree

CHUNK = 1 << 22
"""Numbers that the processes exchange in one message."""


class WarmStart(Callback):
    r"""Accumulate perturbations over epochs, so that few steps make a strong attack [Zheng20]_.

    .. math:: x'^{(t)}_i = \mathrm{attack}\bigl(\Pi(x_i + \delta^{(t-1)}_i)\bigr), \qquad
              \delta^{(t)}_i = x'^{(t)}_i - x_i

    An attack of one or two steps an epoch then does the work of many, because the weights change
    little from epoch to epoch and old perturbations remain nearly adversarial. In the first epoch,
    and in the first after a reset, the attack uses its own start. Stored perturbations are
    projected into the present radius and the valid range, so ε may be ramped.

    It needs the position of every example, which arrays and memory maps have. Do not augment: a
    perturbation does not fit a shifted image (the authors shift it along; that is not done here).
    Memory: one number in ``dtype`` for every number of the training inputs, on the model's device;
    94 MB for MNIST, 307 MB for CIFAR-10. Perturbations are part of a checkpoint. Several processes
    exchange them once an epoch, because an example may be in another process in the next epoch.

    Differs from the authors' code: perturbations are kept in bfloat16; a reset leaves the start to
    the attack instead of adding 0.001 Gaussian noise; the first period is as long as the others.

    Args:
        reset: Epochs between resets of the perturbations: 10 on CIFAR-10 [Zheng20]_, ``None``
            (never) on MNIST.
        dtype: Of the stored perturbations; bfloat16 has three digits and the range of fp32.

    Raises:
        ConfigurationError: in training, for an attack other than PGD and APGD, or data whose
            examples have no positions.

    Example:
        >>> import torch, artplus
        >>> from artplus.attacks import PGD
        >>> from artplus.training.callbacks import WarmStart
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, attack=PGD(eps=0.04, steps=1), epochs=3,
        ...                       callbacks=[WarmStart()], progress=False)

    References:
        .. [Zheng20] Zheng et al., "Efficient adversarial training with transferable adversarial
           examples", CVPR 2020, https://arxiv.org/abs/1912.11969
    """

    def __init__(self, reset: int | None = 10, *, dtype: torch.dtype = torch.bfloat16) -> None:
        self.reset = None if reset is None else _checks.count("reset", reset)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigurationError(f"dtype must be one of torch's floats, got {dtype!r}")
        self.dtype = dtype
        self._deltas: Tensor | None = None
        self._is_mine: Tensor | None = None
        self._pending: tuple[Tensor, Tensor] | None = None
        self._device = torch.device("cpu")

    def on_fit_begin(self, state: State) -> None:
        self._deltas = self._is_mine = self._pending = None
        self._device = state.generator.device
        if not isinstance(state.method.attack, (PGD, APGD)):
            raise ConfigurationError(
                "WarmStart remembers one perturbation for each example and gives it to PGD or "
                f"APGD as its start; got {state.method.attack!r}"
            )
        if state.method.space is not None and state.method.space.hidden:
            raise ConfigurationError(
                "WarmStart keeps a perturbation for each example's input; hidden states move with "
                "the weights and with padding, so leave it out in an embedding or latent space"
            )
        if state.starts is not None:
            raise ConfigurationError("callbacks hold more than one WarmStart; give one")
        state.starts = self

    def on_step_begin(self, state: State) -> None:
        self._pending = None

    def on_step_end(self, state: State) -> None:
        # Stored only now, because a step that ran out of memory repeats from the same start.
        if self._pending is None or state.examples is None:
            return
        index, delta = self._pending
        if self._deltas is None or self._is_mine is None:
            self._deltas = delta.new_zeros((state.examples, *delta.shape[1:]))
            self._is_mine = torch.zeros(state.examples, dtype=torch.bool, device=delta.device)
        self._deltas[index], self._is_mine[index] = delta, True
        self._pending = None

    def on_epoch_end(self, state: State) -> None:
        self._agree()

    def on_fit_end(self, state: State) -> None:
        self._deltas = self._is_mine = self._pending = None
        state.starts = None

    def first(self, state: State, batch: Batch) -> Tree | None:
        """First iterates; see :class:`~artplus.training.state.Starts`."""
        if batch.index is None:
            raise ConfigurationError(
                "WarmStart must know which example is which, but a loader does not say. Give "
                "arrays, tensors or a memory map, (x, y), or leave it out."
            )
        fresh = state.epoch == 0 if self.reset is None else state.epoch % self.reset == 0
        attack = state.method.attack
        if fresh or self._deltas is None or not isinstance(attack, (PGD, APGD)):
            return None
        problem = state.method.problem(state.engine.attacked, batch.x, batch.y, attack)
        x = problem.z0
        delta = self._deltas[batch.index.to(x.device)].to(x.dtype)
        return problem.insert(problem.retraction()(x + delta))

    def found(self, state: State, batch: Batch, x_adv: Tree, rows: Tensor | None) -> None:
        """Remember; see :class:`~artplus.training.state.Starts`."""
        if batch.index is None:
            return
        space = state.method.bound(batch.x)
        z = space.extract(x_adv)
        index = batch.index.to(z.device)
        delta = (z - space.lift(state.engine.attacked, batch.x)).to(self.dtype)
        self._pending = (index, delta) if rows is None else (index[rows], delta[rows])

    def state_dict(self) -> dict[str, Any]:
        self._agree()
        return {"deltas": self._deltas}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if saved["deltas"] is None:
            return
        self._deltas = saved["deltas"].to(self._device)
        self._is_mine = torch.zeros(len(self._deltas), dtype=torch.bool, device=self._device)

    def _agree(self) -> None:
        """Exchange the perturbations that the processes have made since the last exchange."""
        if distributed.world_size() == 1 or self._deltas is None or self._is_mine is None:
            return
        size = max(1, CHUNK // max(1, self._deltas[0].numel()))
        parts = zip(self._deltas.split(size), self._is_mine.split(size), strict=True)
        for deltas, is_mine in parts:
            owners = distributed.all_reduce(is_mine.int())
            total = distributed.all_reduce(torch.where(column(is_mine, deltas), deltas, 0).float())
            mean = total / column(owners.clamp_min(1), deltas)
            deltas.copy_(torch.where(column(owners > 0, deltas), mean.to(deltas.dtype), deltas))
        self._is_mine.zero_()
