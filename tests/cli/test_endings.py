"""How commands end: exit codes, closed pipes, and results that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from artplus import cli
from artplus.cli import main
from artplus.commands import files
from artplus.commands.listing import listing, plain_text
from artplus.errors import ArtplusWarning, ConfigurationError
from tests.cli.test_cli import EVALUATE, HARDEN, changed
from tests.cli.test_cli import folder as folder

LIST = [sys.executable, "-m", "artplus.cli", "list"]


def unread(*streams: str) -> subprocess.CompletedProcess[str]:
    """``artplus list`` after the reader of these streams has gone."""
    read, write = os.pipe()
    os.close(read)
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | dict.fromkeys(streams, write)
    try:
        return subprocess.run(LIST, text=True, **options)
    finally:
        os.close(write)


# Closed pipes


def test_a_closed_pipe_is_no_error():
    """``artplus list | head``: no traceback, and the code of the command."""
    run = unread("stdout")
    assert run.stderr == "" and run.returncode == 0


def test_the_first_line_is_enough():
    """In a shell, as users type it; ``pipefail`` shows the command's own code."""
    command = f"set -o pipefail; {' '.join(LIST)} | head -1"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert run.stdout == "losses\n" and run.stderr == "" and run.returncode == 0


def test_help_into_a_closed_pipe():
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "artplus.cli", "--help"]
    run = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert run.stderr == "" and run.returncode == 0


def test_an_error_that_nobody_hears_ends_all_the_same(monkeypatch):
    """With stderr closed there is no place for a message; the code is that of a closed pipe."""

    class Closed:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

        def fileno(self) -> int:
            raise ValueError("none")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert main(["compare", "absent.json", "absent.json"]) == cli.PIPE_CLOSED


def test_a_gate_is_a_gate_whoever_reads(folder, monkeypatch):
    """The exit code of --fail-under does not depend on the reader."""
    main(HARDEN)

    def gone(*_, **__):
        raise BrokenPipeError

    silenced = []
    monkeypatch.setattr(cli, "_silence", silenced.append)
    monkeypatch.setattr("builtins.print", lambda *a, file=None, **k: file or gone())
    assert main([*EVALUATE, "--fail-under", "1.0", "--eps", "0.5"]) == 1
    assert silenced == [sys.stdout]


# Exit codes


def test_each_ending_has_its_code(folder, monkeypatch, capsys):
    """1 is the gate's alone; a defect shows its traceback and asks to be reported."""
    assert main(HARDEN) == 0
    assert main([*EVALUATE, "--eps", "0.5", "--fail-under", "1.0"]) == cli.GATE_CLOSED == 1
    assert main(changed(EVALUATE, data="absent.npz")) == cli.WRONG == 2
    capsys.readouterr()

    def fails(**_):
        raise RuntimeError("on purpose")

    monkeypatch.setattr("artplus.commands.harden.harden", fails)
    assert main(HARDEN) == cli.UNEXPECTED == 3
    err = capsys.readouterr().err
    assert "RuntimeError: on purpose" in err and "Traceback" in err and "please report it" in err


def test_help_lists_the_codes(capsys):
    """Each code that ``main`` returns is explained."""
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    section = out[out.index("exit codes:") :].splitlines()[1:]
    codes = {int(line.split()[0]) for line in section if line.strip()}
    assert codes == {
        0, cli.GATE_CLOSED, cli.WRONG, cli.UNEXPECTED, cli.INTERRUPTED, cli.PIPE_CLOSED
    }  # fmt: skip


def test_no_command_shows_the_whole_help(capsys):
    """All commands and codes, not the usage line alone."""
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert all(word in err for word in ("list", "demo", "harden", "evaluate", "compare", "codes"))


# Destinations are checked before any work


@pytest.fixture
def idle(folder, monkeypatch):
    """The working directory; a command that begins its work fails the test."""
    main(HARDEN)

    def working(*_, **__):
        pytest.fail("work began before the destination was checked")

    monkeypatch.setattr("artplus.evaluate", working)
    monkeypatch.setattr("artplus.AdversarialTrainerPlus.fit", working)
    monkeypatch.setattr("artplus.commands.compare.read_either", working)
    return folder


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "output",
            "report.docx",
            "--output writes one of .html, .json, .md, .png, .txt, got 'report.docx'",
        ),
        ("output", "report", "got 'report'"),
        ("junit", "a.json", "--junit writes a .xml file, got 'a.json'"),
        ("card", "a.txt", "--card writes a .md file, got 'a.txt'"),
        ("output", "/proc/nowhere/r.json", "cannot be written to"),
        ("output", "test.npz/r.json", "is a file, not a folder"),
    ],
)
def test_a_destination_that_cannot_work_is_found_first(idle, capsys, option, value, message):
    """Suffix, folder and permission, before the evaluation."""
    assert main(changed(EVALUATE, **{option: value})) == 2
    assert message in capsys.readouterr().err


def test_the_same_for_the_other_commands(idle, capsys):
    """harden and compare look at their destinations first, too."""
    assert main(changed(HARDEN, output_dir="/proc/nowhere")) == 2
    assert "/proc/nowhere cannot be written to" in capsys.readouterr().err
    assert main(["compare", "a.json", "b.json", "--output", "c.png"]) == 2
    assert "--output writes one of .html, .md, .txt, got 'c.png'" in capsys.readouterr().err
    assert main(["compare", "a.json", "b.json", "--output", "/proc/nowhere/c.md"]) == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_a_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "r.json").mkdir()
    with pytest.raises(ConfigurationError, match="r.json is a folder, not a file to write"):
        files.outputs(tmp_path, ["r.json"], overwrite=True)


def test_checking_leaves_no_trace(tmp_path):
    """No file is made, and one that is there keeps its content."""
    (tmp_path / "a").write_text("before")
    files.outputs(tmp_path, ["a", "b"], overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


# Results that cannot be written at the end


def full(path: Path, *_, **__) -> None:
    """A disk that has become full in the place that the user named."""
    if "artplus-" not in str(path):
        raise OSError(28, "No space left on device", str(path))
    path.write_text("rescued")


def test_a_result_that_cannot_be_written_is_written_elsewhere(tmp_path):
    """The warning names both places, and the content is in the second."""
    with pytest.warns(ArtplusWarning, match=r"r\.json could not be written \(No space") as caught:
        assert not files.write(tmp_path / "r.json", full)
    other = Path(str(caught[0].message).split("written to ")[1].removesuffix(" instead"))
    assert other.name == "r.json" and other.read_text() == "rescued"


def test_a_result_that_can_be_written_nowhere(tmp_path, monkeypatch):
    """It says so and goes on: what the command prints is not lost as well."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    with pytest.warns(ArtplusWarning, match="nor could it be written to a temporary folder"):
        assert not files.write(tmp_path / "r.json", full)


def test_a_result_that_is_written_needs_no_words(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert files.write(tmp_path / "r.txt", lambda path: path.write_text("fine"))
    assert (tmp_path / "r.txt").read_text() == "fine"


def test_evaluate_prints_its_table_though_the_disk_is_full(folder, capsys, monkeypatch):
    """Code 2, the table, the other files, and where the lost one is."""
    main(HARDEN)
    capsys.readouterr()
    save = files.write
    monkeypatch.setattr(
        files, "write", lambda path, f: save(path, full if path.name == "r.json" else f)
    )
    assert main([*EVALUATE, "--output", "r.json", "--output", "r.md"]) == 2
    out, err = capsys.readouterr()
    assert "worst case" in out and (folder / "r.md").exists()
    assert "it was written to" in err and err.endswith("artplus: not written: r.json\n")


def test_a_closed_gate_comes_before_a_full_disk(folder, capsys, monkeypatch):
    """Code 1 says the more important thing; the other one is said in words."""
    main(HARDEN)
    save = files.write
    monkeypatch.setattr(files, "write", lambda path, f: save(path, full))
    assert main([*EVALUATE, "--output", "r.json", "--eps", "0.5", "--fail-under", "1.0"]) == 1
    assert "r.json could not be written" in capsys.readouterr().err


def test_harden_keeps_the_weights_though_the_folder_is_gone(folder, capsys, monkeypatch):
    """The folder was taken away while training ran; the warnings say where the results are."""
    import artplus

    fit = artplus.AdversarialTrainerPlus.fit

    def fit_and_remove(self, *args, **options):
        history = fit(self, *args, **options)
        (folder / "out").rmdir()
        return history

    monkeypatch.setattr("artplus.AdversarialTrainerPlus.fit", fit_and_remove)
    assert main(HARDEN) == 2
    err = capsys.readouterr().err
    places = [line.split("written to ")[1].removesuffix(" instead") for line in err.splitlines()
              if "written to " in line]  # fmt: skip
    assert [Path(p).name for p in places] == ["weights.pt", "history.json", "history.png",
                                              "config.json"]  # fmt: skip
    assert torch.load(places[0], weights_only=True)["weight"].shape == (3, 6)
    assert json.loads(Path(places[3]).read_text())["eps"] == 0.05


# Plain text


def test_the_listing_is_plain_text():
    """No role, no literal, no LaTeX and no citation is left of the docstrings' markup."""
    text = listing()
    for mark in (":math:", ":class:", ":func:", "`", "\\", "]_"):
        assert mark not in text, mark


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (r"Leaves :math:`\tau` steps after.", "Leaves τ steps after."),
        (r"Of :math:`\epsilon^*`, the length.", "Of ε*, the length."),
        (r":math:`g(x) = \arg\max_c P(f(x + \sigma z) = c)`.", "g(x) = argmax_c P(f(x + σz) = c)."),
        (r"In :math:`L_\infty` and :math:`\mathrm{KL}(p)`.", "In L_∞ and KL(p)."),
        ("A :class:`~artplus.attacks.PGD` and :func:`fit`.", "A PGD and fit."),
        ('As ``"standard"``, after [Madry18]_, [Rice20]_.', 'As "standard", after.'),
        ("Nothing to do: 2 * 3 < 7.", "Nothing to do: 2 * 3 < 7."),
    ],
)
def test_markup_becomes_plain_text(markup, text):
    assert plain_text(markup) == text
