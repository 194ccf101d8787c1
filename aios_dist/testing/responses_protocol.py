"""OpenAI's Responses: from a request's JSON to what was asked, from a reply to an answer's bytes."""

from __future__ import annotations

import time
from typing import Any

from aios_dist.testing import openai_protocol
from aios_dist.testing.replies import Asked, BadRequest, Json, Reply, compact, pieces_of, prompt_tokens

error = openai_protocol.error

_ROLES = ("system", "developer", "user", "assistant")
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
_RESULTS = ("function_call_output", "custom_tool_call_output")


def read(body: Json) -> Asked:
    """What a request asks for; ``BadRequest`` names the field that is wrong."""
    model, asked = body.get("model"), body.get("input")
    if not isinstance(model, str) or not model:
        raise BadRequest(400, "you must provide a model parameter", "model")
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    if not isinstance(asked, list) or not asked:
        raise BadRequest(400, "'input' must be a text, or a list that is not empty", "input")
    for name in ("max_tokens", "messages", "response_format"):
        if name in body:
            raise BadRequest(400, f"Unsupported parameter: '{name}'", name)
    _check_items(asked)
    most, form = body.get("max_output_tokens"), (body.get("text") or {}).get("format") or {}
    if most is not None and (type(most) is not int or most < 1):
        raise BadRequest(400, "'max_output_tokens' must be a number from 1", "max_output_tokens")
    said = body.get("instructions")
    prompt: tuple[Json, ...] = ({"role": "system", "content": said},) if said else ()
    return Asked(
        model,
        (*prompt, *(_message(item) for item in asked)),
        stream=body.get("stream") is True,
        include_usage=True,
        max_tokens=most,
        as_json=form.get("type") in ("json_object", "json_schema"),
    )


def _message(item: Json) -> Json:
    if item.get("type") in _RESULTS:
        return {"role": "tool", "content": item.get("output")}
    return item


def _check_items(items: list[Any]) -> None:
    """As OpenAI looks at it: what an item must have, and that each call has its result, and each its call."""
    calls: list[Any] = []
    results: list[Any] = []
    for index, item in enumerate(items):
        at = f"input[{index}]"
        if not isinstance(item, dict):
            raise BadRequest(400, f"'{at}' must be an object", at)
        kind = item.get("type", "message")
        if kind == "message" and item.get("role") not in _ROLES:
            raise BadRequest(400, f"'{at}.role' must be one of {', '.join(_ROLES)}", f"{at}.role")
        if kind == "message" and not isinstance(item.get("content"), str | list):
            raise BadRequest(400, f"'{at}.content' must be a text or a list of parts", f"{at}.content")
        if kind == "message" and isinstance(item.get("content"), list):
            _check_parts(f"{at}.content", item["content"])
        for name in ("call_id", "name", _CALLS.get(kind, "")) if kind in _CALLS else ():
            if not isinstance(item.get(name), str):
                raise BadRequest(400, f"'{at}.{name}' must be text", f"{at}.{name}")
        if kind in _CALLS:
            calls.append(item["call_id"])
        elif kind in _RESULTS:
            if item.get("call_id") not in calls:
                raise BadRequest(400, f"No tool call found for call_id {item.get('call_id')}.", at)
            results.append(item["call_id"])
    if missing := [id for id in calls if id not in results]:
        raise BadRequest(400, f"No tool output found for function call {missing[0]}.", "input")


def _check_parts(at: str, parts: list[Any]) -> None:
    for number, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or not kind.startswith(("input_", "output_", "refusal")):
            raise BadRequest(400, f"'{at}[{number}].type' is none: {kind!r}", f"{at}[{number}].type")
        if kind in ("input_text", "output_text") and not isinstance(part.get("text"), str):
            raise BadRequest(400, f"'{at}[{number}].text' must be text", f"{at}[{number}].text")


def whole(asked: Asked, reply: Reply, call_id: str) -> bytes:
    """The answer of a call that does not stream."""
    return compact(_response(asked, reply, call_id, _items(reply, call_id))).encode()


def stream(asked: Asked, reply: Reply, call_id: str, per_piece: int) -> list[bytes]:
    """The server-sent events of a streaming call, in the pieces that are written one after the other."""
    items = _items(reply, call_id)
    begun = {**_response(asked, reply, call_id, []), "status": "in_progress", "usage": None}
    frames = [_event("response.created", response=begun) + _event("response.in_progress", response=begun)]
    for index, item in enumerate(items):
        frames += _item(index, item, per_piece, reply.tokens)
    kind = "response.incomplete" if _why(reply) else "response.completed"
    frames[-1] += _event(kind, response=_response(asked, reply, call_id, items))
    return [(frames[0] + frames[1]).encode(), *(frame.encode() for frame in frames[2:])]


def _item(index: int, item: Json, per_piece: int, tokens: int) -> list[str]:
    """One item: a piece for each delta, its beginning with the first and its end with the last."""
    at = {"item_id": item["id"], "output_index": index}
    if item["type"] == "message":
        part, place = item["content"][0], {**at, "content_index": 0}
        texts = pieces_of(part["text"], tokens, per_piece)
        frames = [_event("response.output_text.delta", **place, delta=text, logprobs=[]) for text in texts]
        empty = {**item, "status": "in_progress", "content": []}
        opening = _event("response.content_part.added", **place, part={**part, "text": ""})
        closing = _event("response.output_text.done", **place, text=part["text"], logprobs=[])
        closing += _event("response.content_part.done", **place, part=part)
    else:
        text = item["arguments"]
        pieces = pieces_of(text, -(-len(text) // 4), per_piece)
        frames = [_event("response.function_call_arguments.delta", **at, delta=piece) for piece in pieces]
        empty, opening = {**item, "status": "in_progress", "arguments": ""}, ""
        closing = _event("response.function_call_arguments.done", **at, name=item["name"], arguments=text)
    frames = frames or [""]
    frames[0] = _event("response.output_item.added", output_index=index, item=empty) + opening + frames[0]
    frames[-1] += closing + _event("response.output_item.done", output_index=index, item=item)
    return frames


def _items(reply: Reply, call_id: str) -> list[Json]:
    items: list[Json] = []
    if reply.text or not reply.tool_calls:
        part = {"type": "output_text", "text": reply.text, "annotations": [], "logprobs": []}
        items.append(
            {
                "type": "message",
                "id": f"msg_{call_id}",
                "status": "completed",
                "role": "assistant",
                "content": [part],
            }
        )
    for index, call in enumerate(reply.tool_calls):
        items.append(
            {
                "type": "function_call",
                "id": f"fc_{call_id}_{index}",
                "status": "completed",
                "call_id": call.id or f"call_{call_id}_{index}",
                "name": call.name,
                "arguments": call.arguments_text,
            }
        )
    return items


def _why(reply: Reply) -> str | None:
    return {"length": "max_output_tokens", "content_filter": "content_filter"}.get(reply.finish)


def _response(asked: Asked, reply: Reply, call_id: str, items: list[Json]) -> Json:
    before, after, why = prompt_tokens(asked.messages), reply.tokens, _why(reply)
    return {
        "id": f"resp_{call_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": "incomplete" if why else "completed",
        "error": None,
        "incomplete_details": {"reason": why} if why else None,
        "instructions": None,
        "metadata": {},
        "model": asked.model,
        "output": items,
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": before,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": after,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": before + after,
        },
    }


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {compact({'type': kind, 'sequence_number': 0, **fields})}\n\n"
