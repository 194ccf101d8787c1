"""The agents of the chaos run. Workers import this module too, where it is in their ``modules``."""

from __future__ import annotations

import os
import time
from pathlib import Path

from aios_dist import agent, gather, llm, tool


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
async def branching(name: str, model: str, branches: int, trace: str) -> int:
    """A call, some at once, a tool, a last call: ``branches`` + 3 steps."""
    await llm(f"{name}: what is to be done?", model=model)
    answers = await gather(*(llm(f"{name}: do part {n}", model=model) for n in range(branches)))
    await tool(leave_trace, trace, name)
    await llm(f"{name}: sum up", model=model)
    return len(answers)


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
