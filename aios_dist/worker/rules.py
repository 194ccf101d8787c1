"""A worker and the rules: what aios.toml says is written, what the fleet says is read and kept to."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from aios_dist import policies
from aios_dist.config import Config
from aios_dist.errors import FleetUnavailable
from aios_dist.journal import Journal, Said, Stray
from aios_dist.journal.ordering import MOST_STRAYS
from aios_dist.program import turns
from aios_dist.program.turns import Catalog

logger = logging.getLogger("aios_dist.rules")

MOST_PASTS = 1000
"""Agents whose earlier runs a worker keeps in mind."""


class Rules:
    """Limits of models and tenants, policies of lanes; and what policies want to know of agents.

    Attributes:
        catalog: what is known of the fleet.
        served: the agents of steps that were served of late.
    """

    def __init__(self, config: Config, journal: Journal, lanes: Sequence[str], models: Sequence[str]) -> None:
        self.catalog = Catalog.of(config)
        self.served: set[str] = set()
        self._config = config
        self._journal = journal
        self._lanes = lanes
        self._models = models
        self._unknown: set[str] = set()

    def said(self) -> Said:
        """What aios.toml says of the models that this worker serves, of tenants and of lanes."""
        return Said.of(self._config, self._models)

    async def write(self) -> None:
        """What aios.toml says holds for the whole fleet; what a hand has set stays until it says other."""
        await self._journal.say(self.said(), "file")

    async def keep(self) -> None:
        """Say it again where Redis has lost it: it was emptied, or put back."""
        if not await self._journal.knows(self.said()):
            logger.warning("Redis has lost what aios.toml says of limits and rules: said again.")
            await self.write()

    async def read(self, *more: str) -> None:
        """The fleet's models and lanes' policies as they are now, and the pasts of agents served of late."""
        await self.fresh()
        lanes = sorted({*self._lanes, *self.catalog.models.values(), *more})
        rules = await self._journal.lane_rules(lanes)
        self._say_unknown({r.policy for r in rules.values()})
        agents, self.served = self.served, set()
        names = {lane: r.policy for lane, r in rules.items()}
        pasts = self.catalog.pasts
        if self.catalog.under(names, pasts).looks_back:
            known = pasts if len(pasts) < MOST_PASTS else {}
            pasts = {**known, **await self._journal.pasts(agents)}
        self.catalog = self.catalog.under(names, pasts)

    async def fresh(self) -> None:
        """Ask the fleet which models there are; where Redis is away, what was known stands."""
        try:
            found = Catalog.of(self._config, (await self._journal.registry()).models)
        except FleetUnavailable:
            return
        self.catalog = found.under(self.catalog.lane_policies, self.catalog.pasts)

    def _say_unknown(self, names: set[str]) -> None:
        for name in sorted(names - set(policies.names()) - self._unknown):
            self._unknown.add(name)
            logger.warning(
                "A lane has the policy %r, which this version does not know: it ranks steps there as fifo.",
                name,
            )

    async def rank_anew(self, lane: str) -> bool:
        """Steps that were ranked under other rules than their lane has now; whether there may be more."""
        await self.read(lane)

        async def rank(strays: list[Stray]) -> list[tuple[policies.Rank, str]]:
            catalog = self.catalog
            if catalog.looks_back:
                found = await self._journal.pasts({stray.waiting.agent for stray in strays})
                catalog = catalog.under(catalog.lane_policies, found)
            return [turns.rank(s.kind, lane, s.waiting, catalog) for s in strays]

        moved = await self._journal.rank_strays(lane, rank)
        if moved:
            logger.info("Ranked %d waiting steps of lane %s anew.", moved, lane)
        return moved >= MOST_STRAYS
