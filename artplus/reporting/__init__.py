"""Reports as pages, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artplus import atomic
from artplus.errors import ConfigurationError
from artplus.evaluation.report import Report
from artplus.evaluation.threats import ThreatReport
from artplus.reporting.comparison import Comparison as Comparison
from artplus.reporting.comparison import compare as compare

if TYPE_CHECKING:
    from artplus.training.history import History

__all__ = ["Comparison", "compare", "save", "save_card"]


def save(
    result: Report | ThreatReport | History,
    path: str | Path,
    *,
    before: Report | ThreatReport | None = None,
) -> Path:
    """Write a result in the format that the suffix names.

    Args:
        result: A report, on one threat or on several, or a training history. Pages, tables and
            pictures of several threats show the worst case over all of them.
        path: For a report it ends in ``.html`` (one page, no network), ``.md``, ``.txt`` (the
            terminal's table), ``.png`` (bars and curves) or ``.json`` (everything); for a history
            in ``.json``, ``.png``, ``.svg`` or ``.pdf``. The folder must exist.
        before: A report on the same examples, to compare with: ``.html`` and ``.md`` then show
            both side by side, ``.txt`` the comparison and then ``result``.

    Returns:
        The path.

    Raises:
        ConfigurationError: for another suffix, or if ``before`` cannot be shown or compared.
        DataError: for a picture of a history without losses and accuracies.
    """
    path = Path(path)
    if not isinstance(result, (Report, ThreatReport)):
        return _save_history(result, path)
    suffix = _suffix(path, "a report", (".html", ".json", ".md", ".png", ".txt"))
    if before is not None and suffix in {".json", ".png"}:
        raise ConfigurationError(
            f"{suffix} holds one report; save a comparison as .html, .md or .txt"
        )
    # The libraries of a format are loaded only when it is written.
    report, earlier = _worst(result), None if before is None else _worst(before)
    if suffix == ".png":
        from artplus.reporting import plots

        return plots.report(report, path)
    if suffix == ".html":
        from artplus.reporting import html

        text = html.render(report, earlier)
    elif suffix == ".md":
        from artplus.reporting import markdown

        text = markdown.render(report, earlier)
    elif suffix == ".json":
        text = result.to_json(indent=1) + "\n"
    else:
        text = f"{result}\n" if earlier is None else f"{compare(earlier, report)}\n\n{result}\n"
    return atomic.write_text(path, text)


def save_card(
    report: Report,
    path: str | Path,
    *,
    dataset: str | None = None,
    dataset_type: str | None = None,
    task: str | None = None,
    licence: str | None = None,
    tags: Sequence[str] = (),
) -> Path:
    """Write a model card for a hub: YAML metadata with the results, then Markdown.

    Args:
        report: The report.
        path: Ends in ``.md``; hubs show ``README.md``. The folder must exist.
        dataset: What the examples are, for people; default: the hash of the data.
        dataset_type: Its identifier on the hub; default: ``"other"``.
        task: Identifier of the task, such as ``"image-classification"``; default: by the examples.
        licence: Identifier of the model's licence, such as ``"mit"``; default: none is given.
        tags: Further tags.

    Returns:
        The path.

    Raises:
        ConfigurationError: for another suffix.
    """
    from artplus.reporting import card

    path = Path(path)
    _suffix(path, "a model card", (".md",))
    text = card.render(
        report, dataset=dataset, dataset_type=dataset_type, task=task, licence=licence, tags=tags
    )
    return atomic.write_text(path, text)


def _save_history(history: History, path: Path) -> Path:
    if _suffix(path, "a history", (".json", ".pdf", ".png", ".svg")) == ".json":
        return history.save(path)
    from artplus.reporting import plots

    return plots.history(history.rows, path)


def _suffix(path: Path, what: str, known: tuple[str, ...]) -> str:
    """The suffix in lower case.

    Raises:
        ConfigurationError: for one that is not known.
    """
    suffix = path.suffix.lower()
    if suffix not in known:
        wanted = known[0] if len(known) == 1 else f"one of {', '.join(known)}"
        raise ConfigurationError(f"{what} is saved as {wanted}, got {path.name!r}")
    return suffix


def _worst(report: Report | ThreatReport) -> Report:
    """The report itself, or that of the worst case over all threats."""
    return report.union if isinstance(report, ThreatReport) else report
