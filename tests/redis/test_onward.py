"""The slot that a commit frees goes on: what it claims with the commit, and what becomes of the tickets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aios_dist.broker.app import Tickets
from aios_dist.broker.messages import ticket as checked
from aios_dist.config import parse
from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal import Advance, Asks, Claim, Decision, Onward, Ticket
from aios_dist.model.jobs import JobState
from tests.redis.conftest import Hand, decides, starts
from tests.redis.test_work_of_a_slice import counted


class Queue:
    """The lists of tickets of a hand's fleet."""

    def __init__(self, hand: Hand) -> None:
        self.hand = hand
        self.tickets = Tickets(
            parse({"fleet": {"name": hand.config.name, "redis_url": hand.config.redis_url}})
        )

    async def put(self, *names: str, lane: str = "llm") -> None:
        """Tickets, as they go with a submission."""
        made = [self.tickets.command(Ticket(lane, name, "0")) for name in names]
        for command in made:
            await self.hand.redis(*command)

    async def pop(self, lane: str = "llm") -> None:
        """Somebody takes one, and has claimed nothing yet."""
        assert await self.hand.redis("RPOP", self.tickets.key(lane)) is not None

    async def said(self, lane: str = "llm") -> list[str]:
        """Of each ticket the step that it was published for, the next to be taken first."""
        found = await self.hand.redis("LRANGE", self.tickets.key(lane), 0, -1)
        return [json.loads(one)["headers"]["argsrepr"] for one in reversed(found)]

    def onward(self, *lanes: str, token: str = "next", again: bool = False, shy: str = "") -> Onward:
        """A slot that looks there."""
        return Onward(self.tickets.form("t0", "r0"), lanes or ("llm",), Asks("w1", token, again=again), shy)

    async def commit(self, claim: Claim, decision: Decision | None, *lanes: str, **more: Any) -> Advance:
        """An outcome, and the slot goes on."""
        return await self.hand.commit(claim, decision=decision, onward=self.onward(*lanes, **more))


@pytest.fixture
def queue(hand: Hand) -> Queue:
    return Queue(hand)


def named(done: Advance) -> str:
    """What the slot goes on with."""
    return "" if done.next is None else f"{done.next.job}/{done.next.step}"


async def begun(hand: Hand, queue: Queue, *jobs: str) -> Claim:
    """The first of these is claimed, by the ticket that went with it; the others wait."""
    for job in jobs:
        await hand.submit(starts(job, job))
        await queue.put(job)
    await queue.pop()
    return await hand.claim()


async def test_the_jobs_next_step_is_claimed_and_needs_no_ticket(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a")
    done = await queue.commit(claim, decides(1, 1, "more"))
    assert (done.status, named(done), done.lane, done.tickets) == ("advanced", "a/1", "llm", [])
    assert done.next is not None
    assert (done.next.token, done.next.worker, done.next.attempt) == ("next", "w1", 1)
    assert done.next.basis == done.basis
    assert await queue.said() == []
    await hand.look()
    assert (await hand.finish(done.next)).status == "advanced"


async def test_what_has_waited_longer_goes_first_and_each_ready_step_keeps_a_ticket(
    hand: Hand, queue: Queue
) -> None:
    claim = await begun(hand, queue, "a", "b", "c")
    order = []
    for number in range(1, 4):
        done = await queue.commit(claim, decides(1, 1, f"more {number}"), token=f"n{number}")
        order.append(named(done))
        assert len(await queue.said()) == len(await hand.names())
        assert done.next is not None
        claim = done.next
    assert order == ["b/0", "c/0", "a/1"]
    assert await hand.names() == ["b/1", "c/1"]


async def test_a_slot_that_ends_a_job_spends_the_ticket_of_what_it_goes_on_with(
    hand: Hand, queue: Queue
) -> None:
    claim = await begun(hand, queue, "a", "b", "c")
    done = await queue.commit(claim, decides(1, 1, ends=JobState.DONE))
    assert named(done) == "b/0"
    assert await queue.said() == ["['c', '0']"]


async def test_a_step_whose_ticket_somebody_has_taken_is_left_to_him(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    await queue.pop()  # another worker, that has a slot free and is about to claim
    done = await queue.commit(claim, decides(1, 1, ends=JobState.DONE))
    assert (named(done), done.lane) == ("", "")
    assert await hand.names() == ["b/0"]


async def test_with_a_ticket_of_his_own_left_for_him_the_one_that_waited_longer_is_taken(
    hand: Hand, queue: Queue
) -> None:
    claim = await begun(hand, queue, "a", "b")
    await queue.pop()
    done = await queue.commit(claim, decides(1, 1, "more"))
    assert named(done) == "b/0"
    assert await hand.names() == ["a/1"]
    assert await queue.said() == [], "his is the ticket that he has"


@pytest.mark.parametrize("turn_here", [True, False])
async def test_where_the_turn_is_still_to_be_run_nothing_is_claimed(
    hand: Hand, queue: Queue, turn_here: bool
) -> None:
    claim = await begun(hand, queue, "a", "b")
    done = await hand.commit(claim, turn_here=turn_here, onward=queue.onward())
    assert (done.status, named(done)) == ("turn", "")
    assert await queue.said() == ["['b', '0']"]
    assert len(await queue.said("turns")) == (not turn_here), "whoever has the program runs it"
    done = await hand.commit(claim, turn_here=turn_here, onward=queue.onward(again=True))
    assert (done.status, named(done)) == ("mine", ""), "nor where the answer to that was lost"


async def test_a_lost_answer_is_asked_for_again_and_is_the_same_claim(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    first = await queue.commit(claim, decides(1, 1, "more"), "turns", "llm")
    said = await queue.said()
    second = await queue.commit(claim, decides(1, 1, "more"), "turns", "llm", again=True)
    assert second.status == "mine"
    assert (second.next, second.lane) == (first.next, "llm")
    assert await queue.said() == said
    await hand.look()


async def test_where_the_lost_answer_was_that_there_is_none_there_is_none(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    await queue.pop()  # another worker, that is about to claim
    for again in (False, True):
        done = await queue.commit(claim, decides(1, 1, ends=JobState.DONE), again=again)
        assert named(done) == ""
    assert await hand.names() == ["b/0"]


async def test_when_redis_is_back_a_commit_costs_no_look_at_all_leases(hand: Hand, queue: Queue) -> None:
    """Hundreds ask again then, of a fleet that has thousands."""
    async with counted(hand.journal) as seen:
        for job, again in (("a", False), ("x", True)):
            claim = await begun(hand, queue, job)
            done = await queue.commit(claim, decides(1, 1, "more"), "empty", "llm", token=job, again=again)
            assert named(done) == f"{job}/1"
    first, second = [count for verb, count in seen if verb == "onward"]
    assert second == first


async def test_an_answer_that_never_came_to_redis_is_as_the_first_time(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    done = await queue.commit(claim, decides(1, 1, "more"), again=True)
    assert (done.status, named(done)) == ("advanced", "b/0")
    assert await queue.said() == ["['b', '0']"], "one, for a's next"
    assert await hand.names() == ["a/1"]


async def test_lanes_are_looked_at_in_the_order_in_which_they_are_named(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    await hand.submit(starts("x", "x", lane="other"))
    await queue.put("x", lane="other")
    done = await queue.commit(claim, decides(1, 1, "more"), "empty", "other", "llm")
    assert (named(done), done.lane) == ("x/0", "other")
    assert await queue.said("other") == []
    assert await queue.said() == ["['b', '0']", "['a', '1']"]
    assert done.next is not None
    done = await queue.commit(done.next, decides(1, 1, ends=JobState.DONE), "other", token="n2")
    assert named(done) == "", "it was told of no other"


@pytest.mark.parametrize(
    ("room", "kin", "goes_on"), [("w2", "kin", ""), ("w1", "kin", "b/0"), ("w2", "other", "b/0")]
)
async def test_a_saturated_worker_leaves_to_others_what_they_have_room_for(
    hand: Hand, queue: Queue, room: str, kin: str, goes_on: str
) -> None:
    claim = await begun(hand, queue, "a", "b")
    await hand.redis("SET", hand.keys.room("llm", kin), room, "PX", 60_000)
    done = await queue.commit(claim, decides(1, 1, "more"), shy="kin")
    assert named(done) == goes_on
    assert len(await queue.said()) == len(await hand.names()) == (1 if goes_on else 2)


async def test_one_that_is_not_saturated_goes_on(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    await hand.redis("SET", hand.keys.room("llm", "kin"), "w2", "PX", 60_000)
    assert named(await queue.commit(claim, decides(1, 1, "more"))) == "b/0"


async def test_a_list_of_tickets_that_is_none_loses_no_outcome(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a", "b")
    await hand.redis("SET", queue.tickets.key("llm"), "no list")
    done = await queue.commit(claim, decides(1, 1, "more", "and more"))
    assert (done.status, named(done)) == ("advanced", "b/0"), "what it has made ready has a ticket to come"
    assert await hand.redis("GET", queue.tickets.key("llm")) == b"no list"


async def test_a_slot_that_claims_nothing_sends_the_tickets_all_the_same(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a")
    done = await hand.commit(claim, decision=decides(1, 1, "one", "two"), onward=Onward(queue.tickets.form()))
    assert (done.status, done.next, done.tickets) == ("advanced", None, [])
    assert await queue.said() == ["['a', '1']", "['a', '2']"]


async def test_no_more_tickets_lie_there_than_steps_are_ready(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a")
    await queue.put("spare", "spare")
    done = await hand.commit(
        claim, decision=decides(1, 1, "1", "2", "3"), onward=Onward(queue.tickets.form())
    )
    assert done.status == "advanced"
    assert len(await queue.said()) == 3


async def test_what_a_limit_lets_in_with_the_commit_is_gone_on_with(hand: Hand, queue: Queue) -> None:
    await hand.limit(flight=1)
    claim = await begun(hand, queue, "a", "b")
    assert await hand.journal.claim("llm", "w2") is None, "b is held"
    await queue.pop()
    done = await queue.commit(claim, decides(1, 1, ends=JobState.DONE))
    assert named(done) == "b/0"
    await hand.look()


async def test_the_next_of_a_plan_is_gone_on_with(hand: Hand, queue: Queue) -> None:
    await hand.plan("p", ("fixed", "continue", "a", "b"))
    await queue.put("a")
    await queue.pop()
    done = await queue.commit(await hand.claim(), decides(1, 1, ends=JobState.DONE))
    assert named(done) == "b/0"
    await hand.look()


async def test_a_ticket_made_by_the_write_is_as_every_ticket(hand: Hand, queue: Queue) -> None:
    odd = "a \"quoted\" \\ 'job' <id> é"
    await hand.submit(starts(odd, "x"))
    claim = await hand.claim()
    await hand.commit(claim, decision=decides(1, 1, "more"), onward=Onward(queue.tickets.form("t0", "r0")))
    (found,) = await hand.redis("LRANGE", queue.tickets.key("llm"), 0, -1)
    _, _, made = queue.tickets.command(Ticket("llm", odd, "1"), "r0", "t0")
    ours, theirs = json.loads(found), json.loads(made)
    for one in (ours, theirs):
        assert one["headers"].pop("id") == one["properties"].pop("delivery_tag")
    assert ours == theirs
    checked("llm", found)


async def test_each_ticket_of_a_write_has_a_name_of_its_own(hand: Hand, queue: Queue) -> None:
    claim = await begun(hand, queue, "a")
    await hand.commit(claim, decision=decides(1, 1, "1", "2", "3"), onward=Onward(queue.tickets.form()))
    found = [json.loads(one) for one in await hand.redis("LRANGE", queue.tickets.key("llm"), 0, -1)]
    assert len({one["headers"]["id"] for one in found}) == 3
    assert all(one["headers"]["root_id"] == one["headers"]["id"] for one in found)


async def test_a_claim_that_breaks_leaves_the_outcome_and_its_error_says_so(hand: Hand, queue: Queue) -> None:
    """The caller sends the commit again, without a claim (``Writer.commit``)."""
    claim = await begun(hand, queue, "a", "b")
    await hand.redis("DEL", hand.keys.leases)
    await hand.redis("SET", hand.keys.leases, "no set")
    with pytest.raises((JournalError, FleetUnavailable)):
        await queue.commit(claim, decides(1, 1, "more"))
    await hand.redis("DEL", hand.keys.leases)
    done = await hand.commit(claim, decision=decides(1, 1, "more"), onward=Onward(queue.tickets.form()))
    assert done.status in ("mine", "advanced", "turn")
    await hand.journal.walk()
    await hand.reap()
    await hand.look()
