"""The tables of a report: domain, paraphrases, general, lm-eval, drift and behaviour, a row a metric."""

from typing import Any

from raft_fast.report.names import BEHAVIOUR, LABELS, TITLES, interval, judgement, measured
from raft_fast.report.text import percent, short, value

NOTHING = {"mean": "", "interval": ""}
Section = dict[str, Any]


def score_tables(evaluation: Section) -> list[Section]:
    """Rows of (label, base, trained, change, intervals, n, judgement) for every part that was measured."""
    if not evaluation:
        return []
    tables = [{"title": title, "general": part == "general",
               "rows": [_score_row(name, metric) for name, metric in measured(evaluation[part])]}
              for part, title in TITLES.items() if evaluation.get(part)]
    lm_eval, drift = evaluation.get("lm_eval"), evaluation.get("drift")
    more = [("Other suites, by lm-eval: score ± standard error", _lm_eval_rows(lm_eval) if lm_eval else []),
            ("Drift from the base, token by token", _drift_rows(drift) if drift else []),
            ("How it answers", _behaviour_rows(evaluation.get("behaviour") or {}))]
    return tables + [{"title": title, "general": False, "rows": rows} for title, rows in more if rows]


def _score_row(name: str, metric: Section) -> Section:
    n, pairs = metric["base"]["n"], metric["change"]["n"]
    # instruction-level shares count instructions, their change is drawn by prompt
    return {"label": LABELS[name], "base": _score(metric["base"]),
            "trained": _score(metric["trained"]), "change": _score(metric["change"], signed=True),
            "retention": percent(metric["retention"]) if "retention" in metric else "",
            "n": str(n) if n == pairs or "instruction" in name else f"{n} / {pairs}",
            "judgement": judgement(metric),
            "lower_is_better": not metric["higher_is_better"]}


def _lm_eval_rows(found: Section) -> list[Section]:
    """Judged where lm-eval says which way is better."""
    return [_row(f"{task}, {metric.removesuffix(',none')}", _with_error(one["base"]),
                 _with_error(one["trained"]), _score(one["change"], signed=True), one["change"]["n"],
                 judgement(one) if one["higher_is_better"] is not None else "",
                 one["higher_is_better"] is False)
            for task, metrics in found["tasks"].items() for metric, one in metrics.items()]


def _drift_rows(drift: Section) -> list[Section]:
    rows = []
    for part, said in (("own", "the base's own answers"), ("text", "general text")):
        one = drift[part]
        rows.append(_row(f"KL from the base on {said}, nats per token", NOTHING, _score(one["kl"]), NOTHING,
                         one["texts"], lower=True))
        nll = one["nll"]
        rows.append(_row(f"Negative log-likelihood of {said}, nats per token", _score(nll["base"]),
                         _score(nll["trained"]), _score(nll["change"], signed=True), one["texts"],
                         judgement(nll | {"higher_is_better": False}), lower=True))
    if moved := drift.get("weights"):
        distance = {"mean": short(moved["all"]), "interval": ""}
        rows.append(_row("Relative distance of the weights", NOTHING, distance, NOTHING, "", lower=True))
    return rows


def _behaviour_rows(found: Section) -> list[Section]:
    """Neither better nor worse: it should stay as it was."""
    return [_row(f"{BEHAVIOUR[name]}, {TITLES[part].lower()}", _score(one["base"]), _score(one["trained"]),
                 _score(one["change"], signed=True), one["change"]["n"])
            for part, metrics in found.items() for name, one in metrics.items() if one["change"]["n"]]


def _row(label: str, base: Section, trained: Section, change: Section, n: Any, judged: str = "",
         lower: bool = False) -> Section:
    return {"label": label, "base": base, "trained": trained, "change": change, "retention": "",
            "n": str(n), "judgement": judged, "lower_is_better": lower}


def _score(mean: Section, signed: bool = False) -> Section:
    return {"mean": value(mean["mean"], signed), "interval": interval(mean, signed)}


def _with_error(score: Section) -> Section:
    error = "" if score["stderr"] is None else f"± {value(score['stderr'])}"
    return {"mean": value(score["mean"]), "interval": error}
