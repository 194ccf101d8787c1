"""What callers give: names, seconds, numbers, objects. Each check says in one sentence what cannot be."""

from __future__ import annotations

import dataclasses
import enum
from typing import Any, TypeVar

import msgspec

from aios_dist.config import NAME
from aios_dist.errors import InvalidInput
from aios_dist.text.tracebacks import text_of

T = TypeVar("T")

LONGEST_S = 3.2e8
"""Ten years: no wait is longer."""
PLAIN = frozenset({str, int, float, bool, type(None)})
"""What a JSON value is made of, by its own type."""


def short(value: Any) -> str:
    """The value in a few words, whatever it is."""
    try:
        text = " ".join(repr(value).split("\n"))
    except Exception:  # an object of the caller's
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def named(what: str, value: Any) -> str:
    """A name or id, if it can be one.

    Args:
        what: begins the sentence, as "Job id".
        value: what was given.

    Raises:
        InvalidInput: it cannot.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{what} {short(value)} must be text, not {type(value).__name__}.")
    if not NAME.fullmatch(value):
        raise InvalidInput(
            f"{what} {short(value)} must be letters, digits and . _ : - (at most 128), "
            "and begin with a letter or digit."
        )
    return str.__str__(value)


def looked_up(what: str, value: Any) -> str:
    """An id that somebody asks for: text that Redis can be asked for, also where nothing can have that id.

    Raises:
        InvalidInput: it is not text, or holds half of a character.
    """
    if not isinstance(value, str):
        raise InvalidInput(f"{what} {short(value)} must be text, not {type(value).__name__}.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"{what} {short(value)} is not text that can be sent (half a character)."
        ) from None
    return str.__str__(value)


def plain(value: Any) -> str | int | float:
    """A text or number of somebody's own class (markup, a currency) as a plain one: an encoder's hook.

    Raises:
        TypeError: it is something else.
    """
    for kind, to_plain in ((str, str.__str__), (int, int.__int__), (float, float.__float__)):
        if issubclass(type(value), kind):
            found: str | int | float = to_plain(value)
            return found
    raise TypeError(f"{type(value).__name__} values have no JSON form")


def seconds(what: str, value: Any) -> float:
    """How long to wait: a number of seconds. Less than 0 is 0; without end is the longest there is.

    Raises:
        InvalidInput: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise InvalidInput(f"{what} is a number of seconds, not {short(value)}; every wait has an end.")
    return float(max(0, min(LONGEST_S, value)))


def span(time: float) -> str:
    """So many seconds in words, in the largest unit that they are some of: 7 days, 90 minutes, 4 s."""
    for unit, long in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if time >= long and time % long == 0:
            return f"{time // long:.0f} {unit}{'' if time == long else 's'}"
    return f"{time:.3f}".rstrip("0").rstrip(".") + " s"


def whole(what: str, value: Any, least: int = 0) -> int:
    """A whole number from ``least`` on.

    Raises:
        InvalidInput: it is none.
    """
    if type(value) is not int or not least <= value < 2**53:
        raise InvalidInput(f"{what} is a whole number from {least} on, not {short(value)}.")
    return value


def one(what: str, value: Any, kind: type[T]) -> T:
    """An object of that kind.

    Args:
        what: the sentence up to the kind, as "submit_plan() takes".
        value: what was given.
        kind: a public class.

    Raises:
        InvalidInput: it is of another.
    """
    if not isinstance(value, kind):
        raise InvalidInput(f"{what} a {kind.__name__}, not {short(value)}.")
    return value


def without_order(value: Any, depth: int = 200) -> str:
    """What stands in a value that JSON would quietly make another one of; "" for nothing.

    Sets have no order, so the same one is another text in each process; bytes would become base64; and of
    two keys that are the same text one would be lost.

    Args:
        value: any; what is not looked into (objects of other libraries) is the encoder's business.
        depth: how deep it may be nested.
    """
    if type(value) in PLAIN:
        return ""
    if isinstance(value, (set, frozenset)):
        return "it holds a set, which has no order; give a list (sorted(…), say)"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "it holds bytes; give text (base64, say)"
    if depth == 0:
        return "it is nested more than 200 deep"
    inner: Any = ()
    if isinstance(value, dict):
        if any(type(key) is not str for key in value):
            if any(isinstance(key, bytes) for key in value):
                return "it holds bytes as a key; give text"
            if len({str(key) for key in value}) < len(value):
                return "it holds two keys that are the same text"
        inner = value.values()
    elif isinstance(value, (list, tuple)):
        inner = value
    elif isinstance(value, msgspec.Struct):
        inner = msgspec.structs.asdict(value).values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        inner = [getattr(value, field.name, None) for field in dataclasses.fields(value)]
    elif isinstance(value, enum.Enum):
        inner = [value.value]
    elif hasattr(type(value), "__attrs_attrs__"):
        inner = [getattr(value, field.name, None) for field in type(value).__attrs_attrs__]
    for entry in inner:
        if type(entry) not in PLAIN and (odd := without_order(entry, depth - 1)):
            return odd
    return ""


def as_json(value: Any, what: str) -> Any:
    """The value as JSON gives it back (tuples become lists, dataclasses dicts).

    Raises:
        InvalidInput: it is not JSON.
    """
    try:
        data = msgspec.json.encode(value, enc_hook=plain)
        if b"null" in data:  # what msgspec makes of NaN and infinity
            import json

            json.dumps(msgspec.to_builtins(value, str_keys=True, enc_hook=plain), allow_nan=False)
        return msgspec.json.decode(data)
    except Exception as exc:  # also what a user's own objects raise while they are looked at
        raise InvalidInput(f"The {what} is not JSON: {text_of(exc)}.") from None


def given_json(value: Any, what: str) -> Any:
    """What a caller hands in, as JSON gives it back: as :func:`as_json`, and nothing in it changes unsaid.

    Raises:
        InvalidInput: it is not JSON, or holds a set (without order: another input in each process) or bytes.
    """
    try:
        odd = without_order(value)
    except Exception as exc:  # an object of the caller's
        odd = text_of(exc)
    if odd:
        raise InvalidInput(f"The {what} is not JSON: {odd}.")
    return as_json(value, what)
