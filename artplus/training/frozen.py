"""Frozen weights, which copies leave out and checksums watch."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from artplus import distributed, keras_modules
from artplus.errors import CheckpointError

BLOCK = 1 << 20
"""Numbers in one step of a checksum, which limits its memory."""

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer type by bytes per element."""


class Frozen:
    """The parameters of a module that were frozen (``requires_grad=False``) when the run began.

    Copies of the weights (an average, the best epoch, a checkpoint) leave them out, so a run that
    trains an adapter in a large network copies the adapter only. Two kinds of change are detected:

    - A callback unfreezes a weight (``requires_grad_(True)``). From then on it is copied like any
      other. Its value until then is kept in :attr:`originals`, because earlier copies lack it.
    - Something other than the optimizer writes to a weight, as to a teacher inside the module. The
      checksum differs at the next copy, which then includes the weight.

    Attributes:
        buffers: Names of parameters that serve as buffers, as Keras's moving means; they are
            copied as buffers are.
        originals: Values at the beginning of the run of weights that were unfrozen since.

    Args:
        module: Before the first step. With sharded weights each process checks its own shards.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        keras_buffers = [*keras_modules.statistics(module), *keras_modules.seeds(module)]
        ids = {id(tensor) for tensor in keras_buffers}
        parameters = self._parameters()
        self.buffers = {name for name, p in parameters.items() if id(p) in ids}
        self._checksums = {
            name: checksum(parameter)
            for name, parameter in parameters.items()
            if not parameter.requires_grad and name not in self.buffers
        }
        self.originals: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._checksums

    def release(self) -> None:
        """Stop watching weights that were unfrozen. Called before each step; reads flags only."""
        if not self._checksums:
            return
        for name, parameter in self._parameters().items():
            if parameter.requires_grad and name in self._checksums:
                self.originals[name] = parameter.detach().clone()
                del self._checksums[name]

    def unchanged(self) -> set[str]:
        """Names of the weights that have not changed; all processes must call it."""
        self.release()
        if not self._checksums:
            return set()
        return self._checksums.keys() - self._changed(self._checksums)

    def state_dict(self) -> dict[str, int]:
        """The checksums of this process."""
        return dict(self._checksums)

    def load_state_dict(self, saved: dict[str, int], copied: Collection[str]) -> None:
        """Recognise the weights that a checkpoint leaves out; all processes must call it.

        Args:
            saved: What :meth:`state_dict` returned.
            copied: Names of the weights that the checkpoint holds.

        Raises:
            CheckpointError: if a weight that the checkpoint leaves out differs.
        """
        left_out = {name: value for name, value in saved.items() if name not in copied}
        changed = sorted(self._changed(left_out))
        if changed:
            raise CheckpointError(
                f"{len(changed)} of the {len(left_out)} frozen weights are not those of the "
                f"interrupted run, the first is {changed[0]!r}. Checkpoints hold only the weights "
                "that training moves: load the same pretrained weights as before the first start, "
                "then resume."
            )
        self._checksums = dict(saved)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self._module.named_parameters(remove_duplicate=False))

    def _changed(self, checksums: dict[str, int]) -> set[str]:
        """Names of the weights whose checksum has changed in any process."""
        present = self._parameters()
        changed = {
            name
            for name, value in checksums.items()
            if name not in present or checksum(present[name]) != value
        }
        return changed.union(*distributed.all_gather(changed))


def checksum(weight: Tensor) -> int:
    """A checksum of the bytes of a tensor and their order; synchronises with the device.

    For a sharded tensor it is the checksum of this process's shard.
    """
    local: Tensor = weight.to_local() if hasattr(weight, "to_local") else weight
    flat = local.detach().contiguous().reshape(-1)
    numbers = flat.view(INTEGERS.get(flat.element_size(), torch.uint8))
    factors = 2 * torch.arange(min(BLOCK, len(numbers)), device=numbers.device) + 1
    total = torch.zeros((), dtype=torch.int64, device=numbers.device)
    for block in numbers.split(BLOCK):
        total = 31 * total + (block.to(torch.int64) * factors[: len(block)]).sum()
    return int(total)
