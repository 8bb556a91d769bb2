"""Weak scaling over processes, and that several end with the weights of one.

    python -m tests.benchmarks.scaling

Throughput: one and two gloo processes of one thread each on one machine, with the same batch for
each process; efficiency is the throughput of two over twice that of one. Two processes share the
caches and the memory bus, so an efficiency of one is not to be had. Equality: the same training of
a few steps by one process and by two, for every objective, step and engine: the largest difference
of any weight. The attack begins at the examples, so nothing is drawn at random.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor, nn

import artplus
from artplus.attacks import PGD
from artplus.losses import make_loss
from artplus.training.steps import AWP, Free, standard
from tests.benchmarks.contenders import EPS, LR
from tests.benchmarks.tasks import TASKS

ENGINES = ("ddp", "fsdp2", "accelerate")
LOSSES = ("at", "mix", "trades", "mart")
MOVES = {"standard": standard, "AWP": AWP(), "Free": Free(3)}


def launch(work: Any, world: int, *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` gives in each of ``world`` connected processes."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_process, (world, _port(), folder, work, arguments), nprocs=world)
        return [
            torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)
        ]


def _process(rank: int, world: int, port: int, folder: str, work: Any, arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        MASTER_ADDR="localhost",
        MASTER_PORT=str(port),
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",  # or Accelerate sets the number of threads itself
    )
    torch.save(work(*arguments), Path(folder) / f"{rank}.pt")


def _port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def throughput(task_name: str, engine: str, batches: int, rounds: int) -> list[float]:
    """Examples a second of this process, round by round; a first one warms up."""
    task = TASKS[task_name]
    net, optimizer = task.made()
    world = int(os.environ["WORLD_SIZE"])
    data = tuple(torch.from_numpy(each) for each in task.data(batches * world))
    attack = PGD(eps=EPS, step_size=task.length, steps=task.steps)
    found = []
    for turn in range(rounds + 1):
        begin = time.perf_counter()
        artplus.fit(
            net,
            data,
            optimizer,
            loss="at",
            attack=attack,
            epochs=1,
            batch_size=task.batch * world,
            engine=engine,
            progress=False,
        )
        if turn:
            found.append(batches * task.batch / (time.perf_counter() - begin))
    return found


def weights(loss: str, move: str, engine: str) -> dict[str, Tensor]:
    """Weights after two epochs of three batches on a small net, whole."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    data = torch.rand(48, 6), torch.randint(0, 3, (48,))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    objective = make_loss(loss)
    if objective.start_noise:
        # Each process draws noise of its own. Without noise the objective's own climb is flat at
        # the start, so the model's loss is climbed.
        objective = replace(objective, inner=None, start_noise=0.0)
    artplus.fit(
        net,
        data,
        optimizer,
        loss=objective,
        attack=PGD(eps=EPS, steps=3, random_start=False),
        epochs=2,
        batch_size=16,
        step=MOVES[move],
        engine=engine,
        seed=0,
        progress=False,
    )
    return {name: _whole(value) for name, value in net.state_dict().items()}


def all_weights(losses: list[str], engine: str) -> dict[str, dict[str, Tensor]]:
    """The same for every objective and step, in the processes that there are."""
    return {f"{loss}, {move}": weights(loss, move, engine) for loss in losses for move in MOVES}


def _whole(value: Any) -> Tensor:
    whole = value.full_tensor() if hasattr(value, "full_tensor") else value
    return whole.detach().clone()


def difference(one: dict[str, Tensor], others: list[dict[str, Tensor]]) -> float:
    """Largest of any weight, over the processes."""
    return max(float((one[n] - other[n]).abs().max()) for other in others for n in one)


def scaling(options: argparse.Namespace) -> dict[str, Any]:
    """Throughput of one and of two processes, engine by engine."""
    found: dict[str, Any] = {}
    for name in options.tasks:
        common = (options.batches, options.rounds)
        one = statistics.median(launch(throughput, 1, name, "torch", *common)[0])
        print(f"{name}: 1 process {one:8.0f} examples/s")
        found[name] = {"torch": {"processes": 1, "examples_per_second": one}}
        for engine in options.engines:
            told = launch(throughput, 2, name, engine, *common)
            # Both wait for one another at every step, so a round takes what the slower one takes.
            two = statistics.median(2 * min(pair) for pair in zip(*told, strict=True))
            efficiency = two / (2 * one)
            print(f"{name}: 2 processes {two:7.0f} examples/s by {engine}, {efficiency:.0%}")
            found[name][engine] = {
                "processes": 2,
                "examples_per_second": two,
                "efficiency": efficiency,
            }
    return found


def equality(options: argparse.Namespace) -> dict[str, Any]:
    """The table of differences, by objective, step and engine."""
    one = launch(all_weights, 1, options.losses, "torch")[0]
    told = {engine: launch(all_weights, 2, options.losses, engine) for engine in options.engines}
    found = {
        cell: {
            engine: difference(own, [other[cell] for other in others])
            for engine, others in told.items()
        }
        for cell, own in one.items()
    }
    print("largest difference of a weight, two processes against one")
    print(f"{'':18}", *(f"{engine:>10}" for engine in options.engines))
    for cell, row in found.items():
        print(f"{cell:18}", *(f"{value:10.1e}" for value in row.values()))
    return found


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--tasks", nargs="*", choices=list(TASKS), default=["mnist_net", "tabular_mlp"]
    )
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--losses", nargs="*", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--batches", type=int, default=8, help="a round, for each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="JSON")
    options = parser.parse_args()
    found = {"scaling": scaling(options), "equality": equality(options), "lr": LR}
    if options.output:
        options.output.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
