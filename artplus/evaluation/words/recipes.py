"""TextAttack's recipes, for whoever has installed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import torch

from artplus import _checks, seeding
from artplus.errors import ConfigurationError
from artplus.evaluation.words._base import Attempt
from artplus.evaluation.words.text_model import TextModel, ids_of


@dataclass(frozen=True, kw_only=True)
class TextAttackRecipe:
    """An attack of TextAttack [Morris20]_, judged like the other attacks on texts.

    Needs ``pip install textattack``; most recipes download word vectors, a language model or lists
    of words when they are built. TextAttack searches, and what it returns is predicted again.

    Args:
        recipe: The name of a class in ``textattack.attack_recipes``, such as ``"PWWSRen2019"``,
            ``"TextFoolerJin2019"`` or ``"A2TYoo2021"``; such a class; or a function from
            TextAttack's model wrapper to a ``textattack.Attack``.
        options: Passed to the recipe's ``build``.
        query_budget: Most queries for a text; ``None`` is no bound.

    Raises:
        ConfigurationError: if TextAttack is not installed or has no such recipe.

    References:
        .. [Morris20] Morris et al., "TextAttack: a framework for adversarial attacks, data
           augmentation, and adversarial training in NLP", EMNLP 2020,
           https://arxiv.org/abs/2005.05909
    """

    recipe: str | type | Callable[[Any], Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    query_budget: int | None = None

    def __post_init__(self) -> None:
        if self.query_budget is not None:
            _checks.count("query_budget", self.query_budget)
        if not isinstance(self.recipe, str) and not callable(self.recipe):
            raise ConfigurationError(
                "recipe is the name of one of textattack.attack_recipes, a class of it, or a "
                f"function from its model wrapper to an attack; got {type(self.recipe).__name__}"
            )

    @property
    def name(self) -> str:
        """For tables."""
        if isinstance(self.recipe, str):
            return self.recipe
        return getattr(self.recipe, "__name__", type(self.recipe).__name__)

    def run(
        self, model: TextModel, texts: Sequence[str], labels: Sequence[int], *, seed: int
    ) -> list[Attempt]:
        """An attempt for each text."""
        attack = self._built(_wrapped(model))
        if self.query_budget is not None:
            attack.goal_function.query_budget = self.query_budget
        attempts = []
        for text, label in zip(texts, labels, strict=True):
            # TextAttack draws from the global generators, which the caller restores.
            seeding.reseed(seeding.derived(seed, f"textattack {text}"))
            result = attack.attack(text, int(label))
            attempts.append(Attempt(result.perturbed_text(), int(result.num_queries)))
        return attempts

    def _built(self, wrapper: Any) -> Any:
        recipe: Any = self.recipe
        if isinstance(recipe, str):
            recipes = _textattack("attack_recipes")
            recipe = getattr(recipes, recipe, None)
            if recipe is None:
                known = [name for name in dir(recipes) if hasattr(getattr(recipes, name), "build")]
                raise ConfigurationError(
                    f"TextAttack has no recipe {self.recipe!r}; it has {', '.join(known)}"
                )
        return getattr(recipe, "build", recipe)(wrapper, **self.options)


def _textattack(name: str) -> Any:
    """A module of TextAttack."""
    try:
        return import_module(f"textattack.{name}")
    except ImportError as error:
        raise ConfigurationError(
            f"TextAttackRecipe needs TextAttack, which cannot be imported ({error}); pip install "
            "textattack, or use WordSubstitution and Typos, which need nothing"
        ) from error


def _wrapped(model: TextModel) -> Any:
    """The model as TextAttack asks it: a subclass of its ``ModelWrapper``, which it checks for."""
    base: Any = _textattack("models.wrappers").ModelWrapper

    class Wrapper(base):  # type: ignore[misc]
        """Scores, gradients and tokens of texts."""

        def __init__(self) -> None:
            self.model = model.model.module
            self.tokenizer = model.base
            self.max_length = getattr(model.base, "model_max_length", None)

        def __call__(self, text_input_list: Sequence[str], **_: Any) -> torch.Tensor:
            # In double precision: TextAttack wants probabilities that add up to 1 within 1e-6.
            return torch.nan_to_num(model.logits(list(text_input_list)).double())

        def get_grad(self, text_input: str) -> dict[str, Any]:
            """Gradient of the margin against the predicted class, and the ids."""
            predicted = int(model.logits([text_input]).argmax())
            (gradient,) = model.gradients(model.encode([text_input]), [predicted])
            return {"ids": gradient.ids.tolist(), "gradient": gradient.grads.cpu().numpy()}

        def _tokenize(self, inputs: Sequence[str]) -> list[list[str]]:
            encodings = model.encode(list(inputs))
            return [self.tokenizer.convert_ids_to_tokens(ids_of(e).tolist()) for e in encodings]

    return Wrapper()
