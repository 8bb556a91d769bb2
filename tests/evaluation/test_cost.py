"""What attacks cost in a report: counted without the judge, kept, and shown wherever time is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from artplus.attacks import PGD, Square, fgm
from artplus.evaluation import MinimumNorm, Report, attack_run, judge, wording
from artplus.evaluation.report import Report as Whole
from artplus.evaluation.threats import ThreatReport
from artplus.model import LossModel
from artplus.reporting import card, html, markdown
from artplus.tasks import task_for
from tests.evaluation.test_resumed_evaluation import run

N, K = 20, 5


class Stops:
    """Raises in its second batch."""

    eps, norm = 0.1, math.inf

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: LossModel, x: Tensor, y: Tensor, **_: Any) -> Tensor:
        self.calls += 1
        if self.calls > 1:
            raise ValueError("cannot")
        model(x)
        return x + 0.01

    def with_eps(self, scale: float) -> Stops:
        return self


def report(**more: Any) -> Report:
    torch.manual_seed(0)
    model, x = LossModel(nn.Linear(6, 3)), torch.rand(N, 6)
    attacks = {"pgd": PGD(eps=0.01, steps=K), "square": Square(eps=0.01, queries=10), **more}
    with torch.no_grad():
        y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    return judge(model, x, y, attacks, batch_size=6, progress=False)


def test_a_report_counts_the_attacks_own_passes() -> None:
    """K each way for each example that is right without an attack; none of the judge's."""
    pgd, square = report().attacks
    assert pgd.attacked == N - 4
    assert pgd.forwards == pgd.backwards == K * pgd.attacked
    assert pgd.attacked < square.forwards <= 10 * pgd.attacked and square.backwards == 0


def test_a_minimum_norm_attack_counts_what_is_inside() -> None:
    """The judge's radius around it costs nothing."""
    found = report(near=MinimumNorm(fgm(0.1), 0.05)).attacks[2]
    assert found.forwards == found.backwards == found.attacked


def test_only_survivors_pay() -> None:
    """What an attack did not run on cost nothing."""
    torch.manual_seed(0)
    model, x = LossModel(nn.Linear(6, 3)), torch.rand(N, 6)
    with torch.no_grad():
        y = model(x).argmax(1)
    attacks = {"one": PGD(eps=0.2, steps=K), "two": PGD(eps=0.2, steps=K)}
    one, two = judge(model, x, y, attacks, progress=False, only_survivors=True).attacks
    assert two.attacked < one.attacked == N
    assert (one.forwards, two.forwards) == (K * N, K * two.attacked)


def test_passes_add_up_over_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in every third batch and continued: the counts of one life."""
    alone, craft, lives = run(None), attack_run._craft, 0
    while True:
        calls = [0]

        def third(*arguments: Any, calls: list[int] = calls) -> Tensor:
            calls[0] += 1
            if calls[0] == 3:
                raise KeyboardInterrupt
            return craft(*arguments)

        monkeypatch.setattr(attack_run, "_craft", third)
        try:
            found = run(tmp_path)
        except KeyboardInterrupt:
            lives += 1
            continue
        break
    assert lives > 3
    for one, two in zip(found.attacks, alone.attacks, strict=True):
        assert one.forwards == two.forwards is not None
        assert one.backwards == two.backwards is not None
    assert {r.name: r.forwards for r in alone.attacks}["pgd"] == 3 * alone.attacks[0].attacked


def test_files_keep_the_passes_and_older_ones_have_none() -> None:
    """A version is for what an old reader would get wrong, and it ignores what it does not know."""
    made = report()
    data = json.loads(made.to_json())
    for one, two in zip(made.attacks, Report.from_json(json.dumps(data)).attacks, strict=True):
        assert (one.forwards, one.backwards) == (two.forwards, two.backwards)
    for attack in data["attacks"]:
        del attack["forwards"], attack["backwards"]
    old = Whole.from_dict(data)
    assert old.attacks[0].forwards is None and old.attacks[0].backwards is None
    for shown in (str(old), markdown.render(old), card.render(old), html.render(old)):
        assert wording.PASSES not in shown


def cells(lines: list[str], name: str) -> list[str]:
    line = next(line for line in lines if line.startswith((name, f"| {name}")))
    return line.replace("|", " ").split()


def test_every_table_shows_the_passes_of_an_example() -> None:
    """Forward and backward beside the time; all attacks together in the last line."""
    made = report()
    square = wording.passes(made.attacks[1].forwards, 0, made.attacks[1].attacked)
    total = sum(result.forwards or 0 for result in made.attacks)
    everything = wording.passes(total, K * (N - 4), N - 4)
    for shown in (str(made), markdown.render(made), card.render(made)):
        lines = shown.splitlines()
        joined = " ".join(map(str.strip, lines))
        assert "fwd+bwd" in cells(lines, "attack") and "without the judge's" in joined
        assert f"{K}+{K}" in cells(lines, "pgd") and square in cells(lines, "square")
        assert everything in cells(lines, "worst case")
    page = html.render(made)
    assert "fwd+bwd</button>" in page and f'<td data-key="{2.0 * K}">{K}+{K}</td>' in page
    assert f"<td>{everything}</td>" in page


def test_a_broken_attack_shows_no_passes_but_counts_them() -> None:
    """It ended before all were attacked, so a mean over them would be wrong; the total is not."""
    made = report(stops=Stops())
    stops = made.attacks[2]
    assert stops.broken and stops.forwards == 6 and stops.backwards == 0
    assert cells(str(made).splitlines(), "stops")[-3] == wording.NONE
    assert 'data-key=""' in html.render(made)


def test_the_union_of_threats_adds_the_passes_up() -> None:
    """Each threat's attacks, for each example that was attacked."""
    both = [report(), judge(*subject(), {"pgd": PGD(eps=0.02, steps=K)}, progress=False)]
    one = ThreatReport((both[1],)).union
    assert cells(str(one).splitlines(), "worst case")[-3] == f"{K}+{K}"


def subject() -> tuple[LossModel, Tensor, Tensor]:
    torch.manual_seed(0)
    model, x = LossModel(nn.Linear(6, 3)), torch.rand(N, 6)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize(
    ("forwards", "backwards", "examples", "text"),
    [(2100, 2000, 100, "21+20"), (500_000, 0, 100, "5,000+0"), (150, 40, 100, "1.5+0.4"),
     (12_345, 1, 100, "123+0.0"), (None, None, 5, "–"), (0, 0, 0, "–"), (0, 0, 3, "0+0")],
)  # fmt: skip
def test_passes_read_as_people_write_them(
    forwards: int | None, backwards: int | None, examples: int, text: str
) -> None:
    """Whole where they are, one decimal below a hundred; no examples, no mean."""
    assert wording.passes(forwards, backwards, examples) == text


def test_accuracies_that_are_cumulative_are_said_to_be() -> None:
    """Beside every table; not where each attack saw all, and never in regression: there all stand.

    A single attack has none before it.
    """
    words = "Accuracies are cumulative"
    torch.manual_seed(0)
    x, several = torch.rand(8, 4), {"a": PGD(eps=0.01), "b": PGD(eps=0.01)}
    net = LossModel(nn.Linear(4, 3))
    y = net(x).argmax(1)
    shown = [(several, True), (several, False), ({"a": PGD(eps=0.01)}, True)]
    for attacks, survivors in shown:
        made = judge(net, x, y, attacks, progress=False, only_survivors=survivors)
        for text in (str(made), markdown.render(made), card.render(made), html.render(made)):
            assert (words in text) == (survivors and len(attacks) > 1)
    line = LossModel(nn.Linear(4, 1), task_for(nn.MSELoss()))
    made = judge(line, x, torch.rand(8, 1), several, progress=False, only_survivors=True)
    assert not made.only_survivors and {result.attacked for result in made.attacks} == {8}
    assert words not in str(made) and "<dd>every example</dd>" in html.render(made)
