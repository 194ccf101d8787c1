"""``aios.toml`` and the environment: what can be set, how it is read, and what cannot be."""

from aios_dist.config.bounds import FILES_BESIDE_CALLS, FOREVER, MOST, NAME, RESERVED_LANES
from aios_dist.config.checks import check_lane, check_limits, check_tenant, odd_option
from aios_dist.config.declared import Kind, Setting, says, settings_of
from aios_dist.config.faults import fault, fault_of
from aios_dist.config.reading import find_file, load, parse, read_toml
from aios_dist.config.tables import (
    DEFAULT_POOLS,
    DEFAULT_REDIS_URL,
    TABLES,
    Config,
    FleetConfig,
    LaneConfig,
    ModelConfig,
    PoolConfig,
    PromptsConfig,
    TenantConfig,
)
from aios_dist.config.words import as_written, nearest

__all__ = [
    "DEFAULT_POOLS",
    "DEFAULT_REDIS_URL",
    "FILES_BESIDE_CALLS",
    "FOREVER",
    "MOST",
    "NAME",
    "RESERVED_LANES",
    "TABLES",
    "Config",
    "FleetConfig",
    "Kind",
    "LaneConfig",
    "ModelConfig",
    "PoolConfig",
    "PromptsConfig",
    "Setting",
    "TenantConfig",
    "as_written",
    "check_lane",
    "check_limits",
    "check_tenant",
    "fault",
    "fault_of",
    "find_file",
    "load",
    "nearest",
    "odd_option",
    "parse",
    "read_toml",
    "says",
    "settings_of",
]
