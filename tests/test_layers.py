"""Imports run one way: every module imports only from the layers above its own.

The order stands here and nowhere else. The walk reads the source, so imports inside functions and
under ``TYPE_CHECKING`` count too, and so do ``import_module("...")`` calls with a literal name.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import artplus

ROOT = Path(artplus.__file__).parent

# Each may import what stands before it. "" is the package itself, which re-exports everything for
# users; the command line is one of them.
ORDER = [
    *(
        "errors",
        "atomic",
        "folder_lock",
        "allocator",
        "convolution",
        "keras_modules",
        "registry",
        "saving",
        "mapped",
        "distributed",
        "checkpoint_io",
        "fingerprint",
        "_checks",
        "seeding",
    ),
    *("tree", "geometry", "functional", "modes", "interval_bounds", "criterion"),
    *("tasks", "encoders", "spaces", "bounds", "model", "passes"),
    *("attacks", "losses", "evaluation", "training", "trainers"),
    *("huggingface", "bridge", "reporting", "", "commands", "cli"),
]
# Neighbours that must not know each other although one stands before the other.
STRANGERS = {("losses", "attacks"), ("evaluation", "losses")}
# Packages that one layer alone may, or one layer must not, import.
ONLY_IN = {"art": "bridge"}
NEVER_IN = {"reporting": "torch"}


def layer(module: str) -> str:
    """The layer of a dotted name inside the package: ``artplus.losses.at`` is in ``losses``."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path, root: Path) -> Iterator[str]:
    """Every absolute module name that a file imports, relative imports resolved."""
    parts = list(path.relative_to(root.parent).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(parts[: -node.level]) if node.level else ""
            origin = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names:
                # From the package itself: a sub-module, or one of its re-exported names.
                inside = [root / alias.name, root / f"{alias.name}.py"]
                submodule = origin == root.name and any(p.exists() for p in inside)
                yield f"{origin}.{alias.name}" if submodule else origin
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def violations(root: Path) -> list[str]:
    """One line for every import that runs upward, sideways or out of its folder."""
    found = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        own = name.split("/")[0].removesuffix(".py")
        own = "" if name == "__init__.py" else own
        if own not in ORDER:
            found.append(f"{name}: {own} has no place in ORDER")
            continue
        if path.stem in ("utils", "util", "helpers", "misc") or path.parent.name == "utils":
            found.append(f"{name}: a bag without an idea; name what it is about")
        for module in imported(path, root):
            package = module.split(".")[0]
            if ONLY_IN.get(package, own) != own:
                found.append(f"{name}: imports {module}, which only {ONLY_IN[package]}/ may")
            if NEVER_IN.get(own) == package:
                found.append(f"{name}: imports {module}, which {own}/ must not")
            if package != root.name:
                continue
            other = layer(module)
            if other == own or own == "":
                continue
            if other not in ORDER or ORDER.index(other) > ORDER.index(own):
                found.append(f"{name}: imports upward from {module}")
            elif (own, other) in STRANGERS:
                found.append(f"{name}: imports {module}, and {own} must not know {other}")
    return found


def test_imports_run_one_way():
    """No module of the package imports from a layer below it, or art outside the bridge."""
    assert violations(ROOT) == []


def test_every_layer_exists():
    """The order names no layer that is gone."""
    gone = [n for n in ORDER if not ((ROOT / n).is_dir() or (ROOT / f"{n}.py").is_file())]
    assert gone == []


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("errors.py", "import artplus.model", "imports upward from artplus.model"),
        ("losses/new.py", "from artplus.training import fit", "imports upward"),
        ("losses/new.py", "def f():\n    from artplus import evaluation", "imports upward"),
        ("losses/new.py", "if TYPE_CHECKING:\n    from artplus.bridge import x", "upward"),
        ("losses/new.py", "from ..training.loop import run", "upward from artplus.training.loop"),
        ("losses/new.py", "import_module('artplus.training')", "upward from artplus.training"),
        ("losses/new.py", "from artplus import evaluate", "imports upward from artplus"),
        ("losses/new.py", "import artplus", "imports upward from artplus"),
        ("losses/new.py", "from artplus.attacks import PGD", "losses must not know attacks"),
        ("attacks/new.py", "from artplus.losses import at", "imports upward from artplus.losses"),
        ("evaluation/new.py", "from artplus.losses import at", "must not know losses"),
        ("evaluation/new.py", "from artplus.reporting import x", "upward from artplus.reporting"),
        ("evaluation/report.py", "def save():\n    import artplus.reporting", "imports upward"),
        ("losses/new.py", "from art.attacks import EvasionAttack", "only bridge/ may"),
        ("losses/new.py", "if TYPE_CHECKING:\n    import art.utils", "only bridge/ may"),
        ("cli.py", "def f():\n    import art", "imports art, which only bridge/ may"),
        ("cli.py", "importlib.import_module('art')", "imports art, which only bridge/ may"),
        ("reporting/new.py", "import torch.nn", "which reporting/ must not"),
        ("losses/utils.py", "", "a bag without an idea"),
        ("utils.py", "", "utils has no place in ORDER"),
        ("novel/x.py", "", "novel has no place in ORDER"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, name, source, message):
    """The walk can fail: each kind of wrong import, planted alone, gives its one line."""
    root = tmp_path / "artplus"
    for folder in ("evaluation", "training", "losses", "attacks", "bridge"):
        (root / folder).mkdir(parents=True)
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    (found,) = violations(root)
    assert found.startswith(f"{name}: ") and message in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("losses/new.py", "from artplus.model import LossModel\nfrom artplus.losses.at import at"),
        ("losses/new.py", "from artplus import _checks\nfrom . import at\nimport torch, artful"),
        ("bridge/new.py", "import art\nfrom art.attacks import EvasionAttack"),
        ("__init__.py", "from artplus.bridge import x"),
    ],
)
def test_what_is_allowed_passes(tmp_path, name, source):
    """Imports from above, from one's own folder, art in the bridge, all in the package itself."""
    root = tmp_path / "artplus"
    (root / name).parent.mkdir(parents=True)
    (root / "_checks.py").touch()
    (root / name).write_text(source)
    assert violations(root) == []
