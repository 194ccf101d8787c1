"""The command line on a real Redis: submit, look, steer, doctor."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aios_dist.config import FleetConfig
from aios_dist.errors import NotAllowed, ProviderBusy, RateLimited
from aios_dist.journal import Journal, Refusal
from aios_dist.journal.records import Decision, RankedStep
from aios_dist.model.calls import LLMRequest, LLMResponse, Usage
from aios_dist.model.jobs import JobState, Kind, NewStep, Outcome, Rejection, encode
from aios_dist.program import turns
from tests.redis import command_line
from tests.redis.command_line import Done, announce

cli, folder = command_line.cli, command_line.folder


def finding(report: dict[str, Any], check: str) -> list[dict[str, Any]]:
    return [f for f in report["findings"] if f["check"] == check]


# -- submit and look -----------------------------------------------------------------------------------


def test_a_submitted_job_is_listed_shown_and_cancelled(cli: Callable[..., Done]) -> None:
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").out == "j1\n"
    (listed,) = cli("job", "list", "--json").json
    assert listed["id"] == "j1"
    assert (listed["state"], listed["agent"], listed["steps_total"], listed["steps_done"]) == (
        "running",
        "greet",
        1,
        0,
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", listed["submitted_at"])
    assert listed["ended_at"] is None
    shown = cli("job", "show", "j1", "--json").json
    (step,) = shown["steps"]
    assert (step["state"], step["label"], step["lane"], step["worker"]) == ("ready", "small", "llm", None)
    assert [json.loads(line)["what"] for line in cli("job", "events", "j1", "--json").out.splitlines()] == [
        "submitted",
        "ready",
    ]
    assert cli("job", "cancel", "j1", "--json").json == [
        {"id": "j1", "cancelled": True, "state": "cancelled"}
    ]
    assert cli("job", "list", "--open", "--json").json == []
    ended = cli("job", "wait", "j1")
    assert (ended.code, ended.out) == (1, "")
    assert "cancelled" in ended.err


def test_the_same_id_is_the_same_job_and_other_input_is_refused(cli: Callable[..., Done]) -> None:
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").code == 0
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j1").code == 0
    refused = cli("submit", "greet", "--input", '"Bo"', "--id", "j1")
    assert refused.code == 2
    assert "taken by another job" in refused.err
    assert len(cli("job", "list", "--json").json) == 1


def test_prompts_are_shown_only_when_asked_for(cli: Callable[..., Done]) -> None:
    cli("submit", "--prompt", "SECRET {input}", "--input", '"word"', "--id", "j1")
    for args in (
        ["job", "show", "j1"],
        ["job", "show", "j1", "--json"],
        ["job", "list"],
        ["job", "events", "j1"],
    ):
        assert "SECRET" not in cli(*args).out
    assert "SECRET word" in cli("job", "show", "j1", "--prompts").out
    assert "SECRET word" in json.dumps(cli("job", "show", "j1", "--prompts", "--json").json)


def test_a_plan_is_submitted_whole_or_not_at_all(cli: Callable[..., Done], folder: Path) -> None:
    plan = {"order": "fixed", "id": "p", "jobs": [{"agent": "greet", "input": n} for n in ("a", "b")]}
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    assert cli("submit", "--file", "plan.json").out.split() == ["p.0", "p.1"]
    states = {j["id"]: j["state"] for j in cli("job", "list", "--json").json}
    assert states == {"p.0": "running", "p.1": "waiting"}
    plan = {
        "order": "fixed",
        "jobs": [{"agent": "greet", "input": 1, "id": "x"}, {"agent": "nobody", "id": "y"}],
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    refused = cli("submit", "--file", "plan.json")
    assert refused.code == 2
    assert "No agent 'nobody'" in refused.err
    assert len(cli("job", "list", "--json").json) == 2


def test_a_wait_that_ends_too_early_exits_with_1_and_says_that_the_job_goes_on(
    cli: Callable[..., Done],
) -> None:
    done = cli("submit", "greet", "--input", '"Ada"', "--wait", "--timeout", "0.2", "--json")
    assert done.code == 1
    assert done.json["state"] == "running"
    assert "has not ended within 0.2 s" in done.err


@pytest.mark.parametrize(
    "args",
    [
        *(["show"], ["wait"], ["events"], ["events", "-f"], ["cancel"], ["pause"], ["resume"], ["retry"]),
        ["fork", "--step", "1"],
    ],
    ids=" ".join,
)
def test_an_unknown_job_is_one_sentence_and_exit_code_2(cli: Callable[..., Done], args: list[str]) -> None:
    done = cli("job", *args, "nope")
    assert (done.code, done.out) == (2, "")
    assert "There is no job 'nope'" in done.err


# -- steering ------------------------------------------------------------------------------------------


def answer(redis_url: str, fleet_name: str, *, error: Exception | None = None) -> None:
    """A worker takes the first step of the lane ``llm`` and answers it, or fails."""

    async def work() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        usage = Usage(prompt_tokens=60, output_tokens=40, calls=1)
        outcome = Outcome.failed(error) if error else Outcome(response=LLMResponse("hm", usage=usage))
        await journal.commit(claim, encode(outcome), ok=error is None, usage=usage, turn_here=False)
        await journal.close()

    asyncio.run(work())


def lose(redis_url: str, fleet_name: str, lane: str = "llm", *, times: int = 1) -> None:
    """A worker takes the first step of the lane and is lost, and the next, until the step is given up."""

    async def work() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url, attempts=times))
        for _ in range(times):
            claim = await journal.claim(lane, "w")
            assert claim is not None
            await journal.connection.command("ZADD", journal.keys.leases, "XX", 1, claim.lease)
            await journal.reap([lane])
        await journal.close()

    asyncio.run(work())


def test_a_job_is_paused_and_resumed(cli: Callable[..., Done]) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    assert cli("job", "pause", "j1") == (0, "j1 paused\n", "")
    assert cli("job", "pause", "j1", "--json").json == [{"id": "j1", "paused": True, "state": "paused"}]
    assert "Paused: asked for. Go on: aios-dist job resume j1\n" in cli("job", "show", "j1").out
    shown = cli("job", "show", "j1", "--json").json
    assert (shown["state"], shown["why"], shown["steps"][0]["state"]) == ("paused", "asked for", "parked")
    late = cli("job", "wait", "j1", "--timeout", "0.3")
    assert "Job 'j1' is paused (asked for); it waits for: aios-dist job resume j1\n" in late.err
    assert cli("job", "resume", "j1") == (0, "j1 resumed\n", "")
    cli("job", "pause", "j1")
    cli("job", "cancel", "j1")
    assert "Paused" not in cli("job", "show", "j1").out
    for verb in ("pause", "resume"):
        refused = cli("job", verb, "j1")
        assert (refused.code, refused.out) == (2, "")
        assert (
            f"Job 'j1' is cancelled: only a {'running' if verb == 'pause' else 'paused'} job" in refused.err
        )


def test_a_job_over_its_budget_pauses_until_it_has_a_larger_one(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1", "--budget-tokens", "100")
    answer(redis_url, fleet_name)
    play_turn(redis_url, fleet_name)
    assert spent(redis_url, fleet_name)
    assert cli("job", "show", "j1", "--json").json["why"] == "budget of the job used up"
    (found,) = finding(cli("doctor", "--json").json, "budgets")
    assert found["level"] == "warning"
    assert found["fix"].startswith("aios-dist job resume j1 --budget-tokens N (or --budget-money X); ")
    assert cli("job", "resume", "j1", "--budget-tokens", "101").code == 0
    assert not spent(redis_url, fleet_name)


def play_turn(redis_url: str, fleet_name: str) -> None:
    """The turn that is due, by the runner's own parts."""

    async def work() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("turns", "w")
        assert claim is not None
        assert claim.is_turn
        catalog = turns.Catalog(
            models={"small": "llm"}, default="small", prompt_limit=10**6, result_limit=10**6
        )
        history = await journal.load(claim.job)
        replay = turns.rebuild(history, catalog)
        decision = turns.decide(replay, history.record, catalog, first=len(history.steps))
        await journal.advance(claim.job, decision, token=claim.token)
        replay.close()
        await journal.close()

    asyncio.run(work())


def spent(redis_url: str, fleet_name: str) -> bool:
    """Whether the next step of the lane ``llm`` may not run."""

    async def work() -> bool:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        await journal.close()
        return claim is None

    return asyncio.run(work())


def test_a_job_past_its_deadline_fails(cli: Callable[..., Done], redis_url: str, fleet_name: str) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1", "--deadline", "0.001")

    async def reap() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        await journal.reap(["llm"])
        await journal.close()

    asyncio.run(reap())
    done = cli("job", "wait", "j1")
    assert done.code == 1
    assert "failed: DeadlineExceeded" in done.err


def test_an_empty_id_is_none_and_is_refused(cli: Callable[..., Done]) -> None:
    for said in (
        ("submit", "greet", "--input", '"Ada"', "--id", ""),
        ("job", "fork", "j1", "--step", "0", "--id", ""),
    ):
        done = cli(*said)
        assert (done.code, done.out) == (2, "")
        assert "Job id '' must be letters" in done.err


def test_a_signal_is_sent_as_json(cli: Callable[..., Done]) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    assert cli("job", "signal", "j1", "go", "--value", '{"ok": true}') == (0, "j1 signalled\n", "")
    assert cli("job", "signal", "j1", "go", "--json").json[0]["signalled"] is True
    events = [json.loads(line) for line in cli("job", "events", "j1", "--json").out.splitlines()]
    assert [e["detail"] for e in events if e["what"] == "signal"] == ["go", "go"]
    refused = cli("job", "signal", "j1", "a b")
    assert (refused.code, refused.out) == (2, "")
    cli("job", "cancel", "j1")
    assert "a job that has ended takes no signals" in cli("job", "signal", "j1", "go").err


def test_a_failed_job_is_retried_and_forked(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    cli("job", "pause", "j1")
    assert "only a job that failed or was cancelled" in cli("job", "retry", "j1").err
    cli("job", "resume", "j1")
    answer(redis_url, fleet_name)
    play_turn(redis_url, fleet_name)
    answer(redis_url, fleet_name, error=NotAllowed("no key"))
    play_turn(redis_url, fleet_name)
    assert cli("job", "show", "j1", "--json").json["state"] == "failed"
    assert cli("job", "retry", "j1") == (0, "j1 retried\n", "")
    states = [s["state"] for s in cli("job", "show", "j1", "--json").json["steps"]]
    assert states == ["done", "ready"]
    assert cli("job", "fork", "j1", "--step", "1", "--id", "j2") == (0, "j2\n", "")
    forked = cli("job", "show", "j2", "--json").json
    assert (forked["steps_done"], forked["calls"]) == (1, 0)
    assert cli("job", "fork", "j1", "--step", "0", "--json").json["id"].startswith("j1-fork-")
    assert "is taken" in cli("job", "fork", "j1", "--step", "0", "--id", "j2").err
    assert "has no step 7" in cli("job", "fork", "j1", "--step", "7").err


def test_a_step_that_waits_for_another_try_says_why(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")

    async def fail() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        await journal.release(claim, "ProviderBusy", 60.0, error=ProviderBusy("busy"))
        await journal.close()

    asyncio.run(fail())
    assert (
        "Step 0 is tried again; failed tries so far: 1, the last: ProviderBusy."
        in cli("job", "show", "j1").out
    )
    (step,) = cli("job", "show", "j1", "--json").json["steps"]
    assert (step["state"], step["failed_tries"]) == ("ready", ["ProviderBusy"])


def test_a_dead_letter_is_listed_shown_retried_and_dropped(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    assert cli("dead", "list", "--json").json == []
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    lose(redis_url, fleet_name, times=2)
    (letter,) = cli("dead", "list", "--json").json
    assert (letter["job"], letter["step"], letter["agent"]) == ("j1", 0, "greet")
    play_turn(redis_url, fleet_name)
    shown = cli("dead", "show", "j1", "--json").json
    (dead,) = shown["dead"]
    assert (shown["state"], dead["label"], dead["attempt"]) == ("failed", "small", 2)
    assert dead["error"]["type"] == "WorkerLost"
    assert [e["what"] for e in dead["events"]] == ["ready", "started", "released", "started", "failed"]
    assert "Step 0 (llm small on lane llm) given up" in cli("dead", "show", "j1").out
    (found,) = finding(cli("doctor", "--json").json, "dead letters")
    assert found["level"] == "warning"
    assert cli("dead", "retry", "j1").out == "j1 retried\n"
    assert cli("dead", "list", "--json").json == []
    none = cli("dead", "show", "j1")
    assert (none.code, none.out) == (2, "")
    assert "Job 'j1' has no dead letters" in none.err
    lose(redis_url, fleet_name)
    assert cli("dead", "drop", "j1", "--json").json == [{"id": "j1", "dropped": 1}]
    assert cli("dead", "drop", "j1").code == 2


def test_limits_are_set_and_shown_in_the_running_fleet(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    (view,) = cli("model", "list", "--json").json
    assert (view["name"], view["max_in_flight"], view["hold_until"]) == ("small", None, None)
    assert cli("model", "set", "small", "--max-in-flight", "1").out == "small: 1 calls in flight\n"
    cli("model", "set", "small", "--tokens-per-minute", "1000")
    for name in ("Ada", "Bo"):
        cli("submit", "greet", "--input", json.dumps(name))
    assert run(redis_url, fleet_name) == [True, False]
    (view,) = cli("model", "list", "--json").json
    assert (view["max_in_flight"], view["tokens_per_minute"]) == (1, 1000)
    assert (view["in_flight"], view["requests"], view["steps_held"]) == (1, 1, 1)
    assert view["tokens"] > 500  # the estimate
    (found,) = finding(cli("doctor", "--json").json, "holds")
    assert (found["level"], found["what"]) == ("ok", "Model 'small' is at its limit; 1 step waits for it.")
    assert cli("model", "set", "small", "--max-in-flight", "0", "--tokens-per-minute", "0").out == (
        "small: no limit\n"
    )
    unknown = cli("model", "set", "nope", "--max-in-flight", "1")
    assert (unknown.code, unknown.err) == (2, "aios-dist: There is no model 'nope'; known are small.\n")


def run(redis_url: str, fleet_name: str) -> list[bool]:
    """Whether two claims, one after the other, get a step."""

    async def work() -> list[bool]:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        got = [await journal.claim("llm", "w") is not None for _ in range(2)]
        await journal.close()
        return got

    return asyncio.run(work())


def test_doctor_names_a_model_on_hold(cli: Callable[..., Done], redis_url: str, fleet_name: str) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")

    async def hold() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        await journal.release(
            claim, "RateLimited", 60.0, error=RateLimited("slow down"), refusal=Refusal(60.0)
        )
        await journal.close()

    asyncio.run(hold())
    (found,) = finding(cli("doctor", "--json").json, "holds")
    assert found["level"] == "warning"
    assert found["what"].startswith("Nobody calls model 'small' until ")
    (view,) = cli("model", "list", "--json").json
    assert view["failures"] == 1
    assert view["hold_until"] is not None


def test_options_that_a_provider_has_no_word_for_are_named(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    assert cli("job", "show", "j1", "--json").json["steps"][0]["left_out"] == []

    async def answer() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        said = LLMResponse("hi", usage=Usage(1, 1, 1), provider="anthropic", left_out=("logit_bias", "seed"))
        await journal.commit(claim, encode(Outcome(response=said)), ok=True, usage=said.usage)
        await journal.close()

    asyncio.run(answer())
    assert "Step 0 was asked without logit_bias, seed: anthropic has no word for that." in (
        cli("job", "show", "j1").out
    )
    assert cli("job", "show", "j1", "--json").json["steps"][0]["left_out"] == ["logit_bias", "seed"]


def test_a_provider_that_reports_no_usage_is_named_and_what_is_estimated_is_said(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")

    async def answer() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        answered = Outcome(response=LLMResponse("hi", usage=Usage(0, 0, 1)))
        await journal.commit(claim, encode(answered), ok=True, usage=answered.usage)
        await journal.close()

    asyncio.run(answer())
    (found,) = finding(cli("doctor", "--json").json, "usage")
    assert found["what"].startswith("Model 'small' reports no usage: estimates stand in limits, budgets")
    (view,) = cli("model", "list", "--json").json
    assert (view["answers"], view["answers_without_usage"]) == (1, 1)
    assert "reports no usage: estimates stand" in cli("model", "list").out
    estimated = cli("job", "show", "j1", "--json").json["tokens_estimated"]
    assert estimated > 500
    assert f"(≈ {estimated} of them estimated: no usage came)" in cli("job", "show", "j1").out


# -- fleet, health, doctor -----------------------------------------------------------------------------


def test_fleet_shows_depths_and_workers(cli: Callable[..., Done], redis_url: str, fleet_name: str) -> None:
    for name in ("Ada", "Bo"):
        cli("submit", "greet", "--input", json.dumps(name))
    announce(redis_url, fleet_name)
    seen = cli("fleet", "--json").json
    assert seen["jobs_open"] == 2
    assert [(w["pool"], w["slots"], w["in_flight"]) for w in seen["workers"]] == [("llm", 4, 0)]
    lanes = {lane["name"]: lane for lane in seen["lanes"]}
    assert lanes["llm"] == {
        "name": "llm",
        "depth": 2,
        "due": 0,
        "in_flight": 0,
        "wanted": 2,
        "tickets": 2,
        "slots": 4,
        "workers": 1,
        "policy": "fifo",
        "oldest_every": 0,
        "fair": None,
        "by_hand": False,
        "to_come": None,
        "depth_by_tenant": None,
        "tenants_waiting": None,
    }
    assert lanes["turns"]["workers"] == 0
    assert seen["models"] == [{"name": "small", "lane": "llm", "steps_held": 0}]


def test_a_host_is_healthy_while_its_worker_renews(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    assert cli("healthcheck").code == 1
    announce(redis_url, fleet_name)
    assert cli("healthcheck") == (0, "", "")
    assert cli("healthcheck", "--pool", "turns").code == 1
    announce(redis_url, fleet_name, late=11.0)
    sick = cli("healthcheck")
    assert sick.code == 1
    assert "has not renewed for 11 s" in sick.err


def test_doctor_finds_lanes_without_a_worker_and_gives_the_fix(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"')
    sick = cli("doctor", "--json")
    assert sick.code == 1
    (lane,) = finding(sick.json, "lanes")
    assert lane["level"] == "problem"
    assert "1 step waits" in lane["what"]
    assert lane["fix"] == "Start one: aios-dist worker llm"
    announce(redis_url, fleet_name)
    well = cli("doctor", "--json")
    problems = [f["check"] for f in well.json["findings"] if f["level"] == "problem"]
    assert problems == ["append-only file"]  # the Redis of the tests has none
    for check in ("redis", "eviction", "clock", "rights", "functions", "models"):
        assert [f["level"] for f in finding(well.json, check)] == ["ok"], check


def test_doctor_says_which_rights_an_account_lacks(
    cli: Callable[..., Done], redis_url: str, redis_client: Any
) -> None:
    user = f"u{os.getpid()}"
    redis_client.execute_command(
        "ACL", "SETUSER", user, "on", ">pw", "~*", "&*", "+@all", "-zunionstore", "-brpop", "-fcall"
    )
    try:
        done = cli("--redis-url", redis_url.replace("//", f"//{user}:pw@"), "doctor", "--json")
    finally:
        redis_client.execute_command("ACL", "DELUSER", user)
    (found,) = finding(done.json, "rights")
    assert found["level"] == "problem"
    assert "ZUNIONSTORE" in found["what"]
    assert "BRPOP" in found["what"]
    (found,) = finding(done.json, "functions")
    assert found["level"] == "warning"
    assert "FCALL" in found["what"]
    assert "run as scripts" in found["what"]
    assert found["fix"] == f"ACL SETUSER {user} +fcall +function|load +function|delete"
    assert "pw" not in done.out


def test_what_an_agent_was_refused_and_a_class_of_its_own_are_named(
    cli: Callable[..., Done], redis_url: str, fleet_name: str
) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j1")
    own = type("RateLimited", (Exception,), {"__module__": "shop"})
    refused = (Rejection("UnknownName", "There is no model 'big'."),)

    async def refuse() -> None:
        journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
        claim = await journal.claim("llm", "w")
        assert claim is not None
        step = NewStep(Kind.LLM, "llm", encode(LLMRequest([])), "d", "small", rejected=refused)
        decision = Decision(1, 1, [RankedStep(step)], basis=claim.basis)
        done = await journal.commit(
            claim, encode(Outcome(value=1)), ok=True, usage=Usage(), decision=decision
        )
        over = Decision(
            1, 2, ends=JobState.FAILED, result=encode(Outcome.failed(own("too many"))), basis=done.basis
        )
        await journal.advance("j1", over)
        await journal.close()

    asyncio.run(refuse())
    shown = cli("job", "show", "j1").out
    assert "Failed: shop.RateLimited: too many" in shown
    assert "Before step 1 it was refused: UnknownName: There is no model 'big'." in shown
