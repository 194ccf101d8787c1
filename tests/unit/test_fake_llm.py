"""The fake LLM, driven with the official SDKs: replies, streams, latency, faults, and what it remembers."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import RetryableLLMError
from aios_dist.local.owned_process import start_owned
from aios_dist.model.calls import LLMRequest
from aios_dist.testing import CLIENT_LEFT, Call, FakeLLM, Fault, Faults, Reply, ToolCall
from aios_dist.testing.latency import Constant, LogNormal, Tokens, Uniform, parse_latency
from aios_dist.testing.replies import fingerprint, pieces_of, seeded
from aios_dist.worker.providers import open_provider
from tests.sdks import anthropic, openai

if TYPE_CHECKING:
    from openai import AsyncOpenAI

HI: list[Any] = [{"role": "user", "content": "Three sights in Lima?"}]


@asynccontextmanager
async def client_of(url: str, key: str = "any") -> AsyncIterator[AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=url, api_key=key, max_retries=0, timeout=10, http_client=openai.DefaultAioHttpClient()
    ) as client:
        yield client


async def ask(client: AsyncOpenAI, prompt: str = "hi", **more: Any) -> str:
    answer = await client.chat.completions.create(
        model="small", messages=[{"role": "user", "content": prompt}], **more
    )
    return answer.choices[0].message.content or ""


async def streamed(client: AsyncOpenAI, **more: Any) -> list[Any]:
    stream = await client.chat.completions.create(model="small", messages=HI, stream=True, **more)
    return [chunk async for chunk in stream]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The fake LLM as a process, and its base URL."""
    child = start_owned(
        [sys.executable, "-m", "aios_dist.testing", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        line = child.stdout.readline().decode()
        assert line.startswith("fake LLM on http://127.0.0.1:"), line
        yield child, line.split()[-1]
    finally:
        child.kill()
        child.communicate(timeout=10)


# Replies


async def test_the_reply_follows_from_seed_and_messages_alone() -> None:
    async with FakeLLM(seed=1) as one, FakeLLM(seed=1) as two, FakeLLM(seed=2) as other:
        said = []
        for llm in (one, one, two, other):
            async with client_of(llm.url) as client:
                said.append(await ask(client))
    assert said[0] == said[1] == said[2] != said[3]


async def test_usage_counts_a_token_for_four_characters_and_max_tokens_cuts_the_reply() -> None:
    async with FakeLLM(output_tokens=50) as llm, client_of(llm.url) as client:
        answer = await client.chat.completions.create(model="small", messages=HI, max_tokens=7)
        whole = await client.chat.completions.create(model="small", messages=HI)
    assert answer.usage
    assert whole.usage
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (
        6,
        7,
        13,
    )
    assert answer.choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 50
    assert whole.choices[0].finish_reason == "stop"
    assert len((answer.choices[0].message.content or "").split()) == 7


async def test_a_list_is_said_in_order_and_then_the_seeded_words() -> None:
    async with FakeLLM(reply=["one", Reply("two")]) as llm, client_of(llm.url) as client:
        assert [await ask(client) for _ in range(2)] == ["one", "two"]
        assert await ask(client) not in ("one", "two")
        llm.reset()
        assert await ask(client) == "one"


async def test_a_mapping_is_looked_up_by_the_whole_last_message_and_then_by_a_part_of_it() -> None:
    async with FakeLLM(reply={"Lima": "Peru", "Lima?": "who asks"}) as llm, client_of(llm.url) as client:
        assert await ask(client, "Lima?") == "who asks"
        assert await ask(client, "Where is Lima") == "Peru"


async def test_a_callable_sees_the_call_and_its_exception_reaches_the_client() -> None:
    def repeat(call: Call) -> str:
        return f"{call.number} {call.messages[-1]['content']}"

    async with FakeLLM(reply=repeat) as llm, client_of(llm.url) as client:
        assert await ask(client, "hello") == "0 hello"
        llm.script(reply=lambda call: 1 / 0)
        with pytest.raises(openai.InternalServerError, match="ZeroDivisionError"):
            await ask(client)


async def test_a_request_for_json_gets_json() -> None:
    async with FakeLLM() as llm, client_of(llm.url) as client:
        assert json.loads(await ask(client, response_format={"type": "json_object"}))["text"]


async def test_tool_calls_can_be_scripted_whole_and_streamed() -> None:
    order = Reply(tool_calls=(ToolCall("find", {"city": "Lima"}), ToolCall("book", '{"n": 1}', id="call_9")))
    async with FakeLLM(reply=order) as llm, client_of(llm.url) as client:
        answer = await client.chat.completions.create(model="small", messages=HI)
        chunks = await streamed(client)
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    calls: Any = answer.choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("find", '{"city":"Lima"}'),
        ("book", '{"n": 1}'),
    ]
    assert calls[1].id == "call_9"
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    arguments = {0: "", 1: ""}
    for part in parts:
        arguments[part.index] += part.function.arguments
    assert arguments == {0: '{"city":"Lima"}', 1: '{"n": 1}'}
    assert [part.function.name for part in parts if part.id] == ["find", "book"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


# Streams


async def test_a_stream_says_the_same_as_the_whole_answer_and_ends_with_usage_when_asked() -> None:
    async with FakeLLM(output_tokens=30) as llm, client_of(llm.url) as client:
        whole = await client.chat.completions.create(model="small", messages=HI)
        chunks = await streamed(client, stream_options={"include_usage": True})
        plain = await streamed(client)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert all(chunk.usage is None for chunk in [*chunks[:-1], *plain])
    assert len({chunk.id for chunk in chunks}) == 1
    assert len([chunk for chunk in plain if chunk.choices[0].delta.content]) == 8


async def test_a_stream_begins_before_it_ends_when_latency_goes_by_token() -> None:
    async with FakeLLM(latency="tokens:0,0.05", output_tokens=8) as llm, client_of(llm.url) as client:
        stream = await client.chat.completions.create(model="small", messages=HI, stream=True)
        first = await anext(aiter(stream))
        assert first.choices[0].delta.role == "assistant"
        assert llm.in_flight == 1
        async for _ in stream:
            pass
        assert llm.in_flight == 0


# Latency


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("0.1", Constant(0.1)),
        ("constant:2", Constant(2)),
        ("uniform:0.05,0.2", Uniform(0.05, 0.2)),
        ("lognormal:0.1,0.5", LogNormal(0.1, 0.5)),
        ("tokens:0.2,0.01", Tokens(0.2, 0.01)),
    ],
)
def test_a_latency_is_read_from_its_text(text: str, model: object) -> None:
    assert parse_latency(text) == model


@pytest.mark.parametrize(
    "text", ["", "soon", "-1", "nan", "inf", "uniform:1", "uniform:2,1", "uniform:a,b", "tokens:1"]
)
def test_a_latency_that_makes_no_sense_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"^latency "):
        parse_latency(text)


def test_what_each_model_of_latency_gives() -> None:
    assert Tokens(0.25, 0.5).seconds(0.5, 11) == (0.25, 5.25)
    assert Uniform(1, 3).draw(0.5) == 2
    assert LogNormal(0.1, 0.5).draw(0.5) == pytest.approx(0.1)
    assert LogNormal(0.1, 0.5).draw(0.99) > 0.2


async def test_an_answer_is_never_early_and_waiting_calls_do_not_wait_for_each_other() -> None:
    async with FakeLLM(latency=0.05) as llm, client_of(llm.url) as client:
        await asyncio.gather(*(ask(client, str(n)) for n in range(20)))
        calls = llm.calls
    assert llm.max_in_flight == 20
    assert all(call.end is not None and call.end - call.start >= 0.049 for call in calls)
    assert [call.number for call in calls] == list(range(20))


async def test_a_reply_may_bring_its_own_latency() -> None:
    async with FakeLLM(reply=[Reply("slow", latency=0.1), "fast"]) as llm, client_of(llm.url) as client:
        slow = asyncio.create_task(ask(client))
        await llm.until(lambda: llm.in_flight == 1)
        assert await ask(client) == "fast"
        assert not slow.done()
        assert await slow == "slow"


# Faults


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("400", "BadRequestError"),
        ("401", "AuthenticationError"),
        ("404", "NotFoundError"),
        ("500", "InternalServerError"),
        ("503", "InternalServerError"),
        ("529", "InternalServerError"),
    ],
)
async def test_a_status_comes_in_openais_error_shape(kind: str, error: str) -> None:
    async with FakeLLM(faults=f"{kind}@0") as llm, client_of(llm.url) as client:
        with pytest.raises(getattr(openai, error)) as raised:
            await ask(client)
        assert raised.value.status_code == int(kind)
        assert raised.value.type
        assert await ask(client)
        assert [(call.status, call.fault) for call in llm.calls] == [(int(kind), kind), (200, None)]


async def test_a_429_says_when_to_come_back() -> None:
    async with FakeLLM(faults="429:1", retry_after=0.25) as llm, client_of(llm.url) as client:
        with pytest.raises(openai.RateLimitError) as raised:
            await ask(client)
    headers = raised.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("0.25", "250")
    assert raised.value.code == "rate_limit_exceeded"


async def test_a_hanging_call_is_in_flight_until_the_client_leaves() -> None:
    async with FakeLLM(faults="hang@0") as llm, client_of(llm.url) as client:
        asking = asyncio.create_task(ask(client))
        await llm.until(lambda: llm.in_flight == 1)
        assert llm.calls[0].end is None
        asking.cancel()
        await llm.until(lambda: llm.in_flight == 0)
        assert llm.calls[0].status == CLIENT_LEFT


async def test_a_client_that_leaves_early_is_counted_and_its_timer_ended() -> None:
    async with FakeLLM(latency=3600) as llm, client_of(llm.url) as client:
        with pytest.raises(openai.APITimeoutError):
            await ask(client, timeout=0.05)
        await llm.until(lambda: llm.in_flight == 0)
        assert llm.calls[0].status == CLIENT_LEFT


async def test_a_cut_ends_the_connection_in_the_middle_of_the_answer() -> None:
    async with FakeLLM(faults="cut:1", output_tokens=20) as llm, client_of(llm.url) as client:
        with pytest.raises(Exception, match=r"(?i)payload|connection|peer closed|incomplete"):
            await ask(client)
        stream = await client.chat.completions.create(model="small", messages=HI, stream=True)
        chunks: list[Any] = []

        async def read() -> None:
            async for chunk in stream:
                chunks.append(chunk)  # noqa: PERF401 - what came before the end is what is looked at

        with pytest.raises(Exception, match=r"(?i)payload|connection|peer closed|incomplete"):
            await read()
        assert len(chunks) > 1
        assert all(chunk.choices[0].finish_reason is None for chunk in chunks)
        llm.script(faults="")
        assert await ask(client)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_odd_answers_are_whole_and_each_is_another(provider: str, stream: bool) -> None:
    bodies, texts = set(), set()
    async with FakeLLM(faults="odd:1", reply=lambda call: "so it is") as llm:
        root = llm.url if provider == "openai" else llm.root
        model = ModelConfig(provider=provider, model="small", base_url=root, stream=stream)
        for _ in range(16):
            llm_provider = open_provider("small", model, {})
            texts.add((await llm_provider.call(LLMRequest(messages=HI))).text)
            await llm_provider.aclose()
        path = "/v1/chat/completions" if provider == "openai" else "/v1/messages"
        body = {"model": "small", "messages": HI, "stream": stream, "max_tokens": 64}
        async with aiohttp.ClientSession() as session:
            for _ in range(16):
                async with session.post(llm.root + path, json=body) as reply:
                    bodies.add(re.sub(rb"(chatcmpl|msg)-\d+|\"created\":\d+", b"", await reply.read()))
        assert [call.fault for call in llm.calls] == ["odd"] * 32
    assert texts == {"so it is"}
    assert len(bodies) >= (12 if provider == "openai" else 8)


async def test_an_error_may_come_with_status_200() -> None:
    async with FakeLLM(faults="200:1") as llm:
        provider = open_provider("small", ModelConfig(model="small", base_url=llm.url), {})
        with pytest.raises(RetryableLLMError, match="ended the generation with an error"):
            await provider.call(LLMRequest(messages=HI))
        await provider.aclose()


async def test_garbage_is_a_200_that_is_not_json() -> None:
    async with FakeLLM(faults="garbage:1") as llm, client_of(llm.url) as client:
        raw = await client.chat.completions.with_raw_response.create(model="small", messages=HI)
        assert raw.status_code == 200
        with pytest.raises(json.JSONDecodeError):
            json.loads(raw.content)
        with pytest.raises(json.JSONDecodeError):
            await streamed(client)


async def test_rates_are_drawn_from_the_seed_whatever_the_order_of_calls() -> None:
    async def outcomes(order: list[str]) -> dict[str, list[int | None]]:
        async with FakeLLM(faults="429:0.3,500:0.2", seed=7) as llm, client_of(llm.url) as client:
            await asyncio.gather(*(ask(client, prompt) for prompt in order), return_exceptions=True)
            found: dict[str, list[int | None]] = {}
            for call in llm.calls:
                found.setdefault(call.messages[0]["content"], []).append(call.status)
            return found

    prompts = [str(number) for number in range(60)] * 2
    found = await outcomes(prompts)
    assert found == await outcomes(prompts[::-1])
    flat = [status for statuses in found.values() for status in statuses]
    assert {200, 429, 500} == set(flat)
    assert any(len(set(statuses)) == 2 for statuses in found.values())  # a repeat is drawn anew


def test_faults_that_make_no_sense_are_refused_with_a_sentence() -> None:
    for text in ("429", "429:x", "429:2", "429:-1", "slow:0.1", "500@x", "429:0.6,500:0.6"):
        with pytest.raises(ValueError, match="fault"):
            FakeLLM(faults=text)
    with pytest.raises(ValueError, match="retry_after"):
        Fault("429", retry_after=-1)
    assert Faults(at={0: Fault("hang")}).pick(0, 0.5) == Fault("hang")


async def test_a_wrong_key_a_wrong_model_and_a_bad_body_are_refused_as_openai_does() -> None:
    async with FakeLLM(api_key="right", models=["small"]) as llm:
        async with client_of(llm.url, "wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await ask(client)
        async with client_of(llm.url, "right") as client:
            assert await ask(client)
            assert [model.id async for model in client.models.list()] == ["small"]
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model="large", messages=HI)
            for body, param in (
                ({"messages": []}, "messages"),
                ({"max_tokens": 0}, "max_tokens"),
                ({"model": 1}, "model"),
            ):
                with pytest.raises(openai.BadRequestError) as raised:
                    await ask(client, extra_body=body)
                assert raised.value.param == param
            with pytest.raises(openai.NotFoundError):
                await client.embeddings.create(model="small", input="hi")
    assert "right" not in str(llm.calls)
    assert "wrong" not in str(llm.calls)


# What it remembers


async def test_a_call_keeps_its_request_and_the_headers_of_our_own() -> None:
    async with FakeLLM() as llm, client_of(llm.url) as client:
        more = {"X-Aios-Job": "lima-1", "X-Client-Request-Id": "r-1"}
        await ask(client, extra_headers=more, extra_body={"top_k": 3})
        call = llm.calls[0]
    assert (call.model, call.protocol, call.client_request_id) == ("small", "openai", "r-1")
    assert call.headers["x-aios-job"] == "lima-1"
    assert call.messages == ({"role": "user", "content": "hi"},)
    assert call.body["top_k"] == 3


async def test_only_the_last_calls_are_kept_and_reset_forgets_them() -> None:
    async with FakeLLM(keep_calls=2) as llm, client_of(llm.url) as client:
        for _ in range(3):
            await ask(client)
        assert ([call.number for call in llm.calls], llm.count) == ([1, 2], 3)
        llm.reset()
        assert (llm.calls, llm.count, llm.max_in_flight) == ([], 0, 0)


def test_it_runs_in_a_thread_for_tests_without_a_loop() -> None:
    with FakeLLM(reply="yes") as llm:
        client = openai.OpenAI(base_url=llm.url, api_key="any", max_retries=0)
        assert client.chat.completions.create(model="small", messages=HI).choices[0].message.content == "yes"
        llm.script(reply="no")
        assert client.chat.completions.create(model="small", messages=HI).choices[0].message.content == "no"
        llm.wait_until(lambda: llm.in_flight == 0)
        llm.reset()
        assert llm.calls == []
        client.close()


def test_cutting_a_text_into_pieces_loses_nothing() -> None:
    for text in ("", "a", "héllo wörld, how are you"):
        for per_piece in (1, 3, 100):
            assert "".join(pieces_of(text, max(1, len(text) // 4), per_piece)) == text
    mark = fingerprint(0, [{"role": "user", "content": "x"}])
    long, short = (seeded(mark, Constant(40), limit, False) for limit in (None, 10))
    assert long.text.startswith(short.text)


# Anthropic


async def test_it_speaks_anthropics_messages_whole_and_streamed() -> None:
    order = Reply("I look it up.", tool_calls=(ToolCall("find", {"city": "Lima"}),))
    async with FakeLLM(reply=order, api_key="right") as llm:
        async with anthropic.AsyncAnthropic(base_url=llm.root, api_key="right", max_retries=0) as client:
            asked: dict[str, Any] = {"model": "big", "max_tokens": 99, "messages": HI, "system": "Be brief."}
            answer = await client.messages.create(**asked)
            async with client.messages.stream(**asked) as stream:
                said = await stream.get_final_message()
            for message in (answer, said):
                assert message.content[0].text == "I look it up."
                assert (message.content[1].name, message.content[1].input) == ("find", {"city": "Lima"})
                assert message.stop_reason == "tool_use"
                assert (message.usage.input_tokens, message.usage.output_tokens) == (8, order.tokens)
            llm.script(faults="429:1")
            with pytest.raises(anthropic.RateLimitError):
                await client.messages.create(**asked)
            llm.script(faults="garbage:1")
            with pytest.raises(json.JSONDecodeError):
                async with client.messages.stream(**asked) as stream:
                    await stream.get_final_message()
        async with anthropic.AsyncAnthropic(base_url=llm.root, api_key="wrong", max_retries=0) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**asked)
    assert {call.protocol for call in llm.calls} == {"anthropic"}


# OpenAI's Responses (Gemini: tests/contracts/test_codecs.py, since one load of Google's SDK is enough)


async def test_it_speaks_openais_responses_whole_and_streamed() -> None:
    openai = pytest.importorskip("openai")
    order = Reply("I look it up.", tool_calls=(ToolCall("find", {"city": "Lima"}),))
    async with FakeLLM(reply=order, api_key="right") as llm:
        async with openai.AsyncOpenAI(base_url=llm.url, api_key="right", max_retries=0) as client:
            asked: dict[str, Any] = {
                "model": "big",
                "input": "hi there",
                "instructions": "Be brief, and kind.",
            }
            answer = await client.responses.create(**asked)
            async with client.responses.stream(**asked) as stream:
                kinds = [event.type async for event in stream]
                said = await stream.get_final_response()
            assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
            assert "response.function_call_arguments.done" in kinds
            for response in (answer, said):
                text, call = response.output
                assert (response.output_text, response.status) == ("I look it up.", "completed")
                assert (text.type, call.type, call.name) == ("message", "function_call", "find")
                assert json.loads(call.arguments) == {"city": "Lima"}
                assert (response.usage.input_tokens, response.usage.output_tokens) == (7, order.tokens)
            llm.script(reply=Reply("cut", finish_reason="length"))
            cut = await client.responses.create(**asked)
            assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
            llm.script(faults="429:1")
            with pytest.raises(openai.RateLimitError):
                await client.responses.create(**asked)
            result = {"type": "function_call_output", "call_id": "c9", "output": "noon"}
            with pytest.raises(openai.BadRequestError, match="No tool call found for call_id c9"):
                await client.responses.create(model="big", input=[result])
        async with openai.AsyncOpenAI(base_url=llm.url, api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                await client.responses.create(**asked)
    assert {call.protocol for call in llm.calls} == {"openai-responses"}
    assert llm.calls[0].messages[-1] == {"role": "user", "content": "hi there"}


# HTTP


async def test_requests_in_pieces_and_in_a_pipeline_are_answered_in_order() -> None:
    def request(prompt: str) -> bytes:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}]}).encode()
        return b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    async with FakeLLM(latency=0.01, reply=lambda call: call.messages[0]["content"]) as llm:
        reader, writer = await asyncio.open_connection(llm.host, llm.port)
        wire = request("one") + request("two") + request("three")
        for at in range(0, len(wire), 7):
            writer.write(wire[at : at + 7])
            await asyncio.sleep(0)
        for prompt in ("one", "two", "three"):
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["choices"][0]["message"]["content"] == prompt
        assert llm.max_in_flight == 1
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 411 ")
        writer.close()
        reader, writer = await asyncio.open_connection(llm.host, llm.port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


# As a process


async def http(url: str, path: str, body: Any = None) -> Any:
    import aiohttp

    root = url.removesuffix("/v1")
    async with aiohttp.ClientSession() as session:
        method = "GET" if body is None else "POST"
        async with session.request(method, root + path, json=body) as answer:
            return await answer.json()


async def test_a_process_is_asked_scripted_and_reset_over_http() -> None:
    with process("--reply", '["first", {"fault": "500"}]', "--seed", "3") as (child, url):
        async with client_of(url) as client:
            assert await ask(client) == "first"
            with pytest.raises(openai.InternalServerError):
                await ask(client)
            known = await http(url, "/calls?fields=number,status")
            assert known["calls"] == [{"number": 0, "status": 200}, {"number": 1, "status": 500}]
            assert (known["count"], known["in_flight"], known["max_in_flight"]) == (2, 0, 1)
            assert (await http(url, "/calls?after=0"))["calls"][0]["headers"]["authorization"] == "(hidden)"
            assert (await http(url, "/script", {"reply": {"hi": "scripted"}, "faults": "429@1"}))[
                "status"
            ] == "ok"
            assert await ask(client) == "scripted"
            with pytest.raises(openai.RateLimitError):
                await ask(client)
            wrong_ones: list[Any] = [
                {"colour": 1},
                {"latency": "soon"},
                {"latency": None},
                {"faults": {"429": 1}},
                {"faults": "429:1", "retry_after": -1},
                {"models": "small"},
                {"chunk_tokens": 0},
                {"reply": [{"txt": "a"}]},
                [],
                {"seed": "x"},
            ]
            for wrong in wrong_ones:
                assert (await http(url, "/script", wrong))["error"]["message"]
            assert (await http(url, "/reset", {}))["count"] == 0
            assert (await http(url, "/health"))["status"] == "ok"
        child.send_signal(signal.SIGTERM)
        assert child.wait(10) == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--latency", "soon"],
        ["--faults", "slow:1"],
        ["--reply", "{"],
        ["--reply", "[1]"],
        ["--port", "99999"],
        ["--port", "x"],
        ["--chunk-tokens", "0"],
        ["--colour"],
        ["--host", "192.0.2.1"],
    ],
)
def test_a_bad_command_line_is_one_sentence_and_exit_code_2(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "aios_dist.testing", *arguments], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("fake LLM: ")
    assert done.stderr.count("\n") == 1
