"""Headers of a call that a function of the user's gives, over real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import threading
import types
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aios_dist.config import Config, ModelConfig
from aios_dist.config.reading import load
from aios_dist.errors import ConfigError, ConnectionBroken, NotAllowed
from aios_dist.model.calls import LLMRequest
from aios_dist.text.masking import hide
from aios_dist.worker.providers import check_model, credentials, open_provider
from aios_dist.worker.providers.calling import HttpProvider
from aios_dist.worker.providers.codec import Asked
from tests.contracts.odd_kinds import reply
from tests.contracts.test_lines import HI, Server, whole

TOKEN = "token-0123456789-of-{}"


@asynccontextmanager
async def opened(
    monkeypatch: pytest.MonkeyPatch, server: Server, function: Any, **settings: Any
) -> AsyncIterator[HttpProvider]:
    """A model of OpenAI's protocol there, whose credentials this function gives."""
    monkeypatch.setitem(sys.modules, "my_cloud", types.SimpleNamespace(headers=function))
    model = ModelConfig(base_url=server.url, credentials="my_cloud:headers", **settings)
    made = open_provider("small", model, {})
    assert isinstance(made, HttpProvider)
    try:
        yield made
    finally:
        await made.aclose()


def sent(server: Server) -> list[str | None]:
    return [asked.headers.get("authorization") for asked in server.asked]


async def test_of_many_calls_one_asks_for_a_token_and_all_have_it_until_it_expires(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, given = [1000.0], 0

    async def token(asked: Asked) -> tuple[dict[str, str], float]:
        nonlocal given
        given += 1
        await asyncio.sleep(0)
        return {"Authorization": f"Bearer {TOKEN.format(given)}"}, 1000.0

    monkeypatch.setattr(credentials, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    async with Server(lambda _: whole()).up() as server, opened(monkeypatch, server, token) as provider:
        await asyncio.gather(*(provider.call(HI) for _ in range(5)))
        now[0] += 939.0
        await provider.call(HI)
        assert sent(server) == [f"Bearer {TOKEN.format(1)}"] * 6
        now[0] += 2.0  # a minute is left
        await provider.call(HI)
    assert (sent(server)[6:], given) == ([f"Bearer {TOKEN.format(2)}"], 2)
    assert TOKEN.format(2) not in hide(f"it said {TOKEN.format(2)}")


async def test_a_signature_is_made_for_each_call_from_all_that_is_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls: list[str] = []

    def sign(asked: Asked) -> dict[str, str]:
        urls.append(asked.url)
        assert asked.headers["content-type"] == "application/json"
        return {"authorization": hashlib.sha256(asked.body).hexdigest()}

    async with Server(lambda _: whole()).up() as server, opened(monkeypatch, server, sign) as provider:
        many = [LLMRequest([{"role": "user", "content": str(n)}]) for n in range(5)]
        await asyncio.gather(*map(provider.call, many))
    assert sent(server) == [hashlib.sha256(asked.body).hexdigest() for asked in server.asked]
    assert (len(set(sent(server))), set(urls)) == (5, {f"{server.url}/chat/completions"})


async def test_a_model_has_a_key_besides_where_it_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    function = lambda _: {"X-Team": "blue"}  # noqa: E731
    async with Server(lambda _: whole()).up() as server, opened(monkeypatch, server, function) as provider:
        await provider.call(HI)
    assert sent(server) == [None], "no key is made up beside credentials"
    assert server.asked[0].headers["x-team"] == "blue"


BROKEN = {
    "raises": (lambda _: {}["password"], "KeyError"),
    "exits": (lambda _: sys.exit("no"), "SystemExit"),
    "gives nothing": (lambda _: None, "must give a dict of headers"),
    "gives a line break": (lambda _: {"a": "b\nc"}, "must give a dict of headers"),
    "gives a body's length": (lambda _: {"Content-Length": "0"}, "must give a dict of headers"),
    "gives no time": (lambda _: ({"a": "b"}, "soon"), "must give a dict of headers"),
}


@pytest.mark.parametrize("how", BROKEN)
async def test_a_function_that_breaks_asks_nobody_and_blames_no_model(
    how: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    function, says = BROKEN[how]
    caplog.set_level(logging.WARNING, "aios_dist")
    async with Server(lambda _: whole()).up() as server, opened(monkeypatch, server, function) as provider:
        for _ in range(2):
            with pytest.raises(ConnectionBroken, match=says) as caught:
                await provider.call(HI)
    assert str(caught.value).startswith("The credentials 'my_cloud:headers' of model 'small' gave none: ")
    assert caught.value.detail["own"] is True
    assert server.asked == []
    told = [record for record in caplog.records if record.name == "aios_dist.providers"]
    assert len(told) == 1, "said once"


async def test_a_function_that_hangs_holds_a_call_for_so_long_and_no_other_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(credentials, "PATIENCE_S", 0.1)
    go_on = threading.Event()
    hangs = lambda _: go_on.wait(60)  # noqa: E731
    try:
        async with Server(lambda _: whole()).up() as server, opened(monkeypatch, server, hangs) as provider:
            said = await asyncio.gather(*(provider.call(HI) for _ in range(5)), return_exceptions=True)
        assert {type(error) for error in said} == {ConnectionBroken}
        assert all("took more than 0.1 s" in str(error) for error in said)
    finally:
        go_on.set()


async def test_a_token_that_was_revoked_is_asked_for_anew_and_one_that_is_refused_at_once_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = 0

    def token(_: Asked) -> tuple[dict[str, str], float]:
        nonlocal given
        given += 1
        return {"authorization": f"Bearer {TOKEN.format(given)}"}, 3600.0

    no = reply('{"error":{"message":"who are you?"}}', 401)
    server = Server(lambda n: no if n in (0, 2, 4, 5) else whole(), "close")
    async with server.up(), opened(monkeypatch, server, token) as provider:
        with pytest.raises(NotAllowed, match="who are you"):
            await provider.call(HI)
        await provider.call(HI)
        await provider.call(HI)
        assert sent(server) == [f"Bearer {TOKEN.format(n)}" for n in (1, 1, 1, 2)]
        with pytest.raises(NotAllowed, match="who are you"):
            await provider.call(HI)
    assert (len(server.asked), given) == (6, 3)


def test_a_place_that_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "my_cloud", types.SimpleNamespace(region="eu"))
    for place, says in (
        ("my_cloud", 'is no place of a function; name it as "my_pkg'),
        ("no_such_module_of_mine:f", "cannot be imported: ModuleNotFoundError"),
        ("my_cloud:nothing", "cannot be imported: AttributeError"),
        ("my_cloud:region", "is no function"),
    ):
        with pytest.raises(ConfigError, match=says):
            check_model("small", ModelConfig(credentials=place), {})
    named = ModelConfig(provider=f"{__name__}:Config", credentials="my_cloud:region")
    with pytest.raises(ConfigError, match="a class of yours has its own credentials"):
        check_model("small", named, {})


def test_a_file_that_names_credentials_names_code(tmp_path: Path) -> None:
    (tmp_path / "aios.toml").write_text('[models.a]\ncredentials = "m:f"\n')
    assert load(tmp_path / "aios.toml", env={}).names_code
    assert not Config(models={"a": ModelConfig()}).names_code
