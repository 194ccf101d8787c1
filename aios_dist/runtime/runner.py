"""One page: what a worker does with a ticket. Claim → call → commit → turn."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary, WeakValueDictionary

from aios_dist import turns
from aios_dist.agents import find
from aios_dist.broker import Tickets
from aios_dist.calls import Usage
from aios_dist.errors import FleetUnavailable, LLMError, ToolError, UnknownName
from aios_dist.jobs import Kind, Outcome, encode
from aios_dist.journal import Advance, Claim, Decision, Journal, Nothing, Ticket
from aios_dist.journal.records import random_name
from aios_dist.replay import Replay
from aios_dist.runtime.faults import point
from aios_dist.runtime.leases import Leases
from aios_dist.runtime.steps import Again, Steps

logger = logging.getLogger("aios_dist.runner")

T = TypeVar("T")
ON_LANES = (Kind.LLM, Kind.TOOL)
"""What waits on a lane, and so needs a ticket."""

LIVE = 4096
"""Programs kept as they stand after a turn, so that the next turn need not replay; the journal decides."""


class Origin(NamedTuple):
    """The Celery task that we run in: what it publishes is its child in Flower."""

    ticket: str | None = None
    root: str | None = None


_NOBODY = Origin()


class Runner:
    """Serves tickets on one event loop."""

    def __init__(
        self,
        journal: Journal,
        tickets: Tickets,
        leases: Leases,
        catalog: turns.Catalog,
        steps: Steps,
        worker: str,
        look_again: Callable[[float], None],
        price: Callable[[str, Usage], float],
    ) -> None:
        self._journal = journal
        self._tickets = tickets
        self._leases = leases
        self.catalog = catalog
        self.agents: set[str] = set()
        """The agents of the steps that were served."""
        self._steps = steps
        self._worker = worker
        self._look_again = look_again  # the reconciler, in so many seconds
        self._price = price
        # By task and not in a ContextVar: those and greenlets do not mix well enough to be trusted with work.
        self._origins: WeakKeyDictionary[asyncio.Task[Any], Origin] = WeakKeyDictionary()
        self._live: OrderedDict[str, Replay] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def serve(self, lane: str, origin: Origin, announce: Callable[[str, Claim], None]) -> str:
        """What one ticket is good for: the best ready step of its lane.

        Args:
            lane: the lane that the ticket was on.
            origin: the Celery task.
            announce: told which step it became.

        Returns:
            A few words for people, without any of the content.

        Raises:
            LLMError, ToolError: the step's outcome is an error (it is written; Flower shows a failure).
        """
        task = asyncio.current_task()
        assert task is not None
        self._origins[task] = origin
        point("popped")
        claim = await self._claim(lane)
        if claim is None:
            return "spare ticket: nothing may run"
        point("claimed")
        self._leases.add(claim, task)
        try:
            await self._publish(claim.tickets)
            announce(origin.ticket or "", claim)
            return await self._step(claim)
        except asyncio.CancelledError as exc:
            # The job was cancelled, or the worker shuts down: the step goes back, with its old rank.
            reason = str(exc.args[0]) if exc.args else "shutdown"
            await self._publish(await self._insist(functools.partial(self._journal.release, claim, reason)))
            return f"handed back: {reason}"
        finally:
            self._leases.remove(claim)

    async def _claim(self, lane: str) -> Claim | None:
        token, again = random_name(), False

        async def take() -> Claim | Nothing:
            nonlocal again
            sent, again = again, True  # whatever becomes of the answer
            return await self._journal.take(lane, self._worker, token, again=sent)

        while True:
            got = await self._insist(take)
            if isinstance(got, Claim):
                return got
            await self._publish(got.tickets)
            if not got.again:
                return None

    async def _step(self, claim: Claim) -> str:
        if claim.is_turn:
            return await self._turn(claim)
        here = claim.record.prompts is not None or find(claim.record.agent) is not None
        if claim.kind is Kind.TOOL and not here:
            return await self._not_here(claim)
        self.agents.add(claim.record.agent)
        begun = asyncio.get_running_loop().time()
        # The program is brought up to date while the provider thinks.
        ready = asyncio.create_task(self._program(claim)) if here else None
        try:
            error: Exception | None = None
            try:
                if claim.kind is Kind.LLM:
                    outcome = Outcome(response=await self._steps.call(claim))
                else:
                    assert ready is not None
                    outcome = Outcome(value=await self._steps.tool(claim, await asyncio.shield(ready)))
            except (LLMError, ToolError) as exc:
                again = self._steps.again(claim, exc)
                if again is not None:
                    return await self._try_again(claim, exc, again)
                outcome, error = Outcome.failed(exc), exc
            point("reply")
            spent = asyncio.get_running_loop().time() - begun if claim.kind is Kind.LLM else 0.0
            await self._write(claim, outcome, ready, claim.served + spent)
        finally:
            if ready is not None and not ready.done():
                ready.cancel()
        if error is not None:
            raise error
        usage = outcome.usage
        return f"{usage.prompt_tokens} + {usage.output_tokens} tokens" if usage.calls else "done"

    async def _not_here(self, claim: Claim) -> str:
        """Another worker has to do it: the step waits a moment, so that one can."""
        logger.error("Agent %r is not on this worker: add its module to [fleet] modules.", claim.record.agent)
        await self._journal.release(claim, "no code for this agent", after=1.0)
        return "handed back: no code for this agent"

    async def _try_again(self, claim: Claim, error: Exception, again: Again) -> str:
        """The call failed and may succeed later: the step waits for that without a slot (invariant 7)."""
        where = (again.model, self.catalog.models.get(again.model, "llm")) if again.model else None
        release = functools.partial(
            self._journal.release,
            claim,
            f"{type(error).__name__}, next: {again.model}" if again.model else type(error).__name__,
            again.after,
            error=error,
            hold=again.hold,
            breaker=again.breaker,
            to=where,
        )
        await self._publish(await self._insist(release))
        self._look_again(max(again.after, again.hold))
        return f"{type(error).__name__}: " + (
            f"goes to {again.model}" if again.model else f"again in {again.after:.1f} s"
        )

    # Writing the outcome and running the turn ---------------------------------------------------------

    async def _write(
        self, claim: Claim, outcome: Outcome, ready: asyncio.Task[Replay | None] | None, served: float
    ) -> None:
        """Commit, and with it what the program asks for next, in one write where nothing came between."""
        lock = self._locks.setdefault(claim.job, asyncio.Lock())
        async with lock:
            decision, replay = None, None
            data = encode(outcome)
            if ready is not None:
                replay = self._live.pop(claim.job, None) or await ready
            if replay is not None and not replay.closed:
                first = len(replay.asked)
                await self._drive(claim, replay, functools.partial(replay.deliver, int(claim.step), outcome))
                decision = turns.decide(replay, claim.record, self.catalog, first, served)
            commit = functools.partial(
                self._journal.commit,
                claim,
                data,
                ok=outcome.ok,
                usage=outcome.usage,
                money=self._price(claim.label, outcome.usage) if outcome.usage.calls else 0.0,
                decision=decision,
                turn_here=ready is not None,
                then=self._commands(decision, claim),
            )
            done = await self._insist(commit)
            point("committed")
            await self._publish(_beyond(done, decision))
            self._time(decision)
            if done.status in ("fenced", "gone", "written"):
                logger.warning("The outcome of %s/%s came too late (%s).", claim.job, claim.step, done.status)
                if replay is not None:
                    replay.close()  # it has been told what the journal does not hold
            elif done.status == "advanced" and replay is not None and not replay.finished:
                replay.basis = done.basis
                self._keep(claim.job, replay)
            elif done.status in ("turn", "mine") and ready is not None:
                await self._catch_up(claim, token="")

    async def _turn(self, claim: Claim) -> str:
        """A turn that is a step of its own: nobody with the agent's code had committed before it."""
        lock = self._locks.setdefault(claim.job, asyncio.Lock())
        async with lock:
            try:
                return await self._catch_up(claim, token=claim.token)
            except UnknownName:
                return await self._not_here(claim)

    async def _catch_up(self, claim: Claim, token: str) -> str:
        """Replay the whole journal and write what the program asks for, until nothing comes between."""
        while True:
            self._live.pop(claim.job, None)
            history = await self._insist(functools.partial(self._journal.load, claim.job))
            if history.view.state.ended:
                empty = Decision(version=0, first=0)
                await self._insist(functools.partial(self._journal.advance, claim.job, empty, token=token))
                return "the job has ended"
            replay = await self._rebuilt(history)
            if history.retried:
                redo = functools.partial(self._journal.redo, claim.job, history.basis, replay.undone())
                await self._publish((await self._insist(redo))[1])
                continue
            first, served = len(history.steps), history.view.served
            decision = turns.decide(replay, history.record, self.catalog, first, served)
            point("turn")
            done = await self._insist(
                functools.partial(
                    self._journal.advance,
                    claim.job,
                    decision,
                    token=token,
                    then=self._commands(decision, claim),
                )
            )
            await self._publish(_beyond(done, decision))
            self._time(decision)
            if done.status != "stale":
                if done.status == "advanced" and not replay.finished:
                    replay.basis = done.basis
                    self._keep(claim.job, replay)
                return f"asked for {len(decision.steps)} steps"

    async def _program(self, claim: Claim) -> Replay | None:
        """The job's program as of the claim: kept from the last turn, or replayed."""
        live = self._live.get(claim.job)
        if live is not None and live.basis == claim.basis:
            return live
        self._live.pop(claim.job, None)
        try:
            return await self._rebuilt(await self._insist(functools.partial(self._journal.load, claim.job)))
        except UnknownName:
            return None  # the job has expired meanwhile; the commit will say so

    async def _rebuilt(self, history: Any) -> Replay:
        if history.record.prompts is not None:
            return turns.rebuild(history, self.catalog)
        return await in_thread(turns.rebuild, history, self.catalog)

    async def _drive(self, claim: Claim, replay: Replay, run: Callable[[], None]) -> None:
        """Users' code runs in a thread: one that computes for long must not stop the renewals."""
        if claim.record.prompts is not None:
            run()
        else:
            await in_thread(run)

    def _keep(self, job: str, replay: Replay) -> None:
        self._live[job] = replay
        self._live.move_to_end(job)
        while len(self._live) > LIVE:
            self._live.popitem(last=False)  # not closed: another step of the job may hold it

    def _time(self, decision: Decision | None) -> None:
        """Sleeps that were begun: somebody has to look when they are over."""
        for ranked in decision.steps if decision is not None else ():
            if ranked.step.kind is Kind.SLEEP:
                self._look_again(ranked.step.after)

    def _origin(self) -> Origin:
        task = asyncio.current_task()
        return self._origins.get(task, _NOBODY) if task is not None else _NOBODY

    # Tickets ------------------------------------------------------------------------------------------

    def _commands(self, decision: Decision | None, claim: Claim) -> list[tuple[Any, ...]]:
        """The tickets of a decision, sent behind the write, in the same round trip."""
        if decision is None:
            return []
        steps = [p for p in enumerate(decision.steps, start=decision.first) if p[1].step.kind in ON_LANES]
        tickets = [Ticket(s.step.lane, claim.job, str(n)) for n, s in steps]
        return self._tickets.commands(tickets, *self._origin())

    async def _publish(self, tickets: list[Ticket]) -> None:
        if not tickets:
            return
        point("ticket")
        try:
            await self._tickets.publish(self._journal, tickets, *self._origin())
        except FleetUnavailable as exc:
            self._leases.outage.away(exc)  # the reconciler publishes them when it is back

    async def _insist(self, write: Callable[[], Awaitable[T]]) -> T:
        """A verb, again and again while Redis is away: verbs are safe to repeat, and work is paid for."""
        pause = 0.05
        while True:
            try:
                return await write()
            except FleetUnavailable as exc:
                self._leases.outage.away(exc)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 2.0)


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """As ``asyncio.to_thread``, without a copy of the context."""
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args))


def _beyond(done: Advance, sent: Decision | None) -> list[Ticket]:
    """Tickets that the write calls for and that were not sent behind it (another job admitted, a turn)."""
    already = sent.lanes() if sent is not None else []
    rest = []
    for ticket in done.tickets:
        if ticket.lane in already:
            already.remove(ticket.lane)
        else:
            rest.append(ticket)
    return rest
