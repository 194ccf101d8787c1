"""Loads the Lua verbs and checks each call against the verb's own header, so that nobody counts ARGV.

Every verb takes one key, the fleet's prefix, and one MessagePack map whose fields its header names.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from importlib import resources
from typing import Any

import msgpack

_ARGV = re.compile(r"^-- ARGV 1: (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)

VERBS = (
    *("submit", "extend", "claim", "commit", "advance", "release", "renew", "regain", "reap", "walk"),
    *("cancel", "pause", "resume", "signal", "retry", "redo", "fork", "sweep"),
    *("rerank", "lane", "rules", "strays", "counts", "events"),
    *("plans", "office", "shift", "tickets", "publish"),
)

PARTS = {
    "": ("_lib", "_order"),
    "lib": ("_lib",),
    "limits": ("_lib", "_order", "_limits", "_plan", "_sweep", "_members", "_mend"),
    "plan": ("_lib", "_order", "_limits", "_plan", "_sweep", "_members", "_mend"),
    "again": ("_lib", "_order", "_limits", "_plan", "_sweep", "_again", "_members", "_mend"),
    "rules": ("_lib", "_order", "_limits", "_plan", "_sweep", "_members", "_mend", "_rules"),
    "new": ("_lib", "_order", "_limits", "_plan", "_sweep", "_members", "_mend", "_new"),
}
"""What stands before a verb that includes it."""

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
"""Around each verb that includes what mends: Redis undoes nothing of a script that stops with an error, so
the script does. The others write nothing, or one thing."""


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
        include = _INCLUDE.search(header)
        included = include[1] if include else ""
        body = (PLAIN if included in ("", "lib") else WRITES).format(text=text)
        self.name = name
        self.source = "\n".join([*map(part, PARTS[included]), body])
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

    return {name: Script(name, read(name), functools.cache(read)) for name in VERBS}
