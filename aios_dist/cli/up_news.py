"""``aios-dist up`` while the fleet runs: it shows jobs that ended and the logs' warnings.

And it looks after the embedded Redis, which is started again when it has ended, if it keeps its data.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from aios_dist.cli.output import count_of, plain
from aios_dist.errors import AiosError, ConfigError
from aios_dist.journal import JobView, Journal
from aios_dist.local.machine import LocalFleet
from aios_dist.model.jobs import JobState

T = TypeVar("T")

LOOK_EVERY_S = 0.25
AGAIN_S = 1.0
"""Between two questions to a Redis that is away."""
ONE_BY_ONE = 10
"""More jobs than these that end together are told in one line."""
MOST_ENDS = 3
"""A Redis that has ended so often within ``SPAN_S`` is not started again."""
SPAN_S = 60.0

_LEVEL = re.compile(r"^[\d-]+ [\d:,]+ (DEBUG|INFO|WARNING|ERROR|CRITICAL)\s+(.*)$")
_STYLES = {JobState.DONE: "green", JobState.FAILED: "red", JobState.CANCELLED: "yellow"}


async def follow(out: Console, machine: LocalFleet) -> str:
    """Until Ctrl-C, or until no worker is left, or until there is no Redis any more.

    Returns:
        Why there is no Redis, in one sentence; "" where that is not the reason.
    """
    journal = Journal(machine.config.fleet)
    jobs = asyncio.create_task(_jobs(out, journal))
    watch = asyncio.create_task(kept_up(out, machine))
    logs = asyncio.create_task(_logs(out, machine))
    tasks = [jobs, watch, logs]
    try:
        await asyncio.wait([watch, logs], return_when=asyncio.FIRST_COMPLETED)
        return watch.result() if watch.done() else logs.result() or ""
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await journal.close()


async def _jobs(out: Console, journal: Journal) -> None:
    last = await _at_last(journal.ends_now)
    while True:
        try:
            await _tell_ends(out, journal, last)
        except AiosError:  # one that does not pass by itself: a password that was changed
            last = await _at_last(journal.ends_now)


async def _at_last(question: Callable[[], Awaitable[T]]) -> T:
    """The answer, however long Redis is away."""
    while True:
        try:
            return await question()
        except AiosError:
            await asyncio.sleep(AGAIN_S)


async def _tell_ends(out: Console, journal: Journal, last: str) -> None:
    async for ids in journal.ends(last):
        found = await _at_last(partial(journal.views, ids)) if ids else []
        for line in ends([view for view in found if view is not None]):
            out.print(line)


def ends(views: Sequence[JobView]) -> list[Text]:
    """What is said of jobs that have ended or are parked; of those that go on by now, nothing."""
    told = [view for view in views if view.state.ended or view.parked]
    if len(told) > ONE_BY_ONE:
        states = Counter("parked" if view.parked else view.state.value for view in told)
        return [Text(f"  {len(told)} jobs: {', '.join(f'{n} {state}' for state, n in states.items())}")]
    lines = []
    for view in told:
        line = Text("  ")
        if view.parked:
            line.append("parked", style="yellow").append(plain(f" {view.id}: {view.why}"))
        else:
            steps, tokens = count_of(view.outcomes, "step"), count_of(view.usage.total_tokens, "token")
            line.append(view.state.value, style=_STYLES.get(view.state, ""))
            line.append(f" {view.id}: {steps}, {tokens}, {view.ended_at - view.submitted_at:.1f} s")
        lines.append(line)
    return lines


async def _logs(out: Console, machine: LocalFleet) -> None:
    read: Counter[Path] = Counter()
    for member in machine.members:
        with contextlib.suppress(OSError):
            read[member.log] = member.log.stat().st_size
    while machine.workers:
        await asyncio.sleep(LOOK_EVERY_S)
        for member in list(machine.members):
            whole = b""
            with contextlib.suppress(OSError), member.log.open("rb") as log:  # /tmp was tidied up
                log.seek(read[member.log])
                whole, _, _ = log.read().rpartition(b"\n")
            read[member.log] += len(whole) + bool(whole)
            for line in important(whole.decode(errors="replace").splitlines()):
                out.print(Text(f"  {member.name}: ", style="yellow").append(line, style="default"))
            if member.ended:
                out.print(
                    Text(f"  {member.name} ended with exit code {member.process.returncode}.", style="red")
                )
                machine.members.remove(member)


def important(lines: list[str]) -> list[str]:
    """Warnings and errors, with the tracebacks that belong to them; none of it commands a terminal."""
    kept: list[str] = []
    wanted = False
    for line in lines:
        found = _LEVEL.match(line)
        wanted = found[1] in ("WARNING", "ERROR", "CRITICAL") if found else wanted
        if wanted and line.strip():
            kept += map(plain, _told(found[2]) if found else [line])
    return kept


def _told(said: str) -> list[str]:
    """What a worker says of a failure as JSON, for programs, as people read it; any other line as it is."""
    kind, _, fields = said.partition(" failed: ")
    if not kind.endswith((": Job", ": Tool")):
        return [said]
    try:
        failure = json.loads(fields)
        where = f"agent {failure['agent']}" if "agent" in failure else f"its {failure['tool']}"
        frames = failure["traceback"].splitlines()
        return [f"job {failure['job']}, {where}, failed by {failure['error']}", *(f"  {f}" for f in frames)]
    except (ValueError, LookupError, TypeError, AttributeError):
        return [said]


# The embedded Redis -------------------------------------------------------------------------------------


async def kept_up(out: Console, machine: LocalFleet) -> str:
    """Look after it for as long as the fleet runs; for ever, where Redis is another's.

    Returns:
        Why there is none any more, in one sentence.
    """
    ends: list[float] = []
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        redis = machine.redis
        if redis is None or redis.ended_with is None:
            continue
        how = f"The embedded Redis has ended {_how(redis.ended_with)}"
        if not machine.keeps_data:
            return f"{how}, and with it all jobs: it keeps nothing without --data DIR."
        now = time.monotonic()
        ends = [*(at for at in ends if now - at < SPAN_S), now]
        if len(ends) >= MOST_ENDS:
            return f"{how}, {MOST_ENDS} times within {SPAN_S:g} s: see {str(redis.log)!r}."
        try:
            await asyncio.to_thread(redis.restart)
        except ConfigError as exc:
            return f"{how}, and does not start again: {exc}"
        out.print(Text(f"  {how}; it runs again, with its data.", style="yellow"))


def _how(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"by {name} (out of memory?)" if name == "SIGKILL" else f"by {name}"
