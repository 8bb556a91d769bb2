"""Is the model smooth enough to be attacked by its gradients? Indicator 2 of attack failure."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from artplus.attacks._base import look
from artplus.evaluation.checks._base import Check
from artplus.evaluation.checks._probe import Probe
from artplus.evaluation.wording import percent
from artplus.functional import margin
from artplus.geometry import clip
from artplus.model import dtype_of
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree

DRAWS = 20
RADIUS = 8 / 255
ROUGH = 0.1
TINY = 2 / 255
HALF = 0.5


def unstable_predictions(probe: Probe) -> Check | None:
    r"""Mean relative change of the margin under noise, at most 1 [Pintor22]_; theirs, above 0.1.

    .. math:: \frac{1}{\gamma} \sum_j \frac{|l(x + \delta_j) - l(x)|}{|l(x)|}, \quad
              \delta_j \sim U[-r/2, r/2],\ r = 8/255 \text{ of the input range}

    Differs from the authors' code: 20 draws, not 100; the noise is kept in the input range; and
    each draw is cut at 1, so that an example near the boundary counts once and not a hundredfold.
    """
    width = span(probe)
    if not probe.classifies or width is None:
        return None

    def change(x: Tree, y: Tree, space: Space) -> Tensor:
        z = space.lift(probe.data.model, x)
        with torch.no_grad():
            before = margin(probe.data.model(x), y)
            scale = torch.where(before == 0, 1.0, before.abs())
            total = torch.zeros_like(before)
            for point in _noisy(x, z, space, RADIUS * width):
                after = margin(probe.data.model(space.insert(x, point)), y)
                total += ((after - before).abs() / scale).clamp_max(1.0)
        return total / DRAWS

    figure = float(probe.over(change, "unstable predictions").double().mean())
    name, text = "unstable predictions", f"Invisible noise moves the margin by {percent(figure)}."
    if figure <= ROUGH:
        return Check(name, "ok", figure, text)
    return Check(
        name,
        "suspicious",
        figure,
        f"{text} A gradient taken at one point says little about the next.",
        "Average gradients over noise around each point, and add attacks without gradients "
        "(Square with more queries).",
    )


def misleading_gradients(probe: Probe) -> Check | None:
    r"""Share of the margin's change under tiny noise that its gradient does not predict.

    .. math:: \frac{\sum_{i,j} |m(x_i + \delta_{ij}) - m(x_i) - \langle \nabla m(x_i),
              \delta_{ij} \rangle|}{\sum_{i,j} |m(x_i + \delta_{ij}) - m(x_i)|}

    It tends to zero with the noise wherever the model is smooth, kinks included, and stays near 1
    where it jumps, as k-winners-take-all and rounding do. It is infinite where the gradient
    predicts a change and there is none. The check is our own; measured on digits the share is 0.1
    for plain and hardened networks and 0.95 for k-WTA. The noise of a model in bfloat16 is four
    times as wide, as its logits are rounded by about as much as the narrower noise moves them: the
    share is then 0.3 and 1.
    """
    model, width = probe.data.model, span(probe)
    if not probe.classifies or probe.gradients is None or width is None:
        return None

    noise = RADIUS if dtype_of(model.module) == torch.bfloat16 else TINY

    def errors(x: Tree, y: Tree, space: Space) -> Tensor:
        z = space.lift(model, x)

        def margins(at: Tensor) -> Tensor:
            return margin(model(space.insert(x, at)), y)

        before, _, slope = look(lambda at: (margins(at), at), z)
        error, total = torch.zeros_like(before), torch.zeros_like(before)
        with torch.no_grad():
            for point in _noisy(x, z, space, noise * width):
                change = margins(point) - before
                predicted = (slope * (point - z)).flatten(1).sum(1)
                error += (change - predicted).abs()
                total += change.abs()
        return torch.stack([error, total], 1)

    error, total = probe.over(errors, "misleading gradients").double().sum(0).tolist()
    name = "misleading gradients"
    if total:
        share = error / total
        text = f"The gradient misses {percent(share)} of what a tiny change of the input does."
    else:
        share = math.inf if error else 0.0
        text = "A tiny change of the input changes nothing" + (
            ", although the gradient predicts that it does." if error else "."
        )
    if share <= HALF:
        return Check(name, "ok", share, text)
    return Check(
        name,
        "suspicious",
        share,
        f"{text} The model jumps, or its gradient is not its own.",
        "Put a smooth stand-in for what jumps into the backward pass, or average gradients over "
        "noise; add more queries of Square.",
    )


def _noisy(x: Tree, z: Tensor, space: Space, width: float) -> Iterator[Tensor]:
    """Points around ``z``, uniform in a cube of that width and inside the region."""
    region = space.region(x, z)
    for _ in range(DRAWS):
        noise = (torch.rand_like(z) - 0.5) * width
        yield clip(z + region.restrict(noise), region)


def span(probe: Probe) -> float | None:
    """Width of the range of valid inputs; of the examples themselves where it is unbounded.

    ``None`` in a hidden space, which has no range.
    """
    space = probe.data.space
    if not isinstance(space, InputSpace):
        return None
    z = space.lift(None, probe.data.x)
    return space.width() or float(z.max() - z.min())
