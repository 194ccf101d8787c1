"""What the command line shows people: narrow tables, times, workers' names, and the news of ``up``."""

from __future__ import annotations

import io
import time

import pytest

from aios_dist.cli.job_show import worker_names
from aios_dist.cli.output import clock, moment, print_table
from aios_dist.cli.up_news import ends, important
from aios_dist.journal import JobView
from aios_dist.model.calls import Usage
from aios_dist.model.jobs import JobState
from aios_dist.text.lines import fields_line


class Terminal(io.StringIO):
    """Where people look."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_a_narrow_table_leaves_out_columns_with_nothing_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "24")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    rows = [("a-job-of-some-length", "", ""), ("b", "", "x")]
    print_table(("JOB", "PLAN", ">N"), rows, empty="")
    first, *lines = terminal.getvalue().splitlines()
    assert "PLAN" not in first
    assert [line.rstrip() for line in lines] == ["a-job-of-some-length", f"b{' ' * 21}x"]
    monkeypatch.setenv("COLUMNS", "80")
    print_table(("JOB", "PLAN", ">N"), rows, empty="")
    assert "PLAN" in terminal.getvalue()


def test_a_time_of_today_is_without_its_date_in_a_column_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, old = time.time(), 1_700_000_000.0
    assert (moment(now), moment(0.0)) == (clock(now), "")
    monkeypatch.setattr("sys.stdout", Terminal())
    assert clock(now).endswith(f" {moment(now)}") or moment(now) == clock(now)  # the day ends meanwhile
    assert moment(old) == clock(old)
    assert moment(0.0) == ""


def test_workers_are_called_by_their_nodes_while_these_tell_them_apart() -> None:
    assert worker_names({"", "a@h:1:x", "b@h:2:x", "b@h:3:y"}) == {
        "": "",
        "a@h:1:x": "a@h",
        "b@h:2:x": "b@h:2:x",
        "b@h:3:y": "b@h:3:y",
    }


def test_up_tells_ends_and_what_is_parked() -> None:
    usage = Usage(prompt_tokens=1)
    views = [
        JobView(
            id="a", state=JobState.FAILED, outcomes=1, usage=usage, submitted_at=5.0, ended_at=6.5, agent="x"
        ),
        JobView(id="b", state=JobState.PAUSED, parked=True, why="other code", submitted_at=5.0, agent="x"),
        JobView(id="c", state=JobState.RUNNING, submitted_at=5.0, agent="x"),
    ]
    assert list(map(str, ends(views))) == ["  failed a: 1 step, 1 token, 1.5 s", "  parked b: other code"]
    assert list(map(str, ends(views * 6))) == ["  12 jobs: 6 failed, 6 parked"]


def test_up_shows_a_failure_that_is_logged_for_programs_as_people_read_it() -> None:
    begin = "2026-01-01 10:00:00,000 WARNING aios_dist.telling: "
    fields = {
        "job": "j",
        "agent": "trip",
        "tenant": "t",
        "error": "KeyError",
        "traceback": "  at x\n    y[z]",
    }
    tool = {"job": "j", "step": "0", "tool": "find", "error": "ValueError", "traceback": ""}
    odd = [f"{begin}Job failed: {said}" for said in ("{", "[]", "{}")]
    assert important(
        [f"{begin}Job failed: {fields_line(fields)}", f"{begin}Tool failed: {fields_line(tool)}", *odd]
    ) == [
        "job j, agent trip, failed by KeyError",
        "    at x",
        "      y[z]",
        "job j, its find, failed by ValueError",
        *(line.partition("WARNING ")[2] for line in odd),
    ]
