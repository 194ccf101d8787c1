"""The agents of the chaos run. Workers import this module too, where it is in their ``modules``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from aios_dist import ToolError, agent, gather, llm, signal, tool

LONG = " and so on" * 60
"""What makes a prompt a text of its own in the journal."""


def leave_trace(path: str, name: str) -> str:
    """A tool that cannot be undone: one line for each time it runs."""
    line = f"{name} {time.time():.6f} {os.getpid()}\n".encode()
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line)  # one write: lines of several processes do not mix
    finally:
        os.close(file)
    return Path(path).name


@agent
async def branching(name: str, model: str, branches: int, trace: str) -> str:
    """A call, some at once, a tool, a last call: ``branches`` + 3 steps. All is made of what came before."""
    first = await llm(f"{name}: what is to be done?", model=model)
    parts = await gather(
        *(llm(f"{name}: do part {n} of {first.text}{LONG}{LONG}", model=model) for n in range(branches))
    )
    await tool(leave_trace, trace, name)
    return (await llm(f"{name}: sum up {' / '.join(part.text for part in parts)}", model=model)).text


@agent
async def following(name: str, calls: int, model: str) -> str:
    """Calls one after another, each made of the answer before it."""
    text = ""
    for number in range(calls):
        text = (await llm(f"{name}: call {number} after {text}{LONG}{LONG}", model=model)).text
    return text


@agent
async def reviewing(name: str, model: str, reviews: int) -> str:
    """A draft, and another after each review that people send."""
    text = (await llm(f"{name}: a draft", model=model)).text
    for _ in range(reviews):
        review = await signal("review")
        text = (await llm(f"{name}: a draft after {review} of {text}", model=model)).text
    return text


@agent
async def refusing(name: str, model: str, parts: int) -> str:
    """Calls at once, every second of which the provider may refuse."""
    answers = await gather(
        *(llm(f"{name}: part {n}{' (refused)' * (n % 2)}", model=model) for n in range(parts))
    )
    return " / ".join(answer.text for answer in answers)


class Panic(BaseException):
    """As a Rust extension raises it."""


RAISED: dict[str, Callable[[], BaseException]] = {
    "CancelledError": asyncio.CancelledError,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit(3),
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration("over"),
    "Panic": lambda: Panic("a panic"),
    "BaseExceptionGroup": lambda: BaseExceptionGroup("several", [Panic("one"), ValueError("two")]),
}
"""What no tool should raise."""


def raise_(what: str, trace: str, name: str) -> None:
    """A tool that raises what it should not."""
    leave_trace(trace, name)
    raise RAISED[what]()


async def raise_on_a_loop(what: str, trace: str, name: str) -> None:
    """The same, of an asynchronous tool."""
    raise_(what, trace, name)


@agent
async def raising(name: str, model: str, what: str, of_a_loop: bool, caught: bool, trace: str) -> str:
    """A call that is paid for, and a tool that raises what it should not."""
    text = (await llm(f"{name}: begin", model=model)).text
    try:
        await tool(raise_on_a_loop if of_a_loop else raise_, what, trace, name)
    except ToolError:
        if not caught:
            raise
    return (await llm(f"{name}: go on after {text}", model=model)).text


@agent
async def calling(name: str, calls: int, model: str) -> int:
    """Calls one after another, by code."""
    for number in range(calls):
        await llm(f"{name}: call {number}", model=model)
    return calls


def block(path: str, seconds: float) -> int:
    """A tool that holds its thread the first time it runs, and tells which run this is."""
    leave_trace(path, "block")
    run = len(Path(path).read_text().splitlines())
    if run == 1:
        time.sleep(seconds)
    return run


async def block_the_loop(path: str, seconds: float) -> int:
    """A tool that does what an asynchronous tool must never do."""
    return block(path, seconds)


@agent
async def blocking(path: str, seconds: float, of_the_loop: bool) -> int:
    """A tool that takes longer than a lease."""
    runs: int = await tool(block_the_loop if of_the_loop else block, path, seconds)
    return runs


@agent
async def computing(path: str, seconds: float, model: str) -> str:
    """Computes for long between its calls, against all advice: a turn that blocks."""
    await llm("before", model=model)
    block(path, seconds)
    return (await llm("after", model=model)).text
