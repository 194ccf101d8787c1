"""What is there without a program: what its agent's function closes over, and what stands in modules.

Tools share that, as they share globals; what else they hold is the program's, see ``holdings``. Looked at is
the agent's own package, and what that names of others; a program's values are nowhere among it, unless the
program has put them there.
"""

from __future__ import annotations

import functools
import gc
import itertools
from collections import deque
from collections.abc import Iterable
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

from aios_dist.model.given import PLAIN
from aios_dist.program.arguments import held_by

Outside = dict[int, Any]
"""What is the module's, by ``id``."""

MOST_SEEN = 20_000
"""Objects that are looked at. Beyond, what is not found is the program's."""

MOST_IN_ONE = 1_000
"""… and of one list or dict."""

EMPTY = object()
"""What is in a cell that is not set yet."""

_NAMED = frozenset({dict, WeakKeyDictionary, WeakValueDictionary})
_LOOKED_INTO = _NAMED | {list, tuple, set, frozenset, deque, WeakSet}
_CODE = (ModuleType, type, FunctionType)
_CACHED: Any = type(functools.cache(len))


def outside(root: Any) -> Outside:
    """What is there without the program, as far as one gets in a moment.

    Args:
        root: the agent, or its function.
    """
    package = str(getattr(root, "__module__", None) or "").partition(".")[0]
    modules: set[int] = set()
    found: Outside = {}
    todo = deque([root])
    while todo and len(found) < MOST_SEEN:
        one = todo.popleft()
        if id(one) in found:
            continue
        found[id(one)] = one
        try:
            todo += [more for more in _in(one, package, modules) if not _holds_nothing(more, modules)]
        except Exception:  # of a class that does not want to be looked at, somewhere in the package
            pass
    return found


def _holds_nothing(one: Any, modules: set[int]) -> bool:
    """Most of a package are functions that hold nothing but the module, which is known."""
    if type(one) is not FunctionType:
        return any(type(one) is plain for plain in PLAIN)  # (a class may have no hash)
    held = one.__closure__ or one.__defaults__ or one.__kwdefaults__ or one.__dict__
    return not held and id(one.__globals__) in modules


def _in(one: Any, package: str, modules: set[int]) -> Iterable[Any]:
    """What one of them holds. By its type alone: nothing of the user's is to run here."""
    kind = type(one)
    if kind is CellType:
        return [] if (held := content(one)) is EMPTY else [held]
    if kind is FunctionType:
        return _in_function(one, package, modules)
    if kind is MethodType:
        return [one.__self__, one.__func__]
    if issubclass(kind, functools.partial):
        return [one.func, *one.args, *one.keywords.values()]
    if kind is _CACHED:
        return [held for held in gc.get_referents(one) if type(held) is not type]
    if kind in _LOOKED_INTO:
        try:
            held = itertools.chain.from_iterable(one.items()) if kind in _NAMED else one
            some = list(itertools.islice(held, 2 * MOST_IN_ONE))
            return [one for one in some if not issubclass(type(one), ModuleType)]  # sys.modules has them all
        except RuntimeError:  # another thread changes it just now
            return []
    if issubclass(kind, ModuleType):
        return _in_module(vars(one), modules, _of(vars(one).get("__name__"), package))
    if issubclass(kind, type):
        return list(vars(one).values()) if _of(vars(one).get("__module__"), package) else []
    if _of(kind.__module__, "aios_dist"):  # an agent
        return [vars(one)["__wrapped__"]] if "__wrapped__" in getattr(one, "__dict__", {}) else []
    return held_by(one) if kind is SimpleNamespace or _of(kind.__module__, package) else []


def content(cell: CellType) -> Any:
    """What is in it, or ``EMPTY``."""
    try:
        return cell.cell_contents
    except ValueError:
        return EMPTY


def _in_function(one: FunctionType, package: str, modules: set[int]) -> list[Any]:
    held = [*(one.__closure__ or ()), *(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
    held += vars(one).values()
    if _of(one.__module__, package):
        held += _in_module(one.__globals__, modules, True)
    return held


def _in_module(names: dict[str, Any], modules: set[int], own: bool) -> list[Any]:
    """Of another package only its objects: what its functions use, nobody looks for."""
    if id(names) in modules:
        return []
    modules.add(id(names))
    return [held for held in list(names.values()) if own or not issubclass(type(held), _CODE)]


def _of(module: Any, package: str) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == package
