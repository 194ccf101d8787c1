"""Policies: what gives each ready step its rank. One small pure file each: no I/O, no clock.

A rank is ``base + ready`` or ``base`` alone, ``ready`` being the time at which the step became ready. That
time is not an argument because only Redis knows it exactly: the journal adds it in the same atomic write
that makes the step ready, so that no two workers' clocks can disagree about the order.
"""

from __future__ import annotations

from collections.abc import Callable

from aios_dist.errors import ConfigError
from aios_dist.policies.fifo import fifo
from aios_dist.policies.rank import Rank, Waiting

Policy = Callable[[Waiting], Rank]

_POLICIES: dict[str, Policy] = {"fifo": fifo}


def find(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ConfigError: there is none.
    """
    policy = _POLICIES.get(name)
    if policy is None:
        raise ConfigError(f"There is no policy {name!r}; known are {', '.join(sorted(_POLICIES))}.")
    return policy


__all__ = ["Policy", "Rank", "Waiting", "find"]
