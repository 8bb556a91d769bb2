"""What may be perturbed: a space turns inputs into one float tensor, and back."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from artplus.geometry import Geometry
from artplus.spaces.region import Region
from artplus.tree import Tree

Per = Literal["example", "token"]


class Model(Protocol):
    """What a space asks of a model."""

    @property
    def module(self) -> nn.Module: ...
    def __call__(self, x: Any) -> Any: ...


@runtime_checkable
class Space(Protocol):
    """Where a perturbation lives. Implementations are frozen dataclasses.

    An attack works on ``z``, one float tensor ``(batch, ...)``, whatever the inputs are:
    ``lift`` gives the ``z`` of clean inputs, ``insert`` the inputs that ``z`` stands for.
    """

    @property
    def per(self) -> Per:
        """Whether a radius bounds a whole example's perturbation, or each token's."""
        ...

    @property
    def hidden(self) -> bool:
        """Whether ``z`` is added inside the model, so that it starts at zero."""
        ...

    def geometry(self, norm: float | str) -> Geometry:
        """The norm's geometry at this space's granularity."""
        ...

    def lift(self, model: Model, inputs: Tree) -> Tensor:
        """``z`` of the inputs as they are: pixels, or zeros beside a hidden state."""
        ...

    def insert(self, inputs: Tree, z: Tensor) -> Tree:
        """The perturbed inputs, to be given to the model."""
        ...

    def extract(self, perturbed: Tree) -> Tensor:
        """``z`` of perturbed inputs: the inverse of :meth:`insert`."""
        ...

    def region(self, inputs: Tree, z: Tensor) -> Region:
        """Bounds and mask of ``z``, on its device and in its number type."""
        ...

    def on(self, z: Tensor) -> Space:
        """The same space with its bounds and mask beside ``z``, so that nothing is copied later."""
        ...

    def unit(self, model: Model) -> float:
        """What a radius of one means: 1, or the mean row norm for a relative radius."""
        ...

    def sites(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """Sub-modules whose output ``z`` is added to; none for inputs."""
        ...

    def take(self, rows: slice | Tensor, inputs: Tree) -> Space:
        """The space of the examples ``rows`` of a batch."""
        ...

    def width(self) -> float | None:
        """Mean width of the range of valid values; ``None`` if it is unbounded."""
        ...
