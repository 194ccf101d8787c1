"""Real workers, and whatever somebody may put on their lanes and channels: they go on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgpack
import pytest

from aios_dist import Fleet
from aios_dist.broker.app import keyprefix, make_app
from aios_dist.journal import Journal
from aios_dist.journal.keys import Keys
from aios_dist.local.machine import LocalFleet
from aios_dist.testing import FakeLLM
from tests.fleet.agents import caller
from tests.fleet.hostile import ODD_BUT_GOOD, bomb, malformed
from tests.fleet.reading import wait_for
from tests.redis.test_control import MALFORMED

if TYPE_CHECKING:
    import redis

BOMB_BYTES = 200_000_000
FLOOD = [msgpack.packb(said) for said in (["lane", "llm", "", ""], ["drop", "j", "0", "nobody"])] * 500


class Watch:
    """The workers of two lanes, from now on: who they are, what they write, what memory they take."""

    def __init__(self, machine: LocalFleet) -> None:
        self.members = [machine.worker(name) for name in ("machine-1", "machine-2", "one-slot")]
        self._pids = [member.pid for member in self.members]
        self._machine = machine
        self._dropped = self._counted()
        self._lines = [len(self._log(member)) for member in self.members]
        self._peaks = [self._peak_mb(pid) for pid in self._pids]

    def check(self) -> None:
        """The same processes, no traceback, a line of it at the most, hardly more memory."""
        assert [member.pid for member in self.members if not member.ended] == self._pids
        for member, before in zip(self.members, self._lines, strict=True):
            written = self._log(member)[before:]
            assert not [line for line in written if "Traceback" in line], "\n".join(written)
            assert len([line for line in written if "Dropped what is no valid" in line]) <= 2
        for pid, before in zip(self._pids, self._peaks, strict=True):
            assert self._peak_mb(pid) < before + 60

    def dropped(self) -> int:
        """What they have dropped since, by what they say of themselves next."""
        since = self._machine.ask(Journal.now)
        wait_for(lambda: all(w.seen_at > since for w in self._machine.ask(Journal.registry).workers))
        return self._counted() - self._dropped

    def _counted(self) -> int:
        # Of these alone: what an earlier test has killed is forgotten meanwhile, with its count.
        workers = self._machine.ask(Journal.registry).workers
        return sum(worker.dropped for worker in workers if worker.pid in self._pids)

    @staticmethod
    def _log(member: object) -> list[str]:
        return list(member.log.read_text().splitlines())  # type: ignore[attr-defined]

    @staticmethod
    def _peak_mb(pid: int) -> float:
        status = Path(f"/proc/{pid}/status")
        if not status.exists():
            return 0.0
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1024


@pytest.fixture
def watch(machine: LocalFleet, fleet: Fleet) -> Watch:
    assert fleet.submit(caller, calls=1, model="small").result(timeout=20)
    assert fleet.submit(caller, calls=1, model="one").result(timeout=20)
    return Watch(machine)


def test_no_ticket_ends_a_worker_holds_it_up_or_makes_it_do_anything(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, redis_client: redis.Redis, tmp_path: Path, watch: Watch
) -> None:
    llm.script(latency=0.01)
    llm.reset()
    touched = tmp_path / "touched"
    tickets = {**malformed(touched), **ODD_BUT_GOOD, "a bomb": bomb(BOMB_BYTES)}
    for lane, model in (("llm", "small"), ("one", "one")):
        where = keyprefix(machine.config.fleet.name) + lane
        for said in tickets.values():  # one at a time: what lies there and no step needs is deleted unread
            redis_client.lpush(where, said)
            wait_for(lambda where=where: not redis_client.llen(where))  # type: ignore[misc]
        for job in [fleet.submit(caller, calls=2, model=model) for _ in range(10)]:
            job.result(timeout=20)
    assert llm.count == 40
    assert not touched.exists()
    watch.check()
    # Workers wait for tickets, so Redis hands them over at once; one that is delayed may be deleted first.
    wait_for(lambda: len(malformed()) <= watch.dropped())
    assert watch.dropped() < len(tickets) * 2


def test_no_message_of_remote_control_or_events_ends_a_worker(
    fleet: Fleet, machine: LocalFleet, redis_client: redis.Redis, watch: Watch
) -> None:
    prefix = keyprefix(machine.config.fleet.name)
    said = [*malformed().values(), *ODD_BUT_GOOD.values(), bomb(BOMB_BYTES)]
    for channel in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat"):
        for message in said:
            redis_client.publish(prefix + channel, message)
    app = make_app(machine.config)
    names: set[str] = set()
    while len(names) < len(watch.members):  # pytest's own limit of time ends it
        names |= {name for answer in app.control.ping(timeout=0.5) for name in answer}
    app.close()
    assert fleet.submit(caller, calls=1, model="small").result(timeout=20)
    assert [member.pid for member in watch.members if not member.ended] == watch._pids


def test_no_message_of_the_control_channel_makes_a_worker_deaf(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, redis_client: redis.Redis, watch: Watch
) -> None:
    llm.script(latency=300.0)
    job = fleet.submit(caller, calls=1, model="small")
    llm.wait_until(lambda: llm.in_flight == 1)
    with redis_client.pipeline(transaction=False) as pipe:
        for said in [*MALFORMED.values(), *FLOOD]:
            pipe.publish(Keys(machine.config.fleet.name).control, said)
        pipe.execute()
    assert job.cancel()
    llm.wait_until(lambda: llm.in_flight == 0, timeout=5)
    watch.check()


def test_spare_tickets_have_an_upper_bound_while_a_model_is_held_and_another_keeps_the_slots_busy(
    fleet: Fleet, llm: FakeLLM, machine: LocalFleet, redis_client: redis.Redis
) -> None:
    """Each step that a limit holds leaves its ticket behind, and gets another when it is let in."""
    name = machine.config.fleet.name
    tickets, ready = keyprefix(name) + "llm", Keys(name).prefix + "ready:llm"
    slots = 2 * machine.config.pools["llm"].slots
    jobs = [fleet.submit(caller, calls=5, model=m) for m in ["small", "small", "limited"] * 40]
    in_bounds = began = time.monotonic()
    while llm.count < 350:
        with redis_client.pipeline() as pipe:
            depth, steps = pipe.llen(tickets).zcard(ready).execute()
        now = time.monotonic()
        if depth <= steps + slots:
            in_bounds = now
        assert now - in_bounds < 2.0
        assert depth <= 2 * (steps + slots)
        assert now - began < 30
        time.sleep(0.02)
    for job in jobs:
        job.cancel()
    wait_for(lambda: not redis_client.llen(tickets), 5.0)
