"""``artplus evaluate``: a model factory, its weights and test data in, a report out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import artplus
from artplus import Report, ThreatReport, atomic, distributed, reporting
from artplus.commands import files, gate
from artplus.errors import ConfigurationError
from artplus.reporting.junit import render

SUFFIXES = (".html", ".json", ".md", ".png", ".txt")
CHECKS: dict[str, bool | Literal["auto"]] = {"auto": "auto", "on": True, "off": False}


def evaluate(
    *,
    model: str,
    weights: Path,
    data: Path,
    eps: float | None = None,
    norm: float = float("inf"),
    threat: Sequence[tuple[float, float]] = (),
    attacks: str = "quick",
    batch_size: int = 128,
    clip_min: float = 0.0,
    clip_max: float = 1.0,
    seed: int = 0,
    checks: str = "auto",
    analyses: str = "",
    before: Path | None = None,
    checkpoint: Path | None = None,
    fail_under: float | None = None,
    junit: Path | None = None,
    card: Path | None = None,
    dataset: str | None = None,
    output: Sequence[Path] = (),
    overwrite: bool = False,
) -> str:
    """Attack a model; write the report, and return it as a table.

    Args:
        model: ``package.module:function``.
        weights: Its ``state_dict``.
        data: ``.npz`` with ``x`` and ``y``.
        eps: Radius, in the units of ``x``.
        norm: ``inf``, 2 or 1.
        threat: Pairs of radius and norm instead of ``eps`` and ``norm``; the worst case is then
            over all of them.
        attacks: A suite, or names of attacks separated by commas.
        batch_size: Examples at once.
        clip_min: Smallest valid value of ``x``.
        clip_max: Largest valid value of ``x``.
        seed: Of everything random.
        checks: Whether to look for signs that the attacks failed: ``"on"``, ``"off"``, or
            ``"auto"``, for suites only.
        analyses: Names of further analyses, separated by commas.
        before: ``state_dict`` of the same model before it was hardened, for analyses that compare.
        checkpoint: Folder to save the evaluation in as it goes, and to continue it from.
        fail_under: Smallest robust accuracy that passes; ``None`` lets everything pass.
        junit: ``.xml`` to write the gates to, one test case each.
        card: ``.md`` to write a model card to.
        dataset: What the examples are, for the card.
        output: Files to write, each in the format of its suffix.
        overwrite: Replace them.

    Raises:
        ConfigurationError: for arguments that cannot work.
        DataError: for files that cannot.
        GateClosed: if robust accuracy is below ``fail_under`` or unknown, or the verdict is
            broken. The files are written all the same.
        NotWritten: if a file could not be written at the end.
    """
    gate.check_threshold(fail_under)
    if (eps is None) == (not threat):
        raise ConfigurationError("give either --eps or --threat, which may be repeated")
    if checks not in CHECKS:
        raise ConfigurationError(f"checks is one of {', '.join(CHECKS)}, got {checks!r}")
    if dataset is not None and card is None:
        raise ConfigurationError("--dataset is for the model card: --card README.md")
    for path in output:
        files.output("--output", path, SUFFIXES, overwrite=overwrite)
    if junit is not None:
        files.output("--junit", junit, (".xml",), overwrite=overwrite)
    if card is not None:
        files.output("--card", card, (".md",), overwrite=overwrite)
    distributed.launched()
    names = attacks.split(",")
    analysis_names = [name for name in analyses.split(",") if name]
    if "transfer" in analysis_names and before is None:
        raise ConfigurationError(
            "--analyses transfer needs another model: --before FILE, the weights before hardening"
        )
    x, y = files.arrays(data)
    if "tokens" in analysis_names and x.ndim != 3:
        raise ConfigurationError(
            "--analyses tokens needs embeddings (n, length, features) as x, got "
            f"{x.shape}; texts need a tokenizer, in Python: "
            "artplus.evaluate(..., analyses=[Tokens(texts=[...], tokenizer=...)])"
        )
    module = files.model(model)
    files.load_weights(module, weights)
    classifier = artplus.wrap(module, x, y, clip_values=(clip_min, clip_max))
    options: dict[str, Any] = {
        "attacks": names[0] if len(names) == 1 else names,
        "batch_size": batch_size,
        "seed": seed,
        "checks": CHECKS[checks],
        "analyses": analysis_names,
        "before": None if before is None else _unhardened(model, before),
        "checkpoint": checkpoint,
    }
    result: Report | ThreatReport
    if threat:
        result = artplus.evaluate(classifier, x, y, threats=threat, **options)
        report = result.union
    else:
        result = report = artplus.evaluate(classifier, x, y, eps=eps, norm=norm, **options)
    if not distributed.is_main():
        return ""
    writers: dict[Path, Callable[[Path], object]] = dict.fromkeys(output, result.save)
    if card is not None:
        writers[card] = partial(reporting.save_card, report, dataset=dataset)
    if junit is not None:
        cases = render(report, gate.cases(report, fail_under))
        writers[junit] = partial(atomic.write_text, text=cases)
    failed = [path for path, save in writers.items() if not files.write(path, save)]
    reason = None if fail_under is None else gate.closed(report, fail_under)
    if reason is not None:
        raise gate.GateClosed(str(result), reason)
    if failed:
        raise files.NotWritten(str(result), failed)
    return str(result)


def _unhardened(model: str, weights: Path) -> Any:
    """A second module of the same factory, with the weights before hardening."""
    module = files.model(model)
    files.load_weights(module, weights)
    return module
