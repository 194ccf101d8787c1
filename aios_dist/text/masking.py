"""The one place that hides secrets: passwords of Redis URLs, keys of providers, in whatever form they show.

Whoever gets hold of a secret says so (:func:`learn`, :func:`learn_url`); whatever is printed, logged or
journaled goes through :func:`hide`. A process that serves (worker, Flower, ``up``, the command line) calls
:func:`install`, so that log records and tracebacks of libraries are masked as well.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from aios_dist.text.mask import STARS, Mask

MOST = 1000
"""Secrets that a process remembers; the oldest go."""

_NAME = r"[^=&?]*(?:password|passwd|secret|token)"
_QUERY = re.compile(rf"(?<=[?&])({_NAME})=((?:(?!&[\w.-]+=).)*)", re.IGNORECASE | re.DOTALL)
_SECRET = re.compile(_NAME, re.IGNORECASE)


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


_lock = threading.Lock()
_known: dict[str, None] = {}
_mask = Mask()


def _in_child() -> None:
    global _lock
    _lock = threading.Lock()  # somebody may have held the parent's


os.register_at_fork(after_in_child=_in_child)


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
        shown = hide(value)
        if "://" not in shown or "@" not in shown:
            return shown
        # A URL's password may hold a blank; a text that has a URL in it is no URL.
        return masked(shown) if _URL.match(shown) else _URL_IN.sub(lambda url: masked(url[0]), shown)
    if isinstance(value, dict):
        return {
            key: STARS if isinstance(inner, str) and inner and _SECRET.fullmatch(str(key)) else hide_in(inner)
            for key, inner in value.items()
        }
    return [hide_in(inner) for inner in value] if isinstance(value, list | tuple) else value


_URL = re.compile(r"[\w+.-]+://")
_URL_IN = re.compile(r"(?<![\w+.-])[\w+.-]+://[^\s@]*@\S*")


def install() -> None:
    """Mask every log record of this process, and the tracebacks that end it or a thread; twice is as once."""
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
    sys.unraisablehook = lambda it: _print_of(
        it.err_msg or "Exception ignored", it.exc_type, it.exc_value, it.exc_traceback
    )
    threading.excepthook = lambda it: _print_of(
        f"In {it.thread.name if it.thread else 'a thread'}", it.exc_type, it.exc_value, it.exc_traceback
    )


def _hide_record(record: logging.LogRecord) -> None:
    """Never raises: whoever logs goes on."""
    try:
        said = record.getMessage()
    except Exception:  # a wrong format: logging says so itself, with the arguments
        args: Any = record.args
        record.msg = _text_of(record.msg)
        if isinstance(args, Mapping):
            record.args = {key: _text_of(value) for key, value in args.items()}
        else:
            record.args = tuple(map(_text_of, args if isinstance(args, tuple) else (args,)))
    else:
        shown = hide(said)
        if shown != said:
            record.msg, record.args = shown, ()
    if isinstance(record.exc_info, tuple) and record.exc_info[0] is not None:
        # Formatters print this in the place of the exception.
        record.exc_text = hide("".join(traceback.format_exception(*record.exc_info)).rstrip("\n"))
    if record.stack_info:
        record.stack_info = hide(record.stack_info)


def _text_of(value: object) -> str:
    try:
        return hide(str(value))
    except Exception as exc:
        return f"(the text of a {type(value).__name__} cannot be had: {type(exc).__name__})"


def _print_of(
    what: str, kind: type[BaseException], error: BaseException | None, where: TracebackType | None
) -> None:
    if kind is not SystemExit and sys.stderr is not None:
        sys.stderr.write(f"{hide(what)}: {hide(''.join(traceback.format_exception(kind, error, where)))}")


def _print_masked(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    sys.stderr.write(hide("".join(traceback.format_exception(kind, error, where))))
    sys.stderr.flush()
