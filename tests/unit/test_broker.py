"""The broker's settings: an encrypted line is checked unless somebody says that it is not to be."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from aios_dist.broker.app import make_app, tls_of
from aios_dist.config import Config, FleetConfig


@pytest.mark.parametrize("url", ["redis://h:1/0?ssl_cert_reqs=none", "unix:///run/redis.sock"])
def test_a_plain_line_has_no_settings_of_tls(url: str) -> None:
    assert tls_of(url) is None


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=odd", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=optional", {"ssl_cert_reqs": ssl.CERT_OPTIONAL}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        (
            "?ssl_ca_certs=/ca.pem&ssl_check_hostname=true&db=3",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem", "ssl_check_hostname": True},
        ),
        (
            "?ssl_check_hostname=false",
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_check_hostname": False},
        ),
    ],
)
def test_a_certificate_is_asked_for_unless_the_url_says_otherwise(query: str, wanted: dict[str, Any]) -> None:
    url = f"rediss://h:1/0{query}"
    assert tls_of(url) == wanted
    assert make_app(Config(fleet=FleetConfig(redis_url=url))).conf.broker_use_ssl == wanted
