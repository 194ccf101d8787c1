"""An ``aios.toml`` in the current folder, that nobody has named: whose it is decides what it may."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from aios_dist.cli import entry
from aios_dist.config import load, parse
from aios_dist.errors import ConfigError
from aios_dist.program import imports

CODE = "[fleet]\nmodules = ['trap_of_another']\n"
CLASS = "[models.m]\nprovider = 'trap_of_another:Provider'\n"
DATA = "[fleet]\nname = 'theirs'\n"
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
@pytest.mark.parametrize("text", [CODE, CLASS])
def test_code_that_another_users_file_names_does_not_run(here: Path, text: str) -> None:
    (here / "aios.toml").touch()
    os.chown(here / "aios.toml", 65534, 65534)
    said = refused(text)
    assert f"{str(here / 'aios.toml')!r} belongs to another user (uid 65534)" in said
    assert "--config aios.toml" in said


@needs_root
def test_nor_does_that_of_a_folder_of_another_user(here: Path) -> None:
    os.chown(here, 65534, 65534)
    assert "lies in a folder of another user" in refused(CODE)


@needs_root
def test_who_became_root_by_sudo_has_files_of_his_own(here: Path) -> None:
    (here / "aios.toml").write_text(CODE)
    os.chown(here / "aios.toml", 1234, 1234)
    assert load(env={"SUDO_UID": "1234"}).fleet.modules == ["trap_of_another"]
    with pytest.raises(ConfigError):
        load(env={"SUDO_UID": "1235"})


def test_what_every_user_may_write_is_nobodys_own(here: Path) -> None:
    (here / "aios.toml").touch()
    (here / "aios.toml").chmod(0o666)
    assert "may be written by every user" in refused(CODE)
    (here / "aios.toml").chmod(0o644)
    here.chmod(0o777)
    assert "lies in a folder of every user" in refused(CODE)


def test_data_is_taken_all_the_same_and_said_whose_it_is(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "aios.toml").write_text(DATA)
    (here / "aios.toml").chmod(0o666)
    assert load(env={}).fleet.name == "theirs"
    entry.run(["config", "show"])
    assert (
        f"The configuration is {str(here / 'aios.toml')!r}, which may be written" in capsys.readouterr().err
    )


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
