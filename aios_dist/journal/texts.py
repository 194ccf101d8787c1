"""The texts of jobs: which of them Redis is known to hold, and those that were read or written here."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aios_dist.errors import JournalDamaged
from aios_dist.journal.access import Access
from aios_dist.model import texts
from aios_dist.model.texts import Apart

MOST_KNOWN = 500_000
"""Addresses that are known to be there, of all jobs: some 50 MB. A worker's calls in flight are to have room:
for each message of theirs there are two."""

MOST_KEPT = 32 * 1024 * 1024
"""Bytes of texts that are kept here, as they are stored."""

LOOK_AGAIN_S = 30.0
"""After so long a producer looks again which workers there are before it writes apart."""

AT_ONCE = 200
"""Texts in one answer of Redis."""

NOBODY: frozenset[bytes] = frozenset()
NOTHING: Mapping[bytes, bytes] = {}


class Known:
    """What jobs are known to hold, by their births."""

    def __init__(self) -> None:
        self._there: OrderedDict[str, set[bytes]] = OrderedDict()
        self._count = 0

    def of(self, birth: str) -> Collection[bytes]:
        """Addresses of texts that the job is known to hold."""
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


class Kept:
    """Texts as they are stored, by the births of their jobs: what stands in the hash of one is no other's to
    read. The oldest jobs make way."""

    def __init__(self) -> None:
        self._texts: OrderedDict[str, dict[bytes, bytes]] = OrderedDict()
        self._bytes = 0

    def of(self, birth: str) -> Mapping[bytes, bytes]:
        """Those of a job."""
        kept = self._texts.get(birth)
        if kept is None:
            return NOTHING
        self._texts.move_to_end(birth)
        return kept

    def keep(self, birth: str, found: Mapping[bytes, bytes]) -> None:
        """These are kept, as long as there is room."""
        kept = self._texts.setdefault(birth, {})
        self._texts.move_to_end(birth)
        for address, text in found.items():
            if address not in kept:
                kept[address] = text
                self._bytes += len(text)
        while self._bytes > MOST_KEPT:
            self._bytes -= sum(map(len, self._texts.popitem(last=False)[1].values()))


class Texts(Access):
    """The part of the journal that takes documents apart and puts them together.

    Attributes:
        apart: they are written apart: all workers that were met can read it. Those of a release before could
            not.
        sizes: where they are cut.
    """

    apart = False
    sizes = texts.FORMAT

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._looked_at: float | None = None
        self._known = Known()
        self._kept = Kept()

    async def _look_again(self) -> None:
        """Whether documents may still be written apart: who writes seldom has not looked for long."""
        if self._looked_at is not None and time.monotonic() - self._looked_at > LOOK_AGAIN_S:
            await self._look()

    async def _look(self) -> None:
        """What workers there are: sets ``apart``."""

    def _apart(self, birth: str) -> Apart | None:
        """What takes apart the documents of a job; None: they are written whole."""
        return Apart(self._known.of(birth), self.sizes) if self.apart else None

    def _are_there(self, birth: str, written: Mapping[bytes, bytes]) -> None:
        """They are written."""
        if written:
            self._known.add(birth, written)
            self._kept.keep(birth, written)

    async def document(self, job: str, birth: str, stored: bytes) -> bytes:
        """A document, put together, as a record.

        Args:
            job, birth: whose.
            stored: as Redis holds it.

        Raises:
            JournalDamaged: it cannot be.
            RecordTooLarge, zlib.error, ValueError: it is none.
            FleetUnavailable: Redis cannot be reached, or refuses.
        """
        if stored[:1] != texts.ROPE:
            return stored
        found = await self._fetched(job, [stored], self._kept.of(birth))
        try:
            data = texts.whole(stored, found)
        except KeyError:
            raise JournalDamaged("A text that it refers to is not in Redis.") from None
        self._known.add(birth, found)
        self._kept.keep(birth, found)
        return b"j" + data

    async def _fetched(
        self, job: str, documents: Iterable[bytes], here: Mapping[bytes, bytes]
    ) -> dict[bytes, bytes]:
        """The texts that documents refer to, and that these do, as far as any document goes; those that are
        here are not asked for."""
        found: dict[bytes, bytes] = {}
        wanted = {address for document in documents for address in texts.referred(document)}
        for _ in range(texts.DEEPEST):
            if not wanted:
                break
            asked = [address for address in wanted if address not in here]
            got = {address: here[address] for address in wanted if address in here}
            pages = [asked[at : at + AT_ONCE] for at in range(0, len(asked), AT_ONCE)]
            key = self.keys.job(job)
            answers = await self._gather(("HMGET", key, *(b"x" + a for a in page)) for page in pages)
            for page, answer in zip(pages, answers, strict=True):
                got.update((a, text) for a, text in zip(page, answer, strict=True) if text is not None)
            found |= got
            wanted = {a for text in got.values() for a in texts.referred(text) if a not in found}
        return found


def texts_in(facts: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The texts of a job, from all the fields of its hash."""
    length = 1 + texts.ADDRESS
    return {name[1:]: text for name, text in facts.items() if len(name) == length and name[:1] == b"x"}
