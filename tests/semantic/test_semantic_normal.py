"""Spellings that share a normal form, and texts that must not."""

# ruff: noqa: RUF001 - look-alikes are what this is about
from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redis_tiered.llm_cache.semantic.normal import hidden, normal

SAME = {
    "case of the first word": ("What is a window?", "what is a window?"),
    "final punctuation": ("What is Python?", "What is Python"),
    "several marks": ("Why?!", "Why"),
    "blanks": ("  how  do you \t do ", "how do you do"),
    "I": ("How do I pay?", "how do i pay"),
    "full width": ("１２ ｐｉｅｃｅｓ", "12 pieces"),
    "ligature": ("ﬁnd ﬂats", "find flats"),
    "composed": ("cafe\u0301 prices", "café prices"),
    "zero width": ("can\u200bcel my or\u00adder", "cancel my order"),
    "byte order mark": ("\ufeffhello there", "hello there"),
    "no-break space": ("hello\u00a0there", "hello there"),
    "mathematical letters": ("𝐡𝐞𝐥𝐥𝐨 there", "hello there"),
    "second sentence": ("Hi. How are you", "hi. how are you"),
}

OTHER = {
    "C and C++": ("what is C", "what is C++"),
    "C++ and C#": ("what is C++?", "what is C#?"),
    "# and ##": ("what does # mean", "what does ## mean"),
    "US and us": ("who elected US", "who elected us"),
    "IT and it": ("is IT hard", "is it hard"),
    "a name within": ("how to Polish a shoe", "how to polish a shoe"),
    "German Ihr and ihr": ("wo ist Ihr Konto", "wo ist ihr Konto"),
    "ß and ss": ("in Maßen trinken", "in Massen trinken"),
    "superscript": ("what is 2⁵", "what is 25"),
    "fraction": ("what is 1½", "what is 11⁄2"),
    "factorial": ("what is 5!", "what is 5"),
    ".NET and NET": ("what is .NET", "what is NET"),
    "indentation": ("if x:\n  y()", "if x:\n    y()"),
    "tab and blanks in code": ("run:\n\ty", "run:\n    y"),
    "blanks in quotes": ("split 'a  b'", "split 'a b'"),
    "case in code": ("fix:\nFOO = 1", "fix:\nfoo = 1"),
    "case in quotes": ("what is 'Foo'", "what is 'foo'"),
    "only marks": ("?", "!"),
    "hidden tags": ("what is it\U000e0041\U000e0042", "what is it"),
    "much that is hidden": ("what is it" + "\u200b\u200c" * 8, "what is it"),
    "emoji sequences": ("draw 👩\u200d💻", "draw 👩💻"),
}


@pytest.mark.parametrize("pair", SAME.values(), ids=SAME.keys())
def test_spellings_of_one_text_meet(pair: tuple[str, str]) -> None:
    assert normal(pair[0]) == normal(pair[1])


@pytest.mark.parametrize("pair", OTHER.values(), ids=OTHER.keys())
def test_texts_that_may_mean_something_else_stay_apart(pair: tuple[str, str]) -> None:
    assert normal(pair[0]) != normal(pair[1])


@pytest.mark.parametrize("text", ["", "?", "...", "!!", " ", "\n", "\u200b"])
def test_punctuation_alone_is_kept(text: str) -> None:
    assert normal(text) == text.strip(" \n\u200b")


@given(st.text())
def test_a_normal_form_is_its_own(text: str) -> None:
    once = normal(text)
    assert normal(once) == once


@given(st.text())
def test_canonical_equivalents_are_one(text: str) -> None:
    assert normal(unicodedata.normalize("NFD", text)) == normal(unicodedata.normalize("NFC", text))


@given(st.text(st.characters(max_codepoint=0x7F)))
def test_ascii_hides_nothing(text: str) -> None:
    assert not hidden(text)


def test_a_few_hidden_characters_are_a_slip_and_many_are_not() -> None:
    assert not hidden("zero\u200bwidth\u00ad")
    assert hidden("a" + "\u200b" * 9)
    assert hidden("a\U000e0061")
    assert not hidden("👩\u200d👩\u200d👧\u200d👦 " * 9)


@pytest.mark.parametrize(
    "unit", ["a", " ", "?", "\u200b", "e\u0301", "\n", "'", "A. ", "👩\u200d"], ids=repr
)
def test_long_texts_take_linear_time(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    began = time.process_time()
    normal(text)
    assert time.process_time() - began < 2
