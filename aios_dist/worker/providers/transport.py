"""The line to a provider: aiohttp, by rules of ours.

No cookies: one tenant's would go with another's call. No redirects but 307 and 308 within the same origin:
any other place would get prompt and configured headers. Of the environment proxies and certificates, and no
``.netrc``. An idle connection that turns out to be dead when it is used is no try: the request goes over
another one at once. A peer that is gone is noticed (TCP keep-alive), also in the midst of an answer that may
take for ever. What comes back is unpacked here, and bounded.
"""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, NoReturn

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from aios_dist import errors
from aios_dist.worker.providers.codec import Asked
from aios_dist.worker.providers.replies import LineBroke, NotHttp, TooLarge
from aios_dist.worker.providers.surroundings import proxy_of, verified
from aios_dist.worker.providers.unpacking import ACCEPTED, PIECE, unpacked

CONNECT_S = 10.0
"""Seconds for a connection to be made; all that follows counts against the model's ``timeout``."""

IDLE_S = 4.0
"""Seconds an idle connection is kept: less than the 5 of uvicorn (vLLM and most gateways), so that no call is
sent on a connection that the server is just closing."""

MOST_REDIRECTS = 3
DEAD_S = 0.5
"""One that was dead says so within a round trip. What breaks later may have been at work on the request."""

MOST_OF_A_HEADER = 256 * 1024
"""Bytes; 8 kB, as aiohttp has it, are fewer than some proxies' policies and tokens have."""

MOST_OF_AN_ERROR = 1024 * 1024
"""Bytes of a refusal that are read."""

KEEP_ALIVE = {"TCP_KEEPIDLE": 45, "TCP_KEEPALIVE": 45, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
"""A silent peer is asked after 45 s, and given up two minutes after its last sign. (The second is macOS' name
of the first.)"""

_ORIGIN_KEEPS = (307, 308)
_LIMITS = aiohttp.ClientTimeout(sock_connect=CONNECT_S)


class Line:
    """Connections to one provider, on one event loop. No limit but the worker's slots holds a call back.

    Args:
        address: where the provider is.
        answer_limit: bytes of one answer, unpacked.

    Raises:
        ConfigError: what the environment says of certificates or proxies cannot be followed.
    """

    def __init__(self, address: str, answer_limit: int) -> None:
        self._proxy = proxy_of(address)
        secure = any(url is not None and url.startswith("https:") for url in (address, self._proxy))
        self._verified: ssl.SSLContext | bool = verified() if secure else True
        self._answer_limit = answer_limit
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def _open(self, new: bool) -> aiohttp.ClientSession:
        """What makes a new connection for each request, or takes an idle one where it can."""
        if new not in self._sessions:
            idle: dict[str, Any] = {"force_close": True} if new else {"keepalive_timeout": IDLE_S}
            connector = aiohttp.TCPConnector(
                limit=0,
                **idle,
                ssl=self._verified,
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
                trust_env=False,
                auto_decompress=False,
                timeout=_LIMITS,
                max_line_size=MOST_OF_A_HEADER,
                max_field_size=MOST_OF_A_HEADER,
            )
        return self._sessions[new]

    async def post(self, asked: Asked) -> Answer:
        """Send it, and give what came back, whose body is read as it comes.

        Raises:
            LineBroke: there was no connection, or it broke.
            NotHttp: what came back is not HTTP.
        """
        headers = {**asked.headers, "accept-encoding": ACCEPTED}
        # Twice through the loop: it reads what idle connections have to say (that they are closed).
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        try:
            url = URL(asked.url)
            response = await self._send(url, headers, asked.body)
            for _ in range(MOST_REDIRECTS):
                to = _redirect(url, response)
                if to is None:
                    break
                response.release()
                url = to
                response = await self._send(url, headers, asked.body)
        except Exception as exc:
            _say(exc)
        return Answer(response, self._answer_limit)

    async def _send(self, url: URL, headers: dict[str, str], body: bytes) -> aiohttp.ClientResponse:
        for new in (False, True):  # where one idle connection was dead, all may be
            line = _Idle()
            try:
                return await self._open(new).request(
                    "POST",
                    url,
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                    proxy=self._proxy,
                    trace_request_ctx=line,
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


class Answer:
    """What came back for one request.

    Attributes:
        status, headers: of it.
    """

    def __init__(self, response: aiohttp.ClientResponse, answer_limit: int) -> None:
        self.status = response.status
        self.headers = response.headers
        self._response = response
        self._unpacked = unpacked(response.headers.get("content-encoding", ""))
        self._most = answer_limit if self.status < 400 else MOST_OF_AN_ERROR

    async def pieces(self) -> AsyncIterator[bytes]:
        """What comes behind the headers. What was received before a connection broke is given all the same.

        Raises:
            LineBroke, NotHttp: see :meth:`Line.post`.
            TooLarge: it is more than it may be. Of an error, what is more is not read.
        """
        came = 0
        async for packed in self._packed():
            for piece in self._plain(packed):
                came += len(piece)
                if came > self._most:
                    if self.status < 400:
                        raise TooLarge(self._most)
                    return
                yield piece

    def _plain(self, packed: bytes) -> Iterable[bytes]:
        pieces: Iterable[bytes] = (packed,)
        for one in self._unpacked:
            pieces = _each(one.pieces, pieces)
        return pieces

    async def _packed(self) -> AsyncIterator[bytes]:
        content = self._response.content
        try:
            async for piece in content.iter_chunked(PIECE):
                yield piece
        except Exception as exc:
            # aiohttp then gives no more of what it has; there is no public way to it.
            if rest := b"".join(getattr(content, "_buffer", ())):
                yield rest
            _say(exc)

    def close(self) -> None:
        """Let its connection go: for another call where all has been read, else for good."""
        self._response.release()


def _each(unpack: Callable[[bytes], Iterable[bytes]], pieces: Iterable[bytes]) -> Iterable[bytes]:
    for piece in pieces:
        yield from unpack(piece)


def _say(exc: Exception) -> NoReturn:
    """Raise the error of ours. Never chained: theirs carry the request with its key."""
    if not isinstance(exc, aiohttp.ClientError | HttpProcessingError | OSError):
        raise exc
    root: BaseException = exc
    bad = isinstance(exc, aiohttp.ClientResponseError)
    while root.__cause__ is not None:
        root = root.__cause__
        bad = bad or isinstance(root, aiohttp.ClientResponseError)
    # A proxy that refuses has let nothing through.
    kind = NotHttp if bad and not isinstance(exc, aiohttp.ClientHttpProxyError) else LineBroke
    raise kind(errors.describe(root)) from None


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


class _Idle:
    """The connection of one request: whether it was an idle one."""

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


def _redirect(url: URL, response: aiohttp.ClientResponse) -> URL | None:
    """Where the same request is to be sent, at the same origin; None: nowhere."""
    place = response.headers.get("location")
    if response.status not in _ORIGIN_KEEPS or not place:
        return None
    try:
        to = url.join(URL(place))
        same = (to.scheme, to.host, to.port) == (url.scheme, url.host, url.port)
    except ValueError:
        return None
    return to if same and to.user is None and to.password is None else None


def _kept_alive(address: Any) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family=family, type=kind, proto=protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
