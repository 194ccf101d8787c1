"""Whatever a producer is given: what cannot be is said in one sentence, and nothing is taken as another."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import functools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from aios_dist import AiosError, AsyncFleet, Budget, Fleet, JobSpec, agent, fifo, hybrid, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import InvalidInput, UnknownName
from aios_dist.model.given import given_json

ONE = prompts("one", ["say {input}"], model="small")


@agent(name="takes-odd-echo")
async def echo(value: object = None) -> object:
    return value


@pytest.fixture
def fleet(redis_url: str, fleet_name: str) -> Iterator[Fleet]:
    with Fleet(Config(fleet=FleetConfig(name=fleet_name, redis_url=redis_url), models={})) as fleet:
        yield fleet


class Spiteful:
    def __repr__(self) -> str:
        raise RuntimeError("no words for it")


class Incomparable:
    """As arrays are."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth of it is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class TwoLines:
    def __repr__(self) -> str:
        return "one line\nand another"


@dataclass
class Holds:
    inner: Any


class Keeps(msgspec.Struct):
    inner: Any


class Colour(enum.Enum):
    RED = "red"
    RAW = b"red"


def nested(depth: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(depth):
        made = [made]
    return made


NAN = float("nan")
ODD: dict[str, Callable[[Fleet], Any]] = {
    "a number as id": lambda f: f.submit(echo, id=5, value=1),  # type: ignore[arg-type]
    "a UUID as id": lambda f: f.submit(echo, id=uuid.uuid4(), value=1),  # type: ignore[arg-type]
    "bytes as id": lambda f: f.submit(echo, id=b"x", value=1),  # type: ignore[arg-type]
    "an empty id": lambda f: f.submit(echo, id="", value=1),
    "an id of a spec": lambda f: f.submit(echo.job(value=1, id="")),
    "another id for a spec": lambda f: f.submit(echo.job(value=1), id=" "),
    "half a character as id": lambda f: f.submit(echo, id="\ud800", value=1),
    "an object without words as id": lambda f: f.submit(echo, id=Spiteful(), value=1),  # type: ignore[arg-type]
    "a number as tenant": lambda f: f.submit(echo, tenant=7, value=1),  # type: ignore[arg-type]
    "no tenant": lambda f: f.submit(echo, tenant=None, value=1),  # type: ignore[arg-type]
    "an empty tenant": lambda f: f.submit(echo, tenant="", value=1),
    "input twice": lambda f: f.submit(echo.job(value=1), value=2),
    "a function": lambda f: f.submit(len),  # type: ignore[arg-type]
    "nothing to submit": lambda f: f.submit(None),  # type: ignore[arg-type]
    "a JobSpec of nonsense": lambda f: f.submit(JobSpec(agent="a b", input={})),
    "a JobSpec without input": lambda f: f.submit(JobSpec(agent="a", input=None)),  # type: ignore[arg-type]
    "a JobSpec of objects": lambda f: f.submit(JobSpec(agent="echo", input={"value": Spiteful()})),
    "a JobSpec with a number for a program": lambda f: f.submit(JobSpec(agent="a", input={}, program=5)),  # type: ignore[arg-type]
    "agents for jobs": lambda f: f.submit_many([echo]),  # type: ignore[list-item]
    "one job for many": lambda f: f.submit_many(echo.job(value=1)),  # type: ignore[arg-type]
    "one agent for many": lambda f: f.submit_many(echo),  # type: ignore[arg-type]
    "nothing for many": lambda f: f.submit_many(None),  # type: ignore[arg-type]
    "a list for a plan": lambda f: f.submit_plan([echo.job(value=1)]),  # type: ignore[arg-type]
    "a plan's number": lambda f: f.extend_plan(5, [echo.job(value=1)]),  # type: ignore[arg-type]
    "names for jobs of a plan": lambda f: f.extend_plan("p", ["x"]),  # type: ignore[list-item]
    "ids for handles": lambda f: list(f.as_completed(["x"])),  # type: ignore[list-item]
    "an id for handles": lambda f: list(f.as_completed("x")),  # type: ignore[arg-type]
    "nothing for handles": lambda f: list(f.as_completed(None)),  # type: ignore[arg-type]
    "a job's number": lambda f: f.job(5).status(),  # type: ignore[arg-type]
    "a UUID to cancel": lambda f: f.job(uuid.uuid4()).cancel(),  # type: ignore[arg-type]
    "half a character": lambda f: f.job("\ud800").status(),
    "a signal's number": lambda f: f.job("x").signal(5),  # type: ignore[arg-type]
    "a signal's empty id": lambda f: f.job("x").signal("go", id=""),
    "a signal's set": lambda f: f.job("x").signal("go", {1, 2}),
    "a signal's bytes": lambda f: f.job("x").signal("go", [b"1"]),
    "no time for a result": lambda f: f.job("x").result(None),  # type: ignore[arg-type]
    "text for seconds": lambda f: f.job("x").result("5"),  # type: ignore[arg-type]
    "no number of seconds": lambda f: f.job("x").result(NAN),
    "no time for events": lambda f: list(f.job("x").events(timeout=None)),  # type: ignore[arg-type]
    "after no event": lambda f: list(f.job("x").events(after=None)),  # type: ignore[arg-type]
    "no time for many": lambda f: list(f.as_completed([], timeout=None)),  # type: ignore[arg-type]
    "a fork at text": lambda f: f.job("x").fork("1"),  # type: ignore[arg-type]
    "a fork at yes": lambda f: f.job("x").fork(True),
    "a fork far out": lambda f: f.submit(ONE, input="x").fork(2**70),
    "a fork with an empty id": lambda f: f.job("x").fork(0, id=""),
    "a budget's number": lambda f: f.job("x").resume(5),  # type: ignore[arg-type]
    "a budget of text": lambda f: Budget(tokens="5"),  # type: ignore[arg-type]
    "a budget of yes": lambda f: Budget(money=True),
    "a budget of no number": lambda f: Budget(money=NAN),
    "a spec's budget": lambda f: echo.job().within(budget=5),  # type: ignore[arg-type]
    "a priority of text": lambda f: f.job("x").rerank(priority="5"),  # type: ignore[arg-type]
    "no deadline": lambda f: echo.job().within(deadline=NAN),
    "a deadline of text": lambda f: echo.job().within(deadline="5"),  # type: ignore[arg-type]
    "jobs by text": lambda f: f.jobs("5"),  # type: ignore[arg-type]
    "less than no jobs": lambda f: f.jobs(-1),
    "dead letters by text": lambda f: f.dead_letters("5"),  # type: ignore[arg-type]
    "dead letters of a number": lambda f: f.drop_dead(5),  # type: ignore[arg-type]
    "no lane": lambda f: f.set_lane(None, policy="fifo"),  # type: ignore[arg-type]
    "a policy's number": lambda f: f.set_lane("llm", policy=5),  # type: ignore[arg-type]
    "an empty policy": lambda f: f.set_lane("llm", policy=""),
    "a policy in a list": lambda f: f.set_lane("llm", policy=["fifo"]),  # type: ignore[arg-type]
    "shares of a number": lambda f: f.set_lane("llm", fair=5),  # type: ignore[arg-type]
    "a lane's number": lambda f: f.reset_lane(5),  # type: ignore[arg-type]
    "a tenant's number": lambda f: f.set_tenant(5, weight=1),  # type: ignore[arg-type]
    "more seconds than a float holds": lambda f: f.job("nobody").result(10**400),
    "ended in words": lambda f: f.jobs(ended="yes"),  # type: ignore[arg-type]
    "a policy without words": lambda f: f.set_lane("llm", policy=Spiteful()),  # type: ignore[arg-type]
    "a policy of digits": lambda f: f.set_lane("llm", policy=10**5000),  # type: ignore[arg-type]
    "shares that compare with nothing": lambda f: f.set_lane("llm", fair=Incomparable()),  # type: ignore[arg-type]
    "a weight without words": lambda f: f.set_tenant("t", weight=Spiteful()),  # type: ignore[arg-type]
    "a weight of two lines": lambda f: f.set_tenant("t", weight=TwoLines()),  # type: ignore[arg-type]
    "jobs of two lines": lambda f: f.submit_many([TwoLines()]),  # type: ignore[list-item]
    "a URL for a Config": lambda f: Fleet("redis://:hunter2@127.0.0.1/0"),  # type: ignore[arg-type]
    "nothing for a Config": lambda f: AsyncFleet(None),  # type: ignore[arg-type]
    "a path's number": lambda f: Fleet.from_env(5),  # type: ignore[arg-type]
    "a list for a path": lambda f: AsyncFleet.from_env([]),  # type: ignore[arg-type]
    "a hybrid of a number": lambda f: hybrid(5),  # type: ignore[arg-type]
    "a hybrid of one job": lambda f: hybrid(echo.job(value=1)),  # type: ignore[arg-type]
    "a plan that fails oddly": lambda f: fifo([echo.job(value=1)], on_failure=Incomparable()),  # type: ignore[arg-type]
    "an agent of a number": lambda f: agent(5),  # type: ignore[call-overload]
    "an agent of a partial": lambda f: agent(functools.partial(echo.function)),
    "an agent without a name": lambda f: agent(name="")(echo.function),
    "prompts of a number": lambda f: prompts("p", 5),  # type: ignore[arg-type]
    "prompts without order": lambda f: prompts("p", {"a", "b"}),  # type: ignore[arg-type]
    "a model's number": lambda f: f.submit(prompts("p", ["x"], model=decimal.Decimal(1))),  # type: ignore[arg-type]
    "a budget that fails oddly": lambda f: Budget(tokens=1, on_budget=Incomparable()),  # type: ignore[arg-type]
    "a weight that is none": lambda f: f.set_tenant("t", weight=NAN),
    "a weight of text": lambda f: f.set_tenant("t", weight="2"),  # type: ignore[arg-type]
    "tokens without end": lambda f: f.set_tenant("t", tokens_per_day=2**80),
}


@pytest.mark.parametrize("ask", ODD.values(), ids=ODD)
def test_what_cannot_be_is_said_in_one_sentence_and_nothing_is_written(
    fleet: Fleet, ask: Callable[[Fleet], Any]
) -> None:
    with pytest.raises(AiosError) as said:
        ask(fleet)
    assert isinstance(said.value, (ValueError, LookupError)) or "Config" in type(said.value).__name__
    assert "\n" not in str(said.value)
    assert len(str(said.value)) < 400
    assert "hunter2" not in str(said.value)
    assert not [job for job in fleet.jobs() if job.agent != "one"]


UNSAID = [
    {"red", "green"},
    frozenset({1}),
    b"\xff",
    bytearray(b"x"),
    memoryview(b"x"),
    {"a": [1, {"b": {2}}]},
    [(b"x",)],
    Holds({1}),
    Keeps([Holds(b"x")]),
    Colour.RAW,
    {b"x": 1},
    [{1: "a", "1": "b"}],
    nested(300),
]


@pytest.mark.parametrize("value", UNSAID, ids=[type(value).__name__ for value in UNSAID])
def test_what_json_would_quietly_make_another_value_of_is_refused_as_input(fleet: Fleet, value: Any) -> None:
    for ask in (
        lambda: fleet.submit(echo, value=value),
        lambda: fleet.submit(ONE, input=value),
        lambda: fleet.submit("of-another-process", value=value),
    ):
        with pytest.raises(InvalidInput, match=r"is not JSON: it (holds|is nested)"):
            ask()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (2**70, 2**70),
        (nested(150), nested(150)),
        ((1, (2,)), [1, [2]]),
        (decimal.Decimal("1.10"), "1.10"),
        (dt.date(2020, 1, 1), "2020-01-01"),
        (Colour.RED, "red"),
        (uuid.UUID(int=1), str(uuid.UUID(int=1))),
        (Holds(Keeps("x")), {"inner": {"inner": "x"}}),
        ("a\x00b", "a\x00b"),
    ],
)
def test_what_json_has_a_word_for_goes_in(value: Any, plain: Any) -> None:
    assert given_json(value, "input") == plain


def test_a_job_that_cannot_be_there_is_not_there_and_none_of_none_are_none(fleet: Fleet) -> None:
    for id in ("", "a b", "é", "x" * 500):
        with pytest.raises(UnknownName, match="no job"):
            fleet.job(id).status()
    assert fleet.jobs(0) == []
    assert fleet.dead_letters(0) == []
    assert list(fleet.as_completed([])) == []
    assert fleet.submit_many([]) == []


def test_a_long_agents_name_leaves_room_for_an_id_that_is_made_up(fleet: Fleet) -> None:
    @agent(name="n" * 128)
    async def long() -> int:
        return 1

    job = fleet.submit(long)
    assert job.result(10) == 1
    assert len(fleet.job(job.id).fork(0).id) <= 128


def test_a_spec_is_submitted_under_the_id_and_tenant_that_come_with_it(fleet: Fleet) -> None:
    job = fleet.submit(echo.job(value=1), id="mine", tenant="acme")
    assert (job.id, job.view().tenant) == ("mine", "acme")
    assert fleet.submit(echo.job(value=1).named("mine"), tenant="acme").id == "mine"
