"""FreeLB: the weights take the mean gradient along the ascent (Zhu et al., 2020)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from artplus import _checks
from artplus.attacks import Budget
from artplus.attacks._base import check_budget
from artplus.attacks.noise import draw
from artplus.geometry import clip, moved
from artplus.training.data import Batch
from artplus.training.state import State
from artplus.training.steps._base import Gradients, measure, move
from artplus.training.steps._passes import averaged, ball
from artplus.training.steps.standard import standard


@dataclass(frozen=True)
class FreeLB:
    r"""K steps of ascent whose gradients of the weights are averaged; one move [Zhu20]_.

    .. math:: g = \frac{1}{K} \sum_{k=0}^{K-1} \nabla_w L(x + \delta_k), \qquad
              \delta_{k+1} = \Pi_\epsilon \Bigl( \delta_k
              + \alpha \, \frac{\nabla_\delta L}{\|\nabla_\delta L\|_2} \Bigr)

    One backward pass gives both gradients, so a step costs K plain ones. Radius and norm are those
    of the method's attack, ``eps=`` and ``norm=2``; nothing else of it is used. The objective is
    ``at``, with which there is no other pass; others work and make their clean pass K times.

    The start is uniform noise of the size ``start``: :class:`~artplus.attacks.Noise` at that
    radius, whose entries are at most :math:`m / \sqrt{L H}` for a sentence of L tokens of dimension
    H. All K passes draw the same dropout masks, as the paper asks for and its code needs a changed
    model for. An example whose gradient is zero or not finite keeps its perturbation, so nothing is
    divided by zero; FreeLB's code divides by at least 1e-8, but NaN and overflow in fp16 pass.

    ``bounded=False`` is FreeLB++ [Li21]_: nothing is projected, so a perturbation may be as long as
    ``start + (steps - 1) * step_size``. The attack's radius then is that of validation alone.

    Differs from the authors' code: (1) the start is pulled into the radius too; (2) L counts the
    tokens that may change; (3) in L∞ a step follows the sign of the gradient, where theirs divides
    the gradient by its largest entry. With ``per="token"`` each token has its own radius and step.

    Args:
        steps: K, >= 1: 2 to 4 in the paper, up to 30 for FreeLB++ and 5 in its code.
        step_size: α, in the units of the radius; default half the radius. 0.03 to 0.2 in the
            authors' commands.
        start: m, in the units of the radius; default the radius, as in the paper; 0 to 0.6 in the
            authors' commands. 0 starts at ``x`` itself.
        bounded: Whether to stay within the radius.

    Raises:
        ConfigurationError: in training, for an attack other than PGD, or inside ``AWP``.

    References:
        .. [Zhu20] Zhu et al., "FreeLB: enhanced adversarial training for natural language
           understanding", ICLR 2020, https://arxiv.org/abs/1909.11764
        .. [Li21] Li et al., "Searching for an effective defender: benchmarking defense against
           adversarial word substitution", EMNLP 2021, https://arxiv.org/abs/2108.12777

    Example:
        >>> import torch, artplus
        >>> from artplus.training.steps import FreeLB
        >>> model = torch.nn.Linear(4, 3)
        >>> data = torch.rand(16, 4), torch.randint(3, (16,))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> history = artplus.fit(model, data, optimizer, loss="at", eps=0.1, norm=2,
        ...                       step=FreeLB(3), bounds=None, epochs=1, progress=False)
        >>> history["adversarial_examples"]
        [48.0]
    """

    steps: int = 3
    step_size: Budget | None = None
    start: Budget | None = None
    bounded: bool = True

    def __post_init__(self) -> None:
        _checks.count("steps", self.steps)
        for size in (self.step_size, self.start):
            if size is not None:
                check_budget(size, 2)

    def __call__(self, state: State, batch: Batch, gradients: Gradients) -> None:
        """One step; see :data:`~artplus.training.steps.Step`."""
        if not state.method.attacks(state.progress):
            standard(state, batch, gradients)
            return
        problem = ball(state, batch, "FreeLB")
        step = problem.eps / 2 if self.step_size is None else problem.resolve(self.step_size)
        start = problem.eps if self.start is None else problem.resolve(self.start)
        retract = problem.retraction() if self.bounded else partial(clip, box=problem.region)

        def ascend(z: Tensor, gradient: Tensor) -> Tensor:
            return retract(moved(z, problem.ball.steepest(gradient), step))

        z = retract(problem.z0 + draw(problem, start))
        output = averaged(state, batch, problem, z, self.steps, ascend, "FreeLB")
        move(state, gradients)
        measure(state, batch, output)
