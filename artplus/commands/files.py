"""What comes in from the disk and goes out to it: arrays, a model factory, weights, a folder."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus.errors import ConfigurationError, DataError

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

    found: dict[str, Any] = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in ("x", "y") if key in archive}
            keys = list(archive)
    except FileNotFoundError:
        raise DataError(f"there is no data file {path}") from None
    except Exception as error:  # a file of anything makes zip and numpy raise almost anything
        raise DataError(
            f"{path} is not an .npz file of plain arrays ({error}). "
            "Write it with numpy.savez(path, x=..., y=...)."
        ) from error
    if len(found) < 2:
        raise DataError(
            f"{path} must hold arrays named x and y, it holds {', '.join(keys) or 'nothing'}. "
            "Write it with numpy.savez(path, x=..., y=...)."
        )
    x, y = found["x"], found["y"]
    if not np.issubdtype(x.dtype, np.floating):
        raise DataError(
            f"x in {path} must be floats in the range of the model's inputs, got {x.dtype}. "
            "Images of bytes: x.astype('float32') / 255."
        )
    return x.astype(np.float32), y


def model(spec: str) -> nn.Module:
    """Return what the factory ``package.module:function`` makes.

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
    """Write the ``state_dict`` of ``module``, on the CPU."""
    import torch

    torch.save({key: value.cpu() for key, value in module.state_dict().items()}, path)
    return path


def outputs(folder: Path, names: Iterable[str], *, overwrite: bool) -> list[Path]:
    """Paths of ``names`` in ``folder``, which is made; nothing that exists is replaced unasked.

    Raises:
        ConfigurationError: if one of them exists and ``overwrite`` is false, or ``folder`` is a
            file.
    """
    paths = [folder / name for name in names]
    existing = [path.name for path in paths if path.exists()]
    if existing and not overwrite:
        raise ConfigurationError(
            f"{folder} already holds {', '.join(existing)}; choose another folder or pass "
            "--overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(f"{folder} is a file, not a folder to write into") from None
    return paths
