"""What Flower would send and call a success, though nothing comes of it: refused, with what there is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from flower.api.control import ControlHandler
from tornado.web import authenticated

from aios_dist.broker.instead import RATE, TIME, revoked

SERVES = re.compile(r"job (\S+?)(?:, step |$)")
"""What a row is of (:mod:`aios_dist.worker.rows`)."""
SUBMIT = "A ticket without a step runs nothing: aios-dist submit, or Fleet.submit, submits a job."


class Refused(ControlHandler):  # type: ignore[misc]
    """Stands in the place of what Flower sends and calls a success, though nothing comes of it."""

    def initialize(self, why: str | Callable[[Any, str], str]) -> None:
        """``why``: the sentence, or what makes it of the application and the last part of the path."""
        self._why = why

    @authenticated
    async def post(self, what: str) -> None:
        """403 and the sentence, as Flower's own pages show it."""
        why = self._why if isinstance(self._why, str) else self._why(self.application, what)
        self.set_status(403)
        self.set_header("Content-Type", "text/plain; charset=UTF-8")
        self.write(why)


def why_not_revoked(web: Any, ticket: str) -> str:
    """With the job, where Flower has seen which step the ticket became."""
    task = web.events.state.tasks.get(ticket)
    found = SERVES.match(getattr(task, "args", None) or "")
    return revoked(found[1] if found else "")


REFUSED: dict[str, str | Callable[[Any, str], str]] = {
    "revoke": why_not_revoked,
    "abort": why_not_revoked,
    "timeout": TIME,
    "rate-limit": RATE,
    "apply": SUBMIT,
    "async-apply": SUBMIT,
    "send-task": SUBMIT,
}
"""Flower's ``/api/task/…``."""
