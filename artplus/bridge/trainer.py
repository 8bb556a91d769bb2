"""``AdversarialTrainerPlus``: the λ-weighted trainer on any ART estimator that holds a module."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from art.data_generators import DataGenerator
from art.defences.trainer.trainer import Trainer
from torch import Tensor

from artplus.attacks import Attack, Average, Combination, Cycle, WorstOf, members
from artplus.bridge import certified
from artplus.bridge.attacks import as_attack
from artplus.bridge.estimator import view
from artplus.errors import ConfigurationError, DataError
from artplus.losses import Objective, Weight, make_loss
from artplus.trainers import trainers
from artplus.training.callbacks import Callback
from artplus.training.checkpoint import Resume, as_resume
from artplus.training.engines import as_engine
from artplus.training.fit import Run, train
from artplus.training.history import History
from artplus.training.method import make_method
from artplus.training.numerics import Compile, Precision
from artplus.training.probe import check_optimizer
from artplus.training.steps import Step, standard

COMBINATIONS = {"cycle": Cycle, "average": Average, "worst": WorstOf}


class AdversarialTrainerPlus(Trainer):
    r"""Harden an ART estimator by a λ-weighted objective under ART's attacks.

    .. math:: \min_\theta \frac1N \sum_i l(f(x_i), y_i)
              + \lambda \, \frac1N \sum_i L_\text{adv}(x'_i, y_i)

    An ``art.defences.trainer.Trainer``: construct it with an estimator, call :meth:`fit`, go on
    with the same estimator. Training runs in torch on the estimator's own module, optimizer, loss,
    device and preprocessing; FGM, BIM, MIM, PGD and APGD are translated to torch with ART's
    parameters, any other evasion attack runs through its ``generate``.

    Differs from ART's trainers: the loss is λ-weighted and named; x is preprocessed once, in
    training and in validation; BatchNorm and dropout are in train mode for the weights and in
    evaluation mode for the attack, and each layer's own flag is restored; frozen layers stay
    frozen; the attack runs on the training batch whatever its ``batch_size``; schedulers are
    stepped; unknown keywords raise; nothing is written to disk; :meth:`fit` returns a
    :class:`~artplus.training.History`.

    Args:
        classifier: ``PyTorchClassifier`` (or a subclass), ``HuggingFaceClassifierPyTorch`` or
            ``PyTorchRegressor``, with an optimizer.
        attacks: One ART (or artplus) attack or several; ``None`` is PGD from ``eps`` and ``norm``,
            10 steps of ``eps / 4``, random start.
        loss: Registered name (:func:`artplus.list_losses`) or an ``Objective``.
        lam: λ, a number >= 0 or a schedule of the fraction of training done; ``None`` is the
            published default of the loss: 1 for ``mix``, 6 for ``trades``, 5 for ``mart``, ...
        eps: Radius of the default attack, in the units of x. With a loss that needs no attack, or
            attacks without a radius, it is the radius that validation measures at.
        norm: ``numpy.inf``, 2 or 1.
        combine: Several attacks: ``"cycle"`` one per batch in turn, ``"average"`` of the terms
            over all, ``"worst"`` per example.
        inner: ``"objective"``: the attack climbs what the loss asks for (TRADES a divergence);
            ``"attack"``: it climbs the estimator's own loss, or its own. An attack that cannot
            climb the loss's own inner objective is refused unless this is ``"attack"``.
        mask: Zero where inputs must not be changed; broadcasts over one input.
        label_smoothing: Share of each label spread over all classes, in [0, 1).
        class_weight: ``(nb_classes,)`` numbers >= 0 that weigh whole examples by class.
        attack_share: Share of each batch that is attacked, in (0, 1]; see
            :class:`~artplus.training.Method`.
        scheduler: A torch scheduler of ``classifier.optimizer``, or a factory
            ``(optimizer, total_steps) -> scheduler``.
        scheduler_interval: ``"batch"``, ``"epoch"`` or ``"auto"``; see
            :class:`~artplus.training.callbacks.LearningRate`.
        callbacks: :mod:`artplus.training.callbacks`, such as ``EMA()``, ``EarlyStopping()`` or
            ``GradientClipping(1.0)``. An ``EpsWarmup`` replaces the default one, which ramps the
            radius over the first quarter where it is large (>= 5 % of the clip range).
        step: How the weights move on a batch: ``AWP()``, ``Free()`` of
            :mod:`artplus.training.steps`, or your own.
        engine: Where it runs: ``"auto"``, ``"torch"``, ``"ddp"``, ``"fsdp2"``, ``"accelerate"``, an
            ``Engine`` or an ``Accelerator``; under ``torchrun`` or ``accelerate launch`` the
            default joins in.
        precision: ``"fp32"``, ``"bf16"``, ``"fp16"``, or ``"auto"``: the fastest on the first batch
            whose results are those of fp32.
        compile: ``torch.compile`` attack and step; ``"auto"`` where it earns its time back.
        seed: Two runs with one seed are identical on one device.
        verbose: Show a progress bar with live loss, clean and adversarial accuracy.

    Raises:
        UnsupportedEstimatorError: if the estimator cannot be trained as it is.
        ConfigurationError: for arguments that cannot work, an estimator without an optimizer, or
            an attack bound to another model.

    Example:
        >>> import numpy as np, torch
        >>> from art.estimators.classification import PyTorchClassifier
        >>> model = torch.nn.Linear(4, 3)
        >>> classifier = PyTorchClassifier(
        ...     model, torch.nn.CrossEntropyLoss(), input_shape=(4,), nb_classes=3,
        ...     optimizer=torch.optim.SGD(model.parameters(), lr=0.1), clip_values=(0.0, 1.0))
        >>> x = np.random.rand(64, 4).astype(np.float32)
        >>> y = np.random.randint(0, 3, 64)
        >>> trainer = AdversarialTrainerPlus(classifier, loss="trades", eps=0.02, verbose=False)
        >>> len(trainer.fit(x, y, nb_epochs=2))
        2
    """

    def __init__(
        self,
        classifier: Any,
        attacks: Any = None,
        *,
        loss: str | Objective = "mix",
        lam: Weight | None = None,
        eps: Any = None,
        norm: float | str = np.inf,
        combine: Literal["cycle", "average", "worst"] = "cycle",
        inner: Literal["objective", "attack"] = "objective",
        mask: Any = None,
        label_smoothing: float = 0.0,
        class_weight: Any = None,
        attack_share: float = 1.0,
        scheduler: Any = None,
        scheduler_interval: Literal["auto", "batch", "epoch"] = "auto",
        callbacks: Sequence[Callback] = (),
        step: Step = standard,
        engine: Any = "auto",
        precision: Precision = "fp32",
        compile: Compile = False,
        seed: int | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(classifier)
        self._view = view(classifier)
        certified.refuse_training(classifier)
        check_optimizer(self._view.model.module, classifier.optimizer)
        objective = make_loss(loss, lam)
        if inner not in ("objective", "attack"):
            raise ConfigurationError(f"inner must be 'objective' or 'attack', got {inner!r}")
        if inner == "attack":
            objective = replace(objective, inner=None, start_noise=0.0)
        attack = _combined(attacks, combine, classifier)
        order = _norm(norm)
        _refuse_contradiction(attack, eps, order)
        space = self._view.space
        if mask is not None:
            space = replace(space, mask=_mask(mask, self._view.input_shape))
        self.method = make_method(
            objective,
            eps=eps if attack is None and objective.attacked else None,
            norm=order if attack is None and objective.attacked else np.inf,
            attack=attack,
            space=space,
            label_smoothing=label_smoothing,
            class_weight=None if class_weight is None else torch.as_tensor(class_weight).float(),
            attack_share=attack_share,
        )
        self._plan = Run(
            validation_eps=eps,
            validation_norm=order,
            scheduler=scheduler,
            scheduler_interval=scheduler_interval,
            callbacks=callbacks,
            step=step,
            engine=as_engine(engine, precision=precision, compile=compile),
            seed=seed,
            progress=verbose,
        )

    def fit(
        self,
        x: Any,
        y: Any = None,
        *,
        batch_size: int = 128,
        nb_epochs: int = 20,
        validation_data: Any = None,
        keep_best: bool = True,
        micro_batch: int | None = None,
        resume: str | Path | Resume | None = None,
    ) -> History:
        """Harden the estimator; every check comes before the first step.

        Args:
            x: Array, tensor or list ``(n, *input_shape)`` inside ``clip_values``, or a
                ``Dataset``, ``DataLoader``, ART ``DataGenerator`` or re-iterable of batches.
            y: Class numbers ``(n,)``, one-hot or soft rows ``(n, classes)``, or regression targets
                ``(n,)``; ``None`` where ``x`` yields pairs.
            batch_size: Of training and of its attack, whatever the attack's own; a loader has its
                own.
            nb_epochs: Passes over the data.
            validation_data: ``(x, y)`` or a loader. After each epoch clean and robust accuracy are
                measured, the latter by another attack than the training one.
            keep_best: With validation, hand out the best epoch's weights.
            micro_batch: Most examples in one forward and backward pass, with the gradient of the
                whole batch all the same; ``None`` is the whole batch, and halves where memory runs
                out.
            resume: Continue from a checkpoint, or from the newest in a folder, that a
                :class:`~artplus.training.callbacks.Checkpoint` of the same run wrote; see
                :class:`~artplus.training.Resume` for what to do where there is none.

        Returns:
            One row per epoch; see :class:`~artplus.training.History`.

        Raises:
            DataError: for inputs or labels that cannot work.
            ConfigurationError: for a batch size, epochs or scheduler that cannot work.
            CheckpointError: if there is nothing to resume from, it is damaged, or of another run.
            TrainingDivergedError: if the loss stops being a number; sound weights are put back.
        """
        plan = replace(
            self._plan,
            batch_size=batch_size,
            epochs=nb_epochs,
            validation=_held_out(validation_data),
            keep_best=keep_best,
            micro_batch=micro_batch,
            resume=as_resume(resume),
        )
        data = _source(x, y)
        if data is None:
            raise DataError("x is missing")
        return train(
            self._view.model,
            data,
            self._classifier.optimizer,
            self.method,
            plan,
            prepare=self._view.prepare,
        )

    def fit_generator(
        self,
        generator: DataGenerator,
        *,
        nb_epochs: int = 20,
        validation_data: Any = None,
        keep_best: bool = True,
        resume: str | Path | Resume | None = None,
    ) -> History:
        """Harden the estimator on an ART ``DataGenerator``, its labels in any format.

        Args:
            generator: One epoch is ``ceil(size / batch_size)`` of its batches.
            nb_epochs: Passes over the data.
            validation_data: As in :meth:`fit`.
            keep_best: As in :meth:`fit`.
            resume: As in :meth:`fit`, from an epoch's end.

        Raises:
            DataError: if ``generator`` is none, or has no size.
        """
        if not isinstance(generator, DataGenerator):
            raise DataError(
                f"fit_generator takes an ART DataGenerator, got {type(generator).__name__}; "
                "a DataLoader goes to fit(loader)"
            )
        return self.fit(
            generator,
            nb_epochs=nb_epochs,
            validation_data=validation_data,
            keep_best=keep_best,
            resume=resume,
        )


def make_trainer(name: str, classifier: Any, **options: Any) -> AdversarialTrainerPlus:
    """A registered trainer on an estimator: ``make_trainer("trades", classifier, eps=0.3)``.

    Args:
        name: One of :func:`artplus.list_trainers`.
        classifier: As for :class:`AdversarialTrainerPlus`.
        options: Arguments of the registered recipe (``eps``, ``norm``, ``lam``, ``steps``, ...) and
            of :class:`AdversarialTrainerPlus`; own ``callbacks`` are added to the recipe's.

    Raises:
        UnknownNameError: if no trainer has this name.
        ConfigurationError: for a missing or unknown argument, naming those that are known.
    """
    own = set(inspect.signature(trainers.get(name)).parameters)
    common = set(inspect.signature(AdversarialTrainerPlus).parameters) - {
        "classifier",
        "attacks",
        "loss",
        "step",
    }
    unknown = set(options) - own - common
    if unknown:
        raise ConfigurationError(
            f"trainer {name!r} has no argument {', '.join(sorted(unknown))}; known: "
            f"{', '.join(sorted(own | common))}"
        )
    recipe = trainers.make(name, **{k: v for k, v in options.items() if k in own})
    rest = {k: v for k, v in options.items() if k not in own and k != "callbacks"}
    return AdversarialTrainerPlus(
        classifier,
        recipe.attack,
        loss=recipe.objective,
        step=recipe.step,
        callbacks=(*recipe.callbacks, *options.get("callbacks", ())),
        **rest,
    )


def _combined(attacks: Any, combine: str, classifier: Any) -> Attack | Combination | None:
    if combine not in COMBINATIONS:
        raise ConfigurationError(
            f"combine must be one of {', '.join(COMBINATIONS)}, got {combine!r}"
        )
    if attacks is None:
        return None
    several = list(attacks) if isinstance(attacks, (list, tuple)) else [attacks]
    if not several:
        raise ConfigurationError("attacks is an empty list; give one, or None with eps=")
    if len(several) == 1 and isinstance(several[0], Combination):
        return several[0]
    found = tuple(as_attack(attack, classifier) for attack in several)
    if len(found) == 1:
        return found[0]
    return cast(Combination, COMBINATIONS[combine](cast("tuple[Attack, ...]", found)))


def _norm(norm: Any) -> float:
    try:
        return float(norm)
    except (TypeError, ValueError):
        raise ConfigurationError(f"norm must be numpy.inf, 2 or 1, got {norm!r}") from None


def _refuse_contradiction(attack: Attack | Combination | None, eps: Any, norm: float) -> None:
    """``eps`` and ``norm`` beside attacks that have their own: equal or refused, never ignored."""
    own = None if attack is None else members(attack, 0)[0]
    if own is None or (isinstance(own.eps, float) and own.eps == np.inf):
        return
    radius: Any = own.eps
    if eps is not None and not (eps is radius or np.array_equal(eps, radius)):
        raise ConfigurationError(
            f"eps={eps!r} contradicts the attack's own radius {radius!r}; leave out eps, which is "
            "for the default attack"
        )
    if norm not in (np.inf, own.norm):
        raise ConfigurationError(
            f"norm={norm:g} contradicts the attack's own norm {own.norm:g}; leave out norm, which "
            "is for the default attack"
        )


def _mask(mask: Any, shape: tuple[int, ...]) -> Tensor:
    tensor = torch.as_tensor(mask).float()
    try:
        fits = torch.broadcast_shapes(tensor.shape, shape) == torch.Size(shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ConfigurationError(
            f"mask of shape {tuple(tensor.shape)} does not broadcast over one input {shape}"
        )
    return tensor


class _Batches:
    """One epoch of an ART ``DataGenerator`` after the other.

    A first batch that was only looked at comes again: the epochs stay aligned with the data.
    """

    def __init__(self, generator: DataGenerator) -> None:
        if generator.size is None:
            raise DataError(
                "this DataGenerator has no size, so an epoch has no end; construct it with size="
            )
        self._generator = generator
        self._seen: tuple[Any, Any] | None = None

    def __len__(self) -> int:
        known = getattr(self._generator, "batches_per_epoch", None)
        return int(known or -(-int(self._generator.size or 0) // self._generator.batch_size))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for i in range(len(self)):
            batch = self._seen or tuple(self._generator.get_batch()[:2])
            self._seen = batch if i == 0 else None
            yield batch
            self._seen = None


def _held_out(data: Any) -> Any:
    """Validation data as training takes it: a pair of arrays, or a loader."""
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if isinstance(data, list) and pair:  # or two batches
        pair = not isinstance(data[0], (tuple, list))
    return _source(*data) if pair else _source(data)


def _source(x: Any, y: Any = None) -> Any:
    """What training iterates over: arrays with labels, or a loader as it is."""
    if isinstance(x, DataGenerator):
        x = x.iterator if isinstance(x.iterator, torch.utils.data.DataLoader) else _Batches(x)
    if y is not None:
        if isinstance(x, (torch.utils.data.DataLoader, torch.utils.data.Dataset, _Batches)):
            raise DataError(f"{type(x).__name__} yields its own labels; leave out y")
        return x, y
    if isinstance(x, (np.ndarray, Tensor)):
        raise DataError("y is missing: arrays and tensors need labels beside them")
    return x
