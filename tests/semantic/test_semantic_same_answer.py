"""When two answers are the same: keys, what they state, the measured default, judges."""

from __future__ import annotations

import random
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.errors import InvalidInput
from redis_tiered.llm_cache.semantic.answer_facts import facts_of
from redis_tiered.llm_cache.semantic.answer_numbers import has_more
from redis_tiered.llm_cache.semantic.same_answer import (
    Compared,
    SimilarAnswers,
    answer_key,
    judge_of,
    judged,
)
from tests.semantic.answers import MODEL, Pair, pairs, texts, vectors

PAIRS = pairs()
DEFAULT = SimilarAnswers.of_model(MODEL)


@pytest.fixture(scope="module")
def cosine() -> Any:
    known = vectors()
    return lambda a, b: float(known[a] @ known[b])


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Paris", "paris."),
        ("Paris", "  PARIS \n"),
        ("Paris", "**Paris**"),
        ('"Paris."', '"Paris".'),
        ("Paris", "“Paris”"),
        ("card_arrival", "`card_arrival`"),
        ("You can\nreturn it.", "You can return it!"),
        ("Ｐａｒｉｓ", "Paris"),  # noqa: RUF001
        ("caf\u00e9", "cafe\u0301"),
        ("A\u200bB", "AB"),
        ("def f(x):\n    return X", "def f(x):  \n    return X\n\n"),
    ],
    ids=str,
)
def test_keys_of_what_differs_in_look_only(a: str, b: str) -> None:
    assert answer_key(a) == answer_key(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("C", "C++"),
        ("C", "C#"),
        ("4", "-4"),
        ("1.5", "15"),
        ("5", "5%"),
        ("50", "$50"),
        ("x = Y", "x = y"),
        ("git branch -d `x`", "git branch -D `x`"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
        ("yes", "no"),
        ('"a" and "b"', 'a" and "b'),
        ("", "."),
        ("...", "."),
        ("5", "5!"),
        ("👍", "👎"),
    ],
    ids=str,
)
def test_keys_of_what_is_not_the_same(a: str, b: str) -> None:
    assert answer_key(a) != answer_key(b)


@given(st.text())
def test_a_key_is_32_hex_digits_of_any_text(text: str) -> None:
    key = answer_key(text)
    assert len(key) == 32
    assert int(key, 16) >= 0
    assert answer_key(f" {text} ") == key


@given(st.lists(st.from_regex(r"[a-z]{1,8}|[0-9]{1,4}", fullmatch=True), min_size=1))
def test_a_key_knows_no_case_and_no_breaks_of_prose(words: list[str]) -> None:
    assert answer_key(" ".join(words)) == answer_key("\n ".join(words).upper() + ".")


@given(st.integers(), st.integers())
def test_other_numbers_have_other_keys(a: int, b: int) -> None:
    assert (answer_key(f"It is {a}.") == answer_key(f"It is {b}.")) == (a == b)


# --- what an answer states ------------------------------------------------------------------------


def stated(text: str) -> set[tuple[Decimal, str]]:
    return {(number.value, number.unit) for number in facts_of(text).numbers}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("within 30 days", {("30", "day")}),
        ("three weeks", {("3", "week")}),
        ("two hundred euros", {("200", "EUR")}),
        ("€4.90", {("4.90", "EUR")}),
        ("4,90 euros", {("4.90", "EUR")}),
        ("8,849 metres", {("8849", "m")}),
        ("299 792 458 m/s", {("299792458", "m/s")}),
        ("15 percent and 20%", {("15", "%"), ("20", "%")}),
        ("-4 degrees", {("-4", "")}),
        ("from 3 pm to 11:30", {("15", ""), ("11.5", "")}),
        ("version 3.2.1", {("3", "3.2.1")}),
        ("100 requests per minute", {("100", ""), ("1", "minute")}),
        ("one of them", set()),
        ("1. Open it.\n2. Close it.", set()),
        ("5 billion", {("5", "")}),
        ("2-1", {("2", "")}),
        ("4111111111111111", {("4111111111111111", "")}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_numbers(text: str, numbers: set[tuple[str, str]]) -> None:
    assert stated(text) == {(Decimal(value), unit) for value, unit in numbers}


@pytest.mark.parametrize(
    ("a", "b", "fits"),
    [
        ("24 hours", "a day", True),
        ("half a minute", "30 seconds", True),
        ("100 °C", "100 degrees", True),
        ("two weeks", "14 days", True),
        ("18 years", "18", True),
        ("12 km", "12 miles", False),
        ("per second", "per minute", False),
        ("$50", "€50", False),
        ("1.2.34", "1.23.4", False),
        ("4111111111111111", "4111111111111112", False),
    ],
    ids=str,
)
def test_numbers_that_may_be_the_same(a: str, b: str, fits: bool) -> None:
    one, other = facts_of(a).numbers, facts_of(b).numbers
    assert has_more(one, other) is has_more(other, one) is not fits


def test_code_names_denials() -> None:
    facts = facts_of("No, run `git  push -f` with Anna; it isn't in Berlin, but never in APIv2.")
    assert facts.code == {"git push -f"}
    assert facts.names == {"anna", "berlin", "apiv2"}
    assert facts.opening is False
    assert facts.denials == 2
    assert {"berlin", "apiv2"} <= facts.denied
    assert facts_of("The water damage is not.").denied == {"water", "damag"}
    assert facts_of("SELECT a\nFROM t WHERE b = 'X';").code == {"select a from t where b = 'X'"}
    assert not facts_of("With a ticket from us you can cancel").code
    assert facts_of("Yes. Of course!").opening is True
    assert facts_of("Yesterday").opening is None


# --- comparisons ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "same", "reason"),
    [
        ("Paris", "paris.", True, "equal"),
        ("It takes 14 days.", "It takes 30 days.", False, "numbers"),
        ("Delivery takes 3 days.", "Delivery takes a while.", None, "numbers"),
        ("Use `git reset --soft`.", "Use `git reset --hard`.", False, "code"),
        ("Use `git reset`.", "Use it.", None, "code"),
        ("SELECT a FROM t WHERE b = 1", "select a  from t\nwhere b = 1;", True, "code"),
        ("SELECT a FROM t", "SELECT b FROM t", False, "code"),
        ("Yes, it does.", "No, it doesn't.", False, "yes_no"),
        ("Yes, it can be washed.", "This must never touch water at home.", None, "yes_no"),
        ("Dogs are allowed here.", "Dogs are not allowed here.", False, "denial"),
        ("You can buy tickets online.", "You can sell tickets online.", False, "antonym"),
        ("Please write to Anna.", "Please write to Paul.", False, "names"),
        ("Paris", "Paris, Texas", None, "names"),
        ("Turn the heating switch on.", "Turn the heating switch off.", None, "turning"),
        ("Members must pay the fee.", "Members may pay the fee.", None, "turning"),
        ("x > y", "x < y", None, "turning"),
        ("Use C++ here", "Use C here", None, "turning"),
        ("The train goes from Graz to Linz.", "The train goes from Linz to Graz.", None, "order"),
        ("2-1", "1-2", None, "order"),
        ("The jacket is blue.", "The jacket is green.", None, "words"),
        ("Sale items can be returned.", "You can return items on sale.", None, "order"),
        (
            "You collect one point for every euro that you spend.",
            "For every euro that you spend you collect one point.",
            True,
            "wording",
        ),
        ("oggi il negozio resta aperto", "la bottega lavora fino a sera", None, "language"),
        ("可以退货", "不可以退货", None, "language"),
        ("👍", "👎", None, "language"),
        ("You may pay by card.", "Cards of any bank are accepted.", True, "cosine"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_comparisons(a: str, b: str, same: bool | None, reason: str) -> None:
    assert DEFAULT.compare(a, b, 0.95) == Compared(same, reason)
    assert DEFAULT.compare(b, a, 0.95) == Compared(same, reason)


def test_thresholds_decide_about_other_words() -> None:
    a, b = "You may pay by card.", "Cards of any bank are accepted."
    compare = SimilarAnswers(0.8, 0.4)
    assert [compare(a, b, cosine) for cosine in (0.8, 0.79, 0.4, 0.39)] == [True, None, None, False]
    assert compare(a, b) is None
    assert compare("Keep the red box closed.", "Dogs drink cold soup.") is False  # nothing shared


def test_a_vector_tells_nothing_about_what_the_model_did_not_read() -> None:
    rest = " It is a long story of the house." * 40
    a, b = f"You may pay by card.{rest}", f"Cards of all banks are accepted.{rest} So it was."
    assert DEFAULT.compare(a, b, 0.99) in {(None, "length"), (None, "words"), (None, "turning")}
    assert SimilarAnswers(0.8, window=10).compare(
        "Pay by card.", "Cards of any bank are fine.", 0.9
    ) == (
        None,
        "length",
    )


def test_a_model_that_was_not_measured_decides_by_wording() -> None:
    for model in ("text-embedding-3-small", "", "x/y:z"):
        compare = SimilarAnswers.of_model(model)
        assert compare("You may pay by card.", "Cards of any bank are accepted.", 1.0) is None
        assert compare("Items can be returned.", "The items can be returned.", 0.1) is True
    for model in (
        "sentence-transformers/all-MiniLM-L6-v2",
        "HuggingFaceEmbeddings:all-MiniLM-L6-v2",
    ):
        assert SimilarAnswers.of_model(model) == DEFAULT


@pytest.mark.parametrize(
    "settings",
    [
        {"same": "0.9"},
        {"same": float("nan")},
        {"different": True},
        {"same": 0.1, "different": 0.2},
        {"window": -1},
    ],
    ids=str,
)
def test_thresholds_that_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        SimilarAnswers(**settings)


def test_words_of_a_language_that_nobody_has() -> None:
    with pytest.raises(InvalidInput):
        SimilarAnswers(language="tlh")("a", "b")


WORDS = st.lists(
    st.sampled_from(
        [
            "yes",
            "no",
            "not",
            "3",
            "4",
            "%",
            "Paris",
            "x",
            ">",
            "<",
            "`a`",
            "off",
            "only",
            "buy",
            "sell",
        ]
    )
)


@given(WORDS, WORDS, st.floats(-1, 1), st.floats(-1, 1))
def test_a_higher_cosine_never_makes_them_less_alike(
    a: list[str], b: list[str], one: float, other: float
) -> None:
    rank = {False: 0, None: 1, True: 2}
    low, high = (DEFAULT(" ".join(a), " ".join(b), cosine) for cosine in sorted((one, other)))
    assert rank[low] <= rank[high]


@given(st.text(), st.text(), st.floats(-1, 1))
def test_any_two_texts_can_be_compared_either_way(a: str, b: str, cosine: float) -> None:
    assert DEFAULT.compare(a, b, cosine) == DEFAULT.compare(b, a, cosine)
    assert DEFAULT(a, a, cosine) is True


@pytest.mark.parametrize(
    "piece",
    [
        "word ",
        "1 2 ",
        "a",
        "`",
        "```\n",
        "*_",
        "1,000",
        "1.2.",
        "select x from ",
        "no ",
        "A. ",
        "\n",
        "half a ",
        "1 000 ",
        '"',
        "**",
        "n't ",
        "9" * 50 + " ",
    ],
    ids=repr,
)
def test_long_answers_take_no_more_than_their_length(piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    start = time.perf_counter()
    DEFAULT.compare(text, f"{text[::-1]} 77", 0.9)
    assert time.perf_counter() - start < 10  # 0.5 s alone; a square of the length would be hours


# --- the measured default -------------------------------------------------------------------------


def test_the_pairs_are_many_and_of_all_kinds() -> None:
    assert sum(pair.same for pair in PAIRS) >= 240
    assert sum(not pair.same for pair in PAIRS) >= 240
    kinds = Counter(pair.kind for pair in PAIRS if not pair.same)
    assert {"number", "opposite", "entity", "caveat", "step", "code", "answer", "swap"} <= set(
        kinds
    )
    halves = [{pair.topic for pair in PAIRS if pair.chosen_on is half} for half in (True, False)]
    assert not halves[0] & halves[1]
    assert min(map(len, halves)) >= 60
    assert not {(pair.a, pair.b) for pair in PAIRS if pair.same} & {
        (pair.a, pair.b) for pair in PAIRS if not pair.same
    }


def rate(found: list[Pair], verdict: bool, cosine: Any, compare: SimilarAnswers = DEFAULT) -> float:
    said = [compare(pair.a, pair.b, cosine(pair.a, pair.b)) for pair in found]
    return sum(each is verdict for each in said) / len(said)


@pytest.mark.parametrize("chosen_on", [True, False], ids=["chosen-on", "reported"])
def test_how_good_the_default_is(cosine: Any, chosen_on: bool) -> None:
    half = [pair for pair in PAIRS if pair.chosen_on is chosen_on]
    equal = [pair for pair in half if pair.same]
    unequal = [pair for pair in half if not pair.same]
    assert rate(unequal, True, cosine) <= 0.03
    assert rate(equal, True, cosine) >= 0.15
    assert rate(equal, False, cosine) <= 0.04
    assert rate(unequal, False, cosine) >= 0.4
    assert rate(unequal, True, lambda a, b: None) <= 0.01


def test_a_cosine_alone_would_not_do(cosine: Any) -> None:
    """What the comparison of what they state is for."""
    alike = [pair for pair in PAIRS if cosine(pair.a, pair.b) >= DEFAULT.same]
    assert sum(not pair.same for pair in alike) / len(alike) > 0.4
    told = [pair for pair in alike if DEFAULT(pair.a, pair.b, cosine(pair.a, pair.b))]
    assert sum(not pair.same for pair in told) / len(told) < 0.15


def test_answers_to_different_questions_are_not_the_same(cosine: Any) -> None:
    topic = {text: pair.topic for pair in PAIRS for text in (pair.a, pair.b)}
    chance = random.Random(1)
    drawn = (chance.sample(texts(), 2) for _ in range(600))
    said = Counter(DEFAULT(a, b, cosine(a, b)) for a, b in drawn if topic[a] != topic[b])
    assert said[True] == 0
    assert said[False] / said.total() > 0.95


def test_the_stored_vectors_are_of_unit_length() -> None:
    for vector in vectors().values():
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-3)


# --- judges ---------------------------------------------------------------------------------------


class Judge:
    async def __call__(self, a: str, b: str) -> bool:
        return a == b


@pytest.mark.parametrize(
    "judge",
    [None, lambda a, b: True, Judge(), lambda *texts: None, lambda a, b, c=1: None, DEFAULT],
    ids=["none", "function", "object", "any", "default", "similar"],
)
def test_judges(judge: Any) -> None:
    assert judge_of(judge) is judge


@pytest.mark.parametrize(
    "judge",
    ["model", True, Judge, lambda: True, lambda a: True, lambda a, b, c: True],
    ids=["str", "bool", "class", "none", "one", "three"],
)
def test_what_is_no_judge(judge: Any) -> None:
    with pytest.raises(InvalidInput, match="same_answer must be a function of two answers"):
        judge_of(judge)


@pytest.mark.parametrize("verdict", [True, False, None, np.True_], ids=repr)
def test_verdicts(verdict: Any) -> None:
    assert judged(verdict) == verdict


@pytest.mark.parametrize(
    "verdict", ["yes", 1, 0.9, [], Judge()], ids=lambda each: type(each).__name__
)
def test_what_is_no_verdict(verdict: Any) -> None:
    with pytest.raises(InvalidInput, match="same_answer must return True, False or None"):
        judged(verdict)
