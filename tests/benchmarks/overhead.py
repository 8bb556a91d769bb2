"""What a step of the attack costs beside torch's own operators, and where an epoch's time goes.

    python -m tests.benchmarks.overhead

Under ``torch.profiler`` time inside operators and autograd nodes is counted once, by the outermost;
what is left of a step is Python: ours, and that of ``nn.Module`` calls, which a loop written by
hand has too. The profiler itself makes that part look larger, so the same count for the loop by
hand stands beside it, and so do seconds taken without a profiler, in turn, in CPU time of one
thread.

What a step costs however small the batch is, is timed with a batch of one: Python, the dispatch of
operators, and the little work on one example. It bounds from above what Python takes of a step on
a whole batch, and no profiler disturbs it. What it exceeds that of the loop by hand by is artplus's
own overhead.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from artplus.attacks import PGD
from artplus.model import LossModel
from artplus.spaces import InputSpace
from tests.benchmarks.contenders import BARE, EPS, OURS, Task, ours
from tests.benchmarks.tasks import TASKS

STEPS, ROUNDS = 10, 30
LIMIT = 0.05
"""Largest share of a step on the MNIST network that artplus's own overhead may be."""


def attacks(task: Task, examples: int | None = None) -> dict[str, Callable[[], Tensor]]:
    """The attack on one batch, or its first ``examples``, ours and by hand."""
    net, _ = task.made()
    x, y = (torch.from_numpy(each)[:examples] for each in task.data(1))
    loss, model, space = nn.CrossEntropyLoss(), LossModel(net), InputSpace(0.0, 1.0)
    attack = PGD(eps=EPS, step_size=task.length, steps=STEPS)

    def by_hand() -> Tensor:
        net.eval()
        x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
        for _ in range(STEPS):
            x_adv.requires_grad_(True)
            (slope,) = torch.autograd.grad(loss(net(x_adv), y), x_adv)
            x_adv = x_adv.detach() + task.length * slope.sign()
            x_adv = (x + (x_adv - x).clamp(-EPS, EPS)).clamp(0, 1)
        net.train()
        return x_adv

    return {BARE: by_hand, OURS: lambda: attack(model, x, y, space=space)}


def seconds(works: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """CPU seconds a step, medians of rounds in turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 2):
        for name, work in works.items():
            begin = time.process_time()
            work()
            if turn >= 2:
                found[name].append((time.process_time() - begin) / STEPS)
    return {name: statistics.median(each) for name, each in found.items()}


def outside(work: Callable[[], Tensor], rounds: int) -> float:
    """Share of the attack's time in which no operator and no autograd node ran: the median."""
    shares = []
    for _ in range(rounds):
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as seen:
            begin = time.perf_counter()
            work()
            took = (time.perf_counter() - begin) * 1e6
        # An event's parent is whatever it ran inside of, on its thread: here only operators.
        top = [event for event in seen.events() if event.cpu_parent is None]
        shares.append(1 - sum(event.cpu_time_total for event in top) / took)
    return statistics.median(shares)


def regions(task: Task, batches: int) -> dict[str, float]:
    """Milliseconds a batch in each of the training's marked regions."""
    epoch, data = ours(task), task.data(batches)
    epoch(*data)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        epoch(*data)
    return {
        event.key.removeprefix("artplus: "): event.cpu_time_total / 1e3 / batches
        for event in seen.key_averages()
        if event.key.startswith("artplus: ")
    }


def report(name: str, rounds: int) -> dict[str, Any]:
    """Everything about one network, printed and returned."""
    task = TASKS[name]
    works = attacks(task)
    took = seconds(works, rounds)
    share = {who: outside(work, max(3, rounds // 6)) for who, work in works.items()}
    extra = took[OURS] - took[BARE]
    fixed = seconds(attacks(task, 1), rounds)
    print(f"{name}, batch {task.batch}, PGD-{STEPS}, one thread, medians of {rounds} rounds")
    for who in works:
        print(
            f"  {who:13} {took[who] * 1e6:8.0f} µs a step; {fixed[who] * 1e6:5.0f} µs on a batch "
            f"of one, {fixed[who] / took[who]:.1%}; {share[who]:.1%} outside torch's operators, "
            "under the profiler"
        )
    own = fixed[OURS] - fixed[BARE]
    print(
        f"  own overhead {own * 1e6:8.0f} µs a step, {own / took[OURS]:.1%}; in all artplus takes "
        f"{extra * 1e6:+.0f} µs, {extra / took[BARE]:+.1%}"
    )
    where = regions(task, 4)
    for region, spent in sorted(where.items(), key=lambda item: -item[1]):
        print(f"  {region:13} {spent:8.2f} ms a batch of training")
    return {
        "step_seconds": took, "fixed_seconds": fixed, "outside_operators": share,
        "regions_ms": where,
    }  # fmt: skip


def main() -> None:
    """Print, and fail if Python takes more of a step than it may on the MNIST network."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tasks", nargs="+", choices=list(TASKS), default=["mnist_net", "digits_cnn"]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: report(name, options.rounds) for name in options.tasks}
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if "mnist_net" not in found:
        return
    own = found["mnist_net"]
    fixed = own["fixed_seconds"]
    share = (fixed[OURS] - fixed[BARE]) / own["step_seconds"][OURS]
    if share > LIMIT:
        raise SystemExit(f"artplus's own overhead is {share:.1%} of a step, over {LIMIT:.0%}")


if __name__ == "__main__":
    main()
