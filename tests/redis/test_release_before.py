"""A release before this one on the same journal: what it does to what only this one knows."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import AsyncFleet, JobCancelled
from aios_dist.config import Config
from aios_dist.journal import Claim, Nothing
from aios_dist.producer import endings
from tests.redis.breaking import begun, parks
from tests.redis.test_code_that_fits import a_turn_waits, take, worker
from tests.releases import unpacked

if TYPE_CHECKING:
    from tests.redis.conftest import Hand

PROGRAM = """
import asyncio, json, sys
from aios_dist.config import FleetConfig
from aios_dist.journal import Decision, Journal, RankedStep, WorkerInfo
from aios_dist.model.calls import LLMRequest
from aios_dist.model.jobs import Kind, NewStep, encode
from aios_dist.policies import Rank

async def main():
    journal = Journal(FleetConfig(name=sys.argv[1], redis_url=sys.argv[2], lease=float(sys.argv[3])))
    try:
        print(json.dumps([%s]))
    finally:
        await journal.close()

async def take(journal, agent):
    got = await journal.take("turns", "w-before", "t-before", models=["small"], agents=[agent])
    return getattr(got, "job", None)

async def asks(journal, job):
    history = await journal.load(job)
    request = encode(LLMRequest([{"role": "user", "content": "x"}]))
    step = RankedStep(NewStep(Kind.LLM, "llm", request, "d", "small"), Rank(), "")
    decision = Decision(history.view.outcomes, history.view.steps, [step], basis=history.basis)
    return (await journal.advance(job, decision)).status

async def announces(journal):
    seen = await journal.now()
    what = dict(host="h", pid=1, pool="llm", lanes=["llm"], slots=1, seen_at=seen)
    await journal.announce(WorkerInfo(id="w-before", **what), {})

async def waiting(journal):
    return (await journal.tickets(["turns"], ["t"], [0]))["turns"].ready

asyncio.run(main())
"""


@pytest.fixture(scope="session")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(tmp_path_factory.mktemp("releases") / "before")


class Before:
    """That release, as it does with this journal what is written here, in Python."""

    def __init__(self, release: Path, hand: Hand) -> None:
        self._release, self._hand = release, hand

    def does(self, *what: str) -> list[Any]:
        """One expression after another, each in terms of ``journal``; gives what came of them."""
        config = self._hand.config
        asked = [sys.executable, "-c", PROGRAM % ", ".join(what), config.name, config.redis_url]
        done = subprocess.run(
            [*asked, str(config.lease)], cwd=self._release, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        said: list[Any] = json.loads(done.stdout)
        return said


@pytest.fixture
def before(release: Path, hand: Hand) -> Before:
    return Before(release, hand)


async def test_what_waits_for_code_gets_tickets_and_is_taken_where_all_was_put_back(
    hand: Hand, before: Before
) -> None:
    one = await worker(hand, "one", "old")
    await a_turn_waits(hand)
    assert isinstance(await take(hand, "new"), Nothing)
    await hand.journal.leave("one")
    await hand.journal.let_codes_go(one.code_needs())
    assert before.does("await waiting(journal)", "await take(journal, 'a')") == [1, "j"]
    await hand.look()


async def test_what_it_cannot_serve_it_leaves_to_who_can(hand: Hand, before: Before) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand, "j")
    await a_turn_waits(hand, "k")
    assert isinstance(await take(hand, "new"), Nothing)
    assert before.does("await take(journal, 'other')", "await take(journal, 'other')") == [None, None]
    got = await take(hand, "old")
    assert isinstance(got, Claim)
    other = "k" if got.job == "j" else "j"
    before.does("await take(journal, 'other')")
    await hand.journal.cancel(other)
    assert await hand.redis("EXISTS", hand.keys.held("?agent/a"), hand.keys.held("?code/a@old")) == 0
    await hand.look()


async def test_a_step_that_it_has_left_to_others_waits_in_one_place(hand: Hand, before: Before) -> None:
    await worker(hand, "old", "old")
    await a_turn_waits(hand)
    await take(hand, "new")
    before.does("await take(journal, 'other')")
    walked = await hand.journal.walk()
    assert walked.found == []


async def test_it_makes_way_in_office_and_takes_it_where_nobody_else_is(hand: Hand, before: Before) -> None:
    office = "(await journal.office('before', 'take')).mine"
    assert before.does(office) == [True]
    assert (await hand.journal.office("w", "take")).mine
    assert before.does(office) == [False]
    assert (await hand.journal.office("w", "take")).mine
    assert not (await hand.journal.office("v", "take")).mine
    await hand.journal.office("w", "leave")
    assert before.does(office) == [True]


async def test_who_waits_hears_of_the_ends_that_its_workers_write_and_its_producers_of_ours(
    hand: Hand, before: Before, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows the fleet's stream, and no channel of a job."""
    monkeypatch.setattr(endings, "LOOK_AGAIN_S", 3600.0)  # nothing is found by a look
    async with AsyncFleet(Config(fleet=hand.config)) as fleet:
        await hand.submit(begun("theirs", "x"), begun("ours", "x"))
        before.does("await announces(journal)")
        result = asyncio.create_task(fleet.job("theirs").result(timeout=60))
        async with asyncio.timeout(10):
            while "theirs" not in fleet._endings._waiting or fleet._endings._stream is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        for _ in range(5):  # behind these it has looked
            await fleet.job("theirs").status()
        assert before.does("(await journal.cancel('theirs'))[0]") == ["cancelled"]
        with pytest.raises(JobCancelled):
            await asyncio.wait_for(result, 10)
    await hand.journal.cancel("ours")
    assert before.does("list(await anext(journal.ends('0-0')))") == [["theirs", "ours"]]


async def park(hand: Hand, id: str = "j") -> None:
    await hand.submit(begun(id, "x"))
    await hand.journal.advance(id, parks(0, 1))


async def test_what_it_resumes_is_parked_no_longer(hand: Hand, before: Before) -> None:
    await park(hand)
    assert before.does("(await journal.resume('j'))[0]", "await take(journal, 'a')") == ["running", "j"]
    await hand.journal.walk()
    assert await hand.redis("EXISTS", hand.keys.parked) == 0
    before.does("(await journal.pause('j')) and 0")
    standing = await hand.journal.standing("j")
    assert (standing.state, standing.parked) == ("paused", "")
    await hand.look()


async def test_what_it_asks_for_is_not_taken_for_that_of_the_code_which_the_job_had(
    hand: Hand, before: Before
) -> None:
    await a_turn_waits(hand)
    assert before.does("await take(journal, 'a')", "await asks(journal, 'j')") == ["j", "advanced"]
    history = await hand.journal.load("j")
    assert (history.code, history.of_code, history.view.steps) == ("old", 1, 2)
    await hand.look()


async def test_its_reconciler_leaves_parked_and_rewound_jobs_alone(hand: Hand, before: Before) -> None:
    await park(hand, "j")
    await hand.submit(begun("k", "a", "b", "c"))
    await hand.commit(await hand.claim())
    await hand.journal.advance("k", parks(1, 3))
    await hand.journal.rewind("k", 1)
    before.does("(await journal.reap(['llm', 'turns'])).moved and 0")
    (found,) = before.does("(await journal.walk()).found")
    assert found == []
    views = await hand.journal.views(["j", "k"])
    assert [(view.state, view.parked) for view in views if view] == [("paused", True), ("running", False)]
    history = await hand.journal.load("k")
    assert len(history.forgotten) == 2
    await hand.look()
