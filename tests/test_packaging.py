"""What is released: its bounds, its version, its files."""

from __future__ import annotations

import re
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pyproject():
    """``pyproject.toml`` as a dictionary."""
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins(name):
    """The lines ``name==version`` of a constraints file."""
    return dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / name).read_text(), re.M))


def test_oldest_versions_are_those_of_the_bounds():
    """What ``make test-lowest`` installs is, to the last part, what pyproject.toml allows."""
    lowest = pins("constraints-lowest.txt")
    bounds = dict(
        re.match(r"([\w.-]+)>=([\w.]+)", d).groups() for d in pyproject()["project"]["dependencies"]
    )
    assert lowest.keys() == bounds.keys()
    for name, bound in bounds.items():
        assert lowest[name] == bound or lowest[name].startswith(f"{bound}."), name


def test_everything_is_pinned_for_continuous_integration():
    """Each dependency, with extras, has a line in constraints-dev.txt."""
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    wanted = project["dependencies"] + [
        d for e in ("accelerate", "dev", "docs", "test") for d in extras[e]
    ]
    names = {re.match(r"[\w-]+", dependency)[0].lower() for dependency in wanted} - {"artplus"}
    assert names <= {name.lower() for name in pins("constraints-dev.txt")}


def test_the_citation_has_the_version():
    """CITATION.cff names the version that is installed."""
    shown = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert shown[1] == version("artplus")


@pytest.mark.parametrize("name", ["py.typed", "reporting/templates"])
def test_ships_what_is_not_python(name):
    """The installed package has its marker of types and the templates of the report."""
    assert files("artplus").joinpath(name).exists()
