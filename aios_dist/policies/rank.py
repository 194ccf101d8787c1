"""What a policy looks at and what it gives.

A rank is not a number yet but the small sum that makes one: some of it only Redis knows exactly (the time
of becoming ready, the priority that the job has at that moment), and adds in the same atomic write that
makes the step ready. So no two workers' clocks can disagree about the order, and a priority can be changed
while a step waits without asking a policy again. :meth:`Rank.value` is that sum; the journal's Lua has the
same, and a test compares the two.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

SECOND_US = 1e6

Since = Literal["ready", "submitted", "round"]
"""What a rank counts from: the step's becoming ready, its job's submission (both µs since the epoch), or the
round of the group that it belongs to (a number, see ``round_robin``)."""


class Past(NamedTuple):
    """What the fleet remembers of an agent's runs that succeeded.

    Attributes:
        totals: seconds in calls of each run, sorted.
        steps: calls of those runs, all together.
    """

    totals: tuple[float, ...] = ()
    steps: int = 0

    @property
    def step_s(self) -> float:
        """Mean seconds of a call; 0 where nothing is known."""
        return sum(self.totals) / self.steps if self.steps else 0.0


class Waiting(NamedTuple):
    """A step that is about to wait.

    Attributes:
        agent: the job's agent.
        tenant: on whose behalf it runs.
        number: the step's number in its job, which is how many steps came before it.
        served: seconds that the job has spent in calls so far.
        expected_steps: how many steps the job will have, where the caller has said so.
        deadline: seconds from the submission to the job's deadline, where it has one.
        past: the agent's earlier runs.
    """

    agent: str
    tenant: str = "default"
    number: int = 0
    served: float = 0.0
    expected_steps: int | None = None
    deadline: float | None = None
    past: Past = Past()


class Rank(NamedTuple):
    """``base + since − per_priority × priority``; the lowest runs first.

    Attributes:
        base: µs (rounds with ``since="round"``).
        since: see :data:`Since`.
        per_priority: µs that one level of the job's priority is worth.
        group: with ``since="round"``: whose round it is.
    """

    base: float = 0.0
    since: Since = "ready"
    per_priority: float = 0.0
    group: str = ""

    def value(self, *, ready: float, submitted: float, round: float = 0.0, priority: int = 0) -> float:
        """The number.

        Args:
            ready, submitted: µs since the epoch.
            round: the group's next round.
            priority: of the job, 0 to 9.
        """
        since = {"ready": ready, "submitted": submitted, "round": round}[self.since]
        return self.base + since - self.per_priority * priority
