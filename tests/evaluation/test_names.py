"""Names held as codes behave as the tuple of strings that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from artplus.evaluation.names import Names, code_type

WORDS = st.lists(st.sampled_from(["", "clean", "pgd", "square", "fab"]), max_size=30)


@given(words=WORDS, other=WORDS)
def test_it_is_the_sequence(words: list[str], other: list[str]) -> None:
    """Items, slices, length, counts, membership and comparisons are those of the list."""
    names = Names.of(words)
    assert list(names) == words and len(names) == len(words)
    assert names == words and names == tuple(words) and names == Names.of(words)
    assert (names == other) == (words == other) == (names == Names.of(other))
    assert list(names[1:4]) == words[1:4] and list(reversed(names)) == words[::-1]
    for word in ("", "pgd", "absent"):
        assert names.count(word) == words.count(word) and (word in names) == (word in words)
    if words:
        assert names[-1] == words[-1] and names[0] == words[0]
    assert Names.of(names) is names and names != "pgd" and names != 3


def test_a_byte_each_while_a_byte_is_enough() -> None:
    """The smallest unsigned type that tells the names apart."""
    assert [code_type(k).itemsize for k in (0, 1, 2, 256, 257, 65537)] == [1, 1, 1, 1, 2, 4]
    assert Names(np.zeros(1000, np.int64), ("a", "b")).codes.nbytes == 1000


def test_it_shows_the_first_and_has_no_hash() -> None:
    """A million of them do not fill the screen."""
    assert repr(Names.of(["a"] * 6)) == "Names(6: 'a', 'a', 'a', 'a', 'a', …)"
    assert repr(Names.of(["a"])) == "Names(1: 'a')"
    with pytest.raises(TypeError, match="unhashable"):
        hash(Names.of(["a"]))
