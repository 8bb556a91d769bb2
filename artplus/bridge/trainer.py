"""``AdversarialTrainerPlus``: the λ-weighted trainer of ART estimators that hold a torch module."""

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

from artplus import _checks
from artplus.attacks import Attack, Average, Combination, Cycle, WorstOf, members
from artplus.bridge import certified
from artplus.bridge.attacks import as_attack
from artplus.bridge.estimator import view
from artplus.errors import ConfigurationError, DataError
from artplus.losses import Objective, Weight, make_loss
from artplus.spaces import InputSpace, Space
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
    r"""Harden an ART estimator with a λ-weighted objective and ART's attacks.

    .. math:: \min_\theta \frac1N \sum_i l(f(x_i), y_i)
              + \lambda \, \frac1N \sum_i L_\text{adv}(x'_i, y_i)

    It is an ``art.defences.trainer.Trainer``: construct it with an estimator, call :meth:`fit`, and
    keep using the same estimator. Training runs in torch on the estimator's module, optimizer,
    loss, device and preprocessing. FGM, BIM, MIM, PGD and APGD are translated to torch with ART's
    parameters; any other evasion attack runs through its ``generate``.

    Differs from ART's trainers: the loss is λ-weighted and named; x is preprocessed once, in
    training and in validation; BatchNorm and dropout are in train mode for the training step and in
    evaluation mode for the attack, and each layer's flag is restored; frozen layers stay frozen;
    the attack runs on the whole training batch, whatever its ``batch_size``; schedulers are
    stepped; unknown keywords raise an error; nothing is written to disk; :meth:`fit` returns a
    :class:`~artplus.training.History`.

    Args:
        classifier: ``PyTorchClassifier`` (or a subclass), ``HuggingFaceClassifierPyTorch`` or
            ``PyTorchRegressor``, with an optimizer.
        attacks: One ART (or artplus) attack or several; ``None`` is PGD from ``eps`` and ``norm``,
            10 steps of ``eps / 4``, random start.
        loss, lam, label_smoothing, class_weight, attack_share: See :func:`artplus.make_method`.
        eps: Radius of the default attack, in the units of x. With a loss that needs no attack, or
            attacks without a radius, it is the radius of validation.
        norm: ``numpy.inf``, 2 or 1.
        combine: How to use several attacks: ``"cycle"`` takes one per batch in turn, ``"average"``
            averages the loss over all, ``"worst"`` takes the worst per example.
        inner: With ``"objective"`` the attack maximises the inner loss of ``loss`` (for TRADES a
            divergence), and attacks that cannot do so are refused. With ``"attack"`` it maximises
            the estimator's loss, or its own.
        mask: Zero where inputs must not change; broadcasts over one input.
        space: What is perturbed; ``None`` is the estimator's inputs within its ``clip_values``.
        scheduler, scheduler_interval, callbacks, step, seed: See
            :class:`~artplus.training.Run`.
        engine, precision, compile: See :func:`~artplus.training.engines.as_engine`.
        verbose: Show a progress bar with live loss, clean and adversarial accuracy.

    Raises:
        UnsupportedEstimatorError: if the estimator cannot be trained.
        ConfigurationError: for invalid arguments, an estimator without an optimizer, or an attack
            built on another model.

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
        space: Space | None = None,
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
        _checks.choice("inner", inner, ("objective", "attack"))
        if inner == "attack":
            objective = replace(objective, inner=None, start_noise=0.0)
        attack = _combined(attacks, combine, classifier)
        order = _norm(norm)
        _refuse_contradiction(attack, eps, order)
        if mask is not None:
            box = self._view.space
            if space is not None or not isinstance(box, InputSpace):
                raise ConfigurationError(
                    "give the mask to the space: space=InputSpace(low, high, mask); hidden spaces "
                    "take theirs from the inputs"
                )
            space = replace(box, mask=_mask(mask, self._view.input_shape))
        self.method = make_method(
            objective,
            eps=eps if attack is None and objective.attacked else None,
            norm=order if attack is None and objective.attacked else np.inf,
            attack=attack,
            space=self._view.space if space is None else space,
            label_smoothing=label_smoothing,
            class_weight=class_weight,
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
        """Harden the estimator; all checks are made before the first step.

        Args:
            x: Array, tensor or list ``(n, *input_shape)`` inside ``clip_values``, or a
                ``Dataset``, ``DataLoader``, ART ``DataGenerator`` or re-iterable of batches.
            y: Class numbers ``(n,)``, one-hot or soft rows ``(n, classes)``, or regression targets
                ``(n,)``; ``None`` where ``x`` yields pairs.
            batch_size: Batch size of training and of the attack, whose own is not used; a loader
                has its own.
            nb_epochs: Passes over the data.
            validation_data: ``(x, y)`` or a loader. After each epoch clean and robust accuracy are
                measured, the latter with a different attack than in training.
            keep_best: With validation, restore the weights of the best epoch at the end.
            micro_batch: See :class:`~artplus.training.Run`.
            resume: Continue from a checkpoint, or from the newest in a folder, that a
                :class:`~artplus.training.callbacks.Checkpoint` of the same run wrote;
                :class:`~artplus.training.Resume` also says what to do if there is none.

        Returns:
            One row per epoch; see :class:`~artplus.training.History`.

        Raises:
            DataError: for invalid inputs or labels.
            ConfigurationError: for an invalid batch size, number of epochs or scheduler.
            CheckpointError: if the checkpoint is missing, damaged, or of another run.
            TrainingDivergedError: if the loss becomes NaN or infinite; sound weights are restored.
        """
        run = replace(
            self._plan,
            batch_size=batch_size,
            epochs=nb_epochs,
            validation=_validation_data(validation_data),
            keep_best=keep_best,
            micro_batch=micro_batch,
            resume=as_resume(resume),
        )
        data = _training_data(x, y)
        if data is None:
            raise DataError("x is missing")
        return train(
            self._view.model,
            data,
            self._classifier.optimizer,
            self.method,
            run,
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
        """Harden the estimator on an ART ``DataGenerator``, with labels in any format.

        Args:
            generator: One epoch is ``ceil(size / batch_size)`` of its batches.
            nb_epochs: Passes over the data.
            validation_data: As in :meth:`fit`.
            keep_best: As in :meth:`fit`.
            resume: As in :meth:`fit`, from the end of an epoch.

        Raises:
            DataError: if ``generator`` is not a ``DataGenerator``, or has no size.
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
            of :class:`AdversarialTrainerPlus`; ``callbacks`` are added to those of the recipe,
            and ``space`` replaces its own.

    Raises:
        UnknownNameError: if no trainer has this name.
        ConfigurationError: for a missing or unknown argument; it lists the known ones.
    """
    recipe_arguments = set(inspect.signature(trainers.get(name)).parameters)
    common = set(inspect.signature(AdversarialTrainerPlus).parameters) - {
        "classifier",
        "attacks",
        "loss",
        "step",
    }
    unknown = set(options) - recipe_arguments - common
    if unknown:
        raise ConfigurationError(
            f"trainer {name!r} has no argument {', '.join(sorted(unknown))}; known: "
            f"{', '.join(sorted(recipe_arguments | common))}"
        )
    recipe = trainers.make(name, **{k: v for k, v in options.items() if k in recipe_arguments})
    rest = {k: v for k, v in options.items() if k not in recipe_arguments and k != "callbacks"}
    if recipe.space is not None:
        rest = {"space": recipe.space} | rest
    return AdversarialTrainerPlus(
        classifier,
        recipe.attack,
        loss=recipe.objective,
        step=recipe.step,
        callbacks=(*recipe.callbacks, *options.get("callbacks", ())),
        **rest,
    )


def _combined(attacks: Any, combine: str, classifier: Any) -> Attack | Combination | None:
    if not isinstance(combine, str) or combine not in COMBINATIONS:
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
    converted = tuple(as_attack(attack, classifier) for attack in several)
    if len(converted) == 1:
        return converted[0]
    return cast(Combination, COMBINATIONS[combine](cast("tuple[Attack, ...]", converted)))


def _norm(norm: Any) -> float:
    try:
        return float(norm)
    except (TypeError, ValueError):
        raise ConfigurationError(f"norm must be numpy.inf, 2 or 1, got {norm!r}") from None


def _refuse_contradiction(attack: Attack | Combination | None, eps: Any, norm: float) -> None:
    """Refuse ``eps`` and ``norm`` that differ from those of the attack, rather than ignore them."""
    first = None if attack is None else members(attack, 0)[0]
    if first is None or (isinstance(first.eps, float) and first.eps == np.inf):
        return
    radius: Any = first.eps
    if eps is not None and not (eps is radius or np.array_equal(eps, radius)):
        raise ConfigurationError(
            f"eps={eps!r} contradicts the attack's own radius {radius!r}; leave out eps, which is "
            "for the default attack"
        )
    if norm not in (np.inf, first.norm):
        raise ConfigurationError(
            f"norm={norm:g} contradicts the attack's own norm {first.norm:g}; leave out norm, "
            "which is for the default attack"
        )


def _mask(mask: Any, shape: tuple[int, ...]) -> Tensor:
    tensor = _checks.numbers("mask", mask)
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
    """The batches of an ART ``DataGenerator``, epoch by epoch.

    If only the first batch of an iteration was read, the next one starts with the same batch, so
    that epochs stay aligned with the data.
    """

    def __init__(self, generator: DataGenerator) -> None:
        if generator.size is None:
            raise DataError(
                "this DataGenerator has no size, so an epoch has no end; construct it with size="
            )
        self._generator = generator
        self._first_batch: tuple[Any, Any] | None = None

    def __len__(self) -> int:
        batches = getattr(self._generator, "batches_per_epoch", None)
        return int(batches or -(-int(self._generator.size or 0) // self._generator.batch_size))

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for i in range(len(self)):
            batch = self._first_batch or tuple(self._generator.get_batch()[:2])
            self._first_batch = batch if i == 0 else None
            yield batch
            self._first_batch = None


def _validation_data(data: Any) -> Any:
    """Validation data in the form that training takes: a pair of arrays, or a loader."""
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    if isinstance(data, list) and pair:  # or two batches
        pair = not isinstance(data[0], (tuple, list))
    return _training_data(*data) if pair else _training_data(data)


def _training_data(x: Any, y: Any = None) -> Any:
    """Training data: a pair of arrays, or a loader."""
    if isinstance(x, DataGenerator):
        x = x.iterator if isinstance(x.iterator, torch.utils.data.DataLoader) else _Batches(x)
    if y is not None:
        if isinstance(x, (torch.utils.data.DataLoader, torch.utils.data.Dataset, _Batches)):
            raise DataError(f"{type(x).__name__} yields its own labels; leave out y")
        return x, y
    if isinstance(x, (np.ndarray, Tensor)):
        raise DataError("y is missing: arrays and tensors need labels beside them")
    return x
