"""Examples without a label: used where the objective can, refused everywhere else."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import artplus
from artplus import AdversarialTrainerPlus, fit, make_method
from artplus.attacks import PowerIteration
from artplus.errors import DataError
from artplus.functional import labelled, smooth_labels
from artplus.losses import list_losses, make_loss
from tests.toys import arrays, classifier, net, same, weights

X, Y = (torch.from_numpy(v) for v in arrays(24))
SOME = torch.where(torch.arange(24) % 3 == 0, Y, -100)
ATTACK = PowerIteration(eps=0.1)
OTHERS = [n for n in list_losses() if not make_loss(n).unlabelled and not make_loss(n).task]


def trained(model: nn.Module, y: Any = SOME, x: Any = X, **options: Any) -> Any:
    settings: dict[str, Any] = {"loss": "vat", "attack": ATTACK, "bounds": (0.0, 1.0), "epochs": 2,
                                "batch_size": 8, "seed": 1, "progress": False}  # fmt: skip
    settings |= options
    data = settings.pop("data", (x, y))
    return fit(model, data, torch.optim.SGD(model.parameters(), lr=0.1), **settings)


def gradient(model: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_which_have_a_label() -> None:
    """Only class numbers can lack one."""
    assert labelled(torch.tensor([0, -100, 2])).tolist() == [True, False, True]
    for other in (torch.rand(3), torch.zeros(3, 4).long(), [1, 2], None):
        assert labelled(other) is None


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("class_weight", [None, [1.0, 2.0, 4.0]])
def test_the_loss_is_of_labelled_and_the_divergence_of_all(label_smoothing, class_weight) -> None:
    """As one batch of the labelled and one of all; an unlabelled example weighs one."""
    model, known = net().eval(), SOME != -100
    method = make_method("vat", lam=2.0, attack=ATTACK, bounds=(0.0, 1.0),
                         label_smoothing=label_smoothing, class_weight=class_weight)  # fmt: skip
    whole = method.loss(model, X, SOME, generator=torch.Generator().manual_seed(0))
    weight = None if class_weight is None else torch.tensor(class_weight)
    supervised = F.cross_entropy(model(X[known]), SOME[known], reduction="none",
                                 label_smoothing=label_smoothing)  # fmt: skip
    each = torch.ones(24) if weight is None else torch.where(known, weight[SOME.clamp_min(0)], 1.0)
    supervised = (supervised * each[known]).sum() / each[known].sum()
    (x_adv,) = method.craft(
        artplus.LossModel(model), X, SOME, generator=torch.Generator().manual_seed(0)
    )
    p, q = model(X).log_softmax(1).detach(), model(x_adv).log_softmax(1)
    virtual = (((p.exp() * (p - q)).sum(1)) * each).sum() / each.sum()
    for one, other in zip(
        gradient(model, whole), gradient(model, supervised + 2 * virtual), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_at_lam_zero_the_unlabelled_do_not_matter() -> None:
    """Plain training on the labelled alone, whatever else is in the batch."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    twin = copy.deepcopy(model)
    order = torch.arange(24).view(8, 3).T.flatten()  # labelled examples are in the first batch
    batches = [(X[rows], SOME[rows]) for rows in order.split(12)]
    assert trained(model, data=batches, lam=0.0)["adversarial_examples"] == [0.0, 0.0]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(2):
        for x, y in batches:
            known = y != -100
            optimizer.zero_grad()
            if known.any():
                F.cross_entropy(twin(x[known]), y[known]).backward()
            optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_parts_of_a_batch_give_the_gradient_of_the_whole() -> None:
    """Also where a part has no label."""
    y = torch.where(torch.arange(24) % 8 < 2, Y, -100)
    start = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    whole, parts = copy.deepcopy(start), copy.deepcopy(start)
    loader = [(X[k : k + 8], y[k : k + 8]) for k in (0, 8, 16)]
    attack = {"attack": None, "eps": 0.0}
    trained(whole, data=loader, **attack)
    trained(parts, data=loader, micro_batch=3, **attack)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_batch_without_labels_trains_on_its_divergence() -> None:
    """No NaN from a mean over nothing."""
    model = net()
    before = weights(model)
    history = trained(model, data=[(X[:8], SOME[:8]), (X[8:16], torch.full((8,), -100))])
    assert not same(before, weights(model))
    assert all(bool(v.isfinite().all()) for v in weights(model).values())
    assert all(np.isfinite(loss) for loss in history["loss"])


def test_accuracy_is_that_of_the_labelled() -> None:
    """A model that is right on all of them scores one, however many have no label."""

    class Perfect(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(20.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x[:, :3]

    x = torch.eye(3)[Y] * 0.9 + 0.05
    history = trained(Perfect(), SOME, x, attack=PowerIteration(eps=0.05), epochs=1)
    assert history["clean_accuracy"] == [1.0] and history["adversarial_accuracy"] == [1.0]
    assert history["adversarial_examples"] == [8.0]


def test_more_examples_help() -> None:
    """Two moons with six labels: the unlabelled pull the boundary into the gap."""
    generator = torch.Generator().manual_seed(0)
    angle = torch.rand(200, generator=generator) * torch.pi
    y = torch.arange(200) % 2
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x[y == 1] = torch.tensor([1.0, 0.5]) - x[y == 1]
    x = x + 0.08 * torch.randn(200, 2, generator=generator)
    few = torch.where(torch.arange(200) < 6, y, -100)
    scores = {}
    for name, columns in {"supervised": (x[:6], few[:6]), "with the others": (x, few)}.items():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
        steps = 200
        epochs = steps // max(1, len(columns[0]) // 100)
        fit(model, columns, torch.optim.Adam(model.parameters(), lr=0.01), loss="vat", lam=2.0,
            attack=PowerIteration(eps=0.3), bounds=None, epochs=epochs, batch_size=100, seed=0,
            progress=False)  # fmt: skip
        with torch.no_grad():
            scores[name] = float((model(x).argmax(1) == y).float().mean())
    assert scores["with the others"] > scores["supervised"] + 0.02


@pytest.mark.parametrize("loss", OTHERS)
@pytest.mark.parametrize("kind", ["arrays", "loader"])
def test_other_objectives_refuse_them(loss: str, kind: str) -> None:
    """Before any step, with their number and the remedy; not as a loss of zero."""
    model = net()
    before = weights(model)
    data: Any = (X, SOME)
    if kind == "loader":
        data = DataLoader(TensorDataset(X, SOME), 8)
    options = {"attack": None} if not make_loss(loss).attacked else {"eps": 0.1, "attack": None}
    with pytest.raises(DataError, match=r"labels in y are -100.*use that loss"):
        trained(model, data=data, loss=loss, **options)
    assert same(before, weights(model))


def test_a_later_batch_of_a_loader_is_refused_too() -> None:
    """The first ones have labels; the message is the same."""
    data = [(X[:8], Y[:8]), (X[8:16], SOME[8:16])]
    with pytest.raises(DataError, match="of 8 labels in y are -100"):
        trained(net(), data=data, loss="mix")
    trained(net(), data=data)


@pytest.mark.parametrize("kind", ["arrays", "later batch"])
def test_validation_needs_labels(kind: str) -> None:
    """Accuracy has no meaning without them, whatever the loss."""
    held_out: Any = (X, SOME) if kind == "arrays" else [(X[:8], Y[:8]), (X[8:], SOME[8:])]
    with pytest.raises(DataError, match="they cannot be validated or evaluated"):
        trained(net(), validation=held_out)


def test_evaluation_needs_labels() -> None:
    """Likewise."""
    with pytest.raises(DataError, match="they cannot be validated or evaluated"):
        artplus.evaluate(net().eval(), X, SOME, attacks=["fgm"], eps=0.1, progress=False)


def test_labels_are_needed_at_all() -> None:
    """At least one."""
    with pytest.raises(DataError, match="none of the 24 examples has a label"):
        trained(net(), torch.full((24,), -100))


@pytest.mark.parametrize("bad", [-1, 3])
def test_other_numbers_are_still_out_of_range(bad: int) -> None:
    """-100 alone means no label."""
    y = SOME.clone()
    y[0] = bad
    with pytest.raises(DataError, match="y must lie in 0..2"):
        trained(net(), y)


def test_arts_door_takes_them_too() -> None:
    """An estimator of ART, with validation on labelled examples; other losses refuse."""
    x, y = X.numpy(), SOME.numpy()
    estimator = classifier()
    options = {"seed": 0, "verbose": False}
    trainer = AdversarialTrainerPlus(estimator, ATTACK, loss="vat", **options)
    history = trainer.fit(x, y, nb_epochs=1, batch_size=8, validation_data=(x, Y.numpy()))
    assert "val_clean_accuracy" in history.rows[-1]
    with pytest.raises(DataError, match="labels in y are -100"):
        AdversarialTrainerPlus(estimator, loss="mix", eps=0.1, **options).fit(x, y, nb_epochs=1)
    with pytest.raises(DataError, match="labels in y are -100"):
        trainer.fit(x, y, nb_epochs=1, validation_data=(x, y))


@pytest.mark.parametrize("task", ["regression", "segmentation"])
def test_in_other_tasks_minus_one_hundred_is_what_it_was(task: str) -> None:
    """A number to predict, or a pixel that does not count."""
    if task == "regression":
        model: nn.Module = nn.Linear(6, 1)
        y: Tensor = torch.where(torch.arange(24) % 2 == 0, -100, 1)
    else:
        model = nn.Conv1d(1, 3, 1)
        y = torch.where(torch.arange(6) % 2 == 0, -100, Y[:, None].expand(-1, 6))
    x = X if task == "regression" else X[:, None]
    for loss in ("mix", "vat"):
        history = trained(copy.deepcopy(model), y, x, loss=loss, task=task, attack=None, eps=0.01)
        assert history["loss"][0] > (100 if task == "regression" else 0.1)


def test_smoothed_labels_leave_them_out() -> None:
    """A row of zeros, whose cross-entropy is zero."""
    rows = smooth_labels(torch.tensor([1, -100]), 4, 0.2)
    torch.testing.assert_close(rows, torch.tensor([[0.05, 0.85, 0.05, 0.05], [0.0] * 4]))
