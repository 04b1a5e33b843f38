"""The page's plots: the domain-against-general plane, what was kept, λ and CE / (λ KL) by step."""

from collections.abc import Callable, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from benchmarks.quality.kept import Kept
from benchmarks.quality.measures import MEASURES
from raft_fast.evaluation.statistics import Mean
from raft_fast.report.figure import C1, CARD, LINE, MUTED, PLAIN, bars, figure, stated
from raft_fast.report.text import counted, short

# told apart on light and dark pages, and by people who see fewer colours; then they repeat, dashed
COLOURS = ("#3b7dd8", "#d9722e", "#2f9e77", "#c255a5", "#b8960c", "#7a6fd0", "#c7483f", "#4aa3b8",
           "#8f6a4a", "#7d8794")
APART = 0.062  # of the plot's height: labels nearer than this would touch
SMOOTH = 9  # steps of the running mean
COUNTS = Markup('<div class="tile"><h3>{title}</h3><p class="small">base {before} of {asked}: too few for a '
                'retention; followed before and after:</p><ul class="small">{items}</ul></div>')
Result = dict[str, Any]
Best = dict[str, Result]


def colour(place: int) -> str:
    """The colour of the method at this place in every plot and table."""
    return COLOURS[place % len(COLOURS)]


def plane(result: Result, best: Best, base: dict[str, float | None]) -> Markup:
    """An arrow from the base to each method's best point, with 95 % intervals; its frontier and its other
    points behind it."""
    score, loss = result["score"], result["loss"]

    def draw(axes: Any) -> None:
        ends = []
        for place, (method, one) in enumerate(best.items()):
            if method not in result["methods"]:
                continue
            found, look = result["methods"][method], _look(place)
            axes.plot(*_columns(found["frontier"]), linewidth=1.1, alpha=0.45, **look)
            axes.scatter(*_columns(found["points"]), s=9, color=look["color"], alpha=0.45, linewidths=0)
            x, y = (_moved(one, base, name) for name in (loss, score))
            for interval, line in ((_interval(one, loss), axes.hlines), (_interval(one, score), axes.vlines)):
                if interval:
                    line(y if line == axes.hlines else x, *interval, color=look["color"], linewidth=0.8,
                         alpha=0.55)
            axes.annotate("", (x, y), (0, 0), arrowprops={
                "arrowstyle": "-|>", "color": look["color"], "linewidth": 1.3, "shrinkA": 4, "shrinkB": 3})
            axes.scatter([x], [y], s=34, color=look["color"], edgecolors=CARD, linewidths=0.8, zorder=4)
            ends.append((x, y, method, look["color"]))
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.scatter([0], [0], s=40, color=C1, marker="D", zorder=5)
        axes.set_ylabel(f"gain in {MEASURES[score].label}", fontsize=8)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
        _name(axes, ends)

    word = "loss of" if MEASURES[loss].more_is_better else "rise of"
    return figure(f"plane-{score}-{loss}".replace(".", "-"), "Up and to the left is better", draw,
                  f"{word} {MEASURES[loss].label}", height=4.2)


def kept(best: Best, followed: dict[str, Kept]) -> Markup | None:
    """Retention bars: the IFBench score of each method's best point as a share of the base's. In words
    where that is a share of a handful."""
    title = "Kept of the base's IFBench score"
    if not followed:
        return None
    if any(one.too_few for one in followed.values()):
        before, asked = max((one.before, one.asked) for one in followed.values())
        return COUNTS.format(title=title, before=before, asked=counted(asked, "instruction"), items=Markup(
            "").join(Markup("<li>{}: {}</li>").format(method, one.counts())
                     for method, one in followed.items()))
    shares = {method: one.share for method, one in followed.items()}
    return _bars(best, lambda method: shares[method]["mean"] if method in shares else None, title,
                 lambda number: f"{100 * number:.0f} %", "kept", lambda method: _ends(shares[method]))


def moved(best: Best) -> Markup | None:
    """How far the weights of each method's best point are from the base."""
    return _bars(best, lambda method: best[method]["weights"], "Relative distance of the weights",
                 lambda number: f"{number:.2g}", "moved")


def drifted(best: Best) -> Markup | None:
    """KL from the base of each method's best point, on general prompts."""
    return _bars(best, lambda method: best[method]["means"].get("own.kl"), "KL from the base, nats per token",
                 lambda number: f"{number:.2g}", "drifted",
                 lambda method: _ends(best[method]["changes"].get("own.kl")))


def by_step(curves: Sequence[Result], key: str, title: str, name: str, logarithmic: bool = False,
            even: bool = False) -> Markup | None:
    """One quantity of every method that has it, by optimizer step, as a running mean over what it was;
    `even` marks 1 and what is near it."""
    known = [(place, curve, [(step["step"], step[key]) for step in curve["steps"]
                             if step[key] is not None and (step[key] > 0 or not logarithmic)])
             for place, curve in enumerate(curves)]
    known = [one for one in known if one[2]]
    if known and all(len(steps) == 1 for *_, steps in known):
        said = (f"{curve['method']} {short(steps[0][1])}" for _, curve, steps in known)
        return stated(title, ", ".join(said))

    def draw(axes: Any) -> None:
        if even:
            axes.axhspan(0.5, 2, color=LINE, alpha=0.5, linewidth=0)
            axes.axhline(1, color=MUTED, linewidth=1, linestyle=(0, (3, 3)))
        for place, curve, steps in known:
            xs, ys = _columns(steps)
            axes.plot(xs, ys, linewidth=0.8, alpha=0.25, **_look(place))
            axes.plot(xs, _running_mean(ys), label=PLAIN.sub(" ", curve["method"]), linewidth=1.5,
                      **_look(place))
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        _legend(axes)

    return figure(name, title, draw, "step", height=3.4) if known else None


def _bars(best: Best, read: Callable[[str], float | None], title: str, write: Callable[[float], str],
          name: str, ends: Callable[[str], tuple[float, float] | None] = lambda method: None
          ) -> Markup | None:
    """Methods were tried at rates of their own: under each stands where its best point is."""
    known = [(method, number, colour(place), ends(method),
              f"{one['learning_rate']:g}, step {one['step']}")
             for place, (method, one) in enumerate(best.items()) if (number := read(method)) is not None]
    if not known:
        return None
    names, values, colours, intervals, notes = zip(*known, strict=True)
    return bars(names, values, title, write, name, colours, intervals, notes)


def _moved(one: Result, base: dict[str, float | None], name: str) -> float:
    """Change from the base as the plane has it: up is a gain, right is a loss; over the rows that both
    have, as its interval is."""
    stat = one["changes"].get(name)
    if stat is not None and stat["mean"] is not None:
        return _sign(name) * stat["mean"]
    return _sign(name) * ((one["means"].get(name) or 0.0) - (base.get(name) or 0.0))


def _interval(one: Result, name: str) -> tuple[float, float] | None:
    ends = _ends(one["changes"].get(name))
    if ends is None:
        return None
    low, high = sorted(_sign(name) * end for end in ends)
    return low, high


def _ends(stat: Result | Mean | None) -> tuple[float, float] | None:
    if stat is None or stat["low"] is None or stat["high"] is None:
        return None
    return stat["low"], stat["high"]


def _sign(name: str) -> int:
    """Scores rise to the top where more is better; losses to the right where less is."""
    gain = 1 if MEASURES[name].more_is_better else -1
    return gain if name.split(".")[0] in ("domain", "paraphrases") else -gain


def _name(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each method's name at the right edge, at the height of its point where there is room."""
    low, high = axes.get_ylim()
    room = APART * (high - low)
    at = high + room
    left, right = axes.get_xlim()
    for x, y, method, ink in sorted(ends, key=lambda end: -end[1]):
        at = min(y, at - room)
        axes.plot([x, right], [y, at], color=ink, linewidth=0.5, alpha=0.5, linestyle=":", clip_on=False)
        axes.text(right + 0.01 * (right - left), at, PLAIN.sub(" ", method), color=ink, fontsize=8.5,
                  va="center", weight="bold")
    axes.set_xlim(left, right)
    axes.set_ylim(min(low, at - room), high)


def _running_mean(values: Sequence[float]) -> list[float]:
    half = SMOOTH // 2 if len(values) >= 2 * SMOOTH else 0
    windows = [values[max(0, at - half) : at + half + 1] for at in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _look(place: int) -> Result:
    return {"color": colour(place), "linestyle": "-" if place < len(COLOURS) else "--"}


def _columns(pairs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _legend(axes: Any) -> None:
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=7.5, labelcolor=MUTED,
                handlelength=1.4, columnspacing=1.2)
