"""Tickets, and where they wait: on the Redis list of their lane. Without Celery, which no producer needs.

A ticket is a Celery message (protocol 2), with those fields only that Celery's worker and Flower read: a
million of them may wait. What is there is what ``send_task`` gives, and what is left out has Celery's own
default (contract tests compare both). Made here it takes a hundredth of the time, and its ``LPUSH`` travels
in the same round trip as the commit that made the step ready.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from aios_dist.config import Config
from aios_dist.journal import Form, Journal, Ticket

TASK = "aios.step"
"""The one Celery task."""

NO_ARGUMENTS = "[[],{},{}]"
"""A ticket's body: arguments, keyword arguments, and what is to follow the task, in JSON."""

MOST_AT_ONCE = 500
"""Tickets in one call of the journal's verb."""


def keyprefix(fleet: str) -> str:
    """Kombu's ``global_keyprefix`` of a fleet: its lists, ``unacked`` and events are the fleet's own."""
    return f"{fleet}."


def message(lane: str, id: str, headers: dict[str, str], tag: str) -> dict[str, Any]:
    """A ticket as Celery's worker reads it.

    Args:
        lane: the lane that it is for.
        id: its own name, which Flower shows.
        headers: ``root_id``, ``parent_id`` and ``argsrepr``, as far as there are any.
        tag: what kombu tells the messages that a worker holds apart by.
    """
    return {
        "body": NO_ARGUMENTS,
        "content-type": "application/json",
        "headers": {"task": TASK, "id": id, **headers},
        "properties": {"delivery_tag": tag, "delivery_info": {"exchange": "", "routing_key": lane}},
    }


def arguments(job: str, step: str) -> str:
    """A step, as people see it in the place of a task's arguments (the verb ``onward`` writes the same)."""
    return f"['{job}', '{step}']"


class Tickets:
    """Makes the Redis commands that put tickets on their lanes."""

    def __init__(self, config: Config) -> None:
        self._prefix = keyprefix(config.fleet.name)

    def key(self, lane: str) -> str:
        """The Redis list of a lane's tickets."""
        return f"{self._prefix}{lane}"

    def command(self, ticket: Ticket, root: str | None = None, parent: str | None = None) -> tuple[Any, ...]:
        """The command that publishes one ticket.

        Args:
            ticket: the lane, and the step that it is published for.
            root, parent: Celery ids of the chain's first ticket and of the one before, for Flower.
        """
        id = secrets.token_hex(8)
        said = arguments(ticket.job, ticket.step)
        return ("LPUSH", self.key(ticket.lane), _encoded(ticket.lane, id, said, root, parent))

    def form(self, parent: str | None = None, root: str | None = None) -> Form:
        """What verbs of the journal make tickets from, in the write that makes their steps ready.

        Args:
            parent, root: as in :meth:`command`.
        """
        return Form(self._prefix, _encoded("<lane>", "<id>", "<step>", root, parent))

    def commands(
        self, tickets: Iterable[Ticket], parent: str | None = None, root: str | None = None
    ) -> list[Any]:
        """One command a ticket; for tickets of one turn the order is that of the steps."""
        return [self.command(t, root, parent) for t in tickets]

    async def publish(
        self, journal: Journal, tickets: Sequence[Ticket], parent: str | None = None, root: str | None = None
    ) -> None:
        """Put tickets on their lanes, no more than these have ready steps (they may have been ready before).

        Raises:
            FleetUnavailable: Redis is away; the reconciler makes up for it.
        """
        for start in range(0, len(tickets), MOST_AT_ONCE):
            made: dict[str, list[bytes]] = {}
            for ticket in tickets[start : start + MOST_AT_ONCE]:
                made.setdefault(ticket.lane, []).append(self.command(ticket, root, parent)[2])
            await journal.publish(made, {lane: self.key(lane) for lane in made})


def _encoded(lane: str, id: str, said: str, root: str | None, parent: str | None) -> bytes:
    headers = {"root_id": root or id, "argsrepr": said}
    if parent is not None:
        headers["parent_id"] = parent
    return msgspec.json.encode(message(lane, id, headers, tag=id))


def depth_commands(config: Config, lanes: Iterable[str]) -> list[tuple[str, str]]:
    """The commands that count the tickets of lanes."""
    prefix = keyprefix(config.fleet.name)
    return [("LLEN", f"{prefix}{lane}") for lane in lanes]


__all__ = ["NO_ARGUMENTS", "TASK", "Tickets", "arguments", "depth_commands", "keyprefix", "message"]
