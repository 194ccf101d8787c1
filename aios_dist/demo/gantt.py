"""A Gantt chart in the terminal: one row a slot, one letter and colour an agent; legible without colour."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.text import Text

COLOURS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7", "#9c755f",
    "#8cd17d", "#499894", "#d37295", "#a0cbe8", "#ffbe7d", "#86bcb6", "#d4a6c8", "#f1ce63", "#fabfd2",
    "#d7b5a6", "#bab0ac",
)  # fmt: skip
"""Tableau's twenty: far enough apart to tell neighbours, light enough for black letters on them."""


@dataclass(frozen=True)
class Bar:
    """A piece of work: whose it was, which of theirs, where and when it ran (seconds on one clock)."""

    agent: str
    number: int
    place: str
    start: float
    end: float
    text: str = ""

    @property
    def label(self) -> str:
        """``A1``: the agent and which of its calls; or what it is said to be."""
        return self.text or f"{self.agent}{self.number}"


def slots(bars: Iterable[Bar]) -> list[list[Bar]]:
    """Bars of one place on as few rows as hold them without overlap: the slots that were in use."""
    rows: list[list[Bar]] = []
    for bar in sorted(bars, key=lambda bar: (bar.start, bar.end)):
        row = next((row for row in rows if row[-1].end <= bar.start), None)
        if row is None:
            rows.append(row := [])
        row.append(bar)
    return rows


def chart(
    bars: Sequence[Bar],
    places: Sequence[tuple[str, int]],
    *,
    width: int,
    colour: bool,
    start: float,
    end: float,
) -> list[Text]:
    """The chart's lines.

    Args:
        bars: the work.
        places: every worker with its number of slots, in the order of the rows; also rows without work.
        width: columns for all of it.
        colour: colours may be used; each bar has its letters all the same.
        start, end: the time that the chart spans, on the clock of the bars.
    """
    shades = dict(zip(sorted({bar.agent for bar in bars}), itertools.cycle(COLOURS)))
    by_place: defaultdict[str, list[Bar]] = defaultdict(list)
    for bar in bars:
        by_place[bar.place].append(bar)
    margin = max(cell_len(name) for name, _ in places) + 3
    columns = max(20, width - margin - 1)
    lines = []
    for name, count in places:
        rows = slots(by_place[name])
        for number in range(max(count, len(rows))):
            row = rows[number] if number < len(rows) else []
            line = Text(f"{name if number == 0 else '':>{margin - 2}} │")
            lines.append(line.append_text(_row(row, columns, start, end, shades if colour else None)))
    return [*lines, _axis(margin, columns, end - start)]


def _row(bars: Sequence[Bar], columns: int, start: float, end: float, shades: dict[str, str] | None) -> Text:
    """One slot. A bar begins and ends at the nearest column, and has at least one."""
    scale = columns / max(end - start, 1e-9)
    line = Text()
    at = 0
    for place, bar in enumerate(bars):
        left = max(at, min(columns - 1, round((bar.start - start) * scale)))
        right = max(left + 1, min(columns, round((bar.end - start) * scale)))
        following = bars[place + 1] if place + 1 < len(bars) else None
        if following is not None:  # what comes after must find a column too
            right = max(left + 1, min(right, round((following.start - start) * scale)))
        if left >= columns:
            break
        line.append("·" * (left - at), style="dim")
        size = right - left
        text = bar.label if len(bar.label) <= size else bar.agent[:size]
        if shades is None:
            line.append(text + "━" * (size - len(text)))
        else:
            line.append(text.ljust(size), style=f"black on {shades[bar.agent]}")
        at = right
    return line.append("·" * (columns - at), style="dim")


def _axis(margin: int, columns: int, span: float) -> Text:
    """Seconds below the chart, at round numbers with room between them."""
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 300, 1e9) if s * columns >= 9 * span)
    marks = [" "] * columns
    for number in range(int(span / step) + 1):
        label = f"{number * step:.1f} s" if step < 1 else f"{number * step:g} s"
        at = round(number * step / max(span, 1e-9) * columns)
        if at + len(label) <= columns:
            marks[at : at + len(label)] = label
    return Text(" " * margin + "".join(marks).rstrip(), style="dim")
