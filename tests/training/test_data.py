"""Batches: every example once, in the generator's order, from whatever holds the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from artplus import fit
from artplus.errors import ConversionWarning, DataError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.training import make_method
from artplus.training.data import Arrays, Loaded, TensorPair, batches
from artplus.training.probe import probe
from tests.toys import arrays, net

CPU = torch.device("cpu")


def numbered(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs that tell their own position."""
    return torch.arange(n).float()[:, None], torch.arange(n)


@given(n=st.integers(1, 40), size=st.integers(1, 12), shuffled=st.booleans())
def test_arrays_give_every_example_once_in_batches_of_at_most_one_more(n, size, shuffled):
    """No example is lost or seen twice; a last batch of one joins the batch before."""
    generator = torch.Generator().manual_seed(0) if shuffled else None
    source = Arrays(*numbered(n), size, generator, device=CPU)
    found = list(source)
    assert len(found) == len(source)
    assert sorted(int(i) for b in found for i in b.y) == list(range(n))
    sizes = [len(b.x) for b in found]
    assert all(s == size for s in sizes[:-1]) and sizes[-1] <= size + (size > 1)
    assert 1 not in sizes or size == 1 or n == 1
    for batch in found:
        assert torch.equal(batch.x[:, 0].long(), batch.y) and torch.equal(batch.index, batch.y)


def test_the_order_is_the_generators_permutation_epoch_after_epoch():
    """torch.randperm of the generator, a new one each epoch; without one, as they come."""
    source = Arrays(*numbered(10), 4, torch.Generator().manual_seed(3), device=CPU)
    twin = torch.Generator().manual_seed(3)
    for _ in range(2):
        assert torch.cat([b.y for b in source]).equal(torch.randperm(10, generator=twin))
    plain = Arrays(*numbered(10), 4, None, device=CPU)
    assert torch.cat([b.y for b in plain]).tolist() == list(range(10))


def test_a_look_at_the_head_does_not_move_the_order():
    """The generator is where it was."""
    g = torch.Generator().manual_seed(3)
    before = g.get_state()
    assert Arrays(*numbered(10), 4, g, device=CPU).head(3).y.tolist() == [0, 1, 2]
    assert torch.equal(g.get_state(), before)


def test_a_data_set_is_batched_like_arrays():
    """Same order, same joined last batch."""
    x, y = numbered(13)
    prepare = TensorPair(InputSpace())
    common = {"batch_size": 4, "device": CPU}
    a, b = (
        batches(data, prepare, generator=torch.Generator().manual_seed(1), **common)
        for data in ((x, y), TensorDataset(x, y))
    )
    assert len(a) == len(b) == 3
    for one, two in zip(a, b, strict=True):
        assert torch.equal(one.y, two.y) and torch.equal(one.x, two.x)


class Stream(IterableDataset):
    def __iter__(self):
        x, y = numbered(10)
        return iter(zip(x, y, strict=True))


def test_a_stream_has_no_length_and_trains_all_the_same():
    """An iterable data set comes in its own order, and progress goes by epochs."""
    source = batches(
        Stream(),
        TensorPair(InputSpace()),
        batch_size=4,
        generator=torch.Generator(),
        device=CPU,
    )
    assert [b.y.tolist() for b in source] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    with pytest.raises(TypeError):
        len(source)

    class Toy(IterableDataset):
        def __iter__(self):
            x, y = arrays(20)
            return iter([(x[i], int(y[i])) for i in range(20)])

    model = net()
    lam = []

    def schedule(progress):
        lam.append(progress)
        return 1.0

    fit(
        model,
        DataLoader(Toy(), 8),
        torch.optim.SGD(model.parameters(), lr=0.1),
        lam=schedule,
        eps=0.02,
        epochs=2,
        progress=False,
    )
    assert set(lam) == {0.0, 0.5}


@pytest.mark.parametrize("where", ["loader", "sampler", "global", "plain"])
def test_a_look_at_a_loader_does_not_move_its_order(where):
    """Whatever generator decides the order, the first epoch is as if nobody had looked."""

    def make():
        torch.manual_seed(0)
        data, g = TensorDataset(*arrays_as_tensors()), torch.Generator().manual_seed(5)
        if where == "loader":
            return DataLoader(data, 5, shuffle=True, generator=g)
        if where == "sampler":
            return DataLoader(data, 5, sampler=RandomSampler(data, generator=g))
        if where == "global":
            return DataLoader(data, 5, shuffle=True)
        return list(DataLoader(data, 5))

    model, method = LossModel(net()), make_method("at", eps=0.1)
    expected = [y.tolist() for _, y in make()]
    source = Loaded(make(), TensorPair(InputSpace()), device=CPU)
    probe(model, source, method)
    assert [b.y.tolist() for b in source] == expected


def arrays_as_tensors():
    return tuple(torch.from_numpy(v) for v in arrays(20))


# Plain preparation


def test_plain_inputs_are_cast_to_the_models_dtype_and_said_so():
    """float64 arrays train a float32 model, and a float64 model keeps them."""
    x, y = arrays(16)
    for dtype, warned in ((torch.float32, True), (torch.float64, False)):
        model = net().to(dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        options = {"eps": 0.02, "epochs": 1, "progress": False}
        if warned:
            with pytest.warns(ConversionWarning, match="torch.float64 to torch.float32"):
                fit(model, (x.astype(np.float64), y), optimizer, **options)
        else:
            fit(model, (x.astype(np.float64), y), optimizer, **options)
        assert model[0].weight.dtype == dtype


def test_plain_labels_are_int64_whatever_whole_number_they_were():
    """int32, uint8 and lists index classes; soft rows stay floats."""
    prepare = TensorPair(InputSpace())
    x = torch.rand(2, 3)
    for y in (np.int32([1, 0]), np.uint8([1, 0]), [1, 0]):
        assert prepare(x, y)[1].dtype == torch.int64
    assert prepare(x, [[0.5, 0.5], [1.0, 0.0]])[1].is_floating_point()
    for y, match in ((3, "y has one value"), ([1j, 2], "real"), ([np.inf, 0], "finite")):
        with pytest.raises(DataError, match=match):
            prepare(x, y)


class Lazy(Dataset):
    """Map-style, without a length."""

    def __getitem__(self, i):
        raise IndexError(i)


def test_a_data_set_without_a_length_is_left_to_torch():
    """What torch refuses is refused by torch."""
    with pytest.raises(TypeError):
        batches(
            Lazy(), TensorPair(InputSpace()), batch_size=2, generator=None, device=CPU
        ).__len__()
