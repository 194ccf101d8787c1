"""What every move needs: the model, the choices, saying what is done, and looking."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aios_dist.journal import Claim, Decision, Ticket
from tests.driver.checks import between, wrong
from tests.driver.fleet import Fleet
from tests.driver.known import FENCED
from tests.driver.model import Model, differences
from tests.driver.promises import Promises
from tests.driver.seen import JobSeen, Seen
from tests.driver.sending import MODELS, RANKS, go_on, set_limits, sweep

TENANTS = ("t0", "t1", "t2", "t3")


class Broken(AssertionError):
    """Something does not hold: what, and the moves that led there."""


@dataclass(frozen=True)
class Held:
    """A claim in a worker's hands. ``number``: no two claims of a run have the same."""

    claim: Claim
    number: int
    life: int = 0  # of its job, and its incarnation
    incarnation: int = 0
    models: tuple[str, ...] | None = None


def awaits_a_signal(job: JobSeen) -> bool:
    """A step of it is to begin to wait for a signal that is there: with it, more than that step changes."""
    return any(
        h.kind == "signal" and h.state in ("pending", "dropped") and f"g|{h.label}" in job.fields
        for step, h in job.heads.items()
        if not job.follows(step)
    )


class Core:
    """Moves of one run.

    Attributes:
        random: where every choice comes from.
        every: after how many moves all is looked at.
        scenes: these are among the moves.
        deploys: agents' code changes: jobs are parked, go on, are resumed from an earlier step.
    """

    def __init__(
        self,
        fleet: Fleet,
        random: random.Random,
        *,
        every: int = 1,
        most_open: int = 12,
        scenes: bool = True,
        deploys: bool = False,
    ) -> None:
        self.fleet, self.random = fleet, random
        self.journal = fleet.journal
        self.every, self.most_open, self.scenes, self.deploys = every, most_open, scenes, deploys
        self.model = Model()
        self.model.now = fleet.now
        self.proofs: dict[str, int] = {}
        self.older: dict[str, str] = {}
        self.asked: dict[str, Decision | None] = {}  # at submission
        self.promises = Promises()
        self.held: list[Held] = []
        self.dead: list[Held] = []
        self.decided: dict[str, Decision] = {}
        self.said: list[str] = []
        self.moves: Counter[str] = Counter()
        self.policy = {"llm": "fifo", "far": "fifo"}
        self.rules: dict[str, tuple[str, int, bool]] = {}  # that were said last, as Seen.lane() has them
        self.numbers = 0
        self.texts = 0
        self.again: set[str] = set()
        self.moved = False
        self.ends: list[tuple[str, str, str]] = []
        self.expected_us: dict[str, int] = {}
        self.each = every == 1  # all is looked at after each verb
        self.repeat = True
        self.lenient = False  # whatever a verb answers is right: what it was asked about is half-done
        self.vanished: set[str] = set()  # … and the leases that were there then
        self.gone: list[str] = []  # ids of jobs that have expired
        self.reuse = self.rollback = FENCED
        self.tail = 15  # moves that a report shows
        self.saved: tuple[Any, ...] | None = None
        for lane in self.policy:  # as the first worker does
            self.policy[lane] = policy = random.choice(["fifo", *RANKS])
            every, fair = random.choice([0, 0, 3]), random.choice(["", "tenant"])
            self.run(self.journal.set_lane(lane, policy=policy, oldest_every=every, fair=fair, source="file"))
        for model in MODELS:
            if random.random() < 0.5:
                flight, rpm, tpm = random.choice([0, 1, 3]), random.choice([0, 4]), random.choice([0, 350])
                self.run(set_limits(self.journal, model, flight, rpm, tpm))
        self.seen = fleet.look()
        fleet.journal._follow = self._dies  # type: ignore[method-assign]
        fleet.journal._gather_all = self._dies_gathering  # type: ignore[method-assign]

    async def _dies(self, job: str, more: int) -> tuple[list[Ticket], int]:
        """Who has called goes on with the steps of a wide job; sometimes it dies before the last."""
        for _ in range((len(self.said) * 7) % 3):
            if more:
                *_, more, _ = await self.journal.sweep(job)
        return [], 0

    async def _dies_gathering(self, lanes: Sequence[str]) -> None:
        """Who has set other rules gathers what waits; sometimes it dies before the last slice."""
        for _ in range((len(self.said) * 5) % 3):
            if not await self.journal.gather(lanes):
                return

    # Saying and looking ----------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """What is done now: for the report."""
        self.said.append(text)

    def broken(self, lines: Iterable[str]) -> Broken:
        """… with the moves before it."""
        last = "\n  ".join(self.said[-self.tail :])
        return Broken("\n".join(lines) + f"\nafter {len(self.said)} moves, the last of them:\n  {last}")

    def expect(self, got: object, *wanted: object) -> None:
        """An answer is one of these."""
        if got not in wanted and not self.lenient:
            raise self.broken(
                [f"{self.said[-1]}: answered {got!r}, should be {' or '.join(map(repr, wanted))}"]
            )

    def look(self) -> Seen:
        """Compare Redis with the model, with itself, and with what it was.

        Raises:
            Broken: something does not hold.
        """
        if any(awaits_a_signal(job) for job in self.fleet.look_without_ends().jobs.values()):
            self.fleet.run(sweep(self.journal))
        before, now = self.seen, self.fleet.look()
        ends = [
            ("parked", f["parked"], f.get("in", "")) if "parked" in f
            else ("plan" if "plan" in f else "job", f.get("plan") or f["job"], f["state"])
            for _, f in now.ends
        ]  # fmt: skip
        self.model.now = self.fleet.now
        lines = [
            *self.follow(now),
            *wrong(now, self.vanished),
            *between(before, now, again=frozenset(self.again), moved=self.moved),
            *differences(self.model, now, ends),
            *self._served(now),
            *(line for id, job in now.jobs.items() for line in self.proof(id, job.text("dg"))),
        ]
        if now.broken_verbs > before.broken_verbs:
            lines.append("a verb broke")
        self.seen, self.again, self.moved = now, set(), False
        if lines:
            raise self.broken(lines)
        return now

    def follow(self, now: Seen) -> list[str]:
        """Steps that their model kept waiting have gone to another of its fallbacks: we hear of it."""
        lines = []
        for id, job in self.model.jobs.items():
            for n, step in enumerate(job.steps):
                h = now.jobs[id].heads.get(str(n)) if id in now.jobs else None
                if h is None or h.kind != "llm" or (h.lane, h.label) == (step.lane, step.label):
                    continue
                first = (step.first or (step.lane, step.label))[1]
                chain = [first, *now.fallbacks(first)]
                behind = chain[chain.index(step.label) + 1 :] if step.label in chain else []
                if step.state in ("done", "failed") or MODELS[h.label] != h.lane or h.label not in behind:
                    at = f"{h.label} on {h.lane}"
                    lines.append(f"{id}/{n} waits for {at}, by the model {step}: {chain}")
                elif self.each and not now.keeps_waiting(step.label, self.fleet.now):
                    lines.append(f"{id}/{n} has gone to {h.label}, and {step.label} keeps nobody waiting")
                else:
                    self.model.diverted(id, step, h.lane, h.label)
        return lines

    def proof(self, id: str, basis: str) -> list[str]:
        """What a program has seen is told apart from all that anyone ever saw."""
        if id in self.model.jobs:
            stands = self.model.jobs[id].proof
            if self.proofs.setdefault(basis, stands) != stands:
                return [f"{id} stands elsewhere than it did, and both are {basis!r}"]
        return []

    def right(self, id: str, decision: Decision | None) -> bool:
        """Whether it was made from where the job stands now."""
        job = self.model.jobs.get(id)
        return (
            job is not None
            and decision is not None
            and self.proofs.get(decision.basis) == job.proof
            and decision.first == len(job.steps)
        )

    def _served(self, now: Seen) -> list[str]:
        return [
            f"{id} has had {job.number('us')} µs in calls, by its steps {self.expected_us[id]}"
            for id, job in now.jobs.items()
            if id in self.expected_us and job.number("us") != self.expected_us[id]
        ]

    def run(self, verb: Any) -> Any:
        """A verb."""
        self.model.now = self.fleet.now
        answer = self.fleet.run(verb)
        if self.fleet.client.exists(f"{self.fleet.prefix}plans") and not self.lenient:
            self.fleet.run(go_on(self.journal))  # as the reconciler is woken to do
        if not self.lenient and len(self.said) % 4 == 0:  # … or has not been yet
            self.fleet.run(sweep(self.journal))
        return answer

    def twice(self) -> bool:
        """The answer was lost: the same is sent again."""
        return self.repeat and self.random.random() < 0.12
