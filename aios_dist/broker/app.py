"""The one definition of the Celery app."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import Queue

from aios_dist.broker.channels import Guarded
from aios_dist.broker.pinned import Pinned
from aios_dist.broker.tickets import TASK, Tickets, depth_commands, keyprefix
from aios_dist.config import Config, PoolConfig
from aios_dist.config.redis_urls import address

POOL = "aios_dist.worker.pool:AsyncioPool"
CONSUMER = "aios_dist.worker.consumer:Consumer"


def broker_url(redis_url: str) -> str:
    """The fleet's Redis URL as kombu wants it: one URL a Sentinel, TLS settings apart (:func:`tls_of`).

    Raises:
        ConfigError: it cannot be one.
    """
    found = address(redis_url)
    if found.scheme == "unix":
        return f"redis+socket://{found.socket_url}?virtual_host={found.db}"
    return ";".join(found.urls)


def tls_of(redis_url: str) -> dict[str, Any] | None:
    """The ``ssl_…`` settings of a ``rediss://`` URL, for Celery's ``broker_use_ssl``; None without TLS.

    The certificate is verified unless the URL says otherwise (kombu alone would not).
    """
    return address(redis_url).tls


def make_app(
    config: Config, pool: PoolConfig | None = None, name: str = "aios", *, current: bool = True
) -> Celery:
    """The Celery app of a fleet: a worker's when a pool is given, else one that only talks.

    Every setting that differs from Celery's default says why; see docs/design.md, section 5. ``current``:
    a worker's is this process' own.
    """
    fleet = config.fleet
    app = Pinned(
        name, broker=broker_url(fleet.redis_url), amqp=Guarded, set_as_current=current and pool is not None
    )
    options: dict[str, Any] = {
        "global_keyprefix": keyprefix(fleet.name),
        "priority_steps": [0],  # one list a lane: order is ours
        "ack_emulation": False,  # no `unacked`: from the claim on, the lease answers for the step
        "sweeps": pool is not None,  # an account that only talks needs no right to run scripts
        "max_connections": 1000,  # kombu's 10 fail under load
        # Kombu's default waits for ever on a dead connection; longer than its BRPOP, which lasts a second.
        "socket_timeout": max(2.0, fleet.redis_timeout),
        "socket_connect_timeout": min(5.0, fleet.redis_timeout),
        "socket_keepalive": True,
        "health_check_interval": max(1, int(fleet.redis_timeout / 2)),  # a silent line costs twice that
    }
    if sentinel := dict(address(fleet.redis_url).sentinel):
        options["master_name"] = sentinel.pop("master")
        options["sentinel_kwargs"] = sentinel
    app.conf.update(
        broker_transport_options=options,
        broker_use_ssl=tls_of(fleet.redis_url),
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a Redis restart is waited out
        broker_channel_error_retry=True,  # … and so is one that refuses (READONLY, NOREPLICAS, full memory)
        task_serializer="json",
        result_serializer="json",
        event_serializer="json",
        accept_content=["json"],  # no pickle anywhere
        task_ignore_result=True,  # the journal is the result
        task_acks_late=False,  # the lease answers for the step, not kombu
        task_default_queue="llm",
        task_create_missing_queues=False,
        task_send_sent_event=False,  # 488 → 315 tasks a second, for nothing that Flower needs
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a ticket is taken when a slot is free
        worker_disable_rate_limits=True,
        # None is cancelled: a ticket is acknowledged at once. Else Celery warns of what it will do one day.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_enable_prefetch_count_reduction=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        enable_utc=True,
        timezone="UTC",
    )
    lanes = pool.lanes if pool else config.lane_names()
    app.conf.task_queues = [Queue(lane, routing_key=lane) for lane in lanes]
    if pool is not None:
        app.conf.update(worker_pool=POOL, worker_consumer=CONSUMER, worker_concurrency=pool.slots)
    return app


__all__ = ["TASK", "Tickets", "broker_url", "depth_commands", "keyprefix", "make_app", "tls_of"]
