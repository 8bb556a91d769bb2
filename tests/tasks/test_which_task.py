"""Which task it is: by name, by the loss, by the first outputs and targets; tasks of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import artplus
from artplus.criterion import criterion
from artplus.errors import ConfigurationError, UnknownNameError, UnsupportedEstimatorError
from artplus.model import LossModel, as_loss_model
from artplus.tasks import Classification, Regression, Task, logits_of, make_task, task_for
from artplus.tasks._infer import refine
from tests.tasks.twins import labels, logits

N = 6

LOSSES: list[tuple[Any, str]] = [
    (None, "classification"),
    (nn.CrossEntropyLoss(), "classification"),
    (nn.CrossEntropyLoss(weight=torch.ones(3)), "classification"),
    (nn.NLLLoss(), "classification"),
    (nn.MultiMarginLoss(), "classification"),
    (nn.BCEWithLogitsLoss(), "multilabel"),
    (nn.BCELoss(), "regression"),
    (nn.MSELoss(), "regression"),
    (nn.HuberLoss(), "regression"),
    (nn.CTCLoss(), "ctc"),
    (F.mse_loss, "regression"),
    (lambda p, y: (p - y).abs(), "regression"),
    (criterion(nn.CrossEntropyLoss()), "classification"),
]


@pytest.mark.parametrize(("loss", "task"), LOSSES)
def test_the_loss_implies_the_task(loss, task):
    """As it does for a model of which nothing else is known."""
    assert task_for(loss).name == task
    assert as_loss_model(nn.Linear(2, 2), loss).task.name == task


ONE_HOT = F.one_hot(torch.arange(N) % 3, 3)
SEVERAL = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 0, 1]] * 2)

TARGETS: dict[str, tuple[Tensor, Tensor, str]] = {
    "class numbers": (logits(N, 3), labels(3, N), "classification"),
    "one-hot": (logits(N, 3), ONE_HOT.float(), "classification"),
    "one-hot, whole": (logits(N, 3), ONE_HOT, "classification"),
    "soft": (logits(N, 3), logits(N, 3, seed=1).softmax(1), "classification"),
    "several": (logits(N, 3), SEVERAL.float(), "multilabel"),
    "several, whole": (logits(N, 3), SEVERAL, "multilabel"),
    "fractions": (logits(N, 1), logits(N, seed=1), "regression"),
    "whole floats": (logits(N, 1), torch.arange(N).float(), "regression"),
    "zeros and ones": (logits(N, 1), torch.arange(N).float() % 2, "classification"),
    "several numbers": (logits(N, 3), logits(N, 3, seed=1), "regression"),
    "a map": (logits(N, 3, 4, 5), labels(3, N, 4, 5), "segmentation"),
    "tokens": (logits(N, 5, 3), labels(3, N, 5), "segmentation"),
    "the tokens themselves": (logits(N, 5, 9), labels(9, N, 5, seed=5), "causal_lm"),
}
IDS = labels(9, N, 5, seed=5)


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_targets_tell_the_task(name):
    """Where no loss and no class did; a task that was asked for stays."""
    outputs, targets, task = TARGETS[name]
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    assert refine(Classification(), nn.Identity(), inputs, outputs, targets).name == task
    regression = make_task("regression")
    assert refine(regression, nn.Identity(), inputs, outputs, targets) is regression


def test_a_mask_is_not_taken_for_tokens():
    """Labels of ones look like the mask of what is no padding."""
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    task = refine(Classification(), nn.Identity(), inputs, logits(N, 5, 2), torch.ones_like(IDS))
    assert task.name == "segmentation"
    prompt = IDS.clone()
    prompt[:, :2] = -100
    task = refine(Classification(), nn.Identity(), inputs, logits(N, 5, 9), prompt)
    assert task.name == "causal_lm"


def test_a_loss_that_was_given_is_kept():
    """Only what it is taken over changes; numbers never make another loss of it."""
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    task = refine(task_for(loss), nn.Identity(), IDS, logits(N, 3, 4), labels(3, N, 4))
    expected = loss(logits(N, 3, 4), labels(3, N, 4))
    torch.testing.assert_close(task.loss(logits(N, 3, 4), labels(3, N, 4)).mean(), expected)
    task = refine(task_for(loss), nn.Identity(), IDS, logits(N, 3), SEVERAL.float())
    assert task.name == "classification"  # and its check says what is wrong with the targets


class Output(dict):  # type: ignore[type-arg]
    """An output whose members are attributes too, as Transformers'."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def test_logits_are_found_in_outputs():
    """A tensor, a mapping or an object with logits; anything else is refused with a remedy."""
    rows = torch.rand(2, 3)
    named = type("Named", (), {"logits": rows})()
    for outputs in (rows, {"logits": rows, "loss": None}, Output(logits=rows), named):
        assert logits_of(outputs) is rows
    for wrong in ((rows, rows), {"scores": rows}, [rows], None, Output(logits=None)):
        with pytest.raises(UnsupportedEstimatorError, match="Wrap it in a module whose forward"):
            logits_of(wrong)


def test_names_and_options():
    """By name with options; a ready task as it is; what cannot be is refused."""
    ready = make_task("classification", nn.CrossEntropyLoss(ignore_index=3))
    assert make_task(ready) is ready and make_task("ctc", blank=2).blank == 2
    assert artplus.list_tasks() == sorted(artplus.list_tasks())
    assert {"classification", "multilabel", "regression", "segmentation", "causal_lm", "ctc",
            "detection"} <= set(artplus.list_tasks())  # fmt: skip
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"):
        make_task("regresion")
    with pytest.raises(ConfigurationError, match="'regression'.*blank"):
        make_task("regression", blank=2)
    with pytest.raises(ConfigurationError, match="has its own criterion and options"):
        make_task(ready, nn.MSELoss())
    with pytest.raises(ConfigurationError, match="task must be one of causal_lm, .* got 3"):
        make_task(3)
    with pytest.raises(ConfigurationError, match="give a task as task="):
        as_loss_model(nn.Linear(2, 2), ready)


class Ranks(Task):
    """A task that says no more than it must."""

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return (predictions - targets).abs()


def test_a_task_of_ones_own_needs_a_loss_alone():
    """All else has no meaning for it, or a usual one."""
    artplus.register_task("test_ranks")(Ranks)
    task = make_task("test_ranks")
    assert isinstance(task, Ranks) and task.name == "test_ranks"
    assert "test_ranks" in artplus.list_tasks()
    p, y = torch.rand(4), torch.rand(4)
    assert task.correct(p, y) is None and task.margin(p, y) is None and task.metrics() == {}
    assert task.weights(y) is None and task.bind(p, y) is task and task.labels(y) is y
    assert task.answers(p) is p and task.predictions(p, None, nn.Identity()) is p
    task.check_targets(y)
    with pytest.raises(ConfigurationError, match="task 'test_ranks' has no divergence"):
        task.divergence(p, p, y)
    with pytest.raises(ConfigurationError, match="already registered"):
        artplus.register_task("test_ranks")(Regression)
    assert Regression.name == "regression"
    model = LossModel(nn.Flatten(0), task)
    torch.testing.assert_close(model.loss(model(p[:, None]), y), (p - y).abs())
