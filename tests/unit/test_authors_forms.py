"""What authors hand over: functions in all their forms, own classes of text, modules that break, waits."""

from __future__ import annotations

import asyncio
import functools
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aios_dist import AsyncFleet, Fleet, ToolError, agent, gather, llm, prompts, tool
from aios_dist import (
    signal as wait_for,
)
from aios_dist.config import Config, FleetConfig, ModelConfig
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.model.jobs import JobRecord, decode
from aios_dist.program import imports as modules
from aios_dist.program import turns, waits
from aios_dist.program.replay import Replay
from aios_dist.program.turns import Catalog
from aios_dist.text.tracebacks import user_traceback
from aios_dist.worker.providers import _load
from aios_dist.worker.tools import Tools
from tests.unit.test_worker_parts import work

# Tools -----------------------------------------------------------------------------------------------------


async def doubled(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def doubled_less(x: int, *, less: int) -> int:
    return 2 * x - less


async def doubled_plus(more: int, x: int = 2) -> int:
    return 2 * x + more - 3


def synced(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return called


def passed_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return called


def tasked(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        loop = asyncio.get_running_loop()
        return loop.create_task(function(*args, **kwargs))

    return called


class Doubles:
    async def method(self, x: int) -> int:
        return await doubled(x)

    @classmethod
    async def of_the_class(cls, x: int) -> int:
        return await doubled(x)

    @staticmethod
    def static(x: int) -> int:
        return 2 * x


class Called:
    async def __call__(self, x: int) -> int:
        return await doubled(x)


class CalledPlainly:
    def __call__(self, x: int) -> int:
        return 2 * x


FORMS: dict[str, Callable[..., Any]] = {
    "async": doubled,
    "sync wrapper": synced(doubled),
    "sync wrapper of a wrapper": synced(passed_on(doubled)),
    "wrapper that hands on": passed_on(doubled),
    "wrapper that makes a task": tasked(doubled),
    "partial of async": functools.partial(doubled),
    "partial of a sync wrapper": functools.partial(synced(doubled)),
    "partial of a partial": functools.partial(functools.partial(passed_on(doubled))),
    "partial with an argument": functools.partial(doubled_plus, 3),
    "partial with a keyword": functools.partial(doubled_less, less=0),
    "cached": functools.lru_cache(Doubles.static),
    "method": Doubles().method,
    "class method": Doubles.of_the_class,
    "static method": Doubles.static,
    "object": Called(),
    "plain object": CalledPlainly(),
    "sync wrapper of an object": synced(Called().__call__),
    "lambda": lambda x: doubled(x),
}


@pytest.mark.parametrize("form", FORMS)
async def test_a_function_is_a_tool_in_whatever_form(form: str) -> None:
    async def asks() -> Any:
        return await tool(FORMS[form], 2)

    command = Replay(asks).asked[0].command
    assert await Tools(1, 5.0, 1000).run(work(), command) == 4  # type: ignore[arg-type]


async def test_a_generator_is_no_result_and_the_sentence_says_which() -> None:
    def numbers() -> Iterator[int]:
        yield 1

    with pytest.raises(ToolError, match="result is not JSON: generator values have no JSON form"):
        await Tools(1, 5.0, 1000).run(work(), tool(numbers))


# Agents ----------------------------------------------------------------------------------------------------


async def told(tone: str, name: str = "you") -> str:
    return (await llm(f"{tone} {name}")).text


class Teller:
    def __init__(self, tone: str) -> None:
        self.tone = tone

    async def __call__(self, name: str) -> str:
        return (await llm(f"{self.tone} {name}")).text

    async def method(self, name: str) -> str:
        return await self(name)


def prompt_of(made: Any, **input: Any) -> str:
    replay = Replay(made.job(**input).program)
    return str(replay.asked[0].command.request.messages[0]["content"])  # type: ignore[union-attr]


def test_partials_methods_and_objects_are_agents_under_a_name_of_their_own() -> None:
    polite = agent(functools.partial(told, "please"), name="forms-polite")
    keyword = agent(functools.partial(told, tone="well"), name="forms-keyword")
    called, method = (
        agent(Teller("hey"), name="forms-object"),
        agent(Teller("ho").method, name="forms-method"),
    )
    again = agent(functools.partial(keyword, name="Bo"), name="forms-again")
    assert prompt_of(again) == "well Bo"
    assert prompt_of(polite) == "please you"
    assert prompt_of(polite, name="Ada") == "please Ada"
    assert prompt_of(keyword, name="Ada") == "well Ada"
    assert (prompt_of(called, name="Ada"), prompt_of(method, name="Ada")) == ("hey Ada", "ho Ada")
    with pytest.raises(InvalidInput, match="cannot take this input"):
        polite.job(town="Lima")


def test_two_partials_of_one_function_are_two_agents() -> None:
    agent(functools.partial(told, "please"), name="forms-twice")
    agent(functools.partial(told, "please"), name="forms-twice")
    with pytest.raises(InvalidInput, match="Two agents are called 'forms-twice'"):
        agent(functools.partial(told, "now!"), name="forms-twice")


@pytest.mark.parametrize("form", [functools.partial(told, "x"), Teller("x")], ids=["partial", "object"])
def test_what_has_no_name_of_its_own_is_asked_for_one(form: Any) -> None:
    with pytest.raises(
        InvalidInput, match=r"^A (partial|Teller) has no name of its own; give it one: agent\("
    ):
        agent(form)


@pytest.mark.parametrize(
    "form", [functools.partial(print), CalledPlainly(), CalledPlainly, 3, None.__class__]
)
def test_what_is_not_async_is_no_agent_in_any_form(form: Any) -> None:
    with pytest.raises(InvalidInput, match="An agent must be an async def"):
        agent(form, name="forms-none")


# Texts and numbers of own classes --------------------------------------------------------------------------


class Markup(str):
    def __str__(self) -> str:
        return "not what it is"

    def __html__(self) -> str:
        return "<b>"


class Euro(float):
    pass


class Count(int):
    pass


def test_text_and_numbers_of_own_classes_are_what_they_are() -> None:
    catalog = Catalog({"small": "llm"}, "small", 10_000, 10_000)

    @agent(name=Markup("forms-own"))
    async def own(text: str, price: float) -> Any:
        assert (type(text), type(price)) == (str, float)
        return await gather(
            llm(
                Markup("x"),
                system=Markup("s"),
                model=Markup("small"),
                temperature=Euro(0.5),
                max_tokens=Count(5),
            ),
            llm(
                messages=[{Markup("role"): "user", "content": [{"type": "text", "text": Markup("y")}]}],
                seed=Count(3),
            ),
            tool(print, Markup("z"), {Markup("k"): Count(1)}, end=Markup("")),
            wait_for(Markup("word")),
        )

    spec = own.job(text=Markup("in"), price=Euro(2.5))
    assert spec.program is not None
    record = JobRecord(own.name, spec.input)
    decision = turns.decide(turns.start(spec.program, catalog), record, catalog, first=0)
    requests = [decode(ranked.step.request, dict) for ranked in decision.steps]
    assert requests[0]["messages"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    assert (requests[0]["model"], requests[0]["temperature"], requests[0]["max_tokens"]) == ("small", 0.5, 5)
    assert requests[1]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "y"}]}]
    assert (requests[2]["args"], requests[2]["kwargs"]) == (["z", {"k": 1}], {"end": ""})
    assert {type(ranked.step.label) for ranked in decision.steps} == {str}
    assert prompts(Markup("forms-data"), [Markup("{input}")]).job(Markup("a")).input == {"input": "a"}


def test_a_result_of_own_classes_comes_back_plain() -> None:
    async def gives() -> Any:
        return {Markup("k"): [Markup("x"), Euro(1.5), Count(2)], "none": Euro("inf") > 1}

    assert Replay(gives).result == {"k": ["x", 1.5, 2], "none": True}


@pytest.mark.parametrize("odd", [Euro("nan"), Count(2**70), object()])
def test_a_number_that_json_has_not_stays_refused_in_an_own_class(odd: Any) -> None:
    async def asks() -> None:
        await llm("x", seed=odd)

    assert isinstance(Replay(asks).error, InvalidInput)


# Modules ---------------------------------------------------------------------------------------------------

BREAKS = {
    "RuntimeError('no database')": "RuntimeError: no database",
    "KeyboardInterrupt": "KeyboardInterrupt",
    "SystemExit(3)": "SystemExit: 3",
    "BaseException('x')": "BaseException: x",
    "GeneratorExit": "GeneratorExit",
}


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module; its name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(code: str) -> str:
        (tmp_path / "forms_broken.py").write_text(code, encoding="utf-8")
        return "forms_broken"

    yield write
    sys.modules.pop("forms_broken", None)


@pytest.mark.parametrize("raised", BREAKS)
def test_whatever_a_module_raises_at_its_import_is_one_sentence(
    module: Callable[[str], str], raised: str
) -> None:
    name = module(f"raise {raised}")
    with pytest.raises(ConfigError) as said:
        modules.load(Config(fleet=FleetConfig(modules=[name])))
    assert str(said.value) == f"The module {name!r} of [fleet] modules cannot be imported: {BREAKS[raised]}."
    with pytest.raises(ConfigError) as said:
        _load("own", ModelConfig(provider=f"{name}:Provider"))
    assert str(said.value) == (
        f"Model 'own': the provider '{name}:Provider' cannot be imported: {BREAKS[raised]}."
    )


def test_ctrl_c_while_a_module_is_imported_is_still_ctrl_c(module: Callable[[str], str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    name = module("import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(5)")
    with pytest.raises(KeyboardInterrupt):
        modules.load(Config(fleet=FleetConfig(modules=[name])))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_handler_that_a_module_sets_stays(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        modules.load(
            Config(fleet=FleetConfig(modules=[module("import signal\nsignal.signal(2, lambda *_: None)")]))
        )
        assert signal.getsignal(signal.SIGINT).__module__ == "forms_broken"  # type: ignore[union-attr]
    finally:
        signal.signal(signal.SIGINT, before)


# Waiting for a job -----------------------------------------------------------------------------------------

NOWHERE = FleetConfig(name="forms", redis_url="redis://localhost:1/0")
"""Nobody is there: who asks Redis gets FleetUnavailable."""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """A fleet; this process is one of its workers."""
    monkeypatch.setattr(waits, "_served", [])
    waits.serves(FleetConfig(name="forms", redis_url="redis://127.0.0.1:1"))
    with Fleet(Config(fleet=NOWHERE)) as fleet:
        yield fleet


WAITS: dict[str, Callable[[Fleet], Any]] = {
    "result()": lambda fleet: fleet.job("child").result(timeout=5),
    "events()": lambda fleet: list(fleet.job("child").events(timeout=5)),
    "as_completed()": lambda fleet: list(fleet.as_completed([fleet.job("child")], timeout=5)),
}


@pytest.mark.parametrize("call", WAITS)
async def test_a_tool_does_not_wait_for_a_job_of_its_own_fleet(here: Fleet, call: str) -> None:
    async def in_a_task() -> Any:
        return await asyncio.to_thread(WAITS[call], here)

    def in_a_pool() -> Any:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(WAITS[call], here).result()

    async def without_threads() -> Any:
        async with AsyncFleet(Config(fleet=NOWHERE)) as fleet:
            child = fleet.job("child")
            if call == "result()":
                return await child.result(timeout=5)
            waiting = (
                child.events(timeout=5) if call == "events()" else fleet.as_completed([child], timeout=5)
            )
            return [one async for one in waiting]

    for function in (functools.partial(WAITS[call], here), in_a_task, in_a_pool, without_threads):

        async def asks(function: Any = function) -> Any:
            return await tool(function)

        with pytest.raises(
            ToolError, match=r"A tool cannot wait for a job \(.*\): it would hold the slot"
        ) as said:
            await Tools(1, 5.0, 1000).run(work(), Replay(asks).asked[0].command)  # type: ignore[arg-type]
        assert call in str(said.value)
        assert "await child(x)" in str(said.value)


@pytest.mark.parametrize("call", WAITS)
def test_an_agent_does_not_wait_for_a_job_anywhere(
    here: Fleet, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "_served", [])

    async def asks() -> Any:
        return WAITS[call](here)

    async def catches() -> Any:
        try:
            return WAITS[call](here)
        except Exception:
            return "never mind"

    for body in (asks, catches):
        error = Replay(body).error
        assert isinstance(error, InvalidInput)
        assert str(error).startswith(f"An agent cannot wait for a job ({call})")
        assert "test_authors_forms.py" in user_traceback(error)


async def test_whoever_is_no_tool_of_this_fleet_may_wait(here: Fleet) -> None:
    async def asks(function: Any) -> Any:
        return await tool(function)

    def elsewhere() -> None:
        other = FleetConfig(name="another", redis_url=NOWHERE.redis_url)
        waits.check("result()", other)

    def looks() -> None:
        waits.check("result()", NOWHERE, timeout=0)

    waits.check("result()", NOWHERE)  # no tool runs here
    for function in (elsewhere, looks):
        command = Replay(functools.partial(asks, function)).asked[0].command
        assert await Tools(1, 5.0, 1000).run(work(), command) is None  # type: ignore[arg-type]
