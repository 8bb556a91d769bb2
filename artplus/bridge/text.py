"""An ART classifier of token ids, whose attacks see embeddings as the input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from torch.optim import Optimizer

from artplus import _checks, modes
from artplus.bridge.embedded import Embedded
from artplus.errors import ConfigurationError
from artplus.model import LossModel, device_of
from artplus.spaces import EmbeddingSpace, run
from artplus.spaces.embedding import IDS
from artplus.spaces.hidden import parameters
from artplus.tasks import logits_of
from artplus.tree import Tree, size, take, to

WHOLE_TEXT = EmbeddingSpace()


class TakesIds:
    """``predict`` and ``fit`` of token ids.

    ART turns every argument of methods that its estimators define into an array, and a tokenizer's
    mapping into one of its keys; methods of another class it leaves alone.
    """

    def predict(self: Any, x: Any, batch_size: int = 128, **kwargs: Any) -> np.ndarray[Any, Any]:
        """Logits ``(batch, classes)`` of ids, a mapping of columns, or an array of :meth:`encode`.

        Args:
            x: Texts.
            batch_size: Texts at a time.
            kwargs: As of ART.
        """
        if is_encoded(x):
            outputs: np.ndarray[Any, Any] = PyTorchClassifier.predict(
                self, x, batch_size=batch_size, **kwargs
            )
            return outputs
        inputs = self.embedded.columns_of(x)
        parts = []
        with torch.no_grad(), modes.attack_mode(self.embedded.module):
            for start in range(0, size(inputs), batch_size):
                part = take(inputs, slice(start, start + batch_size))
                parts.append(logits_of(run(self.embedded.module, part)))
        logits: np.ndarray[Any, Any] = torch.cat(parts).float().cpu().numpy()
        return logits

    def fit(self: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> None:
        """Train as ART does, on ids, a mapping of columns, or arrays of :meth:`encode`."""
        PyTorchClassifier.fit(self, x if is_encoded(x) else self.encode(x), y, *args, **kwargs)


class TextClassifier(TakesIds, PyTorchClassifier):
    """A Hugging Face classifier, or any of token ids, for ART's attacks and for hardening.

    ART's attacks take arrays of floats: :meth:`encode` gives embeddings with ids and masks beside
    them, and the classifier is one of such arrays. ``predict`` and ``fit`` take token ids too, and
    :class:`~artplus.AdversarialTrainerPlus` and :func:`artplus.evaluate` take token ids alone: an
    array, or a mapping with an ``attention_mask``. There an attack built on this classifier runs in
    ``space``, where padding and special tokens are not touched.

    ART's own ``fit`` trains everything but the embedding, which is its input;
    ``AdversarialTrainerPlus`` trains the embedding too.

    Args:
        model: Maps ids, and columns beside them, to logits or an output with ``logits``.
        tokens: Longest text, in tokens: the shape of arrays for ART. Shorter texts are padded.
        optimizer: Of the model's parameters; required for training only.
        loss: The model's own loss; ``None`` is cross-entropy.
        space: Where attacks perturb, per example for attacks of ART.
        columns: Names of columns of whole numbers ``(batch, tokens)`` that are carried beside ids,
            such as ``token_type_ids``; ``None`` is ``attention_mask`` if the model takes it.

    Raises:
        ConfigurationError: for a space per token, whose balls ART does not know; for a model
            without an embedding, or with several and no ``layer`` in the space.

    Example:
        >>> import numpy as np, torch
        >>> from art.attacks.evasion import ProjectedGradientDescent
        >>> class Bag(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
        ...     def forward(self, ids):
        ...         return self.head(self.embed(ids).mean(1))
        >>> classifier = TextClassifier(Bag(), tokens=5)
        >>> ids = np.random.randint(9, size=(3, 5))
        >>> x = classifier.encode(ids)
        >>> attack = ProjectedGradientDescent(classifier, norm=2, eps=0.5, verbose=False)
        >>> x_adv = attack.generate(x, mask=classifier.mask(x))
        >>> classifier.predict(x_adv).shape
        (3, 2)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tokens: int,
        optimizer: Optimizer | None = None,
        loss: Callable[..., Tensor] | None = None,
        space: EmbeddingSpace = WHOLE_TEXT,
        columns: Sequence[str] | None = None,
    ) -> None:
        _checks.count("tokens", tokens)
        if space.per != "example":
            raise ConfigurationError(
                "ART's attacks bound the perturbation of a whole example; use "
                "EmbeddingSpace(per='example'), or per='token' in artplus.fit and artplus.evaluate"
            )
        if columns is None:
            columns = [name for name in ("attention_mask",) if name in parameters(model)]
        embedded = Embedded(model, space, columns)
        with modes.attack_mode(model), torch.no_grad():
            ids = np.zeros((1, tokens), dtype=np.int64)
            classes = embedded(embedded.encoded(embedded.columns_of(ids))).shape[1]
        super().__init__(
            model=embedded,
            loss=loss or nn.CrossEntropyLoss(),
            input_shape=(tokens, embedded.channels),
            nb_classes=classes,
            optimizer=optimizer,
            device_type="gpu" if device_of(model).type == "cuda" else "cpu",
        )

    @property
    def embedded(self) -> Embedded:
        """The module of arrays, around that of ids."""
        embedded: Embedded = self.model
        return embedded

    def encode(self, x: Any) -> np.ndarray[Any, Any]:
        """Token ids as an array for ART's attacks, ``(batch, tokens, channels)`` in float32.

        Its embeddings are those of the present weights.

        Args:
            x: Ids ``(batch, tokens)``, or a mapping of columns.

        Raises:
            DataError: for anything else, or too many tokens.
        """
        inputs = self.embedded.columns_of(x, self.input_shape[0])
        array: np.ndarray[Any, Any] = self.embedded.encoded(inputs).cpu().numpy()
        return array

    def mask(self, x: Any) -> np.ndarray[Any, Any]:
        """What an attack may change of ids or of an array: ``generate(x, mask=...)``.

        An attack without it still has no effect on padding, but spends its radius there.
        """
        if is_encoded(x):
            inputs = self.embedded.decoded(torch.as_tensor(np.asarray(x)))
        else:
            inputs = self.embedded.columns_of(x, self.input_shape[0])
        free = self.embedded.free(to(inputs, device_of(self.embedded.module)))
        array: np.ndarray[Any, Any] = free.cpu().numpy()
        return array


def attacked(
    classifier: TextClassifier, x: Tree, generate: Callable[[Tensor, Tensor], Tensor]
) -> Tree:
    """Token ids with the perturbation that an attack of arrays finds.

    Args:
        classifier: Attacked by ART.
        x: Ids or columns.
        generate: Array and mask to adversarial array.
    """
    embedded = classifier.embedded
    inputs = embedded.columns_of(x, classifier.input_shape[0])
    array, free = embedded.encoded(inputs), embedded.free(inputs)
    delta = ((generate(array, free) - array) * free)[..., : embedded.width]
    tokens = embedded.space.lift(LossModel(embedded.module), x).shape[1]
    return embedded.space.insert(x, delta[:, :tokens])


def is_encoded(x: Any) -> bool:
    """Whether ``x`` is an array of embeddings, and not token ids."""
    array = x if isinstance(x, (np.ndarray, Tensor)) else None
    return array is not None and array.ndim == 3


def is_text(model: nn.Module, x: Any) -> bool:
    """Whether samples are token ids: columns, or whole numbers for a model with an embedding."""
    if isinstance(x, Mapping):
        return any(name in x for name in IDS)
    array = x if isinstance(x, Tensor) else np.asarray(x)
    whole = not (
        array.is_floating_point() if isinstance(array, Tensor) else array.dtype.kind == "f"
    )
    embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    return whole and array.ndim == 2 and bool(embeddings)
