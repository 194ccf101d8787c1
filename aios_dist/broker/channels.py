"""Kombu's channels, with a guard before them: nothing comes in unchecked (:mod:`.messages`)."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from queue import Empty
from typing import Any

import msgspec
from celery.app.amqp import AMQP
from kombu import Connection
from kombu.connection import ConnectionPool, PooledConnection
from kombu.transport import redis as of_kombu

from aios_dist.broker.addresses import Tcp, Tls
from aios_dist.broker.messages import dropped, is_news, ticket, why

logger = logging.getLogger("aios_dist.broker")

LONGEST_PAUSE_S = 2
"""Between two tries to reach a Redis that is away."""

REMIND_S = 30.0
"""So often is said that it is still away."""


def _seldom(say: Callable[..., Any]) -> Callable[..., Any]:
    """What is told of each try, told at the first and then now and then."""
    said = float("-inf")

    def told(*args: Any, **kwargs: Any) -> None:
        nonlocal said
        if time.monotonic() - said >= REMIND_S:
            said = time.monotonic()
            say(*args, **kwargs)

    return told


def _is_lane(queue: str) -> bool:
    return not queue.endswith(".pidbox")  # the answers to `inspect` and `control` come by such a list


class _Client(of_kombu.PrefixedStrictRedis):  # type: ignore[misc]
    """The connection that takes tickets off their lists: what it hands on is checked."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        """Redis' answer; to BRPOP as if nothing had come, where what came is dropped."""
        answer = super().parse_response(connection, command_name, **options)
        if command_name != "BRPOP" or not answer:
            return answer
        key, said = answer
        return (key, kept) if (kept := _checked(key.decode(), said)) is not None else None


def _checked(queue: str, said: bytes) -> bytes | None:
    if not _is_lane(queue):
        return said if is_news(said) else None
    try:
        return ticket(queue, said)
    except ValueError as exc:
        dropped.add(exc)
        return None


class _Guard:
    """Put before a channel of kombu's."""

    connection_errors: tuple[type[BaseException], ...]
    ResponseError: type[Exception]
    sweeps = True
    """What other processes have left in kombu's book of queues is looked for: an option of the transport."""

    def _get_client(self) -> Any:
        super()._get_client()  # type: ignore[misc]  # looks at redis-py's version
        return functools.partial(_Client, global_keyprefix=self.global_keyprefix)  # type: ignore[attr-defined]

    def _refresh_binding(self, keys: list[str], args: list[Any], client: Any) -> None:
        """A queue is in use: its place in kombu's book stays for as long again.

        In the place of a script: an account that may run scripts can stop Redis with one. First the time, so
        that none who sweeps comes between; by Redis' clock, as all have one.
        """
        (table, deadlines), (member, exchange, ttl_ms) = keys, args
        with self.conn_or_acquire() as asked:  # type: ignore[attr-defined]  # `client` may be a pipeline
            seconds, micros = asked.time()
        deadlines = deadlines.removeprefix(self.global_keyprefix)  # type: ignore[attr-defined]
        client.zadd(deadlines, {exchange: seconds * 1000 + micros // 1000 + ttl_ms}, gt=True)
        client.sadd(table, member)

    def maybe_refresh_binding_expiry(self) -> None:
        """Kombu's own, which tells of a refusal with a traceback: a Redis that is full refuses it, and the
        worker says that in a sentence. The next time will do."""
        try:
            super().maybe_refresh_binding_expiry()  # type: ignore[misc]
        except self.ResponseError as exc:
            logger.debug("The queues' places in kombu's book are kept at the next time: %s", exc)

    def sweep_bindings(self, limit: int = 100) -> int:
        """Kombu's own, by a script: of workers only."""
        return int(super().sweep_bindings(limit)) if self.sweeps else 0  # type: ignore[misc]

    def _get(self, queue: str) -> Any:
        """One message without waiting."""
        try:
            found = super()._get(queue)  # type: ignore[misc]
            kept = _checked(queue, msgspec.json.encode(found))
        except (ValueError, TypeError, RecursionError) as exc:
            dropped.add(why(exc))
            raise Empty from None
        if kept is None:
            raise Empty
        return msgspec.json.decode(kept)

    def _handle_message(self, client: Any, answer: Any) -> dict[str, Any]:
        found: dict[str, Any] = super()._handle_message(client, answer)  # type: ignore[misc]
        kind, data = found["type"], found["data"]
        if kind in (b"message", b"pmessage") and not (isinstance(data, bytes) and is_news(data)):
            found["data"] = None  # kombu passes it over
        return found

    def _receive_one(self, client: Any) -> Any:
        """What was sent to all. A valid form may still hold what the one who reads it breaks on."""
        try:
            return super()._receive_one(client)  # type: ignore[misc]
        except Empty:
            raise
        except self.connection_errors:
            raise
        except Exception as exc:
            dropped.add(f"{type(exc).__name__} in a message of Celery's remote control or events")
            raise Empty from None


class _Message(of_kombu.Channel.Message):  # type: ignore[misc]
    def serializable(self) -> dict[str, Any]:
        """As it is put back on its list: text, where kombu would write bytes in a form of its own."""
        found: dict[str, Any] = super().serializable()
        if isinstance(found["body"], bytes):
            found["body"] = found["body"].decode()
        return found


class _Channel(_Guard, of_kombu.Channel):  # type: ignore[misc]
    Message = _Message
    from_transport_options = (*of_kombu.Channel.from_transport_options, "sweeps")
    connection_class = Tcp
    connection_class_ssl = Tls


class _SentinelChannel(_Guard, of_kombu.SentinelChannel):  # type: ignore[misc]
    Message = _Message
    from_transport_options = (*of_kombu.SentinelChannel.from_transport_options, "sweeps")


class _Transport(of_kombu.Transport):  # type: ignore[misc]
    Channel = _Channel


class _SentinelTransport(of_kombu.SentinelTransport):  # type: ignore[misc]
    Channel = _SentinelChannel


_GUARDED = {of_kombu.Transport: _Transport, of_kombu.SentinelTransport: _SentinelTransport}


class _Line(Connection):  # type: ignore[misc]
    """A connection whose channels are guarded, whatever its URL, also after a change of servers."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """As kombu's, whose pauses would grow to half a minute: Redis is back, and slots would stay idle."""
        given = dict(zip(("errback", "max_retries"), args, strict=False), **kwargs)
        errback = given.get("errback")
        if errback is not None:
            given["errback"] = _seldom(errback)
        return super().ensure_connection(**{"interval_max": LONGEST_PAUSE_S, **given})

    def get_transport_cls(self) -> Any:
        found = super().get_transport_cls()
        return _GUARDED.get(found, found)

    def Pool(self, limit: int | None = None, **kwargs: Any) -> Any:  # kombu's name
        """Kombu's own would hand out connections of its own."""
        return _Pool(self, limit, **kwargs)


class _Pooled(PooledConnection, _Line):  # type: ignore[misc]
    """What a pool hands out."""


class _Pool(ConnectionPool):  # type: ignore[misc]
    def new(self) -> Any:
        return _Pooled(self, **dict(self.connection._info(resolve=False)))


class Guarded(AMQP):  # type: ignore[misc]
    """What a Celery app takes its connections from: ``Celery(amqp=Guarded)``."""

    Connection = _Line
    BrokerConnection = _Line
