"""Three agents: plain ``async def``s. The worker imports them by ``[fleet] modules`` in its aios.toml."""

from __future__ import annotations

from pathlib import Path

from aios_dist import agent, llm, signal, tool


@agent
async def trip(city: str, calls: int = 2, model: str = "small") -> str:
    """Asks the model some times; each question holds the answer before."""
    text = city
    for _ in range(calls):
        text = (await llm(f"Tell me more about {text}", model=model)).text
    return text


def book(path: str) -> str:
    """Something that must not happen twice."""
    with Path(path).open("a") as book:
        book.write("booked\n")
    return "room 7"


@agent
async def booking(path: str) -> str:
    """A call, a tool, a call."""
    await llm("Which hotel?", model="small")
    room = await tool(book, path)
    await llm(f"A letter about {room}", model="small")
    return room


@agent
async def complaint() -> str:
    """A draft, a person's word on it, the complaint."""
    draft = (await llm("A complaint to the hotel", model="small")).text
    word = await signal("review")
    return (await llm(f"{draft}, but {word}", model="small")).text
