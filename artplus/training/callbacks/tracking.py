"""The base class of experiment trackers: what is logged and when."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from artplus import _checks, distributed
from artplus.attacks import members
from artplus.errors import ArtplusWarning
from artplus.fingerprint import Fingerprint, describe, text
from artplus.training.callbacks._base import Callback
from artplus.training.state import Counted, State, Weights

Figures = dict[str, float]

EXTRA = "tracking"
"""Name of the optional dependencies with the trackers' libraries."""


class Tracker(Callback):
    """Logs the settings, every epoch's row, the figures of some steps, and the notes.

    Figures of a step are those of its batch and named ``step/...``; rows of epochs are named
    ``epoch/...``. Both are logged by the number of steps taken, so a resumed run continues its
    curves. Figures of steps are logged a little late, when they have arrived from the device, so
    that training never waits. With several processes, only the first one writes; its figures of
    steps are those of its part of the batch, while rows are means over all processes.

    If a tracker fails during training, a warning says so, and training goes on without it. At the
    beginning a failure is an error.

    Args:
        every_steps: Steps between figures of a step, >= 1.
    """

    watches = True

    weights: bool = False
    """Whether :meth:`end` gets the final weights, gathered if they are sharded."""

    def __init__(self, *, every_steps: int = 10) -> None:
        self.every_steps = _checks.count("every_steps", every_steps)
        self._settings: Fingerprint = {}
        self._before: dict[str, Counted] = {}
        self._rate: float | Tensor = 0.0
        self._pending: list[_Pending] = []
        self._begun = self._broken = False

    @abstractmethod
    def connect(self) -> None:
        """Import the library, in every process; raise here if it is missing."""

    @abstractmethod
    def begin(self, settings: Fingerprint, done: int) -> None:
        """Open the run, or reopen it after ``done`` steps; the last method that may raise."""

    @abstractmethod
    def log(self, figures: Figures, step: int) -> None:
        """Write figures by their names."""

    @abstractmethod
    def end(self, state: State, weights: Weights | None, *, finished: bool) -> None:
        """Write the notes, and the weights if wanted; close the run.

        Args:
            state: State at the end of training.
            weights: The final weights, if :attr:`weights` is set and training finished.
            finished: Whether training ended as planned, without an error or a signal.
        """

    def on_fit_begin(self, state: State) -> None:
        self._forget()
        self.connect()
        self._settings = settings(state)
        if state.resumed is None:
            self._begin(state)

    def on_step_begin(self, state: State) -> None:
        if not self._begun:  # a resumed run, whose number of steps is known by now
            self._begin(state)
        if self._due(state.step + 1):
            self._before = state.meter.peek()
            self._rate = state.optimizer.param_groups[0]["lr"]  # before schedulers change it

    def on_step_end(self, state: State) -> None:
        if not self._due(state.step):
            return
        figures: dict[str, Tensor | float | None] = {
            name: now.since(self._before.get(name)) for name, now in state.meter.peek().items()
        }
        self._pending.append(_Pending(state.step, figures | {"lr": self._rate}))
        self._log_arrived(wait=False)

    def on_pause(self, state: State) -> None:
        if state.done or not state.history.rows:
            return
        self._log_arrived(wait=True)
        row = {
            f"epoch/{name}": float(value)
            for name, value in state.history.rows[-1].items()
            if isinstance(value, (int, float))
        }
        self._guarded(lambda: self.log(row, state.step))

    def on_fit_end(self, state: State) -> None:
        if self._begun:
            finished = _finished(state)
            # Collective: all processes gather sharded weights.
            weights = state.engine.full(state.weights()) if self.weights and finished else None
            self._log_arrived(wait=True)
            self._guarded(lambda: self.end(state, weights, finished=finished))
        self._forget()

    def _forget(self) -> None:
        self._settings, self._before, self._pending = {}, {}, []
        self._begun = self._broken = False

    def _begin(self, state: State) -> None:
        if distributed.is_main():
            self.begin(self._settings, state.step)
        self._begun = True

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0 and distributed.is_main() and not self._broken

    def _log_arrived(self, *, wait: bool) -> None:
        """Log the figures that have arrived from the device, in order."""
        while self._pending and (wait or self._pending[0].has_arrived):
            self._guarded(partial(self._log, self._pending.pop(0)))

    def _log(self, pending: _Pending) -> None:
        self.log(pending.figures(), pending.step)

    def _guarded(self, write: Callable[[], None]) -> None:
        """Call ``write`` in the first process; after an error stop writing, with a warning."""
        if self._broken or not distributed.is_main():
            return
        try:
            write()
        except Exception as error:  # disk and server raise different errors; none may end training
            self._broken = True
            warnings.warn(
                f"{type(self).__name__} failed and is left alone from here; training goes on: "
                f"{type(error).__name__}: {error}",
                ArtplusWarning,
                stacklevel=3,
            )


class _Pending:
    """Figures of one step that are being copied from the device asynchronously."""

    def __init__(self, step: int, figures: dict[str, Tensor | float | None]) -> None:
        self.step = step
        self._known = {name: v for name, v in figures.items() if isinstance(v, (int, float))}
        on_device = {k: v.detach().float() for k, v in figures.items() if isinstance(v, Tensor)}
        self._names, self._event = list(on_device), None
        self._values = torch.zeros(0)
        if on_device:
            stacked = torch.stack(list(on_device.values()))
            self._values = stacked.to("cpu", non_blocking=True)
            if stacked.is_cuda:
                self._event = torch.cuda.Event()
                self._event.record(torch.cuda.current_stream(stacked.device))

    @property
    def has_arrived(self) -> bool:
        return self._event is None or bool(self._event.query())

    def figures(self) -> Figures:
        if self._event is not None:
            self._event.synchronize()
        figures = self._known | dict(zip(self._names, self._values.tolist(), strict=True))
        return {f"step/{name}": value for name, value in figures.items()}


def settings(state: State) -> Fingerprint:
    """The settings of a run as short texts, for a table of runs.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> from artplus.training import make_method
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
        >>> state = State(model, optimizer, make_method("trades", eps=0.1), 2, 8, torch.Generator())
        >>> texts = settings(state)
        >>> texts["method"], texts["eps"], texts["lam"], texts["attack"], texts["engine"]
        ('trades', '0.1', '6', 'artplus.attacks.pgd.PGD', 'torch')
    """
    method, module = state.method, state.model.module
    group = state.optimizer.param_groups[0]
    texts = {
        "method": method.objective.name,
        "lam": text(method.objective.weight(0.0)),
        "label_smoothing": text(method.label_smoothing),
        "epochs": text(state.epochs),
        "batches_per_epoch": text(state.batches_per_epoch),
        "micro_batch": text(state.micro_batch),
        "engine": state.engine.name,
        "precision": state.engine.numerics.precision,
        "processes": text(distributed.world_size()),
        "device": state.generator.device.type,
        "model": type(module).__name__,
        "parameters": text(sum(p.numel() for p in module.parameters())),
        "optimizer": type(state.optimizer).__name__,
        "lr": text(float(group["lr"])),
        "weight_decay": text(group.get("weight_decay", 0)),
    }
    if method.attack is None:
        return texts
    first = members(method.attack, 0)[0]
    describe(method.attack, "attack", texts)
    return texts | {"eps": texts.get("attack.eps", text(first.eps)), "norm": text(first.norm)}


def missing(name: str, library: str) -> str:
    """The message if a tracker's library is not installed."""
    return f"{name} needs {library}: pip install 'artplus[{EXTRA}]'"


def _finished(state: State) -> bool:
    """Whether training came to its planned end and the last row is written."""
    is_complete = state.done == 0 and len(state.history) == state.epoch
    return is_complete and (state.epoch >= state.epochs or state.stop is not None)
