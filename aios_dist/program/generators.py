"""A program's asynchronous generators, and when they are closed: inside its turns, on every machine alike.

One that is left (by ``break``, say) is closed where Python lets go of it. One that only the garbage collector
finds, at a time that no replay repeats, is closed when the program ends, as are those still open then. What
the closing awaits are steps of the program.
"""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import AsyncGenerator
from contextvars import Context, copy_context
from typing import Any, NamedTuple

from aios_dist.text.tracebacks import name_of, user_traceback
from aios_dist.threads.forks import once

logger = logging.getLogger("aios_dist.program.agents")

Generator = AsyncGenerator[Any, Any]

FORGET_AT = 64
"""Generators that were begun, beyond which those that are gone are looked for."""


class Closing(NamedTuple):
    """A closing that awaits something.

    Attributes:
        run: has ``send`` and ``throw`` as a coroutine.
        context: its context variables.
        command: what it awaits first.
    """

    run: Any
    context: Context
    command: Any


class Generators:
    """Those of one program. They know this, and this knows nothing of the program: it must not keep it.

    Attributes:
        thread: where a turn of the program runs; 0: nowhere.
        closing: closings that await something, for whoever runs the program to go on with.
    """

    __slots__ = ("_begun", "_forget_at", "_left", "_next", "closing", "thread")

    def __init__(self) -> None:
        self.thread = 0
        self.closing: list[Closing] = []
        self._begun: dict[int, tuple[int, weakref.ref[Generator]]] = {}  # by id()
        self._left: dict[int, Generator] = {}  # by the order of beginning
        self._next = 0
        self._forget_at = FORGET_AT

    def begun(self, generator: Generator) -> None:
        """Python's hook: it is gone through for the first time."""
        _watch()
        if len(self._begun) >= self._forget_at:
            self._begun = {key: it for key, it in self._begun.items() if it[1]() is not None}
            self._forget_at = max(FORGET_AT, 2 * len(self._begun))
        self._begun[id(generator)] = self._next, weakref.ref(generator)
        self._next += 1

    def left(self, generator: Generator) -> None:
        """Python's hook: nobody has it any more, and it is not at its end."""
        here = threading.get_ident()
        order, _ = self._begun.pop(id(generator), (self._next, None))
        if self.thread == here and _Collector.thread != here:
            self.close(generator)
        else:
            self._left[order] = generator

    def close(self, generator: Generator) -> None:
        """Run its ``finally`` blocks as far as they go without awaiting."""
        context, run = copy_context(), generator.aclose()
        try:
            command = context.run(run.send, None)
        except StopIteration:
            return
        except Exception as error:
            unheard(error)
            return
        except BaseException:  # it was noted, where it means anything
            return
        self.closing.append(Closing(run, context, command))

    def next_open(self) -> Generator | None:
        """The one that was begun first and is still open, each once; None: there is none."""
        there = {order: it for order, ref in self._begun.values() if (it := ref()) is not None}
        there |= self._left
        for order in sorted(there):
            generator = there[order]
            self._begun.pop(id(generator), None)
            self._left.pop(order, None)
            if generator.ag_frame is not None and not generator.ag_running:  # type: ignore[attr-defined]
                return generator
        return None


def unheard(error: BaseException) -> None:
    """Nobody awaits a closing: what it raises is said where it can be."""
    where = user_traceback(error)
    text = "The closing of an asynchronous generator raised %s; nobody hears it.%s"
    logger.warning(text, name_of(type(error)), f"\n{where}" if where else "")


class _Collector:
    """On which thread garbage is collected just now."""

    thread = 0

    @classmethod
    def heard(cls, phase: str, info: object) -> None:
        cls.thread = threading.get_ident() if phase == "start" else 0


@once
def _watch() -> None:
    gc.callbacks.append(_Collector.heard)
