"""PGD and its settings step for step against ART's own, from the same start."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    BasicIterativeMethod,
    FastGradientMethod,
    MomentumIterativeMethod,
    ProjectedGradientDescent,
    ProjectedGradientDescentNumpy,
    ProjectedGradientDescentPyTorch,
)
from art.estimators.classification import PyTorchClassifier
from art.utils import random_sphere
from torch import Tensor, nn

from artplus.attacks import PGD, fgm
from artplus.bridge.attacks import translate
from artplus.bridge.estimator import view
from artplus.spaces import InputSpace
from tests.toys import wrong as misclassified

N, SHAPE, CLASSES = 9, (2, 5, 5), 4
NORMS = [np.inf, 2, 1]
FLAVOURS = [ProjectedGradientDescentNumpy, ProjectedGradientDescentPyTorch]


@pytest.fixture
def classifier() -> PyTorchClassifier:
    """A small smooth net with standardisation, so eps is in raw units while the net sees others."""
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, CLASSES))
    for parameter in net.parameters():
        parameter.data *= 3
    return PyTorchClassifier(
        net,
        nn.CrossEntropyLoss(),
        SHAPE,
        CLASSES,
        clip_values=(0.0, 1.0),
        preprocessing=(0.4, 0.5),
    )


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Inputs, some of them at the edge of the box, and labels."""
    x = (torch.rand(N, *SHAPE) * 1.4 - 0.2).clamp(0, 1)
    return x, torch.randint(CLASSES, (N,))


def ours(
    classifier: PyTorchClassifier, attack: Any, x: Tensor, y: Tensor, start: Tensor | None = None
) -> np.ndarray:
    seen = view(classifier)
    return attack(seen.model, x, y, space=seen.space, start=start).numpy()


def random_start(x: Tensor, eps: Any, norm: float, seed: int = 5) -> Tensor:
    """The start that ART draws after ``np.random.seed(seed)``."""
    np.random.seed(seed)
    delta = random_sphere(len(x), x[0].numel(), eps, norm).reshape(x.shape)
    return (x + torch.from_numpy(delta).float()).clamp(0, 1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_fgm_takes_arts_step(classifier, batch, norm: float, targeted: bool) -> None:
    """FGM from x lands where ART's does, in every norm, towards and away from y."""
    x, y = batch
    eps = {np.inf: 0.1, 2: 0.6, 1: 1.5}[norm]
    art = FastGradientMethod(classifier, norm=norm, eps=eps, targeted=targeted)
    native = translate(art)
    assert native == fgm(eps, norm=float(norm), targeted=targeted)
    expected = art.generate(x.numpy(), y=y.numpy())
    assert np.abs(expected - x.numpy()).max() > 0.01
    np.testing.assert_allclose(ours(classifier, native, x, y), expected, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_fgm_with_a_random_start_takes_arts_step(classifier, batch, norm: float) -> None:
    """FGM from ART's random start lands where ART's does: a full step, then into the ball."""
    x, y = batch
    eps = {np.inf: 0.1, 2: 0.6, 1: 1.5}[norm]
    art = FastGradientMethod(classifier, norm=norm, eps=eps, num_random_init=1)
    start = random_start(x, eps, norm)
    np.random.seed(5)
    expected = art.generate(x.numpy(), y=y.numpy())
    np.testing.assert_allclose(ours(classifier, translate(art), x, y, start), expected, atol=2e-6)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("targeted", [False, True])
def test_pgd_walks_arts_path(classifier, batch, flavour, norm: float, targeted: bool) -> None:
    """Ten steps of PGD from x end where both of ART's flavours end."""
    x, y = batch
    eps, step = {np.inf: (0.1, 0.03), 2: (0.6, 0.15), 1: (1.5, 0.4)}[norm]
    art = flavour(
        classifier, norm, eps, step, max_iter=10, targeted=targeted, verbose=False, batch_size=N
    )
    native = translate(art)
    assert isinstance(native, PGD) and native.steps == 10 and not native.random_start
    expected = art.generate(x.numpy(), y=y.numpy())
    np.testing.assert_allclose(ours(classifier, native, x, y), expected, atol=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("norm", NORMS)
def test_pgd_walks_arts_path_from_arts_random_start(classifier, batch, flavour, norm) -> None:
    """From the start that ART draws, PGD ends where ART ends."""
    x, y = batch
    eps, step = {np.inf: (0.1, 0.03), 2: (0.6, 0.15), 1: (1.5, 0.4)}[norm]
    art = flavour(
        classifier, norm, eps, step, max_iter=6, num_random_init=1, verbose=False, batch_size=N
    )
    start = random_start(x, eps, norm)
    np.random.seed(5)
    expected = art.generate(x.numpy(), y=y.numpy())
    native = translate(art)
    assert native.random_start and native.restarts == 1
    np.testing.assert_allclose(ours(classifier, native, x, y, start), expected, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_have_arts_distribution(norm: float) -> None:
    """The mean length and mean entry of native starts are those of ART's, which fill the ball."""
    x = torch.full((6000, 3), 0.5)
    native = PGD(eps=0.1, norm=norm, step_size=0.0, steps=1)(
        view(_linear(3)).model, x, torch.zeros(6000, dtype=torch.long)
    )
    theirs = random_sphere(6000, 3, 0.1, norm)
    for power in (1, 2):
        mine = (native - x).abs().pow(power).mean(0)
        np.testing.assert_allclose(mine, np.mean(np.abs(theirs) ** power, 0), rtol=0.06)
    np.testing.assert_allclose((native - x).mean(0), 0, atol=0.004)


def _linear(features: int) -> PyTorchClassifier:
    return PyTorchClassifier(nn.Linear(features, 3), nn.CrossEntropyLoss(), (features,), 3)


@pytest.mark.parametrize("make", [BasicIterativeMethod, MomentumIterativeMethod])
@pytest.mark.parametrize("targeted", [False, True])
def test_bim_and_mim_walk_arts_path(classifier, batch, make, targeted: bool) -> None:
    """BIM and MIM end where ART's end; both are dispatchers around PGD."""
    x, y = batch
    art = make(classifier, eps=0.1, eps_step=0.02, max_iter=7, targeted=targeted, verbose=False)
    native = translate(art)
    assert native.decay == (1.0 if make is MomentumIterativeMethod else None)
    expected = art.generate(x.numpy(), y=y.numpy())
    np.testing.assert_allclose(ours(classifier, native, x, y), expected, atol=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("norm", [2, 1])
def test_momentum_walks_arts_path_in_other_norms(classifier, batch, flavour, norm) -> None:
    """Momentum accumulates gradients of unit L1 length, as in ART, whatever the norm."""
    x, y = batch
    art = flavour(classifier, norm, 0.8, 0.2, decay=0.7, max_iter=6, verbose=False, batch_size=N)
    expected = art.generate(x.numpy(), y=y.numpy())
    np.testing.assert_allclose(ours(classifier, translate(art), x, y), expected, atol=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("shape", [SHAPE, (1, 5, 5)])
def test_eps_per_feature_is_arts(classifier, batch, flavour, shape) -> None:
    """Radius and step as arrays per feature mean what they mean in ART."""
    x, y = batch
    eps = np.random.uniform(0.0, 0.2, shape).astype(np.float32)
    step = eps / 4 + 1e-3
    art = flavour(classifier, np.inf, eps, step, max_iter=5, verbose=False, batch_size=N)
    x_adv = ours(classifier, translate(art), x, y)
    np.testing.assert_allclose(x_adv, art.generate(x.numpy(), y=y.numpy()), atol=1e-5)
    assert (np.abs(x_adv - x.numpy()) <= eps + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("per_example", [False, True])
def test_masked_features_stay_as_in_art(classifier, batch, norm, per_example: bool) -> None:
    """A mask in the space is ART's ``mask=``, for one input or one for each example."""
    x, y = batch
    mask = (np.random.random((N, *SHAPE) if per_example else SHAPE) < 0.5).astype(np.float32)
    art = ProjectedGradientDescent(classifier, norm, 0.5, 0.2, max_iter=5, verbose=False)
    expected = art.generate(x.numpy(), y=y.numpy(), mask=mask)
    seen = view(classifier)
    space = InputSpace(seen.space.low, seen.space.high, torch.from_numpy(mask))
    x_adv = translate(art)(seen.model, x, y, space=space)
    np.testing.assert_allclose(x_adv.numpy(), expected, atol=1e-5)
    assert ((x_adv - x)[torch.from_numpy(mask).expand_as(x) == 0] == 0).all()


def test_without_clip_values_the_space_is_unbounded(batch) -> None:
    """ART without clip_values and the native attack both leave [0, 1]."""
    x, y = batch
    net = nn.Sequential(nn.Flatten(), nn.Linear(50, CLASSES))
    classifier = PyTorchClassifier(net, nn.CrossEntropyLoss(), SHAPE, CLASSES)
    art = ProjectedGradientDescent(classifier, np.inf, 0.3, 0.1, max_iter=4, verbose=False)
    x_adv = ours(classifier, translate(art), x, y)
    np.testing.assert_allclose(x_adv, art.generate(x.numpy(), y=y.numpy()), atol=1e-5)
    assert x_adv.max() > 1


def test_restarts_never_lose_to_arts(classifier, batch) -> None:
    """With restarts the native attack fools at least what a single run of it fools."""
    x, y = batch
    seen = view(classifier)
    generator = torch.Generator().manual_seed(3)
    one = PGD(eps=0.05, steps=3)(seen.model, x, y, space=seen.space, generator=generator)
    generator = torch.Generator().manual_seed(3)
    many = PGD(eps=0.05, steps=3, restarts=6)(
        seen.model, x, y, space=seen.space, generator=generator
    )

    def fooled(z: Tensor) -> Tensor:
        return misclassified(seen.model, seen.model(z), y)

    assert (fooled(many) | ~fooled(one)).all()
    same = fooled(many) == fooled(one)
    losses = [seen.model.loss(seen.model(z), y) for z in (one, many)]
    assert (losses[1] >= losses[0])[same].all()
    assert not torch.equal(one, many)
