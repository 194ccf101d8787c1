"""One page: what a worker does with a ticket. Claim → call → commit → turn."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from typing import Any

import msgspec
from celery import Task, signals
from celery.exceptions import Retry

from aios_dist.errors import FleetUnavailable, JournalError, LLMError, ToolError, UnknownName
from aios_dist.journal import Advance, Claim, Nothing, Refusal
from aios_dist.journal.records import Asks, random_name
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import Kind, Outcome
from aios_dist.text.lines import fields_line
from aios_dist.worker.faults import point
from aios_dist.worker.leases import Leases
from aios_dist.worker.onward import Carried, Onwards, heard
from aios_dist.worker.programs import Live
from aios_dist.worker.rows import Came, End, Rows
from aios_dist.worker.steps import Again, Steps, billed, kept
from aios_dist.worker.turning import Turn, Turns
from aios_dist.worker.work import Changed, Next, Origin, Stopped, Work
from aios_dist.worker.writing import Writer

logger = logging.getLogger("aios_dist.runner")

ELSEWHERE_S = 0.05
"""A ticket that belongs to another worker keeps one of our slots for so long: no loop gets hot over it."""

NOT_NOW_S = 1.0
"""The same where we may claim nothing, and for a step that this worker finds that it cannot serve."""


class Runner:
    """Serves tickets on one event loop."""

    def __init__(
        self,
        writer: Writer,
        leases: Leases,
        turns: Turns,
        steps: Steps,
        rows: Rows,
        onwards: Onwards,
        task: Task,
    ) -> None:
        self.turns = turns
        self.hung: set[Work] = set()
        """Steps that are over, and whose tool is not: their slots are taken."""
        self.works: dict[str, Work] = {}
        """What is served, by Celery's id of it."""
        self._writer = writer
        self._leases = leases
        self._steps = steps
        self._rows = rows
        self._onwards = onwards
        self._task = task
        self._without_ticket: dict[str, Work] = {}

    async def serve(self, lane: str, origin: Origin) -> str:
        """What one ticket is good for: the best ready step of its lane.

        Args:
            lane: the lane that the ticket was on.
            origin: the Celery task.

        Returns:
            A few words for people, without any of the content.

        Raises:
            LLMError, ToolError: the step's outcome is an error (it is written).
        """
        if (known := self._without_ticket.pop(origin.ticket or "", None)) is not None:
            return _told(known, await self._serve(known))  # whom Celery tells of steps is told of it
        if self._writer.closing.is_set() or not self._leases.fresh:
            await self._writer.give_back(lane, NOT_NOW_S)
            return "given back: this worker takes nothing now"
        point("popped")
        try:
            claim, asked = await self._claim(lane)
        except Stopped:
            return "spare ticket: this worker ends"
        if claim is None:
            return "spare ticket: nothing may run"
        point("claimed")
        work = self._work(Next(claim, lane, asked), origin)
        try:
            return _told(work, await self._serve(work))
        finally:
            if (onward := self._carried(work)) is not None:
                self._onwards.spawn(self._go_on_with(onward))

    def _work(self, next: Next, origin: Origin) -> Work:
        self._onwards.served(next.lane)
        work = Work(next.claim, origin, next.asked)
        self._leases.add(next.claim, work)  # at once: who is told of it first may take a while
        return work

    def _carried(self, work: Work) -> Carried | None:
        return None if work.next is None else Carried(self._task, work.next)

    async def _go_on_with(self, request: Carried) -> None:
        """The slot goes on, as long as each commit brings another step."""
        onward: Carried | None = request
        while onward is not None:
            request = onward
            work = self._work(request.next, Origin(request.id, request.next.root))
            if self._writer.closing.is_set():
                work.cancel("shutdown")  # nothing of it has begun
            told = False
            try:
                if heard():
                    self._without_ticket[request.id] = work
                    await request.traced()
                    told = self._without_ticket.pop(request.id, None) is None
                if not told:
                    await self._serve(work)
            except (LLMError, ToolError):
                pass  # it is written
            finally:
                onward = self._carried(work)
                request.over()

    async def _serve(self, work: Work) -> str:
        claim = work.claim
        self.works[work.origin.ticket or ""] = work
        self._rows.started(claim)
        said = ""
        try:
            await self._writer.publish(claim.tickets, work.origin)
            work.check()
            said = await self._step(work)
        except Stopped as stopped:
            said = await self._hand_back(work, stopped.reason)
        except (LLMError, ToolError):
            raise
        except Exception:
            logger.exception("Serving %s/%s broke; the step goes back.", claim.job, claim.step)
            said = await self._hand_back(work, "this worker broke over it")
        finally:
            self._leases.remove(claim)
            broken_off = End(Came.RETRIED, "this worker broke off")
            self._rows.ended(work, work.end or (End(Came.SUCCEEDED, said) if said else broken_off))
            await self._until_free(work)
            self.works.pop(work.origin.ticket or "", None)
        return said

    async def _claim(self, lane: str) -> tuple[Claim | None, float]:
        """A step, if there is one, and when it was asked for."""
        asks, asked = self._onwards.asks(random_name()), 0.0
        unsought: int | None = None

        async def take() -> Claim | Nothing:
            nonlocal asks, asked
            sent, asks = asks, asks._replace(again=1)  # whatever becomes of the answer
            asked = time.monotonic() if not sent.again else asked
            try:
                got = await self._writer.journal.take(
                    lane,
                    sent.worker,
                    sent.token,
                    again=sent.again,
                    models=sent.models,
                    agents=sent.agents,
                    codes=sent.codes,
                    unsought=unsought,
                )
            except JournalError as exc:
                logger.error("%s", exc)
                got = Nothing()
            asks = asks._replace(again=0)
            return got

        while True:
            try:
                got = await self._writer.insist(take, paid=False)
            except Stopped:
                if asks.again:
                    await self._let_go(lane, asks)
                raise
            if isinstance(got, Claim):
                return got, asked
            await self._writer.publish(got.tickets)
            if got.elsewhere:
                await self._writer.give_back(lane, ELSEWHERE_S)
            if not got.again:
                return None, asked
            unsought = got.unsought

    async def _let_go(self, lane: str, asks: Asks) -> None:
        """This worker ends, and has not heard what its claim has got: that goes back now, and not when its
        lease has ended."""
        with contextlib.suppress(JournalError, FleetUnavailable):
            got = await self._writer.journal.take(lane, asks.worker, asks.token, again=2)
            if isinstance(got, Claim):
                back = await self._writer.journal.release(got, "shutdown")
                await self._writer.publish([*got.tickets, *back])

    async def _step(self, work: Work) -> str:
        claim = work.claim
        if claim.is_turn:
            try:
                async with self.turns.alone(work):
                    return await self.turns.catch_up(work, claim.token)
            except UnknownName:
                return "the job has expired"
        self.turns.rules.served.add(claim.record.agent)
        begun = asyncio.get_running_loop().time()
        # The program is brought up to date while the provider thinks.
        ready = asyncio.create_task(self.turns.program(work)) if self.turns.here(claim) else None
        error: Exception | None = None
        refusal: Refusal | None = None
        try:
            if claim.kind is Kind.LLM:
                outcome = Outcome(response=await self._steps.call(work))
            else:
                outcome = Outcome(value=await self._steps.tool(work, ready))
        except (LLMError, ToolError) as exc:
            again, refusal = self._steps.failed(claim, exc, begun)
            if again is not None:
                _forget(ready)
                if again.ours:
                    return await self._not_counted(work, again)
                return await self._try_again(work, exc, again, refusal)
            outcome, error = Outcome.failed(exc), exc
            work.end = End.failed(outcome.error or {})
            self._say(claim, outcome)
        except Changed:
            return await self._parked(work)
        except BaseException:
            _forget(ready)
            raise
        point("reply")
        spent = asyncio.get_running_loop().time() - begun if claim.kind is Kind.LLM else 0.0
        await self._write(work, outcome, ready, claim.served + spent, refusal)
        if refusal is not None:
            self._writer.look_again(refusal.hold)
        if error is not None:
            raise error
        usage = billed(outcome)
        return f"{usage.prompt_tokens} + {usage.output_tokens} tokens" if usage.calls else "done"

    async def _write(
        self,
        work: Work,
        outcome: Outcome,
        ready: asyncio.Task[Live | None] | None,
        served: float,
        refusal: Refusal | None,
    ) -> None:
        """Commit, and with it what the program asks for next, in one write where nothing came between.

        From here on the outcome is paid for: whatever stops or breaks the turn, the outcome is written.
        """
        usage = billed(outcome)
        outcome, data = kept(msgspec.structs.replace(outcome, at=work.now()))
        if ready is not None:
            try:
                await work.wait(ready)
                if not ready.done():
                    work.check()
                if not self.turns.shared(work.claim.job):
                    async with self.turns.alone(work):
                        await self._write_with_turn(work, outcome, data, usage, ready, served, refusal)
                        return
            except Stopped as stopped:
                logger.info(
                    "%s/%s is written without its turn: %s.", work.claim.job, work.claim.step, stopped
                )
                _forget(ready)
            else:
                await self._write_first(work, outcome, data, usage, refusal)
                return
        done = await self._writer.commit(
            work, data, outcome.ok, usage, None, False, self._onwards.after(work), refusal
        )
        self._late(work, done)

    async def _write_first(
        self, work: Work, outcome: Outcome, data: bytes, usage: Usage, refusal: Refusal | None
    ) -> None:
        """The outcome, and then its turn, which may be one for several: other workers write as well."""
        done = await self._writer.commit(
            work, data, outcome.ok, usage, None, True, self._onwards.after(work), refusal
        )
        self._late(work, done)
        if done.status not in ("turn", "mine"):
            return
        try:
            async with self.turns.alone(work):
                if not self.turns.has_seen(work, done):
                    await self._go_on(work, shared=True)
        except Stopped:
            return  # the reconciler asks for the turn

    async def _write_with_turn(
        self,
        work: Work,
        outcome: Outcome,
        data: bytes,
        usage: Usage,
        ready: asyncio.Task[Live | None],
        served: float,
        refusal: Refusal | None,
    ) -> None:
        claim = work.claim
        try:
            turn = await self.turns.after(work, ready, outcome, served)
        except Stopped:
            raise
        except Exception as exc:  # ours or the program's: the replay of what is written then says which
            logger.warning("The turn after %s/%s broke (%s).", claim.job, claim.step, type(exc).__name__)
            turn = Turn(None, None)
        more = turn.decision is not None and turn.decision.more
        done = await self._writer.commit(
            work, data, outcome.ok, usage, turn.decision, True, self._onwards.after(work, not more), refusal
        )
        self.turns.settle(work, turn, done)
        self._late(work, done)
        if done.status in ("turn", "mine"):
            await self._go_on(work, shared=turn.decision is not None)
        elif done.status == "advanced" and turn.decision is not None and turn.decision.more:
            await self._go_on(work, shared=False)

    async def _go_on(self, work: Work, shared: bool) -> None:
        try:
            await self.turns.catch_up(work, "", shared)
        except (Stopped, UnknownName):
            return  # the reconciler asks for the turn
        except Exception:
            logger.exception("The turn of job %s broke; another worker runs it.", work.claim.job)

    def _late(self, work: Work, done: Advance) -> None:
        if done.status in ("fenced", "gone", "written"):
            came = Came.REVOKED if done.status == "gone" else Came.RETRIED
            work.end = End(came, f"the outcome came too late ({done.status})")
            logger.warning(
                "The outcome of %s/%s came too late (%s).", work.claim.job, work.claim.step, done.status
            )

    async def _try_again(self, work: Work, error: Exception, again: Again, refusal: Refusal | None) -> str:
        """The call failed and may succeed later: the step waits for that without a slot (invariant 7)."""
        where = (again.model, self.turns.catalog.models.get(again.model, "llm")) if again.model else None
        why = f"{type(error).__name__}, next: {again.model}" if again.model else type(error).__name__
        await self._release(
            work,
            why,
            again.after,
            error=error,
            refusal=refusal,
            to=where,
        )
        self._writer.look_again(max(again.after, refusal.hold if refusal is not None else 0.0))
        said = f"goes to {again.model}" if again.model else f"again in {again.after:.1f} s"
        work.end = End.again(error, f"{type(error).__name__}: {said}")
        return work.end.said

    async def _not_counted(self, work: Work, again: Again) -> str:
        """This worker could not make the call: the step goes back as it came."""
        work.end = End(Came.RETRIED, f"not counted: {again.ours}")
        await self._release(work, again.ours, again.after, counted=not again.endless)
        self._leases.remove(work.claim)
        self._writer.look_again(again.after)
        if again.endless:  # and the slot rests: what is short, is so for the next step too
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._writer.closing.wait(), NOT_NOW_S)
        return work.end.said

    async def _parked(self, work: Work) -> str:
        """The tool that the journal asks for is not what the program asks for now: its turn says so."""
        with contextlib.suppress(UnknownName):
            async with self.turns.alone(work):
                await self.turns.catch_up(work, "")
        await self._release(work, "the agent's code has changed", 0.0)
        work.end = End(Came.RETRIED, "not called: the agent's code has changed")
        return work.end.said

    async def _hand_back(self, work: Work, reason: str) -> str:
        """The step goes back with its old rank; not for ever, where nothing comes of it."""
        work.end = End(Came.REVOKED if reason == "job ended" else Came.RETRIED, f"handed back: {reason}")
        ours = reason in ("job ended", "shutdown")
        after = 0.0 if ours else NOT_NOW_S
        try:
            await self._release(work, reason, after, paid=False, counted=reason != "job ended")
        except (Stopped, JournalError):
            return f"kept until its lease ends: {reason}"
        return work.end.said

    async def _release(self, work: Work, why: str, after: float, *, paid: bool = True, **more: Any) -> None:
        release = functools.partial(self._writer.journal.release, work.claim, why, after, **more)
        await self._writer.publish(await self._writer.insist(release, paid=paid), work.origin)

    async def _until_free(self, work: Work) -> None:
        """A tool that was given up and still runs has the slot."""
        if work.hung is None or work.hung.done.done():
            return
        self.hung.add(work)
        closing = asyncio.ensure_future(self._writer.closing.wait())
        both: set[asyncio.Future[Any]] = {work.hung.done, closing}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        self.hung.discard(work)

    def _say(self, claim: Claim, outcome: Outcome) -> None:
        """Where in the user's code a tool failed; of its own words nothing."""
        error = outcome.error or {}
        if claim.kind is not Kind.TOOL:
            return
        said = {
            "job": claim.job,
            "step": claim.step,
            "tool": claim.label,
            "error": (error.get("detail") or {}).get("error", "an error"),
            "traceback": str(error.get("traceback", "")),
        }
        logger.warning("Tool failed: %s", fields_line(said), extra={"failure": said})


def _told(work: Work, said: str) -> str:
    """What Celery is told of a step; of one that is tried again, only where somebody wants to hear that.

    Raises:
        Retry: it is.
    """
    if work.end is not None and work.end.came is Came.RETRIED and signals.task_retry.receivers:
        raise Retry(work.end.said)
    return said


def _forget(ready: asyncio.Task[Live | None] | None) -> None:
    """Nobody asks for the program any more; what is wrong with it, its turn will say."""
    if ready is not None:
        ready.add_done_callback(lambda task: task.cancelled() or task.exception())
