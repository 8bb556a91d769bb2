"""The space of raw inputs: a box of valid values and a mask of what may be changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from artplus.errors import ConfigurationError, DataError
from artplus.geometry import Geometry, clip, geometry
from artplus.mapped import Rows
from artplus.spaces._base import Model, Per
from artplus.spaces.region import Region
from artplus.tree import Tree, describe

COLUMNS = (
    *("x", "pixel_values", "input_values", "input_features", "inputs_embeds"),
    *("image", "images", "img", "audio", "input", "inputs", "features"),
)
"""Names by which the perturbed column of a mapping is known where several hold floats."""


@dataclass(frozen=True)
class InputSpace(Region):
    """Where a perturbation of pixels, waveforms or features lives.

    Of inputs with several columns, such as a waveform with its attention mask, the one that holds
    floats is perturbed. Images of different sizes in a list are padded to one tensor inside the
    attack; the padding never changes.

    Attributes:
        low: Least valid value, a number or a tensor that broadcasts over one input; ``None`` is
            unbounded.
        high: Greatest valid value.
        mask: Zero where an input must not change; broadcasts over one input or over the batch.
        column: Name of the perturbed column, where several hold floats.
        normalization: ``(mean, std)``, numbers or one per channel, that the inputs have been
            normalised by. ``z`` is then in raw units, so that bounds and radii are too.

    Raises:
        ConfigurationError: if a bound is not a number, or ``low`` exceeds ``high``.

    Example:
        >>> import torch
        >>> space = InputSpace(0.0, 1.0)
        >>> inputs = {"pixel_values": torch.zeros(2, 3, 4, 4), "bool_masked_pos": None}
        >>> z = space.lift(None, inputs)
        >>> space.insert(inputs, z + 0.5)["pixel_values"].unique()
        tensor([0.5000])
    """

    column: str | None = None
    normalization: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalization is not None:
            object.__setattr__(self, "normalization", _mean_std(self.normalization))

    def on(self, x: Tensor) -> InputSpace:
        """The same space beside ``x``; bounds with one value per channel broadcast over images."""
        low, high = (
            _channels(bound, x) if isinstance(bound, Tensor) and bound.ndim == 1 else bound
            for bound in (self.low, self.high)
        )
        if low is self.low and high is self.high:
            return super().on(x)
        return Region.on(self._with(low=low, high=high), x)

    @property
    def per(self) -> Per:
        """A radius bounds the whole example."""
        return "example"

    @property
    def hidden(self) -> bool:
        """False: inputs themselves are perturbed."""
        return False

    def geometry(self, norm: float | str) -> Geometry:
        """The geometry of the norm, over a whole example."""
        return geometry(norm)

    def lift(self, model: Model | None, inputs: Tree) -> Tensor:
        """The perturbed column itself; a list of images padded to one tensor."""
        values = self._column(inputs)
        z = values.detach() if isinstance(values, Tensor) else _padded(values)
        if self.normalization is None:
            return z
        mean, std = self._moments(z)
        return z * std + mean

    def insert(self, inputs: Tree, z: Tensor) -> Tree:
        """The inputs with ``z`` in place of the perturbed column."""
        if self.normalization is None and isinstance(inputs, Tensor):
            return z
        if self.normalization is not None:
            mean, std = self._moments(z)
            z = (z - mean) / std
        return self.replaced(inputs, z)

    def replaced(self, inputs: Tree, z: Tensor) -> Tree:
        """The inputs with another perturbed column, in their own units."""
        if isinstance(inputs, Tensor):
            return z
        if isinstance(inputs, list):
            return [row[_window(image)] for row, image in zip(z, inputs, strict=True)]
        if isinstance(inputs, tuple):
            return (self.replaced(inputs[0], z), *inputs[1:])
        name = self._name(inputs)
        return {**inputs, name: self.replaced(inputs[name], z)}

    def _moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std beside ``z``, one per channel where there are several."""
        assert self.normalization is not None
        mean, std = (_channels(value, z).to(z) for value in self.normalization)
        return mean, std

    def extract(self, perturbed: Tree) -> Tensor:
        """The perturbed column."""
        return self.lift(None, perturbed)

    def region(self, inputs: Tree, z: Tensor) -> Region:
        """Bounds and mask beside ``z``.

        Padding is masked: of a list of images, and of sequences by an ``attention_mask`` or a
        ``perturbation_mask`` column of their shape.

        Raises:
            ConfigurationError: for a mask, or a ``perturbation_mask``, that does not fit.
        """
        region: Region = self.on(z)
        values = self._column(inputs)
        if region.mask is not None:
            _check_mask(region.mask, z)
        if isinstance(inputs, Mapping):
            for name in ("attention_mask", "perturbation_mask"):
                column = inputs.get(name)
                if not isinstance(column, Tensor):
                    continue
                if column.shape == z.shape[: column.ndim]:
                    shape = (*column.shape, *(1,) * (z.ndim - column.ndim))
                    mask = (column != 0).view(shape).to(z).expand(z.shape)
                    region = region.masked(mask if region.mask is None else mask * region.mask)
                elif name == "perturbation_mask":
                    raise ConfigurationError(
                        f"perturbation_mask must have the leading axes of what is perturbed, "
                        f"{tuple(z.shape)}, got {tuple(column.shape)}"
                    )
        if isinstance(values, list) and any(image.shape != z.shape[1:] for image in values):
            inside = torch.zeros_like(z)
            for row, image in zip(inside, values, strict=True):
                row[_window(image)] = 1.0
            return region.masked(inside if region.mask is None else inside * region.mask)
        return region

    def unit(self, model: Model) -> float:
        """A radius is in the units of the inputs."""
        return 1.0

    def sites(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """None: nothing is added inside the model."""
        return ()

    def take(self, rows: slice | Tensor, inputs: Tree) -> InputSpace:
        """The space of some examples: of a mask with a row for each example, their rows."""
        values, mask = self._column(inputs), self.mask
        if mask is None or isinstance(values, list):
            return self
        if mask.ndim != values.ndim or len(mask) != len(values) or len(mask) == 1:
            return self
        return replace(self, mask=mask[rows.to(mask.device) if isinstance(rows, Tensor) else rows])

    def clipped(self, inputs: Tree) -> Tree:
        """The inputs with the perturbed column inside the range."""
        z = self.lift(None, inputs)
        return self.insert(inputs, clip(z, self.on(z)))

    def floats(self, inputs: Tree) -> Tensor | Rows | list[Tensor]:
        """The column that is perturbed, as it is.

        Raises:
            DataError: if none holds floats, or several do and none has a usual name.
        """
        return self._column(inputs)

    def _column(self, inputs: Tree) -> Tensor | list[Tensor]:
        if isinstance(inputs, (Tensor, Rows)):
            return inputs  # type: ignore[return-value]  # rows are indexed before they are lifted
        if isinstance(inputs, tuple):
            return self._column(inputs[0])
        if isinstance(inputs, list):
            return inputs
        return self._column(inputs[self._name(inputs)])

    def _name(self, inputs: Tree) -> str:
        if not isinstance(inputs, Mapping):
            raise DataError(
                f"inputs must be a tensor, a list of tensors or a mapping of them, got "
                f"{type(inputs).__name__}"
            )
        if self.column is not None:
            if self.column not in inputs:
                raise ConfigurationError(
                    f"InputSpace(column={self.column!r}): the inputs have {', '.join(inputs)}"
                )
            return self.column
        floats = [name for name, value in inputs.items() if _holds_floats(value)]
        usual = [name for name in COLUMNS if name in floats] if len(floats) > 1 else floats
        if len(usual) == 1 or (usual and len(floats) > 1):
            return usual[0]
        if not floats:
            raise ConfigurationError(
                f"no column holds floats, so inputs cannot be perturbed; there are "
                f"{describe(inputs)}. Token ids are perturbed behind the embedding: "
                "space=EmbeddingSpace()."
            )
        raise ConfigurationError(
            f"several columns hold floats: {', '.join(floats)}. Say which one is perturbed: "
            "InputSpace(column=...)."
        )


def _mean_std(normalization: Any) -> tuple[Tensor, Tensor]:
    """Mean and std as float32 tensors.

    Raises:
        ConfigurationError: if they are no pair of finite numbers, or a std is not positive.
    """
    if not isinstance(normalization, (tuple, list)) or len(normalization) != 2:
        raise ConfigurationError(f"normalization must be a pair (mean, std), got {normalization!r}")
    try:
        mean, std = (torch.as_tensor(value, dtype=torch.float32) for value in normalization)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(
            f"normalization must hold numbers, got {normalization!r}"
        ) from None
    if not bool((mean.isfinite() & std.isfinite() & (std > 0)).all()):
        raise ConfigurationError(
            f"normalization must be finite with std > 0, got {normalization!r}"
        )
    return mean, std


def _channels(value: Tensor, z: Tensor) -> Tensor:
    """One value per channel, to be broadcast over ``(batch, channels, ...)``; else as it is."""
    if value.ndim == 1 and len(value) > 1 and z.ndim > 2 and len(value) == z.shape[1]:
        return value.view(-1, *(1,) * (z.ndim - 2))
    return value


def _holds_floats(value: Tree) -> bool:
    if isinstance(value, (Tensor, Rows)):
        return value.dtype.is_floating_point and value.ndim > 1
    return isinstance(value, list) and bool(value) and _is_image(value[0])


def _is_image(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 0


def _check_mask(mask: Tensor, z: Tensor) -> None:
    """Refuse a mask that does not broadcast over inputs."""
    axes = zip(reversed(mask.shape), reversed(z.shape), strict=False)
    if mask.ndim > z.ndim or any(m not in (1, n) for m, n in axes):
        raise ConfigurationError(
            f"the mask of shape {tuple(mask.shape)} does not broadcast over inputs "
            f"{tuple(z.shape)}; give one of an input's shape, {tuple(z.shape[1:])}, or with an "
            "entry for each example of a batch"
        )


def _window(image: Tensor) -> tuple[slice, ...]:
    return tuple(slice(0, length) for length in image.shape)


def _padded(images: list[Tensor]) -> Tensor:
    """Images of any sizes as one tensor, zero where an image ends."""
    if not images or not all(map(_is_image, images)):
        raise DataError("a list of inputs must hold float tensors, one an example")
    if len({image.ndim for image in images}) > 1:
        raise DataError("the images of a list must have the same number of axes")
    longest = [max(lengths) for lengths in zip(*(image.shape for image in images), strict=True)]
    z = images[0].new_zeros(len(images), *longest)
    for row, image in zip(z, images, strict=True):
        row[_window(image)] = image.detach()
    return z
