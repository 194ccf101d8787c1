"""Odd replies of OpenAI's Responses and of Gemini, each with its right outcome: see ``odd_kinds.py``."""

from __future__ import annotations

import json
from typing import Any

from tests.contracts.odd_kinds import Case, Json, events, reply

RESPONSES, GEMINI = "openai-responses", "gemini"


def message(text: Any = "fine", **more: Any) -> Json:
    """An item of Responses that is a message."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [part],
        **more,
    }


def call(name: str = "now", arguments: Any = "{}", **more: Any) -> Json:
    """One that is a call."""
    return {"type": "function_call", "id": "fc_1", "name": name, "arguments": arguments, **more}


def response(*output: Json, status: Any = "completed", **more: Any) -> Json:
    """A whole response."""
    usage = {"input_tokens": 3, "output_tokens": 5}
    return {"model": "odd", "status": status, "output": list(output), "usage": usage, **more}


FINE = reply(json.dumps(response(message())))
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
USAGE = {
    "input_tokens": 9,
    "output_tokens": 8,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens_details": {"reasoning_tokens": 6},
}


def failed(code: str, said: str = "no luck") -> Json:
    """A response that has failed."""
    return response(status="failed", error={"code": code, "message": said})


def end(whole: Json, kind: str = "completed") -> Json:
    """The last event of a stream."""
    return {"type": f"response.{kind}", "response": whole}


def delta(text: str) -> Json:
    """A piece of text."""
    return {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text}


def _whole(name: str, *said: Json | bytes, **expected: Any) -> Case:
    replies = tuple(one if isinstance(one, bytes) else reply(json.dumps(one)) for one in said)
    return Case(name, replies, **{"adapter": RESPONSES, **expected})


def _stream(name: str, *said: str | Json, then: tuple[bytes, ...] = (), **expected: Any) -> Case:
    return Case(name, (events(*said), *then), stream=True, **{"adapter": RESPONSES, **expected})


OF_RESPONSES = [
    _whole("responses: text", response(message()), text="fine", usage=(3, 5), finish="stop"),
    _whole(
        "responses: reasoning goes back as it came, and no text is said twice",
        response(REASONING, message("fine"), usage=USAGE),
        text="fine",
        usage=(9, 8),
        cached=4,
        message={
            "response_items": [
                REASONING,
                message("fine") | {"content": [{"type": "output_text", "text": 4, "annotations": []}]},
            ]
        },
    ),
    _whole(
        "responses: two calls, one without an id, one whose arguments are an object",
        response(call(call_id="c1"), call("read", {"path": "a"})),
        tool_calls=(("c1", "now", "{}"), ("fc_1", "read", '{"path":"a"}')),
        finish="tool_calls",
    ),
    _whole(
        "responses: a tool that takes text",
        response({"type": "custom_tool_call", "call_id": "c1", "name": "sh", "input": "ls"}),
        tool_calls=(("c1", "sh", "ls"),),
        message={"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
    ),
    _whole(
        "responses: cut short",
        response(message("hal"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        text="hal",
        finish="length",
    ),
    _whole(
        "responses: cut short in its thoughts",
        response(REASONING, status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        text="",
        finish="length",
    ),
    _whole(
        "responses: filtered",
        response(status="incomplete", incomplete_details={"reason": "content_filter"}),
        error="ContentRefused",
        says="its content filter stopped the answer",
    ),
    _whole(
        "responses: filtered behind some text",
        response(message("hal"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        text="hal",
        finish="content_filter",
    ),
    _whole(
        "responses: a refusal in words",
        response(message() | {"content": [{"type": "refusal", "refusal": "No."}]}),
        text="",
        message={"refusal": "No.", "content": ""},
    ),
    _whole("responses: failed", failed("server_error"), FINE, text="fine", says="no luck"),
    _whole("responses: failed for its rate", failed("rate_limit_exceeded"), FINE, text="fine"),
    _whole(
        "responses: failed for the question", failed("invalid_prompt"), error="BadRequest", says="no luck"
    ),
    _whole("responses: failed for a picture", failed("image_too_large"), error="BadRequest"),
    _whole("responses: failed by a filter", failed("image_content_policy_violation"), error="ContentRefused"),
    _whole("responses: cancelled", response(status="cancelled"), FINE, text="fine", says="is cancelled"),
    _whole("responses: later", response(status="queued"), FINE, text="fine", says="comes later"),
    _whole("responses: nothing", response(), FINE, text="fine", says="without an answer"),
    _whole("responses: an empty object", {}, FINE, text="fine", says="without an answer"),
    _whole("responses: an error", {"error": {"message": "no", "code": 503}}, FINE, text="fine"),
    _whole(
        "responses: of another protocol",
        {"choices": [{"message": {"content": "x"}}]},
        error="BadReply",
        says="not of its protocol",
    ),
    _whole("responses: no status, and text that is one", response(message(), status=None), text="fine"),
    _whole("responses: content as text", response(message() | {"content": "fine"}), text="fine"),
    _whole(
        "responses: an id that is not there any more",
        reply('{"error":{"message":"Item with id \'rs_1\' not found.","code":null}}', 404),
        error="ModelNotFound",
    ),
    _stream(
        "responses: streamed",
        {"type": "response.created", "response": response(status="in_progress")},
        {"type": "keepalive"},
        {"type": "response.output_item.added", "output_index": 0, "item": message() | {"content": []}},
        delta("fi"),
        delta("ne"),
        {"type": "response.output_item.done", "output_index": 0, "item": message()},
        end(response(message())),
        text="fine",
        usage=(3, 5),
        finish="stop",
    ),
    _stream(
        "responses: an end that says nothing again",
        {"type": "response.output_item.done", "output_index": 0, "item": REASONING},
        {"type": "response.output_item.added", "output_index": 1, "item": call(call_id="c1", arguments="")},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"a"'},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": ":1}"},
        {"type": "response.output_item.done", "output_index": 1, "item": call(call_id="c1", arguments="")},
        end(response()),
        tool_calls=(("c1", "now", '{"a":1}'),),
        finish="tool_calls",
        message={"response_items": [REASONING, {"type": "function_call", "id": "fc_1"}]},
    ),
    _stream("responses: nothing but its pieces", delta("fi"), delta("ne"), end(response()), text="fine"),
    _stream(
        "responses: a refusal in pieces",
        {"type": "response.refusal.delta", "output_index": 0, "delta": "No"},
        {"type": "response.refusal.delta", "output_index": 0, "delta": "."},
        {"type": "response.output_item.done", "output_index": 0, "item": message() | {"content": []}},
        end(response()),
        text="",
        message={"refusal": "No."},
    ),
    _stream("responses: a stream that is cut", delta("hal"), then=(FINE,), text="fine"),
    _stream("responses: a stream without an answer", end(response()), then=(FINE,), text="fine"),
    _stream(
        "responses: a stream that fails",
        delta("hal"),
        end(failed("server_error"), "failed"),
        then=(FINE,),
        text="fine",
        says="no luck",
    ),
    _stream(
        "responses: an error in a stream",
        {"type": "error", "code": "server_error", "message": "no luck", "param": None},
        then=(FINE,),
        text="fine",
        says="no luck",
    ),
    _stream(
        "responses: a stream that ends too early for its bound",
        delta("hal"),
        end(response(status="incomplete", incomplete_details={"reason": "max_output_tokens"}), "incomplete"),
        text="hal",
        finish="length",
    ),
    Case(
        "responses: whole where a stream was asked for", (FINE,), stream=True, adapter=RESPONSES, text="fine"
    ),
]


# Gemini -------------------------------------------------------------------------------------------


def part(text: str = "fine", **more: Any) -> Json:
    """A part that is a text."""
    return {"text": text, **more}


def answer(*parts: Json, finish: Any = "STOP", usage: Json | None = None, **more: Any) -> Json:
    """A whole answer, or a piece of one."""
    content = {"role": "model", "parts": list(parts)} if parts else {"role": "model"}
    candidate = {"content": content, "finishReason": finish, "index": 0, **more}
    counts = {"promptTokenCount": 3, "candidatesTokenCount": 5} if usage is None else usage
    return {"candidates": [candidate], "usageMetadata": counts, "modelVersion": "odd"}


def called(name: str = "now", args: Any = None, **more: Any) -> Json:
    """A part that is a call."""
    return {"functionCall": {"name": name, "args": args or {}}, **more}


def refused(status: int, name: str, said: str, *details: Json) -> bytes:
    """An error of Google's."""
    error = {"code": status, "message": said, "status": name, "details": list(details)}
    return reply(json.dumps({"error": error}), status)


def _gemini(name: str, *said: Json | bytes, **expected: Any) -> Case:
    return _whole(f"gemini: {name}", *said, adapter=GEMINI, **expected)


def _streamed(name: str, *said: str | Json, then: tuple[bytes, ...] = (), **expected: Any) -> Case:
    return _stream(f"gemini: {name}", *said, then=then, adapter=GEMINI, **expected)


GOOD = reply(json.dumps(answer(part())))
SIGNED = {"thoughtSignature": "U0lH"}
COUNTS = {
    "promptTokenCount": 9,
    "toolUsePromptTokenCount": 2,
    "cachedContentTokenCount": 4,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 40,
}
NO_FINISH = {"candidates": [{"content": {"parts": [part("hal")]}, "index": 0}]}

OF_GEMINI = [
    _gemini("text", answer(part()), text="fine", usage=(3, 5), finish="stop"),
    _gemini(
        "thoughts and a signature go back with their parts, and no text is said twice",
        answer(part("Hm.", thought=True), part("fi"), part("ne", **SIGNED), usage=COUNTS),
        text="fine",
        usage=(11, 43),
        cached=4,
        message={
            "gemini_parts": [
                part("Hm.", thought=True),
                {"text": 2},
                {"text": 2, **SIGNED},
            ]
        },
    ),
    _gemini(
        "calls without ids, the first of them signed",
        answer(called("now", **SIGNED), called("read", {"path": "a"})),
        tool_calls=((None, "now", "{}"), (None, "read", '{"path":"a"}')),
        finish="tool_calls",
        message={"gemini_parts": [{"functionCall": {}, **SIGNED}, {"functionCall": {}}]},
    ),
    _gemini(
        "a call with an id",
        answer(part("Look:"), {"functionCall": {"id": "c1", "name": "now", "args": None}}),
        text="Look:",
        tool_calls=(("c1", "now", "{}"),),
        message={"gemini_parts": None},
    ),
    _gemini(
        "code that Google ran",
        answer({"executableCode": {"language": "PYTHON", "code": "1"}}, part()),
        text="fine",
        message={"gemini_parts": [{"executableCode": {"language": "PYTHON", "code": "1"}}, {"text": 4}]},
    ),
    _gemini(
        "sources",
        answer(part(), groundingMetadata={"webSearchQueries": ["q"]}),
        message={"groundingMetadata": {"webSearchQueries": ["q"]}},
    ),
    _gemini("cut short", answer(part("hal"), finish="MAX_TOKENS"), text="hal", finish="length"),
    _gemini("cut short in its thoughts", answer(finish="MAX_TOKENS"), text="", finish="length"),
    _gemini(
        "a question that its filter stopped",
        {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}},
        error="ContentRefused",
        says="its filter stopped the question (reason 'PROHIBITED_CONTENT')",
    ),
    _gemini(
        "an answer that its filter stopped",
        {"candidates": [{"finishReason": "SAFETY", "index": 0, "finishMessage": "Sorry."}]},
        error="ContentRefused",
        says="(reason 'SAFETY'): Sorry.",
    ),
    _gemini(
        "an answer that its filter stopped behind some text",
        answer(part("hal"), finish="RECITATION"),
        text="hal",
        finish="content_filter",
    ),
    _gemini("language", answer(finish="LANGUAGE"), error="ContentRefused", says="'LANGUAGE'"),
    _gemini("a call that is none", answer(finish="MALFORMED_FUNCTION_CALL"), GOOD, text="fine"),
    _gemini("a call of nothing", answer(finish="UNEXPECTED_TOOL_CALL"), GOOD, text="fine"),
    _gemini("an end for no reason", answer(finish="OTHER"), GOOD, text="fine", says="'OTHER'"),
    _gemini("other, behind some text", answer(part("hal"), finish="OTHER"), text="hal", finish="other"),
    _gemini("no signature", answer(finish="MISSING_THOUGHT_SIGNATURE"), error="BadRequest"),
    _gemini("an account that may not", answer(finish="PUP_LIMITED_DISABLED"), error="NotAllowed"),
    _gemini("no candidate", {"usageMetadata": {"promptTokenCount": 3}}, GOOD, text="fine"),
    _gemini("no content", {"candidates": [{"finishReason": "STOP", "index": 0}]}, GOOD, text="fine"),
    _gemini("nothing to say", answer(), text="", finish="stop"),
    _gemini("an empty object", {}, GOOD, text="fine", says="without an answer"),
    _gemini(
        "of another protocol",
        {"choices": [{"message": {"content": "x"}}]},
        error="BadReply",
        says="not of its protocol",
    ),
    _gemini("in Google's other envelope", {"response": answer(part())}, text="fine"),
    _gemini(
        "a list, as a stream of no events",
        reply(json.dumps([answer(part("fi"), finish=None), answer(part("ne"))])),
        text="fine",
        finish="stop",
    ),
    _gemini(
        "a key that is none",
        refused(400, "INVALID_ARGUMENT", "API key not valid.", {"reason": "API_KEY_INVALID"}),
        error="NotAllowed",
    ),
    _gemini(
        "too long",
        refused(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens."),
        error="BadRequest",
        says="exceeds the maximum",
    ),
    _gemini(
        "a quota",
        refused(
            429,
            "RESOURCE_EXHAUSTED",
            "You exceeded your current quota.",
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"},
        ),
        GOOD,
        text="fine",
        waits_s=34.4,
    ),
    _gemini(
        "no money", refused(403, "PERMISSION_DENIED", "x", {"reason": "BILLING_DISABLED"}), error="NotAllowed"
    ),
    _gemini("overloaded", refused(503, "UNAVAILABLE", "The model is overloaded."), GOOD, text="fine"),
    _gemini("no such model", refused(404, "NOT_FOUND", "models/x is not found"), error="ModelNotFound"),
    _streamed(
        "streamed",
        answer(part("Hm", thought=True), finish=None, usage={"promptTokenCount": 3}),
        answer(part(".", thought=True), finish=None, usage={"promptTokenCount": 3}),
        answer(part("fi"), finish=None, usage={"promptTokenCount": 3}),
        answer(part("ne"), finish=None, usage={"promptTokenCount": 3}),
        answer(part("", **SIGNED)),
        text="fine",
        usage=(3, 5),
        finish="stop",
        message={"gemini_parts": [part("Hm.", thought=True), {"text": 4}, {"text": 0, **SIGNED}]},
    ),
    _streamed(
        "streamed, its end without a content and its counts behind that",
        answer(part("fine"), finish=None),
        {"candidates": [{"finishReason": "STOP", "index": 0}]},
        {"usageMetadata": COUNTS},
        text="fine",
        usage=(11, 43),
        cached=4,
        finish="stop",
    ),
    _streamed(
        "a call in a stream",
        answer(called(**SIGNED), finish=None),
        answer(),
        tool_calls=((None, "now", "{}"),),
        finish="tool_calls",
    ),
    _streamed("a stream that is cut", NO_FINISH, then=(GOOD,), text="fine"),
    _streamed(
        "an error in a stream",
        NO_FINISH,
        {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}},
        then=(GOOD,),
        text="fine",
        says="overloaded",
    ),
    _streamed(
        "a stream that its filter stopped",
        {"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "Sorry."}},
        error="ContentRefused",
        says="(reason 'SAFETY'): Sorry.",
    ),
    Case("gemini: whole where a stream was asked for", (GOOD,), stream=True, adapter=GEMINI, text="fine"),
]

NEWER = [*OF_RESPONSES, *OF_GEMINI]
