"""The parts of a text that the guard compares."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

__all__ = ["Parsed"]

_NONE: Set[Any] = frozenset()
_EMPTY: dict[str, tuple[str, str]] = {}


class Parsed:
    """A text's parts, made of stems and of names of classes' members.

    Attributes:
        hidden: it holds more that nobody sees than normal typing leaves.
        scripts: those besides Latin. code: fenced blocks and indented lines.
        quotes: the stems of each quotation.
        frame: all stems in order but for articles and fillers; content: without function words.
        said: content that is not denied; stems: stems and keys of all words.
        numbers: in order, each once; counted: numbers with the unit beside them.
        codes: identifiers. symbols: operators and emoji.
        names: capitalised words, (key, stem); members: (class, thing).
        places: what has a part to play, with the word before it that tells which.
        denied: the word behind each negation; doubtful: and the next one.
        negations: how many deny something; inverted: what one denies cannot be told.
        denials: negations at all.
        questions: what is asked for. genders: pronouns' groups in order. owned: (whose, what).
        ands, ors: pairs of words so joined. status: groups of phrases such as "used to".
        opposable: words that have an antonym.
        roots: words without their prefix, and the prefix.
        passive: an agent is named; being: there is a verb of the passive.
        symmetric: a relation that holds both ways. trouble: something does not work.
        kinds_compared: "are cats better than dogs", a pair of kinds.
        of_object: "who did he see", not "who saw him"; None: neither.
    """

    __slots__ = (
        "ands",
        "being",
        "code",
        "codes",
        "content",
        "counted",
        "denials",
        "denied",
        "doubtful",
        "frame",
        "genders",
        "hidden",
        "inverted",
        "kinds_compared",
        "members",
        "names",
        "negations",
        "numbers",
        "of_object",
        "opposable",
        "ors",
        "owned",
        "passive",
        "places",
        "questions",
        "quotes",
        "roots",
        "said",
        "scripts",
        "status",
        "stems",
        "symbols",
        "symmetric",
        "trouble",
    )

    def __init__(self) -> None:
        self.hidden = self.passive = self.being = self.symmetric = self.trouble = False
        self.inverted = self.kinds_compared = False
        self.of_object: bool | None = None
        self.negations = self.denials = 0
        self.code: tuple[str, ...] = ()
        self.frame: list[str] = []
        self.content: list[str] = []
        self.stems: set[str] = set()
        self.places: dict[str, str] = {}
        self.numbers: list[str] = []
        self.opposable: list[str] = []
        self.genders: tuple[str, ...] = ()
        # most texts have none of what follows: one empty set serves them all
        self.quotes: Set[tuple[str, ...]] = _NONE
        self.counted: Set[tuple[str, str]] = _NONE
        self.members: Set[tuple[str, str]] = _NONE
        self.owned: Set[tuple[str, str]] = _NONE
        self.ands: Set[frozenset[str]] = _NONE
        self.ors: Set[frozenset[str]] = _NONE
        self.roots: dict[str, tuple[str, str]] = _EMPTY
        self.scripts: Set[str] = _NONE
        self.codes: Set[str] = _NONE
        self.symbols: Set[str] = _NONE
        self.names: Set[tuple[str, str]] = _NONE
        self.said: Set[str] = _NONE
        self.denied: Set[str] = _NONE
        self.doubtful: Set[str] = _NONE
        self.questions: Set[str] = _NONE
        self.status: Set[str] = _NONE
