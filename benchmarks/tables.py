"""Figures for people: a table a load, a figure a line, beside the bound that it must keep."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

Row = Mapping[str, Any]

UNITS = {"_per_s": "a second", "_ms": "ms", "_us": "µs", "_mb": "MB", "_s": "s"}
"""What a figure's name ends with, and how its unit is written."""


class Bound(NamedTuple):
    """What a figure must keep; with neither bound, nothing.

    Attributes:
        figure: its name in the rows.
        most, least: its bounds; a text names another figure of the row.
        of: only rows that have this in their load or verb. The first bound that fits a row is the row's.
    """

    figure: str
    most: float | str | None = None
    least: float | str | None = None
    of: str = ""


BROKEN = "BROKEN"
BOUNDS: Mapping[str, Sequence[Bound]] = {
    "makespan": (
        Bound("ratio_to_rounds", most=1.02, of=", 1 s"),
        Bound("ratio_to_rounds", most=1.2, of="200 x"),
        Bound("ratio_to_rounds", most=1.15),
    ),
    "slots": (
        Bound("slots_held", least=0.95),
        Bound("cpu_ms_per_step", most=3.5),
        Bound("worker_rss_mb", most=300),
    ),
    "enqueue": (
        Bound("enqueued_per_s", least=3000),
        Bound("awaited", least="jobs"),
        Bound("connections_for_waiting", most=1),
    ),
    "producers": (Bound("ratio_to_alone", most=1.15),),
    "limits": (Bound("most", most="limit"), Bound("most_by_journal", most="limit")),
    "plans": (Bound("longest_in_all_ms", of="(the same)"), Bound("longest_in_all_ms", most=5)),
    "wide": (Bound("longest_in_all_ms", of="(the same)"), Bound("longest_in_all_ms", most=5)),
    "waiting": (Bound("ratio_to_1000", most=1.2), Bound("bytes", most=1536)),
    "verbs": (
        Bound("median_us", most=5000, of="lane set"),  # a slice of what waits there
        Bound("median_us", most=5000, of="reap"),  # a page of steps, as the next
        Bound("median_us", most=5000, of="strays"),
        Bound("median_us", most=1000),
    ),
    "walk": (Bound("of_a_core_%", most=2),),
    "growth": (Bound("ratio", most=1.5),),
    "conversation": (
        Bound("redis_mb", most=1.5),
        Bound("load_ms", most=30),
        Bound("step_ms_ratio", most=1.3),
        Bound("redis_kb_ratio", most=1.3),
        Bound("redis_cpu_ms_ratio", most=1.3),
    ),
    "memory": (Bound("more_mb", most="bound_mb"),),
}
"""By part; what is not here has none and is for comparing."""


def lines(part: str, about: str, rows: Sequence[Row], width: int) -> Iterator[str]:
    """The tables of one part.

    Args:
        part: its name, for its bounds.
        about: what it measures.
        rows: as ``--json`` has them. One of a load is a table of its figures, several are a table of rows.
        width: columns, to which headings are folded; no table is wider than 80.
    """
    yield from _folded(f"{part}: {about}", width)
    for load, group in groupby(rows, key=lambda row: row.get("load", "")):
        several = list(group)
        yield ""
        yield from _folded(str(load).strip(), width)
        names = [name for name in several[0] if name != "load"]
        if len(several) == 1:
            row = several[0]
            figures = [name for name in names if row[name] is not None]
            yield from _aligned([_words(n), _cell(row[n], n), *_verdict(part, row, n)] for n in figures)
            continue
        whole = [[_cell(row[n], n) for n in names] + _verdict(part, row, *names) for row in several]
        yield from _aligned([[*map(_words, names), "", ""], *whole])


def broken(part: str, rows: Sequence[Row]) -> int:
    """How many bounds of a part are broken."""
    return sum(_verdict(part, row, name)[1] == BROKEN for row in rows for name in row)


def _verdict(part: str, row: Row, *names: str) -> list[str]:
    """The bound of the first of these figures that has one, and whether it holds; else nothing."""
    place = f"{row.get('load', '')} {row.get('verb', '')}"
    for name in names:
        bound = next((b for b in BOUNDS.get(part, ()) if b.figure == name and b.of in place), None)
        if bound is None or row[name] is None:
            continue
        for word, limit, sign in (("least", bound.least, 1), ("most", bound.most, -1)):
            if limit is not None:
                asked = float(row[limit]) if isinstance(limit, str) else limit
                holds = sign * (row[name] - asked) >= 0
                return [f"at {word} {_cell(asked, name)}", "ok" if holds else BROKEN]
    return ["", ""]


def _unit(name: str) -> str:
    return next((end for end in UNITS if name.endswith(end)), "")


def _words(name: str) -> str:
    return name.removesuffix(_unit(name)).replace("_", " ")


def _cell(value: Any, name: str) -> str:
    """A figure as people read it, with its unit."""
    if value is None:
        return "-"
    if isinstance(value, float):
        value = f"{value:.3g}" if value < 100 else f"{value:,.0f}"
    elif isinstance(value, int):
        value = f"{value:,}"
    return " ".join(filter(None, (str(value), UNITS.get(_unit(name), ""))))


def _aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Columns under each other: names, bounds and verdicts to the left, figures to the right."""
    shown = list(rows)
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    last = len(widths) - 2
    for row in shown:
        cells = [
            cell.rjust(width) if 0 < place < last else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield f"  {'  '.join(cells)}".rstrip()


def _folded(text: str, width: int) -> Iterator[str]:
    yield from textwrap.wrap(text, width, subsequent_indent="  ")
