"""Odd arguments at every main door: refused clearly or taken, never a raw traceback."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.benchmarks.fuzz import CLEAR, DOORS, FINE, RAW, SILENT, fuzz


@pytest.mark.parametrize("door", DOORS)
def test_what_the_fuzz_begins_with_works(door):
    """Else every odd argument would be refused for another reason."""
    trial = DOORS[door]()
    trial.call(**trial.arguments)


def test_no_raw_traceback_and_nothing_silently_wrong(tmp_path, monkeypatch):
    """A few hundred of the calls of ``python -m tests.benchmarks.fuzz --calls 5000``."""
    monkeypatch.chdir(tmp_path)
    endings = fuzz(600, seed=0)
    wrong = [str(ending) for ending in endings if ending.kind in (RAW, SILENT)]
    assert not wrong, "\n".join(wrong)
    counts = Counter(ending.kind for ending in endings)
    assert counts[FINE] > 20 and counts[CLEAR] > 300
