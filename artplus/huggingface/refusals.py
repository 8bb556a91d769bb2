"""What a hardened Trainer cannot do, said before the first step."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn

from artplus.errors import ConfigurationError
from artplus.huggingface.settings import Settings
from artplus.registry import did_you_mean

OWN_LOSS = ("transformers.trainer", "trl.trainer.sft_trainer")
"""Modules whose ``compute_loss`` is the task's own loss, which the objective replaces."""


def refuse_unknown(trainer: type, known: list[str], base: Any, options: dict[str, Any]) -> None:
    """Refuse a keyword that neither the mixin nor the Trainer's constructor has.

    Args:
        trainer: The user's class.
        known: The mixin's keywords.
        base: The constructor that comes next.
        options: What is left for it.
    """
    parameters = inspect.signature(base).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for name in options:
        if name not in names:
            raise ConfigurationError(
                f"{trainer.__name__} has no argument {name!r}."
                f"{did_you_mean(name, [*known, *names])} Of the method it takes "
                f"{', '.join(known)}; all others are the Trainer's"
            )


def refuse_order(trainer: type, mixin: type) -> None:
    """Refuse a class whose Trainer comes before the mixin, which would then do nothing."""
    order = trainer.__mro__
    before = order[: order.index(mixin)]
    for other in before:
        if not issubclass(other, mixin) and "training_step" in vars(other):
            raise ConfigurationError(
                f"{trainer.__name__} has {other.__name__} before {mixin.__name__}, so that it "
                f"would train without any attack; write class {trainer.__name__}("
                f"{mixin.__name__}, {other.__name__})"
            )


def refuse_trainer(trainer: Any, settings: Settings) -> None:
    """Refuse settings of a Trainer under which attacks or losses would be wrong."""
    args, method = trainer.args, settings.method
    hidden = method.space is not None and method.space.hidden
    if args.n_gpu > 1:
        raise ConfigurationError(
            f"this Trainer would share {args.n_gpu} GPUs by nn.DataParallel, whose copies of the "
            "module do not have its hooks; start one process for each GPU: torchrun "
            f"--nproc_per_node {args.n_gpu} your_script.py, or show it one by CUDA_VISIBLE_DEVICES"
        )
    if args.torch_compile and (hidden or method.objective.second_order):
        raise ConfigurationError(
            "torch_compile would build the graph of a module called without its perturbation into "
            "every later call; leave it out, or train by artplus.fit(..., compile=True), which "
            "compiles module and perturbation together"
        )
    parallel = getattr(trainer.accelerator, "parallelism_config", None)
    for name in ("cp_enabled", "sp_enabled", "tp_enabled"):
        if getattr(parallel, name, False):
            raise ConfigurationError(
                "context, sequence and tensor parallelism split examples between processes, and "
                "an attack needs whole ones; use DDP or FSDP2"
            )
    if getattr(args, "activation_offloading", False):
        raise ConfigurationError(
            "activation_offloading is TRL's own training_step, which the mixin replaces; leave it "
            "out, and use gradient checkpointing to save memory"
        )
    _refuse_other_loss(trainer, settings)


def _refuse_other_loss(trainer: Any, settings: Settings) -> None:
    """Refuse losses of the Trainer that the objective would silently replace."""
    if settings.criterion is not None or settings.task != "auto":
        return  # the user says what the loss is
    function = type(trainer).compute_loss
    if function.__module__ not in OWN_LOSS:
        raise ConfigurationError(
            f"{function.__qualname__} computes a loss of its own from whole batches, which a "
            "method cannot: it needs the loss of each example, to attack it. Say what it is: "
            "criterion= (any torch loss) or task= (artplus.list_tasks())"
        )
    if trainer.compute_loss_func is not None:
        raise ConfigurationError(
            "compute_loss_func gives one number a batch, but a method needs the loss of each "
            "example, to attack it; give a torch loss as criterion= instead"
        )
    if getattr(trainer.args, "loss_type", "nll") not in ("nll", "chunked_nll"):
        raise ConfigurationError(
            f"loss_type={trainer.args.loss_type!r} is a loss of TRL's that the mixin would "
            "replace by cross-entropy; leave it out, or give the loss as criterion="
        )


def refuse_reentrant(module: nn.Module) -> None:
    """Refuse re-entrant gradient checkpointing."""
    for child in module.modules():
        function = getattr(child, "_gradient_checkpointing_func", None)
        if (
            getattr(child, "gradient_checkpointing", False)
            and isinstance(function, functools.partial)
            and function.keywords.get("use_reentrant", True)
        ):
            raise ConfigurationError(
                "re-entrant gradient checkpointing gives no gradient by hidden states, which "
                "attacks need; give TrainingArguments "
                "gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
