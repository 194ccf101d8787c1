"""``aios-dist doctor``: what is wrong with this fleet, seen from here. ``healthcheck``: for containers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

import click

from aios_dist.cli.checks import Finding, Level, raised, warning
from aios_dist.cli.entry import say
from aios_dist.cli.output import console, error_line, print_json
from aios_dist.cli.session import on_fleet, on_journal
from aios_dist.config import Config, load
from aios_dist.config.reading import find_file
from aios_dist.errors import AiosError, FleetUnavailable
from aios_dist.text.masking import hide

if TYPE_CHECKING:
    from aios_dist.journal import Journal, Registry
    from aios_dist.producer.fleet import AsyncFleet

MARKS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.PROBLEM: ("✗", "red")}
PATIENCE_S = 8.0
"""Seconds for a health check's answer: less than the 10 s that the Dockerfile gives it."""


@click.command()
@click.option("--probe", is_flag=True, help="Also ask each model's base_url whether somebody answers.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_context
def doctor(context: click.Context, probe: bool, as_json: bool) -> None:
    """Exit 1 when there is a problem. Keys, packages and limits are those of the machine that it runs on:
    on a worker's machine, run it with the worker's environment.
    """
    config = load()
    findings = [_configuration(config), *on_fleet(lambda fleet: examine(config, fleet, probe), config)]
    problems = sum(f.level is Level.PROBLEM for f in findings)
    if as_json:
        print_json(
            {
                "ok": problems == 0,
                "findings": [
                    {"check": f.check, "level": f.level.value, "what": hide(f.what), "fix": f.fix or None}
                    for f in findings
                ],
            }
        )
    else:
        out = console()
        for finding in findings:
            mark, colour = MARKS[finding.level]
            out.print(mark, end=" ", style=colour)
            out.print(error_line(f"{finding.check}: {finding.what}"))
            if finding.fix:
                out.print(f"  {error_line(f'→ {finding.fix}')}")
        warnings = sum(f.level is Level.WARNING for f in findings)
        out.print(
            f"\n{_of(problems, 'problem')}, {_of(warnings, 'warning')}."
            if problems or warnings
            else "\nAll is well."
        )
    context.exit(1 if problems else 0)


async def examine(config: Config, fleet: AsyncFleet, probe: bool = False) -> list[Finding]:
    """All checks. What needs Redis is left out when it cannot be reached."""
    from aios_dist.cli.checks import deaf, held, lanes, machine, providers, rights, server
    from aios_dist.journal import Wanted
    from aios_dist.journal.formats import drain, open_elsewhere

    findings = list(machine.packages())
    registry: Registry | None = None
    journal = fleet.journal
    try:
        findings += await _all(server.server(journal))
        findings += await _all(server.clock(journal))
        findings += await _all(rights.rights(config, journal))
        findings += [
            warning("format", *drain(format, jobs))
            for format, jobs in (await open_elsewhere(journal)).items()
        ]
        registry = await fleet.registry()
        findings += lanes.registry(registry)
        findings += lanes.workers(config, registry, await journal.now())
        findings += await _all(deaf.deaf(config, registry))
        findings += lanes.codes(registry)
        views = await fleet.lanes()
        live = registry.live(config.fleet.lease)
        findings += lanes.lanes(config, views, live)
        findings += await _all(deaf.idle(journal, views, live))
        findings += lanes.needs(await journal.needs([view.name for view in views]))
        findings += held.repairs(await journal.repairs())
        findings += held.prices(registry, await fleet.tenants())
        names = sorted({*config.models, *registry.models})
        findings += held.models(await journal.model_views(names))
        open_jobs = await journal.list_jobs(held.MOST, ended=False)
        findings += lanes.agents(config, registry, open_jobs)
        findings += held.jobs(open_jobs)
        findings += held.parked(await journal.find_jobs(Wanted(states=("parked",)), held.MOST))
        findings += held.dead_letters(await journal.dead_letters(held.MOST))
    except FleetUnavailable as exc:
        findings.append(raised("redis", exc, "See docs/deploy.md."))
    findings += machine.agents(config)
    findings += machine.models(config, registry)
    findings += machine.open_files(config)
    if probe:
        findings += await _all(providers.probe(config))
    return findings


def _configuration(config: Config) -> Finding:
    file = find_file()
    where = "no aios.toml" if file is None else file.absolute()
    return Finding("configuration", Level.OK, f"Fleet {config.fleet.name!r}, {where}.")


async def _all(source: AsyncIterable[Finding]) -> list[Finding]:
    return [finding async for finding in source]


def _of(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@click.command()
@click.option("--pool", help="Only workers of this pool.")
@click.pass_context
def healthcheck(context: click.Context, pool: str | None) -> None:
    """Alive is a worker that has renewed within its lease.

    It asks Redis, so a worker whose event loop hangs is unhealthy too, and so is one without a Redis.
    """
    try:
        wrong = _ask(pool)
    except AiosError as exc:
        wrong = str(exc)
    if wrong:
        say(wrong)
        context.exit(1)  # also without a Redis: Docker reserves the 2


def _ask(pool: str | None) -> str:
    async def look(journal: Journal) -> str:
        try:
            async with asyncio.timeout(PATIENCE_S):
                workers, now = (await journal.registry()).workers, await journal.now()
        except TimeoutError:
            raise FleetUnavailable(f"Redis does not answer within {PATIENCE_S:g} s.") from None
        host, lease = socket.gethostname(), journal.config.lease
        mine = [w for w in workers if w.host == host and pool in (None, w.pool)]
        if any(w.seen_at > now - lease for w in mine):
            return ""
        which = f"of pool {pool!r} " if pool else ""
        if not mine:
            return f"No worker {which}on this host ({host}) has registered."
        late = min(now - w.seen_at for w in mine)
        return (
            f"The worker {which}on this host ({host}) has not renewed for {late:.0f} s (lease: {lease:g} s)."
        )

    return on_journal(look)
