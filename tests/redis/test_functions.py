"""The verbs as functions of one library: the same as scripts, loaded once, nothing left between calls."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import pytest_asyncio
import redis
from redis.exceptions import ResponseError

from aios_dist.broker.app import Tickets
from aios_dist.cli.checks import Level, rights
from aios_dist.cli.checks import server as server_checks
from aios_dist.config import Config, FleetConfig, parse
from aios_dist.errors import FleetUnavailable, JournalError, RedisUnfit
from aios_dist.journal import Asks, Journal, Onward, calling, scripts
from aios_dist.journal.calling import Way
from aios_dist.journal.connection import Full
from aios_dist.journal.reading import too_old
from aios_dist.local.redis_server import EmbeddedRedis, find_server
from aios_dist.model.jobs import JobState
from tests.driver.fleet import Fleet
from tests.driver.patched import PRELUDE, text_of
from tests.driver.sending import walk
from tests.redis.breaking import SITUATIONS
from tests.redis.conftest import Hand, Told, decides, starts

if TYPE_CHECKING:
    from tests.conftest import Fleets

NAMED = re.compile(r"^local (?:function (\w+)|(\w[\w, ]*?)(?: =|$| --))", re.MULTILINE)
"""What stands outside of all functions of a part."""
BOTH = pytest.mark.parametrize("functions", [True, False], ids=["functions", "scripts"])


def hand_of(config: FleetConfig, functions: bool) -> Hand:
    """A hand whose verbs go that way."""
    journal = Told(config)
    journal.connection.way = Way(functions)
    return Hand(journal, config)


@pytest_asyncio.fixture
async def by_functions(each_server: EmbeddedRedis, fleets: Fleets) -> AsyncIterator[Hand]:
    """A hand whose verbs are functions, on a Redis and on a Valkey."""
    name = fleets.new_name()
    made = hand_of(FleetConfig(name=name, redis_url=each_server.url, lease=600.0), True)
    yield made
    for start in (made.keys.prefix, f"{name}."):  # (what Celery's way is asked for by `doctor`)
        await made.redis("UNLINK", "nothing", *await made.redis("KEYS", f"{start}*"))
    await made.journal.close()
    fleets.names.discard(name)


@pytest.fixture
def client(each_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(each_server.url, decode_responses=True) as opened:
        yield opened


def called(client: redis.Redis, command: str) -> int:
    """How often it was called, whether it went well or not."""
    said = client.info("commandstats").get(f"cmdstat_{command}", {})
    return int(said.get("calls", 0)) + int(said.get("rejected_calls", 0))


# The library ---------------------------------------------------------------------------------------------


def test_a_library_is_named_by_its_content_and_so_are_its_functions() -> None:
    """Two releases with other Lua never meet under one name."""
    verbs = scripts.load()
    library = verbs["commit"].library
    other = scripts.assemble(
        verbs, lambda name: text_of(name) + ("\n-- another\n" if name == "_lib" else "")
    )["commit"]
    assert re.fullmatch(r"aios_[0-9a-f]{16}", library.name)
    assert library.text.startswith(f"#!lua name={library.name}\n")
    assert other.library.name != library.name
    found = re.findall(r"function_name = '(\w+)'", library.text)
    assert sorted(found) == sorted(verb.function for verb in verbs.values())
    assert all(verb.function == f"{library.name}_{name}" for name, verb in verbs.items())


def test_who_says_how_an_error_is_undone_stands_once_in_the_library() -> None:
    """Others may stand in several blocks, and each sets anew what it has of its own. ``on_error`` is of all:
    of two blocks that set it, the last would undo what verbs of the first have begun."""
    text = scripts.load()["commit"].library.text
    assert text.count(text_of("_new")) == 1


def set_anew(part: str) -> tuple[str, str]:
    """Of a part what it does at each call, and all else."""
    text = re.sub(r"--.*", "", text_of(f"_{part}"))
    block = re.compile(
        r"^( *)(?:each_call\(function|start_call = function)\([\w, ]*\)(?:[^\n]* end\)$|.*?^\1end\)?$)",
        re.MULTILINE | re.DOTALL,
    )
    return "\n".join(found[0] for found in block.finditer(text)), block.sub("", text)


@pytest.mark.parametrize("part", scripts.PARTS)
def test_what_a_part_changes_it_sets_anew_at_each_call(part: str) -> None:
    """What stands outside of functions outlives a call: it is a constant, or `each_call` has it."""
    anew, text = set_anew(part)
    own = "\n".join(re.findall(r"^do\b.*?^end$", text, re.MULTILINE | re.DOTALL))
    declared = re.findall(r"^local (\w[\w, ]*?)(?: =|$)", text, re.MULTILINE)
    declared += re.findall(r"^  local (\w[\w, ]*?)(?: =|$)", own, re.MULTILINE)
    for name in {name for line in declared for name in line.strip().split(", ")} - {"set_anew"}:
        changes = (
            rf"^(?! *local )[\w, ]*\b{name}(?:\[[^\n]*\]|\.\w+)?(?:, [\w, ]*)? = (?!function)",
            rf"\btable\.(?:insert|remove|sort)\({name}\b",
        )
        if any(re.search(change, text, re.MULTILINE) for change in changes):
            assert re.search(rf"\b{name}\b[\w, ]* =", anew), f"{part}: {name} is changed, and never set anew"


SHOWN = """
local function shown(value, seen)
  if type(value) ~= 'table' then return tostring(value) end
  if seen[value] then return 'again' end
  seen[value] = true
  local parts = {}
  for k, v in pairs(value) do
    parts[#parts + 1] = tostring(k) .. '=' .. shown(v, seen)
  end
  table.sort(parts)
  return '{' .. table.concat(parts, ' ') .. '}'
end
"""


def watched() -> dict[str, scripts.Script]:
    """The verbs for a driver, and others beside them that show all that outlives a call."""
    texts: dict[str, str] = {}
    for tail in ("", "again", "resume", "gather", "rules", "new"):
        parts = scripts.parts_of(filter(None, ["mend", "budgets", tail]))
        names = [
            name.strip()
            for part in parts
            for found in NAMED.findall(re.sub(r"--.*", "", text_of(f"_{part}")))
            for name in "".join(found).split(", ")
        ]
        some = []
        for at in range(0, len(names), 50):  # (a function of Lua refers to 60 outer locals at the most)
            some.append(name := f"show{tail}{at}")
            told = ", ".join(f"'{one}=' .. shown({one}, {{}})" for one in names[at : at + 50])
            texts[name] = f"-- {name}: a part of it.\n-- ARGV 1: retention_ms\n\n{SHOWN}return {{ {told} }}"
        told = ", ".join(f"{one}()" for one in some)
        texts[f"shows{tail}"] = (
            f"-- shows{tail}: what stands outside of the verbs.\n-- ARGV 1: retention_ms\n"
            f"-- include: {', '.join(parts[1:])}\n-- verbs: {', '.join(some)}\n\nreturn {{ {told} }}"
        )
    names = [*scripts.load(), *(name for name in texts if name.startswith("shows"))]
    return scripts.assemble(names, lambda name: texts.get(name) or text_of(name), PRELUDE)


WATCHED = watched()
SHOWS = [name for name in WATCHED if name.startswith("shows")]


async def left_over(journal: Journal) -> set[bytes]:
    """What the verb that comes next finds of those before it. (``on_error`` is made anew at each call.)"""
    told = [await journal._run(name) for name in SHOWS]
    return {one for parts in told for some in parts for one in some if not one.startswith(b"on_error=f")}


@pytest.fixture
def fleet(redis_server: EmbeddedRedis, fleets: Fleets) -> Iterator[Fleet]:
    """A fleet of a hand's, whose verbs are functions."""
    made = Fleet(redis_server.url, name := fleets.new_name(), attempts=2)
    made.runner.run(made.journal.close())

    async def told() -> Told:
        journal = Told(made.config)
        journal._scripts = WATCHED
        journal.connection.way = Way(True)
        return journal

    made.journal = made.runner.run(told())
    yield made
    made.close()
    fleets.names.discard(name)


def test_no_verb_leaves_anything_to_the_next_wherever_it_breaks(fleet: Fleet) -> None:
    hand = Hand(fleet.journal, fleet.config)
    fresh = fleet.run(left_over(fleet.journal))
    assert {b"tickets={}", b"marked={}", b"rules_of={}", b"works={}", b"created={}"} <= fresh
    for build in SITUATIONS.values():
        fleet.client.delete(*fleet.client.keys(fleet.prefix.replace("[", "\\[") + "*") or ["none"])
        verb = fleet.run(build(hand))
        for behind in (1, 4, 0):
            fleet.fail_behind(behind)
            try:
                fleet.run(verb())
            except (JournalError, FleetUnavailable):
                assert behind
        fleet.run(walk(fleet.journal))
        assert fleet.run(left_over(fleet.journal)) ^ fresh == set(), build.__name__


# How they are loaded -------------------------------------------------------------------------------------


async def test_the_library_is_loaded_by_the_first_of_many_who_lack_it(
    by_functions: Hand, client: redis.Redis
) -> None:
    hand = by_functions
    library = hand.journal.library
    for found in client.function_list(library="aios_*"):
        client.function_delete(found[1])
    loads, scripts_before = called(client, "function|load"), called(client, "evalsha")
    await asyncio.gather(*(hand.submit(starts(f"j{n:02}", "x")) for n in range(30)))
    assert called(client, "function|load") - loads == 1
    claims = await asyncio.gather(*(hand.claim() for _ in range(30)))
    assert sorted(claim.job for claim in claims) == [f"j{n:02}" for n in range(30)]
    client.function_delete(library)  # a Redis that was put back, or somebody who tidies up
    done = await asyncio.gather(*(hand.commit(claim) for claim in claims))
    assert {one.status for one in done} == {"turn"}
    assert called(client, "function|load") - loads == 2
    assert called(client, "evalsha") == scripts_before
    await hand.look()


async def test_a_verb_whose_function_is_gone_is_run_once_though_its_answer_is_lost(
    by_functions: Hand, client: redis.Redis
) -> None:
    """What repeats by itself what it sends would claim a second step."""
    hand = by_functions
    await hand.submit(starts("j", "x"), starts("k", "x"))
    client.function_delete(hand.journal.library)
    connection = hand.journal.connection
    send, sent = connection._send, []

    def loses(*command: Any) -> asyncio.Future[Any]:
        answer = send(*command)
        sent.append(command[0])
        return asyncio.ensure_future(lost(answer)) if sent.count("FCALL") == 2 else answer

    async def lost(answer: asyncio.Future[Any]) -> Any:
        await answer
        raise redis.ConnectionError("reset behind the verb")

    connection._send = loses  # type: ignore[method-assign]
    with pytest.raises(FleetUnavailable):
        await hand.journal.claim("llm", "w1")
    connection._send = send  # type: ignore[method-assign]
    assert [what for what in sent if what in ("FCALL", "FUNCTION", "EVALSHA", "EVAL")] == [
        "FCALL",
        "FUNCTION",
        "FCALL",
    ]
    assert len(await hand.members(hand.keys.leases)) == 1


@pytest.mark.parametrize("lacks", ["-fcall", "-function", "-function|load", "-fcall -function"])
async def test_an_account_without_the_right_goes_by_scripts(
    by_functions: Hand, client: redis.Redis, lacks: str
) -> None:
    """And by functions where somebody else has loaded them: a producer's account may not."""
    hand, user = by_functions, f"who-{by_functions.config.name}"
    client.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", *lacks.split())
    url = hand.config.redis_url.replace("redis://", f"redis://{user}:pw@")
    other = hand_of(msgspec.structs.replace(hand.config, redis_url=url), True)
    way = other.journal.connection.way
    try:
        for found in client.function_list(library="aios_*"):
            client.function_delete(found[1])
        await other.submit(starts("a", "x"))
        assert not way.functions
        assert "no permissions" in way.why or "permission" in way.why.lower()
        assert client.function_list(library=hand.journal.library) == []
        await hand.submit(starts("b", "x"))  # a worker comes, which may
        way._after = 0.0  # … and half a minute passes
        calls = called(client, "fcall")
        assert {(await other.claim()).job, (await other.claim()).job} == {"a", "b"}
        assert (called(client, "fcall") - calls == 2) is ("fcall" not in lacks)
    finally:
        await other.journal.close()
        client.execute_command("ACL", "DELUSER", user)


def test_what_a_redis_without_functions_says_is_known() -> None:
    for said in ("unknown command 'FCALL', with args beginning with: 'aios_x'", "unknown command `FCALL`"):
        way = Way(True)
        assert way.refused(ResponseError(said))
        assert not way.functions
    way = Way(True)
    assert not way.refused(ResponseError("HALFWAY planted behind HSET"))
    assert way.functions
    way.not_loaded(ResponseError("OOM command not allowed when used memory > 'maxmemory'."))
    assert not way.functions
    assert way.loads


async def test_what_somebody_else_puts_in_the_librarys_place_is_not_run(
    by_functions: Hand, client: redis.Redis
) -> None:
    """By one who loads once it is gone; doctor says so."""
    hand = by_functions
    await hand.submit(starts("a", "x"))
    assert not await hand.journal.other_library()
    mine = hand.journal.library
    client.function_delete(mine)
    client.function_load(f"#!lua name={mine}\nredis.register_function('{mine}_submit0', function() end)")
    try:
        calls = called(client, "fcall")
        await hand.submit(starts("b", "x"))
        way = hand.journal.connection.way
        assert (way.functions, way.why) == (False, f"what Redis calls {mine} is not the library of that name")
        await hand.submit(starts("c", "x"))
        assert called(client, "fcall") - calls == 1, "the first, which found no function"
        assert await hand.journal.other_library()
        findings = [f async for f in rights.rights(Config(fleet=hand.config), hand.journal)]
        assert [f.check for f in findings if f.level is Level.WARNING or f.level is Level.PROBLEM] == [
            "functions"
        ]
    finally:
        client.function_delete(mine)
    hand.journal.connection.way._after = 0.0
    await hand.submit(starts("d", "x"))
    assert hand.journal.connection.way.functions
    assert not await hand.journal.other_library()


async def test_a_complete_library_of_others_is_named_by_doctor(
    by_functions: Hand, client: redis.Redis
) -> None:
    hand = by_functions
    await hand.submit(starts("a", "x"))
    mine = hand.journal.library
    text = scripts.load()["commit"].library.text
    client.function_load(f"{text}\n-- and what is not ours", replace=True)
    try:
        findings = [f async for f in rights.rights(Config(fleet=hand.config), hand.journal)]
        (found,) = [f for f in findings if f.check == "functions"]
        assert found.level is Level.PROBLEM
        assert f"What Redis calls {mine} is not this release's code" in found.what
    finally:
        client.function_delete(mine)


async def test_who_asks_after_one_that_was_cancelled_as_it_loaded_loads_anew(
    by_functions: Hand, client: redis.Redis
) -> None:
    hand = by_functions
    for found in client.function_list(library="aios_*"):
        client.function_delete(found[1])
    connection = hand.journal.connection
    load, begun, goes_on = connection._load, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any) -> bool:
        begun.set()
        await goes_on.wait()
        raise redis.ConnectionError("reset by peer, long ago")

    connection._load = slow  # type: ignore[method-assign]
    first = asyncio.ensure_future(hand.submit(starts("a", "x")))
    await begun.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    goes_on.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    connection._load = load  # type: ignore[method-assign]
    await hand.submit(starts("b", "x"))
    assert client.function_list(library=hand.journal.library) != []


async def test_a_library_that_is_loaded_and_cannot_be_announced_is_used(by_functions: Hand) -> None:
    """It was the last that the memory had room for."""
    hand = by_functions
    await hand.redis("FUNCTION", "FLUSH")
    connection = hand.journal.connection
    send = connection._send

    def full(*command: Any) -> asyncio.Future[Any]:
        if command[0] != "ZADD":
            return send(*command)
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.set_exception(redis.OutOfMemoryError("OOM command not allowed"))
        return answer

    connection._send = full  # type: ignore[method-assign]
    await hand.submit(starts("a", "x"))
    connection._send = send  # type: ignore[method-assign]
    assert connection.way.functions
    assert await hand.members(hand.keys.libraries) == set()


async def test_no_library_is_dropped_for_what_a_full_redis_kept_from_being_said(
    by_functions: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = by_functions
    await hand.submit(starts("a", "x"))
    await hand.redis("ZADD", hand.keys.libraries, 1, "aios_0123456789abcdef")
    now, command = await hand.journal.now(), hand.journal.connection.command

    async def full(*args: Any) -> Any:
        if args[0] == "ZADD":
            raise Full("full")
        return await command(*args)

    monkeypatch.setattr(hand.journal.connection, "command", full)
    assert await hand.journal.drop_libraries(now) == []
    monkeypatch.undo()
    assert await hand.journal.drop_libraries(now + calling.ANNOUNCED_S / 2 - 1) == []
    assert "aios_0123456789abcdef" in await hand.members(hand.keys.libraries)
    await hand.journal.drop_libraries(now + calling.ANNOUNCED_S / 2)
    assert "aios_0123456789abcdef" not in await hand.members(hand.keys.libraries)


async def test_what_was_told_to_stop_is_asked_again_and_what_only_looked_wrote_nothing(
    by_functions: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = by_functions
    connection = hand.journal.connection

    async def breaks(*_: Any) -> Any:
        raise ResponseError(said)

    monkeypatch.setattr(connection, "_said", breaks)
    said = "Error running script: Script killed by user with SCRIPT KILL, on @user_function:3"
    with pytest.raises(FleetUnavailable, match="a script that had written nothing"):
        await hand.journal.claim("llm", "w1")
    said = "unknown command 'EVAL', with args beginning with: 'secret'"
    with pytest.raises(RedisUnfit, match=r"a command switched off \(unknown command 'EVAL'\)"):
        await hand.journal.claim("llm", "w1")
    said = "HALFWAY planted"
    with pytest.raises(JournalError, match=r"^The question 'events' to the journal broke"):
        await hand.journal.events("a")
    with pytest.raises(JournalError, match=r"^The write 'claim' to the journal stopped in its middle"):
        await hand.journal.claim("llm", "w1")


@pytest.mark.parametrize("renamed", ["EVAL", "FUNCTION", "FCALL"])
async def test_doctor_says_which_command_a_redis_has_switched_off(
    renamed: str, fleet_name: str, tmp_path: Path
) -> None:
    (tmp_path / "more.conf").write_text(f'rename-command {renamed} ""\n')
    with EmbeddedRedis(find_server(), {"include": str(tmp_path / "more.conf")}).start() as server:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=server.url))
        findings = [f async for f in rights.rights(Config(fleet=journal.config), journal)]
        said = " ".join(f.what for f in findings if f.level is not Level.OK)
        assert f"no {renamed}" in said
        assert "retention_ms" not in said
        await journal.close()


async def test_a_redis_that_is_too_old_is_named(by_functions: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = by_functions.journal
    await journal.check()
    assert [too_old(v) for v in ("6.2.14", "7.0.0", "7.2.4", "8.0.0", "255.255", "")] == [True, *[False] * 5]

    async def old() -> dict[str, str]:
        return {"redis_version": "6.2.14"}

    async def told(answer: Any) -> dict[str, str]:
        if isinstance(answer, Exception):
            raise answer
        return dict(answer)

    client = journal.connection.client
    monkeypatch.setattr(client, "info", lambda: told({"redis_version": "6.2.14"}))
    with pytest.raises(RedisUnfit, match=r"6\.2\.14 is too old"):
        [f async for f in server_checks.server(journal)]
    monkeypatch.setattr(client, "info", lambda: told(ResponseError("unknown command 'INFO', with args")))
    assert [f.what[:24] async for f in server_checks.server(journal)] == ["This Redis has no INFO: "]
    monkeypatch.setattr(journal.connection, "info", old)
    with pytest.raises(RedisUnfit, match=r"6\.2\.14 is too old; use Redis 7 or newer"):
        await journal.check()


async def test_libraries_of_two_releases_stand_side_by_side(by_functions: Hand, client: redis.Redis) -> None:
    """While a fleet is deployed each release runs its own Lua, and none takes the other's place."""
    hand = by_functions
    other = hand_of(hand.config, True)
    other.journal._scripts = scripts.assemble(
        scripts.load(), lambda name: text_of(name) + ("\n-- of a release before\n" if name == "_lib" else "")
    )
    try:
        await hand.submit(starts("a", "x"))
        await other.submit(starts("b", "x"))
        mine, before = hand.journal.library, other.journal.library
        assert {found[1] for found in client.function_list(library="aios_*")} >= {mine, before}
        loads = called(client, "function|load")
        for one in (await hand.claim(), await other.claim()):
            assert (await hand.commit(one)).status == "turn"
        assert called(client, "function|load") == loads
    finally:
        await other.journal.close()


async def test_a_library_that_nobody_has_announced_for_long_is_dropped(
    by_functions: Hand, client: redis.Redis
) -> None:
    hand = by_functions
    other = hand_of(hand.config, True)
    other.journal._scripts = scripts.assemble(
        scripts.load(),
        lambda name: text_of(name) + ("\n-- of a release that is gone\n" if name == "_lib" else ""),
    )
    await hand.submit(starts("a", "x"))
    await other.submit(starts("b", "x"))
    await other.journal.close()
    mine, gone = hand.journal.library, other.journal.library
    now = await hand.journal.now()
    assert await hand.journal.drop_libraries(now) == []
    assert await hand.journal.drop_libraries(now + calling.ANNOUNCED_S + 60) == [gone]
    left = {found[1] for found in client.function_list(library="aios_*")}
    assert mine in left
    assert gone not in left
    await hand.redis(*hand.journal._uses(now))
    await hand.redis("ZADD", hand.keys.libraries, 1, "aios_0123456789abcdef")  # it is gone already
    assert await hand.journal.drop_libraries(now) == []
    assert await hand.members(hand.keys.libraries) == {mine}


async def test_who_may_not_drop_a_library_asks_again_an_hour_later(
    by_functions: Hand, client: redis.Redis
) -> None:
    hand, user = by_functions, f"who-{by_functions.config.name}"
    client.execute_command("ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", "-function|delete")
    url = hand.config.redis_url.replace("redis://", f"redis://{user}:pw@")
    other = hand_of(msgspec.structs.replace(hand.config, redis_url=url), True)
    gone = "aios_0123456789abcdef"
    try:
        now = await hand.journal.now()
        await hand.redis("ZADD", hand.keys.libraries, 1, gone)
        assert await other.journal.drop_libraries(now) == []
        again = await hand.redis("ZSCORE", hand.keys.libraries, gone)
        assert float(again) == pytest.approx((now + calling.ANNOUNCED_S) * 1e6)
        assert await hand.journal.drop_libraries(now + calling.ANNOUNCED_S + 1) == []  # it was not there
        assert await hand.redis("ZSCORE", hand.keys.libraries, gone) is None
    finally:
        await other.journal.close()
        client.execute_command("ACL", "DELUSER", user)


async def test_functions_outlive_a_restart_of_redis(own_server: EmbeddedRedis) -> None:
    hand = hand_of(FleetConfig(name="kept", redis_url=own_server.url, lease=600.0), True)
    try:
        await hand.submit(starts("a", "x"))
        await asyncio.to_thread(own_server.restart)
        await hand.redis("PING")
        assert (await hand.claim()).job == "a"
        with redis.Redis.from_url(own_server.url) as client:
            assert called(client, "function|load") == called(client, "evalsha") == 0
    finally:
        await hand.journal.close()


# A full Redis --------------------------------------------------------------------------------------------


@pytest.fixture(params=["redis", "valkey"])
def small(request: pytest.FixtureRequest) -> Iterator[EmbeddedRedis]:
    """A server of the test's own, which may be full."""
    try:
        binary = find_server(request.param)
    except Exception as none:
        pytest.skip(str(none))
    with EmbeddedRedis(binary) as server:
        yield server


@BOTH
async def test_a_full_redis_takes_what_is_paid_for_and_begins_nothing(
    small: EmbeddedRedis, functions: bool
) -> None:
    config = FleetConfig(name="full", redis_url=small.url, lease=600.0)
    hand = hand_of(config, functions)
    tickets = Tickets(parse({"fleet": {"name": "full", "redis_url": small.url}}))
    journal = hand.journal
    try:
        await hand.submit(*(starts(name, name) for name in "abcdef"))
        claims = [await hand.claim() for _ in range(4)]
        await hand.warm()
        await journal.release(await hand.claim(), "warm")
        await hand.redis("CONFIG", "SET", "maxmemory", 1)
        onward = Onward(tickets.form(), ["llm"], Asks("w1", "next"))
        done = await hand.commit(claims[0], decision=decides(1, 1, "more"), onward=onward)
        assert (done.status, done.next, done.lane) == ("advanced", None, "")
        assert [(ticket.lane, ticket.job) for ticket in done.tickets] == [("llm", claims[0].job)]
        assert await hand.redis("LLEN", "full.llm") == 0
        assert (await hand.commit(claims[1], decision=decides(1, 1, ends=JobState.DONE))).status == "advanced"
        assert await journal.renew([claims[2].lease]) == set()
        assert await journal.release(claims[2], "given back") != []
        assert (await journal.cancel(claims[3].job))[0] == "cancelled"
        assert await journal.pause(claims[0].job) == "paused"
        await hand.reap()
        assert (await journal.walk()).found == []
        assert await journal.events(claims[0].job)
        before = await hand.whole()
        for begins in (
            lambda: journal.submit([starts("g", "x")]),
            lambda: journal.claim("llm", "w1"),
            lambda: journal.resume(claims[0].job),
            lambda: journal.retry(claims[3].job),
            lambda: journal.fork(claims[1].job, "h", 0),
        ):
            with pytest.raises(FleetUnavailable, match="is full"):
                await begins()
        assert await hand.whole() == before
        await hand.redis("CONFIG", "SET", "maxmemory", 0)
        assert await journal.claim("llm", "w1") is not None
        await hand.look()
    finally:
        await journal.close()


async def test_a_library_that_a_full_redis_refuses_keeps_nobody_from_writing(small: EmbeddedRedis) -> None:
    """It comes back when there is room."""
    hand = hand_of(FleetConfig(name="full", redis_url=small.url, lease=600.0), True)
    try:
        await hand.submit(starts("a", "x"))
        claim = await hand.claim()
        with redis.Redis.from_url(small.url) as client:
            client.function_flush()
            client.config_set("maxmemory", 1)
            assert (await hand.commit(claim)).status == "turn"
            client.config_set("maxmemory", 0)
            hand.journal.connection.way._after = 0.0
            await hand.submit(starts("b", "x"))
            assert client.function_list(library=hand.journal.library)
    finally:
        await hand.journal.close()
