"""The files of stage 1: decisions.jsonl, what its lines come to (summary.json), shards that join."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from raft_fast.data.dataset import write_rows
from raft_fast.engines.asking import Prompts
from raft_fast.refinement import candidates
from raft_fast.refinement.bench import Roles
from raft_fast.refinement.candidates import GOLD, NLL, REWRITE, Record, mean, read_line, refined_rows
from raft_fast.refinement.checks import COMPARING, Case
from raft_fast.refinement.parts import NLL_DIGITS
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_json, write_yaml
from raft_fast.run.folder import ENGINES, defaults, differing, meant
from raft_fast.run.option import pinned_by
from raft_fast.run.options import ALL_GROUPS, RefineOptions
from raft_fast.run.progress import Reporter

DECISIONS, REFINED, SUMMARY, CONFIG = "decisions.jsonl", "refined.parquet", "summary.json", "config.yaml"
PARTIAL_DECISIONS, PARTIAL_REFINED = "decisions.partial.jsonl", "refined.partial.parquet"
SHARDS, REJECTED, SCREENED = "shards", "rejected.jsonl", "screen.json"
AGAIN = "restore it, or delete it to refine again (replies in journal.jsonl are used again)"
# options that decide what is written; rows, prompts and engines are compared by what is in them
PINNED = sorted(pinned_by(ALL_GROUPS, "rows", "refinement") - {"data", "prompts"} - ENGINES)
DEFAULTS = defaults(ALL_GROUPS)
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
REASONS = 3  # that a line names
DECIDING = ("tau", "fused_tau", "fused_least", "judge_stop", "fusion_rounds")


def quantiles(values: Sequence[float]) -> dict[str, float] | None:
    """p00 (the least) to p100 (the most); None without values."""
    return {f"p{round(100 * at):02d}": float(np.quantile(values, at)) for at in QUANTILES} if values else None


@dataclass
class Group:
    """Candidates of one origin, or of one of its draws."""

    drawn: int = 0
    passed: int = 0
    chosen: int = 0
    objections: Counter[str] = field(default_factory=Counter)
    scores: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, one: candidates.Candidate, chosen: bool) -> None:
        self.drawn += 1
        self.passed += one.passed
        self.chosen += chosen
        self.objections.update(name for name, reason in one.objections.items() if reason is not None)
        for name, value in one.scores.items():
            self.scores[name].extend([value] if value is not None else [])


@dataclass
class Judged:
    """One judge: its scores, failures with the first error, and tokens."""

    scores: list[float] = field(default_factory=list)
    failed: int = 0
    error: str | None = None
    tokens: Counter[str] = field(default_factory=lambda: Counter(prompt=0, completion=0))

    def add(self, said: candidates.Verdict) -> None:
        self.tokens.update(prompt=said.reply.prompt_tokens, completion=said.reply.completion_tokens)
        self.scores.extend([said.score] if said.score is not None else [])
        self.failed += said.score is None
        self.error = self.error or said.error


@dataclass
class Tally:
    """Counts over the lines of decisions.jsonl: `origins["fused"]` has all fusions, `draws["fused", 2]` those
    of the second round. `passed`: rows with a candidate that passed, the gold answer aside. `nlls`: (gold
    answer, training answer) of each row."""

    rows: int = 0
    passed: int = 0
    too_long: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    origins: defaultdict[str, Group] = field(default_factory=lambda: defaultdict(Group))
    draws: defaultdict[tuple[str, int], Group] = field(default_factory=lambda: defaultdict(Group))
    tokens: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    judges: defaultdict[str, Judged] = field(default_factory=lambda: defaultdict(Judged))
    nlls: list[tuple[float, float]] = field(default_factory=list)

    def add(self, line: Record) -> None:
        """One row's line."""
        everyone, picks = read_line(line)
        for one in everyone:
            chosen = any(one is pick for pick in picks)
            self.origins[one.origin].add(one, chosen)
            self.draws[one.origin, one.number].add(one, chosen)
            for said in one.verdicts:
                self.judges[said.judge].add(said)
        self.rows += 1
        self.passed += any(one.passed for one in everyone if one.origin != GOLD)
        self.too_long += any(Case("", one.row.gold, one.reply).too_long for one in everyone)
        self.sources.update(pick.origin for pick in picks)
        for task, spent in (line.get("tokens") or {}).items():
            self.tokens[task].update(spent)
        gold, training = everyone[0].scores.get(NLL), picks[0].scores.get(NLL) if picks else None
        if gold is not None and training is not None:
            self.nlls.append((gold, training))

    def as_json(self) -> dict[str, Any]:
        """The part of summary.json that the rows decide."""
        rewrites = self.origins[REWRITE]
        others = {name: {
            "drawn": one.drawn, "passed": one.passed, "chosen": one.chosen,
            "objections": dict(sorted(one.objections.items())),
            "scores": {score: quantiles(found) for score, found in sorted(one.scores.items())},
        } for name, one in sorted(self.origins.items()) if name not in (GOLD, REWRITE, candidates.FUSED)}
        return {
            "sources": {**dict.fromkeys((GOLD, REWRITE, candidates.FUSED), 0), **self.sources},
            "passed_filter": self.passed,
            "too_long": self.too_long,
            "objections": dict(sorted(rewrites.objections.items())),
            "similarity": quantiles(rewrites.scores[candidates.SIMILARITY]),
            "judges": {name: {
                "scores": len(one.scores), "failed": one.failed, "tokens": dict(one.tokens),
                "mean": mean(one.scores) if one.scores else None,
            } for name, one in sorted(self.judges.items())},
            "tokens": {task: dict(spent) for task, spent in self.tokens.items()},
            "supervision_gap": self._supervision_gap(),
            **({"origins": others} if others else {}),
        }

    def _supervision_gap(self) -> dict[str, Any] | None:
        """NLL(gold) - NLL(training answer) in nats a token, every row counting the same."""
        if not self.nlls:
            return None
        gold, training = np.mean(self.nlls, 0).tolist()
        return {"rows": len(self.nlls), "gold": round(gold, NLL_DIGITS),
                "training": round(training, NLL_DIGITS), "gap": round(gold - training, NLL_DIGITS)}


def settings(options: RefineOptions, roles: Roles, prompts: Prompts, seed: int) -> dict[str, Any]:
    """The part of summary.json that does not depend on the rows."""
    judges = [engine.identity for engine in roles.judges]
    return {
        **{name: getattr(options, name) for name in DECIDING},
        "quorum": options.quorum or len(judges) // 2 + 1,
        "engines": {"rewriter": roles.rewriter.identity, "fuser": roles.fuser and roles.fuser.identity,
                    "judges": judges},
        "fuser_is_judge": roles.fuser is not None and roles.fuser.identity in judges,
        "prompts": {prompt.name: prompt.version for prompt in prompts},
        "seed": seed,
    }


def outcome(summary: dict[str, Any]) -> list[str]:
    """What came of the rows, in sentences; why, if no answer can be used."""
    rows, passed = summary["rows"]["used"], summary["passed_filter"]
    sources = ", ".join(f"{count:,} {source}" for source, count in summary["sources"].items() if count)
    what = "rows have an answer that passed" if "origins" in summary else "rewrites passed the filter"
    lines = [f"{passed:,} of {rows:,} {what}; training answers: {sources}"]
    if long := summary.get("too_long"):
        lines[0] += f"; {long:,} too long for the checks {', '.join(COMPARING)}"
    if not passed:
        told = ", ".join(f"{name} {count:,}" for name, count in
                         Counter(summary["objections"]).most_common(REASONS))
        lines.append(f"nothing was refined: every row keeps its gold answer. Refused by: {told}; report.html "
                     "shows examples, decisions.jsonl every row")
    return lines


COUNTED = {"finished", "rows", "origins", *Tally().as_json()}  # what the rows decide


def write(folder: Path, lines: Iterable[Record], settings: Record, total_rows: int) -> Record:
    """decisions.jsonl with the lines as they come, then refined.parquet and summary.json, which is returned:
    what the lines come to, `settings`, and how many rows there were before a slice was taken. On an error,
    what came stays under partial names."""
    folder.mkdir(parents=True, exist_ok=True)
    tally, rows = Tally(), []
    try:
        with (folder / PARTIAL_DECISIONS).open("w", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
                tally.add(line)
                rows += refined_rows(line)
    except BaseException:
        write_rows(rows, folder / PARTIAL_REFINED)
        raise
    (folder / PARTIAL_DECISIONS).replace(folder / DECISIONS)
    write_rows(rows, folder / REFINED)
    summary = {"finished": True, "rows": {"used": tally.rows, "total": total_rows}, **tally.as_json(),
               **settings}
    write_json(summary, folder / SUMMARY)
    (folder / PARTIAL_REFINED).unlink(missing_ok=True)
    return summary


def made(options: Mapping[str, Any], settings: Record) -> Record:
    """What decides the answers, by name: `options`, and what summary.json says of engines (a URL alone may
    serve any model), the words of prompts and the rows."""
    options = {**DEFAULTS, **options}  # an option that is younger than the folder had its default then
    return {**{f"--{name}": meant(name, options[name]) for name in PINNED}, **settings["engines"],
            **{f"{task}.txt": version for task, version in settings["prompts"].items()},
            "rows of --data": settings.get("data")}


def keep_finished(folder: Path, here: Record) -> None:
    """Raises UserError, naming what differs, if the folder holds finished answers `made` of other things."""
    if _finished(folder) and (told := _differing(_made(folder), here)):
        raise UserError(
            f"--output_dir {folder}: holds finished answers of other options ({'; '.join(told)}); choose "
            "another --output_dir, or --overwrite true to replace them (replies in its journal.jsonl are "
            "used again)")


def _finished(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (SUMMARY, CONFIG, DECISIONS, REFINED))


def _made(folder: Path) -> Record:
    summary = read_json(folder / SUMMARY, AGAIN, keys=["engines", "prompts", "rows"])
    return made(read_yaml(folder / CONFIG, AGAIN), summary)


def _differing(there: Record, here: Record) -> list[str]:
    return differing([name for name in there if there[name] != here[name]], there, here)


def shard_folder(output_dir: Path, shard: str) -> Path:
    """Where shard "i/n" of `output_dir` is refined."""
    return output_dir / SHARDS / shard.replace("/", "-of-")


def finished_shards(output_dir: Path) -> list[Path]:
    """The folders of all shards, in order. Raises UserError for none, other numbers, or unfinished ones."""
    names = [match for path in (output_dir / SHARDS).glob("*-of-*")
             if (match := re.fullmatch(r"(\d+)-of-(\d+)", path.name))]
    counts = sorted({int(match[2]) for match in names})
    if len(counts) != 1:
        raise UserError(f"--output_dir {output_dir}: has " + (
            f"shards of {counts[0]} and of {counts[1]}; remove those of one kind from {output_dir / SHARDS}"
            if counts else "no shards; refine them with --shard 1/n to n/n"))
    shards = [f"{number}/{counts[0]}" for number in range(1, counts[0] + 1)]
    if missing := [shard for shard in shards if not _finished(shard_folder(output_dir, shard))]:
        raise UserError(f"--output_dir {output_dir}: shard {missing[0]} is not finished "
                        f"(missing: {len(missing)}); refine it with --shard {missing[0]}")
    return [shard_folder(output_dir, shard) for shard in shards]


def merge(output_dir: Path, folders: Sequence[Path], reporter: Reporter, overwrite: bool = False) -> Record:
    """Join all shards into the same bytes as from a run over all rows; returns the summary. One line of each
    shard is in memory. Raises UserError if a shard was refined with other options than the first, or of other
    rows, and unless `overwrite` as `keep_finished`."""
    first, there = folders[0], _made(folders[0]) | _dropped(folders[0])
    for folder in folders[1:]:
        if told := _differing(there, _made(folder) | _dropped(folder)):
            raise UserError(f"{folder}: differs from {first} ({'; '.join(told)}); refine one of them again")
    if not overwrite:
        keep_finished(output_dir, there)
    summaries = [read_json(folder / SUMMARY, AGAIN) for folder in folders]
    used = sum(summary["rows"]["used"] for summary in summaries)
    settings = {key: value for key, value in summaries[0].items() if key not in COUNTED}

    def lines() -> Iterator[Record]:
        count = 0
        with reporter.phase("join shards", used, "rows") as advance:
            files = [read_jsonl(folder / DECISIONS, AGAIN, ["row_id"]) for folder in folders]
            for line in filter(None, chain.from_iterable(zip_longest(*files))):  # as rows were dealt out
                yield line
                advance(1)
                count += 1
        if count != used:  # before anything has its final name
            raise UserError(f"--output_dir {output_dir}: {DECISIONS} of its shards hold {count} rows of "
                            f"{used}; refine the one that was cut again")

    summary = write(output_dir, lines(), settings, summaries[0]["rows"]["total"])
    config = read_yaml(first / CONFIG, AGAIN)
    write_yaml(config | {"shard": None, "output_dir": str(output_dir)}, output_dir / CONFIG)
    for name in (REJECTED, SCREENED):
        if (first / name).is_file():
            (output_dir / name).write_bytes((first / name).read_bytes())
    return summary


def _dropped(folder: Path) -> Record:
    """Rows that screening took out: on another machine it may have compared with other suites."""
    found = read_json(folder / SCREENED, AGAIN, keys=["flagged"]) if (folder / SCREENED).is_file() else {}
    return {"dropped rows": sorted(one["row_id"] for one in found.get("flagged", ()) if one["dropped"])}
