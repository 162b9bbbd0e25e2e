"""The closing tables and the verdict, from what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demo.messages import Added, Answered, Ended, Filed, Looked, Recalled, Seen
from demo.register import Mistakes, Register
from demo.screen import Screen
from demo.tally import TIERS, Tally
from demo.transcript import Faults, Transcript
from demo.wordings import Served
from redis_tiered.sessions.trust import LEASE

__all__ = ["Results"]


@dataclass(frozen=True)
class Results:
    """All that was counted.

    Attributes:
        tally: what the workers saw.
        again: what the fresh process was answered, after the outage and with Redis emptied.
        recalled: the conversations and tickets that it found.
        looked: lookups of tickets that belong to no request.
        counted: what the workers' caches and collections counted themselves.
        served: what the fresh process's collection did.
        price: dollars per million tokens, input and output; None: not known for this model.
        calls: requests that the local model servers received; None: the real API.
        worded: what came of questions in other words; None: they were not asked.
    """

    tally: Tally
    again: Sequence[Answered]
    recalled: Recalled
    looked: Sequence[Looked]
    counted: Sequence[Ended]
    served: Mapping[str, int]
    price: tuple[float, float] | None
    calls: int | None
    worded: Served | None = None

    def show(self, screen: Screen) -> bool:
        """Show tables and verdict; tells whether all is well."""
        screen.say()
        screen.phases(self.tally.by_phase())
        screen.latencies({tier: self.tally.of(tier) for tier in TIERS})
        screen.say(
            "Measured in the workers, between pauses, all at once (`make bench` measures one alone).\n"
        )
        screen.steps("Conversations", self._conversations())
        if any(added.seconds >= LEASE for added in self.tally.while_down(self.tally.added)):
            screen.say(
                "The first turns added after Redis has died wait 0.3 s: then nobody can believe an old "
                "window.\n"
            )
        screen.steps("Tickets: documents with vectors", self._tickets())
        register = Register(self.tally.filed)
        mistakes = self._mistakes(register)
        screen.counts("What the tickets' collection did", self._collection(mistakes))
        if self.worded is not None:
            screen.counts("The same question in other words", self.worded.rows())
        screen.savings(self._savings())
        verdicts = [
            self._errors(),
            self._lost(),
            self._crossed(),
            self._wrong(),
            self._agreed(),
            self._lost_messages(),
            self._stale(),
            self._lost_tickets(register),
            self._mistaken(mistakes),
            *([] if self.worded is None else [self.worded.verdict()]),
        ]
        for good, text in verdicts:
            screen.verdict(good, text)
        return all(good for good, _ in verdicts)

    def _conversations(self) -> dict[str, list[Added] | list[Seen]]:
        added, seen, of = self.tally.added, self.tally.seen, self.tally.while_down
        return {
            "a turn added, with Redis": of(added, down=False),
            "a turn added, without": of(added),
            "a window read, with Redis": of(seen, down=False),
            "a window read, without": of(seen),
        }

    def _tickets(self) -> dict[str, list[Filed] | list[Looked]]:
        filed, looked, of = self.tally.filed, self.tally.looked, self.tally.while_down
        return {
            "one filed, with Redis": of(filed, down=False),
            "one filed, without": of(filed),
            "the nearest looked up, with Redis": of(looked, down=False),
            "the nearest looked up, without": of(looked),
        }

    def _looked(self) -> list[Looked]:
        """All lookups that gave an answer."""
        return [each for each in (*self.tally.looked, *self.looked) if not each.error]

    def _mistakes(self, register: Register) -> Mistakes:
        found = [register.mistakes(each) for each in self._looked()]
        return Mistakes(*map(sum, zip(*found, strict=True))) if found else Mistakes()

    def _collection(self, mistakes: Mistakes) -> dict[str, int]:
        served = Counter(self.served)
        for each in self.counted:
            served.update(each.served)
        return {
            "documents stored": sum(not each.error for each in self.tally.filed),
            "searches": len(self._looked()),
            "served from Redis": served["redis"],
            "served from SQLite": served["durable"],
            "served from a process's memory": served["memory"],
            "documents missing": mistakes.missing,
            "documents of the other company": mistakes.foreign,
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
        errors = self.tally.errors + [each.error for each in self.looked if each.error]
        text = (
            f"errors {len(errors)} in {len(self.tally.answers):,} requests, "
            f"{len(self.tally.added) + len(self.tally.seen):,} uses of conversations and "
            f"{len(self.tally.filed) + len(self.tally.looked) + len(self.looked):,} of tickets"
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

    def _lost_tickets(self, register: Register) -> tuple[bool, str]:
        """Each acknowledged ticket is there for a process that knew nothing of it."""
        lost, count = register.lost(self.recalled.tickets), len(register.acknowledged)
        return not lost, (
            f"lost tickets {lost}: the fresh process found {count - lost:,} of the {count:,} filed"
        )

    def _mistaken(self, mistakes: Mistakes) -> tuple[bool, str]:
        """Each lookup gave what was nearest of what was acknowledged before, and nothing else."""
        text = (
            f"missing tickets {mistakes.missing}, foreign tickets {mistakes.foreign} in "
            f"{len(self._looked()):,} searches"
        )
        return not any(mistakes), f"{text}: each gave the nearest" if not any(mistakes) else text
