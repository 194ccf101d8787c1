"""``aios.toml`` and the environment, read once, checked whole, and never changed afterwards.

Order: built-in defaults, then the file (``AIOS_CONFIG``, else ``./aios.toml`` if it is there), then
``AIOS_REDIS_URL`` and ``AIOS_FLEET``. Keys of providers are not configuration: a model names the
environment variable that holds its key (``api_key_env``), and only workers read that variable.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aios_dist import policies
from aios_dist.config.files import read_text
from aios_dist.config.redis_urls import check_url
from aios_dist.errors import ConfigError, InvalidInput
from aios_dist.text.masking import learn, learn_url

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
"""What names and ids look like: they become parts of Redis keys, file names and log lines."""

FOREVER = 1e10
"""Durations and sizes end here (317 years, 10 GB): Redis counts microseconds in doubles."""

MOST = 10**12
"""The highest limit: what Redis counts stays exact."""

RESERVED_LANES = ("unacked", "unacked_index", "unacked_mutex")
"""Kombu's own keys stand beside the lanes' queues."""

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"


FILES_BESIDE_CALLS = 128
"""Open files of a worker that are not calls: Redis, the program's own, the system's."""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[models.NAME]``: how one model is reached.

    Attributes:
        provider: the adapter: ``openai`` (and all that speak its protocol) or ``anthropic``.
        model: the model's name at the provider; the table's own name when left out.
        base_url: where the provider is, when not at the SDK's own address.
        api_key_env: the environment variable of the worker that holds the key.
        timeout: seconds for one whole call.
        stream_pause: seconds between two pieces of a stream that has begun to answer; 0: no limit.
        lane: the lane that this model's steps wait on.
        stream: read the reply as a stream: gives the time to the first token, keeps proxies from cutting
            long calls, and costs some 20 µs of CPU a piece.
        options: provider options sent with every call.
        attempts: calls of one step at the most, where the error may pass (429, 5xx, time-out, cut).
        backoff: seconds; the ceiling of the first pause between two tries; doubles from try to try.
        backoff_max: seconds; the highest ceiling.
        fallback: models that a step goes to when its own has no attempts left, fails for good, or keeps it
            waiting.
        fallback_after: seconds; a hold of this model that lasts longer sends its steps to ``fallback`` (0:
            any does). So does an open breaker, however soon it closes.
        breaker: failures in a row, over the fleet, after which nobody calls the model for a while; 0: never.
        max_in_flight: calls at a time over the whole fleet; 0: no limit. So are the two below.
        requests_per_minute: calls started in any 60 s.
        tokens_per_minute: tokens of the calls started in any 60 s; estimated before, settled after.
        input_price: money for a million prompt tokens; where left out, what `genai-prices` knows.
        output_price: money for a million output tokens.
    """

    provider: str = "openai"
    model: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    timeout: float = 300.0
    stream_pause: float = 120.0
    lane: str = "llm"
    stream: bool = False
    options: dict[str, Any] = {}
    attempts: int = 6
    backoff: float = 1.0
    backoff_max: float = 60.0
    fallback: list[str] = []
    fallback_after: float = 60.0
    breaker: int = 10
    max_in_flight: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    input_price: float | None = None
    output_price: float | None = None


class TenantConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[tenants.NAME]``: what a tenant may spend on a day (UTC), and what it gets; 0 is no limit.

    Attributes:
        tokens_per_day: prompt and output tokens together.
        money_per_day: in the currency of the models' prices.
        max_in_flight: calls at a time over the whole fleet.
        weight: its share of lanes with ``fair = "tenant"``, where others have 1.
    """

    tokens_per_day: int = 0
    money_per_day: float = 0.0
    max_in_flight: int = 0
    weight: float = 1.0


class LaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[lanes.NAME]``: one stream of work, and who goes first on it.

    Attributes:
        policy: what gives the steps of LLM calls their rank, one of :mod:`aios_dist.policies` (tools and
            turns are always ``fifo``).
        oldest_every: every so-manieth dispatch goes to the step that has waited longest; 0 for never. Where
            left out, 10 under a policy that can starve a step, else 0.
        fair: ``tenant`` shares the lane between tenants by virtual token counters; empty does not.
    """

    policy: str = "fifo"
    oldest_every: int | None = None
    fair: str = ""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[pools.NAME]``: what one kind of worker process serves.

    Attributes:
        lanes: the lanes it takes steps from.
        slots: how many steps one process holds at a time.
        memory_limit: bytes; a process that holds more finishes what it has and begins anew. 0: no limit.
    """

    lanes: list[str]
    slots: int = 64
    memory_limit: int = 0


class PromptsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``[agents.NAME]``: an agent that is data, a list of prompts asked one after another.

    ``{input}`` (or ``{input[key]}``), ``{previous}`` and ``{steps[0]}`` are filled in.
    """

    prompts: list[str]
    model: str | None = None
    system: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


class FleetConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[fleet]``: what all processes of a fleet agree on. Durations are seconds, sizes are bytes.

    Attributes:
        name: the fleet's name: the prefix of everything it keeps in Redis.
        redis_url: the one Redis of the fleet (``redis://``, ``rediss://``, ``sentinel://``).
        default_model: the model of ``llm()`` calls that name none; the only model when there is one.
        modules: Python modules that define agents, imported by workers and the command line.
        prompt_limit: the largest request that a step may carry.
        result_limit: the largest result of a tool or a job that is kept. (An answer that was paid for is
            always kept.)
        retention: how long a finished job is kept.
        lease: how long a step stays with a worker that does not renew.
        renew: how often workers renew.
        reconcile: how often the reconciler looks for what was dropped between two writes.
        attempts: how many workers may be lost over one step before the step fails.
        step_deadline: how long after its first try a step is still tried again.
        shutdown_grace: how long a warm shutdown waits for calls in flight before handing them back.
        tool_timeout: seconds for a tool that says nothing else; then its step fails. 0: no limit.
        turn_timeout: seconds that an agent may compute between two awaits; then its job fails. 0: no limit.
        check_replays: workers run agents' programs again beside the live ones, and fail the job of one that
            does not repeat itself, at once and not by chance. None: in a ``LocalFleet`` and ``aios-dist up``.
        spool_dir: where a worker that must end saves the answers that Redis does not take; its next life
            writes them. Empty: nowhere.
        redis_timeout: how long a Redis that says nothing is waited for before the connection is
            made anew; less than ``lease - renew``, so that a dead connection costs no lease. Where it is not
            given in aios.toml, it is 5 s, or less where those are closer together.
    """

    name: str = "aios"
    redis_url: str = DEFAULT_REDIS_URL
    default_model: str | None = None
    modules: list[str] = []
    prompt_limit: int = 1024 * 1024
    result_limit: int = 8 * 1024 * 1024
    retention: float = 7 * 24 * 3600.0
    lease: float = 10.0
    renew: float = 3.0
    reconcile: float = 2.0
    attempts: int = 3
    step_deadline: float = 3600.0
    shutdown_grace: float = 30.0
    tool_timeout: float = 3600.0
    turn_timeout: float = 60.0
    check_replays: bool | None = None
    spool_dir: str = ""
    redis_timeout: float = 5.0


LEAST_REDIS_TIMEOUT_S = 1.0
"""No Redis is given up sooner, however short leases are."""

DEFAULT_POOLS = {
    "llm": PoolConfig(lanes=["llm"], slots=64),
    "turns": PoolConfig(lanes=["turns"], slots=16),
}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of ``aios.toml``."""

    fleet: FleetConfig = FleetConfig()
    models: dict[str, ModelConfig] = {}
    lanes: dict[str, LaneConfig] = {}
    pools: dict[str, PoolConfig] = {}
    agents: dict[str, PromptsConfig] = {}
    tenants: dict[str, TenantConfig] = {}

    def __post_init__(self) -> None:
        """Whoever has a configuration must not print what it leads to."""
        self.hide_secrets(os.environ)

    def hide_secrets(self, env: Mapping[str, str]) -> None:
        """Tell :mod:`aios_dist.text.masking` the passwords of ``redis_url`` and the keys that ``env`` has."""
        learn_url(self.fleet.redis_url)
        learn(*(env.get(model.api_key_env or "", "").strip() for model in self.models.values()))

    def default_model(self) -> str | None:
        """The model of ``llm()`` calls that name none, or None where that is not decided."""
        if self.fleet.default_model is not None:
            return self.fleet.default_model
        return next(iter(self.models)) if len(self.models) == 1 else None

    def pool(self, name: str) -> PoolConfig:
        """The pool of that name.

        Raises:
            ConfigError: neither the file nor the built-in pools have it.
        """
        pool = self.pools.get(name) or DEFAULT_POOLS.get(name)
        if pool is None:
            known = ", ".join(sorted({*self.pools, *DEFAULT_POOLS}))
            raise ConfigError(f"There is no pool {name!r}; add [pools.{name}] to aios.toml (known: {known}).")
        return pool

    def lane_names(self) -> list[str]:
        """Every lane that is named anywhere, sorted."""
        named = {"llm", "turns", *self.lanes, *(m.lane for m in self.models.values())}
        named.update(lane for pool in self.pools.values() for lane in pool.lanes)
        return sorted(named)

    def lane(self, name: str) -> LaneConfig:
        """The lane's settings, or the defaults."""
        return self.lanes.get(name, LaneConfig())


msgspec.json.Decoder(Config)  # its classes are known to msgspec from here on: see aios_dist.model.jobs


def load(path: str | os.PathLike[str] | None = None, env: Mapping[str, str] = os.environ) -> Config:
    """Read the configuration.

    Args:
        path: the file; None means ``AIOS_CONFIG``, else ``./aios.toml`` where that exists.
        env: the environment.

    Raises:
        ConfigError: one sentence that names the file, the place and what to write instead.
    """
    if path is not None and not isinstance(path, (str, os.PathLike)):
        raise ConfigError(f"A configuration file is named by its path, not by a {type(path).__name__}.")
    named = path or env.get("AIOS_CONFIG")
    file = Path(named) if named else Path("aios.toml")
    data: dict[str, Any] = {}
    there = _is_there(file)
    if named and not there:
        raise ConfigError(f"There is no configuration file {str(file)!r}; check AIOS_CONFIG or --config.")
    if there:
        data = read_toml(file)
    return parse(data, source=repr(str(file)), env=env)


def _is_there(file: Path) -> bool:
    """Raises ConfigError for what is there and no file."""
    try:
        mode = os.stat(file).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no file can have some names
        if os.path.islink(file):
            raise ConfigError(f"{str(file)!r} is a link to a file that is not there.") from None
        return False
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot be read: {exc.strerror}.") from None
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{str(file)!r} is a folder, and no configuration file.")
    if not stat.S_ISREG(mode):  # it is read more than once: by workers, too
        raise ConfigError(f"{str(file)!r} is no regular file, as a configuration must be.")
    return True


def read_toml(file: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML file as data.

    Raises:
        ConfigError: it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_text(file))
    except OSError as exc:
        raise ConfigError(f"{str(file)!r} cannot be read: {exc.strerror}.") from None
    except InvalidInput as exc:
        raise ConfigError(str(exc)) from None
    except RecursionError:
        raise ConfigError(f"{str(file)!r} is nested too deeply.") from None
    except ValueError as exc:
        raise ConfigError(f"{str(file)!r} is not TOML: {exc}.") from None


def parse(
    data: Mapping[str, Any], source: str = "configuration", env: Mapping[str, str] | None = None
) -> Config:
    """Check plain data as a configuration; ``source`` is named in errors.

    Raises:
        ConfigError: see :func:`load`.
    """
    env = env or {}
    for name in data:
        if name not in Config.__struct_fields__:
            raise ConfigError(
                f"{source}: unknown section [{name}]; {nearest(name, Config.__struct_fields__)}"
            )
    fleet = _table(data, "fleet", source)
    named = {field: variable for field, variable in _VARIABLES.items() if env.get(variable)}
    fleet.update({field: env[variable] for field, variable in named.items()})
    tables: dict[str, Any] = {
        section: {
            name: _convert(entry, kind, f"{source}: [{section}.{name}]")
            for name, entry in _table(data, section, source).items()
        }
        for section, kind in _ENTRIES.items()
    }
    config = Config(fleet=_convert(fleet, FleetConfig, f"{source}: [fleet]"), **tables)
    config.hide_secrets(env)
    _check(config, source, named)
    return _with_redis_timeout(config, source, given="redis_timeout" in fleet)


def _with_redis_timeout(config: Config, source: str, given: bool) -> Config:
    """``redis_timeout`` is less than ``lease - renew``: one that is given is refused, else it is shorter."""
    fleet = config.fleet
    spare = fleet.lease - fleet.renew
    if fleet.redis_timeout < spare or (given and fleet.redis_timeout <= LEAST_REDIS_TIMEOUT_S):
        return config
    if given:
        raise ConfigError(
            f"{source}: [fleet] redis_timeout ({fleet.redis_timeout:g} s) must be less than lease - renew "
            f"({spare:g} s): else a dead connection costs leases."
        )
    shorter = max(LEAST_REDIS_TIMEOUT_S, 0.7 * spare)
    return msgspec.structs.replace(config, fleet=msgspec.structs.replace(fleet, redis_timeout=shorter))


_VARIABLES = {"redis_url": "AIOS_REDIS_URL", "name": "AIOS_FLEET"}


def _check(config: Config, source: str, named: Mapping[str, str]) -> None:
    """``named``: fields of ``[fleet]`` that come from the environment, and from which variable."""
    fleet = config.fleet
    for kind, names in (
        ("fleet", [fleet.name]),
        ("model", config.models),
        ("lane", config.lane_names()),
        ("pool", config.pools),
        ("agent", config.agents),
        ("tenant", config.tenants),
    ):
        for name in names:
            if not NAME.fullmatch(name):
                place = named.get("name", source) if kind == "fleet" else source
                raise ConfigError(
                    f"{place}: {kind} name {name!r} must be letters, digits and . _ : - (at most 128), "
                    "and begin with a letter or digit."
                )
    for lane in config.lane_names():
        if lane in RESERVED_LANES:
            raise ConfigError(f"{source}: lane name {lane!r} is kombu's own; choose another.")
    check_url(named.get("redis_url", source), fleet.redis_url)
    positive = ("prompt_limit", "result_limit", "retention", "lease", "renew", "reconcile", "attempts")
    for field in (*positive, "step_deadline", "redis_timeout"):
        if not 0 < getattr(fleet, field) < FOREVER:
            raise ConfigError(f"{source}: [fleet] {field} must be more than 0 (and finite).")
    for field in ("shutdown_grace", "tool_timeout", "turn_timeout"):
        if not 0 <= getattr(fleet, field) < FOREVER:
            raise ConfigError(f"{source}: [fleet] {field} must be 0 or more seconds (and finite).")
    if fleet.renew * 2 > fleet.lease:
        raise ConfigError(
            f"{source}: [fleet] renew ({fleet.renew} s) must be at most half of lease ({fleet.lease} s)."
        )
    for name, pool in config.pools.items():
        if pool.slots < 1 or not pool.lanes:
            raise ConfigError(f"{source}: [pools.{name}] needs at least one slot and one lane.")
        if pool.memory_limit < 0:
            raise ConfigError(f"{source}: [pools.{name}] memory_limit must be 0 (no limit) or more bytes.")
    for name, model in config.models.items():
        if not 0 < model.timeout < FOREVER:
            raise ConfigError(f"{source}: [models.{name}] timeout must be more than 0 seconds (and finite).")
        if not 0 <= model.stream_pause < FOREVER:
            raise ConfigError(
                f"{source}: [models.{name}] stream_pause must be 0 or more seconds (and finite)."
            )
        _check_model(name, model, config, source)
    for name, lane_config in config.lanes.items():
        check_lane(f"{source}: [lanes.{name}]", lane_config)
    for name, tenant in config.tenants.items():
        check_tenant(f"{source}: [tenants.{name}]", tenant)
    default = fleet.default_model
    if default is not None and config.models and default not in config.models:
        known = ", ".join(sorted(config.models))
        raise ConfigError(f"{source}: default_model {default!r} is not one of the models ({known}).")
    for agent, prompts in config.agents.items():
        if not prompts.prompts:
            raise ConfigError(f"{source}: [agents.{agent}] needs at least one prompt.")
        if odd := odd_option(prompts.max_tokens, prompts.temperature):
            raise ConfigError(f"{source}: [agents.{agent}] {odd}")
        if prompts.model is not None and config.models and prompts.model not in config.models:
            known = ", ".join(sorted(config.models))
            raise ConfigError(f"{source}: [agents.{agent}] model {prompts.model!r} is not one of ({known}).")


def odd_option(max_tokens: Any, temperature: Any) -> str:
    """What is wrong with the options of a call, as a sentence; "" where nothing is. None is "not given"."""
    whole = isinstance(max_tokens, int) and not isinstance(max_tokens, bool)
    if max_tokens is not None and not (whole and 0 < max_tokens <= 10**9):
        return "max_tokens must be a whole number from 1 to 1,000,000,000."
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if temperature is not None and not (number and 0 <= temperature <= 1e3):
        return "temperature must be a number from 0 to 1000."
    return ""


def check_lane(place: str, lane: LaneConfig) -> None:
    """Raises ConfigError: a setting of a lane that cannot be; ``place`` begins the sentence."""
    if not isinstance(lane.policy, str) or policies.get(lane.policy) is None:
        raise ConfigError(
            f"{place} policy: there is no policy {as_written(lane.policy)}; "
            f"{nearest(lane.policy if isinstance(lane.policy, str) else '', policies.names())}"
        )
    if not isinstance(lane.fair, str) or lane.fair not in ("", "tenant"):
        raise ConfigError(f"{place} fair is 'tenant' or '' (no shares), not {as_written(lane.fair)}.")
    every = lane.oldest_every
    if every is not None and not (type(every) is int and (every == 0 or 2 <= every <= 10**6)):
        raise ConfigError(
            f"{place} oldest_every is 0 (never) or a whole number from 2, not {as_written(every)}."
        )


def check_tenant(place: str, tenant: TenantConfig) -> None:
    """Raises ConfigError: a setting of a tenant that cannot be; ``place`` begins the sentence."""
    check_limits(place, tokens_per_day=tenant.tokens_per_day, max_in_flight=tenant.max_in_flight)
    money, weight = tenant.money_per_day, tenant.weight
    if not (_is_number(money) and 0 <= money < FOREVER):
        raise ConfigError(
            f"{place} money_per_day must be a number from 0 (no limit), not {as_written(money)}."
        )
    if not (_is_number(weight) and 1e-3 <= weight <= 1e3):
        raise ConfigError(f"{place} weight must be from 0.001 to 1000, not {as_written(weight)}.")


def check_limits(place: str, **limits: Any) -> None:
    """Raises ConfigError: one of these cannot be a limit; ``place`` begins the sentence."""
    for field, value in limits.items():
        if not (type(value) is int and 0 <= value <= MOST):
            raise ConfigError(
                f"{place} {field} must be a whole number from 0 (no limit) to {MOST:,}, "
                f"not {as_written(value)}."
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def as_written(value: Any) -> str:
    """A setting as a sentence about it shows it."""
    if isinstance(value, str):
        return repr(value[:40])
    try:
        text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split("\n"))
    except Exception:  # an object of a caller's, or a number of thousands of digits
        text = f"an object of {type(value).__name__}"
    return text if len(text) <= 40 else f"{text[:40]}…"


def _check_model(name: str, model: ModelConfig, config: Config, source: str) -> None:
    place = f"{source}: [models.{name}]"
    if model.attempts < 1:
        raise ConfigError(f"{place} attempts must be at least 1.")
    if not 0 < model.backoff <= model.backoff_max < FOREVER:
        raise ConfigError(f"{place} backoff must be more than 0 and at most backoff_max.")
    fields = ("breaker", "max_in_flight", "requests_per_minute", "tokens_per_minute")
    check_limits(place, **{field: getattr(model, field) for field in fields})
    if not 0 <= model.fallback_after < FOREVER:
        raise ConfigError(f"{place} fallback_after must be 0 or more seconds (and finite).")
    for field in ("input_price", "output_price"):
        price = getattr(model, field)
        if price is not None and not 0 <= price < FOREVER:
            raise ConfigError(f"{place} {field} must be 0 (free) or more, for a million tokens (and finite).")
    for other in model.fallback:
        if other not in config.models or other == name:
            known = ", ".join(sorted(set(config.models) - {name})) or "none"
            raise ConfigError(f"{place} fallback {other!r} is not another of the models ({known}).")


T = TypeVar("T")

_ENTRIES: dict[str, type[msgspec.Struct]] = {
    "models": ModelConfig,
    "lanes": LaneConfig,
    "pools": PoolConfig,
    "agents": PromptsConfig,
    "tenants": TenantConfig,
}
_EXPECTED = re.compile(r"Expected `(?P<want>[^`]*)`, got `(?P<got>[^`]*)`(?: - at `\$\.?(?P<at>[^`]*)`)?")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")
_WORDS = {
    "str": "text in quotes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}


def _table(data: Mapping[str, Any], section: str, source: str) -> dict[str, Any]:
    table = data.get(section, {})
    if not isinstance(table, Mapping):
        example = "[fleet]" if section == "fleet" else f"[{section}.NAME]"
        raise ConfigError(f"{source}: {section} must be a table, {example}, not {_said(table)}.")
    return dict(table)


def _convert(entry: Any, kind: type[T], place: str) -> T:
    """One table as its record, or a sentence in the file's own words with the nearest right spelling."""
    fields: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place} must be a table with {', '.join(fields)}; not {_said(entry)}.")
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as exc:
        message = str(exc)
    if unknown := _UNKNOWN.match(message):
        field = unknown["field"]
        raise ConfigError(f"{place} has an unknown field {field!r}; {nearest(field, fields)}")
    if missing := _MISSING.match(message):
        raise ConfigError(f"{place} needs {missing['field']}.")
    if expected := _EXPECTED.match(message):
        want, got = (_WORDS.get(expected[k].split(" | ")[0], expected[k]) for k in ("want", "got"))
        raise ConfigError(f"{place} {expected['at'] or ''} must be {want}, not {got}.")
    raise ConfigError(f"{place}: {message}.")


def nearest(word: str, allowed: Iterable[str]) -> str:
    """The right spelling that was meant, or all of them."""
    near = difflib.get_close_matches(word, list(allowed), n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(allowed)}."


def _said(value: Any) -> str:
    """What stands in the file, in a few words: never all of it, it may be a secret."""
    return {str: "text", bool: "true or false", int: "a number", float: "a number", list: "a list"}.get(
        type(value), f"a {type(value).__name__}"
    )
