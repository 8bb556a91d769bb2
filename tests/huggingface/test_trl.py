"""TRL's SFTTrainer is a Trainer: the same mixin, a tiny Llama, sentences of different lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("trl", reason="TRL is not installed: pip install trl")

from datasets import Dataset
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.huggingface import AdversarialTrainerMixin
from artplus.huggingface.refusals import refuse_trainer
from artplus.spaces import EmbeddingSpace
from tests.huggingface.runs import RATE, model, steps, weights
from tests.tasks import models

METHOD: dict[str, Any] = {
    "loss": "mix",
    "attack": PGD(eps=1.0, norm=2, steps=3, random_start=False),
    "space": EmbeddingSpace(),
}
MARKS = ("<pad>", "<eos>", "<unk>")
WORDS = [f"w{i}" for i in range(models.VOCABULARY - len(MARKS))]


class Hardened(AdversarialTrainerMixin, SFTTrainer):
    """What a user writes."""


def tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*MARKS, *WORDS])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    pad, eos, unk = MARKS
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token=pad, eos_token=eos, unk_token=unk
    )


def texts() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 8, (16,), generator=generator).tolist()
    picks = [torch.randint(len(WORDS), (n,), generator=generator).tolist() for n in lengths]
    return Dataset.from_dict({"text": [" ".join(WORDS[i] for i in pick) for pick in picks]})


def train(folder: Path, kind: type, options: dict[str, Any] | None = None, **settings: Any) -> Any:
    arguments: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 4, "num_train_epochs": 2,
        "learning_rate": RATE, "optim": "sgd", "lr_scheduler_type": "constant", "max_length": 12,
        "max_grad_norm": 0, "report_to": [], "save_strategy": "no", "logging_steps": 1,
        "disable_tqdm": True, "use_cpu": True, "bf16": False,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    trainer = kind(
        model=model("llama"),
        args=SFTConfig(**arguments | (options or {})),
        train_dataset=texts(),
        processing_class=tokenizer(),
        **settings,
    )
    trainer.train()
    return trainer


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(weights(a.model), weights(b.model), atol=1e-6, rtol=1e-4)


def test_at_lambda_zero_it_is_trls_trainer(tmp_path):
    """With TRL's own defaults, gradient checkpointing among them."""
    plain = train(tmp_path, SFTTrainer)
    zero = train(tmp_path, Hardened, **METHOD | {"lam": 0})
    close(plain, zero)
    losses = [entry["loss"] for entry in steps(plain)]
    assert [entry["loss"] for entry in steps(zero)] == pytest.approx(losses, abs=1e-5)


def test_accumulation_is_a_larger_batch_of_tokens(tmp_path):
    """Hardened, two batches of two are one of four."""
    whole = train(tmp_path, Hardened, **METHOD)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    parts = train(tmp_path, Hardened, options, **METHOD)
    close(whole, parts)
    plain = train(tmp_path, SFTTrainer)
    gap = max(
        float((weights(plain.model)[name] - w).abs().max())
        for name, w in weights(whole.model).items()
    )
    assert gap > 1e-3
    assert all(entry["adversarial_examples"] == 4 for entry in steps(whole))
    assert "mean_token_accuracy" not in steps(whole)[0]  # TRL's, of a loss that is not computed


def test_another_loss_of_trls_is_refused(tmp_path):
    """And not silently replaced by cross-entropy."""
    with pytest.raises(ConfigurationError, match="loss_type='dft' is a loss of TRL's"):
        train(tmp_path, Hardened, {"loss_type": "dft"}, **METHOD)


def test_offloading_in_trls_own_step_is_refused(tmp_path):
    """The mixin replaces that step."""
    trainer = train(tmp_path, Hardened, **METHOD)
    trainer.args.activation_offloading = True  # which TRL's constructor wants a GPU for
    with pytest.raises(ConfigurationError, match="activation_offloading is TRL's own"):
        refuse_trainer(trainer, trainer._settings)
