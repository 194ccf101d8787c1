"""The experiment in the terminal: a table and Gantt charts for each load, and fleet beside simulator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from aios_dist.demo.gantt import chart
from benchmarks.experiment.observed import OWN_WORK
from benchmarks.experiment.results import COMPARED, TOLERANCE, Result, Results, Spread
from benchmarks.experiment.scenarios import QUESTIONS

Show = Callable[[float], str]


def _seconds(value: float) -> str:
    return f"{value:.2f}"


def _share(value: float) -> str:
    return f"{value:.0%}"


COLUMNS: dict[str, dict[str, tuple[str, Show]]] = {
    "io": {
        "makespan_s": ("makespan s", _seconds),
        "to_bound": ("x bound", _seconds),
        "slot_use": ("slot use", _share),
        "shared_replies": ("replies shared", _share),
        "shared_own": ("own work shared", _share),
        "turnaround_mean_s": ("mean turnaround s", _seconds),
    },
    "slow": {
        "makespan_s": ("makespan s", _seconds),
        "turnaround_mean_s": ("mean turnaround s", _seconds),
        "delay_others_s": ("delay of the others s", _seconds),
        "wait_max_s": ("longest wait s", _seconds),
        "jain": ("Jain", _seconds),
    },
    "many": {
        "makespan_s": ("makespan s", _seconds),
        "turnaround_p50_s": ("turnaround P50 s", _seconds),
        "turnaround_p95_s": ("P95 s", _seconds),
        "wait_mean_s": ("mean wait s", _seconds),
        "wait_p95_s": ("P95 s", _seconds),
        "wait_max_s": ("longest s", _seconds),
        "jain": ("Jain", _seconds),
        "under_way": ("under way", lambda value: f"{value:.1f}"),
    },
}
"""By question: which figures its tables have, what heads them, and how they are written."""

LEGEND = """\
x bound: makespan / max(work / slots, longest agent). Shared: of that time, the share in which another agent's
call ran. Turnaround: from the submission to an agent's end. Delay: what of it is not its own calls and work.
Wait: of a call for its slot (an agent's first call waits from the submission). Jain: fairness of the agents'
slowdowns, 1 is equal. Under way: agents begun and not ended, at a time. Medians, ± the farthest run."""


def show(out: Console, found: Results) -> None:
    """Everything."""
    asked = ""
    for plans in found.values():
        scenario = plans[0].scenario
        if scenario.question != asked:
            asked = scenario.question
            out.print(Text(f"\n{QUESTIONS[asked]}", style="bold"))
        out.print(f"\n{scenario.title} (bound {scenario.bound_s:.2f} s)")
        out.print(_table(plans))
        for result in plans:
            _charts(out, result)
    out.print(Text(f"\n{LEGEND}", style="dim"))
    out.print(Text("\nFleet beside simulator", style="bold"))
    out.print(_beside(found))


def _table(plans: Sequence[Result]) -> Table:
    columns = COLUMNS[plans[0].scenario.question]
    table = Table("plan", box=None, pad_edge=False)
    for heading, _ in columns.values():
        table.add_column(heading, justify="right")
    for result in plans:
        fleet = result.fleet()
        table.add_row(result.plan, *(spread(fleet[name], how) for name, (_, how) in columns.items()))
    return table


def spread(seen: Spread, how: Show = _seconds) -> str:
    """``2.17 ±0.02``: the median and the run that is farthest from it, where that can be seen."""
    farthest = how(max(seen.high - seen.median, seen.median - seen.low))
    return f"{how(seen.median)} ±{farthest}" if farthest != how(0.0) else how(seen.median)


def _charts(out: Console, result: Result) -> None:
    run = result.typical
    places = [(f"worker {number}", 0) for number in range(1, len(run.workers) + 1)]
    names = dict(zip(run.workers, (name for name, _ in places), strict=True))
    bars = [call.bar(names[call.worker]) for call in run.calls]
    if len(result.scenario.jobs) <= 3:  # more of them would be as many rows again
        bars += [own.bar(OWN_WORK, "work") for own in run.own]
        places += [(OWN_WORK, 0)] * bool(run.own)
    colour = out.is_terminal and not out.no_color and out.color_system is not None
    out.print(Text(f"  {result.plan}", style="bold magenta"))
    for line in chart(bars, places, width=out.width - 2, colour=colour, start=0.0, end=run.makespan_s):
        out.print(Text("  ").append_text(line), no_wrap=True, crop=True)


def _beside(found: Results) -> Table:
    table = Table("load", "plan", box=None, pad_edge=False)
    for name in COMPARED:
        table.add_column(name.removesuffix("_s").replace("_", " "), justify="right")
        table.add_column("simulated", justify="right")
        table.add_column("apart", justify="right")
    for load, plans in found.items():
        for result in plans:
            fleet, expected, apart = result.fleet(), result.expected(), result.differences()
            cells: list[str | Text] = []
            for name in COMPARED:
                style = "" if abs(apart[name]) <= TOLERANCE else "bold red"
                cells += [
                    spread(fleet[name]),
                    _seconds(expected[name]),
                    Text(f"{apart[name]:+.1%}", style=style),
                ]
            table.add_row(load, result.plan, *cells)
    return table
