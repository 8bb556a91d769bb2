"""The same examples as columns, pairs, data sets and loaders: training and report are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import artplus
from artplus.errors import DataError
from artplus.training.callbacks import EpsWarmup
from artplus.training.columns import collate
from artplus.tree import take
from tests.tasks import models
from tests.tasks.cases import CASES, Examples, N, language, rows, speech, text, train

LABELS = ("labels", "label", "y")
COLUMNS = {"words": text, "llama": language, "recogniser": speech}


def form(kind: str, columns: Mapping[str, Tensor]) -> Any:
    if kind == "pair":
        return {k: v for k, v in columns.items() if k != "labels"}, columns["labels"]
    if kind in LABELS:
        return {kind if k == "labels" else k: v for k, v in columns.items()}
    if kind == "numpy":
        return {k: v.numpy() for k, v in columns.items()}
    if kind == "loader":
        return DataLoader(Examples(rows(columns)), 8, collate_fn=collate)
    if kind == "batches":
        return [take(dict(columns), slice(k, k + 8)) for k in range(0, N, 8)]
    if kind == "data set":
        return Examples(rows(columns))
    hugging = pytest.importorskip("datasets").Dataset
    lists = [{k: v.tolist() for k, v in row.items()} for row in rows(columns)]
    dataset = hugging.from_list([{**row, "text": f"example {k}"} for k, row in enumerate(lists)])
    if kind == "stream":
        return dataset.to_iterable_dataset()
    return dataset.with_format("torch") if kind == "hugging face, torch" else dataset


SHUFFLED = ("pair", *LABELS, "numpy", "data set", "hugging face", "hugging face, torch")


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", SHUFFLED)
def test_every_form_of_the_data_trains_alike(name, kind):
    """Columns of a tokenizer, or examples of different lengths that are padded batch by batch."""
    columns = COLUMNS[name](N)
    reference, _ = train(CASES[name], data=columns)
    model, _ = train(CASES[name], data=form(kind, columns))
    for one, other in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["loader", "stream"])
def test_batches_are_taken_in_their_order(name, kind):
    """Of a loader with a collator, and of a stream of rows of different lengths."""
    columns = COLUMNS[name](N)
    at_once = [EpsWarmup(0)]  # a stream does not say how long an epoch is
    reference, _ = train(CASES[name], data=form("batches", columns), callbacks=at_once)
    model, _ = train(CASES[name], data=form(kind, columns), callbacks=at_once)
    for one, other in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


def test_the_collator_of_transformers():
    """Dynamic padding of ids and of labels, by the library itself."""
    transformers = pytest.importorskip("transformers")

    class Tokenizer(transformers.PreTrainedTokenizerBase):
        """One that only pads."""

        vocab_size = models.VOCABULARY
        model_input_names = ["input_ids", "attention_mask"]

    tokenizer = Tokenizer(pad_token="[PAD]")
    tokenizer._pad_token_type_id = 0
    type(tokenizer).pad_token_id = property(lambda self: 0)
    collator = transformers.DataCollatorForTokenClassification(tokenizer)
    examples = [{k: v.tolist() for k, v in row.items()} for row in rows(language(N))]
    loader = DataLoader(Examples(examples), 8, collate_fn=collator)
    reference, _ = train(CASES["llama"], data=form("batches", language(N)))
    model, _ = train(CASES["llama"], data=loader)
    for one, other in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["pair", "label", "data set", "loader", "hugging face"])
def test_every_form_of_the_data_is_judged_alike(name, kind):
    """What is padded batch by batch is padded on to one length, labels with what is ignored."""
    case, columns = CASES[name], COLUMNS[name](N)
    model, _ = train(case)

    def judged(data: Any) -> Any:
        attacks = [case.attack(random_start=False)]
        options = {"task": case.argument, "space": case.space, "progress": False, **case.options}
        return artplus.evaluate(model, data, attacks=attacks, **options)

    one, other = judged(columns), judged(form(kind, columns))
    assert one.clean_metrics == pytest.approx(other.clean_metrics, rel=1e-4)
    assert one.robust_metrics == pytest.approx(other.robust_metrics, rel=1e-4)


def test_images_with_boxes_row_by_row():
    """Lists are batches: of images of different sizes, and of their boxes."""
    case = CASES["detector"]
    images, targets = case.data(N)
    examples = list(zip(images, targets, strict=True))
    reference, _ = train(case)
    for data in (Examples(examples), {"images": images, "labels": targets}):
        model, _ = train(case, data=data)
        for one, other in zip(reference.parameters(), model.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-4)


class Two(nn.Module):
    """Two inputs by position."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        out: Tensor = self.left(left) + self.right(right)
        return out


def test_tuples_are_positional_arguments():
    """Of arrays and of rows; the first is perturbed."""
    left, right, y = torch.rand(16, 4), torch.rand(16, 2), torch.randint(3, (16,))
    ends = []
    for data in (
        ((left, right), y),
        Examples([((left[k], right[k]), y[k]) for k in range(16)]),
    ):
        torch.manual_seed(0)
        model = Two()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        artplus.fit(model, data, optimizer, loss="mix", eps=0.1, epochs=1, batch_size=8, seed=0,
                    bounds=(0, 1), progress=False)  # fmt: skip
        ends.append(model)
    for one, other in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_missing_label_is_named():
    """With the columns that there are."""
    columns = text(N)
    columns["sentiment"] = columns.pop("labels")
    with pytest.raises(DataError, match=r"usual name of labels.*input_ids, attention_mask, sentim"):
        train(CASES["words"], data=columns)
