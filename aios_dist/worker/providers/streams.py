"""Reads server-sent events into a reply.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from aios_dist.worker.providers import Reply

DRAIN_S = 0.1
"""Seconds that the end of a stream may take after its last event, to keep the connection for another call."""

_NO_DATA = (b"event:", b":", b"id:", b"retry:")


class _Events:
    """Lines to events. An event's data stands on one line with all providers; some servers break it."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.ended = False
        self._open = b""  # data whose JSON goes on in the next line

    def line(self, line: bytes) -> None:
        """One line, without its end."""
        line = line.strip()
        if line.startswith(b"data:"):
            data = line[5:].strip()
        elif line[:1] in (b"{", b"["):  # an error that some servers throw in, bare
            data = line
        elif not line:
            return self.end()
        elif line.startswith(_NO_DATA):
            return None
        else:
            raise msgspec.DecodeError("the stream is not one of server-sent events")
        if not data:
            return None
        data = self._open + b"\n" + data if self._open else data
        try:
            self.ended = self.reply.event(data) or self.ended
            self._open = b""
        except msgspec.DecodeError:
            self._open = data
        return None

    def end(self) -> None:
        """The event ends here, so its data must be whole.

        Raises:
            msgspec.DecodeError: it is not.
        """
        data, self._open = self._open, b""
        if data:
            self.ended = self.reply.event(data) or self.ended


async def read_stream(pieces: AsyncIterator[bytes], reply: Reply) -> float | None:
    """Read a stream to its last event; gives the time of its first token.

    Raises:
        EOFError: it ended before the answer did.
        NoAnswer: it ended in good form and had nothing of an answer.
        ProviderSaid, msgspec.DecodeError: see :meth:`Reply.event`.
    """
    from aios_dist.worker.providers import NoAnswer, ProviderSaid

    events = _Events(reply)
    first: float | None = None
    begun: list[bytes] = []  # of a line: joined once, so that a long one costs linear time
    broke: Exception | None = None
    try:
        async for piece in pieces:
            reply.keep(piece)
            head, newline, rest = piece.partition(b"\n")
            begun.append(head)
            if newline:
                *lines, rest = (b"".join(begun) + b"\n" + rest).split(b"\n")
                begun = [rest]
                for line in lines:
                    events.line(line)
            if first is None and (reply.text or reply.calls):
                first = time.monotonic()
            if events.ended:
                await _drain(pieces)
                break
    except (msgspec.DecodeError, ProviderSaid):
        if not reply.complete:
            raise
    except Exception as exc:
        broke = exc
    # Whatever comes behind the end of an answer, or does not come, breaks nothing.
    try:
        if not (events.ended or reply.complete):
            events.line(b"".join(begun))
            events.end()
    except msgspec.DecodeError as exc:
        raise broke or exc from None
    if not (events.ended or reply.complete):
        raise broke or EOFError("the stream ended before the answer did")
    if not (reply.complete or reply.text or reply.calls):
        raise NoAnswer(bytes(reply.raw))
    return first


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a stream past its last event to its end: only then can its connection carry the next call."""
    import httpx2

    try:
        async with asyncio.timeout(DRAIN_S):
            async for _ in pieces:
                pass
    except (TimeoutError, httpx2.HTTPError):
        pass
