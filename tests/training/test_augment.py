"""Augmentation on the device: its place in a step, its draws, and what it leaves alone."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from artplus import fit
from artplus.errors import CheckpointError, ConfigurationError, DataError
from artplus.training import random_crop, random_flip
from artplus.training.callbacks import Augment, Callback, Checkpoint
from artplus.training.steps import standard
from tests.toys import arrays, cnn, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24, (1, 8, 8)))


# The transforms, one example at a time as slow twins


@given(n=st.integers(1, 6), h=st.integers(1, 6), w=st.integers(1, 6), p=st.integers(0, 5))
def test_a_crop_is_a_window_of_the_padded_image(n, h, w, p):
    """Each image is cut out of its own padded self; every window may come, nothing else does."""
    torch.manual_seed(n + 7 * h)
    x = torch.rand(n, 2, h, w) + 1
    found = random_crop(x, p)
    assert found.shape == x.shape and found.is_contiguous()
    padded = torch.zeros(n, 2, h + 2 * p, w + 2 * p)
    padded[:, :, p : p + h, p : p + w] = x
    for i in range(n):
        windows = (
            padded[i, :, a : a + h, b : b + w] for a in range(2 * p + 1) for b in range(2 * p + 1)
        )
        assert any(torch.equal(found[i], window) for window in windows)


def test_every_window_comes_and_images_differ():
    """Offsets are uniform, and drawn for each image and direction apart."""
    x = torch.zeros(4000, 1, 3, 3)
    x[:, :, 1, 1] = 1
    middles = random_crop(x, 1).flatten(1).argmax(1)
    counts = torch.bincount(middles, minlength=9) / len(x)
    assert torch.allclose(counts, torch.full((9,), 1 / 9), atol=0.03)


@given(n=st.integers(1, 8), ndim=st.integers(2, 4))
def test_a_flip_mirrors_whole_examples_or_leaves_them(n, ndim):
    """Never half of one, and along the last axis."""
    torch.manual_seed(n)
    x = torch.rand(n, *(3,) * (ndim - 1))
    for one, before in zip(random_flip(x), x, strict=True):
        assert torch.equal(one, before) or torch.equal(one, before.flip(-1))


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.9])
def test_flips_come_as_often_as_asked(probability):
    """The share of mirrored examples is the probability's."""
    x = torch.tensor([[0.0, 1.0]]).expand(4000, 2)
    share = float(random_flip(x, probability)[:, 0].mean())
    assert share == pytest.approx(probability, abs=0.03)


def test_transforms_refuse_what_they_cannot_do():
    """Sizes, shapes and shares that make no sense."""
    with pytest.raises(DataError, match=r"images \(batch, channels, height, width\), got \(2, 3\)"):
        random_crop(torch.rand(2, 3))
    with pytest.raises(ConfigurationError, match="padding must be a whole number >= 0"):
        random_crop(X, -1)
    with pytest.raises(ConfigurationError, match=r"probability must be a number in \[0, 1\)"):
        random_flip(X, 1.5)


# The callback


class On(Callback):
    """Calls a function at one event."""

    watches = True

    def __init__(self, event, what):
        setattr(self, event, what)


class Watch:
    """A step that keeps what it was given."""

    def __init__(self):
        self.x, self.y = [], []

    def __call__(self, state, batch, gradients):
        self.x.append(batch.x.clone())
        self.y.append(batch.y.clone())
        standard(state, batch, gradients)


def run(*callbacks, model=None, epochs=2, **options):
    if model is None:
        torch.manual_seed(0)
        model = cnn()
    seen = options.pop("step", None) or Watch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    common = {"loss": "at", "eps": 0.02, "batch_size": 8, "seed": 0, "progress": False}
    common["bounds"] = (0.0, 1.0)
    fit(model, options.pop("data", (X, Y)), optimizer, callbacks=callbacks, epochs=epochs,
        step=seen, **common | options)  # fmt: skip
    return seen, weights(model)


def test_the_step_sees_changed_inputs_and_the_same_labels():
    """Each example is a window of itself, in the order without augmentation; epochs differ."""
    plain, _ = run()
    changed, _ = run(Augment(partial(random_crop, padding=2)))
    for a, b in zip(plain.y, changed.y, strict=True):
        assert torch.equal(a, b)
    for a, b in zip(plain.x, changed.x, strict=True):
        assert not torch.equal(a, b)
        middle = a[:, :, 2:6, 2:6].flatten(1)  # what every window holds, somewhere
        for image, inside in zip(b, middle, strict=True):
            windows = image[0].unfold(0, 4, 1).unfold(1, 4, 1).reshape(-1, 16)
            assert bool((windows == inside).all(1).any())
    flips = [
        torch.cat([(x != X[i]).flatten(1).any(1) for x, i in zip(epoch, order, strict=True)])
        for epoch, order in _by_epoch(run(Augment(random_flip))[0])
    ]
    assert not torch.equal(flips[0], flips[1])


def _by_epoch(seen):
    """Inputs of each epoch, and where they stand in the data: found by the middle of the labels."""
    # A flip keeps the sorted pixels, which tell an image.
    keys = X.flatten(1).sort(1).values
    place = [
        torch.tensor([int((keys == row).all(1).nonzero()) for row in x.flatten(1).sort(1).values])
        for x in seen.x
    ]
    return [(seen.x[:3], place[:3]), (seen.x[3:], place[3:])]


def test_a_transform_without_effect_leaves_training_as_it_was():
    """The draws of a transform move no other stream: attack, dropout and order are the same."""

    def idle(x):
        torch.rand(17), np.random.rand(3), random.random()
        return x

    def dropping():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 3))

    assert same(run(model=dropping())[1], run(Augment(idle), model=dropping())[1])


def test_the_attack_starts_from_the_changed_input():
    """What is learned differs, and x_adv lies in the ball around the changed input."""
    seen, changed = run(Augment(random_flip))
    assert not same(changed, run()[1])
    gaps = []

    def crafted(state, batch, gradients):
        model, method = state.engine.attacked, state.method
        (x_adv,) = method.craft(model, batch.x, batch.y, generator=torch.Generator())
        gaps.append(float((x_adv - batch.x).abs().max()))
        standard(state, batch, gradients)

    run(Augment(random_flip), step=crafted)
    assert all(0 < gap <= 0.02 + 1e-6 for gap in gaps)


def test_it_is_the_same_in_parts_and_with_a_seed():
    """One seed, one run; parts of a batch see parts of the same changed batch."""
    one, two = run(Augment(random_crop, random_flip)), run(Augment(random_crop, random_flip))
    assert same(one[1], two[1])
    parts, _ = run(Augment(random_crop, random_flip), micro_batch=4)
    assert all(torch.equal(a, b) for a, b in zip(one[0].x, parts.x, strict=True))
    other, _ = run(Augment(random_crop, random_flip), seed=1)
    assert not all(torch.equal(a, b) for a, b in zip(one[0].x, other.x, strict=True))


@pytest.mark.parametrize("seed", [0, None])
def test_a_resumed_run_draws_what_the_whole_one_did(tmp_path, seed):
    """In the middle of an epoch, with and without a seed, weights are equal to the bit."""

    def fail(state):
        if state.step == 5:
            raise InterruptedError

    def go(*callbacks, stream=1, **options):
        torch.manual_seed(0)
        model = cnn()
        torch.manual_seed(stream)
        return run(Augment(random_crop), *callbacks, model=model, epochs=3, seed=seed, **options)[1]

    whole = go()
    with pytest.raises(InterruptedError):
        go(Checkpoint(tmp_path, every_steps=1), On("on_step_end", fail))
    assert same(whole, go(Checkpoint(tmp_path), resume=tmp_path, stream=99))


def test_other_transforms_are_another_run(tmp_path):
    """A checkpoint tells a run with another padding, or none, from its own."""
    run(Augment(partial(random_crop, padding=2)), Checkpoint(tmp_path), step=standard)
    for other in ([], [Augment(partial(random_crop, padding=3))], [Augment(random_flip)]):
        with pytest.raises(CheckpointError, match="of another run"):
            run(*other, Checkpoint(tmp_path), resume=tmp_path, step=standard)


def test_inputs_stay_inside_the_bounds():
    """A transform that brightens, and padding with zeros where zero is no valid input."""
    seen, _ = run(Augment(lambda x: x + 0.5))
    assert max(float(x.max()) for x in seen.x) == 1.0
    seen, _ = run(Augment(random_crop), data=(X / 2 + 0.5, Y), bounds=(0.5, 1.0))
    assert min(float(x.min()) for x in seen.x) == 0.5


def test_validation_is_left_alone():
    """It measures the inputs it was given."""
    seen = []
    model = cnn()
    model.register_forward_pre_hook(lambda m, args: seen.append(args[0].clone()))

    class Blank:
        def __call__(self, x):
            return torch.zeros_like(x)

    run(Augment(Blank()), model=model, validation=(X, Y), epochs=1)
    assert any(torch.equal(x, X[:8]) for x in seen)


@pytest.mark.parametrize(
    ("transform", "match"),
    [
        (lambda x: x[:-1], r"as many examples, 8, .*gave \(7, 1, 8, 8\) torch.float32 on cpu"),
        (lambda x: x.double(), "gave .* torch.float64"),
        (lambda x: x.numpy(), "gave ndarray.* for single examples"),
        (lambda x: x.flatten(1), r"gave \(8, 64\)"),
    ],
)
def test_what_is_no_batch_is_refused(transform, match):
    """With what came and where single-example transforms belong."""
    with pytest.raises(DataError, match=match):
        run(Augment(transform))


def test_bad_transforms_are_refused_at_once():
    """None, a class, a word."""
    with pytest.raises(ConfigurationError, match="at least one transform"):
        Augment()
    with pytest.raises(ConfigurationError, match="the class Watch; pass an object"):
        Augment(Watch)
    with pytest.raises(
        ConfigurationError, match=r"called as transform\(x\) on a batch, got 'flip'"
    ):
        Augment("flip")
