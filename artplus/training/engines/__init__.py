"""Engines: the devices and processes that training runs on, by name or as objects."""

from __future__ import annotations

import os
from typing import Any

from artplus import distributed
from artplus.errors import ConfigurationError
from artplus.training.engines._base import Engine as Engine
from artplus.training.numerics import Numerics

NAMES = ("auto", "torch", "ddp", "fsdp2", "accelerate")

__all__ = ["NAMES", "Engine", "as_engine"]


def as_engine(engine: Any = "auto", **numerics: Any) -> Engine:
    """The engine that ``engine=`` of :func:`artplus.fit` means.

    Args:
        engine: ``"torch"`` for one process; ``"ddp"`` and ``"fsdp2"`` under ``torchrun`` only;
            ``"accelerate"``. ``"auto"`` is Accelerate under ``accelerate launch``, DDP if several
            processes were started, else one process. Or an :class:`Engine` or ``Accelerator``.
        numerics: Settings of :class:`~artplus.training.numerics.Numerics`, for an engine by name.

    Raises:
        ConfigurationError: for another value, or settings with an engine that has its own.
    """
    has_settings = Numerics(**numerics) != Numerics()
    if type(engine).__module__.startswith("accelerate."):
        from artplus.training.engines.accelerate import Accelerate

        engine = Accelerate(engine)
    if not isinstance(engine, (str, Engine)) or (isinstance(engine, str) and engine not in NAMES):
        raise ConfigurationError(
            f"engine must be one of {', '.join(NAMES)}, an Engine or an Accelerator, got {engine!r}"
        )
    name = _auto() if engine == "auto" else engine
    if has_settings and (isinstance(engine, Engine) or name == "accelerate"):
        raise ConfigurationError(
            "precision= and compile= are for engines by name; this one has its own settings: give "
            "them to it, as DDP(precision='bf16') or Accelerator(mixed_precision='bf16')"
        )
    if isinstance(engine, Engine):
        return engine
    # The libraries of an engine are imported only if it is used.
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


def _auto() -> str:
    """The engine that matches how this process was started."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:  # set by its launcher, whatever the value
        return "accelerate"
    return "ddp" if distributed.started() > 1 else "torch"
