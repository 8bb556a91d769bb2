"""Call every main door with arguments that nobody means, and count how the calls end.

    python -m tests.benchmarks.fuzz --calls 5000

Each call takes arguments that work and replaces one or two by odd values. It is *fine* if it works,
a *clear error* if it raises an ``ArtplusError``, and *raw* if it raises anything else. It is
*silently wrong* if it works or is refused but the caller's data, a refused or evaluated model's
weights or the global random streams are changed, NaN or infinity is accepted as a number, or what
comes out is not finite.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import random
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import artplus
from artplus import attacks, spaces
from artplus.errors import ArtplusError
from artplus.training import callbacks, make_method

FINE, CLEAR, RAW, SILENT = "fine", "clear error", "raw traceback", "silently wrong"


class Odd:
    """An object of no use."""

    def __repr__(self) -> str:
        return "Odd()"


def odd_values() -> list[Any]:
    """Values that users pass by mistake, made anew, since a call may change them."""
    return [
        None, True, False, 0, 1, -1, 3, 0.5, -0.5, 1e30, math.nan, math.inf, -math.inf, 1 + 2j,
        "", "a", "pgd", "inf", b"bytes", "\0", "auto", [], (), {}, set(), [1, 2], (0, 1, 2), (1, 0),
        [None], ["a", "b", "c"], {"a": 1}, np.int64(4), np.float32(0.25), np.float64("nan"),
        np.bool_(True), np.array(0.1), np.array([0.1, 0.2]), np.zeros((2, 6)), np.array([]),
        np.array(["a"]), np.array([None]), np.ma.masked_array([0.1] * 6, mask=[0, 1, 0, 0, 0, 0]),
        torch.tensor(0.1), torch.rand(6), torch.rand(6) * math.nan, torch.zeros(0),
        torch.tensor([1, 2]), torch.rand(24, 6), torch.eye(3), torch.tensor([True, False]),
        torch.zeros(2, dtype=torch.complex64), Odd(), int, len, print, nn.Linear(6, 3),
        Path("nowhere"), attacks.PGD(eps=0.05, steps=1), [attacks.PGD(eps=0.05, steps=1)],
    ]  # fmt: skip


@dataclass
class Trial:
    """One call: the function, its arguments, and what it must leave alone."""

    call: Callable[..., Any]
    arguments: dict[str, Any]
    model: nn.Module | None = None
    trains: bool = False
    data: tuple[Any, ...] = ()


def _model() -> nn.Module:
    return nn.Linear(6, 3)


def _data() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(24, 6), torch.arange(24) % 3


def _fit() -> Trial:
    model, data = _model(), _data()
    return Trial(
        artplus.fit,
        {
            "model": model, "data": data, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
            "loss": "at", "eps": 0.1, "bounds": (0.0, 1.0), "epochs": 1, "progress": False,
        },
        model, True, data,
    )  # fmt: skip


def _evaluate() -> Trial:
    model, data = _model(), _data()
    return Trial(
        artplus.evaluate,
        {
            "estimator": model, "data": data[0], "y": data[1], "attacks": "fgsm", "eps": 0.1,
            "bounds": (0.0, 1.0), "progress": False,
        },
        model, False, data,
    )  # fmt: skip


def _make_method() -> Trial:
    return Trial(make_method, {"loss": "trades", "eps": 0.1})


def _wrap() -> Trial:
    model, data = _model(), _data()
    arguments = {"model": model, "x": data[0], "y": data[1], "verbose": False}
    return Trial(artplus.wrap, arguments, model, False, data)


def _trainer() -> Trial:
    model, data = _model(), _data()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    estimator = artplus.wrap(model, *data, optimizer=optimizer, clip_values=(0.0, 1.0),
                             verbose=False)  # fmt: skip
    arguments = {"classifier": estimator, "eps": 0.1, "loss": "at", "verbose": False}
    return Trial(artplus.AdversarialTrainerPlus, arguments, model, False, data)


def _trainer_fit() -> Trial:
    trial = _trainer()
    trainer = artplus.AdversarialTrainerPlus(**trial.arguments)
    arguments = {"x": trial.data[0].numpy(), "y": trial.data[1].numpy(), "nb_epochs": 1}
    return Trial(trainer.fit, arguments, trial.model, True, trial.data)


def _attack(kind: type) -> Callable[[], Trial]:
    def make() -> Trial:
        pgd = attacks.PGD(eps=0.1, steps=1)
        meant = {"eps": 0.1, "attacks": (pgd,), "attack": pgd, "first": pgd, "then": pgd, "size": 8}
        needed = inspect.signature(kind).parameters
        return Trial(kind, {name: value for name, value in meant.items() if name in needed})

    return make


def _plain(kind: Any, **required: Any) -> Callable[[], Trial]:
    return lambda: Trial(kind, dict(required))


CALLBACKS: dict[str, dict[str, Any]] = {
    "Checkpoint": {"folder": "never"}, "CleanFloor": {"floor": 0.5}, "EMA": {},
    "EarlyStopping": {"patience": 2}, "EpsWarmup": {"epochs": 2},
    "GradientClipping": {"max_norm": 1.0}, "KeepBest": {}, "WarmStart": {},
}  # fmt: skip

DOORS: dict[str, Callable[[], Trial]] = {
    "fit": _fit,
    "evaluate": _evaluate,
    "make_method": _make_method,
    "wrap": _wrap,
    "AdversarialTrainerPlus": _trainer,
    "AdversarialTrainerPlus.fit": _trainer_fit,
    **{
        name: _attack(getattr(attacks, name))
        for name in attacks.__all__
        if dataclasses.is_dataclass(getattr(attacks, name)) and name not in ("Problem", "Relative")
    },
    "Relative": _plain(attacks.Relative, fraction=0.1),
    "InputSpace": _plain(spaces.InputSpace, low=0.0, high=1.0),
    "EmbeddingSpace": _plain(spaces.EmbeddingSpace),
    "LatentSpace": _plain(spaces.LatentSpace, layers="0"),
    **{name: _plain(getattr(callbacks, name), **options) for name, options in CALLBACKS.items()},
}
WEIGHTS = {"fit": 8, "evaluate": 8, "AdversarialTrainerPlus.fit": 6, "make_method": 4, "wrap": 4,
           "AdversarialTrainerPlus": 4}  # fmt: skip


def parameters(door: str) -> list[str]:
    """The names of a door's arguments that can be given by name."""
    named = inspect.signature(DOORS[door]().call).parameters.values()
    return [p.name for p in named if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


@dataclass(frozen=True)
class Ending:
    """How a call ended, and the call."""

    kind: str
    door: str
    changed: dict[str, Any]
    detail: str = ""

    def __str__(self) -> str:
        shown = ", ".join(f"{k}={v!r}"[:80].replace("\n", " ") for k, v in self.changed.items())
        return f"{self.kind}: {self.door}({shown}) {self.detail}"


def one(rng: random.Random) -> Ending:
    """One call of a random door with one or two odd arguments."""
    names = list(DOORS)
    door = rng.choices(names, [WEIGHTS.get(name, 1) for name in names])[0]
    possible = parameters(door)
    trial, odd = DOORS[door](), odd_values()
    chosen = rng.sample(possible, min(len(possible), rng.choice((1, 1, 2))))
    changed = {name: _odd(name, odd, rng) for name in chosen}
    return Ending(*_run(door, trial, changed))


def _odd(name: str, odd: list[Any], rng: random.Random) -> Any:
    """One value for an argument.

    What the user's own function does where a function is meant is the user's; and so many epochs
    that the call would not end are left out.
    """
    if name in ("criterion", "lam", "loss", "step", "scheduler"):
        odd = [value for value in odd if not callable(value)]
    if name == "seed":
        odd = [*odd, 2**70]
    plausible = [None, True, False, 0, 1, 3, 0.5, "auto", np.int64(4), np.float32(0.25)]
    return rng.choice(plausible if rng.random() < 0.3 else odd)


def _run(door: str, trial: Trial, changed: dict[str, Any]) -> tuple[str, str, dict[str, Any], str]:
    model = trial.model
    before = None if model is None else {k: v.clone() for k, v in model.state_dict().items()}
    copies = [values.clone() for values in trial.data]
    random_streams = _streams()
    refused, result, reason = False, None, ""
    try:
        result = trial.call(**{**trial.arguments, **changed})
    except ArtplusError as error:
        refused, reason = True, str(error)
    except Exception as error:  # what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        inside = [f for f in traceback.extract_tb(error.__traceback__) if "/artplus/" in f.filename]
        last = inside[-1] if inside else where
        place = f"{Path(last.filename).name}:{last.lineno}"
        return RAW, door, changed, f"{type(error).__name__}: {str(error)[:90]} at {place}"
    wrong = []
    if any(not torch.equal(a, b) for a, b in zip(copies, trial.data, strict=True)):
        wrong.append("the caller's data changed")
    if before is not None and model is not None and (refused or not trial.trains):
        if any(not torch.equal(v, before[k]) for k, v in model.state_dict().items()):
            wrong.append("weights changed")
    if refused and _streams() != random_streams and "seed" in changed:
        wrong.append("random streams moved")
    if not refused:
        wrong += _accepted(changed) + _results(result)
    if wrong:
        return SILENT, door, changed, "; ".join(wrong)
    return (CLEAR if refused else FINE), door, changed, reason


def _streams() -> tuple[Any, ...]:
    """The states of the global generators."""
    return (
        torch.get_rng_state().numpy().tobytes(),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
    )


def _accepted(changed: dict[str, Any]) -> list[str]:
    wrong = []
    for name, value in changed.items():
        if isinstance(value, (float, np.floating)) and math.isnan(value):
            wrong.append(f"{name}=nan accepted")
    return wrong


def _results(result: Any) -> list[str]:
    if isinstance(result, artplus.History):
        return [] if all(math.isfinite(row["loss"]) for row in result.rows) else ["loss not finite"]
    if isinstance(result, artplus.Report):
        try:
            artplus.Report.from_json(result.to_json())
        except Exception as error:  # whatever it is, the report cannot be saved
            return [f"report cannot be saved: {type(error).__name__} {error}"]
    return []


def fuzz(calls: int, seed: int = 0) -> list[Ending]:
    """Many calls, the same for one seed."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [one(rng) for _ in range(calls)]


def main() -> int:
    """Print the counts and what is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        import os

        os.chdir(folder)
        endings = fuzz(arguments.calls, arguments.seed)
    counts = Counter(ending.kind for ending in endings)
    for ending in endings:
        if ending.kind in (RAW, SILENT):
            sys.stdout.write(f"{ending}\n")
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in (FINE, CLEAR, RAW, SILENT))
    sys.stdout.write(f"{len(endings)} calls over {len(DOORS)} doors: {kinds}\n")
    return 1 if counts[RAW] or counts[SILENT] else 0


if __name__ == "__main__":
    sys.exit(main())
