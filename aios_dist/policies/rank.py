"""What a policy looks at and what it gives."""

from __future__ import annotations

from typing import NamedTuple


class Waiting(NamedTuple):
    """A step that is about to wait.

    Attributes:
        agent: the job's agent.
        tenant: on whose behalf it runs.
        number: the step's number in its job.
    """

    agent: str
    tenant: str
    number: int


class Rank(NamedTuple):
    """``base + from_ready × ready``; the lowest runs first. ``ready`` is µs on Redis' clock."""

    base: float = 0.0
    from_ready: bool = True
