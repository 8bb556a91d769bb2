"""The checkpoints of a run: a folder of files by step, the oldest of which go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from artplus import checkpoint_io
from artplus.checkpoint_io import DIGEST as DIGEST
from artplus.checkpoint_io import HEADER as HEADER
from artplus.checkpoint_io import MAGIC as MAGIC
from artplus.checkpoint_io import VERSION as VERSION
from artplus.checkpoint_io import plain as plain
from artplus.checkpoint_io import read as read
from artplus.errors import CheckpointError, ConfigurationError

NAME = re.compile(r"step-(\d+)\.ckpt")
LITTER = ".step-*.ckpt.tmp"


def write(folder: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write ``payload`` as the checkpoint of ``step``; after a crash it is there whole, or not.

    Raises:
        CheckpointError: if the payload holds anything but tensors and plain data.
        OSError: as from the disk, such as a full one; what was written before stays as it was.
    """
    return checkpoint_io.write(folder / f"step-{step:09d}.ckpt", payload)


def listed(folder: Path) -> dict[int, Path]:
    """The checkpoints in ``folder`` by step, the oldest first; none if there is no such folder."""
    if not folder.is_dir():
        return {}
    found = ((NAME.fullmatch(path.name), path) for path in folder.iterdir())
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def prune(folder: Path, step: int, keep: int) -> None:
    """Leave the last ``keep`` checkpoints up to ``step``, and none ahead of it.

    Those ahead were left behind by a run that was resumed from before them, as where the newest one
    was damaged; the resumed run writes them again.
    """
    known = listed(folder)
    behind = [number for number in known if number <= step]
    for number, path in known.items():
        if number not in behind[-keep:]:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove temporary files that a kill in the middle of a write left behind."""
    for path in folder.glob(LITTER):
        path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Resume:
    """Where to continue from, and what to do where there is no sound checkpoint.

    Args:
        where: A checkpoint, or a folder of them: the newest is taken.
        skip_damaged: In a folder, take the newest that is sound instead of raising an error.
        or_start: Begin a new run where the folder holds no checkpoint. The same command may then be
            given again and again until the run is done.

    Example:
        >>> Resume("runs/never-made", or_start=True).load() is None
        True
    """

    where: str | Path
    skip_damaged: bool = False
    or_start: bool = False

    def load(self) -> tuple[Path, dict[str, Any]] | None:
        """The checkpoint's path and payload; ``None`` to begin anew.

        Raises:
            CheckpointError: if there is none, or it is not sound.
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


def as_resume(given: str | Path | Resume | None) -> Resume | None:
    """What the user passed as ``resume=``, in its full form."""
    if given is None or isinstance(given, Resume):
        return given
    if isinstance(given, (str, Path)):
        return Resume(given)
    raise ConfigurationError(
        f"resume must be a checkpoint, a folder of them or a Resume(...), got {given!r}"
    )


def _remedy(previous: list[Path]) -> str:
    if not previous:
        return ""
    return (
        f"The one before it is {previous[0].name}: pass resume={str(previous[0])!r}, or "
        "Resume(folder, skip_damaged=True) for the newest sound one."
    )
