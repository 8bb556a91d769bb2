"""The mixin: which hooks of a Trainer do what."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from artplus import checkpoint_io, distributed
from artplus.attacks import Attack
from artplus.errors import CheckpointError, ConfigurationError
from artplus.huggingface.evaluation import AttackedEvaluation
from artplus.huggingface.hardening import Hardening
from artplus.huggingface.refusals import (
    refuse_order,
    refuse_reentrant,
    refuse_trainer,
    refuse_unknown,
)
from artplus.huggingface.settings import Settings
from artplus.spaces.hidden import RESERVED, parameters
from artplus.tasks import Task
from artplus.training.callbacks import EpsWarmup
from artplus.training.method import Method, make_method
from artplus.training.steps import Step, standard

if TYPE_CHECKING:
    Base = Any
else:
    Base = object

OF_METHOD = tuple(inspect.signature(make_method).parameters)


class AdversarialTrainerMixin(Base):  # type: ignore[misc] # the class after it, known to the user
    r"""Put before a Hugging Face ``Trainer``, it trains by a method on adversarial examples.

    .. math:: \min_\theta \frac{1}{\sum_i w_i} \sum_i w_i \bigl( L_\text{fixed}(x_i, y_i)
              + \lambda \, L_\text{scaled}(x_i, x'_i, y_i) \bigr)

    ``Seq2SeqTrainer`` and TRL's ``SFTTrainer`` are Trainers too. Data, optimizer, schedules,
    callbacks, logging, checkpoints, precision and devices stay the Trainer's; the same run by
    :func:`artplus.fit` gives the same weights to rounding. Sums run over all batches of an
    accumulation and all processes, so that neither changes more than rounding, also where examples
    weigh by their tokens. At λ = 0 it is the plain Trainer.

    The log gets, as means over the steps since the last one: ``fixed_loss`` and ``scaled_loss``,
    the objective's two terms, ``lam``, ``adversarial_examples`` (how many a step was trained on),
    and for classifiers ``clean_accuracy`` and ``adversarial_accuracy`` on training batches.
    Evaluation is the Trainer's own, of clean inputs, unless there is an ``eval_attack``.

    What decides the attack (its random numbers, the unit of a relative radius, what a step
    carries along) is in the Trainer's checkpoints, so a resumed run is the uninterrupted one.

    Args:
        args: Positional arguments of the Trainer.
        method: What to minimise, by :func:`artplus.make_method`; or its options as keywords here:
            ``loss``, ``eps``, ``norm``, ``space``, ``lam``, ... ``label_smoothing`` is the
            Trainer's ``label_smoothing_factor`` unless given.
        criterion: The model's own loss; ``None`` is its task's usual one, cross-entropy for
            classifiers and language models.
        task: What predictions and targets mean: a name (:func:`artplus.list_tasks`) or a
            :class:`~artplus.tasks.Task`. ``"auto"`` infers it from the model's class, the
            criterion and the first batch.
        step: How a batch fills the gradients. Steps that move the weights within a batch are
            refused, and :class:`~artplus.training.steps.AWP` with accumulation.
        warmup: Raises the radius from zero. ``None`` does so over the first quarter where the
            radius is large for the range of inputs; ``EpsWarmup(0)`` never.
        eval_attack: Attacks evaluation data too: ``eval_attacked_loss`` and, for classifiers,
            ``eval_attacked_accuracy``.
        kwargs: Options of the method, and keywords of the Trainer.

    Raises:
        ConfigurationError: at construction or before the first step, for what cannot work:
            unknown keywords, DataParallel, DeepSpeed and FSDP 1, compiled modules in spaces inside
            the model, re-entrant gradient checkpointing, a Trainer with a loss of its own.
        DataError: before the first step, for batches without labels.
        CheckpointError: for a checkpoint that a plain Trainer wrote.

    Example:
        >>> from transformers import Trainer                                # doctest: +SKIP
        >>> class Hardened(AdversarialTrainerMixin, Trainer): ...           # doctest: +SKIP
        >>> trainer = Hardened(                                             # doctest: +SKIP
        ...     model=model, args=args, train_dataset=dataset,
        ...     loss="trades", eps=0.5, norm=2, space=EmbeddingSpace(),
        ... )
        >>> trainer.train()                                                 # doctest: +SKIP
    """

    _signature_columns: Any

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        refuse_order(cls, AdversarialTrainerMixin)

    def __init__(
        self,
        *args: Any,
        method: Method | None = None,
        criterion: Callable[..., Tensor] | None = None,
        task: str | Task = "auto",
        step: Step = standard,
        warmup: EpsWarmup | None = None,
        eval_attack: Attack | None = None,
        **kwargs: Any,
    ) -> None:
        if not hasattr(super(), "training_step"):
            raise ConfigurationError(
                "AdversarialTrainerMixin stands before a Trainer: class Hardened("
                "AdversarialTrainerMixin, Trainer), with Trainer from transformers"
            )
        own = [*inspect.signature(AdversarialTrainerMixin.__init__).parameters][2:-1]
        options = {name: kwargs.pop(name) for name in OF_METHOD if name in kwargs}
        refuse_unknown(type(self), [*own, *OF_METHOD], super().__init__, kwargs)
        if method is not None and options:
            raise ConfigurationError(
                f"the method has its own {', '.join(options)}; give them to make_method, or leave "
                "out method="
            )
        # Before the Trainer's constructor, which may call the hooks below.
        self._settings = Settings(
            method=method or make_method(**options),
            step=step,
            warmup=warmup,
            criterion=criterion,
            task=task,
            eval_attack=eval_attack,
        )
        self._hardening: Hardening | None = None
        self._evaluation: AttackedEvaluation | None = None
        self._group: Sequence[Any] = ()
        self._restored: dict[str, Any] | None = None
        self._unit: float | None = None
        super().__init__(*args, **kwargs)
        self._settings = _with_arguments(self._settings, self.args)
        refuse_trainer(self, self._settings)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's; hooks are gone afterwards, also after an exception."""
        self._restored = None
        try:
            return super().train(*args, **kwargs)
        finally:
            self._end()

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As the Trainer's: the batches of one step of the weights, which its loss is a mean of."""
        samples = super().get_batch_samples(*args, **kwargs)
        self._group = samples[0]
        return samples

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Attack a batch, and add the gradient of its share of the step's loss.

        Args:
            model: The Trainer's wrapped module.
            inputs: A batch; left as it is.
            num_items_in_batch: The Trainer's count of tokens; what examples weigh is counted here
                instead, as each term of the objective counts it.
        """
        group = self._group if any(one is inputs for one in self._group) else [inputs]
        position = next(i for i, one in enumerate(group) if one is inputs)
        model.train()
        if callable(getattr(self.optimizer, "train", None)):  # schedule-free optimizers
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        if self._hardening is None or self._hardening.wrapped is not self.model_wrapped:
            self._begin(inputs)
        assert self._hardening is not None
        with self.compute_loss_context_manager():
            return self._hardening(inputs, position, group)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """As the Trainer's, of clean inputs; attacked beside it where an attack is given."""
        if self._evaluation is not None:
            self._evaluation.add(self._prepare_inputs(inputs))
        return super().prediction_step(model, _visible(inputs, self.model), *args, **kwargs)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """As the Trainer's, with figures under ``eval_attack`` among the metrics."""
        settings = self._settings
        if settings.eval_attack is not None:
            self._evaluation = AttackedEvaluation(self, settings, settings.eval_attack, self._unit)
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            if self._evaluation is not None:
                output.metrics.update(self._evaluation.metrics(metric_key_prefix))
        finally:
            self._evaluation = None
        return output

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As the Trainer's; the log of training gets the figures of the method."""
        if self._hardening is not None and "loss" in logs:
            logs.update(self._hardening.figures())
        super().log(logs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        """Columns that say what may be perturbed are kept, although no model takes them."""
        known = self._signature_columns is not None
        super()._set_signature_columns_if_needed()
        if not known and self._signature_columns is not None:
            self._signature_columns = [*self._signature_columns, *RESERVED]

    def _save_rng_state(self, output_dir: str) -> None:
        """As the Trainer's, and the state of the attack beside it: a file a process."""
        super()._save_rng_state(output_dir)
        if self._hardening is not None:
            checkpoint_io.write(_file(output_dir), self._hardening.state_dict())

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """As the Trainer's, and the state of the attack, which its first step takes over."""
        super()._load_rng_state(checkpoint)
        if checkpoint is None:
            return
        if not _file(checkpoint).exists():
            raise CheckpointError(
                f"{checkpoint} has no {_file(checkpoint).name}: a plain Trainer wrote it, or one "
                "with another number of processes. To harden a model trained so far, load its "
                "weights by from_pretrained and start anew"
            )
        self._restored = checkpoint_io.read(_file(checkpoint))

    def _begin(self, inputs: Mapping[str, Any]) -> None:
        """Check everything and set the hooks, at the first batch of a run."""
        self._end()
        refuse_reentrant(self.model)
        self._hardening = Hardening(self, self._settings, inputs)
        if self._restored is not None:
            self._hardening.load_state_dict(self._restored)
        hooks = self._hardening.state.hooks
        self._unit = None if hooks is None else hooks.unit

    def _end(self) -> None:
        if self._hardening is not None:
            self._hardening.close()
            self._hardening = None


def _with_arguments(settings: Settings, args: Any) -> Settings:
    """The settings with what the Trainer's own arguments say: its seed, its label smoothing."""
    method, smoothing = settings.method, args.label_smoothing_factor
    if smoothing and method.label_smoothing not in (0.0, smoothing):
        raise ConfigurationError(
            f"label_smoothing={method.label_smoothing} contradicts the TrainingArguments' "
            f"label_smoothing_factor={smoothing}; give one of them"
        )
    if smoothing:
        method = replace(method, label_smoothing=smoothing)
    return replace(settings, method=method, seed=args.seed)


def _visible(inputs: dict[str, Any], module: nn.Module) -> dict[str, Any]:
    """Without the columns that are the space's alone."""
    if not any(name in inputs for name in RESERVED):
        return inputs
    arguments = parameters(module)
    return {k: v for k, v in inputs.items() if k not in RESERVED or k in arguments}


def _file(folder: str) -> Path:
    return Path(folder) / f"artplus_{distributed.rank()}.ckpt"
