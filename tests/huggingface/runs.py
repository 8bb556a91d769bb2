"""Short runs of a Trainer, plain or hardened, on tiny models made from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from artplus.huggingface import AdversarialTrainerMixin
from artplus.spaces import EmbeddingSpace
from tests.tasks import models

N, RATE, EPOCHS, SEED = 24, 0.05, 2, 3

TEXT: dict[str, Any] = {"eps": 2.0, "norm": 2, "space": EmbeddingSpace()}
"""A radius that shows."""


class Hardened(AdversarialTrainerMixin, Trainer):
    """What a user writes."""


def rows(name: str = "bert", n: int = N) -> list[dict[str, Tensor]]:
    """A data set, one mapping an example."""
    generator = torch.Generator().manual_seed(0)
    if name == "vit":
        columns = {"pixel_values": torch.rand(n, 1, 8, 8, generator=generator)}
    else:
        columns = dict(models.sentences(n))
    if name == "llama":
        ids, mask = columns["input_ids"], columns["attention_mask"]
        columns["labels"] = torch.where(mask > 0, ids, -100)
    else:
        columns["labels"] = torch.randint(3, (n,), generator=generator)
    return [{key: column[i] for key, column in columns.items()} for i in range(n)]


def model(name: str = "bert", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return models.make(name, **options)


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    """Plain gradient descent over the rows in order, and nothing written."""
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": EPOCHS,
        "learning_rate": RATE,
        "max_grad_norm": 0,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": SEED,
    }
    return TrainingArguments(**settings | options)


def train(
    folder: Path,
    kind: type = Hardened,
    module: nn.Module | None = None,
    *,
    data: Sequence[Any] | None = None,
    resume: Any = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """A Trainer after its run; ``options`` are the arguments of training."""
    trainer = kind(
        model=module or model(),
        args=arguments(folder, **options or {}),
        train_dataset=data or rows(),
        **settings,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach().clone()
        for name, p in module.state_dict().items()
    }


def steps(trainer: Any) -> list[dict[str, float]]:
    """What was logged at each step."""
    return [entry for entry in trainer.state.log_history if "loss" in entry]
