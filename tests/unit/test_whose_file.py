"""An ``aios.toml`` in the current folder, that nobody has named: whose it is decides what it may."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aios_dist.cli import entry
from aios_dist.config import load, parse
from aios_dist.errors import ConfigError
from aios_dist.local.members import Launch
from aios_dist.program import imports

CODE = "[fleet]\nmodules = ['trap_of_another']\n"
CLASS = "[models.m]\nprovider = 'trap_of_another:Provider'\n"
DATA = "[models.small]\nbase_url = 'http://elsewhere.test'\napi_key_env = 'OPENAI_API_KEY'\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AIOS_CONFIG", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "trap_of_another.py").write_text("raise SystemExit('it ran')\n")
    return tmp_path


def refused(text: str) -> str:
    Path("aios.toml").write_text(text)
    with pytest.raises(ConfigError) as said:
        load(env={})
    return str(said.value)


@needs_root
@pytest.mark.parametrize("text", [CODE, CLASS, DATA])
def test_another_users_file_runs_no_code_and_leads_no_key_elsewhere(here: Path, text: str) -> None:
    (here / "aios.toml").touch()
    os.chown(here / "aios.toml", 65534, 65534)
    said = refused(text)
    assert f"{str(here / 'aios.toml')!r} belongs to another user (uid 65534)" in said
    assert "--config aios.toml" in said
    assert entry.run(["config", "show"]) == entry.run(["fleet"]) == 2


@needs_root
@pytest.mark.parametrize("text", [CODE, DATA])
def test_nor_does_that_of_a_folder_of_another_user(here: Path, text: str) -> None:
    os.chown(here, 65534, 65534)
    assert "lies in a folder that belongs to another user" in refused(text)


@needs_root
def test_who_became_root_by_sudo_has_files_of_his_own(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "aios.toml").write_text(CODE)
    os.chown(here / "aios.toml", 1234, 1234)
    assert load(env={"SUDO_UID": "1234"}).fleet.modules == ["trap_of_another"]
    with pytest.raises(ConfigError):
        load(env={"SUDO_UID": "1235"})
    monkeypatch.setattr(os, "geteuid", lambda: 1236)  # `sudo -u` another: his word is not that one's
    with pytest.raises(ConfigError):
        load(env={"SUDO_UID": "1234"})


def test_what_every_user_may_write_is_nobodys_own(here: Path) -> None:
    (here / "aios.toml").touch()
    (here / "aios.toml").chmod(0o666)
    assert "may be written by every user" in refused(DATA)
    (here / "aios.toml").chmod(0o644)
    here.chmod(0o777)
    assert "lies in a folder that may be written by every user" in refused(DATA)


def test_a_file_of_ones_own_in_tmp_is_taken_and_code_beside_it_is_not(here: Path) -> None:
    """Nobody can put another in its place there, but anybody a module beside it."""
    here.chmod(0o1777)
    (here / "aios.toml").write_text(DATA)
    assert load(env={}).models.keys() == {"small"}
    assert "lies in a folder that may be written by every user" in refused(CODE)


def test_modules_are_looked_for_in_a_strangers_folder_only_beside_the_file_that_was_named(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path_factory.mktemp("own") / "aios.toml"
    for file in (own, here / "aios.toml"):
        file.write_text(CODE)
    here.chmod(0o777)
    monkeypatch.setenv("AIOS_CONFIG", str(own))
    with pytest.raises(ConfigError, match="was not looked in: it may be written by every user"):
        imports.load(load())
    monkeypatch.setenv("AIOS_CONFIG", "aios.toml")
    with pytest.raises(ConfigError, match="it ran"):
        imports.load(load())


@pytest.mark.parametrize("start", ["fake-llm", "a member of a fleet"])
def test_nothing_that_is_started_takes_pythons_modules_from_the_current_folder(
    here: Path, start: str
) -> None:
    (here / "random.py").write_text("raise SystemExit('it ran')\n")
    if start == "fake-llm":
        command = [sys.executable, "-P", "-m", "aios_dist.cli", start, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        return
    member = Launch(here, os.environ).start("cli", ["-m", "aios_dist.cli", "version"])
    assert member.process.wait(60) == 0, member.last_words()


def test_the_users_own_file_and_one_that_is_named_may_name_code(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "aios.toml").write_text(CODE)
    assert load(env={}).fleet.modules == ["trap_of_another"]
    entry.run(["config", "show"])
    assert capsys.readouterr().err == ""
    (here / "aios.toml").chmod(0o666)
    for config in (load("aios.toml", env={}), load(env={"AIOS_CONFIG": "aios.toml"})):
        assert config.fleet.modules == ["trap_of_another"]


def test_nothing_of_the_current_folder_is_imported_where_no_code_is_named(here: Path) -> None:
    before = [*sys.path]
    imports.load(parse({}))
    assert sys.path == before
