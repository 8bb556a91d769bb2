"""How a text classifier fares when words are replaced or mistyped, beside the embedding attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from artplus.errors import ConfigurationError
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.analyses._measure import with_before
from artplus.evaluation.section import Model, Passage, Passages, Section, Table
from artplus.evaluation.words import TextAttack, TextOutcome, TextResult, WordSubstitution
from artplus.evaluation.words.outcome import attack_texts
from artplus.evaluation.words.spelling import differences
from artplus.spaces import EmbeddingSpace


@register_analysis("words")
@dataclass(frozen=True, kw_only=True)
class Words(BaseAnalysis):
    """Accuracy under replaced words and typing errors, with the changed words shown.

    An attack in embedding space moves each token by a small vector that belongs to no word, so a
    model that withstands it may fall to a synonym or a typing error. This section measures that,
    by :func:`~artplus.evaluation.words.attack_texts`, beside the report's own figure. A model given
    as ``before=`` is attacked too, on the same texts and with the same neighbours.

    Args:
        tokenizer: Hugging Face's, or a function from a text to ids or to a mapping with
            ``"input_ids"``: what made the inputs of the report from the texts.
        texts: Those of the report's examples, in their order; or others, with ``labels``.
        labels: True classes of ``texts``, if these are not those of the report.
        attacks: Default: :class:`~artplus.evaluation.words.WordSubstitution` and
            :class:`~artplus.evaluation.words.Typos`.
        embeddings: What counts as near: a model, a matrix with a row for each token id, or
            ``{word: vector}``; default: the model given as ``before=``, else the judged one.
        vocabulary: ``{word: id}``, for a tokenizer without ``get_vocab()``.
        layer: Name of the embedding in the module, if it holds several.
        n: Number of texts, the first; ``None`` is all.
        examples: Texts shown for each attack.

    Raises:
        ConfigurationError: in regression, without a tokenizer or texts, or for texts and labels
            of different number.

    Example:
        >>> import artplus, torch
        >>> words = {"good": 1, "fine": 2, "poor": 3, "film": 4}
        >>> def tokenizer(text):
        ...     return [words[word] for word in text.split()]
        >>> bag = torch.nn.Sequential(torch.nn.Embedding(5, 2), torch.nn.Flatten())
        >>> _ = bag[0].weight.data.copy_(torch.tensor([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0.]]))
        >>> analysis = Words(tokenizer=tokenizer, texts=["good", "poor"], vocabulary=words,
        ...                  attacks=[WordSubstitution(similarity=0.0)])
        >>> report = artplus.evaluate(bag, torch.tensor([[1], [3]]), [1, 0], attacks=["fgm"],
        ...                           eps=0.1, space=artplus.spaces.EmbeddingSpace(),
        ...                           analyses=[analysis], progress=False)
        >>> dict(report.sections[0].figures)["worst_accuracy"]
        0.0
    """

    name = "words"
    title = "Replaced words and typos"
    structured = True

    tokenizer: Callable[..., Any] | None = None
    texts: Sequence[str] | None = None
    labels: Sequence[int] | None = None
    attacks: Sequence[TextAttack] | None = None
    embeddings: Any = None
    vocabulary: Mapping[str, int] | None = None
    layer: str | None = None
    n: int | None = 200
    examples: int = field(default=4, metadata={"least": 0})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.texts, str):
            raise ConfigurationError("texts is a list of texts, got one: texts=[text]")
        for attack in self.attacks or ():
            if not isinstance(attack, TextAttack):
                raise ConfigurationError(
                    "words needs attacks on texts (WordSubstitution, Typos, TextAttackRecipe), got "
                    f"{type(attack).__name__}"
                )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        if not callable(self.tokenizer) or not self.texts:
            raise ConfigurationError(
                "words needs texts and what makes inputs of them: Words(tokenizer=..., texts=[...])"
            )
        wanted = setting.data.n if self.labels is None else len(self.labels)
        if len(self.texts) != wanted:
            whose = "examples in the report" if self.labels is None else "labels"
            raise ConfigurationError(
                f"words got {len(self.texts)} texts, and there are {wanted} {whose}; give the text "
                "of each example, or other texts with labels="
            )

    def __call__(self, subject: Subject) -> Section:
        outcomes = self._outcomes(subject)
        after = outcomes[""]
        beside = self._embedding_accuracy(subject, after.clean.n)
        return self.section(
            _summary(outcomes, beside),
            (
                *(_accuracies(outcome, model) for model, outcome in outcomes.items()),
                *(_efforts(outcome, model) for model, outcome in outcomes.items()),
                *(
                    _passages(outcome.attacks[name], outcome, places, subject, model)
                    for name in after.attacks
                    for places in [self._shown(outcomes, name)]
                    for model, outcome in outcomes.items()
                    if places
                ),
            ),
            figures={
                "clean_accuracy": after.clean.accuracy,
                **{
                    f"accuracy_{name.replace(' ', '_')}": result.accuracy
                    for name, result in after.attacks.items()
                },
                "worst_accuracy": after.worst.accuracy,
                "embedding_accuracy": beside,
            },
            notes=self._notes(subject, after),
        )

    def _outcomes(self, subject: Subject) -> dict[Model, TextOutcome]:
        """The judged model's, after that of the one before, if given."""
        assert self.tokenizer is not None and self.texts is not None  # check() refuses others
        labels = subject.data.labels().numpy() if self.labels is None else np.asarray(self.labels)
        outcomes: dict[Model, TextOutcome] = {}
        for model, data in subject.models.items():
            outcomes[model] = attack_texts(
                data.model,
                self.tokenizer,
                self.texts[: self.n],
                labels[: self.n],
                attacks=self.attacks,
                embeddings=subject.before if self.embeddings is None else self.embeddings,
                vocabulary=self.vocabulary,
                layer=self.layer,
                batch_size=data.batch_size,
                seed=subject.seed,
            )
        return outcomes

    def _embedding_accuracy(self, subject: Subject, n: int) -> float | None:
        """Accuracy under the report's attacks, if these are in embedding space."""
        correct = subject.report.correct_robust
        if correct is None or not isinstance(subject.data.space, EmbeddingSpace):
            return None
        return float((correct if self.labels is not None else correct[:n]).mean())

    def _shown(self, outcomes: Mapping[Model, TextOutcome], name: str) -> list[int]:
        """Which texts are shown: those that the attack broke in the judged model first."""
        places: dict[int, None] = {}
        for model in ("", "before"):
            if model in outcomes:
                places.update(dict.fromkeys(outcomes[model].attacks[name].broken.nonzero()[0]))
        return [int(k) for k in places][: self.examples]

    def _notes(self, subject: Subject, outcome: TextOutcome) -> tuple[str, ...]:
        n, result = outcome.clean.n, []
        whose = "given texts" if self.labels is not None else f"{subject.report.n} examples"
        result.append(
            f"The first {n} of the {whose}; seed {subject.seed}. Intervals: 95 %, Wilson. A "
            "stronger search can only lower the accuracies."
        )
        if any(isinstance(a, WordSubstitution) for a in self.attacks or (WordSubstitution(),)):
            source = "that was given"
            if self.embeddings is None:
                source = "of the model " + ("before hardening" if subject.before else "judged")
            result.append(
                f"Words are replaced by their neighbours in the embedding {source}. Neighbours are "
                "no synonyms: read the examples."
            )
        clean = subject.report.correct_clean
        if self.labels is None and clean is not None:
            others = int((clean[:n] != outcome.clean.correct).sum())
            if others:
                result.append(
                    f"{wording.plural(others, 'text')} of {n} fared otherwise without an attack "
                    "than in the report: is this its tokenizer, and are these its texts?"
                )
        return tuple(result)


def _summary(outcomes: Mapping[Model, TextOutcome], beside: float | None) -> str:
    after = outcomes[""]
    under = [
        f"{wording.percent(result.accuracy)} under {name}" for name, result in after.attacks.items()
    ]
    worst = with_before({m: o.worst.accuracy for m, o in outcomes.items()}, "percent")
    text = (
        f"Of {after.clean.n} texts the model gets {wording.percent(after.clean.accuracy)} right "
        f"without an attack, {', '.join(under)}, and {worst} in the worst case. Robustness in "
        "embedding space says little about words"
    )
    if beside is None:
        return f"{text}; it was not measured here."
    return (
        f"{text}: {wording.percent(beside)} withstand the report's attacks in embedding space, "
        f"{wording.percent(after.worst.accuracy)} those on words."
    )


def _accuracies(outcome: TextOutcome, model: Model) -> Table:
    return Table(
        columns=("attack", "accuracy", "interval", "n"),
        units=("text", "percent", "text", "count"),
        rows=tuple(
            (result.name, result.accuracy, wording.interval(result.interval), result.n)
            for result in outcome.results
        ),
        caption="Accuracy on texts without an attack, under each attack, and for each text under "
        "the worst of them.",
        model=model,
    )


def _efforts(outcome: TextOutcome, model: Model) -> Table:
    return Table(
        columns=("attack", "success", "words changed", "queries"),
        units=("text", "percent", "percent", "number"),
        rows=tuple(
            (result.name, result.success, result.mean_changed, result.mean_queries)
            for result in outcome.results
            if result is not outcome.clean
        ),
        caption="Success: share of the texts right without the attack that are wrong under it. "
        "Words changed: mean share in these. Queries: mean number of texts that the model was "
        "asked about.",
        model=model,
    )


def _passages(
    result: TextResult,
    outcome: TextOutcome,
    places: Sequence[int],
    subject: Subject,
    model: Model,
) -> Passages:
    passages = []
    for k in places:
        pairs = list(differences(outcome.texts[k], result.texts[k]))
        true, clean, now = (
            subject.class_name(int(classes[k]))
            for classes in (outcome.labels, outcome.clean.predictions, result.predictions)
        )
        said = f"True: {true}. Predicted: {clean}"
        if result.broken[k]:
            said += f", then {now}."
        else:
            said += "; the attack found nothing." if result.attacked[k] else " without an attack."
        passages.append(
            Passage(
                title=f"Text {k}",
                tokens=tuple(new for _, new in pairs),
                weights=(0.0,) * len(pairs),
                before=tuple(old for old, _ in pairs),
                text=said,
            )
        )
    return Passages(
        passages=tuple(passages),
        caption=f"Under {result.name}: crossed out, what stood there; underlined, what the attack "
        "put in its place.",
        model=model,
    )
