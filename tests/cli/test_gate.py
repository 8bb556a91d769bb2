"""``artplus compare`` and the gate of ``artplus evaluate``: exit codes, and why."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from artplus.attacks import PGD
from artplus.cli import main
from artplus.commands.evaluate import evaluate
from artplus.commands.gate import closed
from artplus.errors import ConfigurationError
from artplus.evaluation import Check, judge
from artplus.model import LossModel

NETS = """
import torch
class Rounded(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(6, 3)
    def forward(self, x): return self.net(torch.round(x * 4) / 4)
def net(): return torch.nn.Linear(6, 3)
def rounded(): return Rounded()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A linear model that is nine times right of ten, its rounded twin, and their weights."""
    (tmp_path / "gate_nets.py").write_text(NETS)
    rng = np.random.default_rng(0)
    y = np.arange(40) % 3
    x = np.clip(0.2 * rng.random((40, 6)) + 0.7 * np.eye(6)[y], 0, 1).astype(np.float32)
    np.savez(tmp_path / "test.npz", x=x, y=np.where(np.arange(40) < 4, (y + 1) % 3, y))
    weight, bias = torch.eye(3, 6), torch.zeros(3)
    torch.save({"weight": weight, "bias": bias}, tmp_path / "net.pt")
    torch.save({"weight": -weight, "bias": bias}, tmp_path / "bad.pt")
    torch.save({"net.weight": weight, "net.bias": bias}, tmp_path / "rounded.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("gate_nets", None)


def run(name="net", weights="net.pt", eps="0.05", attacks="quick", *more):
    return main([
        "evaluate", "--model", f"gate_nets:{name}", "--weights", weights, "--data", "test.npz",
        "--eps", eps, "--attacks", attacks, *more,
    ])  # fmt: skip


def test_gate_opens_at_the_threshold(folder, capsys):
    """36 of 40 is 90 %: not under 0.9, but under 0.91; the table and the files are there."""
    assert run("net", "net.pt", "0.05", "quick", "--fail-under", "0.9") == 0
    assert "Trusted: " in capsys.readouterr().out
    options = ["--fail-under", "0.91", "--output", "r.json"]
    assert run("net", "net.pt", "0.05", "quick", *options) == 1
    out, err = capsys.readouterr()
    assert "worst case" in out and (folder / "r.json").exists()
    assert "artplus: failed: robust accuracy 90.00% is under 91.00%" in err
    assert run("net", "net.pt", "0.6", "fgsm") == 0  # without a threshold nothing fails


def test_gate_is_shut_for_a_broken_evaluation(folder, capsys):
    """A number that nothing supports does not pass, unless the checks are off."""
    assert run("rounded", "rounded.pt", "0.05", "quick", "--fail-under", "0.1") == 1
    assert "the evaluation is broken (unavailable gradients" in capsys.readouterr().err
    off = ["--fail-under", "0.1", "--checks", "off"]
    assert run("rounded", "rounded.pt", "0.05", "quick", *off) == 0
    assert "Broken:" not in capsys.readouterr().out  # no verdict
    on = ["--fail-under", "0.1", "--checks", "on"]
    assert run("rounded", "rounded.pt", "0.05", "pgd", *on) == 1


def test_gate_is_shut_when_nothing_is_known():
    """No attack worked, or a regression: unknown is not enough."""

    @dataclasses.dataclass(frozen=True)
    class Raising:
        eps: float = 0.1
        norm: float = torch.inf

        def __call__(self, model, x, y, **options):
            raise RuntimeError("no")

        def with_eps(self, scale):
            return self

    x, model = torch.rand(8, 4), LossModel(torch.nn.Linear(4, 3))
    y = model(x).argmax(1)
    report = judge(model, x, y, {"bad": Raising()}, progress=False)
    assert closed(report, 0.0) == "robust accuracy is unknown (no attack worked), not at least 0.0%"
    regression = dataclasses.replace(report, correct_clean=None)
    assert "this is a regression" in closed(regression, 0.5)
    sound = judge(model, x, y, {"pgd": PGD(eps=1e-4)}, progress=False)
    assert closed(sound, 1.0) is None
    odd = dataclasses.replace(sound, checks=(Check("x", "suspicious", 1.0, ""),))
    assert closed(odd, 1.0) is None and odd.verdict == "suspicious"
    assert closed(dataclasses.replace(sound, checks=(Check("x", "broken", 1.0, ""),)), 0) == (
        "the evaluation is broken (x), so its number says nothing"
    )


@pytest.mark.parametrize("share", ["45", "-0.1", "nan"])
def test_threshold_is_a_share(folder, capsys, share):
    """A percentage is refused before any work, with the share it may mean."""
    assert run("net", "net.pt", "0.05", "quick", "--fail-under", share) == 2
    assert "share in [0, 1]" in capsys.readouterr().err
    with pytest.raises(ConfigurationError, match="checks is one of auto, on, off, got 'no'"):
        evaluate(model="m:f", weights="w", data="d", eps=0.1, checks="no")


def test_compare_says_what_changed(folder, capsys):
    """Gained and lost examples with McNemar's test; the page holds both reports."""
    run("net", "bad.pt", "0.05", "quick", "--output", "before.json")
    run("net", "net.pt", "0.05", "quick", "--output", "after.json")
    capsys.readouterr()
    files = ["--output", "c.html", "--output", "c.md", "--output", "c.txt"]
    assert main(["compare", "before.json", "after.json", *files]) == 0
    out = capsys.readouterr().out
    old, new = (
        np.asarray(json.loads((folder / f"{name}.json").read_text())["correct_clean"])
        for name in ("before", "after")
    )
    assert old.sum() < new.sum() == 36
    assert "examples gained, " in out and "p < 0.001" in out and "McNemar's exact test" in out
    assert "apgd_ce" in out and "worst case" in out
    for name in ("c.html", "c.md", "c.txt"):
        assert "gained" in (folder / name).read_text(encoding="utf-8")
    assert main(["compare", "before.json", "after.json", *files]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["compare", "before.json", "after.json", *files, "--overwrite"]) == 0


def test_compare_fails_in_one_message(folder, capsys):
    """Missing files, other examples, and suffixes that hold one report."""
    assert main(["compare", "no.json", "no.json"]) == 2
    assert "cannot read a report from 'no.json'" in capsys.readouterr().err
    assert main(["compare", "no.json", "no.json", "--output", "c.png"]) == 2
    assert "one of .html, .md, .txt, got 'c.png'" in capsys.readouterr().err
    run("net", "net.pt", "0.05", "fgsm", "--output", "a.json")
    data = json.loads((folder / "a.json").read_text())
    (folder / "b.json").write_text(json.dumps({**data, "data_hash": "other"}))
    capsys.readouterr()
    assert main(["compare", "a.json", "b.json"]) == 2
    assert "compare only on the same examples" in capsys.readouterr().err


def test_help_stays_light():
    """The command line knows the gate's exit without loading torch."""
    code = "import sys, artplus.cli; print('torch' in sys.modules)"
    run_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run_.stdout.strip() == "False"
