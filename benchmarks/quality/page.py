"""RESULTS.md and index.html: the same tables of results.json, every change with its 95 % interval, and on the
page a plot of each plane."""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator

from benchmarks.quality.points import DISTANCE, MEASURES, counted
from benchmarks.quality.results import PLANES
from raft_fast.report.page import C1, MUTED, PLAIN, figure
from raft_fast.report.results import ENOUGH, markdown, percent, render, value, write_text

SHOWN = ("domain.nll", "domain.token_f1", "paraphrases.nll", "paraphrases.token_f1", "own.kl",
         "text.nll", "general.strict_instruction")
RATIO = "CE / (λ KL)"  # of the two terms as they enter the loss
# told apart on light and dark pages, and by people who see fewer colours; then they repeat, dashed
COLOURS = ("#3b7dd8", "#d9722e", "#2f9e77", "#c255a5", "#b8960c", "#7a6fd0", "#c7483f", "#4aa3b8",
           "#8f6a4a", "#7d8794")
DRAWN = 3  # planes with a plot
Result = dict[str, Any]


class Sure(str):
    """A change beyond noise."""


class Table(NamedTuple):
    """A table with its title and what a reader must know about it."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def write(found: Result, folder: Path) -> None:
    """RESULTS.md and index.html. Everything that comes from data is escaped."""
    shown, said = tables(found), notes(found)
    parts = [f"`{found['command']}`: {markdown(str(found['model']))}. {' '.join(said)}"]
    for one in shown:
        rows = [[f"**{markdown(cell)}**" if isinstance(cell, Sure) else markdown(cell) for cell in row]
                for row in (one.head, ["---"] * len(one.head), *one.rows)]
        parts += [f"## {one.title}", one.note, "\n".join(f"| {' | '.join(row)} |" for row in rows)]
    write_text("\n\n".join(parts) + "\n", folder / "RESULTS.md")
    sections = [("What was learnt, against what it cost", [text(
        "Changes from the base, which is the diamond. A large point is a method's best, with 95 % intervals; "
        "small points are its other learning rates and checkpoints, the line is its frontier."),
        {"kind": "plots", "plots": planes(found)}])]
    for one in shown:
        rows = [[Markup("<b>{}</b>").format(cell) if isinstance(cell, Sure) else cell for cell in row]
                for row in one.rows]
        table = {"kind": "table", "columns": one.head, "lines": rows}
        sections.append((one.title, [text(one.note), table if rows else text("Nothing to compare yet.")]))
    about = ("raft-fast", found["suite"], found["model"], found["data"])
    render("page.html.jinja", folder / "index.html", kicker=" · ".join(str(part) for part in about if part),
           heading="Does it forget less?", config={"command": found["command"], **found["machine"]},
           sections=sections, verdict=f"{cells_done(found)}.", notes=said)


def text(said: str) -> dict[str, Any]:
    return {"kind": "text", "text": said}


def tables(found: Result) -> list[Table]:
    """Every measure at the best points, frontiers by plane, and equal settings."""
    best, label = found["best"], MEASURES[PLANES[0][0]].label
    rows = [["learning rate, step, seeds", "", *map(place, best.values())],
            *([str(MEASURES[name]), value(mean), *(at_best(one, name) for one in best.values())]
              for name, mean in found["base"]["means"].items() if mean is not None),
            [RATIO, "", *(ratio(found, method, one["learning_rate"]) for method, one in best.items())]]
    shown = [Table("Each method at its best", f"Best by {label}, averaged over seeds; chosen on the rows it "
                   "is shown on, so frontiers are fairer. Beside a value its change from the base with the "
                   "95 % interval over rows, bold where that leaves zero out.",
                   ["measure", "base", *best], rows)]
    for plane in found["planes"]:
        if plane["comparisons"]:
            shown.append(Table(
                f"Frontiers: {MEASURES[plane['score']].label} against {MEASURES[plane['loss']].label}",
                "Method minus rival. A positive gain is better whatever the measure's sign, a lower cost is "
                "better; 95 % bootstrap intervals over rows and seeds, – where ranges do not overlap. "
                + sizes(plane), ["method", "rival", "seeds", "mean gain over the common range ↑",
                                 "gain at half of it ↑", "cost at equal gain ↓, share of the rival's"],
                [compared(plane, one) for one in plane["comparisons"] if one["losses"] or one["scores"]]))
    names = [name for name in SHOWN if any(name in one["measures"] for one in found["pairs"])]
    return [*shown, Table(
        "At equal learning rate and steps",
        f"Method minus {found['baseline']} on the same rows, 95 % intervals.",
        ["method", "where", *(str(MEASURES[name]) for name in names)],
        [[one["method"], place(one), *(changed(one["measures"].get(name)) for name in names)]
         for one in found["pairs"]])]


def compared(plane: Result, one: Result) -> list[str]:
    """A row of a plane's table."""
    # the distance of the weights is one number a run: the rows that count are those of the domain score
    rows = min(count for name, count in plane["rows"].items() if name != DISTANCE)
    seeds = min(plane["methods"][one[who]]["seeds"] for who in ("method", "rival"))
    gain, cost = (one[key][len(one[key]) // 2] if one[key] else None for key in ("score_at", "loss_at"))
    saved = changed(cost, rows)
    if cost and cost["mean"] is not None and cost["rival_loss"]:
        share = f"{cost['mean'] / cost['rival_loss']:+.0%}".replace("-", "−")
        saved = type(saved)(f"{saved}, {share}")
    return [one["method"], one["rival"], str(seeds), changed(one["mean_score"], rows), changed(gain, rows),
            saved]


def at_best(one: Result, name: str) -> str:
    """"3.219 (−0.810 [−0.902, −0.715])"."""
    change = changed(one["changes"].get(name))
    mean = value(one["means"].get(name))
    return type(change)(f"{mean} ({change})" if change != value(None) else mean)


def changed(stat: Result | None, rows: int | None = None) -> str:
    """"+0.012 [−0.030, +0.050]"; Sure where zero is outside, on ten rows or more (`rows`, or stat["n"])."""
    if stat is None or stat["mean"] is None:
        return value(None)
    interval = "" if stat["low"] is None else f" [{value(stat['low'], True)}, {value(stat['high'], True)}]"
    sure = bool(interval) and not stat["low"] <= 0 <= stat["high"]
    many = (stat["n"] if rows is None else rows) >= ENOUGH
    return (Sure if sure and many else str)(value(stat["mean"], True) + interval)


def place(one: Result) -> str:
    """"2e-05 · step 12 · 3 seeds"."""
    return f"{one['learning_rate']:g} · step {one['step']} · {counted(one['seeds'], 'seed')}"


def ratio(found: Result, method: str, rate: float) -> str:
    """CE / (λ KL) of a method's runs at a learning rate: median and range in the second half of training, and
    the share of all steps in [½, 2]. Where a KL falls to nothing a mean would be that one step."""
    runs = [[step["ce_kl_ratio"] for step in one["steps"] if step["ce_kl_ratio"] is not None]
            for one in found["curves"] if (one["method"], one["learning_rate"]) == (method, rate)]
    late = [number for run in runs for number in run[len(run) // 2 :]]
    if not late:
        return value(None)
    near = [0.5 <= number <= 2 for run in runs for number in run]
    return (f"{median(late):.2f} ({min(late):.2f} to {max(late):.2f} in the second half; "
            f"{percent(sum(near) / len(near))} of all in [½, 2])")


def sizes(plane: Result) -> str:
    """How many rows and prompts the intervals come from, and what is not in the table."""
    apart = sum(not (one["losses"] or one["scores"]) for one in plane["comparisons"])
    return (", ".join(f"{counted(count, 'row')} of {MEASURES[name].label}"
                      for name, count in plane["rows"].items()) + "."
            + (f" {counted(apart, 'comparison')} left out: the ranges do not overlap." if apart else "")
            + (f" Not measured: {', '.join(plane['left_out'])}." if plane["left_out"] else ""))


def cells_done(found: Result) -> str:
    """"19 of 60 cells"; a grid that was stopped has compared less than its suite says."""
    done, planned = {cell["name"] for cell in found["cells"]}, set(found["planned"])
    others = len(done - planned)
    return f"{len(done & planned)} of {counted(len(planned), 'cell')}" + (
        f" and {others} that the suite no longer has" if others else "")


def notes(found: Result) -> list[str]:
    """What a reader must know before trusting the numbers."""
    heldout = found["rows"]["heldout"]
    notes = [f"{counted(found['rows']['train'], 'training row')}, {heldout} held out; {cells_done(found)}.",
             "Intervals are not corrected for how many comparisons there are. With one seed they reflect the "
             "rows only, with a few seeds too little of the luck of a run.",
             "The likelihood of the gold answers favours methods trained on their wording; token F1 and "
             "reworded questions are less partial."]
    if heldout < ENOUGH:
        notes.insert(0, f"{counted(heldout, 'held-out row')}: too few to tell methods apart.")
    return notes


def planes(found: Result) -> list[Markup]:
    """The first planes: each method's points, its frontier, and its best point with 95 % intervals."""
    return [figure(f"plane-{plane['score']}-{plane['loss']}".replace(".", "-"), "Up and left is better",
                   draw(plane, found["best"]), f"change: {MEASURES[plane['loss']].label}", height=4.4)
            for plane in found["planes"][:DRAWN]]


def draw(plane: Result, best: dict[str, Result]) -> Callable[[Any], None]:
    def on(axes: Any) -> None:
        for number, (method, one) in enumerate(best.items()):
            if method not in plane["methods"]:
                continue
            known, colour = plane["methods"][method], COLOURS[number % len(COLOURS)]
            axes.plot(*columns(known["frontier"]), linewidth=1.1, label=PLAIN.sub(" ", method), color=colour,
                      linestyle="-" if number < len(COLOURS) else "--")
            axes.scatter(*columns(known["points"]), s=9, color=colour, alpha=0.5, linewidths=0)
            (x, across), (y, up) = (at(one["changes"].get(plane[axis]), sign * MEASURES[plane[axis]].sign)
                                    for axis, sign in (("loss", -1), ("score", 1)))
            if across and up:
                axes.hlines(y, *across, color=colour, linewidth=0.8)
                axes.vlines(x, *up, color=colour, linewidth=0.8)
                axes.scatter([x], [y], s=28, color=colour, zorder=4)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.scatter([0], [0], s=40, color=C1, marker="D", zorder=5)
        axes.set_ylabel(f"gain: {MEASURES[plane['score']].label}", fontsize=8)
        axes.grid(axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, fontsize=7.5, labelcolor=MUTED)

    return on


def at(stat: Result | None, sign: int) -> tuple[float, tuple[float, float] | None]:
    """A change in the direction of its axis, and its interval."""
    if stat is None or stat["low"] is None:
        return 0.0, None
    return sign * stat["mean"], (sign * stat["low"], sign * stat["high"])


def columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [point[0] for point in points], [point[1] for point in points]
