"""The record of one call to the fake LLM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aios_dist.testing.replies import Json

CLIENT_LEFT = 499
"""``Call.status`` of a call whose client left before the answer was written (as nginx counts it)."""

# A key must not turn up in a log or an issue because a test printed its calls.
_SECRET = frozenset(
    {"authorization", "x-api-key", "x-goog-api-key", "api-key", "cookie", "proxy-authorization"}
)


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as far as it has got.

    ``number`` counts from 0 since the start or the last reset, in the order in which requests were read.
    ``start``/``end``: Unix time in seconds, of the request fully read and of the answer written; ``end`` and
    ``status`` are None while the call is in flight. ``headers``: lower-case names, keys hidden.
    """

    number: int
    id: str
    protocol: str
    model: str
    messages: tuple[Json, ...]
    stream: bool
    start: float
    end: float | None
    status: int | None
    fault: str | None
    client_request_id: str
    headers: dict[str, str]
    body: Json


_IDS = {"anthropic": "msg", "openai": "chatcmpl"}
FIELDS = tuple(Call.__dataclass_fields__)
SHORT_FIELDS = tuple(name for name in FIELDS if name != "body")


class CallInFlight:
    """A call while it happens; ``record()`` gives what is known so far. Times: the loop's, in seconds."""

    __slots__ = ("asked_model", "body", "end", "fault", "headers", "id", "messages", "number", "protocol",
                 "start", "status", "stream", "timer", "wall")  # fmt: skip

    def __init__(
        self, number: int, protocol: str, headers: dict[str, str], start: float, wall: float
    ) -> None:
        self.number, self.protocol, self.headers, self.start = number, protocol, headers, start
        self.wall = wall  # add to a loop time to get Unix time
        self.id = f"{_IDS.get(protocol, protocol)}-{number}"
        self.asked_model = ""
        self.messages: tuple[Json, ...] = ()
        self.stream = False
        self.body: Json = {}
        self.end: float | None = None
        self.status: int | None = None
        self.fault: str | None = None
        self.timer: Any = None

    def record(self) -> Call:
        end = self.end
        return Call(
            number=self.number,
            id=self.id,
            protocol=self.protocol,
            model=self.asked_model,
            messages=self.messages,
            stream=self.stream,
            start=self.start + self.wall,
            end=None if end is None else end + self.wall,
            status=self.status,
            fault=self.fault,
            client_request_id=self.headers.get("x-client-request-id", ""),
            headers={name: "(hidden)" if name in _SECRET else value for name, value in self.headers.items()},
            body=self.body,
        )
