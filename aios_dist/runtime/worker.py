"""A worker: the runtime that lives on the pool's loop, and the Celery app around it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NoReturn, TypeVar

import greenback
import msgspec
from celery import Celery, signals

from aios_dist import costs, masking, messages, modules, policies, turns
from aios_dist.agents import registered
from aios_dist.broker import TASK, Tickets, make_app
from aios_dist.calls import Usage
from aios_dist.config import Config, PoolConfig, load
from aios_dist.errors import AiosError, ConfigError, FleetUnavailable
from aios_dist.journal import Journal, WorkerInfo
from aios_dist.runtime.control import Control
from aios_dist.runtime.leases import Leases
from aios_dist.runtime.providers import Provider, check_model, open_provider
from aios_dist.runtime.reconciler import Reconciler
from aios_dist.runtime.replies import mask_replies
from aios_dist.runtime.rules import Rules
from aios_dist.runtime.runner import Origin, Runner
from aios_dist.runtime.steps import Steps
from aios_dist.runtime.telemetry import Dispatcher, StepRequest, flush, started

logger = logging.getLogger("aios_dist.worker")

for _chatty in ("httpx2", "openai", "anthropic"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)  # a line a call, and prompts at DEBUG

T = TypeVar("T")

START_PATIENCE_S = 10.0
"""How long a worker that starts waits for a Redis that is not there yet."""


class Runtime:
    """Everything of a worker but Celery: journal, providers, leases, reconciler, runner."""

    def __init__(
        self, config: Config, pool: str, settings: PoolConfig, env: Mapping[str, str] = os.environ
    ) -> None:
        self.config = config
        self.pool = pool
        self.settings = settings
        self.env = env
        self.id = f"{pool}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.slots = settings.slots
        self._background: list[asyncio.Task[Any]] = []
        self._providers: dict[str, Provider] = {}

    @property
    def dropped(self) -> dict[str, int]:
        """What came in and was no valid one: tickets (with what Celery sends to all), control messages."""
        return {"tickets": messages.dropped.count, "control": self.control.dropped.count}

    def models(self) -> dict[str, str]:
        """The models that this pool serves, and the lane of each."""
        return {n: m.lane for n, m in self.config.models.items() if m.lane in self.settings.lanes}

    def check(self) -> None:
        """Everything that would make calls fail later, now.

        Raises:
            ConfigError: a model's key or package is missing, or a module of agents cannot be imported.
            FleetUnavailable: Redis cannot be reached, or may evict keys.
        """
        modules.load(self.config)
        for name in self.models():
            check_model(name, self.config.models[name], self.env)
        for lane in self.settings.lanes:
            policies.find(self.config.lane(lane).policy)
        asyncio.run(self._check_redis())

    async def _check_redis(self) -> None:
        journal = Journal(self.config.fleet)
        try:
            await _patiently(journal.check)
        finally:
            await journal.close()

    async def open(self) -> None:
        """Called on the pool's loop, before the first ticket."""
        gc.collect()
        gc.freeze()  # a hundred thousand objects of imports need not be looked at again and again
        gc.set_threshold(20_000, 20, 100)
        sys.setswitchinterval(0.0001)  # Celery's loop and ours hand over to each other at each step
        self.journal = Journal(self.config.fleet)
        self.leases = Leases(self.journal)
        tickets = Tickets(self.config)
        self._providers = {n: open_provider(n, self.config.models[n], self.env) for n in self.models()}
        self.started_at = await _patiently(self.journal.now)
        registry = await _patiently(self.journal.registry)
        catalog = turns.Catalog.of(self.config, registry.models)
        self._reconciler = reconciler = Reconciler(
            self.config, self.journal, tickets, self.id, self.leases.outage, self._rank_anew
        )
        self.runner = Runner(
            self.journal,
            tickets,
            self.leases,
            catalog,
            Steps(self.config, catalog.default, self._providers, self.slots),
            self.id,
            reconciler.look_again,
            self._price,
        )
        self._rules = Rules(
            self.config, self.journal, self.runner, self.settings.lanes, sorted(self.models())
        )
        self.control = Control(self.journal, self.leases, self.id, self._new_rules)
        for ask in (self._rules.write, self._announce, self._rules.read):
            await _patiently(ask)
        fleet = self.config.fleet
        self._background = [
            asyncio.create_task(self.leases.keep(fleet.renew, self._keep)),
            asyncio.create_task(reconciler.run()),
            asyncio.create_task(self.control.listen()),
        ]

    def _price(self, model: str, usage: Usage) -> float:
        return costs.money(model, self.config.models[model], usage) if model in self.config.models else 0.0

    async def _rank_anew(self, lane: str) -> bool:
        return await self._rules.rank_anew(lane)

    async def _keep(self) -> None:
        await self._announce()
        await self._rules.read()

    async def _announce(self) -> None:
        agents = sorted(registered())
        info = WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=self.pool,
            lanes=self.settings.lanes,
            slots=self.slots,
            in_flight=len(self.leases.held),
            models=sorted(self.models()),
            agents=agents,
            started_at=self.started_at,
            seen_at=await self.journal.now(),
        )
        await self.journal.announce(info, self.models())

    async def _new_rules(self, *lanes: str) -> None:
        await self._rules.read(*lanes)
        self._reconciler.look_again_in_office()

    async def close(self, busy: Callable[[], int]) -> None:
        """Finish what is in flight, for ``shutdown_grace`` at the most; then hand it back."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.config.fleet.shutdown_grace
        if busy():
            logger.warning(
                "Finishing %d steps in flight (at most %g s).", busy(), self.config.fleet.shutdown_grace
            )
        while busy() and loop.time() < deadline:  # noqa: ASYNC110  # the tasks are the pool's
            await asyncio.sleep(0.02)
        for _, task in list(self.leases.held.values()):
            task.cancel("shutdown")
        while busy() and loop.time() < deadline + 10.0:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        with contextlib.suppress(Exception):
            flush()  # Celery's loop has ended: what happened since would never be shown
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        with contextlib.suppress(FleetUnavailable):
            await self._reconciler.leave()
            await self.journal.leave(self.id)
        for provider in self._providers.values():
            with contextlib.suppress(Exception):
                await provider.aclose()
        await self.journal.close()


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while Redis is not there yet, or restarts just now."""
    deadline = asyncio.get_running_loop().time() + START_PATIENCE_S
    while True:
        try:
            return await ask()
        except FleetUnavailable as exc:
            if "evict" in str(exc) or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.25)


def worker_app(pool: str, *, slots: int | None = None, config: Config | None = None) -> Celery:
    """The Celery app of a pool: what ``celery -A workers.llm worker`` starts.

    Args:
        pool: a pool of ``aios.toml``.
        slots: steps held at a time; the pool's own number when None (``-c N`` overrides both).
        config: the configuration; read from ``aios.toml`` and the environment when None.

    Returns:
        The app. Its queues, slots and pool are set; ``-Q`` and ``-P`` are not needed.
    """
    try:
        config = config if config is not None else load()
        settings = config.pool(pool)
    except AiosError as exc:
        _refuse(exc)
    if slots is not None:
        settings = msgspec.structs.replace(settings, slots=slots)
    app = make_app(config, settings, name=f"aios-{pool}")
    runtime = Runtime(config, pool, settings)
    app.aios_runtime = runtime
    app.steps["consumer"].add(Dispatcher)
    masking.install()
    mask_replies()

    @app.task(name=TASK, bind=True, throws=(AiosError,), Request=StepRequest)
    def step(self: Any) -> str:
        request = self.request
        lane = (request.delivery_info or {}).get("routing_key") or settings.lanes[0]
        return str(greenback.await_(runtime.runner.serve(lane, Origin(request.id, request.root_id), started)))

    @signals.worker_init.connect(weak=False)
    def check(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is not app:
            return
        try:
            runtime.id = f"{sender.hostname}:{os.getpid()}:{uuid.uuid4().hex[:6]}"  # as Flower calls it
            runtime.slots = int(sender.concurrency or settings.slots)
            runtime.check()
        except AiosError as exc:
            _refuse(exc)

    return app


def _refuse(error: AiosError) -> NoReturn:
    """One sentence and exit code 2: there is nothing in a traceback for the one who set this up."""
    sys.stderr.write(f"aios-dist: {error}\n")
    raise SystemExit(2)


__all__ = ["ConfigError", "Runtime", "worker_app"]
