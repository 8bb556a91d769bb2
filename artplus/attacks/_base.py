"""What every attack shares: its call, its radius, and the gradient on the input alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.geometry import Eps, Geometry, geometry
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree

T = TypeVar("T")

Climb = Callable[[Any], Tensor]
"""``x_adv -> (batch,)`` values that the attack makes large; descended when targeted."""

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``x_adv -> (values, fooled)``, both ``(batch,)``, of one forward pass."""

Inner = Callable[[LossModel, Any, Any], Climb]
"""``(model, x, y) -> Climb``: called once per batch, so that what depends on ``x`` alone (the
clean prediction in TRADES) is computed once and not once per step."""


@dataclass(frozen=True)
class Relative:
    r"""A radius relative to each input's own norm: :math:`\epsilon_i = c \, \|x_i\|_p`.

    The portable unit of speech, where :math:`c = 10^{-\mathrm{SNR}/20}`.
    """

    fraction: float

    def __post_init__(self) -> None:
        _checks.nonnegative("Relative(fraction)", self.fraction)


Budget = float | np.ndarray[Any, Any] | Tensor | Relative
"""A radius: a number, an array per feature (L∞), or relative to the input's own norm."""


@runtime_checkable
class Attack(Protocol):
    """``(model, x, y) -> x_adv``, on the device, without a trace in the model.

    Implementations are frozen dataclasses; a schedule replaces them (:meth:`with_eps`), nothing
    edits them in place. Two attributes are optional: ``targeted``, true if the attack takes
    targets for ``y``, and ``climbs_own``, true if it climbs a loss of its own and refuses
    ``inner``.
    """

    @property
    def eps(self) -> Budget: ...
    @property
    def norm(self) -> float: ...

    def __call__(
        self,
        model: LossModel,
        x: Tree,
        y: Tree,
        *,
        space: Space = InputSpace(),
        inner: Inner | None = None,
        start: Tree | None = None,
        generator: torch.Generator | None = None,
    ) -> Tree:
        """Return adversarial examples for ``x``.

        Args:
            model: What is attacked; crafted against in evaluation mode, its flags restored.
            x: Inputs inside ``space``: ``(batch, *input)`` floats, or a tree.
            y: True labels, or the targets of a targeted attack.
            space: What may be perturbed: inputs with bounds and mask, embeddings, hidden states.
            inner: What to climb; ``None`` is the model's own loss (descended when targeted).
            start: First iterate, in the form of what is returned, instead of the attack's own.
            generator: Source of randomness; ``None`` is torch's global one.

        Returns:
            ``x_adv``, like ``x``, detached, within ``eps`` of ``x`` and inside ``space``; in a
            hidden space a :class:`~artplus.spaces.Perturbed`.
        """
        ...

    def with_eps(self, scale: float) -> Attack:
        """The same attack with radius and step length multiplied by ``scale``."""
        ...


def check_part(owner: object, attack: object) -> None:
    """Refuse what an attack made of others cannot run.

    Raises:
        ConfigurationError: if ``attack`` is none of artplus.
    """
    if not isinstance(attack, Attack):
        raise ConfigurationError(
            f"{type(owner).__name__} combines attacks of artplus, got {type(attack).__name__}. "
            "Translate an ART attack first: artplus.bridge.attacks.as_attack(attack)."
        )


def own_loss(model: LossModel, x: Tree, y: Tree) -> Climb:
    """The inner loss of most objectives: the model's own :math:`l(f(x'), y)`."""
    return lambda x_adv: model.loss(model(x_adv), y)


def gradient(climb: Climb, z: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(batch,)`` and gradient with respect to ``z`` alone; see :func:`look`."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        values = climb(z)
        return values.detach(), _slope(values, z)


def look(judge: Judge, z: Tensor, draws: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Values, what came beside them, and gradient with respect to ``z`` alone.

    ``torch.autograd.grad`` prunes the graph to ``z``: no parameter's gradient is computed or
    touched, which is both faster and safe beside accumulated or sharded gradients. Where the
    gradient is not a number it counts as zero, as in ART.

    Args:
        judge: What to look at.
        z: Where, ``(batch, *input)``.
        draws: Passes to take the mean of, for a judge that is random: values and gradients are
            averaged, and flags beside them (``(batch,)`` booleans) hold where most passes say so.

    Raises:
        ConfigurationError: if the values do not depend on ``z`` in a differentiable way, or the
            model is checkpointed in torch's old, re-entrant way, which gives no such gradient.
    """
    values, beside, slope = _look(judge, z)
    if draws == 1:
        return values, beside, slope
    votes = beside.to(values.dtype)
    for _ in range(draws - 1):
        value, vote, more = _look(judge, z)
        values, votes, slope = values + value, votes + vote, slope + more
    return values / draws, votes > draws / 2, slope / draws


def _look(judge: Judge, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        values, beside = judge(z)
        return values.detach(), beside.detach(), _slope(values, z)


def _slope(values: Tensor, z: Tensor) -> Tensor:
    """Gradient of the sum of the values by ``z``, without the sum's own passes."""
    slope: Tensor | None = None
    try:
        # Weights alone can carry a graph, so the input may be missing from one that exists.
        if values.requires_grad:
            (slope,) = torch.autograd.grad(values, z, torch.ones_like(values), allow_unused=True)
    except RuntimeError as error:
        if "checkpoint" not in str(error).lower():
            raise
        raise ConfigurationError(
            "the model uses gradient checkpointing in its re-entrant form, which gives no gradient "
            "with respect to the input alone. Write checkpoint(..., use_reentrant=False); in "
            "Transformers gradient_checkpointing_enable({'use_reentrant': False})."
        ) from error
    if slope is None:
        raise ConfigurationError(
            "the loss has no gradient with respect to the input. Does the model round, detach "
            "or leave torch on the way? Attack it with Square, which needs no gradient."
        )
    return torch.nan_to_num(slope)


def resolve(eps: Budget, x: Tensor, ball: Geometry) -> Eps:
    """A radius as a number or as a tensor that broadcasts over ``x``.

    Raises:
        ConfigurationError: if an array does not broadcast over one input, or comes with a norm
            other than L∞.
    """
    if isinstance(eps, Relative):
        return eps.fraction * column(ball.length(x), x)
    if isinstance(eps, (int, float)):
        return float(eps)
    radius = torch.as_tensor(eps, dtype=x.dtype, device=x.device)
    if radius.ndim >= x.ndim:
        if len(radius) != 1 and len(radius) != len(x):
            raise ConfigurationError(
                f"eps has an entry for each of {len(radius)} examples, but a batch holds {len(x)}. "
                "In training the batches are shuffled: give eps per feature, or Relative(c)."
            )
    try:
        radius.expand_as(x)
    except RuntimeError:
        raise ConfigurationError(
            f"eps of shape {tuple(radius.shape)} does not broadcast over inputs {tuple(x.shape)}"
        ) from None
    if ball.order != torch.inf and (radius.ndim < x.ndim or radius[0].numel() > 1):
        if radius.numel() > 1:
            raise ConfigurationError(
                f"eps per feature is defined for L-infinity only, not for norm {ball.order:g}; "
                "give a number, one radius per example, or Relative(c)"
            )
    return radius


def scaled(eps: Budget, scale: float) -> Budget:
    """A radius multiplied by ``scale``."""
    if isinstance(eps, Relative):
        return Relative(eps.fraction * scale)
    return eps * scale


def check_budget(eps: Budget, norm: float) -> None:
    """Refuse a negative or non-finite radius and an unknown norm, before any work is done."""
    geometry(norm)
    if isinstance(eps, Relative):
        return
    if isinstance(eps, (np.ndarray, Tensor)):
        values = torch.as_tensor(eps)
        if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            raise ConfigurationError("eps must be finite and >= 0 in every entry")
        return
    _checks.nonnegative("eps", eps)


def column(values: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` values as ``(batch, 1, ...)``, to be broadcast over ``like``."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def take(value: T, rows: Tensor | None, like: Tensor) -> T:
    """The entries of ``value`` for the examples ``rows``, if it has one for each of ``like``.

    A number, ``None`` and a tensor that broadcasts over one input are the same for every example.
    """
    if rows is None or not isinstance(value, Tensor):
        return value
    if value.ndim != like.ndim or len(value) != len(like):
        return value
    return cast(T, value[rows])
