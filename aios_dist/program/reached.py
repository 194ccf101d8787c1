"""What values hold, near and far; what of it is there without a program; and what a copy would not be.

Without a program there is what its agent's function closes over, and what stands in modules. Tools share
that, as they share globals; what else they hold is the program's, see ``holdings``. Looked at is the agent's
own package, and what that names of others; a program's values are nowhere among it, unless the program has
put them there.
"""

from __future__ import annotations

import array
import functools
import gc
import io
import math
import re
import sys
import threading
import weakref
from collections import deque
from itertools import islice
from types import (
    BuiltinMethodType,
    CellType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodType,
    ModuleType,
    NoneType,
    SimpleNamespace,
)
from typing import Any

from aios_dist.model.given import PLAIN
from aios_dist.program.values import changeable, held_by

ById = dict[int, Any]
"""Objects, by ``id``."""

MOST_SEEN = 20_000
"""Objects that are looked at without a program. Beyond, what is not found is the program's."""

MOST_IN_ONE = 1_000
"""… and of one list or dict."""

MOST_HELD = 10_000
"""Objects that are copied for a tool, some 10 ms of work. One that holds more shares all of it."""

BYTES_EACH = 100
"""So many bytes of an array count as an object."""

EMPTY = object()
"""What is in a cell that is not set yet."""

_MANY = (list, tuple, set, frozenset, deque)
_IN_BUNCHES = {*map(id, (CellType, dict, *_MANY))}
_WEAK = {weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet}
_OPEN = {*map(id, (MethodType, SimpleNamespace, dict, *_MANY, *_WEAK))}
_INERT = {*map(id, (*PLAIN, bytes, property, re.Pattern, GetSetDescriptorType, MemberDescriptorType))}
"""By ``id``: a class may have no hash."""
_CODE = (ModuleType, type, FunctionType)
_CACHED: Any = type(functools.cache(len))
_BUFFERS = (bytearray, array.array, io.BytesIO, io.StringIO)
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_OF_LOOPS = frozenset({"asyncio", "anyio", "trio"})
_MADE_IN_PYTHON = 1 << 9
"""Py_TPFLAGS_HEAPTYPE."""


class TooMuch(Exception):
    """It holds more than is copied."""


def content(cell: CellType) -> Any:
    """What is in it, or ``EMPTY``."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _held(one: Any, most: int) -> list[Any]:
    """What one value holds; of many no more than ``most``."""
    kind = type(one)
    if kind is FunctionType:
        given = [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values(), *vars(one).values()]
        return [*(one.__closure__ or ()), *given]
    if kind is CellType:
        return [] if (value := content(one)) is EMPTY else [value]
    if kind is MethodType:
        return [one.__self__, one.__func__]
    if kind is BuiltinMethodType:
        return [one.__self__]
    held = held_by(one)
    if issubclass(kind, functools.partial):
        held += [one.func, *one.args, *one.keywords.values()]
    elif issubclass(kind, dict):
        held += [*islice(dict.keys(one), most), *islice(dict.values(one), most)]
    elif issubclass(kind, _MANY):
        held += islice(one, most)
    return held


def reached(value: Any, outside: ById, met: ById, most: float = math.inf) -> list[Any]:
    """The value and all that it holds, but for plain values, modules, classes, and what is outside.

    Args:
        met: what of ``outside`` it holds is added.
        most: so many objects.

    Raises:
        TooMuch: it holds more.
    """
    found: ById = {}
    todo, weight = [value], 0
    while todo:
        one = todo.pop()
        kind = type(one)
        if kind in PLAIN or id(one) in found or issubclass(kind, (type, ModuleType)):
            continue
        if id(one) in outside:
            met[id(one)] = one
            continue
        found[id(one)] = one
        weight += 1 + _bytes(one) // BYTES_EACH
        if weight > most or (issubclass(kind, (*_MANY, dict)) and len(one) > most):
            raise TooMuch
        if kind is not FunctionType or holds(one):
            todo += _held(one, sys.maxsize)
    return list(found.values())


def _bytes(one: Any) -> int:
    if issubclass(type(one), _BUFFERS):
        return sys.getsizeof(one)
    size = getattr(one, "nbytes", 0) if hasattr(type(one), "nbytes") else 0  # of numpy's, and alike
    return size if type(size) is int else 0


class Outside:
    """What is there without a program, as far as one gets in a moment.

    Args:
        root: the agent, or its function.

    Attributes:
        found: what it is.
    """

    def __init__(self, root: Any) -> None:
        self.found: ById = {id(sys.modules): sys.modules}  # what a module names is looked at, not all of them
        self._package = str(getattr(root, "__module__", None) or "").partition(".")[0]
        self._modules: set[int] = set()
        level: ById = {id(root): root}
        while level and len(self.found) < MOST_SEEN:
            self.found |= level
            held, bunch = [], []
            for one in level.values():
                kind = type(one)
                if id(kind) in _IN_BUNCHES and (kind is CellType or len(one) <= MOST_IN_ONE):
                    bunch.append(one)
                    continue
                try:
                    held += self._in(one, kind)
                except Exception:  # of a class that does not want to be looked at, or changed just now
                    pass
            held += gc.get_referents(*bunch)
            level = {id(one): one for one in held if id(type(one)) not in _INERT and self._is_new(one)}

    def _is_new(self, one: Any) -> bool:
        """Most of a package are functions that hold nothing but the module, which is known."""
        return id(one) not in self.found and (
            type(one) is not FunctionType
            or bool(one.__closure__ or one.__defaults__ or one.__kwdefaults__ or one.__dict__)
            or id(one.__globals__) not in self._modules
        )

    def _in(self, one: Any, kind: type) -> list[Any]:
        """What one of them holds. By its type alone: nothing of the user's is to run here."""
        if kind is FunctionType:
            named = self._in_module(one.__globals__, True) if self._ours(one.__module__) else []
            return _held(one, 0) + named
        if issubclass(kind, ModuleType):
            return self._in_module(vars(one), self._ours(vars(one).get("__name__")))
        if issubclass(kind, type):
            return list(vars(one).values()) if self._ours(vars(one).get("__module__")) else []
        if kind is _CACHED:
            return [held for held in gc.get_referents(one) if type(held) is not type]
        if issubclass(kind, weakref.ref):
            return [one()]
        if id(kind) in _OPEN or issubclass(kind, functools.partial) or self._ours(kind.__module__):
            return _held(one, MOST_IN_ONE)
        agent = kind.__module__.startswith("aios_dist.") and "__wrapped__" in getattr(one, "__dict__", {})
        return [vars(one)["__wrapped__"]] if agent else []

    def _in_module(self, names: dict[str, Any], ours: bool) -> list[Any]:
        """Of another package only its objects: what its functions use, nobody looks for."""
        if id(names) in self._modules:
            return []
        self._modules.add(id(names))
        return [held for held in list(names.values()) if ours or not issubclass(type(held), _CODE)]

    def _ours(self, module: Any) -> bool:
        return isinstance(module, str) and module.partition(".")[0] == self._package


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
        and not issubclass(kind, functools.partial)
        and all(base.__flags__ & _MADE_IN_PYTHON for base in kind.__mro__[:-1])
        and not held_by(one)
        and not changeable(one)
    )
