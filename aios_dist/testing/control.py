"""What the fake LLM answers besides calls: models, health, and what a test in its process asks ``FakeLLM``.

GET  /health                     {"status": "ok", "in_flight", "max_in_flight", "count"}
GET  /v1/models
GET  /calls?fields=…&after=…     the same and "calls": some fields of those after a call number
POST /reset                      forget all calls
POST /script                     a JSON object of settings, as in FakeLLM.script

The last three tell what was asked, and change what is answered: with a ``control_key`` they want it, as calls
want an API key.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from aios_dist.testing import openai_protocol
from aios_dist.testing.calls import FIELDS, SHORT_FIELDS
from aios_dist.testing.http_server import Connection, Request
from aios_dist.testing.replies import BadRequest, Json, check_key, compact

if TYPE_CHECKING:
    from aios_dist.testing.answering import Answering

_ROUTES = {"/health": "GET", "/models": "GET", "/calls": "GET", "/reset": "POST", "/script": "POST"}


def answer(llm: Answering, connection: Connection, request: Request, is_call: bool) -> None:
    """Answer a request that is not a call; ``is_call``: its path is one, only its method is wrong."""
    # A base URL ends in /v1 and people add to it: "/v1/calls" is meant as "/calls".
    path = request.path.removeprefix("/v1")
    wanted = "POST" if is_call else _ROUTES.get(path)
    try:
        if wanted is None or (path == "/models" and request.path == path):
            raise BadRequest(404, f"Invalid URL ({request.method} {request.path})")
        if request.method != wanted:
            raise BadRequest(405, f"Not allowed to {request.method} on {request.path} (use {wanted})")
        if path == "/models":
            check_key(llm.behaviour.api_key, request.headers)
            body = openai_protocol.models(llm.behaviour.models or ("fake-llm",))
        else:
            if path != "/health":
                check_key(llm.control_key, request.headers)
            body = compact(_control(llm, path, request)).encode()
    except BadRequest as bad:
        connection.respond(bad.status, openai_protocol.error(bad.status, bad.sentence, bad.param))
        return
    connection.respond(200, body)


def _control(llm: Answering, path: str, request: Request) -> Json:
    if path == "/reset":
        llm.reset()
    elif path == "/script":
        try:
            settings = json.loads(request.body or b"{}")
            if not isinstance(settings, dict):
                raise ValueError("the settings must be a JSON object")
            llm.change(llm.behaviour.changed(settings))
        except (TypeError, ValueError) as wrong:
            raise BadRequest(400, str(wrong)) from None
    state: Json = {"in_flight": llm.in_flight, "max_in_flight": llm.max_in_flight, "count": llm.count}
    if path == "/calls":
        return {**state, "calls": _calls(llm, request.query)}
    return {"status": "ok", **state}


def _calls(llm: Answering, query: str) -> list[dict[str, Any]]:
    wanted = parse_qs(query)
    fields = [name for text in wanted.get("fields", []) for name in text.split(",")] or list(SHORT_FIELDS)
    for name in fields:
        if name not in FIELDS:
            raise BadRequest(400, f"a call has no field {name!r}: give some of {', '.join(FIELDS)}", "fields")
    after = wanted.get("after", ["-1"])[-1]
    try:
        first = int(after) + 1
    except ValueError:
        raise BadRequest(400, f"after={after!r} is not a call number", "after") from None
    calls = [call.record() for call in llm.calls.values()]
    return [{name: getattr(call, name) for name in fields} for call in calls if call.number >= first]
