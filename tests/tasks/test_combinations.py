"""Every objective, step and option with every kind of model: it trains, or says why it cannot."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import artplus
from artplus.attacks import APGD, PGD, Average, WorstOf, fgm
from artplus.errors import ConfigurationError
from artplus.spaces import EmbeddingSpace, InputSpace, LatentSpace, Space
from artplus.training.callbacks import CleanFloor, GradientClipping
from artplus.training.steps import Free
from tests.tasks import models
from tests.tasks.cases import CASES, Case, N, train

pytest.importorskip("transformers")

LABELLED = {"words", "bert"}
JUDGED = {*LABELLED, "tags"}
"""Those whose examples are right or wrong."""
DETECTORS = {"detector", "detector by boxes"}
LOSSES = [name for name in artplus.list_losses() if not name.startswith("doctest")]


def refusal(loss: str, name: str) -> str | None:
    """What is said of an objective that cannot serve."""
    if task := artplus.make_loss(loss).task:
        return f"serves task '{task}' alone"
    if loss in ("mart", "hinge") and name not in LABELLED:
        return "compares class probabilities of one label an example"
    if artplus.make_loss(loss).divergent and name in DETECTORS:
        return "no divergence between predictions"
    if loss == "input_gradient" and name == "recogniser":
        return "takes the gradient of a gradient, which torch cannot take here"
    return None


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", LOSSES)
def test_objectives(loss: str, name: str) -> None:
    """Each trains whatever task it can serve; the others are refused before the first step."""
    options: dict[str, Any] = {"loss": loss, "epochs": 1}
    if not artplus.make_loss(loss).attacked:
        options["attack"] = None
    reason = refusal(loss, name)
    if reason is not None:
        with pytest.raises(ConfigurationError, match=reason):
            train(CASES[name], **options)
        return
    _, history = train(CASES[name], **options)
    assert math.isfinite(history["loss"][0]) and history["loss"][0] > 0


OPTIONS: dict[str, Callable[[Case], dict[str, Any]]] = {
    "free": lambda case: {"step": Free(2)},
    "half the batch attacked": lambda case: {"attack_share": 0.5, "micro_batch": 3},
    "clipping": lambda case: {"callbacks": [GradientClipping(0.1)]},
    "bf16": lambda case: {"precision": "bf16"},
    "one step": lambda case: {"attack": fgm(eps=case.eps, norm=2)},
    "apgd": lambda case: {"attack": APGD(eps=case.eps, norm=2, steps=4)},
    "maximum": lambda case: {"attack": PGD(eps=case.eps / 10, steps=2)},
    "average": lambda case: {"attack": Average([case.attack(), fgm(eps=case.eps, norm=2)])},
    "worst": lambda case: {"attack": WorstOf([case.attack(), fgm(eps=case.eps, norm=2)])},
    "class weights": lambda case: {"class_weight": [1.0, 2.0, 3.0]},
    "smoothing": lambda case: {"label_smoothing": 0.1},
    "floor": lambda case: {"callbacks": [CleanFloor(0.5)], "validation": case.data(8)},
}
LEFT_OUT = {
    "half the batch attacked": (DETECTORS, "attack_share needs a loss per example"),
    "apgd": (DETECTORS, "Auto-PGD.*the model's loss returns one mean for the batch"),
    "class weights": (CASES.keys() - LABELLED, "class_weight"),
    "smoothing": (CASES.keys() - LABELLED, "for classification with one label an example"),
    "floor": (CASES.keys() - JUDGED, "CleanFloor needs a clean accuracy"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("option", OPTIONS)
def test_options(option: str, name: str) -> None:
    """Steps, attacks, precision and weights, likewise."""
    names, reason = LEFT_OUT.get(option, ((), ""))
    if name in names:
        with pytest.raises(ConfigurationError, match=reason):
            train(CASES[name], **OPTIONS[option](CASES[name]))
        return
    _, history = train(CASES[name], **OPTIONS[option](CASES[name]))
    assert all(math.isfinite(loss) for loss in history["loss"])


@pytest.mark.parametrize("name", CASES)
def test_validation(name: str) -> None:
    """Accuracy where there is one, else the loss; the best epoch's weights are kept."""
    _, history = train(CASES[name], validation=CASES[name].data(8))
    figure = "accuracy" if name in JUDGED else "loss"
    row = list(history)[-1]
    clean, adversarial = row[f"val_clean_{figure}"], row[f"val_adversarial_{figure}"]
    assert clean >= adversarial if figure == "accuracy" else clean < adversarial


def test_an_embedding_that_does_not_run_is_refused() -> None:
    """T5 shares its matrix among three modules, of which the first never runs."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(vocab_size=24, d_model=8, d_kv=4, d_ff=16, num_layers=1,
                                   num_heads=2, decoder_start_token_id=0)  # fmt: skip
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config)
    labels = torch.randint(1, 24, (N, 5))
    columns = {
        "input_ids": models.sentences(N)["input_ids"],
        "decoder_input_ids": F.pad(labels[:, :-1], (1, 0)),
        "labels": labels,
    }

    def fit(space: EmbeddingSpace) -> Any:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return artplus.fit(model, columns, optimizer, loss="mix", eps=0.1, norm=2, space=space,
                           epochs=2, batch_size=8, seed=0, progress=False)  # fmt: skip

    with pytest.raises(ConfigurationError, match="Embedding does not run in a forward pass"):
        fit(EmbeddingSpace())
    history = fit(EmbeddingSpace(layer="encoder.embed_tokens"))
    assert history["loss"][1] < history["loss"][0]


class Upscaled(nn.Module):
    """Segformer's logits at the size of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.model = models.make("segformer")

    def forward(self, pixel_values: Tensor) -> Tensor:
        return F.interpolate(self.model(pixel_values).logits, pixel_values.shape[2:])


def boxes(n: int) -> list[dict[str, Tensor]]:
    row = {"boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]), "class_labels": torch.tensor([1])}
    return [row] * n


TRANSFORMERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Space]] = {
    "bert tokens": (
        lambda: models.make("bert tokens"),
        lambda: {**models.sentences(N), "labels": models.sentences(N)["input_ids"] % 3},
        EmbeddingSpace(per="token", special_tokens=(0,)),
    ),
    "wav2vec2": (
        lambda: models.make("wav2vec2"),
        lambda: {
            "input_values": torch.rand(N, 120),
            "attention_mask": (torch.arange(120) < 100 + torch.arange(N)[:, None] % 3).long(),
            "labels": torch.tensor([[1, 2, -100], [3, 4, 1]]).repeat(N // 2, 1),
        },
        InputSpace(0.0, 1.0),
    ),
    "vit": (
        lambda: models.make("vit"),
        lambda: {"pixel_values": torch.rand(N, 1, 8, 8), "label": torch.arange(N) % 3},
        InputSpace(0.0, 1.0),
    ),
    "vit, hidden": (
        lambda: models.make("vit"),
        lambda: {"pixel_values": torch.rand(N, 1, 8, 8), "label": torch.arange(N) % 3},
        LatentSpace([0], per="token"),
    ),
    "segformer": (
        Upscaled,
        lambda: (torch.rand(N, 3, 16, 16), torch.randint(3, (N, 16, 16))),
        InputSpace(0.0, 1.0),
    ),
    "yolos": (
        lambda: models.make("yolos"),
        lambda: {"pixel_values": torch.rand(N, 3, 16, 16), "labels": boxes(N)},
        InputSpace(0.0, 1.0),
    ),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_models_of_transformers(name: str) -> None:
    """Trained and judged as they come, without a word about their task."""
    make, data, space = TRANSFORMERS[name]
    torch.manual_seed(0)
    model, examples = make(), data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    attack = PGD(eps=0.05, norm=2, steps=2)
    judged = {"attacks": [attack], "space": space, "progress": False}
    before = artplus.evaluate(model, examples, **judged)
    artplus.fit(model, examples, optimizer, loss="mix", attack=attack, space=space, epochs=4,
                batch_size=8, seed=0, progress=False)  # fmt: skip
    after = artplus.evaluate(model, examples, **judged)
    assert after.attacks[0].broken is None and after.attacks[0].changed == after.attacks[0].attacked
    assert after.robust_metrics["loss"] < before.robust_metrics["loss"]
