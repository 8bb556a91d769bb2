"""The model card: metadata that a hub can read, and everything that a reader must know."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import artplus
from artplus.attacks import PGD
from artplus.errors import ConfigurationError
from artplus.evaluation import Check
from artplus.reporting import card, save_card
from tests.reporting.samples import EVIL, made, sections


def front(text: str) -> str:
    return text.split("---\n")[1]


def test_metadata_hold_every_result_that_counts() -> None:
    """Clean, each working attack with its ball, the worst case; the broken attack gives none."""
    found = list(card.metrics(made(eps=8 / 255)))
    assert [value for _, _, value in found] == [1.0, 0.5, 0.5, 0.25]
    assert found[0] == ("accuracy", "Clean accuracy", 1.0)
    assert found[1][1] == "Robust accuracy (pgd, L∞ ≤ 8/255)"
    assert found[3][1] == "Robust accuracy (worst case of 2 attacks, L∞ ≤ 8/255)"
    losses = list(card.metrics(made(regression=True)))
    assert losses[0] == ("loss", "Clean loss", 0.5) and losses[-1][2] == 1.75
    assert [name for _, name, _ in card.metrics(made(stood={"bad": None}))] == ["Clean accuracy"]


def test_a_broken_evaluation_gives_no_robust_result() -> None:
    """A number that says nothing does not get into metadata, where no warning stands beside it."""
    report = made(checks=(Check("gradients", "broken", 1.0, "None.", "Look."),))
    assert len(list(card.metrics(report))) == 1
    text = card.render(report)
    assert "value: 0.25" not in text and "The evaluation is broken" in text
    assert "- **gradients** (broken): None. Look." in text


def test_card_says_threat_results_verdict_limits_and_how_to_repeat() -> None:
    """Every part is there, sections are told in a sentence, nothing hostile is markup."""
    text = card.render(made(sections=sections(), only_survivors=True), dataset=f"Digits {EVIL}")
    body = text.split("---\n", 2)[2]
    for heading in ("What the attacker may do", "Results", "Can the numbers be believed?",
                    "Also measured", "Limits", "How to reproduce it"):  # fmt: skip
        assert f"\n## {heading}\n" in body
    assert "<" not in body
    assert "upper bound" in body and "No check was made" in body
    assert "Attacks that failed and are not counted: bad." in body
    assert "- The curve: What the curve says" in body
    assert "seed=0, batch_size=0, only_survivors=True" in body
    assert "steps=10" in body and "abc" in body


@pytest.mark.parametrize(
    "name", ["a\nb", 'quote " and \\ slash', "☃ 😀", "\x85\u2028\x07", "- x: y"]
)
def test_metadata_are_yaml_whatever_the_names(name: str) -> None:
    """Line breaks, quotes, signs and controls come back as they were."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    text = card.render(
        made(model=name), dataset=name, dataset_type="mnist", task="image-classification",
        licence="mit", tags=(name, "artplus"),
    )  # fmt: skip
    data = yaml.safe_load(front(text))
    assert data["license"] == "mit" and data["tags"] == ["adversarial-robustness", "artplus", name]
    (entry,) = data["model-index"]
    assert entry["name"] == name
    (result,) = entry["results"]
    assert result["dataset"] == {"name": name, "type": "mnist"}
    assert result["task"] == {"type": "image-classification"}
    assert result["metrics"][-1]["value"] == 0.25 and result["metrics"][0]["type"] == "accuracy"


def test_card_is_read_by_the_hub_library() -> None:
    """Hugging Face's own parser finds the results."""
    hub = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    found = hub.ModelCard(card.render(made(), dataset="Digits")).data.eval_results
    assert [one.metric_value for one in found] == [1.0, 0.5, 0.5, 0.25]
    assert {one.dataset_name for one in found} == {"Digits"}
    assert {one.task_type for one in found} == {"image-classification"}


def test_task_is_guessed_by_the_examples() -> None:
    """Images, else tables; the user knows better."""
    assert '"image-classification"' in card.render(made())
    assert '"tabular-classification"' in card.render(made(shape=(5,)))
    assert '"tabular-regression"' in card.render(made(regression=True, shape=(5,)))
    assert '"audio-classification"' in card.render(made(), task="audio-classification")


def test_card_is_saved_as_markdown(tmp_path: Path) -> None:
    """README.md, which hubs show; another suffix is refused."""
    path = save_card(made(), tmp_path / "README.md", dataset="Digits")
    assert path.read_text("utf-8").startswith("---\n")
    with pytest.raises(ConfigurationError, match=r"saved as \.md, got 'card.html'"):
        save_card(made(), tmp_path / "card.html")


def linear() -> tuple[nn.Module, Any, Any]:
    """A model that attacks fool in part, its inputs and its own answers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    x = np.random.rand(24, 1, 6, 6).astype(np.float32)
    return model, x, model(torch.from_numpy(x)).argmax(1).numpy()


def called(report: Any, **names: Any) -> Any:
    """What the call that the card prints gives, run as it stands."""
    code = card.render(report).split("```python\n")[1].split("\n```")[0]
    space: dict[str, Any] = dict(names)
    exec(code, space)
    return space["report"]


ASKED: list[dict[str, Any]] = [
    {"attacks": "quick", "eps": 0.02},
    {"attacks": "quick", "eps": 0.3, "norm": 2, "only_survivors": False, "seed": 5},
    {"attacks": ["fgsm", "pgd"], "eps": 0.02, "batch_size": 7, "seed": 3},
    {"attacks": "pgd", "threats": [(0.02, math.inf), (0.2, 2)]},
]


@pytest.mark.filterwarnings("ignore::artplus.errors.SlowPathWarning")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("door", ["model", "classifier"])
def test_the_printed_call_gives_the_report_again(asked: dict[str, Any], door: str) -> None:
    """Run as it stands, saved and loaded or not: the same attacks and the same examples fall."""
    model, x, y = linear()
    options: dict[str, Any] = {**asked, "progress": False, "checks": False}
    if door == "classifier":
        subject: Any = artplus.wrap(model, x, y, clip_values=(0.0, 1.0), verbose=False)
    else:
        subject, options["clip_values"] = model, (0.0, 1.0)
    found = artplus.evaluate(subject, x, y, **options)
    report = found.union if isinstance(found, artplus.ThreatReport) else found
    if "threats" not in asked:
        report = artplus.Report.from_json(report.to_json())
    repeated = called(report, x=x, y=y, **{door: subject})
    repeated = repeated.union if isinstance(repeated, artplus.ThreatReport) else repeated
    assert 0 < report.robust_accuracy < 1
    assert repeated.clean_accuracy == report.clean_accuracy
    assert [r.name for r in repeated.attacks] == [r.name for r in report.attacks]
    for one, two in zip(report.attacks, repeated.attacks, strict=True):
        assert one.accuracy == two.accuracy and np.array_equal(one.correct, two.correct)
    assert repeated.only_survivors == report.only_survivors


def test_what_a_call_cannot_hold_is_asked_for() -> None:
    """Attack objects, a mask: by name, with a comment; reports of others have what is known."""
    model, x, y = linear()
    mask, attacks = np.ones((1, 6, 6), np.float32), [PGD(eps=0.02)]
    report = artplus.evaluate(model, x, y, attacks=attacks, mask=mask, progress=False)
    code = card.again(report)
    assert "# attacks: those above" in code and "# mask: as it was" in code
    again = called(report, model=model, x=x, y=y, mask=mask, attacks=attacks)
    assert again.robust_accuracy == report.robust_accuracy
    told = card.again(made())
    assert 'attacks=attacks, eps=0.1, norm=float("inf"),' in told
    hostile = card.again(made(call={"attacks": "1```<script>", "eps": "0.1\n"}))
    assert "script" not in hostile
