"""What aios.toml says is said whole or is said again: an error behind whatever write of it leaves no half.

A half that counts for all is what nobody notices: a limit that is never set again, a budget that is none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist.config import parse
from aios_dist.errors import JournalError
from aios_dist.journal import Journal, Limits
from aios_dist.worker.rules import Rules
from tests.driver.checks import wrong
from tests.driver.fleet import Fleet
from tests.driver.seen import Seen
from tests.driver.sending import reconcile, says, walk
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets

SMALL = {"base_url": "http://127.0.0.1:9/v1", "max_in_flight": 1, "requests_per_minute": 5}
SAYS = {
    "models": {"small": {**SMALL, "tokens_per_minute": 100}, "big": {**SMALL, "lane": "far"}},
    "lanes": {"llm": {"policy": "las", "fair": "tenant"}, "far": {"policy": "round-robin"}},
    "tenants": {
        "acme": {"tokens_per_day": 1000, "money_per_day": 2.5, "weight": 2.0, "max_in_flight": 3},
        "default": {"weight": 0.5},
    },
}
LATER = {
    "models": {"small": {**SMALL, "max_in_flight": 2}, "big": {**SMALL, "lane": "far"}},
    "lanes": {"llm": {"policy": "fifo"}, "far": {"policy": "round-robin", "fair": "tenant"}},
    "tenants": {"acme": {"tokens_per_day": 0, "money_per_day": 7}, "default": {}},
}


@pytest.fixture
def fleet(redis_server: EmbeddedRedis, fleets: Fleets) -> Iterator[Fleet]:
    """A fleet in which steps wait, on their lanes and held by a limit that a hand has set."""
    made = Fleet(redis_server.url, name := fleets.new_name())
    made.run(_waiting(made.journal))
    assert {*made.look().sets["held"]} == {"small"}
    yield made
    made.close()
    fleets.names.discard(name)


async def _waiting(journal: Journal) -> None:
    await journal.set_limits("small", Limits(1))
    await journal.submit(
        [starts("j", "a", "b", "c", tenant="acme"), starts("k", "d"), starts("q", "e", lane="far")]
    )
    for _ in range(2):
        await journal.claim("llm", "w")


@pytest.mark.parametrize("before", [None, SAYS], ids=["nothing-said-before", "other-said-before"])
def test_behind_whatever_write_aios_toml_is_half_said_the_next_pass_says_all(
    fleet: Fleet, before: dict[str, Any] | None
) -> None:
    if before:
        fleet.run(_rules(fleet, before).write())
        fleet.run(_rules(fleet, before).keep())
    now = LATER if before else SAYS
    rules = _rules(fleet, now)
    fleet.save()
    fleet.run(rules.write())
    whole = said_in(fleet.look())
    assert fleet.run(fleet.journal.knows(rules.said()))
    for behind in itertools.count(1):
        fleet.restore()
        fleet.fail_behind(behind)
        try:
            fleet.run(rules.write())
            broke = False
        except JournalError:
            broke = True
        fleet.fail_behind(0)
        known, half = fleet.run(fleet.journal.knows(rules.said())), said_in(fleet.look())
        assert not known or half == whole, f"behind write {behind}, half of it is taken for all: {half}"
        fleet.run(rules.keep())
        assert said_in(fleet.look()) == whole, f"said again, behind write {behind}"
        fleet.run(walk(fleet.journal))
        assert wrong(fleet.look()) == [], f"behind write {behind}"
        if not broke:
            break
    assert behind > 15


def test_a_hand_that_breaks_behind_whatever_write_is_told_so_and_what_it_says_again_counts_whole(
    fleet: Fleet,
) -> None:
    fleet.run(_rules(fleet, SAYS).write())
    verbs = {
        "tenant": lambda: fleet.journal.set_tenant("acme", tokens_per_day=5, weight=1.0, max_in_flight=1),
        "model": lambda: fleet.journal.set_limits("small", Limits(3, 0, 50)),
        "lane": lambda: fleet.journal.set_lane("llm", policy="deadline", oldest_every=2, fair=""),
    }
    fleet.save()
    for name, verb in verbs.items():
        fleet.restore()
        fleet.run(verb())
        whole, broke, behind = said_in(fleet.look()), True, 0
        while broke:
            behind += 1
            fleet.restore()
            fleet.fail_behind(behind)
            try:
                fleet.run(verb())
                broke = False
            except JournalError:
                fleet.fail_behind(0)
                fleet.run(verb())
            fleet.fail_behind(0)
            assert said_in(fleet.look()) == whole, f"{name}, behind write {behind}"
            fleet.run(_rules(fleet, SAYS).keep())
            assert said_in(fleet.look()) == whole, (
                "what a hand has set stays, where the file says nothing new"
            )
            fleet.run(walk(fleet.journal))
            assert wrong(fleet.look()) == [], f"{name}, behind write {behind}"
        assert behind > 2, name


@pytest.mark.parametrize("before", ["tenant", ""])
def test_a_lane_that_is_set_and_breaks_is_in_order_by_the_reconciler_alone(fleet: Fleet, before: str) -> None:
    """Nobody says it again: by age, by tenant and by rank the same steps wait all the same."""

    async def wait() -> None:
        await fleet.journal.set_lane("llm", policy="fifo", oldest_every=2, fair=before)
        for n, tenant in enumerate(("acme", "acme", "beta", "default")):
            await fleet.journal.submit([starts(f"m{n}", "x", tenant=tenant, model="other", policy="fifo")])

    async def reconciles() -> None:
        for _ in range(2):
            await reconcile(fleet.journal)
            policy = (await fleet.journal.lane_rules(["llm"]))["llm"].policy
            await fleet.journal.rank_strays("llm", says(policy))

    fleet.run(wait())
    fleet.run(reconciles())
    assert wrong(fleet.look()) == []
    fleet.save()
    for behind in itertools.count(1):
        fleet.restore()
        fleet.fail_behind(behind)
        try:
            fleet.run(fleet.journal.set_lane("llm", policy="las"))
            broke = False
        except JournalError:
            broke = True
        fleet.fail_behind(0)
        claimed = [fleet.run(fleet.journal.claim("llm", "w")) for _ in range(2)]
        fleet.run(reconciles())
        assert wrong(fleet.look()) == [], f"behind write {behind}"
        claimed += [fleet.run(fleet.journal.claim("llm", "w")) for _ in range(7)]
        assert {c.job for c in claimed if c} >= {"m0", "m1", "m2", "m3"}
        if not broke:
            break
    assert behind > 4


def _rules(fleet: Fleet, says: dict[str, Any]) -> Rules:
    """A worker's, whose aios.toml says this; it runs no turns here."""
    return Rules(parse(says), fleet.journal, ["llm", "far"], [*says["models"]])


def said_in(seen: Seen) -> dict[str, Any]:
    """All that is said of models, tenants and lanes in Redis, as verbs read it."""
    of_models = {
        name: {field: value for field, value in fields.items() if field[:2] == "l_" or field == "file"}
        for name, fields in seen.hashes["model"].items()
    }
    of_lanes = {
        name: {field: value for field, value in fields.items() if field[:2] != "n|" and field != "at"}
        for name, fields in seen.hashes["lane"].items()
    }
    known = sorted(name for name in seen.hashes["registry"].get("", {}) if name.startswith("tenant/"))
    looked_after = sorted(seen.one["limited"])
    return {
        "models": of_models, "tenants": dict(seen.hashes["tenant"]), "lanes": of_lanes, "known": known,
        "limited": looked_after,
    }  # fmt: skip
