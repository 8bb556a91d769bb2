"""Reports as plain JSON values and back, guided by the types of their dataclasses.

A dataclass is an object of its fields, and in a union of dataclasses it says its ``"kind"``. A
tuple is an array; pairs of a name and a value are an object, as a mapping is. Infinity and NaN,
which JSON lacks, are the strings ``"inf"``, ``"-inf"`` and ``"nan"``; where text may stand too,
``{"float": "inf"}``. Arrays are lists of numbers, booleans in them 0 and 1, so that other tools can
read them; arrays of float32 (pictures) are their shape and base64 of little-endian bytes.

A file may come from anywhere. Decoding checks every type and reads no deeper than the types go. It
ignores unknown fields, and a field that has a default may be missing.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from artplus import saving
from artplus.errors import ArtplusError, DataError

T = TypeVar("T")
D = TypeVar("D", bound="Document")


def encode(value: Any) -> Any:
    """A dataclass as dicts, lists, strings, numbers and booleans, fit for strict JSON."""
    return _encode(value, type(value))


def decode(kind: type[T], data: Any) -> T:
    """The dataclass of type ``kind`` that :func:`encode` made into ``data``.

    Raises:
        DataError: if ``data`` does not fit the type.
    """
    try:
        value: T = _decode(data, kind)
        return value
    except (ArtplusError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"this report is damaged or incomplete: {type(error).__name__}: {error}"
        ) from error


def parse(content: str) -> Mapping[str, Any]:
    """The plain values in a JSON text.

    Raises:
        DataError: if it is not JSON, or no object.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"a report must be JSON as Report.to_json writes it: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"a report must be a JSON object, got {type(data).__name__}")
    return data


def check_header(data: Mapping[str, Any], form: str, version: int, what: str) -> None:
    """Refuse another format or version.

    Raises:
        DataError: with what was expected and what came.
    """
    header = data if isinstance(data, Mapping) else {}
    if header.get("format") != form:
        raise DataError(f"this is no {what}: format must be {form!r}, got {header.get('format')!r}")
    if header.get("version") != version:
        raise DataError(
            f"this artplus reads version {version} of {form}, got {header.get('version')!r}; the "
            "version of artplus that wrote it can read it"
        )


class Document:
    """What a report of either kind shares: strict JSON, and files in every format."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values only, versioned; :meth:`from_dict` is its inverse."""
        raise NotImplementedError

    @classmethod
    def from_dict(cls: type[D], data: Mapping[str, Any]) -> D:
        """The report that :meth:`to_dict` wrote.

        Raises:
            DataError: if ``data`` is no report, damaged, or of another version.
        """
        raise NotImplementedError

    def to_json(self, *, indent: int | None = None) -> str:
        """:meth:`to_dict` as strict JSON."""
        return json.dumps(self.to_dict(), allow_nan=False, indent=indent)

    @classmethod
    def from_json(cls: type[D], content: str) -> D:
        """The report that :meth:`to_json` wrote.

        Raises:
            DataError: if ``content`` is no report.
        """
        return cls.from_dict(parse(content))

    def save(self, path: str | Path) -> Path:
        """Write a page, a table, a picture or the raw numbers, by the suffix of ``path``.

        Args:
            path: Ends in ``.html``, ``.md``, ``.txt``, ``.png`` or ``.json``.

        Returns:
            The path, as a :class:`~pathlib.Path`.

        Raises:
            ConfigurationError: for another suffix.
        """
        return saving.save(self, path)


def _encode(value: Any, kind: Any) -> Any:
    options, args = _options(kind), get_args(kind)
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        return _encode_array(value, options[0])
    if is_dataclass(value):
        cls: Any = type(value)
        members = {name: _encode(getattr(value, name), hint) for name, hint in _hints(cls).items()}
        return members if len(options) == 1 else {"kind": _tag(cls), **members}
    if isinstance(value, Mapping) or _is_pairs(kind):
        item = get_args(args[0])[1] if _is_pairs(kind) else args[1]
        return {name: _encode(entry, item) for name, entry in dict(value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        kinds = args if _is_fixed(kind) else args[:1] * len(value)
        return [_encode(entry, item) for entry, item in zip(value, kinds, strict=True)]
    if isinstance(value, np.generic):
        value = value.item()
    if options == (float,):
        return _number(value)
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": _number(value)}
    return value


def _decode(data: Any, kind: Any) -> Any:
    options = _options(kind)
    if data is None and NoneType in get_args(kind):
        return None
    if len(options) > 1 and is_dataclass(options[0]):
        kind = _chosen(options, _expect(data, Mapping, "an object"))
    else:
        kind = options[0] if len(options) == 1 else Any
    origin, args = get_origin(kind) or kind, get_args(kind)
    if is_dataclass(kind):
        return _decode_fields(_expect(data, Mapping, "an object"), kind)
    if origin is np.ndarray:
        return _decode_array(data, kind)
    if origin is Mapping or _is_pairs(kind):
        _expect(data, Mapping, "an object")
        item = get_args(args[0])[1] if _is_pairs(kind) else args[1]
        entries = {name: _decode(entry, item) for name, entry in data.items()}
        return entries if origin is Mapping else tuple(entries.items())
    if origin in (tuple, Sequence):
        _expect(data, list, "an array")
        kinds = args if _is_fixed(kind) else args[:1] * len(data)
        return tuple(_decode(entry, item) for entry, item in zip(data, kinds, strict=True))
    if origin is Literal:
        if data not in args:
            raise TypeError(f"expected one of {', '.join(args)}, got {str(data)[:40]!r}")
        return data
    if kind is float:
        return _from_number(data)
    if kind is not Any:
        return _expect(data, kind, kind.__name__)
    if isinstance(data, Mapping):
        return _from_number(data["float"])
    return _expect(data, (str, bool, int, float, NoneType), "text or a number")


def _decode_fields(data: Mapping[str, Any], kind: Any) -> Any:
    needed = {e.name for e in fields(kind) if e.default is e.default_factory is MISSING}
    hints = {name: hint for name, hint in _hints(kind).items() if name in data or name in needed}
    return kind(**{name: _decode(data[name], hint) for name, hint in hints.items()})


def _options(kind: Any) -> tuple[Any, ...]:
    """The types that a value may have, ``None`` aside."""
    if get_origin(kind) in (Union, UnionType):
        return tuple(option for option in get_args(kind) if option is not NoneType)
    return (kind,)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {entry.name: hints[entry.name] for entry in fields(kind)}


def _is_pairs(kind: Any) -> bool:
    """``tuple[tuple[str, ...], ...]``: values by name."""
    inner = get_args(kind)[:1] if get_origin(kind) is tuple else ()
    return bool(inner) and get_origin(inner[0]) is tuple and get_args(inner[0])[0] is str


def _is_fixed(kind: Any) -> bool:
    """A tuple of as many values as the type names."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is not Ellipsis


def _tag(kind: type) -> str:
    return kind.__name__.lower()


def _chosen(options: tuple[Any, ...], data: Mapping[str, Any]) -> Any:
    known = {_tag(option): option for option in options}
    if data["kind"] not in known:
        raise DataError(
            f"unknown kind of block {data['kind']!r}; this artplus knows {', '.join(known)}. A "
            "newer one may read it."
        )
    return known[data["kind"]]


def _encode_array(values: Any, kind: Any) -> Any:
    if _scalar(kind) is np.float32:
        raw = base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")
        return {"shape": list(values.shape), "float32": raw}
    if values.dtype == bool:
        values = values.astype(int)
    finite = np.isfinite(values).all()
    return (values if finite else np.vectorize(_number, otypes=[object])(values)).tolist()


def _decode_array(data: Any, kind: Any) -> Any:
    scalar = _scalar(kind)
    if scalar is np.float32:
        raw = base64.b64decode(data["float32"], validate=True)
        return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(data["shape"])
    values = np.asarray(_expect(data, list, "an array"))
    if values.dtype.kind == "U":  # some are "inf" or "nan"
        values = values.astype(np.float64)
    into = {np.bool_: bool, np.integer: np.int64, np.floating: np.float64}.get(scalar)
    allowed = "biu" if into in (bool, np.int64) and values.size else "biuf"
    if values.dtype.kind not in allowed or (into is not None and values.ndim != 1):
        raise TypeError(f"expected an array of numbers, got {str(data)[:40]!r}")
    return values if into is None else values.astype(into)


def _scalar(kind: Any) -> Any:
    """The scalar type of an array type."""
    (scalar,) = get_args(get_args(kind)[1])
    return get_origin(scalar) or scalar


def _number(value: Any) -> float | str:
    return float(value) if math.isfinite(value) else str(float(value))


def _from_number(data: Any) -> float:
    if isinstance(data, bool) or not (isinstance(data, (int, float)) or data in _NAMES):
        raise TypeError(f"expected a number, got {str(data)[:40]!r}")
    return float(data)


_NAMES = ("inf", "-inf", "nan")


def _expect(data: Any, kind: Any, what: str) -> Any:
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise TypeError(f"expected {what}, got {str(data)[:40]!r}")
    return data
