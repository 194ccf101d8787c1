"""The agent of the experiment. The workers import this module: it is in the fleet's ``modules``."""

from __future__ import annotations

import time

from aios_dist import agent, llm, tool


def work(seconds: float) -> float:
    """The agent's own work, which needs no model."""
    time.sleep(seconds)
    return seconds


@agent(name="experiment")
async def member(prompts: list[str], own: list[float], model: str) -> None:
    """One call after another; before each, as much work of its own as is said."""
    for prompt, seconds in zip(prompts, own, strict=True):
        if seconds:
            await tool(work, seconds)
        await llm(prompt, model=model)
