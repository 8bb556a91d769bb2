"""The checkpoint file: written whole or not at all, and never read where it is not sound."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from artplus.errors import CheckpointError, ConfigurationError

MAGIC = b"artplus\0ckpt"
VERSION = 1
HEADER = struct.Struct(f"<{len(MAGIC)}sI")
DIGEST = hashlib.sha256().digest_size

NAME = re.compile(r"step-(\d+)\.ckpt")
LITTER = ".step-*.ckpt.tmp"


def write(folder: Path, step: int, payload: Mapping[str, Any]) -> Path:
    """Write ``payload`` as the checkpoint of ``step``; after a crash it is there whole, or not.

    The bytes go to a temporary file in the same folder and to the disk; then one rename, which the
    disk gets too. The file: magic, format version, ``torch.save`` of tensors and plain data, and a
    SHA-256 of all that stands before it.

    Raises:
        CheckpointError: if the payload holds anything but tensors and plain data.
        OSError: as from the disk, such as a full one; what was written before stays as it was.
    """
    found = plain(payload)
    path = folder / f"step-{step:09d}.ckpt"
    temporary = folder / f".{path.name}.tmp"
    try:
        with open(temporary, "wb") as file:
            out = _Hashed(file)
            out.write(HEADER.pack(MAGIC, VERSION))
            torch.save(found, cast(BinaryIO, out))
            file.write(out.digest())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(folder)
    except BaseException as error:
        # The first error is the one to report, whatever happens on the way out.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, RuntimeError) and (disk := _behind(error)) is not None:
            raise disk from None
        raise
    return path


def read(path: Path) -> dict[str, Any]:
    """The payload of a checkpoint, on the CPU; only tensors and plain data, no code is run.

    Raises:
        CheckpointError: if there is no such file, or it is foreign, newer, damaged or unsafe.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) < HEADER.size + DIGEST or not data.startswith(MAGIC):
        raise CheckpointError(
            f"{path} is no artplus checkpoint: expected it to begin with {MAGIC!r} and to hold at "
            f"least {HEADER.size + DIGEST} bytes, got {data[: len(MAGIC)]!r} and {len(data)} "
            "bytes. Weights alone are loaded by model.load_state_dict."
        )
    _, version = HEADER.unpack_from(data)
    if version != VERSION:
        raise CheckpointError(
            f"{path} has format version {version}, expected {VERSION}. Continue it with the "
            f"{'newer' if version > VERSION else 'older'} artplus that wrote it."
        )
    if hashlib.sha256(memoryview(data)[:-DIGEST]).digest() != data[-DIGEST:]:
        raise CheckpointError(
            f"{path} is damaged: its SHA-256 is not the one written at its end, so it was cut "
            f"off or altered ({len(data)} bytes are left)"
        )
    body = io.BytesIO(memoryview(data)[HEADER.size : -DIGEST])
    try:
        payload = torch.load(body, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of anything make unpickling raise almost anything
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} holds more than tensors and plain data, or no torch payload at all, so "
            f"artplus did not write it: {reason}"
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} must hold a dict, got {type(payload).__name__}")
    return payload


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


def plain(value: Any, where: str = "checkpoint") -> Any:
    """``value`` as tensors and plain data, numpy's numbers as Python's.

    Raises:
        CheckpointError: naming the place of the first thing that is neither.
    """
    if value is None or isinstance(value, (Tensor, bool, bytes, torch.dtype)):
        return value
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        entries = {plain(k, where): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
        return Counter(entries) if isinstance(value, Counter) else entries
    if isinstance(value, (list, tuple)):
        items = [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise CheckpointError(
        f"{where} is a {type(value).__name__}, but a checkpoint holds only tensors and plain data "
        "(numbers, strings, lists, dicts). Give what is needed to rebuild it instead."
    )


class _Hashed:
    """A file to write to, with the SHA-256 of all that went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def digest(self) -> bytes:
        return self._hash.digest()


def _behind(error: BaseException | None) -> OSError | None:
    """The disk's error behind the one that torch's archive writer may make of it."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _remedy(previous: list[Path]) -> str:
    if not previous:
        return ""
    return (
        f"The one before it is {previous[0].name}: pass resume={str(previous[0])!r}, or "
        "Resume(folder, skip_damaged=True) for the newest sound one."
    )


def _sync(folder: Path) -> None:
    """Make a rename durable; some systems cannot open a folder and need not."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
