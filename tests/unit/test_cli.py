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

import click
import pytest

from aios_dist import policies
from aios_dist.cli import entry
from aios_dist.cli.checks import lanes, rights
from aios_dist.cli.flower import check_login
from aios_dist.cli.output import iso, plain, print_table
from aios_dist.config import Config, TenantConfig
from aios_dist.errors import InvalidInput, JobCancelled
from aios_dist.journal import LaneRules, LaneView
from tests.unit.test_shown import Terminal

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


def of_groups() -> list[tuple[str, str]]:
    """The commands that have a noun before them."""
    context = click.Context(entry.root)
    known = ((name, entry.root.get_command(context, name)) for name in entry.COMMANDS)
    return [
        (name, verb) for name, group in known if isinstance(group, click.Group) for verb in group.commands
    ]


@pytest.mark.parametrize(("group", "name"), [pair for pair in of_groups() if pair[1] != "schema"])
def test_every_command_of_a_group_has_help_and_json(cli: Callable[..., Done], group: str, name: str) -> None:
    done = cli(group, name, "--help")
    assert done.code == 0
    assert "--json" in done.out


def test_the_sentence_of_the_list_begins_a_commands_help_once(cli: Callable[..., Done]) -> None:
    for name, (_, _, line) in entry.COMMANDS.items():
        if name != "fake-llm":  # its --help is the program's own
            texts = [" ".join(cli(name, "--help").out.split()) for _ in range(2)]
            assert [text.count(line) for text in texts] == [1, 1], name


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
        (["submit", "a", "--input", "@gone.json"], "'gone.json' cannot be read: No such file or directory"),
        (["submit", "a", "--input", "1", "--set", "b=2"], "--input or --set, not both"),
        (["submit", "a", "--set", "b"], "--set takes KEY=VALUE, not 'b'"),
        (["submit", "a", "--set", "b=1", "--set", "b=2"], "--set b is given twice"),
        (["submit", "a", "--model", "m"], "--model goes with --prompt"),
        (["submit", "a", "--input", "3"], "takes its arguments by name"),
        (["submit", "--prompt", "{nope}"], "there is no 'nope'"),
        (["submit", "--prompt", "x", "--file", "f.toml"], "--prompt or --file, not both"),
        (["submit", "--prompt", "x", "--id", "a b"], "Job id 'a b' must be letters"),
        (["submit", "--file", "gone.toml"], "'gone.toml' cannot be read"),
        (["submit", "--prompt", "x", "--deadline", "0"], "--deadline"),
        (["submit", "--prompt", "x", "--on-budget", "fail"], "--on-budget goes with --budget-tokens"),
        (["submit", "--prompt", "x", "--budget-tokens", "1", "--on-budget", "cry"], "--on-budget"),
        (["submit", "--prompt", "x", "--budget-money", "-1"], "--budget-money"),
        (["job", "pause"], "Missing argument 'ID...'"),
        (["job", "resume", "j", "--on-budget", "fail"], "No such option"),
        (["job", "signal", "j", "go", "--value", "yes"], "--value is not JSON"),
        (["job", "fork", "j"], "Missing option '--step'"),
        (
            ["submit", "--prompt", "x", "--priority", "10"],
            "--priority must be a whole number from 0 to 9, not 10.",
        ),
        (
            ["submit", "--prompt", "x", "--priority", "high"],
            "--priority must be a whole number from 0 to 9, not 'high'",
        ),
        (["submit", "--prompt", "x", "--expected-steps", "0"], "--expected-steps"),
        (["job", "priority", "j"], "Missing argument 'N'"),
        (["job", "priority", "j", "10"], "N must be a whole number from 0 to 9, not 10."),
        (["lane", "set", "llm"], "Say what to set: --policy P"),
        (
            ["lane", "set", "llm", "--policy", "random"],
            f"--policy must be {policies.names()[0]!r}, ",
        ),
        (["lane", "set", "llm", "--fair", "all"], "--fair must be 'tenant' or 'none', not 'all'"),
        (["lane", "set", "llm", "--oldest-every", "-1"], "--oldest-every"),
        (["lane", "reset"], "Missing argument 'LANE'"),
        (["tenant", "set", "t"], "Say what to set: --weight X"),
        (["tenant", "set", "t", "--weight", "0"], "--weight must be a number from 0.001 to 1000, not 0."),
        (["tenant", "set", "t", "--weight", "nan"], "--weight must be a number from 0.001 to 1000, not nan"),
        (["tenant", "set", "t", "--max-in-flight", "-1"], "--max-in-flight"),
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
        ["lane", "list"],
        ["lane", "set", "llm", "--policy", "las"],
        ["tenant", "list"],
        ["tenant", "set", "t", "--weight", "2"],
        ["job", "priority", "x", "9"],
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


@pytest.mark.parametrize("named", ["AIOS_REDIS_URL", "redis_url in 'aios.toml'"])
def test_data_of_a_redis_that_is_none_of_ours_is_refused(
    named: str, cli: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    if named != "AIOS_REDIS_URL":
        monkeypatch.delenv("AIOS_REDIS_URL")
        Path("aios.toml").write_text(f'[fleet]\nredis_url = "{NOBODY}"\n', encoding="utf-8")
    done = cli("up", "--no-flower", "--data", "data")
    assert done.code == 2
    assert done.err.startswith(f"aios-dist: --data is for an embedded Redis, but {named} names another one")
    assert not Path("data").exists()


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


def test_doctor_says_what_is_wrong_with_a_model_and_not_only_with_which(cli: Callable[..., Done]) -> None:
    Path("aios.toml").write_text(
        '[models.small]\nmodel = "m"\nbase_url = "10.0.0.1:8000"\n', encoding="utf-8"
    )
    found = json.loads(cli("doctor", "--json").out)["findings"]
    model = next(finding for finding in found if finding["check"] == "models")
    assert model["what"] == "Model 'small': base_url '10.0.0.1:8000' must start with http:// or https://."
    assert model["fix"] == "Correct aios.toml."


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
        ("a:pässword", False, "127.0.0.1"),
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


# -- small parts -------------------------------------------------------------------------------------


def test_texts_of_others_cannot_command_a_terminal() -> None:
    assert plain("a\x1b]0;owned\x07b\tc\nd") == "a�]0;owned�b\tc\nd"


@pytest.mark.parametrize("width", [8, 20, 40, 80])
def test_a_narrow_terminal_folds_texts_and_no_number(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = [f"{n}.{n}5*" for n in range(10, 18)]
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    print_table(("NAME", *(f">OF {n}" for n in numbers[:4])), [("a-name" * 9, *numbers[:4])], empty="")
    print_table(("NAME", *(f">OF {n}" for n in numbers)), [("a-name" * 9, *numbers)], empty="")
    first, second = terminal.getvalue().split("NAME")[1:]
    assert {*numbers[:4]} <= {*first.split()}
    assert {*numbers} <= {*second.split()}


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
    tried |= {command[0] for command in rights.broker_commands("k")}  # `onward` takes tickets, as kombu does
    assert used
    assert used <= tried


@pytest.mark.parametrize("fair", ["", "tenant"])
def test_doctor_finds_weights_that_no_lane_looks_at(fair: str) -> None:
    config = Config(tenants={"acme": TenantConfig(weight=2.0)})
    view = LaneView("llm", ready=0, tickets=0, slots=1, workers=1, rules=LaneRules(fair=fair))
    found = [finding.what for finding in lanes.lanes(config, [view], [])]
    assert any("'acme' has a weight" in what for what in found) == (not fair)


def test_a_plan_that_is_given_without_its_option_is_recognised(cli: Callable[..., Done]) -> None:
    done = cli("submit", "plan.toml")
    assert done.code == 2
    assert "--file plan.toml" in done.err


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
        (click.ClickException("odd"), 2, "aios-dist: odd\n"),
        (click.UsageError("odd"), 2, "aios-dist: odd\n"),
        (JobCancelled("It was cancelled."), 1, "aios-dist: It was cancelled.\n"),
        (InvalidInput("It is odd."), 2, "aios-dist: It is odd.\n"),
        (BrokenPipeError(), 1, ""),
        (
            PermissionError(13, "Permission denied", "x"),
            2,
            "aios-dist: 'x' cannot be used: Permission denied.\n",
        ),
    ],
    ids=lambda what: type(what).__name__,
)
def test_each_end_of_a_command_has_its_exit_code_and_its_sentence(
    raised: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ends(**_: object) -> None:
        raise raised

    monkeypatch.setattr(entry.root, "main", ends)
    assert entry.run([]) == code
    assert capsys.readouterr().err == said
