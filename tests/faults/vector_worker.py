"""Another process with the same collection, told what to do: `python -m tests.faults.vector_worker`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from redis_tiered.errors import TierError
from redis_tiered.flow import Redis
from redis_tiered.tiers.redis import SyncRedis
from redis_tiered.tiers.tiers import Tiers
from redis_tiered.vectors import upkeep
from redis_tiered.vectors.document import Document, Hit
from tests.faults.session_worker import Acknowledged
from tests.faults.worker import Worker

__all__ = ["DIMS", "QUERY", "Progress", "VectorWorker", "document", "nearest", "vector"]

T = TypeVar("T")
DIMS: Final = 8
# A change with a number that this divides removes its document.
_REMOVES: Final = 4


def vector(text: str) -> NDArray[np.float32]:
    """Some vector that belongs to a text, in float16 and so in every engine exactly."""
    made = np.random.default_rng(list(text.encode())).normal(size=DIMS)
    return made.astype(np.float16).astype(np.float32)


QUERY: Final = vector("the query")


def document(id: str, text: str = "") -> Document:
    text = text or f"text of {id}"
    return Document(id, vector(text), text, {"of": id})


def nearest(texts: dict[str, str], k: int | None = None) -> list[str]:
    """Ids by cosine distance to `QUERY`, by brute force."""

    def distance(id: str) -> tuple[float, str]:
        one = vector(texts[id]).astype(np.float64)
        asked = QUERY.astype(np.float64)
        return -float(one @ asked / np.linalg.norm(one) / np.linalg.norm(asked)), id

    return sorted(texts, key=distance)[:k]


class Progress:
    """How far a writer has come with each of some documents, in memory that processes share.

    A writer makes changes 1, 2, ... in order; change `n` concerns document `n % documents` and gives
    it the text `n`, or removes it. It notes when it begins one and when that was acknowledged. So what
    a reader may find of a document is known.
    """

    def __init__(self, path: Path, documents: int = 0) -> None:
        self.shared = Acknowledged(path, 2 * documents)
        self.documents = len(self.shared.all()) // 2

    def begin(self, change: int) -> None:
        self.shared[self.documents + change % self.documents] = change

    def acknowledge(self, change: int) -> None:
        self.shared[change % self.documents] = change

    def acknowledged(self) -> list[int]:
        return self.shared.all()[: self.documents]

    def begun(self) -> list[int]:
        return self.shared.all()[self.documents :]

    @property
    def latest(self) -> int:
        return max(self.acknowledged())

    def problem(self, before: list[int], shown: dict[str, str], after: list[int]) -> str:
        """What is wrong with an answer; "" if nothing is.

        Args:
            before: what was acknowledged before it was asked for.
            shown: texts by id.
            after: what was begun when it was there.
        """
        for which in range(self.documents):
            later = range(before[which] + 1, after[which] + 1)
            changes = [before[which], *(n for n in later if n % self.documents == which)]
            allowed = {_text(change) for change in changes}
            if (text := shown.get(f"d{which}", "")) not in allowed:
                return f"d{which} is {text!r}, not one of {sorted(allowed)}"
        if surplus := set(shown) - {f"d{which}" for which in range(self.documents)}:
            return f"{surplus} should not be there"
        return ""

    def texts(self) -> dict[str, str]:
        """What there must be when all is done."""
        found = {f"d{i}": _text(change) for i, change in enumerate(self.acknowledged())}
        return {id: text for id, text in found.items() if text}


def _text(change: int) -> str:
    """Of the document after it; empty: it is not there."""
    return "" if change % _REMOVES == 0 else str(change)


class VectorWorker(Worker):
    """The process, seen from the test.

    Args:
        redis, durable: URLs of its tiers.
        settings: of its `Tiers`.
        options: of its collection, which is called "c".
    """

    MODULE = "tests.faults.vector_worker"

    def __init__(
        self,
        redis: str,
        durable: str | None,
        *,
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(redis, durable, settings=settings or {}, **options)


class _Served:
    """The process, seen from inside."""

    def open(self, redis: str, durable: str | None, options: dict[str, Any]) -> bool:
        self._tiers = Tiers(redis, durable, **options.pop("settings"))
        self._collection = self._tiers.collection("c", **options)
        with contextlib.suppress(TierError):
            self._tiers.setup(timeout=0)
        return True

    def upsert(self, texts: dict[str, str]) -> bool | str:
        """Whether it was accepted; or what went wrong."""
        return _said(
            lambda: bool(self._collection.upsert([document(*item) for item in texts.items()]))
        )

    def delete(self, *ids: str) -> int | str:
        return _said(lambda: self._collection.delete(list(ids)))

    def search(self, k: int | None = 100) -> list[list[str]] | str:
        """Ids and texts, nearest first; or what went wrong."""
        return _said(lambda: _shown(self._collection.search(QUERY, k)))

    def stats(self) -> dict[str, int]:
        return self._collection.stats()

    def ingest(self, count: int, each: int, path: str) -> dict[str, Any]:
        """Upsert `i0`, `i1`, ... in batches, each until it is acknowledged."""
        progress = Acknowledged(Path(path))
        failures: Counter[str] = Counter()
        while (first := progress[0]) < count:
            batch = [document(f"i{i}") for i in range(first, min(first + each, count))]
            said = _said(lambda batch=batch: bool(self._collection.upsert(batch)))  # type: ignore[misc]
            if said is True:
                progress[0] = first + len(batch)
            else:
                failures[str(said)] += 1
                time.sleep(0.005)
        return {"failures": failures}

    def write(self, changes: int, path: str) -> dict[str, Any]:
        """Make changes from where it was left, each until it is acknowledged."""
        progress = Progress(Path(path))
        failures: Counter[str] = Counter()
        slowest = 0.0
        for change in range(progress.latest + 1, changes + 1):
            begin = time.monotonic()
            progress.begin(change)
            id, text = f"d{change % progress.documents}", _text(change)
            while True:
                try:
                    if text:
                        self._collection.upsert([document(id, text)])
                    else:
                        self._collection.delete([id])
                    break
                except TierError as error:
                    failures[f"{error.tier}.{error.kind}"] += 1
                    time.sleep(0.005)
            progress.acknowledge(change)
            slowest = max(slowest, time.monotonic() - begin)
            time.sleep(0.002)
        return {"failures": failures, "slowest": slowest, "stats": self.stats()}

    def read(self, path: str, style: str) -> dict[str, Any]:
        """Search until the writer is done; tells what was wrong."""
        progress = Progress(Path(path))
        problems: list[str] = []
        queries = 0
        while True:
            last = progress.shared.finished
            before = progress.acknowledged()
            try:
                if style == "sync":
                    hits = self._collection.search(QUERY, 100)
                else:
                    hits = self._loop().run(self._collection.asearch(QUERY, 100))
            except TierError as error:
                problems.append(f"{error.tier}.{error.kind}: {error}")
            else:
                texts = dict(_shown(hits))
                after = progress.begun()
                problem = progress.problem(before, texts, after)
                # What is changed meanwhile may be given as it is now, found by what it was.
                if before == after and [hit.document.id for hit in hits] != nearest(texts):
                    problem = f"the order is wrong: {hits}"
                if problem:
                    problems.append(f"query {queries}: {problem}")
            queries += 1
            if last:
                return {"queries": queries, "problems": problems, "stats": self.stats()}
            time.sleep(0.004)

    def quarrel(self, name: str, rounds: int, ids: Sequence[str]) -> bool:
        """Upsert and delete some of the same documents as others do."""
        choose = random.Random(name)
        for number in range(rounds):
            some = choose.sample(list(ids), choose.randint(1, 3))
            if choose.random() < 0.3:
                self._collection.delete(some)
            else:
                self._collection.upsert([document(id, f"{name} {number} {id}") for id in some])
        return True

    def rebuild(self, die_after: int = 0) -> list[int] | str:
        """How many documents, and how many an earlier one had brought; or what went wrong.

        Args:
            die_after: SIGKILL ourselves when so many are done; 0: do not.
        """
        upkeep._LEASE_MS = 700  # type: ignore[misc]  # who follows when we die need not wait long

        def progress(done: int, total: int) -> None:
            if 0 < die_after <= done:
                os.kill(os.getpid(), signal.SIGKILL)

        return _said(lambda: list(self._collection.rebuild(progress)[:2]))

    def die_when_sending(self, word: str) -> bool:
        """SIGKILL ourselves instead of sending Redis a command, or script, with this word."""
        inner = SyncRedis.execute

        def execute(self: SyncRedis, step: Redis, *, fresh: bool) -> list[Any]:
            if any(word in str(part) for command in step.commands for part in command):
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(self, step, fresh=fresh)

        SyncRedis.execute = execute  # type: ignore[method-assign]
        return True

    def _loop(self) -> asyncio.Runner:
        if not hasattr(self, "_runner"):
            self._runner = asyncio.Runner()
        return self._runner

    def end(self) -> None:
        if hasattr(self, "_runner"):
            self._runner.run(self._tiers.aclose())
            self._runner.close()
        self._tiers.close()
        sys.exit()


def _shown(hits: Sequence[Hit]) -> list[list[str]]:
    return [[hit.document.id, hit.document.text] for hit in hits]


def _said(action: Callable[[], T]) -> T | str:
    try:
        return action()
    except TierError as error:
        return f"{error.tier}.{error.kind}"


def _serve() -> None:
    served = _Served()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        result = getattr(served, name)(*arguments)
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _serve()
