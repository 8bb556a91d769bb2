"""Files of the commands: arrays, a model factory and weights to read, results to write."""

from __future__ import annotations

import importlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus import atomic
from artplus.errors import ArtplusWarning, ConfigurationError, DataError

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    Pair = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def arrays(path: Path) -> Pair:
    """Return ``(x, y)`` of an ``.npz`` file written by ``numpy.savez(path, x=..., y=...)``.

    ``x`` is ``(n, *input)`` floats in the range of the model's inputs, returned as float32; ``y``
    is ``(n,)`` class numbers or ``(n, classes)`` rows. Pickled objects are not loaded.

    Raises:
        DataError: if there is no such file, or it holds something else.
    """
    import numpy as np

    loaded: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            loaded = {key: archive[key] for key in ("x", "y") if key in archive}
            keys = list(archive)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except Exception as error:  # a file of anything makes zip and numpy raise almost anything
        raise DataError(
            f"{path} is not an .npz file of plain arrays ({error}). "
            "Write it with numpy.savez(path, x=..., y=...)."
        ) from error
    if len(loaded) < 2:
        raise DataError(
            f"{path} must hold arrays named x and y, it holds {', '.join(keys) or 'nothing'}. "
            "Write it with numpy.savez(path, x=..., y=...)."
        )
    x, y = loaded["x"], loaded["y"]
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(
            f"x in {path} must be floats in the range of the model's inputs, got {x.dtype}. "
            "Images of bytes: x.astype('float32') / 255."
        )
    return x.astype(np.float32), y


def model(spec: str) -> nn.Module:
    """Return the module that the factory ``package.module:function`` makes.

    The working directory is searched first, as ``python -m`` does.

    Raises:
        ConfigurationError: if there is no such factory, or it makes no ``torch.nn.Module``.
    """
    from torch import nn

    module_name, colon, function = spec.partition(":")
    if not (module_name and colon and function):
        raise ConfigurationError(
            f"model must be package.module:function, a function without arguments that returns "
            f"the torch module, got {spec!r}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"model {spec!r}: no module named {error.name!r}. Run from the folder that holds it, "
            "or install its package."
        ) from error
    factory = getattr(module, function, None)
    if not callable(factory):
        known = [n for n, v in vars(module).items() if callable(v) and v.__module__ == module_name]
        raise ConfigurationError(
            f"model {spec!r}: {module_name} has no function {function!r}; it defines "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    try:
        made = factory()
    except TypeError as error:
        raise ConfigurationError(
            f"model {spec!r}: {error}. The factory is called without arguments."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"model {spec!r} must return a torch.nn.Module, got {type(made).__name__}"
        )
    return made


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights saved at ``path`` into ``module``; only tensors are read, no code is run.

    Raises:
        DataError: if the file is missing, broken or of another architecture.
    """
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"there is no weights file {path}") from None
    except Exception as error:  # a file of anything makes unpickling raise almost anything
        raise DataError(
            f"{path} is not a file of weights, or is cut off, or holds more than tensors. "
            "Save them with torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(state, dict):
        raise DataError(
            f"{path} must hold a state_dict, got {type(state).__name__}. "
            "Save it with torch.save(model.state_dict(), path)."
        )
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reasons = " ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise DataError(f"{path} does not fit this model. {reasons}") from error


def save_weights(module: nn.Module, path: Path) -> Path:
    """Write the ``state_dict`` of ``module``, on the CPU.

    Raises:
        OSError: as from the disk.
    """
    import torch

    weights = {key: value.cpu() for key, value in module.state_dict().items()}
    return atomic.write(path, lambda file: torch.save(weights, file))


class NotWritten(Exception):
    """The command did its work, but a result could not be written where it should be.

    Attributes:
        text: What the command has to show all the same.
    """

    def __init__(self, text: str, paths: Iterable[Path]) -> None:
        super().__init__(f"not written: {', '.join(map(str, paths))}")
        self.text = text


def outputs(folder: Path, names: Iterable[str], *, overwrite: bool) -> list[Path]:
    """Paths of ``names`` in ``folder``, which is made; nothing that exists is replaced unasked.

    Every path is tried, so that a long command does not fail at its end.

    Raises:
        ConfigurationError: if one of them exists and ``overwrite`` is false, or cannot be written.
    """
    paths = [folder / name for name in names]
    existing = [path for path in paths if path.exists()]
    if existing and not overwrite:
        raise ConfigurationError(
            f"{folder} already holds {', '.join(path.name for path in existing)}; choose another "
            "folder or pass --overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for path in existing:
            with path.open("ab"):
                pass
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(f"{folder} is a file, not a folder to write into") from None
    except IsADirectoryError as error:
        raise ConfigurationError(f"{error.filename} is a folder, not a file to write") from None
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written to: {error.strerror or error}"
        ) from None
    return paths


def output(flag: str, path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Check one file to write, before any work is done.

    Args:
        flag: By which the user gave it, for messages.
        path: Where to.
        suffixes: Those of the formats that there are.
        overwrite: Whether it may replace a file.

    Raises:
        ConfigurationError: for another suffix, and as :func:`outputs` does.
    """
    if path.suffix.lower() not in suffixes:
        known = f"one of {', '.join(suffixes)}" if len(suffixes) > 1 else f"a {suffixes[0]} file"
        raise ConfigurationError(f"{flag} writes {known}, got {path.name!r}")
    outputs(path.parent, [path.name], overwrite=overwrite)


def write(path: Path, save: Callable[[Path], object]) -> bool:
    """Whether ``save(path)`` worked; if not, a warning says where the result is instead.

    The disk may have become full, or the folder may have been taken away, while a command was at
    work; hours of it should not be lost.
    """
    try:
        save(path)
        return True
    except OSError as error:
        reason = error.strerror or str(error)
    try:
        other = Path(tempfile.mkdtemp(prefix="artplus-")) / path.name
        save(other)
        place = f"it was written to {other} instead"
    except OSError as error:
        place = f"nor could it be written to a temporary folder ({error.strerror or error})"
    warnings.warn(f"{path} could not be written ({reason}); {place}", ArtplusWarning, stacklevel=2)
    return False
