"""Perturbations of word embeddings: the space of adversarial training on text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from artplus import _checks
from artplus.errors import ConfigurationError, DataError
from artplus.spaces._base import Model, Per
from artplus.spaces.hidden import Hooks, token_mask
from artplus.spaces.hidden_space import HiddenSpace, check_per, named
from artplus.spaces.region import Region
from artplus.tree import Tree

IDS = ("input_ids", "decoder_input_ids", "ids", "tokens")
"""Names of the column that the embedding looks up."""


@dataclass(frozen=True)
class EmbeddingSpace(HiddenSpace):
    r"""Add a float32 perturbation to the output of the embedding layer [Miyato17]_.

    .. math:: f(E[t] + \delta), \qquad \|\delta\| \le \epsilon

    for token ids t. Padding, special tokens and everything a ``perturbation_mask`` column leaves
    out are never touched. The embedding's weights may be frozen, and tied weights are safe, since
    its output is perturbed and not its matrix.

    Robustness in this space is a training signal. It says little about words that are replaced:
    measure that beside it.

    Args:
        per: ``"example"``: the radius bounds the perturbation of a whole sequence (FGM, FreeLB);
            ``"token"``: of each token (CAT, LAT).
        relative: The radius is a multiple of the mean norm of the embedding's rows, measured when
            the space is first used on a model, in training before the first step: a unit that
            carries over between models [Xhonneux24]_.
        special_tokens: Ids that are never perturbed, for inputs without a ``special_tokens_mask``.
        layer: Name of the embedding in the model; ``None`` takes ``get_input_embeddings()``, else
            the only ``nn.Embedding``.

    Raises:
        ConfigurationError: when first used, for a model without an embedding or with several and no
            ``layer``, or a mask that does not fit the ids.

    Example:
        >>> import torch
        >>> from artplus.attacks import PGD
        >>> from artplus.model import LossModel
        >>> class Bag(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.embed, self.head = torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)
        ...     def forward(self, ids):
        ...         return self.head(self.embed(ids).mean(1))
        >>> ids, y = torch.randint(9, (3, 5)), torch.tensor([0, 1, 0])
        >>> space = EmbeddingSpace(per="token")
        >>> x_adv = PGD(eps=0.1, norm=2, steps=3)(LossModel(Bag()), ids, y, space=space)
        >>> x_adv.delta.shape, bool((x_adv.delta.norm(dim=-1) <= 0.1 + 1e-6).all())
        (torch.Size([3, 5, 4]), True)

    References:
        .. [Miyato17] Miyato et al., "Adversarial training methods for semi-supervised text
           classification", ICLR 2017, https://arxiv.org/abs/1605.07725
        .. [Xhonneux24] Xhonneux et al., "Efficient adversarial training in LLMs with continuous
           attacks", NeurIPS 2024, https://arxiv.org/abs/2405.15589
    """

    per: Per = "example"
    relative: bool = False
    special_tokens: tuple[int, ...] = ()
    layer: str | None = None

    def __post_init__(self) -> None:
        tokens = _checks.several("special_tokens", self.special_tokens, "token numbers")
        tokens = tuple(_checks.count("each of special_tokens", t, least=0) for t in tokens)
        object.__setattr__(self, "special_tokens", tokens)
        _checks.text("layer", self.layer)
        _checks.flag("relative", self.relative)
        check_per(self.per)

    def lift(self, model: Model, inputs: Tree) -> Tensor:
        """Zeros ``(batch, tokens, dimension)``."""
        ids = self.ids(inputs)
        (site,) = self.sites(model.module)
        dimension = _dimension(site)
        return torch.zeros(*ids.shape, dimension, device=ids.device)

    def region(self, inputs: Tree, z: Tensor) -> Region:
        """No bounds; a mask of padding and special tokens, ``(batch, tokens, 1)``."""
        mask = token_mask(inputs, self.ids(inputs), self.special_tokens)
        return Region(mask=None if mask is None else mask.unsqueeze(-1).to(z))

    def measured(self, hooks: Hooks) -> float:
        """The mean norm of the embedding's rows."""
        weight = getattr(hooks.sites[0], "weight", None)
        if not isinstance(weight, Tensor):
            raise ConfigurationError(
                "relative=True needs an embedding with a weight matrix, got "
                f"{type(hooks.sites[0]).__name__}; give an absolute radius"
            )
        return float(weight.detach().float().norm(dim=1).mean())

    def sites(self, module: nn.Module) -> tuple[nn.Module, ...]:
        """The embedding layer."""
        if self.layer is not None:
            return (named(module, self.layer),)
        getter = getattr(module, "get_input_embeddings", None)
        if callable(getter):
            try:
                layer = getter()
            except NotImplementedError:  # Transformers' word for "none"
                layer = None
            if isinstance(layer, nn.Module) and hasattr(layer, "weight"):
                return (layer,)
        tables = [m for m in module.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
        if len(tables) == 1 and isinstance(tables[0], nn.Embedding):
            return (tables[0],)
        reason = "has no nn.Embedding" if not tables else f"has {len(tables)} embeddings"
        raise ConfigurationError(
            f"EmbeddingSpace perturbs the output of an embedding, but {type(module).__name__} "
            f"{reason}. Name it: EmbeddingSpace(layer='encoder.embed'); inputs that are floats are "
            "perturbed by InputSpace, other layers by LatentSpace."
        )

    def ids(self, inputs: Tree) -> Tensor:
        """The token ids, ``(batch, tokens)``.

        Raises:
            DataError: if the inputs hold none.
        """
        if isinstance(inputs, Tensor):
            ids: object = inputs
        elif isinstance(inputs, tuple):
            ids = inputs[0]
        elif isinstance(inputs, Mapping):
            ids = next((inputs[name] for name in IDS if name in inputs), None)
        else:
            ids = None
        if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.ndim != 2:
            raise DataError(
                "EmbeddingSpace needs token ids, whole numbers (batch, tokens), as the input or in "
                f"a column {', '.join(IDS)}; got "
                + (
                    f"{ids.dtype} {tuple(ids.shape)}"
                    if isinstance(ids, Tensor)
                    else type(inputs).__name__
                )
            )
        return ids


def _dimension(site: nn.Module) -> int:
    for attribute in ("embedding_dim", "out_features"):
        value = getattr(site, attribute, None)
        if isinstance(value, int):
            return value
    weight = getattr(site, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 2:
        return int(weight.shape[1])
    raise ConfigurationError(
        f"the width of {type(site).__name__} is not known (no embedding_dim); perturb its output "
        "by LatentSpace instead"
    )
