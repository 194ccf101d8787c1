"""Time and chance in an agent: from its journal, the same on every replay, without steps."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from aios_dist import now, once, random, uuid
from aios_dist.errors import InvalidInput, ProgramChanged, ToolError
from aios_dist.journal.views import History, JobView
from aios_dist.model.calls import LLMResponse
from aios_dist.model.chance import Known
from aios_dist.model.jobs import JobRecord, JobState, Kind, Outcome, Step, StepState, decode, encode
from aios_dist.program.commands import gather, llm
from aios_dist.program.facts import MOST_BYTES
from aios_dist.program.replay import Replay

AT = 1_800_000_000.25


def yes(at: float) -> Outcome:
    return Outcome(response=LLMResponse(text="yes"), at=at)


async def facts() -> str:
    drawn = [str(now()), uuid(), uuid(), random()]
    await llm(json.dumps(drawn))
    drawn += [str(now()), uuid(), random()]
    return json.dumps(drawn)


def run(known: Known, *ats: float, body: Any = facts) -> Any:
    replay = Replay(body, known=known)
    for number, at in enumerate(ats):
        replay.deliver(number, yes(at))
    return json.loads(replay.result)


def test_they_are_the_same_on_each_replay_and_others_in_each_job() -> None:
    one, same, other = (run(Known(seed, AT), AT + 2) for seed in ("a", "a", "b"))
    assert one == same
    assert (one[0], one[4]) == ("2027-01-15 08:00:00.250000+00:00", "2027-01-15 08:00:02.250000+00:00")
    ids = {*one[1:3], one[5], *other[1:3], other[5]}
    assert len(ids) == 6
    for text in ids:
        assert UUID(text).version == 4
    assert 0 <= one[3] < 1
    assert one[3] != one[6]


def test_where_a_fork_and_its_original_part_so_do_their_numbers() -> None:
    original, fork = run(Known("a", AT), AT + 2), run(Known("a", AT), AT + 2.000001)
    assert original[:4] == fork[:4]
    assert original[5:] != fork[5:]


def test_the_time_never_goes_back_and_branches_see_one_time() -> None:
    async def branch(name: str) -> str:
        await llm(name)
        return now().isoformat()

    async def body() -> str:
        return json.dumps([*await gather(branch("a"), branch("b")), now().isoformat()])

    times = run(Known("a", AT), AT + 2, AT + 1, body=body)
    assert times == [datetime.fromtimestamp(AT + 2, UTC).isoformat()] * 3


def test_they_are_an_agents_own() -> None:
    replay = Replay(facts)
    for fact in (now, uuid, random):
        with pytest.raises(RuntimeError, match=re.escape(f"{fact.__name__}() is for agents")):
            fact()
    replay.close()


def test_they_come_from_the_job_as_it_was_submitted_which_is_no_other_job_for_it() -> None:
    record = JobRecord("a", {})
    seeded = JobRecord("a", {}, seed="s", submitted_at=AT)
    assert record.digest() == seeded.digest()
    assert b"seed" not in encode(record)
    assert decode(encode(seeded), JobRecord) == seeded


def history(record: JobRecord, *steps: Step) -> History:
    view = JobView(id="j", agent="a", state=JobState.RUNNING, submitted_at=AT - 5)
    return History(view, record, list(steps))


def test_a_job_of_an_older_version_has_its_id_and_the_times_of_its_steps() -> None:
    step = Step(
        job="j", number=0, kind=Kind.SLEEP, lane="turns", state=StepState.DONE,
        order=1, ended_at=AT, outcome=Outcome(),
    )  # fmt: skip
    assert history(JobRecord("a", {}), step).known().origin == ("j", AT - 5)
    assert history(JobRecord("a", {}, seed="s", submitted_at=AT)).known().origin == ("s", AT)
    assert history(JobRecord("a", {}), step).outcomes() == [(0, Outcome(at=AT))]


# once() -------------------------------------------------------------------------------------------------

CALLS: list[str] = []


def look_up(what: str) -> Any:
    """Gives something else each time."""
    CALLS.append(what)
    if what == "breaks":
        raise KeyError("not there")
    return {"what": what, "call": len(CALLS)}


def as_journaled(live: Replay, count: int | None = None) -> list[Step]:
    return [
        Step(
            job="j", number=n, kind=a.kind, lane="llm", state=StepState.READY,
            digest=a.digest, rejected=a.rejected, once=a.once,
        )
        for n, a in enumerate(live.asked[:count])
    ]  # fmt: skip


async def looks_up() -> list[Any]:
    first = once(look_up, "a")
    try:
        once(look_up, "breaks")
    except ToolError as error:
        await llm(f"{first} {error}")
    first["call"] = "mine now"
    second = once(look_up, "b")
    await llm(f"{second}")
    return [first, second, once(look_up, "at the end")["what"]]


def told(replay: Replay, *numbers: int) -> Replay:
    for number in numbers:
        replay.deliver(number, yes(AT))
    return replay


def test_what_is_looked_up_once_is_kept_with_the_next_step_and_never_looked_up_again() -> None:
    CALLS.clear()
    live = told(Replay(looks_up), 0)
    assert CALLS == ["a", "breaks", "b"]
    assert [len(asked.once) for asked in live.asked] == [2, 1]
    for count in (2, 1):  # … and before the second step was written
        other = told(Replay(looks_up, as_journaled(live, count)), 0)
        assert other.error is None
        assert len(CALLS) == (3 if count == 2 else 4)
        assert (other.asked[1].digest == live.asked[1].digest) == (count == 2)
    assert told(live, 1).result[0] == {"what": "a", "call": "mine now"}
    assert live.result[1:] == [{"what": "b", "call": 3}, "at the end"]


def test_a_live_program_that_looked_up_something_else_is_replayed() -> None:
    live, other = told(Replay(looks_up)), told(Replay(looks_up))
    live.deliver(0, yes(AT))
    for step in as_journaled(live):
        other.told(step)
    assert isinstance(other.error, ProgramChanged), "its journal, and not it, says what was looked up"
    assert told(Replay(looks_up, as_journaled(live)), 0, 1).error is None


def test_a_look_up_that_came_too_early_for_the_journal_is_seen_at_the_next_step() -> None:
    gate = {"open": False}

    async def waits() -> str:
        await llm("a")
        value = once(look_up, "b")
        if gate["open"]:
            await llm("b")
        return str((await gather(llm("c"), llm(str(value))))[0].text)

    live = told(Replay(waits), 0)
    other = Replay(waits, as_journaled(live))
    other.deliver(0, yes(AT))
    assert other.error is None
    assert [a.digest for a in other.asked] == [a.digest for a in live.asked]


def test_what_once_keeps_is_bounded_over_all_of_a_step_and_what_is_too_much_is_not_among_it() -> None:
    async def body() -> list[str]:
        said = []
        for size in (10_000, 10_000, 5_000, 20_000, 1_000):
            try:
                said.append(str(len(once("x".__mul__, size))))
            except InvalidInput:
                said.append("no")
        await llm("a")
        said.append(str(len(once("x".__mul__, 10_000))))
        return said

    live = told(Replay(body), 0)
    assert live.result == ["10000", "no", "5000", "no", "1000", "10000"]
    assert told(Replay(body, as_journaled(live)), 0).result == live.result


def test_what_once_takes_and_keeps() -> None:
    async def body(function: Any, *args: Any) -> str:
        try:
            return str(once(function, *args))
        except (InvalidInput, ToolError) as error:
            return f"{type(error).__name__}: {error}"

    def said(function: Any, *args: Any) -> str:
        return str(Replay(lambda: body(function, *args)).result)

    assert said(max, 1, 2) == "2"
    assert said(lambda: (1, 2)) == "[1, 2]"
    assert said(facts).startswith("InvalidInput: once() takes a plain function")
    assert said(3).startswith("InvalidInput: once() takes a plain function")
    assert said(object).startswith("InvalidInput: The value of once() is not JSON")
    assert said("x".__mul__, MOST_BYTES).startswith("InvalidInput: once() keeps up to 16,384 bytes")
    for within in (uuid, lambda: once(max, 1, 2)):  # it is not called again: what it drew would be missing
        assert "RuntimeError" in said(within)
    assert said(look_up, "breaks") == "ToolError: look_up: KeyError: 'not there'"
    with pytest.raises(RuntimeError, match="call the function"):
        once(max, 1, 2)
