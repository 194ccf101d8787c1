"""Where in the user's code a failure came from: kept with the error, cut to the user's frames, bounded."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from aios_dist.errors import (
    JobFailed,
    LLMError,
    RateLimited,
    StepError,
    ToolError,
    describe,
    from_record,
    to_record,
    user_traceback,
)
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import JobRecord, Outcome, decode
from aios_dist.program import turns
from aios_dist.program.commands import gather, llm, tool
from aios_dist.program.replay import Replay
from aios_dist.text.tracebacks import LIMIT

SECRET = "sk-planted-secret"


def failed(replay: Replay) -> dict[str, Any]:
    catalog = turns.Catalog({"small": "llm"}, "small", 10_000, 100_000)
    decision = turns.decide(replay, JobRecord("a", {}), catalog, first=len(replay.asked))
    return decode(decision.result, Outcome).error or {}


def pay(amount: int, key: str) -> int:
    return amount // (amount - 5)


async def trip() -> None:
    async def hotel() -> None:
        await llm("a")
        pay(5, SECRET)

    await gather(hotel(), llm("b"))


def ended() -> Replay:
    replay = Replay(trip)
    for number in range(2):
        replay.deliver(number, Outcome(response=LLMResponse(text="x")))
    return replay


def test_a_failure_names_the_users_lines_and_none_of_ours() -> None:
    text = failed(ended())["traceback"]
    lines = text.splitlines()
    assert [line.rpartition(" in ")[2] for line in lines if line.startswith("  File")] == [
        "trip",
        "trip.<locals>.hotel",
        "pay",
    ]
    assert lines[-1] == "    return amount // (amount - 5)"
    assert "aios_dist/program/replay.py" not in text
    assert SECRET not in text, "no values of variables"


def test_it_comes_back_with_the_result() -> None:
    error = JobFailed("j-1", from_record(failed(ended())))
    assert str(error) == "job 'j-1' failed: StepError: ZeroDivisionError: integer division or modulo by zero"
    assert error.traceback.endswith("return amount // (amount - 5)")
    assert JobFailed("j-1", ValueError("x")).traceback == ""


def tool_error() -> ToolError:
    """As a worker makes it."""
    try:
        try:
            pay(5, SECRET)
        except Exception as exc:
            raise ToolError(f"pay: {describe(exc)}", error=type(exc).__name__) from exc
    except ToolError as error:
        return error


def test_a_tools_error_has_the_frames_of_the_tool_and_then_those_of_the_agent() -> None:
    record = to_record(tool_error())
    assert "in pay\n    return amount // (amount - 5)" in record["traceback"]
    assert "traceback" not in record["detail"]

    async def body() -> None:
        await tool(pay, 5, "x")

    replay = Replay(body)
    replay.deliver(0, Outcome(error=msgspec.json.decode(msgspec.json.encode(record))))
    agents, _, tools = failed(replay)["traceback"].partition("\nIn the step:\n")
    assert agents.endswith('await tool(pay, 5, "x")')
    assert tools == record["traceback"]


def test_an_error_that_went_through_the_journal_is_written_the_same_again() -> None:
    record = to_record(tool_error())
    assert to_record(from_record(record)) == record
    assert "traceback" not in to_record(from_record(to_record(ToolError("x"))))


def test_what_was_raised_from_another_error_or_beside_it_is_told_in_short() -> None:
    async def body() -> None:
        try:
            try:
                pay(5, "x")
            except ZeroDivisionError:
                {}["rate"]
        except KeyError as error:
            raise OSError("no bank") from error

    text = failed(Replay(body))["traceback"]
    assert "Caused by KeyError: 'rate'" in text
    assert "While handling ZeroDivisionError: integer division" in text
    assert text.index("OSError") < text.index("Caused by") < text.index("While handling")


def test_the_members_of_a_group_are_told_in_short() -> None:
    async def body() -> None:
        raise BaseExceptionGroup("several", [tool_error(), *[ValueError(n) for n in range(9)]])

    text = failed(Replay(body))["traceback"]
    assert "Member 1 of 10: ToolError: pay" in text
    assert "in pay" in text
    assert "Member 5" not in text


def test_a_providers_error_has_none_of_the_sdks_frames_nor_its_texts() -> None:
    def call() -> None:
        try:
            raise OSError(SECRET)
        except OSError as exc:
            raise RateLimited("slow down") from exc

    try:
        call()
    except LLMError as error:
        text = to_record(error)["traceback"]
    assert SECRET not in text
    assert "Caused by" not in text


def test_an_error_without_the_users_frames_has_no_traceback() -> None:
    assert user_traceback(StepError("x")) == ""
    assert "traceback" not in to_record(ValueError("x"))


def test_a_long_one_is_cut_in_the_middle() -> None:
    async def deeper() -> Any:
        return await deeper()

    text = failed(Replay(deeper))["traceback"]
    assert len(text) <= LIMIT
    assert "frames …" in text
    assert text.count("  File") == 20

    def chain(depth: int) -> None:
        try:
            if depth:
                chain(depth - 1)
            raise ValueError("x" * 5000)
        except ValueError as error:
            raise KeyError("y" * 5000) from error

    async def body() -> None:
        chain(50)

    assert len(failed(Replay(body))["traceback"]) <= LIMIT


class Odd(Exception):
    def __str__(self) -> str:
        raise asyncio.CancelledError

    @property
    def traceback(self) -> str:
        raise KeyboardInterrupt


@pytest.mark.parametrize("error", [Odd(), ValueError("\ud800")])
def test_it_never_fails(error: Exception) -> None:
    circle = KeyError("a")
    error.__cause__, circle.__context__ = circle, error

    async def body() -> None:
        raise error

    assert failed(Replay(body))["type"] == type(error).__name__
    assert isinstance(user_traceback(error), str)
    assert "\n" not in describe(ValueError("one\n  two"))
