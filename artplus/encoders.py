"""Encoders of images as modules: their features, and classifiers by texts on top of them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.tasks import features_of


class ImageFeatures(nn.Module):
    """The image encoder of a model of images and texts: ``(batch, channels, h, w)`` to features.

    Args:
        model: Transformers' ``CLIPModel``, ``SiglipModel`` or any with ``get_image_features``, also
            inside PEFT; else an encoder that is called itself.

    Example:
        >>> import torch
        >>> ImageFeatures(nn.Flatten())(torch.zeros(2, 3, 4, 4)).shape
        torch.Size([2, 48])
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Features ``(batch, width)``, not normalised."""
        return _features(self.model, pixel_values)


class ZeroShot(nn.Module):
    r"""A classifier made of an image encoder and the embeddings of one text for each class.

    .. math:: f(x)_k = s \, \cos(\phi(x), t_k)

    Every objective, attack and evaluation of classifiers takes it. Trained by ``loss="at"`` it is
    TeCoA [Mao23]_. The encoder inside is the user's own module, so its weights are trained in
    place.

    Args:
        model: As for :class:`ImageFeatures`. Its features must have the texts' width: for CLIP the
            projected ones (``CLIPVisionModelWithProjection`` or ``CLIPModel``).
        text_embeddings: ``(classes, width)``, of any length; a buffer, which is not trained.
        scale: The logit scale s; 100 is CLIP's after training, and what TeCoA and FARE use.

    Raises:
        ConfigurationError: for embeddings of another form; in the forward pass for features of
            another width.

    References:
        .. [Mao23] Mao et al., "Understanding zero-shot adversarial robustness for large-scale
           models", ICLR 2023, https://arxiv.org/abs/2212.07016

    Example:
        >>> import torch
        >>> model = ZeroShot(nn.Flatten(), torch.eye(3, 48))
        >>> model(torch.rand(2, 3, 4, 4)).shape
        torch.Size([2, 3])
    """

    texts: Tensor

    def __init__(self, model: nn.Module, text_embeddings: Tensor, scale: float = 100.0) -> None:
        super().__init__()
        self.model = model
        self.scale = _checks.positive("scale", scale)
        ok = isinstance(text_embeddings, Tensor) and text_embeddings.ndim == 2
        if not ok or len(text_embeddings) < 2 or not text_embeddings.is_floating_point():
            shape = tuple(getattr(text_embeddings, "shape", ()))
            raise ConfigurationError(
                f"text_embeddings must be floats (classes, width) of at least two classes, got "
                f"{type(text_embeddings).__name__} {shape}"
            )
        self.register_buffer("texts", F.normalize(text_embeddings.detach(), dim=-1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits ``(batch, classes)``."""
        features = _features(self.model, pixel_values)
        if features.shape[-1] != self.texts.shape[1] or features.ndim != 2:
            raise ConfigurationError(
                f"the encoder's features are {tuple(features.shape)}, but the texts' embeddings "
                f"{tuple(self.texts.shape)}; give the features that are compared with texts (for "
                "CLIP after the projection: CLIPVisionModelWithProjection)"
            )
        return self.scale * F.normalize(features, dim=-1) @ self.texts.to(features).T


def _features(model: nn.Module, pixel_values: Tensor) -> Tensor:
    encode: Any = getattr(model, "get_image_features", model)
    return features_of(encode(pixel_values))
