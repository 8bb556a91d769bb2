"""The section on words: figures, examples, both models, and what it refuses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import artplus
from artplus.errors import ConfigurationError
from artplus.evaluation import Report, Section, wording
from artplus.evaluation.analyses import Words
from artplus.evaluation.section import Passage, Passages, Table
from artplus.evaluation.words import Typos, WordSubstitution, attack_texts
from artplus.evaluation.words.spelling import Spelling
from artplus.spaces import EmbeddingSpace
from tests.evaluation.analyses.subjects import blocks
from tests.evaluation.reading import (
    VOCABULARY,
    Bag,
    bert,
    predictions,
    whitespace,
    wordpiece,
)

TEXTS = ["good film story", "dull slow plot", "great actor scene", "bad movie plot", "poor quick a"]
ANY = WordSubstitution(similarity=-1.0, tries=20)


def evaluated(model: nn.Module, analysis: Words, *, eps: float = 0.05, **options: Any) -> Report:
    """A report by an embedding attack, with this section."""
    x = torch.tensor([whitespace(text) for text in TEXTS])
    y = options.pop("y", None)
    y = torch.tensor(predictions(model, whitespace, TEXTS)) if y is None else y
    return artplus.evaluate(
        model, x, y, attacks=["fgm"], eps=eps, space=EmbeddingSpace(), analyses=[analysis],
        progress=False, **options,
    )  # fmt: skip


def words(**options: Any) -> Words:
    options = {"tokenizer": whitespace, "texts": TEXTS, "vocabulary": VOCABULARY,
               "attacks": [ANY, Typos()], **options}  # fmt: skip
    return Words(**options)


def section(*given: Any, **options: Any) -> Section:
    (found,) = evaluated(*given, **options).sections
    return found


def test_figures_are_those_of_the_attacks_run_alone() -> None:
    """One implementation: the section says what ``attack_texts`` says."""
    model = Bag(seed=4)
    y = torch.tensor(predictions(model, whitespace, TEXTS))
    y[0] = 1 - y[0]
    found = section(model, words(), y=y, seed=3)
    outcome = attack_texts(
        model, whitespace, TEXTS, y, attacks=[ANY, Typos()], vocabulary=VOCABULARY, seed=3
    )
    figures = dict(found.figures)
    assert figures["clean_accuracy"] == outcome.clean.accuracy == 0.8
    assert figures["worst_accuracy"] == outcome.worst.accuracy
    assert figures["accuracy_word_substitution"] == outcome.attacks["word substitution"].accuracy
    assert figures["accuracy_typos"] == outcome.attacks["typos"].accuracy
    accuracies, efforts = blocks(found, Table)
    assert [row[0] for row in accuracies.rows] == [r.name for r in outcome.results]
    for row, result in zip(accuracies.rows, outcome.results, strict=True):
        assert row[1] == result.accuracy and row[3] == result.n == 5
        assert row[2] == wording.interval(result.interval)
    for row, result in zip(efforts.rows, outcome.results[1:], strict=True):
        assert row == (result.name, result.success, result.mean_changed, result.mean_queries)
    assert "fared otherwise" not in " ".join(found.notes)


def test_the_summary_says_what_embedding_robustness_does_not() -> None:
    """With both numbers, of the same examples."""
    model = Bag(seed=4)
    report = evaluated(model, words(), eps=0.001)
    (found,) = report.sections
    assert "Robustness in embedding space says little about words" in found.summary
    figures = dict(found.figures)
    assert figures["embedding_accuracy"] == report.robust_accuracy == 1.0
    assert figures["worst_accuracy"] < 1.0
    assert "100.0% withstand the report's attacks in embedding space" in found.summary
    few = evaluated(model, words(n=2), eps=1.0)
    correct = few.correct_robust
    assert correct is not None
    assert dict(few.sections[0].figures)["embedding_accuracy"] == float(correct[:2].mean())


def test_changed_words_are_shown_before_and_after() -> None:
    """Only broken texts, word by word; what is unchanged is itself."""
    model = Bag(seed=4)
    y = torch.tensor(predictions(model, whitespace, TEXTS))
    found = section(model, words(), class_names=["no", "yes"])
    outcome = attack_texts(
        model, whitespace, TEXTS, y, attacks=[ANY, Typos()], vocabulary=VOCABULARY
    )
    names = [result for result in outcome.attacks.values() if result.broken.any()]
    shown = blocks(found, Passages)
    assert len(shown) == len(names) >= 1
    for block, result in zip(shown, names, strict=True):
        assert result.name in block.caption
        for passage in block.passages:
            k = int(passage.title.split()[1])
            assert result.broken[k]
            assert passage.before == Spelling.of(TEXTS[k]).words
            assert passage.tokens == Spelling.of(result.texts[k]).words != passage.before
            assert re.search(r"True: (no|yes)\. Predicted: \1, then (no|yes)\.", passage.text)


def test_the_model_before_is_attacked_on_the_same_texts_with_the_same_neighbours() -> None:
    """Blocks of both in pairs; neighbours are those of the model before."""
    before, after = Bag(seed=4), Bag(seed=5)
    y = torch.tensor(predictions(after, whitespace, TEXTS))
    found = section(after, words(attacks=[WordSubstitution(similarity=0.2)]), before=before, y=y)
    assert "(before hardening: " in found.summary
    tables = blocks(found, Table)
    assert [table.model for table in tables] == ["before", "", "before", ""]
    assert tables[0].caption == tables[1].caption
    for model, table in ((before, tables[0]), (after, tables[1])):
        outcome = attack_texts(
            model, whitespace, TEXTS, y, attacks=[WordSubstitution(similarity=0.2)],
            vocabulary=VOCABULARY, embeddings=before,
        )  # fmt: skip
        assert [row[1] for row in table.rows] == [r.accuracy for r in outcome.results]
    shown = blocks(found, Passages)
    assert [block.model for block in shown] == ["before", ""]
    titles = [[passage.title for passage in block.passages] for block in shown]
    assert titles[0] == titles[1]
    assert "embedding of the model before hardening" in " ".join(found.notes)


def test_other_texts_and_labels() -> None:
    """Texts that are not the report's."""
    model = Bag(seed=4)
    texts = ["awful film", "good plot good"]
    labels = predictions(model, whitespace, texts)
    found = section(model, words(texts=texts, labels=labels))
    assert dict(found.figures)["clean_accuracy"] == 1.0
    assert "of the given texts" in found.notes[0]


def test_texts_that_are_not_those_of_the_inputs_are_noted() -> None:
    """Another order gives other clean predictions."""
    model = Bag(seed=4)
    y = predictions(model, whitespace, TEXTS)
    order = sorted(range(5), key=lambda k: y[k])
    found = section(model, words(texts=[TEXTS[k] for k in order]))
    assert 0 < sum(y) < 5 and y != [y[k] for k in order]
    assert "fared otherwise without an attack" in " ".join(found.notes)


def test_a_report_in_input_space_says_that_embeddings_were_not_measured() -> None:
    """No number stands where none is."""
    model = nn.Linear(3, 2)
    texts, x = ["a b"], torch.zeros(1, 3)

    def tokenizer(text: str) -> list[int]:
        return [1, 2, 3]

    class Float(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = model(ids.float())
            return out

    net = Float()
    report = artplus.evaluate(
        net, x, net(x).argmax(1), attacks=["fgsm"], eps=0.1, clip_values=(0, 1), progress=False,
        analyses=[Words(tokenizer=tokenizer, texts=texts, attacks=[Typos()])],
    )  # fmt: skip
    (found,) = report.sections
    assert "it was not measured here" in found.summary
    assert "embedding_accuracy" not in dict(found.figures)


def test_the_report_comes_back_from_json_and_is_drawn(tmp_path: Path) -> None:
    """Changed words survive, and stand in every format, escaped."""
    report = evaluated(Bag(seed=4), words())
    back = Report.from_json(report.to_json())
    assert back.sections == report.sections
    passage = next(b for b in back.sections[0].blocks if isinstance(b, Passages)).passages[0]
    old, new = next((a, b) for a, b in zip(passage.before, passage.tokens, strict=True) if a != b)
    page = report.save(tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<del>{old}</del> <ins>{new}</ins>" in page
    kept = next(a for a, b in zip(passage.before, passage.tokens, strict=True) if a == b)
    assert f'<span class="token ">{kept}</span>' in page
    text = report.save(tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"~~{old}~~ **{new}**" in text


def test_passages_without_changes_are_as_before() -> None:
    """Reports of earlier versions have no words before."""
    passage = Passage(title="t", tokens=("a", ""), weights=(0.0, 0.0), before=("a", "b"))
    assert passage.before == ("a", "b")
    with pytest.raises(ConfigurationError, match="a word before for each token"):
        Passage(title="t", tokens=("a",), weights=(0.0,), before=("a", "b"))


def test_a_transformer_s_report() -> None:
    """Columns of a tokenizer, padded in the report, not padded in the attacks: the same answers."""
    tokenizer = wordpiece()
    model = bert(tokenizer)
    texts = ["good film story", "unhappy actor", "the plot is dull"]
    columns = dict(tokenizer(texts, padding=True, return_tensors="pt"))
    y = torch.tensor(predictions(model, tokenizer, texts))
    report = artplus.evaluate(
        model, columns, y, attacks=["fgm"], eps=0.01, space=EmbeddingSpace(), progress=False,
        analyses=[Words(tokenizer=tokenizer, texts=texts, attacks=[ANY, Typos()])],
    )  # fmt: skip
    (found,) = report.sections
    assert dict(found.figures)["clean_accuracy"] == 1.0 == report.clean_accuracy
    assert "fared otherwise" not in " ".join(found.notes)
    assert dict(found.figures)["worst_accuracy"] < 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": None}, "needs texts and what makes inputs"),
        ({"texts": None}, "needs texts and what makes inputs"),
        ({"texts": ["one"]}, "got 1 texts, and there are 5 examples in the report"),
        ({"labels": [1, 0]}, "got 5 texts, and there are 2 labels"),
        ({"texts": "one"}, "list of texts, got one"),
        ({"attacks": [3]}, "needs attacks on texts .* got int"),
        ({"n": 0}, "n must be"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_refused_before_the_attacks(options: dict[str, Any], message: str) -> None:
    """With what was expected and what came."""
    with pytest.raises(ConfigurationError, match=message):
        evaluated(Bag(), words(**options))
