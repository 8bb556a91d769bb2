"""A module of token ids as one of float arrays, which is what ART's attacks know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artplus import modes
from artplus.errors import ConfigurationError, DataError
from artplus.model import device_of
from artplus.spaces import EmbeddingSpace, run
from artplus.spaces.embedding import IDS
from artplus.spaces.hidden import parameters
from artplus.tasks import logits_of


class Embedded(nn.Module):
    """A module of token ids as one of floats ``(batch, tokens, channels)``.

    Channels are the embedding of each token, its id in binary, one channel a digit, and the
    ``columns``. So an array says all that the module needs, however ART cuts it into batches, in
    numbers of the size of embeddings; digits are read by rounding, so noise below one half, as of
    a random start, changes none. Embeddings that the space does not perturb are looked up again:
    what an attack does to padding has no effect, and no gradient.

    Args:
        module: Maps ids, and columns beside them, to logits.
        space: Names the embedding, and says which tokens may be perturbed.
        columns: Names of columns of whole numbers ``(batch, tokens)``.
    """

    def __init__(self, module: nn.Module, space: EmbeddingSpace, columns: Sequence[str]) -> None:
        super().__init__()
        self.module, self.space, self.columns = module, space, tuple(columns)
        (site,) = space.sites(module)
        arguments = parameters(module)
        self._ids = next((name for name in IDS if name in arguments), arguments[0])
        rows, self.width = _table(site)
        self._last = rows - 1
        self.digits = max(1, self._last.bit_length())

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.width + self.digits + len(self.columns)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(batch, classes)``."""
        states, inputs = x[..., : self.width], self.decoded(x)
        with self._replaced(states, inputs):
            return logits_of(run(self.module, inputs))

    def decoded(self, x: Tensor) -> dict[str, Tensor]:
        """Ids and columns of an array."""
        digits, columns = x[..., self.width :].detach().split([self.digits, len(self.columns)], -1)
        powers = 2 ** torch.arange(self.digits, device=x.device)
        ids = ((digits > 0.5) * powers).sum(-1).clamp(max=self._last)  # ART tries arrays of ones
        values = columns.round().long().unbind(-1)
        return {self._ids: ids, **dict(zip(self.columns, values, strict=True))}

    @torch.no_grad()
    def encoded(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Ids and columns as an array."""
        ids = inputs[self._ids]
        (site,) = self.space.sites(self.module)
        powers = 2 ** torch.arange(self.digits, device=ids.device)
        digits = (ids.unsqueeze(-1) & powers) != 0
        columns = [inputs[name].unsqueeze(-1).float() for name in self.columns]
        with modes.attack_mode(self.module):
            states = site(ids).float()
        return torch.cat([states, digits.float(), *columns], -1)

    def free(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """One where an attack may change an array, ``(batch, tokens, channels)``, else zero."""
        ids = inputs[self._ids]
        region = self.space.region(inputs, torch.zeros(*ids.shape, self.width, device=ids.device))
        free = torch.zeros(*ids.shape, self.channels, device=ids.device)
        free[..., : self.width] = 1.0 if region.mask is None else region.mask
        return free

    def columns_of(self, x: Any, tokens: int | None = None) -> dict[str, Tensor]:
        """Ids in any form as columns, padded to ``tokens``.

        Raises:
            DataError: for anything but whole numbers ``(batch, tokens)``, or too many tokens.
        """
        given = dict(x) if isinstance(x, Mapping) else {self._ids: x}
        if self._ids not in given:
            raise DataError(f"no column {self._ids!r} of token ids; there are {', '.join(given)}")
        device = device_of(self.module)
        ids = _whole(given[self._ids], self._ids).to(device)
        inputs = {self._ids: ids}
        for name, value in given.items():
            if name != self._ids and (name in self.columns or name in parameters(self.module)):
                inputs[name] = _whole(value, name, ids.shape).to(device)
        if "attention_mask" in self.columns:
            inputs.setdefault("attention_mask", torch.ones_like(ids))
        for name in self.columns:
            inputs.setdefault(name, torch.zeros_like(ids))
        return inputs if tokens is None else self._padded(inputs, tokens)

    def _padded(self, inputs: dict[str, Tensor], tokens: int) -> dict[str, Tensor]:
        missing = tokens - inputs[self._ids].shape[1]
        lost = inputs.keys() - {self._ids, *self.columns}
        lost = {name for name in lost if bool((inputs[name] != 0).any())}
        if lost:
            raise DataError(
                f"{', '.join(sorted(lost))} would be lost in an array of embeddings; construct the "
                f"classifier with columns={[*self.columns, *sorted(lost)]}"
            )
        if missing < 0 or (missing and "attention_mask" not in self.columns):
            raise DataError(
                f"expected {tokens} tokens, got {tokens - missing}"
                + ("; cut the texts, or construct the classifier with more" if missing < 0 else "")
            )
        pad = nn.functional.pad
        kept = {name: value for name, value in inputs.items() if name in (self._ids, *self.columns)}
        return {name: pad(value, (0, missing)) for name, value in kept.items()}

    @contextmanager
    def _replaced(self, states: Tensor, inputs: Mapping[str, Tensor]) -> Iterator[None]:
        """Inside, the embedding gives ``states`` where they may be perturbed."""
        (site,) = self.space.sites(self.module)
        free = self.free(inputs)[..., : self.width] > 0

        def replace(layer: nn.Module, args: Any, output: Tensor) -> Tensor:
            return torch.where(free, states.to(output.dtype), output.detach())

        handle = site.register_forward_hook(replace)
        try:
            yield
        finally:
            handle.remove()


def _whole(values: Any, name: str, shape: torch.Size | None = None) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if tensor.is_floating_point() or tensor.is_complex() or tensor.ndim != 2:
        raise DataError(
            f"{name} must be whole numbers (batch, tokens), got {tensor.dtype} "
            f"{tuple(tensor.shape)}. A text is tokenized first, and padded to one length."
        )
    if shape is not None and tensor.shape != shape:
        raise DataError(f"{name} must be {tuple(shape)}, like the ids, got {tuple(tensor.shape)}")
    return tensor.long()


def _table(site: nn.Module) -> tuple[int, int]:
    """Rows and width of an embedding."""
    weight = getattr(site, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim != 2:
        raise ConfigurationError(
            f"{type(site).__name__} has no table of embeddings (weight); name one by "
            "space=EmbeddingSpace(layer=...)"
        )
    return int(weight.shape[0]), int(weight.shape[1])
