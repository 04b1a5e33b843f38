"""SVG plots whose colours are CSS variables of the page, so that they follow light and dark."""

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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


def bars(names: Sequence[str], values: Sequence[float], title: str,
         write: Callable[[float], str], name: str, colours: Sequence[str] | str = C1,
         intervals: Sequence[tuple[float, float] | None] = (), notes: Sequence[str] = ()) -> Markup:
    """One bar a name with its value, as `write` says it, beside it; with an interval on each and a note
    under each name where there are any."""
    ends = [max(value, *interval) if interval else value
            for value, interval in zip(values, intervals or [None] * len(values), strict=True)]
    labels = [PLAIN.sub("", label) for label in names]
    if notes:
        labels = [f"{label}\n{PLAIN.sub('', note)}" for label, note in zip(labels, notes, strict=True)]

    def draw(axes: Any) -> None:
        top = max(ends, default=0) or 1
        axes.barh(range(len(names)), values, color=colours, height=0.62)
        for place, interval in enumerate(intervals):
            if interval:
                axes.hlines(place, *interval, color=MUTED, linewidth=1.6)
        for place, (value, end) in enumerate(zip(values, ends, strict=True)):
            axes.text(end + top * 0.02, place, write(value), va="center", color=INK)
        axes.set_yticks(range(len(names)), labels, fontsize=8.5 if notes else None)
        axes.invert_yaxis()
        axes.set_xlim(0, top * 1.32)
        axes.xaxis.set_visible(False)
        axes.grid(False)
        axes.spines["bottom"].set_visible(False)

    return figure(name, title, draw, None, height=0.75 + (0.4 if notes else 0.29) * len(names))


def figure(name: str, title: str, draw: Callable[[Any], Any], xlabel: str | None,
           height: float = SIZE[1]) -> Markup:
    """Inline SVG of what `draw(axes)` draws. `name` keeps its ids apart from other plots' ids."""
    with matplotlib.rc_context(STYLE):
        canvas = Figure(figsize=(SIZE[0], height), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        has_legend = axes.get_legend() is not None
        axes.set_title(title, pad=26 if has_legend else 10)
        if xlabel:
            axes.set_xlabel(xlabel)
            if xlabel == "step":
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(out.getvalue(), name, title)


def stated(title: str, text: str) -> Markup:
    """In a plot's place where there is one value: a curve needs two."""
    return Markup('<div class="tile"><h3>{}</h3><b>{}</b></div>').format(title, text)


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
