"""What agents' code finds around it in a turn: no event loop but one that says what an agent may await.

An agent that awaits what is asyncio's (or anyio's, or an SDK's) gets the same sentence, whoever would have
raised what; and it cannot run a loop of its own in the turn's thread.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from typing import Any, NoReturn

from aios_dist.commands import Refused, in_turn
from aios_dist.tracebacks import related, text_of

FRAMEWORKS = frozenset({"asyncio", "anyio", "sniffio", "greenback", "trio"})
"""What these say about loops and tasks in a turn means always the same."""

LOOPS = (
    "no running event loop",
    "There is no current event loop",
    "Cannot run the event loop while another loop is running",
    "this event loop is already running",
)
"""How loops say so that are not written in Python."""


def sentence(awaited: Any = None) -> Refused:
    """The one clear sentence.

    Args:
        awaited: what came out of the await; None for what asyncio would have made of it.
    """
    what = type(awaited).__name__ if awaited is not None else "something of asyncio's own"
    return Refused(
        f"The agent awaited {what}. An agent awaits only llm(), tool(), gather(), sleep() and signal() "
        "(not asyncio.gather); put other async code into a function and await tool(function)."
    )


class _NoLoop:
    """Stands where the running loop would: every use of it says the sentence."""

    def create_task(self, coroutine: Any, **_: Any) -> NoReturn:
        """Nobody will run it."""
        if inspect.iscoroutine(coroutine):
            coroutine.close()  # or Python says that it was never awaited
        raise sentence()

    def get_debug(self) -> bool:
        """Whatever is made for a loop asks; it may be made, and put away again."""
        return False

    def __getattr__(self, name: str) -> Any:
        if name == "call_exception_handler":
            return lambda context: None  # what was made for it and is put away complains; nobody listens
        if name.startswith("__"):
            raise AttributeError(name)
        raise sentence()


_NO_LOOP: Any = _NoLoop()


_running, _run_on = asyncio._get_running_loop, asyncio._set_running_loop
_hooks, _hook = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks


class Turn:
    """Around agents' code: llm() and tool() mean something here, and asyncio nothing, on every machine."""

    __slots__ = ("_before", "_hooks", "_loop")

    def __enter__(self) -> None:
        self._before, in_turn.value = in_turn.value, True
        self._loop = _running()
        self._hooks = _hooks()
        _run_on(_NO_LOOP)
        if self._hooks != (None, None):  # a loop's own would finish generators as its tasks
            _hook(None, None)

    def __exit__(self, *_: object) -> None:
        if _hooks() != self._hooks:
            _hook(*self._hooks)
        _run_on(self._loop)
        in_turn.value = self._before


def refusal(error: BaseException) -> Refused | None:
    """The refusal that stands behind an error, if one does: ours, or what a framework made of a turn."""
    for one in related(error):
        if isinstance(one, Refused):
            return one
        if _of_a_framework(one):
            return sentence()
    return None


def _of_a_framework(error: BaseException) -> bool:
    if not isinstance(error, (RuntimeError, TypeError)):
        return False
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    module = place.tb_frame.f_globals.get("__name__") if place is not None else None
    return (isinstance(module, str) and module.partition(".")[0] in FRAMEWORKS) or (
        isinstance(error, RuntimeError) and text_of(error).startswith(LOOPS)
    )
