"""What the demo shows: progress while it runs, on a terminal or as plain lines, and tables."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from statistics import median

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo.messages import Added, Answered, Filed, Looked, Seen
from demo.tally import TIERS, p95, shown

__all__ = ["Screen"]

_WIDTH = 100
_LINE_EVERY = 2.0  # seconds, where there is no terminal to draw a bar on
_NAMES = {
    "memory": "L1, memory",
    "redis": "L2, Redis",
    "durable": "L3, SQLite",
    "flight": "shared flight",
    "model": "the model",
}
_SHORT = {
    "memory": "memory",
    "redis": "Redis",
    "durable": "SQLite",
    "flight": "shared",
    "model": "model",
}


Step = Added | Seen | Filed | Looked


class Screen:
    """At most 100 columns; without control codes where the output is not a terminal."""

    def __init__(self) -> None:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace", line_buffering=True)
        terminal = sys.stdout.isatty()
        self._console = Console(force_terminal=terminal, highlight=False)
        self._console.width = min(self._console.width, _WIDTH) if terminal else _WIDTH
        self._draws = terminal and not self._console.is_dumb_terminal

    def say(self, text: str = "") -> None:
        """Text with rich's markup."""
        self._console.print(text)

    def title(self, title: str, *lines: str) -> None:
        self.say()
        self.say(f"[bold]{title}[/bold]")
        for line in lines:
            self.say(f"[dim]{line}[/dim]" if self._draws else line)

    def follow(self, answers: Iterable[Answered], total: int) -> Iterator[Answered]:
        """Pass answers through and show how many there are, by tier."""
        counts: Counter[str] = Counter()
        if not self._draws:
            yield from self._follow_plainly(answers, total, counts)
            return
        columns = (
            BarColumn(24, complete_style="cyan", finished_style="green"),
            MofNCompleteColumn(),
            TextColumn("{task.fields[counts]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, refresh_per_second=12) as progress:
            task = progress.add_task("", total=total, counts=_counted(counts))
            for answer in answers:
                counts["error" if answer.error else answer.tier] += 1
                progress.update(task, advance=1, counts=_counted(counts))
                yield answer

    def _follow_plainly(
        self, answers: Iterable[Answered], total: int, counts: Counter[str]
    ) -> Iterator[Answered]:
        due = time.monotonic() + _LINE_EVERY
        for answer in answers:
            counts["error" if answer.error else answer.tier] += 1
            if time.monotonic() >= due or counts.total() == total:
                due = time.monotonic() + _LINE_EVERY
                self.say(f"  {counts.total():>4}/{total}  {_counted(counts)}")
            yield answer

    def phases(self, phases: Mapping[str, Sequence[Answered]]) -> None:
        """Requests by phase and by what answered them."""
        names = ("requests", *_SHORT.values(), "saved", "median", "p95")
        table = _table("What answered, phase by phase", "phase", *names)
        rows = [*phases.items(), ("total", [each for part in phases.values() for each in part])]
        for name, answers in rows:
            if name == "total":
                table.add_section()
            tiers = Counter(each.tier for each in answers if not each.error)
            times = [each.chain for each in answers if not each.error]
            hits = tiers.total() - tiers["model"]
            table.add_row(
                name,
                f"{len(answers):,}",
                *(str(tiers[tier] or "-") for tier in TIERS),
                f"{hits / len(answers):.0%}" if answers else "-",
                shown(median(times)) if times else "-",
                shown(p95(times)) if times else "-",
            )
        self._show(table)

    def latencies(self, of: Mapping[str, Sequence[Answered]]) -> None:
        """Lookup and whole chain, by tier."""
        names = ("answers", "cache lookup: median", "p95", "whole chain: median", "p95")
        table = _table("How long it took, by who answered", "answered by", *names)
        for tier, answers in of.items():
            if answers:
                lookups = [each.lookup for each in answers]
                chains = [each.chain for each in answers]
                times = [f(values) for values in (lookups, chains) for f in (median, p95)]
                table.add_row(_NAMES[tier], f"{len(answers):,}", *map(shown, times))
        self._show(table)

    def steps(self, title: str, steps: Mapping[str, Sequence[Step]]) -> None:
        """How long each kind of step took."""
        table = _table(title, "", "times", "median", "p95", "longest")
        for name, each in steps.items():
            times = [step.seconds for step in each]
            cells = [shown(f(times)) if times else "-" for f in (median, p95, max)]
            table.add_row(name, f"{len(times):,}", *cells)
        self._show(table)

    def counts(self, title: str, rows: Mapping[str, int]) -> None:
        table = _table(title, "", "")
        for name, count in rows.items():
            table.add_row(name, f"{count:,}")
        self._show(table)

    def savings(self, rows: Sequence[tuple[str, str, str]]) -> None:
        table = _table("What it saved", "", "paid for", "saved")
        for row in rows:
            table.add_row(*row)
        self._show(table)

    def verdict(self, good: bool, text: str) -> None:
        mark = "[bold green]  OK  [/bold green]" if good else "[bold red]FAILED[/bold red]"
        self.say(f"{mark}  {text}")

    def _show(self, table: Table) -> None:
        with self._console.capture() as capture:
            self._console.print(table)
        for line in capture.get().splitlines():
            if line.strip():
                print(line.rstrip())
        print()


def _table(title: str, first: str, *others: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _counted(counts: Counter[str]) -> str:
    shares = [f"{_SHORT[tier]} {counts[tier]}" for tier in TIERS]
    return "  ".join([*shares, *([f"ERRORS {counts['error']}"] if counts["error"] else [])])
