"""Who goes first: the rules of lanes, shares of tenants, priorities of jobs, and what is known of agents."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Literal

from aios_dist.config import TenantConfig, check_limits, check_tenant
from aios_dist.errors import FleetUnavailable, JournalError
from aios_dist.journal.records import Said, Stray, TenantRules, as_text, micros
from aios_dist.journal.sweeping import Sweeping
from aios_dist.journal.views import LaneRules, Limits, TenantView
from aios_dist.model.jobs import Kind
from aios_dist.policies import Past, Rank, Waiting

RankStrays = Callable[[list[Stray]], Awaitable[list[tuple[Rank, str]]]]

Source = Literal["file", "hand"]

DAY_S = 86400
FALLBACK_AFTER_S = Limits().fallback_after
PAGE = 20
"""Steps that are ranked anew in one round trip: some milliseconds of Redis."""

SAID_AT_ONCE = 40
"""Tenants, and models, of which rules are written in one round trip: some milliseconds of Redis."""

MOST_PAGES = 500
MOST_STRAYS = MOST_PAGES * PAGE
"""… and in one call, so that the reconciler gets on with what else it does."""


class Ordering(Sweeping):
    """The part of the journal that policies and shares are kept by."""

    async def set_lane(
        self,
        lane: str,
        *,
        policy: str | None = None,
        oldest_every: int | None = None,
        fair: str | None = None,
        source: Literal["file", "hand", "reset"] = "hand",
    ) -> LaneRules:
        """Other rules for a lane, for the whole fleet; None leaves each as it is.

        They hold as soon as what waits there is gathered: at once where it is little or the lane is not
        shared, else some seconds for a million steps, in which the lane goes by those that it had. Should the
        caller or Redis go away meanwhile, the reconciler gathers the rest.

        Args:
            lane: its name.
            policy, oldest_every, fair: see :class:`aios_dist.config.LaneConfig`.
            source: ``file`` counts only where aios.toml says something new; ``reset`` is what it said last.

        Returns:
            The rules that the lane has then.
        """
        got = await self._run("lane", lane=lane, source=source, policy=policy, oldest=oldest_every, fair=fair)
        if got[4]:
            await self._gather_all([lane])
        return LaneRules(got[0].decode(), int(got[1]), got[2].decode(), bool(got[3]))

    async def lane_rules(self, lanes: Sequence[str]) -> dict[str, LaneRules]:
        """The rules of each lane as they are now."""
        found = await self._gather(
            ("HMGET", self.keys.lane(lane), "policy", "oldest", "fair", "hand") for lane in lanes
        )
        return {
            lane: LaneRules(
                (policy or b"fifo").decode("utf-8", "replace"),
                int(oldest) if oldest and oldest.isdigit() else 0,
                (fair or b"").decode("utf-8", "replace"),
                hand == b"1",
            )
            for lane, (policy, oldest, fair, hand) in zip(lanes, found, strict=True)
        }

    async def gather(self, lanes: Sequence[str] = ()) -> bool:
        """A slice more of what new rules of lanes ask for: some milliseconds of Redis.

        Args:
            lanes: their names; none for all that there are.

        Returns:
            Whether there is more to do now.
        """
        return bool(await self._run("gather", lanes=list(lanes)))

    async def _gather_all(self, lanes: Sequence[str]) -> None:
        """All slices that are left. Should Redis be away, the reconciler goes on: what was said stands."""
        with contextlib.suppress(FleetUnavailable, JournalError):
            while await self.gather(lanes):
                pass

    async def rank_strays(self, lane: str, rank: RankStrays) -> int:
        """Rank steps of a lane anew that were ranked under other rules; how many (``MOST_STRAYS`` at most).

        Args:
            lane: its name.
            rank: what the lane's policy says now of each, and its name (empty where it does not apply).
        """
        ranked: list[dict[str, object]] = []
        done: int = 0
        for _ in range(MOST_PAGES):
            placed, flat, took = await self._run("strays", lane=lane, ranked=ranked, page=PAGE)
            done += int(placed) + int(took)
            if not flat and not placed:  # (what was placed may have let in another that waits behind strays)
                return done
            if ranked and not placed and not took:
                return done  # the rules have changed once more: those who know them rank the rest
            strays = [_stray(*flat[at : at + 7]) for at in range(0, len(flat), 7)]
            ranked = [
                {"name": stray.name, **_plain(*said)}
                for stray, said in zip(strays, await rank(strays), strict=True)
            ]
        return done

    async def rerank(self, job: str, priority: int) -> tuple[str, int]:
        """Another priority for a job; its state (or ``unknown``), and how many waiting steps moved."""
        state, moved, more = await self._run("rerank", job=job, priority=priority)
        _, others = await self._follow(job, more)
        return state.decode(), moved + others

    async def pasts(self, agents: Iterable[str]) -> dict[str, Past]:
        """What is known of the earlier runs of agents; those that never succeeded are left out."""
        names = list(agents)
        found = await self._gather(("LRANGE", self.keys.past(agent), 0, -1) for agent in names)
        return {name: _past(runs) for name, runs in zip(names, found, strict=True) if runs}

    async def set_limits(self, model: str, limits: Limits) -> None:
        """The limits of a model, for the whole fleet, from now on, set by hand: all of them.

        Raises:
            ConfigError: one that cannot be.
        """
        check_limits(
            f"Model {model!r}:",
            max_in_flight=limits.in_flight,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )
        await self.say(Said(models={model: limits}), "hand")

    async def set_tenant(
        self,
        tenant: str,
        *,
        tokens_per_day: int | None = None,
        money_per_day: float | None = None,
        weight: float | None = None,
        max_in_flight: int | None = None,
    ) -> None:
        """What a tenant may spend on a day and gets of lanes, by hand; 0: no limit, None: as it is.

        Raises:
            ConfigError: a setting that cannot be.
        """
        given: dict[str, Any] = {
            "tokens_per_day": tokens_per_day,
            "money_per_day": money_per_day,
            "weight": weight,
            "max_in_flight": max_in_flight,
        }
        wanted = TenantConfig(**{field: value for field, value in given.items() if value is not None})
        check_tenant(f"Tenant {tenant!r}:", wanted)
        rules = TenantRules(tokens_per_day, money_per_day, weight, max_in_flight)
        await self.say(Said(tenants={tenant: rules}), "hand")

    async def say(self, said: Said, source: Source) -> None:
        """What aios.toml says, or a hand: in one write, all of it or nothing.

        Of many tenants or models in several, the last of which notes that all was said: who breaks off
        between says it again. Rules of lanes hold as in :meth:`set_lane`.

        Args:
            said: of models, tenants and lanes.
            source: ``file`` counts only where aios.toml says something new: what a hand set stays till then.
        """
        models = [
            _model(name, limits, source) for name, limits in (*said.models.items(), *_caps(said).items())
        ]
        tenants = [_tenant(name, rules) for name, rules in said.tenants.items()]
        lanes = [
            {"lane": name, "policy": r.policy, "oldest": r.oldest_every, "fair": r.fair}
            for name, r in said.lanes.items()
        ]
        count = max(len(models), len(tenants))
        for at in range(0, max(1, count), SAID_AT_ONCE):
            part, last = slice(at, at + SAID_AT_ONCE), at + SAID_AT_ONCE >= count
            left = await self._run(
                "rules",
                digest=said.digest() if source == "file" and last else "",
                source=source,
                models=models[part],
                tenants=tenants[part],
                lanes=lanes if last else [],
            )
        if left:
            await self._gather_all([lane.decode() for lane in left])

    async def unsaid(self, said: Said) -> list[str]:
        """Models and tenants of which aios.toml says what no worker has said yet, as ``tenant 'acme'``."""
        wanted = [(f"tenant {n!r}", self.keys.tenant(n), _tenant(n, r)) for n, r in said.tenants.items()]
        for name, limits in (*said.models.items(), *_caps(said).items()):
            what = f"tenant {name[1:]!r}" if name.startswith("@") else f"model {name!r}"
            wanted.append((what, self.keys.model(name), _model(name, limits, "file")))
        known = await self._gather(("HGET", key, "file") for _, key, _ in wanted)
        lines = zip(wanted, known, strict=True)
        return list(dict.fromkeys(w for (w, _, of), was in lines if of["says"].encode() != (was or b"")))

    async def knows(self, said: Said) -> bool:
        """Whether Redis still has what was said: it may have been emptied, or put back."""
        return bool(await self.connection.command("HEXISTS", self.keys.rules, said.digest()))

    async def tenant_names(self, lanes: Sequence[str]) -> set[str]:
        """Tenants that were given settings, or have had a share of one of the lanes."""
        registry, *shares = await self._gather(
            ("HKEYS", key) for key in (self.keys.registry, *map(self.keys.share, lanes))
        )
        given = {name.decode().removeprefix("tenant/") for name in registry if name.startswith(b"tenant/")}
        return given | {name.decode() for names in shares for name in names} - {"!", "!m"}

    async def tenant_views(self, tenants: Sequence[str], lanes: Sequence[str]) -> list[TenantView]:
        """Limits, shares and today's spending of each tenant, in one round trip for all."""
        seconds, _ = await self.connection.command("TIME")
        day = int(seconds) // DAY_S
        asked: list[list[tuple[Any, ...]]] = [
            [
                ("HMGET", self.keys.tenant(tenant), "l_tok", "l_mic", "w"),
                ("HGET", self.keys.model(f"@{tenant}"), "l_if"),
                ("ZCARD", self.keys.inflight(f"@{tenant}")),
                ("HMGET", self.keys.spend(tenant, day), "tok", "mic"),
                ("ZCARD", self.keys.held(f"@{tenant}")),
                ("HGET", self.keys.waits, f"held:@{tenant}"),
                *(("HGET", self.keys.share(lane), tenant) for lane in lanes),
            ]
            for tenant in tenants
        ]
        answers = iter(await self._gather(itertools.chain.from_iterable(asked)))
        views = []
        for tenant, commands in zip(tenants, asked, strict=True):
            given, most, busy, spent, alone, by_lane, *counters = itertools.islice(answers, len(commands))
            tokens, micros, weight = given
            views.append(
                TenantView(
                    name=tenant,
                    weight=float(weight or 1),
                    max_in_flight=int(most or 0),
                    in_flight=busy,
                    held=alone + int(by_lane or 0),
                    tokens_per_day=int(tokens or 0),
                    money_per_day=float(micros or 0) / 1e6,
                    tokens_today=int(spent[0] or 0),
                    money_today=float(spent[1] or 0) / 1e6,
                    counters={n: float(c) for n, c in zip(lanes, counters, strict=True) if c is not None},
                )
            )
        return views


def _caps(said: Said) -> dict[str, Limits]:
    """A tenant's limit of calls is that of a model of its own."""
    return {
        f"@{name}": Limits(in_flight=t.max_in_flight)
        for name, t in said.tenants.items()
        if t.max_in_flight is not None
    }


def _says(fields: dict[str, Any]) -> str:
    """What aios.toml says (without what it leaves out), to see later whether it says something new."""
    return " ".join(f"{f}={_exact(v)}" for f, v in fields.items() if v not in (None, 1.0 if f == "w" else 0))


def _exact(value: float) -> str:
    """The short form (what stands in Redis has it) where that is the number itself."""
    return short if float(short := f"{value:g}") == value else repr(value)


def _model(name: str, limits: Limits, source: Source) -> dict[str, Any]:
    fields = {
        "l_if": limits.in_flight,
        "l_rpm": limits.requests_per_minute,
        "l_tpm": limits.tokens_per_minute,
    }
    chain = " ".join(f"{lane}|{model}" for lane, model in limits.fallback)
    after = "" if limits.fallback_after == FALLBACK_AFTER_S else f"{_exact(limits.fallback_after)}"
    says = [_says(fields), chain and f"fallback={chain}", after and f"fallback_after={after}"]
    of_file = _flat({"fb": chain, "fba": int(limits.fallback_after * 1e6)})
    return {
        "name": name,
        "limits": [*_flat(fields), *(of_file if source == "file" and not name.startswith("@") else ())],
        "says": " ".join(filter(None, says)),
        "nothing": _says(dict.fromkeys(fields)),
        "any": int(any((*fields.values(), chain, after))),
    }


def _tenant(name: str, rules: TenantRules) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "l_tok": rules.tokens_per_day,
        "l_mic": None if rules.money_per_day is None else micros(rules.money_per_day),
        "w": rules.weight,
    }
    given = {field: value for field, value in wanted.items() if value is not None}
    usual = {field for field, value in given.items() if value == (1 if field == "w" else 0)}
    fields = {field: as_text(value) for field, value in given.items() if field not in usual}
    return {
        "name": name,
        "set": _flat(fields),
        "unset": sorted(usual),
        "says": _says(wanted),
        "nothing": _says(dict.fromkeys(wanted)),
    }


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]


def _plain(rank: Rank, policy: str) -> dict[str, object]:
    return {
        "policy": policy,
        "base": rank.base,
        "since": rank.since,
        "level": rank.per_priority,
        "group": rank.group,
    }


def _stray(
    name: bytes, kind: bytes, who: bytes, served: bytes, deadline: bytes, expected: bytes, cost: bytes
) -> Stray:
    step = name.decode().rpartition("/")[2]
    tenant, _, agent = who.decode().partition("|")
    waiting = Waiting(
        agent=agent,
        tenant=tenant,
        number=int(step) if step.isdigit() else 0,
        served=int(served) / 1e6,
        deadline=float(deadline) if deadline else None,
        expected_steps=int(expected) if expected else None,
        cost=float(cost),
    )
    return Stray(name.decode(), Kind(kind.decode()), waiting)


def _past(runs: Sequence[bytes]) -> Past:
    pairs = [run.split(b":") for run in runs]
    return Past(tuple(sorted(int(us) / 1e6 for us, _ in pairs)), sum(int(calls) for _, calls in pairs))
