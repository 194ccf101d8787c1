"""Jobs' ends, as they are told to people: each once, by whoever is in office, whoever has ended the job."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aios_dist.journal.access import Access, entries_of
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState, Outcome, decode

LOOK_BACK_S = 60.0
"""Where nothing says how far the ends were told: those of the last minute are."""

_ENTRY = re.compile(rb"\d+-\d+")


class Ended(msgspec.Struct, frozen=True):
    """A job's end, with what is known of the job (of one that is gone already: nothing).

    Attributes:
        life: which submission, or retry, of the job it was (:attr:`Claim.incarnation`).
        error: the record of what failed it.
        submitted_at, ended_at: seconds since the epoch on Redis' clock; 0.0: not known.
    """

    job: str
    state: JobState
    life: str
    agent: str = ""
    tenant: str = ""
    plan: str = ""
    steps: int = 0
    usage: Usage = Usage()
    submitted_at: float = 0.0
    ended_at: float = 0.0
    error: dict[str, Any] | None = None


class Telling(Access):
    """The part of the journal that knows which ends have been told."""

    async def told_upto(self) -> tuple[str, str]:
        """The last entry of the stream of ends that was told, "" where nobody has told any; and behind which
        there are others to tell."""
        said, (now, _) = await self._gather([("GET", self.keys.told), ("TIME",)])
        if said is not None and _ENTRY.fullmatch(said):
            return said.decode(), said.decode()
        return "", f"{max(0, int((int(now) - LOOK_BACK_S) * 1000))}-0"

    async def to_tell(self, after: str, most: int) -> tuple[list[Ended], str]:
        """The next ends, oldest first.

        Args:
            after: an entry (:meth:`told_upto`).
            most: entries of the stream that are read.

        Returns:
            The ends, and the last entry that was read: ``after`` where there is no more.
        """
        got = await self.connection.command("XREAD", "COUNT", most, "STREAMS", self.keys.ends, after)
        entries = entries_of(got)
        if not entries:
            return [], after
        ends = [e for e in (dict(_pairs(fields)) for _, fields in entries) if e.keys() >= {b"job", b"state"}]
        states = {state.value.encode(): state for state in JobState if state.ended}
        ends = [end for end in ends if end[b"state"] in states]
        fields = ("st", "who", "pl", "n", "up", "uo", "uc", "t0", "t1", "dg")
        names = [end[b"job"].decode("utf-8", "replace") for end in ends]
        facts = await self._gather(("HMGET", self.keys.job(job), *fields) for job in names)
        failed = [job for job, end in zip(names, ends, strict=True) if end[b"state"] == b"failed"]
        results = await self._gather(("HGET", self.keys.job(job), "res") for job in failed)
        errors = dict(zip(failed, map(_error, results), strict=True))
        told = [
            _ended(job, states[end[b"state"]], end.get(b"life"), known, errors.get(job))
            for job, end, known in zip(names, ends, facts, strict=True)
        ]
        return told, entries[-1][0].decode()

    async def tell(self, upto: str) -> None:
        """All ends up to that entry have been told."""
        await self.connection.command("SET", self.keys.told, upto)


def _pairs(flat: Any) -> list[tuple[bytes, bytes]]:
    return list(flat.items()) if isinstance(flat, dict) else list(zip(flat[::2], flat[1::2], strict=True))


def _error(result: bytes | None) -> dict[str, Any] | None:
    try:
        return decode(result, Outcome).error if result else None
    except (ValueError, RecursionError):  # `doctor` says so of it
        return None


def _ended(
    job: str, state: JobState, life: bytes | None, facts: list[bytes | None], error: dict[str, Any] | None
) -> Ended:
    is_now, who, plan, steps, prompt, output, calls, begun, over, basis = (
        (fact or b"").decode("utf-8", "replace") for fact in facts
    )
    tenant, _, agent = who.partition("|")
    same = is_now == state.value  # else it has been retried since
    return Ended(
        job,
        state,
        (life or b"").decode("utf-8", "replace") or basis.partition(".")[0],
        agent,
        tenant,
        plan,
        _number(steps),
        Usage(_number(prompt), _number(output), _number(calls)),
        _number(begun) / 1e6,
        _number(over) / 1e6 if same else 0.0,
        error if same else None,
    )


def _number(text: str) -> int:
    try:
        return int(float(text or 0))
    except (ValueError, OverflowError):
        return 0
