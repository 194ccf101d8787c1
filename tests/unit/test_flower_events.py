"""Rows of workers that are gone, and events that find no connection."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from aios_dist.broker.messages import LONGEST_NEWS
from aios_dist.cli.flower_events import Rows, SoundEvents, sound
from aios_dist.journal import Lost
from aios_dist.text.tracebacks import LIMIT
from aios_dist.worker import telemetry
from aios_dist.worker.rows import LONGEST
from aios_dist.worker.rows import Rows as TellsOfTries
from aios_dist.worker.telemetry import Dispatcher


def event(kind: str, uuid: str = "", pid: int = 1, host: str = "a@h", **more: Any) -> dict[str, Any]:
    now = time.time()
    made = {"type": kind, "hostname": host, "pid": pid, "timestamp": now, "local_received": now, "clock": 1}
    return {**made, **({"uuid": uuid} if uuid else {}), **more}


@pytest.fixture
def rows() -> Rows:
    made = Rows()
    made.event(event("worker-online", active=0))
    return made


def states(rows: Rows) -> dict[str, str]:
    return {uuid: row.state for uuid, row in rows.tasks.items()}


def test_open_rows_of_a_worker_that_is_silent_are_closed_and_no_others(rows: Rows) -> None:
    for uuid in ("open", "done", "tried"):
        rows.event(event("task-received", uuid, name="n"))
        rows.event(event("task-started", uuid))
    rows.event(event("task-succeeded", "done"))
    rows.event(event("task-retried", "tried"))
    rows.event(event("worker-heartbeat", active=3))
    assert rows.close_lost(60.0) == 0
    assert rows.close_lost(0.0) == 1
    assert states(rows) == {"open": "LOST", "done": "SUCCESS", "tried": "RETRY"}
    assert rows.tasks["open"].exception.startswith("WorkerLost: a@h (process 1) is silent")
    assert rows.workers["a@h"].active == 0
    assert rows.close_lost(0.0) == 0


def test_the_next_process_under_the_same_name_keeps_its_rows(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.event(event("task-started", "old"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 20.0)
    rows.event(event("worker-online", pid=2))
    rows.event(event("task-started", "new", pid=2))
    assert rows.close_lost(14.0) == 1
    assert states(rows) == {"old": "LOST", "new": "STARTED"}


def test_a_row_that_was_closed_too_soon_ends_as_its_worker_says(rows: Rows) -> None:
    rows.event(event("task-started", "late"))
    rows.close_lost(0.0)
    rows.event(event("task-succeeded", "late", result="2 + 3 tokens"))
    assert states(rows) == {"late": "SUCCESS"}


def test_closing_a_row_is_no_sign_of_life_of_its_worker(rows: Rows) -> None:
    rows.event(event("task-started", "x"))
    rows.event(event("worker-offline"))
    rows.close_lost(0.0)
    assert not rows.workers["a@h"].alive
    rows.event(event("task-started", "y"))
    rows.workers.pop("a@h")  # as Flower does, who shows it no longer
    rows.close_lost(0.0)
    assert "a@h" not in rows.workers
    assert set(states(rows).values()) == {"LOST"}


def test_who_notices_that_a_worker_was_lost_does_not_take_its_row(rows: Rows) -> None:
    rows.event(event("task-started", "x"))
    rows.event(event("task-retried", "x", pid=7, host="b@h", worker_lost="a@h"))
    assert (rows.tasks["x"].state, rows.tasks["x"].worker.hostname) == ("RETRY", "a@h")
    assert rows.close_lost(0.0) == 0


def test_whose_a_row_is_that_was_not_heard_of_says_who_lost_it(rows: Rows) -> None:
    rows.event(event("task-started", "x", pid=7, host="b@h", worker_lost="a@h"))
    rows.event(event("task-started", "y", pid=7, host="b@h", worker_lost="gone@h"))
    assert [rows.tasks[uuid].worker.hostname for uuid in ("x", "y")] == ["a@h", "gone@h"]
    assert "gone@h" not in rows.workers


def test_a_container_that_begins_again_under_its_name_and_number_has_rows_of_its_own(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.event(event("task-started", "first"))  # before it has said which process it is
    rows.event(event("worker-heartbeat", aios_process="one"))
    rows.event(event("task-started", "old"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 20.0)
    rows.event(event("worker-online", aios_process="two"))
    rows.event(event("task-started", "new"))
    assert rows.close_lost(14.0) == 2
    assert states(rows) == {"first": "LOST", "old": "LOST", "new": "STARTED"}
    assert "aios_process" not in vars(rows.workers["a@h"])


def test_a_worker_that_is_silent_is_asked_once_before_its_rows_are_closed(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may send no heartbeats, and a call may take long."""
    asked: list[float] = []
    monkeypatch.setattr(SoundEvents, "missed_some", lambda: asked.append(time.monotonic()))
    rows.event(event("task-started", "x"))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 8.0)
    assert rows.close_lost(20.0) == 0
    assert asked == []
    assert [rows.close_lost(14.0), rows.close_lost(14.0)] == [0, 0]
    assert len(asked) == 1
    rows.event(event("task-started", "x", again=1))
    monkeypatch.setattr(time, "monotonic", lambda: now + 16.0)
    assert rows.close_lost(14.0) == 0, "it has answered"
    assert len(asked) == 2
    assert states(rows) == {"x": "STARTED"}


def test_a_row_that_was_closed_goes_on_where_its_worker_has_it(rows: Rows) -> None:
    rows.event(event("task-started", "x", name="n"))
    assert rows.close_lost(0.0) == 1
    for kind in ("task-received", "task-started"):
        rows.event(event(kind, "x", again=1, name="n"))
    row = rows.tasks["x"]
    assert (row.state, row.exception, row.result) == ("STARTED", None, None)
    assert rows.close_lost(0.0) == 1, "and may be closed again"
    rows.event(event("task-succeeded", "x", result="2 + 3 tokens"))
    assert states(rows) == {"x": "SUCCESS"}


def test_rows_that_flower_has_kept_on_disk_are_closed_too() -> None:
    before = Rows()
    before.event(event("task-started", "x"))
    after = Rows(workers=before.workers, tasks=before.tasks)
    assert after.close_lost(60.0) == 0
    assert after.close_lost(0.0) == 1


def test_times_of_a_row_may_be_said_and_are_left_out_where_they_are_none() -> None:
    said = sound(event("task-received", "x", received=1.5e9, started="never"))
    assert (said["received"], "started" in said) == (1.5e9, False)


@pytest.mark.parametrize("time_", [-9e10, -1, 1e14, True, "x"])
def test_a_time_that_no_page_can_show_makes_no_event(time_: object) -> None:
    with pytest.raises(ValueError, match="not of its kind"):
        sound({**event("task-started", "x"), "timestamp": time_})
    assert "started" not in sound(event("task-received", "x", started=time_))
    for hours in (25, -1e14):
        with pytest.raises(ValueError, match="not of its kind"):
            sound(event("task-started", "x", utcoffset=hours))
    sound(event("task-started", "x", utcoffset=-14))


@pytest.mark.parametrize("field", ["hostname", "name", "args", "uuid", "sw_ident", "signum", "type"])
def test_half_a_character_makes_no_event(field: str) -> None:
    """No page that shows it can be sent: the list of workers was 500 for good."""
    sound(event("task-started", "x", name="日本 👩"))
    with pytest.raises(ValueError, match="not of its kind"):
        sound({**event("task-started", "x"), field: "task-\ud83d"})


def test_what_is_told_again_makes_what_is_missing_and_changes_nothing_else(rows: Rows) -> None:
    rows.event(event("task-started", "heard", name="n"))
    rows.event(event("task-retried", "heard", result="first"))
    count = rows.counter["a@h"]["task-retried"]
    for uuid in ("heard", "missed"):
        for kind in ("task-received", "task-started", "task-retried"):
            rows.event(event(kind, uuid, again=1, name="n", result="again"))
    assert states(rows) == {"heard": "RETRY", "missed": "RETRY"}
    assert (rows.tasks["heard"].result, rows.tasks["missed"].result) == ("first", "again")
    assert rows.counter["a@h"]["task-retried"] == count + 1
    assert rows.close_lost(0.0) == 0


def test_a_worker_tells_again_what_it_has_told_lately_and_what_is_open() -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    told = TellsOfTries(lambda type, **fields: sent.append((type, fields)))
    told.lost(Lost("j", "0", "t0k", "a@h:1:x", "ready", "trip", "llm", "small", 1, "c1"))
    sent.clear()
    assert told.again() == 1
    assert [type for type, _ in sent] == ["task-received", "task-started", "task-retried"]
    assert {fields["uuid"] for _, fields in sent} == {"j.0.t0k"}
    assert all(fields["again"] == 1 for _, fields in sent)


def test_workers_are_asked_again_for_what_they_told_not_at_every_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    telemetry.answer_again(lambda: 3)
    try:
        ask = telemetry.Panel.data[telemetry.AGAIN]
        assert [ask(None), ask(None)] == [{"rows": 3}, {"rows": 0}]
        now += 1.0
        assert ask(None) == {"rows": 3}
    finally:
        del telemetry.Panel.data[telemetry.AGAIN]


class Line:
    """Celery's dispatcher on one connection."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.sent: list[str] = []
        self.flushed = 0
        self.buffer_limit = 0
        self._outbound_buffer: list[str] = []

    def send(self, type: str, **_: Any) -> None:
        if self.enabled:
            self.sent.append(type)

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    made = SimpleNamespace(event_dispatcher=None, task_consumer=None)
    monkeypatch.setattr(Dispatcher, "consumer", made)
    telemetry._unsent.clear()
    yield made
    telemetry._unsent.clear()


def test_events_without_a_connection_go_with_the_next_one(consumer: SimpleNamespace) -> None:
    telemetry.send("task-started", uuid="x")
    telemetry.flush()
    consumer.event_dispatcher = line = Line()
    telemetry.flush()
    assert (line.sent, line.flushed) == (["task-started"], 1)


def test_what_has_gone_out_is_known_and_what_a_broken_line_kept_has_not(consumer: SimpleNamespace) -> None:
    before = telemetry.gone()
    telemetry.send("task-started", uuid="x")
    given = telemetry.given()
    telemetry.flush()
    assert telemetry.gone() == before
    consumer.event_dispatcher = line = Line()
    line._outbound_buffer.append("x")
    telemetry.flush()
    assert telemetry.gone() == before
    line._outbound_buffer.clear()
    telemetry.send("task-started", uuid="y")
    telemetry.flush()
    assert telemetry.gone() == given + 1


def test_no_message_of_events_is_too_large_to_be_taken(consumer: SimpleNamespace) -> None:
    """The longest texts, in signs that JSON writes in six bytes, as text that kombu codes anew."""
    Dispatcher(consumer).start(consumer)
    consumer.event_dispatcher = Line()
    Dispatcher(consumer).start(consumer)
    texts = 2 * LONGEST + LIMIT + 6 * 128
    assert consumer.event_dispatcher.buffer_limit * texts * 6 * 4 // 3 < LONGEST_NEWS


def test_events_that_are_switched_off_are_not_kept(consumer: SimpleNamespace) -> None:
    consumer.event_dispatcher = line = Line(enabled=False)
    telemetry.send("task-started", uuid="x")
    telemetry.flush()
    line.enabled = True
    telemetry.flush()
    assert line.sent == []


def test_a_worker_without_a_connection_has_cancelled_nothing(consumer: SimpleNamespace) -> None:
    assert telemetry.not_consumed(["llm"]) == []
    consumer.task_consumer = SimpleNamespace(consuming_from=lambda lane: lane == "turns")
    assert telemetry.not_consumed(["llm", "turns"]) == ["llm"]
