"""``aios-dist fake-llm``: the fake LLM as a process of its own."""

from __future__ import annotations

import os
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def fake_llm(options: tuple[str, ...]) -> None:
    """Run a fake LLM that speaks OpenAI's and Anthropic's protocol; --help lists its options."""
    # Not imported: aios_dist.testing stands apart from the rest. The same process, so signals reach it.
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "aios_dist.testing", *options])
