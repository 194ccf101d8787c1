"""What a worker may be started with. What would change it unseen is pinned, or refused in a sentence.

``celery -A workers.llm worker`` takes all of Celery's options, and each of them from a variable as well
(``CELERY_WORKER_POOL``): an option is somebody's wish and refused, a variable may be another application's
and is not followed.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

import click
from celery import Celery, concurrency, platforms
from celery.app.defaults import SETTING_KEYS
from celery.apps import worker as of_celery

from aios_dist.broker.app import make_app
from aios_dist.broker.pinned import set_for_others
from aios_dist.config import Config, PoolConfig
from aios_dist.errors import ConfigError
from aios_dist.text.masking import masked
from aios_dist.worker.pool import MOST_SLOTS, AsyncioPool

logger = logging.getLogger("aios_dist.starting")

WITHOUT_EFFECT = {
    "time_limit": "give the model a `timeout`, and tools and turns `tool_timeout` and `turn_timeout`",
    "soft_time_limit": "give the model a `timeout`, and tools and turns `tool_timeout` and `turn_timeout`",
    "max_tasks_per_child": "set `memory_limit` in [pools.{pool}]",
    "max_memory_per_child": "set `memory_limit` in [pools.{pool}]",
    "autoscale": "set `slots` in [pools.{pool}]: one that waits costs next to nothing",
}
"""Celery's options that would do nothing here, and what to do instead."""

LANES = ("queues", "exclude_queues")

VARIABLE = "CELERY_WORKER_"
FOLLOWED = ("HOSTNAME", "LOGLEVEL", "LOGFILE", "PIDFILE", "UID", "GID", "UMASK", "WORKDIR")
"""Variables for options that make no other worker of it."""
_forgotten: list[str] = []

OURS = ("accept_content", "broker_", "control_", "enable_utc", "event_", "security_", "task_", "worker_")
"""Celery's settings, by how they begin, on which it depends what a worker reads and who hears it …"""

THEIRS = {
    "broker_connection_timeout",
    "broker_heartbeat",
    "broker_heartbeat_checkrate",
    "broker_pool_limit",
    "worker_concurrency",  # the slots, looked at on its own
    "worker_hijack_root_logger",
    "worker_log_color",
    "worker_log_datefmt",
    "worker_log_format",
    "worker_redirect_stdouts",
    "worker_redirect_stdouts_level",
    "worker_state_db",
    "worker_task_log_datefmt",
    "worker_task_log_format",
    "worker_timer_precision",
}
"""… but for these, which are the user's."""


def check_options(pool: str, settings: PoolConfig, options: Mapping[str, Any]) -> None:
    """Look at what Celery's worker was started with, before it takes any of it.

    Args:
        pool, settings: the pool that it is to serve.
        options: as Celery's ``Worker`` got them; those that it did not get may be left out.

    Raises:
        ConfigError: one of them cannot be; says what to use instead.
    """
    context = _celerys_command()
    if context is not None and context.args:
        raise ConfigError(
            f"A worker takes no settings of Celery's ({' '.join(context.args)}): its own are in aios.toml."
        )
    for name, instead in WITHOUT_EFFECT.items():
        if options.get(name):
            raise ConfigError(f"{_called(name)} has no effect here: {instead.format(pool=pool)}.")
    chosen = set(_list(options.get("queues"))) or set(settings.lanes)
    if chosen - set(_list(options.get("exclude_queues"))) != set(settings.lanes):
        name = LANES[0] if options.get("queues") else LANES[1]
        raise ConfigError(
            f"{_called(name)} would give this worker other lanes than its pool has "
            f"({', '.join(settings.lanes)}): leave it out; write `lanes` in [pools.{pool}], or start a "
            "worker of another pool."
        )


def check_settings(app: Celery, config: Config, settings: PoolConfig) -> None:
    """Look at what the file with the app, or a module that it names, has made of our settings of Celery.

    Raises:
        ConfigError: one of them is another now: such a worker may read other lists, or another Redis.
    """
    conf, made = app.conf, make_app(config, settings, current=False).conf
    pinned = {name for name in SETTING_KEYS if name.startswith(OURS)} - THEIRS
    changed = sorted(  # as it is told, and as it is followed: of some that is not the same
        name for name in pinned if conf[name] != made[name] or getattr(conf, name) != getattr(made, name)
    )
    if changed:
        raise ConfigError(
            "The file of this worker changes settings of Celery's that are the fleet's "
            f"({', '.join(changed)}): leave them out. Lanes, slots, models and time-outs are in aios.toml."
        )


def check_slots(slots: object, where: str) -> None:
    """Raises ConfigError: so many slots no worker can have; ``where`` says who wants them."""
    if type(slots) is not int or not 1 <= slots <= MOST_SLOTS:
        raise ConfigError(f"{where}: a worker has from 1 to {MOST_SLOTS:,} slots, not {slots}.")


def pin(worker: Any) -> None:
    """Take back what a variable has changed in a worker that is about to start, and look at its pool.

    Raises:
        ConfigError: its pool is another one than ours, or it has no number of slots.
    """
    check_slots(worker.concurrency, "--concurrency (or worker_concurrency)")
    if os.environ.get("REMAP_SIGTERM"):
        of_celery.REMAP_SIGTERM = ""
        of_celery.install_worker_term_handler = functools.partial(
            of_celery._shutdown_handler, sig="SIGTERM", how="Warm"
        )
    found = concurrency.get_implementation(worker.pool_cls)
    if found is not AsyncioPool:
        name = found.__module__.rpartition(".")[2]
        raise ConfigError(
            f"A worker has a pool of its own, and takes no other ({name}): leave out -P and worker_pool. "
            "Its slots are coroutines; tools have threads."
        )


def forget_variables() -> None:
    """Take variables for a worker's options out of the environment, before Celery's command reads them."""
    context = click.get_current_context(silent=True)
    if context is None or context.find_root().command.name != "celery":
        return  # nobody reads them
    for name in sorted(os.environ):
        if name.startswith(VARIABLE) and name.removeprefix(VARIABLE) not in FOLLOWED:
            del os.environ[name]
            _forgotten.append(name)


def say_what_is_not_followed(config: Config) -> None:
    """Once, where another application's settings of Celery are in the environment."""
    if names := set_for_others() + _forgotten:
        logger.warning(
            "Not followed, as no setting of this fleet: %s. Its Redis is %s, its slots are in aios.toml.",
            ", ".join(dict.fromkeys(names)),
            masked(config.fleet.redis_url),
        )


def _celerys_command() -> click.Context | None:
    """``celery … worker``, where that is what runs."""
    # Looked up and not imported: without its command line, Celery needs neither that nor pygments (0.1 s).
    command = getattr(sys.modules.get("celery.bin.worker"), "worker", None)
    context = click.get_current_context(silent=True)
    return context if context is not None and context.command is command else None


def begin_anew_at_sighup(begin_anew: Callable[[str], None]) -> None:
    """In the place of Celery's own way, which does not find the command again where that was a module."""

    def install(_worker: Any, sig: str = "SIGHUP") -> None:
        platforms.signals[sig] = lambda *_: begin_anew(sig)

    of_celery.install_worker_restart_handler = install


def survive_sigusr2() -> None:
    """Nothing listens to it, and a process that does not either is ended by it.

    With ``CELERY_RDBSIG`` it is Celery's: it opens a debugger.
    """
    if hasattr(signal, "SIGUSR2") and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
        said = b"aios-dist: SIGUSR2 does nothing here; SIGUSR1 shows where each thread is.\n"
        signal.signal(signal.SIGUSR2, lambda *_: _write(said))


def _write(said: bytes) -> None:
    try:
        os.write(2, said)
    except OSError:
        return


def _called(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _list(value: Any) -> list[str]:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value or ())
