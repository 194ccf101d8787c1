"""What a tool gets: its arguments as the journal has them, and its own of whatever else its function holds.

A method's object, and what a local function closes over, are the program's where the program has made them. A
tool that changed them would change the agent on the worker that ran it, and on no other: so it gets copies.
What was there before the program is the module's, as its globals are (a client, a cache): that is shared, and
so is what cannot be copied, or not without harm, with all that it holds: see ``reached``.
"""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections.abc import Callable
from types import BuiltinMethodType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

import msgspec

from aios_dist.model.calls import ToolRequest
from aios_dist.model.given import PLAIN
from aios_dist.program.arguments import changeable, held_by, is_plain
from aios_dist.program.kept import changes
from aios_dist.program.outside import EMPTY, Outside, content
from aios_dist.program.reached import holds, is_one_of_a_kind, is_sentinel, reached

_read = msgspec.json.Decoder(ToolRequest).decode


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

    __slots__ = ("_data", "_function", "_own", "_ran", "func")

    def __init__(
        self,
        call: functools.partial[Any],
        request: ToolRequest,
        data: bytes,
        outside: Callable[[], Outside] | None,
    ) -> None:
        self.func = call.func
        self._data = data
        self._ran: Any = None
        held = call.args[: len(call.args) - len(request.args)]
        named = {name: value for name, value in call.keywords.items() if name not in request.kwargs}
        self._function = Own(
            functools.partial(call.func, *held, **named) if held or named else call.func, outside
        )
        self._own: tuple[list[Any], dict[str, Any]] | None = None
        if not (is_plain(request.args) and is_plain(request.kwargs)):
            try:
                self._own = copy.deepcopy((request.args, request.kwargs))
            except Exception:
                pass  # an object that cannot be copied: never the program's own, so as JSON has it

    def __call__(self) -> Any:
        function = self._ran = self._function.anew()
        if self._own is None:
            asked = _read(self._data)
            return function(*asked.args, **asked.kwargs)
        args, kwargs = copy.deepcopy(self._own)
        return function(*args, **kwargs)

    def changed(self) -> list[str]:
        """What the last run has changed of what it holds, by name: nobody sees that."""
        ran, self._ran = self._ran, None
        return list(changes(self._function.function, ran)) if ran is not None else []


class Own:
    """A function that has its own of what it holds, as that is now: ``function``, of which runs get copies.

    Args:
        function: of a tool.
        outside: see :class:`Taken`; asked only where the function holds something.
    """

    __slots__ = ("_shared", "function")

    def __init__(self, function: Callable[..., Any], outside: Callable[[], Outside] | None) -> None:
        self._shared: Outside | None = None
        self.function = function
        if outside is not None and holds(function):
            mine, shared = _owned(function, outside())
            if mine is not function:
                self.function, self._shared = mine, shared

    def anew(self) -> Callable[..., Any]:
        """The function for one run: what it changes, the next run does not see."""
        return self.function if self._shared is None else _owned(self.function, self._shared)[0]


def _owned(function: Callable[..., Any], outside: Outside) -> tuple[Callable[..., Any], Outside]:
    """The function with its own of what it holds, and what that shares; itself where it has too much."""
    shared: Outside = {}
    try:
        reached(function, outside)
        while True:
            memo = _Memo(outside, shared)
            try:
                return _own(function, memo), shared
            except _Stays as stays:  # anew: what it holds may have been copied already, for others
                before = len(shared)
                shared |= {id(one): one for one in reached(stays.value, outside)}
                if len(shared) == before:
                    return function, shared
    except (Exception, SystemExit):  # too much, or objects that do not want to be looked at
        return function, shared


class _Stays(Exception):
    """A value that cannot be copied: it is shared, with all that it holds."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Memo(dict[int, Any]):
    """Copies by ``id`` of what they are of, as deepcopy keeps them; what is shared stands for itself.

    Args:
        outside: what is the module's.
        shared: the same, of what is met; is added to.
    """

    def __init__(self, outside: Outside, shared: Outside) -> None:
        super().__init__()
        self.outside = outside
        self.shared = shared

    def get(self, key: int, default: Any = None) -> Any:
        """Asked for each object before it is copied."""
        if key in self.outside:
            self.shared[key] = self.outside[key]
        return self.shared[key] if key in self.shared else super().get(key, default)


def _own(value: Any, memo: _Memo) -> Any:
    """The value, or a copy; itself where it is the module's, or can neither be changed nor be copied."""
    kind = type(value)
    if kind in PLAIN or (known := memo.get(id(value), memo)) is not memo:
        return value if kind in PLAIN else known
    if kind is FunctionType:
        return _own_function(value, memo)
    if kind is MethodType:
        held = _own(value.__self__, memo)
        return value if held is value.__self__ else MethodType(value.__func__, held)
    if kind is BuiltinMethodType:
        held = _own(value.__self__, memo) if holds(value) else value.__self__
        return value if held is value.__self__ else getattr(held, value.__name__)
    if kind is functools.partial:
        args = [_own(one, memo) for one in value.args]
        return functools.partial(_own(value.func, memo), *args, **_own_named(value.keywords, memo))
    if not changeable(value) and not _has_attributes(value):
        return value
    _prepare(value, memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:  # it holds a lock, say
        raise _Stays(value) from None


def _prepare(value: Any, memo: _Memo) -> None:
    """What deepcopy would take for unchangeable, or not see that it is one of a kind.

    Raises:
        _Stays: it is not to be copied.
    """
    held = reached(value, memo.outside)
    if any(map(is_one_of_a_kind, held)):
        raise _Stays(value)
    for one in held:
        kind = type(one)
        if kind in (FunctionType, BuiltinMethodType):
            mine = memo[id(one)] = _own(one, memo)
            if mine is not one and sys.version_info >= (3, 14):  # deepcopy does not ask there
                raise _Stays(value)
        elif is_sentinel(one):
            memo.shared[id(one)] = one


def _has_attributes(value: Any) -> bool:
    return not isinstance(value, (type, ModuleType, BaseException)) and bool(held_by(value))


def _own_function(function: FunctionType, memo: _Memo) -> FunctionType:
    if not holds(function):
        return function
    cells = function.__closure__ or ()
    mine, empty = [], []
    for cell in cells:  # all known before one of them is filled: functions in there share them
        own = memo.get(id(cell))
        if own is None:
            own = memo[id(cell)] = CellType()
            empty.append((cell, own))
        mine.append(own)
    made = FunctionType(function.__code__, function.__globals__, function.__name__, None, tuple(mine) or None)
    memo[id(function)] = made  # it may hold itself
    if function.__kwdefaults__ is not None:
        made.__kwdefaults__ = _own_named(function.__kwdefaults__, memo)
    if function.__defaults__ is not None:
        made.__defaults__ = tuple(_own(one, memo) for one in function.__defaults__)
    for cell, own in empty:
        if (held := content(cell)) is not EMPTY:
            own.cell_contents = _own(held, memo)
    functools.update_wrapper(made, function, updated=())
    made.__dict__ = _own_named(vars(function), memo)
    if (mine and not all(map(operator.is_, mine, cells))) or not _same_values(made, function):
        return made
    memo[id(function)] = function
    return function


def _same_values(made: FunctionType, function: FunctionType) -> bool:
    def values(f: FunctionType) -> list[Any]:
        return [*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values(), *vars(f).values()]

    return all(map(operator.is_, values(made), values(function)))


def _own_named(values: dict[str, Any], memo: _Memo) -> dict[str, Any]:
    return {name: _own(value, memo) for name, value in values.items()}
