"""Secrets in whatever form they show: nothing of eight characters in a row stays."""

from __future__ import annotations

import base64
import html
import json
import logging
import sys
import threading
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aios_dist.text import masking
from aios_dist.text.mask import RUN, WORDY_RUN, Mask, is_word
from aios_dist.text.masking import hide_in, masked, secrets_of


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u:p@h:1/0", "redis://u:***@h:1/0"),
        ("rediss://:p:w@h", "rediss://:***@h"),
        ("redis://:p@ss@h", "redis://:***@h"),
        ("redis://:p/s//s?#@h", "redis://:***@h"),
        ("redis//:p@h", "redis//:***@h"),
        ("redis://h?db=1&password=p&x=1", "redis://h?db=1&password=***&x=1"),
        ("unix:///tmp/s?password=p", "unix:///tmp/s?password=***"),
        ("sentinel://:p@a:1,b:2/0?master=x", "sentinel://:***@a:1,b:2/0?master=x"),
        ("sentinel://:p@a:1;sentinel://:p@b:1", "sentinel://:***@a:1;sentinel://:***@b:1"),
        ("redis://[::1]:6379", "redis://[::1]:6379"),
        ("redis://[::1", "redis://[::1"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert masked(url) == shown


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "in a URL": lambda s: quote(s, safe=""),
    "in a path": quote,
    "in a form": quote_plus,
    "in lower case": lambda s: quote(s, safe="").replace("%2F", "%2f").replace("%3A", "%3a"),
    "in JSON": lambda s: json.dumps(s)[1:-1],
    "in JSON in JSON": lambda s: json.dumps(json.dumps(s))[3:-3],
    "in a repr": lambda s: repr(s)[1:-1],
    "in HTML": html.escape,
    "in base64": lambda s: base64.b64encode(s.encode()).decode().rstrip("=")[:-1],
    "in a login": lambda s: base64.b64encode(f"u:{s}:".encode()).decode()[3:-4],
    "in a login for URLs": lambda s: base64.urlsafe_b64encode(f"me:{s}:".encode()).decode()[4:-4],
}
WORDS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S"), max_codepoint=0x17F),
    min_size=8,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.sampled_from(sorted(FORMS)), st.integers(0, 400), st.integers(0, 400))
def test_no_piece_of_a_secret_stays_in_whatever_form_and_wherever_it_was_cut(
    secret: str, name: str, begin: int, end: int
) -> None:
    form = FORMS[name](secret)
    piece = form[begin % len(form) : 1 + end % (len(form) + 8)]
    shown = Mask([secret]).hide(f"before, {piece}, after")
    wordy = not any(sign.isdigit() or not sign.isascii() for sign in piece)
    most = WORDY_RUN if wordy else RUN
    whole = is_word(secret) and len(piece) < WORDY_RUN
    assert whole or not [n for n in range(len(piece) - most + 1) if piece[n : n + most] in shown]
    assert shown.startswith("before")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Incorrect API key provided: sk-plant****1c77. See", "Incorrect API key provided: ***. See"),
        ("key sk-pl...c77", "key ***"),
        ("key sk-pl…", "key ***"),
        ("cut at its bound: sk-plan", "cut at its bound: ***"),
        ("twice sk-planted-3f9a1c77, sk-planted-3f9a1c77", "twice ***, ***"),
        ("wait ... nothing of it is here ** at all", "wait ... nothing of it is here ** at all"),
    ],
)
def test_a_key_that_was_shortened_is_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert Mask(["sk-planted-3f9a1c77"]).hide(text) == shown


def test_a_short_password_is_hidden_as_a_word_and_not_within_words() -> None:
    mask = Mask(["pa55", "x"])
    assert mask.hide("password: pa55, pa55; pa55word x") == "password: ***, ***; pa55word x"


ORDINARY = [
    "aios-dist: fleet aios at redis://127.0.0.1:6379, connecting to redis...",
    "job production-job-1 of production waits on lane llm, local",
    '{"fleet": "aios", "lanes": ["llm", "local"], "steps": 1234, "sentinel_password": null}',
    "the llm-server is slow: 1..99 of password",
    "the password of the key llm",
]


@pytest.mark.parametrize(
    "secret",
    [
        "aios",
        "redis",
        "password",
        "llm",
        "local",
        "1234",
        "production",
        "done",
        "production-redis-1",
        "localpass",
        "redis-secret-99",
        "llm-server-key",
    ],
)
def test_a_password_of_ordinary_words_leaves_ordinary_output_as_it_is(secret: str) -> None:
    assert [Mask([secret]).hide(text) for text in ORDINARY] == ORDINARY


@pytest.mark.parametrize("secret", ["aios", "redis", "password", "1234"])
@pytest.mark.parametrize(
    "text",
    [
        "redis://default:{}@h:6379/0",
        "unknown command `HELLO`, with args beginning with: `3` `AUTH` `default` `{}` `SETNAME`",
        "AUTH {}",
        "Connection<host=h,password={},db=0>",
        "{{'password': '{}', 'db': 0}}",
        '{{"sentinel_password": "{}"}}',
        "requirepass {}",
        "FLOWER_PASSWORD={}",
    ],
)
def test_a_password_of_an_ordinary_word_is_hidden_where_a_password_stands(secret: str, text: str) -> None:
    assert Mask([secret]).hide(text.format(secret)) == text.format("***")


def test_a_text_of_a_megabyte_takes_no_time_that_grows_with_its_square() -> None:
    mask = Mask(["sk-planted-3f9a1c77"])
    for text in (
        "x" * 10**6,
        "sk-plant" * 10**5,
        "." * 10**6,
        "a.." * 10**5,
        "sk-.." * 10**5,
        "..c77" * 10**5,
    ):
        assert "sk-planted" not in mask.hide(text)


@given(st.text(min_size=4, max_size=40))
@example("password")
@settings(max_examples=150, deadline=None)
def test_every_password_of_a_url_is_known_as_it_is_sent(password: str) -> None:
    coded = quote(password, safe="")
    for form in (
        "redis://u:{}@h:1/0",
        "redis://h/0?password={}",
        "sentinel://:{0}@a:1,b:2/0?master=m&sentinel_password={0}x",
    ):
        url, rest = form.format(coded), form.format("")  # ("sentinel" and "password" are no secrets)
        assert password in secrets_of(url)
        parts = {coded[n : n + 8] for n in range(len(coded) - 7)}
        assert not [part for part in parts if part in masked(url) and part not in rest]


def test_nothing_of_a_password_with_the_signs_of_urls_is_shown() -> None:
    for sign in "@/:;#&?%+ \\'\"":
        password = f"Aa1{sign}Bb2{sign}{sign}Cc3"
        for url in (
            f"redis://u:{password}@h:1/0",
            f"sentinel://:{password}@h:1/0?master=m",
            f"redis://h:1/0?password={password}",
            f"sentinel://h:1/0?sentinel_password={password}&master=m",
        ):
            assert not [part for part in ("Aa1", "Bb2", "Cc3") if part in masked(url)], masked(url)


def test_plain_data_is_masked_all_the_way_down_and_passwords_by_their_name() -> None:
    masking.learn("planted-secret-1")
    told = {
        "alternates": ["sentinel://:pw@h:1"],
        "kwargs": {"password": "pw"},
        "n": 1,
        "t": ("planted-secret-1",),
    }
    assert hide_in(told) == {
        "alternates": ["sentinel://:***@h:1"],
        "kwargs": {"password": "***"},
        "n": 1,
        "t": ["***"],
    }


def test_every_log_record_is_masked_with_its_traceback_whoever_s_the_log_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    masking.learn("planted-secret-2")
    before = logging.getLogRecordFactory()
    try:
        masking.install()
        masking.install()
        log = logging.getLogger("somebody.else")
        try:
            raise ValueError("with planted-secret-2")
        except ValueError:
            log.exception("broke: %s", "planted-secret-2")
        log.warning("%(a)s", {"a": "planted-secret-2"})
        text = "\n".join(logging.Formatter().format(record) for record in caplog.records)
    finally:
        logging.setLogRecordFactory(before)
    assert "planted-secret" not in text
    assert "ValueError: with ***" in text


class _Mute:
    def __str__(self) -> str:
        raise ValueError("says nothing")


def test_logging_what_cannot_be_written_breaks_nobody_and_shows_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    masking.learn("planted-secret-3")
    before = logging.getLogRecordFactory()
    stream = logging.StreamHandler()
    log = logging.getLogger("odd.records")
    log.addHandler(stream)
    log.propagate = False  # pytest's own handler raises where a format is wrong
    try:
        masking.install()
        secret = "-".join(["planted", "secret", "3"])  # a wrong format is shown with its line of code
        log.warning("%s and %s", _Mute(), secret)
        log.warning(_Mute())
        log.warning("%d", secret)
        log.warning("%(no)s", {"a": secret})
        log.warning("%s %s", secret)
    finally:
        log.removeHandler(stream)
        logging.setLogRecordFactory(before)
    said = capsys.readouterr().err
    log.propagate = True
    assert "the text of a _Mute cannot be had: ValueError" in said
    assert "planted-secret" not in said


def test_what_ends_a_thread_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    masking.learn("planted-secret-4")
    before = logging.getLogRecordFactory(), sys.excepthook, sys.unraisablehook, threading.excepthook
    try:
        masking.install()

        def ends() -> None:
            raise ValueError("with planted-secret-4")

        thread = threading.Thread(target=ends, name="of a user")
        thread.start()
        thread.join()
    finally:
        logging.setLogRecordFactory(before[0])
        sys.excepthook, sys.unraisablehook, threading.excepthook = before[1:]
    said = capsys.readouterr().err
    assert "of a user" in said
    assert "ValueError: with ***" in said
    assert "planted-secret" not in said


def test_a_text_that_has_a_url_in_it_is_no_url() -> None:
    text = "see http://h:8080/ and mail me@example.org"
    assert hide_in(text) == text
    assert hide_in("from redis://u:pw@h:1/0, to b@c") == "from redis://u:***@h:1/0, to b@c"
