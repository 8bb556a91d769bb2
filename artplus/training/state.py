"""The state of a run, shared by steps and callbacks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import distributed, modes
from artplus.model import LossModel
from artplus.spaces.hidden import Hooks
from artplus.training.data import Batch
from artplus.training.engines import Engine
from artplus.training.frozen import Frozen
from artplus.training.history import History, Row
from artplus.training.method import Method
from artplus.tree import Tree

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Counted:
    """A sum on the device and the number of its values."""

    total: Tensor
    count: int

    def since(self, before: Counted | None) -> Tensor | None:
        """The mean of what was added after ``before``, on the device; ``None`` if nothing was."""
        if before is None:
            return self.total / self.count if self.count else None
        added = self.count - before.count
        return (self.total - before.total) / added if added else None


class Meter:
    """Means over an epoch; they stay on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Tensor) -> None:
        """Add the ``(batch,)`` values, or none; never synchronises with the device."""
        total = values.detach().sum(dtype=torch.float32)
        self._sums[name] = self._sums[name] + total if name in self._sums else total
        self._counts[name] = self._counts.get(name, 0) + len(values)

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def peek(self) -> dict[str, Counted]:
        """Sums and counts so far of this process; never synchronises with the device."""
        return {name: Counted(total, self._counts[name]) for name, total in self._sums.items()}

    def read(self) -> dict[str, float]:
        """The means so far of this process; synchronises with the device."""
        present = [name for name, count in self._counts.items() if count]
        return {name: float(self._sums[name]) / self._counts[name] for name in present}

    def pool(self) -> dict[str, float]:
        """The means so far over all processes, which must all call it."""
        names = list(self._sums)
        if distributed.world_size() == 1 or not names:
            return self.read()
        sums = [torch.stack([self._sums[n].double(), self._sums[n].new_tensor(self._counts[n])])
                for n in names]  # fmt: skip
        pooled = distributed.all_reduce(torch.stack(sums).cpu())
        rows = {n: row for n, row in zip(names, pooled, strict=True) if row[1] > 0}
        return {n: float(row[0] / row[1]) for n, row in rows.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, for a checkpoint."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, saved: dict[str, Any], device: torch.device) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._sums = {name: total.to(device) for name, total in saved["sums"].items()}
        self._counts = dict(saved["counts"])


class Starts(Protocol):
    """Starting points of attacks, from the results of earlier attacks on the same examples."""

    def first(self, state: State, batch: Batch) -> Tree | None:
        """First iterates for the batch; ``None`` if the attack chooses."""
        ...

    def found(self, state: State, batch: Batch, x_adv: Tree, rows: Tensor | None) -> None:
        """Remember the attack's result for the examples ``rows`` of the batch, or for all."""
        ...


@dataclass
class State:
    """What steps read and change, and what callbacks may watch or replace.

    Immutable parts (``method`` and its attack) are replaced by callbacks, never edited.

    Attributes:
        model: What is trained.
        optimizer: Updates its weights.
        method: Objective, attack and space in force.
        epochs: Planned number of epochs.
        batches_per_epoch: Where the data has a length, else ``None``.
        generator: Random numbers of attacks, on the model's device; dropout has its own.
        history: One row per finished epoch.
        epoch: Epochs finished.
        step: Steps finished, over all epochs.
        done: Batches of the present epoch finished; 0 between epochs.
        began: Time at which the present epoch began, by ``time.perf_counter``.
        meter: Running means of the present epoch.
        row: Figures of the present epoch that callbacks add to.
        stop: Set to a reason to stop after this epoch.
        validates: Whether figures of held-out data are measured.
        averaged: Averaged weights, if a callback keeps them. Validation uses them, and the model
            has them after training. Frozen weights are not included.
        capture: Returns everything needed to continue from here, as tensors and plain data that
            share memory with the run.
        replayable: Whether a run over this data can continue from the middle of an epoch.
        engine: Runs the steps on its devices.
        micro_batch: Most examples in one forward and backward pass; ``None`` is the whole batch.
        moves: Weight updates that have begun in this process.
        memory: Tensors that a step carries from batch to batch, by name.
        examples: Number of examples in the data, where known.
        starts: Starting points of attacks, if a callback remembers them; else attacks choose.
        hooks: Those of a space inside the model, with the unit of its radius.
        extras: Further values for the objective, by name, with one row an example of the present
            batch: what :attr:`~artplus.losses.Context.extras` holds.
        descend: Fills ``.grad`` in place of the plain backward pass while another step wraps this
            one, see :class:`~artplus.training.steps.AWP`; ``None`` is the plain pass.
        frozen: The frozen weights.
        streams: The random streams that forward passes draw from.
        fingerprint: Settings that identify the run; its checkpoints hold them too.
        resumed: The checkpoint that the run continues from.
    """

    model: LossModel
    optimizer: Optimizer
    method: Method
    epochs: int
    batches_per_epoch: int | None
    generator: torch.Generator
    history: History = field(default_factory=History)
    epoch: int = 0
    step: int = 0
    done: int = 0
    began: float = 0.0
    meter: Meter = field(default_factory=Meter)
    row: Row = field(default_factory=dict)
    stop: str | None = None
    validates: bool = False
    averaged: Weights | None = None
    capture: Callable[[], dict[str, Any]] = dict
    replayable: bool = False
    fingerprint: dict[str, str] = field(default_factory=dict)
    resumed: Path | None = None
    engine: Engine = field(default_factory=Engine)
    micro_batch: int | None = None
    moves: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    examples: int | None = None
    starts: Starts | None = None
    hooks: Hooks | None = None
    extras: dict[str, Tree] = field(default_factory=dict)
    descend: Callable[..., Any] | None = None
    frozen: Frozen = field(init=False)
    streams: modes.RandomState = field(init=False)

    def __post_init__(self) -> None:
        if not self.engine.prepared:
            self.engine.prepare(self.model, self.optimizer)
        self.frozen = Frozen(self.model.module)
        self.streams = modes.RandomState(self.generator.device, self.model.module)

    @property
    def total_steps(self) -> int | None:
        """Planned number of steps, where known."""
        return None if self.batches_per_epoch is None else self.epochs * self.batches_per_epoch

    @property
    def progress(self) -> float:
        """Fraction of the planned training done, in [0, 1]."""
        if self.total_steps:
            return min(1.0, self.step / self.total_steps)
        return self.epoch / self.epochs

    def state_dict(self) -> dict[str, Any]:
        """The progress of training, without model and optimizer, which are saved by themselves."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "done": self.done,
            "seconds": time.perf_counter() - self.began,
            "row": self.row,
            "stop": self.stop,
            "averaged": self.averaged,
            "originals": self.frozen.originals,
            "trainable": [name for name, p in self._parameters().items() if p.requires_grad],
            "history": self.history.to_dict(),
            "micro_batch": self.micro_batch,
            "unit": None if self.hooks is None else self.hooks.unit,
        }

    def local_state_dict(self) -> dict[str, Any]:
        """What differs from process to process."""
        return {
            "meter": self.meter.state_dict(),
            "generator": self.generator.get_state(),
            "memory": dict(self.memory),
            "frozen": self.frozen.state_dict(),
        }

    def load_local_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`local_state_dict` returned."""
        device = self.generator.device
        self.meter.load_state_dict(saved["meter"], device)
        self.generator.set_state(saved["generator"])
        self.memory = {name: value.to(device) for name, value in saved["memory"].items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.epoch, self.step, self.done = saved["epoch"], saved["step"], saved["done"]
        self.began = time.perf_counter() - saved["seconds"]
        self.row, self.stop = saved["row"], saved["stop"]
        self.micro_batch = saved["micro_batch"]
        self.history.rows[:] = saved["history"]["rows"]
        self.history.notes[:] = saved["history"]["notes"]
        if self.hooks is not None:
            self.hooks.unit = saved["unit"]  # measured on the initial weights
        self.averaged = saved["averaged"] and self._on_device(saved["averaged"])
        self.frozen.originals = self._on_device(saved["originals"])
        for name, parameter in self._parameters().items():
            parameter.requires_grad_(name in saved["trainable"])

    def moving(self) -> Weights:
        """Weights and buffers without the frozen ones, sharing memory with the module's.

        All processes must call it.
        """
        unchanged = self.frozen.unchanged()
        present = self.model.module.state_dict()
        return {name: value for name, value in present.items() if name not in unchanged}

    def copy(self) -> Weights:
        """A copy of the weights and buffers that training changes, for :meth:`put_back`."""
        return clone(self.moving())

    def put_back(self, weights: Weights) -> None:
        """Load a copy, or averaged weights, into the module.

        Weights that were still frozen when the copy was made get their value of that time.
        """
        present = self.model.module.state_dict()
        frozen = {name: value for name, value in present.items() if name in self.frozen}
        self.model.module.load_state_dict({**frozen, **self.frozen.originals, **weights})

    def weights(self) -> Weights:
        """A copy of all weights, with averages in place of the weights that have them."""
        return clone(self.model.module.state_dict() | (self.averaged or {}))

    @contextmanager
    def candidate(self) -> Iterator[LossModel]:
        """The model with averaged weights, if there are any, inside; restored afterwards."""
        if self.averaged is None:
            yield self.model
            return
        present = self.model.module.state_dict()
        replaced = self.averaged.keys() | self.frozen.originals.keys()
        training = clone({name: present[name] for name in replaced})
        try:
            self.put_back(self.averaged)
            yield self.model
        finally:
            self.put_back(training)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.model.module.named_parameters(remove_duplicate=False))

    def _on_device(self, weights: Weights) -> Weights:
        """``weights``, each on the device of the module's weight."""
        present = self.model.module.state_dict()
        return {
            name: value.to(present[name].device) if isinstance(value, Tensor) else value
            for name, value in weights.items()
        }


def clone(weights: Weights) -> Weights:
    """A copy that later training does not change."""
    return {
        # A module's extra state may be any object.
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in weights.items()
    }
