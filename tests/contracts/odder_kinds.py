"""More odd replies by kind: of servers whose streams say things twice, number nothing or wrap what they say.

As ``odd_kinds.py``, which has the first of each kind; real workers get the ``SAMPLE`` of these.
"""

from __future__ import annotations

import gzip
import json
import time
from typing import Any

from tests.contracts.odd_kinds import (
    FINE_EVENTS,
    Case,
    Json,
    again,
    again_streamed,
    asks,
    call,
    completion,
    events,
    failed,
    fine,
    fine_streamed,
    message,
    piece,
    reply,
)

_USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}}
_OK = json.loads(completion())


def cut(*lines: str | Json) -> bytes:
    """A stream whose connection ends without its last chunk."""
    head, _, body = events(*lines).partition(b"\r\n\r\n")
    return head + b"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body)


def choice(finish: str | None, **more: Any) -> Json:
    return {"choices": [{"index": 0, "finish_reason": finish, **more}]}


def part(name: str | None = None, arguments: str | None = None, **more: Any) -> Json:
    """A piece of a call, with no more than what is given."""
    told = {"name": name, "arguments": arguments}
    return {"function": {field: text for field, text in told.items() if text is not None}, **more}


def calls(name: str, *pieces: list[Json], wanted: tuple[tuple[str, str], ...]) -> Case:
    """A stream of calls, in whatever pieces; the ids do not matter."""
    told = [piece(tool_calls=found) for found in pieces]
    made = tuple((None, *one) for one in wanted)
    return fine_streamed(name, *told, piece("tool_calls"), text="", tool_calls=made)


A, B = '{"a":1}', '{"a":2}'
BOTH = (("read", A), ("read", B))

CUT = [
    again_streamed("a reason of '' in each piece, cut", cut(piece("", content="fi"))),
    again_streamed("a reason of 'null' in each piece, cut", cut(piece("null", content="fi"))),
    again_streamed(
        "together's text beside a piece, cut", cut(choice(None, text="fi", delta={"content": "fi"}))
    ),
    again_streamed(
        "perplexity's message beside a piece, cut",
        cut(choice(None, message={"content": "fi"}, delta={"content": "fi"})),
    ),
    again_streamed("so far in each piece, cut", cut(choice(None, message={"content": "fi"}))),
]
"""What was cut is tried again, also where each piece looks like an end."""

TWICE = [
    fine_streamed(
        "together's text beside a piece that comes again",
        *[choice(None, text="1", delta={"role": "assistant", "content": "1"})] * 4,
        choice("stop", text="", delta={"content": ""}),
        text="1111",
    ),
    fine_streamed(
        "perplexity's message beside each piece",
        *[choice(None, message={"content": "ha" * n}, delta={"content": "ha"}) for n in (1, 2, 3)],
        choice("stop", message={"content": "hahaha"}, delta={}),
        text="hahaha",
    ),
    fine_streamed(
        "together's reasoning as text",
        choice(None, text="hm", delta={"content": None, "reasoning": "hm"}),
        choice("stop", text="fine", delta={"content": "fine"}),
    ),
    fine_streamed(
        "all of it at the end, stripped",
        piece(content="fine "),
        choice("stop", message={"content": "fine"}),
        text="fine ",
    ),
    fine_streamed(
        "so far in each piece",
        *[choice(None, message={"content": "fine"[:n]}) for n in (1, 2, 3)],
        choice("stop", message={"content": "fine"}),
    ),
    fine_streamed(
        "pieces of text", choice(None, text="fi"), choice(None, text="ne"), choice("stop", text="")
    ),
    fine_streamed("a reason of '' and then one", piece("", content="fine"), piece("stop"), finish="stop"),
    fine_streamed("no reason, and an end", piece("", content="fine"), "data: [DONE]"),
    fine_streamed("no reason and no end, but usage", piece(content="fine"), _USAGE, usage=(3, 5)),
    fine_streamed(
        "usage of nothing at the end",
        {**piece(content="fine"), "usage": _USAGE["usage"]},
        {**piece("stop"), "usage": {"prompt_tokens": 0, "completion_tokens": 0}},
        usage=(3, 5),
    ),
    fine_streamed(
        "words between", "data: ping", piece(content="fi"), "data: ping", piece("stop", content="ne")
    ),
    fine_streamed(
        "a moment as a sign of life", "event: ping\ndata: 2026-11-27", piece("stop", content="fine")
    ),
    Case(
        "a pretty whole in a stream",
        (reply(json.dumps(_OK, indent=1), kind="text/event-stream"),),
        True,
        text="fine",
    ),
    *(
        Case(
            f"bare lines, {kind}",
            (
                reply(
                    "\n".join(map(json.dumps, (piece(content="fi"), piece("stop", content="ne")))), kind=kind
                ),
            ),
            stream,
            text="fine",
        )
        for kind, stream in (("application/x-ndjson", True), ("application/json", False))
    ),
    Case(
        "packed once for each event",
        (
            reply(
                b"".join(
                    gzip.compress(b"data: %s\n\n" % json.dumps(one).encode())
                    for one in (piece(content="fi"), piece("stop", content="ne"))
                ),
                kind="text/event-stream",
                content_encoding="gzip",
            ),
        ),
        True,
        text="fine",
    ),
]
"""What comes twice, or in other pieces, is one answer."""

CALLS = [
    calls(
        "no ids and no numbers",
        [part("read", A, id="")],
        [part("list", B, id="")],
        wanted=(("read", A), ("list", B)),
    ),
    calls("one number, no ids", [part("read", A, index=0)], [part("read", B, index=0)], wanted=BOTH),
    calls("two in one piece, no ids", [part("read", A), part("read", B)], wanted=BOTH),
    calls(
        "one id and one number",
        [call("x", arguments=A, index=0)],
        [call("x", arguments=B, index=0)],
        wanted=BOTH,
    ),
    calls(
        "one id, other numbers",
        [call("x", arguments=A, index=0)],
        [call("x", arguments=B, index=1)],
        wanted=BOTH,
    ),
    calls(
        "the second under the number of the first, without a name",
        [call("x", arguments="", index=0)],
        [part("", A, index=0)],
        [part("", B, index=0)],
        wanted=BOTH,
    ),
    calls(
        "another id in each piece",
        [call("x", arguments='{"a"', index=0)],
        [part(None, ":1}", index=0, id="y")],
        wanted=(("read", A),),
    ),
    calls(
        "the name in a later piece",
        [call("x", arguments=A, index=0)],
        [{"index": 1, "id": "y"}],
        [part("list", B, index=1)],
        wanted=(("read", A), ("list", B)),
    ),
    *(
        calls(
            f"all of it once more, {name}",
            [call("x", arguments='{"a"', index=0)],
            [call("x", arguments=":1}", index=0)],
            [last],
            wanted=(("read", A),),
        )
        for name, last in (
            ("litellm", call("x", arguments=A, index=0)),
            ("encoded", call("x", arguments=json.dumps(A), index=0)),
            ("without a name", part(None, A, index=0)),
            ("under another number", call("x", arguments=A, index=1)),
        )
    ),
    calls(
        "pieces without a number or an id", [part("read", '{"a"')], [part(None, ":1}")], wanted=(("read", A),)
    ),
    calls(
        "localai's two numbers",
        [call("x", arguments="", index=0)],
        [call("x", arguments=A, index=1)],
        wanted=(("read", A),),
    ),
    calls(
        "an object within a text is no second call",
        [call("x", arguments='{"a":"}', index=0)],
        [part(None, '{"}', index=0)],
        wanted=(("read", '{"a":"}{"}'),),
    ),
    fine_streamed(
        "calls whole at the end too",
        piece(content="ok "),
        piece(tool_calls=[call("x", arguments=A, index=0)]),
        choice("tool_calls", message={"content": "ok", "tool_calls": [call("x", arguments=A)]}),
        text="ok ",
        tool_calls=(("x", "read", A),),
    ),
    fine("a call of nothing", completion(function_call={"name": "", "arguments": ""}), tool_calls=()),
    fine("calls of nothing", completion(tool_calls=[call("", "", "")]), tool_calls=()),
    fine(
        "calls as text",
        completion(None, tool_calls=json.dumps([call()])),
        "",
        tool_calls=(("c1", "read", "{}"),),
    ),
    fine("a filter behind a call", completion(None, "content_filter", tool_calls=[call()]), ""),
]
"""Two calls are two, and one is one, whatever numbers and ids they have."""

FORMS = [
    fine("wrapped in data", json.dumps({"code": 0, "msg": "success", "data": _OK})),
    fine("wrapped in result", json.dumps({"success": True, "errors": [], "result": _OK})),
    fine(
        "dashscope's output",
        json.dumps({"output": {"choices": _OK["choices"]}, "usage": {"input_tokens": 3, "output_tokens": 5}}),
        usage=(3, 5),
    ),
    fine("encoded twice", json.dumps(completion())),
    fine("a function's envelope", json.dumps({"statusCode": 200, "body": completion()})),
    fine("an error that says all is well", json.dumps({**_OK, "error": {"code": 0, "message": "success"}})),
    fine(
        "choices from 1, two",
        json.dumps(
            {"choices": [{**_OK["choices"][0], "index": 1}, {"index": 2, "message": {"content": "no"}}]}
        ),
    ),
    fine("content of 0", completion(0), "0"),
    fine("a list in JSON", completion([{"city": "Lima"}, 5]), '[{"city":"Lima"},5]'),
    fine(
        "parts with citations",
        completion([{"type": "text", "text": "fine", "citations": [1]}]),
        message={"content": [{"type": "text", "text": "fine", "citations": [1]}]},
    ),
    fine(
        "numbers beyond 64 bits, and what is too deep",
        completion(annotations=[10**30, "deep"]).replace('"deep"', "[" * 700 + "]" * 700),
    ),
    Case(
        "packed in two",
        (
            reply(
                gzip.compress(completion()[:40].encode()) + gzip.compress(completion()[40:].encode()),
                content_encoding="gzip",
            ),
        ),
        text="fine",
    ),
    fine("sensitive with text", completion(finish="sensitive"), finish="content_filter"),
]
"""One answer, whatever stands around it."""

REFUSED = [
    *(
        Case(
            f"stopped by a filter: {reason}",
            (reply(completion("", reason)),),
            error="ContentRefused",
            says=reason,
        )
        for reason in ("sensitive", "SAFETY", "PROHIBITED_CONTENT", "RECITATION", "guardrail_intervened")
    ),
    Case(
        "minimax's filter",
        (reply(failed(choices=None, base_resp={"status_code": 1027, "status_msg": "output new_sensitive"})),),
        error="ContentRefused",
    ),
    Case(
        "minimax's key",
        (reply(failed(choices=None, base_resp={"status_code": 1004, "status_msg": "login fail"})),),
        error="NotAllowed",
    ),
    Case(
        "a status beside", (reply(failed(error={"message": "bad key"}, status_code=401)),), error="NotAllowed"
    ),
    Case("a status beside words", (reply(failed(error="no such", status=404)),), error="ModelNotFound"),
    Case(
        "an error of many lines",
        (events('event: error\ndata: {\ndata: "error": {"message": "worker died", "code": 401}\ndata: }'),),
        True,
        error="NotAllowed",
        says="worker died",
    ),
    Case(
        "no money, wrong length",
        (reply(failed(error={"message": "pay"}), 402).replace(b"Length: ", b"Length: 9"),),
        error="NotAllowed",
        says="pay",
    ),
    Case(
        "no money, as an event",
        (
            reply(
                'event: error\ndata: {"error": {"code": "insufficient_quota"}}\n\n', 429, "text/event-stream"
            ),
        ),
        error="NotAllowed",
    ),
    Case(
        "no money, in the words of a gateway",
        (
            reply(
                failed(
                    error={"message": failed(error={"code": "insufficient_quota"}), "code": "bad_response"}
                ),
                429,
            ),
        ),
        error="NotAllowed",
    ),
    Case("another protocol", (reply(message({"type": "text", "text": "fine"})),), error="BadReply"),
]
"""What no other try makes better."""

AGAIN = [
    *(
        again(f"ends with {reason}", reply(completion("", reason)), reason)
        for reason in (
            "UNEXPECTED_TOOL_CALL",
            "function_call_filter: UNEXPECTED_TOOL_CALL",
            "MALFORMED_RESPONSE",
            "stream_error",
            "upstream_failed",
            "interrupted",
        )
    ),
    again("a choice of nothing but a reason", reply(json.dumps(choice("stop")))),
    again(
        "… and what its filter said",
        reply(json.dumps(choice("stop", message=None, content_filter_results={}))),
    ),
    again_streamed(
        "words of an error", events(piece(content="ha"), "data: Internal Server Error"), "Internal Server"
    ),
    again_streamed("nothing but words", events("data: upstream connect error"), "upstream connect error"),
    again_streamed("a sign of life, and no end", events("data: ping", piece(content="ha")), "in its middle"),
    again_streamed(
        "an error event of no known words",
        events(piece(content="ha"), 'event: error\ndata: {"cause": "evicted"}', "data: [DONE]"),
        "200 with an error",
    ),
    again_streamed("a sign of life, cut", cut("data: ping", piece(content="ha")), "connection"),
]
"""What another try may make better, with what the server said."""


def _ms(seconds: float) -> str:
    return str(int((time.time() + seconds) * 1000))


_LIMITS = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": _ms(-1)}
WAITS = [
    again(
        "openrouter's limits",
        reply(
            failed(error={"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": _LIMITS}}),
            429,
        ),
        waits_s=0,
    ),
    again("of an error in a 200", reply(failed(error={"code": 429}), retry_after="1"), waits_s=1),
    asks("please wait", 1, failed(error={"message": "Please wait 1 second before trying again."})),
    asks("by size", 1, ratelimitbysize_reset="1"),
    asks("in the words of a 503", 1, failed(error={"message": "Loading, retry in 1 second"}), 503),
]
"""When to ask again."""

ANTHROPIC = [
    Case(
        "anthropic: in pieces of its own",
        (
            events(
                {"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 5}}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "compaction"}},
                *(
                    {
                        "type": "content_block_delta",
                        "index": 0,
                        "delta": {"type": "compaction_delta", "content": t},
                    }
                    for t in ("sum", "mary")
                ),
                {
                    "type": "content_block_start",
                    "index": 1,
                    "content_block": {"type": "thinking", "thinking": "h"},
                },
                *(
                    {
                        "type": "content_block_delta",
                        "index": 1,
                        "delta": {"type": "signature_delta", "signature": t},
                    }
                    for t in ("SI", "G")
                ),
                {
                    "type": "content_block_start",
                    "index": 2,
                    "content_block": {"type": "text", "text": "fine"},
                },
                {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
                {"type": "message_delta", "delta": {}},
            ),
        ),
        True,
        "anthropic",
        "fine",
        usage=(3, 5),
        finish="stop",
        message={
            "content": [
                {"type": "compaction", "content": "summary"},
                {"type": "thinking", "thinking": "h", "signature": "SIG"},
                {"type": "text", "text": "fine"},
            ]
        },
    ),
    *(
        Case(f"anthropic: {name}", (reply(body),), adapter="anthropic", text="fine")
        for name, body in (
            ("in a list", f"[{message({'type': 'text', 'text': 'fine'})}]"),
            ("wrapped in data", f'{{"code": 0, "data": {message({"type": "text", "text": "fine"})}}}'),
        )
    ),
    Case(
        "anthropic: overloaded behind some text",
        (
            events(
                {"type": "message_start", "message": {}},
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "fi"}},
                {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            ),
            FINE_EVENTS,
        ),
        True,
        "anthropic",
        "fine",
        says="Overloaded",
    ),
]

ODDER = [*CUT, *TWICE, *CALLS, *FORMS, *REFUSED, *AGAIN, *WAITS, *ANTHROPIC]
SAMPLE = [*CUT[:2], *TWICE[:2], *CALLS[:2], FORMS[0], REFUSED[0], AGAIN[0], ANTHROPIC[0]]
"""For real workers: the gravest of each kind."""
