"""What every provider keeps to: the same suite for each adapter, over real HTTP, against the fake LLM."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from aios_dist import errors
from aios_dist.config import ModelConfig
from aios_dist.errors import ConfigError, LLMError
from aios_dist.model.calls import LLMRequest
from aios_dist.model.calls import ToolCall as Called
from aios_dist.testing import CLIENT_LEFT, FakeLLM, Fault, Faults, Reply, ToolCall
from aios_dist.worker import providers
from aios_dist.worker.providers import Provider, check_model, key_of, open_provider
from aios_dist.worker.providers.calling import HttpProvider
from aios_dist.worker.providers.refusals import retry_after_s

KEY = "sk-test-0123456789abcdef"
HI = LLMRequest(messages=[{"role": "user", "content": "Three sights in Lima?"}])
AT_ONCE = 300  # aiohttp's own limit, which must not be ours, is 100


@dataclass(frozen=True)
class Adapter:
    """One adapter: its name in aios.toml, and where it finds a fake LLM."""

    name: str
    address: Callable[[FakeLLM], str]

    def model(self, llm: FakeLLM, **settings: Any) -> ModelConfig:
        base_url = self.address(llm)
        return ModelConfig(
            **{
                "provider": self.name,
                "model": "small-1",
                "base_url": base_url,
                "timeout": 10.0,
                "stream": True,
                **settings,
            }
        )

    @asynccontextmanager
    async def open(self, llm: FakeLLM, **settings: Any) -> AsyncIterator[Provider]:
        provider = open_provider("small", self.model(llm, **settings), {"THE_KEY": KEY})
        try:
            yield provider
        finally:
            await provider.aclose()

    async def error(self, llm: FakeLLM, request: LLMRequest = HI, **settings: Any) -> LLMError:
        """The error of one call that must fail."""
        async with self.open(llm, **settings) as provider:
            with pytest.raises(LLMError) as raised:
                await provider.call(request)
        return raised.value


ADDRESSES: dict[str, Callable[[FakeLLM], str]] = {
    "openai": lambda llm: llm.url,
    "openai-responses": lambda llm: llm.url,
    "anthropic": lambda llm: llm.root,
    "gemini": lambda llm: f"{llm.root}/v1beta",
}
"""Where an adapter finds the fake LLM; what has none, this suite cannot try."""

ADAPTERS = [Adapter(name, ADDRESSES[name]) for name in providers.ADAPTERS if name in ADDRESSES]
OPENAI, RESPONSES, ANTHROPIC, GEMINI = ADAPTERS


def test_every_adapter_is_tried_here() -> None:
    assert set(providers.ADAPTERS) == set(ADDRESSES)


@pytest.fixture(params=ADAPTERS, ids=lambda adapter: adapter.name)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    found: Adapter = request.param
    return found


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def stream(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# -- answers ---------------------------------------------------------------------------------------


async def test_the_text_the_usage_and_the_names_come_back(adapter: Adapter, stream: bool) -> None:
    said = Reply("Plaza Mayor, Huaca Pucllana, " + "Barranco – ¡sí! " * 20, completion_tokens=17)
    async with FakeLLM(reply=said) as llm, adapter.open(llm, stream=stream) as provider:
        answer = await provider.call(HI)
    assert answer.text == said.text
    assert answer.finish_reason == "stop"
    assert answer.tool_calls == []
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens, answer.usage.calls) == (6, 17, 1)
    assert (answer.model, answer.provider) == ("small-1", adapter.name)
    assert llm.calls[0].stream is stream


async def test_the_time_to_the_first_token_is_known_of_streams_only(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM() as llm, adapter.open(llm, stream=stream) as provider:
        timings = (await provider.call(HI)).timings
    assert timings.call_s > 0
    assert (timings.first_token_s is not None) is stream
    assert 0 <= (timings.first_token_s or 0) <= timings.call_s


async def test_an_answer_that_was_cut_short_says_length(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM(output_tokens=50) as llm, adapter.open(llm, stream=stream) as provider:
        answer = await provider.call(LLMRequest(messages=HI.messages, max_tokens=3))
    assert answer.finish_reason == "length"
    assert answer.usage.output_tokens == 3


async def test_tool_calls_come_back_with_their_arguments_as_json_text(adapter: Adapter, stream: bool) -> None:
    said = Reply(
        tool_calls=(
            ToolCall("find_hotel", '{"city":"Lima","stars":4,"near":"Plaza Mayor de Lima"}', id="c1"),
            ToolCall("now", "{}", id="c2"),
        )
    )
    async with FakeLLM(reply=said) as llm, adapter.open(llm, stream=stream) as provider:
        answer = await provider.call(HI)
    assert answer.finish_reason == "tool_calls"
    assert answer.text == ""
    assert answer.tool_calls == [
        Called("c1", "find_hotel", '{"city":"Lima","stars":4,"near":"Plaza Mayor de Lima"}'),
        Called("c2", "now", "{}"),
    ]


async def test_text_and_tool_calls_may_come_together(adapter: Adapter, stream: bool) -> None:
    said = Reply("Let me look.", tool_calls=(ToolCall("now", "{}", id="c1"),))
    async with FakeLLM(reply=said) as llm, adapter.open(llm, stream=stream) as provider:
        answer = await provider.call(HI)
    assert (answer.text, answer.tool_calls) == ("Let me look.", [Called("c1", "now", "{}")])


# -- requests --------------------------------------------------------------------------------------


async def test_openai_gets_every_field_untouched() -> None:
    tools = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
    form = {"type": "json_object"}
    request = LLMRequest(
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi", "odd": None}], "name": "ann"}],
        temperature=0.25,
        max_tokens=7,
        tools=tools,
        response_format=form,
        extra={"seed": 1, "top_p": 0.5, "min_p": 0.1},
    )
    async with FakeLLM() as llm, OPENAI.open(llm, options={"seed": 9, "user": "u"}) as provider:
        await provider.call(request)
    assert llm.calls[0].body == {
        "model": "small-1",
        "messages": request.messages,
        "temperature": 0.25,
        "max_tokens": 7,
        "tools": tools,
        "response_format": form,
        "seed": 1,  # the request's own goes before the model's
        "user": "u",
        "top_p": 0.5,
        "min_p": 0.1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_what_was_not_given_is_not_sent(adapter: Adapter) -> None:
    async with FakeLLM() as llm, adapter.open(llm, stream=False) as provider:
        await provider.call(HI)
    assert (
        set(llm.calls[0].body)
        == {
            "openai": {"model", "messages", "stream"},
            "openai-responses": {"model", "input", "stream"},
            "anthropic": {"model", "messages", "stream", "max_tokens"},
            "gemini": {"contents"},  # its path says the rest
        }[adapter.name]
    )
    assert llm.calls[0].body.get("max_tokens") == (4096 if adapter is ANTHROPIC else None)


async def test_options_of_the_model_and_of_the_request_reach_the_provider(adapter: Adapter) -> None:
    request = LLMRequest(messages=HI.messages, extra={"metadata": {"user_id": "u"}, "top_p": 0.5})
    async with FakeLLM() as llm, adapter.open(llm, options={"service_tier": "flex"}) as provider:
        left_out = (await provider.call(request)).left_out
    sent = llm.calls[0].body
    assert (sent.get("metadata"), sent.get("top_p"), sent.get("service_tier"), left_out) == {
        "anthropic": ({"user_id": "u"}, 0.5, None, ("service_tier",)),
        "gemini": (None, None, None, ("metadata",)),
    }.get(adapter.name, ({"user_id": "u"}, 0.5, "flex", ()))
    if adapter is GEMINI:
        assert (sent["generationConfig"], sent["serviceTier"]) == ({"topP": 0.5}, "flex")


async def test_headers_and_further_fields_go_out_as_the_sdks_arguments_do(adapter: Adapter) -> None:
    extra = {"extra_headers": {"X-Team": "blue"}, "extra_body": {"odd": 1}}
    async with FakeLLM() as llm, adapter.open(llm) as provider:
        await provider.call(LLMRequest(messages=HI.messages, extra=extra), idempotency_key="job-1/0")
    call = llm.calls[0]
    assert (call.headers["x-team"], call.headers["idempotency-key"]) == ("blue", "job-1/0")
    assert call.body["odd"] == 1
    assert not {"extra_headers", "extra_body"} & set(call.body)


async def test_a_request_is_not_changed_by_being_sent(adapter: Adapter) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    request = LLMRequest(messages=messages, extra={"temperature": 0.5, "extra_headers": {"X-Team": "blue"}})
    async with FakeLLM() as llm, adapter.open(llm, options={"extra_headers": {"X-A": "a"}}) as provider:
        await provider.call(request)
        await provider.call(request)
    assert llm.calls[0].body == llm.calls[1].body
    assert request.extra == {"temperature": 0.5, "extra_headers": {"X-Team": "blue"}}
    assert messages == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


async def test_anthropic_is_asked_in_its_own_form() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"PET"}'}}
    more = {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}}
    parameters = {"type": "object", "properties": {"zone": {"type": "string"}}}
    schema = {"type": "object"}
    request = LLMRequest(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                    {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call, more]},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
            {"role": "tool", "tool_call_id": "c2", "content": "night"},
            {"role": "user", "content": "So?"},
        ],
        tools=[
            {"type": "function", "function": {"name": "now", "description": "d", "parameters": parameters}}
        ],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        extra={"tool_choice": "required"},
    )
    async with FakeLLM() as llm, ANTHROPIC.open(llm) as provider:
        await provider.call(request)
    sent = llm.calls[0].body
    assert sent["system"] == "Be brief.\n\nBe kind."
    assert sent["tools"] == [{"name": "now", "description": "d", "input_schema": parameters}]
    assert sent["tool_choice"] == {"type": "any"}
    assert sent["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    inline = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert sent["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image", "source": inline},
                {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "tool_use", "id": "c1", "name": "now", "input": {"zone": "PET"}},
                {"type": "tool_use", "id": "c2", "name": "now", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "noon"},
                {"type": "tool_result", "tool_use_id": "c2", "content": "night"},
            ],
        },
        {"role": "user", "content": "So?"},
    ]


async def test_anthropic_is_asked_for_the_older_version_where_sampling_options_are_given() -> None:
    async with FakeLLM() as llm, ANTHROPIC.open(llm) as provider:
        await provider.call(HI)
        await provider.call(LLMRequest(messages=HI.messages, temperature=0.0))
    plain, sampled = (call.headers["anthropic-version"] for call in llm.calls)
    assert sampled == "2023-06-01" != plain


# -- errors ----------------------------------------------------------------------------------------

STATUSES = {
    "400": errors.BadRequest,
    "401": errors.NotAllowed,
    "403": errors.NotAllowed,
    "404": errors.ModelNotFound,
    "408": errors.ProviderBusy,
    "409": errors.ProviderBusy,
    "413": errors.BadRequest,
    "422": errors.BadRequest,
    "429": errors.RateLimited,
    "500": errors.ProviderBusy,
    "502": errors.ProviderBusy,
    "503": errors.ProviderBusy,
    "529": errors.ProviderBusy,
}


@pytest.mark.parametrize(("status", "expected"), STATUSES.items())
async def test_a_status_becomes_its_error_and_is_not_tried_again(
    adapter: Adapter, status: str, expected: type[LLMError]
) -> None:
    async with FakeLLM(faults=f"{status}@0") as llm:
        error = await adapter.error(llm)
    assert type(error) is expected
    assert (error.detail["status"], error.detail["provider"]) == (int(status), adapter.name)
    assert f"{adapter.name} answered {status}: " in str(error)
    assert llm.count == 1


async def test_the_wait_that_a_provider_asks_for_is_kept(adapter: Adapter) -> None:
    async with FakeLLM(faults=Faults(at={0: Fault("429", retry_after=2.5), 1: Fault("400")})) as llm:
        limited, refused = await adapter.error(llm), await adapter.error(llm)
    assert limited.detail["retry_after_s"] == 2.5
    assert "retry_after_s" not in refused.detail


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1.5", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": "-1"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        (
            {"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
    ],
)
def test_a_wait_is_read_as_seconds_milliseconds_or_a_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers, time.time()) == seconds


async def test_no_answer_in_time_is_a_time_out(adapter: Adapter, stream: bool) -> None:
    for timeout in (0.1, 1.0, 10.0):  # one that is long enough for this machine to begin the call
        async with FakeLLM(faults="hang@0") as llm:
            error = await adapter.error(llm, stream=stream, timeout=timeout)
            await llm.until(lambda: llm.in_flight == 0)
        if llm.calls:
            break
    assert type(error) is errors.CallTimeout
    assert f"{timeout:g} s" in str(error)
    assert llm.calls[0].status == CLIENT_LEFT


async def test_a_stream_that_goes_on_for_too_long_is_a_time_out(adapter: Adapter) -> None:
    said = Reply("word " * 4000, latency=60.0)  # each piece in time, the whole not
    async with FakeLLM(reply=said, chunk_tokens=1) as llm:
        error = await adapter.error(llm, timeout=0.2)
    assert type(error) is errors.CallTimeout


async def test_an_answer_that_was_cut_is_a_broken_connection(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM(faults="cut@0", reply="word " * 40) as llm:
        error = await adapter.error(llm, stream=stream)
    assert type(error) is errors.ConnectionBroken


async def test_no_server_is_a_broken_connection(adapter: Adapter) -> None:
    async with FakeLLM() as llm:
        pass
    error = await adapter.error(llm)
    assert type(error) is errors.ConnectionBroken
    assert str(llm.port) in str(error)


@pytest.mark.parametrize("ending", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"])
async def test_a_server_that_hangs_up_is_a_broken_connection(adapter: Adapter, ending: bytes) -> None:
    async with raw_server(ending) as port:
        error = await adapter.error(FakeLLM(port=port))
    assert type(error) is errors.ConnectionBroken


async def test_garbage_is_a_bad_reply(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM(faults="garbage@0") as llm:
        error = await adapter.error(llm, stream=stream)
    assert type(error) is errors.BadReply


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 3\r\n\r\n[1]",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{bad}",
    ],
)
async def test_what_is_not_of_the_protocol_is_a_bad_reply(adapter: Adapter, answer: bytes) -> None:
    async with raw_server(answer) as port:
        error = await adapter.error(FakeLLM(port=port))
    assert type(error) is errors.BadReply


async def test_an_error_in_the_midst_of_a_stream_is_told_as_such(adapter: Adapter) -> None:
    told = {
        "openai": b'{"error":{"message":"Slow down.","type":"requests","code":"rate_limit_exceeded"}}',
        "openai-responses": b'{"type":"error","code":"rate_limit_exceeded","message":"Slow down."}',
        "gemini": b'{"error":{"code":429,"message":"Slow down.","status":"RESOURCE_EXHAUSTED"}}',
        "anthropic": b'{"type":"error","error":{"type":"rate_limit_error","message":"Slow down."}}',
    }[adapter.name]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    async with raw_server(head + b"event: error\ndata: " + told + b"\n\n") as port:
        error = await adapter.error(FakeLLM(port=port))
    assert type(error) is errors.RateLimited
    assert "Slow down." in str(error)


async def test_a_stream_that_ends_in_good_form_but_too_early_is_a_broken_connection(adapter: Adapter) -> None:
    told = {
        "openai": b'{"choices":[{"index":0,"delta":{"content":"hal"}}]}',
        "openai-responses": b'{"type":"response.output_text.delta","output_index":0,"delta":"hal"}',
        "gemini": b'{"candidates":[{"content":{"parts":[{"text":"hal"}]}}]}',
        "anthropic": b'{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hal"}}',
    }[adapter.name]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    async with raw_server(head + b"data: " + told + b"\n\n") as port:
        error = await adapter.error(FakeLLM(port=port))
    assert type(error) is errors.ConnectionBroken


async def test_an_answer_stopped_by_the_filter_is_refused(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM(reply=Reply("", finish_reason="content_filter")) as llm:
        error = await adapter.error(llm, stream=stream)
    assert type(error) is errors.ContentRefused
    assert error.detail["provider"] == adapter.name


async def test_a_long_page_of_an_error_is_cut(adapter: Adapter) -> None:
    page = b"<html>" + b"bad gateway " * 1000
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)
    async with raw_server(head + page) as port:
        error = await adapter.error(FakeLLM(port=port))
    assert type(error) is errors.ProviderBusy
    assert "bad gateway" in str(error)
    assert len(str(error)) <= 500


# -- connections -----------------------------------------------------------------------------------


async def test_cancelling_a_call_closes_its_connection(adapter: Adapter, stream: bool) -> None:
    async with FakeLLM(faults="hang@0") as llm, adapter.open(llm, stream=stream) as provider:
        call = asyncio.create_task(provider.call(HI))
        await llm.until(lambda: llm.in_flight == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await llm.until(lambda: llm.in_flight == 0)
    assert llm.calls[0].status == CLIENT_LEFT


async def test_cancelling_a_call_within_its_stream_closes_its_connection(adapter: Adapter) -> None:
    said = Reply("word " * 4000, latency=60.0)
    async with FakeLLM(reply=said, chunk_tokens=1) as llm, adapter.open(llm) as provider:
        assert isinstance(provider, HttpProvider)
        reply = provider.codec.reply()
        provider.codec.reply = lambda: reply  # type: ignore[assignment,misc]  # to see it come in
        call = asyncio.create_task(provider.call(HI))
        await llm.until(lambda: bool(reply.text))
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await llm.until(lambda: llm.in_flight == 0)
    assert llm.calls[0].status == CLIENT_LEFT


async def test_hundreds_of_calls_are_in_flight_at_once(adapter: Adapter) -> None:
    async with FakeLLM(faults="hang:1") as llm, adapter.open(llm, timeout=60.0) as provider:
        calls = [asyncio.create_task(provider.call(HI)) for _ in range(AT_ONCE)]
        try:
            await llm.until(lambda: llm.in_flight == AT_ONCE, timeout=30.0)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await llm.until(lambda: llm.in_flight == 0)


async def test_one_connection_carries_one_call_after_the_other(adapter: Adapter, stream: bool) -> None:
    async with counting_proxy() as proxy, FakeLLM() as llm:
        proxy.port_behind = llm.port
        front = FakeLLM(port=proxy.port)
        async with adapter.open(front, stream=stream) as provider:
            for _ in range(3):
                await provider.call(HI)
    assert (llm.count, proxy.connections) == (3, 1)


async def test_two_models_go_each_to_its_own_server(adapter: Adapter) -> None:
    async with (
        FakeLLM(reply="one") as first,
        FakeLLM(reply="two") as second,
        adapter.open(first) as one,
        adapter.open(second, model="large-1") as two,
    ):
        answers = await asyncio.gather(one.call(HI), two.call(HI))
    assert [answer.text for answer in answers] == ["one", "two"]
    assert [first.calls[0].model, second.calls[0].model] == ["small-1", "large-1"]


# -- keys and settings -----------------------------------------------------------------------------


async def test_the_key_of_the_environment_is_sent_and_no_other(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        *("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        *("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    ):
        monkeypatch.setenv(name, "sk-of-someone-else")
    async with FakeLLM(api_key=KEY) as llm, adapter.open(llm, api_key_env="THE_KEY") as provider:
        assert (await provider.call(HI)).text
    async with FakeLLM(api_key="sk-of-someone-else") as llm:
        assert type(await adapter.error(llm)) is errors.NotAllowed


@pytest.mark.parametrize("fault", ["401@0", "cut@0", "garbage@0", "hang@0"])
async def test_the_key_is_in_no_error_and_no_log(
    adapter: Adapter, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeLLM(faults=fault) as llm:
        error = await adapter.error(llm, api_key_env="THE_KEY", timeout=0.2)
        async with adapter.open(llm, api_key_env="THE_KEY") as provider:
            shown = [repr(provider), *shown_of(error), caplog.text]
    assert not [text for text in shown if KEY in text]


async def test_a_key_that_the_provider_repeats_is_hidden(adapter: Adapter) -> None:
    told = b'{"error":{"message":"Incorrect API key provided: ' + KEY.encode() + b'"}}'
    head = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(
        told
    )
    async with raw_server(head + told) as port:
        error = await adapter.error(FakeLLM(port=port), api_key_env="THE_KEY")
    assert "Incorrect API key provided: ***" in str(error)
    assert not [text for text in shown_of(error) if KEY in text]


def shown_of(error: LLMError) -> list[str]:
    """All that anyone may print of an error."""
    return [str(error), repr(error), repr(error.detail), "".join(traceback.format_exception(error))]


def test_a_server_of_ones_own_needs_no_key(adapter: Adapter) -> None:
    assert key_of("small", ModelConfig(provider=adapter.name, base_url="http://127.0.0.1:1"), {}) is None


def test_a_missing_key_is_named_with_its_variable(adapter: Adapter) -> None:
    named = ModelConfig(provider=adapter.name, api_key_env="THE_KEY")
    for env in ({}, {"THE_KEY": ""}, {"THE_KEY": " \n"}):
        with pytest.raises(ConfigError, match="'small' needs its key in the environment variable THE_KEY"):
            check_model("small", named, env)
    with pytest.raises(ConfigError, match=providers.ADAPTERS[adapter.name].key_env):
        open_provider("small", ModelConfig(provider=adapter.name), {"THE_KEY": KEY})


def test_a_key_may_end_in_a_line_break_but_not_hold_one(adapter: Adapter) -> None:
    named = ModelConfig(provider=adapter.name, api_key_env="THE_KEY")
    assert key_of("small", named, {"THE_KEY": KEY + "\n"}) == KEY
    with pytest.raises(ConfigError) as raised:
        check_model("small", named, {"THE_KEY": KEY + "\nx"})
    assert KEY not in str(raised.value)


def test_a_package_that_is_not_there_is_named_with_what_installs_it(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'aios-dist\[worker\]'"):
        check_model("small", ModelConfig(provider=adapter.name, base_url="http://127.0.0.1:1"), {})


def test_an_address_that_is_none_is_refused(adapter: Adapter) -> None:
    with pytest.raises(ConfigError, match="must start with http"):
        check_model("small", ModelConfig(provider=adapter.name, base_url="127.0.0.1:8000/v1"), {})


@pytest.mark.parametrize("provider", ["opnai", "no_such_package:Provider", f"{__name__}:Nobody"])
def test_an_unknown_provider_is_refused(provider: str) -> None:
    with pytest.raises(ConfigError, match="'small'"):
        check_model("small", ModelConfig(provider=provider), {})


class Echo:
    """A provider of a user's own."""

    name = "echo"

    def __init__(self, name: str, model: ModelConfig, env: dict[str, str]) -> None:
        self.opened = (name, model, env)


def test_a_class_of_ones_own_is_opened_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        __import__("sys").modules, "echo_of_ours", __import__("types").SimpleNamespace(Echo=Echo)
    )
    model = ModelConfig(provider="echo_of_ours:Echo")
    provider = open_provider("small", model, {"A": "b"})
    assert isinstance(provider, Echo)
    assert provider.opened == ("small", model, {"A": "b"})


# -- servers that the fake LLM is not --------------------------------------------------------------


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[int]:
    """A server that answers every request with these bytes and hangs up; gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    async with server:
        yield server.sockets[0].getsockname()[1]


class CountingProxy:
    """Passes bytes on to ``port_behind`` and counts the connections."""

    port = port_behind = connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        behind_reader, behind_writer = await asyncio.open_connection("127.0.0.1", self.port_behind)
        await asyncio.gather(_pass_on(reader, behind_writer), _pass_on(behind_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def counting_proxy() -> AsyncIterator[CountingProxy]:
    proxy = CountingProxy()
    server = await asyncio.start_server(proxy.serve, "127.0.0.1")
    proxy.port = server.sockets[0].getsockname()[1]
    async with server:
        yield proxy
