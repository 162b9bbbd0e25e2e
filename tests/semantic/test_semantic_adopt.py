"""What is known of a cache as a whole: a calibration that was adopted, and records in general."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from redis_tiered import LLMCache, SemanticPolicy, Tiers
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.neighbourhood import model_id
from redis_tiered.llm_cache.semantic.records import Records
from redis_tiered.llm_cache.semantic.tools.calibration import Calibration
from tests.semantic.toy import Toy, ask, asked, taught
from tests.servers import RedisServer
from tests.waiting import wait_until

Urls = tuple[str, "str | None"]

_HEAD = shipped_head("all-MiniLM-L6-v2")
assert _HEAD is not None
CALIBRATION = Calibration(
    model="all-MiniLM-L6-v2",
    head=_HEAD,
    theta=1.0,
    target_error=0.01,
    metric="requests",
    confidence=0.95,
    guard="default",
    source="log",
    trained_on=500,
    tested_on=500,
    independent=500.0,
    hit_rate=0.4,
    hit_rate_filled=0.5,
    wrong=1,
    expected=1.2,
    wrong_rate=0.002,
    upper=0.009,
    interval=(0.0001, 0.011),
    unseen={"requests": 100, "hits": 40, "wrong": 0},
    curve=(),
    warnings=(),
    created="2026-01-01T00:00:00+00:00",
)


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


def cache_of(tiers: Tiers, toy: Toy) -> LLMCache:
    policy = SemanticPolicy(toy, warmup=0, audit_rate=0.0, engine="local")
    return LLMCache(tiers, jitter=0.0, semantic=policy)


def test_an_adopted_calibration_is_in_force_here_and_elsewhere(urls: Urls) -> None:
    with Tiers(*urls) as mine, Tiers(*urls) as theirs:
        one, two = cache_of(mine, Toy()), cache_of(theirs, Toy())
        taught(one)
        assert two.lookup(asked("topic1: said otherwise")).tier == "semantic"
        one.adopt(CALIBRATION)
        assert one.lookup(asked("topic2: said otherwise")) is None
        assert one.semantic_report()["all-MiniLM-L6-v2"]["calibrated"]

        def told() -> bool:
            two.lookup(asked("topic4: anything"))
            return bool(two.semantic_report()["all-MiniLM-L6-v2"]["calibrated"])

        wait_until(told)
        assert two.lookup(asked("topic3: said otherwise")) is None
        two.adopt(replace(CALIBRATION, theta=0.5))
        assert ask(two, "topic5: said otherwise", "x").tier == "semantic"


def test_a_calibration_outlives_the_process_and_a_flushed_redis(
    valkey: RedisServer, sqlite_url: str
) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        cache = cache_of(tiers, Toy())
        taught(cache)
        cache.adopt(CALIBRATION)
    valkey.restart()
    with Tiers(valkey.url, sqlite_url) as tiers:
        cache = cache_of(tiers, Toy())
        assert cache.lookup(asked("topic2: said otherwise")) is None
        assert cache.semantic_report()["all-MiniLM-L6-v2"]["calibrated"]


def test_what_was_learnt_under_a_calibration_outlives_the_process(
    valkey: RedisServer, sqlite_url: str
) -> None:
    with Tiers(valkey.url, sqlite_url) as tiers:
        cache = cache_of(tiers, Toy())
        taught(cache)
        cache.adopt(replace(CALIBRATION, theta=0.5))
        cache.lookup(asked("topic2: said otherwise"))
        before = cache.semantic_report()["all-MiniLM-L6-v2"]
    with Tiers(valkey.url, sqlite_url) as tiers:
        cache = cache_of(tiers, Toy())
        cache.lookup(asked("topic3: said otherwise"))
        after = cache.semantic_report()["all-MiniLM-L6-v2"]
    assert after["calibrated"]
    assert after["lookups"] == before["lookups"] + 1


def test_a_calibration_of_another_model_is_refused(tiers: Tiers) -> None:
    cache = cache_of(tiers, Toy())
    with pytest.raises(InvalidInput, match="text-embedding-3-small"):
        cache.adopt(replace(CALIBRATION, model="text-embedding-3-small"))


def test_a_policy_brings_its_own_calibration_which_counts_more(tiers: Tiers) -> None:
    taught(cache_of(tiers, Toy()))
    policy = SemanticPolicy(
        Toy(), warmup=0, audit_rate=0.0, engine="local", calibration=CALIBRATION
    )
    strict = LLMCache(tiers, semantic=policy)
    assert strict.lookup(asked("topic2: said otherwise")) is None
    cache_of(tiers, Toy()).adopt(replace(CALIBRATION, theta=0.5))
    assert strict.lookup(asked("topic3: said otherwise")) is None


def test_a_record_that_cannot_be_read_changes_nothing(tiers: Tiers) -> None:
    toy = Toy()
    identity = model_id(SemanticPolicy(toy).embedder().model)
    records = Records(tiers, tiers.keys.llm("default"))
    for name in (f"calibration:{identity}", f"learnt:{identity}"):
        tiers.run(records.save(name, b"\xff not json"))
    cache = cache_of(tiers, toy)
    taught(cache)
    assert cache.lookup(asked("topic2: said otherwise")).tier == "semantic"


def test_records_are_kept_and_told(tiers: Tiers) -> None:
    records = Records(tiers, tiers.keys.llm("default"))
    assert tiers.run(records.load("a")) is None
    for value in (b"one", b"two"):
        tiers.run(records.save("a", value))
        assert tiers.run(records.load("a")) == value
    other = Records(tiers.tenant("other"), tiers.tenant("other").keys.llm("default"))
    assert tiers.run(other.load("a")) is None
    assert tiers.run(Records(tiers, tiers.keys.llm("b")).load("a")) is None
