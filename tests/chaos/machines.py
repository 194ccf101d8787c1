"""Machines that can be killed: Redis with an append-only file, a fake LLM with faults, workers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import redis

from aios_dist.config import Config, FleetConfig, ModelConfig, PoolConfig, TenantConfig
from aios_dist.local.config_file import write_config
from aios_dist.local.members import Launch, Member, WorkerSpec, environment
from aios_dist.local.redis_server import EmbeddedRedis
from tests.chaos.load import MODELS, OUTPUT
from tests.fleet.wire import Wire
from tests.releases import settings, settled, unpack

ROOT = Path(__file__).parents[2]
READY_S = 60.0
STOP_S = 10.0
"""What a worker may take to end beside the calls in flight."""
AOF = "appendonlydir"

FLEET = FleetConfig(
    name="chaos",
    modules=["tests.chaos.agents", "tests.chaos.changing"],
    lease=3.0,  # the default is 10 s: shorter, so that a run of a minute sees many leases end
    renew=1.0,
    reconcile=0.5,
    shutdown_grace=5.0,
    redis_timeout=1.0,  # less than lease - renew, so that a line which nobody hears costs no lease
)
MODEL = ModelConfig(
    timeout=3.0,  # a hung call is given up after this
    attempts=10,  # 15 % of all calls fail: ten in a row: one step in a hundred million
    backoff=0.1,
    backoff_max=1.0,
)
FAULTS = "500:0.05,429:0.05,hang:0.02,cut:0.01"
ODD = "200:0.02,odd:0.05"
"""What the release before this one takes for another thing than it is: it has an address without."""
BEFORE = "machine-3"
"""Where a worker of the release before this one runs."""
GIVEN = ("tests/chaos/agents.py", "tests/chaos/before.py")
"""What the release before this one is given of this checkout. It has no code of what it cannot park."""
RETRY_AFTER_S = 0.1
LATENCY = "lognormal:0.1,0.5"
# Every write is on the disk before it is answered. With `everysec` a SIGKILL of Redis alone loses nothing
# either that the kernel had taken, but the kernel may be asked a second late, and a machine may lose power:
# then answers come back that were acknowledged, and "nothing paid twice" could not be asserted exactly.
DURABLE = {"appendfsync": "always"}
NO_REWRITE = {"auto-aof-rewrite-percentage": "0"}
"""A snapshot is a copy of the files: they must not be changed for others meanwhile."""
LIMITS = {"m3": 4, "@corp": 8}
"""Calls at a time: of a model, and of a tenant."""


LOUD = {"PYTHONFAULTHANDLER": "1"}
"""A worker that ends by a fault of memory leaves the stack of each thread in its log."""


@dataclass
class Place:
    """Where a worker runs: its name, its pool, and whether it has the agents' code.

    Attributes:
        before: its worker is one of the release before this one, and stays what it is in a deploy.
    """

    name: str
    pool: str
    code: bool
    slots: int
    before: bool = False
    member: Member | None = None
    ready: bool = False
    lives: int = 0


@dataclass(frozen=True)
class Kill:
    """A worker that was killed, or was found to have ended. ``at``: Unix time, before the signal was sent."""

    at: float
    pid: int
    name: str


@dataclass(frozen=True)
class Pause:
    """A worker was stopped from ``start`` to ``end`` (Unix time), and went on."""

    start: float
    end: float
    pid: int


@dataclass(frozen=True)
class Farewell:
    """A worker that was replaced by another release: ``at``: Unix time, when it was gone."""

    at: float
    pid: int


@dataclass(frozen=True)
class Silence:
    """The lines of a worker to Redis swallowed what was sent, from then on (Unix time)."""

    at: float
    pid: int


@dataclass(frozen=True)
class Outage:
    """Redis was away from ``start`` to ``end`` (Unix time); ``lost_from``: it came back as it was then."""

    start: float
    end: float
    killed: bool
    lost_from: float | None = None


@dataclass
class Machines:
    """Two machines with an LLM worker each, and one worker with the tools and turns; where it is wanted, one
    more with a worker of the release before this one."""

    seed: int = 0
    before: bool = False
    keep_calls: int = 100_000
    kills: list[Kill] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    farewells: list[Farewell] = field(default_factory=list)
    silences: list[Silence] = field(default_factory=list)
    deserters: list[str] = field(default_factory=list)
    deploys: int = 0
    places: list[Place] = field(
        default_factory=lambda: [
            Place("machine-1", "llm", code=True, slots=16),
            Place("machine-2", "llm", code=False, slots=16),
            Place("machine-2-turns", "turns", code=True, slots=8),
        ]
    )

    def __enter__(self) -> Self:
        self.dir = Path(tempfile.mkdtemp(prefix="aios-chaos-"))
        self._dice = random.Random(self.seed)
        self._others: list[Member] = []
        if self.before:
            self.places.append(Place(BEFORE, "both", code=True, slots=12, before=True))
        self._release = 1
        self._lines = contextlib.ExitStack()
        self.redis = EmbeddedRedis(settings={**DURABLE, **NO_REWRITE})
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.redis.start(appendonly=True)
        here = Launch(self.dir, {**environment(self.dir / "aios.toml"), **LOUD}, ROOT)
        fakes = [
            self._start_llm(here, f"{FAULTS},{ODD}"),
            *([self._start_llm(here, FAULTS)] if self.before else []),
        ]
        written = r"^fake LLM on (\S+)/v1$"
        self.llms = [
            _until(functools.partial(fake.wrote, written), "the fake LLM did not start") for fake in fakes
        ]
        models = {
            name: msgspec.structs.replace(
                MODEL,
                base_url=f"{self.llms[0]}/v1",
                stream=bool(number % 2),
                max_in_flight=LIMITS.get(name, 0),
            )
            for number, name in enumerate(MODELS)
        }
        tenants = {
            name[1:]: TenantConfig(max_in_flight=most) for name, most in LIMITS.items() if name[0] == "@"
        }
        fleet = msgspec.structs.replace(FLEET, redis_url=self.redis.url)
        lanes = {"both": ["llm", "turns"]}
        pools = {p.pool: PoolConfig(lanes=lanes.get(p.pool, [p.pool]), slots=p.slots) for p in self.places}
        self.config = Config(fleet=fleet, models=models, pools=pools, tenants=tenants)
        write_config(self.config, self.dir / "aios.toml")
        bare = msgspec.structs.replace(self.config, fleet=msgspec.structs.replace(fleet, modules=[]))
        self._release_before = unpack(self.dir / "before", *GIVEN) if self.before else None
        self._launch: dict[str, Launch] = {}
        self._wires: dict[str, Wire] = {}
        self._files: dict[str, Path] = {}
        for place in self.places:
            self._connect(
                place, self._config_before() if place.before else self.config if place.code else bare
            )
            self._start_worker(place)
        _until(self.all_ready, "the workers did not start")

    def _start_llm(self, here: Launch, faults: str) -> Member:
        argv = ["--port", "0", "--latency", LATENCY, "--seed", str(self.seed), "--faults", faults]
        argv += ["--retry-after", str(RETRY_AFTER_S), "--keep-calls", str(self.keep_calls)]
        fake = here.start("fake-llm", ["-m", "aios_dist.testing", *argv, "--output-tokens", OUTPUT])
        self._others.append(fake)
        return fake

    def _config_before(self) -> Config:
        """As the release before this one has it: without what it cannot do."""
        replace, url = msgspec.structs.replace, f"{self.llms[-1]}/v1"
        models = {name: replace(model, base_url=url) for name, model in self.config.models.items()}
        fleet = replace(self.config.fleet, modules=["tests.chaos.agents"])
        return replace(self.config, fleet=fleet, models=models)

    def start_producer_before(self, work: list[Any]) -> Member:
        """A producer of the release before this one, which submits that: see ``tests.chaos.before``."""
        assert self._release_before is not None
        jobs, file = self.dir / "before.json", settings(self._config_before(), self.dir / "before.toml")
        jobs.write_text(json.dumps(work), encoding="utf-8")
        env = {**settled(self._release_before, file), **LOUD}
        there = Launch(self.dir, env, self._release_before, 3000)
        made = there.start("producer-before", ["-m", "tests.chaos.before", str(jobs)])
        self._others.append(made)
        return made

    def _connect(self, place: Place, config: Config) -> None:
        """A line of its own to Redis."""
        wire = self._wires[place.name] = self._lines.enter_context(Wire(self.redis.port))
        file = self.dir / f"{place.name}.toml"
        fleet = msgspec.structs.replace(config.fleet, redis_url=wire.url)
        (settings if place.before else write_config)(msgspec.structs.replace(config, fleet=fleet), file)
        self._files[place.name] = file
        self._launch_for(place)

    def _launch_for(self, place: Place) -> None:
        if place.before:
            assert self._release_before is not None
            env = {**settled(self._release_before, self._files[place.name]), **LOUD}
            self._launch[place.name] = Launch(self.dir, env, self._release_before, 2000)
            return
        account = () if place.code else (1000,)
        release = {"AIOS_CHAOS_RELEASE": str(self._release)}
        env = {**environment(self._files[place.name]), **LOUD, **release}
        self._launch[place.name] = Launch(self.dir, env, ROOT, *account)

    def __exit__(self, *_: object) -> None:
        members = [p.member for p in self.places if p.member is not None]
        for member in members:
            member.process.terminate()
        for member in members:
            member.stop(10.0)
        for member in self._others:
            member.kill()
        self._lines.close()
        self.redis.stop()
        shutil.rmtree(self.dir, ignore_errors=True)

    # Workers -------------------------------------------------------------------------------------------

    def _start_worker(self, place: Place) -> None:
        place.lives += 1
        place.ready = False
        spec = WorkerSpec(f"{place.name}.{place.lives}", place.pool, place.slots)
        place.member = self._launch[place.name].worker(spec)

    def look(self) -> None:
        """Which workers take tickets. One that ended by itself is started again, and told of."""
        for place in self.places:
            assert place.member is not None
            if place.member.ended:
                self.kills.append(Kill(time.time(), place.member.pid, place.member.name))
                code, words = place.member.process.returncode, place.member.last_words()
                self.deserters.append(f"{place.member.name}, exit code {code}: {words[-1500:]}")
                self._start_worker(place)
            place.ready = place.ready or place.member.is_ready

    def all_ready(self) -> bool:
        """Every worker takes tickets."""
        self.look()
        return all(place.ready for place in self.places)

    def kill_one(self) -> bool:
        """``kill -9`` of a worker drawn from the seed, and at once another in its place; False: none up."""
        up = [place for place in self.places if place.ready and place.member is not None]
        if not up:
            return False
        place = self._dice.choice(up)
        assert place.member is not None
        self.kills.append(Kill(time.time(), place.member.pid, place.member.name))
        place.member.kill()
        self._start_worker(place)
        return True

    def deploy(self) -> None:
        """Another release of the agents' code: new workers come beside the old ones, which then finish.

        One that is stopped just now, and does not end, is killed.
        """
        replaced = [place for place in self.places if not place.before]
        old = [place.member for place in replaced if place.member is not None]
        self._release = 3 - self._release
        for place in replaced:
            self._launch_for(place)
            self._start_worker(place)
        _until(self.all_ready, "a new release did not start")
        for member in old:
            member.process.terminate()
        for member in old:
            try:
                member.process.wait(FLEET.shutdown_grace + STOP_S)
            except subprocess.TimeoutExpired:
                self.kills.append(Kill(time.time(), member.pid, member.name))
                member.kill()
            self.farewells.append(Farewell(time.time(), member.pid))
        self.deploys += 1

    def pause_one(self, wait: Callable[[], object]) -> bool:
        """SIGSTOP of a worker drawn from the seed, until ``wait()`` returns; False: none up."""
        place = self._drawn()
        if place is None or place.member is None:
            return False
        pid, start = place.member.pid, time.time()
        try:
            os.kill(pid, signal.SIGSTOP)
            try:
                wait()
            finally:
                with contextlib.suppress(ProcessLookupError):  # killed meanwhile
                    os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        finally:
            self.pauses.append(Pause(start, time.time(), pid))
        return True

    def forget_lines(self) -> bool:
        """The lines that one worker has to Redis now swallow what is sent; nobody is told."""
        place = self._drawn()
        if place is None or place.member is None:
            return False
        self.silences.append(Silence(time.time(), place.member.pid))
        return self._wires[place.name].forget() > 0

    def _drawn(self) -> Place | None:
        up = [place for place in self.places if place.ready]
        return self._dice.choice(up) if up else None

    def restart_redis(self, kill: bool) -> None:
        """Away and back, with SIGTERM or SIGKILL."""
        start = time.time()
        if kill:
            self.redis.kill()
        self.redis.restart()
        self.outages.append(Outage(start, time.time(), kill))

    def take_snapshot(self) -> float:
        """Keep a copy of Redis' files; gives the time (Unix) before which all that was answered is in it."""
        at, files, copy = time.time(), self.redis.log.parent / AOF, self.dir / "snapshot"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(
            files, copy
        )  # a verb that is written meanwhile is in it whole, or cut off at the load
        return at

    def put_back(self, taken_at: float) -> None:
        """A power loss: Redis comes back as it was when the snapshot was taken."""
        start, files = time.time(), self.redis.log.parent / AOF
        self.redis.kill()
        shutil.rmtree(files)
        shutil.copytree(self.dir / "snapshot", files)
        self.redis.restart()
        self.outages.append(Outage(start, time.time(), killed=True, lost_from=taken_at))

    def accept_all(self) -> None:
        """The provider refuses nothing any more that it refused by what was asked."""
        self._script({"reply": None})

    def refuse(self, words: str) -> None:
        """The provider answers 400 to what has these words in it."""
        self._script({"reply": {words: {"fault": "400"}}})

    def _script(self, wanted: dict[str, Any]) -> None:
        for llm in self.llms:
            ask = urllib.request.Request(f"{llm}/script", json.dumps(wanted).encode(), method="POST")
            with urllib.request.urlopen(ask, timeout=60):
                pass

    # Looking -------------------------------------------------------------------------------------------

    def client(self) -> redis.Redis:
        """A connection to look at Redis with; answers are bytes."""
        return redis.Redis.from_url(self.redis.url, socket_timeout=10.0)

    def calls(self) -> list[dict[str, Any]]:
        """Every call that came to the fake LLMs."""
        fields = "number,model,messages,start,end,status,fault"
        calls: list[dict[str, Any]] = []
        for llm in self.llms:
            with urllib.request.urlopen(f"{llm}/calls?fields={fields}", timeout=60) as answer:
                calls += json.load(answer)["calls"]
        return calls

    def logs(self) -> dict[str, str]:
        """What each process wrote."""
        return {path.name: path.read_text(errors="replace") for path in sorted(self.dir.glob("*.log"))}


def _until(ready: Any, otherwise: str) -> Any:
    end = time.monotonic() + READY_S
    while not (got := ready()):
        if time.monotonic() > end:
            raise TimeoutError(otherwise)
        time.sleep(0.05)
    return got
