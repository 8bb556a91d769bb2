"""Pages, tables and pictures of reports: complete, escaped, and without the network."""

from __future__ import annotations

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from artplus import atomic
from artplus.errors import ConfigurationError, DataError
from artplus.evaluation import Examples
from artplus.evaluation.threats import ThreatReport
from artplus.reporting import bars, compare, html, json, markdown, pictures, plots, save
from artplus.training import History
from tests.reporting.samples import EVIL, examples, made


class Page(HTMLParser):
    """Collects every element, attribute and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in {"meta", "img", "br", "line", "circle", "polyline"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


PAGES = {
    "classification": lambda: html.render(made()),
    "comparison": lambda: html.render(made(), before=made(stood={"pgd": [0, 0, 0, 0]})),
    "regression": lambda: html.render(made(regression=True, shape=(5,))),
    "signal": lambda: html.render(made(shape=(1, 3000))),
    "nothing worked": lambda: html.render(made(stood={"bad": None}, examples=None)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_page_needs_no_network(kind: str) -> None:
    """No address but ``data:``, no file to load, and a policy that forbids it besides."""
    text = PAGES[kind]()
    page = Page(text)
    assert "://" not in text and "@import" not in text
    assert not set(page.tags) & {"link", "iframe", "object", "embed"}
    for name, value in page.attributes:
        if name in {"src", "href", "srcset"}:
            assert value is not None and value.startswith(("data:image/png;base64,", "#"))
    assert not re.search(r"url\(", text)
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert page.open == []


@pytest.mark.parametrize("kind", PAGES)
def test_page_escapes_what_comes_from_outside(kind: str) -> None:
    """Names of models, attacks and classes, settings, reasons and notes stay text."""
    text = PAGES[kind]()
    assert EVIL not in text and "<script>alert" not in text
    page = Page(text)
    assert page.tags.count("script") == 1
    assert any(EVIL in shown for shown in page.texts)


def test_page_shows_verdict_numbers_and_table() -> None:
    """The verdict, every attack in table and chart, the broken one's reason, and the gallery."""
    report = made()
    page = Page(html.render(report))
    text = " ".join(" ".join(page.texts).split())
    assert report.summary in text
    assert "Robust accuracy 25.0%" in text
    assert "2 of 3" in text and "Not counted." in text
    assert page.tags.count("figure") == 3 and page.tags.count("img") == 9
    assert "dog & co" in text and "change × 5" in text
    assert "a flag" in text and "none" in text.lower()
    cells = page.tags.count("td")
    assert cells == 6 * 5
    sortable = [value for name, value in page.attributes if name == "data-key"]
    assert sortable[:3] == ["pgd", "0.5", sortable[2]] and len(sortable) == 18
    widths = [v for n, v in page.attributes if n == "style" and v and v.startswith("width:25")]
    assert widths == ["width:25.00%"]


def test_comparison_page_shows_both() -> None:
    """Before, after and change of each line, and a pale bar beside each full one."""
    before = made(stood={"pgd": [0, 0, 0, 0], EVIL: [0, 1, 0, 0]})
    text = html.render(made(), before=before)
    assert "0.0% before" in text and "+50.0 pts" in text
    assert text.count('class="bar before') == 4
    assert "stand every attack only after; 0 lost" in text


def test_saving_goes_by_suffix(tmp_path: Path) -> None:
    """Each suffix gives its format; the report method and the function are the same."""
    report = made()
    for suffix, check in (
        (".html", lambda p: p.read_text("utf-8").startswith("<!doctype html>")),
        (".HTML", lambda p: p.read_text("utf-8").startswith("<!doctype html>")),
        (".json", lambda p: json.read(p).to_dict() == report.to_dict()),
        (".md", lambda p: p.read_text("utf-8").startswith("# Robustness of")),
        (".txt", lambda p: p.read_text("utf-8") == f"{report}\n"),
        (".png", lambda p: imread(p).ndim == 3),
    ):
        path = tmp_path / f"report{suffix}"
        assert report.save(str(path)) == path
        assert check(path)


def test_other_results_are_saved_by_the_same_function(tmp_path: Path) -> None:
    """A report on several threats is drawn as its worst case; a history has its own formats."""
    threats = ThreatReport(tuple(made(stood={"pgd": [1, 0, 0, 1]}, eps=eps) for eps in (0.1, 0.2)))
    page = save(threats, tmp_path / "a.html").read_text("utf-8")
    assert page == html.render(threats.union)
    assert threats.save(tmp_path / "t.txt").read_text("utf-8") == f"{threats}\n"
    back = json.read_either(threats.save(tmp_path / "t.json"))
    assert isinstance(back, ThreatReport) and back.to_dict() == threats.to_dict()
    history = History([{"epoch": 1, "loss": 2.0}])
    assert History.load(save(history, tmp_path / "h.json")).rows == history.rows
    assert imread(history.plot(tmp_path / "h.png")).std() > 0.01
    with pytest.raises(ConfigurationError, match=r"a history is saved as one of \.json, \.pdf"):
        save(history, tmp_path / "h.html")


@pytest.mark.parametrize("suffix", ["html", "json", "md", "txt", "png", "history.json", "svg"])
def test_a_full_disk_leaves_an_earlier_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """A result is written beside the earlier one and then takes its name."""
    result = History([{"epoch": 1, "loss": 0.5}]) if suffix in {"history.json", "svg"} else made()
    path = tmp_path / f"result.{suffix}"
    path.write_text("earlier")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(result, path)
    assert path.read_text() == "earlier" and list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    path.chmod(0o600)
    save(result, path)
    assert path.stat().st_size > 20 and path.stat().st_mode & 0o777 == 0o600


def test_a_result_is_written_where_a_link_points_or_into_a_pipe(tmp_path: Path) -> None:
    """As the user who put them there means it."""
    link, target, pipe = (tmp_path / name for name in ("link.txt", "target.txt", "pipe.txt"))
    link.symlink_to(target)
    save(made(), link)
    assert link.is_symlink() and target.read_text() == f"{made()}\n"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    save(made(), pipe)
    assert os.read(reader, 1 << 16).decode() == f"{made()}\n"
    os.close(reader)


def test_saving_refuses_other_suffixes(tmp_path: Path) -> None:
    """An unknown suffix lists the known ones; a comparison has fewer."""
    report = made()
    for name in ("report.pdf", "report"):
        with pytest.raises(ConfigurationError, match=r"one of \.html, \.json, \.md, \.png, \.txt"):
            report.save(tmp_path / name)
    for name in ("report.png", "report.json"):
        with pytest.raises(ConfigurationError, match="holds one report"):
            save(report, tmp_path / name, before=report)
    assert list(tmp_path.iterdir()) == []


def test_saving_a_comparison(tmp_path: Path) -> None:
    """Page, Markdown and text take a report to compare with."""
    report, before = made(), made(stood={"pgd": [0, 0, 0, 0]})
    for suffix in (".html", ".md", ".txt"):
        path = save(report, tmp_path / f"both{suffix}", before=before)
        assert "before" in path.read_text("utf-8")


def test_reading_refuses_what_is_no_report(tmp_path: Path) -> None:
    """A missing file and foreign JSON raise a DataError."""
    with pytest.raises(DataError, match="cannot read a report"):
        json.read(tmp_path / "none.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="no artplus report"):
        json.read(tmp_path / "other.json")


def test_markdown_is_a_table_that_names_cannot_break() -> None:
    """Every row has the heading's number of cells, and markup in names is escaped."""
    text = markdown.render(made(stood={"a|b": [1, 0, 0, 1], "bad": None}), before=None)
    assert "<" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = {len(re.findall(r"(?<!\\)\|", row)) for row in rows}
    assert cells == {7} and len(rows) == 6
    assert r"a\|b" in text and "does not count" in text
    both = markdown.render(made(), before=made(stood={"pgd": [0, 0, 0, 0]}))
    assert "# Before and after" in both and "counted in only one" in both


def test_comparison_pairs_examples() -> None:
    """Gains and losses are counted per example, and McNemar's p is the binomial one."""
    before = made(stood={"pgd": [1, 0, 0, 0]})
    after = made(stood={"pgd": [0, 1, 1, 1]})
    result = compare(before, after)
    test = result.worst.paired
    assert test is not None and (test.gained, test.lost) == (3, 1)
    assert test.p_value == pytest.approx(2 * (1 + 4) / 16)
    assert [line.name for line in result.lines] == ["clean", "pgd", "worst case"]
    assert [line.change for line in result.lines] == [0.0, 0.5, 0.5]
    lines = str(result).splitlines()
    assert lines[0].split() == ["accuracy", "before", "after", "change"]
    assert lines[3].split() == ["pgd", "25.0%", "75.0%", "+50.0", "pts"]
    assert "3 examples gained, 1 lost" in result.verdict
    same = compare(before, before).worst.paired
    assert same is not None and (same.gained, same.lost, same.p_value) == (0, 0, 1.0)


def test_comparison_small_p_value_is_not_zero() -> None:
    """A tiny p is said as a bound."""
    n = 40
    clean = {"n": n, "correct_clean": np.ones(n, dtype=bool), "losses_clean": np.ones(n)}
    old, new = made(stood={"a": [0] * n}, **clean), made(stood={"a": [1] * n}, **clean)
    assert "p < 0.001" in compare(old, new).verdict


def test_comparison_of_regressions_is_of_losses() -> None:
    """Losses before and after, worst case included, without pairs."""
    before = made(regression=True, stood={"pgd": [4, 4, 4, 4]})
    after = made(regression=True, stood={"pgd": [1, 1, 1, 1]})
    result = compare(before, after)
    assert [(line.before, line.after) for line in result.lines] == [
        (0.5, 0.5),
        (5.0, 2.0),
        (5.0, 2.0),
    ]
    assert result.worst.paired is None and not result.accuracy
    assert result.verdict == "Worst-case loss fell by 3, from 5 to 2; clean loss stayed at 0.5."
    assert "-3" in str(result)
    assert "5 before" in html.render(after, before=before)


def test_comparison_without_a_working_attack() -> None:
    """Where nothing worked there is nothing to compare in the worst case."""
    result = compare(made(stood={"a": None}), made(stood={"a": [1, 1, 1, 1]}))
    assert result.lines[-1].change is None and "cannot be compared" in result.verdict
    assert "–" in str(result)
    assert any("counted in only one" in note for note in result.notes)


def test_comparison_refuses_what_does_not_compare() -> None:
    """Other samples, another task."""
    report = made()
    for other, message in (
        (made(data_hash="other"), "only on the same examples"),
        (made(n=3), "only on the same examples"),
        (made(regression=True), "of a regression"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            compare(report, other)


def test_comparison_says_when_settings_differ() -> None:
    """The same name with other steps is compared, with a word."""
    first, second = made(stood={"pgd": [1, 1, 0, 0]}), made(stood={"pgd": [1, 1, 0, 0]})
    second.attacks[0].params["steps"] = 99  # type: ignore[index]
    assert compare(first, second).notes == ("Not with the same settings in both: pgd.",)


def decoded(address: str) -> Any:
    import base64
    import io

    return imread(io.BytesIO(base64.b64decode(address.split(",")[1])), format="png")[..., :3]


@pytest.mark.parametrize("shape", [(1, 8, 6), (3, 8, 6), (8, 6, 3), (8, 6)])
def test_images_are_shown_as_they_are(shape: tuple[int, ...]) -> None:
    """Original and attacked keep their values, the difference is centred on grey and enlarged."""
    x = np.random.default_rng(0).random(shape)
    x_adv = x.copy()
    x_adv.reshape(-1)[0] += 0.125
    shown = pictures.pictures(x, x_adv, 0.0, 2.0)
    original, change, attacked = (decoded(picture) for _, picture in shown.panels)
    assert shown.image and original.shape == (8, 6, 3)
    plain = np.moveaxis(x, 0, -1) if shape[0] in (1, 3) else x
    plain = np.broadcast_to(plain if plain.ndim == 3 else plain[..., None], (8, 6, 3))
    assert np.allclose(original, plain / 2, atol=1 / 255)
    assert shown.panels[1][0] == "change × 8"
    assert change[0, 0, 0] == pytest.approx(1.0) and change[5, 5, 0] == pytest.approx(0.5, abs=0.01)
    assert not np.allclose(attacked, original)


@pytest.mark.parametrize(
    ("shape", "mark"),
    [
        ((5,), "circle"),
        ((1,), "circle"),
        ((3000,), "polyline"),
        ((100,), "polyline"),
        ((2, 400), "polyline"),
        ((1, 2, 2), "circle"),
    ],
)
def test_other_inputs_are_drawn(shape: tuple[int, ...], mark: str) -> None:
    """Features as dots, signals as curves of bounded size; equal inputs do not divide by zero."""
    x = np.random.default_rng(0).standard_normal(shape)
    for x_adv in (x + 0.1, x):
        shown = pictures.pictures(x, x_adv, 0.0, 1.0)
        drawing = str(shown.panels[0][1])
        assert not shown.image and f"<{mark} " in drawing
        assert "nan" not in drawing and len(drawing) < 60_000
        points = re.findall(r"(?:c?y[12]?=\"|,)(-?[\d.]+)", drawing)
        assert all(0 <= float(point) <= 110 for point in points)


def test_value_range_is_guessed_from_the_values() -> None:
    """0 to 1, 0 to 255, else their own."""
    assert pictures.value_range(np.array([0.0, 0.4])) == (0.0, 1.0)
    assert pictures.value_range(np.array([0.0, 200.0])) == (0.0, 255.0)
    assert pictures.value_range(np.array([-1.0, 0.5])) == (-1.0, 0.5)


def test_bars_are_as_long_as_their_values() -> None:
    """Accuracies on an axis to 1, losses to the largest; broken attacks have no bar."""
    found = {bar.name: bar for bar in bars.chart(made()).bars}
    assert found["clean"].length == 100 and found["worst case"].length == 25
    assert found["bad"].length is None and found["bad"].kind == "broken"
    assert found["pgd"].low < found["pgd"].length < found["pgd"].high
    losses = {bar.name: bar for bar in bars.chart(made(regression=True)).bars}
    assert losses["worst case"].length == 100 and losses["clean"].length == pytest.approx(100 / 3.5)


@pytest.mark.parametrize("options", [{}, {"regression": True}, {"eps": 0.3}])
def test_plot_of_a_report_is_drawn(tmp_path: Path, options: dict[str, Any]) -> None:
    """Classification and regression, broken attacks and odd names make a picture with ink."""
    path = plots.report(made(model="a $x_1 model", **options), tmp_path / "report.png")
    assert imread(path)[..., :3].std() > 0.01


def test_plot_of_a_report_without_a_common_ball(tmp_path: Path) -> None:
    """Mixed radii leave the ball out of the title."""
    assert plots.report(made(norm=None), tmp_path / "report.svg").read_text().count("<path") > 5


def test_history_is_drawn(tmp_path: Path) -> None:
    """Loss and accuracies per epoch; epochs and columns may be missing."""
    rows = [
        {"epoch": 1, "loss": 2.0, "clean_accuracy": 0.3, "adversarial_accuracy": 0.1},
        {"epoch": 2, "loss": 1.0, "clean_accuracy": 0.6, "val_adversarial_accuracy": 0.2},
    ]
    for name in ("history.png", "history.svg", "history.pdf"):
        assert plots.history(rows, tmp_path / name).stat().st_size > 1000
    only_loss = plots.history([{"loss": 2.0}, {"loss": 1.0}], tmp_path / "loss.png")
    both = imread(tmp_path / "history.png")
    assert imread(only_loss).shape[1] < both.shape[1]
    with pytest.raises(DataError, match="nothing to draw"):
        plots.history([{"lr": 0.1}], tmp_path / "nothing.png")


def test_reporting_does_not_import_torch_itself() -> None:
    """No file of the package names torch: a report is plain values by then."""
    folder = Path(html.__file__).parent
    for file in folder.glob("*.py"):
        assert not re.search(r"^\s*(import|from) torch", file.read_text("utf-8"), re.MULTILINE)


def test_labels_without_names_and_of_several_outputs() -> None:
    """A class without a name is numbered; several regression outputs are listed."""
    assert "class 1" in html.render(made(class_names=None))
    shown = examples((6,), classes=False)
    several = Examples(**{**vars(shown), "y": np.array([[1.5, 2.0]] * 3)})
    assert "true [1.5 2. ]" in html.render(made(regression=True, examples=several))


def test_markdown_without_remarks() -> None:
    """Where there is nothing to remark there is no list."""
    text = markdown.render(made(stood={"quiet": [1, 1, 1, 1]}, notes=()))
    assert "\n- " not in text
