"""The head of a step: one MessagePack array in its job's hash, so that a step costs one field.

:class:`Head` declares it. Its fields, in their order, are the array's entries. Lua's names, and what it
checks of a head that it reads, are written from this declaration (:func:`lua`) and put before ``_lib.lua``.
"""

from __future__ import annotations

import functools

import msgspec


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A step's head as the journal holds it; docs/redis.md says what the entries mean. Times are µs.

    A new field goes to the end, with a value that it has where it is absent: fleets hold heads of earlier
    versions, and workers of the version before read those of this one. With ``None`` for that value Lua meets
    it as nil. Kind, lane and state stay the first three: ``_mend.lua`` reads them from the packed array.
    """

    kind: str
    lane: str
    state: str
    attempt: int
    base: float
    since: int
    rank: float
    ready: int
    started: int
    ended: int
    order: int
    worker: str
    digest: str
    label: str
    lost: int
    tries: int
    est: int
    after: int
    counted: int
    level: float
    group: str
    policy: str
    cost: int
    charged: float
    capped: int
    token: str
    back: int
    first: int = 0
    passed: int | None = None
    rejected: str | None = None
    once: str | None = None
    code: str | None = None


unpack_head = msgspec.msgpack.Decoder(Head).decode
"""A head from what the hash holds. Raises :class:`msgspec.MsgspecError` where it is none."""

_GIVEN = ("kind", "lane", "state", "label")
"""What a new head is made with; all else is 0 or '' at first."""


@functools.cache
def lua() -> str:
    """The Lua of it: ``H`` (entries by name), ``unpacked`` (a head that is sound, else nil) and ``new_head``.

    The test of each entry is written out: every verb reads heads, and a loop over types takes twice as long.
    What is no number cannot be compared with one, and pcall says so.
    """
    entries, filled, tests, new = [], [], [], []
    for at, field in enumerate(msgspec.structs.fields(Head), 1):
        entries.append(f"{field.name} = {at}")
        if field.default is None:
            continue
        text = field.type is str
        tests.append(f"type_of(h[{at}]) == 'string'" if text else f"h[{at}] < INF")
        new.append(field.name if field.name in _GIVEN else "''" if text else "0")
        if not field.required:
            filled.append(f"  h[{at}] = h[{at}] or {field.default}")
    return _LUA.format(
        entries=_lines(entries, ", "),
        filled="\n".join(filled),
        tests=_lines(tests, " and "),
        given=", ".join(_GIVEN),
        new=_lines(new, ", "),
    )


def _lines(parts: list[str], between: str) -> str:
    """Six to a line."""
    rows = [between.join(parts[at : at + 6]) for at in range(0, len(parts), 6)]
    return f"{between.rstrip()}\n    ".join(rows)


_LUA = """-- Written by aios_dist/journal/heads.py.
local H = {{
    {entries} }}

local unpacked
do
local open_pack, type_of, INF
local function sound(packed)
  local h = open_pack(packed)
{filled}
  if {tests} then return h end
end

-- A head from what the hash holds; nil where it holds none, or none that can be read.
unpacked = function(packed)
  if not packed then return nil end
  if not INF then -- (while a library is loaded, none of them is there)
    open_pack, type_of, INF = cmsgpack.unpack, type, math.huge
  end
  local ok, h = pcall(sound, packed)
  return ok and h or nil
end
end

local function new_head({given})
  return {{
    {new} }}
end
"""
