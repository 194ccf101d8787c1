"""The driver is no toy: bugs that are planted in the Lua, each a line or two, are found by its short form.

``make test`` plants a few, others whenever the Lua changes; ``python -m tests.driver --planted`` plants all.
"""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest
import redis

from aios_dist.journal import scripts
from tests.driver.known import WIDE
from tests.driver.patched import Change, Outdated, changed, verbs
from tests.driver.planted import BUGS, FOUND_BY, WHEN_BROKEN, WHEN_PARKED, WHEN_WIDE, find

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.conftest import Fleets

PLANTED_NOW = 4


def now() -> list[Change]:
    """Those that are planted in this run: chosen by the Lua's own digest."""
    every = "".join(script.source for script in scripts.load().values())
    known = [bug for bug in (*BUGS, *WHEN_BROKEN, *WHEN_WIDE, *WHEN_PARKED) if bug.name in FOUND_BY]
    return random.Random(hashlib.sha1(every.encode()).digest()).sample(known, PLANTED_NOW)


@pytest.mark.slow
@pytest.mark.parametrize("bug", now(), ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_is_found(redis_server: EmbeddedRedis, fleets: Fleets, bug: Change) -> None:
    name = fleets.new_name()
    assert find(redis_server.url, name, bug) is not None, f"not found: {bug.name}"


@pytest.mark.parametrize(
    "change",
    [*BUGS, *WHEN_BROKEN, *WHEN_WIDE, *WHEN_PARKED, *WIDE],
    ids=lambda change: change.name.replace(" ", "-"),
)
def test_what_a_planted_bug_replaces_is_still_there(change: Change) -> None:
    texts = changed([*(mend for mend in WIDE if mend is not change), change])
    assert change.file in texts


def test_each_verb_and_the_library_leave_room_for_more(redis_server: EmbeddedRedis) -> None:
    """A chunk of Lua has 200 locals at the most: what is at the end of them breaks with the next."""
    made = verbs()
    with redis.Redis.from_url(redis_server.url) as client:
        for script in made.values():
            first, rest = script.source.split("\n", 1)
            client.script_load(f"{first}\nlocal a, b, c\n{rest}")
        library = made["onward"].library
        first, rest = library.text.split("\n", 1)
        client.function_load(f"{first}\nlocal a, b, c\n{rest}", replace=True)  # others may have loaded it
        client.function_delete(library.name)


def test_a_change_whose_text_is_gone_says_so() -> None:
    with pytest.raises(Outdated, match=r"nothing like it: claim\.lua has 0 × 'no such text'"):
        changed([Change("nothing like it", "claim", "no such text", "")])
