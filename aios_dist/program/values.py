"""Values that a program could change, what they hold, and what is plain JSON anyway."""

from __future__ import annotations

import array
import collections
import io
import random
from collections.abc import Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

from aios_dist.model.given import PLAIN

MUTABLE = (
    *(list, dict, set, bytearray, collections.deque, array.array, io.StringIO, io.BytesIO),
    *(random.Random, SimpleNamespace, Iterator),
)


def is_plain(value: Any, depth: int = 200) -> bool:
    """Whether JSON gives the value back as it is, with all its types."""
    kind = type(value)
    if kind in PLAIN:
        return True
    if depth == 0:
        return False
    if kind is list:
        return all(type(entry) in PLAIN or is_plain(entry, depth - 1) for entry in value)
    if kind is dict:
        return all(type(key) is str for key in value) and all(
            type(entry) in PLAIN or is_plain(entry, depth - 1) for entry in value.values()
        )
    return False


def changeable(default: Any, seen: set[int] | None = None) -> bool:
    """Whether a start could change it. What else there is, is the module's own, as its globals are.

    An object that compares by what it holds is a value; one that does not may be a sentinel, of which a copy
    would be another one: it is copied only where it holds what could be changed.
    """
    kind: Any = type(default)
    seen = set() if seen is None else seen
    if kind in PLAIN or isinstance(default, (type, FunctionType, ModuleType)) or id(default) in seen:
        return False
    seen.add(id(default))
    if isinstance(default, MUTABLE) or hasattr(kind, "__attrs_attrs__"):
        return True
    if isinstance(default, (tuple, frozenset)):
        return any(changeable(one, seen) for one in default)
    held = held_by(default)
    said = getattr(kind, "__dataclass_params__", None) or getattr(kind, "__struct_config__", None)
    if said is not None:  # of a dataclass, or of msgspec's
        value = not said.frozen
    else:
        value = bool(held) and kind.__eq__ is not object.__eq__ and not isinstance(default, (str, int, float))
    return value or any(changeable(one, seen) for one in held)


def held_by(value: Any) -> list[Any]:
    """What an object holds, by its attributes."""
    try:
        return [
            *getattr(value, "__dict__", {}).values(),
            *(getattr(value, n, None) for n in slots(type(value))),
        ]
    except Exception:  # an object that does not want to be looked at
        return []


def slots(kind: Any) -> list[str]:
    """The attributes of a class's objects that are not in their ``__dict__``."""
    names: list[str] = [*getattr(kind, "__struct_fields__", ())]
    for base in kind.__mro__:
        said = base.__dict__.get("__slots__", ())
        names += [said] if isinstance(said, str) else said
    return [name for name in names if name not in ("__dict__", "__weakref__")]
