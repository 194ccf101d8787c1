"""Running turns on this worker: programs in threads of their own, bounded in time, and what they came to.

A fault of ours or of the program's costs no answer: the outcome is written as it is, without a decision, and
the job then fails for its own reason, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from weakref import WeakValueDictionary

from aios_dist import turns
from aios_dist.agents import find
from aios_dist.errors import UnknownName, describe
from aios_dist.jobs import JobState, Outcome, encode
from aios_dist.journal import Advance, Claim, Decision, History, Journal
from aios_dist.replay import Replay
from aios_dist.runtime.faults import point
from aios_dist.runtime.programs import Live, Programs
from aios_dist.runtime.threads import Threads, rested
from aios_dist.runtime.work import Stopped, Work
from aios_dist.runtime.writing import Writer
from aios_dist.tracebacks import user_traceback

logger = logging.getLogger("aios_dist.turns")

T = TypeVar("T")


class Late(Exception):
    """A program computed for longer than ``turn_timeout`` between two awaits. Its thread is lost."""


class Turns:
    """The turns of one worker.

    Args:
        threads, closing: where programs run, and where they are closed.
        limit: seconds for each turn; 0: no limit.
        fresh: asks the fleet which models there are, for the catalogue.

    Attributes:
        catalog: what is known of the fleet.
        programs: those that are kept alive.
    """

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        threads: Threads,
        closing: Threads,
        limit: float,
        catalog: turns.Catalog,
        fresh: Callable[[], Awaitable[None]],
    ) -> None:
        self.catalog = catalog
        self.programs = Programs(closing.soon)
        self._journal = journal
        self._writer = writer
        self._threads = threads
        self._closing = closing
        self._limit = limit
        self._fresh = fresh
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def here(self, claim: Claim) -> bool:
        """The job's program can be run in this process."""
        return claim.record.prompts is not None or find(claim.record.agent) is not None

    @contextlib.asynccontextmanager
    async def alone(self, work: Work) -> AsyncIterator[None]:
        """Nobody else of this worker has the job's program meanwhile.

        Raises:
            Stopped: it took too long to get there.
        """
        lock = self._locks.setdefault(work.claim.job, asyncio.Lock())
        if lock.locked():
            waiting = asyncio.ensure_future(lock.acquire())
            await work.wait(waiting)
            if not waiting.done():
                waiting.cancel()
                work.check()
        else:
            await lock.acquire()
        try:
            yield
        finally:
            lock.release()

    async def program(self, work: Work) -> Live | None:
        """The job's program as of the claim: kept from the last turn, or replayed; None: the job has expired.

        It stays among :attr:`programs`, so that somebody closes it.

        Raises:
            Stopped, Late, or whatever is wrong with the program.
        """
        claim = work.claim
        live = self.programs.get(claim.job)
        if live is not None and live.replay.basis == claim.basis:
            return live
        self.programs.drop(self.programs.take(claim.job))  # it stands where the job stood before
        try:
            load = functools.partial(self._journal.load, claim.job)
            history = await self._writer.insist(load, work, paid=False)
        except UnknownName:
            return None
        live = await self._rebuilt(work, history)
        self.programs.keep(claim.job, live)
        return live

    async def after(
        self, work: Work, ready: asyncio.Task[Live | None], outcome: Outcome, served: float
    ) -> Turn:
        """Hand an outcome to the program that waits for it, before it is written.

        Returns:
            The turn; without a decision where the program has to be replayed first.

        Raises:
            Stopped: the work is to stop; the program, where it computes, is lost.
        """
        claim = work.claim
        await work.wait(ready)
        if not ready.done():
            work.check()
        ready.result()
        live = self.programs.take(
            claim.job
        )  # as it was then, or as another step of the job has left it since
        if live is None or _life(live.replay.basis) != claim.incarnation:
            self.programs.drop(live)
            return Turn(None, None)
        replay = live.replay
        first, basis = len(replay.asked), replay.basis
        try:
            await self._drive(work, live, functools.partial(replay.deliver, int(claim.step), outcome))
        except Late as late:
            return Turn(None, _failed(late, basis, first))
        if await self._lacks(live):
            self.programs.drop(live)
            return Turn(None, None)
        live.weigh([outcome])
        try:
            decision = turns.decide(replay, claim.record, self.catalog, first, served)
            _say(claim, replay)
            return Turn(live, decision)
        except BaseException:
            self.programs.drop(live)
            raise

    def settle(self, work: Work, turn: Turn, done: Advance) -> None:
        """A commit or advance was answered: keep the program where it stands there, else drop it."""
        live = turn.live
        if live is None:
            return
        if done.status == "advanced" and not live.replay.finished:
            live.replay.basis = done.basis
            self.programs.keep(work.claim.job, live)
        else:
            self.programs.drop(live)  # over, or it has been told what the journal does not hold

    async def catch_up(self, work: Work, token: str) -> str:
        """Replay the whole journal and write what the program asks for, until nothing comes between.

        Args:
            work: whose job.
            token: of the turn's own claim, "" where it follows a commit.

        Raises:
            Stopped: nothing was written.
            UnknownName: the job has expired.
        """
        claim = work.claim
        while True:
            self.programs.drop(self.programs.take(claim.job))
            load = functools.partial(self._journal.load, claim.job)
            history = await self._writer.insist(load, work, paid=False)
            if history.view.state.ended:
                return await self._over(work, token)
            turn, undone = await self._anew(work, history)
            if history.retried:
                self.programs.drop(turn.live)
                redo = functools.partial(self._journal.redo, claim.job, history.basis, undone)
                status, tickets = await self._writer.insist(redo, work)
                await self._writer.publish(tickets, work.origin)
                if status not in ("redone", "stale"):
                    return await self._over(work, token)
                continue
            point("turn")
            decision = turn.decision
            assert decision is not None
            advance = functools.partial(
                self._journal.advance,
                claim.job,
                decision,
                token=token,
                then=self._writer.commands(decision, claim, work.origin),
            )
            done = await self._writer.insist(advance)
            await self._writer.sent(done, decision, work.origin)
            self.settle(work, turn, done)
            if done.status != "stale":
                return f"asked for {len(decision.steps)} steps"

    async def _over(self, work: Work, token: str) -> str:
        """There is nothing to run: the job has ended, or it is paused, and its end runs the turn."""
        empty = Decision(version=0, first=0)
        await self._writer.insist(
            functools.partial(self._journal.advance, work.claim.job, empty, token=token), work
        )
        return "the job has ended, or is paused"

    async def _anew(self, work: Work, history: History) -> tuple[Turn, list[int]]:
        """The turn from the journal alone, and what a retry would run again. Its faults fail the job."""
        first = len(history.steps)
        try:
            live = await self._rebuilt(work, history)
            decision = turns.decide(live.replay, history.record, self.catalog, first, history.view.served)
            _say(work.claim, live.replay)
            return Turn(live, decision), live.replay.undone() if history.retried else []
        except Stopped:
            raise
        except Late as exc:
            return Turn(None, _failed(exc, history.basis, first)), []
        except Exception as exc:
            if not self.here(work.claim):
                raise Stopped("no code for this agent") from None
            logger.exception("The turn of job %s cannot be run; the job fails.", work.claim.job)
            return Turn(None, _failed(exc, history.basis, first)), []

    async def _rebuilt(self, work: Work, history: History) -> Live:
        while True:
            catalog = self.catalog
            rebuild = functools.partial(turns.rebuild, history, catalog, rested)
            live = Live(await self._run(work, rebuild), catalog.models)
            if not await self._lacks(live):
                break
            self.programs.drop(live)
        live.weigh([history.record.input, history.steps])
        return live

    async def _lacks(self, live: Live) -> bool:
        """A model was refused that was not known, and now more are: the program is to be asked again."""
        if not isinstance(live.replay.refused, UnknownName):
            return False
        await self._fresh()
        return self.catalog.models != live.models

    async def _drive(self, work: Work, live: Live, run: Callable[[], None]) -> None:
        """Let the program go on. Until that is over nobody else may have it, perhaps for ever."""
        live.gone = True
        await self._run(work, run, live.replay)
        live.gone = False

    async def _run(self, work: Work, function: Callable[[], T], replay: Replay | None = None) -> T:
        claim = work.claim
        if claim.record.prompts is not None:
            return function()  # no code of users'
        run = self._threads.start(f"agent {claim.record.agent} of job {claim.job}", function)
        if await self._threads.attend(run, work, self._limit):
            if run.error is not None and not isinstance(run.error, Exception):
                raise RuntimeError(f"the program raised {describe(run.error)}") from run.error
            result: T = run.result()
            return result
        run.done.add_done_callback(lambda _: self._forget(run.value if replay is None else replay))
        work.check()
        logger.error(
            "Agent %s of job %s computes for more than %g s (turn_timeout) between two awaits: it fails.",
            claim.record.agent,
            claim.job,
            self._limit,
        )
        raise Late(
            f"The agent computed for more than {self._limit:g} s (turn_timeout) between two awaits; "
            "put long work into tool()."
        )

    def _forget(self, replay: object) -> None:
        """The program of a lost thread has come to rest."""
        if isinstance(replay, Replay):
            self._closing.soon(replay.close)


class Turn:
    """What a turn came to: the program as it stands, and what is to be written."""

    __slots__ = ("decision", "live")

    def __init__(self, live: Live | None, decision: Decision | None) -> None:
        self.live = live
        self.decision = decision


def _failed(error: Exception, basis: str, first: int) -> Decision:
    """The job fails; its steps stay what they are."""
    if isinstance(error, Late):
        error = TimeoutError(str(error))
    result = encode(Outcome.failed(error))
    return Decision(version=0, first=first, basis=basis, ends=JobState.FAILED, result=result)


def _say(claim: Claim, replay: Replay) -> None:
    """Where in the user's code an agent failed; of its own words nothing."""
    if replay.error is not None:
        where = user_traceback(replay.error)
        logger.warning(
            "Agent %s of job %s raised %s.%s",
            claim.record.agent,
            claim.job,
            type(replay.error).__name__,
            f"\n{where}" if where else "",
        )


def _life(basis: str) -> str:
    return basis.partition(".")[0]
