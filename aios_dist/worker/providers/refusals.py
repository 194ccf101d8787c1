"""What a provider's refusal means: its class of error, its words within bounds, and when to ask again."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from aios_dist import errors
from aios_dist.errors import LLMError
from aios_dist.text.masking import hide, masked
from aios_dist.worker.providers.lenient import clean

TEXT_LIMIT = 500
"""Characters of a provider's own words that an error keeps."""

_FILTERED = ("content_filter", "content_policy_violation")
_NO_MONEY = ("insufficient_quota", "billing_error", "billing_hard_limit_reached")
_AGAIN = (408, 409, 425, 499)
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m)")


def refusal(provider: str, status: int, body: object, headers: Mapping[str, str], place: str) -> LLMError:
    """The error for an answer with another status than 200.

    Args:
        provider: the adapter's name.
        status, body, headers: the answer; the body as data where it was JSON, else as text.
        place: the model and its address, for who has to correct them.
    """
    if isinstance(body, list) and body:  # Gemini's
        body = body[0]
    inner = body.get("error", body) if isinstance(body, Mapping) else body
    fields: Mapping[str, Any] = inner if isinstance(inner, Mapping) else {}
    code = fields.get("code") or fields.get("type")
    told = (fields.get("message") or fields.get("detail")) if fields else inner
    text = " ".join(str(told or "no reason given").split())
    if 300 <= status < 400:
        to = masked(str(headers.get("location", "")))
        text = f"it sends us elsewhere ({to}), which nobody follows with a prompt: correct base_url"
    kind = _error_class(status)
    if code in _FILTERED:
        kind = errors.ContentRefused
    elif code in _NO_MONEY or fields.get("type") in _NO_MONEY or "credit balance" in text.lower():
        kind = errors.NotAllowed
    where = f" ({place})" if status == 404 or 300 <= status < 400 else ""
    return kind(
        bounded(f"{provider} answered {status}: {text}", TEXT_LIMIT - len(where)) + where,
        status=status,
        retry_after_s=_first(retry_after_s(headers), _retry_delay_s(fields.get("details"))),
        code=code if isinstance(code, str) else None,
        provider=provider,
    )


BEYOND = 1024
"""Characters behind the bound that are looked at, so that it cuts no secret before that is hidden."""


def bounded(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text that may be journaled and logged: without secrets, and not the whole page of a proxy."""
    more = len(text) > limit + BEYOND  # a megabyte would hold up all the calls of this loop
    text = hide(clean(text[: limit + BEYOND]))
    return text[: limit - 1] + "…" if more or len(text) > limit else text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The seconds of ``retry-after-ms`` or ``Retry-After`` (a number, ``2s`` or a date), None without.

    https://www.rfc-editor.org/rfc/rfc9110#field.retry-after
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        seconds = None if value is None else _seconds(value, unit, headers.get("date"))
        if seconds is not None and math.isfinite(seconds):
            return max(0.0, seconds)
    return None


def _seconds(value: str, unit: float, date: str | None) -> float | None:
    try:
        return float(value) * unit
    except ValueError:
        pass
    if span := _SPAN.fullmatch(value.strip()):
        return float(span[1]) * _UNITS[span[2]]
    try:
        # Against the server's own clock where it tells it: ours may differ.
        now = parsedate_to_datetime(date).timestamp() if date else time.time()
        return parsedate_to_datetime(value).timestamp() - now
    except ValueError:
        return None


def _retry_delay_s(details: object) -> float | None:
    """``retryDelay`` of Google's error details (https://google.aip.dev/193)."""
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(told := detail.get("retryDelay"), str):
            return _seconds(told, 1.0, None)
    return None


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _error_class(status: int) -> type[LLMError]:
    if status == 429:
        return errors.RateLimited
    if status in _AGAIN or status >= 500:
        return errors.ProviderBusy
    if status in (401, 402, 403):
        return errors.NotAllowed
    return errors.ModelNotFound if status == 404 else errors.BadRequest
