"""A chaos run: submit, kill, restart, put back, delete, wait for the end, weigh the evidence."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import redis

from aios_dist import Fleet
from aios_dist.broker.app import keyprefix
from aios_dist.journal.keys import Keys
from tests.chaos.evidence import weigh
from tests.chaos.findings import Done
from tests.chaos.load import Load
from tests.chaos.looking import Sampler, left_over
from tests.chaos.machines import BEFORE, FLEET, LIMITS, MODEL, Machines
from tests.chaos.people import (
    Deployer,
    Forgetter,
    Operator,
    Pauser,
    Person,
    Producer,
    ProducerBefore,
    Retrier,
    Reuser,
    Reviewer,
    Vandal,
)
from tests.chaos.report import Report
from tests.chaos.slow import Slowness, busy
from tests.chaos.stories import read_jobs

TICK_S = 0.05
SETTLE_S = 10.0
LAPSE_S = 1.0
"""How old the snapshot is that Redis is put back to."""
BEHIND_S = 0.5
"""By how much a worker may be behind what Redis has told it, on a machine with nothing else to do."""
RULE_KEYS = ("rules", "model:*", "lane:*", "tenant:*")
SAID_AGAIN_S = 2 * FLEET.reconcile + FLEET.renew
"""Within this, what ``aios.toml`` says holds again: two passes of the reconciler and a renewal."""


@dataclass(frozen=True)
class Options:
    """What a run is to be.

    Attributes:
        jobs: of 3 to 8 steps.
        odd: so many more of each odd kind: tools that raise, signals sent twice, retries, ids used again.
        seconds: the most that it may take, from the first job submitted.
        kill_every: seconds between kills of workers, at the least.
        redis_restarts: one of them a crash.
        put_back: how often Redis comes back as it was a second before.
        flushes: how often all rules are deleted.
        rollouts: how often other code of the agents comes, and what was before comes back.
        before: jobs of a producer of the release before this one; a worker of it serves, too. 0: neither.
        vandal: what is no ticket and no message is sent all the time.
        pause_every: seconds from the end of one stop of a worker to the next; 0: none.
        forget_every: seconds after which the lines of a worker to Redis swallow what is sent; 0: never.
        loaded: a loop computes on every core beside.
        seed: of jobs, faults and victims.
    """

    jobs: int = 600
    odd: int = 28
    seconds: float = 600.0
    kill_every: float = 3.0
    redis_restarts: int = 3
    put_back: int = 1
    flushes: int = 1
    rollouts: int = 1
    before: int = 60
    vandal: bool = True
    pause_every: float = 8.0
    forget_every: float = 12.0
    loaded: bool = False
    seed: int = 0


@dataclass
class Agenda:
    """What is done at which part of the work (0 to 1), in this order."""

    items: list[tuple[float, str]] = field(default_factory=list)

    @classmethod
    def of(cls, options: Options) -> Agenda:
        """Each kind evenly over the run, and none at the same time as another."""
        items = []
        for place, (what, count) in enumerate(
            (
                ("restart", options.redis_restarts),
                ("flush", options.flushes),
                ("put back", options.put_back),
                ("deploy", 2 * options.rollouts if options.odd else 0),
            )
        ):
            items += [((n + 1) / (count + 1) + 0.06 * place, what) for n in range(count)]
        return cls(sorted(items))

    def due(self, part: float) -> str:
        """What is to be done now, if anything."""
        return self.items.pop(0)[1] if self.items and part >= self.items[0][0] else ""


def run(options: Options, say: Callable[[str], None] = lambda _: None) -> Report:
    """One run, bounded in time; everything that it started has ended when it returns."""
    with (
        _quiet(),
        Slowness() as slowness,
        busy() if options.loaded else contextlib.nullcontext(),
        Machines(seed=options.seed, before=options.before > 0) as machines,
        Fleet(machines.config) as fleet,
    ):
        return Run(options, machines, fleet, say).report(slowness)


class Run:
    """One run, while it happens."""

    def __init__(
        self, options: Options, machines: Machines, fleet: Fleet, say: Callable[[str], None]
    ) -> None:
        self.options, self.machines, self.say = options, machines, say
        self._trace = machines.dir / "trace"
        self._trace.touch()
        self.load = load = Load(options.jobs, options.seed, str(self._trace), options.odd, options.before)
        self.keys = Keys(machines.config.fleet.name)
        self.sampler = Sampler(self.keys)
        self.producer = Producer(machines, fleet, load.batches)
        self.reuser = Reuser(machines, fleet, load.lives, load.promises)
        reviewed = [p.job for p in load.promises.values() if p.kind == "reviewed"]
        deployed = [p.job for p in load.promises.values() if p.kind == "deployed"]
        self.deployer = Deployer(machines, fleet, deployed, options.rollouts)
        self.people: list[Person] = [
            self.producer,
            self.reuser,
            self.deployer,
            Operator(machines, fleet),
            Retrier(machines, fleet, load.refused),
            Reviewer(machines, fleet, reviewed),
        ]
        self.before = ProducerBefore(machines, fleet, load.before) if options.before else None
        if self.before is not None:
            self.people.append(self.before)
        if options.pause_every:
            self.people.append(Pauser(machines, fleet, options.seed, options.pause_every))
        if options.forget_every:
            self.people.append(Forgetter(machines, fleet, options.forget_every))
        if options.vandal:
            self.people.append(Vandal(machines, fleet))
        self.flushed_at: list[float] = []
        ids = {p.job for p in load.promises.values()}
        self.ids = sorted(ids)
        self._still = sorted(ids - {one.id for one, _ in load.lives} - {job.id for job in load.refused})

    def report(self, slowness: Slowness) -> Report:
        """Do it, and weigh what it has left."""
        for person in self.people:
            person.start()
        self.say(f"{len(self.ids)} ids; a worker killed every {self.options.kill_every:g} s")
        unfinished = self._drive()
        for person in self.people:
            person.stop()
        for person in self.people:
            person.join(SETTLE_S)
        slow = slowness.stop()
        left = self._settle(slow)
        machines, producer = self.machines, self.producer
        with machines.client() as client:
            jobs = [*read_jobs(client, self.keys, self.ids), *self.reuser.stories.values()]
            self.sampler.look(client, self._still, len(self._still))
            limits_at_end = [
                f"{name}: {value!r} in the place of {most}"
                for name, most in LIMITS.items()
                if (value := client.hget(self.keys.model(name), "l_if")) != b"%d" % most
            ]
        runs = [line.split()[:2] for line in self._trace.read_text().splitlines()]
        done = Done(
            seed=self.options.seed,
            kills=machines.kills,
            outages=machines.outages,
            attempts=MODEL.attempts,
            slack_s=BEHIND_S * slow,
            limits=LIMITS,
            unlimited=self._unlimited(slow),
            pauses=machines.pauses,
            farewells=machines.farewells,
            silences=machines.silences,
        )
        before = len(self.before.ids) if self.before is not None else 0
        timed_runs, calls = [(job, float(at)) for job, at in runs], machines.calls()
        told: list[object] = [
            *machines.kills,
            *machines.outages,
            *machines.pauses,
            f"deleted at {self.flushed_at}",
            *jobs,
            *calls,
        ]
        return Report(
            found=weigh(jobs, self.load.promises, calls, timed_runs, done),
            jobs=len(producer.ids) + before,
            kills=len(machines.kills),
            outages_s=[outage.end - outage.start for outage in machines.outages],
            parked=len(self.deployer.parked),
            put_back=sum(outage.lost_from is not None for outage in machines.outages),
            told=len(producer.told) + (before if self.before is not None and self.before.finished else 0),
            changed=self.sampler.changed,
            samples=self.sampler.looks,
            left=left,
            limits_at_end=limits_at_end,
            deserters=machines.deserters,
            slowness=slow,
            people={**{person.name: person.done for person in self.people}, "ids cut": self.reuser.cut},
            before=sum(attempt.worker.startswith(f"{BEFORE}.") for job in jobs for attempt in job.attempts()),
            trouble=[line for person in self.people for line in person.trouble],
            unfinished=unfinished,
            logs={**machines.logs(), "evidence.txt": "\n".join(map(repr, told))},
        )

    def _unlimited(self, slow: float) -> list[tuple[float, float]]:
        """When limits need not hold, with the calls that began then: none takes longer than its time-out."""
        after = MODEL.timeout + BEHIND_S * slow
        gaps = [(at, at + SAID_AGAIN_S + BEHIND_S * slow + after) for at in self.flushed_at]
        # The calls of a worker that is stopped are in flight for longer than anybody counts them.
        gaps += [(pause.start, pause.end + after) for pause in self.machines.pauses]
        # What Redis has forgotten is called again while the first call is still in flight.
        return gaps + [(o.lost_from, o.end + after) for o in self.machines.outages if o.lost_from is not None]

    def _drive(self) -> list[str]:
        """Kill, restart and so on until all is done or the time is up; gives who has not finished.

        A worker is killed at the earliest when all have come back: a slow machine would never do any work.
        """
        options, machines, producer = self.options, self.machines, self.producer
        end = time.monotonic() + options.seconds
        next_kill = time.monotonic() + options.kill_every
        next_word, agenda = time.monotonic() + 10.0, Agenda.of(options)
        with machines.client() as client:
            while time.monotonic() < end and all(person.is_alive() for person in self.people):
                machines.look()
                all_up = all(place.ready for place in machines.places)
                if time.monotonic() >= next_kill and all_up and machines.kill_one():
                    next_kill = max(next_kill + options.kill_every, time.monotonic())
                self._do(agenda.due(len(producer.told) / len(producer.ids)), client)
                with contextlib.suppress(redis.ConnectionError):  # the connection that the restart has cut
                    self.sampler.look(client, self._still)
                    if not agenda.items and all(p.finished for p in self.people) and self._all_ended(client):
                        return []
                if time.monotonic() >= next_word:
                    next_word += 10.0
                    self.say(f"{len(producer.told)} jobs ended, {len(machines.kills)} kills")
                time.sleep(TICK_S)
        late = [f"{person.name} has not finished" for person in self.people if not person.finished]
        return [*late, *(f"{person.name} broke down" for person in self.people if not person.is_alive())]

    def _all_ended(self, client: redis.Redis) -> bool:
        """Also those whose end Redis has forgotten."""
        return not client.zcard(self.keys.open)

    def _do(self, what: str, client: redis.Redis) -> None:
        machines = self.machines
        if what == "deploy":
            machines.deploy()
            self.say(f"deploy {machines.deploys}; {len(self.deployer.parked)} jobs were found parked so far")
            return
        if what == "restart":
            # One of them a crash: the second, or the only one.
            plain = [outage for outage in machines.outages if outage.lost_from is None]
            machines.restart_redis(kill=len(plain) == min(1, self.options.redis_restarts - 1))
        elif what == "put back":
            taken_at = machines.take_snapshot()
            time.sleep(LAPSE_S)
            machines.put_back(taken_at)
            self.sampler.forget()
            for person in self.people:
                person.forgotten(taken_at)
        elif what == "flush":
            self.flushed_at.append(time.time())
            names = [key for rule in RULE_KEYS for key in client.scan_iter(match=self._pattern(rule))]
            client.delete(*names)
            self.say(f"{len(names)} keys of rules deleted")
            return
        if what:
            away = machines.outages[-1]
            self.say(f"Redis was away for {away.end - away.start:.2f} s ({what})")

    def _pattern(self, name: str) -> str:
        return self.keys.prefix.replace("{", "[{]").replace("}", "[}]") + name

    def _settle(self, slow: float) -> list[str]:
        """What is left when there is nothing more to do: spare tickets are taken, holds end."""
        end = time.monotonic() + SETTLE_S * slow
        with self.machines.client() as client:
            while True:
                self.machines.look()
                left = left_over(client, self.keys, keyprefix(self.machines.config.fleet.name))
                if not left or time.monotonic() > end:
                    return left
                time.sleep(TICK_S)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the producer says of a Redis that is away is no news here."""
    ours = logging.getLogger("aios_dist")
    level = ours.level
    ours.setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.setLevel(level)
