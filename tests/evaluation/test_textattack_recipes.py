"""TextAttack's recipes through the adapter, against a small stand-in of its interface.

The stand-in has what the adapter uses, as version 0.3.11 has it: ``ModelWrapper``, recipes with
``build(model_wrapper)``, ``Attack.attack(text, label)`` and its results, ``goal_function``.
"""

from __future__ import annotations

import random
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from artplus.errors import ConfigurationError
from artplus.evaluation.words import TextAttackRecipe, Typos, attack_texts
from tests.evaluation.reading import WORDS, Bag, bert, predictions, whitespace, wordpiece


class ModelWrapper(ABC):
    """As in ``textattack.models.wrappers``."""

    @abstractmethod
    def __call__(self, text_input_list: list[str], **kwargs: Any) -> Any:
        raise NotImplementedError

    def get_grad(self, text_input: str) -> Any:
        raise NotImplementedError

    def _tokenize(self, inputs: list[str]) -> Any:
        raise NotImplementedError

    def tokenize(self, inputs: list[str], strip_prefix: bool = False) -> Any:
        return self._tokenize(inputs)


class FirstWord:
    """A recipe: other words in the place of the first, in random order."""

    @staticmethod
    def build(model_wrapper: ModelWrapper, words: tuple[str, ...] = tuple(WORDS)) -> Any:
        if not isinstance(model_wrapper, ModelWrapper):
            raise TypeError("no wrapper")
        goal = SimpleNamespace(model=model_wrapper, query_budget=float("inf"))

        def attack(example: str, ground_truth_output: int) -> Any:
            assert isinstance(example, str) and isinstance(ground_truth_output, int)
            new, queries = example, 1
            for word in random.sample(words, len(words)):
                if queries >= goal.query_budget:
                    break
                tried = " ".join([word, *example.split()[1:]])
                scores, queries = goal.model([tried]), queries + 1
                # TextAttack makes probabilities of scores, and refuses a sum off by 1e-6.
                assert ((scores.softmax(1).sum(1) - 1).abs() < 1e-6).all()
                if int(scores[0].argmax()) != ground_truth_output:
                    new = tried
                    break
            return SimpleNamespace(perturbed_text=lambda: new, num_queries=queries)

        return SimpleNamespace(attack=attack, goal_function=goal)


@pytest.fixture
def textattack(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in, in place of the package."""
    modules = {name: ModuleType(name) for name in ("textattack", "textattack.models",
               "textattack.models.wrappers", "textattack.attack_recipes")}  # fmt: skip
    modules["textattack.models.wrappers"].ModelWrapper = ModelWrapper  # type: ignore[attr-defined]
    modules["textattack.attack_recipes"].FirstWord = FirstWord  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


TEXTS = ["good film story", "dull plot", "a great scene", "bad actor"]


def outcome(attack: Any, **options: Any) -> Any:
    model = Bag(seed=2)
    labels = predictions(model, whitespace, TEXTS)
    return attack_texts(model, whitespace, TEXTS, labels, attacks=[attack], **options)


@pytest.mark.usefixtures("textattack")
def test_a_recipe_is_run_and_its_results_are_predicted_again() -> None:
    """By name, by class and by a function, all the same."""
    named = outcome(TextAttackRecipe(recipe="FirstWord"), seed=3)
    (result,) = named.attacks.values()
    assert result.name == "FirstWord" and result.broken.any()
    again = predictions(Bag(seed=2), whitespace, result.texts)
    assert again == result.predictions.tolist()
    by_class = outcome(TextAttackRecipe(recipe=FirstWord), seed=3)
    by_function = outcome(TextAttackRecipe(recipe=FirstWord.build), seed=3)
    assert named.worst.texts == by_class.worst.texts == by_function.worst.texts
    assert named.worst.queries.tolist() == by_class.worst.queries.tolist()


@pytest.mark.usefixtures("textattack")
def test_options_budget_and_seeds_reach_the_recipe() -> None:
    """The same seed gives the same texts, whatever was drawn before."""
    recipe = TextAttackRecipe(recipe="FirstWord", options={"words": ("film", "poor")})
    assert all(text.split()[0] in {"film", "poor", *(t.split()[0] for t in TEXTS)}
               for text in outcome(recipe).worst.texts)  # fmt: skip
    few = outcome(TextAttackRecipe(recipe="FirstWord", query_budget=2))
    assert max(few.worst.queries) <= 2
    recipe = TextAttackRecipe(recipe="FirstWord")
    runs = []
    for _ in range(2):
        random.seed()
        runs.append(outcome(recipe, seed=1).worst.texts)
    assert runs[0] == runs[1]
    state = random.getstate()
    outcome(recipe, seed=1)
    assert random.getstate() == state


@pytest.mark.usefixtures("textattack")
def test_the_wrapper_gives_gradients_and_tokens() -> None:
    """In the form that gradient recipes use: ids and an array with a row for each."""
    tokenizer, wrappers = wordpiece(), []

    def recipe(wrapper: Any) -> Any:
        wrappers.append(wrapper)
        return FirstWord.build(wrapper)

    model = bert(tokenizer)
    labels = predictions(model, tokenizer, TEXTS)
    attack_texts(model, tokenizer, TEXTS, labels, attacks=[TextAttackRecipe(recipe=recipe)])
    (wrapper,) = wrappers
    found = wrapper.get_grad("good film")
    assert found["ids"] == tokenizer("good film")["input_ids"]
    assert found["gradient"].shape == (4, 32) and abs(found["gradient"]).sum() > 0
    assert wrapper.tokenize(["good film"]) == [["[CLS]", "good", "film", "[SEP]"]]
    assert wrapper.model is model and wrapper.tokenizer is tokenizer
    assert wrapper(["good film", "dull"]).dtype == torch.float64


@pytest.mark.usefixtures("textattack")
def test_unknown_recipes_are_refused_with_the_known_ones() -> None:
    """So are recipes of no kind."""
    with pytest.raises(ConfigurationError, match="no recipe 'SecondWord'; it has FirstWord"):
        outcome(TextAttackRecipe(recipe="SecondWord"))
    with pytest.raises(ConfigurationError, match="got int"):
        TextAttackRecipe(recipe=3)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="query_budget"):
        TextAttackRecipe(recipe="FirstWord", query_budget=0)


def test_without_textattack_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else needs it."""
    monkeypatch.setitem(sys.modules, "textattack", None)
    with pytest.raises(ConfigurationError, match="pip install textattack, or use"):
        outcome(TextAttackRecipe(recipe="FirstWord"))
    assert outcome(Typos()).clean.accuracy == 1.0
