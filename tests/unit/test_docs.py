"""What the documents say is there: diagrams, settings, keys, commands, links.

``python -m tests.unit.test_docs`` writes the parts that are made from the code anew.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import msgspec
import pytest

from aios_dist import config, errors, policies
from aios_dist.cli import entry
from aios_dist.cli.plan import PlanFile
from aios_dist.errors import AiosError
from aios_dist.journal.heads import Head
from aios_dist.journal.keys import PERMANENT, Keys
from aios_dist.model import jobs
from tests.found import files

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *files(ROOT / "docs", "*.md"),
]
HOSTS = {"127.0.0.1", "localhost", "gpu-1", "host", "fake-llm"}
"""Addresses that a document may name: this machine, and stand-ins for the reader's own."""

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
MADE = re.compile(r"(<!-- made from (\S+) by: [^\n]* -->\n)(.*?)(<!-- end -->)", re.DOTALL)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for _, language, text in FENCE.findall(page.read_text("utf-8")) if language in languages]


# What is made from the code --------------------------------------------------------------------------------


def diagram(changes: Mapping[Any, frozenset[Any]]) -> str:
    """A table of state changes as a Mermaid diagram; states that nothing follows end in the black dot."""
    states: list[Enum] = list(type(next(iter(changes))))
    lines = [f"    {a.value} --> {b.value}" for a in states for b in states if b in changes[a]]
    lines += [f"    {a.value} --> [*]" for a in states if not changes[a]]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```", ""])


def error_tree() -> str:
    """The tree in the docstring of ``errors.py``."""
    text = inspect.cleandoc(errors.__doc__ or "").split("::\n\n", 1)[1]
    lines = [line.removeprefix("    ") for line in text.splitlines() if line.startswith("    ")]
    return "\n".join(["```", *lines, "```", ""])


def list_of_policies() -> str:
    """A table of all policies, and what the docstring of each one's file says of when to take it."""
    lines = ["| policy | who goes first | can starve a step | from |", "|---|---|---|---|"]
    more = [""]
    for policy in map(policies.find, policies.names()):
        said = inspect.getdoc(inspect.getmodule(policy.rank)) or ""
        first, _, rest = said.replace("``", "`").partition("\n\n")
        starves = "yes" if policy.starves else "no"
        lines.append(f"| `{policy.name}` | {first.removesuffix('.')} | {starves} | {policy.source} |")
        more.append(textwrap.fill(f"* `{policy.name}`: {rest}", 128, subsequent_indent="  "))
    return "\n".join([*lines, *more, ""])


def default_of(setting: config.Setting) -> str:
    if setting.required:
        return "required"
    value = setting.default
    if value is None:
        return "none"
    return f"`{value:.0f}`" if isinstance(value, float) and value.is_integer() else f"`{json.dumps(value)}`"


def table(kind: config.Kind) -> str:
    """The settings of one table of aios.toml, as they are declared."""
    lines = ["| field | default | unit | meaning |", "|---|---|---|---|"]
    for each in config.settings_of(kind).values():
        unit = f"{each.unit} " if each.unit else ""
        meaning = each.text.removeprefix(unit)  # reads on from the unit: "calls | at a time"
        lines.append(f"| `{each.name}` | {default_of(each)} | {unit}| {meaning} |")
    return "\n".join([*lines, ""])


MAKERS: dict[str, Callable[[], str]] = {
    "aios_dist/policies": list_of_policies,
    **{f"aios_dist.config.{kind.__name__}": partial(table, kind) for kind in config.TABLES.values()},
    "aios_dist.model.jobs.JOB_CHANGES": lambda: diagram(jobs.JOB_CHANGES),
    "aios_dist.model.jobs.STEP_CHANGES": lambda: diagram(jobs.STEP_CHANGES),
    "aios_dist/errors.py": error_tree,
}


def written_anew(text: str) -> str:
    return MADE.sub(lambda found: found[1] + MAKERS[found[2]]() + found[4], text)


def test_the_parts_made_from_the_code_are_as_the_code_is() -> None:
    places = [found[2] for page in PAGES for found in MADE.finditer(page.read_text("utf-8"))]
    assert sorted(places) == sorted(MAKERS)
    stale = [page.name for page in PAGES if written_anew(page.read_text("utf-8")) != page.read_text("utf-8")]
    assert not stale, f"{stale}: run python -m tests.unit.test_docs"


def test_the_tree_of_errors_has_every_class_at_its_place() -> None:
    drawn: list[tuple[str, str]] = []
    above: list[str] = []
    for line in error_tree().splitlines()[1:-1]:
        found = re.match(r"([│├└─ ]*)(\w+)", line)
        assert found is not None, line
        depth = len(found[1]) // 4
        above[depth:] = [found[2]]
        drawn.append((found[2], above[depth - 1] if depth else "Exception"))
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, AiosError)]
    assert sorted(drawn) == sorted((c.__name__, c.__bases__[0].__name__) for c in classes)


# Tables ----------------------------------------------------------------------------------------------------


def rows(text: str) -> list[list[str]]:
    """The cells of each table row."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def sections(page: Path) -> dict[str, str]:
    parts = re.split(r"^#{2,3} (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_every_section_of_the_configuration_has_its_table_in_its_page() -> None:
    page = sections(ROOT / "docs/configuration.md")
    made = {heading: found[2] for heading, text in page.items() for found in MADE.finditer(text)}
    assert made == {
        f"[{name}]" if name == "fleet" else f"[{name}.NAME]": f"aios_dist.config.{kind.__name__}"
        for name, kind in config.TABLES.items()
    }


def test_every_variable_of_the_environment_is_in_the_configuration_page() -> None:
    sources = [*files(ROOT / "aios_dist", "**/*.py"), ROOT / "tests/conftest.py"]
    used = {name for file in sources for name in re.findall(r'"(AIOS_[A-Z_]+)"', file.read_text("utf-8"))}
    named = set(re.findall(r"`(AIOS_[A-Z_]+)`", sections(ROOT / "docs/configuration.md")["Environment"]))
    assert named == used


def kinds_in_code() -> dict[str, bool]:
    """The first word of each key of the journal, and whether such keys are permanent."""
    keys = Keys("f")
    source = "\n".join(file.read_text("utf-8") for file in files(ROOT / "aios_dist", "**/*.py"))
    verbs = "\n".join(f.read_text("utf-8") for f in files(ROOT / "aios_dist/journal/lua", "*.lua"))
    names = {value.removeprefix(keys.prefix) for name, value in vars(keys).items() if name != "prefix"}
    for name, make in inspect.getmembers(Keys, inspect.isfunction):
        # A name that neither Python nor a verb asks for is no key yet.
        if name != "__init__" and (f"keys.{name}(" in source or f"key('{name}'" in verbs):
            parameters = list(inspect.signature(make).parameters)[1:]
            names.add(make(keys, *(p.upper() for p in parameters)).removeprefix(keys.prefix))
    permanent = set(map(kind, PERMANENT))
    return {name: name in permanent for name in permanent | set(map(kind, names))}


def kind(key: str) -> str:
    return key.partition(":")[0]


def test_every_key_is_in_the_page_about_redis_and_its_life_is_right() -> None:
    table = rows(sections(ROOT / "docs/redis.md")["The journal's keys"])[1:]
    assert {kind(key.strip("`")): life == "permanent" for key, _, life, _ in table} == kinds_in_code()


def test_every_key_and_field_of_the_verbs_is_in_the_page_about_redis() -> None:
    verbs = "\n".join(f.read_text("utf-8") for f in files(ROOT / "aios_dist/journal/lua", "*.lua"))
    used = set(re.findall(r"\bP \.\. '(\w+)'", verbs)) | set(re.findall(r"\bkey\('(\w+)'", verbs))
    assert used <= kinds_in_code().keys()
    page = sections(ROOT / "docs/redis.md")
    documented = {
        re.sub(r"\d", "", name)
        for section, column in (("Fields of a job", 0), ("Fields of lanes, plans, models and tenants", 1))
        for row in rows(page[section])[1:]
        for name in re.findall(r"`(\w+)`", row[column])
    }
    places = r"(?:k|jk|to|from|plan|w\.key|key\('(?:job|lane|plan|model|tenant|spend)', [^)]*\))"
    calls = re.findall(rf"'(?:HSET|HMGET|HGET|HINCRBY|HINCRBYFLOAT|HDEL)', {places}, ([^)\n]*)", verbs)
    named = {re.sub(r"\d", "", name) for call in calls for name in re.findall(r"'([a-z]\w*)\|?'", call)}
    assert documented - {"h", "ht", "x"} <= named  # whose names are put together
    values = {state.value for state in jobs.JobState} | {"default"}  # the tenant of that name
    assert named - documented <= values


def test_every_entry_of_a_steps_head_is_in_the_page_about_redis() -> None:
    code = {name: place for place, name in enumerate(Head.__struct_fields__)}
    written = {}
    for entries, names, _ in rows(sections(ROOT / "docs/redis.md")["The head of a step"])[1:]:
        places = [int(place) for place in re.findall(r"\d+", entries)]
        if "–" in entries:
            places = list(range(places[0], places[1] + 1))
        written |= dict(zip(names.split(", "), places, strict=True))
    assert written == code


def test_the_glossary_has_every_word_of_the_code_and_is_sorted() -> None:
    words = [re.sub(r"\*", "", row[0]) for row in rows((ROOT / "docs/glossary.md").read_text("utf-8"))[1:]]
    assert words == sorted(words)
    wanted = "agent job step turn journal lane ticket rank policy plan claim lease outcome pool fleet tenant"
    assert set(wanted.split()) <= set(words)


# Code ------------------------------------------------------------------------------------------------------


@each_page
def test_python_compiles_and_its_names_exist(page: Path) -> None:
    for text in blocks(page, "python"):
        tree = compile(text, page.name, "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aios_dist":
                module = __import__(node.module or "", fromlist=["*"])
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert not missing, f"{node.module} has no {missing}"


@each_page
def test_toml_is_what_the_program_reads(page: Path) -> None:
    for text in blocks(page, "toml"):
        data = tomllib.loads(text)
        if "jobs" in data:
            msgspec.convert(data, PlanFile)
        else:
            config.parse(data)
    for text in blocks(page, "json"):
        json.loads(text)


def test_the_program_in_the_readme_is_the_one_in_examples() -> None:
    file = iter((ROOT / "examples/trip.py").read_text("utf-8").splitlines())
    shown = [line for line in blocks(ROOT / "README.md", "python")[0].splitlines() if line.strip()]
    missing = next((line for line in shown if line not in file), None)  # in this order
    assert missing is None, f"examples/trip.py has no {missing!r} here"


@each_page
def test_no_page_has_two_agents_of_one_name(page: Path) -> None:
    """All of a page may be pasted into one fleet."""
    made: list[str] = []
    for text in blocks(page, "python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.AsyncFunctionDef) and "agent" in map(_called, node.decorator_list):
                made.append(node.name)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("examples."):
                made.append(f"{node.module}.{node.names[0].name}")
    names = [name.rpartition(".")[2] for name in dict.fromkeys(made) if name.startswith("examples.")]
    names += [name for name in made if not name.startswith("examples.")]
    assert len(set(names)) == len(names), names


def _called(decorator: ast.expr) -> str:
    node = decorator.func if isinstance(decorator, ast.Call) else decorator
    return node.id if isinstance(node, ast.Name) else ""


def test_nobody_says_that_a_tool_runs_once() -> None:
    """It runs at least once (docs/agents.md)."""
    told = [
        *PAGES,
        *files(ROOT / "examples", "*.py"),
        ROOT / "aios_dist/program/agents.py",
        ROOT / "aios_dist/program/commands.py",
    ]
    for file in told:
        said = re.findall(r".*\bruns? once\b.*", file.read_text("utf-8"))
        assert [line for line in said if "Not" not in line and "CHANGELOG" not in file.name] == [], file


# Commands --------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every ``aios-dist …`` in the page's code."""
    text = page.read_text("utf-8")
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))
    lines = [line for _, _, block in FENCE.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*spans, *lines]:
        for found in re.finditer(r"(?<![\w./:-])(?:/opt/aios/bin/)?aios-dist +(?=[\w-])(.*)", line):
            rest = re.split(r"\s{2,}|\s+#|[;&]", found[1])[0]
            try:
                yield shlex.split(rest)
            except ValueError:
                yield rest.split()


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command, and what is given to it."""
    known: click.Command = entry.root
    words = list(words)
    while isinstance(known, click.Group):
        while words and words[0] in entry.GLOBAL:
            words = words[2:]
        name = words.pop(0) if words else ""
        assert name in known.list_commands(click.Context(known)), f"aios-dist has no {name!r}"
        found = known.get_command(click.Context(known), name)
        assert found is not None
        known = found
        if isinstance(known, click.Group) and (not words or not re.fullmatch(r"[a-z]+", words[0])):
            break
    return known, words


def options_of(command: click.Command) -> set[str]:
    if command.name == "fake-llm":
        from aios_dist.testing.__main__ import _arguments

        return {text for action in _arguments()._actions for text in action.option_strings}
    return {o for p in command.params if isinstance(p, click.Option) for o in p.opts} | {"--help"}


@each_page
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words in commands(page):
        if "|" in " ".join(words):  # job list|show|…
            for last in words[-1].split("|"):
                command_of([*words[:-1], last])
            continue
        command, given = command_of(words)
        wrong = {w for w in given if re.fullmatch(r"--?[a-z][\w-]*", w)} - options_of(command)
        assert not wrong, f"aios-dist {' '.join(words)}: no such option {sorted(wrong)}"


def _all_commands(group: click.Group, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, click.Group):
            yield from _all_commands(found, (*before, name))
        else:
            yield (*before, name)


def test_every_command_stands_in_a_document() -> None:
    said = set()
    for page in PAGES:
        for words in commands(page):
            bare = [word for word in words if re.fullmatch(r"[a-z|-]+", word)]
            said |= {(*bare[:1],), *((*bare[:1], last) for last in (bare[1].split("|") if bare[1:] else ()))}
    assert {" ".join(name) for name in _all_commands(entry.root) if name not in said} == set()


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text("utf-8")
        named = re.findall(r"`make ([a-z]+)", text) + re.findall(r"^make ([a-z]+)", text, re.MULTILINE)
        assert set(named) <= targets, page.name


# Links -----------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The headings as GitHub makes addresses of them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text("utf-8"))):
        file, _, anchor = target.partition("#")
        if "://" in file:
            continue
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@each_page
def test_files_that_are_named_exist(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    named = re.findall(r"`((?:aios_dist|deploy|docs|examples|tests|workers|benchmarks)/[\w./@-]*)`", text)
    given = re.compile("NAME|NOUN")  # what a recipe leaves to its reader
    missing = [name for name in named if not given.search(name) and not (ROOT / name).exists()]
    assert not missing


@each_page
def test_no_address_but_the_readers_own_is_named(page: Path) -> None:
    for url in re.findall(r"\bhttps?://[^\s`'\")>]+", page.read_text("utf-8")):
        assert urlsplit(url).hostname in HOSTS, url
    assert not re.search(
        r"\b(?:pypi|pythonhosted|docker|ghcr|quay|npmjs)\.(?:org|io|com)\b", page.read_text("utf-8")
    )


def write() -> None:
    """Write what is made from the code."""
    for page in PAGES:
        text = page.read_text("utf-8")
        if (anew := written_anew(text)) != text:
            page.write_text(anew, "utf-8")
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    write()
