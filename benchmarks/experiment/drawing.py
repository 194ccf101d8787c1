"""The experiment's pictures, as PNG: a Gantt chart for each load, bars for each question, the agreement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no window, no display

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.experiment.observed import OWN_WORK, Call, Observed
from benchmarks.experiment.results import COMPARED, TOLERANCE, Result, Results
from benchmarks.experiment.scenarios import QUESTIONS, SLOW

OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00")
"""Told apart by colour-blind people too (Okabe and Ito, 2008)."""
PLAN_COLOURS = {"fifo": "#0072B2", "fixed": "#D55E00", "hybrid": "#009E73", "agent-first": "#CC79A7"}
WAITING = "#DDDDDD"
STYLE: Any = {
    "figure.dpi": 100,
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
CUT = 2.5
"""A panel ends where the others do when its own makespan is so many times theirs."""


def draw(found: Results, folder: Path) -> list[Path]:
    """All pictures of these results; gives the files."""
    made = []
    with mpl.rc_context(STYLE):
        for name, plans in found.items():
            made.append(_save(_gantt(plans), folder / f"gantt-{name}.png"))
        for question in QUESTIONS:
            loads = [plans for plans in found.values() if plans[0].scenario.question == question]
            if loads:
                made.append(_save(BARS[question](loads), folder / f"bars-{question}.png"))
        made.append(_save(_agreement(found), folder / "agreement.png"))
    return made


def _save(figure: Figure, path: Path) -> Path:
    # Without the library's version in it, the same picture is the same file.
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return path


# Gantt charts ----------------------------------------------------------------------------------------------


def _gantt(plans: Sequence[Result]) -> Figure:
    """A panel a plan, all on one scale. Rows are slots where their use is asked for, agents elsewhere."""
    scenario = plans[0].scenario
    by_slot = scenario.question == "io"
    rows = scenario.slots if by_slot else len(scenario.jobs)
    ends = sorted(result.typical.makespan_s for result in plans)
    limit = ends[-1] if ends[-1] <= CUT * ends[-2] else ends[-2]
    colours = _colours([job.name for job in scenario.jobs])
    figure, panels = plt.subplots(
        len(plans),
        1,
        sharex=True,
        figsize=(9, 1.2 + len(plans) * (0.45 + 0.12 * max(rows, 5))),
        layout="constrained",
    )
    for axes, result in zip(panels, plans, strict=True):
        run = result.typical
        if by_slot:
            _by_slot(axes, run, colours, scenario.slots)
        else:
            _by_agent(axes, run, colours)
        cut = f", cut off at {limit:.1f} s" if run.makespan_s > limit * 1.001 else ""
        axes.set_title(f"{result.plan}: {run.makespan_s:.2f} s{cut}")
        axes.set_xlim(0, limit * 1.01)
        axes.axvline(scenario.bound_s, color="black", linestyle=":", linewidth=1)
    panels[-1].set_xlabel("seconds since the plan was submitted (dotted: the bound)")
    figure.suptitle(scenario.title)
    return figure


def _colours(names: Sequence[str]) -> dict[str, str]:
    if len(names) <= len(OKABE_ITO):
        return dict(zip(names, OKABE_ITO, strict=False))
    shades = plt.get_cmap("cividis")
    return {name: mpl.colors.to_hex(shades(n / (len(names) - 1))) for n, name in enumerate(names)}


def _by_agent(axes: Axes, run: Observed, colours: dict[str, str]) -> None:
    """A row an agent: grey while a call waits for its slot, coloured while it runs."""
    names = list(colours)
    for call in run.calls:
        row = names.index(call.agent)
        axes.barh(row, call.start - call.since, left=call.since, height=0.35, color=WAITING)
        _bar(axes, row, call, colours[call.agent])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_ylabel("agent")


def _by_slot(axes: Axes, run: Observed, colours: dict[str, str], slots: int) -> None:
    """A row a slot, also those that nobody used, coloured by the agent; below them, agents' own work."""
    numbers = {(call.agent, call.start): call for call in run.calls}
    for row, bars in enumerate(run.rows()):
        for bar in bars:
            _bar(axes, row, numbers[bar.agent, bar.start], colours[bar.agent], f"{bar.agent}{bar.number}")
    names = [f"{row + 1}" for row in range(slots)]
    if run.own and len(colours) <= len(OKABE_ITO):  # where its agents can be told apart
        for own in run.own:
            axes.barh(
                slots,
                own.end - own.start,
                left=own.start,
                height=0.35,
                color=colours[own.agent],
                alpha=0.5,
            )
        names.append(OWN_WORK)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_ylabel("slot")


def _bar(axes: Axes, row: int, call: Call, colour: str, text: str = "") -> None:
    """A call; its letters are left out where it is too short for them or ends behind the panel."""
    axes.barh(
        row,
        call.end - call.start,
        left=call.start,
        height=0.85,
        color=colour,
        edgecolor="white",
        linewidth=0.5,
    )
    if text:
        red, green, blue = mpl.colors.to_rgb(colour)
        ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
        middle = (call.start + call.end) / 2
        axes.text(middle, row, text, color=ink, fontsize=6.5, ha="center", va="center", clip_on=True)


# Bars ------------------------------------------------------------------------------------------------------


def _panel(axes: Axes, loads: Sequence[Sequence[Result]], figure: str, title: str, unit: str) -> None:
    """One figure: a group a load, a bar a plan, the runs' spread as a whisker."""
    width = 0.8 / len(loads[0])
    for group, plans in enumerate(loads):
        for place, result in enumerate(plans):
            scale = 100.0 if unit == "%" else 1.0
            middle, low, high = (scale * value for value in result.fleet()[figure])
            at = group - 0.4 + (place + 0.5) * width
            label = result.plan if group == 0 else None
            axes.bar(at, middle, width * 0.92, color=PLAN_COLOURS[result.plan], label=label)
            spread = [[middle - low], [high - middle]]
            axes.errorbar(at, middle, yerr=spread, color="black", capsize=2, linewidth=0.8)
            axes.annotate(
                f"{middle:.3g}", (at, high), (0, 2), textcoords="offset points", ha="center", size=7
            )
    axes.set_xticks(range(len(loads)), [_slots(plans) for plans in loads])
    axes.set_title(title)
    axes.set_ylabel(unit)
    axes.margins(y=0.12)


def _slots(plans: Sequence[Result]) -> str:
    scenario = plans[0].scenario
    return f"{len(scenario.jobs)} agents, {scenario.slots} slot{'s' * (scenario.slots > 1)}"


def _panels(loads: Sequence[Sequence[Result]], what: Sequence[tuple[str, str, str]], columns: int) -> Figure:
    lines = -(-len(what) // columns)
    figure, panels = plt.subplots(
        lines, columns, figsize=(3.3 * columns, 2.6 * lines + 0.7), layout="constrained"
    )
    for axes, (name, title, unit) in zip(panels.flat, what, strict=True):
        _panel(axes, loads, name, title, unit)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(QUESTIONS[loads[0][0].scenario.question])
    return figure


def _io(loads: Sequence[Sequence[Result]]) -> Figure:
    what = [
        ("to_bound", "Makespan", "times the bound"),
        ("slot_use", "Slot use", "%"),
        ("shared_replies", "Of the waiting for replies, used by others", "%"),
        ("shared_own", "Of agents' own work, used by others", "%"),
    ]
    return _panels(loads, what, 2)


def _many(loads: Sequence[Sequence[Result]]) -> Figure:
    what = [
        ("turnaround_p50_s", "Turnaround, P50", "seconds"),
        ("turnaround_p95_s", "Turnaround, P95", "seconds"),
        ("wait_max_s", "Longest wait for a slot", "seconds"),
        ("makespan_s", "Makespan", "seconds"),
        ("jain", "Fairness (Jain's index)", "1 is equal"),
        ("under_way", "Agents under way at a time", "agents"),
    ]
    return _panels(loads, what, 3)


def _slow(loads: Sequence[Sequence[Result]]) -> Figure:
    """Each agent's turnaround: the delays add up from left to right."""
    figure, panels = plt.subplots(
        1, len(loads), figsize=(4.8 * len(loads), 3.4), sharey=True, layout="constrained", squeeze=False
    )
    for axes, plans in zip(panels.flat, loads, strict=True):
        names = [job.name for job in plans[0].scenario.jobs]
        width = 0.8 / len(plans)
        for place, result in enumerate(plans):
            turnarounds = result.typical.turnarounds()
            at = [n - 0.4 + (place + 0.5) * width for n in range(len(names))]
            heights = [turnarounds[name] for name in names]
            axes.bar(at, heights, width * 0.92, color=PLAN_COLOURS[result.plan], label=result.plan)
        for n, job in enumerate(plans[0].scenario.jobs):
            label = "alone" if n == 0 else None
            axes.hlines(job.alone, n - 0.42, n + 0.42, color="black", linewidth=1.2, label=label)
        axes.set_xticks(range(len(names)), [f"{name} (slow)" if name == SLOW else name for name in names])
        axes.set_title(_slots(plans))
        axes.set_xlabel("agent, in the order of the plan")
    panels.flat[0].set_ylabel("turnaround in seconds")
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    figure.suptitle(QUESTIONS["slow"])
    return figure


BARS: dict[str, Callable[[Sequence[Sequence[Result]]], Figure]] = {"io": _io, "slow": _slow, "many": _many}


# Fleet and simulator ---------------------------------------------------------------------------------------


def _agreement(found: Results) -> Figure:
    """How far the fleet is above the simulator, by load and plan."""
    every = [result for plans in found.values() for result in plans]
    labels = [f"{result.scenario.name}  {result.plan}" for result in every]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.2 * len(every)), layout="constrained")
    axes.axvspan(-100 * TOLERANCE, 100 * TOLERANCE, color="#EEEEEE", label=f"within {TOLERANCE:.0%}")
    axes.axvline(0, color="black", linewidth=0.8)
    for place, (name, marker, colour) in enumerate(zip(COMPARED, "oD", ("#0072B2", "#D55E00"), strict=True)):
        values = [100 * result.differences()[name] for result in every]
        label = name.removesuffix("_s").replace("_", " ")
        rows = [row + 0.3 * place - 0.15 for row in range(len(every))]
        axes.scatter(values, rows, marker=marker, color=colour, s=22, label=label, zorder=3)
    axes.set_yticks(range(len(every)), labels, fontsize=7)
    axes.set_ylim(len(every) - 0.4, -0.6)
    axes.set_xlabel("fleet above the simulator, % (median of the runs)")
    axes.set_title("The same plans and durations on the fleet and in the simulator")
    axes.legend(loc="lower right", fontsize=7)
    return figure
