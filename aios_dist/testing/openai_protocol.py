"""OpenAI's chat completions: from a request's JSON to what was asked, from a reply to an answer's bytes."""

from __future__ import annotations

import time
from typing import Any

from aios_dist.testing.replies import Asked, BadRequest, Json, Reply, compact, pieces_of, prompt_tokens

_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def read(body: Json) -> Asked:
    """What a request asks for; ``BadRequest`` names the field that is wrong."""
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise BadRequest(400, "you must provide a model parameter", "model")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(400, "'messages' must be a list that is not empty", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            field = f"messages[{index}].role"
            raise BadRequest(400, f"'{field}' is missing: a message is an object with a role", field)
    _check_conversation(messages)
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    max_tokens = body.get(name)
    if max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1):
        raise BadRequest(400, f"'{name}' must be a number from 1", name)
    options, form = body.get("stream_options"), body.get("response_format")
    return Asked(
        model,
        tuple(messages),
        stream=body.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=max_tokens,
        as_json=isinstance(form, dict) and form.get("type") in ("json_object", "json_schema"),
    )


_ROLES = ("system", "developer", "user", "assistant", "tool", "function")


def _check_conversation(messages: list[Json]) -> None:
    """As OpenAI looks at a conversation: what an answer must look like that is appended to it, and that each
    of its calls has its result, and each result its call, right behind it."""
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        at, role, content = f"messages[{index}]", message["role"], message.get("content")
        if role not in _ROLES:
            raise _wrong(f"{at}.role", f"{role!r} is no role; known are {', '.join(_ROLES)}")
        if content is not None and not isinstance(content, (str, list)):
            raise _wrong(f"{at}.content", f"must be a text or a list of parts, not {type(content).__name__}")
        if isinstance(content, list):
            _check_parts(f"{at}.content", content)
        if role == "tool":
            if content is None:
                raise _wrong(f"{at}.content", "must not be null: what the tool gave, as text")
            if message.get("tool_call_id") not in open_calls:
                raise _wrong(
                    f"{at}.tool_call_id", "no call of the message with 'tool_calls' before it has this id"
                )
            open_calls.remove(message["tool_call_id"])
            continue
        if open_calls:
            raise _wrong(
                f"{at}.role", f"the calls {', '.join(open_calls)} have no message of the role 'tool' yet"
            )
        if role == "assistant":
            open_calls = _check_answer(at, message)
        elif content is None:
            raise _wrong(f"{at}.content", "must not be null")
    if open_calls:
        raise _wrong("messages", f"the calls {', '.join(open_calls)} have no message of the role 'tool'")


def _check_parts(at: str, parts: list[Any]) -> None:
    if not parts:
        raise _wrong(at, "must be a text, or a list of parts that is not empty")
    for number, part in enumerate(parts):
        if not isinstance(part, dict) or not isinstance(part.get("type"), str):
            raise _wrong(f"{at}[{number}].type", "is missing: a part is an object with a type")
        if part["type"] == "text" and not isinstance(part.get("text"), str):
            raise _wrong(f"{at}[{number}].text", f"must be text, not {type(part.get('text')).__name__}")


def _check_answer(at: str, message: Json) -> list[str]:
    """An answer of before; gives the ids of its calls."""
    calls = message.get("tool_calls")
    if calls is None:
        if message.get("content") is None and not any(
            message.get(k) for k in ("refusal", "function_call", "audio")
        ):
            raise _wrong(f"{at}.content", "must not be null where there are no calls; append reply.message")
        return []
    if not isinstance(calls, list) or not calls:
        raise _wrong(f"{at}.tool_calls", "must be a list that is not empty; append reply.message")
    for number, call in enumerate(calls):
        place = f"{at}.tool_calls[{number}]"
        kind = call.get("type") if isinstance(call, dict) else None
        if kind not in ("function", "custom"):
            raise _wrong(f"{place}.type", "must be 'function' or 'custom'; append reply.message")
        said, text = call.get(kind), {"function": "arguments", "custom": "input"}[kind]
        if not isinstance(call.get("id"), str) or not call["id"]:
            raise _wrong(f"{place}.id", "must be a text that is not empty")
        if not isinstance(said, dict) or not isinstance(said.get("name"), str):
            raise _wrong(f"{place}.{kind}", f"must have a name and its {text}; append reply.message")
        if not isinstance(said.get(text), str):
            raise _wrong(f"{place}.{kind}.{text}", f"must be text, not {type(said.get(text)).__name__}")
    ids = [call["id"] for call in calls]
    if len(set(ids)) < len(ids):
        raise _wrong(f"{at}.tool_calls", "two calls have one id")
    return ids


def _wrong(field: str, sentence: str) -> BadRequest:
    return BadRequest(400, f"'{field}': {sentence}", field)


def whole(asked: Asked, reply: Reply, call_id: str) -> bytes:
    """The answer of a call that does not stream."""
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.tool_calls:
        message["content"] = reply.text or None
        message["tool_calls"] = _tool_calls(reply, call_id)
    return compact(
        {
            "id": call_id,
            "object": "chat.completion",
            "created": int(time.time()),
            "model": asked.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}],
            "usage": _usage(asked, reply),
            "system_fingerprint": "fp_fake",
        }
    ).encode()


def stream(asked: Asked, reply: Reply, call_id: str, per_piece: int) -> list[bytes]:
    """The server-sent events of a streaming call, in the pieces that are written one after the other."""
    usage = ',"usage":null' if asked.include_usage else ""
    start = (
        f'data: {{"id":{compact(call_id)},"object":"chat.completion.chunk","created":{int(time.time())},'
        f'"model":{compact(asked.model)},"system_fingerprint":"fp_fake"{usage},"choices":['
    )
    open_, close = '{"index":0,"delta":', ',"logprobs":null,"finish_reason":null}]}\n\n'
    deltas = [f'{{"content":{compact(piece)}}}' for piece in pieces_of(reply.text, reply.tokens, per_piece)]
    for index, call in enumerate(_tool_calls(reply, call_id) if reply.tool_calls else ()):
        arguments = call["function"]["arguments"]
        call["function"]["arguments"] = ""
        deltas.append(compact({"tool_calls": [{"index": index, **call}]}))
        deltas += [
            compact({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
            for piece in pieces_of(arguments, -(-len(arguments) // 4), per_piece)
        ]
    frames = [start + open_ + delta + close for delta in deltas or ['{"content":""}']]
    frames[0] = start + open_ + '{"role":"assistant","content":"","refusal":null}' + close + frames[0]
    frames[-1] += f'{start}{open_}{{}},"logprobs":null,"finish_reason":{compact(reply.finish)}}}]}}\n\n'
    if asked.include_usage:
        end = compact(_usage(asked, reply))
        frames[-1] += f"{start.replace(usage, '')}],{compact('usage')}:{end}}}\n\n"
    frames[-1] += "data: [DONE]\n\n"
    return [frame.encode() for frame in frames]


def error(status: int, sentence: str, param: str | None = None) -> bytes:
    """The JSON of an error answer."""
    kind, code = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return compact({"error": {"message": sentence, "type": kind, "param": param, "code": code}}).encode()


def models(names: tuple[str, ...]) -> bytes:
    """The answer of GET /v1/models."""
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "fake-llm"} for name in names]
    return compact({"object": "list", "data": data}).encode()


def _tool_calls(reply: Reply, call_id: str) -> list[Json]:
    return [
        {
            "id": call.id or f"call_{call_id}_{index}",
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments_text},
        }
        for index, call in enumerate(reply.tool_calls)
    ]


def _usage(asked: Asked, reply: Reply) -> Json:
    before, after = prompt_tokens(asked.messages), reply.tokens
    return {"prompt_tokens": before, "completion_tokens": after, "total_tokens": before + after}
