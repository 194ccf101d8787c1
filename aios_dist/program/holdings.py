"""What a tool gets: its arguments as the journal has them, and its own of whatever else its function holds.

A method's object, and what a local function closes over, are the program's where the program has made them. A
tool that changed them would change the agent on the worker that ran it, and on no other: so it gets copies.
What was there before the program is the module's, as its globals are (a client, a cache): that is shared, and
so is what cannot be copied, or not without harm, with all that it holds: see ``reached``.
"""

from __future__ import annotations

import copy
import functools
import math
import sys
from collections.abc import Callable
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import msgspec

from aios_dist.model.calls import ToolRequest
from aios_dist.model.given import PLAIN
from aios_dist.program.kept import changes
from aios_dist.program.reached import (
    EMPTY,
    MOST_HELD,
    ById,
    content,
    holds,
    is_one_of_a_kind,
    is_sentinel,
    reached,
)
from aios_dist.program.values import changeable, held_by, is_plain

_read = msgspec.json.Decoder(ToolRequest).decode

_UNASKED = (FunctionType, BuiltinMethodType) if sys.version_info >= (3, 14) else ()
"""What deepcopy does not look for in its memo."""


class Taken:
    """A tool's call as it is now, anew for each run; ``func`` is the function itself.

    What is plain JSON is read from the journal's bytes. What has a type of its own there (an LLMResponse, a
    dataclass, a date, a tuple) is copied when the journal takes it, so that the function gets that type.

    Args:
        call: the function with the program's own arguments bound, and with what a ``partial`` of the agent's
            holds, which is the program's as well.
        request: the arguments alone.
        data: the request in JSON.
        outside: gives what is the module's; None: the tool is not going to run.
    """

    __slots__ = ("_data", "_function", "_own", "_ran", "_shared", "func")

    def __init__(
        self,
        call: functools.partial[Any],
        request: ToolRequest,
        data: bytes,
        outside: Callable[[], ById] | None,
    ) -> None:
        self.func = call.func
        self._data = data
        self._ran: Any = None
        held = call.args[: len(call.args) - len(request.args)]
        named = {name: value for name, value in call.keywords.items() if name not in request.kwargs}
        function = functools.partial(call.func, *held, **named) if held or named else call.func
        self._function: Callable[..., Any] = (
            function  # as it is now: what a run changes, the next does not see
        )
        self._shared: ById | None = None
        if outside is not None and holds(function):
            mine, shared = own(function, outside(), MOST_HELD)
            if mine is not function:
                self._function, self._shared = mine, shared
        self._own: tuple[list[Any], dict[str, Any]] | None = None
        if not (is_plain(request.args) and is_plain(request.kwargs)):
            try:
                self._own = copy.deepcopy((request.args, request.kwargs))
            except Exception:
                pass  # an object that cannot be copied: never the program's own, so as JSON has it

    def __call__(self) -> Any:
        function = self._function if self._shared is None else own(self._function, self._shared)[0]
        self._ran = function
        if self._own is None:
            asked = _read(self._data)
            return function(*asked.args, **asked.kwargs)
        args, kwargs = copy.deepcopy(self._own)
        return function(*args, **kwargs)

    def changed(self) -> list[str]:
        """What the last run has changed of what it holds, by name: nobody sees that."""
        ran, self._ran = self._ran, None
        return list(changes(self._function, ran)) if ran is not None else []


def own(value: Any, outside: ById, most: float = math.inf) -> tuple[Any, ById]:
    """The value with its own of what it holds, and what that shares; itself where it has too much.

    Args:
        outside: what is the module's.
        most: objects that are copied.
    """
    shared: ById = {}
    try:
        held = reached(value, outside, shared, most)
        while True:
            try:
                return _own(value, held, shared.copy()), shared
            except _Stays as stays:  # anew: what it holds may have been copied already, for others
                before = len(shared)
                shared |= {id(one): one for one in reached(stays.value, outside, shared)}
                if len(shared) == before:
                    return value, shared
    except (Exception, SystemExit):  # too much, or objects that do not want to be looked at
        return value, shared


class _Stays(Exception):
    """A value that cannot be copied: it is shared, with all that it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _own(value: Any, held: list[Any], memo: ById) -> Any:
    """A copy as ``deepcopy`` makes it, which takes functions and sentinels for unchangeable.

    Args:
        held: all that it holds.
        memo: copies by ``id`` of what they are of; what is shared stands for itself. Is added to.
    """
    memo |= {id(one): one for one in held if is_sentinel(one) and not is_one_of_a_kind(one)}
    functions = [one for one in held if type(one) is FunctionType and id(one) not in memo and holds(one)]
    for one in functions:  # all known before one of them is filled: they hold each other
        cells = tuple(memo.setdefault(id(cell), CellType()) for cell in one.__closure__ or ())
        memo[id(one)] = FunctionType(one.__code__, one.__globals__, one.__name__, None, cells or None)
    for one in held:
        if type(one) is BuiltinMethodType and id(one) not in memo:
            memo[id(one)] = _mine(one, memo)
    for one in functions:
        _fill(memo[id(one)], one, memo)
    return _mine(value, memo)


def _fill(made: FunctionType, function: FunctionType, memo: ById) -> None:
    functools.update_wrapper(made, function, updated=())
    made.__dict__ = _named(vars(function), memo)
    if function.__defaults__ is not None:
        made.__defaults__ = tuple(_mine(one, memo) for one in function.__defaults__)
    if function.__kwdefaults__ is not None:
        made.__kwdefaults__ = _named(function.__kwdefaults__, memo)
    for cell, mine in zip(function.__closure__ or (), made.__closure__ or (), strict=True):
        if content(mine) is EMPTY and (held := content(cell)) is not EMPTY:
            mine.cell_contents = _mine(held, memo)


def _named(values: dict[str, Any], memo: ById) -> dict[str, Any]:
    return {name: _mine(value, memo) for name, value in values.items()}


def _mine(value: Any, memo: ById) -> Any:
    """The value, or a copy; itself where it is the module's, or can neither be changed nor be copied."""
    kind = type(value)
    if kind in PLAIN or id(value) in memo:
        return value if kind in PLAIN else memo[id(value)]
    if kind is MethodType:
        return MethodType(value.__func__, _mine(value.__self__, memo))
    if kind is BuiltinMethodType:
        return getattr(_mine(value.__self__, memo), value.__name__) if holds(value) else value
    if kind is functools.partial:
        args = [_mine(one, memo) for one in value.args]
        return functools.partial(_mine(value.func, memo), *args, **_named(value.keywords, memo))
    if not changeable(value) and not _has_attributes(value):
        return value
    met: ById = {}
    held = reached(value, memo, met)
    unasked = any(memo[id(one)] is not one for one in met.values() if type(one) in _UNASKED)
    if unasked or any(map(is_one_of_a_kind, held)):
        raise _Stays(value)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # it holds a lock, say
        raise _Stays(value) from None


def _has_attributes(value: Any) -> bool:
    return not isinstance(value, (type, ModuleType, BaseException)) and bool(held_by(value))
