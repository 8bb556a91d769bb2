"""A sequence of strings with few different values, which takes a byte or two for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class Names(Sequence[str]):
    """A read-only sequence of strings with few different values, which compares like a tuple.

    Args:
        codes: ``(n,)`` whole numbers, positions in ``names``.
        names: The different strings.

    Example:
        >>> names = Names(np.array([0, 2, 2]), ("", "clean", "pgd"))
        >>> list(names), names == ("", "pgd", "pgd")
        (['', 'pgd', 'pgd'], True)
    """

    def __init__(self, codes: NDArray[Any], names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.codes: NDArray[Any] = codes.astype(code_type(len(self.names)), copy=False)

    @staticmethod
    def of(values: Sequence[str]) -> Names:
        """Any sequence of strings."""
        if isinstance(values, Names):
            return values
        known = {name: code for code, name in enumerate(dict.fromkeys(values))}
        codes = np.fromiter((known[value] for value in values), np.int64, len(values))
        return Names(codes, tuple(known))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...

    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return Names(self.codes[i], self.names)
        return self.names[int(self.codes[i])]

    def __iter__(self) -> Iterator[str]:
        return (self.names[code] for code in self.codes)

    def count(self, value: Any) -> int:
        """How many are ``value``."""
        return sum(
            int((self.codes == k).sum()) for k, name in enumerate(self.names) if name == value
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Names) and self.names == other.names:
            return np.array_equal(self.codes, other.codes)
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self[:5])) + (", …" if len(self) > 5 else "")
        return f"Names({len(self)}: {shown})"


def code_type(kinds: int) -> np.dtype[Any]:
    """The smallest unsigned type with so many values."""
    return np.min_scalar_type(max(0, kinds - 1))
