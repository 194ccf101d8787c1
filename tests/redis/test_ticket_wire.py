"""A ticket on the wire is what Celery's ``apply_async`` and kombu's Redis transport would have put there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery

from aios_dist.broker import TASK, Tickets, make_app
from aios_dist.config import Config, parse
from aios_dist.journal.records import Ticket

if TYPE_CHECKING:
    import redis


@pytest.fixture
def config(redis_url: str, fleet_name: str) -> Config:
    return parse({"fleet": {"name": fleet_name, "redis_url": redis_url}})


@pytest.fixture
def app(config: Config) -> Iterator[Celery]:
    app = make_app(config, name="wire-test")
    yield app
    app.close()


def only_message(client: redis.Redis, key: str) -> dict[str, Any]:
    (text,) = cast("list[bytes]", client.lrange(key, 0, -1))
    found: dict[str, Any] = json.loads(text)
    return found


def by_celery(app: Celery, client: redis.Redis, key: str, **options: Any) -> dict[str, Any]:
    app.send_task(
        TASK, queue="llm", argsrepr="['lima-1', '3']", kwargsrepr="{}", ignore_result=True, **options
    )
    sent = only_message(client, key)
    client.delete(key)
    return sent


def by_us(
    config: Config, client: redis.Redis, root: str | None = None, parent: str | None = None
) -> dict[str, Any]:
    tickets = Tickets(config)
    command = tickets.command(Ticket("llm", "lima-1", "3"), root, parent)
    client.execute_command(*command)
    sent = only_message(client, tickets.key("llm"))
    client.delete(tickets.key("llm"))
    return sent


def modulo_names(sent: dict[str, Any]) -> dict[str, Any]:
    """Without what differs from message to message, and what names the sender."""
    sent = json.loads(json.dumps(sent))
    id = sent["headers"].pop("id")
    assert sent["properties"].pop("correlation_id") == id
    assert sent["properties"].pop("delivery_tag")
    sent["properties"].pop("reply_to")
    sent["headers"].pop("origin")
    for option in (
        "argsrepr",
        "kwargsrepr",
    ):  # Celery copies the options of the call there too; nobody reads them
        sent["properties"].pop(option, None)
    if sent["headers"]["root_id"] == id:
        sent["headers"]["root_id"] = "its own"
    return sent


def test_a_ticket_is_the_message_that_apply_async_sends(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    celerys = by_celery(app, redis_client, Tickets(config).key("llm"))
    ours = by_us(config, redis_client)
    assert modulo_names(ours) == modulo_names(celerys)
    assert list(ours) == list(celerys), "also in the order of its parts: the same bytes"
    assert list(ours["headers"]) == list(celerys["headers"])


def test_a_ticket_of_a_chain_is_the_message_that_apply_async_sends_within_a_task(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    chain = {"root_id": "the-root", "parent_id": "the-parent"}
    celerys = by_celery(app, redis_client, Tickets(config).key("llm"), **chain)
    assert modulo_names(by_us(config, redis_client, "the-root", "the-parent")) == modulo_names(celerys)


def test_kombu_takes_a_ticket_from_the_lane_as_its_own(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    tickets = Tickets(config)
    for step in ("0", "1"):
        redis_client.execute_command(*tickets.command(Ticket("llm", "lima-1", step)))
    hints = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["llm"])
        for _ in range(2):
            message = queue.get(timeout=5)
            hints.append(message.headers["argsrepr"])
            assert message.payload[:2] == [[], {}]
            message.ack()
        queue.close()
    assert hints == ["['lima-1', '0']", "['lima-1', '1']"], "first in, first out"
