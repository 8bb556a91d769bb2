"""Encoders: features as predictions, FARE against its formula, and data without labels."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import artplus
from artplus.attacks import PGD
from artplus.encoders import ImageFeatures, ZeroShot
from artplus.errors import (
    ArtplusWarning,
    ConfigurationError,
    DataError,
    UnsupportedEstimatorError,
)
from artplus.losses import Context, fare
from artplus.model import LossModel
from artplus.tasks import Features, features_of
from artplus.training.callbacks import Checkpoint
from tests.tasks.cases import Examples, Interrupt

EPS = 8 / 255


def encoder(seed: int = 0) -> nn.Module:
    """Images of 3 x 4 x 4 to five features."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 12), nn.Tanh(), nn.Linear(12, 5))


def images(n: int = 12) -> Tensor:
    return torch.rand(n, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def fit(model: nn.Module, data: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {
        "attack": PGD(eps=EPS, steps=3), "task": "features", "epochs": 2, "batch_size": 4,
        "seed": 0, "progress": False, "bounds": (0, 1),
    }  # fmt: skip
    lr = options.pop("lr", 0.05)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=lr)
    return artplus.fit(model, data, optimizer, **settings | options)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_fare_is_the_authors_loss() -> None:
    """Attack and training step against those written out by hand, per example."""
    model, first = encoder(), encoder()
    with torch.no_grad():
        model[1].weight.mul_(1.1)
    x, eps = images(), 0.1
    objective = fare(reference=first)
    attack = PGD(eps=eps, steps=4, step_size=0.03, random_start=False)
    loss_model = LossModel(model, Features())
    assert objective.inner is not None
    x_adv = attack(loss_model, x, torch.zeros(12, 0), inner=objective.inner)
    by_hand = x.clone()
    for _ in range(4):
        by_hand.requires_grad_()
        (slope,) = torch.autograd.grad(((model(by_hand) - first(x)) ** 2).sum(), by_hand)
        by_hand = by_hand.detach() + 0.03 * slope.sign()
        by_hand = torch.max(torch.min(by_hand, x + eps), x - eps)
    torch.testing.assert_close(x_adv, by_hand)
    terms = objective.terms(Context(loss_model, x, x_adv, torch.zeros(12, 0)))
    expected = ((model(by_hand) - first(x)) ** 2).sum(1)
    torch.testing.assert_close(terms.total(1.0), expected)
    found = torch.autograd.grad(terms.total(1.0).mean(), list(model.parameters()))
    twin = torch.autograd.grad(expected.mean(), list(model.parameters()))
    torch.testing.assert_close(found, twin)
    assert all(p.grad is None for p in first.parameters())


def test_fare_is_at_on_the_features_of_before() -> None:
    """With the features as targets plain adversarial training minimises the same."""
    first = encoder()
    by_copy, by_targets = encoder(), encoder()
    with torch.no_grad():
        targets = first(images())
    a = fit(by_copy, images(), loss=fare(reference=first))
    b = fit(by_targets, (images(), targets), loss="at")
    torch.testing.assert_close(weights(by_copy), weights(by_targets))
    assert a["loss"] == pytest.approx(b["loss"]) and a["loss"][0] > 0
    assert not torch.equal(weights(by_copy), weights(first))


FORMS = {
    "a tensor": lambda x: x,
    "an array": lambda x: x.numpy(),
    "an array and nothing": lambda x: (x.numpy(), None),
    "rows": lambda x: Examples(list(x)),
    "rows of one": TensorDataset,
    "a loader": lambda x: DataLoader(Examples(list(x)), batch_size=4),
    "batches": lambda x: list(x.split(4)),
    "batches of a column": lambda x: [{"input": part, "idx": part} for part in x.split(4)],
}


@pytest.mark.parametrize("form", FORMS)
def test_images_alone_in_any_form(form: str) -> None:
    """All train alike; only a loader's own order differs from the shuffled one."""
    model, twin = encoder(), encoder()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ArtplusWarning)
        history = fit(model, FORMS[form](images()), loss=fare(reference=encoder()))
    fit(twin, images(), loss=fare(reference=encoder()))
    ordered = form in ("a loader", "batches", "batches of a column")
    assert torch.equal(weights(model), weights(twin)) is not ordered
    assert history["loss"][0] > 0


LABELLED = {
    "a pair": lambda x: (x, torch.arange(12)),
    "pairs": lambda x: TensorDataset(x, torch.arange(12)),
    "columns": lambda x: {"x": x, "label": torch.arange(12)},
    "captions": lambda x: [(part, ["a photo"] * 4) for part in x.split(4)],
}


@pytest.mark.parametrize("form", LABELLED)
def test_labels_are_left_out_and_that_is_said(form: str) -> None:
    model = encoder()
    with pytest.warns(ArtplusWarning, match="uses no labels.*ignored"):
        fit(model, LABELLED[form](images()), loss=fare(reference=encoder()))
    assert not torch.equal(weights(model), weights(encoder()))


def test_losses_with_labels_refuse_images_alone() -> None:
    for loss in ("at", "mix", "trades"):
        with pytest.raises(DataError, match="got Tensor; inputs alone suffice for.*'fare'"):
            fit(encoder(), images(), loss=loss)
    with pytest.raises(DataError, match=r"floats \(batch, 5\), got torch.int64 \(12,\).*ZeroShot"):
        fit(encoder(), (images(), torch.arange(12)), loss="at")
    with pytest.raises(DataError, match=r"\(batch, 5\), got torch.float32 \(12, 4\)"):
        fit(encoder(), (images(), torch.rand(12, 4)), loss="at")


def test_fare_is_refused_where_it_cannot_serve() -> None:
    """Without a reference, on classifiers, and under ART's door; before any step."""
    model = encoder()
    with pytest.raises(ConfigurationError, match=r"fare\(reference=copy.deepcopy\(model\)\)"):
        fit(model, images(), loss="fare")
    for task in ("auto", "classification"):
        with pytest.raises(ConfigurationError, match="serves task 'features' alone"):
            fit(model, images(), loss=fare(reference=encoder()), task=task)
    estimator = artplus.wrap(model, images(), torch.arange(12) % 5, clip_values=(0, 1),
                             optimizer=torch.optim.SGD(model.parameters(), 0.1))  # fmt: skip
    trainer = artplus.AdversarialTrainerPlus(estimator, loss="fare", eps=EPS, verbose=False)
    with pytest.raises(ConfigurationError, match="serves task 'features' alone"):
        trainer.fit(images().numpy(), np.arange(12) % 5, nb_epochs=1)
    assert torch.equal(weights(model), weights(encoder()))


def test_resumed_equals_uninterrupted(tmp_path: Any) -> None:
    def once(callbacks: list[Any], resume: Any = None) -> Tensor:
        model = encoder()
        fit(model, images(), loss=fare(reference=encoder()), epochs=4, callbacks=callbacks,
            resume=resume)  # fmt: skip
        return weights(model)

    through = once([])
    with pytest.raises(KeyboardInterrupt):
        once([Checkpoint(tmp_path, every_steps=2), Interrupt(5)])
    assert torch.equal(through, once([Checkpoint(tmp_path, every_steps=2)], tmp_path))


def test_parts_of_a_batch_and_low_precision() -> None:
    """Micro-batches change rounding alone; bf16 stays near, and compares with the copy."""
    whole, parts, half = encoder(), encoder(), encoder()
    objective = fare(reference=encoder())
    attack = PGD(eps=EPS, steps=3, random_start=False)
    noisy = {"loss": objective, "attack": PGD(eps=EPS, steps=3)}
    fit(whole, images(), **noisy)
    fit(parts, images(), micro_batch=2, loss=objective, attack=attack)
    fit(half, images(), precision="bf16", **noisy)
    assert (weights(parts) - weights(whole)).norm() < 0.1 * (
        weights(whole) - weights(encoder())
    ).norm() + 0.05
    assert not torch.equal(weights(half), weights(encoder()))
    assert (weights(half) - weights(whole)).norm() < 0.05


def test_the_judge_measures_how_far_features_move() -> None:
    """Loss and cosine against the targets; trained, they move less under attack."""
    first = encoder()
    with torch.no_grad():
        targets = first(images())
    judged: dict[str, Any] = {
        "attacks": [PGD(eps=0.2, steps=20)], "task": "features", "progress": False,
        "bounds": (0, 1),
    }  # fmt: skip
    before = artplus.evaluate(first, images(), targets, **judged)
    model = encoder()
    attack = PGD(eps=0.2, steps=3)
    fit(model, images(), loss=fare(reference=first), attack=attack, epochs=60, lr=0.1)
    after = artplus.evaluate(model, images(), targets, **judged)
    assert before.clean_metrics["loss"] == pytest.approx(0)
    assert after.robust_metrics["loss"] < 0.5 * before.robust_metrics["loss"]
    assert after.robust_metrics["cosine"] > before.robust_metrics["cosine"]


def test_validation_takes_features() -> None:
    """Held-out images with the features of before, so that the best epoch is kept."""
    first = encoder()
    with torch.no_grad():
        held_out = images(6), first(images(6))
    history = fit(encoder(), images(), loss=fare(reference=first), validation=held_out)
    assert {"val_clean_loss", "val_adversarial_loss"} <= set(history.rows[-1])


def test_what_is_no_encoder_is_told_so() -> None:
    for outputs, match in (
        ({"last_hidden_state": torch.zeros(2, 4, 3)}, "got dict of last_hidden_state"),
        ({"logits_per_image": torch.zeros(2, 2), "image_embeds": torch.zeros(2, 3)}, "normalised"),
        (None, "got NoneType"),
    ):
        with pytest.raises(UnsupportedEstimatorError, match=match):
            features_of(outputs)
    with pytest.raises(UnsupportedEstimatorError, match=r"features \(batch, width\), got \(12,\)"):
        fit(nn.Sequential(encoder(), nn.Linear(5, 1), nn.Flatten(0)), images(), loss="fare")


class Pooled(nn.Module):
    """Returns an output as Transformers' vision models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = encoder()

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return {"last_hidden_state": pixel_values, "pooler_output": self.inside(pixel_values)}


def test_a_zero_shot_head_is_the_scaled_cosine() -> None:
    """Of any encoder; texts of any length; the encoder's own weights get the gradient."""
    texts = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    for inside in (encoder(), Pooled(), ImageFeatures(encoder())):
        head = ZeroShot(inside, 3 * texts, scale=10.0)
        features = features_of(inside(images()))
        expected = 10 * torch.cosine_similarity(features[:, None], texts[None], dim=-1)
        torch.testing.assert_close(head(images()), expected)
        head(images()).sum().backward()
        assert all(p.grad is not None for p in inside.parameters())
        assert list(head.parameters()) == list(inside.parameters())
    half = ZeroShot(encoder().bfloat16(), texts)(images().bfloat16())
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (torch.zeros(5), r"floats \(classes, width\).*got Tensor \(5,\)"),
        (torch.zeros(1, 5), "at least two classes"),
        (torch.zeros(3, 5).long(), "must be floats"),
        (None, "got NoneType"),
    ],
    ids=["one row", "one class", "numbers", "none"],
)
def test_texts_that_cannot_be_meant(texts: Any, match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        ZeroShot(encoder(), texts)


def test_texts_of_another_width_and_scale_zero_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"features are \(12, 5\).*embeddings \(3, 4\)"):
        ZeroShot(encoder(), torch.ones(3, 4))(images())
    with pytest.raises(ConfigurationError, match="scale must be a finite number > 0"):
        ZeroShot(encoder(), torch.ones(3, 5), scale=0)


def test_a_frozen_copy_is_left_alone() -> None:
    """Its weights, gradients and mode are the user's."""
    first = encoder().train()
    before = copy.deepcopy(first.state_dict())
    fit(encoder(), images(), loss=fare(reference=first))
    assert first.training and all(p.grad is None for p in first.parameters())
    assert all(torch.equal(before[name], value) for name, value in first.state_dict().items())
