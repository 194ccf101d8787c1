"""The libraries of functions on Redis: who uses which, and the end of those that nobody uses any more."""

from __future__ import annotations

from redis.exceptions import NoPermissionError, RedisError, ResponseError

from aios_dist.journal import calling
from aios_dist.journal.access import Access
from aios_dist.journal.connection import unavailable


class Libraries(Access):
    """The part of the journal that knows them."""

    @property
    def library(self) -> str:
        """That of this release."""
        return self._scripts["commit"].library.name

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
        for name in await send("ZRANGEBYSCORE", self.keys.libraries, "-inf", int(now * 1e6)):
            library = name.decode("utf-8", "replace")
            if library == self.library:
                continue  # we are here, whatever we have said
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
            await send("ZREM", self.keys.libraries, name)
        return gone

    def _uses(self, now: float) -> tuple[str | int, ...]:
        """What says that this process uses its library."""
        until = int((now + calling.ANNOUNCED_S) * 1e6)
        return "ZADD", self.keys.libraries, "GT", until, self.library
