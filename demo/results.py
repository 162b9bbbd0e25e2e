"""The closing tables and the verdict, from what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from demo.messages import Answered, Ended
from demo.screen import Screen
from demo.tally import TIERS, Tally

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """All that was counted.

    Attributes:
        tally: what the workers saw.
        again: what the fresh process was answered, after the outage and with Redis emptied.
        counted: what the caches of the workers counted themselves.
        price: dollars per million tokens, input and output; None: not known for this model.
        calls: requests that the local model servers received; None: the real API.
    """

    tally: Tally
    again: Sequence[Answered]
    counted: Sequence[Ended]
    price: tuple[float, float] | None
    calls: int | None

    def show(self, screen: Screen) -> bool:
        """Show tables and verdict; tells whether all is well."""
        screen.say()
        screen.phases(self.tally.by_phase())
        screen.latencies({tier: self.tally.of(tier) for tier in TIERS})
        screen.say(
            "Measured in the workers, between pauses, all at once (`make bench` measures one alone).\n"
        )
        screen.savings(self._savings())
        verdicts = [self._errors(), self._lost(), self._crossed(), self._wrong(), self._agreed()]
        for good, text in verdicts:
            screen.verdict(good, text)
        return all(good for good, _ in verdicts)

    def _savings(self) -> list[tuple[str, str, str]]:
        paid_in = sum(each.tokens[0] for each in self.tally.answers)
        paid_out = sum(each.tokens[1] for each in self.tally.answers)
        saved_in = sum(each.tokens[0] for each in self.counted)
        saved_out = sum(each.tokens[1] for each in self.counted)
        rows = [
            ("model calls", f"{len(self.tally.of('model')):,}", f"{len(self.tally.hits):,}"),
            ("tokens in", f"{paid_in:,}", f"{saved_in:,}"),
            ("tokens out", f"{paid_out:,}", f"{saved_out:,}"),
        ]
        if self.price is not None:
            paid = (paid_in * self.price[0] + paid_out * self.price[1]) / 1e6
            saved = sum(each.money for each in self.counted)
            rates = f"{self.price[0]:.2f} in, {self.price[1]:.2f} out per million tokens"
            rows.append((f"dollars, at {rates} (an example)", f"{paid:.4f}", f"{saved:.4f}"))
        return rows

    def _errors(self) -> tuple[bool, str]:
        errors = self.tally.errors
        text = f"errors {len(errors)} in {len(self.tally.answers):,} requests"
        return not errors, f"{text}; the first: {errors[0]}" if errors else text

    def _lost(self) -> tuple[bool, str]:
        said = self.tally.bought()
        kept = sum(
            each.tier == "durable" and not each.error and each.digest in said[each.ask]
            for each in self.again
        )
        lost = len(said) - kept
        return not lost, (
            f"lost entries {lost}: the fresh process found {kept} of the {len(said)} answers paid for"
            " in SQLite"
        )

    def _crossed(self) -> tuple[bool, str]:
        hits = [*self.tally.hits, *(each for each in self.again if each.tier != "model")]
        crossed = self.tally.crossed(hits)
        text = f"cross-tenant hits {crossed}"
        if self.calls is not None:
            text += f"; in {self.tally.tempted()} hits the other tenant had asked in the very same words"
        return not crossed, text

    def _wrong(self) -> tuple[bool, str]:
        hits = [*self.tally.hits, *(each for each in self.again if each.tier != "model")]
        wrong = self.tally.wrong(hits)
        return not wrong, (
            f"wrong answers {wrong} in {len(hits):,} hits, each compared with what this tenant's model "
            "said"
        )

    def _agreed(self) -> tuple[bool, str]:
        """Three counts of the same thing: by the workers, by the caches, by the model's server."""
        seen = Counter(each.tier for each in self.tally.hits)
        counted: Counter[str] = Counter()
        for each in self.counted:
            counted.update(each.hits)
        misses = sum(each.misses for each in self.counted)
        calls = len(self.tally.of("model"))
        good = seen == counted and misses == calls and self.calls in (None, calls)
        text = f"counters: hits {dict(seen)}, model calls {calls}"
        if good:
            sides = " and caches" if self.calls is None else ", caches and models"
            return True, (
                f"{calls} model calls for {len(self.tally.bought())} different requests: the "
                f"workers{sides} counted alike"
            )
        return False, (
            f"{text}; the caches counted {dict(counted)} and {misses}, the model {self.calls}"
        )
