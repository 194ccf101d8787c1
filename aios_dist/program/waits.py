"""Who waits for a job inside a tool or an agent waits in the slot that the job may need.

With as many parents as slots all of them wait for children that never get one, until their time is over.
"""

from __future__ import annotations

import threading

from aios_dist.config import FleetConfig
from aios_dist.config.redis_urls import address
from aios_dist.errors import ConfigError, UsageError
from aios_dist.program.commands import in_tool, in_turn
from aios_dist.program.foreign import misuse
from aios_dist.threads import real as real_threads

RESULT_TIMEOUT_S = 3600.0
"""What ``result()`` waits when not told otherwise: every wait has an end."""

SENTENCE = (
    "{who} cannot wait for a job ({what}): it would hold the slot that the job may need. Await the other "
    "agent in the agent itself, await child(x): its steps are then steps of this job. Or submit it in a "
    "tool, and let the agent look again from time to time: await sleep(…), then a tool that asks for "
    "result(timeout=0)."
)

_served: list[tuple[str, str, int, str]] = []
"""The fleet that this process is a worker of."""


def serves(fleet: FleetConfig) -> None:
    """This process is a worker of that fleet: what its tools wait for may be waiting for them."""
    _served[:] = [_fleet(fleet)]


def check(what: str, fleet: FleetConfig, timeout: float = 1.0) -> None:
    """Refuse to wait where that would hold a slot; a tool may look at a job, and wait for other fleets.

    Args:
        what: the call, as "result()".
        fleet: the one whose job it is.
        timeout: seconds; with 0 nobody waits.

    Raises:
        Misused: an agent's program asks, in whatever process it runs: it fails, whoever catches this.
        UsageError: a tool asks.
    """
    if in_turn.value:
        raise misuse(said=SENTENCE.format(who="An agent", what=what))
    if timeout != 0 and (in_tool.get() or _beside()) and _fleet(fleet) in _served:
        raise UsageError(SENTENCE.format(who="A tool", what=what))


def _beside() -> bool:
    """In a thread that a tool may have begun (a pool, say), which knows nothing of the tool's context."""
    return threading.current_thread() is not threading.main_thread() and (
        real_threads.ident() not in real_threads.fleets
    )


def _fleet(fleet: FleetConfig) -> tuple[str, str, int, str]:
    """Which one it is, however its Redis is spelled."""
    try:
        where = address(fleet.redis_url)
    except ConfigError:
        return fleet.name, fleet.redis_url, 0, ""
    if len(where.hosts) != 1:
        return fleet.name, fleet.redis_url, 0, ""
    ((host, port),) = where.hosts
    return fleet.name, "127.0.0.1" if host in ("localhost", "::1") else host, port, str(where.db)
