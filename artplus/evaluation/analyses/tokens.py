"""Which words of a text decide: gradient times input at the embeddings, token by token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from artplus.errors import ConfigurationError
from artplus.evaluation.analyses._base import BaseAnalysis, Setting, Subject, register_analysis
from artplus.evaluation.section import Model, Passage, Passages, Section, Table
from artplus.model import LossModel

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Text:
    """A text to explain.

    Attributes:
        title: For display.
        tokens: Its words.
        inputs: Of the model, a batch of one: ids ``(1, length)`` or embeddings
            ``(1, length, features)``.
        y: The class whose logit is explained; ``None`` is the predicted one.
    """

    title: str
    tokens: tuple[str, ...]
    inputs: Tensor
    y: int | None


@register_analysis("tokens")
@dataclass(frozen=True, kw_only=True)
class Tokens(BaseAnalysis):
    r"""Tokens by their influence on a class, for models of texts.

    The influence of token :math:`t` on the logit of class :math:`c` is its gradient times its
    input, at the output :math:`e_t` of the embedding layer [Denil14]_:

    .. math:: w_t = \langle \nabla_{e_t} z_c, e_t \rangle

    Where the logit is linear in the embeddings, influences are exact: they add up to the logit
    less its bias. Weights are shown relative to the largest of their text. Works with any module
    that takes token ids and holds an ``nn.Embedding``, and with one that takes embeddings.

    Args:
        texts: Texts to explain, of the predicted class; default: the first examples of the data,
            whose rows are token ids or embeddings, of their true class.
        tokenizer: Texts to ids: a function that returns ids or a mapping with ``"input_ids"``, as
            those of Hugging Face's transformers do.
        words: What to call an id: a function, or a sequence by id; default: the tokenizer's
            ``convert_ids_to_tokens``, else the id itself.
        layer: Name of the embedding layer in the module; default: the first ``nn.Embedding``.
        n: Number of the data's examples to explain, without ``texts``.

    Raises:
        ConfigurationError: in regression, for texts without a tokenizer, or for a model whose
            input is neither ids for an ``nn.Embedding`` nor embeddings.

    References:
        .. [Denil14] Denil et al., "Extraction of salient sentences from labelled documents", 2014,
           https://arxiv.org/abs/1412.6815
    """

    name = "tokens"
    title = "Which words decide"

    texts: Sequence[str] | None = None
    tokenizer: Any = None
    words: Callable[[int], str] | Sequence[str] | None = None
    layer: str | None = None
    n: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.texts, str):
            raise ConfigurationError("texts is a list of texts, got one: texts=[text]")
        if self.texts is not None and not callable(self.tokenizer):
            raise ConfigurationError(
                "tokens needs tokenizer= to turn texts into ids: Tokens(texts=[...], tokenizer=...)"
            )

    def check(self, setting: Setting) -> None:
        super().check(setting)
        for data in setting.models.values():
            embedding = find(data.model.module, self.layer)
            if embedding is None and (self.texts is not None or data.x.ndim != 3):
                raise ConfigurationError(
                    "tokens needs a model with an nn.Embedding that takes ids, or inputs "
                    f"(n, length, features) that are embeddings; inputs here are "
                    f"{tuple(data.x.shape)} and there is no nn.Embedding"
                )

    def __call__(self, subject: Subject) -> Section:
        texts = self._texts(subject)
        passages: dict[Model, list[Passage]] = defaultdict(list)
        for text in texts:
            for model, data in subject.models.items():
                weights, predicted, target = influence(data.model, text, self.layer)
                reach = float(np.abs(weights).max(initial=0.0)) or 1.0
                passages[model].append(
                    Passage(
                        title=text.title,
                        tokens=text.tokens,
                        weights=tuple((weights / reach).tolist()),
                        text=f"Towards {subject.class_name(target)}; predicted "
                        f"{subject.class_name(predicted)}.",
                    )
                )
        strengths: dict[str, list[float]] = defaultdict(list)
        for passage in passages[""]:
            for token, weight in zip(passage.tokens, passage.weights, strict=True):
                strengths[token].append(weight)
        ranked = sorted(strengths.items(), key=lambda item: -float(np.abs(item[1]).mean()))
        names = ", ".join(f"“{token}”" for token, _ in ranked[:3])
        return self.section(
            f"In {len(texts)} texts the most influential tokens are {names}.",
            (
                *(
                    Passages(
                        passages=tuple(parts),
                        caption="Red, underlined: speaks for the class. Blue, dashed: against it. "
                        "Relative to the most influential token of each text.",
                        model=model,
                    )
                    for model, parts in passages.items()
                ),
                Table(
                    columns=("token", "times", "mean influence"),
                    units=("text", "count", "number"),
                    rows=tuple((t, len(w), float(np.mean(w))) for t, w in ranked[:20]),
                    caption="Tokens by the size of their influence, relative to the most "
                    "influential of their text.",
                ),
            ),
            notes=("Gradient times input at the embeddings: a first-order account.",),
        )

    def _texts(self, subject: Subject) -> list[Text]:
        if self.texts is not None:
            return [self._text(k, text, subject) for k, text in enumerate(self.texts, 1)]
        data, index = subject.data, subject.first(self.n)
        rows = data.x[index].to(data.device)
        ids = find(data.model.module, self.layer) is not None and rows.ndim == 2
        texts = []
        for k, y in enumerate(subject.labels(index).tolist()):
            row = rows[k : k + 1]
            words = [self._word(int(i)) for i in row[0]] if ids else map(str, range(row.shape[1]))
            texts.append(Text(f"Example {int(index[k])}", tuple(words), row, int(y)))
        return texts

    def _text(self, number: int, text: str, subject: Subject) -> Text:
        encoded = self.tokenizer(text)
        ids = encoded["input_ids"] if isinstance(encoded, Mapping) else encoded
        row = torch.as_tensor(ids, dtype=torch.long, device=subject.data.device).reshape(1, -1)
        return Text(f"Text {number}", tuple(self._word(int(i)) for i in row[0]), row, None)

    def _word(self, number: int) -> str:
        if callable(self.words):
            return str(self.words(number))
        if self.words is not None:
            return str(self.words[number])
        convert = getattr(self.tokenizer, "convert_ids_to_tokens", None)
        return str(number) if convert is None else str(convert([number])[0])


def find(module: nn.Module, name: str | None = None) -> nn.Embedding | None:
    """The embedding layer of that name, or the first.

    Raises:
        ConfigurationError: if there is none of that name.
    """
    layers = {key: m for key, m in module.named_modules() if isinstance(m, nn.Embedding)}
    if name is None:
        return next(iter(layers.values()), None)
    if name not in layers:
        raise ConfigurationError(
            f"the module has no nn.Embedding called {name!r}; it has {', '.join(layers) or 'none'}"
        )
    return layers[name]


def influence(model: LossModel, text: Text, layer: str | None = None) -> tuple[Floats, int, int]:
    """Weight of each token ``(length,)``, the predicted class, and the class explained.

    Raises:
        ConfigurationError: if the logit does not depend on the embeddings differentiably, or on
            other than one embedding per token.
    """
    embedding = find(model.module, layer)
    with torch.enable_grad():
        if embedding is None or text.inputs.ndim == 3:
            embedded = text.inputs.detach().requires_grad_(True)
            logits = _logits(model(embedded))
        else:
            with _captured(embedding) as outputs:
                logits = _logits(model(text.inputs.long()))
            embedded = outputs[0] if outputs else text.inputs
        predicted = int(logits[0].argmax())
        target = predicted if text.y is None else text.y
        grads: Tensor | None = None
        if embedded.requires_grad and logits.requires_grad:
            (grads,) = torch.autograd.grad(logits[0, target], embedded, allow_unused=True)
    if (
        grads is None
        or embedded.numel() == 0
        or embedded.reshape(-1, embedded.shape[-1]).shape[0] != len(text.tokens)
    ):
        raise ConfigurationError(
            "tokens needs logits that depend differentiably on one embedding per token; is another "
            "layer meant? Tokens(layer=...)"
        )
    weights = (grads * embedded.detach()).double().sum(-1).reshape(-1)
    return weights.cpu().numpy(), predicted, target


def _logits(outputs: Any) -> Tensor:
    """Logits of a plain module, or of one that wraps them, as transformers do."""
    logits: Tensor = getattr(outputs, "logits", outputs)
    return logits


@contextmanager
def _captured(layer: nn.Embedding) -> Iterator[list[Tensor]]:
    """Replace each output of the layer by a leaf, whose gradient can be taken; collect them."""
    leaves: list[Tensor] = []

    def swap(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_(True))
        return leaves[-1]

    hook = layer.register_forward_hook(swap)
    try:
        yield leaves
    finally:
        hook.remove()
