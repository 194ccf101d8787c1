"""Whether an address of Redis can be one, in one sentence that shows no password; and what it names."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from aios_dist.errors import ConfigError
from aios_dist.text.masking import masked

FIELDS = ("db", "master", "sentinel_password")
"""What may stand behind the ``?``, besides what begins with ``ssl_``."""

NO_URL = (
    "is not a URL; in a password, every character but letters and digits is written as % and two digits "
    "(@ is %40, / is %2F)."
)
"""Not in the words of urllib, which repeat a piece of a password that holds a `/`, `?` or `#`."""


def check_url(place: str, url: str) -> None:
    """Raises ConfigError: no fleet's Redis can be there; ``place`` (a file, a variable) begins it."""
    if wrong := wrong_with(url):
        raise ConfigError(f"{place}: redis_url {masked(url)!r} {wrong}")
    tls = dict(parse_qsl(urlsplit(url).query))
    if tls.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigError(f"{place}: ssl_cert_reqs of redis_url is none, optional or required.")
    if url.startswith("sentinel://") and any(name.startswith("ssl_") for name in tls):
        raise ConfigError(
            f"{place}: TLS with sentinel:// is not there yet; take the ssl_… fields out of redis_url."
        )


def wrong_with(url: str) -> str:
    """What keeps it from being an address, in words that follow the masked URL; "" for nothing."""
    if not url.startswith(("redis://", "rediss://", "sentinel://", "unix://")):
        return "must start with redis://, rediss://, sentinel:// or unix://."
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:
            _ = parts.port
    except ValueError:
        return NO_URL
    local = url.startswith("unix:")
    fields = parse_qsl(parts.query, keep_blank_values=True)
    if "#" in url or (not local and "@" in parts.path) or any("@" in name for name, _ in fields):
        return NO_URL
    if not local and not parts.netloc.rpartition("@")[2]:
        return "names no host: redis://host:6379/0."
    if local and not parts.path.strip("/"):
        return "names no socket: unix:///run/redis/redis.sock"
    for name, value in fields:
        if name not in FIELDS and not name.startswith("ssl_"):
            return f"has a field {name!r} that is not known here (known are db and ssl_…)."
        if name == "db" and not (value.isascii() and value.isdecimal()):
            return "names no database: it is a number, as in ?db=3."
    database = "" if local else parts.path.strip("/")
    if database and not (database.isascii() and database.isdecimal()):
        return "names no database: behind the port stands its number, as in redis://host:6379/0."
    if url.startswith("sentinel://") and "master" not in dict(fields):
        return "names no master, which a sentinel:// URL does: sentinel://a:26379,b:26379/0?master=NAME."
    return ""


def database_of(url: str) -> int:
    """The number of the database: behind the ``?``, else behind the port, else 0."""
    parts = urlsplit(url)
    path = "" if url.startswith("unix:") else parts.path.strip("/")
    return int(dict(parse_qsl(parts.query)).get("db") or path or 0)
