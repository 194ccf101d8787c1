"""Celery tasks that submit jobs, with a fleet that was used in the worker's parent before it forked."""

from __future__ import annotations

import os

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
