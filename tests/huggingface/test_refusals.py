"""Wrong use of a hardened Trainer is refused with its reason, before a weight moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError, DataError
from artplus.huggingface import AdversarialTrainerMixin
from artplus.spaces import EmbeddingSpace
from artplus.training.steps import AWP, Free
from tests.huggingface.runs import TEXT, Hardened, model, rows, train, weights


class OwnLoss(Trainer):
    """Weighs the batch's loss by something of its own."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return 2 * super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


class HardenedOwnLoss(AdversarialTrainerMixin, OwnLoss):
    """The mixin would not call that loss."""


def unlabelled() -> list[Any]:
    return [{k: v for k, v in row.items() if k != "labels"} for row in rows()]


METHOD = artplus.make_method("mix", **TEXT)

WRONG: dict[str, tuple[type, dict[str, Any], type[Exception], str]] = {
    "an unknown keyword": (
        Hardened, {"epsilon": 0.1, **TEXT}, ConfigurationError, "no argument 'epsilon'.* 'eps'",
    ),
    "a misspelt argument of the Trainer": (
        Hardened, {"train_dataet": [], **TEXT}, ConfigurationError, "mean 'train_dataset'",
    ),
    "a method and its options": (
        Hardened, {"method": METHOD, "eps": 0.1}, ConfigurationError, "method has its own eps",
    ),
    "no radius": (Hardened, {}, ConfigurationError, "needs an attack"),
    "a model without an embedding": (
        Hardened,
        {"module": model("vit"), "data": rows("vit"), **TEXT},
        ConfigurationError,
        "EmbeddingSpace perturbs the output of an embedding",
    ),
    "token ids as the perturbed input": (
        Hardened,
        {"eps": 0.1, "data": [{k: row[k] for k in ("input_ids", "labels")} for row in rows()]},
        DataError,
        r"space=EmbeddingSpace\(\)",
    ),
    "columns of token ids as the perturbed input": (
        Hardened, {"eps": 0.1}, ConfigurationError, r"space=EmbeddingSpace\(\)",
    ),
    "no labels": (Hardened, {"data": unlabelled(), **TEXT}, DataError, "usual name of labels"),
    "a loss of the Trainer's own": (
        HardenedOwnLoss, TEXT, ConfigurationError, "OwnLoss.compute_loss computes a loss of its",
    ),
    "a loss function of whole batches": (
        Hardened,
        {"compute_loss_func": lambda outputs, labels, **_: outputs.logits.sum(), **TEXT},
        ConfigurationError,
        "compute_loss_func gives one number a batch",
    ),
    "two label smoothings": (
        Hardened,
        {"options": {"label_smoothing_factor": 0.1}, "label_smoothing": 0.2, **TEXT},
        ConfigurationError,
        "contradicts",
    ),
    "a compiled module": (
        Hardened, {"options": {"torch_compile": True}, **TEXT}, ConfigurationError, "torch_compile",
    ),
    "re-entrant checkpointing": (
        Hardened,
        {
            "options": {
                "gradient_checkpointing": True,
                "gradient_checkpointing_kwargs": {"use_reentrant": True},
            },
            **TEXT,
        },
        ConfigurationError,
        "'use_reentrant': False",
    ),
    "a step of several moves": (
        Hardened, {"step": Free(2), **TEXT}, ConfigurationError, "moves the weights several times",
    ),
    "a step that clears an accumulation": (
        Hardened,
        {"step": AWP(), "options": {"gradient_accumulation_steps": 2}, **TEXT},
        ConfigurationError,
        "clears the gradients within a batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_refused(tmp_path, case):
    """Each with the reason or the remedy, and with the weights as they were."""
    kind, settings, error, message = WRONG[case]
    settings = {"module": model(), **settings}
    before = weights(settings["module"])
    with pytest.raises(error, match=message):
        train(tmp_path, kind, **settings)
    after = weights(settings["module"])
    torch.testing.assert_close(after, before, atol=0, rtol=0)
    assert not settings["module"].__dict__.get("_artplus_hooks")


def test_a_criterion_says_what_an_own_loss_is(tmp_path):
    """Then the Trainer's is known to be replaced."""
    train(tmp_path, HardenedOwnLoss, criterion=torch.nn.CrossEntropyLoss(), **TEXT)


def test_data_parallel_is_refused(tmp_path, monkeypatch):
    """Its copies of the module have no hooks."""
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda self: 2))
    with pytest.raises(ConfigurationError, match=r"share 2 GPUs by nn.DataParallel"):
        train(tmp_path, **TEXT)


def test_the_mixin_stands_first():
    """Behind the Trainer it would do nothing, and without one it is nothing."""
    with pytest.raises(ConfigurationError, match=r"class Late\(AdversarialTrainerMixin, Trainer\)"):

        class Late(Trainer, AdversarialTrainerMixin):
            pass

    class Alone(AdversarialTrainerMixin):
        pass

    with pytest.raises(ConfigurationError, match="stands before a Trainer"):
        Alone(**TEXT)


def test_a_share_of_what_terms_count_needs_whole_batches(tmp_path):
    """Its number in later batches of an accumulation is not drawn yet."""
    from tests.huggingface.test_trainer import counted

    settings: dict[str, Any] = {
        "loss": counted(), "attack": PGD(eps=1.0, norm=2), "attack_share": 0.5,
        "space": EmbeddingSpace(),
    }  # fmt: skip
    train(tmp_path, **settings)
    with pytest.raises(ConfigurationError, match="leave out attack_share"):
        train(tmp_path, **settings, options={"gradient_accumulation_steps": 2})
