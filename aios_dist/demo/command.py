"""``aios-dist demo``: a fleet on this machine runs agents under both schedulers, and shows what happened."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from aios_dist.cli.session import every_end_is_ctrl_c
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.demo.gantt import chart
from aios_dist.demo.runs import BATCH_AGENTS, OWN_WORK, PAUSE_REPLIES, Run, batch_jobs, run, seed_jobs
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.model.specs import JobSpec
from aios_dist.producer.sync import Fleet
from aios_dist.text.masking import masked

SLOTS = 4
MACHINES = ("machine-1", "machine-2")
WIDTH = 100
FLOWER_PORT = 5555

CONFIG = Config(
    fleet=FleetConfig(name="demo", modules=["aios_dist.demo.seed_agents"]),
    models={"small": ModelConfig(), "one": ModelConfig(lane="one")},
    pools={"one": PoolConfig(lanes=["one"], slots=1), "llm": PoolConfig(lanes=["llm"], slots=SLOTS)},
)
WORKERS = [
    *(WorkerSpec(name, "llm") for name in MACHINES),
    WorkerSpec("one-slot", "one"),
    WorkerSpec("turns", "turns"),
]


@click.command()
@click.option(
    "--latency",
    type=click.FloatRange(min=0.001, max=5),
    default=0.1,
    show_default=True,
    metavar="SECONDS",
    help="The fake LLM's reply time.",
)
@click.option("--json", "as_json", is_flag=True, help="Print only the numbers, as one JSON document.")
@click.option("--keep", is_flag=True, help="Leave everything up until Ctrl-C, for a look at Flower.")
@click.option("--no-flower", is_flag=True, help="Do without Flower.")
def demo(latency: float, as_json: bool, keep: bool, no_flower: bool) -> None:
    """And it shows what happened. Everything is real but the language model: a Redis, Celery workers as
    processes, Flower. Nothing stays.
    """
    out = Console(quiet=as_json, highlight=False)
    if not out.is_terminal or out.width > WIDTH:
        out = Console(quiet=as_json, highlight=False, width=WIDTH)
    flower = None if no_flower or importlib.util.find_spec("flower") is None else _flower_port()
    machine = LocalFleet(CONFIG, WORKERS, fake_llm=str(latency), flower=flower)
    with every_end_is_ctrl_c():
        with out.status("Starting a Redis, a fake LLM, four Celery workers and Flower …"):
            machine.start()
        with machine, Fleet(machine.config) as fleet:
            _introduce(out, machine, latency)
            results = _all_runs(out, machine, fleet, latency)
            _conclude(out, machine, results, keep)
            if as_json:
                print(json.dumps(_numbers(results)))
            if keep:
                _until_interrupted(out)


def _all_runs(out: Console, machine: LocalFleet, fleet: Fleet, latency: float) -> dict[str, Run]:
    names = {machine.registered(member.name).id: member.name for member in machine.workers}
    results: dict[str, Run] = {}

    def both(
        part: str, make: Callable[[str], tuple[dict[str, JobSpec], float]], slots: int
    ) -> Iterator[tuple[str, Run]]:
        for scheduler in ("fifo", "fixed"):
            jobs, bound_s = make(scheduler)
            with _progress(out, f"running under {scheduler} …", len(jobs)) as advance:
                done = run(fleet, scheduler, jobs, bound_s, slots=slots, workers=names, advance=advance)
            results[f"{part}{scheduler}"] = done
            yield scheduler, done

    _heading(
        out,
        "1. Three agents on one slot",
        f"A makes 3 calls, B 2, C 2 with {PAUSE_REPLIES:g} reply times of its own work between them.",
    )
    for scheduler, done in both("", lambda scheduler: seed_jobs(scheduler, latency), 1):
        _show(out, scheduler, done, [("one-slot", 1), (OWN_WORK, 1)])
    slots = SLOTS * len(MACHINES)
    _heading(
        out,
        f"2. {BATCH_AGENTS} agents of 5 calls each, on two machines of {SLOTS} slots",
        "a1 … a5 are the calls of agent a; each needs the answer before it.",
    )
    for scheduler, done in both("batch ", lambda scheduler: batch_jobs(scheduler, latency, slots), slots):
        _show(out, scheduler, done, [(name, SLOTS) for name in MACHINES])
    return results


def _numbers(results: dict[str, Run]) -> dict[str, Any]:
    return {
        "fifo": results["fifo"].numbers(),
        "fixed": results["fixed"].numbers(),
        "batch": {name: results[f"batch {name}"].numbers() for name in ("fifo", "fixed")},
    }


# What is printed ------------------------------------------------------------


def _introduce(out: Console, machine: LocalFleet, latency: float) -> None:
    assert machine.redis is not None
    out.print(Text("aios_dist: LLM agents as Celery work on one shared Redis", style="bold"))
    rows = [
        ("Redis", f"{machine.redis.kind}, our own, {masked(machine.redis.url)}"),
        (
            "workers",
            f"machine-1 and machine-2 ({SLOTS} slots each), one-slot (1), turns",
        ),
        ("LLM", f"a fake one: {machine.llm_url}, answers after {latency:g} s"),
    ]
    if machine.flower_url is not None:
        user, _, password = machine.flower_login.partition(":")
        rows.append(("Flower", f"{machine.flower_url}/tasks   user {user}, password {password}"))
    for name, what in rows:
        out.print(Text(f"  {name:<8}", style="cyan").append(what, style="default"), soft_wrap=True)


def _heading(out: Console, title: str, subtitle: str) -> None:
    out.print()
    out.print(Text(title, style="bold"))
    out.print(Text(subtitle, style="dim"))


def _show(out: Console, scheduler: str, done: Run, places: list[tuple[str, int]]) -> None:
    out.print()
    words = {"fifo": "each call waits its turn", "fixed": "one agent after another"}
    out.print(Text(f"  {scheduler}", style="bold magenta").append(f": {words[scheduler]}", style="default"))
    labels = " ".join(bar.label for bar in done.calls)
    for line in textwrap.wrap(textwrap.shorten(labels, 2 * (out.width - 4), placeholder=" …"), out.width - 4):
        out.print(Text(f"  {line}"))
    bars = [*done.calls, *done.own]
    lines = chart(bars, places, width=out.width - 2, colour=_colour(out), start=done.start, end=done.end)
    for row in lines:
        out.print(Text("  ").append_text(row), no_wrap=True, crop=True)
    ratio = done.makespan_s / done.bound_s
    took = f"makespan {done.makespan_s:.2f} s, bound {done.bound_s:.2f} s: {ratio:.2f} ×"
    out.print(f"  {took}, slot use {done.slot_use:.0%}")


def _conclude(out: Console, machine: LocalFleet, results: dict[str, Run], keep: bool) -> None:
    fifo, fixed = results["batch fifo"], results["batch fixed"]
    meaning = (
        "bound = max(total work / slots, longest chain); slot use = busy slot-seconds / (slots × makespan)"
    )
    out.print()
    out.print(Text(meaning, style="dim"))
    out.print()
    longer, idle = fixed.makespan_s / fifo.makespan_s, 1 - fixed.slot_use
    seen = (
        f"Fixed order took {longer:.1f} × as long as fifo for the same calls: its slots were {idle:.0%} idle."
    )
    again = "aios-dist demo --keep: this again, and Flower stays up to show every call"
    if keep and machine.flower_url is not None:
        again = f"Flower shows every call: {machine.flower_url}/tasks (Ctrl-C ends it all)"
    nxt = "aios-dist up: a fleet that stays up, for agents of your own (examples/)"
    for name, what in (("Seen", seen), ("Next", nxt), ("", again)):
        out.print(Text(f"{name:<6}", style="bold").append(what, style="not bold"), soft_wrap=True)


def _colour(out: Console) -> bool:
    return out.is_terminal and not out.no_color and out.color_system is not None


@contextlib.contextmanager
def _progress(out: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """A bar while agents run; gone when they are done, and not there at all without a terminal."""
    columns = (
        TextColumn("  [dim]{task.description}"),
        BarColumn(30),
        TextColumn("{task.completed}/{task.total} agents"),
    )
    with Progress(
        *columns, console=out, transient=True, disable=out.quiet or not out.is_terminal
    ) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)


# Ports and Ctrl-C ------------------------------------------------------------


def _flower_port() -> int:
    """Flower's usual port if it is free, else any."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", FLOWER_PORT))
        except OSError:
            return 0
    return FLOWER_PORT


def _until_interrupted(out: Console) -> None:
    try:
        threading.Event().wait()
    finally:
        out.print("Stopping …")
