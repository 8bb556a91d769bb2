"""A tiny language model and preferences over its tokens: a harmless pattern is to be avoided."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from artplus.tasks import PreferenceCollator
from tests.tasks import models

FORBIDDEN, ASKED, REFUSAL, END, FIRST = 1, 2, 3, 4, 5
"""Tokens with a meaning; those from ``FIRST`` on are words."""


def rows(n: int = 8, *, share: float = 0.5, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts of different lengths. Every ``1 / share``-th asks for what is to be avoided."""
    generator = torch.Generator().manual_seed(seed)
    words = models.VOCABULARY - FIRST
    made = []
    for k in range(n):
        length = 2 + k % 3
        body = (FIRST + torch.randint(words, (length,), generator=generator)).tolist()
        if share and k % round(1 / share) == 0:
            pattern = [FIRST + (body[0] - FIRST + step) % words for step in (1, 2, 3)]
            chosen = [REFUSAL, END] if k % 4 else [REFUSAL, REFUSAL, REFUSAL, REFUSAL, END]
            made.append({"prompt": [FORBIDDEN, *body], "chosen": chosen, "rejected": pattern})
        else:
            made.append({"prompt": [ASKED, *body], "chosen": [*body[::-1], END]})
    return made


def batch(n: int = 8, **options: Any) -> dict[str, Any]:
    return PreferenceCollator()(rows(n, **options))


def llama(*, layers: int = 2, dropout: float = 0.0, **options: Any) -> nn.Module:
    return models.make("llama", num_hidden_layers=layers, dropout=dropout, **options)


def adapted(model: nn.Module | None = None, *, dropout: float = 0.0, noise: float = 0.3) -> Any:
    """With LoRA that changes the predictions a little, as in the middle of training."""
    import peft

    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2, lora_alpha=4, lora_dropout=dropout, target_modules=["q_proj", "v_proj", "down_proj"]
    )
    net = peft.get_peft_model(model or llama(), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if "lora_B" in name:
                weight.copy_(noise * torch.randn(weight.shape, generator=generator))
    return net


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def columns(data: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and targets."""
    return {k: v for k, v in data.items() if k != "labels"}, data["labels"]


def logits(model: nn.Module, ids: list[int], delta: Tensor | None = None) -> Tensor:
    """``(tokens, vocabulary)`` of one sequence, the slow and obvious way: embeddings plus delta."""
    embeds = model.get_input_embeddings()(torch.tensor([ids]))  # type: ignore[operator]
    if delta is not None:
        embeds = embeds.clone()
        embeds[:, : delta.shape[0]] += delta
    out: Tensor = model(inputs_embeds=embeds).logits[0]
    return out


def log_probabilities(
    model: nn.Module, prompt: list[int], answer: list[int], delta: Tensor | None = None
) -> Tensor:
    """``(answer tokens, vocabulary)``: of what may stand in the place of each token."""
    given = logits(model, [*prompt, *answer], delta).log_softmax(-1)
    return given[len(prompt) - 1 : -1]
