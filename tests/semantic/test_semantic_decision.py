"""Decisions: what is served, what is refused and why, what is learned, what is kept."""

from __future__ import annotations

import json
import math
import threading
from random import Random
from typing import Any

import pytest

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.decision import Decider, Decision, Options
from redis_tiered.llm_cache.semantic.head import shipped_head
from redis_tiered.llm_cache.semantic.neighbour import Neighbour

HEAD = shipped_head("all-MiniLM-L6-v2")
OPEN = Options(max_error=1.0, theta=0.9, audit_rate=0.0, warmup=0, seed=0)


def hood(*rows: tuple[float, str]) -> list[Neighbour]:
    return [
        Neighbour(f"e{at}", cosine, answer, f"prompt {at}")
        for at, (cosine, answer) in enumerate(rows)
    ]


SURE = hood(*((0.95 - 0.01 * at, "a") for at in range(9)), (0.5, "b"))
BORDER = hood((0.80, "a"), (0.79, "b"), *((0.78 - 0.01 * at, "ab"[at % 2]) for at in range(8)))
LONE = hood((0.75, "a"), (0.74, "a"), (0.73, "a"))


def fresh(options: Options = OPEN, guard: Any = None, head: Any = HEAD) -> Decider:
    return Decider(options, guard, head)


def teach(decider: Decider, decision: Decision, near: list[Neighbour], answer: str) -> None:
    same = {index: near[index].answer == answer for index, _, _ in decision.scored}
    decider.learn(decision, [one.entry for one in near], same)


def world(decider: Decider, count: int, seed: int) -> list[Decision]:
    """Questions about twelve answers, the nearest neighbours sometimes misleading."""
    random, made = Random(seed), []
    for _ in range(count):
        answers = [f"a{random.randrange(12)}" for _ in range(2)]
        near = sorted(
            (
                Neighbour(
                    f"e{random.randrange(400)}", random.uniform(0.5, 0.97), answers[j > 6], ""
                )
                for j in range(10)
            ),
            key=lambda one: -one.cosine,
        )
        decision = decider.decide("asked", near)
        if decision.chosen is None:
            right = near[0].answer if random.random() < near[0].cosine else "other"
            teach(decider, decision, near, right)
        made.append(decision)
    return made


def test_an_answer_that_all_neighbours_carry_is_served() -> None:
    decision = fresh().decide("asked", SURE)
    assert (decision.chosen, decision.best, decision.reason) == (0, 0, "served")
    assert decision.p > 0.9
    assert decision.cosine == pytest.approx(0.95)
    assert decision.margin == pytest.approx(0.45)
    assert [index for index, _, _ in decision.scored] == [0, 1, 2]


def test_an_answer_at_a_border_is_not() -> None:
    decision = fresh().decide("asked", BORDER)
    assert (decision.chosen, decision.best, decision.reason) == (None, 0, "below_theta")


def test_nothing_stored() -> None:
    assert fresh().decide("asked", []).reason == "no_neighbour"


def test_agreement_of_a_store_that_holds_one_answer_means_nothing() -> None:
    decision = fresh(Options(max_error=1.0, theta=0.5, warmup=0)).decide("asked", LONE)
    assert (decision.chosen, decision.reason) == (None, "lone_answer")
    near_repeat = hood((0.97, "a"))
    assert fresh().decide("asked", near_repeat).reason in ("served", "below_theta")


def test_one_stored_answer_is_not_served_to_everyone() -> None:
    decider, random = fresh(Options(seed=0)), Random(1)
    store: list[Neighbour] = [Neighbour("e0", 0.0, "first", "")]
    served = 0
    for at in range(1_000):
        cosines = sorted((random.uniform(0.3, 0.85) for _ in store), reverse=True)
        near = [one._replace(cosine=c) for one, c in zip(store, cosines, strict=True)][:10]
        decision = decider.decide("asked", near)
        served += decision.chosen is not None
        if decision.chosen is None:
            teach(decider, decision, near, f"own {at}")
    assert served == 0


@pytest.mark.parametrize("cosine", [0.54, math.nan], ids=["low", "nan"])
def test_nothing_is_served_below_the_floor(cosine: float) -> None:
    near = hood((cosine, "a"), *((0.3, "b") for _ in range(9)))
    decision = fresh(Options(max_error=1.0, theta=0.0, warmup=0)).decide("asked", near)
    assert (decision.chosen, decision.reason) == (None, "below_floor")


def test_nan_of_another_neighbour_serves_nothing() -> None:
    near = [*SURE[:9], Neighbour("nan", math.nan, "b", "")]
    assert fresh().decide("asked", near).chosen is None


def test_the_warm_up_serves_near_repeats_only() -> None:
    near = hood(*((0.90 - 0.01 * at, "a") for at in range(9)), (0.3, "b"))
    decider = fresh(Options(max_error=1.0, theta=0.9, audit_rate=0.0, warmup=2))
    reasons = [decider.decide("asked", one).reason for one in (near, SURE, near)]
    assert reasons == ["warmup", "served", "served"]


def test_a_vetoed_candidate_falls_through_to_the_next() -> None:
    vetoed = {"prompt 0": "number", "prompt 2": "negation"}
    decision = fresh(guard=lambda asked, stored: vetoed.get(stored)).decide("asked", SURE)
    assert decision.vetoes == ((0, "number"), (2, "negation"))
    assert [index for index, _, _ in decision.scored] == [1, 3, 4]
    assert decision.best == 1


def test_when_all_are_vetoed_nothing_is_served() -> None:
    decision = fresh(guard=lambda asked, stored: "number").decide("asked", SURE)
    assert (decision.best, decision.reason, len(decision.vetoes)) == (None, "vetoed", 10)


def test_shadow_decides_and_never_serves() -> None:
    decider = fresh(Options(mode="shadow", max_error=1.0, theta=0.9, warmup=0))
    decision = decider.decide("asked", SURE)
    assert (decision.chosen, decision.best, decision.reason) == (None, 0, "shadow")
    assert decision.audit
    teach(decider, decision, SURE, "b")
    report = decider.report()
    assert (report["would_serve"], report["audits"], report["wrong"]) == (1, 1, 1)


def test_strict_never_serves_below_097() -> None:
    decider = fresh(Options(mode="strict", max_error=1.0))
    world(decider, 600, 1)
    assert decider.theta >= 0.97


def test_off_does_nothing() -> None:
    decider = fresh(Options(mode="off"))
    assert decider.decide("asked", SURE).reason == "off"
    assert decider.report()["lookups"] == 0


def test_without_a_head_near_repeats_with_a_margin_only_until_one_is_learned() -> None:
    decider = fresh(Options(seed=0), head=None)
    assert decider.decide("asked", BORDER).p == 0.0
    assert decider.decide("asked", hood((0.95, "a"), (0.90, "b"))).p == 0.0
    assert decider.decide("asked", SURE).p == pytest.approx(0.95)
    world(decider, 700, 1)
    assert decider.head is not None
    assert decider.head.trained_on == 1_500
    assert decider.decide("asked", SURE).p > decider.decide("asked", BORDER).p > 0.0


def test_contradicting_answers_of_one_entry_lower_it_and_only_it() -> None:
    decider = fresh(Options(max_error=0.0, warmup=0))
    before = decider.decide("asked", SURE).p
    for _ in range(4):
        teach(decider, decider.decide("asked", SURE), SURE, "other")
    assert 1.0 - decider.decide("asked", SURE).p > 10 * (1.0 - before)
    elsewhere = [one._replace(entry=f"x{one.entry}") for one in SURE]
    assert decider.decide("asked", elsewhere).p == pytest.approx(before)


def test_a_word_of_the_user_lowers_the_entry_and_counts_against_the_budget() -> None:
    decider = fresh()
    before, safety = decider.decide("asked", SURE), decider.report()["safety"]
    decider.feedback("e0", before.p, False)
    after = decider.decide("asked", SURE)
    assert after.best != 0
    assert 1.0 - {at: p for at, _, p in after.scored}[0] > 10 * (1.0 - before.p)
    assert decider.report()["safety"] > safety


@pytest.mark.parametrize("p", [math.nan, -1.0, 2.0])
def test_feedback_with_a_strange_probability_breaks_nothing(p: float) -> None:
    decider = fresh()
    for correct in (True, False):
        decider.feedback("e0", p, correct)
    assert 0.0 < decider.decide("asked", SURE).p < 1.0
    assert decider.restore(json.loads(json.dumps(decider.state())))


def test_learning_may_be_off() -> None:
    decider = fresh(Options(learning=False, max_error=0.0))
    world(decider, 400, 1)
    assert decider.head == HEAD
    assert decider.report()["examples"] == 0


def test_the_same_seed_decides_the_same() -> None:
    assert world(fresh(Options(seed=5)), 800, 1) == world(fresh(Options(seed=5)), 800, 1)


@pytest.mark.parametrize("head", [HEAD, None], ids=["head", "no_head"])
def test_it_continues_from_its_state_as_if_never_stopped(head: Any) -> None:
    first, second = fresh(Options(seed=5), head=head), fresh(Options(seed=6))
    world(first, 900, 1)
    state = json.loads(json.dumps(first.state()))
    assert second.restore(state)
    assert world(first, 700, 2) == world(second, 700, 2)
    assert first.state() == second.state()


def test_its_state_stays_small() -> None:
    decider = fresh(Options(seed=1), head=None)
    random = Random(1)
    for at in range(3_500):
        near = [
            Neighbour(f"{random.getrandbits(256):064x}", random.uniform(0.4, 0.99), "ab"[j % 2], "")
            for j in range(3)
        ]
        near.sort(key=lambda one: -one.cosine)
        teach(decider, decider.decide("asked", near), near, "ab"[at % 2])
    assert len(json.dumps(decider.state())) < 200_000


def states() -> list[object]:
    decider = fresh(Options(seed=5))
    world(decider, 300, 1)
    good = decider.state()
    broken: list[object] = [None, [], "state", {}, {"version": 99}, good | {"version": 0}]
    for part, inner in good.items():
        broken += [good | {part: None}, good | {part: {"x": 1}}, good | {part: [math.nan]}]
        broken.append({name: one for name, one in good.items() if name != part})
        if isinstance(inner, dict):
            broken += [good | {part: inner | {key: "broken"}} for key in inner if key != "alarmed"]
    broken.append(good | {"offsets": {"e1": [math.inf, 0]}})
    return broken


def test_what_cannot_be_read_is_ignored() -> None:
    decider = fresh(Options(seed=5))
    world(decider, 250, 3)
    before = json.dumps(decider.state())
    for state in states():
        assert decider.restore(state) is False, state
        assert json.dumps(decider.state()) == before


def test_threads_lose_nothing() -> None:
    decider = fresh(Options(seed=5))
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            world(decider, 300, seed)
            decider.restore("nonsense")
            json.dumps(decider.state())
            decider.report()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    report = decider.report()
    assert report["lookups"] == 1_200
    assert report["examples"] == 3 * (1_200 - report["served"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "loose"},
        {"max_error": 1.5},
        {"max_error": "1 %"},
        {"audit_rate": math.nan},
        {"floor": True},
        {"theta": -0.1},
        {"warmup": -1},
        {"k": 0},
    ],
    ids=["mode", "error_high", "error_text", "rate_nan", "floor_bool", "theta", "warmup", "k"],
)
def test_options_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Options(**wrong)
