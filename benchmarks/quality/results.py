"""results.json: everything the page, the table and a later reader need, from the finished cells."""

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

from benchmarks.quality.disk import Outcome
from benchmarks.quality.measures import DISTANCE, MEASURES, PLANES, Measured, Values
from benchmarks.quality.plane import Plane
from benchmarks.quality.twins import settings_of, twins
from raft_fast.evaluation.statistics import Pair, paired_change, paired_p

Result = dict[str, Any]


def results(baseline: str, base: Measured, outcomes: Sequence[Outcome], about: Result) -> Result:
    """Points, planes with frontiers and comparisons, and paired tests at equal settings."""
    points = [point for outcome in outcomes for point in outcome.points]
    alike = twins(settings_of([outcome.about for outcome in outcomes]))
    planes = [one for score, loss in PLANES
              if (one := plane_result(baseline, alike, base, points, score, loss)) is not None]
    return {
        "baseline": baseline, **about,
        "base": {"means": means(base)},
        "points": [{"method": one.method, "learning_rate": one.learning_rate, "seed": one.seed,
                    "step": one.step, "means": means(one), "weights": one.extra["weights"]}
                   for one in points],
        "planes": planes,
        "best": best(base, points),
        "pairs": pairs(baseline, outcomes),
        "twins": alike,
        "curves": [{"method": outcome.points[-1].method, "seed": outcome.points[-1].seed,
                    "learning_rate": outcome.points[-1].learning_rate, "steps": outcome.curves,
                    "ce_kl_ratio": balance(outcome.curves)} for outcome in outcomes],
        "cells": [outcome.about for outcome in outcomes],
    }


def means(one: Measured) -> dict[str, float | None]:
    """The measures that the page knows."""
    return {name: one.mean(name) for name in MEASURES if name in one.values}


def plane_result(baseline: str, alike: Sequence[Result], base: Measured, points: Sequence[Measured],
                 score: str, loss: str) -> Result | None:
    """One plane; a method that was not measured in it is left out, and where the base was not, or no
    method, there is no plane. Methods are compared with the baseline, twins with their reference too."""
    def unknown(one: Measured) -> bool:
        return any(one.mean(measure) is None for measure in (score, loss))

    left_out = {one.method for one in points if unknown(one)}
    points = [one for one in points if one.method not in left_out]
    if unknown(base) or not points:
        return None
    plane = Plane(base, points, score, loss)
    methods = plane.methods()
    against = [(method, baseline) for method in methods if method != baseline] + [
        (twin["method"], twin["reference"]) for twin in alike if twin["reference"] != baseline]
    return {
        "score": score, "loss": loss, "seeds": len(plane.seeds),
        "rows": {name: len(base.values[name]) for name in (score, loss)},
        "methods": {method: {"points": plane.points(method), "frontier": plane.frontier(method),
                             "seeds": plane.least_seeds(method)}
                    for method in methods},
        "left_out": sorted(left_out),
        "comparisons": [plane.compare(method, rival) for method, rival in against
                        if {method, rival} <= set(methods)],
    }


def best(base: Measured, points: Sequence[Measured]) -> dict[str, Result]:
    """Each method at the learning rate and step where the first plane's domain score is best, averaged
    over seeds. Chosen on the rows it is shown on: frontiers are the fair comparison."""
    score = PLANES[0][0]
    spots: dict[str, dict[tuple[float, int], list[Measured]]] = {}
    for one in points:
        spots.setdefault(one.method, {}).setdefault((one.learning_rate, one.step), []).append(one)
    sign = 1 if MEASURES[score].more_is_better else -1
    found = {}
    for method, by_spot in spots.items():
        (rate, step), seeds = max(by_spot.items(), key=lambda item: sign * (
            _mean([one.mean(score) for one in item[1]]) or 0.0))
        here = {name: _mean([one.mean(name) for one in seeds]) for name in means(seeds[0])}
        found[method] = {
            "learning_rate": rate, "step": step, "seeds": len(seeds), "means": here,
            "changes": {name: _test([base.values[name]] * len(seeds), [one.values[name] for one in seeds])
                        for name in here if name in base.values and len(base.values[name]) > 1},
            "weights": here.get(DISTANCE)}
    return found


def pairs(baseline: str, outcomes: Sequence[Outcome]) -> list[Result]:
    """Each method against the baseline where both ended with the same learning rate and step: change of
    every measure over the same rows (averaged over the seeds that both have) with interval and p."""
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


def balance(steps: Sequence[Result]) -> Result | None:
    """CE / (λ KL) over a run: how much of it lies between 1/2 and 2, and the two halves of training by
    median and range. None where there was no distillation."""
    ratios = [step["ce_kl_ratio"] for step in steps if step["ce_kl_ratio"] is not None]
    if not ratios:
        return None
    near = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return {"mean": fmean(ratios), "first": ratios[0], "last": ratios[-1], "near_1": near,
            "halves": [_spread(half) for half in (ratios[: len(ratios) // 2], ratios[len(ratios) // 2 :])]}


def _spread(values: Sequence[float]) -> Result | None:
    return {"median": median(values), "low": min(values), "high": max(values), "steps": len(values),
            "near_1": sum(0.5 <= value <= 2 for value in values) / len(values)} if values else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _test(theirs: Sequence[Sequence[Pair | None]], ours: Sequence[Sequence[Pair | None]]) -> Result:
    left, right = _over_seeds(theirs), _over_seeds(ours)
    return {**paired_change(left, right), "p": paired_p(left, right)}


def _over_seeds(by_seed: Sequence[Sequence[Pair | None]]) -> list[Pair | None]:
    """Each row's pair summed over seeds; None where a seed lacks it."""
    return [None if any(pair is None for pair in row)
            else (sum(pair[0] for pair in row if pair), sum(pair[1] for pair in row if pair))
            for row in zip(*by_seed, strict=True)]
