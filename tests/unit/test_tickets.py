"""Tickets as text: what is in them, and that nothing odd breaks out of its place."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aios_dist.broker.app import TASK, Tickets, broker_url, depth_commands, keyprefix, make_app
from aios_dist.config import Config, PoolConfig, parse
from aios_dist.journal.records import Ticket

CONFIG = parse({"fleet": {"name": "f"}})
TICKETS = Tickets(CONFIG)
ID = re.compile(r"[0-9a-f]{16}")


def message(ticket: Ticket, root: str | None = None, parent: str | None = None) -> dict[str, Any]:
    _, _, text = TICKETS.command(ticket, root, parent)
    sent: dict[str, Any] = json.loads(text)
    return sent


def test_a_ticket_is_one_push_onto_the_list_of_its_lane() -> None:
    verb, key, text = TICKETS.command(Ticket("llm", "job-0123456789ab", "0"))
    assert (verb, key) == ("LPUSH", "f.llm")
    assert isinstance(text, bytes)
    assert len(text) <= 320, "a million of them may wait"
    assert TICKETS.key("gpu") == "f.gpu" == keyprefix("f") + "gpu"


def test_a_ticket_is_celerys_message_with_no_arguments_that_matter() -> None:
    sent = message(Ticket("llm", "j", "0"))
    assert sent["headers"]["task"] == TASK
    assert sent["content-type"] == "application/json"
    assert sent["properties"]["delivery_info"] == {"exchange": "", "routing_key": "llm"}
    assert json.loads(sent["body"]) == [[], {}, {}]


def test_a_ticket_names_its_step_as_a_hint_for_people_only() -> None:
    sent = message(Ticket("llm", "lima-1", "7"))
    assert sent["headers"]["argsrepr"] == "['lima-1', '7']"
    assert "lima" not in sent["body"]


def test_the_first_ticket_is_its_own_root_and_the_next_are_its_children() -> None:
    first = message(Ticket("llm", "j", "0"))["headers"]
    assert first["root_id"] == first["id"]
    assert "parent_id" not in first
    next_one = message(Ticket("llm", "j", "1"), root=first["id"], parent=first["id"])["headers"]
    assert (next_one["root_id"], next_one["parent_id"]) == (first["id"], first["id"])
    assert next_one["id"] != first["id"]


def test_commands_pass_parent_and_root_on_in_the_order_of_the_steps() -> None:
    sent = TICKETS.commands([Ticket("llm", "j", "1"), Ticket("turns", "j", "2")], "the-parent", "the-root")
    assert [command[1] for command in sent] == ["f.llm", "f.turns"]
    for command in sent:
        headers = json.loads(command[2])["headers"]
        assert (headers["parent_id"], headers["root_id"]) == ("the-parent", "the-root")


def test_no_two_tickets_share_an_id_or_a_delivery_tag() -> None:
    sent = [message(Ticket("llm", "j", "0")) for _ in range(500)]
    ids = {m["headers"]["id"] for m in sent}
    tags = {m["properties"]["delivery_tag"] for m in sent}
    assert len(ids) == len(tags) == 500
    assert all(ID.fullmatch(id) for id in ids)


ODD = [
    "'",
    '"',
    "\\",
    '","id":"x',
    "\n\r\t\x00",
    "ünï ✓ 😀",
    "%s {0} {id} $1",
    "\u2028",
    "a" * 2000,
]


@pytest.mark.parametrize("odd", ODD)
def test_odd_characters_stay_where_they_are_put(odd: str) -> None:
    plain = message(Ticket("llm", "j", "0"), "r", "p")
    sent = message(Ticket(odd, odd, odd), root=odd, parent=odd)
    assert sent["headers"]["argsrepr"] == f"['{odd}', '{odd}']"
    assert sent["properties"]["delivery_info"]["routing_key"] == odd
    assert (sent["headers"]["root_id"], sent["headers"]["parent_id"]) == (odd, odd)
    assert sent.keys() == plain.keys()
    assert sent["headers"].keys() == plain["headers"].keys()
    assert ID.fullmatch(sent["headers"]["id"])


@given(st.text(), st.text(), st.text())
def test_a_ticket_is_json_whatever_it_names(lane: str, job: str, step: str) -> None:
    sent = message(Ticket(lane, job, step))
    assert sent["headers"]["argsrepr"] == f"['{job}', '{step}']"


def test_the_depth_of_a_lane_is_the_length_of_its_list() -> None:
    assert depth_commands(CONFIG, ["llm", "gpu"]) == [("LLEN", "f.llm"), ("LLEN", "f.gpu")]


# The app ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "kombus"),
    [
        ("redis://:p@h:1/2", "redis://:p@h:1/2"),
        (
            "sentinel://:p@a:1,b:2/3?master=m",
            "sentinel://:p@a:1/3;sentinel://:p@b:2/3",
        ),
        ("sentinel://a/0?master=m", "sentinel://a:26379/0"),
    ],
)
def test_the_address_of_the_broker_is_that_of_the_fleet(ours: str, kombus: str) -> None:
    assert broker_url(ours) == kombus


def test_the_app_keeps_its_promises() -> None:
    app = make_app(parse({"fleet": {"name": "f"}, "models": {"a": {"lane": "gpu"}}}))
    conf, options = app.conf, app.conf.broker_transport_options
    assert (options["global_keyprefix"], options["priority_steps"]) == ("f.", [0])
    assert options["max_connections"] > 100
    assert 0 < options["socket_timeout"] < 120
    assert conf.accept_content == ["json"]
    assert (conf.task_ignore_result, conf.task_acks_late) == (True, False)
    assert (conf.worker_prefetch_multiplier, conf.worker_disable_prefetch) == (1, True)
    assert (conf.task_send_sent_event, conf.worker_send_task_events) == (False, True)
    assert sorted(queue.name for queue in conf.task_queues) == ["gpu", "llm", "turns"]


def test_a_workers_app_has_the_pool_its_slots_and_its_lanes_only() -> None:
    app = make_app(Config(), PoolConfig(lanes=["gpu"], slots=7), name="pool")
    assert app.conf.worker_concurrency == 7
    assert app.conf.worker_pool == "aios_dist.worker.pool:AsyncioPool"
    assert [queue.name for queue in app.conf.task_queues] == ["gpu"]


def test_an_app_that_only_talks_does_not_become_the_current_one() -> None:
    from celery import current_app

    app = make_app(Config(), name="talks")
    assert current_app.main != app.main
