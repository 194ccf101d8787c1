"""A ticket on the wire: of what Celery's ``send_task`` puts there, all that Celery's worker reads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from celery import Celery
from celery.worker.request import Request

from aios_dist.broker.app import TASK, Tickets, make_app
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


def plain(sent: dict[str, Any]) -> dict[str, Any]:
    """With its body decoded, and without the names that each message has of its own."""
    sent = json.loads(json.dumps(sent))
    headers, properties = sent["headers"], sent["properties"]
    body = sent["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body).decode()
    args, kwargs, embedded = json.loads(body)
    sent["body"] = [args, kwargs, {name: what for name, what in embedded.items() if what is not None}]
    id = headers.pop("id")
    assert properties.pop("delivery_tag")
    if headers["root_id"] == id:
        headers["root_id"] = "its own"
    return sent


def assert_part_of(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Whatever we send is what they send, at all depths."""
    for name, what in ours.items():
        if isinstance(what, dict):
            assert_part_of(what, theirs[name])
        else:
            assert what == theirs[name], name


def test_all_that_is_in_a_ticket_is_as_send_task_gives_it(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    celerys = by_celery(app, redis_client, Tickets(config).key("llm"))
    assert_part_of(plain(by_us(config, redis_client)), plain(celerys))


def test_a_ticket_of_a_chain_is_as_send_task_gives_it_within_a_task(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    chain = {"root_id": "the-root", "parent_id": "the-parent"}
    celerys = by_celery(app, redis_client, Tickets(config).key("llm"), **chain)
    assert_part_of(plain(by_us(config, redis_client, "the-root", "the-parent")), plain(celerys))


READ = (
    *("name", "type", "args", "kwargs", "argsrepr", "parent_id", "ignore_result", "store_errors"),
    *("eta", "expires", "groups", "group", "group_index", "chord", "errbacks", "stamped_headers", "stamps"),
    *("replaced_task_nesting", "content_type", "utc"),
)
"""What Celery's worker reads of a message, as its request gives it."""

READ_IN_A_TASK = ("retries", "callbacks", "errbacks", "chain", "chord", "eta", "expires", "group", "shadow")
"""… and as the running task's context gives it."""


@pytest.mark.parametrize("chain", [{}, {"root_id": "the-root", "parent_id": "the-parent"}])
def test_a_worker_reads_a_ticket_as_it_reads_what_send_task_gives(
    config: Config, app: Celery, redis_client: redis.Redis, chain: dict[str, str]
) -> None:
    """What a ticket leaves out has the same value as Celery's own default."""

    def step() -> None:
        """Celery's requests belong to a task."""

    app.task(name=TASK, shared=False)(step)
    ticket = Ticket("llm", "lima-1", "3")
    redis_client.execute_command(*Tickets(config).command(ticket, *chain.values()))
    ours = request(app)
    app.send_task(TASK, queue="llm", argsrepr="['lima-1', '3']", kwargsrepr="{}", **chain)
    celerys = request(app)
    for name in READ:
        assert getattr(ours, name) == getattr(celerys, name), name
    for name in READ_IN_A_TASK:
        assert getattr(ours._context, name) == getattr(celerys._context, name), name
    for read in (ours, celerys):
        assert read.root_id == chain.get("root_id", read.id)
        assert tuple(read.time_limits) == (None, None)
        assert read.delivery_info["routing_key"] == "llm"
        assert not read.revoked()


def request(app: Celery) -> Request:
    """The message that waits on the lane, as a worker has it."""
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["llm"])
        message = queue.get(timeout=5)
        message.ack()
        queue.close()
    return Request(message, app=app, task=app.tasks[TASK])


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


def test_a_ticket_that_kombu_puts_back_is_taken_again(
    config: Config, app: Celery, redis_client: redis.Redis
) -> None:
    """As it does with what came in while a worker's consumer was closed."""
    tickets = Tickets(config)
    redis_client.execute_command(*tickets.command(Ticket("llm", "lima-1", "3")))
    seen = []
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(app.amqp.queues["llm"])
        for _ in range(3):
            message = queue.get(timeout=5)
            seen.append((message.headers["id"], message.headers["argsrepr"], message.payload))
            message.requeue()
        queue.close()
    assert redis_client.llen(tickets.key("llm")) == 1
    assert seen[0] == seen[1] == seen[2]


def test_ten_thousand_tickets_take_less_than_350_bytes_each(
    config: Config, redis_client: redis.Redis
) -> None:
    tickets = Tickets(config)
    with redis_client.pipeline(transaction=False) as pipe:
        for number in range(10_000):
            pipe.execute_command(*tickets.command(Ticket("llm", f"bench-{number:012}", "0")))
        pipe.execute()
    taken = cast("int", redis_client.memory_usage(tickets.key("llm"), samples=0))
    assert taken / 10_000 < 350
