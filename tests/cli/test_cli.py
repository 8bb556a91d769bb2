"""The command line from end to end: what it writes, what it prints, and how it fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from artplus.cli import main
from artplus.commands.harden import harden
from artplus.errors import ConfigurationError
from artplus.losses import list_losses, make_loss
from artplus.training import History

EPS = "0.05"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a factory ``nets_here:net`` and data that a linear model learns."""
    (tmp_path / "nets_here.py").write_text(
        "import torch\n"
        "def net(): return torch.nn.Linear(6, 3)\n"
        "def wide(): return torch.nn.Linear(6, 30)\n"
    )
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(0.2 * rng.random((90, 6)) + 0.7 * np.eye(6)[y], 0, 1).astype(np.float32)
    np.savez(tmp_path / "train.npz", x=x[:60], y=y[:60])
    np.savez(tmp_path / "test.npz", x=x[60:], y=y[60:])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("nets_here", None)


HARDEN = [
    "harden", "--model", "nets_here:net", "--data", "train.npz", "--eps", EPS,
    "--epochs", "2", "--lr", "0.05", "--output-dir", "out",
]  # fmt: skip
EVALUATE = [
    "evaluate", "--model", "nets_here:net", "--weights", "out/weights.pt", "--data", "test.npz",
    "--attacks", "fgsm,pgd", "--eps", EPS,
]  # fmt: skip


def changed(arguments, **options):
    """``arguments`` with some options set to other values, or added."""
    found = list(arguments)
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if flag in found:
            found[found.index(flag) + 1] = value
        else:
            found += [flag, value]
    return found


def test_harden_then_evaluate(folder, capsys):
    """Weights that harden writes are taken back by evaluate, and its table is printed."""
    assert main(changed(HARDEN, validation="test.npz", epochs="20")) == 0
    out = folder / "out"
    assert {p.name for p in out.iterdir()} == {
        "weights.pt", "history.json", "history.png", "config.json",
    }  # fmt: skip
    state = torch.load(out / "weights.pt", weights_only=True)
    assert state["weight"].shape == (3, 6)
    history = History.load(out / "history.json")
    assert len(history) == 20
    assert history["val_adversarial_accuracy"][-1] > 0.9
    config = json.loads((out / "config.json").read_text(), parse_constant=pytest.fail)
    assert config["eps"] == 0.05 and config["loss"] == "mix" and "torch" in config["versions"]
    assert "artplus evaluate --model nets_here:net --weights out/weights.pt" in (
        capsys.readouterr().out
    )

    assert main([*EVALUATE, "--output", "r.json", "--output", "r.html"]) == 0
    printed = capsys.readouterr().out
    assert "worst case" in printed and "fgsm" in printed and "pgd" in printed
    report = json.loads((folder / "r.json").read_text())
    assert report["n"] == 30
    assert report["summary"]["robust_accuracy"] > 0.9
    assert "<html" in (folder / "r.html").read_text()


def test_seed_repeats(folder):
    """Two runs with one seed write the same weights; another seed writes others."""
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(changed(HARDEN, output_dir=name, seed=seed)) == 0
    a, b, c = (
        torch.load(folder / name / "weights.pt", weights_only=True)["weight"] for name in "abc"
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_harden_goes_on_from_weights(folder):
    """With a vanishing learning rate the weights that come out are those that went in."""
    start = torch.nn.Linear(6, 3)
    torch.save(start.state_dict(), folder / "start.pt")
    assert main(changed(HARDEN, weights="start.pt", lr="1e-12", optimizer="sgd")) == 0
    state = torch.load(folder / "out" / "weights.pt", weights_only=True)
    torch.testing.assert_close(state["weight"], start.weight.detach())


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimizers_train(folder, optimizer):
    """Every optimizer on offer lowers the loss."""
    assert main(changed(HARDEN, optimizer=optimizer, epochs="5")) == 0
    losses = History.load(folder / "out" / "history.json")["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", list_losses())
def test_every_loss_by_name(folder, capsys, name):
    """Each registered loss hardens from the command line, also the one without an attack."""
    attack = {} if name in ("input_gradient", "rerouting") else {"steps": "2"}
    code = main(changed(HARDEN, loss=name, lam="0.5", epochs="1", **attack))
    if task := make_loss(name).task:  # which arrays of a file are not for
        assert code == 2 and f"serves task '{task}' alone" in capsys.readouterr().err
        return
    assert code == 0


def test_resume_goes_on_from_the_checkpoints(folder, capsys):
    """Broken off after one epoch and resumed, the weights are those of the run left alone."""
    assert main(changed(HARDEN, output_dir="alone")) == 0
    saving = changed(HARDEN, checkpoint_dir="saved")
    assert main([*saving, "--resume"]) == 2
    assert "there is no checkpoint at saved" in capsys.readouterr().err
    assert main(saving) == 0
    first, last = sorted((folder / "saved").iterdir())
    last.unlink()
    assert main([*changed(saving, output_dir="again"), "--resume"]) == 0
    a, b = (torch.load(folder / d / "weights.pt", weights_only=True) for d in ("alone", "again"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert len(History.load(folder / "again" / "history.json")) == 2
    assert main([*changed(HARDEN, output_dir="third"), "--resume"]) == 2
    assert "--resume needs --checkpoint-dir" in capsys.readouterr().err


def test_radius_as_a_fraction(folder):
    """8/255 is a number here."""
    assert main(changed(HARDEN, eps="8/255", epochs="1")) == 0
    assert json.loads((folder / "out" / "config.json").read_text())["eps"] == 8 / 255


@pytest.mark.parametrize("eps", ["a lot", "1/0", "1/2/3"])
def test_radius_that_is_no_number(folder, capsys, eps):
    """What is no number is said before anything runs."""
    with pytest.raises(SystemExit) as stop:
        main(changed(HARDEN, eps=eps))
    assert stop.value.code == 2
    assert "is no number such as 0.1 or 8/255" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "absent.npz"}, "no data file absent.npz"),
        ({"model": "nets_here:gone"}, "no function 'gone'"),
        ({"loss": "tradess"}, "Did you mean 'trades'?"),
        ({"lr": "-1"}, "optimizer 'adam'"),
        ({"epochs": "0"}, "epochs must be a whole number >= 1"),
        ({"batch_size": "0"}, "batch_size must be a whole number >= 1"),
        ({"lam": "-2"}, "lam must be"),
        ({"eps": "-0.1"}, "eps must be"),
        ({"steps": "0"}, "steps must be"),
        ({"weights": "train.npz"}, "not a file of weights"),
        ({"clip_max": "0.5"}, "must lie in clip_values"),
        ({"validation": "absent.npz"}, "no data file absent.npz"),
        ({"output_dir": "train.npz"}, "a file, not a folder"),
    ],
)
def test_harden_fails_in_one_message(folder, capsys, options, message):
    """A mistake ends with code 2 and one message, no traceback, and nothing is trained."""
    assert main(changed(HARDEN, **options)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (folder / "out" / "weights.pt").exists()


def test_steps_without_a_radius(folder, capsys):
    """An attack with steps and no radius is no attack."""
    arguments = changed(HARDEN, steps="3")
    del arguments[arguments.index("--eps") :][:2]
    arguments = [a for k, a in enumerate(arguments) if "--eps" not in (a, arguments[k - 1])]
    assert main(arguments) == 2
    assert "give eps too" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [np.nan, 7.0])
def test_bad_data_stops_before_training(folder, capsys, bad):
    """NaN and values outside the range are found before the first step."""
    with np.load("train.npz") as archive:
        x, y = archive["x"].copy(), archive["y"]
    x[3, 2] = bad
    np.savez("bad.npz", x=x, y=y)
    assert main(changed(HARDEN, data="bad.npz")) == 2
    err = capsys.readouterr().err
    assert "x must" in err and "epoch" not in err


def test_output_is_kept(folder, capsys):
    """What a run wrote is replaced only when asked."""
    assert main(HARDEN) == 0
    before = (folder / "out" / "weights.pt").read_bytes()
    assert main(changed(HARDEN, seed="9")) == 2
    assert "already holds weights.pt" in capsys.readouterr().err
    assert (folder / "out" / "weights.pt").read_bytes() == before
    assert main([*changed(HARDEN, seed="9"), "--overwrite"]) == 0
    assert (folder / "out" / "weights.pt").read_bytes() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "absent.pt"}, "no weights file absent.pt"),
        ({"weights": "test.npz"}, "not a file of weights"),
        ({"model": "nets_here:wide"}, "does not fit this model"),
        ({"attacks": "pdg"}, "unknown"),
        ({"output": "report.docx"}, "report.docx"),
    ],
)
def test_evaluate_fails_in_one_message(folder, capsys, options, message):
    """A mistake ends with code 2 and one message before any attack runs."""
    main(HARDEN)
    capsys.readouterr()
    assert main(changed(EVALUATE, **options)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_debug_shows_where(folder, capsys):
    """Whoever asks gets the traceback with the message."""
    assert main([*changed(HARDEN, data="absent.npz"), "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "no data file" in err


def test_interrupt(folder, capsys, monkeypatch):
    """Ctrl-C ends quietly with the shell's code for it."""
    monkeypatch.setattr("artplus.commands.harden.harden", lambda **_: (_ for _ in ()).throw(
        KeyboardInterrupt))  # fmt: skip
    assert main(HARDEN) == 130
    assert "interrupted" in capsys.readouterr().err


def test_our_warnings_are_one_line(folder, capsys, monkeypatch):
    """Warnings of ours lose the source line; those of other libraries are left out."""
    import warnings

    from artplus.errors import ArtplusWarning

    def warns(**_):
        warnings.warn("mind this", ArtplusWarning, stacklevel=1)
        warnings.warn("not yours", DeprecationWarning, stacklevel=1)
        return "done"

    monkeypatch.setattr("artplus.commands.harden.harden", warns)
    assert main(HARDEN) == 0
    captured = capsys.readouterr()
    assert captured.err == "artplus: warning: mind this\n"
    assert captured.out == "done\n"


def test_list_shows_every_name(capsys):
    """All four registries are listed, or the one asked for, each name with its summary."""
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    kinds = ("losses", "tasks", "trainers", "attacks", "suites")
    for word in (*kinds, "trades", "square", "standard"):
        assert word in everything
    assert "[" not in everything  # no citation marks
    assert main(["list", "losses"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "losses"
    assert [row.split()[0] for row in rows[1:]] == list_losses()
    assert all(len(row.split()) > 3 for row in rows[1:])


def test_list_takes_undocumented_names(capsys):
    """Somebody else's loss without a docstring is listed all the same."""
    from artplus import register_loss

    register_loss("nameless")(lambda *, lam=1.0: None)
    assert main(["list", "losses"]) == 0
    assert "  nameless\n" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["harden", "--help"], ["--version"]])
def test_help_and_version(capsys, arguments):
    """Asking costs nothing and ends well."""
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 0
    assert "artplus" in capsys.readouterr().out


def test_no_command_explains_itself(capsys):
    """Without a command the usage is shown."""
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "usage: artplus" in capsys.readouterr().err


def test_as_a_module():
    """``python -m artplus.cli`` is the same program."""
    run = subprocess.run(
        [sys.executable, "-m", "artplus.cli", "list", "suites"], capture_output=True, text=True
    )
    assert run.returncode == 0 and "quick" in run.stdout


def test_a_terminal_without_greek():
    """Where the terminal cannot show λ, the rest is shown."""
    run = subprocess.run(
        [sys.executable, "-m", "artplus.cli", "list", "losses"],
        capture_output=True, text=True, env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert run.returncode == 0 and "plus ? times" in run.stdout


def test_unknown_optimizer_from_python(folder):
    """Called as a function, harden names the optimizers it knows."""
    with pytest.raises(ConfigurationError, match="one of adam, adamw, sgd, got 'lion'"):
        harden(
            model="nets_here:net",
            data=folder / "train.npz",
            output_dir=folder / "out",
            optimizer="lion",
        )


def test_an_evaluation_goes_on_from_its_folder(folder, capsys):
    """Run again with --checkpoint it does nothing twice; another model's folder is refused."""
    assert main(HARDEN) == 0
    arguments = changed(EVALUATE, checkpoint="saved", output="a.json")
    assert main(arguments) == 0
    assert main(changed(arguments, output="b.json")) == 0
    a, b = (json.loads((folder / name).read_text()) for name in ("a.json", "b.json"))
    assert [r["seconds"] for r in a["attacks"]] == [r["seconds"] for r in b["attacks"]]
    capsys.readouterr()
    assert main(changed(EVALUATE, checkpoint="saved", eps="0.06")) == 2
    assert "attack fgsm.eps: 0.05 in the checkpoint, 0.06 now" in capsys.readouterr().err


def test_several_threats(folder, capsys):
    """--threat repeated: a table of all, the union in the files; --eps beside it is refused."""
    assert main(HARDEN) == 0
    capsys.readouterr()
    arguments = [a for k, a in enumerate(EVALUATE) if "--eps" not in (a, EVALUATE[k - 1])]
    assert main([*EVALUATE, "--output", "one.json"]) == 0
    both = [*arguments, "--threat", "8/255:inf", "--threat", "0.1:2", "--output", "both.json"]
    assert main(both) == 0
    out = capsys.readouterr().out
    assert "L∞ ≤ 8/255" in out and "L2 ≤ 0.1" in out and "all of them" in out
    data = json.loads((folder / "both.json").read_text())
    assert list(data["summary"]["threats"]) == ["L∞ ≤ 8/255", "L2 ≤ 0.1"]
    assert main(arguments) == 2 and main([*both, "--eps", "0.1", "--overwrite"]) == 2
    assert capsys.readouterr().err.count("either --eps or --threat") == 2
    for bad in ("0.1", "0.1:3", ":2", "x:inf"):
        with pytest.raises(SystemExit):
            main([*arguments, "--threat", bad])
    capsys.readouterr()
    assert main(["compare", "both.json", "both.json", "--output", "both.html"]) == 0
    out = capsys.readouterr().out
    assert "L2 ≤ 0.1: pgd" in out and "worst-case accuracy stayed at" in out.lower()
    assert "The worst case before is over all of L∞ ≤ 8/255, L2 ≤ 0.1." in out
    assert (folder / "both.html").exists()
    assert main(["compare", "one.json", "both.json"]) == 0
    out = capsys.readouterr().out
    assert "worst case after is over all of" in out and "before is over all" not in out
    assert "not within the same ball" in out
