"""Turns: which requests are refused, what a turn decides, and how a program is brought back."""

from __future__ import annotations

import functools
import time
import uuid
from collections.abc import Mapping
from random import Random
from typing import Any

import msgspec
import pytest

from aios_dist import policies
from aios_dist.config import Config, FleetConfig, parse
from aios_dist.errors import InvalidInput, ProgramChanged, RateLimited, UnknownName, from_record
from aios_dist.journal.news import News
from aios_dist.journal.records import Claim, Decision
from aios_dist.journal.views import History, JobView
from aios_dist.local.machine import LocalFleet
from aios_dist.model.calls import OUTPUT_GUESS, LLMRequest, LLMResponse, ToolRequest
from aios_dist.model.jobs import JobRecord, JobState, Kind, Outcome, Step, StepState, decode
from aios_dist.policies import Past, Policy, Rank, Waiting
from aios_dist.program import turns
from aios_dist.program.agents import agent, prompts
from aios_dist.program.commands import gather, llm, signal, sleep, tool
from aios_dist.program.facts import once
from aios_dist.program.replay import Replay
from aios_dist.program.turns import Catalog
from aios_dist.worker.programs import ALWAYS, Seen
from aios_dist.worker.rules import Rules
from aios_dist.worker.threads import Threads
from aios_dist.worker.turning import Turns, _follow
from aios_dist.worker.work import Origin, Work

pause = time.sleep

RECORD = JobRecord("turns-test", {})


def catalog(
    models: Mapping[str, str] | None = None,
    default: str | None = "small",
    prompt_limit: int = 1000,
    result_limit: int = 1000,
    lane_policies: Mapping[str, str] | None = None,
) -> Catalog:
    known = {"small": "llm", "big": "gpu"} if models is None else models
    return Catalog(known, default, prompt_limit, result_limit, lane_policies or {})


def echo(text: str) -> str:
    return text


def decided(body: Any, *outcomes: Outcome, catalog: Catalog) -> Decision:
    replay = turns.start(body, catalog)
    for number, outcome in enumerate(outcomes):
        replay.deliver(number, outcome)
    return turns.decide(replay, RECORD, catalog, first=len(outcomes))


def result_of(decision: Decision) -> Outcome:
    return decode(decision.result, Outcome)


# Programs that repeat themselves, or not ---------------------------------------------------------------

YES = Outcome(response=LLMResponse(text="yes"))


def repeats(body: Any, *, told: int) -> bool:
    """Whether the agent that has seen so many answers does the same again."""

    made = agent(body, name=f"{body.__name__}-{time.monotonic_ns()}")
    live = Replay(made.program({}))
    outcomes = []
    for number in range(told):
        live.deliver(number, YES)
        outcomes.append((number, YES))
    live.written(len(live.asked))
    return turns.repeats(live, JobRecord(made.name, {}), outcomes, catalog())


def test_a_live_program_is_compared_with_itself_run_again() -> None:
    async def same() -> None:
        for step in range(4):
            await llm(f"{step}")

    async def chance() -> None:
        await llm("plan")
        await llm(uuid.uuid4().hex)

    async def remembers() -> None:
        for _ in range(4):
            CALLS.append("called")
            await llm(f"{len(CALLS)}")

    assert repeats(same, told=2)
    assert not repeats(chance, told=1)
    assert not repeats(remembers, told=0), "a step that the journal holds already"


CALLS: list[str] = []


def test_a_live_program_that_is_over_where_it_is_not_when_run_again_fails() -> None:
    """Its journal has nothing against it: no replay would say so."""

    async def longer() -> str:
        CALLS.append("called")
        for _ in range(len(CALLS)):
            await llm("again")
        return "done"

    CALLS.clear()
    made = agent(longer, name=f"longer-{time.monotonic_ns()}")
    live = Replay(made.program({}))
    live.written(1)
    live.deliver(0, YES)
    assert live.result == "done"
    record = JobRecord(made.name, {})
    assert turns.repeats(live, record, [(0, YES)], catalog())
    parks = turns.decide(live, record, catalog(), first=1, code="a1b2c3d4", began="a1b2c3d4").parks
    assert parks is not None
    assert parks.why.startswith(
        "same code (a1b2c3d4): not deterministic: step 1 was nothing, is now llm 'again'. "
    )


@pytest.mark.parametrize("why", ["a model that was added", "a look-up whose step is not written"])
def test_a_live_program_may_end_otherwise_for_what_is_not_written(why: str) -> None:
    async def refused() -> str:
        await llm("plan")
        try:
            return (await llm("x", model="huge")).text
        except UnknownName:
            return "small"

    async def looks() -> str:
        await llm("plan")
        return (await llm("x")).text if once(CALLS.__len__) else "small"

    CALLS.clear()
    body = refused if "model" in why else looks
    made = agent(body, name=f"ends-{time.monotonic_ns()}")
    live = Replay(made.program({}), admit=catalog().admit)
    live.written(1)
    live.deliver(0, YES)
    CALLS.append("now")
    more = msgspec.structs.replace(catalog(), models={**catalog().models, "huge": "llm"})
    assert turns.repeats(live, JobRecord(made.name, {}), [(0, YES)], more)
    assert live.result == "small"


def test_what_is_not_written_yet_is_compared_when_it_is() -> None:
    async def chance() -> str:
        await llm("plan")
        return (await llm(uuid.uuid4().hex)).text

    made = agent(chance, name=f"chance-{time.monotonic_ns()}")
    live = Replay(made.program({}))
    live.written(1)
    live.deliver(0, YES)
    record = JobRecord(made.name, {})
    assert turns.repeats(live, record, [(0, YES)], catalog())
    live.written(2)
    assert not turns.repeats(live, record, [(0, YES)], catalog())


def test_a_long_job_is_run_again_ever_more_seldom_and_at_its_end() -> None:
    seen, ran = Seen([]), []
    for count in range(1000):
        seen.outcomes.append((count, YES))
        if seen.due(finished=False):
            ran.append(count + 1)
            seen.ran()
    assert ran[: ALWAYS - 1] == [*range(1, ALWAYS)]
    assert len(ran) < ALWAYS + 15
    assert seen.due(finished=True)


# The catalogue ---------------------------------------------------------------------------------------------


def model_of(known: Catalog, model: str | None = None) -> str:
    return known.model_of(llm("hi", model=model))


def test_the_default_model_is_the_one_that_is_named_or_the_only_one() -> None:
    one: dict[str, Any] = {"a": {}}
    two: dict[str, Any] = {"a": {}, "b": {}}
    assert Catalog.of(parse({"models": one})).default == "a"
    assert Catalog.of(parse({"models": two})).default is None
    assert Catalog.of(parse({"models": two, "fleet": {"default_model": "b"}})).default == "b"
    assert Catalog.of(parse({}), {"w": "llm"}).default == "w"
    assert Catalog.of(parse({}), {"w": "llm", "v": "llm"}).default is None
    assert Catalog.of(parse({"fleet": {"default_model": "v"}}), {"w": "llm", "v": "llm"}).default == "v"
    assert Catalog.of(parse({})).default is None


def test_models_that_workers_have_registered_are_known_and_the_file_goes_before_them() -> None:
    config = parse({"models": {"a": {"lane": "mine"}}, "lanes": {"mine": {"policy": "fifo"}}})
    known = Catalog.of(config, {"a": "theirs", "w": "gpu"})
    assert known.models == {"a": "mine", "w": "gpu"}
    assert known.lane_policies == {"mine": "fifo"}
    assert (known.prompt_limit, known.result_limit) == (16 * 1024 * 1024, 8 * 1024 * 1024)


def test_an_unknown_model_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownName, match=r"no model 'huge'; known are big, small.*\[models.huge\]"):
        model_of(catalog(), "huge")
    assert model_of(catalog(), "big") == "big"
    assert model_of(catalog()) == "small"


def test_a_call_without_a_model_needs_a_default() -> None:
    with pytest.raises(UnknownName, match=r"no default.*known models: big, small"):
        model_of(catalog(default=None))
    with pytest.raises(UnknownName, match="known models: none"):
        model_of(catalog({}, default=None))


def test_where_no_model_is_known_any_name_is_let_through() -> None:
    assert model_of(catalog({}, default=None), "whatever") == "whatever"


def test_the_prompt_limit_is_exact_and_its_refusal_gives_both_numbers() -> None:
    command = llm("x" * 100)
    size = len(msgspec.json.encode(command.request))
    catalog(prompt_limit=size).admit(command, msgspec.json.encode(command.request))
    with pytest.raises(InvalidInput, match=rf"{size} bytes, more than prompt_limit \({size - 1}\)"):
        catalog(prompt_limit=size - 1).admit(command, msgspec.json.encode(command.request))
    with pytest.raises(InvalidInput, match="prompt_limit"):
        catalog(prompt_limit=5).admit(tool(echo, "x"), b"123456")


def test_a_tool_needs_no_model() -> None:
    catalog({}, default=None).admit(tool(echo, "x"), b"{}")


# Turn 0 ----------------------------------------------------------------------------------------------------


async def unknown_model() -> None:
    await llm("a", model="huge")


async def too_long() -> None:
    await llm("x" * 2000)


async def not_json() -> None:
    await tool(echo, object())


async def second_branch_is_wrong() -> None:
    await gather(llm("a"), unknown_model())


async def caught_and_hidden() -> str:
    try:
        await llm("a", model="huge")
    except UnknownName:
        return str((await llm("a")).text)
    return ""


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (unknown_model, UnknownName),
        (too_long, InvalidInput),
        (not_json, InvalidInput),
        (second_branch_is_wrong, UnknownName),
        (caught_and_hidden, UnknownName),
    ],
)
def test_a_first_request_that_cannot_be_served_is_raised_where_the_job_is_submitted(
    body: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        turns.start(body, catalog())


def test_ctrl_c_in_turn_0_is_the_producers_and_ends_no_job() -> None:
    async def body() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        turns.start(body, catalog())


def test_an_error_of_the_agents_own_in_turn_0_ends_the_job_and_not_the_submission() -> None:
    async def body() -> None:
        raise KeyError("mine")

    decision = decided(body, catalog=catalog())
    assert decision.ends is JobState.FAILED
    error = result_of(decision).error or {}
    assert (error["type"], error["message"], error["detail"]) == ("KeyError", "'mine'", {})
    assert error["traceback"].endswith('raise KeyError("mine")')


# What a turn decides ---------------------------------------------------------------------------------------


def test_steps_go_to_the_lane_of_their_model_and_tools_to_the_turns() -> None:
    async def body() -> None:
        await gather(llm("a"), llm("b", model="big"), tool(echo, "c"))

    decision = decided(body, catalog=catalog())
    assert (decision.version, decision.first, decision.ends) == (0, 0, None)
    steps = [ranked.step for ranked in decision.steps]
    assert [(s.kind, s.lane, s.label) for s in steps] == [
        (Kind.LLM, "llm", "small"),
        (Kind.LLM, "gpu", "big"),
        (Kind.TOOL, "turns", "echo"),
    ]
    assert decision.lanes() == ["llm", "gpu", "turns"]
    assert decode(steps[1].request, LLMRequest) == llm("b", model="big").request
    assert decode(steps[2].request, ToolRequest) == ToolRequest("echo", ["c"])
    assert [(r.rank, r.policy) for r in decision.steps] == [(Rank(), "fifo"), (Rank(), "fifo"), (Rank(), "")]


def test_the_label_never_holds_the_prompt() -> None:
    async def body() -> None:
        await gather(llm("secret"), tool(echo, "secret"))

    for ranked in decided(body, catalog=catalog()).steps:
        assert "secret" not in ranked.step.label


def test_a_request_that_names_no_model_is_journaled_so_and_labelled_with_the_default() -> None:
    async def body() -> None:
        await llm("a")

    (ranked,) = decided(body, catalog=catalog()).steps
    assert decode(ranked.step.request, LLMRequest).model is None
    assert ranked.step.label == "small"


def test_only_new_steps_are_decided() -> None:
    async def body() -> None:
        await llm("a")
        await gather(llm("b"), llm("c"))

    decision = decided(body, Outcome(response=LLMResponse(text="x")), catalog=catalog())
    assert (decision.version, decision.first, len(decision.steps)) == (1, 1, 2)


def test_a_turn_that_waits_for_another_branch_decides_nothing() -> None:
    async def body() -> None:
        await gather(llm("a"), llm("b"))

    replay = turns.start(body, catalog())
    replay.deliver(1, Outcome(response=LLMResponse(text="x")))
    decision = turns.decide(replay, RECORD, catalog(), first=2)
    assert (decision.steps, decision.ends, decision.version) == ([], None, 1)


def test_the_end_of_a_job_is_its_result_or_its_error() -> None:
    async def body() -> dict[str, str]:
        return {"said": (await llm("a")).text}

    done = decided(body, Outcome(response=LLMResponse(text="hi")), catalog=catalog())
    assert (done.ends, done.steps, result_of(done)) == (JobState.DONE, [], Outcome(value={"said": "hi"}))
    failed = decided(body, Outcome.failed(RateLimited("slow", status=429)), catalog=catalog())
    assert failed.ends is JobState.FAILED
    error = from_record(result_of(failed).error or {})
    assert isinstance(error, RateLimited)
    assert error.detail == {"status": 429}


def test_an_agent_that_returns_nothing_is_done() -> None:
    async def body() -> None:
        return None

    done = decided(body, catalog=catalog())
    assert (done.ends, result_of(done)) == (JobState.DONE, Outcome())


@pytest.mark.parametrize("how", ["result", "error"])
def test_what_is_over_the_result_limit_is_a_small_error_that_says_so(how: str) -> None:
    text = "x" * 20_000  # would be far below when it is compressed, and is read whole

    async def body() -> str:
        if how == "error":
            raise ValueError(text)
        return text

    decision = decided(body, catalog=catalog())
    assert decision.ends is JobState.FAILED
    assert len(decision.result) < 1000
    assert "more than result_limit (1,000)" in (result_of(decision).error or {})["message"]


def test_an_error_that_is_too_odd_for_json_still_ends_the_job() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return "\ud800"

    async def body() -> None:
        raise Odd

    assert decided(body, catalog=catalog()).ends is JobState.FAILED


def test_under_a_policy_of_a_newer_version_a_step_is_ranked_as_fifo_and_no_job_fails() -> None:
    async def body() -> None:
        await llm("a")

    decision = decided(body, catalog=catalog(lane_policies={"llm": "magic"}))
    assert [(step.rank, step.policy) for step in decision.steps] == [(policies.Rank(), "")]


def test_a_call_is_ranked_by_its_lanes_policy_and_a_tool_never_is() -> None:
    async def body() -> None:
        await gather(llm("a"), llm("b", model="big"), tool(echo, "c"), sleep(1))

    ruled = catalog(lane_policies={"llm": "las", "gpu": "round-robin", "turns": "las"})
    replay = turns.start(body, ruled)
    ranked = turns.decide(replay, RECORD, ruled, first=0, served=100.0).steps
    in_turn = Rank(since="round", group=RECORD.agent)
    assert [(r.rank, r.policy) for r in ranked] == [
        (Rank(base=5e14), "las"),
        (in_turn, "round-robin"),
        (Rank(), ""),
        (Rank(), ""),
    ]


def test_a_policy_is_told_all_that_it_may_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        await gather(llm("a"), llm("b"))

    seen: list[Waiting] = []

    def watching(step: Waiting) -> Rank:
        seen.append(step)
        return Rank()

    past = Past((3.0, 9.0), 4)
    record = JobRecord("turns-test", {}, tenant="acme", deadline=60.0, expected_steps=7)
    for looks_back in (True, False):
        newcomer = Policy("newcomer", watching, starves=True, looks_back=looks_back, source="")
        monkeypatch.setitem(policies._POLICIES, "newcomer", newcomer)
        known = catalog(lane_policies={"llm": "newcomer", "gpu": "of-a-newer-version"}).under(
            {"llm": "newcomer", "gpu": "of-a-newer-version"}, {"turns-test": past}
        )
        assert known.looks_back == looks_back, "by what the policy says, and by no name"
        seen.clear()
        decision = turns.decide(turns.start(body, known), record, known, first=0, served=2.5)
        cost = decision.steps[0].step.cost
        assert cost > 0
        assert seen == [
            Waiting("turns-test", "acme", number, 2.5, 7, 60.0, past if looks_back else Past(), cost)
            for number in (0, 1)
        ]
        seen.clear()
        turns.decide(turns.start(body, known), record, known, first=1, served=2.5)
        assert [step.number for step in seen] == [1], "by its place in the job, not in the turn"


@pytest.mark.parametrize("name", policies.names())
def test_the_past_is_asked_for_where_a_lanes_policy_looks_back_and_only_there(name: str) -> None:
    looks_back = policies.find(name).looks_back
    assert catalog(lane_policies={"a": "fifo", "b": name}).looks_back == looks_back


# Bringing a program back -----------------------------------------------------------------------------------


@agent(name="turns-test")
async def two_steps(city: str = "Lima") -> str:
    first = await llm(f"about {city}")
    second = await tool(echo, first.text)
    return f"{city} {second}"


def history(steps: list[Step], record: JobRecord = RECORD) -> History:
    return History(JobView(id="j", state=JobState.RUNNING, agent=record.agent), record, steps)


def journaled(replay: Replay, outcomes: Mapping[int, tuple[int, Outcome]]) -> list[Step]:
    return [
        Step(
            job="j",
            number=number,
            kind=asked.kind,
            lane="llm",
            state=StepState.DONE if number in outcomes else StepState.READY,
            digest=asked.digest,
            request=asked.command.request if asked.command is not None else None,
            order=outcomes[number][0] if number in outcomes else 0,
            outcome=outcomes[number][1] if number in outcomes else None,
        )
        for number, asked in enumerate(replay.asked)
    ]


def test_a_program_is_brought_to_where_its_journal_stands() -> None:
    spec = two_steps.job(city="Rome")
    assert spec.program is not None
    live = turns.start(spec.program, catalog())
    record = JobRecord(spec.agent, spec.input)
    said = Outcome(response=LLMResponse(text="nice"))
    assert len(turns.rebuild(history(journaled(live, {}), record), catalog()).asked) == 1
    again = turns.rebuild(history(journaled(live, {0: (1, said)}), record), catalog())
    assert (again.version, [a.kind for a in again.asked]) == (1, [Kind.LLM, Kind.TOOL])
    done = turns.rebuild(
        history(journaled(again, {0: (1, said), 1: (2, Outcome(value="!"))}), record), catalog()
    )
    assert (done.finished, done.result) == (True, "Rome !")


@agent(name="turns-slow")
async def computes_between(calls: int) -> int:
    for number in range(calls):
        pause(0.15)
        await llm(f"call {number}")
    return calls


def asked(step: Step) -> Step:
    return msgspec.structs.replace(step, state=StepState.READY, order=0, outcome=None)


async def test_the_time_of_a_turn_is_not_that_of_all_turns_that_a_worker_replays() -> None:
    """Where the job's program is not alive any more: another worker has it, or it has rested for long."""
    calls, limit = 6, 0.6
    spec, said = computes_between.job(calls=calls), Outcome(response=LLMResponse(text="x"))
    assert spec.program is not None
    live = turns.start(spec.program, catalog())
    for number in range(calls - 1):
        live.deliver(number, said)
    record = JobRecord(spec.agent, spec.input)
    steps = journaled(live, {number: (number + 1, said) for number in range(calls - 1)})
    anything: Any = None
    work = Work(Claim("j", "5", 1, Kind.LLM, "small", record, b"", 5, 0, 0), Origin())
    threads = Threads("test", 1)
    rules = Rules(Config(), anything, [], [])
    rules.catalog = catalog()
    here = Turns(anything, anything, threads, threads, limit, rules)
    again = await here._rebuilt(work, history(steps, record))
    assert again.replay.version == calls - 1
    behind = turns.rebuild(history([asked(steps[0])], record), catalog())
    missed = [step for number in range(calls - 1) for step in (steps[number], asked(steps[number + 1]))]
    news = News(basis="", written=missed, events=0, served=0.0, open=True)
    await here._run(work, functools.partial(_follow, behind, news), behind)
    assert (behind.version, behind.error) == (calls - 1, None)


def test_outcomes_are_delivered_in_the_order_of_writing_not_of_numbers() -> None:
    order: list[str] = []

    @agent(name="turns-test-order")
    async def side_by_side() -> None:
        async def part(name: str) -> None:
            await llm(name)
            order.append(name)

        await gather(part("a"), part("b"), part("c"))

    live = turns.start(side_by_side.program({}), catalog())
    said = Outcome(response=LLMResponse(text="x"))
    steps = journaled(live, {0: (3, said), 1: (1, said), 2: (2, said)})
    assert turns.rebuild(history(steps, JobRecord("turns-test-order", {})), catalog()).finished
    assert order == ["b", "c", "a"]


def test_steps_are_written_so_many_bytes_at_a_time_and_one_alone_whatever_its_size() -> None:
    sizes, chance = [180_000, 110_000, 110_000, 450_000, 100], Random(1)

    async def large() -> None:
        await gather(*(llm(texts[size]) for size in sizes))

    texts = {size: chance.randbytes(size // 2).hex() for size in sizes}
    whole = catalog(prompt_limit=3_000_000)
    replay, first, parts = turns.start(large, whole), 0, []
    while first < len(sizes):
        decision = turns.decide(replay, RECORD, whole, first=first)
        first += len(decision.steps)
        parts.append((len(decision.steps), decision.more))
    assert parts == [(2, True), (1, True), (1, True), (1, False)]


@pytest.mark.parametrize("checked", [False, True])
def test_of_a_wide_turn_a_producer_checks_all_and_a_worker_what_it_writes(checked: bool) -> None:
    async def wide() -> None:
        await gather(*(llm(f"{n}", model="small" if n <= turns.MOST_STEPS else "huge") for n in range(30)))

    replay = turns.start(wide, catalog({}))
    decision = turns.decide(replay, RECORD, catalog(), first=0, checked=checked)
    if checked:
        assert (decision.steps, decision.ends) == ([], JobState.FAILED)
        assert "no model 'huge'" in (result_of(decision).error or {})["message"]
    else:
        assert (len(decision.steps), decision.more, decision.ends) == (turns.MOST_STEPS, True, None)


@agent(name="turns-other")
async def asks_otherwise(city: str = "Lima") -> str:
    return str((await llm(f"all about {city}")).text)


def test_which_steps_a_retry_runs_again_is_said_by_the_code_that_has_run_and_by_no_other() -> None:
    live = turns.start(two_steps.program({}), catalog())
    steps = journaled(live, {0: (1, Outcome.failed(RateLimited("slow down")))})
    assert turns.undone(history(steps)) == [0]
    assert turns.undone(history(steps, JobRecord("turns-other", {}))) is None
    assert turns.undone(history(steps, JobRecord("not-here", {}))) is None


def test_a_step_of_the_journal_is_not_refused_when_the_fleet_has_changed_since() -> None:
    live = turns.start(two_steps.program({}), catalog())
    now = catalog({"other": "llm"}, default="other", prompt_limit=1)
    again = turns.rebuild(history(journaled(live, {})), now)
    assert (again.finished, len(again.asked)) == (False, 1)


def test_a_program_that_asks_for_less_than_its_journal_has_changed() -> None:
    live = turns.start(two_steps.program({}), catalog())
    steps = journaled(live, {})
    more = [*steps, msgspec.structs.replace(steps[0], number=1)]
    error = turns.rebuild(history(more), catalog()).error
    assert isinstance(error, ProgramChanged)


def test_an_input_that_the_code_no_longer_takes_ends_the_job_with_a_sentence() -> None:
    replay = turns.rebuild(history([], JobRecord("turns-test", {"town": "Lima"})), catalog())
    decision = turns.decide(replay, RECORD, catalog(), first=0)
    assert decision.ends is JobState.FAILED
    assert "cannot take this input" in (result_of(decision).error or {})["message"]


def test_an_agent_that_is_not_here_is_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match="'elsewhere' is not in this process"):
        turns.rebuild(history([], JobRecord("elsewhere", {})), catalog())


def test_an_agent_that_is_data_needs_no_code() -> None:
    made = prompts("turns-test-data", ["about {input}", "more than {previous}"])
    spec = made.job("Lima")
    record = JobRecord(spec.agent, spec.input, prompts=spec.prompts)
    live = turns.rebuild(history([], record), catalog())
    assert len(live.asked) == 1
    steps = journaled(live, {0: (1, Outcome(response=LLMResponse(text="A")))})
    again = turns.rebuild(history(steps, record), catalog())
    request = again.asked[1].command.request
    assert isinstance(request, LLMRequest)
    assert request.messages == [{"role": "user", "content": "more than A"}]


# Waiting, and what a call may take --------------------------------------------------------------------------


def test_a_sleep_and_a_signal_are_steps_without_a_ticket() -> None:
    async def body() -> None:
        await gather(sleep(90), signal("go"), llm("hi"), tool(echo, "x"))

    decision = decided(body, catalog=catalog())
    kinds = [(s.step.kind, s.step.label, s.step.after) for s in decision.steps]
    assert kinds[:2] == [(Kind.SLEEP, "90 s", 90.0), (Kind.SIGNAL, "go", 0.0)]
    assert decision.lanes() == ["llm", "turns"]
    assert decision.steps[0].plain()["after"] == 90_000_000


def test_the_estimate_of_a_call_grows_with_its_prompt_and_knows_its_most_tokens() -> None:
    assert turns.estimate(llm("x" * 4).request) == (1, OUTPUT_GUESS)
    assert turns.estimate(llm("x" * 4000).request) == (1000, OUTPUT_GUESS)
    assert turns.estimate(llm("xxxx", max_tokens=7).request) == (1, 7)


def test_limits_reserve_tokens_and_shares_count_output_twice() -> None:
    async def body() -> None:
        await gather(llm("x" * 400, max_tokens=30), tool(echo, "x"))

    call, own = (ranked.step for ranked in decided(body, catalog=catalog()).steps)
    assert (call.estimate, call.cost) == (100 + 30, 100 + 2 * 30)
    assert (own.estimate, own.cost) == (0, 0)


@pytest.mark.parametrize(("said", "then"), [(None, True), (False, False), (True, True)])
def test_a_local_fleet_compares_replays_unless_told_otherwise(said: bool | None, then: bool) -> None:
    config = Config(fleet=FleetConfig(name="turns-test", check_replays=said))
    assert LocalFleet(config, []).config.fleet.check_replays is then
    assert FleetConfig(name="x").check_replays is None, "and other workers do not"
