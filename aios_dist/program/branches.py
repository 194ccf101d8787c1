"""One coroutine of a program, and how it is run, left and dropped."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextvars import Context
from types import TracebackType
from typing import Any

from aios_dist.model.calls import LLMResponse
from aios_dist.program.bounds import Leave, Start
from aios_dist.program.commands import Gather
from aios_dist.program.crowds import Crowd, Member
from aios_dist.text.tracebacks import traceback_of, waits_at

STUBBORN = 16
"""How often a program that is dropped may await again before it is left alone."""


class Branch:
    """One coroutine of the program, and whom it reports to."""

    __slots__ = (
        *(
            "awaits",
            "begun",
            "caught",
            "checked",
            "children",
            "context",
            "coroutine",
            "crowd",
            "failures",
            "gone",
        ),
        *("index", "interrupted", "later", "left", "number", "parent", "pending", "queued", "results"),
        *("source", "wants"),
    )

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        context: Context,
        parent: Branch | None,
        index: int,
        source: Any = None,
    ) -> None:
        self.coroutine = coroutine
        self.context = context  # its own context variables, as each of asyncio's tasks has them
        self.source = source  # what it awaits, where that is all it does
        self.parent = parent
        self.index = index
        self.crowd: Crowd | None = None  # whose member it is, where it has no parent
        self.begun = self.queued = self.interrupted = self.gone = False
        self.number: int | None = None  # of the step that it waits for
        self.awaits: Crowd | None = None  # whose next member it waits for
        self.wants: Gather | None = None
        self.children: dict[Branch, None] = {}  # of what it wants: those that go on
        self.later: deque[Member] = deque()  # … and those that have not begun
        self.results: list[Any] = []
        self.left = 0
        self.failures: list[int] = []  # steps whose failure it has got and not gone on from
        self.pending: list[int] = []  # … those of its branches that have ended, while others go on
        self.caught: list[int] = []  # … of those that ended well: they may have returned the error
        self.checked: tuple[int, Any] = (0, None)  # messages of its conversation, and the last of them

    def went_on(self) -> None:
        """It asked for a step: what failed before is history, for those that began it too."""
        branch: Branch | None = self
        while branch is not None:
            branch.failures.clear()
            branch = branch.parent

    def has_ended(self, child: Branch, answer: Any) -> bool:
        """A branch that it waits for has ended. Gives whether those that have not begun are not to begin."""
        self.children.pop(child, None)
        failed = isinstance(answer, Raised)
        if failed:
            self.pending += child.failures
        else:
            self.caught += child.failures
        self.results[child.index] = answer
        self.left -= 1
        if not failed or self._keeps_failures:
            return False
        self.left -= len(self.later)
        return True

    def gathered(self) -> Any:
        """All that it waits for have ended: what its await gives."""
        results, keeps = self.results, self._keeps_failures
        self.results, self.wants = [], None
        self.failures += self.pending + self.caught
        self.pending, self.caught = [], []
        failures = [r for r in results if isinstance(r, Raised)]
        if failures and not keeps:
            return failures[0]
        return [r.error if isinstance(r, Raised) else r for r in results]

    @property
    def _keeps_failures(self) -> bool:
        return self.wants is None or self.wants.return_exceptions


def waits_where(branch: Branch | None) -> str:
    """The line of the agent that waits there: of one of its functions, or of the gather of it."""
    while branch is not None:
        if place := waits_at(branch.coroutine):
            return place
        branch = branch.crowd.owner if branch.crowd is not None else branch.parent
    return ""


def own(answer: Any) -> Any:
    """What the agent may change without changing the outcome, which is still to be written, or kept."""
    changeable = isinstance(answer, (list, dict)) or (isinstance(answer, LLMResponse) and answer.tool_calls)
    return copy.deepcopy(answer) if changeable else answer


class Raised:
    """An exception on its way to the branch that will see it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


AWAITS, RETURNED, RAISED = "awaits", "returned", "raised"


def stack() -> Generator[Any, tuple[Callable[..., Any], Callable[[Any], Any], Any], None]:
    """Where coroutines go on from: is sent how to run which method with what, yields how that ended.

    A function's frame keeps the frame that called it, and an exception that an agent keeps those of the
    functions it came through: up to ours, with the program in them, which would never be garbage. A generator
    that waits has no caller, so the chain ends here.
    """
    ended: list[Any] = [None]  # emptied as it yields: what waits here holds nothing
    while True:
        run, method, value = yield ended.pop()
        try:
            ended.append((AWAITS, run(method, value)))
        except StopIteration as stop:
            ended.append((RETURNED, stop.value))
        except BaseException as error:
            ended.append((RAISED, error))
        del run, method, value


def unbegun(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def drop(awaitable: Any) -> None:
    """Nobody will await this: say so to what it holds, or Python does."""
    todo, seen = [awaitable], set()  # they may be nested as deep as a program likes, and in each other
    while todo:
        one = todo.pop()
        if isinstance(one, (Gather, Start)):
            if id(one) not in seen:
                seen.add(id(one))
                todo.extend(one.branches)
        elif isinstance(one, Leave):
            if isinstance(one.what, Crowd):
                todo += (member.child for member in one.what.later)
        elif inspect.iscoroutine(one) and unbegun(one):
            one.close()


async def just(command: Any) -> Any:
    return await command


def members(children: Sequence[Any]) -> deque[Member]:
    members: deque[Member] = deque()
    seen: set[int] = set()
    for index, child in enumerate(children):
        # One that was begun, or comes twice, is awaited in the plain way: Python then says what is wrong.
        fresh = asyncio.iscoroutine(child) and unbegun(child) and id(child) not in seen
        seen.add(id(child))
        members.append(Member(index, child, fresh))
    return members


def without_us(error: BaseException) -> BaseException:
    """The error without our own frame."""
    place = traceback_of(error)
    return placed(error, place.tb_next if place is not None else None)


def bare(error: BaseException) -> BaseException:
    """An error that arose in our frames, without them."""
    BaseException.__dict__["__context__"].__set__(error, None)  # whatever its class makes of it
    return placed(error, None)


def placed(error: BaseException, place: TracebackType | None) -> BaseException:
    return BaseException.with_traceback(error, place)  # whatever the user's class calls so
