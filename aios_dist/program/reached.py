"""All that a value holds, near and far; and what of it a copy would not be the same thing as."""

from __future__ import annotations

import array
import functools
import io
import sys
import threading
from collections import deque
from collections.abc import Iterable
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

from aios_dist.model.given import PLAIN
from aios_dist.program.arguments import changeable, held_by
from aios_dist.program.outside import EMPTY, Outside, content

MOST_HELD = 10_000
"""Objects that are copied for a tool, some 10 ms of work. One that holds more shares all of it."""

BYTES_EACH = 100
"""So many bytes of an array count as an object."""

_BUFFERS = (bytearray, array.array, io.BytesIO, io.StringIO)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_MANY = (list, tuple, set, frozenset, deque)
_OF_LOOPS = frozenset({"asyncio", "anyio", "trio"})
_MADE_IN_PYTHON = 1 << 9
"""Py_TPFLAGS_HEAPTYPE."""


class TooMuch(Exception):
    """It holds more than is copied."""


def reached(value: Any, outside: Outside) -> list[Any]:
    """The value and all that it holds, but for plain values, modules, classes, and what is the module's.

    Raises:
        TooMuch: that is more than ``MOST_HELD``.
    """
    found: Outside = {}
    todo, weight = [value], 0
    while todo:
        one = todo.pop()
        kind = type(one)
        if kind in PLAIN or id(one) in found or id(one) in outside or issubclass(kind, (type, ModuleType)):
            continue
        found[id(one)] = one
        weight += 1 + _bytes(one) // BYTES_EACH
        if weight > MOST_HELD or (issubclass(kind, (*_MANY, dict)) and len(one) > MOST_HELD):
            raise TooMuch
        todo += _in(one)
    return list(found.values())


def _in(one: Any) -> Iterable[Any]:
    kind = type(one)
    if kind is CellType:
        return [] if (held := content(one)) is EMPTY else [held]
    if kind is FunctionType:
        if not holds(one):
            return []
        given = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values(), *vars(one).values()]
        return [*(one.__closure__ or ()), *given]
    if kind is MethodType:
        return [one.__self__, one.__func__]
    if kind is BuiltinMethodType:
        return [one.__self__]
    held = held_by(one)
    if issubclass(kind, functools.partial):
        held += [one.func, *one.args, *one.keywords.values()]
    elif issubclass(kind, dict):
        held += [*dict.keys(one), *dict.values(one)]
    elif issubclass(kind, _MANY):
        held += list(one)
    return held


def _bytes(one: Any) -> int:
    if issubclass(type(one), _BUFFERS):
        return sys.getsizeof(one)
    size = getattr(one, "nbytes", 0) if hasattr(type(one), "nbytes") else 0  # of numpy's, and alike
    return size if type(size) is int else 0


def holds(function: Any) -> bool:
    """Whether it holds anything that may be the program's."""
    kind = type(function)
    if kind is FunctionType:
        held = function.__closure__, function.__defaults__, function.__kwdefaults__, vars(function)
        return any(held) and not _stands_in_its_module(function)
    if kind is BuiltinMethodType:  # also len, whose object is its module
        return not isinstance(function.__self__, (ModuleType, type, NoneType))
    return not isinstance(function, type)


def _stands_in_its_module(function: FunctionType) -> bool:
    """Most do, and nobody need look for them."""
    module = sys.modules.get(function.__module__)
    return vars(module).get(function.__qualname__) is function if module is not None else False


def is_one_of_a_kind(one: Any) -> bool:
    """Whether a copy would be another thing, however well it can be made.

    A lock of asyncio's keeps nobody out who has another one. What has a ``__del__`` would close for its
    copies what it has open. An object that answers to every name would be asked to copy itself, over the
    network. And nobody knows how large a table is.
    """
    kind: Any = type(one)
    if kind in _LOCKS or kind.__module__.partition(".")[0] in _OF_LOOPS:
        return True
    if isinstance(getattr(kind, "__del__", None), FunctionType):
        return True
    if hasattr(kind, "__dataframe__") and not hasattr(kind, "nbytes"):
        return True
    return hasattr(kind, "__getattr__") and not hasattr(kind, "__deepcopy__") and not issubclass(kind, dict)


def is_sentinel(one: Any) -> bool:
    """Whether it may be there only to be itself: it holds nothing, and compares by what it is."""
    kind: Any = type(one)
    return (
        kind.__eq__ is object.__eq__
        and all(base.__flags__ & _MADE_IN_PYTHON for base in kind.__mro__[:-1])
        and not held_by(one)
        and not changeable(one)
    )
