"""Tiny models of tokens and of waveforms, and their data."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY, WIDTH, TOKENS = 20, 8, 6


class Words(nn.Module):
    """Token ids to logits, through two layers of an ``nn.ModuleList``; padding changes nothing."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, classes)

    def forward(
        self,
        ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        states = self.embed(ids) if inputs_embeds is None else inputs_embeds
        for layer in self.layers:
            states = torch.tanh(layer(states))
        if attention_mask is None:
            return self.head(states.mean(1))
        kept = attention_mask.unsqueeze(-1).to(states)
        return self.head((states * kept).sum(1) / kept.sum(1))


def words(seed: int = 0) -> Words:
    torch.manual_seed(seed)
    return Words().eval()


def sentences(n: int = 8, seed: int = 0) -> dict[str, Tensor]:
    """Ids of several lengths with their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (n, TOKENS), generator=generator)
    lengths = torch.randint(2, TOKENS + 1, (n, 1), generator=generator)
    mask = (torch.arange(TOKENS) < lengths).long()
    return {"ids": ids * mask, "attention_mask": mask}


def labelled(n: int = 8, seed: int = 0) -> dict[str, Tensor]:
    columns = sentences(n, seed)
    return {**columns, "labels": columns["ids"][:, 0] % 3}


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def hooks(module: nn.Module) -> int:
    """Forward hooks of a module and all its parts."""
    return sum(len(part._forward_hooks) for part in module.modules())


def fit(module: nn.Module, data: Any = None, **options: Any) -> Any:
    """A short run that is the same each time."""
    import artplus

    given = {"epochs": 2, "batch_size": 4, "seed": 0, "progress": False, "norm": 2, "eps": 0.3}
    given |= options
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    return artplus.fit(module, labelled() if data is None else data, optimizer, **given)
