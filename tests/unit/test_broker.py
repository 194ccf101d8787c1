"""The broker's settings: an encrypted line is checked unless somebody says that it is not to be."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from aios_dist.broker.app import broker_url, make_app, tls_of
from aios_dist.config import Config, FleetConfig


@pytest.mark.parametrize("url", ["redis://h:1/0", "unix:///run/redis.sock"])
def test_a_plain_line_has_no_settings_of_tls(url: str) -> None:
    assert tls_of(url) is None


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=CERT_REQUIRED", {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        ("?ssl_cert_reqs=optional", {"ssl_cert_reqs": ssl.CERT_OPTIONAL}),
        ("?ssl_cert_reqs=none", {"ssl_cert_reqs": ssl.CERT_NONE}),
        ("?ssl_cert_reqs=CERT_NONE", {"ssl_cert_reqs": ssl.CERT_NONE}),
        (
            "?ssl_ca_certs=/ca.pem&ssl_check_hostname=true&db=0",
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


def test_each_setting_of_the_line_is_what_its_comment_says() -> None:
    def line(redis_timeout: float) -> dict[str, Any]:
        fleet = FleetConfig(name="f", redis_timeout=redis_timeout)
        return dict(make_app(Config(fleet=fleet)).conf.broker_transport_options)

    short, long = line(1.5), line(9.0)
    waits = ("socket_timeout", "socket_connect_timeout", "health_check_interval")
    assert [short[name] for name in waits] == [2.0, 1.5, 1]
    assert [long[name] for name in waits] == [9.0, 5.0, 4]
    assert short["max_connections"] >= 1000
    assert (short["ack_emulation"], short["priority_steps"], short["global_keyprefix"]) == (False, [0], "f.")


def test_a_ticket_is_taken_when_a_slot_is_free_and_is_json_and_redis_is_waited_for() -> None:
    conf = make_app(Config()).conf
    assert (conf.broker_connection_max_retries, conf.broker_channel_error_retry) == (None, True)
    assert conf.accept_content == ["json"]
    assert (conf.task_acks_late, conf.task_ignore_result) == (False, True)
    assert (conf.worker_disable_prefetch, conf.worker_prefetch_multiplier) == (True, 1)


def test_a_sentinel_is_asked_for_its_master_with_its_own_password() -> None:
    url = "sentinel://:of-redis@a:1,b:2/3?master=mine&sentinel_password=of-sentinel"
    options = make_app(Config(fleet=FleetConfig(redis_url=url))).conf.broker_transport_options
    assert options["master_name"] == "mine"
    assert options["sentinel_kwargs"] == {"password": "of-sentinel"}
    assert broker_url(url) == "sentinel://:of-redis@a:1/3;sentinel://:of-redis@b:2/3"
    assert broker_url("rediss://h:1/0?ssl_cert_reqs=none") == "rediss://h:1/0"
