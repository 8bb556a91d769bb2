"""A report as a model card for a hub: metadata for programs, then Markdown for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from artplus.evaluation import wording
from artplus.evaluation.images import as_image
from artplus.reporting.comparability import ball, parameters
from artplus.reporting.markdown import escaped, failed_check, listed, table

if TYPE_CHECKING:
    from artplus.evaluation.report import Report

TAGS = ("adversarial-robustness", "artplus")


def render(
    report: Report,
    *,
    dataset: str | None = None,
    dataset_type: str | None = None,
    task: str | None = None,
    licence: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Markdown with the metadata of Hugging Face's model cards.

    The metadata contain ``model-index``: clean accuracy, accuracy under each attack that counts,
    and the worst case, each with its ball in the name of the metric. Broken attacks have no result
    there, and a broken evaluation only the clean one.

    Args:
        report: The report.
        dataset: What the examples are, for people; default: the hash of the data.
        dataset_type: Its identifier on the hub; default: ``"other"``.
        task: Identifier of the task on the hub; default: for images or for tables, depending on
            the report's examples.
        licence: Identifier of the model's licence; left out if ``None``.
        tags: Further tags.
    """
    name = dataset or f"examples with hash {report.data_hash}"
    head = [
        "---",
        *(() if licence is None else (f"license: {_quoted(licence)}",)),
        "tags:",
        *(f"- {_quoted(tag)}" for tag in dict.fromkeys((*TAGS, *tags))),
        "model-index:",
        f"- name: {_quoted(report.model)}",
        "  results:",
        "  - task:",
        f"      type: {_quoted(task or _task(report))}",
        "    dataset:",
        f"      name: {_quoted(name)}",
        f"      type: {_quoted(dataset_type or 'other')}",
        "    metrics:",
        *(
            line
            for kind, title, value in metrics(report)
            for line in (
                f"    - type: {kind}",
                f"      name: {_quoted(title)}",
                f"      value: {value!r}",
            )
        ),
        "---",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(_body(report, name)) + "\n"


def metrics(report: Report) -> Iterator[tuple[str, str, float]]:
    """Type, name and value of each result: shares in [0, 1], or losses in regression."""
    regression = report.clean_accuracy is None
    kind = "loss" if regression else "accuracy"
    clean = report.clean_loss if report.clean_accuracy is None else report.clean_accuracy
    yield kind, f"Clean {kind}", clean
    if report.verdict == "broken":
        return  # programs that read metadata do not read warnings
    for result in report.working:
        value = result.metrics.get("loss") if regression else result.accuracy
        if value is not None:
            yield kind, f"Robust {kind} ({result.name}, {ball(result)})", value
    worst = report.robust_loss if regression else report.robust_accuracy
    if worst is not None:
        count = wording.plural(len(report.working), "attack")
        yield kind, f"Robust {kind} (worst case of {count}, {_balls(report)})", worst


def _body(report: Report, dataset: str) -> list[str]:
    rows = wording.rows(report)
    parts = [
        f"# {escaped(report.model)}",
        f"**{escaped(wording.headline(report))}**",
        "## What the attacker may do",
        escaped(_threat(report, dataset)),
        "## Results",
        table([wording.columns(report), *((row.name, *row.cells) for row in rows)]),
        *map(escaped, wording.legend(report)),
        escaped(report.summary),
        "## Can the numbers be believed?",
        escaped(wording.trust(report))
        or "No check was made of whether the attacks worked as they should.",
    ]
    parts += map(failed_check, report.reasons)
    if report.sections:
        parts += ["## Also measured", listed(f"{s.title}: {s.summary}" for s in report.sections)]
    return [*parts, "## Limits", listed(limits(report)), "## How to reproduce it", *_again(report)]


def _threat(report: Report, dataset: str) -> str:
    return (
        f"Change each input within {_balls(report)}, in the units of the inputs, knowing the model "
        f"as far as each attack does. {wording.plural(report.n, 'example')}: {dataset}."
    )


def limits(report: Report) -> list[str]:
    """What the numbers do not say."""
    texts = [
        "Accuracy under attack is an upper bound: a stronger attack can only lower it. It is no "
        "proof.",
        f"It holds within {_balls(report)}; other perturbations were not tried, unless said above.",
        f"It was measured on {wording.plural(report.n, 'example')}; intervals say how far that may "
        "be from all inputs of their kind, and nothing of other kinds.",
    ]
    if report.broken:
        names = ", ".join(result.name for result in report.broken)
        texts.append(f"Attacks that failed and are not counted: {names}.")
    if report.verdict in ("suspicious", "broken"):
        texts.append(f"The evaluation is {report.verdict}; see the reasons above.")
    return [*texts, *report.notes]


def _again(report: Report) -> list[str]:
    settings = [
        (r.name, ball(r), ", ".join(f"{key}={value}" for key, value in parameters(r).items()))
        for r in report.attacks
    ]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [
        "With these attacks, in this order:",
        table([("attack", "ball", "settings"), *settings]),
        f"```python\n{again(report)}\n```",
        escaped(
            f"Measured {report.date or 'at an unknown time'} on {report.device} with "
            f"{versions or 'unknown versions'}; hash of the data {report.data_hash}."
        ),
    ]


def again(report: Report) -> str:
    """The call that gives the report, as Python, with comments on what it needs.

    Attacks that were passed as objects, and reports that ``artplus.evaluate`` did not make, have
    ``attacks`` as a variable; the card lists their settings.
    """
    call = {k: v for k, v in report.call.items() if v.isprintable() and "`" not in v}
    kind, clip = call.pop("estimator", None), call.get("clip_values")
    subject = "model" if kind is None else "classifier"
    needed = []
    if kind is not None:
        call.pop("clip_values", None)
        within = "" if clip is None else f" with clip_values={clip}"
        needed.append(f"# classifier: the ART {kind} of the model{within}")
    if not call:
        call = {"attacks": "attacks"}
        if report.eps is not None and report.norm is not None:
            call |= {
                "eps": repr(report.eps),
                "norm": 'float("inf")' if math.isinf(report.norm) else f"{report.norm:g}",
            }
    if call.get("attacks") == "attacks":
        needed.append("# attacks: those above, with their settings")
    for name in ("eps", "mask", "criterion", "space", "normalization", "bounds", "clip_values"):
        if call.get(name) == name:
            needed.append(f"# {name}: as it was")
    arguments = ", ".join(f"{name}={value}" for name, value in call.items())
    return "\n".join(
        [
            "import artplus",
            "",
            *needed,
            "report = artplus.evaluate(",
            f"    {subject}, x, y,",
            f"    {arguments},",
            f"    seed={report.seed}, batch_size={report.batch_size}, "
            f"only_survivors={report.only_survivors},",
            ")",
        ]
    )


def _balls(report: Report) -> str:
    """The balls of the attacks that count, or of all attacks if none does."""
    counted = report.working or report.attacks
    return ", ".join(dict.fromkeys(map(ball, counted)))


def _task(report: Report) -> str:
    kind = "regression" if report.clean_accuracy is None else "classification"
    image = report.examples is not None and as_image(report.examples.x[0]) is not None
    return f"image-{kind}" if image and kind == "classification" else f"tabular-{kind}"


def _quoted(text: str) -> str:
    """A YAML string on one line, whatever its characters."""
    written = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in written)
