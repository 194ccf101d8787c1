"""A request in the words of OpenAI's Responses and of Gemini, and what comes back of an answer in a talk."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aios_dist.config import ModelConfig
from aios_dist.errors import BadRequest
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.program.commands import llm
from aios_dist.testing import (
    FakeLLM,
    Reply,
    ToolCall,
    anthropic_protocol,
    gemini_protocol,
    openai_protocol,
    responses_protocol,
)
from aios_dist.testing.gemini_protocol import SIGNATURE
from aios_dist.worker.providers import ADAPTERS
from aios_dist.worker.providers.gemini import GeminiCodec
from aios_dist.worker.providers.to_gemini import UNSIGNED
from tests.contracts.odd_kinds import Case, reply
from tests.contracts.odd_newer import GOOD, REASONING, answer, call, called, message, refused, response
from tests.contracts.test_codecs import TALK, TOOLS, codec, read
from tests.contracts.test_lines import Server
from tests.contracts.test_translations import ANTHROPICS, FUNCTION, INLINE, PDF, PICTURE, opened

RESPONSES, GEMINI = "openai-responses", "gemini"
PROTOCOLS: dict[str, Any] = {
    "openai": openai_protocol,
    RESPONSES: responses_protocol,
    "anthropic": anthropic_protocol,
    GEMINI: gemini_protocol,
}
PARAMETERS = {"type": "object", "properties": {}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def asked(kind: str, request: LLMRequest) -> tuple[dict[str, Any], list[str]]:
    left_out: list[str] = []
    body = codec(kind).body(request, left_out)
    return {k: v for k, v in body.items() if k not in ("model", "stream")}, left_out


def options(kind: str, **given: Any) -> tuple[dict[str, Any], list[str]]:
    body, left_out = asked(kind, llm("q", **given).request)
    return {k: v for k, v in body.items() if k not in ("contents", "input")}, left_out


def talk(kind: str, *messages: dict[str, Any], **options: Any) -> Any:
    body, _ = asked(kind, LLMRequest(list(messages), extra=options))
    return body["input" if kind == RESPONSES else "contents"]


@pytest.mark.parametrize(
    ("given", "sent", "left_out"),
    [
        ({"max_tokens": 5, "temperature": 0.5}, {"max_output_tokens": 5, "temperature": 0.5}, []),
        ({"max_completion_tokens": 5, "top_p": 0.5}, {"max_output_tokens": 5, "top_p": 0.5}, []),
        ({"stop": "END", "seed": 0, "n": 1}, {}, ["seed", "stop"]),
        ({"logprobs": True, "frequency_penalty": 0}, {}, ["logprobs"]),
        ({"top_k": 5, "stop_sequences": ["a"]}, {}, ["top_k", "stop"]),
        ({"reasoning_effort": "low", "verbosity": "low"},
         {"reasoning": {"effort": "low"}, "text": {"verbosity": "low"}}, []),
        ({"reasoning": {"summary": "auto"}, "reasoning_effort": "low"},
         {"reasoning": {"summary": "auto", "effort": "low"}}, []),
        ({"stream_options": {"include_usage": True}}, {}, []),
        ({"stream_options": {"include_obfuscation": False}},
         {"stream_options": {"include_obfuscation": False}}, []),
        ({"response_format": {"type": "json_object"}}, {"text": {"format": {"type": "json_object"}}}, []),
        ({"response_format": SCHEMA},
         {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}}, []),
        ({"store": False}, {"store": False, "include": ["reasoning.encrypted_content"]}, []),
        ({"store": False, "include": []}, {"store": False, "include": []}, []),
        ({"store": True, "user": "u", "metadata": {"a": "b"}},
         {"store": True, "user": "u", "metadata": {"a": "b"}}, []),
        ({"background": True}, {}, ["background"]),
        ({"previous_response_id": "resp_1"}, {"previous_response_id": "resp_1"}, []),
        ({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False},
         {"tools": [{"type": "function", **FUNCTION, "strict": False}],
          "tool_choice": "required", "parallel_tool_calls": False}, []),
        ({"tools": [ANTHROPICS], "tool_choice": {"type": "tool", "name": "now"}},
         {"tools": [{"type": "function", **FUNCTION, "strict": False}],
          "tool_choice": {"type": "function", "name": "now"}}, []),
        ({"functions": [{"name": "now", "strict": True}], "function_call": {"name": "now"}},
         {"tools": [{"type": "function", "name": "now", "strict": True, "parameters": PARAMETERS}],
          "tool_choice": {"type": "function", "name": "now"}}, []),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [
            {"type": "function", "function": {"name": "now"}}]}}},
         {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [
             {"type": "function", "name": "now"}]}}, []),
        ({"tools": [{"type": "custom", "custom": {"name": "sh", "format": {
            "type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}}}]},
         {"tools": [{"type": "custom", "name": "sh", "format": {
             "type": "grammar", "syntax": "lark", "definition": "x"}}]}, []),
        ({"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
         {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}}, []),
    ],
    ids=str,
)  # fmt: skip
def test_responses_is_asked_in_its_own_words_and_what_it_has_none_for_is_left_out_and_said(
    given: dict[str, Any], sent: dict[str, Any], left_out: list[str]
) -> None:
    found, left = options(RESPONSES, **given)
    assert (found, sorted(left)) == (sent, sorted(left_out))


NOW = {"name": "now", "parametersJsonSchema": {"type": "object"}}


def calling(**config: Any) -> dict[str, Any]:
    return {
        "tools": [{"functionDeclarations": [NOW]}],
        "toolConfig": {"functionCallingConfig": config},
    }


@pytest.mark.parametrize(
    ("given", "sent", "left_out"),
    [
        ({"max_tokens": 5, "temperature": 1.5},
         {"generationConfig": {"maxOutputTokens": 5, "temperature": 1.5}}, []),
        ({"max_completion_tokens": 5, "top_p": 0.5, "top_k": 3, "seed": 0},
         {"generationConfig": {"maxOutputTokens": 5, "topP": 0.5, "topK": 3, "seed": 0}}, []),
        ({"stop": "END", "stop_sequences": ["b"]}, {"generationConfig": {"stopSequences": ["END", "b"]}}, []),
        ({"stop": ["a"], "presence_penalty": 0.5},
         {"generationConfig": {"stopSequences": ["a"], "presencePenalty": 0.5}}, []),
        ({"logprobs": True, "top_logprobs": 3},
         {"generationConfig": {"responseLogprobs": True, "logprobs": 3}}, []),
        ({"top_logprobs": 3, "n": 1, "stream_options": {}}, {}, []),
        ({"user": "u", "logit_bias": {"1": 2}, "reasoning_effort": "low"}, {},
         ["logit_bias", "reasoning_effort", "user"]),
        ({"thinking": {"type": "enabled"}}, {}, ["thinking"]),
        ({"thinkingConfig": {"thinkingLevel": "low"}, "safetySettings": []},
         {"generationConfig": {"thinkingConfig": {"thinkingLevel": "low"}}, "safetySettings": []}, []),
        ({"generationConfig": {"topK": 1}, "max_tokens": 5},
         {"generationConfig": {"topK": 1, "maxOutputTokens": 5}}, []),
        ({"service_tier": "auto"}, {}, []),
        ({"service_tier": "default"}, {"serviceTier": "standard"}, []),
        ({"response_format": {"type": "json_object"}},
         {"generationConfig": {"responseMimeType": "application/json"}}, []),
        ({"response_format": SCHEMA},
         {"generationConfig": {
             "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"}}}, []),
        ({"tools": TOOLS, "tool_choice": "auto"}, calling(mode="AUTO"), []),
        ({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}, calling(mode="ANY"),
         ["parallel_tool_calls"]),
        ({"tools": [ANTHROPICS], "tool_choice": {"type": "tool", "name": "now"}},
         calling(mode="ANY", allowedFunctionNames=["now"]), []),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {
            "mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}}},
         calling(mode="ANY", allowedFunctionNames=["now"]), []),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
         {"tools": [{"functionDeclarations": [NOW]}]}, ["tool_choice allowed_tools"]),
        ({"tools": [], "tool_choice": "none"}, {}, []),
        ({"tools": [{"googleSearch": {}}, {"type": "web_search"}]}, {"tools": [{"googleSearch": {}}]},
         ["tool web_search"]),
        ({"functions": [{"name": "now", "description": "d", "strict": True}]},
         {"tools": [{"functionDeclarations": [{"name": "now", "description": "d"}]}]}, ["strict of tools"]),
    ],
    ids=str,
)  # fmt: skip
def test_gemini_is_asked_in_its_own_words_and_what_it_has_none_for_is_left_out_and_said(
    given: dict[str, Any], sent: dict[str, Any], left_out: list[str]
) -> None:
    found, left = options(GEMINI, **given)
    assert (found, sorted(left)) == (sent, sorted(left_out))


LEGACY = [
    {"role": "assistant", "content": "", "function_call": {"name": "now", "arguments": '{"zone":"PET"}'}},
    {"role": "function", "name": "now", "content": '{"hour": 12}'},
]
SHOWN = {
    "role": "user",
    "content": [
        "plain",
        {"type": "text", "text": "", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": PICTURE, "detail": "high"}},
        {"type": "file", "file": {"file_data": PDF, "filename": "a.pdf"}},
    ],
}
SAID = [
    {"role": "developer", "content": "Be kind."},
    {"role": "user", "content": "hi", "name": "ann"},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning_content": "hm"},
    SHOWN,
    *LEGACY,
]


def test_a_conversation_in_all_of_openais_words_is_one_of_items() -> None:
    body, left_out = asked(RESPONSES, LLMRequest(SAID))
    assert body["input"] == [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "No."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "plain"},
                {"type": "input_text", "text": ""},
                {"type": "input_image", "detail": "high", "image_url": PICTURE},
                {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
            ],
        },
        {"type": "function_call", "call_id": "call_4", "name": "now", "arguments": '{"zone":"PET"}'},
        {"type": "function_call_output", "call_id": "call_4", "output": '{"hour": 12}'},
    ]
    assert left_out == ["names of speakers", "reasoning_content of messages", "cache_control of messages"]


def test_a_conversation_in_all_of_openais_words_is_one_that_gemini_takes() -> None:
    body, left_out = asked(GEMINI, LLMRequest(SAID))
    assert body["systemInstruction"] == {"parts": [{"text": "Be kind."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "hi"}]},
        {"role": "model", "parts": [{"text": "No."}]},
        {
            "role": "user",
            "parts": [
                {"text": "plain"},
                {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
                {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
            ],
        },
        {
            "role": "model",
            "parts": [{"functionCall": {"id": "call_3", "name": "now", "args": {"zone": "PET"}}}],
        },
        {
            "role": "user",
            "parts": [{"functionResponse": {"name": "now", "response": {"hour": 12}, "id": "call_3"}}],
        },
    ]
    assert left_out == [
        *("names of speakers", "reasoning_content of messages"),
        *("cache_control of messages", "detail of pictures"),
    ]


def test_a_conversation_with_anthropics_blocks_goes_to_either() -> None:
    uses = {"type": "tool_use", "id": "c1", "name": "now", "input": {"zone": "PET"}}
    result = {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "image", "source": INLINE}]}
    said = [{"role": "assistant", "content": [uses]}, {"role": "user", "content": [result]}]
    shown = {"type": "input_image", "detail": "auto", "image_url": PICTURE}
    assert talk(RESPONSES, *said) == [
        {"type": "function_call", "call_id": "c1", "name": "now", "arguments": '{"zone":"PET"}'},
        {"type": "function_call_output", "call_id": "c1", "output": ""},
        {"role": "user", "content": [shown]},
    ]
    asking, answered, picture = talk(GEMINI, *said)
    assert asking["parts"] == [{"functionCall": {"id": "c1", "name": "now", "args": {"zone": "PET"}}}]
    assert answered["parts"] == [
        {"functionResponse": {"name": "now", "response": {"output": ""}, "id": "c1"}}
    ]
    assert picture["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "AAAA"}}]


def test_the_results_of_calls_that_were_made_together_come_in_one_content_of_geminis() -> None:
    calls = [
        {"id": id, "type": "function", "function": {"name": name, "arguments": ""}}
        for id, name in (("a", "now"), ("b", "then"))
    ]
    _, _, results, said = talk(
        GEMINI,
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "[1]"},
        {"role": "tool", "tool_call_id": "a", "content": "noon"},
        {"role": "user", "content": "So?"},
    )
    assert results["parts"] == [
        {"functionResponse": {"name": "then", "response": {"output": "[1]"}, "id": "b"}},
        {"functionResponse": {"name": "now", "response": {"output": "noon"}, "id": "a"}},
    ]
    assert said == {"role": "user", "parts": [{"text": "So?"}]}


@pytest.mark.parametrize(
    ("kind", "part", "sent"),
    [
        (GEMINI, {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
         {"inlineData": {"mimeType": "audio/wav", "data": "AA"}}),
        (GEMINI, {"type": "video_url", "video_url": {"url": "https://host/a.mp4?x=1"}},
         {"fileData": {"fileUri": "https://host/a.mp4?x=1", "mimeType": "video/mp4"}}),
        (GEMINI, {"type": "file", "file": {"file_id": "https://host/v1beta/files/f"}},
         {"fileData": {"fileUri": "https://host/v1beta/files/f"}}),
        (GEMINI, {"fileData": {"fileUri": "gs://x"}}, {"fileData": {"fileUri": "gs://x"}}),
        (RESPONSES, {"type": "file", "file": {"file_id": "f"}}, {"type": "input_file", "file_id": "f"}),
        (RESPONSES, {"type": "input_text", "text": "x"}, {"type": "input_text", "text": "x"}),
        (RESPONSES, {"type": "input_audio", "input_audio": {}}, "openai-responses has no content of"),
        (GEMINI, {"type": "file", "file": {"file_id": "f"}}, "gemini has no file of another provider"),
        (GEMINI, {"type": "input_text", "text": "x"}, "gemini has no content of the type 'input_text'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_shown_is_translated_or_refused_for_another_model_to_look_at(
    kind: str, part: dict[str, Any], sent: Any
) -> None:
    if isinstance(sent, str):
        with pytest.raises(BadRequest, match=sent) as caught:
            talk(kind, {"role": "user", "content": [part]})
        assert caught.value.detail["unsayable"] is True
        return
    (said,) = talk(kind, {"role": "user", "content": [part]})
    assert said["content" if kind == RESPONSES else "parts"] == [sent]


def test_what_gemini_cannot_be_asked_is_refused() -> None:
    broken = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "[1]"}}
    custom = {"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    for odd, says in (
        ({"messages": [{"role": "assistant", "tool_calls": [broken]}]}, "not a JSON object"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [custom]}]},
            "calls of tools of the type 'custom'",
        ),
        ({"tools": [custom]}, "tools of the type 'custom'"),
        ({"response_format": {"type": "grammar"}}, "response_format 'grammar'"),
    ):
        with pytest.raises(BadRequest, match=says):
            asked(GEMINI, LLMRequest(**{"messages": [], **odd}))


# What comes back -----------------------------------------------------------------------------------------


def answered(kind: str, body: str) -> LLMResponse:
    """The answer that is read of a body."""
    found = read(Case("", (), adapter=kind), reply(body), 4096)
    assert isinstance(found, LLMResponse), found
    return found


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("kind", [RESPONSES, GEMINI])
async def test_a_loop_of_tools_goes_round(kind: str, stream: bool) -> None:
    order = Reply("Let me look.", tool_calls=(ToolCall("now", {"zone": "PET"}, id="c1"), ToolCall("now", {})))
    async with FakeLLM(reply=[order, "Noon."]) as server:
        base_url = server.url if kind == RESPONSES else f"{server.root}/v1beta"
        provider = opened(kind, base_url=base_url, stream=stream)
        messages: list[dict[str, Any]] = [{"role": "user", "content": "How late is it?"}]
        first = await provider.call(LLMRequest(messages, tools=TOOLS))
        messages.append(first.message)
        messages += [
            {"role": "tool", "tool_call_id": made.id, "content": "noon"} for made in first.tool_calls
        ]
        last = await provider.call(LLMRequest(messages, tools=TOOLS))
        await provider.aclose()
    assert (first.text, first.finish_reason, last.text) == ("Let me look.", "tool_calls", "Noon.")
    assert len({made.id for made in first.tool_calls}) == 2
    sent = server.calls[1].body
    if kind == GEMINI:
        said, *calls = sent["contents"][1]["parts"]
        assert said == {"text": "Let me look."}
        assert [one.get("thoughtSignature") for one in calls] == [SIGNATURE, None]
        assert [one["functionCall"]["args"] for one in calls] == [{"zone": "PET"}, {}]
        ids = [one["functionCall"]["id"] for one in calls]
        assert [one["functionResponse"]["id"] for one in sent["contents"][2]["parts"]] == ids
    else:
        kinds = [item.get("type", item.get("role")) for item in sent["input"]]
        assert kinds == ["user", "assistant", *["function_call"] * 2, *["function_call_output"] * 2]


def whole_loop(kind: str, answer: LLMResponse, **options: Any) -> list[dict[str, Any]]:
    """What is sent of an answer when the conversation goes on."""
    results = [{"role": "tool", "tool_call_id": one.id, "content": "x"} for one in answer.tool_calls]
    sent: list[dict[str, Any]] = talk(
        kind, {"role": "user", "content": "q"}, answer.message, *results, **options
    )
    return sent[1:]


MESSAGE = message("Let me look.", phase="commentary")


def test_items_go_back_as_they_came_where_they_are_stored_and_without_ids_where_not() -> None:
    bare = {"type": "reasoning", "id": "rs_2", "summary": []}
    made = call(call_id="c1", arguments='{"a":1}')
    answer = answered(RESPONSES, json.dumps(response(bare, REASONING, MESSAGE, made)))
    assert "Let me" not in json.dumps(answer.own), "no text is kept twice"
    result = {"type": "function_call_output", "call_id": "c1", "output": "x"}
    assert whole_loop(RESPONSES, answer) == [bare, REASONING, MESSAGE, made, result]
    stateless = [{k: v for k, v in item.items() if k != "id"} for item in (REASONING, MESSAGE, made)]
    assert whole_loop(RESPONSES, answer, store=False) == [*stateless, result]


@pytest.mark.parametrize("how", ["less", "more", "calls", "parts"])
@pytest.mark.parametrize("kind", [RESPONSES, GEMINI])
def test_an_answer_that_its_author_has_changed_says_what_it_says_now(kind: str, how: str) -> None:
    if kind == RESPONSES:
        body = json.dumps(response(REASONING, MESSAGE, call(call_id="c1")))
    else:
        made = {"functionCall": {"id": "c1", "name": "now", "args": {}}, "thoughtSignature": "U0lH"}
        content = {"role": "model", "parts": [{"text": "Let me look."}, made]}
        body = json.dumps({"candidates": [{"content": content, "finishReason": "STOP"}]})
    said = answered(kind, body).message
    if how == "less":
        said["content"] = "I look."
    elif how == "more":
        said["content"] += " I look."
    elif how == "calls":
        del said["tool_calls"]
    else:
        said["content"] = [{"type": "text", "text": "I look."}]
    body_, left_out = asked(kind, LLMRequest([said]))
    sent = json.dumps(body_)
    assert not any(word in sent for word in ("U0lH", "gAAA", "commentary"))
    assert ("I look." in sent, '"c1"' in sent) == (how != "calls", how != "calls")
    assert left_out == ["gemini_parts of messages" if kind == GEMINI else "response_items of messages"]


CALLED = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
ANSWERS = {
    "openai": {
        "choices": [
            {
                "message": {
                    "content": "Let me look.",
                    "reasoning_content": "Hm.",
                    "tool_calls": [{**CALLED, "extra_content": {"google": {"thought_signature": "SIG"}}}],
                },
                "finish_reason": "tool_calls",
            }
        ]
    },
    RESPONSES: response(REASONING, MESSAGE, call(call_id="c1")),
    "anthropic": {
        "type": "message",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "SIG"},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "c1", "name": "now", "input": {}},
        ],
        "stop_reason": "tool_use",
    },
    GEMINI: answer(
        {"text": "Hm.", "thought": True}, {"text": "Let me look."}, called(thoughtSignature="SIG")
    ),
}


def test_every_provider_is_tried_with_every_other() -> None:
    assert PROTOCOLS.keys() == ANSWERS.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("to", PROTOCOLS)
@pytest.mark.parametrize("of", PROTOCOLS)
def test_an_answer_of_any_provider_goes_on_with_any_other(of: str, to: str) -> None:
    said = answered(of, json.dumps(ANSWERS[of]))
    assert (said.text, said.finish_reason, len(said.tool_calls)) == ("Let me look.", "tool_calls", 1)
    result = {"role": "tool", "tool_call_id": said.tool_calls[0].id, "content": "noon"}
    talk = [{"role": "user", "content": "How late is it?"}, said.message, result]
    sent = codec(to).encode(LLMRequest(talk, tools=TOOLS))
    body = json.loads(sent.body)
    PROTOCOLS[to].read({"model": "m", "stream": False, **body})  # which refuses what is not of its form
    text = sent.body.decode()
    assert text.count("Let me look.") == text.count("noon") == 1
    own = {"openai": "reasoning_content", RESPONSES: "gAAA", "anthropic": '"signature"', GEMINI: '"thought"'}
    assert {name for name, mark in own.items() if mark in text} <= {to}, "no other's form of anything"
    if of == to and of != "openai":  # which knows nothing of what servers that speak it have
        assert own[of] in text
        assert sent.left_out == ()
    elif of != to:
        assert sent.left_out


def test_the_signature_that_googles_server_of_openais_protocol_gave_goes_to_gemini_too() -> None:
    made = {
        "id": "c1",
        "type": "function",
        "function": {"name": "now", "arguments": "{}"},
        "extra_content": {"google": {"thought_signature": "SIG"}},
    }
    (said,) = talk(GEMINI, {"role": "assistant", "content": None, "tool_calls": [made]})
    assert said["parts"] == [
        {"functionCall": {"id": "c1", "name": "now", "args": {}}, "thoughtSignature": "SIG"}
    ]


# What is asked once more ---------------------------------------------------------------------------------


def bodies(server: Server) -> list[Any]:
    return [json.loads(asked.body) for asked in server.asked]


@pytest.mark.parametrize("why", ["Function call is missing a thought_signature", "Invalid thought signature"])
async def test_gemini_is_told_of_calls_whose_signatures_it_misses_or_does_not_know(why: str) -> None:
    server = Server(lambda n: GOOD if n else refused(400, "INVALID_ARGUMENT", why), "close")
    mine = {"gemini_parts": [{"text": 12}, {"functionCall": {}, "thoughtSignature": "old"}]}
    asked = [TALK[0], *TALK[3:], {**TALK[3], **mine}, TALK[4]]
    async with server.up():
        provider = opened(GEMINI, base_url=f"{server.url}/v1beta")
        assert (await provider.call(LLMRequest(asked), idempotency_key="k")).text == "fine"
        await provider.aclose()
    signed = [
        [part.get("thoughtSignature") for content in body["contents"] for part in content["parts"]]
        for body in bodies(server)
    ]
    kept = "old" if "missing" in why else UNSIGNED
    assert signed == [[None, None, None, None, "old", None], [None, UNSIGNED, None, None, kept, None]]
    assert [asked.headers["idempotency-key"] for asked in server.asked] == ["k", "k-unsigned"]


async def test_what_a_server_does_not_have_of_an_earlier_answer_is_said_to_it_in_words() -> None:
    gone = reply('{"error":{"message":"Item with id \'rs_1\' not found."}}', 404)
    fine = reply(json.dumps(response(message())))
    server = Server(lambda n: fine if n else gone, "close")
    said = {"role": "assistant", "content": "hi", "response_items": [REASONING, message(2)]}
    async with server.up():
        provider = opened(RESPONSES, base_url=server.url)
        asked = LLMRequest([TALK[0], said, TALK[0]])
        assert (await provider.call(asked, idempotency_key="k")).text == "fine"
        await provider.aclose()
    first, second = (body["input"] for body in bodies(server))
    assert first[1:3] == [REASONING, message("hi")]
    assert second[1:2] == [{"role": "assistant", "content": "hi"}]
    assert server.asked[1].headers["idempotency-key"] == "k-anew"


async def test_a_model_without_reasoning_is_asked_for_none_from_then_on() -> None:
    no = reply('{"error":{"message":"Encrypted content is not supported with this model."}}', 400)
    fine = reply(json.dumps(response(message())))
    server = Server(lambda n: fine if n else no, "close")
    async with server.up():
        provider = opened(RESPONSES, base_url=server.url, options={"store": False})
        for _ in range(2):
            assert (await provider.call(LLMRequest([TALK[0]]))).text == "fine"
        await provider.aclose()
    assert ["include" in body for body in bodies(server)] == [True, False, False]


def test_a_model_has_its_place_in_geminis_path() -> None:
    def where(model: str, **settings: Any) -> str:
        made = GeminiCodec("m", ModelConfig(provider=GEMINI, model=model, **settings), None)
        return made.encode(LLMRequest([TALK[1]])).url

    google = "https://generativelanguage.googleapis.com/v1beta"
    assert where("gemini-3-pro") == f"{google}/models/gemini-3-pro:generateContent"
    assert where("tunedModels/mine") == f"{google}/tunedModels/mine:generateContent"
    assert where("models/x?y", stream=True) == f"{google}/models/x%3Fy:streamGenerateContent?alt=sse"
    cloud = "https://aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/google"
    assert where("gemini-3-pro", base_url=cloud + "?a=b", stream=True) == (
        f"{cloud}/models/gemini-3-pro:streamGenerateContent?a=b&alt=sse"
    )
