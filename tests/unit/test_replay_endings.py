"""Whatever an agent raises ends its own job, once, with its own error, and nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aios_dist import policies
from aios_dist.errors import InvalidInput, StepError, ToolError
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.model.jobs import JobRecord, JobState, Outcome, decode
from aios_dist.program import turns
from aios_dist.program.agents import agent
from aios_dist.program.commands import gather, in_turn, llm, tool
from aios_dist.program.replay import Replay
from aios_dist.program.turns import Catalog
from aios_dist.text.tracebacks import name_of

CATALOG = Catalog({"small": "llm"}, "small", 10_000, 10_000)
RECORD = JobRecord("endings", {})
Body = Callable[..., Coroutine[Any, Any, Any]]


def answer(text: str = "yes") -> Outcome:
    return Outcome(response=LLMResponse(text=text))


class Panic(BaseException):
    """As pyo3_runtime.PanicException: a Rust library's panic is no Exception."""


class Speechless(Exception):
    def __str__(self) -> str:
        raise Panic("no words")

    __repr__ = __str__


class Unlike(Exception):
    """Every look at it raises."""

    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise Panic("do not look")

    @property
    def detail(self) -> Any:
        raise Panic("nor there")


class Namer(type):
    def __getattribute__(cls, name: str) -> Any:
        if name == "__name__":
            raise Panic("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=Namer):
    """Its class will not say what it is called."""


class Placeless(Exception):
    """Where it was raised is not to be had."""

    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise Panic("nowhere")

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        raise Panic("for no reason")


class NoDetail(StepError):
    def __init__(self) -> None:
        BaseException.__init__(self, "no detail")


RAISED = [
    Nameless("n"),
    Placeless("p"),
    asyncio.CancelledError("mine"),
    KeyboardInterrupt(),
    GeneratorExit(),
    SystemExit(3),
    Panic("index out of bounds"),
    BaseExceptionGroup("several", [Panic("a"), KeyboardInterrupt()]),
    ExceptionGroup("several", [ValueError("a")]),
    MemoryError(),
    Speechless(),
    NoDetail(),
]


def failed_with(replay: Replay) -> dict[str, Any]:
    decision = turns.decide(replay, RECORD, CATALOG, first=len(replay.asked))
    assert decision.ends is JobState.FAILED
    return decode(decision.result, Outcome).error or {}


@pytest.mark.parametrize("error", RAISED, ids=lambda e: name_of(type(e)))
@pytest.mark.parametrize("when", ["at once", "after a step", "in a branch", "by no coroutine at all"])
def test_whatever_an_agent_raises_fails_its_job_with_that_error(error: BaseException, when: str) -> None:
    async def at_once() -> None:
        raise error

    async def after() -> None:
        await llm("a")
        raise error

    async def branches() -> None:
        await gather(llm("a"), at_once())

    def plain() -> Any:
        raise error

    body: Any = {"at once": at_once, "after a step": after, "in a branch": branches}.get(when, plain)
    replay = Replay(body)
    if not replay.finished:
        replay.deliver(0, answer())
    assert replay.error is error
    assert failed_with(replay)["type"] == name_of(type(error))
    assert not in_turn.get()
    replay.close()


def test_an_error_that_cannot_even_be_looked_at_fails_the_job() -> None:
    async def body() -> None:
        await gather(llm("a"), odd())

    async def odd() -> None:
        raise Unlike

    replay = Replay(body)
    replay.deliver(0, answer())
    assert failed_with(replay)["type"] == "Unlike"


def test_a_stop_iteration_is_not_an_end_without_a_result() -> None:
    async def body() -> str:
        await llm("a")
        return str(next(iter(())))

    replay = Replay(body)
    replay.deliver(0, answer())
    assert isinstance(replay.error, RuntimeError)
    assert "StopIteration" in str(replay.error)

    def plain() -> Any:
        raise StopIteration("no coroutine")

    assert isinstance(Replay(plain).error, StopIteration)


def test_what_is_no_coroutine_fails_the_job() -> None:
    replay = Replay(lambda: 5)  # type: ignore[arg-type,return-value]
    assert failed_with(replay)["message"] == "An agent is an async def; this one gave int and no coroutine."
    replay.close()


def test_a_branch_may_end_with_anything_and_the_agent_may_catch_it() -> None:
    async def panics() -> None:
        raise Panic("a")

    async def body() -> list[str]:
        kept = await gather(panics(), llm("b"), return_exceptions=True)
        try:
            await gather(panics())
        except Panic as panic:
            return [type(kept[0]).__name__, str(panic)]
        return []

    replay = Replay(body)
    replay.deliver(0, answer())
    assert replay.result == ["Panic", "a"]


def test_ctrl_c_in_turn_0_is_the_producers_and_in_a_workers_turn_the_agents() -> None:
    async def body() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.start(body, CATALOG)
    assert not in_turn.get()
    assert isinstance(Replay(body).error, KeyboardInterrupt)


def test_ctrl_c_in_a_finally_reaches_the_producer_when_all_the_rest_is_closed() -> None:
    ran: list[str] = []

    async def part(name: str) -> None:
        try:
            await llm(name)
        finally:
            ran.append(name)
            if name == "b":
                raise KeyboardInterrupt

    replay = turns.start(lambda: _both(part("a"), part("b")), CATALOG)
    with pytest.raises(KeyboardInterrupt):
        replay.close()
    assert ran == ["b", "a"]


async def _both(one: Any, other: Any) -> None:
    await gather(one, other)


@dataclasses.dataclass
class Result:
    broken: Exception | BaseException = dataclasses.field(repr=False)

    @property
    def value(self) -> int:
        raise self.broken


class Sly(dict[str, Any]):
    def items(self) -> Any:
        raise Panic("items")


@pytest.mark.parametrize(
    "value", [Result(Panic("a")), Sly(a=1), 10**5000, {1j: 2}, object(), {"a": b"\xff"}], ids=range(6)
)
def test_a_result_may_be_as_odd_as_it_likes(value: Any) -> None:
    async def body() -> Any:
        return value

    decision = turns.decide(Replay(body), RECORD, CATALOG, first=0)
    assert decision.ends is not None


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"type": 5},
        {"type": "ToolError", "message": None, "detail": [1]},
        {"detail": {"message": "m", "self": 1}},
    ],
)
def test_an_outcome_that_cannot_be_read_is_a_failed_step(record: dict[str, Any]) -> None:
    async def body() -> str:
        try:
            await tool(print)
        except StepError as error:
            return type(error).__name__
        return "no error"

    replay = Replay(body)
    replay.deliver(0, Outcome(error=record))
    assert replay.result in ("StepError", "ToolError")


def test_an_outcome_that_is_none_is_a_failed_step_too() -> None:
    async def body() -> None:
        await tool(print)

    replay = Replay(body)
    replay.deliver(0, Outcome(error=[1]))  # type: ignore[arg-type]
    assert isinstance(replay.error, StepError)
    assert "cannot be read" in str(replay.error)


def test_an_input_too_deep_to_be_copied_fails_the_job() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]

    @agent(name="endings-deep")
    async def takes(value: Any) -> None:
        await llm("a")

    replay = Replay(takes.program({"value": deep}))
    assert isinstance(replay.error, RecursionError)
    while deep:  # or taking it apart takes as many frames
        deep = deep.pop()


# What a turn decides ----------------------------------------------------------------------------------------


def test_a_request_is_written_as_it_was_when_it_was_asked_for() -> None:
    content: list[Any] = ["a"]

    async def body() -> None:
        async def spoil() -> None:
            content.append(object())

        await gather(llm(messages=[{"role": "user", "content": content}]), spoil())

    replay = turns.start(body, CATALOG)
    (step,) = turns.decide(replay, RECORD, CATALOG, first=0).steps
    assert decode(step.step.request, LLMRequest).messages == [{"role": "user", "content": ["a"]}]
    assert step.step.digest == replay.asked[0].digest
    assert replay.encoded, "kept as it was, until it is written"
    replay.written(1)
    assert (replay.encoded, replay.asked[0].command) == ({}, None), "and then not"
    replay.close()


def test_what_cannot_be_written_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        await llm("a")

    def broken(step: policies.Waiting) -> policies.Rank:
        raise ZeroDivisionError("in a policy")

    monkeypatch.setitem(policies._POLICIES, "fifo", policies.find("fifo")._replace(rank=broken))
    replay = turns.start(body, CATALOG)
    error = failed_with_first(replay)
    assert error["type"] == "InvalidInput"
    assert error["message"] == "What the agent asked for cannot be written: ZeroDivisionError: in a policy."
    assert replay.finished, "nobody keeps it for another turn"
    replay.close()


def failed_with_first(replay: Replay, catalog: Catalog = CATALOG) -> dict[str, Any]:
    decision = turns.decide(replay, RECORD, catalog, first=0)
    assert (decision.ends, decision.steps) == (JobState.FAILED, [])
    return decode(decision.result, Outcome).error or {}


def test_a_model_that_is_gone_when_the_turn_decides_fails_the_job_with_its_name() -> None:
    async def body() -> None:
        await llm("a")

    error = failed_with_first(turns.start(body, CATALOG), Catalog({"other": "llm"}, None, 10_000, 10_000))
    assert error["type"] == "UnknownName"


def test_a_result_that_is_too_large_fails_the_job() -> None:
    async def body() -> list[int]:
        return [n * 7919 % 100_003 for n in range(10_000)]

    assert "result_limit" in failed_with(Replay(body))["message"]


def test_a_tools_error_keeps_its_type_when_the_agent_does_not_catch_it() -> None:
    async def body() -> None:
        await tool(print)

    replay = Replay(body)
    replay.deliver(0, Outcome.failed(ToolError("print: Panic: a", error="Panic")))
    assert isinstance(replay.error, ToolError)
    assert isinstance(replay.error, StepError)
    assert not isinstance(replay.error, InvalidInput)
