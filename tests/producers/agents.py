"""The agents of these tests. The workers import this module too: it is in the fleet's ``modules``."""

from __future__ import annotations

from aios_dist import agent, llm


@agent
async def ask(text: str) -> str:
    """One call, and its answer."""
    return (await llm(text, model="small")).text


@agent
async def echo(value: object = None) -> object:
    """Ends in its first turn: no worker is needed."""
    return value
