"""Named columns as pairs: found if their names are usual, asked for if not, never guessed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from artplus import AdversarialTrainerPlus, fit
from artplus.errors import ConfigurationError, DataError
from artplus.training import columns, pixels
from artplus.training.tables import INPUTS, LABELS, pair
from tests.toys import arrays, classifier, cnn, net, same, weights

X, Y = arrays(20)
ROWS = [{"image": x, "label": int(y)} for x, y in zip(X, Y, strict=True)]


def train(data, make=net, **options):
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    common = {"eps": 0.02, "epochs": 2, "batch_size": 5, "seed": 0, "progress": False}
    fit(model, data, optimizer, **common | options)
    return weights(model)


@pytest.mark.parametrize("x", INPUTS)
@pytest.mark.parametrize("y", LABELS)
def test_usual_names_are_known(x, y):
    """Every usual pair of names is found among columns of other names."""
    assert pair({"id": 0, y: "labels", "split": "train", x: "inputs"}) == ("inputs", "labels")


@pytest.mark.parametrize(
    ("row", "options", "match"),
    [
        ({"image": 0, "pixel_values": 1, "label": 2}, {}, "could be the inputs: image, pixel_val"),
        ({"image": 0, "label": 2, "target": 2}, {}, "could be the labels: label, target"),
        ({"text": 0, "label": 2}, {}, "no column has a usual name of inputs; there are text, labe"),
        (
            {"image": 0, "fine": 2},
            {},
            r"no column has .* labels; there are image, fine.*, y=\.\.\.",
        ),
        (
            {"image": 0, "label": 2},
            {"x": "img"},
            "there is no column 'img'; there are image, label",
        ),
        ({"image": 0, "label": 2}, {"y": "fine"}, "no column 'fine'; .*columns\\(data, y="),
    ],
)
def test_missing_and_ambiguous_columns_are_named(row, options, match):
    """The message lists the columns there are and says how to choose."""
    with pytest.raises(DataError, match=match):
        pair(row, **options)


def test_a_chosen_column_settles_what_is_ambiguous():
    """Names given are taken as they are."""
    row = {"image": 0, "pixel_values": 1, "label": 2, "labels": 3}
    assert pair(row, "pixel_values", "labels") == (1, 3)


def test_rows_batches_and_pairs_train_alike():
    """A table, a loader of mappings and arrays give the same weights to the bit."""
    expected = train((torch.from_numpy(X), torch.from_numpy(Y)))
    assert same(train(columns(ROWS)), expected)
    assert same(train(columns(ROWS, "image", "label", transform=torch.from_numpy)), expected)
    plain = train(list(DataLoader(columns(ROWS), 5)))
    assert same(train(list(DataLoader(ROWS, 5))), plain)  # collated to mappings
    names = [{"pixel_values": b["image"], "labels": b["label"]} for b in DataLoader(ROWS, 5)]
    assert same(train(names), plain)


def test_a_batch_of_unknown_columns_is_refused_before_training():
    """With the names it has."""
    batches = [{"a": torch.rand(4, 6), "b": torch.zeros(4, dtype=torch.long)}]
    with pytest.raises(DataError, match="there are a, b. Say which: artplus.training.columns"):
        train(batches)
    with pytest.raises(
        DataError, match=r"a pair \(x, y\), or a mapping with a column of each, got"
    ):
        train([torch.rand(4, 6)])


class Numbers(IterableDataset):
    """A stream that is shuffled by the number of the epoch, as Hugging Face's are."""

    def __init__(self):
        self.epoch, self.seen = 0, []

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.seen.append(self.epoch)
        order = np.random.default_rng(self.epoch).permutation(len(ROWS))
        return iter([ROWS[i] for i in order])


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_stream_of_rows_is_told_the_epoch(wrapped):
    """Each epoch in its own order; looks before training count as none."""
    stream = Numbers()
    data = DataLoader(columns(stream), 5) if wrapped else columns(stream)
    expected = DataLoader(columns(Numbers()), 5)
    train(data)
    assert set(stream.seen[:-1]) == {0} and stream.seen[-1] == 1
    first = [y.tolist() for _, y in expected]
    expected.dataset.set_epoch(1)
    assert first != [y.tolist() for _, y in expected]


class Shout:
    """A transform that draws at random in the loader, and may be sent to a spawned worker."""

    def __call__(self, x):
        return torch.as_tensor(x) * torch.rand(())


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_in_the_loader_differs_from_epoch_to_epoch(workers):
    """With workers and without, every epoch draws anew, and a seed repeats them all."""

    def epochs():
        torch.manual_seed(3)
        loader = DataLoader(columns(ROWS, transform=Shout()), 20, num_workers=workers)
        return [next(iter(loader))[0] for _ in range(2)]

    one, two = epochs()
    assert not torch.equal(one, two)
    assert torch.equal(torch.stack(epochs()), torch.stack([one, two]))
    loader = DataLoader(columns(ROWS, transform=Shout()), 5, num_workers=workers, shuffle=True)
    a, b = train(loader), train(loader)
    assert same(a, b)
    assert not same(a, train((torch.from_numpy(X), torch.from_numpy(Y))))


def test_what_is_no_table_is_refused():
    """Neither rows by position nor a stream; rows that are no mappings."""
    with pytest.raises(ConfigurationError, match="rows by position, or be iterable, got int"):
        columns(3)
    with pytest.raises(DataError, match=r"a row must be \{name: value\}, got tuple"):
        columns([(1, 2)])[0]


# Pictures


def test_pictures_become_numbers_only_if_one_says_how():
    """A PIL image is refused with the remedy; pixels gives channels first in [0, 1]."""
    image = pytest.importorskip("PIL.Image")
    values = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)
    rows = [{"image": image.fromarray(values), "label": 1}]
    with pytest.raises(DataError, match=r"are pictures, Image; .*transform=pixels\) gives floats"):
        columns(rows)[0]
    x, y = columns(rows, transform=pixels)[0]
    assert y == 1 and x.dtype == torch.float32
    assert torch.equal(x, torch.from_numpy(values).permute(2, 0, 1).float() / 255)
    assert pixels(image.fromarray(values[..., 0])).shape == (1, 8, 6)


@pytest.mark.parametrize("picture", [np.zeros((2, 2), "f4"), np.zeros((2,), "u1"), "a.png"])
def test_pixels_takes_bytes_only(picture):
    """Floats may be in any range already, so they are not touched."""
    with pytest.raises(DataError, match="of bytes, got"):
        pixels(picture)


# Hugging Face


@pytest.fixture
def hub():
    """The ``datasets`` package."""
    return pytest.importorskip("datasets")


def pictures(hub):
    """A data set of pictures as the hub has them, and its arrays."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 8, 8), dtype=np.uint8)
    features = hub.Features({"image": hub.Image(), "label": hub.ClassLabel(num_classes=3)})
    labels = (np.arange(24) % 3).tolist()
    data = hub.Dataset.from_dict({"image": list(images), "label": labels}, features=features)
    return data, (torch.from_numpy(images)[:, None].float() / 255, torch.tensor(labels))


def test_a_data_set_of_the_hub_trains_as_its_arrays(hub):
    """By position, through a loader with workers, as tensors: the same weights."""
    data, tensors = pictures(hub)
    expected = train(tensors, cnn)
    assert same(train(columns(data, transform=pixels), cnn), expected)
    floats = [{"image": x, "label": y} for x, y in zip(*tensors, strict=True)]
    table = hub.Dataset.from_list(
        [{"image": row["image"].tolist(), "label": int(row["label"])} for row in floats]
    ).with_format("torch")
    assert same(train(table, cnn), expected)
    loader = DataLoader(columns(data, transform=pixels), 6, num_workers=2)
    assert same(train(loader, cnn), train(list(DataLoader(columns(data, transform=pixels), 6)),
                                            cnn))  # fmt: skip


def test_pictures_of_the_hub_are_refused_as_they_are(hub):
    """Not guessed at: the message says what to write."""
    data, _ = pictures(hub)
    with pytest.raises(DataError, match="transform=pixels"):
        train(data, cnn)


def test_a_stream_of_the_hub_trains_and_is_shuffled_by_epoch(hub):
    """An ``IterableDataset``, as it is and through a loader."""
    data, _ = pictures(hub)
    stream = data.to_iterable_dataset().shuffle(seed=0, buffer_size=24)
    rows = columns(stream, transform=pixels)
    first = [y for _, y in rows]
    rows.set_epoch(1)
    assert [y for _, y in rows] != first and rows.epoch == 1
    train(rows, cnn)
    assert stream.epoch == 1  # the last one it was told
    train(DataLoader(rows, 6), cnn)


def test_the_trainer_takes_a_data_set_of_the_hub(hub):
    """The other door: labels and ranges are checked there by the estimator."""
    data, (x, _) = pictures(hub)
    estimator = classifier(cnn(), input_shape=tuple(x.shape[1:]))
    trainer = AdversarialTrainerPlus(estimator, eps=0.02, verbose=False, seed=0)
    history = trainer.fit(columns(data, transform=pixels), nb_epochs=1, batch_size=6)
    assert len(history) == 1
    held_out = columns(data, transform=pixels)
    assert "val_clean_accuracy" in trainer.fit(
        held_out, nb_epochs=1, batch_size=6, validation_data=held_out
    ).rows[0]  # fmt: skip


def test_nothing_here_imports_the_hub():
    """By form, not by type: the package needs neither ``datasets`` nor PIL."""
    source = Path(inspect.getsourcefile(columns)).read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (datasets|PIL)", source, re.M)
