"""A folder that holds an unfinished evaluation, so that it can be continued."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from artplus import _checks, atomic, checkpoint_io, distributed
from artplus.errors import ArtplusWarning, CheckpointError, ConfigurationError
from artplus.evaluation.progress_record import ProgressRecord
from artplus.fingerprint import Fingerprint, refuse_other
from artplus.folder_lock import FolderLock

HEAD = "evaluation.ckpt"
CLEAN = "clean.ckpt"
SHARE = 20
"""A write may take one twentieth of the time between two writes."""


class Folder:
    """Where an evaluation is saved: its fingerprint, the clean scores, and files of each attack.

    A finished attack has one file, written by the main process. Until then each process writes a
    file of its own, and a continuation reads all of them, so the number of processes may change.
    Files are written completely or not at all (:mod:`artplus.checkpoint_io`), and hold tensors and
    plain data.

    Args:
        path: The folder; created if it does not exist. All processes must see the same one.
        every: Least seconds between two writes; 0 writes after each batch.

    Raises:
        ConfigurationError: if ``path`` is a file.
    """

    def __init__(self, path: str | Path, every: float) -> None:
        self.path, self.every = _checks.path("checkpoint", path), every
        self._lock: FolderLock | None = None
        self._key: Fingerprint = {}
        if self.path.exists() and not self.path.is_dir():
            raise ConfigurationError(
                f"checkpoint is the folder to save the evaluation in, but {self.path} is a file"
            )

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def begin(self, key: Fingerprint) -> None:
        """Claim the folder for this evaluation, or check that it holds it.

        Raises:
            CheckpointError: if it holds another evaluation, naming what differs, or is damaged.
            ConfigurationError: if another evaluation is writing to it, or it cannot be written to.
        """
        self._key = key

        def enter() -> None:
            self._lock = FolderLock(self.path)
            atomic.sweep(self.path, "*.ckpt")
            head = self.path / HEAD
            if head.exists():
                refuse_other(self.read(head).get("fingerprint"), key)
            elif names := sorted(p.name for p in self.path.glob("*.ckpt")):
                raise CheckpointError(
                    f"{self.path} holds {names[0]} but no {HEAD}: it is no evaluation's folder, or "
                    "that file was lost. Give another folder."
                )
            else:
                checkpoint_io.write(head, {"fingerprint": key})

        distributed.from_main(enter)

    def clean(self) -> dict[str, Any] | None:
        """The columns of the clean scores; ``None`` if they were not saved."""
        path = self.path / CLEAN
        return distributed.from_main(lambda: self.read(path)["columns"] if path.exists() else None)

    def save_clean(self, columns: dict[str, Any]) -> None:
        """Save the columns of the clean scores."""
        if distributed.is_main():
            self.write(self.path / CLEAN, {"columns": columns})

    def attack(self, number: int) -> Part:
        """The files of one attack, numbered from 1."""
        return Part(self, number)

    def write(self, path: Path, payload: dict[str, Any]) -> bool:
        """Whether a file of this folder could be written; if not, a warning says so.

        The evaluation goes on: it needs the folder only after an interruption.
        """
        try:
            if not (self.path / HEAD).exists():  # the folder was taken away
                self.path.mkdir(parents=True, exist_ok=True)
                checkpoint_io.write(self.path / HEAD, {"fingerprint": self._key})
            checkpoint_io.write(path, payload)
        except OSError as error:
            warnings.warn(
                f"{path} was not written ({error.strerror or error}). The evaluation goes on; "
                "after an interruption what it holds would be computed again.",
                ArtplusWarning,
                stacklevel=2,
            )
            return False
        return True

    def read(self, path: Path) -> dict[str, Any]:
        """A file of this folder; an error says what to remove."""
        try:
            return checkpoint_io.read(path)
        except CheckpointError as error:
            what = "this folder" if path.name == HEAD else "that file alone"
            raise CheckpointError(
                f"{error}. Remove {what}, and its content is computed again."
            ) from error


class Part:
    """The files of one attack."""

    def __init__(self, folder: Folder, number: int) -> None:
        self._folder, self._name = folder, f"attack-{number:02d}"
        self._finished = folder.path / f"{self._name}.ckpt"
        self._part = folder.path / f"{self._name}.part-{distributed.rank()}.ckpt"
        self._last, self._took = time.monotonic(), 0.0
        self._loaded: Tensor | None = None  # batches that all processes had done when loaded

    def load(self, record: ProgressRecord) -> bool:
        """Enter what was saved into ``record``; return whether the attack was finished.

        Files of several processes are merged into one, which no process overwrites before it has
        done more.

        Raises:
            CheckpointError: if a file is damaged.
        """

        def read() -> tuple[bool, list[dict[str, Any]]]:
            if self._finished.exists():
                self._clear()
                return True, [self._folder.read(self._finished)]
            parts = sorted(self._folder.path.glob(f"{self._name}.part-*.ckpt"))
            states = [self._folder.read(path) for path in parts]
            if len(parts) > 1:
                merged = ProgressRecord(*record.settings)
                merged.merge(states)
                states = [merged.state()]
                written = self._folder.write(self._part, states[0])
                for path in parts if written else ():
                    if path != self._part:
                        path.unlink(missing_ok=True)
            return False, states

        finished, states = distributed.from_main(read)
        record.merge(states)
        self._loaded = record.done.clone()
        return finished

    def step(self, record: ProgressRecord) -> None:
        """Save after a batch, if it is time."""
        every = self._folder.every
        pause = max(every, SHARE * self._took) if every else 0.0
        if time.monotonic() - self._last >= pause:
            self.save(record)

    def save(self, record: ProgressRecord) -> None:
        """Save what this process has done; the main process also what was loaded."""
        begin = time.monotonic()
        self._folder.write(
            self._part, record.state(None if distributed.is_main() else self._loaded)
        )
        self._last = time.monotonic()
        self._took = self._last - begin

    def finish(self, record: ProgressRecord) -> None:
        """Save the finished attack; ``record`` holds what all processes have done."""
        written = False
        if distributed.is_main():
            written = self._folder.write(self._finished, record.state())
        distributed.barrier()
        if written:
            self._clear()

    def _clear(self) -> None:
        for path in self._folder.path.glob(f"{self._name}.part-*.ckpt"):
            path.unlink(missing_ok=True)
