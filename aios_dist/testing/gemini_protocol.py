"""Gemini's generateContent: from a request's JSON to what was asked, from a reply to an answer's bytes."""

from __future__ import annotations

import json
import re
from typing import Any

from aios_dist.testing.replies import Asked, BadRequest, Json, Reply, compact, pieces_of, prompt_tokens

PATH = re.compile(r"/.*?models/(?P<model>[^:]+):(?P<method>generateContent|streamGenerateContent)")
"""Where it is called: its path says which model, and whether the answer streams."""

SIGNATURE = "c2lnbmVk"
"""With the first call of an answer, as of a model that has thought."""

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "tool_calls": "STOP", "content_filter": "SAFETY"}
_ROLES = {"user": "user", "model": "assistant", None: "user"}


def read(body: Json) -> Asked:
    """What a request asks for; ``BadRequest`` names the field that is wrong.

    Args:
        body: with what its path says, ``model`` and ``stream``.
    """
    contents, system = body.get("contents"), body.get("systemInstruction")
    if not isinstance(contents, list) or not contents:
        raise BadRequest(400, "* GenerateContentRequest.contents: contents is not specified", "contents")
    _check(contents)
    config = body.get("generationConfig") or {}
    most = config.get("maxOutputTokens")
    if most is not None and (type(most) is not int or most < 1):
        raise BadRequest(400, "max_output_tokens must be positive.", "generationConfig")
    prompt = ({"role": "system", "content": system.get("parts")},) if isinstance(system, dict) else ()
    told = ({"role": _ROLES[one.get("role")], "content": one["parts"]} for one in contents)
    return Asked(
        str(body["model"]).removeprefix("models/"),
        (*prompt, *told),
        stream=body["stream"] is True,
        include_usage=True,
        max_tokens=most,
        as_json=config.get("responseMimeType") == "application/json",
    )


def _check(contents: list[Any]) -> None:
    """As Google looks at it: each content's form, and that calls and their results stand side by side."""
    called: list[Any] = []
    for index, content in enumerate(contents):
        at = f"contents[{index}]"
        parts = content.get("parts") if isinstance(content, dict) else None
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise BadRequest(400, f"Invalid JSON payload received. '{at}.parts' must be a list", at)
        if content.get("role") not in _ROLES:
            raise BadRequest(400, "Please use a valid role: user, model.", f"{at}.role")
        if not parts:
            raise BadRequest(
                400, f"* GenerateContentRequest.{at}.parts: contents.parts must not be empty", at
            )
        calls, results = (
            [part[kind].get("name") for part in parts if isinstance(part.get(kind), dict)]
            for kind in ("functionCall", "functionResponse")
        )
        if called != results:
            sentence = "ensure that the number of function response parts is equal to the number of"
            raise BadRequest(400, f"Please {sentence} function call parts of the function call turn.", at)
        for part in parts:
            if isinstance(part.get("functionResponse"), dict) and not isinstance(
                part["functionResponse"].get("response"), dict
            ):
                raise BadRequest(400, "Invalid value at 'function_response.response' (type Struct)", at)
        called = calls
    if called:
        raise BadRequest(400, "Please ensure that a function call turn is followed by its responses.", at)


def whole(asked: Asked, reply: Reply, call_id: str) -> bytes:
    """The answer of a call that does not stream."""
    parts: list[Json] = [{"text": reply.text}] if reply.text else []
    return compact(_answer(asked, reply, call_id, [*parts, *_calls(reply)], end=True)).encode()


def stream(asked: Asked, reply: Reply, call_id: str, per_piece: int) -> list[bytes]:
    """The server-sent events of a streaming call, in the pieces that are written one after the other."""
    pieces: list[list[Json]] = [
        [{"text": piece}] for piece in pieces_of(reply.text, reply.tokens, per_piece)
    ] + [[call] for call in _calls(reply)]
    pieces = pieces or [[]]
    last = len(pieces) - 1
    return [
        f"data: {compact(_answer(asked, reply, call_id, parts, end=at == last))}\r\n\r\n".encode()
        for at, parts in enumerate(pieces)
    ]


def error(status: int, sentence: str, param: str | None = None) -> bytes:
    """The JSON of an error answer."""
    name = _STATUSES.get(status, "INTERNAL" if status >= 500 else "FAILED_PRECONDITION")
    return compact({"error": {"code": status, "message": sentence, "status": name}}).encode()


def _answer(asked: Asked, reply: Reply, call_id: str, parts: list[Json], *, end: bool) -> Json:
    content = {"role": "model", "parts": parts} if parts else {"role": "model"}
    candidate: Json = {"content": content, "index": 0}
    before = prompt_tokens(asked.messages)
    counts = {"promptTokenCount": before, "totalTokenCount": before}
    if end:
        candidate["finishReason"] = _FINISH.get(reply.finish, "OTHER")
        counts |= {"candidatesTokenCount": reply.tokens, "totalTokenCount": before + reply.tokens}
    return {
        "candidates": [candidate],
        "usageMetadata": counts,
        "modelVersion": asked.model,
        "responseId": call_id,
    }


def _calls(reply: Reply) -> list[Json]:
    made: list[Json] = []
    for call in reply.tool_calls:
        said = call.arguments
        arguments = json.loads(said) if isinstance(said, str) else dict(said)
        known = {"id": call.id} if call.id else {}
        made.append({"functionCall": {**known, "name": call.name, "args": arguments}})
    if made:
        made[0]["thoughtSignature"] = SIGNATURE
    return made
