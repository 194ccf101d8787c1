"""The control channel: what a worker is told between two beats. Nothing depends on it, nobody vouches for it.

Whatever was missed while nobody listened is looked up when the listening begins anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import msgspec
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from aios_dist.broker.messages import Tally
from aios_dist.errors import FleetUnavailable, UnknownName
from aios_dist.journal import Journal
from aios_dist.journal.connection import open_client
from aios_dist.journal.patience import Patience
from aios_dist.worker.leases import Leases

logger = logging.getLogger("aios_dist.control")

LONGEST = 4096
"""Bytes of a message."""

MOST_LANES = 100
"""Lanes whose rules are read by name; of more, those of all are."""

BETWEEN_TRIES = Patience(0.1, 5.0)
"""… to listen again."""

Text = Annotated[str, msgspec.Meta(max_length=1024)]
_decode = msgspec.msgpack.Decoder(tuple[Text, Text, Text, Text]).decode


class Control:
    """Listens for one worker, on the loop that runs its calls.

    Args:
        journal: whose channel it is.
        leases: what the worker holds.
        worker: the worker's id, as steps name it.
        new_rules: told of lanes whose rules have changed; of none where nobody has listened for a while.
        busy_plan: told that a plan has members left to admit or to drop, or that steps have still
                to follow their job.

    Attributes:
        dropped: the messages that were no valid ones.
    """

    def __init__(
        self,
        journal: Journal,
        leases: Leases,
        worker: str,
        new_rules: Callable[..., Awaitable[None]],
        busy_plan: Callable[[], None] = lambda: None,
    ) -> None:
        self._journal = journal
        self._leases = leases
        self._worker = worker
        self._new_rules = new_rules
        self._busy_plan = busy_plan
        self._quiet_s = max(1.0, journal.config.redis_timeout)
        self._words: dict[str, Callable[[str, str, str], Awaitable[None]]] = {
            "drop": self._drop,
            "lane": self._lane,
            "plan": self._plan,
            "sweep": self._plan,
        }
        self._lanes: set[str] = set()
        self._reading: asyncio.Task[None] | None = None
        self.dropped = Tally(
            logger.warning,
            "Dropped what is no valid message of the control channel: %s (%d since this was last said).",
        )
        self._broken = Tally(
            logger.error, "What a message of the control channel asked for broke: %s (%d since last said)."
        )

    async def listen(self) -> None:
        """For ever; what cannot be reached is tried again, less and less often."""
        pauses = BETWEEN_TRIES.pauses()
        while True:
            client = open_client(self._journal.config.redis_url, socket_timeout=None)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.subscribe(self._journal.keys.control)
                    await self._look_up()
                    pauses = BETWEEN_TRIES.pauses()
                    await self._hear(channel)
            except (RedisError, OSError, FleetUnavailable) as exc:
                logger.info("Not listening for cancelled jobs: %s", exc)
            except Exception as exc:  # an answer that redis-py cannot read
                self._broken.add(type(exc).__name__, exc_info=True)
            finally:
                if self._reading is not None:
                    self._reading.cancel()
                with contextlib.suppress(RedisError, OSError):
                    await client.aclose()
            await asyncio.sleep(next(pauses))

    async def _hear(self, channel: PubSub) -> None:
        asked = False
        while True:
            message = await channel.get_message(timeout=self._quiet_s)
            if message is not None:
                asked = False
                if message["type"] == "message":
                    await self.obey(message["data"])
            elif asked:
                raise RedisConnectionError(f"no answer within {self._quiet_s:g} s")
            else:  # a line whose other end is gone is silent too
                await channel.ping("aios")
                asked = True

    async def obey(self, said: Any) -> None:
        """Do what one message says. Never raises: after one that cannot be done, the next is heard.

        Args:
            said: the message as it came.
        """
        try:
            if not isinstance(said, bytes) or len(said) > LONGEST:
                raise ValueError(f"more than {LONGEST} bytes")
            what, job, step, worker = _decode(said)
            do = self._words.get(what)
            if do is None:
                raise ValueError("an unknown word")
        except (
            ValueError,
            RecursionError,
        ) as exc:  # msgspec's are ValueErrors, and tell no content
            malformed = isinstance(exc, msgspec.DecodeError) and not isinstance(exc, msgspec.ValidationError)
            self.dropped.add("no MessagePack, or too much of it" if malformed else str(exc)[:80])
            return
        with self._leases.outage.passes(), self._alone():
            await do(job, step, worker)

    async def _drop(self, job: str, step: str, worker: str) -> None:
        if worker == self._worker:
            self._leases.cancel(job, step)

    async def _lane(self, lane: str, _step: str, _worker: str) -> None:
        # Read beside the listening: a thousand of these are read at once, and keep no "drop" waiting.
        if len(self._lanes) <= MOST_LANES:
            self._lanes.add(lane)
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read_rules())

    async def _plan(self, _plan: str, _step: str, _worker: str) -> None:
        self._busy_plan()

    async def _read_rules(self) -> None:
        with self._leases.outage.passes():  # all are looked up when the listening begins anew
            while self._lanes:
                lanes, self._lanes = self._lanes, set()
                with self._alone():
                    await self._new_rules(*(sorted(lanes) if len(lanes) <= MOST_LANES else ()))

    async def _look_up(self) -> None:
        """What may have been said while nobody listened."""
        for job in sorted({claim.job for claim, _ in self._leases.held.values()}):
            with self._alone(), contextlib.suppress(UnknownName):  # of that one, the commit will say so
                state, _ = await self._journal.state(job)
                for claim, _ in list(self._leases.held.values()) if state.ended else ():
                    if claim.job == job and not claim.is_turn:
                        self._leases.cancel(job, claim.step)
        with self._alone():
            await self._new_rules()

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One that breaks keeps none of the others, and not the listening; Redis away keeps them all."""
        try:
            yield
        except FleetUnavailable:
            raise
        except Exception as exc:
            self._broken.add(type(exc).__name__, exc_info=True)
