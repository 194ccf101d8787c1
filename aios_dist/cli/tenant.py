"""``aios-dist tenant list | set``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from aios_dist.cli.entry import Commands
from aios_dist.cli.options import as_json_option, needs_one, setting_options
from aios_dist.cli.output import amount, of_most, print_json, print_table, to_come
from aios_dist.cli.session import on_fleet
from aios_dist.config import TenantConfig

if TYPE_CHECKING:
    from aios_dist.journal import TenantView
    from aios_dist.producer.fleet import AsyncFleet

tenant = Commands("tenant")


@tenant.command("list")
@as_json_option
def list_(as_json: bool) -> None:
    """Tenants with their weights, limits and budgets.

    Also what counts against those now and today (UTC), and what they have had of each shared lane: tokens by
    weight, where the least runs next.
    """

    async def look(fleet: AsyncFleet) -> tuple[list[TenantView], list[str]]:
        from aios_dist.journal import Said

        return await fleet.tenants(), await fleet.journal.unsaid(Said.of(fleet.config, ()))

    views, unsaid = on_fleet(look)
    if as_json:
        print_json([_record(view) for view in views])
        return
    print_table(
        ("TENANT", ">WEIGHT", ">IN FLIGHT", ">HELD", ">TOKENS TODAY", ">MONEY TODAY", "SHARES"),
        (
            (
                v.name,
                f"{v.weight:g}",
                of_most(v.in_flight, v.max_in_flight),
                v.held,
                of_most(v.tokens_today, v.tokens_per_day),
                of_most(v.money_today, v.money_per_day),
                ", ".join(f"{lane} {had:.0f}" for lane, had in sorted(v.counters.items())),
            )
            for v in views
        ),
        empty="No tenants. Set one: aios-dist tenant set NAME --weight 2",
    )
    to_come(unsaid)


@tenant.command("set")
@click.argument("name")
@setting_options(TenantConfig, "weight", "max_in_flight", "tokens_per_day", "money_per_day")
@as_json_option
def set_(name: str, as_json: bool, **wanted: Any) -> None:
    """Change them in the running fleet, at once.

    What is not named stays as it is; a limit of 0 is none. The settings hold until they are changed again, or
    until a worker starts whose aios.toml says something new.
    """
    needs_one(TenantConfig, wanted)

    async def work(fleet: AsyncFleet) -> TenantView:
        await fleet.set_tenant(name, **wanted)
        return (await fleet.journal.tenant_views([name], fleet.config.lane_names()))[0]

    view = on_fleet(work)
    if as_json:
        print_json(_record(view))
        return
    parts = [
        f"weight {view.weight:g}",
        f"{view.max_in_flight} calls in flight" if view.max_in_flight else "",
        f"{view.tokens_per_day} tokens a day" if view.tokens_per_day else "",
        f"{amount(view.money_per_day)} in money a day" if view.money_per_day else "",
    ]
    print(f"{name}: {', '.join(filter(None, parts))}")


def _record(view: TenantView) -> dict[str, Any]:
    return {
        "name": view.name,
        "weight": view.weight,
        "max_in_flight": view.max_in_flight or None,
        "in_flight": view.in_flight,
        "steps_held": view.held,
        "tokens_per_day": view.tokens_per_day or None,
        "money_per_day": view.money_per_day or None,
        "tokens_today": view.tokens_today,
        "money_today": view.money_today,
        "counters": view.counters,
    }
