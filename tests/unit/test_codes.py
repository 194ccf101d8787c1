"""The name of an agent's code: what is another code, and what is the same."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aios_dist import agent
from aios_dist.errors import InvalidInput
from aios_dist.program import agents

FILES = {
    "trips_pkg/__init__.py": "",
    "trips_pkg/notes.py": 'NOTE = "Be kind."',
    "trips_pkg/prompts.py": """
import re
from string import Template
SYSTEM = "Be brief."
TABLE = {"a": ["Plan {}", 3]}
TEMPLATE = Template("For $who.")
WORD = re.compile("[a-z]+")
OTHER = "x"
""",
    "trips_pkg/helpers.py": """
import json
from dataclasses import dataclass

@dataclass
class Style:
    tone: str = "dry"

    def words(self) -> str:
        return f"in a {self.tone} tone"

def deep(city):
    return city.title() if city in {"Lima", "Rome", "Oslo", "Quito"} else city

def shape(city):
    '''What it does.'''
    return json.dumps(deep(city))

def unused(city):
    return city
""",
    "trips_pkg/trip.py": """
'''A module.'''
from aios_dist import agent, llm, tool
from trips_pkg import prompts
from trips_pkg.helpers import Style, shape
from trips_pkg.prompts import SYSTEM

STYLE = Style()

def look_up(city, most=3):
    return [city] * most

@agent(name="codes-trip")
async def trip(city: str = "Lima") -> str:
    '''Plans.'''
    # a comment
    found = await tool(look_up, city)
    for_whom = prompts.TEMPLATE.substitute(who=prompts.WORD.findall(city))
    return (await llm(for_whom + shape(city) + prompts.TABLE["a"][0] + STYLE.words(), system=SYSTEM)).text

@agent(name="codes-other")
async def other() -> str:
    return (await llm("hello")).text
""",
}
Code = Callable[..., str]


@pytest.fixture
def code_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Code]:
    """The name of the agent's code, where texts of its package are others."""
    before = dict(agents._registry)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def made(*changes: tuple[str, str, str], name: str = "codes-trip") -> str:
        files = dict(FILES)
        for file, old, new in changes:
            assert files[f"trips_pkg/{file}.py"].count(old) == 1, old
            files[f"trips_pkg/{file}.py"] = files[f"trips_pkg/{file}.py"].replace(old, new)
        for file, text in files.items():
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).write_text(text)
        for module in [m for m in sys.modules if m.partition(".")[0] == "trips_pkg"]:
            del sys.modules[module]
        importlib.invalidate_caches()
        importlib.import_module("trips_pkg.trip")
        return agents.codes()[name]

    yield made
    for module in [m for m in sys.modules if m.partition(".")[0] == "trips_pkg"]:
        del sys.modules[module]
    agents._registry.clear()
    agents._registry.update(before)


@pytest.mark.parametrize(
    "change",
    [
        ("trip", "# a comment\n", "# another one\n\n\n"),
        ("trip", "'''Plans.'''", "'''Plans trips, and says so.'''"),
        ("trip", "    '''Plans.'''\n", ""),
        ("trip", "'''A module.'''", "'''A module.'''\nX = 1"),
        ("trip", 'llm("hello")', 'llm("hello, you")'),
        ("helpers", "'''What it does.'''", "'''And how.'''"),
        ("helpers", "return city\n", "return city + city\n"),
        ("prompts", 'OTHER = "x"', 'OTHER = "y"'),
        ("trip", "def look_up(", "def before():\n    return 1\n\ndef look_up("),
    ],
    ids=lambda change: f"{change[1].strip()[:20]}",
)
def test_what_the_agent_does_not_do_is_no_other_code(code_with: Code, change: tuple[str, str, str]) -> None:
    assert code_with() == code_with(change)


@pytest.mark.parametrize(
    "change",
    [
        ("trip", 'TABLE["a"][0]', 'TABLE["a"][1]'),
        ("trip", "tool(look_up, city)", "tool(look_up, 'x')"),
        ("trip", 'city: str = "Lima"', 'city: str = "Rome"'),
        ("trip", "most=3", "most=4"),
        ("trip", "[city] * most", "[city]"),
        ("helpers", "city.title()", "city.upper()"),
        ("helpers", 'tone: str = "dry"', 'tone: str = "warm"'),
        ("helpers", "in a {self.tone} tone", "with a {self.tone} tone"),
        ("prompts", "Be brief.", "Be short."),
        ("prompts", "Plan {}", "Plot {}"),
        ("prompts", "For $who.", "To $who."),
        ("prompts", "[a-z]+", "[A-Z]+"),
    ],
    ids=lambda change: f"{change[1][:20]}",
)
def test_what_it_does_and_uses_of_its_package_is(code_with: Code, change: tuple[str, str, str]) -> None:
    assert code_with() != code_with(change)


WRAPPED = """
import functools
def style(f):
    @functools.wraps(f)
    def styled():
        return 'OLD'
    return styled
@style
def X(): ...
"""
KINDS = {
    "X.text": [
        "from types import SimpleNamespace\nX = SimpleNamespace(text='OLD')",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass P:\n    text: str\nX = P('OLD')",
        "from typing import NamedTuple\nclass P(NamedTuple):\n    text: str\nX = P('OLD')",
        "from functools import cached_property as p\nclass P:\n  @p\n  def text(self): return 'OLD'\nX=P()",
        "class P:\n    __slots__ = ('text',)\nX = P()\nX.text = 'OLD'",
    ],
    "X[0]": [
        "from types import MappingProxyType\nX = MappingProxyType({0: 'OLD'})",
        "from collections import defaultdict\nX = defaultdict(str, {0: 'OLD'})",
        "from collections import ChainMap\nX = ChainMap({0: 'OLD'})",
        "from collections import deque\nX = deque(['OLD'])",
        "class P(list): pass\nX = P(['OLD'])",
        "X = bytearray(b'OLD')",
    ],
    "str(X)": [
        "from datetime import date\nX = date(2020, 1, len('OLD') + OLDEST)",
        "from fractions import Fraction\nX = Fraction(1, OLDEST)",
        "class P(str): pass\nX = P('OLD')",
        "import re\nX = re.compile('a' * 250 + 'OLD')",
        "class Odd:\n    __class__ = property(lambda self: 1 / 0)\nODD = Odd()\nX = 'OLD' + str(ODD is None)",
    ],
    "X()": [
        WRAPPED,
    ],
}  # fmt: skip
"""Constants and helpers of every kind, by how they are used; ``OLD`` is what changes."""


@pytest.mark.parametrize(("use", "made"), [(use, made) for use, some in KINDS.items() for made in some])
def test_a_constant_that_changes_is_other_code_of_whatever_kind_it_is(use: str, made: str) -> None:
    found = []
    for text in (made, made.replace("OLD", "NEW")):
        names: dict[str, object] = {"__name__": "kinds_of_codes", "OLDEST": 1, "NEWEST": 2}
        whole = f"{text}\nasync def one():\n    return {use}, globals().get('ODD')"
        exec(compile(whole, "kinds_of_codes.py", "exec", dont_inherit=True), names)
        found.append(agents.Agent(names["one"], "codes-kinds").code)  # type: ignore[arg-type]
    assert found[0] != found[1]


@pytest.mark.parametrize("name", ["trips_pkg.notes.NOTE", "trips_pkg.helpers.notes.NOTE"])
def test_what_is_named_through_modules_counts(code_with: Code, name: str) -> None:
    changes = [
        ("trip", "system=SYSTEM", f"system={name}"),
        (
            "trip",
            "from trips_pkg import prompts\n",
            "import trips_pkg.notes\nfrom trips_pkg import prompts\n",
        ),
        ("helpers", "import json\n", "import json\nfrom trips_pkg import notes\n"),
    ]
    assert code_with(*changes) != code_with(*changes, ("notes", "Be kind.", "Be stern."))


def test_a_class_that_is_made_inside_may_say_something_else_of_itself() -> None:
    found = []
    for said in ("", "        'It is one.'\n", "        'It is another.'\n"):
        names: dict[str, object] = {"__name__": "kinds_of_codes"}
        exec(f"async def one():\n    class P:\n{said}        a = 1\n    return P.a", names)
        found.append(agents.Agent(names["one"], "codes-inside").code)  # type: ignore[arg-type]
    assert len({*found}) == 1


def test_a_constant_that_is_the_number_of_this_process_in_a_container_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names: dict[str, object] = {"MOST": 7}
    exec("async def one():\n    return MOST", names)
    here = agents.Agent(names["one"], "codes-of-process").code  # type: ignore[arg-type]
    monkeypatch.setattr(os, "getpid", lambda: 7)
    assert agents.Agent(names["one"], "codes-of-process").code == here  # type: ignore[arg-type]


def test_another_agent_of_the_file_has_a_code_of_its_own(code_with: Code) -> None:
    change = ("trip", 'llm("hello")', 'llm("hello, you")')
    assert code_with(name="codes-other") != code_with(change, name="codes-other")


SCRIPT = """
import sys; sys.path.insert(0, {folder!r})
import trips_pkg.trip
from aios_dist.program.agents import codes
print(codes()["codes-trip"])
"""


def test_every_process_calls_it_the_same(code_with: Code, tmp_path: Path) -> None:
    here = code_with()
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(folder=str(tmp_path))],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    ]
    assert said == [here, here]


def test_modules_in_one_folder_are_one_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    before, found = dict(agents._registry), []
    try:
        for word in ("a", "b"):
            (tmp_path / "flat_helper_of_codes.py").write_text(f"def word():\n    return '{word}'\n")
            (tmp_path / "flat_agents_of_codes.py").write_text(
                "from aios_dist import agent, llm\nfrom flat_helper_of_codes import word\n"
                "@agent(name='codes-flat')\nasync def one():\n    return (await llm(word())).text\n"
            )
            monkeypatch.setattr(sys, "dont_write_bytecode", True)
            for name in ("flat_helper_of_codes", "flat_agents_of_codes"):
                sys.modules.pop(name, None)
            importlib.invalidate_caches()
            importlib.import_module("flat_agents_of_codes")
            found.append(agents.codes()["codes-flat"])
    finally:
        agents._registry.clear()
        agents._registry.update(before)
    assert found[0] != found[1]


def test_what_is_another_thing_in_each_process_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION_OF_CODES", "eu-central-17")
    names: dict[str, object] = {"REGION": "eu-central-17", "BEGUN": 1795806000.25, "ME": os.getpid()}
    exec("async def one():\n    return REGION, BEGUN, ME", names)
    first = agents.Agent(names["one"], "codes-of-process").code  # type: ignore[arg-type]
    monkeypatch.setenv("REGION_OF_CODES", "us-east-4")
    monkeypatch.setattr(os, "getpid", lambda: 4711)
    names |= {"REGION": "us-east-4", "BEGUN": 1795809999.5, "ME": 4711}
    assert agents.Agent(names["one"], "codes-of-process").code == first  # type: ignore[arg-type]


def test_a_version_is_its_code() -> None:
    before = dict(agents._registry)

    async def one() -> None: ...

    async def other() -> str:
        return "x"

    try:
        assert agent(one, name="codes-versioned", version="7").code == "7"
        agents._registry.clear()
        assert agent(other, name="codes-versioned", version=7).code == "7"
    finally:
        agents._registry.clear()
        agents._registry.update(before)


@pytest.mark.parametrize("version", ["", "a b", "a@b", "a/b", "x" * 200, 1.5, b"1", True])
def test_a_version_that_is_none_is_refused_in_a_sentence(version: object) -> None:
    async def one() -> None: ...

    with pytest.raises(InvalidInput, match="Agent version"):
        agent(one, name="codes-odd", version=version)  # type: ignore[arg-type]


def test_what_does_not_want_to_be_looked_at_has_a_code_all_the_same() -> None:
    class Odd:
        def __getattribute__(self, name: str) -> object:
            raise RuntimeError(name)

    names: dict[str, object] = {"ODD": Odd(), "ROUND": (ring := [])}
    ring.append(ring)
    exec("async def one():\n    return ODD, ROUND", names)
    assert len(agents.Agent(names["one"], "codes-odd").code) == 8  # type: ignore[arg-type]
