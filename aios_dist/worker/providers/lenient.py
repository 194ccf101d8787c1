"""Reads what odd servers write: an answer that was paid for is not thrown away for its decoration.

Text that is no text becomes U+FFFD, a count that is none becomes 0, arguments become JSON text.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from aios_dist.model.calls import MOST_TOKENS, Usage

THOUGHTS = ("thinking", "reasoning", "redacted_thinking")


def decode(data: bytes) -> Any:
    """JSON, also with a byte order mark, bytes that are no UTF-8, line breaks in strings, NaN, half a pair of
    surrogates (which stay, for :func:`clean`), or numbers of any size.

    Raises:
        msgspec.DecodeError: it is not JSON, or nested too deeply.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = str(exc)
    text = data.decode("utf-8-sig", errors="replace")
    try:
        return json.loads(text, strict=False, parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError):
        raise msgspec.DecodeError(why) from None


def _number(text: str) -> int | float:
    return int(text) if len(text) < 20 and text.lstrip("-").isdigit() else float(text)


def clean(text: str) -> str:
    """The text with pairs of surrogates joined and halves of pairs replaced: it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def word(value: Any) -> str | None:
    """A name, an id or a reason as text; None where there is none."""
    if isinstance(value, str):
        return clean(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def count(value: Any) -> int:
    """Tokens as a whole number from 0 to ``MOST_TOKENS``; what cannot be one is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        number = int(float(value)) if not isinstance(value, int) else value
    except (ValueError, OverflowError):
        return 0
    return number if 0 <= number <= MOST_TOKENS else 0


def usage(prompt: Any, output: Any) -> Usage:
    """What an answered call is charged with."""
    return Usage(count(prompt), count(output), calls=1)


def text_of(content: Any) -> str:
    """The text of a message: a text, or a list of parts of which those count that have one (no thoughts)."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of(part) for part in content)
    if isinstance(content, dict) and content.get("type") not in THOUGHTS:
        return text_of(content.get("text") or content.get("content"))
    return ""


def arguments_of(value: Any) -> str:
    """The arguments of a call as JSON text, whatever form they came in; empty where there are none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def table(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def tables(value: Any) -> list[dict[str, Any]]:
    """The objects of a list, or the only one that came without a list."""
    found = value if isinstance(value, list) else [value]
    return [entry for entry in found if isinstance(entry, dict)]
