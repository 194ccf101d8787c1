"""The address of Redis is parsed once: what it says, both libraries that connect do, or it is refused."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from aios_dist.broker.app import make_app
from aios_dist.config import Config, FleetConfig, parse
from aios_dist.config.redis_urls import FIELDS, address
from aios_dist.errors import ConfigError
from aios_dist.journal.connection import open_client

LINE = ("host", "port", "path", "db", "username", "password")
SOCKET = {"path": "/run/redis.sock", "db": 0}
REQUIRED, NONE = {"ssl_cert_reqs": ssl.CERT_REQUIRED}, {"ssl_cert_reqs": ssl.CERT_NONE}
AT_H = {"host": "h", "port": 6379, "db": 0}

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("redis://h", AT_H),
    ("redis://h/", AT_H),
    ("redis://h:1/2", {"host": "h", "port": 1, "db": 2}),
    ("redis://h?db=3", {**AT_H, "db": 3}),
    ("redis://h/3?db=3", {**AT_H, "db": 3}),
    ("redis://h/0\n", AT_H),  # of a file
    ("redis://[::1]:1/0", {"host": "::1", "port": 1, "db": 0}),
    ("redis://:p@h", {**AT_H, "password": "p"}),
    ("redis://u:p@h", {**AT_H, "username": "u", "password": "p"}),
    ("redis://u%40x:a%2Fb%3A%40%23%25%20%C3%BC@h", {**AT_H, "username": "u@x", "password": "a/b:@#% ü"}),
    ("redis://:a+b@h", {**AT_H, "password": "a+b"}),
    ("unix:///run/redis.sock", {"path": "/run/redis.sock", "db": 0}),
    ("unix:///run/redis.sock?db=3", {"path": "/run/redis.sock", "db": 3}),
    ("unix://u:p%40@/run/redis.sock", {**SOCKET, "username": "u", "password": "p@"}),
    ("rediss://h", {**AT_H, **REQUIRED}),
    ("rediss://h?ssl_cert_reqs=required", {**AT_H, **REQUIRED}),
    ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", {**AT_H, **REQUIRED}),
    ("rediss://h?ssl_cert_reqs=none", {**AT_H, **NONE}),
    ("rediss://h?ssl_cert_reqs=CERT_NONE", {**AT_H, **NONE}),
    ("rediss://h?ssl_check_hostname=true", {**AT_H, **REQUIRED, "ssl_check_hostname": True}),
    ("rediss://h?ssl_check_hostname=false", {**AT_H, **REQUIRED, "ssl_check_hostname": False}),
    (
        "rediss://h?ssl_ca_certs=/a%20b/ca&ssl_ca_path=/c&ssl_ciphers=x&ssl_ca_data=y",
        {
            **AT_H,
            **REQUIRED,
            "ssl_ca_certs": "/a b/ca",
            "ssl_ca_path": "/c",
            "ssl_ciphers": "x",
            "ssl_ca_data": "y",
        },
    ),
    (
        "rediss://h?ssl_certfile=/c.crt&ssl_keyfile=/c.key&ssl_password=p%26w",
        {**AT_H, **REQUIRED, "ssl_certfile": "/c.crt", "ssl_keyfile": "/c.key", "ssl_password": "p&w"},
    ),
    ("rediss://h?ssl_certfile=/c.pem", {**AT_H, **REQUIRED, "ssl_certfile": "/c.pem", "ssl_password": ""}),
]


def of_redis_py(url: str) -> dict[str, Any]:
    """What the journal's connections are made with."""
    return line(open_client(url).connection_pool.connection_kwargs)


def of_kombu(url: str) -> dict[str, Any]:
    """What Celery's are made with."""
    app = make_app(Config(fleet=FleetConfig(redis_url=url)))
    with app.connection_for_read() as connection:
        transport = connection.get_transport_cls()(client=connection)
        channel = object.__new__(transport.Channel)
        channel.connection = transport
        return line(channel._connparams())


def line(given: dict[str, Any]) -> dict[str, Any]:
    wanted = {k: v for k, v in given.items() if k in LINE or k.startswith("ssl_")}
    return {"db": 0, **{k: v for k, v in wanted.items() if v not in (None, "") or k == "ssl_password"}}


@pytest.mark.parametrize(("url", "wanted"), FORMS, ids=[url for url, _ in FORMS])
def test_both_libraries_get_what_the_address_says(url: str, wanted: dict[str, Any]) -> None:
    assert parse({"fleet": {"redis_url": url}}).fleet.redis_url == url
    for found in (of_redis_py(url), of_kombu(url)):
        assert {"port": 6379, "host": "localhost", **found} == {"port": 6379, "host": "localhost", **wanted}


def test_both_libraries_ask_the_sentinels_with_their_own_account() -> None:
    url = "sentinel://u:p@a:1,b/3?master=m&sentinel_username=s&sentinel_password=q%40"
    found = address(url)
    assert (found.hosts, found.db) == ((("a", 1), ("b", 26379)), 3)
    manager: Any = open_client(url).connection_pool
    asked = [client.connection_pool.connection_kwargs for client in manager.sentinel_manager.sentinels]
    assert {(a["host"], a["port"], a["username"], a["password"]) for a in asked} == {
        ("a", 1, "s", "q@"),
        ("b", 26379, "s", "q@"),
    }
    assert line(manager.connection_kwargs) == {"db": 3, "username": "u", "password": "p"}
    options = make_app(Config(fleet=FleetConfig(redis_url=url))).conf.broker_transport_options
    assert options["master_name"] == "m"
    assert options["sentinel_kwargs"] == {"username": "s", "password": "q@"}


REFUSED = [
    ("redis://h?ssl_cert_reqs=none", "has the field 'ssl_cert_reqs', which is for rediss://"),
    ("redis://h?socket_timeout=1", "has an unknown field 'socket_timeout'; known are db."),
    ("redis://h?protocol=3", "has an unknown field 'protocol'"),
    ("redis://h?username=u", "'username'; an account is written before the host"),
    ("redis://h?password=hunter22", "'password'; an account is written before the host"),
    ("redis://h?db=1&db=1", "has the field 'db' twice"),
    ("redis://h?db=", "has the field 'db' without a value"),
    ("redis://h?db=x", "is to end in the number of a database, as /0"),
    ("redis://h/1?db=2", "names two databases, /1 and db=2"),
    ("redis://h/abc", "is to end in the number of a database, as /0"),
    ("redis://h/-1", "is to end in the number of a database, as /0"),
    ("redis://h/1/2", "is to end in the number of a database, as /0"),
    ("redis://a:1,b:2/0", "is not a URL"),
    *(
        (f"redis://{place}/0", "does not name a host and a port from 1 to 65535")
        for place in ("h:0", "h:99999", "h:-1", "h:x", "h h", " h", "::1", "%2Frun%2Fredis.sock", "a%40b")
    ),
    ("redis-socket:///x", "must start with redis://"),
    ("unix://", "names no socket"),
    ("unix://run/redis.sock", "its path begins with the third slash"),
    ("unix://u:hunter22@run/redis.sock", "its path begins with the third slash"),
    ("redis://u:hunter22\t@h", "is not a URL"),
    ("redis://h?Db=3", "has the field 'Db', which is written 'db'"),
    ("redis://h?pasword=hunter22", "has an unknown field 'pasword'"),
    ("sentinel://h?master=m&sentinel_pasword=hunter22", "did you mean 'sentinel_password'?"),
    ("sentinel://h?master=m&sentinel_username=s", "sentinel_username without sentinel_password"),
    ("sentinel://u:hunter22@a,u:hunter22@b/0?master=m", "the account once, before the first host"),
    ("rediss://h?ssl_cert_reqs=odd", "ssl_cert_reqs is none, optional or required"),
    ("rediss://h?ssl_check_hostnam=false", "did you mean 'ssl_check_hostname'?"),
    ("rediss://h?ssl_validate_ocsp=true", "has an unknown field 'ssl_validate_ocsp'"),
    ("rediss://h?ssl_cert_reqs=required&ssl_cert_reqs=none", "has the field 'ssl_cert_reqs' twice"),
    ("rediss://h?ssl_keyfile=/k", "has ssl_keyfile without ssl_certfile"),
    ("rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", "contradicts itself"),
    ("sentinel://h", "names the master that it watches"),
    ("sentinel://h?master=m&ssl_ca_certs=/x", "TLS with sentinel:// is not there yet"),
    *(
        (f"rediss://h?ssl_check_hostname={value}", "ssl_check_hostname is true or false")
        for value in ("on", "y", "t", "1", "yes", "no", "0", "off")
    ),
]


@pytest.mark.parametrize(("url", "why"), REFUSED, ids=[url for url, _ in REFUSED])
def test_what_they_would_read_differently_is_refused_in_a_sentence(url: str, why: str) -> None:
    for read in (
        lambda: parse({"fleet": {"redis_url": url}}),
        lambda: open_client(url),
        lambda: make_app(Config(fleet=FleetConfig(redis_url=url))),
    ):
        with pytest.raises(ConfigError) as refused:
            read()
        assert why in str(refused.value)
        assert "hunter22" not in str(refused.value)


ODD_PASSWORDS = [
    "/hunter22",
    "12/hunter22",
    "12?hunter22",
    "12?hunter22=1",
    "12#hunter22",
    "a;hunter22://c",
    "[hunter22",
]


@pytest.mark.parametrize("password", ODD_PASSWORDS)
@pytest.mark.parametrize("scheme", sorted(FIELDS))
def test_a_password_that_is_to_be_encoded_is_said_so_and_nothing_of_it_is_shown(
    scheme: str, password: str
) -> None:
    """Two of these led to a Redis on this machine, on port 12."""
    with pytest.raises(ConfigError) as refused:
        parse({"fleet": {"redis_url": f"{scheme}://:{password}@h/0"}})
    assert "hunter22" not in str(refused.value)
    assert "written as % and two digits" in str(refused.value)


def test_a_password_of_a_key_is_a_secret_like_the_others() -> None:
    from aios_dist.text.masking import hide, masked

    url = "rediss://h?ssl_certfile=/c&ssl_keyfile=/k&ssl_password=a-planted-secret"
    assert masked(url).endswith("&ssl_password=***")
    open_client(url)
    assert hide("it said a-planted-secret") == "it said ***"
    assert masked("redis://:a;b://c@h") == "redis://:***@h"


def test_what_is_printed_of_a_configuration_has_no_password() -> None:
    """A test that fails prints it, and so does a tracker of errors that shows variables."""
    config = parse(
        {
            "fleet": {"redis_url": "sentinel://u:hunter22@h/0?master=m&sentinel_password=hunter22"},
            "models": {"m": {"base_url": "https://u:hunter22@h/v1"}},
        }
    )
    shown = f"{config!r} {address(config.fleet.redis_url)!r}"
    assert "hunter22" not in shown
    assert "base_url='https://" in shown
    assert "sentinel" in shown
