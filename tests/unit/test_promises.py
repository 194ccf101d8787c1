"""What README and docs/ promise stands there still, and a test holds it; numbers are those of the code."""

from __future__ import annotations

import ast
import functools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aios_dist.broker import messages
from aios_dist.journal import connection
from aios_dist.journal import journal as verbs
from aios_dist.model import estimates
from aios_dist.model.calls import OUTPUT_GUESS
from aios_dist.model.jobs import COMPRESS_ABOVE
from aios_dist.policies import OLDEST_EVERY
from aios_dist.policies.priority import LEVEL_S
from aios_dist.producer import endings, fleet
from aios_dist.program import turns, waits
from aios_dist.worker import ending, office, reconciler, steps
from tests.found import files

ROOT = Path(__file__).parents[2]
PROMISES: dict[str, dict[str, str]] = tomllib.loads((ROOT / "tests/promises.toml").read_text("utf-8"))
LEAST = 400


@functools.cache
def words_of(document: str) -> str:
    """The text in one line: where it is broken says nothing."""
    return " ".join((ROOT / document).read_text("utf-8").split())


@functools.cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, kinds))


@pytest.mark.parametrize("document", PROMISES)
def test_what_is_promised_stands_in_its_document_and_its_test_is_there(document: str) -> None:
    gone = [said for said in PROMISES[document] if " ".join(said.split()) not in words_of(document)]
    assert not gone, f"{document} says otherwise by now: look at the tests that tests/promises.toml names"
    for said, test in PROMISES[document].items():
        file, _, name = test.partition("::")
        assert (ROOT / file).is_file(), f"{said!r}: there is no {file}"
        assert name in names_in(file), f"{said!r}: there is no {test}"


def test_every_page_that_promises_something_is_in_the_list() -> None:
    pages = {"README.md", *(f"docs/{page.name}" for page in files(ROOT / "docs", "*.md"))}
    assert pages - set(PROMISES) <= {"docs/glossary.md"}
    assert sum(map(len, PROMISES.values())) >= LEAST


@pytest.mark.parametrize(
    ("document", "heading"),
    [("README.md", "What you can rely on"), ("docs/reliability.md", "What is guaranteed, and what is not")],
)
def test_every_line_of_what_can_be_relied_on_has_a_test(document: str, heading: str) -> None:
    text = (ROOT / document).read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [" ".join(part.split()) for part in re.split(r"^\* ", text, flags=re.MULTILINE)[1:]]
    assert len(lines) > 5
    bare = [
        line
        for line in lines
        if not line.startswith("**Not** guaranteed")
        and not any(" ".join(said.split()) in line for said in PROMISES[document])
        and "(measured: `make bench`" not in line
    ]
    assert not bare


def lua(file: str, name: str) -> int:
    """A number of the verbs."""
    text = (ROOT / f"aios_dist/journal/lua/{file}.lua").read_text("utf-8")
    found = re.search(rf"^ *local {name} = (\d+)", text, re.MULTILINE)
    assert found is not None
    return int(found[1])


NUMBERS: list[tuple[str, str, Any, Any]] = [
    ("docs/agents.md", "wait an hour unless told otherwise", waits.RESULT_TIMEOUT_S, 3600),
    ("docs/agents.md", "waits up to 30 s for a Redis that goes away", endings.PATIENCE_S, 30),
    ("docs/agents.md", "one look gets a second at the least", endings.LOOK_S, 1),
    ("docs/agents.md", "`close()` waits a second for a Redis that hangs", connection.CLOSING_S, 1),
    (
        "docs/agents.md",
        "in parts of 15 (and as many first steps), or of a quarter of a megabyte",
        (fleet.CHUNK, fleet.CHUNK_BYTES),
        (15, 250_000),
    ),
    ("docs/how-it-runs.md", "wait up to 30 s", endings.PATIENCE_S, 30),
    ("docs/how-it-runs.md", "also looked at every 10 s", endings.LOOK_AGAIN_S, 10),
    ("docs/how-it-runs.md", "producers every 5 s", fleet.RULES_S, 5),
    ("docs/how-it-runs.md", "More than 20 steps", turns.MOST_STEPS, 20),
    ("docs/how-it-runs.md", "or 384 KB of them", turns.MOST_BYTES, 384 * 1024),
    ("docs/how-it-runs.md", "(four times a second)", 1 / reconciler.MATCH_S, 4),
    ("docs/how-it-runs.md", "within half an hour", reconciler.WALK_S + 60, 1800),
    ("docs/how-it-runs.md", "stopped for two periods", office.STOPPED, 2),
    ("docs/how-it-runs.md", "mentioned once a minute", messages.SAY_EVERY_S, 60),
    ("docs/how-it-runs.md", "nobody goes on with for a minute", lua("_mend", "ABANDONED"), 60_000_000),
    ("docs/how-it-runs.md", "of up to 30 steps", lua("_lib", "STEPS_AT_ONCE"), 30),
    ("docs/policies.md", "every Nth dispatch", OLDEST_EVERY, 10),
    ("docs/policies.md", "`rank = ready − priority × 60 s`", LEVEL_S, 60),
    ("docs/redis.md", "zlib (above 1 KiB)", COMPRESS_ABOVE, 1024),
    ("docs/reliability.md", "or 500 where the call sets none", OUTPUT_GUESS, 500),
    ("docs/reliability.md", "a token for each four characters", estimates.CHARS_PER_TOKEN, 4),
    ("docs/reliability.md", "until the bound is gone at 1,024", lua("_limits", "OPEN_WINDOW"), 1024),
    ("docs/reliability.md", "(20 times in a row)", verbs.MOST_BACK, 20),
    ("docs/reliability.md", "keeps 1,000 signals that it has not", verbs.MOST_SIGNALS, 1000),
    ("docs/reliability.md", "`shutdown_grace` and ten seconds", ending.BEYOND_S, 10),
    ("docs/reliability.md", "(five seconds of those)", ending.OWN_END_S, 5),
    ("docs/reliability.md", "on one worker within a second are one failure", steps.ONE_INSTANT_S, 1),
    ("docs/reliability.md", "pass for a minute", lua("_limits", "MINUTE"), 60_000_000),
]


@pytest.mark.parametrize(
    ("document", "said", "is_", "number"), NUMBERS, ids=[said for _, said, *_ in NUMBERS]
)
def test_a_number_that_is_said_is_the_codes(document: str, said: str, is_: Any, number: Any) -> None:
    assert said in words_of(document)
    assert is_ == number


def test_the_python_and_the_packages_that_are_said_to_be_needed_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in words_of("README.md")
    named = re.search(r"Extras: (.*?\.) ", words_of("README.md"))
    assert named is not None
    assert set(project["optional-dependencies"]) == set(re.findall(r"`(\w+)`", named[1]))
