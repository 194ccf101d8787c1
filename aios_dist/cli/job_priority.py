"""``aios-dist job priority``: a job that runs earlier or later, also while its steps wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aios_dist import policies
from aios_dist.cli.job_commands import as_json_option
from aios_dist.cli.output import print_json
from aios_dist.cli.session import on_fleet
from aios_dist.cli.setting_options import SettingType
from aios_dist.config import settings_of
from aios_dist.errors import InvalidInput
from aios_dist.model.specs import JobSpec

if TYPE_CHECKING:
    from aios_dist.producer.fleet import AsyncFleet


@click.command()
@click.argument("id")
@click.argument("priority", metavar="N", type=SettingType(settings_of(JobSpec)["priority"]))
@as_json_option
def priority(id: str, priority: int, as_json: bool) -> None:
    """Give job ID the priority N, 0 to 9 (9 runs first), also while its steps wait.

    Only lanes of policy `priority` look at it: see `aios-dist lane list`.
    """

    async def work(fleet: AsyncFleet) -> dict[str, Any]:
        job = fleet.job(id)
        changed = await job.rerank(priority=priority)
        view = await job.view()
        return {
            "id": id,
            "priority": view.priority,
            "changed": changed,
            "state": view.state.value,
            "in_agent_first_plan": view.placed,
            "ignored_on_lanes": await _blind(fleet, id) if changed and not view.placed else [],
        }

    record = on_fleet(work)
    if as_json:
        print_json(record)
    elif record["changed"]:
        print(f"{id} has priority {record['priority']}")
        if record["in_agent_first_plan"]:
            print("Its steps keep their order all the same: that is the place in its agent-first plan.")
        for lane in record["ignored_on_lanes"]:
            print(f"Lane {lane} does not look at priorities: aios-dist lane set {lane} --policy priority")
    if not record["changed"]:
        raise InvalidInput(f"Job {id!r} is {record['state']}: a job that has ended takes no priority.")


async def _blind(fleet: AsyncFleet, id: str) -> list[str]:
    """The lanes of the job's LLM calls whose policy does not look at priorities."""
    calls = {step.lane for step in await fleet.job(id).steps() if step.kind == "llm"}
    return [lane.name for lane in await fleet.lanes() if lane.name in calls and not _looks(lane.rules.policy)]


def _looks(policy: str) -> bool:
    known = policies.get(policy)  # one of a newer version may, as far as we know
    return known is None or known.rank(policies.Waiting(agent="")).per_priority > 0
