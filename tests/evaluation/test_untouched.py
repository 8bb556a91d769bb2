"""Nothing that a model or an attack does reaches the caller's data, model or torch's settings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import artplus
from artplus.attacks import PGD
from artplus.evaluation import judge
from artplus.model import LossModel
from tests.toys import arrays, same, weights

X, Y = arrays(40, (4,))


class InPlace(nn.Module):
    """Subtracts a mean from its input where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            x -= 0.5
        return self.linear(x)


def forms(x, y):
    """The caller's data in every form in which batches may share its memory."""
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    return {
        "arrays": (x, y),
        "tensors": tensors,
        "list of batches": [tensors],
        "loader": DataLoader(TensorDataset(*tensors), 8),
        "columns": {"x": x, "labels": y},
    }


@pytest.mark.parametrize("form", forms(X, Y))
def test_a_module_that_works_in_place_leaves_the_data_of_training_alone(form):
    x = X.copy()
    module = InPlace()
    artplus.fit(
        module, forms(x, Y)[form], torch.optim.SGD(module.parameters(), lr=0.1), loss="at",
        eps=0.1, bounds=None, epochs=1, validation=forms(x, Y)[form], progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(x, X)


@pytest.mark.parametrize("door", ["module", "estimator"])
def test_a_module_that_works_in_place_leaves_the_data_of_an_evaluation_alone(door):
    x = X.copy()
    model = InPlace() if door == "module" else artplus.wrap(InPlace(), x, Y, verbose=False)
    pgd = PGD(eps=0.1, steps=2)
    artplus.evaluate(model, x, Y, attacks=pgd, analyses="per_class", progress=False)
    np.testing.assert_array_equal(x, X)


def test_a_module_that_works_in_place_leaves_the_data_of_the_trainer_alone():
    x, module = X.copy(), InPlace()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    estimator = artplus.wrap(module, x, Y, optimizer=optimizer, verbose=False)
    trainer = artplus.AdversarialTrainerPlus(estimator, eps=0.1, verbose=False)
    trainer.fit(x, Y, nb_epochs=1, validation_data=(x, Y))
    np.testing.assert_array_equal(x, X)


class Cheat:
    """An attack that does something to its surroundings and then moves nothing by much."""

    eps, norm = 0.1, float("inf")

    def __init__(self, act) -> None:
        self.act = act

    def __call__(self, model, x, y, **_):
        self.act(model.module, x, y)
        return x + 0.005

    def with_eps(self, scale):
        return self


def judged(module, act):
    attacks = {"cheat": Cheat(act), "pgd": PGD(eps=0.1, steps=3)}
    return judge(LossModel(module), X, Y, attacks, batch_size=16, progress=False)


@pytest.fixture
def module():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3))


def test_an_attack_that_overwrites_its_arguments_gains_nothing(module):
    def overwrite(_, x, y):
        x.add_(0.5)
        y.fill_(0)

    result = judged(module, overwrite).attacks[0]
    # It returned its inputs moved by 0.505, which is measured from the clean ones.
    assert result.eps_violations > 0
    assert result.broken.startswith("left its ball")


def zero(model, *_):
    for parameter in model.parameters():
        parameter.data.zero_()


def hook(model, *_):
    model[0].register_forward_hook(lambda module, args, output: 0 * output)


def replace(model, *_):
    model[0].weight = nn.Parameter(torch.zeros(3, 4))


def insert(model, *_):
    model.append(nn.ReLU())


CHEATS = {
    "weights": (zero, "0.weight"),
    "hooks": (hook, "forward hooks of Linear"),
    "other weights": (replace, "parameters of Linear"),
    "another layer": (insert, "modules of Sequential"),
    "default dtype": (lambda *_: torch.set_default_dtype(torch.float64), "default dtype"),
    "gradients": (lambda *_: torch.set_grad_enabled(False), "records gradients"),
}


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_an_attack_changes_is_noticed_and_put_back(cheat, module):
    act, named = CHEATS[cheat]
    honest = judge(LossModel(module), X, Y, {"pgd": PGD(eps=0.1, steps=3)}, progress=False,
                   batch_size=16)  # fmt: skip
    before = weights(module)
    try:
        report = judged(module, act)
        assert torch.get_default_dtype() is torch.float32
        assert torch.is_grad_enabled()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    assert named in report.attacks[0].broken
    assert same(before, weights(module))
    np.testing.assert_array_equal(report.attacks[1].correct, honest.attacks[0].correct)


def test_it_is_put_back_after_an_attack_that_raises_too(module):
    before = weights(module)

    def act(model, *_):
        zero(model)
        raise RuntimeError("and fails")

    report = judged(module, act)
    assert "and fails" in report.attacks[0].broken
    assert same(before, weights(module))


def test_flags_that_attacks_set_and_buffers_that_models_move_are_no_cheating(module):
    class Counting(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    result = judged(Counting(), lambda model, x, y: model.train()(x)).attacks[0]
    assert result.broken is None
