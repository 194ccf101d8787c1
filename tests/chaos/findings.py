"""What was done to a fleet, and what the evidence says came of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.machines import FLEET, Farewell, Kill, Outage, Pause, Silence
from tests.chaos.stories import Attempt

WOKEN_S = 0.25
"""So long after it went on, what a worker has begun before may still reach the provider."""


@dataclass
class Finding:
    """What the evidence says; lists name what speaks against us, the rest are measurements."""

    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unexplained_failures: list[str] = field(default_factory=list)
    explained_failures: list[str] = field(default_factory=list)
    written_twice: list[str] = field(default_factory=list)
    calls_after_outcome: list[str] = field(default_factory=list)
    answered_again: list[str] = field(default_factory=list)
    begun_again: list[str] = field(default_factory=list)
    more_calls_than_attempts: list[str] = field(default_factory=list)
    taken_from_the_living: list[str] = field(default_factory=list)
    tools_run_again: list[str] = field(default_factory=list)
    over_limits: list[str] = field(default_factory=list)
    tools_run_again_excused: int = 0
    repeated_excused: int = 0
    answered_again_excused: int = 0
    attempts_lost: int = 0
    ready_again: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    steps: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    longest_pause_s: float = 0.0
    longest_pause_at: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class Done:
    """What was done to the fleet, and what a run knows of it beside the journal.

    Attributes:
        seed: of the fake LLM's answers.
        attempts: calls of one step at the most, by the model's setting.
        slack_s: by how much a worker may be behind what Redis has told it.
        limits: the most calls at a time, by model and by ``@tenant``.
        unlimited: from when to when limits need not hold: they were deleted, or Redis forgot calls, or a
            worker was stopped with calls in flight.
        pauses: when which worker was stopped.
        farewells: when which worker had ended, because another release came.
        silences: from when on lines of which worker were silent.
    """

    seed: int
    kills: Sequence[Kill]
    outages: Sequence[Outage]
    attempts: int
    slack_s: float
    limits: Mapping[str, int] = field(default_factory=dict)
    unlimited: Sequence[tuple[float, float]] = ()
    pauses: Sequence[Pause] = ()
    farewells: Sequence[Farewell] = ()
    silences: Sequence[Silence] = ()

    @property
    def long_pauses(self) -> list[Pause]:
        """Those in which leases may have ended; shorter ones excuse nothing."""
        least = FLEET.lease - FLEET.renew - self.slack_s
        return [pause for pause in self.pauses if pause.end - pause.start >= least]

    def killed(self, attempt: Attempt) -> bool:
        """Its worker was, before it ended; or was stopped for so long that it is as if."""
        return self.died(attempt) <= attempt.end or self.stopped(attempt)

    def stopped(self, attempt: Attempt) -> bool:
        """Its worker was, for so long that its leases may have ended."""
        return any(
            pause.pid == attempt.pid
            and pause.start <= attempt.end + self.slack_s
            and pause.end >= attempt.start
            for pause in self.long_pauses
        )

    def woken(self, attempts: Sequence[Attempt], at: float) -> bool:
        """A worker that was stopped in an attempt that was over by then went on just now: between its look at
        its lease and the call it stood still. Redis may have forgotten the attempt meanwhile."""
        over = [attempt for attempt in attempts if attempt.end < at]
        return any(
            self.put_back_between(pause.start - FLEET.lease, pause.end)
            or any(attempt.pid == pause.pid and attempt.start <= pause.end for attempt in over)
            for pause in self.long_pauses
            if pause.end <= at <= pause.end + WOKEN_S
        )

    def paused(self, start: float, end: float) -> float:
        """Seconds between these times in which a worker was stopped for long."""
        return sum(max(0.0, min(end, p.end) - max(start, p.start)) for p in self.long_pauses)

    def died(self, attempt: Attempt) -> float:
        """When its worker was killed, or never."""
        return next((kill.at for kill in self.kills if kill.pid == attempt.pid), math.inf)

    def unknown(self, at: float) -> bool:
        """Redis was away when a claim was answered."""
        return any(outage.start - 1.0 <= at <= outage.end for outage in self.outages)

    def unheard(self, attempt: Attempt, at: float) -> bool:
        """The answer to the claim was swallowed, and its worker had ended at that time: it never knew."""
        late = FLEET.redis_timeout + self.slack_s
        return any(end.pid == attempt.pid and end.at <= at + self.slack_s for end in self.farewells) and any(
            line.pid == attempt.pid and abs(line.at - attempt.start) <= late for line in self.silences
        )

    def forgotten(self, *times: float | None) -> bool:
        """What Redis has forgotten began or ended at one of these times.

        A claim comes a moment before its call, a commit a moment after.
        """
        return any(
            outage.lost_from - self.slack_s <= at <= outage.start + self.slack_s
            for outage in self.outages
            if outage.lost_from is not None
            for at in times
            if at is not None
        )

    def put_back_between(self, start: float, end: float) -> bool:
        """Redis was put back between these times, as far as a worker knew."""
        back = (outage for outage in self.outages if outage.lost_from is not None)
        return any(start - self.slack_s <= outage.end and outage.start <= end for outage in back)
