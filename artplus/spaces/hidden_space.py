"""What all spaces inside a model share, and how their sites are named."""

from __future__ import annotations

from torch import Tensor, nn

from artplus.errors import ConfigurationError, DataError
from artplus.geometry import Geometry, geometry
from artplus.spaces._base import Model, Per
from artplus.spaces.hidden import Hooks, Perturbed, attached
from artplus.spaces.region import Region
from artplus.tree import Tree


class HiddenSpace:
    """Base class of spaces inside the model: ``z`` is what is added there, so it starts at zero.

    A subclass is a frozen dataclass with ``per`` and ``relative``. It has no bounds, and its mask
    comes with the inputs.
    """

    per: Per
    relative: bool

    @property
    def hidden(self) -> bool:
        """True: the perturbation is added inside the model."""
        return True

    def geometry(self, norm: float | str) -> Geometry:
        """The norm's geometry over an example, or over each token."""
        return geometry(norm, self.per)

    def lift(self, model: Model, inputs: Tree) -> Tensor:
        """Zeros in the shape of what is perturbed."""
        raise NotImplementedError

    def insert(self, inputs: Tree, z: Tensor) -> Perturbed:
        """The inputs with ``z`` beside them."""
        return Perturbed(inputs, z, self)

    def extract(self, perturbed: Tree) -> Tensor:
        """The perturbation.

        Raises:
            DataError: for anything but a :class:`Perturbed`.
        """
        if not isinstance(perturbed, Perturbed):
            raise DataError(
                f"expected inputs with a hidden perturbation, got {type(perturbed).__name__}"
            )
        return perturbed.delta

    def region(self, inputs: Tree, z: Tensor) -> Region:
        """No bounds, and a mask of what is not perturbed."""
        raise NotImplementedError

    def on(self, z: Tensor) -> HiddenSpace:
        """Itself: it has nothing to be brought beside ``z``."""
        return self

    def unit(self, model: Model) -> float:
        """The mean row norm for a relative radius, measured once while hooks are set; else 1."""
        if not self.relative:
            return 1.0
        with attached(model.module, self) as hooks:
            if hooks.unit is None:
                hooks.unit = self.measured(hooks)
            return hooks.unit

    def measured(self, hooks: Hooks) -> float:
        """The mean row norm of what is perturbed."""
        raise NotImplementedError

    def sites(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """Sub-modules whose output is perturbed."""
        raise NotImplementedError

    def take(self, rows: slice | Tensor, inputs: Tree) -> HiddenSpace:
        """Itself: masks come with the inputs."""
        return self

    def width(self) -> float | None:
        """``None``: hidden states are unbounded."""
        return None


def check_per(per: str) -> None:
    """Refuse another granularity than ``"example"`` and ``"token"``."""
    if not isinstance(per, str) or per not in ("example", "token"):
        raise ConfigurationError(
            f"per must be 'example' (one radius for a whole sequence) or 'token' (one for each "
            f"token), got {per!r}; a radius means nothing without it"
        )


def named(module: nn.Module, name: str) -> nn.Module:
    """The sub-module whose qualified name is, or ends in, ``name``.

    Wrappers such as PEFT's put prefixes before names, so the end is enough if it is unique.

    Raises:
        ConfigurationError: if there is none, or several.
    """
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if name in modules:
        return modules[name]
    matches = [full for full in modules if full.endswith(f".{name}")]
    if len(matches) == 1:
        return modules[matches[0]]
    what = "no module" if not matches else f"{len(matches)} modules ({', '.join(matches[:4])})"
    raise ConfigurationError(
        f"{type(module).__name__} has {what} called {name!r}. Its first level: "
        f"{', '.join(n for n in modules if n and '.' not in n)}; see model.named_modules()."
    )
