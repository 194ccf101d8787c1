"""The command line: jobs chosen by state, agent, tenant, time and plan; parked ones where people look."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from aios_dist.cli import job_steering
from aios_dist.config import FleetConfig
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.journal.records import Decision, Parking
from tests.redis import command_line
from tests.redis.command_line import Done

cli, folder = command_line.cli, command_line.folder
WHY = "the agent's code changed since this job began (a1 → b2): step 0 was llm 'X', is now llm 'Y'."
Cli = Callable[..., Done]


@pytest.fixture
def park(redis_url: str, fleet_name: str, folder: Any) -> Callable[..., None]:
    """Parks jobs, as a worker's turn does."""

    async def parks(*ids: str) -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        for id in ids:
            history = await journal.load(id)
            decision = Decision(
                history.view.outcomes,
                history.view.steps,
                basis=history.basis,
                code="b2",
                parks=Parking(WHY, "code changed, at step 0"),
            )
            assert (await journal.advance(id, decision)).status == "advanced"
        await journal.close()

    return lambda *ids: asyncio.run(parks(*ids))


@pytest.fixture
def jobs(cli: Cli) -> list[str]:
    """Some of two agents and two tenants."""
    for id, tenant, agent in (("a1", "one", "greet"), ("a2", "two", "greet"), ("b1", "one", "prompts")):
        what = ("greet", "--input", '"Ada"') if agent == "greet" else ("--prompt", "Hello")
        assert cli("submit", *what, "--id", id, "--tenant", tenant).code == 0
    return ["a1", "a2", "b1"]


def ids(done: Done) -> list[str]:
    return sorted(record["id"] for record in done.json)


def test_a_parked_job_says_so_where_people_look(cli: Cli, jobs: list[str], park: Callable[..., None]) -> None:
    park("a1")
    listed = cli("job", "list")
    assert "parked" in listed.out
    assert f"a1 is parked: {WHY}" in listed.err
    shown = cli("job", "show", "a1")
    assert "Job a1: parked\n" in shown.out
    assert f"Parked: {WHY}" in shown.out
    assert "job resume a1 --from-step K" in shown.out
    record = cli("job", "show", "a1", "--json").json
    assert (record["state"], record["parked"], record["why"]) == ("paused", True, WHY)
    found = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "parked"]
    assert [f["level"] for f in found] == ["warning"]
    assert found[0]["what"].startswith(f"1 job of agent 'greet' parked, 'a1' for one: {WHY}")
    assert "aios-dist job resume --agent greet --state parked" in found[0]["fix"]


@pytest.mark.parametrize("args", [("a1",), ("a1", "--json"), ("a1", "a2")])
def test_who_waits_for_a_parked_job_hears_of_it_and_does_not_wait_on(
    cli: Cli, jobs: list[str], park: Callable[..., None], args: tuple[str, ...]
) -> None:
    park("a1", "a2")
    done = cli("job", "wait", *args, "--timeout", "600")
    assert done.code == 1
    assert "step 0 was llm 'X', is now llm 'Y'" in done.err
    if "--json" in args:
        assert done.json["parked"] is True


def test_a_plan_names_the_member_that_it_waits_for(
    cli: Cli, tmp_path: Any, park: Callable[..., None]
) -> None:
    (tmp_path / "plan.toml").write_text(
        'order = "fixed"\nid = "p"\n[agents.x]\nprompts = ["Hello {input}"]\n'
        "[[jobs]]\nagent = 'x'\ninput = '1'\nid = 'p1'\n[[jobs]]\nagent = 'x'\ninput = '2'\nid = 'p2'\n",
        encoding="utf-8",
    )
    submitted = cli("submit", "--file", str(tmp_path / "plan.toml"))
    assert submitted.code == 0, submitted.err
    park("p1")
    assert f"p1 is parked: {WHY}" in cli("plan", "show", "p").out
    assert cli("plan", "show", "p", "--json").json["parked"] == ["p1"]
    (found,) = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "parked"]
    assert "Plan 'p' waits for that." in found["what"]
    assert ids(cli("job", "list", "--plan", "p", "--json")) == ["p1", "p2"]
    for args in (("p2",), ("p2", "--json"), ("p1", "p2")):
        waited = cli("job", "wait", *args, "--timeout", "600")
        assert waited.code == 1
        assert "p1" in waited.err, "which one it is that is waited for"
        assert "step 0 was llm 'X', is now llm 'Y'" in waited.err


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--agent", "greet"], ["a1", "a2"]),
        (["--tenant", "one"], ["a1", "b1"]),
        (["--tenant", "one", "--agent", "greet"], ["a1"]),
        (["--state", "parked"], ["a2"]),
        (["--state", "paused"], ["a2"]),
        (["--state", "running"], ["a1", "b1"]),
        (["--state", "running", "--state", "parked", "--tenant", "two"], ["a2"]),
        (["--state", "done"], []),
        (["--since", "1h"], ["a1", "a2", "b1"]),
        (["--since", "2099-01-01"], []),
        (["--plan", "none"], []),
        (["--ended", "--agent", "greet"], []),
        (["--open", "--agent", "greet", "--limit", "1"], ["a2"]),
    ],
    ids=" ".join,
)
def test_jobs_are_chosen_by_what_holds_of_them(
    cli: Cli, jobs: list[str], park: Callable[..., None], options: list[str], wanted: list[str]
) -> None:
    park("a2")
    assert ids(cli("job", "list", *options, "--json")) == wanted


def test_more_jobs_than_one_page_are_found(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, jobs: list[str], park: Callable[..., None]
) -> None:
    monkeypatch.setattr("aios_dist.journal.finding.FOUND_AT_ONCE", 1)
    assert ids(cli("job", "list", "--state", "running", "--json")) == jobs
    assert len(cli("job", "list", "--state", "running", "--limit", "2", "--json").json) == 2
    park(*jobs)
    assert ids(cli("job", "list", "--state", "parked", "--json")) == jobs


@pytest.mark.parametrize("since", ["yesterday", "5", "h", "-1h", "2026-13-01", ""])
def test_a_time_that_is_none_is_refused_in_a_sentence(cli: Cli, since: str) -> None:
    done = cli("job", "list", "--since", since)
    assert done.code == 2
    assert "is no time: so long ago (90s, 30m, 2h, 7d), or a date" in done.err


def test_all_of_an_agent_are_resumed_at_once(cli: Cli, jobs: list[str], park: Callable[..., None]) -> None:
    park(*jobs)
    done = cli("job", "resume", "--agent", "greet", "--state", "parked", "--yes")
    assert (done.code, done.out) == (0, "2 resumed\n")
    assert ids(cli("job", "list", "--state", "running", "--json")) == ["a1", "a2"]
    again = cli("job", "resume", "--agent", "greet", "--state", "parked", "--yes")
    assert (again.code, again.out) == (0, "0 resumed\n")
    assert "No jobs (state parked, agent 'greet')." in again.err


def test_from_a_step_on_and_what_cannot_be_is_named(
    cli: Cli, jobs: list[str], park: Callable[..., None]
) -> None:
    park("a1", "a2")
    done = cli("job", "resume", "--state", "parked", "--from-step", "7", "--yes")
    assert (done.code, done.out) == (1, "0 resumed\n")
    assert "a1 was not resumed: Job 'a1' has no step 7 to be resumed from." in done.err
    assert done.err.endswith("2 of 2 jobs could not be resumed.\n")
    assert cli("job", "resume", "a1", "--from-step", "0").out == "a1 resumed\n"
    assert cli("job", "pause", "a1").code == 0
    some = cli("job", "resume", "--agent", "greet", "--from-step", "1", "--yes", "--json")
    assert some.code == 1, "one of them could be"
    assert [(record["id"], record["resumed"]) for record in some.json] == [("a2", True), ("a1", False)]
    assert "1 of 2 jobs could not be resumed." in some.err
    shown = cli("job", "show", "a1", "--json").json
    assert (shown["steps"], [step["number"] for step in shown["forgotten"]]) == ([], [0])
    assert "Forgotten, when it was resumed from an earlier step" in cli("job", "show", "a1").out


def test_all_of_a_tenant_are_cancelled_and_those_that_failed_are_retried(cli: Cli, jobs: list[str]) -> None:
    assert cli("job", "cancel", "--tenant", "one", "--yes", "--json").json == [
        {"id": id, "cancelled": True, "state": "cancelled"} for id in ("b1", "a1")
    ]
    assert cli("job", "retry", "--tenant", "one", "--yes").out == "0 retried\n", "those that failed"
    assert cli("job", "retry", "--tenant", "one", "--state", "cancelled", "--yes").out == "2 retried\n"


def test_what_has_ended_since_it_was_chosen_need_not_be_cancelled(
    cli: Cli, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = job_steering.chosen

    def since(*args: Any, **more: Any) -> list[str]:
        monkeypatch.setattr(job_steering, "chosen", chosen)
        found = chosen(*args, **more)
        assert cli("job", "cancel", "a1").code == 0
        return found

    monkeypatch.setattr(job_steering, "chosen", since)
    done = cli("job", "cancel", "--agent", "greet", "--yes")
    assert (done.code, done.out) == (0, "1 cancelled\n")
    assert "a1 was not cancelled: it is cancelled" in done.err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Somebody types this."""

    def types(text: str) -> None:
        stdin = io.StringIO(text)
        stdin.isatty = lambda: True  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", stdin)

    return types


@pytest.mark.parametrize(("answer", "state"), [("y\n", "cancelled"), ("n\n", "running"), ("\n", "running")])
def test_a_count_is_told_and_asked_about_first(
    cli: Cli, jobs: list[str], terminal: Callable[[str], None], answer: str, state: str
) -> None:
    terminal(answer)
    done = cli("job", "cancel", "--agent", "greet")
    assert "Cancel 2 jobs (agent 'greet')? [y/N]" in done.err
    assert done.code == (0 if state == "cancelled" else 130)
    assert cli("job", "show", "a1", "--json").json["state"] == state


def test_nobody_who_can_be_asked_is_no_yes(
    cli: Cli, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    done = cli("job", "cancel", "--agent", "greet")
    assert done.code == 2
    assert "Cancel 2 jobs (agent 'greet'): say --yes where that is meant" in done.err
    assert cli("job", "show", "a1", "--json").json["state"] == "running"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["cancel"], "Name jobs by their ids, or choose some"),
        (["cancel", "a1", "--agent", "greet"], "not both"),
        (["resume", "--state", "done", "--yes"], "Resume jobs of state paused or parked, not done."),
        (["retry", "--state", "running", "--yes"], "Retry jobs of state failed or cancelled, not running."),
        (["cancel", "--state", "asleep"], "asleep"),
    ],
)
def test_what_cannot_be_chosen_is_refused_in_a_sentence(
    cli: Cli, jobs: list[str], args: list[str], said: str
) -> None:
    done = cli("job", *args)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
    assert len(cli("job", "list", "--state", "running", "--json").json) == 3


def test_a_decision_without_parking_says_nothing_of_it() -> None:
    assert "parks" not in Decision(0, 0).plain()
    assert msgspec.structs.asdict(Parking("a", "b")) == {"why": "a", "said": "b"}


def test_doctor_says_of_which_agents_workers_have_different_code_and_who_cannot_say(
    cli: Cli, redis_url: str, fleet_name: str
) -> None:
    async def announce() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        now = await journal.now()
        for n, codes in enumerate(({"trip": "a1"}, {"trip": "b2"}, {"trip": "b2"}, {})):
            info = WorkerInfo(
                id=f"w{n}", host="h", pid=n, pool="turns", lanes=["turns"], slots=1, agents=["trip", "same"],
                codes={**codes, "same": "c3"} if codes else {}, started_at=now, seen_at=now,
            )  # fmt: skip
            await journal.announce(info, {})
        await journal.close()

    asyncio.run(announce())
    found = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "codes"]
    assert [f["what"] for f in found] == [
        "Workers have 2 codes of agent 'trip' (b2 on 2, a1 on 1): open jobs go on with theirs.",
        (
            "Worker w3 is of a release that knows no codes: where an agent's code has changed, it fails the "
            "job that this release would park."
        ),
    ]


@pytest.mark.parametrize(("place", "format"), [("open", "1"), ("3:open", "3")])
def test_jobs_of_another_format_are_named_with_how_to_drain_them(
    cli: Cli, redis_url: str, fleet_name: str, place: str, format: str
) -> None:
    key = f"aios:{{{fleet_name}}}:{place}"
    assert [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "format"] == []
    with redis.Redis.from_url(redis_url) as client:
        client.zadd(key, {"a": 1, "b": 2})
        try:
            (found,) = [f for f in cli("doctor", "--json").json["findings"] if f["check"] == "format"]
        finally:
            client.delete(key)
    assert found["what"].startswith(f"2 jobs are open in a journal of format {format}, which this release")
    assert found["fix"].startswith(
        "Let workers of the release that wrote them run beside these until they have"
    )
