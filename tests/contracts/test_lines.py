"""The lines to providers: cookies, redirects, dead connections, silence, and a worker that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import aiohttp
import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import BadRequest, CallTimeout, ConnectionBroken
from aios_dist.model.calls import LLMRequest
from aios_dist.worker.limits import Limit, Stillness
from aios_dist.worker.providers import Provider, open_provider, transport

HI = LLMRequest(messages=[{"role": "user", "content": "private"}])
ANSWERS = {
    "openai": {
        "model": "m",
        "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1},
    },
    "anthropic": {
        "type": "message",
        "model": "m",
        "content": [{"type": "text", "text": "x"}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
PIECE = b'data: {"model":"m","choices":[{"index":0,"delta":{"content":"x"}}]}\n\n'


def whole(provider: str = "openai", headers: str = "", status: str = "200 OK") -> bytes:
    """An answer that is whole."""
    body = json.dumps(ANSWERS[provider]).encode()
    head = (
        f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n{headers}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Asked:
    """One request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Server:
    """A provider that answers as it is told, byte for byte.

    Attributes:
        answer: what is sent for the request of that number.
        after: what is done to a connection behind its answer: ``"keep"``, ``"close"`` or ``"reset"``.
        wait: seconds before the answer.
        then: what is sent a moment after it.
        era: connections of an earlier one are reset when they are used, as those that a firewall forgot.
    """

    answer: Callable[[int], bytes]
    after: str = "keep"
    wait: float = 0.0
    then: bytes = b""
    era: int = 0
    asked: list[Asked] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        era = self.era
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                first, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in rest)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                if era != self.era:
                    _reset(writer)
                    return
                self.asked.append(Asked(first.split()[1], headers, body))
                await asyncio.sleep(self.wait)
                writer.write(self.answer(len(self.asked) - 1))
                await writer.drain()
                if self.then:
                    await asyncio.sleep(0.1)
                    writer.write(self.then)
                if self.after == "close":
                    writer.close()
                elif self.after == "reset":
                    _reset(writer)

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Server]:
        """On a loop and a thread of its own, which go on while the caller's stands still."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), loop
        ).result()
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    reset = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
    writer.transport.abort()


@contextlib.asynccontextmanager
async def opened(server: Server, provider: str = "openai", **settings: object) -> AsyncIterator[Provider]:
    base = server.url + ("/v1" if provider == "openai" else "")
    extra = {"extra_headers": {"api-key": "gateway-secret"}}
    model = ModelConfig(provider=provider, base_url=base, options=extra, **settings)  # type: ignore[arg-type]
    made = open_provider("m", model, {})
    try:
        yield made
    finally:
        await made.aclose()


async def test_a_cookie_of_one_call_goes_with_no_other() -> None:
    cookie = "set-cookie: session=tenant-1; Path=/\r\nset-cookie: AWSALB=backend; Path=/\r\n"
    async with Server(lambda _: whole(headers=cookie)).up() as server, opened(server) as provider:
        for _ in range(5):
            await provider.call(HI)
    assert [asked.headers.get("cookie") for asked in server.asked] == [None] * 5


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_place_gets_nothing_and_says_so(provider: str, status: int) -> None:
    async with Server(lambda _: whole(provider)).up() as elsewhere:
        to = f"location: http://localhost:{elsewhere.port}/steal\r\n"
        async with (
            Server(lambda _: whole(provider, to, f"{status} X")).up() as server,
            opened(server, provider) as model,
        ):
            with pytest.raises(BadRequest, match=r"sends us elsewhere.*base_url"):
                await model.call(HI)
    assert elsewhere.asked == []
    assert len(server.asked) == 1


async def test_a_redirect_within_the_same_origin_is_followed_with_all_that_was_sent() -> None:
    moved = b"HTTP/1.1 307 X\r\nlocation: /v1/chat/completions/\r\ncontent-length: 0\r\n\r\n"
    server = Server(lambda n: moved if n == 0 else whole())
    async with server.up(), opened(server) as provider:
        assert (await provider.call(HI)).text == "x"
    first, second = server.asked
    assert (first.path, second.path) == ("/v1/chat/completions", "/v1/chat/completions/")
    assert (first.body, second.body) == (second.body, first.body)
    assert second.headers["api-key"] == "gateway-secret"


async def test_redirects_without_an_end_are_an_error() -> None:
    moved = b"HTTP/1.1 308 X\r\nlocation: /v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
    server = Server(lambda _: moved)
    async with server.up(), opened(server) as provider:
        with pytest.raises(BadRequest, match="308"):
            await provider.call(HI)


async def test_connections_ask_a_silent_peer_whether_it_is_there() -> None:
    server = Server(lambda _: whole())
    async with server.up(), opened(server) as provider:
        await provider.call(HI)
        mine = [
            made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            for made in gc.get_objects()
            if issubclass(type(made), socket.socket) and made.fileno() >= 0 and _peer(made) == server.port
        ]
    assert mine == [1]


def _peer(made: socket.socket) -> int:
    try:
        return int(made.getpeername()[1])
    except (OSError, IndexError, TypeError, ValueError):
        return 0


@pytest.mark.parametrize("after", ["close", "reset"])
async def test_a_connection_that_ended_behind_its_answer_costs_the_next_call_nothing(after: str) -> None:
    server = Server(lambda _: whole(), after)
    async with server.up(), opened(server) as provider:
        for _ in range(30):
            assert (await provider.call(HI)).text == "x"
    assert len(server.asked) == 30


async def test_many_idle_connections_that_are_all_dead_cost_a_call_nothing() -> None:
    server = Server(lambda _: whole(), wait=0.2)
    async with server.up(), opened(server) as provider:
        await asyncio.gather(*(provider.call(HI) for _ in range(10)))
        server.wait, server.era = 0.0, 1
        assert (await provider.call(HI)).text == "x"
    assert len(server.asked) == 11


@contextlib.contextmanager
def nobody_accepts() -> Iterator[int]:
    """A port whose server has as many connections waiting as it may have: the next one hangs."""
    with contextlib.ExitStack() as held:
        listening = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port: int = listening.getsockname()[1]
        for _ in range(100):
            try:
                held.enter_context(socket.create_connection(("127.0.0.1", port), 0.2))
            except TimeoutError:
                yield port
                return
    pytest.skip("this machine accepts connections that nobody takes")


async def test_a_connection_that_is_not_made_is_given_up_long_before_the_models_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert transport._LIMITS.sock_connect == 10.0
    monkeypatch.setattr(transport, "_LIMITS", aiohttp.ClientTimeout(sock_connect=0.2))
    with nobody_accepts() as port:
        async with opened(Server(lambda _: b"", port=port), timeout=60.0) as provider:
            with pytest.raises(ConnectionBroken, match=f"127.0.0.1:{port}"):
                async with asyncio.timeout(20):
                    await provider.call(HI)


@pytest.mark.parametrize("after", ["close", "reset"])
async def test_what_broke_on_a_connection_of_its_own_is_not_said_again(after: str) -> None:
    server = Server(lambda _: b"", after)
    async with server.up(), opened(server) as provider:
        with pytest.raises(ConnectionBroken):
            await provider.call(HI)
    assert len(server.asked) == 1


async def test_what_broke_on_an_idle_connection_that_was_alive_is_not_said_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "DEAD_S", 0.05)
    server = Server(lambda n: b"" if n else whole())
    async with server.up(), opened(server) as provider:
        await provider.call(HI)
        server.after, server.wait = "close", 2 * transport.DEAD_S
        with pytest.raises(ConnectionBroken):
            await provider.call(HI)
    assert len(server.asked) == 2


async def test_a_stream_that_stands_still_is_given_up_long_before_its_timeout() -> None:
    server = Server(lambda _: STREAM + PIECE)
    async with server.up(), opened(server, stream=True, timeout=60.0, stream_pause=0.2) as provider:
        with pytest.raises(CallTimeout, match="stream_pause"):
            async with asyncio.timeout(20):
                await provider.call(HI)


async def test_a_stream_may_think_as_long_as_it_likes_before_its_first_piece() -> None:
    server = Server(lambda _: STREAM + PIECE + b"data: [DONE]\n\n", "close", wait=0.5)
    async with server.up(), opened(server, stream=True, stream_pause=0.1) as provider:
        assert (await provider.call(HI)).text == "x"


async def test_a_stream_that_is_whole_and_does_not_end_is_an_answer() -> None:
    finished = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    server = Server(lambda _: STREAM + PIECE + finished)
    async with server.up(), opened(server, stream=True, timeout=60.0, stream_pause=0.2) as provider:
        assert (await provider.call(HI)).text == "x"


async def test_an_answer_that_is_shorter_than_it_said_is_one_also_where_nothing_more_comes() -> None:
    server = Server(lambda _: whole().replace(b"content-length: ", b"content-length: 1"))
    async with server.up(), opened(server, timeout=0.3) as provider:
        assert (await provider.call(HI)).text == "x"


async def test_garbage_in_the_midst_of_an_answer_breaks_its_connection_at_once() -> None:
    half = STREAM.replace(b"connection: close", b"transfer-encoding: chunked")
    server = Server(lambda _: half + b"%x\r\n%s\r\n" % (len(PIECE), PIECE), then=b"zz\r\n")
    async with server.up(), opened(server, stream=True, timeout=60.0) as provider:
        with pytest.raises(ConnectionBroken):
            async with asyncio.timeout(20):
                await provider.call(HI)


async def test_an_answer_that_came_while_the_worker_stood_still_is_kept() -> None:
    server = Server(lambda _: whole(), wait=0.1)
    async with server.up(), opened(server, timeout=0.6) as provider:
        await provider.call(HI)  # all is loaded, and the connection is there
        calls = [asyncio.ensure_future(provider.call(HI)) for _ in range(4)]
        while len(server.asked) < 5:  # noqa: ASYNC110  # the server is on another loop
            await asyncio.sleep(0.001)
        time.sleep(1.5)  # noqa: ASYNC251  # the fault itself
        assert [answer.text for answer in await asyncio.gather(*calls)] == ["x"] * 4


async def test_a_limit_is_over_when_its_time_is() -> None:
    limit = Limit(0.05)
    with pytest.raises(TimeoutError):
        async with limit:
            await asyncio.sleep(20)
    assert limit.expired == "timeout"
    async with Limit(20) as limit:
        pass
    assert limit.expired == ""


async def test_what_hangs_behind_a_standstill_is_given_up_a_little_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aios_dist.worker.limits.GRACE_S", 0.3)
    stillness = Stillness()
    stillness.start()
    begun = asyncio.get_running_loop().time()

    async def hangs() -> None:
        async with Limit(0.1):
            await asyncio.sleep(0)
            time.sleep(1.0)  # noqa: ASYNC251  # the fault itself
            await asyncio.sleep(20)

    with pytest.raises(TimeoutError):
        await hangs()
    now = asyncio.get_running_loop().time()
    assert now - begun >= 1.3
    assert stillness.since(begun)
    assert not stillness.since(now)
    stillness.close()
