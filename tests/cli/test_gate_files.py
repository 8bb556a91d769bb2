"""``artplus evaluate --junit`` and ``--card``: files for continuous integration and for hubs."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from artplus.cli import main
from artplus.commands.evaluate import evaluate
from artplus.commands.gate import cases
from artplus.errors import ConfigurationError
from artplus.evaluation import Check
from artplus.reporting import junit
from tests.cli.test_gate import folder as folder
from tests.cli.test_gate import run
from tests.reporting.samples import EVIL, made

SOUND = (Check("a", "ok", 0.0, "Fine."),)


def suite(text: str) -> ET.Element:
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    return root[0]


def outcomes(text: str) -> dict[str, str]:
    """Each case: passed, or the tag of what it holds."""
    return {
        case.attrib["name"]: case[0].tag if len(case) else "passed"
        for case in suite(text).iter("testcase")
    }


def test_each_gate_is_a_case() -> None:
    """Threshold, verdict and broken attacks; each fails for its own reason."""
    good = made(stood={"pgd": [1, 1, 0, 1]}, checks=SOUND)
    assert outcomes(junit.render(good, cases(good, 0.75))) == {
        "robust accuracy is at least 75.00%": "passed",
        "the evaluation is trusted": "passed",
        "no attack is broken": "passed",
    }
    bad = made(checks=(*SOUND, Check("b", "suspicious", 1.0, "Odd.")))
    text = junit.render(bad, cases(bad, 0.3))
    assert set(outcomes(text).values()) == {"failure"}
    found = suite(text)
    assert (found.attrib["tests"], found.attrib["failures"]) == ("3", "3")
    messages = [case[0].attrib["message"] for case in found.iter("testcase")]
    assert messages[0] == "robust accuracy 25.00% is under 30.00%"
    assert messages[1].startswith("Suspicious: 1 of 2 checks")
    assert messages[2].startswith("bad: raised ValueError")


def test_unknown_is_skipped_and_no_threshold_is_no_case() -> None:
    """Without checks the verdict is not known; without --fail-under there is nothing to reach."""
    report = made(stood={"pgd": [1, 1, 1, 1]})
    text = junit.render(report, cases(report, None))
    assert outcomes(text) == {
        "the evaluation is trusted": "skipped",
        "no attack is broken": "passed",
    }
    assert suite(text).attrib["skipped"] == "1" and suite(text).attrib["failures"] == "0"


def test_xml_holds_whatever_names_hold() -> None:
    """Markup, quotes and control characters neither break nor enter the file."""
    report = made(model=f'{EVIL} "&\x00\x1b]]>\ud800', checks=SOUND)
    text = junit.render(report, cases(report, 0.1))
    text.encode("utf-8")
    assert EVIL in suite(text)[0].attrib["classname"]
    output = suite(text).find("system-out")
    assert output is not None and output.text is not None and "worst case" in output.text


def test_files_are_written_by_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the gate is shut; the card has the name of the data."""
    options = [
        "--fail-under",
        "0.91",
        "--junit",
        "j.xml",
        "--card",
        "README.md",
        "--dataset",
        "Dots",
    ]
    assert run("net", "net.pt", "0.05", "quick", *options) == 1
    assert "is under 91.00%" in capsys.readouterr().err
    assert outcomes((folder / "j.xml").read_text("utf-8")) == {
        "robust accuracy is at least 91.00%": "failure",
        "the evaluation is trusted": "passed",
        "no attack is broken": "passed",
    }
    assert 'name: "Dots"' in (folder / "README.md").read_text("utf-8")
    assert run("net", "net.pt", "0.05", "fgsm", "--junit", "j.xml") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_wrong_names_are_refused_before_any_work(capsys: pytest.CaptureFixture[str]) -> None:
    """A suffix that the content would belie, a data set without a card."""
    for options, message in (
        ({"junit": Path("a.json")}, r"--junit writes a \.xml file, got 'a.json'"),
        ({"card": Path("a.html")}, r"--card writes a \.md file"),
        ({"dataset": "Dots"}, "--dataset is for the model card"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            evaluate(model="m:f", weights=Path("w"), data=Path("d"), eps=0.1, **options)  # type: ignore[arg-type]
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    assert "--junit" in capsys.readouterr().out
