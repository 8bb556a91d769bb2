"""Several processes judge together what one judges alone, each example once."""

from __future__ import annotations

import functools
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import artplus
from artplus import distributed
from artplus.attacks import APGD, PGD, fgm
from artplus.errors import ConfigurationError
from artplus.evaluation import MinimumNorm, Report, attack_run, judge, progress
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.tasks import task_for
from tests.evaluation.test_resumed_evaluation import Beyond, Fails
from tests.reports import assert_same
from tests.toys import arrays, net

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="needs gloo")
N, EPS, SIZE = 37, 0.06, 4


def report(kind: str, folder: Path | None = None, **options: Any) -> Report:
    """What every process calls."""
    torch.manual_seed(1)
    x, _ = (torch.from_numpy(v) for v in arrays(N))
    attacks: dict[str, Any] = {
        "pgd": PGD(eps=EPS, steps=3, step_size=0.02),
        "beyond": Beyond(),
        "fails": Fails(),
    }
    settings: dict[str, Any] = {
        "space": InputSpace(0.0, 1.0), "batch_size": SIZE, "progress": False, "examples": 3,
        "checkpoint": folder, "checkpoint_every": 0.0,
    }  # fmt: skip
    if kind == "regression":
        model = LossModel(nn.Linear(6, 1), task_for(nn.MSELoss()))
        return judge(model, x, torch.rand(N, 1), attacks, **settings | options)
    attacks["targeted"] = APGD(eps=EPS, steps=3, loss="dlr", targets=2)
    attacks["near"] = MinimumNorm(fgm(eps=0.1), EPS)
    settings |= {"only_survivors": kind == "survivors", "checks": kind == "checks"}
    model = LossModel(net().eval())
    y = model(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    return judge(model, x, y, attacks, **settings | options)


def process(rank: int, size: int, folder: str, work: Any, arguments: tuple[Any, ...]) -> None:
    """Join the others, do the work, leave its answer in a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    try:
        Path(folder, f"{rank}.json").write_text(work(*arguments))
    finally:
        dist.destroy_process_group()


def together(folder: Path, size: int, work: Any, *arguments: Any) -> list[str]:
    """The answer of each of several processes."""
    folder.mkdir()
    torch.multiprocessing.start_processes(  # a fork has imported everything already
        process, (size, str(folder), work, arguments), nprocs=size, start_method="fork"
    )
    return [(folder / f"{rank}.json").read_text() for rank in range(size)]


def several(kinds: tuple[str, ...], folder: Path | None) -> str:
    return "\n".join(report(kind, folder and folder / kind).to_json() for kind in kinds)


KINDS = ("classes", "survivors", "regression", "checks")


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_report_as_one_does(tmp_path: Path, size: int) -> None:
    """Bit for bit, in every process: worst case, broken attacks, gallery, checks."""
    kinds = KINDS if size == 2 else KINDS[:3]  # the checks are the main process's alone
    found = together(tmp_path / "run", size, several, kinds, None)
    for answer in found:
        for kind, text in zip(kinds, answer.splitlines(), strict=True):
            assert_same(Report.from_json(text), report(kind))
    dates = {Report.from_json(answer.splitlines()[0]).date for answer in found}
    assert len(dates) == 1


def counted(folder: Path) -> str:
    """Which batches this process crafted, by the first feature of their examples."""
    seen: list[float] = []
    craft = attack_run._craft

    def watched(data: Any, attack: Any, x: Tensor, *rest: Any) -> Tensor:
        seen.extend(x[:, 0].tolist())
        return craft(data, attack, x, *rest)

    attack_run._craft = watched
    try:
        attack = {"pgd": PGD(eps=EPS, steps=1)}
        x, y = (torch.from_numpy(v) for v in arrays(N))
        torch.manual_seed(1)
        model = LossModel(net().eval(), task_for())
        judge(model, x, model(x).argmax(1), attack, batch_size=SIZE, progress=False)
    finally:
        attack_run._craft = craft
    return ",".join(map(str, seen))


def test_every_example_is_attacked_once(tmp_path: Path) -> None:
    """The processes' parts are disjoint, of about the same size, and together everything."""
    found = [answer.split(",") for answer in together(tmp_path / "run", 2, counted, tmp_path)]
    alone = counted(tmp_path).split(",")
    assert sum(found, []) == alone and len(alone) == N
    assert abs(len(found[0]) - len(found[1])) <= SIZE


def killed(kind: str, folder: Path, call: int) -> str:
    """Die in the ``call``-th batch of this process; the others are taken down with it."""
    craft, calls = attack_run._craft, [0]

    def watched(*arguments: Any) -> Tensor:
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return craft(*arguments)

    attack_run._craft = watched
    return report(kind, folder).to_json()


@pytest.mark.parametrize("before, after", [(2, 1), (1, 2), (3, 2)])
def test_another_number_of_processes_continues(tmp_path: Path, before: int, after: int) -> None:
    """Killed with some, continued by more or fewer, ended by one: the report of one."""
    folder = tmp_path / "checkpoint"
    for life, size in enumerate((before, before, after)):
        with pytest.raises(torch.multiprocessing.ProcessExitedException):
            together(tmp_path / f"killed-{life}", size, killed, "classes", folder, 3)
        assert list(folder.glob("attack-*.ckpt"))
    ended = together(tmp_path / "ended", after, several, ("classes",), tmp_path / "none")
    assert_same(Report.from_json(ended[0]), report("classes"))
    assert_same(report("classes", folder), report("classes"))
    assert not list(folder.glob("*.part-*"))


def disagree(folder: Path) -> str:
    with pytest.raises(ConfigurationError, match="settings.seed is . in process . and . in"):
        report("classes", seed=distributed.rank())
    bad = folder / "bad"
    if distributed.is_main():
        bad.write_text("")
    distributed.barrier()
    with pytest.raises(ConfigurationError, match="is a file"):
        report("classes", bad)
    return "refused"


def test_processes_that_judge_different_things_are_refused(tmp_path: Path) -> None:
    """Another seed, as where each process seeds by its rank: an error in all, nobody waits."""
    assert together(tmp_path / "run", 2, disagree, tmp_path) == ["refused", "refused"]


def wrapped(folder: Path) -> str:
    """A module in DistributedDataParallel, as training leaves it."""
    x, y = arrays(N)
    torch.manual_seed(1)
    model = nn.parallel.DistributedDataParallel(net()).eval()
    options = {"attacks": ["pgd", "fgsm"], "eps": EPS, "batch_size": SIZE, "progress": False}
    return artplus.evaluate(model, x, y, clip_values=(0.0, 1.0), **options).to_json()


def test_a_wrapped_model_is_judged_as_the_model(tmp_path: Path) -> None:
    """Its buffers are not sent about in every pass, which would wait for ever."""
    found = Report.from_json(together(tmp_path / "run", 2, wrapped, tmp_path)[1])
    x, y = arrays(N)
    torch.manual_seed(1)
    options = {"attacks": ["pgd", "fgsm"], "eps": EPS, "batch_size": SIZE, "progress": False}
    assert_same(found, artplus.evaluate(net().eval(), x, y, clip_values=(0.0, 1.0), **options))
    assert found.model == "Sequential" and math.isfinite(found.clean_loss)


def test_the_bar_is_shown_by_the_main_process_alone(
    tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, which says that it is one of several."""
    monkeypatch.setattr(progress, "tqdm", functools.partial(progress.tqdm, mininterval=0))
    together(tmp_path / "run", 2, loud)
    shown = capfd.readouterr().err
    assert "[1/5] pgd (process 1 of 2)" in shown and "process 2" not in shown
    assert "robust so far" in shown


def loud() -> str:
    return report("classes", progress=True).to_json()
