"""What the documentation shows, runs: the examples, the README's code, every page's code."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import artplus

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(page: Path) -> list[str]:
    """The ``python`` blocks of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_hardens(path, capsys):
    """Each example runs as it stands, prints a result, and its model learned something."""
    if path.stem.startswith("huggingface"):
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    if path.stem == "clip_encoder":
        pytest.importorskip("transformers")
    if path.stem == "language_model":
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
    module = runpy.run_path(str(path), run_name="__main__")
    assert module["__doc__"]
    assert len(capsys.readouterr().out) > 20
    if "report" in module:
        assert module["report"].robust_accuracy > 0.3  # chance is 0.1
    elif "history" in module:
        assert module["history"]["loss"][-1] < module["history"]["loss"][0]
    else:
        assert module["means"][-1] < module["means"][0]


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    # On processors the launcher's own way to several processes is MPI; this one goes by torchrun.
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                   "--main_process_port", "0"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without processes")
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_example_of_several_processes_runs_under_its_launchers(launcher):
    """Two processes, one training, one evaluation, and everything printed once."""
    if launcher == "accelerate":
        pytest.importorskip("accelerate")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *LAUNCHERS[launcher], str(ROOT / "examples/distributed.py")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("History(4 epochs") == 1
    assert done.stdout.count("worst case") == 1


def test_the_readme_shows_the_quickstart():
    """The README's code is examples/quickstart.py to the letter, without its docstring."""
    (shown,) = blocks(ROOT / "README.md")
    source = (ROOT / "examples" / "quickstart.py").read_text(encoding="utf-8")
    assert source.split('"""\n\n', 1)[1] == shown


@pytest.fixture
def quickstart():
    """The names that pages take from the quickstart, small."""
    x = np.random.rand(200, 1, 8, 8).astype(np.float32)
    y = np.random.randint(0, 10, 200)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters())
    classifier = artplus.wrap(
        model, x, y, optimizer=optimizer, clip_values=(0.0, 1.0), verbose=False
    )
    return {
        "model": model,
        "classifier": classifier,
        "x_train": x[:100],
        "y_train": y[:100],
        "x_test": x[100:],
        "y_test": y[100:],
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: page.stem)
def test_page_runs(page, quickstart, tmp_path, monkeypatch):
    """The blocks of a page run one after the other; what they write stays out of the way."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"} | ({} if page.stem == "quickstart" else quickstart)
    for number, block in enumerate(blocks(page), 1):
        code = compile(block, f"{page.name}, block {number}", "exec", dont_inherit=True)
        exec(code, names)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES],
                         ids=lambda page: page.stem)  # fmt: skip
def test_links_lead_somewhere(page):
    """Every relative link of a page is a file of the repository."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_loss_is_in_the_readme():
    """The README's table has a row for each built-in loss, with its default λ."""
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| ([\d.]+) \| \[", (ROOT / "README.md").read_text(
        encoding="utf-8"), re.M))  # fmt: skip
    ours = {
        name: f"{artplus.make_loss(name).lam:g}"
        for name in artplus.list_losses()
        if not name.startswith("doctest")
    }
    assert rows == ours


def test_commands_of_the_readme_exist():
    """The README's make targets are in the Makefile."""
    targets = set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
