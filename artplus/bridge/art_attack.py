"""An ART evasion attack run as it is, through ``generate``, behind the attack protocol."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from art.attacks import EvasionAttack
from torch import Tensor, nn

from artplus import modes, passes, seeding
from artplus.attacks import Budget, Inner
from artplus.attacks._base import scaled
from artplus.bridge import art_compat, certified
from artplus.errors import ArtplusWarning, ConfigurationError, UnsupportedEstimatorError
from artplus.functional import class_index
from artplus.geometry import clip
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree


@dataclass(frozen=True)
class ArtAttack:
    """Any ART evasion attack, through numpy: the slow path for what has no translation.

    The attack object is used as it is, on whole batches and quietly, and is left as it was: the
    batch size, verbosity, radius and whatever ``generate`` stores are put back. So are the model's
    train/eval flags, ``requires_grad`` and ``.grad``, and the random generators, which are seeded
    from ``generator`` for the call. Patch attacks are applied with ``apply_patch`` at their
    largest scale. Examples that come back with NaN stay clean, with a warning.

    Args:
        attack: An ``art.attacks.EvasionAttack`` on an estimator that holds the attacked module.
        scale: Multiplies the attack's radius and step length.

    Raises:
        ConfigurationError: at construction, for an attack that could not run; at the call, if it
            is bound to another model, or asked for an inner loss, a start or a mask that it
            cannot honour.
    """

    attack: EvasionAttack
    scale: float = 1.0

    def __post_init__(self) -> None:
        name = type(self.attack).__name__
        if getattr(self.attack, "parallel_pool_size", 0):
            raise ConfigurationError(
                f"{name} with parallel_pool_size > 0 removes the estimator's optimizer and attacks "
                "copies of it; construct it with parallel_pool_size=0"
            )
        if name == "SignOPTAttack" and self.attack.targeted:
            raise ConfigurationError(
                "SignOPTAttack is targeted unless told otherwise, and then needs an example of the "
                "target class as x_init; construct it with targeted=False"
            )
        if self.scale != 1 and (
            art_compat.radius_name(self.attack) is None or getattr(self.attack, "random_eps", False)
        ):
            raise ConfigurationError(
                f"{name} has no radius to scale (it goes as far as it must, or draws its own), so "
                "no schedule can warm it up; use PGD or APGD with the schedule"
            )

    @property
    def eps(self) -> Budget:
        """The attack's radius; infinity if it goes as far as it must."""
        name = art_compat.radius_name(self.attack)
        if name is None:
            return float("inf")
        return scaled(getattr(self.attack, name), self.scale)

    @property
    def norm(self) -> float:
        """The attack's norm; L∞ where it has none."""
        usual = art_compat.NORMS.get(type(self.attack).__name__, np.inf)
        own = getattr(self.attack, "norm", usual)
        return usual if own == "wasserstein" else float(own)

    @property
    def minimises(self) -> float | None:
        """The norm that it makes small; ``None`` if it has a radius or makes none small."""
        small = any(kind.__name__ in art_compat.MINIMISES for kind in type(self.attack).__mro__)
        return self.norm if small else None

    @property
    def targeted(self) -> bool:
        """Whether ``y`` holds the classes to reach."""
        name = type(self.attack).__name__
        if name in art_compat.TAKES_TRUE_LABELS:
            return False
        return bool(self.attack.targeted) or name in art_compat.TAKES_TARGETS

    @property
    def climbs_own(self) -> bool:
        """True: ``generate`` takes no inner loss."""
        return True

    def __call__(
        self,
        model: LossModel,
        x: Tree,
        y: Tree,
        *,
        space: Space = InputSpace(),
        inner: Inner | None = None,
        start: Tree | None = None,
        generator: torch.Generator | None = None,
    ) -> Tree:
        """Craft; see :class:`artplus.attacks.Attack`."""
        if not isinstance(space, InputSpace) or not isinstance(x, Tensor):
            raise ConfigurationError(
                f"ART's {type(self.attack).__name__} takes arrays of floats; columns, ids and "
                "hidden perturbations need an attack of artplus, such as PGD"
            )
        self._refuse(model, inner, start, space)
        device = torch.device("cpu") if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        with ExitStack() as stack:
            stack.enter_context(modes.attack_mode(model.module))
            stack.enter_context(certified.concrete(model.module))
            stack.enter_context(art_compat.weights_aside(model.module))
            stack.enter_context(art_compat.settings(self.attack, len(x), self.scale))
            stack.enter_context(art_compat.float32(self.attack))
            stack.enter_context(self._counted())
            stack.enter_context(art_compat.numpy_patched(self.attack))
            stack.enter_context(seeding.seeded(seed))
            inputs = x.detach().cpu().numpy()
            found = self._generate(inputs, self._labels(model, inputs, y), self._mask(space, x))
        x_adv = torch.as_tensor(found).to(x)
        return self._sound(clip(x + space.restrict(x_adv - x), space), x)

    def _counted(self) -> AbstractContextManager[None]:
        """Where ART's passes go: a ``Sequential`` it takes apart and never calls itself."""
        return passes.watching(art_compat.wrappers(self.attack))

    def _generate(self, x: Any, y: Any, mask: dict[str, Any]) -> Any:
        if type(self.attack).__name__ in art_compat.TAKES_ONE:
            rows = range(len(x))
            return np.concatenate(
                [self.attack.generate(x[i : i + 1], y=y[i : i + 1], **mask) for i in rows]
            )
        found = self.attack.generate(x, y=y, **mask)
        if not isinstance(found, tuple):
            return found
        if not hasattr(self.attack, "apply_patch"):
            raise ConfigurationError(
                f"{type(self.attack).__name__}.generate returns {len(found)} arrays instead of "
                "adversarial examples; apply them yourself and pass the result as data"
            )
        return self.attack.apply_patch(x, scale=getattr(self.attack, "scale_max", 1.0))

    def _labels(self, model: LossModel, x: Any, y: Tensor) -> Any:
        """``y`` as this attack wants it: one-hot rows, regression targets, or guide inputs."""
        if not model.task.over_classes:
            return y.cpu().numpy()
        index = class_index(y).cpu().numpy()
        if type(self.attack).__name__ in art_compat.TAKES_GUIDES:
            return x[_others(index)]
        return np.eye(int(self.attack.estimator.nb_classes), dtype=np.float32)[index]

    def _mask(self, space: InputSpace, x: Tensor) -> dict[str, Any]:
        if space.mask is None:
            return {}
        return {"mask": space.mask.to(x).expand_as(x).cpu().numpy()}

    def _sound(self, x_adv: Tensor, x: Tensor) -> Tensor:
        bad = ~torch.isfinite(x_adv.flatten(1)).all(1)
        if bool(bad.any()):
            warnings.warn(
                f"{type(self.attack).__name__} returned NaN or infinity for {int(bad.sum())} of "
                f"{len(x)} examples; they are left unattacked",
                ArtplusWarning,
                stacklevel=3,
            )
        return torch.where(bad.view(-1, *(1,) * (x.ndim - 1)), x, x_adv)

    def _refuse(
        self, model: LossModel, inner: Inner | None, start: Tensor | None, space: InputSpace
    ) -> None:
        name = type(self.attack).__name__
        check_bound(self.attack, model.module)
        if inner is not None:
            raise ConfigurationError(
                f"ART's {name} climbs a loss of its own and not the objective's. Use PGD, FGM, "
                "BIM, MIM or APGD without loss_type, or accept it with inner='attack'."
            )
        if start is not None:
            raise ConfigurationError(f"ART's {name} cannot begin at a given start; use PGD")
        if space.mask is not None and name not in art_compat.TAKES_MASK:
            raise ConfigurationError(
                f"ART's {name} would ignore the mask; use PGD or APGD where some features are fixed"
            )

    def with_eps(self, scale: float) -> ArtAttack:
        """The same attack with radius and step length multiplied by ``scale``.

        Raises:
            ConfigurationError: if it has no radius.
        """
        return replace(self, scale=self.scale * scale)


def check_bound(attack: EvasionAttack, module: Any) -> None:
    """Refuse an attack that attacks another module: it would run, and harden against a stranger.

    The module counts, not the estimator: APGD with ``loss_type`` builds an estimator of its own
    around the same module.

    Raises:
        UnsupportedEstimatorError: if the attack's estimator holds no torch module.
        ConfigurationError: if it holds another one.
    """
    name = type(attack).__name__
    for part in art_compat.parts(attack):
        own = getattr(part.estimator, "model", None)
        if not isinstance(own, nn.Module):
            raise UnsupportedEstimatorError(
                f"ART's {name} attacks a {type(part.estimator).__name__}, which holds no torch "
                "module; build the attack on the PyTorch estimator that is hardened"
            )
        if _bare(own) is not _bare(module):
            raise ConfigurationError(
                f"ART's {name} attacks another model ({type(own).__name__}) than the one given "
                f"({type(module).__name__}), so its examples would not be this model's worst. "
                f"Build it on the same estimator: {name}(classifier, ...)."
            )


def _bare(module: Any) -> Any:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``."""
    for name in ("_orig_mod", "module"):
        inside = getattr(module, name, None)
        if isinstance(inside, nn.Module):
            return _bare(inside)
    return module


def _others(index: Any) -> Any:
    """For each example the number of a random one of another class; its own if there is none."""
    draw = np.random.random((len(index), len(index)))
    draw[index[:, None] == index[None]] = -1.0
    return np.where(draw.max(1) >= 0, draw.argmax(1), np.arange(len(index)))
