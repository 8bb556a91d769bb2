"""The suite's figures as Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tests.benchmarks.contenders import AUTHORS, AUTO, BARE, CONTENDERS, OURS, ROOFLINE
from tests.benchmarks.tasks import TASKS, WORDS

Found = dict[str, Any]


def markdown(found: Found) -> str:
    """Tables of the sections that were run, under a line about the machine."""
    where = found["machine"]
    load = ", ".join(f"{each:.1f}" for each in where["load"][:1] + where["load_after"][:1])
    lines = [
        f"{where['processor']}, {where['threads']} threads, torch {where['torch']}, load before "
        f"and after {load}. Speed of the loop by hand = 1: median of rounds in turn (quartiles)."
    ]
    for section, make in (("networks", _networks), ("roofline", _roofline), ("trades", _trades)):
        if section in found:
            lines += ["", *make(found[section])]
    for section, word in (("steps", "attack steps"), ("batch", "batch"), ("size", "image size")):
        if section in found:
            lines += ["", *_growth(found[section], word)]
    return "\n".join(lines)


def _networks(section: Found) -> list[str]:
    names = [name for name in CONTENDERS if any(name in rows for rows in section.values())]
    head = ["network", *names, "artplus over ART", "peak MiB: by hand / artplus / ART"]
    body = []
    for task, rows in section.items():
        batch = f"{_where(task)}, batch {TASKS[task].batch}"
        over = rows["ART Madry"]["seconds"]["median"] / rows[OURS]["seconds"]["median"]
        peaks = [rows[who].get("peak_mib") for who in (BARE, OURS, "ART Madry")]
        memory = " / ".join("–" if peak is None else f"{peak:.0f}" for peak in peaks)
        first = f"{rows[BARE]['seconds']['median'] * 1e3:.3g} ms"
        speeds = [_speed(rows, name) for name in names if name != BARE]
        body.append([batch, first, *speeds, f"{over:.1f}×", memory])
    return _table(head, body)


def _roofline(section: Found) -> list[str]:
    head = ["network, loop by hand", *ROOFLINE, "artplus, precision auto", "its choice"]
    return _table(
        head,
        [
            [_where(task), *(_speed(rows, name) for name in (*ROOFLINE, AUTO)),
             rows[AUTO]["choice"]]
            for task, rows in section.items()
        ],
    )  # fmt: skip


def _trades(section: Found) -> list[str]:
    head = ["TRADES-10", AUTHORS, OURS, "losses differ by"]
    return _table(
        head,
        [
            [_where(task), _first(rows),
             _speed(rows, OURS), f"{rows[OURS]['loss_difference']:.0e}"]
            for task, rows in section.items()
        ],
    )  # fmt: skip


def _growth(section: Found, word: str) -> list[str]:
    names = list(next(iter(section.values())))
    return _table(
        [f"ms a batch by {word}", *names],
        [
            [value, *(f"{rows[name]['seconds']['median'] * 1e3:.3g}" for name in names)]
            for value, rows in section.items()
        ],
    )


def _where(task: str) -> str:
    return WORDS.get(task, task)


def _speed(rows: Found, name: str) -> str:
    if name not in rows:
        return "–"
    speed = rows[name]["speed"]
    return f"{speed['median']:.2f} ({speed['low']:.2f}–{speed['high']:.2f})"


def _table(head: Iterable[str], body: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    return [_line(head), _line("---" for _ in head), *(_line(row) for row in body)]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _first(rows: Found) -> str:
    return f"{rows[AUTHORS]['seconds']['median'] * 1e3:.3g} ms"
