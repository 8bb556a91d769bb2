"""Several processes that share one model: each holds a part of every weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.model import device_of
from artplus.training.engines._base import Launched


class FSDP2(Launched):
    """``fully_shard`` under ``torchrun``: weights, gradients and optimizer state in shards.

    For models too large for one device. The weights are put together once for the whole attack on
    a batch instead of at each of its steps, so its inner loop causes no communication; memory then
    holds them whole for that while. Batches and BatchNorm are shared as in
    :class:`~artplus.training.engines.DDP`. After training the module stays sharded; its
    ``state_dict`` holds ``DTensor``, and ``torch.distributed.checkpoint.state_dict`` has functions
    to make it whole.

    Args:
        blocks: Types of modules that are put together and taken apart as one, such as
            ``(TransformerBlock,)``; ``None`` takes the entries of ``nn.Sequential`` and
            ``nn.ModuleList``.
        options: As for :class:`~artplus.training.engines.Engine`, without ``compile``.

    Raises:
        ConfigurationError: for ``compile``, or an optimizer that has already moved the weights.
    """

    name = "fsdp2"

    def __init__(self, *, blocks: Sequence[type[nn.Module]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if self.requested.compile:
            raise ConfigurationError("compile is not supported with fsdp2; leave it out")
        self._blocks = None if blocks is None else tuple(blocks)
        self._root: FSDPModule | None = None

    def _divide(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Take the weights apart and point the optimizer to the parts."""
        if not isinstance(module, FSDPModule):
            self._shard(module, optimizer)
        self._root = module if isinstance(module, FSDPModule) else None

    def _shard(self, module: nn.Module, optimizer: Optimizer) -> None:
        if optimizer.state:
            raise ConfigurationError(
                "the optimizer has already moved the weights, and its state would be lost by "
                "sharding them; make a new one"
            )
        for tensor in [*module.parameters(), *module.buffers()]:
            distributed.broadcast(tensor)
        before = {id(p): name for name, p in module.named_parameters()}
        mesh = init_device_mesh(device_of(module).type, (distributed.world_size(),))
        for block in self._found(module):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        after = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [
                after[before[id(p)]] if id(p) in before else p for p in group["params"]
            ]

    def _found(self, module: nn.Module) -> list[nn.Module]:
        if self._blocks is not None:
            found = [child for child in module.modules() if isinstance(child, self._blocks)]
        else:
            rows = [m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList))]
            found = [child for row in rows for child in row]
        whole = {id(child) for child in found if next(child.parameters(), None) is not None}
        # Inner ones first, each once, and the module itself last, by the caller.
        order = [m for m in reversed(list(module.modules())) if id(m) in whole]
        return [m for m in order if m is not module and not isinstance(m, FSDPModule)]

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """The weights put together once for all steps of the attack."""
        with self.gathered():
            yield

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Whole weights, and no communication by the passes inside."""
        if self._root is None:
            yield
            return
        shards = [m for m in self._module.modules() if isinstance(m, FSDPModule)]
        with ExitStack() as stack:
            stack.callback(self._reshard, shards)
            self._root.set_reshard_after_forward(False)
            self._root.set_reshard_after_backward(False)
            for shard in shards:
                shard.unshard()
            yield

    def _reshard(self, shards: Sequence[FSDPModule]) -> None:
        if self._root is not None:
            self._root.set_reshard_after_forward(True)
            self._root.set_reshard_after_backward(True)
        for shard in shards:
            shard.reshard()

    @contextmanager
    def accumulating(self, *, last: bool, second_order: bool = False) -> Iterator[None]:
        """Gradients are summed over the processes at the last part only."""
        if self._root is None:
            yield
            return
        self._root.set_requires_gradient_sync(last)
        try:
            if second_order:  # the weights that the first pass took apart are needed by the second
                with self.gathered():
                    yield
            else:
                yield
        finally:
            self._root.set_requires_gradient_sync(True)

    def full(self, saved: Any) -> Any:
        """``saved`` with every shard made whole."""
        return _each(saved, lambda _, t: t.full_tensor() if isinstance(t, DTensor) else t)

    def own(self, saved: Any) -> Any:
        """``saved`` in shards again: what has a weight's name and shape is laid out like it."""
        named = dict(self._module.named_parameters())
        return _each(saved, lambda name, value: _like(named.get(name), value))

    def own_optimizer(self, saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state, made whole by :meth:`full`, in shards again."""
        moved = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            i: {key: _like(moved[i], value) for key, value in entries.items()}
            for i, entries in saved["state"].items()
        }
        return saved | {"state": state}

    @property
    def _module(self) -> nn.Module:
        return self.attacked.module


def _like(weight: Tensor | None, value: Any) -> Any:
    """``value`` laid out as ``weight`` is, where that is in shards and of the same shape."""
    if not (isinstance(weight, DTensor) and isinstance(value, Tensor)):
        return value
    if value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def _each(value: Any, change: Any, name: Any = None) -> Any:
    """``value`` with ``change(name, tensor)`` for each tensor in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: _each(entry, change, key) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_each(entry, change, name) for entry in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
