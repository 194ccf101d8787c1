"""Replies of real servers that are odd: what was paid for is an answer, and what is none is told apart.

``odd_replies.json`` holds them as they came in: ``json`` and ``sse`` are bodies, ``raw`` is all of a reply.
One reply a connection, in this order; what the fleet would do between two of them is played by the test.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios_dist import errors
from aios_dist.config import ModelConfig
from aios_dist.errors import FinalLLMError, LLMError, RetryableLLMError
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.program.commands import llm
from aios_dist.program.requests import check_new, encoded
from aios_dist.text import masking
from aios_dist.worker.providers import open_provider
from aios_dist.worker.providers.lenient import MOST_TOKENS
from aios_dist.worker.providers.openai import CompletionReply
from aios_dist.worker.providers.refusals import bounded
from aios_dist.worker.providers.replies import RAW_LIMIT
from aios_dist.worker.providers.streams import Stream
from tests.contracts.asking import HI, outcome
from tests.contracts.odd_kinds import KINDS, Case, reply
from tests.contracts.odd_newer import NEWER
from tests.contracts.odder_kinds import ODDER

CASES = json.loads((Path(__file__).parent / "odd_replies.json").read_text(encoding="utf-8"))
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: "


@asynccontextmanager
async def server(replies: Sequence[bytes]) -> AsyncIterator[tuple[int, list[int]]]:
    """Gives its port and the list that gets an entry with each connection."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(number)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(replies[min(number, len(replies) - 1)])
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1")
    async with listening:
        yield listening.sockets[0].getsockname()[1], connections


async def ask(port: int, *, stream: bool, adapter: str = "openai", key: str = "") -> LLMResponse | LLMError:
    root = f"http://127.0.0.1:{port}"
    model = ModelConfig(
        provider=adapter,
        model="odd-1",
        base_url=root if adapter == "anthropic" else f"{root}/v1",
        stream=stream,
        timeout=10.0,
        api_key_env="THE_KEY" if key else None,
    )
    return await outcome("odd", model, {"THE_KEY": key})


def whole(body: bytes | str, kind: str = "application/json") -> bytes:
    data = body if isinstance(body, bytes) else body.encode()
    return OK + kind.encode() + b"\r\nContent-Length: %d\r\n\r\n" % len(data) + data


def raw(reply: dict[str, str]) -> bytes:
    if "raw" in reply:
        return reply["raw"].encode()
    return whole(reply["json"]) if "json" in reply else events(reply["sse"])


def events(body: str) -> bytes:
    return OK + b"text/event-stream\r\n\r\n" + body.encode()


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
async def test_a_reply_that_was_seen_in_the_wild_has_its_right_outcome(case: dict[str, Any]) -> None:
    expect, replies = case["expect"], [raw(reply) for reply in case["replies"]]
    told: list[LLMError] = []
    async with server(replies) as (port, connections):
        while isinstance(answer := await ask(port, stream=case["stream"]), RetryableLLMError):
            told.append(answer)
            assert len(told) < len(replies), answer
    assert len(connections) == expect.get("calls", len(replies))
    if "waits_s" in expect:
        assert told[0].detail["retry_after_s"] == expect["waits_s"]
    if "error" in expect:
        assert isinstance(answer, FinalLLMError)
        if expect["error"].startswith("money"):
            assert type(answer) is errors.NotAllowed  # goes to the fallback at once, and holds nobody else
        if "names" in expect["error"]:
            assert "odd-1" in str(answer)
            assert f"127.0.0.1:{port}" in str(answer)
        return
    assert isinstance(answer, LLMResponse), answer
    if "text" in expect:
        assert answer.text == expect["text"]
    if "tool_calls" in expect:
        found = [(call.id, call.name, call.arguments) for call in answer.tool_calls]
        wanted = [(id or found[n][0], *rest) for n, (id, *rest) in enumerate(expect["tool_calls"])]
        assert found == wanted
        assert all(id for id, *_ in found)
    if "usage" in expect:
        assert [answer.usage.prompt_tokens, answer.usage.output_tokens] == expect["usage"]
    assert answer.finish_reason == expect.get("finish", answer.finish_reason)
    assert 0 <= answer.usage.prompt_tokens <= MOST_TOKENS


@pytest.mark.parametrize(
    "case", [*KINDS, *ODDER, *NEWER], ids=[case.name for case in [*KINDS, *ODDER, *NEWER]]
)
async def test_each_kind_of_odd_reply_has_its_right_outcome(case: Case) -> None:
    told: list[LLMError] = []
    async with server(case.replies) as (port, connections):
        while isinstance(
            answer := await ask(port, stream=case.stream, adapter=case.adapter), RetryableLLMError
        ):
            told.append(answer)
            assert len(told) < len(case.replies), answer
    assert len(connections) == len(case.replies)
    for error in [*told, *([answer] if isinstance(answer, LLMError) else [])]:
        assert "odd-1" in str(error)
        assert f"127.0.0.1:{port}" in str(error)
    if told:
        assert case.says in str(told[0])
        assert case.waits_s is None or told[0].detail["retry_after_s"] == pytest.approx(case.waits_s)
    if case.error:
        assert isinstance(answer, LLMError), answer
        assert type(answer).__name__ == case.error
        assert case.says in str(answer)
        return
    assert isinstance(answer, LLMResponse), answer
    check_answer(case, answer)


REASONED = {"role": "assistant", "content": "hi", "reasoning_content": "hm", "x": 1}
UNKNOWN = "'messages.1' : property 'reasoning_content' is unsupported"  # Groq's words, and Cerebras'


async def test_a_server_that_refuses_the_reasoning_of_another_is_asked_without_it() -> None:
    bodies: list[dict[str, Any]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        bodies.append(json.loads(await reader.readexactly(int(length.partition(b":")[2]))))
        odd = any("reasoning_content" in message for message in bodies[-1]["messages"])
        said = reply(json.dumps({"error": {"message": UNKNOWN}}), 400)
        writer.write(said if odd else whole(completion()))
        writer.close()

    asked = LLMRequest(messages=[*HI.messages, REASONED, *HI.messages])
    async with await asyncio.start_server(serve, "127.0.0.1") as listening:
        port = listening.sockets[0].getsockname()[1]
        provider = open_provider(
            "odd", ModelConfig(provider="openai", base_url=f"http://127.0.0.1:{port}"), {}
        )
        answers = [await provider.call(asked, idempotency_key="k") for _ in range(2)]
        await provider.aclose()
    assert [answer.text for answer in answers] == ["ok", "ok"]
    assert answers[0].left_out == ("reasoning_content of messages",)
    assert len(bodies) == 3, "from then on it is not sent"
    assert bodies[1]["messages"][1] == {"role": "assistant", "content": "hi", "x": 1}


def check_answer(case: Case, answer: LLMResponse) -> None:
    """Everything that the case says of its answer, and that the journal gives it back."""
    assert msgspec.json.decode(msgspec.json.encode(answer), type=LLMResponse) == answer
    asked = llm(messages=[*HI.messages, answer.message])
    check_new(asked.request, encoded(asked)[0])  # which raises where it cannot be appended
    if case.text is not None:
        assert answer.text == case.text
    if case.tool_calls is not None:
        found = [(call.id, call.name, call.arguments) for call in answer.tool_calls]
        made = zip(case.tool_calls, found, strict=True)
        assert found == [(id or theirs[0], *rest) for (id, *rest), theirs in made]
        assert len({id for id, *_ in found if id}) == len(found)
    if case.usage is not None:
        assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == case.usage
    assert answer.usage.cached_tokens == (case.cached or 0)
    assert answer.finish_reason == (case.finish or answer.finish_reason)
    assert {name: answer.message.get(name) for name in case.message} == case.message


def completion(
    content: str = '"ok"', usage: str = '{"prompt_tokens":5,"completion_tokens":7}', more: str = ""
) -> str:
    message = f'{{"role":"assistant","content":{content}}}'
    return f'{{"choices":[{{"index":0,{more}"message":{message},"finish_reason":"stop"}}],"usage":{usage}}}'


def message(text: str = '"ok"', usage: str = '{"input_tokens":5,"output_tokens":7}') -> str:
    content = f'[{{"type":"text","text":{text}}}]'
    return f'{{"type":"message","content":{content},"stop_reason":"end_turn","usage":{usage}}}'


ADAPTERS = pytest.mark.parametrize("adapter", ["openai", "anthropic"])


@ADAPTERS
@pytest.mark.parametrize(
    ("written", "read"),
    [
        (rb'"a\ud800b c"', "a\ufffdb c"),
        (rb'"a\udc00b"', "a\ufffdb"),
        (rb'"\ude00\ud83d x"', "\ufffd\ufffd x"),
        (rb'"end \ud83d"', "end \ufffd"),
        (b'"caf\xe9"', "caf\ufffd"),
        (b'"one\ntwo\tthree"', "one\ntwo\tthree"),
    ],
)
async def test_text_that_is_no_text_is_an_answer_with_replacement_characters(
    adapter: str, written: bytes, read: str
) -> None:
    form = completion if adapter == "openai" else message
    body = form('"TEXT"').encode().replace(b'"TEXT"', written)
    async with server([whole(body)]) as (port, _):
        answer = await ask(port, stream=False, adapter=adapter)
    assert isinstance(answer, LLMResponse), answer
    assert (answer.text, answer.usage.output_tokens) == (read, 7)


@ADAPTERS
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("1" + "0" * 30, 0),
        ("1" + "0" * 5000, 0),
        ("1e400", 0),
        ("-1e400", 0),
        ("NaN", 0),
        ("5.5", 5),
        ("-5", 0),
        ('"5"', 5),
        ('"many"', 0),
        ("true", 0),
        ("null", 0),
        ("[5]", 0),
        ("1000000000000", MOST_TOKENS),
        ("1000000000001", 0),
    ],
)
async def test_a_count_that_is_none_is_nought_and_the_answer_stays(
    adapter: str, written: str, read: int
) -> None:
    first, second = ("prompt", "completion") if adapter == "openai" else ("input", "output")
    form = completion if adapter == "openai" else message
    body = form(usage=f'{{"{first}_tokens":{written},"{second}_tokens":7}}')
    async with server([whole(body)]) as (port, _):
        answer = await ask(port, stream=False, adapter=adapter)
    assert isinstance(answer, LLMResponse), answer
    assert (answer.text, answer.usage.prompt_tokens, answer.usage.output_tokens) == ("ok", read, 7)


@pytest.mark.parametrize(
    "reply",
    [
        whole(b"\xef\xbb\xbf" + completion().encode()),
        whole(completion(more='"logprobs":{"content":[{"logprob":NaN},{"logprob":-Infinity}]},')),
        whole(completion().replace('"index":0', '"index":"0"')),
        whole(completion('{"type":"text","text":"ok"}')),
        whole(completion(usage='"none"')),
        whole('{"choices":{"message":{"content":"ok"}},"usage":{"prompt_tokens":1}}'),
        OK
        + b"application/json\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(completion())
        + completion().encode()
        + b"\r\n",  # the last chunk is missing
        OK + b"application/json\r\nContent-Length: 9999\r\n\r\n" + completion().encode(),
        events('data: {"choices":[{"index":0,\ndata: "delta":{"content":"ok"},"finish_reason":"stop"}]}\n\n'),
        events('data: {"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}'),
        OK
        + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n47\r\n"
        + b'data: {"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}\n'.ljust(0x43 + 4)
        + b"\r\n",
    ],
)
async def test_what_decodes_as_whole_is_the_answer(reply: bytes) -> None:
    async with server([reply]) as (port, connections):
        answer = await ask(port, stream=b"event-stream" in reply)
    assert isinstance(answer, LLMResponse), answer
    assert answer.text == "ok"
    assert len(connections) == 1


FINISHED = 'data: {"choices":[{"delta":{"content":"ok"},"finish_reason":"stop"}]}'
DELIVERED = (
    'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"ok"}}\n\n'
    'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}'
)


def chunked(body: str, end: bytes) -> bytes:
    """A stream in one chunk, and what comes behind it in the same packet."""
    head = OK + b"text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"%x\r\n%s\r\n%s" % (len(body), body.encode(), end)


@pytest.mark.parametrize("how", ["cut", "closed", "garbage"])
@pytest.mark.parametrize(
    ("adapter", "body"),
    [
        ("openai", FINISHED + "\n\ndata: [DONE]\n\n"),
        ("openai", FINISHED + "\n\ndata: [DO"),
        ("openai", FINISHED + '\n\ndata: {"choices":[],"usa'),
        ("openai", FINISHED + "\n\n<html><h1>502 Bad Gateway</h1>\n"),
        ("openai", FINISHED),
        ("anthropic", DELIVERED + '\n\ndata: {"type":"message_stop"}\n\n'),
        ("anthropic", DELIVERED + '\n\nevent: message_stop\ndata: {"ty'),
        ("anthropic", DELIVERED),
    ],
    ids=["all", "half an end", "half a usage", "a page", "no end", "all", "half an end", "no end"],
)
async def test_a_streamed_answer_that_is_whole_is_kept_whatever_its_end(
    adapter: str, body: str, how: str
) -> None:
    reply = events(body) if how == "closed" else chunked(body, b"zz\r\n" if how == "garbage" else b"")
    async with server([reply]) as (port, connections):
        answer = await ask(port, stream=True, adapter=adapter)
    assert isinstance(answer, LLMResponse), answer
    assert (answer.text, answer.finish_reason, len(connections)) == ("ok", "stop", 1)


def test_a_line_of_many_megabytes_costs_linear_time() -> None:
    text = "x" * 4096
    pieces = ['data: {"choices":[{"delta":{"content":"', *[text] * 8000, '"},"finish_reason":"stop"}]}\n\n']

    reply, begun = CompletionReply(), time.process_time()
    stream = Stream(reply)
    for piece in pieces:
        stream.feed(piece.encode())
    stream.end()
    assert len("".join(reply.text)) == 8000 * len(text)
    assert time.process_time() - begun < 8, "half a second; joined anew with each piece it is a minute"


async def test_an_answer_of_a_known_length_is_kept_though_garbage_follows_it() -> None:
    async with server([whole(completion()) + b"\0garbage"]) as (port, _):
        answer = await ask(port, stream=False)
    assert isinstance(answer, LLMResponse), answer


DEEP = "[" * 100_000


@ADAPTERS
@pytest.mark.parametrize(
    "body",
    ['{"choices": [{"mess"<<<', DEEP, '"a text"', "[1]", '{"choices":5,"content":5}'],
    ids=lambda b: b[:20],
)
async def test_an_answer_that_cannot_be_read_is_a_final_failure_with_what_came_in(
    adapter: str, body: str
) -> None:
    async with server([whole(body)]) as (port, connections):
        error = await ask(port, stream=False, adapter=adapter)
    assert isinstance(error, errors.BadReply)
    assert error.detail["raw"].startswith(body[:100])
    assert len(error.detail["raw"]) <= RAW_LIMIT
    assert len(connections) == 1


def test_a_page_of_a_megabyte_holds_nobody_up() -> None:
    masking.learn("sk-planted-in-a-page-1")
    text = bounded("x" * 480 + "sk-planted-in-a-page-1 " * 10**5)
    assert text.startswith("x" * 480 + "***")
    assert text.endswith("…")
    assert "planted" not in text
    told: list[str] = []

    class Measured(str):
        def __getitem__(self, place: Any) -> str:
            told.append(found := super().__getitem__(place))
            return found

    bounded(Measured("y" * 10**6))
    assert [len(piece) < 10_000 for piece in told] == [True]


async def test_a_stream_that_cannot_be_read_keeps_what_came_in() -> None:
    async with server([events('data: {"choices":[{"delta":{"content":"hal"}}]}\n\ndata: {"cho<<<\n\n')]) as (
        port,
        _,
    ):
        error = await ask(port, stream=True)
    assert isinstance(error, errors.BadReply)
    assert '"hal"' in error.detail["raw"]
    assert "<<<" in error.detail["raw"]


@ADAPTERS
async def test_whatever_breaks_while_a_paid_answer_is_read_is_a_bad_reply_and_not_a_fault_without_it(
    adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(f"aios_dist.worker.providers.{adapter}.decode", broken)
    async with server([whole('{"paid": "for"}')]) as (port, _):
        error = await ask(port, stream=False, adapter=adapter)
    assert isinstance(error, errors.BadReply)
    assert (error.detail["raw"], "KeyError" in str(error)) == ('{"paid": "for"}', True)


@pytest.mark.parametrize("before", [0, 480, RAW_LIMIT - 10])
@pytest.mark.parametrize("status", [200, 400])
async def test_no_piece_of_the_key_stays_in_what_a_provider_repeats(before: int, status: int) -> None:
    key = "sk-" + secrets.token_urlsafe(40)
    body = "{" + "x" * before + f" {key} and {key[:20]}…, " + "y" * 600
    reply = whole(body, "text/plain").replace(b"200 OK", b"%d X" % status, 1)
    async with server([reply]) as (port, _):
        error = await ask(port, stream=False, key=key)
    assert isinstance(error, errors.BadReply if status == 200 else errors.BadRequest)
    shown = repr(error) + repr(error.detail)
    assert not [n for n in range(len(key) - 7) if key[n : n + 8] in shown]
