"""Loads the Lua verbs and checks each call against the verb's own header, so that nobody counts ARGV.

Every verb takes one key, the fleet's prefix, and one MessagePack map whose fields its header names. A file of
``lua/`` is a verb, but those that begin with ``_``: these are parts, and a verb's header says which it uses,
and which other verbs, if any.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Callable, Iterable
from importlib import resources
from typing import Any

import msgpack

from aios_dist.journal import heads

_ARGV = re.compile(r"^-- ARGV 1: (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (.+)$", re.MULTILINE)
_VERBS = re.compile(r"^-- verbs: (.+)$", re.MULTILINE)

PARTS: dict[str, tuple[str, ...]] = {
    "lib": (),
    "waiting": (),
    "order": ("waiting", "limits"),
    "limits": ("waiting", "order"),
    "budgets": (),
    "plan": ("waiting", "order", "limits", "sweep", "members"),
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

FUNCTION = "local function {name}()\n{text}\nend"
"""Of a verb that does what others do, in one go: it sets ``A`` to the fields of each before it calls it."""

PLAIN = "local function verb()\n{text}\nend\nreturn verb()"
WRITES = """local function verb()
{text}
end
local ok, answer = pcall(function()
  local answer = verb()
  let_in_freed()
  return answer
end)
if ok then
  unmark()
  return answer
end
pcall(mend_touched)
local why = type(answer) == 'table' and answer.err or tostring(answer)
if not string.match(why, '^%u+ ') then why = 'HALFWAY ' .. why end
return {{ err = (string.gsub(why, '[\\r\\n]', ' ')) }}"""
"""Around each verb that includes ``mend``: Redis undoes nothing of a script that stops with an error, so
the script does. The others write nothing, or one thing."""


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


class Script:
    """One verb.

    Attributes:
        name: the verb.
        source: what Redis runs.
        sha: what Redis calls it.
        fields: what its map must hold.
    """

    def __init__(self, name: str, text: str, part: Callable[[str], str]) -> None:
        header = text.split("\n\n", 1)[0]
        found = _ARGV.search(header)
        if not header.startswith(f"-- {name}: ") or found is None:
            raise ValueError(f"{name}.lua must begin with '-- {name}: …' and '-- ARGV 1: fields'")
        verbs = {other: part(other) for other in called(text)}
        parts = parts_of(itertools.chain(*map(included, (text, *verbs.values()))))
        used = (FUNCTION.format(name=other, text=body) for other, body in verbs.items())
        body = (WRITES if "mend" in parts else PLAIN).format(text=text)
        self.name = name
        self.source = "\n".join([heads.lua(), *(part(f"_{name}") for name in parts), *used, body])
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()
        self.fields = frozenset(field.strip() for field in found[1].split(","))

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


@functools.cache
def load() -> dict[str, Script]:
    """All verbs, by name."""
    folder = resources.files(__package__).joinpath("lua")

    def read(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    files = (file.name.removesuffix(".lua") for file in folder.iterdir() if file.name.endswith(".lua"))
    verbs = sorted(name for name in files if not name.startswith("_"))
    return {name: Script(name, read(name), functools.cache(read)) for name in verbs}
