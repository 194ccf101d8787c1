"""The texts of jobs: which of them Redis is known to hold, and those that were read or written here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aios_dist.errors import JournalDamaged
from aios_dist.journal.access import Access
from aios_dist.model import texts
from aios_dist.model.texts import Apart

MOST_KNOWN = 200_000
"""Addresses that are known to be there, of all jobs: some 20 MB."""

MOST_KEPT = 32 * 1024 * 1024
"""Bytes of texts that are kept here, as they are stored."""

AT_ONCE = 200
"""Texts in one answer of Redis."""

NOBODY: frozenset[bytes] = frozenset()


class Known:
    """What the tables of jobs are known to hold, by the births of these jobs."""

    def __init__(self) -> None:
        self._there: OrderedDict[str, set[bytes]] = OrderedDict()
        self._count = 0

    def of(self, birth: str) -> Collection[bytes]:
        """Addresses that are known to be in the job's table."""
        there = self._there.get(birth)
        if there is None:
            return NOBODY
        self._there.move_to_end(birth)
        return there

    def add(self, birth: str, addresses: Iterable[bytes]) -> None:
        """These are there."""
        there = self._there.setdefault(birth, set())
        self._there.move_to_end(birth)
        before = len(there)
        there.update(addresses)
        self._count += len(there) - before
        while self._count > MOST_KNOWN and len(self._there) > 1:
            self._count -= len(self._there.popitem(last=False)[1])

    def forget(self, birth: str) -> None:
        """Not all of it was."""
        self._count -= len(self._there.pop(birth, ()))


class Kept(dict[bytes, bytes]):
    """Texts by address, as they are stored; the oldest make way."""

    def __init__(self) -> None:
        super().__init__()
        self._bytes = 0

    def keep(self, found: Mapping[bytes, bytes]) -> None:
        """These are kept, as long as there is room."""
        for address, text in found.items():
            if address not in self:
                self[address] = text
                self._bytes += len(text)
        while self._bytes > MOST_KEPT:
            self._bytes -= len(self.pop(next(iter(self))))


class Texts(Access):
    """The part of the journal that takes documents apart and puts them together.

    Attributes:
        apart: they are written apart: all workers that were met can read it. Those of a release before could
            not.
    """

    apart = False
    sizes = texts.FORMAT

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._known = Known()
        self._texts = Kept()

    def _apart(self, birth: str) -> Apart | None:
        """What takes apart the documents of a job; None: they are written whole."""
        return Apart(self._known.of(birth), self.sizes) if self.apart else None

    def _are_there(self, birth: str, apart: Apart | None) -> None:
        """They are written."""
        if apart is not None and (apart.new or apart.needs):
            self._known.add(birth, apart.new)
            self._texts.keep(apart.new)

    async def document(self, job: str, birth: str, stored: bytes) -> bytes:
        """A document, put together, as a record.

        Args:
            job, birth: whose.
            stored: as Redis holds it.

        Raises:
            JournalDamaged: it cannot be.
            FleetUnavailable: Redis cannot be reached, or refuses.
        """
        if stored[:1] != texts.ROPE:
            return stored
        found = await self._fetched(job, [stored], self._texts)
        self._known.add(birth, found)
        self._texts.keep(found)
        try:
            return b"j" + texts.whole(stored, found)
        except KeyError:
            raise JournalDamaged("A text that it refers to is not in Redis.") from None

    async def _fetched(
        self, job: str, documents: Iterable[bytes], here: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """All texts that documents refer to, and that these do; those that are here are not asked for."""
        found: dict[bytes, bytes] = {}
        wanted = {address for document in documents for address in texts.referred(document)}
        while wanted:
            asked = [address for address in wanted if address not in here]
            got = {address: here[address] for address in wanted if address in here}
            pages = [asked[at : at + AT_ONCE] for at in range(0, len(asked), AT_ONCE)]
            answers = await self._gather(("HMGET", self.keys.texts(job), *page) for page in pages)
            for page, answer in zip(pages, answers, strict=True):
                got.update((a, text) for a, text in zip(page, answer, strict=True) if text is not None)
            found |= got
            wanted = {a for text in got.values() for a in texts.referred(text)} - found.keys()
        return found
