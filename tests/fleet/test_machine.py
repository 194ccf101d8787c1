"""The fleet on one machine itself: what its processes are told, and what it says when one does not start."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from aios_dist.config import Config, FleetConfig, LaneConfig, ModelConfig, PoolConfig, PromptsConfig, load
from aios_dist.errors import ConfigError
from aios_dist.local.config_file import write_config
from aios_dist.local.machine import BEYOND_S, LocalFleet, WorkerSpec

pytestmark = pytest.mark.real_starts


def test_a_written_configuration_reads_as_the_same_configuration(tmp_path: Path) -> None:
    config = Config(
        fleet=FleetConfig(
            name="written", redis_url='redis://:"pass\\word"@127.0.0.1:1/0', modules=["a.b", "c"]
        ),
        models={
            "gpt-4.1": ModelConfig(
                options={"nested": {"x": [1, 2.5, True]}, "text": 'é "quoted"\n\x7f\t'}, stream=True
            )
        },
        lanes={"llm": LaneConfig()},
        pools={"big": PoolConfig(lanes=["llm", "turns"], slots=3)},
        agents={"poet": PromptsConfig(prompts=["{input}", "more: {previous}"], temperature=0.5)},
    )
    write_config(config, tmp_path / "aios.toml")
    assert load(tmp_path / "aios.toml", env={}) == config
    assert (tmp_path / "aios.toml").stat().st_mode & 0o077 == 0


def test_a_worker_that_cannot_start_says_why_in_one_sentence(machine: LocalFleet) -> None:
    config = msgspec.structs.replace(machine.config, models={"m": ModelConfig(api_key_env="NO_SUCH_KEY")})
    broken = LocalFleet(config, [WorkerSpec("broken", "llm")], embedded_redis=False)
    with pytest.raises(ConfigError, match="NO_SUCH_KEY") as error:
        broken.start()
    assert "\n" not in str(error.value)
    assert not broken.dir.exists()


def test_a_worker_whose_owner_is_killed_has_its_whole_grace(machine: LocalFleet) -> None:
    grace_s = machine.config.fleet.shutdown_grace + BEYOND_S
    with LocalFleet(machine.config, embedded_redis=False) as another:
        assert another._launch is not None
        worker = another._launch.worker(WorkerSpec("graced", "llm"))
        another.members.append(worker)
        argv = worker.process.args
        assert isinstance(argv, list)
        assert argv[argv.index(str(os.getpid())) + 2] == str(grace_s)  # what its watcher is told
