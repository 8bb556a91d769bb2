"""The checkpoints of a run: a folder of files named by step, of which the latest are kept."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artplus import atomic, checkpoint_io
from artplus.checkpoint_io import DIGEST as DIGEST
from artplus.checkpoint_io import HEADER as HEADER
from artplus.checkpoint_io import MAGIC as MAGIC
from artplus.checkpoint_io import VERSION as VERSION
from artplus.checkpoint_io import plain as plain
from artplus.checkpoint_io import read as read
from artplus.errors import CheckpointError, ConfigurationError

NAME = re.compile(r"step-(\d+)\.ckpt")


def write(folder: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write ``payload`` as the checkpoint of ``step``, atomically.

    Raises:
        CheckpointError: if the payload holds anything but tensors and plain data.
        OSError: if the disk fails, as when it is full; earlier files stay as they were.
    """
    return checkpoint_io.write(folder / f"step-{step:09d}.ckpt", payload)


def listed(folder: Path) -> dict[int, Path]:
    """The checkpoints in ``folder`` by step, in rising order; empty if there is no such folder."""
    if not folder.is_dir():
        return {}
    matches = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def prune(folder: Path, step: int, keep: int) -> None:
    """Delete all checkpoints but the last ``keep`` up to ``step``.

    Later ones are left from before a resumption, when the newest checkpoint was damaged and an
    earlier one was taken; the resumed run writes them again.
    """
    checkpoints = listed(folder)
    kept = [number for number in checkpoints if number <= step][-keep:]
    for number, path in checkpoints.items():
        if number not in kept:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove temporary files of writes that were killed."""
    atomic.sweep(folder, "step-*.ckpt")


@dataclass(frozen=True)
class Resume:
    """Where to continue from, and what to do if there is no intact checkpoint.

    Args:
        where: A checkpoint, or a folder of them, of which the newest is used.
        skip_damaged: In a folder, use the newest intact checkpoint instead of raising an error.
        or_start: Begin a new run if the folder holds no checkpoint. The same command can then be
            repeated until the run is done.

    Example:
        >>> Resume("runs/never-made", or_start=True).load() is None
        True
    """

    where: str | Path
    skip_damaged: bool = False
    or_start: bool = False

    def load(self) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint's path and payload; ``None`` to begin a new run.

        Raises:
            CheckpointError: if there is none, or it is damaged.
        """
        where = Path(self.where)
        candidates = list(listed(where).values())[::-1] or ([where] if where.is_file() else [])
        if not candidates:
            if self.or_start:
                return None
            raise CheckpointError(
                f"there is no checkpoint at {where}: expected a file, or a folder of files "
                "step-*.ckpt. To begin a new run leave out resume, or say so: "
                "Resume(folder, or_start=True)."
            )
        for i, path in enumerate(candidates):
            try:
                return path, read(path)
            except CheckpointError as error:
                if self.skip_damaged and i + 1 < len(candidates):
                    continue
                raise CheckpointError(f"{error} {_remedy(candidates[i + 1 :])}".strip()) from error
        raise AssertionError("unreachable")  # pragma: no cover


def as_resume(resume: str | Path | Resume | None) -> Resume | None:
    """The ``resume=`` argument as a :class:`Resume`."""
    if resume is None or isinstance(resume, Resume):
        return resume
    if isinstance(resume, (str, Path)):
        return Resume(resume)
    raise ConfigurationError(
        f"resume must be a checkpoint, a folder of them or a Resume(...), got {resume!r}"
    )


def _remedy(previous: list[Path]) -> str:
    if not previous:
        return ""
    return (
        f"The one before it is {previous[0].name}: pass resume={str(previous[0])!r}, or "
        "Resume(folder, skip_damaged=True) for the newest intact one."
    )
