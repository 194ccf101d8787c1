"""What a run of a tool has changed of its own copies: an agent that waits to see it waits in vain."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from aios_dist.model.given import PLAIN
from aios_dist.program.outside import content

DEEP = 50
"""Levels of lists and objects that are looked at."""


def changes(was: Any, now: Any) -> Iterator[str]:
    """The names of what a run has changed: variables of the function around it, attributes of its object.

    An object may keep something for itself: what begins with ``_``, and what was not there before or was
    None, as a connection that is made when it is first used.

    Args:
        was: the function before it ran.
        now: the copy that has run.
    """
    if was is now or type(was) is not type(now):
        return
    if type(was) is FunctionType:
        yield from _of_function(was, now)
    elif type(was) in (MethodType, BuiltinMethodType):
        yield from _of_object(was.__self__, now.__self__)
    else:
        yield from _of_object(was, now)


def _of_function(was: FunctionType, now: FunctionType) -> Iterator[str]:
    code = was.__code__
    before, after = was.__closure__ or (), now.__closure__ or ()
    for name, one, other in zip(code.co_freevars, before, after, strict=True):
        if one is not other and content(one) is not was:
            yield from _of_variable(name, content(one), content(other))
    defaults = was.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    for name, a, b in zip(names, defaults, now.__defaults__ or (), strict=True):
        yield from _of_variable(name, a, b)
    for name, a in (was.__kwdefaults__ or {}).items():
        yield from _of_variable(name, a, (now.__kwdefaults__ or {}).get(name))
    for name, a in vars(was).items():
        yield from _of_variable(f"{was.__name__}.{name}", a, vars(now).get(name))


def _of_variable(name: str, was: Any, now: Any) -> Iterator[str]:
    if type(was) is FunctionType and type(now) is FunctionType:
        yield from changes(was, now)
    elif not _same(was, now, DEEP):
        yield name


def _of_object(was: Any, now: Any) -> Iterator[str]:
    before, after = _public(was), _public(now)
    for name, value in before.items():
        if value is not None and not _same(value, after.get(name), DEEP):
            yield f"{type(was).__name__}.{name}"
    if not before and not _same(was, now, DEEP):
        yield type(was).__name__


def _public(one: Any) -> dict[str, Any]:
    held = getattr(one, "__dict__", {}) if type(one) not in PLAIN else {}
    return {name: value for name, value in held.items() if not name.startswith("_")}


def _same(was: Any, now: Any, depth: int) -> bool:
    kind: Any = type(was)
    if was is now or depth == 0:
        return True
    if kind is not type(now):
        return False
    if kind in PLAIN or kind in (set, frozenset, bytearray):
        return bool(was == now or (was != was and now != now))  # a number that is none
    if kind in (list, tuple, deque):
        return len(was) == len(now) and all(_same(a, b, depth - 1) for a, b in zip(was, now, strict=True))
    if kind is dict:
        return len(was) == len(now) and all(
            a == b and _same(was[a], now[b], depth - 1) for a, b in zip(was, now, strict=True)
        )
    after = _public(now)
    return all(v is None or _same(v, after.get(name), depth - 1) for name, v in _public(was).items())
