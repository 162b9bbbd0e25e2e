"""What an evaluation found: hits, wrong answers, why others were not served, and the curve around it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis_tiered.llm_cache.semantic.tools import chart
from redis_tiered.llm_cache.semantic.tools.calibration import Point

__all__ = ["Evaluation"]

VERSION = 1


@dataclass(frozen=True)
class Evaluation:
    """What a policy does with a log or with pairs; plain JSON by `as_dict`.

    Attributes:
        model: the embedding model's name.
        source: `"log"` or `"pairs"`.
        decision: in words, by what was decided.
        requests: prompts replayed, or pairs; repeats of a prompt are the exact cache's, and not among
            them.
        repeated: prompts that were asked more than once.
        served, wrong, audits: of the requests.
        hit_rate, wrong_per_request, wrong_per_hit: shares.
        intervals: two-sided, of `hit_rate`, `wrong_per_request` and `wrong_per_hit`, by name.
        warm: `hit_rate` and `wrong_per_request` of the later half of the log, by name.
        p_chr_auc: area under precision against cache-hit ratio (arXiv 2606.19719), 0 to 1.
        reasons: how often each outcome of a decision came, most frequent first.
        max_error: the budget of the policy, wrong answers per request.
        theta: in force at the end; None: none was.
        curve: the same decision at fixed thresholds of its probability, without budget and learning.
        baseline: a fixed threshold of cosine, without guard: what other semantic caches do.
        confidence: of the intervals.
        warnings: what is wrong with the data, in words.
        created: ISO 8601, UTC.
    """

    model: str
    source: str
    decision: str
    requests: int
    repeated: int
    served: int
    wrong: int
    audits: int
    hit_rate: float
    wrong_per_request: float
    wrong_per_hit: float
    intervals: Mapping[str, tuple[float, float]]
    warm: Mapping[str, float]
    p_chr_auc: float
    reasons: Mapping[str, int]
    max_error: float
    theta: float | None
    curve: tuple[Point, ...]
    baseline: tuple[Point, ...]
    confidence: float
    warnings: tuple[str, ...]
    created: str

    def __repr__(self) -> str:
        return (
            f"<Evaluation {self.model!r} {self.requests} requests, hits={self.hit_rate:.1%} "
            f"wrong={self.wrong_per_request:.2%} of requests, {self.wrong_per_hit:.2%} of hits>"
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON, with the version of its format."""
        found = dict(vars(self))
        for name in ("intervals", "warm", "reasons"):
            found[name] = dict(found[name])
        found["intervals"] = {name: list(pair) for name, pair in self.intervals.items()}
        for name in ("curve", "baseline"):
            found[name] = [list(point) for point in found[name]]
        return {**found, "warnings": list(self.warnings), "version": VERSION}

    def best_baseline(self) -> Point | None:
        """The fixed cosine with most hits within the budget, known only with hindsight."""
        fit = [point for point in self.baseline if point.rate <= self.max_error]
        return max(fit, key=lambda point: point.hit_rate, default=None)

    def table(self) -> str:
        """The result, its reasons and both curves, as text of at most 100 columns."""
        unit = "prompts" if self.source == "log" else "pairs"
        asked = f"{self.requests:,} {unit}"
        if self.repeated:
            asked += f"; {self.repeated:,} more than once, which the exact cache answers"
        lines = [
            f"{'embedding model':<17} {self.model}",
            f"{'decided by':<17} {self.decision}",
            f"{'asked':<17} {asked}",
            f"{'hits':<17} {self.hit_rate:.1%}{self._warm()}",
            self._row("wrong per request", "wrong_per_request")
            + f"   (budget {self.max_error:.2%})",
            self._row("wrong per hit", "wrong_per_hit"),
            f"{'P-CHR AUC':<17} {self.p_chr_auc:.3f}",
            f"{'outcomes':<17} "
            + ", ".join(f"{name} {count:,}" for name, count in list(self.reasons.items())[:7]),
        ]
        best = self.best_baseline()
        said = (
            f"{best.hit_rate:.1%} hits at best within the budget (cosine >= {best.theta:.2f}, "
            "known with hindsight only)"
            if best is not None and best.hit_rate > 0
            else "none is within the budget"
        )
        lines += [f"{'fixed cosine':<17} {said}", ""]
        lines += chart.rows(self.curve, chosen=None, per="request")
        lines += ["", *chart.rows(self.baseline, chosen=None, per="request", name="cosine >=")]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def _warm(self) -> str:
        if not self.warm:
            return ""
        return (
            f"; in the later half {self.warm['hit_rate']:.1%}, "
            f"with {self.warm['wrong_per_request']:.2%} wrong per request"
        )

    def _row(self, title: str, name: str) -> str:
        low, high = self.intervals[name]
        return f"{title:<17} {getattr(self, name):.2%} ({self.wrong:,}), {low:.2%} to {high:.2%}"

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Hit rate against wrong answers: the policy, its curve, and fixed thresholds of cosine.

        Args:
            path: of the PNG, SVG or PDF to write; None: the matplotlib figure is returned only.

        Raises:
            MissingExtra: matplotlib is not installed.
            InvalidInput: the file cannot be written.
        """
        return chart.draw(
            self._lines(),
            per="request",
            title=f"Evaluation with {self.model}",
            chosen=chart.Mark(
                f"this policy\n{self.hit_rate:.1%} hits, {self.wrong_per_request:.2%} wrong",
                self.hit_rate,
                self.wrong_per_request,
                self.intervals["wrong_per_request"],
            ),
            target=self.max_error,
            note=f"{self.requests:,} {'prompts' if self.source == 'log' else 'pairs'}; bar and band: "
            f"{self.confidence:.0%} interval",
            path=path,
        )

    def sketch(self, width: int = 72) -> str:
        """The same plot in characters."""
        return chart.sketch(
            self._lines(),
            per="request",
            chosen=(self.hit_rate, self.wrong_per_request),
            target=self.max_error,
            width=width,
            here="this policy",
        )

    def _lines(self) -> list[chart.Line]:
        lines = [chart.Line("fixed thresholds of p", self.curve, band=True)] if self.curve else []
        return [*lines, chart.Line("fixed thresholds of cosine", self.baseline)]
