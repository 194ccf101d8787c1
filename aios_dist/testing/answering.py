"""How the fake LLM answers one call.

The request is read, its reply built, and a timer set for when it is due; the timer writes it. No task and no
thread belongs to a call, so thousands may wait at once and each costs about a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Protocol
from urllib.parse import unquote

from aios_dist.testing import anthropic_protocol, gemini_protocol, openai_protocol, responses_protocol
from aios_dist.testing.behaviour import Behaviour
from aios_dist.testing.calls import CLIENT_LEFT, CallInFlight
from aios_dist.testing.faults import STATUSES, Fault
from aios_dist.testing.http_server import Connection, Request
from aios_dist.testing.odd import odd
from aios_dist.testing.replies import Asked, BadRequest, Json, Reply, check_key, draws, fingerprint, seeded


class _Protocol(Protocol):
    """What a protocol module gives."""

    def read(self, body: Json) -> Asked: ...
    def whole(self, asked: Asked, reply: Reply, call_id: str) -> bytes: ...
    def stream(self, asked: Asked, reply: Reply, call_id: str, per_piece: int) -> list[bytes]: ...
    def error(self, status: int, sentence: str, param: str | None = None) -> bytes: ...


_PROTOCOLS: dict[str, tuple[str, _Protocol]] = {
    "/v1/chat/completions": ("openai", openai_protocol),
    "/v1/messages": ("anthropic", anthropic_protocol),
    "/v1/responses": ("openai-responses", responses_protocol),
}


def _called(path: str) -> tuple[str, _Protocol, Json] | None:
    """The protocol that is called at a path, and what the path says of the request; None: no call."""
    if (found := _PROTOCOLS.get(path)) is not None:
        return *found, {}
    if (told := gemini_protocol.PATH.fullmatch(path)) is None:
        return None
    more = {"model": unquote(told["model"]), "stream": told["method"] != "generateContent"}
    return "gemini", gemini_protocol, more


_GARBAGE = b'{"id": "chatcmpl-0", "choices": [{"mess"<<<garbage>>>}]}'
_GARBAGE_EVENT = b'event: message_start\ndata: {"id": "<<<garbage\n\n'
# Pieces of a stream that are due within this many seconds are written together: timers are not more exact.
_TOGETHER = 0.0005


class Answering:
    """Serves calls under a behaviour and remembers the last ``keep`` of them. Lives in one event loop.

    ``other(self, connection, request, is_call)`` answers what is no call; ``is_call``: but for its method.
    """

    def __init__(
        self, behaviour: Behaviour, keep: int, other: Callable[[Answering, Connection, Request, bool], None]
    ) -> None:
        self.behaviour = behaviour
        self.control_key: str | None = None
        self.calls: dict[int, CallInFlight] = {}
        self.count = self.in_flight = self.max_in_flight = 0
        self._keep = keep
        self._other = other
        self._scripted_from = 0
        self._seen: Counter[bytes] = Counter()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the event loop whose clock and timers are used from now on."""
        self._loop = loop
        # One clock for durations, Unix time for people: the difference is taken once, so both stay in step.
        self._wall = time.time() - loop.time()

    def reset(self) -> None:
        """Forget all calls and begin every count again."""
        self.calls.clear()
        self._seen.clear()
        self.count = self._scripted_from = 0
        self.behaviour.reply.restart()
        self.max_in_flight = self.in_flight

    def change(self, behaviour: Behaviour) -> None:
        """Behave so from the next call on."""
        if behaviour.faults is not self.behaviour.faults:
            self._scripted_from = self.count
        self.behaviour = behaviour

    def serve(self, connection: Connection, request: Request) -> None:
        """Answer a request, now or when its time has come."""
        found = _called(request.path)
        if found is None or request.method != "POST":
            self._other(self, connection, request, found is not None)
            return
        call = CallInFlight(self.count, found[0], request.headers, request.at, self._wall)
        self.count += 1
        self.calls[call.number] = call
        if len(self.calls) > self._keep:
            del self.calls[next(iter(self.calls))]
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        connection.on_gone = partial(self._end, call, CLIENT_LEFT)
        _, protocol, more = found
        try:
            self._answer(connection, request, protocol, call, more)
        except BadRequest as bad:
            self._refuse(connection, call, bad.status, protocol.error(bad.status, bad.sentence, bad.param))
        except Exception as broken:  # the script of a test may raise anything; its client must be told
            sentence = f"the fake LLM's script failed: {type(broken).__name__}: {broken}"
            self._refuse(connection, call, 500, protocol.error(500, sentence))

    def _answer(
        self, connection: Connection, request: Request, protocol: _Protocol, call: CallInFlight, said: Json
    ) -> None:
        """Decide what this call gets, build it, and set the timer that writes it."""
        behaviour, loop = self.behaviour, self._loop
        check_key(behaviour.api_key, request.headers)
        call.body = _body(request.body)
        asked = protocol.read({**call.body, **said})
        call.asked_model, call.messages, call.stream = asked.model, asked.messages, asked.stream
        if behaviour.models and asked.model not in behaviour.models:
            raise BadRequest(404, f"The model `{asked.model}` does not exist.", "model")
        mark = fingerprint(behaviour.seed, asked.messages)
        fault_u = latency_u = 0.5
        if behaviour.draws:
            fault_u, latency_u = draws(mark, self._seen[mark])
            self._seen[mark] += 1
        fault = behaviour.faults.pick(call.number - self._scripted_from, fault_u)
        answers = fault is None or fault.kind == "odd"
        reply: Reply | Fault | None = behaviour.reply.say(call) if answers else None
        if isinstance(reply, Fault):
            fault, reply = reply, None
        if reply is None:
            reply = seeded(mark, behaviour.output_tokens, asked.max_tokens, asked.as_json)
        first, last = behaviour.latency.seconds(latency_u, reply.tokens)
        if reply.latency is not None:
            first, last = None, reply.latency

        kind = call.fault = None if fault is None else fault.kind
        if kind == "hang":
            return
        more = f"x-request-id: req_{call.number}\r\n"
        finish: Callable[[], None]
        if fault is not None and fault.kind in STATUSES:
            status = int(fault.kind)
            if status in (429, 503, 529):
                milliseconds = round(fault.retry_after * 1000)
                more += f"Retry-After: {fault.retry_after:g}\r\nretry-after-ms: {milliseconds}\r\n"
            body = protocol.error(500 if status == 200 else status, STATUSES[fault.kind])
            finish = partial(self._refuse, connection, call, status, body, more)
            last = last if status >= 500 else 0.0
        elif asked.stream:
            pieces = protocol.stream(asked, reply, call.id, behaviour.chunk_tokens)
            if kind == "garbage":
                pieces = [_GARBAGE_EVENT]
            elif kind == "odd":
                pieces = odd(pieces, call.number)
            elif kind == "cut":
                pieces = pieces[: len(pieces) // 2] or [pieces[0][: len(pieces[0]) // 2]]
            first = last / len(pieces) if first is None else first
            step = (last - first) / max(1, len(pieces) - 1)
            due = [request.at + first + step * index for index in range(len(pieces))]
            finish = partial(self._stream, connection, call, pieces, due, 0, more)
            last = first
        else:
            body = _GARBAGE if kind == "garbage" else protocol.whole(asked, reply, call.id)
            if kind == "odd":
                [body] = odd([body], call.number)
            finish = partial(self._respond, connection, call, body, more)
        if last <= 0:
            finish()
        else:
            call.timer = loop.call_at(request.at + last, finish)

    def _refuse(
        self, connection: Connection, call: CallInFlight, status: int, body: bytes, more: str = ""
    ) -> None:
        self._end(call, status)
        connection.respond(status, body, more)

    def _respond(self, connection: Connection, call: CallInFlight, body: bytes, more: str) -> None:
        self._end(call, 200)
        if call.fault == "cut":
            connection.respond_cut(body, more)
        else:
            connection.respond(200, body, more)

    def _stream(
        self,
        connection: Connection,
        call: CallInFlight,
        pieces: list[bytes],
        due: list[float],
        at: int,
        more: str,
    ) -> None:
        """Write the pieces from ``at`` that are due, and come back for the rest."""
        now, end = self._loop.time() + _TOGETHER, at + 1
        while end < len(pieces) and due[end] <= now:
            end += 1
        data = b"".join(pieces[at:end])
        if at == 0:
            connection.start_stream(data, more)
        else:
            connection.stream(data)
        if end < len(pieces):
            call.timer = self._loop.call_at(due[end], self._stream, connection, call, pieces, due, end, more)
            return
        self._end(call, 200)
        if call.fault == "cut":
            connection.cut()
        else:
            connection.end_stream()

    def _end(self, call: CallInFlight, status: int) -> None:
        call.end, call.status = self._loop.time(), status
        self.in_flight -= 1
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None


def _body(raw: bytes) -> Json:
    try:
        body = json.loads(raw)
    except ValueError:
        raise BadRequest(400, "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise BadRequest(400, "The body of the request must be a JSON object.")
    return body
