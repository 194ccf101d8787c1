"""What a provider may make of a worker: an answer without an end, a bomb, and where a call may go."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from aios_dist import errors
from aios_dist.config import ModelConfig
from aios_dist.errors import ConfigError, LLMError
from aios_dist.model.calls import LLMResponse
from aios_dist.testing import FakeLLM
from aios_dist.worker.providers import check_model, open_provider
from aios_dist.worker.providers.lenient import decode
from aios_dist.worker.providers.openai import CompletionReply
from aios_dist.worker.providers.replies import RAW_LIMIT
from aios_dist.worker.providers.streams import TRIED, Stream
from aios_dist.worker.providers.transport import MOST_OF_AN_ERROR
from aios_dist.worker.providers.unpacking import PIECE, Unpacked, unpacked
from tests.contracts.asking import outcome

LIMIT = 2 * 1024 * 1024
ENOUGH = 64 * 1024 * 1024
"""What a server without an end has sent by then, if nobody stops it."""

HEAD = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "


class Endless:
    """A server that answers with a head and then the same piece over and over."""

    def __init__(self, head: bytes, pieces: Callable[[], Iterable[bytes]]) -> None:
        self._head, self._pieces = head, pieces
        self.sent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._head + b"\r\n\r\n")
        try:
            for piece in self._pieces():
                writer.write(piece)
                await writer.drain()
                self.sent += len(piece)
                if self.sent > ENOUGH:
                    break
        except ConnectionError:
            pass
        writer.close()


@asynccontextmanager
async def endless(head: bytes, piece: bytes) -> AsyncIterator[tuple[str, Endless]]:
    made = Endless(head, lambda: itertools.repeat(piece))
    server = await asyncio.start_server(made.serve, "127.0.0.1")
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", made


async def ask(root: str, adapter: str = "openai", **settings: Any) -> LLMResponse | LLMError:
    base_url = root if adapter == "anthropic" else f"{root}/v1"
    given = {"timeout": 60.0, "answer_limit": LIMIT, **settings}
    return await outcome("m", ModelConfig(provider=adapter, base_url=base_url, **given), {})


_BLANK = b" " * 65536
_BOMB = gzip.compress(b"x" * 16 * 1024 * 1024)
_DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 2000 + b'"}}]}\n\n'


@pytest.mark.parametrize("adapter", ["openai", "anthropic"])
@pytest.mark.parametrize(
    ("head", "piece", "stream"),
    [
        (HEAD + b"application/json", _BLANK, False),
        (HEAD + b"application/json", b'{"choices":[', False),
        (HEAD + b"text/html", b"<p>page</p>" * 1000, False),
        (HEAD + b"text/event-stream", _DELTA, True),
        (HEAD + b"text/event-stream", b"x" * 65536, True),
        (HEAD + b"text/event-stream", b": comment\n" * 5000, True),
        (HEAD + b"application/json\r\nContent-Encoding: gzip", _BOMB, False),
    ],
    ids=["blanks", "json", "a page", "a stream", "a line", "comments", "a bomb"],
)
async def test_an_answer_without_an_end_is_cut_off_and_not_asked_for_again(
    adapter: str, head: bytes, piece: bytes, stream: bool
) -> None:
    async with endless(head, piece) as (root, server):
        error = await ask(root, adapter, stream=stream)
    assert isinstance(error, errors.BadReply), error
    assert "larger than answer_limit (2,097,152 bytes)" in str(error)
    assert len(error.detail["raw"]) <= RAW_LIMIT
    assert server.sent < ENOUGH, "it has hung up"


async def test_a_refusal_without_an_end_is_read_as_far_as_anybody_needs_it() -> None:
    head = HEAD.replace(b"200", b"503") + b"application/json"
    async with endless(head, b'{"error": {"message": "busy"}}' * 100) as (root, server):
        error = await ask(root)
    assert isinstance(error, errors.ProviderBusy), error
    assert "answered 503" in str(error)
    assert server.sent < 32 * MOST_OF_AN_ERROR


async def test_an_answer_below_the_limit_is_an_answer() -> None:
    said = {"choices": [{"message": {"content": "x" * (LIMIT - 1000)}, "finish_reason": "stop"}]}
    body = json.dumps(said).encode()
    async with endless(HEAD + b"application/json\r\nContent-Length: %d" % len(body), body) as (root, _):
        answer = await ask(root)
    assert isinstance(answer, LLMResponse), answer
    assert len(answer.text) == LIMIT - 1000


def test_what_is_unpacked_comes_in_pieces_however_small_it_was() -> None:
    packed = Unpacked("gzip")
    pieces = list(packed.pieces(_BOMB))
    assert max(map(len, pieces)) <= PIECE
    assert sum(map(len, pieces)) == 16 * 1024 * 1024


def _lines(count: int) -> Iterator[bytes]:
    yield b'data: {"choices":[{"finish_reason":"stop","delta":{"content":"ok"\n'
    for number in range(count):
        yield b'data: ,"k%d":{}\n' % number
    yield b"data: }}]}\n\n"


def test_an_event_of_many_lines_is_not_read_anew_with_each() -> None:
    read: list[int] = []

    class Counted(CompletionReply):
        def event(self, data: bytes) -> bool:
            read.append(len(data))
            return super().event(data)

    reply = Counted()
    stream = Stream(reply)
    for line in _lines(5000):
        stream.feed(line)
    stream.end()
    assert reply.text == ["ok"]
    assert sum(read) < 12 * read[-1] + 2 * TRIED, "and not 2,500 times what it has"


async def test_a_call_in_many_pieces_is_not_copied_with_each() -> None:
    reply = CompletionReply()
    for number in range(3):
        told = b'"{\\"a\\":\\""' if number == 0 else b'"{}{"'
        reply.event(
            b'{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":%s}}]}}]}' % told
        )
    assert reply.calls[0].pieces == ['{"a":"', "{}{", "{}{"]


def test_an_answer_is_not_unpacked_into_a_hundred_times_its_size() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(msgspec.DecodeError, match="lists and objects"):
            decode(b"[" + b"[]," * 5_000_000 + b"0]")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024


def test_what_is_packed_in_parts_comes_whole_wherever_it_is_cut() -> None:
    whole = gzip.compress(b"fi") + gzip.compress(b"ne") + b"\0" * 20
    for size in (1, 7, len(whole)):
        packed = Unpacked("gzip")
        cut = (whole[at : at + size] for at in range(0, len(whole), size))
        assert b"".join(piece for data in cut for piece in packed.pieces(data)) == b"fine"


def test_what_is_packed_twice_is_unpacked_twice_and_what_nobody_asked_for_not_at_all() -> None:
    inner, outer = unpacked("deflate, , Gzip, identity")[::-1]
    packed = gzip.compress(zlib.compress(b"fine"))
    assert b"".join(piece for one in outer.pieces(packed) for piece in inner.pieces(one)) == b"fine"
    assert unpacked("gzip, br") == unpacked("") == []


def test_a_head_in_many_packets_with_a_name_and_a_comment_is_passed_over() -> None:
    made = gzip.compress(b"fine")
    odd = (
        made[:3]
        + bytes([4 | 8 | 16 | 2])
        + made[4:10]
        + b"\x02\x00ab"
        + b"name\0"
        + b"word\0"
        + b"\0\0"
        + made[10:]
    )
    packed = Unpacked("gzip")
    assert b"".join(piece for byte in odd for piece in packed.pieces(bytes([byte]))) == b"fine"


# Where a call goes --------------------------------------------------------------------------------

OF_ANOTHER_PROGRAM = {
    "OPENAI_ORG_ID": "org-planted",
    "OPENAI_PROJECT_ID": "proj-planted",
    "OPENAI_ADMIN_KEY": "sk-planted",
    "OPENAI_CUSTOM_HEADERS": "X-Planted: planted",
    "OPENAI_BASE_URL": "http://planted.invalid/v1",
    "ANTHROPIC_CUSTOM_HEADERS": "X-Planted: planted",
    "ANTHROPIC_AUTH_TOKEN": "planted",
    "ANTHROPIC_BASE_URL": "http://planted.invalid",
}


@pytest.mark.parametrize("adapter", ["openai", "anthropic"])
async def test_what_the_environment_says_to_an_sdk_goes_to_nobody(
    adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in OF_ANOTHER_PROGRAM.items():
        monkeypatch.setenv(name, value)
    async with FakeLLM() as llm:
        await ask(llm.root, adapter)
        configured = {"extra_headers": {"OpenAI-Organization": "org-mine"}}
        await ask(llm.root, adapter, options=configured)
    first, second = (call.headers for call in llm.calls)
    assert "planted" not in repr(first)
    assert second["openai-organization"] == "org-mine", "what is configured does"


@pytest.mark.parametrize(
    ("adapter", "variable"), [("openai", "OPENAI_BASE_URL"), ("anthropic", "ANTHROPIC_BASE_URL")]
)
async def test_a_variable_that_leads_elsewhere_is_neither_followed_nor_passed_over(
    adapter: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = {f"{adapter.upper()}_API_KEY": "sk-0123456789", variable: "http://planted.invalid"}
    with pytest.raises(ConfigError, match=f"{variable} is in the environment, which is not followed"):
        check_model("m", ModelConfig(provider=adapter), env)
    monkeypatch.setenv(variable, env.pop(variable))
    provider: Any = open_provider("m", ModelConfig(provider=adapter), env)
    assert "planted" not in str(provider.codec.url)
    await provider.aclose()
