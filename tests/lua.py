"""``python -m tests.lua``: what luacheck says of the journal's Lua; ``make check`` runs it.

All parts and verbs are looked at in one text, as they are assembled: the parts in their order, behind them
each verb as a function. (Verb by verb takes twenty times as long, and says the same of the parts each time.)
Then each file alone: what it does not know is of the parts that it uses; these must be those that it names.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from aios_dist.journal import heads
from aios_dist.journal.scripts import PARTS, called, included, load, parts_of

WIDTH = 160
KNOWN = ("redis", "cjson", "cmsgpack", "KEYS", "ARGV")
UNKNOWN = (
    "io",
    "os",
    "print",
    "require",
    "module",
    "package",
    "debug",
    "dofile",
    "loadfile",
    "load",
    "loadstring",
)
"""What Lua 5.1 has and a verb has not: Redis keeps it from scripts."""
DECLARED = re.compile(r"local function (\w+)|local ([\w, ]+?) = |(?:  )?(\w+) = function|(\w+) = ")
"""A name of a part gets its value; (a part may stand in a block, for a chunk has 200 locals at the most)."""
EACH_CALL = re.compile(r"^ *each_call\(function\(\)(.+?)(?: end\)$|^ *end\)$)", re.MULTILINE | re.DOTALL)
"""What a part sets anew at each call."""
ALL = "as-assembled"
WRAPPER = "scripts.py, around a verb"


class Found(NamedTuple):
    """What luacheck says of a line."""

    line: int
    code: str
    message: str


def texts() -> dict[str, str]:
    """Every file's text, by its name without ``.lua``; parts in their order, then verbs."""
    folder = resources.files("aios_dist.journal").joinpath("lua")
    names = [*(f"_{part}" for part in PARTS), *load()]
    return {name: folder.joinpath(f"{name}.lua").read_text(encoding="utf-8") for name in names}


def luacheck(files: dict[str, str]) -> dict[str, list[Found]]:
    """What it finds in each.

    Raises:
        RuntimeError: it did not run, or says what is not understood here.
    """
    found: dict[str, list[Found]] = {name: [] for name in files}
    with tempfile.TemporaryDirectory() as folder:
        for name, text in files.items():
            Path(folder, f"{name}.lua").write_text(text, encoding="utf-8")
        done = subprocess.run(
            [
                *(
                    "luacheck",
                    "--no-config",
                    "--no-cache",
                    "--std",
                    "lua51",
                    "--codes",
                    "--formatter",
                    "plain",
                ),
                *("--max-line-length", str(WIDTH), "--read-globals", *KNOWN, "--not-globals", *UNKNOWN),
                *("--", *(f"{name}.lua" for name in files)),
            ],
            capture_output=True,
            text=True,
            cwd=folder,
            check=False,
        )
    for said in filter(str.strip, done.stdout.splitlines()):
        parts = re.match(r"^(.+)\.lua:(\d+):\d+: \(([WE]\d+)\) (.*)$", said)
        if parts is None:
            raise RuntimeError(f"luacheck says {said!r} {done.stderr}")
        found[parts[1]].append(Found(int(parts[2]), parts[3], parts[4]))
    if done.returncode > 2:
        raise RuntimeError(f"luacheck ended with {done.returncode}: {done.stderr}")
    return found


def assembled(files: dict[str, str]) -> tuple[str, list[tuple[str, int]]]:
    """All in one text, and of each of its lines the file that it is from and its number there."""
    lines: list[str] = []
    origin: list[tuple[str, int]] = []

    def add(name: str, text: str) -> None:
        own = text.rstrip("\n").split("\n")
        lines.extend(own)
        origin.extend((name, at) for at, _ in enumerate(own, 1))

    add("heads.py", heads.lua())
    for name, text in files.items():
        if name.startswith("_"):
            add(f"{name}.lua", text)
        else:
            others = "".join(f"local {verb} = verb_{verb}\n" for verb in called(text))  # (in their order)
            add(WRAPPER, f"start_call(KEYS, ARGV)\nlocal function verb_{name}()\n{others}")
            add(f"{name}.lua", text)
            run = f"guarded(verb_{name})" if "mend" in included(text) else f"verb_{name}()"
            add(WRAPPER, f"end\n{run}")
    return "\n".join(lines), origin


def together(files: dict[str, str], found: list[Found], origin: list[tuple[str, int]]) -> Iterable[str]:
    """What is wrong with them as they are assembled: all that luacheck finds, but lines that are too long."""
    parts = {f"_{part}.lua": part for part in PARTS}
    for line, code, message in found:
        name, at = origin[line - 1]
        other = re.search(r" on line (\d+)", message)
        where = ""
        if other:
            file, there = origin[int(other[1]) - 1]
            message, where = message[: other.start()] + message[other.end() :], f" of {file}:{there}"
            verb = files.get(name.removesuffix(".lua")) if name not in parts else None
            if verb and file in parts and parts[file] not in parts_of(included(verb)):
                continue  # they never meet
        if not code.startswith("W6"):
            yield f"{name}:{at}: {message}{where} ({code})"


def homes(files: dict[str, str]) -> dict[str, str]:
    """Of each name that parts have, which: where it is declared with a value, else where it gets one."""
    found: dict[str, str] = {}
    for part in PARTS:
        for block in EACH_CALL.findall(files[f"_{part}"]):
            for words in re.findall(r"(?:^ *| )(\w[\w, ]*) = ", block, re.MULTILINE):
                for word in words.split(", "):
                    found.setdefault(word, part)
    for part in PARTS:
        for line in files[f"_{part}"].splitlines():
            words = DECLARED.match(line)
            for word in next(filter(None, words.groups())).split(", ") if words else ():
                found.setdefault(word, part)
    return found


def alone(files: dict[str, str], found: dict[str, list[Found]]) -> Iterable[str]:
    """Lines that are too long, and parts that a file uses and does not name, or names and does not use."""
    home = homes(files)
    for name, text in files.items():
        part = name[1:] if name.startswith("_") else ""
        says = {*(PARTS[part] if part else included(text))}
        uses = set() if part else says & {"mend"}  # (it stands around the verb)
        for line, code, message in found[name]:
            if code.startswith("W6"):
                yield f"{name}.lua:{line}: {message} ({code})"
            elif code.startswith("W11") or code == "W221":  # (the latter: declared here, and defined there)
                word = re.search(r"variable '?(\w+)", message)
                uses.add(home.get(word[1], "lib") if word else "lib")
        uses -= {"lib", part}
        yield from (f"{name}.lua uses _{other}.lua and does not say so" for other in sorted(uses - says))
        yield from (
            f"{name}.lua says that it uses _{other}.lua and does not" for other in sorted(says - uses)
        )


def wrong(files: dict[str, str]) -> list[str]:
    """All that is wrong with these texts, a line each."""
    whole, origin = assembled(files)
    found = luacheck({ALL: whole, **files})
    return [*together(files, found[ALL], origin), *alone(files, found)]


def main() -> int:
    """Gives the exit code: 1 where something is found, or where there is no luacheck."""
    if shutil.which("luacheck") is None:
        print("luacheck is not installed (Debian: apt-get install lua-check)")
        return 1
    found = wrong(texts())
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
