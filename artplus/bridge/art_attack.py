"""An ART evasion attack, run through its ``generate``, as an artplus attack."""

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
from artplus.bridge.text import TextClassifier, attacked
from artplus.errors import ArtplusWarning, ConfigurationError, UnsupportedEstimatorError
from artplus.functional import class_index
from artplus.geometry import clip
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree


@dataclass(frozen=True)
class ArtAttack:
    """Any ART evasion attack, through numpy: the slow path for attacks without a translation.

    The attack runs on whole batches and without progress bars. Afterwards its batch size,
    verbosity, radius and everything that ``generate`` stores are restored. So are the model's
    train/eval flags, ``requires_grad`` and ``.grad``, and the random generators, which are seeded
    from ``generator`` for the call. Patch attacks are applied with ``apply_patch`` at their
    largest scale. Examples returned with NaN are replaced by the clean ones, with a warning.

    Args:
        attack: An ``art.attacks.EvasionAttack`` on an estimator that holds the attacked module.
        scale: Factor of the attack's radius and step length.

    Raises:
        ConfigurationError: at construction, for an attack that cannot run; at the call, if it was
            built on another model, or for an inner loss, a start or a mask that it does not
            support.
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
                "SignOPTAttack is targeted by default, and then needs an example of the target "
                "class as x_init; construct it with targeted=False"
            )
        if self.scale != 1 and (
            art_compat.radius_name(self.attack) is None or getattr(self.attack, "random_eps", False)
        ):
            raise ConfigurationError(
                f"{name} has no radius to scale (it minimises the perturbation, or draws its own "
                "radius), so a schedule cannot change it; use PGD or APGD with the schedule"
            )

    @property
    def eps(self) -> Budget:
        """The attack's radius; infinity if it has none."""
        name = art_compat.radius_name(self.attack)
        if name is None:
            return float("inf")
        return scaled(getattr(self.attack, name), self.scale)

    @property
    def norm(self) -> float:
        """The attack's norm; L∞ if it has none."""
        default = art_compat.NORMS.get(type(self.attack).__name__, np.inf)
        norm = getattr(self.attack, "norm", default)
        return default if norm == "wasserstein" else float(norm)

    @property
    def minimises(self) -> float | None:
        """The norm that the attack minimises; ``None`` if it minimises none."""
        classes = type(self.attack).__mro__
        return self.norm if any(c.__name__ in art_compat.MINIMISES for c in classes) else None

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
        """Return adversarial examples; see :class:`artplus.attacks.Attack`."""
        if isinstance(self.attack.estimator, TextClassifier) and space.hidden:
            return self._of_text(model, x, y, inner=inner, start=start, generator=generator)
        if not isinstance(space, InputSpace) or not isinstance(x, Tensor):
            raise ConfigurationError(
                f"ART's {type(self.attack).__name__} takes arrays of floats; columns, ids and "
                "hidden perturbations need an attack of artplus, such as PGD"
            )
        self._check_call(model, inner, start, space)
        device = torch.device("cpu") if generator is None else generator.device
        seed = int(torch.randint(2**31, (), generator=generator, device=device))
        with ExitStack() as stack:
            stack.enter_context(modes.attack_mode(model.module))
            stack.enter_context(certified.concrete(model.module))
            stack.enter_context(art_compat.without_weight_gradients(model.module))
            stack.enter_context(art_compat.settings(self.attack, len(x), self.scale))
            stack.enter_context(art_compat.float32(self.attack))
            stack.enter_context(self._count_passes())
            stack.enter_context(art_compat.patched_numpy(self.attack))
            stack.enter_context(seeding.seeded(seed))
            inputs = x.detach().cpu().numpy()
            labels, mask = self._labels(model, inputs, y), self._mask(space, x)
            x_adv = torch.as_tensor(self._generate(inputs, labels, mask)).to(x)
        return self._without_nonfinite(clip(x + space.restrict(x_adv - x), space), x)

    def _of_text(self, model: LossModel, x: Tree, y: Tree, **options: Any) -> Tree:
        """Token ids with the perturbation that the attack finds in an array of embeddings."""

        def generate(array: Tensor, free: Tensor) -> Tensor:
            takes_mask = type(self.attack).__name__ in art_compat.TAKES_MASK
            space = InputSpace(mask=free) if takes_mask else InputSpace()
            x_adv: Tensor = self(model, array, y, space=space, **options)
            return x_adv

        return attacked(self.attack.estimator, x, generate)

    def _count_passes(self) -> AbstractContextManager[None]:
        """Counts passes at ART's wrapper modules, since ART never calls a ``Sequential`` itself."""
        return passes.watching(art_compat.wrappers(self.attack))

    def _generate(self, x: Any, y: Any, mask: dict[str, Any]) -> Any:
        if type(self.attack).__name__ in art_compat.TAKES_ONE:
            rows = range(len(x))
            return np.concatenate(
                [self.attack.generate(x[i : i + 1], y=y[i : i + 1], **mask) for i in rows]
            )
        result = self.attack.generate(x, y=y, **mask)
        if not isinstance(result, tuple):
            return result
        if not hasattr(self.attack, "apply_patch"):
            raise ConfigurationError(
                f"{type(self.attack).__name__}.generate returns {len(result)} arrays instead of "
                "adversarial examples; apply them yourself and pass the result as data"
            )
        return self.attack.apply_patch(x, scale=getattr(self.attack, "scale_max", 1.0))

    def _labels(self, model: LossModel, x: Any, y: Tensor) -> Any:
        """``y`` in this attack's format: one-hot rows, regression targets, or guide inputs."""
        if not model.task.over_classes:
            return y.cpu().numpy()
        classes = class_index(y).cpu().numpy()
        if type(self.attack).__name__ in art_compat.TAKES_GUIDES:
            return x[_random_other_class(classes)]
        return np.eye(int(self.attack.estimator.nb_classes), dtype=np.float32)[classes]

    def _mask(self, space: InputSpace, x: Tensor) -> dict[str, Any]:
        if space.mask is None:
            return {}
        return {"mask": space.mask.to(x).expand_as(x).cpu().numpy()}

    def _without_nonfinite(self, x_adv: Tensor, x: Tensor) -> Tensor:
        nonfinite = ~torch.isfinite(x_adv.flatten(1)).all(1)
        if bool(nonfinite.any()):
            warnings.warn(
                f"{type(self.attack).__name__} returned NaN or infinity for "
                f"{int(nonfinite.sum())} of {len(x)} examples; they are left unattacked",
                ArtplusWarning,
                stacklevel=3,
            )
        return torch.where(nonfinite.view(-1, *(1,) * (x.ndim - 1)), x, x_adv)

    def _check_call(
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
    """Refuse an attack on another module, whose examples would not be adversarial for this one.

    Modules are compared and not estimators, because APGD with ``loss_type`` builds another
    estimator around the same module.

    Raises:
        UnsupportedEstimatorError: if the attack's estimator holds no torch module.
        ConfigurationError: if it holds another module.
    """
    name = type(attack).__name__
    for part in art_compat.parts(attack):
        attacked = getattr(part.estimator, "model", None)
        if not isinstance(attacked, nn.Module):
            raise UnsupportedEstimatorError(
                f"ART's {name} attacks a {type(part.estimator).__name__}, which holds no torch "
                "module; build the attack on the PyTorch estimator that is hardened"
            )
        if _unwrapped(attacked) is not _unwrapped(module):
            raise ConfigurationError(
                f"ART's {name} attacks another model ({type(attacked).__name__}) than the one "
                f"given ({type(module).__name__}), and its examples would not fool this one. "
                f"Build it on the same estimator: {name}(classifier, ...)."
            )


def _unwrapped(module: Any) -> Any:
    """The module inside ``DataParallel``, ``DistributedDataParallel`` or ``torch.compile``."""
    for name in ("_orig_mod", "module"):
        inside = getattr(module, name, None)
        if isinstance(inside, nn.Module):
            return _unwrapped(inside)
    return module


def _random_other_class(classes: Any) -> Any:
    """Index of a random example of another class, for each example; its own if there is none."""
    draw = np.random.random((len(classes), len(classes)))
    draw[classes[:, None] == classes[None]] = -1.0
    return np.where(draw.max(1) >= 0, draw.argmax(1), np.arange(len(classes)))
