"""What an import costs: heavy packages come in when they are first needed, not before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import artplus

HEAVY = ("art", "jinja2", "matplotlib", "sklearn")


def loaded_by(statement: str) -> set[str]:
    """Top-level packages in ``sys.modules`` of a fresh interpreter after ``statement``."""
    code = f"import sys\n{statement}\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(artplus.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_artplus_is_light():
    """Neither the heavy packages nor torch: the names come in when first used."""
    loaded = loaded_by("import artplus")
    assert "artplus" in loaded
    assert not loaded & {*HEAVY, "torch", "numpy"}


@pytest.mark.parametrize("module", ["losses", "attacks", "evaluation", "training", "trainers"])
def test_the_torch_side_needs_no_art(module):
    """Hardening a plain torch model loads neither ART nor a plotting or report library."""
    loaded = loaded_by(f"import artplus.{module}")
    assert "torch" in loaded and not loaded & set(HEAVY)


def test_the_probe_sees_what_is_loaded():
    """The check can fail: a package that is imported is seen."""
    assert "jinja2" in loaded_by("import artplus, jinja2")
