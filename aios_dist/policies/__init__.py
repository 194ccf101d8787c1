"""Policies: what gives each ready step its rank. One small pure file each: no I/O, no clock.

The fleet and the simulator use the same functions. :mod:`aios_dist.simulate.ready` is the set that they
order, as the simulator has it; the fleet's is in Redis.

What every policy keeps to (``tests/contracts/test_policies.py``):

* The same facts give the same rank, on every machine and at any time.
* A rank is a finite number below 2**53. Where it counts from becoming ready, two steps that became ready a
  microsecond apart never come to the same one.
* Of two steps that are alike but for the time of becoming ready, the earlier never ranks behind the later.
* A policy orders what waits and never holds it back: while a step may run, one does.

And how long a step can be passed by others:

===========================  ==================================================================
``fifo``                     by no step that became ready after it
``round-robin``              by at most two steps of each other agent, before its agent's next one
``priority``                 by steps that became ready at most nine minutes after it
``las remaining deadline``   by any number: so ``oldest_every`` is 10 (any policy can have it)
===========================  ==================================================================

The bound of ``oldest_every`` is in :class:`aios_dist.simulate.ready.ReadySet`.
"""

from __future__ import annotations

from collections.abc import Callable

from aios_dist.errors import ConfigError
from aios_dist.policies.deadline import deadline
from aios_dist.policies.fifo import fifo
from aios_dist.policies.las import las
from aios_dist.policies.priority import priority
from aios_dist.policies.rank import Past, Rank, Waiting
from aios_dist.policies.remaining import remaining
from aios_dist.policies.round_robin import round_robin

Policy = Callable[[Waiting], Rank]

_POLICIES: dict[str, Policy] = {
    "deadline": deadline,
    "fifo": fifo,
    "las": las,
    "priority": priority,
    "remaining": remaining,
    "round-robin": round_robin,
}
_STARVE = ("deadline", "las", "remaining")

OLDEST_EVERY = 10
"""Under a policy that can starve a step, one dispatch in so many goes to the step that has waited longest."""


def find(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ConfigError: there is none.
    """
    policy = _POLICIES.get(name)
    if policy is None:
        raise ConfigError(f"There is no policy {name!r}; known are {', '.join(names())}.")
    return policy


def names() -> list[str]:
    """All policies, sorted."""
    return sorted(_POLICIES)


def oldest_every(name: str, wanted: int | None = None) -> int:
    """How often a dispatch goes to the step that has waited longest: every Nth, 0 for never.

    Args:
        name: the policy.
        wanted: what was asked for; None for the policy's own.
    """
    if wanted is not None:
        return wanted
    return OLDEST_EVERY if name in _STARVE else 0


__all__ = ["OLDEST_EVERY", "Past", "Policy", "Rank", "Waiting", "find", "names", "oldest_every"]
