"""Names for what others may add: a decorator, a look-up, and entry points of packages."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from artplus.errors import ArtplusWarning, ConfigurationError, UnknownNameError

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Factories of one kind of thing, by name.

    A module of artplus fills it, and entry points of other packages extend it.

    Args:
        kind: What the factories make, as a word for messages (``"loss"``).
        home: Module whose import registers the built-in names; also the entry-point group.

    Example:
        >>> shapes = Registry("shape", "artplus.errors")
        >>> @shapes.register("square")
        ... def square(side: float = 1.0) -> str:
        ...     return f"a square of side {side}"
        >>> shapes.names(), shapes.make("square", side=2.0)
        (['square'], 'a square of side 2.0')
    """

    def __init__(self, kind: str, home: str) -> None:
        self._kind = kind
        self._home = home
        self._factories: dict[str, Callable[..., T]] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[F], F]:
        """Register the decorated factory under ``name``, which then works wherever names do.

        Raises:
            ConfigurationError: if the name is taken by another factory or is not an identifier.
        """
        if not name.isidentifier():
            raise ConfigurationError(
                f"a {self._kind} name must be a Python identifier such as 'my_{self._kind}', "
                f"got {name!r}"
            )

        def decorate(factory: F) -> F:
            known = self._factories.get(name)
            if known is not None and _origin(known) != _origin(factory):
                raise ConfigurationError(
                    f"{self._kind} {name!r} is already registered by {'.'.join(_origin(known))}; "
                    "choose another name"
                )
            self._factories[name] = factory
            return factory

        return decorate

    def get(self, name: str) -> Callable[..., T]:
        """The factory called ``name``.

        Raises:
            UnknownNameError: with the nearest and all known names.
        """
        self._load()
        if name not in self._factories:
            hint = did_you_mean(name, self._factories)
            raise UnknownNameError(
                f"unknown {self._kind} {name!r}.{hint} Known: {', '.join(self.names())}. "
                f"Register your own with @register_{self._kind}({name!r})."
            )
        return self._factories[name]

    def make(self, name: str, *args: Any, **options: Any) -> T:
        """What the factory called ``name`` makes of these arguments.

        Raises:
            UnknownNameError: if the name is not registered.
            ConfigurationError: if an argument is unknown, missing or of the wrong type, with the
                arguments that the factory knows.
        """
        factory = self.get(name)
        try:
            return factory(*args, **options)
        except TypeError as error:
            known = ", ".join(inspect.signature(factory).parameters) or "none"
            raise ConfigurationError(
                f"{self._kind} {name!r}: {error}; known arguments: {known}"
            ) from error

    def names(self) -> list[str]:
        """Every registered name, sorted; names from other packages included."""
        self._load()
        return sorted(self._factories)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # first, since the imports below come back here
        try:
            importlib.import_module(self._home)
        except BaseException:
            self._loaded = False  # so that the next call fails with the same reason
            raise
        for point in entry_points(group=self._home):
            try:
                self.register(point.name)(point.load())
            except Exception as error:  # a broken package of others must not take ours down
                warnings.warn(
                    f"{self._kind} {point.name!r} ({point.value}) was left out: {error}",
                    ArtplusWarning,
                    stacklevel=3,
                )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The nearest known name as a question to append to a message; empty if none is near."""
    near = get_close_matches(name, known, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _origin(factory: Callable[..., Any]) -> tuple[str, str]:
    """Where a factory was defined: a module that is imported twice registers it twice."""
    return factory.__module__, getattr(factory, "__qualname__", repr(factory))
