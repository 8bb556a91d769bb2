"""Does training in a lower precision cost robustness? ``python -m tests.benchmarks.precision``.

A CNN is hardened on scikit-learn's digits in each precision, with several seeds, and judged in fp32
by the worst case of the suite ``standard`` on held-out digits. One precision after the other for
each seed, so that the load of the machine hits all alike. Time is in CPU seconds; on a processor
without units for bf16 or fp16 the lower precisions are emulated and slow, and only the accuracies
say something.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import artplus
from artplus.evaluation import wilson
from tests.benchmarks.nets import digits_cnn

EPS = 0.15


def main(arguments: list[str] | None = None) -> None:
    """Print the table; write what it is made of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16", "fp16"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--loss", default="trades")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    parts = train_test_split(x, y, test_size=0.2, random_state=0, stratify=y)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        for precision in options.precisions:
            rows.append(_one(precision, seed, parts, options))
            print(_line(rows[-1]), flush=True)
    print("\nprecision   clean            worst case, mean of seeds (least to most)   CPU seconds")
    for precision in options.precisions:
        own = [row for row in rows if row["precision"] == precision]
        robust, clean = [r["robust"] for r in own], [r["clean"] for r in own]
        low, high = wilson(sum(r["stood"] for r in own), sum(r["n"] for r in own))
        print(
            f"{precision:10}  {statistics.mean(clean):6.1%}           "
            f"{statistics.mean(robust):6.1%} ({min(robust):.1%} to {max(robust):.1%}; all seeds "
            f"{low:.1%}-{high:.1%})   {statistics.mean(r['seconds'] for r in own):6.1f}"
        )
    if options.output is not None:
        options.output.write_text(json.dumps({"eps": EPS, "rows": rows}, indent=2) + "\n")


def _one(precision: str, seed: int, parts: list[Any], options: argparse.Namespace) -> Any:
    x_train, x_test, y_train, y_test = (torch.as_tensor(p).to(options.device) for p in parts)
    torch.manual_seed(seed)
    model = digits_cnn().to(options.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    begin = time.process_time()
    artplus.fit(
        model, (x_train, y_train), optimizer, loss=options.loss, eps=EPS,
        epochs=options.epochs, batch_size=64, precision=precision, seed=seed, progress=False,
    )  # fmt: skip
    seconds = time.process_time() - begin
    report = artplus.evaluate(
        model, x_test, y_test, attacks="standard", eps=EPS, clip_values=(0.0, 1.0), seed=0,
        checks=False, progress=False,
    )  # fmt: skip
    return {
        "precision": precision, "seed": seed, "seconds": seconds, "n": report.n,
        "clean": report.clean_accuracy, "robust": report.robust_accuracy,
        "stood": int(report.correct_robust.sum()),
    }  # fmt: skip


def _line(row: dict[str, Any]) -> str:
    return (
        f"seed {row['seed']}  {row['precision']:5} clean {row['clean']:.1%}  worst case "
        f"{row['robust']:.1%} of {row['n']} within {EPS} (L-infinity)  {row['seconds']:.1f} CPU-s"
    )


if __name__ == "__main__":
    main()
