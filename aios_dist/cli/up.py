"""``aios-dist up``: a whole fleet on this machine, in one terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import IO, TypeVar, cast

import click
from rich.console import Console
from rich.text import Text

from aios_dist.cli.entry import say
from aios_dist.cli.options import setting_option
from aios_dist.cli.output import count_of
from aios_dist.cli.session import every_end_is_ctrl_c, no_hang_up
from aios_dist.cli.streams import Lasting
from aios_dist.cli.up_news import follow, kept_up
from aios_dist.config import DEFAULT_POOLS, Config, PoolConfig, load, read_toml
from aios_dist.errors import AiosError, InvalidInput
from aios_dist.journal import Journal
from aios_dist.local.machine import BEYOND_S, LocalFleet, WorkerSpec
from aios_dist.text.masking import masked
from aios_dist.threads.interrupts import run

T = TypeVar("T")

WITHOUT_REDIS_S = 5.0
"""Seconds for workers to end in, whose answers nothing can take any more."""
OPEN_JOBS = 10_000
"""The most open jobs that are looked at for the last line."""
ANSWER_S = 15.0
"""Seconds in which Redis must say what is in flight, or what is left; workers end whether it does or not."""


@click.command()
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True,
              help="Processes of each pool that calls models.")  # fmt: skip
@setting_option(PoolConfig, "slots", left_out="the pool's own")
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
    """Redis, workers, Flower; Ctrl-C, or closing the terminal, ends it in good order.

    Models, pools and agents are those of aios.toml. Redis is one of our own, unless AIOS_REDIS_URL or
    redis_url names one.
    """
    config = load()
    named = _names_redis()
    embedded = not named
    if data is not None and named:
        raise InvalidInput(
            f"--data is for an embedded Redis, but {named} names another one, which keeps its data itself: "
            "leave one of them out."
        )
    fake = latency if fake_llm or not config.models else None
    has_flower = not no_flower and importlib.util.find_spec("flower") is not None
    machine = LocalFleet(
        config,
        _workers(config, workers, slots),
        embedded_redis=embedded,
        data=data,
        fake_llm=fake,
        flower=flower_port if has_flower else None,
    )
    out = Console(file=cast(IO[str], Lasting(sys.stdout)), highlight=False, soft_wrap=True)
    interrupted, lost = False, ""
    with every_end_is_ctrl_c() as terminated:
        try:
            with out.status("Starting …"):
                machine.start()
        except KeyboardInterrupt:
            context.exit(0 if terminated() else 130)
        with machine:
            try:
                _introduce(out, machine)
                lost = run(follow, out, machine)
            except KeyboardInterrupt:
                interrupted = not terminated()
                out.print()
            no_hang_up()
            alive = [member for member in machine.workers if not member.ended]
            if lost:
                say(lost)
                # With its data kept, what workers have in hand is worth their grace: they save it.
                machine.stop(grace_s=None if machine.keeps_data else WITHOUT_REDIS_S)
            else:
                out.print(end(out, machine, lost=embedded and data is None), soft_wrap=False)
    context.exit(1 if lost or not alive else 130 if interrupted else 0)


def _names_redis() -> str:
    """By what the user has said which Redis it is; "" where by nothing."""
    if os.environ.get("AIOS_REDIS_URL"):
        return "AIOS_REDIS_URL"
    file = Path(os.environ.get("AIOS_CONFIG") or "aios.toml")
    if file.is_file() and "redis_url" in read_toml(file).get("fleet", {}):
        return f"redis_url in {str(file)!r}"
    return ""


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
    kind = f"{machine.redis.kind}, our own, " if machine.redis is not None else ""
    models = ", ".join(
        name if model.base_url == machine.llm_url else f"{name} ({model.provider})"
        for name, model in config.models.items()
    )
    served = [
        f"{w.name} ({count_of(w.spec.slots or config.pool(w.spec.pool).slots, 'slot')})"
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
    model = "" if config.default_model() else f"--model {shlex.quote(next(iter(config.models)))} "
    asks = "--prompt 'Three sights in {input}?' --input '\"Lima\"'"
    out.print("In another terminal:", style="bold")
    out.print(Text(f"  export AIOS_CONFIG={shlex.quote(str(machine.config_path))}", style="green"))
    out.print(Text(f"  aios-dist submit {model}{asks} --wait", style="green"))
    out.print(Text("  aios-dist fleet", style="green"))
    out.print(
        Text("Ctrl-C finishes what is in flight, and ends it. Jobs that end, and warnings:", style="dim")
    )


# The end: warm, and with a last line that says what became of what was in flight --------------------------


def end(out: Console, machine: LocalFleet, *, lost: bool) -> str:
    """Warm shutdown of the workers; gives the last line: what they finished and what was handed back.

    Ctrl-C ends them at once. The embedded Redis is looked after to the last, as they need it.

    Args:
        out: where it is said meanwhile.
        machine: the fleet; its Redis runs on.
        lost: open jobs go with the embedded Redis.
    """

    async def before(journal: Journal) -> tuple[float, int]:
        return await journal.now(), (await journal.counts([]))["leased"]

    known, in_flight, since = None, 0, 0.0
    try:
        known = _asked(machine, before)
        since, in_flight = known or (since, in_flight)
        grace = machine.config.fleet.shutdown_grace
        if in_flight or known is None:
            what = count_of(in_flight, "step") + " in flight" if known else "what is in flight"
            out.print(f"Finishing {what}, at most {grace:g} s; Ctrl-C ends it at once …")
        run(_finish, out, machine, grace + BEYOND_S)
    except KeyboardInterrupt:
        for member in machine.workers:
            member.kill()

    async def after(journal: Journal) -> tuple[int, int, int]:
        jobs = await journal.list_jobs(OPEN_JOBS, ended=False)
        happened = await asyncio.gather(*(journal.events(job.id) for job in jobs))
        handed_back = sum(e.what == "released" and e.at >= since for events in happened for e in events)
        counts = await journal.counts(lanes := machine.config.lane_names())
        return handed_back, sum(counts[f"ready:{lane}"] for lane in lanes), len(jobs)

    left = _asked(machine, after) if known else None
    if left is None:
        return "Stopped; Redis does not say what is open: it cannot be reached."
    handed_back, waiting, jobs = left
    line = "Stopped: nothing was in flight"
    if in_flight:
        finished = count_of(max(0, in_flight - handed_back), "step")
        line = f"Stopped: {finished} finished, {handed_back} handed back"
    if not jobs:
        return f"{line}; no job is open."
    line += f"; {count_of(waiting, 'step')} of {count_of(jobs, 'open job')} wait for the next worker"
    return f"{line}, and go with the embedded Redis (--data DIR keeps them)." if lost else f"{line}."


async def _finish(out: Console, machine: LocalFleet, grace_s: float) -> None:
    watch = asyncio.create_task(kept_up(out, machine))
    try:
        await asyncio.to_thread(machine.stop_workers, machine.workers, grace_s)
    except asyncio.CancelledError:  # Ctrl-C; the thread is waited for
        for member in machine.workers:
            member.kill()
        raise
    finally:
        watch.cancel()


def _asked(machine: LocalFleet, question: Callable[[Journal], Awaitable[T]]) -> T | None:
    """The answer, or None where Redis gives none."""

    async def in_time(journal: Journal) -> T:
        async with asyncio.timeout(ANSWER_S):
            return await question(journal)

    try:
        return machine.ask(in_time)
    except (AiosError, TimeoutError):
        return None
