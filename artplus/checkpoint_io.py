"""Files of tensors and plain data, written atomically and checked when read."""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from artplus import atomic
from artplus.errors import CheckpointError

MAGIC = b"artplus\0ckpt"
VERSION = 2
HEADER = struct.Struct(f"<{len(MAGIC)}sI")
DIGEST = hashlib.sha256().digest_size


def write(path: Path, payload: Mapping[str, Any]) -> Path:
    """Write ``payload`` atomically: after a crash the file is complete, or as it was before.

    See :func:`artplus.atomic.writing`. The file holds magic bytes, the format version,
    ``torch.save`` of tensors and plain data, and a SHA-256 of everything before it.

    Raises:
        CheckpointError: if the payload holds anything but tensors and plain data.
        OSError: if the disk fails, as when it is full; an earlier file stays as it was.
    """
    data = plain(payload)
    with atomic.writing(path) as file:
        out = Hashed(file)
        out.write(HEADER.pack(MAGIC, VERSION))
        torch.save(data, cast(BinaryIO, out))
        file.write(out.digest())
    return path


def read(path: Path) -> dict[str, Any]:
    """The payload of a checkpoint, on the CPU; no code in the file is run.

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
    except Exception as error:  # unpickling arbitrary bytes raises almost anything
        reason = f"{type(error).__name__} {error}".splitlines()[0]
        raise CheckpointError(
            f"{path} holds more than tensors and plain data, or no torch payload at all, so "
            f"artplus did not write it: {reason}"
        ) from error
    if not isinstance(payload, dict):
        raise CheckpointError(f"{path} must hold a dict, got {type(payload).__name__}")
    return payload


def plain(value: Any, where: str = "checkpoint") -> Any:
    """``value`` as tensors and plain data, numpy's numbers as Python's.

    Raises:
        CheckpointError: for anything else; names its place.
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


class Hashed:
    """A file for writing that computes the SHA-256 of everything written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        """Write and digest."""
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()

    def digest(self) -> bytes:
        """SHA-256 of everything so far."""
        return self._hash.digest()
