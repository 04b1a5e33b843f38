"""What a run's report plots."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from raft_fast.report.figure import C1, MUTED, figure, stated
from raft_fast.report.text import short

Series = Sequence[float | None]
SMOOTH_FROM, WINDOW = 40, 15  # steps from which a running mean helps, and its width


def by_step(name: str, title: str, steps: Sequence[float], values: Series,
            top: float | None = None) -> Markup:
    """One quantity by optimizer step, from 0 up (to `top`); null values are gaps."""
    def draw(axes: Any) -> None:
        _curve(axes, steps, values)
        axes.set_ylim(0, top)

    return _stated(title, steps, values) or figure(name, title, draw, "step")


def ratio(steps: Sequence[float], ratios: Series) -> Markup:
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

    title = "CE / (λ KL): near 1 is balance"
    return _stated(title, steps, ratios) or figure("ratio", title, draw, "step")


def _stated(title: str, steps: Sequence[float], values: Series) -> Markup | None:
    """The value of a run of one step; None where there is a course to draw."""
    known = _known(steps, values)
    return stated(title, f"{short(known[0][1])} at step {known[0][0]:g}") if len(known) == 1 else None


def _known(steps: Sequence[float], values: Series) -> list[tuple[float, float]]:
    return [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]


def _curve(axes: Any, steps: Sequence[float], values: Series) -> None:
    known = _known(steps, values)
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
