"""Agents whose code does what no code should. Workers of some tests import this module."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aios_dist import Fleet, ToolError, agent, gather, llm, tool
from aios_dist.model.calls import LLMRequest, LLMResponse, Usage


def ran(path: str) -> int:
    """Leave a trace of each run; gives how many there are."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, b"ran\n")
    os.close(file)
    return len(Path(path).read_text().splitlines())


pause = time.sleep
"""What no agent may call, by another name: linters know it too."""


class Panic(BaseException):
    """As a Rust extension raises it."""


def _raises(error: BaseException) -> Callable[[str], int]:
    def plain(path: str) -> int:
        ran(path)
        raise error

    return plain


def _raises_later(error: BaseException) -> Callable[[str], Any]:
    async def later(path: str) -> int:
        ran(path)
        await asyncio.sleep(0)
        raise error

    return later


async def cancels_itself(path: str) -> int:
    """What a cancelled task of its own does to an async tool."""
    ran(path)
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(5)
    return 0


async def cancels_all(path: str) -> int:
    """Clean-up as some examples on the web do it."""
    ran(path)
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(5)
    return 0


async def starts_a_task_that_exits(path: str) -> int:
    """SystemExit in a task leaves an event loop."""
    ran(path)

    async def leave() -> None:
        raise SystemExit(3)

    task = asyncio.create_task(leave())
    await asyncio.sleep(0.05)
    return 0 if task.done() else 1


def gives_a_future(path: str) -> Any:
    """A plain function whose coroutine is cancelled."""
    ran(path)
    return cancels_itself(path + ".inner")


def waits_for_a_job(path: str) -> int:
    """Holds the slot that the job needs, if nobody stops it."""
    ran(path)
    with Fleet.from_env() as fleet:
        return int(fleet.job("child").result(timeout=30))


ERRORS: dict[str, BaseException] = {
    "CancelledError": asyncio.CancelledError(),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "GeneratorExit": GeneratorExit(),
    "SystemExit": SystemExit(3),
    "StopIteration": StopIteration("over"),
    "StopAsyncIteration": StopAsyncIteration(),
    "Panic": Panic("a panic"),
    "BaseExceptionGroup": BaseExceptionGroup("several", [Panic("one"), ValueError("two")]),
    "RecursionError": RecursionError("deep"),
    "MemoryError": MemoryError(),
}
TOOLS: dict[str, Callable[[str], Any]] = {
    **{name: _raises(error) for name, error in ERRORS.items()},
    **{f"async {name}": _raises_later(error) for name, error in ERRORS.items()},
    "UsageError": waits_for_a_job,
    "cancels itself": cancels_itself,
    "cancels all": cancels_all,
    "gives a future": gives_a_future,
    "exits in a task": starts_a_task_that_exits,
}


@agent
async def tries_all(folder: str) -> dict[str, str]:
    """Each odd tool once; what its await raised."""
    found = {}
    for name, function in TOOLS.items():
        try:
            await tool(function, f"{folder}/{name}")
            found[name] = "nothing"
        except ToolError as error:
            found[name] = str(error.detail["error"])
    return found


def hang(path: str, seconds: float) -> int:
    """Holds its thread."""
    count = ran(path)
    time.sleep(seconds)
    return count


@agent
async def hangs(path: str, seconds: float = 3600.0) -> int:
    """A tool that does not come back."""
    count: int = await tool(hang, path, seconds)
    return count


@agent
async def hangs_after_a_call(path: str, timeout: float | None) -> str:
    """Caught, a tool's time-out is an error like any other."""
    await llm("before")
    try:
        await tool.options(timeout=timeout)(hang, path, 3600.0)
    except ToolError as error:
        return str(error)
    return "it came back"


@agent
async def plain_tool(path: str) -> int:
    """A tool that does what it should."""
    count: int = await tool(ran, path)
    return count


@agent
async def computes(path: str, seconds: float) -> str:
    """A turn that computes between two calls."""
    await llm("before")
    ran(path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pause(0.01)
    return (await llm("after")).text


@agent
async def reads_for_long(seconds: float, model: str) -> str:
    """Takes its time over the answer, and then is done."""
    answer = await llm("the only call", model=model)
    pause(seconds)
    return answer.text


@agent
async def cleans_up_for_long(calls: int, seconds: float) -> int:
    """A ``finally`` that sleeps, also where the program is dropped half-way."""
    try:
        for number in range(calls):
            await llm(f"call {number}")
    finally:
        pause(seconds)
    return calls


@agent
async def breaks_oddly() -> None:
    """Raises in a turn what nobody raises."""
    await llm("before")
    raise KeyboardInterrupt


@agent
async def two_models(first: str, second: str) -> str:
    """A call to one model, then one to another."""
    await llm("to the first", model=first)
    return (await llm("to the second", model=second)).text


@agent
async def says(text: str, model: str | None = None) -> str:
    """One call."""
    return (await llm(text, model=model)).text


@agent
async def fans(branches: int) -> int:
    """Several calls at once."""
    return len(await gather(*(llm(f"branch {n}") for n in range(branches))))


HOARD: list[bytearray] = []


@agent
async def hoards(path: str, size: int, model: str) -> int:
    """Keeps memory, as a leak does; in the first process that it runs in."""
    await llm("before", model=model)
    if ran(path) == 1:
        HOARD.append(bytearray(size))
        HOARD[0][::4096] = b"x" * -(-size // 4096)
    await llm("after", model=model)
    return size


ODD_ANSWERS: dict[str, dict[str, Any]] = {
    "no usage": {"usage": None},
    "usage as text": {"usage": Usage("12", "3", 1)},  # type: ignore[arg-type]
    "usage as a dict": {"usage": {"prompt_tokens": 1}},
    "no calls": {"usage": Usage(1, 2, None)},  # type: ignore[arg-type]
    "no text": {"text": None},
    "no model": {"model": None},
    "no tool calls": {"tool_calls": None},
}


class OddProvider:
    """An adapter of a user's own, that fills what it gives as it likes; it leaves a trace of each call."""

    def __init__(self, name: str, model: object, env: object) -> None:
        self.name = name

    async def call(self, request: LLMRequest, *, idempotency_key: str) -> LLMResponse:
        """An answer as its prompt asks for it."""
        path, _, kind = str(request.messages[-1]["content"]).rpartition("/")
        ran(f"{path}/{kind}")
        return LLMResponse(**{"text": kind, "usage": Usage(3, 4, 1), **ODD_ANSWERS[kind]})

    async def aclose(self) -> None:
        """Nothing is open."""


@agent
async def asks_oddly(folder: str) -> dict[str, str]:
    """Each odd answer once."""
    return {kind: (await llm(f"{folder}/{kind}", model="odd")).text for kind in ODD_ANSWERS}
