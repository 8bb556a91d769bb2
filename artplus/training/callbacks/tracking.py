"""What every experiment tracker is told, and when; where it goes is each one's own."""

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
"""The optional dependencies that bring the trackers' libraries."""


class Tracker(Callback):
    """Tell a tracker the settings, every epoch's row, a step's figures now and then, the notes.

    Figures of a step are those of the one batch, under ``step/``; rows of epochs stand under
    ``epoch/``. Both are placed by the number of steps taken, so a resumed run goes on where its
    curves ended. Figures of steps come from the device without being waited for, a little late; of
    several processes they are the first one's part of the batch, while rows are of all. The first
    process alone writes.

    A tracker that breaks in the middle of training is left alone with a warning: no training is
    lost for the sake of its curves. At the beginning it is an error.

    Args:
        every_steps: Steps between figures of a step, >= 1.
    """

    watches = True

    weights: bool = False
    """Whether the weights handed out are wanted, whole."""

    def __init__(self, *, every_steps: int = 10) -> None:
        self.every_steps = _checks.count("every_steps", every_steps)
        self._settings: Fingerprint = {}
        self._before: dict[str, Counted] = {}
        self._rate: float | Tensor = 0.0
        self._coming: list[_Coming] = []
        self._begun = self._broken = False

    @abstractmethod
    def connect(self) -> None:
        """Load the library, in every process; the place to fail if it is not there."""

    @abstractmethod
    def begin(self, settings: Fingerprint, done: int) -> None:
        """Open the run, or its earlier part again, after ``done`` steps; the last place to fail."""

    @abstractmethod
    def log(self, figures: Figures, step: int) -> None:
        """Write figures by their names."""

    @abstractmethod
    def end(self, state: State, weights: Weights | None, *, finished: bool) -> None:
        """Write the notes, and the weights if wanted; close the run.

        Args:
            state: Where training ended.
            weights: Those handed out, if they are wanted and there are any.
            finished: Whether no error or signal ended it before its time.
        """

    def on_fit_begin(self, state: State) -> None:
        self._forget()
        self.connect()
        self._settings = settings(state)
        if state.resumed is None:
            self._begin(state)

    def on_step_begin(self, state: State) -> None:
        if not self._begun:  # a resumed run, whose place is known by now
            self._begin(state)
        if self._due(state.step + 1):
            self._before = state.meter.peek()
            self._rate = state.optimizer.param_groups[0]["lr"]  # which schedulers move after it

    def on_step_end(self, state: State) -> None:
        if not self._due(state.step):
            return
        found: dict[str, Tensor | float | None] = {
            name: now.since(self._before.get(name)) for name, now in state.meter.peek().items()
        }
        self._coming.append(_Coming(state.step, found | {"lr": self._rate}))
        self._arrived(wait=False)

    def on_pause(self, state: State) -> None:
        if state.done or not state.history.rows:
            return
        self._arrived(wait=True)
        row = {
            f"epoch/{name}": float(value)
            for name, value in state.history.rows[-1].items()
            if isinstance(value, (int, float))
        }
        self._guarded(lambda: self.log(row, state.step))

    def on_fit_end(self, state: State) -> None:
        if self._begun:
            finished = _finished(state)
            # Sharded weights are made whole by all processes together.
            whole = state.engine.full(state.weights()) if self.weights and finished else None
            self._arrived(wait=True)
            self._guarded(lambda: self.end(state, whole, finished=finished))
        self._forget()

    def _forget(self) -> None:
        self._settings, self._before, self._coming = {}, {}, []
        self._begun = self._broken = False

    def _begin(self, state: State) -> None:
        if distributed.is_main():
            self.begin(self._settings, state.step)
        self._begun = True

    def _due(self, step: int) -> bool:
        return step % self.every_steps == 0 and distributed.is_main() and not self._broken

    def _arrived(self, *, wait: bool) -> None:
        """Write what has come from the device, in order."""
        while self._coming and (wait or self._coming[0].there):
            one = self._coming.pop(0)
            self._guarded(partial(self._log, one))

    def _log(self, one: _Coming) -> None:
        self.log(one.figures(), one.step)

    def _guarded(self, write: Callable[[], None]) -> None:
        if self._broken or not distributed.is_main():
            return
        try:
            write()
        except Exception as error:  # whatever a disk or a server raises, training can do without
            self._broken = True
            warnings.warn(
                f"{type(self).__name__} failed and is left alone from here; training goes on: "
                f"{type(error).__name__}: {error}",
                ArtplusWarning,
                stacklevel=3,
            )


class _Coming:
    """Figures of one step on their way from the device; nobody waits for them."""

    def __init__(self, step: int, figures: dict[str, Tensor | float | None]) -> None:
        self.step = step
        self._known = {name: v for name, v in figures.items() if isinstance(v, (int, float))}
        sent = {name: v.detach().float() for name, v in figures.items() if isinstance(v, Tensor)}
        self._names, self._event = list(sent), None
        self._values = torch.zeros(0)
        if sent:
            together = torch.stack(list(sent.values()))
            self._values = together.to("cpu", non_blocking=True)
            if together.is_cuda:
                self._event = torch.cuda.Event()
                self._event.record(torch.cuda.current_stream(together.device))

    @property
    def there(self) -> bool:
        return self._event is None or bool(self._event.query())

    def figures(self) -> Figures:
        if self._event is not None:
            self._event.synchronize()
        found = self._known | dict(zip(self._names, self._values.tolist(), strict=True))
        return {f"step/{name}": value for name, value in found.items()}


def settings(state: State) -> Fingerprint:
    """What a run is known by in a table of runs, as short texts.

    Example:
        >>> import torch
        >>> from artplus.model import LossModel
        >>> from artplus.training import make_method
        >>> model = LossModel(torch.nn.Linear(4, 3))
        >>> optimizer = torch.optim.SGD(model.module.parameters(), lr=0.1)
        >>> state = State(model, optimizer, make_method("trades", eps=0.1), 2, 8, torch.Generator())
        >>> found = settings(state)
        >>> found["method"], found["eps"], found["lam"], found["attack"], found["engine"]
        ('trades', '0.1', '6', 'artplus.attacks.pgd.PGD', 'torch')
    """
    method, module = state.method, state.model.module
    group = state.optimizer.param_groups[0]
    found = {
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
        return found
    first = members(method.attack, 0)[0]
    describe(method.attack, "attack", found)
    return found | {"eps": found.get("attack.eps", text(first.eps)), "norm": text(first.norm)}


def missing(name: str, library: str) -> str:
    """What to say where a tracker's library is not installed."""
    return f"{name} needs {library}: pip install 'artplus[{EXTRA}]'"


def _finished(state: State) -> bool:
    """Whether training came to its planned end, its last row written."""
    whole = state.done == 0 and len(state.history) == state.epoch
    return whole and (state.epoch >= state.epochs or state.stop is not None)
