"""Passes of ART's attacks: what is counted is what the module, or ``predict``, sees itself."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import (
    AutoProjectedGradientDescent,
    BoundaryAttack,
    CarliniL2Method,
    DeepFool,
    FastGradientMethod,
    HopSkipJump,
    ProjectedGradientDescent,
    SaliencyMapMethod,
    SquareAttack,
    UniversalPerturbation,
    ZooAttack,
)
from art.estimators.classification import BlackBoxClassifier
from art.estimators.classification.scikitlearn import ScikitlearnLogisticRegression
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import artplus
from artplus.bridge.art_attack import ArtAttack
from artplus.bridge.estimator import view
from artplus.passes import counted
from tests.toys import arrays, classifier
from tests.unit.test_passes import Spy

pytestmark = pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
N = 6

ATTACKS: dict[str, Any] = {
    "FGM": lambda c: FastGradientMethod(c, eps=0.05),
    "least FGM": lambda c: FastGradientMethod(c, eps=0.2, eps_step=0.05, minimal=True),
    "PGD": lambda c: ProjectedGradientDescent(c, eps=0.05, eps_step=0.02, max_iter=4),
    "APGD": lambda c: AutoProjectedGradientDescent(
        c, eps=0.05, eps_step=0.02, max_iter=4, nb_random_init=1, loss_type="cross_entropy"
    ),
    "DeepFool": lambda c: DeepFool(c, max_iter=3, nb_grads=3),
    "C&W": lambda c: CarliniL2Method(c, max_iter=2, binary_search_steps=1),
    "JSMA": lambda c: SaliencyMapMethod(c, theta=0.2, gamma=0.5),
    "universal": lambda c: UniversalPerturbation(c, attacker="fgsm", max_iter=1, eps=0.1),
    "Square": lambda c: SquareAttack(c, eps=0.1, max_iter=5, nb_restarts=1),
    "HopSkipJump": lambda c: HopSkipJump(c, max_iter=1, max_eval=8, init_eval=4, init_size=4),
    "Boundary": lambda c: BoundaryAttack(c, targeted=False, max_iter=2, num_trial=2),
    "ZOO": lambda c: ZooAttack(
        c, max_iter=2, binary_search_steps=1, nb_parallel=2, use_resize=False,
        use_importance=False,
    ),
}  # fmt: skip
BLACK = ("Square", "HopSkipJump", "Boundary", "ZOO")


class Whole(nn.Module):
    """A module that ART calls as it is, which it does not do with a ``Sequential``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.inside(x)


@pytest.mark.parametrize("container", [nn.Sequential, Whole])
@pytest.mark.parametrize("name", ATTACKS)
def test_passes_are_those_that_the_module_sees(name: str, container: Any) -> None:
    """Forward and backward, through ART's wrapper and the module; of a black box none backward."""
    torch.manual_seed(0)
    spy = Spy()
    estimator = classifier(container(spy, nn.Flatten(), nn.Linear(36, 3)), input_shape=(1, 6, 6))
    x, y = (torch.from_numpy(values) for values in arrays(N, (1, 6, 6)))
    attack = ArtAttack(ATTACKS[name](estimator))
    spy.seen[:] = [0, 0]
    with warnings.catch_warnings(), counted(view(estimator).model) as (model, passes):
        warnings.simplefilter("ignore")
        attack(model, x, y, generator=torch.Generator().manual_seed(0))
    assert passes.known and [passes.forwards, passes.backwards] == spy.seen
    assert passes.forwards >= N and (passes.backwards == 0) == (name in BLACK)
    assert not estimator._model._forward_hooks and not estimator.model._forward_hooks


def test_a_report_has_the_passes_of_arts_attacks() -> None:
    """Translated or not: one each way for FGM."""
    estimator = classifier()
    x, y = arrays(20)
    attacks = {
        "translated": FastGradientMethod(estimator, eps=0.05),
        "run by ART": ArtAttack(FastGradientMethod(estimator, eps=0.05)),
    }
    report = artplus.evaluate(estimator, x, y, attacks=attacks, progress=False, batch_size=8)
    for result in report.attacks:
        assert result.forwards == result.backwards == result.attacked > 0


def logistic() -> tuple[Any, Any, Any]:
    x, y = arrays(60)
    estimator = ScikitlearnLogisticRegression(LogisticRegression().fit(x, y), clip_values=(0, 1))
    return estimator, x[:10], y[:10]


def test_an_estimator_without_a_module_counts_its_answers() -> None:
    """Square by artplus and HopSkipJump by ART ask ``predict``, FGM one gradient an example."""
    estimator, x, y = logistic()
    asked, predict = [0], estimator.model.predict_proba

    def spy(values: Any) -> Any:
        asked[0] += len(values)
        return predict(values)

    estimator.model.predict_proba = spy
    x = x[artplus.evaluate(estimator, x, y, attacks=["square"], eps=0.01, progress=False)
          .correct_clean]  # fmt: skip
    y = predict(x).argmax(1)
    for attack in (
        "square",
        HopSkipJump(estimator, max_iter=1, max_eval=8, init_eval=4, init_size=4, verbose=False),
        FastGradientMethod(estimator, eps=0.05),
    ):
        asked[0] = 0
        report = artplus.evaluate(
            estimator, x, y, attacks=[attack], eps=0.05, progress=False, checks=False, batch_size=64
        )
        (result,) = report.attacks
        # The judge asks for one example, then for all without and with the attack.
        judged = 1 + 2 * len(x)
        assert result.broken is None and result.attacked == len(x)
        gradients = result.attacked if isinstance(attack, FastGradientMethod) else 0
        assert result.backwards == gradients
        assert gradients or result.forwards == asked[0] - judged
    assert "predict" not in vars(estimator)


def test_an_attack_whose_passes_do_not_show_has_no_count() -> None:
    """One that asks neither ``predict`` nor for gradients: not known, which is not zero."""

    class Guess(HopSkipJump):
        def generate(self, x: Any, y: Any = None, **_: Any) -> Any:
            return np.clip(x + 0.01, 0, 1)

    x, y = arrays(10)
    box = BlackBoxClassifier(lambda z: np.eye(3)[np.zeros(len(z), int)] + 0.1, (6,), 3,
                             clip_values=(0, 1))  # fmt: skip
    options = {"progress": False, "checks": False, "eps": 0.1}
    report = artplus.evaluate(box, x, y * 0, attacks=[Guess(box)], **options)
    assert report.attacks[0].forwards is report.attacks[0].backwards is None
    estimator = classifier()
    seen = artplus.evaluate(estimator, x, y, attacks=[Guess(estimator)], **options)
    assert seen.attacks[0].forwards is None and "fwd+bwd" not in str(seen)
