"""Finds secrets in texts: plain or encoded, whole or cut, and not what only looks like a piece of one."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

STARS = "***"
RUN, WORDY_RUN = 8, 12
"""So many characters of a secret in a row are hidden, wherever they stand; where they might be words (a
password "production-redis-1", and a job "production-job"), the more."""
SHORTEST = 4
"""A secret that is shorter is hidden in URLs only: else every other word would be stars."""
_STRIDE = 4
_PROBE = 5
"""Every run of 8 has one of these at a multiple of the stride: a long text takes a quarter of the time."""

_PLAIN = re.compile(r"[a-z]+|[A-Z][a-z]+|[A-Z]+|[0-9]+")
_WORDY = re.compile(r"[a-z._-]+|[A-Z][a-z._-]+|[A-Z._-]+")
_DOTS = r"(?<![*.])(?:\*{2,}+|\.{2,}+|…)"
_IN_KEY = r"[\w+/~-]"
BESIDE = 200
"""Characters of a key that are looked at beside the dots in its middle."""
_BEFORE = (
    r"(?i:(?:passw(?:or)?d|pwd|secret|token|key|requirepass|masterauth)[\"'`]?(?:\s*[:=]\s*|\s+(?=[\"'`]))[\"'`]?"
    r"|\b(?:auth|requirepass|masterauth)[\"'`]?\s+(?:[\"'`]?[^\s\"'`]+[\"'`]?\s+)?[\"'`]?|:(?=[^\s@]+@))"
)
"""What stands before a password: its name, Redis' AUTH with or without a user, or the colon of a URL."""


def is_word(secret: str) -> bool:
    """It is a word, or a number, of everyday use ("redis", "password", "2024"): where a text has it, that is
    hardly ever the password, and stars there would say what it is."""
    return bool(_PLAIN.fullmatch(secret)) and len(secret) < (RUN if secret.isdigit() else WORDY_RUN)


class Mask:
    """Hides some secrets; made anew when there are others."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self.secrets = tuple(dict.fromkeys(s for s in secrets if len(s) >= SHORTEST))
        self._keys = tuple(s for s in self.secrets if not is_word(s))
        forms = {form for secret in self.secrets for form in _forms(secret)}
        words = {form for form in forms if is_word(form)}
        runs = {f[i : i + RUN] for f in forms - words for i in range(len(f) - RUN + 1)}
        self._runs = {run for run in runs if not _WORDY.fullmatch(run)}
        self._long = {f[i : i + WORDY_RUN] for f in forms for i in range(len(f) - WORDY_RUN + 1)}
        self._probes = {
            run[i : i + _PROBE] for run in self._runs | self._long for i in range(RUN - _PROBE + 1)
        }
        self._whole = _any_of((f for f in forms - words if SHORTEST <= len(f) < WORDY_RUN), r"(?<!\w)(?:{})")
        self._named = _any_of(words, f"({_BEFORE})(?:{{}})")
        self._heads = _any_of({s[:3] for s in self._keys}, rf"(?<!{_IN_KEY})(?:{{}}){_IN_KEY}*{_DOTS}", "")
        self._tails = _any_of({s[-3:] for s in self._keys}, rf"{_DOTS}{_IN_KEY}*(?:{{}})", rf"(?!{_IN_KEY})")

    def hide(self, text: str) -> str:
        """The text with stars in the place of each secret, and of each piece of one that is no word."""
        if not self.secrets or not text:
            return text
        text = self._without_runs(text)
        if self._whole is not None:
            text = self._whole.sub(STARS, text)
        if self._named is not None:
            text = self._named.sub(rf"\1{STARS}", text)
        # `sk-ab…wxyz`, as providers themselves shorten a key; and one that a bound has cut.
        if "**" in text or ".." in text or "…" in text:
            text = self._without_elided(text)
        for length in range(RUN - 1, SHORTEST - 1, -1):
            tail = text[-length:]
            if len(tail) == length and any(len(s) > length and s.startswith(tail) for s in self._keys):
                within = text[-length - 1 : -length].isalnum() or _PLAIN.fullmatch(tail)
                return text if within else text[:-length] + STARS
        return text

    def _without_runs(self, text: str) -> str:
        near = [i for i in range(0, len(text), _STRIDE) if text[i : i + _PROBE] in self._probes]
        if not near:
            return text
        kept: list[str] = []
        end = 0
        for probe in near:
            for begin in range(max(0, probe - _STRIDE + 1), probe + 1):
                if text[begin : begin + RUN] in self._runs:
                    reaches = begin + RUN
                elif text[begin : begin + WORDY_RUN] in self._long:
                    reaches = begin + WORDY_RUN
                else:
                    continue
                if begin > end or not kept:
                    kept += text[end:begin], STARS
                end = max(end, reaches)
        return "".join(kept) + text[end:]

    def _without_elided(self, text: str) -> str:
        """Both sides of the dots are of a secret, or one that cannot be a word."""
        found = sorted(
            {
                span
                for pattern in (self._heads, self._tails)
                for match in (pattern.finditer(text) if pattern is not None else ())
                for span in self._elided(text, match)
            }
        )
        kept: list[str] = []
        end = 0
        for start, stop in found:
            if start >= end:
                kept += text[end:start], STARS
                end = stop
        return "".join(kept) + text[end:]

    def _elided(self, text: str, match: re.Match[str]) -> Iterator[tuple[int, int]]:
        for dots in _ELIDED.finditer(text, match.start(), match.end()):
            before = _TAIL.match(text[max(0, dots.start() - BESIDE) : dots.start()][::-1])
            behind = _TAIL.match(text[dots.end() : dots.end() + BESIDE])
            head, tail = before[0][::-1] if before else "", behind[0] if behind else ""
            if any(_shortened(s, head, tail) for s in self._keys):
                yield dots.start() - len(head), dots.end() + len(tail)


_ELIDED = re.compile(_DOTS)
_TAIL = re.compile(f"{_IN_KEY}*")


def _shortened(secret: str, head: str, tail: str) -> bool:
    begins = len(head) > 2 and secret.startswith(head)
    ends = len(tail) > 2 and secret.endswith(tail)
    return (begins and (ends or not _PLAIN.fullmatch(head))) or (ends and not _PLAIN.fullmatch(tail))


def _any_of(texts: Iterable[str], pattern: str, end: str = r"(?!\w)") -> re.Pattern[str] | None:
    """One of these, the longest first, in the place of ``{}``; None where there are none."""
    each = sorted(map(re.escape, texts), key=len, reverse=True)
    return re.compile(pattern.replace("{}", "|".join(each)) + end) if each else None


def _forms(secret: str) -> set[str]:
    """The secret as libraries write it: plain, in URLs, in JSON, in a repr, in HTML, in base64."""
    import html  # a program whose URLs have no password needs neither
    import json

    data = secret.encode("utf-8", "surrogateescape")
    plain = {secret, quote(data, safe=""), quote(data), quote_plus(data), json.dumps(secret)[1:-1]}
    plain |= {json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1], repr(data)[2:-1]}
    plain |= {html.escape(secret)} | {quote(form, safe="") for form in plain}
    plain |= {json.dumps(form, ensure_ascii=False)[1:-1] for form in plain}  # JSON in JSON, as in logs
    lower = {re.sub(r"%[0-9A-F]{2}", lambda m: m[0].lower(), form) for form in plain}
    for before in range(3):  # within other bytes (`user:password`) it begins at one of three places
        coded = base64.b64encode(b"\0" * before + data).decode()
        inner = coded[(0, 2, 3)[before] :].rstrip("=")
        inner = inner[:-1] if (before + len(data)) % 3 else inner  # the last one depends on what follows
        lower |= {inner, inner.replace("+", "-").replace("/", "_")}
    return plain | lower
