"""What a run of a tool has changed of its own copies: an agent that waits to see it waits in vain."""

from __future__ import annotations

import array
import functools
import io
import random
from collections import deque
from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from aios_dist.model.given import PLAIN
from aios_dist.program.arguments import slots
from aios_dist.program.outside import content

Seen = dict[tuple[int, int], Any]
"""Pairs that are compared already, or just now, by their ids: objects may hold each other."""

VALUES = frozenset({bytes, bytearray, array.array, complex, Decimal, date, datetime, time, timedelta})
"""What is the same where it is equal."""

_PYTHONS = frozenset({"builtins", "itertools"})


def changes(was: Any, now: Any, seen: Seen | None = None) -> Iterator[str]:
    """The names of what a run has changed: variables of the function around it, attributes of its object.

    An object may keep something for itself: what begins with ``_``, and what was not there before or was
    None, as a connection that is made when it is first used.

    Args:
        was: the function before it ran.
        now: the copy that has run.
        seen: what was looked at.
    """
    seen = {} if seen is None else seen
    if was is now or type(was) is not type(now) or (id(was), id(now)) in seen:
        return
    if type(was) is FunctionType:
        seen[id(was), id(now)] = was, now
        yield from _of_function(was, now, seen)
    elif type(was) in (MethodType, BuiltinMethodType):
        yield from _of_object(was.__self__, now.__self__, seen)
    elif type(was) is functools.partial:
        yield from changes(was.func, now.func, seen)
        for a, b in zip(was.args, now.args, strict=True):
            yield from _of_variable("what its partial holds", a, b, seen)
        for name, a in was.keywords.items():
            yield from _of_variable(name, a, now.keywords[name], seen)
    else:
        yield from _of_object(was, now, seen)


def _of_function(was: FunctionType, now: FunctionType, seen: Seen) -> Iterator[str]:
    code = was.__code__
    before, after = was.__closure__ or (), now.__closure__ or ()
    for name, one, other in zip(code.co_freevars, before, after, strict=True):
        if one is not other:
            yield from _of_variable(name, content(one), content(other), seen)
    defaults = was.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount][code.co_argcount - len(defaults) :]
    for name, a, b in zip(names, defaults, now.__defaults__ or (), strict=True):
        yield from _of_variable(name, a, b, seen)
    for name, a in (was.__kwdefaults__ or {}).items():
        yield from _of_variable(name, a, (now.__kwdefaults__ or {}).get(name), seen)
    for name, a in vars(was).items():
        if not name.startswith("_"):
            yield from _of_variable(f"{was.__name__}.{name}", a, vars(now).get(name), seen)


def _of_variable(name: str, was: Any, now: Any, seen: Seen) -> Iterator[str]:
    if type(was) is FunctionType and type(now) is FunctionType:
        yield from changes(was, now, seen)
    elif not name.startswith("_") and not _same(was, now, seen):
        yield name


def _of_object(was: Any, now: Any, seen: Seen) -> Iterator[str]:
    before, after = _public(was), _public(now)
    for name, value in before.items():
        if value is not None and not _same(value, after.get(name), seen):
            yield f"{type(was).__name__}.{name}"
    if not before and not _same(was, now, seen):
        yield type(was).__name__


def _public(one: Any) -> dict[str, Any]:
    if type(one) in PLAIN:
        return {}
    held = {name: getattr(one, name) for name in slots(type(one)) if hasattr(one, name)}
    held |= getattr(one, "__dict__", {})
    return {name: value for name, value in held.items() if not name.startswith("_")}


def _same(was: Any, now: Any, seen: Seen) -> bool:
    kind: Any = type(was)
    if was is now or (id(was), id(now)) in seen:
        return True
    if kind is not type(now):
        return False
    if kind in PLAIN or kind in VALUES:
        return bool(was == now or (was != was and now != now))  # a number that is none
    seen[id(was), id(now)] = was, now
    if kind in (set, frozenset):
        plain = {one for one in was if type(one) in PLAIN}
        return len(was) == len(now) and plain == {one for one in now if type(one) in PLAIN}
    if kind in (list, tuple, deque):
        return len(was) == len(now) and all(_same(a, b, seen) for a, b in zip(was, now, strict=True))
    if kind is dict:
        return len(was) == len(now) and all(
            _same(a, b, seen) and _same(was[a], now[b], seen) for a, b in zip(was, now, strict=True)
        )
    if issubclass(kind, random.Random):
        return bool(was.getstate() == now.getstate())
    if kind in (io.StringIO, io.BytesIO) or (issubclass(kind, Iterator) and kind.__module__ in _PYTHONS):
        return _same(was.__reduce_ex__(4)[1:], now.__reduce_ex__(4)[1:], seen)
    after = _public(now)
    return all(v is None or _same(v, after.get(name), seen) for name, v in _public(was).items())
