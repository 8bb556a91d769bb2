"""Perturbations inside a model: permanent hooks that add an argument of the forward pass.

A :class:`Perturbed` is inputs with the perturbation of hidden states. It is an *argument* of the
forward pass, so whatever wraps the module (``torch.compile``, DDP, FSDP2) sees it; the hooks are
set once and read it. Hooks set anew for each call would be baked into a compiled graph, silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.modes import unwrapped
from artplus.spaces._base import Space
from artplus.tree import Node, Tree, device_of, first_tensor, leaves

RESERVED = ("special_tokens_mask", "perturbation_mask", "lengths")
"""Columns that tell a space or a task what is padding and what may be perturbed. A module gets them
only if it asks for them."""

_ATTRIBUTE = "_artplus_hooks"


@dataclass(frozen=True, eq=False)
class Perturbed(Node):
    """Inputs, with what is added to hidden states.

    Attributes:
        inputs: What the model is given.
        delta: ``(batch, ...)`` float32, zero where nothing is added.
        space: Says which sub-modules it is added to.
    """

    inputs: Tree
    delta: Tensor
    space: Space

    def __len__(self) -> int:
        return len(self.delta)

    def members(self) -> dict[str, Tree]:
        """Inputs and perturbation."""
        return {"inputs": self.inputs, "delta": self.delta}

    def rebuilt(self, change: Callable[[Tree], Tree]) -> Perturbed:
        """The same with both changed."""
        return Perturbed(change(self.inputs), change(self.delta), self.space)


@dataclass(eq=False)
class Hooks:
    """The hooks of one space on one module.

    Attributes:
        deltas: What is added at each site in the pass that is under way; ``None`` adds nothing.
        shapes: Shape of each site's output for inputs of a given shape, as far as seen.
        outputs: Filled by the hooks while shapes are looked for.
        unit: The mean row norm that relative radii are multiples of, once measured.
        spacing: Half the distance between neighbouring numbers at the usual size of an output; zero
            in float32, else once shapes were looked for.
    """

    sites: tuple[nn.Module, ...]
    deltas: tuple[Tensor, ...] | None = None
    shapes: dict[Any, tuple[torch.Size, ...]] = field(default_factory=dict)
    outputs: dict[int, Tensor] | None = None
    unit: float | None = None
    spacing: float = 0.0
    users: int = 0
    handles: list[Any] = field(default_factory=list)

    def attach(self) -> None:
        """Set the hooks."""
        for k, site in enumerate(self.sites):
            # Before other hooks, so that these see the perturbed output.
            self.handles.append(site.register_forward_hook(self._hook(k), prepend=True))

    def detach(self) -> None:
        """Take the hooks away."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def _hook(self, k: int) -> Callable[[nn.Module, Any, Any], Any]:
        def add(module: nn.Module, args: Any, output: Any) -> Any:
            if not torch.compiler.is_compiling():
                if self.outputs is not None:
                    self._record(k, output)
                _refuse_recomputation(module)
            if self.deltas is None:
                return output
            return _added(output, self.deltas[k])

        return add

    def _record(self, k: int, output: Any) -> None:
        assert self.outputs is not None
        if k in self.outputs:
            raise ConfigurationError(
                f"the module {type(self.sites[k]).__name__} runs more than once in a forward "
                "pass, so one perturbation cannot be added to its output; choose a module that "
                "runs once"
            )
        self.outputs[k] = states_of(output).detach()


def states_of(output: Any) -> Tensor:
    """The hidden states in what a module returns: itself, or the first of a tuple.

    Raises:
        ConfigurationError: if that is no float tensor.
    """
    value = output[0] if isinstance(output, tuple) else output
    if isinstance(value, Mapping):
        value = next(iter(value.values()))
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise ConfigurationError(
            "hidden states are a float tensor, but the module returns "
            f"{type(output).__name__}; choose a module whose output is its hidden states"
        )
    return value


def _added(output: Any, delta: Tensor) -> Any:
    """The output plus the perturbation, computed in float32 and brought back."""
    if isinstance(output, tuple):
        return (_sum(output[0], delta), *output[1:])
    if isinstance(output, Mapping):
        name = next(iter(output))
        output[name] = _sum(output[name], delta)  # type: ignore[index]
        return output
    return _sum(output, delta)


def _sum(states: Tensor, delta: Tensor) -> Tensor:
    return (states.float() + delta.view(states.shape)).to(states.dtype)


def _refuse_recomputation(module: nn.Module) -> None:
    """A hook that runs during a backward pass is inside a checkpointed region.

    Activations are computed again there, after the forward pass has let its perturbation go, so
    gradients would be wrong by some percent, silently.
    """
    if torch._C._current_graph_task_id() != -1:
        raise ConfigurationError(
            f"{type(module).__name__} is perturbed inside a region that gradient checkpointing "
            "computes again in the backward pass, where the perturbation is no longer known. "
            "Perturb the output of the checkpointed layer itself, or the embedding."
        )


@contextmanager
def attached(module: nn.Module, space: Space) -> Iterator[Hooks]:
    """The space's hooks on ``module``; gone at the outermost end, also after an exception.

    Entered again for the same module and space it gives the hooks that are there: the engine enters
    it once for a training run, so that compiled graphs hold them.
    """
    known: dict[Space, Hooks] = module.__dict__.get(_ATTRIBUTE, {})
    hooks = known.get(space)
    if hooks is None:
        hooks = Hooks(space.sites(module))  # raises, and leaves nothing behind
        known = module.__dict__.setdefault(_ATTRIBUTE, known)
        known[space] = hooks
        hooks.attach()
    hooks.users += 1
    try:
        yield hooks
    finally:
        hooks.users -= 1
        if not hooks.users:
            hooks.detach()
            known.pop(space, None)
            if not known:
                module.__dict__.pop(_ATTRIBUTE, None)


def run(module: nn.Module, x: Tree) -> Any:
    """Call a module on inputs of any form: the one place where that happens.

    A tensor and a list are the only argument, a tuple is the positional arguments, a mapping the
    keyword arguments. Of a :class:`Perturbed` the perturbation is added on the way.
    """
    if isinstance(x, Tensor):
        return module(x)
    if isinstance(x, Perturbed):
        known = module.__dict__.get(_ATTRIBUTE)
        if known is not None and x.space in known:
            return perturbed(module, known[x.space], x)
        with attached(module, x.space) as hooks:
            return perturbed(module, hooks, x)
    if isinstance(x, Mapping):
        if any(name in x for name in RESERVED):
            x = {k: v for k, v in x.items() if k not in RESERVED or k in parameters(module)}
        return module(**x)
    if isinstance(x, tuple):
        return module(*x)
    return module(x)


def perturbed(module: nn.Module, hooks: Hooks, x: Perturbed) -> Any:
    """Call ``module``, which holds the hooks, or wraps what holds them, on perturbed inputs."""
    count = len(hooks.sites)
    hooks.deltas = (x.delta,) if count == 1 else x.delta.unbind(1)
    try:
        return run(module, x.inputs)
    finally:
        hooks.deltas = None


def parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's forward pass, through wrappers that pass all on."""
    for child in unwrapped(module):
        names = [
            name
            for name, p in inspect.signature(child.forward).parameters.items()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if names:
            return tuple(names)
    return ()


def output_shapes(hooks: Hooks, model: Any, inputs: Tree) -> tuple[torch.Size, ...]:
    """Shape of each site's output for these inputs, by one forward pass for each new shape.

    Raises:
        ConfigurationError: if a site does not run in a forward pass, or runs more than once.
    """
    key = tuple(tuple(leaf.shape) for leaf in leaves(inputs))
    if key not in hooks.shapes:
        hooks.outputs = {}
        try:
            # Compiled code leaves shapes alone, so this one pass is not compiled.
            with torch.no_grad(), torch.compiler.set_stance("force_eager"):
                model(inputs)
            outputs = hooks.outputs
        finally:
            hooks.outputs = None
        for k, site in enumerate(hooks.sites):
            if k not in outputs:
                raise ConfigurationError(
                    f"the module {type(site).__name__} does not run in a forward pass on these "
                    "inputs, so nothing can be added to its output; choose one that does"
                )
        hooks.shapes[key] = tuple(outputs[k].shape for k in range(len(hooks.sites)))
        hooks.spacing = max(map(_spacing, outputs.values()))
        if hooks.unit is None:
            rows = [outputs[k].float().norm(dim=-1).mean() for k in range(len(hooks.sites))]
            hooks.unit = float(torch.stack(rows).mean())
    return hooks.shapes[key]


def _spacing(states: Tensor) -> float:
    """Half the distance between neighbours at the root mean square of half-precision states."""
    if states.dtype not in (torch.bfloat16, torch.float16):
        return 0.0
    size = float(states.float().square().mean().sqrt())
    return size * torch.finfo(states.dtype).eps / 2


def carry(x_adv: Tree, inputs: Tree) -> Tree:
    """The perturbation of ``x_adv`` on other inputs, whose first tokens are the same.

    It is cut to their length, or padded with zeros.

    Args:
        x_adv: Perturbed tokens; inputs without a perturbation leave ``inputs`` as they are.
        inputs: As many other sequences.
    """
    if not isinstance(x_adv, Perturbed):
        return inputs
    longer = first_tensor(inputs).shape[1] - x_adv.delta.shape[-2]
    return Perturbed(inputs, F.pad(x_adv.delta, (0, 0, 0, longer)), x_adv.space)


def attended(inputs: Tree) -> Tensor:
    """``(batch, tokens)`` booleans: which tokens are no padding."""
    mask: Tensor | None = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is not None:
        return mask != 0
    shape = first_tensor(inputs).shape[:2]
    return torch.ones(shape, dtype=torch.bool, device=device_of(inputs))


def token_mask(inputs: Tree, ids: Tensor | None, special: tuple[int, ...]) -> Tensor | None:
    """``(batch, tokens)`` booleans: which tokens may be perturbed; ``None`` is all.

    Padding (``attention_mask``), special tokens (``special_tokens_mask``, or ids in ``special``)
    and what a ``perturbation_mask`` leaves out are not.

    Raises:
        ConfigurationError: for a mask that does not fit the ids.
    """
    mask: Tensor | None = None
    columns = inputs if isinstance(inputs, Mapping) else {}
    for name, keep in (
        ("attention_mask", True),
        ("perturbation_mask", True),
        ("special_tokens_mask", False),
    ):
        column = columns.get(name)
        if column is None:
            continue
        if column.ndim != 2 or (ids is not None and column.shape != ids.shape):
            expected = "(batch, tokens)" if ids is None else str(tuple(ids.shape))
            raise ConfigurationError(
                f"{name} must be {expected}, like the ids, got {tuple(column.shape)}; is it of "
                "another batch, or padded to another length?"
            )
        if mask is not None and column.shape != mask.shape:
            raise ConfigurationError(
                f"{name} must be {tuple(mask.shape)}, like the other masks, got "
                f"{tuple(column.shape)}; is it padded to another length?"
            )
        allowed = (column != 0) == keep
        mask = allowed if mask is None else mask & allowed
    if special and ids is not None:
        ordinary = ~torch.isin(ids, torch.as_tensor(special, device=ids.device))
        mask = ordinary if mask is None else mask & ordinary
    return mask
