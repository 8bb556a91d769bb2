"""A teacher, whose weights are a moving average, for objectives that compare with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from artplus import _checks, distributed, modes
from artplus.losses.smart import TEACHER
from artplus.training.callbacks._base import Callback
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.tree import concat, detach, take


class Teacher(Callback):
    r"""Predictions of averaged weights, for each batch that is trained on.

    .. math:: \tilde w \leftarrow d \, \tilde w + (1 - d) \, w

    It is the teacher of SMART's proximal term [Jiang20]_: ``loss=smart(mu=1.0)`` finds its
    predictions in :attr:`artplus.losses.Context.extras`, and so may an objective of your own, under
    the name ``"teacher"``. They cost one forward pass a batch, in evaluation mode and without
    gradient, in parts of ``micro_batch``. Only trainable weights are averaged, kept and saved in
    checkpoints; buffers are those of the model. Unlike :class:`EMA`, neither validation nor the
    final model uses the average. Place it after ``Augment``.

    Args:
        decay: d, in [0, 1): 0.999 in the paper.
        early_decay: d in the first part of training; 0.99 in the paper.
        early: That part, a fraction of training; 0.1 in the paper.

    References:
        .. [Jiang20] Jiang et al., "SMART: robust and efficient fine-tuning for pre-trained natural
           language models through principled regularized optimization", ACL 2020,
           https://arxiv.org/abs/1911.03437

    Example:
        >>> import torch, artplus
        >>> from artplus.losses import smart
        >>> from artplus.training.callbacks import Teacher
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, loss=smart(mu=1.0), eps=0.1, epochs=1,
        ...                       callbacks=[Teacher()], progress=False)
    """

    def __init__(
        self, decay: float = 0.999, *, early_decay: float = 0.99, early: float = 0.1
    ) -> None:
        self.decay = _checks.fraction("decay", decay)
        self.early_decay = _checks.fraction("early_decay", early_decay)
        self.early = _checks.nonnegative("early", early)
        self._weights: dict[str, Tensor] = {}

    def on_fit_begin(self, state: State) -> None:
        self._weights = {}
        self._include_trainable(state)

    def on_batch(self, state: State, batch: Batch) -> Batch:
        module, n = state.model.module, len(batch)
        self._include_trainable(state)
        size = state.micro_batch or n
        count = -(-n // size)
        with (
            _holding(module, self._weights),
            state.engine.attacking(),
            modes.attack_mode(module),
            torch.no_grad(),
        ):
            rows = [distributed.part(n, k, count) for k in range(count)]
            parts = [detach(state.engine.attacked(take(batch.x, part))) for part in rows]
        state.extras[TEACHER] = parts[0] if count == 1 else concat(parts)
        return batch

    def on_step_end(self, state: State) -> None:
        decay = self.early_decay if state.progress < self.early else self.decay
        with torch.no_grad():
            for name, parameter in state.model.module.named_parameters():
                if name in self._weights:
                    self._weights[name].lerp_(parameter.detach(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": dict(self._weights)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for name, value in saved["weights"].items():
            device = self._weights[name].device if name in self._weights else value.device
            self._weights[name] = value.to(device)

    def on_fit_end(self, state: State) -> None:
        state.extras.pop(TEACHER, None)

    def _include_trainable(self, state: State) -> None:
        """Begin the average of weights that are trainable, also of those unfrozen just now."""
        for name, parameter in state.model.module.named_parameters():
            if parameter.requires_grad and name not in self._weights:
                self._weights[name] = parameter.detach().clone()


@contextmanager
def _holding(module: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """The module with these weights inside; its own afterwards."""
    parameters = {n: p for n, p in module.named_parameters() if n in weights}
    own = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    def load(values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(values[name])

    try:
        load(weights)
        yield
    finally:
        load(own)
