"""The one place that hides secrets: passwords of Redis URLs, keys of providers, in whatever form they show.

Whoever gets hold of a secret says so (:func:`learn`, :func:`learn_url`); whatever is printed, logged or
journaled goes through :func:`hide`. A process that serves (worker, Flower, ``up``, the command line) calls
:func:`install`, so that log records and tracebacks of libraries are masked as well.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, unquote, unquote_plus, urlsplit

STARS = "***"
RUN = 8
"""So many characters of a secret in a row are hidden, wherever they stand."""
SHORTEST = 4
"""A secret that is shorter is hidden in URLs only: else every other word would be stars."""
_STRIDE = 4
_PROBE = 5
"""Every run of 8 has one of these at a multiple of the stride: a long text takes a quarter of the time."""
MOST = 1000
"""Secrets that a process remembers; the oldest go."""

_NAME = r"[^=&?]*(?:password|passwd|secret|token)"
_QUERY = re.compile(rf"(?<=[?&])({_NAME})=((?:(?!&[\w.-]+=).)*)", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(_NAME, re.IGNORECASE)
_ELIDED = re.compile(r"\*{2,}|\.{2,}|…")
_TAIL = re.compile(r"[\w+/~-]*")
BESIDE = 200
"""Characters of a key that are looked at beside the dots in its middle."""


def masked(url: str) -> str:
    """The URL without its passwords, for messages and logs; also of a URL that cannot be understood."""
    scheme, sep, rest = url.partition("://")
    if not sep:
        scheme, rest = "", url
    # Kombu writes several Sentinels as several URLs; any other `;` may be of the password.
    between = f";{scheme}://"
    return scheme + sep + between.join(_without_secrets(place)[0] for place in rest.split(between))


def secrets_of(url: str) -> set[str]:
    """Every password in the URL, as it is written there and as it is sent."""
    scheme, _, rest = url.partition("://")
    found = {s for place in rest.split(f";{scheme}://") for s in _without_secrets(place)[1]}
    try:
        parts = urlsplit(url)
        found |= {parts.password or ""} | {
            value for name, value in parse_qsl(parts.query) if _SECRET.fullmatch(name)
        }
    except ValueError:
        pass
    return {form for secret in found for form in (secret, unquote(secret), unquote_plus(secret)) if form}


def _without_secrets(place: str) -> tuple[str, set[str]]:
    """What follows ``scheme://``, masked, and the secrets that stood in it (raw)."""
    found: set[str] = set()

    def hide_value(match: re.Match[str]) -> str:
        found.add(match[2])
        return f"{match[1]}={STARS}" if match[2] else match[0]

    # First the query: a password there may hold an `@` of its own.
    place = _QUERY.sub(hide_value, place)
    account, at, where = place.rpartition("@")
    user, colon, password = account.partition(":")
    if not (at and colon and password):
        return place, found
    found.add(password)
    return f"{user}:{STARS}@{where}", found


class Mask:
    """Hides some secrets; made anew when there are others."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = tuple(dict.fromkeys(s for s in secrets if len(s) >= SHORTEST))
        forms = {form for secret in self.secrets for form in _forms(secret)}
        self._runs = {form[i : i + RUN] for form in forms for i in range(len(form) - RUN + 1)}
        self._probes = {run[i : i + _PROBE] for run in self._runs for i in range(RUN - _PROBE + 1)}
        whole = sorted((re.escape(f) for f in forms if SHORTEST <= len(f) < RUN), key=len, reverse=True)
        self._whole = re.compile(rf"(?<!\w)(?:{'|'.join(whole)})(?!\w)") if whole else None

    def hide(self, text: str) -> str:
        """The text with stars in the place of each secret, and of each piece of one."""
        if not self.secrets or not text:
            return text
        text = self._without_runs(text)
        if self._whole is not None:
            text = self._whole.sub(STARS, text)
        # `sk-ab…wxyz`, as providers themselves shorten a key; and one that a bound has cut.
        if "**" in text or ".." in text or "…" in text:
            text = self._without_elided(text)
        for length in range(RUN - 1, SHORTEST - 1, -1):
            tail = text[-length:]
            if len(tail) == length and any(len(s) > length and s.startswith(tail) for s in self.secrets):
                return text[:-length] + STARS
        return text

    def _without_runs(self, text: str) -> str:
        near = [i for i in range(0, len(text), _STRIDE) if text[i : i + _PROBE] in self._probes]
        if not near:
            return text
        kept, end = "", 0
        begins = {i for probe in near for i in range(max(0, probe - _STRIDE + 1), probe + 1)}
        for begin in sorted(begins):
            if text[begin : begin + RUN] not in self._runs:
                continue
            if begin > end or not kept:
                kept += text[end:begin] + STARS
            end = begin + RUN
        return kept + text[end:]

    def _without_elided(self, text: str) -> str:
        kept, end = "", 0
        for dots in _ELIDED.finditer(text):
            head = _last_word(text[max(end, dots.start() - BESIDE) : dots.start()])
            tail = _TAIL.match(text[dots.end() : dots.end() + BESIDE])
            after = tail[0] if tail else ""
            if any(
                (len(head) > 2 and s.startswith(head)) or (len(after) > 2 and s.endswith(after))
                for s in self.secrets
            ):
                kept += text[end : dots.start() - len(head)] + STARS
                end = dots.end() + len(after)
        return kept + text[end:]


def _last_word(text: str) -> str:
    return text[len(text) - len(_TAIL.match(text[::-1])[0]) :]  # type: ignore[index]  # it always matches


def _forms(secret: str) -> set[str]:
    """The secret as libraries write it: plain, in URLs, in JSON, in a repr, in HTML, in base64."""
    data = secret.encode("utf-8", "surrogateescape")
    plain = {secret, quote(data, safe=""), quote(data), quote_plus(data), json.dumps(secret)[1:-1]}
    plain |= {json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1], repr(data)[2:-1]}
    plain |= {html.escape(secret)} | {quote(form, safe="") for form in plain}
    plain |= {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}  # JSON in JSON, as in logs
    lower = {re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), form) for form in plain}
    for before in range(3):  # within other bytes (`user:password`) it begins at one of three places
        coded = base64.b64encode(b"\0" * before + data).decode()
        inner = coded[(0, 2, 3)[before] :].rstrip("=")
        inner = inner[:-1] if (before + len(data)) % 3 else inner  # the last one depends on what follows
        lower |= {inner, inner.replace("+", "-").replace("/", "_")}
    return plain | lower


_lock = threading.Lock()
_known: dict[str, None] = {}
_mask = Mask()


def learn(*secrets: str | None) -> None:
    """Hide these from now on, everywhere in this process."""
    global _mask
    new = [s for s in secrets if s and s not in _known]
    if not new:
        return
    with _lock:
        _known.update(dict.fromkeys(new))
        while len(_known) > MOST:
            del _known[next(iter(_known))]
        _mask = Mask(_known)


def learn_url(url: str) -> None:
    """Hide the passwords of this URL from now on."""
    learn(*secrets_of(url))


def hide(text: str) -> str:
    """The text without anything of the secrets that this process has."""
    return _mask.hide(text)


def hide_in(value: Any) -> Any:
    """Plain data (dicts, lists, texts) with all texts in it as :func:`hide` leaves them, and no passwords."""
    if isinstance(value, str):
        return masked(hide(value)) if "://" in value and "@" in value else hide(value)
    if isinstance(value, dict):
        return {
            key: STARS if isinstance(inner, str) and inner and _SECRET.fullmatch(str(key)) else hide_in(inner)
            for key, inner in value.items()
        }
    return [hide_in(inner) for inner in value] if isinstance(value, list | tuple) else value


def install() -> None:
    """Mask every log record of this process, and the traceback that ends it; twice is as once."""
    make = logging.getLogRecordFactory()
    if getattr(make, "masks", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        _hide_record(made)
        return made

    record.masks = True  # type: ignore[attr-defined]
    # Not a filter of a handler: Celery, Flower and users' modules add handlers of their own, at any time.
    logging.setLogRecordFactory(record)
    sys.excepthook = _print_masked


def _hide_record(record: logging.LogRecord) -> None:
    try:
        said = record.getMessage()
    except Exception:  # a wrong format: logging says so itself, with the arguments
        record.msg, record.args = hide(str(record.msg)), tuple(hide(str(a)) for a in record.args or ())
        return
    shown = hide(said)
    if shown != said:
        record.msg, record.args = shown, ()
    if record.exc_info and record.exc_info[0] is not None:
        # Formatters print this in the place of the exception.
        record.exc_text = hide("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    if record.stack_info:
        record.stack_info = hide(record.stack_info)


def _print_masked(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, where))))
    sys.stderr.flush()
