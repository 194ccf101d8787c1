"""What a policy is, what it looks at and what it gives.

A rank is not a number yet but the small sum that makes one: some of it only Redis knows exactly (the time
of becoming ready, the priority that the job has at that moment), and adds in the same atomic write that
makes the step ready. So no two workers' clocks can disagree about the order, and a priority can be changed
while a step waits without asking a policy again. :meth:`Rank.value` is that sum; the journal's Lua has the
same, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable
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
        past: the agent's earlier runs; always empty for a policy that does not say that it looks back.
        cost: weighted tokens that it is estimated to take (a prompt token 1, an output token 2), which is
            what its tenant is charged; 0 where nothing is estimated.
    """

    agent: str
    tenant: str = "default"
    number: int = 0
    served: float = 0.0
    expected_steps: int | None = None
    deadline: float | None = None
    past: Past = Past()
    cost: float = 0.0


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


class Policy(NamedTuple):
    """A policy: all that anybody needs to know of it stands here, in the ``POLICY`` of its file.

    Attributes:
        name: in aios.toml, on the command line and in Redis; the file's, with ``-`` for ``_``.
        rank: what it says of a step that is about to wait; pure, and told all by its argument. The first line
            of the file's docstring says which step goes first, the rest what that is good for.
        starves: a step can be passed by any number of others: so ``oldest_every`` is 10 unless it is set.
        looks_back: it reads ``Waiting.past``. The fleet fetches earlier runs only for such a policy, and
            neither the fleet nor the simulator gives them to any other.
        source: the paper, with its year, or AIOS itself.
    """

    name: str
    rank: Callable[[Waiting], Rank]
    starves: bool
    looks_back: bool
    source: str

    def of(self, step: Waiting, past: Past | None = None) -> Rank:
        """The rank of a step.

        Args:
            step: what is known of it.
            past: the agent's earlier runs, where they are known; only a policy that looks back is told.
        """
        if self.looks_back and past is not None:
            step = step._replace(past=past)
        return self.rank(step)
