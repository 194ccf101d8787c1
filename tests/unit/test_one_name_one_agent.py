"""One name is one agent; only a module that runs again replaces it. And no default lives on."""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import importlib
import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

from aios_dist.config import Config, PromptsConfig
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.model.jobs import JobRecord
from aios_dist.program import agents
from aios_dist.program import imports as modules
from aios_dist.program.agents import Agent, agent, find, program_of, prompts, register
from aios_dist.program.replay import Replay


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents of one test are not known to the next."""
    monkeypatch.setattr(agents, "_registry", {})


class Modules:
    """Modules of a test: written, imported, and written again."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setattr(sys, "modules", {**sys.modules})
        monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def __call__(self, name: str, code: str) -> ModuleType:
        """Import it, again where it is there."""
        self.folder.joinpath(f"{name}.py").write_text(f"from aios_dist import agent\n{code}")
        importlib.invalidate_caches()
        if name in sys.modules:
            return importlib.reload(sys.modules[name])
        return importlib.import_module(name)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Modules:
    return Modules(tmp_path, monkeypatch)


ASK = "@agent\nasync def ask(q): return {}\n"


def test_a_factory_that_makes_two_agents_of_one_name_is_told_so() -> None:
    def make(style: str) -> Agent:
        @agent
        async def ask(q: str) -> str:
            return style

        made: Agent = ask
        return made

    polite = make("politely")
    with pytest.raises(InvalidInput) as caught:
        make("rudely")
    assert "Two agents are called 'ask'" in str(caught.value)
    assert "test_one_name_one_agent.py, line" in str(caught.value)
    assert find("ask") is polite
    make("politely")  # is the same


def test_what_closes_over_agents_and_functions_is_compared_by_what_they_are() -> None:
    def make(inner: Any, number: int = 1) -> None:
        def step() -> int:
            return number

        @agent
        async def outer(q: str) -> Any:
            return inner, step

    shared = object()
    make(shared)
    make(shared)
    for other in ((object(), 1), (shared, 2)):
        with pytest.raises(InvalidInput, match="makes both"):
            make(*other)


def test_two_definitions_in_one_module_are_refused_with_both_places(module: Modules) -> None:
    with pytest.raises(InvalidInput, match=r"twice\.py, line 2\) and twice\.ask \(twice\.py, line 4\)"):
        module("twice", ASK.format(1) + ASK.format(2))


def test_a_definition_in_a_class_and_one_called_later_are_definitions_too(module: Modules) -> None:
    made = module("later", "class Of:\n    @agent\n    async def ask(q): return 1\n" + "def more(n):\n"
                  "    if n:\n        @agent(name='x')\n        async def one(q): return 1\n"
                  "    else:\n        @agent(name='x')\n        async def one(q): return 2\n")  # fmt: skip
    made.more(1)
    with pytest.raises(InvalidInput, match="Two agents are called 'x'"):
        made.more(0)


def test_agents_of_two_modules_cannot_share_a_name(module: Modules) -> None:
    module("one", ASK.format(1))
    with pytest.raises(InvalidInput, match=r"one\.ask .* and two\.ask .*give one of them another name"):
        module("two", ASK.format(2))


def test_a_module_that_is_executed_again_replaces_its_agents(module: Modules) -> None:
    first = module("again", ASK.format(1)).ask
    second = module("again", "\n\n" + ASK.format(2)).ask
    assert find("ask") is second is not first
    del sys.modules["again"]
    third = module("again", ASK.format(3)).ask
    assert find("ask") is third is not second


def test_a_decorated_agent_is_replaced_too(module: Modules) -> None:
    deco = (
        "import functools\ndef deco(n):\n    def over(f):\n        @functools.wraps(f)\n"
        "        async def call(*a, **k): return n\n        return call\n    return over\n@agent\n@deco({})\n"
        "async def ask(q): return 1\n"
    )
    module("decorated", deco.format(1))
    second = module("decorated", deco.format(2)).ask
    assert find("ask") is second


def test_a_module_that_runs_again_replaces_what_a_factory_elsewhere_makes_for_it(module: Modules) -> None:
    module("maker", "def make(style):\n    @agent\n    async def ask(q): return style\n    return ask\n")
    module("user", "import maker\nask = maker.make('politely')\n")
    second = module("user", "import maker\nask = maker.make('rudely')\n").ask
    assert find("ask") is second
    with pytest.raises(InvalidInput, match="makes both"):
        module("user", "import maker\nmaker.make('a')\nmaker.make('b')\n")
    with pytest.raises(InvalidInput, match="makes both"):
        module("another", "import maker\nmaker.make('c')\n")


def test_a_notebooks_cell_may_run_again() -> None:
    for number in range(2):
        names: dict[str, Any] = {"__name__": "__main__", "agent": agent}
        exec(compile(ASK.format(number), "<cell>", "exec"), names)
        assert find("ask") is names["ask"]


def with_ask() -> Config:
    return Config(agents={"ask": PromptsConfig(prompts=["{input}"])})


def test_an_agent_of_the_file_and_one_of_the_code_cannot_share_a_name(module: Modules) -> None:
    made = module("coded", ASK.format(1)).ask
    with pytest.raises(ConfigError, match=r"coded\.py, line 2\) and \[agents\.ask\] of aios\.toml"):
        modules.load(with_ask())
    with pytest.raises(InvalidInput, match=r"\[agents\.ask\] of aios\.toml"):
        modules.agent(with_ask(), "ask")
    assert find("ask") is made


def test_nor_where_the_code_comes_later_and_the_file_may_be_read_again(module: Modules) -> None:
    modules.load(with_ask())
    modules.load(Config(agents={"ask": PromptsConfig(prompts=["{input}, please"])}))
    with pytest.raises(InvalidInput, match=r"\[agents\.ask\] of aios\.toml and coded\.ask"):
        module("coded", ASK.format(1))
    with pytest.raises(InvalidInput, match="Two agents are called 'ask'"):
        register(prompts("ask", ["another"]))


def test_lists_of_prompts_that_code_registers_are_one_or_refused() -> None:
    for _ in range(2):
        register(prompts("ask", ["one"]))
    with pytest.raises(InvalidInput, match="Two agents are called 'ask'"):
        register(prompts("ask", ["another"]))


# Defaults -----------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Notes:
    seen: list[str] = dataclasses.field(default_factory=list)


SENTINEL = object()


def test_a_default_that_a_job_changes_is_as_new_for_the_next() -> None:
    @agent
    async def chat(
        q: str,
        history: list[str] = [],  # noqa: B006
        seen: set[str] = set(),  # noqa: B006
        notes: Notes = Notes(),  # noqa: B008
        last: Any = collections.deque(["x"]),  # noqa: B006
        none: Any = SENTINEL,
    ) -> Any:
        for one in (history, notes.seen, last):
            one.append(q)
        seen.add(q)
        return [history, sorted(seen), notes.seen, list(last), none is SENTINEL]

    for who in ("alice", "bob"):
        spec = chat.job(q=who)
        assert spec.program is not None
        by_name = program_of("chat", {"q": who}, None)
        for program in (spec.program, spec.program, by_name):
            assert Replay(program).result == [[who], [who], [who], ["x", who], True]


@dataclasses.dataclass(frozen=True)
class Frozen:
    seen: list[str] = dataclasses.field(default_factory=list)


class FrozenStruct(msgspec.Struct, frozen=True):
    seen: list[str] = msgspec.field(default_factory=list)


class Memory:
    """Compares by what it is; holds what can be changed."""

    def __init__(self) -> None:
        self.seen: list[str] = []


class Slotted:
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[str] = []


class Missing:
    """A sentinel with a name."""

    def __init__(self) -> None:
        self.name = "missing"


MISSING = Missing()


@pytest.mark.parametrize(
    "make", [Notes, Frozen, FrozenStruct, Memory, Slotted], ids=lambda make: make.__name__
)
def test_a_default_is_as_new_whatever_class_it_is_of(make: Any) -> None:
    @agent
    async def chat(q: str, memory: Any = make(), missing: Any = MISSING) -> Any:  # noqa: B008
        memory.seen.append(q)
        return [memory.seen, missing is MISSING]

    for who in ("alice", "bob"):
        assert Replay(chat.program({"q": who})).result == [[who], True]


@pytest.mark.parametrize(
    ("value", "use"),
    [
        (collections.UserList("x"), lambda v: (v.append("y"), len(v))),
        (array.array("i"), lambda v: (v.append(1), len(v))),
        (iter("xyz"), next),
        (SimpleNamespace(n=0), lambda v: (vars(v).update(n=v.n + 1), v.n)),
        (random.Random(1), lambda v: v.random()),
    ],
    ids=["UserList", "array", "iterator", "SimpleNamespace", "Random"],
)
def test_the_librarys_changeable_things_are_as_new_too(value: Any, use: Any) -> None:
    @agent
    async def chat(q: str, value: Any = value) -> Any:
        return use(value)

    assert Replay(chat.program({"q": "a"})).result == Replay(chat.program({"q": "b"})).result


@pytest.mark.timeout(20)
def test_defaults_that_hold_each_other_or_do_not_want_to_be_looked_at_are_taken_as_they_are() -> None:
    class Odd:
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise ValueError("no")

    crowd = [Missing() for _ in range(14)]
    for one in crowd:
        vars(one).update((f"n{n}", other) for n, other in enumerate(crowd))

    @agent
    async def chat(one: Any = crowd[0], odd: Any = Odd()) -> Any:  # noqa: B008
        return one is crowd[0]

    assert Replay(chat.program({})).result is True


def test_what_a_partial_holds_is_as_new_too() -> None:
    async def chat(history: list[str], q: str) -> Any:
        history.append(q)
        return history

    made = agent(functools.partial(chat, []), name="chat")
    assert [Replay(made.program({"q": who})).result for who in "ab"] == [["a"], ["b"]]


async def test_an_agent_that_is_a_part_of_another_has_its_own_default_too() -> None:
    @agent
    async def chat(q: str, history: list[str] = []) -> Any:  # noqa: B006
        history.append(q)
        return history

    assert [await chat("a"), await chat(q="b"), await chat("c", ["x"])] == [["a"], ["b"], ["x", "c"]]


def test_a_job_keeps_the_defaults_that_it_was_submitted_with() -> None:
    def module(days: int) -> Agent:
        names: dict[str, Any] = {"__name__": "trips", "agent": agent, "days": days}
        code = "@agent\nasync def trip(city, days=days, tags=[], odd=(1,)): return [city, days, tags]\n"
        exec(compile(code, "trips.py", "exec"), names)
        made: Agent = names["trip"]
        return made

    made = module(2)
    spec = made.job(city="Lima")
    made.signature.parameters["tags"].default.append("of another job")
    assert (spec.input, spec.defaults) == ({"city": "Lima"}, {"days": 2, "tags": []})
    module(5)
    journaled = program_of("trip", spec.input, None, defaults=spec.defaults)
    assert Replay(journaled).result == ["Lima", 2, []]
    of_before = program_of("trip", spec.input, None, defaults={})
    assert Replay(of_before).result == ["Lima", 5, []]
    gone = program_of("trip", spec.input, None, defaults={"days": 2, "hours": 4})
    assert Replay(gone).result == ["Lima", 2, []]


def test_defaults_do_not_make_a_job_another_one() -> None:
    by_name, by_code = (
        JobRecord("trip", {"city": "Lima"}),
        JobRecord("trip", {"city": "Lima"}, defaults={"d": 2}),
    )
    assert by_name.digest() == by_code.digest()
