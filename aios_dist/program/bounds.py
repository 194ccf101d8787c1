"""Over several awaits: ``within()``, a time for all of them, and ``as_done()``, branches as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from types import TracebackType
from typing import Any, Self

from aios_dist.model.calls import SleepRequest
from aios_dist.program.commands import Command, limited, sleep


class Enter(Command):
    """A time begins to run; the answer is its scope."""

    __slots__ = ("request",)
    called = "within"

    def __init__(self, request: SleepRequest) -> None:
        self.request = request


class Leave(Command):
    """A crowd of branches is left, or the last of these scopes that the branch has entered; the answer:
    whether its time was over."""

    __slots__ = ("what",)

    def __init__(self, what: Any) -> None:
        self.what = what


class Start(Command):
    """Branches begin; the answer is the crowd of them."""

    __slots__ = ("branches", "limit")
    called = "as_done"

    def __init__(self, branches: Sequence[Awaitable[Any]], limit: int | None) -> None:
        self.branches = branches
        self.limit = limit


class Next(Command):
    """The next one of a crowd that ends; the answer is what it came to, or ``NONE_LEFT``."""

    __slots__ = ("crowd",)

    def __init__(self, crowd: Any) -> None:
        self.crowd = crowd


NONE_LEFT: Any = object()


class Within:
    """What :func:`within` gives."""

    def __init__(self, seconds: float) -> None:
        self._request = sleep(seconds).request
        self._scopes: list[Any] = []  # entered again, within itself or in another branch, it is two times

    async def __aenter__(self) -> Self:
        self._scopes.append(await Enter(self._request))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        expired = await Leave(self._scopes)
        if expired and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError(f"It was not done within {self._request.seconds:g} s.") from error


def within(seconds: float) -> Within:
    """A bound over awaits of an agent: ``async with within(30): answer = await llm("…")``.

    When the time is over before the block is, what the block awaits raises ``asyncio.CancelledError`` there
    (so that ``except Exception`` does not take it for a failure), and the block raises TimeoutError. Branches
    of a ``gather`` in it get it too. What was asked for runs on and is paid for; nobody waits for it. The
    time is a step, as ``sleep()``: it runs from when it is asked for, also while no process has the agent.

    Raises:
        InvalidInput: not a number of seconds from 0 to ten years.
        TimeoutError: from the block.
    """
    return Within(seconds)


class AsDone:
    """What :func:`as_done` gives."""

    def __init__(self, branches: Sequence[Awaitable[Any]], limit: int | None, keep: bool) -> None:
        self._branches = branches
        self._limit = limit
        self._keep = keep

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._through()

    async def _through(self) -> AsyncGenerator[Any, None]:
        crowd = await Start(self._branches, self._limit)
        try:
            while (ended := await Next(crowd)) is not NONE_LEFT:
                if isinstance(ended.error, BaseException) and not self._keep:
                    raise ended.error
                yield ended.value if ended.error is None else ended.error
        finally:
            await Leave(crowd)


def as_done(
    *branches: Awaitable[Any], limit: int | None = None, return_exceptions: bool = False
) -> AsyncIterator[Any]:
    """Several at once, and their results as they come: ``async for answer in as_done(llm("a"), llm("b")):``.

    A branch that fails raises its error here, or, with ``return_exceptions``, it comes in the result's place.
    Whoever leaves the loop (``break``, an error) stops the others: they get ``asyncio.CancelledError`` where
    they are; what they have asked for runs on and is paid for.

    Args:
        branches: as of ``gather()``.
        limit: so many at a time; None: all.
        return_exceptions: failures are results.

    Raises:
        InvalidInput: a limit that is no whole number from 1.
    """
    return AsDone(branches, limited("as_done", limit), return_exceptions).__aiter__()
