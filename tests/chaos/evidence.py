"""What is left after a chaos run, and what it proves.

The journal tells of each step when it was claimed by whom, when a claim was lost and when its outcome was
written; the fake LLM tells when each call began and whether it was answered whole. Both clocks are this
machine's, so the two stories can be laid side by side without a margin:

* An *attempt* begins with a claim of a step and ends when the step is given back, taken back, claimed again
  or its outcome is written, whichever is first.
* An attempt is *excused* if its worker was killed before it ended. A Redis that was away excuses a claim
  whose answer was lost, so that nobody knew of it; it excuses no call: its worker has the answer.
* A call *belongs* to the attempt in which it began; each attempt has one call at the most.
* A call is *answered* if the fake LLM wrote all of its answer: status 200 and no fault.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from aios_dist.jobs import Kind, Outcome, decode
from aios_dist.journal.keys import PERMANENT, Keys
from aios_dist.runtime.steps import idempotency_key
from tests.chaos.machines import Kill, Outage

Excused = Callable[["Attempt"], bool]

ENDS = ("started", "released", "retry", "done", "failed")
"""Events of a step that end the attempt before them."""


@dataclass(frozen=True)
class Attempt:
    """One claim of a step."""

    start: float
    end: float
    worker: str

    @property
    def pid(self) -> int:
        """The worker's process."""
        return int(self.worker.rsplit(":", 2)[1])


@dataclass
class StepStory:
    """What the journal tells of a step. Times are Unix time; ``sent`` is the key of its calls."""

    key: str
    sent: str
    kind: str
    attempts: list[Attempt]
    lost_at: list[float]
    written_at: list[float]
    order: int
    outcome: Outcome | None


@dataclass
class JobStory:
    """What the journal tells of a job."""

    id: str
    state: str
    outcomes: int
    steps: list[StepStory]
    turn: StepStory | None
    result: bytes


def read_jobs(client: redis.Redis, keys: Keys, ids: Sequence[str]) -> list[JobStory]:
    """The stories of these jobs; one that is not in the journal has the state ``lost``."""
    found: list[JobStory] = []
    fleet = keys.prefix.partition("{")[2].partition("}")[0]
    for at in range(0, len(ids), 100):
        part = ids[at : at + 100]
        pipe = client.pipeline(transaction=False)
        for id in part:
            pipe.hgetall(keys.job(id))
            pipe.lrange(keys.events(id), 0, -1)
        answers = pipe.execute()
        found += [_job(fleet, id, answers[2 * n], answers[2 * n + 1]) for n, id in enumerate(part)]
    return found


def _job(fleet: str, id: str, facts: dict[bytes, bytes], packed: list[bytes]) -> JobStory:
    if b"st" not in facts:
        return JobStory(id, "lost", 0, [], None, b"")
    events: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for item in packed:
        at, what, step, extra = msgspec.msgpack.decode(item)
        events[step].append((int(at) / 1e6, what, extra))
    steps = [_step(fleet, id, str(n), facts, events[str(n)]) for n in range(int(facts[b"n"]))]
    turn = _step(fleet, id, "t", facts, events["t"]) if b"ht" in facts else None
    return JobStory(id, facts[b"st"].decode(), int(facts.get(b"v", 0)), steps, turn, facts.get(b"res", b""))


def _step(
    fleet: str, job: str, number: str, facts: dict[bytes, bytes], events: list[tuple[float, str, str]]
) -> StepStory:
    head = msgspec.msgpack.decode(facts[f"h{number}".encode()])
    claims = [(n, at, extra) for n, (at, what, extra) in enumerate(events) if what == "started"]
    ends = [next((at for at, what, _ in events[n + 1 :] if what in ENDS), math.inf) for n, _, _ in claims]
    raw = facts.get(f"o{number}".encode())
    return StepStory(
        key=f"{job}/{number}",
        sent=idempotency_key(fleet, facts[b"dg"].decode().partition(".")[0], number, head[13], head[12]),
        kind=head[0],
        attempts=[Attempt(at, end, worker) for (_, at, worker), end in zip(claims, ends, strict=True)],
        lost_at=[at for at, what, extra in events if what == "released" and extra == "lease ended"],
        written_at=[at for at, what, _ in events if what in ("done", "failed")],
        order=head[10],
        outcome=decode(raw, Outcome) if raw else None,
    )


@dataclass
class Sampler:
    """Looks at outcomes while the run goes on: one that has been seen never changes."""

    keys: Keys
    seen: dict[str, bytes] = field(default_factory=dict)
    changed: list[str] = field(default_factory=list)
    looks: int = 0
    _at: int = 0

    def look(self, client: redis.Redis, ids: Sequence[str], count: int = 40) -> None:
        """The next ``count`` jobs in turn."""
        some = [ids[(self._at + n) % len(ids)] for n in range(min(count, len(ids)))]
        self._at = (self._at + len(some)) % len(ids)
        pipe = client.pipeline(transaction=False)
        for id in some:
            pipe.hgetall(self.keys.job(id))
        for id, facts in zip(some, pipe.execute(), strict=True):
            for name, value in facts.items():
                if name[:1] == b"o" and name[1:].isdigit():
                    key = f"{id}/{name[1:].decode()}"
                    self.looks += 1
                    if self.seen.setdefault(key, value) != value:
                        self.changed.append(key)


@dataclass
class Finding:
    """What the evidence says; lists name what speaks against us, the rest are measurements."""

    lost: list[str] = field(default_factory=list)
    unexplained_failures: list[str] = field(default_factory=list)
    explained_failures: list[str] = field(default_factory=list)
    written_twice: list[str] = field(default_factory=list)
    calls_after_outcome: list[str] = field(default_factory=list)
    answered_again: list[str] = field(default_factory=list)
    answered_again_excused: list[str] = field(default_factory=list)
    more_calls_than_attempts: list[str] = field(default_factory=list)
    taken_from_the_living: list[str] = field(default_factory=list)
    tools_run_again: list[str] = field(default_factory=list)
    tools_run_again_excused: int = 0
    repeated: int = 0
    in_flight: int = 0
    attempts_lost: int = 0
    ready_again: list[float] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    steps: int = 0
    calls: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    longest_pause_s: float = 0.0
    longest_pause_at: float = 0.0
    seconds: float = 0.0


def weigh(
    jobs: Iterable[JobStory],
    calls: Iterable[dict[str, Any]],
    runs: Iterable[tuple[str, float]],
    kills: Sequence[Kill],
    outages: Sequence[Outage],
    attempts: int,
) -> Finding:
    """Lay the stories side by side.

    Args:
        jobs: what the journal tells.
        calls: what the fake LLM tells.
        runs: job and time of each run of a tool.
        kills, outages: what was done to the fleet.
        attempts: calls of one step at the most, by the model's setting.
    """
    found = Finding()
    killed = {kill.pid: kill.at for kill in kills}
    jobs = list(jobs)
    sent = {step.sent: step.key for job in jobs for step in job.steps}
    by_step: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for call in sorted(calls, key=lambda c: c["start"]):
        key = call["headers"].get("idempotency-key", "?")
        by_step[sent.get(key, key)].append(call)
        found.calls += 1
        if call["fault"]:
            found.faults[call["fault"]] += 1
    by_job: defaultdict[str, list[float]] = defaultdict(list)
    for name, at in runs:
        by_job[name].append(at)
    written: list[float] = []

    def excused(attempt: Attempt) -> bool:
        return killed.get(attempt.pid, math.inf) <= attempt.end

    def unknown(attempt: Attempt) -> bool:
        """Redis was away when the claim was answered."""
        return any(outage.start - 1.0 <= attempt.start <= outage.end for outage in outages)

    for job in jobs:
        if job.state in ("lost", "running", "waiting", "paused"):
            found.lost.append(f"{job.id} is {job.state}")
            continue
        _weigh_end(found, job, by_step, killed, attempts)
        orders = sorted(step.order for step in job.steps if step.order)
        if orders != list(range(1, job.outcomes + 1)):
            found.written_twice.append(f"{job.id}: orders {orders}, {job.outcomes} outcomes")
        for step in [*job.steps, *([job.turn] if job.turn else [])]:
            found.steps += step.key[-1] != "t"
            written += step.written_at
            if len(step.written_at) > 1:
                found.written_twice.append(f"{step.key} at {step.written_at}")
            _weigh_losses(found, step, killed, by_step.get(step.key, []), unknown)
            if step.kind == Kind.LLM:
                _weigh_calls(found, step, by_step.pop(step.key, []), excused)
            elif step.kind == Kind.TOOL:
                _weigh_runs(found, step, sorted(by_job.pop(job.id, [])), excused)
    if by_step:
        found.calls_after_outcome += [f"{key}: a call of no step" for key in by_step]
    written.sort()
    pauses = [(after - before, before) for before, after in itertools.pairwise(written)]
    found.longest_pause_s, found.longest_pause_at = max(pauses, default=(0.0, 0.0))
    found.seconds = written[-1] - written[0] if written else 0.0
    return found


def _weigh_end(
    found: Finding, job: JobStory, calls: dict[str, list[dict[str, Any]]], killed: dict[int, float], most: int
) -> None:
    """A job that failed says why, and what was done to the fleet must bear it out."""
    if job.state == "done":
        return
    for step in job.steps:
        error = step.outcome.error if step.outcome is not None else None
        if error is None:
            continue
        bad = sum(1 for call in calls.get(step.key, ()) if call["fault"])
        lost = sum(1 for attempt in step.attempts if attempt.pid in killed)
        if bad >= most or lost >= 3:
            found.explained_failures.append(f"{step.key}: {error.get('type')}, {bad} faults, {lost} kills")
            return
    found.unexplained_failures.append(f"{job.id} is {job.state}: {job.result[:300]!r}")


def _weigh_losses(
    found: Finding,
    step: StepStory,
    killed: dict[int, float],
    calls: list[dict[str, Any]],
    unknown: Excused,
) -> None:
    starts = [attempt.start for attempt in step.attempts]
    for at in step.lost_at:
        attempt = step.attempts[bisect.bisect_right(starts, at) - 1]
        found.attempts_lost += 1
        died, again = killed.get(attempt.pid, math.inf), bisect.bisect_right(starts, at)
        called = any(attempt.start <= call["start"] <= at for call in calls)
        # Where nobody claimed it again, its worker regained it, or its late answer was kept.
        if died > at and again < len(starts) and (called or not unknown(attempt)):
            found.taken_from_the_living.append(f"{step.key} from {attempt.worker} at {at:.3f}")
        if died <= at:
            found.ready_again.append(at - max(died, attempt.start))
            if again < len(starts):
                found.recoveries.append(starts[again] - max(died, attempt.start))


def _weigh_calls(found: Finding, step: StepStory, calls: list[dict[str, Any]], excused: Excused) -> None:
    starts = [attempt.start for attempt in step.attempts]
    held: Counter[int] = Counter()
    answered: list[tuple[int, float]] = []
    for call in calls:
        place = bisect.bisect_right(starts, call["start"]) - 1
        held[place] += 1
        if place < 0:
            found.more_calls_than_attempts.append(f"{step.key}: a call before any claim")
        if step.written_at and call["start"] > step.written_at[0]:
            found.calls_after_outcome.append(
                f"{step.key}: call {call['number']} at {call['start']:.6f}, written {step.written_at[0]:.6f}"
            )
        if call["status"] == 200 and not call["fault"]:
            answered.append((place, call["end"]))
    for place, count in held.items():
        if count > 1 and place >= 0:
            found.more_calls_than_attempts.append(f"{step.key}: {count} calls in attempt {place + 1}")
    # Calls that no fault of the provider made necessary.
    good = [call for call in calls if not call["fault"]]
    found.repeated += max(0, len(good) - 1)
    found.in_flight += sum(1 for place in held if place >= 0 and excused(step.attempts[place]))
    for place, at in answered[:-1]:
        told = f"{step.key}: answered at {at:.3f} in attempt {place + 1} of {len(starts)}"
        if place >= 0 and excused(step.attempts[place]):
            found.answered_again_excused.append(f"{told}, {step.attempts[place]}")
        else:
            found.answered_again.append(told)


def _weigh_runs(found: Finding, step: StepStory, runs: list[float], excused: Excused) -> None:
    starts = [attempt.start for attempt in step.attempts]
    for at in runs[:-1]:
        place = bisect.bisect_right(starts, at) - 1
        if place >= 0 and excused(step.attempts[place]):
            found.tools_run_again_excused += 1
        else:
            found.tools_run_again.append(f"{step.key}: at {at:.3f}, and again")
    if runs and step.written_at and runs[-1] > step.written_at[0]:
        found.tools_run_again.append(
            f"{step.key}: written at {step.written_at[0]:.6f}, run at {runs[-1]:.6f}"
        )
    if not runs and step.outcome is not None and step.outcome.ok:
        found.tools_run_again.append(f"{step.key}: has an outcome and never ran")


WORK = ("open", "leases", "timers", "due", "deadlines", "ready:*", "held:*", "inflight:*")
"""Keys that hold something as long as there is work, and nothing (or do not exist) when there is none."""


def left_over(client: redis.Redis, keys: Keys, queues: str) -> list[str]:
    """Keys that speak of work though all jobs have ended, and keys that would stay for ever."""
    left = []
    for pattern in WORK:
        found = client.scan_iter(match=_literal(keys.prefix) + pattern, count=1000)
        left += [key.decode() for key in found]  # an empty set is no key
    for key in client.scan_iter(match=f"{queues}*", count=1000):
        kind = client.type(key)
        if kind == b"list":
            left.append(f"{key.decode()}: {client.llen(key)} tickets")
    permanent = {keys.prefix + name for name in PERMANENT if "*" not in name}
    families = tuple(keys.prefix + name.rstrip("*") for name in PERMANENT if "*" in name)
    for key in client.scan_iter(match=_literal(keys.prefix) + "*", count=1000):
        name = key.decode()
        if client.ttl(key) == -1 and name not in permanent and not name.startswith(families):
            left.append(f"{name} has no time to live")
    return left


def _literal(prefix: str) -> str:
    return prefix.replace("{", "[{]").replace("}", "[}]")
