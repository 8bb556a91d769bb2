"""Models that compute their losses: summed, weighed in parts, in evaluation mode too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from artplus import modes
from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from artplus.model import LossModel
from artplus.tasks import Detection, make_task
from artplus.tree import take
from tests.tasks.detector import Detector, scenes
from tests.tasks.twins import batch_mean


@pytest.mark.parametrize("names", [None, ("boxes", "classes"), ["objects"]])
def test_the_loss_is_the_sum_of_the_models(names):
    """Of all or of some; every example sees the batch's, so their mean is it."""
    torch.manual_seed(0)
    module, (x, y) = Detector(), scenes(5)
    task = Detection(losses=names)
    predictions = LossModel(module, task)((x, y))
    losses = module(x, y)
    expected = sum(losses[name] for name in names or losses)
    assert not task.per_example and task.loss(predictions, y).shape == (5,)
    torch.testing.assert_close(batch_mean(task, predictions, y), expected)


@pytest.mark.parametrize("normalised_by", ["images", "boxes"])
@pytest.mark.parametrize("cuts", [(0, 2, 5), (0, 1, 5), (0, 1, 2, 3, 4, 5)])
def test_parts_add_up_to_the_whole(normalised_by, cuts):
    """Weighed by what the losses are a mean over; a part without a box as models do, by one."""
    torch.manual_seed(0)
    module, (x, y) = Detector(normalised_by), scenes(5)
    task = Detection(normalised_by=normalised_by)
    model = LossModel(module, task)
    weights = task.weights(y)
    whole = torch.tensor(5.0) if weights is None else weights.sum()
    total = torch.zeros(())
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        rows = slice(start, stop)
        part, targets = take(x, rows), take(y, rows)
        losses = task.loss(model((part, targets)), targets)
        weights = task.weights(targets)
        total += losses.sum() if weights is None else (losses * weights).sum()
    torch.testing.assert_close(total / whole, batch_mean(task, model((x, y)), y))


def test_a_batch_without_boxes_has_a_loss():
    """Every image then weighs alike."""
    module, (x, y) = Detector("boxes"), scenes(3)
    empty = [y[0]] * 3
    task = Detection(normalised_by="boxes")
    loss = batch_mean(task, LossModel(module, task)((x, empty)), empty)
    torch.testing.assert_close(loss, sum(module(x, empty).values()))


def test_losses_in_evaluation_mode_without_dropout_and_batch_statistics():
    """Torchvision's detectors give losses in train mode only; every flag comes back."""
    module, (x, y) = Detector(dropout=0.5, batch_norm=True), scenes(4)
    model = LossModel(module, Detection())
    module(x, y)  # moves the running statistics off their start
    with modes.attack_mode(module):
        before = {name: value.clone() for name, value in module.state_dict().items()}
        losses = [model.loss(model((x, y)), y) for _ in range(2)]
        assert not any(child.training for child in module.modules())
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert all(child.training for child in module.modules())


class Gives(nn.Module):
    """Returns what it is made with."""

    def __init__(self, outputs: object) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, images: object, targets: object) -> object:
        return self.outputs


@pytest.mark.parametrize(
    "outputs",
    [[{"boxes": torch.rand(1, 4)}], {}, {"loss": torch.rand(3)}, {"a": torch.rand(()), "b": 1}],
    ids=["predictions", "nothing", "a loss of several", "no tensor"],
)
def test_outputs_that_are_no_losses_are_refused(outputs):
    """They would be summed in silence, or fail far from here."""
    with pytest.raises(UnsupportedEstimatorError, match="must return its losses"):
        LossModel(Gives(outputs), Detection())(scenes(1))


def test_unknown_names_of_losses_are_refused():
    """With those that the model gives."""
    model = LossModel(Detector(), Detection(losses=("loss_ce",)))
    with pytest.raises(ConfigurationError, match="losses loss_ce: the model gives boxes, classes"):
        model(scenes(2))
    with pytest.raises(ConfigurationError, match="'images' or 'boxes', got 'pixels'"):
        Detection(normalised_by="pixels")


def test_there_is_neither_right_nor_wrong_nor_a_divergence():
    """A model that gives only losses predicts nothing that could be compared."""
    task, (_, y) = make_task("detection"), scenes(2)
    losses = {"loss": torch.tensor(1.0)}
    assert task.correct(losses, y) is None and task.margin(losses, y) is None
    assert task.metrics() == {}
    with pytest.raises(
        ConfigurationError, match="'detection' has no divergence.*use 'at' or 'mix'"
    ):
        task.divergence(losses, losses, y)


@pytest.mark.parametrize("targets", [torch.zeros(3), [torch.zeros(4)], {"boxes": torch.rand(2, 4)}])
def test_targets_that_are_no_boxes_are_refused(targets):
    """A list with a mapping for each image."""
    with pytest.raises(DataError, match="a list of mappings, one an image"):
        Detection().check_targets(targets)
    Detection().check_targets(scenes(3)[1])
