"""What Flower shows is what has happened: a row for each try, one for each job's end, none for a ticket."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aios_dist import Fleet, JobFailed, fixed
from aios_dist.broker.app import make_app
from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.testing import FakeLLM
from tests.fleet.reading import wait_for
from tests.fleet.shown import (
    ask,
    asks_a_person,
    branches_fail,
    calls,
    looks_up,
    rows,
    states,
    tries_a_tool,
)

if TYPE_CHECKING:
    import redis

    from aios_dist.local.redis_server import EmbeddedRedis

pytestmark = pytest.mark.fleet

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def watched(redis_server: EmbeddedRedis, fleets: Any, fake_llm: FakeLLM) -> Iterator[LocalFleet]:
    """Two machines, Flower, and a worker of its own for what is killed."""
    config = Config(
        fleet=FleetConfig(
            name=fleets.new_name(),
            redis_url=redis_server.url,
            modules=["tests.fleet.shown"],
            lease=1.5,
            renew=0.4,
            reconcile=0.3,
            shutdown_grace=2.0,
        ),
        models={
            "small": ModelConfig(base_url=fake_llm.url, attempts=3, backoff=0.05, breaker=0),
            "frail": ModelConfig(base_url=fake_llm.url, lane="frail"),
        },
        pools={
            "all": PoolConfig(lanes=["llm", "turns"], slots=8),
            "frail": PoolConfig(lanes=["frail"], slots=2),
        },
    )
    workers = [WorkerSpec("machine-1", "all"), WorkerSpec("machine-2", "all")]
    with LocalFleet(config, workers, embedded_redis=False, flower=0, cwd=ROOT) as machine:
        wait_for(lambda: len(json.loads(ask(machine, "/workers?json=1")[1])["data"]) == len(workers))
        yield machine


@pytest.fixture
def fleet(watched: LocalFleet, llm: FakeLLM) -> Iterator[Fleet]:
    llm.script(latency=0.02)
    with Fleet(watched.config) as opened:
        yield opened


def shows(machine: LocalFleet, job: str, *expected: str) -> dict[str, dict[str, Any]]:
    """Those rows, and no other, when Flower has heard of all: ``job`` and the number of a step, each with its
    state."""
    wait_for(lambda: "job" in " ".join(states(rows(machine, job))).split())
    wait_for(lambda: states(rows(machine, job)) == sorted(expected))
    return rows(machine, job)


def test_each_jobs_end_is_a_row_and_its_tries_are_its_children(watched: LocalFleet, fleet: Fleet) -> None:
    job = fleet.submit(calls, count=3, id="shown-done", tenant="acme")
    job.result(timeout=20)
    found = shows(watched, job.id, "job SUCCESS", "0 SUCCESS", "1 SUCCESS", "2 SUCCESS")
    (own,) = [id for id, row in found.items() if row["args"] == "job shown-done"]
    row = found[own]
    assert (row["name"], row["kwargs"]) == ("calls", "job, tenant acme, steps 3")
    usage = job.view().usage
    assert row["result"] == f"3 calls, {usage.prompt_tokens} + {usage.output_tokens} tokens"
    assert row["runtime"] == pytest.approx(job.view().ended_at - job.view().submitted_at, abs=0.001)
    for id, of_try in found.items():
        if id != own:
            assert (of_try["parent_id"], of_try["root_id"], of_try["name"]) == (own, own, "calls")
    page = ask(watched, f"/task/{own}")[1].decode()
    assert all(id in page for id in found), "the job's page names its children"


def test_a_failed_job_is_red_with_where_it_broke_and_its_log_line_is_one(
    watched: LocalFleet, fleet: Fleet
) -> None:
    job = fleet.submit(looks_up, key="x", id="shown-failed")
    with pytest.raises(JobFailed):
        job.result(timeout=20)
    found = shows(watched, job.id, "job FAILURE", "0 SUCCESS")
    (row,) = [row for row in found.values() if row["args"] == "job shown-failed"]
    assert row["exception"] == row["result"] == "KeyError: 'x'"
    assert 'shown.py", line' in row["traceback"]
    assert "in looks_up" in row["traceback"]
    assert 'return {"a": "b"}[key]' in row["traceback"]
    assert "aios_dist/" not in row["traceback"]
    log = "".join(member.log.read_text() for member in watched.members)
    (line,) = [line for line in log.splitlines() if "shown-failed" in line]
    said = json.loads(line[line.index("{") :])
    assert {k: said[k] for k in ("job", "agent", "tenant", "error")} == {
        "job": "shown-failed",
        "agent": "looks_up",
        "tenant": "default",
        "error": "KeyError",
    }
    assert said["traceback"] == row["traceback"]


def test_five_failed_jobs_are_five_red_rows_beside_those_of_their_steps(
    watched: LocalFleet, fleet: Fleet, llm: FakeLLM
) -> None:
    llm.script(faults="400:1")
    jobs = [fleet.submit(branches_fail, branches=4, id=f"shown-wide-{n}") for n in range(5)]
    for job in jobs:
        with pytest.raises(JobFailed):
            job.result(timeout=30)
    for job in jobs:
        wait_for(lambda job=job: "job FAILURE" in states(rows(watched, job.id)))
    query = "draw=1&start=0&length=100&search%5Bvalue%5D=state%3AFAILURE%20kwargs%3Ajob%20args%3Ashown-wide"
    query += "&order%5B0%5D%5Bcolumn%5D=0&order%5B0%5D%5Bdir%5D=asc&columns%5B0%5D%5Bdata%5D=name"
    page = json.loads(ask(watched, f"/tasks/datatable?{query}")[1])
    assert sorted(row["args"] for row in page["data"]) == [f"job {job.id}" for job in jobs]


def test_a_failed_try_is_one_that_is_tried_again_and_not_green(
    watched: LocalFleet, fleet: Fleet, llm: FakeLLM
) -> None:
    llm.script(faults="500:1")
    job = fleet.submit(calls, id="shown-tried")
    wait_for(lambda: len(llm.calls) >= 1)
    llm.script(faults="")
    job.result(timeout=20)
    wait_for(lambda: "job SUCCESS" in states(rows(watched, job.id)))
    tries = job.steps()[0].attempt
    expected = ["0 RETRY"] * (tries - 1) + ["0 SUCCESS", "job SUCCESS"]
    assert tries > 1
    found = shows(watched, job.id, *expected)
    (first, *_) = [row for row in found.values() if row["state"] == "RETRY"]
    assert first["exception"].startswith("ProviderBusy: ")
    assert first["result"].startswith("ProviderBusy: again in ")


def test_cancelled_jobs_and_members_that_were_dropped_have_their_rows(
    watched: LocalFleet, fleet: Fleet, llm: FakeLLM
) -> None:
    job = fleet.submit(asks_a_person, id="shown-cancelled")
    wait_for(lambda: len(job.steps()) == 2)
    job.cancel()
    shows(watched, job.id, "job REVOKED", "0 SUCCESS")
    plan = fleet.submit_plan(fixed([looks_up.job(key="x"), calls.job()]), id="shown-plan")
    wait_for(lambda: all(member.view().state.ended for member in plan))
    wait_for(lambda: states(rows(watched, "shown-plan.0")) == ["0 SUCCESS", "job FAILURE"])
    found = shows(watched, "shown-plan.1", "job REVOKED")
    assert next(iter(found.values()))["kwargs"] == "job, tenant default, plan shown-plan, steps 1"


def test_a_retry_is_a_row_of_its_own(watched: LocalFleet, fleet: Fleet, llm: FakeLLM) -> None:
    llm.script(faults="400:1")
    job = fleet.submit(calls, id="shown-again")
    with pytest.raises(JobFailed):
        job.result(timeout=20)
    shows(watched, job.id, "job FAILURE", "0 FAILURE")
    llm.script(faults="")
    job.retry()
    job.result(timeout=20)
    shows(watched, job.id, "job FAILURE", "0 FAILURE", "job SUCCESS", "0 SUCCESS")


def test_spare_tickets_are_no_rows_and_tickets_that_come_twice_change_none(
    watched: LocalFleet, fleet: Fleet, redis_client: redis.Redis
) -> None:
    redis_client.script_flush()  # the tickets of the next write go out twice, under one id
    jobs = fleet.submit_many([calls.job(id=f"shown-twice-{n}") for n in range(30)])
    found = redis_client.lrange(f"{watched.config.fleet.name}.llm", 0, -1)
    for ticket in found:  # and some more of them, all spare
        redis_client.lpush(f"{watched.config.fleet.name}.llm", ticket)
    for job in jobs:
        job.result(timeout=30)
    for job in jobs:
        shows(watched, job.id, "job SUCCESS", "0 SUCCESS")
    assert not [row for row in rows(watched).values() if not (row["args"] or "").startswith("job ")]


def test_the_rows_of_a_worker_that_is_killed_do_not_stay_started(
    watched: LocalFleet, fleet: Fleet, llm: FakeLLM
) -> None:
    llm.script(latency=30.0)
    (member,) = watched.start_workers([WorkerSpec("frail-1", "frail")])
    job = fleet.submit(calls, model="frail", id="shown-killed")
    wait_for(lambda: states(rows(watched, job.id)) == ["0 STARTED"])
    node = next(iter(rows(watched, job.id).values()))["worker"]
    watched.kill(member)
    llm.script(latency=0.02)
    watched.start_workers([WorkerSpec("frail-2", "frail")])
    job.result(timeout=30)
    found = shows(watched, job.id, "0 RETRY", "0 SUCCESS", "job SUCCESS")
    (lost,) = [row for row in found.values() if row["state"] == "RETRY"]
    assert lost["exception"].startswith(f"WorkerLost: {node.partition('@')[0]}")
    assert lost["worker"] == node


def test_words_of_a_tool_are_one_line_in_flower_and_change_no_order(
    watched: LocalFleet, fleet: Fleet
) -> None:
    job = fleet.submit(tries_a_tool, id="shown-words")
    with pytest.raises(JobFailed):
        job.result(timeout=20)
    found = shows(watched, job.id, "job FAILURE", "0 FAILURE")
    for row in found.values():
        assert "first SUCCESS second\ufffdgnp.exe" in row["exception"]
        assert "in breaks" in row["traceback"]


def test_flowers_pages_stand_in_no_frame_and_run_its_own_scripts_alone(watched: LocalFleet) -> None:
    for path in ("/workers", "/tasks", "/broker", "/api/tasks", "/static/js/flower.js", "/nowhere"):
        _, page, headers = ask(watched, path)
        policy = headers["Content-Security-Policy"]
        for script in re.findall(
            rb"<script[^>]*>([^<]+)</script>", page
        ):  # without it, /workers stands still
            assert base64.b64encode(hashlib.sha256(script).digest()).decode() in policy
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("DENY", "nosniff")


def test_rows_that_were_told_while_flower_did_not_hear_are_told_again(
    watched: LocalFleet, fleet: Fleet, redis_client: redis.Redis
) -> None:
    redis_client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
    jobs = fleet.submit_many([calls.job(id=f"shown-cut-{n}") for n in range(20)])
    for job in jobs:
        job.result(timeout=30)
    for job in jobs:
        shows(watched, job.id, "job SUCCESS", "0 SUCCESS")


def test_a_row_that_is_to_be_revoked_is_told_by_its_job(
    watched: LocalFleet, fleet: Fleet, llm: FakeLLM
) -> None:
    llm.script(latency=30.0)
    job = fleet.submit(calls, id="shown-revoked")
    wait_for(lambda: states(rows(watched, job.id)) == ["0 STARTED"])
    (row,) = rows(watched, job.id)
    app = make_app(watched.config)

    def said() -> str:
        """By all workers that answer in time."""
        return str(app.control.broadcast("revoke", arguments={"task_id": [row]}, reply=True, timeout=1))

    wait_for(lambda: "this one serves job shown-revoked" in said())
    app.close()
    job.cancel()
    shows(watched, job.id, "0 REVOKED", "job REVOKED")
