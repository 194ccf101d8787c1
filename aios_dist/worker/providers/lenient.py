"""Reads what odd servers write: an answer that was paid for is not thrown away for its decoration.

Text that is no text becomes U+FFFD, a count that is none becomes 0, arguments become JSON text.
"""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec

from aios_dist.model.calls import MOST_TOKENS, Usage
from aios_dist.model.jobs import MOST_NESTED

THOUGHTS = ("thinking", "reasoning", "redacted_thinking")

MOST_DEEP = 100
"""Lists and objects within each other, of what an answer says of its own."""


class Truncated(msgspec.DecodeError):
    """JSON that is right as far as it goes, and ends in its middle."""


def decode(data: bytes) -> Any:
    """JSON, also with a byte order mark, bytes that are no UTF-8, line breaks in strings, NaN, half a pair of
    surrogates (which stay, for :func:`clean`), numbers of any size, or something behind it.

    Raises:
        Truncated: it ends in its middle.
        msgspec.DecodeError: it is not JSON, nested too deeply, or a thousand times as large as it looks.
    """
    if len(data) > MOST_NESTED and data.count(b"[") + data.count(b"{") > MOST_NESTED:
        raise msgspec.DecodeError(f"it has more than {MOST_NESTED:,} lists and objects")
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = str(exc)
    text = data.decode("utf-16" if data[:2] in _UTF16 else "utf-8-sig", errors="replace").strip()
    try:
        found, end = _JSON.raw_decode(text)
    except json.JSONDecodeError as exc:
        # A string without an end is told by its beginning, all else by where it stops.
        cut = exc.pos >= len(text) or exc.msg.startswith("Unterminated string")
        raise (Truncated if cut and text[:1] in ("{", "[") else msgspec.DecodeError)(why) from None
    except (ValueError, RecursionError):
        raise msgspec.DecodeError(why) from None
    if end < len(text) and not (isinstance(found, dict) and found):
        raise msgspec.DecodeError(why)
    return found


_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def _number(text: str) -> int | float:
    return int(text) if len(text) < 20 and text.lstrip("-").isdigit() else float(text)


_JSON = json.JSONDecoder(strict=False, parse_int=_number, parse_float=_number)


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


def usage(prompt: Any, output: Any, cached: Any = None) -> Usage:
    """What an answered call is charged with; ``cached`` is a part of ``prompt``."""
    whole = count(prompt)
    return Usage(whole, count(output), calls=1, cached_tokens=min(count(cached), whole))


def text_of(content: Any) -> str:
    """The text of a message: a text, or a list of parts of which those count that have one (no thoughts). An
    object that is no part at all is an answer in JSON."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(text_of(part) for part in content) if are_parts(content) else arguments_of(content)
    if isinstance(content, dict):
        if content.get("type") in THOUGHTS:
            return ""
        inner = content.get("text") or content.get("content")
        if inner or not content or content.keys() & {"type", "text", "content"}:
            return text_of(inner)
        return arguments_of(content)
    return str(content) if isinstance(content, int | float) and not isinstance(content, bool) else ""


def are_parts(content: list[Any]) -> bool:
    """Whether a list is a message's content in its parts, and not a list in JSON that is the answer."""
    return not content or any(
        isinstance(part, str) or (isinstance(part, dict) and not _OF_A_PART.isdisjoint(part))
        for part in content
    )


_OF_A_PART = frozenset({"type", "text", "content"})


def plain(value: Any, depth: int = MOST_DEEP) -> Any:
    """The value as it can be journaled and sent again: texts that can be written, numbers that are, no more
    than 64 bits; what is nested too deeply to be copied is null."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return float(value) if abs(value) < 10**300 else None
    if isinstance(value, dict | list) and not depth:
        return None
    if isinstance(value, dict):
        return {clean(str(key)): plain(entry, depth - 1) for key, entry in value.items()}
    return [plain(entry, depth - 1) for entry in value] if isinstance(value, list) else value


def unwrapped(said: Any, field: str) -> Any:
    """An answer out of what gateways put around it: a list of one, an envelope, JSON as text.

    Args:
        said: what came.
        field: which an answer has.
    """
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(said, str):
        return _inner(said, said)
    if not isinstance(said, dict) or field in said:
        return said
    for name in _ENVELOPES:
        inner = _inner(said.get(name), None)
        if isinstance(inner, dict) and inner.get(field):
            return {**({"usage": said["usage"]} if "usage" in said else {}), **inner}
    return said


_ENVELOPES = ("data", "result", "output", "response", "body")


def _inner(value: Any, otherwise: Any) -> Any:
    if not isinstance(value, str) or value.lstrip()[:1] != "{":
        return otherwise if isinstance(value, str) else value
    try:
        return decode(value.encode("utf-8", "surrogatepass"))
    except msgspec.DecodeError:
        return otherwise


def read_text(text: str) -> Any:
    """What a text is in JSON; None where it is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return None


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
