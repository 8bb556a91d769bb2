"""What an attack costs, whatever the machine: examples sent forward through a model, and backward.

A pass is counted where it enters the model, by whichever of three doors: the :class:`LossModel`
that an attack is given, the module in it, or what an adapter says it goes through (:func:`asking`,
:func:`watching`). A door inside another one counts nothing, so a pass counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from artplus.model import LossModel
from artplus.tree import Node, Tree, leaves, map_tensors

_WRAPPERS: list[Callable[[Tensor], bool]] = [
    getattr(torch._C._functorch, name)
    for name in ("is_functorch_wrapped_tensor", "is_legacy_batchedtensor")
    if hasattr(torch._C._functorch, name)
]
"""What tells tensors inside ``vmap`` and the like, which hide how many there are."""


@dataclass(eq=False)
class Passes:
    """A count that goes on while :func:`counted` is open.

    Only shapes are looked at, so no device is waited for.

    Attributes:
        forwards: Examples that went forward through the model.
        backwards: Examples whose gradient came back to the model's input: one that went forward
            once may come back several times, once for each output that is differentiated.
        known: False once something went past that cannot be counted.
    """

    forwards: int = 0
    backwards: int = 0
    known: bool = True
    _inside: object | None = field(default=None, repr=False)

    def through(self, model: LossModel, x: Tree) -> Any:
        """The model's outputs for ``x``, counted."""
        if self._inside is not None:
            return model.outputs(x)
        self._inside = self
        try:
            return model.outputs(self._entering(x))
        finally:
            self._inside = None

    def asked(
        self, ask: Callable[..., Any], back: Callable[..., int] | None, *args: Any, **options: Any
    ) -> Any:
        """``ask(x, ...)`` outside torch, counted: one pass, and ``back(...)`` gradients of each."""
        if self._inside is not None:
            return ask(*args, **options)
        n = len(args[0] if args else options["x"])
        self.forwards += n
        self.backwards += 0 if back is None else n * back(*args, **options)
        self._inside = self
        try:
            return ask(*args, **options)
        finally:
            self._inside = None

    @contextmanager
    def watched(self, modules: Iterable[nn.Module]) -> Iterator[bool]:
        """Count what enters the modules themselves; says whether that is possible for all."""
        seen = True
        with ExitStack() as stack:
            for module in modules:
                if not _hears(module):
                    seen = False
                    continue
                enter = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                leave = module.register_forward_hook(self._leave, always_call=True)
                stack.callback(enter.remove)
                stack.callback(leave.remove)
            yield seen

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._inside is not None:
            return None
        self._inside = module
        # How many examples are in a list only those know who made it.
        listed = any(isinstance(value, list) for value in (*args, *named.values()))
        if listed or not any(True for _ in leaves((args, named))):
            self.known = False
            return None
        entered: tuple[tuple[Any, ...], dict[str, Any]] = self._entering((args, named))
        return entered

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._inside is module:
            self._inside = None

    def _entering(self, x: Tree) -> Tree:
        """``x`` on its way in. As a view of its own, whose gradient is this one pass's."""
        tensors = [leaf for leaf in leaves(x) if isinstance(leaf, Tensor)]
        if any(tensor.ndim == 0 or _hidden(tensor) for tensor in tensors):
            self.known = False
            return x
        n = len(tensors[0]) if isinstance(x, Tensor) else _examples(x)
        self.forwards += n
        if not torch.is_grad_enabled():
            return x
        return self._views(n, x)

    def _views(self, n: int, x: Tree) -> Tree:
        """Every tensor as a view whose gradient is counted: ``n`` examples, in a list one each."""
        if isinstance(x, Mapping):
            return {name: self._views(n, value) for name, value in x.items()}
        if isinstance(x, tuple):
            return tuple(self._views(n, value) for value in x)
        return map_tensors(partial(self._watched, 1 if isinstance(x, list) else n), x)

    def _watched(self, n: int, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        tensor = tensor.view_as(tensor)
        tensor.register_hook(partial(self._back, n))
        return tensor

    def _back(self, n: int, slope: Tensor) -> None:
        self.backwards += n
        if _hidden(slope):  # several gradients in one go
            self.known = False


_open: ContextVar[Passes | None] = ContextVar("passes", default=None)


@contextmanager
def counted(model: LossModel) -> Iterator[tuple[LossModel, Passes]]:
    """Inside, passes through ``model`` are counted.

    The module is given back without a trace. A module that torch has compiled in place or scripted
    shows only what goes through the :class:`LossModel`: if that is nothing, nothing is known.

    Yields:
        The model to be used, and the count.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> x, y = torch.rand(8, 4), torch.zeros(8, dtype=torch.long)
        >>> with counted(LossModel(torch.nn.Linear(4, 3))) as (model, passes):
        ...     x_adv = PGD(eps=0.1, steps=5)(model, x, y)
        >>> passes.forwards, passes.backwards
        (40, 40)
    """
    passes = Passes()
    before = _open.set(passes)
    try:
        with passes.watched([model.module]) as seen:
            yield replace(model, forward=partial(passes.through, model)), passes
    finally:
        _open.reset(before)
        if not seen and not passes.forwards:
            passes.known = False


@contextmanager
def watching(modules: Iterable[nn.Module]) -> Iterator[None]:
    """For an adapter: inside, what enters these modules counts too, if anybody counts.

    Nothing at all means that the passes went another way, and that the count is not known.
    """
    passes = _open.get()
    if passes is None:
        yield
        return
    before = passes.forwards
    with passes.watched(modules):
        yield
    passes.known &= passes.forwards > before


@contextmanager
def asking(model: Any, methods: Mapping[str, Callable[..., int] | None]) -> Iterator[None]:
    """For an adapter of something that is no torch module: calls of its methods count.

    Nothing at all means that the passes went another way, and that the count is not known.

    Args:
        model: Has the methods; its attributes come back as they were.
        methods: Names, each with how many gradients of each example a call gives; ``None`` is a
            forward pass alone. The first argument holds the examples.
    """
    passes = _open.get()
    if passes is None:
        yield
        return
    before, own, saved = passes.forwards, vars(model), dict(vars(model))
    for name, back in methods.items():
        if hasattr(model, name):
            own[name] = partial(passes.asked, getattr(model, name), back)
    try:
        yield
    finally:
        for name in methods:
            own.pop(name, None)
            if name in saved:
                own[name] = saved[name]
    passes.known &= passes.forwards > before


def _examples(value: Tree) -> int:
    """Number of examples of inputs in any form, such as a module's arguments."""
    if isinstance(value, (list, Tensor)):
        return len(value)
    members = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    )
    if isinstance(value, Node):
        members = value.members().values()
    return next((n for member in members if (n := _examples(member))), 0)


def _hidden(tensor: Tensor) -> bool:
    """Whether a tensor stands for more than its shape says."""
    for wrapped in _WRAPPERS:  # a generator would take longer than the checks
        if wrapped(tensor):
            return True
    return False


def _hears(module: nn.Module) -> bool:
    """Whether hooks are run: a module compiled in place has left them behind."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return not compiled and not isinstance(module, torch.jit.ScriptModule)
