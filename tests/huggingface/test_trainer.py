"""A hardened Trainer is artplus.fit inside the user's script, and at λ = 0 the plain Trainer."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer, TrainerCallback

import artplus
from artplus.attacks import PGD
from artplus.losses import Objective, Terms
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.training.callbacks import EpsWarmup
from artplus.training.steps import AWP, TAVAT, FreeLB
from tests.huggingface.runs import (
    EPOCHS,
    RATE,
    SEED,
    TEXT,
    model,
    rows,
    steps,
    train,
    weights,
)

STILL = PGD(eps=2.0, norm=2, steps=3, random_start=False)
"""An attack without random numbers: the same however the batch is split."""


def close(a: Any, b: Any, atol: float = 1e-6) -> None:
    torch.testing.assert_close(weights(a), weights(b), atol=atol, rtol=1e-4)


def same(a: Any, b: Any) -> None:
    torch.testing.assert_close(weights(a), weights(b), atol=0, rtol=0)


def moved(module: Any, name: str = "bert") -> float:
    """How far training moved the weights: comparisons of runs that do nothing say nothing."""
    start = weights(model(name))
    return max(float((w - start[n]).abs().max()) for n, w in weights(module).items())


def few_labels() -> list[Any]:
    """Rows of which every third has a label."""
    unlabelled = torch.tensor(-100)
    return [row if i % 3 == 1 else row | {"labels": unlabelled} for i, row in enumerate(rows())]


FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "trades": ("bert", {"loss": "trades", **TEXT}),
    "mix per token": (
        "llama",
        {"loss": "mix", "eps": 1.0, "norm": 2, "space": EmbeddingSpace(per="token", relative=True)},
    ),
    "latent": (
        "bert",
        {"loss": "at", "eps": 1.0, "norm": 2, "space": LatentSpace(["encoder.layer.0"])},
    ),
    "pixels, with the default warm-up": ("vit", {"loss": "mart", "eps": 0.2}),
    "awp": ("bert", {"loss": "mix", **TEXT, "step": AWP(gamma=0.05)}),
    "freelb": ("bert", {"loss": "at", **TEXT, "step": FreeLB(3)}),
    "tavat": ("bert", {"loss": "at", **TEXT, "step": TAVAT(3)}),
    "vat, with few labels": ("bert", {"loss": "vat", **TEXT, "data": few_labels()}),
    "half of the examples, scheduled": (
        "bert",
        {"loss": "mix", **TEXT, "attack_share": 0.5, "lam": lambda done: 2 * done},
    ),
}


@pytest.mark.parametrize("case", FITS)
def test_the_same_run_by_fit_gives_the_same_weights(tmp_path, case):
    """Random starts, schedules and warm-ups included; the two loops share only the method."""
    name, settings = FITS[case]
    examples = settings.get("data") or rows(name)
    settings = {key: value for key, value in settings.items() if key != "data"}
    trainer = train(tmp_path, module=model(name), data=examples, **settings)
    module = model(name)
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    data = DataLoader(examples, batch_size=8)
    artplus.fit(module, data, optimizer, **settings, epochs=EPOCHS, seed=SEED, progress=False)
    close(trainer.model, module)
    assert moved(module, name) > 1e-3
    plain = train(tmp_path, Trainer, model(name), data=examples)
    gap = max(float((weights(plain.model)[n] - w).abs().max()) for n, w in weights(module).items())
    assert gap > 1e-4


@pytest.mark.parametrize("loss", ["trades", "mix", "mse"])
def test_at_lambda_zero_it_is_the_plain_trainer(tmp_path, loss):
    """To the bit, with dropout."""
    plain = train(tmp_path, Trainer, model(dropout=0.2))
    zero = train(tmp_path, module=model(dropout=0.2), loss=loss, lam=0, **TEXT)
    same(plain.model, zero.model)
    assert [e["loss"] for e in steps(plain)] == pytest.approx([e["loss"] for e in steps(zero)])


@pytest.mark.parametrize("accumulation", [1, 3])
def test_at_lambda_zero_a_language_model_counts_tokens_as_the_plain_trainer(tmp_path, accumulation):
    """Sequences of different lengths, whose batches weigh differently in an accumulation."""
    options = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 4}
    kwargs: dict[str, Any] = {"data": rows("llama"), "options": options}
    plain = train(tmp_path, Trainer, model("llama"), **kwargs)
    zero = train(tmp_path, module=model("llama"), loss="mix", lam=0, **TEXT, **kwargs)
    close(plain.model, zero.model)
    losses = [e["loss"] for e in steps(plain)]
    assert [e["loss"] for e in steps(zero)] == pytest.approx(losses, abs=1e-5)


def counted() -> Objective:
    """Its fixed term leaves out one class, its scaled term another."""

    def terms(context):
        clean, adversarial = context.pair()
        return Terms(fixed=context.loss(clean), scaled=context.loss(adversarial))

    return Objective("counted", terms, counts=lambda y: (y != 0, y != 1))


@pytest.mark.parametrize(
    ("name", "loss"), [("bert", "mix"), ("bert", counted()), ("llama", "mix")],
    ids=["classes", "counted", "tokens"],
)  # fmt: skip
def test_accumulation_is_a_larger_batch(tmp_path, name, loss):
    """Also where examples weigh by tokens, terms count examples, and the last group is shorter."""
    settings: dict[str, Any] = {"loss": loss, "attack": STILL, "space": EmbeddingSpace()}
    settings["data"] = rows(name)

    def run(size, accumulation):
        options = {
            "per_device_train_batch_size": size,
            "gradient_accumulation_steps": accumulation,
        }
        return train(tmp_path, module=model(name), options=options, **settings)

    whole, parts = run(16, 1), run(4, 4)
    close(whole.model, parts.model)
    for one, other in zip(steps(whole), steps(parts), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    first, other = steps(whole)[0], steps(parts)[0]
    for figure in ("fixed_loss", "scaled_loss", "adversarial_examples"):
        assert first[figure] == pytest.approx(other[figure], abs=1e-5)


def test_the_log_counts_adversarial_examples_and_shows_both_terms(tmp_path):
    """Of this step alone: a share, then none at λ = 0."""
    run = train(
        tmp_path, loss="mix", lam=lambda done: 2.0 if done < 0.5 else 0.0, attack_share=0.25, **TEXT
    )
    log = steps(run)
    assert [e["adversarial_examples"] for e in log[:3]] == [2, 2, 2]
    assert [e["adversarial_examples"] for e in log[3:]] == [0, 0, 0]
    for entry in log:
        expected = entry["fixed_loss"] + entry["lam"] * entry["scaled_loss"]
        assert entry["loss"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("stop", [2, 3], ids=["in an epoch", "between epochs"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, stop):
    """To the bit: random starts, dropout, warm-up, and the unit measured on the first weights."""
    settings: dict[str, Any] = {
        "loss": "trades", "eps": 0.8, "norm": 2, "space": EmbeddingSpace(relative=True),
        "warmup": EpsWarmup(fraction=0.7),
        "options": {
            "save_strategy": "steps", "save_steps": stop, "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-2,
        },
    }  # fmt: skip
    through = train(tmp_path / "a", module=model(dropout=0.2), **settings)
    checkpoint = str(tmp_path / "a" / f"checkpoint-{stop}")
    again = train(tmp_path / "b", module=model(dropout=0.2), resume=checkpoint, **settings)
    same(through.model, again.model)
    for one, other in zip(steps(through)[stop:], steps(again)[stop:], strict=True):
        assert one == other


def test_a_plain_trainers_checkpoint_is_not_resumed(tmp_path):
    """It holds no state of the attack, so the run could not be the uninterrupted one."""
    train(tmp_path, Trainer, options={"save_strategy": "steps", "save_steps": 2})
    with pytest.raises(artplus.errors.CheckpointError, match="a plain Trainer wrote it"):
        train(tmp_path, resume=str(tmp_path / "checkpoint-2"), **TEXT)


def test_hooks_are_gone_afterwards(tmp_path):
    """After training, and after an exception in the middle of it."""

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    def hooks(module):
        return sum(len(child._forward_hooks) for child in module.modules())

    run = train(tmp_path, **TEXT)
    assert hooks(run.model) == 0
    module = model()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, module=module, callbacks=[Stop()], **TEXT)
    assert hooks(module) == 0
    assert not [name for name in module.__dict__ if "artplus" in name]


def test_batches_are_left_as_they_are(tmp_path):
    """Labels are still there after a step, for whoever reads the batch next."""
    batches = []

    def collate(examples):
        batch = {k: torch.stack([e[k] for e in examples]) for k in examples[0]}
        batches.append((batch, {k: v.clone() for k, v in batch.items()}))
        return batch

    train(tmp_path, data_collator=collate, **TEXT)
    assert len(batches) == 6
    for batch, before in batches:
        torch.testing.assert_close(batch, before)


def test_lora_trains_the_adapter_as_fit_does(tmp_path):
    """Base weights stay to the bit, and the embedding, though frozen, is attacked."""
    peft = pytest.importorskip("peft")

    def adapted():
        torch.manual_seed(0)
        config = peft.LoraConfig(
            task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False
        )
        return peft.get_peft_model(model(), config)

    run = train(tmp_path, module=adapted(), loss="mix", **TEXT)
    module, start = adapted(), weights(adapted())
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=RATE)
    data = DataLoader(rows(), batch_size=8)
    artplus.fit(
        module, data, optimizer, loss="mix", **TEXT, epochs=EPOCHS, seed=SEED, progress=False
    )
    close(run.model, module)
    after = weights(run.model)
    frozen = {name for name, p in run.model.named_parameters() if not p.requires_grad}
    assert all(torch.equal(after[name], start[name]) for name in frozen)
    assert any(not torch.equal(after[name], start[name]) for name in after)


def test_gradient_checkpointing_changes_nothing(tmp_path):
    """The non-reentrant form gives the same weights."""
    plain = train(tmp_path, loss="trades", **TEXT)
    options = {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    }
    close(train(tmp_path, loss="trades", **TEXT, options=options).model, plain.model)


def test_bf16_keeps_the_perturbation_in_fp32(tmp_path):
    """It lies on the sphere to fp32's precision; training goes on, near the fp32 run."""
    deltas = []

    @dataclass(frozen=True)
    class Watched(PGD):
        def run(self, problem):
            z = super().run(problem)
            deltas.append(z)
            return z

    attack = Watched(eps=2.0, norm=2, steps=3, step_size=2.0)
    settings = {"loss": "mix", "attack": attack, "space": EmbeddingSpace()}
    run = train(tmp_path, **settings, options={"bf16": True})
    full = train(tmp_path, **settings)
    assert all(delta.dtype == torch.float32 for delta in deltas)
    norms = torch.cat([delta.flatten(1).norm(dim=1) for delta in deltas])
    torch.testing.assert_close(norms, torch.full_like(norms, 2.0), atol=1e-5, rtol=0)
    assert [e["loss"] for e in steps(run)] == pytest.approx(
        [e["loss"] for e in steps(full)], abs=0.05
    )


def test_label_smoothing_is_the_trainers(tmp_path):
    """``label_smoothing_factor`` smooths the terms as the plain Trainer smooths its loss."""
    options = {"label_smoothing_factor": 0.2}
    plain = train(tmp_path, Trainer, options=options)
    zero = train(tmp_path, loss="mix", lam=0, **TEXT, options=options)
    close(plain.model, zero.model)


def test_evaluation_is_of_clean_inputs_with_attacked_figures_beside_it(tmp_path):
    """Its own loss is that of a plain Trainer on the same weights; the attack's is larger."""
    attack = PGD(eps=3.0, norm=2, steps=5)
    run = train(
        tmp_path, **TEXT, eval_attack=attack, eval_dataset=rows(n=20),
        options={"eval_strategy": "epoch", "per_device_eval_batch_size": 8},
    )  # fmt: skip
    twice = [run.evaluate(), run.evaluate()]
    plain = Trainer(model=run.model, args=run.args, eval_dataset=rows(n=20)).evaluate()
    assert twice[0]["eval_loss"] == plain["eval_loss"]
    assert twice[0]["eval_attacked_loss"] > plain["eval_loss"] + 1e-3
    assert 0 <= twice[0]["eval_attacked_accuracy"] <= 1
    figures = [{k: v for k, v in m.items() if "attacked" in k} for m in twice]
    assert figures[0] == figures[1]
    logged = [e for e in run.state.log_history if "eval_attacked_loss" in e]
    assert len(logged) >= EPOCHS
    without = train(tmp_path, **TEXT)
    same(run.model, without.model)  # the evaluation draws nothing that training draws


def test_columns_of_the_space_reach_it_and_not_the_model(tmp_path):
    """Special tokens are left alone in training; the Trainer's own evaluation still runs."""
    data = [row | {"special_tokens_mask": (row["input_ids"] % 2)} for row in rows()]
    inserted = []

    class Watching(EmbeddingSpace):
        def insert(self, inputs, z):
            inserted.append((inputs["special_tokens_mask"], z.detach()))
            return super().insert(inputs, z)

    settings = TEXT | {"space": Watching()}
    run = train(tmp_path, data=data, eval_dataset=data, **settings)
    assert inserted
    for special, z in inserted:
        assert float(z[special > 0].abs().sum()) == 0 and float(z.abs().sum()) >= 0
    assert "eval_loss" in run.evaluate()


def test_importing_it_leaves_transformers_alone():
    """The mixin stands in front of a class that the user imports."""
    program = "import artplus.huggingface, sys; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
