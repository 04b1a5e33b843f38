"""Stage 1 as rows of text, for page, card and terminal: counts, candidates, engines, one row's story."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from raft_fast.refinement.candidates import GOLD, Candidate, mean, read_line
from raft_fast.refinement.outputs import DECISIONS, PARTIAL_DECISIONS, Tally, quantiles
from raft_fast.report.results import NONE, Lines, Record, percent, read, read_lines, value
from raft_fast.run.errors import UserError, visible

EXAMPLES = 2  # rows of every kind


@dataclass
class Stage1:
    """What the files of stage 1 say, read in one pass over its decisions. `examples` holds the first rows of
    every kind: by what was chosen, or by what refused the first candidate."""

    summary: Record
    tally: Tally = field(default_factory=Tally)
    damaged: int = 0
    examples: defaultdict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))


def read_stage1(folder: Path) -> Stage1 | None:
    """The stage 1 in `folder`; None without decisions."""
    found = Stage1(read(folder / "summary.json", {}))
    for record in read_lines(folder / DECISIONS, "row_id", "source"):
        if record is None:
            found.damaged += 1
            continue
        found.tally.add(record)
        candidates, picks = read_line(record)
        kinds = [label(pick) for pick in picks if pick.origin != GOLD]
        kinds += [name for one in candidates for name, why in one.objections.items() if why]
        kept = found.examples[kinds[0] if kinds else GOLD]
        kept += [record] * (len(kept) < EXAMPLES)
    if not found.tally.rows:
        return None
    rows = {"rows": {"used": found.tally.rows, "total": found.tally.rows}}
    found.summary = rows | found.tally.as_json() | found.summary
    return found


def label(one: Candidate) -> str:
    """"gold", "rewrite 1", "fused 2"."""
    return f"{one.origin} {one.number}" if one.number else one.origin


def shown(record: Record) -> list[tuple[str, Candidate]]:
    """(label, candidate) of those that a page has room for: of every origin the chosen one or the first."""
    candidates, picks = read_line(record)
    found = {one.origin: one for one in reversed(candidates)} | {one.origin: one for one in picks}
    return [(label(one) + (", chosen" if one in picks else ""), one)
            for one in sorted(found.values(), key=[*candidates, *picks].index)]


def counts(summary: Record, folder: Path) -> Lines:
    """What came of the rows that were refined into `folder`: (what, how many), for page and card."""
    used, rejected = summary["rows"]["used"], sum(1 for _ in read_lines(folder / "rejected.jsonl"))
    similarity, gap = summary.get("similarity"), summary.get("supervision_gap")
    lines = {"rows": f"{used:,} of {summary['rows']['total']:,}",
             "rows set aside, in rejected.jsonl": f"{rejected:,}",
             "rewrites that passed the checks": _share(summary.get("passed_filter", 0), used),
             **{f"trained on: {source}": _share(count, used) for source, count in summary["sources"].items()},
             "similarity, median": value(similarity["p50"] if similarity else None)}
    for key, name in (("gold", "gold answers"), ("training", "training answers"),
                      ("gap", "supervision-compatibility gap")):
        lines[f"nats per token for the rewriter: {name}"] = value(gap and gap[key], signed=key == "gap")
    return [(what, count) for what, count in lines.items() if count not in (NONE, "0")]


def notes(summary: Record) -> list[str]:
    """What qualifies the refined rows."""
    if not summary:
        return ["Stage 1 left no summary; the training answers were used as they came."]
    return ["The fuser is also a judge: it scores its own fusions."] if summary.get("fuser_is_judge") else []


def draws(tally: Tally) -> tuple[tuple[str, ...], Lines]:
    """(columns, lines) of candidates by origin and draw: numbers, medians of scores, refusals by check."""
    names, order = {name: 0 for group in tally.draws.values() for name in group.scores}, list(tally.origins)
    groups = sorted(tally.draws.items(), key=lambda one: (order.index(one[0][0]), one[0][1]))
    lines = [(origin, str(number or ""), f"{group.drawn:,}", f"{group.passed:,}", f"{group.chosen:,}",
              *(value((quantiles(group.scores[name]) or {}).get("p50")) for name in names),
              ", ".join(f"{check} {count:,}" for check, count in group.objections.most_common()))
             for (origin, number), group in groups]
    return ("origin", "draw", "candidates", "passed", "chosen", *(f"{name}, median" for name in names),
            "refused by"), lines


def engines(tally: Tally) -> Lines:
    """(engine, tokens read, tokens written, and of a judge: scores, mean, failed, first error) of the replies
    that the decisions rest on, whenever they were paid for."""
    asked = [(task, spent, ("",) * 4) for task, spent in tally.tokens.items() if task != "judge"]
    asked += [(f"judge {name}", one.tokens, (
        f"{len(one.scores):,}", value(mean(one.scores) if one.scores else None), f"{one.failed:,}",
        one.error or "")) for name, one in sorted(tally.judges.items())]
    return [(name, f"{spent['prompt']:,}", f"{spent['completion']:,}", *more) for name, spent, more in asked]


def screened(folder: Path) -> Lines:
    """(finding, rows, action) from screen.json."""
    found = read(folder / "screen.json", {}, ["options", "flagged"])
    names = {"duplicates": "near-duplicate questions",
             "overlap": f"overlap with {', '.join(found.get('compared_with') or []) or 'nothing'}"}
    return [(what, f"{found[kind]:,} of {found['rows']:,}", found["options"][kind])
            for kind, what in names.items() if found and found[kind] is not None]


def explain(folder: Path, row_id: str) -> None:
    """Print the story of one row of `folder`, or of `folder`/refine for a training run.

    Raises UserError if there are no decisions, or none about this row."""
    # newest first: a stopped run leaves its decisions beside those of an earlier, finished one
    files = [path for place in (folder, folder / "refine") for name in (PARTIAL_DECISIONS, DECISIONS)
             if (path := place / name).is_file()]
    if not files:
        raise UserError(f"--output_dir {folder}: holds no {DECISIONS}; name a folder that "
                        "python -m raft_fast.refine has written")
    for path in files:
        for record in read_lines(path, "row_id", "source"):
            if record and record["row_id"] == row_id:
                print(*map(visible, _story(record)), f"\nfrom {path}", sep="\n")
                return
    raise UserError(f"--explain {row_id}: no such row in {' and '.join(map(str, files))}")


def _story(record: Record) -> Iterator[str]:
    """Question, candidates with scores, objections and verdicts, the choice and its cost."""
    candidates, picks = read_line(record)
    yield f"{record['row_id']} ({record.get('category')})"
    yield from (f"\n{turn['role']}:\n{turn['content']}" for turn in record.get("prompt") or [])
    for one in dict.fromkeys((*candidates, *picks)):
        scores = ", ".join(f"{name} {value(score)}" for name, score in one.scores.items())
        yield f"\n{label(one)}: {scores} {one.no_score or ''}\n{one.text or '(none)'}"
        yield from (f"  {name}: {reason}" for name, reason in one.objections.items() if reason)
        yield from (f"  judge {said.judge}: {value(said.score)} {said.error or ''}" for said in one.verdicts)
    yield f"\nchosen: {', '.join(map(label, picks)) or 'nothing'}: {record.get('why') or ''}"
    yield from (f"{task}: {count['prompt']:,} tokens read, {count['completion']:,} written"
                for task, count in (record.get("tokens") or {}).items())


def _share(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / whole if whole else None)})"
