"""The policies by name."""

from __future__ import annotations

import pytest

from aios_dist import policies
from aios_dist.errors import ConfigError
from aios_dist.policies import Rank, Waiting
from aios_dist.policies.fifo import fifo


def test_fifo_is_the_time_of_becoming_ready_and_nothing_else() -> None:
    assert fifo(Waiting("a", "t", 0)) == fifo(Waiting("b", "u", 99)) == Rank(0.0, True)


def test_an_unknown_policy_is_named_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no policy 'lifo'; known are .*fifo"):
        policies.find("lifo")


@pytest.mark.parametrize("name", ["", "FIFO", "fifo ", "rank"])
def test_names_are_exact(name: str) -> None:
    with pytest.raises(ConfigError):
        policies.find(name)
