"""The line to a provider: aiohttp carries what the official SDKs ask for, by rules of ours.

No cookies: one tenant's would go with another's call. No redirects but 307 and 308 within the same origin:
any other place would get prompt and configured headers. An idle connection that turns out to be dead when it
is used is no try: the request goes over another one at once. A peer that is gone is noticed (TCP
keep-alive), also in the midst of an answer that may take for ever. What comes back is unpacked here, and
bounded.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import socket
import ssl
import time
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import httpx2
from aiohttp.client_proto import ResponseHandler

from aios_dist.worker.providers.replies import TooLarge

CONNECT_S = 10.0
"""Seconds for a connection to be made; all that follows counts against the model's ``timeout``."""

IDLE_S = 4.0
"""Seconds an idle connection is kept: less than the 5 of uvicorn (vLLM and most gateways), so that no call is
sent on a connection that the server is just closing."""

MOST_REDIRECTS = 3
DEAD_S = 0.5
"""One that was dead says so within a round trip. What breaks later may have been at work on the request."""

PIECE = 16 * 1024
MOST_OF_A_HEADER = 256 * 1024
"""Bytes; 8 kB, as aiohttp has it, are fewer than some proxies' policies and tokens have."""

MOST_OF_AN_ERROR = 1024 * 1024
"""Bytes of a refusal that are read."""

KEEP_ALIVE = {"TCP_KEEPIDLE": 45, "TCP_KEEPALIVE": 45, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A silent peer is asked after 45 s, and given up two minutes after its last sign. (The second is macOS' name
of the first.)"""

_ORIGIN_KEEPS = (307, 308)
_REFUSED_HEADERS = (b"set-cookie", b"set-cookie2")


def open_client(answer_limit: int) -> httpx2.AsyncClient:
    """The HTTP client that an SDK is given. No limit but the worker's slots holds a call back.

    Args:
        answer_limit: bytes of one answer, unpacked.
    """
    return _Client(answer_limit)


class _Client(httpx2.AsyncClient):
    def __init__(self, answer_limit: int) -> None:
        self._answer_limit = answer_limit
        super().__init__(follow_redirects=False, timeout=httpx2.Timeout(None, connect=CONNECT_S))

    def _init_transport(self, *args: Any, **options: Any) -> httpx2.AsyncBaseTransport:
        return Transport(_verified(**options), self._answer_limit)

    def _init_proxy_transport(
        self, proxy: httpx2.Proxy, *args: Any, **options: Any
    ) -> httpx2.AsyncBaseTransport:
        return Transport(_verified(**options), self._answer_limit, proxy)


def _verified(verify: Any = True, cert: Any = None, trust_env: bool = True, **_: Any) -> ssl.SSLContext:
    where = tuple(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    return _context(verify, cert, trust_env, where)


@functools.lru_cache(maxsize=8)
def _context(verify: Any, cert: Any, trust_env: bool, where: tuple[str | None, ...]) -> ssl.SSLContext:
    """One for all models: to read all the world's certificates takes 0.1 s."""
    return httpx2.create_ssl_context(verify=verify, cert=cert, trust_env=trust_env)


class Transport(httpx2.AsyncBaseTransport):
    """Connections to one provider, on one event loop.

    Args:
        verify: how servers are verified.
        answer_limit: bytes of one answer, unpacked.
        proxy: what stands between, if anything.
    """

    def __init__(self, verify: ssl.SSLContext, answer_limit: int, proxy: httpx2.Proxy | None = None) -> None:
        self._verify = verify
        self._answer_limit = answer_limit
        self._through: dict[str, Any] = {}
        if proxy is not None:
            login = aiohttp.BasicAuth(*proxy.auth) if proxy.auth else None
            self._through = {"proxy": str(proxy.url), "proxy_auth": login, "proxy_headers": proxy.headers}
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def _open(self, new: bool) -> aiohttp.ClientSession:
        """What makes a new connection for each request, or takes an idle one where it can."""
        if new not in self._sessions:
            idle: dict[str, Any] = {"force_close": True} if new else {"keepalive_timeout": IDLE_S}
            connector = aiohttp.TCPConnector(
                limit=0,
                **idle,
                ssl=self._verify,
                resolver=aiohttp.ThreadedResolver(),  # by the loop's getaddrinfo, which is ours on a worker
                socket_factory=_kept_alive,
            )
            make: Callable[..., ResponseHandler] = _Connection
            connector._factory = functools.partial(make, asyncio.get_running_loop())
            trace = aiohttp.TraceConfig()
            trace.on_connection_reuseconn.append(_reused)
            self._sessions[new] = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[trace],
                max_line_size=MOST_OF_A_HEADER,
                max_field_size=MOST_OF_A_HEADER,
            )
        return self._sessions[new]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it, and give what came back, whose body is read as it comes.

        Raises:
            aiohttp.ClientError, OSError: there was no connection, or it broke.
        """
        await request.aread()
        request.headers["accept-encoding"] = "gzip, deflate"  # what is unpacked here
        # Twice through the loop: it reads what idle connections have to say (that they are closed).
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        url = request.url
        response = await self._send(request, url)
        for _ in range(MOST_REDIRECTS):
            to = _redirect(url, response)
            if to is None:
                break
            response.release()
            url = to
            response = await self._send(request, url)
        said = response.headers.get("content-encoding", "").lower().split(",")
        packed = ",".join(name for one in said if (name := one.strip()) not in ("", "identity"))
        ours = packed in ("", *_PACKED)
        refused = (*_REFUSED_HEADERS, b"content-encoding") if ours else _REFUSED_HEADERS
        most = self._answer_limit if response.status < 400 else MOST_OF_AN_ERROR
        return httpx2.Response(
            status_code=response.status,
            headers=[(k, v) for k, v in response.raw_headers if k.lower() not in refused],
            stream=_Body(response, Unpacked(packed if ours else ""), most),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "reason_phrase": (response.reason or "").encode()},
        )

    async def _send(self, request: httpx2.Request, url: httpx2.URL) -> aiohttp.ClientResponse:
        timeout = request.extensions.get("timeout", {})
        limits = aiohttp.ClientTimeout(sock_connect=timeout.get("connect"), sock_read=timeout.get("read"))
        for new in (False, True):  # where one idle connection was dead, all may be
            line = _Line()
            try:
                return await self._open(new).request(
                    request.method,
                    str(url),
                    headers=request.headers,
                    data=request.content or None,
                    allow_redirects=False,
                    auto_decompress=False,
                    compress=False,
                    timeout=limits,
                    server_hostname=request.extensions.get("sni_hostname"),
                    trace_request_ctx=line,
                    **self._through,
                )
            except aiohttp.ClientConnectionResetError:  # while it was written: nobody has it whole
                if new:
                    raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if new or not line.was_dead():
                    raise
        raise AssertionError

    async def aclose(self) -> None:
        """Close the connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()


class Unpacked:
    """Bytes as they were before they were packed, a piece at a time, however small they have become.

    What is called packed and is not passes as it is, and of what is damaged all that comes before: it
    was paid for.

    Args:
        encoding: ``gzip``, ``deflate``; anything else: not packed.
    """

    def __init__(self, encoding: str) -> None:
        self._packed = encoding in _PACKED
        self._head = self._tail = b""
        self._inflate: Any = None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What is in the next bytes, in pieces of ``PIECE`` at the most (of what was packed)."""
        if self._packed and self._inflate is None:
            self._head += data
            length = _head_length(self._head)
            if length is None:
                return  # it is not all there
            self._packed, data, self._head = length >= 0, self._head[max(0, length) :], b""
            # No sum at the end is looked at: what has been unpacked is there.
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        if not self._packed:
            yield data
            return
        while data and not self._inflate.eof:
            try:
                piece = self._inflate.decompress(data, PIECE)
            except zlib.error:
                return
            data = self._inflate.unconsumed_tail
            if piece:
                yield piece
        if self._inflate.eof:
            yield from self._next(self._inflate.unused_data or data)

    def _next(self, data: bytes) -> Iterator[bytes]:
        """What may come behind the end: the sum, and more, packed by itself: some do so with each event."""
        self._tail += data
        begun = self._tail.find(b"\x1f\x8b\x08", 0, SUM + 3)
        if begun < 0:
            self._tail = self._tail[: SUM + 3]
            return
        rest, self._tail, self._inflate = self._tail[begun:], b"", None
        yield from self.pieces(rest)


def _head_length(data: bytes) -> int | None:
    """Bytes before what is packed; -1: nothing is, whatever its header says; None: more must come.

    https://www.rfc-editor.org/rfc/rfc1952 and 1950; some servers write no head at all.
    """
    if len(data) < 2:
        return None
    if data[:2] != b"\x1f\x8b":
        if data[:1] == b"\x78" and int.from_bytes(data[:2], "big") % 31 == 0:
            return 2
        return -1 if data.lstrip()[:1] in (b"{", b"[", b"d", b"e", b":", b"<", b"\xef") else 0
    if len(data) < 10:
        return None
    flags, at = data[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(data[10:12], "little")
    for text in (8, 16):  # its name, and a comment
        if flags & text:
            at = data.find(b"\0", at) + 1
            if not at:
                return None
    at += 2 if flags & 2 else 0
    return at if len(data) >= at else None


SUM = 8
"""Bytes behind what is packed: its sum and its length."""

_PACKED = ("gzip", "x-gzip", "deflate")


class _Connection(ResponseHandler):
    """Keeps what came before garbage. Of a packet that ends in some, aiohttp drops all: so the head is read
    apart. And who reads the body would wait for ever: so it is told. (There is no public way to this.)"""

    def data_received(self, data: bytes) -> None:
        """See asyncio's."""
        head, gap, rest = data.partition(b"\r\n\r\n")
        super().data_received(head + gap)
        if rest:
            super().data_received(rest)

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """See aiohttp's."""
        super().set_exception(exc, *cause)
        body = self._payload
        if body is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(aiohttp.ClientPayloadError(f"what follows is no HTTP: {exc!r}"))


class _Line:
    """The connection of one request."""

    __slots__ = ("_reused_at",)

    def __init__(self) -> None:
        self._reused_at = -math.inf

    def reused(self) -> None:
        """It was there already."""
        self._reused_at = time.monotonic()

    def was_dead(self) -> bool:
        """It was, and broke too soon to have served anybody."""
        return time.monotonic() - self._reused_at < DEAD_S


async def _reused(_: aiohttp.ClientSession, context: Any, __: aiohttp.TraceConnectionReuseconnParams) -> None:
    context.trace_request_ctx.reused()


class _Body(httpx2.AsyncByteStream):
    """What comes behind the headers. What was received before a connection broke is given all the same.

    Raises:
        TooLarge: it is more than it may be. Of an error, what is more is not read.
    """

    def __init__(self, response: aiohttp.ClientResponse, unpacked: Unpacked, most: int) -> None:
        self._response = response
        self._unpacked = unpacked
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        came = 0
        async for packed in self._packed():
            for piece in self._unpacked.pieces(packed):
                came += len(piece)
                if came > self._most:
                    if self._response.status < 400:
                        raise TooLarge(self._most)
                    return
                yield piece

    async def _packed(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            async for piece in content.iter_chunked(PIECE):
                yield piece
        except Exception:
            # aiohttp then gives no more of what it has; there is no public way to it.
            if rest := b"".join(getattr(content, "_buffer", ())):
                yield rest
            if self._response.status < 400:  # what it says is refused whatever becomes of its words
                raise

    async def aclose(self) -> None:
        await self._response.__aexit__(None, None, None)


def _redirect(url: httpx2.URL, response: aiohttp.ClientResponse) -> httpx2.URL | None:
    """Where the same request is to be sent, at the same origin; None: nowhere."""
    place = response.headers.get("location")
    if response.status not in _ORIGIN_KEEPS or not place:
        return None
    try:
        to = url.join(place)
    except (httpx2.InvalidURL, ValueError):
        return None
    same = (to.scheme, to.host, to.port) == (url.scheme, url.host, url.port)
    return to if same and not to.userinfo else None


def _kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


__all__ = ["Transport", "Unpacked", "open_client"]
