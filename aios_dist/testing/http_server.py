"""A small HTTP/1.1 server: one ``Connection`` a client, one call back a request, no task and no queue.

The fake LLM shares its machine with what is being measured, so its own use of CPU must be small. Measured
with a trivial answer: 0.035 ms CPU a request, 0.09 ms for aiohttp's bare server. A call can hang or be cut
at will. Understood: keep-alive, pipelining, Content-Length, Expect: 100-continue. Refused, with a sentence:
chunked and compressed request bodies. Needs only the standard library.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024

_START = {
    status: f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status != 529 else 'Overloaded'}\r\n"
    for status in (*(int(s) for s in HTTPStatus if s >= 200), 529)
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request, fully read. Header names are lower case; ``at`` is the event loop's time, in seconds."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    at: float


class Connection(asyncio.Protocol):
    """One client. ``serve(connection, request)`` must lead to ``respond``, ``end_stream`` or ``cut``.

    The next request of the connection is read after that. ``on_gone`` (set by ``serve``) is called once if
    the client leaves before.
    """

    def __init__(
        self,
        serve: Callable[[Connection, Request], None],
        loop: asyncio.AbstractEventLoop,
        open_: set[Connection],
    ) -> None:
        self._serve = serve
        self._loop = loop
        self._open = open_
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._body_from = self._body_to = 0
        self._busy = self._keep_alive = False
        self._transport: asyncio.Transport | None = None
        self.on_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._open.discard(self)
        gone, self.on_gone = self.on_gone, None
        if gone is not None:
            gone()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._busy:
            self._read()

    def _read(self) -> None:
        """Serve the next request of the buffer, if it is whole."""
        buffer = self._buffer
        if self._head is None:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(buffer) > MAX_HEAD:
                    self._refuse(431, "the request's headers are too large")
                return
            problem = self._read_head(end)
            if problem is not None:
                self._refuse(*problem)
                return
        if len(buffer) < self._body_to or self._head is None:
            return
        method, target, headers = self._head
        body = bytes(buffer[self._body_from : self._body_to])
        del buffer[: self._body_to]
        self._head = None
        self._busy = True
        path, _, query = target.partition("?")
        self._serve(self, Request(method, path, query, headers, body, self._loop.time()))

    def _read_head(self, end: int) -> tuple[int, str] | None:
        """Read the request's first ``end`` bytes; gives None, or (status, sentence) if it must be refused."""
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        words = first.split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return 400, "this is not an HTTP/1.1 request"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if "transfer-encoding" in headers:
            return 411, "send a Content-Length: chunked request bodies are not read"
        if headers.get("content-encoding", "identity") != "identity":
            return 415, "compressed request bodies are not read"
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdecimal()):
            return 400, "the Content-Length is not a number"
        if int(length) > MAX_BODY:
            return 413, f"the request's body is over {MAX_BODY} bytes"
        wish = headers.get("connection", "").lower()
        self._keep_alive = "close" not in wish if words[2] == "HTTP/1.1" else "keep-alive" in wish
        self._head = words[0], words[1], headers
        self._body_from = end + 4
        self._body_to = end + 4 + int(length)
        if len(self._buffer) < self._body_to and headers.get("expect", "").lower() == "100-continue":
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None

    def _refuse(self, status: int, sentence: str) -> None:
        self._keep_alive = False
        self.respond(status, b'{"error":{"message":"%b"}}' % sentence.encode())

    def write(self, data: bytes) -> None:
        """Write bytes as they are; nothing happens if the client has left."""
        if self._transport is not None:
            self._transport.write(data)

    def respond(self, status: int, body: bytes, more: str = "", kind: str = "application/json") -> None:
        """Write a whole answer. ``more``: further header lines, each ending in CR LF."""
        self.write(_head(status, kind, f"Content-Length: {len(body)}\r\n{more}", self._keep_alive) + body)
        self._done()

    def respond_cut(self, body: bytes, more: str = "") -> None:
        """Write half of an answer that was to be ``body``, and end the connection."""
        head = _head(200, "application/json", f"Content-Length: {len(body)}\r\n{more}", self._keep_alive)
        self.write(head + body[: len(body) // 2])
        self.cut()

    def start_stream(self, data: bytes, more: str = "") -> None:
        """Begin an answer of unknown length with its first piece of server-sent events."""
        more = f"Transfer-Encoding: chunked\r\n{more}"
        head = _head(200, "text/event-stream; charset=utf-8", more, self._keep_alive)
        self.write(head + _chunk(data))

    def stream(self, data: bytes) -> None:
        """Write one further piece of a stream."""
        self.write(_chunk(data))

    def end_stream(self, data: bytes = b"") -> None:
        """End a stream, with a last piece if there is one."""
        self.write((_chunk(data) if data else b"") + b"0\r\n\r\n")
        self._done()

    def cut(self) -> None:
        """Write out what was written, then end the connection, in the middle of whatever it was."""
        self.on_gone = None
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _done(self) -> None:
        self.on_gone = None
        self._busy = False
        if not self._keep_alive:
            self.cut()
        elif self._buffer:
            # Not here and now: a long pipeline would become a deep recursion.
            self._loop.call_soon(self._read_next)

    def _read_next(self) -> None:
        if not self._busy and self._transport is not None:
            self._read()


def _head(status: int, kind: str, more: str, keep_alive: bool) -> bytes:
    close = "" if keep_alive else "Connection: close\r\n"
    return f"{_START[status]}Content-Type: {kind}\r\n{more}{close}\r\n".encode("latin-1")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
