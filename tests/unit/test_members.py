"""Processes of a fleet on this machine: their environment, and what is said of one that has ended."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aios_dist.errors import ConfigError
from aios_dist.local.members import LAST_LINES, Launch, Member, environment


def ended(folder: Path, code: str) -> Member:
    member = Launch(dir=folder, env=os.environ).start("one", ["-c", code])
    member.process.wait(20)
    return member


def test_of_one_that_ended_its_last_words_are_told_and_no_more(tmp_path: Path) -> None:
    member = ended(tmp_path, "for n in range(100): print('line', n)\nraise SystemExit(3)")
    with pytest.raises(ConfigError) as raised:
        member.check()
    said = str(raised.value).splitlines()
    assert said[0] == "one ended with exit code 3:"
    assert said[1:] == [f"line {n}" for n in range(100 - LAST_LINES, 100)]


def test_a_sentence_of_ours_comes_alone_and_of_several_the_last(tmp_path: Path) -> None:
    member = ended(
        tmp_path, "print('odd')\nfor n in (1, 2): print('aios-dist: sentence', n)\nraise SystemExit(2)"
    )
    with pytest.raises(ConfigError, match=r"^sentence 2$"):
        member.check()


def test_a_member_has_our_environment_without_the_settings_of_another_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AIOS_REDIS_URL", "AIOS_FLEET", "AIOS_CONFIG", "MINE", "FLOWER_PORT", "FLOWER_KEY"):
        monkeypatch.setenv(name, "x")
    made = environment(tmp_path / "aios.toml", {"FLOWER_KEY"})
    assert (made["MINE"], made["FLOWER_KEY"], made["AIOS_CONFIG"]) == ("x", "x", str(tmp_path / "aios.toml"))
    assert not {"AIOS_REDIS_URL", "AIOS_FLEET", "FLOWER_PORT"} & set(made)
