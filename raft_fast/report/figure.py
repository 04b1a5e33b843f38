"""SVG plots whose colours are CSS variables of the page, so that they follow light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from raft_fast.report.text import short

# stand-ins that no plot uses otherwise -> variables of the page's style sheet
INKS = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)", "#040404": "var(--c1)",
        "#050505": "var(--c2)", "#060606": "var(--c3)"}
INK, MUTED, LINE, C1, C2, C3 = INKS
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "raft-fast", "font.size": 10, "axes.titlesize": 11,
    "axes.edgecolor": LINE, "axes.labelcolor": MUTED, "xtick.color": MUTED, "ytick.color": MUTED,
    "text.color": INK, "axes.titlecolor": INK, "axes.spines.top": False, "axes.spines.right": False,
    "axes.spines.left": False, "axes.grid": True, "axes.grid.axis": "y", "grid.color": LINE,
    "grid.linewidth": 0.7, "xtick.major.size": 0, "ytick.major.size": 0, "ytick.minor.size": 0,
    "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9.5, "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round", "axes.titlelocation": "left", "axes.titlepad": 10,
    "axes.titleweight": "bold",
}
SIZE = (4.6, 2.7)  # inches: about the width of a phone, so that text there keeps its size
PLAIN = re.compile(r"[^\w ,:.()-]")  # matplotlib would read $ and \ as mathematics
SMOOTH_FROM, WINDOW = 40, 15  # steps from which a running mean is drawn, and its width


def figure(name: str, title: str, draw: Callable[[Any], Any], xlabel: str | None,
           height: float = SIZE[1]) -> Markup:
    """Inline SVG of what `draw(axes)` draws. `name` keeps its ids apart from other plots' ids."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        axes.set_title(title, pad=10 if axes.get_legend() is None else 26)
        if xlabel:
            axes.set_xlabel(xlabel)
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(out.getvalue(), name, title)


def bars(name: str, title: str, labels: Sequence[str], counts: Sequence[int]) -> Markup:
    """One horizontal bar per label with its count beside it."""
    def draw(axes: Any) -> None:
        top = max(counts, default=0) or 1
        axes.barh(range(len(labels)), counts, color=C1, height=0.62)
        for place, count in enumerate(counts):
            axes.text(count + top * 0.02, place, f"{count:,}", va="center", color=INK)
        axes.set_yticks(range(len(labels)), [PLAIN.sub("", label) for label in labels])
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.32)
        axes.xaxis.set_visible(False)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)

    return figure(name, title, draw, None, height=0.75 + 0.29 * len(labels))


def curve(name: str, title: str, steps: Sequence[float], values: Sequence[float | None],
          log: bool = False) -> Markup | None:
    """One quantity by optimizer step: from 0 up, or on a log scale with a line at 1. Null values are gaps;
    None if there is nothing but them, and a single value is stated instead of drawn."""
    known = [(step, value) for step, value in zip(steps, values, strict=True)
             if value is not None and (value > 0 or not log)]
    if not known:
        return None
    if len(known) == 1:
        (step, only), = known
        return Markup('<h3>{}</h3><b>{} at step {:g}</b>').format(title, short(only), step)
    xs, ys = zip(*known, strict=True)

    def draw(axes: Any) -> None:
        smooth = len(ys) >= SMOOTH_FROM
        axes.plot(xs, ys, color=C1, **({"alpha": 0.3, "linewidth": 1} if smooth else
                                       {"marker": "o", "markersize": 3}))
        if smooth:
            half = WINDOW // 2
            windows = [ys[max(0, at - half) : at + half + 1] for at in range(len(ys))]
            axes.plot(xs, [sum(window) / len(window) for window in windows], color=C1)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        if not log:
            axes.set_ylim(0)
            return
        axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, 0.5), max(high, 2))

    return figure(name, title, draw, "step")


def histogram(name: str, title: str, edges: Sequence[float], kinds: Mapping[str, Sequence[int]], xlabel: str,
              threshold: float | None = None) -> Markup:
    """Stacked counts of each kind between the edges, with a labelled line at the threshold."""
    def draw(axes: Any) -> None:
        bottom = [0] * (len(edges) - 1)
        for (label, counts), colour in zip(kinds.items(), (C1, C2, C3), strict=False):
            widths = [0.88 * (high - low) for low, high in pairwise(edges)]
            axes.bar(edges[:-1], counts, widths, bottom=bottom, align="edge", color=colour, label=label)
            bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
        first = next((edge for edge, count in zip(edges, bottom, strict=False) if count), edges[0])
        if threshold is not None:
            first = min(first, threshold)
            axes.axvline(threshold, color=INK, linewidth=1.5)
            left = threshold > (first + edges[-1]) / 2  # of its line the label has more room
            axes.text(threshold, axes.get_ylim()[1], f" τ = {threshold:g} ", ha="right" if left else "left",
                      va="top")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlim(first, edges[-1] + 0.005)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=len(kinds), handlelength=1.2,
                    columnspacing=1.4, labelcolor=MUTED)

    return figure(name, title, draw, xlabel)


def _for_the_page(svg: str, name: str, title: str) -> Markup:
    """Inline SVG: no XML head, no fixed size, ids of its own, colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"(?<=\bid=\")|(?<=href=\"#)|(?<=url\(#)", f"{name}-", svg)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>',
                 rf'<svg viewBox="\1" role="img" aria-label="{escape(title)}">', svg, count=1)
    svg = re.sub(r"font: ([^;\"']*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--font)", svg)
    for ink, variable in INKS.items():
        svg = svg.replace(ink, variable)
    return Markup(svg)
