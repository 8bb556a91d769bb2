"""A report as plain values and back, under a schema with a version."""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from artplus.errors import ConfigurationError, DataError
from artplus.evaluation.finding import Finding
from artplus.evaluation.names import Names
from artplus.evaluation.result import Array, AttackResult, Examples
from artplus.evaluation.section_schema import (
    decode_array,
    decode_section,
    encode_array,
    encode_section,
)

if TYPE_CHECKING:
    from artplus.evaluation.report import Report

FORMAT = "artplus.report"
VERSION = 1
"""Raised when a reader of the old version would go wrong; new fields alone do not raise it."""

_SCALARS = (
    "n", "seed", "batch_size", "only_survivors", "model", "device", "date", "data_hash",
)  # fmt: skip


def encode(report: Report) -> dict[str, Any]:
    """The report as dicts, lists, strings, numbers and booleans, fit for strict JSON.

    Per-example values are lists, so that other tools can read them; the pictures are base64 of
    little-endian float32. Infinity and NaN, which JSON lacks, are the strings ``"inf"``,
    ``"-inf"`` and ``"nan"``. ``summary`` repeats what follows from the rest, for readers without
    artplus; :func:`decode` ignores it. There ``verdict`` is the result in a sentence, and ``trust``
    is :attr:`Report.verdict`.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "summary": {
            "clean_accuracy": report.clean_accuracy,
            "clean_interval": _listed(report.clean_interval),
            "robust_accuracy": report.robust_accuracy,
            "robust_interval": _listed(report.robust_interval),
            "verdict": report.summary,
            "trust": report.verdict,
        },
        **{name: getattr(report, name) for name in _SCALARS},
        "eps": _number(report.eps),
        "norm": _number(report.norm),
        "versions": dict(report.versions),
        "notes": list(report.notes),
        "findings": [_encode_finding(finding) for finding in report.findings],
        "class_names": _listed(report.class_names),
        "clean_metrics": _numbers(report.clean_metrics),
        "robust_metrics": _numbers(report.robust_metrics),
        "correct_clean": _booleans(report.correct_clean),
        "losses_clean": _floats(report.losses_clean),
        "worst_attack": list(report.worst_attack),
        "predictions_clean": _whole(report.predictions_clean),
        "predictions_worst": _whole(report.predictions_worst),
        "attacks": [_encode_attack(result) for result in report.attacks],
        "examples": None if report.examples is None else _encode_examples(report.examples),
        "sections": [encode_section(section) for section in report.sections],
        "call": dict(report.call),
    }


def parse(content: str) -> Mapping[str, Any]:
    """The plain values in a JSON text.

    Raises:
        DataError: if it is not JSON.
    """
    try:
        data = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"a report must be JSON as Report.to_json writes it: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"a report must be a JSON object, got {type(data).__name__}")
    return data


def decode(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the report that :func:`encode` made into ``data``.

    Raises:
        DataError: if ``data`` is no report, incomplete, or of a version not known here.
    """
    if data.get("format") != FORMAT:
        raise DataError(
            f"this is no artplus report: format must be {FORMAT!r}, got {data.get('format')!r}"
        )
    if data.get("version") != VERSION:
        raise DataError(
            f"this artplus reads version {VERSION} of {FORMAT}, got {data.get('version')!r}; "
            "a newer artplus may read it"
        )
    try:
        return {
            **{name: data[name] for name in _SCALARS},
            "eps": _float(data["eps"]),
            "norm": _float(data["norm"]),
            "versions": data["versions"],
            "notes": tuple(data["notes"]),
            # Reports from before there were checks have no findings.
            "findings": tuple(_decode_finding(found) for found in data.get("findings", ())),
            "class_names": None if data["class_names"] is None else tuple(data["class_names"]),
            "clean_metrics": _metrics(data["clean_metrics"]),
            "robust_metrics": _metrics(data["robust_metrics"]),
            "correct_clean": _booleans_from(data["correct_clean"]),
            "losses_clean": _losses(data["losses_clean"], data["n"]),
            "worst_attack": Names.of(data["worst_attack"]),
            # Reports of before had neither predictions nor sections.
            "predictions_clean": _whole_from(data.get("predictions_clean")),
            "predictions_worst": _whole_from(data.get("predictions_worst")),
            "sections": tuple(decode_section(section) for section in data.get("sections", ())),
            "call": {str(key): str(value) for key, value in data.get("call", {}).items()},
            "attacks": tuple(_decode_attack(result) for result in data["attacks"]),
            "examples": None if data["examples"] is None else _decode_examples(data["examples"]),
        }
    except (
        ConfigurationError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        binascii.Error,
    ) as error:
        raise DataError(
            f"this report is damaged or incomplete: {type(error).__name__}: {error}"
        ) from error


def _encode_finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.name,
        "verdict": finding.verdict,
        "figure": _number(finding.figure),
        "explanation": finding.explanation,
        "remedy": finding.remedy,
    }


def _decode_finding(data: Mapping[str, Any]) -> Finding:
    return Finding(
        data["name"], data["verdict"], _float(data["figure"]), data["explanation"], data["remedy"]
    )


def _encode_attack(result: AttackResult) -> dict[str, Any]:
    return {
        "name": result.name,
        "norm": _number(result.norm),
        "eps": _number(result.eps),
        "params": {
            key: _number(value) if isinstance(value, float) else value
            for key, value in result.params.items()
        },
        "accuracy": result.accuracy,
        "interval": _listed(result.interval),
        "attacked": result.attacked,
        "correct": _booleans(result.correct),
        "losses": _floats(result.losses),
        "metrics": _numbers(result.metrics),
        "changed": result.changed,
        "max_norm": _number(result.max_norm),
        "mean_norm": _number(result.mean_norm),
        "eps_violations": result.eps_violations,
        "clip_violations": result.clip_violations,
        "seconds": result.seconds,
        "forwards": result.forwards,
        "backwards": result.backwards,
        "flags": list(result.flags),
        "broken": result.broken,
        "fooled": _booleans(result.fooled),
    }


def _decode_attack(data: Mapping[str, Any]) -> AttackResult:
    plain = ("name", "params", "attacked", "changed", "eps_violations", "clip_violations",
             "seconds", "broken")  # fmt: skip
    return AttackResult(
        **{name: data[name] for name in plain},
        norm=float(data["norm"]),
        eps=float(data["eps"]),
        correct=_booleans_from(data["correct"]),
        losses=_floats_from(data["losses"]),
        metrics=_metrics(data["metrics"]),
        max_norm=_float(data["max_norm"]),
        mean_norm=_float(data["mean_norm"]),
        forwards=_count(data.get("forwards")),  # reports of before had neither
        backwards=_count(data.get("backwards")),
        flags=tuple(data["flags"]),
        fooled=_booleans_from(data.get("fooled")),  # reports of before had none
    )


def _encode_examples(examples: Examples) -> dict[str, Any]:
    return {
        "index": examples.index.tolist(),
        "x": encode_array(examples.x),
        "x_adv": encode_array(examples.x_adv),
        "y": _labels(examples.y),
        "clean": _labels(examples.clean),
        "adversarial": _labels(examples.adversarial),
        "attack": list(examples.attack),
    }


def _decode_examples(data: Mapping[str, Any]) -> Examples:
    return Examples(
        index=np.asarray(data["index"], dtype=np.int64),
        x=decode_array(data["x"]),
        x_adv=decode_array(data["x_adv"]),
        y=_labels_from(data["y"]),
        clean=_labels_from(data["clean"]),
        adversarial=_labels_from(data["adversarial"]),
        attack=tuple(data["attack"]),
    )


def _labels(values: Array) -> dict[str, Any]:
    """Class numbers as whole numbers, regression targets as floats: the kind is kept."""
    whole = np.issubdtype(values.dtype, np.integer)
    if whole:
        return {"shape": list(values.shape), "classes": values.ravel().tolist()}
    return {"shape": list(values.shape), "values": _floats(values.ravel())}


def _labels_from(data: Mapping[str, Any]) -> Array:
    if "classes" in data:
        return np.asarray(data["classes"], dtype=np.int64).reshape(data["shape"])
    return np.asarray([float(v) for v in data["values"]]).reshape(data["shape"])


def _number(value: float | None) -> float | str | None:
    """A number that JSON can hold, or its name."""
    return value if value is None or math.isfinite(value) else str(float(value))


def _numbers(values: Mapping[str, float]) -> dict[str, float | str | None]:
    return {key: _number(value) for key, value in values.items()}


def _float(value: float | str | None) -> float | None:
    return None if value is None else float(value)


def _count(value: int | None) -> int | None:
    return None if value is None else int(value)


def _metrics(values: Mapping[str, float | str]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


def _listed(values: tuple[Any, ...] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _booleans(values: Array | None) -> list[int] | None:
    return None if values is None else values.astype(int).tolist()


def _booleans_from(values: list[int] | None) -> Array | None:
    return None if values is None else np.asarray(values, dtype=bool)


def _whole(values: Array | None) -> list[int] | None:
    return None if values is None else values.astype(int).tolist()


def _whole_from(values: list[int] | None) -> Array | None:
    return None if values is None else np.asarray(values, dtype=np.int64)


def _floats(values: Array | None) -> list[float | str | None] | None:
    return None if values is None else [_number(float(value)) for value in values]


def _losses(values: list[float | str], n: int) -> Array:
    if len(values) != n:
        raise ValueError(f"n is {n}, but losses_clean holds {len(values)} values")
    return np.asarray([float(value) for value in values], dtype=np.float64)


def _floats_from(values: list[float | str] | None) -> Array | None:
    return None if values is None else np.asarray([float(v) for v in values], dtype=np.float64)
