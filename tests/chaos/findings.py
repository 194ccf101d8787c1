"""What was done to a fleet, and what the evidence says came of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.machines import Kill, Outage
from tests.chaos.stories import Attempt


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
    answered_again_excused: list[str] = field(default_factory=list)
    more_calls_than_attempts: list[str] = field(default_factory=list)
    taken_from_the_living: list[str] = field(default_factory=list)
    tools_run_again: list[str] = field(default_factory=list)
    over_limits: list[str] = field(default_factory=list)
    tools_run_again_excused: int = 0
    repeated: int = 0
    in_flight: int = 0
    forgotten: int = 0
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
        unlimited: from when to when limits need not hold: they were deleted, or Redis forgot calls.
    """

    seed: int
    kills: Sequence[Kill]
    outages: Sequence[Outage]
    attempts: int
    slack_s: float
    limits: Mapping[str, int] = field(default_factory=dict)
    unlimited: Sequence[tuple[float, float]] = ()

    def killed(self, attempt: Attempt) -> bool:
        """Its worker was, before it ended."""
        return self.died(attempt) <= attempt.end

    def died(self, attempt: Attempt) -> float:
        """When its worker was killed, or never."""
        return next((kill.at for kill in self.kills if kill.pid == attempt.pid), math.inf)

    def unknown(self, at: float) -> bool:
        """Redis was away when a claim was answered."""
        return any(outage.start - 1.0 <= at <= outage.end for outage in self.outages)

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
        return any(o.lost_from is not None and start - self.slack_s <= o.start <= end for o in self.outages)
