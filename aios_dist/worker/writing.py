"""Into the journal and onto the lanes: verbs that are asked until Redis takes them, and tickets."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aios_dist.broker.messages import chain
from aios_dist.broker.tickets import Tickets
from aios_dist.errors import AiosError, FleetUnavailable, JournalError
from aios_dist.journal import Advance, Claim, Decision, Journal, Onward, Refusal, Ticket
from aios_dist.journal.patience import Patience
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import Kind
from aios_dist.worker import spool
from aios_dist.worker.faults import point
from aios_dist.worker.leases import Outage
from aios_dist.worker.work import Next, Origin, Stopped, Work

logger = logging.getLogger("aios_dist.writing")

T = TypeVar("T")
ON_LANES = (Kind.LLM, Kind.TOOL)
"""What waits on a lane, and so needs a ticket."""

NOBODY = Origin()

UNTIL_WRITTEN = Patience(0.05, 30.0)
"""With a verb that breaks in its middle: its answer stays in hand, and the log says so."""

AWAY_S = 2.0
"""The longest pause where Redis does not take a verb."""


class Writer:
    """Writes for one worker.

    Args:
        look_again: tells the reconciler to look, in so many seconds.
        price: money for a model's usage.
        answers: what is in hand while Redis does not take it.

    Attributes:
        closing: the worker ends: what is not paid for is not insisted on.
    """

    def __init__(
        self,
        journal: Journal,
        tickets: Tickets,
        outage: Outage,
        look_again: Callable[[float], None],
        price: Callable[[str, Usage], float],
        answers: spool.Answers,
    ) -> None:
        self.journal = journal
        self.closing = asyncio.Event()
        self.look_again = look_again
        self._tickets = tickets
        self._outage = outage
        self._price = price
        self._answers = answers

    async def insist(
        self, write: Callable[[], Awaitable[T]], work: Work | None = None, *, paid: bool = True
    ) -> T:
        """A verb, again and again while Redis is away: verbs are safe to repeat, and work is paid for.

        Args:
            write: the verb.
            work: on whose behalf, where that may be stopped meanwhile; what is paid for may not.
            paid: False: there is nothing to lose, so a worker that ends does not wait for it.

        Raises:
            Stopped: the work was, or the worker ends.
            JournalError: nothing is paid for, and the journal cannot be written or read here.
        """

        longest = AWAY_S

        def refused(why: AiosError) -> None:
            nonlocal longest
            if isinstance(why, FleetUnavailable):
                longest = AWAY_S
                self._outage.away(why)
                return
            longest = UNTIL_WRITTEN.longest_s
            logger.error("%s", why)  # what it left is put right: the next try may go through
            if not paid:
                raise why

        async def wait(pause: float) -> None:
            if self.closing.is_set() and not paid:
                raise Stopped("shutdown")
            if work is not None:
                work.check()
                await work.wait(asyncio.get_running_loop().create_future(), min(pause, longest))
            else:
                await asyncio.sleep(min(pause, longest))

        errors = (FleetUnavailable, JournalError)
        return await UNTIL_WRITTEN.ask(write, away=refused, errors=errors, wait=wait)

    async def commit(
        self,
        work: Work,
        data: bytes,
        ok: bool,
        usage: Usage,
        decision: Decision | None,
        turn_here: bool,
        onward: Onward,
        refusal: Refusal | None = None,
    ) -> Advance:
        """Write an outcome, whatever happens meanwhile, with the tickets of what the decision asks for.

        Args:
            onward: these tickets, and what the slot goes on with: then that is ``work.next``.
        """
        claim = work.claim
        silent = ok and claim.kind is Kind.LLM and usage.total_tokens == 0  # the provider reports no usage
        money = (
            self._price(claim.label, claim.estimated if silent else usage) if usage.calls or silent else 0.0
        )
        asked = 0.0

        async def commit() -> Advance:
            nonlocal asked, onward
            sent, asked = onward, asked or time.monotonic()
            if sent.asks is not None:  # whatever becomes of the answer
                onward = sent._replace(asks=sent.asks._replace(again=1))
            try:
                return await self.journal.commit(
                    claim,
                    data,
                    ok=ok,
                    usage=usage,
                    money=money,
                    refusal=refusal,
                    decision=decision,
                    turn_here=turn_here,
                    onward=sent,
                )
            except JournalError:
                onward = sent._replace(asks=None)  # no outcome waits for a claim that breaks
                raise

        with self._answers.held(claim, data, ok, usage, money):
            done = await self.insist(commit)
        point("committed")
        if done.next is not None:
            parent, root = work.origin
            ids = chain(done.ticket) if done.ticket else (root or parent, parent)
            work.next = Next(done.next, done.lane, asked, *ids)
        await self.publish(done.tickets, work.origin)
        self._remember(decision)
        return done

    async def write_saved(self, folder: Path) -> None:
        """Commit the answers that an earlier life of a worker has saved; fenced, as all are.

        Raises:
            FleetUnavailable: Redis is away, or refuses; the files stay.
        """
        for place, answer in spool.read(folder, self.journal.config.name):
            try:
                done = await self.journal.commit(
                    answer.claim(),
                    answer.outcome,
                    ok=answer.ok,
                    usage=answer.usage,
                    money=answer.money,
                    turn_here=False,
                )
            except JournalError as exc:
                spool.logger.error(
                    "The saved answer of %s/%s stays in its file: %s", answer.job, answer.step, exc
                )
                continue
            spool.logger.warning("The saved answer of %s/%s: %s.", answer.job, answer.step, done.status)
            place.unlink(missing_ok=True)
            await self.publish(done.tickets)

    async def sent(self, done: Advance, decision: Decision | None, origin: Origin) -> None:
        """After a write: publish the tickets that did not go with it, and remember when sleeps are over."""
        await self.publish(_beyond(done, decision), origin)
        self._remember(decision)

    def _remember(self, decision: Decision | None) -> None:
        for ranked in decision.steps if decision is not None else ():
            if ranked.step.kind is Kind.SLEEP:
                self.look_again(ranked.step.after)

    def commands(self, decision: Decision | None, claim: Claim, origin: Origin) -> list[tuple[Any, ...]]:
        """The tickets of a decision, sent behind the write, in the same round trip."""
        if decision is None:
            return []
        steps = [p for p in enumerate(decision.steps, start=decision.first) if p[1].step.kind in ON_LANES]
        return self._tickets.commands([Ticket(s.step.lane, claim.job, str(n)) for n, s in steps], *origin)

    async def publish(self, tickets: Sequence[Ticket], origin: Origin = NOBODY) -> None:
        """Put tickets on their lanes; where Redis is away, the reconciler does it when it is back."""
        if not tickets:
            return
        point("ticket")
        with self._outage.passes():
            await self._tickets.publish(self.journal, tickets, *origin)

    async def give_back(self, lane: str, after: float) -> None:
        """The ticket belongs to another worker: put it back after a pause, in which our slot is taken."""
        try:
            await asyncio.wait_for(self.closing.wait(), after)
        except TimeoutError:
            pass
        await self.publish([Ticket(lane, "?", "?")])


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
