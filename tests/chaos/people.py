"""Those who use the fleet while it is in trouble, each in a thread: none of them minds an error."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import threading
import time
from collections.abc import Sequence
from typing import Any

import redis

from aios_dist import AiosError, Fleet
from aios_dist.broker.app import keyprefix
from aios_dist.errors import ResultTimeout, UnknownName
from aios_dist.journal.heads import unpack_head
from aios_dist.journal.keys import Keys
from aios_dist.model.specs import JobSpec
from tests.chaos.load import REFUSED, REVIEWS, Batch, Promise, review
from tests.chaos.machines import Machines
from tests.chaos.stories import JobStory, name_of, read_jobs
from tests.fleet.hostile import malformed
from tests.redis.test_control import MALFORMED

RULES: list[dict[str, Any]] = [
    {"policy": "las", "fair": "tenant"},
    {"policy": "round-robin"},
    {"policy": "priority", "fair": ""},
    {"policy": "remaining", "fair": "tenant", "oldest_every": 3},
    {"policy": "deadline"},
    {"policy": "fifo", "fair": "", "oldest_every": 0},
]
ENDED = (b"done", b"failed", b"cancelled")
REFUSE_S = 20.0
"""The provider refuses for this long at the most."""


class Person(threading.Thread):
    """Does the same again and again, until told to stop.

    Attributes:
        trouble: what it was told while it did.
        done: how often it did what it is for.
    """

    every_s = 0.5

    def __init__(self, machines: Machines, fleet: Fleet) -> None:
        super().__init__(name=type(self).__name__.lower(), daemon=True)
        self.trouble: list[str] = []
        self.done = 0
        self._machines, self._fleet = machines, fleet
        self._stopped = threading.Event()

    @property
    def finished(self) -> bool:
        """Nobody has to wait for it any more."""
        return True

    def run(self) -> None:
        """Once every so often."""
        with self._machines.client() as client:
            while not self._stopped.is_set():
                try:
                    self.once(client)
                except (AiosError, redis.RedisError, OSError) as error:  # Redis is away: the next time, then
                    self.trouble.append(f"{self.name}: {error}")
                self._stopped.wait(self.every_s)

    def once(self, client: redis.Redis) -> None:
        """What it does."""
        raise NotImplementedError

    def forgotten(self, since: float) -> None:
        """Redis has been put back: what was done since then (Unix time) may be undone."""

    def stop(self) -> None:
        """Do no more."""
        self._stopped.set()


class Operator(Person):
    """Changes the lane's rules all the time: policy, shares, every how-manieth goes to the oldest."""

    every_s = 1.0

    def __init__(self, machines: Machines, fleet: Fleet) -> None:
        super().__init__(machines, fleet)
        self._rules = itertools.cycle(RULES)

    def once(self, client: redis.Redis) -> None:
        """One change."""
        self._fleet.set_lane("llm", **next(self._rules))
        self.done += 1


class Producer(Person):
    """Submits while machines die, again with the same ids where it was not told, and waits for every end."""

    every_s = 0.1

    def __init__(self, machines: Machines, fleet: Fleet, work: Sequence[Batch]) -> None:
        super().__init__(machines, fleet)
        self.told: set[str] = set()
        self._work = list(work)
        self._at: dict[int, float] = {}
        self._next = 0
        self._again: list[int] = []
        self.ids = [job.id or "" for batch in work for job in batch.jobs]

    @property
    def finished(self) -> bool:
        """All is submitted, and it was told of every end."""
        return len(self.told) == len(self.ids) and not self._again

    def once(self, client: redis.Redis) -> None:
        """Submit a part; when there is none, wait for those that have not ended."""
        if self._again:
            self._submit(self._again[0])
            self._again.pop(0)
        elif self._next < len(self._work):
            self._submit(self._next)
            self._next += 1
        else:
            with contextlib.suppress(ResultTimeout):
                open_ = [self._fleet.job(id) for id in self.ids if id not in self.told]
                for job in self._fleet.as_completed(open_, timeout=2.0):
                    if job.status().ended:  # else it is parked
                        self.told.add(job.id)

    def _submit(self, number: int) -> None:
        self._at[number] = time.time()
        self._work[number].submit(self._fleet)
        self.done += 1

    def forgotten(self, since: float) -> None:
        """Submit again what may be unknown now."""
        late = [number for number, at in self._at.items() if at >= since - 0.5]
        self._again += late
        self.told -= {job.id or "" for number in late for job in self._work[number].jobs}


class ProducerBefore(Person):
    """A producer of the release before this one, in a process of its own: it submits and waits for itself.

    Attributes:
        ids: of its jobs.
    """

    def __init__(self, machines: Machines, fleet: Fleet, work: Sequence[tuple[str, list[Any]]]) -> None:
        super().__init__(machines, fleet)
        self.ids = [job["where"]["id"] for _, jobs in work for job in jobs]
        self._since = 0.0
        self._said = 0.0
        self._member = machines.start_producer_before(list(work))

    @property
    def finished(self) -> bool:
        """It has seen all of them ended, since Redis was last put back."""
        return self._said > self._since

    def once(self, client: redis.Redis) -> None:
        """Hear what it has said last."""
        self._member.check()
        said = re.findall(r"^all have ended at (\S+)$", self._member.log.read_text("utf-8"), re.MULTILINE)
        self.done = len(said)
        self._said = float(said[-1]) if said else 0.0

    def forgotten(self, since: float) -> None:
        """What it saw before is not so."""
        self._since = time.time()


class Reviewer(Person):
    """Sends each job its reviews, each twice under one id, again and again until the job has ended."""

    def __init__(self, machines: Machines, fleet: Fleet, ids: Sequence[str]) -> None:
        super().__init__(machines, fleet)
        self._all = list(ids)
        self._open = set(ids)

    def once(self, client: redis.Redis) -> None:
        """One round over all jobs."""
        for id in self._all:
            if id in self._open and not self._stopped.is_set():
                try:
                    taken = [self._send(id, n) for n in range(REVIEWS) for _ in (1, 2)]
                except UnknownName:
                    continue  # not submitted yet
                if not all(taken):
                    self._open.discard(id)

    def _send(self, id: str, number: int) -> bool:
        taken = self._fleet.job(id).signal("review", review(id, number), id=f"review-{number}")
        self.done += 1
        return taken

    def forgotten(self, since: float) -> None:
        """All of them once more."""
        self._open.update(self._all)


class Deployer(Person):
    """Lets jobs go on when the code of their agent has changed: they are parked.

    When the first release is back they end, without a call that the second one would have made.

    Attributes:
        parked: jobs that were found parked.
    """

    def __init__(self, machines: Machines, fleet: Fleet, ids: Sequence[str], rollouts: int) -> None:
        super().__init__(machines, fleet)
        self.parked: set[str] = set()
        self._waits = rollouts > 0
        self._ids = list(ids)
        self._open = set(ids)

    @property
    def finished(self) -> bool:
        """Each has ended."""
        return not self._open

    def once(self, client: redis.Redis) -> None:
        """One round over all jobs."""
        for id in self._ids:
            if id not in self._open or self._stopped.is_set() or (self._waits and not self._machines.deploys):
                continue
            try:
                taken = self._fleet.job(id).signal("go", "now", id="go")
                view = self._fleet.job(id).view()
            except UnknownName:
                continue  # not submitted yet
            self.done += taken
            if view.parked:
                self.parked.add(id)
            elif view.state.ended:
                self._open.discard(id)

    def forgotten(self, since: float) -> None:
        """All of them once more."""
        self._open.update(self._ids)


class Retrier(Person):
    """Has jobs whose calls are refused, puts the provider right, and retries each of them once."""

    every_s = 0.25

    def __init__(self, machines: Machines, fleet: Fleet, jobs: Sequence[JobSpec]) -> None:
        super().__init__(machines, fleet)
        self._jobs = list(jobs)
        self._states: dict[str, str] = {}
        self._retried: dict[str, float] = {}
        self._lifted = False
        self._began = time.monotonic()
        if jobs:
            machines.refuse(REFUSED)

    @property
    def finished(self) -> bool:
        """Each has ended and was retried, or ended well."""
        return all(
            self._states.get(job.id or "") == "done" or self._gave_up(job.id or "") for job in self._jobs
        )

    def _gave_up(self, id: str) -> bool:
        return self._states.get(id) == "failed" and id in self._retried

    def once(self, client: redis.Redis) -> None:
        """Look at all that have not ended."""
        for job in self._jobs:
            id = job.id or ""
            if self._states.get(id) == "done":
                continue
            handle = self._fleet.job(id)
            try:
                self._states[id] = str(handle.status())
            except UnknownName:
                self._fleet.submit_many([job])
                continue
            if self._lifted and self._states[id] == "failed" and id not in self._retried:
                at = time.time()
                if handle.retry():
                    self.done += 1
                    self._retried[id] = at
                    self._states[id] = "running"
        if not self._lifted and (
            all(self._states.get(job.id or "") == "failed" for job in self._jobs)
            or time.monotonic() > self._began + REFUSE_S
        ):
            self._machines.accept_all()
            self._lifted = True

    def forgotten(self, since: float) -> None:
        """Ends and retries of that time may not have happened."""
        self._states.clear()
        self._retried = {id: at for id, at in self._retried.items() if at < since - 0.5}


class Reuser(Person):
    """Uses each id twice: when the first job has ended, its record is taken away as its expiry would.

    Some of the first ones are cancelled while a call is in flight (``cut``: so many), and nobody hears of it.
    """

    every_s = 0.02

    def __init__(
        self,
        machines: Machines,
        fleet: Fleet,
        lives: Sequence[tuple[JobSpec, JobSpec]],
        promises: dict[str, Promise],
    ) -> None:
        super().__init__(machines, fleet)
        self.stories: dict[str, JobStory] = {}
        self.cut = 0
        self._lives = {one.id or "": (one, two) for one, two in lives}
        self._promises = promises
        self._ended: set[str] = set()
        self._keys = Keys(machines.config.fleet.name)

    @property
    def finished(self) -> bool:
        """All second jobs have ended."""
        return len(self._ended) == len(self._lives)

    def once(self, client: redis.Redis) -> None:
        """Bring each id on by what its record says; first those whose call does not wait for us."""
        open_ = [id for id in self._lives if id not in self._ended]
        pipe = client.pipeline(transaction=False)
        for id in open_:
            pipe.hmget(self._keys.job(id), "st", "rec", "h0")
        late = [(id, *facts) for id, facts in zip(open_, pipe.execute(), strict=True)]
        for id, state, record, head in late:
            if record and self._kind(record) == "stopped" and state not in ENDED and _leased(head):
                client.client_kill_filter(_type="pubsub")  # nobody hears of it: the call in flight goes on
                if self._fleet.job(id).cancel():
                    self._again(client, id)
                    self.cut += 1
        for id, state, record, _ in late:
            one, two = self._lives[id]
            if state is None or record is None:
                self._fleet.submit_many([two if self.stories.get(id) else one])
            elif state in ENDED and self._kind(record) == "second":
                self._ended.add(id)
            elif state in ENDED:
                self._again(client, id)

    def _kind(self, record: bytes) -> str:
        return self._promises[name_of(record)].kind

    def _again(self, client: redis.Redis, id: str) -> None:
        """The first job's record goes, and its id is somebody else's."""
        (self.stories[id],) = read_jobs(client, self._keys, [id])
        client.delete(self._keys.job(id), self._keys.events(id))
        client.zrem(self._keys.ended, id)
        self._fleet.submit_many([self._lives[id][1]])
        self.done += 1

    def forgotten(self, since: float) -> None:
        """Second jobs may be first ones again."""
        self._ended.clear()


def _leased(head: bytes) -> bool:
    return unpack_head(head).state == "leased"


class Vandal(Person):
    """Sends what is no ticket to the lanes and what is no message to the control channel."""

    every_s = 0.1

    def __init__(self, machines: Machines, fleet: Fleet) -> None:
        super().__init__(machines, fleet)
        tickets = malformed(machines.dir / "touched", long=100_000)
        self._tickets = itertools.cycle(tickets.values())
        self._messages = itertools.cycle(MALFORMED.values())
        self._lanes = itertools.cycle(("llm", "turns"))
        name = machines.config.fleet.name
        self._queues, self._control = keyprefix(name), Keys(name).control

    def once(self, client: redis.Redis) -> None:
        """One of each."""
        client.lpush(self._queues + next(self._lanes), next(self._tickets))
        client.publish(self._control, next(self._messages))
        self.done += 2


class Pauser(Person):
    """Stops a worker, as a machine that is moved or swaps does, for 0.3 to 3 leases; then it goes on."""

    def __init__(self, machines: Machines, fleet: Fleet, seed: int, every_s: float) -> None:
        super().__init__(machines, fleet)
        self.every_s = every_s
        self._dice = random.Random(f"pauses {seed}")

    def once(self, client: redis.Redis) -> None:
        """One pause."""
        seconds = self._machines.config.fleet.lease * self._dice.uniform(0.3, 3.0)
        self.done += self._machines.pause_one(lambda: self._stopped.wait(seconds))


class Forgetter(Person):
    """A firewall forgets the lines of a worker: what is sent arrives nowhere, and nobody says so."""

    def __init__(self, machines: Machines, fleet: Fleet, every_s: float) -> None:
        super().__init__(machines, fleet)
        self.every_s = every_s

    def once(self, client: redis.Redis) -> None:
        """All lines of one worker; those that it makes then are good."""
        self.done += self._machines.forget_lines()
