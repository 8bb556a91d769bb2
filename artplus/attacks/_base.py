"""What all attacks share: the protocol, the radius, and the gradient by the input alone."""

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
from artplus.geometry import column as column
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree

T = TypeVar("T")

Climb = Callable[[Any], Tensor]
"""``x_adv -> (batch,)`` values that the attack maximises, or minimises when targeted."""

Judge = Callable[[Tensor], tuple[Tensor, Tensor]]
"""``x_adv -> (values, fooled)``, both ``(batch,)``, from one forward pass."""

Inner = Callable[[LossModel, Any, Any], Climb]
"""``(model, x, y) -> Climb``, called once per batch. What depends on ``x`` alone, such as the clean
prediction in TRADES, is computed once per batch and not once per step."""


@dataclass(frozen=True)
class Relative:
    r"""A radius relative to the norm of each input: :math:`\epsilon_i = c \, \|x_i\|_p`.

    The usual unit for speech, where :math:`c = 10^{-\mathrm{SNR}/20}`.
    """

    fraction: float

    def __post_init__(self) -> None:
        fraction = _checks.nonnegative("Relative(fraction)", self.fraction)
        object.__setattr__(self, "fraction", fraction)


Budget = float | np.ndarray[Any, Any] | Tensor | Relative
"""A radius: a number, an array per feature (L∞), or relative to the norm of the input."""


@runtime_checkable
class Attack(Protocol):
    """``(model, x, y) -> x_adv``, on the device; the model is left as it was.

    Implementations are frozen dataclasses. A schedule replaces them (:meth:`with_eps`) instead of
    editing them. Two attributes are optional: ``targeted``, true if ``y`` holds targets, and
    ``climbs_own``, true if the attack has a loss of its own and refuses ``inner``.
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
            model: The attacked model. It is in evaluation mode during the call; its flags are
                restored afterwards.
            x: Inputs inside ``space``: ``(batch, *input)`` floats, or a tree.
            y: True labels, or the targets of a targeted attack.
            space: What may be perturbed: inputs with bounds and mask, embeddings, or hidden states.
            inner: The loss to maximise (minimise when targeted); ``None`` is the model's own.
            start: First iterate, in the form of the returned value; ``None`` lets the attack
                choose.
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
    """Refuse a part of a combined attack that is not an artplus attack.

    Raises:
        ConfigurationError: if ``attack`` does not follow the :class:`Attack` protocol.
    """
    if not isinstance(attack, Attack):
        raise ConfigurationError(
            f"{type(owner).__name__} combines attacks of artplus, got {type(attack).__name__}. "
            "Translate an ART attack first: artplus.bridge.attacks.as_attack(attack)."
        )


def own_loss(model: LossModel, x: Tree, y: Tree) -> Climb:
    """The default inner loss, the model's own :math:`l(f(x'), y)`."""
    return lambda x_adv: model.loss(model(x_adv), y)


def gradient(climb: Climb, z: Tensor) -> tuple[Tensor, Tensor]:
    """Values ``(batch,)`` and gradient with respect to ``z`` alone; see :func:`look`."""
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        values = climb(z)
        return values.detach(), _slope(values, z)


def look(judge: Judge, z: Tensor, draws: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Values, flags, and the gradient of the values with respect to ``z`` alone.

    ``torch.autograd.grad`` prunes the graph to ``z``: no parameter's gradient is computed or
    touched, which is faster and safe beside accumulated or sharded gradients. NaN in the gradient
    is replaced by zero, as in ART.

    Args:
        judge: ``z -> (values, flags)``.
        z: The point, ``(batch, *input)``.
        draws: Number of passes to average, for a random model. Values and gradients are means;
            flags (``(batch,)`` booleans) are true where they are in most passes.

    Raises:
        ConfigurationError: if the values do not depend on ``z`` in a differentiable way, or the
            model uses re-entrant gradient checkpointing, which gives no such gradient.
    """
    values, flags, slope = _look_once(judge, z)
    if draws == 1:
        return values, flags, slope
    votes = flags.to(values.dtype)
    for _ in range(draws - 1):
        more_values, more_flags, more_slope = _look_once(judge, z)
        values, votes, slope = values + more_values, votes + more_flags, slope + more_slope
    return values / draws, votes > draws / 2, slope / draws


def _look_once(judge: Judge, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    z = z.detach().requires_grad_(True)
    with torch.enable_grad():
        values, flags = judge(z)
        return values.detach(), flags.detach(), _slope(values, z)


def _slope(values: Tensor, z: Tensor) -> Tensor:
    """Gradient of ``values.sum()`` by ``z``, without a forward and backward pass of the sum."""
    slope: Tensor | None = None
    try:
        # The graph may come from the weights alone, without the input.
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


def resolve(eps: Budget, z: Tensor, ball: Geometry) -> Eps:
    """A radius as a number or as a tensor that broadcasts over ``z``.

    Raises:
        ConfigurationError: if an array does not broadcast over one input, or comes with a norm
            other than L∞.
    """
    if isinstance(eps, Relative):
        return eps.fraction * column(ball.length(z), z)
    if isinstance(eps, (int, float)):
        return float(eps)
    radius = torch.as_tensor(eps, dtype=z.dtype, device=z.device)
    if radius.ndim >= z.ndim:
        if len(radius) != 1 and len(radius) != len(z):
            raise ConfigurationError(
                f"eps has an entry for each of {len(radius)} examples, but a batch holds {len(z)}. "
                "In training the batches are shuffled: give eps per feature, or Relative(c)."
            )
    try:
        radius.expand_as(z)
    except RuntimeError:
        raise ConfigurationError(
            f"eps of shape {tuple(radius.shape)} does not broadcast over inputs {tuple(z.shape)}"
        ) from None
    if ball.order != torch.inf and (radius.ndim < z.ndim or radius[0].numel() > 1):
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
    if isinstance(norm, str):
        raise ConfigurationError(f"norm of an attack must be numpy.inf, 2 or 1, got {norm!r}")
    if isinstance(eps, np.ma.MaskedArray):
        raise ConfigurationError(
            "eps must not be a masked array: give eps=values.filled(0), or the mask to the space"
        )
    if isinstance(eps, Relative):
        return
    if isinstance(eps, (np.ndarray, Tensor)):
        values = _checks.numbers("eps", eps)
        if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            raise ConfigurationError("eps must be finite and >= 0 in every entry")
        return
    _checks.nonnegative("eps", eps)


def take(value: T, rows: Tensor | None, like: Tensor) -> T:
    """The entries of ``value`` for the examples ``rows``, if it has one per example of ``like``.

    Numbers, ``None`` and tensors that broadcast over one input are returned as they are.
    """
    if rows is None or not isinstance(value, Tensor):
        return value
    if value.ndim != like.ndim or len(value) != len(like):
        return value
    return cast(T, value[rows])
