"""A text as words with what stands between them, and what changed from one text to another."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher

_WORD = re.compile(r"\w+(?:['’]\w+)*")

STOP_WORDS = frozenset(
    "a an the this that these those i me my mine myself you your yours yourself he him his himself "
    "she her hers herself it its itself we us our ours ourselves they them their theirs themselves "
    "who whom whose which what when where why how am is are was were be been being have has had "
    "having do does did doing done will would shall should can could may might must ought and or "
    "but nor so yet if then than because while until unless although though as of at by for with "
    "about against between into through during before after above below to from up down in out on "
    "off over under again further once here there all any both each few more most other some such "
    "no not never none nothing only own same too very just also now without cannot "
    "don't doesn't didn't isn't aren't wasn't weren't haven't hasn't hadn't won't wouldn't "
    "shouldn't can't couldn't mustn't i'm i'd i'll i've it's you're you'd we're they're that's "
    "what's let's there's".split()
)
"""English function words and negations, which attacks leave alone: another one changes the meaning
or the grammar, not the choice of words.
"""


def kept(words: Collection[str] | None) -> frozenset[str]:
    """Words to leave alone, in lower case; ``None`` is :data:`STOP_WORDS`."""
    return STOP_WORDS if words is None else frozenset(word.lower() for word in words)


@dataclass(frozen=True)
class Spelling:
    """A text in words.

    Attributes:
        words: Letters, digits and inner apostrophes.
        gaps: What stands before, between and after them; one more than there are words.

    Example:
        >>> text = Spelling.of("Where's my card?")
        >>> text.words, text.replaced(2, "cart").text
        (("Where's", 'my', 'card'), "Where's my cart?")
    """

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Spelling:
        """The words of a text."""
        found = list(_WORD.finditer(text))
        ends = [0, *(match.end() for match in found)]
        starts = [*(match.start() for match in found), len(text)]
        return cls(
            tuple(match.group() for match in found),
            tuple(text[end:start] for end, start in zip(ends, starts, strict=True)),
        )

    @property
    def text(self) -> str:
        """All of it."""
        return self.gaps[0] + "".join(
            word + gap for word, gap in zip(self.words, self.gaps[1:], strict=True)
        )

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """Where each word starts and ends in the text."""
        spans, place = [], 0
        for gap, word in zip(self.gaps, self.words, strict=False):
            start = place + len(gap)
            place = start + len(word)
            spans.append((start, place))
        return tuple(spans)

    def replaced(self, k: int, word: str) -> Spelling:
        """The same with another word at ``k``."""
        return replace(self, words=(*self.words[:k], word, *self.words[k + 1 :]))

    def without(self, k: int) -> Spelling:
        """The same with word ``k`` left out, and the gap before it, or after the first word."""
        gap = k or 1
        return Spelling(
            (*self.words[:k], *self.words[k + 1 :]), (*self.gaps[:gap], *self.gaps[gap + 1 :])
        )


def differences(before: str, after: str) -> Iterator[tuple[str, str]]:
    """Word for word what stood there before and what stands there after; ``""`` where none does.

    Example:
        >>> list(differences("pay my bill", "pay my invoice now"))
        [('pay', 'pay'), ('my', 'my'), ('bill', 'invoice'), ('', 'now')]
    """
    old, new = Spelling.of(before).words, Spelling.of(after).words
    if len(old) == len(new):
        yield from zip(old, new, strict=True)
        return
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    for _, i1, i2, j1, j2 in matcher.get_opcodes():
        for k in range(max(i2 - i1, j2 - j1)):
            yield old[i1 + k] if i1 + k < i2 else "", new[j1 + k] if j1 + k < j2 else ""


def share_changed(before: str, after: str) -> float:
    """Share of the words that were replaced, left out or added, of those before; 0 to 1."""
    pairs = list(differences(before, after))
    return sum(old != new for old, new in pairs) / len(pairs) if pairs else 0.0
