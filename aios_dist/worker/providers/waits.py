"""When a provider wants to be asked again: in its headers, its error, or its words. In seconds from now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from aios_dist.errors import LLMError, RateLimited, RetryableLLMError

_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(
    r"(\d+(?:\.\d+)?)\s*(ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?)(?![a-z])\s*",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"(?:(?:try again|retry|available|wait)\b[^.\d]{0,40}?\b(?:in|after|for)|\bwait)\s+([\d.]+[^,;()\"]*)",
    re.IGNORECASE,
)
_MOMENT = re.compile(
    r"(?:try again|retry|available|resets?)\s+(?:at|on)\s+(\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d))",
    re.IGNORECASE,
)
_RESET = re.compile(
    r"(?:x-|anthropic-)?rate-?limit(?:bysize)?-(?:(?P<one>[a-z-]+?)-)?reset(?:-(?P<other>[a-z-]+))?"
)
_IETF = re.compile(r"\b(?:reset|t)=(\d+)")
"""``RateLimit`` of the IETF's drafts: https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/"""

_EPOCH = 10**9
"""A number above is a moment, in seconds, and one a thousand times as large in ms: no wait is 30 years."""

MOST_WAIT_S = 32 * 86400.0
"""What is longer is no wait but nonsense, and would keep the model from everybody."""

_IN_BODY = (("retry_after_ms", 1e-3), ("retry_after", 1.0), ("retryAfter", 1.0), ("retry_after_seconds", 1.0))
_IN_BODY_LAST = (("estimated_time", 1.0),)  # of Hugging Face, until a model is loaded


ASK_AGAIN = {"retry-after-ms": 1e-3, "retry-after": 1.0, "x-retry-after": 1.0}
"""Headers that say when, and the seconds of what a plain number in them counts."""


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds of ``retry-after-ms`` or ``Retry-After`` (a number, ``1m30s`` or a date), None without.

    ``now``: seconds since 1970.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    for name, unit in ASK_AGAIN.items():
        value = headers.get(name)
        seconds = None if value is None else seconds_of(value, now, unit, headers.get("date"))
        if seconds is not None:
            return seconds
    return None


def wait_s(
    headers: Mapping[str, str], fields: Mapping[str, Any], text: str, kind: type[LLMError], now: float
) -> float | None:
    """The seconds for which a provider wants to be left in peace; None where it does not say.

    Args:
        headers: of its refusal.
        fields: the refusal's body.
        text: its words.
        kind: of its refusal: its words count where it is tried again, and where there was too much its
            limits, which say when there is room again.
        now: seconds since 1970.
    """
    for found in _said(headers, fields, text, kind, now):
        if found is not None:
            return found
    return None


def _said(
    headers: Mapping[str, str], fields: Mapping[str, Any], text: str, kind: type[LLMError], now: float
) -> Iterator[float | None]:
    """What each place says of it, the most exact first."""
    yield retry_after_s(headers, now)
    yield _retry_delay_s(fields.get("details"), now)
    for name, unit in (*_IN_BODY, *_IN_BODY_LAST):
        value = fields.get(name)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            yield seconds_of(str(value), now, unit)
    within = _headers_within(fields)
    yield retry_after_s(within, now)
    if issubclass(kind, RetryableLLMError):
        if told := _WORDS.search(text):
            yield _span(told[1])
        if told := _MOMENT.search(text):
            yield seconds_of(told[1], now)
    if issubclass(kind, RateLimited):
        yield _reset_s(headers, now)
        yield _reset_s(within, now)


def _headers_within(fields: Mapping[str, Any]) -> Mapping[str, str]:
    """OpenRouter's place for the headers of its limits: in the body."""
    metadata = fields.get("metadata")
    told = metadata.get("headers") if isinstance(metadata, Mapping) else None
    return (
        {str(name).lower(): str(value) for name, value in told.items()} if isinstance(told, Mapping) else {}
    )


def seconds_of(value: str, now: float, unit: float = 1.0, date: str | None = None) -> float | None:
    """A wait in any form that is in use (a number, ``1m30s``, a date, a moment), never before now; else None.

    Args:
        value: the wait.
        now: seconds since 1970, by our clock.
        unit: seconds that a plain number counts.
        date: the server's own clock, where it tells it: ours may differ.
    """
    value = value.strip().strip('"')
    try:
        number = float(value)
    except ValueError:
        found = _span(value)
        if found is None:
            found = _until(value, now, date)
    else:
        if number > _EPOCH * 1000:
            found = number / 1000 - now
        else:
            found = number - now if number > _EPOCH else number * unit
    return max(0.0, found) if found is not None and found < MOST_WAIT_S else None


def _span(value: str) -> float | None:
    """``1m26.4s``, ``20 seconds``; what follows the first time is not looked at."""
    seconds, at = 0.0, 0
    while part := _PART.match(value, at):
        unit = part[2].lower()
        seconds += float(part[1]) * _UNITS["ms" if unit.startswith("mil") or unit == "ms" else unit[0]]
        at = part.end()
    return seconds if at else None


def _until(value: str, now: float, date: str | None) -> float | None:
    try:
        then = datetime.fromisoformat(value)
    except ValueError:
        pass
    else:
        return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - now
    try:
        told = parsedate_to_datetime(date).timestamp() if date else now
        return parsedate_to_datetime(value).timestamp() - told
    except (ValueError, OverflowError):
        return None


def _retry_delay_s(details: object, now: float) -> float | None:
    """``retryDelay`` of Google's error details (https://google.aip.dev/193)."""
    for detail in details if isinstance(details, list) else ():
        told = detail.get("retryDelay") if isinstance(detail, Mapping) else None
        if isinstance(told, Mapping):
            told = f"{told.get('seconds', 0)}s"
        if isinstance(told, str):
            return seconds_of(told, now)
    return None


def _reset_s(headers: Mapping[str, str], now: float) -> float | None:
    """When the limits that are used up are no more; of several the last one."""
    waits: dict[bool, list[float]] = {True: [], False: []}
    for name, value in headers.items():
        found = _RESET.fullmatch(name.lower())
        if found is None:
            if name.lower() in ("ratelimit", "x-ratelimit") and (told := _IETF.search(value)):
                waits[False].append(float(told[1]))
            continue
        seconds = seconds_of(value, now, 1.0, headers.get("date"))
        if seconds is None:
            continue
        left = headers.get(name.lower().replace("reset", "remaining"), "")
        what = found["one"] or found["other"] or ""
        if left.strip() in ("0", "0.0"):
            waits[True].append(seconds)
        elif not left or "token" in what:  # some tokens are left, and the call wanted more
            waits[False].append(seconds)
    return max(waits[True] or waits[False], default=None)
