"""Perturbations of hidden states: latent adversarial training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.spaces._base import Model, Per
from artplus.spaces.hidden import Hooks, attached, output_shapes, token_mask
from artplus.spaces.hidden_space import HiddenSpace, check_per, named
from artplus.spaces.region import Region
from artplus.tree import Tree, describe, device_of


@dataclass(frozen=True)
class LatentSpace(HiddenSpace):
    r"""Add a float32 perturbation to the output of one or several layers [Sheshadri24]_.

    .. math:: h_l \leftarrow h_l + \delta_l, \qquad \|\delta\| \le \epsilon

    Several layers must have outputs of one shape; ``z`` is then ``(batch, layers, ...)``, and a
    radius per example bounds all of it together, one per token each layer's each token. Padded
    tokens (``attention_mask``) are never touched where the output has one row a token.

    Args:
        layers: Names of sub-modules, as in ``model.named_modules()`` (the end of a name is enough
            if it is unique), or numbers of the model's longest list of layers, as ``[8, 16]``.
        per: ``"example"`` or ``"token"``: what the radius bounds; tokens are rows of the last axis.
        relative: The radius is a multiple of the mean row norm of these outputs, measured on the
            first inputs that the space sees: in training before the first step, and then kept. Two
            models differ in their unit, so compare them at an absolute radius.

    Raises:
        ConfigurationError: at construction without layers; when first used, for a name that does
            not exist, a layer that runs twice or never, or layers of different shapes.

    References:
        .. [Sheshadri24] Sheshadri et al., "Latent adversarial training improves robustness to
           persistent harmful behaviors in LLMs", 2024, https://arxiv.org/abs/2407.15549

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.model import LossModel
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> x, y = torch.rand(3, 4), torch.tensor([0, 1, 0])
        >>> x_adv = PGD(eps=0.5, norm=2, steps=3)(LossModel(net), x, y, space=LatentSpace(["1"]))
        >>> x_adv.delta.shape
        torch.Size([3, 8])
    """

    layers: Sequence[str | int]
    per: Per = "example"
    relative: bool = False

    def __post_init__(self) -> None:
        layers = (
            (self.layers,)
            if isinstance(self.layers, (str, int))
            else _checks.several("layers", self.layers, "names of sub-modules")
        )
        object.__setattr__(self, "layers", layers)
        check_per(self.per)
        _checks.flag("relative", self.relative)
        if not layers:
            raise ConfigurationError("LatentSpace needs at least one layer, as ['layer1']")

    def lift(self, model: Model, inputs: Tree) -> Tensor:
        """Zeros in the shape of the layers' outputs."""
        with attached(model.module, self) as hooks:
            shapes = output_shapes(hooks, model, inputs)
        if len(set(shapes)) > 1:
            raise ConfigurationError(
                "the layers of a LatentSpace must have outputs of one shape, got "
                f"{', '.join(str(tuple(shape)) for shape in shapes)}; perturb them one at a time"
            )
        shape = shapes[0]
        if self.per == "token" and len(shape) < 3:
            raise ConfigurationError(
                f"per='token' needs outputs (batch, tokens, width), but the layer gives "
                f"{tuple(shape)}; use per='example'"
            )
        if len(shapes) > 1:
            shape = torch.Size((shape[0], len(shapes), *shape[1:]))
        return torch.zeros(shape, device=device_of(inputs))

    def region(self, inputs: Tree, z: Tensor) -> Region:
        """No bounds; a mask of padded tokens where the outputs have one row a token.

        Raises:
            ConfigurationError: for a ``perturbation_mask`` where they have not.
        """
        mask = token_mask(inputs, None, ())
        tokens = z.shape[-2] if z.ndim > 2 else None
        if mask is None or mask.shape[1] != tokens:
            if isinstance(inputs, Mapping) and "perturbation_mask" in inputs:
                raise ConfigurationError(
                    "perturbation_mask says which tokens may be perturbed, but the layer's output "
                    f"{tuple(z.shape)} has no row for each of {describe(mask)}; leave it out, or "
                    "perturb a layer that keeps the tokens"
                )
            return Region()
        mask = mask.unsqueeze(-1).to(z)
        return Region(mask=mask if z.ndim == 3 else mask.unsqueeze(1).expand(z.shape))

    def measured(self, hooks: Hooks) -> float:
        """Refused: :meth:`lift` measures the outputs' rows."""
        raise ConfigurationError("lift the inputs first: the unit is measured on them")

    def sites(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """The layers."""
        return layers_of(module, self.layers)


def layers_of(module: nn.Module, layers: Sequence[str | int]) -> tuple[nn.Module, ...]:
    """Sub-modules by name, or by number in the longest list of layers.

    Raises:
        ConfigurationError: for a layer that does not exist.
    """
    return tuple(
        named(module, layer) if isinstance(layer, str) else _numbered(module, layer)
        for layer in layers
    )


def numbered_layers(module: nn.Module) -> nn.ModuleList:
    """The longest list of layers, the blocks of a Transformer.

    Raises:
        ConfigurationError: if there is none.
    """
    lists = [m for m in module.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ConfigurationError(
            f"{type(module).__name__} has no nn.ModuleList of layers to be numbered; name the layer"
        )
    return max(lists, key=len)


def _numbered(module: nn.Module, number: int) -> nn.Module:
    """Layer ``number`` of the longest list of layers, a negative one from the end."""
    longest = numbered_layers(module)
    if not -len(longest) <= number < len(longest):
        raise ConfigurationError(
            f"layer {number}: the model's longest list of layers has {len(longest)}"
        )
    return longest[number]
