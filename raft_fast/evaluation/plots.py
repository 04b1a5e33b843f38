"""The report's plots: SVG whose colours are CSS variables, so that they follow light and dark."""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

Series = Sequence[float | None]
# stand-ins that no plot uses otherwise -> variables of the page's style sheet
INKS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)",
        "#040404": "var(--c1)", "#050505": "var(--c2)", "#060606": "var(--c3)",
        "#070707": "var(--card)"}
INK, MUTED, LINE, C1, C2, C3, CARD = INKS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "raft-fast", "font.size": 10, "axes.titlesize": 11,
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "text.color": INK, "axes.titlecolor": INK, "axes.spines.top": False,
    "axes.spines.right": False, "axes.spines.left": False, "axes.grid": True,
    "axes.grid.axis": "y", "grid.color": LINE, "grid.linewidth": 0.7, "xtick.major.size": 0,
    "ytick.major.size": 0, "ytick.minor.size": 0, "axes.axisbelow": True,
    "legend.frameon": False, "legend.fontsize": 9.5, "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round", "axes.titlelocation": "left", "axes.titlepad": 10,
    "axes.titleweight": "bold",
}
SIZE = (4.6, 2.7)  # inches: about the width of a phone, so that text there keeps its size
PLAIN = re.compile(r"[^\w ,:.()-]")  # matplotlib would read $ and \ as mathematics
BIN = 0.04  # of the histogram
SMOOTH_FROM, WINDOW = 40, 15  # steps from which a running mean helps, and its width


def by_step(name: str, title: str, steps: Sequence[float], values: Series,
            top: float | None = None) -> str:
    """One quantity by optimizer step, from 0 up (to `top`); null values are gaps."""
    def draw(axes: Any) -> None:
        _curve(axes, steps, values)
        axes.set_ylim(0, top)

    return _figure(name, title, draw, "step")


def ratio(steps: Sequence[float], ratios: Series) -> str:
    """CE / (λ KL) by step, log scale, with the line where both weigh the same."""
    def draw(axes: Any) -> None:
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        _curve(axes, steps, [value if value and value > 0 else None for value in ratios])
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.5), max(high, 2))

    return _figure("ratio", "CE / (λ · KL): near 1 is balance", draw, "step")


def similarities(values: Sequence[float], tau: float | None) -> str:
    """Histogram of cosine similarity between gold answer and rewrite, with τ."""
    def draw(axes: Any) -> None:
        # τ is an edge, so that no bar holds both sides of it
        anchor = 0.8 if tau is None else tau
        first = math.floor((min(0.0, *values) - anchor) / BIN)
        last = math.ceil((1.0 - anchor) / BIN)
        edges = [anchor + BIN * place for place in range(first, last + 1)]
        passed = [value for value in values if tau is None or value >= tau]
        failed = [value for value in values if tau is not None and value < tau]
        axes.hist([passed, failed], bins=edges, stacked=True, color=[C1, C3], rwidth=0.88,
                  label=["passed" if tau is not None else "rewrites", "kept the gold answer"])
        if tau is not None:
            axes.axvline(tau, color=C2, linewidth=1.5)
            axes.text(tau - 0.015, axes.get_ylim()[1], f"τ = {tau:g}", color=C2, ha="right",
                      va="top")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlim(min(0.0, edges[0]), 1.005)
        if failed:
            axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=2, handlelength=1.2,
                        columnspacing=1.4, labelcolor=MUTED)

    return _figure("similarity", "Rewrites by similarity to the gold answer", draw,
                   "cosine similarity")


def bars(names: Sequence[str], values: Sequence[float], title: str,
         write: Callable[[float], str], name: str) -> str:
    """One bar a phase with its value, as `write` says it, beside it."""
    def draw(axes: Any) -> None:
        top = max(values, default=0) or 1
        axes.barh(range(len(names)), values, color=C1, height=0.62)
        for place, value in enumerate(values):
            axes.text(value + top * 0.02, place, write(value), va="center", color=INK)
        axes.set_yticks(range(len(names)), [PLAIN.sub("", label) for label in names])
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.32)
        axes.xaxis.set_visible(False)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)

    return _figure(name, title, draw, None, height=0.75 + 0.29 * len(names))


def _curve(axes: Any, steps: Sequence[float], values: Series) -> None:
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    xs, ys = [pair[0] for pair in known], [pair[1] for pair in known]
    if len(ys) < SMOOTH_FROM:
        axes.plot(xs, ys, color=C1, marker="o", markersize=3)
        return
    axes.plot(xs, ys, color=C1, alpha=0.3, linewidth=1)
    axes.plot(xs, _running_mean(ys), color=C1)


def _running_mean(values: Sequence[float]) -> list[float]:
    half = WINDOW // 2
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _figure(name: str, title: str, draw: Callable[[Any], Any], xlabel: str | None,
            height: float = SIZE[1]) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        has_legend = axes.get_legend() is not None
        axes.set_title(title, pad=26 if has_legend else 10)
        if xlabel:
            axes.set_xlabel(xlabel)
            if xlabel == "step":
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(out.getvalue(), name, title)


def _for_the_page(svg: str, name: str, title: str) -> str:
    """Inline SVG: no XML head, no fixed size, ids of its own, colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=\bid=\")|(?<=href=\"#)|(?<=url\(#)", f"{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
                 rf'<svg viewBox="\1" role="img" aria-label="{title}">', svg, count=1)
    svg = re.sub(r"font: ([^;\"']*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--font)", svg)
    for ink, variable in INKS.items():
        svg = svg.replace(ink, variable)
    return svg
