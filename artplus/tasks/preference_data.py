"""Rows of prompt, chosen and rejected answer as batches for the task ``preference``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError, DataError

PADDING = -100

Sequences = list[list[int]]


@dataclass(frozen=True)
class PreferenceCollator:
    """Make batches for ``task="preference"`` from rows in TRL's preference format.

    A row is a mapping with ``prompt``, ``chosen`` (the answer wanted) and ``rejected`` (the answer
    to be avoided). Rows of utility data have no ``rejected``: it is absent, ``None`` or empty. A
    value is a text, a conversation (a list of messages with ``role`` and ``content``), or ids that
    are tokenised already, also under ``prompt_ids`` or ``prompt_input_ids`` and so on.

    Use it as ``DataLoader(rows, batch_size=8, shuffle=True, collate_fn=collator)`` for lists and
    Hugging Face data sets, or call it once on all rows: the batch it gives is a mapping of columns
    that :func:`artplus.fit` and :func:`artplus.evaluate` take.

    The sequence of a row is its prompt and the rejected answer, or the chosen one in utility rows.
    Only tokens of the prompt may be perturbed (``perturbation_mask``). Prompt and answers are
    tokenised apart, so the prompt's tokens are the same before both answers, and the same
    perturbation fits both. Everything is padded on the right. Answers that are texts end with the
    tokenizer's end-of-sequence token, as in TRL.

    Args:
        tokenizer: A Transformers tokenizer, or any callable that gives ``input_ids`` of a text;
            ``None`` if all rows are tokenised.
        max_length: Most tokens of prompt and answer together, >= 2; longer answers are cut. TRL's
            1024 by default.

    Raises:
        DataError: for a row without prompt or chosen answer, or a prompt that leaves no room for
            an answer.
        ConfigurationError: for a text without a tokenizer.

    Example:
        >>> collate = PreferenceCollator()
        >>> batch = collate([
        ...     {"prompt": [5, 6], "chosen": [1], "rejected": [7, 8]},
        ...     {"prompt": [5], "chosen": [9]},
        ... ])
        >>> batch["input_ids"].tolist(), batch["labels"]["labels"].tolist()
        ([[5, 6, 7, 8], [5, 9, 0, 0]], [[-100, -100, 7, 8], [-100, 9, -100, -100]])
        >>> batch["perturbation_mask"].tolist(), batch["labels"]["chosen"].tolist()
        ([[1, 1, 0, 0], [1, 0, 0, 0]], [[5, 6, 1], [5, 9, -100]])
    """

    tokenizer: Any = None
    max_length: int = 1024

    def __post_init__(self) -> None:
        _checks.count("max_length", self.max_length, least=2)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch of some rows: inputs, and targets under ``labels``."""
        prompts: Sequences = []
        own: Sequences = []
        chosen: Sequences = []
        rejected: list[bool] = []
        for row in rows:
            prompt, wanted, avoided = self._tokenised(row)
            room = self.max_length - len(prompt)
            prompts.append(prompt)
            chosen.append(wanted[:room])
            own.append((wanted if avoided is None else avoided)[:room])
            rejected.append(avoided is not None)
        ids, labels = _padded(prompts, own)
        chosen_ids, chosen_labels = _padded(prompts, chosen)
        real = ids != PADDING
        return {
            "input_ids": torch.where(real, ids, 0),
            "attention_mask": real.long(),
            "perturbation_mask": (real & (labels == PADDING)).long(),
            "labels": {
                "labels": labels,
                "chosen": chosen_ids,
                "chosen_labels": chosen_labels,
                "rejected": torch.tensor(rejected),
            },
        }

    def _tokenised(self, row: Mapping[str, Any]) -> tuple[list[int], list[int], list[int] | None]:
        """Ids of prompt, answer wanted and answer to be avoided."""
        values = {name: _value(row, name) for name in ("prompt", "chosen", "rejected")}
        for name in ("prompt", "chosen"):
            if values[name] is None:
                raise DataError(
                    f"a row needs a prompt and the chosen answer, but this one has no {name}; its "
                    f"columns are {', '.join(map(str, row))}"
                )
        prompt = self._prompt(values["prompt"])
        if len(prompt) >= self.max_length:
            raise DataError(
                f"a prompt of {len(prompt)} tokens leaves no room for an answer within max_length="
                f"{self.max_length}; raise it, or leave the row out"
            )
        chosen, rejected = (
            None if values[name] is None else self._answer(values["prompt"], values[name])
            for name in ("chosen", "rejected")
        )
        assert chosen is not None
        return prompt, chosen, rejected

    def _prompt(self, prompt: Any) -> list[int]:
        if _is_conversation(prompt):
            return self._ids(self._template(prompt, add_generation_prompt=True), special=False)
        ids = self._ids(prompt, special=True)
        if isinstance(prompt, str) and len(ids) > 1 and ids[-1] == self._end:
            return ids[:-1]  # some tokenizers end every text
        return ids

    def _answer(self, prompt: Any, answer: Any) -> list[int]:
        if not _is_conversation(answer):
            ids = self._ids(answer, special=False)
            ends = not isinstance(answer, str) or self._end is None or ids[-1:] == [self._end]
            return ids if ends else [*ids, self._end]  # type: ignore[list-item]  # is an int here
        if not _is_conversation(prompt):
            raise DataError("an answer is a list of messages, so the prompt must be one too")
        before = self._template(prompt, add_generation_prompt=True)
        whole = self._template([*prompt, *answer])
        if not whole.startswith(before):
            raise DataError(
                "the chat template changes the prompt when the answer follows, so their tokens "
                "cannot be told apart; give texts or ids instead"
            )
        return self._ids(whole[len(before) :], special=False)

    def _template(self, messages: Any, **options: Any) -> str:
        if self.tokenizer is None:
            raise ConfigurationError("a conversation needs PreferenceCollator(tokenizer)")
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, **options)
        return text

    def _ids(self, value: Any, *, special: bool) -> list[int]:
        if not isinstance(value, str):
            return [int(token) for token in value]
        if self.tokenizer is None:
            raise ConfigurationError(
                f"{value[:20]!r} is a text: give PreferenceCollator(tokenizer)"
            )
        return list(self.tokenizer(value, add_special_tokens=special)["input_ids"])

    @property
    def _end(self) -> int | None:
        end: int | None = getattr(self.tokenizer, "eos_token_id", None)
        return end


def _value(row: Mapping[str, Any], name: str) -> Any:
    """The row's value of that name, or its ids; ``None`` if it is absent or empty."""
    for column in (name, f"{name}_ids", f"{name}_input_ids"):
        value = row.get(column)
        if value is not None and len(value):
            return value
    return None


def _is_conversation(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping)


def _padded(prompts: Sequences, answers: Sequences) -> tuple[Tensor, Tensor]:
    """Ids of prompts with their answers, and labels of the answers; -100 is padding."""
    length = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(prompts), length), PADDING)
    labels = ids.clone()
    for k, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[k, :end] = torch.tensor([*prompt, *answer])
        labels[k, len(prompt) : end] = torch.tensor(answer)
    return ids, labels
