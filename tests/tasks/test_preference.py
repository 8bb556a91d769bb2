"""The task of preferences: batches, metrics and evaluation, against one row at a time."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.utils.data import DataLoader

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError, DataError
from artplus.model import LossModel, as_loss_model
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.tasks import Preference, PreferenceCollator, make_task
from artplus.tree import concat, take
from tests.tasks import models
from tests.tasks.preferences import (
    END,
    FIRST,
    REFUSAL,
    adapted,
    batch,
    columns,
    llama,
    log_probabilities,
    rows,
    trainable,
)

pytest.importorskip("transformers")

TOKEN = EmbeddingSpace(per="token", relative=True)


class Words:
    """A tokenizer of words, with a beginning and an end of each text."""

    eos_token_id = 2

    def __init__(self):
        self.words = {"<s>": 1, "</s>": 2}

    def __call__(self, text, add_special_tokens=True):
        ids = [self.words.setdefault(w, len(self.words) + 1) for w in text.split()]
        return {"input_ids": [1, *ids] if add_special_tokens else ids}

    def apply_chat_template(self, messages, tokenize, add_generation_prompt=False):
        text = "".join(f" {m['role']} : {m['content']} |" for m in messages)
        return text + " assistant :" * add_generation_prompt


# Batches


def test_sequences_are_prompt_and_answer():
    """Each row by hand: ids, masks, labels, the chosen sequence and the flag."""
    x, y = columns(batch())
    for k, row in enumerate(rows()):
        own = row.get("rejected", row["chosen"])
        length, start = len(row["prompt"]) + len(own), len(row["prompt"])
        assert x["input_ids"][k, :length].tolist() == [*row["prompt"], *own]
        assert x["attention_mask"][k].nonzero()[:, 0].tolist() == list(range(length))
        assert x["perturbation_mask"][k].nonzero()[:, 0].tolist() == list(range(start))
        assert y["labels"][k][y["labels"][k] != -100].tolist() == own
        assert (y["labels"][k] != -100).nonzero()[0].item() == start
        assert y["chosen"][k][y["chosen"][k] != -100].tolist() == [*row["prompt"], *row["chosen"]]
        assert y["chosen_labels"][k][y["chosen_labels"][k] != -100].tolist() == row["chosen"]
        assert y["rejected"][k].item() == ("rejected" in row)


def test_texts_conversations_and_ids_give_the_same_batch():
    """A text ends with the tokenizer's end; prompts are tokenised alike before both answers."""
    tokenizer = Words()
    collate = PreferenceCollator(tokenizer)
    text = collate([{"prompt": "say it", "chosen": "no", "rejected": "yes yes"}])
    ids = tokenizer.words
    expected = [1, ids["say"], ids["it"], ids["yes"], ids["yes"], 2]
    assert text["input_ids"].tolist() == [expected]
    assert text["labels"]["chosen"].tolist() == [[1, ids["say"], ids["it"], ids["no"], 2]]
    again = PreferenceCollator()([{"prompt_ids": expected[:3], "chosen_input_ids": [ids["no"], 2],
                                   "rejected": torch.tensor(expected[3:])}])  # fmt: skip
    assert torch.equal(again["input_ids"], text["input_ids"])
    talk = collate([{"prompt": [{"role": "user", "content": "say it"}],
                     "chosen": [{"role": "assistant", "content": "no"}]}])  # fmt: skip
    named = {v: k for k, v in tokenizer.words.items()}
    assert " ".join(named[i] for i in talk["input_ids"][0].tolist()) == (
        "user : say it | assistant : no |"
    )
    assert talk["perturbation_mask"].sum() == 7


@pytest.mark.parametrize("missing", [{}, {"rejected": None}, {"rejected": []}],
                         ids=["absent", "none", "empty"])  # fmt: skip
def test_rows_without_a_rejected_answer_are_utility_rows(missing):
    """However that is said."""
    made = PreferenceCollator()([{"prompt": [5], "chosen": [6, 7], **missing}])
    assert made["labels"]["rejected"].tolist() == [False]
    assert made["labels"]["labels"].tolist() == [[-100, 6, 7]]


def test_answers_are_cut_and_long_prompts_refused():
    """Prompt and answer together keep within max_length."""
    collate = PreferenceCollator(max_length=4)
    made = collate([{"prompt": [5, 6], "chosen": [7, 8, 9], "rejected": [9]}])
    assert made["labels"]["chosen"].tolist() == [[5, 6, 7, 8]]
    with pytest.raises(DataError, match="4 tokens leaves no room"):
        collate([{"prompt": [5, 6, 7, 8], "chosen": [7]}])


def test_wrong_rows_are_refused():
    """With what is missing."""
    collate = PreferenceCollator()
    with pytest.raises(DataError, match="has no chosen; its columns are prompt, rejected"):
        collate([{"prompt": [5], "rejected": [6]}])
    with pytest.raises(ConfigurationError, match=r"'hello' is a text: give PreferenceCollator\("):
        collate([{"prompt": "hello", "chosen": "you"}])
    with pytest.raises(ConfigurationError, match="max_length"):
        PreferenceCollator(max_length=1)
    with pytest.raises(DataError, match="a mapping of labels, chosen"):
        make_task("preference").check_targets(torch.zeros(2, 3))


def test_batches_of_different_length_go_together():
    """As an evaluation puts a loader's batches together: chosen ids are padded with -100."""
    parts = [columns(PreferenceCollator()([row]))[1] for row in rows()]
    whole, (_, together) = concat(parts, padding=-100), columns(batch())
    assert whole.keys() == together.keys()
    assert all(torch.equal(whole[name], together[name]) for name in whole)


# The task


def test_loss_weights_and_right_rows_by_hand():
    """A rejected answer's loss is its log-likelihood; a row is right if it behaves as wanted."""
    model, (x, y) = llama().eval(), columns(batch())
    task = Preference()
    with torch.no_grad():
        predictions = LossModel(model, task)(x)
        for k, row in enumerate(rows()):
            own = row.get("rejected", row["chosen"])
            log_p = log_probabilities(model, row["prompt"], own)
            mean = log_p.gather(1, torch.tensor(own)[:, None]).mean()
            sign = 1 if "rejected" in row else -1
            assert task.loss(predictions, y)[k] == pytest.approx(sign * mean.item(), abs=1e-5)
            given = log_p.argmax(1).tolist() == own
            assert task.correct(predictions, y)[k].item() == (given != ("rejected" in row))
            assert task.weights(y)[k] == len(own)


def forced(y, answers):
    """Logits whose greedy tokens are ``answers`` where labels count, else the labels."""
    labels = y["labels"].clone()
    for k, answer in answers.items():
        places = (labels[k] != -100).nonzero()[:, 0]
        labels[k, places[: len(answer)]] = torch.tensor(answer)
    logits = torch.zeros(*labels.shape, models.VOCABULARY)
    logits[:, :-1].scatter_(2, labels[:, 1:, None].clamp_min(0), 9.0)
    return logits


def figures(task, predictions, y):
    return {n: m.compute(m.statistics(predictions, y)) for n, m in task.metrics().items()}


def test_metrics_count_the_rows_that_they_are_about():
    """Attack success over rejected rows; refusals, perplexity and tokens over utility rows."""
    _, y = columns(batch(8))  # rows 0, 2, 4, 6 are to be avoided
    predictions = forced(y, {0: [REFUSAL], 1: [REFUSAL]})
    plain = figures(Preference(), predictions, y)
    assert plain["attack_success"] == 3 / 4
    assert plain["over_refusal"] == 1 / 4
    tokens = (y["labels"][1::2] != -100).sum().item()
    assert plain["token_accuracy"] == pytest.approx(1 - 1 / tokens)
    per_token = math.log(math.exp(9) + models.VOCABULARY - 1) - 9
    assert math.log(plain["perplexity"]) == pytest.approx(per_token + 9 / tokens, abs=1e-4)


@pytest.mark.parametrize("refusal", [(REFUSAL, END), lambda ids: bool(ids[0] == REFUSAL)],
                         ids=["tokens", "function"])  # fmt: skip
def test_a_refusal_may_be_told(refusal):
    """Then a wrong answer that is no refusal does not count as over-refusal."""
    _, y = columns(batch(8))
    task = Preference(refusal=refusal)
    wrong = forced(y, {1: [FIRST, FIRST], 3: [REFUSAL]})
    assert figures(task, wrong, y)["over_refusal"] == 1 / 4
    assert figures(Preference(), wrong, y)["over_refusal"] == 2 / 4


def test_a_share_of_no_rows_is_no_number():
    """No attack has failed where none was tried."""
    _, y = columns(batch(4, share=0))
    assert math.isnan(figures(Preference(), forced(y, {}), y)["attack_success"])


def test_likelihood_of_others_by_hand():
    """log(1 - p) of each token, zero for tokens that are unlikely enough; the floor counts."""
    task = Preference()
    y = {"labels": torch.tensor([[-100, 1, 2, 0]])}
    p = torch.tensor([[0.2, 0.7, 0.1], [0.5, 0.499, math.exp(-7)], [1 - 2e-8, 1e-8, 1e-8]])
    logits = torch.cat([p.double().log(), torch.zeros(1, 3)])[None]
    p = p.double() / p.double().sum(1, keepdim=True)
    expected = (torch.log(1 - p[0, 1]) + 0 + torch.log(p[2, 1] + p[2, 2])) / 3
    assert task.likelihood_of_others(logits, y).item() == pytest.approx(expected.item(), rel=1e-6)
    floor = p[0, 1].log().item()
    at_floor = task.likelihood_of_others(
        logits[:, :2], {"labels": y["labels"][:, :2]}, floor - 1e-9
    )
    above = task.likelihood_of_others(logits[:, :2], {"labels": y["labels"][:, :2]}, floor + 1e-6)
    assert at_floor.item() == pytest.approx(torch.log(1 - p[0, 1]).item()) and above.item() == 0


# Through the doors


@pytest.mark.parametrize("form", ["columns", "loader", "data set"])
def test_training_takes_every_form(form):
    """A whole batch, a loader, and a loader of a Hugging Face data set; the task is inferred."""
    data = batch(12)
    if form == "loader":
        data = DataLoader(rows(12), batch_size=4, collate_fn=PreferenceCollator())
    elif form == "data set":
        datasets = pytest.importorskip("datasets")
        table = datasets.Dataset.from_list([{"rejected": None, **row} for row in rows(12)])
        data = DataLoader(table, batch_size=4, collate_fn=PreferenceCollator())
    model = adapted()
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    history = artplus.fit(
        model, data, optimizer, loss="cat", attack=PGD(eps=0.3, norm=2, steps=2), space=TOKEN,
        epochs=2, batch_size=4, seed=0, progress=False, validation=batch(6, seed=9),
    )  # fmt: skip
    assert history["loss"][1] < history["loss"][0]
    assert history["adversarial_examples"] == [2.0, 2.0]


@pytest.mark.parametrize("space", [TOKEN, LatentSpace([0, 1], per="token")],
                         ids=["embedding", "latent"])  # fmt: skip
def test_an_evaluation_reports_success_and_utility(space):
    """Attacks raise the likelihood of rejected answers; the report has every column."""
    model, data = llama().eval(), batch(8)
    report = artplus.evaluate(
        model, data, attacks=["pgd", "apgd"], eps=1.0, norm=2, space=space, task="preference",
        progress=False,
    )  # fmt: skip
    assert set(report.clean_metrics) >= {"attack_success", "over_refusal", "perplexity"}
    for column in ("attack_success", "over_refusal", "perplexity", "token_accuracy"):
        assert column in str(report)
    harmful = take(data, torch.arange(0, 8, 2))
    alone = artplus.evaluate(
        model, harmful, attacks=["pgd"], eps=1.0, norm=2, space=space, progress=False
    )
    assert alone.robust_metrics["loss"] > alone.clean_metrics["loss"]
    assert math.isnan(alone.clean_metrics["perplexity"])


def test_reports_with_a_figure_that_is_no_number_are_saved(tmp_path):
    """As JSON that any reader takes, as a page and as text."""
    harmful = take(batch(8), torch.arange(0, 8, 2))
    report = artplus.evaluate(
        llama(), harmful, attacks=["pgd"], eps=0.1, norm=2, space=TOKEN, progress=False
    )
    for name in ("report.json", "report.html", "report.md"):
        report.save(tmp_path / name)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(text, parse_constant=refuse)


def test_only_prompts_are_perturbed():
    """Neither answers nor padding, whichever the space."""
    x, y = columns(batch(8))
    model = as_loss_model(llama(), task="preference")
    for space in (TOKEN, LatentSpace([0, 1], per="token")):
        delta = PGD(eps=1.0, norm=2, steps=2)(model, x, y, space=space).delta
        touched = delta.norm(dim=-1) > 0
        if touched.ndim == 3:
            assert torch.equal(touched.all(1), touched.any(1))
            touched = touched.all(1)
        assert torch.equal(touched, x["perturbation_mask"] > 0)


def test_other_objectives_and_tasks_do_not_mix():
    """A loss of preferences needs that task."""
    model = llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = columns(batch())
    plain = {**x, "labels": y["labels"]}
    with pytest.raises(ConfigurationError, match="'cat' serves task 'preference' alone, but"):
        artplus.fit(model, plain, optimizer, loss="cat", eps=0.1, norm=2, space=TOKEN,
                    progress=False)  # fmt: skip
