"""Speed and memory of adversarial training, one command: artplus, loops by hand, ART, others.

    python -m tests.benchmarks.suite --output suite.json      # half an hour on two cores
    python -m tests.benchmarks.suite --quick                  # two minutes, small networks
    python -m tests.benchmarks.suite --markdown suite.json    # the table of figures taken before

Writes JSON and, beside it, a picture. Sections: ``networks`` (everybody on every network, with
peak memory), ``roofline`` (the loop by hand with channels last, in bf16, compiled, and all three,
beside what ``precision="auto"`` chooses), ``trades`` (beside the authors' step), and how cost grows
with the attack's ``steps``, the ``batch`` and the images' ``size``. Foolbox and torchattacks race
if they can be imported; ``--peers`` names a folder to look in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from artplus.attacks import PGD
from artplus.model import LossModel
from artplus.training import make_method
from artplus.training.numerics import PLAIN, Numerics
from tests.benchmarks import picture, table
from tests.benchmarks.contenders import (
    AUTHORS,
    AUTO,
    BARE,
    BETA,
    CONTENDERS,
    EPS,
    OURS,
    ROOFLINE,
    TRADES,
    Automatic,
    Task,
    by_hand,
    missing,
    official_trades,
)
from tests.benchmarks.peaks import peaks
from tests.benchmarks.race import machine, race, rows
from tests.benchmarks.tasks import BATCH, SIZE, STEPS, TASKS

QUICK = ("tabular_mlp", "digits_cnn", "mnist_net")
COMPILED = ("mnist_net", "preact_resnet18", "vit")
"""Networks that the roofline compiles: each takes most of a minute."""

PLAIN_TRAINING = "plain training"
SHARES = {"networks": 0.42, "roofline": 0.22, "trades": 0.1, "steps": 0.1, "batch": 0.08,
          "size": 0.08}  # fmt: skip
"""Of the time; memory takes what it takes."""

Section = Callable[["Options", float], dict[str, Any]]
Options = argparse.Namespace


def networks(options: Options, seconds: float) -> dict[str, Any]:
    """Everybody on every network."""
    names = [name for name in CONTENDERS if name not in missing()]
    found: dict[str, Any] = {}
    for name in options.tasks:
        task = TASKS[name]
        contenders = {who: CONTENDERS[who](task) for who in names}
        found[name] = rows(race(task, contenders, seconds / len(options.tasks)), BARE)
        if options.memory:
            who = [BARE, OURS, "ART Madry"]
            for each, peak in peaks(name, who, options.threads).items():
                found[name][each]["peak_mib"] = peak
        _tell(f"{name}: {_words(found[name])}")
    return found


def roofline(options: Options, seconds: float) -> dict[str, Any]:
    """What hardware gives a loop by hand, and what artplus chooses by itself."""
    found: dict[str, Any] = {}
    for name in options.tasks:
        task = TASKS[name]
        contenders = {BARE: by_hand(task), AUTO: Automatic(task)}
        for word, numerics in ROOFLINE.items():
            if _suits(name, task, numerics, options):
                contenders[word] = by_hand(task, numerics)
        found[name] = rows(race(task, contenders, seconds / len(options.tasks)), BARE)
        auto = contenders[AUTO]
        assert isinstance(auto, Automatic)
        found[name][AUTO] |= {"choice": str(auto.found), "note": auto.note}
        _tell(f"{name}: {_words(found[name])}; {auto.note}")
    return found


def _suits(name: str, task: Task, numerics: Numerics, options: Options) -> bool:
    if numerics.compile and (options.quick or name not in options.compiled):
        return False
    return len(task.shape) == 3 or not numerics.channels_last


def trades(options: Options, seconds: float) -> dict[str, Any]:
    """TRADES-10 beside the authors' step, and that both compute the same loss."""
    found: dict[str, Any] = {}
    names = [name for name in options.tasks if name != "vit"]
    for name in names:
        task = TASKS[name]
        contenders = {who: make(task) for who, make in TRADES.items()}
        found[name] = rows(race(task, contenders, seconds / len(names)), AUTHORS)
        found[name][OURS]["loss_difference"] = loss_difference(task)
        _tell(f"{name}: {_words(found[name])}, losses differ by "
              f"{found[name][OURS]['loss_difference']:.1e}")  # fmt: skip
    return found


def loss_difference(task: Task) -> float:
    """Relative difference of the two TRADES losses on one batch, from the same start noise."""
    x, y = (torch.from_numpy(each)[:16] for each in task.data(1))
    attack = PGD(eps=EPS, step_size=task.length, steps=task.steps, random_start=False)
    method = make_method("trades", lam=BETA, attack=attack)
    own = method.loss(LossModel(task.made()[0]), x, y, generator=torch.Generator().manual_seed(0))
    theirs = official_trades(
        task.made()[0], x, y, steps=task.steps, generator=torch.Generator().manual_seed(0)
    )
    return float(((own - theirs).abs() / theirs.abs()).detach())


def growth(tasks: Mapping[int, Task], options: Options, seconds: float) -> dict[str, Any]:
    """Ours, ART's and the loop by hand as the task grows, beside plain training."""
    found: dict[str, Any] = {}
    for value, task in tasks.items():
        plain = Task(task.net, task.shape, task.classes, task.batch, steps=0)
        contenders = {
            PLAIN_TRAINING: by_hand(plain),
            BARE: by_hand(task, PLAIN),
            OURS: CONTENDERS[OURS](task),
            "ART Madry": CONTENDERS["ART Madry"](task),
        }
        found[str(value)] = rows(race(task, contenders, seconds / len(tasks)), PLAIN_TRAINING)
        _tell(f"{value}: {_words(found[str(value)])}")
    return found


SECTIONS: dict[str, Section] = {
    "networks": networks,
    "roofline": roofline,
    "trades": trades,
    "steps": partial(growth, STEPS),
    "batch": partial(growth, BATCH),
    "size": partial(growth, SIZE),
}


def _words(found: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {row['seconds']['median'] * 1e3:.1f} ms ({row['speed']['median']:.2f})"
        for name, row in found.items()
    )


def _tell(line: str) -> None:
    sys.stderr.write(f"  {line}\n")


def main() -> None:
    """Run the sections and write what they found."""
    options = _options()
    if options.markdown:
        print(table.markdown(json.loads(options.markdown.read_text(encoding="utf-8"))))
        return
    if options.picture:
        told = json.loads(options.picture.read_text(encoding="utf-8"))
        picture.draw(told, options.picture.with_suffix(".png"))
        return
    torch.set_num_threads(options.threads)
    found: dict[str, Any] = {"machine": machine(), "absent": missing()}
    for name in found["absent"]:
        _tell(f"{name} is not installed and does not race")
    whole = sum(SHARES[name] for name in options.sections)
    for name in options.sections:
        begin = time.perf_counter()
        _tell(f"[{name}]")
        allowed = 60 * options.budget * SHARES[name] / whole
        found[name] = SECTIONS[name](options, allowed)
        found["machine"].setdefault("seconds", {})[name] = time.perf_counter() - begin
        found["machine"]["load_after"] = machine()["load"]
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    picture.draw(found, options.output.with_suffix(".png"))
    print(table.markdown(found))


def _options() -> Options:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS))
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--budget", type=float, help="minutes of racing; 9 by default, 1.5 quick")
    parser.add_argument("--quick", action="store_true", help="small networks, nothing compiled")
    parser.add_argument("--compiled", nargs="*", default=COMPILED, help="networks to compile")
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", type=Path, help="folder with torchattacks and foolbox")
    parser.add_argument("--output", type=Path, default=Path("suite.json"))
    parser.add_argument("--markdown", type=Path, help="print the table of this JSON, run nothing")
    parser.add_argument("--picture", type=Path, help="draw this JSON anew, run nothing")
    options = parser.parse_args()
    if options.peers:
        sys.path.append(str(options.peers))
    options.budget = options.budget or (1.5 if options.quick else 9)
    options.tasks = options.tasks or (list(QUICK) if options.quick else list(TASKS))
    return options


if __name__ == "__main__":
    main()
