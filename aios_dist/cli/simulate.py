"""``aios-dist simulate``: what would another policy have done?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import click

from aios_dist.cli.output import console, print_json, print_table
from aios_dist.errors import InvalidInput

N = TypeVar("N", int, float)

COLUMNS = (
    ("makespan_s", "MAKESPAN", "{:.1f}"),
    ("turnaround_mean_s", "MEAN", "{:.1f}"),
    ("turnaround_p50_s", "P50", "{:.1f}"),
    ("turnaround_p95_s", "P95", "{:.1f}"),
    ("turnaround_p99_s", "P99", "{:.1f}"),
    ("slowdown_mean", "SLOWDOWN", "{:.2f}"),
    ("slowdown_p95", "SLOW P95", "{:.2f}"),
    ("wait_max_s", "WAIT MAX", "{:.1f}"),
    ("slot_use", "USE", "{:.3f}"),
    ("idle_while_ready_s", "IDLE+READY", "{:.1f}"),
    ("jain_agents", "JAIN A", "{:.3f}"),
    ("jain_tenants", "JAIN T", "{:.3f}"),
)


@click.command()
@click.option(
    "--workload",
    "source",
    metavar="NAME|FILE",
    required=True,
    help="heavy-tail, light, azure; a CSV with the columns agent, step, prompt_tokens, output_tokens, "
    "calls_tool; or what `aios-dist job export` wrote.",
)
@click.option("--slots", type=int, default=8, show_default=True, help="Calls at a time.")
@click.option(
    "--load",
    "loads",
    type=float,
    multiple=True,
    help="Offered work over the slots, as Poisson arrivals; may be repeated  [default: all at once, or as "
    "recorded]",
)
@click.option(
    "--policy",
    "policies",
    metavar="NAME[+fair][+oldest_every=N]",
    multiple=True,
    help="A lane's policy, or oracle; may be repeated  [default: all, and no plans]",
)
@click.option(
    "--plan",
    "plans",
    metavar="PLAN",
    multiple=True,
    help="All jobs in one plan: fixed, hybrid:N (groups of N), agent-first, agent-first:N; may be repeated.",
)
@click.option("--seeds", type=int, default=5, show_default=True, help="Samples; figures are means over them.")
@click.option("--jobs", "count", type=int, help="Jobs of a sample  [default: 1000, or all of a file]")
@click.option(
    "--tenants", metavar="flood|N", default="", help="flood: one sends 90 % of the jobs; or N equal tenants."
)
@click.option("--weight", "weights", metavar="TENANT=X", multiple=True, help="A tenant's share under +fair.")
@click.option("--cap", "caps", metavar="TENANT=N", multiple=True, help="Most calls of a tenant at a time.")
@click.option(
    "--history",
    type=click.Choice(["completed", "sample"]),
    default="completed",
    show_default=True,
    help="What policies that look back learn from: jobs that have ended, or another sample from the start.",
)
@click.option(
    "--expected-steps", "told", is_flag=True, help="Callers say how many steps each job has, and are right."
)
@click.option("--ttft", type=float, default=0.2, show_default=True, help="Seconds until a call begins.")
@click.option("--prefill", type=float, default=15000, show_default=True, help="Prompt tokens a second.")
@click.option("--decode", type=float, default=33, show_default=True, help="Output tokens a second.")
@click.option(
    "--tool-seconds", "tool", type=float, default=1.0, show_default=True, help="Seconds of a tool call."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def simulate(
    source: str,
    slots: int,
    loads: Sequence[float],
    policies: Sequence[str],
    plans: Sequence[str],
    seeds: int,
    count: int | None,
    tenants: str,
    weights: Sequence[str],
    caps: Sequence[str],
    history: str,
    told: bool,
    ttft: float,
    prefill: float,
    decode: float,
    tool: float,
    as_json: bool,
) -> None:
    """On a virtual clock: no fleet, no Redis, no model is needed.

    The same policies and plans as on the fleet run over the same jobs and arrivals. docs/policies-lab.md
    says how the figures are meant.
    """
    from aios_dist.policies import names
    from aios_dist.simulate import choices, files, generators
    from aios_dist.simulate.compare import Setup, compare
    from aios_dist.simulate.latency import Latency

    wanted = [choices.of_policy(text) for text in dict.fromkeys(policies)]
    wanted += [choices.of_plan(text) for text in dict.fromkeys(plans)]
    if not wanted:
        wanted = [choices.of_policy(name) for name in names()]
    setup = Setup(
        slots=slots,
        seeds=seeds,
        count=count,
        tenants=tenants,
        weights=_by_tenant("--weight", weights, float),
        caps=_by_tenant("--cap", caps, int),
        known=history == "sample",
        told=told,
    )
    latency = Latency(ttft, prefill, decode, tool)
    built_in = source in generators.names()
    workload = generators.find(source, latency) if built_in else files.read(source, latency)
    rows = list(compare(workload, wanted, list(dict.fromkeys(loads)) or [None], setup))
    if as_json:
        print_json(rows)
        return
    for load in dict.fromkeys(row["load"] for row in rows):
        _print([row for row in rows if row["load"] == load], load)


def _by_tenant(option: str, given: Sequence[str], kind: type[N]) -> dict[str, N]:
    """``TENANT=NUMBER``, as often as it was given."""
    found: dict[str, N] = {}
    for text in given:
        tenant, _, number = text.rpartition("=")
        try:
            found[tenant] = kind(number)
        except ValueError:
            tenant = ""
        if not tenant:
            raise InvalidInput(f"{option} takes TENANT=NUMBER, not {text!r}.")
    return found


def _print(rows: Sequence[dict[str, Any]], load: float | None) -> None:
    """The table of one load: the best figure of a column has a star, the oracle does not compete."""
    from aios_dist.simulate.compare import BEST

    first = rows[0]
    when = f"load {load:g}" if load is not None else "the workload's own arrivals"
    console().print(
        f"\n{when}: {first['slots']} slots, {first['jobs']} jobs, {first['steps']} steps, "
        f"{first['seeds']} seeds; no order has a shorter makespan than {first['bound_s']:.1f} s",
        style="bold",
    )
    best = {}
    for name, _, form in COLUMNS:
        values = [row[name] for row in rows if not row["reference"]]
        shown = form.format((min if BEST[name] == "least" else max)(values))
        best[name] = shown if {form.format(value) for value in values} != {shown} else None

    def cell(row: dict[str, Any], name: str, form: str) -> str:
        shown = form.format(row[name])
        return shown + ("*" if shown == best[name] and not row["reference"] else " ")

    print_table(
        ("POLICY", *(f">{title}" for _, title, _ in COLUMNS), ">MEAN FROM-TO", ">TO THE FIRST"),
        (
            (
                row["policy"] + (" (reference)" if row["reference"] else ""),
                *(cell(row, name, form) for name, _, form in COLUMNS),
                "{:.1f}-{:.1f}".format(*row["spread"]["turnaround_mean_s"]),
                f"{100 * (row['turnaround_vs_first'] - 1):+.0f} %",
            )
            for row in rows
        ),
        empty="",
    )
    for row in rows:
        if len(row["slowdown_by_tenant"]) > 1:
            by = ", ".join(f"{name} {value:.2f}" for name, value in row["slowdown_by_tenant"].items())
            console().print(f"slowdown by tenant, {row['policy']}: {by}")
