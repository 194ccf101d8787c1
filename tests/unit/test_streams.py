"""Standard streams of every odd kind: closed, full, ascii. No command ends with a traceback for them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aios_dist.cli import streams

ROOT = Path(__file__).parents[2]
FULL = "aios-dist: The output cannot be written: No space left on device.\n"
NO_FOLDER = "aios-dist: The folder '{}' cannot be used: Not a directory.\n"


def shell(command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run it with ``aios_dist`` as a word of its language; nothing of our own environment but the path."""
    script = f'aios_dist() {{ "{sys.executable}" -m aios_dist.cli "$@"; }}; {command}'
    return subprocess.run(
        ["sh", "-c", script],
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": os.defpath, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("aios_dist version >&-", 0, ""),
        ("aios_dist --help >&-", 0, ""),
        ("aios_dist nonsense 2>&-", 2, ""),
        ("aios_dist nonsense 2>/dev/full", 2, ""),
        ("aios_dist version >/dev/full", 2, FULL),
        ("PYTHONUNBUFFERED=1 aios_dist version >/dev/full", 2, FULL),
        ("aios_dist version >/dev/full 2>&1", 2, ""),
        ("aios_dist up --no-flower --fake-llm --data f/x >&-", 2, NO_FOLDER),
    ],
)
def test_a_stream_that_takes_nothing_is_a_sentence_at_the_most(
    command: str, code: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "f").touch()
    done = shell(command, tmp_path)
    assert (done.returncode, done.stderr) == (code, said.format(tmp_path / "f" / "x"))


def test_a_stdin_that_is_closed_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "aios.toml").write_text('[models.small]\nmodel = "m"\n', encoding="utf-8")
    done = shell("aios_dist submit --prompt x --input - <&-", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr == "aios-dist: standard input is not JSON: Expecting value: line 1 column 1 (char 0).\n"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_has_not_all_signs_gets_their_numbers(encoding: str, tmp_path: Path) -> None:
    nobody = "redis://127.0.0.1:1/0"
    done = shell("aios_dist doctor", tmp_path, PYTHONIOENCODING=encoding, AIOS_REDIS_URL=nobody)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("\\u2713 configuration: ")


def test_a_folder_that_is_gone_is_no_matter_to_what_needs_none(tmp_path: Path) -> None:
    nobody = "redis://127.0.0.1:1/0"
    done = shell("mkdir d; cd d; rmdir ../d; aios_dist doctor", tmp_path, AIOS_REDIS_URL=nobody)
    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ redis" in done.stdout


def test_what_a_command_starts_has_the_streams_that_were_closed() -> None:
    for closed in ("<&-", ">&-", "2>&-"):
        program = (
            "import subprocess, sys; from aios_dist.cli import streams; streams.prepare(); "
            "sys.exit(subprocess.call([sys.executable, '-c', "
            "'import sys; sys.exit(None in (sys.stdin, sys.stdout, sys.stderr))']))"
        )
        assert (
            subprocess.run(
                ["sh", "-c", f'"$0" -c "{program}" {closed}', sys.executable], cwd=ROOT, check=False
            ).returncode
            == 0
        )


@pytest.mark.parametrize("stream", [">&-", ">/dev/full"])
def test_a_fake_llm_serves_though_it_cannot_say_where(stream: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = f'exec "$0" -m aios_dist.testing --port {port} {stream}'
    with subprocess.Popen(["sh", "-c", command, sys.executable], cwd=ROOT, stderr=subprocess.PIPE) as llm:
        while llm.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                break
            time.sleep(0.05)
        llm.terminate()
        _, said = llm.communicate(timeout=60)
    assert (llm.returncode, said) == (0, b"")


def test_json_stays_the_same_text_in_every_encoding(tmp_path: Path) -> None:
    program = (
        "from aios_dist.cli import output, streams; streams.prepare(); "
        'output.print_json(["é", "✓", "😀", "\\ud800", "\\\\u00e9"])'
    )
    for encoding in ("ascii", "latin-1", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            timeout=60,
            check=True,
        )
        assert json.loads(done.stdout.decode(encoding)) == ["é", "✓", "😀", "\ud800", "\\u00e9"]


def test_what_goes_on_though_nobody_reads_it_drops_its_news() -> None:
    with open("/dev/full", "w", encoding="utf-8") as full:
        lasting = streams.Lasting(full)
        for _ in range(20_000):
            assert lasting.write("news\n") == 5
            lasting.flush()
        assert (lasting.encoding, lasting.isatty()) == ("utf-8", False)
        _put_nowhere(full)


def test_a_reader_that_has_gone_away_is_exit_code_1_without_a_word() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "aios_dist.cli", "version"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_reader_that_has_gone_away_ends_what_goes_on() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w", encoding="utf-8") as pipe:
        lasting = streams.Lasting(pipe)
        lasting.write("news")
        with pytest.raises(BrokenPipeError):
            lasting.flush()
        _put_nowhere(pipe)


def _put_nowhere(stream: io.TextIOBase) -> None:
    """So that closing it can flush it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
