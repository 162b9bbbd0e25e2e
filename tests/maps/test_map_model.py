"""A map is a dict: a machine looks for a difference, over two `Tiers` on real servers."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import ClassVar

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from redis_tiered import Tiers
from redis_tiered.maps.item import stored_name
from tests.servers import RedisServer, redis_options
from tests.waiting import wait_until

WHO = st.integers(0, 1)
NAMES = st.sampled_from(
    ["a", "b", "a:b", "\0", "é", "n" * 1000, "n" * 1001, "n" * 1500 + "x", "n" * 1500 + "y"]
)
VALUES = st.sampled_from([b"", b"1", b"2", b"x" * 300])
PREFIXES = st.sampled_from(["", "a", "n", "n" * 1500, "é", "zz"])
_tenants = itertools.count()


class Model(RuleBasedStateMachine):
    """Two processes; without memory, what one does the other reads at once."""

    made: ClassVar[list[Tiers]]
    client: ClassVar[redis.Redis]

    def __init__(self) -> None:
        super().__init__()
        self.tenant = f"t{next(_tenants)}"
        self.maps = [
            tiers.tenant(self.tenant).map("m", compress_from=100 if i else None)
            for i, tiers in enumerate(self.made)
        ]
        self.expected: dict[str, bytes] = {}

    @rule(who=WHO, name=NAMES, value=VALUES)
    def put(self, who: int, name: str, value: bytes) -> None:
        self.maps[who].put(name, value)
        self.expected[name] = value
        assert self.maps[who].get(name) == value

    @rule(who=WHO, put=st.dictionaries(NAMES, VALUES), remove=st.lists(NAMES))
    def write(self, who: int, put: dict[str, bytes], remove: list[str]) -> None:
        remove = [name for name in remove if name not in put]
        found = self.maps[who].write(put, remove)
        assert found == len(set(remove) & set(self.expected))
        for name in remove:
            self.expected.pop(name, None)
        self.expected |= put

    @rule(who=WHO, name=NAMES)
    def delete(self, who: int, name: str) -> None:
        assert self.maps[who].delete(name) == (name in self.expected)
        self.expected.pop(name, None)

    @rule(who=WHO)
    def clear(self, who: int) -> None:
        self.maps[who].clear()
        self.expected.clear()

    @rule(who=WHO, names=st.lists(NAMES, max_size=12))
    def get(self, who: int, names: list[str]) -> None:
        assert self.maps[who].get_many(names) == [self.expected.get(name) for name in names]

    @rule(who=WHO, prefix=PREFIXES, limit=st.integers(1, 5))
    def page(self, who: int, prefix: str, limit: int) -> None:
        found: list[tuple[str, bytes]] = []
        while True:
            page = self.maps[who].page(prefix, after=found[-1][0] if found else None, limit=limit)
            found += page
            if len(page) < limit:
                break
        wanted = {name: v for name, v in self.expected.items() if name.startswith(prefix)}
        assert found == sorted(wanted.items(), key=lambda item: stored_name("name", item[0]))

    @rule()
    @precondition(lambda self: self.made[0].durable is not None)
    def flush(self) -> None:
        self.client.flushall()

    @rule(part=st.integers(0, 3))
    @precondition(lambda self: self.made[0].durable is not None)
    def evict(self, part: int) -> None:
        for key in sorted(self.client.keys(f"*:{self.tenant}:*"))[part::4]:
            self.client.delete(key)

    @rule(who=WHO)
    def forget(self, who: int) -> None:
        self.made[who].memory.empty()


class Remembering(Model):
    """With memory: what the other process did is heard of a little later."""

    @rule(who=WHO, name=NAMES, value=VALUES)
    def put_and_everybody_reads(self, who: int, name: str, value: bytes) -> None:
        self.put(who, name, value)
        for map in self.maps:
            wait_until(lambda map=map: map.get(name) == value)  # type: ignore[misc]

    def get(self, who: int, names: list[str]) -> None:  # type: ignore[override]
        return

    @rule(who=WHO, names=st.lists(NAMES, max_size=12))
    def get_in_time(self, who: int, names: list[str]) -> None:
        wanted = [self.expected.get(name) for name in names]
        wait_until(lambda: self.maps[who].get_many(names) == wanted, 2)


@pytest.mark.parametrize("memory", [True, False], ids=["memory", "no-memory"])
@pytest.mark.parametrize("durable", [True, False], ids=["durable", "no-durable"])
def test_a_map_is_a_dict(valkey: RedisServer, tmp_path: Path, durable: bool, memory: bool) -> None:
    url = f"sqlite:///{tmp_path / 'durable.db'}" if durable else None
    options = {} if memory else {"l1_max_bytes": 0}
    with (
        Tiers(valkey.url, url, **options) as one,
        Tiers(valkey.url, url, **options) as two,
        contextlib.closing(redis.Redis.from_url(valkey.url, **redis_options())) as client,
    ):

        class Placed(Remembering if memory else Model):  # type: ignore[misc]
            pass

        Placed.made, Placed.client = [one, two], client
        run_state_machine_as_test(
            Placed,
            settings=settings(
                max_examples=25,
                stateful_step_count=25,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
