"""Each codec against the official SDK of its provider, and that it reads bytes as they come."""

from __future__ import annotations

import json
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import httpx2
import pydantic
import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import LLMError
from aios_dist.model.calls import LLMRequest, Timings
from aios_dist.testing import FakeLLM, Reply, ToolCall
from aios_dist.worker.providers import ADAPTERS
from aios_dist.worker.providers import codec as codecs
from aios_dist.worker.providers.codec import Asked, Codec
from aios_dist.worker.providers.gemini import GeminiCodec
from aios_dist.worker.providers.openai import OpenAICodec
from tests.contracts.odd_kinds import KINDS, Case
from tests.contracts.odd_newer import NEWER
from tests.contracts.odder_kinds import ODDER
from tests.sdks import anthropic, openai

KEY = "sk-test-0123456789abcdef"
CODECS: dict[str, type[Codec]] = {
    name: pkgutil.resolve_name(adapter.place) for name, adapter in ADAPTERS.items()
}
SAID = [
    {"role": "system", "content": "Be brief – ¡sí!"},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}]},
]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
MATTER = ("accept", "anthropic-version", "authorization", "content-type", "x-goog-api-key", "x-team")
"""Headers by which a server tells one request from another; others name the program, or are the line's."""


def codec(kind: str, base_url: str | None = None, **settings: Any) -> Codec:
    return CODECS[kind]("m", ModelConfig(provider=kind, model="small-1", base_url=base_url, **settings), KEY)


async def sent_by_the_sdk(kind: str, base_url: str | None, body: dict[str, Any], **extra: Any) -> Any:
    """The request that the official SDK makes of these fields."""
    requests: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        requests.append(request)
        return httpx2.Response(500)

    http = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    if kind == "gemini":
        await _sent_by_googles(http, base_url, body, **extra)
        return requests[0]
    sdk: Any = anthropic if kind == "anthropic" else openai
    made: Any = anthropic.AsyncAnthropic if kind == "anthropic" else openai.AsyncOpenAI
    async with made(api_key=KEY, base_url=base_url, max_retries=0, http_client=http) as client:
        create = {
            "openai": lambda: client.chat.completions.create,
            "openai-responses": lambda: client.responses.create,
            "anthropic": lambda: client.messages.create,
        }[kind]()
        with pytest.raises(sdk.InternalServerError):
            await create(**body, **extra)
    return requests[0]


async def _sent_by_googles(
    http: httpx2.AsyncClient,
    base_url: str | None,
    body: dict[str, Any],
    stream: bool,
    extra_headers: Any = None,
    extra_body: Any = None,
) -> None:
    from google import genai  # half a second
    from google.genai import errors, types

    place, _, version = (base_url or GeminiCodec.address).rstrip("/").rpartition("/")
    options = types.HttpOptions(
        base_url=place,
        api_version=version,
        httpx_async_client=http,
        headers=extra_headers,
        extra_body=extra_body,
    )
    models = genai.Client(api_key=KEY, http_options=options).aio.models
    more = body.get("generationConfig", {})
    config = more | {k: v for k, v in body.items() if k not in ("contents", "generationConfig")}
    asked: Any = {"model": "small-1", "contents": body["contents"], "config": config}
    if not stream:
        with pytest.raises(errors.ServerError):
            await models.generate_content(**asked)
        return
    pieces = await models.generate_content_stream(**asked)
    with pytest.raises(errors.ServerError):
        await anext(pieces)


CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"PET"}'}}
TALK = [
    *SAID,
    {
        "role": "user",
        "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        ],
    },
    {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "noon"},
]
REQUESTS = {
    "plain": LLMRequest(SAID),
    "talk": LLMRequest(
        TALK,
        tools=TOOLS,
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
        extra={"stop": ["END"]},
    ),
    "options": LLMRequest(SAID, max_tokens=7, tools=TOOLS, extra={"tool_choice": "required"}),
    "sampled": LLMRequest(SAID, temperature=0.25),
    "extra": LLMRequest(
        SAID,
        extra={
            "extra_headers": {"X-Team": "blue"},
            "extra_query": {"api-version": "1-5", "a": True, "b": [1, "x y"], "c": {"d": None, "e": 1.5}},
            "extra_body": {"odd": {"deep": [1, None]}},
        },
    ),
}  # fmt: skip


def camel(value: Any) -> Any:
    """Names as JSON has them: Google's SDK leaves some as Python has them, and its servers take both."""
    if isinstance(value, dict):
        return {re.sub(r"_(\w)", lambda m: m[1].upper(), name): camel(value[name]) for name in value}
    return [camel(entry) for entry in value] if isinstance(value, list) else value


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:1/a b/v1/"])
@pytest.mark.parametrize("kind", CODECS)
async def test_what_is_sent_is_what_the_official_sdk_sends(
    kind: str, base_url: str | None, request_: LLMRequest, stream: bool
) -> None:
    asked = codec(kind, base_url, stream=stream).encode(request_)
    body = json.loads(asked.body)
    odd = {"odd": body.pop("odd")} if "odd" in body else {}
    extra = {k: v for k, v in request_.extra.items() if k in ("extra_headers", "extra_query")}
    extra["extra_body"] = odd
    matter = MATTER
    if "temperature" in body and kind == "anthropic":
        extra["extra_body"] = {"temperature": body.pop("temperature")}  # the SDK has no word for it any more
        extra["extra_headers"] = {"anthropic-version": asked.headers["anthropic-version"]}
    if kind == "gemini":
        matter = MATTER[1:]  # its SDK takes anything
        extra = {"extra_headers": extra.get("extra_headers"), "extra_body": odd or None, "stream": stream}
    theirs = await sent_by_the_sdk(kind, base_url, body, **extra)
    assert theirs.method == "POST"
    mine = httpx2.URL(asked.url)
    queries = list(mine.params.multi_items())
    if kind == "gemini":  # whose SDK lets nobody add to it
        queries = queries[: int(stream)]
    assert (mine.copy_with(query=None), queries) == (
        theirs.url.copy_with(query=None),
        list(theirs.url.params.multi_items()),
    )
    assert {k: asked.headers.get(k) for k in matter} == {k: theirs.headers.get(k) for k in matter}
    sent = json.loads(theirs.content)
    if kind == "gemini":
        sent = camel({name: value for name, value in sent.items() if value})
    assert json.loads(asked.body) == sent
    assert asked.streams is stream
    if kind == "openai-responses":  # whose SDK sends anything, and has its forms beside
        from openai.types.responses import response_create_params as forms

        pydantic.TypeAdapter(forms.ResponseCreateParamsNonStreaming).validate_python(sent | {"stream": False})


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # the SDK's own
async def test_the_fake_llm_says_what_googles_sdk_reads_whole_and_streamed() -> None:
    from google import genai

    order = Reply("I look it up.", tool_calls=(ToolCall("find", {"city": "Lima"}, id="c1"),))

    async def ask(key: str = "right", **more: Any) -> Any:
        client = genai.Client(api_key=key, http_options=genai.types.HttpOptions(base_url=llm.root)).aio
        try:
            asked = {"model": "big", "contents": "hi there", "config": {"system_instruction": "Be brief."}}
            whole = await client.models.generate_content(**asked | more)
            pieces = [piece async for piece in await client.models.generate_content_stream(**asked | more)]
            return whole, pieces
        finally:
            await client.aclose()

    async with FakeLLM(reply=order, api_key="right") as llm:
        whole, pieces = await ask()
        assert "".join(piece.text or "" for piece in pieces) == whole.text == "I look it up."
        for answer in (whole, pieces[-1]):
            (call,) = answer.function_calls
            assert (call.id, call.name, call.args) == ("c1", "find", {"city": "Lima"})
            assert answer.candidates[0].finish_reason == "STOP"
            usage = answer.usage_metadata
            assert (usage.prompt_token_count, usage.candidates_token_count) == (5, order.tokens)
            assert answer.candidates[0].content.parts[-1].thought_signature == b"signed"
        with pytest.raises(genai.errors.ClientError, match="equal to the number of function call parts"):
            await ask(contents=[{"parts": [{"function_response": {"name": "x", "response": {}}}]}])
        llm.script(faults="429:1")
        with pytest.raises(genai.errors.ClientError, match="RESOURCE_EXHAUSTED"):
            await ask()
        with pytest.raises(genai.errors.ClientError, match="401 UNAUTHENTICATED"):
            await ask("wrong")
    assert {call.protocol for call in llm.calls} == {"gemini"}
    assert (llm.calls[0].model, [call.stream for call in llm.calls[:2]]) == ("big", [False, True])
    assert llm.calls[0].messages[0]["role"] == "system"


def test_the_version_of_the_api_is_the_sdks_and_the_names_of_programs_are_ours() -> None:
    headers = codec("anthropic").encode(REQUESTS["plain"], "job-1/0").headers
    assert headers["user-agent"].startswith("aios-dist/")
    assert headers["idempotency-key"] == "job-1/0"
    assert not [name for name in headers if name.startswith("x-stainless")]


def url_of(base_url: str, kind: str = "openai", **extra: Any) -> str:
    return codec(kind, base_url).encode(LLMRequest(SAID, extra=extra)).url


def test_an_address_may_have_a_query_of_its_own_as_azures_has() -> None:
    azure = "https://x.openai.azure.com/openai/deployments/gpt?api-version=2026-05-01"
    wanted = "https://x.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2026-05-01"
    assert url_of(azure) == wanted
    assert url_of(azure, extra_query={"a": 1}) == wanted + "&a=1"
    assert url_of("http://127.0.0.1:1/", "anthropic") == "http://127.0.0.1:1/v1/messages"


def test_a_login_in_the_address_is_sent_as_such_where_there_is_no_key() -> None:
    model = ModelConfig(base_url="http://ann:s%40fe@127.0.0.1:1/v1")
    asked = OpenAICodec("m", model, None).encode(LLMRequest(SAID))
    assert (asked.url, asked.headers["authorization"]) == (
        "http://127.0.0.1:1/v1/chat/completions",
        "Basic YW5uOnNAZmU=",
    )
    with_key = OpenAICodec("m", model, KEY).encode(LLMRequest(SAID))
    assert with_key.headers["authorization"] == f"Bearer {KEY}"


def read(case: Case, answer: bytes, size: int) -> object:
    """What comes of an answer that comes in pieces of that size: no connection, no clock."""
    made = codec(case.adapter)
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    incoming = made.incoming(Asked("", {}, b"", case.stream, ()))
    incoming.head(int(status.split()[1]), headers)
    try:
        for at in range(0, len(body), size):
            incoming.feed(body[at : at + size])
            if incoming.over:
                break
        incoming.end()
        return made.answer(incoming.reply, (), Timings(0.0))
    except Exception as exc:
        error = made.error(exc, incoming, 1.8e9)
        assert isinstance(error, LLMError)
        return type(error), error.detail | {"raw": None}  # of which a larger piece has more


def plain_answers() -> Iterator[tuple[Case, bytes]]:
    for case in [*KINDS, *ODDER, *NEWER]:
        for answer in case.replies:
            head = answer.partition(b"\r\n\r\n")[0].lower()
            if head.startswith(b"http/1.1") and not any(w in head for w in (b"chunked", b"content-encoding")):
                yield case, answer


def test_an_answer_is_the_same_in_whatever_pieces_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs.secrets, "token_hex", lambda _: "made up")  # type: ignore[attr-defined]
    tried = 0
    for case, answer in plain_answers():
        whole = read(case, answer, len(answer))
        for size in (1, 7):
            assert read(case, answer, size) == whole, case.name
        tried += 1
    assert tried > 150
