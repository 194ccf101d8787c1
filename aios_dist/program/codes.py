"""A short name for the code of an agent: the same as long as its function, and what that uses of its own
package, is the same; comments, docstrings, lines and other functions of the file do not count.

It is made from what Python runs, not from files: those may be others by now than when they were imported. So
another Python gives another name. Whether a job can go on with other code, its replay says; the name only
says which worker is to be asked first, and what to tell its owner.
"""

from __future__ import annotations

import builtins
import dis
import functools
import hashlib
import os
import re
import socket
import string
import sys
from collections import ChainMap, deque
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from decimal import Decimal
from fractions import Fraction
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
    SimpleNamespace,
)
from typing import Any

CHARACTERS = 8

MOST = 5_000
"""Objects that are looked at: some 50 ms of work, once for each agent."""

DEEPEST = 20
"""Values in values."""

_PLAIN = (str, bytes, int, float, complex, bool, type(None), type(...))
_SAID_ALL = (range, Decimal, Fraction, timedelta, date, datetime, clock_time, bytearray)
_INSTALLED = re.compile(r"[/\\](site|dist)-packages$")
_OF_A_PROCESS = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_EPOCH = 1e9
"""A number from here on is taken for a time."""
_MANY = 1000


def code_of(function: Callable[..., Any]) -> str:
    """The name of a function's code.

    What stands in modules as constants counts too: a prompt, a table. What is another thing in each process
    (environment variables, the machine's name, times, random ids) does not, nor what it imports later.
    """
    try:
        found = _Walk(function)
        found.follow()
    except Exception:  # of an object that does not want to be looked at
        return _short([repr(getattr(function, "__qualname__", ""))])
    return _short(found.said)


def _short(said: list[str]) -> str:
    return hashlib.blake2b(
        "\n".join(said).encode("utf-8", "replace"), digest_size=CHARACTERS // 2
    ).hexdigest()


class _Walk:
    """From the agent's function to what it uses, each once, in the order in which it is met.

    Attributes:
        said: what the name is made of.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.said: list[str] = []
        self._todo: list[Any] = [function]
        self._met: dict[int, Any] = {}
        self._left = MOST
        inner = _bare(function)
        self._package = str(getattr(inner, "__module__", None) or "").partition(".")[0]
        code = getattr(inner, "__code__", None)
        folder = os.path.dirname(os.path.abspath(code.co_filename)) if code is not None else ""
        module = getattr(inner, "__globals__", {}).get("__package__") or ""
        flat = not module and code is not None and not _INSTALLED.search(folder)
        self._folder = folder + os.sep if flat else ""

    def follow(self) -> None:
        """Go on until all is met."""
        while self._todo and self._left > 0:
            self._left -= 1
            one = self._todo.pop(0)
            if id(one) not in self._met:
                self._met[id(one)] = one
                self._say(one)

    def _say(self, one: Any) -> None:
        if isinstance(one, FunctionType):
            self.said.append("function")
            values = [one.__defaults__, one.__kwdefaults__, *map(_content, one.__closure__ or ())]
            self._values(values)
            self._code(one.__code__, one.__globals__)
        elif isinstance(one, type):
            self.said.append("class")
            for name, value in vars(one).items():
                if name not in _OF_CLASSES:
                    self.said.append(name)
                    self._values([value])
            self._values(one.__bases__)

    def _code(self, code: CodeType, names: dict[str, Any]) -> None:
        """What it does, without lines and docstrings, and what it names."""
        attributes: list[str] = []
        modules: list[ModuleType] = []
        before = ""
        for operation in dis.get_instructions(code):
            name, argument = operation.opname, operation.argval
            if isinstance(argument, CodeType):
                self.said.append("code")
                self._code(argument, names)
                continue
            if before.endswith("LOAD_CONST") and (name, argument) in _SAYS_NOTHING:
                self.said.pop()
                continue
            before = name
            if name in _NO_WORDS:
                continue
            if name.endswith("LOAD_CONST"):
                self.said.append(f"{name} {_constant(argument)}")
                continue
            target = operation.opcode in _JUMPS
            self.said.append(name if target or argument is None else f"{name} {argument!r}")
            if name in ("LOAD_GLOBAL", "LOAD_NAME") and argument in names:
                value = names[argument]
                if type(value) is ModuleType:
                    modules.append(value)
                else:
                    self._values([value])
            elif name in ("LOAD_ATTR", "LOAD_METHOD"):
                attributes.append(str(argument))
        for module in modules:  # and those that are named through them: pkg.prompts.PLAN
            if self._ours(module.__name__, getattr(module, "__file__", None)):
                found = [vars(module).get(name) for name in dict.fromkeys(attributes)]
                through = [one for one in found if type(one) is ModuleType]
                modules += [one for one in through if all(one is not known for known in modules)]
                self._values(one for one in found if type(one) is not ModuleType)

    def _values(self, values: Any, depth: int = 0) -> None:
        for value in values:
            self.said.append(self._value(value, depth))

    def _value(self, value: Any, depth: int) -> str:
        """A value in words; functions and classes of ours are looked at later."""
        kind = type(value)
        if kind in _PLAIN:
            return "" if _of_this_process(value) else repr(value)
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            return "…"
        try:
            return self._of_kind(value, kind, depth)
        except Exception:  # an object that does not want to be looked at says nothing, and all others do
            return kind.__qualname__

    def _of_kind(self, value: Any, kind: type, depth: int) -> str:
        ours = self._is_ours(kind)
        if not ours and issubclass(kind, (list, tuple, deque)):
            self._values(value, depth + 1)
            return f"{kind.__name__} of {len(value)}"
        if not ours and issubclass(kind, (set, frozenset)):
            return f"set {sorted(map(repr, filter(_is_plain, value)))}"
        if not ours and issubclass(kind, (dict, MappingProxyType, ChainMap)):
            self._values(value.keys(), depth + 1)
            self._values(value.values(), depth + 1)
            return f"dict of {len(value)}"
        if kind is datetime and value.microsecond:
            return ""  # a moment of this process
        if kind in _SAID_ALL:
            return repr(value)
        if kind is re.Pattern:
            return f"pattern {value.pattern!r} {value.flags}"
        if kind is SimpleNamespace:
            self._values([vars(value)], depth + 1)
            return kind.__name__
        if issubclass(kind, string.Template):
            return repr(value.template)
        if issubclass(kind, _HOLDERS):
            self._values(_in(value), depth + 1)
            return str(kind.__name__)
        # (what is made anew around a helper, with wraps, leads to that by itself)
        inner: Any = value if kind is FunctionType else _bare(value)
        if isinstance(inner, (FunctionType, type)):
            if self._is_ours(inner):
                self._todo.append(inner)
            return (
                f"{getattr(inner, '__module__', '')}.{inner.__qualname__}"
                if not self._is_ours(inner)
                else "ours"
            )
        if isinstance(inner, BuiltinFunctionType):
            return str(inner.__qualname__)
        if ours and id(value) not in self._met:
            self._met[id(value)] = value
            self._todo.append(kind)
            self._values(_held(value, kind), depth + 1)
        return kind.__qualname__

    def _is_ours(self, one: Any) -> bool:
        code = getattr(one, "__code__", None)
        file = code.co_filename if isinstance(code, CodeType) else None
        return self._ours(getattr(one, "__module__", None), file)

    def _ours(self, module: Any, file: str | None) -> bool:
        if not isinstance(module, str) or module == builtins.__name__:
            return False
        if module.partition(".")[0] in ("aios_dist", "typing") and self._package != "aios_dist":
            return False
        if module.partition(".")[0] == self._package:
            return True
        if not self._folder:
            return False
        file = file or getattr(sys.modules.get(module), "__file__", None)
        return bool(file) and os.path.abspath(str(file)).startswith(self._folder) and not _foreign(str(file))


_SAYS_NOTHING = {("STORE_NAME", "__doc__"), ("STORE_NAME", "__firstlineno__")}
"""What a class is given that is made inside a function."""
_HOLDERS = (staticmethod, classmethod, property, functools.partial, functools.cached_property, MethodType)
_JUMPS = {*dis.hasjrel, *dis.hasjabs}
_NO_WORDS = frozenset({"CACHE", "RESUME", "NOP", "EXTENDED_ARG", "PRECALL", "COPY_FREE_VARS", "MAKE_CELL"})
_OF_CLASSES = frozenset(
    {
        *("__doc__", "__dict__", "__weakref__", "__module__", "__annotations__", "__qualname__", "__slots__"),
        *(
            "__firstlineno__",
            "__static_attributes__",
            "__annotate__",
            "__annotate_func__",
            "__abstractmethods__",
        ),
        *("_abc_impl", "__parameters__", "__orig_bases__", "__hash__", "__match_args__"),
        *("__annotations_cache__", "__classdictcell__"),
    }
)


def _foreign(file: str) -> bool:
    """In an environment that stands beside the agents."""
    return "site-packages" in file or "dist-packages" in file


def _bare(function: Any) -> Any:
    """Out of what decorators put around it."""
    for _ in range(100):
        inner = getattr(function, "__dict__", {}).get("__wrapped__")
        if inner is None:
            break
        function = inner
    return function


def _in(value: Any) -> Iterator[Any]:
    if isinstance(value, property):
        yield from (value.fget, value.fset, value.fdel)
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, MethodType):
        yield from (value.__func__, type(value.__self__))
    elif isinstance(value, functools.cached_property):
        yield value.func
    else:
        yield value.__func__


def _held(value: Any, kind: type) -> Iterator[Any]:
    """What an object of a class of ours holds: as a text, a list, a table that it is, and in its fields."""
    for plain in (str, bytes, int, float):
        if issubclass(kind, plain):
            yield plain(value)
    for some in (tuple, list, dict):
        if issubclass(kind, some):
            yield some(value)
    fields = list(getattr(kind, "__struct_fields__", ()))
    for one in kind.__mro__:
        slots = vars(one).get("__slots__", ())
        fields += [slots] if isinstance(slots, str) else [*slots]
    yield from (getattr(value, name, None) for name in fields if isinstance(name, str) and name[:2] != "__")
    yield from getattr(value, "__dict__", {}).values()


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not set yet
        return None


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # its order is another one in each process
        return f"set {sorted(map(repr, value))}"
    return repr(value)


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN


def _of_this_process(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value) and (
            value in os.environ.values()
            or value == socket.gethostname()
            or bool(_OF_A_PROCESS.fullmatch(value))
        )
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return abs(value) >= _EPOCH or value == os.getpid() > _MANY
    return False
