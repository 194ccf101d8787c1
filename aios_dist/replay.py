"""Running an agent's program from its journal: the turn, as pure code.

The program is started anew and driven until each of its branches waits for an outcome that is not there
yet. Outcomes are handed to it one at a time **in the order in which they were written**, so that branches
that run side by side (``gather``) ask for their steps in the same order on every replay, on every machine.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from aios_dist.agents import Program, as_json
from aios_dist.calls import LLMRequest, LLMResponse, Request, ToolRequest
from aios_dist.commands import Gather, Leaf, Tool, in_turn
from aios_dist.errors import InvalidInput, ProgramChanged, StepError, UsageError
from aios_dist.jobs import Kind, Outcome, Step, digest


class Asked(msgspec.Struct, frozen=True):
    """A step that the program asked for, in the order of asking; its place in the list is its number."""

    command: Leaf
    kind: Kind
    digest: str


ENDS = (Exception, asyncio.CancelledError, GeneratorExit, SystemExit)
"""With what a program may end itself. A KeyboardInterrupt is the caller's."""

STUBBORN = 16
"""How often a program that is dropped may await again before it is left alone."""

NO_LOOP = ("no running event loop", "There is no current event loop")
"""What asyncio says in a turn."""


class _Branch:
    """One coroutine of the program, and whom it reports to."""

    __slots__ = ("coroutine", "failures", "index", "left", "parent", "pending", "results", "source", "wants")

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], parent: _Branch | None, index: int, source: Any = None
    ) -> None:
        self.coroutine = coroutine
        self.source = source  # what it awaits, where that is all it does
        self.parent = parent
        self.index = index
        self.wants: Gather | None = None
        self.results: list[Any] = []
        self.left = 0
        self.failures: list[int] = []  # steps whose failure it has got and not gone on from
        self.pending: list[int] = []  # … those of its branches that have ended, while others go on

    def went_on(self) -> None:
        """It asked for a step: what failed before is history, for those that began it too."""
        branch: _Branch | None = self
        while branch is not None:
            branch.failures.clear()
            branch = branch.parent


class _Raised:
    """An exception on its way to the branch that will see it."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Dropped(BaseException):
    """Thrown into a program that is dropped: a GeneratorExit leaves behind what a ``finally`` awaits."""


@contextmanager
def _in_turn() -> Iterator[None]:
    """Around agents' code: llm() and tool() mean something here, and asyncio nothing, on every machine."""
    token = in_turn.set(True)
    loop = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        in_turn.reset(token)


def _unbegun(coroutine: Coroutine[Any, Any, Any]) -> bool:
    return not inspect.iscoroutine(coroutine) or inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def _drop(awaitable: Any) -> None:
    """Nobody will await this: say so to what it holds, or Python does."""
    if isinstance(awaitable, Gather):
        for branch in awaitable.branches:
            _drop(branch)
    elif inspect.iscoroutine(awaitable) and _unbegun(awaitable):
        awaitable.close()


async def _just(command: Any) -> Any:
    return await command


class Replay:
    """One run of a program, fed with outcomes.

    Attributes:
        asked: every step that was asked for so far.
        version: how many outcomes were delivered.
        basis: what it has seen, as the journal calls it; whoever feeds it with the journal's outcomes sets it.
        finished: the program returned or raised.
        result: what it returned, as JSON gives it back.
        error: what it raised.
        closed: it was dropped; whoever wants to go on replays the journal.
        refused: the first request that ``admit`` refused, if any; the agent saw it raised by its await.
    """

    def __init__(
        self,
        program: Program,
        journaled: Sequence[Step] = (),
        admit: Callable[[Leaf, bytes], None] = lambda command, data: None,
    ) -> None:
        """Start the program and run it until it waits.

        Args:
            program: the agent with its input.
            journaled: the steps that the journal holds, by number.
            admit: raises a UsageError for a request that can never be served.
        """
        self.asked: list[Asked] = []
        self.version = 0
        self.basis = ""
        self.finished = False
        self.closed = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.refused: UsageError | None = None
        self._admit = admit
        self._journaled = journaled
        self._waiting: dict[int, _Branch] = {}
        self._runnable: deque[tuple[_Branch, Any]] = deque()
        self._broken: ProgramChanged | None = None
        self._ending: list[int] = []  # the failures that it ended with
        self._open: dict[_Branch, None] = {}  # begun and not ended, in the order of beginning
        try:
            coroutine = program()
        except Exception as error:
            self._finish(_Raised(error))
        else:
            self._run(self._begin(coroutine, None, 0), None)

    def deliver(self, number: int, outcome: Outcome) -> None:
        """Hand the next outcome, in the order of writing, to whoever waits for it."""
        if self.closed:
            raise RuntimeError("This program was dropped: replay the journal.")
        self.version += 1
        if self.finished:
            return
        branch = self._waiting.pop(number, None)
        if branch is None:
            self._diverge(number, "nothing; the program no longer asks for it")
            return
        try:
            answer = _own(outcome.result())
        except StepError as error:
            answer = _Raised(error)
            branch.failures.append(number)
        self._run(branch, answer)

    def check_complete(self) -> None:
        """After the whole journal was delivered: every journaled step must have been asked for."""
        if self._broken is None and len(self.asked) < len(self._journaled):
            does = "has ended" if self.finished else "waits for something else"
            self._diverge(len(self.asked), f"nothing; the program {does}")

    def undone(self) -> list[int]:
        """The steps whose failure the program has not gone on from, in order: what a retry runs again.

        It has gone on where it caught the failure and asked for another step, or ended well in spite of it.
        """
        if self._broken is not None or (self.finished and self.error is None):
            return []
        return sorted({*self._ending, *(n for b in self._open for n in (*b.failures, *b.pending))})

    def waits(self) -> bool:
        """Some branch waits for an outcome."""
        return bool(self._waiting)

    def close(self) -> None:
        """Drop the program where it stands; its ``finally`` blocks run, but what they await is not done."""
        branches = list(reversed(self._open))
        self._open.clear()
        self._waiting.clear()
        self._runnable.clear()
        self.closed = True
        with _in_turn():
            for branch in branches:
                for _ in range(STUBBORN):
                    try:
                        _drop(branch.coroutine.throw(_Dropped()))  # it awaited again, in a finally
                    except (_Dropped, *ENDS):
                        break
                _drop(branch.source)

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            self.close()

    def _begin(
        self, coroutine: Coroutine[Any, Any, Any], parent: _Branch | None, index: int, source: Any = None
    ) -> _Branch:
        branch = _Branch(coroutine, parent, index, source)
        self._open[branch] = None
        return branch

    def _run(self, branch: _Branch, answer: Any) -> None:
        self._runnable.append((branch, answer))
        with _in_turn():
            while self._runnable and not self.finished:
                self._advance(*self._runnable.popleft())

    def _advance(self, branch: _Branch, answer: Any) -> None:
        """Run one branch to its next await, or to its end."""
        try:
            while True:
                if isinstance(answer, _Raised):
                    command = branch.coroutine.throw(answer.error)
                else:
                    command = branch.coroutine.send(answer)
                if isinstance(command, Leaf):
                    try:
                        number = self._ask(command)
                    except UsageError as error:
                        answer = _Raised(self._refuse(error))
                        continue
                    if number >= 0:
                        self._waiting[number] = branch
                        branch.went_on()
                    return
                if isinstance(command, Gather):
                    if not command.branches:
                        answer = []
                        continue
                    self._split(branch, command)
                    return
                answer = _Raised(self._refuse(_foreign(command)))
        except StopIteration as stop:
            self._settle(branch, stop.value)
        except ENDS as error:
            self._settle(branch, _Raised(error))

    def _refuse(self, error: UsageError) -> UsageError:
        self.refused = self.refused or error
        return error

    def _ask(self, command: Leaf) -> int:
        kind = Kind(command.kind)
        if isinstance(command, Tool):
            # A request is data: refuse now what the journal could not give back.
            as_json([command.request.args, command.request.kwargs], f"input of tool {command.request.name!r}")
        try:
            data = msgspec.json.encode(command.request)
            # The order of a set is another one in each process: the fingerprint must not see it.
            mark = digest(msgspec.json.encode(command.request, order="deterministic"))
        except (TypeError, ValueError, RecursionError) as exc:
            raise InvalidInput(f"The request is not JSON: {exc}.") from None
        asked = Asked(command=command, kind=kind, digest=mark)
        number = len(self.asked)
        if number < len(self._journaled):
            known = self._journaled[number]
            if (known.kind, known.digest) != (kind, mark):
                self._admit(command, data)  # what was refused then never became a step: refused again
                self._diverge(number, f"{kind.value} {_brief(command.request)}")
                return -1
        else:
            try:
                msgspec.json.decode(data, type=type(command.request))
            except (msgspec.ValidationError, msgspec.DecodeError, RecursionError) as exc:
                raise InvalidInput(f"The request cannot be used: {exc}.") from None
            self._admit(command, data)
        self.asked.append(asked)
        return number

    def _split(self, branch: _Branch, command: Gather) -> None:
        branch.wants = command
        branch.left = len(command.branches)
        branch.results = [None] * branch.left
        seen: set[int] = set()
        for index, child in enumerate(command.branches):
            # One that was begun, or comes twice, is awaited in the plain way: Python then says what is wrong.
            fresh = asyncio.iscoroutine(child) and _unbegun(child) and id(child) not in seen
            seen.add(id(child))
            whole = child if fresh and asyncio.iscoroutine(child) else _just(child)
            self._runnable.append((self._begin(whole, branch, index, child), None))

    def _settle(self, branch: _Branch, answer: Any) -> None:
        """A branch came to its end: tell its parent, or end the program."""
        self._open.pop(branch, None)
        parent = branch.parent
        if parent is None:
            self._ending = branch.failures
            self._finish(answer)
            return
        if isinstance(answer, _Raised):
            parent.pending += branch.failures
        parent.results[branch.index] = answer
        parent.left -= 1
        if parent.left:
            return
        results, wants = parent.results, parent.wants
        parent.results, parent.wants = [], None
        parent.failures, parent.pending = parent.failures + parent.pending, []
        failures = [r for r in results if isinstance(r, _Raised)]
        if wants is not None and not wants.return_exceptions and failures:
            self._runnable.append((parent, failures[0]))
        else:
            plain = [r.error if isinstance(r, _Raised) else r for r in results]
            self._runnable.append((parent, plain))

    def _finish(self, answer: Any) -> None:
        self.finished = True
        if self._broken is not None:
            answer = _Raised(self._broken)
        if isinstance(answer, _Raised):
            error = answer.error
            if isinstance(error, RuntimeError) and str(error).startswith(NO_LOOP):
                error = self._refuse(_foreign(None))
            self.error = error
            return
        try:
            self.result = as_json(answer, "agent's result")
        except InvalidInput as exc:
            self.error = exc

    def _diverge(self, number: int, now: str) -> None:
        journaled = "nothing"
        if number < len(self._journaled):
            step = self._journaled[number]
            journaled = f"{step.kind.value} {_brief(step.request)}"
        self._broken = ProgramChanged(
            f"The agent does not repeat its own steps. Step {number} was journaled as {journaled}; on replay "
            f"it asked for {now}. Between its awaits an agent must do the same each time it runs: put time, "
            "randomness and input/output into tool().",
            step=number,
        )
        self._finish(_Raised(self._broken))


def _own(answer: Any) -> Any:
    """What the agent may change without changing the outcome, which is still to be written, or kept."""
    changeable = isinstance(answer, (list, dict)) or (isinstance(answer, LLMResponse) and answer.tool_calls)
    return copy.deepcopy(answer) if changeable else answer


def _foreign(awaited: Any) -> InvalidInput:
    what = type(awaited).__name__ if awaited is not None else "something of asyncio's own"
    return InvalidInput(
        f"The agent awaited {what}. An agent awaits only llm(), tool(), gather(), sleep() and signal() "
        "(not asyncio.gather); put other async code into a function and await tool(function)."
    )


def _brief(request: Request | None) -> str:
    """The request in a few words, for the job's owner (the error goes into the journal, not into logs)."""
    if isinstance(request, ToolRequest):
        text = f"{request.name}({', '.join(map(repr, request.args))})"
    elif request is not None and not isinstance(request, LLMRequest):
        text = repr(request)
    elif request is not None:
        text = repr(request.messages[-1].get("content", "")) if request.messages else "an empty conversation"
    else:
        text = "an unknown request"
    return text if len(text) <= 80 else text[:77] + "…"
