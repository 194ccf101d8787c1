"""The agents of these tests. The workers import this module too: it is in the fleet's ``modules``."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import msgspec

from aios_dist import Fleet, LLMError, agent, as_done, gather, llm, signal, sleep, tool, within


def work(seconds: float) -> float:
    """Stands for an agent's own work between two calls."""
    time.sleep(seconds)
    return seconds


@agent
async def caller(calls: int, model: str = "one") -> str:
    """Calls the model some times, one after another."""
    text = ""
    for number in range(calls):
        text = (await llm(f"call {number}", model=model)).text
    return text


@agent
async def repeats(text: str) -> int:
    """A long text, and an answer of its length."""
    return len((await llm(text, model="small")).text)


@agent
async def worker_between(pause: float, model: str = "one") -> str:
    """The seed's C: a call, work of its own, a call."""
    await llm("before", model=model)
    await tool(work, pause)
    return (await llm("after", model=model)).text


@agent
async def fan_out(branches: int) -> list[str]:
    """Several calls at once."""
    answers = await gather(*(llm(f"branch {n}", model="small") for n in range(branches)))
    return [answer.text for answer in answers]


def append_line(path: str) -> int:
    """Leaves a trace of each time it ran."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    return len(Path(path).read_text().splitlines())


@agent
async def tool_user(path: str) -> list[int]:
    """A tool between two calls: the program is replayed after it."""
    await llm("before", model="small")
    first = await tool(append_line, path)
    await llm("between", model="small")
    await llm("after", model="small")
    return [first]


@agent
async def waits_for_a_word() -> str:
    """Asks, waits for a human, and goes on with what he said."""
    await llm("draft", model="small")
    word = await signal("review")
    return f"{word}: {(await llm(f'final, {word}', model='small')).text}"


@agent
async def hears(words: int) -> str:
    """Waits for as many words, one after the other, and says them."""
    await llm("begin", model="small")
    return " ".join([await signal(f"word-{n}") for n in range(words)])


@agent
async def naps(seconds: float) -> str:
    """Waits between two calls, at no cost in processes."""
    await llm("before", model="small")
    await sleep(seconds)
    return (await llm("after", model="small")).text


@agent
async def careful() -> str:
    """Catches what its call raises, and goes on."""
    try:
        await llm("this fails", model="small")
    except LLMError as error:
        answer = await llm("this does not", model="small")
        return f"{type(error).__name__}, then {answer.text}"
    return "nothing failed"


@agent
async def careless() -> str:
    """Catches nothing."""
    return (await llm("this fails", model="one")).text


@agent
async def draws() -> str:
    """Lets chance into a prompt; its calls go to the one worker that keeps it alive."""
    await llm("plan", model="one")
    tag = uuid.uuid4().hex
    await llm(f"draft {tag}", model="one")
    await llm("review", model="one")
    return "done"


def for_a_child() -> str:
    with Fleet.from_env() as fleet:
        return str(fleet.submit(caller, calls=1).result(timeout=20))


@agent
async def waits_for_a_child() -> str:
    """Holds the slot that its child's tools may need."""
    return str(await tool(for_a_child))


@agent
async def hurried() -> list[str]:
    """Gives up a wait, takes the first of two answers, and gets what it had waited for after all."""
    heard = []
    try:
        async with within(0.2):
            await signal("review")
    except TimeoutError as error:
        heard.append(str(error))
    async for answer in as_done(llm("first", model="one"), llm("second", model="one")):
        heard.append("an answer" if answer.text else "nothing")
        break
    heard.append(str(await signal("review")))
    return heard


@agent
async def odd_talk(model: str, case: str) -> dict[str, Any]:
    """A call that is answered by case, and another one behind its answer; what came."""
    asked = {"role": "user", "content": "hi"}
    headers = {"X-Case": case}
    reply = await llm(messages=[asked], model=model, extra_headers=headers)
    results = [{"role": "tool", "tool_call_id": call.id, "content": "done"} for call in reply.tool_calls]
    on = [asked, reply.message, *results, {"role": "user", "content": "go on"}]
    await llm(messages=on, model=model, extra_headers=headers)
    return {"reply": msgspec.to_builtins(reply), "message": reply.message}
