"""The Celery app around a worker's runtime."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import uuid
from pathlib import Path
from typing import Any, NoReturn

import greenback
import msgspec
from celery import Celery, signals
from celery.utils.nodenames import node_format

from aios_dist.broker.app import TASK, make_app
from aios_dist.config import Config, load
from aios_dist.errors import AiosError
from aios_dist.text import masking
from aios_dist.worker import starting, steering
from aios_dist.worker.telemetry import (
    Dispatcher,
    StepRequest,
    answer_again,
    mask_replies,
    say_process,
    steady,
)
from aios_dist.worker.work import Origin
from aios_dist.worker.worker import Runtime


def worker_app(pool: str, *, slots: int | None = None, config: Config | None = None) -> Celery:
    """The Celery app of a pool: what ``celery -A workers.llm worker`` starts.

    Args:
        pool: a pool of ``aios.toml``.
        slots: steps held at a time; the pool's own number when None (``-c N`` overrides both).
        config: the configuration; read from ``aios.toml`` and the environment when None.

    Returns:
        The app. Its queues, slots and pool are set; ``-Q`` and ``-P`` are not needed.
    """
    starting.forget_variables()
    try:
        config = config if config is not None else load()
        settings = config.pool(pool)
        if slots is not None:
            starting.check_slots(slots, f"worker_app({pool!r}, slots=…)")
    except AiosError as exc:
        _refuse(exc)
    if slots is not None:
        settings = msgspec.structs.replace(settings, slots=slots)
    app = make_app(config, settings, name=f"aios-{pool}")
    runtime = Runtime(config, pool, settings)
    app.aios_runtime = runtime
    app.steps["consumer"].add(Dispatcher)
    masking.install()
    answer_again(lambda: runtime.rows.again() if hasattr(runtime, "rows") else 0)
    steering.install(runtime)
    mask_replies()

    # (A ticket is no row in Flower: no events.)
    @app.task(name=TASK, bind=True, throws=(AiosError,), Request=StepRequest, send_events=False)
    def step(self: Any) -> str:
        request = self.request
        lane = (request.delivery_info or {}).get("routing_key") or settings.lanes[0]
        return str(greenback.await_(runtime.runner.serve(lane, Origin(request.id, request.root_id))))

    runtime.task = step
    StepRequest.claim_of = runtime.claim_of
    steady()

    @signals.worker_shutting_down.connect(weak=False)
    def told_to_end(how: str = "", **_: Any) -> None:
        # Celery may hang at a silent Redis before it comes to the pool, and in the pool it waits for us.
        if how != "Cold":
            runtime.begin_to_end()
        elif runtime.cold:
            runtime.ending.cut()
        else:
            runtime.cold = True
            runtime.hurry()

    @signals.celeryd_init.connect(weak=False)
    def look(instance: Any = None, options: Any = None, **_: Any) -> None:
        if getattr(instance, "app", None) is not app:
            return
        log = str((options or {}).get("logfile") or "")
        try:
            starting.check_options(pool, settings, options or {})
            starting.check_settings(app, config, settings)
        except AiosError as exc:
            _refuse(exc, node_format(log, instance.hostname))
        except Exception as exc:
            _break(exc)
        starting.survive_sigusr2()
        starting.begin_anew_at_sighup(runtime.begin_anew)

    @signals.celeryd_after_setup.connect(weak=False)
    def say(instance: Any = None, **_: Any) -> None:
        if getattr(instance, "app", None) is app:  # by now there is a log
            starting.say_what_is_not_followed(config)

    @signals.worker_shutdown.connect(weak=False)
    def ended(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is app:
            runtime.end(int(getattr(sender, "exitcode", None) or 0))

    @signals.worker_init.connect(weak=False)
    def check(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "app", None) is not app:
            return
        try:
            starting.pin(sender)
            runtime.id = f"{sender.hostname}:{os.getpid()}:{uuid.uuid4().hex[:6]}"  # as Flower calls it
            say_process(runtime.id)
            runtime.slots = sender.concurrency
            runtime.check()
        except AiosError as exc:
            _refuse(exc, node_format(str(sender.logfile or ""), sender.hostname))
        except Exception as exc:
            _break(exc)

    return app


def _refuse(error: AiosError, log: str = "") -> NoReturn:
    """One sentence and exit code 2: there is nothing in a traceback for the one who set this up.

    Also in its log file, if it has one: what ``celery worker --detach`` and ``celery multi`` start has no
    other place where somebody would read it.
    """
    said = f"aios-dist: {error}\n"
    sys.stderr.write(said)
    if log:
        with contextlib.suppress(OSError), Path(log).open("a", encoding="utf-8") as file:
            file.write(said)
    raise SystemExit(2)


def _break(error: Exception) -> NoReturn:
    """What nobody has thought of: Celery would log it, and go on without having looked."""
    traceback.print_exception(error)
    raise SystemExit(1) from error
