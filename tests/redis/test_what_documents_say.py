"""Promises of README and docs/ that no other file here is about; ``tests/promises.toml`` says which."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from aios_dist import Budget, Fleet, agent, gather, llm, prompts, signal, sleep
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import InvalidInput, JobConflict, ProviderBusy, UnknownName
from aios_dist.journal import Journal, Limits, Said
from aios_dist.journal.journal import MOST_BACK
from aios_dist.journal.views import History
from aios_dist.model.calls import Usage
from aios_dist.model.specs import JobSpec
from aios_dist.program import turns
from aios_dist.program.agents import Agent
from tests.redis import command_line
from tests.redis.command_line import Done, announce
from tests.redis.conftest import starts

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis
    from tests.redis.conftest import Hand

cli, folder = command_line.cli, command_line.folder
Cli = Callable[..., Done]
ROOT = Path(__file__).parents[2]
ONE = prompts("one", ["say {input}"], model="small")
MONEY = Budget(money=1.0)


@agent(name="reviewed-as-documented")
async def reviewed() -> None:
    await gather(llm("a draft", model="small"), sleep(60), signal("review"))


@pytest.fixture
def fleet(redis_url: str, fleet_name: str) -> Iterator[Fleet]:
    announce(redis_url, fleet_name, unpriced=["small"])
    with Fleet(Config(fleet=FleetConfig(name=fleet_name, redis_url=redis_url))) as fleet:
        yield fleet


# Money -------------------------------------------------------------------------------------------------


def test_a_budget_of_money_that_sees_no_call_is_said_once(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "aios_dist"):
        fleet.submit(ONE.job(input="a").within(budget=Budget(tokens=5)))
        assert not caplog.messages
        for _ in range(2):
            fleet.submit(ONE.job(input="a").within(budget=MONEY))
    (said,) = caplog.messages
    assert said.startswith("No price is known of small: in a budget of money such calls cost nothing.")


@pytest.mark.parametrize("limited", [False, True])
def test_doctor_names_models_without_a_price_and_warns_where_a_tenant_may_spend_money(
    cli: Cli, redis_url: str, fleet_name: str, limited: bool
) -> None:
    announce(redis_url, fleet_name, unpriced=["small"])
    if limited:
        cli("tenant", "set", "acme", "--money-per-day", "0.00001")
    (found,) = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "prices"]
    assert found["level"] == ("warning" if limited else "ok")
    assert "No price is known of small" in found["what"]
    assert not limited or ("tenant 'acme'" in found["what"] and "input_price" in found["fix"])


async def test_another_budget_leaves_the_half_that_it_does_not_name(hand: Hand) -> None:
    await hand.submit(starts("j", "x", "y", "z", budget=Budget(tokens=10, money=2.0)))
    await hand.commit(await hand.claim(), usage=Usage(20, 0, 1), money=0.5)
    assert await hand.drain() == []
    await hand.journal.resume("j", Budget(tokens=100))
    await hand.commit(await hand.claim(), usage=Usage(1, 0, 1), money=2.0)
    assert await hand.drain() == []
    assert await hand.state("j") == "paused"


def test_sums_of_money_are_written_in_plain_digits(cli: Cli) -> None:
    said = cli("tenant", "set", "acme", "--money-per-day", "0.0000608").out
    assert "0.0000608 in money a day" in said


# Defaults ------------------------------------------------------------------------------------------------


def test_a_default_is_kept_with_the_job_as_it_was_when_the_job_was_submitted(fleet: Fleet) -> None:
    def module(days: int) -> Agent:
        names = {"__name__": "kept_trips", "agent": agent, "llm": llm}
        code = (
            '@agent(name="kept-trip")\n'
            f'async def trip(city, days={days}): await llm(f"{{days}} days in {{city}}", model="small")'
        )
        exec(compile(code, "kept_trips.py", "exec"), names)
        made: Any = names["trip"]
        return cast("Agent", made)

    async def history() -> History:
        journal = Journal(fleet.config.fleet)
        try:
            return await journal.load("j")
        finally:
            await journal.close()

    fleet.submit(module(2).job(city="Lima", id="j"))
    module(5)
    kept = asyncio.run(history())
    assert (kept.record.input, kept.record.defaults) == ({"city": "Lima"}, {"days": 2})
    replay = turns.rebuild(kept, turns.Catalog({"small": "llm"}, "small", 10**6, 10**6))
    assert (replay.error, len(replay.asked)) == (None, 1)
    replay.close()
    fleet.submit("kept-trip", city="Lima", id="j")  # the same job: defaults make none another


# Ids, and what exists after a failure ---------------------------------------------------------------------


def test_another_tenants_job_of_the_same_id_is_a_conflict_as_another_input_is(fleet: Fleet) -> None:
    fleet.submit(ONE, input="a", id="j")
    fleet.submit(ONE, input="a", id="j")
    for other in ({"input": "b"}, {"input": "a", "tenant": "acme"}):
        with pytest.raises(JobConflict, match=r"other agent, input or tenant\); choose another id"):
            fleet.submit(ONE, id="j", **other)


def test_after_a_conflict_the_parts_before_it_are_there_and_ids_has_them(fleet: Fleet) -> None:
    fleet.submit(ONE, input="a", id="taken")
    jobs: list[JobSpec] = [ONE.job(input="b", id=f"j{n}") for n in range(120)]
    jobs[70] = ONE.job(input="b", id="taken")
    with pytest.raises(JobConflict) as broke:
        fleet.submit_many(jobs)
    assert list(broke.value.ids) == [f"j{n}" for n in range(60)]  # four parts of 15
    assert {view.id for view in fleet.jobs(200)} == {"taken", *broke.value.ids}


def test_a_job_that_is_not_there_says_how_long_one_is_kept(redis_url: str, fleet_name: str) -> None:
    for retention, said in ((604800.0, "7 days"), (4.0, "4 s"), (86400.0, "1 day"), (5400.0, "90 minutes")):
        kept = FleetConfig(name=fleet_name, redis_url=redis_url, retention=retention)
        with Fleet(Config(fleet=kept)) as fleet, pytest.raises(UnknownName, match=f"is kept for {said}"):
            fleet.job("none").status()


def test_a_fork_takes_all_of_a_history_and_nothing_beyond_it(fleet: Fleet) -> None:
    job = fleet.submit(ONE, input="a", id="j")
    assert [step.state for step in job.fork(1, id="all").steps()] == ["ready"]
    with pytest.raises(InvalidInput, match="has no step 2"):
        job.fork(2)


# Failing --------------------------------------------------------------------------------------------------


async def test_a_step_that_is_given_back_again_and_again_is_a_dead_letter(hand: Hand) -> None:
    await hand.submit(starts("j", "x"))
    for times in range(MOST_BACK):
        assert await hand.journal.dead_letters() == [], times
        await hand.journal.release(await hand.claim(), "nobody knows why", counted=True)
    (letter,) = await hand.journal.dead_letters()
    assert (letter.job, letter.step) == ("j", "0")


async def test_a_fallback_counts_against_its_own_model_and_one_at_its_limit_puts_steps_aside_there(
    hand: Hand,
) -> None:
    await hand.limit("big", flight=1)
    await hand.submit(starts("a", "x"), starts("b", "x"))
    for claim in await hand.drain():
        await hand.journal.release(claim, "next", error=ProviderBusy("x"), to=("big", "llm"))
    moved = await hand.drain()
    assert [(c.job, c.label) for c in moved] == [("a", "big")]
    assert (await hand.by_model("held"))["big"] == ["b/0"]
    assert len(await hand.members(hand.keys.inflight("big"))) == 1


# Settings -----------------------------------------------------------------------------------------------


async def test_a_large_limit_that_changes_by_one_is_something_new(hand: Hand) -> None:
    for limit in (1_234_567, 1_234_568):
        await hand.journal.say(Said(models={"small": Limits(tokens_per_minute=limit)}), "file")
        (view,) = await hand.journal.model_views(["small"])
        assert view.limits.tokens_per_minute == limit


async def test_calls_that_began_before_a_first_limit_do_not_count_against_it(hand: Hand) -> None:
    await hand.submit(*(starts(f"j{n}", "x", tokens=10) for n in range(4)))
    await hand.claim()
    await hand.limit(flight=1)
    await hand.claim()
    assert await hand.drain() == []
    await hand.limit(rpm=1)
    await hand.reap()
    assert len(await hand.drain()) == 1, "those two began before there was a limit a minute"


# What the command line prints ------------------------------------------------------------------------------


def test_a_step_that_waits_for_a_time_or_a_signal_stands_on_no_lane(fleet: Fleet) -> None:
    steps = fleet.submit(reviewed).steps()
    assert [(step.kind, step.lane) for step in steps] == [("llm", "llm"), ("sleep", ""), ("signal", "")]


def readme_job_show() -> list[str]:
    text = (ROOT / "README.md").read_text("utf-8")
    return re.findall(r"^Job lima-1:.*?(?=\n```)", text, re.MULTILINE | re.DOTALL)[0].splitlines()


def test_what_the_readme_shows_of_a_job_has_the_lines_of_job_show(cli: Cli) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "lima-1")
    shown = cli("job", "show", "lima-1").out.splitlines()
    header = next(line for line in shown if line.startswith("STEP"))
    assert header.split() == next(line for line in readme_job_show() if line.startswith("STEP")).split()
    assert [line.split()[0] for line in shown[:4]] == ["Job", "Agent", "Submitted", "0"]


def test_a_job_that_has_ended_takes_no_priority(cli: Cli) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j")
    cli("job", "cancel", "j")
    assert cli("job", "priority", "j", "9").code == 2


def test_doctor_of_a_redis_that_keeps_nothing_exits_with_1(cli: Cli, redis_url: str, fleet_name: str) -> None:
    announce(redis_url, fleet_name)
    with redis.Redis.from_url(redis_url) as client:
        kept = client.config_get("appendonly")["appendonly"]
    found = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "append-only file"]
    assert [f["level"] for f in found] == [{"no": "problem", "yes": "ok"}[kept]]
    assert cli("doctor").code == 1


# Rights ---------------------------------------------------------------------------------------------------


def refused_in_the_document() -> dict[str, list[str]]:
    """What docs/deploy.md says is refused to whom."""
    text = (ROOT / "docs/deploy.md").read_text("utf-8")
    rows = re.findall(r"^\| (all three|`aios-\w+`) \| (`.*`) \|$", text, re.MULTILINE)
    found: dict[str, list[str]] = {user: [] for user in ACCOUNTS}
    for user, commands in rows:
        for name in ACCOUNTS if user == "all three" else [user.strip("`")]:
            found[name] += re.findall(r"`([^`]+)`", commands)
    return found


ACCOUNTS = ("aios-worker", "aios-producer", "aios-flower")
JOB, TICKETS = "aios:{aios}:2:job:x", "aios.llm"
ALLOWED = {
    "aios-worker": [f"HGETALL {JOB}", f"BRPOP {TICKETS} 1", "EVAL x 1 aios:{aios}:2:"],
    "aios-producer": [f"HGETALL {JOB}", f"LPUSH {TICKETS} x", f"LLEN {TICKETS}", "EVAL x 1 aios:{aios}:2:"],
    "aios-flower": [
        f"LLEN {TICKETS}",
        "ZCARD aios:{aios}:2:ready:llm",
        "ZRANGE aios:{aios}:2:wanted:llm 0 -1",
        "BRPOP aios.a-b.reply.celery.pidbox 1",
        "SADD aios._kombu.binding.celeryev x",
        "PUBLISH aios./0.celery.pidbox x",
    ],
}


def test_the_accounts_may_do_what_the_document_says_and_no_more(own_server: EmbeddedRedis) -> None:
    rules = (ROOT / "deploy/redis/users.acl.example").read_text("utf-8")
    with redis.Redis.from_url(own_server.url, decode_responses=True) as client:
        for line in rules.splitlines():
            _, name, *said = line.split()
            if name.startswith("aios-"):
                client.execute_command("ACL", "SETUSER", name, *_selectors(said))

        def may(user: str, command: str) -> bool:
            return str(client.execute_command("ACL", "DRYRUN", user, *command.split())) == "OK"

        refused = refused_in_the_document()
        assert {user: len(commands) > 20 for user, commands in refused.items()} == dict.fromkeys(
            ACCOUNTS, True
        )
        for user, commands in refused.items():
            assert [command for command in commands if may(user, command)] == [], user
        for user, commands in ALLOWED.items():
            assert [command for command in commands if not may(user, command)] == [], user


def _selectors(words: list[str]) -> list[str]:
    """The rules of a user, each selector (in brackets) as one of them."""
    made: list[str] = []
    for word in words:
        if made and made[-1].startswith("(") and not made[-1].endswith(")"):
            made[-1] += f" {word}"
        else:
            made.append(word)
    return made
