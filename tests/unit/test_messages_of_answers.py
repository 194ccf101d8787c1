"""An answer as a message of the conversation: whole, valid on the wire, and what is not is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from aios_dist.config import PromptsConfig
from aios_dist.errors import ContentRefused, InvalidInput
from aios_dist.model.calls import LLMRequest, LLMResponse, ToolCall, Usage
from aios_dist.model.jobs import JobRecord, Outcome, decode, encode
from aios_dist.program import turns
from aios_dist.program.agents import program_of
from aios_dist.program.commands import llm
from aios_dist.program.replay import Replay
from aios_dist.testing import anthropic_protocol, openai_protocol
from aios_dist.testing.replies import BadRequest
from aios_dist.worker.steps import billed, kept

CATALOG = turns.Catalog({"small": "llm"}, "small", 1_000_000, 1_000_000)
CALL = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": "{}"}}
ASKED = {"role": "user", "content": "hi"}
TOLD = {"role": "tool", "tool_call_id": "c1", "content": "noon"}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (LLMResponse("ok"), {"role": "assistant", "content": "ok"}),
        (LLMResponse(""), {"role": "assistant", "content": ""}),
        (
            LLMResponse("", [ToolCall("c1", "now", "{}")]),
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
        ),
        (
            LLMResponse("ok", own={"reasoning_content": "hm", "audio": {"id": "a", "data": "AAAA"}}),
            {"role": "assistant", "content": "ok", "reasoning_content": "hm", "audio": {"id": "a"}},
        ),
        (
            LLMResponse("", [ToolCall("c1", "now", "{}")], own={"content": [{"b": 1}], "tool_calls": None}),
            {"role": "assistant", "content": [{"b": 1}]},
        ),
    ],
)
def test_an_answer_is_a_message_with_all_that_it_came_with(
    answer: LLMResponse, message: dict[str, Any]
) -> None:
    assert answer.message == message
    answer.message["content"] = "another"
    for value in answer.message.values():
        if isinstance(value, dict):
            value.clear()
    assert answer.message == message, "a new one each time"
    assert decode(encode(Outcome(response=answer)), Outcome).response == answer


def test_an_answer_of_a_release_that_kept_no_message_has_one() -> None:
    old = b'{"response":{"text":"ok","tool_calls":[{"id":"c1","name":"now","arguments":"{}"}]}}'
    answer = msgspec.json.decode(old, type=Outcome).response
    assert answer is not None
    assert answer.message == {"role": "assistant", "content": "ok", "tool_calls": [CALL]}
    assert answer.refusal is None


def test_what_an_adapter_of_anybodys_says_of_its_own_costs_no_answer() -> None:
    odd: Any = {"x": object()}
    outcome, data = kept(Outcome(response=LLMResponse("ok", own=odd)))
    assert outcome.response == decode(data, Outcome).response == LLMResponse("ok")
    half: Any = Usage(1.5, 2, 1, float("nan"))  # type: ignore[arg-type]
    assert billed(Outcome(response=LLMResponse("ok", usage=half))) == Usage(1, 2, 1, 0)


def refusal_of(messages: Callable[[], list[Any]]) -> str:
    """Why an agent that asks this is refused; "" where it is not."""
    told: list[str] = []

    async def body() -> None:
        try:
            await llm(messages=messages())
        except InvalidInput as error:
            told.append(str(error))

    replay = Replay(body, admit=CATALOG.admit)
    turns.decide(replay, JobRecord("a", {}), CATALOG, first=0)
    return "".join(told)


REPLY = LLMResponse("ok", [ToolCall("c1", "now", "{}")])


@pytest.mark.parametrize(
    "messages",
    [
        [ASKED, REPLY],
        [ASKED, {"role": "assistant", "content": REPLY}],
        [ASKED, {"role": "assistant", "content": "", "tool_calls": REPLY.tool_calls}],
        [ASKED, {"role": "assistant", "tool_calls": [{"id": "c1", "name": "now", "arguments": "{}"}]}],
        [ASKED, {"role": "assistant", "tool_calls": "now"}],
    ],
)
def test_an_answer_in_a_form_that_no_provider_takes_is_refused_at_the_await(messages: list[Any]) -> None:
    assert "append reply.message" in refusal_of(lambda: messages)
    assert refusal_of(lambda: [ASKED, REPLY.message, TOLD]) == ""


_ANSWER = {"role": "assistant", "content": None}


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([{"role": "robot", "content": "hi"}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([ASKED, _ANSWER], "messages[1].content"),
        ([ASKED, {**_ANSWER, "tool_calls": []}], "messages[1].tool_calls"),
        ([ASKED, {**_ANSWER, "tool_calls": [{"id": "c1", "name": "now"}]}], "messages[1].tool_calls[0].type"),
        ([ASKED, {**_ANSWER, "tool_calls": [{**CALL, "id": ""}]}], "messages[1].tool_calls[0].id"),
        (
            [ASKED, {**_ANSWER, "tool_calls": [{**CALL, "function": {"name": "now", "arguments": {}}}]}],
            "messages[1].tool_calls[0].function.arguments",
        ),
        (
            [ASKED, {**_ANSWER, "tool_calls": [{**CALL, "function": {}}]}],
            "messages[1].tool_calls[0].function",
        ),
        ([ASKED, {**_ANSWER, "tool_calls": [CALL, CALL]}, TOLD, TOLD], "messages[1].tool_calls"),
        ([ASKED, {**_ANSWER, "tool_calls": [CALL]}], "messages"),
        ([ASKED, {**_ANSWER, "tool_calls": [CALL]}, ASKED], "messages[2].role"),
        ([ASKED, TOLD], "messages[1].tool_call_id"),
        ([ASKED, {**_ANSWER, "tool_calls": [CALL]}, {**TOLD, "content": None}], "messages[2].content"),
        ([{"role": "user", "content": []}], "messages[0].content"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_fake_llm_refuses_what_openai_refuses(messages: list[dict[str, Any]], field: str) -> None:
    with pytest.raises(BadRequest) as raised:
        openai_protocol.read({"model": "m", "messages": messages})
    assert (raised.value.status, raised.value.param) == (400, field)


USE = {"type": "tool_use", "id": "c1", "name": "now", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "noon"}


def _said(*blocks: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": [*blocks]}


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([ASKED, {"role": "assistant", "content": None}], "messages.1.content"),
        ([ASKED, _said(), ASKED], "non-empty"),
        ([ASKED, _said("text"), ASKED], "a block with a type"),
        ([ASKED, _said({"type": "text", "text": " "}), ASKED], "non-whitespace"),
        (
            [ASKED, _said({"type": "thinking", "thinking": "hm"}), ASKED],
            "messages.1.content.0.thinking.signature",
        ),
        ([ASKED, _said({**USE, "input": "{}"}), ASKED], "messages.1.content.0.tool_use.input"),
        ([ASKED, _said(USE), ASKED], "needs its `tool_result`"),
        ([ASKED, _said(USE)], "the last `tool_use`"),
        ([{"role": "user", "content": [RESULT]}], "needs its `tool_result`"),
        ([ASKED, _said(USE, USE), {"role": "user", "content": [RESULT, RESULT]}], "must be unique"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_fake_llm_refuses_what_anthropic_refuses(messages: list[Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as raised:
        anthropic_protocol.read({"model": "m", "max_tokens": 5, "messages": messages})
    assert sentence in raised.value.sentence


def test_what_both_take_is_taken() -> None:
    openai_protocol.read({"model": "m", "messages": [ASKED, REPLY.message, TOLD, ASKED]})
    openai_protocol.read({"model": "m", "messages": [ASKED, {"role": "assistant", "refusal": "No."}, ASKED]})
    talk = [ASKED, _said(USE), {"role": "user", "content": [RESULT]}, _said({"type": "text", "text": "ok"})]
    anthropic_protocol.read({"model": "m", "max_tokens": 5, "messages": talk})


class Looked(list[Any]):
    """Calls that count how often somebody looks at them."""

    looked = 0

    def __iter__(self) -> Iterator[Any]:
        self.looked += 1
        return super().__iter__()


def test_a_long_conversation_is_looked_at_once_and_then_what_is_new() -> None:
    calls = Looked([CALL])
    talk: list[dict[str, Any]] = [ASKED, {"role": "assistant", "tool_calls": calls}, TOLD]

    async def chat() -> None:
        for _ in range(3):
            talk.append((await llm(messages=talk)).message)
            talk.append(ASKED)
        await llm(messages=[*talk, {"role": "assistant", "tool_calls": "now"}])

    replay = Replay(chat, admit=CATALOG.admit)
    looked = []
    for number in range(3):
        looked.append(calls.looked)
        replay.deliver(number, Outcome(response=LLMResponse("ok")))
    assert looked == [1, 1, 1]
    assert "append reply.message" in str(replay.error), "what is new is looked at"


def test_a_refusal_in_a_part_of_the_content_is_one() -> None:
    parts = [{"type": "refusal", "refusal": "No"}, {"type": "refusal", "refusal": "."}]
    assert LLMResponse("", own={"content": parts}).refusal == "No."
    assert LLMResponse("", own={"content": [{"type": "thinking"}]}).refusal is None


def test_a_list_of_prompts_ends_where_the_model_refuses() -> None:
    definition = PromptsConfig(prompts=["{input}", "on: {previous}"], model="small")
    replay = Replay(program_of("p", {"input": "hi"}, definition), admit=CATALOG.admit)
    assert isinstance(replay.asked[0].command.request, LLMRequest)  # type: ignore[union-attr]
    replay.deliver(0, Outcome(response=LLMResponse("", own={"refusal": "I will not."})))
    assert isinstance(replay.error, ContentRefused)
    assert "I will not." in str(replay.error)
