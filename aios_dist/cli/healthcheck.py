"""``aios-dist healthcheck``: is the worker of this host alive? For a container's health check."""

from __future__ import annotations

import asyncio
import socket

import click

from aios_dist.errors import AiosError, FleetUnavailable

PATIENCE_S = 8.0
"""Less than the 10 s that the Dockerfile gives us."""


@click.command()
@click.option("--pool", help="Only workers of this pool.")
@click.pass_context
def healthcheck(context: click.Context, pool: str | None) -> None:
    """Exit 0 when a worker of this host has renewed within the lease, else 1.

    It asks Redis, so a worker whose event loop hangs is unhealthy too, and so is one without a Redis.
    """
    from aios_dist.cli.entry import say

    try:
        wrong = _ask(pool)
    except AiosError as exc:
        wrong = str(exc)
    if wrong:
        say(wrong)
        context.exit(1)  # also without a Redis: Docker reserves the 2


def _ask(pool: str | None) -> str:
    from aios_dist.cli.session import on_journal
    from aios_dist.journal import Journal

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
