"""What workers say of steps: that they take one, what came of it, and what its job asks for now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from aios_dist.config import FleetConfig
from aios_dist.errors import BudgetReached, JournalDamaged
from aios_dist.journal.connection import Full
from aios_dist.journal.reading import UNREADABLE
from aios_dist.journal.records import (
    Advance,
    Asks,
    Claim,
    Decision,
    Nothing,
    Onward,
    Refusal,
    birth_in,
    bounded,
    kept_record,
    micros,
    random_name,
    tickets_of,
    unpack_record,
)
from aios_dist.journal.texts import Texts
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import Kind, Outcome, encode
from aios_dist.model.texts import Apart

SPENT = encode(
    Outcome.failed(BudgetReached("The budget of the job, or of its tenant for the day, is used up."))
)
NO_USAGE = Usage()
KEPT = frozenset({"advanced", "turn", "paused", "ended"})
"""Answers of ``commit`` with which the outcome is written."""


class Stepping(Texts):
    """The part of the journal that workers claim and write with."""

    def __init__(self, config: FleetConfig) -> None:
        super().__init__(config)
        self._sought: dict[str, bytes] = {}  # by lane: what claims have looked at last of what others lack

    async def take(
        self,
        lane: str,
        worker: str,
        token: str,
        *,
        again: int = 0,
        models: Sequence[str] | None = None,
        agents: Sequence[str] | None = None,
        codes: Mapping[str, str] | None = None,
        unsought: int | None = None,
    ) -> Claim | Nothing:
        """The best step of the lane that may run and that the worker can serve, leased to it.

        Args:
            lane: its name.
            worker, token, again, models, agents, codes: who claims, see :class:`Asks`.
            unsought: as the answer said that this one follows.

        Returns:
            The claim. Its ``tickets`` are to be published: one whose budget is used up may have made way for
            another.
        """
        asks = Asks(worker, token, again, models, agents, codes)
        got = await self._run(
            "claim", lane=lane, sought=self._sought.get(lane, b""), **self._asks(asks, unsought)
        )
        return await self._claimed(lane, asks, got)

    def _asks(self, asks: Asks, unsought: int | None = None) -> dict[str, Any]:
        """What ``claim`` is told but for the lane."""
        return {
            "worker": asks.worker,
            "token": asks.token,
            "again": int(asks.again),
            "models": asks.models,
            "agents": asks.agents,
            "codes": None if asks.codes is None else dict(asks.codes),
            "unsought": unsought,
            "lease_us": int(self.config.lease * 1e6),
            "budget_outcome": SPENT,
        }

    async def _claimed(self, lane: str, asks: Asks, got: list[Any]) -> Claim | Nothing:
        """What ``claim`` has answered."""
        flat, why, *rest = got
        if len(rest) == 2:
            self._sought[lane], left = rest
            return Nothing(tickets_of(flat), elsewhere=why == b"others", again=why == b"more", unsought=left)
        (
            job,
            (
                step,
                attempt,
                kind,
                label,
                record,
                request,
                version,
                ready,
                started,
                tries,
                served,
                basis,
                dig,
                first,
                estimate,
                cost,
                over,
                code,
                fits,
                self._sought[lane],
            ),
        ) = (
            why,
            rest,
        )
        try:
            what = unpack_record(record)
            request = await self.document(job.decode(), birth_in(basis.decode()), request)
        except (*UNREADABLE, JournalDamaged) as exc:
            # Of a job that stands elsewhere by now (Redis was put back behind the claim) this says nothing.
            if await self.connection.command("HGET", self.keys.job(job.decode()), "dg") == basis:
                await self.set_aside(job.decode(), str(exc))
            return Nothing(tickets_of(flat), again=True)
        return Claim(
            job=job.decode(),
            step=step.decode(),
            attempt=attempt,
            kind=Kind(kind.decode()),
            label=label.decode(),
            record=what,
            request=request,
            version=int(version),
            ready_us=int(ready),
            started_us=int(started),
            tries=tries,
            served=int(served) / 1e6,
            tickets=tickets_of(flat),
            token=asks.token,
            basis=basis.decode(),
            digest=dig.decode(),
            worker=asks.worker,
            first_us=int(first),
            estimate=int(estimate),
            cost=int(cost),
            over=int(over),
            code=code.decode(),
            fits=bool(fits),
        )

    async def set_aside(self, job: str, why: str) -> None:
        """A job that no worker may read: it fails, and holds nobody up; the reconciler sees to it."""
        await self._run("aside", job=job, why=f"what it holds cannot be read: {why}")

    async def claim(self, lane: str, worker: str) -> Claim | None:
        """The best step of the lane, whatever it needs; None when there is none."""
        got = await self.take(lane, worker, random_name())
        return got if isinstance(got, Claim) else None

    async def commit(
        self,
        claim: Claim,
        outcome: bytes,
        *,
        ok: bool,
        usage: Usage = NO_USAGE,
        money: float = 0.0,
        refusal: Refusal | None = None,
        decision: Decision | None = None,
        turn_here: bool = True,
        then: Sequence[tuple[Any, ...]] = (),
        onward: Onward | None = None,
    ) -> Advance:
        """Write a step's outcome, and with it what the turn decided. See ``commit.lua`` for the answers.

        Args:
            claim: the step.
            outcome, ok: what came of it, encoded; whether it is an answer.
            usage: what the provider counted. Of an answer without any, the claim's estimate stands.
            money: what it cost.
            refusal: what a failure says of its model.
            decision: what the program asks for now.
            turn_here: the caller can run the turn itself after this.
            then: commands sent along.
            onward: the tickets that it calls for are pushed by the same write, and the slot that becomes
                free claims its next step. Not where Redis is full: then they are the answer's.
        """
        apart = self._apart(claim.birth)
        kept = kept_record(outcome, apart)
        texts = apart.texts() if apart is not None else []  # the decision has its own: it may not hold
        of_outcome = dict(apart.new) if apart is not None else {}
        fields = {
            "job": claim.job,
            "step": claim.step,
            "token": claim.token,
            "incarnation": claim.incarnation,
            "digest": claim.digest,
            "ok": int(ok),
            "outcome": kept,
            "prompt_tokens": bounded(usage.prompt_tokens),
            "output_tokens": bounded(usage.output_tokens),
            "calls": bounded(usage.calls),
            "micros": micros(money),
            "refusal": refusal.plain() if refusal else None,
            "decision": self._plain(decision, apart) if decision else None,
            "turn_here": int(turn_here),
            "grace_us": int(self.config.reconcile * 1e6),
            "texts": texts,
            "needs": apart.needed() if apart is not None else b"",
        }
        if onward is None:
            done = _advanced(await self._run("commit", *then, **fields))
        else:
            done = await self._onward(fields, onward)
        if done.status == "lacking":
            self._known.forget(claim.birth)
            return await self.commit(
                claim,
                outcome,
                ok=ok,
                usage=usage,
                money=money,
                refusal=refusal,
                decision=decision,
                turn_here=turn_here,
                onward=onward,
            )
        if done.status in KEPT:
            holds = apart is not None and done.status == "advanced"
            self._are_there(claim.birth, apart.new if apart is not None and holds else of_outcome)
        return done

    def _plain(self, decision: Decision, apart: Apart | None) -> dict[str, Any]:
        plain = decision.plain(self.config.reconcile, apart, self.config.job_limit)
        if apart is not None and (texts := apart.texts()):
            plain["texts"] = texts
        return plain

    async def _onward(self, fields: dict[str, Any], onward: Onward) -> Advance:
        whole = {"retention_ms": self._retention_ms}
        claims = whole | self._asks(onward.asks) if onward.asks is not None else None
        try:
            done, lane, got, ticket = await self._run(
                "onward",
                commit={**whole, **fields},
                claim=claims,
                lanes=[(lane, self._sought.get(lane, b"")) for lane in onward.lanes],
                shy=onward.shy,
                lists=onward.form.lists,
                form=onward.form.ticket,
            )
        except Full:
            # Redis has refused all of it. What is paid for is written all the same, and nothing is begun.
            return _advanced(await self._run("commit", **fields))
        advance = _advanced(done)
        if not lane or onward.asks is None:
            return advance
        next = await self._claimed(lane.decode(), onward.asks, got)
        if not isinstance(next, Claim):
            return advance
        return msgspec.structs.replace(advance, lane=lane.decode(), next=next, ticket=ticket)

    async def advance(
        self, job: str, decision: Decision, *, token: str = "", then: Sequence[tuple[Any, ...]] = ()
    ) -> Advance:
        """Write what a turn decided, where it ran apart from a commit; ``token`` of the turn's own claim, if
        it has one. See ``advance.lua`` for the answers."""
        birth = birth_in(decision.basis)
        apart = self._apart(birth)
        plain = self._plain(decision, apart)
        needs = apart.needed() if apart is not None else b""
        done = _advanced(await self._run("advance", *then, job=job, decision=plain, token=token, needs=needs))
        if done.status == "lacking":
            self._known.forget(birth)
            return await self.advance(job, decision, token=token)
        if done.status == "advanced" and apart is not None:
            self._are_there(birth, apart.new)
        return done


def _advanced(got: list[Any]) -> Advance:
    return Advance(got[0].decode(), got[1], tickets_of(got[2]), got[3].decode())
