"""What a call may take, in tokens, before anybody has counted: what limits and shares reserve for it.

Text counts by its characters. Pictures, sound and files do not: their base64 is a hundred times as long as
what a provider counts for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aios_dist.model.calls import OUTPUT_GUESS, LLMRequest

CHARS_PER_TOKEN = 4
"""A rule of thumb for English (OpenAI, "What are tokens and how to count them?")."""

PICTURE, SMALL_PICTURE = 1000, 85
"""Tokens: of most pictures (OpenAI counts 765 for 1024 × 1024 points, Anthropic at most some 1,600), and with
``"detail": "low"``. https://platform.openai.com/docs/guides/images-vision"""

SOUND_CHARS = 1000
"""Characters of base64 that are a token of sound: ten tokens a second, of some 8 kB as MP3."""

FILE_CHARS = 32
"""… and of any other file: a page of a PDF, some 50 kB, is about 2,000 tokens."""


def estimate(request: LLMRequest) -> tuple[int, int]:
    """Prompt and output tokens that a call may take."""
    most = request.max_tokens or request.extra.get("max_completion_tokens") or OUTPUT_GUESS
    prompt = sum(_message(message) for message in request.messages)
    if request.tools:
        prompt += _length(request.tools)
    return prompt // CHARS_PER_TOKEN, most if type(most) is int else OUTPUT_GUESS


def _message(message: Mapping[str, Any]) -> int:
    """What a message counts, in characters of text."""
    calls = message.get("tool_calls")
    return _content(message.get("content")) + (_length(calls) if calls else 0)


def _content(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if content is None:
        return 0
    if not isinstance(content, (list, tuple)):
        return _part(content)
    return sum(_part(part) for part in content)


def _part(part: Any) -> int:
    if not isinstance(part, Mapping):
        return len(str(part))
    text = part.get("text")
    if isinstance(text, str):
        return len(text)
    match part.get("type"):
        case "image_url" | "image" | "input_image":
            shown = part.get("image_url", part)
            small = isinstance(shown, Mapping) and shown.get("detail") == "low"
            return (SMALL_PICTURE if small else PICTURE) * CHARS_PER_TOKEN
        case "tool_result":
            return _content(part.get("content", ""))
        case "audio_url" | "input_audio":
            return _length(part) * CHARS_PER_TOKEN // SOUND_CHARS
        case "document" | "document_url" | "file" | "input_file" | "video" | "video_url":
            source = part.get("source")
            if isinstance(source, Mapping) and source.get("type") == "text":
                return _length(source)
            if isinstance(source, Mapping) and source.get("type") == "content":
                return _content(source.get("content"))
            return _length(part) * CHARS_PER_TOKEN // FILE_CHARS
    if ";base64," in (text := str(part)):  # of a gateway's own
        return len(text) * CHARS_PER_TOKEN // FILE_CHARS
    return len(text)


def _length(value: Any, depth: int = 20) -> int:
    """Characters of all texts within."""
    if isinstance(value, str):
        return len(value)
    if depth and isinstance(value, Mapping):
        return sum(_length(entry, depth - 1) for entry in value.values())
    if depth and isinstance(value, (list, tuple)):
        return sum(_length(entry, depth - 1) for entry in value)
    return 0
