"""Models of Transformers: their class tells the task, whose loss equals theirs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.errors import UnsupportedEstimatorError
from artplus.model import as_loss_model
from artplus.tasks import Detection, Regression, Segmentation, make_task
from tests.tasks import models
from tests.tasks.twins import batch_mean, check_metrics

pytest.importorskip("transformers")

N = 5


def ids_with(labels: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask > 0, labels, -100)


def boxes(*counts: int) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "boxes": torch.rand(k, 4, generator=generator) * 0.3 + 0.3,
            "class_labels": torch.randint(3, (k,), generator=generator),
        }
        for k in counts
    ]


def case(name: str) -> tuple[nn.Module, dict[str, Any], Any]:
    """Model, inputs, labels."""
    generator = torch.Generator().manual_seed(1)

    def numbers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    text = models.sentences(N)
    if name == "bert":
        return models.make("bert"), text, numbers(3, N)
    if name == "bert tokens":
        labels = ids_with(numbers(3, N, models.TOKENS), text["attention_mask"])
        return models.make(name), text, labels
    if name.startswith("llama"):
        text = models.sentences(N, left="left" in name)
        return models.make("llama"), text, ids_with(text["input_ids"], text["attention_mask"])
    if name == "wav2vec2":
        lengths = torch.tensor([120, 100, 90, 110, 120])
        mask = (torch.arange(120) < lengths[:, None]).long()
        wave = torch.rand(N, 120, generator=generator) * mask
        labels = numbers(5, N, 3) + 1
        labels[1, 2:], labels[3, 1:] = -100, -100
        return models.make(name), {"input_values": wave, "attention_mask": mask}, labels
    if name == "vit":
        return models.make(name), {"pixel_values": torch.rand(N, 1, 8, 8)}, numbers(3, N)
    assert name == "yolos"
    return models.make(name), {"pixel_values": torch.rand(N, 3, 16, 16)}, boxes(1, 2, 0, 1, 3)


CASES = {
    "bert": "classification",
    "bert tokens": "segmentation",
    "llama": "causal_lm",
    "llama, padded left": "causal_lm",
    "wav2vec2": "ctc",
    "vit": "classification",
    "yolos": "detection",
}


@pytest.mark.parametrize("name", CASES)
def test_the_loss_is_the_models(name):
    """With padding, to rounding; the task is inferred from the class, or named."""
    module, x, y = case(name)
    module.eval()
    with torch.no_grad():
        expected = module(**x, labels=y).loss
        inputs = {**x, "labels": y} if name == "yolos" else x
        for task in ("auto", CASES[name]):
            model = as_loss_model(module, task=task)
            assert model.task.name == CASES[name]
            predictions = model(inputs)
            model = model.with_task(model.task.bind(predictions, y))
            model.task.check_targets(y)
            loss = batch_mean(model.task, predictions, y)
            torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
            if name != "yolos":
                check_metrics(model.task, predictions, y)


def test_a_language_model_in_half_precision():
    """Its loss is taken in float32, as the library does, and so is the divergence."""
    module, x, y = case("llama")
    module.eval().bfloat16()
    model = as_loss_model(module)
    with torch.no_grad():
        predictions = model(x)
        assert predictions.dtype == torch.bfloat16
        loss = batch_mean(model.task, predictions, y)
        torch.testing.assert_close(loss, module(**x, labels=y).loss, atol=1e-6, rtol=1e-6)
        assert model.task.divergence(predictions, predictions * 1.1, y).dtype == torch.float32


@pytest.mark.parametrize("name", [name for name in CASES if name != "yolos"])
def test_parts_of_a_batch_add_up(name):
    """Weighed, whatever is padding in which part."""
    module, x, y = case(name)
    model = as_loss_model(module.eval())
    with torch.no_grad():
        whole = batch_mean(model.task, model(x), y)
        total, weight = torch.zeros(()), torch.zeros(())
        for rows in (slice(0, 2), slice(2, N)):
            part = {key: value[rows] for key, value in x.items()}
            losses, weights = model.loss(model(part), y[rows]), model.task.weights(y[rows])
            weights = torch.ones(len(losses)) if weights is None else weights
            total, weight = total + (losses * weights).sum(), weight + weights.sum()
    torch.testing.assert_close(total / weight, whole, atol=1e-6, rtol=1e-5)


def test_a_recogniser_brings_its_blank_and_what_counts_as_zero():
    """Both are in its configuration."""
    module = models.make("wav2vec2", pad_token_id=3, ctc_zero_infinity=True)
    task = as_loss_model(module).task
    assert (task.name, task.blank, task.zero_infinity) == ("ctc", 3, True)
    _, x, y = case("wav2vec2")
    y = torch.where(y == 3, 4, y)
    with torch.no_grad():
        expected = module.eval()(**x, labels=y).loss
        model = as_loss_model(module)
        torch.testing.assert_close(batch_mean(model.task, model(x), y), expected)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"num_labels": 1}, "regression"),
        ({"problem_type": "regression"}, "regression"),
        ({"problem_type": "multi_label_classification"}, "multilabel"),
    ],
)
def test_the_configuration_tells_what_the_labels_are(options, task):
    """As the model's own loss goes by it."""
    module = models.make("bert", **options).eval()
    model = as_loss_model(module)
    assert model.task.name == task
    x, width = models.sentences(N), module.config.num_labels
    y = torch.rand(N, width) if task == "regression" else torch.randint(2, (N, width)).float()
    with torch.no_grad():
        expected = module(**x, labels=y.squeeze(1) if width == 1 else y).loss
        torch.testing.assert_close(batch_mean(model.task, model(x), y), expected)


class Upscaled(nn.Module):
    """Segformer's logits at the size of its images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits = self.model(pixel_values).logits
        return F.interpolate(logits, pixel_values.shape[2:], mode="bilinear", align_corners=False)


def test_logits_of_a_lower_resolution_are_refused_with_the_remedy():
    """In a wrapper that scales them up, the loss is the model's."""
    module = models.make("segformer", semantic_loss_ignore_index=255).eval()
    x, y = torch.rand(2, 3, 16, 16), torch.randint(3, (2, 16, 16))
    y[0, :5] = 255
    model = as_loss_model(module)
    assert isinstance(model.task, Segmentation) and model.task.classes_last is False
    assert model.task.criterion.ignore_index == 255  # from the configuration
    with torch.no_grad():
        with pytest.raises(UnsupportedEstimatorError, match="Scale its output up in a wrapper"):
            model.task.bind(model({"pixel_values": x}), y)
        wrapped = as_loss_model(Upscaled(module), nn.CrossEntropyLoss(ignore_index=255))
        assert wrapped.task.name == "segmentation"
        expected = module(pixel_values=x, labels=y).loss
        torch.testing.assert_close(batch_mean(wrapped.task, wrapped(x), y), expected)


def test_a_sentence_with_as_many_tokens_as_classes():
    """A token classifier has its classes in the last axis at every length."""
    module, x, y = case("bert tokens")
    x, y = {key: value[:, :3] for key, value in x.items()}, y[:, :3].contiguous()
    model = as_loss_model(module.eval())
    with torch.no_grad():
        assert model(x).shape == (N, 3, 3)
        expected = module(**x, labels=y).loss
        torch.testing.assert_close(batch_mean(model.task, model(x), y), expected)


def test_a_detectors_losses_by_name():
    """Some of those that YOLOS names; and its loss is the same in train and evaluation mode."""
    module, x, y = case("yolos")
    outputs = module(**x, labels=y)
    model = as_loss_model(module, task=Detection(losses=("loss_ce", "loss_giou")))
    for mode in (True, False):
        module.train(mode)
        loss = batch_mean(model.task, model({**x, "labels": y}), y)
        expected = outputs.loss_dict["loss_ce"] + outputs.loss_dict["loss_giou"]
        torch.testing.assert_close(loss, expected)


def test_wrappers_are_looked_through():
    """A compiled model and one of PEFT's are for the same task."""
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    adapted = peft.get_peft_model(models.make("llama"), config)
    assert as_loss_model(adapted).task == make_task("causal_lm")
    compiled = torch.compile(models.make("bert", num_labels=1), backend="eager")
    assert isinstance(as_loss_model(compiled).task, Regression)
