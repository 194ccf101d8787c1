"""Policies: what gives each ready step its rank. One small pure file each: no I/O, no clock.

A new policy is one new file in this folder with a ``POLICY`` (:class:`aios_dist.policies.rank.Policy`).
Whoever has to know of policies takes them from here: aios.toml, the command line, the fleet, the simulator,
the benchmark, the contract suite, and ``docs/policies.md`` (written by ``python -m tests.unit.test_docs``).

What every policy keeps to (``tests/contracts/test_policies.py``):

* The same facts give the same rank, on every machine and at any time.
* A rank is a finite number below 2**53. Where it counts from becoming ready, two steps that became ready a
  microsecond apart never come to the same one.
* Of two steps that are alike but for the time of becoming ready, the earlier never ranks behind the later.
* A policy orders what waits and never holds it back: while a step may run, one does.
* It says of itself what is so: whether a step can be passed by any number of others, and whether it looks at
  an agent's earlier runs.
"""

from __future__ import annotations

import importlib
import pkgutil

from aios_dist.errors import ConfigError
from aios_dist.policies.rank import Past, Policy, Rank, Waiting

OLDEST_EVERY = 10
"""Under a policy that can starve a step, one dispatch in so many goes to the step that has waited longest."""


def in_folder() -> dict[str, Policy]:
    """The policies of the folder by name, sorted.

    Raises:
        ImportError: a file that brings none, or one of another name: a mistake, which stops everything.
    """
    found: dict[str, Policy] = {}
    for file in pkgutil.iter_modules(__path__):
        if file.name == "rank":
            continue
        policy = getattr(importlib.import_module(f"{__name__}.{file.name}"), "POLICY", None)
        if not isinstance(policy, Policy) or policy.name.replace("-", "_") != file.name:
            raise ImportError(f"{__name__}.{file.name} has no POLICY of that name; see {__name__}.rank.")
        found[policy.name] = policy
    return dict(sorted(found.items()))


_POLICIES = in_folder()


def get(name: str) -> Policy | None:
    """The policy of that name; None where this version has none (a lane's may be of a newer one)."""
    return _POLICIES.get(name)


def find(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ConfigError: there is none.
    """
    policy = _POLICIES.get(name)
    if policy is None:
        raise ConfigError(f"There is no policy {name!r}; known are {', '.join(_POLICIES)}.")
    return policy


def names() -> list[str]:
    """All policies, sorted."""
    return list(_POLICIES)


def oldest_every(name: str, wanted: int | None = None) -> int:
    """How often a dispatch goes to the step that has waited longest: every Nth, 0 for never.

    Args:
        name: the policy; of one that there is not (the simulator's oracle), nothing is known.
        wanted: what was asked for; None for the policy's own.
    """
    if wanted is not None:
        return wanted
    policy = _POLICIES.get(name)
    return OLDEST_EVERY if policy is not None and policy.starves else 0


__all__ = ["OLDEST_EVERY", "Past", "Policy", "Rank", "Waiting", "find", "get", "names", "oldest_every"]
