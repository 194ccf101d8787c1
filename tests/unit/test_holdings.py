"""What a tool holds besides its arguments: its own of what the program has made, the module's as it is."""

from __future__ import annotations

import asyncio
import functools
import io
import itertools
import random
import threading
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from aios_dist import ToolError, agent, gather, llm, tool
from aios_dist.model.calls import LLMResponse
from aios_dist.model.jobs import Outcome
from aios_dist.program import holdings
from aios_dist.program.commands import Tool
from aios_dist.program.reached import MOST_HELD
from aios_dist.program.replay import Replay
from aios_dist.testing.rehearsal import rehearse
from aios_dist.worker.tools import Tools
from tests.unit.test_worker_parts import work

Body = Callable[[], Coroutine[Any, Any, Any]]
BODIES: list[Any] = []


def holds(body: Body) -> Body:
    BODIES.append(body)
    return body


class Chat:
    def __init__(self) -> None:
        self.notes: list[int] = []
        self.count = 0

    def say(self, x: int = 1) -> list[int]:
        self.notes.append(x)
        self.count += 1
        return self.notes

    async def says(self, x: int) -> list[int]:
        return self.say(x)

    __call__ = say


@dataclass
class Client:
    """One of a kind, as what holds a lock or a socket is."""

    calls: list[int] = field(default_factory=list)
    lock: Any = field(default_factory=threading.Lock)

    def get(self, x: int) -> int:
        self.calls.append(x)
        return x


@holds
async def a_method() -> Any:
    chat = Chat()
    await tool(chat.say, 1)
    return chat.notes, chat.count


@holds
async def an_async_method() -> Any:
    chat = Chat()
    await tool(chat.says, 1)
    return chat.notes


@holds
async def a_method_of_pythons() -> Any:
    notes: list[int] = []
    await tool(notes.append, 1)
    return notes


@holds
async def an_object_that_is_called() -> Any:
    chat = Chat()
    await tool(chat, 1)
    return chat.notes


@holds
async def a_local_function() -> Any:
    notes = []

    def remember(x: int) -> None:
        notes.append(x)

    await tool(remember, 1)
    return notes


@holds
async def a_local_function_of_a_local_function() -> Any:
    notes = []

    def inner(x: int) -> None:
        notes.append(x)
        if x > 1:
            outer(x - 1)

    def outer(x: int) -> None:
        inner(x)

    await tool(outer, 2)
    return notes


@holds
async def a_variable_that_is_set() -> Any:
    count = 0

    def more(x: int) -> None:
        nonlocal count
        count += x

    await tool(more, 1)
    return count


@holds
async def a_lambda() -> Any:
    notes: dict[str, int] = {}
    await tool(lambda x: notes.update(a=x), 1)
    return notes


@holds
async def a_partial() -> Any:
    notes: list[int] = []
    await tool(functools.partial(lambda held, x: held.append(x), notes), 1)
    return notes


@holds
async def a_partial_of_a_method() -> Any:
    chat = Chat()
    await tool(functools.partial(chat.say, 1))
    return chat.notes


@holds
async def a_partial_that_holds_a_client_too() -> Any:
    notes: list[int] = []
    await tool(functools.partial(lambda client, held, x: held.append(client.get(x)), Client(), notes), 1)
    return notes


@holds
async def a_local_function_beside_a_client() -> Any:
    notes, client = [], Client()

    def fetch(x: int) -> None:
        notes.append(client.get(x))

    await tool(fetch, 1)
    return notes


@holds
async def a_default() -> Any:
    notes: list[int] = []
    await tool(lambda x, held=notes: held.append(x), 1)
    return notes


@holds
async def a_default_by_name() -> Any:
    notes: list[int] = []
    await tool(lambda x, *, held=notes: held.append(x), 1)
    return notes


@holds
async def an_attribute_of_a_function() -> Any:
    def remember(x: int) -> None:
        seen.append(x)

    seen: list[int] = []
    remember.seen = seen  # type: ignore[attr-defined]
    await tool(remember, 1)
    return remember.seen  # type: ignore[attr-defined]


@holds
async def what_a_decorator_keeps() -> Any:
    calls = []

    def noted(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def called(*args: Any) -> Any:
            calls.append(args)
            return function(*args)

        return called

    await tool(noted(len), "abc")
    return calls


@holds
async def an_iterator() -> Any:
    numbers = iter([1, 2, 3])
    await tool(lambda: next(numbers))
    return list(numbers)


def commands(replay: Replay) -> list[Tool]:
    return [asked.command for asked in replay.asked if isinstance(asked.command, Tool)]


def ran(command: Tool) -> Any:
    value = command.call()
    return asyncio.run(value) if asyncio.iscoroutine(value) else value


@pytest.mark.parametrize("body", BODIES, ids=lambda b: b.__name__)
def test_a_tool_changes_nothing_of_the_program_that_another_worker_would_not_see(body: Body) -> None:
    results = []
    for here in (True, False):
        replay = Replay(body)
        if here:
            (command,) = commands(replay)
            assert ran(command) == ran(command), "anew for each run"
        replay.deliver(0, Outcome(value=1))
        assert replay.error is None
        results.append(replay.result)
    assert results[0] == results[1]


async def test_it_is_as_it_was_when_the_tool_was_awaited() -> None:
    async def body() -> None:
        chat = Chat()
        chat.notes.append(7)
        await gather(tool(chat.say, 1), spoil(chat), tool(lambda: chat.notes))

    async def spoil(chat: Chat) -> None:
        chat.notes.append(8)

    first, second = commands(Replay(body))
    assert first.call() == [7, 1]
    assert second.call() == [7, 8]


class Shop:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.chat = Chat()

    @classmethod
    @functools.cache
    def the_only(cls) -> Shop:
        return cls()

    def look(self, x: int) -> int:
        self.seen.append(x)
        self.chat.say(x)
        return x


class Locks(Shop):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


SHOP, TOOLS, CLIENT = Shop(), {"look": Shop()}, Client()


@functools.cache
def made_when_needed() -> Shop:
    return Shop()


@functools.cache
def made_for(name: str) -> Shop:
    return Shop()


def memory(function: Callable[..., Any]) -> Callable[..., Any]:
    kept: dict[Any, Any] = {}

    @functools.wraps(function)
    def called(x: int) -> Any:
        return kept.setdefault(x, (len(kept), function(x)))[0]

    return called


remembered = memory(abs)
REMEMBERED = [memory(abs)]


def seen_of(look: Callable[[], Shop]) -> Any:
    @agent(name=f"looks-{id(look)}")
    async def looks() -> list[int]:
        await tool(look().look, 5)
        return look().seen

    replay = Replay(looks.job().program)  # type: ignore[arg-type]
    (command,) = commands(replay)
    assert ran(command) == 5
    return look().seen[-1:]


class _Unseen(type):
    """Of classes that cannot even be asked for their module."""

    def __hash__(cls) -> int:
        raise ValueError("no hash")

    def __getattribute__(cls, name: str) -> Any:
        raise MemoryError(name)


class Unseen(metaclass=_Unseen):
    def __getattribute__(self, name: str) -> Any:
        raise MemoryError(name)


UNSEEN = [Unseen(), Unseen]


@pytest.mark.parametrize(
    "look",
    [
        lambda: SHOP,
        lambda: TOOLS["look"],
        made_when_needed,
        lambda: made_for("a"),
        Shop.the_only,
    ],
    ids=["a global", "in a dict", "made when needed", "made for a name", "of its class"],
)
def test_what_is_the_modules_is_shared_as_globals_are(look: Callable[[], Shop]) -> None:
    assert seen_of(look) == [5]


def test_the_modules_stays_the_modules_also_in_an_object_of_the_programs() -> None:
    async def body() -> Any:
        mine = Shop()
        mine.chat = SHOP.chat
        await tool(mine.look, 6)
        return mine.seen

    replay = Replay(body)
    ran(commands(replay)[0])
    replay.deliver(0, Outcome(value=1))
    assert (replay.result, SHOP.chat.notes[-1]) == ([], 6)


@pytest.mark.parametrize("function", [remembered, REMEMBERED[0]], ids=["by its name", "in a list"])
def test_a_function_of_the_modules_keeps_what_its_decorator_keeps(function: Any) -> None:
    async def body() -> None:
        await gather(tool(function, -1), tool(function, -2), tool(function, -1))

    assert [ran(command) for command in commands(Replay(body))] == [0, 1, 0]


def test_what_the_agents_function_closes_over_was_there_before_it() -> None:
    calls: list[int] = []
    count = 0

    async def body() -> None:
        def note(x: int) -> None:
            nonlocal count
            count += 1
            calls.append(x)

        await tool(note, 1)

    ran(commands(Replay(body))[0])
    assert (calls, count) == ([1], 1)


def test_what_cannot_be_copied_is_shared_whole() -> None:
    async def body() -> Any:
        mine = Locks()
        await tool(mine.look, 1)
        return mine.seen, mine.chat.notes

    replay = Replay(body)
    ran(commands(replay)[0])
    replay.deliver(0, Outcome(value=1))
    assert replay.result == [[1], [1]]


def test_a_default_is_each_starts_own_also_where_it_is_more_than_a_tool_gets() -> None:
    @agent(name="large-default")
    async def keeps(rows: list[int] = [0] * (MOST_HELD + 1), locks: Locks = Locks()) -> Any:  # noqa: B008
        rows.append(1)
        return len(rows), locks.look(1), len(locks.seen)

    assert [asyncio.run(keeps()) for _ in range(2)] == [(MOST_HELD + 2, 1, n) for n in (1, 2)]


def test_a_tool_that_has_run_is_not_copied_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Any] = []
    monkeypatch.setattr(holdings, "_own", lambda value, *_: copies.append(value) or value)

    async def body() -> None:
        await tool(lambda: body)
        await tool(abs, 1)

    first = Replay(body)
    assert len(copies) == 1
    steps = [first.asked[0].written(0, None, Outcome(value=1))]
    Replay(body, steps).deliver(0, Outcome(value=1))
    assert len(copies) == 1, "nor is anything looked for where a function holds nothing"


# What nobody will see ------------------------------------------------------------------------------------


class Careful:
    def __init__(self) -> None:
        self.connection: Any = None
        self.names = ["a"]
        self._calls = 0

    @functools.cached_property
    def size(self) -> int:
        return len(self.names)

    def use(self) -> int:
        self.connection = self.connection or {"open": True}
        self._calls += 1
        return self.size

    def spoil(self) -> None:
        self.names.append("b")


def local() -> Callable[..., Any]:
    notes, count, either = [1.5, float("nan")], 0, {"a": [1]}

    def change(what: str) -> None:
        nonlocal count
        if what == "count":
            count += 1
        elif what == "notes":
            notes.append(2)
        elif what == "either":
            either["a"].append(2)

    return change


@pytest.mark.parametrize(
    ("make", "args", "said"),
    [
        (local, ("nothing",), ""),
        (local, ("count",), "count"),
        (local, ("notes",), "notes"),
        (local, ("either",), "either"),
        (lambda: Careful().use, (), ""),
        (lambda: Careful().spoil, (), "Careful.names"),
        (Chat, (1,), "Chat.notes and Chat.count"),
        (lambda: [].append, (1,), "list"),
        (lambda: SHOP.look, (1,), ""),
    ],
)
async def test_where_replays_are_looked_at_a_tool_that_keeps_something_for_its_agent_fails(
    make: Callable[[], Any], args: tuple[Any, ...], said: str
) -> None:
    async def body() -> None:
        await tool(make(), *args)

    (command,) = commands(Replay(body))
    await Tools(1, 5.0, 1000).run(work(), command)  # what it keeps is lost, on each worker alike
    if not said:
        await Tools(1, 5.0, 1000, check=True).run(work(), command)
        return
    with pytest.raises(ToolError, match=f"It has changed {said}, of which a tool gets a copy"):
        await Tools(1, 5.0, 1000, check=True).run(work(), command)


def test_an_agent_goes_on_from_what_its_tool_returned() -> None:
    async def body() -> str:
        notes: list[int] = []
        notes += await tool(lambda x: [*notes, x], 1)
        return f"{notes} {(await llm('a')).text}"

    replay = Replay(body)
    replay.deliver(0, Outcome(value=ran(commands(replay)[0])))
    replay.deliver(1, Outcome(response=LLMResponse(text="yes")))
    assert replay.result == "[1] yes"


# What worked when nothing was copied ---------------------------------------------------------------------

WORKS: list[Any] = []
KEYED: dict[Any, int] = {}
KEYED_WEAKLY: Any = weakref.WeakKeyDictionary()


def works(body: Body) -> Body:
    WORKS.append(body)
    return body


class Calls:
    """As a client with a callback; ``lock`` makes it one that cannot be copied."""

    def __init__(self, on: Callable[[int], Any], lock: Any = None) -> None:
        self._on, self._lock = on, lock

    def run(self, x: int) -> None:
        self._on(x)


@works
async def a_client_and_the_list_that_its_callback_fills() -> Any:
    for lock in (threading.Lock(), None):
        for on in (lambda results: results.append, lambda results: lambda x: results.append(x)):
            _results: list[int] = []
            calls = Calls(on(_results), lock)
            for order in (0, 1):
                held = (_results, calls)[:: 1 - 2 * order]

                def fetch(x: int, held: Any = held, _results: Any = _results, calls: Any = calls) -> bool:
                    calls.run(x)
                    return _results.pop() == x

                if not await tool(fetch, 5):
                    return False
    return True


@works
async def functions_in_a_dict_beside_what_they_change() -> Any:
    _state = {"n": 0}

    def add() -> None:
        _state["n"] += 1

    tools = {"add": add}

    def run(name: str) -> bool:
        before = _state["n"]
        tools[name]()
        return _state["n"] == before + 1

    return await tool(run, "add")


@works
async def two_functions_that_share_a_variable() -> Any:
    def add() -> None:
        nonlocal _count
        _count += 1

    _count = 0

    def run() -> int:
        add()
        return _count

    return await tool(run) == 1


OPEN: set[int] = set()
NUMBERS = itertools.count()


class Opened:
    """As what holds a file's number, and closes it with itself."""

    def __init__(self) -> None:
        self.at = [next(NUMBERS)]
        OPEN.add(self.at[0])

    def look(self) -> bool:
        return self.at[0] in OPEN

    def __del__(self) -> None:
        OPEN.discard(self.at[0])


@works
async def an_object_that_closes_what_it_has_open() -> Any:
    opened = Opened()
    return [await tool(opened.look), await tool(opened.look), opened.look()] == [True] * 3


class AnyName:
    def __init__(self) -> None:
        self.url = "http://there"

    def __getattr__(self, name: str) -> Callable[..., str]:
        return lambda *args: f"called {name}"


@works
async def a_client_that_answers_to_every_name() -> Any:
    there = AnyName()
    return await tool(lambda: there.say()) == "called say"


class Keyed:
    def __init__(self, there: Any) -> None:
        self.there = [there]
        there[self] = 7

    def look(self) -> int:
        return int((KEYED if self.there[0] is KEYED else KEYED_WEAKLY)[self])


@works
async def an_object_by_which_the_module_knows_something() -> Any:
    return [await tool(Keyed(there).look) for there in (KEYED, KEYED_WEAKLY)] == [7, 7]


def library() -> Any:
    names: dict[str, Any] = {"__name__": "a_library"}
    exec(
        "NONE = object()\n"
        "class Option:\n"
        "    def __init__(self): self.default = NONE\n"
        "    def unset(self): return self.default is NONE\n",
        names,
    )
    return names["Option"]


Option = library()


@works
async def what_a_library_knows_by_its_identity() -> Any:
    return await tool(Option().unset)


@works
async def a_semaphore_of_asyncios() -> Any:
    semaphore = asyncio.Semaphore(1)
    await tool(semaphore.release)
    return await tool(lambda: semaphore._value) == 2


class Tree:
    def __init__(self, parent: Tree | None = None) -> None:
        self.parent = parent
        self.children = [Tree(self) for _ in range(0 if parent and parent.parent else 5)]

    def size(self) -> int:
        return 1 + sum(child.size() for child in self.children)


@works
async def objects_that_know_each_other() -> Any:
    return await tool(Tree().size) == 31


@works
async def a_set_and_a_dict_of_objects() -> Any:
    known, named = {Careful(), Careful()}, {Careful(): 1}
    return await tool(lambda: len(known) + len(named)) == 3


class Odd:
    def __init__(self, copy: Any) -> None:
        self.copy = [copy]

    def __deepcopy__(self, memo: Any) -> Any:
        if isinstance(self.copy[0], type):
            raise self.copy[0]
        return self.copy[0]

    @property
    def __class__(self) -> Any:
        raise RuntimeError("outside of a request")

    def look(self) -> int:
        return 1


@works
async def objects_that_cannot_be_looked_at_or_copied() -> Any:
    odd = Odd(None)
    found = [await tool(Odd(copy).look) for copy in (None, 5, SystemExit, ValueError)]
    return [*found, await tool(lambda: odd.look())] == [1] * 5


class Frame:
    """Laid out as an array: it says how large it is."""

    nbytes = 10**9

    def __init__(self) -> None:
        self.rows = [1]

    def __deepcopy__(self, memo: Any) -> Any:
        raise AssertionError("nobody has so much memory")

    def look(self) -> int:
        return len(self.rows)


@works
async def more_than_can_be_copied_at_each_await() -> Any:
    frame, rows = Frame(), [[n] for n in range(MOST_HELD + 1)]
    same = id(rows[-1])
    found = await gather(tool(frame.look), tool(lambda: id(rows[-1]) == same), tool(lambda: frame.look()))
    return found == [1, True, 1]


@pytest.mark.parametrize("body", WORKS, ids=lambda b: b.__name__)
def test_a_program_that_worked_without_copies_works_with_them(body: Body) -> None:
    assert rehearse(agent(body, name=f"works-{body.__name__}").job()) is True


def counted() -> Callable[..., Any]:
    count = 0

    def add(n: int) -> None:
        nonlocal count
        count += 1
        if n:
            again(n - 1)

    def again(n: int) -> None:
        add(n)

    return add


def holding(held: Any, use: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda n: repr(use(held))


def text() -> Callable[..., Any]:
    held = b"a"

    def add(n: int) -> None:
        nonlocal held
        held += b"b"

    return add


class Slotted:
    __slots__ = ("_own", "count")

    def __init__(self) -> None:
        self.count = self._own = 0

    def add(self, n: int) -> None:
        self._own += 1
        self.count += n


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (counted, "count"),
        (lambda: holding(itertools.count(), next), "held"),
        (lambda: holding(iter([1, 2]), next), "held"),
        (lambda: holding(random.Random(7), lambda rng: rng.random()), "held"),
        (lambda: holding(io.StringIO(), lambda file: file.write("a")), "held"),
        (text, "held"),
        (lambda: Slotted().add, "Slotted.count"),
        (lambda: functools.partial(lambda held, n: held.append(n), []), "partial"),
    ],
)
def test_what_a_tool_keeps_is_seen_wherever_it_is(make: Any, said: str) -> None:
    async def body() -> None:
        await tool(make(), 1)

    (command,) = commands(Replay(body))
    command.call()
    assert said in command.kept()
