"""Which steps a retry runs again: those whose failure the program has not gone on from."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from aios_dist.errors import LLMError
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.program.commands import gather, llm
from aios_dist.program.replay import Replay

DOWN = Outcome.failed(LLMError("down"))
YES = Outcome(response=LLMResponse("yes"))


Program = Callable[[], Coroutine[Any, Any, Any]]


def undone(program: Program, outcomes: Sequence[tuple[int, Outcome]]) -> list[int]:
    replay = Replay(program)
    for number, outcome in outcomes:
        replay.deliver(number, outcome)
    found = replay.undone()
    replay.close()
    return found


async def or_error(prompt: str) -> Any:
    try:
        return await llm(prompt)
    except LLMError as error:
        return error


def raising(results: Sequence[Any]) -> None:
    for result in results:
        if isinstance(result, Exception):
            raise result


async def caught_in_branches() -> None:
    raising(await gather(or_error("a"), or_error("b"), or_error("c")))


async def caught_by_gather() -> None:
    raising(await gather(llm("a"), llm("b"), llm("c"), return_exceptions=True))


async def not_caught() -> None:
    await gather(llm("a"), llm("b"), llm("c"))


@pytest.mark.parametrize("program", [caught_in_branches, caught_by_gather, not_caught])
def test_an_error_that_the_agent_raises_is_run_again_wherever_it_was_caught_before(program: Program) -> None:
    assert undone(program, [(1, DOWN), (0, YES), (2, DOWN)]) == [1, 2]


def test_a_failure_that_a_branch_returned_is_history_when_the_program_asks_for_more() -> None:
    async def program() -> None:
        await gather(or_error("a"), or_error("b"))
        await llm("c")

    assert undone(program, [(0, DOWN), (1, YES), (2, DOWN)]) == [2]


def test_a_branch_that_ended_well_is_not_run_again_while_others_go_on() -> None:
    assert undone(caught_in_branches, [(0, DOWN), (1, YES)]) == []


def test_a_job_that_ended_well_has_nothing_to_run_again() -> None:
    async def program() -> int:
        return len(await gather(or_error("a"), or_error("b")))

    assert undone(program, [(0, DOWN), (1, DOWN)]) == []
