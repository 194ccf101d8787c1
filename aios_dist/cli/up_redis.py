"""The embedded Redis of ``aios-dist up``: started again when it has ended by itself, if it keeps its data."""

from __future__ import annotations

import asyncio
import signal
import time

from rich.console import Console
from rich.text import Text

from aios_dist.errors import ConfigError
from aios_dist.local.machine import LocalFleet

LOOK_EVERY_S = 0.25
MOST_ENDS = 3
"""A server that has ended so often within ``SPAN_S`` is not started again."""
SPAN_S = 60.0


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
