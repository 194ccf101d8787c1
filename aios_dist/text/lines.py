"""Texts of others (models, agents, providers) on a terminal, in a log, on a page: nothing in them acts."""

from __future__ import annotations

import re
from typing import Any

_ORDERS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
"""Change in which order the signs beside them are shown: a text then reads as it is not."""

_ACTING = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f{_ORDERS}]")
_BREAKS = re.compile(r"\s*[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]\s*")


def harmless(text: str) -> str:
    """Without what a terminal would take for a command, or show in another order; lines and tabs stay."""
    return _ACTING.sub("\ufffd", text)


def escaped(document: str) -> str:
    """A JSON document that says the same, and in which nothing acts."""
    return _ACTING.sub(lambda sign: f"\\u{ord(sign[0]):04x}", document)


def one_line(text: str, most: int | None = None) -> str:
    """The same in one line, cut to so many characters."""
    line = harmless(" ".join(_BREAKS.sub(" ", text).split()))
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def fields_line(fields: dict[str, Any]) -> str:
    """Fields as JSON in one line, for a log that people and programs read."""
    import json  # of workers: a producer needs none

    return harmless(json.dumps(fields, ensure_ascii=False, default=str))
