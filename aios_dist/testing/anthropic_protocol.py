"""Anthropic's messages: from a request's JSON to what was asked, from a reply to an answer's bytes."""

from __future__ import annotations

import json
from typing import Any

from aios_dist.testing.replies import Asked, BadRequest, Json, Reply, compact, pieces_of, prompt_tokens

_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def read(body: Json) -> Asked:
    """What a request asks for; ``BadRequest`` names the field that is wrong."""
    model, messages, system = body.get("model"), body.get("messages"), body.get("system")
    if not isinstance(model, str) or not model:
        raise BadRequest(400, "model: Field required")
    max_tokens = body.get("max_tokens")
    if type(max_tokens) is not int or max_tokens < 1:
        raise BadRequest(400, "max_tokens: Field required, a number from 1")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(400, "messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant"):
            raise BadRequest(400, f"messages.{index}.role: must be 'user' or 'assistant'")
    _check_conversation(messages)
    prompt: tuple[Json, ...] = ({"role": "system", "content": system},) if system else ()
    return Asked(model, (*prompt, *messages), body.get("stream") is True, True, max_tokens)


_NEEDS: dict[str, dict[str, type]] = {
    "text": {"text": str},
    "thinking": {"thinking": str, "signature": str},
    "redacted_thinking": {"data": str},
    "tool_use": {"id": str, "name": str, "input": dict},
    "tool_result": {"tool_use_id": str},
}


def _check_conversation(messages: list[Json]) -> None:
    """As Anthropic looks at it: each block's form, and that calls and their results stand side by side."""
    called: list[str] = []
    for index, message in enumerate(messages):
        content = message.get("content")
        if not isinstance(content, (str, list)):
            raise BadRequest(400, f"messages.{index}.content: must be a text or a list of blocks")
        if not content and index < len(messages) - 1:
            raise BadRequest(400, f"messages.{index}: all messages must have non-empty content")
        blocks = content if isinstance(content, list) else []
        for number, block in enumerate(blocks):
            _check_block(f"messages.{index}.content.{number}", block)
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if sorted(results) != sorted(called):
            raise BadRequest(
                400,
                f"messages.{index}: each `tool_use` needs its `tool_result` in the message behind it",
            )
        called = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(called)) < len(called):
            raise BadRequest(400, f"messages.{index}: `tool_use` ids must be unique")
    if called:
        raise BadRequest(400, "messages: the last `tool_use` has no `tool_result` behind it")


def _check_block(at: str, block: Any) -> None:
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        raise BadRequest(400, f"{at}: must be a block with a type")
    for name, kind in _NEEDS.get(block["type"], {}).items():
        if not isinstance(block.get(name), kind):
            raise BadRequest(400, f"{at}.{block['type']}.{name}: must be of the type {kind.__name__}")
    if block["type"] == "text" and not block["text"].strip():
        raise BadRequest(400, f"{at}: text content blocks must contain non-whitespace text")


def whole(asked: Asked, reply: Reply, call_id: str) -> bytes:
    """The answer of a call that does not stream."""
    content: list[Json] = [{"type": "text", "text": reply.text}] if reply.text or not reply.tool_calls else []
    content += _tool_uses(reply, call_id)
    return compact(
        {
            **_message(asked, call_id),
            "content": content,
            "stop_reason": _STOP.get(reply.finish, reply.finish),
            "usage": {"input_tokens": prompt_tokens(asked.messages), "output_tokens": reply.tokens},
        }
    ).encode()


def stream(asked: Asked, reply: Reply, call_id: str, per_piece: int) -> list[bytes]:
    """The server-sent events of a streaming call, in the pieces that are written one after the other."""
    usage = {"input_tokens": prompt_tokens(asked.messages), "output_tokens": 1}
    message = {**_message(asked, call_id), "content": [], "stop_reason": None, "usage": usage}
    opening = _event("message_start", message=message) + _event("ping")
    frames: list[str] = []
    if reply.text or not reply.tool_calls:
        texts = pieces_of(reply.text, reply.tokens, per_piece)
        frames += _block(
            0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": text} for text in texts]
        )
    for index, use in enumerate(_tool_uses(reply, call_id)):
        text = reply.tool_calls[index].arguments_text
        parts = pieces_of(text, -(-len(text) // 4), per_piece)
        deltas = [{"type": "input_json_delta", "partial_json": part} for part in parts]
        frames += _block(index + bool(reply.text), {**use, "input": {}}, deltas)
    frames[0] = opening + frames[0]
    stop = {"stop_reason": _STOP.get(reply.finish, reply.finish), "stop_sequence": None}
    frames[-1] += _event("message_delta", delta=stop, usage={"output_tokens": reply.tokens}) + _event(
        "message_stop"
    )
    return [frame.encode() for frame in frames]


def error(status: int, sentence: str, param: str | None = None) -> bytes:
    """The JSON of an error answer."""
    kind = _ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return compact(
        {"type": "error", "error": {"type": kind, "message": sentence}, "request_id": None}
    ).encode()


def _message(asked: Asked, call_id: str) -> Json:
    return {
        "id": call_id,
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "stop_sequence": None,
    }


def _tool_uses(reply: Reply, call_id: str) -> list[Json]:
    return [
        {
            "type": "tool_use",
            "id": call.id or f"toolu_{call_id}_{index}",
            "name": call.name,
            "input": json.loads(call.arguments) if isinstance(call.arguments, str) else dict(call.arguments),
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _block(index: int, block: Json, deltas: list[Json]) -> list[str]:
    """One content block: a piece for each delta, its start with the first and its stop with the last."""
    frames = [_event("content_block_delta", index=index, delta=delta) for delta in deltas] or [""]
    frames[0] = _event("content_block_start", index=index, content_block=block) + frames[0]
    frames[-1] += _event("content_block_stop", index=index)
    return frames


def _event(kind: str, **fields: Any) -> str:
    return f"event: {kind}\ndata: {compact({'type': kind, **fields})}\n\n"
