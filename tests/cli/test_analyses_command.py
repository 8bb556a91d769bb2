"""``artplus evaluate --analyses``: names on the command line, sections in the files it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from artplus.cli import main
from artplus.evaluation import Report, list_analyses

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A model, its weights and data in the working directory, and the command to judge it."""
    monkeypatch.chdir(tmp_path)
    Path("nets_for_analyses.py").write_text(NET)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.save(net.state_dict(), "weights.pt")
    x = np.random.rand(20, 6).astype(np.float32)
    np.savez("test.npz", x=x, y=net(torch.as_tensor(x)).argmax(1).numpy())
    yield ["evaluate", "--model", "nets_for_analyses:net", "--weights", "weights.pt",
           "--data", "test.npz", "--eps", "0.05", "--attacks", "fgsm"]  # fmt: skip


def test_sections_are_written(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Names with commas between, in their order."""
    options = ["--analyses", "per_class,epsilon_curve", "--output", "report.json"]
    assert main([*command, *options]) == 0
    report = Report.from_json(Path("report.json").read_text())
    assert [section.name for section in report.sections] == ["per_class", "epsilon_curve"]


def test_none_by_default(command: list[str]) -> None:
    """Without the option a report has no sections."""
    assert main([*command, "--output", "report.json"]) == 0
    assert Report.from_json(Path("report.json").read_text()).sections == ()


def test_unknown_names_list_the_known(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 2 and one message, before any attack runs."""
    assert main([*command, "--analyses", "per_clas"]) == 2
    err = capsys.readouterr().err
    assert "unknown analysis 'per_clas'. Did you mean 'per_class'?" in err


def test_list_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    """Each with the first line of its documentation."""
    assert main(["list", "analyses"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in list_analyses())
    assert "Robust accuracy at ascending radii" in out


def test_transfer_takes_the_weights_of_before(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With --before there is a second model; without it the message says so."""
    torch.manual_seed(7)
    other = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    torch.save(other.state_dict(), "plain.pt")
    assert main([*command, "--analyses", "transfer"]) == 2
    assert "--analyses transfer needs another model: --before FILE" in capsys.readouterr().err
    options = ["--analyses", "transfer", "--before", "plain.pt", "--output", "report.json"]
    assert main([*command, *options]) == 0
    section = Report.from_json(Path("report.json").read_text()).sections[0]
    matrix = section.blocks[0]
    assert "before" in matrix.columns and "model" in matrix.columns
    values = dict(zip(matrix.columns, matrix.values[0], strict=True))
    assert values["before"] < values["model"] == 1.0, "unlike weights, no attack"
    assert main([*command, "--analyses", "tokens"]) == 2
    assert "needs embeddings (n, length, features) as x, got (20, 6)" in capsys.readouterr().err
