"""The steps of a wide job follow its state: a slice a script, until the last has."""

from __future__ import annotations

from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal.access import Access
from aios_dist.journal.records import Ticket, tickets_of


class Sweeping(Access):
    """The part of the journal that goes on where a verb has changed the state of a job of many steps."""

    async def sweep(self, job: str = "") -> tuple[str, list[Ticket], bool, int]:
        """A slice more of the steps of a job follow its state.

        Args:
            job: its id; empty for the next of all with which nobody goes on.

        Returns:
            The job, empty where there is none; tickets to publish; whether there is more to do now; how many
            waiting steps have another place in their line.
        """
        name, tickets, more, moved = await self._run("sweep", job=job)
        return name.decode(), tickets_of(tickets), bool(more), int(moved)

    async def _follow(self, job: str, more: int) -> tuple[list[Ticket], int]:
        """All the steps that are left. Should Redis be away, the reconciler goes on: the job's state stands.

        Args:
            job: its id.
            more: what its verb said: whether there are any.

        Returns:
            Tickets to publish, and how many waiting steps have another place in their line.
        """
        tickets: list[Ticket] = []
        moved, left = 0, bool(more)
        while left:
            try:
                _, some, left, placed = await self.sweep(job)
            except (FleetUnavailable, JournalError):
                break
            tickets += some
            moved += placed
        return tickets, moved
