"""Hardened Trainers in processes that share their batches, and what they end with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin
from torch.distributed.tensor import DTensor

from artplus.attacks import PGD
from artplus.spaces import EmbeddingSpace
from artplus.training.steps import FreeLB
from tests.huggingface.runs import Hardened, model, rows, steps, train, weights

STILL = PGD(eps=2.0, norm=2, steps=3, random_start=False)

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "classes": ("bert", {"loss": "mix"}, {}),
    "tokens, accumulated": ("llama", {"loss": "mix"}, {"gradient_accumulation_steps": 3}),
    "adversarial alone, clipped": ("bert", {"loss": "at"}, {"max_grad_norm": 0.01}),
    "freelb": ("bert", {"loss": "at", "step": FreeLB(3, start=0)}, {}),
}

LAYERS = {
    "BertForSequenceClassification": "BertLayer",
    "LlamaForCausalLM": "LlamaDecoderLayer",
}


class Sharded(Hardened):
    """FSDP2 on processors, which Accelerate has on GPUs only, though torch has it on both."""

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        state.distributed_type = DistributedType.FSDP
        state.fsdp_plugin = FullyShardedDataParallelPlugin(
            fsdp_version=2,
            auto_wrap_policy="transformer_based_wrap",
            transformer_cls_names_to_wrap=[LAYERS[type(self.model).__name__]],
            cpu_ram_efficient_loading=False,
        )
        self.is_fsdp_enabled = True


def run(folder: Path, case: str, kind: type = Hardened, processes: int = 1) -> dict[str, Any]:
    """The weights and the log of a case; ``processes`` share each batch of eight."""
    name, settings, options = CASES[case]
    accumulation = options.get("gradient_accumulation_steps", 1)
    size = (8 if accumulation == 1 else 4) // processes
    options = {**options, "per_device_train_batch_size": size}
    if processes > 1:
        options["ddp_backend"] = "gloo"
    trainer = train(
        folder,
        kind,
        model(name),
        data=rows(name),
        options=options,
        attack=STILL,
        space=EmbeddingSpace(),
        **settings,
    )
    sharded = any(isinstance(p, DTensor) for p in trainer.model.parameters())
    return {"weights": weights(trainer.model), "log": steps(trainer), "sharded": sharded}


def work(rank: int, processes: int, folder: str, kind: str) -> None:
    """One process."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(processes))
    torch.set_num_threads(1)
    trainer = {"ddp": Hardened, "fsdp2": Sharded}[kind]
    found = {case: run(Path(folder), case, trainer, processes) for case in CASES}
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
