"""Who goes first, from the command line on a real Redis: priorities, lanes, tenants, plans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aios_dist.config import FleetConfig, load
from aios_dist.errors import NotAllowed
from aios_dist.journal import Journal, Said
from aios_dist.model.jobs import Outcome, encode
from tests.redis import command_line
from tests.redis.command_line import Done

cli, folder = command_line.cli, command_line.folder

Cli = Callable[..., Done]


@pytest.fixture
def claimed(redis_url: str, fleet_name: str) -> Callable[[], list[str]]:
    """The jobs whose steps a worker takes from the lane ``llm`` now, in this order; then it fails them."""

    async def work() -> list[str]:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claims = []
        while (claim := await journal.claim("llm", "w")) is not None:
            claims.append(claim)
        for claim in claims:
            await journal.commit(claim, encode(Outcome.failed(NotAllowed("no key"))), ok=False)
        await journal.close()
        return [claim.job for claim in claims]

    return lambda: asyncio.run(work())


def submit(cli: Cli, *ids: str, tenant: str = "default") -> None:
    for id in ids:
        assert cli("submit", "greet", "--input", '"Ada"', "--id", id, "--tenant", tenant).out == f"{id}\n"


def lane(cli: Cli, name: str = "llm") -> dict[str, Any]:
    return next(found for found in cli("lane", "list", "--json").json if found["name"] == name)


def plan_file(folder: Path, **plan: Any) -> str:
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return "plan.json"


def greet(id: str, **more: Any) -> dict[str, Any]:
    return {"agent": "greet", "input": "Ada", "id": id, **more}


# -- priorities ----------------------------------------------------------------------------------------


def test_a_priority_given_while_the_steps_wait_lets_a_job_overtake(
    cli: Cli, claimed: Callable[[], list[str]]
) -> None:
    assert cli("lane", "set", "llm", "--policy", "priority").out == "llm: policy priority\n"
    submit(cli, "a", "b")
    assert cli("submit", "greet", "--input", "1", "--id", "c", "--priority", "3").code == 0
    assert cli("job", "priority", "b", "9") == (0, "b has priority 9\n", "")
    assert cli("job", "priority", "a", "0", "--json").json == {
        "id": "a",
        "priority": 0,
        "changed": True,
        "state": "running",
        "in_agent_first_plan": False,
        "ignored_on_lanes": [],
    }
    assert "priority 9" in cli("job", "show", "b").out
    assert cli("job", "show", "c", "--json").json["priority"] == 3
    assert "priority" not in cli("job", "show", "a").out
    assert claimed() == ["b", "c", "a"]


def test_a_priority_that_no_policy_looks_at_is_kept_and_said_so(
    cli: Cli, claimed: Callable[[], list[str]]
) -> None:
    submit(cli, "a", "b")
    said = cli("job", "priority", "b", "9")
    assert said.code == 0
    hint = "Lane llm does not look at priorities: aios-dist lane set llm --policy priority"
    assert said.out.splitlines() == ["b has priority 9", hint]
    assert cli("job", "priority", "b", "8", "--json").json["ignored_on_lanes"] == ["llm"]
    assert claimed() == ["a", "b"]


def test_a_priority_is_taken_also_where_a_lane_has_a_policy_of_a_newer_version(
    cli: Cli, redis_url: str, fleet_name: str
) -> None:
    """Whether that one looks at priorities is not known here."""
    submit(cli, "a")

    async def newer() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        await journal.set_lane("llm", policy="of-a-newer-version", source="hand")
        await journal.close()

    asyncio.run(newer())
    said = cli("job", "priority", "a", "9")
    assert (said.code, said.out, said.err) == (0, "a has priority 9\n", "")


def test_a_job_that_has_ended_takes_no_priority(cli: Cli) -> None:
    submit(cli, "a")
    cli("job", "priority", "a", "2")
    cli("job", "cancel", "a")
    refused = cli("job", "priority", "a", "9")
    assert (refused.code, refused.out) == (2, "")
    assert "Job 'a' is cancelled: a job that has ended takes no priority" in refused.err
    ended = cli("job", "priority", "a", "9", "--json")
    assert (ended.code, ended.json["changed"], ended.json["priority"]) == (2, False, 2)
    unknown = cli("job", "priority", "nope", "9")
    assert (unknown.code, unknown.err) == (2, "aios-dist: There is no job 'nope'.\n")


# -- lanes ---------------------------------------------------------------------------------------------


def test_rules_of_a_lane_are_set_by_hand_and_reset(cli: Cli) -> None:
    as_in_the_file = lane(cli)
    assert (as_in_the_file["policy"], as_in_the_file["by_hand"]) == ("fifo", False)
    said = cli("lane", "set", "llm", "--policy", "las")
    assert said.out == "llm: policy las, one dispatch in 10 to the oldest\n"
    assert cli("lane", "set", "llm", "--fair", "tenant", "--oldest-every", "4", "--json").json == {
        "name": "llm",
        "policy": "las",
        "oldest_every": 4,
        "fair": "tenant",
        "by_hand": True,
    }
    assert [row.split()[:3] for row in cli("lane", "list").out.splitlines()] == [
        ["LANE", "POLICY", "OLDEST"],
        ["llm", "las", "1"],
        ["turns", "fifo", "0"],
    ]
    shared = {found["name"]: found for found in cli("fleet", "--json").json["lanes"]}
    assert shared["llm"] == lane(cli)
    assert cli("lane", "set", "llm", "--fair", "none", "--oldest-every", "0").out == "llm: policy las\n"
    assert cli("lane", "reset", "llm").out == "llm: policy fifo\n"
    assert lane(cli) == as_in_the_file


def test_rules_of_aios_toml_that_no_worker_has_said_yet_are_told_as_to_come(
    cli: Cli, folder: Path, redis_url: str, fleet_name: str
) -> None:
    with (folder / "aios.toml").open("a", encoding="utf-8") as file:
        file.write('\n[lanes.llm]\npolicy = "las"\nfair = "tenant"\n[tenants.acme]\nweight = 2.0\n')
        file.write("[models.other]\nmax_in_flight = 3\n")
    told = (
        "to come with the next worker of this aios.toml: llm: policy las, one dispatch in 10 to the oldest, s"
    )
    assert lane(cli)["policy"] == "fifo"
    assert lane(cli)["to_come"]["policy"] == "las"
    assert told in cli("lane", "list").err
    assert "worker of this aios.toml: tenant 'acme'\n" in cli("tenant", "list").err
    assert "worker of this aios.toml: model 'other'\n" in cli("model", "list").err
    assert "it changes nothing" not in cli("doctor").out
    cli("lane", "set", "llm", "--policy", "fifo")  # by hand: that stays, until the file says something new
    assert lane(cli)["to_come"] is None

    async def a_worker_starts() -> None:
        config = load(folder / "aios.toml", env={"AIOS_REDIS_URL": redis_url, "AIOS_FLEET": fleet_name})
        journal = Journal(config.fleet)
        await journal.say(Said.of(config, config.models), "file")
        await journal.close()

    asyncio.run(a_worker_starts())
    assert lane(cli)["policy"] == "las"
    assert [cli(noun, "list").err for noun in ("lane", "tenant", "model")] == [""] * 3


def test_a_shared_lane_is_listed_by_tenant_and_the_tenants_take_turns(
    cli: Cli, claimed: Callable[[], list[str]]
) -> None:
    cli("lane", "set", "llm", "--fair", "tenant")
    submit(cli, "a1", "a2", "a3", tenant="acme")
    submit(cli, "b1", tenant="bob")
    assert (lane(cli)["depth"], lane(cli)["depth_by_tenant"]) == (4, {"acme": 3, "bob": 1})
    assert "acme 3, bob 1" in cli("lane", "list").out
    assert claimed() == ["a1", "b1", "a2", "a3"]
    assert lane(cli)["depth_by_tenant"] == {}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["set", "lm", "--policy", "las"], "There is no lane 'lm'; known are llm, turns."),
        (
            ["set", "llm", "--oldest-every", "1"],
            "must be 0 (never) or a whole number from 2 to 1,000,000, not 1.",
        ),
        (["reset", "lm"], "There is no lane 'lm'; known are llm, turns."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_rules_that_cannot_be_are_refused_and_nothing_is_written(
    cli: Cli, args: list[str], sentence: str
) -> None:
    before = cli("lane", "list", "--json").json
    refused = cli("lane", *args)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert sentence in refused.err
    assert cli("lane", "list", "--json").json == before


# -- tenants -------------------------------------------------------------------------------------------


def test_what_a_tenant_gets_is_set_in_the_running_fleet(cli: Cli, claimed: Callable[[], list[str]]) -> None:
    assert cli("tenant", "list", "--json").json == []
    said = cli("tenant", "set", "acme", "--weight", "2", "--max-in-flight", "3")
    assert said.out == "acme: weight 2, 3 calls in flight\n"
    said = cli("tenant", "set", "acme", "--tokens-per-day", "5000", "--money-per-day", "0.5")
    assert said.out == "acme: weight 2, 3 calls in flight, 5000 tokens a day, 0.5 in money a day\n"
    assert cli("tenant", "set", "bob", "--weight", "1").out == "bob: weight 1\n"
    cli("lane", "set", "llm", "--fair", "tenant")
    submit(cli, "a1", "a2", tenant="acme")
    assert claimed() == ["a1", "a2"]
    (acme,) = (view for view in cli("tenant", "list", "--json").json if view["name"] == "acme")
    assert acme["counters"].keys() == {"llm"}
    assert (acme["weight"], acme["max_in_flight"], acme["in_flight"], acme["steps_held"]) == (2, 3, 0, 0)
    assert (acme["tokens_per_day"], acme["money_per_day"]) == (5000, 0.5)
    row = next(row for row in cli("tenant", "list").out.splitlines() if row.startswith("acme"))
    assert row.split()[:6] == ["acme", "2", "0/3", "0", "0/5000", "0/0.5"]
    freed = cli("tenant", "set", "acme", "--max-in-flight", "0", "--tokens-per-day", "0", "--json").json
    assert (freed["max_in_flight"], freed["tokens_per_day"], freed["money_per_day"]) == (None, None, 0.5)


def test_a_tenant_over_its_calls_in_flight_waits_and_others_do_not(
    cli: Cli, claimed: Callable[[], list[str]]
) -> None:
    cli("tenant", "set", "acme", "--max-in-flight", "1")
    submit(cli, "a1", "a2", tenant="acme")
    submit(cli, "b1", tenant="bob")
    assert claimed() == ["a1", "b1"]
    assert claimed() == ["a2"]


@pytest.mark.parametrize(
    "said",
    [
        ("tenant", "set", "acme", "--max-in-flight", "9" * 31),
        ("tenant", "set", "acme", "--money-per-day", "nan"),
        ("tenant", "set", "acme", "--weight", "nan"),
        ("tenant", "set", "acme", "--max-in-flight", "2.5"),
        ("model", "set", "small", "--tokens-per-minute", "9" * 31),
    ],
)
def test_a_rule_that_cannot_be_is_one_line_and_no_traceback(cli: Cli, said: tuple[str, ...]) -> None:
    refused = cli(*said)
    assert (refused.code, refused.out) == (2, "")
    assert "Traceback" not in refused.err
    assert "aios-dist: " in refused.err or "Error: " in refused.err
    assert cli("tenant", "list", "--json").json == []


def test_a_tenant_that_cannot_be_is_refused(cli: Cli) -> None:
    refused = cli("tenant", "set", "a b", "--weight", "2")
    assert (refused.code, refused.out) == (2, "")
    assert "must be letters" in refused.err
    assert cli("tenant", "list", "--json").json == []


# -- plans ---------------------------------------------------------------------------------------------


def test_a_hybrid_plan_of_a_file_admits_its_first_group(
    cli: Cli, folder: Path, claimed: Callable[[], list[str]]
) -> None:
    first, second = [greet("a"), greet("b")], {"jobs": [greet("c")], "on_failure": "continue"}
    assert cli("submit", "-f", plan_file(folder, order="hybrid", jobs=[first, second])).code == 0
    states = {job["id"]: job["state"] for job in cli("job", "list", "--json").json}
    assert states == {"a": "running", "b": "running", "c": "waiting"}
    assert claimed() == ["a", "b"]


def test_a_plan_says_how_far_it_is(cli: Cli, folder: Path) -> None:
    jobs = [greet("a"), greet("b"), greet("c")]
    assert cli("submit", "-f", plan_file(folder, order="fixed", id="p", jobs=jobs)).code == 0
    assert cli("plan", "show", "p").out == "p is running: of 3 jobs 1 admitted, 0 ended\n"
    cli("job", "cancel", "a")
    assert (
        cli("plan", "show", "p").out
        == "p is failed: of 3 jobs 1 admitted, 1 ended, 2 dropped after a failure\n"
    )
    shown = cli("plan", "show", "p", "--json").json
    assert shown == {
        "id": "p",
        "state": "failed",
        "jobs": 3,
        "admitted": 1,
        "ended": 1,
        "dropped": 2,
        "at_work": False,
        "parked": [],
    }
    unknown = cli("plan", "show", "nope")
    assert (unknown.code, unknown.err) == (2, "aios-dist: There is no plan 'nope'.\n")


def test_in_an_agent_first_plan_of_a_file_what_stands_first_goes_first(
    cli: Cli, folder: Path, claimed: Callable[[], list[str]]
) -> None:
    jobs = [[greet("a"), greet("b")], greet("c", priority=9, expected_steps=2)]
    cli("lane", "set", "llm", "--policy", "priority")
    assert cli("submit", "-f", plan_file(folder, order="agent-first", jobs=jobs)).out.split() == list("abc")
    assert {job["state"] for job in cli("job", "list", "--json").json} == {"running"}
    assert claimed() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("plan", "sentence"),
    [
        ({"order": "hybird", "jobs": [[greet("a")]]}, "'plan.json': there is no order 'hybird'; did you"),
        ({"order": "hybrid", "jobs": [[greet("a")], []]}, "'plan.json': jobs[1]: a plan needs at least one"),
        ({"order": "fifo", "jobs": [greet("a"), greet("a")]}, "'plan.json': jobs[1]: the id 'a' stands"),
        ({"order": "fifo", "jobs": [greet("a"), greet("b", priority=10)]}, "'plan.json': jobs[1]: prior"),
    ],
    ids=str,
)
def test_a_bad_plan_is_one_sentence_and_nothing_is_written(
    cli: Cli, folder: Path, plan: dict[str, Any], sentence: str
) -> None:
    refused = cli("submit", "-f", plan_file(folder, **plan))
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert sentence in refused.err
    assert cli("job", "list", "--json").json == []


def test_a_plan_takes_no_priority_from_the_outside(cli: Cli, folder: Path) -> None:
    path = plan_file(folder, order="fifo", jobs=[greet("a")])
    refused = cli("submit", "-f", path, "--priority", "0")
    assert (refused.code, refused.out) == (2, "")
    assert "'plan.json' is a plan: its jobs name their agents" in refused.err
