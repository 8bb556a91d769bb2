"""A penalty on the input gradient, by double backpropagation (Drucker and LeCun, 1991)."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from artplus.errors import ConfigurationError
from artplus.losses._base import Context, Objective, Terms, Weight, register_loss


@register_loss("input_gradient")
def input_gradient(*, lam: Weight = 0.1, norm: float = 2, squared: bool = False) -> Objective:
    r"""Clean loss plus λ times the norm of its gradient in the input; needs no attack [Ross18]_.

    .. math:: l(f(x), y) + \lambda \, \|\nabla_x l(f(x), y)\|_q

    To first order the loss rises by :math:`\epsilon \|\nabla_x l\|_q` inside a ball of radius ε in
    the dual norm: ``norm=1`` belongs to L∞, 2 to L2, so λ = ε is the linearised worst case.

    Differs from [Ross18]_: the norm is not squared unless ``squared``, and averaged over the
    batch. Their code takes half the squared L2 norm of the gradient of the batch mean, so their
    weight w at batch size B is ``lam = w / (2 * B)`` here with ``squared=True``. BatchNorm: running
    statistics follow the one clean pass, whose batch statistics tie examples together. Torch's
    ``scaled_dot_product_attention`` is computed by its unfused implementation, which alone has a
    second derivative.

    Args:
        lam: Weight of the penalty, >= 0. 0.1 is ours: the linearised worst case at ε = 0.1. With
            ``squared``, the authors' scripts span 0.2 to 195 (w from 1e2 to 1e5 at B = 256).
        norm: 1, 2 or ``torch.inf``: the norm q of the gradient.
        squared: Use :math:`\|\cdot\|_q^2`.

    References:
        .. [Ross18] Ross and Doshi-Velez, "Improving the adversarial robustness and
           interpretability of deep neural networks by regularizing their input gradients",
           AAAI 2018, https://arxiv.org/abs/1711.09404
    """
    if norm not in (1, 2, torch.inf):
        raise ConfigurationError(f"norm must be 1, 2 or inf, got {norm!r}")
    power = 2 if squared else 1

    def terms(ctx: Context) -> Terms:
        z = ctx.space.lift(ctx.model, ctx.x).requires_grad_(True)
        with sdpa_kernel(SDPBackend.MATH):
            clean = ctx.model(ctx.space.insert(ctx.x, z))
        losses = ctx.loss(clean)
        (slope,) = torch.autograd.grad(losses.sum(), z, create_graph=True)
        size = torch.linalg.vector_norm(slope.flatten(1), ord=norm, dim=1)
        return Terms(fixed=losses, scaled=size**power, clean=clean)

    return Objective("input_gradient", terms, lam=lam, attacked=False, second_order=True)
