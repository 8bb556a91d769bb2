"""Names: registered by a decorator, by the home package's import, or by another's entry point."""

from __future__ import annotations

import functools
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from artplus import registry as module
from artplus.errors import ArtplusWarning, ConfigurationError, UnknownNameError
from artplus.registry import Registry

HOME = "fake_home_of_losses"


def one():
    """A factory."""


def two():
    """Another factory."""


@pytest.fixture
def plugin(monkeypatch):
    """``plugin(name=object, ...)``: entry points of an installed package, in one module."""

    def install(points: dict[str, object], **values: object) -> None:
        mod = types.ModuleType("fake_plugin")
        for name, value in values.items():
            setattr(mod, name, value)
        monkeypatch.setitem(sys.modules, "fake_plugin", mod)
        found = [EntryPoint(n, f"fake_plugin:{attr}", HOME) for n, attr in points.items()]
        monkeypatch.setattr(
            module, "entry_points", lambda *, group: [p for p in found if p.group == group]
        )

    return install


@pytest.fixture
def losses(monkeypatch, plugin):
    """An empty registry whose home package registers nothing."""
    monkeypatch.setitem(sys.modules, HOME, types.ModuleType(HOME))
    plugin({})
    return Registry("loss", HOME)


def test_a_decorated_factory_is_found(losses):
    """The decorator returns what it was given, and the name leads back to it."""
    assert losses.register("one")(one) is one
    assert losses.get("one") is one
    assert losses.names() == list(losses) == ["one"]


def test_names_are_sorted(losses):
    """Whatever the order of registration."""
    losses.register("b")(one)
    losses.register("a")(two)
    assert losses.names() == ["a", "b"]


@pytest.mark.parametrize("name", ["my loss", "my-loss", "1st", ""])
def test_a_name_is_an_identifier(losses, name):
    """So that it can stand in a command line and as a keyword."""
    with pytest.raises(ConfigurationError, match="a loss name must be a Python identifier"):
        losses.register(name)


def test_a_taken_name_is_refused(losses):
    """By another factory; the same one again, as a reload gives it, replaces itself."""
    losses.register("one")(one)
    with pytest.raises(ConfigurationError, match=r"'one' is already registered by .*\.one; choose"):
        losses.register("one")(two)
    again = types.FunctionType(one.__code__, globals(), "one")
    again.__qualname__ = one.__qualname__
    losses.register("one")(again)
    assert losses.get("one") is again


def test_factories_without_a_name_of_their_own(losses):
    """A partial has no qualified name and is told apart by its contents."""
    losses.register("one")(functools.partial(one))
    with pytest.raises(ConfigurationError, match="'one' is already registered"):
        losses.register("one")(functools.partial(two))


def test_an_unknown_name_is_answered_with_the_known(losses):
    """The nearest first, then all, then how to add one."""
    losses.register("trades")(one)
    losses.register("mart")(two)
    message = (
        r"unknown loss 'trade'\. Did you mean 'trades'\? Known: mart, trades\. "
        r"Register your own with @register_loss\('trade'\)"
    )
    with pytest.raises(UnknownNameError, match=message):
        losses.get("trade")
    with pytest.raises(UnknownNameError, match=r"unknown loss 'zzz'\. Known: mart, trades\."):
        losses.get("zzz")


def test_the_home_package_is_imported_once_and_when_needed(monkeypatch, plugin, tmp_path):
    """Its import registers the built-in names, at the first question and not before."""
    (tmp_path / "late_home.py").write_text(
        "import builtins\nbuiltins._late.append(1)\n"
        "builtins._registry.register('late')(lambda: None)\n"
    )
    plugin({})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins._late", [], raising=False)
    late = Registry("loss", "late_home")
    monkeypatch.setattr("builtins._registry", late, raising=False)
    assert "late_home" not in sys.modules
    assert late.names() == ["late"] and late.names() == ["late"]
    assert sys.modules.pop("late_home") and __import__("builtins")._late == [1]


def test_a_home_that_cannot_be_imported_says_so_each_time(plugin):
    """The second look-up gives the same reason, not an empty list."""
    plugin({})
    broken = Registry("loss", "no_such_home")
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_home"):
            broken.names()


def test_entry_points_of_other_packages_are_loaded(losses, plugin):
    """A plug-in's factory is listed and found without an import of it by the user."""
    plugin({"theirs": "factory"}, factory=two)
    assert losses.names() == ["theirs"] and losses.get("theirs") is two


def test_an_entry_point_that_registered_itself_is_no_conflict(losses, plugin):
    """A plug-in may use the decorator and the entry point both."""
    losses.register("theirs")(two)
    plugin({"theirs": "factory"}, factory=two)
    assert losses.get("theirs") is two


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"broken": "absent"}, r"loss 'broken' \(fake_plugin:absent\) was left out: .*absent"),
        ({"taken": "factory"}, r"loss 'taken' .* was left out: loss 'taken' is already registered"),
        ({"no-name": "factory"}, "loss 'no-name' .* was left out: a loss name must be a Python"),
    ],
)
def test_a_broken_plugin_is_left_out_with_a_warning(losses, plugin, points, message):
    """One bad package takes neither ours nor the good ones down, and is not silent."""
    losses.register("taken")(one)
    plugin(points | {"good": "factory"}, factory=two)
    with pytest.warns(ArtplusWarning, match=message):
        assert losses.names() == ["good", "taken"]
    assert losses.get("taken") is one


def test_make_calls_the_factory(losses):
    """With the arguments given; what it refuses itself comes through."""

    @losses.register("pair")
    def pair(a, *, b=2):
        if a is None:
            raise ConfigurationError("a must not be None")
        return a, b

    assert losses.make("pair", 1) == (1, 2) and losses.make("pair", a=1, b=3) == (1, 3)
    with pytest.raises(ConfigurationError, match="^a must not be None"):
        losses.make("pair", None)


def test_make_names_the_known_arguments(losses):
    """An argument that is unknown, missing, or of a type that fails, is a ConfigurationError."""

    @losses.register("twice")
    def twice(*, lam):
        return 2 - lam

    losses.register("one")(one)
    for options, message in (
        ({"kappa": 1}, "loss 'twice': .*'kappa'; known arguments: lam"),
        ({}, "loss 'twice': .*missing.*'lam'; known arguments: lam"),
        ({"lam": "x"}, "loss 'twice': unsupported operand.*; known arguments: lam"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            losses.make("twice", **options)
    with pytest.raises(ConfigurationError, match="known arguments: none"):
        losses.make("one", lam=1)
    with pytest.raises(UnknownNameError, match="Did you mean 'twice'"):
        losses.make("twise")
