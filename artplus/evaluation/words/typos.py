"""Typing errors in the words that matter most."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from artplus import _checks, seeding
from artplus.errors import ConfigurationError
from artplus.evaluation.words._base import Attempt
from artplus.evaluation.words._search import Change, Node, climb
from artplus.evaluation.words.spelling import Spelling, kept
from artplus.evaluation.words.text_model import TextModel

Typo = Literal["swap", "drop", "key", "insert"]

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


def _neighbouring_keys() -> dict[str, str]:
    """Letters beside each letter on a QWERTY keyboard, whose rows are staggered by half a key."""
    places = {
        letter: (row, column + (0.0, 0.25, 0.75)[row])
        for row, letters in enumerate(_ROWS)
        for column, letter in enumerate(letters)
    }
    return {
        letter: "".join(
            other
            for other, (r, c) in places.items()
            if other != letter and abs(r - row) <= 1 and abs(c - column) <= 1
        )
        for letter, (row, column) in places.items()
    }


KEYS = _neighbouring_keys()
"""Lower-case letters beside each letter."""


@dataclass(frozen=True, kw_only=True)
class Typos:
    """Typing errors: letters swapped, left out, mistyped or added, as in [Pruthi19]_.

    The first and the last letter of a word stay, since readers recognise words by them; short
    words and function words are left alone, and a word gets one error. Words are chosen by their
    importance: how far the probability of the true class falls when the word is left out. In each
    of up to ``words`` rounds several errors in several words are tried, and the one that lowers the
    true class most is kept.

    Args:
        words: Words of a text that may get an error; 1 and 2 in the paper.
        variants: Errors tried in each word.
        places: Words tried in each round, the most important first.
        kinds: ``"swap"`` two neighbouring letters, ``"drop"`` one, press a neighbouring ``"key"``
            of a QWERTY keyboard instead, or ``"insert"`` a letter. The last two are for
            letters a to z.
        shortest: Letters that a word needs to get an error; 4 in the paper.
        keep: Words left alone; default: English function words and negations.

    Raises:
        ConfigurationError: for a count below one or an unknown kind.

    References:
        .. [Pruthi19] Pruthi et al., "Combating adversarial misspellings with robust word
           recognition", ACL 2019, https://arxiv.org/abs/1905.11268
    """

    words: int = 1
    variants: int = 4
    places: int = 4
    kinds: tuple[Typo, ...] = ("swap", "drop", "key", "insert")
    shortest: int = 4
    keep: Collection[str] | None = None

    def __post_init__(self) -> None:
        for name in ("words", "variants", "places"):
            _checks.count(name, getattr(self, name))
        _checks.count("shortest", self.shortest, least=3)
        object.__setattr__(self, "kinds", tuple(self.kinds))
        if self.keep is not None:  # in one order, so that equal settings are equal texts
            object.__setattr__(self, "keep", tuple(sorted(self.keep)))
        unknown = [kind for kind in self.kinds if kind not in get_args(Typo)]
        if unknown or not self.kinds:
            raise ConfigurationError(
                f"kinds are some of {', '.join(get_args(Typo))}, got {self.kinds!r}"
            )

    @property
    def name(self) -> str:
        """For tables."""
        return "typos"

    def run(
        self, model: TextModel, texts: Sequence[str], labels: Sequence[int], *, seed: int
    ) -> list[Attempt]:
        """An attempt for each text."""
        spellings = [Spelling.of(text) for text in texts]
        orders, queries = self._orders(model, spellings, labels)
        # Seeded by the text itself, so that no text's errors depend on the others.
        draws = [random.Random(seeding.derived(seed, f"typos {text}")) for text in texts]

        def propose(nodes: list[Node]) -> list[list[Change]]:
            return [
                [
                    Change(k, word)
                    for k in [k for k in orders[node.source] if k not in node.changed][
                        : self.places
                    ]
                    for word in self.of(node.spelling.words[k], draws[node.source])
                ]
                for node in nodes
            ]

        budgets = [min(self.words, len(order)) for order in orders]
        return climb(model, spellings, labels, budgets, propose, queries=queries)

    def of(self, word: str, draw: random.Random) -> list[str]:
        """Up to ``variants`` different misspellings of a word, their kinds equally likely."""
        options = {kind: misspellings(word, kind) for kind in self.kinds}
        chosen: list[str] = []
        while len(chosen) < self.variants and any(options.values()):
            kind = draw.choice([kind for kind in self.kinds if options[kind]])
            new = options[kind].pop(draw.randrange(len(options[kind])))
            if new not in chosen:
                chosen.append(new)
        return chosen

    def _orders(
        self, model: TextModel, texts: list[Spelling], labels: Sequence[int]
    ) -> tuple[list[list[int]], list[int]]:
        """Words that may get an error, the most important first, and what it cost to know."""
        keep = kept(self.keep)
        places = [
            [
                k
                for k, word in enumerate(text.words)
                if word.isalpha() and len(word) >= self.shortest and word.lower() not in keep
            ]
            for text in texts
        ]
        asked = [(n, k) for n, of_text in enumerate(places) if len(of_text) > 1 for k in of_text]
        logits = model.logits([texts[n].without(k).text for n, k in asked])
        orders, queries = [list(of_text) for of_text in places], [0] * len(texts)
        importance: dict[tuple[int, int], float] = {}
        if asked:
            classes = torch.as_tensor([labels[n] for n, _ in asked])[:, None]
            losses = -logits.log_softmax(1).gather(1, classes).squeeze(1)
            values = torch.nan_to_num(losses, nan=-torch.inf).tolist()
            importance = dict(zip(asked, values, strict=True))
        for n, order in enumerate(orders):
            if len(order) > 1:
                order.sort(key=lambda k, n=n: -importance[n, k])  # type: ignore[misc]
                queries[n] = len(order)
        return orders, queries


def misspellings(word: str, kind: Typo) -> list[str]:
    """Every misspelling of one kind that keeps the first and the last letter, without repetition.

    Example:
        >>> misspellings("card", "swap"), misspellings("card", "drop")
        (['crad'], ['crd', 'cad'])
    """
    inner = range(1, len(word) - 1)
    if kind == "swap":
        new = [word[:k] + word[k + 1] + word[k] + word[k + 2 :] for k in inner[:-1]]
    elif kind == "drop":
        new = [word[:k] + word[k + 1 :] for k in inner]
    elif kind == "key":
        new = [
            word[:k] + _cased(key, word[k]) + word[k + 1 :]
            for k in inner
            for key in KEYS.get(word[k].lower(), "")
        ]
    else:
        new = [
            word[:k] + _cased(letter, word[k - 1]) + word[k:]
            for k in range(1, len(word))
            for letter in (KEYS if word.isascii() else ())
        ]
    return [one for one in dict.fromkeys(new) if one != word]


def _cased(letter: str, like: str) -> str:
    """A letter, a capital if its model is one."""
    return letter.upper() if like.isupper() else letter
