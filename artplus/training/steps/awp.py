"""Adversarial weight perturbation: take the gradient at adversarially perturbed weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from artplus import _checks, modes
from artplus.errors import ConfigurationError
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Crafted, Gradients, Step, StepOutput, add_gradient
from artplus.training.steps.free_lb import FreeLB
from artplus.training.steps.standard import standard
from artplus.training.steps.tavat import TAVAT
from artplus.tree import detach


@dataclass(frozen=True)
class AWP:
    r"""Perturb each layer's weights to raise the objective, relative to their norm [Wu20]_.

    .. math:: v_l = \gamma \, \frac{\|w_l\|}{\|g_l\|} \, g_l, \qquad
              w \leftarrow w - \eta \, \nabla_w L(w + v)

    with :math:`g = \nabla_w L(w)` on the same adversarial examples, which were crafted at ``w``.
    Layers are the weight tensors of two dimensions or more; biases and normalisation are not
    perturbed. It flattens the loss in weight space, which reduces robust overfitting, and costs one
    more forward and backward pass per batch: 13 % at ten attack steps.

    Differs from the authors' code: (1) no copy of the model is kept, and both passes draw the same
    dropout masks, so that :math:`\gamma = 0` is the ordinary step to the bit; (2) the optimizer
    steps from the original weights, so weight decay is that of :math:`w`, where theirs steps at the
    perturbed weights and decays :math:`w + v`; (3) every tensor of two dimensions or more is
    perturbed, where theirs takes those with "weight" in their name, which leaves out position
    embeddings and class tokens. As there, BatchNorm's running statistics follow the perturbed pass
    only.

    Args:
        gamma: Size of the perturbation relative to the weights, >= 0: 0.01 [Wu20]_ with plain
            adversarial training, 0.005 with TRADES.
        warmup: Epochs before the first perturbation, >= 0; 0 in the paper, 10 in some
            configurations of its code.
        inner: The step whose gradients are taken at the perturbed weights: the ordinary one
            [Wu20]_, or ``Free()``.

    References:
        .. [Wu20] Wu, Xia and Wang, "Adversarial weight perturbation helps robust generalization",
           NeurIPS 2020, https://arxiv.org/abs/2004.05884

    Example:
        >>> import torch, artplus
        >>> from artplus.training.steps import AWP
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, eps=0.1, step=AWP(), epochs=1,
        ...                       progress=False)
    """

    gamma: float = 0.01
    warmup: float = 0.0
    inner: Step = standard

    def __post_init__(self) -> None:
        _checks.nonnegative("gamma", self.gamma)
        _checks.nonnegative("warmup", self.warmup)
        if isinstance(self.inner, (FreeLB, TAVAT)):
            raise ConfigurationError(
                f"AWP clears the gradient before it takes its own, so {type(self.inner).__name__} "
                "would lose that of its earlier passes; use either by itself, or AWP(inner=Free())"
            )

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One step; see :data:`~artplus.training.steps.Step`."""
        plain = state.descend
        if state.epoch >= self.warmup:
            state.descend = partial(self._descend, plain or add_gradient)
        try:
            self.inner(state, batch, gradients)
        finally:
            state.descend = plain

    def _descend(
        self, plain: Callable[..., StepOutput], state: State, batch: Batch, crafted: Crafted
    ) -> StepOutput:
        """The gradient at the perturbed weights."""
        perturbation = self._perturbation(plain, state, batch, crafted)
        state.optimizer.zero_grad(set_to_none=True)
        with _added(perturbation):
            return plain(state, batch, crafted)

    def _perturbation(
        self, plain: Callable[..., StepOutput], state: State, batch: Batch, crafted: Crafted
    ) -> dict[Tensor, Tensor]:
        """The perturbation of each weight tensor."""
        module = state.model.module
        before = state.streams.get()
        state.optimizer.zero_grad(set_to_none=True)
        # Only the pass that moves the weights may leave a gradient in the examples of Free.
        detached = replace(crafted, x_advs=tuple(map(detach, crafted.x_advs)))
        with modes.frozen_batchnorm_stats(module):
            plain(state, batch, detached)
        state.streams.set(before)
        perturbation: dict[Tensor, Tensor] = {}
        for weight in module.parameters():
            grad = weight.grad
            if grad is None or weight.ndim < 2:
                continue
            # Gradients may be at fp16's scale here; only their direction is used.
            norm = grad.norm().clamp_min(torch.finfo(grad.dtype).tiny)
            perturbation[weight] = grad * (self.gamma * weight.detach().norm() / norm)
        return perturbation


@contextmanager
def _added(perturbation: dict[Tensor, Tensor]) -> Iterator[None]:
    """Perturbed weights inside; exactly the original ones afterwards, also after an error."""
    originals = {weight: weight.detach().clone() for weight in perturbation}
    try:
        with torch.no_grad():
            for weight, delta in perturbation.items():
                weight.add_(torch.nan_to_num(delta))
        yield
    finally:
        with torch.no_grad():
            for weight, value in originals.items():
                weight.copy_(value)
