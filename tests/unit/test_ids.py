"""Ids that we make, and the place in them that is kept free for a shard."""

from __future__ import annotations

import msgspec
import pytest

from aios_dist.broker.messages import ticket
from aios_dist.broker.tickets import message
from aios_dist.config import parse
from aios_dist.config.bounds import NAME
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.journal.keys import Keys
from aios_dist.model import ids
from aios_dist.model.given import named

LONG = "a" * 128


@pytest.mark.parametrize(
    "made",
    [ids.of_job(LONG), ids.of_plan(), ids.of_member("p", 999_999), ids.of_fork(LONG)],
    ids=["job", "plan", "member", "fork"],
)
def test_what_we_make_can_be_given_again_and_names_no_shard(made: str) -> None:
    assert NAME.fullmatch(made)
    assert ids.OF_A_SHARD.match(made) is None


@pytest.mark.parametrize("given", ["s3~trip-0b1c", "s0~x", "a~b", "~"])
def test_an_id_that_is_given_looks_like_none_of_a_shard_nor_does_a_fleets_name(given: str) -> None:
    with pytest.raises(InvalidInput, match="must be letters, digits"):
        named("Job id", given)
    with pytest.raises(ConfigError, match="must be letters, digits"):
        parse({"fleet": {"name": given}})


def test_what_belongs_to_a_plan_or_a_job_is_made_on_its_shard() -> None:
    plan, job = "s17~plan-0b1c", f"s17~{LONG[:100]}-0b1c"
    made = [ids.of_job(LONG, beside=plan), ids.of_member(plan, 3), ids.of_fork(job)]
    assert all(id.startswith("s17~") and len(id) <= 128 for id in made)
    assert not ids.of_job("a", beside="plan-s17").startswith("s")


@pytest.mark.parametrize("no", ["s~x", "s01~x", "s3~", "3~x", "xs3~x", "s12345~x"])
def test_nothing_else_names_a_shard(no: str) -> None:
    assert ids.OF_A_SHARD.match(no) is None


def test_a_ticket_that_names_a_shard_is_valid_for_this_release() -> None:
    said = message("llm", "0b1c", {"argsrepr": "['s3~j', '0']", "shard": "3"}, tag="t")
    assert b"s3~j" in ticket("llm", msgspec.json.encode(said))


def test_the_keys_of_a_shard_are_no_other_fleets() -> None:
    """Two shards of a fleet may have one server: no fleet is named as the second."""
    assert Keys("bench~3").job("s3~x") == "aios:{bench~3}:2:job:s3~x"
