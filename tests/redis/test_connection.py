"""One connection for all verbs: batches, neighbours, and what callers see when Redis is away."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from aios_dist import AsyncFleet, prompts
from aios_dist.config import Config, FleetConfig, PoolConfig
from aios_dist.errors import (
    AiosError,
    ConfigError,
    FleetUnavailable,
    JournalError,
    RedisUnfit,
    ResultTimeout,
)
from aios_dist.journal import Journal, scripts
from aios_dist.journal import connection as module
from aios_dist.journal.calling import Way
from aios_dist.journal.connection import BATCH, Connection, line_errors, open_client, unavailable
from aios_dist.journal.hearing import Hearing
from aios_dist.model.jobs import JobState
from aios_dist.worker.worker import Runtime
from tests.redis.conftest import Hand, Told, again, decides, starts

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis


class Wire:
    """A TCP line to Redis that a test may cut.

    Attributes:
        lose_answers: requests get through, and then the line breaks instead of bringing the answer.
        silent: requests get through, and no answer ever comes.
        refuse: whoever calls is hung up on.
        hang_up_at: words of requests at which the line breaks, and how often that is so.
        requests: pieces that went to Redis; one a round trip, for requests of some kilobytes.
    """

    def __init__(self, port: int) -> None:
        self.lose_answers = self.silent = self.refuse = False
        self.hang_up_at = (b"", 0)
        self.requests: list[bytes] = []
        self._port = port
        self._lines: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def stop(self) -> None:
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """All lines break."""
        for line in self._lines:
            line.transport.abort()
        self._lines.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        from_redis, to_redis = await asyncio.open_connection("127.0.0.1", self._port)
        self._lines |= {writer, to_redis}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._forward(reader, to_redis), self._back(from_redis, writer))

    async def _forward(self, reader: asyncio.StreamReader, to_redis: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 20):
            self.requests.append(data)
            words, often = self.hang_up_at
            if often and words in data:
                self.hang_up_at = (words, often - 1)
                break
            to_redis.write(data)
        to_redis.close()

    async def _back(self, from_redis: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await from_redis.read(1 << 20):
            if self.lose_answers:
                break
            if not self.silent:
                writer.write(data)
        writer.transport.abort()


@pytest_asyncio.fixture
async def wire(redis_server: EmbeddedRedis) -> AsyncIterator[Wire]:
    made = Wire(redis_server.port)
    await made.start()
    yield made
    await made.stop()


@pytest_asyncio.fixture
async def far(wire: Wire, fleet_name: str, redis_url: str) -> AsyncIterator[Hand]:
    """The journal at the far end of a wire."""
    config = FleetConfig(name=fleet_name, redis_url=wire.url, lease=600.0)
    journal = Told(config)
    await journal.now()
    yield Hand(journal, config)
    await journal.close()


# Sharing ------------------------------------------------------------------------------------------


async def test_a_thousand_callers_share_one_connection(journal: Journal) -> None:
    send = journal.connection.command
    ids = await asyncio.gather(*(send("CLIENT", "ID") for _ in range(1000)))
    assert len(set(ids)) == 1


async def test_what_is_asked_for_meanwhile_goes_out_together(far: Hand, wire: Wire) -> None:
    await asyncio.gather(*(far.redis("PING") for _ in range(5)))
    wire.requests.clear()
    answers = await asyncio.gather(*(far.redis("ECHO", str(i)) for i in range(2 * BATCH)))
    assert answers == [str(i).encode() for i in range(2 * BATCH)]
    assert len(wire.requests) <= 4


async def test_each_caller_gets_his_own_answer(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{i:03}", "x") for i in range(300)))
    claims = await asyncio.gather(*(hand.claim() for _ in range(300)))
    assert sorted(c.job for c in claims) == [f"j{i:03}" for i in range(300)]
    done = await asyncio.gather(
        *(hand.commit(c, c.job, decision=decides(1, 1, ends=JobState.DONE)) for c in claims)
    )
    assert {d.status for d in done} == {"advanced"}
    history = await hand.journal.load("j123")
    assert history.outcomes()[0][1].result().text == "j123"


async def test_a_caller_that_gives_up_does_not_disturb_the_others(journal: Journal) -> None:
    send = journal.connection.command
    callers = [asyncio.create_task(send("ECHO", str(i))) for i in range(100)]
    await asyncio.sleep(0)
    for caller in callers[::3]:
        caller.cancel()
    answers = await asyncio.gather(*callers, return_exceptions=True)
    for i, answer in enumerate(answers):
        if i % 3:
            assert answer == str(i).encode()
        else:
            assert isinstance(answer, asyncio.CancelledError)
    assert await send("ECHO", "more") == b"more"


async def test_a_verb_whose_caller_gave_up_is_written_once_or_not_at_all(hand: Hand) -> None:
    await hand.submit(starts("j", "one"))
    claim = await hand.claim()
    commit = asyncio.create_task(hand.commit(claim, decision=decides(1, 1, "two")))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.gather(commit, return_exceptions=True)
    assert (await hand.commit(claim, decision=decides(1, 1, "two"))).status in ("mine", "advanced")
    assert await hand.names() == ["j/1"]


async def test_a_command_that_redis_refuses_does_not_fail_its_neighbours(journal: Journal) -> None:
    send = journal.connection.command
    answers = await asyncio.gather(
        send("ECHO", "a"), send("NOSUCHCOMMAND"), send("ECHO"), send("ECHO", "b"), return_exceptions=True
    )
    assert (answers[0], answers[3]) == (b"a", b"b")
    assert isinstance(answers[1], ResponseError)
    assert isinstance(answers[2], ResponseError)
    with pytest.raises(ResponseError):
        await send("NOSUCHCOMMAND")


async def test_a_command_that_cannot_be_sent_does_not_fail_its_neighbours(journal: Journal) -> None:
    send = journal.connection.command
    answers = await asyncio.gather(
        send("ECHO", "a"),
        send("ECHO", "\ud800"),
        send("ECHO", None),
        send("ECHO", "b"),
        return_exceptions=True,
    )
    assert (answers[0], answers[3]) == (b"a", b"b")
    assert isinstance(answers[1], UnicodeEncodeError)
    assert isinstance(answers[2], DataError)


async def test_commands_travel_behind_their_verb_in_the_same_round_trip(far: Hand, wire: Wire) -> None:
    await far.warm()
    wire.requests.clear()
    tickets = far.keys.prefix + "t"
    then = [("RPUSH", tickets, "one"), ("RPUSH", tickets, "two"), ("PEXPIRE", tickets, 60_000)]
    done = await far.journal.submit([starts("j", "x")], then=then)
    assert done.status == "new"
    assert await far.redis("LRANGE", tickets, 0, -1) == [b"one", b"two"]
    assert len(wire.requests) == 2  # the verb with its commands; and our look


async def test_all_tenants_are_looked_at_in_one_round_trip_and_none_gets_what_is_anothers(
    far: Hand, wire: Wire
) -> None:
    await far.warm()
    tenants = [f"t{n}" for n in range(12)]
    for n, tenant in enumerate(tenants):
        await far.journal.set_tenant(tenant, tokens_per_day=n + 1, max_in_flight=n, weight=n + 1.0)
    wire.requests.clear()
    views = await far.journal.tenant_views(tenants, ["llm", "turns"])
    assert [(v.name, v.tokens_per_day, v.max_in_flight, v.weight) for v in views] == [
        (tenant, n + 1, n, n + 1.0) for n, tenant in enumerate(tenants)
    ]
    assert len(wire.requests) == 2  # the time, by which a day is named; and all the rest


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_verb_is_done_whatever_becomes_of_the_tickets_behind_it(hand: Hand, forgotten: bool) -> None:
    await hand.submit(starts("j", "x"))
    claim = await hand.claim()
    await hand.redis("SET", hand.keys.prefix + "t", "no list")
    if forgotten:
        await hand.redis("SCRIPT", "FLUSH", "SYNC")
    done = await hand.commit(
        claim, decision=decides(1, 1, "y"), then=[("LPUSH", hand.keys.prefix + "t", "one")]
    )
    assert done.status == "advanced"
    await hand.redis("DEL", hand.keys.prefix + "t")


async def test_a_right_that_an_account_lacks_inside_a_verb_is_said_so(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    user = "u" + hand.config.name
    await hand.redis("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", "-zadd")
    url = hand.config.redis_url.replace("redis://", f"redis://{user}:pw@")
    journal = Journal(msgspec.structs.replace(hand.config, redis_url=url))
    with pytest.raises(FleetUnavailable, match="does not allow it"):
        await journal.claim("llm", "w")
    await journal.close()
    await hand.redis("ACL", "DELUSER", user)


async def test_verbs_work_when_redis_has_forgotten_them(hand: Hand) -> None:
    await hand.submit(starts("j", "x"), starts("k", "x"))
    await hand.redis("SCRIPT", "FLUSH", "SYNC")
    hand.journal.connection.way = Way(functions=False)
    claims = await asyncio.gather(hand.claim(), hand.claim())
    assert {c.job for c in claims} == {"j", "k"}
    await hand.redis("SCRIPT", "FLUSH", "SYNC")
    tickets = hand.keys.prefix + "t"
    done = await hand.commit(claims[0], then=[("RPUSH", tickets, "one"), ("PEXPIRE", tickets, 60_000)])
    assert done.status == "turn"
    # Sent again behind the verb: the first one came before its step, and was spent for nothing.
    assert await hand.redis("LRANGE", tickets, 0, -1) == [b"one", b"one"]


async def test_a_verb_that_redis_has_forgotten_is_run_once_though_its_answer_is_lost(hand: Hand) -> None:
    """What repeats by itself what it sends would claim a second step."""
    hand.journal.connection.way = Way(functions=False)
    await hand.submit(starts("j", "x"), starts("k", "x"))
    await hand.redis("SCRIPT", "FLUSH")
    connection = hand.journal.connection
    send, sent = connection._send, []

    def loses(*command: Any) -> asyncio.Future[Any]:
        answer = send(*command)
        sent.append(command[0])
        return asyncio.ensure_future(lost(answer)) if command[0] == "EVAL" else answer

    async def lost(answer: asyncio.Future[Any]) -> Any:
        await answer
        raise RedisConnectionError("reset behind the verb")

    connection._send = loses  # type: ignore[method-assign]
    with pytest.raises(FleetUnavailable):
        await hand.journal.claim("llm", "w1")
    connection._send = send  # type: ignore[method-assign]
    assert sent == ["EVALSHA", "EVAL"]
    assert len(await hand.members(hand.keys.leases)) == 1


async def test_closing_sends_what_is_queued_first(hand: Hand) -> None:
    await hand.warm()
    journal = Journal(hand.config)
    submitting = asyncio.create_task(journal.submit([starts("j", "x")]))
    await asyncio.sleep(0)
    await journal.close()
    assert (await submitting).status == "new"
    assert await hand.names() == ["j/0"]


# Away ---------------------------------------------------------------------------------------------


async def test_a_line_cut_in_the_middle_of_a_batch_fails_its_callers_and_a_retry_is_safe(
    far: Hand, wire: Wire
) -> None:
    wire.lose_answers = True
    jobs = [starts(f"j{i}", "x") for i in range(50)]
    answers = await asyncio.gather(*(far.journal.submit([j]) for j in jobs), return_exceptions=True)
    assert all(isinstance(a, FleetUnavailable) for a in answers)
    assert "cannot be reached" in str(answers[0])
    wire.lose_answers = False
    done = await asyncio.gather(*(again(lambda j=j: far.journal.submit([j])) for j in jobs))
    assert {d.status for d in done} == {"new"}
    assert sorted(await far.names()) == sorted(f"j{i}/0" for i in range(50))
    await far.look()


async def test_every_verb_may_be_repeated_when_its_answer_was_lost(far: Hand, wire: Wire) -> None:
    async def twice(verb: Any) -> Any:
        wire.lose_answers = True
        with pytest.raises(FleetUnavailable):
            await verb()
        wire.lose_answers = False
        return await again(verb)

    await far.warm()
    done = await twice(lambda: far.journal.submit([starts("j", "one")]))
    assert (done.status, done.new) == ("new", [False])
    times = itertools.count()
    claim = await twice(lambda: far.journal.take("llm", "w1", "token", again=next(times) > 0))
    assert (claim.token, claim.attempt) == ("token", 1), "the same claim, not another one"
    assert await far.members(far.keys.leases) == {claim.lease}
    await far.look()
    await twice(lambda: far.journal.renew([claim.lease]))
    assert await twice(lambda: far.journal.release(claim, "shutdown")) == []
    claim = await far.claim()
    assert (await twice(lambda: far.commit(claim))).status == "mine"
    assert (await twice(lambda: far.journal.advance("j", decides(1, 1, "two")))).status in (
        "stale",
        "advanced",
    )
    await twice(lambda: far.reap())
    assert await far.names() == ["j/1"]
    assert (await twice(lambda: far.journal.cancel("j")))[0] == "ended"
    assert await far.state("j") == "cancelled"
    view = (await far.journal.load("j")).view
    assert (view.steps, view.outcomes, view.usage.calls) == (2, 1, 1)
    await far.look()


async def test_a_redis_that_says_nothing_is_given_up_after_a_while(
    wire: Wire, fleet_name: str, redis_url: str
) -> None:
    journal = Journal(FleetConfig(name=fleet_name, redis_url=wire.url, redis_timeout=0.2))
    await journal.now()
    wire.silent = True
    answers = await asyncio.gather(journal.now(), journal.now(), return_exceptions=True)
    assert all(isinstance(a, FleetUnavailable) for a in answers)
    with pytest.raises(FleetUnavailable, match=r"does not answer within 0\.2 s"):
        await journal.now()
    wire.silent = False
    wire.cut()
    assert await again(journal.now) > 0
    await journal.close()


async def test_a_late_answer_of_a_line_given_up_is_not_taken_for_another(
    wire: Wire, fleet_name: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SOCKET_TIMEOUT_S", 0.2)
    connection = Connection(wire.url)
    assert await connection.command("ECHO", "first") == b"first"
    wire.silent = True
    with pytest.raises(FleetUnavailable):
        await connection.command("ECHO", "second")
    wire.silent = False
    assert await again(lambda: connection.command("ECHO", "third")) == b"third"
    await connection.close()


async def test_a_redis_that_is_not_there_is_named_in_one_sentence_without_its_password() -> None:
    journal = Journal(FleetConfig(redis_url="redis://user:hush@127.0.0.1:1/0"))
    with pytest.raises(FleetUnavailable) as caught:
        await journal.now()
    assert "127.0.0.1:1" in str(caught.value)
    assert "hush" not in str(caught.value)
    assert str(caught.value).count("\n") == 0
    await journal.close()


async def test_ends_wait_for_a_redis_that_is_not_there_without_spinning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aios_dist.journal.reading.LOOK_AGAIN_S", 3600)
    journal = Journal(FleetConfig(redis_url="redis://127.0.0.1:1/0"))
    ends = journal.ends("0-0", idle=5)
    assert await anext(ends) == []
    second = asyncio.ensure_future(anext(ends))
    await asyncio.wait([second], timeout=0.1)
    assert not second.done()
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await ends.aclose()  # type: ignore[attr-defined]
    await journal.close()


async def test_ends_outlive_silence_and_loading(
    wire: Wire, fleet_name: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = FleetConfig(name=fleet_name, redis_url=wire.url)
    monkeypatch.setattr(
        "aios_dist.journal.connection.open_client",
        lambda url, **options: open_client(url, **{**options, "socket_timeout": 0.2}),
    )
    journal = Journal(config)
    ends = journal.ends("0-0", idle=0.05)
    assert await anext(ends) == []
    wire.silent = True
    assert await anext(ends) == []  # not an error: the caller goes on waiting
    assert await anext(ends) == []
    wire.silent = False
    near = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
    await near.submit([starts("j", ends=JobState.DONE)])
    found: list[str] = []
    for _ in range(20):
        found += await anext(ends)
        if found:
            break
    assert found == ["j"]
    await ends.aclose()  # type: ignore[attr-defined]
    await near.close()
    await journal.close()


# Refusing -----------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def alone(own_server: EmbeddedRedis) -> AsyncIterator[Hand]:
    """A hand on a server of the test's own."""
    config = FleetConfig(name="alone", redis_url=own_server.url, lease=600.0)
    journal = Told(config)
    yield Hand(journal, config)
    await journal.close()


@pytest.mark.parametrize(
    ("away", "back", "says"),
    [
        ([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")], "replica"),
        (
            [("CONFIG", "SET", "min-replicas-to-write", "1")],
            [("CONFIG", "SET", "min-replicas-to-write", "0")],
            "NOREPLICAS",
        ),
    ],
)
async def test_a_redis_that_refuses_writes_is_waited_for_and_nothing_is_half_written(
    alone: Hand, away: list[tuple[str, ...]], back: list[tuple[str, ...]], says: str
) -> None:
    await alone.plan("p", ("fixed", "stop", "a", "b"))
    claim = await alone.claim()
    before = await alone.whole()
    for command in away:
        await alone.redis(*command)
    verbs = [
        lambda: alone.commit(claim, decision=decides(1, 1, ends=JobState.DONE)),
        lambda: alone.journal.submit([starts("c", "x")]),
        lambda: alone.journal.cancel("a"),
    ]
    for verb in verbs:
        with pytest.raises(FleetUnavailable, match=says):
            await verb()
    together = await asyncio.gather(*(verb() for verb in verbs), return_exceptions=True)
    assert all(isinstance(a, FleetUnavailable) for a in together)
    for command in back:
        await alone.redis(*command)
    assert await alone.whole() == before
    assert (await verbs[0]()).status == "advanced"
    await alone.look()


@pytest.mark.parametrize(
    "said",
    [
        "MISCONF Errors writing to the AOF file: No space left on device",
        "LOADING Redis is loading the dataset in memory",
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "CLUSTERDOWN The cluster is down",
        "NOAUTH Authentication required.",
        "NOPERM User x has no permissions to run the 'evalsha' command",
        "The user executing the script can't run this command or subcommand",
        "ACL failure in script: User w has no permissions to run the 'zadd' command",
        "READONLY You can't write against a read only replica. script: abc, on @user_script:1.",
        "OOM command not allowed when used memory > 'maxmemory'. script: abc, on @user_script:1.",
        "NOREPLICAS Not enough good replicas to write.",
        "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    ],
)
def test_what_redis_says_while_it_cannot_serve_is_waited_out(said: str) -> None:
    error = unavailable(ResponseError(said), "redis://:hush@host:6379/0")
    assert isinstance(error, FleetUnavailable)
    assert "hush" not in str(error)
    assert not str(error).endswith("..")


def test_a_mistake_of_ours_is_not_taken_for_weather() -> None:
    error = ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
    assert unavailable(error, "redis://host") is error


async def test_a_verb_that_broke_is_told_as_such_though_a_secret_is_hidden_in_why() -> None:
    """Whoever insists on a write tries that again; any other error would lose the answer in hand."""
    connection = Connection("redis://:open-sesame-7@127.0.0.1:1/0")
    told = connection._broke(scripts.load()["commit"], ResponseError("HALFWAY open-sesame-7 at 3"))
    assert isinstance(told, JournalError)
    assert "sesame" not in str(told)
    await connection.close()


async def test_an_account_that_is_refused_is_said_so(own_server: EmbeddedRedis) -> None:
    journal = Journal(FleetConfig(redis_url=own_server.url.replace("redis://", "redis://nobody:hush@")))
    with pytest.raises(FleetUnavailable, match="refuses the account") as caught:
        await journal.now()
    assert "hush" not in str(caught.value)
    ends = journal.ends("0-0")
    with pytest.raises(FleetUnavailable, match="refuses the account"):
        await anext(ends)
    await journal.close()


async def test_an_account_that_may_not_ask_for_settings_works_all_the_same(own_server: EmbeddedRedis) -> None:
    admin = Journal(FleetConfig(redis_url=own_server.url))
    await admin.connection.command("ACL", "SETUSER", "quiet", "on", ">hush", "~*", "&*", "+@all", "-info")
    await admin.close()
    journal = Journal(FleetConfig(redis_url=own_server.url.replace("redis://", "redis://quiet:hush@")))
    await journal.check()
    with pytest.raises(FleetUnavailable, match="does not allow it") as caught:
        await journal.connection.command("INFO")
    assert caught.value.fix == "see docs/deploy.md, ACL"
    assert str(caught.value).endswith(f"; {caught.value.fix}.")
    await journal.close()


async def test_a_full_redis_hands_out_no_work_and_keeps_it_whole(alone: Hand) -> None:
    # ZREM frees memory, so Redis would let a claim begin with it; then nothing may stop it.
    await alone.submit(starts("j", "x"))
    await alone.redis("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(FleetUnavailable, match="full"):
        await alone.journal.claim("llm", "w1")
    await alone.redis("CONFIG", "SET", "maxmemory", "0")
    await alone.look()
    assert await alone.names() == ["j/0"]


async def test_an_evicting_redis_is_refused(alone: Hand) -> None:
    await alone.journal.check()
    await alone.redis("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(FleetUnavailable, match="noeviction"):
        await alone.journal.check()
    async with AsyncFleet(Config(fleet=alone.config)) as producer:
        with pytest.raises(RedisUnfit, match="noeviction"):
            await producer.submit(prompts("one-of-evicting", ["say {input}"], model="small"), input="a")
    assert await alone.names() == []


@pytest.mark.parametrize(
    "url", ["redis://host:port/0", "sentinel://host:26379/0", "sentinel://host:x/0?master=m", "http://host"]
)
def test_a_url_that_cannot_be_used_is_said_so(url: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        Connection(url)


# Restarting ---------------------------------------------------------------------------------------


async def test_a_redis_with_an_append_only_file_keeps_everything_over_a_crash(
    alone: Hand, own_server: EmbeddedRedis
) -> None:
    await alone.plan("p", ("fixed", "stop", "a", "b"), [starts("a", "x", "y", "z")])
    await alone.submit(starts("c", "x"), starts("t"))
    x, y, z = [await alone.claim() for _ in range(3)]
    await alone.commit(x)
    await alone.journal.release(z, "429", after=600)
    turn = await alone.claim("turns")
    before = await alone.whole()
    clock = int(await alone.redis("GET", alone.keys.prefix + "clock"))
    own_server.kill()
    with pytest.raises(AiosError):
        await alone.journal.now()
    own_server.restart()
    assert await again(alone.whole) == before
    await alone.look()
    assert int(await alone.redis("GET", alone.keys.prefix + "clock")) == clock
    assert await alone.journal.renew([y.lease, turn.lease]) == set()
    assert (await alone.commit(x)).status == "mine"  # EVALSHA again, of a script that Redis has forgotten
    assert (await alone.commit(y)).status == "turn"
    assert (await alone.journal.advance("t", decides(0, 0, "x"), token=turn.token)).status == "advanced"
    assert await alone.names() == ["c/0", "t/0"]
    await alone.look()


async def test_work_goes_on_over_restarts_in_good_order(alone: Hand, own_server: EmbeddedRedis) -> None:
    await alone.plan("p", ("fixed", "stop", "a", "b", "c"))
    ran = []
    for _ in range(3):
        claim = await again(alone.claim)
        own_server.restart()
        done = await again(lambda claim=claim: alone.finish(claim))
        assert done.status == "advanced"
        ran.append(claim.job)
    assert ran == ["a", "b", "c"]
    assert (await alone.journal.plan("p")).state == "done"


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///tmp/s", "unix://u:p@/tmp/s?db=1"])
async def test_every_kind_of_url_makes_a_connection(url: str) -> None:
    client = open_client(url)
    client.connection_pool.make_connection()
    await client.aclose()


async def test_what_breaks_below_is_told_and_taken_for_no_cancellation() -> None:
    line = Connection("redis://127.0.0.1:1")
    line.client.connection_pool.connection_kwargs["no_such_setting"] = 1
    with pytest.raises(TypeError, match="no_such_setting"):
        await asyncio.gather(line.command("PING"), line.command("PING"))
    await line.close()


async def test_a_transport_that_ends_in_a_cancellation_nobody_asked_for_is_a_line_that_broke(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ends(*_: Any) -> None:
        raise asyncio.CancelledError  # as uvloop's has done after a reset

    line = Connection("redis://127.0.0.1:1")
    monkeypatch.setattr(line.client, "execute_command", ends)
    with pytest.raises(FleetUnavailable, match="cannot be reached"):
        await line.command("PING")
    await line.close()


def test_who_says_what_is_to_be_heard_over_a_line_that_has_just_ended_hears_of_it_on_no_loop(
    redis_server: EmbeddedRedis,
) -> None:
    async def over_a_dead_line() -> tuple[str, str] | None:
        hearing = Hearing(redis_server.url, 0.2)
        said = hearing.listen()
        heard = asyncio.ensure_future(anext(said))
        await hearing.tried.wait()
        hearing._line._writer.transport.abort()  # its end is seen by who reads, in a turn of the loop
        await hearing.hear(["one"])
        gap = await heard
        await said.aclose()
        await hearing.close()
        return gap

    assert uvloop.run(over_a_dead_line()) is None
    assert asyncio.run(over_a_dead_line()) is None


@pytest.mark.parametrize(
    "raised", [RuntimeError("the handler is closed"), BrokenPipeError(), EOFError(), asyncio.CancelledError()]
)
async def test_what_breaks_a_line_of_redis_pys_own_is_an_error_of_redis(raised: BaseException) -> None:
    with pytest.raises(RedisConnectionError), line_errors():
        raise raised


async def test_a_cancellation_that_is_asked_for_and_errors_of_ours_pass_as_they_are() -> None:
    async def waits() -> None:
        with line_errors():
            await asyncio.sleep(60)

    task = asyncio.ensure_future(waits())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for ours in (ResultTimeout("not in time"), FleetUnavailable("away"), RedisTimeoutError()):
        with pytest.raises(type(ours)), line_errors():
            raise ours


async def test_a_worker_that_starts_waits_for_a_redis_that_goes_away_between_two_of_its_questions(
    wire: Wire,
) -> None:
    pool = PoolConfig(lanes=["llm"], slots=1)
    fleet = FleetConfig(name="nobody", redis_url=wire.url)
    wire.hang_up_at = (b"ZCARD", 3)
    await Runtime(Config(fleet=fleet, pools={"all": pool}), "all", pool, {})._check_redis()
    assert wire.hang_up_at == (b"ZCARD", 0)
