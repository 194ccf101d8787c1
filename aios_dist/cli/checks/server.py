"""Redis: which one, and whether it keeps what it is given."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from redis.exceptions import NoPermissionError, RedisError

from aios_dist.cli.checks import Finding, ok, problem, warning
from aios_dist.errors import RedisUnfit
from aios_dist.journal import Journal
from aios_dist.journal.calling import switched_off
from aios_dist.journal.connection import cluster, unavailable
from aios_dist.journal.reading import too_old

SKEW_WARNING_S = 1.0
SKEW_PROBLEM_S = 16.0
"""What Celery itself calls a substantial drift."""


async def server(journal: Journal) -> AsyncIterator[Finding]:
    """Version and settings.

    Raises:
        FleetUnavailable: it cannot be reached.
    """
    try:
        info: dict[str, Any] = await journal.connection.client.info()
    except NoPermissionError:
        yield warning(
            "redis", "The account may not ask INFO: settings were not looked at.", "ACL SETUSER … +info"
        )
        return
    except RedisError as exc:
        if switched_off(exc):
            yield warning(
                "redis", "This Redis has no INFO: settings were not looked at.", "Take away what renames it."
            )
            return
        raise unavailable(exc, journal.config.redis_url, journal.connection.timeout) from exc
    if info.get("cluster_enabled"):
        raise cluster(journal.config.redis_url)
    if too_old(version := str(info.get("redis_version") or "")):
        raise RedisUnfit.with_fix(f"Redis {version} is too old", "use Redis 7 or newer, or Valkey")
    yield _version(info)
    for finding in (_role(info), _eviction(info), _append_only(info)):
        if finding is not None:
            yield finding


def _version(info: dict[str, Any]) -> Finding:
    kind = "Valkey" if "valkey_version" in info else "Redis"
    found = str(info.get("valkey_version") or info.get("redis_version") or "0")
    return ok("redis", f"{kind} {found} answers.")


def _role(info: dict[str, Any]) -> Finding | None:
    if info.get("role") == "slave":
        return problem("redis", "This is a replica.", "Point AIOS_REDIS_URL at the primary, or at Sentinel.")
    return None


def _eviction(info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        return problem(
            "eviction",
            f"Redis may evict keys (maxmemory-policy {policy}), which would lose jobs.",
            "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf.",
        )
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most and used > 0.75 * most:
        return warning(
            "eviction",
            f"Redis uses {used / most:.0%} of its maxmemory; when it is full, nothing can be submitted.",
            "Give it more memory, or shorten retention in [fleet].",
        )
    return ok("eviction", "Redis evicts nothing.")


def _append_only(info: dict[str, Any]) -> Finding:
    if not info.get("aof_enabled"):
        return problem(
            "append-only file",
            "Redis keeps no append-only file: a restart would lose jobs.",
            "CONFIG SET appendonly yes, and the same in redis.conf.",
        )
    status = info.get("aof_last_write_status", "ok")
    if status != "ok":
        return problem(
            "append-only file", f"The last write of it failed ({status}).", "Look at Redis' disk and log."
        )
    return ok("append-only file", "Redis keeps one.")


async def clock(journal: Journal) -> AsyncIterator[Finding]:
    """This machine's clock against Redis', which all leases go by."""
    best = (float("inf"), 0.0)
    for _ in range(3):
        before = time.time()
        there = await journal.now()
        after = time.time()
        best = min(best, (after - before, there - (before + after) / 2))
    trip, skew = best
    size = abs(skew)
    if size - trip / 2 <= SKEW_WARNING_S:
        yield ok("clock", f"This machine's clock and Redis' differ by {size * 1000:.0f} ms.")
        return
    what = (
        f"This machine's clock is {size:.1f} s {'behind' if skew > 0 else 'ahead of'} Redis'. "
        "Leases go by Redis' clock alone; Flower and logs do not."
    )
    made = problem if size > SKEW_PROBLEM_S else warning
    yield made("clock", what, "Run NTP on both (timedatectl set-ntp true).")
