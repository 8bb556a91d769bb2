"""Harden PyTorch models, on top of the Adversarial Robustness Toolbox.

Everything public is here, imported when first used: ``import artplus`` is quick and leaves torch
and ART alone.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from artplus import saving

if TYPE_CHECKING:
    from artplus.bridge.evaluate import evaluate as evaluate
    from artplus.bridge.trainer import AdversarialTrainerPlus as AdversarialTrainerPlus
    from artplus.bridge.trainer import make_trainer as make_trainer
    from artplus.bridge.wrap import wrap as wrap
    from artplus.evaluation.report import Report as Report
    from artplus.evaluation.threats import ThreatReport as ThreatReport
    from artplus.losses import Objective as Objective
    from artplus.losses import Terms as Terms
    from artplus.losses import list_losses as list_losses
    from artplus.losses import make_loss as make_loss
    from artplus.losses import register_loss as register_loss
    from artplus.model import LossModel as LossModel
    from artplus.tasks import Metric as Metric
    from artplus.tasks import Task as Task
    from artplus.tasks import list_tasks as list_tasks
    from artplus.tasks import make_task as make_task
    from artplus.tasks import register_task as register_task
    from artplus.trainers import Recipe as Recipe
    from artplus.trainers import list_trainers as list_trainers
    from artplus.trainers import register_trainer as register_trainer
    from artplus.training import History as History
    from artplus.training import Method as Method
    from artplus.training import make_method as make_method
    from artplus.training.fit import fit as fit

_HOMES = {
    "AdversarialTrainerPlus": "artplus.bridge.trainer",
    "History": "artplus.training",
    "LossModel": "artplus.model",
    "Method": "artplus.training",
    "Metric": "artplus.tasks",
    "Objective": "artplus.losses",
    "Recipe": "artplus.trainers",
    "Report": "artplus.evaluation.report",
    "Task": "artplus.tasks",
    "Terms": "artplus.losses",
    "ThreatReport": "artplus.evaluation.threats",
    "evaluate": "artplus.bridge.evaluate",
    "fit": "artplus.training",
    "list_losses": "artplus.losses",
    "list_tasks": "artplus.tasks",
    "list_trainers": "artplus.trainers",
    "make_loss": "artplus.losses",
    "make_method": "artplus.training",
    "make_task": "artplus.tasks",
    "make_trainer": "artplus.bridge.trainer",
    "register_loss": "artplus.losses",
    "register_task": "artplus.tasks",
    "register_trainer": "artplus.trainers",
    "wrap": "artplus.bridge.wrap",
}

__all__ = [*_HOMES, "__version__"]  # noqa: PLE0604

try:
    __version__ = version("artplus")
except PackageNotFoundError:  # run from a source tree that was not installed
    __version__ = "0+unknown"


def _save(result: Any, path: str | Path) -> Path:
    from artplus import reporting

    return reporting.save(result, path)


saving.register_writer(_save)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'artplus' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
