"""Replays: the store's neighbours, scopes, and what a replay counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.decision import Decider, Options
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.replay import Question, Replay, Store, precision_area, replay

HEAD = shipped_head("all-MiniLM-L6-v2")
DIMS = 32


def topics(count: int, seed: int, *, each: int = 40, spread: float = 0.6) -> list[Question]:
    """Questions around as many centres as `count / each`, one answer for each centre."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(max(1, count // each), DIMS))
    made = []
    for at in range(count):
        topic = int(random.integers(len(centres)))
        made.append(
            Question(f"q{at}", centres[topic] + spread * random.normal(size=DIMS), f"a{topic}")
        )
    return made


def test_a_store_finds_the_nearest_and_the_older_of_equals() -> None:
    random = np.random.default_rng(1)
    vectors = random.normal(size=(300, DIMS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1)[:, None]
    vectors[200:250] = vectors[7]
    store = Store(DIMS)
    for at, vector in enumerate(vectors):
        store.put(str(at), vector, "a", "")
        if at in (0, 3, 40, 299):
            near = store.near(vectors[7], 10)
            cosines = vectors[: at + 1] @ vectors[7]
            expected = np.argsort(-cosines, kind="stable")[:10]
            assert [one.cosine for one in near] == pytest.approx(cosines[expected].tolist())
    assert [one.entry for one in store.near(vectors[7], 4)] == ["7", "200", "201", "202"]


def test_an_empty_store_has_no_neighbours() -> None:
    assert Store(DIMS).near(np.zeros(DIMS, np.float32), 10) == []


def test_a_replay_serves_topics_within_the_budget() -> None:
    done = replay(topics(2_500, 1), Decider(Options(seed=0, max_error=0.02), None, HEAD))
    assert len(done) == 2_500
    assert done.hit_rate > 0.3
    assert done.wrong_per_request <= 0.02
    assert done.wrong_per_hit == pytest.approx(done.wrong_per_request / done.hit_rate)
    assert not (done.served & done.audit).any()


def test_questions_that_share_no_answer_are_not_served() -> None:
    stream = [one._replace(answer=f"own {at}") for at, one in enumerate(topics(1_500, 2))]
    done = replay(stream, Decider(Options(seed=0), None, HEAD))
    assert done.wrong_per_request <= 0.01


def test_scopes_share_nothing() -> None:
    question = Question("q", np.ones(DIMS, np.float32), "a")
    stream = [question._replace(scope=str(at % 50)) for at in range(100)]
    done = replay(stream, Decider(Options(max_error=1.0, audit_rate=0.0, warmup=0), None, HEAD))
    assert (done.cosine[:50] == 0.0).all()
    assert done.cosine[50:] == pytest.approx(1.0, abs=1e-3)


def test_a_miss_is_stored_and_a_hit_is_not() -> None:
    stream = [Question("q", np.eye(DIMS, dtype=np.float32)[0], "a")] * 30
    options = Options(max_error=1.0, theta=0.0, audit_rate=0.0, warmup=0, learning=False)
    done = replay(stream, Decider(options, None, HEAD))
    assert done.served.tolist() == [False] + [True] * 29


def test_an_audited_question_is_stored_too() -> None:
    stream = [Question("q", np.eye(DIMS, dtype=np.float32)[0], "a")] * 3
    seen: list[int] = []

    class Watched(Decider):
        def decide(self, prompt: str, neighbours: object) -> object:  # type: ignore[override]
            seen.append(len(neighbours))  # type: ignore[arg-type]
            return super().decide(prompt, neighbours)  # type: ignore[arg-type]

    options = Options(max_error=1.0, theta=0.0, audit_rate=1.0, warmup=0)
    done = replay(stream, Watched(options, None, HEAD))
    assert done.audit.tolist() == [False, True, True]
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    "vector",
    [np.ones(DIMS - 1), np.full(DIMS, np.nan), np.zeros(DIMS)],
    ids=["dims", "nan", "zero"],
)
def test_a_vector_that_cannot_be_compared_is_refused(vector: NDArray[np.float64]) -> None:
    stream = [Question("q", np.ones(DIMS, np.float32), "a"), Question("r", vector, "a")]  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        replay(stream, Decider(Options(), None, HEAD))


def test_an_empty_log() -> None:
    done = replay([], Decider(Options(), None, HEAD))
    assert (len(done), done.hit_rate, done.wrong_per_request, done.wrong_per_hit) == (0, 0, 0, 0)
    assert done.p_chr_auc == 0.0


def test_precision_area() -> None:
    p, right = np.array([0.9, 0.8, 0.1, 0.5]), np.array([True, False, False, True])
    # taken by falling p: right, wrong, right, wrong
    assert precision_area(p, right) == pytest.approx((1 + 1 / 2 + 2 / 3 + 2 / 4) / 4)


def test_the_same_seed_replays_the_same() -> None:
    def once() -> Replay:
        return replay(topics(700, 3), Decider(Options(seed=4), None, HEAD))

    first, second = once(), once()
    assert (first.p == second.p).all()
    assert (first.audit == second.audit).all()
