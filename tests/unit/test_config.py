"""aios.toml and the environment: every mistake is one sentence that names the place."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aios_dist import policies
from aios_dist.config import DEFAULT_REDIS_URL, Config, FleetConfig, load, parse
from aios_dist.config.checks import odd_option
from aios_dist.errors import ConfigError
from aios_dist.local.config_file import to_toml

JARGON = ("`", "$", "[...]", "msgspec", "Struct", "object", "Traceback", "NoneType", "<class")

*_, LAST = policies.names()
OTHERS = ", ".join(map(repr, policies.names()[:-1]))


def sentence(text: str, tmp_path: Path, env: dict[str, str] | None = None) -> str:
    """What the user reads for that file."""
    file = tmp_path / "aios.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(file, env=env or {})
    said = str(caught.value)
    assert "\n" not in said
    assert not [word for word in JARGON if word in said], said
    return said.replace(repr(str(file)), "FILE")


MISTAKES = [
    # misspelt
    ("[fleeet]\nname = 'a'", "FILE: unknown section [fleeet]; did you mean 'fleet'?"),
    ("redis_url = 'redis://h'", "FILE: unknown section [redis_url]; known are fleet, models, lanes"),
    (
        "[fleet]\nredis_ulr = 'redis://h'",
        "FILE: [fleet] has an unknown field 'redis_ulr'; did you mean 'redis_url'?",
    ),
    (
        "[models.small]\ntmeout = 3",
        "FILE: [models.small] has an unknown field 'tmeout'; did you mean 'timeout'?",
    ),
    ("[models.a]\n[models.b]\nkey = 'sk-1'", "[models.b] has an unknown field 'key'; "),
    ("[models.small.optons]\na = 1", "[models.small] has an unknown field 'optons'; did you mean 'options'?"),
    ("[lanes.x]\npolcy = 'fifo'", "[lanes.x] has an unknown field 'polcy'; did you mean 'policy'?"),
    ("[pools.x]\nlanes = ['a']\nslot = 3", "[pools.x] has an unknown field 'slot'; did you mean 'slots'?"),
    ("[agents.x]\nprompt = ['a']", "[agents.x] has an unknown field 'prompt'; did you mean 'prompts'?"),
    # the wrong kind
    ("fleet = 'x'", "FILE: fleet must be a table, [fleet], not text in quotes."),
    ("models = [1]", "FILE: models must be a table, [models.NAME], not a list."),
    ("[models]\nsmall = 3", "FILE: [models.small] must be a table with provider, model,"),
    ("[models]\nmodel = 'gpt'", "FILE: [models.model] must be a table"),
    (
        "[models.small]\ntimeout = '3'",
        "[models.small] timeout must be a number of seconds above 0, not text in quotes.",
    ),
    ("[models.small]\nstream = 1", "[models.small] stream must be true or false, not a whole number."),
    ("[models.small]\nmodel = 3", "[models.small] model must be text in quotes, not a whole number."),
    ("[models.small]\noptions = 3", "[models.small] options must be a table, not a whole number."),
    ("[fleet]\nattempts = 1.5", "[fleet] attempts must be a whole number from 1 to 1,000,000,000, not 1.5."),
    (
        "[models.a]\nfallback_after = -1",
        "fallback_after must be a number of seconds from 0 (any hold does), not -1.",
    ),
    ("[models.a]\nfallback_after = inf", "from 0 (any hold does) and below 10,000,000,000, not inf."),
    ("[fleet]\nmodules = 'a'", "[fleet] modules must be a list, not text in quotes."),
    ("[fleet]\nmodules = ['a', 3]", "[fleet] modules[1] must be text in quotes, not a whole number."),
    ("[pools.x]\nslots = 3", "[pools.x] needs lanes."),
    ("[agents.x]\nmodel = 'small'", "[agents.x] needs prompts."),
    # out of bounds
    ("[fleet]\nlease = 0", "[fleet] lease must be a number of seconds above 0, not 0."),
    ("[fleet]\nlease = nan", "[fleet] lease must be a number of seconds above 0, not nan."),
    (
        "[fleet]\nretention = inf",
        "retention must be a number of seconds above 0 and below 10,000,000,000, not inf.",
    ),
    ("[fleet]\nattempts = -1", "[fleet] attempts must be a whole number from 1 to 1,000,000,000, not -1."),
    ("[models.x]\nbackoff = 90", "[models.x] backoff (90 s) must be at most backoff_max (60 s)."),
    (
        "[pools.x]\nlanes = ['a']\nmemory_limit = -1",
        "a whole number of bytes from 0 (no limit) to 1,000,000,000,000, not -1.",
    ),
    ("[agents.x]\nprompts = ['a']\ntemperature = -1", "temperature must be a number from 0 to 1000, not -1."),
    ("[fleet]\nprompt_limit = 0", "[fleet] prompt_limit"),
    ("[fleet]\nreconcile = -0.5", "[fleet] reconcile"),
    ("[fleet]\nshutdown_grace = -1", "[fleet] shutdown_grace"),
    ("[fleet]\nshutdown_grace = nan", "[fleet] shutdown_grace"),
    ("[fleet]\nlease = 4", "[fleet] renew (3.0 s) must be at most half of lease (4.0 s)."),
    ("[fleet]\nredis_timeout = 7", "[fleet] redis_timeout (7 s) must be less than lease - renew (7 s)"),
    ("[models.a]\ninput_price = -1", "[models.a] input_price must be a number from 0 (free), not -1."),
    ("[models.a]\noutput_price = nan", "[models.a] output_price must be a number from 0 (free), not nan."),
    ("[models.small]\ntimeout = 0", "[models.small] timeout must be a number of seconds above 0, not 0."),
    (
        "[models.small]\ntimeout = inf",
        "timeout must be a number of seconds above 0 and below 10,000,000,000, not inf.",
    ),
    ("[pools.x]\nlanes = []", "[pools.x] lanes must be a list with at least one entry, not an empty one."),
    (
        "[pools.x]\nlanes = ['a']\nslots = 0",
        "[pools.x] slots must be a whole number from 1 to 1,000,000,000, not 0.",
    ),
    # who goes first
    ("[lanes.x]\npolicy = 'lass'", "[lanes.x] policy: there is no policy 'lass'; did you mean 'las'?"),
    ("[lanes.x]\npolicy = 'round_robin'", "no policy 'round_robin'; did you mean 'round-robin'?"),
    (
        "[lanes.x]\npolicy = 'xyz'",
        f"[lanes.x] policy must be {OTHERS} or {LAST!r}, not 'xyz'.",
    ),
    ("[lanes.x]\npolicy = ''", f"or {LAST!r}, not ''."),
    ("[lanes.x]\npolicy = 3", f"or {LAST!r}, not a whole number."),
    ("[lanes.x]\nfair = 'agent'", "[lanes.x] fair must be 'tenant' or '' (no shares), not 'agent'."),
    ("[lanes.x]\nfair = true", "[lanes.x] fair must be 'tenant' or '' (no shares), not true or false."),
    (
        "[lanes.x]\noldest_every = 1",
        "oldest_every must be 0 (never) or a whole number from 2 to 1,000,000, not 1.",
    ),
    (
        "[lanes.x]\noldest_every = -2",
        "oldest_every must be 0 (never) or a whole number from 2 to 1,000,000, not -2.",
    ),
    (
        "[lanes.x]\noldest_every = 2.5",
        "[lanes.x] oldest_every must be 0 (never) or a whole number from 2 to 1,000,000, not 2.5.",
    ),
    ("[tenants.x]\nweight = 0", "[tenants.x] weight must be a number from 0.001 to 1000, not 0."),
    ("[tenants.x]\nweight = -1", "[tenants.x] weight must be a number from 0.001 to 1000, not -1."),
    ("[tenants.x]\nweight = nan", "[tenants.x] weight must be a number from 0.001 to 1000, not nan."),
    ("[tenants.x]\nweight = inf", "[tenants.x] weight must be a number from 0.001 to 1000, not inf."),
    ("[tenants.x]\nmax_in_flight = -1", "[tenants.x] max_in_flight must be a whole number from 0 (no"),
    (
        "[tenants.x]\nmax_in_flight = 2.5",
        "max_in_flight must be a whole number from 0 (no limit) to 1,000,000,000,000, not 2.5.",
    ),
    ("[tenants.x]\nmax_in_flight = true", "from 0 (no limit) to 1,000,000,000,000, not true or false."),
    ("[tenants.x]\ntokens_per_day = 10_000_000_000_000", "to 1,000,000,000,000, not 10000000000000."),
    ("[tenants.x]\nmoney_per_day = nan", "money_per_day must be a number from 0 (no limit), not nan."),
    ("[models.x]\nmax_in_flight = 10_000_000_000_000", "[models.x] max_in_flight must be a whole number"),
    ("[models.x]\nrequests_per_minute = -1", "[models.x] requests_per_minute must be a whole number"),
    ("[tenants.x]\nwieght = 2", "[tenants.x] has an unknown field 'wieght'; did you mean 'weight'?"),
    # names
    ("[fleet]\nname = 'a b'", "fleet name 'a b' must be letters"),
    ("[fleet]\nname = '{x}'", "fleet name '{x}'"),
    ("[models.'a/b']", "model name 'a/b'"),
    ("[models.a]\nlane = 'b c'", "lane name 'b c'"),
    ("[models.a]\nlane = 'unacked'", "lane name 'unacked' is kombu's own"),
    ("[pools.x]\nlanes = ['']", "lane name ''"),
    ("[pools.'ä']\nlanes = ['a']", "pool name 'ä'"),
    ("[agents.'a b']\nprompts = ['hi']", "agent name 'a b'"),
    ("[tenants._x]", "tenant name '_x' must be letters, digits and . _ : - (at most 128), and begin with a"),
    # what must fit together
    ("[fleet]\ndefault_model = 'b'\n[models.a]", "default_model 'b' is not one of the models (a)."),
    (
        "[agents.x]\nprompts = []",
        "[agents.x] prompts must be a list with at least one entry, not an empty one.",
    ),
    ("[agents.x]\nprompts = ['hi']\nmodel = 'b'\n[models.a]", "[agents.x] model 'b' is not one of (a)."),
    # addresses
    ("[fleet]\nredis_url = 'http://u:pw@h'", "redis_url 'http://u:***@h' must start with redis://"),
    ("[fleet]\nredis_url = 'localhost:6379'", "must start with redis://"),
    ("[fleet]\nredis_url = 'sentinel://a:1,b:2/0'", "sentinel:// URL names the master"),
    ("[fleet]\nredis_url = 'redis://[::1'", "does not name a host and a port"),
    ("[fleet]\nredis_url = 'redis://:pw@h:port/0'", "redis_url 'redis://:***@h:port/0' is not a URL"),
    ("[fleet]\nredis_url = 'redis://h:99999/0'", "a port from 1 to 65535"),
    # not TOML
    ("[fleet", "FILE is not TOML: "),
    ("a = 1\na = 2", "FILE is not TOML: "),
]


@pytest.mark.parametrize(("text", "expected"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_mistake_is_one_sentence_with_the_place_and_what_to_write(
    text: str, expected: str, tmp_path: Path
) -> None:
    assert expected in sentence(text, tmp_path)


def test_no_secret_of_the_file_reaches_a_message(tmp_path: Path) -> None:
    for text in (
        "[fleet]\nredis_url = 'http://user:hunter2@h'",
        "[fleet]\nredis_url = 'redis//:hunter2@h'",
        "[fleet]\nredis_url = 'redis://:hunter2@h:port'",
        "models = 'hunter2'",
        "[models]\nsmall = 'hunter2'",
        "[models.small]\ntimeout = 'hunter2'",
    ):
        assert "hunter2" not in sentence(text, tmp_path)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["fleet", "models", "lanes", "pools", "agents", "small", "timeout", "prompts", "name"]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_whatever_stands_in_the_file_it_is_a_configuration_or_one_sentence(data: Any) -> None:
    if not isinstance(data, dict):
        data = {"fleet": data}
    try:
        assert isinstance(parse(data), Config)
        said = ""
    except ConfigError as error:
        said = str(error)
    assert "\n" not in said
    assert not [word for word in JARGON[:5] if word in said]


# Where it comes from ----------------------------------------------------------------------------------------


def test_without_a_file_and_an_environment_the_defaults_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = load(env={})
    assert config == Config()
    assert (config.fleet.redis_url, config.fleet.name) == (DEFAULT_REDIS_URL, "aios")
    assert config.lane_names() == ["llm", "turns"]
    assert config.pool("llm").slots > 0


def test_the_file_of_this_folder_is_read_and_the_environment_goes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("aios.toml").write_text("[fleet]\nname = 'filed'\nredis_url = 'redis://filed'\n", encoding="utf-8")
    assert load(env={}).fleet.name == "filed"
    config = load(env={"AIOS_REDIS_URL": "rediss://elsewhere:1/2", "AIOS_FLEET": "other"})
    assert (config.fleet.redis_url, config.fleet.name) == ("rediss://elsewhere:1/2", "other")
    assert load(env={"AIOS_REDIS_URL": "", "AIOS_FLEET": ""}).fleet.name == "filed"


def test_the_environment_names_the_file_and_an_argument_goes_before_it(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(f"[fleet]\nname = '{name}'\n", encoding="utf-8")
    env = {"AIOS_CONFIG": str(tmp_path / "one.toml")}
    assert load(env=env).fleet.name == "one"
    assert load(tmp_path / "two.toml", env=env).fleet.name == "two"


def test_a_file_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"There is no configuration file '.*'; check AIOS_CONFIG or --config"
    ):
        load(env={"AIOS_CONFIG": str(tmp_path / "nowhere.toml")})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Path.mkdir, "is a folder, and no configuration file"),
        (lambda path: path.symlink_to("nowhere.toml"), "is a link to a file that is not there"),
        (os.mkfifo, "is no regular file"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_what_has_the_name_and_is_no_file_is_said(
    make: Callable[[Path], None], said: str, named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "aios.toml")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=rf"^'aios.toml' {said}"):
        load(env={"AIOS_CONFIG": "aios.toml"} if named else {})


@pytest.mark.parametrize(
    ("variable", "value"), [("AIOS_REDIS_URL", "http://u:hunter2@h"), ("AIOS_FLEET", "a b")]
)
def test_a_mistake_in_the_environment_is_a_sentence_too(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(env={variable: value})
    assert str(caught.value).startswith(f"{variable}: ")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "aios.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(file, env={})


def test_a_file_that_may_not_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "aios.toml").touch(mode=0o000)
    tmp_path.chmod(0o755)
    program = (
        "import os; from aios_dist import config, errors; os.geteuid() or os.setuid(65534)\n"
        "try: config.load(env={})\nexcept errors.ConfigError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "'aios.toml' cannot be read: Permission denied.\n"


# What it says -----------------------------------------------------------------------------------------------


def test_the_only_model_is_the_default_and_of_several_none_is() -> None:
    assert parse({"models": {"a": {}}}).default_model() == "a"
    assert parse({"models": {"a": {}, "b": {}}}).default_model() is None
    assert parse({"models": {"a": {}, "b": {}}, "fleet": {"default_model": "b"}}).default_model() == "b"
    assert parse({}).default_model() is None


def test_every_lane_that_is_named_anywhere_is_known() -> None:
    config = parse(
        {
            "models": {"a": {"lane": "big"}},
            "lanes": {"slow": {}},
            "pools": {"gpu": {"lanes": ["big", "huge"]}},
        }
    )
    assert config.lane_names() == ["big", "huge", "llm", "slow", "turns"]
    assert config.lane("nowhere").policy == "fifo"


def test_a_lane_is_fifo_and_unshared_unless_it_says_otherwise() -> None:
    config = parse({"lanes": {"x": {}, "y": {"policy": "las", "oldest_every": 0, "fair": "tenant"}}})
    plain, ruled = config.lane("x"), config.lane("y")
    assert (plain.policy, plain.oldest_every, plain.fair) == ("fifo", None, "")
    assert (ruled.policy, ruled.oldest_every, ruled.fair) == ("las", 0, "tenant")


@pytest.mark.parametrize("name", policies.names())
def test_every_policy_can_be_a_lanes(name: str) -> None:
    assert parse({"lanes": {"x": {"policy": name, "oldest_every": 2}}}).lane("x").policy == name


def test_a_tenant_has_the_weight_of_one_and_no_limit_unless_it_says_otherwise() -> None:
    config = parse({"tenants": {"x": {}, "y": {"weight": 2, "max_in_flight": 8}}})
    assert (config.tenants["x"].weight, config.tenants["x"].max_in_flight) == (1.0, 0)
    assert (config.tenants["y"].weight, config.tenants["y"].max_in_flight) == (2.0, 8)


def test_an_unknown_pool_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no pool 'gpu'; add \[pools.gpu\].*known: llm, turns"):
        parse({}).pool("gpu")


def test_a_pool_of_the_file_goes_before_the_built_in_one() -> None:
    assert parse({"pools": {"llm": {"lanes": ["llm"], "slots": 7}}}).pool("llm").slots == 7


def test_a_configuration_is_never_changed() -> None:
    config = parse({"models": {"a": {"timeout": 5, "options": {"seed": 1}}}})
    assert config.models["a"].timeout == 5.0
    with pytest.raises(AttributeError):
        config.fleet = None  # type: ignore[misc,assignment]


@pytest.mark.parametrize(
    ("lease", "renew", "timeout"), [(10.0, 3.0, 5.0), (3.0, 1.0, 1.4), (1.0, 0.3, 1.0), (600.0, 3.0, 5.0)]
)
def test_a_redis_timeout_that_nobody_chose_is_shorter_than_what_a_lease_can_spare(
    lease: float, renew: float, timeout: float
) -> None:
    chosen = Config(fleet=FleetConfig(lease=lease, renew=renew))
    for data in ({"fleet": {"lease": lease, "renew": renew}}, tomllib.loads(to_toml(chosen))):
        assert parse(data).fleet.redis_timeout == pytest.approx(timeout)


@pytest.mark.parametrize(
    ("table", "field", "most_that_cannot_be", "least_that_can"),
    [
        ("models", "attempts", 0, 1),
        ("models", "stream_pause", -0.1, 0),
        ("models", "fallback_after", -1, 0),
        ("models", "input_price", -0.1, 0),
        ("models", "breaker", -1, 0),
        ("fleet", "step_deadline", 0, 0.1),
        ("fleet", "retention", 0, 0.1),
        ("fleet", "shutdown_grace", -1, 0),
        ("fleet", "attempts", 0, 1),
        ("tenants", "weight", 0.0009, 0.001),
    ],
)
def test_what_can_be_begins_where_it_is_said_to_begin(
    table: str, field: str, most_that_cannot_be: float, least_that_can: float
) -> None:
    def told(value: float) -> dict[str, Any]:
        return {table: {field: value} if table == "fleet" else {"x": {field: value}}}

    parse(told(least_that_can))
    with pytest.raises(ConfigError, match=f"{field} must be"):
        parse(told(most_that_cannot_be))


def test_a_name_has_128_characters_at_the_most() -> None:
    assert parse({"models": {"m" * 128: {}}}).models
    with pytest.raises(ConfigError, match="at most 128"):
        parse({"models": {"m" * 129: {}}})


def test_no_model_is_its_own_fallback() -> None:
    with pytest.raises(ConfigError, match="'a' is not another of the models"):
        parse({"models": {"a": {"fallback": ["a"]}}})


def test_a_redis_timeout_of_a_second_goes_with_any_lease() -> None:
    short = {"lease": 1.0, "renew": 0.5}
    assert parse({"fleet": {**short, "redis_timeout": 1.0}}).fleet.redis_timeout == 1.0
    with pytest.raises(ConfigError, match="must be less than lease - renew"):
        parse({"fleet": {**short, "redis_timeout": 1.1}})


def test_a_number_of_an_authors_own_class_is_one() -> None:
    class Tokens(int):
        pass

    assert odd_option(Tokens(5), None) == ""
    assert odd_option(Tokens(0), None) != ""
