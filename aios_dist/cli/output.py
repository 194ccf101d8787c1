"""What commands print: tables for people, JSON for programs.

JSON: one document on stdout; ``snake_case`` names that stay; times as ISO 8601 in UTC, null where it has not
come to that; durations in seconds, their names end in ``_s``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import IO, TYPE_CHECKING, Any

from aios_dist.cli.entry import say
from aios_dist.text.lines import escaped, harmless, one_line
from aios_dist.text.masking import hide

if TYPE_CHECKING:
    from rich.console import Console

    from aios_dist.journal import JobView, ModelView

MOST_TO_COME = 5
PIPE_WIDTH = 2000
"""Columns where nobody looks: lines for grep and awk must not be cut at 80."""


def print_json(value: Any) -> None:
    """The one document of a ``--json``."""
    print(escaped(json.dumps(value, indent=2, ensure_ascii=False)))


def plain(text: str) -> str:
    """Text of others (models, agents) without what a terminal would take for a command, or show in another
    order, and no secrets."""
    return hide(harmless(text))


def error_line(text: str) -> str:
    """The same of an error, in one line, whatever its words are."""
    return hide(one_line(text))


def console(stream: IO[str] | None = None) -> Console:
    """Rich on a terminal, and as wide as need be anywhere else."""
    from rich.console import Console

    out = stream or sys.stdout
    return Console(file=out, highlight=False, markup=False, width=None if out.isatty() else PIPE_WIDTH)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table for people; ``>`` before a column's name puts it to the right.

    On a narrow terminal columns with nothing in them are left out and texts are folded; where that is not
    enough the lines are as long as they are, for no number is cut in two.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    out = console()
    shown = [[plain("" if cell is None else str(cell)) for cell in row] for row in rows]
    drawn = list(zip(columns, *shown, strict=True))
    if sum(max(map(len, column)) + 2 for column in drawn) > out.width:
        drawn = [column for column in drawn if any(column[1:])]
    for name, *cells in drawn:
        number = name.startswith(">")
        title = name.lstrip(">")
        words = [*title.split(), *cells] if number else [title]
        least = max(map(len, words), default=0)
        table.add_column(title, justify="right" if number else "left", overflow="fold", min_width=least)
    for row in zip(*(column[1:] for column in drawn), strict=True):
        table.add_row(*map(Text, row))
    if sum(int(column.min_width or 0) + 2 for column in table.columns) > out.width:
        out.width = PIPE_WIDTH
    out.print(table if shown else Text(empty, style="dim"), crop=False)


def of_most(count: float, most: float) -> str:
    """``3/10``: a count beside its limit; the count alone where there is none (0)."""
    shown = [str(n) if isinstance(n, int) else f"{n:.12g}" for n in (count, most)]
    return "/".join(shown) if most else shown[0]


def iso(at: float) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC; None where it has not come to that."""
    if not at:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """The same for people, in their own time zone."""
    if not at:
        return ""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def moment(at: float) -> str:
    """The same in a column: on a terminal, which is narrow, without the date where that is today's."""
    day, _, time = clock(at).partition(" ")
    today = sys.stdout.isatty() and day == datetime.now().astimezone().strftime("%Y-%m-%d")
    return time if today else clock(at)


def took(start: float, end: float) -> float | None:
    """Seconds between two times of the journal, None where one is missing."""
    return round(max(0.0, end - start), 6) if start and end else None


def short(seconds: float | None) -> str:
    """A duration for people."""
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.2f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def amount(money: float) -> str:
    """A sum in plain digits, six of them that say something: 0.0000608, not 6.08e-05."""
    return format(Decimal(f"{money:.6g}"), "f")


def resume_command(view: JobView) -> str:
    """What lets a paused job go on; a budget that is used up has to be raised."""
    if view.over_limit:
        more = "a larger job_limit in [fleet], workers that were started with it, and"
        return f"{more}: aios-dist job resume {view.id}"
    if view.parked:
        itself = f"by itself with code {view.parked_for}, or: " if view.parked_for else ""
        return f"{itself}aios-dist job resume {view.id} --from-step K"
    more = " --budget-tokens N (or --budget-money X)" if view.spent == "job" else ""
    return f"aios-dist job resume {view.id}{more}"


def job_record(view: JobView) -> dict[str, Any]:
    """A job as every ``--json`` shows it."""
    return {
        "id": view.id,
        "state": view.state.value,
        "agent": view.agent,
        "tenant": view.tenant,
        "plan": view.plan,
        "steps_total": view.steps,
        "steps_done": view.outcomes,
        "prompt_tokens": view.usage.prompt_tokens,
        "output_tokens": view.usage.output_tokens,
        "calls": view.usage.calls,
        "money": view.money,
        "tokens_estimated": view.estimated,
        "why": view.why if view.state == "paused" else None,
        "parked": view.parked,
        "code": view.code or None,
        "held_bytes": view.held_bytes,
        "submitted_at": iso(view.submitted_at),
        "ended_at": iso(view.ended_at),
        "took_s": took(view.submitted_at, view.ended_at),
    }


def to_come(what: Sequence[str]) -> None:
    """Say of what this aios.toml is not followed yet; nothing where there is nothing."""
    if what:
        more = f", and {len(what) - MOST_TO_COME} more" if len(what) > MOST_TO_COME else ""
        say(f"to come with the next worker of this aios.toml: {', '.join(what[:MOST_TO_COME])}{more}")


def count_of(number: int, what: str) -> str:
    """``1 step``, ``2 steps``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def steps_wait(count: int) -> str:
    """So many steps wait, in words."""
    return "1 step waits" if count == 1 else f"{count} steps wait"


def without_usage(view: ModelView) -> str:
    """How much of what a model answers says nothing of what it took, in words."""
    if view.without_usage == view.answers:
        return "reports no usage"
    return f"reports no usage in {view.without_usage} of {view.answers} answers"
