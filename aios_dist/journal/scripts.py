"""Loads the Lua verbs and checks each call against the verb's own header, so that nobody counts ARGV.

Every verb takes one key, the fleet's prefix, and one MessagePack map whose fields its header names.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources
from typing import Any

import msgpack

_ARGV = re.compile(r"^-- ARGV 1: (.+)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)

VERBS = (
    *("submit", "extend", "claim", "commit", "advance", "release", "renew", "reap"),
    *("cancel", "pause", "resume", "signal", "retry", "fork"),
    *("rerank", "lane", "strays", "counts", "events"),
    *("office", "shift", "tickets", "publish"),
)


class Script:
    """One verb.

    Attributes:
        name: the verb.
        source: what Redis runs.
        sha: what Redis calls it.
        fields: what its map must hold.
    """

    def __init__(self, name: str, text: str, library: str, plan: str, limits: str = "") -> None:
        header = text.split("\n\n", 1)[0]
        found = _ARGV.search(header)
        if not header.startswith(f"-- {name}: ") or found is None:
            raise ValueError(f"{name}.lua must begin with '-- {name}: …' and '-- ARGV 1: fields'")
        include = _INCLUDE.search(header)
        parts = {"": [library], "plan": [library, limits, plan], "limits": [library, limits, plan]}
        wanted = [*parts[include[1] if include else ""], text]
        self.name = name
        self.source = "\n".join(wanted)
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

    library, plan, limits = read("_lib") + read("_order"), read("_plan"), read("_limits")
    return {name: Script(name, read(name), library, plan, limits) for name in VERBS}
