"""A site for gunicorn and uWSGI (``app``) and for uvicorn (``asgi``): ``GET /before/TAG/COUNT`` does jobs.

Servers that fork import this in the parent: ``before`` is a fleet that was used there.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aios_dist import AsyncFleet
from tests.producers.work import fleet_of, part, part_async

fleet_of("before")
_fleets = {"before": AsyncFleet.from_env()}


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI."""
    _, which, tag, count = environ["PATH_INFO"].split("/")
    body = json.dumps(part(fleet_of(which), tag, int(count))).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[Any]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """ASGI."""
    _, which, tag, count = scope["path"].split("/")
    fleet = _fleets.get(which)
    if fleet is None:
        fleet = _fleets[which] = AsyncFleet.from_env()
    body = json.dumps(await part_async(fleet, tag, int(count))).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})
