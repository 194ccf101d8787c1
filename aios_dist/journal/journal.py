"""The journal: one method a verb. The only code that touches the fleet's own keys in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aios_dist.errors import (
    DeadlineExceeded,
    FleetUnavailable,
    JournalDamaged,
    JournalError,
    WorkerLost,
)
from aios_dist.journal.depths import Depths
from aios_dist.journal.finding import Finding
from aios_dist.journal.libraries import Libraries
from aios_dist.journal.news import Following
from aios_dist.journal.office import Office
from aios_dist.journal.ordering import Ordering
from aios_dist.journal.records import (
    Claim,
    Lost,
    Reaped,
    Refusal,
    Ticket,
    Walked,
    budget_facts,
    random_name,
    tickets_of,
)
from aios_dist.journal.standing import Standings
from aios_dist.journal.stepping import Stepping
from aios_dist.journal.submitting import Submitting
from aios_dist.journal.telling import Telling
from aios_dist.journal.views import DeadLetter, WorkerInfo
from aios_dist.model.jobs import Outcome, encode
from aios_dist.model.specs import Budget

SLEPT = encode(Outcome())
LATE = encode(Outcome.failed(DeadlineExceeded("The job had not ended within its deadline.")))
GIVEN_UP = encode(
    Outcome.failed(WorkerLost("Every worker that tried this step was lost before it answered."))
)
HANDED_BACK = encode(
    Outcome.failed(WorkerLost("Every worker that tried this step gave it back before it was done."))
)
CORRUPT = encode(
    Outcome.failed(
        JournalDamaged("What Redis holds of this job cannot be read; `aios-dist doctor` says what of it.")
    )
)
UNDONE_AT_ONCE = 20  # failed steps that one script runs again
MOST_BACK = 20
"""How often in a row a step may be given back with nothing to show for it."""
MOST_SIGNALS = 1000
"""Signals that a job keeps while nobody waits for them, whatever their names."""

MOST_LARGE_SIGNALS = 16
"""As many that are each as large as may be: the bytes of all of them together, as they are kept."""


class Journal(
    Depths, Finding, Following, Libraries, Ordering, Office, Standings, Stepping, Submitting, Telling
):
    """All that is known of a fleet's jobs. One per event loop."""

    # Writing ---------------------------------------------------------------------------------------

    async def release(
        self,
        claim: Claim,
        reason: str,
        after: float = 0.0,
        *,
        error: Exception | None = None,
        refusal: Refusal | None = None,
        to: tuple[str, str] | None = None,
        counted: bool = False,
    ) -> list[Ticket]:
        """Give a step back with its old rank, after ``after`` seconds without a slot.

        Args:
            claim: the step.
            reason: for people.
            after: seconds.
            error: what a failed try raised; it is kept, and counts as a try.
            refusal: what the failure says of its model.
            to: another model that the step goes to, and its lane; its tries begin anew there.
            counted: nothing came of the claim: after ``MOST_BACK`` such times in a row the step is given up.
        """
        _, tickets = await self._run(
            "release",
            job=claim.job,
            step=claim.step,
            token=claim.token,
            reason=reason,
            after_us=int(after * 1e6),
            error=encode(Outcome.failed(error)) if error is not None else b"",
            refusal=refusal.plain() if refusal else None,
            model=to[0] if to else "",
            lane=to[1] if to else "",
            most_back=MOST_BACK if counted else 0,
            dead_outcome=HANDED_BACK,
            due_us=int(self.config.reconcile * 1e6),
        )
        return tickets_of(tickets)

    async def renew(self, leases: Iterable[str]) -> set[str]:
        """Renew all leases of a worker in one round trip; those that are lost come back."""
        lost = await self._run(
            "renew",
            leases=list(leases),
            lease_us=int(self.config.lease * 1e6),
        )
        return {lease.decode() for lease in lost}

    async def regain(self, claims: Sequence[Claim]) -> list[Claim]:
        """Leases that are not there any more, taken up again where nobody has the step; what remains of
        the claims, which are lost."""
        lost = await self._run(
            "regain",
            claims=[
                {
                    "job": claim.job,
                    "step": claim.step,
                    "attempt": claim.attempt,
                    "token": claim.token,
                    "birth": claim.birth,
                    "digest": claim.digest,
                    "worker": claim.worker,
                }
                for claim in claims
            ],
            lease_us=int(self.config.lease * 1e6),
        )
        return [claims[place] for place in lost]

    async def cancel(self, job: str) -> tuple[str, list[Ticket]]:
        """End a job; ``cancelled``, ``unknown``, or ``ended`` when it had ended before."""
        return await self._to_the_end(job, await self._run("cancel", job=job))

    async def pause(self, job: str, reason: str = "asked for") -> str:
        """Stop a running job where it is; ``paused``, ``unknown``, or the state that forbids it."""
        status, _ = await self._to_the_end(job, await self._run("pause", job=job, reason=reason))
        return status

    async def resume(self, job: str, budget: Budget | None = None) -> tuple[str, list[Ticket]]:
        """Let a paused job go on; ``running``, ``unknown``, or the state that forbids it."""
        said = await self._run("resume", job=job, facts=budget_facts(budget, anew=True))
        return await self._to_the_end(job, said)

    async def rewind(
        self, job: str, step: int, budget: Budget | None = None, salt: str | None = None
    ) -> tuple[str, list[Ticket]]:
        """A paused job forgets its steps from that one on and goes on: ``running``, or why not, see
        ``rewind.lua``. ``salt``: random, of this asking; who asks twice finds it again."""
        salt, facts = salt or random_name(), budget_facts(budget, anew=True)
        some: list[Ticket] = []
        while True:
            said = await self._run("rewind", job=job, step=step, salt=salt, facts=facts)
            if said[0] == b"sweep":
                some += (await self.sweep(job))[1]
            elif said[0] != b"more":
                break
        status, tickets = await self._to_the_end(job, said)
        return status, [*some, *tickets]

    async def signal(
        self, job: str, name: str, outcome: Outcome, id: str | None = None
    ) -> tuple[str, list[Ticket]]:
        """Send what a job waits for: ``delivered``, ``kept``, ``full``, ``ended`` or ``unknown``. Sent again
        under the same ``id`` it is the same signal."""
        sent, blob = id or random_name(), encode(outcome)
        at, life = 0, b""
        some: list[Ticket] = []
        while True:
            status, *said = await self._run(
                "signal",
                job=job,
                name=name,
                id=sent,
                outcome=blob,
                most=MOST_SIGNALS,
                most_bytes=MOST_LARGE_SIGNALS * self.config.input_limit,
                at=at,
                life=life,
            )
            if status == b"more":
                at, life = said
            elif status == b"sweep":
                some += (await self.sweep(job))[1]
            else:
                return status.decode(), [*some, *tickets_of(said[0])]

    async def retry(
        self, job: str, *, basis: str = "", undone: Sequence[int] | None = None, salt: str | None = None
    ) -> tuple[str, list[Ticket]]:
        """Let a job that failed or was cancelled go on. A deadline counts anew; its plan is left.

        Args:
            job: its id.
            salt: random, of this asking; who asks twice finds it again (``History.retried_with``).
            basis, undone: where the caller has replayed the program: what it had seen, and the steps whose
                failure it has not gone on from; None lets a worker find out.

        Returns:
            ``running``, ``unknown``, ``stale`` (replay again), or the state that forbids it.
        """
        salt = salt or random_name()
        steps = None if undone is None else list(undone[:UNDONE_AT_ONCE])
        rest = (undone or ())[UNDONE_AT_ONCE:]
        some: list[Ticket] = []
        while True:
            said = await self._run(
                "retry", job=job, salt=salt, basis=basis, undone=steps, rest=int(bool(rest))
            )
            if said[0] != b"sweep":
                break
            some += (await self.sweep(job))[1]
        if rest and said[3:]:
            with contextlib.suppress(FleetUnavailable, JournalError):  # then the job's turn says them
                some += (await self.redo(job, said[3].decode(), rest))[1]
        status, tickets = await self._to_the_end(job, said)
        return status, [*some, *tickets]

    async def redo(self, job: str, basis: str, undone: Sequence[int]) -> tuple[str, list[Ticket]]:
        """In the turn that a retry asks for: the steps to run again, some at a time; see ``redo.lua``."""
        status, tickets, at = b"redone", list[Ticket](), 0
        while status == b"redone" and (at < len(undone) or not at):
            page, at = list(undone[at : at + UNDONE_AT_ONCE]), at + UNDONE_AT_ONCE
            status, some, now = await self._run(
                "redo", job=job, basis=basis, undone=page, rest=int(at < len(undone))
            )
            tickets += tickets_of(some)
            basis = now.decode()
        return status.decode(), tickets

    async def fork(self, job: str, new: str, step: int) -> tuple[str, list[Ticket]]:
        """A new job with another's history before ``step``; ``new``, or why not (see ``fork.lua``)."""
        birth, said = random_name(), [b"more"]
        while said[0] == b"more":
            said = await self._run("fork", job=job, new=new, step=step, birth=birth)
        return await self._to_the_end(new, said)

    async def _to_the_end(self, job: str, said: list[Any]) -> tuple[str, list[Ticket]]:
        """What a verb has said: status and tickets, when all steps of the job have followed it."""
        status, tickets, more, *_ = said
        rest, _ = await self._follow(job, more)
        return status.decode(), [*tickets_of(tickets), *rest]

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Steps that were given up, newest first."""
        if not limit:
            return []
        flat = await self.connection.command("ZRANGE", self.keys.dead, 0, limit - 1, "REV", "WITHSCORES")
        pairs = (
            flat
            if flat and isinstance(flat[0], (list, tuple))
            else list(zip(flat[::2], flat[1::2], strict=True))
        )
        letters = []
        for member, score in pairs:
            job, _, step = member.decode().rpartition("/")
            letters.append(DeadLetter(job, step, float(score) / 1e6))
        return letters

    async def drop_dead(self, job: str) -> int:
        """Forget the dead letters of a job; how many there were."""
        names = [f"{d.job}/{d.step}" for d in await self.dead_letters(10_000) if d.job == job]
        if names:
            await self.connection.command("ZREM", self.keys.dead, *names)  # what it counts, twice said, is 0
        return len(names)

    async def reap(self, lanes: Sequence[str], cursor: str = "0", page: int = 200) -> Reaped:
        """One bounded pass over what time or a crash has left behind."""
        moved, ready, strays, cursor_, next_us, broken, lost = await self._run(
            "reap",
            page=page,
            attempts=self.config.attempts,
            lost_outcome=GIVEN_UP,
            slept_outcome=SLEPT,
            late_outcome=LATE,
            lanes=list(lanes),
            due_us=int(self.config.reconcile * 1e6),
            cursor=cursor,
            lease_us=int(self.config.lease * 1e6),
            # Another reconciler takes over within three periods: that is no outage.
            quiet_us=int(max(self.config.lease - self.config.renew, 3.5 * self.config.reconcile) * 1e6),
        )
        counts = dict(zip(lanes, ready, strict=True))
        astray = [lane for lane, count in zip(lanes, strays, strict=True) if count]
        next_s = int(next_us) / 1e6 or None
        return Reaped(
            moved, counts, astray, cursor_.decode(), next_s, _pairs(broken), [_lost(one) for one in lost]
        )

    async def walk(self, cursor: str = "0", page: int = 200) -> Walked:
        """Put right what is marked, and a page of the open jobs; what cannot be read is set aside."""
        found, next_, *counts = await self._run("walk", page=page, cursor=cursor, corrupt_outcome=CORRUPT)
        return Walked(_pairs(found), next_.decode(), *counts)

    async def announce(
        self, info: WorkerInfo, models: dict[str, str], room: Sequence[str] = (), kin: str = ""
    ) -> None:
        """Say what a worker is and serves, and for steps of which lanes it has room: until the next time but
        one, saturated workers of its kin leave it theirs."""
        info = msgspec.structs.replace(info, tells_who_waits=True, reads_texts=True)  # this release does
        fields: list[Any] = [f"worker/{info.id}", msgspec.json.encode(info)]
        for model, lane in models.items():
            fields += [f"model/{model}", f"{info.seen_at:.0f} {lane}"]
        for agent in info.agents:
            fields += [f"agent/{agent}", f"{info.seen_at:.0f}"]
        needs = [*(f"model/{model}" for model in models), *(f"agent/{agent}" for agent in info.agents)]
        until = f"{(info.seen_at + 3 * self.config.lease) * 1e6:.0f}"
        serving = [part for need in needs for part in (until, need)]
        # What is begun with a code waits for a worker that has it: no longer than for a lost one's lease.
        until = f"{(info.seen_at + self.config.lease) * 1e6:.0f}"
        serving += [part for need in info.code_needs() for part in (until, need)]
        await self._gather(
            [
                ("HSET", self.keys.registry, *fields),
                self._uses(info.seen_at),
                *([("ZADD", self.keys.serving, "GT", *serving)] if serving else []),
                *(
                    ("SET", self.keys.room(lane, kin), info.id, "PX", int(2000 * self.config.renew))
                    for lane in room
                ),
            ]
        )

    async def leave(self, worker: str) -> None:
        """A worker says that it is gone."""
        await self.connection.command("HDEL", self.keys.registry, f"worker/{worker}")

    async def let_codes_go(self, codes: Iterable[str]) -> None:
        """A worker has said that it has these no longer (``WorkerInfo.code_needs``): for what no other has,
        nobody waits longer."""
        left = set(codes)
        for other in (await self.registry()).workers:
            left -= set(other.code_needs())
        if left:
            await self.connection.command("ZREM", self.keys.serving, *left)

    async def unpark(self, after: bytes = b"-") -> tuple[int, list[Ticket], bool, bytes]:
        """Parked jobs go on whose code a worker has again, some at a time.

        Args:
            after: where the call before has said to go on.

        Returns:
            How many did, their tickets, whether there may be more of them, and where to go on.
        """
        went_on, tickets, more, after = await self._run("unpark", after=after)
        return went_on, tickets_of(tickets), bool(more), after


def _lost(said: list[bytes | int]) -> Lost:
    text = [part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part) for part in said]
    job, step, token, worker, state, agent, kind, label, attempt, life = text
    return Lost(job, step, token, worker, state, agent, kind, label, int(attempt), life)


def _pairs(flat: list[bytes]) -> list[tuple[str, str]]:
    text = [part.decode("utf-8", "replace") for part in flat]
    return list(zip(text[::2], text[1::2], strict=True))
