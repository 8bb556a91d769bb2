"""Files that are complete or as they were before, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".tmp"
"""How the names of temporary files end; they begin with a dot and the file's name."""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which becomes ``path`` at the end if nothing raises.

    It is a new file of a name that nobody can foresee in the same folder, so neither another
    process that writes ``path`` nor a link put there beforehand is written to. It is synced to the
    disk and renamed, and then the folder is synced. A link at ``path`` is replaced, not followed.

    Raises:
        OSError: if the disk fails, as when it is full; an earlier file stays as it was.
    """
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}{SUFFIX}"
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        # Report the first error, even if the removal fails too.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, RuntimeError) and (disk_error := _cause(error)) is not None:
            raise disk_error from None
        raise


def write(path: str | Path, save: Callable[[BinaryIO], object]) -> Path:
    """Write a result that a user asked for: ``save`` gets the file.

    Unlike :func:`writing` this follows a link, and keeps the permissions of an earlier file. What
    is no file, such as a pipe, is written to directly.

    Raises:
        OSError: as :func:`writing`.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        with open(target, "wb") as file:
            save(file)
        return path
    mode = target.stat().st_mode & 0o7777 if target.exists() else None
    with writing(target) as file:
        save(file)
        if mode is not None and hasattr(os, "fchmod"):
            os.fchmod(file.fileno(), mode)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` in UTF-8; see :func:`write`."""
    return write(path, lambda file: file.write(text.encode()))


def sweep(folder: Path, pattern: str) -> None:
    """Remove what writes that were killed have left of files that match ``pattern``.

    Only who has locked the folder may do so: a file may be in the making.
    """
    for path in folder.glob(f".{pattern}*{SUFFIX}"):
        path.unlink(missing_ok=True)


def _cause(error: BaseException | None) -> OSError | None:
    """The disk's error, which torch's archive writer may hide behind its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _sync(folder: Path) -> None:
    """Make a rename durable; some systems cannot open a folder and need not."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
