"""A worker: the runtime that lives on the pool's loop."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import socket
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from celery.platforms import EX_OK
from celery.worker import state

from aios_dist import policies
from aios_dist.broker import messages
from aios_dist.broker.tickets import Tickets
from aios_dist.config import FILES_BESIDE_CALLS, Config, PoolConfig
from aios_dist.errors import FleetUnavailable, RedisUnfit
from aios_dist.journal import Claim, Journal, WorkerInfo
from aios_dist.journal.formats import drain, open_elsewhere
from aios_dist.journal.patience import Patience
from aios_dist.model import costs
from aios_dist.model.calls import Usage
from aios_dist.program import imports as modules
from aios_dist.program import replay, waits
from aios_dist.program.agents import codes, registered
from aios_dist.threads.interrupts import run
from aios_dist.worker.background import Background
from aios_dist.worker.control import Control
from aios_dist.worker.ending import Ending
from aios_dist.worker.health import Health
from aios_dist.worker.leases import Leases
from aios_dist.worker.limits import Stillness
from aios_dist.worker.onward import Onwards, Spare, kin_of
from aios_dist.worker.pool import Spawn
from aios_dist.worker.providers import Provider, check_model, open_provider
from aios_dist.worker.reconciler import Reconciler
from aios_dist.worker.rows import Rows, row_of_try
from aios_dist.worker.rules import Rules
from aios_dist.worker.runner import Runner
from aios_dist.worker.shortages import Slots, allow_files, open_files
from aios_dist.worker.spool import Answers
from aios_dist.worker.steps import Machine, Steps
from aios_dist.worker.telemetry import flush, given, gone, not_consumed, send
from aios_dist.worker.telling import TELL_S, Teller
from aios_dist.worker.threads import Run, Threads
from aios_dist.worker.tools import Tools
from aios_dist.worker.turning import Turns
from aios_dist.worker.writing import Writer

logger = logging.getLogger("aios_dist.worker")

for _chatty in ("httpx2", "openai", "anthropic"):  # of tools
    logging.getLogger(_chatty).setLevel(logging.WARNING)  # a line a call, and prompts at DEBUG

T = TypeVar("T")

MOST_TURNS = 64
"""Threads for turns; as many as slots where those are fewer."""

MOST_CLOSING = 8
"""Threads for closing programs that are dropped."""

LOOK_S = 1.0
"""How often a worker looks after itself."""

HAND_BACK_S = 4.0
FAREWELL_S = 1.0
"""After the grace: for handing back what is in flight, and for each farewell."""

AT_START = Patience(0.25, 0.25, 10.0)
"""How long a worker that starts waits for a Redis that is not there yet."""


class Runtime:
    """Everything of a worker but Celery: journal, providers, leases, reconciler, runner."""

    def __init__(
        self, config: Config, pool: str, settings: PoolConfig, env: Mapping[str, str] = os.environ
    ) -> None:
        self.config = config
        waits.serves(config.fleet)
        self.pool = pool
        self.settings = settings
        self.env = env
        self.id = f"{pool}@{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.slots = settings.slots
        self.answers = Answers(config.fleet.name, spool_of(config))
        self.ending = Ending(config.fleet.shutdown_grace, self.answers.save)
        self._background = Background()
        self._providers: dict[str, Provider] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finishing: asyncio.Task[None] | None = None
        self._saying: asyncio.Task[None] | None = None
        self._at_once = asyncio.Event()
        self.cold = False
        """It was told so by a signal."""
        self.task: Any = None
        """Celery's task, of which each ticket and each step is one."""
        self._users: list[Tools | Threads] = []  # what runs users' code
        self._said: WorkerInfo | None = None  # what it has announced

    @property
    def dropped(self) -> int:
        """What came in and was no valid one: tickets (with what Celery sends to all), control messages."""
        return messages.dropped.count + self.control.dropped.count

    def models(self) -> dict[str, str]:
        """The models that this pool serves, and the lane of each."""
        return {n: m.lane for n, m in self.config.models.items() if m.lane in self.settings.lanes}

    def claim_of(self, id: str) -> Claim | None:
        """The step that a request of Celery's is here. From any thread."""
        runner = getattr(self, "runner", None)
        work = runner.works.get(id) if runner is not None else None
        return None if work is None else work.claim

    def job_of(self, id: str) -> str:
        """The job of the step that a ticket has become here, or that a row of Flower's is; else "". From any
        thread."""
        if (claim := self.claim_of(id)) is not None:
            return claim.job
        leases: Leases | None = getattr(self, "leases", None)
        for claim, _ in list(leases.held.values()) if leases is not None else []:
            if id == row_of_try(claim.job, claim.step, claim.token):
                return claim.job
        return ""

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
        run(self._check_redis)

    async def _check_redis(self) -> None:
        journal = Journal(self.config.fleet)
        try:
            await AT_START.ask(journal.check, away=_unless_unfit)
            elsewhere = await AT_START.ask(functools.partial(open_elsewhere, journal), away=_unless_unfit)
            for format, jobs in elsewhere.items():
                logger.warning("%s %s", *drain(format, jobs))
        finally:
            await journal.close()

    async def open(
        self,
        busy: Callable[[], int],
        set_slots: Callable[[int], None] = lambda _: None,
        spawn: Spawn = asyncio.ensure_future,
    ) -> None:
        """Called on the pool's loop, before the first ticket."""
        gc.collect()
        gc.freeze()  # a hundred thousand objects of imports need not be looked at again and again
        gc.set_threshold(20_000, 20, 100)
        sys.setswitchinterval(0.0001)  # Celery's loop and ours hand over to each other at each step
        self._loop = asyncio.get_running_loop()
        self._busy = busy
        fleet = self.config.fleet
        self.journal = Journal(fleet)
        self.leases = Leases(self.journal)
        tickets = Tickets(self.config)
        self._providers = {n: open_provider(n, self.config.models[n], self.env) for n in self.models()}
        self._unpriced = [model for model in self._providers if not self._has_price(model)]
        self.started_at = await AT_START.ask(self.journal.now, away=_unless_unfit)
        self._rules = Rules(self.config, self.journal, self.settings.lanes, sorted(self.models()))
        self.rows = rows = Rows(send)
        self._reconciler = reconciler = Reconciler(
            self.config, self.journal, tickets, self.id, self.leases.outage, self._rules.rank_anew, rows
        )
        self._teller = Teller(self.journal, rows, reconciler.in_office, given, gone)
        self._writer = Writer(
            self.journal, tickets, self.leases.outage, reconciler.look_again, self._price, self.answers
        )
        self._threads = Threads("aios-turn", min(self.slots, MOST_TURNS))
        # Programs that are dropped run users' `finally` blocks, and no turn is to wait for those.
        self._closing = Threads("aios-closing", min(self.slots, MOST_CLOSING))
        replay.dispose = self._closing.soon
        check = bool(fleet.check_replays)
        self._turns = Turns(
            self.journal,
            self._writer,
            self._threads,
            self._closing,
            fleet.turn_timeout,
            self._rules,
            check,
        )
        self._tools = Tools(self.slots, fleet.tool_timeout, fleet.result_limit, check)
        self._slots = Slots(self.slots, set_slots)
        self._slots.of_files(open_files())
        self._stillness = Stillness()
        self._stillness.start()
        machine = Machine(self._slots, self._stillness, lambda: len(self.leases.held), self.leases.sure)
        steps = Steps(
            self.config,
            self._rules.catalog.default,
            self._providers,
            self._tools.run,
            machine,
            self.journal.last_error,
        )
        self._spare = Spare(self._slots, self._held, self._stillness)
        onwards = Onwards(
            tickets,
            self.leases,
            self._spare,
            self.id,
            sorted(self._providers),
            self.settings.lanes,
            spawn,
            self._writer.closing.is_set,
        )
        self.runner = Runner(self._writer, self.leases, self._turns, steps, rows, onwards, self.task)
        self._users = [self._tools, self._threads, self._closing]
        self._health = Health(self.slots, self.settings.memory_limit, self._lost, self._begin_anew)
        self.control = Control(
            self.journal, self.leases, self.id, self._new_rules, reconciler.look_again_in_office
        )
        for ask in (
            self._rules.write,
            self._announce,
            self._rules.read,
            self._write_saved,
            self.leases.renew,
        ):
            await AT_START.ask(ask, away=_unless_unfit)
        background = self._background
        background.start("renewing", lambda: self.leases.keep(fleet.renew))
        background.start("reconciling", reconciler.run)
        background.start("listening", self.control.listen)
        background.repeat("announcing", fleet.renew, self._away_is_no_fault(self._announce))
        background.repeat("reading rules", fleet.renew, self._away_is_no_fault(self._keep_rules))
        background.repeat("telling of ends", TELL_S, self._away_is_no_fault(self._teller.tell))
        background.repeat("looking after itself", LOOK_S, self._look)

    def _held(self) -> int:
        return len(self.leases.held) + len(self.runner.hung)

    def _price(self, model: str, usage: Usage) -> float:
        if model not in self.config.models:
            return 0.0
        try:
            return costs.money(model, self.config.models[model], usage)
        except Exception:  # an answer is worth more than its price
            logger.exception("The price of a call of %s is not known now: 0.", model)
            return 0.0

    def _has_price(self, model: str) -> bool:
        """Asked at the start: the list of prices is read then, while there are files for it."""
        try:
            return costs.known(model, self.config.models[model])
        except Exception:
            logger.exception("The price of a call of %s is not known now.", model)
            return False

    async def _keep_rules(self) -> None:
        await self._rules.keep()
        await self._rules.read()

    async def _write_saved(self) -> None:
        folder = spool_of(self.config)
        if folder is not None and folder.is_dir():
            await self._writer.write_saved(folder)

    def _away_is_no_fault(self, ask: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
        async def asked() -> None:
            with self.leases.outage.passes():
                await ask()

        return asked

    async def _look(self) -> None:
        self._turns.programs.sweep()
        self._closing.sweep(self.config.fleet.turn_timeout)
        self._slots.look()
        await self._health.look()

    def _lost(self) -> list[Run]:
        return [run for threads in self._users for run in threads.lost]

    async def _announce(self) -> None:
        agents = sorted(registered())
        info = WorkerInfo(
            id=self.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            pool=self.pool,
            lanes=self.settings.lanes,
            slots=self._slots.now,
            in_flight=self._held(),
            models=sorted(self.models()),
            agents=agents,
            started_at=self.started_at,
            seen_at=await self.journal.now(),
            stuck=self._health.stuck(),
            dropped=self.dropped,
            short=self._slots.why,
            files=open_files(),
            unpriced=self._unpriced,
            cancelled=not_consumed(self.settings.lanes),
            codes={} if self._writer.closing.is_set() else codes(),
        )
        self._said = info
        self._spare.kin = kin = kin_of(info.models, agents, info.codes)
        has_room = self._spare.room() and not self._writer.closing.is_set()
        room = [n for n in info.lanes if has_room and n not in info.cancelled]
        await self.journal.announce(info, self.models(), room, kin)

    def resize(self, slots: int) -> None:
        """So many slots from now on; on the pool's loop."""
        self.slots = slots
        allow_files(slots + FILES_BESIDE_CALLS)
        self._slots.resize(slots, open_files())
        self._threads.resize(min(slots, MOST_TURNS))
        self._tools.resize(slots)
        self._health.resize(slots)
        self._saying = asyncio.get_running_loop().create_task(self._say_slots())

    async def _say_slots(self) -> None:
        with self.leases.outage.passes():
            await self._announce()

    async def _new_rules(self, *lanes: str) -> None:
        await self._rules.read(*lanes)
        self._reconciler.look_again_in_office()

    # The end --------------------------------------------------------------------------------------------

    def _begin_anew(self, why: str) -> None:
        """End as after a SIGTERM, then begin anew in the same process."""
        if self.ending.begin():
            logger.error("This worker takes no more tickets, finishes, and begins anew: %s.", why)
            self.ending.again = why
            self._start_finishing()
            state.should_stop = EX_OK  # Celery's loop looks at it at each turn

    def begin_anew(self, why: str) -> None:
        """Finish what is in flight, then begin anew; from any thread, and from a signal."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._begin_anew, why)

    def begin_to_end(self) -> None:
        """The worker was told to end; from any thread. Nothing waits for Celery to get there."""
        self.ending.begin()
        self.ending.again = ""  # also where it was about to begin anew
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._start_finishing)

    def hurry(self) -> None:
        """A cold shutdown: what is in flight goes back at once. From any thread, and from a signal."""
        self.begin_to_end()
        if self._loop is None:
            self._at_once.set()
        else:
            self._loop.call_soon_threadsafe(self._at_once.set)

    def _start_finishing(self) -> None:
        if self._finishing is None:
            self._finishing = asyncio.get_running_loop().create_task(self._finish())

    async def _finish(self) -> None:
        """Finish what is in flight, for ``shutdown_grace`` at the most; then hand it back."""
        loop, grace = asyncio.get_running_loop(), self.config.fleet.shutdown_grace
        deadline = loop.time() + grace
        self._writer.closing.set()
        leaving = asyncio.ensure_future(_briefly(self._take_off_codes()))
        if busy := len(self.leases.held):
            logger.warning("Finishing %d steps in flight (at most %g s).", busy, grace)
        waiting = asyncio.ensure_future(self._until_idle(deadline))
        cold = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait({waiting, cold}, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, cold):
            task.cancel()
        self.leases.stop_all("shutdown")
        await self._until_idle(loop.time() + HAND_BACK_S)
        self.answers.save()
        await leaving

    async def _take_off_codes(self) -> None:
        """It runs no further turns: nobody waits for the code that it has."""
        if self._said is not None and (codes := self._said.code_needs()):
            await self._announce()
            await self.journal.let_codes_go(codes)

    async def _until_idle(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        while self._busy() and loop.time() < deadline:  # noqa: ASYNC110  # the tasks are the pool's
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Finish, and say farewell. Each part is bounded: Redis may be silent, and users' code may hang."""
        self.ending.begin()
        self._start_finishing()
        assert self._finishing is not None
        await self._finishing
        await _briefly(self._teller.tell())
        farewell = self._threads.start("flush", flush)  # Celery's loop has ended: who else would show it
        await asyncio.wait({farewell.done}, timeout=FAREWELL_S)
        await _briefly(self._teller.tell())  # what has gone out is written down
        self._stillness.close()
        await _briefly(self._background.end())
        await _briefly(self._reconciler.leave())
        await _briefly(self.journal.leave(self.id))
        for provider in self._providers.values():
            await _briefly(provider.aclose())
        await _briefly(self.journal.close())

    def end(self, code: int) -> None:
        """All is closed: the process ends, or begins anew."""
        self.ending.end(code, len(self._lost()))


def spool_of(config: Config) -> Path | None:
    """Where answers are saved that Redis does not take."""
    return Path(config.fleet.spool_dir) if config.fleet.spool_dir else None


async def _briefly(farewell: Awaitable[object]) -> None:
    """What is nice to do at the end, and nobody must wait for."""
    try:
        await asyncio.wait_for(farewell, FAREWELL_S)
    except Exception as exc:
        logger.debug("At the end: %s", exc)


def _unless_unfit(why: FleetUnavailable) -> None:
    if isinstance(why, RedisUnfit):
        raise why
