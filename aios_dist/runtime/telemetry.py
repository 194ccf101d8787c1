"""Tells Flower which step each ticket became.

A ticket is published for one step and claims another (late binding), so the row that Flower made from the
ticket is given its name, arguments and model again when the step is known. Never a prompt, never a key.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps

from aios_dist.journal import Claim


class Dispatcher(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Keeps hold of the consumer: its event dispatcher is made anew with each connection.

    Sent through it, our event cannot overtake the worker's own ``task-received``.
    """

    requires = ("celery.worker.consumer.events:Events",)
    consumer: Any = None

    def start(self, consumer: Any) -> None:
        """The worker has a connection."""
        type(self).consumer = consumer


def name_row(ticket: str, claim: Claim) -> None:
    """Give the ticket's row in Flower the name and arguments of the step that it became."""
    dispatcher = getattr(Dispatcher.consumer, "event_dispatcher", None)
    if dispatcher is None or not dispatcher.enabled:
        return
    step = "turn" if claim.is_turn else claim.step
    dispatcher.send(
        "task-received",
        uuid=ticket,
        name=claim.record.agent,
        args=f"job {claim.job}, step {step}",
        kwargs=f"{claim.kind.value} {claim.label}" + (f", attempt {claim.attempt}" if claim.attempt > 1 else ""),
        retries=claim.attempt - 1,
    )
