"""The command line without a Redis: help, bad input, plan files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest

from aios_dist.agents import Budget
from aios_dist.cli import dead, entry, job, model
from aios_dist.cli.checks import rights
from aios_dist.cli.flower import check_login
from aios_dist.cli.output import iso, plain
from aios_dist.cli.plan_files import DEEPEST, Agents, plan_of, read_file
from aios_dist.config import Config, PromptsConfig
from aios_dist.errors import InvalidInput
from aios_dist.plans import Plan

NOBODY = "redis://127.0.0.1:1/0"


class Done(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Run ``aios-dist`` in this process, in an empty folder, with nobody at the Redis address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("AIOS_REDIS_URL", NOBODY)
    monkeypatch.setenv("AIOS_CONFIG", "")

    def run(*args: str) -> Done:
        try:
            code = entry.run(args)
        except SystemExit as exc:
            code = int(exc.code or 0)
        return Done(code, *capfd.readouterr())

    return run


# -- help and version -------------------------------------------------------------------------------


def test_help_lists_every_command_without_importing_celery_or_redis() -> None:
    program = (
        "import sys\nfrom aios_dist.cli.entry import run\ncode = run(['--help'])\n"
        "bad = {'celery', 'kombu', 'redis', 'rich', 'flower', 'openai'} & set(sys.modules)\n"
        "print('imported:', sorted(bad), code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert "imported: [] 0" in done.stdout
    for name in entry.COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(entry.COMMANDS.keys() - {"demo", "up", "fake-llm"}))
def test_every_command_has_help(cli: Callable[..., Done], name: str) -> None:
    done = cli(name, "--help")
    assert done.code == 0
    assert "Usage: aios-dist" in done.out


@pytest.mark.parametrize(
    ("group", "name"),
    [(g, n) for g, names in (("job", job), ("dead", dead), ("model", model)) for n in sorted(names.COMMANDS)],
)
def test_every_command_of_a_group_has_help_and_json(cli: Callable[..., Done], group: str, name: str) -> None:
    done = cli(group, name, "--help")
    assert done.code == 0
    assert "--json" in done.out


def test_version_as_json_names_the_packages(cli: Callable[..., Done]) -> None:
    found = json.loads(cli("version", "--json").out)
    assert found["aios_dist"]
    assert found["celery"]


def test_without_a_command_the_help_is_shown(cli: Callable[..., Done]) -> None:
    assert cli() == cli("--help")


# -- bad input: a sentence and 2 -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["submitt"], "There is no command 'submitt'. Did you mean 'submit'?"),
        (["worker"], "Missing argument 'POOL'"),
        (["worker", "nope"], "There is no pool 'nope'; add [pools.nope] to aios.toml"),
        (["worker", "llm", "--slots", "0"], "--slots"),
        (["job", "list", "--config", "x"], "--config goes before the command"),
        (["job", "list", "--limit", "many"], "--limit"),
        (["--config", "nowhere.toml", "fleet"], "There is no configuration file 'nowhere.toml'"),
        (["--redis-url", "http://x", "fleet"], "must start with redis://"),
        (["submit"], "Say what to submit"),
        (["submit", "a", "--input", "{"], "--input is not JSON"),
        (["submit", "a", "--input", "@gone.json"], "gone.json cannot be read: No such file or directory"),
        (["submit", "a", "--input", "1", "--set", "b=2"], "--input or --set, not both"),
        (["submit", "a", "--set", "b"], "--set takes KEY=VALUE, not 'b'"),
        (["submit", "a", "--set", "b=1", "--set", "b=2"], "--set b is given twice"),
        (["submit", "a", "--model", "m"], "--model goes with --prompt"),
        (["submit", "a", "--input", "3"], "takes its arguments by name"),
        (["submit", "--prompt", "{nope}"], "there is no 'nope'"),
        (["submit", "--prompt", "x", "--file", "f.toml"], "--prompt or --file, not both"),
        (["submit", "--prompt", "x", "--id", "a b"], "Job id 'a b' must be letters"),
        (["submit", "--file", "gone.toml"], "gone.toml cannot be read"),
        (["submit", "--prompt", "x", "--deadline", "0"], "--deadline"),
        (["submit", "--prompt", "x", "--on-budget", "fail"], "--on-budget goes with --budget-tokens"),
        (["submit", "--prompt", "x", "--budget-tokens", "1", "--on-budget", "cry"], "--on-budget"),
        (["submit", "--prompt", "x", "--budget-money", "-1"], "--budget-money"),
        (["job", "pause"], "Missing argument 'ID...'"),
        (["job", "resume", "j", "--on-budget", "fail"], "--on-budget goes with --budget-tokens"),
        (["job", "signal", "j", "go", "--value", "yes"], "--value is not JSON"),
        (["job", "fork", "j"], "Missing option '--step'"),
        (["model", "set", "m"], "Say what to set: --max-in-flight N"),
        (["model", "set", "m", "--max-in-flight", "-1"], "--max-in-flight"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    cli: Callable[..., Done], args: list[str], sentence: str
) -> None:
    done = cli(*args)
    assert done.code == 2
    assert done.out == ""
    assert done.err.startswith("aios-dist: ")
    assert done.err.count("\n") == 1
    assert sentence in done.err


@pytest.mark.parametrize(
    "args",
    [
        ["fleet"],
        ["job", "list"],
        ["job", "wait", "x"],
        ["job", "pause", "x"],
        ["dead", "list"],
        ["model", "list"],
        ["submit", "--prompt", "x"],
    ],
    ids=" ".join,
)
def test_a_redis_that_is_not_there_is_one_sentence_and_exit_code_2(
    cli: Callable[..., Done], args: list[str]
) -> None:
    done = cli(*args)
    assert done.code == 2
    assert done.err.startswith(f"aios-dist: Redis at {NOBODY} cannot be reached")
    assert done.err.count("\n") == 1


def test_a_password_in_the_address_is_not_shown(cli: Callable[..., Done]) -> None:
    done = cli("--redis-url", "redis://me:geheim@127.0.0.1:1/0", "fleet")
    assert "geheim" not in done.err
    assert "me:***@" in done.err


def test_a_container_without_redis_is_unhealthy_with_the_code_that_docker_takes(
    cli: Callable[..., Done],
) -> None:
    assert cli("healthcheck").code == 1


def test_doctor_without_redis_still_looks_at_this_machine(cli: Callable[..., Done]) -> None:
    done = cli("doctor", "--json")
    report = json.loads(done.out)
    assert done.code == 1
    assert report["ok"] is False
    checks = {finding["check"]: finding for finding in report["findings"]}
    assert checks["redis"]["level"] == "problem"
    assert "start it" in checks["redis"]["fix"].lower()
    assert {"packages", "models", "open files"} <= checks.keys()


def test_doctor_says_which_variable_a_key_is_missing_in(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    Path("aios.toml").write_text('[models.small]\nmodel = "m"\napi_key_env = "MY_KEY"\n', encoding="utf-8")
    found = json.loads(cli("doctor", "--json").out)["findings"]
    model = next(finding for finding in found if finding["check"] == "models")
    assert model["level"] == "problem"
    assert "MY_KEY" in f"{model['what']} {model['fix']}"


# -- Flower's login ----------------------------------------------------------------------------------


def test_flower_does_not_start_without_a_login(
    cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FLOWER_BASIC_AUTH", raising=False)
    done = cli("flower", "--port", "0")
    assert (done.code, done.out) == (2, "")
    assert "set FLOWER_BASIC_AUTH=user:password" in done.err


@pytest.mark.parametrize(
    ("login", "no_login", "address"),
    [
        ("", False, "127.0.0.1"),
        ("only-a-user", False, "127.0.0.1"),
        ("user:", False, "127.0.0.1"),
        ("a:b,:c", False, "127.0.0.1"),
        ("", True, "0.0.0.0"),
        ("a:b", True, "127.0.0.1"),
    ],
)
def test_a_login_that_is_none_is_refused(login: str, no_login: bool, address: str) -> None:
    with pytest.raises(InvalidInput):
        check_login(login, no_login, address)


@pytest.mark.parametrize(("login", "no_login"), [("a:b", False), ("a:b,c:d:e", False), ("", True)])
def test_a_login_is_taken_and_none_is_on_the_loopback_address(login: str, no_login: bool) -> None:
    check_login(login, no_login, "127.0.0.1")


# -- plan files --------------------------------------------------------------------------------------

TOML = """
order = "fixed"
on_failure = "continue"
id = "monday"

[agents.greet]
prompts = ["Greet {input}."]

[[jobs]]
agent = "greet"
input = "Ada"
id = "greet-ada"

[[jobs]]
order = "fifo"
jobs = [{agent = "greet", input = "Bo"}, {prompts = ["A joke about {input}"], input = "cats", model = "m"}]

[[jobs]]
agent = "elsewhere"
input = {city = "Lima"}
tenant = "t1"
deadline = 60
budget = {tokens = 100, on_budget = "fail"}
"""


def as_plan(path: Path) -> Plan:
    file = read_file(str(path))
    return plan_of(file, Agents(Config(), file.agents), path.name)


@pytest.fixture
def plan_file(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_plan_is_the_same_in_toml_and_json(plan_file: Callable[[str, str], Path]) -> None:
    import tomllib

    toml = as_plan(plan_file("plan.toml", TOML))
    same = as_plan(plan_file("plan.json", json.dumps(tomllib.loads(TOML))))
    for plan in (toml, same):
        assert (plan.mode, plan.on_failure) == ("fixed", "continue")
        assert [spec.agent for spec in plan.jobs()] == ["greet", "greet", "prompts", "elsewhere"]
        first, _, joke, last = plan.jobs()
        assert (first.id, first.input) == ("greet-ada", {"input": "Ada"})
        assert joke.prompts == PromptsConfig(["A joke about {input}"], model="m")
        assert (last.tenant, last.input, last.program) == ("t1", {"city": "Lima"}, None)
        assert (last.deadline, last.budget) == (60, Budget(tokens=100, on_budget="fail"))
        assert (first.deadline, first.budget) == (None, None)
        group = plan.members[1]
        assert isinstance(group, Plan)
        assert (group.mode, group.on_failure) == ("fifo", "continue")


def test_an_order_without_on_failure_keeps_its_own_default(plan_file: Callable[[str, str], Path]) -> None:
    job_entry = {"prompts": ["x"]}
    for order, default in (("fixed", "stop"), ("fifo", "continue")):
        plan = as_plan(plan_file("p.json", json.dumps({"order": order, "jobs": [job_entry]})))
        assert plan.on_failure == default


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"order": "fixd", "jobs": [{"agent": "a"}]}, "order is 'fifo' or 'fixed', not 'fixd'"),
        ({"jobs": [{"agent": "a"}]}, 'needs order = "fifo"'),
        ({"order": "fifo", "jobs": []}, "a plan needs at least one job"),
        (
            {"order": "fifo", "jobs": [{"order": "fifo", "jobs": []}]},
            "jobs[0]: a plan needs at least one job",
        ),
        (
            {"order": "fifo", "jobs": [{"agnet": "a"}]},
            "jobs[0]: unknown field 'agnet'; did you mean 'agent'?",
        ),
        ({"order": "fifo", "jobs": [{}]}, 'jobs[0]: it needs agent = "NAME"'),
        ({"order": "fifo", "jobs": [7]}, "jobs[0]: Expected `object`, got `int`"),
        ({"order": "fifo", "jobs": [{"agent": "a", "model": "m"}]}, "go with prompts"),
        ({"order": "fifo", "jobs": [{"agent": "a", "input": 1}]}, "jobs[0]: Agent 'a' takes its arguments"),
        ({"order": "fifo", "jobs": [{"prompts": []}]}, "jobs[0]: prompts = […] needs at least one"),
        ({"order": "fifo", "jobs": [{"prompts": ["{x}"]}]}, "jobs[0]: Prompt 0"),
        ({"order": "fifo", "on_failure": "panic", "jobs": [{"prompts": ["x"]}]}, "'stop' or 'continue'"),
        (
            {"order": "fifo", "jobs": [{"prompts": ["x"], "budget": {"tokns": 1}}]},
            "jobs[0]: unknown field 'tokns' in budget; did you mean 'tokens'?",
        ),
        ({"order": "fifo", "jobs": [{"prompts": ["x"], "budget": {}}]}, "jobs[0]: A budget is in tokens"),
        ({"order": "fifo", "jobs": [{"prompts": ["x"], "deadline": -1}]}, "jobs[0]: A deadline is seconds"),
        ({"oder": "fifo", "jobs": []}, "unknown field 'oder'; did you mean 'order'?"),
        ({"order": "fifo"}, "has no jobs"),
        ({}, "neither a plan"),
        ({"agents": {"g": {"prompts": []}}}, "[agents.g] needs at least one prompt"),
        ({"agents": {"g": {"promts": ["x"]}}}, "'promts' in agents"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_bad_plan_is_refused_with_its_place(
    plan_file: Callable[[str, str], Path], data: object, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=re.escape(sentence)):
        as_plan(plan_file("p.json", json.dumps(data)))


def test_a_plan_too_deep_is_refused(plan_file: Callable[[str, str], Path]) -> None:
    data: dict[str, object] = {"prompts": ["x"]}
    for _ in range(DEEPEST + 1):
        data = {"order": "fifo", "jobs": [data]}
    with pytest.raises(InvalidInput, match="deep at the most"):
        as_plan(plan_file("p.json", json.dumps(data)))
    with pytest.raises(InvalidInput, match="nested too deeply"):
        read_file(str(plan_file("q.json", "[" * 100_000)))


@pytest.mark.parametrize(("name", "kind"), [("p.json", "JSON"), ("p.toml", "TOML")])
def test_a_file_that_is_of_neither_language_is_refused(
    plan_file: Callable[[str, str], Path], name: str, kind: str
) -> None:
    with pytest.raises(InvalidInput, match=f"is not {kind}"):
        read_file(str(plan_file(name, "{")))


# -- small parts -------------------------------------------------------------------------------------


def test_texts_of_others_cannot_command_a_terminal() -> None:
    assert plain("a\x1b]0;owned\x07b\tc\nd") == "a�]0;owned�b\tc\nd"


def test_times_are_iso_8601_in_utc_and_null_before_they_come() -> None:
    assert iso(0.0) is None
    assert iso(1_700_000_000.5) == "2023-11-14T22:13:20.500000Z"


def test_doctor_tries_every_command_that_the_lua_verbs_use() -> None:
    folder = resources.files("aios_dist.journal").joinpath("lua")
    used = {
        command
        for file in folder.iterdir()
        for command in re.findall(r"redis\.p?call\('([A-Za-z]+)'", file.read_text(encoding="utf-8"))
    }
    tried = {command[0] for command in rights.journal_commands("k", "c")}
    assert used
    assert used <= tried
