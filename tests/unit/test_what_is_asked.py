"""What is sent is what was asked: taken at the await, deep; and only what can be asked is."""

from __future__ import annotations

import dataclasses
import datetime as dt
import functools
import itertools
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aios_dist.errors import InvalidInput
from aios_dist.model.calls import OUTPUT_GUESS, LLMRequest, LLMResponse
from aios_dist.model.estimates import PICTURE, SMALL_PICTURE, estimate
from aios_dist.model.jobs import JobRecord, Kind, Outcome, Step, StepState, decode
from aios_dist.program import turns
from aios_dist.program.commands import LLM, Tool, gather, llm, tool
from aios_dist.program.replay import Replay
from aios_dist.program.requests import encoded

CATALOG = turns.Catalog({"small": "llm"}, "small", 1_000_000, 1_000_000)


def journaled(body: Callable[[], Any]) -> list[Any]:
    """The requests of turn 0 as the journal keeps them."""
    replay = Replay(body, admit=CATALOG.admit)
    decision = turns.decide(replay, JobRecord("a", {}), CATALOG, first=0)
    kinds = [type(asked.command.request) for asked in replay.asked if asked.command is not None]
    return [decode(r.step.request, kind) for r, kind in zip(decision.steps, kinds, strict=True)]


def the_tool(body: Callable[[], Any], step: int = 0) -> Tool:
    command = Replay(body).asked[step].command
    assert isinstance(command, Tool)
    return command


# Messages -----------------------------------------------------------------------------------------------


def test_branches_that_share_a_part_each_ask_their_own_question() -> None:
    part = {"type": "text", "text": ""}

    async def ask(number: int) -> None:
        part["text"] = f"question {number}"
        await llm(messages=[{"role": "user", "content": [part]}])

    async def body() -> None:
        await gather(ask(0), ask(1), ask(2))

    asked = [request.messages[0]["content"][0]["text"] for request in journaled(body)]
    assert asked == ["question 0", "question 1", "question 2"]


def test_nothing_that_an_agent_changes_later_reaches_a_call_nor_what_is_reserved_for_it() -> None:
    options: dict[str, Any] = {"tools": [{"function": {"name": "f"}}], "response_format": {"type": "text"}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "x" * 400}]}]
    bias = {"50256": -100}

    async def ask() -> None:
        await llm(messages=messages, logit_bias=bias, **options)

    async def spoil() -> None:
        messages[0]["content"] = object()  # type: ignore[assignment]
        options["tools"][0]["function"]["name"] = "g"
        options["response_format"]["type"] = object()
        bias.clear()

    async def body() -> None:
        await gather(ask(), spoil())

    replay = Replay(body)
    decision = turns.decide(replay, JobRecord("a", {}), CATALOG, first=0)
    (step,) = (ranked.step for ranked in decision.steps)
    request = decode(step.request, LLMRequest)
    assert request.messages[0]["content"][0]["text"] == "x" * 400
    assert request.tools == [{"function": {"name": "f"}}]
    assert (request.response_format, request.extra) == ({"type": "text"}, {"logit_bias": {"50256": -100}})
    assert step.estimate == 100 + OUTPUT_GUESS
    assert isinstance(replay.asked[0].command, LLM)
    assert replay.asked[0].command.request == request


def test_an_iterator_gives_its_messages_once_and_then_an_empty_conversation_which_is_refused() -> None:
    history = [{"role": "user", "content": "q"}]
    given = itertools.chain([{"role": "system", "content": "be brief"}], history)

    async def body() -> None:
        await gather(llm(messages=given), llm(messages=given), return_exceptions=True)

    replay = Replay(body)
    first = replay.asked[0].command
    assert isinstance(first, LLM)
    assert [m["content"] for m in first.request.messages] == ["be brief", "q"]
    assert "empty conversation" in str(replay.refused)


# Tools --------------------------------------------------------------------------------------------------


def count(cart: list[str], **more: Any) -> Any:
    cart.append("seen")
    return [len(cart), more]


def kinds(*values: Any) -> list[str]:
    return [type(value).__name__ for value in values]


def test_a_tool_gets_the_arguments_that_it_had_when_it_was_awaited() -> None:
    async def body() -> None:
        cart: list[str] = []
        booking = tool(count, cart, more={"a": [1]})
        cart.append("hotel")
        await gather(booking, spoil(cart))

    async def spoil(cart: list[str]) -> None:
        cart.clear()

    command = the_tool(body)
    assert journaled(body)[0].args == [["hotel"]]
    assert [command.call(), command.call()] == [[2, {"more": {"a": [1]}}]] * 2, "anew for each run"


@dataclasses.dataclass
class Order:
    city: str
    nights: list[int]


def test_what_has_a_type_of_its_own_keeps_it_and_is_no_object_of_the_programs() -> None:
    order = Order("Lima", [1])
    answer = LLMResponse(text="hi")

    def look(one: Order, *rest: Any) -> list[Any]:
        one.nights.append(2)
        return [one.city, one.nights, *kinds(*rest)]

    async def body() -> None:
        await tool(look, order, answer, dt.date(2025, 1, 2), (1, 2), {"a"})

    call = the_tool(body).call
    order.city = "Rome"
    for _ in range(2):
        assert call() == ["Lima", [1, 2], "LLMResponse", "date", "tuple", "set"]
    assert order.nights == [1]


def test_what_a_partial_holds_is_taken_at_the_await_too() -> None:
    async def body() -> None:
        cart = ["hotel"]  # (what the agent's function itself closes over, its tools share)

        async def clears() -> None:
            cart.clear()
            await llm("What else?")

        await gather(tool(functools.partial(count, cart, more=1), other=2), clears())

    call = the_tool(body).call
    assert [call(), call()] == [[2, {"more": 1, "other": 2}]] * 2


@dataclasses.dataclass
class Stays:
    city: str

    def __deepcopy__(self, memo: object) -> Any:
        raise TypeError("one of a kind")


def test_what_cannot_be_copied_comes_as_the_journal_has_it() -> None:
    async def body() -> None:
        await tool(lambda value: value, Stays("Lima"))

    assert the_tool(body).call() == {"city": "Lima"}


# Options ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"timeout": 0}, "timeout must be seconds, more than 0 and at most ten years"),
        ({"timeout": "5"}, "timeout must be seconds"),
        ({"timeout": True}, "timeout must be"),
        ({"stream": "yes"}, "stream must be True or False, not 'yes'"),
        ({"stop": 5}, "stop must be text or a list of texts"),
        ({"stop": ["a", 5]}, "stop must be text or a list of texts"),
        ({"seed": 1.5}, "seed must be a whole number"),
        ({"seed": True}, "seed must be"),
        ({"n": 2}, "n must be 1 (an answer is one"),
        ({"top_p": 2}, "top_p must be a number from 0 to 1"),
        ({"presence_penalty": "much"}, "presence_penalty must be a number"),
        ({"max_completion_tokens": 0}, "max_completion_tokens must be a whole number"),
        ({"logprobs": 1}, "logprobs must be True or False"),
        ({"metadata": "x"}, "metadata must be a dict"),
        ({"tool_choice": 5}, "tool_choice must be text or a dict"),
        ({"extra_headers": "a"}, "extra_headers must be a dict of names and ASCII texts"),
        ({"extra_headers": {"x": 1}}, "extra_headers must be"),
        ({"extra_headers": {"X-A": "b\r\nX-B: c"}}, "extra_headers must be"),
        ({"extra_headers": {"Content-Length": "3"}}, "extra_headers must be"),
        ({"extra_body": [1]}, "extra_body must be a dict without model"),
        ({"extra_body": {"model": "dear"}}, "extra_body must be a dict without model"),
        ({"extra_body": {"stream": "yes"}}, "extra_body must be"),
        ({"extra_query": "a=b"}, "extra_query must be a dict"),
        ({"extra": {"seed": 1}}, "options are given by name, as seed=1"),
        ({"messages_": 1}, "no option 'messages_'; did you mean messages?"),
        ({"max_token": 5}, "did you mean max_tokens?"),
        ({"temprature": 0.5}, "did you mean temperature?"),
        ({"request_timeout": 5}, "no option 'request_timeout'; what it is for is timeout."),
        ({"api_key": "sk"}, "what it is for is api_key_env of its model in aios.toml"),
        ({"max_retries": 5}, "what it is for is attempts of its model"),
        ({"system": {"a": 1}}, "system must be text, not {'a': 1}"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused_at_the_await_in_a_sentence(
    options: dict[str, Any], says: str
) -> None:
    async def body() -> None:
        await llm("q", **options)

    with pytest.raises(InvalidInput) as caught:
        turns.start(body, CATALOG)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_stands_in_extra_headers_may_be_a_key_and_is_not_repeated() -> None:
    async def body() -> None:
        await llm("q", extra_headers={"authorization": "Bearer SECRET", "x": 1})

    assert "SECRET" not in str(Replay(body).error)


def test_options_that_can_be_pass_untouched() -> None:
    options: dict[str, Any] = {
        "seed": 1,
        "stop": ["a"],
        "top_p": 1,
        "n": 1,
        "stream": True,
        "logprobs": False,
        "user": None,
        "extra_headers": {"X-A": "b", "X-B": ""},
        "extra_body": {"top_k": 1},
        "tool_choice": "auto",
        "models": ["a"],
        "tool": "x",
        "num_ctx": 8192,
        "min_tokens": 5,
        "max_new_tokens": 5,
    }

    async def body() -> None:
        await llm("q", timeout=5, **options)

    (request,) = journaled(body)
    assert request.extra == {**options, "timeout": 5}
    assert request.timeout == 5.0


def test_a_step_of_a_journal_of_before_is_not_refused_for_an_option_that_is_refused_today() -> None:
    async def body() -> str:
        return (await llm("q", n=2, timeout={"read": 5})).text  # type: ignore[arg-type]

    asked = llm("q", n=2, timeout={"read": 5})  # type: ignore[arg-type]
    data, mark = encoded(asked)
    request = msgspec.json.decode(data, type=LLMRequest)
    where: Any = {"job": "j", "number": 0, "kind": Kind.LLM, "lane": "llm", "state": StepState.READY}
    step = Step(**where, digest=mark, request=request)
    replay = Replay(body, [step])
    replay.deliver(0, Outcome(response=LLMResponse(text="ok")))
    replay.check_complete()
    assert replay.result == "ok"


# What is reserved ---------------------------------------------------------------------------------------


def picture(size: int, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * size, **more}}


@pytest.mark.parametrize(
    ("content", "tokens"),
    [
        ("x" * 400, 100),
        ([{"type": "text", "text": "x" * 400}], 100),
        ([picture(100)], PICTURE),
        ([picture(700_000)], PICTURE),
        ([picture(700_000, detail="low")], SMALL_PICTURE),
        ([{"type": "image", "source": {"type": "base64", "data": "A" * 700_000}}], PICTURE),
        ([{"type": "tool_result", "content": [picture(700_000), {"type": "text", "text": "xxxx"}]}], 1001),
        ([{"type": "input_audio", "input_audio": {"data": "A" * 1_000_000, "format": "mp3"}}], 1000),
        ([{"type": "file", "file": {"file_data": "A" * 64_000}}], 2000),
        ([{"type": "document", "source": {"type": "text", "data": "x" * 400}}], 101),
        ([{"type": "document", "source": {"type": "content", "content": [picture(700_000)]}}], PICTURE),
        (picture(700_000), PICTURE),
        ([{"type": "audio_url", "audio_url": {"url": "data:audio/mp3;base64," + "A" * 1_000_000}}], 1000),
        ([{"type": "document_url", "document_url": "data:application/pdf;base64," + "A" * 64_000}], 2000),
        ([{"type": "a gateway's own", "is": "data:application/pdf;base64," + "A" * 64_000}], 2000),
        (None, 0),
        (["xxxx", 5], 1),
    ],
    ids=range(17),
)
def test_a_picture_is_reserved_by_what_it_counts_and_not_by_the_length_of_its_base64(
    content: Any, tokens: int
) -> None:
    assert estimate(LLMRequest([{"role": "user", "content": content}]))[0] == pytest.approx(tokens, abs=4)


def test_calls_of_tools_and_their_definitions_are_part_of_the_prompt() -> None:
    call = {"function": {"name": "f", "arguments": "x" * 399}}
    request = LLMRequest(
        [{"role": "assistant", "content": None, "tool_calls": [call]}],
        tools=[{"function": {"description": "y" * 400}}],
    )
    assert estimate(request) == (200, OUTPUT_GUESS)


def test_the_most_output_is_what_either_option_says() -> None:
    assert estimate(llm("x", max_tokens=7).request)[1] == 7
    assert estimate(llm("x", max_completion_tokens=9).request)[1] == 9
    assert estimate(llm("x", max_completion_tokens="much").request)[1] == OUTPUT_GUESS


def test_an_answer_says_what_was_left_out_and_the_journal_gives_it_back() -> None:
    outcome = Outcome(response=LLMResponse("hi", left_out=("seed",)))
    assert msgspec.json.decode(msgspec.json.encode(outcome), type=Outcome) == outcome
