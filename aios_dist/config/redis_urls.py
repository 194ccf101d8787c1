"""Whether an address of Redis can be one, in one sentence that shows no password."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlsplit

from aios_dist.errors import ConfigError
from aios_dist.text.masking import masked


def check_url(place: str, url: str) -> None:
    """Raises ConfigError: no fleet's Redis can be there; ``place`` (a file, a variable) begins it."""
    if not url.startswith(("redis://", "rediss://", "sentinel://", "unix://")):
        raise ConfigError(
            f"{place}: redis_url {masked(url)!r} must start with redis://, rediss:// or sentinel://."
        )
    try:
        parts = urlsplit(url)
        if "," not in parts.netloc:
            _ = parts.port
    except ValueError:
        # Not in the words of urllib, which repeat a piece of a password that holds a `/`, `?` or `#`.
        raise ConfigError(
            f"{place}: redis_url {masked(url)!r} is not a URL; in a password, every "
            "character but letters and digits is written as % and two digits (@ is %40, / is %2F)."
        ) from None
    if url.startswith("sentinel://") and "master=" not in urlsplit(url).query:
        raise ConfigError(
            f"{place}: a sentinel:// URL names the master that it watches: sentinel://a:26379,b:26379/0?master=NAME."
        )
    tls = dict(parse_qsl(urlsplit(url).query))
    if tls.get("ssl_cert_reqs", "required") not in ("none", "optional", "required"):
        raise ConfigError(f"{place}: ssl_cert_reqs of redis_url is none, optional or required.")
    if url.startswith("sentinel://") and any(name.startswith("ssl_") for name in tls):
        raise ConfigError(
            f"{place}: TLS with sentinel:// is not there yet; take the ssl_… fields out of redis_url."
        )
