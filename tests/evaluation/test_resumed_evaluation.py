"""An evaluation that is interrupted or killed goes on where it was and ends the same."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import artplus
from artplus.attacks import APGD, PGD, fgm
from artplus.errors import ArtplusWarning, CheckpointError, ConfigurationError
from artplus.evaluation import MinimumNorm, attack_run, judge
from artplus.evaluation.saved import HEAD
from artplus.folder_lock import FolderLock
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.benchmarks.chaos import evaluation_chaos
from tests.reports import assert_same
from tests.toys import arrays, classifier, net

N, EPS = 30, 0.06


class Beyond:
    """Leaves its ball on every third example; an attack of somebody's own class."""

    eps, norm = EPS, math.inf

    def __init__(self, by: float = 0.2) -> None:
        self.by = by

    def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        moved = (x + 0.9 * EPS).clamp(0, 1)
        moved[::3] = (x[::3] + self.by).clamp(0, 1)
        return moved

    def with_eps(self, scale: float) -> Beyond:
        return self


class Fails(Beyond):
    """Raises on a batch that holds the example of the largest first feature."""

    def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        if x[:, 0].max() > 0.97:
            raise ValueError("cannot")
        return super().__call__(model, x, y)


ATTACKS: dict[str, Any] = {
    "pgd": PGD(eps=EPS, steps=3, step_size=0.02),
    "targeted": APGD(eps=EPS, steps=3, loss="dlr", targets=2),
    "beyond": Beyond(),
    "fails": Fails(),
    "near": MinimumNorm(fgm(eps=0.1), EPS),
}


def subject(kind: str) -> tuple[LossModel, Tensor, Tensor]:
    """A classifier with draws of its own in evaluation mode, or a regression."""
    torch.manual_seed(1)
    x, y = (torch.from_numpy(v) for v in arrays(N))
    if kind == "regression":
        return LossModel(nn.Linear(6, 1), task_for(nn.MSELoss())), x, torch.rand(N, 1)
    model = net().eval()
    return LossModel(model, forward=lambda z: model(z) + 0.01 * torch.randn(len(z), 3)), x, y


def run(folder: Path | None, kind: str = "classes", **options: Any) -> Any:
    model, x, y = subject(kind)
    attacks = options.pop("attacks", ATTACKS)
    if kind == "regression":
        attacks = {name: attacks[name] for name in ("pgd", "beyond", "fails")}
    settings = {"batch_size": 4, "space": InputSpace(0.0, 1.0), "progress": False, "examples": 3}
    settings |= {"checkpoint": folder, "checkpoint_every": 0.0}
    torch.manual_seed(np.random.randint(1000))  # what the caller drew before does not matter
    return judge(model, x, y, attacks, **settings | options)


def interrupted_at(call: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Ctrl-C in the middle of the ``call``-th batch; counts the batches."""
    craft, calls = attack_run._craft, [0]

    def counted(*args: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return craft(*args)

    monkeypatch.setattr(attack_run, "_craft", counted)
    return calls


@pytest.mark.parametrize("kind", ["classes", "survivors", "regression"])
def test_interrupted_anywhere_it_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Stopped in every batch in turn, of every kind of attack: nothing is lost, nothing differs."""
    options = {"only_survivors": kind == "survivors"}
    reference = run(None, kind, **options)
    broken = {result.name for result in reference.broken}
    assert broken == {"beyond", "fails"}
    craft, lives = attack_run._craft, 0
    while True:
        calls = interrupted_at(2, monkeypatch)
        try:
            found = run(tmp_path / "all", kind, **options)
            break
        except KeyboardInterrupt:
            lives += 1
        monkeypatch.setattr(attack_run, "_craft", craft)
    assert_same(found, reference)
    assert lives > 8 and calls[0] <= 1
    assert sorted(p.name for p in (tmp_path / "all").iterdir())[:2] == [
        "attack-01.ckpt",
        *["attack-02.ckpt"],
    ]


def test_between_two_writes_an_interrupt_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the pause between writes, an interrupted run begins with the batch it was in."""
    options = {"attacks": {"pgd": ATTACKS["pgd"]}, "checkpoint_every": 1e6}
    reference = run(None, **options)
    batches = math.ceil(reference.attacks[0].attacked / 4)
    craft = attack_run._craft
    interrupted_at(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, **options)
    monkeypatch.setattr(attack_run, "_craft", craft)
    calls = interrupted_at(0, monkeypatch)
    assert_same(run(tmp_path, **options), reference)
    assert calls[0] == batches - 3


def test_writes_keep_their_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head, the clean scores and an end for each attack; a write a batch only if asked."""
    write, written = artplus.checkpoint_io.write, []

    def counted(path: Path, *rest: Any) -> None:
        written.append(path.name)
        write(path, *rest)

    monkeypatch.setattr(artplus.checkpoint_io, "write", counted)
    one = {"pgd": ATTACKS["pgd"]}
    rarely = run(tmp_path / "a", attacks=one, checkpoint_every=1e6)
    batches = math.ceil(rarely.attacks[0].attacked / 4)
    assert written == ["evaluation.ckpt", "clean.ckpt", "attack-01.ckpt"]
    written.clear()
    run(tmp_path / "b", attacks=one, checkpoint_every=0.0)
    assert written.count("attack-01.part-0.ckpt") == batches and len(written) == batches + 3


def test_what_is_finished_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call on a finished evaluation gives its report, times included, at once."""
    first = run(tmp_path)
    calls = interrupted_at(1, monkeypatch)
    again = run(tmp_path)
    assert calls[0] == 0
    assert_same(again, first)
    assert [r.seconds for r in again.attacks] == [r.seconds for r in first.attacks]


def test_time_adds_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attack's seconds are those of all lives."""
    craft = attack_run._craft
    interrupted_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, attacks={"pgd": ATTACKS["pgd"]})
    monkeypatch.setattr(attack_run, "_craft", craft)
    part = artplus.checkpoint_io.read(tmp_path / "attack-01.part-0.ckpt")
    spent = float(part["batches"][:, 1].sum())
    assert len(part["batches"]) == 2 and spent > 0
    assert run(tmp_path, attacks={"pgd": ATTACKS["pgd"]}).attacks[0].seconds > spent


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "eps": ({"attacks": {**ATTACKS, "pgd": PGD(eps=0.07)}}, "attack pgd.eps: 0.06 in the .* 0.07"),
    "steps": ({"attacks": {**ATTACKS, "pgd": PGD(eps=EPS, steps=4, step_size=0.02)}},
              "attack pgd.steps: 3 in the checkpoint, 4 now"),
    "own class": ({"attacks": {**ATTACKS, "beyond": Beyond(0.3)}}, "attack beyond.by: 0.2 in"),
    "order": ({"attacks": dict(reversed(ATTACKS.items()))}, "attacks: pgd, targeted, .* now"),
    "seed": ({"seed": 1}, "settings.seed: 0 in the checkpoint, 1 now"),
    "batch": ({"batch_size": 5}, "settings.batch_size: 4 in the checkpoint, 5 now"),
    "survivors": ({"only_survivors": True}, "settings.only_survivors: False in"),
    "box": ({"space": InputSpace(0.0, 2.0)}, "space.high: 1 in the checkpoint, 2 now"),
    "mask": ({"space": InputSpace(0.0, 1.0, torch.ones(6))}, "space.mask: None in"),
}  # fmt: skip


@pytest.mark.parametrize("what", OTHERS)
def test_another_evaluation_is_refused_by_what_differs(tmp_path: Path, what: str) -> None:
    """Attacks, their settings and order, seed, batches, box and mask."""
    options, message = OTHERS[what]
    run(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, **options)


def test_another_model_or_data_is_refused(tmp_path: Path) -> None:
    """One weight, one input, one label, another loss, another preprocessing."""
    x, y = arrays(N)
    options = {"attacks": ["pgd"], "eps": 0.1, "progress": False, "checkpoint": tmp_path}
    torch.manual_seed(0)
    model = net().eval()
    once = artplus.evaluate(classifier(model, preprocessing=(0.5, 0.5)), x, y, **options)
    artplus.evaluate(classifier(model, preprocessing=(0.5, 0.5)), x, y, **options)
    assert once.n == N
    with pytest.raises(CheckpointError, match="forward.estimator.preprocessing.0.mean: .* now"):
        artplus.evaluate(classifier(model, preprocessing=(0.4, 0.5)), x, y, **options)
    for spoil in (
        lambda x, y: x.__setitem__((3, 2), 0.123),
        lambda x, y: y.__setitem__(4, 2 - y[4]),
    ):
        moved = x.copy(), y.copy()
        spoil(*moved)
        with pytest.raises(CheckpointError, match=r"data: \w+ in the checkpoint, \w+ now"):
            artplus.evaluate(classifier(model, preprocessing=(0.5, 0.5)), *moved, **options)
    with torch.no_grad():
        model[0].weight[0, 0] += 1e-6
    with pytest.raises(CheckpointError, match=r"model.0.weight: \(8, 6\) float32 \w+ in"):
        artplus.evaluate(classifier(model, preprocessing=(0.5, 0.5)), x, y, **options)


def test_a_damaged_file_is_named_and_costs_only_what_it_held(tmp_path: Path) -> None:
    """One bit anywhere in any file; removed as told, the evaluation ends the same."""
    reference = run(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == len(ATTACKS) + 2
    for path in files:
        sound = path.read_bytes()
        path.write_bytes(sound[:200] + bytes([sound[200] ^ 1]) + sound[201:])
        told = "Remove this folder" if path.name == HEAD else "Remove that file alone"
        with pytest.raises(CheckpointError, match=rf"{path.name} is damaged.*{told}"):
            run(tmp_path)
        if path.name == HEAD:
            path.write_bytes(sound)
        else:
            path.unlink()
        assert_same(run(tmp_path), reference)


@pytest.mark.parametrize("what", ["full disk", "deleted folder"])
def test_a_folder_that_fails_costs_the_evaluation_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """As in training: a warning, and the evaluation ends as it would; what is left can be used."""
    reference, folder = run(None), tmp_path / "saved"
    craft, write, calls = attack_run._craft, artplus.checkpoint_io.write, [0]

    def full(path: Path, payload: Any) -> Path:
        if path.name == HEAD:
            return write(path, payload)
        raise OSError(28, "No space left on device")

    def deleting(*args: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == 3:
            shutil.rmtree(folder)
        return craft(*args)

    if what == "full disk":
        monkeypatch.setattr(artplus.checkpoint_io, "write", full)
        with pytest.warns(ArtplusWarning, match="was not written .No space left"):
            assert_same(run(folder), reference)
        assert [path.name for path in folder.iterdir()] == [HEAD]
    else:
        monkeypatch.setattr(attack_run, "_craft", deleting)
        assert_same(run(folder), reference)
        assert (folder / "attack-02.ckpt").exists()
    monkeypatch.undo()
    assert_same(run(folder), reference)


def test_a_second_evaluation_in_the_folder_is_refused_while_the_first_is_at_work(
    tmp_path: Path,
) -> None:
    """Their files have the same names, and each would remove the other's."""
    lock = FolderLock(tmp_path)
    with pytest.raises(ConfigurationError, match="is being written to by this process"):
        run(tmp_path)
    lock.release()
    run(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    """A file, a folder of checkpoints of training, and a pause that is none."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="checkpoint is the folder .* is a file"):
        run(tmp_path / "file")
    (tmp_path / "step-000000001.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=f"holds step-000000001.ckpt but no {HEAD}"):
        run(tmp_path)
    with pytest.raises(ConfigurationError, match="checkpoint_every must be"):
        run(tmp_path / "new", checkpoint_every=-1)


def test_a_predict_only_model_is_known_by_its_answers(tmp_path: Path) -> None:
    """There are no weights to look at, so another model is told by what it says."""

    def forward(shift: int) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.eye(3)[((x[:, 0] * 3).long() + shift) % 3]

    x, y = (torch.from_numpy(v) for v in arrays(N))
    attacks = {"beyond": Beyond()}
    first, other = (LossModel(nn.Identity(), forward=forward(shift)) for shift in (0, 1))
    judge(first, x, y, attacks, progress=False, checkpoint=tmp_path)
    with pytest.raises(CheckpointError, match="model.predictions|shift"):
        judge(other, x, y, attacks, progress=False, checkpoint=tmp_path)


def test_killed_again_and_again_it_ends_the_same(tmp_path: Path) -> None:
    """SIGKILL within writes and at random moments: the report is that of a run left alone."""
    found = evaluation_chaos(tmp_path, kills=6, seed=0)
    assert found.kills == 6 and found.within_writes == 3 and found.identical
