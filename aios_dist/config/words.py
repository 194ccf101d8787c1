"""How sentences about settings show what stands there, and what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The right spelling that was meant, or all of them."""
    known = list(allowed)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}."


def kind_of(value: Any) -> str:
    """What stands in a file, in a few words: never all of it, it may be a secret."""
    for kind, words in _KINDS.items():
        if isinstance(value, kind):
            return words
    return f"a {type(value).__name__}"


_KINDS: dict[type, str] = {
    str: "text in quotes",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    type(None): "nothing",
}


def as_written(value: Any) -> str:
    """A setting as a sentence about it shows it."""
    if isinstance(value, str):
        return repr(value[:40])
    try:
        text = _float(value) if isinstance(value, float) else " ".join(str(value).split("\n"))
    except Exception:  # an object of a caller's, or a number of thousands of digits
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _float(value: float) -> str:
    """5.0, where it is said that 5.0 is no whole number."""
    text = f"{value:g}"
    return f"{text}.0" if text.removeprefix("-").isdecimal() else text
