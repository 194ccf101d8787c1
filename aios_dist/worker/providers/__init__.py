"""The way to a model: ``open_provider`` gives what ``await provider.call(request)`` is called on.

An adapter is named in ``aios.toml`` (``provider = "openai"``); a class of one's own by its place
(``provider = "my_pkg.my_module:MyProvider"``), made with ``MyProvider(name, model, env)``. Nothing that
speaks HTTP is imported until a model is opened. No retries happen here: they are the fleet's.

An adapter is a codec without I/O (``openai.py``, ``anthropic.py``, over ``codec.py``): what a request is in
bytes, what bytes are as an answer or an error. One HTTP client under all carries them (``calling.py``,
``transport.py``). No official SDK has a part in it: tests hold each codec against what its SDK sends.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from aios_dist.config import ModelConfig, odd_option
from aios_dist.errors import ConfigError
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.model.options import OURS, odd_extra
from aios_dist.program.imports import importing
from aios_dist.text.masking import learn, masked


class Provider(Protocol):
    """One model, open for calls on one event loop; any number of calls may be in flight at once.

    ``name`` is the adapter's name and becomes ``LLMResponse.provider``.
    """

    name: str

    async def call(self, request: LLMRequest, *, idempotency_key: str | None = None) -> LLMResponse:
        """Ask the model once; cancelling the task closes the connection at once.

        Args:
            request: what is asked. ``request.model`` is not looked at: the provider was opened for one model.
            idempotency_key: sent as the header ``Idempotency-Key``, for gateways that heed it.

        ``request.timeout`` need not be looked at: whoever calls ends the call then.

        Raises:
            LLMError: one of its classes; nothing else that a provider or a network can cause.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections; the provider takes no call after that."""
        ...


class _Adapter(NamedTuple):
    """``url_env``: the variable by which the provider's own SDK is led elsewhere. One that another program
    has set would get our prompts and our key, one that is meant would be missed: so it is neither followed
    nor passed over."""

    place: str
    key_env: str
    url_env: str


_HERE = "aios_dist.worker.providers"
ADAPTERS: Mapping[str, _Adapter] = {
    "openai": _Adapter(f"{_HERE}.openai:OpenAICodec", "OPENAI_API_KEY", "OPENAI_BASE_URL"),
    "openai-responses": _Adapter(
        f"{_HERE}.openai_responses:ResponsesCodec", "OPENAI_API_KEY", "OPENAI_BASE_URL"
    ),
    "anthropic": _Adapter(f"{_HERE}.anthropic:AnthropicCodec", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
    "gemini": _Adapter(f"{_HERE}.gemini:GeminiCodec", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"),
}
"""The adapters by the name they have in ``aios.toml``: the place of the codec, and its variables."""

NEEDED = ("aiohttp",)
"""Packages that they need."""


def open_provider(name: str, model: ModelConfig, env: Mapping[str, str]) -> Provider:
    """Open one model. No connection is made before the first call.

    Args:
        name: the model's name in ``aios.toml``; also its name at the provider where ``model.model`` is None.
        model: its table.
        env: where the key is read from (``os.environ`` of the worker).

    Raises:
        ConfigError: see :func:`check_model`.
    """
    check_model(name, model, env)
    made = _load(name, model)
    if model.provider not in ADAPTERS:
        return cast(Provider, made(name, model, env))
    from aios_dist.worker.providers.calling import HttpProvider
    from aios_dist.worker.providers.credentials import Credentials

    codec = made(name, model, key_of(name, model, env))
    given = None if model.credentials is None else Credentials(name, model, codec.name)
    return HttpProvider(codec, given)


def check_model(name: str, model: ModelConfig, env: Mapping[str, str]) -> None:
    """Do all the checks of :func:`open_provider`, without opening anything.

    Raises:
        ConfigError: an unknown provider, a package that is not installed, a key that is not in ``env``, or a
            ``base_url`` that is none; one sentence that says what to do.
    """
    adapter = ADAPTERS.get(model.provider)
    if adapter is None:
        _load(name, model)
    else:
        missing = [package for package in NEEDED if importlib.util.find_spec(package) is None]
        if missing:
            raise ConfigError.with_fix(
                f"Model {name!r} needs the package {missing[0]!r}", "pip install 'aios-dist[worker]'", ": "
            )
    if model.base_url is not None and not model.base_url.startswith(("http://", "https://")):
        raise ConfigError(
            f"Model {name!r}: base_url {masked(model.base_url)!r} must start with http:// or https://."
        )
    if password := urlsplit(model.base_url or "").password:
        learn(unquote(password))
    led = adapter.url_env if adapter is not None else ""
    if model.base_url is None and env.get(led):
        raise ConfigError(
            f"Model {name!r}: {led} is in the environment, which is not followed: set base_url of the model, "
            "be it the provider's own address."
        )
    if "timeout" in model.options:
        raise ConfigError(
            f"Model {name!r}: timeout is a setting of the model itself, and none of its options."
        )
    if model.credentials is not None:
        if adapter is None:
            raise ConfigError(f"Model {name!r}: a class of yours has its own credentials, and no function's.")
        from aios_dist.worker.providers import credentials

        credentials.load(name, model.credentials)
    if said := _odd_options(model.options):
        raise ConfigError(f"Model {name!r}: of its options, {said}")
    key_of(name, model, env)


def _odd_options(options: Mapping[str, Any]) -> str:
    """What is wrong with options that every call of a model gets, as a sentence; "" where nothing is."""
    for name in ("messages", "model", "prompt", "system"):
        if name in options:
            return f"{name} is the call's own."
    own = odd_option(options.get("max_tokens"), options.get("temperature"))
    return own or odd_extra({name: value for name, value in options.items() if name not in OURS})


def key_of(name: str, model: ModelConfig, env: Mapping[str, str]) -> str | None:
    """The model's key, or None where it needs none: a server of one's own, given by ``base_url`` alone, or
    a function's credentials.

    Without ``api_key_env`` and these it is the variable that the provider's own SDK would read.
    What that variable holds is never sent to a ``base_url`` that did not ask for it.

    Raises:
        ConfigError: the variable is missing, empty, or holds what cannot be sent as a header.
    """
    adapter = ADAPTERS.get(model.provider)
    variable = model.api_key_env
    if variable is None:
        if model.base_url is not None or model.credentials is not None or adapter is None:
            return None
        variable = adapter.key_env
    # A trailing line break is what `export KEY="$(cat file)"` and secret mounts often leave.
    key = env.get(variable, "").strip()
    if not key:
        raise ConfigError.with_fix(
            f"Model {name!r} needs its key in the environment variable {variable}",
            "set it for the worker",
            ": ",
        )
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigError.with_fix(
            f"Model {name!r}: the key in {variable} has characters that no key has", "set it again", ": "
        )
    learn(key)
    return key


def _load(name: str, model: ModelConfig) -> Any:
    """The adapter's class.

    Raises:
        ConfigError: there is none of that name or at that place.
    """
    adapter = ADAPTERS.get(model.provider)
    place = adapter.place if adapter is not None else model.provider
    module, colon, attribute = place.partition(":")
    if not (module and colon and attribute):
        known = ", ".join(sorted(ADAPTERS))
        raise ConfigError(
            f"Model {name!r}: there is no provider {model.provider!r}; known are {known}, "
            f'or name a class of yours as "my_pkg.my_module:MyProvider".'
        )
    with importing(f"Model {name!r}: the provider {model.provider!r}"):
        return getattr(importlib.import_module(module), attribute)
