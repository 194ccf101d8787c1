"""``aios-dist lane list | set | reset``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.entry import Commands, say
from aios_dist.cli.options import as_json_option, needs_one, setting_options
from aios_dist.cli.output import print_json, print_table
from aios_dist.cli.session import on_fleet
from aios_dist.config import LaneConfig

if TYPE_CHECKING:
    from aios_dist.journal import LaneRules, LaneView

lane = Commands("lane")


@lane.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """Lanes with their policies and what waits on them.

    Of whom, where they are shared between tenants; and who set the rules.
    """
    lanes = on_fleet(lambda fleet: fleet.lanes())
    if as_json:
        print_json([lane_record(lane) for lane in lanes])
        return
    print_table(
        ("LANE", "POLICY", "OLDEST", "FAIR", ">WAITING", "BY TENANT", "SET BY"),
        (
            (
                lane.name,
                lane.rules.policy,
                f"1 in {lane.rules.oldest_every}" if lane.rules.oldest_every else "",
                lane.rules.fair,
                lane.ready,
                by_tenant(lane),
                "hand" if lane.rules.by_hand else "aios.toml",
            )
            for lane in lanes
        ),
        empty="No lanes.",
    )
    for lane in lanes:
        if lane.to_come is not None:
            say(f"to come with the next worker of this aios.toml: {_words(lane.name, lane.to_come)}")


@lane.command("set")
@click.argument("name", metavar="LANE")
@setting_options(LaneConfig, "policy", "oldest_every", "fair")
@as_json_option
def set_(name: str, as_json: bool, **wanted: Any) -> None:
    """Change policy and shares in the running fleet.

    No restart, and nothing that waits is lost. What is not named stays as it is (with a new policy, the
    oldest go as often as that policy has it). It holds until `aios-dist lane reset LANE`, or until a
    worker starts whose aios.toml says something new.
    """
    needs_one(LaneConfig, wanted)
    _say(name, on_fleet(lambda fleet: fleet.set_lane(name, **wanted)), as_json)


@lane.command()
@click.argument("name", metavar="LANE")
@as_json_option
def reset(name: str, as_json: bool) -> None:
    """Give LANE the rules of aios.toml again."""
    _say(name, on_fleet(lambda fleet: fleet.reset_lane(name)), as_json)


def _say(name: str, rules: LaneRules, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, **rules_record(rules)})
        return
    print(_words(name, rules))


def _words(name: str, rules: LaneRules) -> str:
    parts = [
        f"policy {rules.policy}",
        f"one dispatch in {rules.oldest_every} to the oldest" if rules.oldest_every else "",
        "shared between tenants" if rules.fair else "",
    ]
    return f"{name}: {', '.join(filter(None, parts))}"


def by_tenant(lane: LaneView) -> str:
    """Waiting steps by tenant, as people read it."""
    named = [f"{tenant} {waiting}" for tenant, waiting in sorted(lane.tenants.items())]
    more = lane.tenant_count - len(named)
    return ", ".join([*named, *([f"and {more} more tenants"] if more > 0 else [])])


def lane_record(lane: LaneView) -> dict[str, Any]:
    """A lane as every ``--json`` shows it."""
    return {
        "name": lane.name,
        "depth": lane.ready,
        "due": lane.due,
        "in_flight": lane.in_flight,
        "wanted": lane.wanted,
        "tickets": lane.tickets,
        "slots": lane.slots,
        "workers": lane.workers,
        **rules_record(lane.rules),
        "to_come": None if lane.to_come is None else rules_record(lane.to_come),
        "depth_by_tenant": lane.tenants if lane.rules.fair else None,
        "tenants_waiting": lane.tenant_count if lane.rules.fair else None,
    }


def rules_record(rules: LaneRules) -> dict[str, Any]:
    """The rules of a lane as every ``--json`` shows them."""
    return {
        "policy": rules.policy,
        "oldest_every": rules.oldest_every,
        "fair": rules.fair or None,
        "by_hand": rules.by_hand,
    }
