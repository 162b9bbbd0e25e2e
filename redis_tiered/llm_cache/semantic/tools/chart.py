"""Hit rate against wrong answers, as a picture, as characters, and as rows of numbers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

from redis_tiered.errors import InvalidInput, MissingExtra

__all__ = ["Line", "Mark", "Seen", "draw", "needed", "rows", "sketch"]

_COLOURS = ("#1b6ca8", "#b8860b", "#777777")
_ROWS = 9  # of a curve that a table shows


class Seen(Protocol):
    """A point of a curve; shares, 0 to 1."""

    @property
    def theta(self) -> float: ...
    @property
    def hit_rate(self) -> float: ...
    @property
    def rate(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Line(NamedTuple):
    """One curve; `band`: its intervals are shown."""

    name: str
    points: Sequence[Seen]
    band: bool = False


class Mark(NamedTuple):
    """One point with its interval and words beside it."""

    text: str
    hit_rate: float
    rate: float
    interval: tuple[float, float]


def rows(
    points: Sequence[Seen], *, chosen: float | None, per: str, name: str = "p >="
) -> list[str]:
    """Some thresholds of a curve, the chosen one and its neighbours among them."""
    found = [f"{name:>8}  {'hits':>7}  {f'wrong/{per}':>13}  interval"]
    for point in _some(points, chosen):
        here = "  <- chosen" if point.theta == chosen else ""
        found.append(
            f"{point.theta:>8.4g}  {point.hit_rate:>7.1%}  {point.rate:>13.2%}  "
            f"{point.low:.2%} - {point.high:.2%}{here}"
        )
    return found


def _some(points: Sequence[Seen], chosen: float | None) -> list[Seen]:
    count = len(points)
    if count <= _ROWS:
        return list(points)
    kept = {round(step * (count - 1) / (_ROWS - 1)) for step in range(_ROWS)}
    for index, point in enumerate(points):
        if point.theta == chosen:
            kept |= {max(0, index - 1), index, min(count - 1, index + 1)}
    return [points[index] for index in sorted(kept)]


def _visible(lines: Iterable[Line], target: float | None, chosen_rate: float) -> float:
    """Where the wrong answers' axis ends, so that what matters is seen."""
    highest = max((point.rate for line in lines for point in line.points), default=0.0)
    wanted = max(4.0 * (target or 0.0), 1.6 * chosen_rate, 0.002)
    return min(max(1.05 * highest, 0.002), wanted) if target else max(1.05 * highest, 0.002)


def needed() -> None:
    """Raises MissingExtra if nothing can be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise MissingExtra("plot", "a plot as an image") from None


def draw(
    lines: Sequence[Line],
    *,
    per: str,
    title: str,
    chosen: Mark | None,
    target: float | None,
    note: str,
    path: str | os.PathLike[str] | None,
) -> Any:
    """A matplotlib figure, written to `path` if there is one.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidInput: the file cannot be written.
    """
    needed()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(7.6, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    right = _visible(lines, target, chosen.interval[1] if chosen else 0.0)
    for colour, line in zip(_COLOURS, lines, strict=False):
        # from the strictest to the loosest; where looser ones are no worse, the curve goes straight up
        points = sorted(line.points, key=lambda point: (point.hit_rate, point.rate))
        hits = [point.hit_rate for point in points]
        axes.plot([point.rate for point in points], hits, color=colour, lw=2, label=line.name)
        if line.band:
            axes.fill_betweenx(
                hits,
                [point.low for point in points],
                [point.high for point in points],
                color=colour,
                alpha=0.15,
                lw=0,
                label="its interval",
            )
    if target is not None:
        axes.axvline(target, color="#b22222", ls="--", lw=1.2, label=f"allowed: {target:.3g}")
        axes.lines[-1].set_label(f"allowed: {target:.2%}")
    if chosen is not None:
        low, high = chosen.interval
        axes.errorbar(
            [chosen.rate],
            [chosen.hit_rate],
            xerr=[[chosen.rate - low], [high - chosen.rate]],
            fmt="o",
            color="#111111",
            capsize=4,
            ms=7,
            zorder=5,
        )
        axes.annotate(
            chosen.text,
            (chosen.rate, chosen.hit_rate),
            # curves rise to the right, so the upper left corner is free; of the best ones, the middle
            xytext=(0.03, 0.96) if chosen.hit_rate < 0.75 else (0.35, 0.5),
            textcoords="axes fraction",
            ha="left",
            va="top",
            arrowprops={"arrowstyle": "-", "color": "#555555", "lw": 0.8},
            bbox={"boxstyle": "round", "fc": "white", "ec": "#999999"},
            zorder=6,
        )
    axes.set_xlim(0.0, right)
    axes.set_ylim(0.0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=1 if right < 0.1 else 0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlabel(f"wrong answers served, % of {per}s")
    axes.set_ylabel("served from the cache, % of requests")
    axes.set_title(title, loc="left", fontsize=12)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=9)
    figure.text(0.99, 0.005, note, ha="right", fontsize=8, color="#555555")
    figure.get_layout_engine().set(rect=(0, 0.03, 1, 0.97))  # type: ignore[union-attr,call-arg]
    if path is not None:
        try:
            figure.savefig(path)
        except (OSError, ValueError) as error:
            raise InvalidInput(f"{os.fspath(path)}: {error}") from None
    return figure


def sketch(
    lines: Sequence[Line],
    *,
    per: str,
    chosen: tuple[float, float] | None,
    target: float | None,
    width: int = 72,
    height: int = 10,
    here: str = "chosen",
) -> str:
    """The same in characters: `*`, `o`, `.` are the curves, `|` what is allowed, `@` what was chosen."""
    right = _visible(lines, target, chosen[1] if chosen else 0.0)
    columns, levels = max(20, width - 8), height
    grid = [[" "] * columns for _ in range(levels + 1)]

    def put(rate: float, hit_rate: float, mark: str) -> None:
        column = round(rate / right * (columns - 1))
        if 0 <= column < columns:
            grid[levels - round(hit_rate * levels)][column] = mark

    if target is not None:
        for level in range(levels + 1):
            put(target, level / levels, "|")
    for mark, line in reversed(list(zip("*o.", lines, strict=False))):
        points = sorted(line.points, key=lambda point: (point.hit_rate, point.rate))
        for before, after in pairwise(points):
            for step in range(21):
                part = step / 20
                put(
                    before.rate + part * (after.rate - before.rate),
                    before.hit_rate + part * (after.hit_rate - before.hit_rate),
                    mark,
                )
    if chosen is not None:
        put(chosen[1], chosen[0], "@")
    shown = [
        f"{100 * (levels - at) / levels:>5.0f}% |" + "".join(row).rstrip()
        if at % 2 == 0
        else "       |" + "".join(row).rstrip()
        for at, row in enumerate(grid)
    ]
    end = f"{right:.1%}"
    names = ", ".join(f"{mark} {line.name}" for mark, line in zip("*o.", lines, strict=False))
    extra = (f", @ {here}" if chosen else "") + (f", | allowed {target:.2%}" if target else "")
    return "\n".join(
        [
            f"hits, % of requests      {names}{extra}",
            *shown,
            "       +" + "-" * columns,
            "        0%" + f"wrong, % of {per}s".center(columns - 2 - len(end)) + end,
        ]
    )
