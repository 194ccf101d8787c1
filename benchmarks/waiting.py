"""What waits behind a claim: its time with a thousand to a million steps, and their memory in Redis.

A million jobs through ``submit`` take minutes. So up to ten thousand of a lane are submitted; those beyond
are copies of them, which Redis makes in every place where a submitted one stands: as keys, as memory and to
a claim they are what the others are. They wait behind the others.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import redis

from aios_dist import agent, llm
from aios_dist.broker.app import Tickets
from aios_dist.config import Config, FleetConfig, LaneConfig, ModelConfig
from aios_dist.journal import Journal, NewJob, Ticket
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.model.jobs import JobRecord
from aios_dist.program import turns

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SUBMITTED = 10_000
ROUNDS, CLAIMS = 20, 20
"""So many claims at each size in each round: the sizes take turns, so that a busy machine slows all alike."""

QUESTION = "What should a traveller who has one day in this city see, in which order, and why? " * 3
LANE = "llm"
CHUNK, COPIED = 500, 1_000
"""Jobs in one ``submit``; copies made in one call."""

COPY = """
-- KEYS: the keys that are the job's own, the sorted sets that it stands in, the list of tickets
-- ARGV: the job, its ticket, number of the first copy, of the last, keys of its own, member of each set …
local pattern, count = string.gsub(ARGV[1], '%-', '%%-'), tonumber(ARGV[5])
for n = tonumber(ARGV[3]), tonumber(ARGV[4]) do
  local id = string.format('bench-%012d', n)
  local function copied(text) return (string.gsub(text, pattern, id)) end
  for i = 1, count do redis.call('COPY', KEYS[i], copied(KEYS[i])) end
  for i = count + 1, #KEYS - 1 do
    local member = ARGV[5 + i - count]
    local score = redis.call('ZSCORE', KEYS[i], member)
    redis.call('ZADD', KEYS[i], string.format('%.17g', tonumber(score) + n), copied(member))
  end
  redis.call('LPUSH', KEYS[#KEYS], copied(ARGV[2]))
end
"""


class Rules(NamedTuple):
    """Who goes first on the lane, and how many tenants its steps are of."""

    policy: str
    oldest_every: int = 0
    fair: str = ""
    tenants: int = 1

    def __str__(self) -> str:
        aged = f", oldest_every {self.oldest_every}" if self.oldest_every else ""
        return self.policy + aged + (f", fair to {self.tenants} tenants" if self.fair else "")


RULES = (
    Rules("fifo"),
    Rules("las", oldest_every=10),
    Rules("las", oldest_every=10, fair="tenant", tenants=100),
)


class Claims(NamedTuple):
    """Some claims in a row: time in Redis for each on the mean, and to the caller for the median one."""

    redis_us: float
    caller_us: float


@agent(name="bench-waiting")
async def tour(city: str) -> str:
    """Its input is small: an agent that is data keeps its prompts in its record as well, once more."""
    return (await llm(f"{QUESTION} The city is {city}.")).text


def waiting() -> list[dict[str, Any]]:
    """A claim behind so many steps, and their bytes beyond the prompt."""
    rows = []
    for rules in RULES:
        with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
            rows += asyncio.run(_under(rules, server.url, client))
    return rows


async def _under(rules: Rules, url: str, client: redis.Redis) -> list[dict[str, Any]]:
    lanes = [Lane(rules, size, url, client) for size in SIZES]
    try:
        for lane in lanes:
            await lane.fill()
        seen: list[list[Claims]] = [[] for _ in lanes]
        for _ in range(1 + ROUNDS):
            for lane, claims in zip(lanes, seen, strict=True):
                claims.append(await lane.claim())
        return [_row(lane, claims[1:], seen[0][1:]) for lane, claims in zip(lanes, seen, strict=True)]
    finally:
        for lane in lanes:
            await lane.journal.close()


def _row(lane: Lane, claims: Sequence[Claims], first: Sequence[Claims]) -> dict[str, Any]:
    pairs = zip(claims, first, strict=True)
    return {
        "load": f"{lane.rules}; {lane.size:,} wait"
        + (f" ({lane.copies:,} are copies)" if lane.copies else ""),
        "claim_us": statistics.median(c.redis_us for c in claims),
        "ratio_to_1000": statistics.median(own.redis_us / other.redis_us for own, other in pairs),
        "caller_us": statistics.median(c.caller_us for c in claims),
        **lane.bytes,
    }


class Lane:
    """A fleet whose one lane so many steps wait on while others are claimed from it."""

    def __init__(self, rules: Rules, size: int, url: str, client: redis.Redis) -> None:
        config = Config(
            fleet=FleetConfig(name=f"wait{size}", redis_url=url),
            models={"small": ModelConfig(lane=LANE)},
            lanes={LANE: LaneConfig(policy=rules.policy)},
        )
        self.rules, self.size, self.client = rules, size, client
        self.copies = max(0, size - SUBMITTED)
        self.bytes: dict[str, float | None] = {}
        self.journal = Journal(config.fleet)
        self._tickets = Tickets(config)
        names = [f"tenant-{n:02}" for n in range(rules.tenants)] if rules.fair else ["default"]
        self.records = [JobRecord(tour.name, {"city": "Lima"}, name) for name in names]
        catalog = turns.Catalog.of(config)
        replay = turns.start(tour.program(self.records[0].input), catalog)
        self.decision = turns.decide(replay, self.records[0], catalog, 0)
        replay.close()

    async def fill(self) -> None:
        """Let the steps wait, and those that will be claimed before them; note what they take of Redis."""
        policy, oldest, fair, _ = self.rules
        await self.journal.set_lane(LANE, policy=policy, oldest_every=oldest, fair=fair)
        submitted = self.size - self.copies + (1 + ROUNDS) * CLAIMS
        await self._submit(0, 1)  # the scripts are there
        before = self.client.info("memory")["used_memory"]
        for at in range(1, submitted, CHUNK):
            await self._submit(at, min(submitted, at + CHUNK))
        sources = len(self.records)
        places = self._places([_name(n) for n in range(submitted - sources, submitted)])
        for at in range(submitted, submitted + self.copies, COPIED):
            self._copy(*places[at // COPIED % sources], at, min(submitted + self.copies, at + COPIED) - 1)
        self.client.delete(self.journal.keys.waits)  # nobody has counted the copies
        taken = self.client.info("memory")["used_memory"] - before
        self._weigh(taken, submitted + self.copies - 1)

    @property
    def tickets(self) -> str:
        """The list of the lane's tickets."""
        return self._tickets.key(LANE)

    async def claim(self) -> Claims:
        """Claim some steps, one after the other."""
        took = []
        before = self._in_redis_us()
        for _ in range(CLAIMS):
            start = time.perf_counter()
            claim = await self.journal.claim(LANE, "bench")
            took.append(1e6 * (time.perf_counter() - start))
            assert claim is not None
        return Claims((self._in_redis_us() - before) / CLAIMS, statistics.median(took))

    def _in_redis_us(self) -> float:
        return float(self.client.info("commandstats")["cmdstat_fcall"]["usec"])

    async def _submit(self, first: int, beyond: int) -> None:
        numbers = range(first, beyond)
        jobs = [NewJob(_name(n), self.records[n % len(self.records)], self.decision) for n in numbers]
        await self.journal.submit(
            jobs, then=self._tickets.commands(Ticket(LANE, job.id, "0") for job in jobs)
        )

    def _sets(self) -> list[str]:
        found = self.client.scan_iter(f"{self.journal.keys.prefix}*", count=1000, _type="zset")
        return [key.decode() for key in found]

    def _places(self, jobs: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """Each job with the sorted sets that it stands in, and as what."""
        sets = self._sets() if self.copies else []
        places = []
        for job in jobs:
            members = [(key, member) for key in sets for member in (job, f"{job}/0")]
            with self.client.pipeline(transaction=False) as pipe:
                for key, member in members:
                    pipe.zscore(key, member)
                scores = pipe.execute()
            places.append((job, {k: m for (k, m), s in zip(members, scores, strict=True) if s is not None}))
        return places

    def _copy(self, job: str, sets: dict[str, str], first: int, last: int) -> None:
        own = [self.journal.keys.job(job), self.journal.keys.events(job)]
        _, tickets, ticket = self._tickets.command(Ticket(LANE, job, "0"))
        keys = [*own, *sets, tickets]
        self.client.eval(COPY, len(keys), *keys, job, ticket, first, last, len(own), *sets.values())

    def _weigh(self, taken: int, count: int) -> None:
        """A step's bytes beyond its prompt, in all and by kind; not for so few that a buffer would count."""
        keys, prompt = self.journal.keys, len(self.decision.steps[0].step.request)
        names = [_name(n) for n in range(1, count, max(1, count // 100))]
        kinds = {
            "bytes": taken / count - prompt,
            "job": statistics.mean(self._size(keys.job(name)) for name in names) - prompt,
            "events": statistics.mean(self._size(keys.events(name)) for name in names),
            "ticket": self._size(self._tickets.key(LANE)) / count,
            "sets": sum(map(self._size, self._sets())) / count,
        }
        kinds["else"] = 2 * kinds["bytes"] - sum(kinds.values())  # tables of keys, rounding by the allocator
        self.bytes.update(kinds if count > SUBMITTED else dict.fromkeys(kinds))

    def _size(self, key: str) -> int:
        return int(self.client.memory_usage(key, samples=0) or 0)  # type: ignore[arg-type]


def _name(number: int) -> str:
    return f"bench-{number:012}"
