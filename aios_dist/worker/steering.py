"""Celery's remote control of a worker (``celery control``, Flower's buttons): done, or refused.

Some of Celery's commands set what our pool does not look at; Celery itself would call that a success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery.worker.control import Panel, nok, ok

from aios_dist.broker.instead import REFUSED, revoked
from aios_dist.worker.pool import MOST_SLOTS

if TYPE_CHECKING:
    from aios_dist.worker.worker import Runtime


def install(runtime: Runtime) -> None:
    """Put ours in the place of Celery's commands in this process, for one worker; twice is as once."""
    for name, instead in REFUSED.items():
        Panel.data[name] = _refusing(instead)
    steering = Steering(runtime, Panel.data["add_consumer"], Panel.data["cancel_consumer"])
    for name in ("revoke", "terminate", "pool_grow", "pool_shrink", "add_consumer", "cancel_consumer"):
        Panel.data[name] = getattr(steering, name)


def _refusing(instead: str) -> Callable[..., Any]:
    def refuse(state: Any, *_: Any, **__: Any) -> Any:
        return nok(instead)

    return refuse


class Steering:
    """The commands that a worker does itself. Each is called on Celery's thread with Celery's ``state``.

    Args:
        runtime: the worker.
        add, cancel: Celery's own, for lanes of the pool.
    """

    def __init__(self, runtime: Runtime, add: Callable[..., Any], cancel: Callable[..., Any]) -> None:
        self._runtime = runtime
        self._add = add
        self._cancel = cancel

    def revoke(self, state: Any, task_id: Any = (), **_: Any) -> Any:
        """Refused; names the job of the first ticket that this worker has."""
        ids = {task_id} if isinstance(task_id, str) else {id for id in task_id or () if isinstance(id, str)}
        return nok(revoked(next(filter(None, map(self._runtime.job_of, sorted(ids))), "")))

    def terminate(self, state: Any, signal: Any = None, task_id: Any = (), **_: Any) -> Any:
        """As :meth:`revoke`."""
        return self.revoke(state, task_id)

    def pool_grow(self, state: Any, n: Any = 1, **_: Any) -> Any:
        """More slots, for as long as this worker runs."""
        return self._resize(state.consumer.pool, n, +1)

    def pool_shrink(self, state: Any, n: Any = 1, **_: Any) -> Any:
        """Fewer slots; what is in flight goes on."""
        return self._resize(state.consumer.pool, n, -1)

    def _resize(self, pool: Any, n: Any, sign: int) -> Any:
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            return nok("By how many slots? A whole number from 1 on.")
        wanted = pool.limit + sign * n
        if not 1 <= wanted <= MOST_SLOTS:
            return nok(f"A worker has from 1 to {MOST_SLOTS:,} slots, and this one has {pool.limit} now.")
        (pool.grow if sign > 0 else pool.shrink)(n)
        return ok(f"{pool.limit} slots from now on, until this worker ends; `slots` of [pools.NAME] stays")

    def add_consumer(self, state: Any, queue: Any = "", **more: Any) -> Any:
        """Take tickets of a lane again; of the pool's lanes only."""
        return self._not_ours(queue) or self._add(state, queue=queue, **more)

    def cancel_consumer(self, state: Any, queue: Any = "", **more: Any) -> Any:
        """Take no more tickets of a lane, until it is added again or the worker ends."""
        return self._not_ours(queue) or self._cancel(state, queue=queue, **more)

    def _not_ours(self, queue: Any) -> Any:
        lanes = self._runtime.settings.lanes
        if queue in lanes:
            return None
        return nok(
            f"This worker's pool serves {', '.join(lanes)}, and has no models and keys for others: write the "
            f"lane into `lanes` of [pools.{self._runtime.pool}] and restart it, or start a worker of a pool "
            "that has it."
        )
