"""Each codec against the official SDK of its provider, and that it reads bytes as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import LLMError
from aios_dist.model.calls import LLMRequest, Timings
from aios_dist.worker.providers import codec as codecs
from aios_dist.worker.providers.anthropic import AnthropicCodec
from aios_dist.worker.providers.codec import Asked, Codec
from aios_dist.worker.providers.openai import OpenAICodec
from tests.contracts.odd_kinds import KINDS, Case
from tests.contracts.odder_kinds import ODDER
from tests.sdks import anthropic, openai

KEY = "sk-test-0123456789abcdef"
CODECS: dict[str, type[Codec]] = {"openai": OpenAICodec, "anthropic": AnthropicCodec}
SAID = [
    {"role": "system", "content": "Be brief – ¡sí!"},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}]},
]
TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}]
MATTER = ("accept", "anthropic-version", "authorization", "content-type", "x-team")
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
    made: Any = openai.AsyncOpenAI if kind == "openai" else anthropic.AsyncAnthropic
    async with made(api_key=KEY, base_url=base_url, max_retries=0, http_client=http) as client:
        create = client.chat.completions.create if kind == "openai" else client.messages.create
        with pytest.raises((openai if kind == "openai" else anthropic).InternalServerError):
            await create(**body, **extra)
    return requests[0]


REQUESTS = {
    "plain": LLMRequest(SAID),
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
    if "temperature" in body and kind == "anthropic":
        extra["extra_body"] = {"temperature": body.pop("temperature")}  # the SDK has no word for it any more
        extra["extra_headers"] = {"anthropic-version": asked.headers["anthropic-version"]}
    theirs = await sent_by_the_sdk(kind, base_url, body, **extra)
    assert theirs.method == "POST"
    mine = httpx2.URL(asked.url)
    assert (mine.copy_with(query=None), list(mine.params.multi_items())) == (
        theirs.url.copy_with(query=None),
        list(theirs.url.params.multi_items()),
    )
    assert {k: asked.headers.get(k) for k in MATTER} == {k: theirs.headers.get(k) for k in MATTER}
    assert json.loads(asked.body) == json.loads(theirs.content)
    assert asked.streams is stream


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
    for case in [*KINDS, *ODDER]:
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
