"""The three agents of the seed, for the demo: A makes three calls, B two, C two and works between."""

from __future__ import annotations

import time

from aios_dist.program.agents import agent
from aios_dist.program.commands import llm, tool


def work(seconds: float) -> float:
    """C's own work, which needs no model."""
    time.sleep(seconds)
    return seconds


@agent(name="A")
async def a(model: str) -> None:
    """Three calls, one after another."""
    for number in (1, 2, 3):
        await llm(f"A's question {number}", model=model)


@agent(name="B")
async def b(model: str) -> None:
    """Two calls."""
    for number in (1, 2):
        await llm(f"B's question {number}", model=model)


@agent(name="C")
async def c(model: str, pause: float) -> None:
    """Two calls, and between them work of its own."""
    await llm("C's question 1", model=model)
    await tool(work, pause)
    await llm("C's question 2", model=model)
