"""What ``make bench`` prints: a table a load, a figure a line, with its bound and whether that holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import tables
from benchmarks.tables import BOUNDS, broken, lines

LONG = "las oldest_every=10 fair=tenant, 100 tenants, 4 in flight; 1,000,000 wait (990,000 are copies)"
MAKESPAN = {
    "load": "20 x 5, 0.1 s, 1 x 8 slots",
    "ratio_to_rounds": 1.16,
    "next_call_ms": 3.94,
    "next_call_p95_ms": None,
}
VERBS = [
    {"load": LONG, "verb": verb, "median_us": us, "most_us": 123_456.7}
    for verb, us in (("commit", 999.4), ("reap", 4_000.0), ("lane set", 5_001.0), ("extend", 1_001.0))
]
WAITING = {"load": LONG, "claim_us": 120.46, "ratio_to_1000": 1.2, "caller_us": 310.0, "bytes": 1_432.4}


def printed(part: str, rows: list[dict[str, object]], width: int = 80) -> str:
    return "\n".join(lines(part, bench.PARTS[part].__doc__ or "", rows, width))


@pytest.mark.parametrize("width", [80, 120])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    for part, rows in {"makespan": [MAKESPAN], "verbs": VERBS, "waiting": [WAITING]}.items():
        assert max(map(len, printed(part, rows, width).splitlines())) <= width, part


def test_a_figure_stands_beside_its_bound_and_is_broken_where_it_does_not_keep_it() -> None:
    assert printed("makespan", [MAKESPAN]).splitlines()[-3:] == [
        "20 x 5, 0.1 s, 1 x 8 slots",
        "  ratio to rounds     1.16  at most 1.15  BROKEN",
        "  next call        3.94 ms",
    ]
    assert broken("makespan", [MAKESPAN, {**MAKESPAN, "ratio_to_rounds": 1.15}]) == 1


def test_the_longer_load_has_the_looser_bound_and_what_is_no_figure_of_a_load_is_left_out() -> None:
    wide = {**MAKESPAN, "load": "200 x 5, 0.1 s, 1 x 32 slots"}
    assert broken("makespan", [wide]) == 0
    assert "p95" not in printed("makespan", [wide])


def test_verbs_of_one_load_are_one_table_with_a_line_each() -> None:
    shown = [line.split() for line in printed("verbs", VERBS).splitlines()]
    assert ["commit", "999", "µs", "123,457", "µs", "at", "most", "1,000", "µs", "ok"] in shown
    assert ["reap", "4,000", "µs", "123,457", "µs", "at", "most", "5,000", "µs", "ok"] in shown
    assert ["lane", "set", "5,001", "µs", "123,457", "µs", "at", "most", "5,000", "µs", "BROKEN"] in shown
    assert shown[-1][-1] == "BROKEN"
    assert broken("verbs", VERBS) == 2


def test_every_bound_is_of_a_part_and_a_figure_that_there_is() -> None:
    """A figure that was renamed would have no bound, and nobody would see it."""
    folder = Path(tables.__file__).parent
    said = "".join(file.read_text("utf-8") for file in folder.glob("*.py") if file.stem != "tables")
    assert BOUNDS.keys() <= bench.PARTS.keys()
    assert [b.figure for bounds in BOUNDS.values() for b in bounds if f'"{b.figure}"' not in said] == []


@pytest.mark.parametrize(
    ("word", "code", "said"), [("--help", 0, "Parts: makespan."), ("--fast", 2, "no option --fast")]
)
def test_who_asks_for_help_or_what_there_is_not_runs_nothing(
    word: str, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PARTS", {"makespan": pytest.fail})
    assert bench.main([word]) == code
    assert said in "".join(capsys.readouterr())
