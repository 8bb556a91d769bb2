"""A beam search over texts whose words are replaced one at a time, many texts at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from artplus.evaluation.words._base import Attempt
from artplus.evaluation.words.spelling import Spelling
from artplus.evaluation.words.text_model import TextModel


@dataclass(frozen=True)
class Change:
    """A word to put in the place of another.

    Attributes:
        place: Which word of the text.
        word: The new one.
        gain: By how much it should raise the margin; the greatest are tried first.
    """

    place: int
    word: str
    gain: float = 0.0


@dataclass(frozen=True)
class Node:
    """A text on the way.

    Attributes:
        source: Which of the texts it comes from.
        spelling: Its words.
        changed: Places of the words that were replaced.
        margin: Of the model there: positive where it errs.
    """

    source: int
    spelling: Spelling
    changed: frozenset[int] = frozenset()
    margin: float = -math.inf

    def after(self, change: Change) -> Node:
        """The text with one more word replaced."""
        spelling = self.spelling.replaced(change.place, change.word)
        return Node(self.source, spelling, self.changed | {change.place})


Propose = Callable[[list[Node]], list[list[Change]]]
"""Words to try at each of some texts."""


@dataclass
class _Search:
    """One text's state: the best texts so far, the words still free, and what it cost."""

    label: int
    budget: int
    beam: list[Node]
    queries: int
    open: bool = field(init=False)

    def __post_init__(self) -> None:
        self.open = self.budget > 0


def climb(
    model: TextModel,
    texts: Sequence[Spelling],
    labels: Sequence[int],
    budgets: Sequence[int],
    propose: Propose,
    *,
    beam: int = 1,
    tries: int | None = None,
    cost: int = 0,
    queries: Sequence[int] | None = None,
) -> list[Attempt]:
    """Replace words while the margin rises, until the model errs or the budget is spent.

    Every step is verified: the model is asked about each text that is kept.

    Args:
        model: Asked about texts.
        texts: Where to start.
        labels: Their true classes.
        budgets: How many words of each may be replaced.
        propose: Says what to try.
        beam: Texts kept in each round.
        tries: Changes that the model is asked about for each text and round, those of the greatest
            gain; ``None`` is all.
        cost: Queries that a proposal costs.
        queries: What each text has cost before.
    """
    margins = model.margins([text.text for text in texts], labels).tolist()
    searches = [
        _Search(label, budget, [Node(k, text, margin=margin)], spent + 1)
        for k, (text, label, budget, margin, spent) in enumerate(
            zip(texts, labels, budgets, margins, queries or [0] * len(texts), strict=True)
        )
    ]
    while any(search.open for search in searches):
        nodes = [node for search in searches if search.open for node in search.beam]
        tried: dict[int, dict[str, tuple[float, Node, float]]] = {}
        for node, changes in zip(nodes, propose(nodes), strict=True):
            searches[node.source].queries += cost
            nexts = tried.setdefault(node.source, {})
            for change in changes:
                after, value = node.after(change), node.margin + change.gain
                known = nexts.get(after.spelling.text)
                if known is None or known[0] < value:
                    nexts[after.spelling.text] = value, after, node.margin
        kept = {
            source: sorted(nexts.values(), key=lambda item: -item[0])[:tries]
            for source, nexts in tried.items()
        }
        _advance(model, searches, kept, beam)
    return [Attempt(search.beam[0].spelling.text, search.queries) for search in searches]


def _advance(
    model: TextModel,
    searches: list[_Search],
    tried: dict[int, list[tuple[float, Node, float]]],
    beam: int,
) -> None:
    """Ask the model about what is tried, and keep what raised the margin."""
    flat = [(node, parent) for nexts in tried.values() for _, node, parent in nexts]
    labels = [searches[node.source].label for node, _ in flat]
    margins = model.margins([node.spelling.text for node, _ in flat], labels)
    better: dict[int, list[Node]] = {source: [] for source in tried}
    for (node, parent), value in zip(flat, margins.tolist(), strict=True):
        searches[node.source].queries += 1
        if value > parent:  # false for a text without an answer, NaN
            better[node.source].append(Node(node.source, node.spelling, node.changed, value))
    for source, nodes in better.items():
        search = searches[source]
        if nodes:
            search.beam = sorted(nodes, key=lambda node: -node.margin)[:beam]
        best = search.beam[0]
        search.open = bool(nodes) and best.margin <= 0 and len(best.changed) < search.budget
