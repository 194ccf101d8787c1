"""Odd replies of real servers by kind, each with its right outcome: what ``odd_replies.json`` has one of.

``test_odd_replies.py`` gives them to the adapters, ``tests/fleet/test_odd_providers.py`` to real workers.
"""

from __future__ import annotations

import gzip
import json
import time
import zlib
from typing import Any, NamedTuple

Json = dict[str, Any]


class Case(NamedTuple):
    """Replies, one a try, and what becomes of the call.

    Attributes:
        text, tool_calls, usage, cached, finish: of the answer; ``tool_calls`` as (id, name, arguments), where
            None is an id that we have made up.
        message: fields of ``reply.message``.
        error: the class of the error in which it ends, "" for an answer.
        says: words in the last error; of an answer: in the error of the first try.
        waits_s: what the first refusal asks for.
    """

    name: str
    replies: tuple[bytes, ...]
    stream: bool = False
    adapter: str = "openai"
    text: str | None = None
    tool_calls: tuple[tuple[str | None, str, str], ...] | None = None
    usage: tuple[int, int] | None = None
    cached: int | None = None
    finish: str | None = None
    message: Json = {}
    error: str = ""
    says: str = ""
    waits_s: float | None = None


def reply(body: bytes | str, status: int = 200, kind: str = "application/json", **headers: str) -> bytes:
    """A reply as bytes."""
    data = body if isinstance(body, bytes) else body.encode()
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def events(*lines: str | Json, end: str = "\n\n") -> bytes:
    """A stream; an object is the data of an event."""
    told = [f"data: {json.dumps(line)}" if isinstance(line, dict) else line for line in lines]
    body = "".join(line + end for line in told)
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n" + body.encode()


def completion(content: Any = "fine", finish: Any = "stop", **more: Any) -> str:
    """A whole completion."""
    message = {"role": "assistant", "content": content, **more}
    usage = {"prompt_tokens": 3, "completion_tokens": 5}
    return json.dumps(
        {
            "model": "odd",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": usage,
        }
    )


def piece(finish: str | None = None, /, **delta: Any) -> Json:
    """A chunk of a streamed completion."""
    return {"model": "odd", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def call(id: Any = "c1", name: Any = "read", arguments: Any = "{}", **more: Any) -> Json:
    """A tool's call on the wire."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


def message(*content: Json, stop: str = "end_turn", **more: Any) -> str:
    """A whole message of Anthropic's."""
    usage = {"input_tokens": 3, "output_tokens": 5}
    made = {"type": "message", "role": "assistant", "content": content, "stop_reason": stop, "usage": usage}
    return json.dumps(made | more)


def failed(**body: Any) -> str:
    return json.dumps(body)


FINE = reply(completion())
FINE_STREAM = events(piece(content="fi"), piece(content="ne"), piece("stop"), "data: [DONE]")
FINE_MESSAGE = reply(message({"type": "text", "text": "fine"}))
FINE_EVENTS = events(
    {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fine"}},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
    {"type": "message_stop"},
)


def again(name: str, first: bytes, says: str = "", waits_s: float | None = None) -> Case:
    """A whole reply that is tried again."""
    return Case(name, (first, FINE), text="fine", says=says, waits_s=waits_s)


def again_streamed(name: str, first: bytes, says: str = "") -> Case:
    return Case(name, (first, FINE_STREAM), stream=True, text="fine", says=says)


def _ended(reason: Any, **more: Any) -> bytes:
    return reply(
        json.dumps({"choices": [{"index": 0, "message": {"content": ""}, "finish_reason": reason, **more}]})
    )


FAILED_IN_A_200 = [
    *(
        again(f"ends with {reason}", _ended(reason), says=reason)
        for reason in (
            "error",
            "network_error",
            "abort",
            "server_error",
            "timeout",
            "MALFORMED_FUNCTION_CALL",
        )
    ),
    again(
        "sglang's abort",
        _ended({"type": "abort", "message": "out of memory", "status_code": 500}),
        "out of memory",
    ),
    again(
        "error of a choice", _ended("stop", error={"code": "503", "message": "no capacity"}), "no capacity"
    ),
    again("error in text", reply(failed(error="model crashed")), "model crashed"),
    again(
        "errors in a list",
        reply(failed(success=False, errors=[{"code": 5007, "message": "no such"}])),
        "no such",
    ),
    again(
        "minimax",
        reply(failed(choices=None, base_resp={"status_code": 1000, "status_msg": "unknown"})),
        "unknown",
    ),
    again(
        "dashscope",
        reply(failed(code="InternalError.Algo", message="inference failed", request_id="r")),
        "inference",
    ),
    again("detail in a list", reply(failed(detail=[{"loc": ["body"], "msg": "not ready"}])), "not ready"),
    again(
        "openrouter",
        reply(
            failed(
                error={
                    "code": 502,
                    "message": "Provider returned error",
                    "metadata": {"raw": "GPU 3 fell off"},
                }
            )
        ),
        "GPU 3 fell off",
    ),
    again(
        "gemini's list",
        reply('[{"error": {"code": 503, "status": "UNAVAILABLE", "message": "high demand"}}]'),
        "high demand",
    ),
    again(
        "name for a code",
        reply(failed(error={"status": "RESOURCE_EXHAUSTED", "message": "slow down"})),
        "slow down",
    ),
    *(
        again(f"no answer: {body!r}", reply(body))
        for body in (
            "",
            " \n",
            "null",
            "{}",
            "[]",
            '{"choices":null}',
            '{"choices":[null]}',
            '{"choices":[{}]}',
            '{"choices":[{"index":0,"message":null,"finish_reason":"stop"}]}',
        )
    ),
    again("a page", reply("<!DOCTYPE html><title>Bad gateway</title>"), "Bad gateway"),
    again("a page that is called one", reply("<html>maintenance</html>", kind="text/html"), "maintenance"),
    again("words of a proxy", reply("upstream connect error", kind="text/plain"), "upstream connect error"),
    again("cut in its middle", reply(completion()[:60]), "in its middle"),
    again("cut in a string", reply(completion()[:-70]), "in its middle"),
    again("cut with a length", FINE[:-70]),
    again_streamed("nothing", events()),
    again_streamed("comments only", events(": keep-alive", ": keep-alive")),
    again_streamed("done only, twice", events("data: [DONE]", "data: [DONE]")),
    again_streamed("pieces of nothing", events(piece(role="assistant", content=""), "data: [DONE]")),
    again_streamed(
        "error event in words",
        events(piece(content="ha"), "event: error\ndata: out of memory"),
        "out of memory",
    ),
    again_streamed(
        "error event", events('event: error\ndata: {"message": "worker died", "code": 500}'), "worker died"
    ),
    again_streamed("error field", events(piece(content="ha"), "error: engine is dead"), "engine is dead"),
    again_streamed(
        "detail chunk", events(piece(content="ha"), {"detail": "evicted"}, "data: [DONE]"), "evicted"
    ),
    again_streamed(
        "message chunk",
        events(piece(content="ha"), {"code": 50001, "message": "evicted"}, "data: [DONE]"),
        "evicted",
    ),
    again_streamed(
        "error of a delta", events(piece(error={"message": "evicted"}), "data: [DONE]"), "evicted"
    ),
    again_streamed(
        "bare words", events(piece(content="ha"), "Internal Server Error"), "Internal Server Error"
    ),
    again_streamed(
        "a page in it", events(piece(content="ha"), "<html>502 Bad Gateway</html>"), "502 Bad Gateway"
    ),
    again_streamed(
        "reason of a piece",
        events(piece(content="ha"), piece("network_error"), "data: [DONE]"),
        "network_error",
    ),
    again_streamed("cut in a piece", events(piece(content="ha"), 'data: {"choices": [{"de', end="\n")[:-1]),
    Case(
        "anthropic: error",
        (reply(failed(type="error", error={"type": "overloaded_error", "message": "busy"})), FINE_MESSAGE),
        adapter="anthropic",
        text="fine",
        says="busy",
    ),
    Case(
        "anthropic: detail",
        (reply(failed(detail={"message": "loading"})), FINE_MESSAGE),
        adapter="anthropic",
        text="fine",
        says="loading",
    ),
    Case(
        "anthropic: only its end", (events({"type": "message_stop"}), FINE_EVENTS), True, "anthropic", "fine"
    ),
    Case(
        "anthropic: start and end",
        (events({"type": "message_start", "message": {}}, {"type": "message_stop"}), FINE_EVENTS),
        True,
        "anthropic",
        "fine",
    ),
    Case("anthropic: done only", (events("data: [DONE]"), FINE_EVENTS), True, "anthropic", "fine"),
    Case(
        "anthropic: cut",
        (reply(message({"type": "text", "text": "fine"})[:50]), FINE_MESSAGE),
        adapter="anthropic",
        text="fine",
    ),
]
"""A failure inside a 200 is tried again, with the server's own text."""

FINAL_IN_A_200 = [
    Case(
        "a key in text",
        (reply(failed(error={"code": "401", "message": "bad key"})),),
        error="NotAllowed",
        says="bad key",
    ),
    Case(
        "a status in text",
        (reply(failed(error={"status_code": "403", "message": "no"})),),
        error="NotAllowed",
    ),
    Case(
        "a type",
        (reply(failed(object="error", type="BadRequestError", message="too long")),),
        error="BadRequest",
    ),
    Case(
        "minimax's money",
        (reply(failed(choices=None, base_resp={"status_code": 1008, "status_msg": "insufficient balance"})),),
        error="NotAllowed",
        says="insufficient balance",
    ),
    Case(
        "money in a stream",
        (events({"error": {"code": "insufficient_quota", "message": "pay"}}),),
        True,
        error="NotAllowed",
    ),
]
"""… unless it says that it will come again."""


def fine(name: str, body: bytes | str, text: str = "fine", **more: Any) -> Case:
    return Case(name, (reply(body),), text=text, **more)


def fine_streamed(name: str, *lines: str | Json, end: str = "\n\n", **more: Any) -> Case:
    return Case(name, (events(*lines, end=end),), stream=True, **{"text": "fine", **more})


def _with(**usage: Any) -> str:
    return json.dumps({**json.loads(completion()), "usage": usage})


_DATA = completion().encode()
DECORATED = [
    fine("NaN and infinity", completion().replace('"index"', '"logprobs": [NaN, -Infinity], "index"')),
    fine("lone surrogate", completion().replace("fine", r"fi\ud800ne"), "fi\ufffdne"),
    fine(
        "invalid utf-8", completion().replace("fine", "fi!ne").encode().replace(b"!", b"\xe9"), "fi\ufffdne"
    ),
    fine("byte order mark", b"\xef\xbb\xbf" + _DATA),
    fine("utf-16", completion().encode("utf-16")),
    fine("line break in a string", completion().replace("fine", "fi\nne"), "fi\nne"),
    fine("usage in text", _with(prompt_tokens="12", completion_tokens="5"), usage=(12, 5)),
    fine("usage as floats", _with(prompt_tokens=12.0, completion_tokens=5.5), usage=(12, 5)),
    fine("usage below nought", _with(prompt_tokens=-12, completion_tokens=-5), usage=(0, 0)),
    fine("usage beyond all", _with(prompt_tokens=10**30, completion_tokens=5), usage=(0, 5)),
    fine(
        "usage as a list",
        completion().replace('"usage": {', '"usage": [{').replace("5}}", "5}]}"),
        usage=(0, 0),
    ),
    fine("usage in other words", _with(input_tokens=12, output_tokens=5), usage=(12, 5)),
    fine(
        "id and created of other types", completion().replace('"model"', '"id": 5, "created": "now", "model"')
    ),
    fine("model as an object", completion().replace('"odd"', '{"name": "odd"}')),
    *(
        fine(f"index {index!r}", completion().replace('"index": 0', f'"index": {json.dumps(index)}'))
        for index in (1, "0", "1", None, 0.0, True, "a", [0])
    ),
    fine("finish reason as a number", completion(finish=0)),
    fine("finish reason as an object", completion(finish={"type": "stop", "matched": 2}), finish="stop"),
    fine("content as a dict", completion({"type": "text", "text": "fine"})),
    fine("content as parts", completion([{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}])),
    fine("content as texts", completion(["fi", "ne"])),
    fine("content as JSON itself", completion({"city": "Lima"}), '{"city":"Lima"}'),
    fine("content as a number", completion(42), "42"),
    fine("choices as an object", completion().replace("[{", "{", 1).replace("}]", "}", 1)),
    fine(
        "an error that says nothing",
        completion().replace('"model"', '"error": {"code": null, "message": ""}, "model"'),
    ),
    fine("an error of null", completion().replace('"model"', '"error": null, "detail": null, "model"')),
    fine("garbage behind it", _DATA + b"\r\n0\r\n\r\n"),
    fine("a second object behind it", _DATA + b'\n{"done": true}'),
    fine("white space before it", b"\n" * 4000 + _DATA),
    fine("comments before it", b": PROCESSING\n\n: PROCESSING\n\n" + _DATA),
    fine("a deep field", completion().replace('"odd"', "[" * 200 + "]" * 200)),
    Case("called html", (reply(_DATA, kind="text/html"),), text="fine"),
    Case("a long header", (reply(_DATA, x_policy="a" * 100_000),), text="fine"),
    Case("gzip and identity", (reply(gzip.compress(_DATA), content_encoding="identity, gzip"),), text="fine"),
    Case("called nothing", (reply(_DATA, kind=""),), text="fine"),
    Case("status 201", (reply(_DATA, 201),), text="fine"),
    Case("gzip", (reply(gzip.compress(_DATA), content_encoding="gzip"),), text="fine"),
    Case("deflate", (reply(zlib.compress(_DATA), content_encoding="deflate"),), text="fine"),
    Case("raw deflate", (reply(zlib.compress(_DATA)[2:-4], content_encoding="deflate"),), text="fine"),
    Case("gzip that is none", (reply(_DATA, content_encoding="gzip"),), text="fine"),
    Case("gzip called deflate", (reply(gzip.compress(_DATA), content_encoding="deflate"),), text="fine"),
    Case("gzip without its end", (reply(gzip.compress(_DATA)[:-8], content_encoding="gzip"),), text="fine"),
    Case(
        "gzip with a wrong sum",
        (reply(gzip.compress(_DATA)[:-8] + b"8" * 8, content_encoding="gzip"),),
        text="fine",
    ),
    Case("a stream that nobody asked for", (FINE_STREAM,), text="fine"),
    Case("… and that is not called one", (reply(FINE_STREAM.partition(b"\r\n\r\n")[2]),), text="fine"),
    Case("the whole for a stream", (FINE,), True, text="fine"),
    Case("… that is called one", (events(completion()),), True, text="fine"),
    Case("… over many lines", (events(json.dumps(json.loads(completion()), indent=1)),), True, text="fine"),
    fine_streamed(
        "split surrogates",
        r'data: {"choices":[{"delta":{"content":"\ud83d"}}]}',
        r'data: {"choices":[{"delta":{"content":"\ude00"},"finish_reason":"stop"}]}',
        text="😀",
    ),
    fine_streamed(
        "data over two lines",
        'data: {"choices":[{"index":0,\ndata: "delta":{"content":"fine"},"finish_reason":"stop"}]}',
    ),
    fine_streamed(
        "a line break in a string",
        'data: {"choices":[{"delta":{"content":"fi\nne"},"finish_reason":"stop"}]}',
        text="fi\nne",
    ),
    fine_streamed("lines that end in CR", piece(content="fine"), piece("stop"), "data: [DONE]", end="\r\r"),
    fine_streamed(
        "a byte order mark", '\ufeffdata: {"choices":[{"delta":{"content":"fine"},"finish_reason":"stop"}]}'
    ),
    fine_streamed(
        "no spaces, fields unknown",
        "retry: 3\nx-odd: 1\nping",
        'data:{"choices":[{"delta":{"content":"fine"}}]}',
        "data:[DONE]",
    ),
    fine_streamed("no end of it said", piece(content="fine"), "data: [DONE]"),
    fine_streamed("an end without brackets", piece(content="fine"), "data: done"),
    fine_streamed(
        "counted from 1",
        *({"choices": [{"index": 1, "delta": {"content": c}}]} for c in ("fi", "ne")),
        "data: [DONE]",
    ),
    fine_streamed(
        "all said once more", piece(content="fi"), piece(content="ne"), completion(), "data: [DONE]"
    ),
    fine_streamed(
        "usage of groq",
        piece(content="fine"),
        {**piece("stop"), "x_groq": {"usage": {"prompt_tokens": 9, "completion_tokens": 7}}},
        "data: [DONE]",
        usage=(9, 7),
    ),
    fine_streamed(
        "usage of moonshot",
        piece(content="fine"),
        {
            "choices": [
                {
                    "index": 0,
                    "delta": {},
                    "finish_reason": "stop",
                    "usage": {"prompt_tokens": 9, "completion_tokens": 7},
                }
            ]
        },
        "data: [DONE]",
        usage=(9, 7),
    ),
    Case(
        "anthropic: no type",
        (reply(json.dumps({"content": [{"type": "text", "text": "fine"}], "usage": None})),),
        adapter="anthropic",
        text="fine",
    ),
    Case(
        "anthropic: content in text",
        (reply(json.dumps({"type": "message", "content": "fine", "stop_reason": 5})),),
        adapter="anthropic",
        text="fine",
    ),
    Case("anthropic: done behind it", (FINE_EVENTS + b"data: [DONE]\n\n",), True, "anthropic", "fine"),
]
"""A paid answer is never thrown away for its decoration."""

_SIGNED = {"google": {"thought_signature": "SIG"}}
_THOUGHT = {"type": "thinking", "thinking": "hm", "signature": "SIG"}
_USE = {"type": "tool_use", "id": "t1", "name": "read", "input": {"path": "a"}}
_CITED = {"type": "text", "text": "fine", "citations": [{"type": "char_location", "cited_text": "f"}]}
_CITATION = {
    "type": "url_citation",
    "url_citation": {"url": "https://example.org", "start_index": 0, "end_index": 4},
}

WHOLE = [
    fine(
        "reasoning",
        completion("fine", reasoning_content="hm"),
        message={"content": "fine", "reasoning_content": "hm"},
    ),
    fine(
        "reasoning only",
        completion("", reasoning_content="hm"),
        "",
        message={"content": "", "reasoning_content": "hm"},
    ),
    fine("refusal", completion(None, refusal="I will not."), "", message={"refusal": "I will not."}),
    fine("annotations", completion("fine", annotations=[_CITATION]), message={"annotations": [_CITATION]}),
    fine(
        "nothing of its own",
        completion("fine", refusal=None, annotations=[], audio=None, function_call=None, tool_calls=[]),
        tool_calls=(),
        message={"role": "assistant", "content": "fine"},
    ),
    fine(
        "sound",
        completion(None, audio={"id": "a1", "data": "AAAA", "transcript": "t"}),
        "",
        message={"audio": {"id": "a1"}},
    ),
    fine(
        "signature of a call",
        completion(None, "tool_calls", tool_calls=[call(extra_content=_SIGNED)]),
        "",
        tool_calls=(("c1", "read", "{}"),),
        message={"content": None, "tool_calls": [call(extra_content=_SIGNED)]},
    ),
    fine(
        "signature of a text", completion("fine", extra_content=_SIGNED), message={"extra_content": _SIGNED}
    ),
    fine(
        "mistral's thinking",
        completion(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "fine"},
            ]
        ),
        message={
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "fine"},
            ]
        },
    ),
    fine(
        "cached tokens",
        _with(prompt_tokens=90, completion_tokens=5, prompt_tokens_details={"cached_tokens": 64}),
        usage=(90, 5),
        cached=64,
    ),
    fine(
        "deepseek's cached tokens",
        _with(prompt_tokens=90, completion_tokens=5, prompt_cache_hit_tokens=64),
        usage=(90, 5),
        cached=64,
    ),
    fine(
        "two calls of index 0",
        completion(None, tool_calls=[call("a", index=0), call("b", index=0)]),
        "",
        tool_calls=(("a", "read", "{}"), ("b", "read", "{}")),
    ),
    fine(
        "two calls of one id",
        completion(None, tool_calls=[call("a"), call("a", "write")]),
        "",
        tool_calls=(("a", "read", "{}"), (None, "write", "{}")),
    ),
    *(
        fine(
            f"arguments {arguments!r}",
            completion(None, tool_calls=[call(arguments=arguments)]),
            "",
            tool_calls=(("c1", "read", read),),
            message={"tool_calls": [call(arguments=read)]},
        )
        for arguments, read in (
            ("", "{}"),
            (None, "{}"),
            (" ", "{}"),
            ("null", "{}"),
            ({"a": 1}, '{"a":1}'),
            ({}, "{}"),
        )
    ),
    fine(
        "no arguments at all",
        completion(None, tool_calls=[{"id": "c1", "function": {"name": "read"}}]),
        "",
        tool_calls=(("c1", "read", "{}"),),
    ),
    fine(
        "an id that is a number",
        completion(None, tool_calls=[call(7)]),
        "",
        tool_calls=(("7", "read", "{}"),),
        message={"tool_calls": [call("7")]},
    ),
    fine("no id", completion(None, tool_calls=[call(None)]), "", tool_calls=((None, "read", "{}"),)),
    fine(
        "legacy",
        completion(None, "function_call", function_call={"name": "read", "arguments": ""}),
        "",
        tool_calls=((None, "read", "{}"),),
        finish="tool_calls",
    ),
    fine(
        "legacy and not",
        completion(None, tool_calls=[call()], function_call={"name": "read", "arguments": "{}"}),
        "",
        tool_calls=(("c1", "read", "{}"),),
    ),
    fine(
        "a tool that takes text",
        completion(
            None, tool_calls=[{"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]
        ),
        "",
        tool_calls=(("c1", "sh", "ls"),),
        message={"tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]},
    ),
    fine_streamed(
        "reasoning in pieces",
        piece(role="assistant", content=""),
        piece(reasoning_content="h"),
        piece(reasoning_content="m"),
        piece(content="fine"),
        piece("stop"),
        message={"content": "fine", "reasoning_content": "hm"},
    ),
    fine_streamed(
        "details of reasoning in pieces",
        *(piece(reasoning_details=[{"index": 0, "type": "reasoning.text", "text": t}]) for t in "hm"),
        piece(reasoning_details=[{"index": 0, "type": "reasoning.text", "signature": "SIG"}]),
        piece("stop", content="fine"),
        message={
            "reasoning_details": [{"index": 0, "type": "reasoning.text", "text": "hm", "signature": "SIG"}]
        },
    ),
    fine_streamed(
        "refusal in pieces",
        piece(refusal="I will"),
        piece(refusal=" not."),
        piece("stop"),
        text="",
        message={"refusal": "I will not."},
    ),
    fine_streamed(
        "annotations in pieces",
        piece(content="fine"),
        piece(annotations=[_CITATION]),
        piece("stop"),
        message={"annotations": [_CITATION]},
    ),
    fine_streamed(
        "signature in a stream",
        piece(tool_calls=[call(index=0, extra_content=_SIGNED)]),
        piece("tool_calls"),
        text="",
        tool_calls=(("c1", "read", "{}"),),
        message={"tool_calls": [call(extra_content=_SIGNED)]},
    ),
    fine_streamed(
        "two calls of index 0 in a stream",
        piece(tool_calls=[call("a", arguments="", index=0)]),
        piece(tool_calls=[{"index": 0, "function": {"arguments": '{"n":1}'}}]),
        piece(tool_calls=[call("b", arguments='{"n":2}', index=0)]),
        piece("tool_calls"),
        text="",
        tool_calls=(("a", "read", '{"n":1}'), ("b", "read", '{"n":2}')),
    ),
    fine_streamed(
        "an id in each piece, no index",
        *(piece(tool_calls=[call("a", arguments=a)]) for a in ('{"n"', ":1}")),
        piece(tool_calls=[call("b")]),
        piece("tool_calls"),
        text="",
        tool_calls=(("a", "read", '{"n":1}'), ("b", "read", "{}")),
    ),
    fine_streamed(
        "index in text",
        *(
            piece(tool_calls=[{"index": "0", **c}])
            for c in (call("a", arguments='{"n"'), {"function": {"arguments": ":1}"}})
        ),
        piece("tool_calls"),
        text="",
        tool_calls=(("a", "read", '{"n":1}'),),
    ),
    fine_streamed(
        "legacy in pieces",
        piece(function_call={"name": "read", "arguments": "{"}),
        piece(function_call={"arguments": "}"}),
        piece("function_call"),
        text="",
        tool_calls=((None, "read", "{}"),),
        finish="tool_calls",
    ),
    fine_streamed(
        "mistral's thinking in pieces",
        *(piece(content=[{"type": "thinking", "thinking": [{"type": "text", "text": t}]}]) for t in "hm"),
        piece(content="fi"),
        piece("stop", content="ne"),
        message={
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                {"type": "text", "text": "fine"},
            ]
        },
    ),
    Case(
        "anthropic: plain",
        (reply(message({"type": "text", "text": "fine"}, _USE, stop="tool_use")),),
        adapter="anthropic",
        text="fine",
        tool_calls=(("t1", "read", '{"path":"a"}'),),
        message={"content": "fine", "tool_calls": [call("t1", arguments='{"path":"a"}')]},
    ),
    Case(
        "anthropic: thinking",
        (reply(message(_THOUGHT, _USE, stop="tool_use")),),
        adapter="anthropic",
        text="",
        tool_calls=(("t1", "read", '{"path":"a"}'),),
        message={"role": "assistant", "content": [_THOUGHT, _USE]},
    ),
    Case(
        "anthropic: redacted",
        (reply(message({"type": "redacted_thinking", "data": "X"}, {"type": "text", "text": "fine"})),),
        adapter="anthropic",
        text="fine",
        message={"content": [{"type": "redacted_thinking", "data": "X"}, {"type": "text", "text": "fine"}]},
    ),
    Case(
        "anthropic: citations",
        (reply(message(_CITED)),),
        adapter="anthropic",
        text="fine",
        message={"content": [_CITED]},
    ),
    Case(
        "anthropic: an empty text beside thinking",
        (reply(message(_THOUGHT, {"type": "text", "text": ""})),),
        adapter="anthropic",
        text="",
        message={"content": [_THOUGHT]},
    ),
    Case(
        "anthropic: cached tokens",
        (
            reply(
                message(
                    {"type": "text", "text": "fine"},
                    usage={"input_tokens": 10, "cache_read_input_tokens": 64, "output_tokens": 5},
                )
            ),
        ),
        adapter="anthropic",
        text="fine",
        usage=(74, 5),
        cached=64,
    ),
    Case(
        "anthropic: refusal with words",
        (reply(message({"type": "text", "text": "part"}, stop="refusal")),),
        adapter="anthropic",
        text="part",
        finish="content_filter",
    ),
    Case(
        "anthropic: thinking in pieces",
        (
            events(
                {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
                {
                    "type": "content_block_start",
                    "index": 0,
                    "content_block": {"type": "thinking", "thinking": "", "signature": ""},
                },
                *(
                    {
                        "type": "content_block_delta",
                        "index": 0,
                        "delta": {"type": "thinking_delta", "thinking": t},
                    }
                    for t in "hm"
                ),
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "signature_delta", "signature": "SIG"},
                },
                {"type": "content_block_start", "index": 1, "content_block": {**_USE, "input": {}}},
                *(
                    {
                        "type": "content_block_delta",
                        "index": 1,
                        "delta": {"type": "input_json_delta", "partial_json": t},
                    }
                    for t in ('{"path"', ':"a"}')
                ),
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": "tool_use"},
                    "usage": {"output_tokens": 5},
                },
                {"type": "message_stop"},
            ),
        ),
        True,
        "anthropic",
        "",
        tool_calls=(("t1", "read", '{"path":"a"}'),),
        message={"content": [_THOUGHT, _USE]},
    ),
    Case(
        "anthropic: blocks of index 0, input at once",
        (
            events(
                {"type": "message_start", "message": {}},
                *(
                    {"type": "content_block_start", "index": 0, "content_block": {**_USE, "id": id}}
                    for id in ("a", "b")
                ),
                {"type": "message_delta", "delta": {"stop_reason": "tool_use"}},
                {"type": "message_stop"},
            ),
        ),
        True,
        "anthropic",
        "",
        tool_calls=(("a", "read", '{"path":"a"}'), ("b", "read", '{"path":"a"}')),
    ),
    Case(
        "anthropic: input that was cut",
        (
            events(
                {"type": "message_start", "message": {}},
                {"type": "content_block_start", "index": 0, "content_block": {**_USE, "input": {}}},
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": '{"pa'},
                },
                {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}},
                {"type": "message_stop"},
            ),
        ),
        True,
        "anthropic",
        "",
        tool_calls=(("t1", "read", '{"pa'),),
        finish="length",
        message={"content": [{**_USE, "input": {"INVALID_JSON": '{"pa'}}]},
    ),
]
"""The answer is kept whole."""


def refused(status: int, body: Json | str, error: str = "NotAllowed", says: str = "") -> Case:
    text = body if isinstance(body, str) else json.dumps(body)
    return Case(f"{status} {text[:60]}", (reply(text, status),), error=error, says=says)


MONEY = [
    refused(
        429,
        {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
        says="current quota",
    ),
    refused(429, "\ufeff" + failed(error={"message": "quota", "type": "insufficient_quota"})),
    refused(402, {"error": {"message": "Insufficient Balance", "code": "invalid_request_error"}}),
    refused(402, "pay"),
    refused(
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "Your credit balance is too low"},
        },
    ),
    refused(429, {"error": {"type": "exceeded_current_quota_error", "message": "suspended"}}),
    refused(429, {"error": {"code": "1113", "message": "余额不足或无可用资源包,请充值"}}),
    refused(
        412,
        {"error": {"message": "Account x is suspended, possibly due to reaching the monthly spending limit"}},
    ),
    refused(400, {"code": "Arrearage", "message": "Access denied, account in good standing"}),
    refused(403, {"code": 30001, "message": "Sorry, your account balance is insufficient", "data": None}),
    refused(403, {"error": {"code": "AccountOverdueError", "message": "overdue"}}),
    refused(429, {"error": "You have used all available credits"}),
    refused(503, {"error": {"message": "insufficient credits"}}),
]
"""Who wants to be paid first is not asked again."""

AGAIN = [
    *(
        again(f"status {status}", reply(failed(error={"message": "later"}), status), "later")
        for status in (408, 409, 424, 425, 498, 499, 500, 502, 503, 504, 520, 529)
    ),
    again(
        "bedrock's throttling",
        reply(failed(__type="ThrottlingException", message="Too many requests"), 400),
        "Too many requests",
    ),
    again("dashscope's throttling", reply(failed(code="Throttling.RateQuota", message="exceeded"), 400)),
    again("throttling in words", reply(failed(error={"message": "Rate limit reached"}), 400)),
    again(
        "google's rate limit",
        reply(
            failed(error={"code": 403, "message": "no", "details": [{"reason": "rateLimitExceeded"}]}), 403
        ),
    ),
    again("a gateway's 400", reply(failed(error={"code": "429", "message": "from upstream"}), 400)),
    again("a gateway's 400, busy", reply(failed(error={"status": 503, "message": "from upstream"}), 400)),
    again("busy as a 400", reply(failed(error={"code": "server_busy", "message": "busy"}), 400)),
    again(
        "gemini's quota of a minute",
        reply(
            failed(
                error={
                    "code": 429,
                    "status": "RESOURCE_EXHAUSTED",
                    "message": "You exceeded your current quota, please check your plan and billing details",
                }
            ),
            429,
        ),
    ),
]

_LATER = failed(error={"message": "later"})


def asks(name: str, seconds: float, body: str = _LATER, status: int = 429, **headers: str) -> Case:
    return again(name, reply(body, status, **headers), waits_s=seconds)


def _iso(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


WAITS = [
    asks("Retry-After: 1.5", 1.5, retry_after="1.5"),
    asks("Retry-After: 1500ms", 1.5, retry_after="1500ms"),
    asks("Retry-After: 1 second", 1, retry_after="1 second"),
    asks("Retry-After: quoted", 1, retry_after='"1"'),
    asks(
        "Retry-After: a date",
        2,
        retry_after="Wed, 21 Oct 2026 07:28:02 GMT",
        date="Wed, 21 Oct 2026 07:28:00 GMT",
    ),
    asks("Retry-After-Ms", 1.25, retry_after="9", retry_after_ms="1250"),
    asks("of a 503", 1, status=503, retry_after="1"),
    asks("retryDelay", 1.5, failed(error={"details": [{"@type": "x"}, {"retryDelay": "1.5s"}]})),
    asks("retryDelay in parts", 2, failed(error={"details": [{"retryDelay": {"seconds": 2}}]})),
    asks("retry_after in the body", 1.5, failed(error={"message": "later", "retry_after": 1.5})),
    asks("x-ratelimit-reset-requests", 1.2, x_ratelimit_reset_requests="1.2s"),
    asks(
        "x-ratelimit-reset-tokens", 0.25, x_ratelimit_reset_tokens="250ms", x_ratelimit_remaining_tokens="12"
    ),
    asks(
        "… of what is used up",
        1,
        x_ratelimit_reset_requests="1s",
        x_ratelimit_remaining_requests="0",
        x_ratelimit_reset_tokens="6m0s",
        x_ratelimit_remaining_tokens="900",
    ),
    asks("x-ratelimit-reset", 1, x_ratelimit_reset="1"),
    asks("RateLimit", 2, ratelimit="limit=10, remaining=0, reset=2"),
    asks(
        "in words", 1.5, failed(error={"message": "Rate limit reached. Please try again in 1.5s. Visit us."})
    ),
    asks("in words, milliseconds", 0.25, failed(error={"message": "Please retry in 250ms."})),
]
"""When to ask again."""

KINDS = [*FAILED_IN_A_200, *FINAL_IN_A_200, *DECORATED, *WHOLE, *MONEY, *AGAIN, *WAITS]
