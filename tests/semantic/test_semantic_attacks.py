"""Who wants a wrong answer served, or an error: poisoned scopes, colliding prompts, bytes and callables
that cannot be trusted."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redis_tiered import LLMCache, SemanticPolicy, Tiers, cache_control
from redis_tiered.errors import Uncacheable
from redis_tiered.llm_cache.fingerprint import Request, fingerprint
from redis_tiered.llm_cache.semantic import answers, semantic
from redis_tiered.llm_cache.semantic.cacheable import Asked, Verdict
from redis_tiered.llm_cache.semantic.normal import normal
from tests.semantic.toy import Toy, ask, asked, taught
from tests.servers import RedisServer
from tests.waiting import wait_until


@pytest.fixture
def tiers(valkey: RedisServer) -> Iterator[Tiers]:
    with Tiers(valkey.url) as tiers:
        yield tiers


@pytest.fixture
def client(valkey: RedisServer) -> Iterator[redis.Redis]:
    with contextlib.closing(valkey.client()) as client:
        yield client


@pytest.fixture
def toy() -> Toy:
    return Toy()


def allow(asked: Asked) -> Verdict:
    return Verdict(True, "", None)


def cache_of(tiers: Tiers, toy: Any, *, name: str = "default", **options: Any) -> LLMCache:
    chosen = {"warmup": 0, "audit_rate": 0.0, "engine": "local"} | options
    return LLMCache(
        tiers, name=name, jitter=0.0, single_flight=0, semantic=SemanticPolicy(toy, **chosen)
    )


def served(cache: LLMCache, prompt: str) -> bytes | None:
    found = cache.lookup(asked(prompt))
    return None if found is None else found.payload


# Poison.


def test_a_tenant_that_fills_a_scope_harms_itself_alone(
    tiers: Tiers, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic, "_TRIM_EVERY", 20)
    acme = cache_of(tiers, toy, max_entries=40)
    evil = cache_of(tiers.tenant("evil"), toy, max_entries=40)
    taught(acme, topics=5)
    for number in range(200):
        evil.update(asked(f"topic1: wording {number:x} zz"), b"buy here")
    [place] = evil._semantic._places.values()  # type: ignore[union-attr]
    wait_until(lambda: tiers.run(place.index.count()) <= 40 + 20, 5, "the oldest to be trimmed")
    for topic in range(5):
        assert served(acme, f"topic{topic}: as nobody said it") == f"A{topic}".encode()
    # The oldest go first, and their exact answers stay.
    near = evil.explain(asked("topic1: what is kept")).neighbours
    kept = [int(each.prompt.split()[2], 16) for each in near]
    assert len(kept) == 10
    assert min(kept) >= 200 - 60
    assert served(evil, "topic1: wording 0 zz") == b"buy here"


def test_one_user_s_poison_is_outvoted_or_withheld(tiers: Tiers, toy: Toy) -> None:
    """Of a topic with two answers neither is served to other words."""
    cache = cache_of(tiers, toy)
    taught(cache, topics=5)
    for wording in "pqrstuvw":
        cache.update(asked(f"topic1: wording {wording}"), b"buy here")
    assert served(cache, "topic1: put otherwise") in (None, b"buy here", b"A1")
    assert served(cache, "topic2: put otherwise") == b"A2"
    found = cache.lookup(asked("topic2: put otherwise"))
    assert found is not None
    assert found.served is not None
    cache.feedback(found.served, correct=False)
    assert cache.stats().semantic["feedback.wrong"] == 1


# Prompts crafted to collide.

CRAFTED = {
    "full-width digits": (
        "fee: it costs 100 euros",
        "fee: it costs \uff11\uff10\uff10\uff10 euros",
    ),
    "a hidden digit": ("fee: it costs 100 euros", "fee: it costs 100\u200b0 euros"),
    "another script's digits": (
        "fee: it costs 100 euros",
        "fee: it costs \u0661\u0660\u0660\u0660 euros",
    ),
    "a superscript": ("fee: it costs 100 euros", "fee: it costs 100² euros"),
    "a hidden not": ("fee: it is refunded", "fee: it is n\u200bot refunded"),
    "soft hyphens": ("fee: it is refunded", "fee: it is n\u00ado\u00adt refunded"),
    "a homoglyph": ("fee: it is refunded", "fee: it is n\u043et refunded"),
    "two homoglyphs": ("fee: it is refunded", "fee: it is \u0578\u043et refunded"),
    "full-width letters": ("fee: it is refunded", "fee: it is \uff4e\uff4f\uff54 refunded"),
    "mathematical letters": (
        "fee: it is refunded",
        "fee: it is \U0001d427\U0001d428\U0001d42d refunded",
    ),
    "right to left": ("fee: it is refunded", "fee: it is \u200fnot\u200f refunded"),
    "an embedding": ("fee: it is refunded", "fee: it is \u202anot\u202c refunded"),
    "tags": ("fee: it is refunded", "fee: it is refunded\U000e006e\U000e006f\U000e0074"),
    "another quote": ("fee: the code is 'abc'", "fee: the code is 'abd'"),
    "a no-break space": ("fee: it is refunded", "fee:\u00a0it\u00a0is\u00a0not\u00a0refunded"),
    "upper case": ("fee: it is refunded", "fee: IT IS NOT REFUNDED"),
}


@pytest.mark.parametrize("pair", CRAFTED.values(), ids=CRAFTED)
def test_the_guard_sees_what_is_hidden(tiers: Tiers, toy: Toy, pair: tuple[str, str]) -> None:
    stored, crafted = pair
    cache = cache_of(tiers, toy, rules=allow)
    taught(cache, topics=5)
    for ending in ("", " as they say", " as it is said"):
        cache.update(asked(stored + ending), b"the answer")
    assert served(cache, stored + " as one may say") == b"the answer"
    for attempt in (crafted, crafted + " as one may say", crafted.swapcase()):
        assert served(cache, attempt) is None, attempt
    assert normal(crafted) != normal(stored)


@pytest.mark.parametrize("change", ["model", "system", "context of the same length"])
def test_no_prompt_reaches_another_scope(tiers: Tiers, toy: Toy, change: str) -> None:
    cache = cache_of(tiers, toy, guard="off", rules=allow)
    taught(cache, topics=5)
    others = {
        "model": ("n", ""),
        "system": ("m", "be brief"),
        "context of the same length": ("", "m"),
    }
    model, system = others[change]
    mine = fingerprint(asked("topic1: wording a"))
    crafted = [
        "topic1: wording a",
        "TOPIC1: wording a?",
        "topic1: anything",
        mine.digest,
        mine.scope,
        f"n{mine.scope}:topic1: wording a",
        f"/n{mine.scope}:topic1: wording a",
        f"redis-tiered/1/n{mine.scope}:{normal('topic1: wording a')}",
        f"redis-tiered:default:llm:default:{mine.digest}",
        "ptopic1: wording a",
    ]
    for prompt in crafted:
        assert cache.lookup(asked(prompt, model=model, system=system)) is None, prompt


def test_a_prompt_that_looks_like_something_else_is_a_prompt(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy, rules=allow)
    taught(cache, topics=3)
    messages = [{"type": "human", "content": "topic1: wording a"}]
    mark = fingerprint(asked("topic1: wording a"))
    look_alikes = [
        json.dumps(messages),
        json.dumps({"lc": 1, "kwargs": {"content": "topic1: wording a"}}),
        mark.digest,
        f"{{{mark.digest}}}",
        f"n{mark.scope}:topic1",
        "*",
        "\\",
        "%00",
        "a\0b",
        "\0",
        "x1:\r\nHSET x y",
        "' OR 1=1 --",
        "{topic1}",
        "@field:[0 1]",
    ]
    for number, prompt in enumerate(look_alikes):
        assert served(cache, prompt) is None, prompt
        cache.update(asked(prompt), f"own {number}".encode())
    for number, prompt in enumerate(look_alikes):
        assert served(cache, prompt) == f"own {number}".encode(), prompt
    assert served(cache, "topic1: wording a") == b"A1"


LONG = {
    "letters": "x" * 100_000,
    "words": "word " * 20_000,
    "marks": "a" + "\u0301" * 40_000,
    "hidden": "a\u200b" * 50_000,
    "ends": "a" + "?!." * 33_000,
    "quotes": "'\"" * 50_000,
    "digits": "1 " * 50_000,
    "an address": "a@" * 50_000,
    "a number": "4" * 100_000,
    "Is": "I " * 50_000,
    "ligatures": "\ufdfa" * 10_000,
}


@pytest.mark.parametrize("prompt", LONG.values(), ids=LONG)
def test_a_long_prompt_costs_little(tiers: Tiers, toy: Toy, prompt: str) -> None:
    cache = cache_of(tiers, toy, rules=allow)
    taught(cache, topics=2)
    strict = cache_of(tiers, toy, name="rules")
    begin = time.process_time()
    assert served(cache, prompt) is None
    cache.update(asked(prompt), b"own")
    assert served(cache, prompt) == b"own"
    assert served(cache, prompt + "x") in (None, b"own")
    assert served(strict, prompt) is None
    assert time.process_time() - begin < 3.0


def test_a_lone_surrogate_is_refused_as_ever(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    for action in (
        lambda: cache.lookup(asked("a \ud800")),
        lambda: cache.update(asked("a \ud800"), b"x"),
        lambda: cache.delete(asked("a \ud800")),
        lambda: cache.explain(asked("a \ud800")),
        lambda: cache.explain("a \ud800"),
    ):
        with pytest.raises(Uncacheable):
            action()
    assert toy.texts == []


# Bytes that are not what they should be.


def test_a_calibration_that_cannot_be_read_or_is_another_model_s(
    valkey: RedisServer, client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    calibration = _calibration(model="another")
    bad: list[bytes] = [
        b"garbage",
        b"{}",
        b"[1]",
        b"null",
        b'{"version": 99}',
        b"\xff\xfe",
        orjson.dumps(calibration.as_dict()),
        orjson.dumps({**calibration.as_dict(), "model": "all-MiniLM-L6-v2", "theta": "x"}),
        orjson.dumps({**calibration.as_dict(), "head": {"weights": "all"}}),
    ]
    for number, value in enumerate(bad):
        with Tiers(valkey.url, tenant=f"t{number}") as tiers:
            toy = Toy()
            cache = cache_of(tiers, toy)
            taught(cache, topics=4)
            cache.lookup(asked("topic1: first"))
            [place] = cache._semantic._places.values()  # type: ignore[union-attr]
            client.set(tiers.keys.llm("default").record(place._name), value)
            client.set(tiers.keys.llm("default").record(place._state_name), value)
            fresh = cache_of(tiers, toy)
            assert served(fresh, "topic1: as nobody said it") == b"A1", value
            report = fresh.semantic_report()["all-MiniLM-L6-v2"]
            assert not report["calibrated"]
    assert "s3cret" not in caplog.text


def _calibration(model: str) -> Any:
    from redis_tiered.llm_cache.semantic.head import shipped_head
    from redis_tiered.llm_cache.semantic.tools.calibration import Calibration, Point

    head = shipped_head("all-MiniLM-L6-v2")
    assert head is not None
    return Calibration(
        model=model,
        head=head,
        theta=0.0,
        target_error=0.01,
        metric="requests",
        confidence=0.95,
        guard="default",
        source="log",
        expected=0.0,
        trained_on=1,
        tested_on=1,
        independent=1.0,
        hit_rate=0.5,
        hit_rate_filled=0.5,
        wrong=0,
        wrong_rate=0.0,
        upper=0.01,
        interval=(0.0, 0.01),
        unseen={},
        curve=(Point(0.5, 0.5, 0.0, 0.0, 0.01),),
        warnings=(),
        created="2026-01-01T00:00:00Z",
    )


def test_a_policy_s_calibration_is_for_its_model_only(
    tiers: Tiers, toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    cache = cache_of(tiers, toy, calibration=_calibration("all-MiniLM-L6-v2"))
    taught(cache, topics=4)
    cache.lookup(asked("topic1: first"))
    toy.model = "another"
    cache.lookup(asked("topic1: second"))
    report = cache.semantic_report()
    assert report["all-MiniLM-L6-v2"]["calibrated"]
    assert not report["another"]["calibrated"]
    assert "says nothing about" in caplog.text


def test_what_was_learnt_survives_under_an_adopted_calibration(valkey: RedisServer) -> None:
    seen = []
    for number in range(2):
        with Tiers(valkey.url) as tiers:
            cache = cache_of(tiers, Toy(), mode="shadow")
            if number == 0:
                cache.adopt(_calibration("all-MiniLM-L6-v2"))
            taught(cache, topics=3)
            for wording in "xyz":
                ask(cache, f"topic1: {wording} {number}", "A1")
            assert cache.settle()
            seen.append(cache.semantic_report()["all-MiniLM-L6-v2"])
    assert seen[1]["calibrated"]
    assert seen[1]["lookups"] > seen[0]["lookups"]


def test_nonsense_in_the_index(
    valkey: RedisServer, tiers: Tiers, toy: Toy, client: redis.Redis
) -> None:
    """What an entry says of itself, and its vector, overwritten."""
    cache = cache_of(tiers, toy)
    taught(cache, topics=3)
    hashes = [key for key in client.scan_iter("*semantic*") if client.type(key) == b"hash"]
    for junk in (b"", b"junk", b"\0" * 8, b"\0" * 200, b"\xff" * 5000):
        for key in hashes:
            for field in client.hkeys(key)[:2]:
                if len(field) == 32:  # an entry's
                    client.hset(key, field, junk)
        fresh = cache_of(tiers.tenant("default"), Toy())
        for topic in range(3):
            assert served(fresh, f"topic{topic}: {len(junk)} as it is") in (
                None,
                f"A{topic}".encode(),
            )
            assert served(fresh, f"topic{topic}: wording a") == f"A{topic}".encode()
    with Tiers(valkey.url) as others:  # its index is built of what is there now
        fresh = cache_of(others, Toy())
        for topic in range(3):
            assert served(fresh, f"topic{topic}: as it is") in (None, f"A{topic}".encode())


# Callables of the user's.

SECRET = "s3cret-of-the-user"


def fails(*_: object) -> Any:
    raise RuntimeError(SECRET)


async def awaitable(*_: object) -> Any:
    return None


NONSENSE: dict[str, Callable[..., Any]] = {
    "raises": fails,
    "none": lambda *_: None,
    "a number": lambda *_: 1.5,
    "an object": lambda *_: object(),
    "empty": lambda *_: "",
    "a list": lambda *_: [],
    "exits": lambda *_: (_ for _ in ()).throw(StopIteration),
    "awaitable": awaitable,
}


@pytest.mark.parametrize("name", NONSENSE)
def test_rules_that_fail_exclude(tiers: Tiers, toy: Toy, name: str) -> None:
    cache = cache_of(tiers, toy, rules=NONSENSE[name])
    for wording in "abc":
        assert ask(cache, f"topic1: {wording}", "A").tier == "model"
        assert served(cache, f"topic1: {wording}") == b"A"
    assert toy.texts == []
    assert cache.stats().semantic["skip.rules_failed"] == 3


@pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "1", True, 1e30], ids=repr)
def test_rules_whose_ttl_is_nonsense_exclude(tiers: Tiers, toy: Toy, ttl: Any) -> None:
    cache = cache_of(tiers, toy, rules=lambda asked: Verdict(True, "", ttl))
    assert ask(cache, "topic1: a", "A").tier == "model"
    assert served(cache, "topic1: a") == b"A"
    assert cache.stats().semantic["skip.rules_failed"] == 1


@pytest.mark.parametrize("name", [name for name in NONSENSE if name != "none"])
def test_a_guard_that_fails_refuses(tiers: Tiers, toy: Toy, name: str) -> None:
    cache = cache_of(tiers, toy, guard=NONSENSE[name])
    taught(cache, topics=4)
    assert served(cache, "topic1: as nobody said it") is None
    assert cache.stats().semantic["veto.guard_failed"] >= 1


@pytest.mark.parametrize("name", [name for name in NONSENSE if name != "empty"])
def test_an_answer_id_that_fails_names_nothing(tiers: Tiers, toy: Toy, name: str) -> None:
    """Answers without a name are not the same for that."""
    cache = cache_of(tiers, toy, answer_id=NONSENSE[name], mode="shadow")
    for topic in range(3):
        cache.update(asked(f"topic{topic}: a"), f"answer number {topic}".encode())
    near = cache.explain(asked("topic1: b")).neighbours
    assert len({each.answer for each in near}) == 3
    assert cache.stats().semantic["answer_id.failed"] == 3


@pytest.mark.parametrize("name", NONSENSE)
def test_a_judge_that_fails_says_nothing(
    tiers: Tiers, toy: Toy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SimilarAnswers", SimpleNamespace(of_model=lambda _: _unsure))
    cache = cache_of(tiers, toy, same_answer=NONSENSE[name], mode="shadow")
    cache.update(asked("topic1: a"), b"it opens at nine")
    assert ask(cache, "topic1: b", "from nine o'clock on").tier == "model"
    assert cache.settle()
    stats = cache.stats().semantic
    assert stats.get("judge.failed", 0) + stats.get("judge.asked", 0) == 1
    assert served(cache, "topic1: b") == b"from nine o'clock on"


def _unsure(one: str, other: str, cosine: float) -> bool | None:
    return None


def test_a_judge_that_hangs_holds_up_nobody(
    tiers: Tiers, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SimilarAnswers", SimpleNamespace(of_model=lambda _: _unsure))
    monkeypatch.setattr(answers, "_LONGEST", 0.1)
    monkeypatch.setattr(semantic, "_COMPARING", 5)
    end = threading.Event()
    cache = cache_of(
        tiers, toy, same_answer=lambda one, other: end.wait(20), mode="shadow", guard="off"
    )
    begin = time.monotonic()
    for number in range(20):
        ask(cache, f"topic1: number {'x' * number}", f"reply of {'y' * number}")
    assert time.monotonic() - begin < 3
    assert cache.settle(15)
    stats = cache.stats().semantic
    assert stats.get("compare.dropped"), stats
    assert stats["judge.failed"] >= 1
    end.set()


async def test_a_judge_that_is_awaited_in_the_background(
    valkey: RedisServer, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SimilarAnswers", SimpleNamespace(of_model=lambda _: _unsure))

    async def judge(one: str, other: str) -> bool:
        await asyncio.sleep(0)
        return True

    async with Tiers(valkey.url) as tiers:
        cache = cache_of(tiers, toy, same_answer=judge, mode="shadow")
        await cache.aupdate(asked("topic1: a"), b"it opens at nine")
        assert await cache.alookup(asked("topic1: b")) is None
        await cache.aupdate(asked("topic1: b"), b"from nine o'clock on")
        assert await asyncio.to_thread(cache.settle)
        found = await cache.alookup(asked("topic1: b"))
        assert found is not None
        assert found.payload == b"it opens at nine"


@pytest.mark.parametrize("change", ["update", "delete", "clear"])
def test_a_verdict_that_comes_late_undoes_nothing(
    valkey: RedisServer,
    sqlite_url: str,
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """The judge thinks for a while; meanwhile its answer was replaced, or deleted."""
    monkeypatch.setattr(answers, "SimilarAnswers", SimpleNamespace(of_model=lambda _: _unsure))
    asked_for, go_on = threading.Event(), threading.Event()

    def judge(one: str, other: str) -> bool:
        asked_for.set()
        return go_on.wait(10)

    for durable in (None, sqlite_url):
        asked_for.clear()
        go_on.clear()
        with Tiers(valkey.url, durable, namespace=f"n{durable is None}") as tiers:
            cache = cache_of(tiers, toy, same_answer=judge, mode="shadow")
            cache.update(asked("topic1: a"), b"it opens at nine")
            ask(cache, "topic1: b", "from nine o'clock on")
            assert asked_for.wait(5)
            with cache_control(semantic=False):
                if change == "update":
                    cache.update(asked("topic1: b"), b"corrected: from ten")
                elif change == "delete":
                    cache.delete(asked("topic1: b"))
                else:
                    cache.clear()
            go_on.set()
            assert cache.settle()
            expected = b"corrected: from ten" if change == "update" else None
            assert served(cache, "topic1: b") == expected
            tiers.memory.empty()
            assert served(cache, "topic1: b") == expected


def test_a_verdict_keeps_the_tags_of_an_answer(
    valkey: RedisServer, sqlite_url: str, toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "SimilarAnswers", SimpleNamespace(of_model=lambda _: _unsure))
    for durable in (None, sqlite_url):
        with Tiers(valkey.url, durable, namespace=f"n{durable is None}") as tiers:
            cache = cache_of(tiers, toy, same_answer=lambda one, other: True, mode="shadow")
            cache.update(asked("topic1: a"), b"it opens at nine")
            with cache_control(tags=["b"]):
                ask(cache, "topic1: b", "from nine o'clock on")
            assert cache.settle()
            assert served(cache, "topic1: b") == b"it opens at nine"
            cache.delete_tag("b")
            assert served(cache, "topic1: b") is None
            assert served(cache, "topic1: a") == b"it opens at nine"


def test_what_is_stored_for_its_own_words_only_serves_no_others(tiers: Tiers, toy: Toy) -> None:
    """Also where it takes the place of an answer that did."""
    cache = LLMCache(
        tiers,
        jitter=0.0,
        single_flight=0,
        semantic=SemanticPolicy(toy, warmup=0, audit_rate=0.0, engine="local"),
        read_answer=lambda payload: None if payload.startswith(b"call:") else payload.decode(),
    )
    taught(cache, topics=4)
    for wording in "abc":
        cache.update(asked(f"topic1: wording {wording}"), b"call: delete_account()")
        with cache_control(semantic=False):
            cache.update(asked(f"topic2: wording {wording}"), b"for me alone")
    for topic in (1, 2):
        assert served(cache, f"topic{topic}: as nobody said it") is None
    assert served(cache, "topic3: as nobody said it") == b"A3"
    assert cache.stats().semantic["not_text"] == 3


def test_nothing_that_is_said_is_told(
    tiers: Tiers, toy: Toy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cache = cache_of(
        tiers, toy, answer_id=fails, guard=fails, same_answer=fails, mode="shadow", rules=allow
    )
    for wording in "abc":
        ask(cache, f"topic1: {SECRET} {wording}", f"{SECRET} {wording}")
    assert cache.settle()
    told = [repr(cache), repr(cache.stats()), repr(cache.stats(total=True)), caplog.text]
    told += [repr(cache._semantic), repr(cache._semantic.policy), repr(cache.semantic_report())]  # type: ignore[union-attr]
    for text in told:
        assert SECRET not in text


def test_what_was_wrong_is_withheld_until_the_model_has_answered(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    taught(cache, topics=4)
    question = asked("topic1: as nobody said it")
    found = cache.lookup(question)
    assert found is not None
    assert found.served is not None
    cache.feedback(found.served, correct=False)
    assert cache.lookup(question) is None
    told = cache.explain(question)
    assert told.outcome == "withheld"
    assert "said to be wrong" in str(told)
    cache.update(question, b"right")
    assert served(cache, "topic1: as nobody said it") == b"right"
    assert cache.explain(question).outcome == "exact"


# Streams.

STEP = st.tuples(
    st.sampled_from(["ask", "ask", "ask", "ask", "update", "delete", "clear", "wrong"]),
    st.sampled_from(["acme", "evil"]),
    st.sampled_from(["", "be brief"]),
    st.integers(0, 3),
    st.integers(0, 5),
    st.booleans(),
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEP, min_size=20, max_size=60))
def test_no_stream_gets_an_answer_that_is_not_its_own(
    valkey: RedisServer, steps: list[tuple[str, str, str, int, int, bool]]
) -> None:
    """Whatever is served is what some question of this tenant, scope and topic holds now."""
    numbers = itertools.count()
    with (
        contextlib.closing(valkey.client()) as client,
        Tiers(valkey.url) as tiers,
        Tiers(valkey.url, l1_max_bytes=0) as without_memory,
    ):
        client.flushall()
        toy = Toy(16)
        caches = {
            (tenant, other): cache_of((without_memory if other else tiers).tenant(tenant), toy)
            for tenant in ("acme", "evil")
            for other in (False, True)
        }
        live: dict[tuple[str, str, int], dict[str, bytes]] = {}
        for what, tenant, system, topic, wording, other in steps:
            cache = caches[tenant, other and what == "ask"]
            prompt = f"topic{topic}: wording {'abcdef'[wording]}"
            request = Request(b"m", system.encode(), prompt)
            held = live.setdefault((tenant, system, topic), {})
            if what == "clear":
                cache.clear()
                for key in live:
                    if key[0] == tenant:
                        live[key] = {}
                continue
            if what == "delete":
                cache.delete(request)
                held.pop(prompt, None)
                continue
            fresh = f"{tenant} {system} {topic} {next(numbers)}".encode()
            if what == "update":
                cache.update(request, fresh)
                held[prompt] = fresh
                continue
            found = cache.lookup(request)
            if found is None:
                cache.update(request, fresh)
                held[prompt] = fresh
                continue
            assert found.payload in held.values(), (what, prompt, found, live)
            if what == "wrong" and found.served is not None:
                cache.feedback(found.served, correct=False)
