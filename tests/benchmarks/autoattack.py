"""The suites on MNIST, side by side with the authors' AutoAttack and with ART's.

    python -m tests.benchmarks.autoattack --data ../shared/data --output autoattack.json

For each model and norm: ``standard`` and the authors' AutoAttack (the package ``pyautoattack``, or
``autoattack`` of their repository; left out where neither is installed) at the same settings, batch
size and number of threads, in turn on chunks of one batch, so that whatever else the machine does
hits both alike; then ``standard`` and ``quick`` likewise; then ``standard`` and ART's
``AutoAttack`` at ART's defaults, on fewer images, since that takes long; the authors' once more
with another seed, which tells how much of a difference is the draw's; APGD on cross-entropy and FAB
alone; and in L2 ``standard`` without what makes it stronger than theirs, with two seeds, which
tells how much is due to that. Times are seconds of the processor, of this process alone. In L1 with
the authors' alone:

    python -m tests.benchmarks.autoattack --models standard --norms 1 --n 250 --parts authors apgd

Every chunk is written to the output file at once, and weights are kept beside it: a stopped run
goes on where it was. Several runs on different ``--models`` need outputs of their own, which
``--merge`` puts together.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

import artplus
from artplus import geometry
from artplus.attacks import FAB, PGD
from artplus.evaluation.named import Threat
from artplus.evaluation.suites import Suite, make_suite
from artplus.model import LossModel
from tests.benchmarks.nets import mnist_net

NORMS = {"inf": np.inf, "2": 2.0, "1": 1.0}
BATCH, RATE = 128, 5e-3


@dataclass(frozen=True)
class Subject:
    """A model to be attacked: how to get it, and the radius in each norm."""

    build: Callable[[argparse.Namespace], nn.Module]
    radii: dict[str, float]


def images(data: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """MNIST in [0, 1], one channel."""
    with np.load(data / "mnist.npz") as found:
        x = (found[f"x_{split}"] / 255).astype(np.float32)[:, None]
        return x, found[f"y_{split}"].astype(np.int64)


def triangle(optimizer: Any, steps: int) -> Any:
    """A learning rate that rises and falls once."""
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, anneal_strategy="linear", cycle_momentum=False
    )


def trained(name: str, objective: str, attack: PGD, epochs: int) -> Callable[..., nn.Module]:
    """Trains the network of Wong and Kolter, or loads what an earlier run trained."""

    def build(options: argparse.Namespace) -> nn.Module:
        folder = options.output.with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        net, file = mnist_net(), folder / f"{name}.pt"
        if not file.exists():
            x, y = images(options.data, "train")
            artplus.fit(
                net, (x, y), torch.optim.Adam(net.parameters(), RATE), loss=objective,
                attack=attack, batch_size=BATCH, epochs=epochs, scheduler=triangle, seed=0,
                bounds=(0.0, 1.0),
            )  # fmt: skip
            torch.save({"weights": net.state_dict()}, file)
        net.load_state_dict(torch.load(file, weights_only=True)["weights"])
        return net

    return build


def certified(options: argparse.Namespace) -> nn.Module:
    """The network that Wong and Kolter made provably robust at 0.1."""
    net = mnist_net()
    with np.load(options.data / "models" / "wk_mnist_eps0.1.npz") as weights:
        net.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights.files})
    return net


SUBJECTS = {
    "standard": Subject(
        trained("standard", "at", PGD(eps=0.0, steps=1), 3), {"inf": 0.3, "2": 1.5, "1": 8.0}
    ),
    "linf": Subject(
        trained("linf", "at", PGD(eps=0.3, steps=7), 8), {"inf": 0.3, "2": 1.5, "1": 8.0}
    ),
    "l2": Subject(
        trained("l2", "at", PGD(eps=2.0, norm=2, steps=5), 5), {"inf": 0.3, "2": 2.0, "1": 8.0}
    ),
    "certified": Subject(certified, {"inf": 0.1, "2": 1.5, "1": 8.0}),
}

Run = Callable[[Tensor, Tensor], np.ndarray]
"""Which of the examples are still right, ``(n,)`` booleans."""


def suite(
    net: nn.Module, attacks: str | Suite, eps: float, norm: float, batch: int, seed: int = 0
) -> Run:
    """A suite of ours, called as a user would; of broken attacks only FAB in their way may be."""
    evaluate = artplus.evaluate  # imported here, before a clock runs

    def run(x: Tensor, y: Tensor) -> np.ndarray:
        report = evaluate(
            net, x, y, attacks=attacks, eps=eps, norm=norm, clip_values=(0.0, 1.0), seed=seed,
            batch_size=batch, checks=False, progress=False, only_survivors=True,
        )  # fmt: skip
        theirs = {} if isinstance(attacks, str) else attacks
        broken = [
            result.name
            for result in report.attacks
            if result.broken and not isinstance(theirs.get(result.name), _TheirFAB)
        ]  # that one gives back what it was given where it found nothing
        if broken:
            raise RuntimeError(f"broken: {broken}")
        return np.asarray(report.correct_robust)

    return run


@dataclass(frozen=True, kw_only=True)
class _TheirFAB(FAB):
    """FAB whose runs end as they are, and whose mistakes outside the ball are none."""

    search: int = 0

    def __call__(self, model: LossModel, x: Tensor, y: Tensor, **options: Any) -> Tensor:
        """Craft; what was pulled back into the ball is longer than all that it found inside."""
        x_adv = super().__call__(model, x, y, **options)
        with torch.no_grad():
            length = torch.linalg.vector_norm((x_adv - x).flatten(1), self.norm, dim=1)
        inside = length < cast(float, self.eps) * (1 - 1e-6)
        return torch.where(inside[:, None, None, None], x_adv, x)


def their_fab(net: nn.Module, eps: float, norm: float, batch: int) -> Run:
    """FAB alone as the authors': nothing is drawn, so it should fool the same examples."""
    return suite(net, {"fab_t": _TheirFAB(eps=eps, norm=norm)}, eps, norm, batch)


def cross_entropy(net: nn.Module, eps: float, norm: float, batch: int) -> Run:
    """APGD on cross-entropy alone, as it is in ``standard``."""
    attacks = make_suite("standard", Threat(eps=eps, norm=norm, classes=10, shape=(1, 28, 28)))
    return suite(net, {"apgd_ce": attacks["apgd_ce"]}, eps, norm, batch)


def their_way(net: nn.Module, eps: float, batch: int, seed: int = 0) -> Run:
    """``standard`` without what makes it stronger in L2 than the authors'.

    APGD's way back is into the ball first, then clipped to the box; FAB ends its runs without a
    last search, and mistakes that it found outside the ball are not pulled back.
    """
    attacks = make_suite("standard", Threat(eps=eps, norm=2.0, classes=10, shape=(1, 28, 28)))
    attacks["fab_t"] = _TheirFAB(eps=eps, norm=2.0)
    run = suite(net, attacks, eps, 2.0, batch, seed)

    def rescaling(ball: geometry.Geometry, x: Tensor, eps: geometry.Eps, box: geometry.Box) -> Any:
        return lambda z: geometry.clip(x + geometry.rescale(ball, z - x, eps), box)

    def patched(x: Tensor, y: Tensor) -> np.ndarray:
        with mock.patch.object(geometry, "_rescaling", rescaling):
            return run(x, y)

    return patched


def authors(
    net: nn.Module, eps: float, norm: float, batch: int, seed: int = 0, only: str | None = None
) -> Run | None:
    """The authors' standard AutoAttack, or one of its attacks; ``None`` where not installed."""
    package = next(filter(importlib.util.find_spec, ("pyautoattack", "autoattack")), None)
    if package is None:
        return None
    AutoAttack = importlib.import_module(package).AutoAttack
    kind = {np.inf: "Linf", 2.0: "L2", 1.0: "L1"}[norm]

    def run(x: Tensor, y: Tensor) -> np.ndarray:
        where = {"device": "cpu"} if package == "autoattack" else {}
        attack = AutoAttack(net, norm=kind, eps=eps, seed=seed, version="standard", **where)
        if only is not None:
            attack.attacks_to_run = [only]
        if package == "autoattack":
            x_adv = attack.run_standard_evaluation(x, y, bs=batch)
        else:
            x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=batch)
        return right(net, x, x_adv, y, eps, norm)

    return run


def arts(net: nn.Module, eps: float, norm: float, batch: int) -> Run:
    """ART's AutoAttack as it comes: four attacks, five restarts, untargeted."""
    from art.attacks.evasion import AutoAttack
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        net, nn.CrossEntropyLoss(), (1, 28, 28), 10, clip_values=(0.0, 1.0)
    )

    def run(x: Tensor, y: Tensor) -> np.ndarray:
        np.random.seed(0)
        attack = AutoAttack(classifier, norm=norm, eps=eps, batch_size=batch)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for each step
            x_adv = torch.from_numpy(attack.generate(x.numpy(), y.numpy()))
        return right(net, x, x_adv, y, eps, norm)

    return run


def right(
    net: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, eps: float, norm: float
) -> np.ndarray:
    """Which examples are right at ``x``, and at ``x_adv`` too or ``x_adv`` is out of the ball."""
    length = torch.linalg.vector_norm((x_adv - x).flatten(1).double(), norm, dim=1)
    inside = (length <= eps * (1 + 1e-4)) & (x_adv >= 0).flatten(1).all(1)
    inside &= (x_adv <= 1).flatten(1).all(1)
    with torch.no_grad():
        fooled = inside & (net(x_adv).argmax(1) != y)
        return ((net(x).argmax(1) == y) & ~fooled).numpy()


class Ledger:
    """Chunks done so far, in the output file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}

    def chunks(self, key: str, part: str) -> list[dict[str, Any]]:
        """Of a model and norm, those of one part."""
        return self.rows.setdefault(key, {}).setdefault(part, [])

    def save(self) -> None:
        """Written beside and moved, so that a stop leaves the old file or the new."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        beside = self._file.with_suffix(".tmp")
        beside.write_text(json.dumps(self.rows))
        os.replace(beside, self._file)


def side_by_side(
    ledger: Ledger, key: str, part: str, runs: dict[str, Run], x: Tensor, y: Tensor, size: int
) -> None:
    """Each chunk by every run, the first one in turn; chunks that are in the ledger are not run."""
    done = ledger.chunks(key, part)
    names = list(runs)
    for number, start in enumerate(range(0, len(x), size)):
        if number < len(done):
            continue
        rows = slice(start, start + size)
        chunk: dict[str, Any] = {}
        for name in names if number % 2 == 0 else names[::-1]:
            wall, cpu = time.perf_counter(), time.process_time()
            stood = runs[name](x[rows], y[rows])
            chunk[name] = {
                "cpu": time.process_time() - cpu,
                "wall": time.perf_counter() - wall,
                "stood": stood.astype(int).tolist(),
            }
        done.append(chunk)
        ledger.save()
        seconds = ", ".join(f"{n} {chunk[n]['cpu']:.0f} s" for n in names)
        sys.stderr.write(f"{time.strftime('%H:%M')} {key} {part} {start}: {seconds}\n")


def joined(chunks: list[dict[str, Any]], name: str) -> tuple[np.ndarray, float]:
    """Who stood, and processor seconds in all."""
    stood = np.concatenate([np.asarray(chunk[name]["stood"]) for chunk in chunks]).astype(bool)
    return stood, sum(chunk[name]["cpu"] for chunk in chunks)


PARTS = ("authors", "quick", "art", "again", "apgd", "fab", "their way")

COMPARED = (
    ("authors", "standard", "authors", "authors"),
    ("quick", "standard", "quick", "quick"),
    ("art", "standard", "art", "ART"),
    ("authors", "authors", "again", "again"),
    ("apgd", "APGD", "apgd", "their APGD"),
    ("fab", "FAB", "fab", "their FAB"),
    ("their way", "their way 0", "authors", "authors"),
    ("their way", "their way 1", "authors", "authors"),
    ("their way", "their way 0", "their way", "their way 1"),
)
"""Part and name of a run, and of the one that it is held against."""


def table(rows: dict[str, Any]) -> str:
    """What was found, a line for each model, norm and comparison."""
    lines = []
    for key, parts in rows.items():
        for one, name, two, other in COMPARED:
            chunks, others = parts.get(one), parts.get(two)
            if not chunks or not others or other not in others[0] or name not in chunks[0]:
                continue
            both = slice(min(len(chunks), len(others)))
            (a, mine), (b, theirs) = joined(chunks[both], name), joined(others[both], other)
            lines.append(
                f"{key:18} n={len(a):4} clean {parts['clean']:5.1%}  "
                f"{name:11} {a.mean():5.1%} in {mine:5.0f} s  "
                f"{other:7} {b.mean():5.1%} in {theirs:5.0f} s  "
                f"{name} less {other} {100 * (a.mean() - b.mean()):+5.2f} points "
                f"(fooled by {other} alone {int((a & ~b).sum())}, by {name} alone "
                f"{int((b & ~a).sum())})  time {other} / {name} {theirs / mine:5.2f}"
            )
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> None:
    """All that the output file does not hold yet."""
    ledger = Ledger(options.output)
    x_test, y_test = images(options.data, "test")
    x, y = torch.from_numpy(x_test[: options.n]), torch.from_numpy(y_test[: options.n])
    for name in options.models:
        net = SUBJECTS[name].build(options).eval()
        for order in options.norms:
            eps, norm, key = SUBJECTS[name].radii[order], NORMS[order], f"{name} l{order}"
            key = f"{key} {eps:g}"
            with torch.no_grad():
                clean = float((net(x).argmax(1) == y).double().mean())
            ledger.rows.setdefault(key, {})["clean"] = clean
            batch = options.batch_size
            standard = suite(net, "standard", eps, norm, batch)
            if "authors" in options.parts:
                runs = {"standard": standard}
                if peer := authors(net, eps, norm, batch):
                    runs["authors"] = peer
                side_by_side(ledger, key, "authors", runs, x, y, batch)
            if "quick" in options.parts:
                runs = {"standard": standard, "quick": suite(net, "quick", eps, norm, batch)}
                side_by_side(ledger, key, "quick", runs, x, y, batch)
            if "again" in options.parts and (peer := authors(net, eps, norm, batch, seed=1)):
                few = slice(0, options.again_n)
                side_by_side(ledger, key, "again", {"again": peer}, x[few], y[few], batch)
            if "apgd" in options.parts and (peer := authors(net, eps, norm, batch, only="apgd-ce")):
                runs = {"APGD": cross_entropy(net, eps, norm, batch), "their APGD": peer}
                side_by_side(ledger, key, "apgd", runs, x, y, batch)
            if "fab" in options.parts and (peer := authors(net, eps, norm, batch, only="fab-t")):
                runs = {"FAB": their_fab(net, eps, norm, batch), "their FAB": peer}
                side_by_side(ledger, key, "fab", runs, x, y, batch)
            if "their way" in options.parts and norm == 2.0:
                runs = {f"their way {n}": their_way(net, eps, batch, n) for n in (0, 1)}
                side_by_side(ledger, key, "their way", runs, x, y, batch)
            if "art" in options.parts:
                few = slice(0, options.art_n)
                both = {"standard": standard, "ART": arts(net, eps, norm, batch)}
                side_by_side(ledger, key, "art", both, x[few], y[few], options.art_n)


def main() -> None:
    """Measure, or put outputs together, and print the table."""
    default = Path(os.environ.get("ARTPLUS_DATA", "../shared/data"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=default, help="folder with mnist.npz")
    parser.add_argument("--output", type=Path, default=Path("autoattack.json"))
    parser.add_argument("--models", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--norms", nargs="*", choices=list(NORMS), default=list(NORMS))
    parser.add_argument(
        "--parts", nargs="*", choices=PARTS, default=PARTS, help="what is held against what",
    )  # fmt: skip
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--art-n", type=int, default=100, help="images for ART")
    parser.add_argument("--again-n", type=int, default=500, help="images for another seed")
    parser.add_argument("--batch-size", type=int, default=250, help="the authors' default")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--merge", type=Path, nargs="*", help="outputs to put into this one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    if options.merge is None:
        measure(options)
    else:
        ledger = Ledger(options.output)
        for file in options.merge:
            for key, parts in Ledger(file).rows.items():
                ledger.rows.setdefault(key, {}).update(parts)
        ledger.save()
    sys.stdout.write(table(Ledger(options.output).rows) + "\n")


if __name__ == "__main__":
    main()
