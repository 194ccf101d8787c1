"""Odd replies through real workers: one fleet, a job a case, and a server that answers by case.

Behind each answer the agent appends ``reply.message`` and asks again: what comes then is looked at as the
provider would.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import redis

from aios_dist import Fleet, Job, JobFailed
from aios_dist.config import Config, ModelConfig, PoolConfig
from aios_dist.journal.keys import Keys
from aios_dist.local.machine import LocalFleet, WorkerSpec
from aios_dist.model.calls import LLMResponse
from aios_dist.testing import anthropic_protocol, gemini_protocol, openai_protocol, responses_protocol
from aios_dist.testing.replies import BadRequest
from tests.contracts import odd_kinds, odd_newer
from tests.contracts.odd_kinds import Case
from tests.contracts.odder_kinds import SAMPLE
from tests.contracts.test_odd_replies import CASES, check_answer, raw
from tests.fleet.agents import caller, odd_talk
from tests.fleet.conftest import fleet_config

if TYPE_CHECKING:
    from aios_dist.local.redis_server import EmbeddedRedis

ROOT = Path(__file__).parents[2]
WAIT_S = 120.0
CLOSE_TO = 0.99  # clocks of two machines, or of one

pytestmark = pytest.mark.slow


def _from_the_wild(case: dict[str, Any]) -> Case:
    """A case of ``odd_replies.json``."""
    expect = case["expect"]
    error = expect.get("error", "")
    kind = {"mon": "NotAllowed", "": ""}.get(error[:3], "BadRequest")
    return Case(
        case["name"],
        tuple(raw(reply) for reply in case["replies"]),
        stream=case["stream"],
        text=expect.get("text"),
        tool_calls=tuple(map(tuple, expect["tool_calls"])) if "tool_calls" in expect else None,
        usage=tuple(expect["usage"]) if "usage" in expect else None,
        finish=expect.get("finish"),
        message=KEPT.get(case["name"], {}),
        error="ModelNotFound" if "names the model" in error else kind,
        waits_s=expect.get("waits_s"),
    )


KEPT = {
    "reasoning_only": {"content": "", "reasoning_content": "I think the answer is 42"},
    "gemini_signature": {
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "read", "arguments": '{"path":"a"}'},
                "extra_content": {"google": {"thought_signature": "SIG"}},
            }
        ]
    },
}
WILD = [_from_the_wild(case) for case in CASES]
HELD = [*odd_kinds.MONEY, *odd_kinds.AGAIN, *odd_kinds.WAITS]
FURTHER = [case for case in odd_newer.NEWER if case.message and len(case.replies) == 1]
SHARED = [*[case for case in odd_kinds.KINDS if case not in HELD], *SAMPLE, *FURTHER]
ALL = [*WILD, *HELD, *SHARED]
PROTOCOLS: dict[str, tuple[Any, str, bytes]] = {
    "openai": (openai_protocol, "messages", odd_kinds.FINE),
    "openai-responses": (responses_protocol, "input", odd_newer.FINE),
    "anthropic": (anthropic_protocol, "messages", odd_kinds.FINE_MESSAGE),
    "gemini": (gemini_protocol, "contents", odd_newer.GOOD),
}
"""How each is spoken, the field that has the conversation, and an answer that is fine."""

BROKE, RICH = -1, -2
"""What the models of two accounts say in the place of a case."""

JOBS = 20


class Server(ThreadingHTTPServer):
    """Answers a call by the case that its header names: its replies in their order, then ``fine``; who asks
    on behind an answer must do it in the provider's form.

    Attributes:
        came: when each try of a case came.
        refused: what was wrong with the conversation that went on.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.came: dict[int, list[float]] = defaultdict(list)
        self.refused: dict[int, str] = {}
        self.lock = threading.Lock()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        """One call."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True
        number = int(self.headers["X-Case"])
        self.wfile.write(self.account(number) if number < 0 else self.answer(number, body))

    def account(self, number: int) -> bytes:
        """What an account answers: one without money, or another."""
        with self.server.lock:
            self.server.came[number].append(time.monotonic())
        return odd_kinds.MONEY[0].replies[0] if number == BROKE else odd_kinds.FINE

    def answer(self, number: int, body: dict[str, Any]) -> bytes:
        """The case's next reply."""
        case = ALL[number]
        protocol, talk, fine = PROTOCOLS[case.adapter]
        if len(body[talk]) == 1:
            with self.server.lock:
                tries = self.server.came[number]
                tries.append(time.monotonic())
                at = len(tries) - 1
            return case.replies[at] if at < len(case.replies) else odd_kinds.reply("one try too many", 400)
        try:
            protocol.read({"model": "odd-1", "stream": case.stream, **body})
        except BadRequest as bad:
            self.server.refused[number] = bad.sentence
        return fine

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def _model(case: Case, root: str, **settings: Any) -> ModelConfig:
    return ModelConfig(
        provider=case.adapter,
        model="odd-1",
        base_url=root if case.adapter == "anthropic" else f"{root}/v1",
        stream=case.stream,
        backoff=0.05,
        breaker=0,
        **settings,
    )


def _name(number: int) -> str:
    """The model of a case: one of its own where what it says holds its model for all."""
    case = ALL[number]
    if number < len(WILD) + len(HELD):
        return f"case-{number}"
    return f"{case.adapter}-{'streamed' if case.stream else 'whole'}"


@pytest.fixture(scope="module")
def fleet(redis_server: EmbeddedRedis, fleets: Any, server: Server) -> Iterator[Fleet]:
    models = {_name(number): _model(case, server.root) for number, case in enumerate(ALL)}
    for name, number, more in (("broke", BROKE, {"fallback": ["rich"]}), ("rich", RICH, {})):
        models[name] = _model(
            WILD[0], server.root, options={"extra_headers": {"X-Case": str(number)}}, **more
        )
    config = Config(
        fleet=fleet_config(fleets.new_name(), redis_server.url, default_model="broke", lease=6.0, renew=1.0),
        models=models,
        pools={"llm": PoolConfig(lanes=["llm", "turns"], slots=32)},
    )
    with (
        LocalFleet(config, [WorkerSpec("llm", "llm")], embedded_redis=False, cwd=ROOT) as machine,
        Fleet(machine.config) as opened,
    ):
        yield opened


@pytest.fixture(scope="module")
def jobs(fleet: Fleet) -> list[Job]:
    return fleet.submit_many(
        [odd_talk.job(model=_name(number), case=str(number)) for number in range(len(ALL))]
    )


@pytest.mark.parametrize("number", range(len(ALL)), ids=[case.name for case in ALL])
def test_each_odd_reply_has_its_right_outcome_in_a_real_worker(
    server: Server, jobs: list[Job], number: int
) -> None:
    case = ALL[number]
    if case.error:
        with pytest.raises(JobFailed) as failed:
            jobs[number].result(timeout=WAIT_S)
        assert type(failed.value.error).__name__ == case.error
        assert case.says in str(failed.value)
        assert "odd-1" in str(failed.value)
        assert server.root in str(failed.value)
    else:
        told = jobs[number].result(timeout=WAIT_S)
        answer = msgspec.convert(told["reply"], LLMResponse)
        check_answer(case, answer)
        assert told["message"] == answer.message
        assert server.refused.get(number, "") == "", "what is appended is valid on the wire"
    came = server.came[number]
    # (a redirect is asked twice within one try)
    assert len(came) == len(case.replies)
    if case.waits_s is not None:
        assert came[1] - came[0] >= case.waits_s * CLOSE_TO


def test_an_account_without_money_costs_each_call_one_try_and_holds_nobody(
    fleet: Fleet, server: Server
) -> None:
    begun = fleet.submit_many([caller.job(calls=1, model="broke") for _ in range(JOBS)])
    assert {job.result(timeout=WAIT_S) for job in begun} == {"fine"}
    assert (len(server.came[BROKE]), len(server.came[RICH])) == (JOBS, JOBS)
    with redis.Redis.from_url(fleet.config.fleet.redis_url) as client:
        said = client.hmget(Keys(fleet.config.fleet.name).model("broke"), "hold", "fails")
    assert [int(number or 0) for number in said] == [0, 0]
