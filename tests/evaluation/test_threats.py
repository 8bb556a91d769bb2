"""Several threats: one report each, and the per-example worst case over their union."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from art.attacks.evasion import DeepFool
from torch import Tensor, nn

import artplus
from artplus import ThreatReport
from artplus.attacks import PGD
from artplus.errors import CheckpointError, ConfigurationError, DataError
from tests.reports import assert_same
from tests.toys import arrays, classifier, net

THREATS = [(0.05, math.inf), (0.08, 2)]
ATTACKS = ["pgd", "fgsm"]


def subject(n: int = 200) -> tuple[nn.Module, Tensor, Tensor]:
    """Between the first two classes L2 goes further, between others L∞ does."""
    torch.manual_seed(0)
    model, x = nn.Linear(6, 3, bias=False), torch.rand(n, 6)
    sparse, dense = torch.tensor([6.0, 0, 0, 0, 0, 0]), torch.tensor([3.0, 3, -3, 3, -3, 3])
    with torch.no_grad():
        model.weight.copy_(torch.stack([sparse, 3 - sparse, dense]))
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    return model, x, y


def evaluate(**options: Any) -> Any:
    given = {"attacks": ATTACKS, "clip_values": (0.0, 1.0), "progress": False, "examples": 4}
    return artplus.evaluate(*subject(), **given | options)


@pytest.fixture(scope="module")
def found() -> ThreatReport:
    return evaluate(threats=THREATS)


def test_the_union_is_the_per_example_and(found: ThreatReport) -> None:
    """Each report is the one of its threat alone; robust is what withstands both."""
    alone = [evaluate(eps=eps, norm=norm) for eps, norm in THREATS]
    for one, two in zip(found.reports, alone, strict=True):
        assert_same(one, two)
    both = alone[0].correct_robust & alone[1].correct_robust
    assert np.array_equal(found.correct_robust, both)
    assert found.robust_accuracy == both.mean()
    assert found.robust_accuracy < min(r.robust_accuracy for r in alone)  # so neither covers both
    assert list(found.by_threat) == ["L∞ ≤ 0.05", "L2 ≤ 0.08"]
    assert found.clean_accuracy == 196 / 200 and found.n == 200
    assert found.robust_interval[0] < found.robust_accuracy < found.robust_interval[1]


def test_worst_attack_over_the_union_has_the_largest_loss(found: ThreatReport) -> None:
    """Of all attacks of all threats that fooled an example, with the prediction under it."""
    union = found.union
    losses = {result.name: result.losses for result in union.attacks}
    for i, name in enumerate(union.worst_attack):
        fooling = [r.name for r in union.attacks if not r.correct[i]]
        if not union.correct_clean[i]:
            assert name == "clean"
        elif not fooling:
            assert name == "" and union.predictions_worst[i] == union.predictions_clean[i]
        else:
            assert losses[name][i] == max(losses[each][i] for each in fooling)
            assert union.predictions_worst[i] != union.predictions_clean[i]
    assert {name.split(":")[0] for name in union.worst_attack} == {"", "clean", *found.by_threat}
    expected = np.maximum(*(report.losses_robust for report in found.reports))
    assert np.array_equal(union.losses_robust, expected)
    assert union.robust_metrics["loss"] == pytest.approx(expected.mean())


def test_words_name_every_threat(found: ThreatReport) -> None:
    """The table has a line for each, the summary a sentence, the gallery pictures of each."""
    lines = str(found).splitlines()
    assert [line.split("  ")[0] for line in (lines[2], lines[3], lines[5])] == [
        *found.by_threat, "all of them",
    ]  # fmt: skip
    assert f"{100 * found.robust_accuracy:.1f}%" in lines[5]
    for threat, report in found.by_threat.items():
        assert f"Under {threat} alone {100 * report.robust_accuracy:.1f}%" in found.summary
        assert any(name.startswith(threat) for name in found.union.examples.attack)
    assert len(found.union.examples) == 4


def test_saved_in_every_form_and_read_again(found: ThreatReport, tmp_path: Path) -> None:
    """JSON comes back whole; pages are of the union and name each threat."""
    for suffix in ("html", "md", "txt", "png", "json"):
        assert found.save(tmp_path / f"report.{suffix}").stat().st_size > 1000
    for suffix in ("html", "md", "txt"):
        text = (tmp_path / f"report.{suffix}").read_text()
        assert all(threat in text for threat in found.by_threat)
    again = ThreatReport.from_json((tmp_path / "report.json").read_text())
    assert again.to_dict() == found.to_dict()
    assert again.robust_accuracy == found.robust_accuracy
    data = json.loads(found.to_json())
    assert data["summary"]["threats"] == {t: r.robust_accuracy for t, r in found.by_threat.items()}
    with pytest.raises(ConfigurationError, match="saved as one of"):
        found.save(tmp_path / "report.doc")
    for spoiled, message in (
        ({**data, "format": "other"}, "no report on several threats.*'other'"),
        ({**data, "version": 1}, "reads version 2 of artplus.threats, got 1"),
        ({**data, "reports": []}, "holds no reports"),
    ):
        with pytest.raises(DataError, match=message):
            ThreatReport.from_dict(spoiled)


def test_verdict_is_the_worst_and_names_its_threat() -> None:
    """A suite is checked under each threat; what is found says under which."""
    found = evaluate(attacks="quick", threats=[(0.0, math.inf), (0.05, 2)], checks=True)
    verdicts = [report.verdict for report in found.reports]
    order = ["trusted", "suspicious", "broken"]
    assert found.verdict == max(verdicts, key=order.index)
    assert all(f.name.startswith(tuple(found.by_threat)) for f in found.reasons)
    assert len(found.union.checks) == sum(len(report.checks) for report in found.reports)


def test_broken_attacks_and_regression() -> None:
    """A threat of which nothing is known says so; in regression losses speak."""
    estimator = classifier(net().eval())
    x, y = arrays(20)
    options = {"attacks": [DeepFool(estimator, verbose=False, batch_size=4)], "progress": False}
    some = artplus.evaluate(estimator, x, y, threats=THREATS, **options)
    assert [r.attacks[0].eps for r in some.reports] == [0.05, 0.08]
    model, x, _ = subject()
    options = {"attacks": ["pgd"], "criterion": nn.MSELoss(), "progress": False}
    losses = artplus.evaluate(model, x, torch.rand(200, 3), threats=THREATS, **options)
    assert losses.robust_accuracy is None and losses.correct_robust is None
    assert "Under L2 ≤ 0.08 alone the mean loss is" in losses.summary
    assert losses.union.robust_loss > losses.union.clean_loss


def test_each_threat_is_saved_in_its_own_folder(tmp_path: Path) -> None:
    """What is finished is not done again, and the second threat goes on by itself."""
    first = evaluate(threats=THREATS, checkpoint=tmp_path)
    (tmp_path / "threat-2" / "attack-01.ckpt").unlink()
    again = evaluate(threats=THREATS, checkpoint=tmp_path)
    for one, two in zip(first.reports, again.reports, strict=True):
        assert_same(one, two)
    seconds = [[a.seconds for a in report.attacks] for report in (again.reports + first.reports)]
    assert seconds[0] == seconds[2] and seconds[1][1] == seconds[3][1]
    with pytest.raises(CheckpointError, match="attack pgd.eps"):
        evaluate(threats=THREATS[::-1], checkpoint=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threats": []}, r"pairs \(eps, norm\)"),
        ({"threats": 0.1}, r"pairs \(eps, norm\)"),
        ({"threats": [0.1]}, "one of them is 0.1"),
        ({"threats": [("8/255", 2)]}, "one radius is '8/255'"),
        ({"threats": [(0.1, 2), (0.1, 2.0)]}, "each of them once"),
        ({"threats": THREATS, "eps": 0.1}, "for one threat, or threats= for several"),
        ({"threats": THREATS, "attacks": {"own": PGD(eps=0.1)}}, "PGD has a radius of its own"),
        ({"threats": THREATS, "checkpoint": __file__}, "is a file"),
        ({"threats": [(0.1, 3)]}, "norm"),
    ],
)
def test_what_is_no_list_of_threats_is_refused(options: dict[str, Any], message: str) -> None:
    """Before anything runs, with the form that is expected."""
    with pytest.raises(ConfigurationError, match=message):
        evaluate(**options)


def test_reports_that_do_not_belong_together_are_refused(found: ThreatReport) -> None:
    """Other examples, the same threat twice, none at all."""
    other = artplus.evaluate(
        *subject(30), attacks="fgsm", eps=0.2, clip_values=(0.0, 1.0), progress=False
    )
    for reports, message in (
        ((), "at least one report"),
        ((found.reports[0], other), "different examples"),
        ((found.reports[0], found.reports[0]), "same threat"),
        ((found.union,), "on no single threat"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            ThreatReport(reports)
