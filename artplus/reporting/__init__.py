"""Reports as pages, tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from artplus.errors import ConfigurationError
from artplus.reporting.comparison import Comparison as Comparison
from artplus.reporting.comparison import compare as compare

if TYPE_CHECKING:
    from artplus.evaluation.report import Report

__all__ = ["Comparison", "compare", "save", "save_card"]

_SUFFIXES = (".html", ".json", ".md", ".png", ".txt")


def save(report: Report, path: str | Path, *, before: Report | None = None) -> Path:
    """Write a report in the format that the suffix names.

    Args:
        report: The report.
        path: Ends in ``.html`` (a page of its own, no network), ``.md``, ``.txt`` (the terminal's
            table), ``.png`` (bars) or ``.json`` (everything). The folder must exist.
        before: A report on the same examples: ``.html`` and ``.md`` then show both side by side,
            ``.txt`` what changed and then ``report``.

    Returns:
        The path.

    Raises:
        ConfigurationError: for another suffix, or if ``before`` cannot be shown or compared.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConfigurationError(
            f"a report is saved as one of {', '.join(_SUFFIXES)}, got {path.name!r}"
        )
    if before is not None and suffix in {".png", ".json"}:
        raise ConfigurationError(
            f"{suffix} holds one report; save a comparison as .html, .md or .txt"
        )
    # Each format's libraries are loaded only when it is written.
    if suffix == ".png":
        from artplus.reporting import plots

        return plots.report(report, path)
    if suffix == ".html":
        from artplus.reporting import html

        text = html.render(report, before)
    elif suffix == ".md":
        from artplus.reporting import markdown

        text = markdown.render(report, before)
    elif suffix == ".json":
        from artplus.reporting import json

        text = json.render(report)
    else:
        text = f"{report}\n" if before is None else f"{compare(before, report)}\n\n{report}\n"
    path.write_text(text, encoding="utf-8")
    return path


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
        dataset: What the examples are, for people.
        dataset_type: Its identifier on the hub; default: ``"other"``.
        task: Identifier of the task, such as ``"image-classification"``; default: by the examples.
        licence: Identifier of the model's licence, such as ``"mit"``.
        tags: Further tags.

    Returns:
        The path.

    Raises:
        ConfigurationError: for another suffix.
    """
    path = Path(path)
    if path.suffix.lower() != ".md":
        raise ConfigurationError(f"a model card is saved as .md, got {path.name!r}")
    from artplus.reporting import card

    text = card.render(
        report, dataset=dataset, dataset_type=dataset_type, task=task, licence=licence, tags=tags
    )
    path.write_text(text, encoding="utf-8")
    return path
