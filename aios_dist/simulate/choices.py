"""What is compared, from what people write: a policy with its modifiers, or a plan over all jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aios_dist import policies
from aios_dist.config import LaneConfig, fault, settings_of
from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid
from aios_dist.model.specs import JobSpec
from aios_dist.policies import Past
from aios_dist.simulate.events import ORACLE, simulate
from aios_dist.simulate.work import Run, SimulatedJob

EVERY = settings_of(LaneConfig)["oldest_every"]
PLANS = "fifo, fixed, agent-first, hybrid:N or agent-first:N"


class Choice(msgspec.Struct, frozen=True):
    """One row of the comparison.

    Attributes:
        name: as it was written.
        policy: of the lane.
        plan: ``fixed``, ``hybrid:4`` …; empty for none.
        oldest_every, fair: as :func:`aios_dist.simulate.simulate` takes them.
    """

    name: str
    policy: str = "fifo"
    plan: str = ""
    oldest_every: int | None = None
    fair: bool = False

    def run(
        self,
        jobs: Sequence[SimulatedJob],
        slots: int,
        weights: Mapping[str, float] | None = None,
        caps: Mapping[str, int] | None = None,
        pasts: Mapping[str, Past] | None = None,
    ) -> Run:
        """Simulate the jobs so, without a log."""
        return simulate(
            jobs,
            slots,
            self.policy,
            plan=arrange(self.plan, jobs) if self.plan else None,
            oldest_every=self.oldest_every,
            fair=self.fair,
            weights=weights,
            caps=caps,
            pasts=pasts,
            log=False,
        )


def of_policy(text: str) -> Choice:
    """A policy by name, with modifiers: ``las``, ``las+fair``, ``remaining+fair+oldest_every=20``.

    Raises:
        InvalidInput: no such modifier.
        ConfigError: no such policy.
    """
    name, *modifiers = text.split("+")
    if name != ORACLE:
        policies.find(name)
    choice = Choice(text, name)
    for modifier in modifiers:
        key, _, value = modifier.partition("=")
        if modifier == "fair":
            choice = msgspec.structs.replace(choice, fair=True)
        elif key == "oldest_every" and value.isdecimal() and not fault(EVERY, int(value)):
            choice = msgspec.structs.replace(choice, oldest_every=int(value))
        else:
            raise InvalidInput(
                f"Policy {text!r}: behind + goes fair or oldest_every=N (0 for never, else from 2), "
                f"not {modifier!r}."
            )
    return choice


def of_plan(text: str) -> Choice:
    """A plan by name; see :data:`PLANS`.

    Raises:
        InvalidInput: no such plan.
    """
    _parts(text)
    return Choice(text if text != "fifo" else "fifo plan", plan=text)


def arrange(text: str, jobs: Sequence[SimulatedJob]) -> Plan:
    """A plan of that name over the jobs, in the order of their arrival; ``:N`` makes groups of N. A job that
    fails stops nobody: all have the same work to do.

    Raises:
        InvalidInput: no such plan.
    """
    mode, size = _parts(text)
    specs = [job.spec() for job in sorted(jobs, key=lambda job: job.arrival)]
    groups: list[list[JobSpec]] = [specs[at : at + size] for at in range(0, len(specs), size)] if size else []
    if mode == "hybrid":
        return hybrid(groups, on_failure="continue")
    if mode == "fixed":
        return fixed(specs, on_failure="continue")
    if mode == "agent-first":
        return agent_first([fifo(group) for group in groups] or specs)
    return fifo(specs)


def _parts(text: str) -> tuple[str, int]:
    """The plan's kind and the size of its groups, 0 for none."""
    mode, _, size = text.partition(":")
    grouped = size.isdecimal() and int(size) > 0
    if (mode in ("hybrid", "agent-first") and grouped) or text in ("fifo", "fixed", "agent-first"):
        return mode, int(size or 0)
    raise InvalidInput(f"There is no plan {text!r}; there are {PLANS} (groups of N jobs).")
