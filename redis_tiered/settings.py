"""The settings of one `Tiers`, checked once and frozen; and their names in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis_tiered.endpoint import Endpoint
from redis_tiered.errors import ConfigurationError

__all__ = ["ENVIRONMENT", "Settings", "from_environment"]

# Variable -> argument of Tiers, and how its text is read.
ENVIRONMENT: Mapping[str, tuple[str, type]] = {
    "REDIS_TIERED_REDIS_URL": ("redis", str),
    "REDIS_TIERED_DURABLE_URL": ("durable", str),
    "REDIS_TIERED_NAMESPACE": ("namespace", str),
    "REDIS_TIERED_TENANT": ("tenant", str),
    "REDIS_TIERED_L1_MAX_BYTES": ("l1_max_bytes", int),
    "REDIS_TIERED_L1_TTL": ("l1_ttl", float),
    "REDIS_TIERED_INDEX_MAX_BYTES": ("index_max_bytes", int),
    "REDIS_TIERED_REDIS_TIMEOUT": ("redis_timeout", float),
    "REDIS_TIERED_DURABLE_TIMEOUT": ("durable_timeout", float),
    "REDIS_TIERED_MAX_CONNECTIONS": ("max_connections", int),
}


@dataclass(frozen=True)
class Settings:
    """How one set of tiers behaves.

    Attributes:
        endpoint: where Redis is.
        l1_max_bytes: bound on this process's memory tier; 0 switches it off.
        l1_ttl: seconds after which L1 asks Redis again, invalidated or not.
        index_max_bytes: bound on this process's indexes of vectors, all collections together; the
            one that was used least lately is dropped, and loaded again when it is wanted.
        redis_timeout: seconds for a connect, and for a request with its reply.
        durable_timeout: seconds for a lock, a statement, a pooled connection.
        max_connections: per Redis server, for threads; further callers wait for a free one.
    """

    endpoint: Endpoint
    l1_max_bytes: int = 64 * 1024 * 1024
    l1_ttl: float = 60.0
    index_max_bytes: int = 2 * 1024 * 1024 * 1024
    redis_timeout: float = 0.5
    durable_timeout: float = 2.0
    max_connections: int = 16

    def __post_init__(self) -> None:
        _integer("l1_max_bytes", self.l1_max_bytes, 0, 1 << 40)
        _number("l1_ttl", self.l1_ttl, 86_400)
        _integer("index_max_bytes", self.index_max_bytes, 0, 1 << 44)
        _number("redis_timeout", self.redis_timeout, 60)
        _number("durable_timeout", self.durable_timeout, 300)
        _integer("max_connections", self.max_connections, 1, 10_000)


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `Tiers` that the environment gives.

    Raises:
        ConfigurationError: a number does not parse; the variable is named, its text is not.
    """
    arguments: dict[str, Any] = {}
    for variable, (argument, kind) in ENVIRONMENT.items():
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            arguments[argument] = kind(text)
        except ValueError:
            raise ConfigurationError(f"{variable} must be a number ({kind.__name__})") from None
    return arguments


def _integer(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ConfigurationError(f"{name} must be an int, got {type(value).__name__}")
    if not least <= value <= most:
        raise ConfigurationError(f"{name} must be from {least} to {most}, got {value}")


def _number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigurationError(f"{name} must be a number of seconds, got {type(value).__name__}")
    if not 0 < value <= most:
        raise ConfigurationError(
            f"{name} must be more than 0 and at most {most} seconds, got {value}"
        )
