"""results.json: everything that the page, the tables and a later reader need, from the finished cells."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from benchmarks.quality.frontier import Plane
from benchmarks.quality.points import DISTANCE, MEASURES, Measured, Outcome, Values
from raft_fast.evaluation.scores import Pair, bootstrap

# (domain score, general loss) in which methods are compared by their frontiers
PLANES = [("domain.nll", "own.kl"), ("domain.token_f1", "own.kl"),
          ("paraphrases.nll", "own.kl"), ("paraphrases.token_f1", "own.kl"), ("domain.nll", "own.nll"),
          ("domain.nll", "text.nll"), ("domain.token_f1", "general.strict_instruction"),
          ("domain.nll", DISTANCE)]
PAPER = "raft"  # compared with by every method, as the baseline is: what does one changed option do?
Result = dict[str, Any]


def results(baseline: str, base: Measured, outcomes: Sequence[Outcome], about: Result) -> Result:
    """Points, frontiers and their comparisons by plane, best points, and paired tests at equal settings."""
    points = [point for outcome in outcomes for point in outcome.points]
    planes = [plane_result(baseline, base, points, score, loss) for score, loss in PLANES]
    return {
        "baseline": baseline, **about,
        "base": {"means": base.means()},
        "points": [{"method": one.method, "learning_rate": one.learning_rate, "seed": one.seed,
                    "step": one.step, "means": one.means(), "weights": one.extra["weights"]}
                   for one in points],
        "planes": [plane for plane in planes if plane is not None],
        "best": best(base, points),
        "pairs": pairs(baseline, outcomes),
        "curves": [{"method": outcome.points[-1].method, "seed": outcome.points[-1].seed,
                    "learning_rate": outcome.points[-1].learning_rate, "steps": outcome.curves}
                   for outcome in outcomes],
        "cells": [outcome.about for outcome in outcomes],
    }


def plane_result(baseline: str, base: Measured, points: Sequence[Measured], score: str, loss: str
                 ) -> Result | None:
    """One plane, without the methods that were not measured in it; None where the base was not, or no
    method."""
    def unknown(one: Measured) -> bool:
        return any(one.mean(measure) is None for measure in (score, loss))

    left_out = {one.method for one in points if unknown(one)}
    points = [one for one in points if one.method not in left_out]
    if unknown(base) or not points:
        return None
    plane = Plane(base, points, score, loss)
    methods = plane.methods()
    against = [(method, rival) for rival in dict.fromkeys([baseline, PAPER]) for method in methods
               if method != rival and rival in methods and (rival, method) != (PAPER, baseline)]
    return {
        "score": score, "loss": loss, "seeds": len(plane.seeds),
        "rows": {name: len(base.values[name]) for name in (score, loss)},
        "methods": {method: {"points": plane.points(method), "frontier": plane.frontiers(method)[0],
                             "seeds": plane.least_seeds(method)} for method in methods},
        "left_out": sorted(left_out),
        "comparisons": [plane.compare(method, rival) for method, rival in against],
    }


def best(base: Measured, points: Sequence[Measured]) -> dict[str, Result]:
    """Each method at the learning rate and step where the first plane's domain score is best, averaged
    over seeds. Chosen on the rows that it is shown on: frontiers are the fair comparison."""
    score = PLANES[0][0]
    spots: dict[str, dict[tuple[float, int], list[Measured]]] = {}
    for one in points:
        spots.setdefault(one.method, {}).setdefault((one.learning_rate, one.step), []).append(one)
    found = {}
    for method, by_spot in spots.items():
        (rate, step), seeds = max(by_spot.items(), key=lambda item: MEASURES[score].sign * (
            _mean([one.mean(score) for one in item[1]]) or 0.0))
        here = {name: _mean([one.mean(name) for one in seeds]) for name in seeds[0].means()}
        found[method] = {
            "learning_rate": rate, "step": step, "seeds": len(seeds), "means": here,
            "changes": {name: _test([base.values[name]] * len(seeds), [one.values[name] for one in seeds])
                        for name in here if len(base.values.get(name, [])) > 1},
            "weights": here.get(DISTANCE)}
    return found


def pairs(baseline: str, outcomes: Sequence[Outcome]) -> list[Result]:
    """Each method against the baseline where both ended with the same learning rate and step: change of
    every measure over the same rows (averaged over the seeds that both have) with its interval."""
    ends: dict[tuple[float, int], dict[str, dict[int, Values]]] = {}
    for outcome in outcomes:
        last = outcome.points[-1]
        at = ends.setdefault((last.learning_rate, last.step), {})
        at.setdefault(last.method, {})[last.seed] = last.values
    found = []
    for (rate, step), methods in sorted(ends.items()):
        for method, by_seed in methods.items():
            seeds = sorted(set(by_seed) & set(methods.get(baseline, {})))
            if method == baseline or not seeds:
                continue
            both = [[one[seed] for seed in seeds] for one in (methods[baseline], by_seed)]
            found.append({"method": method, "rival": baseline, "learning_rate": rate, "step": step,
                          "seeds": len(seeds), "measures": {
                              name: _test(*([one[name] for one in side] for side in both))
                              for name in MEASURES if all(name in one for side in both for one in side)}})
    return found


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _test(theirs: Sequence[Sequence[Pair | None]], ours: Sequence[Sequence[Pair | None]]) -> Result:
    return bootstrap(_over_seeds(theirs), _over_seeds(ours))


def _over_seeds(by_seed: Sequence[Sequence[Pair | None]]) -> list[Pair | None]:
    """Each row's pair summed over seeds; None where a seed lacks it."""
    return [None if any(pair is None for pair in row)
            else (sum(pair[0] for pair in row if pair), sum(pair[1] for pair in row if pair))
            for row in zip(*by_seed, strict=True)]
