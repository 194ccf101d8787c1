"""Channels of a fleet's Redis: what is said on those that somebody wants to hear, and on no others.

One connection, however many channels. What is said while it is broken is lost: whoever listens is told of
the gap once all channels are heard again, and looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from aios_dist.journal.connection import line_errors, open_client, passes, unavailable

AGAIN_S = 0.2
"""Between two tries to hear, while Redis is away."""

MOST = 1000
"""Channels in one command."""

MOST_LEFT = 200
"""Channels that nobody wants any more, before Redis is told: one command for many."""


class Hearing:
    """Of one event loop; one task listens, others say what is to be heard.

    Args:
        url: of Redis.
        quiet: seconds of silence after which Redis is asked whether it is there; after as many more without
            an answer the line is given up.

    Attributes:
        tried: there is a line, or there has been a try.
    """

    def __init__(self, url: str, quiet: float) -> None:
        self.tried = asyncio.Event()
        self._url = url
        self._quiet = quiet
        self._wanted: dict[str, asyncio.Future[None]] = {}
        """By channel: done when Redis has said that it is heard, or the line has broken since."""
        self._left: set[str] = set()
        """Heard, and not wanted any more."""
        self._client: Any = None
        self._line: Any = None

    async def hear(self, channels: Iterable[str]) -> bool:
        """Hear these, too. What is said on them after this is heard: a look is to follow.

        Returns when Redis has said so. Where there is no line, at once: a gap will be told.

        Returns:
            Whether some were not heard before.
        """
        wanted = set(channels)
        new = [channel for channel in wanted if channel not in self._wanted]
        for channel in new:
            self._wanted[channel] = asyncio.get_running_loop().create_future()
            if channel in self._left:
                self._wanted[channel].set_result(None)
        ask = [channel for channel in new if channel not in self._left]
        self._left.difference_update(new)
        answers = [self._wanted[channel] for channel in wanted]
        await self._say("SUBSCRIBE", ask)
        if self._line is not None and (waiting := [said for said in answers if not said.done()]):
            await asyncio.wait(waiting)
        return bool(new)

    async def leave(self, channels: Iterable[str], *, at_once: bool = False) -> None:
        """Hear these no more. Redis is told when there are many, or ``at_once``."""
        for channel in channels:
            if (heard := self._wanted.pop(channel, None)) is not None:
                if not heard.done():
                    heard.set_result(None)
                self._left.add(channel)
        if self._left and (at_once or len(self._left) >= MOST_LEFT):
            left, self._left = list(self._left), set()
            await self._say("UNSUBSCRIBE", left)

    async def listen(self) -> AsyncIterator[tuple[str, str] | None]:
        """What is said, for ever: the channel and the word; None after a gap.

        Raises:
            FleetUnavailable: Redis refuses; where it is away it is waited for.
        """
        while True:
            try:
                self._client = open_client(self._url)
                with line_errors():
                    line = await self._client.connection_pool.get_connection()
                heard = set(
                    self._wanted
                )  # who comes from here on waits until Redis has said that it is heard
                again = bool(heard)
                self._line = line
                self.tried.set()
                await self._say("SUBSCRIBE", list(heard))
                asked = False
                while self._line is not None:
                    if again and not heard:
                        again = False
                        yield None
                    with line_errors():
                        said = await self._line.read_response(
                            timeout=self._quiet, disconnect_on_error=False, push_request=True
                        )
                    if said is None and asked:
                        raise RedisConnectionError(f"no answer within {self._quiet:g} s")
                    if asked := said is None:
                        with line_errors():
                            await self._line.send_command("PING", "aios", check_health=False)
                    elif isinstance(said, list) and len(said) == 3:
                        kind, channel, word = said
                        name = channel.decode("utf-8", "replace")
                        if kind == b"message":
                            yield name, word.decode("utf-8", "replace")
                        elif kind == b"subscribe":
                            heard.discard(name)
                            self._done(name)
            except RedisError as exc:
                await self._broken(exc)
                self.tried.set()
            yield None  # nobody is kept from looking while there is no line
            await asyncio.sleep(AGAIN_S)

    async def close(self) -> None:
        """Hear nothing any more."""
        self._line = None
        self._left.clear()
        self._done(*self._wanted)
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _broken(self, exc: Exception) -> None:
        await self.close()
        if isinstance(exc, RedisError) and not passes(exc):
            raise unavailable(exc, self._url) from None

    def _done(self, *channels: str) -> None:
        for channel in channels:
            if (wanted := self._wanted.get(channel)) is not None and not wanted.done():
                wanted.set_result(None)

    async def _say(self, command: str, channels: Sequence[str]) -> None:
        """To Redis, if there is a line; one that breaks over it is noticed by who listens."""
        for first in range(0, len(channels), MOST):
            if (line := self._line) is None:
                return
            try:
                with line_errors():
                    await line.send_command(command, *channels[first : first + MOST], check_health=False)
            except RedisError:
                await line.disconnect(nowait=True)
