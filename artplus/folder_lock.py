"""A folder that one run at a time writes to."""

from __future__ import annotations

import errno
import os
import socket
import threading
from datetime import datetime, timezone
from pathlib import Path

from artplus.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows has no such locks; there only one process is protected from itself
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
"""What a file system says that knows no locks; it is used without one."""

_guard = threading.Lock()
_held: dict[str, int] = {}  # folders that this process has locked, and its number


class FolderLock:
    """Locks ``folder``, which is made if it is missing, until :meth:`release`.

    The system lets go of the lock when the process ends, however it ends, so a killed run needs no
    cleaning up. The processes of a DataLoader do not hold it.

    Raises:
        ConfigurationError: if another run has locked it (who and since when), or it cannot be
            written to.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._key = folder / NAME, os.path.realpath(folder)
        self._handle: int | None = None
        with _guard:
            if _held.get(self._key) == os.getpid():
                raise ConfigurationError(_taken(folder, "this process, in another call"))
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._handle = self._locked()
            except (BlockingIOError, PermissionError) as error:
                if error.errno == errno.EACCES and not os.access(folder, os.W_OK):
                    raise _unwritable(folder, error) from error
                raise ConfigurationError(_taken(folder, self._holder())) from None
            except OSError as error:
                raise _unwritable(folder, error) from error
            _held[self._key] = os.getpid()

    def release(self) -> None:
        """Let others write; nothing happens the second time."""
        if self._handle is None:
            return
        with _guard:
            _held.pop(self._key, None)
            try:
                self._path.unlink(missing_ok=True)
            except OSError:  # the folder may have been taken away
                pass
            os.close(self._handle)
            self._handle = None

    def _locked(self) -> int:
        while True:
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            handle = os.open(self._path, flags, 0o666)
            try:
                if fcntl is not None:
                    try:
                        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except OSError as error:
                        if error.errno not in _UNSUPPORTED:
                            raise
                if self._is_there(handle):
                    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
                    who = f"process {os.getpid()} on {socket.gethostname()} since {since}"
                    os.truncate(handle, 0)
                    os.write(handle, who.encode())
                    return handle
            except BaseException:
                os.close(handle)
                raise
            os.close(handle)  # whoever held it removed it meanwhile

    def _is_there(self, handle: int) -> bool:
        """Whether the locked file is still the one of that name."""
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._path))
        except FileNotFoundError:
            return False

    def _holder(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8") or "another process"
        except (OSError, UnicodeDecodeError):
            return "another process"


def _taken(folder: Path, who: str) -> str:
    return (
        f"{folder} is being written to by {who}. Two runs in one folder would destroy each "
        "other's files: wait until it ends, or choose another folder"
    )


def _unwritable(folder: Path, error: OSError) -> ConfigurationError:
    return ConfigurationError(f"{folder} cannot be written to: {error.strerror or error}")
