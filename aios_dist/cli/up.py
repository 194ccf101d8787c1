"""``aios-dist up``: a whole fleet on this machine, in one terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from aios_dist.cli.signals import sigterm_is_ctrl_c
from aios_dist.cli.up_news import follow
from aios_dist.config import DEFAULT_POOLS, Config, load, read_toml
from aios_dist.journal import Journal
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.masking import masked

OPEN_JOBS = 10_000
"""The most open jobs that are looked at for the last line."""


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Processes of each pool that calls models.")  # fmt: skip
@click.option("--slots", type=click.IntRange(min=1), help="Slots of each of those  [default: the pool's own]")
@click.option("--flower-port", type=click.IntRange(0, 65535), default=5555, show_default=True,
              help="0 takes a free one.")  # fmt: skip
@click.option("--no-flower", is_flag=True, help="Do without Flower.")
@click.option(
    "--fake-llm", is_flag=True, help="A fake LLM in the place of all models; also if there are none."
)
@click.option(
    "--latency", default="0.5", show_default=True, help="Of the fake LLM: seconds, or as its --latency."
)
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Where the embedded Redis keeps its data from one `up` to the next.")  # fmt: skip
@click.pass_context
def up(
    context: click.Context,
    workers: int,
    slots: int | None,
    flower_port: int,
    no_flower: bool,
    fake_llm: bool,
    latency: str,
    data: Path | None,
) -> None:
    """A whole fleet on this machine, in this terminal: Redis, workers, Flower; Ctrl-C ends it in good order.

    Models, pools and agents are those of aios.toml. Redis is one of our own, unless AIOS_REDIS_URL or
    redis_url names one.
    """
    config = load()
    embedded = not _names_redis()
    fake = latency if fake_llm or not config.models else None
    has_flower = not no_flower and importlib.util.find_spec("flower") is not None
    machine = LocalFleet(
        config,
        _workers(config, workers, slots),
        embedded_redis=embedded,
        data=data if embedded else None,
        fake_llm=fake,
        flower=flower_port if has_flower else None,
    )
    out = Console(highlight=False, soft_wrap=True)
    interrupted = False
    with sigterm_is_ctrl_c() as terminated:
        with out.status("Starting …"):
            machine.start()
        with machine:
            try:
                _introduce(out, machine)
                asyncio.run(follow(out, machine))
            except KeyboardInterrupt:
                interrupted = not terminated()
                out.print()
            alive = [member for member in machine.workers if not member.ended]
            out.print(_stop(out, machine, lost=embedded and data is None), soft_wrap=False)
    context.exit(1 if not alive else 130 if interrupted else 0)


def _names_redis() -> bool:
    """The user has said which Redis it is."""
    if os.environ.get("AIOS_REDIS_URL"):
        return True
    file = Path(os.environ.get("AIOS_CONFIG") or "aios.toml")
    return file.is_file() and "redis_url" in read_toml(file).get("fleet", {})


def _workers(config: Config, count: int, slots: int | None) -> list[WorkerSpec]:
    """``count`` processes of each pool that serves a model's lane, one of each other."""
    lanes = {model.lane for model in config.models.values()} or {"llm"}
    specs = []
    for name, pool in {**DEFAULT_POOLS, **config.pools}.items():
        calls = not lanes.isdisjoint(pool.lanes)
        if name == "llm" and not calls and name not in config.pools:
            continue  # the built-in pool, where the models' lanes are served by others
        specs += [
            WorkerSpec(f"{name}-{n}", name, slots if calls else None)
            for n in range(1, 1 + (count if calls else 1))
        ]
    return specs


def _introduce(out: Console, machine: LocalFleet) -> None:
    config = machine.config
    kind = f"{machine.redis.kind}, our own child, " if machine.redis is not None else ""
    models = ", ".join(
        name if model.base_url == machine.llm_url else f"{name} ({model.provider})"
        for name, model in config.models.items()
    )
    served = [
        f"{w.name} ({_count(w.spec.slots or config.pool(w.spec.pool).slots, 'slot')})"
        for w in machine.workers
        if w.spec
    ]
    rows = [
        ("Redis", f"{kind}{masked(config.fleet.redis_url)}"),
        ("workers", ", ".join(served)),
        ("models", f"{models}, answered by a fake LLM at {machine.llm_url}" if machine.llm_url else models),
    ]
    if machine.flower_url is not None:
        user, _, password = machine.flower_login.partition(":")
        rows.append(("Flower", f"{machine.flower_url}/tasks   user {user}, password {password}"))
    out.print(Text(f"The fleet {config.fleet.name!r} is up.", style="bold"))
    for name, what in rows:
        out.print(Text(f"  {name:<8}", style="cyan").append(what, style="default"))
    model = "" if config.default_model() else f"--model {next(iter(config.models))} "
    asks = "--prompt 'Three sights in {input}?' --prompt 'A day around: {previous}' --input '\"Lima\"'"
    out.print("In another terminal:", style="bold")
    out.print(Text(f"  export AIOS_CONFIG={machine.config_path}", style="green"))
    out.print(Text(f"  aios-dist submit {model}{asks} --wait", style="green"))
    out.print(Text("  aios-dist fleet", style="green"))
    out.print(
        Text("Ctrl-C finishes what is in flight and ends all of it. Jobs that end and warnings:", style="dim")
    )


def _stop(out: Console, machine: LocalFleet, *, lost: bool) -> str:
    """Warm shutdown of the workers; gives the last line: what they finished and what was handed back."""

    async def before(journal: Journal) -> tuple[float, int]:
        return await journal.now(), (await journal.counts([]))["leased"]

    since, in_flight = machine.ask(before)
    if in_flight:
        grace = machine.config.fleet.shutdown_grace
        out.print(
            f"Finishing {_count(in_flight, 'step')} in flight, at most {grace:g} s; Ctrl-C ends it at once …"
        )
    try:
        machine.stop_workers(machine.workers, machine.config.fleet.shutdown_grace + 15.0)
    except KeyboardInterrupt:
        for member in machine.workers:
            member.kill()

    async def after(journal: Journal) -> tuple[int, int, int]:
        jobs = await journal.list_jobs(OPEN_JOBS, ended=False)
        happened = await asyncio.gather(*(journal.events(job.id) for job in jobs))
        handed_back = sum(e.what == "released" and e.at >= since for events in happened for e in events)
        counts = await journal.counts(lanes := machine.config.lane_names())
        return handed_back, sum(counts[f"ready:{lane}"] for lane in lanes), len(jobs)

    handed_back, waiting, jobs = machine.ask(after)
    line = "Stopped: nothing was in flight"
    if in_flight:
        line = (
            f"Stopped: {_count(max(0, in_flight - handed_back), 'step')} finished, {handed_back} handed back"
        )
    if not jobs:
        return f"{line}; no job is open."
    line += f"; {_count(waiting, 'step')} of {_count(jobs, 'open job')} wait for the next worker"
    return f"{line}, and go with the embedded Redis (--data DIR keeps them)." if lost else f"{line}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
