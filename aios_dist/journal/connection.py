"""One Redis connection shared by thousands of waiting calls.

Commands that are asked for while a round trip is under way go out together in the next one. A worker with
a thousand calls in flight so needs one connection, not a thousand, and one system call for many verbs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Iterator
from typing import Any, TypeAlias

import redis.asyncio as aioredis
from redis.asyncio.connection import DefaultParser
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from aios_dist.config.redis_urls import address
from aios_dist.errors import AiosError, ConfigError, FleetUnavailable, JournalError, RedisUnfit
from aios_dist.journal import calling
from aios_dist.journal.calling import Way
from aios_dist.journal.keys import libraries
from aios_dist.journal.scripts import Library, Script
from aios_dist.text.masking import hide, learn_url, masked
from aios_dist.threads import forks

SOCKET_TIMEOUT_S = 10.0
BATCH = 256
"""Commands in one round trip at the most, so that one flood does not hold up the renewals behind it."""
BATCH_BYTES = 1_000_000
"""… and their bytes, but for one command that alone has more."""
SLOWEST = 100_000
"""Bytes a second that a line carries at the least: what is large gets so much more time."""
CLOSING_S = 1.0
"""How long closing waits for the answers to what is under way."""


class _Patient(DefaultParser):  # type: ignore[misc, valid-type]
    """A large answer over a slow line: the time-out counts from the bytes that came last."""

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)
        self._line = connection

    async def read_from_socket(self) -> Any:
        got = await super().read_from_socket()
        waited = getattr(self._line, "_active_read_timeout", None)
        if waited is not None and not waited.expired():
            waited.reschedule(asyncio.get_running_loop().time() + self._line.socket_timeout)
        return got


def open_client(url: str, **options: Any) -> aioredis.Redis:
    """A client for ``redis://``, ``rediss://``, ``unix://`` or
    ``sentinel://host:port[,host:port…]/db?master=NAME[&sentinel_password=…]`` (the account of the servers as
    in redis:// URLs): :mod:`aios_dist.config.redis_urls`.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    learn_url(url)
    settings: dict[str, Any] = {
        "socket_timeout": SOCKET_TIMEOUT_S,
        "socket_connect_timeout": 5.0,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        "health_check_interval": 30,
        # Its own retries would repeat a verb unseen (a second claim), and hide an outage for long.
        "retry": Retry(NoBackoff(), 0),
        "parser_class": _Patient,
        **options,
    }
    where = address(url)
    try:
        if where.scheme != "sentinel":
            plain = f"unix://{where.socket_url}?db={where.db}" if where.scheme == "unix" else where.urls[0]
            client: aioredis.Redis = aioredis.from_url(plain, **settings, **(where.tls or {}))
            _clients.all.add(client)
            return client
        watching = {k: settings[k] for k in ("socket_timeout", "socket_connect_timeout")}
        account = {k: v for k, v in where.sentinel.items() if k != "master"}
        sentinel = Sentinel(where.hosts, sentinel_kwargs={**watching, **account})
        _clients.all.update(sentinel.sentinels)
        settings |= {
            "db": where.db,
            "username": where.username or None,
            "password": where.password or None,
        }
        client = sentinel.master_for(where.sentinel["master"], **settings)
        _clients.all.add(client)
        return client
    except (ValueError, RedisError) as exc:
        raise ConfigError(f"The Redis URL {masked(url)!r} cannot be used: {hide(str(exc))}.") from None


class _Clients:
    """Every client of this process; ``aios_dist.threads.forks`` takes their lines from a child."""

    def __init__(self) -> None:
        self.all: weakref.WeakSet[aioredis.Redis] = weakref.WeakSet()
        forks.note(self)

    def put_aside(self) -> None:
        """A child's copy of a line leads nowhere: whatever closes, reads or finalizes it there, be it a loop
        that it inherited, takes nothing of the parent's, nor takes the parent's off the set they share."""
        try:
            nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        except OSError:  # too many open files: its own objects, at least, let go of the lines
            nowhere = None
        for client in list(self.all):
            pool = client.connection_pool
            for line in (*pool._available_connections, *pool._in_use_connections):
                if line._writer is None:
                    continue
                forks.keep((line._reader, line._writer))
                sock = line._writer.get_extra_info("socket")
                if nowhere is not None and sock is not None and sock.fileno() >= 0:
                    os.dup2(nowhere, sock.fileno(), inheritable=False)
                line._reader = line._writer = None
        if nowhere is not None:
            os.close(nowhere)


_clients = _Clients()

AWAY = ("LOADING", "MASTERDOWN", "CLUSTERDOWN")
REFUSES = ("MISCONF", "NOREPLICAS", "BUSY", "UNBLOCKED", "TRYAGAIN")
"""Answers of a Redis that is there and cannot write (disk full, replicas gone), or is failing over."""
FORBIDS = ("NOPERM", "NOAUTH", "WRONGPASS", "The user executing the script", "ACL failure in script")
"""Rights that the account lacks; the last two are how Redis and Valkey say it of a command inside a verb."""


_Sent: TypeAlias = tuple[tuple[Any, ...], int, asyncio.Future[Any]]
"""A command, its bytes, and who waits for its answer."""


class Connection:
    """Batches verbs and commands of one event loop over one Redis connection."""

    def __init__(self, url: str, timeout: float | None = None) -> None:
        self.url = url
        self.timeout = timeout or SOCKET_TIMEOUT_S
        self.client = open_client(url, socket_timeout=self.timeout)
        self.way = Way()
        self._loading: asyncio.Task[bool] | None = None
        self._queue: list[_Sent] = []
        self._flusher: asyncio.Task[None] | None = None
        self._encode = self.client.get_encoder().encode
        self._patience = self.timeout
        self._closing = False
        self.met = False
        """Redis has answered once: it is there, and where it is away it comes back."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """Where it was used last."""
        return None if self._flusher is None else self._flusher.get_loop()

    async def eval(
        self, script: Script, prefix: str, argument: bytes, *then: tuple[Any, ...], again: bool = False
    ) -> Any:
        """Run a verb; ``then`` are commands sent right behind it, whatever it answers.

        Args:
            script, prefix, argument: the verb.
            then: the commands.
            again: the verb may be said twice: a connection that turns out to be dead is made anew at once.

        Raises:
            FleetUnavailable: Redis cannot be reached, or refuses.
        """
        try:
            return await self._said(script, (1, prefix, argument), then, again)
        except RedisError as exc:
            raise self._broke(script, exc) from None

    async def _said(
        self, script: Script, rest: tuple[Any, ...], then: tuple[tuple[Any, ...], ...], again: bool
    ) -> Any:
        # A Redis that was restarted or flushed knows no verb. What is in `then` has run too early: a ticket
        # without its step is spent for nothing, so it is sent once more, behind the verb.
        # Once, as the first: what is sent again by itself would be a second claim, a second signal.
        if self.way.functions:
            call = ("FCALL", script.function, *rest)
            try:
                return await self._asked(call, then, again)
            except ResponseError as exc:
                if not calling.not_found(exc) and not self.way.refused(exc):
                    raise
            if self.way.functions and await self._loaded(script.library, rest[1]):
                try:
                    return await self._told(call, *then)
                except ResponseError as exc:
                    if not calling.not_found(exc):
                        raise
                    self.way.missing()  # it was flushed meanwhile
        try:
            return await self._asked(("EVALSHA", script.sha, *rest), then, again)
        except NoScriptError:
            return await self._told(("EVAL", script.source, *rest), *then)

    async def _asked(self, verb: tuple[Any, ...], then: tuple[tuple[Any, ...], ...], again: bool) -> Any:
        try:
            return await self._told(verb, *then)
        except RedisConnectionError as exc:
            if not again or not passes(exc):
                raise
            return await self._told(verb, *then)

    async def _loaded(self, library: Library, prefix: str) -> bool:
        """Whether the library is there now. Those who ask at once load it once."""
        if not self.way.loads:
            self.way.missing()
            return False
        if self._loading is None or self._loading.done():  # (its first waiter may be gone)
            self._loading = asyncio.get_running_loop().create_task(self._load(library, prefix))
        return await asyncio.shield(self._loading)

    async def _load(self, library: Library, prefix: str) -> bool:
        try:
            await self._send("FUNCTION", "LOAD", library.text)
        except ResponseError as exc:
            if not calling.there_already(exc):
                self.way.not_loaded(exc)
                return False
            try:
                await self._check(library)
            except ResponseError as why:
                self.way.not_loaded(why)
                return False
        self.way.loaded()
        with contextlib.suppress(RedisError):  # (full, perhaps; who runs for long says so again)
            now, _ = await self._send("TIME")
            until = int((int(now) + calling.ANNOUNCED_S) * 1e6)
            await self._send("ZADD", libraries(prefix), "GT", until, library.name)
        return True

    async def _check(self, library: Library) -> None:
        """What stands there under the library's name is the library, as far as the account may ask.

        Raises:
            ResponseError: it is something else, or only its name is taken.
        """
        try:
            there = await self._send("FUNCTION", "LIST", "LIBRARYNAME", library.name, "WITHCODE")
        except NoPermissionError:
            return
        if not calling.is_ours(there, library.text):
            raise ResponseError(f"what Redis calls {library.name} is not the library of that name")

    async def _told(self, verb: tuple[Any, ...], *then: tuple[Any, ...]) -> Any:
        """What the verb answered: it is done, whatever becomes of what was sent behind it (tickets, which the
        reconciler publishes where they are missing)."""
        answer, *_ = await asyncio.gather(
            self._send(*verb), *(self._send(*command) for command in then), return_exceptions=True
        )
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _broke(self, script: Script, exc: RedisError) -> Exception:
        error = unavailable(exc, self.url, self.timeout)
        if isinstance(error, FleetUnavailable) or not isinstance(exc, ResponseError):
            return error
        if calling.switched_off(exc):
            return RedisUnfit.with_fix(
                f"Redis at {masked(self.url)} has a command switched off ({error})",
                "take its rename-command away",
            )
        if "no-writes" in script.flags:
            return JournalError(f"The question {script.name!r} to the journal broke ({error}).")
        return JournalError(
            f"The write {script.name!r} to the journal stopped in its middle ({error}); what it left is put "
            "right, at once or by the reconciler: look at it and ask again."
        )

    async def command(self, *args: Any) -> Any:
        """Run one Redis command; the answer is as Redis gives it (bytes, ints, lists).

        Raises:
            FleetUnavailable: Redis cannot be reached, or refuses.
        """
        try:
            try:
                return await self._send(*args)
            except RedisConnectionError:
                # After a restart of Redis, or a long rest, the first command finds a dead connection. What
                # goes this way may be repeated; a verb is left to its caller, who knows what to ask again.
                return await self._send(*args)
        except RedisError as exc:
            raise unavailable(exc, self.url, self.timeout) from None

    async def info(self) -> dict[str, str] | None:
        """What ``INFO`` says, by name; None to an account that may not ask.

        Raises:
            FleetUnavailable: Redis cannot be reached, or refuses; RedisUnfit: it is a Redis Cluster.
        """
        try:
            told: bytes = await self._send("INFO")
        except NoPermissionError:
            return None
        except RedisError as exc:
            raise unavailable(exc, self.url) from None
        facts = dict(line.split(":", 1) for line in told.decode().splitlines() if ":" in line)
        if facts.get("cluster_enabled") == "1":
            raise cluster(self.url)
        return facts

    def _send(self, *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Made bytes here, where what cannot be sent hits its own caller and not the whole batch.
        encoded = tuple(map(self._encode, args))
        self._queue.append((encoded, sum(map(len, encoded)), future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        return future

    async def _flush(self) -> None:
        while self._queue:
            batch, size = self._next_batch()
            try:
                if self._closing:
                    raise asyncio.CancelledError
                await self._give_time(size)
                if len(batch) == 1:
                    answers = [await self._one(batch[0][0])]
                else:
                    pipe = self.client.pipeline(transaction=False)
                    for args, *_ in batch:
                        pipe.execute_command(*args)
                    answers = await pipe.execute(raise_on_error=False)
                self.met = True
            except Exception as exc:
                answers = [self._of_the_line(exc)] * len(batch)
            except BaseException as exc:
                if self._closing:
                    answers = [_Silent(CLOSING_S)] * len(batch)
                elif isinstance(exc, asyncio.CancelledError) and _nobodys():
                    answers = [_ended()] * len(batch)
                else:
                    for *_, future in batch:
                        future.cancel()
                    raise
            for (*_, future), answer in zip(batch, answers, strict=True):
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _next_batch(self) -> tuple[list[_Sent], int]:
        """What goes to Redis next, and its bytes."""
        size = count = 0
        for _, more, _ in self._queue[:BATCH]:
            if count and size + more > BATCH_BYTES:
                break
            count, size = count + 1, size + more
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch, size

    async def _give_time(self, size: int) -> None:
        """The connection's time-out by what is to be sent; the batches come one after another."""
        large = size > SLOWEST
        patience = self.timeout + (size / SLOWEST if large else 0.0)
        if large or patience != self._patience:
            pool = self.client.connection_pool
            line = await pool.get_connection()
            line.socket_timeout = self._patience = patience
            await pool.release(line)

    def _of_the_line(self, exc: Exception) -> Exception:
        """What broke a round trip, as an error of Redis' where it is one of the line."""
        if isinstance(exc, RedisTimeoutError):
            return _Silent(self._patience)
        if isinstance(exc, RedisError) or not isinstance(exc, OF_THE_LINE):
            return exc  # a mistake of ours as it is
        return RedisConnectionError(str(exc))

    async def _one(self, args: tuple[Any, ...]) -> Any:
        try:
            return await self.client.execute_command(*args)
        except ResponseError as exc:
            return exc

    async def close(self) -> None:
        """Send what is queued, then close the socket. A Redis that does not answer is waited for for
        ``CLOSING_S``; then those who wait for its answers are told."""
        if self._flusher is not None and not self._flusher.done():
            await asyncio.wait([self._flusher], timeout=CLOSING_S)
            self._closing = True
            while not self._flusher.done():
                self._flusher.cancel()
                await asyncio.wait([self._flusher], timeout=0.1)  # redis-py, as it connects, may lose one
            self._closing = False
        await self.client.aclose()


OF_THE_LINE = (OSError, EOFError, RuntimeError)
"""What a line that breaks raises beside errors of Redis'; the last is uvloop's, of a dead transport."""


def _nobodys() -> bool:
    """Nobody asked for this cancellation: the transport of another loop than asyncio's has ended so."""
    task = asyncio.current_task()
    return task is not None and not task.cancelling()


def _ended() -> RedisConnectionError:
    return RedisConnectionError("the connection has ended")


@contextlib.contextmanager
def line_errors() -> Iterator[None]:
    """Around what goes over a line of redis-py's own: what breaks it is an error of Redis' on every loop."""
    try:
        yield
    except (RedisError, AiosError):
        raise
    except OF_THE_LINE as exc:
        raise RedisConnectionError(str(exc)) from exc
    except asyncio.CancelledError:
        if not _nobodys():
            raise
        raise _ended() from None


class Full(FleetUnavailable):
    """Redis holds as much as it may: what would begin something is refused, what ends something is not."""


class _Silent(RedisTimeoutError):
    """No answer within so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


def passes(exc: RedisError) -> bool:
    """It is worth while to wait: Redis is away, silent or failing over, but it has not turned us down."""
    if isinstance(exc, (AuthenticationError, AuthorizationError)):  # connection errors to redis-py
        return False
    away = isinstance(exc, (RedisConnectionError, RedisTimeoutError))
    return away or str(exc).startswith((*AWAY, *REFUSES))


KILLED = "Script killed by user"
"""By SCRIPT KILL or FUNCTION KILL, which Redis does only to one that has written nothing."""

CLUSTER = ("MOVED ", "ASK ", "CROSSSLOT", "SELECT is not allowed in cluster mode")
CUT = ("reset by peer", "closed by server")
"""What a port that wants TLS does to a line without."""


def cluster(url: str) -> RedisUnfit:
    """A Redis Cluster is none that a fleet can live on."""
    return RedisUnfit.with_fix(
        f"Redis at {masked(url)} is a Redis Cluster, and Celery has no transport for it",
        "use one Redis, or Sentinel",
    )


def unavailable(exc: RedisError, url: str, timeout: float | None = None) -> Exception:
    """One sentence for what Redis, or its absence, said; a mistake of ours comes back as it is."""
    where = masked(url)
    # A Redis that does not know a command repeats it: with HELLO, the password.
    text = hide(str(exc)).partition(", with args beginning with")[0].rstrip(".")
    if isinstance(exc, (ClusterError, AskError)) or text.startswith(CLUSTER):
        return cluster(url)
    if text.startswith("DB index is out of range"):
        return RedisUnfit.with_fix(f"Redis at {where} has no such database", "take a lower number in the URL")
    if isinstance(exc, RedisTimeoutError):
        waited = exc.seconds if isinstance(exc, _Silent) else timeout or SOCKET_TIMEOUT_S
        silent = f"Redis at {where} does not answer within {waited:g} s"
        if url.startswith("rediss:"):
            return FleetUnavailable.with_fix(silent, "a port that speaks no TLS takes redis://")
        return FleetUnavailable(f"{silent}.")
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return FleetUnavailable.with_fix(
            f"Redis at {where} shows a certificate that is refused ({text})",
            "the URL names its authority (ssl_ca_certs) and the host that it is for: docs/deploy.md, TLS",
        )
    if url.startswith("redis:") and any(words in text for words in CUT):
        return FleetUnavailable.with_fix(
            f"Redis at {where} cannot be reached ({text})",
            "start it or set AIOS_REDIS_URL (a port that wants TLS takes rediss://)",
        )
    if isinstance(exc, ReadOnlyError) or text.startswith("READONLY"):
        return FleetUnavailable.with_fix(
            f"Redis at {where} is a replica (READONLY)", "point AIOS_REDIS_URL at the primary"
        )
    if isinstance(exc, (AuthenticationError, AuthorizationError)):
        return RedisUnfit.with_fix(f"Redis at {where} refuses the account ({text})", "check AIOS_REDIS_URL")
    if isinstance(exc, RedisConnectionError) or text.startswith(AWAY):
        return FleetUnavailable.with_fix(
            f"Redis at {where} cannot be reached ({text})", "start it or set AIOS_REDIS_URL"
        )
    if isinstance(exc, NoPermissionError) or text.startswith(FORBIDS):
        return FleetUnavailable.with_fix(
            f"Redis at {where} does not allow it ({text})", "see docs/deploy.md, ACL"
        )
    if KILLED in text:
        return FleetUnavailable.with_fix(
            f"Redis at {where} was told to stop a script that had written nothing ({KILLED})", "ask again"
        )
    if isinstance(exc, OutOfMemoryError) or text.startswith("OOM"):
        return Full.with_fix(f"Redis at {where} is full (maxmemory): nothing is lost", "give it more memory")
    if text.startswith(REFUSES):
        return FleetUnavailable.with_fix(f"Redis at {where} does not serve now ({text})", "its log says more")
    if text != str(exc).rstrip("."):
        return type(exc)(text)
    return exc
