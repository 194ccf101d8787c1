"""The list of mutants, as it stands in the files beside this one.

An entry::

    [[mutant]]
    file = "journal/lua/claim.lua"      # below aios_dist/
    old = "text that stands there once"
    new = "what it becomes"
    tests = ["tests/redis/test_leases.py::test_a_name"]
    survives = "why no test can tell"   # left out where one must
"""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from pathlib import Path

import msgspec

ROOT = Path(__file__).resolve().parents[2]


class Mutant(msgspec.Struct, forbid_unknown_fields=True, dict=True):
    """One small fault.

    Attributes:
        file, old, new: where, what stands there once, and what it becomes.
        tests: the narrowest that notice it.
        survives: why none can.
        area, number: the list it stands in, and its place among all.
    """

    file: str
    old: str
    new: str
    tests: list[str]
    survives: str = ""
    area: str = ""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.number:3} {self.file}: {_short(self.old)} → {_short(self.new) or 'nothing'}"

    @cached_property
    def all_text(self) -> str:
        """What words are looked for in."""
        return " ".join([self.area, self.file, self.old, self.new, *self.tests])

    def fault(self, root: Path = ROOT) -> str:
        """Why it cannot be tried any more, in a sentence; empty where it can."""
        path = root / "aios_dist" / self.file
        times = path.read_text(encoding="utf-8").count(self.old) if path.is_file() else 0
        if times != 1:
            return f"its text stands {times} times in aios_dist/{self.file}"
        for test in self.tests:
            file, _, name = test.partition("::")
            there = root / file
            if not there.is_file() or (
                name and not re.search(rf"def {name}\b", there.read_text(encoding="utf-8"))
            ):
                return f"there is no {test}"
        return "" if self.tests else "it names no test"


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= 70 else f"{words[:69]}…"


def all_of_them(folder: Path = Path(__file__).parent) -> list[Mutant]:
    """The list, numbered.

    Raises:
        msgspec.ValidationError: an entry has a field that is none, or lacks one.
    """
    found: list[Mutant] = []
    for file in sorted(folder.glob("*.toml")):
        for entry in tomllib.loads(file.read_text(encoding="utf-8"))["mutant"]:
            found.append(msgspec.convert({**entry, "area": file.stem, "number": len(found) + 1}, Mutant))
    return found
