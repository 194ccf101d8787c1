"""Waiting for a Redis that is away: when it is asked again, for how long, and what ends the wait."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from aios_dist.errors import AiosError, FleetUnavailable

T = TypeVar("T")


def _go_on(_: AiosError) -> None:
    """Nothing is said of it."""


@dataclass(frozen=True)
class Patience:
    """How one waits.

    Attributes:
        first_s: seconds to the second try; each pause is twice the one before.
        longest_s: … up to this.
        together_s: seconds altogether, from the first try on; then who waits is told.
    """

    first_s: float
    longest_s: float
    together_s: float = math.inf

    def pauses(self) -> Iterator[float]:
        """Seconds between one try and the next, for ever."""
        pause = self.first_s
        while True:
            yield pause
            pause = min(2 * pause, self.longest_s)

    async def ask(
        self,
        question: Callable[[], Awaitable[T]],
        *,
        away: Callable[[Any], None] = _go_on,
        errors: tuple[type[AiosError], ...] = (FleetUnavailable,),
        wait: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> T:
        """The answer to a question, or to a write that is safe to repeat.

        Args:
            question: asked again and again while Redis is away.
            away: told each time why; raises where waiting does not help.
            errors: what says that it is.
            wait: passes the time between two tries, in seconds; raises where who waits is to stop.

        Raises:
            FleetUnavailable: Redis has been away for ``together_s``.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        why: AiosError | None = None
        for pause in self.pauses():
            # The first answer may take its time: Redis is there. One that has been away has until the end.
            until = None if why is None or math.isinf(self.together_s) else begun + self.together_s
            try:
                async with asyncio.timeout_at(until) as limit:
                    return await question()
            except errors as exc:
                why = exc
            except TimeoutError:
                if why is None or not limit.expired():
                    raise
            away(why)
            if clock() >= begun + self.together_s:
                given_up = FleetUnavailable(f"{why} It was asked for {clock() - begun:.0f} s.")
                given_up.what, given_up.fix = why.what, why.fix
                raise given_up from None
            await wait(pause)
        raise AssertionError("pauses do not end")
