"""Whatever comes off a lane becomes a ticket of ours, or nothing."""

from __future__ import annotations

import json
import logging
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.broker import channels, messages
from aios_dist.broker.app import Tickets, make_app
from aios_dist.broker.messages import Tally, is_news, ticket
from aios_dist.config import Config, parse
from aios_dist.journal.records import Ticket
from tests.fleet.hostile import GOOD, ODD_BUT_GOOD, bomb, but, malformed

BAD = malformed()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def read(lane: str, said: bytes) -> dict[str, Any]:
    """The ticket, without the number that tells it from others."""
    found: dict[str, Any] = json.loads(ticket(lane, said))
    assert found["properties"].pop("delivery_tag").isdigit()
    return found


def test_a_ticket_of_ours_stays_what_it_is() -> None:
    _, _, sent = Tickets(Config()).command(Ticket("llm", "lima-1", "3"), "the-root", "the-parent")
    plain = json.loads(sent)
    del plain["properties"]["delivery_tag"]
    assert read("llm", sent) == plain


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_valid_ticket_is_none(name: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        ticket("llm", BAD[name])
    assert len(str(refused.value)) <= 200
    assert "touch" not in str(refused.value)
    assert "zzz" not in str(refused.value)


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_what_nobody_reads_changes_nothing(name: str) -> None:
    assert read("llm", ODD_BUT_GOOD[name]) == read("llm", json.dumps(GOOD).encode())


def test_a_ticket_is_for_the_lane_that_it_was_found_on() -> None:
    assert read("gpu", json.dumps(GOOD).encode())["properties"]["delivery_info"]["routing_key"] == "gpu"


@pytest.mark.parametrize("name", ["a bomb", "a long body", "an id of a megabyte"])
def test_a_ticket_that_would_become_large_takes_no_memory(name: str) -> None:
    said = {**BAD, "a bomb": bomb(50_000_000)}[name]
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"."):
        ticket("llm", said)
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


@given(st.binary(max_size=200))
def test_no_bytes_break_anything(said: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        ticket("llm", said)


@given(st.sampled_from(["task", "id", "root_id", "parent_id", "argsrepr", "eta", "retries", "other"]), JSON)
def test_a_header_of_any_kind_comes_through_checked_or_not_at_all(name: str, value: Any) -> None:
    try:
        found = read("llm", but(**{f"headers__{name}": value}))
    except ValueError:
        return
    assert found["headers"].keys() <= {"task", "id", "root_id", "parent_id", "argsrepr"}
    assert all(isinstance(what, str) for what in found["headers"].values())
    assert found["headers"]["task"] == "aios.step"
    assert found["body"] == "[[],{},{}]"


def test_what_is_sent_to_all_has_a_form_of_its_own() -> None:
    before = messages.dropped.count
    assert is_news(json.dumps({**GOOD, "headers": {"clock": 5}}).encode())
    for said in (b"x", b"[]", b"{}", bomb(1000), but(properties=...), but(properties__delivery_tag=...)):
        assert not is_news(said)
    assert messages.dropped.count == before + 6


@pytest.mark.parametrize(
    "url",
    ["redis://h:1/2", "rediss://h:1/2", "unix:///tmp/redis.sock", "sentinel://a:1,b:2/3?master=m"],
)
def test_every_way_to_redis_is_guarded_also_after_it_has_gone_to_another(url: str) -> None:
    app = make_app(parse({"fleet": {"name": "f", "redis_url": url}}))
    ways = (app.connection_for_read(), app.connection_for_write(), app.connection().clone())
    for connection in (*ways, app.pool.acquire(block=True)):
        assert issubclass(connection.get_transport_cls().Channel, channels._Guard)
        if ";" not in app.conf.broker_url:
            continue
        connection.switch(app.conf.broker_url.split(";")[1])
        assert issubclass(connection.get_transport_cls().Channel, channels._Guard)


def test_what_happens_again_and_again_is_said_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(messages.time, "monotonic", lambda: now)
    tally = Tally(logging.getLogger("aios_dist.x").warning, "%s, %d times")
    for _ in range(50):
        tally.add("odd")
    now += 61.0
    tally.add("odder")
    assert [record.getMessage() for record in caplog.records] == ["odd, 1 times", "odder, 50 times"]
    assert tally.count == 51
