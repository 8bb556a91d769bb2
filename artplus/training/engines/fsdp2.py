"""Fully sharded data parallelism: each process holds a part of every weight."""

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

    For models too large for one device. The weights are gathered once for the whole attack on a
    batch instead of at each of its steps, so its inner loop causes no communication; meanwhile
    memory holds all of them. Batches and BatchNorm are treated as in
    :class:`~artplus.training.engines.DDP`. After training the module stays sharded; its
    ``state_dict`` holds ``DTensor``, which functions of
    ``torch.distributed.checkpoint.state_dict`` gather.

    Args:
        blocks: Types of modules that are sharded as units, such as ``(TransformerBlock,)``;
            ``None`` takes the entries of ``nn.Sequential`` and ``nn.ModuleList``.
        options: As for :class:`~artplus.training.engines.Engine`, without ``compile``.

    Raises:
        ConfigurationError: for ``compile``, or an optimizer that has already taken a step.
    """

    name = "fsdp2"

    def __init__(self, *, blocks: Sequence[type[nn.Module]] | None = None, **options: Any) -> None:
        super().__init__(**options)
        if self.requested.compile:
            raise ConfigurationError("compile is not supported with fsdp2; leave it out")
        self._blocks = None if blocks is None else tuple(blocks)
        self._root: FSDPModule | None = None

    def _shard_weights(self, module: nn.Module, optimizer: Optimizer) -> None:
        """Shard the weights and point the optimizer to the shards."""
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
        for block in self._units(module):
            fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        after = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [
                after[before[id(p)]] if id(p) in before else p for p in group["params"]
            ]

    def _units(self, module: nn.Module) -> list[nn.Module]:
        """The modules to shard as units, inner ones first, without ``module`` itself."""
        if self._blocks is not None:
            units = [child for child in module.modules() if isinstance(child, self._blocks)]
        else:
            lists = [m for m in module.modules() if isinstance(m, (nn.Sequential, nn.ModuleList))]
            units = [child for one in lists for child in one]
        ids = {id(child) for child in units if next(child.parameters(), None) is not None}
        inner_first = [m for m in reversed(list(module.modules())) if id(m) in ids]
        return [m for m in inner_first if m is not module and not isinstance(m, FSDPModule)]

    @contextmanager
    def attacking(self) -> Iterator[None]:
        """Gathers the weights once for all steps of the attack."""
        with self.gathered():
            yield

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Gathers the weights, so that passes inside cause no communication."""
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
            if second_order:  # the first backward pass would reshard what the second needs
                with self.gathered():
                    yield
            else:
                yield
        finally:
            self._root.set_requires_gradient_sync(True)

    def full(self, saved: Any) -> Any:
        """``saved`` with every shard gathered."""
        return _map_tensors(saved, lambda _, t: t.full_tensor() if isinstance(t, DTensor) else t)

    def own(self, saved: Any) -> Any:
        """``saved`` sharded again: tensors with a weight's name and shape are sharded like it."""
        named = dict(self._module.named_parameters())
        return _map_tensors(saved, lambda name, value: _like(named.get(name), value))

    def own_optimizer(self, saved: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
        """An optimizer's state, gathered by :meth:`full`, sharded again."""
        params = [p for group in optimizer.param_groups for p in group["params"]]
        state = {
            i: {key: _like(params[i], value) for key, value in entries.items()}
            for i, entries in saved["state"].items()
        }
        return saved | {"state": state}

    @property
    def _module(self) -> nn.Module:
        return self.attacked.module


def _like(weight: Tensor | None, value: Any) -> Any:
    """``value`` sharded like ``weight``, if that is sharded and has the same shape."""
    if not (isinstance(weight, DTensor) and isinstance(value, Tensor)):
        return value
    if value.shape != weight.shape:
        return value
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)


def _map_tensors(value: Any, change: Any, name: Any = None) -> Any:
    """``value`` with ``change(name, tensor)`` for each tensor in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: _map_tensors(entry, change, key) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        items = [_map_tensors(entry, change, name) for entry in value]
        return tuple(items) if isinstance(value, tuple) else items
    return value
