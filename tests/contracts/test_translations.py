"""A request goes to either protocol, as its author or a fallback wants: translated, or left out and said."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import (
    BadRequest,
    CallTimeout,
    ConfigError,
    ContentRefused,
    NotAllowed,
    ProviderBusy,
    RateLimited,
)
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.program.commands import llm
from aios_dist.testing import FakeLLM
from aios_dist.worker.providers import check_model, open_provider, to_anthropic, to_openai
from aios_dist.worker.providers.calling import HttpProvider
from aios_dist.worker.providers.refusals import refusal, retry_after_s

FUNCTION = {"name": "now", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]
ANTHROPICS = {"name": "now", "input_schema": {"type": "object"}}
PICTURE = "data:image/png;base64,AAAA"
INLINE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
PDF = "data:application/pdf;base64,AAAA"


def opened(kind: str, **settings: Any) -> HttpProvider:
    model = ModelConfig(**{"provider": kind, "model": "m", "base_url": "http://127.0.0.1:1", **settings})
    made = open_provider("small", model, {"THE_KEY": "sk-test-0123456789"})
    assert isinstance(made, HttpProvider)
    return made


@functools.cache
def closed(kind: str, base_url: str | None = "http://127.0.0.1:1") -> HttpProvider:
    """One that calls nobody."""
    return opened(kind, base_url=base_url, api_key_env="THE_KEY")


def asked(kind: str, request: LLMRequest, **settings: Any) -> tuple[dict[str, Any], list[str]]:
    """The body without what is in all of them, and what was left out."""
    left_out: list[str] = []
    body = closed(kind, **settings).codec.body(request, left_out)
    return {k: v for k, v in body.items() if k not in ("model", "stream")}, left_out


def options(kind: str, **given: Any) -> tuple[dict[str, Any], list[str]]:
    body, left_out = asked(kind, llm("q", **given).request)
    return {k: v for k, v in body.items() if k not in ("messages", "extra_headers")}, left_out


def talk(kind: str, *messages: dict[str, Any]) -> Any:
    return asked(kind, LLMRequest(list(messages)))[0]["messages"]


# OpenAI's words for Anthropic -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent", "left_out"),
    [
        ({"stop": "END"}, {"stop_sequences": ["END"]}, []),
        ({"stop": ["a", "\n"]}, {"stop_sequences": ["a"]}, ["stop at white space"]),
        ({"stop_sequences": ["b"], "stop": ["a"]}, {"stop_sequences": ["b", "a"]}, []),
        ({"max_completion_tokens": 5}, {"max_tokens": 5}, []),
        ({"seed": 1, "logprobs": True, "top_p": 0.5}, {"top_p": 0.5}, ["logprobs", "seed"]),
        ({"logprobs": False, "n": 1, "stream_options": {}}, {}, []),
        ({"seed": 0, "frequency_penalty": 0, "top_logprobs": 0}, {}, ["seed"]),
        ({"user": "u"}, {"metadata": {"user_id": "u"}}, []),
        ({"user": "u", "metadata": {"a": "b"}}, {"metadata": {"user_id": "u"}}, ["metadata"]),
        ({"temperature": 1.5}, {"temperature": 1.0}, ["temperature above 1"]),
        ({"service_tier": "default"}, {"service_tier": "standard_only"}, []),
        ({"service_tier": "flex"}, {}, ["service_tier"]),
        ({"reasoning_effort": "low"}, {}, ["reasoning_effort"]),
        ({"thinking": {"type": "enabled"}, "top_k": 5}, {"thinking": {"type": "enabled"}, "top_k": 5}, []),
        (
            {"tools": TOOLS, "tool_choice": "auto"},
            {"tools": [ANTHROPICS], "tool_choice": {"type": "auto"}},
            [],
        ),
        (
            {"tools": TOOLS, "parallel_tool_calls": False},
            {"tools": [ANTHROPICS], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            [],
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}},
            {"tools": [ANTHROPICS], "tool_choice": {"type": "tool", "name": "now"}},
            [],
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools"}},
            {"tools": [ANTHROPICS]},
            ["tool_choice allowed_tools"],
        ),
        ({"tools": [], "tool_choice": "none", "parallel_tool_calls": False}, {}, []),
        (
            {"functions": [FUNCTION], "function_call": {"name": "now"}},
            {"tools": [ANTHROPICS], "tool_choice": {"type": "tool", "name": "now"}},
            [],
        ),
    ],
    ids=str,
)
def test_anthropic_is_asked_in_its_own_words_and_what_it_has_none_for_is_left_out_and_said(
    given: dict[str, Any], sent: dict[str, Any], left_out: list[str]
) -> None:
    assert options("anthropic", **given) == ({"max_tokens": 4096, **sent}, left_out)


def test_a_conversation_in_all_of_openais_words_is_one_that_anthropic_takes() -> None:
    call = {"name": "now", "arguments": '{"zone":"PET"}'}
    request = LLMRequest(
        [
            {"role": "user", "content": "hi", "name": "ann"},
            {"role": "assistant", "content": None},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
            {
                "role": "user",
                "content": [
                    "plain",
                    {"type": "text", "text": ""},
                    {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
                    {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
                ],
            },
            {"role": "assistant", "content": "", "function_call": call},
            {"role": "function", "name": "now", "content": "noon"},
        ]
    )
    body, left_out = asked("anthropic", request)
    source = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    assert body["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [{"type": "text", "text": "No."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "plain"},
                {"type": "image", "source": INLINE},
                {"type": "document", "source": source, "title": "a.pdf"},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "call_3", "name": "now", "input": {"zone": "PET"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_3", "content": "noon"}]},
    ]
    assert left_out == ["names of speakers", "detail of pictures"]
    assert (body["tools"], body["tool_choice"]) == (
        [{"name": "now", "input_schema": {"type": "object", "properties": {}}}],
        {"type": "none"},
    ), "Anthropic insists on the tools that a conversation has called; OpenAI may not call them"


def test_what_was_refused_is_said_and_a_field_of_a_message_without_a_counterpart_is_left_out() -> None:
    request = LLMRequest(
        [
            {"role": "user", "content": "q", "cache_control": {"type": "ephemeral"}},
            {"role": "assistant", "content": None, "refusal": "No.", "annotations": []},
        ]
    )
    body, left_out = asked("anthropic", request)
    assert [message["content"] for message in body["messages"]] == ["q", "No."]
    assert left_out == ["cache_control of messages"]


def test_what_the_system_says_in_several_messages_is_one_prompt_of_anthropics() -> None:
    body, _ = asked(
        "anthropic",
        LLMRequest(
            [
                {"role": "system", "content": "Be brief."},
                {"role": "developer", "content": "Be kind."},
                {"role": "user", "content": "q"},
            ]
        ),
    )
    assert body["system"] == "Be brief.\n\nBe kind."
    assert body["messages"] == [{"role": "user", "content": "q"}]


def test_the_results_of_calls_that_were_made_together_come_in_one_message_of_anthropics() -> None:
    calls = [
        {"id": id, "type": "function", "function": {"name": "now", "arguments": ""}} for id in ("a", "b")
    ]
    sent = talk(
        "anthropic",
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
        {"role": "tool", "tool_call_id": "b", "content": "one"},
    )
    assert [[part["tool_use_id"] for part in sent[2]["content"]], len(sent)] == [["a", "b"], 3]


def test_what_is_left_out_more_than_once_is_said_once_and_a_tool_may_have_no_parameters() -> None:
    detailed = {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}}
    tools = [{"type": "function", "function": {"name": "now", "description": "the time", "strict": True}}]
    body, left_out = asked(
        "anthropic", llm(messages=[{"role": "user", "content": [detailed, detailed]}], tools=tools).request
    )
    assert left_out == ["detail of pictures"]
    empty = {"type": "object", "properties": {}}
    assert body["tools"] == [
        {"name": "now", "description": "the time", "strict": True, "input_schema": empty}
    ]


@pytest.mark.parametrize("url", ["data:image/png;name=a.png;base64,AAAA", "DATA:image/png;base64,AAAA"])
def test_a_picture_in_any_form_of_a_data_url_is_inline(url: str) -> None:
    part = {"type": "image_url", "image_url": {"url": url}}
    sent = talk("anthropic", {"role": "user", "content": [part]})
    assert sent[0]["content"] == [{"type": "image", "source": INLINE}]


@pytest.mark.parametrize(
    "request_",
    [
        LLMRequest([{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]),
        LLMRequest([{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]),
        LLMRequest([{"role": "user", "content": [{"type": "audio_url", "audio_url": {"url": "x"}}]}]),
        LLMRequest([{"role": "assistant", "tool_calls": [{"id": "c", "type": "custom", "custom": {}}]}]),
        LLMRequest([{"role": "user", "content": "q"}], response_format={"type": "json_object"}),
        LLMRequest([{"role": "user", "content": "q"}], tools=[{"type": "custom", "custom": {"name": "x"}}]),
    ],
    ids=range(6),
)
def test_a_question_that_anthropic_cannot_be_asked_is_refused_and_may_go_to_another_model(
    request_: LLMRequest,
) -> None:
    with pytest.raises(BadRequest, match="anthropic has no") as caught:
        asked("anthropic", request_)
    assert caught.value.detail["unsayable"] is True


@pytest.mark.parametrize(
    "odd", [{"tool_calls": "x"}, {"tool_calls": [None]}, {"content": [{"type": "file"}]}]
)
async def test_a_message_of_no_known_form_is_one_sentence_and_no_fault_of_the_adapter(odd: Any) -> None:
    with pytest.raises(BadRequest, match=r"^anthropic (cannot be asked this: a message|has no file)"):
        await closed("anthropic").call(LLMRequest([{"role": "assistant", **odd}]))


def test_content_that_is_neither_text_nor_a_list_is_passed_for_the_provider_to_refuse() -> None:
    assert talk("anthropic", {"role": "user", "content": {"a": 1}})[0]["content"] == [{"a": 1}]


# Anthropic's words for OpenAI -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"stop_sequences": ["b"]}, {"stop": ["b"]}),
        ({"stop_sequences": ["b"], "stop": "a"}, {"stop": ["a", "b"]}),
        ({"stop_sequences": ["b"], "stop": ["a"]}, {"stop": ["a", "b"]}),
        (
            {"tools": [ANTHROPICS], "tool_choice": {"type": "any"}},
            {"tools": TOOLS, "tool_choice": "required"},
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
            {"tools": TOOLS, "tool_choice": "auto", "parallel_tool_calls": False},
        ),
        (
            {"tool_choice": {"type": "tool", "name": "now"}},
            {"tool_choice": {"type": "function", "function": {"name": "now"}}},
        ),
        ({"top_k": 5, "thinking": {"type": "enabled"}}, {"top_k": 5, "thinking": {"type": "enabled"}}),
    ],
    ids=str,
)
def test_what_openais_protocol_cannot_be_is_translated_and_the_rest_passes(
    given: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert options("openai", **given) == (sent, [])


def test_openai_itself_gets_no_options_of_anthropics_and_no_tools_that_anthropic_runs() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    request = llm("q", top_k=5, thinking={"type": "enabled"}, tools=[search, *TOOLS]).request
    body, left_out = asked("openai", request, base_url=None)
    assert {k: v for k, v in body.items() if k != "messages"} == {"tools": TOOLS}
    assert left_out == ["thinking", "top_k", "tool web_search"]


def test_a_conversation_with_anthropics_blocks_is_one_that_openai_takes() -> None:
    user: dict[str, Any] = {"role": "user", "content": [{"type": "image", "source": INLINE}]}
    uses = {"type": "tool_use", "id": "c1", "name": "now", "input": {"zone": "PET"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "c1",
        "content": [{"type": "text", "text": "noon"}, {"type": "image", "source": INLINE}],
    }
    shown = {"type": "image_url", "image_url": {"url": PICTURE}}
    plain = {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]}
    assert talk(
        "openai",
        plain,
        user,
        {"role": "assistant", "content": [{"type": "thinking"}, {"type": "text", "text": "Let me."}, uses]},
        {"role": "user", "content": [result, {"type": "text", "text": "So?"}]},
    ) == [
        plain,
        {"role": "user", "content": [shown]},
        {
            "role": "assistant",
            "content": "Let me.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"zone":"PET"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        {"role": "user", "content": [shown, {"type": "text", "text": "So?"}]},
    ]


def test_pictures_by_address_and_files_with_their_titles_are_openais_too() -> None:
    document = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    blocks = [
        {"type": "image", "source": {"type": "url", "url": "https://host/a.png"}},
        {"type": "document", "title": "a.pdf", "source": document},
        {"type": "document", "source": document},
    ]
    assert talk("openai", {"role": "user", "content": blocks})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "https://host/a.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
        {"type": "file", "file": {"filename": "document", "file_data": PDF}},
    ]


def test_all_that_anthropics_definition_of_a_tool_says_is_said_to_openai() -> None:
    told = {"name": "now", "description": "the time", "strict": True}
    sent, _ = options("openai", tools=[{**told, "input_schema": {"type": "object"}, "cache_control": {}}])
    assert sent["tools"] == [{"type": "function", "function": {**told, "parameters": {"type": "object"}}}]


def test_what_a_tools_result_holds_is_sent_or_said_and_no_url_is_made_of_nothing() -> None:
    told = ["noon", {"type": "text", "text": "PET"}, {"type": "search_result", "content": "x"}]
    result = {"type": "tool_result", "tool_use_id": "c1", "content": told}
    body, left_out = asked("openai", LLMRequest([{"role": "user", "content": [result]}]))
    assert body["messages"] == [{"role": "tool", "tool_call_id": "c1", "content": "noon\nPET"}]
    assert left_out == ["search_result of a tool's result"]
    kept = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    assert talk("openai", {"role": "user", "content": [kept]})[0]["content"] == [kept]


# What is said, and what bounds a call -----------------------------------------------------------------


async def test_what_is_left_out_stands_in_the_answer_and_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = llm("q", seed=1, logit_bias={"1": 2}).request
    async with FakeLLM() as server:
        provider = opened("anthropic", base_url=server.root)
        with caplog.at_level(logging.WARNING, "aios_dist"):
            answers = [await provider.call(request) for _ in range(2)]
        await provider.aclose()
    assert [answer.left_out for answer in answers] == [("logit_bias", "seed")] * 2
    (said,) = [record.getMessage() for record in caplog.records if "is asked without" in record.getMessage()]
    assert "Model small is asked without logit_bias, seed: anthropic has no word for that." in said


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_timeout_of_a_call_bounds_it_and_is_not_sent(kind: str) -> None:
    async with FakeLLM() as server:
        where = server.url if kind == "openai" else server.root
        provider = opened(kind, base_url=where, timeout=20.0, options={"user": "u"})
        answer: LLMResponse = await provider.call(llm("q", timeout=20, user=None).request)
        assert answer.text
        assert "timeout" not in server.calls[0].body
        assert server.calls[0].body.get("user", server.calls[0].body.get("metadata")) in (
            "u",
            {"user_id": "u"},
        )
        server.script(latency=30.0)
        with pytest.raises(CallTimeout, match=r"within the call's own timeout of 0\.2 s") as caught:
            async with asyncio.timeout(10):
                await provider.call(llm("q", timeout=0.2).request)
        assert caught.value.detail["own"] is True
        await provider.aclose()
        hasty = opened(kind, base_url=where, timeout=0.2)
        with pytest.raises(CallTimeout, match=r"the model's timeout of 0\.2 s") as caught:
            await hasty.call(llm("q", timeout=20).request)
        assert "own" not in caught.value.detail
        await hasty.aclose()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"timeout": 5}, "timeout is a setting of the model itself"),
        ({"stream": "yes"}, "of its options, stream must be True or False"),
        ({"extra_body": [1]}, "of its options, extra_body must be a dict"),
        ({"temperature": 9e9}, "of its options, temperature must be a number from 0 to 1000"),
        ({"max_tokens": -4}, "of its options, max_tokens must be a whole number from 1"),
        ({"max_token": 5}, "of its options, there is no option 'max_token'; did you mean max_tokens?"),
        ({"messages": []}, "of its options, messages is the call's own"),
    ],
    ids=str,
)
def test_options_in_the_file_are_checked_as_those_of_a_call(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check_model("small", ModelConfig(base_url="http://127.0.0.1:1", options=settings), {})


# Refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "2m"}, 120.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e300"}, None),
        ({"retry-after": "9999-12-31T23:59:59-14:00"}, None),
        ({"retry-after": "2764800"}, None),
        ({"retry-after": "2764799"}, 2764799.0),
        ({"retry-after": "soon"}, None),
        (
            {"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"},
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0.0),
        ({}, None),
    ],
    ids=str,
)
def test_when_to_ask_again_is_read_in_each_form_and_never_before_now(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after_s(headers, time.time()) == seconds


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (429, {"type": "insufficient_quota"}, NotAllowed),
        (400, {"message": "Your credit balance is too low."}, NotAllowed),
        (400, {"code": "content_filter"}, ContentRefused),
        (409, {"message": "busy"}, ProviderBusy),
        (402, {"message": "pay"}, NotAllowed),
        (422, {"message": "odd"}, BadRequest),
    ],
)
def test_what_a_refusal_means_is_more_than_its_number(status: int, error: Any, kind: type[Exception]) -> None:
    assert type(refusal("p", status, {"error": error}, {}, "m", 0.0)) is kind
    assert type(refusal("p", status, [{"error": error}], {}, "m", 0.0)) is kind, "in a list, as Gemini's"


def test_a_request_that_alone_is_above_a_limit_waits_for_nothing_and_holds_nobody() -> None:
    said = (
        "Request too large for gpt on tokens per min (TPM): Limit 30,000, Requested {}. It must be reduced."
    )
    large = refusal("p", 429, {"error": {"message": said.format("41000")}}, {}, "m", 0.0)
    assert (type(large), large.detail["unsayable"]) == (BadRequest, True)
    later = refusal("p", 429, {"error": {"message": said.format("20000")}}, {}, "m", 0.0)
    assert type(later) is RateLimited


# What is appended ---------------------------------------------------------------------------------

OWN = {
    "role": "assistant",
    "content": "hi",
    "reasoning_content": "hm",
    "annotations": [],
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "now", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "SIG"}},
        }
    ],
}


def test_what_a_server_has_of_its_own_goes_back_to_it_and_not_to_openai_itself() -> None:
    left_out: list[str] = []
    assert to_openai.messages([OWN], left_out) == [OWN]
    (sent,) = to_openai.messages([OWN], left_out, itself=True)
    assert sent.keys() == {"role", "content", "annotations", "tool_calls"}
    assert [set(call) for call in sent["tool_calls"]] == [{"id", "type", "function"}]
    assert left_out == ["reasoning_content of messages"]


SEARCHED = [
    {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "q"}},
    {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
    {"type": "text", "text": "fine", "citations": [{"url": "https://a.example"}]},
]


def test_what_anthropic_ran_itself_is_left_out_elsewhere() -> None:
    left_out: list[str] = []
    assert to_openai.messages([{"role": "assistant", "content": SEARCHED}], left_out) == [
        {"role": "assistant", "content": "fine"}
    ]
    assert left_out == ["server_tool_use of earlier answers", "web_search_tool_result of earlier answers"]


def test_mistrals_thoughts_go_back_to_it_and_to_nobody_else() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    message = {"role": "assistant", "content": [thought, {"type": "text", "text": "fine"}]}
    left_out: list[str] = []
    assert to_openai.messages([message], left_out) == [message]
    assert left_out == []
    assert to_openai.messages([message], left_out, itself=True) == [{"role": "assistant", "content": "fine"}]
    sent, _ = to_anthropic.messages([message], left_out)
    assert sent == [{"role": "assistant", "content": [{"type": "text", "text": "fine"}]}]
    assert left_out == ["thinking of earlier answers"]


def test_calls_beside_a_content_of_nothing_but_thoughts_are_kept() -> None:
    message = {**OWN, "content": [{"type": "thinking", "thinking": "hm"}]}
    (sent,) = to_openai.messages([message], [])
    assert (sent["content"], sent["tool_calls"]) == (None, OWN["tool_calls"])


def test_white_space_is_no_answer_for_anthropic() -> None:
    body, _ = asked(
        "anthropic", LLMRequest([{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}])
    )
    assert body["messages"] == [{"role": "user", "content": "q"}]
