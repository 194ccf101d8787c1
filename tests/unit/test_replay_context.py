"""Context variables: each branch has its own, and no program sees another's."""

from __future__ import annotations

import decimal
import threading
from contextvars import ContextVar
from typing import Any

from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.program.commands import Tool, gather, llm, tool
from aios_dist.program.replay import Replay

TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


def answer() -> Outcome:
    return Outcome(response=LLMResponse(text="yes"))


def drive(*replays: Replay, steps: int) -> None:
    """The programs in turns, a step each, as they share a worker's thread."""
    for number in range(steps):
        for replay in replays:
            replay.deliver(number, answer())


async def as_tenant(name: str) -> list[str]:
    token = TENANT.set(name)
    seen = []
    for _ in range(3):
        await llm("a")
        seen.append(TENANT.get())
    TENANT.reset(token)
    return [*seen, TENANT.get()]


def test_programs_that_take_turns_on_one_thread_see_each_their_own_values() -> None:
    replays = [Replay(lambda name=name: as_tenant(name)) for name in ("acme", "bolt")]  # type: ignore[misc]
    drive(*replays, steps=3)
    assert replays[0].result == ["acme", "acme", "acme", "nobody"]
    assert replays[1].result == ["bolt", "bolt", "bolt", "nobody"]
    assert TENANT.get() == "nobody"


def test_a_program_that_goes_on_in_another_thread_takes_its_values_along() -> None:
    replays = [Replay(lambda name=name: as_tenant(name)) for name in ("acme", "bolt")]  # type: ignore[misc]
    for number in range(3):
        threads = [threading.Thread(target=r.deliver, args=(number, answer())) for r in replays]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [r.result[2:] for r in replays] == [["acme", "nobody"], ["bolt", "nobody"]]


async def _precise(digits: int) -> int:
    with decimal.localcontext() as context:
        context.prec = digits
        await llm(str(digits))
        return decimal.getcontext().prec


def test_branches_have_each_their_own_and_begin_with_their_parents() -> None:
    async def branch(name: str) -> list[str]:
        began = TENANT.get()
        TENANT.set(name)
        await llm(name)
        inner = await gather(_who(), _who())
        return [began, TENANT.get(), *inner]

    async def _who() -> str:
        await llm("b")
        return TENANT.get()

    async def body() -> list[Any]:
        TENANT.set("parent")
        both = await gather(branch("x"), branch("y"))
        return [*both, TENANT.get()]

    replay = Replay(body)
    for number in (1, 0, 2, 4, 3, 5):
        replay.deliver(number, answer())
    assert replay.result == [["parent", "x", "x", "x"], ["parent", "y", "y", "y"], "parent"]


def test_decimals_precision_holds_across_awaits_and_in_its_own_branch() -> None:
    async def body() -> list[int]:
        return [*await gather(_precise(5), _precise(9)), decimal.getcontext().prec]

    replay = Replay(body)
    drive(replay, steps=2)
    assert replay.result == [5, 9, decimal.DefaultContext.prec]


def test_what_is_set_in_place_stays_in_the_program() -> None:
    async def body() -> int:
        decimal.getcontext().prec = 3
        await llm("a")
        return decimal.getcontext().prec

    before = decimal.getcontext().prec
    replay, other = Replay(body), Replay(lambda: _precision())
    drive(replay, other, steps=1)
    assert (replay.result, other.result, decimal.getcontext().prec) == (3, 28, before)


async def _precision() -> int:
    await llm("a")
    return decimal.getcontext().prec


def test_turn_0_sees_nothing_that_a_replay_on_another_machine_would_not() -> None:
    token = TENANT.set("the producer")
    try:
        replay = Replay(lambda: as_tenant("acme"))
        drive(replay, steps=3)
        assert replay.result[-1] == "nobody"
    finally:
        TENANT.reset(token)


def test_a_finally_sees_its_own_branchs_values_when_the_program_is_dropped() -> None:
    seen: list[str] = []

    async def branch(name: str) -> None:
        token = TENANT.set(name)
        try:
            await llm(name)
        finally:
            seen.append(TENANT.get())
            TENANT.reset(token)

    async def body() -> None:
        await gather(branch("x"), branch("y"))

    Replay(body).close()
    assert seen == ["y", "x"]


def whose(key: str = "") -> str:
    mine = TENANT.get()
    TENANT.set("changed by a tool")
    return mine + key


async def whose_later() -> str:
    return TENANT.get()


def asked_tool(replay: Replay, number: int) -> Tool:
    command = replay.asked[number].command
    assert isinstance(command, Tool)
    return command


def test_a_tool_runs_with_its_branchs_values_as_they_were_when_it_was_asked_for() -> None:
    same = tool(whose, key="!")

    async def branch(name: str) -> str:
        TENANT.set(name)
        await same
        return TENANT.get()

    async def body() -> list[str]:
        return await gather(branch("x"), branch("y"))

    replay = Replay(body)
    results: list[str] = []
    for number in (0, 1, 0):  # also again, after its worker was lost
        command = asked_tool(replay, number)
        thread = threading.Thread(target=lambda call=command.call: results.append(call()))  # type: ignore[misc]
        thread.start()
        thread.join()
    assert results == ["x!", "y!", "x!"]
    for number in (0, 1):
        replay.deliver(number, Outcome(value="done"))
    assert replay.result == ["x", "y"], "and what it sets is its own"


async def test_an_async_tools_coroutine_can_be_run_in_the_same_values() -> None:
    import asyncio

    async def body() -> None:
        TENANT.set("acme")
        await tool(whose_later)

    command = asked_tool(Replay(body), 0)
    assert command.call.func is whose_later  # type: ignore[attr-defined]
    assert command.context is not None
    task = asyncio.create_task(command.call(), context=command.context.copy())
    assert await task == "acme"


def test_a_tool_that_hangs_in_one_thread_can_be_run_again_in_another() -> None:
    began, go_on = threading.Event(), threading.Event()

    def hangs() -> str:
        began.set()
        go_on.wait(10)
        return TENANT.get()

    async def body() -> None:
        await tool(hangs)

    command = asked_tool(Replay(body), 0)
    thread = threading.Thread(target=command.call)
    thread.start()
    began.wait(10)
    go_on.set()
    assert command.call() == "nobody"
    thread.join()
