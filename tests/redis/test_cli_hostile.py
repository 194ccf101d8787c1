"""Whatever is written on the command line: an exit code of 0, 1 or 2, one sentence, never a traceback.

The calls are made from the tree of commands: each option and argument of each command with values that are
none. Ids, numbers, JSON and files of every odd kind; on a Redis, and on none. And Ctrl-C is 130, at any time.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from aios_dist.cli import entry
from tests.redis import command_line
from tests.redis.command_line import Done

cli, folder = command_line.cli, command_line.folder

DEEP = "[" * 60_000
NINES = "9" * 5000
WORDS = ["", "\0", "a\0b", "../../etc/passwd", "x" * 5000, "ünï✓ \u202e", "\udcff", "-", "[bold]", "%s{0}"]
NUMBERS = ["-1", "0", "9" * 30, NINES, "nan", "inf", "-inf", "1e400", "1.5", "", "\udcff", "٣", "0x10"]
JSON = [DEEP, "{" * 9, '{"a":' * 9000, "\udcff", "NaN", "1e400", NINES, '"\\ud800"', '{"\\udc00":"\\u0000"}']
JSON += ["@", "@nothing", "@FOLDER", "@BINARY", "@DEEP.json", "@/dev/null", "@\0", "@\udcff", "[[]]", "null"]
JSON += ["@/dev/zero"]
SETTINGS = ["", "=", "a", "a=", "=b", f"a={DEEP}", "a=\udcff", "\0=\0", "default=-1", "default=nan"]
COLUMNS = "agent,step,prompt_tokens,output_tokens,calls_tool\n"
MADE: dict[str, str | bytes] = {
    "BINARY": bytes(range(256)) * 9,
    "DEEP.json": f'{{"agents": {{"a": {DEEP}',
    "DEEP.toml": f"a = {DEEP}",
    "EMPTY.toml": "",
    "UTF16.toml": "[fleet]".encode("utf-16"),
    "LIST.json": "[1, 2]",
    "WRONG.toml": 'jobs = [1, "a", {agent = 5}, [[]], {prompts = "x"}]\nid = 5\n[fleet]\nlease = nan\n',
    "WRONG.json": '{"order": "fixed", "jobs": [{"agent": "greet", "input": 1e400, "budget": {"money": -9}}]}',
    "ODD.jsonl": '{"job":"a","agent":"\\ud800","step":0,"after":9,"submitted_at":1e400}\n',
    "DEEP.jsonl": f'{{"job":{DEEP}\n',
    "CELL.csv": f"{COLUMNS}{'a' * 200_000},1,1,1,1\n",
    "NUL.csv": f"{COLUMNS}a\0,1,1e400,-1,nan\n",
}
FILES = [*MADE, "", "nothing", "FOLDER", "\0", "\udcff", "x" * 5000]
FILES += ["/dev/null", "/dev/zero", "/proc/self/mem"]
URLS = ["", "x", "redis://", "redis://:a/b@h", "redis://h:-1", "redis://h:99999/0", "redis://[::1", "\udcff"]
URLS += ["redis://h\0/0", "sentinel://h", "sentinel://h:x/0?master=m", "sentinel://127.0.0.1:1/x?master=m"]
URLS += ["unix:///nothing", "rediss://127.0.0.1:1/0?ssl_cert_reqs=odd"]
URLS += [f"redis://127.0.0.1:1/{rest}" for rest in ("0?db=x", "abc", "0?odd=1", "99")]
KINDS = {"input_": JSON, "value": JSON, "path": FILES, "source": FILES, "out": FILES}
KINDS |= {"settings": SETTINGS, "weights": SETTINGS, "caps": SETTINGS}
NEEDED = {"submit": ["greet"], "simulate": ["--workload", "light", "--jobs", "5", "--seeds", "1"]}
"""What a call needs so that the value under test is the one that is wrong."""
STARTS = ("up", "worker", "flower")
"""These run until they are ended, so they get a configuration that is not there."""
NOT_HERE = ("demo", "fake-llm")
"""They need no configuration."""


def commands(
    group: click.Group, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands of the tree that are no groups."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        elif command is not None and name not in NOT_HERE:
            yield (*path, name), command


def values_for(param: click.Parameter) -> Sequence[str]:
    if isinstance(param, click.Option) and param.is_flag:
        return [""]
    if param.name in KINDS:
        return KINDS[param.name]
    if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType):
        return NUMBERS
    return FILES if isinstance(param.type, click.Path | click.File) else WORDS


def hostile_calls() -> list[list[str]]:
    """Each parameter of each command with the values that are odd for its kind."""
    calls = []
    for path, command in commands(entry.root):
        begin = [*(["--config", "nothing.toml"] if path[0] in STARTS else []), *path]
        arguments = [p for p in command.params if isinstance(p, click.Argument)]
        ids = ["odd-id" for argument in arguments if argument.required]
        patience = ["--timeout", "0.01"] if path[-1] in ("wait", "events", "submit") else []
        for param in command.params:
            for value in values_for(param):
                if isinstance(param, click.Argument):
                    given = [value if a is param else "odd-id" for a in arguments if a.required or a is param]
                    calls.append([*begin, *given, *patience])
                else:
                    odd = [param.opts[0]] if param.is_flag else [param.opts[0], value]  # type: ignore[attr-defined]
                    given = NEEDED.get(path[0], ids)
                    calls.append([*begin, *given, *(odd if "--timeout" in odd else [*odd, *patience])])
    calls += [["--config", name, "job", "list"] for name in FILES]
    calls += [["--redis-url", url, "job", "list"] for url in URLS]
    return calls + [
        [*before, mark + word] for word in WORDS for before in ([], ["job"]) for mark in ("", "--")
    ]


@pytest.fixture
def files(folder: Path) -> Path:
    (folder / "FOLDER").mkdir()
    for name, content in MADE.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def what_is_wrong(run: Callable[..., Done], call: list[str]) -> str:
    """Empty if the call ended as it must."""
    try:
        done = run(*call)
    except BaseException as exc:
        return f"{type(exc).__name__}: {str(exc)[:200]}"
    if "Traceback" in done.out + done.err:
        return done.err[-300:]
    if done.code not in (0, 1, 2):
        return f"exit code {done.code}"
    one = len(done.err.strip().splitlines()) == 1
    return "" if one or done.code != 2 else f"exit code 2 and {done.err[:300]!r}"


def check(run: Callable[..., Done], calls: Sequence[list[str]]) -> None:
    wrong = {}
    for call in calls:
        if text := what_is_wrong(run, call):
            wrong[" ".join(repr(word[:40]) for word in call)] = text
    assert not wrong, "\n".join(f"{call}\n    {text}" for call, text in wrong.items())


def test_no_call_ends_in_a_traceback_on_a_redis(cli: Callable[..., Done], files: Path) -> None:
    calls = hostile_calls()
    assert len(calls) > 1000
    check(cli, calls)


def test_no_call_ends_in_a_traceback_without_a_redis(
    cli: Callable[..., Done], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOS_REDIS_URL", "redis://127.0.0.1:1/0")
    check(cli, hostile_calls()[::3])


def test_a_worker_whose_output_takes_nothing_works(
    cli: Callable[..., Done], folder: Path, tmp_path: Path
) -> None:
    cli("submit", "greet", "--input", '"x"', "--id", "j")
    command = [sys.executable, "-m", "aios_dist.cli", "worker", "llm"]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open("/dev/full", "w") as full, (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen(command, env=env, cwd=folder, stdout=full, stderr=log)
    try:
        end = time.monotonic() + 60
        while not cli("job", "show", "j", "--json").json["steps"][0]["attempt"]:
            assert worker.poll() is None
            assert time.monotonic() < end
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()
    assert "Traceback" not in (tmp_path / "log").read_text()


# Ctrl-C ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "sign"),
    [
        (["job", "events", "waits", "--follow"], "submitted"),
        (["worker", "turns"], "is ready"),
        (["flower", "--port", "0"], "Flower of fleet"),
        (["simulate", "--workload", "light", "--jobs", "100000", "--json"], ""),
    ],
    ids=["waiting", "a worker", "flower", "computing"],
)
def test_ctrl_c_is_130_without_a_traceback(
    cli: Callable[..., Done], folder: Path, command: list[str], sign: str
) -> None:
    cli("submit", "greet", "--input", '"x"', "--id", "waits")
    code, said = interrupted(["-u", "-m", "aios_dist.cli", *command], sign, folder)
    assert "Traceback" not in said
    assert code == 130, said


def test_ctrl_c_of_a_whole_fleet_is_130_after_its_end_in_good_order(folder: Path) -> None:
    call = ["-u", "-m", "aios_dist.cli", "up", "--fake-llm", "--no-flower"]
    code, said = interrupted(call, "is up", folder)
    assert "Traceback" not in said
    assert "Stopped: nothing was in flight" in said
    assert code == 130, said


def test_ctrl_c_while_a_command_is_loaded_ends_it_at_once() -> None:
    program = (
        "import signal\nfrom aios_dist.cli import ctrl_c_at_once\n"
        "with ctrl_c_at_once():\n    signal.raise_signal(signal.SIGINT)\nprint('went on')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


AT_AN_IMPORT = """
import sys, _signal
left = int(sys.argv[1])
class AtAnImport:
    def find_spec(self, name, path=None, target=None):
        global left
        left -= 1
        if not left:
            _signal.raise_signal(_signal.SIGINT)
from aios_dist.cli import main
sys.meta_path.insert(0, AtAnImport())
sys.argv = ["aios-dist", "version"]
main()
"""


def test_ctrl_c_at_any_import_of_the_command_line_is_130_without_a_traceback() -> None:
    """The first ones, of what the command line stands on; some of the others, and those of the command."""
    run = [sys.executable, "-c", AT_AN_IMPORT]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    started = [subprocess.Popen([*run, str(nth)], **pipes) for nth in (1, 2, 3, 4, 8, 30, 90)]
    assert [(process.communicate()[0], process.returncode) for process in started] == [(b"", 130)] * 7


def test_nothing_is_imported_before_ctrl_c_is_looked_after() -> None:
    program = "import sys; before = {*sys.modules}; import aios_dist.cli; print({*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert ast.literal_eval(done.stdout.decode()) <= {
        "__future__", "os", "aios_dist", "aios_dist.cli",
    }  # fmt: skip


def interrupted(argv: list[str], sign: str, folder: Path) -> tuple[int, str]:
    """Send SIGINT when the process has written ``sign`` (when it computes, where there is none)."""
    env = {**os.environ, "AIOS_CONFIG": str(folder / "aios.toml"), "FLOWER_BASIC_AUTH": "u:w"}
    env["PYTHONPATH"] = str(Path(__file__).parents[2])
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *argv], env=env, cwd=folder, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + 60
        while not (sign in log.read_text() if sign else _cpu_s(process.pid) > 0.5):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        return process.wait(60), log.read_text()
    finally:
        process.kill()
        process.wait()


def _cpu_s(pid: int) -> float:
    """Seconds that the process has computed; its imports take less than what is waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
