"""Words replaced by their neighbours in an embedding, chosen by the gradient."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.evaluation.words._base import Attempt
from artplus.evaluation.words._search import Change, Node, climb
from artplus.evaluation.words.neighbours import Neighbours
from artplus.evaluation.words.spelling import Spelling, kept
from artplus.evaluation.words.text_model import Encoding, Gradient, TextModel, ids_of


@dataclass(frozen=True, kw_only=True)
class WordSubstitution:
    r"""Words replaced by their neighbours in an embedding, chosen by the gradient: HotFlip.

    A replacement of token :math:`a` by :math:`b` at place :math:`t` raises the margin
    :math:`m = \max_{k \ne y} z_k - z_y` to first order by [Ebrahimi18]_

    .. math:: (e_b - e_a)^\top \nabla_{e_t} m

    In each round the ``tries`` replacements of the greatest gain are put into the text, the text
    is tokenised again and the model asked; the one that raises the margin most is kept. It ends
    when the prediction is wrong, when no replacement helps, or when the budget is spent. Only
    words that are one token are replaced, and only by whole words: no pieces, no special tokens.
    Function words and negations are left alone, as in [Jin20]_.

    Neighbours are near in a *fixed* embedding, that of ``embeddings=`` of :func:`attack_texts`. A
    model that was trained adversarially moves its own embedding, and with it what counts as near:
    measured by its own, it would choose its own threat. Neighbours in an embedding are no
    synonyms ("good" is near "bad"); word vectors made for that purpose [Mrksic16]_ can be given as
    ``embeddings={word: vector}``, for which [Yoo21]_ use a similarity of 0.8.

    Args:
        share: Share of the words that may be replaced, rounded up; 0.1 in [Yoo21]_.
        least: Words that may be replaced in a short text all the same; 4 in [Yoo21]_.
        candidates: Neighbours of a word; 50 in [Li21b]_.
        similarity: Least cosine of a neighbour. The rows of all-MiniLM-L6-v2 are nearer than 0.5
            to 2.4 words on average, mostly other forms ("transfer", "transfers") and words of like
            meaning; there 0.8 leaves 13 % of the words any neighbour.
        tries: Replacements that the model is asked about in each round.
        beam: Texts that each round goes on with; 1 is greedy.
        keep: Words left alone; default: English function words and negations.

    Raises:
        ConfigurationError: for settings out of range.

    References:
        .. [Ebrahimi18] Ebrahimi et al., "HotFlip: white-box adversarial examples for text
           classification", ACL 2018, https://arxiv.org/abs/1712.06751
        .. [Yoo21] Yoo and Qi, "Towards improving adversarial training of NLP models", Findings of
           EMNLP 2021, https://arxiv.org/abs/2109.00544
        .. [Li21b] Li et al., "Searching for an effective defender: benchmarking defense against
           adversarial word substitution", EMNLP 2021, https://arxiv.org/abs/2108.12777
        .. [Mrksic16] Mrkšić et al., "Counter-fitting word vectors to linguistic constraints",
           NAACL 2016, https://arxiv.org/abs/1603.00892
        .. [Jin20] Jin et al., "Is BERT really robust?", AAAI 2020,
           https://arxiv.org/abs/1907.11932
    """

    share: float = 0.1
    least: int = 4
    candidates: int = 50
    similarity: float = 0.5
    tries: int = 8
    beam: int = 1
    keep: Collection[str] | None = None

    def __post_init__(self) -> None:
        if not 0 <= _checks.nonnegative("share", self.share) <= 1:
            raise ConfigurationError(f"share is a share of the words, at most 1, got {self.share}")
        if not -1 <= self.similarity <= 1:
            raise ConfigurationError(
                f"similarity is a cosine, between -1 and 1, got {self.similarity!r}"
            )
        _checks.count("least", self.least, least=0)
        for name in ("candidates", "tries", "beam"):
            _checks.count(name, getattr(self, name))
        if self.keep is not None:  # in one order, so that equal settings are equal texts
            object.__setattr__(self, "keep", tuple(sorted(self.keep)))

    @property
    def name(self) -> str:
        """For tables."""
        return "word substitution"

    def run(
        self, model: TextModel, texts: Sequence[str], labels: Sequence[int], *, seed: int
    ) -> list[Attempt]:
        """An attempt for each text; nothing is random."""
        neighbours = Neighbours(model, self.candidates, self.similarity)
        spellings = [Spelling.of(text) for text in texts]

        def propose(nodes: list[Node]) -> list[list[Change]]:
            encodings = model.encode([node.spelling.text for node in nodes], offsets=True)
            grads = model.gradients(encodings, [labels[node.source] for node in nodes])
            return [
                self._changes(node, tokens(model, node.spelling, encoding), grad, neighbours)
                for node, encoding, grad in zip(nodes, encodings, grads, strict=True)
            ]

        return climb(
            model,
            spellings,
            labels,
            [self.budget(len(spelling.words)) for spelling in spellings],
            propose,
            beam=self.beam,
            tries=self.tries,
            cost=1,
        )

    def budget(self, words: int) -> int:
        """How many of so many words may be replaced."""
        return min(words, max(math.ceil(self.share * words), self.least))

    def _changes(
        self, node: Node, places: Mapping[int, int], gradient: Gradient, neighbours: Neighbours
    ) -> list[Change]:
        """Replacements of each word that may still be replaced, with their first-order gains."""
        keep = kept(self.keep)
        changes: list[tuple[int, str]] = []
        positions: list[int] = []
        new: list[int] = []
        for k, place in places.items():
            word = node.spelling.words[k]
            if k in node.changed or word.lower() in keep:
                continue
            for number, other in neighbours.of(int(gradient.ids[place]), word):
                changes.append((k, other))
                positions.append(place)
                new.append(number)
        if not changes:
            return []
        gains = first_order_gains(neighbours, gradient, positions, new)
        return [
            Change(k, word, gain) for (k, word), gain in zip(changes, gains.tolist(), strict=True)
        ]


def first_order_gains(
    neighbours: Neighbours, gradient: Gradient, positions: list[int], new: list[int]
) -> Tensor:
    r"""By how much each replacement raises the margin to first order, ``(replacements,)``."""
    old = gradient.ids[positions]
    rows = neighbours.vectors(torch.as_tensor(new)) - neighbours.vectors(old)
    return (rows * gradient.grads[positions]).sum(1).cpu()


def tokens(model: TextModel, spelling: Spelling, encoding: Encoding) -> dict[int, int]:
    """Which token each word is, for words that are one token."""
    ids = ids_of(encoding).tolist()
    places: dict[int, int] = {}
    if "offset_mapping" in encoding:
        text = spelling.text
        at = {}
        for position, (start, end) in enumerate(encoding["offset_mapping"].tolist()):
            piece = text[start:end]
            at[start + len(piece) - len(piece.lstrip()), end] = position
        for k, span in enumerate(spelling.spans):
            position = at.get(span, -1)
            if position >= 0 and ids[position] in model.whole_words:
                places[k] = position
        return places
    position = 0
    for k, word in enumerate(spelling.words):
        numbers = {model.ids.get(word), model.ids.get(word.lower())} - {None}
        place = next((p for p in range(position, len(ids)) if ids[p] in numbers), None)
        if place is not None:
            places[k], position = place, place + 1
    return places
