"""What the environment says of the way to a provider: certificates and proxies, and nothing else."""

from __future__ import annotations

import functools
import os
import re
import ssl
import sys
from ipaddress import ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies

from aios_dist.errors import ConfigError
from aios_dist.text.masking import masked

BUNDLES = (
    "/etc/ssl/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/ca-bundle.pem",
)
"""Where systems have their certificates, for a Python that was built for another one."""


def verified() -> ssl.SSLContext:
    """How servers are verified: by ``SSL_CERT_FILE``, else ``SSL_CERT_DIR``, else as the system does."""
    return _context(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@functools.lru_cache(maxsize=8)
def _context(file: str | None, folder: str | None) -> ssl.SSLContext:
    """One for all models: to read all the world's certificates takes 0.1 s.

    Raises:
        ConfigError: they cannot be read.
    """
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
        if sys.platform == "darwin":
            import truststore

            made: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            return made
        return _of_the_system()
    except OSError as exc:  # ssl.SSLError is one
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        raise ConfigError.with_fix(
            f"{name}: the certificates at {file or folder} cannot be read ({exc})", "correct it", ": "
        ) from None


def _of_the_system() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    paths = ssl.get_default_verify_paths()
    file = paths.openssl_cafile if os.path.isfile(paths.openssl_cafile) else None
    folder = paths.openssl_capath if os.path.isdir(paths.openssl_capath) else None
    if folder and not file and not any(map(_HASHED.fullmatch, os.listdir(folder))):
        folder = None
    if not (file or folder):
        file = next(filter(os.path.isfile, BUNDLES), None)
    if file or folder:
        context.load_verify_locations(file, folder)
    return context


_HASHED = re.compile(r"[0-9a-fA-F]{8}\.\d")


def proxy_of(url: str) -> str | None:
    """The proxy for what is at a URL, by ``HTTP_PROXY``, ``HTTPS_PROXY``, ``ALL_PROXY`` and ``NO_PROXY``.

    Raises:
        ConfigError: it is none that HTTP goes through.
    """
    told = getproxies()
    asked = urlsplit(url)
    name = asked.scheme if told.get(asked.scheme) else "all"
    proxy = told.get(name)
    if not proxy or _without(told.get("no", ""), asked.scheme, asked.hostname or "", asked.port):
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not proxy.startswith(("http://", "https://")):
        raise ConfigError(
            f"{name.upper()}_PROXY is {masked(proxy)}: calls of models go through http:// and https:// "
            f"proxies only; name another one, or {asked.hostname} in NO_PROXY."
        )
    return proxy


def _without(told: str, scheme: str, host: str, port: int | None) -> bool:
    """Whether ``NO_PROXY`` has this host: by its name, its domain, its address or network, and its port."""
    for entry in map(str.strip, told.lower().split(",")):
        if entry == "*":
            return True
        wanted, slashes, name = entry.rpartition("://")
        if not name or (slashes and wanted not in ("all", scheme)):
            continue
        if _in_network(name.strip("[]"), host):
            return True
        try:
            found = urlsplit(f"//{name}")
            name, only = found.hostname or "", found.port
        except ValueError:
            continue
        if only not in (None, port or {"http": 80, "https": 443}.get(scheme)):
            continue
        if name == host or (not slashes and name != "localhost" and _is_below(host, name)):
            return True
    return False


def _in_network(name: str, host: str) -> bool:
    try:
        return ip_address(host) in ip_network(name, strict=False)
    except ValueError:
        return False


def _is_below(host: str, domain: str) -> bool:
    """``.example.org`` and ``*.example.org`` are what is below it, ``example.org`` is it too."""
    return host.endswith("." + domain.removeprefix("*").removeprefix("."))
