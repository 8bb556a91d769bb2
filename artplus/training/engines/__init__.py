"""On which devices training runs, by name or as an object with settings."""

from __future__ import annotations

import os
from typing import Any

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.training.engines._base import Engine as Engine
from artplus.training.numerics import Numerics

NAMES = ("auto", "torch", "ddp", "fsdp2", "accelerate")

__all__ = ["NAMES", "Engine", "as_engine"]


def as_engine(given: Any = "auto", **numerics: Any) -> Engine:
    """The engine that the user asked for.

    Args:
        given: ``"torch"`` for one process, ``"ddp"`` and ``"fsdp2"`` under ``torchrun`` alone,
            ``"accelerate"``; ``"auto"`` is Accelerate under its launcher, DDP where several
            processes were started, else one process. Or an engine, or an ``Accelerator``.
        numerics: Of :class:`~artplus.training.numerics.Numerics`, for an engine by name.

    Raises:
        ConfigurationError: for another value, or settings beside an engine that has its own.
    """
    wanted = Numerics(**numerics) != Numerics()
    if type(given).__module__.startswith("accelerate."):
        from artplus.training.engines.accelerate import Accelerate

        given = Accelerate(given)
    if not isinstance(given, (str, Engine)) or (isinstance(given, str) and given not in NAMES):
        raise ConfigurationError(
            f"engine must be one of {', '.join(NAMES)}, an Engine or an Accelerator, got {given!r}"
        )
    name = _found() if given == "auto" else given
    if wanted and (isinstance(given, Engine) or name == "accelerate"):
        raise ConfigurationError(
            "precision= and compile= are for engines by name; this one has its own settings: give "
            "them to it, as DDP(precision='bf16') or Accelerator(mixed_precision='bf16')"
        )
    if isinstance(given, Engine):
        return given
    # Each one's libraries are loaded when it is asked for.
    if name == "ddp":
        from artplus.training.engines.ddp import DDP

        return DDP(**numerics)
    if name == "fsdp2":
        from artplus.training.engines.fsdp2 import FSDP2

        return FSDP2(**numerics)
    if name == "accelerate":
        from artplus.training.engines.accelerate import Accelerate

        return Accelerate()
    return Engine(**numerics)


def _found() -> str:
    """The engine that fits how this process was started."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by its launcher, whatever the value
        return "accelerate"
    return "ddp" if distributed.started() > 1 else "torch"
