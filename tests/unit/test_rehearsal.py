"""``aios_dist.testing.rehearse``: an agent run in a test, replayed at every turn."""

from __future__ import annotations

import asyncio
import functools
import itertools
import subprocess
import sys
import uuid as chance
from contextvars import ContextVar
from typing import Any

import pytest

from aios_dist import agent, as_done, gather, llm, now, once, prompts, signal, sleep, tool, uuid, within
from aios_dist.errors import InvalidInput, ProgramChanged, RateLimited, ToolError
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.model.specs import JobSpec
from aios_dist.testing import rehearse
from aios_dist.text.tracebacks import user_traceback

COUNT = itertools.count()


async def weather(city: str) -> str:
    return f"sun in {city}"


def breaks() -> None:
    raise KeyError("x")


@agent
async def rehearsed_trip(city: str, days: int = 2) -> dict[str, Any]:
    plan, sky = await gather(llm(f"{days} days in {city}"), tool(weather, city))
    begun = now()
    try:
        await tool(breaks)
    except ToolError as error:
        said = str(error)
    try:
        async with within(3600):
            review = await signal("review")
    except TimeoutError:
        review = "none"
    await sleep(60)
    return {
        "plan": plan.text, "sky": sky, "said": said, "review": review,
        "took": (now() - begun).total_seconds(), "ids": len({uuid(), uuid(), once(str, "a")}),
    }  # fmt: skip


@agent
async def rehearsed_draw() -> str:
    await llm("plan")
    return str((await llm(f"draft {chance.uuid4()}")).text)


@agent
async def rehearsed_keeps() -> str:
    seen: list[int] = []

    def remember(n: int) -> None:
        seen.append(n)

    await tool(remember, 1)
    return str((await llm(f"seen {seen}")).text)


@agent
async def rehearsed_more() -> None:
    mine = next(COUNT)
    await llm("plan")
    for _ in range(mine):
        await llm(f"more {1}")


RUNS: list[bool] = []


@agent
async def rehearsed_less(first: bool) -> None:
    mine = not RUNS
    RUNS.append(mine)
    async for _ in as_done(sleep(60), llm("draft")):
        if mine is first:
            break


@agent
async def rehearsed_shuffle() -> None:
    await gather(*(llm(f"draft {next(COUNT)}") for _ in range(3)))


@agent
async def rehearsed_race() -> str:
    async for answer in as_done(sleep(1), llm("a")):
        return str(answer.text)
    return ""


def shout(request: LLMRequest) -> str:
    return str(request.messages[-1]["content"]).upper()


def test_an_agent_runs_to_its_end_with_its_tools_signals_and_times() -> None:
    job = rehearsed_trip.job(city="Lima")
    expected = {
        "plan": "2 DAYS IN LIMA",
        "sky": "sun in Lima",
        "said": "breaks: KeyError: 'x'",
        "ids": 3,
    }
    assert rehearse(job, shout, {"review": ["fine"]}) == {**expected, "review": "fine", "took": 60.0}
    assert rehearse(job, shout) == {**expected, "review": "none", "took": 3660.0}
    assert rehearse(rehearsed_race.job(), "first") == "first"
    assert rehearse(prompts("rehearsed", ["{input}", "{previous}!"]).job("a"), shout) == "A!"


@pytest.mark.parametrize("made", [rehearsed_draw, rehearsed_more, rehearsed_shuffle], ids=lambda m: m.name)
def test_one_that_does_not_repeat_itself_fails_and_its_author_sees_the_line(made: Any) -> None:
    with pytest.raises(ProgramChanged, match=r'llm\(f"(draft|more) \{'):
        rehearse(made.job())


def test_a_tool_that_keeps_something_for_its_agent_fails_at_the_await() -> None:
    with pytest.raises(
        ToolError, match=r"remember: .*It has changed seen, of which a tool gets a copy"
    ) as said:
        rehearse(rehearsed_keeps.job())
    assert "await tool(remember, 1)" in user_traceback(said.value)


@pytest.mark.parametrize(("first", "said"), [(True, "waits for it"), (False, "has ended without it")])
def test_one_that_waits_for_less_the_next_time_fails_too(first: bool, said: str) -> None:
    RUNS.clear()
    with pytest.raises(ProgramChanged, match=f"Step 0 .*; on replay it asked for it and {said}"):
        rehearse(rehearsed_less.job(first=first))


def test_errors_are_raised_as_the_agent_raised_them() -> None:
    def busy(_: LLMRequest) -> LLMResponse:
        raise RateLimited("slow down")

    with pytest.raises(RateLimited, match="slow down"):
        rehearse(rehearsed_race.job(), busy)
    with pytest.raises(ZeroDivisionError):  # a fault of the test's own
        rehearse(rehearsed_race.job(), lambda _: str(1 // 0))


CITY = ContextVar("city", default="none")


async def where() -> str:
    return CITY.get()


@functools.wraps(where)
def as_task() -> Any:
    return asyncio.get_running_loop().create_task(where())


def limited() -> None:
    raise RateLimited("slow down")


@agent
async def rehearsed_tools() -> list[Any]:
    CITY.set("Lima")
    found: list[Any] = [await tool(where), await tool(as_task)]
    for breaks in (limited, sys.exit):
        try:
            await tool(breaks)
        except ToolError as error:
            found.append(error.detail["error"])
    return found


@pytest.mark.parametrize("loop", [False, True])
def test_tools_run_as_in_a_worker_also_where_the_test_has_a_loop(loop: bool) -> None:
    async def test() -> Any:
        return rehearse(rehearsed_tools.job())

    found = asyncio.run(test()) if loop else rehearse(rehearsed_tools.job())
    assert found == ["Lima", "Lima", "RateLimited", "SystemExit"]


def test_what_it_cannot_run_it_says() -> None:
    async def waits() -> Any:
        return await signal("go")

    with pytest.raises(InvalidInput, match="a signal that never comes: go"):
        rehearse(agent(waits, name="rehearsed_wait").job())
    with pytest.raises(InvalidInput, match="takes a job with its agent"):
        rehearse(JobSpec(agent="by name", input={}))


def test_the_fake_llm_alone_needs_nothing_of_it() -> None:
    code = "import sys, aios_dist.testing; sys.exit('aios_dist.program.replay' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
