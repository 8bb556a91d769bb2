"""``artplus harden``: harden the model that a factory makes, and save weights and history."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import artplus
from artplus import atomic, distributed
from artplus.attacks import PGD
from artplus.commands import files
from artplus.errors import ConfigurationError
from artplus.seeding import seeded
from artplus.training.callbacks import Checkpoint
from artplus.training.numerics import Precision

OUTPUTS = ("weights.pt", "history.json", "history.png", "config.json")


def harden(
    *,
    model: str,
    data: Path,
    output_dir: Path,
    validation: Path | None = None,
    weights: Path | None = None,
    eps: float | None = None,
    norm: float = torch.inf,
    loss: str = "mix",
    lam: float | None = None,
    steps: int | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    optimizer: str = "adam",
    lr: float = 1e-3,
    precision: Precision = "fp32",
    micro_batch: int | None = None,
    clip_min: float = 0.0,
    clip_max: float = 1.0,
    seed: int = 0,
    checkpoint_dir: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> str:
    """Harden the model that the factory makes; return the text to print.

    Under ``torchrun`` the processes share the work, and the first one writes and prints.

    Args:
        model: ``package.module:function``.
        data: ``.npz`` with ``x`` and ``y``.
        output_dir: Gets :data:`OUTPUTS`.
        validation: ``.npz``, measured after each epoch; the best epoch's weights are kept.
        weights: ``state_dict`` to start from; ``None`` is the factory's own weights, drawn under
            ``seed``.
        eps: Radius, in the units of ``x``.
        norm: ``inf``, 2 or 1.
        loss: Registered name.
        lam: λ; ``None`` is the loss's published default.
        steps: Of the training attack, PGD from a random start, each ``2.5 * eps / steps`` long;
            ``None`` is the trainer's own, 10.
        epochs: Passes over the data.
        batch_size: Examples per step.
        optimizer: ``"adam"``, ``"adamw"`` or ``"sgd"`` (momentum 0.9).
        lr: Learning rate.
        precision: See :class:`~artplus.training.numerics.Numerics`.
        micro_batch: See :meth:`artplus.AdversarialTrainerPlus.fit`.
        clip_min: Smallest valid value of ``x``.
        clip_max: Largest valid value of ``x``.
        seed: Of everything random.
        checkpoint_dir: Gets a checkpoint after each epoch, and on Ctrl-C or SIGTERM.
        resume: Continue from the newest checkpoint in it.
        overwrite: Replace files in ``output_dir``.

    Raises:
        ConfigurationError: for arguments that cannot work.
        DataError: for files that cannot.
        CheckpointError: if there is no sound checkpoint to resume from.
        NotWritten: if a file could not be written at the end.
    """
    config = locals().copy()
    distributed.launched()
    to_weights, to_history, to_plot, to_config = files.outputs(
        output_dir, OUTPUTS, overwrite=overwrite
    )
    if resume and checkpoint_dir is None:
        raise ConfigurationError("--resume needs --checkpoint-dir, the folder to continue from")
    x, y = files.arrays(data)
    held_out = None if validation is None else files.arrays(validation)
    with seeded(seed):  # the factory draws the first weights
        module = files.model(model)
    if weights is not None:
        files.load_weights(module, weights)
    classifier = artplus.wrap(
        module,
        x,
        y,
        optimizer=_optimizer(optimizer, module, lr),
        clip_values=(clip_min, clip_max),
    )
    trainer = artplus.AdversarialTrainerPlus(
        classifier,
        None if steps is None else _pgd(eps, norm, steps),
        loss=loss,
        lam=lam,
        eps=eps,
        norm=norm,
        precision=precision,
        seed=seed,
        callbacks=[] if checkpoint_dir is None else [Checkpoint(checkpoint_dir)],
    )
    history = trainer.fit(
        x,
        y,
        batch_size=batch_size,
        nb_epochs=epochs,
        validation_data=held_out,
        micro_batch=micro_batch,
        resume=checkpoint_dir if resume else None,
    )
    if not distributed.is_main():
        return ""
    config |= {"norm": f"{norm:g}", "versions": _versions()}  # JSON has no infinity
    settings = json.dumps(config, indent=2, default=str) + "\n"
    writers: dict[Path, Callable[[Path], object]] = {
        to_weights: partial(files.save_weights, module),
        to_history: history.save,
        to_plot: history.save,
        to_config: partial(atomic.write_text, text=settings),
    }
    failed = [path for path, save in writers.items() if not files.write(path, save)]
    if failed:
        raise files.NotWritten("\n".join(history.notes), failed)
    return "\n".join(
        [
            *history.notes,
            f"Weights, history and configuration are in {output_dir}. Evaluate them on test data:",
            f"  artplus evaluate --model {model} --weights {to_weights} --data TEST.npz "
            f"--eps {'EPS' if eps is None else eps} --norm {norm:g} "
            f"--clip-min {clip_min:g} --clip-max {clip_max:g}",
        ]
    )


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("adversarial-robustness-toolbox", "numpy", "torch")}


def _pgd(eps: float | None, norm: float, steps: int) -> PGD:
    if eps is None:
        raise ConfigurationError(f"steps={steps} of an attack without a radius; give eps too")
    return PGD(eps=eps, norm=norm, steps=steps)


def _optimizer(name: str, module: torch.nn.Module, lr: float) -> torch.optim.Optimizer:
    options: dict[str, Any] = {"momentum": 0.9} if name == "sgd" else {}
    classes: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
    }
    if name not in classes:
        raise ConfigurationError(f"optimizer must be one of {', '.join(classes)}, got {name!r}")
    try:
        made: torch.optim.Optimizer = classes[name](module.parameters(), lr=lr, **options)
    except ValueError as error:
        raise ConfigurationError(f"optimizer {name!r}: {error}") from error
    return made
