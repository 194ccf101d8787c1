"""Celery tasks that submit jobs, with a fleet that was used in the worker's parent before it forked."""

from __future__ import annotations

import os
import time

from celery import Celery

from tests.producers.work import fleet_of, part

URL = os.environ.get("PRODUCERS_CELERY", "")
app = Celery("producers", broker=URL, backend=URL)
if URL:
    fleet_of("before")


@app.task(name="part")
def task(which: str, tag: str, count: int) -> dict[str, int]:
    """See :func:`tests.producers.work.part`."""
    return part(fleet_of(which), tag, count)


@app.task(name="waits", soft_time_limit=1)
def waits(how: str, id: str) -> tuple[str, float]:
    """What a wait for a job ends with, and how long it took."""
    fleet = fleet_of("before")
    job = fleet.job(id)
    began = time.monotonic()
    try:
        if how == "result":
            job.result(60)
        else:
            list(job.events(timeout=60) if how == "events" else fleet.as_completed([job], timeout=60))
    except Exception as error:
        return type(error).__name__, time.monotonic() - began
    return "nothing", 0.0
