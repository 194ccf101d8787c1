"""An agent, a tool and a provider that put secrets where none should be: into their errors."""

from __future__ import annotations

import base64
import os
from urllib.parse import quote

from aios_dist import agent, tool


def leak_by_tool() -> None:
    """Raises with a key in its text."""
    raise RuntimeError(f"a tool that shows {os.environ['THE_KEY']} in its error")


@agent
async def leaks(how: str) -> str:
    """Fails with what nobody may read."""
    if how == "tool":
        await tool(leak_by_tool)
    url, key = os.environ["PLANTED_URL"], os.environ["THE_KEY"]
    raise RuntimeError(f"{url} {quote(key, safe='')} {base64.b64encode(f'u:{key}'.encode()).decode()}")
