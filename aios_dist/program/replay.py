"""Running an agent's program from its journal: the turn, as pure code.

The program is started anew and driven until each of its branches waits for an outcome that is not there
yet. Outcomes are handed to it one at a time **in the order in which they were written**, so that branches
that run side by side (``gather``) ask for their steps in the same order on every replay, on every machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextvars import Context
from typing import Any

import msgspec

from aios_dist.errors import AiosError, InvalidInput, ProgramChanged, StepError, UsageError, describe
from aios_dist.model.calls import LLMRequest, Request
from aios_dist.model.chance import Known
from aios_dist.model.given import as_json
from aios_dist.model.jobs import MOST_REJECTED, Kind, Outcome, Rejection, Step
from aios_dist.model.specs import Program
from aios_dist.program import foreign
from aios_dist.program.bounds import Enter, Leave, Next, Start
from aios_dist.program.branches import (
    RAISED,
    RETURNED,
    STUBBORN,
    Branch,
    Raised,
    bare,
    drop,
    members,
    own,
    placed,
    stack,
    waits_where,
    without_us,
)
from aios_dist.program.commands import LLM, Gather, Leaf, Refused, Signal, Sleep, Tool
from aios_dist.program.crowds import Crowd, Scope, Waiting
from aios_dist.program.foreign import HandOver
from aios_dist.program.generators import Generators, unheard
from aios_dist.program.reached import ById, Outside
from aios_dist.program.requests import Asked, changed, check_new, check_same, encoded
from aios_dist.program.tending import WAITS, Tending
from aios_dist.text.tracebacks import traceback_of


def _at_once(close: Callable[[], None]) -> None:
    close()


dispose: Callable[[Callable[[], None]], object] = _at_once
"""Called with the ``close`` of a program that was forgotten, on whatever thread forgot it. A worker puts
another function here, which has users' ``finally`` blocks run on a turns' thread. The garbage collector calls
it in the middle of anything, so it takes no lock: ``queue.SimpleQueue.put`` does not, an executor does."""

_held: dict[int, dict[Branch, None]] = {}
"""The branches of every program that is not closed. A coroutine that is garbage runs its ``finally`` blocks
where the garbage is collected; held here, it is not garbage before its program was disposed of."""


_KINDS = {kind.value: kind for kind in Kind}


class Replay(Tending):
    """One run of a program, fed with outcomes.

    Whatever the program raises ends it, and is its ``error``: nothing of a user's comes out of here but what
    ``passes`` lets through.

    Attributes:
        asked: every step that was asked for so far.
        version: how many outcomes were delivered.
        held: how many of these steps the journal holds, as far as it was said: see ``written``.
        basis: what it has seen, as the journal calls it; whoever feeds it with outcomes says it.
        ran: where it does not repeat what the journal holds: which code that has run with ("": not known),
            and whether the step was asked for since, by a worker that names no code.
        finished: the program returned or raised.
        result: what it returned, as JSON gives it back.
        error: what it raised.
        closed: it was dropped; whoever wants to go on replays the journal.
        refused: the first request that ``admit`` refused, if any; the agent saw it raised by its await. None
            where the journal holds that it was: it will be again, whatever the fleet has by then.
        encoded: requests of steps that are not written yet as JSON, as they were when asked for, by number.
            The agent may have changed its own since.
        awaited: bytes of the requests that it waits for.
        known: what it knows of time and chance.
    """

    def __init__(
        self,
        program: Program,
        journaled: Sequence[Step] = (),
        admit: Callable[[Leaf, bytes], None] = lambda command, data: None,
        passes: tuple[type[BaseException], ...] = (),
        known: Known | None = None,
    ) -> None:
        """Start the program and run it until it waits.

        Args:
            program: the agent with its input.
            journaled: the steps that the journal holds, by number.
            admit: raises a UsageError for a request that can never be served.
            passes: what is the caller's and not the program's: a KeyboardInterrupt in the main thread.
            known: what it knows of time and chance at its start.
        """
        super().__init__()
        self.asked: list[Asked] = []
        self.version = 0
        self.held = 0
        self.basis = ""
        self.ran: tuple[str, bool] | None = None
        self.finished = False
        self.closed = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.refused: UsageError | None = None
        self._refused_at = 0  # the number that the last refused request would have had
        self._rejected: list[Rejection] = []  # since the last step that was asked for
        self.encoded: dict[int, bytes] = {}
        self.awaited = 0
        self.known = known or Known()
        self._admit = admit
        self._passes = passes
        self._journaled = {step.number: step for step in journaled}
        self._count = len(self._journaled)  # steps that the journal holds
        self._looks_ahead()
        self._sizes: dict[int, int] = {}
        self._broken: ProgramChanged | None = None
        self._ending: list[int] = []  # the failures that it ended with
        self._running = False
        self._origin = getattr(program, "agent", program)
        self._seen: ById | None = None
        self._root: Branch | None = None
        self._answer: Any = None  # what the root came to, while closings go on
        self._generators = Generators()
        self._stack = stack()
        next(self._stack)
        _held[id(self)] = self._open
        # Not a copy of the caller's: a replay elsewhere would not see that, and what is set in place
        # (the precision of decimal's context) would reach whoever uses the thread next.
        context = Context()
        with foreign.turn(self._generators, self.known):
            try:
                coroutine: Any = context.run(program)
                if not isinstance(coroutine, Coroutine):
                    what = type(coroutine).__name__
                    raise InvalidInput(f"An agent is an async def; this one gave {what} and no coroutine.")
            except BaseException as error:
                self._let_pass(error)
                self._end_misused()
                if not self.finished:
                    self._settle(None, Raised(without_us(error)))
                return
            self._root = self._begin(coroutine, context, None, 0)
            self._wake(self._root, None)
            self._run()

    def deliver(self, number: int, outcome: Outcome) -> None:
        """Hand the next outcome, in the order of writing, to whoever waits for it."""
        self.follow([(number, outcome)])

    def follow(
        self, outcomes: Iterable[tuple[int, Outcome]], rested: Callable[[], None] = lambda: None
    ) -> None:
        """The same for many, in one go: what stands around agents' code is put there once.

        Args:
            outcomes: with the numbers of their steps, in the order of writing.
            rested: called whenever the program has come to an await.
        """
        with foreign.turn(self._generators, self.known):
            for number, outcome in outcomes:
                rested()
                self._deliver(number, outcome)

    def _deliver(self, number: int, outcome: Outcome) -> None:
        if self.closed:
            raise RuntimeError("This program was dropped: replay the journal.")
        self.version += 1
        self.known.told(number, outcome.at)
        if self.finished:
            return
        self.awaited -= self._sizes.pop(number, 0)
        scope = self._scopes.pop(number, None) if self._scopes else None
        if scope is not None:
            scope.expired = True
            if scope.branch in self._open:
                self._interrupt(scope.branch)
                self._run()
            return
        try:
            branch = self._waiting.ended(number, outcome)
        except KeyError:
            self._diverge(number, "nothing; the program no longer asks for it")
            return
        if branch is None:  # nobody's any more
            return
        self._wake(branch, self._answer_of(branch, number, outcome))
        self._run()

    def _answer_of(self, branch: Branch, number: int, outcome: Outcome) -> Any:
        try:
            return own(outcome.result())
        except StepError as error:
            branch.failures.append(number)
            return Raised(bare(error))
        except Exception as error:
            text = f"The outcome of step {number} cannot be read: {describe(error)}."
            return Raised(StepError(text))

    def told(self, step: Step) -> None:
        """What the journal holds besides: a step that the program is going to ask for."""
        self._journaled[step.number] = step
        self._count = max(self._count, step.number + 1)
        if step.number < len(self.asked):  # it has asked already, and was not written
            asked = self.asked[step.number]
            mine = (asked.kind, asked.digest, asked.rejected, asked.once)
            if mine != (step.kind, step.digest, step.rejected, step.once):
                self._diverge(step.number, f"another {asked.kind.value}")
        elif step.number == len(self.asked):
            self._looks_ahead()
            if tuple(self._rejected) != step.rejected[: len(self._rejected)]:
                self._diverge(step.number, "it after refusals in other words")

    def _looks_ahead(self) -> None:
        """What the journal says of the next step is what its program is given before it."""
        step = self._journaled.get(len(self.asked))
        self.known.then = step.once if step is not None else ()
        self.known.ahead = step is not None

    def written(self, count: int) -> None:
        """So many steps are in the journal: a long conversation is not kept once more for each of them."""
        for number in range(self.held, min(count, len(self.asked))):
            asked = self.asked[number]
            if not isinstance(asked.command, Tool):
                self.asked[number] = msgspec.structs.replace(asked, command=None)
            self.encoded.pop(number, None)
            self._journaled.pop(number, None)
        self.held = max(self.held, count)
        if self.refused is not None and self._refused_at < self.held:
            self.refused = None

    @property
    def changed(self) -> ProgramChanged | None:
        """It does not repeat what its journal holds: at which ``step``, what that ``was`` and is ``now``."""
        return self._broken

    def check_complete(self) -> None:
        """After the whole journal was delivered: every journaled step must have been asked for."""
        if self._broken is None and len(self.asked) < self._count:
            does = "waits for something else"
            if self.finished:
                does = "has ended" + (f" with {describe(self.error)}" if self.error is not None else "")
            self._diverge(len(self.asked), f"nothing; the program {does}")

    def check_end(self, live: Replay) -> None:
        """After the same outcomes, and all steps: one that is over here must be over there.

        What was refused, or looked up, since the last step that is written may be another now.
        """
        if self._broken or self.finished == live.finished or live.refused is not None or live.known.given:
            return
        number = len(live.asked)
        if number < len(self.asked):
            asked, branch = self.asked[number], self._waiting.branches.get(number)
            request = asked.command.request if asked.command is not None else None
            self._diverge(number, asked.kind.value, request, waits_where(branch))
        else:
            number = min((self if live.finished else live)._waiting.branches, default=0)
            self._diverge(number, "it and has ended without it" if self.finished else "it and waits for it")

    def undone(self) -> list[int]:
        """The steps whose failure the program has not gone on from, in order: what a retry runs again.

        It has gone on where it caught the failure and asked for another step, or ended well in spite of it.
        """
        if self._broken is not None or (self.finished and self.error is None):
            return []
        return sorted({*self._ending, *(n for b in self._open for n in (*b.failures, *b.pending))})

    def waits(self) -> int:
        """How many branches wait for an outcome."""
        return len(self._waiting.branches)

    def end(self, error: BaseException) -> None:
        """The program cannot go on, for a reason that it did not give itself."""
        if isinstance(error, ProgramChanged):
            self._broken = error
        self._finish(Raised(error))

    def close(self) -> None:
        """Drop the program where it stands; its ``finally`` blocks run, but what they await is not done.

        Again, or from another thread: nothing. While a turn runs in another thread, that one does it.
        """
        self.closed = True
        if not self._running:
            self._drop_all()

    def _drop_all(self) -> None:
        mine: list[BaseException] = []
        self._waiting = Waiting()
        self._runnable.clear()
        with foreign.turn(self._generators, self.known, drops=True):
            while True:
                while self._drop_one(mine):
                    pass
                if (generator := self._generators.next_open()) is None:
                    break
                self._generators.close(generator)
        _held.pop(id(self), None)
        if mine:
            raise mine[0]

    def _drop_one(self, mine: list[BaseException]) -> bool:
        """Drop the branch that was begun last; ``mine`` gets what is the caller's."""
        while self._generators.closing:
            run, context, command = self._generators.closing.pop()
            drop(command)
            self._begin(run, context, None, 0)
        try:
            branch, _ = self._open.popitem()  # each by one thread
        except KeyError:
            return False
        for _ in range(STUBBORN):
            try:
                # Where it awaits again, in a finally, that is not done.
                drop(branch.context.run(branch.coroutine.throw, HandOver()))
            except BaseException as error:
                if issubclass(type(error), self._passes):
                    mine.append(error)
                break
        if branch.wants is not branch.source:  # else its branches have begun themselves
            drop(branch.source)
        while branch.later:
            drop(branch.later.popleft().child)
        branch.parent = branch.crowd = branch.awaits = None  # no circles
        return True

    def __del__(self) -> None:
        if getattr(self, "_open", None):
            try:
                dispose(self.close)
            except Exception:  # its threads are gone
                self.close()
        else:
            _held.pop(id(self), None)

    def _let_pass(self, error: BaseException) -> None:
        if issubclass(type(error), self._passes):  # not isinstance: that asks the error itself
            raise error

    def _run(self) -> None:
        self._running = True
        try:
            while self._runnable and not self.finished and not self.closed:
                branch, answer = self._runnable.popleft()
                branch.queued = False
                if branch.interrupted:
                    branch.interrupted, answer = False, Raised(asyncio.CancelledError())
                if not branch.gone:
                    self._advance(branch, answer)
        finally:
            self._running = False
            self._seen = None
            if self.closed:
                self._drop_all()

    def _advance(self, branch: Branch, answer: Any) -> None:
        """Run one branch to its next await, or to its end."""
        run, coroutine, go_on = branch.context.run, branch.coroutine, self._stack.send
        branch.begun = True
        while True:
            if isinstance(answer, Raised):
                how, command = go_on((run, coroutine.throw, answer.error))
            else:
                how, command = go_on((run, coroutine.send, answer))
            if foreign.misused() is not None:
                if how is RAISED:
                    self._let_pass(command)
                self._end_misused()
                return
            if self._generators.closing:
                self._go_on_closing()
            if how is RETURNED:
                self._settle(branch, command)
                return
            if how is RAISED:
                self._let_pass(command)
                self._settle(branch, Raised(without_us(command)))
                return
            answer = WAITS if self.finished else self._asks(branch, command)
            if answer is WAITS:
                return

    def _asks(self, branch: Branch, command: Any) -> Any:
        """Ask for what a branch awaits: ``WAITS``, or what it gives where that needs no waiting."""
        if isinstance(command, Leaf):
            return self._asks_step(branch, command)
        if isinstance(command, Gather):
            if not command.branches:
                return []
            branch.wants = command
            branch.left = len(command.branches)
            branch.results = [None] * branch.left
            branch.later = members(command.branches)
            for _ in range(min(branch.left, command.limit or branch.left)):
                self._begin_later(branch)
            return WAITS
        if isinstance(command, Start):
            crowd = Crowd(branch, members(command.branches))
            for _ in range(min(len(crowd.later), command.limit or len(crowd.later))):
                self._begin_later(crowd)
            return crowd
        if isinstance(command, Next):
            return self._next_of(command.crowd, branch)
        if isinstance(command, Enter):
            number = self._asks_step(branch, Sleep(command.request), entered=True)
            return (
                number
                if not isinstance(number, int)
                else self._scopes.setdefault(number, Scope(branch, number))
            )
        if isinstance(command, Leave):
            return self._leave(command.what, branch)
        return Raised(foreign.misuse(command))  # there: its author is to see the line

    def _asks_step(self, branch: Branch, command: Leaf, entered: bool = False) -> Any:
        if isinstance(command, Signal):
            name = command.request.name
            if (kept := self._waiting.kept(name)) is not None:
                return self._answer_of(branch, -1, kept)
            if self._waiting.takes_over(branch, name):
                branch.went_on()
                return WAITS
        try:
            number = self._ask(branch, command)
        except BaseException as error:
            self._let_pass(error)
            return Raised(bare(error))
        if number < 0:
            return WAITS
        branch.went_on()
        if entered:
            return number
        self._waiting.begin(branch, number, command.request.name if isinstance(command, Signal) else None)
        return WAITS

    def _go_on_closing(self) -> None:
        """Where closing a generator that was just left awaits something: a branch that nobody waits for."""
        closing = self._generators.closing
        while closing and not self.finished:
            run, context, command = closing.pop(0)
            branch = self._begin(run, context, None, 0)
            if (answer := self._asks(branch, command)) is not WAITS:
                self._advance(branch, answer)

    def _wind_up(self) -> None:
        """The program itself is over. It ends when what it leaves open is closed."""
        while (generator := self._generators.next_open()) is not None:
            self._generators.close(generator)
            self._end_misused()
            self._go_on_closing()
        if not self._open and not self.finished:
            self._finish(self._answer)

    def _end_misused(self) -> None:
        """It has used what is asyncio's: that is its end, whoever of its own has caught it."""
        said = foreign.misused()
        if said is not None and not self.finished:
            place = foreign.where_misused()
            while place is not None and place.tb_frame.f_globals.get("__name__") in foreign.OURS:
                place = place.tb_next
            self._finish(Raised(self._refuse(placed(InvalidInput(str(said)), place))))

    def _refuse(self, error: BaseException) -> BaseException:
        if issubclass(type(error), UsageError) and isinstance(error, UsageError):
            self.refused = self.refused or error
            self._refused_at = len(self.asked)
        return error

    def _ask(self, branch: Branch, command: Leaf) -> int:
        """Ask for a step; its number, or -1 where the program has changed.

        Raises:
            UsageError: it is refused, in the words in which every replay refuses it.
        """
        known, mark = self._journaled.get(len(self.asked)), ""
        then = known.rejected[len(self._rejected) :] if known is not None else ()
        try:
            data, mark = encoded(command)
            if not then or then[0].digest not in ("", mark):
                return self._ask_now(branch, command, data, mark, known)
        except UsageError as error:
            if not then or then[0].digest:  # else it was refused then too
                self._rejected.append(Rejection.of(error, mark))
                raise self._refuse(self._rejected[-1].error()) from None
        self._rejected.append(then[0])
        raise then[0].error()

    def _ask_now(self, branch: Branch, command: Leaf, data: bytes, mark: str, known: Step | None) -> int:
        kind, number = _KINDS[command.kind], len(self.asked)
        once = tuple(self.known.given)
        if known is not None and once != known.once[: len(once)]:
            self._diverge(number, f"it after another once(), {kind.value}", command.request)
            return -1
        if known is not None and (known.kind, known.digest) == (kind, mark):
            if known.request is not None:
                check_same(command.request, known.request)  # what was refused then never became a step
        else:
            read = check_new(command.request, data, branch.checked)
            if isinstance(command.request, LLMRequest):
                branch.checked = (len(command.request.messages), command.request.messages[-1])
            self._admit(command, data)
            if known is not None:
                self._diverge(number, kind.value, command.request, waits_where(branch))
                return -1
            self.encoded[number] = data
            if isinstance(read, LLMRequest):  # the agent may go on changing its own
                command = LLM(read)
        if isinstance(command, Tool):
            done = known is not None and known.outcome is not None
            command = command.taken(data, branch.context.copy(), None if done else self._outside)
        rejected, self._rejected = tuple(self._rejected[:MOST_REJECTED]), []
        self.asked.append(Asked(command=command, kind=kind, digest=mark, rejected=rejected, once=once))
        self.known.given.clear()
        self._looks_ahead()
        self._sizes[number] = len(data)
        self.awaited += len(data)
        return number

    def _outside(self) -> ById:
        """What is there without the program, looked at once for all that it asks for at a time."""
        if self._seen is None:
            self._seen = Outside(self._origin).found
        return self._seen

    def _settle(self, branch: Branch | None, answer: Any) -> None:
        """A branch came to its end: tell its parent, or end the program."""
        if isinstance(answer, Raised):
            answer = Raised(self._in_our_words(answer.error))
        parent = None
        if branch is not None:
            self._open.pop(branch, None)
            parent = branch.parent
        if branch is None or parent is None:
            if branch is self._root:
                self._ending = branch.failures if branch is not None else []
                self._answer, self._root = answer, None
            elif branch is not None and branch.crowd is not None:
                self._ended_in(branch.crowd, branch, answer)
            elif isinstance(answer, Raised) and not isinstance(answer.error, asyncio.CancelledError):
                unheard(answer.error)  # of a generator's closing, of what was interrupted
            if self._root is None:
                self._wind_up()
            return
        if parent.has_ended(branch, answer):
            self._forget(parent.later)
        elif parent.later:
            self._begin_later(parent)
        if not parent.left:
            self._wake(parent, parent.gathered())

    def _in_our_words(self, error: BaseException) -> BaseException:
        """A refusal is said in its own sentence, whoever made what of it on its way up."""
        kind = type(error)
        if issubclass(kind, AiosError) and not issubclass(kind, Refused):
            return error  # a step's, even where it was asked for instead of what was refused
        try:
            refusal = foreign.refusal(error)
        except BaseException:  # an error class that cannot be looked at
            return error
        if refusal is None:
            return error
        said = placed(InvalidInput(str(refusal)), traceback_of(error))
        return self._refuse(said)

    def _finish(self, answer: Any) -> None:
        self.finished = True
        if self._broken is not None:
            answer = Raised(self._broken)
        if isinstance(answer, Raised):
            self.error = answer.error
            return
        try:
            self.result = as_json(answer, "agent's result")
        except BaseException as error:  # also of the agent's own objects
            self._let_pass(error)
            self.error = bare(error)

    def _diverge(self, number: int, now: str, request: Request | None = None, place: str = "") -> None:
        self._broken = changed(number, self._journaled.get(number), now, request, place)
        self._finish(Raised(self._broken))
