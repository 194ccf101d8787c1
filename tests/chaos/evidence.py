"""What is left after a chaos run, and what it proves.

The journal tells of each step when it was claimed by whom, when a claim was lost and when its outcome was
written; the fake LLM tells what each call asked, when it began and whether it was answered whole. Both clocks
are this machine's, so the two stories can be laid side by side without a margin. What should have been asked
and answered is known beforehand (``load.Promise``); nothing of ours says which call belongs to which step:

* A call *belongs* to the step that asks for its body: every prompt names its job and its place.
* An *attempt* begins with a claim of a step and ends when the step is given back, taken back, claimed again
  or its outcome is written, whichever is first. A call belongs to the attempt in which it began; each attempt
  has one call at the most.
* An attempt is *excused* if its worker was killed before it ended, or stopped for longer than its lease. So
  is a call that such a worker begins in the moment in which it goes on. A Redis that was away excuses a claim
  whose answer was lost, so that nobody knew of it; it excuses no call: its worker has the answer.
* A *lapse* is what Redis forgot when it was put back to a snapshot: a call that began or was answered in it
  may be repeated once, and nothing else is excused by it.
* A call is *answered* if the fake LLM wrote all of its answer, odd or not: status 200 and no other fault.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from aios_dist.model.jobs import Kind
from tests.chaos.findings import Done, Finding
from tests.chaos.load import Promise, says
from tests.chaos.machines import FLEET
from tests.chaos.stories import JobStory, StepStory

Call = dict[str, Any]
GONE = 499
"""The fake LLM's status of a call whose client left."""
GONE_LATE_S = 0.25
"""It may hear of that later than of the next call: the two come over different connections."""


def weigh(
    jobs: Iterable[JobStory],
    promises: Mapping[str, Promise],
    calls: Iterable[Call],
    runs: Iterable[tuple[str, float]],
    done: Done,
) -> Finding:
    """Lay the stories side by side.

    Args:
        jobs: what the journal tells; of an id that was used again, of each life.
        promises: what should have come of them, by name.
        calls: what the fake LLM tells.
        runs: job and time of each run of a tool.
        done: what was done to the fleet.
    """
    scales = Scales(promises, calls, runs, done)
    seen = set()
    for job in jobs:
        scales.weigh(job)
        seen.add(job.name)
    missing = [p for p in promises.values() if p.name not in seen and p.kind != "stopped"]
    scales.found.lost += [f"{p.name} is nowhere" for p in missing]
    return scales.total()


def failed(call: Call) -> bool:
    """Whether the fake LLM did something else than to answer; an odd answer is one, and is paid for."""
    return call["fault"] not in (None, "odd")


class Scales:
    """The calls and runs that are not accounted for yet, and what was found so far."""

    def __init__(
        self,
        promises: Mapping[str, Promise],
        calls: Iterable[Call],
        runs: Iterable[tuple[str, float]],
        done: Done,
    ) -> None:
        self.found = Finding()
        self._promises, self._done = promises, done
        self._by_body: defaultdict[tuple[str, str], list[Call]] = defaultdict(list)
        self._calls = sorted(calls, key=lambda call: call["start"])
        for call in self._calls:
            self._by_body[call["model"], call["messages"][-1]["content"]].append(call)
            self.found.calls += 1
            if call["fault"]:
                self.found.faults[call["fault"]] += 1
        self._runs: defaultdict[str, list[float]] = defaultdict(list)
        for name, at in sorted(runs, key=lambda run: run[1]):
            self._runs[name].append(at)
        self._written: list[float] = []
        self._owner = {(p.model, prompt): p for p in promises.values() for prompt in p.prompts}

    def weigh(self, job: JobStory) -> None:
        """One job."""
        found, promise = self.found, self._promises.get(job.name)
        if promise is None or promise.job != job.id:
            found.wrong.append(f"{job.id}: nobody submitted {job.name!r}")
            return
        self._texts(job, promise)
        if promise.kind == "stopped":
            return  # somebody ended it, and its record was gone before its calls were
        if job.state in ("lost", "running", "waiting", "paused"):
            found.lost.append(f"{job.name} is {job.state}")
            return
        self._end(job, promise)
        orders = sorted(step.order for step in job.steps if step.order)
        if orders != list(range(1, job.outcomes + 1)):
            found.written_twice.append(f"{job.name}: orders {orders}, {job.outcomes} outcomes")
        for step in [*job.steps, *([job.turn] if job.turn else [])]:
            found.steps += step.key[-1] != "t"
            self._written += [at for at, _ in step.written]
            calls = self._by_body.pop(step.asked, []) if step.kind == Kind.LLM else []
            self._writes(job, step)
            self._losses(step, calls)
            if step.kind == Kind.LLM:
                self._call(job, step, calls)
            elif step.kind == Kind.TOOL:
                self._run(step, self._runs.pop(job.name, []))

    def total(self) -> Finding:
        """When all jobs have been weighed."""
        found = self.found
        for asked, calls in self._by_body.items():
            owner = self._owner.get(asked)
            if owner is None:
                found.wrong.append(f"call {calls[0]['number']} asks what nobody asks: {asked}")
            elif owner.kind != "stopped" and not all(
                self._done.forgotten(call["start"], call["end"]) for call in calls
            ):
                found.calls_after_outcome.append(f"{owner.name}: a call of no step: {asked}")
        for limited, most in self._done.limits.items():
            self._limit(limited, most)
        written = sorted(self._written)
        pauses = [
            (after - before - self._done.paused(before, after), before)
            for before, after in itertools.pairwise(written)
        ]
        found.longest_pause_s, found.longest_pause_at = max(pauses, default=(0.0, 0.0))
        found.seconds = written[-1] - written[0] if written else 0.0
        return found

    def _texts(self, job: JobStory, promise: Promise) -> None:
        """What a job asks is its own, and so is what it was answered."""
        asked = [step.asked for step in job.steps if step.kind == Kind.LLM]
        own = {(promise.model, prompt) for prompt in promise.prompts}
        self.found.wrong += [f"{job.name} asks what it should not: {a}" for a in asked if a not in own]
        if len(set(asked)) < len(asked):
            self.found.wrong.append(f"{job.name} asks something twice")
        for step in job.steps:
            response = step.outcome.response if step.outcome else None
            if response is not None and response.text != says(self._done.seed, step.asked[1]):
                self.found.wrong.append(f"{step.key} ({step.asked[1]!r}) was answered {response.text!r}")

    def _end(self, job: JobStory, promise: Promise) -> None:
        """It ends as promised; one that failed otherwise says why, and what was done must bear it out."""
        error = job.end.error if job.end is not None else None
        if job.state == "done" and not promise.error:
            asked = {step.asked[1] for step in job.steps if step.kind == Kind.LLM}
            if job.end is None or job.end.value != promise.result or asked != set(promise.prompts):
                value = job.end.value if job.end is not None else None
                self.found.wrong.append(f"{job.name}: {value!r} in the place of {promise.result!r}")
            return
        if job.state == "failed" and promise.error and error and error.get("type") == promise.error:
            return
        told_by = [(step, step.outcome.error if step.outcome is not None else None) for step in job.steps]
        if job.turn is not None:  # (it has no outcome: the job ends by it)
            told_by.append((job.turn, error))
        for step, why in told_by:
            if why is None:
                continue
            bad = sum(1 for call in self._by_body.get(step.asked, ()) if failed(call))
            lost = sum(1 for attempt in step.attempts if self._done.killed(attempt))
            lost += sum(1 for outage in self._done.outages if outage.lost_from is not None)
            if lost >= 3 if why.get("type") == "WorkerLost" else bad >= self._done.attempts:
                told = f"{step.key}: {why.get('type')}, {bad} faults, {lost} kills"
                self.found.explained_failures.append(told)
                return
        self.found.unexplained_failures.append(f"{job.name} is {job.state}: {str(job.end)[:300]}")

    def _writes(self, job: JobStory, step: StepStory) -> None:
        """An outcome is written once; a failure that somebody has retried, once more."""
        for (one, what), (two, _) in itertools.pairwise(step.written):
            if what != "failed" or not any(one < at < two for at in job.retried_at):
                self.found.written_twice.append(f"{step.key} at {step.written}")

    def _losses(self, step: StepStory, calls: list[Call]) -> None:
        found, done = self.found, self._done
        starts = [attempt.start for attempt in step.attempts]
        lost = set[int]()
        for at in step.lost_at:
            again = bisect.bisect_right(starts, at)
            known_end = not again or again in lost or step.attempts[again - 1].end < at
            if known_end and done.put_back_between(at - 2 * FLEET.lease, at):
                continue  # its worker had regained a claim that Redis has forgotten
            lost.add(again)
            attempt = step.attempts[again - 1]
            found.attempts_lost += 1
            died = done.died(attempt)
            own = [call for call in calls if attempt.start <= call["start"] <= at]
            # Where nobody claimed it again, its worker regained it, or its late answer was kept.
            known = own or not (done.unknown(attempt.start) or done.unheard(attempt, at))
            living = died > at and again < len(starts) and known
            # Redis may have forgotten how it ended: a call when it was answered, a tool nobody knows when.
            ended = done.put_back_between(attempt.start, at)
            if ended and own:  # (a call whose start is forgotten too was of an attempt that is)
                of_this = [call for call in own if not done.forgotten(call["start"])] or own
                ended = all(done.forgotten(call["end"]) for call in of_this)
            if living and not ended and not done.stopped(attempt):
                found.taken_from_the_living.append(f"{step.key} from {attempt.worker} at {at:.3f}")
            if died <= at:
                found.ready_again.append(at - max(died, attempt.start))
                if again < len(starts):
                    found.recoveries.append(starts[again] - max(died, attempt.start))

    def _call(self, job: JobStory, step: StepStory, calls: list[Call]) -> None:
        found, done = self.found, self._done
        starts = [attempt.start for attempt in step.attempts]
        held: Counter[int] = Counter()
        calls = [call for call in calls if not done.woken(step.attempts, call["start"])]
        for call in calls:
            place = bisect.bisect_right(starts, call["start"]) - 1
            if not done.forgotten(call["start"]):  # else its claim is, and perhaps the retry that led to it
                held[place] += 1
                if place < 0:
                    found.more_calls_than_attempts.append(f"{step.key}: a call before any claim")
                before = [at for at, _ in step.written if at < call["start"]]
                if before and not any(before[-1] < at < call["start"] for at in job.retried_at):
                    found.calls_after_outcome.append(
                        f"{step.key}: call {call['number']} at {call['start']:.6f}, written {before[-1]:.6f}"
                    )
        for place, count in held.items():
            if count > 1 and place >= 0:
                found.more_calls_than_attempts.append(f"{step.key}: {count} calls in attempt {place + 1}")
        # What nobody made necessary: no fault of the provider, and nobody who stopped a job and retried it.
        stopped = [c for c in calls if c["status"] == GONE and any(c["start"] < r for r in job.retried_at)]
        vain = [call for call in calls[:-1] if not failed(call) and call not in stopped]
        self._repeated(step, [(bisect.bisect_right(starts, call["start"]) - 1, call) for call in vain])

    def _repeated(self, step: StepStory, calls: list[tuple[int, Call]]) -> None:
        """Each call that another one followed has a cause of its own: its attempt, or the lapse.

        What Redis remembers can have the attempt only, so it comes first.
        """
        found, done = self.found, self._done
        calls.sort(key=lambda it: done.forgotten(it[1]["start"], it[1]["end"]))
        used: set[int] = set()
        lapses = 0
        for place, call in calls:
            answered = call["status"] == 200
            how = "answered" if answered else "begun"
            told = f"{step.key}: {how} at {call['end' if answered else 'start']:.3f} in attempt {place + 1}"
            if place >= 0 and place not in used and done.killed(step.attempts[place]):
                used.add(place)
            elif done.forgotten(call["start"], call["end"]) and not lapses:
                lapses += 1
            else:
                (found.answered_again if answered else found.begun_again).append(told)
                continue
            found.repeated_excused += 1
            found.answered_again_excused += answered

    def _run(self, step: StepStory, runs: list[float]) -> None:
        found, done = self.found, self._done
        starts = [attempt.start for attempt in step.attempts]
        held: Counter[int] = Counter()
        lapses = 0
        ran, runs = runs, [at for at in runs if not done.woken(step.attempts, at)]
        for at in runs[:-1]:
            place = bisect.bisect_right(starts, at) - 1
            killed = place >= 0 and done.killed(step.attempts[place]) and not held[place]
            held[place] += 1
            if killed:
                found.tools_run_again_excused += 1
            elif done.forgotten(at) and not lapses:
                lapses += 1
                found.tools_run_again_excused += 1
            else:
                found.tools_run_again.append(f"{step.key}: at {at:.3f}, and again")
        if runs and step.written and runs[-1] > step.written[0][0]:
            found.tools_run_again.append(
                f"{step.key}: written at {step.written[0][0]:.6f}, run at {runs[-1]:.6f}"
            )
        if not ran and step.outcome is not None and step.outcome.ok:
            found.tools_run_again.append(f"{step.key}: has an outcome and never ran")

    def _limit(self, limited: str, most: int) -> None:
        """No call began while as many as the limit allows were in flight."""
        ends: list[float] = []
        for call in self._calls:
            owner = self._owner.get((call["model"], call["messages"][-1]["content"]))
            if limited not in (call["model"], f"@{owner.tenant if owner else ''}"):
                continue
            ends = [end for end in ends if end > call["start"]]
            end = math.inf if call["end"] is None else call["end"]
            ends.append(end - GONE_LATE_S if call["status"] == GONE else end)
            if len(ends) > most and not any(a <= call["start"] <= b for a, b in self._done.unlimited):
                told = f"{limited}: {len(ends)} calls at {call['start']:.3f}, {most} are allowed"
                self.found.over_limits.append(told)
