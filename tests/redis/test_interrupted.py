"""Ctrl-C, a soft time limit, whatever a signal raises: the caller gets its own exception, at once."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aios_dist import Fleet, prompts
from aios_dist.config import Config, FleetConfig
from aios_dist.producer.sync import Job
from tests.fleet.wire import Wire

ONE = prompts("one", ["say {input}"], model="small")

WAITS: dict[str, Callable[[Fleet, Job], Any]] = {
    "result": lambda fleet, job: job.result(),
    "events": lambda fleet, job: list(job.events()),
    "as_completed": lambda fleet, job: list(fleet.as_completed([job])),
}


class SoftTimeLimit(Exception):
    """As Celery's: raised by a signal, wherever the caller stands."""


@pytest.fixture
def strike() -> Iterator[Callable[[], None]]:
    """Let a signal come in a moment."""

    def raises(*_: object) -> None:
        raise SoftTimeLimit

    before = signal.signal(signal.SIGUSR1, raises)
    timers: list[threading.Timer] = []

    def begin() -> None:
        main = threading.main_thread().ident
        assert main is not None
        timers.append(threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGUSR1)))
        timers[-1].start()

    yield begin
    for timer in timers:
        timer.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("hangs", [False, True], ids=["", "while Redis hangs"])
def test_what_a_signal_raises_in_a_wait_is_what_the_caller_gets_at_once(
    redis_server: Any,
    redis_url: str,
    fleet_name: str,
    strike: Callable[[], None],
    wait: Callable[[Fleet, Job], Any],
    hangs: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Wire(redis_server.port) as wire:
        config = Config(fleet=FleetConfig(name=fleet_name, redis_url=wire.url), models={})
        with Fleet(config) as fleet:
            job = fleet.submit(ONE, input="x")
            side = fleet._on()
            for _ in range(3):
                began = time.monotonic()
                strike()
                with wire.silent() if hangs else contextlib.nullcontext(), pytest.raises(SoftTimeLimit):
                    wait(fleet, job)
                assert time.monotonic() - began < 5
                while side.fleet._endings._waiting:  # nothing of it is waited for any more, over there
                    time.sleep(0.01)
            assert fleet.submit(ONE, input="x", id="after").view().id == "after"
    gc.collect()
    assert not [said.message for said in caplog.records if said.name == "asyncio"]
