"""What a forked child does with the loops, threads and sockets that it inherited: nothing.

Parent and child share each socket and each epoll set. A child that closes its copy of a loop takes the
parent's sockets off the set, and one that reads takes the parent's replies. So whoever holds such things
names itself here; after a fork, in the child, it puts them aside, where no finalizer ever gets at them, and
makes new ones when it is used.
"""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, Self

try:
    from ctypes import py_object, pythonapi
except ImportError:  # a Python without it: what is put aside goes when the child ends
    pythonapi = None  # type: ignore[assignment]

from aios_dist.errors import FleetUnavailable, InvalidInput

FORKED = "This was begun in the process that this one was forked from: ask the fleet anew."


class Heir(Protocol):
    """Who holds loops, threads or sockets of its process."""

    def put_aside(self) -> None:
        """We are in a child now, in its only thread: take no lock, send nothing, :func:`keep` what was."""


_heirs: weakref.WeakSet[Heir] = weakref.WeakSet()
_kept: list[object] = []
_process = os.getpid()
_locks: dict[int, Any] = {}


def note(heir: Heir) -> None:
    """Tell it of each fork, in the child, as long as it lives."""
    _heirs.add(heir)


def keep(thing: object) -> None:
    """Let nothing finalize this, nor what it holds, as long as the process lives and while it ends."""
    _kept.append(thing)
    if pythonapi is not None:
        pythonapi.Py_IncRef(py_object(thing))  # one that nobody takes back


def begun() -> Callable[[], None]:
    """For what begins here: to be called as it goes on, which a child is refused (FleetUnavailable)."""
    process = os.getpid()

    def check() -> None:
        if os.getpid() != process:
            raise FleetUnavailable(FORKED)

    return check


def look() -> None:
    """For a fork that told nobody (uWSGI's, without ``py-call-osafterfork``): see that it was one."""
    if os.getpid() != _process:
        with _locks.setdefault(os.getpid(), threading.RLock()):  # our own: an inherited one may be held
            if os.getpid() != _process:
                _in_child()


def once(act: Callable[[], None]) -> Callable[[], None]:
    """This, at the first call only (``functools.cache`` lets two threads in); who comes meanwhile waits."""
    done = False
    locks: dict[int, Any] = {}

    @functools.wraps(act)
    def acted() -> None:
        nonlocal done
        if not done:
            with locks.setdefault(os.getpid(), threading.RLock()):  # an inherited one may be held
                if not done:
                    act()
                    done = True

    return acted


def _in_child() -> None:
    global _process
    for heir in list(_heirs):
        heir.put_aside()
    _process = os.getpid()


os.register_at_fork(after_in_child=_in_child)


class OfThisProcess:
    """An object that another process cannot have; ``_instead`` says what to send there."""

    _instead = "make one there"

    def __reduce__(self) -> NoReturn:
        raise InvalidInput(
            f"A {type(self).__name__} is bound to this process and cannot be pickled: {self._instead}."
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self
