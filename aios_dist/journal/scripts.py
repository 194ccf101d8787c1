"""Loads the Lua verbs and checks each call against the verb's own header, so that nobody counts ARGV.

Every verb takes one key, the fleet's prefix, and one MessagePack map whose fields its header names. A file of
``lua/`` is a verb, but those that begin with ``_``: these are parts, and a verb's header says which it uses,
which other verbs, if any, and whether it runs where Redis is full (``flags``).

Redis runs a verb as a function of one library that has all of them, or as a script of its own (``calling.py``
says when): the same text, with nothing that one call leaves to the next.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgpack

from aios_dist.journal import heads

_ARGV = re.compile(r"^-- ARGV 1: (.+(?:\n-- {9}.+)*)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (.+)$", re.MULTILINE)
_VERBS = re.compile(r"^-- verbs: (.+)$", re.MULTILINE)
_FLAGS = re.compile(r"^-- flags: (.+)$", re.MULTILINE)
_NAME = "<library>"

PARTS: dict[str, tuple[str, ...]] = {
    "lib": (),
    "waiting": (),
    "order": ("waiting", "limits"),
    "limits": ("waiting", "order"),
    "budgets": (),
    "texts": (),
    "plan": ("waiting", "order", "limits", "texts", "sweep", "members"),
    "sweep": ("order", "limits", "plan", "mend"),
    "members": ("order", "plan", "sweep"),
    "mend": ("order", "limits", "plan", "sweep", "members"),
    "again": ("plan", "sweep"),
    "resume": ("order", "plan", "sweep"),
    "gather": ("order", "limits", "mend"),
    "rules": ("order", "limits", "gather"),
    "new": ("plan", "members", "mend"),
}
"""The parts that verbs share (``lua/_NAME.lua``), in the order in which they stand before a verb, and what
others each of them uses. Every verb has ``lib``. What a part uses of a later one, it declares."""

SHARED = (*PARTS,)[: [*PARTS].index("mend") + 1]
"""Those that stand once in the library, before all verbs. The others stand in a block with the verbs that use
them: a chunk of Lua has 200 locals at the most."""

USED = "local function {name}()\n{text}\nend"
"""Of a verb that does what others do, in one go: it sets ``A`` to the fields of each before it calls it."""

SCRIPT = """#!lua{flags}
{before}
local function verb()
{text}
end
start_call(KEYS, ARGV)
return {run}"""
FUNCTION = """do
{before}
local function verb()
{text}
end
redis.register_function({{
  function_name = '{function}',
  flags = {{ {flags} }},
  callback = function(keys, args)
    start_call(keys, args)
    return {run}
  end,
}})
end"""
"""A verb as Redis runs it: with all that it uses, as a script; beside the others, as a function."""


def included(text: str) -> list[str]:
    """The parts that a verb's header says it uses."""
    include = _INCLUDE.search(text.split("\n\n", 1)[0])
    return include[1].split(", ") if include else []


def called(text: str) -> list[str]:
    """The verbs that a verb's header says it calls."""
    verbs = _VERBS.search(text.split("\n\n", 1)[0])
    return verbs[1].split(", ") if verbs else []


def parts_of(used: Iterable[str]) -> list[str]:
    """These parts and all that they use, in their order.

    Raises:
        ValueError: there is no such part.
    """
    needed: set[str] = set()
    left = {"lib", *used}
    while left:
        part = left.pop()
        if part not in PARTS:
            raise ValueError(f"there is no part _{part}.lua")
        needed.add(part)
        left |= {*PARTS[part]} - needed
    return [part for part in PARTS if part in needed]


def flagged(text: str) -> list[str]:
    """What a verb's header says of it to Redis."""
    flags = _FLAGS.search(text.split("\n\n", 1)[0])
    return flags[1].split(", ") if flags else []


class Library:
    """All verbs as functions of one library, put together when it is first used.

    Its name is that of its content, and so are the functions': nothing that another release loads on this
    Redis takes its place, and none of ours is ever replaced. (Who may delete and load functions may put
    anything under any name: docs/deploy.md, ACL.)

    Args:
        verbs: what it has.
        part: gives the text of ``_PART``.
        prelude: Lua that stands before all of it.
    """

    def __init__(self, verbs: Iterable[Script], part: Callable[[str], str], prelude: str) -> None:
        self._verbs = list(verbs)
        self._part = part
        self._prelude = prelude
        for verb in self._verbs:
            verb.library = self

    @functools.cached_property
    def name(self) -> str:
        """What Redis calls it."""
        return f"aios_{hashlib.sha256(self._body.encode()).hexdigest()[:16]}"

    @functools.cached_property
    def text(self) -> str:
        """What Redis loads."""
        return f"#!lua name={self.name}\n{self._body.replace(_NAME, self.name)}"

    @functools.cached_property
    def _body(self) -> str:
        blocks: dict[tuple[str, ...], list[Script]] = {}
        for verb in self._verbs:
            blocks.setdefault(tuple(part for part in verb.parts if part not in SHARED), []).append(verb)
        lines = [self._prelude, heads.lua(), *(self._part(f"_{part}") for part in SHARED)]
        for parts, some in blocks.items():
            lines += ["do", *(self._part(f"_{part}") for part in parts)]
            lines += [verb.registered(f"{_NAME}_{verb.name}") for verb in some]
            lines += ["end"]
        return "\n".join(lines)


class Script:
    """One verb.

    Attributes:
        name: the verb.
        fields: what its map must hold.
        flags: what Redis is told of it: ``allow-oom``: it runs where Redis is full; ``no-writes``.
        parts: the parts that it uses.
        library: where it is a function.
    """

    library: Library

    def __init__(self, name: str, text: str, part: Callable[[str], str], prelude: str = "") -> None:
        header = text.split("\n\n", 1)[0]
        found = _ARGV.search(header)
        if not header.startswith(f"-- {name}: ") or found is None:
            raise ValueError(f"{name}.lua must begin with '-- {name}: …' and '-- ARGV 1: fields'")
        verbs = {other: part(other) for other in called(text)}
        self.name = name
        self.flags = flagged(text)
        self.parts = parts_of(itertools.chain(*map(included, (text, *verbs.values()))))
        self._text = text
        self._used = [USED.format(name=other, text=body) for other, body in verbs.items()]
        # What writes more than one thing undoes it where it breaks.
        self._run = "guarded(verb)" if "mend" in self.parts else "verb()"
        self._before = [prelude, heads.lua(), *(part(f"_{name}") for name in self.parts), *self._used]
        self.fields = frozenset(field.strip() for field in found[1].replace("\n--", " ").split(","))

    @functools.cached_property
    def source(self) -> str:
        """What Redis runs, as a script. Put together when it is first used: all are 3 MB."""
        return SCRIPT.format(
            flags=f" flags={','.join(self.flags)}" if self.flags else "",
            before="\n".join(self._before),
            text=self._text,
            run=self._run,
        )

    @functools.cached_property
    def sha(self) -> str:
        """What Redis calls that."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    @functools.cached_property
    def function(self) -> str:
        """What Redis calls it as a function."""
        return f"{self.library.name}_{self.name}"

    def registered(self, function: str) -> str:
        """The Lua that makes it a function of a library."""
        return FUNCTION.format(
            before="\n".join(self._used),
            text=self._text,
            function=function,
            flags=", ".join(f"'{flag}'" for flag in self.flags),
            run=self._run,
        )

    def pack(self, fields: dict[str, Any]) -> bytes:
        """The verb's argument.

        Raises:
            TypeError: the fields are not those of the header.
        """
        if fields.keys() != self.fields:
            wrong = sorted(fields.keys() ^ self.fields)
            raise TypeError(f"{self.name}.lua takes {sorted(self.fields)}; wrong: {wrong}")
        # Without the `bin` type: Redis' own decoder (lua-cmsgpack) does not know it.
        packed: bytes = msgpack.packb(fields, use_bin_type=False)
        return packed


def assemble(names: Iterable[str], read: Callable[[str], str], prelude: str = "") -> dict[str, Script]:
    """Verbs, each as a script, and all of them as a library.

    Args:
        names: the verbs.
        read: gives the text of a verb, or of ``_PART``.
        prelude: Lua that stands before all of it.
    """
    verbs = {name: Script(name, read(name), read, prelude) for name in sorted(names)}
    Library(verbs.values(), read, prelude)
    return verbs


@functools.cache
def load() -> dict[str, Script]:
    """All verbs, by name."""
    folder = Path(__file__).with_name("lua")

    @functools.cache
    def read(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    files = (file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    return assemble((name for name in files if not name.startswith("_")), read)
