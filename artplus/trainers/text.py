"""Methods for text: perturbations of embeddings or hidden states, each with its paper's settings.

They need token ids, and a model with an embedding. ``space=`` puts most of them elsewhere.
"""

from __future__ import annotations

from typing import Literal

from artplus.attacks import PGD, Noise, PowerIteration, SMARTAttack
from artplus.attacks import fgm as fgm_attack
from artplus.losses import Weight, at, creat, mix, r3f, smart, vat
from artplus.spaces import EmbeddingSpace, LatentSpace
from artplus.trainers._base import Recipe, register_trainer
from artplus.training.callbacks import Teacher
from artplus.training.steps import TAVAT, Free, FreeLB

WORDS = EmbeddingSpace()
RELATIVE = EmbeddingSpace(relative=True)
MIYATO = 0.3
"""Miyato et al. take 5 on embeddings of 256 numbers normalised to variance one, whose rows are
about 16 long: 0.3 of a row."""


@register_trainer("fgm")
def fgm_trainer(*, eps: float = MIYATO, lam: Weight = 1.0) -> Recipe:
    """Miyato et al., 2017: clean loss plus λ times the loss one gradient step of length eps away.

    The radius is a multiple of the mean norm of the embedding's rows, for a whole sentence, in
    place of the paper's normalised embeddings.
    """
    return Recipe(objective=mix(lam=lam), attack=fgm_attack(eps, norm=2), space=RELATIVE)


@register_trainer("vat")
def vat_trainer(
    *, eps: float = MIYATO, lam: Weight = 1.0, xi: float | None = None, steps: int = 1
) -> Recipe:
    """Miyato et al., 2017: agreement around all examples, of which some may have no label (-100).

    The radius is as in ``fgm``; one power iteration, as in the paper.
    """
    attack = PowerIteration(eps=eps, xi=xi, steps=steps)
    return Recipe(objective=vat(lam=lam), attack=attack, space=RELATIVE)


@register_trainer("freeat")
def freeat_trainer(*, eps: float = 0.6, replays: int = 2, step_size: float | None = None) -> Recipe:
    """Shafahi et al., 2019, on text: every pass moves weights and perturbation.

    Defaults are those of FreeLB's authors for SST-2: radius 0.6, two replays, steps of a sixth of
    the radius. Theirs starts from noise in every batch, this one from the batch before.
    """
    step = Free(replays, eps / 6 if step_size is None else step_size)
    return Recipe(objective=at(), attack=PGD(eps=eps, norm=2), step=step, space=WORDS)


@register_trainer("freelb")
def freelb_trainer(
    *,
    eps: float = 0.6,
    steps: int = 3,
    step_size: float | None = None,
    start: float | None = None,
) -> Recipe:
    """Zhu et al., 2020: K steps of ascent whose gradients of the weights are averaged.

    Defaults from the authors' command for SST-2: a start of 0.6, which is the radius here, and
    steps of a sixth of it; two of them there, three in most of their commands.
    """
    step = FreeLB(steps, eps / 6 if step_size is None else step_size, start)
    return Recipe(objective=at(), attack=PGD(eps=eps, norm=2), step=step, space=WORDS)


@register_trainer("freelb_pp")
def freelb_pp_trainer(
    *,
    eps: float | None = None,
    steps: int = 5,
    step_size: float = 0.03,
    start: float = 0.05,
) -> Recipe:
    """Li et al., 2021: FreeLB without a radius and with more steps; their code's settings.

    ``eps`` is the radius of validation: by default the furthest that training goes.
    """
    furthest = start + (steps - 1) * step_size
    step = FreeLB(steps, step_size, start, bounded=False)
    attack = PGD(eps=furthest if eps is None else eps, norm=2)
    return Recipe(objective=at(), attack=attack, step=step, space=WORDS)


@register_trainer("smart")
def smart_trainer(
    *,
    eps: float | None = None,
    lam: Weight = 1.0,
    mu: float | None = None,
    steps: int = 1,
    step_size: float = 1e-3,
    noise: float = 1e-5,
    variant: Literal["paper", "mt-dnn"] = "paper",
) -> Recipe:
    """Jiang et al., 2020: smoothness around each example, and a teacher of averaged weights.

    The paper's settings: radius 1e-5 and ``mu`` 1. ``variant="mt-dnn"`` is the authors' code, which
    has no teacher and moves each token by about 1, the radius there.
    """
    follows_code = variant == "mt-dnn"
    eps = (1.0 if follows_code else 1e-5) if eps is None else eps
    mu = (0.0 if follows_code else 1.0) if mu is None else mu
    return Recipe(
        objective=smart(lam=lam, mu=mu, variant=variant),
        attack=SMARTAttack(eps=eps, step_size=step_size, noise=noise, steps=steps, variant=variant),
        callbacks=(Teacher(),) if mu else (),
        space=WORDS,
    )


@register_trainer("r3f")
def r3f_trainer(
    *,
    eps: float = 1e-5,
    lam: Weight = 1.0,
    distribution: Literal["uniform", "normal"] = "uniform",
) -> Recipe:
    """Aghajanyan et al., 2021: predictions agree under noise of 1e-5; no gradient is needed."""
    return Recipe(
        objective=r3f(lam=lam), attack=Noise(eps=eps, distribution=distribution), space=WORDS
    )


@register_trainer("neftune")
def neftune_trainer(*, eps: float = 5.0) -> Recipe:
    """Jain et al., 2024: the loss under noise alone; ``eps`` is their α of 5, 10 or 15.

    Divided by the length of each sentence itself; see :class:`~artplus.attacks.Noise`.
    """
    return Recipe(objective=at(), attack=Noise(eps=eps, norm=2), space=WORDS)


@register_trainer("tavat")
def tavat_trainer(
    *,
    eps: float = 0.5,
    steps: int = 2,
    step_size: float | None = None,
    start: float | None = None,
) -> Recipe:
    """Li and Qiu, 2021: FreeLB with a perturbation of each word of the vocabulary.

    Defaults from the authors' command for SST-2: radius 0.5, steps of a tenth of it and a start of
    two fifths.
    """
    step = TAVAT(
        steps, eps / 10 if step_size is None else step_size, eps * 0.4 if start is None else start
    )
    return Recipe(objective=at(), attack=PGD(eps=eps, norm=2), step=step, space=WORDS)


@register_trainer("creat")
def creat_trainer(
    *,
    eps: float = 0.1,
    lam: Weight = 1.0,
    steps: int = 1,
    temperature: float = 1.0,
    layer: str | int | None = None,
) -> Recipe:
    """Wu et al., 2023: the attack turns the hidden state of the sentence away as well.

    The authors' settings: radius 0.1 and steps of that length; their two steps take one gradient of
    the attack, which is ``steps=1`` here.
    """
    attack = PGD(eps=eps, norm=2, step_size=eps, steps=steps)
    objective = creat(lam=lam, temperature=temperature, layer=layer)
    return Recipe(objective=objective, attack=attack, space=WORDS)


@register_trainer("smaat")
def smaat_trainer(*, eps: float = 0.5, steps: int = 3, layer: str | int = -1) -> Recipe:
    """Altinisik et al., 2025: the attack perturbs the output of the last layer.

    So the backward passes of the attack end there, which makes them cheap. The radius is a multiple
    of the mean norm of a token's state, for a whole sentence; it and the number of steps are ours.
    """
    attack = PGD(eps=eps, norm=2, steps=steps)
    return Recipe(objective=at(), attack=attack, space=LatentSpace([layer], relative=True))
