"""The budget: kept with probabilities that are right, that promise too much, and that lapse."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from random import Random

import pytest

from redis_tiered.llm_cache.semantic.controller import NEVER, Controller


def controller(max_error: float = 0.01, audit_rate: float = 0.03, **given: object) -> Controller:
    options = {"floor": 0.0, "warmup": 200, "seed": 1} | given
    return Controller(max_error=max_error, audit_rate=audit_rate, **options)  # type: ignore[arg-type]


def drawn(random: Random) -> float:
    """Half of the lookups look good, as on streams of real questions."""
    return 1.0 - 10.0 ** random.uniform(-4.0, 0.0)


def stream(
    control: Controller, truth: Callable[[float], float], lookups: int, seed: int
) -> tuple[list[bool], list[bool]]:
    """By lookup: it was served; it was served wrongly. A candidate of p is right with truth(p)."""
    random = Random(seed)
    served, wrong = [], []
    for _ in range(lookups):
        p = drawn(random)
        right = random.random() < truth(p)
        would = p >= control.theta
        theta = control.theta
        control.record(p)
        audit = would and control.draw()
        if audit or not would:
            control.labelled(p, right, would=p >= theta, audit=audit)
        served.append(would and not audit)
        wrong.append(served[-1] and not right)
    return served, wrong


def calibrated(p: float) -> float:
    return p


def overconfident(p: float) -> float:
    """Wrong three times as often as promised."""
    return max(0.0, 1.0 - 3.0 * (1.0 - p))


def lapsing(p: float) -> float:
    """Four of a hundred are wrong whatever is promised."""
    return 0.96 * p


def hopeless(p: float) -> float:
    return 0.3


@pytest.mark.parametrize("budget", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize(
    ("truth", "most"),
    [(calibrated, 1.0), (overconfident, 1.0), (lapsing, 1.5), (hopeless, 1.5)],
    ids=["calibrated", "overconfident", "lapsing", "hopeless"],
)
def test_the_budget_holds(truth: Callable[[float], float], most: float, budget: float) -> None:
    rates = []
    for seed in range(3):
        _, wrong = stream(controller(budget, seed=seed), truth, 6_000, seed)
        rates.append(sum(wrong[200:]) / len(wrong[200:]))
    assert sum(rates) / len(rates) <= most * budget


def test_the_budget_is_used_when_probabilities_are_right() -> None:
    served, wrong = stream(controller(0.02), calibrated, 6_000, 5)
    assert sum(wrong[2_000:]) / 4_000 >= 0.3 * 0.02
    # with hindsight, p >= 0.937 spends 2 % and serves 60 % before audits
    assert sum(served[2_000:]) / 4_000 >= 0.4


@pytest.mark.parametrize(
    ("budget", "theta"), [(0.06, 0.9), (0.05, 0.99), (0.007, 0.99), (0.006, NEVER)]
)
def test_theta_spends_what_is_allowed_and_no_more(budget: float, theta: float) -> None:
    control = controller(budget)
    for _ in range(300):
        for p in (0.99, 0.9, 0.5):
            control.record(p)
    control.place()
    # of three lookups the first is wrong with 0.015 + 0.005, the second with 0.15 + 0.005
    assert (control.safety, control.lapse) == (1.5, 0.005)
    assert control.theta == theta


def test_without_a_budget_nothing_but_certainty_is_served() -> None:
    control = controller(0.0)
    for _ in range(200):
        control.record(0.999)
    assert control.theta == NEVER


def test_drift_tightens_at_once() -> None:
    control = controller(0.01)
    stream(control, calibrated, 3_000, 1)
    before = control.theta
    for _ in range(40):
        control.labelled(0.9, False, would=False, audit=False)
    assert control.theta > before
    assert control.safety > 3.0


def test_a_word_of_the_user_tightens() -> None:
    control = controller(0.01)
    stream(control, calibrated, 3_000, 1)
    before = control.theta
    for _ in range(5):
        control.blamed(0.99)
    assert control.theta > before


def test_audits_are_many_at_first_and_then_as_told() -> None:
    control = controller(0.05)
    assert control.rate == 1.0
    control.would_serve = 10_000
    assert control.rate == 0.03
    for _ in range(300):
        control.record(0.9)
        control.repeated(False)
    assert control.sparse
    assert control.rate == 0.08


def test_no_audits_when_none_are_wanted() -> None:
    control = controller(audit_rate=0.0)
    assert not any(control.draw() for _ in range(100))


def test_a_floor_is_never_left() -> None:
    control = controller(1.0, floor=0.97)
    for _ in range(100):
        control.record(0.5)
    assert control.theta == 0.97


def test_it_continues_from_its_state_as_if_never_stopped() -> None:
    first, second = controller(seed=3), controller(seed=4)
    stream(first, lapsing, 1_234, 1)
    second.restore(json.loads(json.dumps(first.state())))
    assert stream(first, lapsing, 900, 2) == stream(second, lapsing, 900, 2)
    assert first.state() == second.state()


@pytest.mark.parametrize(
    "broken",
    [
        {"history": [2.0]},
        {"theta": math.nan},
        {"counts": [1, 2]},
        {"tallies": [[0, 0, 0]]},
        {"random": [1, 2, 3]},
        {"since": "soon"},
    ],
    ids=["history", "theta", "counts", "tallies", "random", "since"],
)
def test_what_is_no_state_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        controller().restore(controller().state() | broken)
