"""What an agent asks for and JSON has no word for is refused where it is asked for, and nothing is lost."""

from __future__ import annotations

import base64
import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from aios_dist.config import parse
from aios_dist.errors import ConfigError, InvalidInput, ProgramChanged
from aios_dist.model.calls import LLMResponse, ToolCall
from aios_dist.model.jobs import Outcome, Step, StepState
from aios_dist.program import turns
from aios_dist.program.agents import prompts
from aios_dist.program.commands import LLM, llm, tool
from aios_dist.program.replay import Replay

NAN, INFINITY = float("nan"), float("inf")


def asked_with(content: Any) -> LLM:
    return llm(messages=[{"role": "user", "content": content}])


def look_up(*args: Any) -> None: ...


class Evil(dict[str, Any]):
    def __eq__(self, other: object) -> bool:
        raise ValueError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: asked_with(b"x"), "messages[0]['content'] is bytes"),
        (lambda: asked_with([{"type": "image", "data": bytearray(b"x")}]), "['content'][0]['data'] is bytes"),
        (lambda: asked_with(memoryview(b"x")), "is bytes"),
        (lambda: asked_with({"a", "b"}), "is a set"),
        (lambda: asked_with(frozenset("a")), "is a set"),
        (lambda: asked_with([NAN]), "messages[0]['content'][0] is nan"),
        (lambda: asked_with(-INFINITY), "is -inf"),
        (lambda: asked_with({1: "x"}), "a key of messages[0]['content'] is int"),
        (lambda: asked_with({b"k": "x"}), "is bytes, not text"),
        (lambda: asked_with({None: "x"}), "not JSON"),
        (lambda: asked_with("\ud800"), "surrogates"),
        (lambda: asked_with({"\ud800": 1}), "surrogates"),
        (lambda: asked_with(nested(100_000)), "it cannot be looked at (RecursionError)"),
        (lambda: asked_with(2**64), "beyond 64 bits"),
        (lambda: asked_with([-(2**63) - 1]), "beyond 64 bits"),
        (lambda: asked_with(10**5000), "not JSON"),
        (lambda: llm("x", logit_bias={50256: -100}), "a key of extra['logit_bias'] is int"),
        (lambda: llm("x", seed=NAN), "extra['seed'] is nan"),
        (lambda: llm("x", seed=2**70), "beyond 64 bits"),
        (lambda: llm("x", stop={"a"}), "extra['stop'] is a set"),
        (
            lambda: llm("x", tools=[{"function": {"default": b"x"}}]),
            "tools[0]['function']['default'] is bytes",
        ),
        (lambda: llm("x", response_format={"schema": (1, NAN)}), "response_format['schema'][1] is nan"),
        (lambda: llm("x", temperature=NAN), "temperature must be a number from 0 to 1000"),
        (lambda: llm("x", temperature=-0.1), "temperature must be"),
        (lambda: llm("x", temperature=1e4), "temperature must be"),
        (lambda: llm("x", temperature=True), "temperature must be"),
        (lambda: llm("x", temperature="hot"), "temperature must be"),  # type: ignore[arg-type]
        (lambda: llm("x", max_tokens=0), "max_tokens must be a whole number from 1 to 1,000,000,000"),
        (lambda: llm("x", max_tokens=-5), "max_tokens must be"),
        (lambda: llm("x", max_tokens=10**30), "max_tokens must be"),
        (lambda: llm("x", max_tokens=True), "max_tokens must be"),
        (lambda: llm("x", max_tokens=1.0), "max_tokens must be"),  # type: ignore[arg-type]
        (lambda: llm("x", model=["a"]), "cannot be used"),  # type: ignore[arg-type]
        (lambda: tool(look_up, 2**64), "beyond 64 bits"),
        (lambda: tool(look_up, [NAN]), "not JSON"),
        (lambda: tool(look_up, nested(100_000)), "not JSON"),
    ],
)
def test_what_json_has_no_word_for_is_refused_with_its_place(make: Callable[[], Any], says: str) -> None:
    async def body() -> None:
        await make()

    replay = Replay(body)
    assert isinstance(replay.error, InvalidInput)
    assert says in str(replay.error)
    assert "\n" not in str(replay.error)
    assert (replay.refused, replay.asked) == (replay.error, [])


@pytest.mark.parametrize(
    ("given", "says"), [(5, "list of dicts, not int"), ("text", "list of {"), ([["a"]], "list of {")]
)
def test_a_conversation_is_a_list_of_dicts(given: Any, says: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        llm(messages=given)
    assert says in str(caught.value)


def test_a_conversation_from_a_generator_is_asked_whole() -> None:
    command = llm(messages=({"role": "user", "content": str(n)} for n in range(3)), tools=iter([{"a": 1}]))
    assert [m["content"] for m in command.request.messages] == ["0", "1", "2"]
    assert command.request.tools == [{"a": 1}]


class Role(enum.StrEnum):
    USER = "user"


@dataclasses.dataclass
class Part:
    type: str
    text: str


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    "content",
    [
        "ünï ✓ \x00",
        ["a", ("b", None, True, 1.5, 2**64 - 1, -(2**63))],
        Part("text", "hi"),
        [ToolCall("1", "f", "{}")],
        {Text("type"): "text"},
        Evil(type="text"),
        nested(100),
    ],
    ids=range(7),
)
def test_what_has_a_form_in_json_is_asked(content: Any) -> None:
    async def body() -> None:
        await llm(messages=[{"role": Role.USER, "content": content}], temperature=0, max_tokens=10**9)

    assert len(Replay(body).asked) == 1


def as_journaled(replay: Replay) -> list[Step]:
    """What the journal holds of the steps: their requests as JSON gives them back."""
    return [
        Step(
            job="j",
            number=number,
            kind=a.kind,
            lane="llm",
            state=StepState.READY,
            digest=a.digest,
            request=msgspec.json.decode(msgspec.json.encode(a.command.request), type=type(a.command.request)),
        )
        for number, a in enumerate(replay.asked)
    ]


def replayed(body: Any, journal: Sequence[Step]) -> Replay:
    replay = Replay(body, journal)
    replay.check_complete()
    return replay


def test_an_agent_that_is_refused_and_asks_in_the_form_json_has_is_replayed_the_same_way() -> None:
    image = b"\x00\x01"
    ways: list[str] = []

    async def body() -> None:
        try:
            await asked_with(image)
            ways.append("accepted")
        except InvalidInput:
            ways.append("refused")
            await asked_with(base64.b64encode(image).decode())  # the very same JSON

    live = Replay(body)
    other = replayed(body, as_journaled(live))
    assert ways == ["refused", "refused"]
    assert [a.digest for a in other.asked] == [a.digest for a in live.asked]
    assert not isinstance(other.error, ProgramChanged)


def test_a_refusal_comes_to_the_producer_and_nothing_is_written() -> None:
    async def body() -> None:
        await llm("x", max_tokens=-1)

    with pytest.raises(InvalidInput, match="max_tokens"):
        turns.start(body, turns.Catalog({}, None, 1000, 1000))


def test_a_refusal_in_a_later_turn_is_the_agents_to_catch() -> None:
    async def body() -> str:
        await llm("a")
        try:
            await asked_with(b"x")
        except InvalidInput:
            return str((await llm("b")).text)
        return ""

    replay = Replay(body)
    for number in range(2):
        replay.deliver(number, Outcome(response=LLMResponse(text=str(number))))
    assert replay.result == "1"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", 10**10),
        ("temperature", -1.0),
        ("temperature", NAN),
        ("temperature", 1e9),
    ],
)
def test_an_agent_that_is_data_has_numbers_within_bounds_too(option: str, value: Any) -> None:
    with pytest.raises(InvalidInput, match=rf"Agent 'data': {option} must be"):
        prompts("data", ["a"], **{option: value})
    with pytest.raises(ConfigError, match=rf"\[agents.data\] {option} must be"):
        parse({"agents": {"data": {"prompts": ["a"], option: value}}})
