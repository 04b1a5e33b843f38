"""The files of stage 1: decisions.jsonl, what follows from it, finished folders, shards that join."""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import write_rows
from raft_fast.refinement.candidates import Record, refined_rows
from raft_fast.refinement.summary import Tally
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_json, write_yaml
from raft_fast.run.folder import ENGINES, defaults, differing, meant
from raft_fast.run.option import pinned_by
from raft_fast.run.options import ALL_GROUPS
from raft_fast.run.progress import Reporter

DECISIONS, REFINED, SUMMARY, CONFIG = "decisions.jsonl", "refined.parquet", "summary.json", "config.yaml"
PARTIAL_DECISIONS, PARTIAL_REFINED = "decisions.partial.jsonl", "refined.partial.parquet"
SHARDS, REJECTED, SCREENED = "shards", "rejected.jsonl", "screen.json"
AGAIN = "restore it, or delete it to refine again (replies in journal.jsonl are used again)"
# options that decide what is written; rows, prompts and engines are compared by what is in them
PINNED = sorted(pinned_by(ALL_GROUPS, "rows", "refinement") - {"data", "prompts"} - ENGINES)
DEFAULTS = defaults(ALL_GROUPS)
COUNTED = {"finished", "rows", "origins", *Tally().as_json()}  # what the rows decide


class Outputs:
    """Written line by line under partial names; renamed when the block ends without an error.

    Otherwise what there is stays under the partial names, so that it is not taken for a whole. `settings`
    go into the summary beside what the lines come to, as does `total_rows`: how many rows there were before a
    slice was taken.
    """

    def __init__(self, folder: Path, settings: Record, total_rows: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.total_rows = folder, settings, total_rows
        self.tally = Tally()
        self._lines = (folder / PARTIAL_DECISIONS).open("w", encoding="utf-8")

    def add(self, line: Record) -> None:
        """One row's decision."""
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        self.tally.add(line)

    def summary(self) -> Record:
        return {"finished": True, "rows": {"used": self.tally.rows, "total": self.total_rows},
                **self.tally.as_json(), **self.settings}

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._lines.close()
        lines, rows = (self.folder / name for name in (
            (DECISIONS, REFINED) if error is None else (PARTIAL_DECISIONS, PARTIAL_REFINED)))
        (self.folder / PARTIAL_DECISIONS).replace(lines)
        with lines.open(encoding="utf-8") as file:
            write_rows((row for line in file for row in refined_rows(json.loads(line))), rows)
        if error is None:
            write_json(self.summary(), self.folder / SUMMARY)
            (self.folder / PARTIAL_REFINED).unlink(missing_ok=True)


def made(options: Mapping[str, Any], settings: Record) -> Record:
    """What decides the answers, by name: `options`, and what summary.json says of engines (a URL alone may
    serve any model), the words of prompts and the rows."""
    options = {**DEFAULTS, **options}  # an option that is younger than the folder had its default then
    return {**{f"--{name}": meant(name, options[name]) for name in PINNED}, **settings["engines"],
            **{f"{task}.txt": version for task, version in settings["prompts"].items()},
            "rows of --data": settings.get("data")}


def keep_finished(folder: Path, here: Record) -> None:
    """Raises UserError, naming what differs, if the folder holds finished answers that were `made` of
    anything else than `here`."""
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
    return differing([name for name in here if there[name] != here[name]], there, here)


def shard_folder(output_dir: Path, shard: str) -> Path:
    """Where shard "i/n" of `output_dir` is refined."""
    return output_dir / SHARDS / shard.replace("/", "-of-")


def finished_shards(output_dir: Path) -> list[Path]:
    """The folders of all shards, in order. Raises UserError without shards, with shards of different numbers,
    or if one is not finished."""
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
                        f"({len(missing)} are missing); refine it with --shard {missing[0]}")
    return [shard_folder(output_dir, shard) for shard in shards]


def merge(output_dir: Path, folders: Sequence[Path], reporter: Reporter) -> Record:
    """Join all shards into refined.parquet, decisions.jsonl and summary.json, the same bytes as from a
    run over all rows; returns the summary. One line of each shard is in memory at a time.

    Raises UserError if a shard was refined with other options than the first, or of other rows.
    """
    first, there = folders[0], _made(folders[0]) | _dropped(folders[0])
    for folder in folders[1:]:
        if told := _differing(there, _made(folder) | _dropped(folder)):
            raise UserError(f"{folder}: differs from {first} ({'; '.join(told)}); refine one of them again")
    summaries = [read_json(folder / SUMMARY, AGAIN) for folder in folders]
    used = sum(summary["rows"]["used"] for summary in summaries)
    settings = {key: value for key, value in summaries[0].items() if key not in COUNTED}
    with (
        reporter.phase("join shards", used, "rows") as advance,
        Outputs(output_dir, settings, summaries[0]["rows"]["total"]) as outputs,
    ):
        files = [read_jsonl(folder / DECISIONS, AGAIN, ["row_id"]) for folder in folders]
        for line in chain.from_iterable(zip_longest(*files)):  # as rows were dealt out
            if line is not None:
                outputs.add(line)
                advance(1)
        if outputs.tally.rows != used:  # before anything has its final name
            raise UserError(f"--output_dir {output_dir}: {DECISIONS} of its shards hold {outputs.tally.rows} "
                            f"rows of {used}; refine the one that was cut again")
    config = read_yaml(first / CONFIG, AGAIN)
    write_yaml(config | {"shard": None, "output_dir": str(output_dir)}, output_dir / CONFIG)
    for name in (REJECTED, SCREENED):
        if (first / name).is_file():
            (output_dir / name).write_bytes((first / name).read_bytes())
    return outputs.summary()


def _dropped(folder: Path) -> Record:
    """Rows that screening took out: on another machine it may have compared with other suites."""
    found = read_json(folder / SCREENED, AGAIN, keys=["flagged"]) if (folder / SCREENED).is_file() else {}
    return {"dropped rows": sorted(one["row_id"] for one in found.get("flagged", ()) if one["dropped"])}
