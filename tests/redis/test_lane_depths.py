"""What Flower's broker page counts, with the rights that its account has in ``users.acl.example``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.exceptions import NoPermissionError

from aios_dist.broker.app import Tickets
from aios_dist.cli.flower_app import LaneDepths
from aios_dist.config import Config, FleetConfig
from aios_dist.journal import Ticket
from tests.redis.conftest import Hand, starts

ACCOUNTS = Path(__file__).parents[2] / "deploy/redis/users.acl.example"


@pytest.fixture
def seen_by_flower(config: FleetConfig, redis_client: Any) -> Iterator[Config]:
    """This fleet, for the account ``aios-flower`` of the example file."""
    line = next(text for text in ACCOUNTS.read_text("utf-8").splitlines() if "user aios-flower " in text)
    name = f"flower-{config.name}"
    rules = line.replace("aios:{aios}:", f"aios:{{{config.name}}}:").replace("~aios.*", f"~{config.name}.*")
    parts = rules.split("(")
    selectors = [f"({part.strip()}" for part in parts[1:]]
    redis_client.execute_command("ACL", "SETUSER", name, "reset", *parts[0].split()[2:], *selectors)
    url = config.redis_url.replace("//", f"//{name}:REPLACE-flower@")
    try:
        yield Config(fleet=msgspec.structs.replace(config, redis_url=url))
    finally:
        redis_client.execute_command("ACL", "DELUSER", name)


async def depths(config: Config) -> dict[str, int]:
    counter = LaneDepths(config)
    rows = await counter.queues(["llm", "turns"])
    await counter.journal.close()
    return {row["name"]: row["messages"] for row in rows}


async def test_flowers_account_counts_the_steps_of_all_tenants_and_those_that_wait_for_a_rank(
    hand: Hand, seen_by_flower: Config
) -> None:
    await hand.submit(*(starts(f"before{n}", "x", policy="fifo") for n in range(2)))
    await hand.journal.set_lane("llm", policy="las", fair="tenant")  # those two are strays now
    for tenant in ("acme", "beta"):
        await hand.submit(starts(tenant, "x", "y", policy="las", tenant=tenant))
    assert await depths(seen_by_flower) == {"llm": 6, "turns": 0}


async def test_flowers_account_sees_no_job(hand: Hand, seen_by_flower: Config) -> None:
    await hand.submit(starts("j", "the prompt"))
    counter = LaneDepths(seen_by_flower)
    client = counter.journal.connection.client
    for command in (
        ("HGETALL", hand.keys.job("j")),
        ("ZRANGE", hand.keys.ready("llm"), 0, -1),
        ("ZPOPMIN", hand.keys.ready("llm")),
        ("EVAL", "return redis.call('HGET', KEYS[1], 'rec')", 1, hand.keys.job("j")),
    ):
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command)
    await counter.journal.close()


async def test_an_account_without_these_rights_gets_the_number_of_tickets(
    hand: Hand, config: FleetConfig, seen_by_flower: Config, redis_client: Any
) -> None:
    user = f"flower-{config.name}"
    redis_client.execute_command("ACL", "SETUSER", user, "clearselectors")
    for command in Tickets(Config(fleet=config)).commands([Ticket("llm", "j", "0")] * 3):
        await hand.redis(*command)
    assert await depths(seen_by_flower) == {"llm": 3, "turns": 0}
