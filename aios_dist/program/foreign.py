"""What agents' code finds around it in a turn: no event loop but one that says what an agent may await.

An agent that awaits what is asyncio's (or anyio's, or an SDK's) gets the same sentence, whoever would have
raised what; and it cannot run a loop of its own in the turn's thread. Such a use is noted where it happens:
it ends the program also where the agent's own ``except`` has caught it.
"""

from __future__ import annotations

import asyncio
import asyncio.tasks
import contextlib
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

from aios_dist.model.chance import Known, here
from aios_dist.program.commands import Refused, in_turn
from aios_dist.program.generators import Generators
from aios_dist.program.loops import Loops
from aios_dist.text.tracebacks import related, text_of, traceback_of
from aios_dist.threads.forks import once

FRAMEWORKS = frozenset({"asyncio", "anyio", "sniffio", "greenback", "trio"})
"""What these say about loops and tasks in a turn means always the same."""

OURS = ("aios_dist.program.branches", "aios_dist.program.replay")
"""Where agents' coroutines are run from."""

LOOPS = (
    "no running event loop",
    "There is no current event loop",
    "Cannot run the event loop while another loop is running",
    "this event loop is already running",
)
"""How loops say so that are not written in Python."""


class HandOver(BaseException):
    """Raised at an agent's await where this process lets go of it.

    It goes on elsewhere or later, from its journal; or its job was ended by somebody else. What its
    ``finally`` blocks await then is not done: it raises this again.
    """


class _Dropping(threading.local):
    value = False


dropping = _Dropping()
"""Whether a program is dropped on this thread just now."""


def handed_over() -> bool:
    """Whether an agent's ``finally`` or ``except`` block runs only because this process lets go of it.

    False where the agent itself comes to its end, and outside of agents.
    """
    return dropping.value


class Misused(BaseException):
    """Something of asyncio's was used in a turn; an agent's own ``except Exception`` is not meant for it."""


class _Notes:
    """The first misuse of one turn, whichever thread it was in.

    Attributes:
        place: where in the agent's code.
        thread: that the turn runs on; 0: it is over.
    """

    __slots__ = ("misuse", "place", "thread")

    def __init__(self, thread: int = 0) -> None:
        self.misuse: Misused | None = None
        self.place: TracebackType | None = None
        self.thread = thread

    def elsewhere(self, what: str) -> None:
        """It was in a thread that the agent has started, where nobody else need ever hear of it."""
        frame = sys._current_frames().get(self.thread) if self.thread else None
        if frame is not None and self.misuse is None:
            self.place = _place(frame)
            self.misuse = Misused(
                f"The agent awaited {what}() in a thread of its own, where there is no turn. Await it in the "
                "agent itself; for several at once: gather(…)."
            )


class _Noted(threading.local):
    """Of the turn that runs on this thread."""

    notes = _Notes()


_noted = _Noted()


def _place(frame: FrameType | None) -> TracebackType | None:
    """From the agent's own code to this frame."""
    place = None
    while frame is not None and frame.f_back is not None and frame.f_globals.get("__name__") not in OURS:
        place = TracebackType(place, frame, frame.f_lasti, frame.f_lineno)
        frame = frame.f_back
    return place


def carried(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, for a thread that the turn here starts: what it awaits there, the turn is told."""
    tell = _noted.notes.elsewhere

    def run(*args: Any, **kwargs: Any) -> Any:  # without its name: an object may answer to any
        before, in_turn.begun_in = in_turn.begun_in, tell
        try:
            return function(*args, **kwargs)
        finally:
            in_turn.begun_in = before

    return run


def sentence(awaited: Any = None) -> Refused:
    """The one clear sentence.

    Args:
        awaited: what came out of the await; None for what asyncio would have made of it.
    """
    what = type(awaited).__name__ if awaited is not None else "something of asyncio's own"
    return Refused(
        f"The agent awaited {what}. An agent awaits only llm(), tool(), gather(), sleep() and signal(); in "
        "the place of asyncio's gather and Semaphore: gather(…, limit=n), of its timeouts: within(seconds), "
        "of as_completed: as_done(…). Put other async code into a function and await tool(function)."
    )


def misuse(awaited: Any = None, said: str = "") -> Misused:
    """The same, to be raised in the agent, and noted: see :func:`misused`."""
    error, notes = Misused(said or str(sentence(awaited))), _noted.notes
    if notes.misuse is None:
        place = one = _place(sys._getframe(1))
        while one is not None:
            if one.tb_frame.f_code.co_name == "__del__":
                return error  # garbage is put away in the middle of anything: it is not the agent's doing
            one = one.tb_next
        notes.misuse, notes.place = error, place
    return error


def misused() -> Misused | None:
    """What the turn that runs here has used of asyncio's, whoever caught it; None: nothing."""
    return _noted.notes.misuse


def where_misused() -> TracebackType | None:
    """Where in the agent's code; its own, whatever was raised in its place on its way up."""
    said = _noted.notes.misuse
    return _noted.notes.place or (traceback_of(said) if said is not None else None)


class _NoLoop:
    """Stands where the running loop would: every use of it says the sentence."""

    def create_task(self, coroutine: Any, **_: Any) -> NoReturn:
        """Nobody will run it."""
        if inspect.iscoroutine(coroutine):
            coroutine.close()  # or Python says that it was never awaited
        raise misuse()

    def get_debug(self) -> bool:
        """Whatever is made for a loop asks; it may be made, and put away again."""
        return False

    def is_running(self) -> bool:
        """Who only asks uses nothing."""
        return True

    def is_closed(self) -> bool:
        """The same."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "call_exception_handler":
            return lambda context: None  # what was made for it and is put away complains; nobody listens
        if name.startswith("__"):
            raise AttributeError(name)
        raise misuse()


class _NoTask:
    """Stands where the current task would: timeouts and task groups ask for it, and no loop."""

    def get_name(self) -> str:
        """Each record of ``logging`` asks."""
        return "agent"

    def done(self) -> bool:
        """Who only asks uses nothing."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise misuse()


_NO_LOOP: Any = _NoLoop()
_NO_TASK: Any = _NoTask()


_running, _run_on = asyncio._get_running_loop, asyncio._set_running_loop
_hooks, _hook = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks
_here = threading.get_ident
_loops = Loops(lambda: _running() is _NO_LOOP, lambda: misuse(), carried, (_NoLoop, _NoTask))
_swap: Callable[[Any, Any], Any] | None = (
    getattr(asyncio.tasks, "_swap_current_task") if sys.version_info >= (3, 14) else None  # noqa: B009
)
"""From 3.14 on the current task is the thread's; before, the loop's, for good."""


@once
def _install() -> None:
    """Before the first turn, on whichever thread that is. Outside of turns everything is as it was."""
    _loops.watch()
    if _swap is None:
        asyncio.tasks._enter_task(_NO_LOOP, _NO_TASK)  # the last: it cannot be done twice


@contextlib.contextmanager
def turn(generators: Generators, known: Known, drops: bool = False) -> Iterator[None]:
    """Around agents' code: llm() and tool() mean something here, and asyncio nothing, on every machine.

    Args:
        generators: the program's; else a loop's own hooks would finish them as its tasks.
        known: what it knows of time and chance.
        drops: the program is dropped.
    """
    _install()
    before = in_turn.value, here.known, dropping.value, _noted.notes
    notes = _Notes(_here())
    in_turn.value, here.known, dropping.value, _noted.notes = True, known, drops, notes
    loop, hooks = _running(), _hooks()
    task = _swap(loop, None) if _swap is not None and loop is not None else None
    trio = _loops.trio_away()
    _run_on(_NO_LOOP)
    if _swap is not None:
        _swap(_NO_LOOP, _NO_TASK)
    _hook(generators.begun, generators.left)
    generators.thread = _here()
    try:
        yield
    finally:
        generators.thread = 0
        _hook(*hooks)
        if _swap is not None:
            _swap(_NO_LOOP, None)
        _run_on(loop)
        if _swap is not None and loop is not None:
            _swap(loop, task)
        if trio:
            _loops.trio_back(trio)
        notes.thread = 0
        in_turn.value, here.known, dropping.value, _noted.notes = before


def refusal(error: BaseException) -> Refused | None:
    """The refusal that stands behind an error, if one does: ours, or what a framework made of a turn."""
    for one in related(error):
        if isinstance(one, Refused):
            return one
        if isinstance(one, Misused):
            return Refused(str(one))
        if _of_a_framework(one):
            return sentence()
    return None


def _of_a_framework(error: BaseException) -> bool:
    if not isinstance(error, (RuntimeError, TypeError, AssertionError)):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__") if place is not None else None
    return (isinstance(module, str) and module.partition(".")[0] in FRAMEWORKS) or (
        isinstance(error, RuntimeError) and text_of(error).startswith(LOOPS)
    )
