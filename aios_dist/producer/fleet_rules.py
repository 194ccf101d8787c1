"""A fleet as a whole: what its lanes, tenants and workers do, and rules that are changed while it runs."""

from __future__ import annotations

import abc
import asyncio

from aios_dist import policies
from aios_dist.broker.tickets import depth_commands
from aios_dist.config import Config, LaneConfig, check_lane
from aios_dist.errors import InvalidInput, UnknownName
from aios_dist.journal import DeadLetter, Journal, LaneRules, LaneView, Registry, TenantView
from aios_dist.model.given import looked_up, named, whole


class Steering(abc.ABC):
    """The part of a fleet's handle that is about no job in particular."""

    def __init__(self, config: Config) -> None:
        if not isinstance(config, Config):  # not shown: what is given may be a URL with a password
            raise InvalidInput(
                f"A fleet is made of a Config, not of a {type(config).__name__}: take Fleet.from_env(), or "
                "Fleet(Config(fleet=FleetConfig(redis_url=…)))."
            )
        self.config = config
        self._rules_until = 0.0
        """Until then, on the loop's clock, what is known of the lanes' rules is trusted."""

    @property
    @abc.abstractmethod
    def journal(self) -> Journal:
        """Of this process. Raises FleetUnavailable when the fleet has been closed."""

    # Looking -------------------------------------------------------------------------------------------

    async def registry(self) -> Registry:
        """Workers, models and agents, as the workers said."""
        return await self.journal.registry()

    async def lanes(self) -> list[LaneView]:
        """Every lane with its waiting steps, tickets, slots and workers."""
        registry = await self.journal.registry()
        names = registry.lanes(self.config.lane_names())
        waiting, rules = await asyncio.gather(
            self.journal.waiting(names, due=True), self.journal.lane_rules(names)
        )
        send = self.journal.connection.command
        depths = await asyncio.gather(*(send(*c) for c in depth_commands(self.config, names)))
        return [
            LaneView(
                name=name,
                ready=waiting[name].ready,
                tickets=depth,
                slots=sum(w.slots for w in registry.workers if name in w.lanes),
                workers=sum(name in w.lanes for w in registry.workers),
                rules=rules[name],
                tenants=waiting[name].tenants,
                tenant_count=waiting[name].tenant_count,
                due=waiting[name].due,
                in_flight=sum(w.in_flight for w in registry.live(self.config.fleet.lease) if name in w.lanes),
                to_come=self._to_come(name, rules[name]),
            )
            for name, depth in zip(names, depths, strict=True)
        ]

    def _to_come(self, lane: str, now: LaneRules) -> LaneRules | None:
        if lane not in self.config.lanes or now.by_hand:
            return None
        said = LaneRules.of(self.config.lane(lane))
        return said if said != now else None

    async def tenants(self) -> list[TenantView]:
        """Tenants that have settings, or a share of a lane, as they stand."""
        lanes = self.config.lane_names()
        names = {*self.config.tenants, *await self.journal.tenant_names(lanes)}
        return await self.journal.tenant_views(sorted(names), lanes)

    # Steering ------------------------------------------------------------------------------------------

    async def set_lane(
        self,
        name: str,
        *,
        policy: str | None = None,
        oldest_every: int | None = None,
        fair: str | None = None,
    ) -> LaneRules:
        """Other rules for a lane of the running fleet; None leaves each as it is.

        They hold as soon as what waits there is gathered, which this waits for: at once where it is little,
        some seconds for a million steps of a shared lane. They hold until they are changed again, or a worker
        starts whose aios.toml says something new.

        Args:
            name: the lane.
            policy, oldest_every, fair: see :class:`aios_dist.config.LaneConfig`; with a new policy and no
                ``oldest_every``, that policy's own.

        Raises:
            ConfigError: a rule that cannot be.
            UnknownName: neither aios.toml nor any worker has such a lane.
        """
        await self._known_lane(name)
        check_lane(
            f"Lane {name!r}:",
            LaneConfig("fifo" if policy is None else policy, oldest_every, "" if fair is None else fair),
        )
        if policy is not None:
            oldest_every = policies.oldest_every(policy, oldest_every)
        rules = await self.journal.set_lane(name, policy=policy, oldest_every=oldest_every, fair=fair)
        self._rules_until = 0.0  # (others of this process may have read those that were until now)
        return rules

    async def reset_lane(self, name: str) -> LaneRules:
        """The lane's rules as aios.toml gave them last.

        Raises:
            UnknownName: neither aios.toml nor any worker has such a lane.
        """
        await self._known_lane(name)
        rules = await self.journal.set_lane(name, source="reset")
        self._rules_until = 0.0
        return rules

    async def _known_lane(self, name: str) -> None:
        looked_up("Lane", name)
        known = (await self.registry()).lanes(self.config.lane_names())
        if name not in known:
            raise UnknownName(f"There is no lane {name!r}; known are {', '.join(known)}.")

    async def set_tenant(
        self,
        name: str,
        *,
        weight: float | None = None,
        max_in_flight: int | None = None,
        tokens_per_day: int | None = None,
        money_per_day: float | None = None,
    ) -> None:
        """Other limits and another share for a tenant of the running fleet, at once; None leaves each.

        Args:
            name: the tenant.
            weight, max_in_flight, tokens_per_day, money_per_day: see
                :class:`aios_dist.config.TenantConfig`; 0 is no limit.

        Raises:
            ConfigError: a setting that cannot be.
            InvalidInput: not a tenant's name.
        """
        named("Tenant", name)
        await self.journal.set_tenant(
            name,
            weight=weight,
            max_in_flight=max_in_flight,
            tokens_per_day=tokens_per_day,
            money_per_day=money_per_day,
        )

    # Dead letters --------------------------------------------------------------------------------------

    async def dead_letters(self, limit: int = 100) -> list[DeadLetter]:
        """Steps that were given up because they lost their worker each time, newest first."""
        return await self.journal.dead_letters(whole("limit", limit))

    async def drop_dead(self, job: str) -> int:
        """Forget the dead letters of a job; how many there were."""
        return await self.journal.drop_dead(looked_up("Job id", job))
