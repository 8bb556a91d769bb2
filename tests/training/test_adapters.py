"""A LoRA run copies what it trains, and crafting keeps activation checkpoints on."""

from __future__ import annotations

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import artplus
from artplus.attacks import PGD
from artplus.model import as_loss_model
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.training.callbacks import EMA, Callback, Checkpoint, KeepBest
from tests.tasks.preferences import adapted, batch, columns, llama, trainable
from tests.toys import same, weights

pytest.importorskip("peft")
pytest.importorskip("transformers")

SPACE = EmbeddingSpace(per="token")
WIDE = {"hidden_size": 64, "intermediate_size": 256}


class Copies(Callback):
    """What copies of the weights hold."""

    watches = True

    def on_epoch_end(self, state):
        self.names, self.averaged = set(state.copy()), set(state.averaged or {})


def run(model, *callbacks, **options):
    optimizer = torch.optim.SGD(trainable(model), lr=0.1)
    return artplus.fit(
        model, batch(), optimizer, loss="cat", attack=PGD(eps=0.1, norm=2, steps=2), space=SPACE,
        epochs=1, batch_size=4, seed=0, progress=False, callbacks=callbacks, **options,
    )  # fmt: skip


def test_copies_hold_adapters_alone(tmp_path):
    """Checkpoint, average and best epoch; the file is a fraction of the model."""
    model, copies = adapted(llama(**WIDE)), Copies()
    run(model, EMA(0.9), KeepBest("adversarial_accuracy"), Checkpoint(tmp_path), copies)
    adapters = {name for name, p in model.named_parameters() if p.requires_grad}
    assert adapters and all("lora" in name for name in adapters)
    assert copies.names == adapters and copies.averaged == adapters
    (file,) = tmp_path.iterdir()
    whole = sum(p.numel() * p.element_size() for p in model.parameters())
    moving = sum(p.numel() * p.element_size() for p in trainable(model))
    assert moving < whole / 50
    # Weights, average, best and momentum of the adapters; records of names and settings.
    assert file.stat().st_size < 4 * moving + 150_000 < whole


def saved_bytes(model, checkpointed):
    """Most bytes that one pass of an attack keeps for its backward pass."""
    model.train()
    if checkpointed:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    total, most = [0], [0]

    def pack(tensor):
        if not isinstance(tensor, torch.nn.Parameter) and tensor.untyped_storage().nbytes() > 0:
            total[0] += tensor.numel() * tensor.element_size()
            most[0] = max(most[0], total[0])
        return tensor

    x, y = columns(batch())
    subject = as_loss_model(model, task="preference")
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        x_adv = PGD(eps=0.1, norm=2, steps=1, random_start=False)(subject, x, y, space=SPACE)
    return most[0], x_adv.delta


def test_crafting_keeps_checkpoints_on():
    """An attack in evaluation mode keeps a fraction of the activations, and finds the same."""
    plain, expected = saved_bytes(adapted(llama(layers=4, **WIDE)), False)
    kept, delta = saved_bytes(adapted(llama(layers=4, **WIDE)), True)
    assert torch.equal(delta, expected)
    assert kept < plain / 3


@pytest.mark.parametrize("loss", ["cat", "capo", "lat", "rerouting"])
def test_checkpoints_change_no_weight(loss):
    """But for rounding; dropout included, the perturbation at the embedding and between blocks."""
    results = []
    for again in (False, True):
        model = adapted(llama(dropout=0.1), dropout=0.1)
        if again:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        space = LatentSpace([0], per="token") if loss == "lat" else SPACE
        attacked = {"attack": PGD(eps=0.1, norm=2, steps=2), "space": space}
        optimizer = torch.optim.SGD(trainable(model), lr=0.1)
        artplus.fit(model, batch(), optimizer, loss=loss, epochs=1, batch_size=4, seed=0,
                    progress=False, **{} if loss == "rerouting" else attacked)  # fmt: skip
        results.append(weights(model))
    plain, checkpointed = results
    for name in plain:
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("loss", ["cat", "capo", "rerouting"])
def test_bf16_trains(loss):
    """Under autocast, with the reference's pass in the same arithmetic."""
    model = adapted()
    before = weights(model)
    attacked = {"attack": PGD(eps=0.1, norm=2, steps=2), "space": SPACE}
    history = artplus.fit(
        model, batch(), torch.optim.SGD(trainable(model), lr=0.1), loss=loss, epochs=1,
        precision="bf16", progress=False, **{} if loss == "rerouting" else attacked,
    )  # fmt: skip
    assert history["loss"][0] == history["loss"][0] and not same(before, weights(model))
