"""A whole fleet on one machine, as real processes: for first runs, demonstrations and tests."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from aios_dist.config import Config, ModelConfig
from aios_dist.config.reading import stranger, stranger_here
from aios_dist.errors import ConfigError, UnknownName
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.local import folders
from aios_dist.local.config_file import write_config
from aios_dist.local.members import Launch, Member, WorkerSpec, environment
from aios_dist.local.owned_process import After
from aios_dist.local.redis_server import EmbeddedRedis
from aios_dist.threads.interrupts import run

T = TypeVar("T")

READY_S = 60.0
"""Seconds in which everything must be ready. A first start compiles some thousand modules."""
LOOK_EVERY_S = 0.05
BEYOND_S = 15.0
"""Seconds that a worker may need beyond its grace."""


class LocalFleet:
    """Redis, workers, and if asked for the fake LLM and Flower; all end when we end, however we end: the
    workers with their grace, Redis and the fake LLM when those have ended.

    ::

        with LocalFleet(config, [WorkerSpec("machine-1", "llm", 8)], fake_llm="0.1") as machine:
            fleet = Fleet(machine.config)

    Args:
        config: the fleet; what the processes get is this with the addresses filled in (``.config``), and
            with ``check_replays`` where it says nothing of that.
        workers: the worker processes to start.
        embedded_redis: start a Redis of our own instead of using ``redis_url``.
        data: a folder in which the embedded Redis keeps its data; without one they go when it stops.
        fake_llm: the latency of a fake LLM (see ``python -m aios_dist.testing``) that stands for all models.
        flower: Flower's port; 0 takes a free one, None does without.
        cwd: where the processes run, so where ``[fleet] modules`` are found; our own folder by default.
    """

    def __init__(
        self,
        config: Config,
        workers: Iterable[WorkerSpec] = (),
        *,
        embedded_redis: bool = True,
        data: Path | None = None,
        fake_llm: str | None = None,
        flower: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.config = config
        if config.fleet.check_replays is None:
            self._change(check_replays=True)
        self.redis: EmbeddedRedis | None = EmbeddedRedis() if embedded_redis else None
        self.llm_url: str | None = None
        self.llm_key = secrets.token_urlsafe(24)
        """What those must know who ask the fake LLM for its calls, or change what it answers."""
        self.flower_url: str | None = None
        self.flower_login = f"aios:{secrets.token_urlsafe(12)}"
        self.members: list[Member] = []
        self._specs = list(workers)
        self._flower = flower
        self._data = data
        self._latency = fake_llm
        self._cwd = cwd
        self._held: folders.Held | None = None
        self._pipe: list[int] = []
        self._launch: Launch | None = None

    # Start and stop ------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start everything and return when all of it is ready.

        Raises:
            ConfigError: something did not start; says what, and shows its last words.
        """
        folders.sweep()
        self._held = folders.take_temporary("aios-fleet-")
        ended, at_work = self._pipe = [*os.pipe()]
        after = After(ended, self._grace_s + BEYOND_S)
        self._launch = Launch(
            self._held.path,
            environment(
                self.config_path,
                {model.api_key_env for model in self.config.models.values()},
                self._trusted_modules(),
            ),
            self._cwd,
            keep=[self._held.lock],
            at_work=at_work,
            after=after,
            grace_s=self._grace_s,
        )
        try:
            fake = (
                self._add(self._launch.fake_llm(self._latency, self.llm_key))
                if self._latency is not None
                else None
            )
            if self.redis is not None:
                # No port: while the server is dead, another user could take that and hear what is for it.
                place = self.dir / "redis.sock"
                self.redis.start(self._data, self._data is not None, after=after, socket_path=place)
                self._change(redis_url=self.redis.url)
            if fake is not None:
                self._use(fake)
            write_config(self.config, self.config_path)
            flower = None
            if self._flower is not None:
                flower = self._add(self._launch.flower(self._flower, self.flower_login))
            self.start_workers(self._specs)
            if flower is not None:
                self.flower_url = self._address(flower, r"^Flower of fleet .*(http://\S+)")
        except BaseException:
            self.stop(grace_s=1.0)
            raise
        return self

    def stop(self, grace_s: float | None = None) -> None:
        """Warm shutdown of all workers, then the rest; SIGKILL after ``grace_s``. May be called twice."""
        self.stop_workers(self.workers, self._grace_s if grace_s is None else grace_s)
        for member in self.members:
            member.process.terminate()
        for member in self.members:
            member.stop(5.0)
        self.members.clear()
        if self.redis is not None:
            self.redis.stop()
        while self._pipe:
            os.close(self._pipe.pop())
        if self._held is not None and self._launch is not None:
            self._held.release(remove=True)
            self._launch = None

    def __enter__(self) -> Self:
        return self if self.members else self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _grace_s(self) -> float:
        return self.config.fleet.shutdown_grace + BEYOND_S

    # Workers -------------------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Member]:
        """The worker processes that were started and neither stopped nor killed."""
        return [member for member in self.members if member.spec is not None]

    def worker(self, name: str) -> Member:
        """The worker of that name.

        Raises:
            UnknownName: there is none.
        """
        for member in self.workers:
            if member.name == name:
                return member
        raise UnknownName(f"There is no worker {name!r} on this machine.")

    def start_workers(self, specs: Sequence[WorkerSpec]) -> list[Member]:
        """Start workers side by side and return when all take tickets.

        Raises:
            ConfigError: one has ended before it was ready.
        """
        assert self._launch is not None, "start() the fleet first"
        started = [self._add(self._launch.worker(spec)) for spec in specs]
        self._wait(lambda: all(member.is_ready for member in started))
        return started

    def stop_workers(self, workers: Sequence[Member | str], grace_s: float = 60.0) -> bool:
        """SIGTERM, which is a warm shutdown, to several at once; SIGKILL after ``grace_s``, or at Ctrl-C.

        Args:
            workers: their names, or what ``start_workers`` gave.
            grace_s: seconds.

        Returns:
            True if each ended by itself.

        Raises:
            UnknownName: there is none of that name.
        """
        members = [self.worker(worker) if isinstance(worker, str) else worker for worker in workers]
        for member in members:
            member.process.terminate()
        end = time.monotonic() + grace_s
        try:
            well = [member.stop(max(0.1, end - time.monotonic())) for member in members]
        except KeyboardInterrupt:
            for member in members:
                member.kill()
            raise
        self.members = [member for member in self.members if member not in members]
        return all(well)

    def kill(self, worker: Member | str) -> None:
        """``kill -9`` of a worker, as a crash of its machine; the registry forgets it after a while.

        Args:
            worker: its name, or what ``start_workers`` gave.

        Raises:
            UnknownName: there is none of that name.
        """
        member = self.worker(worker) if isinstance(worker, str) else worker
        member.kill()
        self.members.remove(member)

    def registered(self, name: str) -> WorkerInfo:
        """What the worker of that name says of itself; its ``id`` is what steps name as their worker.

        Raises:
            UnknownName: it is not in the registry.
        """
        pid = self.worker(name).pid

        for info in self.ask(Journal.registry).workers:
            if info.pid == pid:
                return info
        raise UnknownName(f"The worker {name!r} is not in the registry.")

    # Where things are ----------------------------------------------------------------------------------

    @property
    def dir(self) -> Path:
        """The folder of configuration and logs; it goes when the fleet stops."""
        if self._held is None:
            raise RuntimeError("this fleet is not started")
        return self._held.path

    @property
    def keeps_data(self) -> bool:
        """The embedded Redis comes back with what it had."""
        return self._data is not None

    @property
    def config_path(self) -> Path:
        """The ``aios.toml`` of this fleet: ``AIOS_CONFIG`` for whoever wants to talk to it."""
        return self.dir / "aios.toml"

    def ask(self, question: Callable[[Journal], Awaitable[T]]) -> T:
        """Ask the fleet's journal something, from code without an event loop."""

        async def asked() -> T:
            journal = Journal(self.config.fleet)
            try:
                return await question(journal)
            finally:
                await journal.close()

        return run(asked)

    # -----------------------------------------------------------------------------------------------------

    def _add(self, member: Member) -> Member:
        self.members.append(member)
        return member

    def _change(self, **fleet: Any) -> None:
        changed = msgspec.structs.replace(self.config.fleet, **fleet)
        self.config = msgspec.structs.replace(self.config, fleet=changed)

    def _trusted_modules(self) -> Path | None:
        """Another user's folder whose modules are meant all the same: by a file there that the user named,
        or by the program that starts us. Workers, which have a file of ours, would not look there."""
        here = (self._cwd or Path.cwd()).absolute()
        if not self.config.names_code or not stranger(here, code=True):
            return None
        return here if self._cwd is not None or not stranger_here() else None

    def _use(self, fake: Member) -> None:
        """Point every model at the fake LLM; where there is none, make one."""
        self.llm_url = self._address(fake, r"^fake LLM on (\S+)$")
        models = self.config.models or {"small": ModelConfig()}
        faked = {
            name: msgspec.structs.replace(model, provider="openai", base_url=self.llm_url, api_key_env=None)
            for name, model in models.items()
        }
        self.config = msgspec.structs.replace(self.config, models=faked)

    def _address(self, member: Member, pattern: str) -> str:
        """The address that a process writes when it listens."""
        self._wait(lambda: member.wrote(pattern) is not None)
        return str(member.wrote(pattern))

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Until ``ready``; every member must go on running meanwhile."""
        end = time.monotonic() + READY_S
        while not ready():
            for member in self.members:
                member.check()
            if self.redis is not None and self.redis.ended_with is not None:
                raise ConfigError(f"The embedded Redis has ended, with exit code {self.redis.ended_with}.")
            if time.monotonic() > end:
                names = ", ".join(member.name for member in self.members)
                raise ConfigError(f"The fleet was not ready within {READY_S:g} s; it has: {names}.")
            time.sleep(LOOK_EVERY_S)


__all__ = ["LocalFleet", "Member", "WorkerSpec"]
