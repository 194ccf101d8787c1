"""What is declared of a setting is what the file, the command line and the schema are held against."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from aios_dist.cli import entry
from aios_dist.cli.options import SettingType, setting_option
from aios_dist.config import TABLES, Config, FleetConfig, LaneConfig, TenantConfig, fault, parse, settings_of
from aios_dist.config.origins import lines_of, origins
from aios_dist.config.schema import schema
from aios_dist.errors import ConfigError
from aios_dist.model.specs import Budget, JobSpec
from tests.unit.test_config import MISTAKES

ROOT = Path(__file__).parents[2]
ALL = [(kind, name) for kind in TABLES.values() for name in settings_of(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL, ids=lambda value: getattr(value, "__name__", value))
def test_every_setting_says_what_it_means_and_its_default_can_be(
    kind: type[msgspec.Struct], name: str
) -> None:
    setting = settings_of(kind)[name]
    assert re.fullmatch(r"[A-Z0-9`\"].*\.", setting.help())
    assert "](" not in setting.help()
    if not setting.required and setting.default is not None:
        assert fault(setting, setting.default) == ""


# The schema -------------------------------------------------------------------------------------------------


def accepts(rule: dict[str, Any], value: Any) -> bool:
    """JSON Schema, as far as ours needs it; a keyword that this does not know is an error."""
    known = {
        "$ref": lambda r: accepts(schema()["$defs"][r.rpartition("/")[2]], value),
        "type": lambda t: is_of(t, value),
        "enum": lambda each: value in each,
        "not": lambda inner: not accepts(inner, value),
        "const": lambda only: value == only,
        "minimum": lambda n: value >= n,
        "maximum": lambda n: value <= n,
        "exclusiveMinimum": lambda n: value > n,
        "exclusiveMaximum": lambda n: value < n,
        "minItems": lambda n: len(value) >= n,
        "items": lambda inner: all(accepts(inner, entry) for entry in value),
        "pattern": lambda p: re.search(p, value) is not None,
        "propertyNames": lambda inner: all(accepts(inner, name) for name in value),
        "required": lambda names: set(names) <= set(value),
        "properties": lambda of: all(accepts(of[name], v) for name, v in value.items() if name in of),
        "additionalProperties": lambda inner: all(
            inner is not False and accepts({} if inner is True else inner, v)
            for name, v in value.items()
            if name not in rule.get("properties", {})
        ),
    }
    said = rule.keys() - {"$schema", "$defs", "title", "description", "default"}
    return all(known[word](rule[word]) for word in sorted(said, key=lambda word: word != "type"))


def is_of(kind: str, value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": number and (isinstance(value, int) or value.is_integer()),
        "number": number,
    }[kind]


@pytest.mark.parametrize("file", ["examples/aios.toml", "deploy/config/aios.toml"])
def test_an_editor_has_nothing_against_our_own_files(file: str) -> None:
    assert accepts(schema(), tomllib.loads((ROOT / file).read_text("utf-8")))
    assert accepts(schema(), msgspec.to_builtins(Config()) | {"fleet": {}})


@pytest.mark.parametrize(
    "text",
    [
        text
        for text, said in MISTAKES
        if re.search(r"unknown|must be (a|an|true|text|'|0)\b|from 0|needs|not an empty|no policy", said)
        and "nan" not in text
    ],
)
def test_what_a_setting_by_itself_cannot_be_an_editor_marks_too(text: str) -> None:
    assert not accepts(schema(), tomllib.loads(text))


def test_the_schema_says_what_each_field_means_and_what_holds_without_it() -> None:
    lease = schema()["$defs"]["FleetConfig"]["properties"]["lease"]
    assert lease == {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1e10,
        "default": 10.0,
        "description": "How long a step stays with a worker that does not renew (seconds).",
    }
    assert "null" not in json.dumps(schema()), "TOML has none"


# Options ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "given", "value"),
    [
        (TenantConfig, "weight", "2", 2),
        (TenantConfig, "weight", "0.5", 0.5),
        (TenantConfig, "max_in_flight", "8", 8),
        (LaneConfig, "fair", "none", ""),
        (LaneConfig, "fair", "tenant", "tenant"),
        (LaneConfig, "oldest_every", "0", 0),
        (Budget, "on_budget", "fail", "fail"),
        (JobSpec, "deadline", "1e3", 1000),
    ],
)
def test_an_option_takes_what_the_setting_can_be(
    kind: type[msgspec.Struct], name: str, given: str, value: Any
) -> None:
    assert SettingType(settings_of(kind)[name]).convert(given, None, None) == value


@pytest.mark.parametrize(
    ("kind", "name", "given", "said"),
    [
        (TenantConfig, "weight", "nan", "--weight must be a number from 0.001 to 1000, not nan."),
        (TenantConfig, "weight", "", "--weight must be a number from 0.001 to 1000, not ''."),
        (TenantConfig, "max_in_flight", "1.5", "from 0 (no limit) to 1,000,000,000,000, not '1.5'."),
        (TenantConfig, "max_in_flight", "9" * 5000, "not '9999999999999999999999999999999999999999'."),
        (LaneConfig, "oldest_every", "1", "--oldest-every must be 0 (never) or a whole number from 2"),
        (LaneConfig, "fair", "", "--fair must be 'tenant' or 'none', not ''."),
        (JobSpec, "deadline", "0", "a number of seconds above 0 and at most 320,000,000, not 0."),
    ],
)  # fmt: skip
def test_an_option_refuses_what_the_setting_cannot_be_in_one_sentence(
    kind: type[msgspec.Struct], name: str, given: str, said: str
) -> None:
    option = click.Option([f"--{name.replace('_', '-')}"])
    with pytest.raises(click.UsageError) as caught:
        SettingType(settings_of(kind)[name]).convert(given, option, None)
    assert said in str(caught.value)


def test_help_begins_with_where_it_counts_and_ends_with_what_holds_without_it() -> None:
    option = setting_option(FleetConfig, "lease", left_out="the file's", when="With x")(lambda: None)
    (made,) = option.__click_params__  # type: ignore[attr-defined]
    assert made.help == (
        "With x: how long a step stays with a worker that does not renew (seconds)  [default: the file's]"
    )


# Where values come from -------------------------------------------------------------------------------------

FILE = '''\
fleet.lease = 20           # a dotted key

[models.small]
model = "m"
options = {seed = 1, extra_headers = {Authorization = "Bearer hunter2"}}

[models."a.b"]
# lane = "no"
fallback = [
  "small",
]

[agents.x]
prompts = ["""
[models.small]
lane = "not a line of the file's own"
"""]
'''


def test_each_value_has_the_line_at_which_it_begins() -> None:
    lines = lines_of(FILE)
    assert lines["fleet", "lease"] == 1
    assert (lines["models", "small", "model"], lines["models", "small", "options"]) == (4, 5)
    assert lines["models", "a.b", "fallback"] == 9
    assert lines["agents", "x", "prompts"] == 14
    assert ("models", "small", "lane") not in lines
    assert ("models", "a.b", "lane") not in lines


def test_behind_a_value_of_very_many_lines_no_line_is_named() -> None:
    text = "fleet.lease = 20\nagents.x.prompts = ['''" + "\n" * 100_000 + "''']\nfleet.renew = 1\n"
    assert lines_of(text) == {("fleet",): 1, ("fleet", "lease"): 1}


def test_a_value_is_of_the_file_the_environment_or_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "aios.toml"
    file.write_text(FILE, encoding="utf-8")
    env = {"AIOS_CONFIG": str(file), "AIOS_FLEET": "other"}
    named, found = origins(env=env)
    assert named == file
    by = {(each.table, each.name): each for each in found}
    assert (by["fleet", "name"].value, by["fleet", "name"].where) == ("other", "AIOS_FLEET")
    assert (by["fleet", "lease"].value, by["fleet", "lease"].where) == (20, f"{file}:1")
    assert (by["models.a.b", "lane"].value, by["models.a.b", "lane"].source) == ("llm", "default")
    assert by["pools.turns", "slots"].source == "default"
    config = parse(tomllib.loads(FILE), env=env)
    assert {each.name: each.value for each in found if each.table == "fleet"} == msgspec.to_builtins(
        config.fleet
    )
    with pytest.raises(ConfigError, match="There is no configuration file"):
        origins(tmp_path / "nowhere.toml")


@pytest.fixture
def shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What ``aios-dist`` prints in a folder with that file."""
    monkeypatch.chdir(tmp_path)
    for name in ("AIOS_CONFIG", "AIOS_REDIS_URL"):
        monkeypatch.setenv(name, "")
    Path("aios.toml").write_text(FILE, encoding="utf-8")

    def run(*args: str, code: int = 0) -> str:
        assert entry.run(args) == code
        out, err = capfd.readouterr()
        return err if code else out

    return run


def test_config_show_has_each_value_and_where_it_comes_from_and_no_secret(shown: Callable[..., str]) -> None:
    said = shown("--redis-url", "redis://me:geheim@h/0", "config", "show")
    rows = [re.split(r"\s{2,}", line.strip()) for line in said.splitlines()]
    assert ["redis_url", '"redis://me:***@h/0"', "--redis-url"] in rows
    assert ["lease", "20.0", "aios.toml:1"] in rows
    assert ["fallback", '["small"]', "aios.toml:9"] in rows
    assert ["base_url", "none", "default"] in rows
    assert "hunter2" not in said
    assert "geheim" not in said


def test_config_show_as_json_is_one_document(shown: Callable[..., str]) -> None:
    found = json.loads(shown("config", "show", "--json"))
    assert Path(found["file"]).name == "aios.toml"
    lease = {"table": "fleet", "name": "lease", "value": 20.0, "source": "file", "where": "aios.toml:1"}
    assert lease in found["settings"]
    assert "hunter2" not in json.dumps(found)


def test_config_schema_prints_the_schema_and_a_broken_file_does_not_matter(shown: Callable[..., str]) -> None:
    Path("aios.toml").write_text("[fleet]\nlese = 1\n", encoding="utf-8")
    assert json.loads(shown("config", "schema")) == schema()
    assert shown("config", "show", code=2) == (
        "aios-dist: 'aios.toml': [fleet] has an unknown field 'lese'; did you mean 'lease'?\n"
    )
