"""One small model of each kind with its data: what the tests of whole trainings go through."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import artplus
from artplus.attacks import PGD
from artplus.spaces import EmbeddingSpace, InputSpace, Space
from artplus.tasks import Detection, Task
from artplus.training.callbacks import EMA, Callback, Checkpoint
from artplus.training.columns import collate
from tests.tasks import models
from tests.tasks.detector import Detector, scenes

N = 24


class Words(nn.Module):
    """A text classifier: embedding, recurrent layer, last state of the valid tokens."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embed = nn.Embedding(models.VOCABULARY, 6)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states, _ = self.gru(self.embed(input_ids))
        mask = attention_mask[..., None]
        out: Tensor = self.head(self.dropout((states * mask).sum(1) / mask.sum(1)))
        return out


class Recogniser(nn.Module):
    """A small recogniser of speech: convolutions over frames of features, half as many out."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, stride=2, padding=1)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv(x.transpose(1, 2)).tanh().transpose(1, 2)
        out: Tensor = self.head(self.dropout(hidden))
        return out


class Pixels(nn.Module):
    """A class for each pixel."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Dropout(dropout), nn.Conv2d(6, 3, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def text(n: int) -> dict[str, Tensor]:
    """Sentences whose label is their first word's third of the vocabulary."""
    x = models.sentences(n)
    return {**x, "labels": x["input_ids"][:, 0] * 3 // models.VOCABULARY}


def language(n: int) -> dict[str, Tensor]:
    """Every word is followed by the next one of the vocabulary; the first is a prompt."""
    x = models.sentences(n)
    steps = torch.arange(models.TOKENS)
    ids = (3 + (x["input_ids"][:, :1] + steps) % (models.VOCABULARY - 3)) * x["attention_mask"]
    labels = torch.where((x["attention_mask"] > 0) & (steps > 0), ids, -100)
    return {"input_ids": ids, "attention_mask": x["attention_mask"], "labels": labels}


def speech(n: int) -> dict[str, Tensor]:
    """Frames of features whose middle values tell the symbols, of different lengths."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 12, 4, generator=generator)
    lengths = 12 - torch.arange(n) % 3 * 2
    x *= (torch.arange(12) < lengths[:, None])[..., None]
    labels = 1 + x[:, 2:10:4].argmax(2)
    labels[::2, 1] = -100
    return {"x": x, "lengths": lengths, "labels": labels}


def maps(n: int) -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and what third of it each pixel is in; a void border of varying width."""
    x = torch.rand(n, 1, 6, 7, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * 3).long().clamp(max=2)
    for k in range(n):
        y[k, : k % 3] = 255
    return x, y


def tags(n: int) -> tuple[Tensor, Tensor]:
    """Vectors in [0, 1], and which of their first three values are large."""
    x = torch.rand(n, 6, generator=torch.Generator().manual_seed(0))
    return x, (x[:, :3] > 0.5).float()


@dataclass(frozen=True)
class Case:
    """A model, its data, and how it is attacked.

    Attributes:
        model: Made anew, with dropout.
        data: Of so many examples.
        task: Name of the task.
        argument: ``task=`` of the calls; ``"auto"`` where the task can be inferred.
        space: What is perturbed.
        eps: Radius in L2.
        options: More of ``artplus.fit`` and ``artplus.evaluate``.
        divergent: Whether predictions can be compared.
    """

    model: Callable[[float], nn.Module]
    data: Callable[[int], Any]
    task: str
    space: Space
    eps: float
    argument: str | Task = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    divergent: bool = True

    def attack(self, **options: Any) -> PGD:
        return PGD(eps=self.eps, norm=2, steps=2, **options)

    def judged(self, model: nn.Module, **options: Any) -> Any:
        """Evaluated under the attack on what it was trained on."""
        settings = {"task": self.argument, "space": self.space, **self.options, **options}
        return artplus.evaluate(
            model, self.data(N), attacks=[self.attack()], progress=False, **settings
        )


CASES = {
    "words": Case(Words, text, "classification", EmbeddingSpace(), 0.3),
    "bert": Case(
        lambda p: models.make("bert", dropout=p),
        text, "classification", EmbeddingSpace(per="token"), 0.02,
    ),
    "llama": Case(
        lambda p: models.make("llama", attention_dropout=p),
        language, "causal_lm", EmbeddingSpace(relative=True), 0.2,
    ),
    "recogniser": Case(
        Recogniser, speech, "ctc", InputSpace(0.0, 1.0), 0.1,
        options={"criterion": nn.CTCLoss()},
    ),
    "pixels": Case(
        Pixels, maps, "segmentation", InputSpace(0.0, 1.0), 0.2,
        options={"criterion": nn.CrossEntropyLoss(ignore_index=255)},
    ),
    "tags": Case(
        lambda p: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(p), nn.Linear(8, 3)),
        tags, "multilabel", InputSpace(0.0, 1.0), 0.1,
    ),
    "detector": Case(
        lambda p: Detector(dropout=p),
        scenes, "detection", InputSpace(0.0, 1.0), 0.2, divergent=False,
    ),
    "detector by boxes": Case(
        lambda p: Detector("boxes", dropout=p),
        scenes, "detection", InputSpace(0.0, 1.0), 0.2,
        argument=Detection(normalised_by="boxes"), divergent=False,
    ),
}  # fmt: skip


def rows(columns: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """Examples one by one; sequences without their padding, and so without a mask."""
    examples = []
    for k in range(len(columns["labels"])):
        row = {name: column[k] for name, column in columns.items()}
        mask = row.pop("attention_mask", None)
        length = int(row["lengths"]) if mask is None else int(mask.sum())
        if mask is None:  # labels are padded by themselves
            row["labels"] = row["labels"][row["labels"] >= 0]
        examples.append({name: v[:length] if v.ndim else v for name, v in row.items()})
    return examples


class Examples(Dataset[Any]):
    """A data set by position."""

    def __init__(self, examples: list[Any]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, k: int) -> Any:
        return self.examples[k]


def train(case: Case, *, dropout: float = 0.0, **options: Any) -> tuple[nn.Module, Any]:
    """A model after a short run, and its history."""
    torch.manual_seed(0)
    model = case.model(dropout)
    settings: dict[str, Any] = {
        "loss": "mix",
        "attack": case.attack(random_start=False),
        "task": case.argument,
        "space": case.space,
        "epochs": 2,
        "batch_size": 8,
        "seed": 0,
        "progress": False,
        **case.options,
        **options,
    }
    data = settings.pop("data", None) or case.data(N)
    kind = settings.pop("optimizer", partial(torch.optim.SGD, lr=0.1, momentum=0.9))
    optimizer = kind(model.parameters())
    return model, artplus.fit(model, data, optimizer, **settings)


def figures(history: Any) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


class Interrupt(Callback):
    """Leave in the middle, as a crash does."""

    watches = True

    def __init__(self, step: int) -> None:
        self._step = step

    def on_pause(self, state: Any) -> None:
        if state.step == self._step:
            raise KeyboardInterrupt


def interrupted(case: Case, folder: Path) -> list[tuple[nn.Module, Any]]:
    """A run with dropout and random starts, and the same one cut off and taken up again."""

    def once(callbacks: list[Callback], resume: Any = None) -> tuple[nn.Module, Any]:
        return train(
            case, dropout=0.3, attack=case.attack(), resume=resume, callbacks=[EMA(0.9), *callbacks]
        )

    through = once([])
    try:
        once([Checkpoint(folder, every_steps=2), Interrupt(5)])
    except KeyboardInterrupt:
        pass
    return [through, once([Checkpoint(folder, every_steps=2)], folder)]


def loader(world: int, rank: int) -> DataLoader[Any]:
    """Every process's part of sentences, padded by itself: to another length than the others'."""
    dataset = Examples(rows(language(N)))
    sampler = DistributedSampler(dataset, num_replicas=world, rank=rank, shuffle=False)
    return DataLoader(dataset, 8 // world, sampler=sampler, collate_fn=collate)


def work(rank: int, world: int, folder: str) -> None:
    """All cases in one of several processes; what they end with goes to a file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    ends = {}
    for name, case in CASES.items():
        model, history = train(case, engine="ddp")
        ends[name] = model.state_dict(), figures(history)
    model, history = train(CASES["llama"], data=loader(world, rank), engine="ddp")
    ends["llama, sampled"] = model.state_dict(), figures(history)
    torch.save(ends, Path(folder) / f"{rank}.pt")
