"""How verbs are said to one Redis: as functions of the library that stands there, else as scripts.

A script is executed whole at each call, with all that its verb shares with others; a function stands there
since its library was loaded. Who finds no library loads it. Where that is refused (an account that may not, a
Redis without functions), the verbs go as scripts: they do the same.
"""

from __future__ import annotations

import time
from typing import Any

from redis.exceptions import NoPermissionError, RedisError, ResponseError

FUNCTIONS = True
"""Whether functions are tried at all."""

AGAIN_S = 30.0
"""For so long the verbs go as scripts before somebody else may have loaded the library."""

ANNOUNCED_S = 3600.0
"""For so long a library stays that a process has said it uses: so what is long gone goes."""


class Way:
    """What is known of the way to one Redis.

    Args:
        functions: whether functions are tried; ``FUNCTIONS`` by default.

    Attributes:
        why: why the verbs go as scripts, as Redis has said it; empty where they do not.
    """

    def __init__(self, functions: bool | None = None) -> None:
        self.why = ""
        self._calls = self._loads = FUNCTIONS if functions is None else functions
        self._after = 0.0

    @property
    def functions(self) -> bool:
        """The verbs go as functions."""
        return self._calls and time.monotonic() >= self._after

    @property
    def loads(self) -> bool:
        """A library may be loaded, as far as is known."""
        return self._loads

    def refused(self, exc: ResponseError) -> bool:
        """Whether functions cannot be called here at all: it stays so."""
        if not _never(exc, "fcall"):
            return False
        self._calls, self.why = False, _said(exc)
        return True

    def not_loaded(self, exc: ResponseError) -> None:
        """The library could not be loaded: scripts for a while, until somebody else may have."""
        if _never(exc, "function"):
            self._loads = False
        self.why = _said(exc)
        self.missing()

    def missing(self) -> None:
        """There is no library."""
        self._after = time.monotonic() + AGAIN_S

    def loaded(self) -> None:
        """It is there."""
        self._after, self.why = 0.0, ""


def _said(exc: ResponseError) -> str:
    """In Redis' words, without the command that it repeats."""
    return str(exc).partition(", with args beginning with")[0]


def _never(exc: ResponseError, command: str) -> bool:
    """The account may not use the command, or this Redis has none."""
    return command in str(exc).lower() and (isinstance(exc, NoPermissionError) or switched_off(exc))


def switched_off(exc: RedisError) -> bool:
    """This Redis has no such command: it is older, or somebody has renamed it. (No class says so.)"""
    return isinstance(exc, ResponseError) and str(exc).lower().startswith("unknown command")


def not_found(exc: ResponseError) -> bool:
    """There is no such function: a Redis that is new, was flushed, or has another one's snapshot."""
    return str(exc).lower().endswith("function not found")


def is_ours(listed: Any, text: str) -> bool:
    """Whether FUNCTION LIST has told of a library with this text."""
    for entry in listed or ():
        told = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
        if told.get(b"library_code") == text.encode():
            return True
    return False


def there_already(exc: ResponseError) -> bool:
    """Somebody else has loaded it meanwhile."""
    return str(exc).endswith("already exists")
