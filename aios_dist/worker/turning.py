"""Running turns on this worker: programs in threads of their own, bounded in time, and what they came to.

A fault of ours or of the program's costs no answer: the outcome is written as it is, without a decision, and
the job then fails for its own reason, once; or it parks, where its code asks for something else now.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

from aios_dist.errors import ProgramChanged, UnknownName, describe
from aios_dist.journal import Advance, Claim, Decision, History, Journal
from aios_dist.journal.news import News
from aios_dist.journal.reading import Unreadable
from aios_dist.model.jobs import JobRecord, JobState, Outcome, encode
from aios_dist.program import turns
from aios_dist.program.agents import Agent, find
from aios_dist.program.replay import Replay
from aios_dist.worker.faults import point
from aios_dist.worker.programs import Live, Programs, Seen
from aios_dist.worker.rules import Rules
from aios_dist.worker.threads import Threads, rested
from aios_dist.worker.work import Stopped, Work
from aios_dist.worker.writing import Writer

logger = logging.getLogger("aios_dist.program.turns")

T = TypeVar("T")


SHORT = 20
"""Outcomes of a job that is read with all its requests: one round trip less."""

MOST_SHARED = 4096
"""Jobs that are known to be written by other workers too; those beyond are found out anew."""


class Late(Exception):
    """A program computed for longer than ``turn_timeout`` between two awaits. Its thread is lost."""


class Turns:
    """The turns of one worker.

    Args:
        threads, closing: where programs run, and where they are closed.
        limit: seconds for each turn; 0: no limit.
        rules: what is known of the fleet.
        check: programs are run again beside, to see whether they repeat themselves.

    Attributes:
        programs: those that are kept alive.
    """

    def __init__(
        self,
        journal: Journal,
        writer: Writer,
        threads: Threads,
        closing: Threads,
        limit: float,
        rules: Rules,
        check: bool = False,
    ) -> None:
        self.rules = rules
        self.programs = Programs(closing.soon)
        self._journal = journal
        self._writer = writer
        self._threads = threads
        self._closing = closing
        self._limit = limit
        self._check = check
        self._shared: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def catalog(self) -> turns.Catalog:
        """What is known of the fleet."""
        return self.rules.catalog

    def shared(self, job: str) -> bool:
        """Others write outcomes of the job all the time: ours is written first, the program told after it."""
        return job in self._shared

    def has_seen(self, work: Work, done: Advance) -> bool:
        """The program was told the outcome by whoever went on meanwhile."""
        live = self.programs.get(work.claim.job)
        if live is None or _life(live.replay.basis) != work.claim.incarnation:
            return False
        return live.replay.version >= done.version > 0

    def here(self, claim: Claim) -> bool:
        """The job's program is to be run in this process, if it is to be run now."""
        if claim.record.prompts is not None:
            return True
        return claim.fits and find(claim.record.agent) is not None

    def code(self, claim: Claim) -> str:
        """What the code is called with which this process runs the job's program; "" where that is data."""
        agent = find(claim.record.agent) if claim.record.prompts is None else None
        return agent.code if isinstance(agent, Agent) else ""

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
        """The job's program, no earlier than the claim; None: the job has expired.

        It was kept from the last turn, or goes on from there, or is replayed: once, however many of the job's
        steps are served here. It stays among :attr:`programs`, so that somebody closes it.

        Raises:
            Stopped, Late, or whatever is wrong with the program.
        """
        claim = work.claim
        async with self.alone(work):
            live = self.programs.get(claim.job)
            if live is not None and self._is_as_new(live, claim):
                return live
            try:
                live, _ = await self._onward(work)
                if live is None:
                    live = await self._rebuilt(work, await self._load(work))
            except UnknownName:
                return None
            self.programs.keep(claim.job, live)
            return live

    def _is_as_new(self, live: Live, claim: Claim) -> bool:
        """It has seen at least what was there at the claim, and asked for the step."""
        replay, number = live.replay, int(claim.step)
        if _life(replay.basis) != claim.incarnation or number >= len(replay.asked):
            return False
        if replay.asked[number].digest != claim.digest:
            return False
        return replay.basis == claim.basis or replay.version > claim.version

    async def _load(self, work: Work) -> History:
        claim = work.claim

        async def load() -> History:
            try:
                return await self._journal.load(claim.job, requests=claim.version < SHORT)
            except Unreadable as exc:  # which would be so however often it is asked for
                await self._journal.set_aside(claim.job, str(exc))
                raise Stopped("its job is set aside") from None

        return await self._writer.insist(load, work, paid=False)

    async def _onward(self, work: Work) -> tuple[Live | None, News | None]:
        """The kept program, brought to where its job stands now; None where it has to be replayed.

        Raises:
            Stopped: the work is to stop.
        """
        job = work.claim.job
        live = self.programs.take(job)
        if live is None:
            return None, None
        replay = live.replay
        ask = functools.partial(
            self._journal.news, job, replay.basis, replay.version, replay.held, live.events
        )
        try:
            news = await self._writer.insist(ask, work, paid=False)
            if news is not None and news.written:
                await self._drive(work, live, functools.partial(_follow, replay, news))
        except Stopped:
            self.programs.drop(live)
            raise
        except Exception:  # the program's, or its computing for too long: the replay says which
            self.programs.drop(live)
            return None, None
        told = [] if news is None else [(s.number, o) for s in news.written if (o := s.told()) is not None]
        if (
            news is None
            or isinstance(replay.error, ProgramChanged)
            or await self._lacks(live)
            or not await self._repeats(work, live, told)
        ):
            self.programs.drop(live)  # where it has changed, all of its journal says how
            return None, None
        live.weigh(step.outcome for step in news.written)
        live.events = news.events
        replay.basis = news.basis
        replay.written(replay.held + sum(step.outcome is None for step in news.written))
        return live, news

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
        ready.result()
        live = self.programs.take(claim.job)  # as it was then, or as others of the job's steps have left it
        if live is None or _life(live.replay.basis) != claim.incarnation:
            self.programs.drop(live)
            return Turn(None, None)
        replay = live.replay
        try:
            await self._drive(work, live, functools.partial(replay.deliver, int(claim.step), outcome))
        except Late as late:
            return Turn(None, _failed(late, replay.basis, replay.held))
        if await self._lacks(live) or not await self._repeats(work, live, [(int(claim.step), outcome)]):
            self.programs.drop(live)
            return Turn(None, None)
        live.weigh([outcome])
        return self._decided(work, live, claim.record, replay.held, served)

    def settle(self, work: Work, turn: Turn, done: Advance) -> None:
        """A commit or advance was answered: keep the program where it stands there, else drop it."""
        live = turn.live
        if live is None:
            return
        told = done.version == live.replay.version  # else a signal was there that it has just asked for
        if done.status == "advanced" and told and not live.replay.finished and turn.decision is not None:
            live.replay.basis = done.basis
            live.replay.written(turn.decision.first + len(turn.decision.steps))
            self.programs.keep(work.claim.job, live)
        else:
            self.programs.drop(live)  # over, or it has been told what the journal does not hold

    async def catch_up(self, work: Work, token: str, shared: bool = False) -> str:
        """Let the program go on from its journal and write what it asks for, until nothing comes between.

        A program that is kept goes on with what it has missed; else the whole journal is replayed. Where
        others write meanwhile and it asks for nothing, they go on with it.

        Args:
            work: whose job.
            token: of the turn's own claim, "" where it follows a commit.
            shared: another worker wrote outcomes of the job while this one did.

        Raises:
            Stopped: nothing was written.
            UnknownName: the job has expired.
        """
        claim = work.claim
        if shared:
            self._shared[claim.job] = None
            while len(self._shared) > MOST_SHARED:
                self._shared.popitem(last=False)
        served, asked = None, None
        while True:
            turn = await self._after_news(work) if served is None else self._rest(work, served)
            history = None
            if turn is None:
                self.programs.drop(self.programs.take(claim.job))
                history = await self._load(work)
                if history.view.state.ended:
                    return await self._over(work, token)
                turn, undone = await self._anew(work, history)
            parks = turn.decision is not None and turn.decision.parks is not None
            if history is not None and history.retried and not parks:
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
            asked = decision.first if asked is None else asked
            advance = functools.partial(
                self._journal.advance,
                claim.job,
                decision,
                token=token,
                then=self._writer.commands(decision, claim, work.origin),
            )
            done = await self._writer.insist(advance)
            await self._writer.sent(done, decision, work.origin)
            if turn.live is None or turn.live.replay.finished or turn.live.replay.waits() < 2:
                self._shared.pop(claim.job, None)  # nobody else can write of it just now
            served = None
            if done.status == "stale" and turn.live is not None:
                self.programs.keep(claim.job, turn.live)  # it has been told nothing but what is there
                if not token and not decision.steps and not decision.ends:
                    return "another outcome came: whoever wrote it goes on"
                continue
            self.settle(work, turn, done)
            if done.status == "advanced" and decision.more:
                served = turn.served
            elif done.status != "stale" and parks:
                return "the agent's code has changed: the job is parked"
            elif done.status != "stale":
                return f"asked for {decision.first + len(decision.steps) - asked} steps"

    def _rest(self, work: Work, served: float) -> Turn | None:
        """The turn goes on with what it could not write at a time; None: the journal is to be replayed."""
        live = self.programs.take(work.claim.job)
        if live is None:
            return None
        return self._decided(work, live, work.claim.record, live.replay.held, served)

    async def _after_news(self, work: Work) -> Turn | None:
        """The turn of the program that is kept; None: the journal is to be replayed."""
        live, news = await self._onward(work)
        if live is None or news is None:
            return None
        if not news.open:
            self.programs.drop(live)
            return None
        return self._decided(work, live, work.claim.record, live.replay.held, news.served)

    def _decided(self, work: Work, live: Live, record: JobRecord, first: int, served: float) -> Turn:
        """What a turn came to, where the journal holds so many steps of the program."""
        try:
            code, began = self.code(work.claim), work.claim.code
            decision = turns.decide(live.replay, record, self.catalog, first, served, code=code, began=began)
            if decision.parks is not None:
                said = decision.parks.said
                logger.warning("Job %s of agent %s: %s.", work.claim.job, work.claim.record.agent, said)
        except BaseException:
            self.programs.drop(live)
            raise
        return Turn(live, decision, served)

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
            turn = self._decided(work, live, history.record, first, history.view.served)
            return turn, live.replay.undone() if history.retried else []
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
            seen = Seen(history.outcomes()) if self._check else None
            live = Live(await self._run(work, rebuild), catalog.models, history.events, seen)
            if isinstance(live.replay.error, ProgramChanged) and any(
                s.request is None for s in history.steps
            ):
                self.programs.drop(live)  # which step it was, and what it asked for, is said to its author
                load = functools.partial(self._journal.load, work.claim.job)
                history = await self._writer.insist(load, work, paid=False)
                continue
            if not await self._lacks(live):
                break
            self.programs.drop(live)
        live.weigh([history.record.input, *(step.outcome for step in history.steps)])
        return live

    async def _lacks(self, live: Live) -> bool:
        """A model was refused that was not known, and now more are: the program is to be asked again."""
        if not isinstance(live.replay.refused, UnknownName):
            return False
        await self.rules.fresh()
        return self.catalog.models != live.models

    async def _repeats(self, work: Work, live: Live, told: list[tuple[int, Outcome]]) -> bool:
        """Where that is looked at, the program does the same again; if not, its replay will say what."""
        seen = live.seen
        if seen is None or work.claim.record.prompts is not None:
            return True
        seen.outcomes += told
        if not seen.due(live.replay.finished):
            return True
        run = functools.partial(
            turns.repeats, live.replay, work.claim.record, seen.outcomes, self.catalog, rested
        )
        try:
            same = await self._run(work, run)
        except Late:
            same = False
        seen.ran()
        return same

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


class Turn(NamedTuple):
    """What a turn came to: the program as it stands, what is to be written, seconds of the job's in calls."""

    live: Live | None
    decision: Decision | None
    served: float = 0.0


def _failed(error: Exception, basis: str, first: int) -> Decision:
    """The job fails; its steps stay what they are."""
    if isinstance(error, Late):
        error = TimeoutError(str(error))
    result = encode(Outcome.failed(error))
    return Decision(version=0, first=first, basis=basis, ends=JobState.FAILED, result=result)


def _follow(replay: Replay, news: News) -> None:
    """Hand the program what it has missed."""

    def outcomes() -> Iterator[tuple[int, Outcome]]:
        for step in news.written:
            if (outcome := step.told()) is None:
                replay.told(step)
            else:
                yield step.number, outcome

    replay.follow(outcomes(), rested)
    replay.check_complete()


def _life(basis: str) -> str:
    return basis.partition(".")[0]
