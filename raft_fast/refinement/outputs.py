"""The files of stage 1: decisions.jsonl, what follows from it, finished folders, shards that join."""

import fcntl
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from raft_fast.data.dataset import RowWriter
from raft_fast.refinement.candidates import Record, refined_rows
from raft_fast.refinement.summary import Tally
from raft_fast.run.errors import UserError
from raft_fast.run.files import read_json, read_jsonl, read_yaml, write_json, write_yaml
from raft_fast.run.folder import ENGINES, differing, first_of, meant
from raft_fast.run.option import pinned_by
from raft_fast.run.options import ALL_GROUPS
from raft_fast.run.progress import Reporter

DECISIONS, REFINED, SUMMARY, CONFIG = "decisions.jsonl", "refined.parquet", "summary.json", "config.yaml"
PARTIAL_DECISIONS, PARTIAL_REFINED = "decisions.partial.jsonl", "refined.partial.parquet"
PARTIAL_SUMMARY, PARTIAL_CONFIG = "summary.partial.json", "config.partial.yaml"
SHARDS, REJECTED, SCREENED = "shards", "rejected.jsonl", "screen.json"
AGAIN = "restore it, or delete it and refine this shard again (replies in journal.jsonl are used again)"
ANEW = "restore it, or delete it to write the answers again (replies in journal.jsonl are used again)"
PROMPTS = "prompts"  # compared by their words, not by their folder
ROWS = ("data", "max_rows", "seed")  # which rows are taken
# options that decide what is written; the rows themselves are compared, not what their file is called
PINNED = pinned_by(ALL_GROUPS, "rows", "refinement") - {"data"}
# keys of a shard's summary that may differ from another's
COUNTED = {"finished", "rows", "origins", *Tally().as_json()}


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
        self._rows = RowWriter(folder / REFINED, folder / PARTIAL_REFINED)

    def add(self, line: Record) -> None:
        """One row's decision."""
        self._lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        for row in refined_rows(line):
            self._rows.write(row)
        self.tally.add(line)

    def summary(self, finished: bool) -> Record:
        return {"finished": finished,
                "rows": {"used": self.tally.rows, "total": self.total_rows},
                **self.tally.as_json(), **self.settings}

    def __enter__(self) -> "Outputs":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._lines.close()
        if error is None:
            (self.folder / PARTIAL_DECISIONS).replace(self.folder / DECISIONS)
        self._rows.__exit__(kind, error, trace)
        write_json(self.summary(finished=error is None),
                   self.folder / (SUMMARY if error is None else PARTIAL_SUMMARY))
        if error is None:
            (self.folder / PARTIAL_SUMMARY).unlink(missing_ok=True)


def keep_finished(folder: Path, options: Mapping[str, Any], defaults: Mapping[str, Any], data: str,
                  prompts: Mapping[str, str]) -> None:
    """Raises UserError, naming what differs, if the folder holds finished answers that these options would
    replace by others.

    `options` and their `defaults` are by name, `data` is the hash of the rows, `prompts` are their versions.
    """
    if not all((folder / name).is_file() for name in (SUMMARY, CONFIG, DECISIONS, REFINED)):
        return
    summary = read_json(folder / SUMMARY, ANEW)
    # an option that is younger than the folder had its default then
    there = {**defaults, **read_yaml(folder / CONFIG, ANEW)}
    names, told = {*options} & PINNED - {PROMPTS}, []

    def differ(names: Iterable[str]) -> list[str]:
        return differing([name for name in sorted(names) if meant(name, there.get(name))
                          != meant(name, options.get(name))], there, options)

    if summary.get("data") not in (None, data):
        told = differ(ROWS) or [f"the rows of {options['data']} have changed"]
        names -= {*ROWS}
    told += differ(names)
    if summary.get(PROMPTS, prompts) != prompts:
        told.append("the words of the prompts differ")
    if told:
        raise UserError(
            f"--output_dir {folder}: holds finished answers of other options ({first_of(told)}); choose "
            "another --output_dir, or --overwrite true to replace them (replies in its journal.jsonl are "
            "used again)")


def shard_folder(output_dir: Path, shard: str) -> Path:
    """Where shard "i/n" of `output_dir` is refined."""
    return output_dir / SHARDS / shard.replace("/", "-of-")


def unfinished(output_dir: Path, like: Path | None = None) -> list[str]:
    """The shards "i/n" that are still to be refined; with `like`, the folder of a finished shard, also
    those whose files come from other options or rows. Raises UserError without shards, or with shards of
    different numbers."""
    found = [match for path in (output_dir / SHARDS).glob("*-of-*")
             if (match := re.fullmatch(r"(\d+)-of-(\d+)", path.name))]
    if not found:
        raise UserError(f"--output_dir {output_dir}: has no shards; refine them with --shard 1/n to n/n")
    counts = sorted({int(match[2]) for match in found})
    if len(counts) > 1:
        raise UserError(f"--output_dir {output_dir}: has shards of {counts[0]} and of {counts[1]}; "
                        f"remove those of one kind from {output_dir / SHARDS}")
    shards = [f"{number}/{counts[0]}" for number in range(1, counts[0] + 1)]

    def finished(folder: Path) -> bool:
        whole = all((folder / name).is_file() for name in (CONFIG, DECISIONS, SUMMARY))
        return whole and (like is None or not _differing(_made(like), _made(folder)))

    return [shard for shard in shards if not finished(shard_folder(output_dir, shard))]


def merge(output_dir: Path, reporter: Reporter) -> Record:
    """Join all shards into refined.parquet, decisions.jsonl and summary.json, the same bytes as from a
    run over all rows; returns the summary. One line of each shard is in memory at a time.

    Raises UserError if a shard is missing or was refined with other options.
    """
    if missing := unfinished(output_dir):
        raise UserError(f"--output_dir {output_dir}: shard {missing[0]} is not finished "
                        f"({len(missing)} are missing); refine it with --shard {missing[0]}")
    folders = sorted((output_dir / SHARDS).glob("*-of-*"), key=lambda path: int(path.name.split("-")[0]))
    first, made = folders[0], _made(folders[0])
    for folder in folders[1:]:
        here = _made(folder)
        if names := _differing(made, here):
            raise UserError(f"{folder}: was refined with {names[0]} {here[names[0]]}, and {first} with "
                            f"{made[names[0]]}; refine one of them again")
    summaries = [_summary(folder) for folder in folders]
    counts = [summary["rows"]["used"] for summary in summaries]
    used = sum(counts)
    if counts != [len(range(at, used, len(counts))) for at in range(len(counts))]:
        raise UserError(f"--output_dir {output_dir}: its shards are not of the same rows; refine "
                        "them again from the same --data")
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
    return outputs.summary(finished=True)


def _summary(folder: Path) -> Record:
    return dict(read_json(folder / SUMMARY, AGAIN, keys=["rows"]))


def _made(folder: Path) -> Record:
    """What decided the answers of a finished shard, by name: options, what summary.json says of engines,
    prompts and rows, and what screening dropped. A URL alone may serve any model: only the summary knows."""
    config, summary = read_yaml(folder / CONFIG, AGAIN), _summary(folder)
    options = {name: meant(name, config.get(name)) for name in sorted(PINNED)}
    flagged = read_json(folder / SCREENED, AGAIN, keys=["flagged"])["flagged"] if (
        folder / SCREENED).is_file() else []
    return {**{f"--{name}": value for name, value in options.items()
               if not (name in ENGINES and any("://" in spec for spec in value))},
            **{key: value for key, value in summary.items() if key not in COUNTED},
            "total rows": summary["rows"]["total"],
            "dropped rows": sorted(one["row_id"] for one in flagged if one["dropped"])}


def _differing(one: Record, other: Record) -> list[str]:
    return [name for name in one if name in other and one[name] != other[name]]


@contextmanager
def joining(output_dir: Path) -> Iterator[None]:
    """Keeps two shards that finish together from joining at once. Raises UserError without shards."""
    if not (output_dir / SHARDS).is_dir():
        raise UserError(f"--output_dir {output_dir}: has no shards")
    with (output_dir / SHARDS / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
