"""Trainings that must not depend on how many processes share them, and what they end with."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import artplus
from artplus.attacks import PGD
from artplus.losses import make_loss, smart
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.training.callbacks import (
    EMA,
    Callback,
    Checkpoint,
    EpsWarmup,
    GradientClipping,
    Teacher,
    WarmStart,
)
from artplus.training.engines import as_engine
from artplus.training.steps import AWP, Free, FreeLB, standard
from tests.distributed import language

N, FEATURES, CLASSES = 48, 6, 3


@dataclass(frozen=True)
class Nudged:
    """PGD from a start that depends on the inputs alone, whoever crafts them."""

    inner: PGD = PGD(eps=0.1, steps=3, random_start=False)

    @property
    def eps(self) -> float:
        return 0.1

    @property
    def norm(self) -> float:
        return torch.inf

    def __call__(self, model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        options["start"] = (x + 0.02 * torch.sin(1000 * x).sign()).clamp(0, 1)
        return self.inner(model, x, y, **options)

    def with_eps(self, scale: float) -> Nudged:
        return replace(self, inner=self.inner.with_eps(scale))


def net(batch_norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Linear(FEATURES, 8)]
    layers += [nn.BatchNorm1d(8)] * batch_norm
    layers += [nn.Tanh()]
    layers += [nn.Dropout(dropout)] * (dropout > 0)
    return nn.Sequential(*layers, nn.Linear(8, CLASSES))


def data(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(n, FEATURES, generator=generator)
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def unlabelled(n: int) -> tuple[Tensor, Tensor]:
    """Two in three examples have no label, so that processes have different numbers of them."""
    x, y = data(n)
    return x, torch.where(torch.arange(n) % 3 == 0, y, -100)


class Words(nn.Module):
    """Token ids with their mask, as a language model takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(CLASSES * 4, FEATURES)
        self.mix, self.head = nn.Linear(FEATURES, 8), nn.Linear(8, CLASSES)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = torch.tanh(self.mix(self.embed(ids))) * attention_mask.unsqueeze(-1)
        return self.head(states.sum(1) / attention_mask.sum(1, keepdim=True))


def words(engine: Any, space: Any, **options: Any) -> dict[str, Any]:
    """A run of a model of tokens, attacked inside."""
    torch.manual_seed(0)
    model, generator = Words(), torch.Generator().manual_seed(1)
    ids = torch.randint(CLASSES * 4, (N, 5), generator=generator)
    mask = (torch.arange(5) < torch.randint(2, 6, (N, 1), generator=generator)).long()
    columns = {"ids": ids, "attention_mask": mask, "labels": ids[:, 0] % CLASSES}
    attack = PGD(eps=0.3, norm=2, steps=3, random_start=False)
    return train(engine, model, data=columns, space=space, **{"attack": attack} | options)


def train(engine: Any, model: nn.Module | None = None, **options: Any) -> dict[str, Any]:
    """Weights, buffers and figures after a short run."""
    model = model or net()
    rate = options.pop("lr", 0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    settings: dict[str, Any] = {
        "loss": "at", "attack": Nudged(), "epochs": 2, "batch_size": 16, "seed": 0,
        "progress": False, "engine": engine,
    }  # fmt: skip
    settings |= options
    given = settings.pop("data", None) or data()
    history = artplus.fit(model, given, optimizer, **settings)
    return {"weights": whole(model), "rows": figures(history)}


def whole(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in state.items()
    }


def figures(history: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def loss(name: str) -> dict[str, Any]:
    objective = replace(make_loss(name), start_noise=0.0)
    return {"loss": objective, "attack": Nudged() if objective.attacked else None}


WEIGHTS = torch.tensor([0.5, 1.0, 3.0])

CASES: dict[str, Callable[[Any], dict[str, Any]]] = {
    **{
        name: (lambda engine, name=name: train(engine, **loss(name)))
        for name in artplus.list_losses()
        if not make_loss(name).task
    },
    **{
        name: (lambda engine, name=name: train(engine, **language.options(name)))
        for name in ("cat", "capo", "lat", "rerouting")
    },
    "cat accumulation": lambda engine: train(engine, micro_batch=3, **language.options("cat")),
    "accumulation": lambda engine: train(engine, micro_batch=4),
    "accumulation trades": lambda engine: train(engine, micro_batch=3, **loss("trades")),
    "awp": lambda engine: train(engine, step=AWP(0.05)),
    "awp accumulation": lambda engine: train(engine, step=AWP(0.05), micro_batch=4),
    "awp trades": lambda engine: train(engine, step=AWP(0.05), **loss("trades")),
    "free": lambda engine: train(engine, step=Free(3), attack=PGD(eps=0.1), lr=0.02),
    "awp free": lambda engine: train(
        engine, step=AWP(0.05, inner=Free(2)), attack=PGD(eps=0.1), lr=0.02
    ),
    "free lb": lambda engine: train(engine, step=FreeLB(3, start=0.0), attack=PGD(eps=0.1, norm=2)),
    "free lb accumulation": lambda engine: train(
        engine, step=FreeLB(3, start=0.0), attack=PGD(eps=0.1, norm=2), micro_batch=4
    ),
    "free lb, embedding": lambda engine: words(
        engine, EmbeddingSpace(), attack=PGD(eps=0.3, norm=2), step=FreeLB(3, start=0.0)
    ),
    "teacher": lambda engine: train(
        engine,
        loss=replace(smart(mu=2.0), start_noise=0.0),
        callbacks=[Teacher(0.9, early_decay=0.5)],
    ),
    "unlabelled": lambda engine: train(engine, data=unlabelled(40), **loss("vat")),
    "ema": lambda engine: train(engine, callbacks=[EMA(0.9)]),
    "clipping": lambda engine: train(engine, callbacks=[GradientClipping(0.05)]),
    "class weights": lambda engine: train(engine, class_weight=WEIGHTS),
    "uneven batches": lambda engine: train(engine, data=data(41), epochs=3),
    "label smoothing": lambda engine: train(engine, label_smoothing=0.1),
    "validation": lambda engine: train(engine, validation=data(21)),
    "warm start": lambda engine: train(
        engine,
        attack=PGD(eps=0.1, steps=1, step_size=0.03, random_start=False),
        callbacks=[WarmStart(None, dtype=torch.float32), EpsWarmup(0)],
        data=data(41),
        epochs=4,
    ),
    "embedding": lambda engine: words(engine, EmbeddingSpace(per="token", relative=True)),
    "latent": lambda engine: words(engine, LatentSpace(["mix"]), micro_batch=3),
    "loader": lambda engine: train(
        engine, data=DataLoader(TensorDataset(*data()), 16, shuffle=False)
    ),
}
"""Name to training; one process and several must agree on each."""


def batch_norm(engine: Any, micro_batch: int | None) -> dict[str, Any]:
    """Parts of 8 normalise by themselves, whether two processes or one take them.

    Running statistics, by which attacks normalise, stand still: one process would move them twice.
    """
    model = net(batch_norm=True)
    model[1].momentum = 0.0
    return train(engine, model, micro_batch=micro_batch, **loss("trades"))


class Interrupt(Callback):
    """Leave in the middle, as a crash does."""

    def __init__(self, step: int) -> None:
        self._step = step

    watches = True

    def on_pause(self, state: Any) -> None:
        if state.step == self._step:
            raise KeyboardInterrupt


def interrupted(engine: Any, folder: Path, *, frozen: bool = False) -> dict[str, Any]:
    """A run with dropout, momentum, BatchNorm and random starts, cut off and taken up again.

    With ``frozen``, the first layer does not train.
    """

    def once(callbacks: list[Callback], resume: Any = None) -> dict[str, Any]:
        model = net(batch_norm=True, dropout=0.3)
        model[0].requires_grad_(not frozen)
        return train(
            engine() if callable(engine) else engine,
            model,
            attack=PGD(eps=0.1, steps=2),
            callbacks=[EMA(0.9), *callbacks],
            validation=data(20),
            resume=resume,
        )

    through = once([])
    # What saves comes after what is given, so it has saved step 4 when step 5 is interrupted.
    saving = Checkpoint(folder, every_steps=2)
    try:
        once([saving, Interrupt(5)])
    except KeyboardInterrupt:
        pass
    return {"through": through, "resumed": once([Checkpoint(folder, every_steps=2)], folder)}


def sampled(engine: Any) -> list[list[float]]:
    """What each process was given by a ``DistributedSampler`` of its own."""
    seen: list[list[float]] = []

    class Look(Callback):
        def on_step_begin(self, state: Any) -> None:
            seen.append([])

    x = torch.arange(N, dtype=torch.float32).div(N).unsqueeze(1).expand(N, FEATURES).contiguous()
    dataset = TensorDataset(x, data()[1])
    sampler = DistributedSampler(dataset, shuffle=True)

    def step(state: Any, batch: Any, gradients: Any) -> None:
        seen[-1] = (batch.x[:, 0] * N).round().tolist()
        standard(state, batch, gradients)

    loader = DataLoader(dataset, 8, sampler=sampler)
    train(engine, data=loader, step=step, callbacks=[Look()])
    return seen


def half(engine: Any) -> dict[str, Any]:
    """A run in a lower precision: what the network computes in, where, and what it ends with."""
    model, where = net(), ["step"]
    seen: dict[str, set[torch.dtype]] = {"attack": set(), "step": set(), "x_adv": set()}

    def look(module: nn.Module, _: Any, out: Tensor) -> None:
        if where[0] == "attack" or module.training:  # not what looks at the model beforehand
            seen[where[0]].add(out.dtype)

    class Watched(Nudged):
        def __call__(self, model: Any, x: Tensor, y: Tensor, **options: Any) -> Tensor:
            where[0] = "attack"
            x_adv = super().__call__(model, x, y, **options)
            where[0] = "step"
            seen["x_adv"].add(x_adv.dtype)
            return x_adv

    model[0].register_forward_hook(look)
    return train(engine, model, attack=Watched()) | {"seen": seen}


def communication(engine: Any, steps: int) -> int:
    """Messages between processes in one training step whose attack takes ``steps``."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        attack = replace(Nudged(), inner=PGD(eps=0.1, steps=steps, random_start=False))
        train(engine, attack=attack, epochs=1, batch_size=N)
    words = ("allreduce", "all_reduce", "allgather", "all_gather", "reduce_scatter", "broadcast")
    return sum(
        event.count
        for event in profile.key_averages()
        if event.key.startswith(("c10d::", "gloo:", "_c10d_functional::"))
        and any(word in event.key for word in words)
    )


def work(rank: int, world: int, folder: str, name: str) -> None:
    """All cases in one of several processes; what they end with goes to a file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    path = Path(folder)
    found: dict[str, Any] = {case: run(name) for case, run in CASES.items()}
    found["batch norm"] = batch_norm(name, None)
    found["communication"] = [communication(name, steps) for steps in (1, 6)]
    if name == "ddp":
        found["bf16"] = half(as_engine(name, precision="bf16"))
        found["sampled"] = sampled(name)
        found["random order"] = train(
            name, data=DataLoader(TensorDataset(*data()), 16, shuffle=True)
        )
    if name == "accelerate":
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        own = Accelerator(cpu=True, gradient_accumulation_steps=2)
        found["accumulating accelerator"] = train(own, **loss("trades"))
        AcceleratorState._reset_state()  # one precision a process, unless told
        found["bf16"] = half(Accelerator(cpu=True, mixed_precision="bf16"))
        AcceleratorState._reset_state()
    found["interrupted"] = interrupted(name, path / "checkpoints")
    found["interrupted, partly frozen"] = interrupted(name, path / "partly frozen", frozen=True)
    torch.save(found, path / f"{name}.{rank}.pt")
