"""The view of an estimator: its predictions, its loss, and labels and inputs in any format."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
from torch import nn

from artplus import AdversarialTrainerPlus
from artplus.bridge.estimator import view
from artplus.criterion import mean
from artplus.errors import ConversionWarning, DataError, UnsupportedEstimatorError
from tests.toys import arrays, classifier, net, regressor

IMAGE = (2, 4, 4)


class Gamma(PreprocessorPyTorch):
    """A differentiable defence of prediction alone."""

    def __init__(self, *, apply_fit: bool = False, apply_predict: bool = True) -> None:
        super().__init__(is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)

    def forward(self, x, y=None):
        return x.clamp_min(1e-3) ** 2, y


def image_net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), net(32))


PREPROCESSING = {
    "none": {"preprocessing": None},
    "default": {},
    "scalars": {"preprocessing": (0.3, 0.35)},
    "per channel": {"preprocessing": (np.float32([0.3, 0.5]), np.float32([0.2, 0.4]))},
    "columns": {
        "preprocessing": (
            np.float32([0.3, 0.5]).reshape(2, 1, 1),
            np.float32([0.2, 0.4]).reshape(2, 1, 1),
        )
    },
    "defence": {"preprocessing_defences": [Gamma()]},
    "defence and scalars": {"preprocessing_defences": [Gamma()], "preprocessing": (0.3, 0.35)},
}


@pytest.mark.parametrize("case", PREPROCESSING)
def test_predictions_are_the_estimators_own(case):
    """Logits of raw inputs equal classifier.predict, whatever the preprocessing."""
    estimator = classifier(image_net(), input_shape=IMAGE, **PREPROCESSING[case])
    x, _ = arrays(9, IMAGE)
    seen = view(estimator)
    expected = estimator.predict(x)  # also sets evaluation mode
    with torch.no_grad():
        logits = seen.model(seen.inputs(x))
    np.testing.assert_allclose(logits.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_the_gradient_passes_through_the_preprocessing():
    """In raw units it is ART's own loss gradient."""
    estimator = classifier(
        image_net(),
        input_shape=IMAGE,
        preprocessing=(np.float32([0.3, 0.5]), np.float32([0.2, 0.4])),
        preprocessing_defences=[Gamma()],
    )
    x, y = arrays(9, IMAGE)
    seen = view(estimator)
    seen.model.module.eval()
    raw = torch.from_numpy(x).requires_grad_(True)
    (slope,) = torch.autograd.grad(
        seen.model.loss(seen.model(raw), torch.from_numpy(y)).mean(), raw
    )
    expected = estimator.loss_gradient(x, np.eye(3, dtype=np.float32)[y])
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("fit, predict", [(True, False), (False, True)])
def test_defences_apply_when_art_applies_them(fit, predict):
    """What is for fitting works in train mode, what is for prediction in evaluation mode."""
    model = nn.Linear(6, 3)
    estimator = classifier(
        model, preprocessing_defences=[Gamma(apply_fit=fit, apply_predict=predict)]
    )
    seen = view(estimator).model
    x = torch.from_numpy(arrays(5)[0])
    for training, applied in ((True, fit), (False, predict)):
        model.train(training)
        expected = model(x.clamp_min(1e-3) ** 2) if applied else model(x)
        torch.testing.assert_close(seen(x), expected)


def test_clip_values_become_the_space():
    """Numbers, arrays per feature, and none at all."""
    assert view(classifier()).space.low == 0.0
    assert view(classifier(clip_values=None)).space.low is None
    high = np.linspace(1, 2, 6, dtype=np.float32)
    space = view(classifier(clip_values=(np.zeros(6, np.float32), high))).space
    torch.testing.assert_close(space.high, torch.from_numpy(high))


# Losses


@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_bce_on_one_output_is_two_classes_with_the_same_loss(pos_weight):
    """A single logit becomes two, the loss and its gradient stay torch's BCE."""
    weight = None if pos_weight is None else torch.tensor([pos_weight])
    loss = nn.BCEWithLogitsLoss(pos_weight=weight)
    model = nn.Linear(6, 1)
    seen = view(classifier(model, loss=loss, nb_classes=2)).model
    x, y = (torch.from_numpy(v) for v in arrays(11, classes=2))
    logits = seen(x)
    assert logits.shape == (11, 2)
    ours = mean(seen.loss(logits, y), seen.task.weights(y))
    theirs = loss(model(x), y[:, None].float())
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, model.parameters()),
        torch.autograd.grad(theirs, model.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert torch.equal(logits.argmax(1), (model(x)[:, 0] > 0).long())


def test_bce_on_two_outputs_of_two_classes_is_refused():
    """Two independent outputs are no two exclusive classes."""
    seen = view(classifier(nn.Linear(6, 2), loss=nn.BCEWithLogitsLoss(), nb_classes=2))
    with pytest.raises(UnsupportedEstimatorError, match="wants one output per input"):
        seen.model(torch.zeros(3, 6))


def test_bce_on_several_outputs_is_multi_label():
    """Zeros and ones per output, averaged as torch does."""
    loss = nn.BCEWithLogitsLoss()
    model = nn.Linear(6, 3)
    seen = view(classifier(model, loss=loss))
    y = seen.labels(np.array([[0, 1, 1], [1, 0, 0]]), 2)
    x = torch.rand(2, 6)
    torch.testing.assert_close(seen.model.loss(seen.model(x), y).mean(), loss(model(x), y))
    assert not seen.model.task.over_classes and seen.model.classes is None
    with pytest.raises(DataError, match=r"zeros and ones of shape \(2, 3\)"):
        seen.labels(np.array([0, 1]), 2)


def test_multi_label_training_lowers_its_loss():
    """Objectives of losses alone work on multi-label models; an example is right in all labels."""
    x, _ = arrays(40)
    y = (x[:, :3] > 0.5).astype(np.float32)
    estimator = classifier(nn.Linear(6, 3), loss=nn.BCEWithLogitsLoss())
    history = AdversarialTrainerPlus(estimator, eps=0.02, seed=0, verbose=False).fit(
        x, y, nb_epochs=10, batch_size=8, validation_data=(x, y)
    )
    assert history["loss"][-1] < history["loss"][0]
    assert history["val_adversarial_accuracy"][-1] <= history["val_clean_accuracy"][-1]


@pytest.mark.parametrize("labels", ["numbers", "column", "one-hot"])
def test_bce_on_probabilities_trains(labels):
    """A sigmoid output with BCELoss takes two classes in any format."""
    x, y = arrays(24, classes=2)
    model = nn.Sequential(nn.Linear(6, 1), nn.Sigmoid())
    estimator = classifier(model, loss=nn.BCELoss(), nb_classes=2)
    form = {"numbers": y, "column": y[:, None], "one-hot": np.eye(2, dtype=np.float32)[y]}
    history = AdversarialTrainerPlus(estimator, eps=0.02, seed=0, verbose=False).fit(
        x, form[labels], nb_epochs=8
    )
    assert history["loss"][-1] < history["loss"][0]


def test_nll_on_log_probabilities():
    """The loss is torch's, and class weights stay those of the loss."""
    weight = torch.tensor([1.0, 2.0, 0.5])
    loss = nn.NLLLoss(weight=weight)
    model = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1))
    seen = view(classifier(model, loss=loss)).model
    x, y = (torch.from_numpy(v) for v in arrays(11))
    ours = mean(seen.loss(seen(x), y), seen.task.weights(y))
    torch.testing.assert_close(ours, loss(model(x), y))


def focal(predictions, y):
    """A user's loss, per example, on one-hot rows as ART hands them over."""
    p = predictions.softmax(1)
    return -(y * (1 - p) ** 2 * p.log()).sum(1)


class Focal(nn.Module):
    """The same, with torch's ``reduction``."""

    reduction = "mean"

    def forward(self, predictions, y):
        losses = focal(predictions, y)
        return losses if self.reduction == "none" else losses.mean()


def scalar_focal(predictions, y):
    """The same, reduced without asking."""
    return focal(predictions, y).mean()


@pytest.mark.parametrize("loss", [focal, Focal(), scalar_focal])
def test_a_custom_loss_gets_one_hot_rows_as_from_art(loss):
    """Its mean, its gradient and its rows are what the user wrote them for."""
    model = nn.Linear(6, 3)
    seen = view(classifier(model, loss=loss)).model
    x, y = (torch.from_numpy(v) for v in arrays(11))
    theirs = focal(model(x), F.one_hot(y, 3).float()).mean()
    ours = seen.loss(seen(x), y).mean()
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, model.weight)[0], torch.autograd.grad(theirs, model.weight)[0]
    )
    assert seen.task.per_example == isinstance(loss, Focal)


def test_squared_error_on_a_classifier_is_on_one_hot_rows():
    """ART hands MSELoss one-hot rows; so do we."""
    model = nn.Linear(6, 3)
    seen = view(classifier(model, loss=nn.MSELoss())).model
    x, y = (torch.from_numpy(v) for v in arrays(11))
    expected = F.mse_loss(model(x), F.one_hot(y, 3).float())
    torch.testing.assert_close(seen.loss(seen(x), y).mean(), expected)


def test_a_regressor_compares_flat_targets():
    """(n, 1) predictions against (n,) targets, without broadcasting."""
    estimator = regressor()
    seen = view(estimator)
    x, _ = arrays(7)
    y = np.arange(7.0)
    targets = seen.labels(y, 7)
    expected = ((estimator.predict(x)[:, 0] - y) ** 2).mean()
    with torch.no_grad():
        loss = seen.model.loss(seen.model(seen.inputs(x)), targets).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


# Conversions


@pytest.mark.parametrize("dtype", [np.float64, np.float16, np.int64, np.uint8, ">f4"])
def test_inputs_are_converted_and_said_so(dtype):
    """Other numeric dtypes become float32, with a warning; values are kept."""
    x = np.array([[0, 1, 1, 0, 1, 0]], dtype=dtype)
    seen = view(classifier())
    if dtype == ">f4":  # float32 already, in the other byte order
        converted = seen.inputs(x)
    else:
        with pytest.warns(ConversionWarning, match="converted from torch.* to float32"):
            converted = seen.inputs(x)
    assert converted.dtype == torch.float32 and converted.tolist() == [[0, 1, 1, 0, 1, 0]]


@pytest.mark.filterwarnings("error")
def test_float32_passes_without_a_warning_or_a_copy_back():
    """The user's array is not written to, even if it forbids it or is a view."""
    x, _ = arrays(5)
    for given in (x, x[::-1], x.tolist()):
        if isinstance(given, np.ndarray):
            given.flags.writeable = False
            tensor = view(classifier()).inputs(given)
            np.testing.assert_array_equal(tensor.numpy(), given)
    assert view(classifier()).inputs(torch.from_numpy(x.copy())).requires_grad is False


def test_soft_labels_stay_rows_and_hard_ones_become_numbers():
    """Only what is one-hot loses its row."""
    seen = view(classifier())
    soft = np.array([[0.2, 0.3, 0.5], [1, 0, 0]])
    torch.testing.assert_close(seen.labels(soft, 2), torch.tensor(soft).float())
    for hard in (np.eye(3)[[2, 0]], np.eye(3, dtype=bool)[[2, 0]], [[2], [0]], [2.0, 0.0]):
        assert seen.labels(hard, 2).tolist() == [2, 0]
        assert seen.labels(hard, 2).dtype == torch.int64


def test_soft_labels_need_a_loss_that_takes_them():
    """NLL has no use for a row that is not one-hot."""
    model = nn.Sequential(nn.Linear(6, 3), nn.LogSoftmax(1))
    trainer = AdversarialTrainerPlus(classifier(model, loss=nn.NLLLoss()), eps=0.02, verbose=False)
    x, y = arrays(6)
    with pytest.raises(DataError, match="soft labels need a loss that takes them"):
        trainer.fit(x, np.full((6, 3), 1 / 3), nb_epochs=1)
    trainer.fit(x, np.eye(3)[y], nb_epochs=1)
