"""Ends of jobs as people are told of them: each at least once, by whoever is in office."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aios_dist.journal import Decision, Journal, NewJob
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobRecord, JobState, Outcome, encode
from aios_dist.worker.rows import Rows
from aios_dist.worker.telling import Teller
from tests.redis.conftest import Hand, starts


class Heard:
    """What rows are sent of."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, type: str, **fields: Any) -> None:
        self.events.append((type, fields))

    def ends(self) -> list[str]:
        """Of jobs: the event's type, and what it is about."""
        return [
            f"{kind} {of['args']}"
            for kind, of in self.events
            if kind not in ("task-received", "task-started")
        ]


def teller(journal: Journal, heard: Heard, office: bool = True) -> Teller:
    return Teller(journal, Rows(heard), lambda: office)


async def test_ends_are_told_once_with_what_is_known_of_the_job(hand: Hand) -> None:
    await hand.journal.submit([starts("good", "x"), starts("bad", ends=JobState.FAILED)])
    claim = await hand.journal.claim("llm", "w")
    assert claim is not None
    await hand.journal.commit(claim, b"", ok=True, usage=Usage(3, 4, 1))
    await hand.journal.cancel("good")
    heard = Heard()
    await teller(hand.journal, heard).tell()
    assert heard.ends() == ["task-failed job bad", "task-revoked job good"]
    await teller(hand.journal, heard).tell()
    assert len(heard.ends()) == 2
    row = heard.events[-1][1]
    assert row["result"] == "cancelled, 1 calls, 3 + 4 tokens"
    assert row["kwargs"] == "job, tenant default, steps 1"
    assert row["uuid"] == row["root_id"] == f"good.{claim.incarnation}"


async def test_the_next_in_office_goes_on_where_the_last_one_stood(hand: Hand) -> None:
    heard = Heard()
    await hand.journal.submit([starts(f"j{n}", ends=JobState.DONE) for n in range(3)])
    await teller(hand.journal, heard, office=False).tell()
    assert heard.ends() == []
    await teller(hand.journal, heard).tell()
    await hand.journal.submit([starts("late", ends=JobState.DONE)])
    await teller(hand.journal, heard).tell()
    assert heard.ends() == [f"task-succeeded job {name}" for name in ("j0", "j1", "j2", "late")]


async def test_each_failed_job_is_one_line_of_the_log_whoever_ended_it(
    hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    """Also one that failed in its producer, or by its deadline: no worker ran its last turn."""
    result = encode(Outcome.failed(ValueError("one\nSUCCESS two")))
    failed = Decision(0, 0, ends=JobState.FAILED, result=result)
    await hand.journal.submit([NewJob("bad", JobRecord("a", {}), failed), starts("gone", "x")])
    await hand.journal.cancel("gone")
    with caplog.at_level("WARNING", "aios_dist.telling"):
        await teller(hand.journal, Heard()).tell()
        await teller(hand.journal, Heard()).tell()
    (line,) = [record.getMessage() for record in caplog.records if record.name == "aios_dist.telling"]
    said = json.loads(line.removeprefix("Job failed: "))
    assert said == {"job": "bad", "agent": "a", "tenant": "default", "error": "ValueError", "traceback": ""}


async def test_an_end_counts_as_told_when_its_events_have_gone_out(hand: Hand) -> None:
    """A worker that is killed with events in hand takes them with it: the next in office tells them."""
    await hand.journal.submit([starts("j", ends=JobState.DONE)])
    gone, killed, heard = 0, Heard(), Heard()

    def made() -> Teller:
        return Teller(hand.journal, Rows(killed), lambda: True, lambda: len(killed.events), lambda: gone)

    first = made()
    await first.tell()
    await first.tell()
    assert killed.ends() == ["task-succeeded job j"], "once, by who goes on"
    await teller(hand.journal, heard).tell()
    assert heard.ends() == killed.ends()
    await hand.redis("DEL", hand.keys.told)
    second = made()
    await second.tell()
    gone = len(killed.events)
    await second.tell()
    await teller(hand.journal, heard).tell()
    assert len(heard.ends()) == 1, "these have gone out"
    await hand.redis("DEL", hand.keys.told)  # as on a Redis that was put back
    await second.tell()
    assert len(killed.ends()) == 3


async def test_what_waits_to_go_out_is_told_once_whatever_the_clock_says_meanwhile(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    await hand.journal.submit([starts("j", ends=JobState.DONE)])
    heard = Heard()
    slow = Teller(hand.journal, Rows(heard), lambda: True, lambda: len(heard.events), lambda: 0)
    command = hand.journal.connection.command

    async def later(*args: Any) -> Any:
        found = await command(*args)
        return [int(found[0]) + 5, found[1]] if args == ("TIME",) else found

    await slow.tell()
    monkeypatch.setattr(hand.journal.connection, "command", later)
    await slow.tell()
    assert heard.ends() == ["task-succeeded job j"]


async def test_a_fleet_that_was_never_told_of_begins_a_minute_back(hand: Hand) -> None:
    now = await hand.journal.now()
    old = f"{(now - 61) * 1000:.0f}-0"
    await hand.redis("XADD", hand.keys.ends, old, "job", "old", "state", "done")
    await hand.redis("XADD", hand.keys.ends, "*", "job", "of-the-release-before", "state", "done")
    await hand.redis("XADD", hand.keys.ends, "*", "plan", "p", "state", "done")
    await hand.redis("XADD", hand.keys.ends, "*", "job", b"\xff", "state", "what")
    heard = Heard()
    await teller(hand.journal, heard).tell()
    assert heard.ends() == ["task-succeeded job of-the-release-before"]
    await hand.redis("SET", hand.keys.told, "nonsense")
    await teller(hand.journal, heard).tell()
    assert len(heard.ends()) == 2


async def test_an_end_before_a_retry_is_told_as_what_it_was(hand: Hand) -> None:
    await hand.journal.submit([starts("j", "x")])
    await hand.journal.cancel("j")
    first = (await hand.journal.load("j")).basis.partition(".")[0]
    await hand.journal.retry("j")
    heard = Heard()
    await teller(hand.journal, heard).tell()
    kind, row = heard.events[-1]
    assert (kind, row["uuid"]) == ("task-revoked", f"j.{first}")
    assert "runtime" not in row, "nobody knows any more when that was"


async def test_tries_that_were_lost_with_their_workers_are_told_with_what_became_of_their_steps(
    hand: Hand,
) -> None:
    await hand.submit(*(starts(name, "x") for name in ("again", "paused", "cancelled", "given-up")))
    claims = await hand.drain()
    await hand.journal.pause("paused")
    await hand.journal.cancel("cancelled")
    await hand.lapse(*claims)
    lost = {one.job: one for one in (await hand.reap()).lost}
    last = lost["given-up"]
    while last.state == "ready":
        await hand.lapse(*(claim for claim in await hand.drain() if claim.job == "given-up"))
        (last,) = [one for one in (await hand.reap()).lost if one.job == "given-up"]
    heard = Heard()
    for name in ("again", "paused", "cancelled"):
        Rows(heard).lost(lost[name])
    Rows(heard).lost(last)
    assert heard.ends() == [
        "task-retried job again, step 0",
        "task-retried job paused, step 0",
        "task-revoked job cancelled, step 0",
        "task-failed job given-up, step 0",
    ]
    told = heard.events[0][1]
    (claim,) = [claim for claim in claims if claim.job == "again"]
    assert told["uuid"] == f"again.0.{claim.token}"
    assert told["parent_id"] == f"again.{claim.incarnation}"
    assert (told["name"], told["kwargs"]) == (claim.record.agent, "llm small")
    assert told["worker_lost"] == claim.worker
