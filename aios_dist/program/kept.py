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
from aios_dist.program.reached import content
from aios_dist.program.values import slots

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
    after = dict(_named(now))
    for name, one in _named(was):
        other = after.get(name)
        if not name or (type(one) is FunctionType and type(other) is FunctionType):
            yield from changes(one, other, seen)
        elif not name.startswith("_") and not _same(one, other, seen):
            yield name


def _named(one: Any) -> Iterator[tuple[str, Any]]:
    """What it holds, and what each is called; the function of a partial, nothing."""
    kind = type(one)
    if kind is FunctionType:
        code = one.__code__
        yield from zip(code.co_freevars, map(content, one.__closure__ or ()), strict=True)
        defaults = one.__defaults__ or ()
        yield from zip(code.co_varnames[code.co_argcount - len(defaults) :], defaults, strict=False)
        yield from (one.__kwdefaults__ or {}).items()
        yield from ((f"{one.__name__}.{n}", held) for n, held in vars(one).items() if not n.startswith("_"))
    elif kind is functools.partial:
        yield from [("", one.func), ("what its partial holds", one.args), *one.keywords.items()]
    elif kind in (MethodType, BuiltinMethodType):
        yield from _named_of(one.__self__)
    else:
        yield from _named_of(one)


def _named_of(one: Any) -> Iterator[tuple[str, Any]]:
    public = _public(one)
    yield from ((f"{type(one).__name__}.{n}", held) for n, held in public.items() if held is not None)
    if not public:
        yield type(one).__name__, one


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
