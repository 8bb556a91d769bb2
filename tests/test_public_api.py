"""The public names: that they are these, resolve, are documented, and cost nothing to import."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import artplus

PUBLIC = {
    "AdversarialTrainerPlus",
    "History",
    "LossModel",
    "Method",
    "Metric",
    "Objective",
    "Recipe",
    "Report",
    "Task",
    "Terms",
    "ThreatReport",
    "__version__",
    "evaluate",
    "fit",
    "list_losses",
    "list_tasks",
    "list_trainers",
    "make_loss",
    "make_method",
    "make_task",
    "make_trainer",
    "register_loss",
    "register_task",
    "register_trainer",
    "wrap",
}


def imported_by(statement: str) -> set[str]:
    """Names of the modules in memory after ``statement`` in a fresh interpreter."""
    program = f"{statement}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout.splitlines()[-1]))


def test_snapshot():
    """A public name is added or removed on purpose: here, and in the changelog."""
    assert set(artplus.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC - {"__version__"}))
def test_resolves_and_is_documented(name):
    """Every public name is there and explains itself."""
    value = getattr(artplus, name)
    assert value.__name__ == name
    assert value.__module__.startswith("artplus.")
    assert len(inspect.getdoc(value) or "") > 40


def test_dir_lists_the_public_names():
    """Completion in a shell sees what is imported lazily."""
    assert PUBLIC <= set(dir(artplus))


def test_unknown_name_raises():
    """A name that is not public is an attribute error, as in any module."""
    with pytest.raises(AttributeError, match="no attribute 'trianer'"):
        artplus.trianer  # noqa: B018


def test_type_checkers_see_the_same_names():
    """The names imported for type checkers are the names that resolve."""
    source = inspect.getsource(artplus)
    typed = {
        line.split(" as ")[-1].strip()
        for line in source.splitlines()
        if line.startswith("    from artplus") and " as " in line
    }
    assert typed == PUBLIC - {"__version__"}


def test_import_is_light():
    """``import artplus`` brings in neither torch nor ART."""
    modules = imported_by("import artplus")
    assert not {"torch", "art", "numpy", "sklearn", "matplotlib"} & modules


def test_losses_do_not_need_art():
    """Who uses plain torch never imports ART."""
    modules = imported_by("import artplus; artplus.fit; artplus.make_method")
    assert "torch" in modules
    assert "art" not in modules


def test_help_is_light():
    """``artplus --help`` answers without torch."""
    statement = "import artplus.cli\ntry: artplus.cli.main(['--help'])\nexcept SystemExit: pass"
    assert not {"torch", "art", "numpy"} & imported_by(statement)


PACKAGES = [
    "artplus", "artplus.attacks", "artplus.evaluation", "artplus.evaluation.analyses",
    "artplus.huggingface", "artplus.losses", "artplus.reporting", "artplus.spaces", "artplus.tasks",
    "artplus.training", "artplus.training.callbacks", "artplus.training.steps",
]  # fmt: skip
"""Whose public names are the user's."""
NO_PAGE = {"Climb", "Gap", "Inner", "Per", "Step", "Weight", "__version__"}
"""Types of arguments, which signatures spell out; and a string."""


def entries() -> list[Any]:
    """The objects whose docstrings the pages of the reference show."""
    pages = Path(__file__).parents[1].glob("docs/reference/*.md")
    pattern = r"^\.\. auto(?:class|data|exception|function):: (\S+)\.(\w+)$"
    names = [name for page in pages for name in re.findall(pattern, page.read_text(), re.M)]
    return [getattr(import_module(module), name) for module, name in names]


def test_reference_has_every_public_name():
    """What a package offers has an entry in the reference, under whichever of its names."""
    shown = entries()
    missing = [
        f"{package}.{name}"
        for package in PACKAGES
        for name in sorted(set(import_module(package).__all__) - NO_PAGE)
        if not inspect.ismodule(value := getattr(import_module(package), name))
        and value not in shown
    ]
    assert missing == []


def test_reference_has_one_entry_each():
    """No object has two entries: links would not know where to lead."""
    shown = entries()
    assert len(shown) > 100
    assert [entry for entry in shown if shown.count(entry) > 1] == []
