"""The cost of an attack on any machine: examples sent forward and backward through a model.

A pass is counted at one of three places: the :class:`LossModel` that the attack gets, its module,
or a model that an adapter names (:func:`asking`, :func:`watching`). Calls inside a counted call are
not counted, so a pass counts once.
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
"""Functions that detect the tensors of ``vmap`` and the like, whose shapes lack batch axes."""


@dataclass(eq=False)
class Passes:
    """The counts of :func:`counted`.

    Counting reads shapes only, so it never synchronises with the device.

    Attributes:
        forwards: Examples that went forward through the model.
        backwards: Examples whose gradient reached the model's input. After one forward pass this
            may happen several times, once for each output that is differentiated.
        known: False if a pass could not be counted.
    """

    forwards: int = 0
    backwards: int = 0
    known: bool = True
    _active: object | None = field(default=None, repr=False)

    def through(self, model: LossModel, x: Tree) -> Any:
        """The model's outputs for ``x``, counted."""
        if self._active is not None:
            return model.outputs(x)
        self._active = self
        try:
            return model.outputs(self._count_inputs(x))
        finally:
            self._active = None

    def asked(
        self,
        method: Callable[..., Any],
        gradients_per_call: Callable[..., int] | None,
        /,
        *args: Any,
        **options: Any,
    ) -> Any:
        """``method(x, ...)`` outside torch, counted as a forward pass and its gradients."""
        if self._active is not None:
            return method(*args, **options)
        n = len(args[0] if args else options["x"])
        self.forwards += n
        self.backwards += (
            0 if gradients_per_call is None else n * gradients_per_call(*args, **options)
        )
        self._active = self
        try:
            return method(*args, **options)
        finally:
            self._active = None

    @contextmanager
    def watched(self, modules: Iterable[nn.Module]) -> Iterator[bool]:
        """Count the inputs of the modules; yields whether that is possible for all of them."""
        countable = True
        with ExitStack() as stack:
            for module in modules:
                if not _runs_hooks(module):
                    countable = False
                    continue
                enter_hook = module.register_forward_pre_hook(self._enter, with_kwargs=True)
                leave_hook = module.register_forward_hook(self._leave, always_call=True)
                stack.callback(enter_hook.remove)
                stack.callback(leave_hook.remove)
            yield countable

    def _enter(
        self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if self._active is not None:
            return None
        self._active = module
        # The number of examples in a list is unknown here.
        listed = any(isinstance(value, list) for value in (*args, *named.values()))
        if listed or not any(True for _ in leaves((args, named))):
            self.known = False
            return None
        entered: tuple[tuple[Any, ...], dict[str, Any]] = self._count_inputs((args, named))
        return entered

    def _leave(self, module: nn.Module, *_: Any) -> None:
        if self._active is module:
            self._active = None

    def _count_inputs(self, x: Tree) -> Tree:
        """Count the examples of ``x``; returns a view of it whose gradients are counted."""
        tensors = [leaf for leaf in leaves(x) if isinstance(leaf, Tensor)]
        if any(tensor.ndim == 0 or _is_wrapper(tensor) for tensor in tensors):
            self.known = False
            return x
        n = len(tensors[0]) if isinstance(x, Tensor) else _examples(x)
        self.forwards += n
        if not torch.is_grad_enabled():
            return x
        return self._counted_views(n, x)

    def _counted_views(self, n: int, x: Tree) -> Tree:
        """Views whose gradients count as ``n`` examples; tensors in a list count as one each."""
        if isinstance(x, Mapping):
            return {name: self._counted_views(n, value) for name, value in x.items()}
        if isinstance(x, tuple):
            return tuple(self._counted_views(n, value) for value in x)
        return map_tensors(partial(self._counted_view, 1 if isinstance(x, list) else n), x)

    def _counted_view(self, n: int, tensor: Tensor) -> Tensor:
        if not tensor.requires_grad:
            return tensor
        tensor = tensor.view_as(tensor)
        tensor.register_hook(partial(self._count_gradient, n))
        return tensor

    def _count_gradient(self, n: int, slope: Tensor) -> None:
        self.backwards += n
        if _is_wrapper(slope):  # several gradients in one call
            self.known = False


_open: ContextVar[Passes | None] = ContextVar("passes", default=None)


@contextmanager
def counted(model: LossModel) -> Iterator[tuple[LossModel, Passes]]:
    """Inside, passes through ``model`` are counted.

    The module is left as it was. Of a module that is scripted or compiled in place, only passes
    through the :class:`LossModel` are counted; if there are none, ``known`` is false.

    Yields:
        The model to use, and the counts.

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
        with passes.watched([model.module]) as countable:
            yield replace(model, forward=partial(passes.through, model)), passes
    finally:
        _open.reset(before)
        if not countable and not passes.forwards:
            passes.known = False


@contextmanager
def watching(modules: Iterable[nn.Module]) -> Iterator[None]:
    """For adapters: inside an open :func:`counted`, inputs of these modules are counted too.

    If there are none, the passes took another path, and ``known`` becomes false.
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
    """For adapters of models that are not torch modules: calls of their methods are counted.

    If there are none, the passes took another path, and ``known`` becomes false.

    Args:
        model: Has the methods; its attributes are restored afterwards.
        methods: Maps each name to a function that returns the number of gradients per example of a
            call; ``None`` for a forward pass without gradients. The first argument of a method
            holds the examples.
    """
    passes = _open.get()
    if passes is None:
        yield
        return
    before, attributes, saved = passes.forwards, vars(model), dict(vars(model))
    for name, gradients_per_call in methods.items():
        if hasattr(model, name):
            attributes[name] = partial(passes.asked, getattr(model, name), gradients_per_call)
    try:
        yield
    finally:
        for name in methods:
            attributes.pop(name, None)
            if name in saved:
                attributes[name] = saved[name]
    passes.known &= passes.forwards > before


def _examples(value: Tree) -> int:
    """Number of examples in a module's arguments, or 0."""
    if isinstance(value, (list, Tensor)):
        return len(value)
    members = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else ()
    )
    if isinstance(value, Node):
        members = value.members().values()
    return next((n for member in members if (n := _examples(member))), 0)


def _is_wrapper(tensor: Tensor) -> bool:
    """Whether a tensor belongs to a function transform, so that its shape lacks axes."""
    for is_wrapper in _WRAPPERS:  # faster than any() with a generator
        if is_wrapper(tensor):
            return True
    return False


def _runs_hooks(module: nn.Module) -> bool:
    """Whether the module runs hooks; one that is compiled in place or scripted does not."""
    compiled = getattr(module, "_compiled_call_impl", None) is not None
    return not compiled and not isinstance(module, torch.jit.ScriptModule)
