"""A Hugging Face ``Trainer``, hardened: the script stays as it is, but for one class.

Which part of Python's library does a sentence of its documentation describe? The sentences come
with Python, the model is a small BERT made from a configuration: nothing is downloaded.
``--data PATH`` takes your own instead: a file of lines ``label<tab>text``.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections import Counter
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    EvalPrediction,
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from artplus.attacks import PGD
from artplus.huggingface import AdversarialTrainerMixin
from artplus.spaces import EmbeddingSpace
from artplus.training.callbacks import EpsWarmup

TOPICS = {
    "numbers": ["cmath", "decimal", "fractions", "math", "random", "statistics"],
    "web": ["email.message", "http.client", "imaplib", "smtplib", "urllib.parse", "urllib.request"],
    "files": ["os", "pathlib", "shutil", "tarfile", "tempfile", "zipfile"],
}
TOKENS, RADIUS = 24, 0.3


class Hardened(AdversarialTrainerMixin, Trainer):
    """The only new class."""


def documented() -> list[tuple[str, str]]:
    """Sentences of Python's own documentation, each with its topic."""
    found = set()
    for topic, names in TOPICS.items():
        for name in names:
            module = import_module(name)
            own = [v for v in vars(module).values() if getattr(v, "__module__", "") == name]
            members = [v for o in own if isinstance(o, type) for v in vars(o).values()]
            for text in (getattr(o, "__doc__", None) for o in [module, *own, *members]):
                sentences = re.split(r"(?<=[.:])\s+", text) if isinstance(text, str) else []
                found |= {(topic, one) for one in sentences if len(one) > 40}
    return sorted(found)


def read(path: Path) -> list[tuple[str, str]]:
    """Lines ``label<tab>text``."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(label, text) for label, text in (line.split("\t", 1) for line in lines)]


def tokenized(data: list[tuple[str, str]], size: int = 3000) -> tuple[list[dict[str, Any]], int]:
    """Rows of a data set, and the number of labels; ids are the most frequent words' ranks."""
    split = [(label, re.findall(r"\w+", text.lower())[:TOKENS]) for label, text in data]
    counts = Counter(word for _, words in split for word in words)
    ids = {word: i + 2 for i, (word, _) in enumerate(counts.most_common(size - 2))}
    labels = sorted({label for label, _ in data})
    rows = []
    for label, words in split:
        known = torch.tensor([ids.get(word, 1) for word in words] or [1])
        padding = TOKENS - len(known)
        rows.append(
            {
                "input_ids": torch.nn.functional.pad(known, (0, padding)),
                "attention_mask": (torch.arange(TOKENS) < len(known)).long(),
                "labels": labels.index(label),
            }
        )
    return rows, len(labels)


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    right = np.asarray(prediction.predictions).argmax(-1) == prediction.label_ids
    return {"accuracy": float(np.mean(right))}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--data", type=Path, help="lines label<tab>text instead of documentation")
path = parser.parse_known_args()[0].data

set_seed(0)
rows, classes = tokenized(documented() if path is None else read(path))
order = torch.randperm(len(rows)).tolist()
shuffled = [rows[i] for i in order]
test, train = shuffled[: len(rows) // 5], shuffled[len(rows) // 5 :]
config = BertConfig(
    vocab_size=3000, hidden_size=64, num_hidden_layers=1, num_attention_heads=4,
    intermediate_size=128, max_position_embeddings=TOKENS,
)  # fmt: skip
config.num_labels = classes

print(f"{len(train)} sentences to train on, {len(test)} to test\n")
print(f"{'':10}{'clean':>8}{'attacked':>10}")
for name, lam in (("plain", 0.0), ("hardened", 1.0)):
    set_seed(0)
    trainer = Hardened(
        model=BertForSequenceClassification(config),
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=32, num_train_epochs=4,
            learning_rate=3e-3, per_device_eval_batch_size=128, save_strategy="no", report_to=[],
            logging_strategy="epoch", disable_tqdm=True, use_cpu=True,
        ),
        train_dataset=train,
        eval_dataset=test,
        compute_metrics=accuracy,
        # What is new; λ = 0 is the plain Trainer.
        loss="mix",
        lam=lam,
        attack=PGD(eps=RADIUS, norm=2, steps=2),
        space=EmbeddingSpace(),
        warmup=EpsWarmup(fraction=0.5),
        eval_attack=PGD(eps=RADIUS, norm=2, steps=10),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)  # the log, for a short table
    trainer.train()
    figures = trainer.evaluate()
    print(f"{name:10}{figures['eval_accuracy']:>8.1%}{figures['eval_attacked_accuracy']:>10.1%}")

history = {"loss": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]}
