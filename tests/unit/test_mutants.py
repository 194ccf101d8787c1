"""The list of mutants can be tried: each stands in the code once, and its tests are there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.mutants.__main__ import chosen, table
from tests.mutants.entries import Mutant, all_of_them
from tests.mutants.trying import Tried

LIST = all_of_them()
MOST_SURVIVORS = 0.05


def test_each_entry_can_be_tried() -> None:
    assert {str(mutant): fault for mutant in LIST if (fault := mutant.fault())} == {}


def test_no_entry_stands_there_twice_and_few_are_said_to_survive() -> None:
    twice = [text for text, count in Counter((m.file, m.old, m.new) for m in LIST).items() if count > 1]
    assert twice == []
    assert sum(bool(mutant.survives) for mutant in LIST) <= MOST_SURVIVORS * len(LIST)


def test_an_entry_that_is_none_any_more_says_why(tmp_path: Path) -> None:
    (tmp_path / "aios_dist").mkdir()
    (tmp_path / "aios_dist" / "a.py").write_text("x = 1\nx = 1\n")
    (tmp_path / "test_a.py").write_text("def test_one_of_them() -> None: ...\n")

    def fault(old: str, *tests: str) -> str:
        return Mutant(file="a.py", old=old, new="", tests=list(tests)).fault(tmp_path)

    assert fault("x = 1", "test_a.py") == "its text stands 2 times in aios_dist/a.py"
    assert fault("y", "test_a.py") == "its text stands 0 times in aios_dist/a.py"
    assert fault("x = 1\nx = 1\n", "test_a.py::test_another") == "there is no test_a.py::test_another"
    assert fault("x = 1\nx = 1\n") == "it names no test"
    assert fault("x = 1\nx = 1\n", "test_a.py", "test_a.py::test_one_of_them") == ""


def test_numbers_words_and_days_choose() -> None:
    assert chosen(LIST, ["3"], None) == [LIST[2]]
    assert chosen(LIST, ["claim.lua"], None) == [mutant for mutant in LIST if "claim.lua" in mutant.all_text]
    tenths = [mutant for day in range(7, 17) for mutant in chosen(LIST, [], day)]
    assert sorted(mutant.number for mutant in tenths) == list(range(1, len(LIST) + 1))


def test_what_is_as_it_should_be_is_not_wrong_and_all_else_is() -> None:
    lives, dies = (Mutant(file="f", old="a", new="b", tests=["t"], survives=why) for why in ("why", ""))
    assert [bool(Tried(one, by=by).wrong) for one in (lives, dies) for by in ("", "t")] == [
        False,
        True,
        True,
        False,
    ]
    assert Tried(dies, by="t", fault="its tests cannot be run").wrong == "its tests cannot be run"
    assert table([Tried(lives), Tried(dies, by="t"), Tried(dies)]).splitlines()[-1].split() == [
        *("all", "3", "1", "1", "1"),
    ]
