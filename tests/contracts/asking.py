"""One call of a model that is opened for it, and what becomes of it."""

from __future__ import annotations

from collections.abc import Mapping

from aios_dist.config import ModelConfig
from aios_dist.errors import LLMError
from aios_dist.model.calls import LLMRequest, LLMResponse
from aios_dist.worker.providers import open_provider

HI = LLMRequest(messages=[{"role": "user", "content": "hi"}])


async def outcome(name: str, model: ModelConfig, env: Mapping[str, str]) -> LLMResponse | LLMError:
    """The answer to a greeting, or its error."""
    provider = open_provider(name, model, env)
    try:
        return await provider.call(HI)
    except LLMError as error:
        return error
    finally:
        await provider.aclose()
