"""Suites and named attacks: contents, what they adapt to, and what they refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from artplus.attacks import APGD, FAB, PGD, Attack, Chain, Square
from artplus.errors import ConfigurationError, UnknownNameError
from artplus.evaluation import (
    Threat,
    judge,
    list_attacks,
    list_suites,
    make_attack,
    make_suite,
    register_attack,
    register_suite,
)
from artplus.evaluation.named import attacks
from artplus.evaluation.suites import suites
from artplus.model import LossModel
from artplus.tasks import task_for

IMAGES = Threat(eps=0.1, classes=10, shape=(3, 32, 32))


def shortened(attack: Attack) -> Attack:
    """The same with a few steps or queries, since this test does not need a strong one."""
    if isinstance(attack, Chain):
        return replace(attack, first=shortened(attack.first), then=shortened(attack.then))
    key = "queries" if isinstance(attack, Square) else "steps"
    return replace(attack, **{key: min(getattr(attack, key), 12)})


@pytest.mark.parametrize("name", ["quick", "standard", "plus", "rand", "demo"])
@pytest.mark.parametrize(
    "threat",
    [
        Threat(0.1, classes=5, shape=(1, 6, 6)),
        Threat(0.5, 2.0, classes=3, shape=(1, 6, 6)),
        Threat(0.5, 2.0, classes=3, shape=(36,)),
        Threat(1.0, 1.0, classes=5, shape=(1, 6, 6)),
        Threat(0.1, classes=2, shape=(36,)),
        Threat(0.1, shape=(36,)),
    ],
)
def test_every_suite_runs_on_every_threat(name: str, threat: Threat) -> None:
    """No member of a suite is broken where the suite put it in."""
    outputs = threat.classes or 1
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, outputs))
    loss = None if threat.classes else nn.MSELoss()
    model = LossModel(module, task_for(loss))
    x = torch.rand(4, *threat.shape)
    y = model(x).argmax(1) if threat.classes else torch.rand(4)
    suite = make_suite(name, threat)
    for attack in suite.values():
        assert isinstance(attack, Attack)
        assert (attack.eps, attack.norm) == (threat.eps, threat.norm)
    short = {key: shortened(value) for key, value in suite.items()}
    report = judge(model, x, y, short, progress=False)
    assert [result.broken for result in report.attacks] == [None] * len(short)


def test_standard_suite_has_the_published_settings() -> None:
    """AutoAttack's four attacks in its order, at its numbers of steps, targets and queries."""
    suite = make_suite("standard", IMAGES)
    assert suite == {
        "apgd_ce": ensemble("ce"),
        "apgd_t": ensemble("targeted_dlr", targets=9),
        "fab_t": FAB(eps=0.1, steps=100, restarts=1, targets=9),
        "square": Square(eps=0.1, queries=5000, rescale=False),
    }
    assert list(suite) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    one = {"eps": 5.0, "norm": 1.0}
    sparse = make_suite("standard", Threat(5.0, 1.0, classes=10, shape=(3, 32, 32)))
    assert sparse == {
        "apgd_ce": ensemble("ce", restarts=5, **one),
        "apgd_t": ensemble("targeted_dlr", targets=5, **one),
        "fab_t": FAB(**one),
        "square": Square(**one, queries=5000, rescale=False),
    }


def ensemble(loss: str, **settings) -> APGD:
    """Auto-PGD with 100 steps, as AutoAttack has it in every suite."""
    return APGD(**{"eps": 0.1, "steps": 100, "until_fooled": True, "loss": loss} | settings)


def test_plus_suite_has_the_published_settings() -> None:
    """Untargeted with five restarts, then targeted, in the authors' order."""
    suite = make_suite("plus", IMAGES)
    assert suite == {
        "apgd_ce": ensemble("ce", restarts=5),
        "apgd_dlr": ensemble("dlr", restarts=5),
        "fab": FAB(eps=0.1, steps=100, restarts=5, targets=None),
        "square": Square(eps=0.1, queries=5000, rescale=False),
        "apgd_t": ensemble("targeted_dlr", targets=9),
        "fab_t": FAB(eps=0.1, steps=100, restarts=1, targets=9),
    }
    assert list(suite) == ["apgd_ce", "apgd_dlr", "fab", "square", "apgd_t", "fab_t"]
    two = make_suite("plus", Threat(0.1, classes=2))
    assert list(two) == ["apgd_ce", "apgd_margin", "fab", "square"]
    assert two["apgd_margin"] == ensemble("margin", restarts=5)


def test_rand_suite_has_the_published_settings() -> None:
    """Two attacks, one restart, gradients of twenty passes."""
    suite = make_suite("rand", IMAGES)
    assert suite == {"apgd_ce": ensemble("ce", draws=20), "apgd_dlr": ensemble("dlr", draws=20)}
    assert list(suite) == ["apgd_ce", "apgd_dlr"]
    assert make_suite("rand", Threat(0.1)) == {"apgd": APGD(eps=0.1, draws=20)}
    assert list(make_suite("rand", Threat(0.1, classes=2))) == ["apgd_ce", "apgd_margin"]


def passes(attack: Attack, forward: float = 1.0, gradient: float = 3.0) -> float:
    """Of an example that withstands, in forward passes; a gradient costs three (there and back)."""
    if isinstance(attack, Chain):
        return attack.restarts * (passes(attack.first) + passes(attack.then))
    if isinstance(attack, Square):
        return attack.queries * forward
    targets = attack.targets if isinstance(attack, FAB) or attack.loss == "targeted_dlr" else 1
    return attack.steps * targets * (gradient + forward * isinstance(attack, FAB))


def test_quick_suite_takes_at_most_a_fifth_of_the_passes_of_standard() -> None:
    """Counted from the settings; the same attacks in front, and others from where Square ends."""
    quick, standard = (make_suite(name, IMAGES) for name in ("quick", "standard"))
    assert list(quick) == ["apgd_ce", "apgd_t", "fab_t", "square_chain"]
    assert all(passes(quick[name]) <= passes(standard[name]) / 5 for name in list(quick)[:3])
    whole = [sum(passes(attack) for attack in suite.values()) for suite in (quick, standard)]
    assert whole[0] <= whole[1] / 5


def test_suites_adapt_to_the_model() -> None:
    """Two classes have no third logit, a regression no classes, L1 and L2 rows no squares."""
    assert list(make_suite("quick", Threat(0.1, classes=2))) == [
        "apgd_ce", "apgd_margin", "fab_t", "square_chain",
    ]  # fmt: skip
    rows = Threat(0.1, 2.0, classes=10, shape=(20,))
    assert list(make_suite("quick", rows)) == ["apgd_ce", "apgd_t", "fab_t"]
    assert list(make_suite("quick", Threat(0.1))) == ["apgd", "pgd"]
    assert make_suite("quick", Threat(0.1))["apgd"].loss is None
    two = make_suite("standard", Threat(0.1, classes=2))
    assert list(two) == ["apgd_ce", "apgd_margin", "fab_t", "square"]
    assert list(make_suite("standard", Threat(0.1))) == ["apgd", "pgd"]
    assert "square" not in make_suite("demo", Threat(0.1, 1.0, classes=10, shape=(20,)))
    assert "square" in make_suite("demo", Threat(0.1, 1.0, classes=10, shape=(3, 8, 8)))
    assert "square" not in make_suite("demo", Threat(0.1, 2.0, classes=10, shape=(20,)))
    assert "square" in make_suite("demo", Threat(0.1, 2.0, classes=10))
    assert list(make_suite("demo", IMAGES)) == ["fgsm", "pgd", "apgd", "square"]


def test_named_attacks_have_the_threat_and_their_papers_settings() -> None:
    """Each known name gives an attack of the asked-for ball."""
    threat = Threat(0.2, 2.0, classes=10, shape=(3, 8, 8))
    for name in list_attacks():
        attack = make_attack(name, threat)
        assert (attack.eps, attack.norm) == (0.2, 2.0)
    assert make_attack("fgsm", IMAGES) == PGD(eps=0.1, steps=1, step_size=0.1, random_start=False)
    assert make_attack("mim", IMAGES).decay == 1.0
    assert make_attack("apgd_t", IMAGES).targets == make_attack("fab_t", IMAGES).targets == 9
    assert make_attack("fab", IMAGES) == FAB(eps=0.1, targets=None, restarts=5)
    assert make_attack("bim", IMAGES).random_start is False


def test_named_attacks_refuse_what_they_cannot_attack() -> None:
    """Too few classes, regression and a norm without squares are refused when asked for by name."""
    for name, threat, message in (
        ("apgd_t", Threat(0.1, classes=2), "at least 3 classes, the model has 2"),
        ("apgd_dlr", Threat(0.1), "a regression"),
        ("square", Threat(0.1), "a regression"),
        ("fab", Threat(0.1), "'fab' needs at least 2 classes, the model has a regression"),
        ("fab_t", Threat(0.1), "a regression"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make_attack(name, threat)
    with pytest.raises(UnknownNameError, match="Did you mean 'apgd'"):
        make_attack("apdg", IMAGES)
    with pytest.raises(UnknownNameError, match="Known: demo, plus, quick, rand, standard"):
        make_suite("autoattack", IMAGES)


def test_others_can_be_registered() -> None:
    """A registered attack and suite are known by name."""
    try:

        @register_attack("one_step")
        def one_step(threat: Threat) -> Attack:
            return PGD(eps=threat.eps, steps=1)

        @register_suite("tiny")
        def tiny(threat: Threat) -> dict[str, Attack]:
            return {"one": one_step(threat)}

        assert "one_step" in list_attacks() and "tiny" in list_suites()
        assert make_suite("tiny", IMAGES) == {"one": make_attack("one_step", IMAGES)}
        with pytest.raises(ConfigurationError, match="already registered"):
            register_suite("quick")(tiny)
    finally:
        attacks._factories.pop("one_step", None)
        suites._factories.pop("tiny", None)
    assert math.isinf(IMAGES.norm)
