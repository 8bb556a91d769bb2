"""Attacks on texts: words replaced by their neighbours, typing errors, TextAttack's recipes.

An attack is ``(TextModel, texts, labels) -> attempts``; :func:`attack_texts` runs them.
"""

from artplus.evaluation.words._base import Attempt as Attempt
from artplus.evaluation.words._base import TextAttack as TextAttack
from artplus.evaluation.words.outcome import TextOutcome as TextOutcome
from artplus.evaluation.words.outcome import TextResult as TextResult
from artplus.evaluation.words.outcome import attack_texts as attack_texts
from artplus.evaluation.words.recipes import TextAttackRecipe as TextAttackRecipe
from artplus.evaluation.words.substitution import WordSubstitution as WordSubstitution
from artplus.evaluation.words.text_model import TextModel as TextModel
from artplus.evaluation.words.typos import Typos as Typos

__all__ = [
    "Attempt",
    "TextAttack",
    "TextAttackRecipe",
    "TextModel",
    "TextOutcome",
    "TextResult",
    "Typos",
    "WordSubstitution",
    "attack_texts",
]
