"""A folder that holds an evaluation as far as it has come, so that it can be continued."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from artplus import checkpoint_io, distributed
from artplus.errors import CheckpointError, ConfigurationError
from artplus.evaluation.progress_record import ProgressRecord
from artplus.fingerprint import Fingerprint, refuse_other

HEAD = "evaluation.ckpt"
CLEAN = "clean.ckpt"
SHARE = 20
"""A write may take one twentieth of the time between two writes."""


class Folder:
    """Where an evaluation is saved: what it is, the clean scores, and a file for each attack.

    An attack that has come to its end has one file, written by the main process. Before, each
    process has a file of its own, and whatever files there are is continued from, so the number
    of processes may change. A file is whole or not there (:mod:`artplus.checkpoint_io`), and holds
    tensors and plain data.

    Args:
        path: The folder; made if it is not there. Several processes must see the same one.
        every: Least seconds between two writes; 0 writes after each batch.

    Raises:
        ConfigurationError: if ``path`` is a file.
    """

    def __init__(self, path: str | Path, every: float) -> None:
        self.path, self.every = Path(path), every
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(
                f"checkpoint is the folder to save the evaluation in, but {self.path} is a file"
            )

    def begin(self, own: Fingerprint) -> None:
        """Make the folder the one of this evaluation, or see that it is.

        Raises:
            CheckpointError: if it holds another evaluation, naming what differs, or is damaged.
        """

        def enter() -> None:
            self.path.mkdir(parents=True, exist_ok=True)
            for litter in self.path.glob(".*.ckpt.tmp"):
                litter.unlink(missing_ok=True)
            head = self.path / HEAD
            if head.exists():
                refuse_other(self._read(head).get("fingerprint"), own)
            elif found := sorted(p.name for p in self.path.glob("*.ckpt")):
                raise CheckpointError(
                    f"{self.path} holds {found[0]} but no {HEAD}: it is no evaluation's folder, or "
                    "that file was lost. Give another folder."
                )
            else:
                checkpoint_io.write(head, {"fingerprint": own})

        distributed.from_main(enter)

    def clean(self) -> dict[str, Any] | None:
        """The columns of the clean scores, if they were saved."""
        path = self.path / CLEAN
        return distributed.from_main(lambda: self._read(path)["columns"] if path.exists() else None)

    def save_clean(self, columns: dict[str, Any]) -> None:
        """Save them."""
        if distributed.is_main():
            checkpoint_io.write(self.path / CLEAN, {"columns": columns})

    def attack(self, number: int) -> Part:
        """What is saved of one attack, numbered from 1."""
        return Part(self, number)

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            return checkpoint_io.read(path)
        except CheckpointError as error:
            what = "this folder" if path.name == HEAD else "that file alone"
            raise CheckpointError(
                f"{error}. Remove {what}, and what it held is done again."
            ) from error


class Part:
    """What is saved of one attack."""

    def __init__(self, folder: Folder, number: int) -> None:
        self._folder, self._name = folder, f"attack-{number:02d}"
        self._whole = folder.path / f"{self._name}.ckpt"
        self._own = folder.path / f"{self._name}.part-{distributed.rank()}.ckpt"
        self._last, self._took = time.monotonic(), 0.0
        self._told: Tensor | None = None  # what was done before this life, for all processes

    def load(self, record: ProgressRecord) -> bool:
        """Enter what was saved into ``record``; whether the attack had come to its end.

        What several processes have saved is made one file, which no process overwrites before it
        has more.

        Raises:
            CheckpointError: if a file is damaged.
        """

        def found() -> tuple[bool, list[dict[str, Any]]]:
            if self._whole.exists():
                self._clear()
                return True, [self._folder._read(self._whole)]
            parts = sorted(self._folder.path.glob(f"{self._name}.part-*.ckpt"))
            states = [self._folder._read(path) for path in parts]
            if len(parts) > 1:
                joined = ProgressRecord(*record.form)
                joined.absorb(states)
                states = [joined.state()]
                self._write(self._own, states[0])
                for path in parts:
                    if path != self._own:
                        path.unlink(missing_ok=True)
            return False, states

        whole, states = distributed.from_main(found)
        record.absorb(states)
        self._told = record.done.clone()
        return whole

    def step(self, record: ProgressRecord) -> None:
        """After a batch: save, if it is time."""
        every = self._folder.every
        pause = max(every, SHARE * self._took) if every else 0.0
        if time.monotonic() - self._last >= pause:
            self.save(record)

    def save(self, record: ProgressRecord) -> None:
        """Save now what this process has done; the main one also what there was before."""
        begin = time.monotonic()
        self._write(self._own, record.state(None if distributed.is_main() else self._told))
        self._last = time.monotonic()
        self._took = self._last - begin

    def finish(self, record: ProgressRecord) -> None:
        """The attack has come to its end, and ``record`` is what all processes have done."""
        if distributed.is_main():
            self._write(self._whole, record.state())
        distributed.barrier()
        if distributed.is_main():
            self._clear()

    def _write(self, path: Path, state: dict[str, Any]) -> None:
        checkpoint_io.write(path, state)

    def _clear(self) -> None:
        for path in self._folder.path.glob(f"{self._name}.part-*.ckpt"):
            path.unlink(missing_ok=True)
