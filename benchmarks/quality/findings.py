"""The questions the comparison was made for, answered from results.json by rule, never by hand.

"yes" and "no" need a 95 % interval that leaves zero out, on at least ten rows; everything else is
"undecided". CE / (λ KL) has no such interval: it is answered from the second half of training.
"""

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.quality.deciding import NO, UNDECIDED, YES, Finding, Line, Result, change, decide
from benchmarks.quality.frontier import Point, loss_at
from benchmarks.quality.measures import DISTANCE, MEASURES, PLANES, RATIO
from benchmarks.quality.side_by_side import at_equal_settings, lost
from benchmarks.quality.twins import distils, settings_of
from raft_fast.report.names import ENOUGH
from raft_fast.report.text import counted, percent, short

NEAR = 0.75  # of the steps of the second half in [1/2, 2]: near 1
STEPS = 10  # fewer say nothing of a course
SCORE, LOSS = PLANES[0]


def findings(found: Result) -> list[Finding]:
    """Every question of the comparison, in the order a reader asks."""
    distilling = [name for name, options in settings_of(found["cells"]).items() if distils(options)]
    baseline = found["baseline"]
    return [
        Finding(f"Does distilling learn more than {baseline} at equal general loss?", "learns more",
                "comparisons, beyond noise", _against(found, distilling, _learns)),
        Finding(f"Does distilling lose less in general than {baseline} at equal domain gain?", "keeps more",
                "comparisons, beyond noise", _against(found, distilling, _keeps)),
        Finding(f"Is {RATIO} held near 1?", f"{RATIO} near 1", "methods, second half of training",
                _balanced(found)),
        Finding(f"Are the weights nearer to the base than {baseline}'s at equal domain gain?",
                "weights nearer", "methods that distil, beyond noise", _nearer(found, distilling)),
        Finding("Is anything general worse than before training?", "worse in general",
                "methods at their best point", lost(found)),
        Finding(f"What differs from {baseline} at the same learning rate and steps?", "differs", "",
                at_equal_settings(found, distilling)),
        Finding("What does one option do, everything else being equal?", "one option", "",
                _one_option(found)),
    ]


def verdict(found: Result) -> list[str]:
    """The first questions in sentences, for the top of the page."""
    if not found["planes"]:
        return ["Nothing was measured in both directions, so nothing can be compared."]
    if found["rows"]["heldout"] < ENOUGH:
        rows = found["rows"]["heldout"]
        verb = "is" if rows == 1 else "are"
        return [f"{counted(rows, 'held-out row')} {verb} too few to tell methods apart."]
    baseline = found["baseline"]
    said: dict[str, list[str]] = {}
    for one in found["planes"][0]["comparisons"]:
        if one["rival"] == baseline:
            said.setdefault(_ending(baseline, one["mean_score"]), []).append(one["method"])
    return [f"At equal general loss {_listed(methods)} {ending}." for ending, methods in said.items()] \
        or [f"Only {baseline} has been measured so far."]


def plane_of(found: Result, score: str, loss: str) -> Result | None:
    return next((one for one in found["planes"] if (one["score"], one["loss"]) == (score, loss)), None)


def comparison(plane: Result, method: str, rival: str) -> Result | None:
    return next((one for one in plane["comparisons"] if (one["method"], one["rival"]) == (method, rival)),
                None)


def overlapping(found: Result) -> tuple[list[Result], int]:
    """The planes with those comparisons that have any figure, and how many have none."""
    kept = [plane | {"comparisons": [one for one in plane["comparisons"] if one["losses"] or one["scores"]]}
            for plane in found["planes"]]
    return kept, sum(len(plane["comparisons"]) for plane in found["planes"]) - sum(
        len(plane["comparisons"]) for plane in kept)


def _ending(rival: str, stat: Result) -> str:
    if stat["mean"] is None:
        return f"cannot be compared with {rival}, for want of a common range"
    if stat["low"] is None or stat["low"] <= 0 <= stat["high"]:
        return f"cannot be told from {rival}"
    return f"learnt {'more' if stat['mean'] > 0 else 'less'} than {rival}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _against(found: Result, methods: Sequence[str],
             read: Callable[[Result, Result, int, str], Line]) -> list[Line]:
    """What `read` says of each method against the baseline, in every plane of the general loss."""
    planes = [one for one in found["planes"] if one["loss"] == LOSS]
    return [read(plane, one, min(plane["rows"].values()), _sizes(plane, one))
            for method in methods for plane in planes
            if (one := comparison(plane, method, found["baseline"]))]


def _learns(plane: Result, one: Result, rows: int, sizes: str) -> Line:
    score, stat = MEASURES[plane["score"]].label, one["mean_score"]
    if stat["mean"] is None:
        return Line(one["method"], UNDECIDED, f"{score}: no general loss that both reach ({sizes})")
    low, high = one["losses"]
    where = f"mean over a KL of {short(low)} to {short(high)}" if low < high else f"at a KL of {short(low)}"
    return Line(one["method"], decide(stat, rows, True),
                f"{score}: a gain larger by {change(stat)}, {where} ({sizes})")


def _keeps(plane: Result, one: Result, rows: int, sizes: str) -> Line:
    score, at = MEASURES[plane["score"]].label, _middle(one["loss_at"])
    if at is None or at["mean"] is None:
        return Line(one["method"], UNDECIDED, f"{score}: no gain that both reach ({sizes})")
    return Line(one["method"], decide(at, rows, False),
                f"KL from base {change(at)}{_share(plane, one['rival'], at)} at a gain of "
                f"{short(at['score'])} in {score} ({sizes})")


def _nearer(found: Result, methods: Sequence[str]) -> list[Line]:
    """At equal domain gain by frontiers; at the same learning rate and step beside it."""
    plane = plane_of(found, SCORE, DISTANCE)
    if plane is None:
        return []
    lines = []
    for method in methods:
        one = comparison(plane, method, found["baseline"])
        if one is None:
            continue
        at, sizes = _middle(one["loss_at"]), _sizes(plane, one)
        rates = _at_equal_rate(found, method)
        if at is None or at["mean"] is None:
            lines.append(Line(method, UNDECIDED, f"no gain that both reach ({sizes}){rates}"))
            continue
        # the distance itself is one number a run: the rows that count are those of the domain score
        lines.append(Line(method, decide(at, plane["rows"][SCORE], False),
                          f"{change(at)}{_share(plane, one['rival'], at)} at a gain of "
                          f"{short(at['score'])} in {MEASURES[SCORE].label} ({sizes}){rates}"))
    return lines


def _at_equal_rate(found: Result, method: str) -> str:
    told = [f"{short(pair['measures'][DISTANCE]['mean'], True)} at {pair['learning_rate']:g}"
            for pair in found["pairs"] if pair["method"] == method and DISTANCE in pair["measures"]]
    return f"; at equal learning rate and steps {', '.join(told)}" if told else ""


def _balanced(found: Result) -> list[Line]:
    """The second half of training, all runs of a method together."""
    lines = []
    for method, options in settings_of(found["cells"]).items():
        runs = [[step["ce_kl_ratio"] for step in curve["steps"] if step["ce_kl_ratio"] is not None]
                for curve in found["curves"] if curve["method"] == method]
        late = [ratio for run in runs for ratio in run[len(run) // 2 :]]
        early = [ratio for run in runs for ratio in run[: len(run) // 2]]
        if not late:
            continue
        near = sum(0.5 <= ratio <= 2 for ratio in late) / len(late)
        answer = UNDECIDED if len(late) < STEPS else YES if near >= NEAR else NO
        before = f", first half {median(early):.2f}" if early else ""
        lines.append(Line(method, answer, (
            f"λ {rule(options)}: median {median(late):.2f} (range {min(late):.2f} to {max(late):.2f}, "
            f"{percent(near)} in [½, 2]) in the second half{before}; "
            f"{counted(len(late), 'step')} of {counted(sum(map(bool, runs)), 'run')}")))
    return lines


def rule(options: Result) -> str:
    """How a method balances its two losses."""
    if options["balance"] == "fixed":
        return f"fixed at {options['fixed_lambda']:g}"
    return {"ema": "by EMA of the losses", "gradient": "by gradient norms"}[options["balance"]]


def _one_option(found: Result) -> list[Line]:
    """Twins against their reference in the first plane, λ and the gradient's norm beside it."""
    plane = plane_of(found, SCORE, LOSS)
    if plane is None:
        return []
    rows, lines = min(plane["rows"].values()), []
    for twin in found["twins"]:
        one = comparison(plane, twin["method"], twin["reference"])
        if one is None:
            continue
        word = {YES: "better", NO: "worse"}.get(decide(one["mean_score"], rows, True), UNDECIDED)
        learnt = f"gain changed by {change(one['mean_score'])} at equal general loss" if one["losses"] \
            else "no general loss that both reach"
        lines.append(Line(twin["method"], word, (
            f"{twin['option']} {twin['value']} instead of {twin['reference_value']} ({twin['reference']}): "
            f"{learnt} ({_sizes(plane, one)}){_course(found, twin)}")))
    return lines


def _course(found: Result, twin: Result) -> str:
    """λ and the gradient's norm of both, for another way to balance."""
    if twin["option"] != "balance":
        return ""
    told = []
    for key, name in (("lambda", "λ"), ("grad_norm", "gradient norm before clipping")):
        both = [[step[key] for curve in found["curves"] if curve["method"] == method
                 for step in curve["steps"] if step[key] is not None]
                for method in (twin["method"], twin["reference"])]
        if all(both):
            told.append(f"median {name} {median(both[0]):.3g} against {median(both[1]):.3g}")
    return "".join(f"; {one}" for one in told)


def _sizes(plane: Result, one: Result) -> str:
    """"39 rows, 24 prompts, 1 seed"."""
    seeds = min(plane["methods"][method]["seeds"] for method in (one["method"], one["rival"]))
    prompts = plane["rows"][plane["loss"]]
    texts = f", {counted(prompts, 'prompt')}" if plane["loss"] != DISTANCE else ""
    return f"{counted(plane['rows'][plane['score']], 'row')}{texts}, {counted(seeds, 'seed')}"


def _share(plane: Result, rival: str, at: Result) -> str:
    """The change as a share of what the rival pays for the same gain."""
    front = [Point(*pair) for pair in plane["methods"][rival]["frontier"]]
    paid = loss_at(front, at["score"])
    return f" ({100 * at['mean'] / paid:+.0f} %)".replace("-", "−") if paid else ""


def _middle(stats: Sequence[Result]) -> Result | None:
    return stats[len(stats) // 2] if stats else None
