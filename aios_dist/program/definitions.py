"""Where a function is defined, and whether two of one name are one: only a module that runs again replaces.

A name stands for one agent in all of a fleet. What an import, a reload or a notebook's cell defines once more
is the same agent, changed perhaps; two definitions in one run of a module, or one that a function makes twice
with other values around it, are two.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any, NamedTuple

from aios_dist.model.given import PLAIN


class Definition(NamedTuple):
    """A function, and the run of its module that has defined it.

    Attributes:
        spec: of the module; a reload makes another. None for a program and a notebook.
        run: the code of the module, made anew for each run; None where its functions are called later.
        caller: the module whose run has called for it, where that is another: its name and its code.
    """

    function: Callable[..., Any]
    spec: object
    run: CodeType | None
    caller: tuple[str, CodeType] | None = None

    @property
    def place(self) -> str:
        """For people: the function, its file and its line."""
        function = _innermost(self.function)
        if not isinstance(function, FunctionType):
            return repr(function)[:80]
        code, name = function.__code__, function.__qualname__.replace("<locals>.", "")
        return f"{function.__module__}.{name} ({Path(code.co_filename).name}, line {code.co_firstlineno})"


def _innermost(function: Any) -> Any:
    """The function itself, out of what decorators, partials and methods put around it."""
    for _ in range(100):
        inner = getattr(function, "__wrapped__", None) or getattr(function, "__func__", None)
        if inner is None and isinstance(function, functools.partial):
            inner = function.func
        if inner is None:
            break
        function = inner
    return function


def definition(function: Callable[..., Any]) -> Definition:
    """The definition of a function, called while its module runs, or later."""
    module: dict[str, Any] = getattr(_innermost(function), "__globals__", {})
    caller: tuple[str, CodeType] | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        runs = not code.co_flags & inspect.CO_OPTIMIZED and frame.f_locals is frame.f_globals
        if runs and frame.f_globals is module:  # else it is a function, or the body of a class
            return Definition(function, module.get("__spec__"), code)
        if runs and caller is None and frame.f_globals.get("__spec__") is not None:
            caller = str(frame.f_globals.get("__name__")), code
        frame = frame.f_back
    return Definition(function, module.get("__spec__"), None, caller)


def same(one: Definition, other: Definition) -> bool:
    """Whether the second is the first again: its module was executed again (or is a program that is imported
    too), or it is made by the same lines with the same values around it."""
    f, g = _innermost(one.function), _innermost(other.function)
    if not isinstance(f, FunctionType) or not isinstance(g, FunctionType):
        return _alike(one.function, other.function)
    if f.__qualname__ != g.__qualname__:
        return False
    files = {os.path.realpath(code.co_filename) for code in (f.__code__, g.__code__)}
    if len(files) > 1 and f.__module__ != g.__module__:
        return False
    if f.__code__ is g.__code__:
        a, b = one.caller, other.caller
        again = a is not None and b is not None and a[0] == b[0] and a[1] is not b[1]
        return again or _alike(one.function, other.function)
    if one.run is None or other.run is None:
        return one.spec is None or one.spec is not other.spec
    return one.run is not other.run


def _alike(one: Any, other: Any, depth: int = 20) -> bool:
    """Whether two values are the same for a function that closes over them, as far as it can be known."""
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0:
        return False
    if type(one) in PLAIN:
        return bool(one == other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(
            _alike(a, b, depth - 1) for a, b in zip(one, other, strict=True)
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(_alike(one[key], other[key], depth - 1) for key in one)
    if isinstance(one, (functools.partial, MethodType)):
        return _alike(_held(one), _held(other), depth - 1)
    if not isinstance(one, FunctionType) or one.__code__ is not other.__code__:
        return False
    return _alike(_around(one), _around(other), depth - 1)


def _held(bound: Any) -> list[Any]:
    if isinstance(bound, MethodType):
        return [bound.__func__, bound.__self__]
    return [bound.func, bound.args, bound.keywords]


def _around(function: FunctionType) -> list[Any]:
    cells: list[Any] = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not set yet
            cells.append(None)
    return [function.__defaults__, function.__kwdefaults__, cells]
