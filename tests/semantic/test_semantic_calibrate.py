"""Calibration: what it reads, what it refuses, and that what it promises holds on data it has not seen."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redis_tiered import Calibration, calibrate
from redis_tiered.errors import InvalidInput, MissingExtra, NotEnoughData
from redis_tiered.llm_cache.semantic.decision import Decider, Options
from redis_tiered.llm_cache.semantic.features import FEATURES
from redis_tiered.llm_cache.semantic.neighbour import rounded
from redis_tiered.llm_cache.semantic.replay import Question, replay
from redis_tiered.llm_cache.semantic.tools.fitting import judge, rescaled
from redis_tiered.llm_cache.semantic.tools.log import Log, Pairs, read
from redis_tiered.llm_cache.semantic.tools.paired import from_pairs
from redis_tiered.llm_cache.semantic.tools.plan import Plan
from redis_tiered.llm_cache.semantic.tools.sweep import neighbourhoods, sweep
from tests.semantic.traffic import Embeddings, Source, pairs_of

TOY: dict[str, Any] = {"model": "toy", "guard": "off"}


def log_of(items: object) -> Log:
    found = read(items)
    assert isinstance(found, Log)
    return found


def pairs_in(items: object) -> Pairs:
    found = read(items)
    assert isinstance(found, Pairs)
    return found


@pytest.fixture(scope="module")
def found() -> Calibration:
    return calibrate(Source(1).ask(450), 0.04, **TOY)


# Reading.


def test_a_log_comes_as_tuples_dicts_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    rows = [{"prompt": "One?", "answer": "x"}, {"prompt": "two", "answer": 7}]
    file.write_bytes(b"\xef\xbb\xbf" + b"\n\n".join(json.dumps(row).encode() for row in rows))
    for data in ([("One?", "x"), ("two", 7)], rows, str(file), file):
        log = log_of(data)
        assert (log.prompts, log.answers, log.scopes) == (("One?", "two"), ("x", "7"), ("", ""))


def test_repeats_are_counted_and_asked_once() -> None:
    log = log_of([("Where?", "x"), ("where", "x"), ("what", "y"), ("  ", "z")])
    assert (log.prompts, log.rows, log.repeated, log.empty) == (("Where?", "what"), 4, 1, 1)
    scoped = [{"prompt": "where", "answer": "x", "scope": scope} for scope in ("one", "two")]
    assert len(log_of(scoped).prompts) == 2


def test_a_prompt_with_several_answers_is_a_contradiction_and_keeps_the_usual_one() -> None:
    log = log_of([("a b", "x"), ("A b?", "y"), ("a b.", "y"), ("c d", "z")])
    assert (log.contradicting, log.contradiction, log.examples) == (1, 0.5, ("a b",))
    assert log.answers == ("y", "z")


@pytest.mark.parametrize(
    ("pairs", "contradicting"),
    [
        ([("a a", "b b", True), ("b b", "c c", True), ("a a", "c c", False)], 1),
        ([("a a", "b b", True), ("b b", "a a", False)], 1),
        ([("a a", "A a?", False)], 1),
        ([("a a", "b b", False), ("b b", "c c", True), ("a a", "c c", False)], 0),
        ([("a a", "b b", True), ("a a", "b b", True), ("c c", "d d", 0)], 0),
    ],
    ids=["chain", "turned", "spelling", "consistent", "repeated"],
)
def test_pairs_that_contradict_each_other_are_found(pairs: object, contradicting: int) -> None:
    assert pairs_in(pairs).contradicting == contradicting


def test_pairs_that_share_a_prompt_are_of_one_component() -> None:
    pairs = pairs_in(
        [("a a", "b b", True), ("c c", "d d", True), ("d d", "a a", False), ("e", "f", 1)]
    )
    assert pairs.component.tolist() == [0, 0, 0, 1]
    assert pairs.same.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (7, "data must be a log"),
        ([], "data is empty"),
        (["text"], "item 1 is of type str"),
        ([("a", "x"), ("b",)], "item 2 is tuple of 1"),
        ([{"prompt": "a"}], 'item 1 must have the keys "prompt" and "answer", got \'prompt\''),
        ([("a", "x"), ("b", None)], "item 2: answer must be a str"),
        ([("a", True)], "item 1: answer must be a str"),
        ([(b"a", "x")], "item 1: prompt must be a str"),
        ([("\ud800", "x")], "item 1: prompt holds a lone surrogate"),
        ([("  ", "x")], "no prompt with text"),
        ([("a", "b", "yes")], "item 1: same must be true or false, got 'yes'"),
        ([("a", "b", True), ("c", "x")], "item 2 is tuple of 2, the first item is a pair"),
        ([{"a": "x", "b": "y"}], 'must have the keys "a", "b" and "same"'),
        ([("a", "A?", True)], "no pair of two different prompts"),
        (
            [{"prompt": "a", "answer": "x", "embedding": [1.0]}, {"prompt": "b", "answer": "x"}],
            "not for 1",
        ),
        ([{"prompt": "a", "answer": "x", "embedding": ["one"]}], "a list of numbers"),
        ([{"prompt": "a", "answer": "x", "embedding": [float("nan")]}], "finite numbers"),
    ],
    ids=lambda value: re.sub(r"\W+", " ", value)[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_read_is_named(data: object, said: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(said)):
        read(data)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "a", "answer": "x"}\n{"prompt"', "log.jsonl, line 2: not JSON"),
        (b'{"prompt": "a", "answer": "x"}\n\n{"answer": "x"}', "log.jsonl, line 3 must have"),
        (b"\xff\xfe", "log.jsonl, line 1: not JSON"),
        (b"\n\n", "log.jsonl is empty"),
        (None, "No such file"),
    ],
    ids=["cut", "key", "bytes", "blank", "absent"],
)
def test_a_files_error_names_file_and_line(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidInput, match=re.escape(said)):
        read(file)


# Replaying.


def test_a_sweep_does_what_the_replay_of_a_cache_does() -> None:
    source = Source(5)
    log = log_of(source.ask(250))
    assert log.embeddings is not None
    vectors = np.stack([rounded(vector) for vector in log.embeddings])
    head = calibrate(source.ask(250), 0.1, **TOY).head
    for level in (0.5, 0.8, 0.97):
        options = Options(max_error=1.0, audit_rate=0.0, theta=level, learning=False, warmup=60)
        stream = map(Question, log.prompts, vectors, log.answers)
        wanted = replay(stream, Decider(options, None, head))
        found = sweep(log, vectors, judge(None, head), [0.999, level, 0.3], warmup=60)
        level_of = found.thresholds.index(level)
        after = slice(60, None)  # a decider begins with a theta of its own
        assert (found.served[level_of, after] == wanted.served[after]).mean() > 0.99
        assert found.served[level_of].sum() == pytest.approx(wanted.served.sum(), abs=3)
        assert found.wrong[level_of].sum() == pytest.approx(
            (wanted.served & ~wanted.right).sum(), abs=2
        )


def test_scopes_never_meet() -> None:
    items = Source(2).ask(60)
    for number, item in enumerate(items):
        item["scope"] = f"s{number % 2}"
    log = log_of(items)
    assert log.embeddings is not None
    met: list[tuple[str, set[str]]] = []

    def note(prompt: str, answer: str, near: Sequence[Any]) -> Any:
        met.append((prompt, {one.prompt for one in near}))
        return judge_nothing

    from redis_tiered.llm_cache.semantic.tools.sweep import Verdict

    judge_nothing = Verdict(-1.0, False)
    sweep(log, log.embeddings, note, [0.5])
    scope_of = dict(zip(log.prompts, log.scopes, strict=True))
    assert all(scope_of[one] == scope_of[prompt] for prompt, near in met for one in near)
    every = np.arange(len(log.prompts))
    random = np.random.default_rng(0)
    for query, near in neighbourhoods(log, log.embeddings, every, every, least=0.5, random=random):
        assert all(scope_of[one.prompt] == log.scopes[query] for one in near)
        assert log.prompts[query] not in {one.prompt for one in near}


# Calibrating.


def test_a_calibration_says_what_it_rests_on(found: Calibration) -> None:
    assert found.wrong_rate <= found.upper <= found.target_error == 0.04
    assert found.interval[0] <= found.wrong_rate <= found.interval[1]
    assert (found.trained_on, found.tested_on, found.independent) == (180, 270, 270)
    assert found.theta in [point.theta for point in found.curve]
    assert 0.05 < found.hit_rate <= found.hit_rate_filled < 1.0
    assert found.unseen["requests"] > 0
    assert (found.model, found.head.model, found.guard, found.source) == (
        "toy",
        "toy",
        "off",
        "log",
    )
    hits = [point.hit_rate for point in found.curve]
    assert hits[0] < hits[-1]
    assert repr(found).startswith("<Calibration 'toy' theta=")
    assert len(repr(found)) < 120


def test_equal_data_give_an_equal_calibration(found: Calibration) -> None:
    again = calibrate(Source(1).ask(450), 0.04, **TOY)
    assert {**again.as_dict(), "created": ""} == {**found.as_dict(), "created": ""}


def test_a_calibration_is_plain_json_and_back(found: Calibration) -> None:
    again = Calibration.from_json(found.to_json())
    assert again == found
    assert json.loads(found.to_json())["version"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"metric": "luck"},
        {"theta": 7.0},
        {"theta": "0.9"},
        {"head": {}},
        {"curve": [[1.0]]},
        {"interval": [0.0]},
        {"model": None},
        {"unseen": 3},
    ],
    ids=str,
)
def test_what_is_no_calibration_is_refused(found: Calibration, change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="calibration"):
        Calibration.from_dict({**found.as_dict(), **change})
    for text in ("", "[]", "{}", "null", "{"):
        with pytest.raises(InvalidInput, match="calibration"):
            Calibration.from_json(text)


def test_the_table_and_the_plots_show_the_chosen_point(found: Calibration, tmp_path: Path) -> None:
    table = found.table()
    assert f"p >= {found.theta:.4g}" in table
    assert "<- chosen" in table
    assert max(map(len, table.splitlines())) <= 120
    sketch = found.sketch(70)
    assert "@" in sketch
    assert max(map(len, sketch.splitlines())) <= 110
    found.plot(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    figure = found.plot()
    [axes] = figure.axes
    assert "requests" in axes.get_xlabel()
    with pytest.raises(InvalidInput, match="no-folder"):
        found.plot(tmp_path / "no-folder" / "plot.png")


def test_without_matplotlib_a_plot_says_what_to_install(
    found: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtra, match=re.escape("redis-tiered[plot]")):
        found.plot("x.png")
    assert found.sketch()


def test_hits_may_be_what_errors_are_counted_against() -> None:
    found = calibrate(Source(3, spread=0.25).ask(600), 0.15, metric="hits", **TOY)
    assert found.wrong_rate <= found.upper <= 0.15
    assert found.independent < found.tested_on
    assert "wrong per hit" in found.table()


@pytest.mark.parametrize(
    ("target", "count"), [(0.01, 400), (0.05, 60)], ids=["one percent", "five percent"]
)
def test_too_little_is_refused_with_how_much_is_missing(target: float, count: int) -> None:
    def never(texts: list[str]) -> list[list[float]]:
        raise AssertionError("nothing was to be embedded")

    items = [(item["prompt"], item["answer"]) for item in Source(4).ask(count)]
    with pytest.raises(NotEnoughData, match=r"needs about [\d,]+ more prompts") as error:
        calibrate(items, target, embeddings=never, **TOY)
    assert error.value.more is not None
    missing = {0.01: 299 - 240, 0.05: 59 - 36}[target] / 0.6
    assert missing <= error.value.more <= 1.2 * missing + 2


def test_one_answer_alone_teaches_nothing() -> None:
    with pytest.raises(NotEnoughData, match="wrong ones are needed"):
        calibrate(Source(4).ask(300, answers=[3]), 0.05, **TOY)


def test_a_log_sorted_by_answer_is_shuffled_and_says_so() -> None:
    items = sorted(Source(6).ask(250), key=lambda item: item["answer"])
    found = calibrate(items, 0.1, **TOY)
    assert any("sorted by answer" in warning for warning in found.warnings)


def test_contradictions_are_told_or_refused() -> None:
    items = Source(7).ask(250)
    items += [{**item, "answer": "other"} for item in items[:5]]
    found = calibrate(items, 0.1, **TOY)
    assert any("carry more than one answer" in warning for warning in found.warnings)
    with pytest.raises(InvalidInput, match=r"data contradicts itself: 5 prompts \(2\.00%\)"):
        calibrate(items, 0.015, **TOY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"target_error": 0}, "target_error must be more than 0"),
        ({"target_error": "1%"}, "target_error must be a number"),
        ({"confidence": 1.0}, "confidence must be more than 0 and less than 1"),
        ({"metric": "luck"}, "metric must be"),
        ({"seed": -1}, "seed must be"),
        ({"model": None}, "model must name the embedding model"),
        ({"guard": "loud"}, "guard"),
        ({"progress": 7}, "progress must be a function"),
    ],
    ids=str,
)
def test_arguments_are_checked(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        calibrate(Source(8).ask(120), **{"target_error": 0.05, **TOY, **change})


def test_prompts_without_vectors_need_embeddings() -> None:
    items = [(item["prompt"], item["answer"]) for item in Source(8).ask(120)]
    with pytest.raises(InvalidInput, match="embeddings must be given"):
        calibrate(items, 0.05, **TOY)


def test_progress_is_told_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    calibrate(Source(8).ask(200), 0.1, progress=lambda *at: seen.append(at), **TOY)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


def test_what_is_promised_holds_on_questions_not_seen() -> None:
    """Each calibration against the same source's next questions, in an empty and a filled cache."""
    target, confidence, count = 0.05, 0.8, 300
    exceeded = made = 0
    for seed in range(4):
        source = Source(seed)
        items = source.ask(count)
        try:
            found = calibrate(items, target, confidence=confidence, seed=seed, **TOY)
        except NotEnoughData:
            continue
        made += 1
        for before in ([], items[: found.trained_on]):
            log = log_of(before + source.ask(2 * found.tested_on))
            assert log.embeddings is not None
            vectors = np.stack([rounded(vector) for vector in log.embeddings])
            done = sweep(log, vectors, judge(None, found.head), [found.theta])
            if done.part(slice(len(before), None)).wrong.mean() > target:
                exceeded += 1
                break
    assert made >= 3
    assert exceeded <= 2  # of 4 at 20 % each


def test_a_heads_promises_are_set_right_without_changing_what_it_serves() -> None:
    source = Source(1)
    items = source.ask(200)
    head = calibrate(items, 0.1, **TOY).head
    random = np.random.default_rng(0)
    p = random.uniform(0.5, 0.999, 4_000)
    right = random.random(4_000) < 1.0 - 0.4 * (1.0 - p)
    scaled, told = rescaled(head, p, right)
    new = np.array([told(one) for one in p])
    assert (1.0 - new).sum() == pytest.approx((~right).sum(), rel=0.05)
    assert np.array_equal(np.argsort(new), np.argsort(p))
    numbers = [0.9, 0.1, 0.0, 0.0, 0.1, 0.0, 0.8, 0.7, 0.0, 0.1, 0.5]
    assert scaled.probability(numbers) == pytest.approx(told(head.probability(numbers)))
    same, _ = rescaled(head, p[:0], right[:0])
    assert same == head


# Pairs.


def test_pairs_fit_a_curve_over_the_cosine() -> None:
    items = Source(9, answers=40, spread=0.2).ask(1000)
    found = calibrate(pairs_of(items), 0.1, embeddings=Embeddings(items), **TOY)
    assert found.source == "pairs"
    assert found.wrong_rate <= found.upper <= 0.15
    assert found.hit_rate > 0.1
    context = dict(zip(FEATURES, found.head.weights, strict=True))
    assert {name for name, weight in context.items() if weight} <= set(FEATURES[:4])
    assert "pairs" in found.table()


def test_pairs_are_split_by_component_and_counted_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from redis_tiered.llm_cache.semantic.tools import paired

    items = Source(9, answers=40, spread=0.2).ask(1000)
    pairs = pairs_in(pairs_of(items))
    plan = Plan(0.1, "requests", 0.95, np.random.default_rng(0), None, "off")
    fit, test = paired._split(plan, pairs)
    assert not set(pairs.component[fit]) & set(pairs.component[test])
    assert len(fit) + len(test) == len(pairs.left)
    assert len(fit) == pytest.approx(0.4 * len(pairs.left), abs=3)
    assert not plan.warnings
    assert from_pairs.__module__ == paired.__name__


def test_pairs_that_hang_together_prove_little() -> None:
    items = Source(9, answers=40, spread=0.2).ask(900)
    hub = items[0]["prompt"]
    pairs = [
        {"a": hub, "b": item["prompt"], "same": item["answer"] == items[0]["answer"]}
        for item in items[1:400]
    ]
    pairs += pairs_of(items[660:])
    with pytest.raises(NotEnoughData, match="more pairs"):
        calibrate(pairs, 0.02, embeddings=Embeddings(items), **TOY)
    found = calibrate(pairs, 0.3, embeddings=Embeddings(items), **TOY)
    assert any("hang together" in warning for warning in found.warnings)
