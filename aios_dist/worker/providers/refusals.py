"""What a provider's refusal means: its class of error, its words within bounds, and when to ask again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aios_dist import errors
from aios_dist.errors import LLMError
from aios_dist.text.masking import hide, masked
from aios_dist.worker.providers.lenient import clean, count, decode, read_text, table
from aios_dist.worker.providers.waits import retry_after_s as retry_after_s
from aios_dist.worker.providers.waits import wait_s

TEXT_LIMIT = 500
"""Characters of a provider's own words that an error keeps."""

_FILTERED = (
    *("content_filter", "content_policy_violation"),
    *("bio_policy", "cyber_policy", "image_content_policy_violation", "misalignment_policy_violation"),
    *("data_inspection_failed", "datainspectionfailed"),
    *("1026", "1027", "1301"),  # MiniMax', Zhipu's
)
_AGAIN = (408, 409, 423, 424, 425, 498, 499)
_GONE = (404, 410)

_NO_MONEY = re.compile(
    r"insufficient[_ ]?(?:quota|balance|funds?|credits?)|exceeded_current_quota_error|credit_limit"
    r"|billing_(?:error|disabled)|billing_hard_limit_reached|arrear(?:age)?|account_?overdue|payment_required|quota_not_enough|^1113$",
    re.IGNORECASE,
)
"""Codes of providers that want to be paid first."""

_NO_MONEY_SAID = re.compile(
    r"credit balance|(?:insufficient|not enough|no remaining|out of|run out of|used all available)"
    r"[a-z ]{0,12}(?:credits?|balance|funds?)|balance (?:is |was )?(?:insufficient|not enough|too low)"
    r"|account.{0,40}(?:overdue|suspended)|(?:spend(?:ing)?|billing hard) limit|payment required"
    r"|欠费|余额不足",
    re.IGNORECASE,
)
"""The same in their words, where the code says nothing: Anthropic's, Zhipu's, Fireworks', MiniMax', xAI's."""

_THROTTLED = re.compile(
    r"throttl|rate[_ -]?limit|too[_ -]?many[_ -]?requests|resource_?exhausted|request_?limit_?exceeded"
    r"|concurrency_?limit",
    re.IGNORECASE,
)
_BUSY = re.compile(
    r"overloaded|service_?unavailable|server_?busy|model_?not_?ready|engine_overloaded|^unavailable$|^aborted$",
    re.IGNORECASE,
)
_UNKNOWN_MODEL = re.compile(r"model_?not_?(?:found|exist|exists)|model_not_supported", re.IGNORECASE)
_BAD_KEY = re.compile(
    r"invalid_?api_?key|api_?key_?invalid|authentication_?error|unauthenticated", re.IGNORECASE
)
_ALONE_TOO_LARGE = re.compile(
    r"request too large.{0,400}?limit\D{0,3}([\d,]+).{0,20}?requested\D{0,3}([\d,]+)",
    re.IGNORECASE | re.DOTALL,
)

_STATUS_OF = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "resource_exhausted": 429,
    "invalid_request_error": 400,
    "badrequesterror": 400,
    "invalid_argument": 400,
    "context_length_exceeded": 400,
    "failed_precondition": 400,
    "authentication_error": 401,
    "authenticationerror": 401,
    "invalid_api_key": 401,
    "unauthenticated": 401,
    "billing_error": 402,
    "permission_error": 403,
    "permission_denied": 403,
    "permissiondeniederror": 403,
    "not_found": 404,
    "not_found_error": 404,
    "notfounderror": 404,
    "model_not_found": 404,
    "request_too_large": 413,
    "api_error": 500,
    "timeout_error": 504,
    "deadline_exceeded": 504,
    "unavailable": 503,
    "overloaded_error": 529,
    "1002": 429,
    "1004": 401,
    "1039": 429,
    "2013": 400,
    "2049": 401,
}
"""Names of errors that came in an answer of status 200. OpenAI's, vLLM's, Google's, MiniMax' numbers, and
https://platform.claude.com/docs/en/api/errors"""

_CODES = (
    "code",
    "type",
    "status",
    "reason",
    "__type",
    "error_code",
    "errorCode",
    "status_code",
    "statusCode",
)
_NUMBERS = (*_CODES, "http_status", "http_code")
_WORDS = ("message", "Message", "detail", "details", "error_description", "msg", "error_msg", "errorMessage")
_MORE_WORDS = ("status_msg", "error", "errors", "title", "faultstring", "reason", "text")
_INNER = ("error", "errors", "base_resp", "fault", "data")
_DEPTH = 4


def refusal(
    provider: str,
    status: int,
    body: object,
    headers: Mapping[str, str],
    place: str,
    now: float,
    *,
    after_all: bool = False,
) -> LLMError:
    """The error for an answer with another status than 200.

    Args:
        provider: the adapter's name.
        status, body, headers: the answer; the body as data where it was JSON, else as text.
        place: the model and its address, for who has to correct them.
        now: seconds since 1970.
        after_all: its status was 200, and the error came behind it.
    """
    fields = fields_of(body)
    names = [*_names(fields), *_names(fields_of(read_within(fields.get("message"))))]
    text = " ".join((words_of(fields or body) or "no reason given").split())
    if 300 <= status < 400:
        to = masked(str(headers.get("location", "")))
        text = f"it sends us elsewhere ({to}), which nobody follows with a prompt: correct base_url"
    # Some gateways put what their provider answered into a 400 of their own.
    real = status_of(fields) if status == 400 and _says_again(fields) else status
    kind, alone = _error_class(real, names, text), _alone_too_large(text)
    if alone and kind is errors.RateLimited:
        kind = errors.BadRequest  # however long it waits, and it would hold all the others up
    code = fields.get("code") or fields.get("type")
    return kind(
        named(
            f"{provider} answered {f'200 with an error ({status})' if after_all else status}: {text}", place
        ),
        status=status,
        retry_after_s=wait_s(headers, fields, text, kind, now),
        code=code if isinstance(code, str) else None,
        provider=provider,
        unsayable=True if alone and kind is errors.BadRequest else None,
    )


def named(text: str, place: str, limit: int = TEXT_LIMIT) -> str:
    """A provider's words within bounds, and behind them who said so."""
    where = f" ({place})"
    return bounded(text, limit - len(where)) + where


_EVENT = re.compile(rb"(?:^|\n)data:\s*(\{.*)", re.DOTALL)


def read_body(data: bytes) -> object:
    """What an error says: as data, however it is written, else as text."""
    event = _EVENT.search(data)  # to who has asked for a stream
    for form in (data, event[1] if event else b""):
        try:
            return decode(form)
        except msgspec.DecodeError:
            continue
    return data.decode("utf-8", "replace")


def read_within(text: object) -> object:
    """The error of another server that a gateway gives as its own words; None where it is none."""
    return read_text(text) if isinstance(text, str) and text.lstrip()[:1] == "{" else None


def status_of(said: object, around: object = None) -> int:
    """The HTTP status for an error told in the midst of an answer; 500 where nothing says otherwise.

    Args:
        said: the error.
        around: what it stood in, which may say it in its place.
    """
    told = [table(fields_of(said)), table(said), table(around)]
    for fields in told:
        for name in _NUMBERS:
            number = count(fields.get(name))
            if 400 <= number <= 599:
                return number
    names = (name.lower() for fields in told for name in _names(fields))
    return next((_STATUS_OF[name] for name in names if name in _STATUS_OF), 500)


def _says_again(fields: Mapping[str, Any]) -> bool:
    numbers = [count(fields.get(name)) for name in _NUMBERS]
    return any(number in (*_AGAIN, 429) or 500 <= number <= 599 for number in numbers)


def fields_of(body: object, depth: int = _DEPTH) -> Mapping[str, Any]:
    """The object that says what is wrong, out of whatever is wrapped around it; empty where there is none."""
    if isinstance(body, list):  # Gemini's, Cloudflare's
        body = next((entry for entry in body if isinstance(entry, Mapping)), None)
    if not isinstance(body, Mapping):
        return {}
    if depth:
        for name in _INNER:
            inner = fields_of(body.get(name), depth - 1) if name in body else {}
            if inner and (name != "data" or words_of(inner)):
                return inner
    return body


def words_of(said: object, depth: int = _DEPTH) -> str:
    """What an error says in words; "" where it says none."""
    if isinstance(said, str):
        return said.strip()
    if isinstance(said, list):
        return "; ".join(filter(None, (words_of(entry, depth - 1) for entry in said[:20]))) if depth else ""
    if not isinstance(said, Mapping) or not depth:
        return ""
    told = next((w for name in (*_WORDS, *_MORE_WORDS) if (w := words_of(said.get(name), depth - 1))), "")
    metadata = said.get("metadata")  # OpenRouter's: what its provider said
    raw = words_of(metadata.get("raw"), depth - 1) if isinstance(metadata, Mapping) else ""
    return f"{told}: {raw}" if told and raw else told or raw


BEYOND = 1024
"""Characters behind the bound that are looked at, so that it cuts no secret before that is hidden."""


def bounded(text: str, limit: int = TEXT_LIMIT) -> str:
    """A text that may be journaled and logged: without secrets, and not the whole page of a proxy."""
    more = len(text) > limit + BEYOND  # a megabyte would hold up all the calls of this loop
    text = hide(clean(text[: limit + BEYOND]))
    return text[: limit - 1] + "…" if more or len(text) > limit else text


def _names(fields: Mapping[str, Any]) -> Iterator[str]:
    """All that an error calls itself."""
    for name in _CODES:
        value = fields.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool):
            yield str(value)
    details = fields.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and isinstance(detail.get("reason"), str):
            yield detail["reason"]


def _error_class(status: int, names: list[str], text: str) -> type[LLMError]:
    """What it is: names count more than the status, and the status more than words."""

    def called(what: re.Pattern[str]) -> bool:
        return any(what.search(name) for name in names)

    if any(name.lower() in _FILTERED for name in names):
        return errors.ContentRefused
    if status == 402 or called(_NO_MONEY) or _NO_MONEY_SAID.search(text):
        return errors.NotAllowed
    if status == 429:
        return errors.RateLimited
    if status in (400, 403, 500, 503) and called(_THROTTLED):
        return errors.RateLimited
    if status in (400, 500) and not called(_BUSY) and _THROTTLED.search(text):
        return errors.RateLimited
    if status in _AGAIN or status >= 500 or (status == 400 and called(_BUSY)):
        return errors.ProviderBusy
    if status in (401, 403) or (status == 400 and called(_BAD_KEY)):
        return errors.NotAllowed
    if status in _GONE or (status == 400 and called(_UNKNOWN_MODEL)):
        return errors.ModelNotFound
    return errors.BadRequest


def _alone_too_large(text: str) -> bool:
    """The one request wants more than the whole limit of a minute: no wait helps."""
    found = _ALONE_TOO_LARGE.search(text)
    if found is None:
        return False
    limit, wanted = (count(number.replace(",", "")) for number in found.groups())
    return wanted > limit
