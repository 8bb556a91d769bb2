"""Attacks on texts: the right words are chosen, rules are kept, and results are verified."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus import fingerprint
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import wilson
from artplus.evaluation.words import Attempt, TextModel, Typos, WordSubstitution, attack_texts
from artplus.evaluation.words.neighbours import Neighbours
from artplus.evaluation.words.spelling import (
    STOP_WORDS,
    Spelling,
    differences,
    share_changed,
)
from artplus.evaluation.words.substitution import first_order_gains, tokens
from artplus.evaluation.words.text_model import Gradient
from artplus.evaluation.words.typos import KEYS, misspellings
from artplus.model import LossModel
from tests.evaluation.reading import (
    VOCABULARY,
    WORDS,
    Bag,
    Constant,
    Recurrent,
    bert,
    predictions,
    whitespace,
    wordpiece,
)

ANY = WordSubstitution(similarity=-1.0, tries=400)
TEXTS = ["good film", "a great story", "the plot is not very bad", "dull", "slow actor scene movie"]


def attacked(model: nn.Module, texts: list[str], attack: Any, **options: Any) -> Any:
    """The outcome on the model's own predictions."""
    labels = predictions(model, whitespace, texts)
    options = {"vocabulary": VOCABULARY, **options}
    return attack_texts(model, whitespace, texts, labels, attacks=[attack], **options)


def text_model(model: nn.Module, **options: Any) -> TextModel:
    options = {"vocabulary": VOCABULARY, **options}
    return TextModel(LossModel(model.eval()), whitespace, **options)


def exhaustive(model: nn.Module, text: str, budget: int) -> bool:
    """Whether any exchange of up to ``budget`` content words changes the prediction."""
    words = text.split()
    places = [k for k, word in enumerate(words) if word not in STOP_WORDS]
    choices = [word for word in WORDS if len(word) > 1]
    (before,) = predictions(model, whitespace, [text])
    for chosen in itertools.combinations(places, min(budget, len(places))):
        texts = []
        for new in itertools.product(choices, repeat=len(chosen)):
            other = list(words)
            for k, word in zip(chosen, new, strict=True):
                other[k] = word
            texts.append(" ".join(other))
        ids = torch.tensor([whitespace(one) for one in texts])
        with torch.no_grad():
            if bool((model(ids).argmax(1) != before).any()):
                return True
    return False


@pytest.mark.parametrize("tries", [1, 400])
@pytest.mark.parametrize("seed", range(12))
def test_substitution_finds_a_flip_where_exhaustive_search_does(seed: int, tries: int) -> None:
    """Logits of a bag of words are linear in each word: gains are exact, so one try is enough."""
    model = Bag(seed=seed)
    with torch.no_grad():  # a bias, so that some texts cannot be flipped
        model.out.bias[0] += 2.5 if seed % 2 else 0.0
    attack = WordSubstitution(similarity=-1.0, tries=tries, share=0.0, least=2)
    outcome = attacked(model, TEXTS, attack)
    expected = [exhaustive(model, text, 2) for text in TEXTS]
    assert outcome.worst.broken.tolist() == expected


def test_some_texts_flip_and_some_do_not() -> None:
    """The comparison above can fail either way."""
    flips = []
    for seed in range(12):
        model = Bag(seed=seed)
        with torch.no_grad():
            model.out.bias[0] += 2.5 if seed % 2 else 0.0
        attack = WordSubstitution(similarity=-1.0, tries=400, share=0.0, least=2)
        flips += attacked(model, TEXTS, attack).worst.broken.tolist()
    assert 5 < sum(flips) < len(flips) - 5


def test_first_order_gain_is_exact_on_a_linear_model() -> None:
    """The gain that ranks a replacement is by how much it raises the margin."""
    model = text_model(Bag())
    text, label = "good film", predictions(model.model.module, whitespace, ["good film"])[0]
    (gradient,) = model.gradients(model.encode([text]), [label])
    new = [VOCABULARY[word] for word in WORDS]
    gains = first_order_gains(Neighbours(model, 50, -1.0), gradient, [0] * len(new), new)
    before = model.margins([text], [label])
    after = model.margins([f"{word} film" for word in WORDS], [label] * len(WORDS))
    torch.testing.assert_close(gains, after - before, rtol=1e-4, atol=1e-5)


def test_gradients_are_autograds_at_the_embedding() -> None:
    """Of each text alone, whatever the lengths, and parameters collect nothing."""
    model, texts = text_model(Recurrent()), ["good film", "a great story", "dull", "bad plot"]
    found = model.gradients(model.encode(texts), [0, 1, 2, 0])
    for text, label, gradient in zip(texts, [0, 1, 2, 0], found, strict=True):
        net = model.model.module
        embedded = net.embedding(torch.tensor([whitespace(text)])).detach().requires_grad_(True)
        logits = net.out(net.gru(embedded)[0][:, -1])[0]
        others = torch.cat([logits[:label], logits[label + 1 :]]).max()
        (expected,) = torch.autograd.grad(others - logits[label], embedded)
        torch.testing.assert_close(gradient.grads, expected[0])
        assert gradient.ids.tolist() == whitespace(text)
    assert all(p.grad is None for p in model.model.module.parameters())


@pytest.mark.parametrize("beam", [1, 3])
def test_rules_of_substitution_are_kept(beam: int) -> None:
    """Budget, similarity, whole words, function words: each change is checked by itself."""
    tokenizer = wordpiece()
    model, reference = bert(tokenizer), bert(tokenizer)
    with torch.no_grad():
        reference.get_input_embeddings().weight.normal_()
    rows = nn.functional.normalize(reference.get_input_embeddings().weight.detach(), dim=1)
    texts = [*TEXTS, "Unhappy actor, great FILM!", "the story is not very bad, a good movie"]
    labels = predictions(model, tokenizer, texts)
    attack = WordSubstitution(share=0.3, least=1, similarity=0.05, candidates=5, beam=beam)
    outcome = attack_texts(model, tokenizer, texts, labels, attacks=[attack], embeddings=reference)
    changed = 0
    ids = tokenizer.get_vocab()
    for before, after in zip(texts, outcome.worst.texts, strict=True):
        words = Spelling.of(before).words
        assert Spelling.of(before).gaps == Spelling.of(after).gaps
        pairs = [(a, b) for a, b in differences(before, after) if a != b]
        assert len(pairs) <= max(1, math.ceil(0.3 * len(words)))
        changed += len(pairs)
        for old, new in pairs:
            assert old.lower() not in STOP_WORDS and old.lower() != "unhappy"
            assert new[:1].isupper() == old[:1].isupper()
            old, new = old.lower(), new.lower()
            assert new in ids and new != old and len(new) > 1
            cosines = rows @ rows[ids[old]]
            assert cosines[ids[new]] >= 0.05
            whole = [k for word, k in ids.items() if word.isalpha() and len(word) > 1]
            nearer = sum(bool(cosines[k] > cosines[ids[new]]) for k in whole)
            assert nearer <= 5  # the word itself and four others
    assert changed


def test_neighbours_are_near_in_the_fixed_embedding_alone() -> None:
    """A hardened model that moved its own embedding does not choose its threat."""
    plain, moved = Bag(seed=0), Bag(seed=3)
    by_plain = Neighbours(text_model(moved, embeddings=plain), 5, 0.0)
    by_matrix = Neighbours(text_model(moved, embeddings=plain.embedding.weight), 5, 0.0)
    vectors = {word: plain.embedding.weight[k].detach().numpy() for word, k in VOCABULARY.items()}
    by_word = Neighbours(text_model(moved, embeddings=vectors), 5, 0.0)
    own = Neighbours(text_model(moved), 5, 0.0)
    number = VOCABULARY["good"]
    assert by_plain.of(number, "good") == by_matrix.of(number, "good") == by_word.of(number, "good")
    assert by_plain.of(number, "good") != own.of(number, "good")
    rows = nn.functional.normalize(plain.embedding.weight.detach(), dim=1)
    nearest = max((w for w in WORDS if w not in ("good", "a")),
                  key=lambda w: float(rows[VOCABULARY[w]] @ rows[number]))  # fmt: skip
    assert by_plain.of(number, "good")[0][1] == nearest


def test_words_without_a_vector_have_no_neighbours() -> None:
    """A mapping may know some words only."""
    vectors = {"good": [1.0, 0.0], "fine": [1.0, 0.1], "bad": [0.9, 0.5]}
    neighbours = Neighbours(text_model(Bag(), embeddings=vectors), 50, 0.5)
    assert [word for _, word in neighbours.of(VOCABULARY["good"], "good")] == ["fine", "bad"]
    assert neighbours.of(VOCABULARY["film"], "film") == []


def test_a_robust_model_is_never_broken() -> None:
    """What always says the same stays right, and the budget of queries is bounded."""
    texts = [*TEXTS, "word"]
    outcome = attack_texts(
        Constant(), whitespace, texts, [0] * 6, vocabulary=VOCABULARY,
        attacks=[ANY, Typos()],
    )  # fmt: skip
    assert all(result.accuracy == 1.0 for result in outcome.results)
    assert all(result.texts == tuple(texts) for result in outcome.results)
    assert outcome.worst.success == 0.0 and outcome.worst.mean_changed is None
    assert not outcome.worst.changed.any()


def test_texts_that_are_wrong_already_are_not_attacked() -> None:
    """They cost nothing and count as wrong."""
    model = Bag()
    labels = [1 - k for k in predictions(model, whitespace, TEXTS)]
    outcome = attack_texts(model, whitespace, TEXTS, labels, vocabulary=VOCABULARY)
    assert outcome.clean.accuracy == outcome.worst.accuracy == 0.0
    assert not outcome.worst.queries.any() and outcome.worst.success is None


def test_results_do_not_depend_on_the_other_texts_or_the_batch() -> None:
    """Same seed, same result; each text stands alone."""
    model = Recurrent()
    texts = ["wonderful story", *TEXTS]
    typos = Typos(variants=2, places=2)
    whole = attacked(model, texts, typos, seed=4)
    parts = [attacked(model, [text], typos, seed=4, batch_size=1) for text in texts]
    assert whole.worst.texts == tuple(part.worst.texts[0] for part in parts)
    assert whole.worst.queries.tolist() == [int(part.worst.queries[0]) for part in parts]
    tried = {typos.of("wonderful", random.Random(seed))[0] for seed in range(20)}
    assert len(tried) > 5


@pytest.mark.parametrize("attack", [ANY, Typos()])
def test_the_model_is_left_as_it_was(attack: Any) -> None:
    """Modes, weights, gradients' flags and the random streams."""
    model = Recurrent().train()
    model.gru.eval()
    model.out.bias.requires_grad_(False)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    torch.manual_seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    attacked(model, TEXTS, attack)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1]) and random.getstate() == states[2]
    assert model.training and model.drop.training and not model.gru.training
    assert not model.out.bias.requires_grad and model.out.weight.requires_grad
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not model.embedding._forward_hooks


def test_a_transformer_with_a_word_piece_tokenizer() -> None:
    """Long and empty texts, pieces, accents and other scripts; results are predicted again."""
    tokenizer = wordpiece()
    model = bert(tokenizer)
    texts = [*TEXTS, "Café 你好 great plot, naïve!", "", "unhappy", "good " * 60, "👍 bad 👍"]
    cut = partial(tokenizer, truncation=True)
    labels = predictions(model, cut, texts)
    outcome = attack_texts(model, tokenizer, texts, labels, attacks=[ANY, Typos()], seed=1)
    assert outcome.clean.accuracy == 1.0
    for result in outcome.attacks.values():
        again = predictions(model, cut, result.texts)
        assert result.predictions.tolist() == again
        assert result.correct.tolist() == [a == b for a, b in zip(again, labels, strict=True)]
        assert result.broken.any()
    substituted, mistyped = outcome.attacks.values()
    assert substituted.texts[6] == mistyped.texts[6] == ""
    assert substituted.texts[7] == "unhappy"  # two pieces are no word to replace
    by_partial = attack_texts(model, cut, texts, labels, attacks=[ANY])
    assert by_partial.worst.texts == substituted.texts


def test_a_model_with_lora() -> None:
    """Adapters are part of the model, and nothing but the embedding's output is touched."""
    peft = pytest.importorskip("peft")
    tokenizer = wordpiece()
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
    model = peft.get_peft_model(bert(tokenizer), config)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    labels = predictions(model, tokenizer, TEXTS)
    outcome = attack_texts(model, tokenizer, TEXTS, labels, attacks=[ANY])
    assert outcome.worst.broken.any()
    assert predictions(model, tokenizer, outcome.worst.texts) == outcome.worst.predictions.tolist()
    assert trainable == [name for name, p in model.named_parameters() if p.requires_grad]


def test_tokens_of_words_with_and_without_offsets() -> None:
    """A word of one token is found where it stands; pieces and unknown words are not."""
    tokenizer = wordpiece()
    model = TextModel(LossModel(bert(tokenizer)), tokenizer)
    text = Spelling.of("A good, unhappy movie: good xyz.")
    (encoding,) = model.encode([text.text], offsets=True)
    found = tokens(model, text, encoding)
    pieces = tokenizer.convert_ids_to_tokens(encoding["input_ids"].tolist())
    assert {k: pieces[place] for k, place in found.items()} == {1: "good", 3: "movie", 4: "good"}
    plain = text_model(Bag())
    (encoding,) = plain.encode(["bad good xyz good"])
    found = tokens(plain, Spelling.of("bad good xyz good"), encoding)
    assert found == {0: 0, 1: 1, 3: 3}


def test_vocabularies_that_mark_the_start_of_a_word() -> None:
    """Byte-level and SentencePiece vocabularies: only what starts a word is one."""

    class Marked:
        all_special_ids = (4,)

        def __init__(self, marker: str) -> None:
            self.vocabulary = {f"{marker}good": 0, "good": 1, f"{marker}bad": 2, "ness": 3,
                               f"{marker}special": 4, "<s>": 5, f"{marker}x": 6}  # fmt: skip

        def __call__(self, text: str) -> list[int]:
            return [0]

        def get_vocab(self) -> dict[str, int]:
            return self.vocabulary

    for marker in ("Ġ", "▁"):
        model = TextModel(LossModel(Bag()), Marked(marker))
        assert model.whole_words == {0: "good", 2: "bad"}


@given(st.text(alphabet=st.characters(categories=["L"]), min_size=4, max_size=12))
def test_typos_change_inner_letters_only(word: str) -> None:
    """First and last letter stay; a misspelling differs by one error of its kind."""
    for kind in ("swap", "drop", "key", "insert"):
        for new in misspellings(word, kind):
            assert new != word and new[0] == word[0] and new[-1] == word[-1]
            assert len(new) - len(word) == {"drop": -1, "insert": 1}.get(kind, 0)
            if kind == "swap":
                places = [k for k in range(len(word)) if word[k] != new[k]]
                assert len(places) == 2 and places[1] == places[0] + 1
                assert sorted(new) == sorted(word)
            if kind == "key":
                (place,) = [k for k in range(len(word)) if word[k] != new[k]]
                assert new[place].lower() in KEYS[word[place].lower()]
                assert new[place].isupper() == word[place].isupper()


@given(st.integers(0, 10**6), st.sampled_from(["account", "Überraschung", "слово", "aaaa"]))
def test_variants_are_different_and_few(seed: int, word: str) -> None:
    """No misspelling is tried twice, and no more than asked for."""
    new = Typos(variants=6).of(word, random.Random(seed))
    assert len(new) == len(set(new)) <= 6 and word not in new
    assert len(new) == (5 if word == "слово" else 6)  # only swaps and drops, two of them alike


def test_neighbouring_keys_are_mutual() -> None:
    """What lies beside a key has that key beside it, and known cases hold."""
    assert all(letter in KEYS[other] for letter, others in KEYS.items() for other in others)
    assert set(KEYS["s"]) == set("awedzx") and set(KEYS["p"]) == set("ol")
    assert all(letter not in others for letter, others in KEYS.items())


def test_typos_leave_short_and_function_words_alone() -> None:
    """And put at most so many words wrong."""
    model = Recurrent()
    texts = ["the very good film is about bad actor", "plot but dull story movie scene"]
    for words in (1, 2):
        for seed in range(4):
            outcome = attacked(model, texts, Typos(words=words), seed=seed)
            for before, after in zip(texts, outcome.worst.texts, strict=True):
                pairs = [(a, b) for a, b in differences(before, after) if a != b]
                assert len(pairs) <= words
                assert all(len(a) >= 4 and a not in STOP_WORDS for a, _ in pairs)


def test_typos_try_the_most_important_word_first() -> None:
    """With one place, the word whose absence lowers the true class most gets the error."""
    model = Bag(dimension=2)
    with torch.no_grad():
        model.embedding.weight.zero_()
        model.embedding.weight[VOCABULARY["great"], 0] = 3.0
        model.embedding.weight[VOCABULARY["film"], 0] = 1.0
        model.out.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model.out.bias.copy_(torch.tensor([0.0, 2.0]))
    outcome = attack_texts(
        model, whitespace, ["film great story"], [0], attacks=[Typos(places=1, words=1)]
    )
    old, new = next((a, b) for a, b in differences("film great story", outcome.worst.texts[0])
                    if a != b)  # fmt: skip
    assert old == "great" and new != "great"


def test_a_beam_is_at_least_as_strong_where_greed_fails() -> None:
    """Two words that help only together: the greedy first choice leads nowhere."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(len(VOCABULARY), 2)
            with torch.no_grad():
                self.embedding.weight.zero_()
                for word, row in {"good": (0, 0), "bad": (0.6, 0.0), "poor": (0.5, 1.0)}.items():
                    self.embedding.weight[VOCABULARY[word]] = torch.tensor(row)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            e = self.embedding(ids)
            score = e[..., 0].mean(1) + 2 * e[..., 1].prod(1) - 0.75
            return torch.stack([-score, score], 1)

    words = {word: VOCABULARY[word] for word in ("good", "bad", "poor")}
    given = {word: [1.0, 0.0] for word in words}
    for beam, flips in ((1, False), (4, True)):
        attack = WordSubstitution(similarity=0.5, beam=beam, tries=10)
        outcome = attack_texts(
            Pair(), whitespace, ["good good"], [0], attacks=[attack], vocabulary=words,
            embeddings=given,
        )  # fmt: skip
        assert bool(outcome.worst.broken[0]) is flips


def test_queries_are_counted() -> None:
    """As many as the model was asked, gradients included, the judge's own aside."""
    asked = []

    class Counting(Bag):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            asked.extend(ids.tolist())
            return super().forward(ids)

    for attack in (WordSubstitution(similarity=-1.0, tries=3), Typos()):
        model, text = Counting(), "great slow film story"
        labels = predictions(model, whitespace, [text])
        asked.clear()
        outcome = attack_texts(
            model, whitespace, [text], labels, attacks=[attack], vocabulary=VOCABULARY
        )
        assert int(outcome.worst.queries[0]) == len(asked) - 2  # before and after, by the judge


def test_the_judge_believes_no_attack() -> None:
    """What an attack returns is predicted; the worst case is over all attacks, text by text."""

    class Liar:
        def __init__(self, name: str, answers: dict[str, str]) -> None:
            self.name, self.answers = name, answers

        def run(self, model: Any, texts: Any, labels: Any, *, seed: int) -> list[Attempt]:
            return [Attempt(self.answers.get(text, text), 7) for text in texts]

    model = Bag()
    classes = dict(zip(WORDS, predictions(model, whitespace, WORDS), strict=True))
    zero = [word for word in WORDS if classes[word] == 0]
    one = next(word for word in WORDS if classes[word] == 1)
    texts = zero[:3]
    first = Liar("first", {texts[0]: one, texts[1]: texts[2], texts[2]: ""})
    second = Liar("second", {texts[2]: one})
    outcome = attack_texts(model, whitespace, texts, [0, 0, 0], attacks=[first, second])
    assert outcome.attacks["first"].correct.tolist() == [False, True, True]
    assert outcome.attacks["first"].texts == (one, texts[1], texts[2])
    assert outcome.attacks["second"].correct.tolist() == [True, True, False]
    assert outcome.worst.correct.tolist() == [False, True, False]
    assert outcome.worst.queries.tolist() == [14, 14, 14]
    worst = outcome.worst
    assert worst.accuracy == 1 / 3 and worst.interval == wilson(1, 3)
    assert worst.success == 2 / 3 and worst.mean_changed == 1.0 and worst.mean_queries == 14
    assert [result.name for result in outcome.results] == [
        "no attack", "first", "second", "worst of all",
    ]  # fmt: skip


@given(st.text())
def test_spelling_is_the_text(text: str) -> None:
    """Words and gaps put together are what they were, and spans are where words stand."""
    spelling = Spelling.of(text)
    assert spelling.text == text and share_changed(text, text) == 0.0
    assert [text[start:end] for start, end in spelling.spans] == list(spelling.words)
    if spelling.words:
        assert share_changed(text, spelling.replaced(0, "zzzyy").text) > 0


def test_shares_of_changed_words() -> None:
    """Replaced, left out and added words count."""
    assert share_changed("pay my bill", "pay my invoice") == 1 / 3
    assert share_changed("pay my bill now", "pay bill now") == 1 / 4
    assert share_changed("pay bill", "pay the bill") == 1 / 3
    assert Spelling.of("pay my bill").without(1).text == "pay bill"
    assert Spelling.of("pay, my bill!").without(0).text == "my bill!"


def test_words_to_keep() -> None:
    """The user's list replaces the default one; settings are told apart by their text alone."""
    model = Bag(seed=2)
    everything = [word.upper() for word in WORDS]
    for attack in (WordSubstitution(similarity=-1.0, keep=everything), Typos(keep=everything)):
        assert not attacked(model, TEXTS, attack).worst.broken.any()
        same = dataclasses.replace(attack, keep=set(everything))
        assert fingerprint.text(attack) == fingerprint.text(same)
    function_words = WordSubstitution(similarity=-1.0, keep=(), tries=50)
    outcome = attacked(model, ["the very not"], function_words)
    assert outcome.attacks["word substitution"].queries[0] > 3
    assert "very" not in fingerprint.text(WordSubstitution()) + fingerprint.text(Typos())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "one"}, "list of texts, got one"),
        ({"texts": [], "labels": []}, "need texts and a class number for each"),
        ({"labels": [0]}, "got 2 texts and labels of shape"),
        ({"labels": [0.0, 1.0]}, "float"),
        ({"labels": [0, 2]}, "0..1, got 0 to 2"),
        ({"texts": ["good", 3]}, "text 1 is no text but int"),
        ({"texts": ["good", ""]}, "no token of text 1"),
        ({"attacks": []}, "at least one"),
        ({"attacks": [Typos(), Typos(words=1)]}, "names of their own"),
        ({"attacks": [WordSubstitution()], "vocabulary": None}, "give vocabulary="),
        ({"attacks": [WordSubstitution()], "embeddings": torch.zeros(3, 2)}, "a row for each"),
        ({"attacks": [WordSubstitution()], "embeddings": {"x": [1.0]}}, "none of the model's"),
        ({"attacks": [WordSubstitution()], "embeddings": 3}, "a model, a matrix"),
        ({"tokenizer": lambda text: {"ids": [1]}}, "mapping with 'input_ids'"),
        ({"model": nn.Embedding(40, 3)}, "logits .batch, classes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_refused(options: dict[str, Any], message: str) -> None:
    """With what was expected and what came."""
    model = options.pop("model", None) or Bag()
    given = {"tokenizer": whitespace, "texts": ["good", "bad"],
             "vocabulary": VOCABULARY, **options}  # fmt: skip
    if "labels" not in given:
        known = isinstance(model, Bag) and all(isinstance(t, str) and t for t in given["texts"])
        given["labels"] = predictions(model, whitespace, list(given["texts"])) if known and (
            isinstance(given["texts"], list)) else [0, 0]  # fmt: skip
    with pytest.raises((DataError, ConfigurationError), match=message):
        attack_texts(model, given.pop("tokenizer"), given.pop("texts"), given.pop("labels"),
                     **given)  # fmt: skip


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        (WordSubstitution, {"share": 1.5}),
        (WordSubstitution, {"similarity": 2.0}),
        (WordSubstitution, {"beam": 0}),
        (WordSubstitution, {"least": -1}),
        (Typos, {"kinds": ("shout",)}),
        (Typos, {"kinds": ()}),
        (Typos, {"shortest": 2}),
        (Typos, {"words": 0}),
    ],
)
def test_settings_out_of_range_are_refused(attack: Any, options: dict[str, Any]) -> None:
    """When the attack is made, not when it runs."""
    with pytest.raises(ConfigurationError):
        attack(**options)


def test_a_tokenizer_that_returns_columns_of_tensors() -> None:
    """A mapping of rows ``(1, length)``; the model gets every column."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag = Bag()

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            assert attention_mask.shape == input_ids.shape
            return self.bag(input_ids)

    def tokenizer(text: str) -> dict[str, torch.Tensor]:
        ids = torch.tensor([whitespace(text)])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    model = Masked()
    labels = predictions(model.bag, whitespace, TEXTS)
    outcome = attack_texts(model, tokenizer, TEXTS, labels, attacks=[ANY], vocabulary=VOCABULARY)
    plain = attacked(model.bag, TEXTS, ANY)
    assert outcome.worst.texts == plain.worst.texts and plain.worst.broken.any()


def test_a_gradient_is_of_one_text() -> None:
    """What the search gets has a row for each token."""
    model = text_model(Bag())
    (found,) = model.gradients(model.encode(["good film story"]), [0])
    assert isinstance(found, Gradient) and found.grads.shape == (3, 6)
