"""Plan files: what people write in TOML and JSON, and the plan that it comes to."""

from __future__ import annotations

import inspect
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aios_dist.cli.plan import DEEPEST, ORDERS, plan_of, read_file
from aios_dist.cli.submit import Agents
from aios_dist.config import Config, PromptsConfig
from aios_dist.errors import InvalidInput
from aios_dist.model.plans import Plan, agent_first, fifo, fixed, hybrid
from aios_dist.model.specs import Budget, JobSpec
from aios_dist.program.agents import prompts
from tests.found import files

EXAMPLES = Path(__file__).parents[2] / "examples"

TOML = """
order = "fixed"
on_failure = "continue"
id = "monday"

[agents.greet]
prompts = ["Greet {input}."]

[[jobs]]
agent = "greet"
input = "Ada"
id = "greet-ada"

[[jobs]]
order = "fifo"
jobs = [{agent = "greet", input = "Bo"}, {prompts = ["A joke about {input}"], input = "cats", model = "m"}]

[[jobs]]
agent = "elsewhere"
input = {city = "Lima"}
tenant = "t1"
deadline = 60
budget = {tokens = 100, on_budget = "fail"}
priority = 7
expected_steps = 12
"""


def as_plan(path: Path) -> Plan:
    file = read_file(str(path))
    return plan_of(file, Agents(Config(), file.agents), path.name)


@pytest.fixture
def plan_file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def plan(plan_file: Callable[[str, str], Path]) -> Callable[..., Plan]:
    """The plan of a file with this order and these jobs."""

    def read(order: str, jobs: list[Any], **more: Any) -> Plan:
        return as_plan(plan_file("p.json", json.dumps({"order": order, "jobs": jobs, **more})))

    return read


def entry(name: str) -> dict[str, Any]:
    return {"prompts": ["x"], "id": name}


def job(name: str) -> JobSpec:
    return prompts("prompts", ["x"]).job(id=name)


def bare(plan: Plan) -> Plan:
    """Without the programs: two are never equal."""
    members = tuple(
        bare(member) if isinstance(member, Plan) else msgspec.structs.replace(member, program=None)
        for member in plan.members
    )
    return msgspec.structs.replace(plan, members=members)


A, B, C, D = (entry(name) for name in "abcd")
a, b, c, d = (job(name) for name in "abcd")

# -- what it comes to ----------------------------------------------------------------------------------


def test_a_plan_is_the_same_in_toml_and_json(plan_file: Callable[[str, str], Path]) -> None:
    toml = as_plan(plan_file("plan.toml", TOML))
    same = as_plan(plan_file("plan.json", json.dumps(tomllib.loads(TOML))))
    assert bare(toml) == bare(same)
    assert (toml.mode, toml.on_failure) == ("fixed", "continue")
    assert [spec.agent for spec in toml.jobs()] == ["greet", "greet", "prompts", "elsewhere"]
    first, _, joke, last = toml.jobs()
    assert (first.id, first.input) == ("greet-ada", {"input": "Ada"})
    assert joke.prompts == PromptsConfig(["A joke about {input}"], model="m")
    assert (last.tenant, last.input, last.program) == ("t1", {"city": "Lima"}, None)
    assert (last.deadline, last.budget) == (60, Budget(tokens=100, on_budget="fail"))
    assert (last.priority, last.expected_steps) == (7, 12)
    assert (first.deadline, first.budget, first.priority, first.expected_steps) == (None, None, 0, None)
    group = toml.members[1]
    assert isinstance(group, Plan)
    assert (group.mode, group.on_failure) == ("fifo", "continue")


@pytest.mark.parametrize(
    ("order", "entries", "same"),
    [
        ("fifo", [A, B], fifo([a, b])),
        ("fixed", [A, B], fixed([a, b])),
        ("agent-first", [A, B], agent_first([a, b])),
        ("hybrid", [[A, B], [C, D]], hybrid([[a, b], [c, d]])),
        ("hybrid", [{"jobs": [A, B]}, [C]], hybrid([[a, b], [c]])),
        ("fixed", [[A, B], [C]], hybrid([[a, b], [c]])),
        ("agent-first", [[A, B], C], agent_first([fifo([a, b]), c])),
        (
            "fixed",
            [{"order": "fifo", "jobs": [A, B]}, C, {"order": "fifo", "jobs": [D]}],
            fixed([fifo([a, b]), c, fifo([d])]),
        ),
        (
            "fixed",
            [{"order": "fifo", "jobs": [{"order": "fixed", "jobs": [A, [B, C]]}, D]}],
            fixed([fifo([fixed([a, fifo([b, c], on_failure="stop")]), d])]),
        ),
        (
            "hybrid",
            [{"order": "agent-first", "jobs": [[A, B], C]}, [{"order": "hybrid", "jobs": [[D]]}]],
            fixed(
                [
                    agent_first([fifo([a, b], on_failure="stop"), c], on_failure="stop"),
                    fifo([hybrid([[d]])], on_failure="stop"),
                ]
            ),
        ),
    ],
    ids=str,
)
def test_a_plan_of_a_file_is_the_one_of_python(
    plan: Callable[..., Plan], order: str, entries: list[Any], same: Plan
) -> None:
    assert bare(plan(order, entries)) == bare(same)


def test_an_order_without_on_failure_keeps_its_own_default() -> None:
    for name, make in (("fifo", fifo), ("fixed", fixed), ("hybrid", hybrid), ("agent-first", agent_first)):
        assert ORDERS[name].on_failure == inspect.signature(make).parameters["on_failure"].default


def test_each_group_has_its_own_on_failure_and_a_list_has_that_of_the_plan_around_it(
    plan: Callable[..., Plan],
) -> None:
    made = plan("hybrid", [[A], {"jobs": [B], "on_failure": "stop"}, {"jobs": [C]}], on_failure="continue")
    groups = [member for member in made.members if isinstance(member, Plan)]
    assert [group.on_failure for group in groups] == ["continue", "stop", "continue"]
    made = plan("fixed", [[A], {"order": "fifo", "jobs": [B]}])
    groups = [member for member in made.members if isinstance(member, Plan)]
    assert [group.on_failure for group in groups] == ["stop", "continue"]


@pytest.mark.parametrize("path", files(EXAMPLES, "*plan*.toml"), ids=lambda path: path.name)
def test_the_plans_of_the_examples_can_be_submitted(path: Path) -> None:
    assert [spec.agent for spec in as_plan(path).jobs()]


# -- what is refused -----------------------------------------------------------------------------------

KNOWN = "known are fifo, fixed, hybrid, agent-first"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"order": "fixd", "jobs": [A]}, "'p.json': there is no order 'fixd'; did you mean 'fixed'?"),
        ({"order": "agentfirst", "jobs": [A]}, "there is no order 'agentfirst'; did you mean 'agent-first'?"),
        ({"order": "lottery", "jobs": [A]}, f"there is no order 'lottery'; {KNOWN}."),
        ({"jobs": [A]}, "'p.json': a plan needs order = \"fifo\""),
        ({"order": "fifo", "jobs": [{"jobs": [A]}]}, "'p.json': jobs[0]: a plan needs order = \"fifo\""),
        ({"order": "fifo", "jobs": []}, "'p.json': a plan needs at least one job"),
        ({"order": "fifo", "jobs": [{"order": "fifo"}]}, "jobs[0]: a plan needs at least one job"),
        (
            {"order": "fixed", "jobs": [A, {"order": "fifo", "jobs": [B, {"order": "fifo", "jobs": []}]}]},
            "'p.json': jobs[1]: jobs[1]: a plan needs at least one job",
        ),
        ({"order": "hybrid", "jobs": [[A], []]}, "jobs[1]: a plan needs at least one job"),
        ({"order": "hybrid", "jobs": [[A], B]}, "jobs[1]: a hybrid plan is made of groups"),
        ({"order": "hybrid", "jobs": [[A], 3]}, "jobs[1]: a hybrid plan is made of groups"),
        (
            {"order": "hybrid", "jobs": [[A], [B, C, A]]},
            "'p.json': jobs[1]: jobs[2]: the id 'a' stands in this plan already",
        ),
        ({"order": "fifo", "jobs": [{**A, "priority": 10}]}, "'p.json': jobs[0]: priority must be a whole"),
        (
            {"order": "fifo", "jobs": [{**A, "priority": -1}]},
            "jobs[0]: priority must be a whole number from 0 to 9, not -1",
        ),
        (
            {"order": "fifo", "jobs": [{**A, "priority": 1.5}]},
            "jobs[0]: priority must be a whole number from 0 to 9, not 1.5",
        ),
        (
            {"order": "fifo", "jobs": [{**A, "priority": True}]},
            "priority must be a whole number from 0 to 9, not true or false",
        ),
        ({"order": "fifo", "jobs": [{**A, "expected_steps": 0}]}, "jobs[0]: expected_steps must be a whole"),
        ({"order": "fifo", "jobs": [{**A, "prority": 1}]}, "'prority'; did you mean 'priority'?"),
        (
            {"order": "fifo", "jobs": [{"agnet": "a"}]},
            "jobs[0]: has an unknown field 'agnet'; did you mean 'agent'?",
        ),
        ({"order": "fifo", "jobs": [{}]}, 'jobs[0]: it needs agent = "NAME"'),
        ({"order": "fifo", "jobs": [7]}, "jobs[0]: must be a table with agent, input,"),
        ({"order": "fifo", "jobs": [{"agent": "a", "model": "m"}]}, "go with prompts"),
        ({"order": "fifo", "jobs": [{"agent": "a", "input": 1}]}, "jobs[0]: Agent 'a' takes its arguments"),
        (
            {"order": "fifo", "jobs": [{"prompts": []}]},
            "jobs[0]: prompts must be a list with at least one entry",
        ),
        ({"order": "fifo", "jobs": [{"prompts": ["{x}"]}]}, "jobs[0]: Prompt 0"),
        ({"order": "fifo", "on_failure": "panic", "jobs": [A]}, "'p.json': on_failure is 'stop' or"),
        ({"order": "hybrid", "on_failure": "panic", "jobs": [[A]]}, "'p.json': on_failure is 'stop' or"),
        (
            {"order": "hybrid", "jobs": [[A], {"on_failure": "cry", "jobs": [B]}]},
            "'p.json': jobs[1]: on_failure is 'stop' or 'continue', not 'cry'",
        ),
        (
            {"order": "fifo", "jobs": [{"prompts": ["x"], "budget": {"tokns": 1}}]},
            "jobs[0]: budget has an unknown field 'tokns'; did you mean 'tokens'?",
        ),
        ({"order": "fifo", "jobs": [{"prompts": ["x"], "budget": {}}]}, "jobs[0]: A budget is in tokens"),
        (
            {"order": "fifo", "jobs": [{"prompts": ["x"], "deadline": -1}]},
            "jobs[0]: deadline must be a number of seconds above 0",
        ),
        ({"oder": "fifo", "jobs": []}, "p.json': has an unknown field 'oder'; did you mean 'order'?"),
        ({"order": "fifo"}, "has no jobs"),
        ({}, "neither a plan"),
        ({"agents": {"g": {"prompts": []}}}, "agents.g prompts must be a list with at least one entry"),
        (
            {"agents": {"g": {"promts": ["x"]}}},
            "agents.g has an unknown field 'promts'; did you mean 'prompts'?",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_plan_is_refused_with_its_place(
    plan_file: Callable[[str, str], Path], data: object, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(sentence)) as caught:
        as_plan(plan_file("p.json", json.dumps(data)))
    assert "\n" not in str(caught.value)


def test_a_plan_too_deep_is_refused(plan: Callable[..., Plan], plan_file: Callable[[str, str], Path]) -> None:
    deep: Any = A
    for _ in range(DEEPEST):
        deep = [deep]
    with pytest.raises(InvalidInput, match="deep at the most"):
        plan("fifo", [deep])
    assert plan("fifo", deep)
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read_file(str(plan_file("q.json", "[" * 100_000)))


@pytest.mark.parametrize(("name", "kind"), [("p.json", "JSON"), ("p.toml", "TOML")])
def test_a_file_that_is_of_neither_language_is_refused(
    plan_file: Callable[[str, str], Path], name: str, kind: str
) -> None:
    with pytest.raises(InvalidInput, match=f"is not {kind}"):
        read_file(str(plan_file(name, "{")))


def test_no_plan_can_be_made_to_hold_itself() -> None:
    inner = fifo([a])
    outer = fixed([inner])
    with pytest.raises(AttributeError):
        inner.members = (outer,)  # type: ignore[misc]
    assert not hasattr(inner.members, "append")
