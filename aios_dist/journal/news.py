"""What was written of a job since a program came to where it stands, so that it goes on and is not replayed.

A job's proof (``dg``, see ``chain`` in ``_lib.lua``) is computed anew over what was found: only where it
comes to what the journal says has all of it been found, in its order. Nothing else is trusted.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import msgspec

from aios_dist.journal.heads import unpack_head
from aios_dist.journal.reading import UNREADABLE
from aios_dist.journal.records import birth_in
from aios_dist.journal.texts import Texts
from aios_dist.journal.views import head_to_step
from aios_dist.model.jobs import Step
from aios_dist.model.texts import Reader

OUTCOMES = frozenset({"done", "failed"})
BEGINNINGS = frozenset({"ready", "timed", "waiting"})

MOST = 2_000
"""Events that are looked at; a program that has missed more is replayed."""


class News(msgspec.Struct, frozen=True):
    """What a program has missed.

    Attributes:
        basis: where it stands after it.
        written: steps that were asked for (without outcome), and steps with their outcomes, as they came.
        events: events of the job that are looked at no more.
        served: seconds that the job has spent in calls.
        open: the job runs, and no retry waits for its turn.
    """

    basis: str
    written: list[Step]
    events: int
    served: float
    open: bool


def chained(basis: str, what: str) -> str:
    """The proof after one more thing: ``chain`` in ``_lib.lua``."""
    return f"{basis.partition('.')[0]}.{hashlib.sha1(f'{basis} {what}'.encode()).hexdigest()[:16]}"


class Following(Texts):
    """The part of the journal that live programs follow."""

    async def news(self, job: str, basis: str, version: int, steps: int, events: int) -> News | None:
        """What has come since.

        Args:
            job: whose.
            basis: what the program has seen.
            version: how many outcomes these were.
            steps: how many steps it has asked for.
            events: those of the job that need not be looked at.

        Returns:
            None where it cannot be told: the program is to be replayed.

        Raises:
            FleetUnavailable: Redis cannot be reached.
        """
        facts, said = await self._gather(
            [
                ("HMGET", self.keys.job(job), "dg", "st", "rt", "us", "half", "hp", "v", "n", "og"),
                ("LRANGE", self.keys.events(job), events, events + MOST - 1),
            ]
        )
        proof = (facts[0] or b"").decode()
        if proof.partition(".")[0] != basis.partition(".")[0] or facts[4] is not None or facts[5] is not None:
            return None
        try:
            found = _named([msgspec.msgpack.decode(event) for event in said], steps)
            fields = [name for seen in found for name in (f"h{seen.step}", f"o{seen.step}")]
            values = await self.connection.command("HMGET", self.keys.job(job), *fields) if fields else []
            reader = Reader(
                await self._fetched(job, filter(None, values[1::2]), self._kept.of(birth_in(basis)))
            )
            written: list[Step] = []
            last = version + _number(facts[8])  # the order of the last outcome that it has seen, at the most
            place = -1
            for seen, packed, outcome in zip(found, values[::2], values[1::2], strict=True):
                if basis == proof:
                    break
                head = unpack_head(packed)
                step = head_to_step(job, seen.step, head, None, None if seen.asked else outcome, reader)
                if seen.asked:
                    basis = chained(basis, f"{step.number} {step.digest} {seen.label}")
                    written.append(step)
                elif step.order > last:
                    basis = chained(basis, f"{step.number} {head.token or head.ended}")
                    written.append(step)
                place = seen.place
        except UNREADABLE:
            return None
        version += sum(step.outcome is not None for step in written)
        steps += sum(step.outcome is None for step in written)
        if (basis, version, steps) != (proof, _number(facts[6]), _number(facts[7])):
            return None
        served = int(float(facts[3] or 0)) / 1e6
        return News(proof, written, events + place + 1, served, facts[1] == b"running" and facts[2] is None)


def _number(value: bytes | None) -> int:
    return int(value) if value is not None and value.isdigit() else 0


class _Seen(NamedTuple):
    """An event that says of a step that it was asked for, or has its outcome."""

    place: int
    step: int
    asked: bool
    label: str


def _named(events: list[Any], steps: int) -> list[_Seen]:
    found: list[_Seen] = []
    for place, (_, what, step, label, *_) in enumerate(events):
        if not step.isdigit():
            continue
        if what in OUTCOMES:
            found.append(_Seen(place, int(step), False, ""))
        elif what in BEGINNINGS and int(step) >= steps:
            found.append(_Seen(place, int(step), True, label))
            steps = int(step) + 1
    return found
