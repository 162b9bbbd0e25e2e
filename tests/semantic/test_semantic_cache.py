"""The cache that answers other wordings, on real servers, with an embedder that a test can foresee."""

from __future__ import annotations

import math
import pickle
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest

from redis_tiered import LLMCache, SemanticPolicy, Tiers, cache_control
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.fingerprint import Request, Traits
from tests.semantic.toy import Toy, ask, asked, taught
from tests.servers import RedisServer

Urls = tuple[str, "str | None"]


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def tiers(valkey: RedisServer, sqlite_url: str) -> Iterator[Tiers]:
    with Tiers(valkey.url, sqlite_url) as tiers:
        yield tiers


@pytest.fixture
def all_tiers(urls: Urls) -> Iterator[Tiers]:
    """For what depends on where things are kept."""
    with Tiers(*urls) as tiers:
        yield tiers


@pytest.fixture
async def atiers(urls: Urls) -> AsyncIterator[Tiers]:
    async with Tiers(*urls) as tiers:
        yield tiers


def policy(toy: Any, **options: Any) -> SemanticPolicy:
    """That serves whatever is sure: no warm-up, no audits."""
    return SemanticPolicy(toy, **{"warmup": 0, "audit_rate": 0.0, "engine": "local"} | options)


def cache_of(tiers: Tiers, toy: Any, *, name: str = "default", **options: Any) -> LLMCache:
    return LLMCache(tiers, name=name, jitter=0.0, semantic=policy(toy, **options))


# What is served.


def test_an_answer_serves_other_words_once_by_meaning_then_as_its_own(
    all_tiers: Tiers, toy: Toy
) -> None:
    cache = cache_of(all_tiers, toy)
    taught(cache)
    question = asked("topic3: yet another wording")
    found = cache.lookup(question)
    assert found is not None
    assert (found.payload, found.tier) == (b"A3", "semantic")
    served = found.served
    assert served is not None
    assert served.prompt.startswith("topic3: wording ")
    assert served.cosine > 0.9
    assert 0.9 <= served.p <= 1.0
    toy.texts.clear()
    again = cache.lookup(question)
    assert again is not None
    assert (again.payload, again.tier in ("redis", "memory")) == (b"A3", True)
    assert again.served is not None
    assert again.served.entry == served.entry
    assert math.isnan(again.served.p)
    assert toy.texts == []
    assert cache.stats().semantic["served"] == 1


async def test_the_same_with_asyncio(atiers: Tiers, toy: Toy) -> None:
    cache = cache_of(atiers, toy)
    for topic in range(12):
        for wording in "abc":
            await cache.aupdate(asked(f"topic{topic}: wording {wording}"), f"A{topic}".encode())
    found = await cache.alookup(asked("topic3: yet another wording"))
    assert found is not None
    assert (found.payload, found.tier) == (b"A3", "semantic")
    again = await cache.alookup(asked("topic3: yet another wording"))
    assert again is not None
    assert again.payload == b"A3"
    assert again.tier in ("redis", "memory")
    assert await cache.alookup(asked("topic77: a new one")) is None


def test_another_process_finds_what_this_one_stored(urls: Urls) -> None:
    with Tiers(*urls) as mine, Tiers(*urls) as theirs:
        one, two = cache_of(mine, Toy()), cache_of(theirs, Toy())
        taught(one)
        assert two.lookup(asked("topic4: said otherwise")).payload == b"A4"
        one.update(asked("fresh: a"), b"F")
        one.update(asked("fresh: b"), b"F")
        assert two.lookup(asked("fresh: c")).payload == b"F"


def test_what_differs_in_case_and_final_punctuation_only_needs_no_embedding(
    all_tiers: Tiers, toy: Toy
) -> None:
    cache = cache_of(all_tiers, toy)
    cache.update(asked("What is the capital of France?"), b"Paris")
    toy.texts.clear()
    for prompt in ("what is  the capital of France", "What is the capital of France?!"):
        found = cache.lookup(asked(prompt))
        assert found is not None, prompt
        assert found.payload == b"Paris"
        assert found.served is not None
    assert toy.texts == []
    assert cache.lookup(asked("What is the capital of France++")) is None


@pytest.mark.parametrize(
    "other",
    [
        {"system": "be brief"},
        {"model": "another"},
    ],
    ids=["system prompt", "model"],
)
def test_only_requests_of_one_scope_are_compared(
    tiers: Tiers, toy: Toy, other: dict[str, str]
) -> None:
    cache = cache_of(tiers, toy)
    taught(cache)
    assert cache.lookup(asked("topic3: yet another wording", **other)) is None
    assert cache.lookup(asked("Topic3: wording a", **other)) is None
    assert cache.stats().semantic["no_neighbour"] == 2


def test_tenants_and_caches_share_nothing(tiers: Tiers, toy: Toy) -> None:
    taught(cache_of(tiers, toy))
    for cache in (cache_of(tiers.tenant("other"), toy), cache_of(tiers, toy, name="other")):
        assert cache.lookup(asked("topic3: yet another wording")) is None


def test_a_request_without_a_text_at_its_end_is_answered_by_itself_only(
    tiers: Tiers, toy: Toy
) -> None:
    cache = cache_of(tiers, toy)
    cache.update(Request(b"m", b"c", None), b"A")
    assert cache.lookup(Request(b"m", b"c", None)).payload == b"A"
    assert cache.lookup(Request(b"m", b"d", None)) is None
    assert toy.texts == []


def test_the_guard_refuses_and_the_next_candidate_is_tried(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    taught(cache)
    cache.update(asked("topic3: yet another wording 12"), b"other")
    found = cache.lookup(asked("topic3: yet another wording 13"))
    stats = cache.stats().semantic
    assert any(reason.startswith("veto.number") for reason in stats), stats
    assert found is None or found.payload == b"A3"


def test_nothing_is_looked_for_that_a_rule_excludes(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    taught(cache)
    toy.texts.clear()
    assert cache.lookup(asked("topic3: my address is jane.doe@example.com, is that right")) is None
    cache.update(asked("topic3: my address is jane.doe@example.com, is that right"), b"yes")
    assert toy.texts == []
    assert [name for name in cache.stats().semantic if name.startswith("skip.personal")]
    hot = Request(b"m", b"", "topic3: a hot one", Traits(temperature=1.5))
    assert cache.lookup(hot) is None
    tools = Request(b"m", b"", "topic3: one with tools", Traits(tools=True))
    assert cache.lookup(tools) is None
    assert toy.texts == []


def test_rules_are_replaceable_and_a_rule_that_fails_excludes(tiers: Tiers, toy: Toy) -> None:
    def broken(asked: object) -> Any:
        raise RuntimeError("secret")

    cache = cache_of(tiers, toy, rules=broken)
    taught(cache, topics=2)
    assert cache.lookup(asked("topic1: otherwise")) is None
    assert cache.stats().semantic == {"skip.rules_failed": 1}


def test_a_call_may_opt_out(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    taught(cache)
    toy.texts.clear()
    with cache_control(semantic=False):
        assert cache.lookup(asked("topic3: yet another wording")) is None
        cache.update(asked("topic3: yet another wording"), b"own")
    assert toy.texts == []
    assert cache.lookup(asked("topic3: yet another wording")).payload == b"own"


# What is learnt.


def test_the_prompt_of_a_miss_is_embedded_once(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    ask(cache, "one: a", "1")
    assert toy.texts == ["one: a"]


def test_an_audit_lets_the_model_answer_and_counts(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy, audit_rate=1.0)
    taught(cache)
    ask(cache, "topic3: an audit", "A3")
    stats = cache.stats().semantic
    assert (stats["audit"], stats["audited.right"]) == (1, 1)
    report = cache.semantic_report()["all-MiniLM-L6-v2"]
    assert (report["audits"], report["served"]) == (1, 0)


def test_shadow_decides_and_never_serves(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy, mode="shadow")
    taught(cache)
    for wording in "xyz":
        assert ask(cache, f"topic3: {wording}", "A3").tier == "model"
    assert cache.settle()
    stats = cache.stats().semantic
    assert stats["shadow"] == 3
    assert stats["audited.right"] == 3
    assert "served" not in stats


def test_off_is_exact_only(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy, mode="off")
    taught(cache, topics=2)
    assert cache.lookup(asked("topic1: otherwise")) is None
    assert cache.lookup(asked("TOPIC1: wording a")) is None
    assert toy.texts == []
    with pytest.raises(InvalidInput, match="no semantic part"):
        cache.explain("x")


def test_feedback_forgets_the_alias_and_the_entry_serves_no_other_words(
    all_tiers: Tiers, toy: Toy
) -> None:
    cache = cache_of(all_tiers, toy)
    taught(cache, wordings=1)
    taught(cache)
    found = cache.lookup(asked("topic3: yet another wording"))
    assert found is not None
    assert found.served is not None
    cache.feedback(found.served, correct=False)
    again = cache.lookup(asked("topic3: yet another wording"))
    assert again is None or again.served.entry != found.served.entry
    own = cache.lookup(asked(found.served.prompt))
    assert own is not None
    assert own.payload == b"A3"


def test_a_judge_is_asked_in_the_background_and_its_verdict_becomes_an_alias(
    all_tiers: Tiers, toy: Toy
) -> None:
    seen: list[tuple[str, str]] = []

    async def judge(one: str, other: str) -> bool:
        seen.append((one, other))
        return True

    cache = cache_of(all_tiers, toy, mode="shadow", same_answer=judge)
    ask(cache, "q: a", "reply: it opens at nine")
    ask(cache, "q: b", "reply: you will find us there in the morning")
    assert cache.settle()
    assert len(seen) == 1
    found = cache.lookup(asked("q: b"))
    assert found is not None
    assert found.payload == b"reply: it opens at nine"
    assert found.served is not None
    stats = cache.stats().semantic
    assert (stats["judge.asked"], stats["united"]) == (1, 1)


def test_names_of_answers_are_the_last_word(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy, answer_id=lambda text: text.partition("|")[0], audit_rate=1.0)
    for topic in range(8):
        for wording in "abc":
            ask(cache, f"topic{topic}: {wording}", f"A{topic}|{wording}")
    found = cache.explain(asked("topic3: d"))
    assert len({near.answer for near in found.neighbours[:3]}) == 1
    assert len({near.answer for near in found.neighbours}) > 1


def test_what_was_learnt_outlives_the_process(urls: Urls, toy: Toy) -> None:
    with Tiers(*urls) as tiers:
        cache = cache_of(tiers, toy, mode="shadow")
        taught(cache)
        for wording in "xyz":
            ask(cache, f"topic3: {wording}", "A3")
        assert cache.settle()
        before = cache.semantic_report()["all-MiniLM-L6-v2"]
    with Tiers(*urls) as tiers:
        cache = cache_of(tiers, toy, mode="shadow")
        cache.lookup(asked("topic9: z"))
        after = cache.semantic_report()["all-MiniLM-L6-v2"]
    assert after["lookups"] == before["lookups"] + 1
    assert after["audits"] == before["audits"]


# Forgetting.


def test_a_deleted_answer_serves_nobody(all_tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(all_tiers, toy)
    taught(cache)
    question = asked("topic3: yet another wording")
    served = cache.lookup(question).served
    cache.delete(asked(served.prompt))
    again = cache.lookup(question)
    assert again is None or again.served.entry != served.entry
    cache.delete(question)
    for wording in "abc":
        cache.delete(asked(f"topic3: wording {wording}"))
    assert cache.lookup(question) is None


def test_clear_forgets_every_wording(all_tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(all_tiers, toy)
    taught(cache)
    assert cache.lookup(asked("topic3: yet another wording")) is not None
    cache.clear()
    for prompt in ("topic3: yet another wording", "topic3: wording a"):
        assert cache.lookup(asked(prompt)) is None, prompt
    ask(cache, "where is it", "new")
    assert cache.lookup(asked("Where is it?")).payload == b"new"


def test_a_deleted_tag_takes_its_wordings_along(all_tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(all_tiers, toy)
    with cache_control(tags=["faq"]):
        taught(cache)
    assert cache.lookup(asked("topic3: yet another wording")) is not None
    assert cache.delete_tag("faq") == 36
    assert cache.lookup(asked("topic3: yet another wording")) is None
    assert cache.lookup(asked("topic4: yet another wording")) is None


def test_an_answer_that_is_stored_anew_is_what_its_aliases_give(all_tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(all_tiers, toy)
    taught(cache)
    question = asked("topic3: yet another wording")
    served = cache.lookup(question).served
    assert cache.lookup(question).payload == b"A3"
    cache.update(asked(served.prompt), b"A3, revised")
    assert cache.lookup(question).payload == b"A3, revised"


# Input.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "brave"}, "mode"),
        ({"max_error": 2}, "max_error"),
        ({"max_error": True}, "max_error"),
        ({"guard": "none"}, "guard"),
        ({"guard": 3}, "guard"),
        ({"same_answer": "x"}, "same_answer"),
        ({"answer_id": 1}, "answer_id"),
        ({"audit_rate": -0.1}, "audit_rate"),
        ({"warmup": -1}, "warmup"),
        ({"floor": "low"}, "floor"),
        ({"k": 0}, "k"),
        ({"rules": 1}, "rules"),
        ({"volatile_ttl": -1}, "volatile_ttl"),
        ({"calibration": {}}, "calibration"),
        ({"engine": "faiss"}, "engine"),
        ({"embed_timeout": 0}, "embed_timeout"),
        ({"max_entries": 0}, "max_entries"),
        ({"seed": -1}, "seed"),
        ({"model": ""}, "model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_policy_names_what_it_cannot_use(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        SemanticPolicy(Toy(), **options)


def test_a_policy_needs_an_embedder_and_a_cache_a_policy(tiers: Tiers) -> None:
    for bad in (None, "text-embedding-3-small", 3, object()):
        with pytest.raises(InvalidInput, match="embeddings"):
            SemanticPolicy(bad)
    with pytest.raises(InvalidInput, match="semantic must be a SemanticPolicy"):
        LLMCache(tiers, semantic=0.9)  # type: ignore[arg-type]


def test_a_function_needs_a_name_for_its_model() -> None:
    def embed(texts: Sequence[str]) -> list[list[float]]:
        return [[1.0]] * len(texts)

    with pytest.raises(InvalidInput, match="model"):
        SemanticPolicy(embed)
    assert SemanticPolicy(embed, model="mine").embedder().model


def test_a_policy_is_a_value(toy: Toy) -> None:
    one = SemanticPolicy(toy, max_error=0.02)
    assert one == SemanticPolicy(toy, max_error=0.02)
    with pytest.raises(AttributeError):
        one.max_error = 0.5  # type: ignore[misc]
    assert "embeddings" not in repr(one)


def test_a_policy_can_be_pickled_if_its_embedder_can() -> None:
    copy = pickle.loads(pickle.dumps(SemanticPolicy(Named(), max_error=0.02)))
    assert copy.max_error == 0.02
    assert copy.embedder().model_name == "named"


class Named:
    model = "named"

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        return [[1.0, 0.0]] * len(texts)


@pytest.mark.parametrize("prompt", ["", " ", "\0", "🦊" * 50, "x" * 100_000, "ك" * 10, "a\nb"])
def test_any_text_can_be_asked(tiers: Tiers, toy: Toy, prompt: str) -> None:
    cache = cache_of(tiers, toy)
    taught(cache, topics=3)
    assert ask(cache, prompt, "own").tier in ("model", "semantic")
    assert cache.lookup(asked(prompt)) is not None


def test_feedback_wants_what_a_hit_gave(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    with pytest.raises(InvalidInput, match="served must be a Served"):
        cache.feedback("x", correct=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="timeout"):
        cache.settle(-1)


# Words.


def test_explain_says_what_would_happen_and_leaves_no_trace(tiers: Tiers, toy: Toy) -> None:
    cache = cache_of(tiers, toy)
    taught(cache)
    cache.update(asked("where is it"), b"here")
    cases = {
        "topic3: wording a": "exact",
        "Where is it?": "wording",
        "topic3: yet another wording": "served",
        "mail jane.doe@example.com": "skipped",
    }
    for prompt, outcome in cases.items():
        told = cache.explain(asked(prompt))
        assert told.outcome == outcome, str(told)
        assert str(told)
    assert "0.9" in str(cache.explain(asked("topic3: yet another wording")))
    stats = cache.stats()
    assert stats.semantic.get("served", 0) == 0
    assert cache.lookup(asked("topic3: yet another wording")).tier == "semantic"
