"""Evaluation: a log replayed against a policy, beside fixed thresholds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from redis_tiered import Calibration, Evaluation, calibrate, evaluate
from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.decision import Decider, Options
from redis_tiered.llm_cache.semantic.policy import SemanticPolicy
from redis_tiered.llm_cache.semantic.replay import Question, replay
from redis_tiered.llm_cache.semantic.tools.log import Log, read
from tests.semantic.traffic import Embeddings, Source, pairs_of

TOY: dict[str, Any] = {"model": "toy", "guard": "off"}
ITEMS = Source(1).ask(500)


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(ITEMS[:250], 0.1, **TOY)


@pytest.fixture(scope="module")
def found(calibration: Calibration) -> Evaluation:
    return evaluate(ITEMS[250:], Options(max_error=0.1, warmup=50), calibration=calibration, **TOY)


def test_an_evaluation_is_the_replay_of_the_log(
    found: Evaluation, calibration: Calibration
) -> None:
    options = Options(max_error=0.1, warmup=50, theta=calibration.theta, seed=0)
    log = read(ITEMS[250:])
    assert isinstance(log, Log)
    assert log.embeddings is not None
    stream = map(Question, log.prompts, log.embeddings, log.answers)
    wanted = replay(stream, Decider(options, None, calibration.head))
    assert found.requests == len(wanted) == 250
    assert (found.served, found.audits) == (wanted.served.sum(), wanted.audit.sum())
    assert found.hit_rate == wanted.hit_rate
    assert found.wrong_per_request == wanted.wrong_per_request
    assert found.wrong_per_hit == wanted.wrong_per_hit
    assert found.p_chr_auc == wanted.p_chr_auc
    assert sum(found.reasons.values()) == 250
    assert found.reasons["served"] == found.served


def test_intervals_hold_the_rates_and_curves_rise(found: Evaluation) -> None:
    for name, (low, high) in found.intervals.items():
        assert low <= getattr(found, name) <= high
    for curve in (found.curve, found.baseline):
        assert curve[0].theta > curve[-1].theta
        assert curve[0].hit_rate <= curve[-1].hit_rate
        assert all(point.low <= point.rate <= point.high for point in curve)
    best = found.best_baseline()
    assert best is not None
    assert best.rate <= found.max_error


def test_table_plot_and_json_show_it(found: Evaluation, tmp_path: Path) -> None:
    table = found.table()
    assert f"{found.hit_rate:.1%}" in table
    assert "a calibration of" in table
    assert "@ this policy" in found.sketch()
    found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000
    data = json.loads(json.dumps(found.as_dict()))
    assert data["version"] == 1
    assert data["requests"] == 250
    assert repr(found).startswith("<Evaluation 'toy' 250 requests")


def test_a_model_without_a_head_begins_with_near_repeats() -> None:
    found = evaluate(ITEMS[:150], **TOY)
    assert found.curve == ()
    assert found.baseline
    assert "near repeats" in found.decision
    assert "cosine" in found.table()
    found.plot()


def test_a_policy_brings_everything_along(calibration: Calibration) -> None:
    policy = SemanticPolicy(
        Embeddings(ITEMS), model="toy", mode="shadow", guard="off", calibration=calibration
    )
    plain = [(item["prompt"], item["answer"]) for item in ITEMS[:120]]
    found = evaluate(plain, policy)
    assert found.served == 0
    assert "mode shadow" in found.decision
    assert "a calibration" in found.decision
    with pytest.raises(InvalidInput, match="policy must be a SemanticPolicy, Options or None"):
        evaluate(plain, 0.9, **TOY)  # type: ignore[arg-type]


def test_repeats_and_contradictions_are_told() -> None:
    items = [*ITEMS[:100], ITEMS[0], {**ITEMS[1], "answer": "other"}]
    found = evaluate(items, **TOY)
    assert (found.requests, found.repeated) == (100, 2)
    assert any("contradict" in warning for warning in found.warnings)
    assert "the exact cache answers" in found.table()


def test_pairs_are_judged_by_cosine_or_by_a_calibration_from_pairs(
    calibration: Calibration,
) -> None:
    items = Source(9, answers=40, spread=0.2).ask(1200)
    pairs = pairs_of(items)
    known = Embeddings(items)
    plain = evaluate(pairs, embeddings=known, **TOY)
    assert plain.source == "pairs"
    assert plain.requests == len(pairs)
    assert plain.reasons["served"] == plain.served > 0
    made = calibrate(pairs, 0.1, embeddings=known, **TOY)
    found = evaluate(pairs, embeddings=known, calibration=made, **TOY)
    assert found.hit_rate == pytest.approx(made.hit_rate, abs=0.1)
    assert found.wrong_per_request <= 0.1
    found.plot()
    with pytest.raises(InvalidInput, match="calibration must be one from pairs"):
        evaluate(pairs, embeddings=known, calibration=calibration, **TOY)


def test_a_guard_and_its_reasons_are_counted() -> None:
    found = evaluate(
        [("pay 3 bills", "pay 4 bills", False), ("pay one", "pay one now", True)],
        embeddings=lambda texts: [[1.0, 0.0] for _ in texts],
        model="toy",
    )
    assert found.served == 1
    assert any(reason.startswith("vetoed: ") for reason in found.reasons)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"confidence": 2}, "confidence must be more than 0"),
        ({"seed": "x"}, "seed must be an int"),
        ({"model": " "}, "model must be the name"),
    ],
    ids=str,
)
def test_arguments_are_checked(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        evaluate(ITEMS[:20], **{**TOY, **change})
