"""With one tenant a user: what is kept of each goes, and no verb looks at all of them."""

from __future__ import annotations

from typing import Any

from aios_dist.journal import Said, TenantRules
from aios_dist.policies import Rank
from tests.driver.patched import Change, verbs
from tests.redis.conftest import Hand, ranked, starts
from tests.redis.test_work_of_a_slice import MOST, counted


async def long_ago(hand: Hand) -> None:
    """Whoever was dispatched on a shared lane was so longer ago than the retention."""
    used = f"{hand.keys.prefix}used"
    for name in await hand.redis("ZRANGE", used, 0, -1):
        await hand.redis("ZADD", used, 1, name)


async def shares(hand: Hand) -> set[str]:
    return set(await hand.hash(hand.keys.share("llm"))) - {"!", "!m"}


async def test_a_tenant_whose_steps_never_ran_is_forgotten_too(hand: Hand) -> None:
    """It was lifted as it came, and that stands in the lane's shares."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.submit(*(ranked(f"busy{n}", Rank(), tenant="busy", tokens=10) for n in range(3)))
    for _ in range(2):
        await hand.claim()
    await hand.submit(ranked("j", Rank(), tenant="gone", tokens=10))
    await hand.journal.cancel("j")
    assert await shares(hand) == {"busy", "gone"}
    await long_ago(hand)
    await hand.journal.walk("/")
    assert await shares(hand) == {"busy"}


async def test_tenants_are_forgotten_page_by_page_at_each_look_at_the_journal(hand: Hand) -> None:
    """Not a page for each round over all open jobs: more of them may come than that."""
    await hand.journal.set_lane("llm", fair="tenant")
    for n in range(6):
        await hand.submit(ranked(f"j{n}", Rank(), tenant=f"t{n}"))
        await hand.finish(await hand.claim())
    await hand.submit(*(ranked(f"open{n}", Rank(), tenant="t0") for n in range(9)))
    await long_ago(hand)
    cursor = "0"
    for _ in range(3):
        cursor = (await hand.journal.walk(cursor, 2)).cursor
    assert cursor not in ("0", "/"), "it has not come round yet"
    assert await shares(hand) == {"t0"}


async def test_a_tenant_that_waits_at_its_cap_is_not_forgotten(hand: Hand) -> None:
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.journal.set_tenant("t", max_in_flight=1)
    await hand.submit(*(ranked(f"j{n}", Rank(), tenant="t", tokens=10) for n in range(2)))
    assert len(await hand.drain()) == 1
    await long_ago(hand)
    await hand.journal.walk("/")
    assert await shares(hand) == {"t"}


async def test_a_place_of_a_job_that_has_expired_becomes_free_however_many_limits_there_are(
    hand: Hand,
) -> None:
    """Those that the lease's end does not come to are come to by the walk."""
    hand.journal._scripts = verbs(
        [Change("few", "_limits", "local MOST_ASKED = 100", "local MOST_ASKED = 1")]
    )
    for model in ("a", "b", "small"):
        await hand.limit(model, flight=1)
    await hand.submit(starts("j", "x"), starts("k", "x"))
    (claim,) = await hand.drain()
    await hand.expire(claim)
    await hand.journal.walk("/")
    assert [c.job for c in await hand.drain()] == ["k"]


async def test_rules_of_many_tenants_are_said_in_parts_and_known_with_the_last(hand: Hand) -> None:
    """Each with another weight, on a lane where they wait and are held."""
    await hand.journal.set_lane("llm", fair="tenant")
    await hand.limit(flight=1)
    await hand.submit(*(ranked(f"j{n:03}", Rank(), "fifo", tenant=f"t{n}") for n in range(130)))
    said = Said(tenants={f"t{n}": TenantRules(weight=2.0, max_in_flight=3) for n in range(130)})
    known = []
    run = hand.journal.connection.eval

    async def looked(*args: Any, **more: Any) -> Any:
        known.append(await hand.journal.knows(said))
        return await run(*args, **more)

    async with counted(hand.journal) as seen:
        run, hand.journal.connection.eval = hand.journal.connection.eval, looked  # type: ignore[method-assign]
        await hand.journal.say(said, "file")
    assert known == [False] * 4
    assert await hand.journal.knows(said)
    assert max(commands for _, commands in seen) < MOST, seen
    views = await hand.journal.tenant_views([f"t{n}" for n in range(130)], ["llm"])
    assert {(view.weight, view.max_in_flight) for view in views} == {(2.0, 3)}
