"""``aios-dist fleet``: workers, slots, lanes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.lane import lane_record
from aios_dist.cli.output import console, count_of, iso, moment, print_json, print_table
from aios_dist.cli.session import on_fleet
from aios_dist.text.masking import masked

if TYPE_CHECKING:
    from aios_dist.journal import LaneView, ModelView, Registry
    from aios_dist.producer.fleet import AsyncFleet


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def fleet(as_json: bool) -> None:
    """A lane's depth is the number of its waiting steps; its tickets are the Celery messages in its queue.

    Wanted are the slots that it can use now: what waits, what sleeps or backs off until now, and what is in
    flight. A scaler goes by that, also where no worker runs.
    """

    async def look(fleet: AsyncFleet) -> tuple[Registry, list[LaneView], dict[str, int], list[ModelView]]:
        registry, lanes, counts = await asyncio.gather(
            fleet.registry(), fleet.lanes(), fleet.journal.counts([])
        )
        return registry, lanes, counts, await fleet.journal.model_views(sorted(registry.models))

    from aios_dist.config import load

    config = load()
    registry, lanes, counts, models = on_fleet(look, config)
    if as_json:
        print_json(
            {
                "fleet": config.fleet.name,
                "redis": masked(config.fleet.redis_url),
                "jobs_open": counts["open"],
                "steps_in_flight": counts["leased"],
                "steps_timed": counts["timed"],
                "workers": [_worker(w) for w in registry.workers],
                "lanes": [lane_record(lane) for lane in lanes],
                "models": [
                    {"name": m.name, "lane": registry.models[m.name], "steps_held": m.held} for m in models
                ],
                "agents": registry.agents,
            }
        )
        return
    print(
        f"Fleet {config.fleet.name}: {count_of(counts['open'], 'open job')}, "
        f"{count_of(counts['leased'], 'step')} in flight.\nRedis {masked(config.fleet.redis_url)}\n"
    )
    print_table(
        ("WORKER", "POOL", "LANES", ">IN FLIGHT", ">SLOTS", "MODELS", ">SINCE"),
        (
            (
                *(w.id, w.pool, ", ".join(w.lanes), w.in_flight, w.slots),
                *(", ".join(w.models), moment(w.started_at)),
            )
            for w in registry.workers
        ),
        empty="No workers. Start one: aios-dist worker llm",
    )
    print()
    print_table(
        ("LANE", "POLICY", "FAIR", ">WAITING", ">WANTED", ">TICKETS", ">SLOTS", ">WORKERS"),
        (
            (
                *(lane.name, lane.rules.policy, lane.rules.fair),
                *(lane.ready, lane.wanted, lane.tickets, lane.slots, lane.workers),
            )
            for lane in lanes
        ),
        empty="No lanes.",
    )
    print()
    out = console()
    out.print(
        "Models: "
        + (", ".join(f"{m.name} (lane {registry.models[m.name]}{_held(m)})" for m in models) or "none")
    )
    out.print("Agents: " + (", ".join(registry.agents) or "none but those that are data"))


def _held(model: ModelView) -> str:
    """Steps that a limit or a hold keeps off the lane: they are not among those that wait there."""
    return f", {model.held} held" if model.held else ""


def _worker(worker: Any) -> dict[str, Any]:
    return {
        "id": worker.id,
        "host": worker.host,
        "pid": worker.pid,
        "pool": worker.pool,
        "lanes": worker.lanes,
        "slots": worker.slots,
        "in_flight": worker.in_flight,
        "models": worker.models,
        "agents": worker.agents,
        "started_at": iso(worker.started_at),
        "seen_at": iso(worker.seen_at),
    }
