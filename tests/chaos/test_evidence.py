"""The evidence of a chaos run finds what it is there to find: each fault is planted in a run without any."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from tests.chaos.evidence import weigh
from tests.chaos.findings import Done, Finding
from tests.chaos.load import Promise, says
from tests.chaos.machines import Farewell, Kill, Outage, Pause, Silence
from tests.chaos.stories import Attempt, JobStory, StepStory

SEED, WORKER = 7, "machine-1@vm:41:x"
NAMES = ("job-a", "job-b")
STEP_S = 10.0
LISTS = (
    *("lost", "wrong", "unexplained_failures", "written_twice", "calls_after_outcome", "answered_again"),
    *("begun_again", "more_calls_than_attempts", "taken_from_the_living", "over_limits", "tools_run_again"),
)


@dataclass
class Story:
    """Two jobs of two calls each, one after the other, and the provider's record of them."""

    promises: dict[str, Promise] = field(default_factory=dict)
    jobs: list[JobStory] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    runs: list[tuple[str, float]] = field(default_factory=list)
    done: Done = field(default_factory=lambda: Done(SEED, [], [], 10, 0.5, {"m0": 2, "@acme": 1}))

    def weigh(self) -> Finding:
        return weigh(self.jobs, self.promises, self.calls, self.runs, self.done)

    def call(self, prompt: str, start: float, **changes: Any) -> None:
        number = len(self.calls)
        call = {"number": number, "model": "m0", "messages": [{"role": "user", "content": prompt}]}
        self.calls.append({**call, "start": start, "end": start + 1, "status": 200, "fault": None, **changes})

    def prompt(self, job: int, step: int) -> str:
        return self.jobs[job].steps[step].asked[1]

    def step(self, job: int, step: int) -> StepStory:
        return self.jobs[job].steps[step]


@pytest.fixture
def story() -> Story:
    made = Story()
    for place, name in enumerate(NAMES):
        first = f"{name}: call 0 after "
        prompts = (first, f"{name}: call 1 after {says(SEED, first)}")
        result = says(SEED, prompts[1])
        made.promises[name] = Promise(name, name, "m0", "acme", prompts, result)
        job = JobStory(name, "done", name, 2, end=Outcome(value=result))
        for number, prompt in enumerate(prompts):
            at = 100 + STEP_S * (2 * place + number)
            outcome = Outcome(response=LLMResponse(text=says(SEED, prompt)))
            job.steps.append(
                StepStory(
                    key=f"{name}/{number}",
                    kind="llm",
                    attempts=[Attempt(at, at + 3, WORKER)],
                    lost_at=[],
                    written=[(at + 3, "done")],
                    order=number + 1,
                    outcome=outcome,
                    asked=("m0", prompt),
                )
            )
            made.call(prompt, at + 1)
        made.jobs.append(job)
    return made


def faults(found: Finding) -> set[str]:
    return {name for name in LISTS if getattr(found, name)}


def test_a_run_without_faults_shows_none(story: Story) -> None:
    found = story.weigh()
    assert (faults(found), found.calls, found.steps, found.repeated_excused) == (set(), 4, 4, 0)


def again(story: Story) -> None:
    """A second claim, a second answer."""
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(90, 94, WORKER))
    story.call(story.prompt(0, 0), 91)


def of_another(story: Story) -> None:
    story.step(0, 1).outcome = copy.copy(story.step(1, 1).outcome)


def result_of_another(story: Story) -> None:
    story.jobs[0].end = story.jobs[1].end


def asks_for_another(story: Story) -> None:
    story.step(0, 1).asked = ("m0", "job-a: call 1 after what job-b was told")
    story.calls[1]["messages"][0]["content"] = story.step(0, 1).asked[1]


def of_another_life(story: Story) -> None:
    story.jobs[0].name = "job-b"


def twice_written(story: Story) -> None:
    story.step(0, 0).written.append((105, "done"))


def taken(story: Story) -> None:
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(90, 94, WORKER))
    step.lost_at.append(94)
    story.call(story.prompt(0, 0), 91, status=499)


def at_once(story: Story) -> None:
    """The second job begins while the first one's call is in flight."""
    story.calls[1]["end"], story.calls[2]["start"] = 113, 112.5
    story.step(1, 0).attempts[0] = Attempt(112.2, 123, WORKER)


PLANTED: dict[str, tuple[Callable[[Story], Any], set[str]]] = {
    "answered and paid twice": (again, {"answered_again"}),
    "another's answer": (of_another, {"wrong"}),
    "another's result": (result_of_another, {"wrong"}),
    "another's text in a request": (asks_for_another, {"wrong"}),
    "a job under another's id": (of_another_life, {"wrong", "lost", "calls_after_outcome"}),
    "an outcome written twice": (twice_written, {"written_twice"}),
    "a call after the outcome": (
        lambda s: s.call(s.prompt(0, 0), 104),
        {"calls_after_outcome", "answered_again", "more_calls_than_attempts"},
    ),
    "two calls in one attempt": (
        lambda s: s.call(s.prompt(0, 0), 101.5, fault="500", status=500),
        {"more_calls_than_attempts", "over_limits", "answered_again"},
    ),
    "an odd answer that is asked for again": (
        lambda s: s.call(s.prompt(0, 0), 101.5, fault="odd"),
        {"more_calls_than_attempts", "over_limits", "answered_again"},
    ),
    "a call of nobody": (lambda s: s.call("who is there?", 150), {"wrong"}),
    "a job that is nowhere": (lambda s: s.jobs.pop(), {"lost", "calls_after_outcome"}),
    "a job that hangs": (lambda s: setattr(s.jobs[0], "state", "running"), {"lost", "calls_after_outcome"}),
    "a job that fails": (lambda s: setattr(s.jobs[0], "state", "failed"), {"unexplained_failures"}),
    "a step taken from the living": (taken, {"taken_from_the_living", "begun_again"}),
    "more calls than a tenant may have": (at_once, {"over_limits"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(story: Story, name: str) -> None:
    plant, expected = PLANTED[name]
    plant(story)
    assert faults(story.weigh()) == expected


def test_a_killed_worker_excuses_its_own_attempt_only(story: Story) -> None:
    again(story)
    story.done = replace(story.done, kills=[Kill(93, 41, "machine-1")])
    assert not faults(story.weigh())
    story.done = replace(story.done, kills=[Kill(93, 42, "machine-2")])
    assert faults(story.weigh()) == {"answered_again"}


def test_a_worker_that_was_stopped_excuses_its_own_attempt_only_and_only_if_its_lease_may_have_ended(
    story: Story,
) -> None:
    again(story)
    story.step(0, 0).lost_at.append(94)
    expected = {"answered_again", "taken_from_the_living"}
    for pause in (Pause(91, 92, 41), Pause(91, 97, 42), Pause(96, 99.9, 41)):
        story.done = replace(story.done, pauses=[pause])
        assert faults(story.weigh()) == expected, pause
    story.done = replace(story.done, pauses=[Pause(91, 97, 41)])
    assert not faults(story.weigh())


def test_what_a_worker_begins_in_the_moment_in_which_it_goes_on_is_excused_and_nothing_later(
    story: Story,
) -> None:
    story.step(0, 0).attempts.insert(0, Attempt(90, 94, WORKER))
    story.done = replace(story.done, pauses=[Pause(90.1, 104.5, 41)])
    story.call(story.prompt(0, 0), 104.6)
    assert not faults(story.weigh())
    story.calls[-1]["start"] = 105.5
    assert faults(story.weigh()) == {"calls_after_outcome", "more_calls_than_attempts"}


def test_what_redis_has_forgotten_excuses_one_call_of_that_time(story: Story) -> None:
    story.call(story.prompt(0, 0), 91)  # its claim is forgotten, too
    story.done = replace(story.done, outages=[Outage(92, 93, True, lost_from=91)])
    assert not faults(story.weigh())
    story.call(story.prompt(0, 0), 91.2)
    assert faults(story.weigh()) == {"answered_again", "over_limits"}
    story.calls.pop()
    story.done = replace(story.done, outages=[Outage(82, 83, True, lost_from=81)])
    assert faults(story.weigh()) == {"answered_again", "more_calls_than_attempts"}


def test_what_redis_has_forgotten_and_a_kill_excuse_one_call_each_however_far_behind_a_worker_may_be(
    story: Story,
) -> None:
    """A call of the lapse, one of a worker that was killed just after it, and the one whose answer counts."""
    story.call(story.prompt(0, 0), 91, end=91.5)
    story.call(story.prompt(0, 0), 94.1, end=94.4, status=499)
    story.step(0, 0).attempts.insert(0, Attempt(94, 97, WORKER))
    story.done = replace(
        story.done, kills=[Kill(94.3, 41, "machine-1")], outages=[Outage(92, 93, True, lost_from=91)]
    )
    for slack in (0.5, 1.0, 2.0, 3.0):
        story.done = replace(story.done, slack_s=slack)
        found = story.weigh()
        assert (faults(found), found.repeated_excused) == (set(), 2)
    story.done = replace(story.done, kills=[], slack_s=0.5)
    assert faults(story.weigh()) == {"begun_again"}


def test_what_redis_has_forgotten_excuses_the_attempt_whose_end_it_forgot(story: Story) -> None:
    """Its worker had gone on to another attempt, which is forgotten as a whole, when the lease ran out."""
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(90, 94, WORKER))
    step.lost_at.append(94)
    story.call(story.prompt(0, 0), 90.3, fault="cut", status=200)  # ends at 91.3
    story.call(story.prompt(0, 0), 91.8, fault="hang", status=499)
    story.calls[-1]["end"] = 96
    assert faults(story.weigh()) >= {"taken_from_the_living"}
    story.done = replace(story.done, outages=[Outage(92, 93, True, lost_from=91)])
    assert not faults(story.weigh())


def test_a_claim_whose_answer_was_swallowed_is_taken_from_no_worker_that_has_ended(story: Story) -> None:
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(90, 94, WORKER))
    step.lost_at.append(94)
    assert faults(story.weigh()) == {"taken_from_the_living"}
    silent, gone = [Silence(90.5, 41)], [Farewell(93, 41)]
    for less in (
        {"silences": silent},
        {"farewells": gone},
        {"farewells": gone, "silences": [Silence(80, 41)]},
    ):
        story.done = replace(story.done, farewells=[], silences=[])
        story.done = replace(story.done, **less)
        assert faults(story.weigh()) == {"taken_from_the_living"}
    story.done = replace(story.done, farewells=gone, silences=silent)
    assert not faults(story.weigh())


def test_a_lease_of_a_claim_that_redis_has_forgotten_is_not_the_lost_ones_before(story: Story) -> None:
    """Whoever had it has regained it, and died: it ended behind the one whose end is known already."""
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(80, 82, WORKER.replace("41", "40")))
    step.lost_at += [82, 96]
    story.call(story.prompt(0, 0), 80.5, fault="hang", status=499)
    story.done = replace(story.done, kills=[Kill(81, 40, "machine-1")])
    assert story.weigh().ready_again == [1, 15]
    story.done = replace(story.done, outages=[Outage(88, 92, True, lost_from=87)])
    assert story.weigh().ready_again == [1]


def test_nor_is_it_that_of_one_which_had_ended_by_a_refusal(story: Story) -> None:
    """As before; but the attempt whose claim is known was over, by a 429, and its worker was killed later."""
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(80, 81, WORKER.replace("41", "40")))
    step.lost_at.append(96)
    story.call(story.prompt(0, 0), 80.5, fault="429", status=429)
    story.done = replace(story.done, kills=[Kill(83, 40, "machine-1")])
    assert story.weigh().ready_again == [13]
    story.done = replace(story.done, outages=[Outage(88, 92, True, lost_from=87)])
    assert story.weigh().ready_again == []


def test_a_failure_that_was_retried_may_be_followed_by_an_outcome(story: Story) -> None:
    step = story.step(0, 0)
    step.attempts.insert(0, Attempt(90, 92, WORKER))
    step.written.insert(0, (92, "failed"))
    story.call(story.prompt(0, 0), 91, fault="400", status=400)
    assert faults(story.weigh()) == {"written_twice", "calls_after_outcome"}
    story.jobs[0].retried_at = [95]
    assert not faults(story.weigh())


def tool_in(story: Story, *attempts: Attempt) -> None:
    """The first job has a tool between its calls."""
    value = Outcome(value=1)
    at = attempts[-1].end
    story.jobs[0].steps.append(StepStory("job-a/2", "tool", list(attempts), [], [(at, "done")], 3, value))
    story.jobs[0].outcomes = 3


def test_a_killed_worker_excuses_one_run_of_its_tool_and_no_other(story: Story) -> None:
    tool_in(story, Attempt(104, 106, WORKER), Attempt(107, 108, WORKER))
    story.runs = [("job-a", 105.0), ("job-a", 107.5)]
    assert faults(story.weigh()) == {"tools_run_again"}
    story.done = replace(story.done, kills=[Kill(105.5, 41, "machine-1")])
    assert not faults(story.weigh())
    story.runs.insert(0, ("job-a", 104.9))
    assert faults(story.weigh()) == {"tools_run_again"}


def test_what_redis_has_forgotten_excuses_one_run_of_a_tool(story: Story) -> None:
    tool_in(story, Attempt(107, 108, WORKER))
    story.done = replace(story.done, outages=[Outage(106, 106.5, True, lost_from=105)])
    story.runs = [("job-a", 105.5), ("job-a", 107.5)]
    assert not faults(story.weigh())
    story.runs[:0] = [("job-a", 105.2), ("job-a", 105.3)]
    assert faults(story.weigh()) == {"tools_run_again"}


def test_a_tool_that_a_stopped_worker_had_already_begun_excuses_itself_as_it_goes_on(story: Story) -> None:
    """Of the release before this one, whose tools have a way from its look at the lease to their thread."""
    tool_in(story, Attempt(100.4, 103.4, WORKER.replace("41", "40")), Attempt(103.6, 104, WORKER))
    story.jobs[0].steps[-1].lost_at.append(103.4)
    story.runs = [("job-a", 103.7), ("job-a", 108.3)]
    assert faults(story.weigh()) == {"tools_run_again", "taken_from_the_living"}
    story.done = replace(story.done, pauses=[Pause(100.5, 108.2, 40)])
    assert not faults(story.weigh())
    story.runs[1] = ("job-a", 108.6)
    assert faults(story.weigh()) == {"tools_run_again"}


def gives_up(story: Story, error: str, killed: float) -> set[str]:
    """A step of three attempts ends by this error; its worker was killed then."""
    step = story.step(1, 1)
    step.attempts = [Attempt(at, at + 1, WORKER) for at in (126, 128, 130)]
    step.written = [(132, "failed")]
    step.outcome = Outcome(error={"type": error})
    story.jobs[1].state, story.jobs[1].end = "failed", step.outcome
    story.calls.pop()
    kills = [Kill(killed, 41, "machine-1")]
    story.done = replace(story.done, kills=kills)
    return faults(story.weigh())


def test_workers_killed_later_explain_no_failure(story: Story) -> None:
    assert gives_up(story, "WorkerLost", killed=200) == {"unexplained_failures"}


def test_workers_killed_over_it_explain_that_a_step_was_given_up_and_nothing_else(story: Story) -> None:
    assert gives_up(story, "WorkerLost", killed=126) == set()
    assert gives_up(story, "ProgramChanged", killed=126) == {"unexplained_failures"}


@pytest.mark.parametrize("kills", [2, 3])
def test_workers_killed_over_its_turn_explain_that_a_job_was_given_up(story: Story, kills: int) -> None:
    job = story.jobs[1]
    attempts = [Attempt(at, at + 1, f"machine-1@vm:{pid}:x") for pid, at in enumerate((140, 142, 144), 50)]
    job.turn = StepStory("job-b/t", "turn", attempts, lost_at=[141, 143], written=[], order=0, outcome=None)
    job.state, job.end = "failed", Outcome(error={"type": "WorkerLost"})
    died = [Kill(at + 0.5, pid, "machine-1") for pid, at in enumerate((140, 142, 144), 50)]
    story.done = replace(story.done, kills=died[:kills])
    assert faults(story.weigh()) == ({"unexplained_failures"} if kills == 2 else set())
