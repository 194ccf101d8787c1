"""The tables of ``aios.toml`` as records: each setting's name, type, range, default and meaning, once.

A new setting is one field here. ``python -m tests.unit.test_docs`` writes it into docs/configuration.md; the
schema and ``config show`` have it by themselves; an option is ``setting_option(LaneConfig, "policy")``. What
it may not be beside another one is a check in :mod:`aios_dist.config.checks`.
"""

# No `from __future__ import annotations`: msgspec would compile the text of each type at every start.

import os
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aios_dist import policies
from aios_dist.config.bounds import FOREVER, MOST
from aios_dist.config.declared import says
from aios_dist.errors import ConfigError
from aios_dist.text.masking import hide_in, learn, learn_url

DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"

POLICIES = tuple(policies.names())
"""What ``policy`` may be."""

Above0 = Annotated[float, Meta(gt=0, lt=FOREVER)]
From0 = Annotated[float, Meta(ge=0, lt=FOREVER)]
Bytes = Annotated[
    int, Meta(gt=0, le=64 * 1024 * 1024)
]  # what a record may have: MOST_RECORD of model/jobs.py
JobBytes = Annotated[int, Meta(ge=1024**2, le=1024**4)]
AnswerBytes = Annotated[int, Meta(gt=0, le=1024**3)]
Limit = Annotated[int, Meta(ge=0, le=MOST)]
AtLeast1 = Annotated[int, Meta(ge=1, le=10**9)]


# fmt: off
# A setting reads as a row of a table: what it is called, what can stand there, what it means, its default.

# Plan files have these, too.
Prompts = Annotated[list[str], Meta(min_length=1), says("the prompts, asked one after another")]
PromptsModel = Annotated[str, says("the model of all its calls; else the default model")]
System = Annotated[str, says("a system message for all its calls")]
Temperature = Annotated[float, Meta(ge=0, le=1e3), says(
    "the temperature of all its calls, passed on where given")]
MaxTokens = Annotated[AtLeast1, says(
    "the most output tokens of each call, passed on where given", unit="tokens")]


class _Masked(msgspec.Struct, frozen=True):
    """Shows no password of a URL: whatever prints it, a test that fails or a tracker of errors, shows all."""

    def __repr__(self) -> str:
        said = (f"{name}={hide_in(getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(said)})"


class ModelConfig(_Masked, frozen=True, forbid_unknown_fields=True):
    """``[models.NAME]``: how one model is reached. Agents use NAME."""

    provider: Annotated[str, says(
        "`openai` (and all that speak its protocol), `openai-responses`, `anthropic`, `gemini`, or a class "
        'of yours: `"my_pkg.my_module:MyProvider"`')] = "openai"
    model: Annotated[str, says("the model's name at the provider; NAME when left out")] | None = None
    base_url: Annotated[str, says("where the model is, when not at the provider's own address")] | None = None
    api_key_env: Annotated[str, says(
        "the environment variable of the worker that holds the key; without it and without `base_url`, the "
        "provider's own (`OPENAI_API_KEY`, `ANTHROPIC_API_KEY`, `GEMINI_API_KEY`)")] | None = None
    credentials: Annotated[str, says(
        '`"my_pkg.my_module:function"`: a function of yours that gives the [headers of a call](#credentials) '
        "in the place of a key")] | None = None
    timeout: Annotated[Above0, says(
        "seconds for one whole call; `llm(…, timeout=5)` may shorten it", unit="seconds")] = 300.0
    stream_pause: Annotated[From0, says(
        "seconds between two pieces of a stream that has begun to answer",
        unit="seconds", zero="no limit")] = 120.0
    answer_limit: Annotated[AnswerBytes, says(
        "the largest answer as it comes in; a larger one is cut off and is a `BadReply`",
        unit="bytes")] = 64 * 1024 * 1024
    lane: Annotated[str, says("the lane that this model's steps wait on")] = "llm"
    stream: Annotated[bool, says(
        "read the reply as a stream: gives the time to the first token, keeps proxies from cutting long "
        "calls, costs some 20 µs of CPU a piece")] = False
    options: Annotated[dict[str, Any], says(
        "provider options sent with every call, [checked](agents.md#llm) as those of a call")] = {}
    attempts: Annotated[AtLeast1, says(
        "calls of one step at the most, where the error [may pass](reliability.md#what-is-tried-again)",
        unit="calls")] = 6
    backoff: Annotated[Above0, says(
        "the ceiling of the first pause between two tries, at most `backoff_max`; it doubles from try to try",
        unit="seconds")] = 1.0
    backoff_max: Annotated[Above0, says(
        "the highest ceiling; a provider's own `Retry-After` may be longer", unit="seconds")] = 60.0
    fallback: Annotated[list[str], says(
        "models that a step goes to, in this order, when its own has no attempts left, refuses for good, or "
        "[keeps it waiting](reliability.md#holds-and-the-circuit-breaker)")] = []
    fallback_after: Annotated[From0, says(
        "a hold of this model that lasts longer sends its steps to their `fallback`",
        unit="seconds", zero="any hold does", then="An open breaker does so always")] = 60.0
    breaker: Annotated[Limit, says(
        "failures in a row, over the fleet, after which nobody calls the model for a while",
        unit="failures", zero="never")] = 10
    max_in_flight: Annotated[Limit, says(
        "calls at a time over the whole fleet", unit="calls", zero="no limit")] = 0
    requests_per_minute: Annotated[Limit, says(
        "calls begun in any 60 s", unit="calls", zero="no limit")] = 0
    tokens_per_minute: Annotated[Limit, says(
        "tokens of the calls begun in any 60 s",
        unit="tokens", zero="no limit", then="A call that alone needs more is refused")] = 0
    input_price: Annotated[From0, says(
        "money for a million prompt tokens", unit="money", zero="free",
        then="Without either price, what the package `genai-prices` knows (extra `prices`), else nothing, "
        "which `doctor` says")] | None = None
    output_price: Annotated[From0, says(
        "money for a million output tokens", unit="money", zero="free")] | None = None


class TenantConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[tenants.NAME]``: what a tenant may spend on a day (UTC), over all of its jobs, and what it gets."""

    tokens_per_day: Annotated[Limit, says(
        "prompt and output tokens of a day (UTC) together", unit="tokens", zero="no limit")] = 0
    money_per_day: Annotated[From0, says(
        "money of a day (UTC), in the currency of the models' prices", unit="money", zero="no limit")] = 0.0
    max_in_flight: Annotated[Limit, says(
        "calls at a time over the whole fleet", unit="calls", zero="no limit",
        then="What is over it waits without a slot, and holds up no other tenant")] = 0
    weight: Annotated[float, Meta(ge=1e-3, le=1e3), says(
        'its share of lanes with `fair = "tenant"`, from 0.001 to 1000: with 2 it gets twice as much as a '
        "tenant with 1")] = 1.0


class LaneConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[lanes.NAME]``: one stream of work, and who goes first on it."""

    policy: Annotated[str, says(
        "what gives the steps of LLM calls their rank: one of the [policies](policies.md) (tools and turns "
        "are always `fifo`)", choices=POLICIES)] = "fifo"
    oldest_every: Annotated[int, Meta(ge=0, le=10**6), says(
        "one dispatch in so many goes to the step that has waited longest",
        unit="dispatches", zero="never", without=1,
        then=f"Left out: {policies.OLDEST_EVERY} under a policy that can starve a step, else 0",
    )] | None = None
    fair: Annotated[str, says(
        '`"tenant"`: tenants share the lane, by the tokens that they use; else they do not',
        choices=("tenant", ""), zero="no shares")] = ""


class PoolConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[pools.NAME]``: what one kind of worker process serves; started by ``aios-dist worker NAME``."""

    lanes: Annotated[list[str], Meta(min_length=1), says("the lanes it takes steps from")]
    slots: Annotated[AtLeast1, says("how many steps one process holds at a time", unit="steps")] = 64
    memory_limit: Annotated[Limit, says(
        "a process that holds more takes no new work, finishes what it has and begins anew",
        unit="bytes", zero="no limit")] = 0


class PromptsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``[agents.NAME]``: an agent that is data, a list of prompts asked one after another.

    ``{input}`` (or ``{input[key]}``), ``{previous}`` and ``{steps[0]}`` are filled in.
    """

    prompts: Prompts
    model: PromptsModel | None = None
    system: System | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None


class FleetConfig(_Masked, frozen=True, forbid_unknown_fields=True):
    """``[fleet]``: what all processes of a fleet agree on."""

    name: Annotated[str, says(
        "the fleet's name: the prefix of everything it keeps in Redis", variable="AIOS_FLEET")] = "aios"
    redis_url: Annotated[str, says(
        "the one Redis of the fleet: `redis://`, `rediss://`, `unix://`, `sentinel://…?master=NAME` "
        "([addresses](deploy.md#redis-address))", variable="AIOS_REDIS_URL")] = DEFAULT_REDIS_URL
    default_model: Annotated[str, says(
        "the model of `llm()` calls that name none; with one model it is that one")] | None = None
    modules: Annotated[list[str], says(
        "Python modules that define agents, imported by workers and the command line, also from the current "
        "folder")] = []
    prompt_limit: Annotated[Bytes, says(
        "the largest request of a step, as JSON", unit="bytes")] = 16 * 1024 * 1024
    input_limit: Annotated[Bytes, says(
        "the largest input of a job, and the largest value of a signal, as JSON", unit="bytes")] = 1024 * 1024
    result_limit: Annotated[Bytes, says(
        "the largest result of a job or a tool, as JSON before it is compressed; a larger one fails the job, "
        "or is a `ToolError`", unit="bytes")] = 8 * 1024 * 1024
    job_limit: Annotated[JobBytes, says(
        "what a job may hold of requests and answers, each message once, as Redis keeps them; one that asks "
        "for more is parked", unit="bytes")] = 64 * 1024 * 1024
    retention: Annotated[Above0, says(
        "how long a finished job is kept (7 days)", unit="seconds")] = 7 * 24 * 3600.0
    lease: Annotated[Above0, says(
        "how long a step stays with a worker that does not renew", unit="seconds")] = 10.0
    renew: Annotated[Above0, says("how often workers renew; at most half of `lease`", unit="seconds")] = 3.0
    reconcile: Annotated[Above0, says(
        "how often the reconciler looks for what a crash left behind", unit="seconds")] = 2.0
    attempts: Annotated[AtLeast1, says(
        "how many workers may be lost over one step before its outcome is `WorkerLost`", unit="workers")] = 3
    step_deadline: Annotated[Above0, says(
        "how long after its first try a step is still tried again", unit="seconds")] = 3600.0
    shutdown_grace: Annotated[From0, says(
        "how long a warm shutdown waits for calls in flight before handing them back", unit="seconds")] = 30.0
    tool_timeout: Annotated[From0, says(
        "seconds for a [tool](reliability.md#code-that-hangs-or-computes) that says nothing else; then its "
        "step fails", unit="seconds", zero="no limit")] = 3600.0
    turn_timeout: Annotated[From0, says(
        "seconds that an agent may compute between two awaits; then its job fails",
        unit="seconds", zero="no limit")] = 60.0
    check_replays: Annotated[bool, says(
        "none: true in a `LocalFleet` and `aios-dist up`, else false. Workers run each agent again beside "
        "the live one, at every turn for the first 64 outcomes of a job, and fail the job of one that [does "
        "not repeat itself](agents.md#rules)")] | None = None
    spool_dir: Annotated[str, says(
        "folder where a worker that must end saves the answers that Redis does not take; the next one on "
        "that machine [writes them](reliability.md#answers-that-redis-does-not-take)")] = ""
    redis_timeout: Annotated[Above0, says(
        "how long a Redis that says nothing is waited for before the connection is made anew; less than "
        "`lease` − `renew`, so that a dead connection costs no lease. Another one is refused; left out, it "
        "is shorter where these are closer together (but 1 s at the least)", unit="seconds")] = 5.0


# fmt: on

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

    @property
    def names_code(self) -> bool:
        """Python of the user's is imported for it: modules of agents, a provider's class, credentials."""
        named = (model.credentials or ":" in model.provider for model in self.models.values())
        return bool(self.fleet.modules) or any(named)

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


TABLES: dict[str, type[msgspec.Struct]] = {
    "fleet": FleetConfig,
    "models": ModelConfig,
    "lanes": LaneConfig,
    "pools": PoolConfig,
    "agents": PromptsConfig,
    "tenants": TenantConfig,
}
"""The record of each section; all but ``fleet`` have one table for each name."""

msgspec.json.Decoder(Config)  # its classes are known to msgspec from here on: see aios_dist.model.jobs
