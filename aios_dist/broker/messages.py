"""What comes in on Celery's side of Redis proves nothing: a ticket is made anew, or it is dropped.

Whoever can write to a lane's list can put anything there. A ticket says only "look at this lane": what
is no valid one is dropped, and the reconciler makes another. What is valid becomes a message of ours with its
checked names and nothing else of it: no body, no compression, no other task, no time, nothing to follow.
"""

from __future__ import annotations

import base64
import itertools
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec

from aios_dist.broker.tickets import NO_ARGUMENTS, message

logger = logging.getLogger("aios_dist.broker.messages")

LONGEST_TICKET = 64 * 1024
LONGEST_NEWS = 16 * 1024 * 1024
"""Bytes of what Celery sends to all: remote control, and events, which come a few thousand at a time."""

SAY_EVERY_S = 60.0


class Tally:
    """Counts what goes wrong again and again, and says so once a minute.

    Args:
        log: writes the sentence; its last argument is how often it has happened since the last one.
        sentence: a format of logging, with places for the reason and for that number.
    """

    def __init__(self, log: Callable[..., object], sentence: str) -> None:
        self.count = 0
        self._log = log
        self._sentence = sentence
        self._unsaid = 0
        self._said = float("-inf")

    def add(self, reason: object, **options: Any) -> None:
        """It happened once more. ``reason``: in a few words, nothing of a message's content."""
        self.count += 1
        self._unsaid += 1
        now = time.monotonic()
        if now - self._said >= SAY_EVERY_S:
            self._log(self._sentence, reason, self._unsaid, **options)
            self._said, self._unsaid = now, 0


dropped = Tally(
    logger.warning, "Dropped what is no valid ticket or message: %s (%d in all since this was last said)."
)
"""Of this process."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Hint = Annotated[str, msgspec.Meta(max_length=4096)]


class _Headers(msgspec.Struct):
    """What we read of a ticket's headers; of what Celery would act upon, only that it is not there."""

    task: Literal["aios.step"]
    id: Name
    root_id: Name | None = None
    parent_id: Name | None = None
    argsrepr: Hint | None = None
    compression: None = None
    eta: None = None
    expires: None = None
    group: None = None
    shadow: None = None
    replaced_task_nesting: Literal[0] = 0
    retries: Literal[0] = 0
    timelimit: tuple[None, None] | None = None


class _Properties(msgspec.Struct):
    body_encoding: Literal["base64"] | None = None


class _Ticket(
    msgspec.Struct, rename={"content_type": "content-type", "content_encoding": "content-encoding"}
):
    headers: _Headers
    properties: _Properties
    body: Annotated[str, msgspec.Meta(max_length=1024)]
    content_type: Literal["application/json"] = "application/json"
    content_encoding: Literal["utf-8"] | None = None


class _NewsHeaders(msgspec.Struct):
    compression: None = None


class _NewsProperties(msgspec.Struct):
    delivery_tag: Name
    delivery_info: dict[str, Any]
    body_encoding: Literal["base64"] | None = None


class _News(msgspec.Struct, rename={"content_type": "content-type"}):
    headers: _NewsHeaders
    properties: _NewsProperties
    body: str
    content_type: Literal["application/json"]


_Nothing = Annotated[list[Any], msgspec.Meta(max_length=0)]
_Empty = Annotated[dict[str, Any], msgspec.Meta(max_length=0)]
_decode_ticket = msgspec.json.Decoder(_Ticket).decode
_decode_body = msgspec.json.Decoder(tuple[_Nothing, _Empty, dict[str, None]]).decode
_decode_news = msgspec.json.Decoder(_News).decode
_tags = itertools.count(1)


def ticket(lane: str, said: bytes) -> bytes:
    """A valid ticket made of what was found on a lane.

    Args:
        lane: the lane that it was taken from, whatever it says itself.
        said: as it was found, of any length and content.

    Returns:
        Celery's message, in JSON, with our own body and the checked names.

    Raises:
        ValueError: it is no valid ticket; the message says why, without any of its content.
    """
    if len(said) > LONGEST_TICKET:
        raise ValueError(f"{len(said)} bytes, and a ticket has {LONGEST_TICKET} at the most")
    try:
        found = _decode_ticket(said)
        if found.body != NO_ARGUMENTS:
            body: Any = found.body
            _decode_body(base64.b64decode(body, validate=True) if found.properties.body_encoding else body)
    except (ValueError, RecursionError) as exc:  # msgspec's and base64's own, and text that is no UTF-8
        raise ValueError(why(exc)) from None
    wanted = found.headers
    names = {"root_id": wanted.root_id, "parent_id": wanted.parent_id, "argsrepr": wanted.argsrepr}
    headers = {name: value for name, value in names.items() if value is not None}
    return msgspec.json.encode(message(lane, wanted.id, headers, tag=str(next(_tags))))


def chain(said: bytes) -> tuple[str | None, str | None]:
    """Root and parent of the task that a ticket would have been; of what is no valid one None."""
    try:
        found = _decode_ticket(said if len(said) <= LONGEST_TICKET else b"").headers
    except (ValueError, RecursionError):
        return None, None
    return found.root_id or found.id, found.parent_id


def is_news(said: bytes) -> bool:
    """Whether this can be Celery's remote control or an event; what cannot is counted as dropped."""
    try:
        if len(said) > LONGEST_NEWS:
            raise ValueError(f"{len(said)} bytes, and a message to all has {LONGEST_NEWS} at the most")
        _decode_news(said)
    except (ValueError, RecursionError) as exc:
        dropped.add(why(exc))
        return False
    return True


def why(exc: Exception) -> str:
    """What is wrong with a message, without any of its content."""
    if isinstance(exc, msgspec.ValidationError):  # names the field and what is wanted of it
        return str(exc).replace("\n", " ")[:200]
    if isinstance(exc, (msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
        return "not JSON"
    return str(exc)[:200]


__all__ = ["SAY_EVERY_S", "Tally", "chain", "dropped", "is_news", "ticket", "why"]
