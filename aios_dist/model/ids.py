"""Ids of jobs and plans: those that we make, and what is kept free for a fleet on several Redis.

Callers give ids of letters, digits and ``. _ : -`` (:data:`aios_dist.config.bounds.NAME`). A ``~`` is in none
of them and in no fleet's name: ``s3~trip-0b1c`` will be an id that was made on shard 3 (docs/scale.md). On
one Redis an id names no shard. What is made for a plan or out of a job goes where that is, so its id begins
as that one's does.
"""

from __future__ import annotations

import re
import uuid

OF_A_SHARD = re.compile(r"s(?:0|[1-9][0-9]{0,3})~(?=.)")
"""How an id begins that was made on a shard. None that is given can."""

LONGEST_NAME = 100
"""Characters of an agent's name, or of the job that a fork is of, in an id: an id has 128 at the most."""


def of_job(agent: str, beside: str = "") -> str:
    """A new job's; ``beside``: the id of a plan that it comes into."""
    shard = OF_A_SHARD.match(beside)
    return f"{shard[0] if shard else ''}{agent[:LONGEST_NAME]}-{uuid.uuid4().hex[:12]}"


def of_plan() -> str:
    """A new plan's."""
    return f"plan-{uuid.uuid4().hex[:12]}"


def of_member(plan: str, place: int) -> str:
    """That of a plan's job which was given none."""
    return f"{plan}.{place}"


def of_fork(job: str) -> str:
    """A new fork's of that job."""
    return f"{job[:LONGEST_NAME]}-fork-{uuid.uuid4().hex[:8]}"
