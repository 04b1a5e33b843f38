"""Stage 1 for report and cards: the tally of its decisions, what qualifies them, costs and examples."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from raft_fast.refinement.candidates import GOLD, JUDGE, TASKS, Candidate, read_line
from raft_fast.refinement.summary import Tally
from raft_fast.report.files import DECISIONS, read, read_lines
from raft_fast.report.text import NONE, counted, duration, percent, value

Record = dict[str, Any]
Lines = list[tuple[str, ...]]
EXAMPLES, REASONS, SCREENED = 10, 3, 50
PRICED = {"rewrite": "rewriter", "fused": "fuser"}  # origin -> the engine whose price counts
MEASURES = {"same_words": "same words", "similarity": "similarity", "ngrams": "13-word sequences shared"}
ACTIONS = {"flag": "flagged", "drop": "dropped"}


@dataclass
class Examples:
    """At most `count` rows for every reason; which ones depends on their row_id alone."""

    count: int = EXAMPLES
    _kept: dict[str, list[tuple[str, Record]]] = field(default_factory=dict)

    def add(self, reason: str, record: Record) -> None:
        kept = self._kept.setdefault(reason, [])
        rank = hashlib.sha256(str(record["row_id"]).encode()).hexdigest()
        if len(kept) < self.count or rank < kept[-1][0]:
            kept.append((rank, record))
            kept.sort(key=lambda pair: pair[0])
            del kept[self.count :]

    def chosen(self) -> list[Record]:
        """At most `count` rows, one of every reason before a second of any."""
        groups = [[record for _, record in self._kept[reason]] for reason in sorted(self._kept)]
        turns = [record for turn in zip_longest(*groups) for record in turn if record is not None]
        return turns[: self.count]


@dataclass
class Stage1:
    """What the files of stage 1 say, read in one pass over its decisions."""

    summary: Record
    tally: Tally = field(default_factory=Tally)
    damaged: int = 0
    accepted: Examples = field(default_factory=Examples)
    rejected: Examples = field(default_factory=Examples)


def read_stage1(folder: Path, tau: float | None = None) -> Stage1 | None:
    """The stage 1 in `folder`; None without decisions. `tau` is used if summary.json has none."""
    found = Stage1({"tau": tau} | read(folder / "summary.json", {}))
    for record in read_lines(folder / DECISIONS, "row_id", "source"):
        if record is None:
            found.damaged += 1
            continue
        found.tally.add(record)
        candidates, picks = read_line(record)
        if changed := [pick for pick in picks if pick.origin != GOLD]:
            found.accepted.add(label(changed[0]), record)
        elif reasons := [name for one in candidates for name, why in one.objections.items() if why]:
            found.rejected.add(reasons[0], record)
    if not found.tally.rows:
        return None
    rows = {"rows": {"used": found.tally.rows, "total": found.tally.rows}}
    found.summary = rows | found.tally.as_json() | found.summary
    return found


def label(one: Candidate) -> str:
    """"gold", "rewrite 1", "fused 2"."""
    return f"{one.origin} {one.number}" if one.number else one.origin


def counts(summary: Record) -> Lines:
    """What came of the rows: (what, how many), for page and card."""
    rows, used = summary["rows"], summary["rows"]["used"]
    lines: Lines = [("rows", f"{used:,} of {rows['total']:,}"),
                    ("rewrites that passed the checks", _share(summary.get("passed_filter", 0), used))]
    lines += [(f"trained on: {source}", _share(count, used)) for source, count in summary["sources"].items()]
    if similarity := summary.get("similarity"):
        lines.append(("similarity, median", value(similarity["p50"])))
    if gap := summary.get("supervision_gap"):
        lines += [(f"nats per token for the rewriter: {name}", value(gap[key], signed=key == "gap"))
                  for key, name in (("gold", "gold answers"), ("training", "training answers"),
                                    ("gap", "supervision-compatibility gap"))]
    elif summary.get("no_likelihoods"):
        lines.append(("nats per token for the rewriter", f"not measured: {summary['no_likelihoods']}"))
    return lines


def refusals(summary: Record) -> Lines:
    """(check, how many rewrites it refused), for the card."""
    return [(f"rewrites refused by the check {check}", _share(count, summary["rows"]["used"]))
            for check, count in (summary.get("objections") or {}).items()]


def notes(summary: Record, rejected: Sequence[str] = ()) -> list[str]:
    """What qualifies the refined rows; `rejected` as in rejected.jsonl."""
    if not summary:
        return ["Stage 1 left no summary; the training answers were used as they came."]
    found, rows = [], summary.get("rows") or {}
    if summary.get("fuser_is_judge"):
        found.append("The fuser is also a judge: it scores its own fusions.")
    if rows and rows["used"] < rows["total"]:
        found.append(f"Rows used by stage 1: {rows['used']:,} of {rows['total']:,} (--max_rows 0 takes all).")
    if rejected:
        reasons = "; ".join(f"{count} {reason}" for reason, count in Counter(rejected).most_common(REASONS))
        found.append(f"Rows set aside, in rejected.jsonl: {len(rejected):,} ({reasons}).")
    if failed := sum((summary.get("failed_scores") or {}).values()):
        found.append(f"Judge replies without a score: {failed:,}.")
    return found


def flow(stage1: Stage1) -> tuple[list[str], list[int]]:
    """(steps, rows that reached each)."""
    rows, tally = stage1.summary["rows"], stage1.tally
    steps = {"in the data": rows["total"] + rows.get("rejected", 0), "read": rows["used"]}
    steps |= {f"{origin}: passed": group.rows for origin, group in tally.origins.items() if origin != GOLD}
    stop = stage1.summary.get("judge_stop")
    judged = [group.scores[JUDGE].best for group in tally.origins.values() if JUDGE in group.scores]
    if judged and stop is not None:
        steps[f"judged {stop:g} or better"] = sum(best.share(stop) for best in judged)
    return list(steps), list(steps.values())


def draws(tally: Tally) -> tuple[tuple[str, ...], Lines]:
    """(columns, lines) of the candidates by origin and draw, with the median of each score."""
    names = list(dict.fromkeys(name for group in tally.draws.values() for name in group.scores))
    order = list(tally.origins)
    lines = [(origin, str(number or ""), f"{group.drawn:,}", f"{group.passed:,}", f"{group.chosen:,}",
              *(value(group.scores[name].all.quantile(0.5)) if name in group.scores else NONE
                for name in names))
             for (origin, number), group in sorted(
                 tally.draws.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))]
    return ("origin", "draw", "candidates", "passed", "chosen", *(f"{name}, median" for name in names)), lines


def objections(tally: Tally) -> tuple[tuple[str, ...], Lines]:
    """(columns, lines) of how many candidates of each origin every check refused."""
    origins = [origin for origin, group in tally.origins.items() if group.objections]
    total = sum((tally.origins[origin].objections for origin in origins), Counter[str]())
    return ("check", *origins), [
        (check, *(f"{tally.origins[origin].objections[check]:,}" for origin in origins))
        for check, _ in total.most_common()]


def judges(tally: Tally) -> Lines:
    """(judge, scores, mean, mean difference from the other judges, failed, first error)."""
    return [(name, f"{len(one.scores):,}", value(one.scores.mean), value(one.apart.mean, signed=True),
             f"{one.failed:,}", one.error or "") for name, one in tally.judges.items()]


def calibration(summary: Record) -> Lines:
    """(τ, share of true pairs that pass, share of shuffled ones) for the τ in use and the suggested one."""
    found = summary.get("calibration") or {}
    passing = found.get("accepted") or {}
    return [(f"{name} {at}", percent(one["true"], 1), percent(one["shuffled"], 1)) for name, at, one in (
        ("τ =", summary.get("tau"), passing.get("at_tau")),
        ("suggested τ =", found.get("suggested_tau"), passing.get("at_suggested_tau"))) if one]


def costs(stage1: Stage1) -> Lines:
    """(who, replies, tokens read, tokens written, money) for every engine asked, and for all.

    Tokens are those of the replies that the decisions rest on, paid for in this start of the command or in
    an earlier one. Money is missing without --price.
    """
    summary, prices = stage1.summary, stage1.summary.get("prices") or {}
    asked = [(origin, group.drawn, summary["tokens"].get(TASKS.get(origin, origin)),
              prices.get(PRICED.get(origin, origin)))
             for origin, group in stage1.tally.origins.items() if origin != GOLD]
    asked += [(f"judge {name}", one["scores"] + one["failed"], one.get("tokens"),
               (prices.get("judges") or {}).get(name)) for name, one in (summary.get("judges") or {}).items()]
    lines: list[tuple[Any, ...]] = []
    for name, replies, spent, price in asked:
        if replies and spent:
            read, written = spent["prompt"], spent["completion"]
            money = (price["prompt"] * read + price["completion"] * written) / 1e6 if price else None
            lines.append((name, replies, read, written, money))
    if lines:
        _, *columns = zip(*lines, strict=True)
        lines.append(("all", *(None if None in column else sum(column) for column in columns)))
    return [(name, *(f"{count:,}" for count in found), NONE if money is None else
             f"{money:,.2f}" if money >= 1 else f"{money:.4f}") for name, *found, money in lines]


def started(folder: Path) -> str:
    """All starts of the command together, those of shards included; empty if none was written down."""
    paths = [folder / "runs.jsonl", *sorted(folder.glob("shards/*/runs.jsonl"))]
    runs = [run for path in paths for run in read_lines(path, "seconds") if run]
    total = {key: sum(run.get(key) or 0 for run in runs) for key in ("seconds", "asked", "cached", "failed")}
    return (f"{counted(len(runs), 'start')} of the command, {duration(total['seconds'])}: {total['asked']:,} "
            f"requests, {total['cached']:,} replies from the journal, {total['failed']:,} failures"
            if runs else "")


def screened(folder: Path) -> tuple[Lines, Lines]:
    """((finding, rows, action), (row, repeats, by, value, action) of the first) from screen.json."""
    found = read(folder / "screen.json", {}, ["options", "flagged"])
    lines: Lines = []
    for kind, what in (("duplicates", "near-duplicate questions"), ("overlap", "overlap")):
        if found and found[kind] is not None:
            suites = ", ".join(f"{name} ({count:,} texts)" for name, count in found["compared_with"].items())
            what += f" with {suites or 'nothing'}" if kind == "overlap" else ""
            lines.append((what, f"{found[kind]:,} of {found['rows']:,}", ACTIONS[found["options"][kind]]))
    return lines, [_finding(one) for one in found.get("flagged", [])[:SCREENED]]


def _finding(one: Record) -> tuple[str, ...]:
    other = one["with"]
    named = other.get("row_id", f"prompt {other.get('index')}")
    return (one["row_id"], f"{named} ({other['suite']})" if "suite" in other else named,
            MEASURES[one["measure"]], value(one["value"]), "dropped" if one["dropped"] else "flagged")


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / whole if whole else None)})"
