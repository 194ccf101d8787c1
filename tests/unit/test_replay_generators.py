"""Asynchronous generators in agents are closed in their turns, everywhere alike; their awaits are steps."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome, Step, StepState
from aios_dist.program.commands import LLM, gather, llm
from aios_dist.program.generators import FORGET_AT
from aios_dist.program.replay import Replay

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> None:
    LOG.clear()


def yes(text: str = "yes") -> Outcome:
    return Outcome(response=LLMResponse(text=text))


def prompts(replay: Replay) -> list[str]:
    return [a.command.request.messages[-1]["content"] for a in replay.asked if isinstance(a.command, LLM)]


def replayed(body: Any, live: Replay, outcomes: list[int], *, collect: bool = False) -> Replay:
    """The program again, from its journal; ``collect``: garbage is looked for at each of its awaits."""
    journal = [
        Step(job="j", number=n, kind=a.kind, lane="llm", state=StepState.READY, digest=a.digest)
        for n, a in enumerate(live.asked)
    ]
    other = Replay(body, journal)
    for number in outcomes:
        if collect:
            gc.collect()
        other.deliver(number, yes())
    other.check_complete()
    return other


def both(body: Any, *outcomes: int) -> Replay:
    """The program, live and replayed, which must be the same; the live one."""
    live = Replay(body)
    for number in outcomes:
        live.deliver(number, yes())
    for collect in (False, True):
        other = replayed(body, live, list(outcomes), collect=collect)
        assert (other.finished, other.result, other.error) == (live.finished, live.result, live.error)
        other.close()
    return live


async def queries() -> AsyncIterator[str]:
    try:
        for query in ("a", "b"):
            yield query
    finally:
        LOG.append("closed")


async def tidy(name: str = "tidy up") -> AsyncGenerator[str, None]:
    try:
        yield "a"
        yield "b"
    finally:
        answer = await llm(name)
        LOG.append(f"{name}: {answer.text}")


def test_one_that_is_left_is_closed_at_once() -> None:
    async def body() -> str:
        LOG.clear()
        async for _ in queries():
            break
        return f"{(await llm(str(LOG))).text} {LOG}"

    live = both(body, 0)
    assert prompts(live) == ["['closed']"]
    assert live.result == "yes ['closed']"


def test_what_the_closing_awaits_is_a_step_and_the_program_ends_after_it() -> None:
    async def body() -> str:
        async for _ in tidy():
            break
        return str((await llm("and on")).text)

    live = both(body, 1)
    assert prompts(live) == ["tidy up", "and on"]
    assert not live.finished
    assert live.waits() == 1
    live.deliver(0, yes())
    assert live.result == "yes"
    assert "tidy up: yes" in LOG
    assert both(body, 0, 1).result == "yes"


def test_one_that_the_program_still_has_at_its_end_is_closed_there() -> None:
    async def body() -> str:
        generators = [tidy("one"), tidy("two")]
        for generator in generators:
            await anext(generator)
        LOG.append("returns")
        return "done"

    live = both(body)
    assert prompts(live) == ["one", "two"]
    live.deliver(1, yes())
    live.deliver(0, yes())
    assert live.result == "done"
    assert LOG[-2:] == ["two: yes", "one: yes"]


def test_an_error_of_the_program_waits_for_the_closing_too() -> None:
    async def body() -> None:
        async for _ in tidy():
            raise KeyError("mine")

    live = Replay(body)
    assert not live.finished
    live.deliver(0, yes())
    assert isinstance(live.error, KeyError)
    assert LOG == ["tidy up: yes"]


def test_one_that_only_the_collector_finds_is_closed_at_the_end_whenever_it_is_found() -> None:
    async def body() -> str:
        LOG.clear()
        circle: list[Any] = [queries(), tidy()]
        circle.append(circle)
        for generator in circle[:2]:
            await anext(generator)
        del circle, generator
        await llm("a")
        await llm(str(LOG))
        return "done"

    live = both(body, 0, 1, 2)
    assert prompts(live) == ["a", "[]", "tidy up"]
    assert live.result == "done"


def test_also_where_the_collector_finds_it_in_the_midst_of_a_turn() -> None:
    async def body(collects: bool) -> str:
        circle: list[Any] = [tidy()]
        circle.append(circle)
        await anext(circle[0])
        del circle
        if collects:
            gc.collect()
        await llm("a")
        return "done"

    for collects in (False, True):
        live = Replay(functools.partial(body, collects))
        live.deliver(0, yes())
        assert prompts(live) == ["a", "tidy up"]
        live.close()


def test_in_a_branch_it_has_the_branchs_context_and_ends_by_itself() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await llm(f"close {tenant.get()}")
            await llm(f"close {tenant.get()} again")

    async def branch(name: str) -> str:
        tenant.set(name)
        async for _ in numbers():
            break
        return name

    async def body() -> list[str]:
        return list(await gather(branch("acme"), branch("bolt")))

    live = both(body, 1, 0, 2, 3)
    assert prompts(live) == ["close acme", "close bolt", "close bolt again", "close acme again"]
    assert live.result == ["acme", "bolt"]


def test_explicit_closing_is_the_programs_own() -> None:
    async def body() -> str:
        async with contextlib.aclosing(tidy()) as generator:
            async for _ in generator:
                break
        return str((await llm("after")).text)

    live = both(body, 0, 1)
    assert prompts(live) == ["tidy up", "after"]
    assert live.result == "yes"


def test_a_generator_within_a_generator_is_closed_as_python_lets_go_of_it() -> None:
    async def outer() -> AsyncIterator[str]:
        try:
            async for one in tidy("inner"):
                yield one
        finally:
            await llm("outer")

    async def body() -> str:
        async for _ in outer():
            break
        return str((await llm("after")).text)

    live = both(body, 1, 0, 2)
    assert prompts(live) == ["inner", "outer", "after"]
    assert live.result == "yes"


def test_what_a_closing_raises_is_said_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks(first: bool) -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            if not first:
                await llm("a")
            raise KeyError("secret")

    async def body() -> str:
        for first in (True, False):
            async for _ in breaks(first):
                break
        return "done"

    live = Replay(body)
    live.deliver(0, yes())
    assert live.result == "done"
    assert len(caplog.messages) == 2
    for message in caplog.messages:
        assert "raised KeyError" in message
        assert 'raise KeyError("secret")' in message


@pytest.mark.parametrize("left", [True, False], ids=["when it is left", "at the end"])
def test_asyncio_in_a_closing_fails_the_job(left: bool) -> None:
    async def sleeps() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(1)

    async def body() -> str:
        generator = sleeps()
        await anext(generator)
        if left:
            del generator
        return "done"

    assert isinstance(Replay(body).error, InvalidInput)


@pytest.mark.parametrize("held", [True, False], ids=["at an await", "in a closing"])
def test_a_program_that_is_dropped_awaits_nothing_more(held: bool) -> None:
    async def body() -> str:
        generator = tidy()
        await anext(generator)
        if not held:
            del generator
        return str((await llm("a")).text)

    replay = Replay(body)
    assert prompts(replay) == (["a"] if held else ["tidy up", "a"])
    replay.close()
    assert LOG == []
    assert len(replay.asked) == (1 if held else 2)


def test_generators_that_ended_are_forgotten() -> None:
    async def body() -> None:
        for _ in range(3 * FORGET_AT):
            async for _ in queries():
                pass

    replay = Replay(body)
    assert replay.finished
    assert len(replay._generators._begun) <= FORGET_AT


def test_a_program_with_generators_is_in_no_circle() -> None:
    async def body() -> None:
        async for _ in queries():
            await llm("a")

    replay = Replay(body)
    gc.disable()
    try:
        del replay
        assert LOG == ["closed"], "forgotten at once"
    finally:
        gc.enable()
