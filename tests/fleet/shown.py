"""Agents whose rows in Flower are looked at, and what Flower says of them."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from typing import Any

from aios_dist import agent, gather, llm, signal, tool
from aios_dist.local.machine import LocalFleet


@agent
async def looks_up(key: str) -> str:
    """Raises what Python raises, behind a call."""
    await llm("first", model="small")
    return {"a": "b"}[key]


@agent
async def branches_fail(branches: int) -> str:
    """Several calls fail for good, and with them the job."""
    await gather(*(llm(f"branch {n}", model="small") for n in range(branches)))
    return "never"


@agent
async def calls(count: int = 1, model: str = "small") -> str:
    """Some calls."""
    for n in range(count):
        await llm(f"call {n}", model=model)
    return "done"


def breaks() -> None:
    """A tool's own mistake, in words that look like another line, and from right to left."""
    raise ValueError("first\nSUCCESS second\u202egnp.exe")


@agent
async def tries_a_tool() -> str:
    """Fails by its tool."""
    await tool(breaks)
    return "never"


@agent
async def asks_a_person() -> str:
    """Waits for a word that does not come."""
    await llm("before", model="small")
    return str(await signal("word"))


def ask(machine: LocalFleet, path: str) -> tuple[int, bytes, dict[str, str]]:
    """Flower's status, answer, and what it says besides."""
    coded = base64.b64encode(machine.flower_login.encode()).decode()
    asked = urllib.request.Request(f"{machine.flower_url}{path}", headers={"Authorization": f"Basic {coded}"})
    try:
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as exc:
        return exc.code, exc.read(), dict(exc.headers)


def rows(machine: LocalFleet, job: str = "") -> dict[str, dict[str, Any]]:
    """Flower's rows by id; of one job: its own and those of its tries."""
    found = json.loads(ask(machine, "/api/tasks?limit=100000")[1])
    return {
        id: row
        for id, row in found.items()
        if not job or row["args"] == f"job {job}" or row["args"].startswith(f"job {job}, ")
    }


def states(found: dict[str, dict[str, Any]]) -> list[str]:
    """``job FAILURE`` and ``0 SUCCESS``, sorted; without turns that ran apart."""
    shown = [f"{row['args'].partition(', step ')[2] or 'job'} {row['state']}" for row in found.values()]
    return sorted(state for state in shown if not state.startswith("turn "))
