"""The rights of our Redis account, tried out: a missing right ends a worker in the middle of its work.

``ACL DRYRUN`` would ask for a right that nobody should have. So every command that the journal, its Lua verbs
and kombu use is run once, on keys of our own that expire, and on channels that nobody listens to.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any

from kombu.exceptions import OperationalError
from redis.exceptions import NoPermissionError, RedisError

from aios_dist.broker.app import keyprefix, make_app
from aios_dist.cli.checks import Finding, ok, problem, warning
from aios_dist.config import Config
from aios_dist.config.redis_urls import address
from aios_dist.journal import Journal
from aios_dist.journal.calling import switched_off
from aios_dist.journal.connection import unavailable

Command = tuple[Any, ...]
TTL_MS = 60_000
TRACKING: list[Command] = [("CLIENT", "TRACKING", "ON"), ("CLIENT", "TRACKING", "OFF")]
"""What nobody of a fleet needs: it tells the names of all keys, whatever keys an account may touch."""


def journal_commands(key: str, channel: str) -> list[Command]:
    """What the journal and its Lua verbs use. ``key`` is the beginning of names that may be written."""
    s, h, z, r, x, m = (f"{key}:{kind}" for kind in "shzrxm")
    return [
        ("TIME",),
        ("SET", s, "1", "NX", "PX", TTL_MS),
        ("GET", s),
        ("EXISTS", s),
        ("TYPE", s),
        ("PERSIST", s),
        ("PEXPIRE", s, TTL_MS),
        ("PTTL", s),
        ("HSET", h, "f", "1"),
        ("HGET", h, "f"),
        ("HMGET", h, "f"),
        ("HGETALL", h),
        ("HINCRBY", h, "f", 1),
        ("HINCRBYFLOAT", h, "f", "0.5"),
        ("HEXISTS", h, "f"),
        ("HLEN", h),
        ("HKEYS", h),
        ("HDEL", h, "g"),
        ("PEXPIRE", h, TTL_MS),
        ("ZADD", z, 1, "m"),
        ("ZUNIONSTORE", z, 1, z),
        ("PEXPIRE", z, TTL_MS),
        ("ZCARD", z),
        ("ZSCORE", z, "m"),
        ("ZRANGE", z, 0, 0, "REV"),
        ("ZRANGEBYSCORE", z, 0, 0),
        ("ZRANGEBYLEX", z, "-", "+"),
        ("ZREM", z, "n"),
        ("ZREMRANGEBYSCORE", z, 5, 5),
        ("ZSCAN", z, 0),
        ("SADD", m, "1"),
        ("PEXPIRE", m, TTL_MS),
        ("SCARD", m),
        ("SREM", m, "2"),
        ("RPUSH", r, "1"),
        ("RPUSHX", r, "1"),
        ("LPUSH", r, "2"),
        ("LTRIM", r, 0, 0),
        ("PEXPIRE", r, TTL_MS),
        ("LLEN", r),
        ("LRANGE", r, 0, 0),
        ("XADD", x, "MAXLEN", "~", 10, "*", "f", "1"),
        ("PEXPIRE", x, TTL_MS),
        ("XREAD", "COUNT", 1, "STREAMS", x, "0-0"),
        ("XREVRANGE", x, "+", "-", "COUNT", 1),
        ("EVAL", "return redis.call('GET', KEYS[1])", 1, s),
        ("EVALSHA", "0" * 40, 0),
        ("UNLINK", s),
        ("PUBLISH", channel, ""),
        ("DEL", s, h, z, r, x, m),
    ]


def ticket_commands(key: str) -> list[Command]:
    """What whoever submits does to the lists of tickets. Nothing of it is done: it could not be undone."""
    return [("MULTI",), ("LPUSH", f"{key}.q", "1"), ("LLEN", f"{key}.q"), ("DISCARD",)]


def broker_commands(key: str) -> list[Command]:
    """What kombu uses for queues, remote control and events."""
    s, h, z, q, m = (f"{key}.{kind}" for kind in "shzqm")
    return [
        ("LPUSH", q, "1", "2", "3"),
        ("PEXPIRE", q, TTL_MS),
        ("LLEN", q),
        ("RPOP", q),
        ("BRPOP", q, 1),
        ("RPUSH", q, "1"),
        ("SADD", m, "1"),
        ("PEXPIRE", m, TTL_MS),
        ("SMEMBERS", m),
        ("SREM", m, "2"),
        ("ZADD", z, 1, "m"),
        ("PEXPIRE", z, TTL_MS),
        ("ZREVRANGEBYSCORE", z, 0, 0),
        ("ZREM", z, "n"),
        ("HSET", h, "f", "1"),
        ("PEXPIRE", h, TTL_MS),
        ("HGET", h, "f"),
        ("HDEL", h, "g"),
        ("SET", s, "1", "NX", "EX", 60),
        ("WATCH", s),
        ("UNWATCH",),
        ("MULTI",),
        ("EXEC",),
        ("DEL", s, h, z, q, m),
    ]


CALLS: list[Command] = [("FCALL", "aios_none", 0)]
"""Verbs as functions; nothing of this name is there."""

LOADS: list[Command] = [("FUNCTION", "LOAD", ""), ("FUNCTION", "DELETE", "aios_none")]
"""Whoever has none loads them, and the reconciler drops those of releases that are gone: workers."""


def subscriptions(prefix: str) -> list[Command]:
    """The channels that the journal listens to."""
    return [("SUBSCRIBE", f"{prefix}control"), ("SUBSCRIBE", f"{prefix}ev:doctor")]


def worker_subscriptions(fanout: str) -> list[Command]:
    """The channels that only workers listen to: remote control, and each other."""
    return [("PSUBSCRIBE", f"{fanout}celery.pidbox"), ("PSUBSCRIBE", f"{fanout}celeryev/worker.*")]


def fanout_of(fleet: str, redis_url: str) -> str:
    """What kombu's channels of a fleet begin with: its prefix, and the number of the database."""
    return f"{keyprefix(fleet)}/{address(redis_url).db}."


async def rights(settings: Config, journal: Journal) -> AsyncIterator[Finding]:
    """Each command once.

    Raises:
        FleetUnavailable: Redis cannot be reached.
    """
    config = journal.config
    fanout = fanout_of(config.name, config.redis_url)
    scratch = f"doctor:{secrets.token_hex(4)}"
    prefix = journal.keys.prefix
    try:
        refused = await _refused(
            journal,
            [
                *journal_commands(f"{prefix}{scratch}", f"{prefix}ev:{scratch}"),
                *ticket_commands(f"{keyprefix(config.name)}{scratch}"),
            ],
        )
        refused += await _refused_to_listen(journal, subscriptions(prefix))
        workers_only = await _refused_to_listen(journal, worker_subscriptions(fanout))
        if not workers_only:  # else it is a producer's, and touches nothing of Celery's but tickets
            refused += await _refused(journal, broker_commands(f"{keyprefix(config.name)}{scratch}"))
            refused += await asyncio.to_thread(_refused_to_publish, settings)
        sees_keys = not await _refused(journal, TRACKING)
        scripts = await _refused(journal, [*CALLS, *([] if workers_only else LOADS)])
    except RedisError as exc:
        raise unavailable(exc, config.redis_url, journal.connection.timeout) from exc
    user = address(config.redis_url).username or "default"
    if sees_keys and user != "default":
        yield warning(
            "key names",
            f"The account {user!r} may ask for the names of all keys that anybody writes on this Redis, "
            "other applications' too (CLIENT TRACKING).",
            f"ACL SETUSER {user} -client|tracking",
        )
    yield await _functions(journal, user, scripts, bool(workers_only))
    if not refused:
        may = (
            "do all that a fleet does"
            if not workers_only
            else "submit; workers need one that hears Celery too"
        )
        yield ok("rights", f"The account {user!r} may {may}.")
        return
    refused += workers_only
    yield problem(
        "rights",
        f"Redis refuses the account {user!r}: {'; '.join(refused[:4])}"
        + (" …" if len(refused) > 4 else "")
        + ".",
        f"ACL SETUSER {user} with the commands of deploy/redis/users.acl.example, "
        f"keys ~{prefix}* ~{keyprefix(config.name)}*, "
        f"channels &{prefix}* &{fanout}celery.pidbox &{fanout}celeryev/* &{fanout}celeryev/worker.*",
    )


async def _functions(journal: Journal, user: str, refused: Sequence[str], producer: bool) -> Finding:
    """How the verbs run here, and what keeps them from running as functions."""
    await journal.events("doctor")  # whatever it finds
    way, slow = journal.connection.way, "which takes Redis up to 1.6 times as long"
    if refused:
        needs = "+fcall" if producer else "+fcall +function|load +function|delete"
        return warning(
            "functions",
            f"Redis refuses the account {user!r}: {'; '.join(refused)}. The verbs run as scripts, {slow}.",
            f"ACL SETUSER {user} {needs}",
        )
    if not way.functions:
        why = way.why.rstrip(".") or "nobody has loaded the functions"
        return warning(
            "functions",
            f"The verbs run as scripts here, {slow}: {why}.",
            "A worker of this release loads them, with the rights of deploy/redis/users.acl.example, where "
            "Redis has FUNCTION and FCALL.",
        )
    if await journal.other_library():
        return problem(
            "functions",
            f"What Redis calls {journal.library} is not this release's code: somebody has put other there.",
            f"FUNCTION DELETE {journal.library}; the next verb loads it. Then see which accounts may load "
            "functions: docs/deploy.md, ACL.",
        )
    return ok("functions", f"The verbs run as functions ({journal.library}).")


async def _refused(journal: Journal, commands: Sequence[Command]) -> list[str]:
    """On one connection, one after the other: MULTI and WATCH are a connection's own."""
    said = []
    async with journal.connection.client.client() as client:
        for command in commands:
            try:
                await client.execute_command(*command)
            except NoPermissionError as exc:
                said.append(_words(command, exc))
            except RedisError as exc:
                if switched_off(exc):
                    said.append(f"this Redis has no {command[0]} (rename-command?)")
                    continue
                # These may, or must, be refused for another reason here: no such script, transaction, key.
                if command[0] not in ("EVALSHA", "EXEC", "FCALL", "FUNCTION"):
                    raise exc
    return said


async def _refused_to_listen(journal: Journal, commands: Sequence[Command]) -> list[str]:
    said = []
    for command in commands:
        channel = journal.connection.client.pubsub()
        try:
            await (channel.psubscribe if command[0] == "PSUBSCRIBE" else channel.subscribe)(command[1])
            await channel.get_message(timeout=5)
        except NoPermissionError as exc:
            said.append(_words(command, exc))
        finally:
            await channel.aclose()
    return said


def _refused_to_publish(settings: Config) -> list[str]:
    """By kombu itself: a message of our own make would confuse those who listen."""
    app, said = make_app(settings), []

    def send_event() -> None:
        with app.events.default_dispatcher() as dispatcher:
            dispatcher.send("doctor-looks")

    for what, send in (("remote control", lambda: app.control.ping(timeout=0.1)), ("events", send_event)):
        try:
            send()
        except (NoPermissionError, OperationalError) as exc:
            said.append(f"PUBLISH of Celery's {what} ({exc})")
    app.close()
    return said


def _words(command: Command, exc: Exception) -> str:
    """Redis says in its own words only whether it is the command, or this key or channel."""
    return f"{' '.join(map(str, command[:2]))} ({str(exc).rstrip('.')})"
