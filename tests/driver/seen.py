"""All that a fleet has in Redis, read in one round trip: what the checks and the model compare.

How a lease is named is written here and nowhere else in these tests.
"""

from __future__ import annotations

import copy
import functools
import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from aios_dist.journal import heads
from aios_dist.journal.texts import texts_in
from aios_dist.model.texts import referred

OPEN = frozenset({"waiting", "running", "paused"})
ENDED = frozenset({"done", "failed", "cancelled"})
TURN = "t"
CLOCK = "testclock"
FAIL = "testfail"


class Head(heads.Head, frozen=True):
    """A step's head, as the journal declares it."""

    def lease(self, job: str, step: str) -> str:
        """What its lease is called while it is held."""
        return f"{job}/{step}#{self.attempt}.{self.token}"

    def __repr__(self) -> str:
        return f"<{self.kind} {self.label} on {self.lane}: {self.state} #{self.attempt}>"


_HEAD = msgspec.msgpack.Decoder(Head)


@functools.lru_cache(maxsize=20_000)
def unpack(packed: bytes) -> Head:
    """A head from what the hash holds.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _HEAD.decode(packed)


class Lease(NamedTuple):
    """The parts of a lease's name."""

    job: str
    step: str
    attempt: int
    token: str


def lease_of(name: str) -> Lease:
    """A lease's name, taken apart."""
    place, _, claim = name.rpartition("#")
    job, _, step = place.rpartition("/")
    attempt, _, token = claim.partition(".")
    return Lease(job, step, int(attempt), token)


class JobSeen:
    """One job's hash."""

    def __init__(self, flat: list[bytes]) -> None:
        self.flat = flat
        raw = dict(zip(flat[::2], flat[1::2], strict=True))
        self.texts = texts_in(raw)
        self.fields = fields = {k.decode(): v for k, v in raw.items() if k[1:] not in self.texts}
        self.heads: dict[str, Head] = {}
        self.unreadable: list[str] = []
        for f, v in fields.items():
            if f == "ht" or (f[0] == "h" and f[1:].isdigit()):
                try:
                    self.heads[f[1:]] = unpack(v)
                except (ValueError, TypeError, msgspec.MsgspecError):
                    self.unreadable.append(f)

    def text(self, field: str) -> str:
        """A field as text, empty where it is absent."""
        return self.fields.get(field, b"").decode(errors="replace")

    def number(self, field: str) -> int:
        """A field as a number, 0 where it is absent."""
        return int(self.fields.get(field, 0))

    def paid(self) -> set[str]:
        """What has counted: outcomes, and the claims whose answers came too late."""
        return {*self.outcomes(), *(f for f in self.fields if f.startswith("u|"))}

    def money(self) -> float:
        """Millionths of money."""
        return float(self.fields.get("um", 0))

    @property
    def state(self) -> str:
        """The job's state."""
        return self.text("st")

    def follows(self, step: str) -> bool:
        """Whether the step stands where the job's state says: those of a wide job come to it one by one."""
        at = self.text("sw")
        return not at or step == TURN or (at.isdigit() and int(step) < int(at))

    @property
    def tenant(self) -> str:
        """On whose behalf it runs."""
        return self.text("who").partition("|")[0] or "default"

    def outcomes(self) -> dict[str, bytes]:
        """Outcomes by step."""
        return {f[1:]: v for f, v in self.fields.items() if f[0] == "o" and f[1:].isdigit()}


# Everything below the prefix: key, type, value, time to live. The stream of ends only behind ARGV[2].
DUMP = """
local out = {}
for _, k in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local t, v = redis.call('TYPE', k).ok, ''
  if t == 'hash' then v = redis.call('HGETALL', k)
  elseif t == 'zset' then v = redis.call('ZRANGE', k, 0, -1, 'WITHSCORES')
  elseif t == 'list' then v = redis.call('LRANGE', k, 0, -1)
  elseif t == 'set' then v = redis.call('SMEMBERS', k)
  elseif t == 'string' then v = redis.call('GET', k)
  elseif t == 'stream' then v = redis.call('XRANGE', k, '(' .. ARGV[2], '+') end
  out[#out + 1] = {k, t, v, redis.call('PTTL', k)}
end
return out
"""


class Seen:
    """A fleet's keys. ``sets`` are sorted sets by kind and name (``sets["ready"]["llm|t0"]``), ``hashes``
    likewise; ``one`` are those without a name (``leases``); ``ends`` what the stream said since last time.
    """

    def __init__(self, dump: list[Any], prefix: str, before: Seen | None = None) -> None:
        self.jobs: dict[str, JobSeen] = {}
        self.plans: dict[str, dict[str, bytes]] = {}
        self.events: dict[str, list[bytes]] = {}
        self.sets: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
        self.hashes: dict[str, dict[str, dict[str, bytes]]] = defaultdict(dict)
        self.one: dict[str, dict[str, float]] = defaultdict(dict)
        self.texts: dict[str, bytes] = {}
        self.ttl: dict[str, int] = {}
        self.ends: list[tuple[str, dict[str, str]]] = []
        self.odd: list[str] = []
        self.swept: set[str] = set()
        for raw, kind, value, ttl in dump:
            key = raw.decode()[len(prefix) :]
            first, _, name = key.partition(":")
            self.ttl[key] = ttl
            if kind == b"hash" and first == "job":
                known = before.jobs.get(name) if before else None
                self.jobs[name] = known if known and known.flat == value else JobSeen(value)
            elif kind == b"hash":
                fields = {k.decode(): v for k, v in zip(value[::2], value[1::2], strict=True)}
                if first == "plan":
                    self.plans[name] = fields
                else:
                    self.hashes[first][name] = fields
            elif kind == b"zset":
                scores = {m.decode(): float(s) for m, s in zip(value[::2], value[1::2], strict=True)}
                if name:
                    self.sets[first][name] = scores
                else:
                    self.one[first] = scores
            elif kind == b"list" and first == "ev":
                self.events[name] = value
            elif kind == b"stream":
                self.ends = [
                    (id.decode(), {k.decode(): v.decode() for k, v in zip(f[::2], f[1::2], strict=True)})
                    for id, f in value
                ]
            elif kind == b"string":
                self.texts[key] = value
            elif kind != b"list":
                self.odd.append(f"{key} is a {kind.decode()}")

    def odd_texts(self) -> list[str]:
        """What is wrong with what jobs refer to: that must be there."""
        wrong: list[str] = []
        for id, job in self.jobs.items():
            documents = [v for f, v in job.fields.items() if re.fullmatch(r"(z\d+\|)?[qo]\d+", f)]
            lacking = [
                a for d in (*documents, *job.texts.values()) for a in referred(d) if a not in job.texts
            ]
            if lacking:
                wrong.append(f"{id}: {len(lacking)} texts are not there that it refers to")
            held = sum(len(v) for f, v in job.fields.items() if re.fullmatch(r"[qo]\d+", f))
            held += sum(map(len, job.texts.values()))
            if "zn" not in job.fields and "tb" in job.fields and not held <= job.number("tb") <= held + 4000:
                wrong.append(f"{id}: holds {held}, and it says {job.text('tb')}")
        return wrong

    @property
    def now(self) -> int:
        """The fleet's clock, µs."""
        return int(self.texts.get(CLOCK, 0))

    @property
    def broken_verbs(self) -> int:
        """How many verbs broke, and were mended."""
        return int(self.hashes["mended"].get("", {}).get("broken verbs", 0))

    def without(self, gone: Collection[str]) -> Seen:
        """The same, without these leases, and the places of steps of jobs with these ids that are not there.
        ``swept``: the models that such leases count against."""

        def live(m: str) -> bool:
            id = m.rpartition("/")[0]
            return m not in gone and (id in self.jobs or id not in gone)

        def alive(members: dict[str, float]) -> dict[str, float]:
            return {m: at for m, at in members.items() if live(m)}

        other = copy.copy(self)
        inflight = self.sets["inflight"].items()
        other.swept = {model for model, leases in inflight if len(alive(leases)) < len(leases)}
        other.one, other.sets = defaultdict(dict, self.one), defaultdict(dict, self.sets)
        for name in ("leases", "timers"):
            other.one[name] = alive(self.one[name])
        for kind in ("inflight", "in", "ready", "readyold", "held", "heldold", "stray", "astray"):
            other.sets[kind] = {name: alive(members) for name, members in self.sets[kind].items()}
        for kind in ("ready", "held"):  # a compartment where nothing else waits
            other.sets[f"{kind}by"] = {
                name: {t: at for t, at in tenants.items() if other.sets[kind].get(f"{name}|{t}")}
                for name, tenants in self.sets[f"{kind}by"].items()
            }
            other.sets[kind] = {name: members for name, members in other.sets[kind].items() if members}
        return other

    def spare(self, now: int, config: Any) -> int:
        """Until when no ended lease is taken: nobody had reconciled, so Redis may have been away."""
        last, _, spare = self.texts.get("beat", b"").decode().partition("|")
        quiet = max(config.lease - config.renew, 3.5 * config.reconcile) * 1e6
        if last and now - int(last) > quiet:
            return int(now + config.lease * 1e6)
        return int(spare or 0)

    def lane(self, name: str) -> tuple[str | None, int, bool]:
        """A lane's policy (None where nobody has said one), ``oldest_every``, and whether it is shared."""
        f = self.hashes["lane"].get(name, {})
        policy = f.get("policy")
        return (policy.decode() if policy else None, int(f.get("oldest", 0)), f.get("fair") == b"tenant")

    def comes(self, lane: str) -> bool:
        """Whether what waits or is held on a lane is being gathered for other rules."""
        fields = self.hashes["lane"].get(lane, {})
        return bool(fields.get("next")) or "look" in fields

    def astray(self, lane: str, m: str) -> bool:
        """Whether a held step of a lane is to be ranked anew, or may have still to be noted as such."""
        return m in self.sets["astray"].get(lane, ()) or "look" in self.hashes["lane"].get(lane, {})

    def model(self, name: str, field: str) -> float:
        """A number of a model, 0 where there is none."""
        return float(self.hashes["model"].get(name, {}).get(field, 0))

    def head(self, m: str) -> Head | None:
        """The head of ``JOB/STEP``; None where there is none."""
        id, _, step = m.rpartition("/")
        return self.jobs[id].heads.get(step) if id in self.jobs else None

    def fallbacks(self, name: str) -> list[str]:
        """The models that steps of this one go to, in their order."""
        chain = self.hashes["model"].get(name, {}).get("fb", b"").decode()
        return [pair.partition("|")[2] for pair in chain.split()]

    def keeps_waiting(self, name: str, now: int) -> bool:
        """Its breaker is open, or it is on hold for longer than its steps wait for."""
        left = self.model(name, "hold") - now
        after = float(self.hashes["model"].get(name, {}).get("fba", 60_000_000))
        return left > 0 and (self.model(name, "brk") == 1 or left > after)

    def places(self) -> dict[str, list[tuple[str, str]]]:
        """Where each step waits: ``(kind of set, its name)`` of all sets in which it may."""
        found: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for kind in ("ready", "stray", "held"):
            for name, members in self.sets[kind].items():
                for member in members:
                    found[member].append((kind, name))
        for member in self.one["timers"]:
            if not member.endswith("/!"):
                found[member].append(("timers", ""))
        return found
