"""What an agent may know between its awaits, because its journal says it: time and chance."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from aios_dist.model.chance import Known, here


def now() -> datetime:
    """The time in UTC, as the journal has it: when the last thing that the agent awaited came (before that:
    when the job was submitted). It stands still between awaits, and never goes back.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return datetime.fromtimestamp(_known("now").now, UTC)


def uuid() -> str:
    """A random UUID (version 4), as text: another one at each call, the same ones on each replay.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return str(UUID(bytes=_known("uuid").draw(), version=4))


def random() -> float:
    """A random number from 0 to below 1: another one at each call, the same ones on each replay.

    For more than that, make a generator of Python's with it: ``Random(uuid())``.

    Raises:
        RuntimeError: not inside an agent that a fleet runs.
    """
    return (int.from_bytes(_known("random").draw()[:8], "big") >> 11) / (1 << 53)


def _known(what: str) -> Known:
    known = here.known
    if known is None:
        raise RuntimeError(
            f"{what}() is for agents that a fleet runs; elsewhere, in tools too, take Python's own."
        )
    return known
