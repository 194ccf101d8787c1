"""Every form of an address leads workers (kombu) and the journal to one database, as one account."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import redis

from aios_dist import Fleet
from aios_dist.broker.app import make_app
from aios_dist.cli.checks.rights import fanout_of
from aios_dist.config import Config, FleetConfig
from aios_dist.errors import ConfigError
from aios_dist.journal.connection import open_client
from aios_dist.local.redis_server import EmbeddedRedis

PASSWORD = "p@/:#?%w é"
ACCOUNT = f"u:{quote(PASSWORD, safe='')}"
FORMS = {
    "redis://HOST": "default 0",
    "redis://HOST/": "default 0",
    "redis://HOST/3": "default 3",
    "redis://HOST?db=3": "default 3",
    f"redis://{ACCOUNT}@HOST": "u 0",
    f"redis://{ACCOUNT}@HOST/4": "u 4",
    f"redis://{ACCOUNT}@HOST/?db=5": "u 5",
    "redis://:@HOST/1": "default 1",
    "unix://SOCKET": "default 0",
    "unix://SOCKET?db=3": "default 3",
    f"unix://{ACCOUNT}@SOCKET": "u 0",
    f"unix://{ACCOUNT}@SOCKET?db=2": "u 2",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Redis with a socket, and an account with a password of odd signs."""
    path = tmp_path_factory.mktemp("u") / "r.sock"
    with EmbeddedRedis(settings={"unixsocket": str(path)}) as server:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command("ACL", "SETUSER", "u", "on", f">{PASSWORD}", "~*", "&*", "+@all")
        yield {"HOST": f"127.0.0.1:{server.port}", "SOCKET": str(path)}


def at(places: dict[str, str], form: str) -> str:
    for name, place in places.items():
        form = form.replace(name, place)
    return form


async def seen_by_journal(url: str) -> str:
    client = open_client(url)
    try:
        return who(await client.client_info())
    finally:
        await client.aclose()


def who(info: dict[str, Any]) -> str:
    return f"{info['user']} {info['db']}"


@pytest.mark.parametrize("form", FORMS)
def test_workers_and_journal_go_to_the_same_database(places: dict[str, str], form: str) -> None:
    url = at(places, form)
    assert asyncio.run(seen_by_journal(url)) == FORMS[form]
    app = make_app(Config(fleet=FleetConfig(redis_url=url)))
    with app.connection_for_read() as line:
        line.ensure_connection(max_retries=1)
        assert who(line.default_channel.client.client_info()) == FORMS[form]
    app.close()
    assert fanout_of("f", url) == f"f./{FORMS[form].split()[1]}."


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ("redis://u:sesame@/:#?%w@HOST/1", "is not a URL; in a password"),
        ("redis://u:sesame/crow@HOST/1", "is not a URL; in a password"),
        ("redis://u:1234/crow@HOST/1", "is not a URL; in a password"),
        ("redis://u:sesame#crow@HOST/1", "is not a URL; in a password"),
        ("redis://u:1234?crow@HOST/1", "is not a URL; in a password"),
        ("redis://HOST/sesame", "is to end in the number of a database"),
        ("redis://HOST/2?db=3", "names two databases, /2 and db=3"),
        ("redis://HOST?db=sesame", "is to end in the number of a database"),
        ("redis://HOST/0?socket_timeout=5", "has an unknown field 'socket_timeout'"),
        ("redis:///0", "names no host"),
        ("unix://?db=1", "names no socket"),
        ("HOST", "must start with redis://"),
    ],
)
def test_what_is_no_address_is_said_without_a_piece_of_a_password(
    places: dict[str, str], form: str, why: str
) -> None:
    url = at(places, form)
    config = Config(fleet=FleetConfig(redis_url=url))
    for use in (lambda: Fleet(config), lambda: make_app(config), lambda: open_client(url)):
        with pytest.raises(ConfigError) as refused:
            use()
        said = str(refused.value)
        assert why in said
        assert not {"1234", "crow"} & set(said.replace("/", " ").replace("@", " ").replace(":", " ").split())
        assert "sesame" not in said or form.partition("@")[2] == ""
