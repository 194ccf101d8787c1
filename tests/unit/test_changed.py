"""``changed()``: a change inside an agent, which jobs that began before it do not run with."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aios_dist import changed, once
from aios_dist.errors import InvalidInput, ProgramChanged
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome, Step
from aios_dist.program.commands import gather, llm
from aios_dist.program.replay import Replay


def yes(text: str = "yes") -> Outcome:
    return Outcome(response=LLMResponse(text=text))


def prompts(replay: Replay) -> list[str]:
    return [asked.command.request.messages[-1]["content"] for asked in replay.asked if asked.command]  # type: ignore[union-attr]


def journal(replay: Replay, answered: int = 0) -> list[Step]:
    """What a journal has of the program, where so many of its steps are answered."""
    return [
        asked.written(
            number, asked.command.request if asked.command else None, yes() if number < answered else None
        )
        for number, asked in enumerate(replay.asked)
    ]


def replayed(body: Any, steps: list[Step]) -> Replay:
    replay = Replay(body, steps)
    replay.follow([(step.number, step.outcome) for step in steps if step.outcome is not None])
    replay.check_complete()
    return replay


async def before() -> str:
    await llm("Plan a trip.")
    await llm("Shorten it.")
    return "before"


async def after() -> str:
    if changed("shorter-prompt"):
        await llm("Plan a short trip.")
    else:
        await llm("Plan a trip.")
        await llm("Shorten it.")
    return "after"


def test_a_job_that_began_before_a_change_goes_on_without_it() -> None:
    for answered in (0, 1):
        old = Replay(before)
        for number in range(answered):
            old.deliver(number, yes())
        live = replayed(after, journal(old, answered))
        assert not isinstance(live.error, ProgramChanged)
        for number in range(answered, 2):
            live.deliver(number, yes())
        assert (live.result, prompts(live)) == ("after", ["Plan a trip.", "Shorten it."])


def test_a_new_job_runs_with_it_now_and_on_each_replay() -> None:
    live = Replay(after)
    again = replayed(after, journal(live, 1))
    assert prompts(live) == prompts(again) == ["Plan a short trip."]
    assert again.result == "after"


def test_a_job_that_had_not_come_so_far_runs_with_it() -> None:
    async def late() -> str:
        await llm("first")
        return (await llm("new" if changed("late") else "old")).text

    async def first() -> str:
        await llm("first")
        return (await llm("old")).text

    live = replayed(late, journal(Replay(first)))
    live.deliver(0, yes())
    assert prompts(live)[-1] == "new"


def test_it_says_the_same_all_the_time_in_one_job() -> None:
    async def loop() -> list[bool]:
        said = []
        for number in range(3):
            said.append(changed("in-loop"))
            await llm(f"round {number}")
        return said

    async def without() -> None:
        for number in range(3):
            await llm(f"round {number}")

    began = Replay(without)
    began.deliver(0, yes())
    live = replayed(loop, journal(began, 1))
    live.deliver(1, yes())
    live.deliver(2, yes())
    assert live.result == [False] * 3
    assert replayed(loop, journal(live, 3)).result == [False] * 3
    new = Replay(loop)
    for number in range(3):
        new.deliver(number, yes())
    assert new.result == [True] * 3 == replayed(loop, journal(new, 3)).result


def test_several_changes_and_look_ups_stand_beside_each_other_and_may_go_again() -> None:
    async def both() -> str:
        one, other = changed("one"), changed("other")
        return (await llm(f"{one} {other} {once(lambda: 7)}")).text

    async def swapped_out() -> str:
        other = changed("other")
        return (await llm(f"True {other} {once(lambda: 8)}")).text

    async def none() -> str:
        return (await llm(f"True True {once(lambda: 9)}")).text

    steps = journal(Replay(both), 1)
    assert len(steps[0].once) == 3
    packed = msgspec.json.decode(msgspec.json.encode(steps[0].once), type=tuple[Outcome, ...])
    steps = [msgspec.structs.replace(steps[0], once=packed)]
    for body in (both, swapped_out, none):
        replay = replayed(body, steps)
        assert (replay.result, prompts(replay)) == ("yes", ["True True 7"])


def test_what_once_gave_before_a_change_is_given_after_it() -> None:
    async def looks() -> str:
        return (await llm(f"at {once(lambda: 1)}")).text

    async def looks_changed() -> str:
        new = changed("more")
        return (await llm(f"{'now ' if new else ''}at {once(lambda: 2)}")).text

    assert prompts(replayed(looks_changed, journal(Replay(looks), 1))) == ["at 1"]
    assert prompts(Replay(looks_changed)) == ["now at 2"]


def test_branches_come_to_a_change_one_by_one() -> None:
    async def branch(number: int) -> str:
        await llm(f"a{number}")
        return (await llm(f"{'new' if changed('x') else 'old'}{number}")).text

    async def wide() -> int:
        return len(await gather(branch(0), branch(1)))

    live = Replay(wide)
    live.deliver(1, yes())
    live.deliver(0, yes())
    steps = journal(live)
    outcomes = [(1, yes()), (0, yes())]
    again = Replay(wide, steps)
    again.follow(outcomes)
    again.check_complete()
    assert prompts(again) == prompts(live) == ["a0", "a1", "new1", "new0"]


@pytest.mark.parametrize("name", ["", "two words", 3, None, "x" * 129])
def test_a_name_that_is_none_is_refused_in_a_sentence(name: Any) -> None:
    async def odd() -> None:
        changed(name)

    error = Replay(odd).error
    assert isinstance(error, InvalidInput)
    assert str(error).startswith("Name of a change")


def test_elsewhere_there_is_no_job_to_ask() -> None:
    with pytest.raises(RuntimeError, match=r"changed\(\) is for agents that a fleet runs"):
        changed("x")
