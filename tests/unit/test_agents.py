"""The programming model: what can be an agent, what it can be given, and what it asks for."""

from __future__ import annotations

import dataclasses
import datetime as dt
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aios_dist.config import PromptsConfig
from aios_dist.errors import InvalidInput, UnknownName
from aios_dist.journal.views import History, JobView
from aios_dist.model.calls import LLMResponse
from aios_dist.model.given import as_json
from aios_dist.model.jobs import JobRecord, JobState, Outcome
from aios_dist.model.specs import Budget, JobSpec
from aios_dist.program import agents, turns
from aios_dist.program.agents import Agent, PromptsAgent, PromptsProgram, agent, find, program_of, prompts
from aios_dist.program.commands import gather, llm, signal, sleep, tool
from aios_dist.program.replay import Replay

LIMITED = turns.Catalog({"small": "llm"}, "small", 1_000_000, 1_000_000)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of one test are not known to the next."""
    monkeypatch.setattr(agents, "_registry", {})


# Becoming an agent ----------------------------------------------------------------------------------------


def test_an_async_def_becomes_an_agent_of_its_own_name() -> None:
    @agent
    async def trip(city: str) -> str:
        """Plans."""
        return city

    assert isinstance(trip, Agent)
    assert (trip.name, trip.__doc__, find("trip")) == ("trip", "Plans.", trip)
    assert repr(trip) == "<agent trip(city: 'str') -> 'str'>"
    assert agents.registered() == {"trip": trip}


def test_an_agent_can_be_given_another_name() -> None:
    @agent(name="tours.trip:v2")
    async def trip() -> None: ...

    assert find("tours.trip:v2") is trip
    assert find("trip") is None


def _plain() -> None: ...


async def _generator() -> Any:
    yield 1


class _Callable:
    async def __call__(self) -> None: ...


@pytest.mark.parametrize("function", [_plain, _generator, _Callable, lambda: None, print])
def test_what_is_no_async_def_is_no_agent(function: Any) -> None:
    with pytest.raises(InvalidInput, match="must be an async def"):
        agent(function)


def test_an_agent_is_not_made_an_agent_twice() -> None:
    async def once() -> None: ...

    with pytest.raises(InvalidInput, match="async def"):
        agent(agent(once))


@pytest.mark.parametrize("name", ["a b", "-a", "a/b", "{a}", "ä", "a" * 129, "a\n", "a#1", "a'"])
def test_a_name_that_is_no_part_of_a_redis_key_is_refused(name: str) -> None:
    async def body() -> None: ...

    with pytest.raises(InvalidInput, match="letters, digits"):
        agent(name=name)(body)
    with pytest.raises(InvalidInput, match="letters, digits"):
        prompts(name, ["hi"])


def test_two_functions_cannot_have_one_name() -> None:
    async def one() -> None: ...

    async def two() -> None: ...

    agent(name="same")(one)
    with pytest.raises(InvalidInput, match="Two agents are called 'same'"):
        agent(name="same")(two)
    assert find("same") is not None


def test_importing_a_module_again_replaces_its_agents() -> None:
    def module() -> Agent:
        @agent
        async def again() -> None: ...

        made: Agent = again
        return made

    first, second = module(), module()
    assert find("again") is second is not first


async def positional_async(city: str, /) -> None: ...
async def starred(*cities: str) -> None: ...
async def with_id(id: str) -> None: ...
async def with_tenant(city: str, tenant: str = "me") -> None: ...
async def with_self(self: Any) -> None: ...


@pytest.mark.parametrize("function", [positional_async, starred, with_id, with_tenant, with_self])
def test_parameters_that_no_input_can_reach_are_refused_at_once(function: Any) -> None:
    with pytest.raises(InvalidInput, match="parameter"):
        agent(function)


async def test_calling_an_agent_gives_its_plain_coroutine() -> None:
    @agent
    async def double(number: int) -> int:
        return 2 * number

    assert await double(4) == 8


# Its input --------------------------------------------------------------------------------------------------


def some_agent() -> Agent:
    @agent
    async def trip(city: str, *, days: int = 2, **more: Any) -> Any:
        return [city, days, more]

    made: Agent = trip
    return made


def strict_agent() -> Agent:
    @agent
    async def strict(city: str, days: int = 2) -> Any:
        return [city, days]

    made: Agent = strict
    return made


def result_of(spec: JobSpec) -> Any:
    assert spec.program is not None
    return Replay(spec.program).result


def test_input_is_given_by_name_and_defaults_hold() -> None:
    spec = strict_agent().job(city="Lima", id="lima-1", tenant="acme")
    assert (spec.agent, spec.id, spec.tenant, spec.input) == ("strict", "lima-1", "acme", {"city": "Lima"})
    assert result_of(spec) == ["Lima", 2]


def test_extra_input_reaches_an_agent_that_takes_any() -> None:
    spec = some_agent().job(city="Lima", days=3, more="m", mood="good")
    assert spec.input == {"city": "Lima", "days": 3, "more": "m", "mood": "good"}
    assert result_of(spec) == ["Lima", 3, {"more": "m", "mood": "good"}]


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({}, "missing"),
        ({"town": "Lima"}, "city"),
        ({"city": "Lima", "day": 3}, "unexpected"),
        ({"days": 3}, "city"),
    ],
)
def test_input_that_does_not_fit_the_signature_is_one_sentence_with_the_signature(
    given: dict[str, Any], word: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        strict_agent().job(**given)
    text = str(caught.value)
    assert text.startswith("Agent strict(city: 'str', days: 'int' = 2)")
    assert word in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "value", [object(), print, {1j: 1}, float("nan"), float("-inf"), "\ud800", [{"a": {object()}}]]
)
def test_input_that_is_not_json_is_refused_with_the_agents_name(value: Any) -> None:
    with pytest.raises(InvalidInput, match="input of agent 'strict' is not JSON"):
        strict_agent().job(city=value)


def test_an_agent_gets_its_input_as_json_gives_it_back_from_the_first_turn_on() -> None:
    assert result_of(strict_agent().job(city=("Lima", dt.date(2025, 1, 2)))) == [["Lima", "2025-01-02"], 2]


def test_a_journaled_input_that_no_longer_fits_is_an_error_of_the_job() -> None:
    strict_agent()
    replay = Replay(program_of("strict", {"town": "Lima"}, None))
    assert isinstance(replay.error, InvalidInput)
    assert "strict" in str(replay.error)


def test_code_that_is_not_here_is_named() -> None:
    with pytest.raises(UnknownName, match="'nobody' is not in this process"):
        program_of("nobody", {}, None)


# as_json --------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Place:
    name: str
    at: tuple[float, float]


class Ticket(msgspec.Struct):
    seat: int | None = None


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        (2**70, 2**70),
        ((1, (2,)), [1, [2]]),
        ({"a": None}, {"a": None}),
        ({1: "a", 2.5: "b"}, {"1": "a", "2.5": "b"}),
        (Place("Lima", (1.5, 2.0)), {"name": "Lima", "at": [1.5, 2.0]}),
        (Ticket(), {"seat": None}),
        (dt.datetime(2025, 1, 2, 3, 4, tzinfo=dt.UTC), "2025-01-02T03:04:00Z"),
        ("null", "null"),
        ("ünï ✓ \x00", "ünï ✓ \x00"),
    ],
)
def test_values_come_back_as_json_has_them(value: Any, plain: Any) -> None:
    once = as_json(value, "value")
    assert once == plain
    assert as_json(once, "value") == plain


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}, Place("x", (float("nan"), 0.0))])
def test_a_number_that_json_does_not_have_is_not_made_null(value: Any) -> None:
    with pytest.raises(InvalidInput, match="The value is not JSON"):
        as_json(value, "value")


def test_a_circle_is_not_json() -> None:
    circle: dict[str, Any] = {}
    circle["again"] = circle
    with pytest.raises(InvalidInput, match="not JSON"):
        as_json(circle, "value")


# llm() and tool() -------------------------------------------------------------------------------------------


def test_llm_passes_everything_on_untouched() -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "me"}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    request = llm(
        messages=messages,
        model="small",
        temperature=0.0,
        max_tokens=1,
        tools=tools,
        response_format={"type": "json_object"},
        seed=1,
        logit_bias={"50256": -100},
    ).request
    assert request.messages == messages
    assert (request.model, request.temperature, request.max_tokens) == ("small", 0.0, 1)
    assert (request.tools, request.response_format) == (tools, {"type": "json_object"})
    assert request.extra == {"seed": 1, "logit_bias": {"50256": -100}}
    sent = msgspec.json.decode(msgspec.json.encode(request))
    assert sent["temperature"] == 0.0, "0 is a temperature, not an absent one"


def test_a_prompt_is_a_user_message_after_the_system_message() -> None:
    assert llm("hi").request.messages == [{"role": "user", "content": "hi"}]
    assert llm("", system="be brief").request.messages == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": ""},
    ]


def test_a_conversation_may_grow_after_it_was_asked_about() -> None:
    messages = [{"role": "user", "content": "hi"}]
    command = llm(messages=messages)
    messages.append({"role": "assistant", "content": "hello"})
    messages[0]["content"] = "changed"
    assert command.request.messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "make",
    [
        lambda: llm(),
        lambda: llm("a", messages=[]),
        lambda: llm(messages=[{"role": "user", "content": "a"}], system="b"),
        lambda: llm(5),  # type: ignore[arg-type]
        lambda: llm({"role": "user"}),  # type: ignore[arg-type]
        lambda: llm(messages="hi"),  # type: ignore[arg-type]
        lambda: llm(messages=["hi"]),  # type: ignore[list-item]
        lambda: tool(5),  # type: ignore[arg-type]
        lambda: tool("look_up"),  # type: ignore[arg-type]
    ],
)
def test_calls_that_make_no_sense_are_refused_with_a_sentence(make: Callable[[], Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert str(caught.value).endswith(".") or "not tool(f(x))" in str(caught.value)


class Hotels:
    def find(self, city: str, function: str = "x") -> str:
        return f"{city} {function}"


def test_a_tool_carries_its_name_and_arguments_and_any_keyword() -> None:
    command = tool(Hotels().find, "Lima", function="stay")
    assert (command.request.name, command.request.args, command.request.kwargs) == (
        "Hotels.find",
        ["Lima"],
        {"function": "stay"},
    )
    assert command.call() == "Lima stay"


def test_an_instance_that_can_be_called_is_a_tool_too() -> None:
    assert tool(_Callable()).request.name == "_Callable"


def test_gather_keeps_what_it_was_given() -> None:
    one, two = llm("a"), llm("b")
    assert gather(one, two).branches == (one, two)


# Agents that are data ---------------------------------------------------------------------------------------


def asked_by(made: PromptsAgent, *replies: str, **input: Any) -> list[str]:
    spec = made.job(**input)
    assert spec.program is not None
    replay = Replay(spec.program)
    for number, text in enumerate(replies):
        replay.deliver(number, Outcome(response=LLMResponse(text=text)))
    assert replay.error is None
    return [a.command.request.messages[-1]["content"] for a in replay.asked]  # type: ignore[union-attr]


def test_prompts_are_filled_from_the_input_and_earlier_answers() -> None:
    made = prompts(
        "trip", ["Sights in {input}?", "Best of {previous}?", "{steps[0]} and {steps[1]} in {{x}}"]
    )
    assert asked_by(made, "A {input}", "B", input="Lima") == [
        "Sights in Lima?",
        "Best of A {input}?",
        "A {input} and B in {x}",
    ]


def test_named_input_fills_named_places() -> None:
    made = prompts("trip", ["{input[city]} for {input[days]} days, {input[likes][0]}"])
    assert asked_by(made, city="Lima", days=2, likes=["food"]) == ["Lima for 2 days, food"]
    assert asked_by(made, input={"city": "Lima", "days": 2, "likes": ["food"]}) == ["Lima for 2 days, food"]


def test_a_data_agent_returns_its_last_answer_and_carries_its_definition() -> None:
    made = prompts("two", ["a", "b"], model="small", system="brief", temperature=0.5, max_tokens=9)
    spec = made.job(id="x")
    assert spec.prompts == PromptsConfig(["a", "b"], "small", "brief", 0.5, 9)
    replay = Replay(program_of("two", spec.input, spec.prompts))
    for number in range(2):
        replay.deliver(number, Outcome(response=LLMResponse(text=f"r{number}")))
    assert replay.result == "r1"
    request = replay.asked[0].command.request
    assert msgspec.to_builtins(request) == {
        "messages": [{"role": "system", "content": "brief"}, {"role": "user", "content": "a"}],
        "model": "small",
        "temperature": 0.5,
        "max_tokens": 9,
    }


@pytest.mark.parametrize(
    "prompt",
    [
        "{steps[5]}",
        "{steps[0]}",  # of itself
        "{steps[-1]}",
        "{previous}",
        "{foo}",
        "{}",
        "{0}",
        "{input.x}",
        "{input.__class__}",
        "{input[a].__class__}",
        "{input!r}",
        "{input:>10}",
        "{input:{input.__class__}}",
        "{input:999999999999}",
        "{",
        "}",
        "{input",
        "{input[}",
        "{input[]}",
        "{input!}",
    ],
)
def test_a_placeholder_that_can_never_be_filled_is_refused_when_the_agent_is_made(prompt: str) -> None:
    with pytest.raises(InvalidInput, match=r"Prompt 0 of agent 'data' cannot be filled in") as caught:
        prompts("data", [prompt])
    assert "{input[key]}" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("prompt", ["{steps[1]}", "{steps[0].x}", "{previous:{input.x}}", "{previous:9}"])
def test_a_later_prompt_sees_only_earlier_answers(prompt: str) -> None:
    prompts("data", ["a", "{steps[0]} {previous}"])
    with pytest.raises(InvalidInput, match="Prompt 1"):
        prompts("data", ["a", prompt])


@pytest.mark.parametrize(
    ("prompt", "input"),
    [
        ("{input}", {}),
        ("{input[city]}", {"input": {"town": "Lima"}}),
        ("{input[city]}", {"input": "Lima"}),
        ("{input[3]}", {"input": [1]}),
        ("{input[city]}", {"town": "Lima"}),
        ("{input[a][b]}", {"a": None}),
    ],
)
def test_input_that_a_prompt_needs_and_does_not_get_is_refused_at_submit(
    prompt: str, input: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInput, match="Prompt 0 of agent 'data'"):
        prompts("data", [prompt]).job(**input)


def test_a_data_agent_takes_one_input_or_named_ones() -> None:
    with pytest.raises(InvalidInput, match="not both"):
        prompts("data", ["a"]).job("x", city="Lima")
    with pytest.raises(InvalidInput, match="not JSON"):
        prompts("data", ["{input}"]).job(object())


@pytest.mark.parametrize("empty", [[], "one text", ()])
def test_a_data_agent_needs_a_list_of_prompts(empty: Any) -> None:
    with pytest.raises(InvalidInput, match="list of at least one prompt"):
        prompts("data", empty)


@pytest.mark.parametrize("falsy", [0, "", [], False])
def test_an_empty_input_is_an_input(falsy: Any) -> None:
    assert asked_by(prompts("data", ["<{input}>"]), input=falsy) == [f"<{falsy}>"]


def peak(run: Callable[[], Any]) -> tuple[Any, int]:
    """What it gives, and the most bytes that it held."""
    tracemalloc.start()
    try:
        return run(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_template_that_multiplies_an_answer_is_refused_before_it_is_built() -> None:
    spec = prompts("data", ["a", "{previous}" * 60_000]).job()
    replay = turns.rebuild(
        History(
            JobView(id="j", state=JobState.RUNNING, agent="data"),
            JobRecord("data", spec.input, prompts=spec.prompts),
            [],
        ),
        LIMITED,
    )
    answer = "ä" * 31_250
    _, held = peak(lambda: replay.deliver(0, Outcome(response=LLMResponse(text=answer))))
    assert type(replay.error) is InvalidInput
    assert str(replay.error) == (
        "Prompt 1 of agent 'data', filled in, has 3,750,000,000 bytes, more than prompt_limit (1,000,000); "
        "shorten it, or raise prompt_limit in [fleet]."
    )
    assert replay.refused is replay.error
    assert held < 20_000_000


@pytest.mark.parametrize("places", ["{input[text]}" * 60_000, "{input}" * 60_000])
def test_a_template_that_multiplies_the_input_is_refused_at_submit(places: str) -> None:
    def submit() -> None:
        spec = prompts("data", [places]).job(text="x" * 60_000)
        assert spec.program is not None
        with pytest.raises(InvalidInput, match=r"3,6\d\d,\d{3},\d{3} bytes, more than prompt_limit"):
            turns.start(spec.program, LIMITED)

    assert peak(submit)[1] < 20_000_000


def test_where_nobody_knows_the_limit_there_is_one_all_the_same() -> None:
    spec = prompts("data", ["{input}" * 2000]).job("x" * 60_000)
    assert spec.program is not None
    assert "more than prompt_limit (67,108,864)" in str(Replay(spec.program).error)


def test_a_prompt_of_just_the_limit_is_asked() -> None:
    made = PromptsConfig(["{input} {input}"])
    for size, fits in ((50, True), (49, False)):
        replay = Replay(PromptsProgram("data", made, "ä" * 12 + "x", size + 1))
        assert (replay.error is None) is fits, size


# Waiting and spending ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 4e8, True, "5", None])
def test_a_sleep_is_a_number_of_seconds_of_up_to_ten_years(seconds: Any) -> None:
    with pytest.raises(InvalidInput, match=r"sleep\(\) takes seconds"):
        sleep(seconds)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 129, 5, None])
def test_the_name_of_a_signal_is_a_name(name: Any) -> None:
    with pytest.raises(InvalidInput, match="Signal name"):
        signal(name)


def test_an_agent_sleeps_and_waits_for_signals_as_it_awaits_anything_else() -> None:
    async def body() -> list[Any]:
        nothing = await sleep(60)
        return [nothing, *await gather(signal("go"), sleep(0), signal("go"))]

    replay = Replay(body)
    replay.deliver(0, Outcome())
    assert [a.kind.value for a in replay.asked] == ["sleep", "signal", "sleep", "signal"]
    for number, value in ((3, {"by": "me"}), (1, None), (2, None)):
        replay.deliver(number, Outcome(value=value))
    assert (replay.result, replay.error) == ([None, None, None, {"by": "me"}], None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tokens": -1},
        {"money": -0.1},
        {"money": float("inf")},
        {"money": float("nan")},
        {"tokens": 1, "on_budget": "x"},
    ],
)
def test_a_budget_is_a_number_and_says_what_happens_at_its_end(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Budget(**fields)


def test_a_budget_of_nothing_is_a_budget() -> None:
    assert (Budget(tokens=0).on_budget, Budget(money=0.0, on_budget="fail").tokens) == ("pause", None)


# What goes with a job ---------------------------------------------------------------------------------------


def test_a_job_is_of_the_lowest_priority_and_nothing_is_expected_of_it_unless_it_is_said() -> None:
    spec = prompts("one", ["hi"]).job()
    assert (spec.priority, spec.expected_steps, spec.deadline, spec.budget) == (0, None, None, None)


def test_what_goes_with_a_job_is_added_bit_by_bit_to_a_new_one() -> None:
    plain = prompts("one", ["hi"]).job(id="j", tenant="acme")
    spec = plain.within(priority=9).within(expected_steps=4).within(deadline=60)
    assert (spec.priority, spec.expected_steps, spec.deadline) == (9, 4, 60)
    assert (spec.id, spec.tenant, spec.input) == ("j", "acme", plain.input)
    assert plain.priority == 0, "the first is as it was"
    again = spec.within(priority=0)
    assert (again.priority, again.expected_steps) == (0, 4)


@pytest.mark.parametrize("priority", [0, 1, 9])
def test_priorities_are_zero_to_nine(priority: int) -> None:
    assert prompts("one", ["hi"]).job().within(priority=priority).priority == priority


@pytest.mark.parametrize("wrong", [-1, 10, 5.0, True, "5", float("nan"), [5]])
def test_another_priority_is_refused_in_a_sentence(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompts("one", ["hi"]).job().within(priority=wrong)
    assert str(caught.value) == f"A job's priority must be a whole number from 0 to 9, not {wrong!r}."


@pytest.mark.parametrize("wrong", [0, -3, 2.0, True, "4", 10**6])
def test_no_steps_or_half_a_step_cannot_be_expected(wrong: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompts("one", ["hi"]).job().within(expected_steps=wrong)
    assert "A job's expected_steps must be a whole number from 1 to 999,999, not " in str(caught.value)
    assert repr(wrong) in str(caught.value)


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), float("inf"), 3.3e8])
def test_a_deadline_is_in_the_future_and_within_ten_years(wrong: float) -> None:
    with pytest.raises(InvalidInput, match="A job's deadline must be a number of seconds above 0"):
        prompts("one", ["hi"]).job().within(deadline=wrong)
