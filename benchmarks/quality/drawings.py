"""The page's plots: the domain-against-general plane, what was kept, λ and CE/KL by step."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.quality.measures import MEASURES
from raft_fast.report.figure import C1, MUTED, PLAIN, bars, figure
from raft_fast.report.text import percent

# told apart on light and dark pages, and by people who see fewer colours; then they repeat, dashed
COLOURS = ("#3b7dd8", "#d9722e", "#2f9e77", "#c255a5", "#b8960c", "#7a6fd0", "#c7483f", "#4aa3b8")
Result = dict[str, Any]


def plane(result: Result, methods: Sequence[str]) -> Markup:
    """Every method's points, its frontier and an arrow from the base to its best point."""
    def draw(axes: Any) -> None:
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        for place, method in enumerate(methods):
            found, look = result["methods"][method], _look(place)
            front, points = found["frontier"], found["points"]
            axes.scatter(*_columns(points), s=14, color=look["color"], zorder=3)
            if len(front) > 1:
                axes.plot(*_columns(front), label=PLAIN.sub(" ", method), linewidth=1.4, **look)
                axes.annotate("", front[-1], front[0], arrowprops={
                    "arrowstyle": "->", "color": look["color"], "alpha": 0.35, "linewidth": 0.9})
            else:  # no point is better than the base
                axes.plot([], [], label=PLAIN.sub(" ", f"{method} (no gain)"), **look)
        axes.scatter([0], [0], s=40, color=C1, marker="D", zorder=4)
        axes.set_ylabel(f"domain: gain in {MEASURES[result['score']].label}", fontsize=8)
        axes.grid(axis="x")
        _legend(axes)

    loss = MEASURES[result["loss"]].label
    return figure(f"plane-{result['score']}-{result['loss']}".replace(".", "-"),
                  "Up and to the left is better", draw,
                  f"general: {'loss of' if MEASURES[result['loss']].more_is_better else 'rise of'} {loss}",
                  height=4.2)


def kept(best: dict[str, Result]) -> Markup | None:
    """Retention bars: the IFBench score of each method's best point as a share of the base's."""
    known = {method: one["retention"] for method, one in best.items() if one["retention"] is not None}
    return bars(list(known), list(known.values()), "Kept of the base's IFBench score", percent,
                "kept") if known else None


def by_step(curves: Sequence[Result], key: str, title: str, name: str, logarithmic: bool) -> Markup | None:
    """One quantity of every method that has it, by optimizer step."""
    known = [(place, curve, [(step["step"], step[key]) for step in curve["steps"] if step[key] is not None])
             for place, curve in enumerate(curves)]
    known = [one for one in known if one[2]]

    def draw(axes: Any) -> None:
        for place, curve, steps in known:
            axes.plot(*_columns(steps), label=PLAIN.sub(" ", curve["method"]), linewidth=1.4, **_look(place))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _legend(axes)

    return figure(name, title, draw, "step", height=3.4) if known else None


def _look(place: int) -> Result:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": "-" if place < len(COLOURS) else "--"}


def _columns(pairs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=7.5, labelcolor=MUTED,
                handlelength=1.4, columnspacing=1.2)


