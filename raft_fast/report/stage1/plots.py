"""What the section of stage 1 plots."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import MaxNLocator, PercentFormatter

from raft_fast.report.figure import C1, C2, C3, INK, MUTED, bars, figure
from raft_fast.report.stage1.histogram import Histogram
from raft_fast.report.stage1.tally import BELOW, BIN, OTHER_CHECK, PASSED, Likelihoods, RoundTally, Tally
from raft_fast.report.text import percent

FADED = 0.4
KINDS = {PASSED: (C1, 1.0), OTHER_CHECK: (C1, FADED), BELOW: (C3, 1.0)}
ROUND_WIDTH = 0.5


def funnel(steps: Sequence[tuple[str, int]], whole: int) -> Markup:
    """How many rows reached each step, and which share of the `whole` rows decided on that is."""
    return bars([name for name, _ in steps], [count for _, count in steps], "How far the rows came",
                lambda count: f"{count:,.0f}" + (f" · {percent(count / whole)}" if count <= whole
                                                 else ""), "funnel")


def objections(name: str, title: str, counts: Counter[str]) -> Markup:
    """How many answers each check refused, the strictest first; one answer can fail several."""
    common = counts.most_common()
    return bars([check.replace("_", " ") for check, _ in common], [n for _, n in common], title,
                lambda count: f"{count:,.0f}", name)


def similarities(tally: Tally) -> Markup:
    """Histogram of cosine similarity between gold answer and rewrite, with τ."""
    def draw(axes: Any) -> None:
        bottom: Counter[int] = Counter()
        shown = {kind: tally.similarities[kind] for kind in KINDS if kind in tally.similarities}
        for kind, counts in shown.items():
            colour, alpha = KINDS[kind]
            places = sorted(counts)
            axes.bar([tally.anchor + BIN * (place + 0.5) for place in places],
                     [counts[place] for place in places], BIN * 0.88, color=colour, alpha=alpha,
                     bottom=[bottom[place] for place in places], label=kind)
            bottom.update(counts)
        if tally.tau is not None:
            _threshold(axes, tally.tau, f"τ = {tally.tau:g}", C2)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlim(min(0.0, tally.anchor + BIN * min(bottom)), 1.005)
        if len(shown) > 1:
            _legend(axes, len(shown))

    return figure("similarity", "Rewrites by similarity to the gold answer", draw,
                  "cosine similarity")


def calibration(edges: Sequence[float], true: Sequence[int], shuffled: Sequence[int],
                tau: float | None, suggested: float | None) -> Markup:
    """Similarities of true (gold, rewrite) pairs against those of shuffled ones, as shares."""
    def draw(axes: Any) -> None:
        for counts, colour, label in ((true, C1, "true pairs"), (shuffled, C3, "shuffled pairs")):
            total = max(sum(counts), 1)
            axes.stairs([count / total for count in counts], edges, fill=True, color=colour,
                        alpha=FADED, label=label)
            axes.stairs([count / total for count in counts], edges, color=colour, linewidth=1.4)
        tau_first = suggested is None or tau is None or tau < suggested  # labels point away
        if suggested is not None:
            _threshold(axes, suggested, f"suggested {suggested:.2f}", INK, left=not tau_first)
        if tau is not None:
            _threshold(axes, tau, f"τ = {tau:g}", C2, left=tau_first)
        axes.yaxis.set_major_formatter(PercentFormatter(1, 0))
        axes.set_ylim(0)
        filled = [place for place in range(len(true)) if true[place] or shuffled[place]]
        axes.set_xlim(edges[filled[0]] if filled else 0, 1.005)
        _legend(axes, 2)

    return figure("calibration", "True against shuffled pairs", draw, "cosine similarity")


def rounds(found: dict[int, RoundTally], judge_stop: float | None) -> Markup:
    """For each round half of its mean scores as a box, 5 to 95 % as a line, the median."""
    def draw(axes: Any) -> None:
        numbers = sorted(number for number, one in found.items() if one.scores.n)
        boxes = [_box(found[number].scores) for number in numbers]
        axes.bxp(boxes, positions=numbers, widths=ROUND_WIDTH, showfliers=False, patch_artist=True,
                 boxprops={"facecolor": C1, "edgecolor": C1, "alpha": FADED},
                 medianprops={"color": C1, "linewidth": 2.2},
                 whiskerprops={"color": C1}, capprops={"color": C1})
        if judge_stop is not None:
            axes.axhline(judge_stop, color=C2, linewidth=1.5)
        axes.set_xlim(min(numbers) - 0.65, max(numbers) + 0.65)
        axes.set_xticks(numbers, [f"{number}\n{found[number].scores.n:,} judged"
                                  for number in numbers])
        axes.set_ylim(0, 1.03)

    line = "" if judge_stop is None else f" (line: good enough, {judge_stop:g})"
    return figure("rounds", "Mean scores by round", draw, f"round{line}")


def disagreement(spread: Histogram) -> Markup:
    """How far the judges of one fusion were apart."""
    def draw(axes: Any) -> None:
        middles = [edge + spread.width / 2 for edge in spread.edges[:-1]]
        axes.bar(middles, spread.counts, spread.width * 0.88, color=C1)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axes.set_xlim(0, 1)

    return figure("disagreement", "How far judges are apart on one fusion", draw,
                  "highest score minus lowest")


def likelihoods(found: Likelihoods) -> Markup:
    """The rewriter's nats a token for the gold answers and for the training answers."""
    def draw(axes: Any) -> None:
        for histogram, colour, label in ((found.gold, C3, "before: gold answers"),
                                         (found.training, C1, "after: training answers")):
            axes.stairs(histogram.counts, histogram.edges, fill=True, color=colour, alpha=FADED,
                        label=label)
            axes.stairs(histogram.counts, histogram.edges, color=colour, linewidth=1.4)
            axes.axvline(histogram.mean, color=colour, linewidth=1.5, linestyle=(0, (4, 2)))
        filled = [place for place in range(found.gold.bins)
                  if found.gold.counts[place] or found.training.counts[place]]
        axes.set_xlim(0, found.gold.edges[filled[-1] + 1] * 1.03)
        axes.set_ylim(0)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        _legend(axes, 2)

    return figure("likelihoods", "What the answers cost the rewriter", draw,
                  "nats per token (dashed: mean)")


def _box(scores: Histogram) -> dict[str, Any]:
    low, first, middle, third, high = (scores.quantile(share)
                                       for share in (0.05, 0.25, 0.5, 0.75, 0.95))
    return {"whislo": low, "q1": first, "med": middle, "q3": third, "whishi": high}


def _threshold(axes: Any, place: float, label: str, colour: str, left: bool = True) -> None:
    """A line with its label on one side of it, at the top."""
    axes.axvline(place, color=colour, linewidth=1.5)
    axes.text(place + (-0.015 if left else 0.015), axes.get_ylim()[1], label, color=colour,
              ha="right" if left else "left", va="top")


def _legend(axes: Any, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.97), ncols=columns, handlelength=1.2,
                columnspacing=1.4, labelcolor=MUTED)
