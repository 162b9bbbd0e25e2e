"""The closing tables and the verdict, from what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from demo.messages import Added, Answered, Ended, Recalled, Seen
from demo.screen import Screen
from demo.tally import TIERS, Tally
from demo.transcript import Faults, Transcript
from redis_tiered.sessions.trust import LEASE

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """All that was counted.

    Attributes:
        tally: what the workers saw.
        again: what the fresh process was answered, after the outage and with Redis emptied.
        recalled: the conversations that it found.
        counted: what the caches of the workers counted themselves.
        price: dollars per million tokens, input and output; None: not known for this model.
        calls: requests that the local model servers received; None: the real API.
    """

    tally: Tally
    again: Sequence[Answered]
    recalled: Recalled
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
        screen.conversations(self._steps())
        if any(added.seconds >= LEASE for added in self.tally.while_down(self.tally.added)):
            screen.say(
                "The first turns added after Redis has died wait 0.3 s: then nobody can believe an old "
                "window.\n"
            )
        screen.savings(self._savings())
        verdicts = [
            self._errors(),
            self._lost(),
            self._crossed(),
            self._wrong(),
            self._agreed(),
            self._lost_messages(),
            self._stale(),
        ]
        for good, text in verdicts:
            screen.verdict(good, text)
        return all(good for good, _ in verdicts)

    def _steps(self) -> dict[str, list[Added] | list[Seen]]:
        added, seen, of = self.tally.added, self.tally.seen, self.tally.while_down
        return {
            "a turn added, with Redis": of(added, down=False),
            "a turn added, without": of(added),
            "a window read, with Redis": of(seen, down=False),
            "a window read, without": of(seen),
        }

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
        text = (
            f"errors {len(errors)} in {len(self.tally.answers):,} requests, "
            f"{len(self.tally.added):,} turns added and {len(self.tally.seen):,} windows read"
        )
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

    def _lost_messages(self) -> tuple[bool, str]:
        """Each acknowledged message is in the log of its conversation, once and in order."""
        told = self.tally.transcripts()
        kept = self.recalled.logs
        found = [
            told.get(talk, Transcript()).faults(kept.get(talk, ())) for talk in {**told, **kept}
        ]
        faults = Faults(*map(sum, zip(*found, strict=True))) if found else Faults()
        count = sum(len(each.acknowledged) for each in told.values())
        text = f"lost messages {faults.lost}"
        if not any(faults) and not self.recalled.error:
            return True, (
                f"{text}: {count:,} were added to {len(told)} conversations, each is there once "
                "and in its place"
            )
        text += (
            f" of {count:,} in {len(told)} conversations; doubled {faults.doubled}, moved "
            f"{faults.moved}, strange {faults.strange}"
        )
        error = self.recalled.error
        return False, f"{text}; {error}" if error else text

    def _stale(self) -> tuple[bool, str]:
        """Of windows that were read: by users before each question, and by the fresh process."""
        told = self.tally.transcripts()
        kept = self.recalled.windows
        faults = Counter(each.fault for each in self.tally.seen if not each.error)
        faults.update(told[talk].fault_of_window(kept.get(talk, ())) for talk in told)
        good = faults.total() == faults[""]
        text = f"stale windows {faults['stale']} in {faults.total():,} read"
        if good:
            return True, f"{text}; each ended with the whole turn that its user had added last"
        return False, f"{text}; {faults['torn']} others are not the newest whole turns"
