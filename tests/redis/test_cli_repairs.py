"""What `doctor` and `job show` say of records that cannot be read, and of what no worker can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aios_dist.config import FleetConfig
from aios_dist.journal import Journal
from tests.redis import command_line
from tests.redis.command_line import Done

cli, folder = command_line.cli, command_line.folder
Cli = Callable[..., Done]
Do = Callable[[Callable[[Journal], Awaitable[Any]]], Any]


@pytest.fixture
def do(redis_url: str, fleet_name: str) -> Do:
    """Something with the fleet's journal."""

    def run(work: Callable[[Journal], Awaitable[Any]]) -> Any:
        async def whole() -> Any:
            journal = Journal(FleetConfig(name=fleet_name, redis_url=redis_url))
            try:
                return await work(journal)
            finally:
                await journal.close()

        return asyncio.run(whole())

    return run


def findings(cli: Cli, check: str) -> list[dict[str, Any]]:
    return [f for f in cli("doctor", "--json").json["findings"] if f["check"] == check]


@pytest.mark.parametrize(
    ("field", "value"), [("h0", b"\xc1"), ("h0", b"\x91\x01"), ("n", b"many"), ("v", b"1e"), ("ht", b"\x00")]
)
def test_a_record_that_cannot_be_read_is_set_aside_and_named_and_the_rest_goes_on(
    cli: Cli, do: Do, field: str, value: bytes
) -> None:
    for id in ("whole", "victim"):
        cli("submit", "greet", "--input", '"Ada"', "--id", id)

    async def spoil(journal: Journal) -> None:
        await journal.connection.command("HSET", journal.keys.job("victim"), field, value)
        await journal.walk()
        await journal.reap(["llm", "turns"])
        claim = await journal.claim("llm", "w")
        assert claim is not None
        assert claim.job == "whole"
        assert await journal.claim("llm", "w") is None

    do(spoil)
    (finding,) = [f for f in findings(cli, "journal") if f["level"] == "problem"]
    assert "Job 'victim' is set aside" in finding["what"]
    assert "cannot be read" in finding["what"] or "is no number" in finding["what"]
    assert cli("job", "list").code == 0
    shown = cli("job", "show", "victim")
    assert "Traceback" not in shown.err
    waited = cli("job", "wait", "victim")
    assert waited.code in (1, 2)
    assert "Traceback" not in waited.err


def test_what_was_put_right_is_counted_for_doctor(cli: Cli, do: Do) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j")
    assert findings(cli, "journal") == []

    async def lose_it(journal: Journal) -> None:
        await journal.connection.command("ZREM", journal.keys.ready("llm"), "j/0")
        await journal.walk()
        assert await journal.claim("llm", "w") is not None

    do(lose_it)
    (finding,) = findings(cli, "journal")
    assert finding["level"] == "warning"
    assert finding["what"].startswith("The journal was put right 1 times after writes that broke (jobs 1)")


def test_a_tool_that_hangs_is_named_with_its_job(cli: Cli, do: Do) -> None:
    command_line.announce(*do(_where), stuck=["tool crawl of job news-1"])
    (finding,) = [f for f in findings(cli, "workers") if f["level"] == "warning"]
    assert finding["what"] == "On worker llm@test these hang and cannot be ended: tool crawl of job news-1."


def test_what_was_no_valid_ticket_is_counted_for_doctor(cli: Cli, do: Do) -> None:
    command_line.announce(*do(_where), dropped=43)
    (finding,) = [f for f in findings(cli, "workers") if f["level"] == "warning"]
    assert finding["what"] == "Worker llm@test has dropped 43 that were no valid tickets or messages."


def test_what_no_worker_can_serve_is_said(cli: Cli, do: Do) -> None:
    cli("submit", "greet", "--input", '"Ada"', "--id", "j")

    async def pass_it_over(journal: Journal) -> None:
        got = await journal.take("llm", "w", "token", models=["another"], agents=[])
        assert not hasattr(got, "job")

    do(pass_it_over)
    (finding,) = [f for f in findings(cli, "workers") if "none that runs has it" in f["what"]]
    assert finding["what"].startswith("1 step waits on lane 'llm' for a worker with model '")
    assert "It waits for a worker with model" in cli("job", "show", "j").out
    assert cli("job", "show", "j", "--json").json["waits_for"] == ["model/small"]
    command_line.announce(*do(_where))
    assert [f for f in findings(cli, "workers") if "none that runs has it" in f["what"]] == []


async def _where(journal: Journal) -> tuple[str, str]:
    return journal.config.redis_url, journal.config.name


def test_an_entry_of_the_registry_that_is_not_understood_is_passed_over_and_named(cli: Cli, do: Do) -> None:
    async def write(journal: Journal) -> None:
        key = journal.keys.registry
        await journal.connection.command("HSET", key, "worker/new@host:1", b'{"id":"new"}', "gateway/x", "v2")

    do(write)
    command_line.announce(*do(_where))
    assert cli("submit", "greet", "--input", '"Ada"', "--id", "j").code == 0
    (finding,) = findings(cli, "registry")
    assert "'gateway/x', 'worker/new@host:1'" in finding["what"]
