"""The libraries of functions on Redis: who uses which, and the end of those that nobody uses any more."""

from __future__ import annotations

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from aios_dist.journal import calling
from aios_dist.journal.access import Access
from aios_dist.journal.connection import Full, unavailable


class Libraries(Access):
    """The part of the journal that knows them."""

    _full_at = float("-inf")
    """When Redis last refused, as it was full, what says who uses which."""

    @property
    def library(self) -> str:
        """That of this release."""
        return self._scripts["commit"].library.name

    async def other_library(self) -> bool:
        """Whether something else stands on Redis under the name of this release's library, as far as the
        account may ask.

        Raises:
            FleetUnavailable: Redis cannot be reached.
        """
        ours = self._scripts["commit"].library
        try:
            there = await self.connection.client.execute_command(
                "FUNCTION", "LIST", "LIBRARYNAME", ours.name, "WITHCODE"
            )
        except ResponseError:
            return False
        except RedisError as exc:
            raise unavailable(exc, self.config.redis_url) from None
        return bool(there) and not calling.is_ours(there, ours.text)

    async def drop_libraries(self, now: float) -> list[str]:
        """Redis forgets the libraries that no process of this fleet has announced for an hour: those of
        releases that are gone. Where another fleet still uses one, its next verb loads it again.

        Args:
            now: Redis' clock.

        Returns:
            Those that are gone.

        Raises:
            FleetUnavailable: Redis cannot be reached.
        """
        send, gone = self.connection.command, []
        try:
            await send(*self._uses(now))
        except Full:  # nobody can say what he uses
            self._full_at = now
        if now - self._full_at < calling.ANNOUNCED_S / 2:
            return []  # all have had the time to say it again
        for name in await send("ZRANGEBYSCORE", self.keys.libraries, "-inf", int(now * 1e6)):
            library = name.decode("utf-8", "replace")
            try:
                await self.connection.client.execute_command("FUNCTION", "DELETE", name)
                gone.append(library)
            except NoPermissionError:  # asked again when an hour has passed
                await send("ZADD", self.keys.libraries, "XX", int((now + calling.ANNOUNCED_S) * 1e6), name)
                continue
            except ResponseError:
                pass  # it is not there
            except RedisError as exc:
                raise unavailable(exc, self.config.redis_url) from None
            said = await send("ZSCORE", self.keys.libraries, name)
            if said is not None and float(said) <= now * 1e6:  # else somebody has loaded it again just now
                await send("ZREM", self.keys.libraries, name)
        return gone

    def _uses(self, now: float) -> tuple[str | int, ...]:
        """What says that this process uses its library."""
        until = int((now + calling.ANNOUNCED_S) * 1e6)
        return "ZADD", self.keys.libraries, "GT", until, self.library
