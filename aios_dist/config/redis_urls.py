"""The address of a fleet's Redis, parsed once: both libraries that connect get what stands here.

redis-py (the journal's) and kombu (Celery's) each read more into a URL than is in it, and not the same: a
field that only one understands switches a check off on one side, or is another database.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any, Literal, cast
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import msgspec

from aios_dist.config.words import nearest
from aios_dist.errors import ConfigError
from aios_dist.text.mask import STARS
from aios_dist.text.masking import masked

Scheme = Literal["redis", "rediss", "unix", "sentinel"]

FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
TEXTS = ("ssl_ca_data", "ssl_ciphers", "ssl_password")
TLS = ("ssl_cert_reqs", "ssl_check_hostname", *FILES, *TEXTS)
SENTINEL = ("master", "sentinel_username", "sentinel_password")
FIELDS: Mapping[str, tuple[str, ...]] = {
    "redis": ("db",),
    "rediss": ("db", *TLS),
    "unix": ("db",),
    "sentinel": ("db", *SENTINEL),
}
"""What may stand behind the ``?``, by scheme."""

LEVELS = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}
ENCODE = (
    "is not a URL; in a password, every character but letters and digits is written as % and two digits "
    "(@ is %40, / is %2F)"
)
PLACE = "does not name a host and a port from 1 to 65535; an address of IPv6 stands in brackets: redis://[::1]:6379/0"
_NAME = re.compile(r"[A-Za-z_]{1,40}")
_HOST = re.compile(r"[\w.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*(%[\w.-]+)?")
"""A name or an address; whatever else libraries take for different places."""
_FIELD = re.compile(r"(?<=[?&])([^=&]*)=([^&]*)")


class Address(msgspec.Struct, frozen=True):
    """Where a Redis is, and how it is reached.

    Attributes:
        hosts: names and ports: of Redis, or of the Sentinels; none of a socket.
        path: of a socket.
        username, password: of Redis, as they are sent.
        tls: redis-py's and kombu's settings of an encrypted line; None without.
        sentinel: ``master``, and the Sentinels' own ``username`` and ``password`` where given.
    """

    scheme: Scheme
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = ""
    tls: dict[str, Any] | None = None
    sentinel: dict[str, str] = {}

    def __repr__(self) -> str:
        """Without accounts: it is in tracebacks that show variables."""
        return f"Address({self.scheme}, {self.path or self.hosts}, db {self.db})"

    @property
    def urls(self) -> list[str]:
        """Without any field, one for each host: what is left means the same to both libraries."""
        account = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        account = account if self.username or self.password else ""
        return [
            f"{self.scheme}://{account}{f'[{host}]' if ':' in host else host}:{port}/{self.db}"
            for host, port in self.hosts
        ]

    @property
    def socket_url(self) -> str:
        """Of a socket, what redis-py understands but for its beginning; and kombu with ``virtual_host``."""
        account = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        return f"{account if self.username or self.password else ''}{quote(self.path)}"


def check_url(place: str, url: str) -> None:
    """Raises ConfigError: no fleet's Redis can be there; ``place`` (a file, a variable) begins it."""
    try:
        _parsed(url)
    except _Odd as exc:
        raise ConfigError(f"{place}: redis_url {_shown(url)!r} {exc}") from None


def address(url: str) -> Address:
    """What an address says.

    Raises:
        ConfigError: it cannot be one; the sentence shows no password.
    """
    try:
        return _parsed(url)
    except _Odd as exc:
        raise ConfigError(f"The Redis URL {_shown(url)!r} cannot be used: it {exc}") from None


def _shown(url: str) -> str:
    """Without passwords, also without that of a field whose name is misspelt."""
    known = {name for names in FIELDS.values() for name in names}
    return _FIELD.sub(lambda at: at[0] if at[1] in known else f"{at[1]}={STARS}", masked(url))


class _Odd(Exception):
    """What is wrong with it: a sentence that "the URL" begins."""

    def __str__(self) -> str:
        said = super().__str__()
        return said if said.endswith(("?", ".")) else f"{said}."


def _parsed(url: str) -> Address:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in FIELDS:
        raise _Odd("must start with redis://, rediss://, unix:// or sentinel://")
    try:
        parts = urlsplit(url)
        fields = _fields(cast(Scheme, scheme), parts)
        account, _, places = parts.netloc.rpartition("@")
        # Not in the words of urllib, which repeat a piece of a password that holds a `/`, `?` or `#`.
        hosts = tuple(_host(place, PORTS[scheme]) for place in places.split(",")) if scheme != "unix" else ()
    except ValueError:
        raise _Odd(ENCODE if "@" in url else PLACE) from None
    # (urllib leaves out line breaks and tabs; one at the end comes from the file that it was read from.)
    if re.search(r"[#\0\t\r\n]", url.rstrip("\r\n")) or "@" in parts.path:
        raise _Odd(ENCODE)
    if len(hosts) > 1 and scheme != "sentinel":
        raise _Odd(ENCODE)
    if "," in account.rpartition("@")[2] and "@" in account:
        raise _Odd("is to have the account once, before the first host: sentinel://USER:PASSWORD@a,b,c/0")
    if not all(host for host, _ in hosts):
        raise _Odd(f"names no host: {scheme}://host:{PORTS[scheme]}/0")
    if not all(_HOST.fullmatch(host) for host, _ in hosts):
        raise _Odd(ENCODE if "@" in url else PLACE)
    if scheme == "unix" and (places or not parts.path):
        raise _Odd("names no socket; its path begins with the third slash: unix:///run/redis.sock")
    user, _, password = account.partition(":")
    sentinel = {name.removeprefix("sentinel_"): fields[name] for name in SENTINEL if name in fields}
    if "username" in sentinel and "password" not in sentinel:
        raise _Odd("has sentinel_username without sentinel_password")
    if scheme == "sentinel" and not sentinel.get("master"):
        raise _Odd(
            "does not say which master is watched; a sentinel:// URL names the master that it watches: "
            "sentinel://a:26379,b:26379/0?master=NAME"
        )
    return Address(
        scheme=cast(Scheme, scheme),
        hosts=hosts,
        path=unquote(parts.path) if scheme == "unix" else "",
        db=_database("" if scheme == "unix" else parts.path, fields.get("db")),
        username=unquote(user),
        password=unquote(password),
        tls=_tls(fields) if scheme == "rediss" else None,
        sentinel=sentinel,
    )


def _host(place: str, port: int) -> tuple[str, int]:
    """Raises ValueError: it is no host and port."""
    parts = urlsplit(f"//{place}")
    host = unquote(parts.hostname or "")
    if parts.port == 0:
        raise ValueError(place)
    return host, parts.port or port


def _fields(scheme: Scheme, parts: SplitResult) -> dict[str, str]:
    """What stands behind the ``?``: known fields, each once."""
    found: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in found:
            raise _Odd(f"has the field {name!r} twice")
        if name not in FIELDS[scheme]:
            raise _Odd(_unknown(scheme, name, value))
        if not value:
            raise _Odd(f"has the field {name!r} without a value")
        found[name] = value
    return found


def _unknown(scheme: Scheme, name: str, value: str) -> str:
    if not _NAME.fullmatch(name) or "@" in value:
        return ENCODE  # it may be a piece of a password, which is not repeated
    if name.lower() in FIELDS[scheme]:
        return f"has the field {name!r}, which is written {name.lower()!r}"
    if name in TLS and scheme == "sentinel":
        return "has fields of TLS, and TLS with sentinel:// is not there yet; take the ssl_… fields out of it"
    if name in TLS:
        return f"has the field {name!r}, which is for rediss://"
    if name in ("username", "password"):
        return f"has the field {name!r}; an account is written before the host: redis://USER:PASSWORD@host"
    return f"has an unknown field {name!r}; {nearest(name, FIELDS[scheme])}"


def _database(path: str, field: str | None) -> int:
    inner = path.strip("/")
    for text in (inner, field or ""):
        if text and not (text.isascii() and text.isdigit() and len(text) < 6):
            raise _Odd("is to end in the number of a database, as /0")
    if inner and field is not None and int(inner) != int(field):
        raise _Odd(f"names two databases, /{inner} and db={field}")
    return int(inner or field or 0)


def _tls(fields: Mapping[str, str]) -> dict[str, Any]:
    """The settings of an encrypted line. The certificate is verified unless the URL says otherwise."""
    level = fields.get("ssl_cert_reqs", "required").lower().removeprefix("cert_")
    if level not in LEVELS:
        raise _Odd("has an odd field: ssl_cert_reqs is none, optional or required")
    tls: dict[str, Any] = {name: fields[name] for name in (*FILES, *TEXTS) if name in fields}
    tls["ssl_cert_reqs"] = LEVELS[level]
    if (asked := fields.get("ssl_check_hostname")) is not None:
        if asked.lower() not in ("true", "false"):
            raise _Odd("has an odd field: ssl_check_hostname is true or false")
        if asked.lower() == "true" and level == "none":
            raise _Odd("contradicts itself: with ssl_cert_reqs=none no host name is checked")
        tls["ssl_check_hostname"] = asked.lower() == "true"
    if "ssl_keyfile" in tls and "ssl_certfile" not in tls:
        raise _Odd("has ssl_keyfile without ssl_certfile")
    if "ssl_certfile" in tls:
        tls.setdefault("ssl_password", "")  # else OpenSSL asks the terminal for that of a key that has one
    return tls


__all__ = ["Address", "address", "check_url"]
