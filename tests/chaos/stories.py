"""What the journal tells of each job and step, read as it stands."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from aios_dist.journal.heads import unpack_head
from aios_dist.journal.keys import Keys
from aios_dist.journal.texts import texts_in
from aios_dist.model.jobs import Kind, Outcome, decode
from aios_dist.model.texts import Reader

ENDS = ("started", "released", "retry", "done", "failed")
"""Events of a step that end the attempt before them."""

DIGEST_CHARS = 24


@dataclass(frozen=True)
class Attempt:
    """One claim of a step."""

    start: float
    end: float
    worker: str

    @property
    def pid(self) -> int:
        """The worker's process."""
        return int(self.worker.rsplit(":", 2)[1])


@dataclass
class StepStory:
    """What the journal tells of a step. Times are Unix time; ``asked``: model and prompt of a call."""

    key: str
    kind: str
    attempts: list[Attempt]
    lost_at: list[float]
    written: list[tuple[float, str]]
    order: int
    outcome: Outcome | None
    asked: tuple[str, str] = ("", "")


@dataclass
class JobStory:
    """What the journal tells of a job. ``name``: what its agent was given as its name."""

    id: str
    state: str
    name: str = ""
    outcomes: int = 0
    steps: list[StepStory] = field(default_factory=list)
    turn: StepStory | None = None
    end: Outcome | None = None
    retried_at: list[float] = field(default_factory=list)

    def attempts(self) -> list[Attempt]:
        """Of all its steps, and of its turn."""
        return [a for step in [*self.steps, *([self.turn] if self.turn else [])] for a in step.attempts]


def read_jobs(client: redis.Redis, keys: Keys, ids: Sequence[str]) -> list[JobStory]:
    """The stories of these jobs; one that is not in the journal has the state ``lost``."""
    found: list[JobStory] = []
    for at in range(0, len(ids), 100):
        part = ids[at : at + 100]
        pipe = client.pipeline(transaction=False)
        for id in part:
            pipe.hgetall(keys.job(id))
            pipe.lrange(keys.events(id), 0, -1)
        answers = pipe.execute()
        found += [_job(id, *answers[2 * n : 2 * n + 2]) for n, id in enumerate(part)]
    return found


def name_of(record: bytes) -> str:
    """What the job was given as its name: ``name`` of an agent that is code, the input of one of data."""
    given: Any = decode(record[DIGEST_CHARS:], dict)["input"]
    while isinstance(given, dict):
        given = given.get("name") or given.get("input")
    return str(given)


def _job(id: str, facts: dict[bytes, bytes], packed: list[bytes]) -> JobStory:
    if b"st" not in facts:
        return JobStory(id, "lost")
    events: defaultdict[str, list[tuple[float, str, str]]] = defaultdict(list)
    for item in packed:
        at, what, step, extra = msgspec.msgpack.decode(item)
        events[step].append((int(at) / 1e6, what, extra))
    step = functools.partial(_step, id, facts, Reader(texts_in(facts)))
    return JobStory(
        id=id,
        state=facts[b"st"].decode(),
        name=name_of(facts[b"rec"]),
        outcomes=int(facts.get(b"v", 0)),
        steps=[step(str(n), events[str(n)]) for n in range(int(facts[b"n"]))],
        turn=step("t", events["t"]) if b"ht" in facts else None,
        end=decode(facts[b"res"], Outcome) if facts.get(b"res") else None,
        retried_at=[at for at, what, _ in events[""] if what == "retried"],
    )


def _step(
    job: str, facts: dict[bytes, bytes], reader: Reader, number: str, events: list[tuple[float, str, str]]
) -> StepStory:
    head = unpack_head(facts[f"h{number}".encode()])
    claims = [(n, at, extra) for n, (at, what, extra) in enumerate(events) if what == "started"]
    ends = [next((at for at, what, _ in events[n + 1 :] if what in ENDS), math.inf) for n, _, _ in claims]
    raw = facts.get(f"o{number}".encode())
    asked = ("", "")
    if head.kind == Kind.LLM:
        request: dict[str, Any] = reader.read(facts[f"q{number}".encode()], dict)
        asked = (request["model"], request["messages"][-1]["content"])
    return StepStory(
        key=f"{job}/{number}",
        kind=head.kind,
        attempts=[Attempt(at, end, worker) for (_, at, worker), end in zip(claims, ends, strict=True)],
        lost_at=[at for at, what, extra in events if what == "released" and extra == "lease ended"],
        written=[(at, what) for at, what, _ in events if what in ("done", "failed")],
        order=head.order,
        outcome=reader.read(raw, Outcome) if raw else None,
        asked=asked,
    )
