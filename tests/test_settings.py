"""Settings: types, ranges, and their names in the environment."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.endpoint import Endpoint
from redis_tiered.errors import ConfigurationError
from redis_tiered.settings import ENVIRONMENT, Settings, from_environment

HERE = Endpoint.of("redis://localhost")
RANGES = {
    "l1_max_bytes": (0, 1 << 40),
    "l1_ttl": (1e-9, 86_400),
    "redis_timeout": (1e-9, 60),
    "durable_timeout": (1e-9, 300),
    "max_connections": (1, 10_000),
}
INTEGERS = {"l1_max_bytes", "max_connections"}


@pytest.mark.parametrize("name", RANGES)
def test_the_ends_of_each_range_are_accepted(name: str) -> None:
    for value in RANGES[name]:
        assert getattr(Settings(HERE, **{name: value}), name) == value


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", [None, "1", True, 1j, [], math.nan, math.inf, -math.inf, -1])
def test_a_wrong_type_or_value_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings(HERE, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RANGES)
def test_beyond_the_ends_is_refused(name: str) -> None:
    least, most = RANGES[name]
    below = least - 1 if name in INTEGERS else 0.0
    for value in (below, most + 1, 10**400):
        with pytest.raises(ConfigurationError, match=name):
            Settings(HERE, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(INTEGERS))
def test_a_count_is_no_fraction(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        Settings(HERE, **{name: 10.0})  # type: ignore[arg-type]


def test_frozen_comparable_and_picklable() -> None:
    settings = Settings(HERE, l1_ttl=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.l1_ttl = 6  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(settings)) == settings == Settings(HERE, l1_ttl=5)


def test_every_setting_has_a_variable() -> None:
    arguments = {argument for argument, _ in ENVIRONMENT.values()}
    fields = set(Settings.__dataclass_fields__) - {"endpoint"}
    assert arguments == fields | {"redis", "durable", "namespace", "tenant"}
    for variable, (argument, _) in ENVIRONMENT.items():
        assert variable.startswith("REDIS_TIERED_")
        assert argument.upper() in variable.replace("_URL", "")


def test_the_environment_is_read_by_type_and_blanks_are_unset() -> None:
    assert from_environment({}) == {}
    assert from_environment(
        {
            "REDIS_TIERED_REDIS_URL": " redis://h ",
            "REDIS_TIERED_DURABLE_URL": "",
            "REDIS_TIERED_TENANT": "  ",
            "REDIS_TIERED_L1_MAX_BYTES": "10",
            "REDIS_TIERED_L1_TTL": "1.5",
            "SOMETHING_ELSE": "x",
        }
    ) == {"redis": "redis://h", "l1_max_bytes": 10, "l1_ttl": 1.5}


@given(st.text())
def test_a_number_that_does_not_parse_names_its_variable_and_not_its_text(text: str) -> None:
    told = ""
    try:
        read = from_environment({"REDIS_TIERED_MAX_CONNECTIONS": text})
    except ConfigurationError as error:
        told, read = str(error), {}
    assert not read or isinstance(read["max_connections"], int)
    if told:
        assert "REDIS_TIERED_MAX_CONNECTIONS" in told
        assert len(text.strip()) < 4 or text.strip() not in told
