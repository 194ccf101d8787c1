"""The journal with its Lua changed in memory: a clock that the test moves, planted bugs, errors at writes."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

from aios_dist.config import FleetConfig
from aios_dist.journal import Journal, scripts
from aios_dist.journal.calling import Way
from aios_dist.journal.scripts import Script
from aios_dist.model.texts import Sizes
from tests.driver.seen import CLOCK, FAIL

# In front of the verbs. Redis' clock is a key that the driver sets, so that a run repeats exactly and an hour
# passes at once. With FAIL set to k the verb ends with an error behind its k-th write. While a library is
# loaded, there is neither the Redis that a call has, nor most of Lua.
PRELUDE = f"""
local function real() return redis end
local planted = {{}} -- of this call
local READS = {{ EXISTS = 1, GET = 1, HEXISTS = 1, HGET = 1, HGETALL = 1, HKEYS = 1, HLEN = 1, HMGET = 1,
  HRANDFIELD = 1, HSCAN = 1, HSTRLEN = 1, LINDEX = 1, LLEN = 1, LPOS = 1, LRANGE = 1, OBJECT = 1,
  PTTL = 1, PUBLISH = 1, SCARD = 1, SISMEMBER = 1, SMEMBERS = 1, STRLEN = 1, TTL = 1, TYPE = 1, XLEN = 1,
  XRANGE = 1, ZCARD = 1, ZCOUNT = 1, ZMSCORE = 1, ZRANDMEMBER = 1, ZRANGE = 1, ZRANGEBYLEX = 1,
  ZRANGEBYSCORE = 1, ZRANK = 1, ZREVRANGE = 1, ZREVRANGEBYSCORE = 1, ZSCAN = 1, ZSCORE = 1, }}
local function through(how, command, ...)
  local api = real()
  if not planted.left then
    planted.prefix = planted.prefix or KEYS[1]
    planted.left = tonumber(api.call('GET', planted.prefix .. '{FAIL}') or '0')
  end
  if command == 'TIME' then
    local now = api.call('GET', planted.prefix .. '{CLOCK}')
    if now then
      local s = math.floor(tonumber(now) / 1000000)
      return {{ string.format('%.0f', s), string.format('%.0f', tonumber(now) - s * 1000000) }}
    end
  end
  local answer = api[how](command, ...)
  if planted.left > 0 and not READS[string.upper(command)] then
    planted.left = planted.left - 1
    if planted.left == 0 then error('planted behind ' .. command) end
  end
  return answer
end
local redis = {{
  call = function(...) return through('call', ...) end,
  pcall = function(...) return through('pcall', ...) end,
  sha1hex = function(text) return real().sha1hex(text) end,
  register_function = function(made)
    local verb = made.callback
    made.callback = function(keys, args)
      planted = {{ prefix = keys[1] }}
      return verb(keys, args)
    end
    real().register_function(made)
  end,
}}
"""


class Change(NamedTuple):
    """One change of the Lua's text.

    Attributes:
        name: what it breaks (or mends), in words.
        file: without ``.lua``.
        old: text that stands in the file exactly once.
        new: what it becomes.
    """

    name: str
    file: str
    old: str
    new: str


class Outdated(Exception):
    """The text that a change replaces is not in its file any more (or more than once): write it anew."""


def text_of(file: str) -> str:
    """A file of the verbs."""
    return resources.files("aios_dist.journal").joinpath("lua", f"{file}.lua").read_text(encoding="utf-8")


def changed(changes: Iterable[Change]) -> dict[str, str]:
    """The files' new texts.

    Raises:
        Outdated: a text is not there.
    """
    texts: dict[str, str] = {}
    for change in changes:
        text = texts.get(change.file) or text_of(change.file)
        if text.count(change.old) != 1:
            raise Outdated(f"{change.name}: {change.file}.lua has {text.count(change.old)} × {change.old!r}")
        texts[change.file] = text.replace(change.old, change.new)
    return texts


def verbs(changes: Iterable[Change] = ()) -> dict[str, Script]:
    """All verbs with the test's clock, and with these changes."""
    texts = changed(changes)
    return scripts.assemble(scripts.load(), lambda name: texts.get(name) or text_of(name), PRELUDE)


TINY = Sizes(whole=0, long=9, short=24, listed=3, least=1, most=3)
"""Documents of some words are taken apart as long ones are."""


def journal(config: FleetConfig, changes: Iterable[Change] = (), *, functions: bool = True) -> Journal:
    """A journal of that fleet, its verbs functions or scripts. Call it in the event loop that uses it."""
    made = Journal(config)
    made._scripts = verbs(changes)
    made.apart, made.sizes = True, TINY
    made.connection.way = Way(functions)
    return made
