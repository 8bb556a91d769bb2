"""A language model without a library, and preferences over its tokens, for several processes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from artplus.attacks import PGD
from artplus.losses import make_loss
from artplus.spaces import EmbeddingSpace, LatentSpace, Space
from artplus.tasks import PreferenceCollator

VOCABULARY, WIDTH = 12, 8


class NextToken(nn.Module):
    """Logits of the next token, from the mean of the tokens so far."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.embed(input_ids) * attention_mask.unsqueeze(-1)
        states = states.cumsum(1) / attention_mask.cumsum(1).unsqueeze(-1)
        for layer in self.layers:
            states = torch.tanh(layer(states))
        out: Tensor = self.head(states)
        return out


def rows(n: int) -> list[dict[str, Any]]:
    """One in five has an answer to be avoided, so some processes have none in a batch."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCABULARY, (n, 8), generator=generator).tolist()
    made = [{"prompt": row[: 2 + k % 3], "chosen": row[4:6]} for k, row in enumerate(ids)]
    return [{**row, "rejected": ids[k][5:]} if k % 5 == 0 else row for k, row in enumerate(made)]


def options(name: str) -> dict[str, Any]:
    """Model, data, objective and attack of one case."""
    torch.manual_seed(0)
    model = NextToken()
    with_reference = name in ("capo", "rerouting")
    extra = {"reference": copy.deepcopy(model)} if with_reference else {}
    space: Space = EmbeddingSpace(per="token")
    if name == "lat":
        space = LatentSpace([0, 1], per="token")
    attack = PGD(eps=0.3, norm=2, steps=2, random_start=False)
    attacked = {"attack": None} if name == "rerouting" else {"attack": attack, "space": space}
    return {
        "model": model, "data": PreferenceCollator()(rows(40)), "task": "preference",
        "loss": make_loss(name, **extra), "batch_size": 8, **attacked,
    }  # fmt: skip
