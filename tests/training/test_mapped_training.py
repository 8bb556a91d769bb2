"""Training from a memory map: the same weights, and memory that the map's size does not decide."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from artplus import AdversarialTrainerPlus, fit
from artplus.errors import ConversionWarning
from artplus.training.callbacks import Checkpoint
from tests.toys import arrays, classifier, net


def on_disk(folder, array, name="x"):
    """The array as a read-only map."""
    np.save(folder / f"{name}.npy", array)
    return np.load(folder / f"{name}.npy", mmap_mode="r")


def identical(one, two):
    """Whether two modules have the same weights and buffers, bit for bit."""
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def trained(x, y, folder):
    """A net after two epochs, with validation and checkpoints."""
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Checkpoint(folder)]
    fit(model, (x, y), optimizer, eps=0.05, epochs=2, batch_size=7, seed=3, progress=False,
        validation=(x, y), callbacks=callbacks)  # fmt: skip
    return model


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8"])
def test_a_map_trains_the_weights_that_the_array_does(tmp_path, dtype):
    """Bit for bit; a conversion is said as often as for arrays, and torch warns of nothing."""
    x, y = arrays(30)
    x = x.astype(dtype)
    native = x.astype(x.dtype.newbyteorder("="))
    maps = on_disk(tmp_path, x), on_disk(tmp_path, y, "y")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        expected = trained(native, y, tmp_path / "a")
    with warnings.catch_warnings(record=True) as said_of_maps:
        warnings.simplefilter("always")
        found = trained(*maps, tmp_path / "b")
    assert identical(expected, found)
    assert [str(w.message) for w in said] == [str(w.message) for w in said_of_maps]
    assert bool(said) == (x.dtype.itemsize == 8)


@pytest.mark.parametrize(("dtype", "top"), [("f4", 1), ("f8", 1), ("u1", 255), ("i8", 255)])
def test_an_estimator_is_trained_alike_from_a_map(tmp_path, dtype, top):
    """Whole numbers too: batches are converted, the conversion is said once."""
    x, y = arrays(30)
    x, models = (x * top).astype(dtype), []
    for data in (x, on_disk(tmp_path, x)):
        torch.manual_seed(0)
        estimator = classifier(clip_values=(0.0, float(top)))
        trainer = AdversarialTrainerPlus(estimator, eps=0.05 * top, seed=1, verbose=False)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer.fit(data, y, batch_size=8, nb_epochs=1)
        conversions = [w for w in said if issubclass(w.category, ConversionWarning)]
        assert len(conversions) == (dtype != "f4")
        assert not any("writable" in str(w.message) for w in said)
        models.append(estimator.model)
    assert identical(*models)
