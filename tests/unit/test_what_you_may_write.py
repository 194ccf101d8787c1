"""The page *What you may write in an agent*: each block runs, each turn replayed, and ends as it says."""

from __future__ import annotations

import gc
import json
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from aios_dist.errors import AiosError, ProviderBusy, describe, from_record
from aios_dist.journal.views import History, JobView, head_to_step
from aios_dist.model.calls import LLMRequest, LLMResponse, ToolCall
from aios_dist.model.jobs import JobRecord, JobState, Kind, Outcome, Step, StepState, decode, encode
from aios_dist.model.specs import JobSpec
from aios_dist.program import agents, turns
from aios_dist.program.agents import Agent
from aios_dist.program.commands import Tool
from aios_dist.program.requests import Asked
from aios_dist.program.turns import Catalog
from aios_dist.worker.tools import Tools
from aios_dist.worker.work import Origin, Work
from tests.heads import new_head
from tests.unit.test_docs import FENCE
from tests.unit.test_worker_parts import claim as a_claim

PAGE = Path(__file__).parents[2] / "docs/what-you-may-write.md"
FLEET = Catalog({"small": "llm", "down": "llm"}, "small", 10_000, 10_000)
SIGNALS = {"review": {"ok": True}}
MOST_TURNS = 100
NOON = 1767268800.0
"""When each job is submitted: 1 January 2026, 12:00. An answer takes a minute."""


def parts() -> list[tuple[str, str]]:
    """Each Python block of the page, and the block behind it: what comes out."""
    fences = [(language, text) for _, language, text in FENCE.findall(PAGE.read_text("utf-8"))]
    return [
        (text, fences[place + 1][1] if fences[place + 1][0] == "" else "")
        for place, (language, text) in enumerate(fences)
        if language == "python"
    ]


def promised(text: str) -> list[tuple[str, str]]:
    """``call → what it comes to``; a line that is indented goes on with the one above."""
    lines = re.sub(r"\n +", " ", text.strip()).splitlines()
    return [(call.strip(), end.strip()) for call, _, end in (line.partition("→") for line in lines)]


def fits(end: str, said: str) -> bool:
    """Word for word; ``…`` stands for anything."""
    return re.fullmatch(".*".join(map(re.escape, said.split("…"))), end, re.DOTALL) is not None


def reply(request: LLMRequest) -> LLMResponse:
    """The model of the page: it shouts, asks for a tool once, and gives JSON where that is wanted."""
    last = request.messages[-1]
    if request.tools and last["role"] == "user":
        function = request.tools[0]["function"]["name"]
        return LLMResponse(
            text="", tool_calls=[ToolCall(id="1", name=function, arguments='{"city": "Lima"}')]
        )
    text = str(last["content"]).upper()
    return LLMResponse(text=json.dumps({"answer": text}) if request.response_format else text)


async def answer(step: Step, asked: Asked) -> Outcome:
    """What the step comes to: really, for a tool."""
    request = step.request
    try:
        if isinstance(request, LLMRequest):
            if request.model == "down":
                raise ProviderBusy("down is busy", status=503)
            return Outcome(response=reply(request))
        if isinstance(asked.command, Tool):
            claim = msgspec.structs.replace(a_claim(), label=step.label)
            tools = Tools(1, 5.0, FLEET.result_limit, check=True)
            return Outcome(value=await tools.run(Work(claim, Origin()), asked.command))
    except AiosError as error:
        return Outcome.failed(error)
    return Outcome(value=SIGNALS.get(step.label))


async def end_of(spec: JobSpec) -> str:
    """The job's result as JSON, or its error; each turn is run from the journal alone."""
    record = JobRecord(spec.agent, spec.input, defaults=spec.defaults, seed="page", submitted_at=NOON)
    view = JobView(id="j", state=JobState.RUNNING, agent=record.agent)
    assert spec.program is not None
    try:
        replay = turns.start(spec.program, FLEET, History(view, record, []).known())
    except AiosError as error:
        return describe(error)
    steps: list[Step] = []
    for turn in range(MOST_TURNS):
        decision = turns.decide(replay, record, FLEET, first=len(steps), checked=True)
        if replay.changed is not None:
            return describe(replay.changed)
        if decision.ends is not None:
            outcome = decode(decision.result, Outcome)
            if outcome.ok:
                return json.dumps(outcome.value, ensure_ascii=False)
            return describe(from_record(outcome.error or {}))
        for number, ranked in enumerate(decision.steps, len(steps)):
            plain = ranked.plain()
            head = new_head(plain["kind"], plain["lane"], plain["label"], digest=plain["digest"])
            head = msgspec.structs.replace(head, rejected=plain.get("rejected"), once=plain.get("once"))
            steps.append(head_to_step("j", number, head, plain["request"], None))
        open_ = [step for step in steps if step.outcome is None]
        signals = [step for step in open_ if step.kind is Kind.SIGNAL and step.label in SIGNALS]
        calls = [step for step in open_ if step.kind in (Kind.LLM, Kind.TOOL)]
        waiting = [*calls, *signals, *(step for step in open_ if step.kind is Kind.SLEEP)]  # the longest last
        assert waiting, "it waits for nothing"
        step = waiting[0]
        outcome = await answer(step, replay.asked[step.number])
        steps[step.number] = msgspec.structs.replace(
            step,
            state=StepState.DONE,
            ended_at=NOON + 60 * (turn + 1),
            outcome=decode(encode(outcome), Outcome),
            order=turn + 1,
        )
        replay.close()
        replay = turns.rebuild(History(view, record, steps), FLEET)
    raise AssertionError("it does not end")


@pytest.fixture
def page() -> Iterator[ModuleType]:
    """A module for a block, as a file of the author's would be one, with no agents besides."""
    before = agents.registered()
    agents._registry.clear()
    module = sys.modules["page"] = ModuleType("page")
    yield module
    del sys.modules["page"]
    agents._registry.clear()
    agents._registry.update(before)


async def comes_to(call: str, page: ModuleType) -> str:
    """What the page promises of a call, as it is."""
    name, rest = call.split("(", 1)
    made: Any = getattr(page, name)
    assert isinstance(made, Agent)
    try:
        spec = eval(f"made.job({rest}", {**vars(page), "made": made})
    except AiosError as error:
        return describe(error)
    return await end_of(spec)


def comes_to_be(code: str, page: ModuleType) -> str:
    """The error of the block itself, or ""."""
    try:
        exec(compile(code, str(PAGE), "exec", dont_inherit=True), vars(page))
    except AiosError as error:
        return describe(error)
    return ""


@pytest.mark.parametrize(
    ("code", "said"), parts(), ids=[re.findall(r"def (\w+)", code)[-1] for code, _ in parts()]
)
async def test_each_block_of_the_page_ends_as_the_page_says(code: str, said: str, page: ModuleType) -> None:
    lines = promised(said)
    assert lines, "each block is followed by what comes out"
    error = comes_to_be(code, page)
    for call, end in lines:
        found = error if error or not call else await comes_to(call, page)
        assert fits(found, end), found
    if "run_until_complete(" in code:  # what it refuses is never awaited: said here, not in any later test
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            gc.collect()


def test_every_line_of_the_page_that_ends_in_an_error_is_of_an_error_class() -> None:
    ends = [end for _, said in parts() for _, end in promised(said)]
    assert len(ends) > 20
    assert all(end[0] in '"[{0123456789ntf-' or re.match(r"[A-Z]\w+: ", end) for end in ends)
